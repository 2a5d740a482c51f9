/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite itself: one connection, its settings, its schema, its statements, its errors. rows_write.c and rows_read.c use
 * them.
 *
 * WAL with synchronous=FULL: a COMMIT that returns has been synced. The checkpoint is called here and not left to
 * SQLite, because SQLite would swallow its errors, and a failed sync must stop the writing. A failed COMMIT may still
 * be found in the log after a crash; store_break's sentence says so.
 *
 * Migrations are the files in migrations/, embedded by the Makefile; PRAGMA user_version counts those that were
 * applied.
 *
 * Thread: the store thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "store/sqlite.h"

#define APPLICATION_ID 1466263922 /* "Weir" */
#define CHECKPOINT_PAGES 1000
#define BUSY_MS 2000 /* another program (the sqlite3 shell, a backup) may hold the lock for a moment */

extern const char embed_store_migrations_0001_init_sql[];
extern const char embed_store_migrations_0002_costs_sql[];
extern const char embed_store_migrations_0003_rollouts_sql[];
extern const char embed_store_migrations_0004_capture_sql[];
extern const char embed_store_migrations_0006_shadow_sql[];
extern const char embed_store_migrations_0007_place_sql[];

/* clang-format off */
static const char *const migrations[] = {
    embed_store_migrations_0001_init_sql,
    embed_store_migrations_0002_costs_sql,
    embed_store_migrations_0003_rollouts_sql,
    embed_store_migrations_0004_capture_sql,
    embed_store_migrations_0006_shadow_sql,
    embed_store_migrations_0007_place_sql,
};
/* clang-format on */

#define HISTORY_COLUMNS "seq, at_ms, model, version, kind, actor, text, serving, evidence"

