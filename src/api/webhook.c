/* SPDX-License-Identifier: Apache-2.0 */
/* The webhook's spool, its thread, and what became of each attempt; see webhook.h.
 *
 * The event that is being delivered (between its attempts too) is `now`, in the hands of the thread; the others wait in
 * a list. One lock guards all of that for moments; nobody holds it while something is sent.
 *
 * Thread: as each function says; `lock` guards what is marked with it. */
#include "api/webhook.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "api/admin_priv.h"
#include "api/webhook_curl.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"

#define RETRY_US SECONDS(5)
#define RETRY_MAX_US SECONDS(3600)
#define GIVE_UP_US SECONDS(86400)
#define SECRET_LEAST 16
#define SECRET_MOST 1024

struct delivery {
    struct delivery *next;
    char id[48];
    char type[48];
    struct str body; /* heap */
    unsigned attempt;
    uint64_t first_us; /* when it was tried first */
    uint64_t due_us;
};

struct attempt {
    char id[48], type[48];
    unsigned number;
    int64_t at_ms;
    int status; /* 0: no answer */
    unsigned ms;
    char error[160];
};

struct webhook {
    char *url, *source;
    char *origin; /* of the URL: without what may be a secret in it */
    uint8_t key[SECRET_MOST];
    size_t key_n; /* 0: not signed */
    webhook_post_fn *post;
    void *post_ctx;
    struct curl_client *curl;
    uint64_t retry_us, give_up_us;
    pthread_t thread;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* with lock */
    struct delivery *first, **last; /* those that wait */
    unsigned n;
    size_t bytes;
    bool busy; /* one is being delivered */
    bool gone; /* 410 */
    uint64_t delivered, dropped, given_up;
    struct attempt attempts[WEBHOOK_LOG];
    uint64_t n_attempts; /* all; the newest is at (n_attempts - 1) % WEBHOOK_LOG */
};

#define AT(field) offsetof(struct webhook_conf, field)
const struct setting webhook_settings[] = {
    {"webhook", SET_STRING, AT(url), NULL, 1, 2000, NULL, "http(s) URL that every event is posted to"},
    {"secret_file", SET_STRING, AT(secret_file), NULL, 1, 1000, NULL,
     "file with the secret that signs them (whsec_… or 16 characters or more)"},
};
const size_t n_webhook_settings = COUNT_OF(webhook_settings);

/* ---- parts ---- */

uint64_t webhook_delay_us(uint64_t first_us, unsigned attempt, uint64_t chance)
{
    uint64_t us = first_us;

    for (unsigned i = 1; i < attempt && us < RETRY_MAX_US; i++) {
        us *= 2;
    }
    us = MIN(us, RETRY_MAX_US);
    uint64_t least = us / 4 * 3, most = MIN(us / 4 * 5, RETRY_MAX_US);
    return least + chance % (most - least + 1);
}

void webhook_sign(char *out, size_t cap, struct str key, const char *id, int64_t timestamp, struct str body)
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    char text[2 * EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char *said = xasprintf("%s.%lld.", id, (long long)timestamp);
    size_t said_n = strlen(said);

    said = xrealloc(said, said_n + body.n);
    memcpy(said + said_n, body.p, body.n);
    HMAC(EVP_sha256(), key.p, (int)key.n, (const uint8_t *)said, said_n + body.n, mac, &n);
    EVP_EncodeBlock((uint8_t *)text, mac, (int)n);
    snprintf(out, cap, "v1,%s", text);
    free(said);
}

/* The event as the other side gets it; false without memory. */
static bool put_event(struct buf *b, const struct webhook *w, const struct delivery *d, const struct history_row *row)
{
    buf_init(b, 2 * EVENT_BYTES);
    BUF_LIT(b, "{\"specversion\":\"1.0\",\"id\":");
    json_strz(b, d->id);
    BUF_LIT(b, ",\"source\":");
    json_strz(b, w->source);
    BUF_LIT(b, ",\"type\":");
    json_strz(b, d->type);
    if (row->model[0]) {
        BUF_LIT(b, ",\"subject\":");
        json_strz(b, row->model);
    }
    BUF_LIT(b, ",\"time\":");
    json_time(b, row->at_ms);
    BUF_LIT(b, ",\"datacontenttype\":\"application/json\",\"data\":");
    event_json(b, row);
    BUF_LIT(b, "}");
    return !b->over;
}

