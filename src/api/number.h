/* SPDX-License-Identifier: Apache-2.0 */
/* One number of a tensor, whatever its dtype. It may lie in memory that a faulty worker still writes to: it is read
 * once.
 *
 * Pure; any thread. */
#ifndef WEIR_API_NUMBER_H
#define WEIR_API_NUMBER_H

#include <math.h>

#include "api/oip.h"

/* private */
#define NUMBER_AT(type)                              \
    ({                                               \
        type v_;                                     \
        memcpy(&v_, p + i * sizeof(v_), sizeof(v_)); \
        v_;                                          \
    })

/* Element i of the elements at p (any alignment). NaN for a dtype that has no numbers. */
static inline double number_at(const uint8_t *p, uint8_t dtype, uint64_t i)
{
    switch ((enum dtype)dtype) {
    case DTYPE_BOOL:
        return p[i] != 0;
    case DTYPE_UINT8:
        return NUMBER_AT(uint8_t);
    case DTYPE_UINT16:
        return NUMBER_AT(uint16_t);
    case DTYPE_UINT32:
        return NUMBER_AT(uint32_t);
    case DTYPE_UINT64:
        return (double)NUMBER_AT(uint64_t);
    case DTYPE_INT8:
        return NUMBER_AT(int8_t);
    case DTYPE_INT16:
        return NUMBER_AT(int16_t);
    case DTYPE_INT32:
        return NUMBER_AT(int32_t);
    case DTYPE_INT64:
        return (double)NUMBER_AT(int64_t);
    case DTYPE_FP16:
        return (double)fp16_to_f32(NUMBER_AT(uint16_t));
    case DTYPE_BF16:
        return (double)bf16_to_f32(NUMBER_AT(uint16_t));
    case DTYPE_FP32:
        return (double)NUMBER_AT(float);
    case DTYPE_FP64:
        return NUMBER_AT(double);
    case DTYPE_NONE:
    case DTYPE_BYTES:
    case DTYPE_COUNT_:
        break;
    }
    return NAN;
}

#undef NUMBER_AT

#endif
