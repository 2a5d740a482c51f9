/* SPDX-License-Identifier: Apache-2.0 */
/* The ONNX engine's life and what it learns: models of every dtype, models it must refuse and why, which models join,
 * and an end at any time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/onnx/onnx.h"
#include "base/clock.h"
#include "support/onnx_rig.h"

static void must_open(struct onnx_rig *r, const char *name, void (*more)(struct engine_spec *spec))
{
    if (!onnx_rig_open(r, onnx_rig_model(name), more)) {
        fail_msg("%s: %s", name, r->end.err.text);
    }
}

static void runtime_is_found(void **state)
{
    char path[1024] = "", version[64] = "";
    struct err e;

    (void)state;
    assert_int_equal(onnx_runtime_find(path, sizeof path, version, sizeof version, &e), ERR_OK);
    assert_int_equal(path[0], '/');
    assert_true(version[0] == '1' && version[1] == '.');
    assert_int_equal(onnx_runtime_preload(NULL, NULL, &e), ERR_OK);
    assert_int_equal(onnx_runtime_preload(path, "cpu", &e), ERR_OK);
    assert_int_equal(onnx_runtime_preload("/nowhere/libonnxruntime.so", NULL, &e), ERR_CONFLICT);
}

static void every_dtype(void **state)
{
    static const uint8_t words[] = {3, 0, 0, 0, 'a', 0, 'c', 0, 0, 0, 0, 2, 0, 0, 0, 0xff, 'z'};

    (void)state;
    for (unsigned t = DTYPE_NONE + 1; t < DTYPE_COUNT_; t++) {
        char name[32];
        uint8_t data[24];
        struct onnx_rig r;
        struct onnx_rig_in in = {.dtype = (enum dtype)t, .rank = 2, .dim = {1, 3}, .p = data};
        snprintf(name, sizeof name, "identity_%s", dtype_name((enum dtype)t));
        for (char *c = name; *c; c++) {
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        }
        for (size_t i = 0; i < sizeof data; i++) {
            data[i] = t == DTYPE_BOOL ? i % 2 : (uint8_t)(i * 7 + 1);
        }
        in.len = 3 * dtype_size((enum dtype)t);
        if (t == DTYPE_BYTES) {
            in.p = words;
            in.len = sizeof words;
        }
        must_open(&r, name, NULL);
        assert_int_equal(r.info.n_in, 1);
        assert_int_equal(r.info.in[0].dtype, t);
        assert_int_equal(r.info.out[0].dtype, t);
        assert_true(r.info.in[0].rank == 2 && r.info.in[0].dim[0] == -1 && r.info.in[0].dim[1] == 3);
        const struct onnx_rig_result *d = onnx_rig_run(&r, &in, 1);
        if (d->err.code != ERR_OK) {
            fail_msg("%s: %s", name, d->err.text);
        }
        assert_int_equal(d->out[0].dtype, t);
        assert_int_equal(d->out[0].len, in.len);
        assert_memory_equal(onnx_rig_data(d, 0), in.p, in.len);
        onnx_rig_close(&r);
        assert_int_equal(r.end.err.code, ERR_OK);
    }
}

static void description(void **state)
{
    struct onnx_rig r;

    (void)state;
    must_open(&r, "mlp", NULL);
    assert_string_equal(r.info.platform, "onnxruntime_onnx");
    assert_non_null(strstr(r.info.runtime, "ONNX Runtime 1."));
    assert_string_equal(r.info.in[0].name, "x");
    assert_string_equal(r.info.out[0].name, "y");
    assert_true(r.info.in[0].dim[0] == -1 && r.info.in[0].dim[1] == 16);
    assert_true(r.info.warm_ns > 0 && r.info.warm_ns < 100000000);
    onnx_rig_close(&r);
}

static void who_joins(void **state)
{
    /* Small models whose rows are independent gain by a factor; the others must not join whatever they gain. */
    static const struct {
        const char *name;
        bool joins;
    } rows[] = {
        {"mlp", true},       {"mlp_wide", true}, {"identity_fp32", true}, {"identity_bytes", true}, {"add", true},
        {"gather", true},    {"external", true}, {"mixing", false},       {"cross", false},         {"fixed", false},
        {"compress", false}, {"nonzero", false}, {"grow", false},         {"scalar", false},        {"constant", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct onnx_rig r;
        must_open(&r, rows[i].name, NULL);
        if (r.info.joins != rows[i].joins || r.info.batch_max != (rows[i].joins ? 16 : 1)) {
            fail_msg("%s: joins %d, at most %u", rows[i].name, r.info.joins, r.info.batch_max);
        }
        assert_int_equal(r.info.threads, 1);
        assert_int_equal(r.info.many_rows > 0, r.info.many_ns > 0);
        if (r.info.joins) { /* and what it was decided by */
            assert_int_equal(r.info.many_rows, 8);
            assert_true(r.info.many_ns * 10 <= r.info.warm_ns * 8 * 9);
        }
        onnx_rig_close(&r);
    }
}

static void never_join(struct engine_spec *spec)
{
    spec->batch.max = 1;
}

