/* SPDX-License-Identifier: Apache-2.0 */
/* The errand: a thread that may block, so that no other has to. It resolves the far side's name, asks for the model's
 * description until there is one, and then looks after it: whether it is ready, and where it is.
 *
 * What it finds out goes to the control loop as messages, and to the connection threads through targets.
 *
 * Thread: control, and the errand's own where it says so. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "backends/remote/remote_priv.h"
#include "base/clock.h"
#include "base/log.h"

#define ASK_LOAD_US SECONDS(5)
#define ASK_LOOK_US SECONDS(2)
#define PAUSE_US MILLIS(300)
#define METADATA_MAX (4u << 20)

struct news { /* from the errand to control */
    struct task task;
    struct side *side;
    enum side_news what;
    struct model_info info;
    struct err why;
};

static void unref(struct side *s)
{
    if (atomic_fetch_sub(&s->refs, 1) == 1) {
        pthread_cond_destroy(&s->wake);
        pthread_mutex_destroy(&s->lock);
        targets_done(&s->targets);
        free(s->place);
        free(s->model);
        free(s->digest);
        free(s->token_file);
        if (s->dirfd >= 0) {
            close(s->dirfd);
        }
        free(s);
    }
}

/* ---- messages ---- */

static void on_news(struct task *t)
{
    struct news *n = CONTAINER_OF(t, struct news, task);
    struct side *s = n->side;

    if (!s->stopped) { /* only this thread sets it */
        s->on(s->ctx, n->what, &n->info, &n->why);
    }
    model_info_done(&n->info);
    unref(s);
    free(n);
}

/* Errand. Takes what info holds. */
static void tell(struct side *s, enum side_news what, struct model_info *info, const struct err *why)
{
    struct news *n = xcalloc(1, sizeof(*n));

    n->task.fn = on_news;
    n->side = s;
    n->what = what;
    if (info) {
        n->info = *info;
        memset(info, 0, sizeof(*info));
    }
    if (why) {
        n->why = *why;
    }
    atomic_fetch_add(&s->refs, 1);
    pthread_mutex_lock(&s->lock);
    if (s->stopped) { /* the loop may be gone */
        pthread_mutex_unlock(&s->lock);
        model_info_done(&n->info);
        free(n);
        unref(s);
        return;
    }
    loop_post(s->loop, &n->task);
    pthread_mutex_unlock(&s->lock);
}

/* Errand. False: it is to stop. */
static bool rest(struct side *s, uint64_t us, bool alarms)
{
    uint64_t until = clock_us() + us;
    struct timespec at = {(time_t)(until / 1000000), (long)(until % 1000000) * 1000};
    bool go_on;

    pthread_mutex_lock(&s->lock);
    while (!s->stopped && clock_us() < until && !(alarms && atomic_load(&s->alarm))) {
        pthread_cond_timedwait(&s->wake, &s->lock, &at);
    }
    go_on = !s->stopped;
    pthread_mutex_unlock(&s->lock);
    return go_on;
}

