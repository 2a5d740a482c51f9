/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker process can be that is not as it should: for tests of the server's end of it.
 *
 * The probe is an engine that worker_main hosts like any other, and that tries to get out of the sandbox; what came of
 * each attempt is its output. The liar needs no sandbox: it is a process that speaks the wire itself, wrongly in one
 * chosen way.
 *
 * Thread: the process's own. */
#ifndef WEIR_TESTS_SUPPORT_HOSTILE_WORKER_H
#define WEIR_TESTS_SUPPORT_HOSTILE_WORKER_H

#include "inference/engine.h"

/* Takes x FP32 [n,4]; gives INT32 [2, PROBE_COUNT]: the errno of each attempt, or 0 where it went well; first as it was
 * in open(), on the main thread, then in flush(), on the executor's. */
extern const struct engine_ops probe_engine;
struct probe {
    const char *name;
    bool allowed;  /* one that must go well, so that the others' failing means something */
    bool landlock; /* denied by Landlock alone */
};
extern const struct probe probes[];
extern const size_t probe_count;

/* `weir worker liar/LIE`: never returns to main. */
int liar_main(const char *name);
/* What a lie must lead to. */
struct lie {
    const char *name;
    bool ready;    /* it becomes ready before the lie shows */
    bool harmless; /* jobs are answered all the same */
};
extern const struct lie lies[];
extern const size_t lie_count;

#endif
