/* SPDX-License-Identifier: Apache-2.0 */
/* What class a result predicts. A text or integer output says it itself (its first element of a row); of a floating
 * point output it is the largest along the last dimension, by its label if the version has labels.
 *
 * The tensors may be a worker's memory: every length is read once and checked. */
#include <inttypes.h>
#include <stdio.h>

#include "api/data.h"
#include "api/number.h"

static const struct tensor *find(const struct predictor *p, const struct job_result *r)
{
    for (uint32_t i = 0; p->port >= 0 && i < r->n_out; i++) {
        if (r->out[i].port == p->port) {
            return &r->out[i];
        }
    }
    return NULL;
}

uint64_t predicted_rows(const struct predictor *p, const struct job_result *r)
{
    const struct tensor *t = find(p, r);
    uint64_t n;

    if (!t || !tensor_elements(t->dim, t->rank, &n) || n == 0) {
        return 0;
    }
    return t->rank == 0 ? 1 : (uint64_t)t->dim[0];
}

/* The element-th text of BYTES data. */
static struct str text_at(const uint8_t *p, uint64_t len, uint64_t element)
{
    uint64_t at = 0;

    for (;; element--) {
        uint32_t n;

        if (len - at < 4) {
            return (struct str){NULL, 0};
        }
        memcpy(&n, p + at, 4);
        at += 4;
        if (n > len - at) {
            return (struct str){NULL, 0};
        }
        if (element == 0) {
            return (struct str){(const char *)p + at, n};
        }
        at += n;
    }
}

static struct str integer_at(const uint8_t *p, uint8_t dtype, uint64_t i, char small[64])
{
    unsigned size = dtype_size(dtype);
    bool is_signed = dtype >= DTYPE_INT8 && dtype <= DTYPE_INT64;
    uint64_t v = 0;
    int n;

    memcpy(&v, p + size * i, size);
    if (is_signed && size < 8) { /* sign extension */
        uint64_t top = 1ull << (8 * size - 1);
        v = (v ^ top) - top;
    }
    n = is_signed ? snprintf(small, 64, "%" PRId64, (int64_t)v) : snprintf(small, 64, "%" PRIu64, v);
    return (struct str){small, (size_t)n};
}

static struct str by_index(const struct predictor *p, uint64_t i, char small[64])
{
    if (i < p->n_labels) {
        return str_of(p->labels[i]);
    }
    return (struct str){small, (size_t)snprintf(small, 64, "%" PRIu64, i)};
}

struct str predicted_class(const struct predictor *p, const struct job_result *r, uint64_t row, char small[64])
{
    const struct tensor *t = find(p, r);
    const uint8_t *at = t ? r->base + t->off : NULL;
    uint64_t n, per_row, width, best = 0;
    double most = 0;

    if (!t || !tensor_elements(t->dim, t->rank, &n) || n == 0) {
        return (struct str){NULL, 0};
    }
    per_row = t->rank == 0 ? 1 : n / (uint64_t)t->dim[0];
    if (t->dtype == DTYPE_BYTES) {
        return text_at(at, t->len, row * per_row);
    }
    if (t->dtype <= DTYPE_INT64) {
        return integer_at(at, t->dtype, row * per_row, small);
    }
    width = t->rank == 0 ? 1 : (uint64_t)t->dim[t->rank - 1];
    for (uint64_t i = 0; i < width; i++) {
        double s = number_at(at, t->dtype, row * per_row + i);

        if (i == 0 || s > most) {
            most = s;
            best = i;
        }
    }
    return by_index(p, best, small);
}
