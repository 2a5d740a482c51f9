/* SPDX-License-Identifier: Apache-2.0 */
/* The executor of a worker process: one thread that pulls jobs from all ports and runs them through the backend's
 * engine.
 *
 * It pulls all that waits, from the ports in turn, into a backlog (at most WIRE_SLOTS a port, for that is what a port
 * may have open), where batches form by the rules of batch.h (who with whom; the oldest job always leads) and batcher.h
 * (how many, and when). A job whose deadline has passed is answered ERR_TIMEOUT when a batch forms, and never run. The
 * executor sleeps on its bell when there is nothing, and for as long as the batcher says. What it is computing stands
 * in the exchange (running[]), so that after a death the server knows which jobs to suspect: those of the backlog are
 * not among them.
 *
 * Thread: executor_start by the main thread; the executor then lives as long as the process. */
#ifndef WEIR_BACKENDS_WORKER_EXECUTOR_H
#define WEIR_BACKENDS_WORKER_EXECUTOR_H

#include "inference/engine.h"
#include "inference/wire.h"

struct executor;
/* bell: the executor's; bells: one a port. rule: delay and SLO; the most rows are the info's. The engine is ready. */
enum err_code executor_start(struct executor **out, struct engine *g, struct wire_exchange *x, struct window *in,
                             unsigned ports, uint64_t out_bytes, int bell, const int *bells,
                             const struct batch_rule *rule, const struct model_info *info, struct err *e) MUST_USE;

#endif
