/* SPDX-License-Identifier: Apache-2.0 */
/* A checked request into its block: the header, the tensors' descriptions, and JSON data scanned straight into place.
 *
 * The block's tensors stand in the order of the model's inputs, whatever order the request has, so that two requests
 * with the same content are the same bytes and a batch joins tensor by tensor.
 *
 * `data` is flat or nested, row-major. Nested arrays are walked with a counter a level and no recursion; the numbers of
 * the innermost arrays (or of the one flat array) go through one loop a dtype, and only when it stops is it asked why.
 *
 * Thread: any, one at a time a request. The block is the caller's until the job is submitted. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "api/oip.h"

enum { CLIP = 48 };

/* Why the scan stopped: at a value that is none or does not fit (which of them is found out by looking at it), between
 * values, or by their number. */
enum trouble { TROUBLE_VALUE, TROUBLE_COMMA, TROUBLE_FEW, TROUBLE_MANY };

struct fill {
    const struct oip_input *in;
    const char *p, *end; /* what is left of the data's text */
    uint8_t *to;         /* where the next element goes */
    uint8_t *limit;
    uint32_t size; /* of an element */
    uint64_t done; /* elements in place */
};

static inline const char *blank_skip(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) {
        p++;
    }
    return p;
}

/* ---- one element each; they return the byte behind it, or NULL if it is none or does not fit ---- */

static inline const char *take_fp32(struct fill *f, const char *p)
{
    double d;
    const char *next = json_scan_f64(p, f->end, &d);
    if (!next) {
        return NULL;
    }
    float v = (float)d;
    if (!(fabsf(v) <= FLT_MAX)) {
        return NULL;
    }
    memcpy(f->to, &v, sizeof(v));
    f->to += sizeof(v);
    return next;
}

/* Most of a large tensor at once: as many of n as are easy, all of them with a comma behind. */
static inline uint64_t ease_fp32(struct fill *f, const char **p, uint64_t n)
{
    size_t got = json_scan_f32s(p, f->end, (float *)(void *)f->to, n);

    f->to += got * sizeof(float);
    return got;
}

static inline const char *take_fp64(struct fill *f, const char *p)
{
    double d;
    const char *next = json_scan_f64(p, f->end, &d);
    if (!next || !(fabs(d) <= DBL_MAX)) {
        return NULL;
    }
    memcpy(f->to, &d, sizeof(d));
    f->to += sizeof(d);
    return next;
}

/* The float next to d whose last bit is set unless d is exact: rounding it once more then gives what rounding d would.
 */
static float to_odd(double d)
{
    float v = (float)d;
    if ((double)v != d) {
        uint32_t u;
        memcpy(&u, &v, sizeof(u));
        if (!(u & 1)) {
            u = fabs((double)v) < fabs(d) ? u + 1 : u - 1;
        }
        memcpy(&v, &u, sizeof(v));
    }
    return v;
}

static inline const char *take_half(struct fill *f, const char *p)
{
    double d;
    const char *next = json_scan_f64(p, f->end, &d);
    if (!next || !(fabs(d) <= FLT_MAX)) {
        return NULL;
    }
    bool bf16 = f->in->dtype == DTYPE_BF16;
    uint16_t h = bf16 ? bf16_from_f32(to_odd(d)) : fp16_from_f32(to_odd(d));
    if ((h & 0x7fff) >= (bf16 ? 0x7f80 : 0x7c00)) {
        return NULL;
    }
    memcpy(f->to, &h, sizeof(h));
    f->to += sizeof(h);
    return next;
}

/* The largest magnitudes: above zero, below zero. */
static const struct {
    uint64_t above, below;
} ranges[DTYPE_COUNT_] = {
    [DTYPE_UINT8] = {UINT8_MAX, 0},          [DTYPE_UINT16] = {UINT16_MAX, 0},
    [DTYPE_UINT32] = {UINT32_MAX, 0},        [DTYPE_UINT64] = {UINT64_MAX, 0},
    [DTYPE_INT8] = {INT8_MAX, 1ull << 7},    [DTYPE_INT16] = {INT16_MAX, 1ull << 15},
    [DTYPE_INT32] = {INT32_MAX, 1ull << 31}, [DTYPE_INT64] = {INT64_MAX, 1ull << 63},
};

