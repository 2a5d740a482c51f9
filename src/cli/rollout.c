/* SPDX-License-Identifier: Apache-2.0 */
/* weir rollout, promote, rollback: the release verbs.
 *
 * Each is one call; what it means is the server's to decide, and a refusal is printed as the server said it. Only
 * `watch` lives here: it asks again every second until the rollout has ended. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/show.h"

/* What each action of `weir rollout` needs. */
static const struct action {
    const char *name;
    bool post, share, version; /* share: needed; version: may be given */
} actions[] = {
    {"show", false, false, false}, {"watch", false, false, false}, {"start", true, true, true},
    {"set", true, true, false},    {"promote", true, false, true}, {"abort", true, false, false},
    {"pause", true, false, false}, {"resume", true, false, false}, {"skip", true, false, false},
};

static const char *action_at(const void *ctx, size_t i)
{
    (void)ctx;
    return i < COUNT_OF(actions) ? actions[i].name : NULL;
}

static void raw(struct cli *c)
{
    buf_add(&c->out, c->answer.body.p, c->answer.body.n);
    BUF_LIT(&c->out, "\n");
}

static int show(struct cli *c, const char *path)
{
    struct err e = {0};
    yyjson_doc *doc = NULL;
    if (cli_json(c, "GET", path, NULL, &doc, &e) != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        raw(c);
    } else {
        compare_show(&c->out, yyjson_doc_get_root(doc), c->tty);
    }
    yyjson_doc_free(doc);
    return 0;
}

/* On a terminal the comparison is drawn over itself; elsewhere each second is one line. */
static int watch(struct cli *c, const char *path)
{
    struct err e = {0};
    bool screen = isatty(1) && !c->json;
    for (;;) {
        yyjson_doc *doc = NULL;
        if (cli_json(c, "GET", path, NULL, &doc, &e) != ERR_OK) {
            return cli_fail(c, &e);
        }
        yyjson_val *root = yyjson_doc_get_root(doc);
        const char *state = get_text(yyjson_obj_get(root, "rollout"), "state");
        bool running = state && strcmp(state, "running") == 0;
        if (c->json) {
            raw(c);
        } else if (screen || !running) {
            buf_addz(&c->out, screen ? "\033[H\033[J" : "");
            compare_show(&c->out, root, c->tty);
        } else {
            compare_line(&c->out, root);
        }
        cli_flush(c);
        yyjson_doc_free(doc);
        if (!running) {
            return 0;
        }
        sleep(1);
    }
}

static void say_change(struct cli *c, const char *action, yyjson_val *root)
{
    yyjson_val *r = yyjson_obj_get(root, "rollout");
    const char *model = get_text(root, "model");
    model = model ? model : "";
    show_textz(&c->out, model);
    buf_addf(&c->out, ": version %" PRIu64, get_count(r, "canary"));
    if (strcmp(action, "abort") == 0) {
        buf_addf(&c->out, " takes no more traffic, version %" PRIu64 " takes all\n", get_count(r, "stable"));
        return;
    }
    BUF_LIT(&c->out, " takes ");
    show_share(&c->out, get_count(r, "share_bp"));
    buf_addf(&c->out, " of the traffic, version %" PRIu64 " the rest; weir rollout show ", get_count(r, "stable"));
    show_textz(&c->out, model);
    BUF_LIT(&c->out, "\n");
}

/* Which version is stable now: the reply to a promotion may show an older rollout. */
static enum err_code say_promoted(struct cli *c, const char *model, struct err *e)
{
    yyjson_doc *doc = NULL;
    char *path = cli_model_path(model, "");
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, e);
    free(path);
    if (rc == ERR_OK) {
        buf_addf(&c->out, "%s: version %" PRIu64 " is the stable version now; weir rollback %s takes it back\n", model,
                 get_count(yyjson_doc_get_root(doc), "stable"), model);
        yyjson_doc_free(doc);
    }
    return rc;
}

