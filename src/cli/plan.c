/* SPDX-License-Identifier: Apache-2.0 */
/* Sizing, comparing, deciding. What every sentence says is in the numbers beside it. */
#include "cli/plan.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define INSTANCES_MOST 16u /* of a version */
#define MACHINES_MOST 64u
#define GIB 1073741824.

const double plan_loads[PLAN_LOADS] = {1, 2, 10};
const char *const plan_verdict_names[] = {"keep", "promote", "later", "unknown"};

static double decimal(uint64_t millionths)
{
    return (double)millionths / 1e6;
}

/* ---- one machine ---- */

/* Models on machines of their own, each with an equal part of the arrivals. */
struct site {
    const struct profile *p;
    const struct prices *prices; /* NULL: as it is now */
    const size_t *model;
    size_t n;
    double scale;
    double passed; /* requests a second at scale 1 that the connection threads pass on to another host */
    bool app;      /* the application is here too */
    double hop;    /* seconds that its answers come later */
    unsigned *instances;
    unsigned machines, processors;
};

static const struct profile_model *model_at(const struct site *s, size_t i)
{
    return &s->p->model[s->model[i]];
}

static void tenant_of(struct queue_tenant *t, const struct site *s, size_t i)
{
    const struct profile_model *m = model_at(s, i);

    *t = (struct queue_tenant){.arrivals = m->arrivals,
                               .service = m->service,
                               .batch = m->batch,
                               .servers = m->on_threads ? s->processors : s->instances[i],
                               .width = m->gpu ? 1 : MIN(m->width, s->processors)};
    t->arrivals.rate *= s->scale / s->machines;
    for (size_t k = 0; k < t->arrivals.n_spans; k++) { /* an even share of them, by lot */
        t->arrivals.span[k].dispersion = 1 + (t->arrivals.span[k].dispersion - 1) / s->machines;
    }
}

static bool same_device(const struct site *s, size_t a, size_t b)
{
    return strcmp(model_at(s, a)->device, model_at(s, b)->device) == 0;
}

static unsigned gpus_of(const struct site *s)
{
    unsigned n = 0;

    for (size_t i = 0; i < s->n; i++) {
        bool first = model_at(s, i)->gpu;

        for (size_t k = 0; k < i && first; k++) {
            first = !same_device(s, i, k);
        }
        n += first;
    }
    return n;
}

/* Those that share a device are solved together, beside each other, and put back. */
static double solve_device(const struct site *s, struct queue_tenant *t, size_t first, bool cpu)
{
    struct queue_tenant *part = xcalloc(s->n + 1, sizeof(*part));
    double processors = s->processors, demand;
    size_t n = 0;

    if (s->app && s->prices) {
        processors = MAX(processors - decimal(s->prices->app_processors) * s->scale / s->machines, .05);
    }
    for (size_t i = 0; i < s->n; i++) {
        if (same_device(s, i, first) || (cpu && !model_at(s, i)->gpu)) {
            part[n++] = t[i];
        }
    }
    if (cpu) {
        part[n++] = t[s->n];
    }
    demand = queue_share(part, n, cpu ? processors : 1);
    n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (same_device(s, i, first) || (cpu && !model_at(s, i)->gpu)) {
            t[i] = part[n++];
        }
    }
    if (cpu) {
        t[s->n] = part[n];
    }
    free(part);
    return demand;
}

/* t: one for each model, and one for the connection threads. Returns the largest demand on a device. */
static double site_solve(const struct site *s, struct queue_tenant *t, double *processors_busy)
{
    double front = s->passed * s->scale / s->machines, demand, most;

    for (size_t i = 0; i < s->n; i++) {
        tenant_of(&t[i], s, i);
        front += t[i].arrivals.rate;
    }
    t[s->n] = (struct queue_tenant){
        .arrivals = {.rate = front}, .service = {.mean = s->p->front, .cs2 = 1}, .servers = s->processors, .width = 1};
    most = *processors_busy = 0;
    for (size_t i = 0; i < s->n; i++) {
        bool first = model_at(s, i)->gpu;

        for (size_t k = 0; k < i && first; k++) {
            first = !same_device(s, i, k);
        }
        if (first) {
            demand = solve_device(s, t, i, false);
            most = MAX(most, demand);
        }
    }
    if (s->n > 0) { /* the processors: of those that are on no GPU, and of the connection threads */
        size_t cpu = 0;

        while (cpu < s->n - 1 && model_at(s, cpu)->gpu) {
            cpu++;
        }
        *processors_busy =
            model_at(s, cpu)->gpu ? queue_share(&t[s->n], 1, s->processors) : solve_device(s, t, cpu, true);
    }
    return MAX(most, *processors_busy);
}

