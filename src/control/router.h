/* SPDX-License-Identifier: Apache-2.0 */
/* The router: which version answers this request. An immutable snapshot behind one atomic pointer; a change builds a
 * new one and swaps. No lock and no database on the request path. An old snapshot is freed after every thread has been
 * through its loop once more.
 *
 * Assignment: bucket = murmur3_x86_32(salt ":" key, seed 0) mod 10000; the canary gets the keys with bucket < share in
 * basis points. So a key stays on its arm, and a growing share moves nobody back. The salt is the rollout's id.
 * In an experiment the stable arm has the buckets [5000, 5000 + share); the other keys, and all of them while the
 * canary is not there, are answered by the stable version as if they had asked for it: they are in no arm.
 *
 * Thread: router_pick and the other readers by connection threads, inside one handler call: nothing they return by
 * pointer may be kept beyond it, but series (which are referenced). router_swap by control. */
#ifndef WEIR_CONTROL_ROUTER_H
#define WEIR_CONTROL_ROUTER_H

#include <stdatomic.h>

#include "base/err.h"
#include "base/map.h"
#include "control/arrivals.h"
#include "control/experiment.h"
#include "control/series.h"
#include "control/shadow.h"
#include "control/tally.h"
#include "inference/tensor.h"

struct capture_rule;
enum arm { ARM_STABLE, ARM_CANARY, ARM_DIRECT }; /* direct: by its number, or in no arm of an experiment */
extern const char *const arm_names[];            /* "stable", "canary", "direct" */

/* What became of feedback that came for a model. */
enum feedback_result {
    FEEDBACK_JOINED,     /* counted as the first word about its answer */
    FEEDBACK_ORPHAN,     /* no such request is remembered */
    FEEDBACK_LATE,       /* its version does not serve any more */
    FEEDBACK_DUPLICATE,  /* there was a first word: it stays */
    FEEDBACK_SUPERSEDED, /* there was one, and it was corrected */
    FEEDBACK_RESULTS
};
extern const char *const feedback_result_names[]; /* "joined", "orphan", "late", "duplicate", "superseded" */

struct route_version {
    int64_t number;
    int slot;                      /* of the loaded version; -1: registered, but not ready */
    const char *state;             /* "ready", "loading", "failed", "registered", "cold" */
    bool cold;                     /* not in memory, or just being loaded again: control_wake brings it back */
    bool away;                     /* cold, for its far side does not answer: not ready, though it is tried on use */
    _Atomic uint32_t *parked;      /* requests that wait for it, of all threads; lives for ever */
    char *why;                     /* of a failure, or NULL */
    const struct model_info *info; /* NULL unless ready; lives as long as the version is loaded */
    struct series *series;         /* for requests that name the version; NULL unless ready */
    char **labels;                 /* of model.yaml, or NULL; lives as the info */
    size_t n_labels;
    int prediction; /* output port that says the predicted class, -1: none; lives as the info */
};
struct route {
    char name[NAME_MAX_LEN + 1];
    struct route_version *versions; /* ascending */
    size_t n_versions;
    int stable, canary; /* index in versions, -1: none */
    struct series *stable_series, *canary_series;
    struct tally *tally; /* of the running or soaking rollout, or NULL; lives like a series */
    unsigned stratum;    /* in it, of share_bp */
    bool soaking;        /* the stable one is what is watched */
    uint32_t share_bp;
    struct shadow *shadow;      /* that runs, or NULL; lives like a series */
    int shadowed;               /* its version's index; -1: none */
    uint64_t timeout_us;        /* deadline of a request that names none */
    uint64_t queue_requests;    /* most that may wait for a cold version */
    _Atomic uint64_t *feedback; /* by enum feedback_result, of all threads; lives for ever */
    struct arrivals *arrivals;  /* lives for ever */
    char salt[40];
    const struct capture_rule *capture;    /* of its family; lives for ever */
    bool fixed;                            /* an experiment is running, with arms of fixed ranges */
    struct goal *goal;                     /* of it, or NULL: for one handler call */
    enum goal_kind goal_kind;              /* GOAL_NONE: no experiment */
    char goal_output[TENSOR_NAME_MAX + 1]; /* of GOAL_OUTPUT */
};
struct snapshot {
    struct map routes; /* name -> struct route */
    bool starting;     /* what there is has not been read from the store yet */
    bool ready;        /* the server as a whole: every model's stable version is ready */
};

struct router {
    _Atomic(struct snapshot *) now;
};

/* Why it is this version. */
enum pick_why {
    PICK_NAMED,   /* the request names it */
    PICK_STABLE,  /* no candidate takes traffic */
    PICK_BUCKET,  /* a rollout runs: by the bucket of its key */
    PICK_OUTSIDE, /* an experiment runs, and the bucket of its key is in neither arm */
};
struct pick {
    const struct route *route;
    const struct route_version *version;
    struct series *series; /* what this request is counted in */
    enum arm arm;
    bool rollout; /* a rollout is running and this request takes part */
    enum pick_why why;
    uint32_t bucket; /* of the key; PICK_BUCKET and PICK_OUTSIDE */
    bool cold;       /* ERR_UNAVAILABLE, but the version can be waited for; route and version are set */
};

uint32_t assignment_bucket(const char *salt, struct str key); /* 0 … 9999 */
/* version 0: as the rollout decides. ERR_NOT_FOUND: no such model or version (names what there is); ERR_UNAVAILABLE:
 * not ready; out->cold tells whether it is worth to wait. */
enum err_code router_pick(const struct router *r, struct str model, int64_t version, struct str key, struct pick *out,
                          struct err *e) MUST_USE;
const struct route *router_find(const struct router *r, struct str model);
/* The next route at or after *i in order of registration; NULL at the end. */
const struct route *router_next(const struct router *r, size_t *i);
bool router_ready(const struct router *r);
/* Swaps; returns the old one, to be freed after a grace period with snapshot_free. Control thread. */
struct snapshot *router_swap(struct router *r, struct snapshot *s);
void snapshot_free(struct snapshot *s);
struct snapshot *snapshot_new(void);

#endif
