/* SPDX-License-Identifier: Apache-2.0 */
/* An answer on its way in: each output is copied once, to a place aligned for its elements. The server is not trusted:
 * sizes, shapes and lengths are checked before they are used. */
#include <inttypes.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/json.h"
#include "client/weir_priv.h"
#include "inference/tensor.h"

static enum err_code bad_reply(struct err *e, const char *why)
{
    return err_set(e, ERR_INTERNAL, "the server's reply can not be understood: %s", why);
}

enum err_code server_error(const struct http_answer *a, struct err *e)
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

enum err_code result_make(struct weir_result *r, const struct http_answer *a, struct err *e)
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
