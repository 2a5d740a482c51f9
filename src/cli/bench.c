/* SPDX-License-Identifier: Apache-2.0 */
/* weir bench: the model's samples from many users over some connections, and the labels as feedback.
 *
 * A request is a ticket: its number and the seed decide user and sample, so two runs with one seed ask the same
 * whatever thread takes which ticket. Each thread has a connection and counters of its own; they are added up when all
 * have ended. The time of a request is that of the inference call alone; a request that no answer came to is an error
 * without a time.
 *
 * Threads: one a connection, and the main one, which draws the progress line and stops them at the end or at Ctrl-C. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/sketch.h"
#include "cli/cli.h"
#include "cli/samples.h"
#include "cli/show.h"

#define CONNECTIONS_MAX 1024
#define GROUPS 16
#define REPLY_MAX (256u << 20)
#define AFTER_FAILURE_US MILLIS(20)
#define STEP_US MILLIS(50) /* how soon a sleeper notices the end */

/* What came back from one version in one arm. */
struct group {
    char version[24], arm[24];
    uint64_t requests, errors, labelled, right;
    struct sketch latency; /* of the answers with status 200 */
};

struct bench {
    const char *model;
    char *data_url, *path, *feedback_path;
    struct samples samples;
    uint64_t users, requests, for_us, rate, feedback_bp, timeout_us, seed;
    char run[17]; /* begins the ids of this run */
    FILE *log;
    uint64_t start_us;
    _Atomic uint64_t next; /* ticket */
    _Atomic bool stop;
};

struct worker {
    struct bench *b;
    pthread_t thread;
    struct http_client *client;
    struct http_answer answer;
    struct buf headers, line;
    struct group group[GROUPS];
    size_t n_groups;
    _Atomic uint64_t requests, errors; /* read by the main thread while it runs */
    uint64_t feedback_sent, feedback_failed, late;
    struct err last; /* the last failure, to be shown */
};

/* One request, as it is counted and logged. */
struct shot {
    uint64_t ticket, user, us;
    const struct sample *sample;
    char id[48];
    char version[24], arm[24], predicted[256];
    bool has_predicted, by_index;
    int status; /* 0: no answer */
};

static _Atomic bool interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    atomic_store(&interrupted, true);
}

