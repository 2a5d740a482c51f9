/* SPDX-License-Identifier: Apache-2.0 */
/* A latency sketch: DDSketch with 1 % relative error over fixed buckets, and plain counters, made for one writer and
 * many readers without a lock.
 *
 * gamma = (1+e)/(1-e), index = floor(ln v / ln gamma), value = gamma^index * (1+e)  (Masson, Rim, Lee: DDSketch, VLDB
 * 2019; e = 0.01). Values are seconds; below 1 us counts as 1 us, above 3,600 s as 3,600 s. Merge = add the buckets.
 *
 * Thread: sketch_add by the owning thread only; everything else by any thread (relaxed atomics). */
#ifndef WEIR_BASE_SKETCH_H
#define WEIR_BASE_SKETCH_H

#include <stdatomic.h>
#include <stdint.h>

#define SKETCH_BUCKETS 1152
struct sketch {
    _Atomic uint64_t count;
    _Atomic uint64_t sum_ns;
    _Atomic uint64_t bucket[SKETCH_BUCKETS];
};

int sketch_index(double seconds); /* the sketch's own index, -691 … 409: for v = .001 it is -346 */
double sketch_value(int index);   /* sketch_value(-35) = .5015395 */
void sketch_add(struct sketch *s, uint64_t ns);
void sketch_merge(struct sketch *into, const struct sketch *from); /* into: owned by the caller */
/* The value at rank p(n-1), 0 <= p <= 1, in seconds; 0 for an empty sketch. */
double sketch_quantile(const struct sketch *s, double p);

/* A counter with one writer: no lock prefix needed, readers see whole values. */
static inline void counter_add(_Atomic uint64_t *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}
static inline uint64_t counter_get(const _Atomic uint64_t *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

#endif
