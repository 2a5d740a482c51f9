/* SPDX-License-Identifier: Apache-2.0 */
/* Trained models: the examples answer their own samples, alone and joined alike, from several threads at once; and
 * where a folder ../shared with more models and their checked answers lies beside the tree, these come out as written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <yyjson.h>

#include "backends/onnx/onnx.h"
#include "base/buf.h"
#include "base/clock.h"
#include "support/onnx_rig.h"

#define INPUTS_MAX 4

/* Inputs as the protocol's JSON writes them, made into bytes. */
struct inputs {
    struct onnx_rig_in in[INPUTS_MAX];
    struct buf data[INPUTS_MAX];
    uint32_t n;
};

static void put_value(struct buf *b, enum dtype t, yyjson_val *v)
{
    union {
        float f;
        double d;
        int64_t i;
        uint32_t n;
    } u = {0};

    if (t == DTYPE_FP32) {
        u.f = (float)yyjson_get_num(v);
    } else if (t == DTYPE_FP64) {
        u.d = yyjson_get_num(v);
    } else if (t == DTYPE_BYTES) {
        u.n = (uint32_t)yyjson_get_len(v);
        buf_add(b, &u.n, 4);
        buf_add(b, yyjson_get_str(v), u.n);
        return;
    } else {
        u.i = yyjson_is_bool(v) ? yyjson_get_bool(v) : (int64_t)yyjson_get_num(v);
    }
    buf_add(b, &u, dtype_size(t));
}

static void put_values(struct buf *b, enum dtype t, yyjson_val *v)
{
    yyjson_val *item;
    yyjson_arr_iter it;

    if (!yyjson_is_arr(v)) {
        put_value(b, t, v);
        return;
    }
    yyjson_arr_iter_init(v, &it);
    while ((item = yyjson_arr_iter_next(&it))) {
        put_values(b, t, item);
    }
}

static uint32_t port_named(const struct tensor_info *t, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(t[i].name, name) == 0) {
            return i;
        }
    }
    fail_msg("the model has no '%s'", name);
    return 0;
}

static void inputs_read(struct inputs *x, const struct onnx_rig *r, yyjson_val *list)
{
    yyjson_val *v, *d;
    yyjson_arr_iter it, dims;

    memset(x, 0, sizeof *x);
    yyjson_arr_iter_init(list, &it);
    while ((v = yyjson_arr_iter_next(&it))) {
        struct onnx_rig_in *in = &x->in[x->n];
        struct buf *b = &x->data[x->n++];
        assert_true(x->n <= INPUTS_MAX);
        in->port = (uint16_t)port_named(r->info.in, r->info.n_in, yyjson_get_str(yyjson_obj_get(v, "name")));
        in->dtype = dtype_parse(str_of(yyjson_get_str(yyjson_obj_get(v, "datatype"))));
        yyjson_arr_iter_init(yyjson_obj_get(v, "shape"), &dims);
        while ((d = yyjson_arr_iter_next(&dims))) {
            in->dim[in->rank++] = yyjson_get_sint(d);
        }
        buf_init(b, 64 << 20);
        put_values(b, in->dtype, yyjson_obj_get(v, "data"));
        in->p = b->p;
        in->len = b->n;
    }
}

static void inputs_done(struct inputs *x)
{
    for (uint32_t i = 0; i < x->n; i++) {
        buf_done(&x->data[i]);
    }
}

static bool near(double a, double b, double by)
{
    return fabs(a - b) <= by * (1 + fabs(b));
}

static void assert_same_result(const struct onnx_rig_result *a, const struct onnx_rig_result *b)
{
    assert_int_equal(a->n_out, b->n_out);
    for (uint32_t i = 0; i < a->n_out; i++) {
        assert_int_equal(a->out[i].len, b->out[i].len);
        if (a->out[i].dtype != DTYPE_FP32) {
            assert_memory_equal(onnx_rig_data(a, i), onnx_rig_data(b, i), a->out[i].len);
            continue;
        }
        for (size_t k = 0; k < a->out[i].len / 4; k++) {
            assert_true(near((double)((const float *)onnx_rig_data(a, i))[k],
                             (double)((const float *)onnx_rig_data(b, i))[k], 1e-4));
        }
    }
}

/* ---- the examples ---- */

#define SAMPLES 24

