/* SPDX-License-Identifier: Apache-2.0 */
/* Strings by length, strict numbers, names, checked arithmetic, memory that aborts when there is none. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"

static void strings(void **state)
{
    (void)state;
    assert_true(str_is(STR("abc"), "abc"));
    assert_false(str_is(STR("abc"), "ab"));
    assert_true(str_eq((struct str){0}, STR("")));
    assert_true(str_eq_nocase(STR("Content-Length"), STR("content-LENGTH")));
    assert_false(str_eq_nocase(STR("a[b"), STR("a{b"))); /* 32 apart, but no letters */
    assert_false(str_eq_nocase(STR("ab"), STR("abc")));
    char field[4];
    assert_true(str_copy(field, sizeof(field), STR("abc")));
    assert_string_equal(field, "abc");
    assert_false(str_copy(field, sizeof(field), STR("abcd")));
    assert_string_equal(field, "");
    assert_false(str_copy(field, sizeof(field), STR("a\0b")));
    assert_true(str_copy(field, sizeof(field), (struct str){0}));
    assert_false(str_copy(field, 0, STR("")));
}

static void whole_numbers(void **state)
{
    (void)state;
    uint64_t v = 7;
    assert_true(str_u64(STR("0"), &v) && v == 0);
    assert_true(str_u64(STR("18446744073709551615"), &v) && v == UINT64_MAX);
    assert_true(str_u64(STR("0012"), &v) && v == 12);
    static const char *const bad[] = {
        "", "-1", "+1", " 1", "1 ", "1a", "0x10", "18446744073709551616", "99999999999999999999"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        v = 7;
        assert_false(str_u64(str_of(bad[i]), &v));
        assert_int_equal(v, 7);
    }
}

static void floats(void **state)
{
    (void)state;
    double v = 7;
    assert_true(str_f64(STR("-1.5e2"), &v) && v == -150);
    assert_true(str_f64((struct str){"0.25999", 4}, &v) && v == 0.25);
    static const char *const bad[] = {"", "1.", ".5", "+1", "01", "1e", "nan", "inf", "1e999", "0x1", "1 ", "--1"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        v = 7;
        assert_false(str_f64(str_of(bad[i]), &v));
        assert_true(v == 7);
    }
}

static void names(void **state)
{
    (void)state;
    char longest[NAME_MAX_LEN + 2];
    memset(longest, 'n', sizeof(longest));
    assert_true(name_ok((struct str){longest, NAME_MAX_LEN}));
    assert_false(name_ok((struct str){longest, NAME_MAX_LEN + 1}));
    assert_true(name_ok(STR("resnet-50_v1.5")));
    assert_true(name_ok(STR("...")));
    static const char *const bad[] = {"", ".", "..", "a/b", "a b", "\xC3\xA4", "a\n", "a:b"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_false(name_ok(str_of(bad[i])));
    }
    assert_false(name_ok(STR("a\0b")));
}

static void arithmetic(void **state)
{
    (void)state;
    uint64_t v = 1;
    assert_false(ck_mul(UINT64_MAX, 2, &v));
    assert_false(ck_add(UINT64_MAX, 1, &v));
    assert_int_equal(v, 1);
    assert_true(ck_mul(1u << 31, 2, &v) && v == (uint64_t)1 << 32);
    assert_int_equal(ALIGN_UP(65, 64), 128);
    assert_int_equal(ALIGN_UP(64, 64), 64);
    struct pair {
        int a, b;
    } pair;
    assert_ptr_equal(CONTAINER_OF(&pair.b, struct pair, b), &pair);
}

static void memory(void **state)
{
    (void)state;
    char *z = xasprintf("%s-%d", "a", 5);
    assert_string_equal(z, "a-5");
    z = xrealloc(z, 100);
    assert_string_equal(z, "a-5");
    free(z);
    z = xstrndup("abcdef", 3);
    assert_string_equal(z, "abc");
    free(z);
    z = xstrndup("ab\0cd", 5);
    assert_string_equal(z, "ab");
    free(z);
    free(xmalloc(0));
    free(xcalloc(0, 8));

    pid_t pid = fork();
    if (pid == 0) {
        /* Quiet, and without the handlers of the test library. */
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        volatile size_t huge = SIZE_MAX / 4;
        char *volatile got = xcalloc(huge, 2);
        _exit(got == NULL ? 0 : got[0]); /* 0: it went on */
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    /* A sanitizer's allocator may end the process itself; it does not go on either way. */
    assert_int_not_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings), cmocka_unit_test(whole_numbers), cmocka_unit_test(floats),
        cmocka_unit_test(names),   cmocka_unit_test(arithmetic),    cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
