/* SPDX-License-Identifier: Apache-2.0 */
/* Tallies: raw events by stratum and arm, counted by thread, added up by readers; and the users that were seen.
 *
 * A stratum that made room is told from its successor by a generation: it is part of what tally_stratum gives, each
 * part's counters say of which generation they are, and their writer clears them at the first request of a newer one.
 * Nothing is ever counted for an older one, and readers leave out what is not of the present one. */
#include "control/tally.h"

#include <sys/mman.h>

#include "base/hash.h"
#include "base/sketch.h"

#define USERS (1u << 20)
#define USERS_MOST (USERS / 8 * 7) /* beyond it probing would become long */
/* A slot of the users' table: the lower 57 bits of the key, and below them which kinds of bad it was counted for (bit
 * METRIC_…) and that it was seen at all; 0 is a free slot. */
#define FLAG_BITS 7
#define FLAG_SEEN (1u << METRIC_COUNT)
_Static_assert(METRIC_COUNT < FLAG_BITS, "a flag each, and one for being seen");

#define NO_GENERATION UINT32_MAX

/* What one part counted of one stratum. answered and labelled before all before bad, written in this order and read in
 * the opposite one: so that no reader sees more bad answers than answers. */
struct cell {
    _Alignas(64) _Atomic uint32_t generation;
    _Atomic uint64_t answered[JUDGE_ARMS], exposed[JUDGE_ARMS], labelled[JUDGE_ARMS];
    _Atomic uint64_t all[METRIC_COUNT][JUDGE_ARMS], bad[METRIC_COUNT][JUDGE_ARMS];
    _Atomic uint64_t open[JUDGE_SLOW]; /* at the last scan */
};
struct values { /* as judge_values; square and y: a double's bits */
    _Atomic uint64_t count, weight2, square;
    _Atomic uint64_t n[STATS_GROUPS], y[STATS_GROUPS];
};
struct part {
    _Alignas(64) struct tally_mark *open; /* newest first; the owner's alone */
    _Atomic uint64_t n_open;
    struct cell cell[JUDGE_STRATA];
    struct values values[JUDGE_VALUES][JUDGE_ARMS];
};
struct tally {
    size_t bytes;
    uint64_t id;
    unsigned parts;
    _Atomic uint64_t *users;
    _Atomic uint64_t slow_ns[2], wait_ns;
    _Alignas(64) _Atomic uint64_t n_users;
    _Alignas(64) _Atomic uint32_t n;
    _Atomic uint64_t stratum[JUDGE_STRATA]; /* generation << 32 | share_bp */
    struct judge_counts base;               /* of generation 0 */
    struct part part[];
};

