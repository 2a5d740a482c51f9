/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the remote engine share.
 *
 *     remote.c  the engine on the control loop          port.c  jobs, one a connection thread
 *     side.c    the errand: a thread that may block     conn.c  a connection: bytes out, a reply in
 *     give.c    what the errand does at a weir://       far.c   jobs as requests, replies as tensors
 *
 * The errand may sit in the resolver when the engine ends. So what it works on, struct side, has a life of its own, and
 * is freed by the last of the engine and the thread.
 *
 * The engine outlives its ports: n_holds counts them from READY on, and one more for itself; who lets go last posts
 * `reap` to the control loop and touches the engine no more. */
#ifndef WEIR_BACKENDS_REMOTE_REMOTE_PRIV_H
#define WEIR_BACKENDS_REMOTE_REMOTE_PRIV_H

#include <sys/queue.h>

#include "backends/remote/far.h"
#include "backends/remote/remote.h"
#include "backends/remote/target.h"
#include "base/url.h"
#include "client/reply.h"

/* ---- side.c ---- */
#define SIDE_LOAD_US 10000000ull  /* how long a load asks */
#define SIDE_GONE_US 2000000ull   /* nobody can be reached: it is dead */
#define SIDE_SILENT_US 5000000ull /* nobody answers: it is dead */
#define SIDE_LOOK_US 1000000ull   /* how often it is asked whether it is ready, unless it answers jobs */
#define SIDE_HURRY_US 200000ull   /* the same after an alarm */
#define SIDE_RESOLVE_US 30000000ull

enum side_news { SIDE_UP, SIDE_FAILED, SIDE_DEAD };
/* On the control loop. info is the listener's during the call. At most UP, and one of the others. */
typedef void side_fn(void *ctx, enum side_news news, const struct model_info *info, const struct err *why);
struct side {
    /* immutable once the thread runs */
    struct url url;
    char *place; /* as it was written, for messages */
    char *model;
    char version[TENSOR_NAME_MAX + 1]; /* weir://: set by the errand before it tells UP */
    char *digest, *token_file;         /* NULL: none */
    int dirfd;                         /* weir://: the version's folder */
    struct loop *loop;                 /* control's */
    side_fn *on;
    void *ctx;
    struct targets targets;
    _Atomic uint64_t answered_us; /* when it last answered a job as it should */
    _Atomic bool away;            /* it was not ready when it was asked last: nothing is sent, jobs wait */
    _Atomic bool alarm;
    /* private */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopped;
    _Atomic unsigned refs;
    /* the errand's */
    bool by_metadata; /* it has no route for ready */
    bool loaded;
    uint64_t hold_us; /* weir://: so long it keeps the version */
};
enum err_code side_start(struct side **out, const struct far_place *at, int dirfd, struct loop *loop, side_fn *on,
                         void *ctx, struct err *e) MUST_USE;
/* Nothing is told from now on; s is not the caller's any more. Control thread. */
void side_stop(struct side *s);
/* Something is wrong with it: looks soon. Any thread that the engine outlives; cheap. */
void side_alarm(struct side *s);

/* ---- give.c: weir:// ---- */
/* Has one far side hold the version, *number there, for *hold_us. ERR_REFUSED: to ask again is of no use. */
enum err_code side_give(struct side *s, const struct addr *at, uint64_t *number, uint64_t *hold_us,
                        struct err *e) MUST_USE;

/* ---- remote.c ---- */
struct remote {
    struct engine base;
    struct engine_host host;
    char name[TENSOR_NAME_MAX + 1];
    unsigned ports;
    uint32_t batch_max;
    uint64_t out_bytes;
    struct window *in;
    struct side *side;
    struct far far;         /* its strings are the side's */
    struct model_info info; /* after READY */
    struct engine_end end;
    struct err why;    /* before death_fd is written: what ports tell of its end */
    _Atomic bool dead; /* why is set */
    int death_fd;      /* an eventfd: readable once it is dead */
    bool ready, ended;
    _Atomic unsigned n_holds;
    _Atomic uint32_t out; /* jobs on their way, of all ports */
    struct task reap;
};
void remote_let_go(struct remote *r); /* of one hold. Any thread */

/* ---- port.c ---- */
#define PORT_JOBS 256
#define PORT_CONNS 64 /* connections of one thread to one far side */

enum job_state { JOB_FREE, JOB_WAITING, JOB_SENT, JOB_OVER };
struct conn;
struct remote_job {
    TAILQ_ENTRY(remote_job) next; /* in waiting or in over */
    enum job_state state;
    uint64_t id, deadline_us, block;
    uint64_t queued_us, retry_us; /* not before retry_us */
    unsigned tries;               /* how often it was sent without an answer */
    bool stale;                   /* a connection that had been kept was found closed */
    unsigned avoid;               /* target where it went wrong; UINT_MAX: none */
    struct conn *conn;
    struct err why; /* over */
};
TAILQ_HEAD(job_list, remote_job);

struct remote_port {
    struct port base;
    struct remote *r;
    struct port_host host;
    struct watch death;
    int death_fd; /* our own copy */
    struct hook work, down;
    struct timer tick;
    struct remote_job job[PORT_JOBS];
    uint16_t free[PORT_JOBS];
    unsigned n_free;
    struct job_list waiting, over;
    struct conn *conn[PORT_CONNS];
    unsigned n_out; /* jobs sent */
    /* How many may be: less after each 503, more with each answer (AIMD), in hundredths. */
    unsigned limit;
    uint64_t shrunk_us;
    struct retry_budget budget;
    uint64_t held; /* bytes of replies that are not whole yet */
    uint8_t *space;
    struct tensor *out;
    bool dead;
    char in[64u << 10];
};
enum err_code remote_port_attach(struct engine *g, const struct port_host *host, struct port **out, struct err *e);
void remote_port_detach(struct port *p);
enum err_code remote_port_submit(struct port *p, const struct job *j, struct err *e);
void remote_port_flush(struct port *p);
void remote_port_cancel(struct port *p, uint64_t id);

/* ---- conn.c ---- */
enum conn_state { CONN_CLOSED, CONN_CONNECTING, CONN_BUSY, CONN_IDLE };
struct conn {
    struct watch watch;
    struct remote_port *port;
    enum conn_state state;
    struct target_pick target;
    struct remote_job *job; /* CONNECTING and BUSY */
    bool used;              /* it has carried a reply */
    bool want_out;          /* EPOLLOUT is watched */
    uint64_t since_us;      /* of the state; BUSY: when the job was given to it */
    struct buf head;
    struct iovec *iov;
    size_t cap_iov, n_iov, at_iov;
    uint64_t sent; /* bytes */
    struct reply reply;
    struct http_answer answer;
    uint64_t counted; /* its part of port->held */
};
struct conn *conn_new(struct remote_port *p);
void conn_free(struct conn *c); /* NULL is fine */
/* Begins to connect. ERR_UNAVAILABLE: it can not. */
enum err_code conn_open(struct conn *c, struct target_pick target, struct err *e) MUST_USE;
/* Gives it a job, and sends what goes now; CONNECTING or IDLE. False: no memory. */
bool conn_give(struct conn *c, struct remote_job *j, uint64_t now_us) MUST_USE;
void conn_close(struct conn *c); /* fine if it is closed; its job is the caller's matter */
/* What comes of it, from the loop: a whole reply, in c->answer, the connection is idle or closed by then; or its end,
 * closed. why: of the end. */
void port_replied(struct conn *c);
void port_broken(struct conn *c, enum target_end end, const struct err *why);
/* True if more of replies is held than a port may. */
bool port_holds_too_much(const struct remote_port *p);

#endif
