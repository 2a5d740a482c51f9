/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of admission.h. */
#include "inference/admission.h"

#define BIAS_ONE 1024u
#define BIAS_LEAST (BIAS_ONE / 2)
#define BIAS_MOST (4 * BIAS_ONE)
#define LEAST_US 100000u /* of target and interval */
#define RUNS 10u         /* the same, in runs */

const char *const job_class_names[] = {"critical", "default", "sheddable", NULL};

static uint64_t get(const _Atomic uint64_t *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static void put(_Atomic uint64_t *p, uint64_t v)
{
    atomic_store_explicit(p, v, memory_order_relaxed);
}

static uint64_t add(_Atomic uint64_t *p, uint64_t n)
{
    return atomic_fetch_add_explicit(p, n, memory_order_relaxed) + n;
}

static uint64_t sub(_Atomic uint64_t *p, uint64_t n)
{
    return atomic_fetch_sub_explicit(p, n, memory_order_relaxed) - n;
}

/* ---- means ---- */

static void mean_sample(struct mean *m, uint64_t sample)
{
    uint64_t value = get(&m->value), deviation = get(&m->deviation);
    uint64_t off = sample > value ? sample - value : value - sample;

    if (value == 0) {
        put(&m->value, MAX(sample, 1u));
        put(&m->deviation, sample / 2);
        return;
    }
    put(&m->value, MAX(value - value / 8 + sample / 8, 1u));
    put(&m->deviation, deviation - deviation / 4 + off / 4);
}

static uint64_t mean_high(const struct mean *m)
{
    return get(&m->value) + 2 * get(&m->deviation);
}

/* ---- predictions ---- */

static uint64_t all_of(const _Atomic uint64_t n[CLASS_COUNT], enum job_class last)
{
    uint64_t sum = 0;

    for (int c = 0; c <= (int)last; c++) {
        sum += get(&n[c]);
    }
    return sum;
}

/* From now to the end, without the bias. */
static uint64_t raw_us(const struct admission *a, enum job_class class, unsigned parallel)
{
    uint64_t ahead = all_of(a->queued, class), cost = get(&a->cost_ns.value);

    return (ahead * cost / MAX(parallel, 1u) + mean_high(&a->run_ns)) / 1000;
}

static uint64_t biased_us(const struct admission *a, uint64_t raw)
{
    uint64_t bias = get(&a->bias.value) ? mean_high(&a->bias) : BIAS_ONE;

    return raw * MIN(MAX(bias, BIAS_ONE), BIAS_MOST) / BIAS_ONE;
}

void admission_init(struct admission *a, uint64_t requests_max, uint64_t bytes_max, uint64_t timeout_us,
                    uint64_t warm_ns)
{
    uint64_t runs_us = warm_ns / 1000 * RUNS;

    a->requests_max = requests_max;
    a->bytes_max = bytes_max;
    a->target_us = MAX(timeout_us / 4, MAX(runs_us, LEAST_US));
    a->interval_us = MAX(runs_us, LEAST_US);
    if (warm_ns > 0) {
        put(&a->cost_ns.value, warm_ns);
        put(&a->run_ns.value, warm_ns);
    }
}

/* ---- in and out ---- */

/* What a class may use of a bound. */
static uint64_t share(uint64_t bound, enum job_class class)
{
    return class == CLASS_CRITICAL ? bound : class == CLASS_DEFAULT ? bound - bound / 10 : bound - bound / 2;
}

/* An idle version tries everything. */
static bool is_late(const struct admission *a, uint64_t deadline_us, uint64_t now_us, uint64_t wait_us)
{
    return all_of(a->queued, CLASS_COUNT - 1) > 0 && (deadline_us < now_us || deadline_us - now_us < wait_us);
}

static enum admission_verdict judge(const struct admission *a, const struct admission_ask *ask, uint64_t requests,
                                    uint64_t bytes, uint64_t now_us, uint64_t wait_us)
{
    uint64_t since = get(&a->standing_since_us);

    if (requests > share(a->requests_max, ask->class)) {
        return REFUSED_REQUESTS;
    }
    if (bytes > share(a->bytes_max, ask->class)) {
        return REFUSED_BYTES;
    }
    if (is_late(a, ask->deadline_us, now_us, wait_us)) {
        return REFUSED_LATE;
    }
    if (since != 0 && since < now_us && now_us - since > a->interval_us && wait_us > a->target_us) {
        return REFUSED_STANDING;
    }
    return ADMITTED;
}

enum admission_verdict admission_enter(struct admission *a, const struct admission_ask *ask, unsigned parallel,
                                       uint64_t now_us, uint64_t *wait_us)
{
    uint64_t requests, bytes = add(&a->bytes, ask->bytes);
    enum admission_verdict v;

    add(&a->requests[ask->class], 1);
    requests = all_of(a->requests, CLASS_COUNT - 1);
    *wait_us = biased_us(a, raw_us(a, ask->class, parallel));
    v = judge(a, ask, requests, bytes, now_us, *wait_us);
    if (v != ADMITTED) {
        admission_leave(a, ask->class, ask->bytes);
        add(&a->verdicts[v], 1);
    }
    return v;
}

bool admission_fits(const struct admission *a, enum job_class class, uint64_t deadline_us, unsigned parallel,
                    uint64_t now_us, uint64_t *wait_us)
{
    *wait_us = biased_us(a, raw_us(a, class, parallel));
    return !is_late(a, deadline_us, now_us, *wait_us);
}

bool admission_grow(struct admission *a, enum job_class class, uint64_t bytes)
{
    if (add(&a->bytes, bytes) <= share(a->bytes_max, class)) {
        return true;
    }
    sub(&a->bytes, bytes);
    add(&a->verdicts[REFUSED_BYTES], 1);
    return false;
}

void admission_leave(struct admission *a, enum job_class class, uint64_t bytes)
{
    sub(&a->requests[class], 1);
    sub(&a->bytes, bytes);
}

/* ---- submitted ---- */

void admission_back(struct admission *a, uint64_t now_us)
{
    if (add(&a->waiting, 1) == 1) {
        put(&a->standing_since_us, now_us);
    }
}

uint64_t admission_submit(struct admission *a, enum job_class class, unsigned parallel, uint64_t now_us)
{
    uint64_t raw = raw_us(a, class, parallel);

    add(&a->queued[class], 1);
    admission_back(a, now_us);
    return raw;
}

void admission_given(struct admission *a)
{
    if (sub(&a->waiting, 1) == 0) {
        put(&a->standing_since_us, 0);
    }
}

void admission_end(struct admission *a, enum job_class class)
{
    sub(&a->queued[class], 1);
}

void admission_learn(struct admission *a, uint64_t compute_ns, uint32_t joined, uint64_t predicted_us, uint64_t took_us)
{
    uint64_t run_us = get(&a->run_ns.value) / 1000;

    mean_sample(&a->run_ns, compute_ns);
    mean_sample(&a->cost_ns, compute_ns / MAX(joined, 1u));
    if (predicted_us > 3 * run_us) { /* it really waited: what it tells is about the queue */
        mean_sample(&a->bias, MIN(MAX(took_us * BIAS_ONE / predicted_us, BIAS_LEAST), BIAS_MOST));
    }
}

bool admission_in_time(const struct admission *a, uint64_t ahead, uint64_t deadline_us, uint64_t now_us)
{
    return deadline_us > now_us &&
           deadline_us - now_us >= (ahead * get(&a->cost_ns.value) + mean_high(&a->run_ns)) / 1000;
}

uint64_t admission_requests(const struct admission *a)
{
    return all_of(a->requests, CLASS_COUNT - 1);
}
