/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP/1.1 reply, from bytes: llhttp in response mode, strict, filling a struct http_answer.
 *
 * Does no I/O: the caller feeds what it read and says when the stream ended. Interim replies (1xx) are passed over,
 * trailers are read and dropped. The peer is not trusted: the head, the number of interim replies and the body are
 * bounded.
 *
 * Thread: one at a time. Owner: the answer stays the caller's and must outlive the parser. */
#ifndef WEIR_CLIENT_REPLY_H
#define WEIR_CLIENT_REPLY_H

#include <llhttp.h>

#include "client/http_client.h"

#define REPLY_HEAD_MAX (64u << 10) /* bytes of header lines */
#define REPLY_INTERIM_MAX 16       /* 1xx replies before the real one */

enum reply_state {
    REPLY_MORE, /* feed the next bytes */
    REPLY_DONE, /* the answer is whole */
    REPLY_BAD,  /* reply->err says why; the connection is of no more use */
};

struct reply {
    llhttp_t parser;
    struct http_answer *out;
    bool no_body;     /* the request was HEAD */
    bool started;     /* at least one byte came */
    bool final;       /* the head of the real (not interim) reply is complete */
    bool keep;        /* after REPLY_DONE: the connection may be used again */
    bool line_open;   /* private: a header's name was written and its line not ended */
    bool in_trailers; /* private */
    uint32_t interim; /* private */
    enum reply_state state;
    struct err err;
};

/* Clears the answer's buffers. head_request: the reply has no body whatever its headers say. */
void reply_init(struct reply *r, struct http_answer *out, bool head_request);
/* Takes n bytes; *used (may be NULL) is how many belonged to this reply. After DONE or BAD it takes nothing more. */
enum reply_state reply_feed(struct reply *r, const char *p, size_t n, size_t *used);
/* The peer closed: the end of a close-delimited body, or REPLY_BAD. */
enum reply_state reply_eof(struct reply *r);

#endif
