/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers both ways: strictness, rounding against the C library, a million floats of each width out and back. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"

static uint64_t state64 = 88172645463325252u;

static uint64_t next_random(void)
{
    state64 ^= state64 << 13;
    state64 ^= state64 >> 7;
    state64 ^= state64 << 17;
    return state64;
}

static const char *scan(const char *z, double *v)
{
    return json_scan_f64(z, z + strlen(z), v);
}

/* From an exactly sized copy, and the grammar check must agree on where the number ends. */
static void same_as_strtod(const char *z)
{
    size_t n = strlen(z);
    char *copy = malloc(n);
    memcpy(copy, z, n);
    double v = 7;
    double want = strtod(z, NULL);
    if (json_scan_f64(copy, copy + n, &v) != copy + n || memcmp(&v, &want, sizeof(v)) != 0) {
        fail_msg("%s is read as %a, not %a", z, v, want);
    }
    assert_ptr_equal(json_check_number(copy, copy + n), copy + n);
    free(copy);
}

static void reads(void **state)
{
    (void)state;
    static const char *const texts[] = {"0",
                                        "-0",
                                        "0.0",
                                        "-0.0",
                                        "0e999",
                                        "0.000e-999",
                                        "1",
                                        "-1",
                                        "1e22",
                                        "1e23",
                                        "1e-22",
                                        "1e-23",
                                        "9007199254740993",
                                        "9007199254740992",
                                        "9007199254740991",
                                        "9007199254740993.0000000000000000001",
                                        "18446744073709551615",
                                        "18446744073709551616",
                                        "9999999999999999999",
                                        "99999999999999999999",
                                        "123456789012345678901234567890e-20",
                                        "1.7976931348623157e308",
                                        "1.7976931348623159e308",
                                        "1e999",
                                        "-1e999",
                                        "2.2250738585072014e-308",
                                        "2.2250738585072011e-308",
                                        "4.9e-324",
                                        "2e-324",
                                        "1e-400",
                                        "0.1",
                                        "0.10000000149011612",
                                        "0.30000000000000004",
                                        "3.14159265358979323846264338327950288",
                                        "0.000000000000000000000000000001",
                                        "0.00000000000000000000000000000123456789012345678",
                                        "1e00000000000000000022",
                                        "1e-0000000000000022",
                                        "100000000000000000000000e-22",
                                        "12345678",
                                        "0.12345678",
                                        "0.1234567890123456",
                                        "1e99999999999999999999",
                                        "1e-99999999999999999999",
                                        "8.5e27",
                                        "8.5e-27",
                                        "8.5e28",
                                        "8.5e-28",
                                        "7.2057594037927933e16",
                                        "1.00000000000000011102230246251565404",
                                        "1.00000000000000011102230246251565405"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        same_as_strtod(texts[i]);
    }
    for (int i = 0; i < 400000; i++) {
        char z[80];
        uint64_t u = next_random();
        unsigned kind = (unsigned)(next_random() % 5);
        int e = (int)(next_random() % 64) - 32;
        if (kind == 0) {
            snprintf(z, sizeof(z), "%llue%d", (unsigned long long)u, e);
        } else if (kind == 1) {
            snprintf(z, sizeof(z), "-%llu.%09llu", (unsigned long long)(u % 100000), (unsigned long long)(u >> 35));
        } else if (kind == 2) {
            snprintf(z, sizeof(z), "%.17g", (double)(float)((double)(u >> 11) / 9007199254740992.0));
        } else if (kind == 3) {
            snprintf(z, sizeof(z), "0.%0*llu", 1 + (int)(u % 30), (unsigned long long)(u >> (u % 60)));
        } else {
            /* Halfway between two doubles, exactly: the tie goes to even. */
            snprintf(z, sizeof(z), "%llu.%s", (unsigned long long)((u >> 12) | (uint64_t)1 << 52),
                     u & 1 ? "5" : "50000000000000000001");
        }
        same_as_strtod(z);
    }
}

static void stops(void **state)
{
    (void)state;
    double v;
    const char *z = "12.5,3";
    assert_ptr_equal(scan(z, &v), z + 4);
    assert_true(v == 12.5);
    static const char *const bad[] = {"",     "-",  "+1",  ".5",   "-.5", "1.", "1.x", "1.e5",     "1e", "1e+",
                                      "1e-x", "01", "-00", "00.5", "x",   "e5", "NaN", "Infinity", " 1"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        v = 7;
        assert_null(scan(bad[i], &v));
        assert_true(v == 7);
        assert_null(json_check_number(bad[i], bad[i] + strlen(bad[i])));
    }
    char text[JSON_NUMBER_MAX + 2];
    memset(text, '7', sizeof(text));
    text[1] = '.';
    assert_ptr_equal(json_scan_f64(text, text + JSON_NUMBER_MAX, &v), text + JSON_NUMBER_MAX);
    assert_true(v == 7.777777777777777777777777);
    assert_null(json_scan_f64(text, text + JSON_NUMBER_MAX + 1, &v));
    assert_null(json_check_number(text, text + JSON_NUMBER_MAX + 1));
    memset(text + 2, '0', sizeof(text) - 2);
    assert_null(json_scan_f64(text, text + JSON_NUMBER_MAX + 1, &v));
    memset(text, '0', sizeof(text));
    memcpy(text, "0.", 2);
    assert_null(json_scan_f64(text, text + JSON_NUMBER_MAX + 1, &v));
}

