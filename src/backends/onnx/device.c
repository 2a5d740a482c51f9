/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA provider: opened, appended, asked.
 *
 * Settings. arena_extend_strategy kSameAsRequested: the arena takes what it needs; the preset doubles, and memory of a
 * device is shared with other models. cudnn_conv_algo_search HEURISTIC: the preset tries every algorithm at each new
 * shape, and a batch of another size is a new shape; a request would wait for that. use_tf32 0: single precision is
 * what the model says; with ten bits of mantissa, rows of one batch would differ from rows that ran alone.
 * CUDA_DEVICE_ORDER=PCI_BUS_ID: N is the number that nvidia-smi shows. CUDA_CACHE_DISABLE: a worker can not write, and
 * would only be told so. */
#include "backends/onnx/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base.h"

#define PROVIDER "libonnxruntime_providers_cuda.so"

/* What the provider asks for, each after what it needs itself. One that is absent is not missed here: the provider
 * names what it can not do without. cuDNN's parts are opened by cuDNN at first use, when the walls stand. */
static const char *const libraries[] = {"libcudart.so.13",
                                        "libnvJitLink.so.13",
                                        "libnvrtc.so.13",
                                        "libcublasLt.so.13",
                                        "libcublas.so.13",
                                        "libcurand.so.10",
                                        "libcufft.so.12",
                                        "libcudnn.so.9",
                                        "libcudnn_graph.so.9",
                                        "libcudnn_ops.so.9",
                                        "libcudnn_cnn.so.9",
                                        "libcudnn_adv.so.9",
                                        "libcudnn_heuristic.so.9",
                                        "libcudnn_engines_precompiled.so.9",
                                        "libcudnn_engines_runtime_compiled.so.9",
                                        "libcudnn_engines_tensor_ir.so.9",
                                        "libcudnn_ext.so.9"};

/* A worker has no LD_LIBRARY_PATH; these are where containers get the driver's libraries without a loader's cache. */
static const char *const drivers[] = {"libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1",
                                      "/usr/lib/wsl/lib/libcuda.so.1"};

static enum err_code missing(const struct device *d, struct err *e)
{
    return err_set(e, ERR_UNAVAILABLE, "device cuda:%u: the CUDA provider is not here (make gpu fetches it)",
                   d->number);
}

static enum err_code open_driver(const struct device *d, struct err *e)
{
    char why[300] = "";

    for (size_t i = 0; i < COUNT_OF(drivers); i++) {
        if (dlopen(drivers[i], RTLD_NOW | RTLD_LOCAL)) {
            return ERR_OK;
        }
        if (i == 0) {
            snprintf(why, sizeof why, "%s", dlerror());
        }
    }
    return err_set(e, ERR_UNAVAILABLE, "device cuda:%u: no driver of an NVIDIA GPU on this machine: %s", d->number,
                   why);
}

static void open_libraries(const char *folder)
{
    char path[PATH_MAX + 64];

    for (size_t i = 0; i < COUNT_OF(libraries); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, libraries[i]);
        dlopen(access(path, F_OK) == 0 ? path : libraries[i], RTLD_NOW | RTLD_LOCAL);
    }
}

static bool provider_path(char *out, size_t cap, const struct onnx_runtime *rt)
{
    const char *slash = strrchr(rt->path, '/');

    return slash && snprintf(out, cap, "%.*s/" PROVIDER, (int)(slash - rt->path), rt->path) < (int)cap &&
           access(out, R_OK) == 0;
}

enum err_code onnx_device_open(const struct onnx_runtime *rt, const struct device *d, struct err *e)
{
    char path[PATH_MAX];

    if (!d->cuda) {
        return ERR_OK;
    }
    if (!provider_path(path, sizeof path, rt)) {
        return missing(d, e);
    }
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
    setenv("CUDA_CACHE_DISABLE", "1", 1);
    if (open_driver(d, e) != ERR_OK) {
        return e->code;
    }
    *strrchr(path, '/') = '\0';
    open_libraries(path);
    return ERR_OK;
}

OrtStatus *onnx_device_append(const struct onnx_runtime *rt, OrtSessionOptions *o, const struct device *d,
                              uint64_t memory)
{
    const OrtApi *a = rt->api;
    OrtCUDAProviderOptionsV2 *cuda = NULL;
    char number[16], limit[32];
    const char *keys[] = {"device_id", "arena_extend_strategy", "cudnn_conv_algo_search", "use_tf32", "gpu_mem_limit"};
    const char *values[] = {number, "kSameAsRequested", "HEURISTIC", "0", limit};
    OrtStatus *s = a->CreateCUDAProviderOptions(&cuda);

    snprintf(number, sizeof number, "%u", d->number);
    snprintf(limit, sizeof limit, "%llu", (unsigned long long)memory);
    s = s ? s : a->UpdateCUDAProviderOptions(cuda, keys, values, memory ? 5 : 4);
    s = s ? s : a->SessionOptionsAppendExecutionProvider_CUDA_V2(o, cuda);
    if (cuda) {
        a->ReleaseCUDAProviderOptions(cuda);
    }
    return s;
}

