/* SPDX-License-Identifier: Apache-2.0 */
/* A pool: the instances of one loaded version, from the control thread's side. It starts them, tells the connection
 * threads to attach, restarts them by the supervisor's rules, and takes them down when the version goes.
 *
 *     pool_open → … ready (all instances up, on all threads) … → pool_close → closed
 *             └→ failed (a load failed; the pool closes by itself) ──────→ closed
 *
 * Thread: control. */
#ifndef WEIR_INFERENCE_POOL_H
#define WEIR_INFERENCE_POOL_H

#include "inference/engine.h"
#include "inference/sched.h"
#include "inference/shard.h"

struct pool;
struct pool_spec {
    const char *name; /* "intent/2" */
    const char *backend;
    const char *library;         /* may be NULL */
    const char *program;         /* of worker processes; may be NULL. Stays valid as long as the pool */
    int dirfd;                   /* duplicated */
    const struct far_place *far; /* copied; NULL: it is here */
    bool on_thread;              /* the engine runs on the connection threads themselves (inline) */
    unsigned instances;          /* 1 … INSTANCES_MAX; 1 if on_thread */
    const char *device;          /* "cpu", "cuda:0"; NULL: cpu */
    struct device_lane *lane;    /* of the device; NULL: none (the processor) */
    unsigned threads;            /* 0: measured */
    unsigned threads_max;
    struct batch_rule batch;
    uint64_t memory_max; /* of one instance; 0: no limit */
    bool strict;         /* sandbox: required */
    uint64_t run_max_us;
    uint64_t queue_requests, queue_bytes;
    uint64_t timeout_us; /* deadline of requests that name none */
    uint64_t part_bytes; /* of the input window a thread; at least twice the largest body */
    uint64_t out_bytes;  /* output space a port */
    unsigned slot;       /* free in every shard */
};
struct pool_events {
    void (*ready)(void *ctx, struct pool *p);
    void (*failed)(void *ctx, struct pool *p, const struct err *why);
    void (*sick)(void *ctx, struct pool *p,
                 const struct err *last);      /* five own deaths in 60 s; restarts go on until pool_close */
    void (*closed)(void *ctx, struct pool *p); /* p is freed after it returns */
};
enum err_code pool_open(struct pool **out, const struct pool_spec *spec, const struct engine_ops *ops,
                        struct loop *loop, struct shard *const *shards, unsigned n_shards, const struct pool_events *on,
                        void *ctx, struct err *e) MUST_USE;
/* No request names this version any more. What it still has may finish for drain_us, then it is moved. Ends in
 * closed(). */
void pool_close(struct pool *p, uint64_t drain_us);
void pool_tell(struct pool *p, void *ctx); /* its events go there from now on */

const struct model_info *pool_info(const struct pool *p); /* after ready */
const struct sched_shared *pool_shared(const struct pool *p);
unsigned pool_instances(const struct pool *p);
struct pool_instance {
    const char *state;           /* "starting", "ready", "restarting" */
    const struct engine *engine; /* NULL while restarting */
    uint64_t deaths, own_deaths;
    const char *last_end; /* why it ended last; NULL: it never did. Valid until the next event */
};
void pool_instance(const struct pool *p, unsigned i, struct pool_instance *out);
bool pool_productive(const struct pool *p); /* ready once, and SUPERVISOR_PRODUCTIVE jobs answered */

#endif
