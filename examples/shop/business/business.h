/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's business module: everything that the shop does, decided by its rules.
 *
 * Who wants something asks with a verb, and gets a page: what there is to see, in the shop's words, with no word about
 * how it looks. The module behind the header is either here (business_local, over the data and the inference module) or
 * in another process (business_remote, over HTTP): same calls, same pages. `business_serve` is the other end of that.
 *
 * When a model does not answer, the rules do: best sellers for recommendations, keywords for intents, a friendly note
 * for the photo search. The page then says `degraded`, and nothing else is different.
 *
 * Thread: any number at once. Blocks on the database and on the models, each within its deadline. */
#ifndef SHOP_BUSINESS_H
#define SHOP_BUSINESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text.h"

/* ---- what is asked ---- */

#define BUSINESS_USER_MAX 63
#define BUSINESS_TEXT_MAX 200
#define BUSINESS_PHOTO_MAX (8u << 20)

/*    verb     word       wants, beside the user */
#define BUSINESS_VERBS(X)                                                             \
    X(HOME, "home")       /* nothing */                                               \
    X(SEARCH, "search")   /* text: what a person typed */                             \
    X(PHOTO, "photo")     /* photo: a JPEG or PNG file, at most BUSINESS_PHOTO_MAX */ \
    X(KIND, "kind")       /* text: a kind of product */                               \
    X(PRODUCT, "product") /* id: of a product */                                      \
    X(ORDERS, "orders")   /* nothing */                                               \
    X(BUY, "buy")         /* id: of a product */                                      \
    X(CANCEL, "cancel")   /* id: of an order */                                       \
    X(RETURN, "return")   /* id: of an order */                                       \
    X(THUMB, "thumb")     /* text: model, request_id, id: 1 up, 0 down */

enum business_verb {
#define X(name, word) BUSINESS_##name,
    BUSINESS_VERBS(X)
#undef X
        BUSINESS_VERBS_COUNT
};

struct business_ask {
    enum business_verb verb;
    const char *user;              /* also the models' assignment key */
    const char *text, *request_id; /* NULL: none */
    const char *traceparent;       /* of the request that this is for (W3C); NULL: none */
    int64_t id;
    const void *photo;
    size_t photo_bytes;
};

enum business_code {
    BUSINESS_OK,
    BUSINESS_INVALID,     /* asked wrongly; page.note says what was wrong */
    BUSINESS_NOT_FOUND,   /* no such product or order */
    BUSINESS_UNAVAILABLE, /* the module, or its database, does not answer */
};

/* ---- what is answered ---- */

/* Texts are terminated UTF-8, not escaped. */

struct business_product {
    int64_t id; /* 0: none */
    char name[64], kind[16], colour[16], about[200];
    int64_t cents, list_cents; /* list_cents > cents: reduced */
    int64_t sold;
};

/* Whose word it is: for a thumb (text model, request_id), and for people who look into it. */
struct business_said {
    char model[16]; /* "": no model's, the rules' */
    char request_id[64], version[24], label[32];
    double score; /* 0 to 1; 0: not said */
};

#define BUSINESS_ITEMS 12
struct business_shelf {
    char title[80], why[120];
    struct business_said said;
    int64_t n_items;
    struct business_product items[BUSINESS_ITEMS];
};

struct business_order {
    int64_t id;
    struct business_product product; /* cents: what was paid */
    int64_t shipping_cents;
    char state[16]; /* packed, on its way, delivered, cancelled, returned */
    char when[80];
    int64_t can_cancel, can_return; /* 1: yes */
};

#define BUSINESS_SHELVES 6
#define BUSINESS_ORDERS_MAX 20
struct business_page {
    char view[16]; /* home, results, product, orders, help */
    char title[120], lead[300];
    char note[200];   /* something to tell: what was done, or what does not work now */
    int64_t degraded; /* 1: a model was missing, the rules stood in */
    struct business_said said;
    struct business_product product;
    int64_t shipping_cents; /* of that product */
    int64_t n_shelves;
    struct business_shelf shelves[BUSINESS_SHELVES];
    int64_t n_orders;
    struct business_order orders[BUSINESS_ORDERS_MAX];
};

/* ---- the module ---- */

struct business;
struct data;
struct inference;

/* The rules, here. data and inference stay the caller's and must live longer. NULL: out of memory. */
struct business *business_local(struct data *data, struct inference *inference);
/* The same in another process: "http://HOST:PORT". Calls end within limit_ms. NULL: out of memory. */
struct business *business_remote(const char *url, int64_t limit_ms);
void business_close(struct business *b); /* NULL is fine; no call may be running */

/* Does what is asked. *page (some 50 KiB: keep it off small stacks) is cleared first; on another code than BUSINESS_OK
 * only its note may be set. */
enum business_code business_do(struct business *b, const struct business_ask *ask, struct business_page *page);

/* Serves business_remote at "HOST:PORT" (port 0: any). It has no login of its own: listen where only the shop's own
 * processes reach it. *out is the caller's; close it before b. False: `why` says it. */
struct business_server;
bool business_serve(struct business_server **out, struct business *b, const char *listen, char *why, size_t why_size);
const char *business_server_url(const struct business_server *s);
void business_server_close(struct business_server *s); /* NULL is fine */

/* A page as JSON, the fields by their names above, lists without their n_. */
void business_page_write(struct text *t, const struct business_page *page);
/* The other way. False: it is no page. */
bool business_page_read(struct business_page *page, const char *json, size_t n);

const char *business_verb_word(enum business_verb verb);
/* The kinds of products, for links; NULL after the last. */
extern const char *const business_kinds[];

#endif
