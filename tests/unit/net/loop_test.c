/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: the order of timers, tasks and hooks, what a burst may delete, and messages of many threads at once.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "net/loop.h"

static struct loop *new_loop(void)
{
    struct loop *l;
    struct err e;
    assert_int_equal(loop_new(&l, &e), ERR_OK);
    return l;
}

/* ---- timers ---- */

enum { TIMERS = 500 };
static uint64_t last_at;
static unsigned n_fired;

static void timer_fired(struct timer *t)
{
    assert_true(t->at_us >= last_at);
    assert_int_equal(t->slot, 0);
    last_at = t->at_us;
    n_fired++;
}

static void timers_fire_in_order(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    static struct timer t[TIMERS];
    srand(7);
    last_at = n_fired = 0;
    for (size_t i = 0; i < TIMERS; i++) {
        t[i] = (struct timer){.fn = timer_fired};
        timer_set(l, &t[i], 1 + (uint64_t)(rand() % 1000));
    }
    for (size_t i = 0; i < TIMERS; i += 3) {
        timer_set(l, &t[i], 1 + (uint64_t)(rand() % 1000)); /* moved either way */
    }
    unsigned cleared = 0;
    for (size_t i = 0; i < TIMERS; i += 7, cleared++) {
        timer_clear(l, &t[i]);
        timer_clear(l, &t[i]); /* twice is fine */
    }
    assert_true(loop_once(l, 0));
    assert_int_equal(n_fired, TIMERS - cleared);
    assert_false(loop_once(l, 0));
    loop_free(l);
}

struct again {
    struct timer t;
    struct loop *l;
    unsigned n;
};

static void set_again(struct timer *t)
{
    struct again *a = CONTAINER_OF(t, struct again, t);
    a->n++;
    timer_set(a->l, t, 1);
}

static void a_timer_that_is_always_due_does_not_hold_the_loop(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    struct again a = {.t.fn = set_again, .l = l};
    timer_set(l, &a.t, 1);
    loop_once(l, -1);
    loop_once(l, -1);
    assert_int_equal(a.n, 2);
    timer_clear(l, &a.t);
    loop_free(l);
}

static void a_timer_ends_the_sleep_and_not_early(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    struct timer t = {.fn = timer_fired};
    uint64_t at = clock_us() + 2500;
    last_at = n_fired = 0;
    timer_set(l, &t, at);
    while (n_fired == 0) {
        loop_once(l, -1);
    }
    assert_true(clock_us() >= at);
    assert_true(loop_now(l) >= at);
    loop_free(l);
}

/* ---- hooks and tasks ---- */

static char trace[64];
static struct loop *trace_loop;
static struct hook hook_a, hook_b, hook_c;
static struct task task_a, task_b;

static void note(char ch)
{
    size_t n = strlen(trace);
    assert_true(n + 1 < sizeof trace);
    trace[n] = ch;
    trace[n + 1] = '\0';
}

static void run_hook_a(struct hook *h)
{
    (void)h;
    note('a');
    loop_defer(trace_loop, &hook_c);
}

static void run_hook_b(struct hook *h)
{
    (void)h;
    note('b');
}

static void run_hook_c(struct hook *h)
{
    (void)h;
    note('c');
}

static void run_task_a(struct task *t)
{
    (void)t;
    note('1');
    loop_defer(trace_loop, &hook_a);
    loop_defer(trace_loop, &hook_b);
    loop_defer(trace_loop, &hook_a); /* armed already */
}

static void run_task_b(struct task *t)
{
    (void)t;
    note('2');
}

static void start_trace(struct loop *l)
{
    trace[0] = '\0';
    trace_loop = l;
    hook_a = (struct hook){.fn = run_hook_a};
    hook_b = (struct hook){.fn = run_hook_b};
    hook_c = (struct hook){.fn = run_hook_c};
    task_a = (struct task){.fn = run_task_a};
    task_b = (struct task){.fn = run_task_b};
}

static void tasks_run_in_order_and_hooks_after_them(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    start_trace(l);
    loop_post(l, &task_a);
    loop_post(l, &task_b);
    assert_true(loop_once(l, -1));       /* does not sleep: there are tasks */
    assert_string_equal(trace, "12abc"); /* c was armed by a, in the same burst */
    assert_false(loop_once(l, 0));
    loop_free(l);
}

static void a_hook_can_be_taken_back(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    start_trace(l);
    loop_defer(l, &hook_b);
    loop_defer(l, &hook_c);
    loop_undefer(l, &hook_c); /* the last: what is armed next must still be found */
    loop_undefer(l, &hook_c);
    loop_defer(l, &hook_a);
    loop_undefer(l, &hook_b);
    assert_true(loop_once(l, -1));
    assert_string_equal(trace, "ac");
    loop_free(l);
}

static void freeing_runs_what_was_posted(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    start_trace(l);
    loop_post(l, &task_b);
    loop_free(l);
    assert_string_equal(trace, "2");
}

