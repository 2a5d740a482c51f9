/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics: Prometheus' text format.
 *
 * Everything is read once, then written family by family, as the format wants it. Counters with an arm count what their
 * series counts: since plain service or the rollout began, so they start again from 0 there, which is a counter reset
 * to Prometheus. weir_version_requests_total has no arm and never goes back while the server runs. Histograms are made
 * from the sketches: a bucket counts the sketch's buckets whose value is not above its border, exact to the sketch's 1
 * %.
 *
 * Thread: control's loop. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/admin_priv.h"
#include "base/json.h"

static const double borders[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                 0.1,    0.25,    0.5,    1,     2.5,    5,     10,   30,    60};

struct view { /* a version in one arm */
    const struct version *version;
    enum arm arm;
    const struct series *series;
    struct series_sum sum;
};
struct views {
    struct view *v;
    size_t n;
    struct model *const *models;
    size_t n_models;
};

/* ---- reading ---- */

static void view_add(struct views *vs, const struct version *v, enum arm arm, const struct series *s)
{
    if (s) {
        struct view *w = &vs->v[vs->n++];

        *w = (struct view){.version = v, .arm = arm, .series = s};
        series_sum(s, &w->sum);
    }
}

static void views_read(struct views *vs, struct control *c)
{
    size_t versions = 0;

    *vs = (struct views){0};
    vs->n_models = control_models(c, &vs->models);
    for (size_t i = 0; i < vs->n_models; i++) {
        versions += vs->models[i]->n_versions;
    }
    vs->v = xcalloc(3 * versions + 1, sizeof(vs->v[0]));
    for (size_t i = 0; i < vs->n_models; i++) {
        const struct model *m = vs->models[i];

        for (size_t k = 0; k < m->n_versions; k++) {
            const struct version *v = m->versions[k];

            if (v->row.number == m->row.stable) {
                view_add(vs, v, ARM_STABLE, m->stable_series);
            }
            if (rollout_running(m) && v->row.number == m->rollout.canary) {
                view_add(vs, v, ARM_CANARY, m->canary_series);
            }
            view_add(vs, v, ARM_DIRECT, v->direct);
        }
    }
}

static void views_done(struct views *vs)
{
    for (size_t i = 0; i < vs->n; i++) {
        series_sum_done(&vs->v[i].sum);
    }
    free(vs->v);
}

/* ---- writing ---- */

static void family(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_label(struct buf *b, struct str s)
{
    struct buf quoted;
    char *text;
    size_t n;

    /* By way of a JSON string, which is always UTF-8. */
    buf_init(&quoted, 1u << 20);
    json_str(&quoted, s);
    if (quoted.over) {
        buf_done(&quoted);
        return;
    }
    text = quoted.p + 1;
    n = json_unescape(text, (struct str){text, quoted.n - 2});
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n') {
            BUF_LIT(b, "\\n");
            continue;
        }
        if (text[i] == '\\' || text[i] == '"') {
            buf_addc(b, '\\');
        }
        buf_addc(b, text[i]);
    }
    buf_done(&quoted);
}

static void version_labels(struct buf *b, const char *name, const struct version *v)
{
    buf_addf(b, "%s{model=\"%s\",version=\"%lld\"", name, v->model->row.name, (long long)v->row.number);
}

static void arm_labels(struct buf *b, const char *name, const struct view *w)
{
    version_labels(b, name, w->version);
    buf_addf(b, ",arm=\"%s\"", arm_names[w->arm]);
}

static void put_requests(struct buf *b, const struct views *vs)
{
    family(b, "weir_requests_total", "counter",
           "Requests answered, by outcome, since the version began to serve in this arm (a rollout counts anew).");
    for (size_t i = 0; i < vs->n; i++) {
        for (int c = 0; c < ERR_COUNT_; c++) {
            if (c == ERR_OK || vs->v[i].sum.by_code[c] > 0) {
                arm_labels(b, "weir_requests_total", &vs->v[i]);
                buf_addf(b, ",code=\"%s\"} %llu\n", err_name((enum err_code)c),
                         (unsigned long long)vs->v[i].sum.by_code[c]);
            }
        }
    }
}

