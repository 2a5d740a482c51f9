/* SPDX-License-Identifier: Apache-2.0 */
/* A job's result into a reply's body, and the metadata documents.
 *
 * The tensors may lie in memory that a faulty worker still writes to. Numbers are harmless: each is read once and
 * printed. Anything with a structure (BYTES, whose lengths steer the reading) is copied first, checked in the copy and
 * written from it, so that what was checked is what is sent.
 *
 * JSON has no NaN and no infinities: they are written as null. Strings that are no UTF-8 get U+FFFD in place of what is
 * wrong. A client that needs every bit asks for binary data.
 *
 * Thread: any, one at a time a reply. */
#include <stdlib.h>

#include "api/classify.h"
#include "api/oip.h"

/* One output on its way into the reply. */
struct reply_tensor {
    const struct tensor_info *info;
    struct tensor t;     /* a copy */
    const uint8_t *data; /* of numbers: the result's memory; of BYTES: in copies */
    uint64_t elements;
    bool binary;
};

struct writing {
    struct buf *out;
    const struct oip_request *r;
    const struct oip_reply *reply;
    const struct job_result *res;
    struct buf copies; /* one BYTES tensor after the other; heap, only if there are any */
    struct buf scratch;
    struct err *e;
};

static enum err_code broken(const struct writing *w, const struct tensor_info *info, const char *what)
{
    return err_set(w->e, ERR_MODEL, "the model's output '%s' %s", info->name, what);
}

/* Finds the output that the model gave at this port, and checks its description. */
static enum err_code result_find(const struct writing *w, uint16_t port, struct reply_tensor *o)
{
    const struct tensor_info *info = &w->reply->info->out[port];
    uint32_t i = 0;
    *o = (struct reply_tensor){.info = info};
    for (; i < w->res->n_out; i++) {
        memcpy(&o->t, &w->res->out[i], sizeof(o->t));
        if (o->t.port == port) {
            break;
        }
    }
    if (i == w->res->n_out) {
        return broken(w, info, "is missing in its result");
    }
    if (o->t.dtype != info->dtype) {
        return err_set(w->e, ERR_MODEL, "the model's output '%s' is %s, declared as %s", info->name,
                       dtype_name(o->t.dtype), dtype_name(info->dtype));
    }
    if (!tensor_elements(o->t.dim, o->t.rank, &o->elements)) {
        return broken(w, info, "has an impossible shape");
    }
    if (o->t.off > w->res->size || o->t.len > w->res->size - o->t.off) {
        return broken(w, info, "lies outside of its result");
    }
    uint32_t size = dtype_size(o->t.dtype);
    if (size && o->t.len != o->elements * size) {
        return broken(w, info, "has another length than its shape");
    }
    o->data = w->res->base ? w->res->base + o->t.off : NULL;
    return ERR_OK;
}

/* Where a copy is; NULL while nothing but empty ones was made. */
static const uint8_t *copy_at(const struct writing *w, uint64_t off)
{
    return w->copies.p ? (const uint8_t *)w->copies.p + off : NULL;
}

/* Copies BYTES out of reach and checks the copy. The ceiling of copies is the reply's. */
static enum err_code bytes_copy(struct writing *w, struct reply_tensor *o)
{
    size_t at = w->copies.n;
    buf_add(&w->copies, o->data, o->t.len);
    if (!w->copies.over && !bytes_check(copy_at(w, at), o->t.len, o->elements)) {
        return broken(w, o->info, "has a length that leads out of it");
    }
    o->t.off = at;
    return ERR_OK;
}

/* Replaces the tensor by its classes. */
static enum err_code classes_make(struct writing *w, const struct oip_output *asked, struct reply_tensor *o)
{
    uint64_t rows = 0, at = w->copies.n;
    if (o->t.rank == 0 || o->t.dtype == DTYPE_BYTES) {
        return broken(w, o->info, "has no dimension to classify along");
    }
    unsigned last = o->t.rank - 1u;
    uint64_t width = (uint64_t)o->t.dim[last], n = MIN((uint64_t)asked->classes, width);
    if (!tensor_elements(o->t.dim, last, &rows)) {
        return broken(w, o->info, "has an impossible shape");
    }
    classify(&w->copies, &w->scratch, (enum dtype)o->t.dtype, o->data, rows, width, n, w->reply->labels,
             w->reply->n_labels);
    o->t.dim[last] = (int64_t)n;
    o->t.dtype = DTYPE_BYTES;
    o->t.off = at;
    o->t.len = w->copies.n - at;
    o->elements = rows * n;
    return ERR_OK;
}

