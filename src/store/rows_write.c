/* SPDX-License-Identifier: Apache-2.0 */
/* Rows on their way in: one transaction a change.
 *
 * Thread: the store thread. */
#include "store/sqlite.h"

static bool put_model(struct store *s, const struct model_row *m)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_MODEL];
    db_bind_text(st, 1, m->name);
    db_bind_text(st, 2, m->family);
    sqlite3_bind_int64(st, 3, m->stable);
    sqlite3_bind_int64(st, 4, m->previous);
    sqlite3_bind_int64(st, 5, m->created_ms);
    return db_run(s, SQL_PUT_MODEL);
}

static bool add_version(struct store *s, const struct version_row *v)
{
    sqlite3_stmt *st = s->statements[SQL_ADD_VERSION];
    db_bind_text(st, 1, v->model);
    sqlite3_bind_int64(st, 2, v->number);
    db_bind_text(st, 3, v->digest);
    db_bind_text(st, 4, v->backend);
    sqlite3_bind_int64(st, 5, (sqlite3_int64)v->bytes);
    sqlite3_bind_int64(st, 6, v->created_ms);
    return db_run(s, SQL_ADD_VERSION);
}

static bool put_rollout(struct store *s, const struct rollout_row *r)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_ROLLOUT];
    db_bind_text(st, 1, r->id);
    db_bind_text(st, 2, r->model);
    sqlite3_bind_int64(st, 3, r->stable);
    sqlite3_bind_int64(st, 4, r->canary);
    sqlite3_bind_int64(st, 5, r->share_bp);
    db_bind_text(st, 6, rollout_state_names[r->state]);
    sqlite3_bind_int64(st, 7, r->started_ms);
    sqlite3_bind_int64(st, 8, r->ended_ms);
    db_bind_text(st, 9, r->reason);
    db_bind_text(st, 10, r->evidence);
    db_bind_text(st, 11, r->policy);
    db_bind_text(st, 12, r->progress);
    db_bind_text(st, 13, r->counts);
    return db_run(s, SQL_PUT_ROLLOUT);
}

static bool add_history(struct store *s, const struct history_row *h)
{
    sqlite3_stmt *st = s->statements[SQL_ADD_HISTORY];
    sqlite3_bind_int64(st, 1, h->at_ms);
    db_bind_text(st, 2, h->model);
    sqlite3_bind_int64(st, 3, h->version);
    db_bind_text(st, 4, h->kind);
    db_bind_text(st, 5, h->actor);
    db_bind_text(st, 6, h->text);
    db_bind_text(st, 7, h->serving);
    db_bind_text(st, 8, h->evidence);
    return db_run(s, SQL_ADD_HISTORY);
}

static bool put_hold(struct store *s, const struct hold_row *h)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_HOLD];
    db_bind_text(st, 1, h->model);
    db_bind_text(st, 2, h->digest);
    sqlite3_bind_int64(st, 3, h->since_ms);
    db_bind_text(st, 4, h->reason);
    return db_run(s, SQL_PUT_HOLD);
}

static bool lift_hold(struct store *s, const struct hold_row *h)
{
    sqlite3_stmt *st = s->statements[SQL_LIFT_HOLD];
    db_bind_text(st, 1, h->model);
    db_bind_text(st, 2, h->digest);
    return db_run(s, SQL_LIFT_HOLD);
}

static bool put_shadow(struct store *s, const struct shadow_row *h)
{
    enum statement which = h->version == 0 ? SQL_DROP_SHADOW : SQL_PUT_SHADOW;
    sqlite3_stmt *st = s->statements[which];
    db_bind_text(st, 1, h->model);
    if (h->version != 0) {
        db_bind_text(st, 2, h->id);
        sqlite3_bind_int64(st, 3, h->version);
        sqlite3_bind_int64(st, 4, h->share_bp);
        sqlite3_bind_int64(st, 5, h->started_ms);
    }
    return db_run(s, which);
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
    /* The ended one first: a model has at most one that goes on. */
    if (c->rollout_ended && !put_rollout(s, c->rollout_ended)) {
        return db_fail(s, e, "end the rollout");
    }
    if (c->rollout && !put_rollout(s, c->rollout)) {
        return sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_UNIQUE
                   ? err_set(e, ERR_CONFLICT, "%s has a rollout running already: end that one first", c->rollout->model)
                   : db_fail(s, e, "store the rollout");
    }
    /* If both are of one artifact, it is on hold. */
    if (c->lift && !lift_hold(s, c->lift)) {
        return db_fail(s, e, "lift the hold");
    }
    if (c->hold && !put_hold(s, c->hold)) {
        return db_fail(s, e, "store the hold");
    }
    if (c->shadow && !put_shadow(s, c->shadow)) {
        return db_fail(s, e, "store the shadow");
    }
    return add_history(s, c->history) ? ERR_OK : db_fail(s, e, "write the history");
}

