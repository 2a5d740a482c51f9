/* SPDX-License-Identifier: Apache-2.0 */
/* Models: looking at them, registering a name, and what the store knows about them (history, samples).
 *
 * Thread: control's loop; the two work functions run on the store thread. */
#include <stdio.h>
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/json.h"

#define HISTORY_MAX 1000
#define HISTORY_BYTES (32u << 20)
#define SAMPLES_BYTES (16u << 20)

void admin_list_models(struct request *r)
{
    struct model *const *all;
    size_t n = control_models(r->plane->control, &all);
    struct buf *b = json_reply(r, 200);

    BUF_LIT(b, "{\"models\":[");
    for (size_t i = 0; i < n; i++) {
        json_comma(b);
        json_model(b, all[i], admin_facts(r));
    }
    BUF_LIT(b, "],\"memory\":");
    json_budget(b, control_budget(r->plane->control));
    BUF_LIT(b, "}");
    http_reply_end(r->x);
}

static void reply_model(struct request *r, int status, const struct model *m)
{
    json_model(json_reply(r, status), m, admin_facts(r));
    http_reply_end(r->x);
}

void admin_show_model(struct request *r)
{
    const struct model *m = read_model(r);

    if (m) {
        reply_model(r, 200, m);
    }
}

/* ---- registering ---- */

struct registering {
    struct ticket ticket;
    char name[NAME_MAX_LEN + 1];
};

static void registered(void *ctx, const struct err *e)
{
    struct registering *g = ctx;
    struct request *r = ticket_close(&g->ticket);
    const struct model *m = r && e->code == ERR_OK ? control_model(r->plane->control, str_of(g->name)) : NULL;

    if (r && e->code != ERR_OK) {
        reply_err(r, e);
    } else if (r) {
        assert(m);
        reply_model(r, 201, m);
    }
    free(g);
}

void admin_register(struct request *r)
{
    struct member m[] = {{.name = "name"}, {.name = "family"}};
    yyjson_doc *doc;
    struct err e;

    if (read_body(r, m, COUNT_OF(m), &doc, &e) != ERR_OK) {
        reply_err(r, &e);
    } else if (!m[0].given || !name_ok(m[0].text)) {
        err_set(&e, ERR_INVALID, "\"name\" must be a name: letters, digits, '.', '_' and '-', at most %d of them",
                NAME_MAX_LEN);
        reply_err(r, &e);
    } else if (m[1].given && !name_ok(m[1].text)) {
        err_set(&e, ERR_INVALID, "\"family\" must be a name: letters, digits, '.', '_' and '-', at most %d of them",
                NAME_MAX_LEN);
        reply_err(r, &e);
    } else {
        struct registering *g = xcalloc(1, sizeof(*g));

        str_copy(g->name, sizeof(g->name), m[0].text);
        ticket_open(&g->ticket, r, NULL);
        control_register(r->plane->control, m[0].text, m[1].given ? m[1].text : (struct str){NULL, 0}, registered, g);
    }
    yyjson_doc_free(doc);
}

/* ---- history ---- */

static void put_history(struct buf *b, const struct history_row *h)
{
    BUF_LIT(b, "{");
    json_put_count(b, "seq", (uint64_t)h->seq);
    json_key(b, "at");
    json_time(b, h->at_ms);
    json_put_text(b, "model", h->model);
    json_put_version(b, "version", h->version);
    json_put_text(b, "kind", h->kind);
    json_put_text(b, "actor", h->actor);
    json_put_text(b, "text", h->text);
    json_put_raw(b, "serving", h->serving);
    json_put_raw(b, "evidence", h->evidence);
    BUF_LIT(b, "}");
}

static void read_history(struct store *s, struct disk_job *j)
{
    struct history_row *rows;
    size_t n;

    if (store_history(s, j->model, j->before, j->limit, &rows, &n, &j->err) != ERR_OK) {
        return;
    }
    j->err.code = ERR_OK;
    BUF_LIT(&j->out, "{\"history\":[");
    for (size_t i = 0; i < n; i++) {
        json_comma(&j->out);
        put_history(&j->out, &rows[i]);
    }
    BUF_LIT(&j->out, "]}");
    history_done(rows, n);
}

