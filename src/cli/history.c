/* SPDX-License-Identifier: Apache-2.0 */
/* weir history: what happened to a model, newest first, fetched a page at a time; or who served at a time. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/show.h"

#define PAGE 200

/* Appends one page to the table, or to the JSON list; *last is the sequence number of its oldest entry. */
static size_t take_page(struct cli *c, struct table *t, struct buf *json, yyjson_val *entries, uint64_t *last)
{
    size_t i, max;
    yyjson_val *h;
    yyjson_arr_foreach(entries, i, max, h)
    {
        uint64_t version = get_count(h, "version");
        *last = get_count(h, "seq");
        if (c->json) {
            size_t n = 0;
            char *text = yyjson_val_write(h, 0, &n);
            buf_addz(json, json->n ? "," : "");
            buf_add(json, text ? text : "null", text ? n : 4);
            free(text);
            continue;
        }
        table_put(t, get_text(h, "at"));
        table_put(t, get_text(h, "kind"));
        if (version) {
            buf_addf(&t->text, "v%" PRIu64, version);
        }
        table_cell(t);
        table_put(t, get_text(h, "text"));
    }
    return yyjson_arr_size(entries);
}

/* Who served then: one line a version, and the line of history that says so. */
static void say_serving(struct cli *c, yyjson_val *root)
{
    yyjson_val *since = yyjson_obj_get(root, "since"), *v;
    struct table t;
    size_t i, max;
    show_textz(&c->out, get_text(root, "model"));
    BUF_LIT(&c->out, " at ");
    show_textz(&c->out, get_text(root, "at"));
    BUF_LIT(&c->out, "\n");
    table_init(&t, 3);
    t.right[1] = t.indent = true;
    yyjson_arr_foreach(yyjson_obj_get(root, "serving"), i, max, v)
    {
        buf_addf(&t.text, "v%" PRIu64, get_count(v, "version"));
        table_cell(&t);
        show_share(&t.text, get_count(v, "share_bp"));
        table_cell(&t);
        table_put(&t, get_text(v, "digest"));
    }
    table_show(&c->out, &t, false, c->tty);
    table_done(&t);
    BUF_LIT(&c->out, "  since ");
    show_textz(&c->out, get_text(since, "at"));
    BUF_LIT(&c->out, ": ");
    show_textz(&c->out, get_text(since, "text"));
    BUF_LIT(&c->out, "\n");
}

static int serving_at(struct cli *c, const char *model, const char *at)
{
    struct err e = {0};
    struct buf query;
    yyjson_doc *doc = NULL;
    buf_init(&query, 64u << 10);
    BUF_LIT(&query, "/history?at=");
    cli_url_part(&query, str_of(at));
    char *path = cli_model_path(model, buf_z(&query));
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, &e);
    free(path);
    buf_done(&query);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
    } else {
        say_serving(c, yyjson_doc_get_root(doc));
    }
    yyjson_doc_free(doc);
    return 0;
}

int history_run(struct cli *c)
{
    struct err e = {0};
    struct table t;
    struct buf json;
    uint64_t left = opt_number(&c->args, "limit", 50), before = 0;
    const char *model = cli_model(c, 0);
    enum err_code rc = ERR_OK;
    if (!model) {
        return EXIT_USAGE;
    }
    if (opt_get(&c->args, "at")) {
        if (opt_get(&c->args, "limit")) {
            return cli_usage(c, "--at asks for one moment: it goes without --limit");
        }
        return serving_at(c, model, opt_text(&c->args, "at"));
    }
    table_init(&t, 4);
    buf_init(&json, 64u << 20);
    while (left > 0 && rc == ERR_OK) {
        yyjson_doc *doc = NULL;
        uint64_t page = MIN(left, (uint64_t)PAGE), last = 0;
        char *query = before ? xasprintf("/history?limit=%" PRIu64 "&before=%" PRIu64, page, before)
                             : xasprintf("/history?limit=%" PRIu64, page);
        char *path = cli_model_path(model, query);
        rc = cli_json(c, "GET", path, NULL, &doc, &e);
        free(path);
        free(query);
        if (rc == ERR_OK) {
            size_t n = take_page(c, &t, &json, yyjson_obj_get(yyjson_doc_get_root(doc), "history"), &last);
            left = n < page || n >= left || last == 0 ? 0 : left - n;
            before = last;
            yyjson_doc_free(doc);
        }
    }
    if (rc == ERR_OK && c->json) {
        BUF_LIT(&c->out, "{\"history\":[");
        buf_add(&c->out, json.p, json.n);
        BUF_LIT(&c->out, "]}\n");
    } else if (rc == ERR_OK && t.cells == 0) {
        buf_addf(&c->out, "nothing happened to %s yet\n", model);
    } else if (rc == ERR_OK) {
        table_show(&c->out, &t, false, c->tty);
    }
    table_done(&t);
    buf_done(&json);
    return rc == ERR_OK ? 0 : cli_fail(c, &e);
}
