/* SPDX-License-Identifier: Apache-2.0 */
/* Arrivals: rings by thread, read by control.
 *
 * A cell of a ring is one word, the number of its 10 ms since the start above its count, so that a reader never sees
 * the count of one and the number of another. */
#include "control/arrivals.h"

#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/clock.h"

#define CELL_US MILLIS(10)
#define CELLS 512u /* 5 s */
#define COUNT_BITS 24
#define COUNT_MASK ((1ull << COUNT_BITS) - 1)
#define SLACK 100u /* cells that are not read yet: a request may be counted a second after its first byte */
#define TEN 10u    /* spans, within which the variance is taken */
#define ENOUGH 4u  /* tens, and arrivals in them, that say something */
#define MINUTE_CELLS 6000u

static const unsigned span_cells[ARRIVALS_SPANS] = {1, 10, 100, 1000};

struct part {
    _Alignas(64) _Atomic uint64_t requests, ran, compute_ns, executor_ns, stalled_ns, joined;
    _Atomic uint64_t cell[CELLS];
};
struct span {
    uint64_t now;         /* count of this one so far */
    unsigned cells, nth;  /* of this one so far; which of its ten it is */
    double sum, squares;  /* of those of the ten that are whole */
    uint64_t tens, total; /* tens that are whole, and their arrivals */
    double within;        /* squares of deviations from the mean of the ten */
};
struct arrivals {
    unsigned parts;
    uint64_t start_us;
    uint64_t next; /* cell to be read */
    struct span span[ARRIVALS_SPANS];
    uint64_t minute, minute_cells, minute_most, minutes, ten_most;
    struct part part[];
};

struct arrivals *arrivals_new(unsigned parts, uint64_t now_us)
{
    size_t bytes = ALIGN_UP(sizeof(struct arrivals) + parts * sizeof(struct part), 64);
    struct arrivals *a = aligned_alloc(64, bytes);

    if (!a) {
        abort();
    }
    memset(a, 0, bytes);
    a->parts = parts;
    a->start_us = now_us;
    return a;
}

void arrivals_free(struct arrivals *a)
{
    free(a);
}

/* ---- counting ---- */

void arrivals_add(struct arrivals *a, unsigned part, uint64_t at_us)
{
    struct part *p = &a->part[part];
    uint64_t number = at_us > a->start_us ? (at_us - a->start_us) / CELL_US : 0;
    _Atomic uint64_t *cell = &p->cell[number % CELLS];
    uint64_t old = counter_get(cell);

    counter_add(&p->requests, 1);
    if (old >> COUNT_BITS == number) {
        counter_add(cell, (old & COUNT_MASK) < COUNT_MASK);
    } else if (old >> COUNT_BITS < number) { /* else it is older than the ring */
        atomic_store_explicit(cell, number << COUNT_BITS | 1, memory_order_relaxed);
    }
}

void arrivals_ran(struct arrivals *a, unsigned part, uint64_t compute_ns, uint64_t stalled_ns, uint32_t joined)
{
    struct part *p = &a->part[part];

    joined = MAX(joined, 1u);
    counter_add(&p->ran, 1);
    counter_add(&p->compute_ns, compute_ns);
    counter_add(&p->executor_ns, joined > 1 ? compute_ns / joined : compute_ns);
    counter_add(&p->stalled_ns, stalled_ns);
    counter_add(&p->joined, joined);
}

/* ---- reading ---- */

/* True: a span is whole. */
static bool span_add(struct span *s, unsigned cells, uint64_t n)
{
    double count;

    s->now += n;
    if (++s->cells < cells) {
        return false;
    }
    count = (double)s->now;
    s->sum += count;
    s->squares += count * count;
    s->now = s->cells = 0;
    if (++s->nth == TEN) {
        s->within += s->squares - s->sum * s->sum / TEN;
        s->total += (uint64_t)s->sum;
        s->tens++;
        s->nth = 0;
        s->sum = s->squares = 0;
    }
    return true;
}

/* There is a hole: what had begun before it is not ended. */
static void skip_to(struct arrivals *a, uint64_t next)
{
    a->next = next;
    a->minute = a->minute_cells = 0;
    for (int k = 0; k < ARRIVALS_SPANS; k++) {
        a->span[k].now = a->span[k].cells = a->span[k].nth = 0;
        a->span[k].sum = a->span[k].squares = 0;
    }
}

void arrivals_look(struct arrivals *a, uint64_t now_us)
{
    uint64_t end = (now_us - MIN(now_us, a->start_us)) / CELL_US;

    end -= MIN(end, (uint64_t)SLACK);
    if (end > a->next + CELLS - 2 * SLACK) {
        skip_to(a, end - 1);
    }
    for (; a->next < end; a->next++) {
        uint64_t n = 0;

        for (unsigned i = 0; i < a->parts; i++) {
            uint64_t cell = counter_get(&a->part[i].cell[a->next % CELLS]);

            n += cell >> COUNT_BITS == a->next ? cell & COUNT_MASK : 0;
        }
        for (int k = 0; k < ARRIVALS_SPANS; k++) {
            uint64_t count = a->span[k].now + n;

            if (span_add(&a->span[k], span_cells[k], n) && k == ARRIVALS_SPANS - 1) {
                a->ten_most = MAX(a->ten_most, count);
            }
        }
        a->minute += n;
        if (++a->minute_cells == MINUTE_CELLS) {
            a->minute_most = MAX(a->minute_most, a->minute);
            a->minutes++;
            a->minute = a->minute_cells = 0;
        }
    }
}

void arrivals_sum(const struct arrivals *a, struct arrivals_sum *out)
{
    uint64_t joined = 0, compute_ns = 0, executor_ns = 0, stalled_ns = 0;

    *out = (struct arrivals_sum){.minutes = a->minutes};
    for (unsigned i = 0; i < a->parts; i++) {
        const struct part *p = &a->part[i];

        out->requests += counter_get(&p->requests);
        out->ran += counter_get(&p->ran);
        compute_ns += counter_get(&p->compute_ns);
        executor_ns += counter_get(&p->executor_ns);
        stalled_ns += counter_get(&p->stalled_ns);
        joined += counter_get(&p->joined);
    }
    out->compute_s = (double)compute_ns * 1e-9;
    out->executor_s = (double)executor_ns * 1e-9;
    out->stalled_s = (double)stalled_ns * 1e-9;
    out->mean_joined = out->ran > 0 ? (double)joined / (double)out->ran : 1;
    out->seconds = (double)(a->next * CELL_US) * 1e-6;
    out->busiest = a->minutes > 0     ? (double)a->minute_most / 60
                   : a->ten_most > 0  ? (double)a->ten_most / 10
                   : out->seconds > 0 ? (double)out->requests / (out->seconds + (double)(SLACK * CELL_US) * 1e-6)
                                      : 0;
    double longer = (double)NAN; /* the dispersion of spans that are ten times as long */
    for (int k = ARRIVALS_SPANS - 1; k >= 0; k--) {
        const struct span *s = &a->span[k];
        bool enough = s->tens >= ENOUGH && s->total >= ENOUGH * TEN;
        double within = enough ? s->within / (TEN - 1) / ((double)s->total / TEN) : (double)NAN;

        longer = isnan(longer) ? within : enough ? ((TEN - 1) * within + longer) / TEN : (double)NAN;
        out->span[k].seconds = (double)(span_cells[k] * CELL_US) / 1e6;
        out->span[k].spans = s->tens * TEN;
        out->span[k].dispersion = longer;
    }
}
