/* SPDX-License-Identifier: Apache-2.0 */
/* weir capture: what is captured of a model's answers, in which segments; and with --export the lines themselves, which
 * go to standard output as they come. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/show.h"

/* ---- --export ---- */

static enum err_code print_piece(void *ctx, struct str piece, struct err *e)
{
    (void)ctx;
    return fwrite(piece.p, 1, piece.n, stdout) == piece.n ? ERR_OK : err_sys(e, ERR_STORAGE, "standard output");
}

static int export(struct cli *c, const char *model)
{
    const struct opt_value *since = opt_get(&c->args, "since"), *limit = opt_get(&c->args, "limit");
    struct err e = {0};
    struct buf rest;
    buf_init(&rest, 1024);
    BUF_LIT(&rest, "/capture/records");
    if (since) {
        int64_t from = clock_wall_ms() - (int64_t)(since->number / 1000);
        buf_addf(&rest, "?since=%" PRId64, MAX(from, (int64_t)0));
    }
    if (limit) {
        buf_addf(&rest, "%climit=%" PRIu64, since ? '&' : '?', limit->number);
    }
    char *path = cli_model_path(model, buf_z(&rest));
    enum err_code rc =
        http_call_sink(c->admin, "GET", path, buf_str(&c->headers), print_piece, NULL, 0, &c->answer, &e);
    free(path);
    buf_done(&rest);
    if (rc == ERR_OK && c->answer.status != 200) {
        rc = cli_reply_error(&c->answer, c->server, &e);
    }
    return rc == ERR_OK ? 0 : cli_fail(c, &e);
}

/* ---- the state ---- */

static void show_time(struct buf *out, uint64_t ms)
{
    char text[CLOCK_TEXT];
    clock_text(text, (int64_t)ms);
    show_when(out, text);
}

static void show_settings(struct buf *out, yyjson_val *s)
{
    yyjson_val *redact = yyjson_obj_get(s, "redact"), *name;
    uint64_t sample = get_count(s, "sample_bp");
    size_t i, max;
    if (sample == 0) {
        BUF_LIT(out, "nothing is captured (capture: {sample: 10%} in weir.yaml)\n");
        return;
    }
    show_share(out, sample);
    BUF_LIT(out, " of the answers are captured");
    yyjson_arr_foreach(redact, i, max, name)
    {
        buf_addz(out, i == 0 ? ", without " : ", ");
        show_textz(out, yyjson_get_str(name));
    }
    BUF_LIT(out, "; kept within ");
    show_bytes(out, get_count(s, "max_bytes"));
    BUF_LIT(out, " of all models, for ");
    show_count(out, get_count(s, "max_age_s") / 3600);
    BUF_LIT(out, " h\n");
}

static void show_counts(struct buf *out, yyjson_val *root)
{
    yyjson_val *key, *value;
    size_t i, max;
    BUF_LIT(out, "since the start of the server: ");
    show_count(out, get_count(root, "sampled"));
    BUF_LIT(out, " sampled, ");
    show_count(out, get_count(root, "written"));
    BUF_LIT(out, " written");
    yyjson_obj_foreach(yyjson_obj_get(root, "dropped"), i, max, key, value)
    {
        if (yyjson_get_uint(value) > 0) {
            BUF_LIT(out, ", ");
            show_count(out, yyjson_get_uint(value));
            BUF_LIT(out, " dropped: ");
            show_textz(out, yyjson_get_str(key));
        }
    }
    BUF_LIT(out, "\n");
}

static void show_segments(struct cli *c, yyjson_val *segments)
{
    static const char *const heads[] = {"segment", "from", "to", "lines", "size", "sha256"};
    struct table t;
    size_t i, max;
    yyjson_val *s;
    table_init(&t, COUNT_OF(heads));
    t.right[3] = t.right[4] = true;
    for (i = 0; i < COUNT_OF(heads); i++) {
        table_put(&t, heads[i]);
    }
    yyjson_arr_foreach(segments, i, max, s)
    {
        table_put(&t, get_text(s, "file"));
        show_time(&t.text, get_count(s, "first_ms"));
        table_cell(&t);
        show_time(&t.text, get_count(s, "last_ms"));
        table_cell(&t);
        show_count(&t.text, get_count(s, "records"));
        table_cell(&t);
        show_bytes(&t.text, get_count(s, "bytes"));
        table_cell(&t);
        const char *sha256 = get_text(s, "sha256");
        if (sha256) {
            show_text(&t.text, (struct str){sha256, strnlen(sha256, 12)});
        } else {
            BUF_LIT(&t.text, "still open");
        }
        table_cell(&t);
    }
    table_show(&c->out, &t, true, c->tty);
    table_done(&t);
}

int capture_run(struct cli *c)
{
    const char *model = cli_model(c, 0);
    yyjson_doc *doc = NULL;
    struct err e = {0};
    if (!model) {
        return EXIT_USAGE;
    }
    if (opt_get(&c->args, "export")) {
        return export(c, model);
    }
    if (opt_get(&c->args, "since") || opt_get(&c->args, "limit")) {
        return cli_usage(c, "--since and --limit go with --export");
    }
    char *path = cli_model_path(model, "/capture");
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, &e);
    free(path);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    yyjson_val *root = yyjson_doc_get_root(doc), *segments = yyjson_obj_get(root, "segments");
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
    } else {
        show_settings(&c->out, yyjson_obj_get(root, "settings"));
        show_counts(&c->out, root);
        if (yyjson_arr_size(segments) > 0) {
            show_segments(c, segments);
        }
    }
    yyjson_doc_free(doc);
    return 0;
}