/* A well mixed number of the seed, the ticket and a purpose (splitmix64's finish). */
static uint64_t mix(uint64_t seed, uint64_t ticket, uint64_t purpose)
{
    uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + ticket * UINT64_C(0xd1342543de82ef95) + purpose;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static bool over(struct bench *b)
{
    return atomic_load_explicit(&b->stop, memory_order_relaxed) || (b->for_us && clock_us() - b->start_us >= b->for_us);
}

static void nap(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* Waits for a ticket's time; false when the run ended meanwhile. */
static bool wait_due(struct worker *w, uint64_t ticket)
{
    struct bench *b = w->b;
    if (!b->rate) {
        return true;
    }
    uint64_t due = b->start_us + (uint64_t)((double)ticket * 1e6 / (double)b->rate);
    for (uint64_t now = clock_us(); now < due; now = clock_us()) {
        if (over(b)) {
            return false;
        }
        nap(MIN(due - now, STEP_US));
    }
    w->late += clock_us() - due > MILLIS(10);
    return true;
}

static struct group *group_of(struct worker *w, const struct shot *s)
{
    size_t i = 0;
    while (i < w->n_groups && (strcmp(w->group[i].version, s->version) != 0 || strcmp(w->group[i].arm, s->arm) != 0)) {
        i++;
    }
    if (i == w->n_groups && i == GROUPS) {
        return &w->group[GROUPS - 1];
    }
    if (i == w->n_groups) {
        str_copy(w->group[i].version, sizeof w->group[i].version, str_of(s->version));
        str_copy(w->group[i].arm, sizeof w->group[i].arm, str_of(s->arm));
        w->n_groups++;
    }
    return &w->group[i];
}

static void take_answer(struct worker *w, struct shot *s)
{
    const struct http_answer *a = &w->answer;
    struct str id = http_answer_header(a, "x-request-id");
    s->status = a->status;
    struct str version = http_answer_header(a, "x-weir-version");
    uint64_t number;
    if (str_u64(version, &number)) {
        str_copy(s->version, sizeof s->version, version);
    }
    str_copy(s->arm, sizeof s->arm, http_answer_header(a, "x-weir-arm"));
    if (id.n > 0 && id.n < sizeof s->id) {
        str_copy(s->id, sizeof s->id, id);
    }
    if (a->status == 200) {
        s->has_predicted = sample_predicted(buf_str(&a->body), s->predicted, sizeof s->predicted, &s->by_index);
    } else {
        cli_reply_error(a, w->b->data_url, &w->last);
    }
}

static void ask(struct worker *w, struct shot *s)
{
    struct bench *b = w->b;
    struct iovec body = {s->sample->body, s->sample->body_n};
    buf_clear(&w->headers);
    buf_addf(&w->headers, "Content-Type: application/json\r\nX-Weir-User: user-%" PRIu64 "\r\nX-Request-Id: %s\r\n",
             s->user, s->id);
    uint64_t start = clock_ns();
    enum err_code rc =
        http_call(w->client, "POST", b->path, buf_str(&w->headers), &body, 1, b->timeout_us, &w->answer, &w->last);
    uint64_t ns = clock_ns() - start;
    s->us = ns / 1000;
    if (rc == ERR_OK) {
        take_answer(w, s);
    }
    struct group *g = group_of(w, s);
    g->requests++;
    counter_add(&w->requests, 1);
    if (s->status == 200) {
        sketch_add(&g->latency, ns);
    } else {
        g->errors++;
        counter_add(&w->errors, 1);
    }
    if (rc != ERR_OK) {
        nap(AFTER_FAILURE_US); /* a server that is away for a moment is not asked as fast as it refuses */
    }
}

static void count_accuracy(struct worker *w, const struct shot *s, yyjson_val *said)
{
    struct group *g = group_of(w, s);
    uint64_t number;
    if (yyjson_is_bool(said)) {
        g->labelled++;
        g->right += yyjson_get_bool(said);
    } else if (s->has_predicted && (!s->by_index || str_u64(str_of(s->sample->label), &number))) {
        g->labelled++;
        g->right += strcmp(s->predicted, s->sample->label) == 0;
    }
}

/* Sends the label of an answered request, and counts whether the prediction was right: as the server says, else by
 * comparing what the reply shows. */
static void send_label(struct worker *w, const struct shot *s)
{
    struct bench *b = w->b;
    yyjson_doc *doc = NULL;
    if (s->status != 200 || !s->sample->label) {
        return;
    }
    if (mix(b->seed, s->ticket, 3) % 10000 < b->feedback_bp) {
        buf_clear(&w->line);
        BUF_LIT(&w->line, "{\"id\":");
        json_strz(&w->line, s->id);
        BUF_LIT(&w->line, ",\"label\":");
        json_strz(&w->line, s->sample->label);
        BUF_LIT(&w->line, "}");
        struct iovec body = {w->line.p, w->line.n};
        enum err_code rc = http_call(w->client, "POST", b->feedback_path, STR("Content-Type: application/json\r\n"),
                                     &body, 1, b->timeout_us, &w->answer, &w->last);
        if (rc == ERR_OK && w->answer.status >= 200 && w->answer.status < 300) {
            w->feedback_sent++;
            doc = yyjson_read(w->answer.body.p ? w->answer.body.p : "", w->answer.body.n, 0);
        } else {
            w->feedback_failed++;
            if (rc == ERR_OK) {
                cli_reply_error(&w->answer, b->data_url, &w->last);
            }
        }
    }
    count_accuracy(w, s, yyjson_obj_get(yyjson_doc_get_root(doc), "correct"));
    yyjson_doc_free(doc);
}

static void log_shot(struct worker *w, const struct shot *s)
{
    struct buf *l = &w->line;
    buf_clear(l);
    buf_addf(l, "{\"ticket\":%" PRIu64 ",\"user\":\"user-%" PRIu64 "\",\"id\":", s->ticket, s->user);
    json_strz(l, s->id);
    buf_addf(l, ",\"version\":%s,\"arm\":", s->version[0] ? s->version : "null");
    json_strz(l, s->arm[0] ? s->arm : NULL);
    buf_addf(l, ",\"status\":%d,\"latency_us\":%" PRIu64 ",\"predicted\":", s->status, s->us);
    json_strz(l, s->has_predicted ? s->predicted : NULL);
    BUF_LIT(l, ",\"label\":");
    json_strz(l, s->sample->label);
    BUF_LIT(l, "}\n");
    fwrite(l->p, 1, l->n, w->b->log); /* one call a line: stdio keeps lines of different threads apart */
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct bench *b = w->b;
    while (!over(b)) {
        struct shot s = {.ticket = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed)};
        if ((b->requests && s.ticket >= b->requests) || !wait_due(w, s.ticket)) {
            break;
        }
        s.user = mix(b->seed, s.ticket, 1) % b->users;
        s.sample = &b->samples.list[mix(b->seed, s.ticket, 2) % b->samples.n];
        snprintf(s.id, sizeof s.id, "%s-%" PRIu64, b->run, s.ticket);
        ask(w, &s);
        if (b->log) {
            log_shot(w, &s);
        }
        send_label(w, &s);
    }
    return NULL;
}

/* ---- the report ---- */

struct report {
    struct group all;
    struct group group[GROUPS];
    size_t n_groups;
    uint64_t feedback_sent, feedback_failed, late;
    double seconds;
    char problem[512]; /* one failure, as an example */
};

static void add_group(struct group *to, const struct group *g)
{
    to->requests += g->requests;
    to->errors += g->errors;
    to->labelled += g->labelled;
    to->right += g->right;
    sketch_merge(&to->latency, &g->latency);
}

static void add_worker(struct report *r, const struct worker *w)
{
    r->feedback_sent += w->feedback_sent;
    r->feedback_failed += w->feedback_failed;
    r->late += w->late;
    if (w->last.code != ERR_OK && (w->errors > 0 || w->feedback_failed > 0)) {
        str_copy(r->problem, sizeof r->problem, str_of(w->last.text));
    }
    for (size_t i = 0; i < w->n_groups; i++) {
        const struct group *g = &w->group[i];
        size_t k = 0;
        while (k < r->n_groups &&
               (strcmp(r->group[k].version, g->version) != 0 || strcmp(r->group[k].arm, g->arm) != 0)) {
            k++;
        }
        if (k == r->n_groups && k == GROUPS) {
            k = GROUPS - 1;
        } else if (k == r->n_groups) {
            str_copy(r->group[k].version, sizeof r->group[k].version, str_of(g->version));
            str_copy(r->group[k].arm, sizeof r->group[k].arm, str_of(g->arm));
            r->n_groups++;
        }
        add_group(&r->group[k], g);
        add_group(&r->all, g);
    }
}

static double ms_at(const struct group *g, double p)
{
    return counter_get(&g->latency.count) ? sketch_quantile(&g->latency, p) * 1000 : (double)NAN;
}

static double accuracy(const struct group *g)
{
    return g->labelled ? (double)g->right / (double)g->labelled : (double)NAN;
}

static void json_group(struct buf *out, const struct group *g)
{
    buf_addf(out,
             "\"requests\":%" PRIu64 ",\"ok\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"latency_ms\":{\"p50\":", g->requests,
             g->requests - g->errors, g->errors);
    json_f64(out, ms_at(g, .5));
    BUF_LIT(out, ",\"p95\":");
    json_f64(out, ms_at(g, .95));
    BUF_LIT(out, ",\"p99\":");
    json_f64(out, ms_at(g, .99));
    BUF_LIT(out, "},\"accuracy\":");
    json_f64(out, accuracy(g));
    buf_addf(out, ",\"labelled\":%" PRIu64, g->labelled);
}

static void report_json(struct buf *out, const struct bench *b, const struct report *r)
{
    buf_addf(out, "{\"model\":\"%s\",\"seconds\":", b->model);
    json_f64(out, r->seconds);
    BUF_LIT(out, ",\"rate\":");
    json_f64(out, r->seconds > 0 ? (double)r->all.requests / r->seconds : 0);
    BUF_LIT(out, ",");
    json_group(out, &r->all);
    buf_addf(out, ",\"feedback\":{\"sent\":%" PRIu64 ",\"failed\":%" PRIu64 "},\"late\":%" PRIu64 ",\"groups\":[",
             r->feedback_sent, r->feedback_failed, r->late);
    for (size_t i = 0; i < r->n_groups; i++) {
        const struct group *g = &r->group[i];
        buf_addf(out, "%s{\"version\":%s,\"arm\":", i ? "," : "", g->version[0] ? g->version : "null");
        json_strz(out, g->arm[0] ? g->arm : NULL);
        BUF_LIT(out, ",");
        json_group(out, g);
        BUF_LIT(out, "}");
    }
    BUF_LIT(out, "]");
    if (r->problem[0]) {
        BUF_LIT(out, ",\"problem\":");
        json_strz(out, r->problem);
    }
    BUF_LIT(out, "}\n");
}

static void report_row(struct table *t, const char *name, const char *arm, const struct group *g)
{
    static const double at[] = {.5, .95, .99};
    table_put(t, name);
    table_put(t, arm);
    show_count(&t->text, g->requests);
    table_cell(t);
    show_count(&t->text, g->errors);
    table_cell(t);
    for (size_t i = 0; i < COUNT_OF(at); i++) {
        show_ms(&t->text, ms_at(g, at[i]));
        table_cell(t);
    }
    show_ratio(&t->text, accuracy(g));
    table_cell(t);
    show_count(&t->text, g->labelled);
    table_cell(t);
}

static void report_text(struct cli *c, const struct report *r)
{
    static const char *const heads[] = {"version", "arm",    "requests", "errors", "p50 ms",
                                        "p95 ms",  "p99 ms", "accuracy", "labels"};
    struct table t;
    struct buf *out = &c->out;
    table_init(&t, COUNT_OF(heads));
    t.indent = true;
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        table_put(&t, heads[i]);
        t.right[i] = i >= 2;
    }
    for (size_t i = 0; i < r->n_groups; i++) {
        const struct group *g = &r->group[i];
        report_row(&t, g->version[0] ? g->version : "-", g->arm[0] ? g->arm : "-", g);
    }
    report_row(&t, "all", "", &r->all);
    show_count(out, r->all.requests);
    buf_addf(out, " requests in %.1f s: ", r->seconds);
    show_count(out, (uint64_t)(r->seconds > 0 ? (double)r->all.requests / r->seconds : 0));
    BUF_LIT(out, " a second, ");
    show_count(out, r->all.errors);
    BUF_LIT(out, " errors; ");
    show_count(out, r->feedback_sent);
    BUF_LIT(out, " labels sent as feedback");
    if (r->feedback_failed) {
        buf_addf(out, ", %" PRIu64 " refused", r->feedback_failed);
    }
    BUF_LIT(out, "\n\n");
    table_show(out, &t, true, c->tty);
    table_done(&t);
    if (r->late) {
        buf_addf(out,
                 "\n%" PRIu64
                 " requests went out more than 10 ms after their time: more --connections, or less --rate\n",
                 r->late);
    }
    if (r->problem[0]) {
        BUF_LIT(out, "\none of the failures: ");
        show_textz(out, r->problem);
        BUF_LIT(out, "\n");
    }
}

