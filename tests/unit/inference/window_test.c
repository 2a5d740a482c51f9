/* SPDX-License-Identifier: Apache-2.0 */
/* Windows: the allocator against a plain model of who owns which byte, its limits, coalescing, and the seals of a
 * shared one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "inference/window.h"

static struct window *window(uint64_t part, unsigned parts, bool shared)
{
    struct window *w = NULL;
    struct err e;

    if (window_new(&w, "test", part, parts, shared, &e) != ERR_OK) {
        fail_msg("%s", e.text);
    }
    return w;
}

static uint64_t rounded(uint64_t bytes)
{
    uint64_t n = 512;

    while (n < bytes) {
        n <<= 1;
    }
    return n;
}

/* ---- against a model ---- */

struct taken {
    uint64_t off, bytes;
    uint8_t mark;
};

static void mark(struct window *w, const struct taken *t)
{
    memset(window_base(w) + t->off, t->mark, t->bytes);
}

static void check_mark(struct window *w, const struct taken *t)
{
    const uint8_t *p = window_base(w) + t->off;

    for (uint64_t i = 0; i < t->bytes; i++) {
        if (p[i] != t->mark) {
            fail_msg("byte %llu of a block was overwritten by another", (unsigned long long)i);
        }
    }
}

static void random_take_and_give(void **state)
{
    enum { PARTS = 3, SLOTS = 200 };
    static struct taken t[PARTS][SLOTS];
    const uint64_t part = 1 << 20;
    struct window *w = window(part, PARTS, false);
    uint64_t used[PARTS] = {0};
    unsigned full = 0;

    (void)state;
    assert_int_equal(window_size(w), PARTS * part);
    for (unsigned step = 0; step < 60000; step++) {
        uint64_t r = random_u64();
        unsigned p = (unsigned)(r % PARTS);
        struct taken *at = &t[p][(r >> 8) % SLOTS];

        if (at->bytes) {
            check_mark(w, at);
            window_give(w, p, at->off);
            used[p] -= rounded(at->bytes);
            at->bytes = 0;
        } else {
            uint64_t bytes = 1 + (r >> 20) % (1ull << (4 + (r >> 16) % 14));
            uint64_t off = window_take(w, p, bytes);

            if (off == WINDOW_NONE) {
                full++;
                continue;
            }
            assert_true(off >= p * part && off + rounded(bytes) <= (p + 1) * part && off % 64 == 0);
            *at = (struct taken){off, bytes, (uint8_t)(r >> 56)};
            mark(w, at);
            used[p] += rounded(bytes);
        }
        assert_int_equal(window_used(w, p), used[p]);
    }
    assert_true(full > 0); /* the test went where it is tight */
    for (unsigned p = 0; p < PARTS; p++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            if (t[p][i].bytes) {
                check_mark(w, &t[p][i]);
                window_give(w, p, t[p][i].off);
            }
        }
        assert_int_equal(window_used(w, p), 0);
        assert_int_equal(window_take(w, p, part), p * part); /* all of it came together again */
    }
    window_free(w);
}

static void blocks_do_not_overlap(void **state)
{
    const uint64_t part = 64 * 512;
    struct window *w = window(part, 1, false);
    uint8_t owner[64] = {0};

    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t offs[64];
        unsigned n = 0;

        memset(owner, 0, sizeof owner);
        for (;;) {
            uint64_t bytes = 512ull << (random_u64() % 4), off = window_take(w, 0, bytes);
            if (off == WINDOW_NONE) {
                break;
            }
            assert_int_equal(off % bytes, 0);
            for (uint64_t u = off / 512; u < (off + bytes) / 512; u++) {
                assert_int_equal(owner[u]++, 0);
            }
            offs[n++] = off;
        }
        while (n > 0) {
            unsigned k = (unsigned)(random_u64() % n);
            window_give(w, 0, offs[k]);
            offs[k] = offs[--n];
        }
        assert_int_equal(window_used(w, 0), 0);
    }
    window_free(w);
}

