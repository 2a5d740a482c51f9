/* SPDX-License-Identifier: Apache-2.0 */
/* Published vectors of murmur3; spread and avalanche of the table hash; hexadecimal; random numbers after a fork. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"

static uint32_t murmur(const char *z, uint32_t seed)
{
    return murmur3_32(z, strlen(z), seed);
}

static void murmur_vectors(void **state)
{
    (void)state;
    assert_int_equal(murmur("", 0), 0);
    assert_int_equal(murmur("", 1), 0x514e28b7u);
    assert_int_equal(murmur("hello", 0), 0x248bfa47u);
    assert_int_equal(murmur("test", 0x9747b28cu), 0x704b81dcu);
    assert_int_equal(murmur("exp42:user-1", 0), 3224474351u);
    assert_int_equal(murmur("exp42:user-2", 0), 490059043u);
    assert_int_equal(murmur("exp42:user-3", 0), 3349711825u);
    assert_int_equal(murmur("gr1:123", 0), 538421172u);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void table_hash(void **state)
{
    (void)state;
    assert_int_equal(hash64("abc", 3), hash64("abc", 3));
    assert_int_equal(hash64_seed("abc", 3, 1), hash64_seed("abc", 3, 1));
    assert_true(hash64_seed("abc", 3, 1) != hash64_seed("abc", 3, 2));
    assert_true(hash64_seed("", 0, 1) != hash64_seed("\0", 1, 1));

    /* Every length, every single bit flipped: about half of the result's bits change, and no two results agree. */
    enum { LONGEST = 130 };
    static uint64_t all[LONGEST * LONGEST * 4 + LONGEST * 2];
    static unsigned char text[LONGEST];
    size_t n = 0;
    double flipped = 0;
    double flips = 0;
    for (size_t length = 0; length < LONGEST; length++) {
        memset(text, 0x5A, sizeof(text));
        uint64_t plain = hash64_seed(text, length, 99);
        all[n++] = plain;
        for (size_t bit = 0; bit < length * 8; bit++) {
            text[bit / 8] ^= (unsigned char)(1u << bit % 8);
            uint64_t h = hash64_seed(text, length, 99);
            text[bit / 8] ^= (unsigned char)(1u << bit % 8);
            int change = __builtin_popcountll(h ^ plain);
            assert_true(change >= 8 && change <= 56);
            flipped += change;
            flips += 1;
            if (n < COUNT_OF(all)) {
                all[n++] = h;
            }
        }
    }
    assert_true(flipped / flips > 31.7 && flipped / flips < 32.3);
    qsort(all, n, sizeof(all[0]), compare);
    for (size_t i = 1; i < n; i++) {
        assert_true(all[i] != all[i - 1]);
    }
}

static void table_spread(void **state)
{
    (void)state;
    /* Counters as keys, the low bits as slots: the counts are as even as chance makes them. */
    enum { SLOTS = 1024, PER = 256 };
    static unsigned count[SLOTS];
    for (uint64_t i = 0; i < SLOTS * PER; i++) {
        count[hash64_seed(&i, sizeof(i), 5) % SLOTS]++;
    }
    double chi = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        chi += ((double)count[i] - PER) * ((double)count[i] - PER) / PER;
    }
    assert_true(chi > 800 && chi < 1250); /* 1,023 +- 5 times 45 */
}

static void hexadecimal(void **state)
{
    (void)state;
    uint8_t bytes[4] = {0x00, 0x7f, 0xa0, 0xff};
    uint8_t back[4] = {1, 2, 3, 4};
    char text[9];
    hex_encode(text, bytes, 4);
    assert_string_equal(text, "007fa0ff");
    assert_false(hex_decode(back, 4, STR("007fa0fF")));
    assert_false(hex_decode(back, 4, STR("007fa0f")));
    assert_false(hex_decode(back, 4, STR("007fa0ff0")));
    assert_false(hex_decode(back, 4, STR("007fa0fg")));
    assert_int_equal(back[0], 1); /* untouched */
    assert_true(hex_decode(back, 4, STR("007fa0ff")));
    assert_memory_equal(back, bytes, 4);
    assert_true(hex_decode(back, 0, STR("")));
}

static void randomness(void **state)
{
    (void)state;
    uint64_t ones = 0;
    uint64_t last = random_u64();
    for (int i = 0; i < 10000; i++) {
        uint64_t v = random_u64();
        assert_true(v != last);
        ones += (uint64_t)__builtin_popcountll(v);
        last = v;
    }
    assert_true(ones > 315000 && ones < 325000); /* 320,000 +- 400 expected */
    uint8_t a[300] = {0};
    uint8_t b[300] = {0};
    random_bytes(a, sizeof(a));
    random_bytes(b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));

    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        uint64_t mine = random_u64();
        _exit(write(ends[1], &mine, sizeof(mine)) != sizeof(mine));
    }
    uint64_t theirs;
    uint64_t ours = random_u64();
    assert_int_equal(read(ends[0], &theirs, sizeof(theirs)), sizeof(theirs));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(ours != theirs);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(murmur_vectors), cmocka_unit_test(table_hash), cmocka_unit_test(table_spread),
        cmocka_unit_test(hexadecimal),    cmocka_unit_test(randomness),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