static enum err_code output_make(struct writing *w, uint32_t i, struct reply_tensor *o)
{
    const struct oip_output *asked = w->r->n_out ? &w->r->out[i] : NULL;
    enum err_code code = result_find(w, asked ? asked->port : (uint16_t)i, o);
    if (code) {
        return code;
    }
    o->binary = asked && asked->binary >= 0 ? asked->binary : w->r->binary_output || w->r->raw;
    if (asked && asked->classes) {
        return classes_make(w, asked, o);
    }
    return o->t.dtype == DTYPE_BYTES ? bytes_copy(w, o) : ERR_OK;
}

/* ---- elements as JSON ---- */

static void bytes_json(struct buf *out, const uint8_t *p, uint64_t elements)
{
    for (uint64_t i = 0; i < elements && !out->over; i++) {
        uint32_t n;
        memcpy(&n, p, sizeof(n));
        if (i) {
            buf_addc(out, ',');
        }
        json_str(out, (struct str){(const char *)p + 4, n});
        p += 4 + (size_t)n;
    }
}

static inline void element_json(struct buf *out, enum dtype t, const uint8_t *p)
{
    uint64_t raw = 0;
    memcpy(&raw, p, dtype_size(t));
    /* From here on the value is in a register: the memory is not looked at again. */
    __asm__ volatile("" : "+r"(raw));
    float f;
    double d;
    switch (t) {
    case DTYPE_BOOL:
        buf_addz(out, raw ? "true" : "false");
        break;
    case DTYPE_INT8:
        buf_addi(out, (int8_t)raw);
        break;
    case DTYPE_INT16:
        buf_addi(out, (int16_t)raw);
        break;
    case DTYPE_INT32:
        buf_addi(out, (int32_t)raw);
        break;
    case DTYPE_INT64:
        buf_addi(out, (int64_t)raw);
        break;
    case DTYPE_FP16:
        json_f32(out, fp16_to_f32((uint16_t)raw));
        break;
    case DTYPE_BF16:
        json_f32(out, bf16_to_f32((uint16_t)raw));
        break;
    case DTYPE_FP32:
        memcpy(&f, &raw, sizeof(f));
        json_f32(out, f);
        break;
    case DTYPE_FP64:
        memcpy(&d, &raw, sizeof(d));
        json_f64(out, d);
        break;
    default:
        buf_addu(out, raw);
    }
}

void oip_numbers_json(struct buf *out, enum dtype t, const uint8_t *p, uint64_t elements)
{
    uint32_t size = dtype_size(t);
    for (uint64_t i = 0; i < elements && !out->over; i++) {
        if (i) {
            buf_addc(out, ',');
        }
        element_json(out, t, p + i * size);
    }
}

static void data_json(struct buf *out, const struct writing *w, const struct reply_tensor *o)
{
    enum dtype t = (enum dtype)o->t.dtype;
    json_key(out, "data");
    buf_addc(out, '[');
    if (t == DTYPE_BYTES) {
        bytes_json(out, copy_at(w, o->t.off), o->elements);
    } else {
        oip_numbers_json(out, t, o->data, o->elements);
    }
    buf_addc(out, ']');
}

static void shape_json(struct buf *out, const int64_t *dim, unsigned rank)
{
    json_key(out, "shape");
    buf_addc(out, '[');
    for (unsigned i = 0; i < rank; i++) {
        json_comma(out);
        buf_addi(out, dim[i]);
    }
    buf_addc(out, ']');
}

static void head_json(struct buf *out, const char *name, enum dtype t, const int64_t *dim, unsigned rank)
{
    json_comma(out);
    buf_addc(out, '{');
    json_key(out, "name");
    json_strz(out, name);
    json_key(out, "datatype");
    json_strz(out, dtype_name(t));
    shape_json(out, dim, rank);
}

static void output_json(struct writing *w, const struct reply_tensor *o)
{
    struct buf *out = w->out;
    head_json(out, o->info->name, (enum dtype)o->t.dtype, o->t.dim, o->t.rank);
    if (o->binary) {
        json_key(out, "parameters");
        BUF_LIT(out, "{\"binary_data_size\":");
        buf_addu(out, o->t.len);
        buf_addc(out, '}');
    } else {
        data_json(out, w, o);
    }
    buf_addc(out, '}');
}

