/* SPDX-License-Identifier: Apache-2.0 */
/* A rollout's page, from the server's JSON to the characters on the screen. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/rollout_page.h"
#include "cli/show.h"

static const struct page_style plain = {0}, unicode = {.utf8 = true}, full = {.utf8 = true, .colour = true};

/* ---- what a server answers ---- */

#define POLICY                                                                                                  \
    "\"policy\":{\"name\":\"careful\",\"steps\":\"1%,5%,25%,50%\",\"automatic\":true,\"margin\":\"0%\",\"slow_" \
    "margin\":\"10%\"},\"steps\":[100,500,2500,5000]"
#define GUARDRAILS                                                                                                     \
    "\"findings\":[{\"metric\":\"errors\",\"verdict\":\"pass\",\"dry\":false,\"ln_e\":0.31,\"ln_e_limit\":-1,"         \
    "\"trip\":5.99,\"stable\":{\"answered\":11840,\"all\":61,\"rate\":0.005152},\"canary\":{\"answered\":1204,"        \
    "\"all\":6,\"rate\":0.004983},\"risk\":{\"low\":0.41,\"mid\":0.96,\"high\":2.1}},{\"metric\":\"slow_p95\","        \
    "\"verdict\":\"inconclusive\",\"dry\":false,\"ln_e\":-1,\"ln_e_limit\":3.1,\"trip\":5.99,\"stable\":{"             \
    "\"answered\":11840,\"all\":593,\"rate\":0.0501},\"canary\":{\"answered\":1204,\"all\":83,\"rate\":0.0689},"       \
    "\"risk\":{\"low\":0,\"mid\":1.38,\"high\":1.9}},{\"metric\":\"slow_p99\",\"verdict\":\"fail\",\"dry\":true,\"ln_" \
    "e\":7.5,\"ln_e_limit\":0,\"trip\":5.99,\"stable\":{\"answered\":11840,\"all\":118,\"rate\":0.00997},\"canary\":{" \
    "\"answered\":1204,\"all\":83,\"rate\":0.0689},\"risk\":{\"low\":4.2,\"mid\":7.38,\"high\":null}},{\"metric\":"    \
    "\"invalid\",\"verdict\":\"pass\",\"dry\":false,\"ln_e\":0,\"ln_e_limit\":0,\"trip\":5.99,\"stable\":{"            \
    "\"answered\":11840,\"all\":0,\"rate\":0},\"canary\":{\"answered\":1204,\"all\":0,\"rate\":0},\"risk\":{\"low\":"  \
    "0,\"mid\":1,\"high\":null}}]"
#define VERDICT                                                                                                 \
    "\"verdict\":{\"verdict\":\"pass\",\"text\":\"No harm seen in 1,204 answers of version 2 beside 11,840 of " \
    "version 1: errors at most 2.1 times as many.\",\"ratio\":{\"p\":0.61,\"broken\":false}," GUARDRAILS "}"
#define ARMS                                                                                                          \
    "\"arms\":[{\"arm\":\"stable\",\"version\":1,\"share_bp\":9500,\"requests\":11840,\"errors\":61,\"latency_ms\":{" \
    "\"p50\":1.2,\"p95\":12.0,\"p99\":40.1}},{\"arm\":\"canary\",\"version\":2,\"share_bp\":500,\"requests\":1204,"   \
    "\"errors\":6,\"latency_ms\":{\"p50\":1.3,\"p95\":14.0,\"p99\":60.1}}]"
#define COUNTED                                                                                                \
    "\"slow_ms\":{\"p95\":12.31,\"p99\":40.2},\"exposed\":{\"stable\":8012,\"canary\":401,\"ordered\":0.0481," \
    "\"actual\":0.04767}"
#define WHEN "\"started\":\"2026-11-24T04:10:11.123Z\",\"counting_since\":\"2026-11-24T04:10:11.123Z\""
#define PAGE(state, place) \
    "{\"model\":\"intent\",\"rollout\":{\"state\":\"" state "\",\"stable\":1,\"canary\":2," WHEN "," place "}," ARMS "}"