double plan_solve(struct queue_tenant *out, const struct profile *p, const size_t *model, size_t n, double scale,
                  unsigned processors)
{
    struct site s = {.p = p, .model = model, .n = n, .scale = scale, .machines = 1, .processors = processors};
    double busy, demand;

    s.instances = xcalloc(n + 1, sizeof(s.instances[0]));
    for (size_t i = 0; i < n; i++) {
        s.instances[i] = p->model[model[i]].instances;
    }
    demand = site_solve(&s, out, &busy);
    free(s.instances);
    return demand;
}

/* ---- targets ---- */

static double service_p99(const struct profile_model *m)
{
    struct queue_answer nobody = {.run = m->service.mean};

    return m->service.n_points > 0 ? queue_quantile(&nobody, &m->service, .99) : 0;
}

static double target_of(const struct prices *prices, const struct profile_model *m)
{
    for (size_t i = 0; i < prices->n_families; i++) {
        if (strcmp(prices->family[i].name, m->family) == 0) {
            return (double)prices->family[i].p99_us / 1e6;
        }
    }
    return MAX((double)prices->p99_us / 1e6, decimal(prices->p99_times) * (service_p99(m) + m->outside));
}

/* What an answer takes beside its queue and its run. */
static double beside(const struct site *s, const struct queue_tenant *t, size_t i)
{
    return model_at(s, i)->outside + t[s->n].queue.wait + s->hop;
}

static double answer_p99(const struct site *s, const struct queue_tenant *t, size_t i)
{
    return model_at(s, i)->service.n_points > 0 ? queue_tenant_quantile(&t[i], .99) + beside(s, t, i) : 0;
}

/* The share of the answers that are later than the target; a model that nobody asked has none. */
static double late(const struct site *s, const struct queue_tenant *t, size_t i)
{
    const struct profile_model *m = model_at(s, i);

    return m->service.n_points > 0 && m->arrivals.rate > 0
               ? queue_tenant_longer(&t[i], target_of(s->prices, m) - beside(s, t, i))
               : 0;
}

/* ---- sizing ---- */

static double memory_of(const struct site *s)
{
    double bytes =
        (double)s->p->server_bytes + (double)s->prices->spare_memory + (s->app ? (double)s->prices->app_memory : 0);

    for (size_t i = 0; i < s->n; i++) {
        const struct profile_model *m = model_at(s, i);

        bytes += (double)m->host_bytes * (m->on_threads ? 1 : (double)s->instances[i] / m->instances);
    }
    return ceil(MAX(bytes, (double)s->prices->least_memory) / GIB);
}

/* More instances where answers are late, as long as that helps. True: none is late. */
static bool fit_instances(struct site *s, struct queue_tenant *t, double *busy)
{
    for (;;) {
        double demand = site_solve(s, t, busy), worst = .01;
        size_t slow = s->n;

        if (*busy > (double)s->prices->most_busy / 1e4 || demand >= 1) {
            return false;
        }
        for (size_t i = 0; i < s->n; i++) {
            double l = late(s, t, i);

            if (l > worst && !model_at(s, i)->on_threads && s->instances[i] < MIN(INSTANCES_MOST, 2 * s->processors)) {
                worst = l;
                slow = i;
            } else if (l > .01 && (model_at(s, i)->on_threads || s->instances[i] >= 2 * s->processors)) {
                return false; /* it has all it can have */
            }
        }
        if (slow == s->n) {
            for (size_t i = 0; i < s->n; i++) {
                if (late(s, t, i) > .01) {
                    return false;
                }
            }
            return true;
        }
        s->instances[slow]++;
    }
}

static bool hopeless(const struct site *s, struct plan_size *out)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct profile_model *m = model_at(s, i);

        if (m->arrivals.rate > 0 && service_p99(m) + m->outside + s->hop > target_of(s->prices, m)) {
            out->why = "its run alone takes longer than its target";
            return true;
        }
    }
    return false;
}

