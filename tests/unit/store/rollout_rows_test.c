/* SPDX-License-Identifier: Apache-2.0 */
/* What a rollout that decides by itself leaves in the store: its progress, its holds, and history that says who served
 * when, and why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/store_priv.h"
#include "support/store_help.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

struct fixture {
    char *folder;
    struct store *s;
};

static struct history_row line(const char *model, int64_t at_ms, char *serving)
{
    struct history_row h = {.at_ms = at_ms, .kind = "share_set", .actor = "admin", .text = "a sentence"};
    snprintf(h.model, sizeof h.model, "%s", model);
    h.serving = serving;
    return h;
}

/* Adds one line; its seq. */
static int64_t adds(struct fixture *f, const char *model, int64_t at_ms, char *serving)
{
    struct history_row h = line(model, at_ms, serving);
    struct err e = {0};
    assert_int_equal(on_apply(f->s, &(struct store_change){.history = &h}, &e), ERR_OK);
    return h.seq;
}

/* A model with versions 1 and 2, stable 1. */
static void two_versions(struct store *s, const char *name)
{
    struct model_row m = {.family = "default", .stable = 1, .created_ms = 42};
    struct version_row v1 = {.number = 1, .digest = DIGEST_A, .backend = "onnx"},
                       v2 = {.number = 2, .digest = DIGEST_B, .backend = "onnx"};
    struct history_row h = line(name, 1, NULL);
    struct err e = {0};
    snprintf(m.name, sizeof m.name, "%s", name);
    snprintf(v1.model, sizeof v1.model, "%s", name);
    snprintf(v2.model, sizeof v2.model, "%s", name);
    assert_int_equal(on_apply(s, &(struct store_change){.model = &m, .version = &v1, .history = &h}, &e), ERR_OK);
    assert_int_equal(on_apply(s, &(struct store_change){.version = &v2, .history = &h}, &e), ERR_OK);
}

/* "intent" and "other" with two versions each: lines 1 to 4 of history. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err e = {0};
    f->folder = store_folder_new();
    *state = f;
    if (store_open_in(&f->s, f->folder, &e) != ERR_OK) {
        print_error("%s\n", e.text);
        return -1;
    }
    two_versions(f->s, "intent");
    two_versions(f->s, "other");
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    store_close(f->s);
    store_folder_free(f->folder);
    free(f);
    return 0;
}

static void reopen(struct fixture *f)
{
    struct err e = {0};
    store_close(f->s);
    f->s = NULL;
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_OK);
}

static struct store_state load(struct fixture *f)
{
    struct store_state st = {0};
    struct err e = {0};
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    return st;
}

static struct rollout_row rollout_of(const char *id, const char *model, enum rollout_state state)
{
    struct rollout_row r = {.stable = 1, .canary = 2, .share_bp = 500, .state = state, .started_ms = 50};
    snprintf(r.id, sizeof r.id, "%s", id);
    snprintf(r.model, sizeof r.model, "%s", model);
    return r;
}

static enum err_code puts_rollout(struct fixture *f, const struct rollout_row *r)
{
    struct history_row h = line(r->model, 50, NULL);
    struct err e = {0};
    return on_apply(f->s, &(struct store_change){.rollout = r, .history = &h}, &e);
}

static void same_text(const char *found, const char *expected)
{
    if (expected) {
        assert_non_null(found);
        assert_string_equal(found, expected);
    } else {
        assert_null(found);
    }
}

/* ---- rollouts ---- */

static void rollout_says(struct fixture *f, enum rollout_state is, const char *policy, const char *progress,
                         const char *counts)
{
    struct store_state st = load(f);
    assert_int_equal(st.n_rollouts, 1);
    assert_int_equal(st.rollouts[0].state, is);
    assert_int_equal(st.rollouts[0].share_bp, 500);
    same_text(st.rollouts[0].policy, policy);
    same_text(st.rollouts[0].progress, progress);
    same_text(st.rollouts[0].counts, counts);
    store_state_done(&st);
}

