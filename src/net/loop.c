/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: epoll for descriptors, a binary heap for timers, a lock-free stack for messages of other threads.
 *
 * Messages are pushed onto one atomic list head and taken all at once, turned round so that a sender's order is kept.
 * The eventfd that ends the sleep is edge-triggered, so nobody has to read it empty; it is written only when the loop
 * said that it may be asleep. Both sides use sequentially consistent operations: either the loop sees the task before
 * it sleeps, or the sender sees that the loop may sleep.
 *
 * Thread: see loop.h. There is nothing global here, so that a worker process can have loops of its own. */
#define _GNU_SOURCE
#include "net/loop.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define BURST 256 /* events taken at once */

struct loop {
    int ep, wake_fd;
    struct epoll_event ev[BURST]; /* of this burst; data.ptr is a watch, NULL where it was deleted */
    int n_ev, i_ev;
    uint64_t now;
    struct timer **heap; /* from 1 on, the soonest first */
    size_t n_timers, heap_cap;
    struct hook *hooks, **hooks_end;
    struct sleeper sleepers;                   /* the head of a ring */
    struct sleeper *next_sleeper;              /* of the walk in progress, so that the current one may go */
    bool no_pwait2;                            /* an old kernel: waits are rounded up to milliseconds */
    _Atomic(unsigned long) owner;              /* the thread in loop_run; 0: none yet */
    _Alignas(64) _Atomic(struct task *) tasks; /* newest first; on a line of its own, other threads write it */
    _Atomic bool may_sleep;
    _Atomic bool stop;
};

/* ---- timers ---- */

static void heap_place(struct loop *l, size_t i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i;
}

static void heap_up(struct loop *l, size_t i, struct timer *t)
{
    while (i > 1 && l->heap[i / 2]->at_us > t->at_us) {
        heap_place(l, i, l->heap[i / 2]);
        i /= 2;
    }
    heap_place(l, i, t);
}

static void heap_down(struct loop *l, size_t i, struct timer *t)
{
    for (;;) {
        size_t kid = 2 * i;
        if (kid > l->n_timers) {
            break;
        }
        if (kid < l->n_timers && l->heap[kid + 1]->at_us < l->heap[kid]->at_us) {
            kid++;
        }
        if (l->heap[kid]->at_us >= t->at_us) {
            break;
        }
        heap_place(l, i, l->heap[kid]);
        i = kid;
    }
    heap_place(l, i, t);
}

static void heap_settle(struct loop *l, size_t i, struct timer *t)
{
    if (i > 1 && l->heap[i / 2]->at_us > t->at_us) {
        heap_up(l, i, t);
    } else {
        heap_down(l, i, t);
    }
}

void timer_set(struct loop *l, struct timer *t, uint64_t at_us)
{
    t->at_us = at_us;
    if (t->slot != 0) {
        assert(t->slot <= l->n_timers && l->heap[t->slot] == t);
        heap_settle(l, t->slot, t);
        return;
    }
    if (l->n_timers + 1 >= l->heap_cap) {
        l->heap_cap = l->heap_cap ? 2 * l->heap_cap : 64;
        l->heap = xrealloc(l->heap, l->heap_cap * sizeof *l->heap);
    }
    heap_up(l, ++l->n_timers, t);
}

void timer_clear(struct loop *l, struct timer *t)
{
    size_t i = t->slot;
    if (i == 0) {
        return;
    }
    assert(i <= l->n_timers && l->heap[i] == t);
    struct timer *last = l->heap[l->n_timers--];
    t->slot = 0;
    if (last != t) {
        heap_settle(l, i, last);
    }
}

static bool run_timers(struct loop *l)
{
    bool ran = false;
    /* At most as many as were set when we began, so that a timer that sets itself anew can not hold the loop. */
    for (size_t left = l->n_timers; left > 0 && l->n_timers > 0 && l->heap[1]->at_us <= l->now; left--) {
        struct timer *t = l->heap[1];
        timer_clear(l, t);
        t->fn(t);
        ran = true;
    }
    return ran;
}

/* ---- tasks and hooks ---- */

static void wake(struct loop *l)
{
    if (atomic_load(&l->may_sleep) && atomic_exchange(&l->may_sleep, false)) {
        uint64_t one = 1;
        ssize_t n = write(l->wake_fd, &one, sizeof one);
        (void)n; /* a full counter (EAGAIN) has woken the loop long ago */
    }
}

