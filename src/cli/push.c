/* SPDX-License-Identifier: Apache-2.0 */
/* weir push: hash, stream, wait until the server has loaded it, and say what comes next.
 *
 * The server answers when the version is loaded and warm, or refuses it; there is no time limit, because loading may
 * take as long as it takes and a server that dies closes the connection. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/show.h"
#include "client/bundle.h"

#define REDRAW_US MILLIS(100)
#define BAR 30

struct progress {
    const char *name;
    uint64_t drawn_us;
    bool done;
};

/* One line on standard error, drawn over itself. */
static void draw(void *ctx, uint64_t sent, uint64_t size)
{
    struct progress *p = ctx;
    uint64_t now = clock_us();
    if (p->done || (sent < size && now - p->drawn_us < REDRAW_US)) {
        return;
    }
    struct buf line;
    buf_init(&line, 4096);
    p->drawn_us = now;
    p->done = sent == size;
    if (p->done) {
        buf_addf(&line, "\r\033[Kloading %s …", p->name);
    } else {
        uint64_t full = size ? sent * BAR / size : 0;
        buf_addf(&line, "\r\033[Ksending %s [", p->name);
        for (uint64_t i = 0; i < BAR; i++) {
            buf_addc(&line, i < full ? '#' : '.');
        }
        BUF_LIT(&line, "] ");
        show_bytes(&line, sent);
        BUF_LIT(&line, " of ");
        show_bytes(&line, size);
    }
    fwrite(line.p, 1, line.n, stderr);
    fflush(stderr);
    buf_done(&line);
}

static void wipe(const struct cli *c)
{
    if (c->err_tty) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

static void add_query(struct buf *path, const char *key, const char *value)
{
    bool first = !memchr(path->p, '?', path->n);
    buf_addf(path, "%c%s=", first ? '?' : '&', key);
    cli_url_part(path, str_of(value));
}

static char *make_path(struct cli *c, const char *model, const struct bundle *b)
{
    static const char *const texts[] = {"canary", "rollout", "steps", "family"};
    char *base = cli_model_path(model, "/versions"), number[24];
    struct buf path;
    buf_init(&path, 64u << 10);
    buf_addz(&path, base);
    free(base);
    uint64_t version = opt_number(&c->args, "version", b->version);
    if (version) {
        snprintf(number, sizeof number, "%" PRIu64, version);
        add_query(&path, "version", number);
    }
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        if (opt_get(&c->args, texts[i])) {
            add_query(&path, texts[i], opt_text(&c->args, texts[i]));
        }
    }
    if (opt_get(&c->args, "retry")) {
        add_query(&path, "retry", "on");
    }
    char *z = xstrdup(buf_z(&path));
    buf_done(&path);
    return z;
}

static enum err_code send_bundle(struct cli *c, const char *model, const struct bundle *b, struct err *e)
{
    struct bundle_stream s;
    struct progress p = {.name = model};
    struct buf headers;
    bundle_stream_init(&s, b);
    if (c->err_tty && !c->json) {
        s.progress = draw;
        s.ctx = &p;
    }
    buf_init(&headers, 64u << 10);
    buf_add(&headers, c->headers.p, c->headers.n);
    BUF_LIT(&headers, "Content-Type: application/octet-stream\r\n");
    if (!b->single) {
        buf_addf(&headers, "X-Weir-Manifest-Length: %zu\r\n", s.manifest.n);
    }
    char *path = make_path(c, model, b);
    struct http_source src = {.size = s.size, .read = bundle_stream_read, .ctx = &s};
    enum err_code rc = http_call_stream(c->admin, "POST", path, buf_str(&headers), &src, 0, &c->answer, e);
    if (c->err_tty && !c->json) {
        wipe(c);
    }
    free(path);
    buf_done(&headers);
    bundle_stream_done(&s);
    if (rc == ERR_OK && c->answer.status != 200 && c->answer.status != 201) {
        rc = cli_reply_error(&c->answer, c->server, e);
    }
    return rc;
}

