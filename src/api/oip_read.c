/* SPDX-License-Identifier: Apache-2.0 */
/* The structure of an inference request: what its JSON says about tensors, without looking at their data.
 *
 * The text is walked once. An array under "data" is leapt over (only its brackets and quotes are matched), because
 * oip_fill checks every character of it when it scans the numbers into place; checking it here too would double the
 * cost of a big request. What is found goes to a local request and is handed out at the end, so that a failure changes
 * nothing.
 *
 * Messages say where: inputs[2].shape[1]; as soon as a tensor's name is known, the name.
 *
 * Thread: any, one at a time a request. Memory: the request's arena; strings without escapes point into the text. */
#include <stdio.h>

#include "api/oip.h"
#include "base/hash.h"

enum { ID_MAX = 256, CLIP = 48 };
#define CLIP_ARG(s) (int)MIN((s).n, (size_t)CLIP), (s).p

enum scope { TOP = 1, IN = 2, OUT = 4 };

struct reading {
    struct oip_request r;
    struct json_reader j;
    struct arena *a;
    struct err *e;
    const char *list; /* "inputs", "outputs"; NULL at the top */
    uint32_t at;      /* which of the list */
};

/* "inputs[2].shape TEXT" */
PRINTF(3, 4) static enum err_code fail(const struct reading *c, const char *member, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (c->list) {
        return err_set(c->e, ERR_INVALID, "%s[%u]%s%s %s", c->list, c->at, *member ? "." : "", member, text);
    }
    return err_set(c->e, ERR_INVALID, "%s %s", member, text);
}

static enum err_code fail_memory(const struct reading *c)
{
    return err_set(c->e, ERR_TOO_LARGE, "the request describes more than a request may hold");
}

static enum err_code fail_json(const struct reading *c)
{
    return json_error(&c->j, c->e);
}

/* The next value of an array or the next key of an object, or its end: false at the end and at an error (c->j.kind). */
static bool item_next(struct reading *c, enum json_kind end)
{
    enum json_kind k = json_next(&c->j);
    return k != JSON_ERROR && k != end;
}

static enum err_code value_skip(struct reading *c)
{
    return json_skip(&c->j) ? ERR_OK : fail_json(c);
}

/* A string value, decoded; NULL to `limit` for none. */
static enum err_code value_string(struct reading *c, const char *member, size_t limit, struct str *out)
{
    if (c->j.kind != JSON_STRING) {
        return c->j.kind == JSON_ERROR ? fail_json(c) : fail(c, member, "must be a string");
    }
    struct str s = c->j.text;
    if (c->j.escaped) {
        /* Six characters are the longest escape of one byte: anything beyond that is too long however it decodes. */
        char *to = s.n > limit * 6 ? NULL : arena_alloc(c->a, s.n);
        if (!to && s.n <= limit * 6) {
            return fail_memory(c);
        }
        s = to ? (struct str){to, json_unescape(to, s)} : s;
    }
    if (s.n > limit) {
        return fail(c, member, "is longer than %zu bytes", limit);
    }
    *out = s;
    return ERR_OK;
}

/* True for a number token that is a whole number without sign and fits. */
static bool token_u64(const struct json_reader *j, uint64_t *out)
{
    bool negative = false;
    uint64_t v;
    const char *end = j->text.p + j->text.n;
    if (j->kind != JSON_NUMBER || json_scan_int(j->text.p, end, &v, &negative) != end || negative) {
        return false;
    }
    *out = v;
    return true;
}

/* ---- parameters ---- */

enum param_id {
    PARAM_OTHER,
    PARAM_SIZE,
    PARAM_SHARED,
    PARAM_BINARY,
    PARAM_CLASSES,
    PARAM_BINARY_ALL,
    PARAM_TIMEOUT,
    PARAM_PRIORITY,
    PARAM_SEQUENCE
};

static const struct param {
    const char *name;
    unsigned scopes;
    enum param_id id;
} params[] = {
    {"binary_data_size", IN, PARAM_SIZE},
    {"binary_data", OUT, PARAM_BINARY},
    {"classification", OUT, PARAM_CLASSES},
    {"binary_data_output", TOP, PARAM_BINARY_ALL},
    {"timeout", TOP, PARAM_TIMEOUT},
    {"priority", TOP, PARAM_PRIORITY},
    {"sequence_id", TOP, PARAM_SEQUENCE},
    {"sequence_start", TOP, PARAM_SEQUENCE},
    {"sequence_end", TOP, PARAM_SEQUENCE},
    {"shared_memory_region", IN | OUT, PARAM_SHARED},
    {"shared_memory_offset", IN | OUT, PARAM_SHARED},
    {"shared_memory_byte_size", IN | OUT, PARAM_SHARED},
};

