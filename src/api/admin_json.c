/* SPDX-License-Identifier: Apache-2.0 */
/* Models and what is counted about them, as JSON (rollouts: admin_rollout_json.c).
 *
 * A number that nothing is known about is null, not 0: times without a request, an accuracy without feedback. Times are
 * milliseconds.
 *
 * Thread: control's loop. */
#include <math.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/json.h"

void json_time(struct buf *b, int64_t wall_ms)
{
    char text[CLOCK_TEXT];

    if (wall_ms == 0) {
        BUF_LIT(b, "null");
        return;
    }
    clock_text(text, wall_ms);
    json_strz(b, text);
}

/* A share or a mean, to six places: more would be noise. */
static void put_ratio(struct buf *b, double v)
{
    json_f64(b, round(v * 1e6) / 1e6);
}

void json_put_count(struct buf *b, const char *key, uint64_t n)
{
    json_key(b, key);
    buf_addu(b, n);
}

void json_put_text(struct buf *b, const char *key, const char *z)
{
    json_key(b, key);
    json_strz(b, z);
}

void json_put_version(struct buf *b, const char *key, int64_t number)
{
    json_key(b, key);
    if (number == 0) {
        BUF_LIT(b, "null");
    } else {
        buf_addi(b, number);
    }
}

void json_put_raw(struct buf *b, const char *key, const char *json)
{
    json_key(b, key);
    buf_addz(b, json ? json : "null");
}

/* ---- STATS ---- */

static void put_times(struct buf *b, const char *key, const struct series_times *t)
{
    const double ms[] = {t->p50 * 1e3, t->p95 * 1e3, t->p99 * 1e3, t->mean * 1e3};
    static const char *const names[] = {"p50", "p95", "p99", "mean"};

    json_key(b, key);
    BUF_LIT(b, "{");
    for (size_t i = 0; i < COUNT_OF(ms); i++) {
        json_key(b, names[i]);
        if (t->n == 0) {
            BUF_LIT(b, "null");
        } else {
            buf_addf(b, "%.4f", ms[i]);
        }
    }
    BUF_LIT(b, "}");
}

static void put_errors_by(struct buf *b, const struct series_sum *s)
{
    json_key(b, "errors_by");
    BUF_LIT(b, "{");
    for (int c = ERR_OK + 1; c < ERR_COUNT_; c++) {
        if (s->by_code[c] > 0 && series_is_error((enum err_code)c)) {
            json_put_count(b, err_name((enum err_code)c), s->by_code[c]);
        }
    }
    BUF_LIT(b, "}");
}

static void put_feedback(struct buf *b, const struct series_sum *s)
{
    json_key(b, "feedback");
    BUF_LIT(b, "{");
    json_put_count(b, "n", s->feedback_n);
    json_put_count(b, "correct", s->feedback_correct);
    json_key(b, "accuracy");
    if (s->feedback_n > 0) {
        put_ratio(b, (double)s->feedback_correct / (double)s->feedback_n);
    } else {
        BUF_LIT(b, "null");
    }
    json_put_count(b, "reward_n", s->reward_n);
    json_key(b, "reward_mean");
    if (s->reward_n > 0) {
        put_ratio(b, s->reward_sum / (double)s->reward_n);
    } else {
        BUF_LIT(b, "null");
    }
    BUF_LIT(b, "}");
}

static void put_classes(struct buf *b, const struct series_sum *s)
{
    uint64_t all = s->classes_other;

    for (size_t i = 0; i < s->n_classes; i++) {
        all += counter_get(&s->classes[i].count);
    }
    json_key(b, "classes");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < s->n_classes; i++) {
        uint64_t n = counter_get(&s->classes[i].count);

        json_comma(b);
        BUF_LIT(b, "{");
        json_put_text(b, "class", s->classes[i].name);
        json_put_count(b, "count", n);
        json_key(b, "share");
        put_ratio(b, all ? (double)n / (double)all : 0);
        BUF_LIT(b, "}");
    }
    if (s->classes_other > 0) {
        json_comma(b);
        BUF_LIT(b, "{");
        json_put_text(b, "class", NULL);
        json_put_count(b, "count", s->classes_other);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
}

