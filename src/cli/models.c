/* SPDX-License-Identifier: Apache-2.0 */
/* weir models: all of them as a table, or one in full. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/show.h"

static const char *const columns[] = {"model",  "version",  "serving", "state",  "family", "place",   "backend",
                                      "memory", "requests", "errors",  "p50 ms", "p95 ms", "accuracy"};

static void head(struct table *t, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        table_put(t, names[i]);
    }
}

/* In the units of the configuration: 512MiB, 6GiB. */
static void show_room(struct buf *out, uint64_t bytes)
{
    double mib = (double)bytes / (1 << 20);
    buf_addf(out, "%.1f %s", mib < 1024 ? mib : mib / 1024, mib < 1024 ? "MiB" : "GiB");
}

/* What it takes, or would take; "~": an estimate. */
static void show_memory(struct buf *out, yyjson_val *v)
{
    yyjson_val *memory = yyjson_obj_get(v, "memory");
    const char *basis = get_text(memory, "basis");
    if (!basis) {
        BUF_LIT(out, "-");
        return;
    }
    buf_addz(out, strcmp(basis, "estimated") == 0 ? "~" : "");
    show_room(out, get_count(memory, "bytes"));
}

static void version_row(struct table *t, yyjson_val *model, yyjson_val *v)
{
    yyjson_val *stats = yyjson_obj_get(v, "stats"), *ms = yyjson_obj_get(stats, "latency_ms");
    const char *serving = get_text(v, "serving");
    table_put(t, get_text(model, "name"));
    buf_addu(&t->text, get_count(v, "version"));
    table_cell(t);
    table_put(t, serving && strcmp(serving, "none") != 0 ? serving : "-");
    table_put(t, get_text(v, "state"));
    table_put(t, get_text(model, "family"));
    table_put(t, get_text(v, "place") ? get_text(v, "place") : get_text(model, "place"));
    table_put(t, get_text(v, "backend"));
    show_memory(&t->text, v);
    table_cell(t);
    show_count(&t->text, get_count(stats, "requests"));
    table_cell(t);
    show_count(&t->text, get_count(stats, "errors"));
    table_cell(t);
    show_ms(&t->text, get_number(ms, "p50"));
    table_cell(t);
    show_ms(&t->text, get_number(ms, "p95"));
    table_cell(t);
    show_ratio(&t->text, get_number(yyjson_obj_get(stats, "feedback"), "accuracy"));
    table_cell(t);
}

static void list(struct cli *c, yyjson_val *root)
{
    struct table t;
    size_t i, max, j, most;
    yyjson_val *model, *v, *device, *models = yyjson_obj_get(root, "models");
    if (yyjson_arr_size(models) == 0) {
        BUF_LIT(&c->out, "no models yet: weir push NAME PATH\n");
        return;
    }
    table_init(&t, COUNT_OF(columns));
    t.right[1] = true;
    for (size_t k = 7; k < COUNT_OF(columns); k++) {
        t.right[k] = true;
    }
    head(&t, columns, COUNT_OF(columns));
    yyjson_arr_foreach(models, i, max, model)
    {
        yyjson_val *versions = yyjson_obj_get(model, "versions");
        if (yyjson_arr_size(versions) == 0) {
            version_row(&t, model, NULL);
        }
        yyjson_arr_foreach(versions, j, most, v)
        {
            version_row(&t, model, v);
        }
    }
    table_show(&c->out, &t, true, c->tty);
    table_done(&t);
    yyjson_arr_foreach(yyjson_obj_get(root, "memory"), i, max, device)
    {
        show_textz(&c->out, get_text(device, "device"));
        BUF_LIT(&c->out, " memory: ");
        show_room(&c->out, get_count(device, "used"));
        if (yyjson_is_uint(yyjson_obj_get(device, "limit"))) {
            BUF_LIT(&c->out, " of ");
            show_room(&c->out, get_count(device, "limit"));
        }
        BUF_LIT(&c->out, " used\n");
    }
}

