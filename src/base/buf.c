/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer with a ceiling.
 *
 * The memory is always one byte longer than `cap`, so that buf_z can end the text even at the ceiling. It grows by
 * doubling, and the last step goes to the ceiling exactly.
 *
 * Thread: one at a time. Owner: whoever called buf_init. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { BUF_LEAST = 256 };

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max < SIZE_MAX ? max : SIZE_MAX - 1};
}

void buf_done(struct buf *b)
{
    if (!b) {
        return;
    }
    free(b->p);
    *b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b)
{
    b->n = 0;
    b->over = b->lack = false;
}

void buf_trim(struct buf *b, size_t keep)
{
    if (b->n == 0 && b->cap > keep) {
        free(b->p);
        b->p = NULL;
        b->cap = 0;
    }
}

static bool buf_grow(struct buf *b, size_t more)
{
    if (b->over || more > b->max - b->n) {
        b->over = true;
        return false;
    }
    size_t need = b->n + more;
    size_t cap = b->cap > b->max / 2 ? b->max : b->cap * 2;
    cap = MAX(cap, need);
    cap = MIN(MAX(cap, (size_t)BUF_LEAST), b->max);
    char *p = realloc(b->p, cap + 1);
    if (!p) {
        b->over = b->lack = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

char *buf_room(struct buf *b, size_t more)
{
    if ((b->over || !b->p || more > b->cap - b->n) && !buf_grow(b, more)) {
        return NULL;
    }
    return b->p + b->n;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    if (n == 0) {
        return;
    }
    char *at = buf_room(b, n);
    if (at) {
        memcpy(at, p, n);
        b->n += n;
    }
}

void buf_addz(struct buf *b, const char *z)
{
    buf_add(b, z, strlen(z));
}

void buf_addc(struct buf *b, char c)
{
    char *at = buf_room(b, 1);
    if (at) {
        *at = c;
        b->n++;
    }
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    if (!buf_room(b, 0)) {
        return;
    }
    /* The spare byte behind cap takes vsnprintf's terminator. */
    size_t room = b->cap - b->n;
    va_start(ap, fmt);
    int n = vsnprintf(b->p + b->n, room + 1, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n > room && buf_room(b, (size_t)n)) {
        va_start(ap, fmt);
        n = vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    if (n < 0) {
        b->over = true;
    } else if (!b->over) {
        b->n += (size_t)n;
    }
}

void buf_addu(struct buf *b, uint64_t v)
{
    char text[20];
    size_t at = sizeof(text);
    do {
        text[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    buf_add(b, text + at, sizeof(text) - at);
}

void buf_addi(struct buf *b, int64_t v)
{
    char text[21];
    size_t at = sizeof(text);
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        text[--at] = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0) {
        text[--at] = '-';
    }
    buf_add(b, text + at, sizeof(text) - at);
}

void buf_drop(struct buf *b, size_t n)
{
    assert(n <= b->n);
    if (n == 0) {
        return;
    }
    b->n -= n;
    memmove(b->p, b->p + n, b->n);
}

const char *buf_z(struct buf *b)
{
    if (!b->p) {
        return "";
    }
    b->p[b->n] = '\0';
    return b->p;
}
