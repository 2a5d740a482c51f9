/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: the table behind err.h and the two ways to fill an error.
 *
 * The text is formatted into a local first, so that an argument may point into the very error that is being filled
 * (adding a place to a message that is already there). Names are lowered once at program start, before any thread. */
#define _GNU_SOURCE /* strerrordesc_np */
#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

struct err_row {
    int http;
    int grpc;
    int retry;
    char name[20];
};

static struct err_row rows[ERR_COUNT_] = {
#define X(name, http, grpc, retry, text) {http, grpc, retry, #name},
    ERR_MAP(X)
#undef X
};

__attribute__((constructor(101))) static void names_lower(void)
{
    for (size_t i = 0; i < ERR_COUNT_; i++) {
        for (char *c = rows[i].name; *c; c++) {
            if (*c >= 'A' && *c <= 'Z') {
                *c = (char)(*c - 'A' + 'a');
            }
        }
    }
}

static const struct err_row *row_of(enum err_code code)
{
    return &rows[(unsigned)code < ERR_COUNT_ ? code : ERR_INTERNAL];
}

/* The longest length up to n that does not cut a UTF-8 character in two. */
static size_t cut_at_char(const char *z, size_t n)
{
    size_t lead = n;
    while (lead > 0 && n - lead < 4 && ((unsigned char)z[lead - 1] & 0xC0) == 0x80) {
        lead--;
    }
    if (lead == 0) {
        return n;
    }
    unsigned char c = (unsigned char)z[lead - 1];
    size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    return n - (lead - 1) < need ? lead - 1 : n;
}

static void text_set(struct err *e, const char *text, size_t n)
{
    if (n > sizeof(e->text) - 1) {
        n = cut_at_char(text, sizeof(e->text) - 1);
    }
    memcpy(e->text, text, n);
    e->text[n] = '\0';
}

enum err_code err_vset(struct err *e, enum err_code code, const char *fmt, va_list ap)
{
    if (!e) {
        return code;
    }
    char text[sizeof(e->text) + 4];
    if (vsnprintf(text, sizeof(text), fmt, ap) < 0) {
        text[0] = '\0';
    }
    e->code = code;
    text_set(e, text, strlen(text));
    return code;
}

enum err_code err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_vset(e, code, fmt, ap);
    va_end(ap);
    return code;
}

enum err_code err_sys(struct err *e, enum err_code code, const char *fmt, ...)
{
    int number = errno;
    if (!e) {
        return code;
    }
    char why[128];
    const char *known = strerrordesc_np(number);
    if (known) {
        snprintf(why, sizeof(why), ": %s", known);
    } else {
        snprintf(why, sizeof(why), ": errno %d", number);
    }
    char text[sizeof(e->text) + 4];
    va_list ap;
    va_start(ap, fmt);
    if (vsnprintf(text, sizeof(text), fmt, ap) < 0) {
        text[0] = '\0';
    }
    va_end(ap);
    /* The reason is the more useful half: a long text is cut to keep it whole. */
    size_t n = strlen(text);
    size_t tail = strlen(why);
    if (n + tail > sizeof(e->text) - 1) {
        n = cut_at_char(text, sizeof(e->text) - 1 - tail);
    }
    e->code = code;
    memcpy(e->text, text, n);
    memcpy(e->text + n, why, tail + 1);
    errno = number;
    return code;
}

int err_http(enum err_code code)
{
    return row_of(code)->http;
}

int err_grpc(enum err_code code)
{
    return row_of(code)->grpc;
}

int err_retryable(enum err_code code)
{
    return row_of(code)->retry;
}

const char *err_name(enum err_code code)
{
    return row_of(code)->name;
}

enum err_code err_from_http(int status)
{
    for (size_t i = 0; i < ERR_COUNT_; i++) {
        if (rows[i].http == status) {
            return (enum err_code)i;
        }
    }
    if (status >= 200 && status < 300) {
        return ERR_OK;
    }
    return status >= 400 && status < 500 ? ERR_INVALID : ERR_INTERNAL;
}

bool err_from_name(struct str name, enum err_code *out)
{
    for (size_t i = 0; i < ERR_COUNT_; i++) {
        if (str_is(name, rows[i].name)) {
            *out = (enum err_code)i;
            return true;
        }
    }
    return false;
}
