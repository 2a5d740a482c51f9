/* SPDX-License-Identifier: Apache-2.0 */
/* The executor, between rings that this test writes and an engine that only takes notes: who runs with whom and in
 * which order, what expires, what waits, and what the exchange says is being run. A run lasts as long as the test
 * wants. The executors' threads live until the program ends, as they do in a worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <semaphore.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backends/worker/executor.h"
#include "base/clock.h"

#define PORTS 2
#define OUT_BYTES 65536u
#define RUNS_MAX 64
#define JOBS_MAX 64

struct run {
    unsigned n;
    uint64_t value[JOBS_MAX]; /* first of the input */
    bool listed;              /* the exchange named these jobs, no more and no others */
};

struct rig {
    struct engine engine;
    struct port port;
    struct port_host host;
    struct window *in;
    struct wire_exchange *x;
    struct wire_server server[PORTS];
    struct executor *executor;
    struct job open[JOBS_MAX];
    unsigned n_open;
    struct run runs[RUNS_MAX];
    _Atomic unsigned n_runs; /* ended */
    sem_t go;                /* posted once a run */
    uint64_t id;
    unsigned done[JOBS_MAX];
    struct wire_done last[JOBS_MAX];
};

/* ---- the engine, on the executor's thread ---- */

static struct rig *rig_of(struct port *p)
{
    return CONTAINER_OF(p, struct rig, port);
}

static enum err_code attach(struct engine *g, const struct port_host *host, struct port **out, struct err *e)
{
    struct rig *r = CONTAINER_OF(g, struct rig, engine);

    (void)e;
    r->host = *host;
    r->port = (struct port){.ops = g->ops, .engine = g};
    *out = &r->port;
    return ERR_OK;
}

static enum err_code submit(struct port *p, const struct job *j, struct err *e)
{
    struct rig *r = rig_of(p);

    (void)e;
    r->open[r->n_open++] = *j;
    return ERR_OK;
}

static uint64_t value_of(const struct rig *r, const struct job *j)
{
    const struct job_block *b = (const void *)(window_base(r->in) + j->block);
    float v;

    memcpy(&v, window_base(r->in) + b->in[0].off, sizeof v);
    return (uint64_t)v;
}

/* The values are the jobs' ids on the wire: running[] must name just these. */
static bool listed(const struct rig *r, const struct run *run)
{
    if (atomic_load(&r->x->n_running) != run->n) {
        return false;
    }
    for (unsigned i = 0; i < run->n; i++) {
        if (r->x->running[i].id != run->value[i] || r->x->running[i].port != run->value[i] % PORTS) {
            return false;
        }
    }
    return true;
}

static void flush(struct port *p)
{
    struct rig *r = rig_of(p);
    struct run *run = &r->runs[atomic_load(&r->n_runs)];

    run->n = r->n_open;
    for (unsigned i = 0; i < r->n_open; i++) {
        run->value[i] = value_of(r, &r->open[i]);
    }
    run->listed = listed(r, run);
    sem_wait(&r->go);
    for (unsigned i = 0; i < r->n_open; i++) {
        struct job_result res = {.joined = r->n_open};
        uint64_t off;
        if (!r->host.on->space(r->host.ctx, r->open[i].id, 64, &off)) {
            abort();
        }
        r->host.on->done(r->host.ctx, r->open[i].id, &res);
    }
    r->n_open = 0;
    atomic_fetch_add(&r->n_runs, 1);
}

static const struct engine_ops note_engine = {
    .version = ENGINE_VERSION, .name = "notes", .attach = attach, .submit = submit, .flush = flush};

/* ---- the server's side ---- */

static struct rig *begin(uint32_t max, uint64_t delay_us)
{
    struct rig *r = xcalloc(1, sizeof *r);
    struct model_info info = {.n_out = 1, .joins = max > 1, .batch_max = max};
    struct batch_rule rule = {max, delay_us, 0};
    struct tensor_info out = {.name = "y"};
    int bell = eventfd(0, EFD_NONBLOCK), bells[PORTS];
    struct err e;