static const char *const sql_texts[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_PUT_MODEL] =
        "INSERT INTO model (name, family, stable, previous, created_ms) "
        "VALUES (?1, ?2, NULLIF(?3, 0), NULLIF(?4, 0), ?5) ON CONFLICT (name) DO UPDATE SET family = excluded.family, "
        "stable = excluded.stable, previous = excluded.previous, created_ms = excluded.created_ms",
    [SQL_ADD_VERSION] =
        "INSERT INTO version (model, number, digest, backend, bytes, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_PUT_ROLLOUT] =
        "INSERT INTO rollout (id, model, stable, canary, share_bp, state, started_ms, ended_ms, reason, evidence, "
        "policy, progress, counts) "
        "VALUES (?1, ?2, NULLIF(?3, 0), NULLIF(?4, 0), ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) "
        "ON CONFLICT (id) DO UPDATE SET "
        "model = excluded.model, stable = excluded.stable, canary = excluded.canary, share_bp = excluded.share_bp, "
        "state = excluded.state, started_ms = excluded.started_ms, ended_ms = excluded.ended_ms, "
        "reason = excluded.reason, evidence = excluded.evidence, policy = excluded.policy, "
        "progress = excluded.progress, counts = excluded.counts",
    [SQL_PUT_PROGRESS] =
        "UPDATE rollout SET progress = ?2, counts = ?3 WHERE id = ?1 AND state IN ('running', 'soaking')",
    [SQL_PUT_HOLD] = "INSERT INTO hold (model, digest, since_ms, reason) VALUES (?1, ?2, ?3, ?4) "
                     "ON CONFLICT (model, digest) DO UPDATE SET since_ms = excluded.since_ms, "
                     "reason = excluded.reason",
    [SQL_LIFT_HOLD] = "DELETE FROM hold WHERE model = ?1 AND digest = ?2",
    [SQL_PUT_SHADOW] = "INSERT INTO shadow (model, id, version, share_bp, started_ms) VALUES (?1, ?2, ?3, ?4, ?5) "
                       "ON CONFLICT (model) DO UPDATE SET id = excluded.id, version = excluded.version, "
                       "share_bp = excluded.share_bp, started_ms = excluded.started_ms",
    [SQL_DROP_SHADOW] = "DELETE FROM shadow WHERE model = ?1",
    [SQL_PUT_PLACE] = "INSERT INTO place (family, place, configured, at_ms, actor, token_file) "
                      "VALUES (?1, ?2, NULLIF(?3, ''), ?4, ?5, NULLIF(?6, '')) "
                      "ON CONFLICT (family) DO UPDATE SET place = excluded.place, configured = excluded.configured, "
                      "at_ms = excluded.at_ms, actor = excluded.actor, token_file = excluded.token_file",
    [SQL_DROP_PLACE] = "DELETE FROM place WHERE family = ?1",
    [SQL_ADD_HISTORY] = "INSERT INTO history (at_ms, model, version, kind, actor, text, serving, evidence) "
                        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [SQL_MODELS] =
        "SELECT name, family, IFNULL(stable, 0), IFNULL(previous, 0), created_ms FROM model ORDER BY created_ms, name",
    [SQL_VERSIONS] = "SELECT model, number, digest, backend, bytes, created_ms FROM version ORDER BY model, number",
    [SQL_ROLLOUTS] = "SELECT id, model, IFNULL(stable, 0), IFNULL(canary, 0), share_bp, state, started_ms, ended_ms, "
                     "reason, evidence, policy, progress, counts "
                     "FROM rollout WHERE rowid IN (SELECT MAX(rowid) FROM rollout GROUP BY model) ORDER BY model",
    [SQL_HOLDS] = "SELECT model, digest, since_ms, reason FROM hold ORDER BY model, digest",
    [SQL_SHADOWS] = "SELECT model, id, version, share_bp, started_ms FROM shadow ORDER BY model",
    [SQL_PLACES] =
        "SELECT family, place, IFNULL(configured, ''), at_ms, actor, IFNULL(token_file, '') FROM place ORDER BY family",
    [SQL_SEQ] = "SELECT IFNULL(MAX(seq), 0) FROM history",
    [SQL_HISTORY] = "SELECT " HISTORY_COLUMNS " FROM history WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
    [SQL_HISTORY_OF] =
        "SELECT " HISTORY_COLUMNS " FROM history WHERE seq < ?1 AND model = ?3 ORDER BY seq DESC LIMIT ?2",
    [SQL_HISTORY_AFTER] = "SELECT " HISTORY_COLUMNS " FROM history WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    [SQL_HISTORY_AFTER_OF] =
        "SELECT " HISTORY_COLUMNS " FROM history WHERE seq > ?1 AND model = ?3 ORDER BY seq LIMIT ?2",
    /* By seq and not by time: that says what came last also where the clock was set back. */
    [SQL_SERVING_AT] = "SELECT " HISTORY_COLUMNS " FROM history WHERE model = ?1 AND serving IS NOT NULL AND "
                       "at_ms <= ?2 ORDER BY seq DESC LIMIT 1",
    [SQL_DIGEST] = "SELECT 1 FROM version WHERE digest = ?1 LIMIT 1",
    [SQL_PUT_COST] = "INSERT INTO cost (digest, device, bytes, measured_ms) VALUES (?1, ?2, ?3, ?4) "
                     "ON CONFLICT (digest, device) DO UPDATE SET bytes = excluded.bytes, "
                     "measured_ms = excluded.measured_ms",
    [SQL_COSTS] = "SELECT digest, device, bytes, measured_ms FROM cost WHERE digest IN (SELECT digest FROM version) "
                  "ORDER BY digest, device",
};

/* ---- errors ---- */

