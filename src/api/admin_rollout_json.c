/* SPDX-License-Identifier: Apache-2.0 */
/* A rollout as JSON: what was ordered, where it is and what it waits for, what its judge says, and both arms.
 *
 * A rollout that soaks is shown like a running one whose candidate has all the traffic; the stable version's arm is
 * then what it was when the candidate took over.
 *
 * Thread: control's loop. */
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

#define WHOLE_BP 10000

bool rollout_live(const struct model *m)
{
    return rollout_running(m) || rollout_soaking(m);
}

static int64_t share_now(const struct model *m)
{
    return rollout_soaking(m) ? WHOLE_BP : m->rollout.share_bp;
}

/* The candidate's series: after its promotion it is the stable version's, and goes on. */
static struct series *candidate_series(const struct model *m)
{
    return rollout_soaking(m) ? m->stable_series : m->canary_series;
}

int64_t counting_since(const struct model *m)
{
    const struct series *s = candidate_series(m);
    int64_t since = s ? series_since_ms(s) : m->rollout.started_ms;

    return since - m->rollout.started_ms < 1000 ? m->rollout.started_ms : since;
}

/* ---- where it is ---- */

static void put_seconds(struct buf *b, const char *key, uint64_t us)
{
    json_key(b, key);
    buf_addf(b, "%.1f", (double)us / 1e6);
}

static void put_null(struct buf *b, const char *key)
{
    json_key(b, key);
    BUF_LIT(b, "null");
}

static void put_place(struct buf *b, const struct model *m)
{
    const struct rollout_policy *p = &m->policy;
    const struct rollout_progress *s = &m->progress;
    bool live = rollout_live(m);
    uint64_t earliest = live ? rollout_earliest_us(p, s) : 0;
    bool by_itself = earliest > 0 || (p->automatic && s->phase != PHASE_PAUSED) || s->phase == PHASE_SOAK;

    json_put_text(b, "phase", rollout_phase_names[live ? s->phase : PHASE_ENDED]);
    json_put_count(b, "step", MIN(s->step + 1, MAX(p->n_steps, 1u)));
    json_key(b, "steps");
    BUF_LIT(b, "[");
    for (uint32_t i = 0; i < p->n_steps; i++) {
        json_comma(b);
        buf_addu(b, p->step[i]);
    }
    BUF_LIT(b, "]");
    json_put_text(b, "pause",
                  live && s->phase == PHASE_PAUSED && s->pause != PAUSE_NONE ? pause_reason_names[s->pause] : NULL);
    put_seconds(b, "spent_s", live ? s->spent_us : 0);
    if (live && by_itself) {
        put_seconds(b, "earliest_s", earliest);
    } else {
        put_null(b, "earliest_s");
    }
}

void rollout_waits(const struct model *m, char *text, size_t cap)
{
    static const struct judgement none = {.verdict = VERDICT_NODATA};

    text[0] = '\0';
    if (rollout_live(m)) {
        rollout_waits_for(&m->policy, &m->progress, m->judgement.text[0] ? &m->judgement : &none, m->row.name, text,
                          cap);
    }
}

/* ---- what is known about it ---- */

static void put_slow(struct buf *b, const struct judge_counts *c)
{
    json_key(b, "slow_ms");
    if (c->slow_ns[0] == 0) {
        BUF_LIT(b, "null");
    } else {
        buf_addf(b, "{\"p95\":%.4f,\"p99\":%.4f}", (double)c->slow_ns[0] / 1e6, (double)c->slow_ns[1] / 1e6);
    }
}

/* Users at their first request, by arm, and the candidate's share of them: as it was ordered while they came, and as it
 * was. Null while nobody came. */
static void put_exposed(struct buf *b, const struct judge_counts *c)
{
    uint64_t n[JUDGE_ARMS] = {0}, all;
    double ordered = 0;

    for (size_t i = 0; i < c->n; i++) {
        const uint64_t *of = c->stratum[i].exposed;

        n[JUDGE_STABLE] += of[JUDGE_STABLE];
        n[JUDGE_CANARY] += of[JUDGE_CANARY];
        ordered += (double)(of[JUDGE_STABLE] + of[JUDGE_CANARY]) * c->stratum[i].share_bp / WHOLE_BP;
    }
    all = n[JUDGE_STABLE] + n[JUDGE_CANARY];
    json_key(b, "exposed");
    if (all == 0) {
        BUF_LIT(b, "null");
        return;
    }
    BUF_LIT(b, "{");
    json_put_count(b, "stable", n[JUDGE_STABLE]);
    json_put_count(b, "canary", n[JUDGE_CANARY]);
    buf_addf(b, ",\"ordered\":%.6f,\"actual\":%.6f}", ordered / (double)all, (double)n[JUDGE_CANARY] / (double)all);
}

