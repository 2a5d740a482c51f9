/* SPDX-License-Identifier: Apache-2.0 */
/* A port of the engine: from jobs in a window to runs, and from outputs to results.
 *
 * One job alone is run in place: its inputs are wrapped where they lie, and its outputs are written by the runtime into
 * the host's memory, when their shapes are known beforehand. Jobs that join are copied into one input, and their rows
 * copied out again. When a joined run fails, each job is run again by itself, so that a bad input hurts nobody but its
 * sender.
 *
 * done() belongs to the host and may submit, cancel, flush or detach: two queues (one being run, one being filled), and
 * nested flushes that only leave a mark. */
#include "backends/onnx/port.h"

#include <stdlib.h>

#include "backends/onnx/prepared.h"
#include "base/clock.h"
#include "inference/batch.h"

struct pending {
    struct job job;
    const struct job_block *block;
    uint64_t at_ns;
    bool cancelled, open;
};

struct queue {
    struct pending *jobs; /* ONNX_OPEN_MAX */
    uint32_t n;
};

struct onnx_port {
    struct port port;
    struct port_host host;
    struct onnx_model *model;
    struct onnx_frame frame;
    struct onnx_prepared prepared;
    void (*freed)(struct engine *g);
    const uint8_t *base; /* of the input window */
    uint64_t size;
    struct queue queue[2];
    unsigned filling; /* which of them takes what is submitted */
    uint32_t open;
    bool flushing, again, detached;
    struct batch_job *batch; /* workspace of a flush: ONNX_OPEN_MAX each */
    uint32_t *pick;
    struct pending **group;
    uint32_t *seen, stamp; /* per input and output: named twice? */
    struct tensor *out;    /* of the run; n_out */
    struct tensor *slice;  /* of one job of it */
    uint16_t *all;         /* 0 … n_out-1, for jobs that want everything */
    struct {
        uint64_t start_ns, busy_ns;
        bool on;
    } watch;
    struct job_result result;
};

static struct onnx_port *mine(struct port *p)
{
    return CONTAINER_OF(p, struct onnx_port, port);
}

/* ---- coming and going ---- */

enum err_code onnx_port_new(struct port **out, const struct onnx_port_from *from, const struct port_host *host,
                            struct err *e)
{
    struct onnx_port *p = xcalloc(1, sizeof *p);
    struct onnx_model *m = from->model;
    enum err_code code = onnx_frame_init(&p->frame, m, from->session, e);

    if (code != ERR_OK) {
        free(p);
        return code;
    }
    p->port = (struct port){.ops = from->engine->ops, .engine = from->engine};
    p->host = *host;
    p->model = m;
    p->freed = from->freed;
    p->watch.on = host->loop == NULL && !m->elsewhere;
    onnx_prepared_init(&p->prepared, m, from->session);
    p->base = window_base(from->in);
    p->size = window_size(from->in);
    for (unsigned i = 0; i < 2; i++) {
        p->queue[i].jobs = xcalloc(ONNX_OPEN_MAX, sizeof(struct pending));
    }
    p->batch = xcalloc(ONNX_OPEN_MAX, sizeof *p->batch);
    p->pick = xcalloc(ONNX_OPEN_MAX, sizeof *p->pick);
    p->group = xcalloc(ONNX_OPEN_MAX, sizeof(struct pending *));
    p->seen = xcalloc(m->info.n_in + m->info.n_out, sizeof *p->seen);
    p->out = xcalloc(m->info.n_out, sizeof *p->out);
    p->slice = xcalloc(m->info.n_out, sizeof *p->slice);
    p->all = xcalloc(m->info.n_out, sizeof *p->all);
    for (uint32_t i = 0; i < m->info.n_out; i++) {
        p->all[i] = (uint16_t)i;
    }
    *out = &p->port;
    return ERR_OK;
}

