/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of batcher.h. */
#include "inference/batcher.h"
