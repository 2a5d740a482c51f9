/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's data on SQLite; see data.h.
 *
 * One connection, one statement a call of data.h, prepared once; a mutex lets one call at a time use them. */
#include "data/data.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"

#define PRODUCTS_MAX 1000
#define VIEWS_KEPT 50
#define VIEWS_KEPT_OF_ALL 100000
#define DAY 86400

extern const char embed_data_schema_sql[];
extern const char embed_data_catalogue_sql[];

enum query {
    NEW_USER,
    ADD_ORDER,
    LAST_VIEW,
    ADD_VIEW,
    TRIM_VIEWS,
    TRIM_ALL_VIEWS,
    VIEWS,
    ORDERS,
    END_ORDER,
    THUMB,
    QUERIES
};

static const char *const queries[QUERIES] = {
    [NEW_USER] = "INSERT OR IGNORE INTO users (user, since) VALUES (?1, ?2)",
    [ADD_ORDER] = "INSERT INTO orders (user, product, cents, shipping_cents, placed_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    [LAST_VIEW] = "SELECT product FROM views WHERE user = ?1 ORDER BY id DESC LIMIT 1",
    [ADD_VIEW] = "INSERT INTO views (user, product, at) VALUES (?1, ?2, ?3)",
    [TRIM_VIEWS] = "DELETE FROM views WHERE user = ?1 AND id <= (SELECT id FROM views WHERE user = ?1 ORDER BY id DESC "
                   "LIMIT 1 OFFSET ?2)",
    [TRIM_ALL_VIEWS] = "DELETE FROM views WHERE id <= (SELECT max(id) FROM views) - ?2 AND ?1 <> ''",
    [VIEWS] = "SELECT product FROM views WHERE user = ?1 ORDER BY id DESC LIMIT ?2",
    [ORDERS] = "SELECT id, product, cents, shipping_cents, placed_at, end FROM orders WHERE user = ?1 "
               "ORDER BY placed_at DESC, id DESC LIMIT ?2",
    [END_ORDER] = "UPDATE orders SET end = ?3 WHERE user = ?1 AND id = ?2 AND end = 0",
    [THUMB] = "INSERT INTO thumbs (user, model, request_id, up, at) VALUES (?1, ?2, ?3, ?4, ?5) "
              "ON CONFLICT DO UPDATE SET up = excluded.up, at = excluded.at",
};

struct data {
    sqlite3 *db;
    sqlite3_stmt *q[QUERIES];
    pthread_mutex_t lock;
    struct data_product *products;
    int n_products;
};

/* ---- opening ---- */