void onnx_port_free(struct port *port)
{
    struct onnx_port *p = mine(port);
    void (*freed)(struct engine *g) = p->freed;
    struct engine *g = port->engine;

    assert(p->open == 0);
    if (p->flushing) {
        p->detached = true; /* flush() ends it */
        return;
    }
    onnx_frame_done(&p->frame);
    onnx_prepared_done(&p->prepared);
    free(p->queue[0].jobs);
    free(p->queue[1].jobs);
    free(p->batch);
    free(p->pick);
    free(p->group);
    free(p->seen);
    free(p->out);
    free(p->slice);
    free(p->all);
    free(p);
    freed(g);
}

/* ---- taking jobs ---- */

static const uint16_t *wanted(const struct onnx_port *p, const struct job_block *b, uint32_t *n)
{
    *n = b->n_out ? b->n_out : p->model->info.n_out;
    return b->n_out ? job_block_want(b) : p->all;
}

/* What this file relies on when it reads a block; all else the runtime checks itself. */
static enum err_code check_block(struct onnx_port *p, const struct job *j, const struct job_block **out, struct err *e)
{
    const struct model_info *info = &p->model->info;
    bool within = j->block % _Alignof(struct job_block) == 0 && j->block <= p->size - sizeof(struct job_block);
    const struct job_block *b = within ? (const void *)(p->base + j->block) : NULL;
    uint64_t n;

    /* As many inputs as the model has, and none twice: all are there. */
    if (!b || b->n_in != info->n_in || b->n_out > info->n_out ||
        p->size - j->block < job_block_bytes(b->n_in, b->n_out)) {
        return err_set(e, ERR_INVALID, "the request does not have the %u inputs and %u outputs of this model",
                       info->n_in, info->n_out);
    }
    p->stamp++;
    for (uint32_t i = 0; i < b->n_in; i++) {
        const struct tensor *t = &b->in[i];
        if (t->port >= info->n_in || p->seen[t->port] == p->stamp) {
            return err_set(e, ERR_INVALID, "input %u of the request is none of the model's, or is given twice", i);
        }
        p->seen[t->port] = p->stamp;
        if (t->off > p->size || t->len > p->size - t->off || t->rank > TENSOR_RANK_MAX ||
            !tensor_elements(t->dim, t->rank, &n) || t->dtype == DTYPE_NONE || t->dtype >= DTYPE_COUNT_ ||
            (t->dtype != DTYPE_BYTES && n * dtype_size((enum dtype)t->dtype) != t->len) ||
            (b->rows > 0 && (t->rank == 0 || t->dim[0] != (int64_t)b->rows))) {
            return err_set(e, ERR_INVALID, "input '%s': its shape does not agree with its bytes",
                           info->in[t->port].name);
        }
    }
    for (uint32_t i = 0; i < b->n_out; i++) {
        uint16_t w = job_block_want(b)[i];
        if (w >= info->n_out || p->seen[info->n_in + w] == p->stamp) {
            return err_set(e, ERR_INVALID, "output %u of the request is none of the model's, or is asked for twice", i);
        }
        p->seen[info->n_in + w] = p->stamp;
    }
    *out = b;
    return ERR_OK;
}

enum err_code onnx_port_submit(struct port *port, const struct job *j, struct err *e)
{
    struct onnx_port *p = mine(port);
    const struct job_block *b = NULL;
    struct queue *q = &p->queue[p->filling];
    enum err_code code;

    if (p->open == ONNX_OPEN_MAX) {
        return err_set(e, ERR_UNAVAILABLE, "%u requests are open at this model's port", p->open);
    }
    code = check_block(p, j, &b, e);
    if (code != ERR_OK) {
        return code;
    }
    q->jobs[q->n] = (struct pending){
        .job = *j,
        .block = b,
        /* A burst has one time for all that came with it: cheaper than a clock call for each. */
        .at_ns = p->host.loop ? loop_now(p->host.loop) * 1000
                 : q->n       ? q->jobs[0].at_ns
                              : clock_ns(),
        .open = true,
    };
    q->n++;
    p->open++;
    return ERR_OK;
}

void onnx_port_cancel(struct port *port, uint64_t id)
{
    struct onnx_port *p = mine(port);

    for (unsigned k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < p->queue[k].n; i++) {
            struct pending *w = &p->queue[k].jobs[i];
            if (w->open && w->job.id == id) {
                w->cancelled = true;
                return;
            }
        }
    }
}

