/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1 inside: the connection and the listener, shared by the http1_*.c files and their tests, by nobody else.
 *
 * A connection holds one exchange at a time. Its phase says what the next input byte is; its `reply` says how far the
 * answer is. The two are independent (a handler may answer before the body is here), and h1_drive brings them together:
 *
 *     IDLE → HEAD → BODY → DONE → (reply SENT) → IDLE …, or → LINGER → closed
 *
 * Files: http1_head.c reads a head, http1_body.c a body, http1_reply.c answers at once, http1_stream.c in pieces,
 * http1_conn.c drives a connection, http1_listener.c accepts, sweeps and drains.
 *
 * Thread: the loop's. Only h1_drive, the sweep and http_listener_free may end a connection; whatever a handler calls
 * merely notes what is to be done (and queues the connection for the end of the burst), so nothing dies under a
 * handler's feet. */
#ifndef WEIR_NET_HTTP1_PRIV_H
#define WEIR_NET_HTTP1_PRIV_H

/* llhttp names its methods as we name ours; its names are not used. */
#define HTTP_DELETE LLHTTP_DELETE
#define HTTP_GET LLHTTP_GET
#define HTTP_HEAD LLHTTP_HEAD
#define HTTP_POST LLHTTP_POST
#define HTTP_PUT LLHTTP_PUT
#define HTTP_OPTIONS LLHTTP_OPTIONS
#include <llhttp.h>
#undef HTTP_DELETE
#undef HTTP_GET
#undef HTTP_HEAD
#undef HTTP_POST
#undef HTTP_PUT
#undef HTTP_OPTIONS

#include <stdatomic.h>

#include "net/http_priv.h"

enum {
    H1_IN = 16 * 1024,        /* the read buffer of a connection */
    H1_PIECE = 256 * 1024,    /* of a large body the kernel collects so much before it tells */
    H1_SCRATCH = 64 * 1024,   /* where a listener reads bodies that go to `body`, and what it throws away */
    H1_BODY_ROOM = 8 * 1024,  /* least room for chunked input behind a head */
    H1_KEEP_OUT = 64 * 1024,  /* reply memory that an idle connection keeps */
    H1_ARENA = 1024 * 1024,   /* ceiling of an exchange's arena */
    H1_POOL = 256,            /* connections kept for reuse */
    H1_BURST_ACCEPT = 64,     /* per wake-up of a listener */
    H1_BURST_REQUESTS = 16,   /* per wake-up of a connection */
    H1_BURST_BYTES = 1 << 20, /* likewise */
    H1_COPY = 8 * 1024,       /* replies up to this size are sent as one piece with their head */
    H1_CHUNKS = 65536,        /* of one body */
    H1_EXTENSIONS = 1024,     /* bytes of chunk extensions of one body */
    H1_EMPTY_LINES = 4,       /* before a request line */
};
#define H1_REPLY_MAX ((size_t)1 << 30)
#define H1_LINGER_US SECONDS(2) /* without a byte, after our side was shut down */
#define H1_SWEEP_US SECONDS(1)

enum h1_phase {
    H1_IDLE,   /* between requests */
    H1_HEAD,   /* a part of the head is here */
    H1_BODY,   /* the head was handed over, the body is coming in */
    H1_DONE,   /* all of the request is here */
    H1_LINGER, /* our side is shut down; input is thrown away until the client closes */
};

enum h1_reply {
    H1_NONE,
    H1_OPEN,   /* begun by the handler */
    H1_STREAM, /* its head is out or on its way, pieces follow */
    H1_READY,  /* complete, not yet (wholly) taken by the kernel */
    H1_SENT,
};

struct h1 {
    struct http_ex x; /* the exchange as the handler sees it */
    struct arena arena;
    struct watch w;
    struct http_listener *h;
    struct h1 *prev, *next; /* of the listener's connections, or (next) of its pool */
    struct h1 *next_ready;
    bool queued;  /* on one of the listener's lists */
    bool driving; /* inside h1_drive, which will see what changed */

