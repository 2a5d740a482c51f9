/* SPDX-License-Identifier: Apache-2.0 */
/* weir backtest: captured requests are sent to a candidate that no user has seen, and its answers are compared with
 * what was answered then, or with what another version answers now.
 *
 * The requests come from the server's capture or from a file. They go out as sheddable work over a few connections;
 * what is refused for want of room waits as long as it is told to, within bounds. Each thread has sums of its own,
 * which are merged at the end.
 *
 * Threads: one a connection, and the main one, which draws the progress line. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/sketch.h"
#include "cli/answers.h"
#include "cli/cli.h"
#include "cli/diff_page.h"
#include "cli/show.h"

#define CONNECTIONS 4
#define LIMIT 1000
#define SINCE_US SECONDS(86400)
#define TEXT_MAX (512u << 20) /* of records */
#define REPLY_MAX (256u << 20)
#define TRIES 6
#define WAIT_MOST_US SECONDS(5) /* between two tries */
#define TIMEOUT_US SECONDS(60)

struct backtest {
    const char *model;
    uint64_t candidate, against; /* versions; against 0: what was recorded */
    char *prediction;            /* the output that says the candidate's class; NULL: not told */
    char *data_url, *path[2];    /* of the stable side (NULL: recorded) and the candidate */
    struct records records;
    struct class_rule rule;
    _Atomic uint64_t next, done;
};

enum { STABLE, CANDIDATE, SIDES };

struct worker {
    struct backtest *b;
    pthread_t thread;
    bool started;
    struct http_client *client;
    struct http_answer answer[SIDES];
    struct scratch *scratch;
    struct diff_sum *sum;
    struct sketch *latency[SIDES];
    uint64_t replayed, errors, retried, without_answer;
    struct err last; /* the last failure, to be shown */
};

/* ---- one request ---- */

static void nap(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

    nanosleep(&t, NULL);
}

/* How long to wait before the next try. */
static uint64_t pause_of(const struct http_answer *a, unsigned tried)
{
    uint64_t seconds;
    uint64_t us = str_u64(http_answer_header(a, "retry-after"), &seconds) ? SECONDS(MIN(seconds, (uint64_t)60))
                                                                          : MILLIS(50) << tried;

    return MIN(us, WAIT_MOST_US);
}

static bool ask(struct worker *w, int side, const struct record *r, uint64_t *us)
{
    struct iovec body = {r->body, r->body_n};
    struct http_answer *a = &w->answer[side];

    for (unsigned tried = 0;; tried++) {
        uint64_t start = clock_us();
        enum err_code rc = http_call(w->client, "POST", w->b->path[side],
                                     STR("Content-Type: application/json\r\nX-Weir-Priority: sheddable\r\n"), &body, 1,
                                     TIMEOUT_US, a, &w->last);

        *us = clock_us() - start;
        if (rc != ERR_OK || a->status == 200) {
            return rc == ERR_OK;
        }
        cli_reply_error(a, w->b->data_url, &w->last);
        if (a->status != 503 || tried + 1 == TRIES) {
            return false;
        }
        w->retried++;
        nap(pause_of(a, tried));
    }
}

/* The truth of a request that has feedback; false: it says nothing about the candidate's class. */
static bool truth_of(const struct record *r, struct str stable, struct str candidate, bool *stable_right,
                     bool *candidate_right)
{
    if (r->label) {
        *stable_right = str_is(stable, r->label);
        *candidate_right = str_is(candidate, r->label);
        return true;
    }
    *stable_right = r->correct;
    *candidate_right = r->correct && str_eq(stable, candidate);
    return r->told && (r->correct || str_eq(stable, candidate));
}