/* ---- asking CUDA itself ---- */

/* A function of the CUDA runtime that the provider uses; cudaError_t is an int, 0 its success. */
static void *cuda_function(const char *name)
{
    void *h = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
    void *f = h ? dlsym(h, name) : NULL;

    if (h) {
        dlclose(h);
    }
    return f;
}

/* The runtime opens the provider when it is first appended, and keeps to itself which library was missing; the loader
 * says it again. */
static enum err_code open_provider(const struct onnx_runtime *rt, const struct device *d, const char *path,
                                   struct err *e)
{
    OrtSessionOptions *o = NULL;
    char what[32];
    OrtStatus *s = rt->api->CreateSessionOptions(&o);

    s = s ? s : onnx_device_append(rt, o, d, 0);
    if (o) {
        rt->api->ReleaseSessionOptions(o);
    }
    if (s && !dlopen(path, RTLD_LAZY | RTLD_LOCAL)) {
        rt->api->ReleaseStatus(s);
        return err_set(e, ERR_UNAVAILABLE, "device cuda:%u: the CUDA provider can not be opened: %s", d->number,
                       dlerror());
    }
    snprintf(what, sizeof what, "device cuda:%u", d->number);
    return onnx_status(rt, s, ERR_UNAVAILABLE, e, what);
}

enum err_code onnx_device_check(const struct onnx_runtime *rt, const struct device *d, struct err *e)
{
    int (*count)(int *), (*set)(int);
    const char *(*text)(int);
    char path[PATH_MAX];
    int n = 0, rc;

    if (!provider_path(path, sizeof path, rt)) {
        return missing(d, e);
    }
    *(void **)&count = cuda_function("cudaGetDeviceCount");
    *(void **)&set = cuda_function("cudaSetDevice");
    *(void **)&text = cuda_function("cudaGetErrorString");
    if (!count || !set || !text) {
        return err_set(e, ERR_UNAVAILABLE, "device cuda:%u: libcudart.so.13 is not here (make gpu fetches it)",
                       d->number);
    }
    rc = count(&n);
    if (rc == 0 && d->number >= (unsigned)MAX(n, 0)) {
        return err_set(e, ERR_UNAVAILABLE, "device cuda:%u: there are %d GPUs here, counted from 0", d->number, n);
    }
    rc = rc == 0 ? set((int)d->number) : rc; /* the provider allocates on the thread's device when it is opened */
    if (rc != 0) {
        return err_set(e, ERR_UNAVAILABLE, "device cuda:%u: CUDA says: %s (error %d)", d->number, text(rc), rc);
    }
    return open_provider(rt, d, path, e);
}

bool onnx_device_memory(const struct device *d, uint64_t *total, uint64_t *free_bytes)
{
    int (*set)(int);
    int (*info)(size_t *, size_t *);
    size_t f = 0, t = 0;

    *total = *free_bytes = 0;
    *(void **)&set = cuda_function("cudaSetDevice");
    *(void **)&info = cuda_function("cudaMemGetInfo");
    if (!d->cuda || !set || !info || set((int)d->number) != 0 || info(&f, &t) != 0) {
        return false;
    }
    *total = t;
    *free_bytes = f;
    return true;
}

/* ---- where the nodes went ---- */

/* "Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 41", a line each provider; "All nodes placed on [...]"
 * when there is one only. */
void onnx_placed_read(struct onnx_placed *p, const char *message)
{
    static const char on[] = " placed on [", number[] = "]. Number of nodes: ", cuda[] = "CUDAExecutionProvider";
    const char *name = strstr(message, on), *end = name ? strstr(name, number) : NULL;
    uint64_t n;

    if (!end) {
        return;
    }
    name += sizeof on - 1;
    const char *digits = end + sizeof number - 1;
    if (!str_u64((struct str){digits, strspn(digits, "0123456789")}, &n)) {
        return;
    }
    n = MIN(n, UINT32_MAX / 2);
    p->seen = true;
    if ((size_t)(end - name) == sizeof cuda - 1 && memcmp(name, cuda, sizeof cuda - 1) == 0) {
        p->cuda += (unsigned)n;
    } else {
        p->other += (unsigned)n;
    }
}
