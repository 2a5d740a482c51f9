/* SPDX-License-Identifier: Apache-2.0 */
/* Another server for tests, as a thread of this process: it has the models add and spin, version 1, and computes them
 * itself. For sanitizers that a runtime's processes do not go together with.
 *
 * Thread: one at a time. */
#ifndef WEIR_TESTS_SUPPORT_FAR_THREAD_H
#define WEIR_TESTS_SUPPORT_FAR_THREAD_H

#include "inference/engine.h"

void far_thread_start(char *url, size_t cap); /* url: set by the first, and kept from then on; fine if it runs */
void far_thread_stop(void); /* resets all its connections, and listens no more; fine if it does not run */

#endif