/* ---- setting up ---- */

static enum err_code prepare(struct cli *c, struct bench *b, struct err *e)
{
    uint8_t random[8];
    char *path = cli_model_path(b->model, "/samples");
    enum err_code rc = cli_call(c, "GET", path, NULL, e);
    free(path);
    if (rc == ERR_OK) {
        rc = samples_read(&b->samples, buf_str(&c->answer.body), e);
    }
    if (rc == ERR_OK) {
        rc = cli_data_url(c, &b->data_url, e);
    }
    const char *log = opt_text(&c->args, "log");
    if (rc == ERR_OK && log && !(b->log = fopen(log, "we"))) {
        rc = err_sys(e, ERR_INVALID, "--log %s", log);
    }
    random_bytes(random, sizeof random);
    hex_encode(b->run, random, sizeof random);
    b->path = xasprintf("/v2/models/%s/infer", b->model);
    b->feedback_path = xasprintf("/v2/models/%s/feedback", b->model);
    return rc;
}

static void draw(const struct worker *w, size_t n, uint64_t since_us, bool clear)
{
    struct buf line;
    uint64_t requests = 0, errors = 0;
    for (size_t i = 0; i < n; i++) {
        requests += counter_get(&w[i].requests);
        errors += counter_get(&w[i].errors);
    }
    buf_init(&line, 1024);
    BUF_LIT(&line, "\r\033[K");
    if (!clear) {
        show_count(&line, requests);
        BUF_LIT(&line, " requests, ");
        show_count(&line, requests * 1000000 / (clock_us() - since_us + 1));
        BUF_LIT(&line, " a second, ");
        show_count(&line, errors);
        BUF_LIT(&line, " errors");
    }
    fwrite(line.p, 1, line.n, stderr);
    fflush(stderr);
    buf_done(&line);
}