static bool exec(struct data *d, const char *sql)
{
    return sqlite3_exec(d->db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

static void column(char *to, size_t size, sqlite3_stmt *s, int i)
{
    const unsigned char *z = sqlite3_column_text(s, i);
    text_copy(to, size, z ? (const char *)z : "");
}

static bool load_products(struct data *d)
{
    sqlite3_stmt *s = NULL;
    const char *sql = "SELECT id, name, kind, colour, about, words, cents, sold FROM products ORDER BY id";
    if (sqlite3_prepare_v2(d->db, sql, -1, &s, NULL) != SQLITE_OK) {
        return false;
    }
    bool good = true;
    while (good && sqlite3_step(s) == SQLITE_ROW) {
        struct data_product *p = &d->products[d->n_products];
        p->id = sqlite3_column_int64(s, 0);
        column(p->name, sizeof p->name, s, 1);
        column(p->kind, sizeof p->kind, s, 2);
        column(p->colour, sizeof p->colour, s, 3);
        column(p->about, sizeof p->about, s, 4);
        column(p->words, sizeof p->words, s, 5);
        p->cents = sqlite3_column_int64(s, 6);
        p->sold = sqlite3_column_int64(s, 7);
        d->n_products++;
        good = p->id == d->n_products && d->n_products < PRODUCTS_MAX;
    }
    return sqlite3_finalize(s) == SQLITE_OK && good && d->n_products > 0;
}

static bool prepare(struct data *d, const char *file)
{
    if (sqlite3_open(file, &d->db) != SQLITE_OK || sqlite3_busy_timeout(d->db, 2000) != SQLITE_OK ||
        !exec(d, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;") || !exec(d, "BEGIN IMMEDIATE") ||
        !exec(d, embed_data_schema_sql) || !exec(d, embed_data_catalogue_sql) || !exec(d, "COMMIT")) {
        return false;
    }
    for (int i = 0; i < QUERIES; i++) {
        if (sqlite3_prepare_v3(d->db, queries[i], -1, SQLITE_PREPARE_PERSISTENT, &d->q[i], NULL) != SQLITE_OK) {
            return false;
        }
    }
    return load_products(d);
}

bool data_open(struct data **out, const char *file, char *why, size_t why_size)
{
    struct data *d = calloc(1, sizeof *d);
    if (d) {
        pthread_mutex_init(&d->lock, NULL);
        d->products = calloc(PRODUCTS_MAX, sizeof *d->products);
    }
    if (!d || !d->products) {
        snprintf(why, why_size, "out of memory");
        data_close(d);
        return false;
    }
    if (!prepare(d, file)) {
        snprintf(why, why_size, "%s: %s", file,
                 d->n_products > 0 ? "its products are not numbered from 1 on" : sqlite3_errmsg(d->db));
        data_close(d);
        return false;
    }
    *out = d;
    return true;
}

void data_close(struct data *d)
{
    if (!d) {
        return;
    }
    for (int i = 0; i < QUERIES; i++) {
        sqlite3_finalize(d->q[i]);
    }
    sqlite3_close(d->db);
    pthread_mutex_destroy(&d->lock);
    free(d->products);
    free(d);
}

const struct data_product *data_products(const struct data *d, int *n)
{
    *n = d->n_products;
    return d->products;
}

/* ---- calls (all under the lock) ---- */

static sqlite3_stmt *bound(struct data *d, enum query q, const char *user, int n, const int64_t *values)
{
    sqlite3_stmt *s = d->q[q];
    sqlite3_bind_text(s, 1, user, -1, SQLITE_TRANSIENT);
    for (int i = 0; i < n; i++) {
        sqlite3_bind_int64(s, 2 + i, values[i]);
    }
    return s;
}

/* Ends a statement; false, and a line on standard error, if it failed. */
static bool ended(struct data *d, sqlite3_stmt *s)
{
    bool good = sqlite3_reset(s) == SQLITE_OK;
    if (!good) {
        fprintf(stderr, "shop: the database: %s\n", sqlite3_errmsg(d->db));
    }
    sqlite3_clear_bindings(s);
    return good;
}

static bool write_row(struct data *d, enum query q, const char *user, int n, const int64_t *values)
{
    sqlite3_stmt *s = bound(d, q, user, n, values);
    sqlite3_step(s);
    return ended(d, s);
}

static bool add_order(struct data *d, const char *user, const struct data_order *o)
{
    return write_row(d, ADD_ORDER, user, 4, (int64_t[]){o->product, o->cents, o->shipping_cents, o->placed_at});
}

/* Two of the best-known products, by the user's name, so that not everybody has bought the same. */
static bool add_past(struct data *d, const char *user, int64_t now)
{
    unsigned sum = 0;
    for (const char *z = user; *z; z++) {
        sum = sum * 31 + (unsigned char)*z;
    }
    const int64_t ages[] = {DAY + 3 * 3600, 9 * DAY};
    for (int i = 0; i < 2; i++) {
        const struct data_product *p = &d->products[(sum / (i ? 7919 : 1)) % (unsigned)d->n_products];
        struct data_order o = {.product = p->id, .cents = p->cents, .placed_at = now - ages[i]};
        if (!add_order(d, user, &o)) {
            return false;
        }
    }
    return true;
}

bool data_welcome(struct data *d, const char *user, int64_t now)
{
    pthread_mutex_lock(&d->lock);
    bool good = exec(d, "BEGIN IMMEDIATE") && write_row(d, NEW_USER, user, 1, &now) &&
                (sqlite3_changes(d->db) == 0 || add_past(d, user, now));
    good = exec(d, good ? "COMMIT" : "ROLLBACK") && good;
    pthread_mutex_unlock(&d->lock);
    return good;
}

bool data_view(struct data *d, const char *user, int64_t product, int64_t now)
{
    pthread_mutex_lock(&d->lock);
    sqlite3_stmt *s = bound(d, LAST_VIEW, user, 0, NULL);
    bool same = sqlite3_step(s) == SQLITE_ROW && sqlite3_column_int64(s, 0) == product;
    bool good = ended(d, s);
    if (good && !same) {
        good = write_row(d, ADD_VIEW, user, 2, (int64_t[]){product, now}) &&
               write_row(d, TRIM_VIEWS, user, 1, (int64_t[]){VIEWS_KEPT}) &&
               write_row(d, TRIM_ALL_VIEWS, user, 1, (int64_t[]){VIEWS_KEPT_OF_ALL});
    }
    pthread_mutex_unlock(&d->lock);
    return good;
}

int data_views(struct data *d, const char *user, int64_t *products, int max)
{
    pthread_mutex_lock(&d->lock);
    sqlite3_stmt *s = bound(d, VIEWS, user, 1, (int64_t[]){max});
    int n = 0;
    while (n < max && sqlite3_step(s) == SQLITE_ROW) {
        products[n++] = sqlite3_column_int64(s, 0);
    }
    bool good = ended(d, s);
    pthread_mutex_unlock(&d->lock);
    for (int i = 0; i < n / 2; i++) {
        int64_t other = products[i];
        products[i] = products[n - 1 - i];
        products[n - 1 - i] = other;
    }
    return good ? n : -1;
}

bool data_order_add(struct data *d, const char *user, const struct data_order *order, int64_t *id)
{
    pthread_mutex_lock(&d->lock);
    bool good = add_order(d, user, order);
    *id = good ? sqlite3_last_insert_rowid(d->db) : 0;
    pthread_mutex_unlock(&d->lock);
    return good;
}

int data_orders(struct data *d, const char *user, struct data_order *orders, int max)
{
    pthread_mutex_lock(&d->lock);
    sqlite3_stmt *s = bound(d, ORDERS, user, 1, (int64_t[]){max});
    int n = 0;
    while (n < max && sqlite3_step(s) == SQLITE_ROW) {
        orders[n++] = (struct data_order){.id = sqlite3_column_int64(s, 0),
                                          .product = sqlite3_column_int64(s, 1),
                                          .cents = sqlite3_column_int64(s, 2),
                                          .shipping_cents = sqlite3_column_int64(s, 3),
                                          .placed_at = sqlite3_column_int64(s, 4),
                                          .end = (enum data_end)sqlite3_column_int(s, 5)};
    }
    bool good = ended(d, s);
    pthread_mutex_unlock(&d->lock);
    return good ? n : -1;
}

bool data_order_end(struct data *d, const char *user, int64_t id, enum data_end end, bool *changed)
{
    pthread_mutex_lock(&d->lock);
    bool good = write_row(d, END_ORDER, user, 2, (int64_t[]){id, end});
    *changed = good && sqlite3_changes(d->db) > 0;
    pthread_mutex_unlock(&d->lock);
    return good;
}

bool data_thumb(struct data *d, const char *user, const char *model, const char *request_id, bool up, int64_t now)
{
    pthread_mutex_lock(&d->lock);
    sqlite3_stmt *s = d->q[THUMB];
    sqlite3_bind_text(s, 1, user, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(s, 2, model, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(s, 3, request_id, -1, SQLITE_TRANSIENT);
    sqlite3_bind_int(s, 4, up);
    sqlite3_bind_int64(s, 5, now);
    sqlite3_step(s);
    bool good = ended(d, s);
    pthread_mutex_unlock(&d->lock);
    return good;
}
