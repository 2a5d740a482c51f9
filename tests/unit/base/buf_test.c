/* SPDX-License-Identifier: Apache-2.0 */
/* The buffer: growth, the ceiling, formatting at borders, dropping and trimming. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/buf.h"

static void grows(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, SIZE_MAX);
    assert_string_equal(buf_z(&b), "");
    for (int i = 0; i < 100000; i++) {
        buf_addc(&b, (char)('a' + i % 26));
    }
    assert_int_equal(b.n, 100000);
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(b.p[i], 'a' + i % 26);
    }
    buf_drop(&b, 99998);
    assert_string_equal(buf_z(&b), "cd"); /* 99,998 is 2 modulo 26 */
    buf_done(&b);
    buf_addz(&b, "again");
    assert_string_equal(buf_z(&b), "again");
    buf_done(&b);
    buf_done(NULL);
}

static void ceiling(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    buf_addz(&b, "0123456789");
    assert_false(b.over);
    assert_string_equal(buf_z(&b), "0123456789"); /* the terminator is beyond the ceiling and still fits */
    buf_addc(&b, 'x');
    assert_true(b.over);
    assert_int_equal(b.n, 10);
    buf_drop(&b, 5);
    buf_addc(&b, 'x'); /* takes nothing more, even if it would fit */
    assert_string_equal(buf_z(&b), "56789");
    assert_null(buf_room(&b, 1));
    buf_clear(&b);
    assert_false(b.over);
    buf_addz(&b, "abc");
    assert_string_equal(buf_z(&b), "abc");
    assert_null(buf_room(&b, SIZE_MAX));
    buf_done(&b);
}

static void formats(void **state)
{
    (void)state;
    /* Every length around the end of the memory, with every fill. */
    for (size_t fill = 240; fill < 260; fill++) {
        for (int width = 1; width < 30; width++) {
            struct buf b;
            buf_init(&b, 4096);
            for (size_t i = 0; i < fill; i++) {
                buf_addc(&b, '.');
            }
            buf_addf(&b, "%0*d", width, 7);
            assert_int_equal(b.n, fill + (size_t)width);
            assert_int_equal(b.p[b.n - 1], '7');
            assert_false(b.over);
            buf_done(&b);
        }
    }
    struct buf b;
    buf_init(&b, 10);
    buf_addf(&b, "%d", 1234567890);
    assert_false(b.over);
    assert_string_equal(buf_z(&b), "1234567890");
    buf_clear(&b);
    buf_addf(&b, "%s", "12345678901");
    assert_true(b.over);
    assert_int_equal(b.n, 0);
    buf_done(&b);
}

static void decimals(void **state)
{
    (void)state;
    static const int64_t values[] = {0, 1, -1, 9, 10, 99, 100, INT64_MAX, INT64_MIN, 1234567890123};
    struct buf b;
    char want[32];
    buf_init(&b, 1000);
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        buf_clear(&b);
        buf_addi(&b, values[i]);
        snprintf(want, sizeof(want), "%lld", (long long)values[i]);
        assert_string_equal(buf_z(&b), want);
    }
    buf_clear(&b);
    buf_addu(&b, UINT64_MAX);
    BUF_LIT(&b, "!");
    assert_string_equal(buf_z(&b), "18446744073709551615!");
    buf_done(&b);
}

static void trims(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_non_null(buf_room(&b, 100000));
    buf_addc(&b, 'x');
    buf_trim(&b, 1000); /* not empty: stays */
    assert_true(b.cap >= 100000);
    buf_clear(&b);
    buf_trim(&b, 200000);
    assert_true(b.cap >= 100000);
    buf_trim(&b, 1000);
    assert_int_equal(b.cap, 0);
    buf_addz(&b, "y");
    assert_string_equal(buf_z(&b), "y");
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows),    cmocka_unit_test(ceiling), cmocka_unit_test(formats),
        cmocka_unit_test(decimals), cmocka_unit_test(trims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
