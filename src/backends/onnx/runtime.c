/* SPDX-License-Identifier: Apache-2.0 */
/* The runtime's library, opened with dlopen and never linked: a link would record the symbol version of one release
 * and refuse all others. Its API only ever grows, so an older header works with a newer library.
 *
 * Also the only place that reads the runtime's messages: they carry source paths and C++ signatures, which say nothing
 * to the sender of a request. */
#include "backends/onnx/runtime.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/onnx/device.h"
#include "backends/onnx/onnx.h"
#include "base/base.h"
#include "base/log.h"

#define API_OLDEST 15u /* GetResizedStringTensorElementBuffer */
#define LIBRARY "libonnxruntime.so.1"
#define LIBRARY_CUDA                                                                                \
    "libonnxruntime-cuda.so.1" /* of the same build as the provider beside it; named so by setup.sh \
                                */

#if defined(__SANITIZE_ADDRESS__)
#define LEAK_CHECKED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAK_CHECKED 1
#endif
#endif
#ifdef LEAK_CHECKED
/* The library keeps a few bytes for as long as the process lives. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libonnxruntime";
}
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct onnx_runtime runtime;
static bool opened;

/* ---- finding it ---- */

static bool program_folder(char *out, size_t cap)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    char *slash;

    if (n <= 0) {
        return false;
    }
    out[n] = '\0';
    slash = strrchr(out, '/');
    if (!slash) {
        return false;
    }
    *slash = '\0';
    return true;
}

/* The first that opens. `tried` collects why the others did not, for the message. */
static void *open_first(const char *const *paths, size_t n, char *tried, size_t cap)
{
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        void *h;
        if (paths[i][0] == '/' && access(paths[i], F_OK) != 0) {
            continue;
        }
        h = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
        if (h) {
            return h;
        }
        if (at < cap) {
            int k = snprintf(tried + at, cap - at, "%s%s", at ? "; " : "", dlerror());
            at += k > 0 ? (size_t)k : 0;
        }
    }
    return NULL;
}

static void *library_open(const char *library, bool cuda, struct err *e)
{
    char exe[PATH_MAX] = "", beside[PATH_MAX + 64] = "", installed[PATH_MAX + 64] = "", tried[400] = "";
    const char *named = library ? library : getenv("WEIR_ONNXRUNTIME");
    const char *paths[4];
    size_t n = 0;
    void *h;

    if (named && named[0]) {
        h = open_first(&named, 1, tried, sizeof tried);
        if (!h) {
            err_set(e, ERR_UNAVAILABLE, "can not open ONNX Runtime at %s%s: %s", named,
                    library ? "" : " (from WEIR_ONNXRUNTIME)", tried[0] ? tried : "no such file");
        }
        return h;
    }
    h = cuda ? dlopen(LIBRARY_CUDA, RTLD_NOW | RTLD_LOCAL) : NULL; /* not here: the provider will be missed */
    if (h) {
        return h;
    }
    if (program_folder(exe, sizeof exe)) {
        snprintf(beside, sizeof beside, "%s/../.deps/lib/" LIBRARY, exe);
        snprintf(installed, sizeof installed, "%s/../lib/weir/" LIBRARY, exe);
        paths[n++] = beside;
        paths[n++] = installed;
    }
    paths[n++] = LIBRARY;
    paths[n++] = "libonnxruntime.so";
    h = open_first(paths, n, tried, sizeof tried);
    if (!h) {
        err_set(e, ERR_UNAVAILABLE,
                "no ONNX Runtime found: put " LIBRARY " where the loader looks, or name it in WEIR_ONNXRUNTIME (%s)",
                tried);
    }
    return h;
}

/* ---- setting it up ---- */

static _Thread_local struct {
    void (*line)(void *ctx, const char *message);
    void *ctx;
} listener;

void onnx_runtime_listen(void (*line)(void *ctx, const char *message), void *ctx)
{
    listener.line = line;
    listener.ctx = ctx;
}