static void put_version_requests(struct buf *b, const struct views *vs)
{
    static const char name[] = "weir_version_requests_total";

    family(b, name, "counter", "Requests answered by a version in all arms since the server started, by outcome.");
    for (size_t i = 0; i < vs->n_models; i++) {
        for (size_t k = 0; k < vs->models[i]->n_versions; k++) {
            const struct version *v = vs->models[i]->versions[k];
            struct series_sum sum;

            version_sum(v, &sum);
            for (int c = 0; c < ERR_COUNT_; c++) {
                uint64_t n = sum.by_code[c] + v->retired_requests[c];

                if (c == ERR_OK || n > 0) {
                    version_labels(b, name, v);
                    buf_addf(b, ",code=\"%s\"} %llu\n", err_name((enum err_code)c), (unsigned long long)n);
                }
            }
            series_sum_done(&sum);
        }
    }
}

static void put_histogram(struct buf *b, const struct views *vs, const char *name, enum series_what what,
                          const char *help)
{
    struct sketch *sk = xmalloc(sizeof(*sk));
    size_t until[COUNT_OF(borders)]; /* the sketch's buckets below it are not above the border */
    int least = sketch_index(0);
    char part[80];

    for (size_t k = 0, at = 0; k < COUNT_OF(borders); k++) {
        while (at < SKETCH_BUCKETS && sketch_value(least + (int)at) <= borders[k]) {
            at++;
        }
        until[k] = at;
    }
    family(b, name, "histogram", help);
    for (size_t i = 0; i < vs->n; i++) {
        uint64_t seen = 0;
        size_t at = 0;

        memset(sk, 0, sizeof(*sk));
        series_sketch(vs->v[i].series, what, sk);
        snprintf(part, sizeof(part), "%s_bucket", name);
        for (size_t k = 0; k < COUNT_OF(borders); k++) {
            while (at < until[k]) {
                seen += counter_get(&sk->bucket[at++]);
            }
            arm_labels(b, part, &vs->v[i]);
            buf_addf(b, ",le=\"%g\"} %llu\n", borders[k], (unsigned long long)seen);
        }
        while (at < SKETCH_BUCKETS) {
            seen += counter_get(&sk->bucket[at++]);
        }
        arm_labels(b, part, &vs->v[i]);
        buf_addf(b, ",le=\"+Inf\"} %llu\n", (unsigned long long)seen);
        snprintf(part, sizeof(part), "%s_sum", name);
        arm_labels(b, part, &vs->v[i]);
        buf_addf(b, "} %.9g\n", (double)counter_get(&sk->sum_ns) * 1e-9);
        snprintf(part, sizeof(part), "%s_count", name); /* the same as +Inf, whatever was added meanwhile */
        arm_labels(b, part, &vs->v[i]);
        buf_addf(b, "} %llu\n", (unsigned long long)seen);
    }
    free(sk);
}

/* Numbers of a series_sum that are written as they are. */
static void put_sums(struct buf *b, const struct views *vs)
{
    static const struct {
        const char *name, *type, *help;
        size_t at;
    } table[] = {
        {"weir_in_flight", "gauge", "Requests that have begun and are not answered yet.",
         offsetof(struct series_sum, in_flight)},
        {"weir_keyless_requests_total", "counter", "Requests without an assignment key.",
         offsetof(struct series_sum, keyless)},
        {"weir_feedback_labelled_total", "counter", "Answers that feedback called correct or wrong.",
         offsetof(struct series_sum, feedback_n)},
        {"weir_feedback_correct_total", "counter", "Answers that feedback called correct.",
         offsetof(struct series_sum, feedback_correct)},
        {"weir_class_other_total", "counter", "Predicted classes beyond those that weir_class_total names.",
         offsetof(struct series_sum, classes_other)},
    };

    for (size_t t = 0; t < COUNT_OF(table); t++) {
        family(b, table[t].name, table[t].type, table[t].help);
        for (size_t i = 0; i < vs->n; i++) {
            uint64_t n;

            memcpy(&n, (const char *)&vs->v[i].sum + table[t].at, sizeof(n));
            arm_labels(b, table[t].name, &vs->v[i]);
            buf_addf(b, "} %llu\n", (unsigned long long)n);
        }
    }
}

