/* SPDX-License-Identifier: Apache-2.0 */
/* A hash map from byte strings to pointers: open addressing, seeded hash, keys copied, insertion order kept.
 *
 * Thread: one writer at a time; a map nobody writes to may be read by all. */
#ifndef WEIR_BASE_MAP_H
#define WEIR_BASE_MAP_H

#include "base/base.h"

struct map_entry {
    char *key; /* terminated copy */
    size_t key_n;
    void *value;
};
struct map {
    struct map_entry *entries; /* in order of insertion; key == NULL: a removed one */
    uint32_t *index;           /* slot -> entry + 1 */
    size_t n, used, cap, slots;
};

void map_init(struct map *m);
void map_done(struct map *m); /* the values are the caller's */
void *map_get(const struct map *m, struct str key);
/* Sets; returns the value that was there before, or NULL. `value` is not NULL. */
void *map_put(struct map *m, struct str key, void *value);
void *map_del(struct map *m, struct str key); /* returns what was there */
/* for (size_t i = 0; (e = map_next(m, &i)) != NULL;) in order of insertion; deleting the current entry is allowed */
struct map_entry *map_next(const struct map *m, size_t *i);

#endif
