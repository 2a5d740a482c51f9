/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the business module share: its kinds of insides, and the rules that need no data and no models. */
#ifndef SHOP_BUSINESS_PRIV_H
#define SHOP_BUSINESS_PRIV_H

#include "business/business.h"
#include "data/data.h"

/* First member of every kind of module. */
struct business {
    enum business_code (*ask)(struct business *b, const struct business_ask *ask, struct business_page *page);
    void (*close)(struct business *b);
};

/* ---- rules.c: pure ---- */

#define RULES_SURE 0.5       /* an intent below this gives way to product words */
#define RULES_PHOTO_SURE 0.4 /* a class below this is told as a guess */

/* What a text is about when no model says it: an intent's label, by its words. */
const char *rules_intent(const char *text);

/* How well a product fits what was typed: 0 not at all. Kinds count more than colours, small typing errors less. */
int rules_match(const struct data_product *p, const char *text);

/* Money: what a product costs this customer (5 % less from the third kept order on), and its way to them. */
int64_t rules_price(int64_t list_cents, int kept_orders);
int64_t rules_shipping(int64_t cents);

/* An order at a time: fills state, when, can_cancel and can_return. */
void rules_order_state(struct business_order *to, const struct data_order *o, int64_t now);

/* "JPEG", "PNG", or NULL: by the first bytes. */
const char *rules_photo_kind(const void *p, size_t n);

/* The n best sellers of a kind (NULL: of all, at most two of a kind) that are not `but`; returns how many. */
int rules_best_sellers(const struct data_product *all, int n_all, const char *kind, int64_t but, int64_t *ids, int n);

/* What the help page says about an intent: false if that intent is no matter of words. */
bool rules_help(const char *intent, const char **title, const char **lead);

#endif
