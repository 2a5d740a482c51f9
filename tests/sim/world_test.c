/* SPDX-License-Identifier: Apache-2.0 */
/* The inference room in a simulated world, thousands of schedules a scenario, each from one seed (room.h says what is
 * checked in all of them).
 *
 * SIM_SCHEDULES=n: so many schedules in all (`make sim SIM_SCHEDULES=1000000`); SIM_SEED=n: that one alone. A word as
 * argument chooses the scenarios whose name has it: SIM_SEED=7 build/tests/sim/world_test overload. SIM_LOG=1 tells
 * every event as it comes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "sim/room.h"
#include "sim/sim.h"

#define SCHEDULES 4000 /* of all scenarios together */

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

/* What a scenario's schedules came to, so that one sees that there was something to check. */
static struct tally {
    uint64_t schedules, asked, refused, submitted, cancelled, moved, answered[ERR_COUNT_], deaths, runs;
    double worked_us, wasted_us;
} tally;

static void count(const struct room *r)
{
    tally.schedules++;
    for (unsigned i = 0; i < r->versions; i++) {
        const struct room_version *v = &r->version[i];

        tally.asked += v->asked;
        tally.refused += v->refused;
        tally.submitted += v->submitted;
        tally.cancelled += v->cancelled;
        tally.moved += v->moved;
        tally.deaths += v->model.died[0] + v->model.died[1];
        tally.runs += v->model.runs;
        tally.worked_us += (double)v->model.worked_us;
        tally.wasted_us += (double)v->model.wasted_us;
        for (unsigned c = 0; c < ERR_COUNT_; c++) {
            tally.answered[c] += v->answered[c];
        }
    }
}

static void say(const char *scenario)
{
    fprintf(
        stderr,
        "# %s: %llu schedules, %llu requests (%llu refused, %llu hung up, %llu moved), answers %llu well, %llu late, "
        "%llu 500, %llu 503; %llu deaths, %llu runs, %.2f %% of the work too late\n",
        scenario, (unsigned long long)tally.schedules, (unsigned long long)tally.asked,
        (unsigned long long)tally.refused, (unsigned long long)tally.cancelled, (unsigned long long)tally.moved,
        (unsigned long long)tally.answered[ERR_OK], (unsigned long long)tally.answered[ERR_TIMEOUT],
        (unsigned long long)tally.answered[ERR_MODEL], (unsigned long long)tally.answered[ERR_UNAVAILABLE],
        (unsigned long long)tally.deaths, (unsigned long long)tally.runs,
        100 * tally.wasted_us / MAX(tally.worked_us, 1.0));
    tally = (struct tally){0};
}

/* Runs `weight` thousandths of the schedules. make: draws the room from the seed; judge: what must hold at its end. */
static void play(const char *scenario, unsigned weight, void (*make)(struct room *r), void (*judge)(struct room *r))
{
    static struct room r;
    uint64_t one = number_of("SIM_SEED", 0), n = number_of("SIM_SCHEDULES", SCHEDULES) * weight / 1000;

    for (uint64_t seed = one ? one : 1; seed <= (one ? one : MAX(n, 1u)); seed++) {
        sim_begin(scenario, seed);
        room_plain(&r);
        make(&r);
        room_play(&r);
        judge(&r);
        count(&r);
        sim_end();
    }
    say(scenario);
}

/* ---- pieces ---- */

static uint64_t log_between(uint64_t least, uint64_t most)
{
    double x = log((double)least) + sim_unit() * (log((double)most) - log((double)least));

    return (uint64_t)exp(x);
}

static void draw_model(struct room_version *v)
{
    struct sim_model *m = &v->model;

    m->base_us = log_between(200, 20000);
    m->row_us = sim_between(0, m->base_us / 2);
    m->noise = sim_unit() * 0.5;
    m->batch_max = sim_chance(0.4) ? 1 : (uint32_t)sim_between(2, 32);
    m->load_us = log_between(100, 200000);
    m->capacity = sim_chance(0.3) ? (unsigned)sim_between(1, 32) : SIM_OPEN;
    v->spec.batch.max = m->batch_max;
    v->spec.batch.delay_us = m->batch_max > 1 && sim_chance(0.3) ? log_between(50, 20000) : 0;
    v->spec.batch.slo_us = m->batch_max > 1 && sim_chance(0.3) ? log_between(2000, 500000) : 0;
    v->spec.instances = (unsigned)sim_between(1, 4);
}