/* Feedback that is no label is about the answer of then. */
static void label(struct worker *w, const struct record *r, yyjson_val *stable, yyjson_val *candidate)
{
    const struct class_rule *rule = &w->b->rule;
    char small[2][24];
    struct str y, x;
    bool right[SIDES];

    if ((r->label || (r->told && !w->b->against)) && class_of(rule, stable, small[0], &y) &&
        class_of(rule, candidate, small[1], &x) && truth_of(r, y, x, &right[STABLE], &right[CANDIDATE])) {
        diff_label(w->sum, right[STABLE], right[CANDIDATE]);
    }
}

static void compare(struct worker *w, const struct record *r, yyjson_val *stable, yyjson_val *candidate)
{
    answers_compare(w->sum, w->scratch, &w->b->rule, str_of(r->id), stable, candidate);
    label(w, r, stable, candidate);
    w->replayed++;
}

static yyjson_val *outputs_of(yyjson_doc *doc)
{
    yyjson_val *outputs = yyjson_obj_get(yyjson_doc_get_root(doc), "outputs");

    return yyjson_is_arr(outputs) ? outputs : NULL;
}

static yyjson_doc *parse(const struct http_answer *a)
{
    return yyjson_read(a->body.p ? a->body.p : "", a->body.n, 0);
}

static void replay(struct worker *w, const struct record *r)
{
    bool live = w->b->against != 0;
    uint64_t us[SIDES] = {r->latency_us, 0};
    yyjson_doc *doc[SIDES] = {NULL, NULL};
    yyjson_val *outputs[SIDES] = {r->outputs, NULL};

    if (!live && !r->outputs) {
        w->without_answer++;
        return;
    }
    if ((live && !ask(w, STABLE, r, &us[STABLE])) || !ask(w, CANDIDATE, r, &us[CANDIDATE])) {
        w->errors++;
        return;
    }
    for (int side = live ? STABLE : CANDIDATE; side < SIDES; side++) {
        doc[side] = parse(&w->answer[side]);
        outputs[side] = outputs_of(doc[side]);
    }
    if (outputs[STABLE] && outputs[CANDIDATE]) {
        compare(w, r, outputs[STABLE], outputs[CANDIDATE]);
        for (int side = 0; side < SIDES; side++) {
            sketch_add(w->latency[side], us[side] * 1000);
        }
    } else {
        err_set(&w->last, ERR_MODEL, "an answer is not one of the Open Inference Protocol");
        w->errors++;
    }
    yyjson_doc_free(doc[STABLE]);
    yyjson_doc_free(doc[CANDIDATE]);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct backtest *b = w->b;

    for (;;) {
        uint64_t i = atomic_fetch_add_explicit(&b->next, 1, memory_order_relaxed);

        if (i >= b->records.n) {
            return NULL;
        }
        replay(w, &b->records.list[i]);
        atomic_fetch_add_explicit(&b->done, 1, memory_order_relaxed);
    }
}

/* ---- all of them ---- */

static void worker_done(struct worker *w)
{
    http_client_free(w->client);
    free(w->scratch);
    free(w->sum);
    for (int side = 0; side < SIDES; side++) {
        http_answer_done(&w->answer[side]);
        free(w->latency[side]);
    }
}

static enum err_code worker_start(struct worker *w, struct backtest *b, struct err *e)
{
    w->b = b;
    w->scratch = xmalloc(sizeof(*w->scratch));
    w->sum = xcalloc(1, sizeof(*w->sum));
    for (int side = 0; side < SIDES; side++) {
        http_answer_init(&w->answer[side], REPLY_MAX);
        w->latency[side] = xcalloc(1, sizeof(*w->latency[side]));
    }
    if (http_client_new(&w->client, str_of(b->data_url), e) != ERR_OK) {
        return e->code;
    }
    if (pthread_create(&w->thread, NULL, work, w) != 0) {
        return err_set(e, ERR_INTERNAL, "no thread for a connection");
    }
    w->started = true;
    return ERR_OK;
}

static void draw(const struct backtest *b, uint64_t done, bool clear)
{
    fprintf(stderr, clear ? "\r\033[K" : "\r\033[K%" PRIu64 " of %zu requests replayed", done, b->records.n);
    fflush(stderr);
}