static enum err_code begin(struct store *s, struct err *e)
{
    enum err_code rc = store_writable(s, e);
    return rc != ERR_OK ? rc : db_run(s, SQL_BEGIN) ? ERR_OK : db_fail(s, e, "begin the change");
}

/* Commits if rc says that the rows are in, else takes them back. */
static enum err_code end(struct store *s, enum err_code rc, struct err *e)
{
    if (rc == ERR_OK && !db_run(s, SQL_COMMIT)) {
        rc = sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_FOREIGNKEY
                 ? err_set(e, ERR_CONFLICT, "the change names a model or a version that does not exist")
                 : db_fail(s, e, "store the change");
    }
    if (rc != ERR_OK && !sqlite3_get_autocommit(s->db) && !db_run(s, SQL_ROLLBACK) && !sqlite3_get_autocommit(s->db)) {
        store_break(s, "a change that could not be taken back");
    }
    return rc;
}

enum err_code store_apply(struct store *s, const struct store_change *c, struct err *e)
{
    assert(c->history != NULL);
    enum err_code rc = begin(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    rc = apply_rows(s, c, e);
    int64_t seq = sqlite3_last_insert_rowid(s->db); /* the line of history comes last */
    if ((rc = end(s, rc, e)) != ERR_OK) {
        return rc;
    }
    c->history->seq = seq;
    if (c->version) {
        tree_unpin(s, c->version->digest);
    }
    db_checkpoint(s);
    return ERR_OK;
}

static bool put_place(struct store *s, const struct place_row *p)
{
    enum statement which = p->place[0] ? SQL_PUT_PLACE : SQL_DROP_PLACE;
    sqlite3_stmt *st = s->statements[which];
    db_bind_text(st, 1, p->family);
    if (p->place[0]) {
        db_bind_text(st, 2, p->place);
        db_bind_text(st, 3, p->configured);
        sqlite3_bind_int64(st, 4, p->at_ms);
        db_bind_text(st, 5, p->actor);
        db_bind_text(st, 6, p->token_file);
    }
    return db_run(s, which);
}

enum err_code store_put_place(struct store *s, const struct place_row *row, struct history_row *history, size_t n,
                              struct err *e)
{
    enum err_code rc = begin(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    if (!put_place(s, row)) {
        rc = db_fail(s, e, "store the place");
    }
    for (size_t i = 0; i < n && rc == ERR_OK; i++) {
        rc = add_history(s, &history[i]) ? ERR_OK : db_fail(s, e, "write the history");
        history[i].seq = sqlite3_last_insert_rowid(s->db);
    }
    if ((rc = end(s, rc, e)) == ERR_OK) {
        db_checkpoint(s);
    }
    return rc;
}

enum err_code store_progress(struct store *s, const char *rollout, const char *progress, const char *counts,
                             struct err *e)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_PROGRESS];
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    db_bind_text(st, 1, rollout);
    db_bind_text(st, 2, progress);
    db_bind_text(st, 3, counts);
    if (!db_run(s, SQL_PUT_PROGRESS)) {
        return db_fail(s, e, "store a rollout's progress");
    }
    if (sqlite3_changes(s->db) == 0) {
        return err_set(e, ERR_NOT_FOUND, "no rollout %s is running or soaking", rollout);
    }
    db_checkpoint(s);
    return ERR_OK;
}

enum err_code store_put_cost(struct store *s, const struct cost_row *c, struct err *e)
{
    sqlite3_stmt *st = s->statements[SQL_PUT_COST];
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    db_bind_text(st, 1, c->digest);
    db_bind_text(st, 2, c->device);
    sqlite3_bind_int64(st, 3, (sqlite3_int64)c->bytes);
    sqlite3_bind_int64(st, 4, c->measured_ms);
    if (!db_run(s, SQL_PUT_COST)) {
        return db_fail(s, e, "store a measurement");
    }
    db_checkpoint(s);
    return ERR_OK;
}