static double processors_wanted(const struct site *s)
{
    double sum = s->app ? decimal(s->prices->app_processors) * s->scale : 0, rate = s->passed;

    for (size_t i = 0; i < s->n; i++) {
        const struct profile_model *m = model_at(s, i);
        double full = (1 + (m->batch.most - 1) * m->batch.more) / m->batch.most;

        rate += m->arrivals.rate;
        sum += m->gpu ? 0 : m->arrivals.rate * s->scale * m->service.mean * m->width * full;
    }
    return sum + rate * s->scale * s->p->front;
}

static void set_size(const struct site *s, double busy, struct plan_size *out)
{
    const struct prices *x = s->prices;

    *out = (struct plan_size){.possible = true,
                              .machines = s->machines,
                              .processors = s->processors,
                              .gpus = gpus_of(s),
                              .memory = memory_of(s),
                              .busy = busy};
    out->cost =
        out->machines * decimal(x->hours) *
        (out->processors * decimal(x->processor) + out->memory * decimal(x->memory) + out->gpus * decimal(x->gpu));
}

static void instances_reset(struct site *s)
{
    for (size_t i = 0; i < s->n; i++) {
        s->instances[i] = model_at(s, i)->instances;
    }
}

/* The least that does it; t: as it is there then. */
static void site_size(struct site *s, struct queue_tenant *t, struct plan_size *out)
{
    unsigned most = (unsigned)s->prices->most_processors, least = (unsigned)s->prices->least_processors;
    double wanted = processors_wanted(s) / ((double)s->prices->most_busy / 1e4), busy = 0;

    *out = (struct plan_size){.cost = INFINITY};
    if (hopeless(s, out)) {
        return;
    }
    for (s->machines = (unsigned)MAX(ceil(MIN(wanted, 1e6) / most), 1.); s->machines <= MACHINES_MOST; s->machines++) {
        s->processors = (unsigned)MAX(ceil(wanted / s->machines), (double)least);
        for (; s->processors <= most; s->processors++) {
            instances_reset(s);
            if (fit_instances(s, t, &busy)) {
                set_size(s, busy, out);
                return;
            }
        }
    }
    out->why = "more than 64 machines would be needed";
}

/* ---- a family ---- */

struct maker {
    const struct profile *p;
    const struct prices *prices;
    size_t *all, *own, *rest;
    size_t n_all, n_own, n_rest;
    unsigned *instances;
    struct queue_tenant *t;
};

static double worst_p99(const struct site *s, const struct queue_tenant *t, const char *family)
{
    double most = 0;

    for (size_t i = 0; i < s->n; i++) {
        if (!family || strcmp(model_at(s, i)->family, family) == 0) {
            double p99 = answer_p99(s, t, i);

            most = MAX(most, p99);
        }
    }
    return most;
}

/* Of the models that are not of the family: the largest p99 over its target. */
static double worst_other(const struct site *s, const struct queue_tenant *t, const char *family)
{
    double most = 0;

    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(model_at(s, i)->family, family) != 0) {
            double part = answer_p99(s, t, i) / target_of(s->prices, model_at(s, i));

            most = MAX(most, part);
        }
    }
    return most;
}

static double rate_of(const struct maker *k, const size_t *list, size_t n)
{
    double rate = 0;

    for (size_t i = 0; i < n; i++) {
        rate += k->p->model[list[i]].arrivals.rate;
    }
    return rate;
}

static struct site site_of(const struct maker *k, const size_t *list, size_t n, double scale, bool app)
{
    return (struct site){.p = k->p,
                         .prices = k->prices,
                         .model = list,
                         .n = n,
                         .scale = scale,
                         .app = app,
                         .machines = 1,
                         .processors = 1,
                         .instances = k->instances};
}

