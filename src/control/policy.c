/* SPDX-License-Identifier: Apache-2.0 */
/* Policies of rollouts: their settings and steps; and how a policy and the progress of a rollout are stored.
 *
 * Both are stored as flat JSON objects by tables of settings: a value is written as weir.yaml would have it ("10m",
 * "5%") and read back by the parser of weir.yaml, with the same bounds. Every field must be there, once, but those that
 * older releases had not. */
#include <stdio.h>

#include "base/json.h"
#include "control/rollout.h"

const char *const rollout_phase_names[] = {"warmup", "bake", "paused", "soak", "ended", NULL};
const char *const pause_reason_names[] = {"",       "person",       "ratio",        "stable_sick", "nodata",
                                          "errors", "inconclusive", "step_timeout", NULL};
const char *const experiment_outcome_names[] = {"", "shipped", "kept", "harm", "invalid", "expired", NULL};

#define HOURS(n) ((uint64_t)(n) * 3600000000u)
enum { LONGEST_DAYS = 365 };

/* clang-format off */
static const char *const unclear_words[] = {"advance", "hold", NULL};
static const char *const silence_words[] = {"hold", "abort", NULL};
static const char *const newer_words[] = {"replace", "refuse", NULL};

#define AT(field) offsetof(struct rollout_policy, field)
#define LONGEST HOURS(24 * LONGEST_DAYS)
const struct setting policy_settings[] = {
    {"bake", SET_DURATION, AT(bake_us), "10m", 0, LONGEST, NULL, "how long a step is judged at least"},
    {"warmup", SET_DURATION, AT(warmup_us), "30s", 0, LONGEST, NULL, "time before the bake of each step begins"},
    {"interval", SET_DURATION, AT(interval_us), "1s", 100000, HOURS(1), NULL, "between two judgements"},
    {"min_requests", SET_U64, AT(min_requests), "100", 1, 1000000000, NULL,
        "answers of the candidate that each step needs"},
    {"alpha_ppm", SET_U64, AT(alpha_ppm), "10000", 1, 500000, NULL,
        "chance of a false rollback, in millionths: 10000 is 1 %"},
    {"margin", SET_SHARE, AT(margin_bp), "0%", 0, 0, NULL, "tolerated relative excess of errors and invalid outputs"},
    {"slow_margin", SET_SHARE, AT(slow_margin_bp), "10%", 0, 0, NULL, "tolerated relative excess of slow answers"},
    {"max_errors", SET_SHARE, AT(error_limit_bp), "0%", 0, 9999, NULL, "most tolerated share of errors; 0%: no limit"},
    {"max_slow", SET_SHARE, AT(slow_limit_bp), "0%", 0, 9999, NULL,
        "most tolerated share of answers slower than the stable version's p95; 0%: no limit"},
    {"max_invalid", SET_SHARE, AT(invalid_limit_bp), "0%", 0, 9999, NULL,
        "most tolerated share of invalid outputs; 0%: no limit"},
    {"dry_run", SET_BOOL, AT(dry_run), "off", 0, 0, NULL, "harm is told and never rolled back by itself"},
    {"on_inconclusive", SET_ENUM, AT(on_inconclusive), "advance", 0, 0, unclear_words,
        "a suspicion at the end of a bake"},
    {"on_nodata", SET_ENUM, AT(on_nodata), "hold", 0, 0, silence_words, "no answers for nodata_timeout"},
    {"nodata_timeout", SET_DURATION, AT(nodata_timeout_us), "24h", 0, LONGEST, NULL,
        "without an answer of the candidate; 0: never"},
    {"error_limit", SET_U64, AT(error_limit), "4", 1, 1000, NULL, "failed judgements in a row, then it pauses"},
    {"step_timeout", SET_DURATION, AT(step_timeout_us), "6h", 0, LONGEST, NULL,
        "a step that takes longer pauses; 0: never"},
    {"pause_timeout", SET_DURATION, AT(pause_timeout_us), "0", 0, LONGEST, NULL,
        "a pause that takes longer ends the rollout; 0: never"},
    {"soak", SET_DURATION, AT(soak_us), "1h", 0, LONGEST, NULL,
        "after the promotion, with the way back kept open"},
    {"supersede", SET_ENUM, AT(supersede), "replace", 0, 0, newer_words, "when a newer rollout is started"},
    {"max_wrong", SET_SHARE, AT(wrong_limit_bp), "0%", 0, 9999, NULL,
        "most tolerated share of labelled answers that are wrong; 0%: no limit"},
    {"wrong_margin", SET_SHARE, AT(wrong_margin_bp), "0%", 0, 0, NULL,
        "tolerated relative excess of wrong answers, as feedback says"},
    {"reward_margin", SET_SHARE, AT(reward_margin_bp), "0%", 0, 0, NULL,
        "tolerated relative loss of the mean reward"},
};
const size_t n_policy_settings = COUNT_OF(policy_settings);
static const struct setting automatic_row =
    {"automatic", SET_BOOL, AT(automatic), "on", 0, 0, NULL, "off: only a person moves it on"};
