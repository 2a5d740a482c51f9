/* SPDX-License-Identifier: Apache-2.0 */
/* What worker.c (the process, control thread) and port.c (one a connection thread) share.
 *
 * The engine outlives its ports: n_holds counts them from READY on, attached or not yet, and one more for the process
 * itself; who lets go last posts `reap` to the control loop and touches the engine no more. */
#ifndef WEIR_BACKENDS_WORKER_WORKER_PRIV_H
#define WEIR_BACKENDS_WORKER_WORKER_PRIV_H

#include <stdatomic.h>

#include "backends/worker/limits.h"
#include "backends/worker/said.h"
#include "backends/worker/watchdog.h"
#include "backends/worker/worker.h"
#include "inference/wire.h"

struct worker {
    struct engine base;
    struct engine_host host;
    char name[TENSOR_NAME_MAX + 1];
    unsigned ports;
    uint64_t out_bytes, exchange_size;
    struct window *in;
    pid_t pid;
    int pidfd, sock, exchange_fd, exec_bell;
    int *bells; /* one a port */
    struct wire_exchange *x;
    struct model_info info; /* after READY */
    struct watch sock_watch, pid_watch;
    struct timer pulse_timer;
    struct task reap; /* posted by the last worker_let_go */
    struct engine_end end;
    struct said said;    /* what it writes to stderr */
    uint64_t memory_max; /* 0: no limit */
    struct cage cage;    /* what holds it to that; none: RLIMIT_DATA */
    struct watchdog watchdog;
    bool ready, dead;
    _Atomic bool closing;      /* it was told to end */
    _Atomic bool killed;       /* condemned, or it said its last words */
    _Atomic(const char *) why; /* it was condemned for */
    _Atomic unsigned n_holds;
    _Atomic bool overdue;         /* a port saw a job that runs past its deadline */
    _Atomic uint64_t longest_run; /* ns, of all completions */
};

extern const struct engine_ops worker_engine;

/* What the kernel says about the end of the process, without reaping it: true if it was its own doing. */
bool worker_died_alone(const struct worker *w);
/* Why it ended, in words: the signal or the status, its memory limit, what it wrote last. Any thread. */
void worker_describe_end(struct worker *w, struct err *e);
/* Says the limit after an error that is one of memory. Any thread. */
void worker_mention_limit(const struct worker *w, struct err *e);
/* Kills the process for breaking the wire's rules; counts as its own death. why: a literal. Any thread. */
void worker_condemn(struct worker *w, const char *why);
void worker_let_go(struct worker *w); /* of one hold. Any thread. */

enum err_code worker_port_attach(struct engine *g, const struct port_host *host, struct port **out, struct err *e);
void worker_port_detach(struct port *p);
enum err_code worker_port_submit(struct port *p, const struct job *j, struct err *e);
void worker_port_flush(struct port *p);
void worker_port_cancel(struct port *p, uint64_t id);

#endif
