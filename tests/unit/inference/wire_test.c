/* SPDX-License-Identifier: Apache-2.0 */
/* The rings of the exchange: two threads and many messages with sleeps at random, so that a missed bell would hang the
 * test; the reuse of output space; and a worker that writes what it likes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "inference/wire.h"

#define BELL_LIMIT_MS 20000 /* nobody sleeps that long unless a bell was missed */

struct rig {
    void *x;
    uint64_t size, out_bytes;
    unsigned ports;
    int exec_bell, bell;
    struct wire_server s;
    struct wire_worker w;
};

static void rig_init(struct rig *r, unsigned ports, unsigned port, uint64_t out_bytes)
{
    *r = (struct rig){.ports = ports, .out_bytes = out_bytes, .size = wire_size(ports, out_bytes)};
    r->x = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(r->x, MAP_FAILED);
    r->exec_bell = eventfd(0, EFD_NONBLOCK);
    r->bell = eventfd(0, EFD_NONBLOCK);
    wire_server_init(&r->s, r->x, ports, port, out_bytes, r->exec_bell);
    wire_worker_init(&r->w, r->x, ports, port, out_bytes, r->bell);
}

static void rig_done(struct rig *r)
{
    munmap(r->x, r->size);
    close(r->exec_bell);
    close(r->bell);
}

static void sleep_on(int bell, const char *who)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    uint64_t n;

    if (poll(&p, 1, BELL_LIMIT_MS) != 1) {
        fprintf(stderr, "%s: a bell was missed\n", who);
        abort();
    }
    if (read(bell, &n, sizeof n) < 0 && errno != EAGAIN) {
        abort();
    }
}

static void maybe_pause(uint64_t *rng, unsigned one_in)
{
    *rng = *rng * 6364136223846793005ull + 1442695040888963407ull;
    if ((*rng >> 33) % one_in == 0) {
        struct timespec nap = {0, (long)((*rng >> 40) % 50000)};
        nanosleep(&nap, NULL);
    }
}

/* ---- two threads ---- */

#ifdef __SANITIZE_THREAD__
#define MESSAGES 200000u
#else
#define MESSAGES 1000000u
#endif

/* Answers each job with a stretch that holds its number, 8 to 807 bytes long. */
static void *worker_thread(void *arg)
{
    struct rig *r = arg;
    uint64_t rng = 7, expect = 0;

    while (expect < MESSAGES) {
        struct wire_submit m;

        if (!wire_take(&r->w, &m)) {
            wire_worker_flush(&r->w);
            atomic_store_explicit(&r->w.x->worker_sleeps, 1, memory_order_relaxed);
            atomic_thread_fence(memory_order_seq_cst);
            if (atomic_load_explicit(&r->w.p->submit_head, memory_order_relaxed) == r->w.tail) {
                sleep_on(r->exec_bell, "worker");
            }
            atomic_store_explicit(&r->w.x->worker_sleeps, 0, memory_order_relaxed);
            continue;
        }
        if (m.id != expect || m.block != expect * 3 || m.deadline_us != ~expect || m.flags != (uint32_t)(expect & 1)) {
            fprintf(stderr, "job %llu came as %llu\n", (unsigned long long)expect, (unsigned long long)m.id);
            abort();
        }
        struct wire_done d = {.id = m.id, .len = 8 + (m.id * 7919) % 800, .code = (uint32_t)m.id % 5};
        uint8_t *to;
        while ((to = wire_space(&r->w, d.len, &d.off, &d.release)) == NULL) {
            wire_worker_flush(&r->w);
            sched_yield();
        }
        for (uint64_t i = 0; i + 8 <= d.len; i += 8) {
            memcpy(to + i, &m.id, 8);
        }
        while (!wire_complete(&r->w, &d)) {
            wire_worker_flush(&r->w);
            sched_yield();
        }
        expect++;
        if (expect % 16 == 0) {
            wire_worker_flush(&r->w);
        }
        maybe_pause(&rng, 20000);
    }
    wire_worker_flush(&r->w);
    return NULL;
}

