/* SPDX-License-Identifier: Apache-2.0 */
/* Copies under way, one thread's: from the stable's answer to the comparison.
 *
 * Both answers are looked at as job results: the stable's, whose tensors lie in the copy's own memory by then, and the
 * shadow's, which may be a worker's memory that changes: its numbers are read once, its texts by lengths that were
 * checked. */
#include "api/shadow.h"

#include <stdlib.h>

#include "api/number.h"
#include "base/clock.h"

#define KEEP_BYTES (1u << 20) /* of memory that a copy keeps when it is over */
#define KNOWN 16384u          /* compared requests that are remembered for their labels, */
#define KNOWN_PROBES 8u       /* or fewer when they fall together: an older one gives way */

/* What both versions said of a request. */
struct known {
    uint64_t key, seq; /* key 0: empty */
    uint64_t shadow;
    uint64_t stable, candidate;
};
struct copy {
    struct infer infer;
    struct shadow_pool *pool;
    struct shadow *shadow; /* NULL: free */
    enum shadow_run run;
    unsigned part;
    struct sched *sched; /* admitted there */
    uint64_t admitted;
    uint64_t compute_ns;        /* of the stable's run */
    struct predictor predictor; /* of the version that runs it */
    uint64_t key;
    char id[DIFF_ID + 1];
    /* the stable's answer */
    struct job_result kept;
    uint8_t *memory; /* its tensors, then their bytes */
    uint64_t cap;
    int class_port; /* that its classes are of; -1: none is known */
    size_t n_classes;
    uint64_t class_hash; /* of the whole name of the first; 0: it has none */
    char class[SHADOW_ROWS][DIFF_CLASS_NAME];
};
struct shadow_pool {
    struct copy copy[SHADOW_COPIES];
    uint64_t bytes; /* of all copies' memory */
    uint64_t seq;
    struct known known[KNOWN];
    double number[2][DIFF_ELEMENTS];
    struct str text[2][SHADOW_TEXTS];
};

struct shadow_pool *shadow_pool_new(void)
{
    struct shadow_pool *p = xcalloc(1, sizeof(*p)); /* large: pages are taken on first use */

    for (unsigned i = 0; i < SHADOW_COPIES; i++) {
        p->copy[i].pool = p;
    }
    return p;
}

void shadow_pool_free(struct shadow_pool *p)
{
    for (unsigned i = 0; p && i < SHADOW_COPIES; i++) {
        assert(!p->copy[i].shadow);
        free(p->copy[i].memory);
    }
    free(p);
}

static struct shadow_pool *pool_of(const struct plane *p)
{
    return ((const struct data_facts *)p->facts)->shadows;
}

/* ---- the stable's answer ---- */

static void memory_free(struct copy *c)
{
    free(c->memory);
    c->memory = NULL;
    c->pool->bytes -= c->cap;
    c->cap = 0;
}

/* False: there is no room for so many bytes. */
static bool memory_take(struct copy *c, uint64_t bytes)
{
    if (bytes <= c->cap) {
        return true;
    }
    if (c->pool->bytes - c->cap + bytes > SHADOW_BYTES) {
        return false;
    }
    memory_free(c);
    c->memory = malloc(bytes);
    if (c->memory) {
        c->cap = bytes;
        c->pool->bytes += bytes;
    }
    return c->memory != NULL;
}

static bool keep_answer(struct copy *c, const struct job_result *job)
{
    uint64_t head = ALIGN_UP(job->n_out * sizeof(struct tensor), 8), bytes = head, at = head;
    struct tensor *out;

    for (uint32_t i = 0; i < job->n_out; i++) {
        bytes += job->out[i].len;
    }
    if (!memory_take(c, MAX(bytes, (uint64_t)1))) {
        return false;
    }
    out = (void *)c->memory;
    for (uint32_t i = 0; i < job->n_out; i++) {
        out[i] = job->out[i];
        memcpy(c->memory + at, job->base + out[i].off, out[i].len);
        out[i].off = at;
        at += out[i].len;
    }
    c->kept = (struct job_result){.n_out = job->n_out, .out = out, .base = c->memory, .size = bytes};
    return true;
}

static uint64_t hash_of(struct str class)
{
    return class.p ? join_label(class) : 0;
}

