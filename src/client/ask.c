/* SPDX-License-Identifier: Apache-2.0 */
/* An inference request on its way out: one JSON head and the tensors' own memory behind it (binary tensor extension).
 * Data is not copied, only texts given as an array are encoded. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/traceparent.h"
#include "client/weir_priv.h"
#include "inference/tensor.h"

#define PATH_MAX_BYTES (8u << 10) /* a request line must fit the least header limit */

void ask_done(struct ask *q)
{
    buf_done(&q->path);
    buf_done(&q->headers);
    buf_done(&q->json);
    buf_done(&q->texts);
    free(q->v);
}

static enum err_code add_header(struct buf *out, const char *name, const char *what, const char *value, struct err *e)
{
    size_t n = strlen(value);
    if (n == 0 || n > HEADER_TEXT_MAX) {
        return err_set(e, ERR_INVALID, "the %s has %zu bytes; 1 to %d are allowed", what, n, HEADER_TEXT_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f) {
            return err_set(e, ERR_INVALID, "the %s holds a control character (byte %zu)", what, i);
        }
    }
    if (value[0] == ' ' || value[n - 1] == ' ') {
        return err_set(e, ERR_INVALID, "the %s begins or ends with a blank", what);
    }
    buf_addf(out, "%s: %s\r\n", name, value);
    return ERR_OK;
}

/* As version 00, whatever stands behind a later one's known fields. */
static void add_traceparent(struct buf *out, const char *z)
{
    struct trace_context t;
    char text[TRACEPARENT_LEN + 1];
    if (z && traceparent_read(&t, str_of(z))) {
        traceparent_write(text, &t);
        buf_addf(out, "traceparent: %s\r\n", text);
    }
}

void ask_path(struct buf *out, const char *before, const char *model, const char *rest)
{
    buf_addz(out, before);
    for (const unsigned char *p = (const unsigned char *)model; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                     strchr("-._~", *p) != NULL;
        if (plain) {
            buf_addc(out, (char)*p);
        } else {
            buf_addf(out, "%%%02X", *p);
        }
    }
    buf_addz(out, rest);
}

enum err_code ask_take(void *own, size_t own_size, const void *theirs, const char *what, const char *init,
                       struct err *e)
{
    size_t size;
    if (!theirs) {
        return ERR_OK;
    }
    memcpy(&size, theirs, sizeof size);
    if (size < sizeof size || size > 4096) {
        return err_set(e, ERR_INVALID, "the %s's size is %zu: begin with %s", what, size, init);
    }
    memcpy(own, theirs, MIN(size, own_size));
    return ERR_OK;
}

/* Length and bytes of each text, appended to out. */
static enum err_code encode_texts(struct buf *out, const struct weir_tensor *t, uint64_t elements, struct err *e)
{
    for (uint64_t i = 0; i < elements; i++) {
        const struct weir_string *s = &t->strings[i];
        if (s->n > UINT32_MAX || (s->n > 0 && !s->p)) {
            return err_set(e, ERR_INVALID, "input '%s': text %" PRIu64 " has no bytes, or too many", t->name, i);
        }
        uint8_t length[4] = {(uint8_t)s->n, (uint8_t)(s->n >> 8), (uint8_t)(s->n >> 16), (uint8_t)(s->n >> 24)};
        buf_add(out, length, sizeof length);
        buf_add(out, s->p, s->n);
    }
    return out->over ? err_set(e, ERR_TOO_LARGE, "input '%s': its texts are more than %zu bytes", t->name, out->max)
                     : ERR_OK;
}

/* Checks one input and writes its description; *bytes is the length of its data. */
static enum err_code add_input(struct ask *q, const struct weir_tensor *t, size_t at, uint64_t *bytes, struct err *e)
{
    uint64_t n, want;
    if (!t->name || !*t->name) {
        return err_set(e, ERR_INVALID, "input %zu has no name", at);
    }
    if (t->dtype < WEIR_BOOL || t->dtype > WEIR_BYTES) {
        return err_set(e, ERR_INVALID, "input '%s': %d is no dtype", t->name, (int)t->dtype);
    }
    if (t->rank > TENSOR_RANK_MAX || (t->rank > 0 && !t->shape) || !tensor_elements(t->shape, t->rank, &n)) {
        return err_set(e, ERR_INVALID,
                       "input '%s': no shape, more than %d dimensions, or one that is negative or too large", t->name,
                       TENSOR_RANK_MAX);
    }
    bool texts = t->dtype == WEIR_BYTES && t->strings;
    *bytes = t->bytes;
    if (texts) {
        size_t before = q->texts.n;
        enum err_code rc = encode_texts(&q->texts, t, n, e);
        if (rc != ERR_OK) {
            return rc;
        }
        *bytes = q->texts.n - before;
    } else if (t->dtype == WEIR_BYTES) {
        if ((t->bytes > 0 && !t->data) || !bytes_check(t->data, t->bytes, n)) {
            return err_set(e, ERR_INVALID, "input '%s': its %zu bytes are not %" PRIu64 " encoded texts", t->name,
                           t->bytes, n);
        }
    } else if (!ck_mul(n, dtype_size((enum dtype)t->dtype), &want) || want != t->bytes || (want > 0 && !t->data)) {
        char shape[128];
        shape_text(shape, sizeof shape, t->shape, t->rank);
        return err_set(e, ERR_INVALID, "input '%s': %s %s needs %" PRIu64 " bytes, %zu were given", t->name,
                       weir_dtype_name(t->dtype), shape, n * dtype_size((enum dtype)t->dtype), t->bytes);
    }
    json_comma(&q->json);
    BUF_LIT(&q->json, "{\"name\":");
    json_strz(&q->json, t->name);
    buf_addf(&q->json, ",\"datatype\":\"%s\",\"shape\":[", weir_dtype_name(t->dtype));
    for (uint32_t i = 0; i < t->rank; i++) {
        json_comma(&q->json);
        buf_addi(&q->json, t->shape[i]);
    }
    buf_addf(&q->json, "],\"parameters\":{\"binary_data_size\":%" PRIu64 "}}", *bytes);
    return ERR_OK;
}

