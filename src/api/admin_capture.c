/* SPDX-License-Identifier: Apache-2.0 */
/* GET /admin/models/{model}/capture: what is captured, what became of it, which segments there are.
 * GET /admin/models/{model}/capture/records: the lines themselves, as a stream.
 *
 * The store thread reads a piece, it is sent, and only when the client has room for it the next one is read. The stream
 * is the ticket of its request; when the client leaves while a piece is being read, it is freed when that comes home.
 *
 * Thread: control's loop, but the two that read from the store. */
#include <stdio.h>
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

#define LIST_BYTES (8u << 20)  /* CAPTURE_SEGMENTS_MAX of them */
#define WAITING_MAX (1u << 20) /* bytes, for one client; a longer line goes alone */
#define RECORDS_MAX 1000000000ull

static enum err_code no_log(struct err *e)
{
    return err_set(e, ERR_STORAGE, "the log of captured requests can not be opened; the server's own log says why");
}

/* ---- what there is ---- */

static void put_segment(struct buf *b, const struct capture_segment *s)
{
    json_comma(b);
    BUF_LIT(b, "{");
    json_put_text(b, "file", s->file);
    buf_addf(b, ",\"first_ms\":%lld,\"last_ms\":%lld", (long long)s->first_ms, (long long)s->last_ms);
    json_put_count(b, "records", s->records);
    json_put_count(b, "bytes", s->bytes);
    json_put_text(b, "sha256", s->sealed ? s->sha256 : NULL);
    buf_addf(b, ",\"sealed\":%s}", s->sealed ? "true" : "false");
}

/* On the store thread: the segments, as a list. */
static void read_segments(struct store *s, struct disk_job *j)
{
    struct capture_log *g = capture_log(j->capture);
    struct capture_segment *rows;
    size_t n;

    (void)s;
    if (!g) {
        no_log(&j->err);
        return;
    }
    if (capture_log_list(g, j->model, &rows, &n, &j->err) != ERR_OK) {
        return;
    }
    j->err.code = ERR_OK;
    BUF_LIT(&j->out, "[");
    for (size_t i = 0; i < n; i++) {
        put_segment(&j->out, &rows[i]);
    }
    BUF_LIT(&j->out, "]");
    free(rows);
}

static void put_settings(struct buf *b, const struct capture_rule *rule, const struct capture_conf *conf)
{
    json_key(b, "settings");
    BUF_LIT(b, "{");
    json_put_count(b, "sample_bp", rule->sample);
    json_key(b, "redact");
    BUF_LIT(b, "[");
    for (const char *at = rule->redact; *at; at += strlen(at) + 1) {
        json_comma(b);
        json_strz(b, at);
    }
    BUF_LIT(b, "]");
    json_put_count(b, "max_bytes", conf->max_bytes);
    json_put_count(b, "max_age_s", conf->max_age_us / 1000000);
    json_put_count(b, "segment_bytes", conf->segment_bytes);
    BUF_LIT(b, "}");
}

static void answer_capture(struct request *r, struct disk_job *j)
{
    const struct model *m = control_model(r->plane->control, str_of(j->model));
    struct capture_sum sum;
    struct buf *b;

    if (j->err.code == ERR_OK && j->out.over) {
        err_set(&j->err, ERR_UNAVAILABLE, "no memory for the list of segments");
    } else if (j->err.code == ERR_OK && !m) {
        err_set(&j->err, ERR_NOT_FOUND, "no model '%s'", j->model);
    }
    if (j->err.code != ERR_OK) {
        reply_err(r, &j->err);
        return;
    }
    capture_sum(j->capture, j->model, &sum);
    b = json_reply(r, 200);
    BUF_LIT(b, "{");
    json_put_text(b, "model", j->model);
    put_settings(b, &m->family->capture, capture_conf(j->capture));
    json_put_count(b, "sampled", sum.n[CAPTURE_SAMPLED]);
    json_put_count(b, "written", sum.n[CAPTURE_WRITTEN]);
    json_key(b, "dropped");
    BUF_LIT(b, "{");
    for (int k = CAPTURE_DROPPED; k < CAPTURE_COUNTS; k++) {
        json_put_count(b, capture_count_names[k], sum.n[k]);
    }
    BUF_LIT(b, "},\"segments\":");
    buf_add(b, j->out.p, j->out.n);
    BUF_LIT(b, "}");
    http_reply_end(r->x);
}

