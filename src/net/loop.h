/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: one epoll instance, owned by one thread.
 *
 * A burst is what one epoll_wait brought: ready file descriptors, due timers, posted tasks. When the burst's handlers
 * have run, the hooks that were armed run once (that is where work that arrived together is sent off together), then
 * the loop sleeps again. Handlers never block.
 *
 * Thread: every call by the loop's own thread, but loop_post and loop_stop, which any thread may call. Before loop_run
 * a loop belongs to whoever created it. Nothing here is freed behind its owner's back: watches, timers, tasks and hooks
 * are embedded in their owners, who take them out before they die (also from inside a handler of the same burst). */
#ifndef WEIR_NET_LOOP_H
#define WEIR_NET_LOOP_H

#include "base/base.h"
#include "base/err.h"

struct loop;

struct watch {
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT; level-triggered; 0 only while not added (EPOLLERR is
                      * always in) */
    void (*fn)(struct watch *w, uint32_t events); /* events: what is ready, EPOLLERR and EPOLLHUP included */
};

struct timer {
    uint64_t at_us; /* when, on clock_us(); private */
    size_t slot;    /* 0: not set; private */
    void (*fn)(struct timer *t);
};

/* A message to a loop: belongs to the loop from loop_post until fn is called, then to fn. */
struct task {
    struct task *next;
    void (*fn)(struct task *t);
};

struct hook {
    struct hook *next;
    bool armed;
    void (*fn)(struct hook *h);
};

struct sleeper {
    struct sleeper *next, *prev; /* NULL: not added */
    bool (*fn)(struct sleeper *s, bool asleep);
};

/* *out is the caller's; ERR_INTERNAL when the kernel refuses descriptors. */
enum err_code loop_new(struct loop **out, struct err *e) MUST_USE;
void loop_free(struct loop *l); /* runs the tasks that are still posted; NULL is fine */
/* Runs until loop_stop; the calling thread becomes the loop's thread. */
void loop_run(struct loop *l);
/* One burst, waiting at most timeout_ms (-1: as long as it takes; 0: not at all): for tests and for drains. True if
 * something ran. */
bool loop_once(struct loop *l, int timeout_ms);
void loop_stop(struct loop *l); /* any thread, any signal-free context; the current burst is finished */

enum err_code loop_add(struct loop *l, struct watch *w, int fd, uint32_t events, struct err *e) MUST_USE;
void loop_mod(struct loop *l, struct watch *w, uint32_t events);
void loop_del(struct loop *l, struct watch *w); /* fine if not added; a pending event of this burst is dropped */

void timer_set(struct loop *l, struct timer *t, uint64_t at_us); /* set or move */
void timer_clear(struct loop *l, struct timer *t);

/* Any thread. Tasks of one sender run in its order. Wakes the loop only if it may sleep. */
void loop_post(struct loop *l, struct task *t);
/* Runs h->fn once at the end of this burst. A hook armed from a hook runs in the same burst. */
void loop_defer(struct loop *l, struct hook *h);
void loop_undefer(struct loop *l, struct hook *h); /* disarms; fine if not armed: for owners that die in between */
/* Called before the loop sleeps and after it woke (asleep = true, false), for as long as it is added: quiescent states,
 * arming doorbells. If a call with `true` returns false there is something to do: the loop polls without sleeping.
 * Neither call may block; each may add and take out sleepers. */
void sleeper_add(struct loop *l, struct sleeper *s);
void sleeper_del(struct loop *l, struct sleeper *s); /* fine if not added */

uint64_t loop_now(const struct loop *l); /* clock_us() of this burst's start: cheap */
bool loop_is_mine(const struct loop *l); /* for asserts */

#endif
