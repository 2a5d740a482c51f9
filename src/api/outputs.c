/* SPDX-License-Identifier: Apache-2.0 */
/* Whether an answer makes sense at all. The numbers may lie in memory that a faulty worker still writes to: a block of
 * them is copied, and both the quick look and the second one, at what it found, are at the copy. */
#include "api/outputs.h"

#include <stdio.h>

#define ELEMENTS_MAX 65536u
#define BLOCK 512 /* bytes */

union block {
    uint16_t h[BLOCK / 2];
    uint32_t f[BLOCK / 4];
    uint64_t d[BLOCK / 8];
};

/* ---- numbers ---- */

/* The bits of infinity; above them, without the sign, is NaN. 0: no floating point. */
static uint64_t infinity_of(uint8_t dtype)
{
    switch (dtype) {
    case DTYPE_FP16:
        return 0x7c00;
    case DTYPE_BF16:
        return 0x7f80;
    case DTYPE_FP32:
        return 0x7f800000;
    case DTYPE_FP64:
        return 0x7ff0000000000000;
    default:
        return 0;
    }
}

/* True if any number of the block is not finite: then its exponent is all ones, and one more carries to where the sign
 * was. Loops of a known length without a branch, for the compiler to vectorise. */
static bool any_not_finite(const union block *b, uint32_t size, uint64_t infinity)
{
    uint64_t carry = (1ull << (8 * size - 1)) - infinity;
    uint16_t one16 = (uint16_t)carry, seen16 = 0;
    uint32_t one32 = (uint32_t)carry, seen32 = 0;
    uint64_t seen64 = 0;

    if (size == 2) {
        for (unsigned i = 0; i < BLOCK / 2; i++) {
            seen16 |= (uint16_t)((b->h[i] & 0x7fffu) + one16);
        }
    } else if (size == 4) {
        for (unsigned i = 0; i < BLOCK / 4; i++) {
            seen32 |= (b->f[i] & 0x7fffffffu) + one32;
        }
    } else {
        for (unsigned i = 0; i < BLOCK / 8; i++) {
            seen64 |= (b->d[i] & 0x7fffffffffffffffull) + carry;
        }
    }
    return seen16 >> 15 || seen32 >> 31 || seen64 >> 63;
}

static uint64_t magnitude(const union block *b, uint32_t size, unsigned i)
{
    return size == 2 ? b->h[i] & 0x7fffu : size == 4 ? b->f[i] & 0x7fffffffu : b->d[i] & 0x7fffffffffffffffull;
}

/* Looks for NaN and infinities; NULL if there is none, else which it is, and where. */
static const char *not_finite(const uint8_t *p, uint64_t n, uint8_t dtype, uint64_t *where)
{
    uint64_t infinity = infinity_of(dtype);
    uint32_t size = dtype_size((enum dtype)dtype);
    union block b;

    for (uint64_t at = 0, k; at < n; at += k) {
        k = MIN(n - at, (uint64_t)(BLOCK / size));
        memcpy(&b, p + at * size, k * size);
        memset((uint8_t *)&b + k * size, 0, BLOCK - k * size);
        if (!any_not_finite(&b, size, infinity)) {
            continue;
        }
        for (unsigned i = 0; i < k; i++) {
            if (magnitude(&b, size, i) >= infinity) {
                *where = at + i;
                return magnitude(&b, size, i) > infinity ? "NaN" : "infinity";
            }
        }
    }
    return NULL;
}

/* ---- shapes ---- */

/* The reference's output of the same name: nearly always at the same place. NULL: it has none. */
static const struct tensor_info *same_output(const struct model_info *reference, const char *name, uint32_t port)
{
    if (port < reference->n_out && strcmp(reference->out[port].name, name) == 0) {
        return &reference->out[port];
    }
    for (uint32_t i = 0; i < reference->n_out; i++) {
        if (strcmp(reference->out[i].name, name) == 0) {
            return &reference->out[i];
        }
    }
    return NULL;
}

static bool inputs_have_free_rows(const struct model_info *m)
{
    for (uint32_t i = 0; i < m->n_in; i++) {
        if (m->in[i].rank == 0 || m->in[i].dim[0] >= 0) {
            return false;
        }
    }
    return m->n_in > 0;
}

/* ---- one output ---- */

struct look {
    const struct model_info *reference;
    uint64_t rows;
    bool free_rows; /* the reference's inputs have as many rows as the request likes */
    char *text;
    size_t cap;
};

static const char *misfit(const struct look *l, const struct tensor_info *want, const struct tensor *t)
{
    char have[160], should[160];
    int64_t dim[TENSOR_RANK_MAX];

    for (unsigned i = 0; i < want->rank; i++) {
        dim[i] = want->dim[i] < 0 && t->rank == want->rank ? t->dim[i] : want->dim[i];
    }
    shape_text(have, sizeof(have), t->dim, t->rank);
    shape_text(should, sizeof(should), dim, want->rank);
    snprintf(l->text, l->cap, "output '%s' has shape %s, the stable version's has %s", want->name, have, should);
    return l->text;
}

static const char *shape_wrong(const struct look *l, const char *name, const struct tensor *t)
{
    const struct tensor_info *want = same_output(l->reference, name, t->port);
    uint64_t n = 0;

    if (!tensor_elements(t->dim, t->rank, &n)) {
        snprintf(l->text, l->cap, "output '%s' has an impossible shape", name);
        return l->text;
    }
    if (n == 0 && l->rows > 0) {
        snprintf(l->text, l->cap, "output '%s' is empty", name);
        return l->text;
    }
    if (want && !tensor_fits(want, t->dim, t->rank)) {
        return misfit(l, want, t);
    }
    if (want && l->rows > 0 && l->free_rows && t->rank > 0 && want->dim[0] < 0 && (uint64_t)t->dim[0] != l->rows) {
        snprintf(l->text, l->cap, "output '%s' has %lld rows for %llu", name, (long long)t->dim[0],
                 (unsigned long long)l->rows);
        return l->text;
    }
    return NULL;
}

static const char *values_wrong(const struct look *l, const char *name, const struct tensor *t, const uint8_t *p)
{
    uint64_t n, where = 0;
    const char *what;

    if (!infinity_of(t->dtype)) {
        return NULL;
    }
    n = MIN(t->len / dtype_size((enum dtype)t->dtype), (uint64_t)ELEMENTS_MAX);
    what = not_finite(p, n, t->dtype, &where);
    if (what) {
        snprintf(l->text, l->cap, "output '%s' has %s at element %llu", name, what, (unsigned long long)where);
    }
    return what ? l->text : NULL;
}

const char *outputs_invalid(const struct model_info *info, const struct model_info *reference,
                            const struct job_result *job, uint64_t rows, char *text, size_t cap)
{
    const struct look l = {reference, rows, inputs_have_free_rows(reference), text, cap};

    for (uint32_t i = 0; i < job->n_out; i++) {
        const struct tensor *t = &job->out[i];
        const char *name = t->port < info->n_out ? info->out[t->port].name : NULL, *wrong;

        if (!name) {
            snprintf(text, cap, "output %u is none of the model's", t->port);
            return text;
        }
        wrong = shape_wrong(&l, name, t);
        if (!wrong) {
            wrong = values_wrong(&l, name, t, job->base + t->off);
        }
        if (wrong) {
            return wrong;
        }
    }
    return NULL;
}
