/* SPDX-License-Identifier: Apache-2.0 */
/* The plan: what machines a load needs, what they cost a month, and whether a family is better kept or promoted to a
 * service of its own. Pure over (profile, prices); the queues are base/queue.h's.
 *
 * A machine is sized to hold, at the p99 of every model's target: the connection threads (what the server itself took a
 * request), the runs of its models on its processors, slowed down by each other, those of a GPU on that; and their
 * memory. The least number of processors that does it, up to the largest machine; then more machines, each with all of
 * its models in memory, and with an equal part of the arrivals. Models in workers get more instances where that helps.
 *
 * Apart means: the family on machines of its own, the rest on theirs; the gateway still takes the family's requests and
 * passes them on (so both sides pay what the server takes a request), and its answers come a network hop later.
 *
 * The load is that of the busiest minute of the profile, times 1, 2 and 10.
 *
 * Thread: any. */
#ifndef WEIR_CLI_PLAN_H
#define WEIR_CLI_PLAN_H

#include "base/buf.h"
#include "base/conf.h"
#include "cli/profile.h"

/* ---- prices.yaml; every key is optional ---- */
struct prices {
    char *currency;
    uint64_t hours, processor, memory, gpu,
        service; /* decimals (millionths): hours a month; an hour of one, of a GiB */
    uint64_t hop_us;
    uint64_t least_processors, most_processors, least_memory, spare_memory, most_busy;
    uint64_t p99_us, p99_times;
    uint64_t saving, saving_least, isolation, burst; /* basis points, decimals, decimals, decimal */
    uint64_t enough_requests, enough_us;
    uint64_t app_processors, app_memory; /* of the application beside it: decimal, bytes */
    /* families: {NAME: {p99: 300ms}} */
    struct prices_family {
        char *name;
        uint64_t p99_us;
    } *family;
    size_t n_families;
};
extern const struct setting prices_settings[];
extern const size_t n_prices_settings;
/* path NULL: the presets. */
enum err_code prices_read(struct prices *out, const char *path, struct err *e) MUST_USE;
void prices_done(struct prices *p);
void prices_write(struct buf *out); /* the presets as YAML, each with what it means */

/* ---- machines ---- */
struct plan_size {
    bool possible;                       /* the targets are met; else nothing below is set but `why` */
    const char *why;                     /* of one that is not possible: static */
    unsigned machines, processors, gpus; /* processors and GPUs of one */
    double memory;                       /* GiB of one */
    double busy;                         /* of its processors */
    double cost;                         /* a month, all of them */
};
#define PLAN_LOADS 3
extern const double plan_loads[PLAN_LOADS]; /* 1, 2, 10 */

enum plan_verdict { PLAN_KEEP, PLAN_PROMOTE, PLAN_LATER, PLAN_UNKNOWN };
extern const char *const plan_verdict_names[]; /* "keep", "promote", "later", "unknown" */

/* Whole p99s in seconds; infinite where no machine does it. */
struct plan_load {
    struct plan_size together, rest, own;
    double cost_together, cost_apart;     /* the latter with the service's; infinite: not possible */
    double p99_together, p99_apart;       /* of the family's slowest model, the latter with the hop */
    double others_together, others_apart; /* of the others: the most that one is of its target */
};
struct plan_blast {       /* a burst of the family, on the machine of the profile's load */
    const char *model;    /* the other model that suffers most; NULL: there is no other */
    double before, after; /* its p99 */
    double target;
};
struct plan_family {
    const char *name; /* the profile's; NULL: the inference module as a whole */
    bool gpu, on_threads;
    size_t n_models;
    double rate, share; /* requests a second, part of the processors' work */
    double target;      /* of its slowest model */
    uint64_t own_deaths, changes;
    double change_days;
    struct plan_load load[PLAN_LOADS];
    struct plan_blast blast;
    enum plan_verdict verdict;
    double pays_from; /* PLAN_LATER: the load, as a factor */
    char reason[600]; /* sentences */
};
struct plan_fit { /* a model as it is now: the formula beside what was measured, at the mean load */
    const char *model;
    double load;                /* of its executors */
    double measured, predicted; /* mean latency */
    double measured_p99, predicted_p99;
    double stalled, predicted_stalled; /* that a run had no processor; more than reckoned: other programs took it */
};
struct plan {
    struct plan_family *family;
    size_t n_families;
    struct plan_fit *fit;
    size_t n_fits;
    bool monolith;    /* nothing is to be promoted now */
    char reason[300]; /* a sentence */
};
void plan_make(struct plan *out, const struct profile *p, const struct prices *prices);
void plan_done(struct plan *p);

/* One machine as it stands: solves for the models (indices) of a profile on so many processors, with instances as they
 * are. out: a tenant for each, and one more for the connection threads, on the processors (n + 1). Returns the demand.
 */
double plan_solve(struct queue_tenant *out, const struct profile *p, const size_t *model, size_t n, double scale,
                  unsigned processors);

#endif