static void delivery_free(struct delivery *d)
{
    if (d) {
        free((char *)(uintptr_t)d->body.p);
        free(d);
    }
}

/* ---- the spool; with lock ---- */

static struct delivery *take_first(struct webhook *w)
{
    struct delivery *d = w->first;

    w->first = d->next;
    if (!w->first) {
        w->last = &w->first;
    }
    w->n--;
    w->bytes -= d->body.n;
    return d;
}

static void forget_all(struct webhook *w)
{
    while (w->first) {
        delivery_free(take_first(w));
    }
}

void webhook_told(struct webhook *w, const struct history_row *row)
{
    struct delivery *d;
    struct buf b, type;

    if (!w) {
        return;
    }
    d = xcalloc(1, sizeof(*d));
    /* The time is part of the id: a store that begins anew gives the same numbers again. */
    snprintf(d->id, sizeof(d->id), "%lld-%lld", (long long)row->seq, (long long)row->at_ms);
    buf_init(&type, sizeof(d->type) - 1);
    BUF_LIT(&type, "weir.");
    event_type(&type, row->kind);
    snprintf(d->type, sizeof(d->type), "%s", buf_z(&type));
    buf_done(&type);
    bool made = put_event(&b, w, d, row);
    if (made) {
        d->body = (struct str){xstrndup(b.p, b.n), b.n};
    }
    buf_done(&b);
    pthread_mutex_lock(&w->lock);
    uint64_t lost = made ? 0 : 1;
    if (!made || w->gone) {
        delivery_free(d);
    } else {
        *w->last = d;
        w->last = &d->next;
        w->n++;
        w->bytes += d->body.n;
        while (w->n > WEBHOOK_SPOOL || (w->bytes > WEBHOOK_SPOOL_BYTES && w->n > 1)) {
            delivery_free(take_first(w));
            lost++;
        }
        pthread_cond_signal(&w->wake);
    }
    bool first = lost > 0 && w->dropped == 0;
    w->dropped += lost;
    pthread_mutex_unlock(&w->lock);
    if (first) {
        log_warn("api", "the webhook does not keep up: events are dropped, the oldest first waiting=%d", WEBHOOK_SPOOL);
    }
}

/* ---- the thread ---- */

/* Waits until `us` (0: for ever) or a signal. */
static void wait_until(struct webhook *w, uint64_t us)
{
    struct timespec at = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

    if (us == 0) {
        pthread_cond_wait(&w->wake, &w->lock);
    } else {
        pthread_cond_timedwait(&w->wake, &w->lock, &at);
    }
}

/* One attempt, without the lock. */
static void try_once(struct webhook *w, struct delivery *d, struct attempt *a)
{
    char id[80], stamp[64], signature[120], signed_text[100];
    const char *headers[] = {
        "Content-Type: application/cloudevents+json; charset=utf-8", "Expect:", id, stamp, NULL, NULL};
    struct webhook_call call = {w->url, headers, d->body, &w->stop};
    struct err e = {0};
    uint64_t from = clock_us();

    *a = (struct attempt){.number = d->attempt, .at_ms = clock_wall_ms()};
    memcpy(a->id, d->id, sizeof(a->id));
    memcpy(a->type, d->type, sizeof(a->type));
    snprintf(id, sizeof(id), "webhook-id: %s", d->id);
    snprintf(stamp, sizeof(stamp), "webhook-timestamp: %lld", (long long)(a->at_ms / 1000));
    if (w->key_n > 0) {
        webhook_sign(signed_text, sizeof(signed_text), (struct str){(const char *)w->key, w->key_n}, d->id,
                     a->at_ms / 1000, d->body);
        snprintf(signature, sizeof(signature), "webhook-signature: %s", signed_text);
        headers[4] = signature;
    }
    a->status = w->post(w->post_ctx, &call, &e);
    a->ms = (unsigned)((clock_us() - from) / 1000);
    if (a->status == 0) {
        snprintf(a->error, sizeof(a->error), "%.159s", e.text);
    }
}