static void wait_for(const struct cli *c, struct backtest *b, struct worker *w, size_t n)
{
    bool show = c->err_tty && !c->json;

    for (uint64_t done; show && (done = atomic_load(&b->done)) < b->records.n;) {
        draw(b, done, false);
        nap(MILLIS(200));
    }
    for (size_t i = 0; i < n; i++) {
        if (w[i].started) {
            pthread_join(w[i].thread, NULL);
        }
    }
    if (show) {
        draw(b, 0, true);
    }
}

static void merge(struct worker *into, const struct worker *w)
{
    diff_merge(into->sum, w->sum);
    for (int side = 0; side < SIDES; side++) {
        sketch_merge(into->latency[side], w->latency[side]);
    }
    into->replayed += w->replayed;
    into->errors += w->errors;
    into->retried += w->retried;
    into->without_answer += w->without_answer;
    into->last = w->errors > 0 ? w->last : into->last;
}

/* The first worker has the sum of all then. */
static enum err_code run(const struct cli *c, struct backtest *b, struct worker *w, size_t n, struct err *e)
{
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < n && rc == ERR_OK; i++) {
        rc = worker_start(&w[i], b, e);
    }
    if (rc != ERR_OK) {
        atomic_store(&b->next, b->records.n);
        atomic_store(&b->done, b->records.n);
    }
    wait_for(c, b, w, n);
    for (size_t i = 1; i < n && rc == ERR_OK; i++) {
        merge(&w[0], &w[i]);
    }
    return rc;
}

/* ---- the report ---- */

static void json_times(struct buf *out, const struct worker *w)
{
    static const char *const names[] = {"stable", "candidate"};

    BUF_LIT(out, "{");
    for (int side = 0; side < SIDES; side++) {
        uint64_t n = counter_get(&w->latency[side]->count);

        json_key(out, names[side]);
        buf_addf(out, "{\"n\":%" PRIu64 ",\"p50\":", n);
        json_f64(out, n ? sketch_quantile(w->latency[side], .5) * 1000 : (double)NAN);
        BUF_LIT(out, ",\"p95\":");
        json_f64(out, n ? sketch_quantile(w->latency[side], .95) * 1000 : (double)NAN);
        BUF_LIT(out, "}");
    }
    BUF_LIT(out, "}");
}

/* Who answered then, and how often, in the order of first sight. */
static void json_recorded(struct buf *out, const struct records *r)
{
    uint64_t version[64], count[64];
    size_t n = 0;

    for (size_t i = 0; i < r->n; i++) {
        size_t k = 0;

        while (k < n && version[k] != r->list[i].version) {
            k++;
        }
        if (k == COUNT_OF(version)) {
            continue;
        }
        if (k == n) {
            version[n] = r->list[i].version;
            count[n++] = 0;
        }
        count[k]++;
    }
    BUF_LIT(out, "[");
    for (size_t k = 0; k < n; k++) {
        buf_addf(out, "%s{\"version\":%" PRIu64 ",\"requests\":%" PRIu64 "}", k ? "," : "", version[k], count[k]);
    }
    BUF_LIT(out, "]");
}

static void json_time(struct buf *out, const char *key, int64_t at_ms)
{
    char text[CLOCK_TEXT];

    clock_text(text, at_ms);
    json_key(out, key);
    json_strz(out, text);
}