static void join_not_wanted(void **state)
{
    struct onnx_rig r;

    (void)state;
    must_open(&r, "mlp", never_join);
    assert_false(r.info.joins);
    assert_int_equal(r.info.batch_max, 1);
    onnx_rig_close(&r);
}

static void refused(void **state)
{
    static const struct {
        const char *name, *why;
    } rows[] = {
        {"sequence", "output 'y' is a sequence"},
        {"zipmap", "zipmap off"},
        {"custom", "ONNX Runtime refuses the model"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct onnx_rig r;
        assert_false(onnx_rig_open(&r, onnx_rig_model(rows[i].name), NULL));
        assert_int_equal(r.end.err.code, ERR_REFUSED);
        assert_true(r.end.own && r.end.loading);
        if (!strstr(r.end.err.text, rows[i].why)) {
            fail_msg("%s: %s", rows[i].name, r.end.err.text);
        }
        onnx_rig_close(&r);
    }
}

static void two_ms(struct engine_spec *spec)
{
    spec->run_max_us = 2000;
}

static void too_slow_for_inline(void **state)
{
    struct onnx_rig r;

    (void)state;
    assert_false(onnx_rig_open(&r, onnx_rig_model("slow"), two_ms));
    assert_int_equal(r.end.err.code, ERR_REFUSED);
    assert_non_null(strstr(r.end.err.text, "use place: worker"));
    onnx_rig_close(&r);
    must_open(&r, "mlp", two_ms);
    onnx_rig_close(&r);
}

/* A folder of the test's own with what `fill` puts into it. */
static void broken_folders(void **state)
{
    char folder[] = "/tmp/weir-onnx-XXXXXX", file[64];
    struct onnx_rig r;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/model.onnx", folder);
    assert_false(onnx_rig_open(&r, folder, NULL)); /* nothing there */
    assert_int_equal(r.end.err.code, ERR_REFUSED);
    onnx_rig_close(&r);

    assert_int_equal(mkfifo(file, 0600), 0); /* would block whoever opens it */
    assert_false(onnx_rig_open(&r, folder, NULL));
    assert_non_null(strstr(r.end.err.text, "not a regular file"));
    onnx_rig_close(&r);
    unlink(file);

    assert_int_equal(symlink("/etc/passwd", file), 0);
    assert_false(onnx_rig_open(&r, folder, NULL));
    assert_int_equal(r.end.err.code, ERR_REFUSED);
    onnx_rig_close(&r);
    unlink(file);

    for (unsigned i = 0; i < 3; i++) {
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(i == 0   ? ""
              : i == 1 ? "this is no model"
                       : "\x08\x08\x3a\x02\x0a\x00",
              f); /* the last: a graph of one empty node */
        fclose(f);
        assert_false(onnx_rig_open(&r, folder, NULL));
        assert_int_equal(r.end.err.code, ERR_REFUSED);
        onnx_rig_close(&r);
    }
    unlink(file);
    rmdir(folder);
}

static void close_at_any_time(void **state)
{
    static const unsigned wait_us[] = {0, 100, 500, 1000, 3000, 10000, 30000, 100000, 300000};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(wait_us); i++) {
        struct onnx_rig r;
        uint64_t start;
        onnx_rig_begin(&r, onnx_rig_model("slow"), NULL); /* some 100 ms to load and warm up */
        usleep(wait_us[i]);
        start = clock_us();
        onnx_rig_close(&r);
        assert_int_equal(r.end.err.code, ERR_OK);
        assert_false(r.ready || r.end.own);
        assert_true(r.end.loading);
        assert_true(clock_us() - start < SECONDS(3));
    }
}

static void three_ports(struct engine_spec *spec)
{
    spec->ports = 3;
}

/* Threads are on their way to attach when the control thread closes: the engine waits for each of them. */
static void close_before_attach(void **state)
{
    static const char *const names[] = {"mlp", "mlp_wide"}; /* a session a port; one for all */

    (void)state;
    for (unsigned m = 0; m < COUNT_OF(names); m++) {
        struct onnx_rig r;
        struct port *p[3];
        struct err e;
        onnx_rig_begin(&r, onnx_rig_model(names[m]), three_ports);
        onnx_rig_wait(&r);
        assert_true(r.ready);
        assert_int_equal(onnx_rig_attach(&r, 2, &p[2], &e), ERR_OK);
        onnx_engine.close(r.engine);
        for (unsigned i = 0; i < 3; i++) {
            for (unsigned k = 0; k < 20; k++) {
                loop_once(r.loop, 1);
            }
            assert_false(r.gone);
            if (i < 2) {
                assert_int_equal(onnx_rig_attach(&r, i, &p[i], &e), ERR_OK);
            }
            onnx_engine.detach(p[i]);
        }
        onnx_rig_close(&r);
        assert_int_equal(r.end.err.code, ERR_OK);
        assert_false(r.end.loading);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runtime_is_found),    cmocka_unit_test(every_dtype),     cmocka_unit_test(description),
        cmocka_unit_test(who_joins),           cmocka_unit_test(join_not_wanted), cmocka_unit_test(refused),
        cmocka_unit_test(too_slow_for_inline), cmocka_unit_test(broken_folders),  cmocka_unit_test(close_at_any_time),
        cmocka_unit_test(close_before_attach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
