/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/1.1 client connection, blocking: for the command line, for libweir, for tools.
 *
 * One request at a time; the connection is kept and used again, and opened anew when the server closed it in between
 * (an unsent or idempotent request is then repeated once).
 *
 * Thread: one at a time. */
#ifndef WEIR_CLIENT_HTTP_CLIENT_H
#define WEIR_CLIENT_HTTP_CLIENT_H

#include <sys/uio.h>

#include "base/buf.h"
#include "net/sock.h"

struct http_client;

struct http_answer {
    int status;
    struct buf head; /* "name: value\n" lines, names in lower case; private form, use http_answer_header */
    struct buf body;
};
void http_answer_init(struct http_answer *a, size_t body_max);
void http_answer_done(struct http_answer *a);
struct str http_answer_header(const struct http_answer *a, const char *name); /* p == NULL if absent */

/* A body that is made while it is sent; size is known. Returns bytes put into p (> 0), or -1 with *e set. */
struct http_source {
    uint64_t size;
    int64_t (*read)(void *ctx, char *p, size_t cap, struct err *e);
    void *ctx;
};

/* url: "http://host:port" or "unix:/path"; a path behind it is an error. Does not connect yet. */
enum err_code http_client_new(struct http_client **out, struct str url, struct err *e) MUST_USE;
/* From now on connects there, whatever the URL's host resolves to; Host stays the URL's. */
void http_client_at(struct http_client *c, const struct addr *at);
void http_client_free(struct http_client *c);
AUTO_DEFINE(http_client)
/* headers: "Name: value\r\n" lines or empty. body: iov (may be NULL). The answer's buffers are cleared first. Limits:
 * timeout_us for the whole call, 0 = none. ERR_UNAVAILABLE: nobody listens there or the connection broke; ERR_TIMEOUT.
 * A status >= 400 is not an error here. */
enum err_code http_call(struct http_client *c, const char *method, const char *path, struct str headers,
                        const struct iovec *body, int n_body, uint64_t timeout_us, struct http_answer *out,
                        struct err *e) MUST_USE;
enum err_code http_call_stream(struct http_client *c, const char *method, const char *path, struct str headers,
                               const struct http_source *src, uint64_t timeout_us, struct http_answer *out,
                               struct err *e) MUST_USE;
/* The same without a body, for replies that are longer than memory: what comes of a reply with status 200 is given to
 * sink and not kept; of any other the body is in *out as usual. sink: ERR_OK to go on. */
typedef enum err_code http_sink_fn(void *ctx, struct str piece, struct err *e);
enum err_code http_call_sink(struct http_client *c, const char *method, const char *path, struct str headers,
                             http_sink_fn *sink, void *ctx, uint64_t timeout_us, struct http_answer *out,
                             struct err *e) MUST_USE;

/* Parts that the asynchronous client (courier.h) shares. Where a client connects to, for addr_parse, and its Host. */
const char *http_client_where(const struct http_client *c);
const char *http_client_host(const struct http_client *c);
/* True if the last call failed before the server can have seen a byte of it. */
bool http_client_unsent(const struct http_client *c);
/* A request's head; size: of the body. ERR_INVALID: the path is none; ERR_HEADERS: longer than the buffer may be. */
enum err_code http_head(struct buf *out, const char *method, const char *path, const char *host, struct str headers,
                        uint64_t size, struct err *e) MUST_USE;

#endif
