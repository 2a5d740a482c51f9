/* SPDX-License-Identifier: Apache-2.0 */
/* How numbers, texts and tables look. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/show.h"

#define LOOKS(call, want)                       \
    do {                                        \
        struct buf out;                         \
        buf_init(&out, 10000);                  \
        call;                                   \
        assert_string_equal(buf_z(&out), want); \
        buf_done(&out);                         \
    } while (0)

static void numbers_have_units(void **state)
{
    (void)state;
    LOOKS(show_count(&out, 0), "0");
    LOOKS(show_count(&out, 999), "999");
    LOOKS(show_count(&out, 1000), "1,000");
    LOOKS(show_count(&out, UINT64_MAX), "18,446,744,073,709,551,615");
    LOOKS(show_bytes(&out, 999), "999 B");
    LOOKS(show_bytes(&out, 1000), "1.0 kB");
    LOOKS(show_bytes(&out, 999960), "1.0 MB");
    LOOKS(show_bytes(&out, 7400000), "7.4 MB");
    LOOKS(show_ms(&out, 0.4123), "0.412");
    LOOKS(show_ms(&out, 12.34), "12.3");
    LOOKS(show_ms(&out, 1204.4), "1,204");
    LOOKS(show_ms(&out, NAN), "-");
    LOOKS(show_percent(&out, .0512), "5.12 %");
    LOOKS(show_share(&out, 500), "5 %");
    LOOKS(show_share(&out, 25), "0.25 %");
    LOOKS(show_share(&out, 1250), "12.5 %");
    LOOKS(show_share(&out, 10000), "100 %");
    LOOKS(show_ratio(&out, NAN), "-");
}

static void counts_and_times_are_short(void **state)
{
    (void)state;
    LOOKS(show_brief(&out, 0), "0");
    LOOKS(show_brief(&out, 9999), "9,999");
    LOOKS(show_brief(&out, 11840), "11.8k");
    LOOKS(show_brief(&out, 999949), "999.9k");
    LOOKS(show_brief(&out, 999950), "1.0M");
    LOOKS(show_brief(&out, 4500000000u), "4.5G");
    LOOKS(show_brief(&out, UINT64_MAX), "18.4E");
    LOOKS(show_when(&out, "2026-11-23T21:40:31.123Z"), "2026-11-23 21:40:31 UTC");
    LOOKS(show_when(&out, "2026-11-23T21:40:31Z"), "2026-11-23 21:40:31 UTC");
    LOOKS(show_when(&out, "yesterday\033"), "yesterday?");
    LOOKS(show_when(&out, NULL), "-");
}

static void words_are_wrapped_by_characters(void **state)
{
    (void)state;
    LOOKS(show_wrapped(&out, "", 2, 10), "");
    LOOKS(show_wrapped(&out, "one two three", 2, 9), "one two\n  three");
    LOOKS(show_wrapped(&out, "one  two", 0, 80), "one two");
    LOOKS(show_wrapped(&out, "\xc3\xa9\xc3\xa9\xc3\xa9 \xc3\xa9\xc3\xa9\xc3\xa9", 0, 7),
          "\xc3\xa9\xc3\xa9\xc3\xa9 \xc3\xa9\xc3\xa9\xc3\xa9");
    LOOKS(show_wrapped(&out, "longerthantheline b", 1, 5), "longerthantheline\n b");
    LOOKS(show_wrapped(&out, "a\033[2Jb c\nd", 0, 80), "a?[2Jb c?d");
}

static void columns_count_neither_colours_nor_bytes(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1000);
    BUF_LIT(&out, "before\n");
    size_t line = out.n;
    show_paint(&out, true, PAINT_BOLD);
    BUF_LIT(&out, "\xc3\xa9");
    show_paint(&out, true, PAINT_PLAIN);
    show_column(&out, line, 3);
    BUF_LIT(&out, "x");
    show_column(&out, line, 2); /* passed */
    BUF_LIT(&out, "y");
    assert_string_equal(buf_z(&out), "before\n\033[1m\xc3\xa9\033[0m  x y");
    buf_done(&out);
}

static void texts_can_not_move_the_cursor(void **state)
{
    (void)state;
    LOOKS(show_textz(&out, "a\033[2J\nb\x7f"), "a?[2J?b?");
    LOOKS(show_textz(&out, "caf\xc3\xa9 \xc2\x9b"
                           "31m"),
          "caf\xc3\xa9 ?31m");
    LOOKS(show_textz(&out, NULL), "-");
}

static void tables_align_by_characters(void **state)
{
    (void)state;
    struct table t;
    table_init(&t, 3);
    t.right[1] = true;
    static const char *const cells[] = {"name", "n", "text", "caf\xc3\xa9s", "1", "x", "b", "1,000", ""};
    for (size_t i = 0; i < COUNT_OF(cells); i++) {
        table_put(&t, cells[i]);
    }
    LOOKS(table_show(&out, &t, true, false), "name       n  text\ncaf\xc3\xa9s      1  x\nb      1,000\n");
    table_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_have_units),
        cmocka_unit_test(counts_and_times_are_short),
        cmocka_unit_test(words_are_wrapped_by_characters),
        cmocka_unit_test(columns_count_neither_colours_nor_bytes),
        cmocka_unit_test(texts_can_not_move_the_cursor),
        cmocka_unit_test(tables_align_by_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
