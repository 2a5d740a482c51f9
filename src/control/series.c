/* SPDX-License-Identifier: Apache-2.0 */
/* Series: counters by thread, added up by readers. */
#include "control/series.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"

#define BREAKER 5u
#define SLOW_FIRST 100u
#define USER_BITS (1u << 18)

struct series {
    uint64_t id;
    int64_t since_ms;
    unsigned parts;
    size_t bytes;
    _Atomic uint32_t first, first_bad; /* of the first BREAKER answers; first counts on to BREAKER only */
    struct series_part part[];
};

struct series *series_new(uint64_t id, unsigned parts)
{
    size_t bytes = sizeof(struct series) + parts * sizeof(struct series_part);
    /* Mapped, not allocated: a part that nobody uses takes no memory, and a freed one goes back to the system. */
    struct series *s = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (s == MAP_FAILED) {
        fprintf(stderr, "weir: out of memory: %zu bytes to count with could not be had\n", bytes);
        abort();
    }
    s->id = id;
    s->since_ms = clock_wall_ms();
    s->parts = parts;
    s->bytes = bytes;
    return s;
}

uint64_t series_id(const struct series *s)
{
    return s->id;
}

int64_t series_since_ms(const struct series *s)
{
    return s->since_ms;
}

void series_free(struct series *s)
{
    if (s) {
        munmap(s, s->bytes);
    }
}

/* ---- writing ---- */

void series_ref(struct series *s, unsigned part)
{
    counter_add(&s->part[part].refs, 1);
}

void series_unref(struct series *s, unsigned part)
{
    uint64_t n = counter_get(&s->part[part].refs);

    assert(n > 0);
    atomic_store_explicit(&s->part[part].refs, n - 1, memory_order_release);
}

bool series_idle(const struct series *s)
{
    for (unsigned i = 0; i < s->parts; i++) {
        if (atomic_load_explicit(&s->part[i].refs, memory_order_acquire) > 0) {
            return false;
        }
    }
    return true;
}

void series_begin(struct series *s, unsigned part)
{
    counter_add(&s->part[part].requests, 1);
}

void series_unbegin(struct series *s, unsigned part)
{
    counter_add(&s->part[part].requests, UINT64_MAX); /* minus one */
}

void series_key(struct series *s, unsigned part, uint64_t key_hash)
{
    struct series_part *p = &s->part[part];

    if (key_hash == 0) {
        counter_add(&p->keyless, 1);
    } else {
        uint32_t bit = (uint32_t)(key_hash >> 20) % USER_BITS;
        _Atomic uint64_t *word = &p->users[bit / 64];
        uint64_t old = atomic_load_explicit(word, memory_order_relaxed);

        if (!(old >> (bit % 64) & 1)) {
            atomic_store_explicit(word, old | 1ull << (bit % 64), memory_order_relaxed);
        }
    }
}

void series_end(struct series *s, unsigned part, enum err_code code, uint64_t latency_ns, uint64_t queue_ns,
                uint64_t compute_ns)
{
    struct series_part *p = &s->part[part];

    counter_add(&p->by_code[code], 1);
    sketch_add(&p->latency, latency_ns);
    if (compute_ns > 0) {
        sketch_add(&p->queue, queue_ns);
        sketch_add(&p->compute, compute_ns);
    }
}

uint64_t series_slow_ns(struct series *s, unsigned part)
{
    struct series_part *p = &s->part[part];
    uint64_t n = counter_get(&p->latency.count);

    if (n < SLOW_FIRST) {
        return UINT64_MAX;
    }
    if (n >= p->slow_next) {
        p->slow_ns = (uint64_t)(sketch_quantile(&p->latency, .99) * 1e9);
        p->slow_next = n + n / 4;
    }
    return p->slow_ns;
}