static void load_of(const struct maker *k, const struct plan_family *f, double scale, struct plan_load *out)
{
    struct site s = site_of(k, k->all, k->n_all, scale, true);

    site_size(&s, k->t, &out->together);
    out->p99_together = out->together.possible ? worst_p99(&s, k->t, f->name) : (double)INFINITY;
    out->others_together = out->together.possible && f->name ? worst_other(&s, k->t, f->name) : 0;
    s = site_of(k, k->rest, k->n_rest, scale, true);
    s.passed = rate_of(k, k->own, k->n_own);
    if (!f->name) { /* the application calls it from another host: nothing is passed on */
        s.passed = 0;
    }
    site_size(&s, k->t, &out->rest);
    out->others_apart = out->rest.possible && f->name ? worst_other(&s, k->t, f->name) : 0;
    s = site_of(k, k->own, k->n_own, scale, false);
    s.hop = (double)k->prices->hop_us / 1e6;
    site_size(&s, k->t, &out->own);
    out->p99_apart = out->own.possible ? worst_p99(&s, k->t, f->name) : (double)INFINITY;
    out->cost_together = out->together.cost;
    out->cost_apart = out->rest.cost + out->own.cost + decimal(k->prices->service);
}

/* The family has a burst on the machine of the plain load: which other model suffers most, together and apart. */
static void blast_of(const struct maker *k, struct plan_family *f)
{
    struct site s = site_of(k, k->all, k->n_all, 1, true);
    struct profile burst = *k->p;
    struct plan_size size;
    double busy, worst = 0, *before;

    site_size(&s, k->t, &size);
    if (!size.possible || !f->name || k->n_rest == 0) {
        return;
    }
    before = xcalloc(s.n, sizeof(*before));
    for (size_t i = 0; i < s.n; i++) {
        before[i] = answer_p99(&s, k->t, i);
    }
    burst.model = xcalloc(burst.n_models, sizeof(burst.model[0]));
    memcpy(burst.model, k->p->model, burst.n_models * sizeof(burst.model[0]));
    for (size_t i = 0; i < k->n_own; i++) {
        burst.model[k->own[i]].arrivals.rate *= decimal(k->prices->burst);
    }
    s.p = &burst;
    site_solve(&s, k->t, &busy);
    for (size_t i = 0; i < s.n; i++) {
        const struct profile_model *m = &k->p->model[k->all[i]];
        double after = answer_p99(&s, k->t, i);

        if (strcmp(m->family, f->name) != 0 && m->arrivals.rate > 0 && before[i] > 0 && after / before[i] > worst) {
            worst = after / before[i];
            f->blast = (struct plan_blast){m->model, before[i], after, target_of(k->prices, m)};
        }
    }
    free(before);
    free(burst.model);
}

/* ---- deciding ---- */

static void say(struct plan_family *f, const char *fmt, ...) PRINTF(2, 3);
static void say(struct plan_family *f, const char *fmt, ...)
{
    size_t n = strlen(f->reason);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(f->reason + n, sizeof(f->reason) - n, fmt, ap);
    va_end(ap);
}

static bool pays(const struct prices *x, const struct plan_load *l)
{
    double saved = l->cost_together - l->cost_apart;

    return (!isinf(l->cost_apart) && isinf(l->cost_together)) ||
           (saved >= decimal(x->saving_least) && saved >= l->cost_together * (double)x->saving / 1e4);
}

static void say_more(const struct prices *x, struct plan_family *f)
{
    const struct plan_load *now = &f->load[0];

    if (f->own_deaths > 0 && f->on_threads) {
        say(f, " It ran inside the server and may take it down: place: worker walls it in, without a service.");
    } else if (f->own_deaths > 0) {
        say(f, " Its processes died %llu times by their own fault; each time nobody else was touched.",
            (unsigned long long)f->own_deaths);
    }
    if (f->blast.model && f->blast.after > f->blast.target && !isinf(now->cost_apart)) {
        say(f, " A burst of %.3g times would take %s beyond its target; apart it would not, for %.0f %s a month.",
            decimal(x->burst), f->blast.model, now->cost_apart - now->cost_together, x->currency);
    }
}

