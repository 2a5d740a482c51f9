/* SPDX-License-Identifier: Apache-2.0 */
/* A tally: the raw events of one rollout, counted where they happen.
 *
 * A request that takes part carries a mark from its beginning to its end. At its end, or as soon as it is open for
 * longer than the stable's frozen times, it is counted: into the stratum of the share it was assigned under, on its
 * arm. Of a user (a key) only the first request counts as exposure, and only the first bad answer of each kind, in the
 * whole rollout: the key's flags are set by one atomic or in a table that all threads share (open addressing, 2^20
 * slots of a hash with seven flags, mapped and not touched until used; when it is nearly full no new user is admitted,
 * and tally_full says so: what was counted stays valid, and the requests of others count among `answered` and `all`
 * only). Without a key every request counts.
 *
 * Feedback comes after the mark is gone: what is needed to count it is kept with the answer (tally_answer), and
 * tally_id tells whether the tally that is there now is still the one that the request took part in.
 *
 * The counters have one writer each, the connection thread of their part; readers add the parts.
 *
 * Thread: as said with each call. A tally lives until no request holds a mark on it (tally_idle) and no thread can find
 * it any more; like a series. */
#ifndef WEIR_CONTROL_TALLY_H
#define WEIR_CONTROL_TALLY_H

#include "control/judge.h"

struct tally;

/* Control thread. base: what was counted before a restart, or NULL. NULL without memory. */
struct tally *tally_new(unsigned parts, const struct judge_counts *base);
void tally_free(struct tally *t); /* NULL is fine */
bool tally_idle(const struct tally *t);
uint64_t tally_id(const struct tally *t); /* of no other tally of this process, never 0; any thread */

/* The stratum of a share, for tally_begin; the same share again is the same stratum. When all JUDGE_STRATA are taken,
 * the one with the fewest answers of the candidate makes room: its evidence is lost, which never convicts anybody, and
 * what its requests that are still open come to is not counted. */
unsigned tally_stratum(struct tally *t, uint32_t share_bp);
/* Freezes what counts as slow, once; nanoseconds of service time. wait_ns: for how much longer a request may be open
 * before it counts as slow without an answer: what it may spend on its way and in queues. */
void tally_freeze(struct tally *t, uint64_t p95_ns, uint64_t p99_ns, uint64_t wait_ns);
bool tally_frozen(const struct tally *t);
bool tally_full(const struct tally *t);
/* All parts added up. Any thread. Of each metric bad <= all <= answered (of wrong: <= labelled), while they are being
 * counted too. */
void tally_sum(const struct tally *t, struct judge_counts *out);

enum { TALLY_ERROR = 1u << METRIC_ERRORS, TALLY_INVALID = 1u << METRIC_INVALID }; /* what a caller knows to be bad */

/* ---- the connection thread that owns `part` ---- */
struct tally_mark {
    struct tally *tally; /* NULL: not taking part */
    struct tally_mark *prev, *next;
    uint64_t start_us, key;
    uint32_t stratum;
    uint8_t arm;
    uint8_t seen; /* kinds of bad that it was counted for, while open */
};
/* arm: JUDGE_STABLE or JUDGE_CANARY; key: a hash of the user's key, 0: none; start_us: clock_us() of its beginning. */
void tally_begin(struct tally *t, unsigned part, struct tally_mark *m, unsigned stratum, unsigned arm, uint64_t key,
                 uint64_t start_us);
/* Answered. bad: TALLY_ERROR, TALLY_INVALID. Slow is found out here: end_us is its start_us and the time it was served
 * for. Waiting for others, and for a process that is started again, is not counted as the version's slowness. */
void tally_end(struct tally_mark *m, unsigned part, unsigned bad, uint64_t end_us);
/* It does not count: the client's own error, or it went away. */
void tally_drop(struct tally_mark *m, unsigned part);
/* Feedback about an answer of a request that had a mark on this tally, by the part that had it: its first value of that
 * kind. What is of a share that has made room is not counted. */
struct tally_answer {
    uint64_t key, id; /* of its mark; a hash of the request's id, which stands for the user where there is no key */
    uint32_t stratum; /* of its mark, as its arm */
    uint8_t arm;
};
void tally_label(struct tally *t, unsigned part, const struct tally_answer *a, bool wrong);
void tally_reward(struct tally *t, unsigned part, const struct tally_answer *a, double reward); /* finite */
/* Counts what has been open for too long, as answered and slow; and says how many of the candidate's there are just
 * now. Every quarter of a second or so, while a rollout runs. */
void tally_scan(struct tally *t, unsigned part, uint64_t now_us);

#endif