void loop_post(struct loop *l, struct task *t)
{
    struct task *head = atomic_load_explicit(&l->tasks, memory_order_relaxed);
    do {
        t->next = head;
    } while (!atomic_compare_exchange_weak(&l->tasks, &head, t));
    wake(l);
}

static bool run_tasks(struct loop *l)
{
    if (atomic_load_explicit(&l->tasks, memory_order_relaxed) == NULL) {
        return false;
    }
    struct task *t = atomic_exchange(&l->tasks, NULL), *first = NULL;
    while (t != NULL) {
        struct task *older = t->next;
        t->next = first;
        first = t;
        t = older;
    }
    while (first != NULL) {
        t = first;
        first = t->next; /* before the call: from then on the task is fn's */
        t->fn(t);
    }
    return true;
}

void loop_defer(struct loop *l, struct hook *h)
{
    if (h->armed) {
        return;
    }
    h->armed = true;
    h->next = NULL;
    *l->hooks_end = h;
    l->hooks_end = &h->next;
}

void loop_undefer(struct loop *l, struct hook *h)
{
    if (!h->armed) {
        return;
    }
    struct hook **at = &l->hooks;
    while (*at != h) {
        assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = h->next;
    if (l->hooks_end == &h->next) {
        l->hooks_end = at;
    }
    h->armed = false;
}

static bool run_hooks(struct loop *l)
{
    bool ran = false;
    struct hook *h;
    while ((h = l->hooks) != NULL) {
        l->hooks = h->next;
        if (l->hooks == NULL) {
            l->hooks_end = &l->hooks;
        }
        h->armed = false;
        h->fn(h);
        ran = true;
    }
    return ran;
}

/* ---- sleepers ---- */

void sleeper_add(struct loop *l, struct sleeper *s)
{
    if (s->next != NULL) {
        return;
    }
    s->prev = l->sleepers.prev;
    s->next = &l->sleepers;
    s->prev->next = s;
    l->sleepers.prev = s;
}

void sleeper_del(struct loop *l, struct sleeper *s)
{
    if (s->next == NULL) {
        return;
    }
    if (l->next_sleeper == s) {
        l->next_sleeper = s->next;
    }
    s->prev->next = s->next;
    s->next->prev = s->prev;
    s->next = s->prev = NULL;
}

static bool run_sleepers(struct loop *l, bool asleep)
{
    bool all = true;
    for (struct sleeper *s = l->sleepers.next; s != &l->sleepers; s = l->next_sleeper) {
        l->next_sleeper = s->next;
        all &= s->fn(s, asleep);
    }
    return all;
}

/* ---- descriptors ---- */

enum err_code loop_add(struct loop *l, struct watch *w, int fd, uint32_t events, struct err *e)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(l->ep, EPOLL_CTL_ADD, fd, &ev) != 0) {
        return err_sys(e, ERR_INTERNAL, "the event loop can not watch descriptor %d", fd);
    }
    w->fd = fd;
    w->events = events | EPOLLERR; /* never 0 while added: errors are always reported */
    return ERR_OK;
}

void loop_mod(struct loop *l, struct watch *w, uint32_t events)
{
    assert(w->events != 0);
    if (w->events == (events | EPOLLERR)) {
        return;
    }
    struct epoll_event ev = {.events = events, .data.ptr = w};
    int rc = epoll_ctl(l->ep, EPOLL_CTL_MOD, w->fd, &ev);
    assert(rc == 0); /* an added descriptor that is still open can always be modified */
    (void)rc;
    w->events = events | EPOLLERR;
}

void loop_del(struct loop *l, struct watch *w)
{
    if (w->events == 0) {
        return;
    }
    epoll_ctl(l->ep, EPOLL_CTL_DEL, w->fd, NULL);
    w->events = 0;
    for (int i = l->i_ev; i < l->n_ev; i++) {
        if (l->ev[i].data.ptr == w) {
            l->ev[i].data.ptr = NULL;
        }
    }
}