static void one_example(const char *folder)
{
    struct onnx_rig r;
    char path[256], *line = NULL;
    size_t cap = 0;
    ssize_t n;
    struct inputs x[SAMPLES];
    uint64_t alone[SAMPLES], joined[SAMPLES];
    unsigned count = 0;
    struct err e;

    if (!onnx_rig_open(&r, folder, NULL)) {
        fail_msg("%s: %s", folder, r.end.err.text);
    }
    snprintf(path, sizeof path, "%s/samples.ndjson", folder);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (count < SAMPLES && (n = getline(&line, &cap, f)) > 0) {
        yyjson_doc *doc = yyjson_read(line, (size_t)n, 0);
        assert_non_null(doc);
        inputs_read(&x[count++], &r, yyjson_obj_get(yyjson_doc_get_root(doc), "inputs"));
        yyjson_doc_free(doc);
    }
    free(line);
    fclose(f);
    assert_true(count >= 10);
    for (unsigned i = 0; i < count; i++) {
        alone[i] = onnx_rig_submit(&r, onnx_rig_block(&r, x[i].in, x[i].n, NULL, 0), UINT64_MAX, JOB_SOLO, &e);
        joined[i] = onnx_rig_submit(&r, onnx_rig_block(&r, x[i].in, x[i].n, NULL, 0), UINT64_MAX, 0, &e);
        assert_true(alone[i] && joined[i]);
    }
    onnx_engine.flush(r.port);
    for (unsigned i = 0; i < count; i++) {
        const struct onnx_rig_result *a = onnx_rig_find(&r, alone[i]), *b = onnx_rig_find(&r, joined[i]);
        if (a->err.code != ERR_OK || b->err.code != ERR_OK) {
            fail_msg("%s, sample %u: %s %s", folder, i, a->err.text, b->err.text);
        }
        assert_int_equal(a->joined, 1);
        assert_int_equal(b->joined > 1, r.info.joins);
        assert_same_result(a, b);
        inputs_done(&x[i]);
    }
    onnx_rig_close(&r);
}

static void examples(void **state)
{
    static const char *const names[] = {"intent", "recommend", "vision"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        for (unsigned version = 1; version <= 2; version++) {
            char folder[128];
            snprintf(folder, sizeof folder, "examples/models/%s/%u", names[i], version);
            one_example(folder);
        }
    }
}

/* ---- several threads, a port each ---- */

struct runner {
    struct onnx_rig *rig;
    struct engine *engine;
    pthread_t thread;
    unsigned index, answered;
    uint64_t block;
    float got[4];
    uint8_t space[4096];
};

static void runner_done(void *ctx, uint64_t id, const struct job_result *job)
{
    struct runner *t = ctx;

    (void)id;
    if (job->err.code == ERR_OK && job->out[0].len == sizeof t->got) {
        memcpy(t->got, job->base + job->out[0].off, sizeof t->got);
        t->answered++;
    }
}

static uint8_t *runner_space(void *ctx, uint64_t id, uint64_t bytes, uint64_t *off)
{
    struct runner *t = ctx;

    (void)id;
    *off = 0;
    return bytes <= sizeof t->space ? t->space : NULL;
}

static void *runner_main(void *arg)
{
    static const struct port_events on = {.done = runner_done, .space = runner_space};
    struct runner *t = arg;
    struct port_host host = {.on = &on, .ctx = t, .index = t->index};
    struct port *port;
    struct err e;

    if (onnx_engine.attach(t->engine, &host, &port, &e) != ERR_OK) {
        return NULL;
    }
    for (unsigned i = 0; i < 2000; i++) {
        for (unsigned k = 0; k <= i % 5; k++) {
            struct job j = {.id = k, .deadline_us = UINT64_MAX, .block = t->block};
            if (onnx_engine.submit(port, &j, &e) != ERR_OK) {
                return NULL;
            }
        }
        onnx_engine.flush(port);
    }
    onnx_engine.detach(port);
    return NULL;
}

static void four_ports(struct engine_spec *spec)
{
    spec->ports = 4;
}

static void threads(void **state)
{
    struct onnx_rig r;
    struct runner t[4];
    float x[16];

    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        x[i] = (float)i / 16;
    }
    onnx_rig_begin(&r, onnx_rig_model("mlp"), four_ports);
    onnx_rig_wait(&r);
    assert_true(r.ready);
    struct onnx_rig_in in = {.dtype = DTYPE_FP32, .rank = 2, .dim = {1, 16}, .p = x, .len = sizeof x};
    for (unsigned i = 0; i < 4; i++) {
        t[i] = (struct runner){.rig = &r, .engine = r.engine, .index = i, .block = onnx_rig_block(&r, &in, 1, NULL, 0)};
        assert_int_equal(pthread_create(&t[i].thread, NULL, runner_main, &t[i]), 0);
    }
    onnx_engine.close(r.engine); /* while they run: it ends when the last has detached */
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(t[i].thread, NULL);
        assert_int_equal(t[i].answered, 2000 * 3);
        for (unsigned k = 0; k < 4; k++) {
            assert_true(near((double)t[i].got[k], (double)t[0].got[k], 1e-5));
        }
    }
    onnx_rig_close(&r);
}

