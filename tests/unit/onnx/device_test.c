/* SPDX-License-Identifier: Apache-2.0 */
/* A GPU's device where there is none, and what is read from the runtime about where nodes go. What needs a GPU is not
 * tested here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "backends/onnx/device.h"
#include "backends/onnx/onnx.h"
#include "backends/onnx/session.h"
#include "support/onnx_rig.h"

static const struct device gpu = {true, 5};

static void a_core_without_provider(void **state)
{
    const struct onnx_runtime *rt;
    struct err e;

    (void)state;
    assert_int_equal(onnx_runtime_get(&rt, NULL, false, &e), ERR_OK);
    assert_int_equal(onnx_device_open(rt, &(struct device){false, 0}, &e), ERR_OK);
    assert_int_equal(onnx_device_open(rt, &gpu, &e), ERR_UNAVAILABLE);
    assert_string_equal(e.text, "device cuda:5: the CUDA provider is not here (make gpu fetches it)");
    assert_int_equal(onnx_device_check(rt, &gpu, &e), ERR_UNAVAILABLE);
    assert_string_equal(e.text, "device cuda:5: the CUDA provider is not here (make gpu fetches it)");
    assert_int_equal(onnx_runtime_preload(rt->path, "cuda:5", &e), ERR_UNAVAILABLE);
    assert_int_equal(onnx_runtime_preload(rt->path, "cuda", &e), ERR_INVALID);
}

static void no_memory_of_no_device(void **state)
{
    uint64_t total = 1, left = 1;

    (void)state;
    assert_false(onnx_device_memory(&(struct device){false, 0}, &total, &left));
    assert_true(total == 0 && left == 0);
}

static void on_gpu(struct engine_spec *spec)
{
    spec->device = "cuda:5";
}

/* The engine's own answer, when nobody preloaded anything: no session on the processor. */
static void the_engine_says_why(void **state)
{
    struct onnx_rig r;

    (void)state;
    assert_false(onnx_rig_open(&r, onnx_rig_model("mlp"), on_gpu));
    assert_true(r.end.loading && r.end.own);
    assert_int_equal(r.end.err.code, ERR_UNAVAILABLE);
    assert_string_equal(r.end.err.text, "device cuda:5: the CUDA provider is not here (make gpu fetches it)");
    onnx_rig_close(&r);
}

static void nonsense_is_not_opened(void **state)
{
    struct engine_spec spec = {.name = "x", .backend = "onnx", .dirfd = -1, .device = "tpu:0"};
    struct engine *g = NULL;
    struct err e;

    (void)state;
    assert_int_equal(onnx_engine.open(&g, &spec, &(struct engine_host){0}, &e), ERR_INVALID);
    assert_null(g);
}

static void no_session_elsewhere(void **state)
{
    static const uint8_t nothing[1];
    struct onnx_source from = {.p = nothing, .n = 1, .threads = 1, .device = gpu};
    const struct onnx_runtime *rt;
    OrtSession *s = NULL;
    struct err e;

    (void)state;
    assert_int_equal(onnx_runtime_get(&rt, NULL, false, &e), ERR_OK);
    assert_int_equal(onnx_session_new(&s, rt, &from, &e), ERR_UNAVAILABLE);
    assert_null(s);
}

static void hear(void *ctx, const char *message)
{
    onnx_placed_read(ctx, message);
}

/* A failure in CUDA comes behind pages of C++; only it is said. */
static void failures_are_short(void **state)
{
    static const char long_one[] =
        "static onnxruntime::CUDAExecutionProviderInfo f(const onnxruntime::ProviderOptions&) Parse Failed: CUDA "
        "failure 2: "
        "out of memory ; GPU=0 ; hostname=h ; file=/src/cuda_execution_provider.cc ; line=99 ; expr=cudaMalloc(&p, n);";
    const struct onnx_runtime *rt;
    struct err e;

    (void)state;
    assert_int_equal(onnx_runtime_get(&rt, NULL, false, &e), ERR_OK);
    onnx_status(rt, rt->api->CreateStatus(ORT_FAIL, long_one), ERR_UNAVAILABLE, &e, "device cuda:0");
    assert_string_equal(e.text, "device cuda:0: CUDA failure 2: out of memory");
    onnx_status(rt, rt->api->CreateStatus(ORT_FAIL, "CUBLAS failure 1: not initialized\nmore"), ERR_UNAVAILABLE, &e,
                "x");
    assert_string_equal(e.text, "x: CUBLAS failure 1: not initialized");
    assert_null(onnx_cuda_failure("Failed to allocate"));
}

/* The runtime of this build really says it in these words: heard from a session on the processor. */
static void places_are_heard(void **state)
{
    struct onnx_placed p = {0};
    const struct onnx_runtime *rt;
    OrtSessionOptions *o = NULL;
    OrtSession *s = NULL;
    char path[600];
    struct err e;

    (void)state;
    assert_int_equal(onnx_runtime_get(&rt, NULL, false, &e), ERR_OK);
    snprintf(path, sizeof path, "%s/model.onnx", onnx_rig_model("mlp"));
    assert_null(rt->api->CreateSessionOptions(&o));
    assert_null(rt->api->SetSessionLogSeverityLevel(o, ORT_LOGGING_LEVEL_VERBOSE));
    onnx_runtime_listen(hear, &p);
    assert_null(rt->api->CreateSession(rt->env, path, o, &s));
    onnx_runtime_listen(NULL, NULL);
    assert_true(p.seen && p.cuda == 0 && p.other > 0);
    rt->api->ReleaseSession(s);
    rt->api->ReleaseSessionOptions(o);
}

static void places_are_read(void **state)
{
    static const struct {
        const char *line;
        bool seen;
        unsigned cuda, other;
    } rows[] = {
        {" All nodes placed on [CUDAExecutionProvider]. Number of nodes: 41", true, 41, 0},
        {" Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 7", true, 7, 0},
        {" Node(s) placed on [CPUExecutionProvider]. Number of nodes: 3", true, 0, 3},
        {" Node(s) placed on [XCUDAExecutionProvider]. Number of nodes: 3", true, 0, 3},
        {"Node placements", false, 0, 0},
        {" Node(s) placed on [CUDAExecutionProvider", false, 0, 0},
        {" Node(s) placed on [CUDAExecutionProvider]. Number of nodes: ", false, 0, 0},
        {" Node(s) placed on [CUDAExecutionProvider]. Number of nodes: many", false, 0, 0},
        {"", false, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct onnx_placed p = {0};
        onnx_placed_read(&p, rows[i].line);
        assert_true(p.seen == rows[i].seen && p.cuda == rows[i].cuda && p.other == rows[i].other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_core_without_provider), cmocka_unit_test(no_memory_of_no_device),
        cmocka_unit_test(the_engine_says_why),     cmocka_unit_test(no_session_elsewhere),
        cmocka_unit_test(nonsense_is_not_opened),  cmocka_unit_test(places_are_heard),
        cmocka_unit_test(places_are_read),         cmocka_unit_test(failures_are_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
