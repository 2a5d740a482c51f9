/* SPDX-License-Identifier: Apache-2.0 */
/* Half precision: every one of the 65,536 values of both formats, the midpoints between neighbours, the borders. */
#include <math.h>

#include "unit/api/oip_case.h"

/* What the bits mean, by the definition, in doubles. */
static double meaning(uint16_t h, unsigned fraction_bits, int bias)
{
    unsigned exponent = (h & 0x7fffu) >> fraction_bits, fraction = h & ((1u << fraction_bits) - 1);
    double v = exponent ? ldexp(1.0 + fraction / (double)(1u << fraction_bits), (int)exponent - bias)
                        : ldexp(fraction / (double)(1u << fraction_bits), 1 - bias);
    return h & 0x8000 ? -v : v;
}

static void both_ways(float (*to)(uint16_t), uint16_t (*from)(float), unsigned bits, int bias)
{
    uint16_t infinity = (uint16_t)(0x7fffu >> bits << bits);
    for (uint32_t h = 0; h <= 0xffff; h++) {
        float f = to((uint16_t)h);
        if ((h & 0x7fff) > infinity) {
            assert_true(isnan(f) && isnan(to(from(f))));
        } else if ((h & 0x7fff) == infinity) {
            assert_true(isinf(f) && (f < 0) == (h > 0x7fff));
            assert_int_equal(from(f), h);
        } else {
            assert_true((double)f == meaning((uint16_t)h, bits, bias) && !signbit(f) == (h < 0x8000));
            assert_int_equal(from(f), h);
        }
    }
    /* Halfway between two neighbours goes to the even one; a hair to either side goes there. The last midpoint, above
     * the largest value, goes to infinity. */
    for (uint16_t h = 0; h < infinity; h++) {
        double a = meaning(h, bits, bias), b = meaning((uint16_t)(h + 1), bits, bias);
        float mid = (float)((a + b) / 2);
        if ((double)mid != (a + b) / 2) {
            continue; /* below what a float holds */
        }
        uint16_t even = h & 1 ? (uint16_t)(h + 1) : h;
        assert_int_equal(from(mid), even);
        assert_int_equal(from(-mid), even | 0x8000);
        assert_int_equal(from(nextafterf(mid, 0)), h);
        assert_int_equal(from(nextafterf(mid, INFINITY)), h + 1);
    }
}

static void fp16(void **state)
{
    (void)state;
    both_ways(fp16_to_f32, fp16_from_f32, 10, 15);
    assert_int_equal(fp16_from_f32(65504), 0x7bff);
    assert_int_equal(fp16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(fp16_from_f32(65520), 0x7c00);
    assert_int_equal(fp16_from_f32(-1e30f), 0xfc00);
    assert_int_equal(fp16_from_f32(1e-30f), 0);
    assert_int_equal(fp16_from_f32(-0.0f), 0x8000);
}

static void bf16(void **state)
{
    (void)state;
    both_ways(bf16_to_f32, bf16_from_f32, 7, 127);
    assert_int_equal(bf16_from_f32(1), 0x3f80);
    assert_int_equal(bf16_from_f32(3.4028235e38f), 0x7f80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fp16), cmocka_unit_test(bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