/* ---- giving results ---- */

static void finish(struct onnx_port *p, struct pending *w, const struct err *e)
{
    struct job_result *r = &p->result;

    w->open = false;
    p->open--;
    r->err.code = ERR_OK;
    r->err.text[0] = '\0';
    if (e) {
        r->err = *e;
        r->n_out = 0;
        r->out = NULL;
        r->base = NULL;
        r->size = 0;
    }
    p->host.on->done(p->host.ctx, w->job.id, r);
}

/* Tensors t[0..n), their offsets counted from `to`, which is the host's memory at `off`. */
static void give(struct onnx_port *p, struct pending *w, struct tensor *t, uint32_t n, uint8_t *to, uint64_t off,
                 uint64_t bytes)
{
    for (uint32_t i = 0; i < n; i++) {
        t[i].off += off;
    }
    p->result.n_out = n;
    p->result.out = t;
    p->result.base = to - off;
    p->result.size = off + bytes;
    finish(p, w, NULL);
}

static uint8_t *space(struct onnx_port *p, struct pending *w, uint64_t bytes, uint64_t *off, struct err *e)
{
    /* An output of no bytes still has a place, so that its offset is a valid one. */
    uint8_t *to = p->host.on->space(p->host.ctx, w->job.id, MAX(bytes, (uint64_t)TENSOR_ALIGN), off);

    if (!to) {
        err_set(e, ERR_MODEL, "the model's output of %llu bytes is larger than the space for it",
                (unsigned long long)bytes);
    }
    return to;
}

/* Gives each tensor its place; returns the bytes of all, UINT64_MAX if there is no such number. */
static uint64_t lay_out(struct tensor *t, uint32_t n)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        t[i].off = at;
        if (t[i].len > UINT64_MAX / 4 || !ck_add(at, ALIGN_UP(t[i].len, TENSOR_ALIGN), &at)) {
            return UINT64_MAX;
        }
    }
    return at;
}

/* ---- inputs ---- */

static const struct tensor *input_of(const struct job_block *b, uint16_t port, uint32_t guess)
{
    if (b->in[guess].port != port) {
        for (guess = 0; b->in[guess].port != port; guess++) {
        }
    }
    return &b->in[guess];
}

static enum err_code feed_strings(struct onnx_port *p, struct pending *const *group, uint32_t k, uint32_t i,
                                  const struct tensor *shape, struct err *e)
{
    const struct onnx_runtime *rt = p->model->rt;
    OrtValue **slot = onnx_frame_in(&p->frame, shape->port);
    OrtStatus *s = onnx_strings_new(rt, shape->dim, shape->rank, slot);
    enum err_code code = s ? onnx_run_status(rt, s, e, NULL) : ERR_OK;
    uint64_t first = 0, n;

    for (uint32_t j = 0; j < k && code == ERR_OK; j++) {
        const struct tensor *t = input_of(group[j]->block, shape->port, i);
        tensor_elements(t->dim, t->rank, &n);
        code = onnx_strings_fill(rt, *slot, first, n, p->base + t->off, t->len, e);
        first += n;
    }
    return code;
}

/* Numbers of several jobs behind one another. */
static uint8_t *gather(struct onnx_port *p, struct pending *const *group, uint32_t k, uint32_t i, uint16_t port,
                       uint8_t *to)
{
    for (uint32_t j = 0; j < k; j++) {
        const struct tensor *t = input_of(group[j]->block, port, i);
        memcpy(to, p->base + t->off, t->len);
        to += t->len;
    }
    return to;
}

static enum err_code feed(struct onnx_port *p, struct pending *const *group, uint32_t k, uint64_t rows, struct err *e)
{
    const struct onnx_runtime *rt = p->model->rt;
    const struct job_block *b = group[0]->block;
    uint64_t need = 0;
    uint8_t *to = NULL;

