/* SPDX-License-Identifier: Apache-2.0 */
/* Queues: the formulas. Sources stand in the header; tests/unit/base/queue_test.c has the closed cases, and
 * tests/unit/base/queue_sim_test.c simulates. */
#include "base/queue.h"

#include <math.h>

#include "base/base.h"

#define ROUNDS 60        /* of a fixed point, at most; half a step each */
#define FEW 2.5          /* arrivals a server, that a queue remembers at least: by simulation */
#define LOAD_LASTING .95 /* the most that a queue is taken to be loaded while its neighbours run */
#define WIDTH_MAX 512u   /* processors that tenants may want at once, as far as they are told apart */

void queue_service_of(struct queue_service *out, const struct queue_point *point, size_t n)
{
    double sum = 0, squares = 0;

    for (size_t i = 0; i < n; i++) {
        sum += point[i].share * point[i].seconds;
        squares += point[i].share * point[i].seconds * point[i].seconds;
    }
    *out = (struct queue_service){
        .mean = sum, .cs2 = sum > 0 ? MAX(squares / (sum * sum) - 1, 0.) : 0, .point = point, .n_points = n};
}

/* ---- one queue ---- */

double queue_erlang_c(double offered, unsigned servers)
{
    double b = 1; /* Erlang B, by its recursion */

    if (offered >= servers) {
        return 1;
    }
    for (unsigned k = 1; k <= servers; k++) {
        b = offered * b / (k + offered * b);
    }
    return servers * b / (servers - offered * (1 - b));
}

static double dispersion_at(const struct queue_arrivals *a, double t)
{
    double t0 = 0, v0 = 1;

    for (size_t i = 0; i < a->n_spans; i++) {
        double t1 = a->span[i].seconds, v1 = a->span[i].dispersion;

        if (t <= t1) {
            double at = t0 > 0 ? log(t / t0) / log(t1 / t0) : t / t1;

            return v0 + at * (v1 - v0);
        }
        t0 = t1;
        v0 = v1;
    }
    return a->n_spans > 0 ? v0 : 1;
}

double queue_dispersion(const struct queue_arrivals *a, double service, double cs2, unsigned servers)
{
    double load = a->rate * service / servers, best = 0, at = 0;

    if (a->n_spans == 0 || load <= 0 || load >= 1) {
        return a->n_spans == 0 || load <= 0 ? 1 : a->span[a->n_spans - 1].dispersion;
    }
    for (double x = 1e-9; x < 1e9; x *= 1.25) { /* arrivals */
        double z = -(1 - load) * x / load + sqrt(2 * x * MAX(dispersion_at(a, x / a->rate) + cs2, 0.));

        if (z > best) {
            best = z;
            at = x;
        }
    }
    return dispersion_at(a, (at + FEW * servers) / a->rate);
}

/* Whitt's P(W > 0) of one server over that of Poisson arrivals: how much uneven arrivals add to those that wait. */
static double more_wait(double load, double ca2, double cs2)
{
    double h = ca2 <= 1 ? (1 + ca2 + load * cs2) / (1 + load * (cs2 - 1) + load * load * (4 * ca2 + cs2))
                        : 4 * load / (ca2 + load * load * (4 * ca2 + cs2));

    return MAX(1 + (ca2 - 1) * (1 - load) * h, 0.);
}

static double tail_cv2(double load, double cs2)
{
    double ds3 = cs2 >= 1 ? 3 * cs2 * (1 + cs2) : (2 * cs2 + 1) * (cs2 + 1);

    return MAX(2 * load - 1 + 4 * (1 - load) * ds3 / (3 * (cs2 + 1) * (cs2 + 1)), .05);
}

static void solve_batches(struct queue_answer *q, const struct queue_arrivals *a, const struct queue_service *s,
                          const struct queue_batch *b, unsigned servers, double ca2)
{
    double size = 1, run = s->mean, offered = 0;

    for (int i = 0; i < ROUNDS; i++) {
        run = s->mean * (1 + (size - 1) * b->more);
        offered = a->rate * run / servers;
        size = (size + MIN(offered + exp(-offered), (double)b->most)) / 2;
    }
    q->batch = size;
    q->run = run;
    q->busy = MIN(offered / size, 1.);
    q->waits = MIN(q->busy * more_wait(q->load, ca2, s->cs2), 1.);
    q->wait = q->busy * run / servers * (ca2 + s->cs2) / 2 / (1 - pow(q->load, 2 - 1. / b->most));
    double full = q->load * q->load * q->load; /* how often the runs are as large as they may be */
    q->wait_cv2 = (.15 + .6 * b->more) * (1 - full) + full * q->wait_cv2;
}

