/* SPDX-License-Identifier: Apache-2.0 */
/* The business module itself: what each verb does, over the data and the inference module; see business.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "business/business_priv.h"
#include "inference/inference.h"

#define HISTORY_SHOWN 6

struct local {
    struct business b;
    struct data *data;
    struct inference *inference;
    const struct data_product *all;
    int n_all;
};

/* One call on its way: what is asked, the page that is filled. */
struct work {
    const struct local *m;
    const struct business_ask *ask;
    struct business_page *page;
    struct inference_caller by;
    int64_t now;
    int kept_orders; /* neither cancelled nor returned: they make the price */
};

/* ---- products and shelves ---- */

static const struct data_product *product_of(const struct local *m, int64_t id)
{
    return id >= 1 && id <= m->n_all ? &m->all[id - 1] : NULL;
}

static void fill_product(const struct work *w, struct business_product *to, const struct data_product *p)
{
    to->id = p->id;
    text_copy(to->name, sizeof to->name, p->name);
    text_copy(to->kind, sizeof to->kind, p->kind);
    text_copy(to->colour, sizeof to->colour, p->colour);
    text_copy(to->about, sizeof to->about, p->about);
    to->list_cents = p->cents;
    to->cents = rules_price(p->cents, w->kept_orders);
    to->sold = p->sold;
}

static void fill_said(struct business_said *to, const struct inference_answer *a)
{
    text_copy(to->model, sizeof to->model, a->model);
    text_copy(to->request_id, sizeof to->request_id, a->request_id);
    text_copy(to->version, sizeof to->version, a->version);
    text_copy(to->label, sizeof to->label, a->label);
    to->score = a->score;
}

/* A new shelf; NULL when the page is full. Without items it is not shown: drop_empty. */
static struct business_shelf *add_shelf(struct work *w, const char *title, const char *why)
{
    if (w->page->n_shelves == BUSINESS_SHELVES) {
        return NULL;
    }
    struct business_shelf *s = &w->page->shelves[w->page->n_shelves++];
    text_copy(s->title, sizeof s->title, title);
    text_copy(s->why, sizeof s->why, why);
    return s;
}

static void add_item(struct work *w, struct business_shelf *s, int64_t id)
{
    const struct data_product *p = product_of(w->m, id);
    for (int64_t i = 0; p && s && i < s->n_items; i++) {
        p = s->items[i].id == id ? NULL : p;
    }
    if (p && s && s->n_items < BUSINESS_ITEMS) {
        fill_product(w, &s->items[s->n_items++], p);
    }
}

static void drop_empty(struct work *w)
{
    if (w->page->n_shelves > 0 && w->page->shelves[w->page->n_shelves - 1].n_items == 0) {
        memset(&w->page->shelves[--w->page->n_shelves], 0, sizeof w->page->shelves[0]);
    }
}

static void best_sellers(struct work *w, const char *kind, int64_t but, const char *title, const char *why, int n)
{
    int64_t ids[BUSINESS_ITEMS];
    int found = rules_best_sellers(w->m->all, w->m->n_all, kind, but, ids, n);
    struct business_shelf *s = add_shelf(w, title, why);
    for (int i = 0; i < found; i++) {
        add_item(w, s, ids[i]);
    }
    drop_empty(w);
}

/* What goes with what this user looked at; best sellers where the recommender has nothing to say. `about`: the product
 * on the page, the last of the history; NULL: none. */