    for (uint32_t i = 0; i < b->n_in && k > 1; i++) {
        need += ALIGN_UP(b->in[i].dtype == DTYPE_BYTES ? 0 : b->in[i].len / b->rows * rows, TENSOR_ALIGN);
    }
    if (need && !(to = onnx_scratch_room(&p->frame.in_mem, need))) {
        return err_set(e, ERR_UNAVAILABLE, "no memory to join requests");
    }
    for (uint32_t i = 0; i < b->n_in; i++) {
        struct tensor t = b->in[i];
        const uint8_t *at = p->base + t.off;
        OrtStatus *s;
        if (k > 1) {
            t.dim[0] = (int64_t)rows;
        }
        if (t.dtype == DTYPE_BYTES) {
            enum err_code code = feed_strings(p, group, k, i, &t, e);
            if (code != ERR_OK) {
                return code;
            }
            continue;
        }
        if (k > 1) {
            at = to;
            t.len = (uint64_t)(gather(p, group, k, i, t.port, to) - to);
            to += ALIGN_UP(t.len, TENSOR_ALIGN);
        }
        s = onnx_wrap(rt, (enum dtype)t.dtype, t.dim, t.rank, at, t.len, onnx_frame_in(&p->frame, t.port));
        if (s) {
            return onnx_run_status(rt, s, e, NULL);
        }
    }
    return ERR_OK;
}

/* ---- outputs ---- */

/* Fills t with the wanted outputs as they will be; false if one is not known before it is there. */
static bool foresee(const struct onnx_port *p, const uint16_t *want, uint32_t n, uint64_t rows, struct tensor *t)
{
    const struct onnx_model *m = p->model;

    for (uint32_t i = 0; i < n; i++) {
        const struct tensor_info *o = &m->info.out[want[i]];
        uint64_t elements;
        if (!atomic_load_explicit(&m->known[want[i]], memory_order_relaxed)) {
            return false;
        }
        t[i].port = want[i];
        t[i].dtype = o->dtype;
        t[i].rank = o->rank;
        memcpy(t[i].dim, o->dim, sizeof t[i].dim);
        if (o->rank > 0 && o->dim[0] < 0) {
            if (rows == 0) {
                return false;
            }
            t[i].dim[0] = (int64_t)rows;
        }
        if (!tensor_elements(t[i].dim, t[i].rank, &elements)) {
            return false;
        }
        t[i].len = elements * dtype_size((enum dtype)o->dtype);
    }
    return true;
}

/* Names the outputs, in memory at `to` or (NULL) in the runtime's own. */
static enum err_code place(struct onnx_port *p, const uint16_t *want, uint32_t n, const struct tensor *t, uint8_t *to,
                           struct err *e)
{
    for (uint32_t i = 0; i < n; i++) {
        OrtValue **slot = onnx_frame_out(&p->frame, want[i]);
        OrtStatus *s =
            to ? onnx_wrap(p->model->rt, (enum dtype)t[i].dtype, t[i].dim, t[i].rank, to + t[i].off, t[i].len, slot)
               : NULL;
        if (s) {
            return onnx_run_status(p->model->rt, s, e, NULL);
        }
    }
    return ERR_OK;
}

/* After a run whose outputs the runtime made: what they are. */
static enum err_code describe(struct onnx_port *p, const uint16_t *want, uint32_t n, struct tensor *t, struct err *e)
{
    for (uint32_t i = 0; i < n; i++) {
        enum err_code code = onnx_describe(p->model->rt, p->frame.out[i], &t[i], e);
        if (code != ERR_OK) {
            return code;
        }
        t[i].port = want[i];
    }
    return ERR_OK;
}

/* Several threads of a run: the process has hardly any others that work. */
static uint64_t busy_ns(const struct onnx_port *p)
{
    return p->model->info.threads > 1 ? clock_process_ns() : clock_thread_ns();
}

/* On an executor's thread a run is timed by what it computed as well: what is missing to the time that passed, no
 * processor was free. (Versions that run on connection threads share these, and are held up alike; and half a
 * microsecond for two looks at a clock of processor time is more to them.) */
static void watch_start(struct onnx_port *p)
{
    p->watch.busy_ns = p->watch.on ? busy_ns(p) : 0;
    p->watch.start_ns = clock_ns();
}

