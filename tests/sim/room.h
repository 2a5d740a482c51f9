/* SPDX-License-Identifier: Apache-2.0 */
/* The inference room in a simulated world: pools and schedulers as they are, simulated engines below (model.h), and
 * clients above, who ask, wait, give up and hang up. What must hold at every moment is checked as it happens; what must
 * hold over a run is counted, for the scenario to judge.
 *
 * Checked as it happens, in every scenario:
 *   - exactly one answer for a request that was submitted, or none once it was cancelled; with its own output
 *   - an answer comes by the deadline, a sweep later at most
 *   - a thread gives out the highest class first, oldest first; of ADMISSION_FLOOR given out one is the oldest of all
 *   - nothing is given out after its deadline; nothing is at two instances at once; who ran when an instance ended by
 *     itself runs alone from then on, nobody else does
 *   - a version that is closed is gone when its drain ends
 *   - restarts are as far apart as the backoff wants, and a fifth own death in 60 s is said to be sick
 *   - at the end every byte, block, credit, port, timer and message is back
 *
 * Times: microseconds. */
#ifndef WEIR_TESTS_SIM_ROOM_H
#define WEIR_TESTS_SIM_ROOM_H

#include "inference/pool.h"
#include "inference/supervisor.h"
#include "sim/model.h"

#define ROOM_VERSIONS 4

struct clients {  /* of one version, on all threads together */
    double rate;  /* requests a second, Poisson; changed by `surge` */
    double surge; /* in every other `surge_us` the rate is this many times as high; 0: never */
    uint64_t surge_us;
    uint64_t timeout_least_us, timeout_most_us;
    double endless;   /* chance of no deadline */
    double hangs_up;  /* chance to leave before the answer, or before the body is there */
    double slow_body; /* chance that the body comes in pieces, later */
    double poisoned;
    double class_share[CLASS_COUNT]; /* sum 1 */
    uint32_t rows_most, columns_most;
};

struct room_version {
    struct sim_model model;
    struct pool_spec spec;
    struct clients clients;
    uint64_t open_at_us, close_at_us; /* from the start; close 0: at the end */
    uint64_t drain_us;

    /* what happened */
    uint64_t asked, refused, submitted, poisoned, cancelled, moved;
    uint64_t answered[ERR_COUNT_];
    uint64_t counted, good; /* asked, answered well and in time, from count_from_us to run_us */
    unsigned ready, failed, sick, closed;
    uint64_t own_us[SUPERVISOR_DEATHS], n_own; /* when the last own deaths after ready were told */
    unsigned in_a_row;
    struct {
        uint64_t from_us, to_us;
    } restart[2 * INSTANCES_MAX]; /* begins that the rules want */
    unsigned n_restarts, sick_seen;
    bool closing;
    uint64_t close_until_us;
};

struct room {
    unsigned threads, versions;
    uint64_t run_us; /* so long the clients come */
    uint64_t count_from_us;
    uint32_t lane_credits; /* 0: no lane */
    struct room_version version[ROOM_VERSIONS];
};

/* Fills in what every scenario wants to be something: one version "a/1" of one instance without batches, one thread,
 * no load, no faults. */
void room_plain(struct room *r);
/* From the first open to the last close. */
void room_play(struct room *r);
/* Requests a second that a version's instances can answer, with full batches of one-row requests. */
double room_capacity(const struct room_version *v);

#endif
