/* SPDX-License-Identifier: Apache-2.0 */
/* Half precision in software, both formats and both directions.
 *
 * FP16 is IEEE binary16 (5 bits of exponent, 10 of fraction), BF16 the upper half of a binary32. All conversions to
 * the smaller type round to nearest, ties to even; what is too large becomes infinity, a NaN stays a (quiet) NaN.
 *
 * Thread: any; pure functions. */
#include "api/oip.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

float fp16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 0x1f, fraction = h & 0x3ff;
    if (exponent == 0x1f) {
        return float_of(sign | 0x7f800000 | fraction << 13);
    }
    if (exponent == 0) {
        /* Zero and subnormals: fraction * 2^-24, exact in a float. */
        float f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t fp16_from_f32(float f)
{
    uint32_t u = bits_of(f);
    uint32_t sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    }
    if (magnitude >= 0x477ff000) { /* 65520 and above round past the largest half */
        return (uint16_t)(sign | 0x7c00);
    }
    if (magnitude < 0x38800000) {
        /* Below the smallest normal half: adding 0.5 leaves fraction * 2^-24 in the low bits, rounded by the FPU. */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000));
    }
    /* Half of the last place that stays, less one when that place is even: the carry may run into the exponent. */
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((magnitude >> 13) - (112u << 10)));
}

float bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t bf16_from_f32(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t)(u >> 16 | 0x40);
    }
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