/* ---- more models, beside the tree ---- */

static void copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct stat st;
    off_t left;

    assert_true(in >= 0 && out >= 0 && fstat(in, &st) == 0);
    for (left = st.st_size; left > 0;) {
        ssize_t n = sendfile(out, in, NULL, (size_t)left);
        assert_true(n > 0);
        left -= n;
    }
    close(in);
    close(out);
}

static void check_output(const struct onnx_rig *r, const struct onnx_rig_result *d, yyjson_val *want, double tolerance)
{
    uint32_t i = port_named(r->info.out, r->info.n_out, yyjson_get_str(yyjson_obj_get(want, "name")));
    enum dtype t = (enum dtype)d->out[i].dtype;
    struct buf b;

    buf_init(&b, 16 << 20);
    put_values(&b, t, yyjson_obj_get(want, "data"));
    assert_int_equal(b.n, d->out[i].len);
    for (size_t k = 0; t == DTYPE_FP32 && k < b.n / 4; k++) {
        float x = ((const float *)(void *)b.p)[k], y = ((const float *)onnx_rig_data(d, i))[k];
        if (!near((double)y, (double)x, tolerance)) {
            fail_msg("output %u, element %zu: %g, not %g", i, k, (double)y, (double)x);
        }
    }
    if (t != DTYPE_FP32) {
        assert_memory_equal(b.p, onnx_rig_data(d, i), b.n);
    }
    buf_done(&b);
}

/* One case with inputs and outputs written out; those that start from a picture belong to other tests. */
static bool one_case(const char *family, yyjson_val *c)
{
    yyjson_val *inputs = yyjson_obj_get(c, "inputs"), *outputs = yyjson_obj_get(c, "outputs"), *v;
    const char *name = yyjson_get_str(yyjson_obj_get(c, "model"));
    char folder[] = "/tmp/weir-models-XXXXXX", from[256], to[64];
    yyjson_arr_iter it;
    struct inputs x;
    struct onnx_rig r;

    if (!name || !yyjson_is_arr(inputs) || !yyjson_is_arr(outputs)) {
        return false;
    }
    assert_non_null(mkdtemp(folder));
    snprintf(from, sizeof from, "../shared/models/%s/%s", family, name);
    snprintf(to, sizeof to, "%s/model.onnx", folder);
    copy_file(from, to);
    if (!onnx_rig_open(&r, folder, NULL)) {
        fail_msg("%s: %s", name, r.end.err.text);
    }
    unlink(to);
    rmdir(folder);
    inputs_read(&x, &r, inputs);
    const struct onnx_rig_result *d = onnx_rig_run(&r, x.in, x.n);
    if (d->err.code != ERR_OK) {
        fail_msg("%s: %s", name, d->err.text);
    }
    yyjson_arr_iter_init(outputs, &it);
    while ((v = yyjson_arr_iter_next(&it))) {
        double tolerance = yyjson_get_num(yyjson_obj_get(c, "tolerance"));
        check_output(&r, d, v, tolerance > 0 ? tolerance : 1e-3);
    }
    print_message("%s: joins %d, %.3f ms\n", name, r.info.joins, (double)r.info.warm_ns / 1e6);
    inputs_done(&x);
    onnx_rig_close(&r);
    return true;
}

static void shared_models(void **state)
{
    static const char *const families[] = {"text", "vision", "recommendation"};
    unsigned checked = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(families); i++) {
        char path[128];
        yyjson_doc *doc;
        yyjson_val *c;
        yyjson_arr_iter it;
        snprintf(path, sizeof path, "../shared/models/%s/cases.json", families[i]);
        doc = yyjson_read_file(path, 0, NULL, NULL);
        if (!doc) {
            continue;
        }
        yyjson_arr_iter_init(yyjson_doc_get_root(doc), &it);
        while ((c = yyjson_arr_iter_next(&it))) {
            checked += one_case(families[i], c);
        }
        yyjson_doc_free(doc);
    }
    if (checked == 0) {
        print_message("skipped: there is no ../shared/models\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),
        cmocka_unit_test(threads),
        cmocka_unit_test(shared_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
