/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP as a handler sees it: exchanges, whatever version of HTTP carries them.
 *
 * A listener accepts connections on one loop and hands every request to its service:
 *
 *     headers → body* → complete → (the handler replies now or later) → finished
 *
 * The handler may reply at any point from `headers` on; after a reply before `complete` the rest of the body is
 * discarded (up to a bound, so that the client reads the answer and not a reset; then the connection is closed).
 * Exactly one `finished` ends every exchange whose `headers` was called: after the reply was handed to the kernel, or
 * because the client went away (x->gone, from then on replies are ignored). Nothing of the exchange may be touched
 * after it.
 *
 * Requests of one connection are handed over one at a time, in order (pipelining waits in the kernel and our buffer).
 *
 * Refused before any handler sees them (400 and close, unless said otherwise): malformed or smuggled requests (both
 * lengths, two lengths, bad chunk framing, obs-fold, NUL, bare CR or LF, white space before a colon), no or two Host in
 * HTTP/1.1, more than limits allow (431, 413), slow clients (408), absolute-form with a foreign scheme.
 *
 * Thread: the loop's. */
#ifndef WEIR_NET_HTTP_H
#define WEIR_NET_HTTP_H

#include <sys/uio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "net/loop.h"

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_PUT, HTTP_DELETE, HTTP_OPTIONS, HTTP_OTHER };

struct http_header {
    struct str name;  /* lower case */
    struct str value; /* outer blanks removed */
};

struct http_ex {
    enum http_method method;
    struct str path;  /* as sent, before '?'; starts with '/' (or is "*": OPTIONS only); not decoded; never empty */
    struct str query; /* after '?', not decoded */
    const struct http_header *headers;
    size_t n_headers;
    int64_t length;      /* of the body; -1: chunked, not known */
    uint64_t body_seen;  /* bytes so far, decoded from chunks */
    uint64_t t_start;    /* clock_us() when the first byte of the request was read */
    struct arena *arena; /* lives until `finished`; bounded */
    bool gone;           /* the client went away */
    bool replied;
    void *user; /* the handler's */
    struct loop *loop;
    const struct http_ops *ops; /* what carries it; private */
};

/* A service: what a listener calls. `ctx` is the service's own. */
struct http_service {
    void *ctx;
    void (*headers)(void *ctx, struct http_ex *x);
    void (*body)(void *ctx, struct http_ex *x, const char *p, size_t n); /* not called for bytes that went direct */
    void (*complete)(void *ctx, struct http_ex *x);
    void (*finished)(void *ctx, struct http_ex *x);
};

/* Limits of a listener; all have defaults (http_limits_default). */
struct http_limits {
    uint64_t body;         /* bytes; 413 beyond; default 64 MiB */
    uint32_t header_bytes; /* 32 KiB */
    uint32_t header_count; /* 100 */
    uint32_t connections;  /* a listener, over all loops that share it: 10,000; beyond it accept waits */
    uint64_t header_us;    /* to send the headers: 10 s */
    uint64_t body_us;      /* without a byte of the body: 30 s */
    uint64_t idle_us;      /* between requests: 75 s */
    uint64_t write_us;     /* without the client taking a byte that waits for it: 30 s */
    uint64_t discard;      /* bytes of a refused body that are read away: 128 MiB */
    uint32_t requests;     /* on one connection, then it is closed: 1,000,000 */
};
void http_limits_default(struct http_limits *l);

/* The value of a header, or an empty str with p == NULL. `name` in lower case. */
struct str http_header(const struct http_ex *x, const char *name);
/* How many times it was sent. */
size_t http_header_count(const struct http_ex *x, const char *name);
/* Decodes %XX of a path or query part into the arena; p == NULL if malformed or if it holds a NUL. */
struct str http_decode(struct http_ex *x, struct str s);
/* The value of a query parameter, decoded; p == NULL if absent. */
struct str http_query(struct http_ex *x, const char *name);

/* From here on, body bytes are read straight to these places, in order; call it in `headers` or `body` (there: for what
 * comes after the bytes just given; they were clipped to end at the border announced by http_body_until). The total is
 * at most what is left of the body. The array is copied; the memory is the handler's and stays valid until `complete`
 * or `finished`. Chunked bodies are copied there, the others are read there by the kernel. */
