/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: the table's meaning to a client, texts that are cut, the reason of a failed system call. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

static void table(void **state)
{
    (void)state;
    assert_int_equal(err_http(ERR_NOT_FOUND), 404);
    assert_int_equal(err_grpc(ERR_NOT_FOUND), 5);
    assert_int_equal(err_http(ERR_STORAGE), 507);
    assert_true(err_retryable(ERR_UNAVAILABLE));
    assert_false(err_retryable(ERR_INVALID));
    assert_string_equal(err_name(ERR_OK), "ok");
    assert_string_equal(err_name(ERR_NOT_FOUND), "not_found");
    assert_string_equal(err_name(ERR_UNAUTHENTICATED), "unauthenticated");
    assert_string_equal(err_name((enum err_code)999), "internal");
    for (int code = 0; code < ERR_COUNT_; code++) {
        for (const char *c = err_name((enum err_code)code); *c; c++) {
            assert_true((*c >= 'a' && *c <= 'z') || *c == '_');
        }
    }
}

static void from_http(void **state)
{
    (void)state;
    assert_int_equal(err_from_http(200), ERR_OK);
    assert_int_equal(err_from_http(204), ERR_OK);
    assert_int_equal(err_from_http(404), ERR_NOT_FOUND);
    assert_int_equal(err_from_http(500), ERR_INTERNAL);
    assert_int_equal(err_from_http(418), ERR_INVALID);
    assert_int_equal(err_from_http(502), ERR_INTERNAL);
    assert_int_equal(err_from_http(0), ERR_INTERNAL);
}

static void set_and_cut(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, ERR_CONFLICT, "version %d of '%s' is loading", 3, "mnist"), ERR_CONFLICT);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_string_equal(e.text, "version 3 of 'mnist' is loading");
    assert_int_equal(err_set(NULL, ERR_QUOTA, "nobody listens"), ERR_QUOTA);

    /* The text may come from the error itself. */
    err_set(&e, ERR_INVALID, "shape: %s", e.text);
    assert_string_equal(e.text, "shape: version 3 of 'mnist' is loading");

    /* Wherever the cut falls, no character is halved. */
    for (size_t lead = 0; lead < 8; lead++) {
        char text[700] = "";
        memset(text, 'x', lead);
        for (size_t n = lead; n < 600; n += 4) {
            memcpy(text + n, "\xF0\x9F\x8C\x8A", 5);
        }
        err_set(&e, ERR_INVALID, "%s", text);
        size_t n = strlen(e.text);
        assert_true(n <= sizeof(e.text) - 1 && n > sizeof(e.text) - 5);
        assert_int_equal((n - lead) % 4, 0);
        assert_memory_equal(e.text, text, n);
    }
}

static void system_reason(void **state)
{
    (void)state;
    struct err e;
    errno = ENOENT;
    assert_int_equal(err_sys(&e, ERR_NOT_FOUND, "open %s", "/a"), ERR_NOT_FOUND);
    assert_string_equal(e.text, "open /a: No such file or directory");
    assert_int_equal(errno, ENOENT);
    char text[700];
    memset(text, 'y', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    errno = EIO;
    err_sys(&e, ERR_STORAGE, "%s", text);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_non_null(strstr(e.text, "yy: Input/output error"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(from_http),
        cmocka_unit_test(set_and_cut),
        cmocka_unit_test(system_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