static void draw_clients(struct room *r, struct room_version *v, double least, double most)
{
    struct clients *c = &v->clients;
    double run_us = (double)(v->model.base_us + v->model.batch_max * v->model.row_us);

    c->rate = room_capacity(v) * (least + sim_unit() * (most - least));
    c->timeout_least_us = (uint64_t)(run_us * (1 + 20 * sim_unit()));
    c->timeout_most_us = c->timeout_least_us + (uint64_t)(run_us * 200 * sim_unit());
    c->endless = sim_chance(0.3) ? sim_unit() * 0.3 : 0;
    c->hangs_up = sim_chance(0.4) ? sim_unit() * 0.3 : 0;
    c->slow_body = sim_chance(0.4) ? sim_unit() * 0.5 : 0;
    c->rows_most = v->model.batch_max > 1 && sim_chance(0.5) ? (uint32_t)sim_between(1, v->model.batch_max) : 1;
    c->columns_most = sim_chance(0.3) ? (uint32_t)sim_between(2, 64) : 2;
    if (sim_chance(0.5)) {
        c->class_share[CLASS_CRITICAL] = sim_unit() / 2;
        c->class_share[CLASS_SHEDDABLE] = sim_unit() / 2;
        c->class_share[CLASS_DEFAULT] = 1 - c->class_share[CLASS_CRITICAL] - c->class_share[CLASS_SHEDDABLE];
    }
    if (sim_chance(0.3)) {
        c->surge = 1 + 5 * sim_unit();
        c->surge_us = log_between(5000, r->run_us);
    }
}

/* As long as about `requests` of the first version take to come. */
static void for_about(struct room *r, double requests)
{
    r->run_us = MAX((uint64_t)(requests / r->version[0].clients.rate * 1e6), MILLIS(50));
}

static uint64_t failures(const struct room_version *v)
{
    uint64_t n = 0;

    for (unsigned c = ERR_OK + 1; c < ERR_COUNT_; c++) {
        n += v->answered[c];
    }
    return n;
}

static void nothing(struct room *r)
{
    (void)r;
}

/* ---- calm: below capacity and without faults nothing is refused and nothing fails ---- */

static void make_calm(struct room *r)
{
    struct room_version *v = &r->version[0];

    r->threads = (unsigned)sim_between(1, 4);
    draw_model(v);
    v->spec.batch.slo_us = 0;
    draw_clients(r, v, 0.05, 0.3);
    v->clients.rate /= v->clients.rows_most;
    v->clients.surge = 0;
    v->clients.timeout_least_us = SECONDS(5);
    v->clients.timeout_most_us = SECONDS(10);
    v->open_at_us = 0;
    for_about(r, 400);
}

static void judge_calm(struct room *r)
{
    const struct room_version *v = &r->version[0];

    SIM_CHECK(failures(v) == 0 && v->refused == 0, "of %llu requests below capacity %llu failed, %llu were refused",
              (unsigned long long)v->asked, (unsigned long long)failures(v), (unsigned long long)v->refused);
}

static void calm(void **state)
{
    (void)state;
    play("calm", 150, make_calm, judge_calm);
}

/* ---- anything goes ---- */

static void draw_faults(struct sim_model *m)
{
    if (sim_chance(0.4)) {
        m->own_every_us = log_between(50000, 5000000);
    }
    if (sim_chance(0.4)) {
        m->outside_every_us = log_between(20000, 2000000);
    }
    m->dies_in_run = sim_chance(0.3) ? sim_unit() * 0.05 : 0;
    m->hangs_in_run = sim_chance(0.2) ? sim_unit() * 0.01 : 0;
    m->load_fails = sim_chance(0.3) ? sim_unit() * 0.5 : 0;
    m->attach_fails = sim_chance(0.1) ? sim_unit() * 0.1 : 0;
    m->first_fails = sim_chance(0.03);
    if (sim_chance(0.3)) {
        m->slow_every_us = log_between(20000, 1000000);
        m->slow_for_us = log_between(20000, 1000000);
        m->slow_times = 1 + 10 * sim_unit();
    }
}

static void make_anything(struct room *r)
{
    r->threads = (unsigned)sim_between(1, 4);
    r->versions = (unsigned)sim_between(1, 3);
    r->lane_credits = sim_chance(0.3) ? (uint32_t)sim_between(1, 64) : 0;
    for (unsigned i = 0; i < r->versions; i++) {
        struct room_version *v = &r->version[i];

        draw_model(v);
        draw_clients(r, v, 0.1, 4);
        draw_faults(&v->model);
        v->clients.poisoned = sim_chance(0.2) ? sim_unit() * 0.02 : 0;
        if (sim_chance(0.3)) {
            v->spec.queue_requests = sim_between(1, 64);
        }
        if (sim_chance(0.3)) {
            v->spec.queue_bytes = sim_between(500, 64 << 10);
        }
        if (sim_chance(0.2)) {
            v->spec.part_bytes = sim_between(1, 64) << 10;
        }
        v->spec.timeout_us = v->clients.timeout_most_us;
    }
    for_about(r, 400);
    for (unsigned i = 0; i < r->versions; i++) {
        struct room_version *v = &r->version[i];

        v->clients.rate = MIN(v->clients.rate, 800e6 / (double)r->run_us);
        v->open_at_us = sim_chance(0.3) ? sim_between(0, r->run_us / 2) : 0;
        v->close_at_us = sim_chance(0.3) ? sim_between(v->open_at_us, r->run_us) : 0;
        v->drain_us = log_between(1000, SECONDS(20));
    }
}

