/* SPDX-License-Identifier: Apache-2.0 */
/* Sample requests and the predictions read from replies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cli/samples.h"

static void labels_are_taken_out(void **state)
{
    (void)state;
    struct samples s = {0};
    struct err e;
    const char *text =
        "{\"inputs\":[{\"data\":[\"a\"]}],\"label\":\"x\"}\r\n\n  \n{\"label\":7,\"inputs\":[]}\n{\"inputs\":[1.5]}";
    assert_int_equal(samples_read(&s, str_of(text), &e), ERR_OK);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.list[0].body, "{\"inputs\":[{\"data\":[\"a\"]}]}");
    assert_int_equal(s.list[0].body_n, strlen(s.list[0].body));
    assert_string_equal(s.list[0].label, "x");
    assert_string_equal(s.list[1].body, "{\"inputs\":[]}");
    assert_string_equal(s.list[1].label, "7");
    assert_null(s.list[2].label);
    samples_done(&s);
}

static void bad_lines_are_named(void **state)
{
    (void)state;
    struct samples s = {0};
    struct err e;
    assert_int_equal(samples_read(&s, STR("{}\n{\n"), &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "sample 2"));
    assert_int_equal(samples_read(&s, STR("[]"), &e), ERR_INVALID);
    assert_int_equal(samples_read(&s, STR("\n\n"), &e), ERR_NOT_FOUND);
    assert_int_equal(samples_read(&s, (struct str){NULL, 0}, &e), ERR_NOT_FOUND);
    assert_int_equal(s.n, 0);
}

static void predictions_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *reply, *want; /* NULL: none */
        bool by_index;
    } rows[] = {
        {"{\"outputs\":[{\"datatype\":\"BYTES\",\"data\":[\"refund\"]},{\"datatype\":\"FP32\",\"data\":[1]}]}",
         "refund", false},
        {"{\"outputs\":[{\"datatype\":\"FP32\",\"data\":[9,1]},{\"datatype\":\"INT64\",\"data\":[[-4,5]]}]}", "-4",
         false},
        {"{\"outputs\":[{\"datatype\":\"FP32\",\"data\":[0.1,0.7,0.2]}]}", "1", true},
        {"{\"outputs\":[{\"datatype\":\"FP32\",\"data\":[[[-3,-2,-9]]]}]}", "1", true},
        {"{\"outputs\":[{\"datatype\":\"FP32\",\"data\":[]}]}", NULL, true},
        {"{\"outputs\":[{\"datatype\":\"FP32\",\"data\":[\"x\"]}]}", NULL, true},
        {"{\"outputs\":[]}", NULL, true},
        {"no json", NULL, true},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char text[64] = "";
        bool by_index = false;
        assert_int_equal(sample_predicted(str_of(rows[i].reply), text, sizeof text, &by_index), rows[i].want != NULL);
        if (rows[i].want) {
            assert_string_equal(text, rows[i].want);
            assert_int_equal(by_index, rows[i].by_index);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_taken_out),
        cmocka_unit_test(bad_lines_are_named),
        cmocka_unit_test(predictions_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
