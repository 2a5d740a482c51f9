/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that nobody waits for: their memory, their tickets, and who has finished.
 *
 * A job owns a copy of its request and flies with the place (place.h). Its end comes on a thread of the place: there it
 * is only put behind the finished ones and told. The answer is read by whoever takes it. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/weir_priv.h"

#define BUCKETS 1024 /* of tickets, which are counted up */

struct job {
    struct flight flight;
    struct later *later;
    struct buf path, headers;
    struct iovec body; /* one piece: a copy of all */
    void *ctx;
    bool finished;
    struct job *in_bucket;   /* the next one there */
    struct job *prev, *next; /* of the finished ones */
};

struct later {
    struct weir *w;
    pthread_mutex_t lock;
    pthread_cond_t news;
    int fd; /* -1: nobody asked for it */
    struct job *bucket[BUCKETS];
    struct job *first, *last; /* finished, in that order */
    uint64_t last_ticket;
    unsigned open;
    uint64_t bytes; /* of all open ones */
};

struct later *later_new(struct weir *w)
{
    struct later *l = xcalloc(1, sizeof *l);
    pthread_condattr_t attr;
    l->w = w;
    l->fd = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->news, &attr);
    pthread_condattr_destroy(&attr);
    return l;
}

static void job_free(struct job *j)
{
    http_answer_done(&j->flight.answer);
    buf_done(&j->path);
    buf_done(&j->headers);
    free(j->body.iov_base);
    free(j);
}