void queue_solve(struct queue_answer *out, const struct queue_arrivals *a, const struct queue_service *s,
                 const struct queue_batch *b, unsigned servers)
{
    unsigned most = b && b->most > 1 ? b->most : 1;
    double full = s->mean * (1 + (most - 1) * (most > 1 ? b->more : 0)) / most; /* of a request in the largest run */
    double load = a->rate * full / servers;

    *out = (struct queue_answer){.load = load, .busy = MIN(load, 1.), .batch = 1, .wait_cv2 = 1, .run = s->mean};
    if (a->rate <= 0 || s->mean <= 0) {
        return;
    }
    if (!(load < 1)) {
        out->waits = 1;
        out->wait = INFINITY;
        out->batch = most;
        return;
    }
    out->wait_cv2 = tail_cv2(load, s->cs2);
    double ca2 = queue_dispersion(a, full, s->cs2, servers);
    if (most > 1) {
        solve_batches(out, a, s, b, servers, ca2);
        return;
    }
    double c = queue_erlang_c(a->rate * s->mean, servers);
    out->waits = MIN(c * more_wait(load, ca2, s->cs2), 1.);
    out->wait = (ca2 + s->cs2) / 2 * c * s->mean / (servers * (1 - load));
}

/* ---- distributions ---- */

/* The upper tail of the gamma distribution of this shape, scale 1: a series below, a continued fraction above (Lentz).
 */
static double gamma_tail(double shape, double x)
{
    int sign;
    double front;

    if (x <= 0) {
        return 1;
    }
    front = exp(shape * log(x) - x - lgamma_r(shape, &sign));
    if (x < shape + 1) {
        double term = 1 / shape, sum = term;

        for (double k = shape + 1; term > sum * 1e-10; k++) {
            term *= x / k;
            sum += term;
        }
        return MAX(1 - front * sum, 0.);
    }
    double b = x + 1 - shape, c = 1e300, d = 1 / b, h = d;
    for (int i = 1; i < 200; i++) {
        double an = -i * (i - shape), delta;

        b += 2;
        d = 1 / (an * d + b);
        c = b + an / c;
        delta = d * c;
        h *= delta;
        if (fabs(delta - 1) < 1e-10) {
            break;
        }
    }
    return front * h;
}

double queue_waits_longer(const struct queue_answer *q, double t)
{
    if (t < 0) {
        return 1;
    }
    if (q->waits <= 0 || q->wait <= 0) {
        return 0;
    }
    if (isinf(q->wait)) {
        return 1;
    }
    return q->waits * gamma_tail(1 / q->wait_cv2, t * q->waits / (q->wait * q->wait_cv2));
}

/* P(answer > t) for n equal shares of the requests, each with waits and a stretch of the service of its own. */
static double longer(const struct queue_answer *q, const struct queue_service *s, const double *stretch, size_t n,
                     double t)
{
    const struct queue_point mean = {s->mean, 1}, *point = s->n_points ? s->point : &mean;
    size_t n_points = s->n_points ? s->n_points : 1;
    double sum = 0;

    for (size_t k = 0; k < n; k++) {
        for (size_t i = 0; i < n_points; i++) {
            sum += point[i].share / (double)n * queue_waits_longer(&q[k], t - point[i].seconds * stretch[k]);
        }
    }
    return sum;
}

static double quantile(const struct queue_answer *q, const struct queue_service *s, const double *stretch, size_t n,
                       double p)
{
    double low = 0, high = MAX(s->mean, 1e-9);

    if (isinf(q->wait)) {
        return INFINITY;
    }
    while (longer(q, s, stretch, n, high) > 1 - p) {
        low = high;
        high *= 2;
    }
    while (high - low > high * 1e-4) {
        double t = (low + high) / 2;

        *(longer(q, s, stretch, n, t) > 1 - p ? &low : &high) = t;
    }
    return high;
}

double queue_quantile(const struct queue_answer *q, const struct queue_service *s, double p)
{
    double factor = s->mean > 0 ? q->run / s->mean : 1;

    return quantile(q, s, &factor, 1, p);
}

/* ---- a shared device ---- */

/* dist[w]: the share of the time that w processors are wanted; adds `servers` that each want `width` for `busy` of the
 * time. most: the last that is told apart; what is beyond it is counted there. */
static void add_servers(double *dist, unsigned most, unsigned servers, unsigned width, double busy)
{
    for (unsigned k = 0; k < servers && busy > 0; k++) {
        for (unsigned w = most + 1; w-- > 0;) {
            double moves = dist[w] * busy;

            dist[w] -= moves;
            dist[MIN(w + width, most)] += moves;
        }
    }
}

/* How long the runs of a tenant's neighbours last, beside its own: near 1, many of its runs find the same ones; near 0,
 * they change within a run. */
static double lasting_of(const struct queue_tenant *all, size_t n, const struct queue_tenant *t)
{
    double busy = 0, sum = 0, run;

    for (size_t i = 0; i < n; i++) {
        if (&all[i] != t) {
            busy += all[i].queue.busy * all[i].servers;
            sum += all[i].queue.busy * all[i].servers * all[i].queue.run;
        }
    }
    run = busy > 0 ? sum / busy : 0;
    return run > 0 ? run / (run + t->queue.run) : 0;
}

