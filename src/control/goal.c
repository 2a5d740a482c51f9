/* SPDX-License-Identifier: Apache-2.0 */
/* Goals: sums of values by arm and group, by thread, added up by readers. */
#include "control/goal.h"

#include <math.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/json.h"
#include "base/sketch.h"

struct cell {
    _Atomic uint64_t y_bits; /* a double's */
    _Atomic uint64_t n;
};
struct part {
    _Alignas(64) struct cell cell[JUDGE_ARMS][STATS_GROUPS];
    _Atomic uint64_t dropped[JUDGE_ARMS];
};
struct goal {
    size_t bytes;
    unsigned parts;
    struct goal_counts base;
    struct part part[];
};

struct goal *goal_new(unsigned parts, const struct goal_counts *base)
{
    size_t bytes = sizeof(struct goal) + parts * sizeof(struct part);
    /* Mapped, not allocated: a part that nobody uses takes no memory. */
    struct goal *g = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (g == MAP_FAILED) {
        return NULL;
    }
    g->bytes = bytes;
    g->parts = parts;
    if (base) {
        g->base = *base;
    }
    return g;
}

void goal_free(struct goal *g)
{
    if (g) {
        munmap(g, g->bytes);
    }
}

static double double_of(uint64_t bits)
{
    double v;

    memcpy(&v, &bits, sizeof(v));
    return v;
}

static unsigned group_of(uint64_t key)
{
    return (unsigned)(key * 0x9e3779b97f4a7c15u >> 32) % STATS_GROUPS;
}

void goal_add(struct goal *g, unsigned part, unsigned arm, uint64_t key, double value)
{
    struct part *p = &g->part[part];
    struct cell *c = &p->cell[arm][group_of(key)];
    double sum;
    uint64_t bits;

    if (!(fabs(value) <= GOAL_MOST)) {
        counter_add(&p->dropped[arm], 1);
        return;
    }
    sum = double_of(counter_get(&c->y_bits)) + value;
    memcpy(&bits, &sum, sizeof(bits));
    atomic_store_explicit(&c->y_bits, bits, memory_order_relaxed);
    counter_add(&c->n, 1);
}

void goal_sum(const struct goal *g, struct goal_counts *out)
{
    *out = g->base;
    for (unsigned k = 0; k < g->parts; k++) {
        const struct part *p = &g->part[k];

        for (unsigned arm = 0; arm < JUDGE_ARMS; arm++) {
            for (unsigned i = 0; i < STATS_GROUPS; i++) {
                out->arm[arm].y[i] += double_of(counter_get(&p->cell[arm][i].y_bits));
                out->arm[arm].n[i] += counter_get(&p->cell[arm][i].n);
            }
            out->dropped[arm] += counter_get(&p->dropped[arm]);
        }
    }
}

/* ---- as text ---- */

void goal_counts_json(struct buf *out, const struct goal_counts *c)
{
    BUF_LIT(out, "{\"y\":[");
    for (unsigned arm = 0; arm < JUDGE_ARMS; arm++) {
        json_comma(out);
        BUF_LIT(out, "[");
        for (unsigned i = 0; i < STATS_GROUPS; i++) {
            json_comma(out);
            json_f64(out, c->arm[arm].y[i]);
        }
        BUF_LIT(out, "]");
    }
    BUF_LIT(out, "],\"n\":[");
    for (unsigned arm = 0; arm < JUDGE_ARMS; arm++) {
        json_comma(out);
        BUF_LIT(out, "[");
        for (unsigned i = 0; i < STATS_GROUPS; i++) {
            json_comma(out);
            buf_addu(out, c->arm[arm].n[i]);
        }
        BUF_LIT(out, "]");
    }
    buf_addf(out, "],\"dropped\":[%llu,%llu]}", (unsigned long long)c->dropped[JUDGE_STABLE],
             (unsigned long long)c->dropped[JUDGE_CANARY]);
}

static bool arm_read(struct goal_arm *a, yyjson_val *y, yyjson_val *n)
{
    yyjson_val *v;
    size_t i, max;

    if (yyjson_arr_size(y) != STATS_GROUPS || yyjson_arr_size(n) != STATS_GROUPS) {
        return false;
    }
    yyjson_arr_foreach(y, i, max, v)
    {
        a->y[i] = yyjson_get_num(v);
        if (!yyjson_is_num(v) || !isfinite(a->y[i])) {
            return false;
        }
    }
    yyjson_arr_foreach(n, i, max, v)
    {
        a->n[i] = yyjson_get_uint(v);
        if (!yyjson_is_uint(v)) {
            return false;
        }
    }
    return true;
}

bool goal_counts_read(struct goal_counts *c, yyjson_val *v)
{
    yyjson_val *y = yyjson_obj_get(v, "y"), *n = yyjson_obj_get(v, "n"), *dropped = yyjson_obj_get(v, "dropped");

    for (unsigned arm = 0; arm < JUDGE_ARMS; arm++) {
        yyjson_val *d = yyjson_arr_get(dropped, arm);

        if (!yyjson_is_uint(d) || !arm_read(&c->arm[arm], yyjson_arr_get(y, arm), yyjson_arr_get(n, arm))) {
            return false;
        }
        c->dropped[arm] = yyjson_get_uint(d);
    }
    return true;
}
