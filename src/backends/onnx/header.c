/* SPDX-License-Identifier: Apache-2.0 */
/* The walk: protobuf's wire format, only as far as it leads to tensors.
 *
 * A table says which field of which message is a message that is worth entering; everything else is skipped by its
 * length. It is a loop with a stack of its own, so depth costs no C stack. Where protobuf's decoder would be lenient in
 * a way that could make it see another tree than this walk (long varints, groups), the file is refused: no exporter
 * writes them. */
#include "backends/onnx/header.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"

enum kind { MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, FUNCTION, TRAINING, ENTRY };

static const char *const kind_names[] = {
    [MODEL] = "model",         [GRAPH] = "graph",       [NODE] = "node",
    [ATTRIBUTE] = "attribute", [TENSOR] = "tensor",     [SPARSE] = "sparse tensor",
    [FUNCTION] = "function",   [TRAINING] = "training", [ENTRY] = "external data",
};

/* The messages of onnx.proto that lead to a TensorProto. */
static const struct {
    uint8_t in, field, child;
} table[] = {
    {MODEL, 7, GRAPH},         {MODEL, 20, TRAINING},   {MODEL, 25, FUNCTION},  {GRAPH, 1, NODE},
    {GRAPH, 5, TENSOR},        {GRAPH, 15, SPARSE},     {NODE, 5, ATTRIBUTE},   {ATTRIBUTE, 5, TENSOR},
    {ATTRIBUTE, 6, GRAPH},     {ATTRIBUTE, 10, TENSOR}, {ATTRIBUTE, 11, GRAPH}, {ATTRIBUTE, 22, SPARSE},
    {ATTRIBUTE, 23, SPARSE},   {SPARSE, 1, TENSOR},     {SPARSE, 2, TENSOR},    {FUNCTION, 7, NODE},
    {FUNCTION, 11, ATTRIBUTE}, {TRAINING, 1, GRAPH},    {TRAINING, 2, GRAPH},   {TENSOR, 13, ENTRY},
};

struct level {
    enum kind kind;
    const uint8_t *end;
};

struct walk {
    const uint8_t *start, *p;
    struct level stack[ONNX_DEPTH_MAX];
    unsigned depth; /* stack[depth - 1] is the message being read */
    struct onnx_header found;
    bool graph;
    int dirfd;
    /* The tensor being read. Protobuf keeps the last of a key that is given twice: all are checked. */
    struct str location, key, text;
    uint64_t offset, length;
    bool outside, has_length;
    /* The file that was looked at last: most models have one. */
    char file[256];
    uint64_t file_size;
    struct err *e;
};

static enum err_code refuse(struct walk *w, const char *why)
{
    return err_set(w->e, ERR_REFUSED, "not a valid ONNX model: %s at byte %zu (in a %s)", why,
                   (size_t)(w->p - w->start), kind_names[w->stack[w->depth - 1].kind]);
}

