/* SPDX-License-Identifier: Apache-2.0 */
/* The queueing formulas against a simulation, event by event: tenants with queues of their own share the processors of
 * one machine, arrivals are counted by the server's own counters (control/arrivals.h), service times are those of a
 * distribution or of the recorded profiles. Mean and p99 of the answers agree within 15 %. Seeds are fixed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/base.h"
#include "cli/plan.h"
#include "control/arrivals.h"

#define TENANTS 8
#define RUNS 32 /* at once, of all */
#define QUEUE (1u << 16)
#define WITHIN .15

static uint64_t seed;

static double uniform(void) /* xorshift64*, in (0, 1) */
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (double)((seed * 2685821657736338717ull >> 11) + 1) / 9007199254740994.;
}

static double exponential(double mean)
{
    return -mean * log(uniform());
}

/* ---- what is simulated ---- */

enum gaps { EVEN, POISSON, BURSTY }; /* bursty: two exponentials, balanced means, squared variation 4 */
struct source {
    struct queue_tenant t; /* as the formula gets it; arrivals.span is filled in from the simulation */
    enum gaps gaps;
};
struct seen {
    double mean, p99;
};

struct run {
    unsigned tenant, n;
    double left; /* processor-seconds of one of its processors */
    double arrived[64];
};
struct world {
    const struct source *source;
    size_t n;
    double processors, now;
    double next[TENANTS]; /* arrival */
    double *queue[TENANTS];
    size_t head[TENANTS], tail[TENANTS];
    unsigned busy[TENANTS];
    struct run run[RUNS];
    size_t n_runs;
    float *took[TENANTS];
    size_t n_took[TENANTS], most, warm;
    struct arrivals *arrivals[TENANTS];
};

static double gap(const struct source *s)
{
    double mean = 1 / s->t.arrivals.rate, share = (1 + sqrt(3. / 5)) / 2;

    return s->gaps == EVEN      ? mean
           : s->gaps == POISSON ? exponential(mean)
           : uniform() < share  ? exponential(mean / 2 / share)
                                : exponential(mean / 2 / (1 - share));
}

static double service(const struct queue_service *s)
{
    double at = uniform();

    for (size_t i = 0; i < s->n_points; i++) {
        at -= s->point[i].share;
        if (at <= 0) {
            return s->point[i].seconds;
        }
    }
    return s->n_points ? s->point[s->n_points - 1].seconds : s->mean;
}

static void begin(struct world *w, unsigned i)
{
    const struct queue_tenant *t = &w->source[i].t;
    unsigned most = MAX(t->batch.most, 1u);

    while (w->busy[i] < t->servers && w->head[i] < w->tail[i]) {
        struct run *r = &w->run[w->n_runs++];

        assert_true(w->n_runs <= RUNS);
        *r = (struct run){.tenant = i};
        while (r->n < MIN(most, 64u) && w->head[i] < w->tail[i]) {
            r->arrived[r->n++] = w->queue[i][w->head[i]++ % QUEUE];
        }
        r->left = service(&t->service) * (1 + (r->n - 1) * t->batch.more);
        w->busy[i]++;
    }
}

static void end(struct world *w, size_t k)
{
    struct run r = w->run[k];

    w->run[k] = w->run[--w->n_runs];
    w->busy[r.tenant]--;
    for (unsigned i = 0; i < r.n && w->n_took[r.tenant] < w->most; i++) {
        w->took[r.tenant][w->n_took[r.tenant]++] = (float)(w->now - r.arrived[i]);
    }
    begin(w, r.tenant);
}

static void arrive(struct world *w, unsigned i)
{
    uint64_t us = (uint64_t)(w->now * 1e6);

    w->queue[i][w->tail[i]++ % QUEUE] = w->now;
    assert_true(w->tail[i] - w->head[i] < QUEUE);
    arrivals_add(w->arrivals[i], 0, us + 1);
    for (size_t k = 0; k < w->n; k++) {
        arrivals_look(w->arrivals[k], us + 1);
    }
    w->next[i] = w->now + gap(&w->source[i]);
    begin(w, i);
}

