/* SPDX-License-Identifier: Apache-2.0 */
/* Admission: whether a request is let in, from what is known before its body is read. Pure over (what a version's
 * threads know together, what is asked, now).
 *
 * A request of class c finishes, as predicted, at
 *
 *     now + ahead(c) × cost / parallel + run        (Clockwork, OSDI 2020 §4: admit only what can finish)
 *
 * ahead(c): requests that wait or run and go before it; cost: mean time that one request takes of an executor (its
 * run's time over the jobs joined in it); run: how long its own run takes, the mean and twice the mean deviation
 * (Jacobson 1988). Later than its deadline: refused at once, 503, with Retry-After.
 *
 * A standing queue (CoDel as in Maurer, "Fail at Scale", 2015): has the queue not been empty for `interval`, then what
 * would wait longer than `target` is refused, though its deadline may be far. Both follow the deadlines that requests
 * have: a quarter of the family's timeout, at least ten runs and 100 ms. A queue that drains between bursts never
 * meets this rule.
 *
 * Classes: of the bound in requests and bytes the critical may use all, the default 9/10, the sheddable half. In the
 * queue the higher class goes first, but of 16 given out one is the oldest of all: no class starves (floor 1/16).
 *
 * Thread: any, relaxed atomics; the figures may be a moment old. */
#ifndef WEIR_INFERENCE_ADMISSION_H
#define WEIR_INFERENCE_ADMISSION_H

#include <stdatomic.h>

#include "base/base.h"

enum job_class { CLASS_CRITICAL, CLASS_DEFAULT, CLASS_SHEDDABLE, CLASS_COUNT };
extern const char *const job_class_names[]; /* "critical", "default", "sheddable" */
#define ADMISSION_FLOOR 16

/* What the threads of a version know together. */
struct admission {
    uint64_t requests_max, bytes_max;                            /* immutable */
    uint64_t target_us, interval_us;                             /* immutable; admission_init */
    _Alignas(64) _Atomic uint64_t bytes;                         /* admitted now */
    _Atomic uint64_t requests[CLASS_COUNT];                      /* admitted now */
    _Alignas(64) _Atomic uint64_t cost_ns, run_ns, deviation_ns; /* means, α = 1/8; 0: nothing ran yet */
    _Atomic uint64_t standing_since_us;                          /* 0: the queue was empty a moment ago */
    _Atomic uint64_t refused[4];                                 /* enum admission_verdict - 1: for metrics */
};

enum admission_verdict { ADMITTED, REFUSED_REQUESTS, REFUSED_BYTES, REFUSED_LATE, REFUSED_STANDING };

/* timeout_us: the family's, of requests that name none. warm_ns: the warm-up's run; 0: not known. */
void admission_init(struct admission *a, uint64_t requests_max, uint64_t bytes_max, uint64_t timeout_us,
                    uint64_t warm_ns);

struct admission_ask {
    uint64_t bytes;
    uint64_t deadline_us; /* UINT64_MAX: not known yet */
    enum job_class class;
};
/* parallel: executors that are up, at least 1. ADMITTED: counted in until admission_leave. *wait_us: predicted, until
 * its run begins; for Retry-After where it was refused. */
enum admission_verdict admission_enter(struct admission *a, const struct admission_ask *ask, unsigned parallel,
                                       uint64_t now_us, uint64_t *wait_us);
/* More bytes of a request that is in. False: they do not fit, and are not counted. */
bool admission_grow(struct admission *a, enum job_class class, uint64_t bytes);
void admission_leave(struct admission *a, enum job_class class, uint64_t bytes);
/* A run of `joined` jobs took compute_ns. */
void admission_ran(struct admission *a, uint64_t compute_ns, uint32_t joined);
/* After giving out: how many still wait on this thread (of all threads the worst tells). */
void admission_waiting(struct admission *a, bool any, uint64_t now_us);
/* Whether a run that began now would end in time. */
bool admission_in_time(const struct admission *a, uint64_t deadline_us, uint64_t now_us);

#endif
