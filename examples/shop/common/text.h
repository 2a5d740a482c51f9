/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows up to a limit, and the escapes of what is put into it.
 *
 * What does not fit is left out, and `over` says so: who sends the text looks at it once, at the end.
 * Thread: one at a time for each. */
#ifndef SHOP_COMMON_TEXT_H
#define SHOP_COMMON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#define PRINTF_LIKE(at, first) __attribute__((format(printf, at, first)))

struct text {
    char *p; /* terminated; NULL while empty */
    size_t n, cap, max;
    bool over; /* something did not fit, or there was no memory */
};

/* An empty text of at most max bytes. */
#define TEXT_INIT(limit) {NULL, 0, 0, (limit), false}
void text_free(struct text *t); /* NULL is fine */

void text_add(struct text *t, const char *z);
void text_addn(struct text *t, const void *p, size_t n);
void text_addf(struct text *t, const char *format, ...) PRINTF_LIKE(2, 3);
void text_html(struct text *t, const char *z); /* for between tags and inside double quotes */
void text_url(struct text *t, const char *z);  /* for one component of a URL */

/* Copies what fits, terminates, never splits a UTF-8 character. size > 0. */
void text_copy(char *to, size_t size, const char *from);

#endif
