/* SPDX-License-Identifier: Apache-2.0 */
/* Captured requests read and joined, the output that says the class found, answers compared. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cli/answers.h"

#define INPUTS "\"request\":{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1.5]}]}"
#define LABEL(class) "{\"name\":\"label\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"" class "\"]}"
#define SCORES(list) "{\"name\":\"scores\",\"shape\":[1,3],\"datatype\":\"FP32\",\"data\":[" list "]}"
#define LINE(id, rest) \
    "{\"kind\":\"request\",\"id\":\"" id "\",\"at_ms\":5,\"version\":1,\"latency_us\":900," INPUTS "," rest "}\n"
#define SAYS(class, outputs) "\"predicted\":\"" class "\",\"response\":{\"outputs\":[" outputs "]}"

static struct scratch scratch;

static struct records read_ok(const char *text, size_t limit)
{
    struct records r = {0};
    struct err e = {0};

    if (records_read(&r, str_of(text), limit, &e) != ERR_OK) {
        fail_msg("%s", e.text);
    }
    return r;
}

/* ---- reading ---- */

static void lines_become_requests_to_send(void **state)
{
    struct records r =
        read_ok(LINE("a", SAYS("cat", LABEL("cat"))) "\n" LINE("b", "\"response\":{}") "{\"kind\":\"other\"}\n", 10);

    (void)state;
    assert_int_equal(r.n, 2);
    assert_string_equal(r.list[0].id, "a");
    assert_string_equal(r.list[0].predicted, "cat");
    assert_string_equal(r.list[0].body,
                        "{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1.5]}]}");
    assert_int_equal(r.list[0].body_n, strlen(r.list[0].body));
    assert_int_equal(r.list[0].latency_us, 900);
    assert_int_equal(r.list[0].at_ms, 5);
    assert_int_equal(r.list[0].version, 1);
    assert_null(r.list[1].outputs);
    assert_null(r.list[1].predicted);
    records_done(&r);
}

static void what_can_not_be_replayed_is_counted(void **state)
{
    struct records r =
        read_ok("{\"kind\":\"request\",\"id\":\"a\",\"redacted\":true," INPUTS "}\n"
                "{\"kind\":\"request\",\"id\":\"b\",\"request\":{\"inputs\":[{\"name\":\"x\",\"shape\":[1],"
                "\"datatype\":\"BYTES\",\"data\":[\"/w==\"],\"encoding\":\"base64\"}]}}\n"
                "{\"kind\":\"request\",\"id\":\"c\"," INPUTS ",\"response\":{\"outputs\":[{\"name\":\"y\","
                "\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"/w==\"],\"encoding\":\"base64\"}]}}\n"
                "{\"kind\":\"request\",\"id\":\"d\",\"arm\":\"direct\"," INPUTS "}\n"
                "not JSON\n"
                "{\"kind\":\"request\",\"id\":\"e\"}\n" LINE("f", "\"response\":{\"outputs\":[]}"),
                10);

    (void)state;
    assert_int_equal(r.n, 1);
    assert_int_equal(r.redacted, 1);
    assert_int_equal(r.binary, 2);
    assert_int_equal(r.direct, 1);
    assert_int_equal(r.unreadable, 2);
    records_done(&r);
}

static void nothing_to_replay_is_an_error(void **state)
{
    struct records r;
    struct err e;

    (void)state;
    assert_int_equal(records_read(&r, STR("{\"kind\":\"request\",\"redacted\":true}\n"), 10, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "1 of the lines are redacted"));
    assert_int_equal(records_read(&r, STR(""), 10, &e), ERR_NOT_FOUND);
}

static void at_most_the_limit_is_taken(void **state)
{
    struct records r = read_ok(LINE("a", "\"x\":1") LINE("b", "\"x\":1") LINE("c", "\"x\":1"), 2);

    (void)state;
    assert_int_equal(r.n, 2);
    assert_string_equal(r.list[1].id, "b");
    records_done(&r);
}

