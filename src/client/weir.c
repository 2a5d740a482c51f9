/* SPDX-License-Identifier: Apache-2.0 */
/* libweir: include/weir.h over the wire client.
 *
 * A request is one JSON head and the tensors' own memory behind it, gathered by the kernel (binary tensor extension):
 * data is not copied on the way out, only texts given as an array are encoded. On the way back each output is copied
 * once, to a place aligned for its elements. The server is not trusted: sizes, shapes and lengths are checked before
 * they are used.
 *
 * A handle keeps the connections that are idle, at most POOL; a call takes one or makes one, and works on it alone. */
#include "weir.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/json.h"
#include "base/traceparent.h"
#include "client/http_client.h"
#include "client/spawn.h"
#include "inference/tensor.h"

#define POOL 16
#define REPLY_MAX (1ull << 30)
#define HEADER_TEXT_MAX 256
#define FEEDBACK_MAX (1u << 20)
#define FEEDBACK_US (30 * UINT64_C(1000000))
#define SPAWN_US (60 * UINT64_C(1000000))

/* The public names are the internal ones, number by number. */
#define X(name, http, grpc, retry, text) _Static_assert((int)WEIR_##name == (int)ERR_##name, "weir.h and err.h agree");
ERR_MAP(X)
#undef X
#define X(name, size) _Static_assert((int)WEIR_##name == (int)DTYPE_##name, "weir.h and tensor.h agree");
DTYPE_MAP(X)
#undef X
_Static_assert(sizeof(struct weir_error) == sizeof(struct err), "weir.h and err.h agree");
_Static_assert(offsetof(struct weir_error, text) == offsetof(struct err, text), "weir.h and err.h agree");

struct weir {
    char *url;
    struct spawn *spawn; /* NULL: somebody else's server */
    pthread_mutex_t lock;
    struct http_client *idle[POOL]; /* under lock */
    int n_idle;
};

struct weir_result {
    struct weir_tensor *out;
    size_t n;
    char *data;   /* all outputs' elements, each at a multiple of TENSOR_ALIGN */
    void *doc;    /* the JSON, which holds the names */
    int64_t *dim; /* all shapes */
    struct weir_string *strings;
    char request_id[HEADER_TEXT_MAX + 1], version[32], arm[64];
};

static enum weir_code give(struct weir_error *to, const struct err *from)
{
    if (to) {
        memcpy(to, from, sizeof *to);
    }
    return (enum weir_code)from->code;
}

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

static enum err_code open_place(struct weir *w, const char *where, struct err *e)
{
    if (!where) {
        return err_set(e, ERR_INVALID, "no place given");
    }
    if (starts(where, "spawn:")) {
        enum err_code rc = spawn_open(&w->spawn, where + 6, SPAWN_US, e);
        if (rc == ERR_OK) {
            w->url = xstrdup(spawn_url(w->spawn));
        }
        return rc;
    }
    if (starts(where, "inproc:") || starts(where, "weir://") || starts(where, "https://")) {
        return err_set(e, ERR_UNIMPLEMENTED, "'%s': this kind of place is not part of this library yet", where);
    }
    enum err_code rc = http_client_new(&w->idle[0], str_of(where), e);
    if (rc == ERR_OK) {
        w->n_idle = 1;
        w->url = xstrdup(where);
    }
    return rc;
}