static void *map(size_t bytes)
{
    /* Mapped, not allocated: what nobody uses takes no memory, and what was used goes back to the system. */
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

struct tally *tally_new(unsigned parts, const struct judge_counts *base)
{
    size_t bytes = sizeof(struct tally) + parts * sizeof(struct part);
    struct tally *t = map(bytes);

    if (!t) {
        return NULL;
    }
    t->bytes = bytes;
    t->id = random_u64() | 1;
    t->parts = parts;
    t->users = map(USERS * sizeof(*t->users));
    if (!t->users) {
        munmap(t, bytes);
        return NULL;
    }
    if (base) {
        t->base = *base;
        t->base.n = MIN(base->n, (size_t)JUDGE_STRATA);
        for (size_t i = 0; i < t->base.n; i++) {
            atomic_init(&t->stratum[i], base->stratum[i].share_bp);
        }
        atomic_init(&t->n, (uint32_t)t->base.n);
        tally_freeze(t, base->slow_ns[0], base->slow_ns[1], base->wait_ns);
    }
    return t;
}

void tally_free(struct tally *t)
{
    if (t) {
        munmap(t->users, USERS * sizeof(*t->users));
        munmap(t, t->bytes);
    }
}

bool tally_idle(const struct tally *t)
{
    for (unsigned i = 0; i < t->parts; i++) {
        if (atomic_load_explicit(&t->part[i].n_open, memory_order_acquire) > 0) {
            return false;
        }
    }
    return true;
}

uint64_t tally_id(const struct tally *t)
{
    return t->id;
}

/* ---- reading ---- */

static uint64_t get(const _Atomic uint64_t *c)
{
    return atomic_load_explicit(c, memory_order_acquire);
}

static void cell_read(const struct cell *c, struct judge_stratum *out)
{
    for (unsigned m = 0; m < METRIC_COUNT; m++) {
        for (unsigned a = 0; a < JUDGE_ARMS; a++) {
            out->bad[m][a] = get(&c->bad[m][a]);
            out->all[m][a] = get(&c->all[m][a]);
        }
    }
    for (unsigned a = 0; a < JUDGE_ARMS; a++) {
        out->answered[a] = get(&c->answered[a]);
        out->exposed[a] = get(&c->exposed[a]);
        out->labelled[a] = get(&c->labelled[a]);
    }
    for (unsigned k = 0; k < JUDGE_SLOW; k++) {
        out->open[k] = get(&c->open[k]);
    }
}

static void stratum_add(struct judge_stratum *to, const struct judge_stratum *s)
{
    for (unsigned a = 0; a < JUDGE_ARMS; a++) {
        to->answered[a] += s->answered[a];
        to->exposed[a] += s->exposed[a];
        to->labelled[a] += s->labelled[a];
        for (unsigned m = 0; m < METRIC_COUNT; m++) {
            to->bad[m][a] += s->bad[m][a];
            to->all[m][a] += s->all[m][a];
        }
    }
    for (unsigned k = 0; k < JUDGE_SLOW; k++) {
        to->open[k] += s->open[k];
    }
}

static void stratum_sum(const struct tally *t, unsigned i, struct judge_stratum *out)
{
    uint64_t now = get(&t->stratum[i]);
    uint32_t generation = (uint32_t)(now >> 32);

    *out = (struct judge_stratum){0};
    if (generation == 0 && i < t->base.n) {
        *out = t->base.stratum[i];
    }
    out->share_bp = (uint32_t)now;
    for (unsigned k = 0; k < t->parts; k++) {
        const struct cell *c = &t->part[k].cell[i];
        struct judge_stratum s;

        if (atomic_load_explicit(&c->generation, memory_order_acquire) != generation) {
            continue;
        }
        cell_read(c, &s);
        /* Cleared meanwhile: then the stratum has made room while we looked. */
        if (atomic_load_explicit(&c->generation, memory_order_relaxed) == generation) {
            stratum_add(out, &s);
        }
    }
}

static double get_double(const _Atomic uint64_t *bits)
{
    uint64_t b = get(bits);
    double v;

    memcpy(&v, &b, sizeof(v));
    return v;
}

static void values_add(struct judge_values *to, const struct values *v)
{
    uint64_t count = get(&v->count);

    if (count == 0) {
        return;
    }
    to->count += count;
    to->weight2 += get(&v->weight2);
    to->square += get_double(&v->square);
    for (unsigned g = 0; g < STATS_GROUPS; g++) {
        to->n[g] += get(&v->n[g]);
        to->y[g] += get_double(&v->y[g]);
    }
}

void tally_sum(const struct tally *t, struct judge_counts *out)
{
    *out = (struct judge_counts){.n = atomic_load_explicit(&t->n, memory_order_acquire)};
    for (unsigned i = 0; i < out->n; i++) {
        stratum_sum(t, i, &out->stratum[i]);
    }
    memcpy(out->values, t->base.values, sizeof(out->values));
    for (unsigned i = 0; i < t->parts; i++) {
        for (unsigned k = 0; k < JUDGE_VALUES; k++) {
            values_add(&out->values[k][JUDGE_STABLE], &t->part[i].values[k][JUDGE_STABLE]);
            values_add(&out->values[k][JUDGE_CANARY], &t->part[i].values[k][JUDGE_CANARY]);
        }
    }
    out->slow_ns[0] = get(&t->slow_ns[0]);
    out->slow_ns[1] = out->slow_ns[0] ? get(&t->slow_ns[1]) : 0;
    out->wait_ns = out->slow_ns[0] ? get(&t->wait_ns) : 0;
}

bool tally_full(const struct tally *t)
{
    return counter_get(&t->n_users) >= USERS_MOST;
}

bool tally_frozen(const struct tally *t)
{
    return counter_get(&t->slow_ns[0]) != 0;
}

/* ---- the control thread ---- */

static unsigned stratum_name(unsigned i, uint64_t word)
{
    return (unsigned)(word >> 32) * JUDGE_STRATA + i;
}

unsigned tally_stratum(struct tally *t, uint32_t share_bp)
{
    uint32_t n = atomic_load_explicit(&t->n, memory_order_relaxed), at = n;
    uint64_t fewest = UINT64_MAX, word;

    for (uint32_t i = 0; i < n; i++) {
        word = counter_get(&t->stratum[i]);
        if ((uint32_t)word == share_bp) {
            return stratum_name(i, word);
        }
    }
    if (n < JUDGE_STRATA) {
        atomic_store_explicit(&t->stratum[n], share_bp, memory_order_relaxed);
        atomic_store_explicit(&t->n, n + 1, memory_order_release);
        return stratum_name(n, share_bp);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct judge_stratum s;

        stratum_sum(t, i, &s);
        if (s.answered[JUDGE_CANARY] < fewest) {
            fewest = s.answered[JUDGE_CANARY];
            at = i;
        }
    }
    word = ((counter_get(&t->stratum[at]) >> 32) + 1) << 32 | share_bp;
    atomic_store_explicit(&t->stratum[at], word, memory_order_release);
    return stratum_name(at, word);
}

void tally_freeze(struct tally *t, uint64_t p95_ns, uint64_t p99_ns, uint64_t wait_ns)
{
    if (!tally_frozen(t)) {
        atomic_store_explicit(&t->wait_ns, wait_ns, memory_order_relaxed);
        atomic_store_explicit(&t->slow_ns[1], p99_ns, memory_order_relaxed);
        atomic_store_explicit(&t->slow_ns[0], p95_ns, memory_order_release);
    }
}

/* ---- the users ---- */

static _Atomic uint64_t *user_home(struct tally *t, uint64_t key, uint64_t i)
{
    return &t->users[((key * 0x9e3779b97f4a7c15ull >> 44) + i) % USERS];
}

/* True the first time that this user is seen; false also where there is no more room for new ones. */
static bool user_admit(struct tally *t, uint64_t key)
{
    uint64_t name = key << FLAG_BITS;

    for (uint64_t i = 0; i < USERS; i++) {
        _Atomic uint64_t *slot = user_home(t, key, i);
        uint64_t has = atomic_load_explicit(slot, memory_order_relaxed);

        if (has == 0) {
            if (tally_full(t)) {
                return false;
            }
            if (atomic_compare_exchange_strong_explicit(slot, &has, name | FLAG_SEEN, memory_order_relaxed,
                                                        memory_order_relaxed)) {
                atomic_fetch_add_explicit(&t->n_users, 1, memory_order_relaxed);
                return true;
            }
        }
        if ((has ^ name) >> FLAG_BITS == 0) {
            return false;
        }
    }
    return false;
}

/* Of these kinds of bad the ones that this user is counted for now, for the first time. */
static unsigned user_first(struct tally *t, uint64_t key, unsigned kinds)
{
    uint64_t name = key << FLAG_BITS;

    if (key == 0) {
        return kinds;
    }
    for (uint64_t i = 0; i < USERS; i++) {
        _Atomic uint64_t *slot = user_home(t, key, i);
        uint64_t has = atomic_load_explicit(slot, memory_order_relaxed);

        if (has == 0) {
            return 0; /* not admitted */
        }
        if ((has ^ name) >> FLAG_BITS == 0) {
            kinds &= ~(unsigned)has;
            return kinds ? kinds & ~(unsigned)atomic_fetch_or_explicit(slot, kinds, memory_order_relaxed) : 0;
        }
    }
    return 0;
}

/* ---- the connection threads ---- */

/* One writer: no lock prefix. Released, for the order in which readers look at a cell. */
static void add_one(_Atomic uint64_t *c)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + 1, memory_order_release);
}