static void integers(void **state)
{
    (void)state;
    static const struct {
        const char *z;
        uint64_t magnitude;
        bool negative;
    } good[] = {{"0", 0, false},
                {"-0", 0, true},
                {"7", 7, false},
                {"-12", 12, true},
                {"18446744073709551615", UINT64_MAX, false},
                {"-9223372036854775808", (uint64_t)1 << 63, true}};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        uint64_t m = 1;
        bool negative = !good[i].negative;
        const char *end = good[i].z + strlen(good[i].z);
        assert_ptr_equal(json_scan_int(good[i].z, end, &m, &negative), end);
        assert_true(m == good[i].magnitude && negative == good[i].negative);
    }
    static const char *const bad[] = {"",  "-",  "+1", "01", "-01", "1.0", "1.", "1e3", "1E3", "18446744073709551616",
                                      "x", " 1", ".5"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        uint64_t m = 42;
        bool negative = true;
        assert_null(json_scan_int(bad[i], bad[i] + strlen(bad[i]), &m, &negative));
        assert_true(m == 42 && negative);
    }
    uint64_t m;
    bool negative;
    const char *z = "15,2";
    assert_ptr_equal(json_scan_int(z, z + 4, &m, &negative), z + 2);
}

static void f32_is(float v, const char *want)
{
    struct buf b;
    buf_init(&b, 100);
    json_f32(&b, v);
    assert_string_equal(buf_z(&b), want);
    buf_done(&b);
}

static void f64_is(double v, const char *want)
{
    struct buf b;
    buf_init(&b, 100);
    json_f64(&b, v);
    assert_string_equal(buf_z(&b), want);
    buf_done(&b);
}

static void writes(void **state)
{
    (void)state;
    f32_is(0, "0.0");
    f32_is(-0.0f, "-0.0");
    f32_is(1, "1.0");
    f32_is(-1, "-1.0");
    f32_is(0.1f, "0.1");
    f32_is(0.3f, "0.3");
    f32_is(100, "100.0");
    f32_is(16777216, "16777216.0");
    f32_is(1234567.9f, "1234567.9");
    f32_is(1e-5f, "0.00001");
    f32_is(1.5e-5f, "0.000015");
    f32_is(9.5e-6f, "9.5e-06");
    f32_is(1e-7f, "1e-07");
    f32_is(1e15f, "1000000000000000.0");
    f32_is(1e16f, "1e+16");
    f32_is(FLT_MAX, "3.4028235e+38");
    f32_is(FLT_MIN, "1.1754944e-38");
    f32_is(1e-45f, "1e-45");
    f32_is(0x1p-30f, "9.313226e-10");
    f32_is(NAN, "null");
    f32_is(-INFINITY, "null");
    f64_is(0.1, "0.1");
    f64_is(0.1 + 0.2, "0.30000000000000004");
    f64_is(1e22, "1e+22");
    f64_is(123456789012345680.0, "1.2345678901234568e+17");
    f64_is(9007199254740991, "9007199254740991.0");
    f64_is(1.0 / 3, "0.3333333333333333");
    f64_is(5e-324, "5e-324");
    f64_is(DBL_MAX, "1.7976931348623157e+308");
    f64_is(DBL_MIN, "2.2250738585072014e-308");
    f64_is(-1e100, "-1e+100");
    f64_is(NAN, "null");
    f64_is(INFINITY, "null");

    /* At the ceiling: all of a number or none of it. */
    struct buf b;
    buf_init(&b, 3);
    json_f32(&b, 1.5f);
    assert_string_equal(buf_z(&b), "1.5");
    json_f64(&b, 1.5);
    assert_true(b.over);
    assert_string_equal(buf_z(&b), "1.5");
    buf_done(&b);
}

/* Digits of a number's text, without zeros in front and behind. */
static int digits_of(const char *z)
{
    int n = 0;
    int zeros = 0;
    for (; *z && *z != 'e'; z++) {
        if (*z >= '1' && *z <= '9') {
            n += zeros + 1;
            zeros = 0;
        } else if (*z == '0' && n > 0) {
            zeros++;
        }
    }
    return n;
}

