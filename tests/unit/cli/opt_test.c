/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines against the table of commands: what is understood, and what each mistake is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cli/cli.h"

#define WORDS 10

struct row {
    const char *command, *line; /* words by blanks */
    const char *wrong;          /* what the error says; NULL: it is right */
    int words;
    const char *option, *text; /* an option that must have been understood */
    uint64_t number;
};

static const struct row rows[] = {
    {"push", "intent v2", NULL, 2, NULL, NULL, 0},
    {"push", "intent v2 --canary 5%", NULL, 2, "canary", "5%", 500},
    {"push", "--canary=0.25% intent v2", NULL, 2, "canary", "0.25%", 25},
    {"push", "intent --version 7 v2", NULL, 2, "version", "7", 7},
    {"push", "intent -- --v2", NULL, 2, NULL, NULL, 0},
    {"push", "intent", "needs NAME PATH", 0, NULL, NULL, 0},
    {"push", "a b c", "'c' is too much", 0, NULL, NULL, 0},
    {"push", "a b --canry 5%", "no option --canry; did you mean --canary?", 0, NULL, NULL, 0},
    {"push", "a b --zzzzzzzz", "no option --zzzzzzzz", 0, NULL, NULL, 0},
    {"push", "a b -x", "no option -x", 0, NULL, NULL, 0},
    {"push", "a b --canary", "--canary needs a value: P%", 0, NULL, NULL, 0},
    {"push", "a b --canary 5", "--canary must be a share", 0, NULL, NULL, 0},
    {"push", "a b --canary 101%", "--canary must be a share", 0, NULL, NULL, 0},
    {"push", "a b --canary -1%", "--canary must be a share", 0, NULL, NULL, 0},
    {"push", "a b --rollout careful --steps 1%,5%,12.5% --retry", NULL, 2, "steps", "1%,5%,12.5%", 0},
    {"push", "a b --rollout a/b", "--rollout must be a name", 0, NULL, NULL, 0},
    {"push", "a b --steps 1%,", "--steps must be ascending shares", 0, NULL, NULL, 0},
    {"push", "a b --steps ,1%", "--steps must be", 0, NULL, NULL, 0},
    {"push", "a b --steps 5%,5%", "--steps must be", 0, NULL, NULL, 0},
    {"push", "a b --steps 5%,1%", "--steps must be", 0, NULL, NULL, 0},
    {"push", "a b --steps 0%,1%", "--steps must be", 0, NULL, NULL, 0},
    {"push", "a b --steps 50%,100%", "--steps must be", 0, NULL, NULL, 0},
    {"push", "a b --steps 1,5", "--steps must be", 0, NULL, NULL, 0},
    {"push", "a b --steps=", "--steps must be", 0, NULL, NULL, 0},
    {"rollout", "start m --version 2 --policy careful", NULL, 2, "policy", "careful", 0},
    {"rollout", "start m --steps 1%", NULL, 2, "steps", "1%", 0},
    {"rollout", "start m --retry=on", "--retry takes no value", 0, NULL, NULL, 0},
    {"history", "m --at 2026-11-23T21:40:31Z", NULL, 1, "at", "2026-11-23T21:40:31Z", 0},
    {"push", "a b --version 0", "--version must be a whole number from 1", 0, NULL, NULL, 0},
    {"push", "a b --version 1x", "--version must be", 0, NULL, NULL, 0},
    {"push", "a b --version 1 --version 2", "--version was given twice", 0, NULL, NULL, 0},
    {"push", "a b --family=", "--family must be not empty", 0, NULL, NULL, 0},
    {"push", "a b --json=yes", "--json takes no value", 0, NULL, NULL, 0},
    {"bench", "m --for 30s", NULL, 1, "for", "30s", 30000000},
    {"bench", "m --for 0s", "--for must be a time", 0, NULL, NULL, 0},
    {"bench", "m --for 30", "--for must be a time", 0, NULL, NULL, 0},
    {"bench", "m --seed 0", NULL, 1, "seed", "0", 0},
    {"infer", "m -", NULL, 2, NULL, NULL, 0},
    {"infer", "m --user -k", NULL, 1, "user", "-k", 0},
    {"models", "--server unix:/s --json", NULL, 0, "server", "unix:/s", 0},
    {"serve", "-c weir.yaml", NULL, 0, "config", "weir.yaml", 0},
    {"serve", "--parent-fd 3", NULL, 0, "parent-fd", "3", 3},
    {"serve", "--server x", "no option --server", 0, NULL, NULL, 0},
    {"help", "push", NULL, 1, NULL, NULL, 0},
};

