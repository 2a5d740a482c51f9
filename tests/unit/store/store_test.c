/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, locking and the queue: who may use the files, in which order jobs run, and what is refused with which words.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <semaphore.h>
#include <sqlite3.h>

#include "store/store_priv.h"
#include "support/store_help.h"

static void database_run(const char *folder, const char *sql)
{
    char *path = store_path(folder, "weir.db");
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    free(path);
}

static void database_says(const char *folder, const char *sql, const char *answer)
{
    char *path = store_path(folder, "weir.db");
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(st, 0), answer);
    sqlite3_finalize(st);
    sqlite3_close(db);
    free(path);
}

static void refused_urls(void **state)
{
    static const struct {
        const char *url, *artifacts;
        enum err_code code;
    } rows[] = {
        {"postgresql://db/weir", "a", ERR_UNIMPLEMENTED},
        {"postgres://db/weir", "a", ERR_UNIMPLEMENTED},
        {"weir.db", "a", ERR_INVALID},
        {"sqlite:", "a", ERR_INVALID},
        {"sqlite:folder/", "a", ERR_INVALID},
        {"sqlite:x", "s3://b/p", ERR_UNIMPLEMENTED},
        {"sqlite:x", "", ERR_INVALID},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct store *s = NULL;
        struct err e = {0};
        assert_int_equal(store_open(&s, rows[i].url, rows[i].artifacts, &e), rows[i].code);
        assert_null(s);
        assert_true(e.text[0] != '\0');
    }
    store_close(NULL);
}

static void folders_are_created(void **state)
{
    (void)state;
    char *folder = store_folder_new();
    char *deep = store_path(folder, "a//b/c");
    struct store *s = NULL;
    struct err e = {0};
    assert_int_equal(store_open_in(&s, deep, &e), ERR_OK);
    store_close(s);
    assert_int_equal(store_open_in(&s, deep, &e), ERR_OK);
    store_close(s);
    free(deep);
    store_folder_free(folder);
}

static void a_second_server_is_told_who_holds_it(void **state)
{
    (void)state;
    char *folder = store_folder_new(), said[64];
    struct store *s = NULL, *second = NULL;
    struct err e = {0};
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    assert_int_equal(store_open_in(&second, folder, &e), ERR_CONFLICT);
    assert_null(second);
    snprintf(said, sizeof said, "in use by process %ld", (long)getpid());
    assert_non_null(strstr(e.text, said));
    /* also with another database and the same artifacts */
    char *other = store_path(folder, "other.db"), *url = xasprintf("sqlite:%s", other),
         *artifacts = store_path(folder, "artifacts");
    assert_int_equal(store_open(&second, url, artifacts, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "in use"));
    store_close(s);
    /* and when the first has gone: these artifacts are not that database's */
    assert_int_equal(store_open(&second, url, artifacts, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "belongs to another store"));
    free(other);
    free(url);
    free(artifacts);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    store_close(s);
    store_folder_free(folder);
}

static void the_lock_goes_with_a_killed_process(void **state)
{
    (void)state;
    char *folder = store_folder_new();
    int ready[2];
    struct store *s = NULL;
    struct err e = {0};
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        _exit(store_open_in(&s, folder, &e) != ERR_OK || write(ready[1], "x", 1) != 1 || pause());
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_CONFLICT);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    store_close(s);
    close(ready[0]);
    close(ready[1]);
    store_folder_free(folder);
}

static void other_databases_are_left_alone(void **state)
{
    (void)state;
    struct store *s = NULL;
    struct err e = {0};
    char *folder = store_folder_new();
    database_run(folder, "CREATE TABLE customers (name TEXT)");
    assert_int_equal(store_open_in(&s, folder, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "another program"));
    database_says(folder, "PRAGMA journal_mode", "delete"); /* not even its journal was touched */
    store_folder_free(folder);

    folder = store_folder_new();
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    store_close(s);
    database_run(folder, "PRAGMA user_version = 999");
    assert_int_equal(store_open_in(&s, folder, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "newer Weir (schema 999"));
    store_folder_free(folder);

    folder = store_folder_new();
    char *path = store_path(folder, "weir.db");
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 1000; i++) {
        fputs("this is not a database. ", f);
    }
    fclose(f);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "no database"));
    free(path);
    store_folder_free(folder);
}

static void a_damaged_database_is_found(void **state)
{
    (void)state;
    struct store *s = NULL;
    struct err e = {0};
    char *folder = store_folder_new(), *path = store_path(folder, "weir.db");
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    store_close(s);
    FILE *f = fopen(path, "r+");
    char junk[2048];
    memset(junk, 0xa5, sizeof junk);
    fseek(f, 4096, SEEK_SET);
    fwrite(junk, 1, sizeof junk, f);
    fclose(f);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "damaged"));
    free(path);
    store_folder_free(folder);
}

static void folders_of_somebody_else_are_left_alone(void **state)
{
    (void)state;
    struct store *s = NULL;
    struct err e = {0};
    char *folder = store_folder_new(), *artifacts = store_path(folder, "artifacts"),
         *blobs = store_path(folder, "artifacts/blobs");
    assert_int_equal(mkdir(artifacts, 0755), 0);
    assert_int_equal(mkdir(blobs, 0755), 0);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "no store made"));
    free(artifacts);
    free(blobs);
    store_folder_free(folder);
}

