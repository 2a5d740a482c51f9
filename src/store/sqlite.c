/* SPDX-License-Identifier: Apache-2.0 */
/* Rows in SQLite: one connection, prepared statements, one transaction a change.
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
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "store/store_priv.h"

#define APPLICATION_ID 1466263922 /* "Weir" */
#define CHECKPOINT_PAGES 1000
#define BUSY_MS 2000 /* another program (the sqlite3 shell, a backup) may hold the lock for a moment */

extern const char embed_store_migrations_0001_init_sql[];
extern const char embed_store_migrations_0002_costs_sql[];

static const char *const migrations[] = {
    embed_store_migrations_0001_init_sql,
    embed_store_migrations_0002_costs_sql,
};

enum statement {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_PUT_MODEL,
    SQL_ADD_VERSION,
    SQL_PUT_ROLLOUT,
    SQL_ADD_HISTORY,
    SQL_MODELS,
    SQL_VERSIONS,
    SQL_ROLLOUTS,
    SQL_HISTORY,
    SQL_HISTORY_OF,
    SQL_DIGEST,
    SQL_PUT_COST,
    SQL_COSTS,
    SQL_COUNT,
};
_Static_assert(SQL_COUNT <= STORE_STATEMENTS, "struct store has too little room for the statements");

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
        "INSERT INTO rollout (id, model, stable, canary, share_bp, state, started_ms, ended_ms, reason, evidence) "
        "VALUES (?1, ?2, NULLIF(?3, 0), NULLIF(?4, 0), ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO UPDATE SET "
        "model = excluded.model, stable = excluded.stable, canary = excluded.canary, share_bp = excluded.share_bp, "
        "state = excluded.state, started_ms = excluded.started_ms, ended_ms = excluded.ended_ms, "
        "reason = excluded.reason, evidence = excluded.evidence",
    [SQL_ADD_HISTORY] =
        "INSERT INTO history (at_ms, model, version, kind, actor, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_MODELS] =
        "SELECT name, family, IFNULL(stable, 0), IFNULL(previous, 0), created_ms FROM model ORDER BY created_ms, name",
    [SQL_VERSIONS] = "SELECT model, number, digest, backend, bytes, created_ms FROM version ORDER BY model, number",
    [SQL_ROLLOUTS] = "SELECT id, model, IFNULL(stable, 0), IFNULL(canary, 0), share_bp, state, started_ms, ended_ms, "
                     "reason, evidence "
                     "FROM rollout WHERE rowid IN (SELECT MAX(rowid) FROM rollout GROUP BY model) ORDER BY model",
    [SQL_HISTORY] =
        "SELECT seq, at_ms, model, version, kind, actor, text FROM history WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
    [SQL_HISTORY_OF] =
        ("SELECT seq, at_ms, model, version, kind, actor, text FROM history WHERE seq < ?1 AND model = ?3 "
         "ORDER BY seq DESC LIMIT ?2"),
    [SQL_DIGEST] = "SELECT 1 FROM version WHERE digest = ?1 LIMIT 1",
    [SQL_PUT_COST] = "INSERT INTO cost (digest, device, bytes, measured_ms) VALUES (?1, ?2, ?3, ?4) "
                     "ON CONFLICT (digest, device) DO UPDATE SET bytes = excluded.bytes, "
                     "measured_ms = excluded.measured_ms",
    [SQL_COSTS] = "SELECT digest, device, bytes, measured_ms FROM cost WHERE digest IN (SELECT digest FROM version) "
                  "ORDER BY digest, device",
};

const char *const rollout_state_names[] = {
    [ROLLOUT_RUNNING] = "running", [ROLLOUT_PROMOTED] = "promoted", [ROLLOUT_ROLLED_BACK] = "rolled_back",
    [ROLLOUT_ABORTED] = "aborted", [ROLLOUT_REPLACED] = "replaced",
};

/* ---- errors ---- */

/* From the connection's last error; doing: "register version 3 of intent". */
static enum err_code db_fail(struct store *s, struct err *e, const char *doing)
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

