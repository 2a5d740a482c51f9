/* SPDX-License-Identifier: Apache-2.0 */
/* Experiments: what one is told to look for, and what it has found. */
#include "control/experiment.h"

#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "control/words.h"

#define DAYS(n) ((uint64_t)(n) * 86400000000u)
#define TUNED_TO 5000.0 /* values at which the interval is tightest */

/* ---- what it is told ---- */

void experiment_default(struct experiment *x)
{
    *x = (struct experiment){.min_us = DAYS(7), .for_us = DAYS(28), .alpha_ppm = 50000};
}

static bool take_end(struct str *s, struct str end)
{
    bool has = s->n > end.n && memcmp(s->p + s->n - end.n, end.p, end.n) == 0;

    s->n -= has ? end.n : 0;
    return has;
}

enum err_code experiment_goal_read(struct experiment *x, struct str text, struct err *e)
{
    static const struct str output = {"output:", 7};
    struct str name = text;
    bool lower;

    if (str_is(text, "reward") || str_is(text, "accuracy")) {
        x->goal = str_is(text, "reward") ? GOAL_REWARD : GOAL_ACCURACY;
        x->lower = false;
        x->output[0] = '\0';
        return ERR_OK;
    }
    if (text.n <= output.n || memcmp(text.p, output.p, output.n) != 0) {
        return err_set(e, ERR_INVALID,
                       "'%.*s' is no goal: it is reward, accuracy, output:NAME (the more the better) or "
                       "output:NAME:lower",
                       (int)MIN(text.n, (size_t)60), text.p ? text.p : "");
    }
    name = (struct str){text.p + output.n, text.n - output.n};
    lower = take_end(&name, STR(":lower"));
    if (!lower) {
        (void)take_end(&name, STR(":higher"));
    }
    if (!str_copy(x->output, sizeof(x->output), name)) {
        return err_set(e, ERR_INVALID, "the goal's output has a name of more than %d characters", TENSOR_NAME_MAX);
    }
    x->goal = GOAL_OUTPUT;
    x->lower = lower;
    return ERR_OK;
}

void experiment_goal_text(const struct experiment *x, struct buf *out)
{
    switch ((enum goal_kind)x->goal) {
    case GOAL_REWARD:
        BUF_LIT(out, "reward");
        break;
    case GOAL_ACCURACY:
        BUF_LIT(out, "accuracy");
        break;
    case GOAL_OUTPUT: /* with the direction, as the name may end in one */
        BUF_LIT(out, "output:");
        buf_addz(out, x->output);
        buf_addz(out, x->lower ? ":lower" : ":higher");
        break;
    case GOAL_NONE:
        break;
    }
}

void experiment_json(struct buf *out, const struct experiment *x)
{
    char goal[TENSOR_NAME_MAX + 32];
    struct buf text;

    buf_init(&text, sizeof(goal));
    experiment_goal_text(x, &text);
    snprintf(goal, sizeof(goal), "%s", buf_z(&text));
    buf_done(&text);
    BUF_LIT(out, "{\"goal\":");
    json_strz(out, goal);
    buf_addf(out, ",\"min_us\":%llu,\"for_us\":%llu,\"alpha_ppm\":%llu,\"margin_bp\":%llu}",
             (unsigned long long)x->min_us, (unsigned long long)x->for_us, (unsigned long long)x->alpha_ppm,
             (unsigned long long)x->margin_bp);
}

static bool number_of(yyjson_val *o, const char *key, uint64_t least, uint64_t most, uint64_t *out)
{
    yyjson_val *v = yyjson_obj_get(o, key);

    *out = yyjson_get_uint(v);
    return yyjson_is_uint(v) && *out >= least && *out <= most;
}

enum err_code experiment_read(struct experiment *x, struct str json, struct err *e)
{
    yyjson_doc *doc = yyjson_read(json.p, json.n, 0);
    yyjson_val *o = yyjson_doc_get_root(doc), *goal = yyjson_obj_get(o, "goal");
    struct experiment got = {0};
    struct err why;
    bool ok = yyjson_is_str(goal) && yyjson_obj_size(o) == 5 &&
              experiment_goal_read(&got, (struct str){yyjson_get_str(goal), yyjson_get_len(goal)}, &why) == ERR_OK &&
              number_of(o, "min_us", 0, DAYS(365), &got.min_us) && number_of(o, "for_us", 1, DAYS(365), &got.for_us) &&
              number_of(o, "alpha_ppm", 1, 500000, &got.alpha_ppm) &&
              number_of(o, "margin_bp", 0, 10000, &got.margin_bp);