#define RUNNING                                                                                                     \
    PAGE("running", "\"share_bp\":500,\"ended\":null,\"reason\":\"\"," POLICY                                       \
                    ",\"phase\":\"bake\",\"step\":2,\"pause\":null,\"spent_s\":312.0,\"earliest_s\":288.0,\"waits_" \
                    "for\":\"5 more minutes and 40 more requests, then 25 %\",\"held\":false," COUNTED "," VERDICT)

static yyjson_doc *document(const char *text)
{
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);

    assert_non_null(doc);
    return doc;
}

/* The page as text; the caller's buf. */
static const char *page(struct buf *out, const char *json, const struct page_style *s)
{
    yyjson_doc *doc = document(json);

    buf_clear(out);
    rollout_page(out, yyjson_doc_get_root(doc), s);
    yyjson_doc_free(doc);
    return buf_z(out);
}

static size_t lines_of(const char *z)
{
    size_t n = 0;

    for (; *z; z++) {
        n += *z == '\n';
    }
    return n;
}

/* ---- pieces ---- */

#define DRAWS(call, want)                       \
    do {                                        \
        struct buf out;                         \
        buf_init(&out, 10000);                  \
        call;                                   \
        assert_string_equal(buf_z(&out), want); \
        buf_done(&out);                         \
    } while (0)

static void evidence_fills_a_meter(void **state)
{
    (void)state;
    DRAWS(meter_show(&out, 3.1, 6.0, &unicode), "▮▮▮▯▯▯ 3.1 of 6.0");
    DRAWS(meter_show(&out, 3.1, 6.0, &plain), "###... 3.1 of 6.0");
    DRAWS(meter_show(&out, -2.5, 6.0, &plain), "...... -2.5 of 6.0");
    DRAWS(meter_show(&out, 5.98, 6.0, &plain), "#####. 6.0 of 6.0"); /* full only when it has come to the limit */
    DRAWS(meter_show(&out, 6.0, 6.0, &plain), "###### 6.0 of 6.0");
    DRAWS(meter_show(&out, 250, 6.0, &plain), "###### 250.0 of 6.0");
    DRAWS(meter_show(&out, NAN, 6.0, &plain), "-");
    DRAWS(meter_show(&out, 1, 0, &plain), "-");
}

static void a_risk_is_a_bar(void **state)
{
    (void)state;
    /*                                                          0.1         1           10          100 */
    DRAWS(interval_show(&out, 0.5, 1, 2, 1, &plain), /*       */ "........|---o---|....................");
    DRAWS(interval_show(&out, 0.2, 0.5, 4, 1, &plain), /*     */ "....|---o---+------|.................");
    DRAWS(interval_show(&out, 2, 3, 5, 1.5, &plain), /*       */ "..............!.|-o-|................");
    DRAWS(interval_show(&out, 0.01, 0.5, 0.7, 1, &plain), /*  */ "<-------o-|.!........................");
    DRAWS(interval_show(&out, 0, 0, 0.7, 1, &plain), /*       */ "o---------|.!........................");
    DRAWS(interval_show(&out, 5, 20, INFINITY, 1, &plain), /* */ "............!.......|-------o------->");
    DRAWS(interval_show(&out, 200, 500, 900, 1, &plain), /*   */ "............!.......................o");
    DRAWS(interval_show(&out, 0.5, 1, 2, 1, &unicode), "········├───●───┤····················");
    DRAWS(interval_show(&out, 0.01, 0.3, 200, 1, &unicode), "◄─────●─────┼───────────────────────►");
}

/* ---- pages ---- */