static void anything(void **state)
{
    (void)state;
    play("anything", 500, make_anything, nothing);
}

/* ---- overload: twice what can be done, without faults ---- */

static void make_overload(struct room *r)
{
    struct room_version *v = &r->version[0];
    struct sim_model *m = &v->model;
    uint64_t run_us;

    r->threads = (unsigned)sim_between(1, 4);
    draw_model(v);
    m->base_us = log_between(1000, 20000);
    m->row_us = sim_between(0, m->base_us / 4);
    m->noise = sim_unit() * 0.2;
    m->batch_max = sim_chance(0.5) ? 1 : (uint32_t)sim_between(2, 16);
    m->capacity = SIM_OPEN;
    m->load_us = 1000;
    v->spec.batch = (struct batch_rule){.max = m->batch_max};
    draw_clients(r, v, 2, 2);
    run_us = m->base_us + m->row_us * m->batch_max;
    v->clients.timeout_least_us = run_us * sim_between(10, 40);
    v->clients.timeout_most_us = v->clients.timeout_least_us * sim_between(1, 5);
    v->clients.endless = 0;
    v->clients.hangs_up = 0;
    v->clients.slow_body = 0;
    v->clients.surge = 0;
    v->clients.rows_most = 1;
    v->clients.columns_most = 2;
    v->spec.timeout_us = v->clients.timeout_most_us;
    r->run_us = MAX(10 * v->clients.timeout_most_us, (uint64_t)(4000 / v->clients.rate * 1e6));
    r->count_from_us = r->run_us / 4;
}

static void judge_overload(struct room *r)
{
    const struct room_version *v = &r->version[0];
    const struct sim_model *m = &v->model;
    double goodput = (double)v->good / ((double)(r->run_us - r->count_from_us) / 1e6) / room_capacity(v);
    double wasted = (double)m->wasted_us / (double)m->worked_us;
    char about[300];

    snprintf(
        about, sizeof(about),
        "%u threads, %u instances, %.1f of %u rows a run of %llu + n x %llu us, timeouts %llu to %llu us, %llu asked, "
        "%llu refused, %llu dropped by instances",
        r->threads, v->spec.instances, (double)m->jobs / (double)m->runs, m->batch_max, (unsigned long long)m->base_us,
        (unsigned long long)m->row_us, (unsigned long long)v->clients.timeout_least_us,
        (unsigned long long)v->clients.timeout_most_us, (unsigned long long)v->asked, (unsigned long long)v->refused,
        (unsigned long long)m->expired);
    SIM_CHECK(goodput >= 0.95, "goodput is %.1f %% of the capacity: %s", 100 * goodput, about);
    SIM_CHECK(wasted <= 0.01, "%.2f %% of the work came too late: %s", 100 * wasted, about);
}

static void overload(void **state)
{
    (void)state;
    play("overload", 50, make_overload, judge_overload);
}

/* ---- recovery: a model is so slow for a while that no deadline is kept; then all is well again ---- */

static void make_recovery(struct room *r)
{
    struct room_version *v = &r->version[0];
    uint64_t now = clock_us();

    make_overload(r);
    v->clients.rate /= 2 / (0.1 + 0.3 * sim_unit()) * v->model.batch_max;
    r->run_us = MAX(40 * v->clients.timeout_most_us, (uint64_t)(1000 / v->clients.rate * 1e6));
    r->count_from_us = r->run_us * 7 / 10;
    v->model.slow_from_us = now + r->run_us * 2 / 10;
    v->model.slow_to_us = now + r->run_us * 4 / 10;
    v->model.slow_times = (double)v->clients.timeout_most_us / (double)v->model.base_us * (1 + 3 * sim_unit());
}

static void judge_recovery(struct room *r)
{
    const struct room_version *v = &r->version[0];

    SIM_CHECK((double)v->good >= 0.95 * (double)v->counted,
              "long after it was slow %llu of %llu requests were answered", (unsigned long long)v->good,
              (unsigned long long)v->counted);
}

static void recovery(void **state)
{
    (void)state;
    play("recovery", 50, make_recovery, judge_recovery);
}