/* ---- the reply ---- */

static enum err_code reply_write(struct writing *w, struct reply_tensor *outputs, uint32_t n, size_t *json_end)
{
    struct buf *out = w->out;
    bool binary = false;
    BUF_LIT(out, "{\"model_name\":");
    json_str(out, w->reply->model);
    BUF_LIT(out, ",\"model_version\":\"");
    buf_addi(out, w->reply->version);
    buf_addc(out, '"');
    if (w->reply->id.n) {
        BUF_LIT(out, ",\"id\":");
        json_str(out, w->reply->id);
    }
    BUF_LIT(out, ",\"outputs\":[");
    for (uint32_t i = 0; i < n; i++) {
        enum err_code code = output_make(w, i, &outputs[i]);
        if (code) {
            return code;
        }
        if (!w->copies.over) {
            output_json(w, &outputs[i]);
        }
        binary = binary || outputs[i].binary;
    }
    BUF_LIT(out, "]}");
    *json_end = binary ? out->n : 0;
    for (uint32_t i = 0; i < n && !w->copies.over; i++) {
        const struct reply_tensor *o = &outputs[i];
        if (o->binary) {
            buf_add(out, o->t.dtype == DTYPE_BYTES ? copy_at(w, o->t.off) : o->data, o->t.len);
        }
    }
    if (out->lack || w->copies.lack || w->scratch.lack) {
        return err_set(w->e, ERR_UNAVAILABLE, "no memory for the reply");
    }
    if (out->over || w->copies.over || w->scratch.over) {
        return err_set(w->e, ERR_REFUSED,
                       "the reply is larger than %zu bytes; ask for fewer outputs or for binary data", out->max);
    }
    return ERR_OK;
}

enum err_code oip_write(struct buf *out, const struct oip_request *r, const struct oip_reply *reply,
                        const struct job_result *res, uint64_t *json_bytes, struct err *e)
{
    struct writing w = {.out = out, .r = r, .reply = reply, .res = res, .e = e};
    struct reply_tensor few[8];
    uint32_t n = r->n_out ? r->n_out : reply->info->n_out;
    struct reply_tensor *outputs = n <= COUNT_OF(few) ? few : malloc(n * sizeof(*outputs));
    if (!outputs) {
        return err_set(e, ERR_UNAVAILABLE, "no memory for the reply");
    }
    size_t start = out->n, json_end = 0;
    buf_init(&w.copies, out->max);
    buf_init(&w.scratch, out->max);
    enum err_code code = reply_write(&w, outputs, n, &json_end);
    if (code) {
        out->n = start;
    } else {
        *json_bytes = json_end ? json_end - start : 0;
    }
    buf_done(&w.copies);
    buf_done(&w.scratch);
    if (outputs != few) {
        free(outputs);
    }
    return code;
}

/* ---- metadata ---- */

void oip_server_metadata(struct buf *out, const char *version)
{
    BUF_LIT(out, "{\"name\":\"weir\",\"version\":");
    json_strz(out, version);
    BUF_LIT(out, ",\"extensions\":[\"binary_tensor_data\",\"classification\",\"parameters\"]}");
}

static void infos_json(struct buf *out, const char *key, const struct tensor_info *t, uint32_t n)
{
    json_key(out, key);
    buf_addc(out, '[');
    for (uint32_t i = 0; i < n; i++) {
        head_json(out, t[i].name, (enum dtype)t[i].dtype, t[i].dim, t[i].rank);
        buf_addc(out, '}');
    }
    buf_addc(out, ']');
}

void oip_model_metadata(struct buf *out, struct str model, const int64_t *versions, size_t n,
                        const struct model_info *info)
{
    BUF_LIT(out, "{\"name\":");
    json_str(out, model);
    json_key(out, "versions");
    buf_addc(out, '[');
    for (size_t i = 0; i < n; i++) {
        json_comma(out);
        buf_addc(out, '"');
        buf_addi(out, versions[i]);
        buf_addc(out, '"');
    }
    buf_addc(out, ']');
    json_key(out, "platform");
    json_strz(out, info->platform);
    infos_json(out, "inputs", info->in, info->n_in);
    infos_json(out, "outputs", info->out, info->n_out);
    buf_addc(out, '}');
}
