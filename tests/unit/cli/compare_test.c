/* SPDX-License-Identifier: Apache-2.0 */
/* The sentence about two arms, by a table of what was counted; and the comparison as a whole with a hostile class name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cli/compare.h"
#include "cli/show.h"

struct arm {
    unsigned requests, errors;
    const char *p95, *accuracy, *reward; /* as JSON */
    unsigned labels;
};
static const struct row {
    struct arm stable, canary;
    const char *want;
} rows[] = {
    {{1000, 0, "1.02", "0.951", "null", 1000},
     {50, 0, "3.1", "0.853", "null", 50},
     "In 50 requests against 1,000, v2 is less accurate (0.853 vs 0.951, n 50 vs 1,000) and slower at p95 (3.100 vs "
     "1.020 "
     "ms); neither had an error."},
    {{1000, 10, "2", "0.9", "null", 10},
     {500, 50, "1", "0.9001", "null", 10},
     "In 500 requests against 1,000, v2 is as accurate (0.900 vs 0.900, n 10 vs 10) and faster at p95 (1.000 vs 2.000 "
     "ms); "
     "it has more errors (10.00 % vs 1.00 %)."},
    {{100, 1, "2", "null", "null", 0},
     {100, 0, "2.03", "null", "null", 0},
     "In 100 requests against 100, v2 is as fast at p95 (2.030 vs 2.000 ms); it has fewer errors (0.00 % vs 1.00 %)."},
    {{100, 1, "2", "0.5", "1.5", 4},
     {1, 0, "null", "0.75", "2", 4},
     "In 1 request against 100, v2 is more accurate (0.750 vs 0.500, n 4 vs 4) and better rewarded (2.000 vs 1.500, n "
     "4 vs "
     "4); it has fewer errors (0.00 % vs 1.00 %)."},
    {{100, 0, "null", "null", "null", 0},
     {1, 0, "null", "null", "null", 0},
     "In 1 request against 100, v2 is not measured yet in accuracy or time; neither had an error."},
    {{100, 0, "1", "null", "null", 0},
     {0, 0, "null", "null", "null", 0},
     "v2 has answered no request yet: there is nothing to compare."},
    {{0, 0, "null", "null", "null", 0},
     {7, 0, "1", "null", "null", 0},
     "v1 has answered no request yet: there is nothing to compare."},
};

static int write_arm(char *out, size_t cap, const char *name, int version, int share, const struct arm *a)
{
    return snprintf(
        out, cap,
        "{\"arm\":\"%s\",\"version\":%d,\"share_bp\":%d,\"requests\":%u,\"errors\":%u,\"users\":5,\"keyless\":0,"
        "\"latency_ms\":{\"p95\":%s},\"feedback\":{\"n\":%u,\"accuracy\":%s,\"reward_n\":%u,\"reward_mean\":%s},"
        "\"classes\":[{\"class\":\"a\\u001b[2J\",\"count\":1,\"share\":0.5},{\"class\":null,\"count\":3}]}",
        name, version, share, a->requests, a->errors, a->p95, a->labels, a->accuracy, a->labels, a->reward);
}

static yyjson_doc *document(const struct row *r)
{
    char text[4096], stable[1500], canary[1500];
    write_arm(stable, sizeof stable, "stable", 1, 9500, &r->stable);
    write_arm(canary, sizeof canary, "canary", 2, 500, &r->canary);
    int n = snprintf(text, sizeof text,
                     "{\"model\":\"m\",\"rollout\":{\"state\":\"running\",\"stable\":1,\"canary\":2,\"share_bp\":500,"
                     "\"started\":\"t\"},\"arms\":[%s,%s]}",
                     stable, canary);
    yyjson_doc *doc = yyjson_read(text, (size_t)n, 0);
    assert_non_null(doc);
    return doc;
}