static void texts_of_a_rollout_are_kept_and_replaced(void **state)
{
    struct fixture *f = *state;
    char policy[] = "{\"ramp\":[1,2]}", progress[] = "{\"step\":0,\"why\":\"\xc3\xa4\"}", counts[] = "{\"n\":[3,4]}";
    struct rollout_row r = rollout_of("r1", "intent", ROLLOUT_RUNNING);
    r.policy = policy;
    r.progress = progress;
    r.counts = counts;
    assert_int_equal(puts_rollout(f, &r), ERR_OK);
    reopen(f);
    rollout_says(f, ROLLOUT_RUNNING, policy, progress, counts);
    r.state = ROLLOUT_SOAKING;
    r.counts = NULL;
    progress[8] = '1';
    assert_int_equal(puts_rollout(f, &r), ERR_OK);
    reopen(f);
    rollout_says(f, ROLLOUT_SOAKING, policy, progress, NULL);
}

static void a_model_has_one_rollout_that_goes_on(void **state)
{
    static const enum rollout_state going_on[] = {ROLLOUT_RUNNING, ROLLOUT_SOAKING};
    static const enum rollout_state ended[] = {ROLLOUT_PROMOTED, ROLLOUT_ROLLED_BACK, ROLLOUT_ABORTED,
                                               ROLLOUT_REPLACED};
    struct fixture *f = *state;
    struct rollout_row other = rollout_of("of-other", "other", ROLLOUT_SOAKING);
    assert_int_equal(puts_rollout(f, &other), ERR_OK);
    for (size_t i = 0; i < COUNT_OF(going_on) * COUNT_OF(ended); i++) {
        struct rollout_row first = rollout_of("first", "intent", going_on[i % COUNT_OF(going_on)]), second;
        snprintf(first.id, sizeof first.id, "first-%zu", i);
        assert_int_equal(puts_rollout(f, &first), ERR_OK);
        for (size_t k = 0; k < COUNT_OF(going_on); k++) {
            second = rollout_of("second", "intent", going_on[k]);
            assert_int_equal(puts_rollout(f, &second), ERR_CONFLICT);
        }
        first.state = ended[i / COUNT_OF(going_on)];
        assert_int_equal(puts_rollout(f, &first), ERR_OK);
    }
}

static void progress_of_what_goes_on(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    char policy[] = "{\"ramp\":[1]}";
    struct rollout_row r = rollout_of("r1", "intent", ROLLOUT_RUNNING);
    r.policy = policy;
    assert_int_equal(puts_rollout(f, &r), ERR_OK);
    assert_int_equal(on_progress(f->s, "r1", "{\"step\":1}", "{\"n\":1}", &e), ERR_OK);
    reopen(f);
    rollout_says(f, ROLLOUT_RUNNING, policy, "{\"step\":1}", "{\"n\":1}");
    assert_int_equal(on_progress(f->s, "r1", "{\"step\":2}", NULL, &e), ERR_OK);
    rollout_says(f, ROLLOUT_RUNNING, policy, "{\"step\":2}", NULL);
    r.state = ROLLOUT_SOAKING;
    assert_int_equal(puts_rollout(f, &r), ERR_OK);
    assert_int_equal(on_progress(f->s, "r1", "{\"soak\":1}", "{\"n\":3}", &e), ERR_OK);
    rollout_says(f, ROLLOUT_SOAKING, policy, "{\"soak\":1}", "{\"n\":3}");
    struct store_state st = load(f);
    assert_int_equal(st.seq, 6); /* only the two changes */
    store_state_done(&st);
}

static void no_progress_of_what_has_ended_or_never_was(void **state)
{
    static const enum rollout_state ended[] = {ROLLOUT_PROMOTED, ROLLOUT_ROLLED_BACK, ROLLOUT_ABORTED,
                                               ROLLOUT_REPLACED};
    struct fixture *f = *state;
    struct err e = {0};
    char last[] = "{\"step\":5}";
    struct rollout_row r = rollout_of("r1", "intent", ROLLOUT_RUNNING);
    r.progress = last;
    for (size_t i = 0; i < COUNT_OF(ended); i++) {
        r.state = ended[i];
        assert_int_equal(puts_rollout(f, &r), ERR_OK);
        assert_int_equal(on_progress(f->s, "r1", "{\"step\":6}", "{}", &e), ERR_NOT_FOUND);
        assert_non_null(strstr(e.text, "no rollout r1 is running or soaking"));
        rollout_says(f, ended[i], NULL, last, NULL);
    }
    assert_int_equal(on_progress(f->s, "r2", "{}", "{}", &e), ERR_NOT_FOUND);
    rollout_says(f, ROLLOUT_REPLACED, NULL, last, NULL);
}