void json_stats(struct buf *b, const struct series_sum *s)
{
    json_put_count(b, "requests", s->requests);
    json_put_count(b, "ok", s->ok);
    json_put_count(b, "errors", s->errors);
    put_errors_by(b, s);
    json_key(b, "error_rate");
    put_ratio(b, s->requests ? (double)s->errors / (double)s->requests : 0);
    json_put_count(b, "client_errors", s->client_errors);
    json_put_count(b, "in_flight", s->in_flight);
    json_put_count(b, "users", (uint64_t)llround(s->users));
    json_put_count(b, "keyless", s->keyless);
    put_times(b, "latency_ms", &s->latency);
    put_times(b, "queue_ms", &s->queue);
    put_times(b, "compute_ms", &s->compute);
    put_feedback(b, s);
    put_classes(b, s);
}

void version_sum(const struct version *v, struct series_sum *out)
{
    const struct model *m = v->model;
    struct series *all[3];
    size_t n = 0;

    if (v->direct) {
        all[n++] = v->direct;
    }
    if (m->stable_series && m->row.stable == v->row.number) {
        all[n++] = m->stable_series;
    }
    if (m->canary_series && rollout_running(m) && m->rollout.canary == v->row.number) {
        all[n++] = m->canary_series;
    }
    series_sum_many(all, n, out);
}

/* ---- MODEL ---- */

const char *place_name(const struct model *m)
{
    return family_place_name(m->family);
}

static void put_tensors(struct buf *b, const char *key, const struct tensor_info *t, uint32_t n)
{
    json_key(b, key);
    BUF_LIT(b, "[");
    for (uint32_t i = 0; i < n; i++) {
        json_comma(b);
        BUF_LIT(b, "{");
        json_put_text(b, "name", t[i].name);
        json_put_text(b, "datatype", dtype_name((enum dtype)t[i].dtype));
        json_key(b, "shape");
        BUF_LIT(b, "[");
        for (unsigned d = 0; d < t[i].rank; d++) {
            json_comma(b);
            buf_addi(b, t[i].dim[d]);
        }
        BUF_LIT(b, "]}");
    }
    BUF_LIT(b, "]");
}