static void cell_clear(struct cell *c, uint32_t generation)
{
    static const uint64_t none = 0;

    atomic_store_explicit(&c->generation, NO_GENERATION, memory_order_relaxed);
    for (unsigned a = 0; a < JUDGE_ARMS; a++) {
        atomic_store_explicit(&c->answered[a], none, memory_order_release);
        atomic_store_explicit(&c->exposed[a], none, memory_order_release);
        atomic_store_explicit(&c->labelled[a], none, memory_order_release);
        for (unsigned m = 0; m < METRIC_COUNT; m++) {
            atomic_store_explicit(&c->all[m][a], none, memory_order_release);
            atomic_store_explicit(&c->bad[m][a], none, memory_order_release);
        }
    }
    atomic_store_explicit(&c->generation, generation, memory_order_release);
}

/* Where the part counts for a stratum; NULL if that has made room for another. */
static struct cell *cell_of(struct part *p, uint32_t stratum)
{
    struct cell *c = &p->cell[stratum % JUDGE_STRATA];
    uint32_t generation = stratum / JUDGE_STRATA;
    uint32_t has = atomic_load_explicit(&c->generation, memory_order_relaxed);

    if (has > generation) {
        return NULL;
    }
    if (has < generation) {
        cell_clear(c, generation);
    }
    return c;
}

