/* SPDX-License-Identifier: Apache-2.0 */
/* weir rollout, promote, rollback: the release verbs.
 *
 * Each is one call; what it means is the server's to decide, and a refusal is printed as the server said it. Only
 * `watch` lives here: it asks again every second until the rollout has ended, its soak too. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/rollout_page.h"
#include "cli/show.h"

/* What each action of `weir rollout` takes. */
static const struct action {
    const char *name;
    bool post, version, share, start; /* start: a policy, steps or --retry */
} actions[] = {
    {"show", false, false, false, false}, {"watch", false, false, false, false}, {"start", true, true, true, true},
    {"set", true, false, true, false},    {"promote", true, true, false, false}, {"abort", true, false, false, false},
    {"pause", true, false, false, false}, {"resume", true, false, false, false}, {"skip", true, false, false, false},
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

static struct page_style style_of(const struct cli *c)
{
    return (struct page_style){.colour = c->tty, .utf8 = c->utf8};
}

static int show(struct cli *c, const char *path)
{
    struct err e = {0};
    struct page_style style = style_of(c);
    yyjson_doc *doc = NULL;
    if (cli_json(c, "GET", path, NULL, &doc, &e) != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        raw(c);
    } else {
        rollout_page(&c->out, yyjson_doc_get_root(doc), &style);
    }
    yyjson_doc_free(doc);
    return 0;
}

static unsigned screen_rows(void)
{
    struct winsize w;
    return ioctl(1, TIOCGWINSZ, &w) == 0 && w.ws_row > 1 ? w.ws_row - 1u : 0; /* the cursor has the last one */
}

/* On a terminal the page is drawn over itself; elsewhere each second is one line, and the page comes at the end. */
static int watch(struct cli *c, const char *path)
{
    struct err e = {0};
    struct page_style style = style_of(c);
    bool screen = c->screen && !c->json;
    for (bool first = true;; first = false) {
        yyjson_doc *doc = NULL;
        if (cli_json(c, "GET", path, NULL, &doc, &e) != ERR_OK) {
            return cli_fail(c, &e);
        }
        yyjson_val *root = yyjson_doc_get_root(doc);
        bool goes_on = rollout_goes_on(root);
        if (c->json) {
            raw(c);
        } else if (screen) {
            style.rows = screen_rows();
            rollout_redraw(&c->out, root, &style, first);
        } else if (goes_on) {
            compare_line(&c->out, root);
        } else {
            rollout_page(&c->out, root, &style);
        }
        cli_flush(c);
        yyjson_doc_free(doc);
        if (!goes_on) {
            return 0;
        }
        sleep(1);
    }
}

static void say_next(struct cli *c, yyjson_val *rollout)
{
    const char *waits = get_text(rollout, "waits_for");
    if (waits) {
        BUF_LIT(&c->out, "  next: ");
        show_wrapped(&c->out, waits, 8, 78);
        BUF_LIT(&c->out, "\n");
    }
}

static void say_change(struct cli *c, const char *action, yyjson_val *root)
{
    yyjson_val *r = yyjson_obj_get(root, "rollout");
    const char *model = get_text(root, "model"), *state = get_text(r, "state");
    model = model ? model : "";
    show_textz(&c->out, model);
    buf_addf(&c->out, ": version %" PRIu64, get_count(r, "canary"));
    if (strcmp(action, "abort") == 0) {
        buf_addf(&c->out, " takes no more traffic, version %" PRIu64 " takes all\n", get_count(r, "stable"));
        return;
    }
    if (state && strcmp(state, "running") != 0) { /* the last step was skipped */
        BUF_LIT(&c->out, " is the stable version now; weir rollback ");
        show_textz(&c->out, model);
        BUF_LIT(&c->out, " takes it back\n");
    } else {
        BUF_LIT(&c->out, " takes ");
        show_share(&c->out, get_count(r, "share_bp"));
        buf_addf(&c->out, " of the traffic, version %" PRIu64 " the rest; weir rollout show ", get_count(r, "stable"));
        show_textz(&c->out, model);
        BUF_LIT(&c->out, "\n");
    }
    say_next(c, r);
}

/* Which version is stable now: the reply to a promotion may show an older rollout. */
static enum err_code say_promoted(struct cli *c, const char *model, yyjson_val *reply, struct err *e)
{
    yyjson_val *rollout = yyjson_obj_get(reply, "rollout");
    yyjson_doc *doc = NULL;
    char *path = cli_model_path(model, "");
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, e);
    free(path);
    if (rc == ERR_OK) {
        buf_addf(&c->out, "%s: version %" PRIu64 " is the stable version now; weir rollback %s takes it back\n", model,
                 get_count(yyjson_doc_get_root(doc), "stable"), model);
        say_next(c, rollout);
        yyjson_doc_free(doc);
    }
    return rc;
}

