/* SPDX-License-Identifier: Apache-2.0 */
/* A request against what a version takes and gives: names, dtypes, shapes, sizes.
 *
 * After this the request is known to fit: every input of the model is there once, each tensor's bytes are known, and
 * nothing has been allocated in proportion to a shape yet. An array in JSON spends at least two characters on an
 * element, so a big shape that promises more elements than its text can hold is refused here, before it costs memory.
 *
 * Thread: any, one at a time a request. */
#include <stdio.h>

#include "api/oip.h"

/* Up to so many bytes a shape may promise too much: oip_fill then says exactly what is missing where. */
enum { SMALL = 64 * 1024 };

/* "'a', 'b', 'c'", cut with an ellipsis where it gets long. */
static void names_list(char *out, size_t cap, const struct tensor_info *t, uint32_t n)
{
    size_t at = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < n; i++) {
        size_t need = strlen(t[i].name) + 4;
        if (at + need + sizeof(", ...") > cap) {
            snprintf(out + at, cap - at, "%s...", i ? ", " : "");
            return;
        }
        at += (size_t)snprintf(out + at, cap - at, "%s'%s'", i ? ", " : "", t[i].name);
    }
}

/* Most clients send the tensors in the model's order, so the same place is looked at first. */
static bool port_find(const struct tensor_info *t, uint32_t n, struct str name, uint32_t guess, uint16_t *port)
{
    if (guess < n && str_is(name, t[guess].name)) {
        *port = (uint16_t)guess;
        return true;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (str_is(name, t[i].name)) {
            *port = (uint16_t)i;
            return true;
        }
    }
    return false;
}

static enum err_code unknown(const char *what, struct str name, const struct tensor_info *t, uint32_t n, struct err *e)
{
    char known[200];
    names_list(known, sizeof(known), t, n);
    return err_set(e, ERR_INVALID, "the model has no %s '" STR_FMT "'; it has %s", what, STR_ARG(name),
                   n ? known : "none");
}

/* Gives the raw request's tensor its name, dtype and a shape that takes exactly these bytes. */
static enum err_code raw_shape(struct oip_input *in, const struct model_info *info, struct err *e)
{
    if (info->n_in != 1) {
        return err_set(e, ERR_INVALID, "a request without JSON needs a model with one input; this one has %u",
                       info->n_in);
    }
    const struct tensor_info *t = &info->in[0];
    uint32_t size = dtype_size(t->dtype);
    char shape[256];
    int variable = -1;
    uint64_t row = size ? size : 1;
    shape_text(shape, sizeof(shape), t->dim, t->rank);
    in->name = str_of(t->name);
    in->dtype = (enum dtype)t->dtype;
    in->rank = t->rank;
    for (unsigned i = 0; i < t->rank; i++) {
        in->dim[i] = t->dim[i] < 0 ? 1 : t->dim[i];
        if (t->dim[i] < 0 && size) {
            /* Two variable dimensions say too little, unless the first is the batch's: that is one row then. */
            if (variable > 0 || (variable == 0 && !info->joins)) {
                return err_set(e, ERR_INVALID,
                               "a request without JSON can not tell the shape of input '%s', %s: more than one "
                               "dimension is variable",
                               t->name, shape);
            }
            variable = (int)i;
        } else if (!ck_mul(row, (uint64_t)in->dim[i], &row)) {
            row = UINT64_MAX;
        }
    }
    if (variable >= 0 && row > 0 && in->binary % row == 0 && in->binary / row <= (uint64_t)TENSOR_DIM_MAX) {
        in->dim[variable] = (int64_t)(in->binary / row);
        row = in->binary;
    }
    if (!tensor_elements(in->dim, in->rank, &in->elements)) {
        return err_set(e, ERR_INVALID, "input '%s': shape %s has too many elements", t->name, shape);
    }
    if (size == 0 && (in->elements != 1 || in->binary > UINT32_MAX)) {
        return err_set(e, ERR_INVALID,
                       in->elements != 1 ? "a request without JSON holds one element; input '%s' has shape %s"
                                         : "input '%s' %s: one element has at most 4294967295 bytes",
                       t->name, shape);
    }
    if (size && row != in->binary) {
        return err_set(e, ERR_INVALID, "%llu bytes do not fill input '%s' of dtype %s and shape %s",
                       (unsigned long long)in->binary, t->name, dtype_name(in->dtype), shape);
    }
    return ERR_OK;
}