/* Of one size, exactly as much as at the worst moment; of many sizes, not much more. */
static void no_more_is_touched_than_was_in_use_at_once(void **state)
{
    enum { MOST = 700 };
    static const unsigned sizes[] = {1, 12};
    const uint64_t part = 1 << 30; /* mapped, never touched */

    (void)state;
    for (size_t k = 0; k < COUNT_OF(sizes); k++) {
        struct window *w = window(part, 1, false);
        uint64_t off[MOST], touched = 0, peak = 0;
        unsigned n = 0, most = 300;

        for (unsigned step = 0; step < 200000; step++) {
            most = step == 100000 ? MOST : most;
            if (n < most && (n == 0 || random_u64() % (2 * most) >= n)) {
                uint64_t bytes = 512ull << random_u64() % sizes[k];

                off[n] = window_take(w, 0, bytes);
                assert_int_not_equal(off[n], WINDOW_NONE);
                touched = MAX(touched, off[n] + bytes);
                n++;
            } else {
                unsigned at = (unsigned)(random_u64() % n);

                window_give(w, 0, off[at]);
                off[at] = off[--n];
            }
            peak = MAX(peak, window_used(w, 0));
        }
        if (sizes[k] == 1) {
            assert_int_equal(touched, peak);
        } else {
            assert_true(touched < peak + peak / 2);
        }
        window_free(w);
    }
}

/* Rather the beginning of a larger block below than one of the right size that nobody has touched yet. */
static void the_lowest_is_taken(void **state)
{
    struct window *w = window(4096, 1, false);
    uint64_t a = window_take(w, 0, 512), b = window_take(w, 0, 512);

    (void)state;
    assert_int_equal(window_take(w, 0, 512), 1024);
    window_give(w, 0, a);
    window_give(w, 0, b);
    assert_int_equal(window_take(w, 0, 512), 0);
    assert_int_equal(window_take(w, 0, 1024), 2048);
    assert_int_equal(window_take(w, 0, 512), 512);
    assert_int_equal(window_take(w, 0, 512), 1536);
    window_free(w);
}

static void full_and_too_large(void **state)
{
    struct window *w = window(3000, 2, false); /* rounded up to 4096 */
    uint64_t off[8];

    (void)state;
    assert_int_equal(window_size(w), 8192);
    assert_int_equal(window_take(w, 0, 4097), WINDOW_NONE);
    assert_int_equal(window_take(w, 0, UINT64_MAX), WINDOW_NONE);
    for (unsigned i = 0; i < 8; i++) {
        off[i] = window_take(w, 1, i); /* 0 bytes have a place, too */
        assert_in_range(off[i], 4096, 8191);
    }
    assert_int_equal(window_take(w, 1, 1), WINDOW_NONE);
    assert_int_equal(window_take(w, 0, 4096), 0); /* the other part is not touched */
    assert_int_equal(window_take(w, 0, 1), WINDOW_NONE);
    window_give(w, 1, off[3]);
    assert_int_equal(window_take(w, 1, 513), WINDOW_NONE);
    assert_int_equal(window_take(w, 1, 512), off[3]);
    window_free(w);
}

static void coalescing(void **state)
{
    static const unsigned orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {0, 2, 1, 3}, {2, 1, 3, 0}};
    struct window *w = window(2048, 1, false);

    (void)state;
    for (size_t k = 0; k < COUNT_OF(orders); k++) {
        uint64_t off[4];
        for (unsigned i = 0; i < 4; i++) {
            off[i] = window_take(w, 0, 512);
            assert_true(off[i] != WINDOW_NONE);
        }
        for (unsigned i = 0; i < 4; i++) {
            window_give(w, 0, off[orders[k][i]]);
            assert_int_equal(window_used(w, 0), (3 - i) * 512);
        }
        off[0] = window_take(w, 0, 2048);
        assert_int_equal(off[0], 0);
        window_give(w, 0, off[0]);
    }
    /* 1024 and a neighbour of 512 do not join across sizes */
    uint64_t a = window_take(w, 0, 512), b = window_take(w, 0, 512), c = window_take(w, 0, 1024);
    window_give(w, 0, b);
    window_give(w, 0, c);
    assert_int_equal(window_take(w, 0, 2048), WINDOW_NONE);
    assert_int_equal(window_take(w, 0, 1024), c);
    window_give(w, 0, c);
    window_give(w, 0, a);
    assert_int_equal(window_take(w, 0, 2048), 0);
    window_free(w);
}