void http_body_direct(struct http_ex *x, const struct iovec *to, size_t n);
/* Promises that one `body` call will end exactly after `n` body bytes in total (n > body_seen): call it in `headers`,
 * or while the body is paused since then. The same goes for http_body_direct. */
void http_body_until(struct http_ex *x, uint64_t n);
/* Back-pressure: no more body until http_body_resume. */
void http_body_pause(struct http_ex *x);
void http_body_resume(struct http_ex *x);

/* ---- replies: begin, headers, body, end ---- */
/* Starts the reply in the connection's output buffer. */
void http_reply_begin(struct http_ex *x, int status, const char *content_type);
void http_reply_header(struct http_ex *x, const char *name,
                       struct str value); /* bytes below 0x20 and 0x7f are dropped from the value */
/* The buffer to append the body to; valid until http_reply_end. Content-Length is filled in by the end call. */
struct buf *http_reply_body(struct http_ex *x);
/* Sends what the socket takes now, the rest when it can; `finished` comes later, not within this call. For HEAD the
 * body is dropped, its length kept. */
void http_reply_end(struct http_ex *x);
/* A whole reply at once; text is copied. */
void http_reply(struct http_ex *x, int status, const char *content_type, struct str body);
/* {"error": "text"} with the status of e->code, and Retry-After where waiting helps. */
void http_reply_error(struct http_ex *x, const struct err *e);
/* The connection is closed after this reply. */
void http_close_after(struct http_ex *x);

/* ---- streams: replies in pieces, of a length that nobody knows yet ----
 *
 * begin, headers, http_stream_begin, pieces as they come, http_stream_end; `finished` follows as after any reply. What
 * was added within a burst goes out at its end, together. Nothing of the connection is read meanwhile, but a hang-up is
 * seen (a client that merely closed its sending side still gets everything). The client's time limit (write_us) runs
 * only while bytes wait for it: a silent stream may be silent for as long as it likes.
 *
 * HTTP/1.1 carries pieces as chunks, so that a client can tell the end from a broken connection; for HTTP/1.0 the end
 * of the connection is the end. Of a HEAD only the head goes out, and it is over with that: pieces are ignored. */
struct http_stream {
    size_t max;   /* bytes that may wait for the client */
    bool endless; /* it has no end of its own: a drain ends it at once. The end of any other is awaited by a drain */
    /* After a piece was refused: all that waited has been handed to the kernel. May write, end and cut. NULL: nobody
     * asks. */
    void (*drained)(struct http_ex *x);
};
/* After http_reply_begin and its headers, in place of the body: sends the head. */
void http_stream_begin(struct http_ex *x, const struct http_stream *s);
/* Copied. False: refused, because so much waits already that with it there would be more than max; nothing of it was
 * taken. A piece is always taken when nothing waits. When the client is gone or the stream is over it is ignored
 * (true), as replies are: `finished` tells. Without memory the client is cut off. */
bool http_stream_write(struct http_ex *x, struct str piece);
void http_stream_end(struct http_ex *x);
/* Cuts the client off: what waits is thrown away, and it sees that the reply is not whole. `finished` comes later, not
 * within this call, with gone. */
void http_stream_cut(struct http_ex *x);

/* ---- listeners ---- */
struct http_listener;
/* Takes a listening socket (net/sock.h; each loop has its own by SO_REUSEPORT, or shares one with EPOLLEXCLUSIVE) and
 * serves it on this loop. `connections`: a counter shared by all listeners of one plane, for the limit. The fd is
 * closed by http_listener_free. */
enum err_code http_listen(struct http_listener **out, struct loop *l, int fd, const struct http_service *service,
                          const struct http_limits *limits, _Atomic uint32_t *connections, struct err *e) MUST_USE;
/* Drain: accepts no more, closes idle connections, answers the rest with Connection: close; `drained` is called when
 * none is left, at the end of a burst (it may free the listener). The listening socket is closed after what waits in
 * its backlog was taken. */
void http_drain(struct http_listener *h, void (*drained)(void *ctx), void *ctx);
/* Closes what is still open (finished is called with gone). Not from inside a call of the service. */
void http_listener_free(struct http_listener *h);
uint32_t http_connections(const struct http_listener *h);

#endif