/* Its version may be gone when they are compared, and its labels with it. */
static void keep_classes(struct copy *c, const struct predictor *p)
{
    uint64_t rows = MIN(predicted_rows(p, &c->kept), (uint64_t)SHADOW_ROWS);

    c->class_port = rows > 0 ? p->port : -1;
    c->n_classes = rows;
    for (uint64_t i = 0; i < rows; i++) {
        char small[64];
        struct str s = predicted_class(p, &c->kept, i, small);

        c->class_hash = i > 0 ? c->class_hash : hash_of(s);
        s.n = MIN(s.n, sizeof(c->class[i]) - 1);
        memcpy(c->class[i], s.n > 0 ? s.p : "", s.n);
        c->class[i][s.n] = '\0';
    }
}

/* ---- comparing ---- */

static size_t read_numbers(const struct tensor *t, const uint8_t *p, double *out)
{
    uint32_t size = dtype_size((enum dtype)t->dtype);
    size_t n = size > 0 ? (size_t)MIN(t->len / size, (uint64_t)DIFF_ELEMENTS) : 0;

    for (size_t i = 0; i < n; i++) {
        out[i] = number_at(p, t->dtype, i);
    }
    return n;
}

/* Each length is read once; what does not fit ends the texts. */
static size_t read_texts(const struct tensor *t, const uint8_t *p, struct str *out)
{
    uint64_t at = 0;
    size_t n = 0;

    while (n < SHADOW_TEXTS && t->len - at >= 4) {
        uint32_t length;

        memcpy(&length, p + at, 4);
        at += 4;
        if (length > t->len - at) {
            break;
        }
        out[n++] = (struct str){(const char *)p + at, length};
        at += length;
    }
    return n;
}

static const struct tensor *output_of(const struct job_result *r, uint32_t port)
{
    for (uint32_t i = 0; i < r->n_out; i++) {
        if (r->out[i].port == port) {
            return &r->out[i];
        }
    }
    return NULL;
}

static bool is_float(const struct tensor *t)
{
    return t->dtype >= DTYPE_FP16 && t->dtype <= DTYPE_FP64;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof(a->dim[0])) == 0;
}

static size_t width_of(const struct tensor *t)
{
    return t->rank > 0 ? (size_t)t->dim[t->rank - 1] : 1;
}

static void compare_shapes(struct diff_pair *p, struct str name, const struct tensor *a, const struct tensor *b)
{
    char text[2][96] = {"none", "none"};

    shape_text(text[0], sizeof(text[0]), a->dim, a->rank);
    if (b) {
        shape_text(text[1], sizeof(text[1]), b->dim, b->rank);
    }
    diff_shapes(p, name, a->dtype == DTYPE_BYTES ? DIFF_TEXT : DIFF_NUMERIC, text[0], text[1]);
}

static void compare_output(struct copy *c, struct diff_pair *p, const struct job_result *job, const struct tensor *a)
{
    const struct model_info *info = sched_info(c->sched);
    const struct tensor *b = output_of(job, a->port);
    struct str name = str_of(a->port < info->n_out ? info->out[a->port].name : "?");
    struct shadow_pool *pool = c->pool;

    if (!b || !same_shape(a, b)) {
        compare_shapes(p, name, a, b);
    } else if (a->dtype == DTYPE_BYTES) {
        size_t n = read_texts(a, c->kept.base + a->off, pool->text[0]);

        n = MIN(n, read_texts(b, job->base + b->off, pool->text[1]));
        diff_texts(p, name, pool->text[0], pool->text[1], n);
    } else {
        size_t n = read_numbers(a, c->kept.base + a->off, pool->number[0]);

        n = MIN(n, read_numbers(b, job->base + b->off, pool->number[1]));
        diff_numbers(p, name, pool->number[0], pool->number[1], n, width_of(a), is_float(a));
    }
}

static void compare_scores(struct copy *c, struct diff_pair *p, const struct job_result *job)
{
    const struct tensor *a = output_of(&c->kept, (uint32_t)c->class_port), *b = output_of(job, (uint32_t)c->class_port);
    struct shadow_pool *pool = c->pool;
    size_t n;

    if (!a || !b || !is_float(a) || !same_shape(a, b) || c->predictor.port != c->class_port) {
        return;
    }
    n = read_numbers(a, c->kept.base + a->off, pool->number[0]);
    n = MIN(n, read_numbers(b, job->base + b->off, pool->number[1]));
    diff_scores(p, pool->number[0], pool->number[1], n, width_of(a));
}

