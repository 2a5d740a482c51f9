/* SPDX-License-Identifier: Apache-2.0 */
/* weir infer: one request to the data plane, from a file, from standard input, or the model's own first sample. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/samples.h"
#include "cli/show.h"

#define REQUEST_MAX (256u << 20)
#define ELEMENTS_SHOWN 16
#define NESTING 32

static enum err_code read_file(struct buf *out, const char *path, struct err *e)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_sys(e, ERR_NOT_FOUND, "%s", path);
    }
    enum err_code rc = ERR_OK;
    for (;;) {
        char *to = buf_room(out, 64u << 10);
        if (!to) {
            rc = err_set(e, ERR_TOO_LARGE, "%s is larger than %u bytes", path, REQUEST_MAX);
            break;
        }
        ssize_t n = read(fd, to, 64u << 10);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            rc = err_sys(e, ERR_INVALID, "%s", path);
        }
        if (n <= 0) {
            break;
        }
        out->n += (size_t)n;
    }
    if (!standard) {
        close(fd);
    }
    return rc;
}

/* The request to send. */
static enum err_code get_request(struct cli *c, const char *model, struct sample *out, struct err *e)
{
    const char *file = c->args.n > 1 ? c->args.word[1] : NULL;
    struct err why = {0};
    if (!file) {
        char *path = cli_model_path(model, "/samples");
        enum err_code rc = cli_call(c, "GET", path, NULL, e);
        free(path);
        if (rc != ERR_OK) {
            return rc;
        }
        const char *p = c->answer.body.p;
        const char *nl = p ? memchr(p, '\n', c->answer.body.n) : NULL;
        rc = sample_split(out, (struct str){p, nl ? (size_t)(nl - p) : c->answer.body.n}, &why);
        return rc == ERR_OK ? rc : err_set(e, rc, "the model's first sample: %s", why.text);
    }
    struct buf text;
    buf_init(&text, REQUEST_MAX);
    enum err_code rc = read_file(&text, file, e);
    if (rc == ERR_OK && sample_split(out, buf_str(&text), &why) != ERR_OK) {
        rc = err_set(e, ERR_INVALID, "%s: %s", strcmp(file, "-") == 0 ? "standard input" : file, why.text);
    }
    buf_done(&text);
    return rc;
}

/* *ms: of the inference call alone. */
static enum err_code ask(struct cli *c, const char *model, const struct sample *s, struct http_answer *a, double *ms,
                         struct err *e)
{
    char *url = NULL;
    AUTO(http_client) data = NULL;
    enum err_code rc = cli_data_url(c, &url, e);
    if (rc == ERR_OK) {
        rc = http_client_new(&data, str_of(url), e);
    }
    if (rc == ERR_OK) {
        struct buf path, headers;
        const struct opt_value *version = opt_get(&c->args, "version");
        struct iovec body = {s->body, s->body_n};
        buf_init(&path, 4096);
        buf_init(&headers, 4096);
        buf_addf(&path, "/v2/models/%s", model);
        if (version) {
            buf_addf(&path, "/versions/%" PRIu64, version->number);
        }
        BUF_LIT(&path, "/infer");
        BUF_LIT(&headers, "Content-Type: application/json\r\n");
        if (opt_text(&c->args, "user")) {
            buf_addf(&headers, "X-Weir-User: %s\r\n", opt_text(&c->args, "user"));
        }
        uint64_t start = clock_us();
        rc = http_call(data, "POST", buf_z(&path), buf_str(&headers), &body, 1, 0, a, e);
        *ms = (double)(clock_us() - start) / 1000;
        buf_done(&path);
        buf_done(&headers);
    }
    if (rc == ERR_OK && a->status != 200) {
        rc = cli_reply_error(a, url, e);
    }
    free(url);
    return rc;
}

