/* SPDX-License-Identifier: Apache-2.0 */
/* The worker place: an engine that is a supervised, sandboxed child process.
 *
 * In the server, worker_engine is a stub: it starts `weir worker`, hands it the version's folder and two windows of
 * memory, and then speaks with it through the exchange (inference/wire.h). In the child, worker_main hosts any library
 * backend behind the same engine contract and runs it on an executor thread.
 *
 * A process is started on the control loop, from whose thread it is a direct child: it is killed by the kernel when the
 * server dies. It is watched by pidfd from every loop that has a port. */
#ifndef WEIR_BACKENDS_WORKER_WORKER_H
#define WEIR_BACKENDS_WORKER_WORKER_H

#include <sys/types.h>

#include "inference/engine.h"

extern const struct engine_ops worker_engine;

/* The child's pid, for people; 0 when it has none (yet, or any more). Control thread. */
pid_t worker_pid(const struct engine *g);

/* What a backend is to the child: its engine, and what must be loaded before the sandbox closes. */
struct worker_backend {
    const char *name; /* as in engine_spec.backend */
    const struct engine_ops *ops;
    enum err_code (*preload)(const char *library, const char *device, struct err *e); /* may be NULL */
};
/* `weir worker`: speaks on descriptor 3 until the server closes it. Returns the process's exit status. */
int worker_main(const struct worker_backend *backends, size_t n);

#endif
