/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles and price tables as they are read, sizes that can be reckoned by hand, and the rules: what is kept, what is
 * promoted, and why. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/base.h"
#include "cli/plan.h"

#define MODEL                                                                                                       \
    "{\"model\":\"%s\",\"family\":\"%s\",\"place\":\"%s\",\"device\":\"%s\",\"instances\":1,\"width\":1,"           \
    "\"batch\":{\"most\":1},\"requests\":%d,\"seconds\":3600,\"busiest_rate\":%g,"                                  \
    "\"dispersion\":[{\"seconds\":0.01,\"value\":1.0,\"spans\":1000},{\"seconds\":1,\"value\":null}],"              \
    "\"joined\":1,\"executor_s\":0,\"service\":{\"n\":100,\"mean_ms\":%g,\"points\":[[%g,0.5],[%g,0.5]]},"          \
    "\"outside_ms\":0.2,\"measured\":{\"latency_ms\":11.0},\"memory\":{\"host\":%.0f,\"device\":0,\"versions\":1}," \
    "\"deaths\":{\"own\":%d,\"outside\":1},\"changes\":{\"versions\":3,\"days\":30}}"

struct one {
    const char *model, *family, *place, *device;
    int requests;
    double rate, ms;
    double gib;
    int deaths;
};

static void profile_of(struct profile *p, const struct one *list, size_t n, double seconds)
{
    struct buf b;
    struct err e = {0};

    buf_init(&b, 1 << 20);
    buf_addf(&b,
             "{\"format\":1,\"seconds\":%g,\"machine\":{\"processors\":4,\"memory\":8000000000},"
             "\"server\":{\"threads\":4,\"cpu_s\":10,\"memory\":30000000},\"models\":[",
             seconds);
    for (size_t i = 0; i < n; i++) {
        const struct one *m = &list[i];

        buf_addf(&b, "%s" MODEL, i ? "," : "", m->model, m->family, m->place, m->device, m->requests, m->rate, m->ms,
                 m->ms, m->ms, m->gib * 1073741824., m->deaths);
    }
    buf_addz(&b, "]}");
    yyjson_doc *doc = yyjson_read(b.p, b.n, 0);
    assert_non_null(doc);
    if (profile_read(p, yyjson_doc_get_root(doc), &e) != ERR_OK) {
        fail_msg("%s", e.text);
    }
    yyjson_doc_free(doc);
    buf_done(&b);
}

static void prices_of(struct prices *x, const char *yaml)
{
    char path[] = "/tmp/weir-prices-XXXXXX";
    int fd = mkstemp(path);
    struct err e = {0};

    assert_true(fd >= 0 && write(fd, yaml, strlen(yaml)) == (ssize_t)strlen(yaml));
    close(fd);
    enum err_code rc = prices_read(x, path, &e);
    unlink(path);
    if (rc != ERR_OK) {
        fail_msg("%s", e.text);
    }
}

static const struct plan_family *family(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < plan->n_families; i++) {
        if (plan->family[i].name && strcmp(plan->family[i].name, name) == 0) {
            return &plan->family[i];
        }
    }
    fail_msg("no family %s", name);
    return NULL;
}

static void says(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("'%s' does not say '%s'", text, part);
    }
}

/* ---- reading ---- */

static void a_profile(void **state)
{
    static const struct one shop[] = {{"intent", "intent", "inline", "cpu", 5000, 3, 2, .01, 0},
                                      {"vision", "photo", "worker", "cuda:0", 2000, 1, 20, 1, 4}};
    struct profile p;

    (void)state;
    profile_of(&p, shop, 2, 3600);
    assert_int_equal(p.n_models, 2);
    assert_true(p.model[0].on_threads && !p.model[0].gpu && p.model[1].gpu);
    assert_true(fabs(p.model[0].service.mean - .002) < 1e-12 && p.model[0].service.cs2 < 1e-9);
    assert_int_equal(p.model[0].arrivals.n_spans, 1); /* the other one is not known */
    assert_true(fabs(p.front - 10. / 7000) < 1e-9);
    assert_true(fabs(p.model[0].mean_rate - 5000 / 3600.) < 1e-9 && fabs(p.model[0].outside - .0002) < 1e-12);
    assert_true(isnan(p.model[0].latency_p99) && p.model[1].own_deaths == 4);
    profile_done(&p);
}

