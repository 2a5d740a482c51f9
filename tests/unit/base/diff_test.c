/* SPDX-License-Identifier: Apache-2.0 */
/* Differences by kind, what makes a pair agree, the largest ones, and sums that come out the same however they are cut
 * into parts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/diff.h"

#define NEAR(a, b) assert_true(fabs((a) - (b)) < 1e-9)

static struct diff_sum sum;

static int setup(void **state)
{
    (void)state;
    memset(&sum, 0, sizeof(sum));
    return 0;
}

static bool classes(const char *a, const char *b, const char *id)
{
    struct str x = str_of(a), y = str_of(b);
    struct diff_pair p;

    diff_begin(&p, &sum, str_of(id));
    diff_classes(&p, STR("label"), &x, 1, &y, 1);
    return diff_end(&p);
}

static bool numbers(const double *a, const double *b, size_t n, size_t width, bool floats)
{
    struct diff_pair p;

    diff_begin(&p, &sum, STR("id"));
    diff_numbers(&p, STR("y"), a, b, n, width, floats);
    return diff_end(&p);
}

static bool one_number(double a, double b)
{
    return numbers(&a, &b, 1, 1, true);
}

static bool texts(const char *a, const char *b)
{
    struct str x = str_of(a), y = str_of(b);
    struct diff_pair p;

    diff_begin(&p, &sum, STR("id"));
    diff_texts(&p, STR("t"), &x, &y, 1);
    return diff_end(&p);
}

/* ---- classes ---- */

static void classes_are_counted_by_what_each_side_said(void **state)
{
    (void)state;
    assert_true(classes("cat", "cat", "1"));
    assert_true(classes("cat", "cat", "2"));
    assert_false(classes("cat", "dog", "3"));
    assert_false(classes("dog", "cat", "4"));
    assert_int_equal(sum.pairs, 4);
    assert_int_equal(sum.agree, 2);
    NEAR(diff_agreement(&sum), .5);
    assert_int_equal(sum.n_cells, 3);
    assert_int_equal(sum.cell[0].count, 2);
    assert_string_equal(sum.cell[1].stable, "cat");
    assert_string_equal(sum.cell[1].candidate, "dog");
    assert_string_equal(sum.largest[0].id, "3");
    assert_string_equal(sum.largest[0].stable, "cat");
    assert_string_equal(sum.largest[0].candidate, "dog");
    assert_string_equal(sum.largest[0].output, "label");
}

static void a_batch_agrees_when_all_its_rows_do(void **state)
{
    struct str a[] = {STR("x"), STR("y"), STR("z")}, b[] = {STR("x"), STR("q"), STR("z")};
    struct diff_pair p;

    (void)state;
    diff_begin(&p, &sum, STR("id"));
    diff_classes(&p, STR("label"), a, 3, b, 3);
    assert_false(diff_end(&p));
    NEAR(sum.largest[0].size, 1. / 3);
    assert_int_equal(sum.largest[0].at, 1);
    assert_int_equal(sum.part[DIFF_CLASS].n, 3);
    assert_int_equal(sum.part[DIFF_CLASS].equal, 2);
    diff_begin(&p, &sum, STR("id"));
    diff_classes(&p, STR("label"), a, 3, b, 2); /* another number of rows: all differ */
    assert_false(diff_end(&p));
    assert_int_equal(sum.part[DIFF_CLASS].n, 6);
    assert_int_equal(sum.part[DIFF_CLASS].equal, 2);
    diff_begin(&p, &sum, STR("id"));
    diff_classes(&p, STR("label"), a, 0, b, 2);
    assert_false(diff_end(&p));
}

