/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's life: opened on the control loop, loaded by a thread of its own, closed by the same thread.
 *
 * Everything that takes time (reading, the header walk, making sessions, the warm-up, and releasing sessions at the
 * end) happens in the keeper thread, which waits in between; the control loop only starts it, hears of it by posted
 * tasks, and joins it when it is about to return. So the life is a line, and the lock guards little: the wish to close,
 * and how many ports are still to be detached, for a close may come while threads are on their way to attach.
 *
 *     open → keeper: load → task ready → … → close → keeper: release → task gone → join → gone() → free */
#include "backends/onnx/onnx.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/onnx/header.h"
#include "backends/onnx/port.h"
#include "backends/onnx/warm.h"
#include "base/log.h"

#define MODEL_FILE "model.onnx"
#define MODEL_MAX ((uint64_t)INT32_MAX) /* protobuf's own limit */
#define SHARED_FROM (4ull << 20)        /* bytes from which on all ports share one session */
#define SMALL_BELOW (1ull << 20)        /* bytes below which the arena costs more than it gives */
#define FOLDER_MAX 1024                 /* the runtime's limit for a setting */
#define WIDE_FROM_NS 1000000ull         /* a quicker run has nothing to gain from more threads */
#define WIDE_GAIN 0.7                   /* how much of each thread must be to be seen: 1.4 times as fast with two */

struct onnx {
    struct engine engine;
    struct engine_spec spec;
    struct engine_host host;
    struct device device;
    int dirfd;
    pthread_t keeper;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    OrtRunOptions *warming; /* under the lock: of the warm-up that runs now */
    unsigned attachable;    /* under the lock: ports that are still to be detached; 0 until ready() was told */
    _Atomic bool closing;
    struct onnx_model model;
    OrtSession **sessions; /* one a port, or one for all */
    unsigned n_sessions;
    bool arena;
    struct task ready, gone;
    struct engine_end end;
};

static struct onnx *mine(struct engine *g)
{
    return CONTAINER_OF(g, struct onnx, engine);
}

/* ---- loading: the keeper ---- */

struct file {
    uint8_t *p;
    size_t n;
};

static enum err_code file_map(struct file *out, int dirfd, struct err *e)
{
    /* Not blocking: a FIFO in the place of the model must not hold the keeper. */
    int fd = openat(dirfd, MODEL_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    enum err_code code = ERR_OK;
    void *p = MAP_FAILED;

    if (fd < 0) {
        return err_sys(e, ERR_REFUSED, "can not open " MODEL_FILE " in the model's folder");
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        code = err_set(e, ERR_REFUSED, MODEL_FILE " is not a regular file");
    } else if (st.st_size == 0 || (uint64_t)st.st_size > MODEL_MAX) {
        code = err_set(e, ERR_REFUSED,
                       MODEL_FILE " has %lld bytes; from 1 byte to 2 GiB can be read, larger models keep "
                                  "their weights in a file beside it",
                       (long long)st.st_size);
    } else {
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            code = err_sys(e, ERR_UNAVAILABLE, "can not read " MODEL_FILE);
        }
    }
    close(fd);
    if (code == ERR_OK) {
        *out = (struct file){p, (size_t)st.st_size};
    }
    return code;
}

/* The path behind the descriptor: the runtime opens external data by path. */
static enum err_code folder_path(char out[FOLDER_MAX], int dirfd, struct err *e)
{
    char link[64];
    struct stat a, b;
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    n = readlink(link, out, FOLDER_MAX - 1);
    if (n < 0) {
        return err_sys(e, ERR_REFUSED, "the model has data in other files, and its folder's path can not be read");
    }
    out[n] = '\0';
    if (n == FOLDER_MAX - 1 || fstat(dirfd, &a) != 0 || stat(out, &b) != 0 || a.st_dev != b.st_dev ||
        a.st_ino != b.st_ino) {
        return err_set(e, ERR_REFUSED, "the model has data in other files, and its folder is no longer where it was");
    }
    return ERR_OK;
}

