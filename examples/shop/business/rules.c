/* SPDX-License-Identifier: Apache-2.0 */
/* The rules that need no data and no models; see business_priv.h. */
#include "business/business_priv.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define HOUR 3600
#define DAY (24 * HOUR)
#define PACKED_S HOUR
#define TRAVEL_S (2 * DAY)
#define RETURN_S (30 * DAY)
#define FREE_SHIPPING_CENTS 4000
#define SHIPPING_CENTS 490
#define KEPT_FOR_DISCOUNT 3
#define WORD_MAX 31

const char *const business_kinds[] = {"shirt",  "jacket",     "shoe",   "hat",    "bag",   "watch",
                                      "phone",  "headphones", "lamp",   "chair",  "table", "book",
                                      "puzzle", "mug",        "kettle", "bottle", NULL};

const char *business_verb_word(enum business_verb verb)
{
    static const char *const words[BUSINESS_VERBS_COUNT] = {
#define X(name, word) word,
        BUSINESS_VERBS(X)
#undef X
    };
    return words[verb];
}

/* ---- words ---- */

/* The next word of *z, in lower case; false at the end. Longer ones are cut. */
static bool next_word(const char **z, char word[WORD_MAX + 1])
{
    while (**z && !isalnum((unsigned char)**z)) {
        (*z)++;
    }
    size_t n = 0;
    for (; isalnum((unsigned char)**z); (*z)++) {
        if (n < WORD_MAX) {
            word[n++] = (char)tolower((unsigned char)**z);
        }
    }
    word[n] = '\0';
    return n > 0;
}

/* At most one letter changed, lost or added, or two neighbours swapped. */
static bool nearly(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    if (na > nb + 1 || nb > na + 1) {
        return false;
    }
    size_t i = 0;
    while (a[i] && a[i] == b[i]) {
        i++;
    }
    if (na == nb) {
        return strcmp(a + i + (a[i] != 0), b + i + (b[i] != 0)) == 0 ||
               (a[i] && a[i] == b[i + 1] && a[i + 1] == b[i] && strcmp(a + i + 2, b + i + 2) == 0);
    }
    return na > nb ? strcmp(a + i + 1, b + i) == 0 : strcmp(a + i, b + i + 1) == 0;
}

/* 2: the same word but for a plural's s; 1: nearly; 0: another. */
static int same_word(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    if (strcmp(a, b) == 0 || (na == nb + 1 && a[na - 1] == 's' && strncmp(a, b, nb) == 0) ||
        (nb == na + 1 && b[nb - 1] == 's' && strncmp(a, b, na) == 0)) {
        return 2;
    }
    return na >= 5 && nb >= 5 && nearly(a, b) ? 1 : 0;
}

static int best_in(const char *word, const char *text)
{
    char other[WORD_MAX + 1];
    int best = 0;
    while (best < 2 && next_word(&text, other)) {
        int as = same_word(word, other);
        best = as > best ? as : best;
    }
    return best;
}

/* Words that people write around a product and that say nothing about which. */
static bool says_nothing(const char *word)
{
    static const char *const plain[] = {"a",    "an",      "the",  "and",   "with",  "for",  "in", "of",   "do",
                                        "you",  "have",    "i",    "am",    "any",   "is",   "it", "me",   "my",
                                        "to",   "new",     "show", "got",   "find",  "some", "on", "sell", "need",
                                        "want", "looking", "buy",  "cheap", "piece", "size"};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (strcmp(word, plain[i]) == 0) {
            return true;
        }
    }
    return false;
}

int rules_match(const struct data_product *p, const char *text)
{
    char word[WORD_MAX + 1];
    int score = 0;
    bool names_it = false;
    while (next_word(&text, word)) {
        if (says_nothing(word)) {
            continue;
        }
        int kind = best_in(word, p->kind), name = best_in(word, p->name), other = best_in(word, p->words);
        names_it |= kind + name + other > 0;
        score += kind * 6 + name * 5 + other * 2 + best_in(word, p->colour) * 3;
    }
    /* "yellow" alone names everything yellow; beside a product's name it only orders. */
    return names_it || score >= 6 ? score : 0;
}