static void the_sentence_says_what_was_counted(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buf out;
        yyjson_doc *doc = document(&rows[i]);
        buf_init(&out, 10000);
        compare_verdict(&out, yyjson_doc_get_root(doc));
        assert_string_equal(buf_z(&out), rows[i].want);
        buf_done(&out);
        yyjson_doc_free(doc);
    }
}

static void arms_stand_side_by_side(void **state)
{
    (void)state;
    struct buf out;
    yyjson_doc *doc = document(&rows[0]);
    buf_init(&out, 100000);
    compare_table(&out, yyjson_doc_get_root(doc), true, false);
    const char *text = buf_z(&out);
    assert_non_null(strstr(text, "stable v1"));
    assert_non_null(strstr(text, "+2.080 (3.04x)"));
    assert_non_null(strstr(text, "class a?[2J"));
    assert_non_null(strstr(text, "queue p95 ms"));
    assert_null(strchr(text, '\033'));
    buf_clear(&out);
    compare_table(&out, yyjson_doc_get_root(doc), false, false);
    text = buf_z(&out);
    assert_non_null(strstr(text, "+2.080 (3.04x)"));
    assert_true(!strstr(text, "class") && !strstr(text, "queue"));
    buf_done(&out);
    yyjson_doc_free(doc);
}

static void a_line_for_a_log(void **state)
{
    (void)state;
    static const struct {
        const char *rollout, *want;
    } lines[] = {
        {"{\"state\":\"running\"}", "running  v"}, /* of an older server */
        {"{\"state\":\"running\",\"phase\":\"warmup\",\"step\":1,\"steps\":[100,500],\"pause\":null,\"verdict\":null}",
         "running  warmup 1/2  no verdict  v"},
        {"{\"state\":\"running\",\"phase\":\"paused\",\"step\":2,\"steps\":[100,500],\"pause\":\"ratio\","
         "\"verdict\":{\"verdict\":\"inconclusive\"}}",
         "running  paused (ratio) 2/2  inconclusive  v"},
        {"{\"state\":\"soaking\",\"phase\":\"soak\",\"step\":2,\"steps\":[100,500],\"verdict\":{\"verdict\":\"pass\"}}",
         "soaking  soak 2/2  pass  v"},
    };
    for (size_t i = 0; i < COUNT_OF(lines); i++) {
        char text[1000];
        struct buf out;
        int n = snprintf(text, sizeof text, "{\"rollout\":%s,\"arms\":[]}", lines[i].rollout);
        yyjson_doc *doc = yyjson_read(text, (size_t)n, 0);
        buf_init(&out, 10000);
        compare_line(&out, yyjson_doc_get_root(doc));
        if (strncmp(buf_z(&out), lines[i].want, strlen(lines[i].want)) != 0) {
            fail_msg("%s", out.p);
        }
        assert_true(out.p[out.n - 1] == '\n' && memchr(out.p, '\n', out.n) == out.p + out.n - 1);
        buf_done(&out);
        yyjson_doc_free(doc);
    }
}

static void documents_without_arms_are_survived(void **state)
{
    (void)state;
    static const char *const texts[] = {"{}", "[]", "{\"rollout\":null,\"arms\":[1,{}]}", "{\"arms\":{\"arm\":2}}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct buf out;
        yyjson_doc *doc = yyjson_read(texts[i], strlen(texts[i]), 0);
        buf_init(&out, 100000);
        compare_table(&out, yyjson_doc_get_root(doc), true, true);
        compare_verdict(&out, yyjson_doc_get_root(doc));
        compare_line(&out, yyjson_doc_get_root(doc));
        assert_non_null(strstr(buf_z(&out), "nothing to compare"));
        buf_done(&out);
        yyjson_doc_free(doc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sentence_says_what_was_counted),
        cmocka_unit_test(arms_stand_side_by_side),
        cmocka_unit_test(a_line_for_a_log),
        cmocka_unit_test(documents_without_arms_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
