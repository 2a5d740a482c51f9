/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors of ours as values of the runtime, and back: the dtype table, and strings by way of the 4-byte lengths. */
#include "backends/onnx/value.h"

static const struct {
    ONNXTensorElementDataType theirs;
    enum dtype ours;
} table[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, DTYPE_FP32},    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, DTYPE_INT64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, DTYPE_BYTES},  {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, DTYPE_BOOL},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, DTYPE_UINT8},   {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, DTYPE_UINT16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, DTYPE_UINT32}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, DTYPE_UINT64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, DTYPE_INT8},     {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, DTYPE_INT16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, DTYPE_INT32},   {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, DTYPE_FP16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, DTYPE_BF16}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, DTYPE_FP64},
};

enum dtype onnx_dtype(ONNXTensorElementDataType t)
{
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (table[i].theirs == t) {
            return table[i].ours;
        }
    }
    return DTYPE_NONE;
}

static ONNXTensorElementDataType theirs(enum dtype t)
{
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (table[i].ours == t) {
            return table[i].theirs;
        }
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

OrtStatus *onnx_wrap(const struct onnx_runtime *rt, enum dtype dtype, const int64_t *dim, unsigned rank, const void *p,
                     uint64_t len, OrtValue **out)
{
    return rt->api->CreateTensorWithDataAsOrtValue(rt->cpu, (void *)(uintptr_t)p, len, dim, rank, theirs(dtype), out);
}

OrtStatus *onnx_strings_new(const struct onnx_runtime *rt, const int64_t *dim, unsigned rank, OrtValue **out)
{
    return rt->api->CreateTensorAsOrtValue(rt->allocator, dim, rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, out);
}

enum err_code onnx_strings_fill(const struct onnx_runtime *rt, OrtValue *v, uint64_t first, uint64_t n,
                                const uint8_t *p, uint64_t len, struct err *e)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t k;
        char *to;
        OrtStatus *s;
        if (len < sizeof k) {
            return err_set(e, ERR_INVALID, "BYTES data ends at element %llu of %llu", (unsigned long long)i,
                           (unsigned long long)n);
        }
        memcpy(&k, p, sizeof k);
        /* Into a register: the memory may be another process's, and the length must be the one that is checked. */
        __asm__ volatile("" : "+r"(k));
        if (k > len - sizeof k) {
            return err_set(e, ERR_INVALID, "BYTES element %llu says %u bytes, and fewer are left",
                           (unsigned long long)i, k);
        }
        s = rt->api->GetResizedStringTensorElementBuffer(v, first + i, k, &to);
        if (s) {
            return onnx_status(rt, s, ERR_MODEL, e, "no room for a string");
        }
        memcpy(to, p + sizeof k, k);
        p += sizeof k + k;
        len -= sizeof k + k;
    }
    if (len) {
        return err_set(e, ERR_INVALID, "BYTES data has %llu bytes more than its elements", (unsigned long long)len);
    }
    return ERR_OK;
}

enum err_code onnx_describe(const struct onnx_runtime *rt, OrtValue *v, struct tensor *t, struct err *e)
{
    OrtTensorTypeAndShapeInfo *info = NULL;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    uint64_t n = 0;
    int is = 0;
    OrtStatus *s = rt->api->IsTensor(v, &is);

    if (!s && !is) {
        return err_set(e, ERR_MODEL, "the model gave something that is no tensor");
    }
    s = s ? s : rt->api->GetTensorTypeAndShape(v, &info);
    s = s ? s : rt->api->GetTensorElementType(info, &type);
    s = s ? s : rt->api->GetDimensionsCount(info, &rank);
    if (!s && rank <= TENSOR_RANK_MAX) {
        s = rt->api->GetDimensions(info, t->dim, rank);
    }
    rt->api->ReleaseTensorTypeAndShapeInfo(info);
    if (s) {
        return onnx_status(rt, s, ERR_MODEL, e, "an output can not be read");
    }
    t->dtype = (uint8_t)onnx_dtype(type);
    t->rank = (uint8_t)MIN(rank, TENSOR_RANK_MAX + 1u);
    t->reserved = 0;
    if (t->dtype == DTYPE_NONE || !tensor_elements(t->dim, t->rank, &n)) {
        return err_set(e, ERR_MODEL, "the model gave a tensor of %zu dimensions and a dtype or size beyond the limits",
                       rank);
    }
    t->len = t->dtype == DTYPE_BYTES ? onnx_strings_len(rt, v, 0, n) : n * dtype_size((enum dtype)t->dtype);
    if (t->len == UINT64_MAX) {
        return err_set(e, ERR_MODEL, "the model gave strings that can not be read");
    }
    return ERR_OK;
}

const uint8_t *onnx_data(const struct onnx_runtime *rt, OrtValue *v)
{
    void *p = NULL;
    OrtStatus *s = rt->api->GetTensorMutableData(v, &p);

    rt->api->ReleaseStatus(s);
    return p;
}

/* UINT64_MAX when the runtime refuses, or when the length does not fit its four bytes. */
static uint64_t string_len(const struct onnx_runtime *rt, OrtValue *v, uint64_t i)
{
    size_t k = 0;
    OrtStatus *s = rt->api->GetStringTensorElementLength(v, i, &k);

    if (s || k > UINT32_MAX) {
        rt->api->ReleaseStatus(s);
        return UINT64_MAX;
    }
    return k;
}

uint64_t onnx_strings_len(const struct onnx_runtime *rt, OrtValue *v, uint64_t first, uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = first; i < first + n; i++) {
        uint64_t k = string_len(rt, v, i);
        if (k == UINT64_MAX) {
            return UINT64_MAX;
        }
        sum += 4 + k;
    }
    return sum;
}

bool onnx_strings_copy(const struct onnx_runtime *rt, OrtValue *v, uint64_t first, uint64_t n, uint8_t *to)
{
    for (uint64_t i = first; i < first + n; i++) {
        uint64_t k = string_len(rt, v, i);
        uint32_t k32 = (uint32_t)k;
        OrtStatus *s;
        if (k == UINT64_MAX) {
            return false;
        }
        memcpy(to, &k32, sizeof k32);
        s = rt->api->GetStringTensorElement(v, k, i, to + sizeof k32);
        if (s) {
            rt->api->ReleaseStatus(s);
            return false;
        }
        to += sizeof k32 + k;
    }
    return true;
}
