/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors of ours as values of the runtime, and back.
 *
 * Numbers are wrapped where they lie, never copied. Strings have to be copied: the runtime keeps them as C++ strings.
 *
 * Thread: any, one at a time a value. Values are the caller's to release. */
#ifndef WEIR_BACKENDS_ONNX_VALUE_H
#define WEIR_BACKENDS_ONNX_VALUE_H

#include "backends/onnx/runtime.h"
#include "inference/tensor.h"

/* DTYPE_NONE for what no tensor of ours can hold (complex, 4-bit and 8-bit floats). */
enum dtype onnx_dtype(ONNXTensorElementDataType t);

/* A tensor of numbers over memory of ours, which must outlive it; len is checked against the shape by the runtime. */
OrtStatus *onnx_wrap(const struct onnx_runtime *rt, enum dtype dtype, const int64_t *dim, unsigned rank, const void *p,
                     uint64_t len, OrtValue **out);

/* A tensor of strings with room for all of its elements, to be filled by onnx_strings_fill. */
OrtStatus *onnx_strings_new(const struct onnx_runtime *rt, const int64_t *dim, unsigned rank, OrtValue **out);
/* Fills n elements from `first` on with BYTES data; ERR_INVALID if it does not hold exactly n. */
enum err_code onnx_strings_fill(const struct onnx_runtime *rt, OrtValue *v, uint64_t first, uint64_t n,
                                const uint8_t *p, uint64_t len, struct err *e) MUST_USE;

/* Dtype, rank, dims and len (of BYTES: as it will be written) of a value that the model made; port and off are left
 * alone. ERR_MODEL for what is no tensor, or none that can be described. */
enum err_code onnx_describe(const struct onnx_runtime *rt, OrtValue *v, struct tensor *t, struct err *e) MUST_USE;
/* The bytes of a tensor of numbers. */
const uint8_t *onnx_data(const struct onnx_runtime *rt, OrtValue *v);
/* BYTES length of the elements first … first+n, and the bytes themselves. UINT64_MAX: the runtime refuses. */
uint64_t onnx_strings_len(const struct onnx_runtime *rt, OrtValue *v, uint64_t first, uint64_t n);
bool onnx_strings_copy(const struct onnx_runtime *rt, OrtValue *v, uint64_t first, uint64_t n, uint8_t *to);

#endif