/* False at the end of the message or when it is longer than 64 bits; tags have at most five bytes. */
static bool varint(struct walk *w, unsigned most, uint64_t *out)
{
    const uint8_t *end = w->stack[w->depth - 1].end;
    uint64_t v = 0;

    for (unsigned i = 0; i < most && w->p < end; i++) {
        uint8_t b = *w->p++;
        if (i == 9 && b > 1) {
            return false;
        }
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}

/* ---- external data ---- */

static bool plain_name(struct str s)
{
    return s.n > 0 && s.n < 256 && !memchr(s.p, '/', s.n) && !memchr(s.p, '\\', s.n) && !memchr(s.p, 0, s.n) &&
           !str_is(s, ".") && !str_is(s, "..");
}

/* Shows a name that may hold anything. */
static void shown(char out[64], struct str s)
{
    size_t n = 0;

    for (; n < s.n && n < 60; n++) {
        out[n] = s.p[n] >= ' ' && s.p[n] < 0x7f ? s.p[n] : '?';
    }
    memcpy(out + n, n < s.n ? ".." : "", n < s.n ? 3 : 1);
}

static enum err_code check_file(struct walk *w)
{
    char name[64];
    struct stat st;

    shown(name, w->location);
    if (!plain_name(w->location)) {
        return err_set(w->e, ERR_REFUSED,
                       "a tensor has its data in '%s': it must be a plain file name in the model's own folder", name);
    }
    if (str_is(w->location, w->file)) {
        return ERR_OK;
    }
    w->file[0] = '\0';
    char z[256];
    memcpy(z, w->location.p, w->location.n);
    z[w->location.n] = '\0';
    if (fstatat(w->dirfd, z, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return err_sys(w->e, ERR_REFUSED, "a tensor has its data in '%s', which is not in the model's folder", name);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(w->e, ERR_REFUSED, "a tensor has its data in '%s', which is not a regular file", name);
    }
    memcpy(w->file, z, w->location.n + 1);
    w->file_size = (uint64_t)st.st_size;
    return ERR_OK;
}

/* One key of a tensor's external_data is complete. */
static enum err_code entry_end(struct walk *w)
{
    if (str_is(w->key, "location")) {
        w->outside = true;
        w->location = w->text;
        return check_file(w);
    }
    if (str_is(w->key, "offset") || str_is(w->key, "length")) {
        uint64_t v;
        if (!str_u64(w->text, &v) || v > INT64_MAX) {
            return refuse(w, "external data with an offset or length that is no number");
        }
        if (str_is(w->key, "offset")) {
            w->offset = v;
        } else {
            w->length = v;
            w->has_length = true;
        }
    }
    return ERR_OK;
}

static enum err_code tensor_end(struct walk *w)
{
    uint64_t end = w->offset;

    if (!w->outside) {
        return ERR_OK;
    }
    if (++w->found.external > ONNX_EXTERNAL_MAX) {
        return refuse(w, "too many tensors with external data");
    }
    if ((w->has_length && !ck_add(w->offset, w->length, &end)) || end > w->file_size) {
        return err_set(w->e, ERR_REFUSED, "a tensor has its data at bytes %llu to %llu of '%.64s', which has %llu",
                       (unsigned long long)w->offset, (unsigned long long)end, w->file,
                       (unsigned long long)w->file_size);
    }
    return ERR_OK;
}

/* ---- the walk ---- */

static enum err_code enter(struct walk *w, enum kind kind, uint64_t n)
{
    if (w->depth == ONNX_DEPTH_MAX) {
        return refuse(w, "messages nested too deeply");
    }
    w->stack[w->depth++] = (struct level){kind, w->p + n};
    switch (kind) {
    case GRAPH:
        w->graph = true;
        break;
    case NODE:
        w->found.nodes++;
        break;
    case TENSOR:
        w->outside = w->has_length = false;
        w->offset = w->length = 0;
        break;
    case ENTRY:
        w->key = w->text = STR("");
        break;
    default:
        break;
    }
    return ERR_OK;
}

static enum err_code leave(struct walk *w)
{
    enum kind kind = w->stack[w->depth - 1].kind;
    enum err_code code = kind == ENTRY ? entry_end(w) : kind == TENSOR ? tensor_end(w) : ERR_OK;

    w->depth--;
    return code;
}

/* A field with a length: a message to enter, a text to keep, or bytes to skip. */
static enum err_code sized_field(struct walk *w, enum kind in, uint32_t field)
{
    uint64_t n;

    if (!varint(w, 10, &n)) {
        return refuse(w, "a malformed length");
    }
    if (n > (uint64_t)(w->stack[w->depth - 1].end - w->p)) {
        return refuse(w, "a length beyond the end");
    }
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (table[i].in == in && table[i].field == field) {
            return enter(w, (enum kind)table[i].child, n);
        }
    }
    if (in == ENTRY && (field == 1 || field == 2)) {
        *(field == 1 ? &w->key : &w->text) = (struct str){(const char *)w->p, n};
    }
    w->p += n;
    return ERR_OK;
}

static enum err_code one_field(struct walk *w)
{
    enum kind in = w->stack[w->depth - 1].kind;
    uint64_t tag, v;

    if (!varint(w, 5, &tag) || tag > UINT32_MAX || tag >> 3 == 0) {
        return refuse(w, "a malformed field");
    }
    switch (tag & 7) {
    case 0:
        if (!varint(w, 10, &v)) {
            return refuse(w, "a malformed number");
        }
        if (in == MODEL && tag >> 3 == 1) {
            w->found.ir_version = (int64_t)v;
        }
        return ERR_OK;
    case 1:
    case 5: {
        size_t n = (tag & 7) == 1 ? 8 : 4;
        if ((size_t)(w->stack[w->depth - 1].end - w->p) < n) {
            return refuse(w, "a number beyond the end");
        }
        w->p += n;
        return ERR_OK;
    }
    case 2:
        return sized_field(w, in, (uint32_t)(tag >> 3));
    default:
        return refuse(w, "a field of unknown type");
    }
}

enum err_code onnx_header_check(struct onnx_header *out, const uint8_t *p, size_t n, int dirfd, struct err *e)
{
    struct walk w = {.start = p, .p = p, .dirfd = dirfd, .depth = 1, .e = e};
    enum err_code code = ERR_OK;

    w.stack[0] = (struct level){MODEL, p + n};
    while (w.depth > 0 && code == ERR_OK) {
        code = w.p == w.stack[w.depth - 1].end ? leave(&w) : one_field(&w);
    }
    if (code != ERR_OK) {
        return code;
    }
    if (!w.graph) {
        return err_set(e, ERR_REFUSED, "not an ONNX model: there is no graph in it");
    }
    if (w.found.ir_version <= 0 || w.found.ir_version > 1000) {
        return err_set(e, ERR_REFUSED, "not an ONNX model: its format version is missing or absurd");
    }
    *out = w.found;
    return ERR_OK;
}