enum weir_code weir_open(struct weir **out, const char *where, struct weir_error *e)
{
    struct err err = {0};
    struct weir *w = xcalloc(1, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    if (open_place(w, where, &err) != ERR_OK) {
        weir_close(w);
        return give(e, &err);
    }
    *out = w;
    return WEIR_OK;
}

void weir_close(struct weir *w)
{
    if (!w) {
        return;
    }
    for (int i = 0; i < w->n_idle; i++) {
        http_client_free(w->idle[i]);
    }
    spawn_close(w->spawn);
    pthread_mutex_destroy(&w->lock);
    free(w->url);
    free(w);
}

static enum err_code connection_take(struct weir *w, struct http_client **c, struct err *e)
{
    pthread_mutex_lock(&w->lock);
    *c = w->n_idle > 0 ? w->idle[--w->n_idle] : NULL;
    pthread_mutex_unlock(&w->lock);
    return *c ? ERR_OK : http_client_new(c, str_of(w->url), e);
}

static void connection_give(struct weir *w, struct http_client *c)
{
    pthread_mutex_lock(&w->lock);
    if (w->n_idle < POOL) {
        w->idle[w->n_idle++] = c;
        c = NULL;
    }
    pthread_mutex_unlock(&w->lock);
    http_client_free(c);
}

/* ---- the request ---- */

struct request {
    struct buf path, headers, json, texts; /* texts: the encoded BYTES of all inputs */
    struct iovec *v;                       /* v[0] is the JSON */
    int n;
};

static void request_done(struct request *q)
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

static void add_model(struct buf *out, const char *model)
{
    BUF_LIT(out, "/v2/models/");
    for (const unsigned char *p = (const unsigned char *)model; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                     strchr("-._~", *p) != NULL;
        if (plain) {
            buf_addc(out, (char)*p);
        } else {
            buf_addf(out, "%%%02X", *p);
        }
    }
}

static void add_path(struct buf *out, const char *model, uint64_t version)
{
    add_model(out, model);
    if (version) {
        buf_addf(out, "/versions/%" PRIu64, version);
    }
    BUF_LIT(out, "/infer");
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
static enum err_code add_input(struct request *q, const struct weir_tensor *t, size_t at, uint64_t *bytes,
                               struct err *e)
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

static enum err_code add_inputs(struct request *q, const struct weir_tensor *in, size_t n, struct err *e)
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

static enum err_code request_make(struct request *q, const char *model, const struct weir_tensor *in, size_t n,
                                  const struct weir_call *call, struct err *e)
{
    buf_init(&q->path, 64u << 10);
    buf_init(&q->headers, 64u << 10);
    buf_init(&q->json, 16u << 20);
    buf_init(&q->texts, REPLY_MAX);
    q->v = NULL;
    if (!model || !*model) {
        return err_set(e, ERR_INVALID, "no model named");
    }
    add_path(&q->path, model, call->version);
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
    return ERR_OK;
}

/* ---- the reply ---- */

static enum err_code bad_reply(struct err *e, const char *why)
{
    return err_set(e, ERR_INTERNAL, "the server's reply can not be understood: %s", why);
}

static enum err_code server_error(const struct http_answer *a, struct err *e)
{
    enum err_code code = a->status >= 400 ? err_from_http(a->status) : ERR_INTERNAL;
    yyjson_doc *doc = yyjson_read(a->body.p ? a->body.p : "", a->body.n, 0);
    const char *text = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "error"));
    if (text) {
        err_set(e, code, "%s", text);
    } else {
        err_set(e, code, "the server answered %d without a reason", a->status);
    }
    yyjson_doc_free(doc);
    return code;
}

