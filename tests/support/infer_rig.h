/* SPDX-License-Identifier: Apache-2.0 */
/* A version in service without a server around it: a pool, connection threads (real ones, or all on the test's own
 * loop) and requests whose answers are checked. For the models of fake_engine.h, on any engine that serves them.
 *
 * Thread: the test's; with `threads` each shard has one of its own, and rig requests are then sent by infer_load only.
 */
#ifndef WEIR_TESTS_SUPPORT_INFER_RIG_H
#define WEIR_TESTS_SUPPORT_INFER_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "inference/pool.h"

#define INFER_SHARDS 4

struct infer_rig {
    struct loop *loop; /* control */
    struct shard shards[INFER_SHARDS];
    struct shard *shard_list[INFER_SHARDS];
    pthread_t thread[INFER_SHARDS];
    unsigned n_shards;
    bool threads;
    struct pool *pool; /* NULL after closed */
    unsigned ready, failed, sick, closed;
    struct err why;         /* of the last failed or sick */
    _Atomic unsigned loads; /* infer_load's that are not over */
};

/* Ends the test with a message when `cond` is not true within 30 s; goes on with the rig's loop meanwhile. */
#define INFER_UNTIL(r, cond)                                    \
    do {                                                        \
        uint64_t until_ = infer_limit();                        \
        while (!(cond)) {                                       \
            infer_turn((r), until_, #cond, __FILE__, __LINE__); \
        }                                                       \
    } while (0)
uint64_t infer_limit(void);
void infer_turn(struct infer_rig *r, uint64_t until, const char *what, const char *file, int line);
void infer_turns(struct infer_rig *r, unsigned ms); /* goes on for a while */

/* A spec with everything set but backend's peculiarities: name "add/1", 1 instance, batches of 8, bounds that are far.
 */
struct pool_spec infer_spec(void);
/* Opens the pool; it may not be ready, or have failed, when this returns. */
void infer_begin(struct infer_rig *r, const struct engine_ops *ops, const struct pool_spec *spec, unsigned shards,
                 bool threads);
/* The same, and waits until it is ready. */
void infer_open(struct infer_rig *r, const struct engine_ops *ops, const struct pool_spec *spec, unsigned shards,
                bool threads);
void infer_close(struct infer_rig *r,
                 uint64_t drain_us); /* closes if need be, waits for closed, takes everything down */

struct infer_req {
    struct infer infer;
    struct infer_rig *rig;
    unsigned shard, n_done;
    uint64_t bytes;
    enum job_class class; /* set before, as infer.origin; what came stays */
    uint64_t wait_us;     /* of a refusal */
    float value;
    int64_t rows;
    bool spin;
    /* what came */
    struct err err;
    bool moved, right; /* right: the outputs are what they must be */
    unsigned deaths;
    uint32_t joined;
    uint64_t submit_ns, given_ns, done_ns;
    int instance;
    const char *place;
    uint64_t answered_us;
    unsigned order;                    /* how many were answered before, of all */
    void (*then)(struct infer_req *q); /* called at the end of done(); may be NULL */
    void *ctx;
};
/* Sends rows of add's inputs (a = value, value + 1, …; b = 1). after_us: the deadline from now; 0: none.
 * ERR_OK, or why it was not taken (then nothing is held). */
enum err_code infer_send(struct infer_rig *r, struct infer_req *q, unsigned shard, float value, int64_t rows,
                         uint64_t after_us);
/* The same for spin: one row that takes trips times 2 us. */
enum err_code infer_spin(struct infer_rig *r, struct infer_req *q, unsigned shard, float value, int64_t trips,
                         uint64_t after_us);

/* `total` requests of add, `width` at a time, from one shard's thread; all answers are counted. Over when r->loads is 0
 * again. */
struct infer_load {
    unsigned total, width; /* set before */
    uint64_t after_us;
    _Atomic unsigned sent, answered, right, wrong, failed[ERR_COUNT_], moved, deaths;
    struct infer_req *reqs; /* private */
    struct infer_rig *rig;
    unsigned shard;
    struct task task;
};
void infer_load(struct infer_rig *r, struct infer_load *l, unsigned shard);

#endif
