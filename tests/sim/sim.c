/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual clock and the loops of sim.h.
 *
 * Every call of net/loop.h is here, with the real one's order inside of a burst (timers, tasks, hooks); descriptors
 * there are none. Which loop's turn it is: the one that is due first, or any of those that are due by now. */
#include "sim/sim.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

#define LOOPS_MAX 128
#define NOTES 64
#define NEVER UINT64_MAX
#define START_US SECONDS(1000)

struct loop {
    struct timer **heap; /* from 1 on, the soonest first */
    size_t n_timers, heap_cap;
    struct task *first, **last;
    struct hook *hooks, **hooks_end;
    uint64_t now, free_at, lag; /* the next burst begins at the earliest at free_at, and `lag` after it is due */
    uint64_t posted_at;         /* of the first task; NEVER: none */
    bool stop, buried;
};

struct note {
    const char *fmt;
    uint64_t at, arg[4];
};

static struct {
    const char *scenario;
    uint64_t seed, rng[2], now, hash, n_notes;
    struct loop *loops[LOOPS_MAX];
    unsigned n_loops;
    struct loop *mine; /* whose burst it is; NULL: nobody's */
    struct note notes[NOTES];
    char why[512];
    bool talks; /* SIM_LOG: tells as it goes */
} sim;