static int change(struct cli *c, const char *model, const char *action)
{
    struct err e = {0};
    struct buf body;
    yyjson_doc *doc = NULL;
    const struct opt_value *version = opt_get(&c->args, "version");
    const char *share = c->args.command->fn == rollout_run ? opt_text(&c->args, "share") : NULL;
    buf_init(&body, 4096);
    BUF_LIT(&body, "{\"action\":");
    json_strz(&body, action);
    if (version) {
        buf_addf(&body, ",\"version\":%" PRIu64, version->number);
    }
    if (share) {
        BUF_LIT(&body, ",\"share\":");
        json_strz(&body, share);
    }
    BUF_LIT(&body, "}");
    char *path = cli_model_path(model, "/rollout");
    enum err_code rc = cli_json(c, "POST", path, buf_z(&body), &doc, &e);
    free(path);
    buf_done(&body);
    if (rc == ERR_OK && c->json) {
        raw(c);
    } else if (rc == ERR_OK && strcmp(action, "promote") == 0) {
        rc = say_promoted(c, model, &e);
    } else if (rc == ERR_OK) {
        say_change(c, action, yyjson_doc_get_root(doc));
    }
    yyjson_doc_free(doc);
    return rc == ERR_OK ? 0 : cli_fail(c, &e);
}

static const struct action *find_action(struct cli *c, const char *word)
{
    for (size_t i = 0; i < COUNT_OF(actions); i++) {
        if (strcmp(actions[i].name, word) == 0) {
            return &actions[i];
        }
    }
    const char *near = opt_nearest(word, action_at, NULL);
    cli_usage(c, "there is no action '%s'%s%s%s", word, near ? "; did you mean '" : "", near ? near : "",
              near ? "'?" : "");
    return NULL;
}

int rollout_run(struct cli *c)
{
    const struct action *a = find_action(c, c->args.word[0]);
    const char *model = a ? cli_model(c, 1) : NULL;
    if (!model) {
        return EXIT_USAGE;
    }
    if (a->share && !opt_get(&c->args, "share")) {
        return cli_usage(c, "%s needs --share P%%", a->name);
    }
    if (!a->share && opt_get(&c->args, "share")) {
        return cli_usage(c, "%s takes no --share", a->name);
    }
    if (!a->version && opt_get(&c->args, "version")) {
        return cli_usage(c, "%s takes no --version", a->name);
    }
    if (strcmp(a->name, "start") == 0 && !opt_get(&c->args, "version")) {
        return cli_usage(c, "start needs --version N");
    }
    if (a->post) {
        return change(c, model, a->name);
    }
    char *path = cli_model_path(model, "/rollout");
    int status = strcmp(a->name, "watch") == 0 ? watch(c, path) : show(c, path);
    free(path);
    return status;
}

int promote_run(struct cli *c)
{
    const char *model = cli_model(c, 0);
    return model ? change(c, model, "promote") : EXIT_USAGE;
}

int rollback_run(struct cli *c)
{
    struct err e = {0};
    yyjson_doc *doc = NULL;
    const char *model = cli_model(c, 0);
    if (!model) {
        return EXIT_USAGE;
    }
    char *path = cli_model_path(model, "/rollback");
    uint64_t start = clock_us();
    enum err_code rc = cli_json(c, "POST", path, NULL, &doc, &e);
    double whole_ms = (double)(clock_us() - start) / 1000;
    free(path);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    yyjson_val *root = yyjson_doc_get_root(doc);
    if (c->json) {
        raw(c);
    } else {
        show_textz(&c->out, get_text(root, "text"));
        BUF_LIT(&c->out, "\n  took ");
        show_ms(&c->out, get_number(root, "took_us") / 1000);
        BUF_LIT(&c->out, " ms in the server, ");
        show_ms(&c->out, whole_ms);
        BUF_LIT(&c->out, " ms for this command\n");
        if (yyjson_is_false(yyjson_obj_get(root, "durable"))) {
            BUF_LIT(&c->out, "  not yet durable: the store can not write, the server keeps trying\n");
        }
    }
    yyjson_doc_free(doc);
    return 0;
}
