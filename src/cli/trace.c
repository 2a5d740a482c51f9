/* SPDX-License-Identifier: Apache-2.0 */
/* weir trace: where the time of a request went, over all servers that it went through; or the last ones that failed or
 * were slow.
 *
 * --server may name several servers. A span says which other server was asked (its inference address); if none of the
 * servers told of that one, its admin address is guessed: the same host, if both ports are the usual ones. It is asked
 * without our token. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/show.h"
#include "cli/trace_page.h"

#define SERVERS_MAX 16
#define ASK_US (5 * UINT64_C(1000000))
#define DATA_PORT ":8000"
#define ADMIN_PORT ":8009"

struct asked {
    char *url[SERVERS_MAX];
    yyjson_doc *doc[SERVERS_MAX]; /* NULL: it did not tell, for err */
    struct err err[SERVERS_MAX];
    bool guessed[SERVERS_MAX];
    size_t n;
};

static void asked_done(struct asked *a)
{
    for (size_t i = 0; i < a->n; i++) {
        yyjson_doc_free(a->doc[i]);
        free(a->url[i]);
    }
}

static bool is_asked(const struct asked *a, const char *url)
{
    for (size_t i = 0; i < a->n; i++) {
        if (strcmp(a->url[i], url) == 0) {
            return true;
        }
    }
    return false;
}

/* Asks one more server; url is taken over. */
static void ask(struct cli *c, struct asked *a, char *url, const char *path, bool guessed)
{
    AUTO(http_client) client = NULL;
    struct http_answer answer;
    size_t i = a->n;
    struct err *e = &a->err[i];
    if (i == SERVERS_MAX || is_asked(a, url)) {
        free(url);
        return;
    }
    a->url[i] = url;
    a->guessed[i] = guessed;
    a->doc[i] = NULL;
    a->n++;
    e->code = ERR_OK;
    http_answer_init(&answer, 64u << 20);
    if (http_client_new(&client, str_of(url), e) == ERR_OK &&
        http_call(client, "GET", path, guessed ? STR("") : buf_str(&c->headers), NULL, 0, ASK_US, &answer, e) ==
            ERR_OK) {
        if (answer.status == 200) {
            a->doc[i] = yyjson_read(answer.body.p ? answer.body.p : "", answer.body.n, 0);
        }
        if (!yyjson_is_arr(yyjson_obj_get(yyjson_doc_get_root(a->doc[i]), "spans"))) {
            cli_reply_error(&answer, url, e);
            yyjson_doc_free(a->doc[i]);
            a->doc[i] = NULL;
        }
    }
    http_answer_done(&answer);
}

/* "http://" goes before what is only an address. */
static char *url_of(const char *z, size_t n)
{
    struct str s = {z, n};
    bool bare = !(n > 5 && memcmp(z, "unix:", 5) == 0) && !memmem(z, n, "://", 3);
    return xasprintf("%s" STR_FMT, bare ? "http://" : "", STR_ARG(s));
}

static void ask_all(struct cli *c, struct asked *a, const char *path)
{
    const char *z = c->servers;
    while (*z) {
        size_t n = strcspn(z, ",");
        if (n > 0) {
            ask(c, a, url_of(z, n), path, false);
        }
        z += n + (z[n] == ',');
    }
}

/* A peer is known when a server told that this is its inference address. */
static bool peer_told(const struct asked *a, const char *peer)
{
    for (size_t i = 0; i < a->n; i++) {
        yyjson_val *server = yyjson_obj_get(yyjson_doc_get_root(a->doc[i]), "server");
        const char *data = get_text(server, "data");
        size_t n = data ? strlen(data) : 0, m = strlen(peer);
        if (n >= m && strcmp(data + n - m, peer) == 0) {
            return true;
        }
    }
    return false;
}

/* Asks the servers that spans name; then those that theirs name. */
static void ask_peers(struct cli *c, struct asked *a, const char *path)
{
    for (size_t i = 0; i < a->n; i++) { /* a->n grows */
        yyjson_val *spans = yyjson_obj_get(yyjson_doc_get_root(a->doc[i]), "spans"), *v;
        size_t k, max;
        yyjson_arr_foreach(spans, k, max, v)
        {
            const char *peer = get_text(v, "peer");
            size_t n = peer ? strlen(peer) : 0, m = sizeof DATA_PORT - 1;
            if (n > m && strcmp(peer + n - m, DATA_PORT) == 0 && !peer_told(a, peer)) {
                ask(c, a, xasprintf("http://%.*s" ADMIN_PORT, (int)(n - m), peer), path, true);
            }
        }
    }
}

