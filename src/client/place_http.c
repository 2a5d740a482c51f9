/* SPDX-License-Identifier: Apache-2.0 */
/* A server at an address, or a private one: every call that waits takes one of the idle connections, or makes one, and
 * works on it alone; at most POOL idle ones are kept. Calls that nobody waits for go with the courier, whose thread is
 * started for the first of them; a private server has it from the beginning, for its keeper.
 *
 * A call that met a private server which is not there, and of which no byte was sent, waits for the next one. */
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "client/keeper.h"

#define POOL 16
#define SPAWN_US SECONDS(60)
#define RESTART_US SECONDS(30) /* how long a call without a limit waits for a private server that ended */
#define NOTICE_US SECONDS(2)   /* for its end to be noticed */

struct pool {  /* connections to one listener */
    char *url; /* NULL: not known */
    struct http_client *idle[POOL];
    int n_idle;
};

struct server {
    struct place base;
    struct spawn *spawn; /* NULL: somebody else's server, as is the keeper */
    struct keeper *keeper;
    pthread_mutex_t lock;
    struct courier *courier; /* NULL: no flight yet; from here on under lock */
    struct pool pool[2];     /* by side */
};

static struct server *server_of(struct place *p)
{
    return CONTAINER_OF(p, struct server, base);
}

static void pool_clear(struct pool *p)
{
    for (int i = 0; i < p->n_idle; i++) {
        http_client_free(p->idle[i]);
    }
    p->n_idle = 0;
    free(p->url);
    p->url = NULL;
}

static enum err_code connection_take(struct server *s, enum side side, struct http_client **c, struct err *e)
{
    struct pool *p = &s->pool[side];
    enum err_code rc = ERR_OK;
    pthread_mutex_lock(&s->lock);
    *c = p->n_idle > 0 ? p->idle[--p->n_idle] : NULL;
    if (!*c) {
        rc = http_client_new(c, str_of(p->url), e);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void connection_give(struct server *s, enum side side, struct http_client *c)
{
    struct pool *p = &s->pool[side];
    pthread_mutex_lock(&s->lock);
    if (p->n_idle < POOL) {
        p->idle[p->n_idle++] = c;
        c = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    http_client_free(c);
}

static enum err_code call_once(struct server *s, const struct place_call *q, uint64_t timeout_us, struct http_answer *a,
                               bool *unsent, struct err *e)
{
    struct http_client *c = NULL;
    enum err_code rc = connection_take(s, q->side, &c, e);
    if (rc != ERR_OK) {
        return rc;
    }
    rc = q->source ? http_call_stream(c, q->method, q->path, q->headers, q->source, timeout_us, a, e)
                   : http_call(c, q->method, q->path, q->headers, q->body, q->n_body, timeout_us, a, e);
    *unsent = http_client_unsent(c);
    connection_give(s, q->side, c);
    return rc;
}

/* To a private server: when it is not there, with the next one. */
static enum err_code call_kept(struct server *s, const struct place_call *q, struct http_answer *a, struct err *e)
{
    uint64_t now = clock_us(), until = now + (q->timeout_us ? q->timeout_us : RESTART_US), count = 0;
    enum err_code rc;
    for (;;) {
        bool unsent = false;
        rc = keeper_wait(s->keeper, count, now + NOTICE_US, until, e);
        now = clock_us();
        if (rc != ERR_OK) {
            return q->timeout_us && now >= until ? (e->code = ERR_TIMEOUT) : rc;
        }
        count = keeper_count(s->keeper);
        rc = call_once(s, q, q->timeout_us ? MAX(until, now + 1) - now : 0, a, &unsent, e);
        if (rc != ERR_UNAVAILABLE || !unsent || q->source) {
            return rc;
        }
        now = clock_us();
    }
}

static enum err_code server_call(struct place *place, const struct place_call *q, struct http_answer *a, struct err *e)
{
    struct server *s = server_of(place);
    bool unsent;
    return s->keeper ? call_kept(s, q, a, e) : call_once(s, q, q->timeout_us, a, &unsent, e);
}

static enum err_code courier_of(struct server *s, struct courier **out, struct err *e)
{
    enum err_code rc = ERR_OK;
    pthread_mutex_lock(&s->lock);
    if (!s->courier) {
        rc = courier_new(&s->courier, s->pool[SIDE_DATA].url, e);
    }
    *out = s->courier;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static enum err_code server_start(struct place *place, struct flight *f, struct err *e)
{
    struct courier *c;
    enum err_code rc = courier_of(server_of(place), &c, e);
    if (rc == ERR_OK) {
        courier_start(c, f);
    }
    return rc;
}

static void server_cancel(struct place *place, uint64_t id)
{
    struct courier *c;
    if (courier_of(server_of(place), &c, NULL) == ERR_OK) {
        courier_cancel(c, id);
    }
}

static void server_close(struct place *place)
{
    struct server *s = server_of(place);
    courier_free(s->courier);
    keeper_free(s->keeper);
    pool_clear(&s->pool[SIDE_DATA]);
    pool_clear(&s->pool[SIDE_ADMIN]);
    spawn_close(s->spawn);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const struct place_ops server_ops = {
    .call = server_call, .start = server_start, .cancel = server_cancel, .close = server_close};

static struct server *server_new(void)
{
    struct server *s = xcalloc(1, sizeof *s);
    s->base.ops = &server_ops;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

/* Another Weir's data plane: HTTP, on the port it has by itself. */
static char *plain_url(const char *url)
{
    if (strncmp(url, "weir://", 7) != 0) {
        return xstrdup(url);
    }
    const char *host = url + 7, *close = *host == '[' ? strchr(host, ']') : NULL;
    bool port = strchr(close ? close : host, ':') != NULL;
    return xasprintf("http://%s%s", host, port || !*host ? "" : ":8000");
}

enum err_code place_http_open(struct place **out, const char *url, struct err *e)
{
    struct server *s = server_new();
    struct pool *p = &s->pool[SIDE_DATA];
    p->url = plain_url(url);
    enum err_code rc = http_client_new(&p->idle[0], str_of(p->url), e);
    if (rc != ERR_OK) {
        server_close(&s->base);
        return rc;
    }
    p->n_idle = 1;
    *out = &s->base;
    return ERR_OK;
}

enum err_code place_spawn_open(struct place **out, const char *config, struct err *e)
{
    struct server *s = server_new();
    enum err_code rc = spawn_open(&s->spawn, config, SPAWN_US, e);
    if (rc != ERR_OK) {
        server_close(&s->base);
        return rc;
    }
    s->pool[SIDE_DATA].url = xstrdup(spawn_url(s->spawn));
    s->pool[SIDE_ADMIN].url = xstrdup(spawn_admin(s->spawn));
    rc = courier_new(&s->courier, s->pool[SIDE_DATA].url, e);
    if (rc != ERR_OK) {
        server_close(&s->base);
        return rc;
    }
    s->keeper = keeper_new(s->courier, s->spawn);
    *out = &s->base;
    return ERR_OK;
}