static void decide(const struct profile *p, const struct prices *x, struct plan_family *f, uint64_t requests)
{
    const struct plan_load *now = &f->load[0];
    double more = now->cost_apart - now->cost_together;
    bool hurts = f->blast.model && f->blast.after > f->blast.target;

    f->verdict = PLAN_KEEP;
    if (requests < x->enough_requests || p->seconds * 1e6 < (double)x->enough_us) {
        f->verdict = PLAN_UNKNOWN;
        say(f, "Too little was measured (%llu requests in %.0f minutes) to decide by; the numbers are a guess.",
            (unsigned long long)requests, p->seconds / 60);
        return;
    }
    if (!now->together.possible && isinf(now->cost_apart)) {
        say(f, "Its target can not be kept in either place: %s. Give it another target, or make it faster.",
            now->own.why    ? now->own.why
            : now->rest.why ? now->rest.why
                            : now->together.why);
        return;
    }
    if (pays(x, now)) {
        f->verdict = PLAN_PROMOTE;
        if (isinf(now->cost_together)) {
            say(f, "Together the targets can not be kept (%s); apart they can.", now->together.why);
        } else {
            say(f,
                "Apart costs %.0f %s a month less, the service's %.0f included: the other machines get cheaper by more "
                "than its own cost.",
                -more, x->currency, decimal(x->service));
        }
    } else if (hurts && more <= decimal(x->isolation)) {
        f->verdict = PLAN_PROMOTE;
        say(f,
            "A burst of %.3g times takes %s from %.3g ms to %.3g ms, beyond its target of %.3g ms; to be apart "
            "costs %.0f %s a month, which you said that is worth.",
            decimal(x->burst), f->blast.model, f->blast.before * 1e3, f->blast.after * 1e3, f->blast.target * 1e3, more,
            x->currency);
        return;
    } else if (isinf(more)) {
        say(f, "Apart its target can not be kept (%s), here it can.", now->own.why ? now->own.why : now->rest.why);
    } else if (more >= 0) {
        say(f, "Apart costs %.0f %s a month more and answers %.3g ms %s.", more, x->currency,
            fabs(now->p99_apart - now->p99_together) * 1e3,
            now->p99_apart >= now->p99_together ? "later at the p99"
                                                : "sooner at the p99, within the target both ways");
    } else {
        say(f, "Apart would save %.0f %s a month, less than is worth a change.", -more, x->currency);
    }
    for (size_t i = 1; i < PLAN_LOADS && f->verdict == PLAN_KEEP; i++) {
        if (pays(x, &f->load[i])) {
            f->verdict = PLAN_LATER;
            f->pays_from = plan_loads[i];
            say(f, " At %.0f times the load it pays: look again when it grows.", plan_loads[i]);
        }
    }
    say_more(x, f);
}

/* ---- all of them ---- */

static void take_models(struct maker *k, const char *family)
{
    k->n_own = k->n_rest = 0;
    for (size_t i = 0; i < k->n_all; i++) {
        bool own = !family || strcmp(k->p->model[k->all[i]].family, family) == 0;

        if (own) {
            k->own[k->n_own++] = k->all[i];
        } else {
            k->rest[k->n_rest++] = k->all[i];
        }
    }
}

static double work_of(const struct profile_model *m)
{
    return m->arrivals.rate * m->service.mean * m->width;
}

static void add_family(struct plan *out, struct maker *k, const char *name)
{
    struct plan_family *f;
    uint64_t requests = 0;
    double all = 0, own = 0;

    out->family = xrealloc(out->family, (out->n_families + 1) * sizeof(out->family[0]));
    f = &out->family[out->n_families++];
    *f = (struct plan_family){.name = name};
    take_models(k, name);
    for (size_t i = 0; i < k->n_all; i++) {
        all += work_of(&k->p->model[k->all[i]]);
    }
    for (size_t i = 0; i < k->n_own; i++) {
        const struct profile_model *m = &k->p->model[k->own[i]];
        double target = target_of(k->prices, m);

        f->gpu |= m->gpu;
        f->on_threads |= m->on_threads;
        f->rate += m->arrivals.rate;
        f->target = MAX(f->target, target);
        f->own_deaths += m->own_deaths;
        f->changes += m->changes;
        f->change_days = MAX(f->change_days, m->change_days);
        requests += m->requests;
        own += work_of(m);
    }
    f->n_models = k->n_own;
    f->share = all > 0 ? own / all : 0;
    for (size_t i = 0; i < PLAN_LOADS; i++) {
        load_of(k, f, plan_loads[i], &f->load[i]);
    }
    blast_of(k, f);
    decide(k->p, k->prices, f, requests);
}