static void report_json(struct buf *out, const struct backtest *b, const struct worker *w)
{
    const struct records *r = &b->records;

    buf_addf(out, "{\"model\":\"%s\",\"candidate\":%" PRIu64 ",\"against\":", b->model, b->candidate);
    if (b->against) {
        buf_addu(out, b->against);
    } else {
        BUF_LIT(out, "\"recorded\"");
    }
    buf_addf(out, ",\"records\":%zu,\"recorded\":", r->n);
    json_recorded(out, r);
    json_time(out, "from", r->list[0].at_ms);
    json_time(out, "to", r->list[r->n - 1].at_ms);
    buf_addf(out,
             ",\"replayed\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"retried\":%" PRIu64
             ",\"skipped\":{\"redacted\":%" PRIu64 ",\"binary\":%" PRIu64 ",\"direct\":%" PRIu64
             ",\"unreadable\":%" PRIu64 ",\"without_answer\":%" PRIu64 "},\"unjoined\":%" PRIu64 ",\"problem\":",
             w->replayed, w->errors, w->retried, r->redacted, r->binary, r->direct, r->unreadable, w->without_answer,
             r->unjoined);
    json_strz(out, w->errors > 0 ? w->last.text : NULL);
    BUF_LIT(out, ",\"latency_ms\":");
    json_times(out, w);
    BUF_LIT(out, ",\"diff\":");
    diff_json(out, w->sum, true);
    BUF_LIT(out, "}");
}

static void say_left_out(struct buf *out, yyjson_val *root)
{
    static const struct {
        const char *key, *text;
    } reasons[] = {{"redacted", "redacted"},
                   {"binary", "with bytes that are not UTF-8"},
                   {"direct", "that asked for a version by its number"},
                   {"unreadable", "that can not be read"},
                   {"without_answer", "without an answer"}};
    yyjson_val *skipped = yyjson_obj_get(root, "skipped");
    bool any = false;

    for (size_t i = 0; i < COUNT_OF(reasons); i++) {
        uint64_t n = get_count(skipped, reasons[i].key);

        if (n > 0) {
            buf_addz(out, any ? ", " : "  left out      ");
            show_count(out, n);
            buf_addf(out, " %s", reasons[i].text);
            any = true;
        }
    }
    buf_addz(out, any ? "\n" : "");
}

static void report_text(struct cli *c, yyjson_val *root)
{
    uint64_t against = get_count(root, "against");
    char *candidate = xasprintf("version %" PRIu64, get_count(root, "candidate"));
    char *stable = against ? xasprintf("version %" PRIu64, against) : xstrdup("recorded");
    struct diff_view v = {.stable = stable,
                          .candidate = candidate,
                          .diff = yyjson_obj_get(root, "diff"),
                          .times = yyjson_obj_get(root, "latency_ms"),
                          .times_of = "answer",
                          .colour = c->tty};
    struct buf *out = &c->out;

    buf_addf(out, "%s: %s against %s, ", get_text(root, "model"), candidate,
             against ? stable : "what was answered then");
    show_count(out, get_count(root, "records"));
    BUF_LIT(out, " requests from ");
    show_when(out, get_text(root, "from"));
    BUF_LIT(out, " on\n  replayed      ");
    show_count(out, get_count(root, "replayed"));
    BUF_LIT(out, ", errors ");
    show_count(out, get_count(root, "errors"));
    if (get_count(root, "retried") > 0) {
        BUF_LIT(out, ", sent again ");
        show_count(out, get_count(root, "retried"));
    }
    BUF_LIT(out, "\n");
    say_left_out(out, root);
    diff_page(out, &v);
    if (get_text(root, "problem")) {
        BUF_LIT(out, "\none of the errors: ");
        show_textz(out, get_text(root, "problem"));
        BUF_LIT(out, "\n");
    }
    free(candidate);
    free(stable);
}

static enum err_code report(struct cli *c, const struct backtest *b, const struct worker *w, struct err *e)
{
    struct buf json;
    enum err_code rc = ERR_OK;

    buf_init(&json, 16u << 20);
    report_json(&json, b, w);
    yyjson_doc *doc = json.over ? NULL : yyjson_read(json.p, json.n, 0);
    if (!doc) {
        rc = err_set(e, ERR_INTERNAL, "the report can not be made");
    } else if (c->json) {
        buf_add(&c->out, json.p, json.n);
        BUF_LIT(&c->out, "\n");
    } else {
        report_text(c, yyjson_doc_get_root(doc));
    }
    yyjson_doc_free(doc);
    buf_done(&json);
    return rc;
}

