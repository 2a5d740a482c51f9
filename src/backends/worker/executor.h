/* SPDX-License-Identifier: Apache-2.0 */
/* The executor of a worker process: one thread that pulls jobs from all ports and runs them through the backend's
 * engine.
 *
 * It takes no more than fits one run, so that what waits stays where it can be taken back; it looks at the ports in
 * turn; and it sleeps on its bell when there is nothing. What it is computing stands in the exchange (running[]), so
 * that after a death the server knows which jobs to suspect.
 *
 * Thread: executor_start by the main thread; the executor then lives as long as the process. */
#ifndef WEIR_BACKENDS_WORKER_EXECUTOR_H
#define WEIR_BACKENDS_WORKER_EXECUTOR_H

#include "inference/engine.h"
#include "inference/wire.h"

struct executor;
/* bell: the executor's; bells: one a port. The engine is ready. */
enum err_code executor_start(struct executor **out, struct engine *g, struct wire_exchange *x, struct window *in,
                             unsigned ports, uint64_t out_bytes, int bell, const int *bells,
                             const struct model_info *info, struct err *e) MUST_USE;

#endif
