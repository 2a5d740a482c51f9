/* SPDX-License-Identifier: Apache-2.0 */
/* A Weir in the inference role is given a version: asked for it by its artifact's digest, sent the artifact when it has
 * not got it, and told so again and again, for it lets go of what nobody asks for.
 *
 * The data plane, where jobs go, says on which port of the same host the admin plane is.
 *
 * Thread: the errand's; blocks. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "backends/remote/remote_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "client/bundle.h"

#define ASK_US SECONDS(5)
#define LOAD_US SECONDS(660) /* a load over there may take its time */
#define RENEW_US SECONDS(5)  /* it is loaded: who does not answer is not waited for */
#define PUSH_US SECONDS(3600)
#define ANSWER_MAX (1u << 20)

struct giving {
    struct side *side;
    struct http_client *data, *admin;
    struct http_answer answer;
    struct buf headers; /* Authorization, or empty */
    struct err *e;
};

static enum err_code refused(struct giving *g, const char *what)
{
    struct err why;
    bool wrong =
        g->answer.status >= 400 && g->answer.status < 500 && g->answer.status != 408 && g->answer.status != 429;

    far_error(&g->answer, g->side->place, &why);
    return err_set(g->e, wrong ? ERR_REFUSED : ERR_UNAVAILABLE, "%s: %s", what, why.text);
}

static enum err_code read_token(struct giving *g)
{
    char token[300] = "";
    const char *path = g->side->token_file;
    int fd;
    ssize_t n;

    if (!path) {
        return ERR_OK;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, token, sizeof(token) - 1);
    if (n < 0) {
        err_sys(g->e, ERR_REFUSED, "token_file %s can not be read", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        return ERR_REFUSED;
    }
    token[strcspn(token, "\r\n")] = '\0';
    buf_addf(&g->headers, "Authorization: Bearer %s\r\n", token);
    return ERR_OK;
}

static enum err_code connect_to(struct http_client **out, const struct addr *at, const char *authority, struct err *e)
{
    char url[300];

    snprintf(url, sizeof(url), "http://%s", authority);
    if (http_client_new(out, str_of(url), e) != ERR_OK) {
        return e->code;
    }
    http_client_at(*out, at);
    return ERR_OK;
}

/* Where its admin plane is. */
static enum err_code find_admin(struct giving *g, const struct addr *at)
{
    struct addr admin = *at;
    char authority[300];
    yyjson_doc *doc;
    yyjson_val *role, *port;
    uint64_t n = 0;
    bool inference;

    if (connect_to(&g->data, at, g->side->url.authority, g->e) != ERR_OK ||
        http_call(g->data, "GET", "/v2", (struct str){NULL, 0}, NULL, 0, ASK_US, &g->answer, g->e) != ERR_OK) {
        return g->e->code;
    }
    if (g->answer.status != 200) {
        return refused(g, "it does not say what it is");
    }
    doc = yyjson_read(g->answer.body.p, g->answer.body.n, 0);
    role = yyjson_obj_get(yyjson_doc_get_root(doc), "role");
    port = yyjson_obj_get(yyjson_doc_get_root(doc), "admin_port");
    inference = yyjson_equals_str(role, "inference");
    n = yyjson_get_uint(port);
    yyjson_doc_free(doc);
    if (!inference) {
        return err_set(
            g->e, ERR_REFUSED,
            "%s is no Weir in the inference role (weir serve --role inference); for any other server the place "
            "is http://%s",
            g->side->place, g->side->url.authority);
    }
    if (n == 0 || n > 65535) {
        return err_set(g->e, ERR_REFUSED, "%s has its admin plane at no TCP port: gateways can not reach it",
                       g->side->place);
    }
    if (admin.sa.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&admin.sa)->sin6_port = htons((uint16_t)n);
    } else {
        ((struct sockaddr_in *)&admin.sa)->sin_port = htons((uint16_t)n);
    }
    snprintf(authority, sizeof(authority), strchr(g->side->url.host, ':') ? "[%s]:%u" : "%s:%u", g->side->url.host,
             (unsigned)n);
    return connect_to(&g->admin, &admin, authority, g->e);
}

/* ERR_NOT_FOUND: it has not got the artifact. */
static enum err_code hold(struct giving *g, uint64_t *number, uint64_t *hold_us)
{
    char path[300], body[128];
    struct iovec iov = {body, (size_t)snprintf(body, sizeof(body), "{\"digest\":\"%.64s\"}", g->side->digest)};
    uint64_t limit_us = g->side->loaded ? RENEW_US : LOAD_US;
    yyjson_doc *doc;

