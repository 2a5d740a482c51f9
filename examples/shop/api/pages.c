/* SPDX-License-Identifier: Apache-2.0 */
/* A page of the business module as HTML; see pages.h. */
#include "api/pages.h"

#include <inttypes.h>
#include <string.h>

static void add_money(struct text *t, int64_t cents)
{
    text_addf(t, "%" PRId64 ".%02d&nbsp;€", cents / 100, (int)(cents % 100));
}

/* An element with escaped text in it. */
static void element(struct text *t, const char *open, const char *z, const char *close)
{
    text_add(t, open);
    text_html(t, z);
    text_add(t, close);
}

static void picture(struct text *t, const struct business_product *p)
{
    text_add(t, "<span class=\"picture c-");
    text_html(t, p->colour);
    text_add(t, "\"><svg viewBox=\"0 0 100 100\" aria-hidden=\"true\"><use href=\"/assets/kinds.svg#");
    text_html(t, p->kind);
    text_add(t, "\"/></svg></span>");
}

static void price(struct text *t, const struct business_product *p)
{
    text_add(t, "<span class=\"price\">");
    if (p->list_cents > p->cents) {
        text_add(t, "<s>");
        add_money(t, p->list_cents);
        text_add(t, "</s> ");
    }
    add_money(t, p->cents);
    text_add(t, "</span>");
}

/* Two forms that a script makes quiet. */
static void thumbs(struct text *t, const struct business_said *s, const char *question)
{
    if (!s->model[0] || !s->request_id[0]) {
        return;
    }
    text_add(t,
             "<form class=\"thumbs\" method=\"post\" action=\"/thumb\"><input type=\"hidden\" name=\"model\" value=\"");
    text_html(t, s->model);
    text_add(t, "\"><input type=\"hidden\" name=\"request_id\" value=\"");
    text_html(t, s->request_id);
    element(t, "\"><span>", question, "</span>");
    static const char *const buttons[][2] = {{"1", "Yes"}, {"0", "No"}};
    for (int i = 0; i < 2; i++) {
        text_addf(t,
                  "<button name=\"up\" value=\"%s\" aria-label=\"%s\" title=\"%s\"><svg viewBox=\"0 0 24 24\"><use "
                  "href=\"/assets/kinds.svg#thumb-%s\"/></svg></button>",
                  buttons[i][0], buttons[i][1], buttons[i][1], i ? "down" : "up");
    }
    text_add(t, "<details><summary>Who says so?</summary><small>");
    element(t, "the model <b>", s->model, "</b>");
    element(t, ", version ", s->version, "");
    if (s->label[0]) {
        element(t, ", which heard <b>", s->label, "</b>");
        text_addf(t, " (%.0f&nbsp;%%)", s->score * 100);
    }
    element(t, "<br>request <code>", s->request_id, "</code></small></details></form>");
}

static void card(struct text *t, const struct business_product *p)
{
    text_addf(t, "<li><a class=\"card\" href=\"/p/%" PRId64 "\">", p->id);
    picture(t, p);
    element(t, "<span class=\"name\">", p->name, "</span>");
    element(t, "<span class=\"colour\">", p->colour, "</span>");
    price(t, p);
    text_add(t, "</a></li>");
}

static void shelf(struct text *t, const struct business_shelf *s)
{
    text_add(t, "<section class=\"shelf\">");
    if (s->title[0]) {
        element(t, "<header><h2>", s->title, "</h2>");
        element(t, "<p>", s->why, "</p></header>");
    }
    text_addf(t, "<ul class=\"cards\" data-source=\"%s\">", s->said.model[0] ? "model" : "rules");
    for (int64_t i = 0; i < s->n_items; i++) {
        card(t, &s->items[i]);
    }
    text_add(t, "</ul>");
    thumbs(t, &s->said, "Good picks?");
    text_add(t, "</section>");
}

static void order(struct text *t, const struct business_order *o)
{
    text_addf(t, "<li class=\"order\"><a href=\"/p/%" PRId64 "\">", o->product.id);
    picture(t, &o->product);
    text_add(t, "</a><div>");
    element(t, "<b class=\"name\">", o->product.name, "</b>");
    text_addf(t, "<small>order %" PRId64 " · ", o->id);
    add_money(t, o->product.cents + o->shipping_cents);
    element(t, "</small><p>", o->when, "</p></div>");
    text_add(t, "<div class=\"state\">");
    element(t, "<span class=\"badge\">", o->state, "</span>");
    if (o->can_cancel || o->can_return) {
        text_addf(t,
                  "<form method=\"post\" action=\"/%s\"><button class=\"quiet\" name=\"id\" value=\"%" PRId64
                  "\">%s</button></form>",
                  o->can_cancel ? "cancel" : "return", o->id, o->can_cancel ? "Cancel it" : "Send it back");
    }
    text_add(t, "</div></li>");
}

