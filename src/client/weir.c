/* SPDX-License-Identifier: Apache-2.0 */
/* libweir: include/weir.h over a place. Here are handles and the call that waits; ask.c makes requests, result.c reads
 * answers, later.c has the calls that nobody waits for, release.c feedback and releases. */
#include "weir.h"

#include <stdlib.h>

#include "client/weir_priv.h"
#include "inference/tensor.h"

/* The public names are the internal ones, number by number. */
#define X(name, http, grpc, retry, text) _Static_assert((int)WEIR_##name == (int)ERR_##name, "weir.h and err.h agree");
ERR_MAP(X)
#undef X
#define X(name, size) _Static_assert((int)WEIR_##name == (int)DTYPE_##name, "weir.h and tensor.h agree");
DTYPE_MAP(X)
#undef X
_Static_assert(sizeof(struct weir_error) == sizeof(struct err), "weir.h and err.h agree");
_Static_assert(offsetof(struct weir_error, text) == offsetof(struct err, text), "weir.h and err.h agree");

const char *weir_code_name(enum weir_code code)
{
    return (unsigned)code < ERR_COUNT_ ? err_name((enum err_code)code) : "?";
}

const char *weir_version(void)
{
    return WEIR_VERSION;
}

const char *weir_dtype_name(enum weir_dtype dtype)
{
    return dtype_name((enum dtype)dtype);
}

/* ---- places ---- */

static bool starts(const char *z, const char *with)
{
    return strncmp(z, with, strlen(with)) == 0;
}

static enum err_code open_place(struct place **out, const char *where, struct err *e)
{
    if (!where) {
        return err_set(e, ERR_INVALID, "no place given");
    }
    if (starts(where, "spawn:")) {
        return place_spawn_open(out, where + 6, e);
    }
    if (starts(where, "inproc:")) {
        return place_inproc_open(out, where + 7, e);
    }
    return place_http_open(out, where, e);
}

enum weir_code weir_open(struct weir **out, const char *where, struct weir_error *e)
{
    struct err err = {0};
    struct place *place = NULL;
    if (open_place(&place, where, &err) != ERR_OK) {
        return weir_give(e, &err);
    }
    struct weir *w = xcalloc(1, sizeof *w);
    w->place = place;
    w->later = later_new(w);
    *out = w;
    return WEIR_OK;
}

void weir_close(struct weir *w)
{
    if (!w) {
        return;
    }
    w->place->ops->close(w->place); /* what is under way ends in this */
    later_free(w->later);
    free(w);
}

/* ---- the call that waits ---- */

static enum err_code infer(struct weir *w, const struct ask *q, const struct weir_call *call, struct weir_result *r,
                           struct err *e)
{
    struct http_answer a;
    struct place_call k = {.side = SIDE_DATA,
                           .method = "POST",
                           .path = q->path.p,
                           .headers = buf_str(&q->headers),
                           .body = q->v,
                           .n_body = q->n,
                           .timeout_us = call->timeout_us};
    http_answer_init(&a, REPLY_MAX);
    enum err_code rc = w->place->ops->call(w->place, &k, &a, e);
    if (rc == ERR_OK) {
        rc = result_make(r, &a, e);
    }
    http_answer_done(&a);
    return rc;
}

enum weir_code weir_infer(struct weir *w, const char *model, const struct weir_tensor *inputs, size_t n_inputs,
                          const struct weir_call *call, struct weir_result **out, struct weir_error *e)
{
    struct err err = {0};
    struct weir_call own = WEIR_CALL_INIT;
    struct ask q;
    if (ask_take(&own, sizeof own, call, "call", "WEIR_CALL_INIT", &err) != ERR_OK) {
        return weir_give(e, &err);
    }
    struct weir_result *r = xcalloc(1, sizeof *r);
    enum err_code rc = ask_make(&q, model, inputs, n_inputs, &own, &err);
    if (rc == ERR_OK) {
        rc = infer(w, &q, &own, r, &err);
    }
    ask_done(&q);
    if (rc != ERR_OK) {
        weir_result_free(r);
        return weir_give(e, &err);
    }
    *out = r;
    return WEIR_OK;
}