static int split(char *line, char **words)
{
    int n = 0;
    for (char *w = strtok(line, " "); w && n < WORDS; w = strtok(NULL, " ")) {
        words[n++] = w;
    }
    return n;
}

static void lines_are_understood_or_explained(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct row *r = &rows[i];
        char line[256], *words[WORDS];
        struct args a = {0};
        struct err e = {0};
        snprintf(line, sizeof line, "%s", r->line);
        int n = split(line, words);
        enum err_code rc = opt_parse(&a, cli_command(r->command), n, words, &e);
        if ((rc != ERR_OK) != (r->wrong != NULL) || (r->wrong && !strstr(e.text, r->wrong))) {
            fail_msg("%s %s: '%s'", r->command, r->line, e.text);
        }
        if (r->wrong) {
            assert_int_equal(rc, ERR_INVALID);
            continue;
        }
        assert_int_equal(a.n, r->words);
        if (r->option) {
            assert_string_equal(opt_text(&a, r->option), r->text);
            assert_int_equal(opt_number(&a, r->option, 77), r->number);
        }
    }
}

static void help_beats_what_is_missing(void **state)
{
    (void)state;
    static const char *const given[] = {"--help", "-h"};
    for (size_t i = 0; i < COUNT_OF(given); i++) {
        struct args a = {0};
        struct err e;
        char *word = strdup(given[i]);
        assert_int_equal(opt_parse(&a, cli_command("push"), 1, &word, &e), ERR_OK);
        assert_true(a.help);
        free(word);
    }
}

static void absent_options_have_presets(void **state)
{
    (void)state;
    struct args a = {0};
    struct err e;
    char name[] = "m", *words[] = {name};
    assert_int_equal(opt_parse(&a, cli_command("bench"), 1, words, &e), ERR_OK);
    assert_null(opt_text(&a, "log"));
    assert_int_equal(opt_number(&a, "connections", 8), 8);
    assert_null(opt_get(&a, "json"));
}

/* Every row of the table can be shown, names each of its options once, and keeps to a terminal's width. */
static void every_command_has_help(void **state)
{
    (void)state;
    const struct command *c;
    for (size_t i = 0; (c = cli_command_at(i)); i++) {
        struct buf out;
        buf_init(&out, 100000);
        opt_help(&out, c);
        const char *text = buf_z(&out);
        assert_non_null(strstr(text, c->name));
        assert_true(strlen(c->summary) > 0 && strlen(c->help) > 0 && c->help[strlen(c->help) - 1] == '\n');
        assert_true(c->min_words <= c->max_words && c->max_words <= WORDS_MAX);
        for (size_t k = 0; k < c->n_options; k++) {
            char shown[64];
            snprintf(shown, sizeof shown, "--%s", c->options[k].name);
            assert_non_null(strstr(text, shown));
            assert_int_equal(c->options[k].kind == OPT_FLAG, c->options[k].arg == NULL);
            for (size_t other = 0; other < k; other++) {
                assert_string_not_equal(c->options[other].name, c->options[k].name);
            }
        }
        for (const char *p = text, *nl; (nl = strchr(p, '\n')); p = nl + 1) {
            assert_true(nl - p <= 120);
        }
        assert_ptr_equal(cli_command(c->name), c);
        buf_done(&out);
    }
    assert_true(cli_command("serve") && cli_command("rollback") && !cli_command("nothing"));
}

static const char *word_at(const void *ctx, size_t i)
{
    return ((const char *const *)ctx)[i];
}

static void the_nearest_word_is_found(void **state)
{
    (void)state;
    static const char *const words[] = {"push", "promote", "rollout", "rollback", NULL};
    assert_string_equal(opt_nearest("psh", word_at, words), "push");
    assert_string_equal(opt_nearest("rollbak", word_at, words), "rollback");
    assert_string_equal(opt_nearest("rolout", word_at, words), "rollout");
    assert_null(opt_nearest("quantum", word_at, words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_understood_or_explained), cmocka_unit_test(help_beats_what_is_missing),
        cmocka_unit_test(absent_options_have_presets),       cmocka_unit_test(every_command_has_help),
        cmocka_unit_test(the_nearest_word_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
