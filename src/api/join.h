/* SPDX-License-Identifier: Apache-2.0 */
/* Answered requests, remembered in bounded memory until their feedback comes: one table a connection thread, of what
 * that thread answered.
 *
 * Retention: the newest 65,536 answers of a thread, fewer when ids fall together (an id has eight places; the oldest of
 * them gives way); 80 bytes each, 5 MiB a thread, which are not touched before they are used. There is no time limit.
 * What has given way, and what was answered before a restart, is an orphan when its
 * feedback comes. An answer outlives the series it was counted in: its
 * feedback is counted as long as its version serves (join_series), and takes part in the judge's test as long as the
 * rollout that it was assigned in goes on (tally_id).
 *
 * Nothing in an entry points anywhere: series and tallies are named by their ids, and only those that a route holds now
 * are looked at.
 *
 * Thread: the one that the table is of. */
#ifndef WEIR_API_JOIN_H
#define WEIR_API_JOIN_H

#include "control/router.h"

enum { /* what is known of an answer already */
       JOIN_LABEL = 1,
       JOIN_REWARD = 2,
       JOIN_LABEL_HERE = 4, /* it is counted in the series of series_id */
       JOIN_REWARD_HERE = 8,
       JOIN_CORRECT = 16,
};
struct join_entry {
    uint64_t key; /* join_key; 0: empty */
    uint64_t seq;
    uint64_t series_id;         /* what it was counted in last */
    uint64_t tally;             /* tally_id of the rollout that it took part in; 0: none */
    struct tally_answer answer; /* where there is a tally; but its key, the user's hash, is always there, 0: no user */
    uint64_t predicted;         /* join_label of the class; 0: none is known */
    double reward;
    int64_t version;
    uint8_t arm, got;
};

struct join;
struct join *join_new(void);
void join_free(struct join *j); /* NULL is fine */

/* Hashes: of an id, within its model; of a class. Never 0. */
uint64_t join_key(struct str model, struct str id);
uint64_t join_label(struct str name);

struct join_answer {
    struct str model, id, predicted; /* predicted p == NULL: no class is known */
    const struct series *series;     /* it is counted there */
    int64_t version;
    enum arm arm;
    uint64_t user;                 /* a hash of the user's key, 0: none */
    const struct tally_mark *mark; /* the judge's; its tally NULL: it takes no part */
};
void join_put(struct join *j, const struct join_answer *a);
struct join_entry *join_find(struct join *j, uint64_t key); /* NULL: not remembered; valid until the next join_put */

/* What the answer's feedback is counted in: the series that counted the answer, if it goes on; else the one that its
 * version has in this route now; NULL: the version does not serve any more. */
struct series *join_series(const struct route *t, const struct join_entry *e);

#endif
