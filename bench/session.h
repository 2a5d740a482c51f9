/* SPDX-License-Identifier: Apache-2.0 */
/* What the two C yardsticks share: ONNX Runtime opened the way the server opens it, and a session for a model with one
 * FP32 input and one FP32 output, whose first dimension may be free. One Run() is a plain call of the C API with values
 * that were made before; nothing is checked between calls. The settings of the session are those of the server's ONNX
 * backend, so that a ratio compares servers and not settings.
 *
 * Everything that fails at start ends the program with a sentence: these are tools that a person runs.
 *
 * Thread: a session is its thread's own; runtime_open is called once, before the threads. */
#ifndef WEIR_BENCH_SESSION_H
#define WEIR_BENCH_SESSION_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <onnxruntime_c_api.h>

#define SMALL_BELOW (1 << 20) /* bytes of a model file: below it the server does without the runtime's arena */
#define RANK_MAX 8

struct runtime {
    const OrtApi *api;
    OrtEnv *env;
    const char *version;
};

struct session {
    const OrtApi *api;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator; /* the runtime's own */
    char *in_name, *out_name;
    int64_t in_dim[RANK_MAX], out_dim[RANK_MAX];
    size_t in_rank, out_rank;
    size_t in_n, out_n; /* elements */
    float *in, *out;    /* owned */
    OrtValue *in_value, *out_value;
};

__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static inline void check(const OrtApi *a, OrtStatus *s, const char *what)
{
    if (s) {
        die("%s: %s", what, a->GetErrorMessage(s));
    }
}

static inline struct runtime runtime_open(void)
{
    const char *named = getenv("WEIR_ONNXRUNTIME");
    void *library = dlopen(named && named[0] ? named : "libonnxruntime.so.1", RTLD_NOW | RTLD_LOCAL);
    const OrtApiBase *(*base)(void) = NULL;
    struct runtime r = {NULL, NULL, NULL};

    if (library) {
        *(void **)&base = dlsym(library, "OrtGetApiBase");
    }
    if (!base) {
        die("cannot open ONNX Runtime (tools/setup.sh build fetches it; WEIR_ONNXRUNTIME= names another): %s",
            dlerror());
    }
    r.api = base()->GetApi(ORT_API_VERSION);
    r.version = base()->GetVersionString();
    if (!r.api) {
        die("ONNX Runtime %s is older than its header here (API %d)", r.version, ORT_API_VERSION);
    }
    check(r.api, r.api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bench", &r.env), "CreateEnv");
    return r;
}

/* The dimensions of a type, the free ones filled in: the first with `batch`, others with 1. Returns the number of
 * elements. */
static inline size_t session_shape(const OrtApi *a, OrtTypeInfo *type, const char *what, int64_t batch, int64_t *dim,
                                   size_t *rank)
{
    const OrtTensorTypeAndShapeInfo *shape = NULL;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t n = 1;

    check(a, a->CastTypeInfoToTensorInfo(type, &shape), what);
    if (!shape) {
        die("the %s is not a tensor", what);
    }
    check(a, a->GetTensorElementType(shape, &element), what);
    check(a, a->GetDimensionsCount(shape, rank), what);
    if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || *rank == 0 || *rank > RANK_MAX) {
        die("the yardsticks know only FP32 tensors of rank 1 to %d; the %s is another", RANK_MAX, what);
    }
    check(a, a->GetDimensions(shape, dim, *rank), what);
    if (dim[0] >= 0 && dim[0] != batch && batch != 1) {
        die("the model takes %lld rows, not %lld", (long long)dim[0], (long long)batch);
    }
    for (size_t i = 0; i < *rank; i++) {
        dim[i] = dim[i] >= 0 ? dim[i] : i == 0 ? batch : 1;
        n *= (size_t)dim[i];
    }
    a->ReleaseTypeInfo(type);
    return n;
}