static void failed(const struct attempt *a, const char *then, uint64_t in_us)
{
    char status[16];

    snprintf(status, sizeof(status), "%d", a->status);
    log_warn("api",
             "an event was not taken by the webhook, %s event=%s type=%s attempt=%u status=%s error=\"%s\" next_s=%llu",
             then, a->id, a->type, a->number, a->status ? status : "none", a->error,
             (unsigned long long)(in_us / 1000000));
}

/* What follows from an attempt; true: this event is done with. With lock. */
static bool settle(struct webhook *w, struct delivery *d, const struct attempt *a)
{
    uint64_t now = clock_us();

    w->attempts[w->n_attempts++ % WEBHOOK_LOG] = *a;
    if (a->status / 100 == 2) {
        w->delivered++;
        return true;
    }
    if (a->status == 410) {
        w->gone = true;
        forget_all(w);
        failed(a, "it is gone: nothing is sent until the next start", 0);
        return true;
    }
    uint64_t delay = webhook_delay_us(w->retry_us, d->attempt, random_u64());
    if (now + delay - d->first_us > w->give_up_us) {
        w->given_up++;
        failed(a, "it is given up", 0);
        return true;
    }
    d->due_us = now + delay;
    failed(a, "it will be tried again", delay);
    return false;
}

static void *thread_main(void *arg)
{
    struct webhook *w = arg;
    struct delivery *d = NULL;
    struct attempt a;

    prctl(PR_SET_NAME, "weir-webhook");
    pthread_mutex_lock(&w->lock);
    while (!atomic_load(&w->stop)) {
        if (!d && !w->first) {
            wait_until(w, 0);
            continue;
        }
        if (!d) {
            d = take_first(w);
            d->first_us = clock_us();
            w->busy = true;
        }
        if (clock_us() < d->due_us) {
            wait_until(w, d->due_us);
            continue;
        }
        d->attempt++;
        pthread_mutex_unlock(&w->lock);
        try_once(w, d, &a);
        pthread_mutex_lock(&w->lock);
        if (!atomic_load(&w->stop) && settle(w, d, &a)) {
            delivery_free(d);
            d = NULL;
            w->busy = false;
        }
    }
    pthread_mutex_unlock(&w->lock);
    delivery_free(d);
    return NULL;
}

/* ---- life ---- */

static enum err_code read_url(struct webhook *w, const char *url, struct err *e)
{
    size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    size_t host = scheme ? strcspn(url + scheme, "/?#") : 0;

    for (const char *p = url; *p; p++) {
        scheme = (unsigned char)*p <= 0x20 || *p == 0x7f ? 0 : scheme;
    }
    if (scheme == 0 || host == 0) {
        return err_set(e, ERR_INVALID, "events.webhook must be an http:// or https:// URL");
    }
    const char *at = memchr(url + scheme, '@', host), *from = at ? at + 1 : url + scheme;
    w->url = xstrdup(url);
    w->origin = xasprintf("%.*s%.*s", (int)scheme, url, (int)(url + scheme + host - from), from);
    return ERR_OK;
}

static enum err_code read_secret(struct webhook *w, const char *path, struct err *e)
{
    char text[SECRET_MOST] = "";
    FILE *f = fopen(path, "re");

    if (!f) {
        return err_sys(e, ERR_INVALID, "events.secret_file %s can not be read", path);
    }
    if (!fgets(text, sizeof(text), f)) {
        text[0] = '\0';
    }
    fclose(f);
    size_t n = strcspn(text, "\r\n");
    if (n >= 6 && memcmp(text, "whsec_", 6) == 0) {
        size_t pad = 0;
        int decoded = (n - 6) % 4 ? -1 : EVP_DecodeBlock(w->key, (uint8_t *)text + 6, (int)(n - 6));

        while (pad < 2 && n > 6 + pad && text[n - 1 - pad] == '=') {
            pad++; /* DecodeBlock counts the bytes of the padding */
        }
        if (decoded < 0) {
            return err_set(e, ERR_INVALID, "the secret in %s begins with whsec_, but base64 does not follow", path);
        }
        w->key_n = (size_t)decoded - pad;
    } else {
        memcpy(w->key, text, n);
        w->key_n = n;
    }
    if (w->key_n < SECRET_LEAST) {
        return err_set(e, ERR_INVALID,
                       "the secret in %s has %zu bytes; it needs at least %d (openssl rand -hex 32 makes one)", path,
                       w->key_n, SECRET_LEAST);
    }
    return ERR_OK;
}