/* The next event: true, and which run ends, or which tenant has an arrival. */
static void step(struct world *w)
{
    double wanted = 0, speed, soonest = INFINITY, arrival = INFINITY;
    size_t run = 0;
    unsigned tenant = 0;

    for (size_t k = 0; k < w->n_runs; k++) {
        wanted += w->source[w->run[k].tenant].t.width;
        if (w->run[k].left < soonest) {
            soonest = w->run[k].left;
            run = k;
        }
    }
    speed = wanted > w->processors ? w->processors / wanted : 1;
    for (unsigned i = 0; i < w->n; i++) {
        if (w->next[i] < arrival) {
            arrival = w->next[i];
            tenant = i;
        }
    }
    double to = MIN(w->now + soonest / speed, arrival), done = (to - w->now) * speed;
    for (size_t k = 0; k < w->n_runs; k++) {
        w->run[k].left -= done;
    }
    w->now = to;
    if (to < arrival) {
        end(w, run);
    } else {
        arrive(w, tenant);
    }
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Until the first tenant has given so many answers; each tenant's arrivals as they were counted go to its source. */
static void simulate(struct source *s, size_t n, double processors, size_t answers, struct seen *out)
{
    struct world *w = calloc(1, sizeof(*w));

    *w = (struct world){.source = s, .n = n, .processors = processors, .most = answers * 4};
    seed = 88172645463325252ull;
    for (size_t i = 0; i < n; i++) {
        w->queue[i] = calloc(QUEUE, sizeof(double));
        w->took[i] = calloc(w->most, sizeof(float));
        w->arrivals[i] = arrivals_new(1, 1);
        w->next[i] = gap(&s[i]);
    }
    while (w->n_took[0] < answers) {
        step(w);
    }
    for (size_t i = 0; i < n; i++) {
        struct arrivals_sum sum;
        double total = 0;
        size_t warm = w->n_took[i] / 50, many = w->n_took[i] - warm;

        assert_true(many > 2000);
        for (size_t k = warm; k < w->n_took[i]; k++) {
            total += w->took[i][k];
        }
        qsort(w->took[i] + warm, many, sizeof(float), ascending);
        out[i] = (struct seen){total / (double)many, w->took[i][warm + (size_t)(.99 * (double)many)]};
        arrivals_sum(w->arrivals[i], &sum);
        for (int k = 0; k < ARRIVALS_SPANS; k++) {
            if (!isnan(sum.span[k].dispersion) && sum.span[k].spans >= 200) { /* what has been seen often enough */
                struct queue_arrivals *a = &s[i].t.arrivals;

                a->span[a->n_spans].seconds = sum.span[k].seconds;
                a->span[a->n_spans++].dispersion = sum.span[k].dispersion;
            }
        }
        arrivals_free(w->arrivals[i]);
        free(w->queue[i]);
        free(w->took[i]);
    }
    free(w);
}

/* ---- the comparison ---- */

static double off(double formula, double seen)
{
    return formula / seen - 1;
}

static unsigned failures;

/* The p99; where the service times are a few points it may fall on a step: then what is on the step's nearer side. */
static double percentile(const struct queue_tenant *t, double seen)
{
    double low = queue_tenant_quantile(t, .989), high = queue_tenant_quantile(t, .991);

    return seen > high ? high : seen < low ? low : seen;
}

static void compare(const char *what, struct source *s, size_t n, double processors, size_t answers, double within)
{
    struct queue_tenant t[TENANTS];
    struct seen seen[TENANTS];

    simulate(s, n, processors, answers, seen);
    for (size_t i = 0; i < n; i++) {
        t[i] = s[i].t;
    }
    double demand = queue_share(t, n, processors);
    for (size_t i = 0; i < n; i++) {
        double mean = t[i].queue.wait + t[i].queue.run, p99 = percentile(&t[i], seen[i].p99);
        bool bad = fabs(off(mean, seen[i].mean)) > within || fabs(off(p99, seen[i].p99)) > within;

        printf(
            "%-34s tenant %zu load %.2f of %.2f: mean %8.3f ms, formula %+5.1f %%; p99 %8.3f ms, formula %+5.1f %%%s\n",
            what, i, t[i].queue.load, demand, seen[i].mean * 1e3, off(mean, seen[i].mean) * 100, seen[i].p99 * 1e3,
            off(p99, seen[i].p99) * 100, bad ? "  <-- BAD" : "");
        failures += bad;
    }
}

static void one_queue(void **state)
{
    static const struct {
        const char *name;
        enum gaps gaps;
    } arrivals[] = {{"poisson", POISSON}, {"bursty", BURSTY}};
    static const double loads[] = {.3, .5, .7, .85};
    static const unsigned servers[] = {1, 4};
    struct queue_point even[1] = {{.01, 1}}, two[2] = {{.005, .8}, {.03, .2}}, exp_[100];
    const struct {
        const char *name;
        struct queue_point *p;
        size_t n;
    } services[] = {{"even", even, 1}, {"two kinds", two, 2}, {"exponential", exp_, 100}};

    (void)state;
    failures = 0;
    for (int i = 0; i < 100; i++) {
        exp_[i] = (struct queue_point){-.01 * log(1 - (i + .5) / 100), .01};
    }
    for (size_t a = 0; a < COUNT_OF(arrivals); a++) {
        for (size_t k = 0; k < COUNT_OF(services); k++) {
            for (size_t c = 0; c < COUNT_OF(servers); c++) {
                for (size_t l = 0; l < COUNT_OF(loads); l++) {
                    struct source s = {.gaps = arrivals[a].gaps, .t = {.servers = servers[c], .width = 1}};
                    char name[64];

                    queue_service_of(&s.t.service, services[k].p, services[k].n);
                    s.t.arrivals.rate = loads[l] * servers[c] / s.t.service.mean;
                    snprintf(name, sizeof(name), "%s, %s, %u servers", arrivals[a].name, services[k].name, servers[c]);
                    compare(name, &s, 1, 64, loads[l] > .75 ? 500000 : 150000, WITHIN);
                }
            }
        }
    }
    assert_int_equal(failures, 0);
}

static void batches(void **state)
{
    static const double loads[] = {.3, .7, 1.5, 4};
    static const double more[] = {.05, .3};
    struct queue_point even[1] = {{.01, 1}};

    (void)state;
    failures = 0;
    for (size_t m = 0; m < COUNT_OF(more); m++) {
        for (size_t l = 0; l < COUNT_OF(loads); l++) {
            struct source s = {.gaps = POISSON,
                               .t = {.servers = 1, .width = 1, .batch = {.most = 16, .more = more[m]}}};

            queue_service_of(&s.t.service, even, 1);
            s.t.arrivals.rate = loads[l] / .01;
            if (loads[l] * (1 + 15 * more[m]) / 16 < .9) {
                compare("batches", &s, 1, 64, 300000, WITHIN);
            }
        }
    }
    assert_int_equal(failures, 0);
}

static void shared_processors(void **state)
{
    static const double loads[] = {.3, .5, .7};
    struct queue_point even[1] = {{.01, 1}}, small[1] = {{.001, 1}}, two[2] = {{.02, .8}, {.06, .2}};

    (void)state;
    failures = 0;
    for (int processors = 1; processors <= 2; processors++) {
        for (size_t l = 0; l < COUNT_OF(loads); l++) {
            struct source s[3] = {{.gaps = POISSON, .t = {.servers = 1, .width = 1}},
                                  {.gaps = POISSON, .t = {.servers = 1, .width = 1}},
                                  {.gaps = POISSON, .t = {.servers = 1, .width = 1}}};
            char name[64];

            queue_service_of(&s[0].t.service, even, 1);
            queue_service_of(&s[1].t.service, small, 1);
            queue_service_of(&s[2].t.service, two, 2);
            for (int i = 0; i < 3; i++) {
                s[i].t.arrivals.rate = loads[l] * processors / 3 / s[i].t.service.mean;
            }
            snprintf(name, sizeof(name), "three on %d processors", processors);
            compare(name, s, 3, processors, 300000, WITHIN);
        }
    }
    assert_int_equal(failures, 0);
}

/* ---- the recorded profiles (bench/advise.py) ---- */

static void read_profile(const char *name, struct profile *p)
{
    char path[128], *text = malloc(1 << 20);
    struct err e = {0};

    snprintf(path, sizeof(path), "bench/profiles/%s.json", name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, 1 << 20, f);
    fclose(f);
    yyjson_doc *doc = yyjson_read(text, n, 0);
    assert_non_null(doc);
    if (profile_read(p, yyjson_doc_get_root(doc), &e) != ERR_OK) {
        fail_msg("%s: %s", path, e.text);
    }
    yyjson_doc_free(doc);
    free(text);
}

/* The profile's models on its machine, with so much more of its arrivals that the fullest of its queues, or the
 * processors, have the load. */
static void profile_at(const char *name, double load)
{
    struct source s[TENANTS];
    struct queue_tenant t[TENANTS];
    struct profile p;
    double fullest = 0, demand;
    char title[64];
    size_t n;

    read_profile(name, &p);
    n = p.n_models;
    assert_in_range(n, 2, TENANTS);
    for (size_t i = 0; i < n; i++) {
        const struct profile_model *m = &p.model[i];
        double dispersion = m->arrivals.n_spans > 1 ? m->arrivals.span[1].dispersion : 1;

        assert_true(m->service.n_points > 0 && m->arrivals.rate > 0);
        t[i] = (struct queue_tenant){.arrivals.rate = m->arrivals.rate,
                                     .service = m->service,
                                     .batch = m->batch,
                                     .servers = m->instances,
                                     .width = m->width};
        s[i] = (struct source){.t = t[i], .gaps = dispersion > 2 ? BURSTY : POISSON};
    }
    demand = queue_share(t, n, p.processors);
    for (size_t i = 0; i < n; i++) {
        fullest = MAX(fullest, t[i].arrivals.rate * t[i].service.mean / t[i].servers);
    }
    for (size_t i = 0; i < n; i++) {
        s[i].t.arrivals.rate *= load / MAX(demand, fullest);
    }
    snprintf(title, sizeof(title), "%s at %.1f", name, load);
    compare(title, s, n, p.processors, 300000, WITHIN);
    profile_done(&p);
}

static void recorded_profiles(void **state)
{
    static const double loads[] = {.3, .5, .7};

    (void)state;
    failures = 0;
    for (size_t i = 0; i < COUNT_OF(loads); i++) {
        profile_at("small_shop", loads[i]);
        profile_at("busy_shop", loads[i]);
    }
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_queue),
        cmocka_unit_test(batches),
        cmocka_unit_test(shared_processors),
        cmocka_unit_test(recorded_profiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
