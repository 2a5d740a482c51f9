/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of servers, right ones and wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/url.h"

static void right_ones(void **state)
{
    static const struct {
        const char *text, *scheme, *host, *authority;
        uint16_t port;
    } rows[] = {
        {"http://vision.internal:8000", "http", "vision.internal", "vision.internal:8000", 8000},
        {"weir://10.0.0.7:1/", "weir", "10.0.0.7", "10.0.0.7:1", 1},
        {"http://[::1]:65535", "http", "::1", "[::1]:65535", 65535},
        {"http://host", "http", "host", "host:80", 80},
        {"http://[fe80::1]", "http", "fe80::1", "[fe80::1]:80", 80},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct err e;
        struct url u;

        assert_int_equal(url_parse(&u, str_of(rows[i].text), 80, &e), ERR_OK);
        assert_string_equal(u.scheme, rows[i].scheme);
        assert_string_equal(u.host, rows[i].host);
        assert_string_equal(u.authority, rows[i].authority);
        assert_int_equal(u.port, rows[i].port);
    }
}

static void wrong_ones(void **state)
{
    static const char *const rows[] = {
        "",           "host:80",         "http:/host",          "://host:1",     "HTTP://host:1",      "http://",
        "http://:80", "http://host:0",   "http://host:65536",   "http://h:1x",   "http://h:",          "http://[::1:80",
        "http://a/b", "http://a:1/path", "http://user@host:80", "http://a b:1",  "http://[::1]x:80",   "http://h?q:1",
        "h2ttp://a",  "http://a:1#f",    "http://[a/b]:1",      "http://ho\"st", "http://ho\r\nst:80",
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct err e;
        struct url u = {.port = 77};

        assert_int_equal(url_parse(&u, str_of(rows[i]), 80, &e), ERR_INVALID);
        assert_int_equal(u.port, 77);
        assert_non_null(strstr(e.text, "is no address of a server"));
    }
}

static void a_port_that_must_be_said(void **state)
{
    struct err e;
    struct url u;

    (void)state;
    assert_int_equal(url_parse(&u, STR("weir://host"), 0, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "the port is missing"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_ones),
        cmocka_unit_test(wrong_ones),
        cmocka_unit_test(a_port_that_must_be_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
