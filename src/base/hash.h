/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes: murmur3 for assignment (a published function, so that others can predict an arm), a fast seeded one for
 * tables, hexadecimal both ways, random bytes.
 *
 * Thread: any. */
#ifndef WEIR_BASE_HASH_H
#define WEIR_BASE_HASH_H

#include "base/base.h"

/* MurmurHash3_x86_32 (A. Appleby, public domain): murmur3_32("hello", 5, 0) == 0x248bfa47. */
uint32_t murmur3_32(const void *p, size_t n, uint32_t seed);
/* 64-bit hash for tables in this process; seeded at start, never stored or sent. */
uint64_t hash64(const void *p, size_t n);
/* Same with a fixed seed, stable within one build: fingerprints. */
uint64_t hash64_seed(const void *p, size_t n, uint64_t seed);
void hex_encode(char *out, const uint8_t *p, size_t n);  /* 2n characters and a terminator */
bool hex_decode(uint8_t *out, size_t n, struct str hex); /* exactly 2n lower-case digits, else false */
void random_bytes(void *p, size_t n);                    /* getrandom; aborts if the kernel has none */
uint64_t random_u64(void);                               /* fast, per thread, not for secrets: request ids, jitter */

#endif
