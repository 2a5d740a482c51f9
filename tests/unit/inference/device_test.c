/* SPDX-License-Identifier: Apache-2.0 */
/* Names of devices: one spelling each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/base.h"
#include "inference/device.h"

static void names_that_are_one(void **state)
{
    static const struct {
        const char *name;
        bool cuda;
        unsigned number;
    } rows[] = {{NULL, false, 0}, {"cpu", false, 0}, {"cuda:0", true, 0}, {"cuda:7", true, 7}, {"cuda:63", true, 63}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct device d = {!rows[i].cuda, 99};
        assert_true(device_parse(&d, rows[i].name));
        assert_true(d.cuda == rows[i].cuda && d.number == rows[i].number);
    }
}

static void names_that_are_none(void **state)
{
    static const char *const rows[] = {
        "",        "CPU",     "cpu ",    "cpu:0",    "cuda",   "cuda:",    "cuda:-1",  "cuda:+1",
        "cuda:01", "cuda:00", "cuda:64", "cuda:100", "cuda:a", "cuda: 1",  "cuda:1 ",  "Cuda:0",
        "gpu:0",   "rocm:0",  "cuda:0x", "cuda:1:2", "cud",    "cuda:1e1", "cuda:\n0", "cuda;0"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct device d = {true, 99};
        assert_false(device_parse(&d, rows[i]));
        assert_true(d.cuda && d.number == 99);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_are_one),
        cmocka_unit_test(names_that_are_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