void admin_capture(struct request *r)
{
    const struct model *m = read_model(r);
    struct disk_job *j;
    struct err e;

    if (!m) {
        return;
    }
    if (read_query(r->x, NULL, 0, &e) != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    j = disk_job_new(LIST_BYTES);
    snprintf(j->model, sizeof(j->model), "%s", m->row.name);
    j->capture = admin_facts(r)->capture;
    j->work = read_segments;
    j->answer = answer_capture;
    disk_job_post(j, r);
}

/* ---- the lines ---- */

struct export
{
    struct ticket ticket;
    struct http_ex *x;
    struct capture *capture;
    struct store *store;
    struct loop *home;
    struct store_job job;
    struct task back;
    struct capture_reading reading;
    struct buf piece; /* read, and not yet sent */
    struct err err;
    bool busy; /* the store thread has it */
    bool end;  /* there is nothing behind the piece */
};

static void export_free(struct export *x)
{
    capture_export_end(x->capture);
    buf_done(&x->piece);
    free(x);
}

static void export_read(struct store *s, struct store_job *job)
{
    struct export *x = CONTAINER_OF(job, struct export, job);
    struct capture_log *g = capture_log(x->capture);

    (void)s;
    x->err.code = ERR_OK;
    if (!g) {
        no_log(&x->err);
    } else if (capture_log_read(g, &x->reading, &x->piece, &x->end, &x->err) == ERR_OK) {
        x->err.code = ERR_OK;
    }
    loop_post(x->home, &x->back);
}

/* Sends what was read and reads on, until the client has enough for now. */
static void export_go_on(struct export *x)
{
    if (x->piece.n > 0 && !http_stream_write(x->x, buf_str(&x->piece))) {
        return; /* export_drained follows */
    }
    buf_clear(&x->piece);
    if (x->end) {
        http_stream_end(x->x);
        return;
    }
    x->busy = true;
    store_post(x->store, &x->job);
}

static void export_home(struct task *t)
{
    struct export *x = CONTAINER_OF(t, struct export, back);

    x->busy = false;
    if (!x->ticket.r) {
        export_free(x);
    } else if (x->err.code != ERR_OK) {
        http_stream_cut(x->x); /* so that it is seen not to be whole */
    } else {
        export_go_on(x);
    }
}

static void export_drained(struct http_ex *ex)
{
    struct request *r = ex->user;
    struct export *x = CONTAINER_OF(r->state, struct export, ticket);

    if (!x->busy) {
        export_go_on(x);
    }
}

static void export_left(struct ticket *t)
{
    struct export *x = CONTAINER_OF(t, struct export, ticket);

    if (!x->busy) {
        export_free(x);
    }
}

static enum err_code read_export_query(struct request *r, struct capture_reading *out, struct err *e)
{
    struct parameter q[] = {{.name = "since"}, {.name = "until"}, {.name = "limit"}, {.name = "kind"}};

    out->since_ms = INT64_MIN;
    out->until_ms = INT64_MAX;
    out->left = RECORDS_MAX;
    if (read_query(r->x, q, COUNT_OF(q), e) != ERR_OK ||
        (q[0].value.p && read_time(q[0].value, &out->since_ms, e) != ERR_OK) ||
        (q[1].value.p && read_time(q[1].value, &out->until_ms, e) != ERR_OK) ||
        read_number(&q[2], 1, RECORDS_MAX, &out->left, e) != ERR_OK) {
        return e->code;
    }
    if (q[3].value.p && !str_is(q[3].value, "request") && !str_is(q[3].value, "feedback")) {
        return err_set(e, ERR_INVALID, "'kind=%.*s' in the query must be request or feedback",
                       (int)MIN(q[3].value.n, (size_t)40), q[3].value.p);
    }
    str_copy(out->kind, sizeof(out->kind), q[3].value);
    return ERR_OK;
}

void admin_capture_records(struct request *r)
{
    static const struct http_stream kind = {.max = WAITING_MAX, .drained = export_drained};
    const struct model *m = read_model(r);
    struct capture_reading reading = {0};
    struct export *x;
    struct err e;

    if (!m) {
        return;
    }
    if (read_export_query(r, &reading, &e) != ERR_OK || capture_export_begin(admin_facts(r)->capture, &e) != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    x = xcalloc(1, sizeof(*x));
    snprintf(reading.model, sizeof(reading.model), "%s", m->row.name);
    x->reading = reading;
    x->x = r->x;
    x->capture = admin_facts(r)->capture;
    x->store = control_store(r->plane->control);
    x->home = r->x->loop;
    x->job.run = export_read;
    x->back.fn = export_home;
    buf_init(&x->piece, CAPTURE_LINE_MAX + WAITING_MAX);
    http_reply_begin(r->x, 200, "application/x-ndjson");
    http_reply_header(r->x, "Cache-Control", STR("no-store"));
    ticket_open(&x->ticket, r, export_left);
    http_stream_begin(r->x, &kind);
    export_go_on(x);
}