static void a_class_rules_over_what_else_differs(void **state)
{
    double y[] = {1, 2}, x[] = {1, 3};
    struct str cat = STR("cat"), dog = STR("dog");
    struct diff_pair p;

    (void)state;
    diff_begin(&p, &sum, STR("a"));
    diff_classes(&p, STR("label"), &cat, 1, &cat, 1);
    diff_numbers(&p, STR("y"), y, x, 2, 2, true);
    assert_true(diff_end(&p));
    assert_int_equal(sum.largest[0].kind, DIFF_NUMERIC); /* it is kept all the same */
    diff_begin(&p, &sum, STR("b"));
    diff_numbers(&p, STR("y"), y, x, 2, 2, true);
    diff_classes(&p, STR("label"), &cat, 1, &dog, 1);
    assert_false(diff_end(&p));
    assert_int_equal(sum.largest[0].kind, DIFF_CLASS);
    assert_string_equal(sum.largest[0].id, "b");
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 2);
}

static void scores_are_compared_by_their_best(void **state)
{
    double y[] = {9, 8, 7, 6, 5, 4, 3}, x[] = {9, 8, 1, 2, 5, 4, 3}; /* best five: 0 1 2 3 4 and 0 1 4 5 6 */
    double few_y[] = {1, 2, 3}, few_x[] = {3, 2, 1};
    struct diff_pair p;

    (void)state;
    diff_begin(&p, &sum, STR("id"));
    diff_scores(&p, y, x, 7, 7);
    diff_scores(&p, few_y, few_x, 3, 3);
    assert_int_equal(sum.part[DIFF_CLASS].first.n, 2);
    NEAR(sum.part[DIFF_CLASS].first.least, 3. / 5);
    NEAR(sum.part[DIFF_CLASS].first.most, 1);
}

static void classes_beyond_the_cells_are_counted_together(void **state)
{
    char name[32];

    (void)state;
    for (int i = 0; i < DIFF_CELLS + 30; i++) {
        snprintf(name, sizeof(name), "class-%d", i);
        classes(name, name, "id");
    }
    assert_int_equal(sum.n_cells, DIFF_CELLS);
    assert_int_equal(sum.other_cells, 30);
    assert_int_equal(sum.agree, DIFF_CELLS + 30);
}

/* ---- numbers ---- */

static void numbers_are_equal_within_the_tolerance(void **state)
{
    (void)state;
    assert_true(one_number(1, 1 + .99e-3));
    assert_false(one_number(1, 1 + 1.1e-3));
    assert_true(one_number(0, .99e-5));
    assert_false(one_number(0, 1.1e-5));
    assert_true(one_number(-1000, -1000.9));
    assert_false(one_number(-1000, 1000));
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 6);
    assert_int_equal(sum.part[DIFF_NUMERIC].equal, 3);
    NEAR(sum.part[DIFF_NUMERIC].first.most, 2000);
    NEAR(sum.part[DIFF_NUMERIC].second.most, 2);
    NEAR(sum.largest[0].size, 1);
}

static void what_is_no_number_equals_only_itself(void **state)
{
    double nan = (double)NAN, inf = (double)INFINITY;

    (void)state;
    assert_true(one_number(nan, nan));
    assert_true(one_number(inf, inf));
    assert_false(one_number(nan, 1));
    assert_false(one_number(1, nan));
    assert_false(one_number(inf, 1));
    assert_false(one_number(1, inf));
    assert_false(one_number(inf, -inf));
    assert_true(isfinite(sum.part[DIFF_NUMERIC].first.sum));
    assert_true(isfinite(sum.part[DIFF_NUMERIC].second.sum));
    for (unsigned i = 0; i < sum.n_largest; i++) {
        NEAR(sum.largest[i].size, 1);
    }
}

static void of_a_tensor_the_worst_element_is_shown(void **state)
{
    double y[] = {1, 10, 100, 0}, x[] = {1, 11, 100, 0};

    (void)state;
    assert_false(numbers(y, x, 4, 4, true));
    assert_int_equal(sum.largest[0].at, 1);
    assert_string_equal(sum.largest[0].stable, "10");
    assert_string_equal(sum.largest[0].candidate, "11");
    NEAR(sum.largest[0].size, 1. / 21);
    NEAR(sum.part[DIFF_NUMERIC].first.sum, 1);
    NEAR(sum.part[DIFF_NUMERIC].second.sum, 1. / 11);
}

