/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer with a ceiling.
 *
 * Appending never fails loudly: past the ceiling (or without memory) the buffer is marked `over`, keeps what it has and
 * takes nothing more; the owner checks buf_over() once at the end instead of after each call.
 *
 * Thread: one at a time. Owner: whoever called buf_init. */
#ifndef WEIR_BASE_BUF_H
#define WEIR_BASE_BUF_H

#include "base/base.h"

struct buf {
    char *p;
    size_t n, cap, max;
    bool over;
    bool lack; /* over for want of memory, not of room */
};

void buf_init(struct buf *b, size_t max); /* allocates nothing; max: the ceiling in bytes */
void buf_done(struct buf *b);             /* frees; b is empty and may be used again */
void buf_clear(struct buf *b);            /* n = 0, over = lack = false; keeps the memory */
/* Frees memory beyond `keep` bytes; for pooled buffers that once held something big. Only on an empty buffer. */
void buf_trim(struct buf *b, size_t keep);

/* Room for `more` bytes at b->p + b->n, or NULL if that passes the ceiling (then over is set). Does not change n. */
char *buf_room(struct buf *b, size_t more) __attribute__((warn_unused_result));
void buf_add(struct buf *b, const void *p, size_t n);
void buf_addz(struct buf *b, const char *z);
void buf_addc(struct buf *b, char c);
void buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_addu(struct buf *b, uint64_t v); /* decimal */
void buf_addi(struct buf *b, int64_t v);
#define BUF_LIT(b, lit) buf_add((b), (lit), sizeof(lit) - 1)
/* Drops the first n bytes (moves the rest down). */
void buf_drop(struct buf *b, size_t n);
/* The terminated text; the terminator is not counted. */
const char *buf_z(struct buf *b);
static inline struct str buf_str(const struct buf *b)
{
    return (struct str){b->p, b->n};
}

#endif