int series_class(struct series *s, unsigned part, struct str name)
{
    struct series_part *p = &s->part[part];
    uint32_t n = atomic_load_explicit(&p->n_classes, memory_order_relaxed);

    name.n = MIN(name.n, (size_t)SERIES_CLASS_NAME - 1);
    for (uint32_t i = 0; i < n; i++) {
        if (strlen(p->classes[i].name) == name.n && memcmp(p->classes[i].name, name.p, name.n) == 0) {
            counter_add(&p->classes[i].count, 1);
            return (int)i;
        }
    }
    if (n == SERIES_CLASSES) {
        counter_add(&p->classes_other, 1);
        return -1;
    }
    memcpy(p->classes[n].name, name.p, name.n);
    counter_add(&p->classes[n].count, 1);
    atomic_store_explicit(&p->n_classes, n + 1, memory_order_release);
    return (int)n;
}

struct str series_class_name(const struct series *s, unsigned part, int index)
{
    return index < 0 ? (struct str){NULL, 0} : str_of(s->part[part].classes[index].name);
}

void series_correct(struct series *s, unsigned part, bool correct)
{
    counter_add(&s->part[part].feedback_n, 1);
    counter_add(&s->part[part].feedback_correct, correct);
}

void series_recorrect(struct series *s, unsigned part, bool was, bool correct)
{
    counter_add(&s->part[part].feedback_correct, (uint64_t)correct - (uint64_t)was);
}

static void reward_add(struct series_part *p, double more)
{
    uint64_t bits = counter_get(&p->reward_sum_bits);
    double sum;

    memcpy(&sum, &bits, sizeof(sum));
    sum += more;
    memcpy(&bits, &sum, sizeof(bits));
    atomic_store_explicit(&p->reward_sum_bits, bits, memory_order_relaxed);
}

void series_reward(struct series *s, unsigned part, double reward)
{
    reward_add(&s->part[part], reward);
    counter_add(&s->part[part].reward_n, 1);
}

void series_rereward(struct series *s, unsigned part, double was, double reward)
{
    reward_add(&s->part[part], reward - was);
}

bool series_breaker(struct series *s, bool error)
{
    if (atomic_load_explicit(&s->first, memory_order_relaxed) >= BREAKER) {
        return false;
    }
    if (error) {
        atomic_fetch_add(&s->first_bad, 1);
    }
    return atomic_fetch_add(&s->first, 1) + 1 == BREAKER && atomic_load(&s->first_bad) >= BREAKER;
}

bool series_is_error(enum err_code code)
{
    return code != ERR_OK && code != ERR_CANCELLED && err_http(code) >= 500;
}

/* ---- adding up ---- */

static void times(struct series_times *out, const struct sketch *k)
{
    out->n = counter_get(&k->count);
    out->mean = out->n ? (double)counter_get(&k->sum_ns) * 1e-9 / (double)out->n : 0;
    out->p50 = sketch_quantile(k, .50);
    out->p95 = sketch_quantile(k, .95);
    out->p99 = sketch_quantile(k, .99);
}

static int by_count(const void *a, const void *b)
{
    uint64_t x = counter_get(&((const struct series_class *)a)->count),
             y = counter_get(&((const struct series_class *)b)->count);

    return x < y   ? 1
           : x > y ? -1
                   : strcmp(((const struct series_class *)a)->name, ((const struct series_class *)b)->name);
}

static void add_classes(struct series_sum *out, const struct series_part *p)
{
    uint32_t n = atomic_load_explicit(&p->n_classes, memory_order_acquire);

    for (uint32_t i = 0; i < n; i++) {
        size_t k = 0;

        while (k < out->n_classes && strcmp(out->classes[k].name, p->classes[i].name) != 0) {
            k++;
        }
        if (k == out->n_classes) {
            if (k == (size_t)SERIES_CLASSES * 4) {
                out->classes_other += counter_get(&p->classes[i].count);
                continue;
            }
            out->classes = xrealloc(out->classes, (k + 1) * sizeof(out->classes[0]));
            memcpy(out->classes[k].name, p->classes[i].name, sizeof(out->classes[k].name));
            atomic_init(&out->classes[k].count, 0);
            out->n_classes++;
        }
        counter_add(&out->classes[k].count, counter_get(&p->classes[i].count));
    }
    out->classes_other += counter_get(&p->classes_other);
}