/* ---- embeddings ---- */

static void wide_vectors_go_by_their_direction(void **state)
{
    double y[DIFF_WIDE], same[DIFF_WIDE], across[DIFF_WIDE], against[DIFF_WIDE], zero[DIFF_WIDE] = {0};

    (void)state;
    for (int i = 0; i < DIFF_WIDE; i++) {
        y[i] = i % 2 ? 1 : 0;
        same[i] = 3 * y[i];
        across[i] = i % 2 ? 0 : 1;
        against[i] = -y[i];
    }
    assert_true(numbers(y, same, DIFF_WIDE, DIFF_WIDE, true));
    assert_false(numbers(y, across, DIFF_WIDE, DIFF_WIDE, true));
    assert_false(numbers(y, against, DIFF_WIDE, DIFF_WIDE, true));
    assert_true(numbers(zero, zero, DIFF_WIDE, DIFF_WIDE, true));
    assert_false(numbers(y, zero, DIFF_WIDE, DIFF_WIDE, true));
    assert_int_equal(sum.part[DIFF_EMBEDDING].n, 5);
    assert_int_equal(sum.part[DIFF_EMBEDDING].equal, 2);
    NEAR(sum.part[DIFF_EMBEDDING].first.least, -1);
    NEAR(sum.largest[0].size, 1);
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 0);
    assert_false(numbers(y, same, DIFF_WIDE, DIFF_WIDE, false)); /* whole numbers are none */
    assert_false(numbers(y, same, DIFF_WIDE, DIFF_WIDE / 2, true));
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 2);
}

/* ---- texts ---- */

static void texts_are_equal_to_the_byte(void **state)
{
    (void)state;
    assert_true(texts("hello", "hello"));
    assert_true(texts("", ""));
    assert_false(texts("kitten", "sitting"));
    assert_int_equal(sum.part[DIFF_TEXT].n, 3);
    assert_int_equal(sum.part[DIFF_TEXT].equal, 2);
    NEAR(sum.part[DIFF_TEXT].first.most, 3. / 7);
    NEAR(sum.part[DIFF_TEXT].second.most, 7. / 6);
    assert_string_equal(sum.largest[0].stable, "kitten");
}

static void edits_are_counted(void **state)
{
    char a[1000], b[1000];

    (void)state;
    NEAR(diff_edit(STR("abc"), STR("abc")), 0);
    NEAR(diff_edit(STR(""), STR("abc")), 1);
    NEAR(diff_edit(STR("abc"), STR("")), 1);
    NEAR(diff_edit(STR("abcd"), STR("acd")), 1. / 4);
    NEAR(diff_edit(STR("flaw"), STR("lawn")), 2. / 4);
    memset(a, 'x', sizeof(a));
    memset(b, 'x', sizeof(b));
    b[999] = 'y'; /* beyond what is looked at */
    NEAR(diff_edit((struct str){a, 1000}, (struct str){b, 1000}), 1. / DIFF_EDIT);
    memset(b, 'y', sizeof(b));
    NEAR(diff_edit((struct str){a, 1000}, (struct str){b, 1000}), 1);
}

static void a_long_text_is_shown_in_whole_characters(void **state)
{
    char text[DIFF_SIDE * 2];

    (void)state;
    for (size_t i = 0; i + 1 < sizeof(text); i += 2) {
        memcpy(text + i, "\xc3\xa4", 2);
    }
    text[sizeof(text) - 2] = '\0';
    assert_false(texts(text, "a"));
    assert_int_equal(strlen(sum.largest[0].stable) % 2, 0);
    assert_int_equal(strlen(sum.largest[0].stable), DIFF_SIDE - 2);
}