static void put_feedback(struct buf *b, const struct views *vs)
{
    family(b, "weir_feedback_total", "counter", "Feedback that came for a model, by what became of it.");
    for (size_t i = 0; i < vs->n_models; i++) {
        const struct model *m = vs->models[i];

        for (int k = 0; m->feedback && k < FEEDBACK_RESULTS; k++) {
            buf_addf(b, "weir_feedback_total{model=\"%s\",result=\"%s\"} %llu\n", m->row.name, feedback_result_names[k],
                     (unsigned long long)counter_get(&m->feedback[k]));
        }
    }
}

/* Classes of one view. Names that are not UTF-8 can look alike as labels; these are added up, since a label set may
 * stand only once. */
static void put_view_classes(struct buf *b, const struct view *w)
{
    char *label[SERIES_CLASSES];
    uint64_t count[SERIES_CLASSES];
    size_t n = 0;

    for (size_t i = 0; i < w->sum.n_classes && i < SERIES_CLASSES; i++) {
        struct buf text;
        size_t k = 0;

        buf_init(&text, 4096);
        metrics_label(&text, str_of(w->sum.classes[i].name));
        while (k < n && strcmp(label[k], buf_z(&text)) != 0) {
            k++;
        }
        if (k == n) {
            label[n] = xstrdup(buf_z(&text));
            count[n++] = 0;
        }
        count[k] += counter_get(&w->sum.classes[i].count);
        buf_done(&text);
    }
    for (size_t k = 0; k < n; k++) {
        arm_labels(b, "weir_class_total", w);
        buf_addf(b, ",class=\"%s\"} %llu\n", label[k], (unsigned long long)count[k]);
        free(label[k]);
    }
}

static void put_classes(struct buf *b, const struct views *vs)
{
    family(b, "weir_class_total", "counter", "Predicted classes.");
    for (size_t i = 0; i < vs->n; i++) {
        put_view_classes(b, &vs->v[i]);
    }
}

static void put_models(struct buf *b, const struct views *vs)
{
    family(b, "weir_model_info", "gauge", "What a registered version is; always 1.");
    for (size_t i = 0; i < vs->n_models; i++) {
        for (size_t k = 0; k < vs->models[i]->n_versions; k++) {
            const struct version *v = vs->models[i]->versions[k];

            version_labels(b, "weir_model_info", v);
            buf_addf(b, ",family=\"%s\",place=\"%s\",backend=\"%s\",digest=\"%s\",state=\"%s\",serving=\"%s\"} 1\n",
                     v->model->family->name, place_name(v->model), v->row.backend, v->row.digest,
                     version_state_names[v->state], version_serving(v));
        }
    }
}

static void put_shares(struct buf *b, const struct views *vs)
{
    family(b, "weir_rollout_share", "gauge", "Share of a model's traffic that an arm gets, 0 to 1.");
    for (size_t i = 0; i < vs->n; i++) {
        const struct view *w = &vs->v[i];
        const struct model *m = w->version->model;
        double canary = rollout_running(m) ? (double)m->rollout.share_bp / 10000 : 0;

        if (w->arm != ARM_DIRECT) {
            arm_labels(b, "weir_rollout_share", w);
            buf_addf(b, "} %g\n", w->arm == ARM_CANARY ? canary : 1 - canary);
        }
    }
}

/* ---- rollouts ---- */

static void put_finding(struct buf *b, const char *name, const struct version *v, int metric, double value)
{
    version_labels(b, name, v);
    buf_addf(b, ",metric=\"%s\"} %.6g\n", judge_metric_names[metric], value);
}

/* What the judge of a live rollout says: evidence, and where it ends the rollout. */
static void put_judgement(struct buf *evidence, struct buf *trip, const struct model *m, const struct version *v)
{
    for (int k = 0; m->judgement.text[0] && k < METRIC_COUNT; k++) {
        const struct judge_finding *f = &m->judgement.finding[k];

        put_finding(evidence, "weir_judge_ln_e", v, k, MAX(f->ln_e, f->ln_e_limit));
        put_finding(trip, "weir_judge_trip", v, k, f->trip);
    }
}