static enum err_code breaks(struct store *s, void *arg)
{
    (void)arg;
    store_break(s, "the disk");
    return ERR_OK;
}

static void no_progress_in_a_store_that_takes_no_writes(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct rollout_row r = rollout_of("r1", "intent", ROLLOUT_RUNNING);
    struct history_row h = line("intent", 50, NULL);
    assert_int_equal(puts_rollout(f, &r), ERR_OK);
    store_call(f->s, breaks, NULL);
    assert_int_equal(on_progress(f->s, "r1", "{}", "{}", &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "read-only until"));
    h.seq = -1;
    assert_int_equal(on_apply(f->s, &(struct store_change){.history = &h}, &e), ERR_STORAGE);
    assert_int_equal(h.seq, -1);
    rollout_says(f, ROLLOUT_RUNNING, NULL, NULL, NULL);
}

/* ---- holds ---- */

static struct hold_row hold_of(const char *model, const char *digest, int64_t since_ms)
{
    struct hold_row h = {.since_ms = since_ms};
    snprintf(h.model, sizeof h.model, "%s", model);
    snprintf(h.digest, sizeof h.digest, "%s", digest);
    snprintf(h.reason, sizeof h.reason, "errors, at %lld", (long long)since_ms);
    return h;
}

static enum err_code holds(struct fixture *f, const struct hold_row *hold, const struct hold_row *lift)
{
    struct history_row h = line("intent", 50, NULL);
    struct err e = {0};
    return on_apply(f->s, &(struct store_change){.hold = hold, .lift = lift, .history = &h}, &e);
}

static void holds_are_kept_until_they_are_lifted(void **state)
{
    struct fixture *f = *state;
    struct hold_row a = hold_of("intent", DIGEST_A, 60), b = hold_of("intent", DIGEST_B, 61),
                    other = hold_of("other", DIGEST_A, 62);
    assert_int_equal(holds(f, &other, NULL), ERR_OK);
    assert_int_equal(holds(f, &b, NULL), ERR_OK);
    assert_int_equal(holds(f, &a, &a), ERR_OK); /* the hold has the last word */
    a = hold_of("intent", DIGEST_A, 70);
    assert_int_equal(holds(f, &a, NULL), ERR_OK);
    reopen(f);
    struct store_state st = load(f);
    assert_int_equal(st.n_holds, 3);
    assert_string_equal(st.holds[0].model, "intent");
    assert_string_equal(st.holds[0].digest, DIGEST_A);
    assert_int_equal(st.holds[0].since_ms, 70); /* the later one */
    assert_string_equal(st.holds[0].reason, "errors, at 70");
    assert_string_equal(st.holds[1].digest, DIGEST_B);
    assert_string_equal(st.holds[2].model, "other");
    store_state_done(&st);
    struct hold_row lift = {.model = "intent", .digest = DIGEST_A};
    assert_int_equal(holds(f, NULL, &lift), ERR_OK);
    assert_int_equal(holds(f, NULL, &lift), ERR_OK); /* it is not there any more */
    reopen(f);
    st = load(f);
    assert_int_equal(st.n_holds, 2);
    assert_string_equal(st.holds[0].digest, DIGEST_B);
    assert_string_equal(st.holds[1].model, "other");
    store_state_done(&st);
}