static void bind_text(sqlite3_stmt *st, int at, const char *text)
{
    sqlite3_bind_text(st, at, text, -1, SQLITE_STATIC); /* NULL binds NULL */
}

/* Runs one that gives no rows. */
static bool run(struct store *s, enum statement which)
{
    sqlite3_stmt *st = s->statements[which];
    bool ok = sqlite3_step(st) == SQLITE_DONE;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return ok;
}

/* False if a text is longer than its field: then the row was not written by us. */
static bool column_text(sqlite3_stmt *st, int at, char *out, size_t cap)
{
    const char *p = (const char *)sqlite3_column_text(st, at);
    return str_copy(out, cap, (struct str){p ? p : "", (size_t)sqlite3_column_bytes(st, at)});
}

/* ---- one change ---- */

static bool put_model(struct store *s, const struct model_row *m)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_MODEL];
    bind_text(st, 1, m->name);
    bind_text(st, 2, m->family);
    sqlite3_bind_int64(st, 3, m->stable);
    sqlite3_bind_int64(st, 4, m->previous);
    sqlite3_bind_int64(st, 5, m->created_ms);
    return run(s, SQL_PUT_MODEL);
}

static bool add_version(struct store *s, const struct version_row *v)
{
    sqlite3_stmt *st = s->statements[SQL_ADD_VERSION];
    bind_text(st, 1, v->model);
    sqlite3_bind_int64(st, 2, v->number);
    bind_text(st, 3, v->digest);
    bind_text(st, 4, v->backend);
    sqlite3_bind_int64(st, 5, (sqlite3_int64)v->bytes);
    sqlite3_bind_int64(st, 6, v->created_ms);
    return run(s, SQL_ADD_VERSION);
}

static bool put_rollout(struct store *s, const struct rollout_row *r)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_ROLLOUT];
    bind_text(st, 1, r->id);
    bind_text(st, 2, r->model);
    sqlite3_bind_int64(st, 3, r->stable);
    sqlite3_bind_int64(st, 4, r->canary);
    sqlite3_bind_int64(st, 5, r->share_bp);
    bind_text(st, 6, rollout_state_names[r->state]);
    sqlite3_bind_int64(st, 7, r->started_ms);
    sqlite3_bind_int64(st, 8, r->ended_ms);
    bind_text(st, 9, r->reason);
    bind_text(st, 10, r->evidence);
    return run(s, SQL_PUT_ROLLOUT);
}

static bool add_history(struct store *s, const struct history_row *h)
{
    sqlite3_stmt *st = s->statements[SQL_ADD_HISTORY];
    sqlite3_bind_int64(st, 1, h->at_ms);
    bind_text(st, 2, h->model);
    sqlite3_bind_int64(st, 3, h->version);
    bind_text(st, 4, h->kind);
    bind_text(st, 5, h->actor);
    bind_text(st, 6, h->text);
    return run(s, SQL_ADD_HISTORY);
}

static enum err_code version_fail(struct store *s, const struct version_row *v, struct err *e)
{
    switch (sqlite3_extended_errcode(s->db)) {
    case SQLITE_CONSTRAINT_PRIMARYKEY:
        return err_set(e, ERR_CONFLICT, "version %lld of %s exists already: choose another number",
                       (long long)v->number, v->model);
    case SQLITE_CONSTRAINT_UNIQUE:
        return err_set(e, ERR_CONFLICT, "%s has these files already, as another version (digest %.12s)", v->model,
                       v->digest);
    default:
        return db_fail(s, e, "register the version");
    }
}

/* Inside the transaction. */
static enum err_code apply_rows(struct store *s, const struct store_change *c, struct err *e)
{
    if (c->model && !put_model(s, c->model)) {
        return db_fail(s, e, "store the model");
    }
    if (c->version && !add_version(s, c->version)) {
        return version_fail(s, c->version, e);
    }
    /* The ended one first: a model has at most one that runs. */
    if (c->rollout_ended && !put_rollout(s, c->rollout_ended)) {
        return db_fail(s, e, "end the rollout");
    }
    if (c->rollout && !put_rollout(s, c->rollout)) {
        return sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_UNIQUE
                   ? err_set(e, ERR_CONFLICT, "%s has a rollout running already: end that one first", c->rollout->model)
                   : db_fail(s, e, "store the rollout");
    }
    return add_history(s, c->history) ? ERR_OK : db_fail(s, e, "write the history");
}