/* Where a key is; if it is nowhere: an empty place, or that of the oldest of its neighbours. */
static struct known *known_at(struct shadow_pool *p, uint64_t key)
{
    struct known *oldest = NULL;

    for (unsigned i = 0; i < KNOWN_PROBES; i++) {
        struct known *k = &p->known[((key >> 1) + i) % KNOWN]; /* keys are odd */

        if (k->key == key || k->key == 0) {
            return k;
        }
        oldest = !oldest || k->seq < oldest->seq ? k : oldest;
    }
    return oldest;
}

/* One that is known for the labels to come: of a single row, as join_put has it. */
static void know(struct copy *c, uint64_t candidate)
{
    if (c->n_classes == 1 && c->class_hash != 0 && candidate != 0 && c->run == SHADOW_CANDIDATE) {
        *known_at(c->pool, c->key) = (struct known){.key = c->key,
                                                    .seq = ++c->pool->seq,
                                                    .shadow = shadow_id(c->shadow),
                                                    .stable = c->class_hash,
                                                    .candidate = candidate};
    }
}

static void compare_classes(struct copy *c, struct diff_pair *p, const struct job_result *job)
{
    const struct model_info *info = sched_info(c->sched);
    size_t rows = (size_t)MIN(predicted_rows(&c->predictor, job), (uint64_t)SHADOW_ROWS);
    struct str stable[SHADOW_ROWS], candidate[SHADOW_ROWS];
    char small[SHADOW_ROWS][64];
    uint64_t hash = 0; /* of the only one */
    struct str name = str_of((uint32_t)c->class_port < info->n_out ? info->out[c->class_port].name : "?");

    if (rows == 0) {
        diff_shapes(p, name, DIFF_CLASS, c->class[0], "none");
        return;
    }
    for (size_t i = 0; i < c->n_classes; i++) {
        stable[i] = str_of(c->class[i]);
    }
    for (size_t i = 0; i < rows; i++) {
        candidate[i] = predicted_class(&c->predictor, job, i, small[i]);
        hash = i > 0 ? 0 : hash_of(candidate[i]);
        candidate[i].n = MIN(candidate[i].n, sizeof(c->class[0]) - 1); /* as the stable's were kept */
    }
    diff_classes(p, name, stable, c->n_classes, candidate, rows);
    compare_scores(c, p, job);
    know(c, hash);
}

static enum shadow_result compare(struct copy *c, const struct job_result *job)
{
    struct diff_pair pair;

    diff_begin(&pair, shadow_diff(c->shadow, c->part, c->run), str_of(c->id));
    if (c->class_port >= 0) {
        compare_classes(c, &pair, job);
    }
    for (uint32_t i = 0; i < c->kept.n_out; i++) {
        if (c->kept.out[i].port != c->class_port) {
            compare_output(c, &pair, job, &c->kept.out[i]);
        }
    }
    return diff_end(&pair) ? SHADOW_AGREES : SHADOW_DIFFERS;
}

/* ---- a copy's way ---- */

/* The answer is not needed any more. */
static void memory_trim(struct copy *c)
{
    if (c->cap > KEEP_BYTES) {
        memory_free(c);
    }
}

static void copy_over(struct copy *c)
{
    struct shadow *s = c->shadow;

    c->shadow = NULL;
    memory_trim(c);
    shadow_unref(s, c->part);
}

static enum shadow_result failed(const struct infer_result *res)
{
    return res->moved                              ? SHADOW_GONE
           : res->job->err.code == ERR_TIMEOUT     ? SHADOW_LATE
           : res->job->err.code == ERR_UNAVAILABLE ? SHADOW_REFUSED
                                                   : SHADOW_ERROR;
}

static void on_done(struct infer *in, const struct infer_result *res)
{
    struct copy *c = CONTAINER_OF(in, struct copy, infer);
    enum shadow_result result;

    if (res->moved || res->job->err.code != ERR_OK) {
        result = failed(res);
    } else {
        result = compare(c, res->job);
        if (c->run == SHADOW_CANDIDATE) {
            shadow_times(c->shadow, c->part, c->compute_ns, res->compute_ns);
        }
    }
    shadow_count(c->shadow, c->part, c->run, result);
    sched_release(c->sched, CLASS_SHEDDABLE, c->admitted);
    copy_over(c);
}