/* Who served at a time, and the line of history that says so. */
static void read_serving(struct store *s, struct disk_job *j)
{
    struct history_row *row;

    if (store_serving_at(s, j->model, j->before, &row, &j->err) != ERR_OK) {
        return;
    }
    j->err.code = ERR_OK;
    BUF_LIT(&j->out, "{");
    json_put_text(&j->out, "model", j->model);
    json_key(&j->out, "at");
    json_time(&j->out, j->before);
    json_put_raw(&j->out, "serving", row->serving);
    json_key(&j->out, "since");
    put_history(&j->out, row);
    BUF_LIT(&j->out, "}");
    history_done(row, 1);
}

static void answer_history(struct request *r, struct disk_job *j)
{
    if (j->err.code != ERR_OK) {
        reply_err(r, &j->err);
    } else {
        reply_json(r, 200, &j->out);
    }
}

/* ?limit=N&before=SEQ, or ?at=TIME. */
static enum err_code read_history_query(struct request *r, struct disk_job *j, struct err *e)
{
    struct parameter q[] = {{.name = "limit"}, {.name = "before"}, {.name = "at"}};
    uint64_t limit = 50, before = 0;

    if (read_query(r->x, q, COUNT_OF(q), e) != ERR_OK || read_number(&q[0], 1, HISTORY_MAX, &limit, e) != ERR_OK ||
        read_number(&q[1], 1, INT64_MAX, &before, e) != ERR_OK) {
        return e->code;
    }
    j->limit = limit;
    j->before = (int64_t)before;
    j->work = read_history;
    if (!q[2].value.p) {
        return ERR_OK;
    }
    if (q[0].value.p || q[1].value.p) {
        return err_set(e, ERR_INVALID, "'at' in the query goes without 'limit' and 'before': it asks for one moment");
    }
    j->work = read_serving;
    return read_time(q[2].value, &j->before, e);
}

void admin_history(struct request *r)
{
    const struct model *m = read_model(r);
    struct disk_job *j;
    struct err e;

    if (!m) {
        return;
    }
    j = disk_job_new(HISTORY_BYTES);
    if (read_history_query(r, j, &e) != ERR_OK) {
        reply_err(r, &e);
        free(j);
        return;
    }
    snprintf(j->model, sizeof(j->model), "%s", m->row.name);
    j->answer = answer_history;
    disk_job_post(j, r);
}

/* ---- samples ---- */

static void read_samples(struct store *s, struct disk_job *j)
{
    if (artifact_read(s, j->digest, "samples.ndjson", &j->out, &j->err) == ERR_OK) {
        j->err.code = ERR_OK;
    }
}

static void answer_samples(struct request *r, struct disk_job *j)
{
    struct err e;

    if (j->err.code == ERR_NOT_FOUND) {
        err_set(&e, ERR_NOT_FOUND, "version %lld of '%s' came without samples.ndjson", (long long)j->before, j->model);
        reply_err(r, &e);
    } else if (j->err.code != ERR_OK) {
        reply_err(r, &j->err);
    } else {
        http_reply(r->x, 200, "application/x-ndjson", buf_str(&j->out));
    }
}

void admin_samples(struct request *r)
{
    const struct model *m = read_model(r);
    const struct version *v = m ? model_version(m, m->row.stable) : NULL;
    struct err e;

    if (!m) {
        return;
    }
    if (!v) {
        err_set(&e, ERR_NOT_FOUND, "'%s' has no stable version to take samples from", m->row.name);
        reply_err(r, &e);
        return;
    }
    struct disk_job *j = disk_job_new(SAMPLES_BYTES);
    snprintf(j->model, sizeof(j->model), "%s", m->row.name);
    snprintf(j->digest, sizeof(j->digest), "%s", v->row.digest);
    j->before = v->row.number;
    j->work = read_samples;
    j->answer = answer_samples;
    disk_job_post(j, r);
}