/* "input 'x': TEXT shape [1,2] TEXT" */
PRINTF(4, 5)
static enum err_code misfit(const struct oip_input *in, const char *before, struct err *e, const char *fmt, ...)
{
    char shape[256], after[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(after, sizeof(after), fmt, ap);
    va_end(ap);
    shape_text(shape, sizeof(shape), in->dim, in->rank);
    return err_set(e, ERR_INVALID, "input '" STR_FMT "': %s shape %s%s", STR_ARG(in->name), before, shape, after);
}

/* How many bytes the tensor takes in the block, checked against what came. */
static enum err_code bytes_find(struct oip_input *in, bool raw, struct err *e)
{
    uint32_t size = dtype_size(in->dtype);
    uint64_t need = in->elements * (size ? size : 4); /* below 2^48 * 8 */
    char before[80];
    if (in->is_binary && raw) {
        in->bytes = size ? need : 4 + in->binary;
    } else if (in->is_binary) {
        if (size ? in->binary != need : in->binary < need || (need == 0 && in->binary > 0)) {
            snprintf(before, sizeof(before), "binary_data_size is %llu, but", (unsigned long long)in->binary);
            return misfit(in, before, e, " of %s needs %s%llu", dtype_name(in->dtype),
                          size || need == 0 ? "" : "at least ", (unsigned long long)need);
        }
        in->bytes = in->binary;
    } else {
        if (in->elements > in->data.n / 2 && need > SMALL) {
            snprintf(before, sizeof(before), "data is too short for the %llu elements of",
                     (unsigned long long)in->elements);
            return misfit(in, before, e, "%s", "");
        }
        /* A string loses its two quotes and gains four bytes of length; decoding makes none longer. */
        in->bytes = size ? need : in->elements ? in->data.n + in->elements * 2 : 0;
    }
    return ERR_OK;
}

static enum err_code input_check(struct oip_input *in, uint32_t at, const struct model_info *info, struct err *e)
{
    if (!port_find(info->in, info->n_in, in->name, at, &in->port)) {
        return unknown("input", in->name, info->in, info->n_in, e);
    }
    const struct tensor_info *t = &info->in[in->port];
    if (in->dtype != (enum dtype)t->dtype) {
        return err_set(e, ERR_INVALID, "input '%s' is %s, the model takes %s", t->name, dtype_name(in->dtype),
                       dtype_name(t->dtype));
    }
    if (!tensor_fits(t, in->dim, in->rank)) {
        char is[256], wants[256];
        shape_text(is, sizeof(is), in->dim, in->rank);
        shape_text(wants, sizeof(wants), t->dim, t->rank);
        return err_set(e, ERR_INVALID, "input '%s' has shape %s, the model takes %s", t->name, is, wants);
    }
    return ERR_OK;
}

/* Names were unique and all are known: only when some are fewer than the model's is one missing. */
static enum err_code missing(const struct oip_request *r, const struct model_info *info, struct err *e)
{
    char names[300];
    size_t at = 0;
    for (uint32_t p = 0; p < info->n_in; p++) {
        bool there = false;
        for (uint32_t i = 0; i < r->n_in && !there; i++) {
            there = r->in[i].port == p;
        }
        const char *name = info->in[p].name;
        if (!there && at + strlen(name) + 8 < sizeof(names)) {
            at += (size_t)snprintf(names + at, sizeof(names) - at, "%s'%s'", at ? ", " : "", name);
        }
    }
    return err_set(e, ERR_INVALID, "the request has %u of the model's %u inputs; missing: %s", r->n_in, info->n_in,
                   names);
}

static enum err_code output_check(struct oip_output *out, uint32_t at, const struct model_info *info, struct err *e)
{
    if (!port_find(info->out, info->n_out, out->name, at, &out->port)) {
        return unknown("output", out->name, info->out, info->n_out, e);
    }
    const struct tensor_info *t = &info->out[out->port];
    if (out->classes && (t->dtype == DTYPE_BYTES || t->rank == 0)) {
        return err_set(e, ERR_INVALID,
                       "output '%s': classification needs numbers along a dimension, this is %s of rank %u", t->name,
                       dtype_name(t->dtype), t->rank);
    }
    return ERR_OK;
}

enum err_code oip_check(struct oip_request *r, struct arena *a, const struct model_info *info, struct err *e)
{
    (void)a;
    if (r->n_in > info->n_in && !r->raw) {
        for (uint32_t i = 0; i < r->n_in; i++) {
            if (!port_find(info->in, info->n_in, r->in[i].name, i, &r->in[i].port)) {
                return unknown("input", r->in[i].name, info->in, info->n_in, e);
            }
        }
    }
    uint32_t n_want = r->n_out ? r->n_out : info->n_out;
    uint64_t total = ALIGN_UP(job_block_bytes(info->n_in, n_want), TENSOR_ALIGN);
    uint64_t rows = 0;
    for (uint32_t i = 0; i < r->n_in; i++) {
        struct oip_input *in = &r->in[i];
        enum err_code code = r->raw ? raw_shape(in, info, e) : input_check(in, i, info, e);
        code = code ? code : bytes_find(in, r->raw, e);
        if (code) {
            return code;
        }
        if (in->bytes > UINT64_MAX / 2 || !ck_add(total, ALIGN_UP(in->bytes, TENSOR_ALIGN), &total)) {
            return err_set(e, ERR_TOO_LARGE, "input '" STR_FMT "' is too large", STR_ARG(in->name));
        }
        uint64_t first = in->rank ? (uint64_t)in->dim[0] : 0;
        rows = i == 0 || rows == first ? first : 0;
    }
    if (r->n_in < info->n_in) {
        return missing(r, info, e);
    }
    for (uint32_t i = 0; i < r->n_out; i++) {
        enum err_code code = output_check(&r->out[i], i, info, e);
        if (code) {
            return code;
        }
    }
    r->block_bytes = total;
    r->rows = rows;
    return ERR_OK;
}

enum err_code oip_read_raw(struct oip_request *r, struct arena *a, uint64_t bytes, struct err *e)
{
    struct oip_input *in = arena_zalloc(a, sizeof(*in));
    if (!in) {
        return err_set(e, ERR_TOO_LARGE, "the request describes more than a request may hold");
    }
    in->is_binary = true;
    in->binary = bytes;
    *r = (struct oip_request){.raw = true, .binary_output = true, .in = in, .n_in = 1, .binary_bytes = bytes};
    return ERR_OK;
}
