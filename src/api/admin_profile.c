/* SPDX-License-Identifier: Apache-2.0 */
/* GET /admin/profile: what this server was asked to do and what that took, as one document that a plan is made from
 * (weir advise; its format stands in cli/profile.h).
 *
 * Thread: control's loop. */
#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/json.h"

#define POINTS 48u /* of a distribution; the upper tenth has half of them */
#define DAYS 30
#define DAY_MS 86400000ll

static void put_number(struct buf *b, const char *key, double v)
{
    json_key(b, key);
    json_f64(b, v); /* null where nothing is known */
}

/* ---- one model ---- */

/* The version's numbers, and the distribution of what its runs took. */
static void add_version(const struct version *v, struct series **list, size_t *n, size_t max)
{
    const struct model *m = v->model;

    if (v->direct && *n < max) {
        list[(*n)++] = v->direct;
    }
    if (m->stable_series && m->row.stable == v->row.number && *n < max) {
        list[(*n)++] = m->stable_series;
    }
    if (m->canary_series && rollout_running(m) && m->rollout.canary == v->row.number && *n < max) {
        list[(*n)++] = m->canary_series;
    }
}

/* [[ms, share], …], ascending. The quantiles in the middle of slices: of a 26th part of the lower nine tenths each, and
 * of a 240th part above. */
static void put_points(struct buf *b, const struct sketch *k)
{
    const unsigned lower = POINTS / 2 + 2, upper = POINTS - lower;
    double at = 0;

    json_key(b, "points");
    BUF_LIT(b, "[");
    for (unsigned i = 0; i < POINTS && counter_get(&k->count) > 0; i++) {
        double share = i < lower ? .9 / lower : .1 / upper;

        json_comma(b);
        buf_addf(b, "[%.6g,%.6g]", sketch_quantile(k, at + share / 2) * 1e3, share);
        at += share;
    }
    BUF_LIT(b, "]");
}

static void put_service(struct buf *b, const struct series_sum *sum, struct series *const *list, size_t n)
{
    struct sketch *k = xcalloc(1, sizeof(*k));

    for (size_t i = 0; i < n; i++) {
        series_sketch(list[i], SERIES_COMPUTE, k);
    }
    json_key(b, "service");
    BUF_LIT(b, "{");
    json_put_count(b, "n", sum->compute.n);
    put_number(b, "mean_ms", sum->compute.n ? sum->compute.mean * 1e3 : (double)NAN);
    put_points(b, k);
    BUF_LIT(b, "}");
    free(k);
}

/* Means as they were measured, to hold the plan against. Errors are answered without a run: with many of them the times
 * do not add up, and what is outside queue and run is not known. */
static void put_times(struct buf *b, const struct series_sum *sum)
{
    bool whole = sum->compute.n > 0 && (double)sum->compute.n >= .98 * (double)sum->latency.n;
    double outside = sum->latency.mean - sum->queue.mean - sum->compute.mean;

    put_number(b, "outside_ms", whole ? MAX(outside, 0.) * 1e3 : (double)NAN);
    json_key(b, "measured");
    BUF_LIT(b, "{");
    put_number(b, "latency_ms", sum->latency.n ? sum->latency.mean * 1e3 : (double)NAN);
    put_number(b, "latency_p99_ms", sum->latency.n ? sum->latency.p99 * 1e3 : (double)NAN);
    put_number(b, "queue_ms", sum->queue.n ? sum->queue.mean * 1e3 : (double)NAN);
    BUF_LIT(b, "}");
}