/* ---- one request ---- */

static bool has_child(const struct trace_set *s, size_t at)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->list[i].above == (int)at) {
            return true;
        }
    }
    return false;
}

/* What is missing, and why. */
static void say_missing(struct cli *c, const struct asked *a, const struct trace_set *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *peer = get_text(s->list[i].span, "peer");
        if (peer && !has_child(s, i)) {
            BUF_LIT(&c->out, "no span of ");
            show_textz(&c->out, peer);
            buf_addz(&c->out, peer_told(a, peer)
                                  ? ": it kept none (its trace_sample and trace_slow say which it does)\n"
                                  : ": ask that server too: --server THIS,ITS-ADMIN-ADDRESS\n");
        }
    }
    for (size_t i = 0; i < a->n; i++) {
        if (!a->doc[i] && !a->guessed[i]) {
            show_textz(&c->out, a->url[i]);
            BUF_LIT(&c->out, " has none: ");
            show_textz(&c->out, a->err[i].text);
            BUF_LIT(&c->out, "\n");
        }
    }
}

static void put_servers(struct buf *out, const struct asked *a)
{
    BUF_LIT(out, "\"servers\":[");
    for (size_t i = 0; i < a->n; i++) {
        json_comma(out);
        BUF_LIT(out, "{\"url\":");
        json_strz(out, a->url[i]);
        BUF_LIT(out, ",\"error\":");
        json_strz(out, a->doc[i] ? NULL : a->err[i].text);
        BUF_LIT(out, "}");
    }
    BUF_LIT(out, "]");
}

static size_t roots_of(const struct asked *a, yyjson_val *root[SERVERS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (a->doc[i]) {
            root[n++] = yyjson_doc_get_root(a->doc[i]);
        }
    }
    return n;
}

static void print_traces(struct cli *c, const struct asked *a, const struct trace_set *s)
{
    if (c->json) {
        BUF_LIT(&c->out, "{\"traces\":[");
    }
    for (size_t from = 0, to; from < s->n; from = to) {
        to = trace_end_at(s, from);
        if (c->json) {
            json_comma(&c->out);
            trace_json(&c->out, s, from, to);
        } else {
            buf_addz(&c->out, from ? "\n" : "");
            trace_show(&c->out, s, from, to, c->tty, c->utf8);
        }
    }
    if (c->json) {
        BUF_LIT(&c->out, "],");
        put_servers(&c->out, a);
        BUF_LIT(&c->out, "}\n");
    } else {
        say_missing(c, a, s);
    }
}

static int show_one(struct cli *c, const char *id)
{
    struct asked a = {.n = 0};
    struct trace_set s;
    yyjson_val *root[SERVERS_MAX];
    struct buf path;
    int status = 0;
    buf_init(&path, 64u << 10);
    BUF_LIT(&path, "/admin/traces?id=");
    cli_url_part(&path, str_of(id));
    ask_all(c, &a, buf_z(&path));
    ask_peers(c, &a, buf_z(&path));
    trace_set_make(&s, root, roots_of(&a, root));
    if (s.n == 0) {
        status = cli_fail(c, &a.err[0]);
    } else {
        print_traces(c, &a, &s);
    }
    trace_set_done(&s);
    asked_done(&a);
    buf_done(&path);
    return status;
}

/* ---- the last ones ---- */

struct listed {
    yyjson_val *span, *server;
};

static int newest_first(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;
    uint64_t x_us = get_count(x->span, "start_us"), y_us = get_count(y->span, "start_us");
    return (x_us < y_us) - (x_us > y_us);
}

static size_t list_of(const struct asked *a, struct listed **out)
{
    size_t n = 0;
    *out = NULL;
    for (size_t i = 0; i < a->n; i++) {
        yyjson_val *root = yyjson_doc_get_root(a->doc[i]), *v;
        size_t k, max;
        yyjson_arr_foreach(yyjson_obj_get(root, "spans"), k, max, v)
        {
            *out = xrealloc(*out, (n + 1) * sizeof **out);
            (*out)[n++] = (struct listed){v, yyjson_obj_get(root, "server")};
        }
    }
    if (n > 1) {
        qsort(*out, n, sizeof **out, newest_first);
    }
    return n;
}

