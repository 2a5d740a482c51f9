/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of sealed segments. They are asked for seldom, a few times an hour or by a person, so their statements are
 * made when they are needed.
 *
 * Thread: the store thread. */
#include <stdlib.h>

#include "store/capture_priv.h"
#include "store/sqlite.h"

#define SELECT_ROW "SELECT model, file, first_ms, last_ms, records, bytes, sha256 FROM capture_segment "

/* What a statement may be given by name. */
struct bound {
    const char *model, *file;
    int64_t ms;
};

static sqlite3_stmt *prepare(struct store *s, const char *sql, const struct bound *b)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) != SQLITE_OK) {
        return NULL;
    }
    int model = sqlite3_bind_parameter_index(st, ":model"), file = sqlite3_bind_parameter_index(st, ":file"),
        ms = sqlite3_bind_parameter_index(st, ":ms");
    if (model) {
        db_bind_text(st, model, b->model);
    }
    if (file) {
        db_bind_text(st, file, b->file);
    }
    if (ms) {
        sqlite3_bind_int64(st, ms, b->ms);
    }
    return st;
}

static bool column(sqlite3_stmt *st, int at, char *out, size_t cap)
{
    const char *p = (const char *)sqlite3_column_text(st, at);
    return str_copy(out, cap, (struct str){p ? p : "", (size_t)sqlite3_column_bytes(st, at)});
}

static enum err_code read_row(struct store *s, sqlite3_stmt *st, struct capture_segment *out, struct err *e)
{
    *out = (struct capture_segment){.first_ms = sqlite3_column_int64(st, 2),
                                    .last_ms = sqlite3_column_int64(st, 3),
                                    .records = (uint64_t)sqlite3_column_int64(st, 4),
                                    .bytes = (uint64_t)sqlite3_column_int64(st, 5),
                                    .sealed = true};
    if (!column(st, 0, out->model, sizeof out->model) || !column(st, 1, out->file, sizeof out->file) ||
        !column(st, 6, out->sha256, sizeof out->sha256)) {
        return err_set(e, ERR_STORAGE, "%s is damaged: a row does not fit its type: put a backup in its place",
                       s->db_path);
    }
    return ERR_OK;
}

static enum err_code read_one(struct store *s, const char *sql, const struct bound *b, struct capture_segment *out,
                              struct err *e)
{
    sqlite3_stmt *st = prepare(s, sql, b);
    int step = st ? sqlite3_step(st) : SQLITE_ERROR;
    enum err_code rc = step == SQLITE_ROW    ? read_row(s, st, out, e)
                       : step == SQLITE_DONE ? err_set(e, ERR_NOT_FOUND, "no such segment")
                                             : db_fail(s, e, "look for a segment of captured requests");
    sqlite3_finalize(st);
    return rc;
}

enum err_code capture_row_oldest(struct store *s, int64_t below_ms, struct capture_segment *out, struct err *e)
{
    return read_one(s, SELECT_ROW "WHERE last_ms < :ms ORDER BY file, model LIMIT 1", &(struct bound){.ms = below_ms},
                    out, e);
}

enum err_code capture_row_newest(struct store *s, const char *model, struct capture_segment *out, struct err *e)
{
    return read_one(s, SELECT_ROW "WHERE model = :model ORDER BY file DESC LIMIT 1", &(struct bound){.model = model},
                    out, e);
}

enum err_code capture_row_find(struct store *s, const char *model, const char *file, struct capture_segment *out,
                               struct err *e)
{
    return read_one(s, SELECT_ROW "WHERE model = :model AND file = :file",
                    &(struct bound){.model = model, .file = file}, out, e);
}

enum err_code capture_row_next(struct store *s, const char *model, const char *file, struct capture_segment *out,
                               struct err *e)
{
    return read_one(s, SELECT_ROW "WHERE model = :model AND file >= :file ORDER BY file LIMIT 1",
                    &(struct bound){.model = model, .file = file}, out, e);
}

enum err_code capture_rows_sum(struct store *s, uint64_t *n, uint64_t *bytes, struct err *e)
{
    sqlite3_stmt *st = prepare(s, "SELECT COUNT(*), IFNULL(SUM(bytes), 0) FROM capture_segment", &(struct bound){0});
    enum err_code rc = ERR_OK;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        *n = (uint64_t)sqlite3_column_int64(st, 0);
        *bytes = (uint64_t)sqlite3_column_int64(st, 1);
    } else {
        rc = db_fail(s, e, "count the segments of captured requests");
    }
    sqlite3_finalize(st);
    return rc;
}

enum err_code capture_rows_of(struct store *s, const char *model, struct capture_segment **out, size_t *n,
                              struct err *e)
{
    sqlite3_stmt *st = prepare(s, SELECT_ROW "WHERE model = :model ORDER BY file", &(struct bound){.model = model});
    enum err_code rc = ERR_OK;
    size_t cap = 0;
    int step = SQLITE_ERROR;
    *out = NULL;
    *n = 0;
    while (rc == ERR_OK && st && (step = sqlite3_step(st)) == SQLITE_ROW) {
        if (*n == cap) {
            cap = cap ? cap * 2 : 16;
            *out = xrealloc(*out, cap * sizeof **out);
        }
        rc = read_row(s, st, &(*out)[*n], e);
        *n += rc == ERR_OK;
    }
    if (rc == ERR_OK && step != SQLITE_DONE) {
        rc = db_fail(s, e, "list the segments of captured requests");
    }
    sqlite3_finalize(st);
    if (rc != ERR_OK) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return rc;
}

static enum err_code run(struct store *s, sqlite3_stmt *st, const char *doing, struct err *e)
{
    bool ok = st && sqlite3_step(st) == SQLITE_DONE;
    enum err_code rc = ok ? ERR_OK : db_fail(s, e, doing);
    sqlite3_finalize(st);
    if (ok) {
        db_checkpoint(s);
    }
    return rc;
}

enum err_code capture_row_add(struct store *s, const struct capture_segment *c, struct err *e)
{
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    sqlite3_stmt *st = prepare(s, "INSERT INTO capture_segment VALUES (:model, :file, ?3, ?4, ?5, ?6, ?7)",
                               &(struct bound){.model = c->model, .file = c->file});
    if (st) {
        sqlite3_bind_int64(st, 3, c->first_ms);
        sqlite3_bind_int64(st, 4, c->last_ms);
        sqlite3_bind_int64(st, 5, (sqlite3_int64)c->records);
        sqlite3_bind_int64(st, 6, (sqlite3_int64)c->bytes);
        db_bind_text(st, 7, c->sha256);
    }
    return run(s, st, "seal a segment of captured requests", e);
}

enum err_code capture_row_delete(struct store *s, const struct capture_segment *c, struct err *e)
{
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    return run(s,
               prepare(s, "DELETE FROM capture_segment WHERE model = :model AND file = :file",
                       &(struct bound){.model = c->model, .file = c->file}),
               "forget a segment of captured requests", e);
}