/* Elements in order, through all nesting that a tensor can have; those beyond the limit are only counted. */
static void elements(struct buf *out, yyjson_val *data, int depth, uint64_t *n)
{
    yyjson_val *v;
    size_t i, max;
    yyjson_arr_foreach(data, i, max, v)
    {
        if (yyjson_is_arr(v) && depth < NESTING) {
            elements(out, v, depth + 1, n);
            continue;
        }
        if (++*n > ELEMENTS_SHOWN) {
            continue;
        }
        size_t length = 0;
        char *text = yyjson_val_write(v, 0, &length);
        buf_addz(out, *n > 1 ? " " : "");
        show_text(out, (struct str){text, length});
        free(text);
    }
}

static void say_output(struct buf *out, yyjson_val *o)
{
    yyjson_val *d;
    size_t i, max;
    uint64_t n = 0;
    BUF_LIT(out, "  ");
    show_textz(out, get_text(o, "name"));
    BUF_LIT(out, "  ");
    show_textz(out, get_text(o, "datatype"));
    BUF_LIT(out, " [");
    yyjson_arr_foreach(yyjson_obj_get(o, "shape"), i, max, d)
    {
        buf_addz(out, i ? "," : "");
        buf_addi(out, yyjson_get_sint(d));
    }
    BUF_LIT(out, "]  ");
    elements(out, yyjson_obj_get(o, "data"), 0, &n);
    if (n > ELEMENTS_SHOWN) {
        buf_addf(out, " … %" PRIu64 " more", n - ELEMENTS_SHOWN);
    }
    BUF_LIT(out, "\n");
}

static void say(struct cli *c, const char *model, const struct sample *s, const struct http_answer *a, double ms)
{
    struct buf *out = &c->out;
    struct str version = http_answer_header(a, "x-weir-version"), arm = http_answer_header(a, "x-weir-arm");
    struct str id = http_answer_header(a, "x-request-id");
    yyjson_doc *doc = yyjson_read(a->body.p ? a->body.p : "", a->body.n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *o;
    size_t i, max;
    if (!version.p) {
        version = str_of(get_text(root, "model_version"));
    }
    show_paint(out, c->tty, PAINT_BOLD);
    buf_addf(out, "%s version ", model);
    show_text(out, version.p ? version : STR("?"));
    show_paint(out, c->tty, PAINT_PLAIN);
    if (arm.n > 0) {
        BUF_LIT(out, " (");
        show_text(out, arm);
        BUF_LIT(out, ")");
    }
    BUF_LIT(out, ", ");
    show_ms(out, ms);
    BUF_LIT(out, " ms, id ");
    show_text(out, id.p ? id : STR("-"));
    BUF_LIT(out, "\n");
    yyjson_arr_foreach(yyjson_obj_get(root, "outputs"), i, max, o)
    {
        say_output(out, o);
    }
    if (c->args.n == 1 && s->label) {
        BUF_LIT(out, "  this sample's label: ");
        show_textz(out, s->label);
        BUF_LIT(out, "\n");
    }
    yyjson_doc_free(doc);
}

int infer_run(struct cli *c)
{
    struct err e = {0};
    struct sample s = {0};
    struct http_answer a;
    const char *model = cli_model(c, 0), *user = opt_text(&c->args, "user");
    if (!model) {
        return EXIT_USAGE;
    }
    for (const char *p = user; p && *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) {
            return cli_usage(c, "--user holds a control character");
        }
    }
    http_answer_init(&a, REQUEST_MAX);
    enum err_code rc = get_request(c, model, &s, &e);
    double ms = 0;
    if (rc == ERR_OK) {
        rc = ask(c, model, &s, &a, &ms, &e);
    }
    if (rc == ERR_OK && c->json) {
        buf_add(&c->out, a.body.p, a.body.n);
        BUF_LIT(&c->out, "\n");
    } else if (rc == ERR_OK) {
        say(c, model, &s, &a, ms);
    }
    http_answer_done(&a);
    free(s.body);
    free(s.label);
    return rc == ERR_OK ? 0 : cli_fail(c, &e);
}
