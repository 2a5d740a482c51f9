/* SPDX-License-Identifier: Apache-2.0 */
/* Databases of earlier schemas are brought on with all that is in them, or stay what they were. They are made here from
 * the migrations that those schemas had. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "support/store_help.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

extern const char embed_store_migrations_0001_init_sql[];
extern const char embed_store_migrations_0002_costs_sql[];

static const char *const schemas[] = {
    embed_store_migrations_0001_init_sql,
    embed_store_migrations_0002_costs_sql,
};

/* "intent" with a rollout that ended after the one that runs began: the rowids say so, neither the ids nor the order of
 * the rows; with a gap between them. "other" has one that ended. */
static const char rows_of_schema_1[] =
    "BEGIN;"
    "INSERT INTO model VALUES ('intent', 'default', 1, NULL, 42), ('other', 'fam', 2, 1, 43);"
    "INSERT INTO version VALUES ('intent', 1, '" DIGEST_A "', 'onnx', 7, 44), ('intent', 2, '" DIGEST_B
    "', 'onnx', 8, 45), ('other', 1, '" DIGEST_A "', 'onnx', 7, 46), ('other', 2, '" DIGEST_B "', 'onnx', 8, 47);"
    "INSERT INTO rollout (rowid, id, model, stable, canary, share_bp, state, started_ms, ended_ms, reason, evidence) "
    "VALUES (9, 'r-a', 'intent', 1, 2, 100, 'rolled_back', 60, 70, 'it was slow', '{\"arms\":[1]}'),"
    "(4, 'r-z', 'intent', 1, 2, 500, 'running', 50, 0, '', NULL),"
    "(7, 'r-m', 'other', NULL, 2, 10000, 'promoted', 51, 61, 'by admin', '{\"arms\":[2]}'),"
    "(2, 'r-y', 'other', 1, 2, 0, 'replaced', 48, 49, 'by r-m', NULL);"
    "INSERT INTO history (at_ms, model, version, kind, actor, text) VALUES "
    "(44, 'intent', 1, 'pushed', 'admin', 'one'), (45, 'intent', 2, 'pushed', 'admin', 'two'), "
    "(61, 'other', 2, 'promoted', 'admin', 'three');"
    "COMMIT";

struct fixture {
    char *folder;
    struct store *s;
};

static void sql(struct fixture *f, const char *text)
{
    char *path = store_path(f->folder, "weir.db");
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK) {
        fail_msg("%.60s: %s", text, sqlite3_errmsg(db));
    }
    sqlite3_close(db);
    free(path);
}

/* All that a query finds, the columns of a row joined by '|', each row ended by ';'. */
static void finds(struct fixture *f, const char *query, const char *expected)
{
    char *path = store_path(f->folder, "weir.db");
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    struct buf found;
    buf_init(&found, 64 << 10);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, query, -1, &st, NULL), SQLITE_OK);
    while (sqlite3_step(st) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(st); i++) {
            const char *text = (const char *)sqlite3_column_text(st, i);
            buf_addf(&found, "%s%s", i ? "|" : "", text ? text : "NULL");
        }
        buf_addc(&found, ';');
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    assert_string_equal(buf_z(&found), expected);
    buf_done(&found);
    free(path);
}

