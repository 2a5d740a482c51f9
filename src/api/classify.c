/* SPDX-License-Identifier: Apache-2.0 */
/* The largest N of each row, by a heap of N.
 *
 * Every dtype's values are mapped to 64-bit keys that sort like the values, so that one comparison serves them all and
 * no 64-bit integer loses a digit; the value is made from the key again to be printed. The root of the heap is the
 * smallest of the N kept so far: most values of a row are turned away by one comparison with it.
 *
 * Thread: any; no state. */
#include "api/classify.h"

#include <stdio.h>

#include "api/oip.h"

struct entry {
    uint64_t key, index;
};

#define SIGN_BIT (1ull << 63)

static bool is_float(enum dtype t)
{
    return t == DTYPE_FP16 || t == DTYPE_BF16 || t == DTYPE_FP32 || t == DTYPE_FP64;
}

static bool is_signed(enum dtype t)
{
    return t == DTYPE_INT8 || t == DTYPE_INT16 || t == DTYPE_INT32 || t == DTYPE_INT64;
}

static uint64_t key_of(enum dtype t, const uint8_t *p)
{
    uint64_t raw = 0;
    uint32_t size = dtype_size(t);
    memcpy(&raw, p, size);
    if (!is_float(t)) {
        unsigned shift = 64 - 8 * size;
        return is_signed(t) ? (uint64_t)((int64_t)(raw << shift) >> shift) ^ SIGN_BIT : raw;
    }
    double d;
    if (t == DTYPE_FP64) {
        memcpy(&d, &raw, sizeof(d));
    } else if (t == DTYPE_FP32) {
        float f;
        memcpy(&f, &raw, sizeof(f));
        d = (double)f;
    } else {
        d = (double)(t == DTYPE_FP16 ? fp16_to_f32((uint16_t)raw) : bf16_to_f32((uint16_t)raw));
    }
    if (d != d) {
        return 0;
    }
    uint64_t bits;
    memcpy(&bits, &d, sizeof(bits));
    return bits & SIGN_BIT ? ~bits : bits | SIGN_BIT;
}

/* Room for any %f: 309 digits, a point and six more. */
enum { VALUE_TEXT = 336 };

static size_t value_text(char *out, enum dtype t, uint64_t key)
{
    int n;
    if (is_float(t)) {
        uint64_t bits = key & SIGN_BIT ? key ^ SIGN_BIT : ~key;
        double d;
        memcpy(&d, &bits, sizeof(d));
        n = key == 0 ? snprintf(out, VALUE_TEXT, "nan") : snprintf(out, VALUE_TEXT, "%f", d);
    } else if (is_signed(t)) {
        n = snprintf(out, VALUE_TEXT, "%lld", (long long)(key ^ SIGN_BIT));
    } else {
        n = snprintf(out, VALUE_TEXT, "%llu", (unsigned long long)key);
    }
    return (size_t)n;
}

static bool smaller(const struct entry *a, const struct entry *b)
{
    return a->key != b->key ? a->key < b->key : a->index > b->index;
}

/* Puts e in place of the root and lets it sink to where it belongs. */
static void sink(struct entry *heap, uint64_t n, struct entry e)
{
    uint64_t at = 0;
    for (;;) {
        uint64_t child = 2 * at + 1;
        if (child >= n) {
            break;
        }
        child += child + 1 < n && smaller(&heap[child + 1], &heap[child]);
        if (!smaller(&heap[child], &e)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = e;
}

static void rise(struct entry *heap, uint64_t at, struct entry e)
{
    while (at > 0 && smaller(&e, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = e;
}

/* The n largest of a row, largest first. */
static void row_top(struct entry *heap, uint64_t n, enum dtype t, const uint8_t *p, uint64_t width)
{
    uint32_t size = dtype_size(t);
    for (uint64_t i = 0; i < width; i++) {
        struct entry e = {key_of(t, p + i * size), i};
        if (i < n) {
            rise(heap, i, e);
        } else if (smaller(&heap[0], &e)) {
            sink(heap, n, e);
        }
    }
    for (uint64_t left = n; left > 1; left--) {
        struct entry least = heap[0];
        sink(heap, left - 1, heap[left - 1]);
        heap[left - 1] = least;
    }
}

void classify(struct buf *out, struct buf *scratch, enum dtype dtype, const uint8_t *p, uint64_t rows, uint64_t width,
              uint64_t n, const char *const *labels, size_t n_labels)
{
    n = MIN(n, width);
    if (n == 0 || rows == 0) {
        return;
    }
    uint64_t bytes;
    struct entry *heap =
        ck_mul(n, sizeof(*heap), &bytes) ? (struct entry *)(void *)buf_room(scratch, (size_t)bytes) : NULL;
    out->over = out->over || !heap;
    for (uint64_t r = 0; r < rows && !out->over; r++) {
        row_top(heap, n, dtype, p + r * width * dtype_size(dtype), width);
        for (uint64_t i = 0; i < n; i++) {
            char text[VALUE_TEXT + 32];
            const char *label = labels && heap[i].index < n_labels ? labels[heap[i].index] : NULL;
            size_t length = value_text(text, dtype, heap[i].key);
            length += (size_t)snprintf(text + length, sizeof(text) - length, ":%llu%s",
                                       (unsigned long long)heap[i].index, label && *label ? ":" : "");
            size_t label_n = label ? strlen(label) : 0;
            uint32_t total = (uint32_t)(length + label_n);
            buf_add(out, &total, sizeof(total));
            buf_add(out, text, length);
            buf_add(out, label, label_n);
        }
    }
}