/* ---- setting up ---- */

static enum err_code read_file(struct buf *out, const char *path, struct err *e)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    enum err_code rc = ERR_OK;
    ssize_t n = 1;

    if (fd < 0) {
        return err_sys(e, ERR_NOT_FOUND, "--file %s", path);
    }
    while (rc == ERR_OK && n > 0) {
        char *to = buf_room(out, 64u << 10);

        if (!to) {
            rc = err_set(e, ERR_TOO_LARGE, "--file %s is larger than %u bytes", path, TEXT_MAX);
            break;
        }
        n = read(fd, to, 64u << 10);
        if (n > 0) {
            out->n += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            n = 1;
        } else if (n < 0) {
            rc = err_sys(e, ERR_INVALID, "--file %s", path);
        }
    }
    if (!standard) {
        close(fd);
    }
    return rc;
}

/* Appends the lines of one kind. */
static enum err_code read_kind(struct cli *c, const char *model, const char *kind, int64_t until_ms, uint64_t limit,
                               struct buf *out, struct err *e)
{
    int64_t since_ms = until_ms - (int64_t)(opt_number(&c->args, "since", SINCE_US) / 1000);
    char *query = xasprintf("/capture/records?kind=%s&since=%" PRId64 "&until=%" PRId64 "&limit=%" PRIu64, kind,
                            MAX(since_ms, 0), until_ms, limit);
    char *path = cli_model_path(model, query);

    c->answer.body.max = TEXT_MAX;
    enum err_code rc = cli_call(c, "GET", path, NULL, e);
    if (rc == ERR_OK) {
        buf_add(out, c->answer.body.p, c->answer.body.n);
    }
    free(path);
    free(query);
    return rc;
}

static enum err_code read_capture(struct cli *c, const struct backtest *b, struct buf *out, struct err *e)
{
    int64_t now = clock_wall_ms();
    enum err_code rc = read_kind(c, b->model, "request", now, opt_number(&c->args, "limit", LIMIT), out, e);

    return rc == ERR_OK && out->n > 0 ? read_kind(c, b->model, "feedback", now, RECORDS_MAX, out, e) : rc;
}

static enum err_code read_records(struct cli *c, struct backtest *b, struct err *e)
{
    const char *file = opt_text(&c->args, "file");
    struct buf text;

    buf_init(&text, TEXT_MAX);
    enum err_code rc = file ? read_file(&text, file, e) : read_capture(c, b, &text, e);
    if (rc == ERR_OK && text.n == 0) {
        rc = err_set(e, ERR_NOT_FOUND,
                     "nothing was captured of '%s' in that time; a longer --since, or --file with an export", b->model);
    }
    if (rc == ERR_OK) {
        rc = records_read(&b->records, buf_str(&text), opt_number(&c->args, "limit", LIMIT), e);
    }
    buf_done(&text);
    return rc;
}

/* What can not answer is found out before anything is sent. *found: the version. */
static enum err_code find_version(yyjson_val *model, uint64_t number, yyjson_val **found, struct err *e)
{
    static const char *const able[] = {"ready", "degraded", "cold", "loading"};
    const char *name = get_text(model, "name");
    yyjson_val *v;
    size_t i, max;

    yyjson_arr_foreach(yyjson_obj_get(model, "versions"), i, max, v)
    {
        const char *state = get_text(v, "state");

        if (get_count(v, "version") != number) {
            continue;
        }
        for (size_t k = 0; state && k < COUNT_OF(able); k++) {
            if (strcmp(state, able[k]) == 0) {
                *found = v;
                return ERR_OK;
            }
        }
        return err_set(e, ERR_CONFLICT,
                       "version %" PRIu64 " of '%s' is not in service (%s): weir shadow start %s --version %" PRIu64
                       " loads it",
                       number, name, state ? state : "?", name, number);
    }
    return err_set(e, ERR_NOT_FOUND, "model '%s' has no version %" PRIu64, name ? name : "?", number);
}