static void a_running_one_as_plain_text(void **state)
{
    (void)state;
    struct buf out;

    buf_init(&out, 1u << 20);
    assert_string_equal(page(&out, RUNNING, &plain),
                        "intent  v1 -> v2  [BAKE]  canary takes 5 %, policy careful\n"
                        "  1% * 5% * 25% . 50% . 100% .   step 2 of 4\n"
                        "  started 2026-11-24 04:10:11 UTC\n"
                        "\n"
                        "  PASS       No harm seen in 1,204 answers of version 2 beside 11,840 of\n"
                        "             version 1: errors at most 2.1 times as many.\n"
                        "\n"
                        "  guardrail  stable v1         canary v2         evidence of harm\n"
                        "  errors     0.52 % 61/11.8k   0.50 % 6/1,204    ...... 0.3 of 6.0   PASS\n"
                        "             .......|----o---|....................  0.96x (0.41x to 2.1x)\n"
                        "  slow p95   5.01 % 593/11.8k  6.89 % 83/1,204   ###... 3.1 of 6.0   UNCLEAR\n"
                        "             <-----------+-o|.....................  1.4x (at most 1.9x)\n"
                        "  slow p99   1.00 % 118/11.8k  6.89 % 83/1,204   ###### 7.5 of 6.0   FAIL (dry)\n"
                        "             ............!......|--o------------->  7.4x (at least 4.2x)\n"
                        "  invalid    0.00 % 0/11.8k    0.00 % 0/1,204    ...... 0.0 of 6.0   PASS\n"
                        "             nothing to tell a risk from yet\n"
                        "             0.1x        1x          10x         100x  risk, ! tolerated\n"
                        "             slow: longer than 12.3 ms (p95), 40.2 ms (p99)\n"
                        "\n"
                        "  traffic    ordered 4.81 %, actual 4.77 % of 8,413 users: as ordered (p 0.61)\n"
                        "\n"
                        "                    stable v1   canary v2      difference\n"
                        "  share                  95 %         5 %\n"
                        "  users (about)             0           0\n"
                        "  requests             11,840       1,204\n"
                        "  without a key             0           0\n"
                        "  errors          61 (0.52 %)  6 (0.50 %)    -0.02 points\n"
                        "  p50 ms                1.200       1.300  +0.100 (1.08x)\n"
                        "  p95 ms                 12.0        14.0  +2.000 (1.17x)\n"
                        "  p99 ms                 40.1        60.1   +20.0 (1.50x)\n"
                        "  queue p95 ms              -           -\n"
                        "  compute p95 ms            -           -\n"
                        "  accuracy                  -           -\n"
                        "\n"
                        "  In 1,204 requests against 11,840, v2 is slower at p95 (14.0 vs 12.0 ms); it\n"
                        "  has fewer errors (0.50 % vs 0.52 %).\n"
                        "\n"
                        "  next       5 more minutes and 40 more requests, then 25 %\n"
                        "  you may    weir rollout pause intent           stand still at this share\n"
                        "             weir rollout skip intent            to the next step now\n"
                        "             weir rollout set intent --share P%  another share; you move it on\n"
                        "             weir promote intent                 it becomes the stable version\n"
                        "             weir rollback intent                it takes nothing any more\n");
    buf_done(&out);
}

static void a_running_one_on_a_terminal(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "intent  v1 → v2  [BAKE]  canary takes 5 %, policy careful\n",
        "  1% ● 5% ● 25% ○ 50% ○ 100% ○   step 2 of 4\n",
        "▮▮▮▯▯▯ 3.1 of 6.0   UNCLEAR\n",
        "▮▮▮▮▮▮ 7.5 of 6.0   FAIL (dry)\n",
        "············│······├──●─────────────►  7.4× (at least 4.2×)\n",
    };
    struct buf out;

    buf_init(&out, 1u << 20);
    const char *text = page(&out, RUNNING, &unicode);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        if (!strstr(text, parts[i])) {
            fail_msg("no '%s' in\n%s", parts[i], text);
        }
    }
    for (const char *p = text, *nl; (nl = strchr(p, '\n')); p = nl + 1) {
        size_t wide = 0;

        for (const char *q = p; q < nl; q++) {
            wide += ((unsigned char)*q & 0xc0) != 0x80;
        }
        if (wide > 80) {
            fail_msg("%zu columns: %.*s", wide, (int)(nl - p), p);
        }
    }
    /* Colours change nothing but colours: words say the same. */
    text = page(&out, RUNNING, &full);
    assert_non_null(strstr(text, "\033[7m BAKE \033[0m"));
    assert_non_null(strstr(text, "\033[32mPASS\033[0m"));
    assert_non_null(strstr(text, "\033[31mFAIL\033[0m (dry)"));
    size_t lines = lines_of(text);
    assert_int_equal(lines, lines_of(page(&out, RUNNING, &unicode)));
    buf_done(&out);
}

