/* SPDX-License-Identifier: Apache-2.0 */
/* What came for a model, how unevenly, and what it took of its executors, since the server started: what a plan is made
 * from (GET /admin/profile). It outlives versions and rollouts.
 *
 * A connection thread counts in its own part: two counters a request, and a ring of counts by 10 ms. The control thread
 * reads the rings once a second and adds up, for spans of 10 ms, 100 ms, 1 s and 10 s, the variance of the counts
 * within ten neighbours. That gives the index of dispersion for counts, I(T) = Var N(T) / E N(T), which is 1 for
 * Poisson arrivals, 0 for even ones, and grows with T where they come in bursts: the variance within ten is, in the
 * mean, (10 I(T) - I(10 T)) / 9 of the mean count, and is solved for I from the longest span down (what is slower than
 * 100 s, day and night, is no burst and does not count).
 *
 * A control thread that is held up for longer than the ring loses what fell out of it: that stretch is left out.
 *
 * Thread: as said with each call. */
#ifndef WEIR_CONTROL_ARRIVALS_H
#define WEIR_CONTROL_ARRIVALS_H

#include "base/sketch.h"

#define ARRIVALS_SPANS 4

struct arrivals;
/* now_us: clock_us(). */
struct arrivals *arrivals_new(unsigned parts, uint64_t now_us);
void arrivals_free(struct arrivals *a); /* NULL is fine */

/* ---- the connection thread that owns `part` ---- */
/* A request, whatever becomes of it; at_us: clock_us() of its first byte, at most a second ago. */
void arrivals_add(struct arrivals *a, unsigned part, uint64_t at_us);
/* It was answered by a run of `joined` requests that took compute_ns, and stood still for stalled_ns besides. */
void arrivals_ran(struct arrivals *a, unsigned part, uint64_t compute_ns, uint64_t stalled_ns, uint32_t joined);

/* ---- control ---- */
/* Reads the rings up to now; at least every second. */
void arrivals_look(struct arrivals *a, uint64_t now_us);

struct arrivals_sum {
    uint64_t requests; /* that came */
    double seconds;    /* looked at */
    double
        busiest; /* requests a second, of the busiest whole minute; while there was none, of ten seconds, or of all */
    uint64_t minutes;   /* whole ones */
    uint64_t ran;       /* requests that were answered by a run */
    double compute_s;   /* of their runs, each counted for every request that was in it */
    double executor_s;  /* of their runs, each counted once */
    double stalled_s;   /* that the runs had no processor, counted as compute_s is */
    double mean_joined; /* requests in a run, as a request finds it; 1 while there was none */
    struct {
        double seconds;    /* of the span */
        double dispersion; /* NaN: too little to tell */
        uint64_t spans;    /* looked at */
    } span[ARRIVALS_SPANS];
};
void arrivals_sum(const struct arrivals *a, struct arrivals_sum *out);

#endif
