/* SPDX-License-Identifier: Apache-2.0 */
/* The addresses of a far side, and which of them gets the next request.
 *
 * Two of them are drawn by chance, and the one with the smaller (open requests + 1) x latency is taken (power of two
 * choices, Mitzenmacher 2001, on the cost that Finagle's "least loaded" and Envoy's "least request" use); the latency
 * is an exponentially weighted mean (1/8). An address that fails is ejected: one where nobody listens at once, one that
 * breaks off or does not answer after three failures in a row; for a second, then twice as long each time, up to half a
 * minute. After that it is tried again, and one failure more ejects it anew. When all are ejected, all are tried: no
 * answer at all can not be worse.
 *
 * Retries have a budget: each request earns a fifth of one, and a hundred may be saved up (gRFC A6). What is tried
 * again by many at once is what keeps an overloaded server down.
 *
 * Thread: targets_set by control; the rest by any, relaxed atomics, addresses under a lock that is held for a copy. */
#ifndef WEIR_BACKENDS_REMOTE_TARGET_H
#define WEIR_BACKENDS_REMOTE_TARGET_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/sock.h"

#define TARGETS_MAX 32
#define TARGET_FAILURES 3 /* in a row, until it is ejected */
#define TARGET_OUT_US 1000000ull
#define TARGET_OUT_MAX_US 30000000ull

struct target {
    struct addr addr;     /* under the lock */
    _Atomic uint32_t gen; /* of the address: 0: there never was one */
    _Atomic bool listed;  /* the name resolves to it */
    _Atomic uint32_t open, failures, ejections;
    _Atomic uint64_t latency_us, out_until_us;
};
struct targets {
    pthread_mutex_t lock;
    struct target target[TARGETS_MAX];
};

void targets_init(struct targets *t);
void targets_done(struct targets *t);
/* What the name resolves to now. Addresses that stay keep what is known of them; those that go get no new request. What
 * has no room is left out. */
void targets_set(struct targets *t, const struct addr *addr, size_t n);
/* The address, if it is still that one. */
bool targets_addr(struct targets *t, unsigned i, uint32_t gen, struct addr *out);

struct target_pick {
    unsigned index;
    uint32_t gen;
};
/* Draws one that is not `not` (UINT_MAX: any will do), else that one too. False: there is none. *up: it is not ejected.
 * now_us: clock_us(); chance: uniform bits. */
bool targets_pick(struct targets *t, unsigned not, uint64_t now_us, uint64_t chance, struct target_pick *out, bool *up);
/* How many are listed, and how many of them are not ejected. */
unsigned targets_listed(const struct targets *t, uint64_t now_us, unsigned *up);

/* What happened there: a request began; it ended. */
enum target_end {
    TARGET_ANSWERED, /* whatever the answer was */
    TARGET_BROKE,    /* it broke off, or did not answer */
    TARGET_REFUSED,  /* nobody listens */
    TARGET_LEFT,     /* we did not wait for it: says nothing */
};
void target_begin(struct targets *t, struct target_pick p);
void target_end(struct targets *t, struct target_pick p, enum target_end end, uint64_t took_us, uint64_t now_us);

/* A retry budget. Thread: one at a time. */
#define BUDGET_EARN 20 /* hundredths of a retry for a request */
#define BUDGET_MOST 10000
struct retry_budget {
    uint32_t hundredths;
};
void retry_budget_init(struct retry_budget *b);
void retry_budget_earn(struct retry_budget *b);
bool retry_budget_take(struct retry_budget *b);

#endif