static void another_shape_differs_wholly(void **state)
{
    struct diff_pair p;

    (void)state;
    diff_begin(&p, &sum, STR("id"));
    diff_shapes(&p, STR("y"), DIFF_NUMERIC, "[1,4]", "[1,5]");
    assert_false(diff_end(&p));
    NEAR(sum.largest[0].size, 1);
    assert_string_equal(sum.largest[0].candidate, "[1,5]");
    diff_begin(&p, &sum, STR("id"));
    diff_shapes(&p, STR("label"), DIFF_CLASS, "cat", "none");
    assert_false(diff_end(&p));
    assert_int_equal(sum.part[DIFF_CLASS].n, 1);
}

/* ---- the largest ---- */

static void the_largest_are_kept_in_order(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        char id[32];
        double y = 1, x = 1 + (double)((i * 37) % 200 + 1) / 100;
        struct diff_pair p;

        snprintf(id, sizeof(id), "%d", (i * 37) % 200 + 1);
        diff_begin(&p, &sum, str_of(id));
        diff_numbers(&p, STR("y"), &y, &x, 1, 1, true);
        assert_false(diff_end(&p));
    }
    assert_int_equal(sum.n_largest, DIFF_LARGEST);
    for (int i = 0; i < DIFF_LARGEST; i++) {
        assert_int_equal(strtol(sum.largest[i].id, NULL, 10), 200 - i);
    }
}

static void of_equal_ones_the_earlier_stay(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        char id[32];

        snprintf(id, sizeof(id), "%d", i);
        classes("a", "b", id);
    }
    for (int i = 0; i < DIFF_LARGEST; i++) {
        assert_int_equal(strtol(sum.largest[i].id, NULL, 10), i);
    }
}

/* ---- labels ---- */

static void labels_are_a_paired_test(void **state)
{
    double ln_e, trip;

    (void)state;
    assert_int_equal(diff_verdict(&sum, &ln_e, &trip), 0);
    for (int i = 0; i < 42; i++) {
        diff_label(&sum, false, true);
        diff_label(&sum, true, true); /* says nothing about which is better */
    }
    for (int i = 0; i < 18; i++) {
        diff_label(&sum, true, false);
        diff_label(&sum, false, false);
    }
    assert_int_equal(diff_verdict(&sum, &ln_e, &trip), 1);
    assert_true(fabs(ln_e - 3.959132) < 1e-6); /* 42 of 60 */
    assert_true(fabs(trip - log(40)) < 1e-12);
    assert_int_equal(sum.both_right, 42);
    assert_int_equal(sum.both_wrong, 18);
    sum.stable_right = 42;
    sum.candidate_right = 18;
    assert_int_equal(diff_verdict(&sum, &ln_e, &trip), -1);
    sum.candidate_right = 30;
    assert_int_equal(diff_verdict(&sum, &ln_e, &trip), 0);
}

/* ---- merging, JSON ---- */

static void some_of_everything(struct diff_sum *to, int from, int until)
{
    for (int i = from; i < until; i++) {
        char id[32], a[32], b[32];
        double y[] = {i, 1}, x[] = {i + (i % 5) * .1, 1};
        struct str s, c;
        struct diff_pair p;

        snprintf(id, sizeof(id), "%d", i);
        snprintf(a, sizeof(a), "class-%d", i % 7);
        snprintf(b, sizeof(b), "class-%d", i % 11 % 7);
        s = str_of(a);
        c = str_of(b);
        diff_begin(&p, to, str_of(id));
        diff_classes(&p, STR("label"), &s, 1, &c, 1);
        diff_numbers(&p, STR("y"), y, x, 2, 2, true);
        diff_texts(&p, STR("t"), &s, &c, 1);
        diff_end(&p);
        diff_label(to, i % 2, i % 3 == 0);
    }
}

