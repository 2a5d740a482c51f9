/* SPDX-License-Identifier: Apache-2.0 */
/* Rows on their way out: everything at the start, history in pages.
 *
 * Thread: the store thread, but history_done and store_state_done: any. */
#include <stdlib.h>

#include "store/sqlite.h"

const char *const rollout_state_names[] = {
    [ROLLOUT_RUNNING] = "running", [ROLLOUT_PROMOTED] = "promoted", [ROLLOUT_ROLLED_BACK] = "rolled_back",
    [ROLLOUT_ABORTED] = "aborted", [ROLLOUT_REPLACED] = "replaced", [ROLLOUT_SOAKING] = "soaking",
};

/* False if a text is longer than its field: then the row was not written by us. */
static bool column_text(sqlite3_stmt *st, int at, char *out, size_t cap)
{
    const char *p = (const char *)sqlite3_column_text(st, at);
    return str_copy(out, cap, (struct str){p ? p : "", (size_t)sqlite3_column_bytes(st, at)});
}

/* On the heap; NULL is NULL. */
static char *column_heap(sqlite3_stmt *st, int at)
{
    const char *p = (const char *)sqlite3_column_text(st, at);
    return p ? xstrdup(p) : NULL;
}

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
    if (known) {
        r->evidence = column_heap(st, 9);
        r->policy = column_heap(st, 10);
        r->progress = column_heap(st, 11);
        r->counts = column_heap(st, 12);
    }
    return known;
}

static bool read_cost(sqlite3_stmt *st, void *row)
{
    struct cost_row *c = row;
    c->bytes = (uint64_t)sqlite3_column_int64(st, 2);
    c->measured_ms = sqlite3_column_int64(st, 3);
    return column_text(st, 0, c->digest, sizeof c->digest) && column_text(st, 1, c->device, sizeof c->device);
}

static bool read_hold(sqlite3_stmt *st, void *row)
{
    struct hold_row *h = row;
    h->since_ms = sqlite3_column_int64(st, 2);
    return column_text(st, 0, h->model, sizeof h->model) && column_text(st, 1, h->digest, sizeof h->digest) &&
           column_text(st, 3, h->reason, sizeof h->reason);
}

static bool read_shadow(sqlite3_stmt *st, void *row)
{
    struct shadow_row *h = row;
    h->version = sqlite3_column_int64(st, 2);
    h->share_bp = sqlite3_column_int64(st, 3);
    h->started_ms = sqlite3_column_int64(st, 4);
    return column_text(st, 0, h->model, sizeof h->model) && column_text(st, 1, h->id, sizeof h->id);
}

static bool read_place(sqlite3_stmt *st, void *row)
{
    struct place_row *p = row;
    p->at_ms = sqlite3_column_int64(st, 3);
    return column_text(st, 0, p->family, sizeof p->family) && column_text(st, 1, p->place, sizeof p->place) &&
           column_text(st, 2, p->configured, sizeof p->configured) && column_text(st, 4, p->actor, sizeof p->actor) &&
           column_text(st, 5, p->token_file, sizeof p->token_file);
}

static bool read_seq(sqlite3_stmt *st, void *row)
{
    *(int64_t *)row = sqlite3_column_int64(st, 0);
    return true;
}

static bool read_history(sqlite3_stmt *st, void *row)
{
    struct history_row *h = row;
    h->seq = sqlite3_column_int64(st, 0);
    h->at_ms = sqlite3_column_int64(st, 1);
    h->version = sqlite3_column_int64(st, 3);
    if (!column_text(st, 2, h->model, sizeof h->model) || !column_text(st, 4, h->kind, sizeof h->kind) ||
        !column_text(st, 5, h->actor, sizeof h->actor) || !column_text(st, 6, h->text, sizeof h->text)) {
        return false;
    }
    h->serving = column_heap(st, 7);
    h->evidence = column_heap(st, 8);
    return true;
}

/* All rows of a bound statement into a heap array; *n counts those that are complete, on failure too. read leaves
 * nothing on the heap when it says false. */
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
        free(st->rollouts[i].policy);
        free(st->rollouts[i].progress);
        free(st->rollouts[i].counts);
    }
    free(st->models);
    free(st->versions);
    free(st->rollouts);
    free(st->costs);
    free(st->holds);
    free(st->shadows);
    free(st->places);
    *st = (struct store_state){0};
}