#define PLACE(phase, pause, waits) \
    POLICY ",\"phase\":\"" phase "\",\"step\":4,\"pause\":" pause ",\"waits_for\":" waits ",\"share_bp\":5000"
static const struct {
    const char *json;
    const char *has[6], *not[4];
} states[] = {
    {PAGE("running", PLACE("paused", "\"stable_sick\"", "\"a person\"") ",\"earliest_s\":null"),
     {"[PAUSED] [STABLE SICK]  canary takes 50 %", "next       a person\n", "weir rollout resume intent ",
      "weir rollout set intent --share P%", "weir promote intent", "weir rollback intent"},
     {"rollout pause", "rollout skip"}},
    {PAGE("soaking", PLACE("soak", "null", "\"1 hour of good answers\"") ",\"earliest_s\":3600,\"reason\":\"done\""),
     {"[SOAK]", "1% * 5% * 25% * 50% * 100% *\n", "\n  done\n", "weir rollback intent", "back to the version before"},
     {"promote", "rollout pause", "step 4"}},
    {PAGE("soaking",
          PLACE("soak", "null",
                "\"time\"") ",\"verdict\":{\"verdict\":\"pass\",\"text\":\"no harm seen\",\"findings\":[{"
                            "\"metric\":\"errors\",\"verdict\":\"pass\",\"ln_e\":0,\"ln_e_limit\":1.5,\"trip\":6,"
                            "\"stable\":{\"answered\":0,\"all\":0,\"rate\":0},"
                            "\"canary\":{\"answered\":2000,\"all\":4,\"rate\":0.002},\"risk\":{\"low\":0,\"mid\":1,"
                            "\"high\":null}}]}"),
     {"guardrail  v1 before         v2 since          evidence of harm\n",
      "errors     0.00 %            0.20 % 4/2,000    #..... 1.5 of 6.0   PASS\n\n"},
     {"tolerated", "risk", "stable v1         canary"}},
    {PAGE("running",
          "\"share_bp\":500,\"verdict\":{\"verdict\":\"fail\",\"text\":\"x\",\"findings\":[{"
          "\"metric\":\"errors\",\"verdict\":\"fail\",\"ln_e\":8,\"ln_e_limit\":0,\"trip\":6,\"stable\":{"
          "\"answered\":900,\"all\":0,\"rate\":0},"
          "\"canary\":{\"answered\":0,\"all\":0,\"rate\":0},\"risk\":{\"low\":5,\"mid\":null,\"high\":null}}]}"),
     {"errors     0.00 % 0/900      -                 ###### 8.0 of 6.0   FAIL\n",
      "............!.......|---------------o  stable has none (at least 5.0x)\n"},
     {0}},
    {PAGE("running", /* what only feedback knows; nobody has sent rewards */
          "\"share_bp\":500,\"policy\":{\"wrong_margin\":\"100%\"},\"verdict\":{\"verdict\":\"fail\",\"text\":\"x\","
          "\"findings\":[{\"metric\":\"wrong\",\"verdict\":\"fail\",\"ln_e\":8,\"ln_e_limit\":0,\"trip\":6.4,"
          "\"stable\":{"
          "\"answered\":900,\"all\":108,\"rate\":0.12},\"canary\":{\"answered\":100,\"all\":31,\"rate\":0.31},"
          "\"difference\":{\"low\":0.1,\"mid\":0.19,\"high\":0.28},"
          "\"risk\":{\"low\":1.7,\"mid\":2.6,\"high\":3.5}},{\"metric\":\"reward\",\"verdict\":\"nodata\",\"ln_e\":0,"
          "\"ln_e_limit\":0,\"trip\":6.4,\"stable\":{\"answered\":0,\"all\":0,\"rate\":0},\"canary\":{\"answered\":0,"
          "\"all\":0,\"rate\":0}}]}"),
     {"wrong      12.00 % 108/900   31.00 % 31/100    ###### 8.0 of 6.4   FAIL\n",
      "             ...............|+o-|.................  2.6x (1.7x to 3.5x)\n"},
     {"reward"}},
    {PAGE("running",
          "\"share_bp\":500,\"verdict\":{\"verdict\":\"pass\",\"text\":\"x\",\"findings\":["
          "{\"metric\":\"wrong\",\"verdict\":\"nodata\",\"ln_e\":0,\"ln_e_limit\":0,\"trip\":6.4,\"stable\":{"
          "\"answered\":0,\"all\":0,\"rate\":0},\"canary\":{\"answered\":0,\"all\":0,\"rate\":0}},"
          "{\"metric\":\"reward\",\"verdict\":\"pass\",\"ln_e\":0.8,\"ln_e_limit\":0,\"trip\":6.4,\"stable\":{"
          "\"answered\":1204,\"all\":0,\"rate\":0.624},\"canary\":{\"answered\":98,\"all\":0,\"rate\":0.611},"
          "\"difference\":{\"low\":-0.081,\"mid\":-0.013,\"high\":0.055}}]}"),
     {"reward     0.624 n 1,204     0.611 n 98        ...... 0.8 of 6.4   PASS\n",
      "             difference -0.013 (-0.081 to +0.055)\n"},
     {"wrong"}},
    {PAGE("running",
          "\"share_bp\":500,\"verdict\":{\"verdict\":\"pass\",\"text\":\"x\",\"findings\":["
          "{\"metric\":\"reward\",\"verdict\":\"nodata\",\"ln_e\":0,\"ln_e_limit\":0,\"trip\":6.4,\"stable\":{"
          "\"answered\":4,\"all\":0,\"rate\":0.5},\"canary\":{\"answered\":0,\"all\":0,\"rate\":0},"
          "\"difference\":{\"low\":null,\"mid\":null,\"high\":null}}]}"),
     {"reward     0.500 n 4         -                 ...... 0.0 of 6.4   NO DATA\n",
      "             nothing to tell a difference from yet\n"},
     {0}},
    {PAGE("promoted",
          PLACE("ended", "null",
                "null") ",\"exposed\":{\"stable\":0,\"canary\":9,\"ordered\":1.0,\"actual\":1.0},"
                        "\"verdict\":{\"verdict\":\"pass\",\"text\":\"\",\"findings\":[{\"metric\":\"errors\","
                        "\"verdict\":\"pass\","
                        "\"ln_e\":0,\"ln_e_limit\":0,\"trip\":6,\"stable\":{\"answered\":0,\"all\":0,\"rate\":0.01},"
                        "\"canary\":{\"answered\":2000,\"all\":4,\"rate\":0.002},\"risk\":{\"low\":0,\"mid\":1,"
                        "\"high\":null}}]}"),
     {"v1 before", "errors     1.00 %            0.20 % 4/2,000"},
     {"tolerated", "traffic "}},
    {PAGE("rolled_back", PLACE("ended", "null", "null") ",\"held\":true,\"reason\":\"errors\\u001b[2J 5.4 times\","
                                                        "\"ended\":\"2026-11-24T05:10:11Z\""),
     {"[ROLLED BACK]  policy careful", ", ended 2026-11-24 05:10:11 UTC", "\n  errors?[2J 5.4 times\n",
      "on hold    v2 did harm", "weir rollout start intent --version 2 --policy default --retry",
      "weir history intent"},
     {"canary takes", "weir rollback", "next  "}},
    {PAGE("rolled_back",
          PLACE("ended", "null",
                "null") ",\"reason\":\"rolled back at 5 %: too many errors\","
                        "\"verdict\":{\"verdict\":\"fail\",\"text\":\"too many errors\",\"findings\":[]}"),
     {"\n\n  FAIL       rolled back at 5 %: too many errors\n\n"},
     {"UTC\n  rolled", "too many errors\n\n  FAIL"}},
    {PAGE("promoted", PLACE("ended", "null", "null") ",\"held\":false"),
     {"[PROMOTED]", "100% *\n", "weir rollback intent"},
     {"--retry", "weir promote", "on hold"}},
    {PAGE("running", "\"policy\":{\"name\":\"manual\",\"automatic\":false},\"steps\":[500],\"step\":1,"
                     "\"phase\":\"bake\",\"pause\":null,\"share_bp\":500"),
     {"[BAKE]  canary takes 5 %, moved on by a person\n  started", "weir rollout set intent --share P%",
      "weir promote"},
     {"rollout pause", "rollout skip", "step 1", "○"}},
    {PAGE("running", "\"share_bp\":500"), /* a server before policies */
     {"[RUNNING]  canary takes 5 %\n  started", "weir rollout set", "stable v1", "p95 ms"},
     {"guardrail", "next  ", "traffic  ", "policy"}},
    {PAGE("running", "\"share_bp\":500,\"exposed\":{\"stable\":80,\"canary\":40,\"ordered\":0.05,\"actual\":0.3333},"
                     "\"verdict\":{\"verdict\":\"nodata\",\"text\":\"\",\"ratio\":{\"p\":0,\"broken\":true}}"),
     {"  NO DATA", "ordered 5.00 %, actual 33.33 % of 120 users: NOT AS ORDERED\n"},
     {"as ordered (p"}},
    {PAGE("running", "\"share_bp\":500,\"exposed\":{\"stable\":80,\"canary\":10,\"ordered\":0.05,\"actual\":0.1111},"
                     "\"verdict\":{\"verdict\":\"error\",\"text\":\"x\",\"ratio\":{\"p\":0.004,\"broken\":false}}"),
     {"  ERROR      x\n", "users: doubtful (p 0.004)\n"},
     {"as ordered"}},
};

