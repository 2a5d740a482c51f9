/* SPDX-License-Identifier: Apache-2.0 */
/* Rows: a change is whole or not at all, history only grows, and a restart finds everything where it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "support/store_help.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

struct fixture {
    char *folder;
    struct store *s;
};

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

static struct history_row line(const char *model, int64_t version, const char *kind)
{
    struct history_row h = {.at_ms = 1700000000000, .version = version};
    snprintf(h.model, sizeof h.model, "%s", model);
    snprintf(h.kind, sizeof h.kind, "%s", kind);
    snprintf(h.actor, sizeof h.actor, "admin");
    snprintf(h.text, sizeof h.text, "%s of %s", kind, model);
    return h;
}

static struct model_row model_of(const char *name, int64_t stable, int64_t previous)
{
    struct model_row m = {.stable = stable, .previous = previous, .created_ms = 42};
    snprintf(m.name, sizeof m.name, "%s", name);
    snprintf(m.family, sizeof m.family, "default");
    return m;
}

static struct version_row version_of(const char *model, int64_t number, const char *digest)
{
    struct version_row v = {.number = number, .bytes = 1ull << 40, .created_ms = 43};
    snprintf(v.model, sizeof v.model, "%s", model);
    snprintf(v.digest, sizeof v.digest, "%s", digest);
    snprintf(v.backend, sizeof v.backend, "onnx");
    return v;
}

static struct rollout_row rollout_of(const char *id, const char *model, enum rollout_state state)
{
    struct rollout_row r = {.stable = 1, .canary = 2, .share_bp = 500, .state = state, .started_ms = 50};
    snprintf(r.id, sizeof r.id, "%s", id);
    snprintf(r.model, sizeof r.model, "%s", model);
    return r;
}

static size_t history_size(struct store *s)
{
    struct history_row *rows = NULL;
    size_t n = 0;
    struct err e = {0};
    assert_int_equal(on_history(s, NULL, 0, 1000, &rows, &n, &e), ERR_OK);
    history_done(rows, n);
    return n;
}

/* intent with versions 1 and 2, stable 1 */
static void two_versions(struct store *s)
{
    struct model_row m = model_of("intent", 1, 0);
    struct version_row v1 = version_of("intent", 1, DIGEST_A), v2 = version_of("intent", 2, DIGEST_B);
    struct history_row h = line("intent", 1, "pushed");
    struct err e = {0};
    assert_int_equal(on_apply(s, &(struct store_change){.model = &m, .version = &v1, .history = &h}, &e), ERR_OK);
    assert_int_equal(on_apply(s, &(struct store_change){.version = &v2, .history = &h}, &e), ERR_OK);
}

static void everything_is_there_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct store_state st = {0};
    two_versions(f->s);
    struct rollout_row r = rollout_of("r1", "intent", ROLLOUT_ROLLED_BACK);
    struct history_row h = line("intent", 2, "rolled_back");
    char evidence[] = "{\"arms\":[]}";
    r.ended_ms = 60;
    r.evidence = evidence;
    snprintf(r.reason, sizeof r.reason, "errors: \xc3\xa4 5 of 5");
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &r, .history = &h}, &e), ERR_OK);
    reopen(f);
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    assert_int_equal(st.n_models, 1);
    assert_string_equal(st.models[0].name, "intent");
    assert_string_equal(st.models[0].family, "default");
    assert_int_equal(st.models[0].stable, 1);
    assert_int_equal(st.models[0].previous, 0);
    assert_int_equal(st.models[0].created_ms, 42);
    assert_int_equal(st.n_versions, 2);
    assert_int_equal(st.versions[1].number, 2);
    assert_string_equal(st.versions[1].digest, DIGEST_B);
    assert_string_equal(st.versions[1].backend, "onnx");
    assert_true(st.versions[1].bytes == 1ull << 40);
    assert_int_equal(st.n_rollouts, 1);
    assert_string_equal(st.rollouts[0].id, "r1");
    assert_int_equal(st.rollouts[0].state, ROLLOUT_ROLLED_BACK);
    assert_int_equal(st.rollouts[0].share_bp, 500);
    assert_string_equal(st.rollouts[0].reason, r.reason);
    assert_string_equal(st.rollouts[0].evidence, evidence);
    assert_int_equal(st.rollouts[0].ended_ms, 60);
    store_state_done(&st);
    store_state_done(&st);
    assert_int_equal(history_size(f->s), 3);
}