/* Bytes resident in this process; 0 if the system does not say. */
static uint64_t resident(void)
{
    char text[128];
    unsigned long long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (fd >= 0) {
        close(fd);
    }
    if (n <= 0) {
        return 0;
    }
    text[n] = '\0';
    return sscanf(text, "%*u %llu", &pages) == 1 ? pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* What the sessions are made from. The runtime reads it while it makes one, and not later. */
struct source {
    struct file file;
    char folder[FOLDER_MAX];
    struct onnx_source from;
};

static enum err_code sessions_new(struct onnx *x, struct source *f, struct err *e)
{
    struct onnx_header header;
    struct onnx_source *from = &f->from;
    unsigned n = f->file.n < SHARED_FROM ? MAX(x->spec.ports, 1u) : 1;
    enum err_code code = onnx_header_check(&header, f->file.p, f->file.n, x->dirfd, e);

    *from = (struct onnx_source){.p = f->file.p,
                                 .n = f->file.n,
                                 .threads = x->spec.threads ? x->spec.threads : 1,
                                 .small = f->file.n < SMALL_BELOW,
                                 .device = x->device,
                                 .device_memory = x->spec.memory_max};
    if (code != ERR_OK) {
        return code;
    }
    if (header.external) {
        code = folder_path(f->folder, x->dirfd, e);
        from->folder = f->folder;
        from->small = false;
        n = 1;
    }
    x->arena = !from->small;
    if (code == ERR_OK) {
        code = onnx_runtime_get(&x->model.rt, x->spec.library, x->device.cuda, e);
    }
    x->sessions = xcalloc(n, sizeof(OrtSession *));
    for (unsigned i = 0; i < n && code == ERR_OK; i++) {
        if (atomic_load(&x->closing)) {
            return err_set(e, ERR_CANCELLED, "closed while it was loading");
        }
        code = onnx_session_new(&x->sessions[i], x->model.rt, from, e);
        x->n_sessions += code == ERR_OK;
    }
    x->model.info.threads = from->threads;
    x->model.elsewhere = x->device.cuda;
    return code;
}

/* close() ends a warm-up run through its options. */
static void warming(struct onnx *x, OrtRunOptions *o)
{
    pthread_mutex_lock(&x->lock);
    x->warming = o;
    pthread_mutex_unlock(&x->lock);
}

/* With threads left open: the widest session that is allowed stays if it is quicker by enough, for threads that wait
 * for each other are lost to other models. Only where one thread runs the model (a worker); where connection threads
 * do, they are the width. The loser's memory is given back. */
static void choose_threads(struct onnx *x, struct onnx_warm *w, struct onnx_frame *f, const struct onnx_source *from,
                           uint64_t before)
{
    struct model_info *info = &x->model.info;
    struct onnx_source wide = *from;
    uint64_t now = resident(), one, more;
    OrtSession *other;
    struct err e;

    if (x->device.cuda || x->spec.threads != 0 || x->spec.threads_max < 2 || x->spec.ports != 1 ||
        info->warm_ns < WIDE_FROM_NS) {
        return;
    }
    /* A session takes about as much again while it is made. */
    if (x->spec.memory_max && now + 2 * (now > before ? now - before : 0) > x->spec.memory_max) {
        log_info("onnx", "one thread, for there is no memory to try more model=%s", x->spec.name);
        return;
    }
    wide.threads = x->spec.threads_max;
    if (onnx_session_new(&other, x->model.rt, &wide, &e) != ERR_OK) {
        log_info("onnx", "one thread, for a session of more can not be made model=%s why=\"%s\"", x->spec.name, e.text);
        return;
    }
    if (onnx_warm_compare(w, f, other, &one, &more)) {
        bool take = (double)one >= WIDE_GAIN * wide.threads * (double)more;
        log_info("onnx", "threads measured model=%s one_us=%.1f threads=%u us=%.1f taken=%u", x->spec.name,
                 (double)one / 1e3, wide.threads, (double)more / 1e3, take ? wide.threads : 1);
        if (take) {
            OrtSession *loser = f->session;
            x->sessions[0] = f->session = other;
            other = loser;
            info->threads = wide.threads;
            info->warm_ns = more;
        }
    }
    onnx_session_free(x->model.rt, other);
    malloc_trim(0);
}

static enum err_code warm_up(struct onnx *x, const struct onnx_source *from, uint64_t before, struct err *e)
{
    struct onnx_warm w = {
        .name = x->spec.name, .batch_max = MAX(x->spec.batch.max, 1u), .stop = &x->closing, .arena = x->arena};
    enum err_code code = ERR_OK;

    /* The first session twice: once to learn, and once more to have the memory that serving takes. */
    for (unsigned i = 0; i <= x->n_sessions && code == ERR_OK; i++) {
        struct onnx_frame f = {0};
        code = onnx_frame_init(&f, &x->model, x->sessions[i ? i - 1 : 0], e);
        if (code == ERR_OK) {
            warming(x, f.options);
            if (i > 0) {
                onnx_warm_repeat(&w, &f);
            } else if ((code = onnx_warm_learn(&w, &f, e)) == ERR_OK) {
                choose_threads(x, &w, &f, from, before);
                code = onnx_warm_join(&w, &f, e);
            }
            warming(x, NULL);
            onnx_frame_done(&f);
        }
    }
    onnx_warm_done(&w, &x->model);
    return code;
}

/* What the load took of the GPU, its arena included; the driver's own context was there before the first look. */
static void device_used(struct onnx *x, uint64_t free_before)
{
    struct model_info *info = &x->model.info;
    uint64_t total, left;
    size_t n = strlen(info->runtime);

    if (!x->device.cuda) {
        return;
    }
    snprintf(info->runtime + n, sizeof info->runtime - n, " on cuda:%u", x->device.number);
    if (onnx_device_memory(&x->device, &total, &left)) {
        info->device_total = total;
        info->device_used = free_before > left ? free_before - left : 0;
    }
}

static enum err_code load(struct onnx *x, struct err *e)
{
    struct source *f = xcalloc(1, sizeof *f);
    struct model_info *info = &x->model.info;
    uint64_t before = resident(), after, device_total, device_free = 0;
    enum err_code code = file_map(&f->file, x->dirfd, e);

    if (code == ERR_OK && x->device.cuda) {
        onnx_device_memory(&x->device, &device_total, &device_free);
    }
    if (code == ERR_OK) {
        code = sessions_new(x, f, e);
    }
    if (code == ERR_OK) {
        code = onnx_model_describe(&x->model, x->sessions[0], e);
    }
    if (code == ERR_OK) {
        code = warm_up(x, &f->from, before, e);
    }
    if (f->file.p) {
        munmap(f->file.p, f->file.n);
    }
    free(f);
    if (code != ERR_OK) {
        return code;
    }
    device_used(x, device_free);
    after = resident();
    info->memory = before && after > before ? after - before : 0;
    log_info("onnx", "batching measured model=%s one_us=%.1f many_rows=%u many_us=%.1f joins=%d threads=%u",
             x->spec.name, (double)info->warm_ns / 1e3, info->many_rows, (double)info->many_ns / 1e3, info->joins,
             info->threads);
    if (x->spec.run_max_us && info->warm_ns > x->spec.run_max_us * 1000) {
        return err_set(e, ERR_REFUSED, "a warm run takes %.1f ms, more than inline allows (%.1f ms): use place: worker",
                       (double)info->warm_ns / 1e6, (double)x->spec.run_max_us / 1e3);
    }
    return ERR_OK;
}

/* ---- the keeper ---- */

static void release(struct onnx *x)
{
    for (unsigned i = 0; i < x->n_sessions; i++) {
        onnx_session_free(x->model.rt, x->sessions[i]);
    }
    free(x->sessions);
    x->sessions = NULL;
    x->n_sessions = 0;
}

static void *keeper(void *arg)
{
    struct onnx *x = arg;
    struct err e = {0};

    x->end.loading = true;
    if (load(x, &e) == ERR_OK) {
        x->end.loading = false;
        loop_post(x->host.loop, &x->ready);
        pthread_mutex_lock(&x->lock);
        while (!atomic_load(&x->closing) || x->attachable > 0) {
            pthread_cond_wait(&x->wake, &x->lock);
        }
        pthread_mutex_unlock(&x->lock);
    } else if (!atomic_load(&x->closing)) {
        x->end.err = e;
        x->end.own = true;
    }
    release(x);
    loop_post(x->host.loop, &x->gone);
    return NULL;
}

static void on_ready(struct task *t)
{
    struct onnx *x = CONTAINER_OF(t, struct onnx, ready);

    if (atomic_load(&x->closing)) {
        x->end.loading = true; /* nobody heard that it was ready */
        return;
    }
    pthread_mutex_lock(&x->lock);
    x->attachable = x->spec.ports;
    pthread_mutex_unlock(&x->lock);
    x->host.on->ready(x->host.ctx, &x->engine, &x->model.info);
}

static void on_gone(struct task *t)
{
    struct onnx *x = CONTAINER_OF(t, struct onnx, gone);

    pthread_join(x->keeper, NULL);
    x->host.on->gone(x->host.ctx, &x->engine, &x->end);
    onnx_model_done(&x->model);
    close(x->dirfd);
    pthread_cond_destroy(&x->wake);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* Signals are for the threads that wait for them. */
static int thread_start(pthread_t *t, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(t, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

/* ---- engine_ops ---- */

static enum err_code engine_open(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                                 struct err *e)
{
    struct onnx *x;
    struct device device;
    int r;

    if (!device_parse(&device, spec->device)) {
        return err_set(e, ERR_INVALID, "'%s' is no device: cpu, or cuda:N", spec->device);
    }
    x = xcalloc(1, sizeof *x);
    x->device = device;
    x->engine.ops = &onnx_engine;
    x->spec = *spec;
    x->host = *host;
    x->ready.fn = on_ready;
    x->gone.fn = on_gone;
    x->dirfd = fcntl(spec->dirfd, F_DUPFD_CLOEXEC, 0);
    if (x->dirfd < 0) {
        err_sys(e, ERR_INTERNAL, "can not keep the folder of %s open", spec->name);
        free(x);
        return ERR_INTERNAL;
    }
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->wake, NULL);
    *out = &x->engine; /* before the first event */
    r = thread_start(&x->keeper, keeper, x);
    if (r != 0) {
        *out = NULL;
        close(x->dirfd);
        pthread_cond_destroy(&x->wake);
        pthread_mutex_destroy(&x->lock);
        free(x);
        return err_set(e, ERR_UNAVAILABLE, "no thread to load %s: %s", spec->name, strerror(r));
    }
    pthread_setname_np(x->keeper, "weir-onnx");
    return ERR_OK;
}

static void engine_close(struct engine *g)
{
    struct onnx *x = mine(g);

    pthread_mutex_lock(&x->lock);
    atomic_store(&x->closing, true);
    if (x->warming) {
        x->model.rt->api->ReleaseStatus(x->model.rt->api->RunOptionsSetTerminate(x->warming));
    }
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
}

/* A port is over: detached, or never made. */
static void port_over(struct engine *g)
{
    struct onnx *x = mine(g);

    pthread_mutex_lock(&x->lock);
    assert(x->attachable > 0);
    x->attachable--;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
}

static enum err_code engine_attach(struct engine *g, const struct port_host *host, struct port **out, struct err *e)
{
    struct onnx *x = mine(g);

    struct onnx_port_from from = {.engine = g,
                                  .model = &x->model,
                                  .session = x->sessions[host->index % x->n_sessions],
                                  .in = x->spec.in,
                                  .freed = port_over};
    enum err_code code = onnx_port_new(out, &from, host, e);

    if (code != ERR_OK) {
        port_over(g);
    }
    return code;
}

const struct engine_ops onnx_engine = {
    .version = ENGINE_VERSION,
    .name = "onnx",
    .open = engine_open,
    .close = engine_close,
    .attach = engine_attach,
    .detach = onnx_port_free,
    .submit = onnx_port_submit,
    .flush = onnx_port_flush,
    .cancel = onnx_port_cancel,
};