static int wait_events(struct loop *l, int64_t us)
{
    if (us > 0 && !l->no_pwait2) {
        struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
        int n = epoll_pwait2(l->ep, l->ev, BURST, &ts, NULL);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return n;
        }
        l->no_pwait2 = true;
    }
    int64_t ms = us <= 0 ? us : (us + 999) / 1000;
    return epoll_wait(l->ep, l->ev, BURST, (int)MIN(ms, INT_MAX));
}

/* How long the loop may sleep, in microseconds; -1: until something happens. */
static int64_t sleep_us(struct loop *l, int timeout_ms)
{
    int64_t us = timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000;
    if (us != 0 && l->n_timers > 0) {
        uint64_t now = clock_us(), at = l->heap[1]->at_us;
        int64_t left = at <= now ? 0 : (int64_t)MIN(at - now, (uint64_t)INT_MAX * 1000);
        us = us < 0 ? left : MIN(us, left);
    }
    return us;
}

bool loop_once(struct loop *l, int timeout_ms)
{
    bool ran = false;
    bool may = run_sleepers(l, true); /* first: it may set timers and arm hooks */
    int64_t us = !may || l->hooks != NULL ? 0 : sleep_us(l, timeout_ms);
    if (us != 0) {
        atomic_store(&l->may_sleep, true);
        if (atomic_load(&l->tasks) != NULL || atomic_load(&l->stop)) {
            us = 0;
        }
    }
    int n = wait_events(l, us);
    atomic_store_explicit(&l->may_sleep, false, memory_order_relaxed);
    l->now = clock_us();
    l->n_ev = n > 0 ? n : 0; /* n < 0: interrupted by a signal */
    l->i_ev = 0;
    run_sleepers(l, false);
    while (l->i_ev < l->n_ev) {
        struct epoll_event *ev = &l->ev[l->i_ev++];
        struct watch *w = ev->data.ptr;
        if (w != NULL) {
            w->fn(w, ev->events);
            ran = true;
        }
    }
    l->n_ev = 0;
    ran |= run_timers(l);
    ran |= run_tasks(l);
    ran |= run_hooks(l);
    return ran;
}

/* ---- life ---- */

enum err_code loop_new(struct loop **out, struct err *e)
{
    struct loop *l = aligned_alloc(64, ALIGN_UP(sizeof *l, 64));
    if (l == NULL) {
        return err_set(e, ERR_INTERNAL, "no memory for an event loop");
    }
    memset(l, 0, sizeof *l);
    l->hooks_end = &l->hooks;
    l->sleepers.next = l->sleepers.prev = &l->sleepers;
    l->now = clock_us();
    l->wake_fd = -1;
    l->ep = epoll_create1(EPOLL_CLOEXEC);
    if (l->ep < 0) {
        err_sys(e, ERR_INTERNAL, "the kernel gives no epoll descriptor");
        goto fail;
    }
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (l->wake_fd < 0 || epoll_ctl(l->ep, EPOLL_CTL_ADD, l->wake_fd, &ev) != 0) {
        err_sys(e, ERR_INTERNAL, "the kernel gives no event descriptor");
        goto fail;
    }
    *out = l;
    return ERR_OK;
fail:
    loop_free(l);
    return ERR_INTERNAL;
}

void loop_free(struct loop *l)
{
    if (l == NULL) {
        return;
    }
    atomic_store(&l->owner, 0);
    while (run_tasks(l)) { /* a task may post another */
    }
    if (l->wake_fd >= 0) {
        close(l->wake_fd);
    }
    if (l->ep >= 0) {
        close(l->ep);
    }
    for (size_t i = 1; i <= l->n_timers; i++) {
        l->heap[i]->slot = 0;
    }
    free(l->heap);
    free(l);
}

void loop_run(struct loop *l)
{
    atomic_store(&l->owner, (unsigned long)pthread_self());
    while (!atomic_load(&l->stop)) {
        loop_once(l, -1);
    }
    atomic_store(&l->stop, false); /* so that it can be run again */
    atomic_store(&l->owner, 0);
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stop, true);
    wake(l);
}

uint64_t loop_now(const struct loop *l)
{
    return l->now;
}

bool loop_is_mine(const struct loop *l)
{
    unsigned long owner = atomic_load_explicit(&l->owner, memory_order_relaxed);
    return owner == 0 || owner == (unsigned long)pthread_self();
}