static void what_is_no_profile(void **state)
{
    static const struct {
        const char *json, *why;
    } cases[] = {
        {"{}", "no profile"},
        {"[]", "no profile"},
        {"{\"format\":2,\"machine\":{\"processors\":1},\"models\":[]}", "version 1"},
        {"{\"format\":1,\"machine\":{\"processors\":1},\"models\":[{}]}", "\"model\""},
        {"{\"format\":1,\"machine\":{\"processors\":1},\"models\":[{\"model\":\"a\",\"family\":\"b\",\"device\":"
         "\"cpu\","
         "\"service\":{\"points\":[[1]]}}]}",
         "[ms, share]"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        yyjson_doc *doc = yyjson_read(cases[i].json, strlen(cases[i].json), 0);
        struct profile p;
        struct err e = {0};

        assert_int_equal(profile_read(&p, yyjson_doc_get_root(doc), &e), ERR_INVALID);
        says(e.text, cases[i].why);
        yyjson_doc_free(doc);
    }
}

/* Runs of 4 took 2.5 times as long as one would: a run of one is what the plan begins with. */
static void batches_are_taken_apart(void **state)
{
    static const char text[] =
        "{\"format\":1,\"machine\":{\"processors\":1},\"models\":[{\"model\":\"a\",\"family\":\"b\",\"device\":\"cpu\","
        "\"requests\":10,\"seconds\":10,\"joined\":4,\"batch\":{\"most\":8,\"one_ms\":10,\"rows\":3,\"rows_ms\":20},"
        "\"service\":{\"points\":[[25,1]]}}]}";
    yyjson_doc *doc = yyjson_read(text, sizeof(text) - 1, 0);
    struct profile p;
    struct err e = {0};

    (void)state;
    assert_int_equal(profile_read(&p, yyjson_doc_get_root(doc), &e), ERR_OK);
    assert_true(fabs(p.model[0].batch.more - .5) < 1e-9);
    assert_true(fabs(p.model[0].service.mean - .010) < 1e-9 && fabs(p.model[0].point[0].seconds - .010) < 1e-9);
    profile_done(&p);
    yyjson_doc_free(doc);
}

static void presets_are_a_price_table(void **state)
{
    struct prices x, again;
    struct buf b;
    struct err e;

    (void)state;
    buf_init(&b, 65536);
    prices_write(&b);
    prices_of(&x, buf_z(&b));
    assert_int_equal(prices_read(&again, NULL, &e), ERR_OK);
    assert_true(x.processor == again.processor && x.most_busy == again.most_busy && x.saving == again.saving);
    assert_int_equal(x.processor, 32000);
    assert_string_equal(x.currency, again.currency);
    prices_done(&x);
    prices_done(&again);
    buf_done(&b);
    assert_int_not_equal(prices_read(&x, "/nonexistent/prices.yaml", &e), ERR_OK);
}

/* ---- sizes ---- */

static void the_least_machine_and_its_cost(void **state)
{
    static const struct one shop[] = {{"intent", "intent", "worker", "cpu", 50000, 3, 2, .1, 0}};
    struct profile p;
    struct prices x;
    struct plan plan;

    (void)state;
    profile_of(&p, shop, 1, 3600);
    prices_of(
        &x, "hours: 100\nprocessor: 1\nmemory: 0.5\nservice: 7\nmachine: {least_processors: 1, least_memory: 2GiB}\n");
    plan_make(&plan, &p, &x);
    const struct plan_load *l = &family(&plan, "intent")->load[0];
    assert_true(l->together.possible && l->together.machines == 1 && l->together.processors == 1);
    assert_true(fabs(l->together.memory - 2) < 1e-9);
    assert_true(fabs(l->cost_together - 200) < 1e-6);          /* 100 x (1 + 2 x .5) */
    assert_true(fabs(l->cost_apart - (200 + 200 + 7)) < 1e-6); /* what is left is a gateway */
    assert_true(l->p99_apart > l->p99_together);
    plan_done(&plan);
    prices_done(&x);
    profile_done(&p);
}

/* 50 a second of 100 ms are 5 processors' work; at ten times that 50, which is more than one machine. */
static void sizes_grow_with_the_load(void **state)
{
    static const struct one shop[] = {{"big", "big", "worker", "cpu", 50000, 50, 100, .1, 0}};
    struct profile p;
    struct prices x;
    struct plan plan;

    (void)state;
    profile_of(&p, shop, 1, 3600);
    prices_of(&x, "machine: {most_processors: 16, most_busy: 70%}\n");
    plan_make(&plan, &p, &x);
    const struct plan_family *f = family(&plan, "big");
    assert_int_equal(f->load[0].together.machines, 1);
    assert_in_range(f->load[0].together.processors, 8, 12);
    assert_in_range(f->load[2].together.machines, 5, 7);
    for (size_t i = 0; i < PLAN_LOADS; i++) {
        assert_true(f->load[i].together.busy <= .7001 && f->load[i].p99_together <= f->target * 1.0001);
        assert_true(i == 0 || f->load[i].cost_together > f->load[i - 1].cost_together);
    }
    plan_done(&plan);
    prices_done(&x);
    profile_done(&p);
}

/* ---- rules ---- */

static void decided(const struct one *list, size_t n, const char *yaml, double seconds, const char *name,
                    enum plan_verdict want, const char *why)
{
    struct profile p;
    struct prices x;
    struct plan plan;

    profile_of(&p, list, n, seconds);
    prices_of(&x, yaml);
    plan_make(&plan, &p, &x);
    const struct plan_family *f = family(&plan, name);
    if (f->verdict != want) {
        fail_msg("%s: %s, not %s: %s", name, plan_verdict_names[f->verdict], plan_verdict_names[want], f->reason);
    }
    says(f->reason, why);
    assert_true(plan.monolith == (want != PLAN_PROMOTE));
    plan_done(&plan);
    prices_done(&x);
    profile_done(&p);
}

static const struct one small[] = {{"intent", "intent", "worker", "cpu", 9000, 3, 2, .05, 0},
                                   {"vision", "vision", "worker", "cpu", 9000, 1, 20, .1, 0}};
/* Work for three machines of processors, and one GPU that has hardly anything to do. */
static const struct one wide[] = {{"rank", "rank", "worker", "cpu", 90000, 150, 200, .5, 0},
                                  {"photo", "photo", "worker", "cuda:0", 9000, 1, 20, 1, 0}};

static void a_small_shop_stays(void **state)
{
    (void)state;
    decided(small, 2, "", 3600, "vision", PLAN_KEEP, "a month more");
}

static void too_little_is_no_verdict(void **state)
{
    static const struct one few[] = {{"intent", "intent", "worker", "cpu", 900, 3, 2, .05, 0}};

    (void)state;
    decided(few, 1, "", 3600, "intent", PLAN_UNKNOWN, "Too little was measured");
    decided(small, 2, "", 100, "intent", PLAN_UNKNOWN, "Too little was measured");
}

static void one_gpu_for_all_machines_is_cheaper_apart(void **state)
{
    (void)state;
    decided(wide, 2, "", 3600, "photo", PLAN_PROMOTE, "a month less");
    decided(wide, 2, "gpu: 0.01\n", 3600, "photo", PLAN_KEEP, "");
}

static void it_pays_later(void **state)
{
    static const struct one growing[] = {{"rank", "rank", "worker", "cpu", 90000, 15, 200, .5, 0},
                                         {"photo", "photo", "worker", "cuda:0", 9000, .1, 20, 1, 0}};

    (void)state;
    decided(growing, 2, "", 3600, "photo", PLAN_LATER, "10 times the load");
}

static void a_target_that_nothing_keeps(void **state)
{
    (void)state;
    decided(small, 2, "families: {vision: {p99: 10ms}}\n", 3600, "vision", PLAN_KEEP,
            "can not be kept in either place");
}

/* It is just in time here, and a network hop too late apart. */
static void a_hop_too_far(void **state)
{
    static const struct one rare[] = {{"intent", "intent", "worker", "cpu", 9000, 3, 2, .05, 0},
                                      {"vision", "vision", "worker", "cpu", 9000, .1, 20, .1, 0}};

    (void)state;
    decided(rare, 2, "hop: 5ms\nfamilies: {vision: {p99: 22ms}}\n", 3600, "vision", PLAN_KEEP, "Apart its target");
}

static const struct one bursty[] = {{"intent", "intent", "worker", "cpu", 90000, 100, 5, .05, 0},
                                    {"batch", "batch", "worker", "cpu", 9000, 9, 100, .1, 0}};

static void isolation_has_its_price(void **state)
{
    (void)state;
    decided(bursty, 2, "families: {intent: {p99: 28ms}}\nrules: {burst: 3, isolation: 300}\n", 3600, "batch",
            PLAN_PROMOTE, "beyond its target");
    decided(bursty, 2, "families: {intent: {p99: 28ms}}\nrules: {burst: 3}\n", 3600, "batch", PLAN_KEEP,
            "beyond its target");
}

static void a_death_inside_the_server(void **state)
{
    static const struct one inside[] = {{"intent", "intent", "inline", "cpu", 90000, 3, 1, .05, 2}};

    (void)state;
    decided(inside, 1, "", 3600, "intent", PLAN_KEEP, "place: worker");
}

/* The application is on the same machine: all of inference is one more module to be looked at. */
static void the_whole_of_it(void **state)
{
    struct profile p;
    struct prices x;
    struct plan plan;

    (void)state;
    profile_of(&p, small, 2, 3600);
    prices_of(&x, "application: {processors: 1, memory: 2GiB}\n");
    plan_make(&plan, &p, &x);
    assert_int_equal(plan.n_families, 3);
    assert_null(plan.family[2].name);
    assert_true(plan.family[2].load[0].cost_apart > plan.family[2].load[0].cost_together);
    says(plan.reason, "Stay a monolith");
    plan_done(&plan);
    prices_done(&x);
    profile_done(&p);
}

static void nothing_was_asked(void **state)
{
    struct profile p;
    struct prices x;
    struct plan plan;

    (void)state;
    profile_of(&p, NULL, 0, 3600);
    prices_of(&x, "");
    plan_make(&plan, &p, &x);
    assert_true(plan.monolith && plan.n_families == 0);
    says(plan.reason, "nothing to advise on");
    plan_done(&plan);
    prices_done(&x);
    profile_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_profile),
        cmocka_unit_test(what_is_no_profile),
        cmocka_unit_test(batches_are_taken_apart),
        cmocka_unit_test(presets_are_a_price_table),
        cmocka_unit_test(the_least_machine_and_its_cost),
        cmocka_unit_test(sizes_grow_with_the_load),
        cmocka_unit_test(a_small_shop_stays),
        cmocka_unit_test(too_little_is_no_verdict),
        cmocka_unit_test(one_gpu_for_all_machines_is_cheaper_apart),
        cmocka_unit_test(it_pays_later),
        cmocka_unit_test(a_target_that_nothing_keeps),
        cmocka_unit_test(a_hop_too_far),
        cmocka_unit_test(isolation_has_its_price),
        cmocka_unit_test(a_death_inside_the_server),
        cmocka_unit_test(the_whole_of_it),
        cmocka_unit_test(nothing_was_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
