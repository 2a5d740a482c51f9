/* SPDX-License-Identifier: Apache-2.0 */
/* The latency sketch: the formula, and a table that gives the same bucket without a logarithm.
 *
 * sketch_add runs once or more a request. At program start the least whole nanosecond of every bucket is found with the
 * formula itself (so the table can not disagree with it); a value is then placed by its highest bit and the six bits
 * after it. Such a cell spans less than one bucket (1/64 < gamma - 1), so one comparison with the next border settles
 * it.
 *
 * Thread: see sketch.h. The table is written once, before main. */
#include "base/sketch.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>

enum { INDEX_LEAST = -691, INDEX_MOST = 409, BUCKETS_USED = INDEX_MOST - INDEX_LEAST + 1 };
enum { CELL_BITS = 6, OCTAVES = 42, CELLS = OCTAVES << CELL_BITS };

static const double error_share = 0.01;
static const uint64_t ns_least = 1000;          /* 1 us */
static const uint64_t ns_most = 3600000000000u; /* 3,600 s */

static_assert(BUCKETS_USED <= SKETCH_BUCKETS, "a bucket for every index");

/* border[i]: the least nanosecond of bucket i; one more, which nothing reaches. */
static uint64_t border[BUCKETS_USED + 1];
static uint16_t cell_bucket[CELLS]; /* the bucket of a cell's least value */

static double ln_gamma(void)
{
    return log((1 + error_share) / (1 - error_share));
}

int sketch_index(double seconds)
{
    double v = seconds > 1e-6 ? seconds : 1e-6; /* NaN too */
    v = v < 3600 ? v : 3600;
    return (int)floor(log(v) / ln_gamma());
}

double sketch_value(int index)
{
    return exp(index * ln_gamma()) * (1 + error_share);
}

static unsigned cell_of(uint64_t ns)
{
    unsigned high = 63u - (unsigned)__builtin_clzll(ns); /* >= 9, as ns >= 1,000 */
    return (high << CELL_BITS) | (unsigned)((ns >> (high - CELL_BITS)) & ((1u << CELL_BITS) - 1));
}

static int index_of_ns(uint64_t ns)
{
    return sketch_index((double)ns * 1e-9);
}

__attribute__((constructor(102))) static void sketch_start(void)
{
    double step = ln_gamma();
    for (int i = 0; i < BUCKETS_USED; i++) {
        int index = INDEX_LEAST + i;
        uint64_t ns = (uint64_t)(exp(index * step) * 1e9);
        ns = ns < ns_least ? ns_least : ns > ns_most ? ns_most : ns;
        while (ns > ns_least && index_of_ns(ns - 1) >= index) {
            ns--;
        }
        while (ns < ns_most && index_of_ns(ns) < index) {
            ns++;
        }
        border[i] = ns;
    }
    border[BUCKETS_USED] = UINT64_MAX;
    unsigned bucket = 0;
    for (unsigned cell = 0; cell < CELLS; cell++) {
        unsigned high = cell >> CELL_BITS;
        if (high < CELL_BITS) {
            continue;
        }
        uint64_t least = ((uint64_t)1 << high) | ((uint64_t)(cell & ((1u << CELL_BITS) - 1)) << (high - CELL_BITS));
        while (border[bucket + 1] <= least) {
            bucket++;
        }
        cell_bucket[cell] = (uint16_t)bucket;
    }
}

void sketch_add(struct sketch *s, uint64_t ns)
{
    uint64_t v = ns < ns_least ? ns_least : ns > ns_most ? ns_most : ns;
    unsigned bucket = cell_bucket[cell_of(v)];
    bucket += v >= border[bucket + 1];
    counter_add(&s->bucket[bucket], 1);
    counter_add(&s->sum_ns, ns);
    counter_add(&s->count, 1);
}

void sketch_merge(struct sketch *into, const struct sketch *from)
{
    for (size_t i = 0; i < SKETCH_BUCKETS; i++) {
        uint64_t n = counter_get(&from->bucket[i]);
        if (n) {
            counter_add(&into->bucket[i], n);
        }
    }
    counter_add(&into->sum_ns, counter_get(&from->sum_ns));
    counter_add(&into->count, counter_get(&from->count));
}

double sketch_quantile(const struct sketch *s, double p)
{
    /* The buckets are counted rather than read from `count`, which may be ahead or behind while the owner writes; they
     * may still grow between the two passes, which moves the rank by less than what was added. */
    uint64_t n = 0;
    for (size_t i = 0; i < BUCKETS_USED; i++) {
        n += counter_get(&s->bucket[i]);
    }
    if (n == 0) {
        return 0;
    }
    p = p > 0 ? p : 0;
    double rank = (p < 1 ? p : 1) * (double)(n - 1);
    uint64_t seen = 0;
    size_t last = 0;
    for (size_t i = 0; i < BUCKETS_USED; i++) {
        uint64_t here = counter_get(&s->bucket[i]);
        seen += here;
        last = here ? i : last;
        if ((double)seen > rank) {
            break;
        }
    }
    return sketch_value(INDEX_LEAST + (int)last);
}
