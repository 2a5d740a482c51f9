/* SPDX-License-Identifier: Apache-2.0 */
/* Requests out, replies in; see far.h. JSON is read by yyjson, which does not recurse; nested data arrays are walked to
 * the depth that a shape may have and no further. */
#include "backends/remote/far.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/json.h"

/* ---- requests ---- */

void far_path(struct buf *out, const struct far *far, const char *tail)
{
    buf_addf(out, "/v2/models/%s", far->model);
    if (far->version[0]) {
        buf_addf(out, "/versions/%s", far->version);
    }
    buf_addz(out, tail);
}

static void input_json(struct buf *b, const struct tensor *t, const struct tensor_info *info)
{
    json_comma(b);
    BUF_LIT(b, "{\"name\":");
    json_strz(b, info->name);
    buf_addf(b, ",\"datatype\":\"%s\",\"shape\":[", dtype_name((enum dtype)t->dtype));
    for (unsigned i = 0; i < t->rank; i++) {
        json_comma(b);
        buf_addi(b, t->dim[i]);
    }
    buf_addf(b, "],\"parameters\":{\"binary_data_size\":%" PRIu64 "}}", t->len);
}

static void head_json(struct buf *b, const struct model_info *info, const struct job_block *block, uint64_t left_us)
{
    const uint16_t *want = job_block_want(block);

    BUF_LIT(b, "{\"parameters\":{\"binary_data_output\":true");
    if (left_us > 0) {
        buf_addf(b, ",\"timeout\":%" PRIu64, left_us);
    }
    BUF_LIT(b, "},\"inputs\":[");
    for (uint32_t i = 0; i < block->n_in; i++) {
        input_json(b, &block->in[i], &info->in[block->in[i].port]);
    }
    BUF_LIT(b, "]");
    for (uint32_t i = 0; i < block->n_out; i++) {
        buf_addz(b, i ? "," : ",\"outputs\":[");
        BUF_LIT(b, "{\"name\":");
        json_strz(b, info->out[want[i]].name);
        BUF_LIT(b, ",\"parameters\":{\"binary_data\":true}}");
    }
    buf_addz(b, block->n_out ? "]}" : "}");
}

void far_origin(char out[FAR_ORIGIN], const struct job_origin *o)
{
    int n = 0;

    out[0] = '\0';
    if (o) {
        n = snprintf(out, FAR_ORIGIN, "X-Request-Id: " STR_FMT "\r\ntraceparent: %s\r\n", STR_ARG(o->id),
                     o->traceparent);
    }
    if (o && o->tracestate.n > 0) {
        n += snprintf(out + n, FAR_ORIGIN - (size_t)n, "tracestate: " STR_FMT "\r\n", STR_ARG(o->tracestate));
    }
    assert(n < FAR_ORIGIN); /* 128 + 55 + 512 characters, and the names */
}

/* Everything that a request says beside its tensors. */
static void head_lines(struct buf *b, const struct far *far, size_t json, uint64_t body, const char *origin,
                       uint64_t left_us)
{
    BUF_LIT(b, "POST ");
    far_path(b, far, "/infer");
    buf_addf(b,
             " HTTP/1.1\r\nHost: %s\r\nUser-Agent: weir/" WEIR_VERSION
             "\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %zu\r\n"
             "Content-Length: %" PRIu64 "\r\n",
             far->authority, json, body);
    if (left_us > 0) {
        buf_addf(b, "X-Weir-Timeout: %" PRIu64 "us\r\n", left_us);
    }
    buf_addz(b, origin);
    BUF_LIT(b, "\r\n");
}

size_t far_request(struct buf *head, struct iovec *iov, const struct far *far, const struct model_info *info,
                   const struct job_block *block, const uint8_t *window, const char *origin, uint64_t left_us)
{
    uint64_t body;
    size_t n = 1, json;
    struct buf text;

    buf_init(&text, head->max);
    head_json(&text, info, block, left_us);
    json = text.n;
    body = json;
    for (uint32_t i = 0; i < block->n_in; i++) {
        const struct tensor *t = &block->in[i];

        body += t->len;
        if (t->len > 0) {
            iov[n++] = (struct iovec){(void *)(uintptr_t)(window + t->off), t->len};
        }
    }
    buf_clear(head);
    head_lines(head, far, json, body, origin, left_us);
    buf_add(head, text.p, text.n);
    if (head->over || text.over) {
        n = 0;
    }
    buf_done(&text);
    iov[0] = (struct iovec){head->p, head->n};
    return n;
}