static void old_store(struct fixture *f, size_t schema)
{
    char version[40];
    snprintf(version, sizeof version, "PRAGMA user_version = %zu", schema);
    for (size_t i = 0; i < schema; i++) {
        sql(f, schemas[i]);
    }
    sql(f, version);
    sql(f, rows_of_schema_1);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->folder = store_folder_new();
    *state = f;
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

static void opens(struct fixture *f)
{
    struct err e = {0};
    if (store_open_in(&f->s, f->folder, &e) != ERR_OK) {
        fail_msg("%s", e.text);
    }
}

static void closes(struct fixture *f)
{
    store_close(f->s);
    f->s = NULL;
}

static void is_of_this_schema(struct fixture *f)
{
    finds(f, "PRAGMA user_version", "6;");
    finds(f, "PRAGMA integrity_check", "ok;");
    finds(f, "PRAGMA foreign_key_check", "");
}

/* What store_load says of rows_of_schema_1. */
static void rows_are_loaded(struct fixture *f)
{
    struct store_state st = {0};
    struct err e = {0};
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    assert_int_equal(st.n_models, 2);
    assert_int_equal(st.models[1].previous, 1);
    assert_int_equal(st.n_versions, 4);
    assert_int_equal(st.n_rollouts, 2);
    const struct rollout_row *r = &st.rollouts[0], *other = &st.rollouts[1];
    assert_string_equal(r->id, "r-a");
    assert_int_equal(r->state, ROLLOUT_ROLLED_BACK);
    assert_int_equal(r->share_bp, 100);
    assert_int_equal(r->started_ms, 60);
    assert_int_equal(r->ended_ms, 70);
    assert_string_equal(r->reason, "it was slow");
    assert_string_equal(r->evidence, "{\"arms\":[1]}");
    assert_string_equal(other->id, "r-m");
    assert_int_equal(other->stable, 0);
    assert_string_equal(other->evidence, "{\"arms\":[2]}");
    for (size_t i = 0; i < st.n_rollouts; i++) {
        assert_null(st.rollouts[i].policy);
        assert_null(st.rollouts[i].progress);
        assert_null(st.rollouts[i].counts);
    }
    assert_int_equal(st.n_holds, 0);
    assert_int_equal(st.seq, 3);
    store_state_done(&st);
}

/* ---- schema 2 ---- */

static void all_rows_of_schema_2_are_kept(void **state)
{
    struct fixture *f = *state;
    struct history_row *rows = NULL;
    size_t n = 0;
    struct err e = {0};
    old_store(f, 2);
    sql(f, "INSERT INTO cost VALUES ('" DIGEST_A "', 'host', 5, 48)");
    opens(f);
    rows_are_loaded(f);
    assert_int_equal(on_history(f->s, NULL, 0, 10, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 3);
    assert_string_equal(rows[0].text, "three");
    assert_int_equal(rows[2].seq, 1);
    assert_null(rows[0].serving);
    assert_null(rows[0].evidence);
    history_done(rows, n);
    assert_int_equal(on_serving_at(f->s, "intent", INT64_MAX, &rows, &e), ERR_NOT_FOUND);
    closes(f);
    is_of_this_schema(f);
    finds(f,
          "SELECT rowid, id, model, IFNULL(stable, 0), canary, share_bp, state, started_ms, ended_ms, reason, "
          "evidence, policy, progress, counts FROM rollout ORDER BY rowid",
          "2|r-y|other|1|2|0|replaced|48|49|by r-m|NULL|NULL|NULL|NULL;"
          "4|r-z|intent|1|2|500|running|50|0||NULL|NULL|NULL|NULL;"
          "7|r-m|other|0|2|10000|promoted|51|61|by admin|{\"arms\":[2]}|NULL|NULL|NULL;"
          "9|r-a|intent|1|2|100|rolled_back|60|70|it was slow|{\"arms\":[1]}|NULL|NULL|NULL;");
    finds(f, "SELECT digest, bytes FROM cost", DIGEST_A "|5;");
    finds(f, "SELECT name FROM sqlite_master WHERE name LIKE '%rollout%' ORDER BY name",
          "rollout;rollout_going_on;rollout_model;sqlite_autoindex_rollout_1;");
    opens(f); /* and once more, with nothing left to do */
    rows_are_loaded(f);
}

static struct history_row line(const char *kind)
{
    struct history_row h = {.at_ms = 80, .model = "intent", .version = 2, .actor = "admin", .text = "a sentence"};
    snprintf(h.kind, sizeof h.kind, "%s", kind);
    return h;
}

static enum err_code puts_rollout(struct fixture *f, const char *id, int64_t canary, enum rollout_state state,
                                  struct err *e)
{
    struct rollout_row r = {.model = "intent", .stable = 1, .canary = canary, .state = state, .started_ms = 80};
    struct history_row h = line("rollout");
    snprintf(r.id, sizeof r.id, "%s", id);
    return on_apply(f->s, &(struct store_change){.rollout = &r, .history = &h}, e);
}

static void the_new_rules_hold_for_what_came_from_schema_2(void **state)
{
    struct fixture *f = *state;
    struct store_state st = {0};
    struct err e = {0};
    old_store(f, 2);
    opens(f);
    /* r-z of before is the one that runs */
    assert_int_equal(puts_rollout(f, "r-b", 2, ROLLOUT_RUNNING, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "running already"));
    assert_int_equal(on_progress(f->s, "r-z", "{\"step\":1}", "{}", &e), ERR_OK);
    assert_int_equal(on_progress(f->s, "r-a", "{}", "{}", &e), ERR_NOT_FOUND);
    assert_int_equal(puts_rollout(f, "r-z", 2, ROLLOUT_SOAKING, &e), ERR_OK);
    assert_int_equal(puts_rollout(f, "r-b", 2, ROLLOUT_RUNNING, &e), ERR_CONFLICT);
    assert_int_equal(puts_rollout(f, "r-z", 2, ROLLOUT_PROMOTED, &e), ERR_OK);
    assert_int_equal(puts_rollout(f, "r-b", 9, ROLLOUT_RUNNING, &e), ERR_CONFLICT); /* the reference is still there */
    assert_non_null(strstr(e.text, "does not exist"));
    assert_int_equal(puts_rollout(f, "r-b", 2, ROLLOUT_RUNNING, &e), ERR_OK);
    assert_int_equal(on_load(f->s, &st, &e), ERR_OK);
    assert_string_equal(st.rollouts[0].id, "r-b"); /* the last one, after r-a */
    assert_int_equal(st.seq, 6);
    store_state_done(&st);
    closes(f);
    is_of_this_schema(f);
}

static void history_of_schema_2_is_still_append_only(void **state)
{
    static const char *const attempts[] = {
        "UPDATE history SET serving = '[]' WHERE seq = 1",
        "UPDATE history SET text = 'never happened'",
        "DELETE FROM history WHERE seq = 3",
        "INSERT OR REPLACE INTO history VALUES (1, 0, '', 0, '', '', '', NULL, NULL)",
    };
    struct fixture *f = *state;
    sqlite3 *db = NULL;
    old_store(f, 2);
    opens(f);
    closes(f);
    char *path = store_path(f->folder, "weir.db");
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (size_t i = 0; i < COUNT_OF(attempts); i++) {
        assert_int_equal(sqlite3_exec(db, attempts[i], NULL, NULL, NULL), SQLITE_CONSTRAINT);
        assert_string_equal(sqlite3_errmsg(db), "history is append-only");
    }
    sqlite3_close(db);
    free(path);
    finds(f, "SELECT seq, text, serving FROM history", "1|one|NULL;2|two|NULL;3|three|NULL;");
}

/* What fails at the last step of a migration takes the first ones back. */
static void a_migration_is_whole_or_not_at_all(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    old_store(f, 2);
    sql(f, "CREATE TABLE hold (x)");
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_STORAGE);
    assert_null(f->s);
    assert_non_null(strstr(e.text, "bring the store to schema 3"));
    finds(f, "PRAGMA user_version", "2;");
    finds(f, "SELECT name FROM pragma_table_info('rollout') WHERE name IN ('evidence', 'policy')", "evidence;");
    finds(f, "SELECT COUNT(*) FROM rollout", "4;");
    finds(f, "SELECT COUNT(*) FROM pragma_table_info('history')", "7;");
    sql(f, "DROP TABLE hold");
    opens(f);
    rows_are_loaded(f);
}

/* ---- other schemas ---- */

static void schema_1_is_brought_on(void **state)
{
    struct fixture *f = *state;
    old_store(f, 1);
    opens(f);
    rows_are_loaded(f);
    closes(f);
    is_of_this_schema(f);
    finds(f, "SELECT COUNT(*) FROM cost", "0;");
}

static void a_newer_schema_is_refused_and_left_alone(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    opens(f);
    closes(f);
    sql(f, "PRAGMA user_version = 7; PRAGMA journal_mode = DELETE");
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_CONFLICT);
    assert_null(f->s);
    assert_non_null(strstr(e.text, "written by a newer Weir (schema 7, this one knows 6)"));
    finds(f, "PRAGMA user_version", "7;");
    finds(f, "PRAGMA journal_mode", "delete;");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_rows_of_schema_2_are_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(the_new_rules_hold_for_what_came_from_schema_2, setup, teardown),
        cmocka_unit_test_setup_teardown(history_of_schema_2_is_still_append_only, setup, teardown),
        cmocka_unit_test_setup_teardown(a_migration_is_whole_or_not_at_all, setup, teardown),
        cmocka_unit_test_setup_teardown(schema_1_is_brought_on, setup, teardown),
        cmocka_unit_test_setup_teardown(a_newer_schema_is_refused_and_left_alone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