static void taken_numbers_and_digests(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    two_versions(f->s);
    struct model_row m = model_of("intent", 2, 1);
    struct history_row h = line("intent", 2, "pushed");
    struct version_row v = version_of("intent", 2, "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc");
    assert_int_equal(on_apply(f->s, &(struct store_change){.model = &m, .version = &v, .history = &h}, &e),
                     ERR_CONFLICT);
    assert_non_null(strstr(e.text, "version 2 of intent exists already"));
    v = version_of("intent", 3, DIGEST_A);
    assert_int_equal(on_apply(f->s, &(struct store_change){.model = &m, .version = &v, .history = &h}, &e),
                     ERR_CONFLICT);
    assert_non_null(strstr(e.text, "has these files already"));
    /* nothing of either happened */
    struct store_state st = {0};
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    assert_int_equal(st.models[0].stable, 1);
    assert_int_equal(st.n_versions, 2);
    store_state_done(&st);
    assert_int_equal(history_size(f->s), 2);
    /* the same digest under another model is fine */
    struct model_row other = model_of("other", 1, 0);
    v = version_of("other", 1, DIGEST_A);
    assert_int_equal(on_apply(f->s, &(struct store_change){.model = &other, .version = &v, .history = &h}, &e), ERR_OK);
}

static void what_does_not_exist_can_not_be_named(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    two_versions(f->s);
    struct history_row h = line("intent", 9, "promoted");
    struct model_row m = model_of("intent", 9, 1);
    assert_int_equal(on_apply(f->s, &(struct store_change){.model = &m, .history = &h}, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "does not exist"));
    struct rollout_row r = rollout_of("r1", "nobody", ROLLOUT_RUNNING);
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &r, .history = &h}, &e), ERR_CONFLICT);
    assert_int_equal(history_size(f->s), 2);
    /* and the store goes on */
    m = model_of("intent", 2, 1);
    assert_int_equal(on_apply(f->s, &(struct store_change){.model = &m, .history = &h}, &e), ERR_OK);
}

static void one_running_rollout_and_the_last_is_loaded(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct store_state st = {0};
    two_versions(f->s);
    struct history_row h = line("intent", 2, "rollout_started");
    struct rollout_row first = rollout_of("zz-first", "intent", ROLLOUT_RUNNING),
                       second = rollout_of("aa-second", "intent", ROLLOUT_RUNNING);
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &first, .history = &h}, &e), ERR_OK);
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &second, .history = &h}, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "running already"));
    first.state = ROLLOUT_REPLACED;
    first.ended_ms = 70;
    assert_int_equal(
        on_apply(f->s, &(struct store_change){.rollout = &second, .rollout_ended = &first, .history = &h}, &e), ERR_OK);
    second.share_bp = 10000;
    assert_int_equal(on_apply(f->s, &(struct store_change){.rollout = &second, .history = &h}, &e), ERR_OK);
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    assert_int_equal(st.n_rollouts, 1);
    assert_string_equal(st.rollouts[0].id, "aa-second");
    assert_int_equal(st.rollouts[0].share_bp, 10000);
    assert_null(st.rollouts[0].evidence);
    store_state_done(&st);
}