static void recommended(struct work *w, const struct data_product *about)
{
    int64_t seen[INFERENCE_HISTORY];
    int n = data_views(w->m->data, w->ask->user, seen, INFERENCE_HISTORY);
    const struct data_product *last = about ? about : n > 0 ? product_of(w->m, seen[n - 1]) : NULL;
    if (n <= 0) {
        best_sellers(w, NULL, 0, "Best sellers", "What most people come for.", 8);
        return;
    }
    struct inference_answer a;
    if (inference_recommend(w->m->inference, &w->by, seen, n, &a) != INFERENCE_OK) {
        w->page->degraded = 1;
        best_sellers(w, last ? last->kind : NULL, about ? about->id : 0, about ? "Others of its kind" : "Best sellers",
                     "Our best sellers, while the recommendations take a break.", 8);
        return;
    }
    struct business_shelf *s = add_shelf(w, about ? "Goes well with it" : "Picked for you",
                                         about ? "What people look at next." : "From what you looked at last.");
    for (int i = 0; s && i < a.n_ids && s->n_items < 8; i++) {
        if (a.ids[i] != seen[n - 1]) {
            add_item(w, s, a.ids[i]);
        }
    }
    if (s) {
        fill_said(&s->said, &a);
    }
    drop_empty(w);
}

/* ---- orders ---- */

static int load_orders(struct work *w, struct data_order *orders)
{
    int n = data_orders(w->m->data, w->ask->user, orders, BUSINESS_ORDERS_MAX);
    w->kept_orders = 0;
    for (int i = 0; i < n; i++) {
        w->kept_orders += orders[i].end == DATA_OPEN;
    }
    return n;
}

/* The orders on the page: all of them, or those that can be cancelled or returned, or those that ended. */
enum which { ALL, CAN_CANCEL, CAN_RETURN, RETURNED };

static enum business_code show_orders(struct work *w, enum which which)
{
    struct data_order orders[BUSINESS_ORDERS_MAX];
    int n = data_welcome(w->m->data, w->ask->user, w->now) ? load_orders(w, orders) : -1;
    if (n < 0) {
        return BUSINESS_UNAVAILABLE;
    }
    text_copy(w->page->view, sizeof w->page->view, "orders");
    for (int i = 0; i < n; i++) {
        struct business_order o = {.id = orders[i].id, .shipping_cents = orders[i].shipping_cents};
        rules_order_state(&o, &orders[i], w->now);
        bool wanted = which == ALL || (which == CAN_CANCEL && o.can_cancel) || (which == CAN_RETURN && o.can_return) ||
                      (which == RETURNED && orders[i].end == DATA_RETURNED);
        const struct data_product *p = product_of(w->m, orders[i].product);
        if (wanted && p) {
            fill_product(w, &o.product, p);
            o.product.cents = o.product.list_cents = orders[i].cents;
            w->page->orders[w->page->n_orders++] = o;
        }
    }
    return BUSINESS_OK;
}

static void head(struct work *w, const char *view, const char *title, const char *lead)
{
    text_copy(w->page->view, sizeof w->page->view, view);
    text_copy(w->page->title, sizeof w->page->title, title);
    text_copy(w->page->lead, sizeof w->page->lead, lead);
}

static enum business_code orders_for(struct work *w, const char *intent)
{
    static const struct {
        const char *intent, *title, *lead, *none;
        enum which which;
    } table[] = {
        {"track_order", "Where your orders are", "The newest first.", "There is no order of yours yet.", ALL},
        {"cancel_order", "Cancel an order", "As long as it is being packed, one press is enough.",
         "None of your orders can be cancelled any more: what is on its way can be sent back when it is there.",
         CAN_CANCEL},
        {"return_item", "Send something back", "Within 30 days, for free, no questions.",
         "There is nothing that could be sent back now.", CAN_RETURN},
        {"refund_status", "Your refunds", "The money takes three working days from the day you sent it back.",
         "Nothing of yours was sent back, so no money is due.", RETURNED},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(intent, table[i].intent) == 0) {
            enum business_code code = show_orders(w, table[i].which);
            head(w, "orders", table[i].title, w->page->n_orders ? table[i].lead : table[i].none);
            return code;
        }
    }
    return BUSINESS_NOT_FOUND;
}

static enum business_code do_orders(struct work *w)
{
    return orders_for(w, "track_order");
}