static enum err_code prepare(struct cli *c, struct backtest *b, struct err *e)
{
    char *path = cli_model_path(b->model, "");
    yyjson_doc *doc = NULL;
    yyjson_val *v = NULL;
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, e);

    free(path);
    if (rc == ERR_OK && b->against) {
        rc = find_version(yyjson_doc_get_root(doc), b->against, &v, e);
    }
    if (rc == ERR_OK) {
        rc = find_version(yyjson_doc_get_root(doc), b->candidate, &v, e);
    }
    if (rc == ERR_OK && get_text(v, "prediction")) {
        b->prediction = xstrdup(get_text(v, "prediction"));
    }
    yyjson_doc_free(doc);
    if (rc == ERR_OK) {
        rc = cli_data_url(c, &b->data_url, e);
    }
    if (rc == ERR_OK) {
        rc = read_records(c, b, e);
    }
    if (rc == ERR_OK) {
        class_rule_learn(&b->rule, &b->records, b->prediction);
        b->path[STABLE] =
            b->against ? xasprintf("/v2/models/%s/versions/%" PRIu64 "/infer", b->model, b->against) : NULL;
        b->path[CANDIDATE] = xasprintf("/v2/models/%s/versions/%" PRIu64 "/infer", b->model, b->candidate);
    }
    return rc;
}

static void backtest_done(struct backtest *b)
{
    class_rule_done(&b->rule);
    records_done(&b->records);
    free(b->prediction);
    free(b->data_url);
    free(b->path[STABLE]);
    free(b->path[CANDIDATE]);
}

/* "intent@2"; *model is the caller's. */
static bool read_name(const char *word, char model[NAME_MAX_LEN + 1], uint64_t *version)
{
    const char *at = strrchr(word, '@');

    return at && str_copy(model, NAME_MAX_LEN + 1, (struct str){word, (size_t)(at - word)}) && name_ok(str_of(model)) &&
           str_u64(str_of(at + 1), version) && *version > 0;
}

static int backtest_go(struct cli *c, struct backtest *b)
{
    struct err e = {0};
    enum err_code rc = prepare(c, b, &e);
    size_t n = MIN((size_t)CONNECTIONS, b->records.n);
    struct worker *w = xcalloc(MAX(n, (size_t)1), sizeof(*w));
    bool none = true;

    if (rc == ERR_OK) {
        rc = run(c, b, w, n, &e);
    }
    if (rc == ERR_OK) {
        rc = report(c, b, &w[0], &e);
        none = w[0].replayed == 0;
    }
    for (size_t i = 0; i < n; i++) {
        worker_done(&w[i]);
    }
    free(w);
    return rc != ERR_OK ? cli_fail(c, &e) : none ? EXIT_FAILED : 0;
}

int backtest_run(struct cli *c)
{
    const char *against = opt_text(&c->args, "against");
    char model[NAME_MAX_LEN + 1];
    struct backtest b = {.model = model};

    if (!read_name(c->args.word[0], model, &b.candidate)) {
        return cli_usage(c, "'%s' is not a model's version: NAME@VERSION, like intent@2", c->args.word[0]);
    }
    if (against && strcmp(against, "recorded") != 0 && (!str_u64(str_of(against), &b.against) || b.against == 0)) {
        return cli_usage(c, "--against is 'recorded' or a version's number, not '%s'", against);
    }
    if (b.against == b.candidate) {
        return cli_usage(c, "version %" PRIu64 " against itself says nothing", b.candidate);
    }
    if (opt_get(&c->args, "file") && opt_get(&c->args, "since")) {
        return cli_usage(c, "--since is for what the server has captured: it goes without --file");
    }
    if (opt_number(&c->args, "limit", LIMIT) > RECORDS_MAX) {
        return cli_usage(c, "--limit is at most %d", RECORDS_MAX);
    }
    int status = backtest_go(c, &b);
    backtest_done(&b);
    return status;
}
