/* SPDX-License-Identifier: Apache-2.0 */
/* A simulated engine: engine.h as a worker process keeps it, on simulated time. It forms batches by the house's own
 * rules (batch.h, batcher.h), runs them for as long as its script says, and dies, hangs and fails to load by chance.
 *
 * A job's first input is UINT64 [rows, columns]: its id, then SIM_POISON or 0. The output is the id again, a row.
 *
 * What it holds against its host: engine.h's order of calls, no job twice, none that is late when it is given, and the
 * order in which a thread gives its jobs out (through `given`). Every hook must be set. */
#ifndef WEIR_TESTS_SIM_MODEL_H
#define WEIR_TESTS_SIM_MODEL_H

#include "inference/engine.h"

#define SIM_POISON 666u
#define SIM_PORTS 8
#define SIM_OPEN 256 /* most jobs of a port */

struct sim_model {
    const char *name; /* "a/1": the spec that opens it says the same */
    uint64_t load_us;
    uint64_t base_us, row_us; /* a run of n rows takes base + n × row, ± noise */
    double noise;
    uint64_t slow_every_us, slow_for_us; /* means; 0: never slow */
    uint64_t slow_from_us, slow_to_us;   /* slow then; on clock_us() */
    double slow_times;
    uint64_t own_every_us, outside_every_us; /* mean life of an instance; 0: for ever */
    double dies_in_run, hangs_in_run;        /* chance a run */
    uint64_t hang_us;                        /* until a hang is found out: an own death */
    double load_fails, attach_fails;         /* chance, after the first load went well */
    bool first_fails;                        /* the first load fails */
    bool spared;                             /* from now on chance leaves it alone */
    uint32_t batch_max;
    unsigned capacity; /* jobs that a port takes */

    /* What the room is told: a job was taken, is given back lost, an instance begins to load, its host knows its end.
     */
    void (*given)(void *ctx, unsigned shard, uint64_t id, bool solo);
    void (*lost)(void *ctx, uint64_t id, bool suspect, bool alone); /* suspect: an own death while it ran */
    void (*begun)(void *ctx);
    void (*ended)(void *ctx, bool own);
    void *ctx;

    /* what happened */
    unsigned opened, living;
    uint64_t runs, jobs, died[2];  /* [own] */
    uint64_t worked_us, wasted_us; /* wasted: the part of jobs that ended after their deadline */
    uint64_t load_failed, expired; /* expired: dropped before they ran */
};

extern const struct engine_ops sim_engine;
/* Which scripts there are: engines find theirs by name. */
void sim_models(struct sim_model *const *models, unsigned n);

struct sim_input {
    uint64_t id, poison;
};

#endif