static void tensors(struct buf *out, const char *what, yyjson_val *list_)
{
    size_t i, max, j, rank;
    yyjson_val *t, *d;
    yyjson_arr_foreach(list_, i, max, t)
    {
        buf_addf(out, "    %s ", what);
        show_textz(out, get_text(t, "name"));
        BUF_LIT(out, "  ");
        show_textz(out, get_text(t, "datatype"));
        BUF_LIT(out, " [");
        yyjson_arr_foreach(yyjson_obj_get(t, "shape"), j, rank, d)
        {
            buf_addz(out, j ? "," : "");
            buf_addi(out, yyjson_get_sint(d));
        }
        BUF_LIT(out, "]\n");
    }
}

static void times(struct buf *out, const char *what, yyjson_val *ms)
{
    static const char *const keys[] = {"p50", "p95", "p99"};
    buf_addf(out, "    %s", what);
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        buf_addf(out, "  %s ", keys[i]);
        show_ms(out, get_number(ms, keys[i]));
    }
    BUF_LIT(out, "  ms\n");
}

static void stats_text(struct buf *out, yyjson_val *s)
{
    yyjson_val *feedback = yyjson_obj_get(s, "feedback");
    BUF_LIT(out, "    ");
    show_count(out, get_count(s, "requests"));
    BUF_LIT(out, " requests, ");
    show_count(out, get_count(s, "errors"));
    BUF_LIT(out, " errors, ");
    show_count(out, get_count(s, "in_flight"));
    BUF_LIT(out, " in flight\n");
    if (get_count(s, "requests") == 0) {
        return;
    }
    times(out, "latency", yyjson_obj_get(s, "latency_ms"));
    times(out, "queue  ", yyjson_obj_get(s, "queue_ms"));
    times(out, "compute", yyjson_obj_get(s, "compute_ms"));
    if (get_count(feedback, "n") > 0) {
        BUF_LIT(out, "    accuracy ");
        show_ratio(out, get_number(feedback, "accuracy"));
        BUF_LIT(out, " over ");
        show_count(out, get_count(feedback, "n"));
        BUF_LIT(out, " labels\n");
    }
}

static void version_text(struct cli *c, yyjson_val *v)
{
    struct buf *out = &c->out;
    const char *error = get_text(v, "error"), *serving = get_text(v, "serving");
    yyjson_val *batch = yyjson_obj_get(v, "batch"), *w;
    size_t i, max;
    show_paint(out, c->tty, PAINT_BOLD);
    buf_addf(out, "  version %" PRIu64, get_count(v, "version"));
    show_paint(out, c->tty, PAINT_PLAIN);
    BUF_LIT(out, "  ");
    show_textz(out, get_text(v, "state"));
    if (serving && strcmp(serving, "none") != 0) {
        BUF_LIT(out, ", ");
        show_textz(out, serving);
    }
    BUF_LIT(out, "\n    ");
    show_textz(out, get_text(v, "backend"));
    BUF_LIT(out, ", ");
    show_bytes(out, get_count(v, "bytes"));
    BUF_LIT(out, ", created ");
    show_textz(out, get_text(v, "created"));
    if (get_text(yyjson_obj_get(v, "memory"), "basis")) {
        yyjson_val *memory = yyjson_obj_get(v, "memory");
        BUF_LIT(out, "\n    memory ");
        show_memory(out, v);
        BUF_LIT(out, " ");
        show_textz(out, get_text(memory, "basis"));
        BUF_LIT(out, ", ");
        show_textz(out, get_text(memory, "residency"));
        buf_addz(out, get_flag(memory, "pinned") ? ", pinned" : "");
    }
    BUF_LIT(out, "\n    digest ");
    show_textz(out, get_text(v, "digest"));
    BUF_LIT(out, "\n");
    if (error) {
        show_paint(out, c->tty, PAINT_BAD);
        BUF_LIT(out, "    error: ");
        show_textz(out, error);
        show_paint(out, c->tty, PAINT_PLAIN);
        BUF_LIT(out, "\n");
    }
    tensors(out, "input ", yyjson_obj_get(v, "inputs"));
    tensors(out, "output", yyjson_obj_get(v, "outputs"));
    if (yyjson_is_obj(batch)) {
        buf_addf(out, "    batches %s", get_flag(batch, "on") ? "of up to " : "off");
        if (get_flag(batch, "on")) {
            buf_addu(out, get_count(batch, "max"));
        }
        BUF_LIT(out, "\n");
    }
    if (get_text(v, "far_side")) {
        BUF_LIT(out, "    far side ");
        show_textz(out, get_text(v, "far_side"));
        BUF_LIT(out, "\n");
    }
    yyjson_arr_foreach(yyjson_obj_get(v, "workers"), i, max, w)
    {
        buf_addf(out, "    worker %" PRIu64 " ", get_count(w, "pid"));
        show_textz(out, get_text(w, "state"));
        buf_addf(out, ", %" PRIu64 " restarts\n", get_count(w, "restarts"));
        if (get_text(w, "last_end")) {
            BUF_LIT(out, "      its last end: ");
            show_textz(out, get_text(w, "last_end"));
            BUF_LIT(out, "\n");
        }
    }
    stats_text(out, yyjson_obj_get(v, "stats"));
}

