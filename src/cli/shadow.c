/* SPDX-License-Identifier: Apache-2.0 */
/* weir shadow: a version answers copies of requests beside the stable one, unseen; what it answers otherwise. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/diff_page.h"
#include "cli/show.h"

static const char *const actions[] = {"start", "status", "stop"};

static const char *action_at(const void *ctx, size_t i)
{
    (void)ctx;
    return i < COUNT_OF(actions) ? actions[i] : NULL;
}

/* Reasons that dropped copies, in the words of a person. */
static const struct {
    const char *key, *text;
} reasons[] = {{"full", "too many under way"},
               {"refused", "the version had too much to do"},
               {"deadline", "too late"},
               {"gone", "the version was not loaded"},
               {"unfit", "it takes other inputs"}};

static void say_fates(struct buf *out, yyjson_val *root)
{
    yyjson_val *dropped = yyjson_obj_get(root, "dropped");
    bool any = false;

    BUF_LIT(out, "  copies        ");
    show_count(out, get_count(root, "copied"));
    BUF_LIT(out, ", under way ");
    show_count(out, get_count(root, "under_way"));
    BUF_LIT(out, ", errors ");
    show_count(out, get_count(root, "errors"));
    for (size_t i = 0; i < COUNT_OF(reasons); i++) {
        uint64_t n = get_count(dropped, reasons[i].key);

        if (n > 0) {
            buf_addz(out, any ? "; " : "\n  dropped       ");
            show_count(out, n);
            buf_addf(out, " %s", reasons[i].text);
            any = true;
        }
    }
    BUF_LIT(out, "\n");
}

static void say(struct cli *c, yyjson_val *root)
{
    yyjson_val *s = yyjson_obj_get(root, "shadow");
    const char *state = get_text(s, "state");
    bool runs = state && strcmp(state, "running") == 0;
    char *stable = xasprintf("version %" PRIu64, get_count(root, "stable"));
    char *candidate = xasprintf("version %" PRIu64, get_count(s, "version"));
    struct diff_view v = {.stable = stable,
                          .candidate = candidate,
                          .diff = yyjson_obj_get(root, "diff"),
                          .noise = yyjson_obj_get(root, "noise"),
                          .times = yyjson_obj_get(root, "compute_ms"),
                          .times_of = "run",
                          .colour = c->tty};

    show_textz(&c->out, get_text(root, "model"));
    buf_addf(&c->out, ": %s %s the shadow of %s, ", candidate, runs ? "is" : "was", stable);
    show_share(&c->out, get_count(s, "share_bp"));
    BUF_LIT(&c->out, " of its answers, since ");
    show_when(&c->out, get_text(s, "counting_since"));
    buf_addz(&c->out, !runs                   ? " (stopped)\n"
                      : get_flag(s, "loaded") ? "\n"
                                              : "\n  it is not loaded: nothing is copied\n");
    say_fates(&c->out, root);
    diff_page(&c->out, &v);
    free(stable);
    free(candidate);
}

static void say_started(struct cli *c, yyjson_val *root)
{
    yyjson_val *s = yyjson_obj_get(root, "shadow");

    show_textz(&c->out, get_text(root, "model"));
    buf_addf(&c->out, ": version %" PRIu64 " gets copies of ", get_count(s, "version"));
    show_share(&c->out, get_count(s, "share_bp"));
    buf_addf(&c->out, " of what version %" PRIu64 " answers; nobody sees its answers: weir shadow status ",
             get_count(root, "stable"));
    show_textz(&c->out, get_text(root, "model"));
    BUF_LIT(&c->out, "\n");
}

/* *body: NULL for status. */
static enum err_code body_of(struct cli *c, const char *action, char **body, struct err *e)
{
    struct buf b;

    if (strcmp(action, "status") == 0) {
        *body = NULL;
        return ERR_OK;
    }
    buf_init(&b, 4096);
    BUF_LIT(&b, "{\"action\":");
    json_strz(&b, action);
    if (strcmp(action, "start") == 0) {
        buf_addf(&b, ",\"version\":%" PRIu64, opt_number(&c->args, "version", 0));
        if (opt_text(&c->args, "share")) {
            BUF_LIT(&b, ",\"share\":");
            json_strz(&b, opt_text(&c->args, "share"));
        }
    }
    BUF_LIT(&b, "}");
    *body = b.over ? NULL : xstrdup(buf_z(&b));
    buf_done(&b);
    return *body ? ERR_OK : err_set(e, ERR_TOO_LARGE, "the options are too long");
}

static int check(struct cli *c, const char *action)
{
    bool start = strcmp(action, "start") == 0;
    size_t i = 0;

    while (i < COUNT_OF(actions) && strcmp(actions[i], action) != 0) {
        i++;
    }
    if (i == COUNT_OF(actions)) {
        const char *near = opt_nearest(action, action_at, NULL);

        return cli_usage(c, "there is no action '%s'%s%s%s", action, near ? "; did you mean '" : "", near ? near : "",
                         near ? "'?" : "");
    }
    if (!start && (opt_get(&c->args, "version") || opt_get(&c->args, "share"))) {
        return cli_usage(c, "%s takes no --version and no --share", action);
    }
    if (start && !opt_get(&c->args, "version")) {
        return cli_usage(c, "start needs --version N");
    }
    return 0;
}

int shadow_run(struct cli *c)
{
    const char *action = c->args.word[0], *model;
    yyjson_doc *doc = NULL;
    struct err e = {0};
    char *body = NULL;

    if (check(c, action) != 0 || !(model = cli_model(c, 1))) {
        return EXIT_USAGE;
    }
    char *path = cli_model_path(model, "/shadow");
    enum err_code rc = body_of(c, action, &body, &e);
    if (rc == ERR_OK) {
        rc = cli_json(c, body ? "POST" : "GET", path, body, &doc, &e);
    }
    free(path);
    free(body);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
    } else if (strcmp(action, "start") == 0) {
        say_started(c, yyjson_doc_get_root(doc));
    } else {
        say(c, yyjson_doc_get_root(doc));
    }
    yyjson_doc_free(doc);
    return 0;
}
