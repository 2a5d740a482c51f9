/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's data in a file of its own: what is written is there, also after it was closed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "data/data.h"

struct at {
    char folder[64], file[80], why[512];
    struct data *d;
};

static int open_new(void **state)
{
    struct at *a = calloc(1, sizeof *a);
    snprintf(a->folder, sizeof a->folder, "/tmp/shop-data-XXXXXX");
    assert_non_null(mkdtemp(a->folder));
    snprintf(a->file, sizeof a->file, "%s/shop.db", a->folder);
    assert_true(data_open(&a->d, a->file, a->why, sizeof a->why));
    *state = a;
    return 0;
}

static int close_it(void **state)
{
    struct at *a = *state;
    data_close(a->d);
    unlink(a->file);
    rmdir(a->folder);
    free(a);
    return 0;
}

static void reopen(struct at *a)
{
    data_close(a->d);
    a->d = NULL;
    assert_true(data_open(&a->d, a->file, a->why, sizeof a->why));
}

static void the_catalogue_is_what_the_models_know(void **state)
{
    struct at *a = *state;
    for (int round = 0; round < 2; round++) {
        int n = 0;
        const struct data_product *p = data_products(a->d, &n);
        assert_int_equal(n, 200);
        for (int i = 0; i < n; i++) {
            assert_int_equal(p[i].id, i + 1);
            assert_true(p[i].cents > 0 && p[i].name[0] && p[i].kind[0] && p[i].colour[0] && p[i].about[0]);
        }
        reopen(a);
    }
}

static void views_are_kept_in_order_and_bounded(void **state)
{
    struct at *a = *state;
    int64_t got[60];
    assert_int_equal(data_views(a->d, "anna", got, 60), 0);
    for (int i = 1; i <= 70; i++) {
        assert_true(data_view(a->d, "anna", i, i));
        assert_true(data_view(a->d, "anna", i, i)); /* twice in a row is once */
    }
    assert_true(data_view(a->d, "bert'; DROP TABLE views; --", 7, 1));
    reopen(a);
    assert_int_equal(data_views(a->d, "anna", got, 60), 50);
    assert_true(got[0] == 21 && got[49] == 70);
    assert_int_equal(data_views(a->d, "anna", got, 12), 12);
    assert_true(got[0] == 59 && got[11] == 70);
    assert_int_equal(data_views(a->d, "bert'; DROP TABLE views; --", got, 12), 1);
}

static void orders_end_once_and_belong_to_one(void **state)
{
    struct at *a = *state;
    struct data_order o = {.product = 3, .cents = 1200, .shipping_cents = 490, .placed_at = 100}, got[20];
    int64_t id = 0;
    bool changed;
    assert_true(data_order_add(a->d, "anna", &o, &id));
    assert_true(id > 0);
    assert_true(data_order_end(a->d, "bert", id, DATA_CANCELLED, &changed));
    assert_false(changed);
    assert_true(data_order_end(a->d, "anna", id, DATA_CANCELLED, &changed));
    assert_true(changed);
    assert_true(data_order_end(a->d, "anna", id, DATA_RETURNED, &changed));
    assert_false(changed);
    reopen(a);
    assert_int_equal(data_orders(a->d, "anna", got, 20), 1);
    assert_true(got[0].id == id && got[0].product == 3 && got[0].cents == 1200 && got[0].shipping_cents == 490);
    assert_int_equal(got[0].end, DATA_CANCELLED);
    assert_int_equal(data_orders(a->d, "bert", got, 20), 0);
}

static void a_welcome_comes_once(void **state)
{
    struct at *a = *state;
    struct data_order got[20];
    assert_true(data_welcome(a->d, "anna", 10000000));
    assert_true(data_welcome(a->d, "anna", 20000000));
    assert_int_equal(data_orders(a->d, "anna", got, 20), 2);
    assert_true(got[0].placed_at > got[1].placed_at && got[0].placed_at < 10000000); /* the newest first */
}

static void thumbs_may_change_their_mind(void **state)
{
    struct at *a = *state;
    assert_true(data_thumb(a->d, "anna", "intent", "r1", true, 1));
    assert_true(data_thumb(a->d, "anna", "intent", "r1", false, 2));
}

static void a_file_that_is_none(void **state)
{
    struct at *a = *state;
    struct data *d = NULL;
    assert_false(data_open(&d, a->folder, a->why, sizeof a->why)); /* a folder */
    assert_null(d);
    assert_non_null(strstr(a->why, a->folder));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_catalogue_is_what_the_models_know, open_new, close_it),
        cmocka_unit_test_setup_teardown(views_are_kept_in_order_and_bounded, open_new, close_it),
        cmocka_unit_test_setup_teardown(orders_end_once_and_belong_to_one, open_new, close_it),
        cmocka_unit_test_setup_teardown(a_welcome_comes_once, open_new, close_it),
        cmocka_unit_test_setup_teardown(thumbs_may_change_their_mind, open_new, close_it),
        cmocka_unit_test_setup_teardown(a_file_that_is_none, open_new, close_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
