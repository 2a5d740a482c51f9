/* SPDX-License-Identifier: Apache-2.0 */
/* The arena: alignment, the ceiling, memory kept and given back at a reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"

static void hands_out(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 10 << 20);
    unsigned char *got[1000];
    for (size_t i = 0; i < COUNT_OF(got); i++) {
        got[i] = arena_alloc(&a, 1 + i % 500);
        assert_non_null(got[i]);
        assert_int_equal((uintptr_t)got[i] % 16, 0);
        memset(got[i], (int)(i & 255), 1 + i % 500);
    }
    for (size_t i = 0; i < COUNT_OF(got); i++) {
        for (size_t k = 0; k < 1 + i % 500; k++) {
            assert_int_equal(got[i][k], i & 255); /* nobody else wrote here */
        }
    }
    unsigned char *zero = arena_zalloc(&a, 300);
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(zero[i], 0);
    }
    assert_string_equal(arena_strndup(&a, "hello world", 5), "hello");
    assert_string_equal(arena_strndup(&a, NULL, 0), "");
    assert_non_null(arena_alloc(&a, 0));
    arena_done(&a);
    arena_done(NULL);
}

static void ceiling(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 100000);
    assert_null(arena_alloc(&a, 100001));
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_strndup(&a, "x", SIZE_MAX));
    assert_non_null(arena_alloc(&a, 60000));
    assert_null(arena_alloc(&a, 60000));
    assert_non_null(arena_alloc(&a, 40000));
    assert_null(arena_alloc(&a, 1));
    assert_null(arena_zalloc(&a, 1));
    arena_reset(&a);
    assert_non_null(arena_alloc(&a, 100000));
    arena_done(&a);
}

static void steady(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 64 << 20);
    void *before[20] = {0};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < COUNT_OF(before); i++) {
            void *p = arena_alloc(&a, 3000);
            assert_true(round == 0 || p == before[i]); /* the same blocks: nothing came from the heap */
            before[i] = p;
        }
        arena_reset(&a);
        assert_int_equal(a.used, 0);
    }
    /* A huge round does not keep its memory. */
    for (int i = 0; i < 10; i++) {
        assert_non_null(arena_alloc(&a, 1 << 20));
    }
    struct arena_block *first = a.first;
    arena_reset(&a);
    assert_ptr_equal(a.first, first);
    assert_ptr_equal(arena_alloc(&a, 3000), before[0]);
    arena_done(&a);

    arena_init(&a, 64 << 20);
    assert_non_null(arena_alloc(&a, 1 << 20)); /* huge from the start */
    arena_reset(&a);
    assert_null(a.first);
    assert_non_null(arena_alloc(&a, 100));
    arena_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hands_out),
        cmocka_unit_test(ceiling),
        cmocka_unit_test(steady),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