/* free_ns: of the time, what does not count. */
static unsigned slow_kinds(const struct tally *t, uint64_t start_us, uint64_t end_us, uint64_t free_ns)
{
    uint64_t p95 = get(&t->slow_ns[0]), p99 = get(&t->slow_ns[1]);
    uint64_t ns = end_us > start_us ? (end_us - start_us) * 1000 : 0;

    ns -= MIN(ns, free_ns);

    return (p95 > 0 && ns > p95 ? 1u << METRIC_SLOW95 : 0) | (p95 > 0 && p99 > 0 && ns > p99 ? 1u << METRIC_SLOW99 : 0);
}

/* Counts the mark's request, as answered if it was not yet, and as bad in these ways, none of which it was before. */
static void count(struct tally *t, struct part *p, const struct tally_mark *m, unsigned kinds)
{
    struct cell *c = cell_of(p, m->stratum);
    unsigned first;

    if (!c) {
        return;
    }
    if (m->seen == 0) {
        add_one(&c->answered[m->arm]);
    }
    if (kinds == 0) {
        return;
    }
    first = user_first(t, m->key, kinds);
    for (unsigned k = 0; k < METRIC_COUNT; k++) {
        if (kinds >> k & 1) {
            add_one(&c->all[k][m->arm]);
        }
        if (first >> k & 1) {
            add_one(&c->bad[k][m->arm]);
        }
    }
}

void tally_begin(struct tally *t, unsigned part, struct tally_mark *m, unsigned stratum, unsigned arm, uint64_t key,
                 uint64_t start_us)
{
    struct part *p = &t->part[part];
    struct cell *c = cell_of(p, stratum);

    *m = (struct tally_mark){
        .tally = t, .next = p->open, .start_us = start_us, .key = key, .stratum = stratum, .arm = (uint8_t)arm};
    if (m->next) {
        m->next->prev = m;
    }
    p->open = m;
    counter_add(&p->n_open, 1);
    if (c && (key == 0 || user_admit(t, key))) {
        add_one(&c->exposed[arm]);
    }
}

void tally_drop(struct tally_mark *m, unsigned part)
{
    struct tally *t = m->tally;
    struct part *p;

    if (!t) {
        return;
    }
    p = &t->part[part];
    if (m->prev) {
        m->prev->next = m->next;
    } else {
        p->open = m->next;
    }
    if (m->next) {
        m->next->prev = m->prev;
    }
    m->tally = NULL;
    /* The last access: from here on the tally may be freed. */
    atomic_store_explicit(&p->n_open, counter_get(&p->n_open) - 1, memory_order_release);
}