static void add_member(struct buf *body, const char *key, const char *value)
{
    if (value) {
        json_key(body, key);
        json_strz(body, value);
    }
}

static int change(struct cli *c, const char *model, const char *action)
{
    struct err e = {0};
    struct buf body;
    yyjson_doc *doc = NULL;
    const struct args *a = &c->args;
    const struct opt_value *version = opt_get(a, "version");
    buf_init(&body, 64u << 10);
    BUF_LIT(&body, "{");
    add_member(&body, "action", action);
    if (version) {
        buf_addf(&body, ",\"version\":%" PRIu64, version->number);
    }
    if (a->command->fn == rollout_run) {
        add_member(&body, "share", opt_text(a, "share"));
        add_member(&body, "policy", opt_text(a, "policy"));
        add_member(&body, "steps", opt_text(a, "steps"));
        buf_addz(&body, opt_get(a, "retry") ? ",\"retry\":true" : "");
    }
    BUF_LIT(&body, "}");
    char *path = cli_model_path(model, "/rollout");
    enum err_code rc = cli_json(c, "POST", path, buf_z(&body), &doc, &e);
    free(path);
    buf_done(&body);
    if (rc == ERR_OK && c->json) {
        raw(c);
    } else if (rc == ERR_OK && strcmp(action, "promote") == 0) {
        rc = say_promoted(c, model, yyjson_doc_get_root(doc), &e);
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

/* EXIT_USAGE: an option is missing, or does not go with the action or with another. */
static int check_options(struct cli *c, const struct action *a)
{
    const struct {
        const char *name;
        bool taken;
    } options[] = {
        {"version", a->version}, {"share", a->share}, {"policy", a->start}, {"steps", a->start}, {"retry", a->start}};
    bool share = opt_get(&c->args, "share"), policy = opt_get(&c->args, "policy") || opt_get(&c->args, "steps");
    for (size_t i = 0; i < COUNT_OF(options); i++) {
        if (!options[i].taken && opt_get(&c->args, options[i].name)) {
            return cli_usage(c, "%s takes no --%s", a->name, options[i].name);
        }
    }
    if (a->start && !opt_get(&c->args, "version")) {
        return cli_usage(c, "start needs --version N");
    }
    if (a->start && share && policy) {
        return cli_usage(c, "--share is for a rollout that you move on yourself: it goes without --policy and --steps");
    }
    if (a->start && !share && !policy) {
        return cli_usage(c, "start needs --share P%%, or --policy NAME, or --steps 1%%,5%%,25%%");
    }
    if (a->share && !a->start && !share) {
        return cli_usage(c, "%s needs --share P%%", a->name);
    }
    return 0;
}

int rollout_run(struct cli *c)
{
    const struct action *a = find_action(c, c->args.word[0]);
    const char *model = a ? cli_model(c, 1) : NULL;
    if (!model || check_options(c, a) != 0) {
        return EXIT_USAGE;
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