static void watch_stop(struct onnx_port *p)
{
    uint64_t ns = clock_ns() - p->watch.start_ns, busy;

    p->result.compute_ns = ns;
    p->result.stalled_ns = 0;
    if (p->watch.on) {
        busy = busy_ns(p) - p->watch.busy_ns;
        p->result.stalled_ns = ns - MIN(busy, ns);
    }
}

static enum err_code compute(struct onnx_port *p, struct err *e)
{
    OrtStatus *s;

    watch_start(p);
    s = onnx_frame_run(&p->frame);
    watch_stop(p);
    return s ? onnx_run_status(p->model->rt, s, e, NULL) : ERR_OK;
}

/* Copies what `part` describes of output i, from row `at` on, to `to`; from: the output's numbers if they are ours. */
static bool copy_rows(struct onnx_port *p, uint32_t i, const uint8_t *from, uint64_t at, const struct tensor *part,
                      uint8_t *to)
{
    const struct onnx_runtime *rt = p->model->rt;
    uint64_t n = 0, each;

    if (part->dtype != DTYPE_BYTES) {
        each = part->rank && part->dim[0] > 0 ? part->len / (uint64_t)part->dim[0] : 0;
        if (part->len) { /* the runtime has no address for an empty tensor */
            memcpy(to, (from ? from : onnx_data(rt, p->frame.out[i])) + at * each, part->len);
        }
        return true;
    }
    tensor_elements(part->dim, part->rank, &n);
    each = part->rank && part->dim[0] > 0 ? n / (uint64_t)part->dim[0] : 0;
    return onnx_strings_copy(rt, p->frame.out[i], at * each, n, to);
}

/* ---- one job alone ---- */

/* The run did not fit what was foreseen: once more, with outputs made by the runtime. When that works, the foresight
 * was wrong, and nobody trusts it again. */
static void run_unforeseen(struct onnx_port *p, struct pending *w, const uint16_t *want, uint32_t n, uint8_t *to,
                           uint64_t off, uint64_t have)
{
    struct err e;
    uint64_t bytes;
    bool foreseen = to != NULL;

    onnx_frame_clear(&p->frame);
    if (feed(p, &w, 1, w->block->rows, &e) != ERR_OK || place(p, want, n, NULL, NULL, &e) != ERR_OK ||
        compute(p, &e) != ERR_OK || describe(p, want, n, p->out, &e) != ERR_OK) {
        finish(p, w, &e);
        return;
    }
    bytes = lay_out(p->out, n);
    if (foreseen) {
        for (uint32_t i = 0; i < n; i++) {
            atomic_store_explicit(&p->model->known[want[i]], false, memory_order_relaxed);
        }
        if (bytes > have) {
            err_set(&e, ERR_MODEL,
                    "the model gave another output shape than it announces; announced shapes are no "
                    "longer relied on, the next try is answered");
            finish(p, w, &e);
            return;
        }
    } else if (!(to = space(p, w, bytes, &off, &e))) {
        finish(p, w, &e);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!copy_rows(p, i, NULL, 0, &p->out[i], to + p->out[i].off)) {
            err_set(&e, ERR_MODEL, "the model gave strings that can not be read");
            finish(p, w, &e);
            return;
        }
    }
    give(p, w, p->out, n, to, off, bytes);
}

static void run_one(struct onnx_port *p, struct pending *w, uint64_t now_ns)
{
    uint32_t n;
    const uint16_t *want = wanted(p, w->block, &n);
    uint64_t off = 0, bytes;
    struct err e;
    uint8_t *to;

    p->result.joined = 1;
    p->result.wait_ns = now_ns > w->at_ns ? now_ns - w->at_ns : 0;
    p->result.compute_ns = p->result.stalled_ns = 0;
    if (!foresee(p, want, n, w->block->rows, p->out)) {
        run_unforeseen(p, w, want, n, NULL, 0, 0);
    } else if ((bytes = lay_out(p->out, n)) == UINT64_MAX || !(to = space(p, w, bytes, &off, &e))) {
        if (bytes == UINT64_MAX) {
            err_set(&e, ERR_MODEL, "the model's output is too large");
        }
        finish(p, w, &e);
    } else if (feed(p, &w, 1, w->block->rows, &e) == ERR_OK && place(p, want, n, p->out, to, &e) == ERR_OK &&
               compute(p, &e) == ERR_OK) {
        give(p, w, p->out, n, to, off, bytes);
    } else {
        run_unforeseen(p, w, want, n, to, off, MAX(bytes, (uint64_t)TENSOR_ALIGN));
    }
    onnx_frame_clear(&p->frame);
}

