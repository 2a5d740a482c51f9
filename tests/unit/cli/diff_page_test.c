/* SPDX-License-Identifier: Apache-2.0 */
/* A sum of differences, from JSON to the characters on the screen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/diff.h"
#include "cli/diff_page.h"

static struct diff_sum sum, noise;

static yyjson_doc *document(const struct diff_sum *s)
{
    struct buf b;
    yyjson_doc *doc;

    buf_init(&b, 1 << 20);
    diff_json(&b, s, true);
    doc = yyjson_read(b.p, b.n, 0);
    assert_non_null(doc);
    buf_done(&b);
    return doc;
}

static void pair(struct diff_sum *to, const char *id, const char *stable, const char *candidate, double score)
{
    struct str a = str_of(stable), b = str_of(candidate);
    double y = .5;
    struct diff_pair p;

    diff_begin(&p, to, str_of(id));
    diff_classes(&p, STR("label"), &a, 1, &b, 1);
    diff_numbers(&p, STR("score"), &y, &score, 1, 1, true);
    diff_end(&p);
}

static void page(struct buf *out, const char *times)
{
    yyjson_doc *d = document(&sum), *n = document(&noise), *t = yyjson_read(times, strlen(times), 0);
    struct diff_view v = {.stable = "version 1",
                          .candidate = "version 2",
                          .diff = yyjson_doc_get_root(d),
                          .noise = yyjson_doc_get_root(n),
                          .times = yyjson_doc_get_root(t),
                          .times_of = "run"};

    buf_init(out, 1 << 20);
    diff_page(out, &v);
    buf_z(out);
    yyjson_doc_free(d);
    yyjson_doc_free(n);
    yyjson_doc_free(t);
}

static int setup(void **state)
{
    (void)state;
    memset(&sum, 0, sizeof(sum));
    memset(&noise, 0, sizeof(noise));
    return 0;
}

static void a_page_says_what_differs(void **state)
{
    struct buf out;

    (void)state;
    pair(&sum, "r-1", "cat", "cat", .5);
    pair(&sum, "r-2", "cat", "dog", .75);
    pair(&sum, "r-3", "dog", "dog", .5);
    pair(&sum, "r-4", "dog", "dog", .5);
    pair(&noise, "r-1", "cat", "cat", .5);
    diff_label(&sum, true, true);
    diff_label(&sum, true, false);
    page(&out, "{\"stable\":{\"n\":4,\"p50\":1.5,\"p95\":2.5},\"candidate\":{\"n\":4,\"p50\":0.5,\"p95\":12.25}}");
    assert_string_equal(
        out.p, "  compared      4 pairs, 75.00 % agree\n"
               "  noise floor   1 pair, 100.00 % agree, version 1 with itself\n"
               "\n"
               "  kind     compared    equal                            noise equal\n"
               "  class           4  75.00 %                               100.00 %\n"
               "  numeric         4  75.00 %  off by 0.0625, most 0.25     100.00 %\n"
               "\n"
               "  run, ms  version 1  version 2\n"
               "  p50          1.500      0.500\n"
               "  p95          2.500       12.2\n"
               "\n"
               "  with labels   2: both right 1, only version 1 1, only version 2 0, neither 0\n"
               "  accuracy      100.00 % and 50.00 %: which is better is not known yet (evidence 0.22 of 3.69)\n"
               "\n"
               "  other classes\n"
               "  cat  -> dog  1\n"
               "\n"
               "  largest differences\n"
               "  request  output  at  version 1  version 2\n"
               "  r-2      label   0   cat        dog\n");
    buf_done(&out);
}

static void a_page_of_nothing_is_short(void **state)
{
    struct buf out;

    (void)state;
    page(&out, "{}");
    assert_string_equal(out.p, "  compared      0 pairs, - agree\n"
                               "  noise floor   version 1 was not asked twice yet\n");
    buf_done(&out);
}

static void what_is_long_is_cut(void **state)
{
    struct buf out;
    char id[32], class[32];

    (void)state;
    for (int i = 0; i < 30; i++) {
        snprintf(id, sizeof(id), "r-%d", i);
        snprintf(class, sizeof(class), "class-%d", i);
        pair(&sum, id,
             "a\033["
             "2J\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3"
             "\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4",
             class, .5);
    }
    page(&out, "{}");
    assert_non_null(strstr(out.p, "and 20 pairs of classes more (--json)"));
    assert_non_null(strstr(out.p, "and 20 more (--json)"));
    assert_null(strchr(out.p, '\033'));
    assert_non_null(strstr(out.p, "\xc3\xa4..."));
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_page_says_what_differs, setup),
        cmocka_unit_test_setup(a_page_of_nothing_is_short, setup),
        cmocka_unit_test_setup(what_is_long_is_cut, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