/* What a run of t finds, beside its own width: the slow-down's mean, its unevenness, its levels. */
static void stretch_of(const struct queue_tenant *all, size_t n, struct queue_tenant *t, double processors)
{
    double dist[WIDTH_MAX + 1] = {1}, lasting = lasting_of(all, n, t), sum = 0, squares = 0, passed = 0, factor = 1;
    unsigned most = 0, next = 0;

    for (size_t i = 0; i < n; i++) {
        most = MIN(most + all[i].servers * all[i].width, WIDTH_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        add_servers(dist, most, all[i].servers - (&all[i] == t), all[i].width, MIN(all[i].queue.busy, 1.));
    }
    for (unsigned w = 0; w <= most; w++) {
        factor = MAX((w + t->width) / processors, 1.);
        sum += dist[w] * factor;
        squares += dist[w] * factor * factor;
        passed += dist[w];
        while (next < QUEUE_LEVELS && passed >= (next + .5) / QUEUE_LEVELS - 1e-9) {
            t->level[next++] = factor;
        }
    }
    while (next < QUEUE_LEVELS) {
        t->level[next++] = factor;
    }
    t->stretch = sum;
    t->stretch_cv2 = MAX(squares / (sum * sum) - 1, 0.) * lasting;
    for (size_t k = 0; k < QUEUE_LEVELS; k++) {
        t->level[k] = sum + (t->level[k] - sum) * sqrt(lasting);
    }
}

static void solve_stretched(struct queue_tenant *t)
{
    struct queue_service s = {.mean = t->service.mean * t->stretch,
                              .cs2 = (1 + t->service.cs2) * (1 + t->stretch_cv2) - 1};

    queue_solve(&t->queue, &t->arrivals, &s, &t->batch, t->servers);
}

/* What a second brings, in processor-seconds, when batches are as large as they may be. */
static double demand_of(const struct queue_tenant *t)
{
    unsigned most = MAX(t->batch.most, 1u);

    return t->arrivals.rate * t->service.mean * t->width * (1 + (most - 1) * t->batch.more) / most;
}

/* One round for all; returns the largest change. */
static double share_round(struct queue_tenant *t, size_t n, double processors)
{
    double change = 0;

    for (size_t i = 0; i < n; i++) {
        double before = t[i].queue.busy;

        stretch_of(t, n, &t[i], processors);
        solve_stretched(&t[i]);
        change = MAX(change, fabs(t[i].queue.busy - before));
        t[i].queue.busy = (t[i].queue.busy + before) / 2;
    }
    return change;
}

/* Neighbours whose runs are long disturb many requests one after the other: while they run, the queue is that of the
 * stretched service all the time. */
static void spread_waits(const struct queue_tenant *all, size_t n, struct queue_tenant *t)
{
    double lasting = lasting_of(all, n, t), sum = 0;

    for (size_t k = 0; k < QUEUE_LEVELS; k++) {
        struct queue_service s = {.mean = t->service.mean * t->level[k], .cs2 = t->service.cs2};

        queue_solve(&t->at[k], &t->arrivals, &s, &t->batch, t->servers);
        if (!(t->at[k].load < LOAD_LASTING)) {
            s.mean *= LOAD_LASTING / t->at[k].load;
            queue_solve(&t->at[k], &t->arrivals, &s, &t->batch, t->servers);
        }
        sum += (t->queue.wait + lasting * (t->at[k].wait - t->queue.wait)) / QUEUE_LEVELS;
    }
    for (size_t k = 0; k < QUEUE_LEVELS; k++) {
        struct queue_answer q = t->queue;

        if (!isinf(q.wait)) {
            q.wait += lasting * (t->at[k].wait - q.wait);
            q.waits += lasting * (t->at[k].waits - q.waits);
        }
        t->at[k] = q;
    }
    t->queue.wait = isinf(t->queue.wait) ? t->queue.wait : sum;
}

double queue_share(struct queue_tenant *t, size_t n, double processors)
{
    double demand = 0;

    for (size_t i = 0; i < n; i++) {
        demand += demand_of(&t[i]) / processors;
        t[i].stretch = 1;
        t[i].stretch_cv2 = 0;
        solve_stretched(&t[i]);
    }
    for (int round = 0; round < ROUNDS && demand < 1 && share_round(t, n, processors) > 1e-6; round++) {
    }
    for (size_t i = 0; i < n; i++) {
        double run = t[i].service.mean * t[i].stretch;

        if (demand >= 1) {
            t[i].queue.wait = INFINITY;
            t[i].queue.waits = 1;
        }
        spread_waits(t, n, &t[i]);
        for (size_t k = 0; k < QUEUE_LEVELS && run > 0; k++) {
            t[i].level[k] *= t[i].queue.run / run; /* of the batch */
        }
    }
    return demand;
}

double queue_tenant_longer(const struct queue_tenant *t, double seconds)
{
    return isinf(t->queue.wait) ? 1 : longer(t->at, &t->service, t->level, QUEUE_LEVELS, seconds);
}

double queue_tenant_quantile(const struct queue_tenant *t, double p)
{
    return quantile(t->at, &t->service, t->level, QUEUE_LEVELS, p);
}