    enum h1_phase phase;
    enum h1_reply reply;
    bool live;      /* `headers` was called, `finished` not yet */
    bool readable;  /* the kernel has, or may have, input for us */
    bool eof;       /* the client sent FIN */
    bool dead;      /* the connection broke: nothing more comes or goes */
    bool close;     /* after this reply */
    bool refused;   /* by this layer: no more input is looked at */
    bool paused;    /* by the handler */
    bool completed; /* `complete` was called */
    bool http10;
    bool keep_asked; /* the client asked for keep-alive by name */
    bool expects;    /* it waits for 100 Continue */
    uint32_t n_requests;
    uint64_t stamp; /* when a byte last came or went */
    uint64_t due;   /* when the sweep ends it; 0: never */
    uint64_t linger_end;

    /* input: [in_at, in_n) is not yet consumed; the head of the current exchange lies before it and stays there */
    char *in;
    size_t in_at, in_n, in_cap;
    size_t head_at, head_end;   /* where the request line begins; where the body does (from `headers` on) */
    size_t parsed;              /* HEAD: how far it was looked at */
    bool line_done;             /* HEAD: the request line is complete */
    uint32_t empty_lines;       /* before it */
    size_t target_at, target_n; /* from head_at on */

    llhttp_t parser;
    struct http_header *hdr; /* limits.header_count of them */
    size_t n_hdr;            /* complete ones */
    bool in_header;          /* hdr[n_hdr] is begun */
    int bad_status;          /* what a callback found wrong; 0: nothing */
    char bad[200];

    /* body */
    uint64_t until;       /* border for `body`; 0: none */
    struct iovec *direct; /* targets not yet filled: [direct_at, direct_n) */
    size_t direct_at, direct_n, direct_cap;
    struct str held;    /* chunked: bytes the parser has handed out that the handler has not taken */
    uint64_t discarded; /* body bytes thrown away after an early reply */
    uint64_t raw;       /* chunked: bytes with their framing */
    uint32_t chunks, extensions;
    uint32_t trailers;
    int piece;     /* so many bytes must have come before the kernel says that there are some; 0: as it was made, 1 */
    bool trickles; /* … which took too long: this body is taken as it comes */

    /* output */
    struct buf head, body;
    size_t out_at; /* bytes of head and body that the kernel took */
    bool no_body;  /* HEAD, 204, 304: the body is not sent */
    bool bodiless; /* 204, 304: nor has it a length */
    struct http_stream stream;
    bool fresh;         /* H1_STREAM: the kernel was not offered yet what was added */
    bool refused_piece; /* H1_STREAM: the handler waits for `drained` */
};

struct http_listener {
    struct loop *loop;
    struct watch w;
    int fd;
    bool tcp;
    bool waiting; /* too many connections, or no descriptors: not accepting for now */
    bool draining;
    struct http_service service;
    struct http_limits limits;
    _Atomic uint32_t *connections;
    uint32_t n;       /* of them ours */
    struct h1 *first; /* all open ones */
    struct h1 *pool;
    uint32_t n_pool;
    struct h1 *ready, **ready_end; /* to be driven at the end of the burst */
    struct h1 *again, **again_end; /* to be driven in the next burst */
    struct hook run;
    struct timer next_burst; /* a timer that is due at once, and not a task, because it can be taken back */
    struct timer sweep;
    int reserve; /* a descriptor kept free, to be able to accept and shed */
    uint64_t shed_logged;
    void (*drained)(void *ctx);
    void *drained_ctx;
    llhttp_settings_t settings;
    llhttp_t fresh[2]; /* parsers that have read a request line: of HTTP/1.0, of HTTP/1.1 */
    struct buf trash;  /* what is replied to a client that is gone */
    char *scratch;
};

/* ---- http1_head.c ---- */
void h1_parsers_init(struct http_listener *h);
/* Reads on in the head. 1: it is complete and valid (x is filled in); 0: more input is needed; -1: refused. */
int h1_head(struct h1 *c);
/* Replaces the read buffer by one of `cap` bytes that holds [from, in_n) at its start; false without memory. */
bool h1_in_move(struct h1 *c, size_t from, size_t cap);
/* A sentence for a parser's error in a head or in chunk framing; returns the status. */
int h1_parser_problem(struct h1 *c, char *text, size_t cap);

