/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the ONNX engine: the host's side of engine.h, which also checks what every result must keep to. */
#include "support/onnx_rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backends/onnx/onnx.h"

#define PART (64ull << 20)

bool onnx_rig_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#endif
#endif
    return false;
}

const char *onnx_rig_model(const char *name)
{
    static char path[1024];
    const char *build = getenv("WEIR_BUILD");

    snprintf(path, sizeof path, "%s/models/%s", build ? build : "build", name);
    return path;
}

static void on_ready(void *ctx, struct engine *g, const struct model_info *info)
{
    struct onnx_rig *r = ctx;

    assert(!r->ready && !r->gone && g == r->engine);
    r->ready = true;
    model_info_copy(&r->info, info);
}

static void on_gone(void *ctx, struct engine *g, const struct engine_end *why)
{
    struct onnx_rig *r = ctx;

    assert(!r->gone && g == r->engine);
    r->gone = true;
    r->end = *why;
}

static void on_done(void *ctx, uint64_t id, const struct job_result *job)
{
    struct onnx_rig *r = ctx;
    struct onnx_rig_result *d = &r->done[r->n_done++];

    assert(r->n_done <= RIG_DONE_MAX && !job->lost);
    *d = (struct onnx_rig_result){
        .id = id, .err = job->err, .joined = job->joined, .compute_ns = job->compute_ns, .stalled_ns = job->stalled_ns};
    if (job->err.code == ERR_OK) {
        assert(job->n_out <= RIG_OUT_MAX && job->base == r->space);
        d->n_out = job->n_out;
        d->base = job->base;
        for (uint32_t i = 0; i < job->n_out; i++) {
            const struct tensor *t = &job->out[i];
            uint64_t n;
            assert(t->off % TENSOR_ALIGN == 0 && t->off <= job->size && t->len <= job->size - t->off);
            assert(job->size <= r->space_used && tensor_elements(t->dim, t->rank, &n));
            assert(t->dtype == DTYPE_BYTES ? bytes_check(job->base + t->off, t->len, n)
                                           : t->len == n * dtype_size((enum dtype)t->dtype));
            d->out[i] = *t;
        }
    } else {
        assert(job->err.text[0] && job->n_out == 0);
    }
    if (r->on_done) {
        r->on_done(r, d);
    }
}

static uint8_t *on_space(void *ctx, uint64_t id, uint64_t bytes, uint64_t *off)
{
    struct onnx_rig *r = ctx;

    (void)id;
    if (bytes > r->space_size - r->space_used) {
        return NULL;
    }
    *off = r->space_used;
    r->space_used += ALIGN_UP(bytes, TENSOR_ALIGN);
    return r->space + *off;
}

static const struct engine_events engine_events = {.ready = on_ready, .gone = on_gone};
static const struct port_events port_events = {.done = on_done, .space = on_space};

void onnx_rig_wait(struct onnx_rig *r)
{
    for (int i = 0; i < 6000 && !r->ready && !r->gone; i++) {
        loop_once(r->loop, 10);
    }
    assert(r->ready || r->gone);
}

void onnx_rig_begin(struct onnx_rig *r, const char *folder, void (*more)(struct engine_spec *spec))
{
    struct engine_host host = {.on = &engine_events, .ctx = r};
    struct engine_spec spec = {.name = "test/1", .backend = "onnx", .ports = 1, .batch.max = 16};
    struct err e = {0};

    *r = (struct onnx_rig){.space_size = PART};
    spec.dirfd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (spec.dirfd < 0) {
        fprintf(stderr, "no folder %s: `make tests` makes the models\n", folder);
    }
    assert(spec.dirfd >= 0);
    if (loop_new(&r->loop, &e) != ERR_OK || window_new(&r->in, "test", PART, 1, false, &e) != ERR_OK) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    r->done = xcalloc(RIG_DONE_MAX, sizeof *r->done);
    r->space = mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(r->space != MAP_FAILED);
    spec.in = r->in;
    host.loop = r->loop;
    if (more) {
        more(&spec);
    }
    if (onnx_engine.open(&r->engine, &spec, &host, &e) != ERR_OK) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    assert(!r->ready && !r->gone); /* no event from inside open */
    close(spec.dirfd);             /* the engine keeps its own */
}

enum err_code onnx_rig_attach(struct onnx_rig *r, unsigned index, struct port **out, struct err *e)
{
    struct port_host port = {.on = &port_events, .ctx = r, .index = index}; /* as an executor's: without a loop */