/* ---- kills from outside: nobody is failed by them ---- */

static void make_kills(struct room *r)
{
    struct room_version *v = &r->version[0];

    make_calm(r);
    v->model.outside_every_us = log_between(3 * (v->model.base_us + v->model.batch_max * v->model.row_us), 2000000);
    v->model.load_us = log_between(100, 20000);
    v->clients.rate /= 2;
    v->clients.timeout_least_us = SECONDS(60);
    v->clients.timeout_most_us = SECONDS(60);
    for_about(r, 400);
}

static void judge_kills(struct room *r)
{
    const struct room_version *v = &r->version[0];

    SIM_CHECK(v->answered[ERR_OK] + v->cancelled == v->submitted, "%llu requests failed by %llu kills from outside",
              (unsigned long long)failures(v), (unsigned long long)v->model.died[0]);
    SIM_CHECK(v->sick == 0, "kills from outside made a version sick");
}

static void kills_from_outside(void **state)
{
    (void)state;
    play("kills_from_outside", 100, make_kills, judge_kills);
}

/* ---- neighbours: what one version does hurts no other ---- */

static void make_neighbours(struct room *r)
{
    struct room_version *bad = &r->version[1];

    make_calm(r);
    r->versions = 2;
    draw_model(bad);
    draw_clients(r, bad, 0.5, 4);
    bad->clients.rate = MIN(bad->clients.rate, 800e6 / (double)r->run_us);
    bad->clients.poisoned = sim_chance(0.5) ? 0.02 : 0;
    bad->model.own_every_us = log_between(20000, 1000000);
    bad->model.dies_in_run = 0.05;
    bad->model.hangs_in_run = 0.01;
    bad->model.load_fails = 0.2;
    bad->model.first_fails = sim_chance(0.1);
    r->lane_credits = sim_chance(0.3) ? 64 : 0;
}

static void neighbours(void **state)
{
    (void)state;
    play("neighbours", 75, make_neighbours, judge_calm);
}

/* ---- poison: who ends two instances alone is told so; who only stood beside is answered ---- */

static void make_poison(struct room *r)
{
    struct room_version *v = &r->version[0];

    make_calm(r);
    v->model.load_us = 1000;
    v->clients.poisoned = 0.01;
    v->clients.hangs_up = 0;
    v->clients.timeout_least_us = v->clients.timeout_most_us = SECONDS(4000);
    for_about(r, 150);
}

static void judge_poison(struct room *r)
{
    const struct room_version *v = &r->version[0];

    SIM_CHECK(v->answered[ERR_MODEL] == v->poisoned && v->answered[ERR_OK] == v->submitted - v->poisoned,
              "of %llu requests, %llu of them poison, %llu were convicted", (unsigned long long)v->submitted,
              (unsigned long long)v->poisoned, (unsigned long long)v->answered[ERR_MODEL]);
    SIM_CHECK(v->model.died[1] <= 3 * v->poisoned, "%llu poisoned requests ended %llu instances",
              (unsigned long long)v->poisoned, (unsigned long long)v->model.died[1]);
}

static void poison(void **state)
{
    (void)state;
    play("poison", 50, make_poison, judge_poison);
}

/* ---- restarts: hours with few requests and many deaths, for the rules of the supervisor ---- */

static void make_restarts(struct room *r)
{
    struct room_version *v = &r->version[0];

    v->spec.instances = (unsigned)sim_between(1, 4);
    v->model.own_every_us = log_between(SECONDS(1), SECONDS(200));
    v->model.outside_every_us = sim_chance(0.5) ? log_between(SECONDS(1), SECONDS(200)) : 0;
    v->model.load_fails = sim_chance(0.5) ? sim_unit() * 0.5 : 0;
    v->clients.rate = 0.05;
    r->run_us = SECONDS(sim_between(300, 5000));
}

static void restarts(void **state)
{
    (void)state;
    play("restarts", 25, make_restarts, nothing);
}

/* ---- the same seed, the same run ---- */

static void same_seed_same_run(void **state)
{
    static struct room r;
    uint64_t hash[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        sim_begin("same_seed_same_run", 17 + i / 2);
        room_plain(&r);
        make_anything(&r);
        room_play(&r);
        hash[i] = sim_hash();
        sim_end();
    }
    assert_true(hash[0] == hash[1]);
    assert_true(hash[0] != hash[2]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calm),     cmocka_unit_test(anything),           cmocka_unit_test(overload),
        cmocka_unit_test(recovery), cmocka_unit_test(kills_from_outside), cmocka_unit_test(neighbours),
        cmocka_unit_test(poison),   cmocka_unit_test(restarts),           cmocka_unit_test(same_seed_same_run),
    };

    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
