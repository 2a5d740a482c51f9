/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 by OpenSSL: a thin layer that turns failures, which here can only mean no memory or a broken libcrypto, into
 * an abort.
 *
 * Thread: any. */
#include "store/sha256.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/store.h"

static void check(int ok)
{
    if (!ok) {
        fputs("weir: out of memory: libcrypto can not compute a SHA-256\n", stderr);
        abort();
    }
}

static void *lib_malloc(size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return xmalloc(n);
}

static void *lib_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return xrealloc(p, n);
}

static void lib_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    free(p);
}

void sha256_setup(void)
{
    CRYPTO_set_mem_functions(lib_malloc, lib_realloc, lib_free); /* refused when it has allocated already: then as is */
}

void sha256_init(struct sha256 *h)
{
    h->md = EVP_MD_CTX_new();
    check(h->md && EVP_DigestInit_ex(h->md, EVP_sha256(), NULL) == 1);
}

void sha256_add(struct sha256 *h, const void *p, size_t n)
{
    check(EVP_DigestUpdate(h->md, p, n) == 1);
}

void sha256_final(struct sha256 *h, char out[65])
{
    uint8_t sum[32];
    check(EVP_DigestFinal_ex(h->md, sum, NULL) == 1);
    hex_encode(out, sum, sizeof sum);
    sha256_done(h);
}

void sha256_done(struct sha256 *h)
{
    EVP_MD_CTX_free(h->md);
    h->md = NULL;
}

void sha256_hex(char out[65], const void *p, size_t n)
{
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, p, n);
    sha256_final(&h, out);
}