static inline const char *take_int(struct fill *f, const char *p)
{
    uint64_t magnitude;
    bool negative = false;
    const char *next = json_scan_int(p, f->end, &magnitude, &negative);
    if (!next || magnitude > (negative ? ranges[f->in->dtype].below : ranges[f->in->dtype].above)) {
        return NULL;
    }
    uint64_t v = negative ? 0 - magnitude : magnitude;
    /* Little-endian: the low bytes are the value. */
    switch (f->size) {
    case 1:
        *f->to = (uint8_t)v;
        break;
    case 2:
        memcpy(f->to, &v, 2);
        break;
    case 4:
        memcpy(f->to, &v, 4);
        break;
    default:
        memcpy(f->to, &v, 8);
    }
    f->to += f->size;
    return next;
}

static inline const char *take_bool(struct fill *f, const char *p)
{
    size_t left = (size_t)(f->end - p);
    size_t n = 0;
    uint8_t v = 0;
    if (left >= 4 && memcmp(p, "true", 4) == 0) {
        n = 4;
        v = 1;
    } else if (left >= 5 && memcmp(p, "false", 5) == 0) {
        n = 5;
    } else {
        uint64_t magnitude;
        bool negative = false;
        const char *next = json_scan_int(p, f->end, &magnitude, &negative);
        if (!next || negative || magnitude > 1) {
            return NULL;
        }
        n = (size_t)(next - p);
        v = (uint8_t)magnitude;
    }
    *f->to++ = v;
    return p + n;
}

static inline const char *take_bytes(struct fill *f, const char *p)
{
    struct json_reader j;
    if (p == f->end || *p != '"') {
        return NULL;
    }
    json_reader_init(&j, (struct str){p, (size_t)(f->end - p)});
    if (json_next(&j) != JSON_STRING) {
        return NULL;
    }
    if (j.text.n > UINT32_MAX) {
        return NULL;
    }
    /* oip_check counted four bytes and the text for each string. */
    assert((uint64_t)(f->limit - f->to) >= 4 + j.text.n);
    uint32_t n = (uint32_t)j.text.n;
    if (j.escaped) {
        n = (uint32_t)json_unescape((char *)f->to + 4, j.text);
    } else {
        memcpy(f->to + 4, j.text.p, n);
    }
    memcpy(f->to, &n, sizeof(n));
    f->to += 4 + (size_t)n;
    return p + json_offset(&j);
}

/* ---- one array of elements ---- */

/* Where the scan stands and why it stopped. */
struct stop {
    enum trouble why;
    uint64_t got; /* elements of this array that were taken */
    uint64_t need;
    bool array; /* another array was needed there, not an element */
};

#define EASE_AGAIN 32 /* elements after one that was not easy */

/* n elements and the closing bracket; f->p stands behind the opening one. On trouble f->p stays at what caused it. */
static inline __attribute__((always_inline)) bool run_with(struct fill *f, uint64_t n,
                                                           const char *(*take)(struct fill *f, const char *p),
                                                           uint64_t (*ease)(struct fill *f, const char **p, uint64_t n),
                                                           struct stop *stop)
{
    const char *end = f->end;
    const char *p = blank_skip(f->p, end);
    uint64_t i = 0, ease_at = 0;
    *stop = (struct stop){.why = TROUBLE_VALUE, .need = n};
    if (p < end && *p == ']' && n > 0) {
        stop->why = TROUBLE_FEW;
        goto stopped;
    }
    while (i < n) {
        if (ease && i >= ease_at && i + 1 < n) {
            i += ease(f, &p, n - 1 - i);
            ease_at = i + EASE_AGAIN;
            p = blank_skip(p, end);
        }
        const char *next = take(f, p);
        if (!next) {
            goto stopped;
        }
        p = blank_skip(next, end);
        if (++i < n) {
            if (p == end || *p != ',') {
                stop->why = p < end && *p == ']' ? TROUBLE_FEW : TROUBLE_COMMA;
                goto stopped;
            }
            p = blank_skip(p + 1, end);
        }
    }
    if (p < end && *p == ']') {
        f->p = p + 1;
        f->done += n;
        return true;
    }
    stop->why = p < end && (*p == ',' || n == 0) ? TROUBLE_MANY : TROUBLE_COMMA;
stopped:
    f->p = p;
    f->done += i;
    stop->got = i;
    return false;
}

