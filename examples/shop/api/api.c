/* SPDX-License-Identifier: Apache-2.0 */
/* The API module: which address asks the business module what; see api.h. */
#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/pages.h"
#include "business/business.h"
#include "common/web.h"

#define COOKIE "millpond"
#define USER_LENGTH 32 /* hexadecimal digits */

struct api {
    struct web *web;
    struct business *b;
};

/* ---- files ---- */

#define FILES(X)                                                             \
    X("shop.css", "text/css; charset=utf-8", embed_api_assets_shop_css)      \
    X("shop.js", "text/javascript; charset=utf-8", embed_api_assets_shop_js) \
    X("kinds.svg", "image/svg+xml", embed_api_assets_kinds_svg)              \
    X("mill.svg", "image/svg+xml", embed_api_assets_mill_svg)                \
    X("logo.svg", "image/svg+xml", embed_api_assets_logo_svg)

#define X(name, type, symbol) extern const char symbol[];
FILES(X)
#undef X

static bool send_file(const char *name, struct web_reply *r)
{
#define X(file, mime, symbol)       \
    if (strcmp(name, file) == 0) {  \
        r->type = mime;             \
        r->cache = "max-age=600";   \
        text_add(&r->body, symbol); \
        return true;                \
    }
    FILES(X)
#undef X
    return false;
}

/* ---- users ---- */

/* The user of a request: of its cookie, else a new one, whose cookie goes with the reply. */
static void user_of(const struct web_request *q, struct web_reply *r, char user[USER_LENGTH + 1])
{
    const char *said = web_cookie(q, COOKIE);
    if (strlen(said) == USER_LENGTH && strspn(said, "0123456789abcdef") == USER_LENGTH) {
        text_copy(user, USER_LENGTH + 1, said);
        return;
    }
    unsigned char random[USER_LENGTH / 2];
    while (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
    }
    for (size_t i = 0; i < sizeof random; i++) {
        snprintf(user + 2 * i, 3, "%02x", random[i]);
    }
    snprintf(r->set_cookie, sizeof r->set_cookie, COOKIE "=%s; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", user);
}

/* ---- routes ---- */

struct route {
    const char *method, *path; /* a path that ends in / has something behind it */
    enum business_verb verb;
    const char *text, *id; /* the fields these come from; "/": from the path */
};

static const struct route routes[] = {
    {"GET", "/", BUSINESS_HOME, NULL, NULL},          {"GET", "/search", BUSINESS_SEARCH, "q", NULL},
    {"POST", "/photo", BUSINESS_PHOTO, NULL, NULL},   {"GET", "/kind/", BUSINESS_KIND, "/", NULL},
    {"GET", "/p/", BUSINESS_PRODUCT, NULL, "/"},      {"GET", "/orders", BUSINESS_ORDERS, NULL, NULL},
    {"POST", "/buy", BUSINESS_BUY, NULL, "id"},       {"POST", "/cancel", BUSINESS_CANCEL, NULL, "id"},
    {"POST", "/return", BUSINESS_RETURN, NULL, "id"}, {"POST", "/thumb", BUSINESS_THUMB, "model", "up"},
};

static const struct route *route_of(const char *method, const char *path, const char **rest)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        size_t n = strlen(routes[i].path);
        bool prefix = n > 1 && routes[i].path[n - 1] == '/';
        if (strcmp(method, routes[i].method) == 0 &&
            (prefix ? strncmp(path, routes[i].path, n) == 0 && path[n] : strcmp(path, routes[i].path) == 0)) {
            *rest = path + n;
            return &routes[i];
        }
    }
    return NULL;
}

/* A field's number; -1 if it is none. */
static int64_t number(const char *z)
{
    char *end;
    long long n = strtoll(z, &end, 10);
    return *z && !*end && n >= 0 ? n : -1;
}

static void apart(struct web_reply *r, int status, const char *title, const char *lead)
{
    text_free(&r->body);
    r->status = status;
    pages_write_apart(&r->body, title, lead);
}

static void show(struct web_reply *r, enum business_code code, const struct business_page *page, const char *asked)
{
    switch (code) {
    case BUSINESS_OK:
        pages_write(&r->body, page, asked);
        break;
    case BUSINESS_INVALID:
        apart(r, 400, "Not like this", page->note);
        break;
    case BUSINESS_NOT_FOUND:
        apart(r, 404, "Not here", "There is nothing at this address, or not any more.");
        break;
    case BUSINESS_UNAVAILABLE:
        apart(r, 503, "A short break", "The shop has to catch its breath. Please try again in a minute.");
        break;
    }
}