static void put_rollouts(struct buf *b, const struct views *vs)
{
    struct buf paused, evidence, trip;

    buf_init(&paused, b->max);
    buf_init(&evidence, b->max);
    buf_init(&trip, b->max);
    family(b, "weir_rollout_step", "gauge", "Step of a rollout's policy that it has come to, from 1.");
    family(&paused, "weir_rollout_paused", "gauge", "1 while a rollout stands still for this reason.");
    family(&evidence, "weir_judge_ln_e", "gauge",
           "Evidence that a candidate does harm, as a natural logarithm: the stronger one of comparison and limit.");
    family(&trip, "weir_judge_trip", "gauge", "Evidence at which the guardrail fails.");
    for (size_t i = 0; i < vs->n_models; i++) {
        const struct model *m = vs->models[i];
        const struct version *v = rollout_live(m) ? model_version(m, m->rollout.canary) : NULL;

        if (!v) {
            continue;
        }
        version_labels(b, "weir_rollout_step", v);
        buf_addf(b, "} %u\n", MIN(m->progress.step + 1, MAX(m->policy.n_steps, 1u)));
        for (int k = PAUSE_NONE + 1; k <= PAUSE_STEP_TIMEOUT; k++) {
            version_labels(&paused, "weir_rollout_paused", v);
            buf_addf(&paused, ",reason=\"%s\"} %d\n", pause_reason_names[k],
                     m->progress.phase == PHASE_PAUSED && m->progress.pause == k);
        }
        put_judgement(&evidence, &trip, m, v);
    }
    buf_add(b, paused.p, paused.n);
    buf_add(b, evidence.p, evidence.n);
    buf_add(b, trip.p, trip.n);
    buf_done(&paused);
    buf_done(&evidence);
    buf_done(&trip);
}

static void put_shadows(struct buf *b, const struct views *vs)
{
    family(
        b, "weir_shadow_total", "counter",
        "Copies of answered requests that a shadow got, by what became of them; run: candidate, or noise (the stable "
        "version once more).");
    for (size_t i = 0; i < vs->n_models; i++) {
        const struct model *m = vs->models[i];

        for (int k = 0; m->shadow && k < SHADOW_RUNS * SHADOW_RESULTS; k++) {
            enum shadow_run run = (enum shadow_run)(k / SHADOW_RESULTS);
            enum shadow_result result = (enum shadow_result)(k % SHADOW_RESULTS);

            buf_addf(b, "weir_shadow_total{model=\"%s\",version=\"%lld\",run=\"%s\",result=\"%s\"} %llu\n", m->row.name,
                     (long long)shadow_row(m->shadow)->version, run == SHADOW_NOISE ? "noise" : "candidate",
                     shadow_result_names[result], (unsigned long long)shadow_total(m->shadow, run, result));
        }
    }
}

static void put_workers(struct buf *b, const struct views *vs)
{
    struct buf ready, retries;

    buf_init(&ready, b->max);
    buf_init(&retries, b->max);
    family(b, "weir_worker_restarts_total", "counter",
           "Workers of a loaded version that ended and were started again.");
    family(&ready, "weir_workers_ready", "gauge", "Instances of a loaded version that serve.");
    family(&retries, "weir_retries_total", "counter",
           "Jobs that were given to an instance again after a worker's death.");
    for (size_t i = 0; i < vs->n_models; i++) {
        for (size_t k = 0; k < vs->models[i]->n_versions; k++) {
            const struct version *v = vs->models[i]->versions[k];
            uint64_t deaths = 0;

            for (unsigned w = 0; v->pool && w < pool_instances(v->pool); w++) {
                struct pool_instance one;

                pool_instance(v->pool, w, &one);
                deaths += one.deaths;
            }
            if (v->pool) {
                const struct sched_shared *sh = pool_shared(v->pool);

                version_labels(b, "weir_worker_restarts_total", v);
                buf_addf(b, "} %llu\n", (unsigned long long)deaths);
                version_labels(&ready, "weir_workers_ready", v);
                buf_addf(&ready, "} %u\n", atomic_load_explicit(&sh->instances_up, memory_order_relaxed));
                version_labels(&retries, "weir_retries_total", v);
                buf_addf(&retries, "} %llu\n", (unsigned long long)counter_get(&sh->retried));
            }
        }
    }
    buf_add(b, ready.p, ready.n);
    buf_add(b, retries.p, retries.n);
    buf_done(&ready);
    buf_done(&retries);
}