/* ---- watches ---- */

struct pipe_watch {
    struct watch w;
    struct loop *l;
    struct pipe_watch *other; /* deleted by whoever comes first */
    int fds[2];
    unsigned n;
    uint32_t events;
};

static void pipe_ready(struct watch *w, uint32_t events)
{
    struct pipe_watch *p = CONTAINER_OF(w, struct pipe_watch, w);
    p->n++;
    p->events = events;
    if (p->other != NULL) {
        loop_del(p->l, &p->other->w);
    }
}

static void open_pipe(struct pipe_watch *p, struct loop *l)
{
    struct err e;
    *p = (struct pipe_watch){.w.fn = pipe_ready, .l = l};
    assert_int_equal(pipe2(p->fds, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(loop_add(l, &p->w, p->fds[0], EPOLLIN, &e), ERR_OK);
}

static void close_pipe(struct pipe_watch *p)
{
    loop_del(p->l, &p->w);
    close(p->fds[0]);
    close(p->fds[1]);
}

static void a_deleted_watch_gets_no_pending_event(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    struct pipe_watch a, b;
    open_pipe(&a, l);
    open_pipe(&b, l);
    a.other = &b;
    b.other = &a;
    assert_int_equal(write(a.fds[1], "x", 1), 1);
    assert_int_equal(write(b.fds[1], "x", 1), 1);
    loop_once(l, -1); /* both are ready in this burst; the first deletes the second */
    assert_int_equal(a.n + b.n, 1);
    close_pipe(&a);
    close_pipe(&b);
    loop_free(l);
}

static void watches_are_level_triggered_and_can_be_changed(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    struct pipe_watch a;
    open_pipe(&a, l);
    assert_false(loop_once(l, 0));
    assert_int_equal(write(a.fds[1], "x", 1), 1);
    assert_true(loop_once(l, 0));
    assert_true(loop_once(l, 0));
    assert_int_equal(a.n, 2);
    loop_mod(l, &a.w, 0);
    assert_false(loop_once(l, 0));
    loop_mod(l, &a.w, EPOLLIN);
    assert_true(loop_once(l, 0));
    assert_int_equal(a.events, EPOLLIN);
    loop_mod(l, &a.w, 0);
    close(a.fds[1]); /* hanging up is reported whatever was asked for */
    assert_true(loop_once(l, 0));
    assert_int_equal(a.events, EPOLLHUP);
    loop_del(l, &a.w);
    loop_del(l, &a.w);
    assert_int_equal(a.w.events, 0);
    close(a.fds[0]);
    struct err e;
    assert_int_equal(loop_add(l, &a.w, a.fds[0], EPOLLIN, &e), ERR_INTERNAL); /* a closed descriptor */
    loop_free(l);
}

/* ---- other threads ---- */

enum { SENDERS = 4, EACH = 20000 };

struct numbered {
    struct task t;
    unsigned sender, number;
};

struct sender {
    pthread_t thread;
    struct loop *l;
    struct numbered *tasks;
};

static struct {
    struct loop *l;
    unsigned next[SENDERS], total;
} received;

static void take_numbered(struct task *t)
{
    struct numbered *n = CONTAINER_OF(t, struct numbered, t);
    assert_true(loop_is_mine(received.l));
    assert_int_equal(n->number, received.next[n->sender]);
    received.next[n->sender]++;
    if (++received.total == SENDERS * EACH) {
        loop_stop(received.l);
    }
}

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; i < EACH; i++) {
        loop_post(s->l, &s->tasks[i].t);
        if (i % 512 == 0) {
            sched_yield(); /* lets the loop fall asleep now and then */
        }
    }
    return NULL;
}

static void four_threads_post_and_nothing_is_lost(void **state)
{
    (void)state;
    struct sender s[SENDERS];
    memset(&received, 0, sizeof received);
    received.l = new_loop();
    for (unsigned i = 0; i < SENDERS; i++) {
        s[i].l = received.l;
        s[i].tasks = xcalloc(EACH, sizeof *s[i].tasks);
        for (unsigned k = 0; k < EACH; k++) {
            s[i].tasks[k] = (struct numbered){.t.fn = take_numbered, .sender = i, .number = k};
        }
        assert_int_equal(pthread_create(&s[i].thread, NULL, send_all, &s[i]), 0);
    }
    loop_run(received.l); /* ends by the last task: if a wake-up were lost it would sleep for ever */
    for (unsigned i = 0; i < SENDERS; i++) {
        pthread_join(s[i].thread, NULL);
        assert_int_equal(received.next[i], EACH);
        free(s[i].tasks);
    }
    loop_free(received.l);
}

/* One message at a time, each sent when the last was answered: every round ends a sleep. */
struct ping {
    struct task t;
    struct loop *to;
    struct ping *answer;
    unsigned *rounds;
};