static void put_arrivals(struct buf *b, const struct model *m)
{
    struct arrivals_sum sum = {.mean_joined = 1};

    if (m->arrivals) {
        arrivals_look(m->arrivals, clock_us());
        arrivals_sum(m->arrivals, &sum);
    }
    json_put_count(b, "requests", sum.requests);
    put_number(b, "seconds", sum.seconds);
    put_number(b, "busiest_rate", sum.busiest);
    json_put_count(b, "minutes", sum.minutes);
    json_key(b, "dispersion");
    BUF_LIT(b, "[");
    for (int k = 0; m->arrivals && k < ARRIVALS_SPANS; k++) {
        json_comma(b);
        BUF_LIT(b, "{");
        put_number(b, "seconds", sum.span[k].seconds);
        put_number(b, "value", sum.span[k].dispersion);
        json_put_count(b, "spans", sum.span[k].spans);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
    json_put_count(b, "ran", sum.ran);
    put_number(b, "joined", sum.mean_joined);
    put_number(b, "compute_s", sum.compute_s);
    put_number(b, "executor_s", sum.executor_s);
    put_number(b, "stalled_s", sum.stalled_s);
}

static void put_memory(struct buf *b, const struct model *m)
{
    uint64_t host = 0, device = 0, versions = 0;

    for (size_t i = 0; i < m->n_versions; i++) {
        const struct budget_claim *c = &m->versions[i]->claim;

        if (c->state != CLAIM_RESERVED && c->state != CLAIM_RESIDENT && c->state != CLAIM_LEAVING) {
            continue;
        }
        versions++;
        host += c->bytes[BUDGET_HOST];
        for (unsigned d = BUDGET_HOST + 1; d < BUDGET_DEVICES; d++) {
            device += c->bytes[d];
        }
    }
    json_key(b, "memory");
    BUF_LIT(b, "{");
    json_put_count(b, "host", host);
    json_put_count(b, "device", device);
    json_put_count(b, "versions", versions);
    BUF_LIT(b, "}");
}

static void put_deaths(struct buf *b, const struct model *m)
{
    uint64_t all = m->deaths, own = m->own_deaths;

    for (size_t i = 0; i < m->n_versions; i++) {
        const struct pool *p = m->versions[i]->pool;

        for (unsigned k = 0; p && k < pool_instances(p); k++) {
            struct pool_instance one;

            pool_instance(p, k, &one);
            all += one.deaths;
            own += one.own_deaths;
        }
    }
    json_key(b, "deaths");
    BUF_LIT(b, "{");
    json_put_count(b, "own", own);
    json_put_count(b, "outside", all - own);
    BUF_LIT(b, "}");
}

/* How often it changes: versions registered in the last 30 days, or since its first one. */
static void put_changes(struct buf *b, const struct model *m)
{
    int64_t now = clock_wall_ms(), first = now;
    uint64_t n = 0;

    for (size_t i = 0; i < m->n_versions; i++) {
        int64_t at = m->versions[i]->row.created_ms;

        first = MIN(first, at);
        n += now - at < DAYS * DAY_MS;
    }
    json_key(b, "changes");
    BUF_LIT(b, "{");
    json_put_count(b, "versions", n);
    put_number(b, "days", MIN((double)(now - first) / DAY_MS, (double)DAYS));
    BUF_LIT(b, "}");
}

/* As the load measured them: a run of one, and of many rows. Of the version that serves. */
static void put_batch(struct buf *b, const struct version *v)
{
    const struct model_info *info = v ? v->info : NULL;
    bool joins = info && info->joins && info->batch_max > 1;

    json_put_count(b, "width", info ? MAX(info->threads, 1u) : 1);
    json_key(b, "batch");
    BUF_LIT(b, "{");
    json_put_count(b, "most", joins ? info->batch_max : 1);
    put_number(b, "one_ms", joins && info->many_ns ? (double)info->warm_ns * 1e-6 : (double)NAN);
    json_put_count(b, "rows", joins && info->many_ns ? info->many_rows : 0);
    put_number(b, "rows_ms", joins && info->many_ns ? (double)info->many_ns * 1e-6 : (double)NAN);
    BUF_LIT(b, "}");
}

static void put_model(struct buf *b, const struct model *m, unsigned threads)
{
    struct series *list[64];
    struct series_sum sum;
    size_t n = 0;
    bool is_inline = m->family->place == PLACE_INLINE;

    for (size_t i = 0; i < m->n_versions; i++) {
        add_version(m->versions[i], list, &n, COUNT_OF(list));
    }
    series_sum_many(list, n, &sum);
    BUF_LIT(b, "{");
    json_put_text(b, "model", m->row.name);
    json_put_text(b, "family", m->row.family);
    json_put_text(b, "place", place_name(m));
    json_put_text(b, "device", m->family->device);
    json_put_count(b, "instances", is_inline ? threads : m->family->instances);
    json_put_version(b, "version", m->row.stable);
    put_batch(b, model_version(m, m->row.stable));
    put_arrivals(b, m);
    put_service(b, &sum, list, n);
    put_times(b, &sum);
    json_put_count(b, "errors", sum.errors);
    put_memory(b, m);
    put_deaths(b, m);
    put_changes(b, m);
    BUF_LIT(b, "}");
    series_sum_done(&sum);
}

/* ---- the server ---- */

static void put_server(struct buf *b, const struct admin_facts *f)
{
    struct rusage use = {0};
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    getrusage(RUSAGE_SELF, &use);
    json_key(b, "machine");
    BUF_LIT(b, "{");
    json_put_count(b, "processors", (uint64_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1l));
    json_put_count(b, "memory", pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0);
    BUF_LIT(b, "}");
    json_key(b, "server");
    BUF_LIT(b, "{");
    json_put_count(b, "threads", f->threads);
    put_number(b, "cpu_s",
               (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                   (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6);
    json_put_count(b, "memory", (uint64_t)use.ru_maxrss << 10);
    BUF_LIT(b, "}");
}

void admin_profile(struct request *r)
{
    const struct admin_facts *f = admin_facts(r);
    struct model *const *all;
    size_t n = control_models(r->plane->control, &all);
    int64_t now = clock_wall_ms();
    struct buf *b = json_reply(r, 200);

    BUF_LIT(b, "{\"format\":1");
    json_put_text(b, "weir", WEIR_VERSION);
    json_key(b, "at");
    json_time(b, now);
    put_number(b, "seconds", (double)MAX(now - f->started_ms, (int64_t)0) / 1e3);
    put_server(b, f);
    json_key(b, "models");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < n; i++) {
        json_comma(b);
        put_model(b, all[i], f->threads);
    }
    BUF_LIT(b, "]}");
    http_reply_end(r->x);
}