/* What was refused before it could hurt, and what waits. */
static void put_queues(struct buf *b, const struct views *vs)
{
    static const char *const why[VERDICT_COUNT] = {[REFUSED_REQUESTS] = "requests",
                                                   [REFUSED_BYTES] = "bytes",
                                                   [REFUSED_LATE] = "deadline",
                                                   [REFUSED_STANDING] = "standing_queue"};
    struct buf waiting;

    buf_init(&waiting, b->max);
    family(b, "weir_refused_total", "counter", "Requests of a loaded version refused at once, by the bound they met.");
    family(&waiting, "weir_queue_waiting", "gauge", "Requests that wait for an instance.");
    for (size_t i = 0; i < vs->n_models; i++) {
        for (size_t k = 0; k < vs->models[i]->n_versions; k++) {
            const struct version *v = vs->models[i]->versions[k];
            const struct admission *a = v->pool ? &pool_shared(v->pool)->admission : NULL;

            for (int w = REFUSED_REQUESTS; a && w < VERDICT_COUNT; w++) {
                version_labels(b, "weir_refused_total", v);
                buf_addf(b, ",reason=\"%s\"} %llu\n", why[w], (unsigned long long)counter_get(&a->verdicts[w]));
            }
            if (a) {
                version_labels(&waiting, "weir_queue_waiting", v);
                buf_addf(&waiting, "} %llu\n", (unsigned long long)counter_get(&a->waiting));
            }
        }
    }
    buf_add(b, waiting.p, waiting.n);
    buf_done(&waiting);
}

static void put_budget(struct buf *b, const struct views *vs, const struct budget *budget)
{
    family(b, "weir_memory_budget_bytes", "gauge", "What loaded versions may take together, by device.");
    for (unsigned d = 0; d < budget->n_devices; d++) {
        if (budget->device[d].limit != BUDGET_NO_LIMIT) {
            buf_addf(b, "weir_memory_budget_bytes{device=\"%s\"} %llu\n", budget->device[d].name,
                     (unsigned long long)budget->device[d].limit);
        }
    }
    family(b, "weir_memory_used_bytes", "gauge", "What they take of it, as measured or estimated.");
    for (unsigned d = 0; d < budget->n_devices; d++) {
        buf_addf(b, "weir_memory_used_bytes{device=\"%s\"} %llu\n", budget->device[d].name,
                 (unsigned long long)budget->device[d].used);
    }
    family(b, "weir_version_memory_bytes", "gauge", "What a version takes of host memory; 0 when it is not there.");
    for (size_t i = 0; i < vs->n_models; i++) {
        for (size_t k = 0; k < vs->models[i]->n_versions; k++) {
            const struct version *v = vs->models[i]->versions[k];
            bool there = v->claim.state != CLAIM_NONE && v->claim.state != CLAIM_WAITING;

            version_labels(b, "weir_version_memory_bytes", v);
            buf_addf(b, "} %llu\n", there ? (unsigned long long)v->claim.bytes[BUDGET_HOST] : 0ull);
        }
    }
}

/* Of models that are captured, or were since the start. */
static void put_capture(struct buf *b, const struct views *vs, const struct capture *c)
{
    struct buf dropped;

    buf_init(&dropped, b->max);
    family(b, "weir_capture_records_total", "counter", "Captured answers and feedback that were written to the disk.");
    family(&dropped, "weir_capture_dropped_total", "counter",
           "Captured answers and feedback that were not kept, by reason.");
    for (size_t i = 0; i < vs->n_models; i++) {
        const struct model *m = vs->models[i];
        struct capture_sum sum;

        capture_sum(c, m->row.name, &sum);
        if (m->family->capture.sample == 0 && sum.n[CAPTURE_SAMPLED] == 0) {
            continue;
        }
        buf_addf(b, "weir_capture_records_total{model=\"%s\"} %llu\n", m->row.name,
                 (unsigned long long)sum.n[CAPTURE_WRITTEN]);
        for (int k = CAPTURE_DROPPED; k < CAPTURE_COUNTS; k++) {
            buf_addf(&dropped, "weir_capture_dropped_total{model=\"%s\",reason=\"%s\"} %llu\n", m->row.name,
                     capture_count_names[k], (unsigned long long)sum.n[k]);
        }
    }
    buf_add(b, dropped.p, dropped.n);
    buf_done(&dropped);
    family(b, "weir_capture_bytes", "gauge", "What captured answers and feedback take on the disk.");
    buf_addf(b, "weir_capture_bytes %llu\n", (unsigned long long)capture_bytes(c));
}

