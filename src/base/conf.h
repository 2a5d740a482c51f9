/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration: a YAML file as a tree that knows its lines, and tables of settings that fill structs from it.
 *
 * One row of a table feeds the parser, the range check, the messages and the tests. A room exports its table;
 * house.c joins them. Errors read "weir.yaml:12:5: families.vision.instances: 0 is below the least, 1".
 *
 * Thread: any (each tree is its reader's own). */
#ifndef WEIR_BASE_CONF_H
#define WEIR_BASE_CONF_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

enum conf_kind { CONF_SCALAR, CONF_MAP, CONF_LIST };
struct conf_node {
    enum conf_kind kind;
    int line, col;           /* from 1 */
    char *key;               /* in a map; else NULL */
    char *text;              /* of a scalar */
    bool quoted;             /* "5" rather than 5 */
    struct conf_node *child; /* first */
    struct conf_node *next;  /* sibling */
};
struct conf {
    char *name;             /* file name, for messages */
    struct conf_node *root; /* an empty map for an empty file */
};

/* *out is the caller's. Bounded: 1 MiB, depth 16, 10,000 nodes, no anchors or aliases, no duplicate keys. */
enum err_code conf_read_file(struct conf **out, const char *path, struct err *e) MUST_USE;
enum err_code conf_read_text(struct conf **out, const char *name, struct str text, struct err *e) MUST_USE;
void conf_free(struct conf *c);
AUTO_DEFINE(conf)
struct conf_node *conf_find(const struct conf_node *map, const char *key);
/* err_set with "file:line:col: " before it; code ERR_INVALID. */
enum err_code conf_error(const struct conf *c, const struct conf_node *at, struct err *e, const char *fmt, ...)
    PRINTF(4, 5);

enum setting_type {
    SET_BOOL,     /* bool: on|off|true|false|yes|no */
    SET_U64,      /* uint64_t within min … max */
    SET_BYTES,    /* uint64_t: 512, 64KiB, 6GiB, 10MB */
    SET_DURATION, /* uint64_t microseconds: 50ms, 30s, 5m, 1h */
    SET_SHARE,    /* uint64_t basis points: 5%, 0.5%, 12.25% (at most two decimals) */
    SET_STRING,   /* char *, heap; min/max bound its length */
    SET_ENUM,     /* int: the index of the word in `words` */
};
struct setting {
    const char *name; /* its key in the map; "batch.max": the key max of a map under the key batch */
    enum setting_type type;
    size_t offset;            /* of the field in the struct */
    const char *preset;       /* default as text; NULL for strings that may be absent */
    uint64_t min, max;        /* in the field's unit; max 0: no limit (100% for a share). A string: of its length */
    const char *const *words; /* SET_ENUM: NULL-terminated */
    const char *help;         /* one line */
};
/* Sets every row's default. Strings are strdup'ed; what the struct held before is not freed, it may be uninitialised.
 */
void settings_defaults(const struct setting *table, size_t n, void *into);
/* Fills from a map. Keys not in the table are an error that names the nearest known key, unless listed in `except`
 * (NULL-terminated, may be NULL). On an error nothing of the map was stored. `map` may be NULL or empty. */
enum err_code settings_read(const struct setting *table, size_t n, const struct conf *c, const struct conf_node *map,
                            const char *const *except, void *into, struct err *e) MUST_USE;
/* One value by name, as from the command line; `what` names the source in errors. */
enum err_code settings_set(const struct setting *row, const char *text, void *into, const char *what,
                           struct err *e) MUST_USE;
/* A value as it may stand in the file, settings_set's other direction; a string that is NULL gives "". */
void setting_text(const struct setting *row, const void *from, struct buf *out);
void settings_done(const struct setting *table, size_t n, void *into); /* frees strings */

bool parse_bytes(struct str s, uint64_t *out);
bool parse_duration(struct str s, uint64_t *us);
bool parse_share(struct str s, uint64_t *bp);

#endif