static void each_state_says_what_may_be_done(void **state)
{
    (void)state;
    struct buf out;

    buf_init(&out, 1u << 20);
    for (size_t i = 0; i < COUNT_OF(states); i++) {
        const char *text = page(&out, states[i].json, &plain);

        for (size_t k = 0; k < 6 && states[i].has[k]; k++) {
            if (!strstr(text, states[i].has[k])) {
                fail_msg("%zu: no '%s' in\n%s", i, states[i].has[k], text);
            }
        }
        for (size_t k = 0; k < 4 && states[i].not[k]; k++) {
            if (strstr(text, states[i].not[k])) {
                fail_msg("%zu: '%s' in\n%s", i, states[i].not[k], text);
            }
        }
        assert_null(strchr(text, '\033'));
    }
    buf_done(&out);
}

/* However few rows there are, the head, the verdict and what comes next are there. */
static void a_small_screen_shows_what_matters(void **state)
{
    (void)state;
    struct buf out;
    size_t before = 0;

    buf_init(&out, 1u << 20);
    for (unsigned rows = 11; rows <= 60; rows++) {
        struct page_style s = {.rows = rows};
        const char *text = page(&out, RUNNING, &s);

        assert_true(lines_of(text) <= rows && lines_of(text) >= before);
        assert_true(strstr(text, "[BAKE]") && strstr(text, "PASS ") && strstr(text, "next  "));
        before = lines_of(text);
    }
    assert_string_equal(buf_z(&out), page(&out, RUNNING, &plain));
    buf_done(&out);
}