/* feedback 120 joined, 3 orphan, 0 late, …; nothing while none came. */
static void feedback_text(struct buf *out, yyjson_val *results)
{
    yyjson_val *name, *n;
    size_t i, max;
    uint64_t all = 0;
    yyjson_obj_foreach(results, i, max, name, n)
    {
        all += yyjson_get_uint(n);
    }
    if (all == 0) {
        return;
    }
    BUF_LIT(out, "  feedback");
    yyjson_obj_foreach(results, i, max, name, n)
    {
        buf_addz(out, i > 0 ? ", " : " ");
        show_count(out, yyjson_get_uint(n));
        BUF_LIT(out, " ");
        show_textz(out, yyjson_get_str(name));
    }
    BUF_LIT(out, "\n");
}

static void show_model(struct cli *c, yyjson_val *m)
{
    struct buf *out = &c->out;
    yyjson_val *v, *rollout = yyjson_obj_get(m, "rollout");
    size_t i, max;
    show_paint(out, c->tty, PAINT_BOLD);
    show_textz(out, get_text(m, "name"));
    show_paint(out, c->tty, PAINT_PLAIN);
    BUF_LIT(out, "  family ");
    show_textz(out, get_text(m, "family"));
    BUF_LIT(out, ", place ");
    show_textz(out, get_text(m, "place"));
    buf_addf(out, ", %" PRIu64 " instance%s a version\n", get_count(m, "instances"),
             get_count(m, "instances") == 1 ? "" : "s");
    if (yyjson_is_obj(rollout)) {
        const char *phase = get_text(rollout, "phase");
        buf_addf(out, "  a rollout runs: version %" PRIu64 " takes ", get_count(rollout, "canary"));
        show_share(out, get_count(rollout, "share_bp"));
        if (phase) {
            BUF_LIT(out, ", ");
            show_textz(out, phase);
        }
        buf_addf(out, " (weir rollout show %s)\n", get_text(m, "name") ? get_text(m, "name") : "");
    }
    feedback_text(out, yyjson_obj_get(m, "feedback"));
    yyjson_arr_foreach(yyjson_obj_get(m, "versions"), i, max, v)
    {
        version_text(c, v);
    }
}

int models_run(struct cli *c)
{
    struct err e = {0};
    yyjson_doc *doc = NULL;
    char *path = NULL;
    if (c->args.n == 1) {
        const char *model = cli_model(c, 0);
        if (!model) {
            return EXIT_USAGE;
        }
        path = cli_model_path(model, "");
    }
    enum err_code rc = cli_json(c, "GET", path ? path : "/admin/models", NULL, &doc, &e);
    if (rc != ERR_OK) {
        free(path);
        return cli_fail(c, &e);
    }
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
    } else if (path) {
        show_model(c, yyjson_doc_get_root(doc));
    } else {
        list(c, yyjson_doc_get_root(doc));
    }
    free(path);
    yyjson_doc_free(doc);
    return 0;
}
