/* SPDX-License-Identifier: Apache-2.0 */
/* A small HTTP server over libmicrohttpd; see web.h.
 *
 * libmicrohttpd calls answer() first with the headers, then with pieces of the body, then once more at its end. What is
 * too large is read on and thrown away, up to a bound, so that the client sees the refusal and not a reset. */
#include "common/web.h"

#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 128
#define IDLE_S 30
#define SWALLOW_MAX (64u << 20)
#define REPLY_MAX (4u << 20)
#define FORM_BUFFER 4096
#define TRACEPARENT_LEN 55

static const char too_large[] = "That is larger than this server takes.\n";

struct web {
    struct MHD_Daemon *daemon;
    web_handler *handler;
    void *ctx;
    size_t file_max;
    char url[300];
};

/* One request while it comes in. */
struct coming {
    struct web_request q;
    struct MHD_PostProcessor *form;
    char *file;
    size_t file_bytes, file_cap, file_max, seen;
    bool over;
};

/* ---- what came ---- */

const char *web_field(const struct web_request *q, const char *name)
{
    for (int i = 0; i < q->n_fields; i++) {
        if (strcmp(q->fields[i].name, name) == 0) {
            return q->fields[i].value;
        }
    }
    return "";
}

static const char *looked_up(const struct web_request *q, enum MHD_ValueKind kind, const char *name)
{
    const char *value = MHD_lookup_connection_value(q->connection, kind, name);
    return value ? value : "";
}

const char *web_header(const struct web_request *q, const char *name)
{
    return looked_up(q, MHD_HEADER_KIND, name);
}

const char *web_cookie(const struct web_request *q, const char *name)
{
    return looked_up(q, MHD_COOKIE_KIND, name);
}

const char *web_traceparent(const struct web_request *q)
{
    const char *value = web_header(q, "traceparent");
    return strlen(value) == TRACEPARENT_LEN && strspn(value, "0123456789abcdef-") == TRACEPARENT_LEN ? value : NULL;
}

static struct web_field *add_field(struct web_request *q, const char *name)
{
    if (q->n_fields == WEB_FIELDS) {
        return NULL;
    }
    struct web_field *f = &q->fields[q->n_fields++];
    text_copy(f->name, sizeof f->name, name);
    f->value[0] = '\0';
    return f;
}

static enum MHD_Result on_query(void *ctx, enum MHD_ValueKind kind, const char *name, const char *value)
{
    (void)kind;
    struct coming *c = ctx;
    struct web_field *f = add_field(&c->q, name);
    if (f) {
        text_copy(f->value, sizeof f->value, value ? value : "");
    }
    return MHD_YES;
}

static void add_file(struct coming *c, const char *p, size_t n)
{
    if (c->over || n > c->file_max - c->file_bytes) {
        c->over = true;
        return;
    }
    if (n == 0) {
        return; /* an empty file */
    }
    if (c->file_bytes + n > c->file_cap) {
        size_t cap = c->file_cap ? c->file_cap * 2 : 64 << 10;
        while (cap < c->file_bytes + n) {
            cap *= 2;
        }
        char *file = realloc(c->file, cap);
        if (!file) {
            c->over = true;
            return;
        }
        c->file = file;
        c->file_cap = cap;
    }
    memcpy(c->file + c->file_bytes, p, n);
    c->file_bytes += n;
}

/* A piece of a form's field, or of its file. A field's pieces come in a row; off is 0 at the first. */
static enum MHD_Result on_form(void *ctx, enum MHD_ValueKind kind, const char *name, const char *filename,
                               const char *type, const char *encoding, const char *p, uint64_t off, size_t n)
{
    (void)kind, (void)type, (void)encoding;
    struct coming *c = ctx;
    if (filename) {
        add_file(c, p, n);
        return MHD_YES;
    }
    struct web_field *f = off == 0            ? add_field(&c->q, name)
                          : c->q.n_fields > 0 ? &c->q.fields[c->q.n_fields - 1]
                                              : NULL;
    if (f && strncmp(f->name, name, sizeof f->name - 1) == 0) {
        size_t have = strlen(f->value);
        size_t take = n < WEB_FIELD_MAX - have ? n : WEB_FIELD_MAX - have;
        memcpy(f->value + have, p, take);
        f->value[have + take] = '\0';
    }
    return MHD_YES;
}

/* ---- replies ---- */