static void show_json(struct web_reply *r, enum business_code code, const struct business_page *page)
{
    static const int statuses[] = {
        [BUSINESS_OK] = 200, [BUSINESS_INVALID] = 400, [BUSINESS_NOT_FOUND] = 404, [BUSINESS_UNAVAILABLE] = 503};
    r->type = "application/json";
    r->status = statuses[code];
    business_page_write(&r->body, page);
}

/* After a form the browser is sent on, so that reloading does not do it again. */
static void send_on(struct web_reply *r, const struct web_request *q, const struct business_ask *ask)
{
    r->status = 303;
    const char *back = ask->verb == BUSINESS_THUMB ? strstr(web_header(q, "Referer"), "://") : NULL;
    back = back ? strchr(back + 3, '/') : NULL;
    if (back && back[1] != '/' && back[1] != '\\') {
        text_copy(r->location, sizeof r->location, back);
    } else {
        snprintf(r->location, sizeof r->location, "/orders?done=%s", business_verb_word(ask->verb));
    }
}

/* What to say on the page that a browser was sent on to. */
static void note_done(struct business_page *page, const char *done)
{
    static const struct {
        enum business_verb verb;
        const char *note;
    } notes[] = {{BUSINESS_BUY, "Thank you! It is yours, and we are packing it."},
                 {BUSINESS_CANCEL, "The order is cancelled."},
                 {BUSINESS_RETURN, "The return label is in your mail; the money follows."}};
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++) {
        if (strcmp(done, business_verb_word(notes[i].verb)) == 0) {
            text_copy(page->note, sizeof page->note, notes[i].note);
        }
    }
}

/* Requests that ask nothing of the business module. */
static bool answered_here(const struct web_request *q, struct web_reply *r)
{
    if (strcmp(q->path, "/healthz") == 0) {
        r->type = "text/plain";
        text_add(&r->body, "ok\n");
        return true;
    }
    return strncmp(q->path, "/assets/", 8) == 0 && send_file(q->path + 8, r);
}

static void serve(void *ctx, const struct web_request *q, struct web_reply *r)
{
    struct api *a = ctx;
    const char *path = q->path, *rest = "";
    if (answered_here(q, r)) {
        return;
    }
    bool json = strncmp(path, "/api/", 5) == 0;
    const struct route *at = route_of(q->method, json ? path + 4 : path, &rest);
    struct business_page *page = at ? malloc(sizeof *page) : NULL;
    if (!page) {
        apart(r, at ? 503 : 404, "Not here", "There is nothing at this address.");
        return;
    }
    bool post = strcmp(q->method, "POST") == 0;
    if (post && strcmp(web_header(q, "Sec-Fetch-Site"), "cross-site") == 0) {
        apart(r, 403, "Not like this", "Another site has sent this form.");
        free(page);
        return;
    }
    char user[USER_LENGTH + 1];
    user_of(q, r, user);
    struct business_ask ask = {.verb = at->verb, .user = user, .photo = q->file, .photo_bytes = q->file_bytes};
    ask.text = at->text ? (*at->text == '/' ? rest : web_field(q, at->text)) : NULL;
    ask.id = at->id ? number(*at->id == '/' ? rest : web_field(q, at->id)) : 0;
    ask.traceparent = web_traceparent(q);
    ask.request_id = at->verb == BUSINESS_THUMB ? web_field(q, "request_id") : NULL;
    enum business_code code = business_do(a->b, &ask, page);
    if (json) {
        show_json(r, code, page);
    } else if (post && code == BUSINESS_OK && at->verb != BUSINESS_PHOTO) {
        send_on(r, q, &ask);
    } else {
        note_done(page, at->verb == BUSINESS_ORDERS ? web_field(q, "done") : "");
        show(r, code, page, at->verb == BUSINESS_SEARCH ? ask.text : "");
    }
    free(page);
}

bool api_open(struct api **out, struct business *b, const char *listen, char *why, size_t why_size)
{
    struct api *a = calloc(1, sizeof *a);
    if (!a) {
        snprintf(why, why_size, "out of memory");
        return false;
    }
    a->b = b;
    if (!web_open(&a->web, listen, BUSINESS_PHOTO_MAX, serve, a, why, why_size)) {
        free(a);
        return false;
    }
    *out = a;
    return true;
}

const char *api_url(const struct api *a)
{
    return web_url(a->web);
}

void api_close(struct api *a)
{
    if (a) {
        web_close(a->web);
        free(a);
    }
}
