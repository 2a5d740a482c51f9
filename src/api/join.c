/* SPDX-License-Identifier: Apache-2.0 */
/* The table of answered requests: open addressing in a mapping of fixed size, the oldest of eight places gives way. */
#include "api/join.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/hash.h"

#define SLOTS 65536u
#define PROBES 8u

_Static_assert(sizeof(struct join_entry) <= 96, "join.h says what the table takes");

struct join {
    uint64_t seq;
    struct join_entry slot[SLOTS];
};

struct join *join_new(void)
{
    struct join *j = mmap(NULL, sizeof(*j), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return j == MAP_FAILED ? xcalloc(1, sizeof(*j)) : j;
}

void join_free(struct join *j)
{
    if (j) {
        munmap(j, sizeof(*j));
    }
}

uint64_t join_key(struct str model, struct str id)
{
    return hash64_seed(id.p, id.n, hash64(model.p, model.n)) | 1;
}

uint64_t join_label(struct str name)
{
    return hash64(name.p, name.n) | 1;
}

static struct join_entry *place(struct join *j, uint64_t key)
{
    struct join_entry *oldest = &j->slot[key % SLOTS];

    for (unsigned i = 0; i < PROBES; i++) {
        struct join_entry *e = &j->slot[(key + i) % SLOTS];

        if (e->key == key || e->key == 0) {
            return e;
        }
        oldest = e->seq < oldest->seq ? e : oldest;
    }
    return oldest;
}

void join_put(struct join *j, const struct join_answer *a)
{
    uint64_t key = join_key(a->model, a->id);
    const struct tally_mark *m = a->mark;
    struct join_entry *e = place(j, key);

    *e = (struct join_entry){.key = key,
                             .seq = ++j->seq,
                             .series_id = series_id(a->series),
                             .answer = {.key = a->user, .id = key},
                             .predicted = a->predicted.p ? join_label(a->predicted) : 0,
                             .version = a->version,
                             .arm = (uint8_t)a->arm};
    if (m->tally) {
        e->tally = tally_id(m->tally);
        e->answer.stratum = m->stratum;
        e->answer.arm = m->arm;
    }
}

struct join_entry *join_find(struct join *j, uint64_t key)
{
    for (unsigned i = 0; i < PROBES; i++) {
        struct join_entry *e = &j->slot[(key + i) % SLOTS];

        if (e->key == key) {
            return e;
        }
    }
    return NULL;
}

static bool is(const struct series *s, uint64_t id)
{
    return s && series_id(s) == id;
}

static int64_t number_at(const struct route *t, int i)
{
    return i < 0 ? 0 : t->versions[i].number;
}

struct series *join_series(const struct route *t, const struct join_entry *e)
{
    struct series *direct = NULL;

    if (is(t->stable_series, e->series_id)) {
        return t->stable_series;
    }
    if (is(t->canary_series, e->series_id)) {
        return t->canary_series;
    }
    for (size_t i = 0; i < t->n_versions; i++) {
        if (is(t->versions[i].series, e->series_id)) {
            return t->versions[i].series;
        }
        direct = t->versions[i].number == e->version ? t->versions[i].series : direct;
    }
    if (e->arm == ARM_DIRECT) {
        return direct;
    }
    if (number_at(t, t->stable) == e->version) {
        return t->stable_series;
    }
    return number_at(t, t->canary) == e->version ? t->canary_series : NULL;
}
