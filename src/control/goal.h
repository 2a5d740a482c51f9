/* SPDX-License-Identifier: Apache-2.0 */
/* The goal of an experiment, counted: a number for each request of an arm, be it a reward, right or wrong, or an
 * output's value.
 *
 * Users who come more than once make requests depend on each other, so sums are kept by group: each key (a user; of a
 * request that names none the request itself) falls into one of STATS_GROUPS groups of its arm by a hash, and of each
 * group there are the sum of values and their count. That is all that stats_grouped asks for; it takes 8 KiB an arm
 * and thread however many users come.
 *
 * Numbers that are not finite, or beyond GOAL_MOST, are not counted but dropped, and that is counted.
 *
 * One part a connection thread, written by that thread alone without a lock; readers add the parts (relaxed atomics; a
 * value that is just being added may be in the sum and not in the count yet). A goal is used within one handler call of
 * a thread that has found it in the router's snapshot, and lives until no thread can find it any more.
 *
 * Thread: as said with each call. */
#ifndef WEIR_CONTROL_GOAL_H
#define WEIR_CONTROL_GOAL_H

#include <yyjson.h>

#include "base/err.h"
#include "control/judge.h"

enum goal_kind { GOAL_NONE, GOAL_REWARD, GOAL_ACCURACY, GOAL_OUTPUT };

#define GOAL_MOST 1e100

struct goal_arm {
    double y[STATS_GROUPS];
    uint64_t n[STATS_GROUPS];
};
struct goal_counts {
    struct goal_arm arm[JUDGE_ARMS];
    uint64_t dropped[JUDGE_ARMS];
};

struct goal;
/* Control thread. base: what was counted before a restart, or NULL. NULL without memory. */
struct goal *goal_new(unsigned parts, const struct goal_counts *base);
void goal_free(struct goal *g); /* NULL is fine */
/* The connection thread that owns `part`. arm: JUDGE_STABLE or JUDGE_CANARY; key: a hash of the user's key, or of the
 * request where it has none. */
void goal_add(struct goal *g, unsigned part, unsigned arm, uint64_t key, double value);
/* All parts and the base added up. Any thread. */
void goal_sum(const struct goal *g, struct goal_counts *out);

/* As JSON, and back: {"y":[[…],[…]],"n":[[…],[…]],"dropped":[…]}. False: it was not written by goal_counts_json; *c is
 * undefined then. */
void goal_counts_json(struct buf *out, const struct goal_counts *c);
bool goal_counts_read(struct goal_counts *c, yyjson_val *v) MUST_USE;

#endif