static bool run(struct fill *f, uint64_t n, struct stop *stop)
{
    switch (f->in->dtype) {
    case DTYPE_FP32:
        return run_with(f, n, take_fp32, ease_fp32, stop);
    case DTYPE_FP64:
        return run_with(f, n, take_fp64, NULL, stop);
    case DTYPE_FP16:
    case DTYPE_BF16:
        return run_with(f, n, take_half, NULL, stop);
    case DTYPE_BOOL:
        return run_with(f, n, take_bool, NULL, stop);
    case DTYPE_BYTES:
        return run_with(f, n, take_bytes, NULL, stop);
    default:
        return run_with(f, n, take_int, NULL, stop);
    }
}

/* ---- what went wrong ---- */

static void dtype_takes(char *out, size_t cap, enum dtype t)
{
    switch (t) {
    case DTYPE_BOOL:
        snprintf(out, cap, "BOOL takes true, false, 0 or 1");
        break;
    case DTYPE_BYTES:
        snprintf(out, cap, "BYTES takes strings");
        break;
    case DTYPE_FP64:
        snprintf(out, cap, "FP64 takes numbers up to 1.7976931348623157e308");
        break;
    case DTYPE_FP32:
        snprintf(out, cap, "FP32 takes numbers up to 3.4028235e38");
        break;
    case DTYPE_BF16:
        snprintf(out, cap, "BF16 takes numbers up to 3.3895314e38");
        break;
    case DTYPE_FP16:
        snprintf(out, cap, "FP16 takes numbers up to 65504");
        break;
    default:
        snprintf(out, cap, "%s takes whole numbers from %s%llu to %llu", dtype_name(t), ranges[t].below ? "-" : "",
                 (unsigned long long)ranges[t].below, (unsigned long long)ranges[t].above);
    }
}

/* What stands at p, for a person; false if it is no JSON value. */
static bool value_text(char *out, size_t cap, const char *p, const char *end)
{
    size_t n = 0;
    double d;
    while (p + n < end && n < CLIP && !strchr(",] \t\r\n", p[n])) {
        n++;
    }
    struct str word = {p, n};
    if (p < end && *p == '[') {
        snprintf(out, cap, "an array");
        return true;
    }
    if (p < end && *p == '"') {
        struct json_reader j;
        json_reader_init(&j, (struct str){p, (size_t)(end - p)});
        bool ok = json_next(&j) == JSON_STRING;
        snprintf(out, cap, "%s", ok ? "a string" : j.problem);
        return ok;
    }
    bool ok = str_is(word, "true") || str_is(word, "false") || str_is(word, "null") || json_scan_f64(p, end, &d);
    if (n == 0) {
        snprintf(out, cap, "a value is missing");
    } else {
        snprintf(out, cap, ok ? STR_FMT : "'" STR_FMT "'", STR_ARG(word));
    }
    return ok;
}

/* "data[1][0]": which array the scan was in. */
static void path_text(char *out, size_t cap, const uint64_t *count, unsigned level)
{
    size_t n = (size_t)snprintf(out, cap, "data");
    for (unsigned i = 0; i < level && n < cap; i++) {
        n += (size_t)snprintf(out + n, cap - n, "[%llu]", (unsigned long long)(count[i] - 1));
    }
}