void tally_end(struct tally_mark *m, unsigned part, unsigned bad, uint64_t end_us)
{
    struct tally *t = m->tally;

    if (t) {
        count(t, &t->part[part], m, (bad | slow_kinds(t, m->start_us, end_us, 0)) & ~(unsigned)m->seen);
        tally_drop(m, part);
    }
}

void tally_scan(struct tally *t, unsigned part, uint64_t now_us)
{
    struct part *p = &t->part[part];
    uint64_t open[JUDGE_STRATA][JUDGE_SLOW] = {0};

    if (!tally_frozen(t)) {
        return;
    }
    for (struct tally_mark *m = p->open; m; m = m->next) {
        unsigned kinds = slow_kinds(t, m->start_us, now_us, get(&t->wait_ns)) & ~(unsigned)m->seen;

        if (kinds) {
            count(t, p, m, kinds);
            m->seen |= (uint8_t)kinds;
        }
        for (unsigned k = 0; m->arm == JUDGE_CANARY && k < JUDGE_SLOW && cell_of(p, m->stratum); k++) {
            open[m->stratum % JUDGE_STRATA][k] += m->seen >> (METRIC_SLOW95 + k) & 1;
        }
    }
    for (unsigned i = 0; i < JUDGE_STRATA; i++) {
        for (unsigned k = 0; k < JUDGE_SLOW; k++) {
            atomic_store_explicit(&p->cell[i].open[k], open[i][k], memory_order_release);
        }
    }
}

/* ---- feedback ---- */

static void add_double(_Atomic uint64_t *bits, double more)
{
    double v = get_double(bits) + more;
    uint64_t b;

    memcpy(&b, &v, sizeof(b));
    atomic_store_explicit(bits, b, memory_order_release);
}

/* What an answer weighs against those of the other arm, in basis points; 0: there is none, or its share made room. */
static uint64_t weight_of(const struct tally *t, const struct tally_answer *a)
{
    uint64_t now = get(&t->stratum[a->stratum % JUDGE_STRATA]), share = MIN(now & UINT32_MAX, 10000u);

    if (now >> 32 != a->stratum / JUDGE_STRATA) {
        return 0;
    }
    return a->arm == JUDGE_CANARY ? 10000 - share : share;
}

static void value(struct tally *t, unsigned part, const struct tally_answer *a, enum judge_metric m, double y)
{
    struct values *v = &t->part[part].values[m - METRIC_WRONG][a->arm];
    uint64_t weight = weight_of(t, a), user = a->key ? a->key : a->id;
    unsigned group = (unsigned)(user * 0x9e3779b97f4a7c15ull >> 32) % STATS_GROUPS;

    if (weight == 0) {
        return;
    }
    atomic_store_explicit(&v->n[group], get(&v->n[group]) + weight, memory_order_release);
    add_double(&v->y[group], (double)weight * y);
    add_double(&v->square, (double)weight * y * y);
    atomic_store_explicit(&v->weight2, get(&v->weight2) + weight * weight, memory_order_release);
    add_one(&v->count);
}

void tally_label(struct tally *t, unsigned part, const struct tally_answer *a, bool wrong)
{
    struct cell *c = cell_of(&t->part[part], a->stratum);

    if (!c) {
        return;
    }
    value(t, part, a, METRIC_WRONG, wrong);
    add_one(&c->labelled[a->arm]);
    if (wrong) {
        add_one(&c->all[METRIC_WRONG][a->arm]);
        if (user_first(t, a->key, 1u << METRIC_WRONG)) {
            add_one(&c->bad[METRIC_WRONG][a->arm]);
        }
    }
}

void tally_reward(struct tally *t, unsigned part, const struct tally_answer *a, double reward)
{
    if (cell_of(&t->part[part], a->stratum)) {
        value(t, part, a, METRIC_REWARD, reward);
    }
}
