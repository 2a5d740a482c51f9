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
#define HISTORY_BYTES (8u << 20)
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
        buf_addf(&j->out, "{\"seq\":%lld,\"at\":", (long long)rows[i].seq);
        json_time(&j->out, rows[i].at_ms);
        BUF_LIT(&j->out, ",\"model\":");
        json_strz(&j->out, rows[i].model);
        if (rows[i].version > 0) {
            buf_addf(&j->out, ",\"version\":%lld,\"kind\":", (long long)rows[i].version);
        } else {
            BUF_LIT(&j->out, ",\"version\":null,\"kind\":");
        }
        json_strz(&j->out, rows[i].kind);
        BUF_LIT(&j->out, ",\"actor\":");
        json_strz(&j->out, rows[i].actor);
        BUF_LIT(&j->out, ",\"text\":");
        json_strz(&j->out, rows[i].text);
        BUF_LIT(&j->out, "}");
    }
    BUF_LIT(&j->out, "]}");
    free(rows);
}

static void answer_history(struct request *r, struct disk_job *j)
{
    if (j->err.code != ERR_OK) {
        reply_err(r, &j->err);
    } else {
        reply_json(r, 200, &j->out);
    }
}

void admin_history(struct request *r)
{
    struct parameter q[] = {{.name = "limit"}, {.name = "before"}};
    uint64_t limit = 50, before = 0;
    struct err e;
    const struct model *m = read_model(r);

    if (!m) {
        return;
    }
    if (read_query(r->x, q, COUNT_OF(q), &e) != ERR_OK || read_number(&q[0], 1, HISTORY_MAX, &limit, &e) != ERR_OK ||
        read_number(&q[1], 1, INT64_MAX, &before, &e) != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    struct disk_job *j = disk_job_new(HISTORY_BYTES);
    snprintf(j->model, sizeof(j->model), "%s", m->row.name);
    j->limit = limit;
    j->before = (int64_t)before;
    j->work = read_history;
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
