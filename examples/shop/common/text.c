/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows; see text.h. */
#include "common/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and a NUL. */
static bool room(struct text *t, size_t n)
{
    if (t->over || n > t->max - t->n) {
        t->over = true;
        return false;
    }
    if (t->n + n < t->cap) {
        return true;
    }
    size_t cap = t->cap ? t->cap : 1024;
    while (cap <= t->n + n) {
        cap *= 2;
    }
    char *p = realloc(t->p, cap);
    if (!p) {
        t->over = true;
        return false;
    }
    t->p = p;
    t->cap = cap;
    return true;
}

void text_free(struct text *t)
{
    if (t) {
        free(t->p);
        *t = (struct text)TEXT_INIT(t->max);
    }
}

void text_addn(struct text *t, const void *p, size_t n)
{
    if (n > 0 && room(t, n)) {
        memcpy(t->p + t->n, p, n);
        t->n += n;
        t->p[t->n] = '\0';
    }
}

void text_add(struct text *t, const char *z)
{
    text_addn(t, z, strlen(z));
}

void text_addf(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !room(t, (size_t)n)) {
        t->over = true;
        return;
    }
    va_start(args, format);
    vsnprintf(t->p + t->n, (size_t)n + 1, format, args);
    va_end(args);
    t->n += (size_t)n;
}

void text_html(struct text *t, const char *z)
{
    for (; *z; z++) {
        switch (*z) {
        case '&':
            text_add(t, "&amp;");
            break;
        case '<':
            text_add(t, "&lt;");
            break;
        case '>':
            text_add(t, "&gt;");
            break;
        case '"':
            text_add(t, "&quot;");
            break;
        case '\'':
            text_add(t, "&#39;");
            break;
        default:
            text_addn(t, z, 1);
        }
    }
}

void text_url(struct text *t, const char *z)
{
    for (; *z; z++) {
        unsigned char c = (unsigned char)*z;
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.~", c)) {
            text_addn(t, z, 1);
        } else {
            text_addf(t, "%%%02X", c);
        }
    }
}

void text_copy(char *to, size_t size, const char *from)
{
    size_t n = strnlen(from, size);
    if (n == size) {
        n = size - 1;
        while (n > 0 && ((unsigned char)from[n] & 0xC0) == 0x80) {
            n--;
        }
    }
    memmove(to, from, n);
    to[n] = '\0';
}
