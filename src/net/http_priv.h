/* SPDX-License-Identifier: Apache-2.0 */
/* What carries an exchange: a table of the calls of http.h that a handler makes on one, each with the contract that it
 * has there. HTTP/1 has one (http1_*.c), memory another (http_local.c); http.c hands the calls on.
 *
 * Thread: the loop's. */
#ifndef WEIR_NET_HTTP_PRIV_H
#define WEIR_NET_HTTP_PRIV_H

#include "net/http.h"

struct http_ops {
    void (*body_direct)(struct http_ex *x, const struct iovec *to, size_t n);
    void (*body_until)(struct http_ex *x, uint64_t n);
    void (*body_pause)(struct http_ex *x);
    void (*body_resume)(struct http_ex *x);
    void (*reply_begin)(struct http_ex *x, int status, const char *content_type);
    void (*reply_header)(struct http_ex *x, const char *name, struct str value);
    struct buf *(*reply_body)(struct http_ex *x);
    void (*reply_end)(struct http_ex *x);
    void (*close_after)(struct http_ex *x);
    void (*stream_begin)(struct http_ex *x, const struct http_stream *s);
    bool (*stream_write)(struct http_ex *x, struct str piece);
    void (*stream_end)(struct http_ex *x);
    void (*stream_cut)(struct http_ex *x);
};

/* Adds "name: value\r\n" without what may not stand in a value. */
void http_line_add(struct buf *to, const char *name, struct str value);

#endif