/* ---- several together ---- */

/* One job's share of the run's outputs: rows at … at+its own. */
static void give_slice(struct onnx_port *p, struct pending *w, uint32_t n, uint64_t at, uint64_t rows,
                       const uint8_t *from)
{
    const struct onnx_runtime *rt = p->model->rt;
    uint64_t mine = w->block->rows, off, bytes;
    struct err e;
    uint8_t *to;

    for (uint32_t i = 0; i < n; i++) {
        struct tensor *t = &p->slice[i];
        *t = p->out[i];
        t->dim[0] = (int64_t)mine;
        if (t->dtype != DTYPE_BYTES) {
            t->len = p->out[i].len / rows * mine;
        } else {
            uint64_t elements = 0;
            tensor_elements(t->dim, t->rank, &elements);
            t->len = onnx_strings_len(rt, p->frame.out[i], at * (elements / mine), elements);
        }
    }
    bytes = lay_out(p->slice, n);
    if (bytes == UINT64_MAX) {
        err_set(&e, ERR_MODEL, "the model gave an output that can not be read");
        finish(p, w, &e);
        return;
    }
    if (!(to = space(p, w, bytes, &off, &e))) {
        finish(p, w, &e);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!copy_rows(p, i, from ? from + p->out[i].off : NULL, at, &p->slice[i], to + p->slice[i].off)) {
            err_set(&e, ERR_MODEL, "the model gave strings that can not be read");
            finish(p, w, &e);
            return;
        }
    }
    give(p, w, p->slice, n, to, off, bytes);
}

/* What the run gave (p->out, of `rows` rows) to each its part. */
static void give_all(struct onnx_port *p, struct pending *const *group, uint32_t k, uint32_t n, uint64_t rows,
                     const uint8_t *from, uint64_t now_ns)
{
    uint64_t at = 0;

    p->result.joined = k;
    for (uint32_t j = 0; j < k; j++) {
        uint64_t mine = group[j]->block->rows; /* the block is the host's again after done() */
        p->result.wait_ns = now_ns > group[j]->at_ns ? now_ns - group[j]->at_ns : 0;
        give_slice(p, group[j], n, at, rows, from);
        at += mine;
    }
}

static bool wants_all(const struct onnx_port *p, const struct job_block *b)
{
    return b->n_out == 0 ||
           (b->n_out == p->model->info.n_out && memcmp(job_block_want(b), p->all, b->n_out * sizeof p->all[0]) == 0);
}

/* One or several in the run that is kept ready for that many rows. False, and nothing given: not for these, or it
 * failed
 * (*failed). */
static bool run_prepared(struct onnx_port *p, struct pending *const *group, uint32_t k, uint64_t rows, uint64_t now_ns,
                         bool *failed)
{
    struct onnx_prepared *q = &p->prepared;
    const struct job_block *b = group[0]->block;
    uint64_t row = 0;

    if (rows > q->rows_max || !wants_all(p, b) || !onnx_prepared_fits(q, b)) {
        return false;
    }
    for (uint32_t j = 0; j < k; j++) {
        b = group[j]->block;
        for (uint32_t i = 0; i < b->n_in; i++) {
            memcpy(onnx_prepared_in(q, b->in[i].port, row), p->base + b->in[i].off, b->in[i].len);
        }
        row += b->rows;
    }
    watch_start(p);
    if (!onnx_prepared_run(q, p->frame.options, rows)) {
        *failed = true;
        return false;
    }
    watch_stop(p);
    onnx_prepared_outputs(q, rows, p->out);
    give_all(p, group, k, p->model->info.n_out, rows, q->memory, now_ns);
    return true;
}

