/* SPDX-License-Identifier: Apache-2.0 */
/* Feedback as it comes: one object, many lines, and what is wrong with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/feedback_read.h"

#define MODEL STR("intent")

static struct feedback_items read_text(const char *text, bool lines)
{
    struct feedback_items items;
    struct err e = {0};

    if (feedback_read(&items, MODEL, str_of(text), lines, &e) != ERR_OK) {
        fail_msg("%s: %s", text, e.text);
    }
    return items;
}

static void one_object(void **state)
{
    static const char *const texts[] = {
        "{\"id\":\"a\",\"label\":\"mug\",\"reward\":-0.5,\"supersede\":true,\"at\":\"2026-01-01\",\"source\":\"s\"}",
        " {\n  \"id\": \"a\",\n  \"label\": \"mug\",\n  \"reward\": -0.5, \"supersede\": true, \"more\": []\n}\r\n\n ",
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct feedback_items f = read_text(texts[i], false);

        assert_int_equal(f.n, 1);
        assert_false(f.lines);
        assert_null(f.item->why);
        assert_true(f.item->key == join_key(MODEL, STR("a")) && f.item->label == join_label(STR("mug")));
        assert_true(f.item->has_label && f.item->has_reward && !f.item->has_correct && f.item->supersede);
        assert_true(f.item->reward == -.5);
        assert_true(str_eq(feedback_id(&f, f.item), STR("a")) && str_eq(feedback_label(&f, f.item), STR("mug")));
        assert_int_equal(f.item->result, FEEDBACK_ORPHAN);
        feedback_items_done(&f);
    }
}

static void what_is_wrong_with_one(void **state)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "a JSON object"},
        {"[]", "a JSON object"},
        {"5", "a JSON object"},
        {"{\"id\":\"a\",\"label\":\"x\"} x", "a JSON object"},
        {"{\"id\":\"a\",\"label\":\"x\"} {}", "a JSON object"},
        {"{\"id\":\"a\",\"label\":\"x\"", "a JSON object"},
        {"{}", "id is missing"},
        {"{\"id\":\"\",\"label\":\"x\"}", "id is missing"},
        {"{\"id\":7,\"label\":\"x\"}", "id is missing"},
        {"{\"id\":\"a\"}", "at least one"},
        {"{\"id\":\"a\",\"label\":7}", "label is a string"},
        {"{\"id\":\"a\",\"correct\":\"yes\"}", "correct is true or false"},
        {"{\"id\":\"a\",\"reward\":\"1\"}", "reward is a number"},
        {"{\"id\":\"a\",\"reward\":2e12}", "between -1e12 and 1e12"},
        {"{\"id\":\"a\",\"reward\":-2e12}", "between -1e12 and 1e12"},
        {"{\"id\":\"a\",\"reward\":1e999}", "a JSON object"},
        {"{\"id\":\"a\",\"label\":\"x\",\"correct\":true}", "not both"},
        {"{\"id\":\"a\",\"correct\":true,\"supersede\":1}", "supersede is true or false"},
        {"{\"id\":\"a\",\"correct\":true,\"source\":1}", "source is a string"},
        {"{\"id\":\"a\",\"correct\":true,\"at\":true}", "at is a time"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct feedback_items f = read_text(bad[i].text, false);

        assert_int_equal(f.n, 1);
        if (!f.item->why || !strstr(f.item->why, bad[i].why)) {
            fail_msg("%s: '%s' does not say '%s'", bad[i].text, f.item->why ? f.item->why : "", bad[i].why);
        }
        feedback_items_done(&f);
    }
}

static void many_lines(void **state)
{
    static const char text[] = "{\"id\":\"a\",\"correct\":true}\r\n"
                               "\n"
                               "{\"id\":\"b\",\"correct\":\n"
                               "  {\"id\":\"c\",\"reward\":1}";

    (void)state;
    for (int said = 0; said < 2; said++) { /* by the sender, or seen */
        struct feedback_items f = read_text(text, said);

        assert_true(f.lines);
        assert_int_equal(f.n, 3);
        assert_true(!f.item[0].why && f.item[0].correct && f.item[0].line == 1);
        assert_true(f.item[1].why && f.item[1].line == 3);
        assert_true(!f.item[2].why && f.item[2].has_reward && f.item[2].line == 4);
        assert_true(f.item[2].key == join_key(MODEL, STR("c")) && str_eq(feedback_id(&f, &f.item[2]), STR("c")));
        assert_null(feedback_label(&f, &f.item[2]).p);
        feedback_items_done(&f);
    }
    struct feedback_items one = read_text("{\"id\":\"a\",\"correct\":true}", true);
    assert_true(one.lines && one.n == 1);
    feedback_items_done(&one);
}

static void too_many_and_none(void **state)
{
    static const char line[] = "{\"id\":\"a\",\"correct\":true}\n";
    struct feedback_items f;
    struct err e = {0};
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    for (unsigned i = 0; i < FEEDBACK_LINES; i++) {
        buf_addz(&b, line);
    }
    assert_int_equal(feedback_read(&f, MODEL, buf_str(&b), false, &e), ERR_OK);
    assert_int_equal(f.n, FEEDBACK_LINES);
    feedback_items_done(&f);
    buf_addz(&b, line);
    assert_int_equal(feedback_read(&f, MODEL, buf_str(&b), false, &e), ERR_TOO_LARGE);
    assert_non_null(strstr(e.text, "4097 lines of feedback, at most 4096 at once"));
    buf_done(&b);
    assert_int_equal(feedback_read(&f, MODEL, STR(" \n\r\n"), true, &e), ERR_INVALID);
    assert_int_equal(feedback_read(&f, MODEL, (struct str){NULL, 0}, true, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "no feedback in it"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_object),
        cmocka_unit_test(what_is_wrong_with_one),
        cmocka_unit_test(many_lines),
        cmocka_unit_test(too_many_and_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
