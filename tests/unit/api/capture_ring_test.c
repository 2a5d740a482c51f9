/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of captured requests: what goes in comes out, whole and in order, and what does not fit is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>

#include "api/capture_ring.h"

#define SIZE 4096u

static int up(void **state)
{
    static struct capture_ring ring;
    struct err e;

    assert_int_equal(capture_ring_init(&ring, SIZE, &e), ERR_OK);
    *state = &ring;
    return 0;
}

static int down(void **state)
{
    capture_ring_done(*state);
    capture_ring_done(*state); /* fine twice */
    return 0;
}

/* The i-th record: its length and its bytes follow from i. */
static uint64_t length_of(uint64_t i, uint64_t most)
{
    return 1 + i * 2654435761u % most;
}

static uint8_t byte_of(uint64_t i, uint64_t at)
{
    return (uint8_t)(i * 131 + at * 7 + 1);
}

static bool put(struct capture_ring *r, uint64_t i)
{
    uint64_t n = length_of(i, capture_ring_most(r));
    uint8_t *p = capture_ring_reserve(r, n);

    for (uint64_t k = 0; p && k < n; k++) {
        p[k] = byte_of(i, k);
    }
    if (p) {
        capture_ring_commit(r, n);
    }
    return p != NULL;
}

static bool take(struct capture_ring *r, uint64_t i)
{
    uint64_t n = 0;
    const uint8_t *p = capture_ring_peek(r, &n);

    if (!p) {
        return false;
    }
    assert_int_equal(n, length_of(i, capture_ring_most(r)));
    for (uint64_t k = 0; k < n; k++) {
        assert_int_equal(p[k], byte_of(i, k));
    }
    capture_ring_pop(r);
    return true;
}

/* Fills it up, takes a varying number out, thousands of times round. */
static void records_come_out_as_they_went_in(void **state)
{
    struct capture_ring *r = *state;
    uint64_t in = 0, out = 0, refused = 0;

    while (out < 20000) {
        while (put(r, in)) {
            in++;
        }
        refused++;
        assert_true(in > out);
        assert_true(capture_ring_used(r) <= SIZE);
        for (uint64_t n = 1 + out % 5; n > 0 && out < in; n--) {
            assert_true(take(r, out));
            out++;
        }
    }
    while (take(r, out)) {
        out++;
    }
    assert_int_equal(out, in);
    assert_int_equal(capture_ring_used(r), 0);
    assert_true(refused > 1000);
}

static void a_full_ring_refuses_and_keeps_what_it_has(void **state)
{
    struct capture_ring *r = *state;
    uint64_t most = capture_ring_most(r), n;

    assert_int_equal(most, SIZE / 4);
    for (int i = 0; i < 3; i++) { /* with its length of eight bytes a fourth does not fit */
        uint8_t *p = capture_ring_reserve(r, most);

        assert_non_null(p);
        memset(p, 'a' + i, most);
        capture_ring_commit(r, most);
    }
    assert_null(capture_ring_reserve(r, most));
    assert_non_null(capture_ring_reserve(r, 100)); /* not committed: nobody sees it */
    for (int i = 0; i < 3; i++) {
        const uint8_t *p = capture_ring_peek(r, &n);

        assert_non_null(p);
        assert_true(n == most && p[0] == 'a' + i && p[most - 1] == 'a' + i);
        capture_ring_pop(r);
    }
    assert_null(capture_ring_peek(r, &n));
}

/* Wherever it stands in the ring, an empty one takes the largest record. */
static void the_largest_record_always_fits_into_an_empty_ring(void **state)
{
    struct capture_ring *r = *state;
    uint64_t n;

    for (int i = 0; i < 2000; i++) {
        assert_non_null(capture_ring_reserve(r, capture_ring_most(r)));
        capture_ring_commit(r, 1 + (uint64_t)i % 50); /* less than was reserved */
        assert_non_null(capture_ring_peek(r, &n));
        assert_int_equal(n, 1 + i % 50);
        capture_ring_pop(r);
    }
}

#define MANY 200000u

static void *write_many(void *arg)
{
    for (uint64_t i = 0; i < MANY;) {
        if (put(arg, i)) {
            i++;
        } else {
            sched_yield();
        }
    }
    return NULL;
}

static void two_threads(void **state)
{
    struct capture_ring *r = *state;
    pthread_t writer;

    assert_int_equal(pthread_create(&writer, NULL, write_many, r), 0);
    for (uint64_t i = 0; i < MANY;) {
        if (take(r, i)) {
            i++;
        } else {
            sched_yield();
        }
    }
    pthread_join(writer, NULL);
    assert_int_equal(capture_ring_used(r), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(records_come_out_as_they_went_in, up, down),
        cmocka_unit_test_setup_teardown(a_full_ring_refuses_and_keeps_what_it_has, up, down),
        cmocka_unit_test_setup_teardown(the_largest_record_always_fits_into_an_empty_ring, up, down),
        cmocka_unit_test_setup_teardown(two_threads, up, down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
