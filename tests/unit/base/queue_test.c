/* SPDX-License-Identifier: Apache-2.0 */
/* Queues of which the answer is known: M/M/1, M/M/c, M/D/1, an infinite batch, a device that is never full. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/queue.h"

#define EXP_POINTS 400
static const struct queue_arrivals poisson_50 = {.rate = 50};

static void near(double got, double want, double within)
{
    if (!(fabs(got - want) <= within * fabs(want))) {
        fail_msg("%g is not within %g of %g", got, within, want);
    }
}

/* Exponential with mean 1, scaled: midpoints of equal shares, the last a little further out. */
static struct queue_service exponential(struct queue_point p[EXP_POINTS], double mean)
{
    struct queue_service s;

    for (int i = 0; i < EXP_POINTS; i++) {
        p[i] = (struct queue_point){-mean * log(1 - (i + .5) / EXP_POINTS), 1. / EXP_POINTS};
    }
    queue_service_of(&s, p, EXP_POINTS);
    return s;
}

static void one_exponential_server(void **state)
{
    struct queue_point p[EXP_POINTS];
    struct queue_service s = exponential(p, .01);
    struct queue_answer q;

    (void)state;
    near(s.mean, .01, .01);
    near(s.cs2, 1, .02);
    queue_solve(&q, &poisson_50, &s, NULL, 1);
    near(q.load, .5, .01);
    near(q.wait, .01, .02); /* rho s / (1 - rho) */
    near(q.waits, .5, .01);
    near(queue_quantile(&q, &s, .99), .0921, .02); /* ln 100 s / (1 - rho) */
    near(queue_quantile(&q, &s, .5), .01386, .02);
}

static void even_service(void **state)
{
    struct queue_service s = {.mean = .01};
    struct queue_answer q;

    (void)state;
    queue_solve(&q, &poisson_50, &s, NULL, 1);
    near(q.wait, .005, 1e-9);
    near(queue_quantile(&q, &s, .99), .0428, .03); /* M/D/1: the wait's tail falls with 1.2564 a service time */
}

static void several_servers(void **state)
{
    struct queue_service s = {.mean = .1, .cs2 = 1};
    struct queue_answer q;

    (void)state;
    near(queue_erlang_c(5, 8), .16731, .001);
    near(queue_erlang_c(.5, 1), .5, 1e-9);
    assert_true(queue_erlang_c(8, 8) >= 1);
    queue_solve(&q, &poisson_50, &s, NULL, 8);
    near(q.wait, .16731 * .1 / 3, .001);
}

static void beyond_saturation(void **state)
{
    struct queue_service s = {.mean = .02};
    struct queue_answer q;

    (void)state;
    queue_solve(&q, &poisson_50, &s, NULL, 1);
    assert_true(q.load >= 1 && isinf(q.wait) && isinf(queue_quantile(&q, &s, .99)));
    queue_solve(&q, &(struct queue_arrivals){.rate = 0}, &s, NULL, 1);
    assert_true(q.wait >= 0 && q.wait <= 0 && q.load <= 0);
}

static void dispersion_of_the_time_that_matters(void **state)
{
    struct queue_arrivals a = {.rate = 100, .n_spans = 2, .span = {{.01, 1}, {10, 9}}};

    (void)state;
    near(queue_dispersion(&(struct queue_arrivals){.rate = 100}, .001, 1, 1), 1, 1e-9);
    assert_true(queue_dispersion(&a, .001, 1, 1) < 3);  /* a short queue sees what is near */
    assert_true(queue_dispersion(&a, .0099, 1, 1) > 7); /* a long one all of it */
    a.span[0].dispersion = a.span[1].dispersion = 4;
    near(queue_dispersion(&a, .008, 1, 1), 4, .02);
}

static void batches(void **state)
{
    struct queue_service s = {.mean = .016};
    struct queue_answer alone, joined;

    (void)state;
    queue_solve(&alone, &poisson_50, &s, &(struct queue_batch){.most = 1, .more = 1}, 1);
    queue_solve(&joined, &poisson_50, &s, &(struct queue_batch){.most = 64, .more = 0}, 1);
    near(joined.busy, .8 / (.8 + exp(-.8)), .001);
    near(joined.batch, .8 + exp(-.8), .001);
    assert_true(joined.wait < alone.wait / 3 && joined.load < .02);
    /* where joining gains nothing it is the plain queue */
    queue_solve(&joined, &poisson_50, &s, &(struct queue_batch){.most = 64, .more = 1}, 1);
    near(joined.load, alone.load, 1e-9);
}

static void a_device_that_is_never_full(void **state)
{
    struct queue_tenant t[2] = {{.arrivals = {.rate = 50}, .service = {.mean = .01}, .servers = 1, .width = 1},
                                {.arrivals = {.rate = 10}, .service = {.mean = .05}, .servers = 1, .width = 1}};
    double demand = queue_share(t, 2, 2);

    (void)state;
    near(demand, .5, 1e-9);
    near(t[0].stretch, 1, 1e-9);
    near(t[0].queue.wait, .005, 1e-6);
}

static void neighbours_on_one_processor(void **state)
{
    struct queue_tenant t[2] = {{.arrivals = {.rate = 30}, .service = {.mean = .01}, .servers = 1, .width = 1},
                                {.arrivals = {.rate = 6}, .service = {.mean = .05}, .servers = 1, .width = 1}};
    double alone;

    (void)state;
    queue_share(t, 1, 1);
    alone = queue_tenant_quantile(&t[0], .99);
    queue_share(t, 2, 1);
    assert_true(t[0].stretch > 1.2 && t[0].stretch < 2 && queue_tenant_quantile(&t[0], .99) > alone * 1.3);
    t[1].arrivals.rate = 15; /* .3 + .75 */
    assert_true(queue_share(t, 2, 1) > 1 && isinf(queue_tenant_quantile(&t[0], .99)) && isinf(t[1].queue.wait));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_exponential_server),
        cmocka_unit_test(even_service),
        cmocka_unit_test(several_servers),
        cmocka_unit_test(beyond_saturation),
        cmocka_unit_test(dispersion_of_the_time_that_matters),
        cmocka_unit_test(batches),
        cmocka_unit_test(a_device_that_is_never_full),
        cmocka_unit_test(neighbours_on_one_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
