/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of batcher.h. */
#include "inference/batcher.h"

#define ALPHA 0.125
#define PAYS_ROWS 8
#define LINGER_SHARE 8      /* of a run's predicted time */
#define LINGER_LEAST_US 100 /* below it, a sleep and a wake-up cost more than company brings */

/* ---- the prediction ---- */

/* The line through both means. Through the one that has just learned (`which`), with the slope that it had, where both
 * speak of the same size; through the origin where there is one mean only, or where two would begin below it. */
static void draw_line(struct batcher *b, unsigned which)
{
    double apart = b->mean_rows[1] - b->mean_rows[0];

    if (b->mean_rows[1] <= 0) {
        b->base = 0;
        b->row = b->mean_us[0] / b->mean_rows[0];
        return;
    }
    if (apart >= 1) {
        b->row = MAX(b->mean_us[1] - b->mean_us[0], 0.0) / apart;
    }
    b->base = b->mean_us[which] - b->row * b->mean_rows[which];
    if (b->base < 0) {
        b->base = 0;
        b->row = b->mean_us[which] / b->mean_rows[which];
    }
}

static void mean_set(struct batcher *b, unsigned which, double rows, double us)
{
    b->mean_rows[which] = rows;
    b->mean_us[which] = us;
}

/* A run counts to the mean that it is nearer to; the second begins with a run of twice or half the rows of the first.
 */
static void learn(struct batcher *b, double rows, double us)
{
    unsigned which = b->mean_rows[1] > 0 && 2 * rows > b->mean_rows[0] + b->mean_rows[1];

    if (b->mean_rows[0] <= 0) {
        mean_set(b, 0, rows, us);
    } else if (b->mean_rows[1] <= 0 && rows >= 2 * b->mean_rows[0]) {
        mean_set(b, which = 1, rows, us);
    } else if (b->mean_rows[1] <= 0 && rows <= b->mean_rows[0] / 2) {
        mean_set(b, 1, b->mean_rows[0], b->mean_us[0]);
        mean_set(b, 0, rows, us);
    } else {
        b->mean_rows[which] += ALPHA * (rows - b->mean_rows[which]);
        b->mean_us[which] += ALPHA * (us - b->mean_us[which]);
    }
    draw_line(b, which);
}

uint64_t batcher_predict_us(const struct batcher *b, uint64_t rows)
{
    return (uint64_t)(b->base + b->row * (double)rows + 0.5);
}

/* The most rows, up to `most`, whose predicted run takes no longer than that; 0: none. */
static uint64_t rows_within(const struct batcher *b, double us, uint64_t most)
{
    double rows;

    if (us < b->base) {
        return 0;
    }
    if (b->row <= 0) {
        return most;
    }
    rows = (us - b->base) / b->row;
    return rows >= (double)most ? most : (uint64_t)rows;
}

/* ---- the limit ---- */

void batcher_init(struct batcher *b, const struct batch_rule *rule, bool joins, uint64_t one_us, uint64_t many_us,
                  uint32_t many_rows)
{
    *b = (struct batcher){.rule = *rule};
    b->rule.max = joins ? MAX(rule->max, 1u) : 1;
    b->limit = b->rule.max;
    if (one_us > 0) {
        learn(b, 1, (double)one_us);
    }
    if (many_us > 0 && many_rows > 1) {
        learn(b, many_rows, (double)many_us);
    }
    if (rule->slo_us > 0) { /* two runs within it, as below; without a measurement, from the floor */
        b->limit = one_us > 0 ? (double)MAX(rows_within(b, (double)rule->slo_us / 2, b->rule.max), 1u) : 1;
    }
}

static bool pays(const struct batcher *b)
{
    return b->mean_rows[1] <= 0 || b->base * PAYS_ROWS >= b->row;
}

uint64_t batcher_limit(const struct batcher *b)
{
    return pays(b) ? MAX((uint64_t)b->limit, 1u) : 1;
}

void batcher_ran(struct batcher *b, uint64_t rows, uint64_t run_us, uint64_t worst_us, bool full)
{
    learn(b, (double)MAX(rows, 1u), (double)run_us);
    if (b->rule.slo_us == 0) {
        return;
    }
    if (MAX(worst_us, run_us) <= b->rule.slo_us) {
        b->limit += full && pays(b) && b->limit < b->rule.max ? MIN(1.0, b->rule.max - b->limit) : 0;
    } else if (run_us > b->rule.slo_us / 2) {
        b->limit = MAX(b->limit * 0.9, 1.0);
    }
}

/* ---- company ---- */

void batcher_ended(struct batcher *b, uint64_t ended_us, uint64_t rows, uint64_t waiting)
{
    uint64_t linger = batcher_predict_us(b, rows) / LINGER_SHARE;

    if (b->linger_us > 0) {
        b->company += ALPHA * ((double)(b->came - b->came_first) - b->company);
    }
    b->ended_us = ended_us;
    b->linger_us = b->rule.max > 1 && linger >= LINGER_LEAST_US ? linger : 0;
    b->around = rows + waiting;
    b->came = b->came_first = 0;
    b->led = waiting > 0;
}

void batcher_came(struct batcher *b, uint64_t submit_us, uint64_t rows)
{
    if (submit_us < b->ended_us || submit_us - b->ended_us > b->linger_us) {
        b->led = b->led || submit_us > b->ended_us;
        return;
    }
    b->came += rows;
    if (!b->led) {
        b->came_first = rows;
        b->led = true;
    }
}

/* When company is no longer waited for; 0: it is not. */
static uint64_t linger_until(const struct batcher *b, const struct batch_view *v, uint64_t now_us)
{
    uint64_t until = b->ended_us + b->linger_us;

    if (b->linger_us == 0 || now_us >= until || v->rows >= b->around ||
        (double)(until - now_us) * (double)v->rows >= b->company * b->base) {
        return 0;
    }
    return until;
}

/* ---- the decision ---- */

struct batch_answer batcher_next(const struct batcher *b, const struct batch_view *v, uint64_t now_us)
{
    uint64_t most = batcher_limit(b), until, latest;

    if (v->deadline_us != UINT64_MAX) {
        uint64_t left = v->deadline_us > now_us ? v->deadline_us - now_us : 0;
        most = MIN(most, rows_within(b, (double)left, most));
    }
    most = MAX(most, MAX(v->first_rows, 1u));
    if (v->rows < most) {
        until = v->submit_us > 0 ? v->submit_us + MIN(b->rule.delay_us, UINT64_MAX / 2) : 0;
        until = b->rule.max > 1 && b->rule.delay_us > 0 ? until : 0;
        until = MAX(until, linger_until(b, v, now_us));
        latest = 2 * batcher_predict_us(b, v->rows);
        latest = v->deadline_us > latest ? v->deadline_us - latest : 0;
        until = v->deadline_us == UINT64_MAX ? until : MIN(until, latest);
        if (until > now_us) {
            return (struct batch_answer){.until_us = until};
        }
    }
    return (struct batch_answer){.rows = MIN(v->rows, most)};
}