/* Runs fn in a child and says whether it died of an assert. */
static bool aborts(void (*fn)(void))
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(2);
        }
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void give_twice(void)
{
    struct window *w = window(4096, 1, false);
    uint64_t a = window_take(w, 0, 512);

    window_give(w, 0, a);
    window_give(w, 0, a);
}
static void give_the_middle(void)
{
    struct window *w = window(4096, 1, false);

    window_give(w, 0, window_take(w, 0, 1024) + 512);
}
static void give_to_another_part(void)
{
    struct window *w = window(4096, 2, false);

    window_give(w, 1, window_take(w, 0, 512));
}

static void wrong_gives_are_caught(void **state)
{
    (void)state;
    assert_true(aborts(give_twice));
    assert_true(aborts(give_the_middle));
    assert_true(aborts(give_to_another_part));
}

/* ---- shared ---- */

static void sealed(void **state)
{
    struct window *w = window(1 << 16, 2, true), *view;
    int fd = window_fd(w), again;
    char path[64];
    struct stat st;
    struct err e;
    void *p;

    (void)state;
    assert_true(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 2 << 16);
    window_base(w)[70000] = 42;
    /* what a worker gets */
    assert_int_equal(window_map(&view, fd, window_size(w), &e), ERR_OK);
    assert_int_equal(window_base(view)[70000], 42);
    window_base(w)[70000] = 43; /* the server goes on writing through the mapping that it had before */
    assert_int_equal(window_base(view)[70000], 43);
    assert_int_equal(mprotect(window_base(view), 4096, PROT_READ | PROT_WRITE), -1);
    assert_int_equal(errno, EACCES);
    assert_int_equal(madvise(window_base(view), 4096, MADV_REMOVE), -1);
    /* and what it may try with the descriptor, or with a new one of the same file */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    again = open(path, O_RDWR | O_CLOEXEC);
    for (int k = 0, fds[2] = {fd, again}; k < 2; k++) {
        if (fds[k] < 0) {
            continue;
        }
        p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[k], 0);
        assert_ptr_equal(p, MAP_FAILED);
        assert_int_equal(errno, EPERM);
        assert_int_equal(pwrite(fds[k], "x", 1, 0), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(fds[k], 0), -1);
        assert_int_equal(ftruncate(fds[k], 1 << 20), -1);
        assert_int_equal(fallocate(fds[k], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        assert_int_equal(fcntl(fds[k], F_ADD_SEALS, F_SEAL_WRITE), -1);
    }
    if (again >= 0) {
        close(again);
    }
    window_free(view);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC); /* the view did not close it */
    window_free(w);
}

static void private_has_no_descriptor(void **state)
{
    struct window *w = window(4096, 1, false);

    (void)state;
    assert_int_equal(window_fd(w), -1);
    window_free(w);
    window_free(NULL);
}

static void too_large_to_have(void **state)
{
    struct window *w = NULL;
    struct err e = {0};

    (void)state;
    /* 64 parts of a TiB each are more than a process can map */
    if (window_new(&w, "huge", 1ull << 40, 256, true, &e) == ERR_OK) {
        window_free(w);
        skip();
    }
    assert_null(w);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_true(e.text[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_take_and_give),
        cmocka_unit_test(blocks_do_not_overlap),
        cmocka_unit_test(no_more_is_touched_than_was_in_use_at_once),
        cmocka_unit_test(the_lowest_is_taken),
        cmocka_unit_test(full_and_too_large),
        cmocka_unit_test(coalescing),
        cmocka_unit_test(wrong_gives_are_caught),
        cmocka_unit_test(sealed),
        cmocka_unit_test(private_has_no_descriptor),
        cmocka_unit_test(too_large_to_have),
    };

    return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