enum err_code db_fail(struct store *s, struct err *e, const char *doing)
{
    int code = s->db ? sqlite3_extended_errcode(s->db) : SQLITE_NOMEM;
    const char *text = s->db ? sqlite3_errmsg(s->db) : "out of memory";
    if (code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC) {
        store_break(s, s->db_path);
        return err_set(e, ERR_STORAGE, "can not %s: %s", doing, s->broken);
    }
    switch (code & 0xff) {
    case SQLITE_FULL:
        return err_set(e, ERR_STORAGE, "can not %s: disk full: free space in the folder of %s and try again", doing,
                       s->db_path);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return err_set(e, ERR_STORAGE, "can not %s: another program holds the lock of %s: close it and try again",
                       doing, s->db_path);
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return err_set(e, ERR_STORAGE, "can not %s: %s can not be written: check its permissions and its folder's",
                       doing, s->db_path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return err_set(e, ERR_STORAGE, "can not %s: %s is damaged or no database (%s): put a backup in its place",
                       doing, s->db_path, text);
    case SQLITE_CONSTRAINT:
        return err_set(e, ERR_CONFLICT, "can not %s: %s", doing, text);
    default: {
        int error = sqlite3_system_errno(s->db);
        return err_set(e, ERR_STORAGE, "can not %s: %s: %s%s%s", doing, s->db_path, text, error ? ": " : "",
                       error ? strerror(error) : "");
    }
    }
}

/* ---- opening ---- */

static enum err_code exec(struct store *s, const char *sql, const char *doing, struct err *e)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? ERR_OK : db_fail(s, e, doing);
}

/* The first column of the first row as text; "" if there is none. */
static enum err_code query_text(struct store *s, const char *sql, char *out, size_t cap, const char *doing,
                                struct err *e)
{
    sqlite3_stmt *st = NULL;
    enum err_code rc = ERR_OK;
    int step = SQLITE_ERROR;
    out[0] = '\0';
    if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) == SQLITE_OK) {
        step = sqlite3_step(st);
    }
    if (step == SQLITE_ROW) {
        const unsigned char *text = sqlite3_column_text(st, 0);
        snprintf(out, cap, "%s", text ? (const char *)text : "");
    } else if (step != SQLITE_DONE) {
        rc = db_fail(s, e, doing);
    }
    sqlite3_finalize(st);
    return rc;
}

static enum err_code query_int(struct store *s, const char *sql, long *out, const char *doing, struct err *e)
{
    char text[32];
    enum err_code rc = query_text(s, sql, text, sizeof text, doing, e);
    *out = strtol(text, NULL, 10);
    return rc;
}

static enum err_code migrate_one(struct store *s, size_t n, struct err *e)
{
    char doing[64], version[64];
    snprintf(doing, sizeof doing, "bring the store to schema %zu", n + 1);
    snprintf(version, sizeof version, "PRAGMA user_version = %zu", n + 1);
    enum err_code rc = exec(s, "BEGIN IMMEDIATE", doing, e);
    if (rc != ERR_OK) {
        return rc;
    }
    if ((rc = exec(s, migrations[n], doing, e)) == ERR_OK && (rc = exec(s, version, doing, e)) == ERR_OK) {
        rc = exec(s, "COMMIT", doing, e);
    }
    if (rc != ERR_OK) {
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    }
    return rc;
}

/* Whose database this is; asked before anything is changed in it. */
static enum err_code identify(struct store *s, long *version, struct err *e)
{
    static const char doing[] = "read the store's schema";
    long tables = 0, application = 0;
    enum err_code rc;
    if ((rc = query_int(s, "PRAGMA user_version", version, doing, e)) != ERR_OK ||
        (rc = query_int(s, "PRAGMA application_id", &application, doing, e)) != ERR_OK ||
        (rc = query_int(s, "SELECT COUNT(*) FROM sqlite_master", &tables, doing, e)) != ERR_OK) {
        return rc;
    }
    if ((*version != 0 || tables != 0) && application != APPLICATION_ID) {
        return err_set(e, ERR_CONFLICT,
                       "%s is a database of another program: choose another file (store: in weir.yaml)", s->db_path);
    }
    if (*version < 0 || (size_t)*version > COUNT_OF(migrations)) {
        return err_set(e, ERR_CONFLICT, "%s was written by a newer Weir (schema %ld, this one knows %zu): use that one",
                       s->db_path, *version, COUNT_OF(migrations));
    }
    return ERR_OK;
}

static int on_commit(void *arg, sqlite3 *db, const char *name, int pages)
{
    (void)db;
    (void)name;
    ((struct store *)arg)->wal_pages = pages;
    return SQLITE_OK;
}