enum err_code store_load(struct store *s, struct store_state *out, struct err *e)
{
    store_assert_thread(s);
    struct store_state st = {0};
    size_t n_seq = 0;
    struct {
        enum statement which;
        size_t size;
        bool (*read)(sqlite3_stmt *st, void *row);
        size_t *n;
        void *rows;
    } parts[] = {
        {SQL_MODELS, sizeof *st.models, read_model, &st.n_models, NULL},
        {SQL_VERSIONS, sizeof *st.versions, read_version, &st.n_versions, NULL},
        {SQL_ROLLOUTS, sizeof *st.rollouts, read_rollout, &st.n_rollouts, NULL},
        {SQL_COSTS, sizeof *st.costs, read_cost, &st.n_costs, NULL},
        {SQL_HOLDS, sizeof *st.holds, read_hold, &st.n_holds, NULL},
        {SQL_SEQ, sizeof st.seq, read_seq, &n_seq, NULL},
        {SQL_SHADOWS, sizeof *st.shadows, read_shadow, &st.n_shadows, NULL},
        {SQL_PLACES, sizeof *st.places, read_place, &st.n_places, NULL},
    };
    enum err_code rc = ERR_OK;
    for (size_t i = 0; i < COUNT_OF(parts) && rc == ERR_OK; i++) {
        rc = read_all(s, parts[i].which, parts[i].size, parts[i].read, &parts[i].rows, parts[i].n, e);
    }
    st.models = parts[0].rows;
    st.versions = parts[1].rows;
    st.rollouts = parts[2].rows;
    st.costs = parts[3].rows;
    st.holds = parts[4].rows;
    st.seq = n_seq ? *(int64_t *)parts[5].rows : 0;
    free(parts[5].rows);
    st.shadows = parts[6].rows;
    st.places = parts[7].rows;
    if (rc != ERR_OK) {
        store_state_done(&st);
        return rc;
    }
    *out = st;
    return ERR_OK;
}

/* ---- history ---- */

void history_done(struct history_row *rows, size_t n)
{
    for (size_t i = 0; rows && i < n; i++) {
        free(rows[i].serving);
        free(rows[i].evidence);
    }
    free(rows);
}

/* Of a bound statement. */
static enum err_code history_read(struct store *s, enum statement which, struct history_row **out, size_t *n,
                                  struct err *e)
{
    void *rows = NULL;
    size_t count = 0;
    enum err_code rc = read_all(s, which, sizeof **out, read_history, &rows, &count, e);
    if (rc != ERR_OK) {
        history_done(rows, count);
        return rc;
    }
    *out = rows;
    *n = count;
    return ERR_OK;
}

static enum err_code history_page(struct store *s, enum statement which, const char *model, int64_t border,
                                  size_t limit, struct history_row **out, size_t *n, struct err *e)
{
    sqlite3_stmt *st = s->statements[which];
    sqlite3_bind_int64(st, 1, border);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)MIN(limit, (size_t)1000));
    if (model) {
        db_bind_text(st, 3, model);
    }
    return history_read(s, which, out, n, e);
}

enum err_code store_history(struct store *s, const char *model, int64_t before, size_t limit, struct history_row **out,
                            size_t *n, struct err *e)
{
    store_assert_thread(s);
    return history_page(s, model ? SQL_HISTORY_OF : SQL_HISTORY, model, before > 0 ? before : INT64_MAX, limit, out, n,
                        e);
}

enum err_code store_history_after(struct store *s, const char *model, int64_t after, size_t limit,
                                  struct history_row **out, size_t *n, struct err *e)
{
    store_assert_thread(s);
    return history_page(s, model ? SQL_HISTORY_AFTER_OF : SQL_HISTORY_AFTER, model, after, limit, out, n, e);
}

enum err_code store_serving_at(struct store *s, const char *model, int64_t at_ms, struct history_row **out,
                               struct err *e)
{
    store_assert_thread(s);
    sqlite3_stmt *st = s->statements[SQL_SERVING_AT];
    size_t n = 0;
    db_bind_text(st, 1, model);
    sqlite3_bind_int64(st, 2, at_ms);
    enum err_code rc = history_read(s, SQL_SERVING_AT, out, &n, e);
    if (rc == ERR_OK && n == 0) {
        return err_set(e, ERR_NOT_FOUND, "history knows of nothing of %s that served by then", model);
    }
    return rc;
}