void side_alarm(struct side *s)
{
    if (!atomic_exchange(&s->alarm, true)) {
        pthread_mutex_lock(&s->lock);
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- asking: errand ---- */

static bool gives(const struct side *s)
{
    return strcmp(s->url.scheme, "weir") == 0;
}

/* Keeps those of the addresses that hold the version, by the number that jobs name. Without one: why, of the last. */
static enum err_code give_all(struct side *s, struct addr *at, size_t *n, struct err *e)
{
    enum err_code code = ERR_UNAVAILABLE, all = ERR_UNAVAILABLE;
    size_t kept = 0;

    for (size_t i = 0; i < *n; i++) {
        char text[24];
        uint64_t number;

        code = side_give(s, &at[i], &number, &s->hold_us, e);
        if (code != ERR_OK) {
            all = code == ERR_TIMEOUT ? ERR_UNAVAILABLE : code;
            continue;
        }
        snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
        if (s->version[0] == '\0') {
            str_copy(s->version, sizeof(s->version), str_of(text));
        }
        if (strcmp(s->version, text) != 0) { /* jobs are sent to any address under one number */
            all = err_set(e, ERR_UNAVAILABLE, "%s calls the version %s at %s, and %s elsewhere", s->place, text,
                          at[i].text, s->version);
            log_warn("remote", "an address of a far side is left out error=\"%s\"", e->text);
            continue;
        }
        at[kept++] = at[i];
    }
    *n = kept;
    return kept > 0 ? ERR_OK : all;
}

/* Where it is; of a weir://, where it holds the version. On failure the addresses stay what they were. */
static enum err_code look_up(struct side *s, struct addr *out, size_t *n_out, struct err *e)
{
    struct addr at[TARGETS_MAX];
    enum err_code code;
    size_t n;

    code = addr_resolve(at, TARGETS_MAX, &n, s->url.host, s->url.port, e);
    if (code == ERR_OK && gives(s)) {
        code = give_all(s, at, &n, e);
    }
    if (code == ERR_OK) {
        memcpy(out, at, n * sizeof(at[0]));
        *n_out = n;
        targets_set(&s->targets, at, n);
    }
    return code;
}

/* How often that is to be looked at. */
static uint64_t look_up_every(const struct side *s)
{
    return s->hold_us > 0 ? MIN(SIDE_RESOLVE_US, s->hold_us / 3) : SIDE_RESOLVE_US;
}

/* One question to one address. ERR_OK: there is an answer, whatever it says. */
static enum err_code ask(struct side *s, const struct addr *at, const char *tail, uint64_t limit_us,
                         struct http_answer *a, struct err *e)
{
    struct far far = {.authority = s->url.authority, .model = s->model, .version = s->version};
    AUTO(http_client) c = NULL;
    char url[300];
    struct buf path;
    enum err_code code;

    snprintf(url, sizeof(url), "http://%s", s->url.authority);
    if (http_client_new(&c, str_of(url), e) != ERR_OK) {
        return e->code;
    }
    http_client_at(c, at);
    buf_init(&path, 1024);
    far_path(&path, &far, tail);
    code = http_call(c, "GET", buf_z(&path), (struct str){NULL, 0}, NULL, 0, limit_us, a, e);
    buf_done(&path);
    return code;
}

/* ERR_OK: it is there and ready for work. */
static enum err_code ask_ready(struct side *s, const struct addr *at, uint64_t limit_us, struct err *e)
{
    struct http_answer a;
    enum err_code code;

    http_answer_init(&a, METADATA_MAX);
    code = ask(s, at, s->by_metadata ? "" : "/ready", limit_us, &a, e);
    if (code == ERR_OK && !s->by_metadata && (a.status == 404 || a.status == 405 || a.status == 501)) {
        code = ERR_UNIMPLEMENTED;
    } else if (code == ERR_OK && a.status != 200) {
        far_error(&a, s->place, e);
        code = ERR_UNAVAILABLE;
    }
    http_answer_done(&a);
    return code;
}

static enum err_code describe(struct side *s, const struct addr *at, struct model_info *info, struct err *e)
{
    struct http_answer a;
    enum err_code code;

    http_answer_init(&a, METADATA_MAX);
    code = ask(s, at, "", ASK_LOAD_US, &a, e);
    if (code == ERR_OK && a.status == 200) {
        code = far_metadata(info, (struct str){a.body.p, a.body.n}, e);
    } else if (code == ERR_OK) {
        bool wrong = a.status >= 400 && a.status < 500 && a.status != 408 && a.status != 429;

        far_error(&a, s->place, e);
        code = wrong ? ERR_REFUSED : ERR_UNAVAILABLE;
        e->code = code;
    }
    http_answer_done(&a);
    return code;
}

/* ERR_REFUSED and the like: to ask again is of no use. */
static enum err_code try_load(struct side *s, struct model_info *info, struct err *e)
{
    struct addr at[TARGETS_MAX];
    enum err_code code = ERR_UNAVAILABLE;
    size_t n;

    if (look_up(s, at, &n, e) != ERR_OK) {
        return e->code;
    }
    for (size_t i = 0; i < n && code != ERR_OK; i++) {
        code = describe(s, &at[i], info, e);
        if (code != ERR_OK && code != ERR_UNAVAILABLE && code != ERR_TIMEOUT) {
            return code;
        }
        if (code == ERR_OK) {
            code = ask_ready(s, &at[i], ASK_LOAD_US, e);
            if (code == ERR_UNIMPLEMENTED) { /* it knows the model, but no route for that */
                s->by_metadata = true;
                code = ERR_OK;
            }
            if (code != ERR_OK) {
                model_info_done(info);
                memset(info, 0, sizeof(*info));
            }
        }
    }
    return code;
}

static bool load(struct side *s)
{
    uint64_t until = clock_us() + SIDE_LOAD_US;
    struct model_info info = {0};
    enum err_code code;
    struct err e;

    while ((code = try_load(s, &info, &e)) != ERR_OK) {
        if ((code != ERR_UNAVAILABLE && code != ERR_TIMEOUT) || clock_us() >= until) {
            e.code = code == ERR_TIMEOUT ? ERR_UNAVAILABLE : code;
            tell(s, SIDE_FAILED, NULL, &e);
            return false;
        }
        if (!rest(s, PAUSE_US, false)) {
            return false;
        }
    }
    s->loaded = true;
    snprintf(info.runtime, sizeof(info.runtime), "%.60s", s->place);
    tell(s, SIDE_UP, &info, NULL);
    return true;
}

/* ---- looking after it: errand ---- */

struct watch_state {
    struct addr at[TARGETS_MAX];
    size_t n;
    uint64_t resolved_us, alive_us;
    bool silent; /* the last look: somebody took the connection and did not answer */
    struct err why;
};

/* Asks every address. True: one is ready. */
static bool look(struct side *s, struct watch_state *w)
{
    bool alive = false;

    w->silent = false;
    for (size_t i = 0; i < w->n && !alive; i++) {
        enum err_code code = ask_ready(s, &w->at[i], ASK_LOOK_US, &w->why);

        alive = code == ERR_OK;
        w->silent |= code == ERR_TIMEOUT;
    }
    return alive;
}

static void look_after(struct side *s)
{
    struct watch_state w = {.resolved_us = 0, .alive_us = clock_us()};
    struct err e;

    for (;;) {
        uint64_t now = clock_us(), last;
        bool hurry = atomic_exchange(&s->alarm, false);

        if (now >= w.resolved_us + look_up_every(s) ||
            (now > w.alive_us + SIDE_LOOK_US && now > w.resolved_us + SIDE_LOOK_US)) {
            w.resolved_us = now;
            if (look_up(s, w.at, &w.n, &e) != ERR_OK) { /* as it was before */
                log_warn("remote", "a far side can not be found again place=%s error=\"%s\"", s->place, e.text);
            }
        }
        if (hurry || now > atomic_load(&s->answered_us) + SIDE_LOOK_US / 2 || atomic_load(&s->away)) {
            bool alive = look(s, &w);

            w.alive_us = alive ? clock_us() : w.alive_us;
            atomic_store(&s->away, !alive && atomic_load(&s->answered_us) < now);
        }
        last = MAX(w.alive_us, atomic_load(&s->answered_us));
        now = clock_us();
        if (now > last + (w.silent ? SIDE_SILENT_US : SIDE_GONE_US)) {
            err_set(&e, ERR_UNAVAILABLE, "%s has not been ready for %.1f s: %s", s->place, (double)(now - last) / 1e6,
                    w.why.text);
            tell(s, SIDE_DEAD, NULL, &e);
            return;
        }
        if (!rest(s, now > last + SIDE_HURRY_US ? SIDE_HURRY_US : SIDE_LOOK_US, true)) {
            return;
        }
        if (hurry && !rest(s, SIDE_HURRY_US / 4, false)) { /* alarms do not make it run in circles */
            return;
        }
    }
}

static void *errand(void *arg)
{
    struct side *s = arg;

    if (load(s)) {
        look_after(s);
    }
    unref(s);
    return NULL;
}

/* ---- its life: control ---- */

enum err_code side_start(struct side **out, const struct far_place *at, int dirfd, struct loop *loop, side_fn *on,
                         void *ctx, struct err *e)
{
    struct side *s = xcalloc(1, sizeof(*s));
    pthread_condattr_t clock;
    pthread_attr_t attr;
    pthread_t thread;
    int rc;

    s->loop = loop;
    s->on = on;
    s->ctx = ctx;
    s->place = xstrdup(at->url);
    s->model = xstrdup(at->model);
    s->dirfd = -1;
    targets_init(&s->targets);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &clock);
    pthread_condattr_destroy(&clock);
    atomic_init(&s->refs, 1);
    if (url_parse(&s->url, str_of(at->url), 80, e) != ERR_OK) {
        unref(s);
        return e->code;
    }
    if (gives(s)) {
        s->digest = xstrdup(at->digest);
        s->token_file = at->token_file ? xstrdup(at->token_file) : NULL;
        s->dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 3);
    } else if (!str_copy(s->version, sizeof(s->version), str_of(at->version))) {
        unref(s);
        return err_set(e, ERR_INVALID, "the version's name at %s is too long", at->url);
    }
    atomic_fetch_add(&s->refs, 1);
    *out = s; /* before anything can be told */
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    rc = pthread_create(&thread, &attr, errand, s);
    pthread_attr_destroy(&attr);
    if (rc != 0) {
        unref(s);
        unref(s);
        *out = NULL;
        return err_set(e, ERR_UNAVAILABLE, "can not start a thread that looks after %s", at->url);
    }
    return ERR_OK;
}

void side_stop(struct side *s)
{
    if (!s) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    unref(s);
}