/* Fills one output's description from its JSON; where[0] is its length in the binary part. */
static enum err_code read_output(struct weir_tensor *t, yyjson_val *o, int64_t *dim, uint64_t *size, struct err *e)
{
    yyjson_val *shape = yyjson_obj_get(o, "shape"), *v;
    yyjson_val *bytes = yyjson_obj_get(yyjson_obj_get(o, "parameters"), "binary_data_size");
    const char *dtype = yyjson_get_str(yyjson_obj_get(o, "datatype"));
    uint64_t n, want;
    size_t i, max;
    t->name = yyjson_get_str(yyjson_obj_get(o, "name"));
    t->dtype = (enum weir_dtype)dtype_parse(str_of(dtype));
    if (!t->name || (enum dtype)t->dtype == DTYPE_NONE) {
        return bad_reply(e, "an output has no name or no known datatype");
    }
    if (!yyjson_is_arr(shape) || yyjson_arr_size(shape) > TENSOR_RANK_MAX) {
        return bad_reply(e, "an output's shape is missing or has too many dimensions");
    }
    if (!yyjson_is_uint(bytes)) {
        return err_set(e, ERR_UNIMPLEMENTED,
                       "output '%s' came as JSON, not as binary data: the server has no binary "
                       "tensor extension",
                       t->name);
    }
    t->shape = dim;
    t->rank = (uint32_t)yyjson_arr_size(shape);
    yyjson_arr_foreach(shape, i, max, v)
    {
        dim[i] = yyjson_is_uint(v) ? yyjson_get_sint(v) : -1;
    }
    *size = yyjson_get_uint(bytes);
    if (!tensor_elements(dim, t->rank, &n)) {
        return bad_reply(e, "an output's shape is negative or too large");
    }
    if (t->dtype != WEIR_BYTES && (!ck_mul(n, dtype_size((enum dtype)t->dtype), &want) || want != *size)) {
        return bad_reply(e, "an output's length does not fit its shape");
    }
    return ERR_OK;
}

/* Decodes the texts of an output whose data was copied already. */
static enum err_code read_texts(struct weir_tensor *t, struct weir_string *s, uint64_t n, struct err *e)
{
    const uint8_t *p = t->data;
    if (!bytes_check(p, t->bytes, n)) {
        return bad_reply(e, "an output's texts do not fit its length");
    }
    t->strings = s;
    for (uint64_t i = 0; i < n; i++) {
        s[i].n = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
        s[i].p = p + 4;
        p += 4 + s[i].n;
    }
    return ERR_OK;
}

/* Lays the outputs' bytes out, each aligned; `tail` is the binary part of the body. */
static enum err_code place_outputs(struct weir_result *r, const uint64_t *sizes, struct str tail, struct err *e)
{
    uint64_t room = 0, texts = 0, sum = 0, n;
    for (size_t i = 0; i < r->n; i++) {
        if (!ck_add(sum, sizes[i], &sum) || sum > tail.n) {
            return bad_reply(e, "the outputs are longer than the body");
        }
        room += ALIGN_UP(sizes[i], TENSOR_ALIGN);
        if (r->out[i].dtype == WEIR_BYTES && tensor_elements(r->out[i].shape, r->out[i].rank, &n)) {
            if (n > sizes[i] / 4) {
                return bad_reply(e, "an output's texts do not fit its length");
            }
            texts += n;
        }
    }
    if (sum != tail.n) {
        return bad_reply(e, "the outputs are shorter than the body");
    }
    r->strings = calloc(texts + 1, sizeof *r->strings);
    r->data = aligned_alloc(TENSOR_ALIGN, ALIGN_UP(room + 1, TENSOR_ALIGN));
    if (!r->strings || !r->data) {
        return err_set(e, ERR_TOO_LARGE, "no memory for %" PRIu64 " bytes of outputs", room);
    }
    char *to = r->data;
    const char *from = tail.p;
    struct weir_string *s = r->strings;
    for (size_t i = 0; i < r->n; i++) {
        struct weir_tensor *t = &r->out[i];
        if (sizes[i] > 0) {
            memcpy(to, from, sizes[i]);
        }
        t->data = to;
        t->bytes = sizes[i];
        to += ALIGN_UP(sizes[i], TENSOR_ALIGN);
        from += sizes[i];
        if (t->dtype == WEIR_BYTES && tensor_elements(t->shape, t->rank, &n)) {
            enum err_code rc = read_texts(t, s, n, e);
            if (rc != ERR_OK) {
                return rc;
            }
            s += n;
        }
    }
    return ERR_OK;
}