/* Only what ends a session gets to the log: errors of single runs come back as statuses, and a client could fill it. */
static void ORT_API_CALL runtime_log(void *param, OrtLoggingLevel severity, const char *category, const char *logid,
                                     const char *where, const char *message)
{
    (void)param;
    (void)category;
    (void)logid;
    if (listener.line && message) {
        listener.line(listener.ctx, message);
    }
    if (severity < ORT_LOGGING_LEVEL_FATAL) {
        return;
    }
    log_error("onnx", "ONNX Runtime: %s where=%s", message ? message : "", where ? where : "");
}

static uint32_t api_to_ask(const char *version)
{
    unsigned major = 0, minor = 0;

    /* The library prints to stderr when it is asked for an API newer than itself; its minor version is its API. */
    if (sscanf(version, "%u.%u", &major, &minor) == 2 && major == 1 && minor < ORT_API_VERSION) {
        return minor;
    }
    return ORT_API_VERSION;
}

static enum err_code runtime_setup(struct onnx_runtime *rt, void *h, struct err *e)
{
    const OrtApiBase *(ORT_API_CALL * base)(void);
    const OrtApiBase *b;
    struct link_map *map = NULL;
    OrtStatus *s;

    if (dlinfo(h, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name) {
        str_copy(rt->path, sizeof rt->path, str_of(map->l_name));
    }
    *(void **)&base = dlsym(h, "OrtGetApiBase");
    b = base ? base() : NULL;
    if (!b) {
        return err_set(e, ERR_UNAVAILABLE, "%s is not ONNX Runtime: it has no OrtGetApiBase", rt->path);
    }
    str_copy(rt->version, sizeof rt->version, str_of(b->GetVersionString()));
    for (rt->api_version = api_to_ask(rt->version); rt->api_version >= API_OLDEST && !rt->api; rt->api_version--) {
        rt->api = b->GetApi(rt->api_version);
        if (rt->api) {
            break;
        }
    }
    if (!rt->api) {
        return err_set(e, ERR_UNAVAILABLE, "ONNX Runtime %s (%s) is too old: 1.%u or later is needed", rt->version,
                       rt->path, API_OLDEST);
    }
    s = rt->api->CreateEnvWithCustomLogger(runtime_log, NULL, ORT_LOGGING_LEVEL_FATAL, "weir", &rt->env);
    s = s ? s : rt->api->DisableTelemetryEvents(rt->env);
    s = s ? s : rt->api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &rt->cpu);
    s = s ? s : rt->api->GetAllocatorWithDefaultOptions(&rt->allocator);
    return onnx_status(rt, s, ERR_UNAVAILABLE, e, "ONNX Runtime does not start");
}

enum err_code onnx_runtime_get(const struct onnx_runtime **out, const char *library, bool cuda, struct err *e)
{
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&lock);
    if (!opened) {
        struct onnx_runtime rt = {0};
        void *h = library_open(library, cuda, e);
        code = h ? runtime_setup(&rt, h, e) : ERR_UNAVAILABLE;
        if (code == ERR_OK) {
            runtime = rt;
            opened = true;
        }
        /* A library that was opened stays: unloading one that has begun to set itself up is not safe. */
    } else if (library) {
        char a[PATH_MAX], b[PATH_MAX];
        if (!realpath(library, a) || !realpath(runtime.path, b) || strcmp(a, b) != 0) {
            code = err_set(e, ERR_CONFLICT, "this process already runs ONNX Runtime %s from %s, not %s",
                           runtime.version, runtime.path, library);
        }
    }
    pthread_mutex_unlock(&lock);
    if (code == ERR_OK) {
        *out = &runtime;
    }
    return code;
}

enum err_code onnx_runtime_find(char *path, size_t cap, char *version, size_t vcap, struct err *e)
{
    const struct onnx_runtime *rt;
    enum err_code code = onnx_runtime_get(&rt, NULL, false, e);

    if (code == ERR_OK) {
        snprintf(path, cap, "%s", rt->path);
        snprintf(version, vcap, "%s", rt->version);
    }
    return code;
}

enum err_code onnx_runtime_preload(const char *library, const char *device, struct err *e)
{
    const struct onnx_runtime *rt;
    struct device d;