static enum business_code do_buy(struct work *w)
{
    const struct data_product *p = product_of(w->m, w->ask->id);
    if (!p) {
        return BUSINESS_NOT_FOUND;
    }
    struct data_order o = {.product = p->id, .cents = rules_price(p->cents, w->kept_orders), .placed_at = w->now};
    o.shipping_cents = rules_shipping(o.cents);
    int64_t id;
    if (!data_order_add(w->m->data, w->ask->user, &o, &id)) {
        return BUSINESS_UNAVAILABLE;
    }
    enum business_code code = do_orders(w);
    snprintf(w->page->note, sizeof w->page->note, "Thank you! The %s is yours: order %" PRId64 ".", p->name, id);
    return code;
}

static enum business_code end_order(struct work *w, enum which which, enum data_end end, const char *done)
{
    enum business_code code = show_orders(w, which);
    bool may = false, changed = false;
    for (int64_t i = 0; i < w->page->n_orders; i++) {
        may |= w->page->orders[i].id == w->ask->id;
    }
    if (code == BUSINESS_OK && may && !data_order_end(w->m->data, w->ask->user, w->ask->id, end, &changed)) {
        code = BUSINESS_UNAVAILABLE;
    }
    memset(w->page, 0, sizeof *w->page);
    if (code != BUSINESS_OK) {
        return code;
    }
    code = do_orders(w);
    text_copy(w->page->note, sizeof w->page->note, changed ? done : "That order has gone too far for this.");
    return code;
}

static enum business_code do_cancel(struct work *w)
{
    return end_order(w, CAN_CANCEL, DATA_CANCELLED, "The order is cancelled.");
}

static enum business_code do_return(struct work *w)
{
    return end_order(w, CAN_RETURN, DATA_RETURNED, "The return label is in your mail; the money follows.");
}

/* ---- looking around ---- */

static enum business_code do_home(struct work *w)
{
    head(w, "home", "Things that last.", "Ask for what you want, the way you would say it.");
    recommended(w, NULL);
    int64_t seen[HISTORY_SHOWN];
    int n = data_views(w->m->data, w->ask->user, seen, HISTORY_SHOWN);
    if (n > 1) {
        struct business_shelf *s = add_shelf(w, "You looked at", "");
        for (int i = n; i-- > 0;) {
            add_item(w, s, seen[i]);
        }
    }
    if (n > 0 && !w->page->degraded) {
        best_sellers(w, NULL, 0, "Best sellers", "What most people come for.", 8);
    }
    return n < 0 ? BUSINESS_UNAVAILABLE : BUSINESS_OK;
}

static enum business_code do_kind(struct work *w)
{
    const char *kind = w->ask->text ? w->ask->text : "";
    for (int i = 0; business_kinds[i]; i++) {
        if (strcmp(kind, business_kinds[i]) == 0) {
            head(w, "results", "", "");
            snprintf(w->page->title, sizeof w->page->title, "%c%s%s", kind[0] - 'a' + 'A', kind + 1,
                     strcmp(kind, "headphones") == 0 ? ""
                     : strcmp(kind, "watch") == 0    ? "es"
                                                     : "s");
            best_sellers(w, kind, 0, "", "", BUSINESS_ITEMS);
            return BUSINESS_OK;
        }
    }
    return BUSINESS_NOT_FOUND;
}

static enum business_code do_product(struct work *w)
{
    const struct data_product *p = product_of(w->m, w->ask->id);
    if (!p) {
        return BUSINESS_NOT_FOUND;
    }
    if (!data_view(w->m->data, w->ask->user, p->id, w->now)) {
        return BUSINESS_UNAVAILABLE;
    }
    head(w, "product", p->name, p->about);
    fill_product(w, &w->page->product, p);
    w->page->shipping_cents = rules_shipping(w->page->product.cents);
    recommended(w, p);
    return BUSINESS_OK;
}