static void on_ping(struct task *t)
{
    struct ping *p = CONTAINER_OF(t, struct ping, t);
    if (p->rounds != NULL && ++*p->rounds == 2000) {
        loop_stop(p->answer->to);
        loop_stop(p->to);
        return;
    }
    loop_post(p->answer->to, &p->answer->t);
}

static void *run_loop(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void two_loops_wake_each_other(void **state)
{
    (void)state;
    struct loop *a = new_loop(), *b = new_loop();
    unsigned rounds = 0;
    struct ping at_a = {.t.fn = on_ping, .to = a, .rounds = &rounds},
                at_b = {.t.fn = on_ping, .to = b, .answer = &at_a};
    at_a.answer = &at_b;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_loop, b), 0);
    loop_post(a, &at_a.t);
    loop_run(a);
    pthread_join(thread, NULL);
    assert_int_equal(rounds, 2000);
    loop_free(a);
    loop_free(b);
}

static void *stop_loop(void *arg)
{
    loop_stop(arg);
    return NULL;
}

static void any_thread_can_stop_a_loop(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    for (int i = 0; i < 200; i++) { /* before, while and after it falls asleep */
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, stop_loop, l), 0);
        loop_run(l);
        pthread_join(thread, NULL);
    }
    loop_free(l);
}

/* ---- sleep ---- */

static char sleeps[64];

struct light {
    struct sleeper s;
    struct loop *l;
    char name;
    bool may;
    struct light *drops; /* takes this one out when called */
};

static bool on_sleep(struct sleeper *s, bool asleep)
{
    struct light *t = CONTAINER_OF(s, struct light, s);
    size_t n = strlen(sleeps);
    sleeps[n] = t->name;
    sleeps[n + 1] = asleep ? 's' : 'w';
    sleeps[n + 2] = '\0';
    if (t->drops != NULL) {
        sleeper_del(t->l, &t->drops->s);
    }
    return t->may;
}

static void who_forbids_the_sleep_is_polled(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    struct light a = {.s.fn = on_sleep, .l = l, .name = 'a'}, b = {.s.fn = on_sleep, .l = l, .name = 'b', .may = true};
    sleeps[0] = '\0';
    sleeper_add(l, &a.s);
    sleeper_add(l, &b.s);
    sleeper_add(l, &a.s);           /* once is enough */
    assert_false(loop_once(l, -1)); /* would not return otherwise */
    assert_string_equal(sleeps, "asbsawbw");
    a.may = true;
    a.drops = &b; /* the next of the walk */
    struct timer t = {.fn = timer_fired};
    last_at = 0;
    sleeps[0] = '\0';
    timer_set(l, &t, clock_us() + 300);
    while (!loop_once(l, -1)) {
    }
    assert_string_equal(sleeps, "asaw");
    sleeper_del(l, &b.s);
    b.drops = &b; /* itself */
    a.drops = NULL;
    sleeper_add(l, &b.s);
    sleeps[0] = '\0';
    loop_once(l, 0);
    assert_string_equal(sleeps, "asbsaw");
    sleeper_del(l, &a.s);
    loop_free(l);
}

struct dropper {
    struct sleeper s;
    struct pipe_watch *p;
};

static bool drop_watch(struct sleeper *s, bool asleep)
{
    struct dropper *d = CONTAINER_OF(s, struct dropper, s);
    if (!asleep) {
        loop_del(d->p->l, &d->p->w);
    }
    return true;
}

static void a_watch_deleted_on_waking_gets_no_event(void **state)
{
    (void)state;
    struct loop *l = new_loop();
    struct pipe_watch a, b;
    open_pipe(&a, l);
    open_pipe(&b, l);
    assert_int_equal(write(a.fds[1], "x", 1), 1);
    loop_once(l, 0);
    assert_int_equal(a.n, 1);
    assert_int_equal(write(b.fds[1], "x", 1), 1);
    struct dropper d = {.s.fn = drop_watch, .p = &b};
    sleeper_add(l, &d.s);
    loop_once(l, 0);
    assert_int_equal(a.n, 2);
    assert_int_equal(b.n, 0);
    sleeper_del(l, &d.s);
    close_pipe(&a);
    close_pipe(&b);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order),
        cmocka_unit_test(a_timer_that_is_always_due_does_not_hold_the_loop),
        cmocka_unit_test(a_timer_ends_the_sleep_and_not_early),
        cmocka_unit_test(tasks_run_in_order_and_hooks_after_them),
        cmocka_unit_test(a_hook_can_be_taken_back),
        cmocka_unit_test(freeing_runs_what_was_posted),
        cmocka_unit_test(a_deleted_watch_gets_no_pending_event),
        cmocka_unit_test(watches_are_level_triggered_and_can_be_changed),
        cmocka_unit_test(four_threads_post_and_nothing_is_lost),
        cmocka_unit_test(two_loops_wake_each_other),
        cmocka_unit_test(any_thread_can_stop_a_loop),
        cmocka_unit_test(who_forbids_the_sleep_is_polled),
        cmocka_unit_test(a_watch_deleted_on_waking_gets_no_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