static enum err_code read_outputs(struct weir_result *r, struct str json, struct str tail, struct err *e)
{
    r->doc = yyjson_read(json.p ? json.p : "", json.n, 0);
    yyjson_val *outs = yyjson_obj_get(yyjson_doc_get_root(r->doc), "outputs"), *o;
    if (!yyjson_is_arr(outs) || yyjson_arr_size(outs) > TENSORS_MAX) {
        return bad_reply(e, "no outputs, or too many");
    }
    r->n = yyjson_arr_size(outs);
    r->out = xcalloc(r->n + 1, sizeof *r->out);
    r->dim = xcalloc(r->n + 1, TENSOR_RANK_MAX * sizeof *r->dim);
    uint64_t *sizes = xcalloc(r->n + 1, sizeof *sizes);
    size_t i, max;
    enum err_code rc = ERR_OK;
    yyjson_arr_foreach(outs, i, max, o)
    {
        rc = rc == ERR_OK ? read_output(&r->out[i], o, r->dim + i * TENSOR_RANK_MAX, &sizes[i], e) : rc;
    }
    rc = rc == ERR_OK ? place_outputs(r, sizes, tail, e) : rc;
    free(sizes);
    return rc;
}

static enum err_code result_make(struct weir_result *r, const struct http_answer *a, struct err *e)
{
    struct str length = http_answer_header(a, "inference-header-content-length");
    uint64_t head = a->body.n;
    if (a->status != 200) {
        return server_error(a, e);
    }
    if (length.p && (!str_u64(length, &head) || head > a->body.n)) {
        return bad_reply(e, "its Inference-Header-Content-Length is wrong");
    }
    enum err_code rc = read_outputs(r, (struct str){a->body.p, head},
                                    (struct str){a->body.p ? a->body.p + head : NULL, a->body.n - head}, e);
    if (rc != ERR_OK) {
        return rc;
    }
    yyjson_val *root = yyjson_doc_get_root(r->doc);
    struct str id = http_answer_header(a, "x-request-id"), version = http_answer_header(a, "x-weir-version");
    id = id.p ? id : str_of(yyjson_get_str(yyjson_obj_get(root, "id")));
    version = version.p ? version : str_of(yyjson_get_str(yyjson_obj_get(root, "model_version")));
    str_copy(r->request_id, sizeof r->request_id, id);
    str_copy(r->version, sizeof r->version, version);
    str_copy(r->arm, sizeof r->arm, http_answer_header(a, "x-weir-arm"));
    return ERR_OK;
}

/* ---- public ---- */

static enum err_code infer(struct weir *w, const char *model, const struct weir_tensor *in, size_t n,
                           const struct weir_call *call, struct weir_result *r, struct err *e)
{
    struct request q;
    struct http_client *c = NULL;
    struct http_answer a;
    http_answer_init(&a, REPLY_MAX);
    enum err_code rc = request_make(&q, model, in, n, call, e);
    if (rc == ERR_OK) {
        rc = connection_take(w, &c, e);
    }
    if (rc == ERR_OK) {
        rc = http_call(c, "POST", buf_z(&q.path), buf_str(&q.headers), q.v, q.n, call->timeout_us, &a, e);
        connection_give(w, c);
    }
    if (rc == ERR_OK) {
        rc = result_make(r, &a, e);
    }
    http_answer_done(&a);
    request_done(&q);
    return rc;
}

enum weir_code weir_infer(struct weir *w, const char *model, const struct weir_tensor *inputs, size_t n_inputs,
                          const struct weir_call *call, struct weir_result **out, struct weir_error *e)
{
    struct err err = {0};
    struct weir_call own = WEIR_CALL_INIT;
    if (call) {
        if (call->size < sizeof own.size || call->size > 4096) {
            err_set(&err, ERR_INVALID, "the call's size is %zu: begin with WEIR_CALL_INIT", call->size);
            return give(e, &err);
        }
        memcpy(&own, call, MIN(call->size, sizeof own));
    }
    struct weir_result *r = xcalloc(1, sizeof *r);
    if (infer(w, model, inputs, n_inputs, &own, r, &err) != ERR_OK) {
        weir_result_free(r);
        return give(e, &err);
    }
    *out = r;
    return WEIR_OK;
}

