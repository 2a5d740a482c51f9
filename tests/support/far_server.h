/* SPDX-License-Identifier: Apache-2.0 */
/* Another server for tests: a real `weir serve` on loopback with the models add and spin, each version 1. It keeps its
 * port over restarts, and goes with the test program.
 *
 * Thread: one at a time. */
#ifndef WEIR_TESTS_SUPPORT_FAR_SERVER_H
#define WEIR_TESTS_SUPPORT_FAR_SERVER_H

#include <stdbool.h>

#include "inference/engine.h"

/* Where "add/1" is there; starts the server, and waits until it is ready, if it does not run. Static. */
const struct far_place *far_place(const char *name);
/* From now on it is a thread of this process instead (far_thread.h), which can not be stopped with SIGSTOP. Before the
 * first use. */
void far_use_thread(void);
void far_kill(int sig); /* SIGKILL: and waits for its end; SIGSTOP: leaves it so until far_kill(SIGKILL) */
void far_start(void);   /* does not wait until it is ready; fine if it runs */

#endif