    info.out = &out;
    r->engine.ops = &note_engine;
    sem_init(&r->go, 0, 0);
    r->x = aligned_alloc(4096, ALIGN_UP(wire_size(PORTS, OUT_BYTES), 4096));
    assert_non_null(r->x);
    memset((void *)r->x, 0, wire_size(PORTS, OUT_BYTES));
    assert_int_equal(window_new(&r->in, "executor", 1 << 20, PORTS, false, &e), ERR_OK);
    for (unsigned i = 0; i < PORTS; i++) {
        bells[i] = eventfd(0, EFD_NONBLOCK);
        wire_server_init(&r->server[i], r->x, PORTS, i, OUT_BYTES, bell);
    }
    assert_int_equal(
        executor_start(&r->executor, &r->engine, r->x, r->in, PORTS, OUT_BYTES, bell, bells, &rule, &info, &e), ERR_OK);
    return r;
}

/* A job of rows × width at the port that its id says: ids count up, even ones go to port 0. Not yet seen. */
static uint64_t put(struct rig *r, unsigned port, int64_t rows, int64_t width, uint64_t deadline_us, uint32_t flags)
{
    uint64_t id = r->id + (r->id % PORTS != port), bytes = (uint64_t)(rows * width) * sizeof(float);
    uint64_t block = window_take(r->in, port, 256 + bytes);
    struct job_block *b = (void *)(window_base(r->in) + block);
    struct wire_submit m = {
        .id = id, .deadline_us = deadline_us, .submit_us = clock_us(), .block = block, .flags = flags};
    float v = (float)id;

    r->id = id + 1;
    assert_true(id < JOBS_MAX && block != WINDOW_NONE);
    *b = (struct job_block){.n_in = 1, .rows = (uint64_t)rows};
    b->in[0] = (struct tensor){
        .dtype = DTYPE_FP32, .rank = 2, .dim = {rows, width}, .off = ALIGN_UP(block + 128, 64), .len = bytes};
    memcpy(window_base(r->in) + b->in[0].off, &v, sizeof v);
    assert_true(wire_submit(&r->server[port], &m));
    return id;
}

static void show(struct rig *r)
{
    for (unsigned i = 0; i < PORTS; i++) {
        wire_publish(&r->server[i]);
    }
}

/* Reads completions until n jobs of all are done. */
static void all_done(struct rig *r, unsigned n)
{
    uint64_t limit = clock_us() + SECONDS(40);
    unsigned have = 0;

    for (unsigned i = 0; i < JOBS_MAX; i++) {
        have += r->done[i];
    }
    while (have < n) {
        struct wire_done d;
        assert_true(clock_us() < limit);
        for (unsigned i = 0; i < PORTS; i++) {
            while (wire_next(&r->server[i], &d)) {
                assert_true(d.id < JOBS_MAX && d.id % PORTS == i);
                assert_int_equal(r->done[d.id]++, 0);
                r->last[d.id] = d;
                if (d.code != ERR_OK) { /* the text goes with the space */
                    assert_true(d.len > 10);
                }
                wire_release(&r->server[i], &d);
                have++;
            }
        }
        usleep(100);
    }
}

static void go(struct rig *r, unsigned n)
{
    while (n-- > 0) {
        sem_post(&r->go);
    }
}

/* A run is begun, and lasts: what comes now waits. */
static uint64_t busy(struct rig *r)
{
    uint64_t id = put(r, 0, 1, 4, UINT64_MAX, JOB_SOLO), limit = clock_us() + SECONDS(40);

    show(r);
    while (atomic_load(&r->x->n_running) == 0) {
        assert_true(clock_us() < limit);
        usleep(100);
    }
    return id;
}

static void ran(const struct rig *r, unsigned which, unsigned n, const uint64_t *ids)
{
    const struct run *run = &r->runs[which];

    assert_int_equal(run->n, n);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(run->value[i], ids[i]);
    }
    assert_true(run->listed);
}

/* ---- tests ---- */