/* ---- http1_body.c ---- */
/* Brings the body on with what is in the buffer, and by reading if c->readable. True if something changed. */
bool h1_body(struct h1 *c, uint64_t *budget);
/* Hands bytes to the handler or its direct targets; returns how many it took. */
size_t h1_deliver(struct h1 *c, const char *p, size_t n);
int h1_on_body(llhttp_t *p, const char *at, size_t n);
int h1_on_chunk_header(llhttp_t *p);
int h1_on_chunk_extension(llhttp_t *p, const char *at, size_t n);
int h1_on_message_complete(llhttp_t *p);

/* http_body_…, for h1_ops. */
void h1_body_direct(struct http_ex *x, const struct iovec *to, size_t n);
void h1_body_until(struct http_ex *x, uint64_t n);
void h1_body_pause(struct http_ex *x);
void h1_body_resume(struct http_ex *x);

/* ---- http1_reply.c ---- */
extern const struct http_ops h1_ops;
/* The layer's own answer: JSON {"error": …}, then close. Ends a live exchange (gone, finished). */
void h1_refuse(struct h1 *c, int status, const char *fmt, ...) PRINTF(3, 4);
/* Gives the kernel what it takes of the reply. */
void h1_send(struct h1 *c);
/* Completes a head that was begun: how the body is framed, and whether the connection goes on after it. */
void h1_head_end(struct h1 *c, bool stream);
/* 100 Continue, if the client waits for it. */
void h1_continue(struct h1 *c);

/* ---- http1_stream.c ---- */
/* Something is to be done about the stream now. */
bool h1_stream_due(const struct h1 *c);
/* Does it; false: not in this burst any more. */
bool h1_stream_step(struct h1 *c, uint64_t *budget);
/* http_stream_…, for h1_ops. */
void h1_stream_begin(struct http_ex *x, const struct http_stream *s);
bool h1_stream_write(struct http_ex *x, struct str piece);
void h1_stream_end(struct http_ex *x);
void h1_stream_cut(struct http_ex *x);

/* ---- http1_conn.c ---- */
/* recv with the error handling in one place: > 0 bytes, 0: nothing now, or eof or dead is set. */
size_t h1_recv(struct h1 *c, const struct iovec *iov, size_t n, bool discard);
void h1_drive(struct h1 *c);
void h1_event(struct watch *w, uint32_t events);
/* Calls `finished` once. */
void h1_finish(struct h1 *c);
/* To be driven at the end of this burst. */
void h1_queue(struct h1 *c);
/* The sweep's part for one connection. */
void h1_check(struct h1 *c, uint64_t now);
void h1_drain(struct h1 *c);

/* ---- http1_listener.c ---- */
/* Takes a connected socket (closed in any case); what accept does. False if it can not be served. */
bool http_conn_open(struct http_listener *h, int fd);
void http_conn_close(struct h1 *c); /* and back to the pool; c must not be touched after it */
/* What the timer does once a second. */
void http_sweep(struct http_listener *h, uint64_t now);
void h1_requeue(struct h1 *c); /* to be driven in the next burst */

static inline struct h1 *h1_of(struct http_ex *x)
{
    return CONTAINER_OF(x, struct h1, x);
}

static inline bool h1_chunked(const struct h1 *c)
{
    return c->x.length < 0;
}

/* Bytes of the reply that the kernel has not taken yet. */
static inline size_t h1_waiting(const struct h1 *c)
{
    return c->head.n + c->body.n - c->out_at;
}

static inline bool h1_out_pending(const struct h1 *c)
{
    return (c->reply == H1_READY || (c->reply == H1_STREAM && h1_waiting(c) > 0)) && !c->dead;
}

/* The handler gets no more of the body: it has answered, or it is no longer asked. */
static inline bool h1_discarding(const struct h1 *c)
{
    return c->reply >= H1_STREAM || !c->live;
}

/* Nobody reads what is replied now: the client is gone, or it has its answer. */
static inline bool h1_ignored(const struct h1 *c)
{
    return !c->live || c->x.gone || c->reply >= H1_STREAM;
}

#endif