static void product(struct text *t, const struct business_page *page)
{
    const struct business_product *p = &page->product;
    text_add(t, "<article class=\"product\">");
    picture(t, p);
    element(t, "<div><p class=\"kind\"><a href=\"/kind/", p->kind, "\">");
    element(t, "", p->kind, "</a></p>");
    element(t, "<h1>", p->name, "</h1>");
    element(t, "<p class=\"colour\">in ", p->colour, "</p>");
    element(t, "<p class=\"about\">", p->about, "</p><p class=\"big\">");
    price(t, p);
    text_add(t, "</p><p class=\"shipping\">");
    if (page->shipping_cents > 0) {
        text_add(t, "plus ");
        add_money(t, page->shipping_cents);
        text_add(t, " shipping");
    } else {
        text_add(t, "free shipping");
    }
    text_addf(t,
              " · with you in two days</p><form method=\"post\" action=\"/buy\"><button class=\"buy\" name=\"id\" "
              "value=\"%" PRId64 "\">Buy it</button></form></div></article>",
              p->id);
}

static void top(struct text *t, const char *title, const char *asked)
{
    text_add(t, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                "content=\"width=device-width, initial-scale=1\"><title>");
    text_html(t, title);
    text_add(t, " · Millpond</title><link rel=\"stylesheet\" href=\"/assets/shop.css\"><link rel=\"icon\" "
                "href=\"/assets/logo.svg\"><script defer src=\"/assets/shop.js\"></script></head><body><header "
                "class=\"top\"><a class=\"brand\" href=\"/\"><img src=\"/assets/logo.svg\" alt=\"\" width=\"34\" "
                "height=\"34\">Millpond</a><form class=\"search\" action=\"/search\" role=\"search\"><input name=\"q\" "
                "maxlength=\"200\" autocomplete=\"off\" aria-label=\"Search\" placeholder=\"a red jacket, where is my "
                "parcel, …\" value=\"");
    text_html(t, asked);
    text_add(t, "\"><button aria-label=\"Search\"><svg viewBox=\"0 0 24 24\"><use href=\"/assets/kinds.svg#glass\"/>"
                "</svg></button></form><form class=\"photo\" method=\"post\" action=\"/photo\" "
                "enctype=\"multipart/form-data\"><label title=\"Search with a photo\"><svg viewBox=\"0 0 24 24\"><use "
                "href=\"/assets/kinds.svg#camera\"/></svg><span>Photo</span><input type=\"file\" name=\"photo\" "
                "accept=\"image/jpeg,image/png\" aria-label=\"Photo\"></label><noscript><button>Go</button></noscript>"
                "</form><a class=\"orders\" href=\"/orders\">Your orders</a></header>");
}

static void bottom(struct text *t)
{
    text_add(t, "</main><footer><nav>");
    for (int i = 0; business_kinds[i]; i++) {
        text_addf(t, "<a href=\"/kind/%s\">%s</a>", business_kinds[i], business_kinds[i]);
    }
    text_add(
        t, "</nav><p>Millpond is the example shop of Weir: nothing is sold, nothing is charged, and the models behind "
           "it can be moved to other machines without a changed line.</p></footer></body></html>");
}

static void hero(struct text *t, const struct business_page *page)
{
    element(t, "<section class=\"hero\"><div><h1>", page->title, "</h1>");
    element(t, "<p>", page->lead, "</p><p class=\"chips\">");
    static const char *const tries[] = {"a blue rain jacket", "where is my parcel?", "I want to send something back",
                                        "black boots in size 42"};
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        text_add(t, "<a href=\"/search?q=");
        text_url(t, tries[i]);
        element(t, "\">", tries[i], "</a>");
    }
    text_add(t, "</p></div><img src=\"/assets/mill.svg\" alt=\"\"></section>");
}

void pages_write(struct text *t, const struct business_page *page, const char *asked)
{
    bool is_product = strcmp(page->view, "product") == 0, is_home = strcmp(page->view, "home") == 0;
    top(t, page->title, asked);
    text_addf(t, "<main class=\"view-%s\" data-degraded=\"%d\">", page->view, page->degraded != 0);
    if (page->note[0]) {
        element(t, "<p class=\"note\" role=\"status\">", page->note, "</p>");
    }
    if (is_product) {
        product(t, page);
    } else if (is_home) {
        hero(t, page);
    } else {
        element(t, "<section class=\"intro\"><h1>", page->title, "</h1>");
        if (page->lead[0]) {
            element(t, "<p>", page->lead, "</p>");
        }
        thumbs(t, &page->said, "Is that what you meant?");
        text_add(t, "</section>");
    }
    if (page->n_orders > 0) {
        text_add(t, "<ul class=\"order-list\">");
        for (int64_t i = 0; i < page->n_orders; i++) {
            order(t, &page->orders[i]);
        }
        text_add(t, "</ul>");
    }
    for (int64_t i = 0; i < page->n_shelves; i++) {
        shelf(t, &page->shelves[i]);
    }
    bottom(t);
}

void pages_write_apart(struct text *t, const char *title, const char *lead)
{
    top(t, title, "");
    element(t, "<main class=\"view-apart\"><section class=\"intro\"><h1>", title, "</h1>");
    element(t, "<p>", lead, "</p><p><a href=\"/\">To the shop</a></p></section>");
    bottom(t);
}