static void the_first_feedback_counts(void **state)
{
    struct records r =
        read_ok("{\"kind\":\"feedback\",\"id\":\"a\",\"label\":\"dog\"}\n" LINE("a", "\"x\":1") LINE("b", "\"x\":1")
                    LINE("c", "\"x\":1") "{\"kind\":\"feedback\",\"id\":\"a\",\"label\":\"cat\"}\n"
                                         "{\"kind\":\"feedback\",\"id\":\"b\",\"correct\":false}\n{\"kind\":"
                                         "\"feedback\",\"id\":\"c\",\"reward\":1}\n"
                                         "{\"kind\":\"feedback\",\"id\":\"nobody\",\"label\":\"cat\"}\n",
                10);

    (void)state;
    assert_string_equal(r.list[0].label, "dog");
    assert_null(r.list[1].label);
    assert_true(r.list[1].told && !r.list[1].correct);
    assert_false(r.list[2].told);
    assert_int_equal(r.unjoined, 1);
    records_done(&r);
}

/* ---- the class ---- */

static void class_is(const struct class_rule *rule, yyjson_val *outputs, const char *expected)
{
    char small[24];
    struct str class;

    assert_true(class_of(rule, outputs, small, &class));
    assert_true(str_is(class, expected));
}

static void an_output_that_says_the_class_is_found(void **state)
{
    struct records r = read_ok(LINE("a", SAYS("cat", SCORES("1,0,0") "," LABEL("cat")))
                                   LINE("b", SAYS("dog", SCORES("0,1,0") "," LABEL("dog"))),
                               10);
    struct class_rule rule;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    assert_string_equal(rule.output, "label");
    assert_false(rule.scores);
    class_is(&rule, r.list[1].outputs, "dog");
    class_rule_done(&rule);
    records_done(&r);
}

static void what_the_server_tells_comes_first(void **state)
{
    struct records r = read_ok(LINE("a", SAYS("cat", SCORES("1,0,0") "," LABEL("cat")))
                                   LINE("b", SAYS("dog", SCORES("0,1,0") "," LABEL("dog"))),
                               10);
    struct class_rule rule;

    (void)state;
    class_rule_learn(&rule, &r, "scores");
    assert_string_equal(rule.output, "scores");
    class_is(&rule, r.list[1].outputs, "dog");
    class_rule_done(&rule);
    class_rule_learn(&rule, &r, "nothing of that name");
    assert_string_equal(rule.output, "label");
    class_rule_done(&rule);
    records_done(&r);
}

static void names_of_places_are_learnt(void **state)
{
    struct records r = read_ok(LINE("a", SAYS("cat", SCORES("1,0,0"))) LINE("b", SAYS("dog", SCORES("0,1,0")))
                                   LINE("c", "\"response\":{\"outputs\":[" SCORES("0,0,1") "]}"),
                               10);
    struct class_rule rule;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    assert_string_equal(rule.output, "scores");
    assert_true(rule.scores);
    class_is(&rule, r.list[0].outputs, "cat");
    class_is(&rule, r.list[1].outputs, "dog");
    class_is(&rule, r.list[2].outputs, "2"); /* never named */
    class_rule_done(&rule);
    records_done(&r);
}

static void what_contradicts_itself_says_no_class(void **state)
{
    struct records r = read_ok(LINE("a", SAYS("cat", SCORES("1,0,0"))) LINE("b", SAYS("dog", SCORES("1,0,0"))), 10);
    struct class_rule rule;
    char small[24];
    struct str class;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    assert_null(rule.output);
    assert_false(class_of(&rule, r.list[0].outputs, small, &class));
    class_rule_done(&rule);
    records_done(&r);
}

static void a_whole_number_may_be_the_class(void **state)
{
    struct records r =
        read_ok(LINE("a", SAYS("-3", "{\"name\":\"k\",\"shape\":[1],\"datatype\":\"INT64\",\"data\":[-3]}")), 10);
    struct class_rule rule;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    class_is(&rule, r.list[0].outputs, "-3");
    class_rule_done(&rule);
    records_done(&r);
}

/* ---- comparing ---- */

static bool compared(struct diff_sum *sum, const struct class_rule *rule, yyjson_val *a, const char *b)
{
    yyjson_doc *doc = yyjson_read(b, strlen(b), 0);
    bool agrees = answers_compare(sum, &scratch, rule, STR("id"), a, yyjson_doc_get_root(doc));

    assert_non_null(doc);
    yyjson_doc_free(doc);
    return agrees;
}