static enum err_code explain(const struct fill *f, const struct stop *stop, const uint64_t *count, unsigned level,
                             struct err *e)
{
    const struct oip_input *in = f->in;
    char path[200], shape[256], value[96], takes[96];
    path_text(path, sizeof(path), count, level);
    shape_text(shape, sizeof(shape), in->dim, in->rank);
    if (stop->why == TROUBLE_FEW) {
        return err_set(e, ERR_INVALID, "input '" STR_FMT "': %s has %llu elements, shape %s needs %llu",
                       STR_ARG(in->name), path, (unsigned long long)stop->got, shape, (unsigned long long)stop->need);
    }
    if (stop->why == TROUBLE_MANY) {
        return err_set(e, ERR_INVALID, "input '" STR_FMT "': %s has more than %llu elements, shape %s needs %llu",
                       STR_ARG(in->name), path, (unsigned long long)stop->need, shape, (unsigned long long)stop->need);
    }
    bool json = value_text(value, sizeof(value), f->p, f->end);
    unsigned long long element = f->done;
    if (json && stop->why == TROUBLE_VALUE) {
        if (stop->array) {
            return err_set(e, ERR_INVALID, "input '" STR_FMT "': %s[%llu] is %s, shape %s needs an array there",
                           STR_ARG(in->name), path, (unsigned long long)stop->got, value, shape);
        }
        dtype_takes(takes, sizeof(takes), in->dtype);
        return err_set(e, ERR_INVALID, "input '" STR_FMT "': element %llu is %s; %s", STR_ARG(in->name), element, value,
                       takes);
    }
    return err_set(e, ERR_INVALID, "input '" STR_FMT "': data is not JSON at element %llu: %s", STR_ARG(in->name),
                   element, stop->why == TROUBLE_COMMA ? "a comma or ] is expected" : value);
}

/* ---- nested arrays ---- */

/* What comes next between the brackets of a level above the last: another array or the end. False: *stop says why. */
static bool bracket_take(struct fill *f, uint64_t *count, unsigned *level, bool *closed, struct stop *stop)
{
    uint64_t need = (uint64_t)f->in->dim[*level];
    const char *p = blank_skip(f->p, f->end);
    *stop = (struct stop){.why = TROUBLE_VALUE, .got = count[*level], .need = need};
    *closed = p < f->end && *p == ']';
    f->p = p;
    if (*closed) {
        stop->why = TROUBLE_FEW;
        f->p += count[*level] == need;
        return count[*level] == need;
    }
    if (count[*level] > 0) {
        if (p == f->end || *p != ',') {
            stop->why = TROUBLE_COMMA;
            return false;
        }
        f->p = p = blank_skip(p + 1, f->end);
    }
    if (count[*level] == need) {
        stop->why = TROUBLE_MANY;
        return false;
    }
    if (p == f->end || *p != '[') {
        stop->array = true;
        return false;
    }
    f->p++;
    count[*level]++;
    *level += 1;
    count[*level] = 0;
    return true;
}

static enum err_code nested_fill(struct fill *f, struct err *e)
{
    uint64_t count[TENSOR_RANK_MAX] = {0};
    unsigned level = 0, last = f->in->rank - 1u;
    struct stop stop;
    for (;;) {
        bool closed = true;
        bool ok =
            level == last ? run(f, (uint64_t)f->in->dim[last], &stop) : bracket_take(f, count, &level, &closed, &stop);
        if (!ok) {
            return explain(f, &stop, count, level, e);
        }
        if (closed && level-- == 0) {
            return ERR_OK;
        }
    }
}

/* The JSON data of one input; *bytes: how many it came to. */
static enum err_code data_fill(const struct oip_input *in, uint8_t *to, uint64_t *bytes, struct err *e)
{
    struct fill f = {.in = in, .p = in->data.p + 1, .end = in->data.p + in->data.n, .to = to};
    f.limit = to + in->bytes;
    f.size = dtype_size(in->dtype);
    const char *first = blank_skip(f.p, f.end);
    struct stop stop;
    enum err_code code = ERR_OK;
    if (in->rank > 1 && first < f.end && *first == '[') {
        code = nested_fill(&f, e);
    } else if (!run(&f, in->elements, &stop)) {
        code = explain(&f, &stop, NULL, 0, e);
    }
    if (code) {
        return code;
    }
    assert(f.p == f.end && f.to <= f.limit); /* the bracket that ends data was found by matching all of them */
    *bytes = (uint64_t)(f.to - to);
    return ERR_OK;
}

