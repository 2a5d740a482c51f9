/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of admission.h. */
#include "inference/admission.h"