/* Every line is ended and wiped behind, so that nothing of the page before stays and nothing has to be wiped first. */
static void a_page_is_drawn_over_the_one_before(void **state)
{
    (void)state;
    struct page_style s = {.rows = 5};
    struct buf out, lines;
    yyjson_doc *doc = document(RUNNING);

    buf_init(&out, 1u << 20);
    buf_init(&lines, 1u << 20);
    rollout_redraw(&out, yyjson_doc_get_root(doc), &plain, true);
    assert_int_equal(strncmp(buf_z(&out), "\033[H\033[2Jintent", 13), 0);
    buf_clear(&out);
    rollout_redraw(&out, yyjson_doc_get_root(doc), &plain, false);
    const char *text = buf_z(&out);
    assert_int_equal(strncmp(text, "\033[Hintent", 9), 0);
    assert_null(strstr(text, "\033[2J"));
    for (const char *p = text + 3, *nl; (nl = strchr(p, '\n')); p = nl + 1) {
        assert_int_equal(strncmp(nl - 3, "\033[K", 3), 0);
        buf_add(&lines, p, (size_t)(nl - 3 - p));
        BUF_LIT(&lines, "\n");
    }
    assert_string_equal(text + out.n - 3, "\033[J");
    assert_string_equal(buf_z(&lines), page(&out, RUNNING, &plain));
    buf_clear(&out);
    rollout_redraw(&out, yyjson_doc_get_root(doc), &s, false);
    assert_int_equal(lines_of(buf_z(&out)), 5); /* cut where nothing more can be left out */
    yyjson_doc_free(doc);
    buf_done(&out);
    buf_done(&lines);
}

