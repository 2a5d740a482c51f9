/* SPDX-License-Identifier: Apache-2.0 */
/* Taking an address apart; see url.h. A path, a query, a user and a fragment are errors: nobody would look at them. */
#include "base/url.h"

#include <stdio.h>

static enum err_code bad(struct err *e, struct str text, const char *why)
{
    return err_set(e, ERR_INVALID, "'%.*s' is no address of a server: %s (scheme://HOST:PORT)",
                   (int)MIN(text.n, (size_t)200), text.p ? text.p : "", why);
}

static bool host_ok(const char *host, bool bracketed)
{
    for (const char *p = host; *p; p++) {
        bool word = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');

        if (!word && !strchr(bracketed ? ":.%" : ".-_", *p)) {
            return false;
        }
    }
    return *host != '\0';
}

static bool scheme_of(struct url *u, struct str *rest)
{
    static const char sep[] = "://";
    const char *at = rest->n > 3 ? memmem(rest->p, rest->n, sep, 3) : NULL;

    if (!at || !str_copy(u->scheme, sizeof(u->scheme), (struct str){rest->p, (size_t)(at - rest->p)})) {
        return false;
    }
    for (char *p = u->scheme; *p; p++) {
        if (*p < 'a' || *p > 'z') {
            return false;
        }
    }
    *rest = (struct str){at + 3, (size_t)(rest->p + rest->n - at - 3)};
    return u->scheme[0] != '\0';
}

enum err_code url_parse(struct url *out, struct str text, uint16_t port, struct err *e)
{
    struct url u = {.port = port};
    struct str rest = text, host, digits = {NULL, 0};
    const char *end;
    bool bracketed;
    uint64_t n;

    if (!scheme_of(&u, &rest)) {
        return bad(e, text, "it does not begin with a scheme in small letters");
    }
    if (rest.n > 0 && rest.p[rest.n - 1] == '/') {
        rest.n--;
    }
    bracketed = rest.n > 0 && rest.p[0] == '[';
    end = bracketed ? memchr(rest.p, ']', rest.n) : rest.n ? memchr(rest.p, ':', rest.n) : NULL;
    if (bracketed && !end) {
        return bad(e, text, "the ']' of the IPv6 address is missing");
    }
    host = bracketed ? (struct str){rest.p + 1, (size_t)(end - rest.p - 1)}
                     : (struct str){rest.p, end ? (size_t)(end - rest.p) : rest.n};
    end = bracketed ? end + 1 : end;
    if (end && end < rest.p + rest.n) {
        digits = (struct str){end + 1, (size_t)(rest.p + rest.n - end - 1)};
        if (*end != ':' || !str_u64(digits, &n) || n == 0 || n > 65535) {
            return bad(e, text, "what follows the host is no port from 1 to 65535");
        }
        u.port = (uint16_t)n;
    }
    if (!str_copy(u.host, sizeof(u.host), host) || !host_ok(u.host, bracketed)) {
        return bad(e, text, "the host is missing or has characters that no host name has");
    }
    if (u.port == 0) {
        return bad(e, text, "the port is missing");
    }
    snprintf(u.authority, sizeof(u.authority), bracketed ? "[%s]:%u" : "%s:%u", u.host, (unsigned)u.port);
    *out = u;
    return ERR_OK;
}