/* The change is durable already; a checkpoint that fails only says something about the next ones. */
static void checkpoint(struct store *s)
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

enum err_code store_apply(struct store *s, const struct store_change *c, struct err *e)
{
    assert(c->history != NULL);
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    if (!run(s, SQL_BEGIN)) {
        return db_fail(s, e, "begin the change");
    }
    rc = apply_rows(s, c, e);
    if (rc == ERR_OK && !run(s, SQL_COMMIT)) {
        rc = sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_FOREIGNKEY
                 ? err_set(e, ERR_CONFLICT, "the change names a model or a version that does not exist")
                 : db_fail(s, e, "store the change");
    }
    if (rc != ERR_OK) {
        if (!sqlite3_get_autocommit(s->db) && !run(s, SQL_ROLLBACK) && !sqlite3_get_autocommit(s->db)) {
            store_break(s, "a change that could not be taken back");
        }
        return rc;
    }
    if (c->version) {
        tree_unpin(s, c->version->digest);
    }
    checkpoint(s);
    return ERR_OK;
}

enum err_code store_put_cost(struct store *s, const struct cost_row *c, struct err *e)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_COST];
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    bind_text(st, 1, c->digest);
    bind_text(st, 2, c->device);
    sqlite3_bind_int64(st, 3, (sqlite3_int64)c->bytes);
    sqlite3_bind_int64(st, 4, c->measured_ms);
    if (!run(s, SQL_PUT_COST)) {
        return db_fail(s, e, "store a measurement");
    }
    checkpoint(s);
    return ERR_OK;
}

/* ---- reading ---- */

static bool read_model(sqlite3_stmt *st, void *row)
{
    struct model_row *m = row;
    m->stable = sqlite3_column_int64(st, 2);
    m->previous = sqlite3_column_int64(st, 3);
    m->created_ms = sqlite3_column_int64(st, 4);
    return column_text(st, 0, m->name, sizeof m->name) && column_text(st, 1, m->family, sizeof m->family);
}

static bool read_version(sqlite3_stmt *st, void *row)
{
    struct version_row *v = row;
    v->number = sqlite3_column_int64(st, 1);
    v->bytes = (uint64_t)sqlite3_column_int64(st, 4);
    v->created_ms = sqlite3_column_int64(st, 5);
    return column_text(st, 0, v->model, sizeof v->model) && column_text(st, 2, v->digest, sizeof v->digest) &&
           column_text(st, 3, v->backend, sizeof v->backend);
}

static bool read_rollout(sqlite3_stmt *st, void *row)
{
    struct rollout_row *r = row;
    char state[16];
    bool known = false;
    r->stable = sqlite3_column_int64(st, 2);
    r->canary = sqlite3_column_int64(st, 3);
    r->share_bp = sqlite3_column_int64(st, 4);
    r->started_ms = sqlite3_column_int64(st, 6);
    r->ended_ms = sqlite3_column_int64(st, 7);
    if (!column_text(st, 0, r->id, sizeof r->id) || !column_text(st, 1, r->model, sizeof r->model) ||
        !column_text(st, 5, state, sizeof state) || !column_text(st, 8, r->reason, sizeof r->reason)) {
        return false;
    }
    for (size_t i = 0; i < COUNT_OF(rollout_state_names); i++) {
        if (strcmp(state, rollout_state_names[i]) == 0) {
            r->state = (enum rollout_state)i;
            known = true;
        }
    }
    const char *evidence = (const char *)sqlite3_column_text(st, 9);
    r->evidence = known && evidence ? xstrdup(evidence) : NULL;
    return known;
}

static bool read_cost(sqlite3_stmt *st, void *row)
{
    struct cost_row *c = row;
    c->bytes = (uint64_t)sqlite3_column_int64(st, 2);
    c->measured_ms = sqlite3_column_int64(st, 3);
    return column_text(st, 0, c->digest, sizeof c->digest) && column_text(st, 1, c->device, sizeof c->device);
}