/* clang-format on */

enum { LATER = 3 }; /* the last settings: not stored by older releases */

/* ---- steps ---- */

static struct str trim(struct str s)
{
    while (s.n > 0 && s.p[0] == ' ') {
        s = (struct str){s.p + 1, s.n - 1};
    }
    while (s.n > 0 && s.p[s.n - 1] == ' ') {
        s.n--;
    }
    return s;
}

/* any: shares of 0 and of 100 % too, as a person may set them. */
static enum err_code steps_read(struct rollout_policy *p, struct str text, bool any, struct err *e)
{
    uint32_t step[ROLLOUT_STEPS];
    uint32_t n = 0;
    uint64_t bp;

    for (bool more = true; more;) {
        const char *comma = text.n > 0 ? memchr(text.p, ',', text.n) : NULL;
        struct str one = trim((struct str){text.p, comma ? (size_t)(comma - text.p) : text.n});

        if (n == ROLLOUT_STEPS) {
            return err_set(e, ERR_INVALID, "steps: more than %d", ROLLOUT_STEPS);
        }
        if (!parse_share(one, &bp)) {
            return err_set(e, ERR_INVALID, "steps: '%.*s' is not a share such as 5%% or 12.25%%", (int)MIN(one.n, 40),
                           one.p ? one.p : "");
        }
        if (!any && (bp == 0 || bp >= 10000)) {
            return err_set(e, ERR_INVALID, "steps: " STR_FMT " is not above 0%% and below 100%%", STR_ARG(one));
        }
        if (n > 0 && bp <= step[n - 1]) {
            return err_set(e, ERR_INVALID, "steps: " STR_FMT " is not more than the step before it", STR_ARG(one));
        }
        step[n++] = (uint32_t)bp;
        more = comma != NULL;
        if (more) {
            text = (struct str){comma + 1, (size_t)(text.p + text.n - comma - 1)};
        }
    }
    memcpy(p->step, step, n * sizeof(step[0]));
    p->n_steps = n;
    return ERR_OK;
}

enum err_code policy_steps(struct rollout_policy *p, struct str text, struct err *e)
{
    return steps_read(p, text, false, e);
}

void policy_default(struct rollout_policy *p, const char *name)
{
    static const uint32_t steps[] = {100, 500, 1000, 2500, 5000};

    *p = (struct rollout_policy){.automatic = true, .n_steps = COUNT_OF(steps)};
    str_copy(p->name, sizeof(p->name), str_of(name));
    memcpy(p->step, steps, sizeof(steps));
    settings_defaults(policy_settings, n_policy_settings, p);
}

void policy_manual(struct rollout_policy *p, uint32_t share_bp)
{
    policy_default(p, "manual");
    p->automatic = false;
    p->n_steps = 1;
    memset(p->step, 0, sizeof(p->step));
    p->step[0] = share_bp;
    p->soak_us = p->nodata_timeout_us = p->step_timeout_us = p->pause_timeout_us = 0;
}

void policy_experiment(struct rollout_policy *p, uint32_t share_bp)
{
    policy_default(p, "experiment");
    p->automatic = false;
    p->n_steps = 1;
    memset(p->step, 0, sizeof(p->step));
    p->step[0] = share_bp;
    p->warmup_us = p->nodata_timeout_us = p->step_timeout_us = p->pause_timeout_us = 0;
    p->supersede = NEWER_REFUSED;
    experiment_default(&p->experiment);
}