static void put_ms(struct table *t, yyjson_val *span, const char *key)
{
    show_ms(&t->text, get_number(span, key));
    table_cell(t);
}

static void print_list(struct cli *c, const struct listed *list, size_t n)
{
    static const char *const heading[] = {"at", "request", "model", "arm", "host", "status", "ms", "compute", "error"};
    struct table t;
    table_init(&t, COUNT_OF(heading));
    t.right[5] = t.right[6] = t.right[7] = true;
    for (size_t i = 0; i < COUNT_OF(heading); i++) {
        table_put(&t, heading[i]);
    }
    for (size_t i = 0; i < n; i++) {
        yyjson_val *v = list[i].span;
        show_when(&t.text, get_text(v, "at") ? get_text(v, "at") : "-");
        table_cell(&t);
        table_put(&t, get_text(v, "request_id") ? get_text(v, "request_id") : get_text(v, "trace"));
        show_textz(&t.text, get_text(v, "model"));
        if (get_count(v, "version")) {
            buf_addf(&t.text, " v%" PRIu64, get_count(v, "version"));
        }
        table_cell(&t);
        table_put(&t, get_text(v, "arm"));
        table_put(&t, get_text(list[i].server, "host"));
        buf_addu(&t.text, get_count(v, "status"));
        table_cell(&t);
        put_ms(&t, v, "total_ms");
        put_ms(&t, v, "compute_ms");
        table_put(&t, get_text(v, "error") ? get_text(v, "error") : "");
    }
    table_show(&c->out, &t, true, c->tty);
    table_done(&t);
}

static void json_list(struct cli *c, const struct asked *a, const struct listed *list, size_t n)
{
    BUF_LIT(&c->out, "{\"spans\":[");
    for (size_t i = 0; i < n; i++) {
        size_t m = 0;
        char *text = yyjson_val_write(list[i].span, 0, &m);
        json_comma(&c->out);
        buf_add(&c->out, text ? text : "null", text ? m : 4);
        free(text);
    }
    BUF_LIT(&c->out, "],");
    put_servers(&c->out, a);
    BUF_LIT(&c->out, "}\n");
}

static int show_list(struct cli *c, const char *kept, const char *model)
{
    struct asked a = {.n = 0};
    struct listed *list;
    uint64_t limit = opt_number(&c->args, "limit", 20);
    char *path = xasprintf("/admin/traces?kept=%s&limit=%" PRIu64 "%s%s", kept, MIN(limit, (uint64_t)1000),
                           model ? "&model=" : "", model ? model : "");
    size_t n;
    int status = 0;
    ask_all(c, &a, path);
    n = list_of(&a, &list);
    n = MIN(n, limit);
    for (size_t i = 0; i < a.n && status == 0; i++) {
        status = a.doc[i] ? 0 : cli_fail(c, &a.err[i]);
    }
    if (status == 0 && c->json) {
        json_list(c, &a, list, n);
    } else if (status == 0 && n == 0) {
        buf_addf(&c->out, "no requests%s%s that %s\n", model ? " of " : "", model ? model : "",
                 strcmp(kept, "slow") == 0 ? "were slow" : "failed");
    } else if (status == 0) {
        print_list(c, list, n);
    }
    free(list);
    free(path);
    asked_done(&a);
    return status;
}

int trace_run(struct cli *c)
{
    bool slow = opt_get(&c->args, "slow") != NULL, errors = opt_get(&c->args, "errors") != NULL;
    if (slow && errors) {
        return cli_usage(c, "--slow and --errors are two lists: ask for one");
    }
    if (slow || errors) {
        return c->args.n > 0 && !cli_model(c, 0)
                   ? EXIT_USAGE
                   : show_list(c, slow ? "slow" : "error", c->args.n > 0 ? c->args.word[0] : NULL);
    }
    if (opt_get(&c->args, "limit")) {
        return cli_usage(c, "--limit goes with --slow or --errors");
    }
    if (c->args.n == 0 || !*c->args.word[0]) {
        return cli_usage(c, "which request? its id, or its trace's (or --slow, or --errors)");
    }
    return show_one(c, c->args.word[0]);
}