static void check_answer(struct rig *r, const struct wire_done *d, uint64_t expect)
{
    uint64_t v;

    assert_int_equal(d->id, expect);
    assert_int_equal(d->code, expect % 5);
    assert_int_equal(d->len, 8 + (expect * 7919) % 800);
    assert_true(d->off % 64 == 0 && d->off + d->len <= r->s.out_bytes);
    for (uint64_t i = 0; i + 8 <= d->len; i += 8) {
        memcpy(&v, r->s.out + d->off + i, 8);
        if (v != expect) {
            fail_msg("the output of %llu was overwritten by %llu", (unsigned long long)expect, (unsigned long long)v);
        }
    }
}

static void two_threads(void **state)
{
    struct rig r;
    pthread_t t;
    uint64_t sent = 0, got = 0, rng = 3;
    unsigned slept = 0;

    (void)state;
    rig_init(&r, 1, 0, 16384); /* small, so that it goes round and is often full */
    assert_int_equal(pthread_create(&t, NULL, worker_thread, &r), 0);
    while (got < MESSAGES) {
        struct wire_done d;
        bool any = false;
        struct wire_submit m = {.id = sent, .block = sent * 3, .deadline_us = ~sent, .flags = (uint32_t)(sent & 1)};

        for (unsigned burst = 1 + (unsigned)(rng >> 60); burst > 0 && sent < MESSAGES && wire_submit(&r.s, &m);
             burst--) {
            sent++;
            any = true;
            m = (struct wire_submit){
                .id = sent, .block = sent * 3, .deadline_us = ~sent, .flags = (uint32_t)(sent & 1)};
        }
        wire_publish(&r.s);
        assert_true(wire_pulled(&r.s) <= sent);
        while (wire_next(&r.s, &d)) {
            check_answer(&r, &d, got);
            wire_release(&r.s, &d);
            got++;
            any = true;
        }
        if (!any && got < sent) {
            if (wire_server_arm(&r.s)) {
                sleep_on(r.bell, "server");
                slept++;
            }
            wire_server_disarm(&r.s);
        }
        maybe_pause(&rng, 20000);
    }
    pthread_join(t, NULL);
    assert_int_equal(sent, MESSAGES);
    assert_true(slept > 0);
    assert_int_equal(wire_pulled(&r.s), MESSAGES);
    rig_done(&r);
}

/* ---- one thread, step by step ---- */

static void ring_of_submits(void **state)
{
    struct rig r;
    struct wire_submit m = {0}, got;

    (void)state;
    rig_init(&r, 3, 1, 4096);
    for (unsigned i = 0; i < WIRE_SLOTS; i++) {
        m.id = i;
        assert_true(wire_submit(&r.s, &m));
    }
    assert_false(wire_submit(&r.s, &m)); /* full */
    assert_false(wire_take(&r.w, &got)); /* not published */
    wire_publish(&r.s);
    for (unsigned i = 0; i < WIRE_SLOTS; i++) {
        assert_true(wire_take(&r.w, &got));
        assert_int_equal(got.id, i);
    }
    assert_false(wire_take(&r.w, &got));
    assert_int_equal(wire_pulled(&r.s), WIRE_SLOTS);
    assert_false(wire_submit(&r.s, &m)); /* taken, but not completed: still full */
    struct wire_done d = {.id = 5};
    assert_true(wire_complete(&r.w, &d));
    assert_false(wire_submit(&r.s, &m)); /* completed, but not read */
    assert_true(wire_next(&r.s, &d));
    assert_int_equal(d.id, 5);
    assert_true(wire_submit(&r.s, &m));
    rig_done(&r);
}

static void ports_are_apart(void **state)
{
    struct rig r;
    struct wire_server s2;
    struct wire_worker w2;
    struct wire_submit m = {.id = 1}, got;

    (void)state;
    rig_init(&r, 2, 0, 5000); /* rounded up to 8192 */
    wire_server_init(&s2, r.x, 2, 1, 5000, r.exec_bell);
    wire_worker_init(&w2, r.x, 2, 1, 5000, r.bell);
    assert_int_equal(wire_out(2, 1, 5000) - wire_out(2, 0, 5000), 8192);
    assert_int_equal(wire_size(2, 5000), wire_out(2, 1, 5000) + 8192);
    assert_int_equal(wire_out(2, 0, 5000) % 4096, 0);
    assert_true(wire_out(2, 0, 5000) >= sizeof(struct wire_exchange) + 2 * sizeof(struct wire_port));
    assert_int_equal(wire_out_most(&w2), 8192);
    assert_true(wire_submit(&r.s, &m));
    wire_publish(&r.s);
    assert_false(wire_take(&w2, &got));
    m.id = 2;
    assert_true(wire_submit(&s2, &m));
    wire_publish(&s2);
    assert_true(wire_take(&w2, &got));
    assert_int_equal(got.id, 2);
    assert_true(wire_take(&r.w, &got));
    assert_int_equal(got.id, 1);
    rig_done(&r);
}

