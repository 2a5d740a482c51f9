/* SPDX-License-Identifier: Apache-2.0 */
/* An experiment's page, from the server's JSON to the characters on the screen. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/experiment_page.h"
#include "cli/rollout_page.h"
#include "cli/show.h"

static const struct page_style plain = {0}, unicode = {.utf8 = true}, full = {.utf8 = true, .colour = true};

#define FINDING                                                                                                     \
    "\"finding\":{\"result\":\"better\",\"text\":\"version 2 is better: reward 0.541, of version 1 0.5: +0.041 "    \
    "(+8.2 %; always-valid 95 %: +0.012 to "                                                                        \
    "+0.07)\",\"stable\":{\"n\":11840,\"groups\":250,\"dropped\":0,\"mean\":0.5,"                                   \
    "\"se\":0.01},\"canary\":{\"n\":1204,\"groups\":240,\"dropped\":2,\"mean\":0.541,\"se\":0.01},\"difference\":{" \
    "\"low\":0.012,\"mid\":0.041,\"high\":0.07,\"p\":0.0031,\"tolerated\":-0.0}}"
#define HIDDEN "\"finding\":{\"result\":\"hidden\",\"text\":\"hidden: users are not split 1:1 as ordered\"}"
#define TEST(more) \
    "\"experiment\":{\"goal\":\"reward\",\"lower\":false,\"alpha\":0.05,\"margin_bp\":0,\"min_s\":604800.0," more "}"
#define VERDICT                                                                                           \
    "\"verdict\":{\"verdict\":\"pass\",\"text\":\"no harm seen in 1,204 answers\",\"ratio\":{\"p\":0.61," \
    "\"broken\":false},\"findings\":[]}"
#define PAGE(state, ended, reason, test)                                                                       \
    "{\"model\":\"intent\",\"rollout\":{\"state\":\"" state "\",\"stable\":1,\"canary\":2,\"share_bp\":5000,"  \
    "\"started\":\"2026-11-24T04:10:11.123Z\",\"ended\":" ended ",\"reason\":\"" reason                        \
    "\",\"policy\":{\"name\":\"experiment\","                                                                  \
    "\"automatic\":"                                                                                           \
    "false},\"phase\":\"bake\",\"exposed\":{\"stable\":8012,\"canary\":401,\"ordered\":0.5,\"actual\":0.4767}" \
    "," VERDICT "," test "},\"arms\":[]}"
#define RUNNING                                                                                                  \
    PAGE("running", "null", "",                                                                                  \
         TEST("\"ship_from\":\"2026-12-01T04:10:11.123Z\",\"expires\":\"2026-12-22T04:10:11.123Z\",\"outcome\":" \
              "null,\"may_ship\":false," FINDING))

static const char *page(struct buf *out, const char *json, const struct page_style *s)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);

    assert_non_null(doc);
    buf_clear(out);
    experiment_page(out, yyjson_doc_get_root(doc), s);
    yyjson_doc_free(doc);
    return buf_z(out);
}

static void draws(double low, double mid, double high, const struct page_style *s, const char *want, double ends)
{
    struct buf out;
    double most;

    buf_init(&out, 1000);
    difference_show(&out, low, mid, high, &most, s);
    assert_string_equal(buf_z(&out), want);
    assert_true(fabs(most - ends) < 1e-12);
    buf_done(&out);
}

static void a_difference_is_a_bar_about_zero(void **state)
{
    (void)state;
    draws(-.1, 0, .1, &plain, "|-----------------o-----------------|", .1);
    draws(.012, .041, .07, &plain, "..................!.|----o-----|.....", .1);
    draws(-3, 1, 4, &plain, ".......|----------+---o---------|....", 5);
    draws(-150, -100, -50, &plain, "....|----o---|....!..................", 200);
    draws(.012, .041, .07, &unicode, "··················│·├────●─────┤·····", .1);
    draws(0, 0, 0, &plain, "..................!..................", 1);
    draws(NAN, NAN, NAN, &plain, "..................!..................", 1);
}

static void a_running_one_as_plain_text(void **state)
{
    struct buf out;

    (void)state;
    buf_init(&out, 1u << 20);
    assert_string_equal(page(&out, RUNNING, &plain),
                        "intent  v1 | v2  [RUNNING]  each has 50 % of the users\n"
                        "  goal reward (the higher the better)\n"
                        "  started 2026-11-24 04:10:11 UTC, ends 2026-12-22 04:10:11 UTC\n"
                        "  may be shipped from 2026-12-01 04:10:11 UTC on\n"
                        "\n"
                        "  BETTER     version 2 is better: reward 0.541, of version 1 0.5: +0.041 (+8.2\n"
                        "             %; always-valid 95 %: +0.012 to +0.07)\n"
                        "\n"
                        "  goal       stable v1         canary v2         difference\n"
                        "  reward     0.5 n 11.8k       0.541 n 1,204     +0.041\n"
                        "             ..................!.|----o-----|.....  +0.012 to +0.07\n"
                        "             -0.1              0              +0.1  always-valid 95 %, p 0.003\n"
                        "             not counted, as they were no numbers: 0 of v1, 2 of v2\n"
                        "\n"
                        "  harm       PASS: no harm seen in 1,204 answers\n"
                        "\n"
                        "  traffic    ordered 50.00 %, actual 47.67 % of 8,413 users: as ordered (p 0.61)\n"
                        "\n"
                        "  you may    weir experiment stop intent       end it; the stable version stays\n");
    buf_done(&out);
}

static const struct {
    const char *json;
    const char *has[5], *not[4];
} states[] = {
    {PAGE("running", "null", "", TEST("\"ship_from\":null,\"outcome\":null,\"may_ship\":true," FINDING)),
     {"[RUNNING]", "weir experiment ship intent       it becomes the stable version", "weir experiment stop intent"},
     {"may be shipped from"}},
    {PAGE("running", "null", "", TEST("\"ship_from\":null,\"outcome\":null,\"may_ship\":false," HIDDEN)),
     {"[INVALID]", "HIDDEN     hidden: users are not split", "weir experiment stop intent"},
     {"experiment ship", "difference", "reward 0"}},
    {PAGE("running", "null", "", TEST("\"outcome\":null,\"may_ship\":false,\"finding\":null")),
     {"[RUNNING]", "NO DATA    not looked at yet"},
     {"difference", "may be shipped"}},
    {PAGE("soaking", "null", "version 2 was shipped by admin", TEST("\"outcome\":\"shipped\"," FINDING)),
     {"[SHIPPED]", "\n  version 2 was shipped by admin\n", "weir rollback intent", "BETTER"},
     {"experiment stop", "each has"}},
    {PAGE("rolled_back", "\"2026-12-01T04:10:11Z\"", "stopped for harm: errors", TEST("\"outcome\":\"harm\"," FINDING)),
     {"[STOPPED FOR HARM]", "ended 2026-12-01 04:10:11 UTC", "stopped for harm: errors", "weir history intent"},
     {"experiment stop"}},
    {PAGE("aborted", "\"2026-12-01T04:10:11Z\"", "x", TEST("\"outcome\":\"kept\"," FINDING)), {"[STOPPED, KEPT]"}, {0}},
    {PAGE("aborted", "\"2026-12-01T04:10:11Z\"", "x", TEST("\"outcome\":\"expired\"," FINDING)), {"[EXPIRED]"}, {0}},
    {PAGE("aborted", "\"2026-12-01T04:10:11Z\"", "x", TEST("\"outcome\":\"invalid\"," HIDDEN)), {"[INVALID]"}, {0}},
    {PAGE("replaced", "\"2026-12-01T04:10:11Z\"", "x", TEST("\"outcome\":null," FINDING)), {"[REPLACED]"}, {0}},
};

static void every_state(void **state)
{
    struct buf out;

    (void)state;
    buf_init(&out, 1u << 20);
    for (size_t i = 0; i < COUNT_OF(states); i++) {
        const char *text = page(&out, states[i].json, &plain);

        for (size_t k = 0; k < COUNT_OF(states[i].has) && states[i].has[k]; k++) {
            if (!strstr(text, states[i].has[k])) {
                fail_msg("state %zu: no '%s' in\n%s", i, states[i].has[k], text);
            }
        }
        for (size_t k = 0; k < COUNT_OF(states[i].not) && states[i].not[k]; k++) {
            if (strstr(text, states[i].not[k])) {
                fail_msg("state %zu: '%s' in\n%s", i, states[i].not[k], text);
            }
        }
    }
    assert_non_null(strstr(page(&out, RUNNING, &full), "\033[32mBETTER\033[0m"));
    assert_non_null(strstr(page(&out, states[1].json, &full), "\033[31mHIDDEN\033[0m"));
    buf_done(&out);
}

static void accuracy_is_told_in_percent(void **state)
{
    static const char json[] = PAGE(
        "running", "null", "",
        "\"experiment\":{\"goal\":\"accuracy\",\"lower\":false,\"alpha\":0.01,\"outcome\":null,\"may_ship\":false,"
        "\"finding\":{\"result\":\"worse\",\"text\":\"t\",\"stable\":{\"n\":100,\"mean\":0.9},\"canary\":{\"n\":90,"
        "\"mean\":0.8},\"difference\":{\"low\":-0.15,\"mid\":-0.1,\"high\":-0.05,\"p\":0.001}}}");
    struct buf out;

    (void)state;
    buf_init(&out, 1u << 20);
    const char *text = page(&out, json, &plain);
    assert_non_null(strstr(text, "  accuracy   90.00 % n 100     80.00 % n 90      -10.00 points\n"));
    assert_non_null(strstr(text, "-15.00 to -5.00\n"));
    assert_non_null(strstr(text, "always-valid 99 %, p 0.001\n"));
    assert_non_null(strstr(text, "  WORSE      t\n"));
    buf_done(&out);
}

/* The page of its rollout sends there. */
static void the_page_of_its_rollout(void **state)
{
    struct buf out;
    yyjson_doc *doc = yyjson_read(RUNNING, strlen(RUNNING), 0);

    (void)state;
    buf_init(&out, 1u << 20);
    rollout_page(&out, yyjson_doc_get_root(doc), &plain);
    assert_non_null(strstr(buf_z(&out), "canary takes 50 %, an experiment\n"));
    assert_non_null(strstr(buf_z(&out), "weir experiment status intent"));
    assert_null(strstr(buf_z(&out), "rollout set"));
    assert_null(strstr(buf_z(&out), "weir promote"));
    yyjson_doc_free(doc);
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_difference_is_a_bar_about_zero),
        cmocka_unit_test(a_running_one_as_plain_text),
        cmocka_unit_test(every_state),
        cmocka_unit_test(accuracy_is_told_in_percent),
        cmocka_unit_test(the_page_of_its_rollout),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