static void say_serving(struct buf *out, const char *model, yyjson_val *r, uint64_t version)
{
    const char *serving = get_text(r, "serving"), *policy = get_text(r, "policy");
    serving = serving ? serving : "none";
    if (strcmp(serving, "stable") == 0) {
        buf_addf(out, "  is the stable version and takes the traffic: weir infer %s\n", model);
    } else if (strcmp(serving, "canary") == 0) {
        BUF_LIT(out, "  is the canary and takes ");
        show_share(out, get_count(r, "share_bp"));
        BUF_LIT(out, " of the traffic");
        if (policy && strcmp(policy, "manual") != 0) {
            BUF_LIT(out, ", more as policy ");
            show_textz(out, policy);
            buf_addf(out, " says: weir rollout watch %s\n", model);
        } else {
            buf_addf(out, ": weir rollout show %s\n", model);
        }
    } else {
        buf_addf(out, "  takes no traffic yet: weir rollout start %s --version %" PRIu64 " --policy default\n", model,
                 version);
    }
}

static void say(struct cli *c, const char *model, const struct bundle *b, yyjson_val *r)
{
    struct buf *out = &c->out;
    uint64_t version = get_count(r, "version");
    const char *state = get_text(r, "state");
    bool already = get_flag(r, "already");
    show_paint(out, c->tty, PAINT_BOLD);
    buf_addf(out, "%s version %" PRIu64, model, version);
    show_paint(out, c->tty, PAINT_PLAIN);
    buf_addz(out, already ? " is exactly this already (" : " pushed (");
    if (b->single) {
        show_textz(out, b->file[0].path);
    } else {
        buf_addf(out, "%zu file%s", b->n, b->n == 1 ? "" : "s");
    }
    BUF_LIT(out, ", ");
    show_bytes(out, b->bytes);
    BUF_LIT(out, ")\n  digest ");
    show_textz(out, get_text(r, "digest"));
    BUF_LIT(out, "\n  ");
    if (state && strcmp(state, "ready") == 0 && !already) {
        BUF_LIT(out, "loaded and warm in ");
        show_ms(out, get_number(r, "load_ms"));
        BUF_LIT(out, " ms\n");
    } else {
        show_textz(out, state);
        BUF_LIT(out, "\n");
    }
    say_serving(out, model, r, version);
}

int push_run(struct cli *c)
{
    struct err e = {0};
    AUTO(bundle) b = NULL;
    const char *model = cli_model(c, 0), *family = opt_text(&c->args, "family");
    if (!model) {
        return EXIT_USAGE;
    }
    if (family && !name_ok(str_of(family))) {
        return cli_usage(c, "--family %s is not a name", family);
    }
    bool steps = opt_get(&c->args, "rollout") || opt_get(&c->args, "steps");
    if (steps && opt_get(&c->args, "canary")) {
        return cli_usage(c,
                         "--canary is for a rollout that you move on yourself: it goes without --rollout and --steps");
    }
    if (opt_get(&c->args, "retry") && !steps && !opt_get(&c->args, "canary")) {
        return cli_usage(c, "--retry goes with --canary, --rollout or --steps");
    }
    uint64_t asked = opt_number(&c->args, "version", 0);
    if (bundle_new(&b, c->args.word[1], asked, &e) != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (b->version && !c->json) {
        BUF_LIT(&c->out, "taking ");
        show_textz(&c->out, b->root);
        buf_addf(&c->out, " as version %" PRIu64 "%s\n", b->version, asked ? "" : " (the highest number)");
        cli_flush(c);
    }
    if (send_bundle(c, model, b, &e) != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
        return 0;
    }
    yyjson_doc *doc = yyjson_read(c->answer.body.p ? c->answer.body.p : "", c->answer.body.n, 0);
    if (!doc) {
        err_set(&e, ERR_INTERNAL, "%s took the version but its reply is not JSON", c->server);
        return cli_fail(c, &e);
    }
    say(c, model, b, yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    return 0;
}