static bool tickets_left(struct bench *b)
{
    return !b->requests || atomic_load(&b->next) < b->requests;
}

/* Runs the threads to their end; *started is how many could be made. */
static enum err_code run(struct cli *c, struct bench *b, struct worker *w, size_t n, struct report *r, struct err *e)
{
    size_t started = 0;
    enum err_code rc = ERR_OK;
    struct sigaction act = {.sa_handler = on_interrupt}, before;
    sigaction(SIGINT, &act, &before);
    b->start_us = clock_us();
    for (; rc == ERR_OK && started < n; started += rc == ERR_OK) {
        struct worker *one = &w[started];
        one->b = b;
        http_answer_init(&one->answer, REPLY_MAX);
        buf_init(&one->headers, 4096);
        buf_init(&one->line, 1u << 20);
        rc = http_client_new(&one->client, str_of(b->data_url), e);
        if (rc == ERR_OK && pthread_create(&one->thread, NULL, work, one) != 0) {
            rc = err_set(e, ERR_INTERNAL, "no more threads: %zu of %zu connections", started, n);
        }
    }
    bool show = c->err_tty && !c->json;
    for (uint64_t drawn = clock_us(); rc == ERR_OK && !over(b) && tickets_left(b) && !atomic_load(&interrupted);) {
        nap(STEP_US);
        if (show && clock_us() - drawn > MILLIS(500)) {
            drawn = clock_us();
            draw(w, n, b->start_us, false);
        }
    }
    if (rc != ERR_OK || atomic_load(&interrupted)) {
        atomic_store(&b->stop, true);
    }
    for (size_t i = 0; i < started; i++) {
        pthread_join(w[i].thread, NULL);
    }
    r->seconds = (double)(clock_us() - b->start_us) / 1e6;
    sigaction(SIGINT, &before, NULL);
    if (show) {
        draw(w, n, b->start_us, true);
    }
    for (size_t i = 0; i < n; i++) {
        add_worker(r, &w[i]);
        http_client_free(w[i].client);
        http_answer_done(&w[i].answer);
        buf_done(&w[i].headers);
        buf_done(&w[i].line);
    }
    return rc;
}