/* ---- the block ---- */

enum err_code oip_fill(const struct oip_request *r, const struct model_info *info, struct job_block *block,
                       uint64_t off, struct err *e)
{
    assert(off % TENSOR_ALIGN == 0 && r->n_in == info->n_in);
    uint8_t *base = (uint8_t *)block;
    uint32_t n_want = r->n_out ? r->n_out : info->n_out;
    uint64_t at = ALIGN_UP(job_block_bytes(r->n_in, n_want), TENSOR_ALIGN);
    *block = (struct job_block){.n_in = r->n_in, .n_out = n_want, .rows = r->rows};
    for (uint32_t i = 0; i < r->n_in; i++) {
        const struct oip_input *in = &r->in[i];
        struct tensor *t = &block->in[in->port];
        *t = (struct tensor){.port = in->port, .dtype = (uint8_t)in->dtype, .rank = in->rank, .len = in->bytes};
        memcpy(t->dim, in->dim, in->rank * sizeof(in->dim[0]));
    }
    for (uint32_t i = 0; i < r->n_in; i++) {
        block->in[i].off = off + at;
        at += ALIGN_UP(block->in[i].len, TENSOR_ALIGN);
    }
    assert(at == r->block_bytes);
    for (uint32_t i = 0; i < n_want; i++) {
        job_block_want(block)[i] = r->n_out ? r->out[i].port : (uint16_t)i;
    }
    for (uint32_t i = 0; i < r->n_in; i++) {
        const struct oip_input *in = &r->in[i];
        struct tensor *t = &block->in[in->port];
        uint8_t *to = base + (t->off - off);
        if (!in->is_binary) {
            enum err_code code = data_fill(in, to, &t->len, e);
            if (code) {
                return code;
            }
        } else if (r->raw && in->dtype == DTYPE_BYTES) {
            uint32_t n = (uint32_t)in->binary;
            memcpy(to, &n, sizeof(n));
        }
    }
    return ERR_OK;
}

size_t oip_binary(const struct oip_request *r, struct job_block *block, uint64_t off, struct iovec *to, size_t cap)
{
    size_t n = 0;
    for (uint32_t i = 0; i < r->n_in && n < cap; i++) {
        const struct oip_input *in = &r->in[i];
        if (in->is_binary && in->binary > 0) {
            uint8_t *at = (uint8_t *)block + (block->in[in->port].off - off);
            at += r->raw && in->dtype == DTYPE_BYTES ? 4 : 0;
            to[n++] = (struct iovec){at, (size_t)in->binary};
        }
    }
    return n;
}

enum err_code oip_binary_check(const struct oip_request *r, const struct job_block *block, uint64_t off, struct err *e)
{
    for (uint32_t i = 0; i < r->n_in; i++) {
        const struct oip_input *in = &r->in[i];
        const uint8_t *p = (const uint8_t *)block + (block->in[in->port].off - off);
        if (!in->is_binary) {
            continue;
        }
        if (in->dtype == DTYPE_BYTES && !bytes_check(p, in->bytes, in->elements)) {
            return err_set(e, ERR_INVALID,
                           "input '" STR_FMT "': its %llu bytes are not %llu elements, each with its length "
                           "before it",
                           STR_ARG(in->name), (unsigned long long)in->bytes, (unsigned long long)in->elements);
        }
        for (uint64_t k = 0; in->dtype == DTYPE_BOOL && k < in->bytes; k++) {
            if (p[k] > 1) {
                return err_set(e, ERR_INVALID, "input '" STR_FMT "': element %llu is byte %u; BOOL takes 0 or 1",
                               STR_ARG(in->name), (unsigned long long)k, p[k]);
            }
        }
    }
    return ERR_OK;
}
