/* SPDX-License-Identifier: Apache-2.0 */
/* A series: everything that is counted about one version in one role (stable, canary, asked for directly) since one
 * moment. A rollout gets fresh series for both arms, so that they count from the same instant.
 *
 * One part a connection thread, written by that thread alone without a lock; readers add the parts (relaxed atomics). A
 * request in flight holds its series; a retired one is freed when the last has let go.
 *
 * Users are counted by linear counting (Whang, Vander-Zanden, Taylor 1990): one bit of 2^18 a key, n = -m ln(zero bits
 * / m); ±0.2 % at 2,000 users, ±0.4 % at a million, saturated beyond three million. Latencies are DDSketches
 * (base/sketch.h).
 *
 * Thread: as said with each call. */
#ifndef WEIR_CONTROL_SERIES_H
#define WEIR_CONTROL_SERIES_H

#include "base/err.h"
#include "base/sketch.h"
#include "net/loop.h"

#define SERIES_CLASSES 64
#define SERIES_CLASS_NAME 64

struct series_class {
    char name[SERIES_CLASS_NAME];
    _Atomic uint64_t count;
};
struct series_part {
    _Atomic uint64_t requests, keyless;
    _Atomic uint64_t by_code[ERR_COUNT_]; /* ERR_OK: answered well */
    struct sketch latency, queue, compute;
    _Atomic uint64_t feedback_n, feedback_correct, reward_n;
    _Atomic uint64_t reward_sum_bits; /* a double's bits */
    _Atomic uint32_t n_classes;       /* names below it are complete and never change */
    struct series_class classes[SERIES_CLASSES];
    _Atomic uint64_t classes_other;
    _Atomic uint64_t users[(1 << 18) / 64];
    _Atomic uint64_t refs;       /* requests of this thread that hold it */
    uint64_t slow_ns, slow_next; /* of series_slow_ns; the part's thread's alone */
};

struct series;
struct series *series_new(uint64_t id, unsigned parts);
uint64_t series_id(const struct series *s);
int64_t series_since_ms(const struct series *s); /* wall time of its creation */
void series_free(struct series *s);              /* nobody holds it; NULL is fine */
bool series_idle(const struct series *s);        /* no request holds it; final once nobody can find it any more */

/* ---- the connection thread that owns `part` ---- */
void series_ref(struct series *s, unsigned part);
void series_unref(struct series *s, unsigned part);
/* At the decision, before anything can fail (intention to treat). */
void series_begin(struct series *s, unsigned part);
/* The decision was made again before anything was done by it. */
void series_unbegin(struct series *s, unsigned part);
/* Whose request it was, once a request: a hash of the user's key, or 0 if it had none. */
void series_key(struct series *s, unsigned part, uint64_t key_hash);
/* At the answer: code ERR_OK or why not; times in nanoseconds; queue and compute 0 if it did not come to that. */
void series_end(struct series *s, unsigned part, enum err_code code, uint64_t latency_ns, uint64_t queue_ns,
                uint64_t compute_ns);
/* The p99 of the latencies that this part has counted, looked up again for every quarter more of them; UINT64_MAX while
 * there are fewer than a hundred. */
uint64_t series_slow_ns(struct series *s, unsigned part);
/* A predicted class; returns its index among this part's classes, -1 for "other". */
int series_class(struct series *s, unsigned part, struct str name);
/* The name of an index that series_class returned. */
struct str series_class_name(const struct series *s, unsigned part, int index);
void series_correct(struct series *s, unsigned part, bool correct);
void series_reward(struct series *s, unsigned part, double reward);
/* What was told wrong before, to this part of this series. */
void series_recorrect(struct series *s, unsigned part, bool was, bool correct);
void series_rereward(struct series *s, unsigned part, double was, double reward);

/* The circuit breaker's memory: the first five answers of a canary. True once, when all five were errors. Any
 * connection thread; free of atomics on a shared line after the fifth. */
bool series_breaker(struct series *s, bool error);

/* True for codes that are the version's fault (or Weir's), not the client's: what an error rate counts. */
bool series_is_error(enum err_code code);

/* ---- any thread: the parts added up ---- */
struct series_times {
    double mean, p50, p95, p99; /* seconds; 0 when empty */
    uint64_t n;
};
struct series_sum {
    uint64_t requests, ok, errors, client_errors, keyless, in_flight;
    uint64_t by_code[ERR_COUNT_];
    double users;
    struct series_times latency, queue, compute;
    uint64_t feedback_n, feedback_correct, reward_n;
    double reward_sum;
    struct series_class *classes; /* by count, most first; heap: series_sum_done */
    size_t n_classes;
    uint64_t classes_other;
};
void series_sum(const struct series *s, struct series_sum *out);
/* Adds another series' numbers (percentiles come from the merged sketches). n series at once. */
void series_sum_many(struct series *const *s, size_t n, struct series_sum *out);
void series_sum_done(struct series_sum *s);
/* The merged latency sketch for histograms; *out is the caller's memory. */
enum series_what { SERIES_LATENCY, SERIES_QUEUE, SERIES_COMPUTE };
void series_sketch(const struct series *s, enum series_what what, struct sketch *out);

#endif