/* ---- replies ---- */

struct reading {
    const struct model_info *info;
    uint8_t *space;
    uint64_t size, used;
    const uint8_t *tail; /* binary data that is not taken yet */
    uint64_t n_tail;
    struct err *e;
};

static enum err_code bad(struct err *e, const char *fmt, ...) PRINTF(2, 3);
static enum err_code bad(struct err *e, const char *fmt, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_set(e, ERR_MODEL, "the far side's answer is none: %s", text);
}

/* Room in the output space, aligned. */
static uint8_t *take(struct reading *r, uint64_t bytes, uint64_t *off)
{
    uint64_t at = ALIGN_UP(r->used, TENSOR_ALIGN);

    if (at > r->size || bytes > r->size - at) {
        err_set(r->e, ERR_MODEL, "the far side's outputs are larger than output_bytes, %" PRIu64, r->size);
        return NULL;
    }
    r->used = at + bytes;
    *off = at;
    return r->space + at;
}

static bool read_shape(yyjson_val *v, int64_t *dim, unsigned *rank, bool variable)
{
    size_t i, max;
    yyjson_val *d;

    if (!yyjson_is_arr(v) || yyjson_arr_size(v) > TENSOR_RANK_MAX) {
        return false;
    }
    *rank = (unsigned)yyjson_arr_size(v);
    yyjson_arr_foreach(v, i, max, d)
    {
        if (!yyjson_is_int(d) || (yyjson_is_uint(d) && yyjson_get_uint(d) > TENSOR_DIM_MAX)) {
            return false;
        }
        dim[i] = yyjson_get_sint(d);
        if (dim[i] < (variable ? -1 : 0)) {
            return false;
        }
    }
    return true;
}

/* The index of the output of that name; n_out: there is none. */
static uint32_t port_of(const struct model_info *info, yyjson_val *name)
{
    struct str s = {yyjson_get_str(name), yyjson_get_len(name)};
    uint32_t i = 0;

    while (i < info->n_out && !(s.p && str_is(s, info->out[i].name))) {
        i++;
    }
    return i;
}

/* ---- data as JSON ---- */

struct filling {
    struct reading *r;
    enum dtype dtype;
    uint8_t *to;         /* numbers */
    struct buf *strings; /* BYTES */
    uint64_t left;       /* elements */
};

static bool put_int(const struct filling *f, yyjson_val *v)
{
    unsigned size = dtype_size(f->dtype), bits = size * 8;
    bool is_signed = f->dtype >= DTYPE_INT8 && f->dtype <= DTYPE_INT64;
    uint64_t u = yyjson_is_uint(v) ? yyjson_get_uint(v) : 0;
    int64_t s = yyjson_is_sint(v) ? yyjson_get_sint(v) : 0;

    if (f->dtype == DTYPE_BOOL) {
        u = yyjson_is_bool(v) ? yyjson_get_bool(v) : u;
        if (u > 1 || (!yyjson_is_bool(v) && !yyjson_is_uint(v))) {
            return false;
        }
    } else if (yyjson_is_uint(v)) {
        if (is_signed ? u >> (bits - 1) : bits < 64 && u >> bits) {
            return false;
        }
    } else if (yyjson_is_sint(v) && is_signed) {
        if (bits < 64 && s < -((int64_t)1 << (bits - 1))) {
            return false;
        }
        u = (uint64_t)s;
    } else {
        return false;
    }
    memcpy(f->to, &u, size); /* little-endian */
    return true;
}

static bool put_number(struct filling *f, yyjson_val *v)
{
    bool ok = true;

    if (f->dtype == DTYPE_FP32 || f->dtype == DTYPE_FP64) {
        double d = yyjson_is_null(v) ? NAN : yyjson_get_num(v); /* what JSON has no number for is written as null */
        float s = (float)d;

        ok = yyjson_is_num(v) || yyjson_is_null(v);
        memcpy(f->to, f->dtype == DTYPE_FP32 ? (void *)&s : (void *)&d, dtype_size(f->dtype));
    } else {
        ok = f->dtype != DTYPE_FP16 && f->dtype != DTYPE_BF16 && put_int(f, v);
    }
    f->to += dtype_size(f->dtype);
    return ok;
}

static bool put_string(struct filling *f, yyjson_val *v)
{
    uint32_t n = (uint32_t)yyjson_get_len(v);

    if (!yyjson_is_str(v) || yyjson_get_len(v) > UINT32_MAX) {
        return false;
    }
    buf_add(f->strings, &n, sizeof(n));
    buf_add(f->strings, yyjson_get_str(v), n);
    return true;
}

