/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 piece by piece, by OpenSSL's EVP: whatever the processor has for it is used. The one-call form, sha256_hex,
 * is in store/store.h.
 *
 * Thread: any, one at a time for each struct. Running out of memory aborts: the state is some hundred bytes of our own.
 */
#ifndef WEIR_STORE_SHA256_H
#define WEIR_STORE_SHA256_H

#include <stddef.h>

struct sha256 {
    struct evp_md_ctx_st *md; /* NULL: not begun */
};

/* Of a process that is Weir's own, before its first SHA-256 and its second thread: libcrypto's allocations abort for
 * want of memory too. It would go on with locks that it has not got. */
void sha256_setup(void);

void sha256_init(struct sha256 *h);
void sha256_add(struct sha256 *h, const void *p, size_t n);
void sha256_final(struct sha256 *h, char out[65]); /* 64 hex digits and a terminator; h is done */
void sha256_done(struct sha256 *h);                /* for one that is given up; fine twice, and after sha256_final */

#endif
