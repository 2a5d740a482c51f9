/* SPDX-License-Identifier: Apache-2.0 */
/* weir history: what happened to a model, newest first, fetched a page at a time. */
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