/* Flat, or nested as the shape is. */
static bool fill(struct filling *f, yyjson_val *list, unsigned depth)
{
    size_t i, max;
    yyjson_val *v;

    yyjson_arr_foreach(list, i, max, v)
    {
        if (yyjson_is_arr(v)) {
            if (depth == 0 || !fill(f, v, depth - 1)) {
                return false;
            }
            continue;
        }
        if (f->left == 0 || !(f->dtype == DTYPE_BYTES ? put_string(f, v) : put_number(f, v))) {
            return false;
        }
        f->left--;
    }
    return true;
}

static enum err_code read_json_data(struct reading *r, yyjson_val *data, struct tensor *t, uint64_t elements)
{
    const char *name = r->info->out[t->port].name;
    struct filling f = {.r = r, .dtype = (enum dtype)t->dtype, .left = elements};
    struct buf strings;
    enum err_code code = ERR_OK;

    buf_init(&strings, r->size);
    f.strings = &strings;
    if (t->dtype != DTYPE_BYTES) {
        if (!ck_mul(elements, dtype_size(f.dtype), &t->len)) {
            return bad(r->e, "output '%s' has an impossible shape", name);
        }
        f.to = take(r, t->len, &t->off);
        if (!f.to) {
            return r->e->code;
        }
    }
    if (!yyjson_is_arr(data) || !fill(&f, data, TENSOR_RANK_MAX) || f.left > 0) {
        code = bad(r->e, "the data of output '%s' are not %" PRIu64 " of %s", name, elements, dtype_name(f.dtype));
    } else if (t->dtype == DTYPE_BYTES) {
        uint8_t *to = strings.over ? NULL : take(r, strings.n, &t->off);

        t->len = strings.n;
        if (to && strings.n > 0) {
            memcpy(to, strings.p, strings.n);
        } else if (!to) {
            code = err_set(r->e, ERR_MODEL, "the far side's outputs are larger than output_bytes, %" PRIu64, r->size);
        }
    }
    buf_done(&strings);
    return code;
}

/* ---- one output ---- */

static enum err_code read_binary(struct reading *r, uint64_t size, struct tensor *t, uint64_t elements)
{
    const char *name = r->info->out[t->port].name;
    uint64_t want;
    uint8_t *to;

    if (size > r->n_tail) {
        return bad(r->e, "output '%s' has %" PRIu64 " bytes, and %" PRIu64 " came", name, size, r->n_tail);
    }
    if (t->dtype != DTYPE_BYTES && (!ck_mul(elements, dtype_size((enum dtype)t->dtype), &want) || want != size)) {
        return bad(r->e, "output '%s' has %" PRIu64 " bytes, which is not what its shape takes", name, size);
    }
    if (t->dtype == DTYPE_BYTES && !bytes_check(r->tail, size, elements)) {
        return bad(r->e, "output '%s' is not %" PRIu64 " strings", name, elements);
    }
    to = take(r, size, &t->off);
    if (!to) {
        return r->e->code;
    }
    t->len = size;
    if (size > 0) {
        memcpy(to, r->tail, size);
    }
    r->tail += size;
    r->n_tail -= size;
    return ERR_OK;
}

static enum err_code read_output(struct reading *r, yyjson_val *o, struct tensor *all)
{
    yyjson_val *dtype = yyjson_obj_get(o, "datatype"), *data = yyjson_obj_get(o, "data");
    yyjson_val *size = yyjson_obj_get(yyjson_obj_get(o, "parameters"), "binary_data_size");
    uint32_t port = port_of(r->info, yyjson_obj_get(o, "name"));
    struct tensor t = {.port = (uint16_t)port};
    uint64_t elements;
    unsigned rank = 0;