/* ---- the process ---- */

static unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    if (!d) {
        return 0;
    }
    for (struct dirent *one; (one = readdir(d)) != NULL;) {
        n += one->d_name[0] != '.';
    }
    closedir(d);
    return n > 0 ? n - 1 : 0; /* less the one that reads */
}

static void put_memory(struct buf *b)
{
    unsigned long long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (!f) {
        return;
    }
    if (fscanf(f, "%llu %llu", &pages, &resident) == 2) {
        unsigned long long page = (unsigned long long)sysconf(_SC_PAGESIZE);

        family(b, "process_virtual_memory_bytes", "gauge", "Virtual memory of the server.");
        buf_addf(b, "process_virtual_memory_bytes %llu\n", pages * page);
        family(b, "process_resident_memory_bytes", "gauge", "Resident memory of the server, without its workers.");
        buf_addf(b, "process_resident_memory_bytes %llu\n", resident * page);
    }
    fclose(f);
}

static void put_process(struct buf *b, const struct admin_facts *f)
{
    struct rusage use;
    struct rlimit fds;

    family(b, "weir_build_info", "gauge", "What was built; always 1.");
    buf_addf(b, "weir_build_info{version=\"%s\"} 1\n", WEIR_VERSION);
    family(b, "weir_connections", "gauge", "Open client connections.");
    if (f->data_connections) {
        buf_addf(b, "weir_connections{listener=\"data\"} %u\n",
                 atomic_load_explicit(f->data_connections, memory_order_relaxed));
    }
    if (f->admin_connections) {
        buf_addf(b, "weir_connections{listener=\"admin\"} %u\n",
                 atomic_load_explicit(f->admin_connections, memory_order_relaxed));
    }
    put_memory(b);
    family(b, "process_open_fds", "gauge", "Open file descriptors.");
    buf_addf(b, "process_open_fds %u\n", open_fds());
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0) {
        family(b, "process_max_fds", "gauge", "Most file descriptors that may be open.");
        buf_addf(b, "process_max_fds %llu\n", (unsigned long long)fds.rlim_cur);
    }
    if (getrusage(RUSAGE_SELF, &use) == 0) {
        family(b, "process_cpu_seconds_total", "counter", "User and system time of the server, without its workers.");
        buf_addf(b, "process_cpu_seconds_total %.6f\n",
                 (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                     (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6);
    }
    family(b, "process_start_time_seconds", "gauge", "When the server started, in seconds since 1970.");
    buf_addf(b, "process_start_time_seconds %.3f\n", (double)f->started_ms / 1000);
}

void metrics_write(struct buf *b, struct control *c, const struct admin_facts *f)
{
    struct views vs;

    views_read(&vs, c);
    put_requests(b, &vs);
    put_version_requests(b, &vs);
    put_histogram(b, &vs, "weir_request_duration_seconds", SERIES_LATENCY,
                  "From a request's first byte to its answer.");
    put_histogram(b, &vs, "weir_queue_duration_seconds", SERIES_QUEUE, "Waiting for an instance.");
    put_histogram(b, &vs, "weir_compute_duration_seconds", SERIES_COMPUTE, "Running the model.");
    put_sums(b, &vs);
    put_feedback(b, &vs);
    put_classes(b, &vs);
    put_models(b, &vs);
    put_shares(b, &vs);
    put_rollouts(b, &vs);
    put_shadows(b, &vs);
    put_workers(b, &vs);
    put_queues(b, &vs);
    put_budget(b, &vs, control_budget(c));
    if (f->capture) {
        put_capture(b, &vs, f->capture);
    }
    put_process(b, f);
    views_done(&vs);
}

void admin_metrics(struct request *r)
{
    http_reply_begin(r->x, 200, "text/plain; version=0.0.4; charset=utf-8");
    metrics_write(http_reply_body(r->x), r->plane->control, admin_facts(r));
    http_reply_end(r->x);
}