static enum MHD_Result send_reply(struct MHD_Connection *connection, struct web_reply *r)
{
    if (r->body.over) {
        text_free(&r->body);
        r->status = 500;
    }
    struct MHD_Response *m = MHD_create_response_from_buffer(
        r->body.n, r->body.p ? r->body.p : "", r->body.p ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!m) {
        text_free(&r->body);
        return MHD_NO;
    }
    MHD_add_response_header(m, "Content-Type", r->type);
    MHD_add_response_header(m, "Cache-Control", r->cache);
    MHD_add_response_header(m, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(m, "Referrer-Policy", "same-origin");
    MHD_add_response_header(m, "Content-Security-Policy",
                            "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'");
    if (r->location[0]) {
        MHD_add_response_header(m, "Location", r->location);
    }
    if (r->set_cookie[0]) {
        MHD_add_response_header(m, "Set-Cookie", r->set_cookie);
    }
    enum MHD_Result done = MHD_queue_response(connection, (unsigned)r->status, m);
    MHD_destroy_response(m);
    return done;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, int status, const char *why)
{
    struct web_reply r = {
        .status = status, .type = "text/plain; charset=utf-8", .cache = "no-store", .body = TEXT_INIT(REPLY_MAX)};
    text_add(&r.body, why);
    return send_reply(connection, &r);
}

static struct coming *begin(struct web *w, struct MHD_Connection *connection)
{
    struct coming *c = calloc(1, sizeof *c);
    if (!c) {
        return NULL;
    }
    c->q.connection = connection;
    c->file_max = w->file_max;
    MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, on_query, c);
    const char *type = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Type");
    if (type && (strncasecmp(type, "multipart/form-data", 19) == 0 ||
                 strncasecmp(type, "application/x-www-form-urlencoded", 33) == 0)) {
        c->form = MHD_create_post_processor(connection, FORM_BUFFER, on_form, c);
    }
    return c;
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *connection, const char *path, const char *method,
                              const char *version, const char *data, size_t *n, void **at)
{
    (void)version;
    struct web *w = ctx;
    struct coming *c = *at;
    if (!c) {
        *at = c = begin(w, connection);
        const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
        if (length && strtoull(length, NULL, 10) > SWALLOW_MAX) {
            return refuse(connection, 413, too_large);
        }
        return c ? MHD_YES : MHD_NO;
    }
    if (*n > 0) {
        c->seen += *n;
        if (c->seen > SWALLOW_MAX) {
            return MHD_NO;
        }
        if (c->form && !c->over) {
            MHD_post_process(c->form, data, *n); /* of a broken form what could be read counts */
        } else if (!c->form) {
            add_file(c, data, *n);
        }
        *n = 0;
        return MHD_YES;
    }
    if (c->over) {
        return refuse(connection, 413, too_large);
    }
    c->q.method = strcmp(method, "HEAD") == 0 ? "GET" : method; /* libmicrohttpd leaves the body out */
    c->q.path = path;
    c->q.file = c->file;
    c->q.file_bytes = c->file_bytes;
    struct web_reply r = {
        .status = 200, .type = "text/html; charset=utf-8", .cache = "no-store", .body = TEXT_INIT(REPLY_MAX)};
    w->handler(w->ctx, &c->q, &r);
    return send_reply(connection, &r);
}

static void completed(void *ctx, struct MHD_Connection *connection, void **at, enum MHD_RequestTerminationCode how)
{
    (void)ctx, (void)connection, (void)how;
    struct coming *c = *at;
    if (c) {
        if (c->form) {
            MHD_destroy_post_processor(c->form);
        }
        free(c->file);
        free(c);
        *at = NULL;
    }
}

/* ---- the listener ---- */

/* A listening socket for "HOST:PORT"; -1, and why. The host is put into `host` for the URL. */
static int listen_at(const char *listen_text, char *host, size_t host_size, char *why, size_t why_size)
{
    const char *colon = strrchr(listen_text, ':');
    if (!colon || colon == listen_text || (size_t)(colon - listen_text) >= host_size || !colon[1]) {
        snprintf(why, why_size, "'%s' is no address: HOST:PORT, 127.0.0.1:8080 say", listen_text);
        return -1;
    }
    memcpy(host, listen_text, (size_t)(colon - listen_text));
    host[colon - listen_text] = '\0';
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    int rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc != 0) {
        snprintf(why, why_size, "%s: %s", listen_text, gai_strerror(rc));
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
                    bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 128) != 0)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0) {
        snprintf(why, why_size, "%s: %m", listen_text);
    }
    freeaddrinfo(found);
    return fd;
}

bool web_open(struct web **out, const char *listen_text, size_t file_max, web_handler *handler, void *ctx, char *why,
              size_t why_size)
{
    char host[256], port[16] = "";
    int fd = listen_at(listen_text, host, sizeof host, why, why_size);
    if (fd < 0) {
        return false;
    }
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    getsockname(fd, (struct sockaddr *)&bound, &len);
    getnameinfo((struct sockaddr *)&bound, len, NULL, 0, port, sizeof port, NI_NUMERICSERV);
    struct web *w = calloc(1, sizeof *w);
    if (w) {
        w->handler = handler;
        w->ctx = ctx;
        w->file_max = file_max;
        snprintf(w->url, sizeof w->url, "http://%s:%s", host, port);
        w->daemon = MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0,
                                     NULL, NULL, answer, w, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
                                     CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
                                     MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
    }
    if (!w || !w->daemon) {
        snprintf(why, why_size, "%s: libmicrohttpd could not start", listen_text);
        close(fd);
        free(w);
        return false;
    }
    *out = w;
    return true;
}

const char *web_url(const struct web *w)
{
    return w->url;
}

void web_close(struct web *w)
{
    if (w) {
        MHD_stop_daemon(w->daemon);
        free(w);
    }
}