static void what_no_server_says_is_survived(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"rollout\":null,\"arms\":[1,{}]}",
        "{\"model\":5,\"rollout\":{\"state\":[],\"steps\":{},\"verdict\":[],\"policy\":1,\"exposed\":[],\"slow_ms\":3}"
        "}",
        "{\"rollout\":{\"steps\":[\"a\",-1,1e9],\"step\":99,\"state\":\"running\",\"phase\":\"\\u001b\",\"pause\":\"_"
        "\"}}",
        "{\"rollout\":{\"steps\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],\"step\":16,\"state\":\"running\"}}",
        "{\"rollout\":{\"verdict\":{\"verdict\":\"new\",\"findings\":[1,{},{\"metric\":\"a_b\",\"verdict\":"
        "\"\\u009b\","
        "\"stable\":7,\"canary\":{\"rate\":{}},\"risk\":[]}]}}}",
        "{\"rollout\":{\"verdict\":{\"findings\":[{\"answered\":{\"stable\":1,\"canary\":18446744073709551615},"
        "\"risk\":"
        "{\"low\":1e-300,\"mid\":1e300,\"high\":1e300},\"trip\":1e-300,\"ln_e\":1e300}]}}}",
    };
    struct buf out;

    buf_init(&out, 1u << 20);
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        const char *text = page(&out, texts[i], &unicode);

        assert_true(strlen(text) > 0 && !strchr(text, '\033') && !strstr(text, "\xc2\x9b"));
        page(&out, texts[i], &full);
    }
    buf_done(&out);
}

static void it_goes_on_until_the_soak_is_over(void **state)
{
    (void)state;
    static const struct {
        const char *state;
        bool goes_on;
    } cases[] = {{"running", true},      {"soaking", true},  {"promoted", false},
                 {"rolled_back", false}, {"aborted", false}, {"replaced", false}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char text[100];
        struct buf json = {0};

        buf_init(&json, sizeof(text));
        buf_addf(&json, "{\"rollout\":{\"state\":\"%s\"}}", cases[i].state);
        yyjson_doc *doc = document(buf_z(&json));
        assert_int_equal(rollout_goes_on(yyjson_doc_get_root(doc)), cases[i].goes_on);
        yyjson_doc_free(doc);
        buf_done(&json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evidence_fills_a_meter),
        cmocka_unit_test(a_risk_is_a_bar),
        cmocka_unit_test(a_running_one_as_plain_text),
        cmocka_unit_test(a_running_one_on_a_terminal),
        cmocka_unit_test(each_state_says_what_may_be_done),
        cmocka_unit_test(a_small_screen_shows_what_matters),
        cmocka_unit_test(a_page_is_drawn_over_the_one_before),
        cmocka_unit_test(what_no_server_says_is_survived),
        cmocka_unit_test(it_goes_on_until_the_soak_is_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