    yyjson_doc_free(doc);
    if (!ok) {
        return err_set(e, ERR_STORAGE, "a stored policy can not be read: experiment");
    }
    *x = got;
    return ERR_OK;
}

static bool has_numbers(const struct tensor_info *t)
{
    return t->dtype != DTYPE_NONE && t->dtype != DTYPE_BYTES;
}

static enum err_code find_output(const char *name, const struct model_info *info, const char *which, struct err *e)
{
    char known[200] = "";
    struct line l = {known, sizeof(known), 0};

    for (uint32_t i = 0; i < info->n_out; i++) {
        if (strcmp(info->out[i].name, name) == 0 && has_numbers(&info->out[i])) {
            return ERR_OK;
        }
        if (has_numbers(&info->out[i])) {
            words_add(&l, "%s%s", known[0] ? ", " : "", info->out[i].name);
        }
    }
    return err_set(e, ERR_INVALID, "the %s version has no output '%.60s' with numbers; with numbers it has: %s", which,
                   name, known[0] ? known : "none");
}

enum err_code experiment_fits(const struct experiment *x, const struct model_info *stable,
                              const struct model_info *candidate, struct err *e)
{
    if (x->goal != GOAL_OUTPUT) {
        return ERR_OK;
    }
    if (find_output(x->output, stable, "stable", e) != ERR_OK) {
        return e->code;
    }
    return find_output(x->output, candidate, "candidate", e);
}

/* ---- what it has found ---- */

const char *const experiment_result_names[] = {
    [RESULT_FEW] = "few",        [RESULT_UNCLEAR] = "unclear", [RESULT_BETTER] = "better",
    [RESULT_SAME] = "not_worse", [RESULT_WORSE] = "worse",     [RESULT_HIDDEN] = "hidden"};

bool experiment_good(const struct experiment_finding *f)
{
    return f->result == RESULT_BETTER || f->result == RESULT_SAME;
}

static uint64_t groups_of(const struct goal_arm *a)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < STATS_GROUPS; i++) {
        n += a->n[i] > 0;
    }
    return n;
}

/* A number in the goal's unit: shares are told in percent. */
static void add_value(struct line *l, const struct experiment *x, double v, bool difference)
{
    if (x->goal == GOAL_ACCURACY) {
        words_add(l, difference ? "%+.2f" : "%.2f %%", 100 * v);
    } else {
        words_add(l, difference ? "%+.4g" : "%.4g", v);
    }
}

static void say_numbers(struct line *l, const struct experiment *x, const struct experiment_finding *f, int64_t stable)
{
    double before = f->mean[JUDGE_STABLE].mean;

    words_add(l, ": %s ", x->goal == GOAL_REWARD ? "reward" : x->goal == GOAL_ACCURACY ? "accuracy" : x->output);
    add_value(l, x, f->mean[JUDGE_CANARY].mean, false);
    words_add(l, ", of version %lld ", (long long)stable);
    add_value(l, x, before, false);
    words_add(l, ": ");
    add_value(l, x, f->lift.lift, true);
    words_add(l, "%s (", x->goal == GOAL_ACCURACY ? " points" : "");
    if (fabs(before) > 0 && x->goal != GOAL_ACCURACY) {
        words_add(l, "%+.1f %%; ", 100 * f->lift.lift / fabs(before));
    }
    words_add(l, "always-valid %.4g %%: ", 100 - (double)x->alpha_ppm / 1e4);
    add_value(l, x, f->lift.low, true);
    words_add(l, " to ");
    add_value(l, x, f->lift.high, true);
    words_add(l, ")");
    if (x->margin_bp > 0) {
        words_add(l, ", a margin of ");
        add_value(l, x, f->tolerated, false);
        words_add(l, " given");
    }
}

static void say_few(struct line *l, const struct experiment_finding *f, int64_t stable, int64_t candidate)
{
    words_add(l, "too few values yet: %s of version %lld", words_count((uint64_t)f->mean[JUDGE_CANARY].n).z,
              (long long)candidate);
    words_add(l, ", %s of version %lld; an interval needs %d of each", words_count((uint64_t)f->mean[JUDGE_STABLE].n).z,
              (long long)stable, EXPERIMENT_LEAST);
    if (f->mean[JUDGE_CANARY].n >= EXPERIMENT_LEAST && f->mean[JUDGE_STABLE].n >= EXPERIMENT_LEAST) {
        words_add(l, ", from more users than these");
    }
}