static void ports_take_turns(void **state)
{
    struct rig *r = begin(4, 0);
    uint64_t a[9], b[3];

    (void)state;
    busy(r);
    for (unsigned i = 0; i < 9; i++) { /* one port is first, and has more */
        a[i] = put(r, 0, 1, 4, UINT64_MAX, 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        b[i] = put(r, 1, 1, 4, UINT64_MAX, 0);
    }
    show(r);
    go(r, 4);
    all_done(r, 13);
    for (unsigned i = 0; i < 4; i++) { /* two of each, whoever begins */
        uint64_t v = r->runs[1].value[i];
        assert_true(v == a[0] || v == a[1] || v == b[0] || v == b[1]);
    }
    assert_int_equal(atomic_load(&r->n_runs), 4);
    for (unsigned i = 1; i < 4; i++) {
        assert_int_equal(r->runs[i].n, 4);
        assert_true(r->runs[i].listed);
    }
}

static void shapes_form_groups(void **state)
{
    struct rig *r = begin(8, 0);
    uint64_t four[4], eight[3], solo;

    (void)state;
    busy(r);
    four[0] = put(r, 0, 1, 4, UINT64_MAX, 0);
    eight[0] = put(r, 0, 1, 8, UINT64_MAX, 0);
    four[1] = put(r, 0, 5, 4, UINT64_MAX, 0);
    solo = put(r, 0, 1, 4, UINT64_MAX, JOB_SOLO);
    eight[1] = put(r, 0, 1, 8, UINT64_MAX, 0);
    four[2] = put(r, 0, 3, 4, UINT64_MAX, 0); /* 1 + 5 + 3 is too much: it leads the next of its kind */
    eight[2] = put(r, 0, 6, 8, UINT64_MAX, 0);
    four[3] = put(r, 0, 1, 4, UINT64_MAX, 0);
    show(r);
    go(r, 5);
    all_done(r, 9);
    ran(r, 1, 3, (uint64_t[]){four[0], four[1], four[3]});
    ran(r, 2, 3, eight);
    ran(r, 3, 1, &solo);
    ran(r, 4, 1, &four[2]);
}

static void what_expired_is_dropped(void **state)
{
    struct rig *r = begin(8, 0);
    uint64_t late, good, soon = clock_us() + MILLIS(20);

    (void)state;
    busy(r);
    late = put(r, 0, 1, 4, soon, 0);
    good = put(r, 0, 1, 4, clock_us() + SECONDS(100), 0);
    show(r);
    while (clock_us() <= soon) {
        usleep(1000);
    }
    go(r, 2);
    all_done(r, 3);
    assert_int_equal(r->last[late].code, ERR_TIMEOUT);
    assert_int_equal(r->last[good].code, ERR_OK);
    assert_int_equal(atomic_load(&r->n_runs), 2);
    ran(r, 1, 1, &good);
}

static void delay_holds_until_it_is_full(void **state)
{
    struct rig *r = begin(4, SECONDS(3600));
    uint64_t ids[4], alone;

    (void)state;
    go(r, 3);
    for (unsigned i = 0; i < 3; i++) {
        ids[i] = put(r, 0, 1, 4, UINT64_MAX, 0);
        show(r);
        usleep(20000);
    }
    assert_int_equal(atomic_load(&r->n_runs), 0);
    assert_int_equal(atomic_load(&r->x->n_running), 0); /* pulled, perhaps, but not being run */
    ids[3] = put(r, 0, 1, 4, UINT64_MAX, 0);
    show(r);
    all_done(r, 4);
    ran(r, 0, 4, ids);
    alone = put(r, 0, 1, 4, UINT64_MAX, JOB_SOLO); /* nobody can come to it */
    show(r);
    all_done(r, 5);
    ran(r, 1, 1, &alone);
    alone = put(r, 1, 1, 4, clock_us() + MILLIS(50), 0); /* nor within its time */
    show(r);
    all_done(r, 6);
    assert_true(r->last[alone].code == ERR_OK || r->last[alone].code == ERR_TIMEOUT); /* a busy machine */
}

static void without_joining_one_by_one(void **state)
{
    struct rig *r = begin(1, SECONDS(3600));
    uint64_t first = busy(r), ids[5];

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        ids[i] = put(r, 0, 1 + i, 4, UINT64_MAX, 0);
    }
    show(r);
    go(r, 6);
    all_done(r, 6);
    ran(r, 0, 1, &first);
    for (unsigned i = 0; i < 5; i++) {
        ran(r, 1 + i, 1, &ids[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_take_turns),           cmocka_unit_test(shapes_form_groups),
        cmocka_unit_test(what_expired_is_dropped),    cmocka_unit_test(delay_holds_until_it_is_full),
        cmocka_unit_test(without_joining_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
