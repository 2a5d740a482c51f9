/* SPDX-License-Identifier: Apache-2.0 */
/* A shadow: a version that gets copies of requests that the stable one has answered, and whose answers nobody sees but
 * this count of what they differ in.
 *
 * Here is what is counted, one part a connection thread. Results and times are relaxed atomics that anybody may read;
 * the sums of differences belong to the part's thread alone, and are added up by a task that goes round the threads
 * (control_shadow_sum). Requests are copied by api/shadow.c.
 *
 * A request is shadowed if its id's bucket under the shadow's own salt (router.h) is below the share. Of those, every
 * tenth of the first thousand of a thread, then every hundredth, also goes to the stable version a second time: what
 * that differs in is the noise floor.
 *
 * Thread: as said with each call. It lives until no request holds it and no thread can find it any more; like a series.
 */
#ifndef WEIR_CONTROL_SHADOW_H
#define WEIR_CONTROL_SHADOW_H

#include "base/diff.h"
#include "base/err.h"
#include "base/sketch.h"
#include "store/store.h"

/* What became of a copy: it was answered and compared, the candidate failed, or it was dropped. */
enum shadow_result {
    SHADOW_AGREES,
    SHADOW_DIFFERS,
    SHADOW_ERROR,   /* the candidate's own: a failed run, an answer that can not be read */
    SHADOW_FULL,    /* as many copies, or bytes of them, are on their way as may be */
    SHADOW_REFUSED, /* the version has too much to do */
    SHADOW_LATE,    /* its deadline passed */
    SHADOW_GONE,    /* the version is not loaded, or was unloaded meanwhile */
    SHADOW_UNFIT,   /* the version takes other inputs than the stable one */
    SHADOW_RESULTS
};
/* "agrees", "differs", "error", "full", "refused", "deadline", "gone", "unfit" */
extern const char *const shadow_result_names[];
#define SHADOW_FIRST_DROP SHADOW_FULL

enum shadow_run { SHADOW_CANDIDATE, SHADOW_NOISE, SHADOW_RUNS }; /* who runs the copy: the version, the stable one */

struct shadow;
struct shadow *shadow_new(uint64_t id, const struct shadow_row *row, unsigned parts); /* NULL without memory */
void shadow_free(struct shadow *s);                                                   /* NULL is fine */
bool shadow_idle(const struct shadow *s);
uint64_t shadow_id(const struct shadow *s);
int64_t shadow_since_ms(const struct shadow *s); /* wall time of its creation: from when on it counts */
const struct shadow_row *shadow_row(const struct shadow *s);
/* Whether the request with this id is copied. Any thread. */
bool shadow_wants(const struct shadow *s, struct str id);

/* ---- the connection thread that owns `part` ---- */
void shadow_ref(struct shadow *s, unsigned part);
void shadow_unref(struct shadow *s, unsigned part);
/* A request is copied; true: to the stable version too. */
bool shadow_begin(struct shadow *s, unsigned part);
void shadow_count(struct shadow *s, unsigned part, enum shadow_run run, enum shadow_result result);
/* Times in the engine (its wait and its run) of both answers of a pair, nanoseconds. */
void shadow_times(struct shadow *s, unsigned part, uint64_t stable_ns, uint64_t candidate_ns);
struct diff_sum *shadow_diff(struct shadow *s, unsigned part, enum shadow_run run);

/* ---- any thread ---- */
uint64_t shadow_copied(const struct shadow *s);
uint64_t shadow_total(const struct shadow *s, enum shadow_run run, enum shadow_result result);
/* Adds the parts' times; *stable and *candidate are the caller's. */
void shadow_sketch(const struct shadow *s, struct sketch *stable, struct sketch *candidate);

/* ---- control thread: while a sum goes round, the shadow is not idle ---- */
void shadow_hold(struct shadow *s);
void shadow_let_go(struct shadow *s);

#endif