static struct copy *copy_find(struct shadow_pool *p)
{
    for (unsigned i = 0; i < SHADOW_COPIES; i++) {
        if (!p->copy[i].shadow) {
            return &p->copy[i];
        }
    }
    return NULL;
}

/* Into the window of the scheduler that admitted it, and off. False: nothing of it is left there. */
static bool submit(struct copy *c, const struct shadow_offer *o)
{
    struct err e;

    c->infer.block = sched_take(c->sched, o->block_bytes);
    if (c->infer.block == WINDOW_NONE) {
        return false;
    }
    block_copy(c->sched, c->infer.block, o->sched, o->block, o->block_bytes);
    if (sched_submit(c->sched, &c->infer, &e) != ERR_OK) {
        sched_give(c->sched, c->infer.block);
        return false;
    }
    return true;
}

/* Why it is not on its way; SHADOW_RESULTS: it is. */
static enum shadow_result send_copy(const struct shadow_offer *o, const struct route *t, enum shadow_run run)
{
    const struct route_version *v = &t->versions[run == SHADOW_NOISE ? t->stable : t->shadowed];
    struct sched *to = v->slot < 0 ? NULL : o->plane->shard->sched[v->slot];
    struct admission_ask ask = {
        .bytes = o->block_bytes, .deadline_us = clock_us() + t->timeout_us, .class = CLASS_SHEDDABLE};
    struct copy *c;
    uint64_t wait_us;
    struct err e;

    if (!to) {
        return SHADOW_GONE;
    }
    if (to != o->sched &&
        !same_request(sched_info(o->sched), sched_info(to), (const void *)sched_at(o->sched, o->block))) {
        return SHADOW_UNFIT;
    }
    c = copy_find(pool_of(o->plane));
    if (!c || !keep_answer(c, o->job)) {
        return SHADOW_FULL;
    }
    if (sched_admit(to, &ask, &wait_us, &e) != ERR_OK) {
        memory_trim(c);
        return SHADOW_REFUSED;
    }
    c->run = run;
    c->part = o->plane->shard->index;
    c->sched = to;
    c->admitted = ask.bytes;
    c->compute_ns = o->compute_ns;
    c->predictor = (struct predictor){v->prediction, v->labels, v->n_labels};
    c->key = join_key(o->model, o->id);
    str_copy(c->id, sizeof(c->id), o->id);
    keep_classes(c, o->predictor);
    c->infer = (struct infer){.deadline_us = ask.deadline_us, .class = CLASS_SHEDDABLE, .done = on_done};
    if (!submit(c, o)) {
        sched_release(to, CLASS_SHEDDABLE, c->admitted);
        memory_trim(c);
        return SHADOW_REFUSED;
    }
    c->shadow = t->shadow;
    shadow_ref(c->shadow, c->part);
    return SHADOW_RESULTS;
}

static void send_counted(const struct shadow_offer *o, const struct route *t, enum shadow_run run)
{
    enum shadow_result dropped = send_copy(o, t, run);

    if (dropped != SHADOW_RESULTS) {
        shadow_count(t->shadow, o->plane->shard->index, run, dropped);
    }
}

void shadow_offer(const struct shadow_offer *o)
{
    const struct route *t = router_find(o->plane->router, o->model);

    if (!t || !t->shadow || t->stable < 0 || t->versions[t->stable].number != o->version ||
        !shadow_wants(t->shadow, o->id)) {
        return;
    }
    bool noise = shadow_begin(t->shadow, o->plane->shard->index);
    send_counted(o, t, SHADOW_CANDIDATE);
    if (noise) {
        send_counted(o, t, SHADOW_NOISE);
    }
}

/* ---- labels ---- */

void shadow_feedback(struct plane *p, struct str model, uint64_t key, uint64_t label, bool correct)
{
    const struct known *k = known_at(pool_of(p), key);
    const struct route *t = router_find(p->router, model);

    if (k->key != key || !t || !t->shadow || shadow_id(t->shadow) != k->shadow) {
        return;
    }
    if (label == 0 && (correct || k->stable == k->candidate)) {
        label = correct ? k->stable : ~k->stable; /* the complement is even: no class's */
    }
    if (label != 0) {
        diff_label(shadow_diff(t->shadow, p->shard->index, SHADOW_CANDIDATE), label == k->stable,
                   label == k->candidate);
    }
}
