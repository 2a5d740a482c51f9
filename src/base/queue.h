/* SPDX-License-Identifier: Apache-2.0 */
/* How long requests wait for one of some servers, and how long the slowest hundredth takes: approximations from two
 * moments, for planning. Nothing here is measured; what goes in is (control/arrivals.h, control/series.h).
 *
 *   wait      E[W] = (ca2 + cs2)/2 x E[W in M/M/c], Erlang's C formula (Allen and Cunneen; Kingman's for one server)
 *   arrivals  ca2 is the index of dispersion I over the span that the queue remembers. Which that is: with rho the
 * load, the x, in arrivals, of the largest -(1-rho)x/rho + sqrt(2x (I(x) + cs2)) (Whitt and You, Operations Research
 * 66(1), 2018), and 2.5 arrivals a server more, which low loads need (found by simulation). So a short queue sees the
 * arrivals of a short while, a long one those of a long while. Poisson: 1 everywhere. tail      P(W > 0) is Erlang's C,
 * corrected for arrivals that are not Poisson; of those that wait, W is a gamma with cd2 = 2rho-1 +
 * 4(1-rho)ds3/(3(cs2+1)^2) (Whitt, the Queueing Network Analyzer, BSTJ 62(9), 1983, eq. 48-53) answer    wait and
 * service are added as if independent: true for Poisson arrivals, first come first served batches   what has come
 * during a run is the next one, most B rows: runs of b = a + exp(-a) requests, a = rate x s(b)/c, the server busy for
 * a/(a + exp(-a)) of the time (exact for even runs of any size, one server); a request waits for what is left of a run,
 * over 1 - load^(2 - 1/B): an interpolation between B = 1 and no bound, and its tail another, both by simulation
 *   sharing   tenants on one device of C processors: when n > C are wanted, each runs at C/n of its speed. How many
 *             are, is taken as independent binomials by their utilisation. Neighbours whose runs are longer than its
 *             own disturb many of a tenant's requests in a row: then the queue is that of the stretched service;
 * shorter ones average out within a run
 *
 * tests/unit/cli/plan_sim_test.c holds all of it against a simulation: mean and p99 of the answers within 15 %, loads
 * up to .85 (bursty and not), devices up to .7. Times are seconds, rates a second. Infinite where the load is 1 or
 * more.
 *
 * Thread: any; pure functions. */
#ifndef WEIR_BASE_QUEUE_H
#define WEIR_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#define QUEUE_SPANS 4
#define QUEUE_LEVELS 10

/* Arrivals: how many, and how unevenly they come at some time scales (ascending; what lies between is interpolated,
 * within the first from 1, beyond the last as the last). */
struct queue_arrivals {
    double rate;
    size_t n_spans; /* 0: Poisson */
    struct {
        double seconds, dispersion;
    } span[QUEUE_SPANS];
};

/* A distribution of service times as points: share of the requests, seconds; the shares sum to 1. */
struct queue_point {
    double seconds, share;
};
struct queue_service {
    double mean, cs2; /* cs2: variance over the mean squared */
    const struct queue_point *point;
    size_t n_points; /* 0: every one takes the mean */
};
void queue_service_of(struct queue_service *out, const struct queue_point *point, size_t n); /* its moments */

/* Requests join: a run of b takes one + (b - 1) × more. most 1: they do not. */
struct queue_batch {
    unsigned most;
    double more; /* of a run of one, the share that each further request adds: 0 nothing, 1 as much again */
};

struct queue_answer {
    double load;     /* utilisation of the servers, without batches to the most; >= 1: not to be done */
    double busy;     /* share of the time that a server is in a run */
    double batch;    /* requests in a run */
    double waits;    /* share of the requests that wait */
    double wait;     /* mean, over all */
    double wait_cv2; /* of those that wait */
    double run;      /* mean time of a run that a request is in */
};
/* servers: from 1. */
void queue_solve(struct queue_answer *out, const struct queue_arrivals *a, const struct queue_service *s,
                 const struct queue_batch *b, unsigned servers);
/* The dispersion that such a queue sees. */
double queue_dispersion(const struct queue_arrivals *a, double service, double cs2, unsigned servers);
double queue_erlang_c(double offered, unsigned servers);           /* share that waits in M/M/c; 1 beyond saturation */
double queue_waits_longer(const struct queue_answer *q, double t); /* P(W > t) */
/* The time within which a share p of the answers is given: wait and service. */
double queue_quantile(const struct queue_answer *q, const struct queue_service *s, double p);

/* One of those that share a device. */
struct queue_tenant {
    struct queue_arrivals arrivals;
    struct queue_service service; /* when it has the processors for itself */
    struct queue_batch batch;
    unsigned servers; /* runs at once, from 1 */
    unsigned width;   /* processors that a run uses, from 1 */
    /* out */
    struct queue_answer queue;
    double stretch;             /* by how much its runs take longer, as a factor on the mean */
    double stretch_cv2;         /* and how unevenly */
    double level[QUEUE_LEVELS]; /* what a run takes longer, by tenths of the requests: of neighbours and batches */
    struct queue_answer at[QUEUE_LEVELS]; /* the waits of those that find such neighbours */
};
/* Solves for all of them together. Returns the demand on the device: processors wanted over those there are; from 1 on
 * every wait is infinite. */
double queue_share(struct queue_tenant *t, size_t n, double processors);
/* Of the answers, wait and service: how many take longer; the time within which a share p is given. */
double queue_tenant_longer(const struct queue_tenant *t, double seconds);
double queue_tenant_quantile(const struct queue_tenant *t, double p);

#endif