    if (!device_parse(&d, device)) {
        return err_set(e, ERR_INVALID, "'%s' is no device: cpu, or cuda:N", device);
    }
    if (onnx_runtime_get(&rt, library, d.cuda, e) != ERR_OK) {
        return e->code;
    }
    return onnx_device_open(rt, &d, e);
}

/* ---- its messages ---- */

const char *onnx_cuda_failure(const char *m)
{
    static const char *const marks[] = {"CUDA failure ", "CUDNN failure ", "CUBLAS failure ", "CUFFT failure ",
                                        "CURAND failure "};
    const char *p = NULL;

    for (size_t i = 0; i < COUNT_OF(marks) && !p; i++) {
        p = strstr(m, marks[i]);
    }
    return p;
}

/* "Non-zero status code returned while running Gather node. Name:'x' Status Message: /src/a.cc:42 void f(int) index out
 * of range" becomes "Gather 'x': index out of range". Anything else is cut at its first line. */
static void shorten(char *out, size_t cap, const char *m)
{
    static const char running[] = "while running ", name[] = "Name:'", status[] = "Status Message: ";
    const char *op = strstr(m, running), *why = NULL, *p;
    size_t n = 0;

    for (p = strstr(m, status); p; p = strstr(p, status)) {
        p += sizeof status - 1;
        why = p;
    }
    if (op && why) {
        const char *end = strstr(op += sizeof running - 1, " node"), *of = strstr(m, name);
        if (end && of && of < why) {
            of += sizeof name - 1;
            n = (size_t)snprintf(out, cap, "%.*s '%.*s': ", (int)MIN(end - op, 64), op,
                                 (int)MIN((size_t)96, strcspn(of, "'")), of);
        }
    }
    m = why ? why : m;
    /* "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=/src/a.cc ; line=1 ; expr=..." behind signatures. */
    const char *cuda = onnx_cuda_failure(m);
    if (cuda) {
        const char *end = strstr(cuda, " ; ");
        snprintf(out + n, cap - n, "%.*s", (int)(end ? end - cuda : (ptrdiff_t)strcspn(cuda, "\n")), cuda);
        return;
    }
    /* A source position at the start: "/…/gather.cc:158 <signature> <condition> message". */
    if (m[0] == '/') {
        const char *sp = strchr(m, ' ');
        const char *was = strstr(m, " was false. ");
        m = was ? was + sizeof " was false. " - 1 : sp ? sp + 1 : m;
    }
    for (; n + 1 < cap && *m && *m != '\n'; m++) {
        out[n++] = (unsigned char)*m < ' ' ? ' ' : *m;
    }
    out[MIN(n, cap - 1)] = '\0';
}

enum err_code onnx_status(const struct onnx_runtime *rt, OrtStatus *s, enum err_code code, struct err *e,
                          const char *what)
{
    char text[400];

    if (!s) {
        return ERR_OK;
    }
    shorten(text, sizeof text, rt->api->GetErrorMessage(s));
    rt->api->ReleaseStatus(s);
    return err_set(e, code, "%s: %s", what, text);
}

enum err_code onnx_run_status(const struct onnx_runtime *rt, OrtStatus *s, struct err *e, bool *hopeless)
{
    static const char *const blames_input[] = {
        "out of bounds",          "out of data bounds",         "out of range", "invalid dimensions",
        "Invalid rank for input", "Unexpected input data type", "Missing Input"};
    const char *m = rt->api->GetErrorMessage(s);
    OrtErrorCode status = rt->api->GetErrorCode(s);
    enum err_code code = status == ORT_INVALID_ARGUMENT ? ERR_INVALID : ERR_MODEL;

    for (size_t i = 0; i < COUNT_OF(blames_input); i++) {
        code = strstr(m, blames_input[i]) ? ERR_INVALID : code;
    }
    if (hopeless) {
        *hopeless = status == ORT_NOT_IMPLEMENTED || status == ORT_INVALID_GRAPH || status == ORT_NO_MODEL ||
                    status == ORT_EP_FAIL;
    }
    return onnx_status(rt, s, code, e, code == ERR_INVALID ? "the model can not take this input" : "the model failed");
}