/* A dry run is the machine's matter: the judge is to see the same harm. */
void policy_rule(const struct rollout_policy *p, struct judge_rule *out)
{
    const double bp = 10000;

    *out = (struct judge_rule){.alpha = (double)p->alpha_ppm / 1e6, .min_requests = p->min_requests};
    out->margin[METRIC_ERRORS] = out->margin[METRIC_INVALID] = (double)p->margin_bp / bp;
    out->margin[METRIC_SLOW95] = out->margin[METRIC_SLOW99] = (double)p->slow_margin_bp / bp;
    out->limit[METRIC_ERRORS] = (double)p->error_limit_bp / bp;
    out->limit[METRIC_SLOW95] = (double)p->slow_limit_bp / bp;
    out->limit[METRIC_INVALID] = (double)p->invalid_limit_bp / bp;
    out->limit[METRIC_WRONG] = (double)p->wrong_limit_bp / bp;
    out->margin[METRIC_WRONG] = (double)p->wrong_margin_bp / bp;
    out->margin[METRIC_REWARD] = (double)p->reward_margin_bp / bp;
}

/* ---- values as text ---- */

static void share_text(struct buf *out, uint64_t bp)
{
    buf_addu(out, bp / 100);
    if (bp % 100 != 0) {
        buf_addf(out, ".%02u", (unsigned)(bp % 100));
    }
    buf_addc(out, '%');
}

static void duration_text(struct buf *out, uint64_t us)
{
    static const struct {
        const char *name;
        uint64_t us;
    } units[] = {{"d", 86400000000u}, {"h", 3600000000u}, {"m", 60000000}, {"s", 1000000}, {"ms", 1000}, {"us", 1}};
    size_t i = 0;

    while (us % units[i].us != 0) {
        i++;
    }
    buf_addu(out, us / units[i].us);
    buf_addz(out, us == 0 ? "" : units[i].name);
}

static void field_json(struct buf *out, const struct setting *row, const void *from)
{
    const char *field = (const char *)from + row->offset;
    uint64_t number = 0;
    bool flag;
    int word;

    json_key(out, row->name);
    switch (row->type) {
    case SET_BOOL:
        memcpy(&flag, field, sizeof(flag));
        buf_addz(out, flag ? "true" : "false");
        return;
    case SET_ENUM:
        memcpy(&word, field, sizeof(word));
        json_strz(out, row->words[word]);
        return;
    case SET_DURATION:
        memcpy(&number, field, sizeof(number));
        buf_addc(out, '"');
        duration_text(out, number);
        buf_addc(out, '"');
        return;
    case SET_SHARE:
        memcpy(&number, field, sizeof(number));
        buf_addc(out, '"');
        share_text(out, number);
        buf_addc(out, '"');
        return;
    default:
        memcpy(&number, field, sizeof(number));
        buf_addu(out, number);
        return;
    }
}

void policy_json(struct buf *out, const struct rollout_policy *p)
{
    BUF_LIT(out, "{");
    json_key(out, "name");
    json_strz(out, p->name);
    json_key(out, "steps");
    buf_addc(out, '"');
    for (uint32_t i = 0; i < p->n_steps; i++) {
        buf_addz(out, i > 0 ? "," : "");
        share_text(out, p->step[i]);
    }
    buf_addc(out, '"');
    field_json(out, &automatic_row, p);
    for (size_t i = 0; i < n_policy_settings; i++) {
        field_json(out, &policy_settings[i], p);
    }
    if (policy_tests(p)) {
        json_key(out, "experiment");
        experiment_json(out, &p->experiment);
    }
    BUF_LIT(out, "}");
}

/* ---- and back ---- */

struct reading {
    const char *what; /* for messages: "policy" */
    struct json_reader r;
    uint32_t had; /* bits of the rows that were read */
    struct err *e;
};

static enum err_code refuse(const struct reading *in, const char *why)
{
    return err_set(in->e, ERR_STORAGE, "a stored %s can not be read: %s", in->what, why);
}

/* The value that follows the key. */
static enum err_code field_read(struct reading *in, const struct setting *row, void *into)
{
    char text[64];
    struct err why;
    enum json_kind kind = json_next(&in->r), want = row->type == SET_U64 ? JSON_NUMBER : JSON_STRING;

