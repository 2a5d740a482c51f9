/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's data module: what the shop knows, in one SQLite file. The only module that includes sqlite3.h.
 *
 * Calls that write are durable when they return true. False: the database failed, and a line on standard error says
 * how. Users are opaque texts of at most 63 bytes; times are seconds since 1970; money is cents. Thread: any number at
 * once (calls take turns). Blocks on the disk. */
#ifndef SHOP_DATA_H
#define SHOP_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct data_product {
    int64_t id; /* 1 … as the recommender knows it */
    char name[64], kind[16], colour[16], about[200];
    char words[120]; /* other words for it, with blanks between */
    int64_t cents;
    int64_t sold; /* before this shop kept its orders */
};

enum data_end { DATA_OPEN, DATA_CANCELLED, DATA_RETURNED };

struct data_order {
    int64_t id, product, cents, shipping_cents, placed_at;
    enum data_end end;
};

struct data;

/* Opens the file, makes it and its catalogue if there is none. *out is the caller's. False: `why` says it. */
bool data_open(struct data **out, const char *file, char *why, size_t why_size);
void data_close(struct data *d); /* NULL is fine */

/* The catalogue by id: products[i].id == i + 1. Does not change while d is open. */
const struct data_product *data_products(const struct data *d, int *n);

/* A new customer gets two orders of the past, so that there is something to ask about. A known one: nothing happens. */
bool data_welcome(struct data *d, const char *user, int64_t now);

/* What a user looked at. The last 50 of each are kept, and the last 100,000 of all; the same
 * product twice in a row is one. */
bool data_view(struct data *d, const char *user, int64_t product, int64_t now);
/* The last ones, oldest first; returns how many, -1 on failure. */
int data_views(struct data *d, const char *user, int64_t *products, int max);

bool data_order_add(struct data *d, const char *user, const struct data_order *order, int64_t *id);
/* The newest first; returns how many, -1 on failure. */
int data_orders(struct data *d, const char *user, struct data_order *orders, int max);
/* Ends an open order of this user. *changed: false if there is no such order. */
bool data_order_end(struct data *d, const char *user, int64_t id, enum data_end end, bool *changed);

/* A thumb for an answer of a model: the last word of a user about it counts. */
bool data_thumb(struct data *d, const char *user, const char *model, const char *request_id, bool up, int64_t now);

#endif