static void answers_are_compared_by_their_outputs(void **state)
{
    struct records r = read_ok(LINE("a", SAYS("cat", SCORES("1,0,0") "," LABEL("cat")))
                                   LINE("b", SAYS("dog", SCORES("0,1,0") "," LABEL("dog"))),
                               10);
    static struct diff_sum sum;
    struct class_rule rule;
    yyjson_val *a = r.list[0].outputs;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    assert_true(compared(&sum, &rule, a, "[" LABEL("cat") "," SCORES("[1,0],[0.0]") "]")); /* nested, another order */
    assert_true(compared(&sum, &rule, a, "[" SCORES("0.5,0,0") "," LABEL("cat") "]"));
    assert_false(compared(&sum, &rule, a, "[" SCORES("1,0,0") "," LABEL("dog") "]"));
    assert_int_equal(sum.part[DIFF_CLASS].n, 3);
    assert_int_equal(sum.part[DIFF_CLASS].equal, 2);
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 3);
    assert_int_equal(sum.part[DIFF_NUMERIC].equal, 2);
    assert_int_equal(sum.part[DIFF_TEXT].n, 0);
    assert_false(compared(&sum, &rule, a, "[" SCORES("1,0,0") "]")); /* no class */
    assert_true(compared(&sum, &rule, a, "[" LABEL("cat") "]"));     /* no scores: the class rules */
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 5);
    assert_int_equal(sum.part[DIFF_NUMERIC].equal, 3);
    class_rule_done(&rule);
    records_done(&r);
}

static void scores_that_say_the_class_are_compared_as_such(void **state)
{
    struct records r = read_ok(LINE("a", SAYS("cat", SCORES("5,1,0"))), 10);
    static struct diff_sum sum;
    struct class_rule rule;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    assert_true(compared(&sum, &rule, r.list[0].outputs, "[" SCORES("9,2,0") "]"));
    assert_false(compared(&sum, &rule, r.list[0].outputs, "[" SCORES("0,2,0") "]"));
    assert_int_equal(sum.part[DIFF_CLASS].first.n, 2);
    assert_int_equal(sum.part[DIFF_NUMERIC].n, 0);
    assert_string_equal(sum.largest[0].stable, "cat");
    assert_string_equal(sum.largest[0].candidate, "1");
    class_rule_done(&rule);
    records_done(&r);
}

static void without_a_class_all_outputs_count(void **state)
{
    struct records r = read_ok(LINE("a", "\"response\":{\"outputs\":[" SCORES("1,null,0") "]}"), 10);
    static struct diff_sum sum;
    struct class_rule rule;

    (void)state;
    class_rule_learn(&rule, &r, NULL);
    assert_null(rule.output);
    assert_true(compared(&sum, &rule, r.list[0].outputs, "[" SCORES("1,null,0") "]"));
    assert_false(compared(&sum, &rule, r.list[0].outputs, "[" SCORES("1,0,0") "]"));
    assert_false(compared(&sum, &rule, r.list[0].outputs, "[]"));
    assert_string_equal(sum.largest[1].stable, "[1,3]");
    assert_string_equal(sum.largest[1].candidate, "none");
    class_rule_done(&rule);
    records_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_become_requests_to_send),
        cmocka_unit_test(what_can_not_be_replayed_is_counted),
        cmocka_unit_test(nothing_to_replay_is_an_error),
        cmocka_unit_test(at_most_the_limit_is_taken),
        cmocka_unit_test(the_first_feedback_counts),
        cmocka_unit_test(an_output_that_says_the_class_is_found),
        cmocka_unit_test(what_the_server_tells_comes_first),
        cmocka_unit_test(names_of_places_are_learnt),
        cmocka_unit_test(what_contradicts_itself_says_no_class),
        cmocka_unit_test(a_whole_number_may_be_the_class),
        cmocka_unit_test(answers_are_compared_by_their_outputs),
        cmocka_unit_test(scores_that_say_the_class_are_compared_as_such),
        cmocka_unit_test(without_a_class_all_outputs_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