    if (row->type == SET_BOOL && (kind == JSON_TRUE || kind == JSON_FALSE)) {
        snprintf(text, sizeof(text), "%s", kind == JSON_TRUE ? "on" : "off");
    } else if (row->type == SET_BOOL || kind != want || !str_copy(text, sizeof(text), in->r.text)) {
        return refuse(in, row->name);
    }
    if (settings_set(row, text, into, row->name, &why) != ERR_OK) {
        return refuse(in, why.text);
    }
    return ERR_OK;
}

/* Which row of the table the key names; n: none, or it was there before. */
static size_t row_take(struct reading *in, const struct setting *table, size_t n)
{
    size_t i = 0;

    while (i < n && !json_text_is(&in->r, table[i].name)) {
        i++;
    }
    if (i < n && in->had & 1u << i) {
        return n;
    }
    in->had |= i < n ? 1u << i : 0;
    return i;
}

static enum err_code text_read(struct reading *in, bool is_name, struct rollout_policy *p)
{
    struct err why;

    if (json_next(&in->r) != JSON_STRING) {
        return refuse(in, is_name ? "name" : "steps");
    }
    if (is_name && (!name_ok(in->r.text) || !str_copy(p->name, sizeof(p->name), in->r.text))) {
        return refuse(in, "name");
    }
    if (!is_name && steps_read(p, in->r.text, true, &why) != ERR_OK) {
        return refuse(in, why.text);
    }
    return ERR_OK;
}

/* The value of the key "experiment": an object with its own reader. */
static enum err_code tests_read(struct reading *in, struct str json, struct rollout_policy *p)
{
    size_t from;

    if (json_next(&in->r) != JSON_OBJECT) {
        return refuse(in, "experiment");
    }
    from = json_offset(&in->r) - 1;
    if (!json_skip(&in->r)) {
        return refuse(in, "experiment");
    }
    return experiment_read(&p->experiment, (struct str){json.p + from, json_offset(&in->r) - from}, in->e);
}

enum err_code policy_read(struct rollout_policy *p, struct str json, struct err *e)
{
    enum { NAME, STEPS, AUTOMATIC, FIRST, TESTS = FIRST + COUNT_OF(policy_settings) }; /* the last may be absent */
    struct setting table[TESTS + 1] = {
        {.name = "name"}, {.name = "steps"}, automatic_row, [TESTS] = {.name = "experiment"}};
    struct reading in = {.what = "policy", .e = e};
    struct rollout_policy got = {0};
    enum err_code code = ERR_OK;

    settings_defaults(policy_settings + n_policy_settings - LATER, LATER, &got);
    memcpy(table + FIRST, policy_settings, sizeof(policy_settings));
    json_reader_init(&in.r, json);
    if (json_next(&in.r) != JSON_OBJECT) {
        return refuse(&in, "it is no object");
    }
    while (code == ERR_OK && json_next(&in.r) == JSON_KEY) {
        size_t i = row_take(&in, table, COUNT_OF(table));
        if (i == COUNT_OF(table)) {
            return refuse(&in, "a field that it has not, or twice");
        }
        code = i < AUTOMATIC ? text_read(&in, i == NAME, &got)
               : i == TESTS  ? tests_read(&in, json, &got)
                             : field_read(&in, &table[i], &got);
    }
    if (code != ERR_OK) {
        return code;
    }
    if (in.r.kind != JSON_OBJECT_END || json_next(&in.r) != JSON_END) {
        return refuse(&in, "it is no object, or something stands behind it");
    }
    if ((in.had | ~0u << (TESTS - LATER)) != ~0u) {
        return refuse(&in, "a field is missing");
    }
    *p = got;
    return ERR_OK;
}

/* ---- progress ---- */

/* As it is stored: numbers in the width that settings have. */
struct stored {
    int phase, pause, paused_in, outcome;
    bool told, invalid;
    uint64_t step, share_bp, waived, spent_us, kept_us, step_us, silent_us, answered, seen, failures;
};