    return onnx_engine.attach(r->engine, &port, out, e);
}

bool onnx_rig_open(struct onnx_rig *r, const char *folder, void (*more)(struct engine_spec *spec))
{
    struct err e = {0};

    onnx_rig_begin(r, folder, more);
    onnx_rig_wait(r);
    if (r->ready && onnx_rig_attach(r, 0, &r->port, &e) != ERR_OK) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    return r->ready;
}

void onnx_rig_close(struct onnx_rig *r)
{
    if (r->port) {
        onnx_engine.detach(r->port);
    }
    if (!r->gone) {
        onnx_engine.close(r->engine);
        assert(!r->gone); /* no event from inside close */
    }
    for (int i = 0; i < 6000 && !r->gone; i++) {
        loop_once(r->loop, 10);
    }
    assert(r->gone);
    onnx_rig_clear(r);
    model_info_done(&r->info);
    window_free(r->in);
    loop_free(r->loop);
    munmap(r->space, r->space_size);
    free(r->done);
}

uint64_t onnx_rig_block(struct onnx_rig *r, const struct onnx_rig_in *in, uint32_t n_in, const uint16_t *want,
                        uint32_t n_want)
{
    uint64_t at = ALIGN_UP(job_block_bytes(n_in, n_want), TENSOR_ALIGN), bytes = at, off;
    struct job_block *b;
    bool rows = n_in > 0;

    for (uint32_t i = 0; i < n_in; i++) {
        bytes += ALIGN_UP(in[i].len, TENSOR_ALIGN);
        rows = rows && in[i].rank > 0 && in[i].dim[0] == in[0].dim[0];
    }
    off = window_take(r->in, 0, bytes);
    assert(off != WINDOW_NONE && r->n_taken < RIG_DONE_MAX);
    r->taken[r->n_taken++] = off;
    b = (void *)(window_base(r->in) + off);
    memset(b, 0, at);
    b->n_in = n_in;
    b->n_out = n_want;
    b->rows = rows ? (uint64_t)in[0].dim[0] : 0;
    for (uint32_t i = 0; i < n_in; i++) {
        struct tensor *t = &b->in[i];
        *t = (struct tensor){.port = in[i].port,
                             .dtype = (uint8_t)in[i].dtype,
                             .rank = (uint8_t)in[i].rank,
                             .off = off + at,
                             .len = in[i].len};
        memcpy(t->dim, in[i].dim, sizeof t->dim);
        memcpy(window_base(r->in) + off + at, in[i].p, in[i].len);
        at += ALIGN_UP(in[i].len, TENSOR_ALIGN);
    }
    if (n_want) {
        memcpy(job_block_want(b), want, n_want * sizeof *want);
    }
    return off;
}

uint64_t onnx_rig_submit(struct onnx_rig *r, uint64_t block, uint64_t deadline_us, uint32_t flags, struct err *e)
{
    struct job j = {.id = ++r->next_id, .deadline_us = deadline_us, .block = block, .flags = flags};
    uint32_t before = r->n_done;
    enum err_code code = onnx_engine.submit(r->port, &j, e);

    assert(r->n_done == before); /* no event from inside submit */
    return code == ERR_OK ? j.id : 0;
}

const struct onnx_rig_result *onnx_rig_run(struct onnx_rig *r, const struct onnx_rig_in *in, uint32_t n_in)
{
    static struct onnx_rig_result refused;
    struct err e = {0};
    uint64_t id = onnx_rig_submit(r, onnx_rig_block(r, in, n_in, NULL, 0), UINT64_MAX, 0, &e);

    if (!id) {
        refused = (struct onnx_rig_result){.err = e};
        return &refused;
    }
    onnx_engine.flush(r->port);
    return onnx_rig_find(r, id);
}

const struct onnx_rig_result *onnx_rig_find(const struct onnx_rig *r, uint64_t id)
{
    const struct onnx_rig_result *found = NULL;

    for (uint32_t i = 0; i < r->n_done; i++) {
        if (r->done[i].id == id) {
            assert(!found); /* exactly once */
            found = &r->done[i];
        }
    }
    assert(found);
    return found;
}

void onnx_rig_clear(struct onnx_rig *r)
{
    for (uint32_t i = 0; i < r->n_taken; i++) {
        window_give(r->in, 0, r->taken[i]);
    }
    r->n_taken = r->n_done = 0;
    r->space_used = 0;
}