    if (port == r->info->n_out) {
        return bad(r->e, "it has an output that the model has not");
    }
    if (all[port].dtype != DTYPE_NONE) {
        return bad(r->e, "output '%s' is there twice", r->info->out[port].name);
    }
    t.dtype = r->info->out[port].dtype;
    if (dtype_parse((struct str){yyjson_get_str(dtype), yyjson_get_len(dtype)}) != t.dtype) {
        return bad(r->e, "output '%s' is not %s, as the model says", r->info->out[port].name,
                   dtype_name((enum dtype)t.dtype));
    }
    if (!read_shape(yyjson_obj_get(o, "shape"), t.dim, &rank, false) || !tensor_elements(t.dim, rank, &elements)) {
        return bad(r->e, "output '%s' has an impossible shape", r->info->out[port].name);
    }
    t.rank = (uint8_t)rank;
    if (size ? !yyjson_is_uint(size) : !data) {
        return bad(r->e, "output '%s' has no data", r->info->out[port].name);
    }
    if ((size ? read_binary(r, yyjson_get_uint(size), &t, elements) : read_json_data(r, data, &t, elements)) !=
        ERR_OK) {
        return r->e->code;
    }
    all[port] = t;
    return ERR_OK;
}

static enum err_code pick_wanted(struct reading *r, const struct job_block *block, const struct tensor *all,
                                 struct tensor *out, uint32_t *n_out)
{
    const uint16_t *want = job_block_want(block);
    uint32_t n = block->n_out ? block->n_out : r->info->n_out;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t port = block->n_out ? want[i] : i;

        if (all[port].dtype == DTYPE_NONE) {
            return bad(r->e, "output '%s' is missing", r->info->out[port].name);
        }
        out[i] = all[port];
    }
    *n_out = n;
    return ERR_OK;
}

/* Where the JSON ends: the header says it, or there is nothing else. */
static bool json_part(const struct http_answer *a, size_t *n)
{
    struct str h = http_answer_header(a, "inference-header-content-length");
    uint64_t said;

    *n = a->body.n;
    if (!h.p) {
        return true;
    }
    if (!str_u64(h, &said) || said > a->body.n) {
        return false;
    }
    *n = (size_t)said;
    return true;
}

enum err_code far_outputs(const struct http_answer *a, const struct model_info *info, const struct job_block *block,
                          uint8_t *space, uint64_t size, struct tensor *out, uint32_t *n_out, struct err *e)
{
    struct reading r = {.info = info, .space = space, .size = size, .e = e};
    struct tensor *all = NULL;
    yyjson_doc *doc = NULL;
    yyjson_val *list, *o;
    enum err_code code = ERR_OK;
    size_t json, i, max;

    if (!json_part(a, &json)) {
        return bad(e, "its header says a length of the JSON that can not be");
    }
    doc = yyjson_read(a->body.p ? a->body.p : "", json, 0);
    list = yyjson_obj_get(yyjson_doc_get_root(doc), "outputs");
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) > TENSORS_MAX) {
        yyjson_doc_free(doc);
        return bad(e, "it is no JSON object with \"outputs\"");
    }
    r.tail = (const uint8_t *)a->body.p + json;
    r.n_tail = a->body.n - json;
    all = xcalloc(MAX(info->n_out, 1u), sizeof(*all));
    yyjson_arr_foreach(list, i, max, o)
    {
        code = code == ERR_OK ? read_output(&r, o, all) : code;
    }
    if (code == ERR_OK && r.n_tail > 0) {
        code = bad(e, "%" PRIu64 " bytes are left behind its outputs", r.n_tail);
    }
    code = code == ERR_OK ? pick_wanted(&r, block, all, out, n_out) : code;
    free(all);
    yyjson_doc_free(doc);
    return code;
}

/* ---- errors ---- */

/* The reason that a reply gives, one printable line. */
static void reason(char *to, size_t cap, const struct http_answer *a)
{
    yyjson_doc *doc = a->body.n > 0 ? yyjson_read(a->body.p, a->body.n, 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc), *v = yyjson_obj_get(root, "error");
    struct str s = {yyjson_get_str(v), yyjson_get_len(v)};

    if (!s.p) {
        v = yyjson_obj_get(root, "detail");
        s = (struct str){yyjson_get_str(v), yyjson_get_len(v)};
    }
    if (!s.p) {
        s = (struct str){a->body.p, MIN(a->body.n, (size_t)120)};
    }
    s.n = MIN(s.n, cap - 1);
    for (size_t i = 0; i < s.n; i++) {
        to[i] = (unsigned char)s.p[i] < ' ' || s.p[i] == 0x7f ? ' ' : s.p[i];
    }
    to[s.n] = '\0';
    yyjson_doc_free(doc);
}

enum err_code far_error(const struct http_answer *a, const char *who, struct err *e)
{
    struct str said = http_answer_header(a, "x-weir-error");
    enum err_code code = err_from_http(a->status), named = ERR_OK;
    bool ours = said.p && err_from_name(said, &named) && named != ERR_OK;
    char text[360];