#define IN(field) #field, SET_U64, offsetof(struct stored, field), NULL
static const struct setting stored_rows[] = {
    {"phase", SET_ENUM, offsetof(struct stored, phase), NULL, 0, 0, rollout_phase_names, NULL},
    {IN(step), 0, ROLLOUT_STEPS - 1, NULL, NULL},
    {IN(share_bp), 0, 10000, NULL, NULL},
    {"pause", SET_ENUM, offsetof(struct stored, pause), NULL, 0, 0, pause_reason_names, NULL},
    {"paused_in", SET_ENUM, offsetof(struct stored, paused_in), NULL, 0, 0, rollout_phase_names, NULL},
    {IN(spent_us), 0, 0, NULL, NULL},
    {IN(kept_us), 0, 0, NULL, NULL},
    {IN(step_us), 0, 0, NULL, NULL},
    {IN(silent_us), 0, 0, NULL, NULL},
    {IN(answered), 0, 0, NULL, NULL},
    {IN(seen), 0, 0, NULL, NULL},
    {IN(failures), 0, 0, NULL, NULL},
    {IN(waived), 0, (1u << (PAUSE_STEP_TIMEOUT + 1)) - 1, NULL, NULL},
    {"told", SET_BOOL, offsetof(struct stored, told), NULL, 0, 0, NULL, NULL},
    /* of experiments: absent, both, when they say nothing */
    {"invalid", SET_BOOL, offsetof(struct stored, invalid), NULL, 0, 0, NULL, NULL},
    {"outcome", SET_ENUM, offsetof(struct stored, outcome), NULL, 0, 0, experiment_outcome_names, NULL},
};
enum { STORED = COUNT_OF(stored_rows), STORED_ALWAYS = STORED - 2 };

void rollout_progress_json(struct buf *out, const struct rollout_progress *s)
{
    const struct stored t = {
        .phase = s->phase,
        .pause = s->pause,
        .paused_in = s->paused_in,
        .told = s->told,
        .invalid = s->invalid,
        .outcome = s->outcome,
        .step = s->step,
        .share_bp = s->share_bp,
        .waived = s->waived,
        .spent_us = s->spent_us,
        .kept_us = s->kept_us,
        .step_us = s->step_us,
        .silent_us = s->silent_us,
        .answered = s->answered,
        .seen = s->seen,
        .failures = s->failures,
    };

    BUF_LIT(out, "{");
    for (size_t i = 0; i < (t.invalid || t.outcome != OUTCOME_NONE ? STORED : STORED_ALWAYS); i++) {
        field_json(out, &stored_rows[i], &t);
    }
    BUF_LIT(out, "}");
}

/* What no machine of ours leaves behind. */
static const char *nonsense(const struct stored *t)
{
    bool paused = t->phase == PHASE_PAUSED;

    if (paused != (t->pause != PAUSE_NONE) || (paused && t->paused_in > PHASE_BAKE)) {
        return "its phase and its pause contradict each other";
    }
    if (t->phase == PHASE_SOAK && t->share_bp != 10000) {
        return "its phase and its share contradict each other";
    }
    return t->answered > t->seen ? "more answers than were seen" : NULL;
}

enum err_code rollout_progress_read(struct rollout_progress *s, struct str json, struct err *e)
{
    struct reading in = {.what = "rollout", .e = e};
    struct stored t = {0};
    const char *why;

    json_reader_init(&in.r, json);
    if (json_next(&in.r) != JSON_OBJECT) {
        return refuse(&in, "it is no object");
    }
    while (json_next(&in.r) == JSON_KEY) {
        size_t i = row_take(&in, stored_rows, STORED);
        if (i == STORED) {
            return refuse(&in, "a field that it has not, or twice");
        }
        if (field_read(&in, &stored_rows[i], &t) != ERR_OK) {
            return ERR_STORAGE;
        }
    }
    if (in.r.kind != JSON_OBJECT_END || json_next(&in.r) != JSON_END) {
        return refuse(&in, "it is no object, or something stands behind it");
    }
    in.had |= in.had >> STORED_ALWAYS == 0 ? 3u << STORED_ALWAYS : 0;
    why = in.had != (1u << STORED) - 1 ? "a field is missing" : nonsense(&t);
    if (why) {
        return refuse(&in, why);
    }
    *s = (struct rollout_progress){
        .phase = t.phase,
        .step = (uint32_t)t.step,
        .share_bp = (uint32_t)t.share_bp,
        .pause = t.pause,
        .paused_in = t.paused_in,
        .spent_us = t.spent_us,
        .kept_us = t.kept_us,
        .step_us = t.step_us,
        .silent_us = t.silent_us,
        .answered = t.answered,
        .seen = t.seen,
        .failures = t.failures,
        .waived = (uint32_t)t.waived,
        .told = t.told,
        .invalid = t.invalid,
        .outcome = t.outcome,
    };
    return ERR_OK;
}