static void a_sum_of_parts_is_the_sum_of_all(void **state)
{
    static struct diff_sum part[2], whole;
    struct buf a, b;

    (void)state;
    memset(part, 0, sizeof(part));
    memset(&whole, 0, sizeof(whole));
    some_of_everything(&whole, 0, 300);
    some_of_everything(&part[0], 0, 120);
    some_of_everything(&part[1], 120, 300);
    diff_merge(&sum, &part[0]);
    diff_merge(&sum, &part[1]);
    sum.part[DIFF_NUMERIC].first.sum = whole.part[DIFF_NUMERIC].first.sum; /* but for the order of additions */
    sum.part[DIFF_NUMERIC].second.sum = whole.part[DIFF_NUMERIC].second.sum;
    sum.part[DIFF_TEXT].first.sum = whole.part[DIFF_TEXT].first.sum;
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    diff_json(&a, &sum, true);
    diff_json(&b, &whole, true);
    assert_string_equal(buf_z(&a), buf_z(&b));
    buf_done(&a);
    buf_done(&b);
}

static void the_json_says_what_was_counted(void **state)
{
    struct buf b;
    yyjson_doc *doc;
    yyjson_val *root, *v;

    (void)state;
    buf_init(&b, 1 << 20);
    diff_json(&b, &sum, true);
    doc = yyjson_read(b.p, b.n, 0);
    root = yyjson_doc_get_root(doc);
    assert_true(yyjson_is_null(yyjson_obj_get(root, "agreement")) && yyjson_is_null(yyjson_obj_get(root, "labels")));
    assert_int_equal(yyjson_obj_size(yyjson_obj_get(root, "kinds")), 0);
    yyjson_doc_free(doc);
    buf_clear(&b);
    classes("a", "b", "an \"id\"");
    classes("b", "b", "id");
    diff_label(&sum, true, false);
    diff_json(&b, &sum, true);
    doc = yyjson_read(b.p, b.n, 0);
    root = yyjson_doc_get_root(doc);
    NEAR(yyjson_get_num(yyjson_obj_get(root, "agreement")), .5);
    assert_int_equal(yyjson_get_uint(yyjson_obj_get(root, "differ")), 1);
    assert_int_equal(yyjson_arr_size(yyjson_obj_get(root, "classes")), 2);
    v = yyjson_arr_get_first(yyjson_obj_get(root, "largest"));
    assert_string_equal(yyjson_get_str(yyjson_obj_get(v, "id")), "an \"id\"");
    assert_string_equal(yyjson_get_str(yyjson_obj_get(v, "kind")), "class");
    v = yyjson_obj_get(root, "labels");
    assert_string_equal(yyjson_get_str(yyjson_obj_get(v, "verdict")), "undecided");
    NEAR(yyjson_get_num(yyjson_obj_get(v, "stable_accuracy")), 1);
    yyjson_doc_free(doc);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(classes_are_counted_by_what_each_side_said, setup),
        cmocka_unit_test_setup(a_batch_agrees_when_all_its_rows_do, setup),
        cmocka_unit_test_setup(a_class_rules_over_what_else_differs, setup),
        cmocka_unit_test_setup(scores_are_compared_by_their_best, setup),
        cmocka_unit_test_setup(classes_beyond_the_cells_are_counted_together, setup),
        cmocka_unit_test_setup(numbers_are_equal_within_the_tolerance, setup),
        cmocka_unit_test_setup(what_is_no_number_equals_only_itself, setup),
        cmocka_unit_test_setup(of_a_tensor_the_worst_element_is_shown, setup),
        cmocka_unit_test_setup(wide_vectors_go_by_their_direction, setup),
        cmocka_unit_test_setup(texts_are_equal_to_the_byte, setup),
        cmocka_unit_test_setup(edits_are_counted, setup),
        cmocka_unit_test_setup(a_long_text_is_shown_in_whole_characters, setup),
        cmocka_unit_test_setup(another_shape_differs_wholly, setup),
        cmocka_unit_test_setup(the_largest_are_kept_in_order, setup),
        cmocka_unit_test_setup(of_equal_ones_the_earlier_stay, setup),
        cmocka_unit_test_setup(labels_are_a_paired_test, setup),
        cmocka_unit_test_setup(a_sum_of_parts_is_the_sum_of_all, setup),
        cmocka_unit_test_setup(the_json_says_what_was_counted, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