const char *rules_intent(const char *text)
{
    static const struct {
        const char *word, *intent;
    } table[] = {
        {"refund", "refund_status"},    {"money", "refund_status"},  {"return", "return_item"},
        {"exchange", "return_item"},    {"cancel", "cancel_order"},  {"address", "change_address"},
        {"parcel", "track_order"},      {"package", "track_order"},  {"track", "track_order"},
        {"arrive", "track_order"},      {"order", "track_order"},    {"shipping", "shipping_cost"},
        {"delivery", "shipping_cost"},  {"open", "opening_hours"},   {"hours", "opening_hours"},
        {"payment", "payment_problem"}, {"card", "payment_problem"}, {"complain", "complaint"},
        {"hello", "greeting"},          {"thanks", "greeting"},      {"help", "greeting"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (best_in(table[i].word, text) > 0) {
            return table[i].intent;
        }
    }
    return "search_product";
}

bool rules_help(const char *intent, const char **title, const char **lead)
{
    static const struct {
        const char *intent, *title, *lead;
    } table[] = {
        {"shipping_cost", "Shipping", "Shipping is 4.90 € an order, and free from 40 € on. It takes two days."},
        {"opening_hours", "Opening hours",
         "The web shop never closes. On the phone you reach us Monday to Friday, 9 to 17."},
        {"payment_problem", "Payment",
         "No money is taken in this shop: it is an example. In a real one, somebody would look into your payment now."},
        {"complaint", "We are sorry",
         "That is not how it should be. Your orders are below: send back what is not right, within 30 days, for free."},
        {"greeting", "Hello!",
         "Ask for a product, or for what you want to do: \"where is my parcel\", \"I want to send back the mug\"."},
        {"change_address", "Another address",
         "As long as an order is being packed you can cancel it and order again, to the other address."},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(intent, table[i].intent) == 0) {
            *title = table[i].title;
            *lead = table[i].lead;
            return true;
        }
    }
    return false;
}

/* ---- money and orders ---- */

int64_t rules_price(int64_t list_cents, int kept_orders)
{
    return kept_orders >= KEPT_FOR_DISCOUNT ? list_cents - list_cents / 20 : list_cents;
}

int64_t rules_shipping(int64_t cents)
{
    return cents >= FREE_SHIPPING_CENTS ? 0 : SHIPPING_CENTS;
}

static void say(struct business_order *to, const char *state, const char *when)
{
    text_copy(to->state, sizeof to->state, state);
    text_copy(to->when, sizeof to->when, when);
}

void rules_order_state(struct business_order *to, const struct data_order *o, int64_t now)
{
    int64_t age = now > o->placed_at ? now - o->placed_at : 0;
    to->can_cancel = to->can_return = 0;
    if (o->end == DATA_CANCELLED) {
        say(to, "cancelled", "Nothing was sent, nothing is to pay.");
    } else if (o->end == DATA_RETURNED) {
        say(to, "returned", "Your money is on its way back to you.");
    } else if (age < PACKED_S) {
        say(to, "packed", "We are packing it; it leaves within the hour.");
        to->can_cancel = 1;
    } else if (age < TRAVEL_S) {
        int64_t hours = (TRAVEL_S - age + HOUR - 1) / HOUR;
        say(to, "on its way", "");
        snprintf(to->when, sizeof to->when, "It should be with you in %d %s.", (int)(hours > 24 ? 2 : hours),
                 hours > 24   ? "days"
                 : hours == 1 ? "hour"
                              : "hours");
    } else {
        int64_t days = (age - TRAVEL_S) / DAY;
        say(to, "delivered", "");
        to->can_return = age < TRAVEL_S + RETURN_S;
        snprintf(to->when, sizeof to->when, days == 0 ? "It arrived today." : "It arrived %d %s ago.", (int)days,
                 days == 1 ? "day" : "days");
    }
}

/* ---- photos and shelves ---- */

const char *rules_photo_kind(const void *p, size_t n)
{
    if (n > 3 && memcmp(p, "\xFF\xD8\xFF", 3) == 0) {
        return "JPEG";
    }
    return n > 8 && memcmp(p, "\x89PNG\r\n\x1A\n", 8) == 0 ? "PNG" : NULL;
}

int rules_best_sellers(const struct data_product *all, int n_all, const char *kind, int64_t but, int64_t *ids, int n)
{
    int found = 0;
    while (found < n) {
        const struct data_product *best = NULL;
        for (int i = 0; i < n_all; i++) {
            const struct data_product *p = &all[i];
            if (p->id == but || (kind && strcmp(p->kind, kind) != 0) || (best && p->sold <= best->sold)) {
                continue;
            }
            int of_kind = 0;
            bool taken = false;
            for (int at = 0; at < found; at++) {
                taken |= ids[at] == p->id;
                of_kind += strcmp(all[ids[at] - 1].kind, p->kind) == 0;
            }
            if (!taken && (kind || of_kind < 2)) {
                best = p;
            }
        }
        if (!best) {
            break;
        }
        ids[found++] = best->id;
    }
    return found;
}