static bool rang(int bell)
{
    uint64_t n;

    return read(bell, &n, sizeof n) == (ssize_t)sizeof n;
}

static void bells_ring_only_for_sleepers(void **state)
{
    struct rig r;
    struct wire_submit m = {0};
    struct wire_done d = {0};

    (void)state;
    rig_init(&r, 1, 0, 4096);
    wire_submit(&r.s, &m);
    wire_publish(&r.s);
    assert_false(rang(r.exec_bell));
    atomic_store(&r.w.x->worker_sleeps, 1);
    wire_submit(&r.s, &m);
    wire_publish(&r.s);
    assert_true(rang(r.exec_bell));
    wire_publish(&r.s);
    assert_false(rang(r.exec_bell)); /* once */
    assert_true(wire_complete(&r.w, &d));
    wire_worker_flush(&r.w);
    assert_false(rang(r.bell));
    assert_false(wire_server_arm(&r.s)); /* something is there */
    assert_true(wire_next(&r.s, &d));
    wire_release(&r.s, &d);
    assert_true(wire_server_arm(&r.s));
    assert_true(wire_complete(&r.w, &d));
    wire_worker_flush(&r.w);
    assert_true(rang(r.bell));
    assert_true(wire_next(&r.s, &d));
    assert_true(wire_server_arm(&r.s));
    wire_server_disarm(&r.s);
    assert_true(wire_complete(&r.w, &d));
    wire_worker_flush(&r.w);
    assert_false(rang(r.bell));
    rig_done(&r);
}

/* ---- output space ---- */

struct stretch {
    uint64_t off, len, release;
    uint8_t mark;
};

static void space_is_never_given_twice(void **state)
{
    struct rig r;
    struct stretch q[WIRE_SLOTS];
    unsigned n = 0, refused = 0, all_free = 0;

    (void)state;
    rig_init(&r, 2, 1, 8192);
    for (unsigned step = 0; step < 300000; step++) {
        uint64_t rnd = random_u64();

        if (rnd % 5 < 3 && n < WIRE_SLOTS) {
            uint64_t len = (rnd >> 8) % 16 ? (rnd >> 16) % 1500 : (rnd >> 16) % 8193;
            struct stretch t = {.len = len, .mark = (uint8_t)(rnd >> 56)};
            uint8_t *p = wire_space(&r.w, len, &t.off, &t.release);

            if (!p) {
                assert_true(n > 0); /* with nothing out, everything that can fit fits */
                refused++;
                continue;
            }
            assert_true(t.off % 64 == 0 && t.off + len <= 8192 && p == r.w.out + t.off);
            for (unsigned i = 0; i < n; i++) {
                if (len > 0 && q[i].len > 0 && t.off < q[i].off + ALIGN_UP(q[i].len, 64) &&
                    q[i].off < t.off + ALIGN_UP(len, 64)) {
                    fail_msg("%llu+%llu overlaps %llu+%llu", (unsigned long long)t.off, (unsigned long long)len,
                             (unsigned long long)q[i].off, (unsigned long long)q[i].len);
                }
            }
            memset(p, t.mark, len);
            struct wire_done d = {.off = t.off, .len = len, .release = t.release};
            assert_true(wire_complete(&r.w, &d));
            q[n++] = t;
        } else if (n > 0) {
            struct wire_done d;
            assert_true(wire_next(&r.s, &d));
            assert_int_equal(d.off, q[0].off);
            for (uint64_t i = 0; i < d.len; i++) {
                assert_int_equal(r.s.out[d.off + i], q[0].mark);
            }
            wire_release(&r.s, &d);
            memmove(q, q + 1, --n * sizeof q[0]);
            all_free += n == 0;
        }
    }
    assert_true(refused > 100 && all_free > 100);
    rig_done(&r);
}

