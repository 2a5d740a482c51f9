/* SPDX-License-Identifier: Apache-2.0 */
/* Mutated requests, cut at random, to services that reply early, late or never, pause and resume: whatever comes in,
 * the layer neither breaks nor spins, each exchange is finished once, and what is answered is an answer. A fixed seed:
 * a failure can be repeated. WEIR_MUTANTS sets another number of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "support/http_rig.h"

static const char *const corpus[] = {
    "GET /a/b?c=d HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: x/1.0\r\nAccept: */*\r\n\r\n",
    "POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: v\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "GET http://a/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "\r\nDELETE /%2e%2e HTTP/1.1\r\nHost: a\r\nX: \t y \t\r\nEmpty:\r\n\r\n",
};

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint32_t pick(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 33) % n;
}

static void mutate(struct buf *b)
{
    static const char odd[] = "\r\n\0 \t:;,=0f9%#?/\x7f\x80\xff\"";
    for (uint32_t k = pick(4); k > 0 && b->n > 0; k--) {
        size_t at = pick((uint32_t)b->n), n = 1 + pick(8);
        switch (pick(5)) {
        case 0:
            b->p[at] = (char)pick(256);
            break;
        case 1:
            b->p[at] = odd[pick(sizeof odd - 1)];
            break;
        case 2: /* take out */
            n = MIN(n, b->n - at);
            memmove(b->p + at, b->p + at + n, b->n - at - n);
            b->n -= n;
            break;
        case 3: { /* repeat */
            n = MIN(n * 4, b->n - at);
            char part[32];
            memcpy(part, b->p + at, n);
            buf_add(b, part, n);
            break;
        }
        default: /* a piece of another request over it */
            buf_add(b, corpus[pick(COUNT_OF(corpus))] + pick(16), 16);
        }
    }
}

static void one(struct rig *r)
{
    static char target[64];
    struct iovec iov = {target, 1 + pick(3)};
    struct buf b;
    buf_init(&b, 1 << 20);
    for (uint32_t k = 1 + pick(3); k > 0; k--) {
        buf_addz(&b, corpus[pick(COUNT_OF(corpus))]);
    }
    mutate(&b);
    r->when = (enum rig_when)pick(4);
    r->pause = pick(4) == 0;
    r->until = pick(4) == 0 ? 1 + pick(4) : 0;
    r->direct = &iov;
    r->n_direct = 0;
    rig_connect(r);
    for (size_t at = 0, n; at < b.n; at += n) {
        n = 1 + pick(pick(2) ? 200 : 5);
        n = MIN(n, b.n - at);
        rig_send(r, b.p + at, n);
        if (r->x != NULL && pick(2)) {
            http_body_resume(r->x);
        }
        if (r->x != NULL && r->when == RIG_NEVER && !r->x->replied && pick(4) == 0) {
            http_reply(r->x, 200, "text/plain", STR("late"));
        }
    }
    if (pick(2)) {
        shutdown(r->fd, SHUT_WR);
        rig_spin(r);
    }
    rig_read(r);
    assert_true(r->got.n == 0 || (r->got.n > 12 && memcmp(r->got.p, "HTTP/1.1 ", 9) == 0));
    assert_false(r->reset);
    close(r->fd);
    r->fd = -1;
    rig_spin(r); /* before the service behaves differently */
    buf_clear(&r->body);
    buf_done(&b);
}

static void mutants(void **state)
{
    (void)state;
    const char *n = getenv("WEIR_MUTANTS");
    struct rig r;
    rig_init(&r);
    r.limits.header_bytes = 400;
    r.limits.header_count = 8;
    r.limits.body = 40;
    r.limits.discard = 100;
    rig_open(&r);
    for (long i = n != NULL ? strtol(n, NULL, 10) : 20000; i > 0; i--) {
        one(&r);
    }
    assert_true(r.headers > 1000 && r.completes > 1000 && r.gones > 100);
    rig_done(&r); /* asserts that each exchange was finished once */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
