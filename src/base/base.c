/* SPDX-License-Identifier: Apache-2.0 */
/* Strings by length and memory that is always there: the calls of base.h that are too long to be inline.
 *
 * Thread: any; nothing here has state. */
#define _GNU_SOURCE /* vasprintf */
#include "base/base.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"

static unsigned char lower(char c)
{
    unsigned char u = (unsigned char)c;
    return u >= 'A' && u <= 'Z' ? (unsigned char)(u | 0x20) : u;
}

bool str_eq_nocase(struct str a, struct str b)
{
    if (a.n != b.n) {
        return false;
    }
    for (size_t i = 0; i < a.n; i++) {
        if (lower(a.p[i]) != lower(b.p[i])) {
            return false;
        }
    }
    return true;
}

bool str_u64(struct str s, uint64_t *out)
{
    uint64_t v = 0;
    if (s.n == 0) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        unsigned digit = (unsigned)(unsigned char)s.p[i] - '0';
        if (digit > 9 || !ck_mul(v, 10, &v) || !ck_add(v, digit, &v)) {
            return false;
        }
    }
    *out = v;
    return true;
}

bool str_f64(struct str s, double *out)
{
    double v;
    if (s.n == 0 || json_scan_f64(s.p, s.p + s.n, &v) != s.p + s.n || !isfinite(v)) {
        return false;
    }
    *out = v;
    return true;
}

bool str_copy(char *dst, size_t cap, struct str s)
{
    if (cap == 0) {
        return false;
    }
    dst[0] = '\0';
    if (s.n >= cap || (s.n > 0 && memchr(s.p, 0, s.n))) {
        return false;
    }
    if (s.n > 0) {
        memcpy(dst, s.p, s.n);
    }
    dst[s.n] = '\0';
    return true;
}

bool name_ok(struct str s)
{
    if (s.n == 0 || s.n > NAME_MAX_LEN || str_is(s, ".") || str_is(s, "..")) {
        return false;
    }
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-') {
            return false;
        }
    }
    return true;
}

static void *or_abort(void *p, size_t n)
{
    if (!p) {
        fprintf(stderr, "weir: out of memory: %zu bytes could not be had\n", n);
        abort();
    }
    return p;
}

void *xmalloc(size_t n)
{
    return or_abort(malloc(n ? n : 1), n);
}

void *xcalloc(size_t n, size_t size)
{
    size_t some = n && size;
    return or_abort(calloc(some ? n : 1, some ? size : 1), n * size);
}

void *xrealloc(void *p, size_t n)
{
    return or_abort(realloc(p, n ? n : 1), n);
}

char *xstrdup(const char *z)
{
    return xstrndup(z, strlen(z));
}

char *xstrndup(const char *p, size_t n)
{
    size_t len = n ? strnlen(p, n) : 0;
    char *copy = xmalloc(len + 1);
    if (len) {
        memcpy(copy, p, len);
    }
    copy[len] = '\0';
    return copy;
}

char *xasprintf(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    return or_abort(n < 0 ? NULL : text, 0);
}