/* False, and nothing given: they have to be run one by one. */
static bool run_together(struct onnx_port *p, struct pending *const *group, uint32_t k, uint64_t rows, uint64_t now_ns)
{
    uint32_t n;
    const uint16_t *want = wanted(p, group[0]->block, &n);
    uint8_t *from = NULL;
    struct err e;

    if (foresee(p, want, n, rows, p->out)) {
        uint64_t bytes = lay_out(p->out, n);
        from = bytes == UINT64_MAX ? NULL : onnx_scratch_room(&p->frame.out_mem, bytes + 1);
        if (!from) {
            return false;
        }
    }
    if (feed(p, group, k, rows, &e) != ERR_OK || place(p, want, n, p->out, from, &e) != ERR_OK ||
        compute(p, &e) != ERR_OK || (!from && describe(p, want, n, p->out, &e) != ERR_OK)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (p->out[i].rank == 0 || p->out[i].dim[0] != (int64_t)rows) {
            return false;
        }
    }
    give_all(p, group, k, n, rows, from, now_ns);
    return true;
}

/* ---- flush ---- */

/* True, and done: nobody waits for it any more. */
static bool dropped(struct onnx_port *p, struct pending *w, uint64_t now_ns)
{
    struct err e;

    if (w->cancelled) {
        err_set(&e, ERR_CANCELLED, "cancelled before it was run");
    } else if (w->job.deadline_us <= now_ns / 1000) {
        err_set(&e, ERR_TIMEOUT, "the deadline passed before it was run");
    } else {
        return false;
    }
    p->result.joined = 0;
    p->result.compute_ns = p->result.stalled_ns = 0;
    p->result.wait_ns = now_ns > w->at_ns ? now_ns - w->at_ns : 0;
    finish(p, w, &e);
    return true;
}

static void run_queue(struct onnx_port *p, struct queue *q)
{
    const struct model_info *info = &p->model->info;
    uint64_t rows;
    size_t picked;

    for (uint32_t i = 0; i < q->n; i++) {
        p->batch[i] = (struct batch_job){.block = q->jobs[i].block, .flags = q->jobs[i].job.flags};
    }
    while ((picked = batch_next(p->batch, q->n, info->joins, info->batch_max, p->pick, &rows)) > 0) {
        uint64_t now_ns = clock_ns();
        uint32_t k = 0;
        bool failed = false;
        for (size_t i = 0; i < picked; i++) {
            struct pending *w = &q->jobs[p->pick[i]];
            uint64_t its = w->block->rows;
            if (dropped(p, w, now_ns)) {
                rows -= its;
            } else {
                p->group[k++] = w;
            }
        }
        if (k > 0 && (run_prepared(p, p->group, k, rows, now_ns, &failed) ||
                      (k > 1 && run_together(p, p->group, k, rows, now_ns)))) {
            k = 0;
        }
        onnx_frame_clear(&p->frame);
        for (uint32_t j = 0; j < k; j++) {
            /* The one before took its time, and its done() may have cancelled this one. */
            if (j == 0 || !dropped(p, p->group[j], now_ns = clock_ns())) {
                run_one(p, p->group[j], now_ns);
                /* It works in general and not prepared: the model does not keep to the shapes it announced. */
                if (failed && k == 1 && p->result.err.code == ERR_OK) {
                    p->prepared.rows_max = 0;
                }
            }
        }
    }
    q->n = 0;
}

void onnx_port_flush(struct port *port)
{
    struct onnx_port *p = mine(port);

    p->again = true;
    if (p->flushing) {
        return; /* from inside a done(): the flush that runs comes round once more */
    }
    p->flushing = true;
    while (p->again) {
        struct queue *q = &p->queue[p->filling];
        p->again = false;
        p->filling ^= 1;
        run_queue(p, q);
    }
    p->flushing = false;
    if (p->detached) {
        onnx_port_free(port);
    }
}