    snprintf(path, sizeof(path), "/admin/models/%s/hold", g->side->model);
    if (http_call(g->admin, "POST", path, buf_str(&g->headers), &iov, 1, limit_us, &g->answer, g->e) != ERR_OK) {
        return g->e->code;
    }
    if (g->answer.status == 404) {
        return err_set(g->e, ERR_NOT_FOUND, "%s has not got the artifact", g->side->place);
    }
    if (g->answer.status != 200) {
        return refused(g, "the version can not be loaded there");
    }
    doc = yyjson_read(g->answer.body.p, g->answer.body.n, 0);
    *number = yyjson_get_uint(yyjson_obj_get(yyjson_doc_get_root(doc), "version"));
    *hold_us = yyjson_get_uint(yyjson_obj_get(yyjson_doc_get_root(doc), "hold_us"));
    yyjson_doc_free(doc);
    return *number > 0 && *number <= INT32_MAX
               ? ERR_OK
               : err_set(g->e, ERR_REFUSED, "%s does not say which version it is there", g->side->place);
}

/* What the store has added to the version's folder. */
static void leave_out(struct bundle *b, const char *path)
{
    for (size_t i = 0; i < b->n; i++) {
        if (strcmp(b->file[i].path, path) == 0) {
            b->bytes -= b->file[i].size;
            free(b->file[i].path);
            memmove(&b->file[i], &b->file[i + 1], (b->n - i - 1) * sizeof(b->file[0]));
            b->n--;
            return;
        }
    }
}

/* The version's folder as it lies in the store. */
static enum err_code push(struct giving *g)
{
    struct bundle_stream s;
    struct http_source src;
    AUTO(bundle) b = NULL;
    struct buf headers;
    char path[300];
    enum err_code code;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", g->side->dirfd);
    if (bundle_new(&b, path, 0, g->e) != ERR_OK) {
        return g->e->code = ERR_REFUSED;
    }
    leave_out(b, "manifest.json");
    log_info("remote", "sending a version to its far side place=%s model=%s bytes=%llu", g->side->place, g->side->model,
             (unsigned long long)b->bytes);
    bundle_stream_init(&s, b);
    buf_init(&headers, 4096);
    buf_add(&headers, g->headers.p, g->headers.n);
    buf_addf(&headers, "Content-Type: application/octet-stream\r\nX-Weir-Manifest-Length: %zu\r\n", s.manifest.n);
    src = (struct http_source){.size = s.size, .read = bundle_stream_read, .ctx = &s};
    snprintf(path, sizeof(path), "/admin/models/%s/versions", g->side->model);
    code = http_call_stream(g->admin, "POST", path, buf_str(&headers), &src, PUSH_US, &g->answer, g->e);
    buf_done(&headers);
    bundle_stream_done(&s);
    if (code == ERR_OK && g->answer.status == 409) { /* another gateway pushes it just now */
        return err_set(g->e, ERR_UNAVAILABLE, "%s is being given versions of '%s' by somebody else", g->side->place,
                       g->side->model);
    }
    if (code == ERR_OK && g->answer.status != 200 && g->answer.status != 201) {
        return refused(g, "the version is not taken there");
    }
    return code;
}

enum err_code side_give(struct side *s, const struct addr *at, uint64_t *number, uint64_t *hold_us, struct err *e)
{
    struct giving g = {.side = s, .e = e};
    enum err_code code;

    http_answer_init(&g.answer, ANSWER_MAX);
    buf_init(&g.headers, 4096);
    code = read_token(&g);
    code = code == ERR_OK ? find_admin(&g, at) : code;
    if (code == ERR_OK) {
        code = hold(&g, number, hold_us);
        if (code == ERR_NOT_FOUND) {
            code = push(&g);
            code = code == ERR_OK ? hold(&g, number, hold_us) : code;
        }
        if (code == ERR_NOT_FOUND) {
            code = err_set(e, ERR_REFUSED, "%s was sent version %s and calls it another one (digest %.12s…)", s->place,
                           s->model, s->digest);
        }
    }
    http_client_free(g.data);
    http_client_free(g.admin);
    http_answer_done(&g.answer);
    buf_done(&g.headers);
    return code;
}