static const char *const param_member[] = {
    [PARAM_SIZE] = "parameters.binary_data_size",  [PARAM_BINARY] = "parameters.binary_data",
    [PARAM_CLASSES] = "parameters.classification", [PARAM_BINARY_ALL] = "parameters.binary_data_output",
    [PARAM_TIMEOUT] = "parameters.timeout",        [PARAM_PRIORITY] = "parameters.priority",
};

static enum err_code param_bool(struct reading *c, enum param_id id, bool *out)
{
    if (c->j.kind != JSON_TRUE && c->j.kind != JSON_FALSE) {
        return fail(c, param_member[id], "must be true or false");
    }
    *out = c->j.kind == JSON_TRUE;
    return ERR_OK;
}

static enum err_code param_u64(struct reading *c, enum param_id id, uint64_t max, uint64_t *out)
{
    uint64_t v;
    bool ok = id == PARAM_TIMEOUT && c->j.kind == JSON_STRING ? str_u64(c->j.text, &v) : token_u64(&c->j, &v);
    if (!ok || v > max) {
        const char *what = id == PARAM_TIMEOUT ? "a whole number of microseconds" : "a whole number, 0 or more";
        return c->j.kind == JSON_NUMBER
                   ? fail(c, param_member[id], "must be %s, not " STR_FMT, what, CLIP_ARG(c->j.text))
                   : fail(c, param_member[id], "must be %s", what);
    }
    *out = v;
    return ERR_OK;
}

/* What the parameters of one scope say; copied to where they belong by the caller. */
struct param_values {
    bool has_size, binary_all, binary;
    int8_t output_binary;
    uint64_t size, classes, timeout, priority;
};

static enum err_code param_take(struct reading *c, const struct param *p, struct param_values *v)
{
    switch (p->id) {
    case PARAM_SIZE:
        v->has_size = true;
        return param_u64(c, p->id, UINT64_MAX, &v->size);
    case PARAM_CLASSES:
        return param_u64(c, p->id, UINT32_MAX, &v->classes);
    case PARAM_TIMEOUT:
        return param_u64(c, p->id, UINT64_MAX, &v->timeout);
    case PARAM_PRIORITY:
        return param_u64(c, p->id, UINT64_MAX, &v->priority);
    case PARAM_BINARY_ALL:
        return param_bool(c, p->id, &v->binary_all);
    case PARAM_BINARY: {
        bool b = false;
        enum err_code code = param_bool(c, p->id, &b);
        v->output_binary = b;
        return code;
    }
    case PARAM_SHARED:
        return err_set(c->e, ERR_UNIMPLEMENTED, "%s[%u].parameters.%s: shared memory is not served; send the data",
                       c->list, c->at, p->name);
    case PARAM_SEQUENCE:
        return err_set(c->e, ERR_UNIMPLEMENTED, "parameters.%s: sequences are not served", p->name);
    case PARAM_OTHER:
        break;
    }
    return ERR_OK;
}

static enum err_code params_read(struct reading *c, enum scope scope, struct param_values *v)
{
    *v = (struct param_values){.output_binary = -1};
    unsigned seen = 0;
    if (c->j.kind == JSON_NULL) {
        return ERR_OK;
    }
    if (c->j.kind != JSON_OBJECT) {
        return c->j.kind == JSON_ERROR ? fail_json(c) : fail(c, "parameters", "must be an object");
    }
    while (item_next(c, JSON_OBJECT_END)) {
        struct str key = c->j.text;
        const struct param *known = NULL;
        for (size_t i = 0; i < COUNT_OF(params) && !known; i++) {
            known = (params[i].scopes & scope) && json_text_is(&c->j, params[i].name) ? &params[i] : NULL;
        }
        enum json_kind k = json_next(&c->j);
        if (k == JSON_ERROR) {
            return fail_json(c);
        }
        if (k == JSON_OBJECT || k == JSON_ARRAY) {
            return fail(c, "parameters", "'" STR_FMT "' must be a string, a number or a boolean", CLIP_ARG(key));
        }
        if (!known || k == JSON_NULL) {
            continue;
        }
        unsigned bit = 1u << (known - params);
        if (seen & bit) {
            return fail(c, "parameters", "'%s' is given twice", known->name);
        }
        seen |= bit;
        enum err_code code = param_take(c, known, v);
        if (code) {
            return code;
        }
    }
    return c->j.kind == JSON_ERROR ? fail_json(c) : ERR_OK;
}

/* ---- a tensor's members ---- */

