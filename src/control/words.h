/* SPDX-License-Identifier: Apache-2.0 */
/* Words for a person: a sentence within its field, and shares, times and counts in it.
 *
 * Thread: any; nothing allocates. */
#ifndef WEIR_CONTROL_WORDS_H
#define WEIR_CONTROL_WORDS_H

#include "base/base.h"
#include "base/err.h"

struct line { /* a sentence that grows in a field of cap bytes, and is cut at a character's border where it is full */
    char *p;
    size_t cap, n;
};
void words_add(struct line *l, const char *fmt, ...) PRINTF(2, 3);

struct word {
    char z[48];
};
struct word words_share(uint32_t bp);  /* "5 %", "0.5 %", "12.25 %" */
struct word words_span(uint64_t us);   /* "4 m 10 s", "6 h", "1 d 2 h": its two greatest units; below 1 s: "300 ms" */
struct word words_count(uint64_t v);   /* "1,240" */
struct word words_answers(uint64_t v); /* "1,240 answers", "1 answer" */

#endif