static inline OrtValue *session_value(const struct session *s, float *p, bool input)
{
    OrtValue *v = NULL;
    size_t bytes = (input ? s->in_n : s->out_n) * sizeof(float);

    check(s->api,
          s->api->CreateTensorWithDataAsOrtValue(s->memory, p, bytes, input ? s->in_dim : s->out_dim,
                                                 input ? s->in_rank : s->out_rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                 &v),
          "a tensor");
    return v;
}

static inline float *session_memory(size_t n)
{
    size_t bytes = (n * sizeof(float) + 63) / 64 * 64;
    float *p = aligned_alloc(64, bytes);

    if (!p) {
        die("no memory for %zu bytes", bytes);
    }
    memset(p, 0, bytes);
    return p;
}

static inline void session_open(struct session *s, const struct runtime *rt, const char *path, int threads,
                                int64_t batch)
{
    const OrtApi *a = rt->api;
    OrtSessionOptions *o = NULL;
    OrtTypeInfo *type = NULL;
    struct stat st;
    size_t n_in = 0, n_out = 0;

    memset(s, 0, sizeof *s);
    s->api = a;
    if (stat(path, &st) != 0) {
        die("no model at %s", path);
    }
    check(a, a->CreateSessionOptions(&o), "options");
    check(a, a->SetIntraOpNumThreads(o, threads), "options");
    check(a, a->SetInterOpNumThreads(o, 1), "options");
    check(a, a->SetSessionExecutionMode(o, ORT_SEQUENTIAL), "options");
    check(a, a->SetSessionGraphOptimizationLevel(o, ORT_ENABLE_ALL), "options");
    check(a, a->AddSessionConfigEntry(o, "session.intra_op.allow_spinning", "0"), "options");
    if (st.st_size < SMALL_BELOW) {
        check(a, a->DisableCpuMemArena(o), "options");
    }
    check(a, a->CreateSession(rt->env, path, o, &s->session), path);
    a->ReleaseSessionOptions(o);
    check(a, a->SessionGetInputCount(s->session, &n_in), path);
    check(a, a->SessionGetOutputCount(s->session, &n_out), path);
    if (n_in != 1 || n_out != 1) {
        die("the yardsticks know only models with one input and one output; %s has %zu and %zu", path, n_in, n_out);
    }
    check(a, a->GetAllocatorWithDefaultOptions(&s->allocator), "allocator");
    check(a, a->SessionGetInputName(s->session, 0, s->allocator, &s->in_name), "input");
    check(a, a->SessionGetOutputName(s->session, 0, s->allocator, &s->out_name), "output");
    check(a, a->SessionGetInputTypeInfo(s->session, 0, &type), "input");
    s->in_n = session_shape(a, type, "input", batch, s->in_dim, &s->in_rank);
    check(a, a->SessionGetOutputTypeInfo(s->session, 0, &type), "output");
    s->out_n = session_shape(a, type, "output", batch, s->out_dim, &s->out_rank);
    check(a, a->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &s->memory), "memory");
    s->in = session_memory(s->in_n);
    s->out = session_memory(s->out_n);
    s->in_value = session_value(s, s->in, true);
    s->out_value = session_value(s, s->out, false);
}

static inline void session_run(struct session *s, const OrtValue *in)
{
    check(s->api,
          s->api->Run(s->session, NULL, (const char *const *)&s->in_name, &in, 1, (const char *const *)&s->out_name, 1,
                      &s->out_value),
          "Run");
}

static inline void session_close(struct session *s)
{
    check(s->api, s->api->AllocatorFree(s->allocator, s->in_name), "a name");
    check(s->api, s->api->AllocatorFree(s->allocator, s->out_name), "a name");
    s->api->ReleaseValue(s->in_value);
    s->api->ReleaseValue(s->out_value);
    s->api->ReleaseMemoryInfo(s->memory);
    s->api->ReleaseSession(s->session);
    free(s->in);
    free(s->out);
    memset(s, 0, sizeof *s);
}

#endif
