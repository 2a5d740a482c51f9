/* SPDX-License-Identifier: Apache-2.0 */
/* weir experiment: A/B tests. Each action is one call; what it means is the server's to decide, and a refusal is
 * printed as the server said it. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/conf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/experiment_page.h"
#include "cli/show.h"

static const char *const actions[] = {"start", "status", "ship", "stop"};
enum { START, STATUS, SHIP, STOP, ACTIONS };

static const char *action_at(const void *ctx, size_t i)
{
    (void)ctx;
    return i < ACTIONS ? actions[i] : NULL;
}

static int find_action(struct cli *c, const char *word)
{
    for (int i = 0; i < ACTIONS; i++) {
        if (strcmp(actions[i], word) == 0) {
            return i;
        }
    }
    const char *near = opt_nearest(word, action_at, NULL);
    cli_usage(c, "there is no action '%s'%s%s%s", word, near ? "; did you mean '" : "", near ? near : "",
              near ? "'?" : "");
    return -1;
}

/* EXIT_USAGE: an option is missing, wrong, or does not go with the action. */
static int check_options(struct cli *c, int action)
{
    static const char *const of_start[] = {"version", "goal", "share", "for", "min", "alpha", "margin", "retry"};
    const char *min = opt_text(&c->args, "min");
    uint64_t us;
    for (size_t i = 0; action != START && i < COUNT_OF(of_start); i++) {
        if (opt_get(&c->args, of_start[i])) {
            return cli_usage(c, "%s takes no --%s", actions[action], of_start[i]);
        }
    }
    if (action != SHIP && opt_get(&c->args, "force")) {
        return cli_usage(c, "%s takes no --force", actions[action]);
    }
    if (action == START && !opt_get(&c->args, "version")) {
        return cli_usage(c, "start needs --version N");
    }
    if (action == START && !opt_get(&c->args, "goal")) {
        return cli_usage(c, "start needs --goal reward, --goal accuracy or --goal output:NAME");
    }
    if (min && !parse_duration(str_of(min), &us)) {
        return cli_usage(c, "--min: '%s' is not a time such as 7d, 36h or 0s", min);
    }
    return 0;
}

static void add_member(struct buf *body, const char *key, const char *value)
{
    if (value) {
        json_key(body, key);
        json_strz(body, value);
    }
}

static enum err_code post(struct cli *c, const char *path, int action, yyjson_doc **doc, struct err *e)
{
    static const char *const texts[] = {"goal", "share", "for", "min", "alpha", "margin"};
    const struct opt_value *version = opt_get(&c->args, "version");
    struct buf body;
    buf_init(&body, 64u << 10);
    BUF_LIT(&body, "{");
    add_member(&body, "action", actions[action]);
    if (version) {
        buf_addf(&body, ",\"version\":%" PRIu64, version->number);
    }
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        add_member(&body, texts[i], opt_text(&c->args, texts[i]));
    }
    buf_addz(&body, opt_get(&c->args, "retry") ? ",\"retry\":true" : "");
    buf_addz(&body, opt_get(&c->args, "force") ? ",\"force\":true" : "");
    BUF_LIT(&body, "}");
    enum err_code rc = cli_json(c, "POST", path, buf_z(&body), doc, e);
    buf_done(&body);
    return rc;
}

static void say(struct cli *c, int action, const char *model, yyjson_val *root)
{
    yyjson_val *r = yyjson_obj_get(root, "rollout");
    buf_addf(&c->out, "%s: version %" PRIu64, model, get_count(r, "canary"));
    if (action == START) {
        BUF_LIT(&c->out, " is tested against version ");
        buf_addf(&c->out, "%" PRIu64 ", each with ", get_count(r, "stable"));
        show_share(&c->out, get_count(r, "share_bp"));
        buf_addf(&c->out, " of the users; weir experiment status %s\n", model);
    } else if (action == SHIP) {
        buf_addf(&c->out, " is the stable version now; weir rollback %s takes it back\n", model);
    } else {
        buf_addf(&c->out, " takes no more traffic, version %" PRIu64 " takes all\n", get_count(r, "stable"));
    }
}

int experiment_run(struct cli *c)
{
    struct err e = {0};
    struct page_style style = {.colour = c->tty, .utf8 = c->utf8};
    yyjson_doc *doc = NULL;
    int action = find_action(c, c->args.word[0]);
    const char *model = action >= 0 ? cli_model(c, 1) : NULL;
    if (!model || check_options(c, action) != 0) {
        return EXIT_USAGE;
    }
    char *path = cli_model_path(model, "/experiment");
    enum err_code rc = action == STATUS ? cli_json(c, "GET", path, NULL, &doc, &e) : post(c, path, action, &doc, &e);
    free(path);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
    } else if (action == STATUS) {
        experiment_page(&c->out, yyjson_doc_get_root(doc), &style);
    } else {
        say(c, action, model, yyjson_doc_get_root(doc));
    }
    yyjson_doc_free(doc);
    return 0;
}