static void round_f32(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 1000000; i++) {
        uint64_t u = next_random();
        uint32_t bits = (uint32_t)(u >> 20);
        float v;
        memcpy(&v, &bits, sizeof(v));
        if (i % 4 == 1) {
            v = (float)((double)(u >> 11) / 9007199254740992.0 * 100 - 50);
        } else if (i % 4 == 2) {
            v = (float)(u % 2000000) / 100.0f;
        } else if (i % 4 == 3) {
            bits &= 0xFF800000u; /* powers of two, where the neighbours are uneven */
            memcpy(&v, &bits, sizeof(v));
        }
        if (!isfinite(v)) {
            continue;
        }
        buf_clear(&b);
        json_f32(&b, v);
        const char *z = buf_z(&b);
        float single = strtof(z, NULL);
        double back;
        if (memcmp(&single, &v, sizeof(v)) != 0 || scan(z, &back) != z + b.n || (float)back != v) {
            fail_msg("%a became %s", (double)v, z);
        }
        assert_non_null(strpbrk(z, ".e"));
        if (i % 16 < 4) {
            char shorter[40];
            snprintf(shorter, sizeof(shorter), "%.*e", MAX(digits_of(z) - 2, 0), (double)v);
            if (digits_of(z) > 1 && strtof(shorter, NULL) == v) {
                fail_msg("%s would do for %s", shorter, z);
            }
        }
    }
    buf_done(&b);
}

static void round_f64(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 1000000; i++) {
        uint64_t u = next_random();
        double v;
        memcpy(&v, &u, sizeof(v));
        if (i % 8 == 1) {
            u &= 0xFFF0000000000000u;
            memcpy(&v, &u, sizeof(v));
        } else if (i % 2) {
            v = ldexp((double)(u >> 11), (int)(next_random() % 90) - 92);
        } else if (i % 8 == 2) {
            v = (double)(u % 1000000000) / 1000.0;
        } else if (i % 8 == 4) {
            v = (double)(float)((double)(u >> 11) / 9007199254740992.0);
        }
        if (!isfinite(v)) {
            continue;
        }
        buf_clear(&b);
        json_f64(&b, v);
        const char *z = buf_z(&b);
        double want = strtod(z, NULL);
        double back;
        if (memcmp(&want, &v, sizeof(v)) != 0 || scan(z, &back) != z + b.n || memcmp(&back, &v, sizeof(v)) != 0) {
            fail_msg("%a became %s", v, z);
        }
        if (i % 16 < 4) {
            char shorter[40];
            snprintf(shorter, sizeof(shorter), "%.*e", MAX(digits_of(z) - 2, 0), v);
            if (digits_of(z) > 1 && strtod(shorter, NULL) == v) {
                fail_msg("%s would do for %s", shorter, z);
            }
        }
    }
    buf_done(&b);
}

/* What the quick way takes is what the exact way would have taken, to the bit and to the byte. */
static void check_quick(const char *text, size_t n, size_t most, size_t least)
{
    char *copy = malloc(n); /* so that a sanitizer sees a look behind the end */
    float to[64];
    const char *at = copy, *slow = copy;
    size_t got;

    assert_non_null(copy);
    memcpy(copy, text, n);
    got = json_scan_f32s(&at, copy + n, to, most);
    assert_true(got <= most);
    for (size_t i = 0; i < got; i++) {
        double d;
        const char *next = json_scan_f64(slow, copy + n, &d);
        float want = (float)d;

        if (!next || *next != ',' || memcmp(&want, &to[i], sizeof(want)) != 0) {
            fail_msg("%.*s: number %zu of %zu became %a", (int)n, text, i, got, (double)to[i]);
        }
        slow = next + 1 + (next[1] == ' ');
    }
    if (at != slow || got < least) {
        fail_msg("%.*s: %zu were taken, to byte %zu", (int)n, text, got, (size_t)(at - copy));
    }
    free(copy);
}

static void takes_short_numbers_quickly(void **state)
{
    static const char *const parts[] = {"0",       "1",       "-1",     "-0",       "0.5",  "-0.25",  "12.75",
                                        "1234567", "123.456", "01",     "0.",       ".5",   "-",      "1e5",
                                        "1E2",     "--1",     "1.2.3",  "12345678", "1.5e", "0.0001", "null",
                                        "0.12345", "99999",   "-7.125", "\"a\"",    "]",    "7:",     "3/"};
    static const char *const ends[] = {",", ",", ",", ", ", " ,", ",  ", "", "\n,", "]"};
    char text[400];

    (void)state;
    check_quick("1,", 2, 8, 0);
    check_quick("", 0, 8, 0);
    check_quick("0.5,-0.5, 12,7,0.1,0.2,0.3,0.4,0.5", 34, 3, 3);
    check_quick("0.5,-0.5, 12,7,0.1,0.2,0.3,0.4,0.5,0.6", 38, 64, 6);
    for (int i = 0; i < 200000; i++) {
        bool easy = i % 4 == 0;
        size_t n = 0;

        while (n < 300) {
            size_t part = next_random() % (easy ? 9 : COUNT_OF(parts));
            size_t end = next_random() % (easy ? 3 : COUNT_OF(ends));
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", parts[part], ends[end]);
            if (n > 20 && next_random() % 32 == 0) {
                break;
            }
        }
        check_quick(text, n, next_random() % 65, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),
        cmocka_unit_test(stops),
        cmocka_unit_test(integers),
        cmocka_unit_test(writes),
        cmocka_unit_test(round_f32),
        cmocka_unit_test(round_f64),
        cmocka_unit_test(takes_short_numbers_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
