/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing among a far side's addresses; see target.h. */
#include "backends/remote/target.h"

#include <limits.h>

#define LATENCY_FIRST_US 1000 /* before the first answer */

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define STORE(field, v) atomic_store_explicit(&(field), (v), memory_order_relaxed)

void targets_init(struct targets *t)
{
    memset(t, 0, sizeof(*t));
    pthread_mutex_init(&t->lock, NULL);
}

void targets_done(struct targets *t)
{
    pthread_mutex_destroy(&t->lock);
}

static bool same_addr(const struct addr *a, const struct addr *b)
{
    return a->len == b->len && memcmp(&a->sa, &b->sa, a->len) == 0;
}

static struct target *target_of(struct targets *t, const struct addr *a)
{
    for (unsigned i = 0; i < TARGETS_MAX; i++) {
        if (LOAD(t->target[i].gen) > 0 && same_addr(&t->target[i].addr, a)) {
            return &t->target[i];
        }
    }
    for (unsigned i = 0; i < TARGETS_MAX; i++) {
        struct target *at = &t->target[i];

        if (!LOAD(at->listed) && LOAD(at->open) == 0) {
            at->addr = *a;
            STORE(at->failures, 0);
            STORE(at->ejections, 0);
            STORE(at->latency_us, 0);
            STORE(at->out_until_us, 0);
            atomic_fetch_add(&at->gen, 1);
            return at;
        }
    }
    return NULL;
}

void targets_set(struct targets *t, const struct addr *addr, size_t n)
{
    struct target *now[TARGETS_MAX];
    bool keep[TARGETS_MAX] = {false};

    n = MIN(n, (size_t)TARGETS_MAX);
    pthread_mutex_lock(&t->lock);
    for (unsigned i = 0; i < TARGETS_MAX; i++) { /* first, so that those that go make room */
        for (size_t k = 0; k < n; k++) {
            keep[i] |= LOAD(t->target[i].gen) > 0 && same_addr(&t->target[i].addr, &addr[k]);
        }
        if (!keep[i]) {
            STORE(t->target[i].listed, false);
        }
    }
    for (size_t k = 0; k < n; k++) {
        now[k] = target_of(t, &addr[k]);
        if (now[k]) {
            STORE(now[k]->listed, true);
        }
    }
    pthread_mutex_unlock(&t->lock);
}

bool targets_addr(struct targets *t, unsigned i, uint32_t gen, struct addr *out)
{
    bool same;

    pthread_mutex_lock(&t->lock);
    same = LOAD(t->target[i].gen) == gen;
    *out = t->target[i].addr;
    pthread_mutex_unlock(&t->lock);
    return same;
}

static uint64_t cost(const struct target *t)
{
    uint64_t latency = LOAD(t->latency_us);

    return (LOAD(t->open) + 1ull) * (latency ? latency : LATENCY_FIRST_US);
}

bool targets_pick(struct targets *t, unsigned not, uint64_t now_us, uint64_t chance, struct target_pick *out, bool *up)
{
    unsigned all[TARGETS_MAX], in[TARGETS_MAX], n_all = 0, n_in = 0, n, a, b;
    const unsigned *from;

    for (unsigned i = 0; i < TARGETS_MAX; i++) {
        if (!LOAD(t->target[i].listed)) {
            continue;
        }
        all[n_all++] = i;
        if (LOAD(t->target[i].out_until_us) <= now_us && i != not) {
            in[n_in++] = i;
        }
    }
    if (n_in == 0 && not!= UINT_MAX && n_all > 0 && LOAD(t->target[not% TARGETS_MAX].listed) &&
        LOAD(t->target[not% TARGETS_MAX].out_until_us) <= now_us) {
        in[n_in++] = not; /* the only one that is up */
    }
    if (n_all == 0) {
        return false;
    }
    *up = n_in > 0;
    from = n_in > 0 ? in : all;
    n = n_in > 0 ? n_in : n_all;
    a = from[(chance & 0xffff) % n];
    b = from[(chance >> 16 & 0xffff) % n];
    out->index = cost(&t->target[b]) < cost(&t->target[a]) ? b : a;
    out->gen = LOAD(t->target[out->index].gen);
    return true;
}

unsigned targets_listed(const struct targets *t, uint64_t now_us, unsigned *up)
{
    unsigned n = 0;

    *up = 0;
    for (unsigned i = 0; i < TARGETS_MAX; i++) {
        if (LOAD(t->target[i].listed)) {
            n++;
            *up += LOAD(t->target[i].out_until_us) <= now_us;
        }
    }
    return n;
}

void target_begin(struct targets *t, struct target_pick p)
{
    atomic_fetch_add_explicit(&t->target[p.index].open, 1, memory_order_relaxed);
}

void target_end(struct targets *t, struct target_pick p, enum target_end end, uint64_t took_us, uint64_t now_us)
{
    struct target *at = &t->target[p.index];
    uint64_t was, n;

    atomic_fetch_sub_explicit(&at->open, 1, memory_order_relaxed);
    if (LOAD(at->gen) != p.gen || end == TARGET_LEFT) {
        return;
    }
    if (end == TARGET_ANSWERED) { /* of two writers one may lose its sample */
        was = LOAD(at->latency_us);
        STORE(at->latency_us, MAX(was == 0 ? took_us : was - was / 8 + took_us / 8, 1u));
        STORE(at->failures, 0);
        STORE(at->ejections, 0);
        STORE(at->out_until_us, 0);
        return;
    }
    n = atomic_fetch_add_explicit(&at->failures, 1, memory_order_relaxed) + 1;
    if ((end == TARGET_REFUSED || n >= TARGET_FAILURES) && LOAD(at->out_until_us) <= now_us) {
        uint64_t times = atomic_fetch_add_explicit(&at->ejections, 1, memory_order_relaxed);

        STORE(at->out_until_us, now_us + MIN(TARGET_OUT_US << MIN(times, 5u), TARGET_OUT_MAX_US));
    }
}

void retry_budget_init(struct retry_budget *b)
{
    b->hundredths = BUDGET_MOST;
}

void retry_budget_earn(struct retry_budget *b)
{
    b->hundredths = MIN(b->hundredths + BUDGET_EARN, BUDGET_MOST);
}

bool retry_budget_take(struct retry_budget *b)
{
    if (b->hundredths < 100) {
        return false;
    }
    b->hundredths -= 100;
    return true;
}