/* ---- the queue ---- */

struct step {
    struct store_job job;
    char name, *trace;
    sem_t *wait;
};

static void step_run(struct store *s, struct store_job *j)
{
    struct step *st = CONTAINER_OF(j, struct step, job);
    (void)s;
    if (st->wait) {
        sem_wait(st->wait);
    }
    st->trace[strlen(st->trace)] = st->name;
}

static void in_order_and_urgent_first(void **state)
{
    (void)state;
    char *folder = store_folder_new(), trace[16] = "";
    struct store *s = NULL;
    struct err e = {0};
    sem_t go;
    sem_init(&go, 0, 0);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    struct step steps[] = {{.name = 'a', .wait = &go},
                           {.name = 'b'},
                           {.name = 'X', .job.urgent = true},
                           {.name = 'c'},
                           {.name = 'Y', .job.urgent = true}};
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        steps[i].job.run = step_run;
        steps[i].trace = trace;
    }
    /* 'a' holds the thread until all are queued; whichever way it begins, urgent ones pass 'b' and 'c' */
    store_post(s, &steps[0].job);
    for (size_t i = 1; i < COUNT_OF(steps); i++) {
        store_post(s, &steps[i].job);
    }
    sem_post(&go);
    store_close(s); /* runs what is queued */
    assert_true(strcmp(trace, "aXYbc") == 0 || strcmp(trace, "XaYbc") == 0 || strcmp(trace, "XYabc") == 0);
    sem_destroy(&go);
    store_folder_free(folder);
}

struct both {
    struct store_job job;
    struct step *urgent;
    char *trace, *file;
    enum err_code rc;
    struct err e;
    struct manifest m;
};

static void import_run(struct store *s, struct store_job *j)
{
    struct both *b = CONTAINER_OF(j, struct both, job);
    store_post(s, &b->urgent->job); /* it arrives while the import is at work */
    b->rc = artifact_import(s, b->file, &b->m, &b->e);
    b->trace[strlen(b->trace)] = 'i';
}

static void urgent_jobs_get_in_while_a_big_file_is_hashed(void **state)
{
    (void)state;
    char *folder = store_folder_new(), trace[16] = "", *file = store_path(folder, "model.onnx");
    struct store *s = NULL;
    struct err e = {0};
    FILE *f = fopen(file, "w");
    char *real = realpath(file, NULL);
    assert_non_null(real);
    for (int i = 0; i < 3 << 20; i++) {
        fputc(i * 7, f);
    }
    fclose(f);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    struct step urgent = {.name = 'u', .trace = trace, .job = {.run = step_run, .urgent = true}};
    struct both big = {.urgent = &urgent, .trace = trace, .file = real, .job.run = import_run};
    store_post(s, &big.job);
    store_close(s);
    assert_int_equal(big.rc, ERR_OK);
    assert_string_equal(trace, "ui");
    manifest_done(&big.m);
    free(real);
    free(file);
    store_folder_free(folder);
}

static enum err_code break_it(struct store *s, void *arg)
{
    (void)arg;
    store_break(s, "weir.db");
    return ERR_OK;
}

static void read_only_after_a_failed_sync_until_restart(void **state)
{
    (void)state;
    char *folder = store_folder_new();
    struct store *s = NULL;
    struct err e = {0};
    struct history_row h = {.kind = "pushed"}, *rows = NULL;
    struct manifest m = {0};
    size_t n = 0;
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    assert_int_equal(on_apply(s, &(struct store_change){.history = &h}, &e), ERR_OK);
    store_call(s, break_it, NULL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(on_apply(s, &(struct store_change){.history = &h}, &e), ERR_STORAGE);
        assert_non_null(strstr(e.text, "read-only until the server is restarted"));
        assert_int_equal(on_upload(s, (struct str){0}, STR("bytes"), 5, &m, &e), ERR_STORAGE);
    }
    assert_int_equal(on_history(s, NULL, 0, 10, &rows, &n, &e), ERR_OK);
    assert_int_equal(n, 1);
    free(rows);
    store_close(s);
    assert_int_equal(store_open_in(&s, folder, &e), ERR_OK);
    assert_int_equal(on_apply(s, &(struct store_change){.history = &h}, &e), ERR_OK);
    store_close(s);
    store_folder_free(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_urls),
        cmocka_unit_test(folders_are_created),
        cmocka_unit_test(a_second_server_is_told_who_holds_it),
        cmocka_unit_test(the_lock_goes_with_a_killed_process),
        cmocka_unit_test(other_databases_are_left_alone),
        cmocka_unit_test(a_damaged_database_is_found),
        cmocka_unit_test(folders_of_somebody_else_are_left_alone),
        cmocka_unit_test(in_order_and_urgent_first),
        cmocka_unit_test(urgent_jobs_get_in_while_a_big_file_is_hashed),
        cmocka_unit_test(read_only_after_a_failed_sync_until_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
