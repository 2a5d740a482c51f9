/* SPDX-License-Identifier: Apache-2.0 */
/* A hash map that keeps the order of insertion: an array of entries and, beside it, an open-addressed index into it.
 *
 * A removed entry keeps its place with key == NULL, and its index slot keeps pointing at it: that slot is the grave
 * stone which linear probing needs. Graves are swept out when the entries are full and have to be moved anyway. The
 * index has twice as many slots as there are entries, so a probe always meets an empty one.
 *
 * Thread: one writer at a time; a map nobody writes to may be read by all. */
#include "base/map.h"

#include <stdlib.h>

#include "base/hash.h"

enum { MAP_LEAST = 8 };

void map_init(struct map *m)
{
    *m = (struct map){0};
}

void map_done(struct map *m)
{
    if (!m) {
        return;
    }
    for (size_t i = 0; i < m->used; i++) {
        free(m->entries[i].key);
    }
    free(m->entries);
    free(m->index);
    map_init(m);
}

/* The slot of a key, or the empty slot where the search ended. The map has an index. */
static size_t slot_of(const struct map *m, struct str key)
{
    size_t mask = m->slots - 1;
    for (size_t slot = hash64(key.p, key.n) & mask;; slot = (slot + 1) & mask) {
        uint32_t at = m->index[slot];
        if (at == 0) {
            return slot;
        }
        const struct map_entry *e = &m->entries[at - 1];
        if (e->key && e->key_n == key.n && (key.n == 0 || memcmp(e->key, key.p, key.n) == 0)) {
            return slot;
        }
    }
}

static struct map_entry *entry_of(const struct map *m, struct str key)
{
    if (m->n == 0) {
        return NULL;
    }
    uint32_t at = m->index[slot_of(m, key)];
    return at ? &m->entries[at - 1] : NULL;
}

void *map_get(const struct map *m, struct str key)
{
    const struct map_entry *e = entry_of(m, key);
    return e ? e->value : NULL;
}

/* Sweeps out removed entries, and doubles the room unless that alone made enough. */
static void map_rebuild(struct map *m)
{
    size_t kept = 0;
    for (size_t i = 0; i < m->used; i++) {
        if (m->entries[i].key) {
            m->entries[kept++] = m->entries[i];
        }
    }
    m->used = kept;
    if (kept >= m->cap - m->cap / 4) {
        m->cap = m->cap ? m->cap * 2 : MAP_LEAST;
        assert(m->cap < UINT32_MAX / 2);
        m->entries = xrealloc(m->entries, m->cap * sizeof(*m->entries));
    }
    m->slots = m->cap * 2;
    free(m->index);
    m->index = xcalloc(m->slots, sizeof(*m->index));
    size_t mask = m->slots - 1;
    for (size_t i = 0; i < m->used; i++) {
        size_t slot = hash64(m->entries[i].key, m->entries[i].key_n) & mask;
        while (m->index[slot]) {
            slot = (slot + 1) & mask;
        }
        m->index[slot] = (uint32_t)(i + 1);
    }
}

void *map_put(struct map *m, struct str key, void *value)
{
    assert(value);
    struct map_entry *e = entry_of(m, key);
    if (e) {
        void *before = e->value;
        e->value = value;
        return before;
    }
    if (m->used == m->cap) {
        map_rebuild(m);
    }
    char *copy = xmalloc(key.n + 1);
    if (key.n) {
        memcpy(copy, key.p, key.n);
    }
    copy[key.n] = '\0';
    m->entries[m->used] = (struct map_entry){copy, key.n, value};
    m->index[slot_of(m, key)] = (uint32_t)++m->used;
    m->n++;
    return NULL;
}

void *map_del(struct map *m, struct str key)
{
    struct map_entry *e = entry_of(m, key);
    if (!e) {
        return NULL;
    }
    void *value = e->value;
    free(e->key);
    *e = (struct map_entry){0};
    m->n--;
    return value;
}

struct map_entry *map_next(const struct map *m, size_t *i)
{
    while (*i < m->used) {
        struct map_entry *e = &m->entries[(*i)++];
        if (e->key) {
            return e;
        }
    }
    return NULL;
}