/* The products that fit the words, the best first. Returns how many. */
static int64_t found_by_words(struct work *w)
{
    struct business_shelf *s = add_shelf(w, "", "");
    int score[BUSINESS_ITEMS] = {0};
    int64_t ids[BUSINESS_ITEMS];
    int n = 0;
    for (int i = 0; i < w->m->n_all; i++) {
        int fits = rules_match(&w->m->all[i], w->ask->text);
        int at = n;
        while (at > 0 && (score[at - 1] < fits ||
                          (score[at - 1] == fits && w->m->all[ids[at - 1] - 1].sold < w->m->all[i].sold))) {
            at--;
        }
        if (fits == 0 || at == BUSINESS_ITEMS) {
            continue;
        }
        n += n < BUSINESS_ITEMS;
        memmove(score + at + 1, score + at, (size_t)(n - 1 - at) * sizeof score[0]);
        memmove(ids + at + 1, ids + at, (size_t)(n - 1 - at) * sizeof ids[0]);
        score[at] = fits;
        ids[at] = w->m->all[i].id;
    }
    for (int i = 0; i < n && score[i] * 3 >= score[0]; i++) {
        add_item(w, s, ids[i]);
    }
    int64_t items = s ? s->n_items : 0;
    drop_empty(w);
    return items;
}

static enum business_code show_products(struct work *w)
{
    head(w, "results", "", "");
    snprintf(w->page->title, sizeof w->page->title, "%.*s", 90, w->ask->text);
    if (found_by_words(w) == 0) {
        text_copy(w->page->lead, sizeof w->page->lead,
                  "Nothing here goes by that name. These are what most people come for:");
        best_sellers(w, NULL, 0, "Best sellers", "", 8);
    }
    return BUSINESS_OK;
}

static bool asks_for_products(const char *intent)
{
    return strcmp(intent, "search_product") == 0 || strcmp(intent, "product_question") == 0;
}

/* The model says what is wanted. When it is not sure, words that name a product win; without it, words alone decide. */
static enum business_code do_search(struct work *w)
{
    if (!w->ask->text || !w->ask->text[strspn(w->ask->text, " ")]) {
        return do_home(w);
    }
    struct inference_answer a = {0};
    enum inference_code heard = inference_intent(w->m->inference, &w->by, w->ask->text, &a);
    const char *intent = heard == INFERENCE_OK ? a.label : rules_intent(w->ask->text);
    enum business_code code = BUSINESS_NOT_FOUND;
    const char *title, *lead;
    if (asks_for_products(intent) || (heard == INFERENCE_OK && a.score < RULES_SURE && found_by_words(w) > 0)) {
        w->page->n_shelves = 0;
        memset(w->page->shelves, 0, sizeof w->page->shelves);
        code = show_products(w);
    } else if (rules_help(intent, &title, &lead)) {
        bool about_orders = strcmp(intent, "complaint") == 0 || strcmp(intent, "change_address") == 0;
        code = about_orders ? show_orders(w, ALL) : BUSINESS_OK;
        head(w, "help", title, lead);
        if (!about_orders) {
            best_sellers(w, NULL, 0, "Best sellers", "", 8);
        }
    } else {
        code = orders_for(w, intent);
        if (code == BUSINESS_NOT_FOUND) { /* a newer model knows an intent that these rules do not */
            code = show_products(w);
        }
    }
    if (heard == INFERENCE_OK) {
        fill_said(&w->page->said, &a);
    } else {
        w->page->degraded = 1;
    }
    return code;
}

static enum business_code do_photo(struct work *w)
{
    if (!w->ask->photo || !rules_photo_kind(w->ask->photo, w->ask->photo_bytes)) {
        text_copy(w->page->note, sizeof w->page->note, "That is no photo that we can read: JPEG and PNG files are.");
        return BUSINESS_INVALID;
    }
    struct inference_answer a;
    enum inference_code seen = inference_vision(w->m->inference, &w->by, w->ask->photo, w->ask->photo_bytes, &a);
    if (seen == INFERENCE_BAD_INPUT) {
        text_copy(w->page->note, sizeof w->page->note,
                  "That photo could not be read. Is it whole, and a JPEG or PNG file?");
        return BUSINESS_INVALID;
    }
    if (seen != INFERENCE_OK) {
        w->page->degraded = 1;
        head(w, "results", "The photo search takes a break",
             "We can not look at photos just now. Tell us in words, or look around here; it comes back by itself.");
        best_sellers(w, NULL, 0, "Best sellers", "What most people come for.", 8);
        return BUSINESS_OK;
    }
    head(w, "results", "", "");
    snprintf(w->page->title, sizeof w->page->title, a.score >= RULES_PHOTO_SURE ? "We see a %s" : "Could it be a %s?",
             a.label);
    best_sellers(w, a.label, 0, "", "", BUSINESS_ITEMS);
    fill_said(&w->page->said, &a);
    return BUSINESS_OK;
}

