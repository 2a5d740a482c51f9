/* SPDX-License-Identifier: Apache-2.0 */
/* libweir inside: what the files behind include/weir.h share, and nobody else. */
#ifndef WEIR_CLIENT_WEIR_PRIV_H
#define WEIR_CLIENT_WEIR_PRIV_H

#include "client/place.h"
#include "weir.h"

#define REPLY_MAX (1ull << 30)
#define HEADER_TEXT_MAX 256

struct later; /* later.c: calls that nobody waits for */

struct weir {
    struct place *place;
    struct later *later;
};

/* *to may be NULL. Returns the code, as the public one. */
static inline enum weir_code weir_give(struct weir_error *to, const struct err *from)
{
    if (to) {
        memcpy(to, from, sizeof *to);
    }
    return (enum weir_code)from->code;
}

/* ---- ask.c ---- */

/* An inference request in HTTP's parts. Its pieces point at the inputs. */
struct ask {
    struct buf path, headers, json, texts; /* texts: the encoded BYTES of all inputs */
    struct iovec *v;                       /* v[0] is the JSON */
    int n;
};
/* Where it fails the ask is still to be given to ask_done. */
enum err_code ask_make(struct ask *q, const char *model, const struct weir_tensor *in, size_t n,
                       const struct weir_call *call, struct err *e) MUST_USE;
void ask_done(struct ask *q);
/* "/v2/models/NAME" + rest, encoded. */
void ask_path(struct buf *out, const char *before, const char *model, const char *rest);
/* Takes a caller's struct that begins with its size into one of ours, which has the presets. */
enum err_code ask_take(void *own, size_t own_size, const void *theirs, const char *what, const char *init,
                       struct err *e) MUST_USE;

/* ---- result.c ---- */

struct weir_result {
    struct weir_tensor *out;
    size_t n;
    char *data;   /* all outputs' elements, each at a multiple of TENSOR_ALIGN */
    void *doc;    /* the JSON, which holds the names */
    int64_t *dim; /* all shapes */
    struct weir_string *strings;
    char request_id[HEADER_TEXT_MAX + 1], version[32], arm[64];
};
/* r is zeroed, and given to weir_result_free in any case. */
enum err_code result_make(struct weir_result *r, const struct http_answer *a, struct err *e) MUST_USE;
/* What the server says is wrong. */
enum err_code server_error(const struct http_answer *a, struct err *e);

/* ---- later.c ---- */
struct later *later_new(struct weir *w);
void later_free(struct later *l); /* when the place is closed; NULL is fine */

#endif