static void a_hold_is_of_a_model_that_exists(void **state)
{
    struct fixture *f = *state;
    struct hold_row nobody = hold_of("nobody", DIGEST_A, 60), bad = hold_of("intent", "short", 60),
                    stranger =
                        hold_of("intent", "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", 60);
    assert_int_equal(holds(f, &nobody, NULL), ERR_CONFLICT);
    assert_int_equal(holds(f, &bad, NULL), ERR_CONFLICT);
    struct store_state st = load(f);
    assert_int_equal(st.n_holds, 0);
    assert_int_equal(st.seq, 4); /* nothing of them happened */
    store_state_done(&st);
    assert_int_equal(holds(f, &stranger, NULL), ERR_OK); /* no version has it */
    st = load(f);
    assert_int_equal(st.n_holds, 1);
    store_state_done(&st);
}

static void a_rollback_and_its_hold_are_one_change(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct rollout_row r = rollout_of("r1", "intent", ROLLOUT_ROLLED_BACK), taken = r;
    struct hold_row hold = hold_of("intent", DIGEST_B, 60);
    struct history_row h = line("intent", 60, NULL);
    taken.canary = 9; /* there is none */
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &taken, .hold = &hold, .history = &h}, &e),
                     ERR_CONFLICT);
    struct store_state st = load(f);
    assert_int_equal(st.n_holds + st.n_rollouts, 0);
    store_state_done(&st);
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &r, .hold = &hold, .history = &h}, &e), ERR_OK);
    st = load(f);
    assert_int_equal(st.n_holds, 1);
    assert_int_equal(st.n_rollouts, 1);
    store_state_done(&st);
}

/* ---- history ---- */

static void a_line_is_told_its_number(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct hold_row hold = hold_of("intent", DIGEST_B, 60);
    struct rollout_row bad = rollout_of("r1", "intent", ROLLOUT_RUNNING);
    struct history_row h = line("intent", 50, NULL);
    h.seq = 77; /* what was there is ignored */
    assert_int_equal(on_apply(f->s, &(struct store_change){.hold = &hold, .history = &h}, &e), ERR_OK);
    assert_int_equal(h.seq, 5);
    bad.canary = 9;
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &bad, .history = &h}, &e), ERR_CONFLICT);
    assert_int_equal(h.seq, 5);
    reopen(f);
    struct store_state st = load(f);
    assert_int_equal(st.seq, 5);
    store_state_done(&st);
    assert_int_equal(adds(f, "other", 51, NULL), 6);
}