static enum err_code shape_read(struct reading *c, struct oip_input *in)
{
    if (c->j.kind != JSON_ARRAY) {
        return c->j.kind == JSON_ERROR ? fail_json(c) : fail(c, "shape", "must be an array of whole numbers");
    }
    char at[24];
    unsigned rank = 0;
    while (item_next(c, JSON_ARRAY_END)) {
        if (rank == TENSOR_RANK_MAX) {
            return fail(c, "shape", "has more than %d dimensions", TENSOR_RANK_MAX);
        }
        uint64_t v;
        if (!token_u64(&c->j, &v) || v > TENSOR_DIM_MAX) {
            snprintf(at, sizeof(at), "shape[%u]", rank);
            return c->j.kind == JSON_NUMBER ? fail(c, at, "must be a whole number from 0 to %lld, not " STR_FMT,
                                                   TENSOR_DIM_MAX, CLIP_ARG(c->j.text))
                                            : fail(c, at, "must be a whole number from 0 to %lld", TENSOR_DIM_MAX);
        }
        in->dim[rank++] = (int64_t)v;
    }
    in->rank = (uint8_t)rank;
    return c->j.kind == JSON_ERROR ? fail_json(c) : ERR_OK;
}

static enum err_code dtype_read(struct reading *c, struct oip_input *in)
{
    struct str s;
    enum err_code code = value_string(c, "datatype", CLIP, &s);
    if (code) {
        return code;
    }
    in->dtype = dtype_parse(s);
    if (in->dtype == DTYPE_NONE) {
        char known[160] = "";
        size_t n = 0;
        for (int t = DTYPE_NONE + 1; t < DTYPE_COUNT_; t++) {
            n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", dtype_name((enum dtype)t));
        }
        return fail(c, "datatype", "'" STR_FMT "' is unknown; there are %s", STR_ARG(s), known);
    }
    return ERR_OK;
}

/* The next of the bytes " [ ] { } at or behind p, or end. Blocks of 64 without any are passed at vector speed. */
static const char *mark_next(const char *p, const char *end)
{
    while (end - p >= 64) {
        uint8_t hit = 0;
        for (int i = 0; i < 64; i++) {
            uint8_t b = (uint8_t)p[i];
            hit |= (uint8_t)((b == '"') | ((b | 0x20) == '{') | ((b | 0x20) == '}'));
        }
        if (hit) {
            break;
        }
        p += 64;
    }
    while (p < end && *p != '"' && (*p | 0x20) != '{' && (*p | 0x20) != '}') {
        p++;
    }
    return p;
}

/* From behind a '[' to its ']'. *problem is set and NULL returned if there is none, or something that data can not
 * hold. */
static const char *array_leap(const char *p, const char *end, unsigned depth, const char **problem)
{
    unsigned level = depth;
    for (;; p++) {
        p = mark_next(p, end);
        if (p == end) {
            *problem = "does not end";
            return NULL;
        }
        switch (*p) {
        case '"':
            for (p++; p < end && *p != '"'; p++) {
                p += *p == '\\';
            }
            if (p >= end) {
                *problem = "has a string that does not end";
                return NULL;
            }
            break;
        case '[':
            if (++level > JSON_DEPTH_MAX) {
                *problem = "is nested too deep";
                return NULL;
            }
            break;
        case ']':
            if (level-- == depth) {
                return p;
            }
            break;
        default:
            *problem = "holds an object; it takes numbers, booleans, strings and arrays of them";
            return NULL;
        }
    }
}

static enum err_code data_read(struct reading *c, struct oip_input *in)
{
    if (c->j.kind != JSON_ARRAY) {
        return c->j.kind == JSON_ERROR ? fail_json(c) : fail(c, "data", "must be an array");
    }
    const char *problem = NULL;
    const char *start = c->j.p - 1, *close = array_leap(c->j.p, c->j.end, c->j.depth, &problem);
    if (!close) {
        return fail(c, "data", "%s", problem);
    }
    in->data = (struct str){start, (size_t)(close + 1 - start)};
    /* As far as the reader can tell, the array was empty. */
    c->j.p = close;
    return json_next(&c->j) == JSON_ARRAY_END ? ERR_OK : fail_json(c);
}

enum member {
    M_NAME = 1,
    M_DATATYPE = 2,
    M_SHAPE = 4,
    M_DATA = 8,
    M_PARAMETERS = 16,
    M_ID = 32,
    M_INPUTS = 64,
    M_OUTPUTS = 128
};
static const char *const member_name[] = {
    "name", "datatype", "shape", "data", "parameters", "id", "inputs", "outputs",
};

