/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors, described: dtype, shape, and where the bytes lie in a window. The description never holds a pointer, so that
 * the same bytes mean the same in the server, in a worker process and on the wire.
 *
 * Layout of the bytes: little-endian, row-major, no padding; BOOL one byte; FP16 and BF16 two; BYTES: for each element
 * a 4-byte little-endian length, then its bytes (Open Inference Protocol, binary tensor extension).
 *
 * Thread: any; pure functions. */
#ifndef WEIR_INFERENCE_TENSOR_H
#define WEIR_INFERENCE_TENSOR_H

#include "base/base.h"
#include "base/err.h"

/*   name, bytes an element (0: variable) */
/* clang-format off */
#define DTYPE_MAP(X)                                                                                             \
    X(BOOL, 1)                                                                                                   \
    X(UINT8, 1) X(UINT16, 2) X(UINT32, 4) X(UINT64, 8) X(INT8, 1) X(INT16, 2) X(INT32, 4) X(INT64, 8) X(FP16, 2) \
        X(BF16, 2) X(FP32, 4) X(FP64, 8) X(BYTES, 0)
/* clang-format on */

enum dtype {
    DTYPE_NONE,
#define X(name, size) DTYPE_##name,
    DTYPE_MAP(X)
#undef X
        DTYPE_COUNT_
};

const char *dtype_name(enum dtype t); /* "FP32"; "?" for anything else */
enum dtype dtype_parse(struct str s); /* DTYPE_NONE if unknown */
uint32_t dtype_size(enum dtype t);    /* bytes an element; 0 for BYTES */

#define TENSOR_RANK_MAX 8
#define TENSORS_MAX 1024 /* inputs of a model, outputs of a model, tensors of a request */
#define TENSOR_DIM_MAX (1ll << 31)
#define TENSOR_NAME_MAX 255

/* One tensor of one job. 88 bytes, the same in shared memory. */
struct tensor {
    uint16_t port; /* position among the model's inputs (or outputs) */
    uint8_t dtype;
    uint8_t rank;
    uint32_t reserved; /* 0 */
    int64_t dim[TENSOR_RANK_MAX];
    uint64_t off, len; /* bytes within the window */
};
_Static_assert(sizeof(struct tensor) == 88, "shared layout");

/* What a model takes or gives at one place. dim -1: variable. */
struct tensor_info {
    char name[TENSOR_NAME_MAX + 1];
    uint8_t dtype, rank;
    int64_t dim[TENSOR_RANK_MAX];
};

struct model_info {
    char platform[32]; /* "onnxruntime_onnx" */
    char runtime[64];  /* "ONNX Runtime 1.30.0" */
    uint32_t n_in, n_out;
    struct tensor_info *in, *out; /* heap */
    bool joins; /* requests may be joined along dimension 0 (checked at warm-up: rows do not influence each other) */
    uint32_t batch_max;    /* most rows in one run; 1 if not joins */
    uint64_t warm_ns;      /* one run of batch 1 at the end of the warm-up */
    uint64_t memory;       /* bytes resident after the warm-up; 0 if unknown */
    uint64_t many_ns;      /* one run of many_rows rows, measured like warm_ns; 0: it was not */
    uint32_t many_rows;    /* 0, or at least 2 */
    uint32_t threads;      /* of a run; 0: not said */
    uint64_t device_total; /* bytes of the GPU it is on; 0: none, or not known */
    uint64_t device_used;  /* of those, what its load took, without the driver's own context; at most device_total */
};
void model_info_done(struct model_info *m);
/* Deep copy; aborts without memory. */
void model_info_copy(struct model_info *to, const struct model_info *from);
/* Flat bytes for the wire; _decode checks everything (it comes from a worker). */
struct buf;
void model_info_encode(struct buf *out, const struct model_info *m);
enum err_code model_info_decode(struct model_info *out, const void *p, size_t n, struct err *e) MUST_USE;

/* Number of elements; false if a dim is negative, above TENSOR_DIM_MAX, or the product overflows 2^48. Rank 0: 1. */
bool tensor_elements(const int64_t *dim, unsigned rank, uint64_t *n);
/* True if a concrete shape fits a model's (rank equal, every dim equal or -1 there). */
bool tensor_fits(const struct tensor_info *info, const int64_t *dim, unsigned rank);
/* "[1,16]" */
void shape_text(char *out, size_t cap, const int64_t *dim, unsigned rank);
/* Walks BYTES data: false unless exactly n elements fill len. Safe against memory that changes meanwhile (each length
 * is read once). */
bool bytes_check(const uint8_t *p, uint64_t len, uint64_t n);

/* What a job looks like in the input window: this header, the input tensors, then the wanted outputs' ports. */
struct job_block {
    uint32_t n_in, n_out;
    uint64_t rows;        /* dim 0 of every input, if they are all equal and the rank is > 0; else 0 */
    uint64_t fingerprint; /* hash of the inputs; 0: not computed */
    uint64_t reserved;
    struct tensor in[]; /* n_in; then uint16_t want[n_out] */
};
static inline uint16_t *job_block_want(const struct job_block *b)
{
    return (uint16_t *)(void *)(uintptr_t)&b->in[b->n_in];
}
/* Bytes of the header, tensors and wants; the first tensor's data begins at the next multiple of 64. */
uint64_t job_block_bytes(uint32_t n_in, uint32_t n_out);
#define TENSOR_ALIGN 64

#endif