/* The new file's name must survive too; SQLite syncs the folder for its logs only. */
static enum err_code folder_sync(struct store *s, struct err *e)
{
    char *folder = xstrdup(s->db_path);
    char *slash = strrchr(folder, '/');
    if (slash) {
        slash[slash == folder ? 1 : 0] = '\0';
    }
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum err_code rc = ERR_OK;
    if (fd < 0 || fsync(fd) < 0) {
        rc = err_sys(e, ERR_STORAGE, "can not sync the folder of %s", s->db_path);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(folder);
    return rc;
}

static enum err_code settings(struct store *s, struct err *e)
{
    char answer[256];
    enum err_code rc;
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if ((rc = query_text(s, "PRAGMA journal_mode = WAL", answer, sizeof answer, "open the store", e)) != ERR_OK) {
        return rc;
    }
    if (strcmp(answer, "wal") != 0) {
        return err_set(e, ERR_STORAGE,
                       "%s: this file system can not do SQLite's WAL (mode '%s'): put the store on a local disk",
                       s->db_path, answer);
    }
    if ((rc = exec(s,
                   "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON; PRAGMA "
                   "trusted_schema = OFF; "
                   "PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0",
                   "open the store", e)) != ERR_OK) {
        return rc;
    }
    sqlite3_wal_hook(s->db, on_commit, s);
    if ((rc = query_text(s, "PRAGMA quick_check(1)", answer, sizeof answer, "check the store", e)) != ERR_OK) {
        return rc;
    }
    return strcmp(answer, "ok") == 0
               ? ERR_OK
               : err_set(e, ERR_STORAGE, "%s is damaged (%s): put a backup in its place", s->db_path, answer);
}

enum err_code db_open(struct store *s, struct err *e)
{
    enum err_code rc;
    long version = 0;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    if (sqlite3_open_v2(s->db_path, &s->db, flags, NULL) != SQLITE_OK) {
        return db_fail(s, e, "open the store");
    }
    sqlite3_busy_timeout(s->db, BUSY_MS);
    sqlite3_extended_result_codes(s->db, 1);
    if ((rc = identify(s, &version, e)) != ERR_OK || (rc = settings(s, e)) != ERR_OK) {
        return rc;
    }
    for (size_t n = (size_t)version; n < COUNT_OF(migrations); n++) {
        if ((rc = migrate_one(s, n, e)) != ERR_OK) {
            return rc;
        }
    }
    if ((rc = folder_sync(s, e)) != ERR_OK) {
        return rc;
    }
    for (int i = 0; i < SQL_COUNT; i++) {
        if (sqlite3_prepare_v3(s->db, sql_texts[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statements[i], NULL) !=
            SQLITE_OK) {
            return db_fail(s, e, "open the store");
        }
    }
    return query_text(s, "SELECT value FROM meta WHERE key = 'id'", s->id, sizeof s->id, "read the store's id", e);
}

void db_close(struct store *s)
{
    for (int i = 0; i < SQL_COUNT; i++) {
        sqlite3_finalize(s->statements[i]);
        s->statements[i] = NULL;
    }
    if (s->db && s->broken[0]) {
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1,
                          NULL); /* the next start reads what is really there */
    }
    sqlite3_close(s->db);
    s->db = NULL;
}

/* ---- statements ---- */

void db_bind_text(sqlite3_stmt *st, int at, const char *text)
{
    sqlite3_bind_text(st, at, text, -1, SQLITE_STATIC);
}

bool db_run(struct store *s, enum statement which)
{
    sqlite3_stmt *st = s->statements[which];
    bool ok = sqlite3_step(st) == SQLITE_DONE;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return ok;
}

/* The change is durable already; a checkpoint that fails only says something about the next ones. */
void db_checkpoint(struct store *s)
{
    if (s->wal_pages < CHECKPOINT_PAGES) {
        return;
    }
    s->wal_pages = 0;
    if (sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) != SQLITE_OK) {
        struct err why = {0};
        db_fail(s, &why, "move the log into the database");
        log_warn("store", "%s", why.text);
    }
}

bool db_names_digest(struct store *s, const char *digest)
{
    sqlite3_stmt *st = s->statements[SQL_DIGEST];
    db_bind_text(st, 1, digest);
    int step = sqlite3_step(st);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return step != SQLITE_DONE;
}
