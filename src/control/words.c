/* SPDX-License-Identifier: Apache-2.0 */
/* Words for a person: a sentence within its field, and shares, times and counts in it. */
#include <stdarg.h>
#include <stdio.h>

#include "control/words.h"

/* How much of the n bytes is whole characters: the last one may have been cut. */
static size_t whole(const char *p, size_t n)
{
    size_t lead = n;

    while (lead > 0 && n - lead < 3 && ((unsigned char)p[lead - 1] & 0xC0) == 0x80) {
        lead--;
    }
    if (lead > 0 && (unsigned char)p[lead - 1] >= 0xC0) {
        unsigned char c = (unsigned char)p[lead - 1];
        size_t wants = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        return n - lead + 1 < wants ? lead - 1 : n;
    }
    return n;
}

void words_add(struct line *l, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (l->cap == 0) {
        return;
    }
    va_start(ap, fmt);
    n = vsnprintf(l->p + l->n, l->cap - l->n, fmt, ap);
    va_end(ap);
    l->n += n > 0 ? (size_t)n : 0;
    if (l->n >= l->cap) {
        l->n = whole(l->p, l->cap - 1);
        l->p[l->n] = '\0';
        l->cap = 0; /* nothing goes behind a cut */
    }
}

struct word words_share(uint32_t bp)
{
    struct word w;
    unsigned full = bp / 100, part = bp % 100;

    if (part == 0) {
        snprintf(w.z, sizeof(w.z), "%u %%", full);
    } else if (part % 10 == 0) {
        snprintf(w.z, sizeof(w.z), "%u.%u %%", full, part / 10);
    } else {
        snprintf(w.z, sizeof(w.z), "%u.%02u %%", full, part);
    }
    return w;
}

/* Rounded up, so that what waits never waits "0 s". */
struct word words_span(uint64_t us)
{
    static const struct {
        uint64_t s;
        char name;
    } units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    uint64_t s = us / 1000000 + (us % 1000000 != 0);
    size_t i = 0;
    struct word w;

    if (us > 0 && us < 1000000) {
        snprintf(w.z, sizeof(w.z), "%u ms", (unsigned)((us + 999) / 1000));
        return w;
    }
    while (i + 1 < COUNT_OF(units) && s < units[i].s) {
        i++;
    }
    uint64_t first = s / units[i].s, second = i + 1 < COUNT_OF(units) ? s % units[i].s / units[i + 1].s : 0;
    if (second > 0) {
        snprintf(w.z, sizeof(w.z), "%llu %c %llu %c", (unsigned long long)first, units[i].name,
                 (unsigned long long)second, units[i + 1].name);
    } else {
        snprintf(w.z, sizeof(w.z), "%llu %c", (unsigned long long)first, units[i].name);
    }
    return w;
}

struct word words_count(uint64_t v)
{
    struct word w;
    char digits[24];
    int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)v);
    size_t at = 0;

    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) {
            w.z[at++] = ',';
        }
        w.z[at++] = digits[i];
    }
    w.z[at] = '\0';
    return w;
}

struct word words_answers(uint64_t v)
{
    struct word w = words_count(v);
    size_t n = strlen(w.z);

    snprintf(w.z + n, sizeof(w.z) - n, v == 1 ? " answer" : " answers");
    return w;
}