    reason(text, sizeof(text), a);
    code = ours ? named : code;
    if (!ours) {
        switch (code) {
        case ERR_INVALID:
        case ERR_TOO_LARGE:
        case ERR_REFUSED:
        case ERR_QUOTA:
        case ERR_UNAVAILABLE:
        case ERR_TIMEOUT:
            break;
        case ERR_INTERNAL:
            code = ERR_MODEL;
            break;
        default: /* a matter between it and us */
            code = ERR_UNAVAILABLE;
            break;
        }
    } else if (code == ERR_UNAUTHENTICATED || code == ERR_FORBIDDEN || code == ERR_NOT_FOUND || code == ERR_METHOD) {
        code = ERR_UNAVAILABLE;
    }
    return err_set(e, code, "%s answered %d%s%s", who, a->status, text[0] ? ": " : "", text);
}

unsigned far_retry_after(const struct http_answer *a)
{
    struct str h = http_answer_header(a, "retry-after");
    uint64_t n;

    return h.p && str_u64(h, &n) ? (unsigned)MIN(n, 3600u) : 0;
}

/* ---- metadata ---- */

static enum err_code read_info(yyjson_val *v, const char *what, struct tensor_info *to, struct err *e)
{
    yyjson_val *name = yyjson_obj_get(v, "name"), *dtype = yyjson_obj_get(v, "datatype");
    struct str s = {yyjson_get_str(name), yyjson_get_len(name)};
    unsigned rank = 0;

    if (!s.p || s.n == 0 || !str_copy(to->name, sizeof(to->name), s)) {
        return err_set(e, ERR_REFUSED, "the far side's model has an %s without a name, or with one over %d bytes", what,
                       TENSOR_NAME_MAX);
    }
    to->dtype = (uint8_t)dtype_parse((struct str){yyjson_get_str(dtype), yyjson_get_len(dtype)});
    if (to->dtype == DTYPE_NONE) {
        return err_set(e, ERR_REFUSED, "%s '%.100s' of the far side's model has no datatype that is known here", what,
                       to->name);
    }
    if (!read_shape(yyjson_obj_get(v, "shape"), to->dim, &rank, true)) {
        return err_set(e, ERR_REFUSED, "%s '%.100s' of the far side's model has no shape of at most %d dimensions",
                       what, to->name, TENSOR_RANK_MAX);
    }
    to->rank = (uint8_t)rank;
    return ERR_OK;
}

static enum err_code read_infos(yyjson_val *list, const char *what, struct tensor_info **to, uint32_t *n, struct err *e)
{
    size_t i, max;
    yyjson_val *v;

    if (!yyjson_is_arr(list) || yyjson_arr_size(list) > TENSORS_MAX || yyjson_arr_size(list) == 0) {
        return err_set(e, ERR_REFUSED, "the far side says no %ss of its model, or more than %d", what, TENSORS_MAX);
    }
    *to = xcalloc(yyjson_arr_size(list), sizeof(**to));
    yyjson_arr_foreach(list, i, max, v)
    {
        if (read_info(v, what, &(*to)[i], e) != ERR_OK) {
            return e->code;
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp((*to)[k].name, (*to)[i].name) == 0) {
                return err_set(e, ERR_REFUSED, "the far side's model has two %ss '%.100s'", what, (*to)[i].name);
            }
        }
        (*n)++;
    }
    return ERR_OK;
}

enum err_code far_metadata(struct model_info *out, struct str json, struct err *e)
{
    yyjson_doc *doc = json.n > 0 ? yyjson_read(json.p, json.n, 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc), *platform = yyjson_obj_get(root, "platform");
    struct model_info info = {0};
    enum err_code code;

    if (!yyjson_is_obj(root)) {
        code = err_set(e, ERR_REFUSED, "the far side's description of the model is no JSON object");
    } else {
        code = read_infos(yyjson_obj_get(root, "inputs"), "input", &info.in, &info.n_in, e);
    }
    if (code == ERR_OK) {
        code = read_infos(yyjson_obj_get(root, "outputs"), "output", &info.out, &info.n_out, e);
    }
    if (code == ERR_OK) {
        struct str s = {yyjson_get_str(platform), yyjson_get_len(platform)};

        str_copy(info.platform, sizeof(info.platform), s.p && s.n < sizeof(info.platform) ? s : STR("remote"));
        *out = info;
    } else {
        model_info_done(&info);
    }
    yyjson_doc_free(doc);
    return code;
}