static void space_begins_anew_when_all_is_free(void **state)
{
    struct rig r;
    uint64_t off, release;

    (void)state;
    rig_init(&r, 1, 0, 4096);
    for (unsigned i = 0; i < 1000; i++) {
        struct wire_done d = {0};
        assert_non_null(wire_space(&r.w, 100 + i % 3000, &off, &d.release));
        assert_int_equal(off, 0); /* warm */
        assert_true(wire_complete(&r.w, &d) && wire_next(&r.s, &d));
        wire_release(&r.s, &d);
    }
    assert_null(wire_space(&r.w, 4097, &off, &release));
    assert_null(wire_space(&r.w, UINT64_MAX, &off, &release));
    assert_non_null(wire_space(&r.w, 4096, &off, &release));
    assert_null(wire_space(&r.w, 1, &off, &release));
    rig_done(&r);
}

/* ---- a worker that lies ---- */

/* Nothing that a worker writes into the exchange may make the server's end read or write outside of it (the sanitizers
 * and the guard pages say) or go round for ever. */
static void hostile_exchange(void **state)
{
    struct rig r;
    struct wire_port *p;
    uint8_t *guarded;
    uint64_t size = wire_size(2, 4096);

    (void)state;
    rig_init(&r, 2, 1, 4096);
    guarded = mmap(NULL, size + 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(guarded, MAP_FAILED);
    assert_int_equal(mprotect(guarded + 4096, size, PROT_READ | PROT_WRITE), 0);
    wire_server_init(&r.s, guarded + 4096, 2, 1, 4096, r.exec_bell);
    p = r.s.p;
    for (unsigned step = 0; step < 100000; step++) {
        struct wire_submit m = {.id = step};
        struct wire_done d;
        uint64_t rnd = random_u64(), before = r.s.head - r.s.tail;
        unsigned seen = 0;

        atomic_store(&p->done_head, rnd % 3 ? rnd : r.s.tail + rnd % 600);
        atomic_store(&p->submit_tail, random_u64());
        atomic_store(&p->submit_head, random_u64());
        atomic_store(&p->done_tail, random_u64());
        atomic_store(&p->released, random_u64());
        random_bytes(&p->done[rnd % WIRE_SLOTS], sizeof p->done[0]);
        (void)wire_submit(&r.s, &m);
        wire_publish(&r.s);
        assert_true(wire_pulled(&r.s) <= r.s.head);
        for (; seen < WIRE_SLOTS && wire_next(&r.s, &d); seen++) {
            wire_release(&r.s, &d);
        }
        (void)wire_server_arm(&r.s);
        wire_server_disarm(&r.s);
        assert_true(r.s.head - r.s.tail <= before + 1 || r.s.tail > r.s.head);
    }
    munmap(guarded, size + 2 * 4096);
    rig_done(&r);
}

/* The server counts from its own zero, whatever the worker left in the exchange before the port was attached. */
static void hostile_before_attach(void **state)
{
    struct rig r;
    struct wire_submit m = {.id = 9};
    struct wire_done d;

    (void)state;
    rig_init(&r, 1, 0, 4096);
    atomic_store(&r.w.p->submit_head, 1234567);
    atomic_store(&r.w.p->done_tail, 99);
    wire_server_init(&r.s, r.x, 1, 0, 4096, r.exec_bell);
    for (unsigned i = 0; i < WIRE_SLOTS; i++) {
        assert_true(wire_submit(&r.s, &m));
    }
    assert_false(wire_submit(&r.s, &m));
    assert_false(wire_next(&r.s, &d));
    rig_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ring_of_submits),
        cmocka_unit_test(ports_are_apart),
        cmocka_unit_test(bells_ring_only_for_sleepers),
        cmocka_unit_test(space_is_never_given_twice),
        cmocka_unit_test(space_begins_anew_when_all_is_free),
        cmocka_unit_test(hostile_exchange),
        cmocka_unit_test(hostile_before_attach),
        cmocka_unit_test(two_threads),
    };

    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