static enum err_code feedback_json(struct buf *b, const char *id, const struct weir_feedback *f, struct err *e)
{
    if (!id || !*id) {
        return err_set(e, ERR_INVALID, "no request id: weir_result_request_id tells that of an answer");
    }
    if (f->correct < -1 || f->correct > 1 || isinf(f->reward)) {
        return err_set(e, ERR_INVALID, "correct is 1, 0, or -1 for not said, and a reward is finite");
    }
    BUF_LIT(b, "{\"id\":");
    json_strz(b, id);
    if (f->label) {
        BUF_LIT(b, ",\"label\":");
        json_strz(b, f->label);
    }
    if (f->correct >= 0) {
        buf_addf(b, ",\"correct\":%s", f->correct ? "true" : "false");
    }
    if (!isnan(f->reward)) {
        BUF_LIT(b, ",\"reward\":");
        json_f64(b, f->reward);
    }
    buf_addz(b, f->supersede ? ",\"supersede\":true}" : "}");
    return b->over ? err_set(e, ERR_TOO_LARGE, "the feedback is too large") : ERR_OK;
}

static enum err_code post_feedback(struct weir *w, const char *model, const struct buf *json, struct err *e)
{
    struct http_client *c = NULL;
    struct http_answer a;
    struct buf path;
    struct iovec body = {json->p, json->n};
    buf_init(&path, 8u << 10);
    http_answer_init(&a, FEEDBACK_MAX);
    add_model(&path, model);
    BUF_LIT(&path, "/feedback");
    enum err_code rc =
        path.over ? err_set(e, ERR_TOO_LARGE, "the model's name is too long") : connection_take(w, &c, e);
    if (rc == ERR_OK) {
        rc =
            http_call(c, "POST", buf_z(&path), STR("Content-Type: application/json\r\n"), &body, 1, FEEDBACK_US, &a, e);
        connection_give(w, c);
    }
    if (rc == ERR_OK && a.status != 200) {
        rc = server_error(&a, e);
    }
    http_answer_done(&a);
    buf_done(&path);
    return rc;
}

enum weir_code weir_feedback(struct weir *w, const char *model, const char *request_id, const struct weir_feedback *f,
                             struct weir_error *e)
{
    struct err err = {0};
    struct weir_feedback own = WEIR_FEEDBACK_INIT;
    if (!model || !*model || !f || f->size < sizeof own.size || f->size > 4096) {
        err_set(&err, ERR_INVALID, "feedback wants a model, and begins with WEIR_FEEDBACK_INIT");
        return give(e, &err);
    }
    memcpy(&own, f, MIN(f->size, sizeof own));
    struct buf json;
    buf_init(&json, FEEDBACK_MAX);
    enum err_code rc = feedback_json(&json, request_id, &own, &err);
    rc = rc == ERR_OK ? post_feedback(w, model, &json, &err) : rc;
    buf_done(&json);
    return rc == ERR_OK ? WEIR_OK : give(e, &err);
}

size_t weir_result_count(const struct weir_result *r)
{
    return r->n;
}

const struct weir_tensor *weir_result_output(const struct weir_result *r, size_t i)
{
    return i < r->n ? &r->out[i] : NULL;
}

const struct weir_tensor *weir_result_find(const struct weir_result *r, const char *name)
{
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->out[i].name, name) == 0) {
            return &r->out[i];
        }
    }
    return NULL;
}

const char *weir_result_request_id(const struct weir_result *r)
{
    return r->request_id;
}

const char *weir_result_version(const struct weir_result *r)
{
    return r->version;
}

const char *weir_result_arm(const struct weir_result *r)
{
    return r->arm;
}

void weir_result_free(struct weir_result *r)
{
    if (!r) {
        return;
    }
    yyjson_doc_free(r->doc);
    free(r->out);
    free(r->dim);
    free(r->strings);
    free(r->data);
    free(r);
}