/* Which of the wanted members the key is (0: none of them), refusing a second one; the reader stands on its value then.
 */
static enum err_code member_take(struct reading *c, unsigned wanted, unsigned *seen, unsigned *which)
{
    *which = 0;
    for (unsigned i = 0; i < COUNT_OF(member_name); i++) {
        if ((wanted & 1u << i) && json_text_is(&c->j, member_name[i])) {
            *which = 1u << i;
            if (*seen & *which) {
                return fail(c, member_name[i], "is given twice");
            }
            *seen |= *which;
            break;
        }
    }
    return json_next(&c->j) == JSON_ERROR ? fail_json(c) : ERR_OK;
}

static enum err_code input_end(struct reading *c, struct oip_input *in, unsigned seen, const struct param_values *v)
{
    static const unsigned needed[] = {M_NAME, M_DATATYPE, M_SHAPE};
    for (unsigned i = 0; i < COUNT_OF(needed); i++) {
        if (!(seen & needed[i])) {
            return fail(c, "", "has no %s", member_name[i]);
        }
    }
    if (v->has_size && in->data.p) {
        return err_set(c->e, ERR_INVALID, "input '" STR_FMT "' has both data and parameters.binary_data_size",
                       STR_ARG(in->name));
    }
    if (!v->has_size && !in->data.p) {
        return err_set(c->e, ERR_INVALID, "input '" STR_FMT "' has neither data nor parameters.binary_data_size",
                       STR_ARG(in->name));
    }
    in->is_binary = v->has_size;
    in->binary = v->size;
    if (!tensor_elements(in->dim, in->rank, &in->elements)) {
        char shape[256];
        shape_text(shape, sizeof(shape), in->dim, in->rank);
        return err_set(c->e, ERR_INVALID, "input '" STR_FMT "': shape %s has too many elements", STR_ARG(in->name),
                       shape);
    }
    if (!ck_add(c->r.binary_bytes, in->binary, &c->r.binary_bytes)) {
        return err_set(c->e, ERR_INVALID, "the inputs' binary_data_size add up to more than 64 bits");
    }
    return ERR_OK;
}

static enum err_code input_read(struct reading *c, struct oip_input *in)
{
    struct param_values v = {.output_binary = -1};
    unsigned seen = 0, which;
    *in = (struct oip_input){0};
    while (item_next(c, JSON_OBJECT_END)) {
        enum err_code code = member_take(c, M_NAME | M_DATATYPE | M_SHAPE | M_DATA | M_PARAMETERS, &seen, &which);
        if (!code) {
            code = which == M_NAME         ? value_string(c, "name", TENSOR_NAME_MAX, &in->name)
                   : which == M_DATATYPE   ? dtype_read(c, in)
                   : which == M_SHAPE      ? shape_read(c, in)
                   : which == M_DATA       ? data_read(c, in)
                   : which == M_PARAMETERS ? params_read(c, IN, &v)
                                           : value_skip(c);
        }
        if (code) {
            return code;
        }
    }
    return c->j.kind == JSON_ERROR ? fail_json(c) : input_end(c, in, seen, &v);
}

static enum err_code output_read(struct reading *c, struct oip_output *out)
{
    struct param_values v = {.output_binary = -1};
    unsigned seen = 0, which;
    *out = (struct oip_output){0};
    while (item_next(c, JSON_OBJECT_END)) {
        enum err_code code = member_take(c, M_NAME | M_PARAMETERS, &seen, &which);
        if (!code) {
            code = which == M_NAME         ? value_string(c, "name", TENSOR_NAME_MAX, &out->name)
                   : which == M_PARAMETERS ? params_read(c, OUT, &v)
                                           : value_skip(c);
        }
        if (code) {
            return code;
        }
    }
    if (c->j.kind == JSON_ERROR) {
        return fail_json(c);
    }
    out->binary = v.output_binary;
    out->classes = (uint32_t)v.classes;
    return seen & M_NAME ? ERR_OK : fail(c, "", "has no name");
}

/* ---- lists and the top ---- */

/* A hash set of the names, in the arena: a thousand names are compared about once each, not with each other. */
static enum err_code names_unique(struct reading *c, const char *list, const struct str *first, size_t stride,
                                  uint32_t n)
{
    size_t slots = 4;
    while (slots < 2 * (size_t)n) {
        slots *= 2;
    }
    uint16_t *slot = n > 1 ? arena_zalloc(c->a, slots * sizeof(*slot)) : NULL;
    if (!slot) {
        return n > 1 ? fail_memory(c) : ERR_OK;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct str s = *(const struct str *)(const void *)((const char *)first + i * stride);
        size_t h = hash64(s.p, s.n) & (slots - 1);
        for (; slot[h]; h = (h + 1) & (slots - 1)) {
            uint32_t before = slot[h] - 1u;
            if (str_eq(s, *(const struct str *)(const void *)((const char *)first + before * stride))) {
                return err_set(c->e, ERR_INVALID, "%s[%u] and %s[%u] are both named '" STR_FMT "'", list, before, list,
                               i, STR_ARG(s));
            }
        }
        slot[h] = (uint16_t)(i + 1);
    }
    return ERR_OK;
}