static void history_newest_first_in_pages(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    for (int i = 0; i < 25; i++) {
        struct history_row h = line(i % 2 ? "odd" : "even", i, "pushed");
        assert_int_equal(on_apply(f->s, &(struct store_change){.history = &h}, &e), ERR_OK);
    }
    struct history_row *rows = NULL;
    size_t n = 0, seen = 0;
    int64_t before = 0, last = INT64_MAX;
    do {
        assert_int_equal(on_history(f->s, NULL, before, 10, &rows, &n, &e), ERR_OK);
        for (size_t i = 0; i < n; i++, seen++) {
            assert_true(rows[i].seq < last);
            last = rows[i].seq;
            assert_int_equal(rows[i].version, 24 - (int64_t)seen);
        }
        before = last;
        history_done(rows, n);
        rows = NULL;
    } while (n == 10);
    assert_int_equal(seen, 25);
    assert_int_equal(on_history(f->s, "odd", 0, 1000, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 12);
    assert_string_equal(rows[0].model, "odd");
    assert_string_equal(rows[0].actor, "admin");
    assert_string_equal(rows[0].text, "pushed of odd");
    history_done(rows, n);
    rows = NULL;
    assert_int_equal(on_history(f->s, "nobody", 0, 1000, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 0);
    history_done(rows, n);
}

static void the_database_refuses_to_change_history(void **state)
{
    static const char *const attempts[] = {
        "UPDATE history SET text = 'never happened'",
        "DELETE FROM history",
        "INSERT OR REPLACE INTO history VALUES (1, 0, 'x', 1, 'x', 'x', 'x', NULL, NULL)",
        "UPDATE history SET serving = '[]'",
        "UPDATE history SET evidence = NULL",
        "UPDATE OR REPLACE history SET seq = 7",
    };
    struct fixture *f = *state;
    two_versions(f->s);
    store_close(f->s);
    f->s = NULL;
    char *path = store_path(f->folder, "weir.db");
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (size_t i = 0; i < COUNT_OF(attempts); i++) {
        assert_int_equal(sqlite3_exec(db, attempts[i], NULL, NULL, NULL), SQLITE_CONSTRAINT);
        assert_string_equal(sqlite3_errmsg(db), "history is append-only");
    }
    assert_int_equal(sqlite3_exec(db, "UPDATE model SET family = 'x'", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    free(path);
    struct err e = {0};
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_OK);
    assert_int_equal(history_size(f->s), 2);
}

static void the_log_does_not_grow_for_ever(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    char *path = store_path(f->folder, "weir.db-wal");
    struct history_row h = line("intent", 1, "pushed");
    memset(h.text, 'x', sizeof h.text - 1);
    for (int i = 0; i < 1500; i++) {
        assert_int_equal(on_apply(f->s, &(struct store_change){.history = &h}, &e), ERR_OK);
    }
    FILE *wal = fopen(path, "r");
    assert_non_null(wal);
    fseek(wal, 0, SEEK_END);
    assert_true(ftell(wal) < 6 << 20);
    fclose(wal);
    free(path);
    struct history_row *rows = NULL;
    size_t n = 0;
    assert_int_equal(on_history(f->s, NULL, 0, 100000, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 1000); /* the most one call gives */
    history_done(rows, n);
}

/* ---- costs ---- */

static enum err_code put_cost(struct store *s, void *arg)
{
    struct err e;
    return store_put_cost(s, arg, &e);
}

static struct cost_row cost_row_of(const char *digest, const char *device, uint64_t bytes)
{
    struct cost_row c = {.bytes = bytes, .measured_ms = 44};
    snprintf(c.digest, sizeof c.digest, "%s", digest);
    snprintf(c.device, sizeof c.device, "%s", device);
    return c;
}

static void costs_are_kept_by_digest_and_device(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct store_state st = {0};
    struct cost_row rows[] = {cost_row_of(DIGEST_B, "host", 1ull << 40), cost_row_of(DIGEST_A, "cuda:0", 5),
                              cost_row_of(DIGEST_A, "host", 7), cost_row_of(DIGEST_B, "host", 1ull << 41)};
    struct cost_row stranger = cost_row_of(DIGEST_A, "host", 9), bad = cost_row_of("short", "host", 1);
    two_versions(f->s);
    memset(stranger.digest, 'c', 64); /* no version has it yet */
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        assert_int_equal(store_call(f->s, put_cost, &rows[i]), ERR_OK);
    }
    assert_int_equal(store_call(f->s, put_cost, &stranger), ERR_OK);
    assert_int_equal(store_call(f->s, put_cost, &bad), ERR_CONFLICT);
    reopen(f);
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    assert_int_equal(st.n_costs, 3);
    assert_string_equal(st.costs[0].digest, DIGEST_A);
    assert_string_equal(st.costs[0].device, "cuda:0");
    assert_int_equal(st.costs[0].bytes, 5);
    assert_int_equal(st.costs[1].bytes, 7);
    assert_true(st.costs[2].bytes == 1ull << 41); /* the later one */
    assert_int_equal(st.costs[2].measured_ms, 44);
    store_state_done(&st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_is_there_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(taken_numbers_and_digests, setup, teardown),
        cmocka_unit_test_setup_teardown(what_does_not_exist_can_not_be_named, setup, teardown),
        cmocka_unit_test_setup_teardown(one_running_rollout_and_the_last_is_loaded, setup, teardown),
        cmocka_unit_test_setup_teardown(history_newest_first_in_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(the_database_refuses_to_change_history, setup, teardown),
        cmocka_unit_test_setup_teardown(the_log_does_not_grow_for_ever, setup, teardown),
        cmocka_unit_test_setup_teardown(costs_are_kept_by_digest_and_device, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