/* Each model as it is now, at the mean load on this machine. */
static void fit_of(struct plan *out, const struct maker *k)
{
    struct profile mean = *k->p;
    double demand;

    mean.model = xcalloc(MAX(mean.n_models, (size_t)1), sizeof(mean.model[0]));
    memcpy(mean.model, k->p->model, mean.n_models * sizeof(mean.model[0]));
    for (size_t i = 0; i < mean.n_models; i++) {
        mean.model[i].arrivals.rate = mean.model[i].mean_rate;
    }
    demand = plan_solve(k->t, &mean, k->all, k->n_all, 1, mean.processors);
    out->fit = xcalloc(MAX(k->n_all, (size_t)1), sizeof(out->fit[0]));
    for (size_t i = 0; i < k->n_all; i++) {
        const struct profile_model *m = &k->p->model[k->all[i]];
        if (m->service.n_points == 0) {
            continue;
        }
        double more = m->outside + k->t[k->n_all].queue.wait;

        out->fit[out->n_fits++] = (struct plan_fit){
            .model = m->model,
            .load = k->t[i].queue.load,
            .measured = m->latency,
            .measured_p99 = m->latency_p99,
            .predicted = demand < 1 ? k->t[i].queue.wait + k->t[i].queue.run + more : (double)INFINITY,
            .predicted_p99 = queue_tenant_quantile(&k->t[i], .99) + more,
            .stalled = m->stalled,
            .predicted_stalled = m->service.mean * (k->t[i].stretch - 1),
        };
    }
    free(mean.model);
}

static void conclude(struct plan *out)
{
    size_t promote = 0, later = 0, unknown = 0;

    for (size_t i = 0; i < out->n_families; i++) {
        promote += out->family[i].verdict == PLAN_PROMOTE;
        later += out->family[i].verdict == PLAN_LATER;
        unknown += out->family[i].verdict == PLAN_UNKNOWN;
    }
    out->monolith = promote == 0;
    if (out->n_families == 0) {
        snprintf(out->reason, sizeof(out->reason),
                 "Nothing was asked of any model yet: there is nothing to advise on.");
    } else if (promote > 0) {
        snprintf(out->reason, sizeof(out->reason), "Promote %zu of %zu; keep the rest in one server.", promote,
                 out->n_families);
    } else if (unknown == out->n_families) {
        snprintf(out->reason, sizeof(out->reason),
                 "Stay a monolith until more is known: too little was measured for anything else.");
    } else {
        snprintf(out->reason, sizeof(out->reason), "Stay a monolith: no family is better or cheaper apart today%s.",
                 later > 0 ? "; some would be with more load" : "");
    }
}

static bool asked(const struct profile_model *m)
{
    return m->requests > 0 && m->service.n_points > 0;
}

void plan_make(struct plan *out, const struct profile *p, const struct prices *prices)
{
    struct maker k = {.p = p, .prices = prices};
    bool any = false;

    *out = (struct plan){0};
    k.all = xcalloc(p->n_models + 1, sizeof(k.all[0]));
    k.own = xcalloc(p->n_models + 1, sizeof(k.own[0]));
    k.rest = xcalloc(p->n_models + 1, sizeof(k.rest[0]));
    k.instances = xcalloc(p->n_models + 1, sizeof(k.instances[0]));
    k.t = xcalloc(p->n_models + 1, sizeof(k.t[0]));
    for (size_t i = 0; i < p->n_models; i++) { /* those that nobody asks take memory all the same */
        k.all[k.n_all++] = i;
        any |= asked(&p->model[i]);
    }
    fit_of(out, &k);
    for (size_t i = 0; i < k.n_all; i++) {
        bool seen = !asked(&p->model[i]);

        for (size_t j = 0; j < i && !seen; j++) {
            seen = asked(&p->model[j]) && strcmp(p->model[i].family, p->model[j].family) == 0;
        }
        if (!seen) {
            add_family(out, &k, p->model[i].family);
        }
    }
    if (any && (prices->app_processors > 0 || prices->app_memory > 0)) {
        add_family(out, &k, NULL);
    }
    conclude(out);
    free(k.all);
    free(k.own);
    free(k.rest);
    free(k.instances);
    free(k.t);
}

void plan_done(struct plan *p)
{
    free(p->family);
    free(p->fit);
    *p = (struct plan){0};
}