/* Room for one more at the end of an array in the arena; the old one is left behind, at most as much again. */
static void *list_grow(struct reading *c, void *old, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap) {
        return old;
    }
    uint32_t more = *cap ? MIN(*cap * 4, (uint32_t)TENSORS_MAX) : 4;
    void *p = arena_alloc(c->a, more * size);
    if (p && n) {
        memcpy(p, old, n * size);
    }
    *cap = p ? more : *cap;
    return p;
}

static enum err_code list_read(struct reading *c, bool inputs)
{
    const char *list = inputs ? "inputs" : "outputs";
    struct oip_request *r = &c->r;
    uint32_t n = 0, cap = 0;
    if (!inputs && c->j.kind == JSON_NULL) {
        return ERR_OK;
    }
    if (c->j.kind != JSON_ARRAY) {
        return fail(c, list, "must be an array");
    }
    while (item_next(c, JSON_ARRAY_END)) {
        if (n == TENSORS_MAX) {
            return fail(c, list, "has more than %d members", TENSORS_MAX);
        }
        c->list = list;
        c->at = n;
        if (c->j.kind != JSON_OBJECT) {
            return fail(c, "", "must be an object");
        }
        void *grown =
            list_grow(c, inputs ? (void *)r->in : (void *)r->out, n, &cap, inputs ? sizeof(*r->in) : sizeof(*r->out));
        if (!grown) {
            return fail_memory(c);
        }
        r->in = inputs ? grown : r->in;
        r->out = inputs ? r->out : grown;
        enum err_code code = inputs ? input_read(c, &r->in[n]) : output_read(c, &r->out[n]);
        if (code) {
            return code;
        }
        c->list = NULL;
        n++;
    }
    if (c->j.kind == JSON_ERROR) {
        return fail_json(c);
    }
    *(inputs ? &r->n_in : &r->n_out) = n;
    return n == 0   ? ERR_OK
           : inputs ? names_unique(c, list, &r->in->name, sizeof(*r->in), n)
                    : names_unique(c, list, &r->out->name, sizeof(*r->out), n);
}

static enum err_code top_read(struct reading *c, unsigned *seen)
{
    struct param_values v = {.output_binary = -1};
    unsigned which;
    if (json_next(&c->j) != JSON_OBJECT) {
        return c->j.kind == JSON_ERROR ? fail_json(c) : fail(c, "the body", "must be a JSON object");
    }
    while (item_next(c, JSON_OBJECT_END)) {
        enum err_code code = member_take(c, M_ID | M_PARAMETERS | M_INPUTS | M_OUTPUTS, seen, &which);
        if (!code) {
            code = which == M_INPUTS || which == M_OUTPUTS   ? list_read(c, which == M_INPUTS)
                   : which == M_PARAMETERS                   ? params_read(c, TOP, &v)
                   : which == M_ID && c->j.kind != JSON_NULL ? value_string(c, "id", ID_MAX, &c->r.id)
                                                             : value_skip(c);
        }
        if (code) {
            return code;
        }
    }
    c->r.timeout_us = v.timeout;
    c->r.priority = v.priority;
    c->r.binary_output = v.binary_all;
    return c->j.kind == JSON_ERROR || json_next(&c->j) != JSON_END ? fail_json(c) : ERR_OK;
}

enum err_code oip_read(struct oip_request *r, struct arena *a, struct str json, uint64_t tail, struct err *e)
{
    struct reading c = {.a = a, .e = e};
    unsigned seen = 0;
    json_reader_init(&c.j, json);
    enum err_code code = top_read(&c, &seen);
    if (code) {
        return code;
    }
    if (!(seen & M_INPUTS)) {
        return fail(&c, "the request", "has no inputs");
    }
    if (c.r.binary_bytes != tail) {
        return err_set(e, ERR_INVALID, "the inputs' binary_data_size add up to %llu bytes, but %llu follow the JSON",
                       (unsigned long long)c.r.binary_bytes, (unsigned long long)tail);
    }
    *r = c.r;
    return ERR_OK;
}
