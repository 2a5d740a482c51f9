/* SPDX-License-Identifier: Apache-2.0 */
/* The business module in another process: both ends of POST /business/VERB.
 *
 * What is asked goes as query parameters, a photo as the body; the reply is the page as JSON, with the status of its
 * code. A connection is used by one call at a time and kept for the next. */
#include <curl/curl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "business/business_priv.h"
#include "common/web.h"

#define IDLE_MAX 16
#define PAGE_BYTES_MAX (512u << 10)
#define CONNECT_MS 1000

static const int statuses[] = {
    [BUSINESS_OK] = 200, [BUSINESS_INVALID] = 400, [BUSINESS_NOT_FOUND] = 404, [BUSINESS_UNAVAILABLE] = 503};

/* ---- the caller's end ---- */

struct remote {
    struct business b;
    char url[300];
    long limit_ms;
    pthread_mutex_t lock;
    CURL *idle[IDLE_MAX]; /* under lock */
    int n_idle;
};

static CURL *take(struct remote *r)
{
    pthread_mutex_lock(&r->lock);
    CURL *c = r->n_idle > 0 ? r->idle[--r->n_idle] : NULL;
    pthread_mutex_unlock(&r->lock);
    return c ? c : curl_easy_init();
}

static void give(struct remote *r, CURL *c)
{
    pthread_mutex_lock(&r->lock);
    if (r->n_idle < IDLE_MAX) {
        r->idle[r->n_idle++] = c;
        c = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    if (c) {
        curl_easy_cleanup(c);
    }
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct text *t = ctx;
    text_addn(t, p, size * n);
    return t->over ? 0 : size * n;
}

static void add_parameter(struct text *url, const char *name, const char *value)
{
    if (value) {
        text_addf(url, "&%s=", name);
        text_url(url, value);
    }
}

/* One exchange; the code and the page of the reply. */
static enum business_code exchange(struct remote *r, CURL *c, const struct business_ask *ask,
                                   struct business_page *page)
{
    struct text url = TEXT_INIT(8192), body = TEXT_INIT(PAGE_BYTES_MAX);
    text_addf(&url, "%s/business/%s?id=%" PRId64, r->url, business_verb_word(ask->verb), ask->id);
    add_parameter(&url, "user", ask->user);
    add_parameter(&url, "text", ask->text);
    add_parameter(&url, "request_id", ask->request_id);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/octet-stream");
    headers = curl_slist_append(headers, "Expect:");
    char trace[100];
    if (ask->traceparent) {
        snprintf(trace, sizeof trace, "traceparent: %s", ask->traceparent);
        headers = curl_slist_append(headers, trace);
    }
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, url.p);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, r->limit_ms < CONNECT_MS ? r->limit_ms : (long)CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, r->limit_ms);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_POST, 1L);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, ask->photo ? ask->photo : "");
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(ask->photo ? ask->photo_bytes : 0));
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &body);
    CURLcode rc = url.over ? CURLE_OUT_OF_MEMORY : curl_easy_perform(c);
    long status = 0;
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    enum business_code code = BUSINESS_UNAVAILABLE;
    if (rc != CURLE_OK) {
        fprintf(stderr, "shop: the business module at %s: %s\n", r->url, curl_easy_strerror(rc));
    } else if (!business_page_read(page, body.p ? body.p : "", body.n)) {
        fprintf(stderr, "shop: the business module at %s answered %ld with no page\n", r->url, status);
        memset(page, 0, sizeof *page);
    } else {
        for (int i = BUSINESS_OK; i <= BUSINESS_UNAVAILABLE; i++) {
            code = statuses[i] == status ? (enum business_code)i : code;
        }
    }
    curl_slist_free_all(headers);
    text_free(&url);
    text_free(&body);
    return code;
}

static enum business_code remote_ask(struct business *b, const struct business_ask *ask, struct business_page *page)
{
    struct remote *r = (struct remote *)b;
    CURL *c = take(r);
    if (!c) {
        return BUSINESS_UNAVAILABLE;
    }
    enum business_code code = exchange(r, c, ask, page);
    give(r, c);
    return code;
}

static void remote_close(struct business *b)
{
    struct remote *r = (struct remote *)b;
    for (int i = 0; i < r->n_idle; i++) {
        curl_easy_cleanup(r->idle[i]);
    }
    pthread_mutex_destroy(&r->lock);
    free(r);
    curl_global_cleanup();
}

struct business *business_remote(const char *url, int64_t limit_ms)
{
    struct remote *r = calloc(1, sizeof *r);
    if (r && curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(r);
        r = NULL;
    }
    if (r) {
        r->b = (struct business){remote_ask, remote_close};
        text_copy(r->url, sizeof r->url, url);
        r->limit_ms = (long)limit_ms;
        pthread_mutex_init(&r->lock, NULL);
    }
    return r ? &r->b : NULL;
}

/* ---- the other end ---- */

struct business_server {
    struct web *web;
    struct business *b;
};

static const char *field_or_null(const struct web_request *q, const char *name)
{
    const char *value = web_field(q, name);
    return *value ? value : NULL;
}

static void serve_one(void *ctx, const struct web_request *q, struct web_reply *r)
{
    struct business_server *s = ctx;
    struct business_ask ask = {.verb = BUSINESS_VERBS_COUNT,
                               .user = field_or_null(q, "user"),
                               .text = field_or_null(q, "text"),
                               .request_id = field_or_null(q, "request_id"),
                               .id = strtoll(web_field(q, "id"), NULL, 10),
                               .photo = q->file,
                               .photo_bytes = q->file_bytes};
    ask.traceparent = web_traceparent(q);
    for (int v = 0; v < BUSINESS_VERBS_COUNT && strncmp(q->path, "/business/", 10) == 0; v++) {
        if (strcmp(q->path + 10, business_verb_word((enum business_verb)v)) == 0) {
            ask.verb = (enum business_verb)v;
        }
    }
    r->type = "application/json";
    struct business_page *page = malloc(sizeof *page);
    if (!page || ask.verb == BUSINESS_VERBS_COUNT || strcmp(q->method, "POST") != 0) {
        r->status = page ? 404 : 503;
        text_add(&r->body, "{}");
    } else {
        r->status = statuses[business_do(s->b, &ask, page)];
        business_page_write(&r->body, page);
    }
    free(page);
}

bool business_serve(struct business_server **out, struct business *b, const char *listen, char *why, size_t why_size)
{
    struct business_server *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(why, why_size, "out of memory");
        return false;
    }
    s->b = b;
    if (!web_open(&s->web, listen, BUSINESS_PHOTO_MAX, serve_one, s, why, why_size)) {
        free(s);
        return false;
    }
    *out = s;
    return true;
}

const char *business_server_url(const struct business_server *s)
{
    return web_url(s->web);
}

void business_server_close(struct business_server *s)
{
    if (s) {
        web_close(s->web);
        free(s);
    }
}
