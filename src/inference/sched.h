/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler: one version on one connection thread. It admits requests, holds their bytes, queues them, gives them
 * to the least loaded instance that has credit, and takes care of deaths and deadlines.
 *
 * A request goes through
 *
 *     sched_admit(bytes) → sched_take (a block in the version's input window) → fill it → sched_submit → done
 *
 * and whoever admitted it releases it, after done or instead of submit (sched_release). What is
 * submitted in one burst of the loop goes off together at its end.
 *
 * The order is first in, first out within a class, the higher class first, with a floor (admission.h).
 *
 * Deadlines: a waiting request whose deadline passes is answered ERR_TIMEOUT, one whose run would end too late
 * ERR_UNAVAILABLE; neither is run. A running one whose deadline passes is answered ERR_TIMEOUT too; its place and bytes
 * stay taken until the engine lets go. Deaths: a job that an engine lost is given to the next instance or waits
 * for the restart; jobs that were being run by an instance that died by itself are from then on run alone, and one that
 * is alone in flight at two such deaths is answered ERR_MODEL, remembered by its fingerprint and refused for ten
 * minutes (a query of death).
 *
 * Thread: the shard's, except sched_shared's counters. */
#ifndef WEIR_INFERENCE_SCHED_H
#define WEIR_INFERENCE_SCHED_H

#include <stdatomic.h>

#include "inference/admission.h"
#include "inference/engine.h"
#include "inference/lane.h"
#include "inference/shard.h"

#define INSTANCES_MAX 16
#define CONVICTS_MAX 64
#define SUSPECTS_MAX 16
#define CONVICT_US 600000000ull

/* What the threads of one version share. Owned by its pool. Counters are relaxed. */
struct sched_shared {
    char name[TENSOR_NAME_MAX + 1]; /* "intent/2" */
    struct window *in;
    struct model_info info;   /* immutable once ready */
    unsigned credit;          /* jobs a port may have open at its instance */
    unsigned on_threads;      /* so many connection threads run the engine themselves; 0: instances do */
    uint64_t space_bytes;     /* output space of a flush, for engines that run on the thread itself; 0: none */
    struct device_lane *lane; /* of the device; NULL: none */
    struct admission admission;
    _Alignas(64) _Atomic uint64_t answered; /* jobs that came back from an engine, well or not */
    _Atomic uint64_t retried;               /* jobs given to an instance again after a death */
    _Atomic uint32_t instances_up;
    _Atomic uint32_t lane_open, lane_queued; /* jobs in the lane; submitted requests: its share counts while > 0 */
    _Alignas(64) struct {
        _Alignas(64) _Atomic uint32_t open; /* jobs at this instance, of all threads */
    } load[INSTANCES_MAX];
    _Atomic uint32_t n_convicts;
    struct {
        _Atomic uint64_t fingerprint, until_us;
    } convict[CONVICTS_MAX];
    _Atomic uint32_t n_suspects; /* requests that were answered before they ended a worker, running alone */
    struct {
        _Atomic uint64_t fingerprint, until_us;
    } suspect[SUSPECTS_MAX];
};

struct infer;
struct infer_result {
    const struct job_result *job; /* err, outputs; valid during done() */
    uint64_t queue_ns;            /* from submit to done, less what it was really computed */
    uint64_t compute_ns;          /* in its run, less what that was stalled */
    bool moved; /* the version is going away: the owner may submit the request elsewhere; the block is still in place
                   during done() */
    unsigned deaths; /* how many instances ended with it */
    /* for traces: clock_ns() of when it was submitted, given to an instance (0: it never was) and answered */
    uint64_t submit_ns, given_ns, done_ns;
    int instance;      /* that it was given to last; -1: none */
    int pid;           /* of that instance's process; 0: it has none */
    const char *place; /* where that is: "inline", or its engine's name; NULL: not known */
    const char *peer;  /* the other server that was asked; valid during done(); NULL: none was */
};
/* A request, embedded in its owner. done() is called exactly once after sched_submit succeeded, never from inside it,
 * unless sched_cancel came first. */
struct infer {
    struct work *work; /* private */
    uint64_t block;    /* from sched_take */
    uint64_t deadline_us;
    enum job_class class;            /* as it was admitted */
    const struct job_origin *origin; /* valid until done() or sched_cancel; NULL: nobody's */
    void (*done)(struct infer *r, const struct infer_result *res);
};

/* ---- for the api ---- */
/* Counts the request in, and holds the scheduler until sched_release. ERR_UNAVAILABLE (503) when the rules of
 * admission.h refuse it: *wait_us is then how long the queue is predicted to take. */
enum err_code sched_admit(struct sched *s, const struct admission_ask *ask, uint64_t *wait_us, struct err *e) MUST_USE;
/* More bytes for a request that is admitted and whose length was not known; on failure (503) they are not counted.
 * sched_release takes them all. */
enum err_code sched_grow(struct sched *s, enum job_class class, uint64_t bytes, struct err *e) MUST_USE;
void sched_release(struct sched *s, enum job_class class, uint64_t bytes);
/* A block of the input window; WINDOW_NONE when this thread's part is full. */
uint64_t sched_take(struct sched *s, uint64_t bytes);
void sched_give(struct sched *s, uint64_t block); /* of a block that was not submitted */
uint8_t *sched_at(struct sched *s, uint64_t block);
const struct model_info *sched_info(const struct sched *s);
/* The block is the scheduler's from then on. ERR_REFUSED for a query of death, ERR_UNAVAILABLE when it would not end
 * before its deadline; the block stays the caller's on failure. */
enum err_code sched_submit(struct sched *s, struct infer *r, struct err *e) MUST_USE;
/* The owner goes away: no done() will come. */
void sched_cancel(struct infer *r);

/* ---- for the pool ---- */
struct sched *sched_new(struct shard *shard, struct sched_shared *shared);
/* A new engine for this instance. Attaches; on failure the instance stays down here. */
enum err_code sched_attach(struct sched *s, unsigned instance, struct engine *g, struct err *e) MUST_USE;
/* No more submits (the router has forgotten the version). What waits may finish; drained(ctx) is called once nothing is
 * left, maybe at once: then sched_free. */
void sched_drain(struct sched *s, void (*drained)(void *ctx), void *ctx);
/* Stops waiting: what still waits is answered with moved. What runs comes back when its engine is closed. */
void sched_abandon(struct sched *s);
void sched_free(struct sched *s); /* drained; detaches */
unsigned sched_waiting(const struct sched *s);

#endif
