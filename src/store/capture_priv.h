/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the payload log share: capture_log.c writes and seals, capture_read.c reads, capture_rows.c knows
 * the database.
 *
 * Thread: the store thread. */
#ifndef WEIR_STORE_CAPTURE_PRIV_H
#define WEIR_STORE_CAPTURE_PRIV_H

#include "store/capture_log.h"
#include "store/store_priv.h"

struct segment { /* one that is not sealed */
    struct segment *next;
    struct capture_segment about;
    int fd;
    struct sha256 hash; /* of about.bytes bytes */
    bool full;          /* nothing is appended any more: it waits to be sealed */
    bool torn;          /* behind about.bytes lies a part of a line that could not be cut off */
};
struct capture_log {
    struct store *s;
    struct capture_bounds b;
    char *path;
    int dir;                  /* -1: not made yet */
    struct segment *unsealed; /* oldest first */
    unsigned n_unsealed;
    uint64_t n_sealed, bytes; /* bytes: of all segments */
};

/* ---- capture_read.c ---- */
/* What a line says of itself at its beginning; false: it is no line of the log. */
struct line_facts {
    struct str kind; /* lies in the line */
    int64_t at_ms;
};
bool line_facts(struct str line, struct line_facts *out);

/* ---- capture_rows.c ---- */
enum err_code capture_row_add(struct store *s, const struct capture_segment *c, struct err *e) MUST_USE;
enum err_code capture_row_delete(struct store *s, const struct capture_segment *c, struct err *e) MUST_USE;
/* How many there are, and their bytes. */
enum err_code capture_rows_sum(struct store *s, uint64_t *n, uint64_t *bytes, struct err *e) MUST_USE;
/* These find one row, or none: ERR_NOT_FOUND. */
/* The oldest one of all models whose last_ms is below the border. */
enum err_code capture_row_oldest(struct store *s, int64_t below_ms, struct capture_segment *out,
                                 struct err *e) MUST_USE;
enum err_code capture_row_newest(struct store *s, const char *model, struct capture_segment *out,
                                 struct err *e) MUST_USE;
enum err_code capture_row_find(struct store *s, const char *model, const char *file, struct capture_segment *out,
                               struct err *e) MUST_USE;
/* The model's first one whose name is `file` or comes after it. */
enum err_code capture_row_next(struct store *s, const char *model, const char *file, struct capture_segment *out,
                               struct err *e) MUST_USE;
/* A model's, oldest first; *out is the caller's. */
enum err_code capture_rows_of(struct store *s, const char *model, struct capture_segment **out, size_t *n,
                              struct err *e) MUST_USE;

#endif
