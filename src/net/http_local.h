/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges without a wire: requests that are memory of this process, handed to a service on its loop, whose replies
 * are memory again. For the house inside an application's process.
 *
 * A handler can not tell it from HTTP/1: the same order of calls (http.h), the same limits and words where a request is
 * refused before any handler sees it. There is no socket, no copy of the request, and no time limit: whoever starts a
 * call cancels it when it takes too long. A reply in pieces becomes one.
 *
 * Thread: the loop's. */
#ifndef WEIR_NET_HTTP_LOCAL_H
#define WEIR_NET_HTTP_LOCAL_H

#include "net/http.h"

struct http_local;      /* a service on a loop, and what is under way with it */
struct http_local_call; /* one request; it and what it points at stay where they are until `done` */

struct http_local_ask {
    struct str method, target; /* "POST", "/v2/…?…" */
    struct str headers;        /* "Name: value\r\n" lines */
    const struct iovec *body;  /* its first pieces, or all */
    size_t n_body;
    uint64_t size;                           /* of the whole body */
    struct buf *reply;                       /* where the reply's body goes; the caller's. Full: the call ends, over */
    void (*more)(struct http_local_call *c); /* the pieces were taken, and are less than size: http_local_more */
    void (*done)(struct http_local_call *c); /* once, the last call about it; may free it */
    void *ctx;                               /* the caller's */
};

struct http_local_call {
    struct http_local_ask ask;
    int status;      /* of the reply; 0: there is none, it was cancelled or cut */
    bool over;       /* because its body was more than ask.reply may hold */
    struct buf head; /* "Name: value\r\n" lines of the reply; freed after `done` */
    struct http_local_inner *in;
};

/* Takes a copy of service and limits. *out is the caller's. */
void http_local_new(struct http_local **out, struct loop *l, const struct http_service *service,
                    const struct http_limits *limits);
/* Ends what is under way (finished with gone, then done), then frees it. Not from inside a call of the service or of
 * its own. NULL is fine. */
void http_local_free(struct http_local *h);
/* c->ask is filled in. Not from inside a call of the service; done may come before it returns. */
void http_local_start(struct http_local *h, struct http_local_call *c);
/* The next piece of the body: after `more`, from within it or later. It stays where it is until `more` or done. */
void http_local_more(struct http_local_call *c, struct iovec piece);
/* The client goes away: finished with gone, then done; at the end of this burst. Only while it is under way. */
void http_local_cancel(struct http_local_call *c);

#endif
