/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes, hexadecimal, random bytes.
 *
 * The table hash folds 16 bytes at a time: two words, each mixed with a key, are multiplied to 128 bits and the halves
 * are xored; long inputs run three such lanes side by side. The seed is drawn at program start, so nobody outside can
 * choose keys that collide.
 *
 * Thread: any. random_u64 has its state per thread; a fork makes every thread draw a new one. */
#include "base/hash.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

/* Odd numbers without pattern: the fractions of the square roots of 2, 3, 5 and 7. */
static const uint64_t salt[4] = {0x6a09e667f3bcc909u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u};

static uint64_t process_seed;
static _Atomic uint32_t fork_count = 1;

static uint32_t rotl32(uint32_t v, int by)
{
    return (v << by) | (v >> (32 - by));
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

uint32_t murmur3_32(const void *data, size_t n, uint32_t seed)
{
    const uint8_t *p = data;
    uint32_t h = seed;
    for (size_t left = n; left >= 4; left -= 4, p += 4) {
        h ^= rotl32(load32(p) * 0xcc9e2d51u, 15) * 0x1b873593u;
        h = rotl32(h, 13) * 5 + 0xe6546b64u;
    }
    uint32_t tail = 0;
    for (size_t i = n & 3; i > 0; i--) {
        tail = (tail << 8) | p[i - 1];
    }
    if (n & 3) {
        h ^= rotl32(tail * 0xcc9e2d51u, 15) * 0x1b873593u;
    }
    h ^= (uint32_t)n;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return h ^ (h >> 16);
}

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t hash64_seed(const void *data, size_t n, uint64_t seed)
{
    const uint8_t *p = data;
    uint64_t a = 0;
    uint64_t b = 0;
    uint64_t h = seed ^ fold(seed ^ salt[0], salt[1]);
    if (n > 16) {
        size_t left = n;
        if (left > 48) {
            uint64_t h1 = h;
            uint64_t h2 = h;
            for (; left > 48; left -= 48, p += 48) {
                h = fold(load64(p) ^ salt[1], load64(p + 8) ^ h);
                h1 = fold(load64(p + 16) ^ salt[2], load64(p + 24) ^ h1);
                h2 = fold(load64(p + 32) ^ salt[3], load64(p + 40) ^ h2);
            }
            h ^= h1 ^ h2;
        }
        for (; left > 16; left -= 16, p += 16) {
            h = fold(load64(p) ^ salt[1], load64(p + 8) ^ h);
        }
        /* The last 16 bytes may overlap what was read: there are always more than 16. */
        a = load64(p + left - 16);
        b = load64(p + left - 8);
    } else if (n >= 8) {
        a = load64(p);
        b = load64(p + n - 8);
    } else if (n >= 4) {
        a = load32(p);
        b = load32(p + n - 4);
    } else if (n > 0) {
        a = ((uint64_t)p[0] << 16) | ((uint64_t)p[n >> 1] << 8) | p[n - 1];
    }
    uint64_t mixed = fold(a ^ salt[1], b ^ h);
    return fold(mixed ^ salt[2] ^ n, h ^ salt[3]);
}

uint64_t hash64(const void *p, size_t n)
{
    return hash64_seed(p, n, process_seed);
}

void hex_encode(char *out, const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool hex_decode(uint8_t *out, size_t n, struct str hex)
{
    if (hex.n % 2 != 0 || hex.n / 2 != n) {
        return false;
    }
    for (size_t i = 0; i < hex.n; i++) {
        if (hex_digit(hex.p[i]) < 0) {
            return false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(hex_digit(hex.p[2 * i]) << 4 | hex_digit(hex.p[2 * i + 1]));
    }
    return true;
}

void random_bytes(void *p, size_t n)
{
    uint8_t *at = p;
    while (n > 0) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            perror("weir: the kernel has no random bytes: getrandom");
            abort();
        }
        at += got;
        n -= (size_t)got;
    }
}

uint64_t random_u64(void)
{
    static _Thread_local uint64_t state[2];
    static _Thread_local uint32_t drawn_at;
    uint32_t now = atomic_load_explicit(&fork_count, memory_order_relaxed);
    if (drawn_at != now) {
        random_bytes(state, sizeof(state));
        state[1] |= 1;
        drawn_at = now;
    }
    state[0] += state[1] ^ salt[0] << 1;
    return fold(state[0] ^ salt[3], state[0] + salt[2]);
}

static void forked(void)
{
    atomic_fetch_add_explicit(&fork_count, 1, memory_order_relaxed);
}

__attribute__((constructor(101))) static void hash_start(void)
{
    random_bytes(&process_seed, sizeof(process_seed));
    pthread_atfork(NULL, NULL, forked);
}