/* ---- chance: xorshift128+, seeded by splitmix64 ---- */

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = (*x += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_u64(void)
{
    uint64_t a = sim.rng[0], b = sim.rng[1];

    sim.rng[0] = b;
    a ^= a << 23;
    sim.rng[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
    return sim.rng[1] + b;
}

uint64_t sim_between(uint64_t least, uint64_t most)
{
    return least + sim_u64() % (most - least + 1);
}

double sim_unit(void)
{
    return (double)(sim_u64() >> 11) * 0x1p-53;
}

bool sim_chance(double p)
{
    return sim_unit() < p;
}

uint64_t sim_exponential(double mean)
{
    double t = -log(1 - sim_unit()) * mean;

    return t < 1 ? 1 : (uint64_t)t;
}

/* The house's own chance (the restarts' jitter): wrapped by the linker. */
uint64_t __wrap_random_u64(void);
uint64_t __wrap_random_u64(void)
{
    return sim_u64();
}

/* ---- the story ---- */

static void tell_note(const struct note *n)
{
    fprintf(stderr, "# %9llu ", (unsigned long long)(n->at - START_US));
    /* The formats are literals of these tests. */
    fprintf(stderr, n->fmt, (unsigned long long)n->arg[0], (unsigned long long)n->arg[1], (unsigned long long)n->arg[2],
            (unsigned long long)n->arg[3]);
    fputc('\n', stderr);
}

void sim_note(const char *fmt, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    struct note *n = &sim.notes[sim.n_notes++ % NOTES];
    uint64_t all[5] = {sim.now, a, b, c, d};

    *n = (struct note){fmt, sim.now, {a, b, c, d}};
    for (unsigned i = 0; i < COUNT_OF(all); i++) {
        sim.hash = (sim.hash ^ all[i]) * 0x100000001b3u;
        sim.hash ^= sim.hash >> 29;
    }
    if (sim.talks) {
        tell_note(n);
    }
}

uint64_t sim_hash(void)
{
    return sim.hash;
}

static void tell(void)
{
    uint64_t from = sim.n_notes > NOTES ? sim.n_notes - NOTES : 0;

    if (!sim.scenario) {
        return;
    }
    fprintf(stderr, "# the last events, in microseconds from the start:\n");
    for (uint64_t i = from; i < sim.n_notes; i++) {
        tell_note(&sim.notes[i % NOTES]);
    }
    fprintf(stderr, "# scenario %s, seed %llu: %s\n# again with: SIM_SEED=%llu <this program> %s\n", sim.scenario,
            (unsigned long long)sim.seed, sim.why[0] ? sim.why : "it died", (unsigned long long)sim.seed, sim.scenario);
}

void sim_fail(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(sim.why, sizeof(sim.why), fmt, ap);
    va_end(ap);
    abort();
}

static void on_signal(int sig)
{
    signal(sig, SIG_DFL);
    tell();
    raise(sig);
}

void __sanitizer_set_death_callback(void (*fn)(void)) __attribute__((weak));

/* ---- life ---- */

void sim_begin(const char *scenario, uint64_t seed)
{
    uint64_t x = seed;

    assert(sim.n_loops == 0);
    sim.scenario = scenario;
    sim.seed = seed;
    sim.rng[0] = splitmix(&x);
    sim.rng[1] = splitmix(&x) | 1;
    sim.now = START_US;
    sim.hash = 0xcbf29ce484222325u;
    sim.n_notes = 0;
    sim.why[0] = '\0';
    sim.talks = getenv("SIM_LOG") != NULL;
    signal(SIGABRT, on_signal);
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(tell);
    } else {
        signal(SIGSEGV, on_signal);
    }
}

void sim_end(void)
{
    SIM_CHECK(sim.n_loops == 0, "%u loops are left", sim.n_loops);
    sim.scenario = NULL;
    signal(SIGABRT, SIG_DFL);
}

/* ---- turns ---- */

static uint64_t due(const struct loop *l)
{
    uint64_t at = l->posted_at;

    if (l->n_timers > 0) {
        at = MIN(at, l->heap[1]->at_us);
    }
    if (l->hooks) {
        at = MIN(at, l->now);
    }
    return at == NEVER ? NEVER : MAX(at, l->free_at) + l->lag;
}

static bool run_timers(struct loop *l)
{
    bool ran = false;

    for (size_t left = l->n_timers; left > 0 && l->n_timers > 0 && l->heap[1]->at_us <= l->now; left--) {
        struct timer *t = l->heap[1];

        timer_clear(l, t);
        t->fn(t);
        ran = true;
    }
    return ran;
}

static bool run_tasks(struct loop *l)
{
    struct task *t = l->first, *next;

    if (!t) {
        return false;
    }
    l->first = NULL;
    l->last = &l->first;
    l->posted_at = NEVER;
    for (; t; t = next) {
        next = t->next;
        t->fn(t);
    }
    return true;
}

static bool run_hooks(struct loop *l)
{
    struct hook *h;
    bool ran = false;

    while ((h = l->hooks) != NULL) {
        l->hooks = h->next;
        if (!l->hooks) {
            l->hooks_end = &l->hooks;
        }
        h->armed = false;
        h->fn(h);
        ran = true;
    }
    return ran;
}

static bool burst(struct loop *l)
{
    bool ran;

    l->now = sim.now;
    sim.mine = l;
    ran = run_timers(l);
    ran |= run_tasks(l);
    ran |= run_hooks(l);
    sim.mine = NULL;
    l->free_at = sim.now + sim_u64() % SIM_LAG_US / 2;
    l->lag = sim_chance(0.002) ? sim_u64() % SIM_STALL_US : sim_u64() % SIM_LAG_US;
    if (l->buried) {
        loop_free(l);
    }
    return ran;
}

void sim_bury(struct loop *l)
{
    l->buried = true;
}

bool sim_step(void)
{
    uint64_t least = NEVER, at[LOOPS_MAX];
    unsigned n = 0, which;

    for (unsigned i = 0; i < sim.n_loops; i++) {
        at[i] = due(sim.loops[i]);
        least = MIN(least, at[i]);
    }
    if (least == NEVER) {
        return false;
    }
    sim.now = MAX(sim.now, least);
    for (unsigned i = 0; i < sim.n_loops; i++) {
        n += at[i] <= sim.now;
    }
    which = n > 1 ? (unsigned)(sim_u64() % n) : 0;
    for (unsigned i = 0; i < sim.n_loops; i++) {
        if (at[i] <= sim.now && which-- == 0) {
            burst(sim.loops[i]);
            break;
        }
    }
    return true;
}

void sim_until(uint64_t at_us)
{
    for (;;) {
        uint64_t least = NEVER;

        for (unsigned i = 0; i < sim.n_loops; i++) {
            least = MIN(least, due(sim.loops[i]));
        }
        if (least > at_us) {
            sim.now = MAX(sim.now, at_us);
            return;
        }
        sim_step();
    }
}

/* ---- base/clock.h ---- */

uint64_t clock_us(void)
{
    return sim.now;
}

uint64_t clock_ns(void)
{
    return sim.now * 1000;
}

int64_t clock_wall_ms(void)
{
    return (int64_t)(sim.now / 1000);
}

void clock_text(char out[CLOCK_TEXT], int64_t wall_ms)
{
    snprintf(out, CLOCK_TEXT, "%lld", (long long)wall_ms);
}

/* ---- base/log.h: for who asks ---- */

bool log_wants(enum log_level level)
{
    return level >= LOG_WARN;
}

void log_line(enum log_level level, const char *room, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (level >= LOG_WARN && sim.talks) {
        va_start(ap, fmt);
        vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        fprintf(stderr, "# %9llu %s: %s\n", (unsigned long long)(sim.now - START_US), room, text);
    }
}

/* ---- net/loop.h ---- */

enum err_code loop_new(struct loop **out, struct err *e)
{
    struct loop *l = xcalloc(1, sizeof(*l));

    (void)e;
    assert(sim.n_loops < LOOPS_MAX);
    l->last = &l->first;
    l->hooks_end = &l->hooks;
    l->posted_at = NEVER;
    l->now = sim.now;
    sim.loops[sim.n_loops++] = l;
    *out = l;
    return ERR_OK;
}

/* Stricter than the real one: who frees a loop has taken everything out of it. */
void loop_free(struct loop *l)
{
    unsigned i = 0;

    if (!l) {
        return;
    }
    SIM_CHECK(l->n_timers == 0 && !l->first && !l->hooks, "a loop is freed that is still in use");
    while (sim.loops[i] != l) {
        i++;
    }
    memmove(&sim.loops[i], &sim.loops[i + 1], (sim.n_loops - i - 1) * sizeof(sim.loops[0]));
    sim.n_loops--;
    free(l->heap);
    free(l);
}

void loop_run(struct loop *l)
{
    for (l->stop = false; !l->stop && sim_step();) {
    }
}

bool loop_once(struct loop *l, int timeout_ms)
{
    (void)timeout_ms;
    return burst(l);
}

void loop_stop(struct loop *l)
{
    l->stop = true;
}

enum err_code loop_add(struct loop *l, struct watch *w, int fd, uint32_t events, struct err *e)
{
    (void)l, (void)w, (void)events;
    return err_set(e, ERR_INTERNAL, "there are no descriptors here, %d neither", fd);
}

void loop_mod(struct loop *l, struct watch *w, uint32_t events)
{
    (void)l, (void)w, (void)events;
}

void loop_del(struct loop *l, struct watch *w)
{
    (void)l, (void)w;
}

static void heap_place(struct loop *l, size_t i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i;
}

static void heap_settle(struct loop *l, size_t i, struct timer *t)
{
    for (; i > 1 && l->heap[i / 2]->at_us > t->at_us; i /= 2) {
        heap_place(l, i, l->heap[i / 2]);
    }
    for (size_t kid; (kid = 2 * i) <= l->n_timers; i = kid) {
        kid += kid < l->n_timers && l->heap[kid + 1]->at_us < l->heap[kid]->at_us;
        if (l->heap[kid]->at_us >= t->at_us) {
            break;
        }
        heap_place(l, i, l->heap[kid]);
    }
    heap_place(l, i, t);
}

static void check_mine(const struct loop *l)
{
    SIM_CHECK(!sim.mine || sim.mine == l, "a thread uses the loop of another");
}

void timer_set(struct loop *l, struct timer *t, uint64_t at_us)
{
    check_mine(l);
    t->at_us = at_us;
    if (t->slot != 0) {
        heap_settle(l, t->slot, t);
        return;
    }
    if (l->n_timers + 1 >= l->heap_cap) {
        l->heap_cap = l->heap_cap ? 2 * l->heap_cap : 64;
        l->heap = xrealloc(l->heap, l->heap_cap * sizeof(*l->heap));
    }
    heap_settle(l, ++l->n_timers, t);
}

void timer_clear(struct loop *l, struct timer *t)
{
    struct timer *last;
    size_t i = t->slot;

    check_mine(l);
    if (i == 0) {
        return;
    }
    assert(i <= l->n_timers && l->heap[i] == t);
    last = l->heap[l->n_timers--];
    t->slot = 0;
    if (last != t) {
        heap_settle(l, i, last);
    }
}

void loop_post(struct loop *l, struct task *t)
{
    t->next = NULL;
    *l->last = t;
    l->last = &t->next;
    l->posted_at = MIN(l->posted_at, sim.now);
}

void loop_defer(struct loop *l, struct hook *h)
{
    check_mine(l);
    if (!h->armed) {
        h->armed = true;
        h->next = NULL;
        *l->hooks_end = h;
        l->hooks_end = &h->next;
    }
}

void loop_undefer(struct loop *l, struct hook *h)
{
    struct hook **at = &l->hooks;

    check_mine(l);
    if (!h->armed) {
        return;
    }
    while (*at != h) {
        assert(*at);
        at = &(*at)->next;
    }
    *at = h->next;
    if (l->hooks_end == &h->next) {
        l->hooks_end = at;
    }
    h->armed = false;
}

/* Nothing that is simulated sleeps on a doorbell. */
void sleeper_add(struct loop *l, struct sleeper *s)
{
    (void)l, (void)s;
    sim_fail("nothing here should sleep on a doorbell");
}

void sleeper_del(struct loop *l, struct sleeper *s)
{
    (void)l, (void)s;
}

uint64_t loop_now(const struct loop *l)
{
    return l->now;
}

bool loop_is_mine(const struct loop *l)
{
    return !sim.mine || sim.mine == l;
}