static void release(struct webhook *w)
{
    forget_all(w);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    curl_client_free(w->curl);
    free(w->url);
    free(w->origin);
    free(w->source);
    OPENSSL_cleanse(w->key, sizeof(w->key));
    free(w);
}

enum err_code webhook_new(struct webhook **out, const struct webhook_spec *spec, struct err *e)
{
    const struct webhook_conf *conf = spec->conf;
    struct webhook *w;
    pthread_condattr_t monotonic;

    *out = NULL;
    if (!conf->url) {
        return conf->secret_file ? err_set(e, ERR_INVALID, "events.secret_file needs events.webhook") : ERR_OK;
    }
    w = xcalloc(1, sizeof(*w));
    w->last = &w->first;
    w->source = xstrdup(spec->source);
    w->retry_us = spec->retry_us ? spec->retry_us : RETRY_US;
    w->give_up_us = spec->give_up_us ? spec->give_up_us : GIVE_UP_US;
    w->curl = curl_client_new();
    w->post = spec->post ? spec->post : curl_client_post;
    w->post_ctx = spec->post ? spec->post_ctx : w->curl;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (read_url(w, conf->url, e) != ERR_OK || (conf->secret_file && read_secret(w, conf->secret_file, e) != ERR_OK)) {
        release(w);
        return e->code;
    }
    int rc = pthread_create(&w->thread, NULL, thread_main, w);
    if (rc != 0) {
        errno = rc;
        err_sys(e, ERR_UNAVAILABLE, "can not start the webhook's thread");
        release(w);
        return e->code;
    }
    *out = w;
    return ERR_OK;
}

void webhook_free(struct webhook *w)
{
    if (!w) {
        return;
    }
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->stop, true);
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    unsigned left = w->n + (w->busy ? 1 : 0);
    if (left > 0) {
        log_warn("api", "the webhook was not told everything undelivered=%u", left);
    }
    release(w);
}

/* ---- what became of it ---- */

static void put_attempt(struct buf *b, const struct attempt *a)
{
    json_comma(b);
    BUF_LIT(b, "{\"event\":");
    json_strz(b, a->id);
    BUF_LIT(b, ",\"type\":");
    json_strz(b, a->type);
    buf_addf(b, ",\"attempt\":%u,\"at\":", a->number);
    json_time(b, a->at_ms);
    if (a->status) {
        buf_addf(b, ",\"status\":%d", a->status);
    } else {
        BUF_LIT(b, ",\"status\":null");
    }
    buf_addf(b, ",\"ms\":%u,\"error\":", a->ms);
    json_strz(b, a->error[0] ? a->error : NULL);
    BUF_LIT(b, "}");
}

void webhook_json(struct buf *out, struct webhook *w)
{
    BUF_LIT(out, "{\"webhook\":");
    if (!w) {
        BUF_LIT(out, "null,\"signed\":false,\"waiting\":0,\"delivered\":0,\"dropped\":0,\"given_up\":0,"
                     "\"stopped\":false,\"deliveries\":[]}");
        return;
    }
    json_strz(out, w->origin);
    buf_addf(out, ",\"signed\":%s", w->key_n > 0 ? "true" : "false");
    pthread_mutex_lock(&w->lock);
    buf_addf(out,
             ",\"waiting\":%u,\"delivered\":%llu,\"dropped\":%llu,\"given_up\":%llu,\"stopped\":%s,\"deliveries\":[",
             w->n + (w->busy ? 1 : 0), (unsigned long long)w->delivered, (unsigned long long)w->dropped,
             (unsigned long long)w->given_up, w->gone ? "true" : "false");
    for (uint64_t i = w->n_attempts; i > 0 && i + WEBHOOK_LOG > w->n_attempts; i--) {
        put_attempt(out, &w->attempts[(i - 1) % WEBHOOK_LOG]);
    }
    pthread_mutex_unlock(&w->lock);
    BUF_LIT(out, "]}");
}