static void add_part(struct series_sum *out, const struct series_part *p)
{
    uint64_t bits = counter_get(&p->reward_sum_bits), ended = 0;
    double reward;

    for (int c = 0; c < ERR_COUNT_; c++) {
        uint64_t n = counter_get(&p->by_code[c]);

        out->by_code[c] += n;
        out->errors += series_is_error((enum err_code)c) ? n : 0;
        out->client_errors += c != ERR_OK && !series_is_error((enum err_code)c) ? n : 0;
        ended += n;
    }
    /* Ends were read before the beginnings, so this can not be negative. */
    uint64_t begun = counter_get(&p->requests);
    out->requests += begun;
    out->in_flight += begun > ended ? begun - ended : 0;
    out->keyless += counter_get(&p->keyless);
    out->feedback_n += counter_get(&p->feedback_n);
    out->feedback_correct += counter_get(&p->feedback_correct);
    out->reward_n += counter_get(&p->reward_n);
    memcpy(&reward, &bits, sizeof(reward));
    out->reward_sum += reward;
    add_classes(out, p);
}

static double estimate_users(struct series *const *s, size_t n)
{
    uint64_t zero = 0;
    bool any = false;

    for (size_t w = 0; w < USER_BITS / 64; w++) {
        uint64_t word = 0;

        for (size_t i = 0; i < n; i++) {
            for (unsigned k = 0; k < s[i]->parts; k++) {
                word |= atomic_load_explicit(&s[i]->part[k].users[w], memory_order_relaxed);
            }
        }
        any |= word != 0;
        zero += 64u - (unsigned)__builtin_popcountll(word);
    }
    return !any ? 0 : -(double)USER_BITS * log((double)MAX(zero, 1u) / USER_BITS);
}

void series_sum_many(struct series *const *s, size_t n, struct series_sum *out)
{
    struct sketch *k = xcalloc(3, sizeof(*k));

    *out = (struct series_sum){0};
    for (size_t i = 0; i < n; i++) {
        for (unsigned part = 0; part < s[i]->parts; part++) {
            const struct series_part *p = &s[i]->part[part];

            add_part(out, p);
            sketch_merge(&k[0], &p->latency);
            sketch_merge(&k[1], &p->queue);
            sketch_merge(&k[2], &p->compute);
        }
    }
    out->ok = out->by_code[ERR_OK];
    out->users = estimate_users(s, n);
    times(&out->latency, &k[0]);
    times(&out->queue, &k[1]);
    times(&out->compute, &k[2]);
    if (out->n_classes > 0) {
        qsort(out->classes, out->n_classes, sizeof(out->classes[0]), by_count);
    }
    for (size_t i = SERIES_CLASSES; i < out->n_classes; i++) {
        out->classes_other += counter_get(&out->classes[i].count);
    }
    out->n_classes = MIN(out->n_classes, (size_t)SERIES_CLASSES);
    free(k);
}

void series_sum(const struct series *s, struct series_sum *out)
{
    struct series *one = (struct series *)(uintptr_t)s; /* only read */

    series_sum_many(&one, 1, out);
}

void series_sum_done(struct series_sum *s)
{
    free(s->classes);
    s->classes = NULL;
    s->n_classes = 0;
}

void series_sketch(const struct series *s, enum series_what what, struct sketch *out)
{
    for (unsigned i = 0; i < s->parts; i++) {
        const struct series_part *p = &s->part[i];

        sketch_merge(out, what == SERIES_LATENCY ? &p->latency : what == SERIES_QUEUE ? &p->queue : &p->compute);
    }
}