void later_free(struct later *l)
{
    if (!l) {
        return;
    }
    for (size_t i = 0; i < BUCKETS; i++) {
        while (l->bucket[i]) {
            struct job *j = l->bucket[i];
            l->bucket[i] = j->in_bucket;
            job_free(j);
        }
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    pthread_cond_destroy(&l->news);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- under the lock ---- */

static struct job **find(struct later *l, uint64_t ticket)
{
    struct job **at = &l->bucket[ticket % BUCKETS];
    while (*at && (*at)->flight.id != ticket) {
        at = &(*at)->in_bucket;
    }
    return at;
}

static void fd_set_to(struct later *l, bool readable)
{
    uint64_t n = 1;
    if (l->fd >= 0) {
        ssize_t rc = readable ? write(l->fd, &n, sizeof n) : read(l->fd, &n, sizeof n);
        (void)rc; /* it never blocks and never fails: its count is 0 or 1 */
    }
}

static void finish(struct later *l, struct job *j)
{
    j->finished = true;
    j->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = j;
    l->last = j;
    if (l->first == j) {
        fd_set_to(l, true);
    }
    pthread_cond_broadcast(&l->news);
}

static void forget(struct later *l, struct job *j)
{
    *find(l, j->flight.id) = j->in_bucket;
    l->open--;
    l->bytes -= j->body.iov_len;
    if (j->finished) {
        *(j->prev ? &j->prev->next : &l->first) = j->next;
        *(j->next ? &j->next->prev : &l->last) = j->prev;
        if (!l->first) {
            fd_set_to(l, false);
        }
    }
    pthread_cond_broadcast(&l->news); /* who waits for this one, or for any, may wait for nothing now */
}

/* ---- submitting ---- */

static void on_done(struct flight *f)
{
    struct job *j = CONTAINER_OF(f, struct job, flight);
    struct later *l = j->later;
    pthread_mutex_lock(&l->lock);
    finish(l, j);
    pthread_mutex_unlock(&l->lock);
}

/* One block of the request's pieces. */
static enum err_code copy_body(struct job *j, const struct ask *q, struct err *e)
{
    uint64_t size = 0;
    for (int i = 0; i < q->n; i++) {
        if (!ck_add(size, q->v[i].iov_len, &size) || size > WEIR_OPEN_BYTES) {
            return err_set(e, ERR_TOO_LARGE, "the inputs have more than %" PRIu64 " bytes", WEIR_OPEN_BYTES);
        }
    }
    char *to = malloc(size + 1);
    if (!to) {
        return err_set(e, ERR_TOO_LARGE, "no memory for a copy of %" PRIu64 " bytes of inputs", size);
    }
    j->body = (struct iovec){to, size};
    for (int i = 0; i < q->n; i++) {
        if (q->v[i].iov_len > 0) {
            memcpy(to, q->v[i].iov_base, q->v[i].iov_len);
            to += q->v[i].iov_len;
        }
    }
    return ERR_OK;
}

static enum err_code job_make(struct job *j, const char *model, const struct weir_tensor *in, size_t n,
                              const struct weir_call *call, struct err *e)
{
    struct ask q;
    http_answer_init(&j->flight.answer, REPLY_MAX);
    enum err_code rc = ask_make(&q, model, in, n, call, e);
    rc = rc == ERR_OK ? copy_body(j, &q, e) : rc;
    j->path = q.path;
    j->headers = q.headers;
    buf_init(&q.path, 0);
    buf_init(&q.headers, 0);
    ask_done(&q);
    return rc;
}

/* Takes the job in; it has its ticket then. */
static enum err_code enter(struct later *l, struct job *j, struct err *e)
{
    enum err_code rc = ERR_OK;
    pthread_mutex_lock(&l->lock);
    if (l->open >= WEIR_OPEN_MAX || j->body.iov_len > WEIR_OPEN_BYTES - l->bytes) {
        rc = err_set(e, ERR_QUOTA,
                     "%u calls with %" PRIu64 " bytes of inputs are open on this handle: take the finished ones first",
                     l->open, l->bytes);
    } else {
        j->flight.id = ++l->last_ticket;
        struct job **at = find(l, j->flight.id);
        j->in_bucket = *at;
        *at = j;
        l->open++;
        l->bytes += j->body.iov_len;
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

static enum err_code submit(struct weir *w, struct job *j, const struct weir_call *call, uint64_t *ticket,
                            struct err *e)
{
    struct later *l = w->later;
    struct flight *f = &j->flight;
    j->later = l;
    f->call = (struct place_call){.side = SIDE_DATA,
                                  .method = "POST",
                                  .path = j->path.p,
                                  .headers = buf_str(&j->headers),
                                  .body = &j->body,
                                  .n_body = 1,
                                  .timeout_us = call->timeout_us};
    f->deadline_us = call->timeout_us ? clock_us() + call->timeout_us : 0;
    f->done = on_done;
    enum err_code rc = enter(l, j, e);
    if (rc != ERR_OK) {
        return rc;
    }
    *ticket = f->id; /* before it may be taken by somebody else */
    rc = w->place->ops->start(w->place, f, e);
    if (rc != ERR_OK) {
        pthread_mutex_lock(&l->lock);
        forget(l, j);
        pthread_mutex_unlock(&l->lock);
    }
    return rc;
}

enum weir_code weir_submit(struct weir *w, const char *model, const struct weir_tensor *inputs, size_t n_inputs,
                           const struct weir_call *call, void *ctx, uint64_t *ticket, struct weir_error *e)
{
    struct err err = {0};
    struct weir_call own = WEIR_CALL_INIT;
    uint64_t given = 0;
    if (ask_take(&own, sizeof own, call, "call", "WEIR_CALL_INIT", &err) != ERR_OK) {
        return weir_give(e, &err);
    }
    struct job *j = xcalloc(1, sizeof *j);
    j->ctx = ctx;
    enum err_code rc = job_make(j, model, inputs, n_inputs, &own, &err);
    rc = rc == ERR_OK ? submit(w, j, &own, &given, &err) : rc;
    if (rc != ERR_OK) {
        job_free(j);
        return weir_give(e, &err);
    }
    *ticket = given;
    return WEIR_OK;
}

/* ---- taking ---- */

static void hand_over(struct job *j, struct weir_done *out)
{
    struct weir_done own = {.size = out->size, .ticket = j->flight.id, .ctx = j->ctx};
    struct err *err = &j->flight.err;
    struct weir_result *r = NULL;
    if (err->code == ERR_OK) {
        r = xcalloc(1, sizeof *r);
        err->code = result_make(r, &j->flight.answer, err);
    }
    if (err->code != ERR_OK) {
        weir_result_free(r);
        r = NULL;
        memcpy(&own.error, err, sizeof own.error);
    }
    own.code = (enum weir_code)err->code;
    own.result = r;
    memcpy(out, &own, MIN(out->size, sizeof own));
    job_free(j);
}

/* The job to be taken now, or NULL: *none says that there is nothing to wait for. */
static struct job *ready(struct later *l, uint64_t ticket, bool *none)
{
    struct job *j = ticket ? *find(l, ticket) : l->first;
    *none = ticket ? !j : l->open == 0;
    return j && j->finished ? j : NULL;
}

static void wait_news(struct later *l, uint64_t until)
{
    if (until == UINT64_MAX) {
        pthread_cond_wait(&l->news, &l->lock);
    } else {
        struct timespec at = {.tv_sec = (time_t)(until / 1000000), .tv_nsec = (long)(until % 1000000) * 1000};
        pthread_cond_timedwait(&l->news, &l->lock, &at);
    }
}

int weir_wait(struct weir *w, uint64_t ticket, uint64_t limit_us, struct weir_done *out)
{
    struct later *l = w->later;
    uint64_t until = 0;
    bool none;
    if (limit_us > 0 && !ck_add(clock_us(), limit_us, &until)) {
        until = UINT64_MAX;
    }
    pthread_mutex_lock(&l->lock);
    struct job *j = ready(l, ticket, &none);
    while (!j && !none && limit_us > 0 && (until == UINT64_MAX || clock_us() < until)) {
        wait_news(l, until);
        j = ready(l, ticket, &none);
    }
    if (j) {
        forget(l, j);
    }
    pthread_mutex_unlock(&l->lock);
    if (!j) {
        return none ? -1 : 0;
    }
    hand_over(j, out);
    return 1;
}

int weir_poll(struct weir *w, struct weir_done *out)
{
    return weir_wait(w, 0, 0, out);
}

int weir_take(struct weir *w, uint64_t ticket, struct weir_done *out)
{
    return ticket ? weir_wait(w, ticket, 0, out) : -1;
}

void weir_cancel(struct weir *w, uint64_t ticket)
{
    struct later *l = w->later;
    pthread_mutex_lock(&l->lock);
    struct job *j = *find(l, ticket);
    bool flies = j && !j->finished;
    pthread_mutex_unlock(&l->lock);
    if (flies) {
        w->place->ops->cancel(w->place, ticket);
    }
}

int weir_fd(struct weir *w, struct weir_error *e)
{
    struct later *l = w->later;
    struct err err = {0};
    pthread_mutex_lock(&l->lock);
    if (l->fd < 0) {
        l->fd = eventfd(l->first ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    int fd = l->fd;
    if (fd < 0) {
        err_sys(&err, ERR_UNAVAILABLE, "no descriptor to wait with");
    }
    pthread_mutex_unlock(&l->lock);
    if (fd < 0) {
        weir_give(e, &err);
    }
    return fd;
}