static void say(struct experiment_finding *f, const struct experiment *x, int64_t stable, int64_t candidate)
{
    struct line l = {f->text, sizeof(f->text), 0};

    switch (f->result) {
    case RESULT_HIDDEN:
        words_add(&l, "hidden: users are not split 1:1 as ordered, so what the arms did can not be compared (chance "
                      "does that in fewer than 1 of 1,000 experiments); find what sends users to one arm only");
        return;
    case RESULT_FEW:
        say_few(&l, f, stable, candidate);
        return;
    case RESULT_UNCLEAR:
        words_add(&l, "no difference to be seen yet");
        break;
    case RESULT_BETTER:
    case RESULT_WORSE:
        words_add(&l, "version %lld is %s", (long long)candidate, f->result == RESULT_BETTER ? "better" : "worse");
        break;
    case RESULT_SAME:
        words_add(&l, "version %lld is not worse", (long long)candidate);
        break;
    }
    say_numbers(&l, x, f, stable);
}

/* Good is up from here. */
static enum experiment_result result_of(const struct experiment *x, const struct experiment_finding *f)
{
    double low = x->lower ? -f->lift.high : f->lift.low, high = x->lower ? -f->lift.low : f->lift.high;

    if (low > 0) {
        return RESULT_BETTER;
    }
    if (x->margin_bp > 0 && low > -f->tolerated) {
        return RESULT_SAME;
    }
    return high < 0 ? RESULT_WORSE : RESULT_UNCLEAR;
}

void experiment_judge(const struct experiment *x, const struct goal_counts *counts, int64_t stable, int64_t candidate,
                      bool invalid, struct experiment_finding *out)
{
    bool few = false;

    *out = (struct experiment_finding){.result = RESULT_HIDDEN};
    if (!invalid) {
        for (unsigned arm = 0; arm < JUDGE_ARMS; arm++) {
            const struct goal_arm *a = &counts->arm[arm];

            out->mean[arm] = stats_grouped(a->y, a->n, STATS_GROUPS);
            out->groups[arm] = groups_of(a);
            out->dropped[arm] = counts->dropped[arm];
            few |= out->mean[arm].n < EXPERIMENT_LEAST || out->groups[arm] < EXPERIMENT_LEAST;
        }
        out->lift = stats_difference(&out->mean[JUDGE_STABLE], &out->mean[JUDGE_CANARY], false, false,
                                     (double)x->alpha_ppm / 1e6, TUNED_TO);
        out->tolerated = (double)x->margin_bp / 1e4 * fabs(out->mean[JUDGE_STABLE].mean);
        out->result = few || !isfinite(out->lift.low) ? RESULT_FEW : result_of(x, out);
    }
    say(out, x, stable, candidate);
}

/* ---- as JSON ---- */

static void put_number(struct buf *out, const char *key, double v)
{
    json_key(out, key);
    json_f64(out, v);
}

static void put_arm(struct buf *out, const char *key, const struct experiment_finding *f, unsigned arm)
{
    json_key(out, key);
    buf_addf(out, "{\"n\":%llu,\"groups\":%llu,\"dropped\":%llu", (unsigned long long)f->mean[arm].n,
             (unsigned long long)f->groups[arm], (unsigned long long)f->dropped[arm]);
    put_number(out, "mean", f->mean[arm].n > 0 ? f->mean[arm].mean : NAN);
    put_number(out, "se", f->mean[arm].se);
    BUF_LIT(out, "}");
}

void experiment_finding_json(struct buf *out, const struct experiment *x, const struct experiment_finding *f)
{
    BUF_LIT(out, "{\"result\":");
    json_strz(out, experiment_result_names[f->result]);
    json_key(out, "text");
    json_strz(out, f->text);
    if (f->result != RESULT_HIDDEN) {
        put_arm(out, "stable", f, JUDGE_STABLE);
        put_arm(out, "canary", f, JUDGE_CANARY);
    }
    if (f->result != RESULT_HIDDEN && f->result != RESULT_FEW) {
        json_key(out, "difference");
        buf_addc(out, '{');
        put_number(out, "low", f->lift.low);
        put_number(out, "mid", f->lift.lift);
        put_number(out, "high", f->lift.high);
        put_number(out, "p", f->lift.p);
        put_number(out, "tolerated", x->lower ? f->tolerated : -f->tolerated);
        BUF_LIT(out, "}");
    }
    BUF_LIT(out, "}");
}