static void read_options(struct cli *c, struct bench *b)
{
    b->users = opt_number(&c->args, "users", 1000);
    b->requests = opt_number(&c->args, "requests", 0);
    b->for_us = opt_number(&c->args, "for", b->requests ? 0 : SECONDS(10));
    b->rate = opt_number(&c->args, "rate", 0);
    b->feedback_bp = opt_number(&c->args, "feedback", 10000);
    b->timeout_us = opt_number(&c->args, "timeout", SECONDS(30));
    b->seed = opt_number(&c->args, "seed", 1);
}

static void bench_done(struct bench *b)
{
    samples_done(&b->samples);
    free(b->data_url);
    free(b->path);
    free(b->feedback_path);
}

int bench_run(struct cli *c)
{
    struct err e = {0};
    struct bench b = {.model = cli_model(c, 0)};
    uint64_t n = opt_number(&c->args, "connections", 8);
    if (!b.model) {
        return EXIT_USAGE;
    }
    if (n > CONNECTIONS_MAX) {
        return cli_usage(c, "--connections is at most %d", CONNECTIONS_MAX);
    }
    read_options(c, &b);
    enum err_code rc = prepare(c, &b, &e);
    struct report *r = xcalloc(1, sizeof *r);
    if (rc == ERR_OK) {
        n = b.requests ? MIN(n, b.requests) : n;
        struct worker *w = xcalloc(n, sizeof *w);
        rc = run(c, &b, w, n, r, &e);
        free(w);
    }
    if (b.log && fclose(b.log) != 0 && rc == ERR_OK) {
        rc = err_sys(&e, ERR_STORAGE, "--log %s", opt_text(&c->args, "log"));
    }
    bool none = r->all.requests == r->all.errors;
    if (rc == ERR_OK && c->json) {
        report_json(&c->out, &b, r);
    } else if (rc == ERR_OK) {
        report_text(c, r);
    }
    free(r);
    bench_done(&b);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    return none ? EXIT_FAILED : 0;
}