static enum err_code add_inputs(struct ask *q, const struct weir_tensor *in, size_t n, struct err *e)
{
    if (n > TENSORS_MAX || (n > 0 && !in)) {
        return err_set(e, ERR_INVALID, "%zu inputs; at most %d are allowed", n, TENSORS_MAX);
    }
    q->v = xcalloc(n + 1, sizeof *q->v);
    q->n = (int)n + 1;
    BUF_LIT(&q->json, ",\"inputs\":[");
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = 0;
        enum err_code rc = add_input(q, &in[i], i, &bytes, e);
        if (rc != ERR_OK) {
            return rc;
        }
        q->v[i + 1].iov_len = bytes;
    }
    BUF_LIT(&q->json, "]");
    /* The texts' buffer stands still only now. */
    char *texts = q->texts.p;
    for (size_t i = 0; i < n; i++) {
        if (in[i].dtype == WEIR_BYTES && in[i].strings) {
            q->v[i + 1].iov_base = texts;
            texts += q->v[i + 1].iov_len;
        } else {
            q->v[i + 1].iov_base = (void *)(uintptr_t)in[i].data;
        }
    }
    return ERR_OK;
}

enum err_code ask_make(struct ask *q, const char *model, const struct weir_tensor *in, size_t n,
                       const struct weir_call *call, struct err *e)
{
    buf_init(&q->path, PATH_MAX_BYTES);
    buf_init(&q->headers, 64u << 10);
    buf_init(&q->json, 16u << 20);
    buf_init(&q->texts, REPLY_MAX);
    q->v = NULL;
    if (!model || !*model) {
        return err_set(e, ERR_INVALID, "no model named");
    }
    ask_path(&q->path, "/v2/models/", model, "");
    if (call->version) {
        buf_addf(&q->path, "/versions/%" PRIu64, call->version);
    }
    BUF_LIT(&q->path, "/infer");
    enum err_code rc = ERR_OK;
    BUF_LIT(&q->json, "{");
    if (call->request_id) {
        rc = add_header(&q->headers, "X-Request-Id", "request id", call->request_id, e);
        BUF_LIT(&q->json, "\"id\":");
        json_strz(&q->json, call->request_id);
        BUF_LIT(&q->json, ",");
    }
    if (rc == ERR_OK && call->user) {
        rc = add_header(&q->headers, "X-Weir-User", "user key", call->user, e);
    }
    add_traceparent(&q->headers, call->traceparent);
    BUF_LIT(&q->json, "\"parameters\":{\"binary_data_output\":true");
    if (call->timeout_us) {
        buf_addf(&q->json, ",\"timeout\":%" PRIu64, call->timeout_us);
    }
    BUF_LIT(&q->json, "}");
    if (rc == ERR_OK) {
        rc = add_inputs(q, in, n, e);
    }
    if (rc != ERR_OK) {
        return rc;
    }
    if (call->outputs) {
        BUF_LIT(&q->json, ",\"outputs\":[");
        for (size_t i = 0; i < call->n_outputs; i++) {
            json_comma(&q->json);
            BUF_LIT(&q->json, "{\"name\":");
            json_strz(&q->json, call->outputs[i] ? call->outputs[i] : "");
            BUF_LIT(&q->json, ",\"parameters\":{\"binary_data\":true}}");
        }
        BUF_LIT(&q->json, "]");
    }
    BUF_LIT(&q->json, "}");
    buf_addf(&q->headers, "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %zu\r\n",
             q->json.n);
    if (q->path.over || q->headers.over || q->json.over) {
        return err_set(e, ERR_TOO_LARGE, "the names and shapes of the request are too long");
    }
    q->v[0] = (struct iovec){q->json.p, q->json.n};
    buf_z(&q->path);
    return ERR_OK;
}