static void an_empty_store_has_no_newest_line(void **state)
{
    struct err e = {0};
    struct fixture f = {.folder = store_folder_new()};
    struct history_row *rows = NULL;
    size_t n = 7;
    (void)state;
    assert_int_equal(store_open_in(&f.s, f.folder, &e), ERR_OK);
    struct store_state st = load(&f);
    assert_int_equal(st.seq, 0);
    assert_null(st.holds);
    store_state_done(&st);
    assert_int_equal(on_history_after(f.s, NULL, 0, 10, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 0);
    assert_null(rows);
    assert_int_equal(on_serving_at(f.s, "intent", INT64_MAX, &rows, &e), ERR_NOT_FOUND);
    assert_null(rows);
    history_done(NULL, 0);
    store_close(f.s);
    store_folder_free(f.folder);
}

static void what_served_and_why_is_read_back(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    char serving[] = "[{\"version\":2,\"digest\":\"" DIGEST_B "\",\"share_bp\":10000}]", evidence[] = "{\"arms\":[]}";
    struct history_row h = line("intent", 50, serving), *rows = NULL;
    size_t n = 0;
    h.evidence = evidence;
    assert_int_equal(on_apply(f->s, &(struct store_change){.history = &h}, &e), ERR_OK);
    assert_ptr_equal(h.serving, serving); /* still the caller's */
    adds(f, "intent", 51, NULL);
    assert_int_equal(on_history(f->s, "intent", 0, 2, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 2);
    assert_null(rows[0].serving);
    assert_null(rows[0].evidence);
    assert_string_equal(rows[1].serving, serving);
    assert_string_equal(rows[1].evidence, evidence);
    history_done(rows, n);
    assert_int_equal(on_history_after(f->s, NULL, 4, 1, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 1);
    assert_string_equal(rows[0].serving, serving);
    assert_string_equal(rows[0].evidence, evidence);
    history_done(rows, n);
}

/* Reads on in pages of `page`; how many lines there are. Each must be newer than the one before it. */
static size_t reads_on(struct fixture *f, const char *model, int64_t after, size_t page)
{
    size_t seen = 0, n;
    struct err e = {0};
    do {
        struct history_row *rows = NULL;
        assert_int_equal(on_history_after(f->s, model, after, page, &rows, &n, &e), ERR_OK);
        assert_true(n <= page);
        for (size_t i = 0; i < n; i++) {
            assert_true(rows[i].seq > after);
            assert_true(!model || strcmp(rows[i].model, model) == 0);
            after = rows[i].seq;
        }
        seen += n;
        history_done(rows, n);
    } while (n == page);
    return seen;
}

static void history_oldest_first_in_pages(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 21; i++) {
        adds(f, i % 3 ? "intent" : "other", i, i % 2 ? (char *)(uintptr_t)"[]" : NULL);
    }
    assert_int_equal(reads_on(f, NULL, 0, 10), 25);
    assert_int_equal(reads_on(f, NULL, -5, 25), 25);
    assert_int_equal(reads_on(f, NULL, 20, 2), 5);
    assert_int_equal(reads_on(f, NULL, 25, 10), 0);
    assert_int_equal(reads_on(f, "other", 0, 4), 9);
    assert_int_equal(reads_on(f, "intent", 2, 1000), 14);
    assert_int_equal(reads_on(f, "nobody", 0, 10), 0);
}

static void who_served_at_a_time(void **state)
{
    static const struct {
        int64_t at_ms;
        const char *serving; /* NULL: nothing by then */
    } rows[] = {
        {-1, NULL},   {99, NULL},         {100, "[1]"}, {199, "[1]"},
        {200, "[2]"}, {299, "[2]"},       {300, "[4]"}, /* two at the same millisecond: the later one */
        {349, "[4]"}, {350, "[5]"},                     /* the clock was set back from 900: what came last counts */
        {900, "[5]"}, {INT64_MAX, "[5]"},
    };
    struct fixture *f = *state;
    char one[] = "[1]", two[] = "[2]", three[] = "[3]", four[] = "[4]", five[] = "[5]", late[] = "[6]",
         not_it[] = "[0]";
    struct err e = {0};
    adds(f, "intent", 90, NULL);
    adds(f, "intent", 100, one);
    adds(f, "other", 150, not_it);
    adds(f, "intent", 200, two);
    adds(f, "intent", 250, NULL); /* as before */
    adds(f, "intent", 300, three);
    adds(f, "intent", 300, four);
    adds(f, "intent", 900, late);
    adds(f, "intent", 350, five);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct history_row *row = NULL;
        enum err_code rc = on_serving_at(f->s, "intent", rows[i].at_ms, &row, &e);
        assert_int_equal(rc, rows[i].serving ? ERR_OK : ERR_NOT_FOUND);
        same_text(row ? row->serving : NULL, rows[i].serving);
        if (row) {
            assert_string_equal(row->model, "intent");
        }
        history_done(row, 1);
    }
    struct history_row *row = NULL;
    assert_int_equal(on_serving_at(f->s, "nobody", 500, &row, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "nobody"));
    assert_null(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(texts_of_a_rollout_are_kept_and_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(a_model_has_one_rollout_that_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(progress_of_what_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(no_progress_of_what_has_ended_or_never_was, setup, teardown),
        cmocka_unit_test_setup_teardown(no_progress_in_a_store_that_takes_no_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(holds_are_kept_until_they_are_lifted, setup, teardown),
        cmocka_unit_test_setup_teardown(a_hold_is_of_a_model_that_exists, setup, teardown),
        cmocka_unit_test_setup_teardown(a_rollback_and_its_hold_are_one_change, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_is_told_its_number, setup, teardown),
        cmocka_unit_test(an_empty_store_has_no_newest_line),
        cmocka_unit_test_setup_teardown(what_served_and_why_is_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(history_oldest_first_in_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(who_served_at_a_time, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
