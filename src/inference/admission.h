/* SPDX-License-Identifier: Apache-2.0 */
/* Admission: whether a request is let in, from what is known before its body is read. Pure over (what a version's
 * threads know together, what is asked, now).
 *
 * A request of class c is predicted to finish at
 *
 *     now + bias × (ahead(c) × cost / parallel + run)      (Clockwork, OSDI 2020 §4: admit only what can finish)
 *
 * ahead(c): submitted requests of its class and above that have not ended; cost: mean time that one request takes of an
 * executor (its run's time over the jobs joined in it); run: how long a run takes, the mean and twice the mean
 * deviation (Jacobson, SIGCOMM 1988); bias: how long waits were in fact, over how long they were predicted, mean and
 * deviation alike. Later than its deadline: refused at once. A version that has nothing to do tries everything: that is
 * how the means recover from a bad moment.
 *
 * A standing queue (CoDel, as in Maurer's "Fail at Scale", ACM Queue 2015): when something has been waiting without a
 * break for `interval`, then a request that would wait longer than `target` is refused though its deadline is far.
 * Target is a quarter of the family's timeout, at least ten runs and 100 ms; interval is 100 ms, at least ten runs.
 *
 * Classes: of the bounds in requests and bytes the critical may use all, the default 9/10, the sheddable half. In the
 * queue the higher class goes first, but of ADMISSION_FLOOR given out one is the oldest of all: no class starves.
 *
 * Thread: any, relaxed atomics; figures may be a moment old. Times: clock_us() of the caller unless they end in _ns. */
#ifndef WEIR_INFERENCE_ADMISSION_H
#define WEIR_INFERENCE_ADMISSION_H

#include <stdatomic.h>

#include "base/base.h"

enum job_class { CLASS_CRITICAL, CLASS_DEFAULT, CLASS_SHEDDABLE, CLASS_COUNT };
extern const char *const job_class_names[]; /* "critical", "default", "sheddable"; NULL-terminated */
#define ADMISSION_FLOOR 16

enum admission_verdict { ADMITTED, REFUSED_REQUESTS, REFUSED_BYTES, REFUSED_LATE, REFUSED_STANDING, VERDICT_COUNT };

/* A mean and its mean deviation, α = 1/8 and 1/4. Writers of several threads may lose each other's sample. */
struct mean {
    _Atomic uint64_t value, deviation; /* value 0: no sample yet */
};

struct admission {
    uint64_t requests_max, bytes_max, target_us, interval_us; /* immutable after admission_init */
    _Alignas(64) _Atomic uint64_t bytes;                      /* admitted now */
    _Atomic uint64_t requests[CLASS_COUNT];                   /* admitted now */
    _Alignas(64) _Atomic uint64_t queued[CLASS_COUNT];        /* submitted, not ended */
    _Atomic uint64_t waiting;                                 /* of them: not given to an instance */
    _Atomic uint64_t standing_since_us;                       /* 0: nothing waits */
    _Alignas(64) struct mean cost_ns, run_ns, bias;           /* bias in 1/1024 */
    _Atomic uint64_t verdicts[VERDICT_COUNT];                 /* how often; ADMITTED is not counted */
};

/* timeout_us: the family's, of requests that name none. warm_ns: the warm-up's run; 0: not known yet, may be said by a
 * second call before the first request. */
void admission_init(struct admission *a, uint64_t requests_max, uint64_t bytes_max, uint64_t timeout_us,
                    uint64_t warm_ns);

struct admission_ask {
    uint64_t bytes;
    uint64_t deadline_us; /* UINT64_MAX: none */
    enum job_class class;
};
/* parallel: executors that are up. ADMITTED: it is counted until admission_leave. *wait_us: predicted, until it ends.
 */
enum admission_verdict admission_enter(struct admission *a, const struct admission_ask *ask, unsigned parallel,
                                       uint64_t now_us, uint64_t *wait_us);
/* Of a request that is in: whether it still ends before its deadline, were it submitted now. */
bool admission_fits(const struct admission *a, enum job_class class, uint64_t deadline_us, unsigned parallel,
                    uint64_t now_us, uint64_t *wait_us);
/* More bytes of a request that is in. False: they do not fit, and are not counted. */
bool admission_grow(struct admission *a, enum job_class class, uint64_t bytes);
void admission_leave(struct admission *a, enum job_class class, uint64_t bytes);

/* What happens to a submitted request: submit → given (→ back → given)* → end; end may come while it waits.
 * admission_submit returns the predicted time until it ends, for admission_ended. */
uint64_t admission_submit(struct admission *a, enum job_class class, unsigned parallel, uint64_t now_us);
void admission_given(struct admission *a);
void admission_back(struct admission *a, uint64_t now_us);
void admission_end(struct admission *a, enum job_class class);

/* It was answered by a run of `joined` jobs that took compute_ns; predicted_us, took_us: from submit to end. */
void admission_learn(struct admission *a, uint64_t compute_ns, uint32_t joined, uint64_t predicted_us,
                     uint64_t took_us);
/* Whether a submitted request, were it given now to an instance that has `ahead` others, would end before its deadline.
 */
bool admission_in_time(const struct admission *a, uint64_t ahead, uint64_t deadline_us, uint64_t now_us);
uint64_t admission_requests(const struct admission *a); /* admitted now, of all classes */

#endif