static bool read_history(sqlite3_stmt *st, void *row)
{
    struct history_row *h = row;
    h->seq = sqlite3_column_int64(st, 0);
    h->at_ms = sqlite3_column_int64(st, 1);
    h->version = sqlite3_column_int64(st, 3);
    return column_text(st, 2, h->model, sizeof h->model) && column_text(st, 4, h->kind, sizeof h->kind) &&
           column_text(st, 5, h->actor, sizeof h->actor) && column_text(st, 6, h->text, sizeof h->text);
}

/* All rows of a bound statement into a heap array; *n counts those that are complete, on failure too. */
static enum err_code read_all(struct store *s, enum statement which, size_t size,
                              bool (*read)(sqlite3_stmt *st, void *row), void **rows, size_t *n, struct err *e)
{
    sqlite3_stmt *st = s->statements[which];
    enum err_code rc = ERR_OK;
    size_t cap = 0;
    int step;
    while ((step = sqlite3_step(st)) == SQLITE_ROW) {
        if (*n == cap) {
            cap = cap ? cap * 2 : 16;
            *rows = xrealloc(*rows, cap * size);
        }
        char *row = (char *)*rows + *n * size;
        memset(row, 0, size);
        if (!read(st, row)) {
            rc = err_set(e, ERR_STORAGE, "%s is damaged: a row does not fit its type: put a backup in its place",
                         s->db_path);
            break;
        }
        ++*n;
    }
    if (rc == ERR_OK && step != SQLITE_DONE) {
        rc = db_fail(s, e, "read the store");
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return rc;
}

void store_state_done(struct store_state *st)
{
    for (size_t i = 0; i < st->n_rollouts; i++) {
        free(st->rollouts[i].evidence);
    }
    free(st->models);
    free(st->versions);
    free(st->rollouts);
    free(st->costs);
    *st = (struct store_state){0};
}

enum err_code store_load(struct store *s, struct store_state *out, struct err *e)
{
    store_assert_thread(s);
    struct store_state st = {0};
    void *models = NULL, *versions = NULL, *rollouts = NULL, *costs = NULL;
    enum err_code rc = read_all(s, SQL_MODELS, sizeof *st.models, read_model, &models, &st.n_models, e);
    if (rc == ERR_OK) {
        rc = read_all(s, SQL_VERSIONS, sizeof *st.versions, read_version, &versions, &st.n_versions, e);
    }
    if (rc == ERR_OK) {
        rc = read_all(s, SQL_ROLLOUTS, sizeof *st.rollouts, read_rollout, &rollouts, &st.n_rollouts, e);
    }
    if (rc == ERR_OK) {
        rc = read_all(s, SQL_COSTS, sizeof *st.costs, read_cost, &costs, &st.n_costs, e);
    }
    st.models = models;
    st.versions = versions;
    st.rollouts = rollouts;
    st.costs = costs;
    if (rc != ERR_OK) {
        store_state_done(&st);
        return rc;
    }
    *out = st;
    return ERR_OK;
}

enum err_code store_history(struct store *s, const char *model, int64_t before, size_t limit, struct history_row **out,
                            size_t *n, struct err *e)
{
    store_assert_thread(s);
    enum statement which = model ? SQL_HISTORY_OF : SQL_HISTORY;
    sqlite3_stmt *st = s->statements[which];
    void *rows = NULL;
    size_t count = 0;
    sqlite3_bind_int64(st, 1, before > 0 ? before : INT64_MAX);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)MIN(limit, (size_t)1000));
    if (model) {
        bind_text(st, 3, model);
    }
    enum err_code rc = read_all(s, which, sizeof **out, read_history, &rows, &count, e);
    if (rc != ERR_OK) {
        free(rows);
        return rc;
    }
    *out = rows;
    *n = count;
    return ERR_OK;
}

bool db_names_digest(struct store *s, const char *digest)
{
    sqlite3_stmt *st = s->statements[SQL_DIGEST];
    bind_text(st, 1, digest);
    int step = sqlite3_step(st);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return step != SQLITE_DONE;
}