static void put_workers(struct buf *b, const struct version *v, const struct admin_facts *f)
{
    unsigned n = v->pool && version_place(v) == PLACE_WORKER ? pool_instances(v->pool) : 0;

    json_key(b, "workers");
    BUF_LIT(b, "[");
    for (unsigned i = 0; i < n; i++) {
        struct pool_instance one;
        int pid;

        pool_instance(v->pool, i, &one);
        pid = one.engine && f->pid ? f->pid(one.engine) : 0;
        json_comma(b);
        BUF_LIT(b, "{");
        json_key(b, "pid");
        if (pid > 0) {
            buf_addi(b, pid);
        } else {
            BUF_LIT(b, "null");
        }
        json_put_text(b, "state", one.state);
        json_put_count(b, "restarts", one.deaths);
        json_put_text(b, "last_end", one.last_end);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
}

/* The server that it runs on, and how that is; null: it runs here. */
static void put_far_side(struct buf *b, const struct version *v, const struct admin_facts *f)
{
    struct pool_instance one = {0};
    char text[400];

    if (!place_is_far(version_place(v))) {
        json_put_text(b, "far_side", NULL);
        return;
    }
    if (v->pool) {
        pool_instance(v->pool, 0, &one);
    }
    if (!one.engine || !f->far || !f->far(one.engine, text, sizeof(text))) {
        snprintf(text, sizeof(text), "%.300s: away", version_place_name(v));
    }
    json_put_text(b, "far_side", text);
}

/* Residency and bytes. No bytes where nobody has asked for room yet. */
static void put_version_memory(struct buf *b, const struct version *v)
{
    static const char *const bases[] = {
        [CLAIM_ESTIMATED] = "estimated", [CLAIM_MEASURED] = "measured", [CLAIM_CONFIGURED] = "configured"};
    const struct budget_claim *c = &v->claim;

    json_key(b, "memory");
    BUF_LIT(b, "{");
    json_put_text(b, "residency",
                  c->state == CLAIM_NONE && v->state == VERSION_COLD ? "cold" : claim_state_names[c->state]);
    json_key(b, "bytes");
    if (c->bytes[BUDGET_HOST] > 0) {
        buf_addu(b, c->bytes[BUDGET_HOST]);
    } else {
        BUF_LIT(b, "null");
    }
    json_put_text(b, "basis", c->bytes[BUDGET_HOST] > 0 ? bases[c->basis] : NULL);
    json_key(b, "pinned");
    buf_addz(b, v->model->family->pin ? "true" : "false");
    BUF_LIT(b, "}");
}

void json_budget(struct buf *b, const struct budget *budget)
{
    BUF_LIT(b, "[");
    for (unsigned d = 0; d < budget->n_devices; d++) {
        json_comma(b);
        BUF_LIT(b, "{");
        json_put_text(b, "device", budget->device[d].name);
        json_key(b, "limit");
        if (budget->device[d].limit == BUDGET_NO_LIMIT) {
            BUF_LIT(b, "null");
        } else {
            buf_addu(b, budget->device[d].limit);
        }
        json_put_count(b, "used", budget->device[d].used);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
}

static void put_version_members(struct buf *b, const struct version *v, const struct admin_facts *f)
{
    bool failed = v->state == VERSION_FAILED || v->state == VERSION_DEGRADED || v->state == VERSION_COLD;
    const struct model_info *info = v->info;
    struct series_sum sum;

    json_put_version(b, "version", v->row.number);
    json_put_text(b, "digest", v->row.digest);
    json_put_text(b, "backend", v->row.backend);
    json_put_count(b, "bytes", v->row.bytes);
    json_key(b, "created");
    json_time(b, v->row.created_ms);
    json_put_text(b, "state", version_state_names[v->state]);
    json_put_text(b, "error", failed && v->why.text[0] ? v->why.text : NULL);
    json_put_text(b, "serving", version_serving(v));
    put_version_memory(b, v);
    put_workers(b, v, f);
    json_put_text(b, "place", version_place_name(v));
    put_far_side(b, v, f);
    put_tensors(b, "inputs", info ? info->in : NULL, info ? info->n_in : 0);
    put_tensors(b, "outputs", info ? info->out : NULL, info ? info->n_out : 0);
    json_put_text(b, "prediction", info && v->prediction >= 0 ? info->out[v->prediction].name : NULL);
    json_key(b, "batch");
    if (info) {
        buf_addf(b, "{\"max\":%u,\"on\":%s}", info->batch_max, info->joins && info->batch_max > 1 ? "true" : "false");
    } else {
        BUF_LIT(b, "null");
    }
    json_key(b, "stats");
    BUF_LIT(b, "{");
    version_sum(v, &sum);
    if (experiment_running(v->model) && experiment_hides(v->model)) {
        series_hide_feedback(&sum);
    }
    json_stats(b, &sum);
    series_sum_done(&sum);
    BUF_LIT(b, "}");
}

/* What became of feedback that came for the model, since the server started. */
static void put_feedback_results(struct buf *b, const struct model *m)
{
    json_key(b, "feedback");
    BUF_LIT(b, "{");
    for (int k = 0; k < FEEDBACK_RESULTS; k++) {
        json_put_count(b, feedback_result_names[k], m->feedback ? counter_get(&m->feedback[k]) : 0);
    }
    BUF_LIT(b, "}");
}

void json_model(struct buf *b, const struct model *m, const struct admin_facts *f)
{
    BUF_LIT(b, "{");
    json_put_text(b, "name", m->row.name);
    json_put_text(b, "family", m->family->name);
    json_put_text(b, "place", place_name(m));
    json_put_count(b, "instances", m->family->place == PLACE_INLINE ? 1 : m->family->instances);
    json_put_version(b, "stable", m->row.stable);
    json_put_version(b, "previous", m->row.previous);
    put_feedback_results(b, m);
    json_key(b, "versions");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < m->n_versions; i++) {
        json_comma(b);
        BUF_LIT(b, "{");
        put_version_members(b, m->versions[i], f);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
    json_key(b, "rollout");
    if (rollout_live(m)) {
        json_rollout(b, m);
    } else {
        BUF_LIT(b, "null");
    }
    BUF_LIT(b, "}");
}
