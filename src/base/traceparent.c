/* SPDX-License-Identifier: Apache-2.0 */
/* Trace context: fixed places in a short text, and a list of name=value members. */
#include "base/traceparent.h"

#include "base/hash.h"

#define LONG_MEMBER 128u
#define KEY_LONGEST 256u
#define VALUE_LONGEST 256u

enum { AT_VERSION = 0, AT_TRACE = 3, AT_SPAN = 36, AT_FLAGS = 53 };

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

bool traceparent_read(struct trace_context *out, struct str s)
{
    struct trace_context c;
    uint8_t version;

    if (s.n < TRACEPARENT_LEN || s.p[AT_TRACE - 1] != '-' || s.p[AT_SPAN - 1] != '-' || s.p[AT_FLAGS - 1] != '-' ||
        !hex_decode(&version, 1, (struct str){s.p + AT_VERSION, 2}) || version == 0xff ||
        !hex_decode(c.trace, sizeof(c.trace), (struct str){s.p + AT_TRACE, 32}) ||
        !hex_decode(c.span, sizeof(c.span), (struct str){s.p + AT_SPAN, 16}) ||
        !hex_decode(&c.flags, 1, (struct str){s.p + AT_FLAGS, 2}) || all_zero(c.trace, sizeof(c.trace)) ||
        all_zero(c.span, sizeof(c.span))) {
        return false;
    }
    if (s.n > TRACEPARENT_LEN && (version == 0 || s.p[TRACEPARENT_LEN] != '-')) {
        return false;
    }
    c.flags &= version == 0 ? TRACE_SAMPLED | TRACE_RANDOM : TRACE_SAMPLED;
    *out = c;
    return true;
}

void traceparent_write(char out[TRACEPARENT_LEN + 1], const struct trace_context *c)
{
    memcpy(out, "00-", AT_TRACE);
    hex_encode(out + AT_TRACE, c->trace, sizeof(c->trace));
    out[AT_SPAN - 1] = '-';
    hex_encode(out + AT_SPAN, c->span, sizeof(c->span));
    out[AT_FLAGS - 1] = '-';
    hex_encode(out + AT_FLAGS, &c->flags, 1);
}

void trace_new_span(struct trace_context *c)
{
    uint64_t n;

    do {
        n = random_u64();
    } while (n == 0);
    memcpy(c->span, &n, sizeof(n));
}

void trace_new(struct trace_context *out)
{
    uint64_t n[2];

    do {
        n[0] = random_u64();
        n[1] = random_u64();
    } while (n[0] == 0 && n[1] == 0);
    memcpy(out->trace, n, sizeof(n));
    out->flags = TRACE_RANDOM;
    trace_new_span(out);
}

/* ---- tracestate ---- */

static bool lower_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool key_ok(struct str key)
{
    if (key.n == 0 || key.n > KEY_LONGEST || !lower_alnum(key.p[0])) {
        return false;
    }
    for (size_t i = 1; i < key.n; i++) {
        if (!lower_alnum(key.p[i]) && (key.p[i] == '\0' || !strchr("_-*/@", key.p[i]))) {
            return false;
        }
    }
    return true;
}

static bool value_ok(struct str value)
{
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] < 0x20 || value.p[i] > 0x7e || value.p[i] == ',' || value.p[i] == '=') {
            return false;
        }
    }
    return value.n > 0 && value.n <= VALUE_LONGEST && value.p[value.n - 1] != ' ';
}

static bool member_ok(struct str m)
{
    const char *eq = memchr(m.p, '=', m.n);
    size_t n = eq ? (size_t)(eq - m.p) : 0;

    return eq && key_ok((struct str){m.p, n}) && value_ok((struct str){eq + 1, m.n - n - 1});
}

static struct str trimmed(struct str s)
{
    while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t')) {
        s.p++;
        s.n--;
    }
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) {
        s.n--;
    }
    return s;
}

/* Adds the members of one header; false: one is malformed, or there are too many. */
static bool split(struct str s, struct str member[TRACESTATE_MEMBERS], size_t *n)
{
    while (s.n > 0) {
        const char *comma = memchr(s.p, ',', s.n);
        size_t used = comma ? (size_t)(comma - s.p) : s.n;
        struct str one = trimmed((struct str){s.p, used});

        if (one.n > 0) { /* empty ones are allowed, and nothing */
            if (*n == TRACESTATE_MEMBERS || !member_ok(one)) {
                return false;
            }
            member[(*n)++] = one;
        }
        used += comma ? 1 : 0;
        s = (struct str){s.p + used, s.n - used};
    }
    return true;
}

/* Drops members from the end, those that are longer than `longer`, as long as all together are too long. bytes: of all,
 * each with a comma. */
static size_t shorten(struct str *member, size_t n, size_t *bytes, size_t longer)
{
    for (size_t i = n; i-- > 0 && *bytes > TRACESTATE_MAX + 1;) {
        if (member[i].n > longer) {
            *bytes -= member[i].n + 1;
            memmove(&member[i], &member[i + 1], (n - i - 1) * sizeof(member[0]));
            n--;
        }
    }
    return n;
}

size_t tracestate_join(char out[TRACESTATE_MAX + 1], const struct str *values, size_t n)
{
    struct str member[TRACESTATE_MEMBERS];
    size_t members = 0, bytes = 0, at = 0;

    out[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (!split(values[i], member, &members)) {
            return 0;
        }
    }
    for (size_t i = 0; i < members; i++) {
        bytes += member[i].n + 1;
    }
    members = shorten(member, members, &bytes, LONG_MEMBER);
    members = shorten(member, members, &bytes, 0);
    for (size_t i = 0; i < members; i++) {
        if (i > 0) {
            out[at++] = ',';
        }
        memcpy(out + at, member[i].p, member[i].n);
        at += member[i].n;
    }
    out[at] = '\0';
    return at;
}
