/* SPDX-License-Identifier: Apache-2.0 */
/* What handlers ask an exchange for: header fields, decoded paths, query parameters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "net/http.h"

static void header_fields(void **state)
{
    (void)state;
    const struct http_header h[] = {
        {STR("host"), STR("a")}, {STR("x"), STR("1")}, {STR("x"), STR("2")}, {STR("e"), STR("")}};
    struct http_ex x = {.headers = h, .n_headers = COUNT_OF(h)};
    assert_true(str_is(http_header(&x, "host"), "a"));
    assert_true(str_is(http_header(&x, "x"), "1"));
    assert_null(http_header(&x, "hos").p);
    assert_non_null(http_header(&x, "e").p);
    assert_int_equal(http_header_count(&x, "x"), 2);
    assert_int_equal(http_header_count(&x, "y"), 0);
}

static void decoding(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 4096);
    struct http_ex x = {.arena = &arena};
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"", ""},       {"abc", "abc"},         {"a%20b", "a b"},     {"%2e%2E%2f", "../"},
        {"a+b", "a+b"}, {"%C3%a9", "\xc3\xa9"}, {"%25%32%35", "%25"}, /* once */
        {"%", NULL},    {"%2", NULL},           {"a%g0", NULL},       {"%0g", NULL},
        {"%00", NULL},  {"abc%", NULL},         {"%+1", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct str s = http_decode(&x, str_of(rows[i].in));
        if (rows[i].out == NULL) {
            assert_null(s.p);
        } else {
            assert_true(s.p != NULL && str_is(s, rows[i].out));
            assert_int_equal(s.p[s.n], '\0');
        }
    }
    static char big[8192];
    assert_null(http_decode(&x, (struct str){big, sizeof big}).p); /* more than the arena may hold */
    arena_done(&arena);
}

static void query_parameters(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 4096);
    struct http_ex x = {.arena = &arena, .query = STR("a=1&b=&c&d=x%3dy&a=2&&=v&e=1=2")};
    assert_true(str_is(http_query(&x, "a"), "1"));
    assert_true(http_query(&x, "b").p != NULL && http_query(&x, "b").n == 0);
    assert_true(http_query(&x, "c").p != NULL && http_query(&x, "c").n == 0);
    assert_true(str_is(http_query(&x, "d"), "x=y"));
    assert_true(str_is(http_query(&x, "e"), "1=2"));
    assert_null(http_query(&x, "f").p);
    x.query = STR("");
    assert_null(http_query(&x, "a").p);
    x.query = STR("a=%zz");
    assert_null(http_query(&x, "a").p);
    arena_done(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_fields),
        cmocka_unit_test(decoding),
        cmocka_unit_test(query_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
