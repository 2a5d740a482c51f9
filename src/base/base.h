/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that every file may use: strings by length, checked arithmetic, owning locals.
 *
 * Thread: any; nothing here has state. */
#ifndef WEIR_BASE_BASE_H
#define WEIR_BASE_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A string by pointer and length; not terminated, not owned. */
struct str {
    const char *p;
    size_t n;
};

#define STR(lit) ((struct str){(lit), sizeof(lit) - 1})
#define STR_FMT "%.*s"
#define STR_ARG(s) (int)(s).n, (s).p

static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool str_is(struct str a, const char *z)
{
    return str_eq(a, str_of(z));
}

bool str_eq_nocase(struct str a, struct str b); /* ASCII only */
/* Strict decimal: digits only, no sign, no blank, no overflow, n >= 1. False leaves *out alone. */
bool str_u64(struct str s, uint64_t *out);
/* Strict number: optional '-', digits, optional fraction and exponent (JSON's grammar). */
bool str_f64(struct str s, double *out);
/* Copies into a field with a terminator; false (and an empty field) if it does not fit or holds a zero byte. */
bool str_copy(char *dst, size_t cap, struct str s);
/* A name of a model, family or version folder: [A-Za-z0-9._-]{1,128}, neither "." nor "..". */
bool name_ok(struct str s);
#define NAME_MAX_LEN 128

/* Checked arithmetic: false on overflow, *out untouched. */
static inline bool ck_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

static inline bool ck_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

#define ALIGN_UP(n, a) (((n) + (uint64_t)((a) - 1)) & ~(uint64_t)((a) - 1))
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Locals that own something: AUTO(buf) b = NULL; … return TAKE(b);  needs AUTO_DEFINE(buf) beside buf_free. */
#define AUTO(type) __attribute__((cleanup(type##_free_at))) struct type *
#define AUTO_DEFINE(type)                              \
    static inline void type##_free_at(struct type **p) \
    {                                                  \
        type##_free(*p);                               \
    }
#define TAKE(p)                     \
    ({                              \
        __typeof__(p) taken_ = (p); \
        (p) = NULL;                 \
        taken_;                     \
    })

/* Memory of start-up and of our own bounded bookkeeping: these abort with a message when there is none. Memory whose
 * size a client chooses never comes from here. */
void *xmalloc(size_t n) __attribute__((returns_nonnull, malloc));
void *xcalloc(size_t n, size_t size) __attribute__((returns_nonnull, malloc));
void *xrealloc(void *p, size_t n) __attribute__((returns_nonnull));
char *xstrdup(const char *z) __attribute__((returns_nonnull, malloc));
char *xstrndup(const char *p, size_t n) __attribute__((returns_nonnull, malloc));
char *xasprintf(const char *fmt, ...) __attribute__((returns_nonnull, format(printf, 1, 2)));

#endif