static void put_judged(struct buf *b, const struct model *m)
{
    const struct version *v = model_version(m, m->rollout.canary);
    char waits[400];

    rollout_waits(m, waits, sizeof(waits));
    json_put_text(b, "waits_for", waits[0] ? waits : NULL);
    json_key(b, "verdict");
    if (m->judgement.text[0]) { /* there was one */
        judgement_json(b, &m->judgement);
    } else {
        BUF_LIT(b, "null");
    }
    put_slow(b, &m->counts);
    put_exposed(b, &m->counts);
    json_key(b, "held");
    buf_addz(b, v && model_hold(m, v->row.digest) ? "true" : "false");
}

/* ---- the whole ---- */

void json_rollout(struct buf *b, const struct model *m)
{
    const struct rollout_row *r = &m->rollout;

    if (!r->id[0]) {
        BUF_LIT(b, "null");
        return;
    }
    BUF_LIT(b, "{");
    json_put_text(b, "id", r->id);
    json_put_text(b, "state", rollout_state_names[r->state]);
    json_put_version(b, "stable", r->stable);
    json_put_version(b, "canary", r->canary);
    json_put_count(b, "share_bp", (uint64_t)share_now(m));
    json_key(b, "started");
    json_time(b, r->started_ms);
    json_key(b, "ended");
    json_time(b, r->ended_ms);
    json_put_text(b, "reason", r->reason);
    json_key(b, "counting_since");
    json_time(b, rollout_live(m) ? counting_since(m) : 0);
    json_key(b, "policy");
    if (m->policy.n_steps > 0) {
        policy_json(b, &m->policy);
    } else { /* it ended before there were any */
        BUF_LIT(b, "null");
    }
    put_place(b, m);
    put_judged(b, m);
    if (policy_tests(&m->policy)) {
        json_key(b, "experiment");
        json_experiment(b, m);
    }
    BUF_LIT(b, "}");
}

/* ---- arms ---- */

static void put_arm(struct buf *b, enum arm arm, int64_t version, int64_t share_bp, const struct series *s, bool hide)
{
    struct series_sum sum = {0};

    if (s) {
        series_sum(s, &sum);
    }
    if (hide) {
        series_hide_feedback(&sum);
    }
    json_comma(b);
    BUF_LIT(b, "{");
    json_put_text(b, "arm", arm_names[arm]);
    json_put_version(b, "version", version);
    json_put_count(b, "share_bp", (uint64_t)share_bp);
    json_stats(b, &sum);
    BUF_LIT(b, "}");
    series_sum_done(&sum);
}

/* The stable version's arm as it was kept at the promotion, with the share that it has now. */
static bool put_kept_stable(struct buf *b, const char *arms)
{
    yyjson_doc *doc = yyjson_read(arms, strlen(arms), 0);
    yyjson_val *kept = yyjson_arr_get_first(yyjson_doc_get_root(doc));
    yyjson_mut_doc *now = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *arm = kept && now ? yyjson_val_mut_copy(now, kept) : NULL;
    size_t n = 0;
    char *text = NULL;

    if (arm && yyjson_mut_is_obj(arm)) {
        yyjson_mut_set_uint(yyjson_mut_obj_get(arm, "share_bp"), 0);
        text = yyjson_mut_val_write(arm, 0, &n);
    }
    buf_add(b, text, text ? n : 0);
    free(text);
    yyjson_mut_doc_free(now);
    yyjson_doc_free(doc);
    return n > 0;
}

void admin_arms_json(struct buf *b, const struct model *m)
{
    const struct rollout_row *r = &m->rollout;
    int64_t share = share_now(m);
    bool fixed = policy_tests(&m->policy) && !rollout_soaking(m); /* an experiment's arms are of one size */

    BUF_LIT(b, "[");
    if (r->id[0] && !(rollout_soaking(m) && m->evidence && put_kept_stable(b, m->evidence))) {
        put_arm(b, ARM_STABLE, r->stable, fixed ? share : WHOLE_BP - share,
                rollout_soaking(m) ? NULL : m->stable_series, experiment_hides(m));
    }
    if (r->id[0]) {
        put_arm(b, ARM_CANARY, r->canary, share, candidate_series(m), experiment_hides(m));
    }
    BUF_LIT(b, "]");
}

void json_rollout_reply(struct buf *b, const struct model *m)
{
    BUF_LIT(b, "{");
    json_put_text(b, "model", m->row.name);
    json_key(b, "rollout");
    json_rollout(b, m);
    json_key(b, "arms");
    if (rollout_live(m)) {
        admin_arms_json(b, m);
    } else if (m->evidence) { /* as it was when the rollout ended */
        buf_addz(b, m->evidence);
    } else {
        BUF_LIT(b, "[]");
    }
    BUF_LIT(b, "}");
}