static enum business_code do_thumb(struct work *w)
{
    const char *model = w->ask->text, *id = w->ask->request_id;
    if (!model || !id || !*model || !*id) {
        text_copy(w->page->note, sizeof w->page->note, "A thumb wants a model and a request id.");
        return BUSINESS_INVALID;
    }
    bool up = w->ask->id > 0;
    enum inference_code told = inference_feedback(w->m->inference, model, id, up);
    if (told == INFERENCE_BAD_INPUT) {
        text_copy(w->page->note, sizeof w->page->note, "That answer is not remembered any more.");
        return BUSINESS_INVALID;
    }
    /* Kept here in any case; that the model can not hear of it now is not the customer's matter. */
    if (!data_thumb(w->m->data, w->ask->user, model, id, up, w->now)) {
        return BUSINESS_UNAVAILABLE;
    }
    w->page->degraded = told == INFERENCE_DOWN;
    text_copy(w->page->note, sizeof w->page->note, up ? "Thank you!" : "Thank you. We will do better.");
    return BUSINESS_OK;
}

/* ---- the module ---- */

static enum business_code local_ask(struct business *b, const struct business_ask *ask, struct business_page *page)
{
    static enum business_code (*const verbs[BUSINESS_VERBS_COUNT])(struct work *) = {
        [BUSINESS_HOME] = do_home,   [BUSINESS_SEARCH] = do_search,   [BUSINESS_PHOTO] = do_photo,
        [BUSINESS_KIND] = do_kind,   [BUSINESS_PRODUCT] = do_product, [BUSINESS_ORDERS] = do_orders,
        [BUSINESS_BUY] = do_buy,     [BUSINESS_CANCEL] = do_cancel,   [BUSINESS_RETURN] = do_return,
        [BUSINESS_THUMB] = do_thumb,
    };
    const struct local *m = (const struct local *)b;
    struct work w = {.m = m, .ask = ask, .page = page, .by = {ask->user, ask->traceparent}, .now = (int64_t)time(NULL)};
    struct data_order orders[BUSINESS_ORDERS_MAX];
    if (load_orders(&w, orders) < 0) {
        return BUSINESS_UNAVAILABLE;
    }
    return verbs[ask->verb](&w);
}

static void local_close(struct business *b)
{
    free(b);
}

struct business *business_local(struct data *data, struct inference *inference)
{
    struct local *m = calloc(1, sizeof *m);
    if (m) {
        m->b = (struct business){local_ask, local_close};
        m->data = data;
        m->inference = inference;
        m->all = data_products(data, &m->n_all);
    }
    return m ? &m->b : NULL;
}

enum business_code business_do(struct business *b, const struct business_ask *ask, struct business_page *page)
{
    memset(page, 0, sizeof *page);
    size_t user = ask->user ? strnlen(ask->user, BUSINESS_USER_MAX + 1) : 0;
    if ((unsigned)ask->verb >= BUSINESS_VERBS_COUNT || user == 0 || user > BUSINESS_USER_MAX ||
        ask->photo_bytes > BUSINESS_PHOTO_MAX ||
        (ask->text && strnlen(ask->text, BUSINESS_TEXT_MAX + 1) > BUSINESS_TEXT_MAX)) {
        text_copy(page->note, sizeof page->note, "That is more than this shop can take in.");
        return BUSINESS_INVALID;
    }
    return b->ask(b, ask, page);
}

void business_close(struct business *b)
{
    if (b) {
        b->close(b);
    }
}
