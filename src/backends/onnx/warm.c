/* SPDX-License-Identifier: Apache-2.0 */
/* The warm-up on made-up input: values in [0,1), integers 0 and 1, short strings; a seed and the number of the row
 * decide them, so that a row is the same bytes alone and among others. */
#include "backends/onnx/warm.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

#define ROWS 4       /* run alone and together, to see whether they mix */
#define SEEDS 3      /* how often */
#define TIMED_ROWS 8 /* joined to see whether it pays */
#define INPUT_MAX (256ull << 20)
#define BUDGET_NS 1500000000ull /* for the look at joining; a slower model has nothing to gain from it */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* ---- made-up input ---- */

static void put_number(uint8_t *to, enum dtype t, uint64_t h, uint64_t row)
{
    float f = (float)(h >> 40) / 16777216.0f;
    double d = f;
    /* Rows next to each other differ, however few elements they have. */
    uint64_t bit = (h ^ row) & 1;
    /* 2^-7 … 1 in half precision: exponents 8 … 14, any mantissa. */
    uint16_t half = (uint16_t)((8 + (h >> 32) % 7) << 10 | (h & 0x3ff));
    uint32_t bits;

    switch (t) {
    case DTYPE_FP32:
        memcpy(to, &f, sizeof f);
        return;
    case DTYPE_FP64:
        memcpy(to, &d, sizeof d);
        return;
    case DTYPE_FP16:
        memcpy(to, &half, sizeof half);
        return;
    case DTYPE_BF16:
        memcpy(&bits, &f, sizeof bits);
        half = (uint16_t)(bits >> 16);
        memcpy(to, &half, sizeof half);
        return;
    default:
        memcpy(to, &bit, dtype_size(t)); /* little-endian */
        return;
    }
}

/* n elements of one row; returns the byte behind them. Strings have at most 12 bytes with their length. */
static uint8_t *put_row(uint8_t *to, enum dtype t, uint64_t n, uint64_t seed, uint64_t row)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t h = mix(seed * 1000003 + row * 7919 + i * 31);
        if (t != DTYPE_BYTES) {
            put_number(to, t, h, row);
            to += dtype_size(t);
            continue;
        }
        uint32_t k = 1 + (uint32_t)(h % 8);
        memcpy(to, &k, sizeof k);
        to += sizeof k;
        for (uint32_t c = 0; c < k; c++, h >>= 4) {
            *to++ = (uint8_t)('a' + (h + row) % 26);
        }
    }
    return to;
}

/* One input for rows first … first+rows; an input without a free dimension 0 is the same for any rows. */
static enum err_code put_input(struct onnx_warm *w, struct onnx_frame *f, uint32_t i, uint64_t first, uint64_t rows,
                               uint64_t seed, struct err *e)
{
    const struct onnx_runtime *rt = f->model->rt;
    const struct tensor_info *t = &f->model->info.in[i];
    bool free_rows = t->rank > 0 && t->dim[0] < 0;
    int64_t dim[TENSOR_RANK_MAX];
    uint64_t n, row_n, size = t->dtype == DTYPE_BYTES ? 12 : dtype_size((enum dtype)t->dtype);
    OrtValue **slot;
    OrtStatus *s;

    for (unsigned d = 0; d < t->rank; d++) {
        dim[d] = t->dim[d] >= 0 ? t->dim[d] : d == 0 ? (int64_t)rows : (int64_t)w->free_dim;
    }
    if (!tensor_elements(dim, t->rank, &n) || n * size > INPUT_MAX) {
        return err_set(e, ERR_INVALID, "input '%s' is too large to be made up", t->name);
    }
    uint8_t *p = onnx_scratch_room(&w->data[i], n * size + 1), *end = p;
    if (!p) {
        return err_set(e, ERR_UNAVAILABLE, "no memory for made-up input");
    }
    row_n = free_rows ? n / rows : n;
    for (uint64_t r = 0; r < (free_rows ? rows : 1); r++) {
        end = put_row(end, (enum dtype)t->dtype, row_n, seed + i * 101, free_rows ? first + r : 0);
    }
    slot = onnx_frame_in(f, i);
    if (t->dtype == DTYPE_BYTES) {
        s = onnx_strings_new(rt, dim, t->rank, slot);
        return s ? onnx_status(rt, s, ERR_INVALID, e, "made-up input")
                 : onnx_strings_fill(rt, *slot, 0, n, p, (uint64_t)(end - p), e);
    }
    s = onnx_wrap(rt, (enum dtype)t->dtype, dim, t->rank, p, (uint64_t)(end - p), slot);
    return onnx_status(rt, s, ERR_INVALID, e, "made-up input");
}

/* One run of all outputs; the frame keeps them until it is cleared. *ns: how long the run took. */
static enum err_code run(struct onnx_warm *w, struct onnx_frame *f, uint64_t first, uint64_t rows, uint64_t seed,
                         uint64_t *ns, struct err *e, bool *hopeless)
{
    enum err_code code = ERR_OK;
    OrtStatus *s;
    uint64_t start;

    onnx_frame_clear(f);
    if (atomic_load(w->stop)) {
        return err_set(e, ERR_CANCELLED, "closed while it was loading");
    }
    for (uint32_t i = 0; i < f->model->info.n_in && code == ERR_OK; i++) {
        code = put_input(w, f, i, first, rows, seed, e);
    }
    for (uint32_t i = 0; i < f->model->info.n_out; i++) {
        onnx_frame_out(f, i);
    }
    if (code != ERR_OK) {
        return code;
    }
    start = clock_ns();
    s = onnx_frame_run(f);
    *ns = clock_ns() - start;
    code = s ? onnx_run_status(f->model->rt, s, e, hopeless) : ERR_OK;
    /* close() ends the run, which then looks like a failure. */
    return code != ERR_OK && atomic_load(w->stop) ? ERR_CANCELLED : code;
}

/* The least of some runs: at least `least` of them, more while they are quick. 0: one failed. */
static uint64_t best_of(struct onnx_warm *w, struct onnx_frame *f, uint64_t rows, unsigned least)
{
    uint64_t best = UINT64_MAX, sum = 0, ns;

    for (unsigned i = 0; i < 200 && (i < least || sum < 20000000) && sum < 500000000; i++) {
        if (run(w, f, 0, rows, 1, &ns, NULL, NULL) != ERR_OK) {
            return 0;
        }
        best = MIN(best, ns);
        sum += ns;
    }
    return MAX(best, 1u);
}

/* ---- do rows mix? ---- */

/* What a run gave, kept beyond it. */
struct shot {
    struct tensor *t;
    uint8_t **p;
    uint32_t n;
};

static void shot_done(struct shot *s)
{
    for (uint32_t i = 0; i < s->n && s->p; i++) {
        free(s->p[i]);
    }
    free(s->p);
    free(s->t);
    *s = (struct shot){0};
}

static bool shot_take(struct shot *s, struct onnx_frame *f)
{
    const struct onnx_runtime *rt = f->model->rt;

    *s = (struct shot){.n = f->n_out};
    s->t = xcalloc(f->n_out, sizeof *s->t);
    s->p = xcalloc(f->n_out, sizeof *s->p);
    for (uint32_t i = 0; i < f->n_out; i++) {
        struct tensor *t = &s->t[i];
        if (onnx_describe(rt, f->out[i], t, NULL) != ERR_OK || t->len > INPUT_MAX || !(s->p[i] = malloc(t->len + 1))) {
            return false;
        }
        if (t->dtype != DTYPE_BYTES) {
            if (t->len) {
                memcpy(s->p[i], onnx_data(rt, f->out[i]), t->len);
            }
        } else {
            uint64_t n = 0;
            tensor_elements(t->dim, t->rank, &n);
            if (!onnx_strings_copy(rt, f->out[i], 0, n, s->p[i])) {
                return false;
            }
        }
    }
    return true;
}

static double half_value(uint16_t h)
{
    int exp = h >> 10 & 31, man = h & 0x3ff;
    double v = exp == 31 ? (man ? NAN : INFINITY) : exp ? ldexp(1024 + man, exp - 25) : ldexp(man, -24);

    return h & 0x8000 ? -v : v;
}

static double number(const uint8_t *p, enum dtype t)
{
    float f;
    double d;
    uint16_t h;

    switch (t) {
    case DTYPE_FP32:
        memcpy(&f, p, sizeof f);
        return (double)f;
    case DTYPE_FP64:
        memcpy(&d, p, sizeof d);
        return d;
    case DTYPE_FP16:
        memcpy(&h, p, sizeof h);
        return half_value(h);
    default: { /* BF16 */
        uint32_t bits;
        memcpy(&h, p, sizeof h);
        bits = (uint32_t)h << 16;
        memcpy(&f, &bits, sizeof f);
        return (double)f;
    }
    }
}

/* Equal for everything that is exact; for the others as near as another order of summation may bring them. */
static bool same_values(const uint8_t *a, const uint8_t *b, uint64_t len, enum dtype t)
{
    double near = t == DTYPE_FP16 ? 4e-3 : t == DTYPE_BF16 ? 3e-2 : 1e-4;

    if (t != DTYPE_FP32 && t != DTYPE_FP64 && t != DTYPE_FP16 && t != DTYPE_BF16) {
        return memcmp(a, b, len) == 0;
    }
    for (uint64_t i = 0; i < len; i += dtype_size(t)) {
        double x = number(a + i, t), y = number(b + i, t);
        if (isnan(x) || isnan(y) ? isnan(x) != isnan(y)
                                 : x != y && !(fabs(x - y) <= near * (fabs(x) + fabs(y) + 0.1))) {
            return false;
        }
    }
    return true;
}

/* The bytes of row r of a tensor; of strings they are found by walking. */
static const uint8_t *row_of(const struct tensor *t, const uint8_t *p, uint64_t r, uint64_t *len)
{
    uint64_t rows = (uint64_t)t->dim[0], n = 0;
    const uint8_t *start = p;

    if (t->dtype != DTYPE_BYTES) {
        *len = t->len / rows;
        return p + r * *len;
    }
    tensor_elements(t->dim, t->rank, &n);
    for (uint64_t i = 0; i < (r + 1) * (n / rows); i++) {
        uint32_t k;
        start = i == r * (n / rows) ? p : start;
        memcpy(&k, p, sizeof k);
        p += sizeof k + k;
    }
    *len = (uint64_t)(p - start);
    return start;
}

static bool row_is(const struct shot *all, uint64_t r, const struct shot *one)
{
    for (uint32_t i = 0; i < all->n; i++) {
        const struct tensor *a = &all->t[i], *b = &one->t[i];
        const uint8_t *p;
        uint64_t len;
        if (a->rank == 0 || a->rank != b->rank || a->dtype != b->dtype || a->dim[0] != ROWS || b->dim[0] != 1 ||
            memcmp(&a->dim[1], &b->dim[1], (a->rank - 1u) * sizeof a->dim[0]) != 0) {
            return false;
        }
        p = row_of(a, all->p[i], r, &len);
        if (len != b->len || !same_values(p, one->p[i], len, (enum dtype)a->dtype)) {
            return false;
        }
    }
    return true;
}

static bool rows_alone_as_together(struct onnx_warm *w, struct onnx_frame *f, uint64_t seed)
{
    struct shot all = {0};
    uint64_t ns;
    bool same = run(w, f, 0, ROWS, seed, &ns, NULL, NULL) == ERR_OK && shot_take(&all, f);

    for (uint64_t r = 0; r < ROWS && same; r++) {
        struct shot one = {0};
        same = run(w, f, r, 1, seed, &ns, NULL, NULL) == ERR_OK && shot_take(&one, f) && row_is(&all, r, &one);
        shot_done(&one);
    }
    shot_done(&all);
    return same;
}

/* ---- what is learned ---- */

static bool free_rows(const struct tensor_info *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (t[i].rank == 0 || t[i].dim[0] >= 0) {
            return false;
        }
    }
    return n > 0;
}

static bool free_behind(const struct tensor_info *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        for (unsigned d = 1; d < t[i].rank; d++) {
            if (t[i].dim[d] < 0) {
                return true;
            }
        }
    }
    return false;
}

/* Compares what the frame has with what was announced. An output without any announced shape reads as rank 0; its rank
 * is taken from here. */
static void look_at_shapes(struct onnx_frame *f, uint64_t rows)
{
    struct onnx_model *m = f->model;

    for (uint32_t i = 0; i < m->info.n_out; i++) {
        struct tensor_info *o = &m->info.out[i];
        struct tensor t;
        bool as_said = onnx_describe(m->rt, f->out[i], &t, NULL) == ERR_OK && t.dtype == o->dtype;
        if (as_said && o->rank == 0 && t.rank > 0) {
            o->rank = t.rank;
            for (unsigned d = 0; d < t.rank; d++) {
                o->dim[d] = -1;
            }
            m->known[i] = false;
        }
        as_said =
            as_said && tensor_fits(o, t.dim, t.rank) && (t.rank == 0 || o->dim[0] >= 0 || t.dim[0] == (int64_t)rows);
        m->known[i] = m->known[i] && as_said;
    }
}

/* The first made-up input that the model takes, or none. */
static enum err_code first_run(struct onnx_warm *w, struct onnx_frame *f, struct err *e)
{
    static const uint16_t tries[] = {1, 8, 32, 64, 224};
    size_t n = free_behind(f->model->info.in, f->model->info.n_in) ? COUNT_OF(tries) : 1;
    struct err why = {0};

    for (size_t i = 0; i < n && !w->works; i++) {
        bool hopeless = false;
        uint64_t ns;
        enum err_code code;
        w->free_dim = tries[i];
        code = run(w, f, 0, 1, 1, &ns, &why, &hopeless);
        if (code == ERR_CANCELLED || hopeless) {
            return err_set(e, code == ERR_CANCELLED ? code : ERR_REFUSED, "%s", why.text);
        }
        w->works = code == ERR_OK;
    }
    if (!w->works) {
        log_info("onnx", "no warm-up, the model does not take made-up input model=%s why=\"%s\"", w->name, why.text);
    }
    return ERR_OK;
}

/* Whether a row costs a tenth less or better among `rows` than alone. In turn, and the least of each, as in
 * onnx_warm_compare. */
static bool pays(struct onnx_warm *w, struct onnx_frame *f, uint64_t rows)
{
    struct model_info *info = &f->model->info;
    uint64_t one = info->warm_ns, all = UINT64_MAX, sum = 0, ns;

    for (unsigned i = 0; i < 100 && (i < 5 || sum < 40000000); i++) {
        if (run(w, f, 0, 1, 1, &ns, NULL, NULL) != ERR_OK) {
            return false;
        }
        one = MIN(one, ns);
        sum += ns;
        if (run(w, f, 0, rows, 1, &ns, NULL, NULL) != ERR_OK) {
            return false;
        }
        all = MIN(all, ns);
        sum += ns;
    }
    info->many_rows = (uint32_t)rows;
    info->many_ns = MAX(all, 1u);
    return all * 10 <= one * rows * 9;
}

static void look_at_joining(struct onnx_warm *w, struct onnx_frame *f)
{
    struct model_info *info = &f->model->info;
    uint64_t rows = MIN(w->batch_max, (uint64_t)TIMED_ROWS);

    if (rows < 2 || !free_rows(info->in, info->n_in) || !free_rows(info->out, info->n_out) ||
        info->warm_ns * (SEEDS * 2 * ROWS) > BUDGET_NS) {
        return;
    }
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        if (!rows_alone_as_together(w, f, seed)) {
            return;
        }
    }
    if (pays(w, f, rows)) {
        info->joins = true;
        info->batch_max = (uint32_t)MIN(w->batch_max, (uint64_t)UINT32_MAX);
    }
}

/* The runs of several rows have left their memory in the runtime's arena, where it would stay: one run gives it back.
 */
static void shrink(struct onnx_warm *w, struct onnx_frame *f)
{
    const OrtApi *a = f->model->rt->api;
    OrtStatus *s = a->AddRunConfigEntry(f->options, "memory.enable_memory_arena_shrinkage", "cpu:0");
    uint64_t ns;

    if (s || run(w, f, 0, 1, 1, &ns, NULL, NULL) != ERR_OK) {
        log_debug("onnx", "the memory of the warm-up was not given back model=%s", w->name);
    }
    a->ReleaseStatus(s);
}

enum err_code onnx_warm_learn(struct onnx_warm *w, struct onnx_frame *f, struct err *e)
{
    struct onnx_model *m = f->model;
    enum err_code code;
    uint64_t ns;

    w->data = xcalloc(m->info.n_in + 1u, sizeof *w->data);
    code = first_run(w, f, e);
    if (code == ERR_OK && w->works) {
        look_at_shapes(f, 1);
        m->info.warm_ns = best_of(w, f, 1, 5);
        if (run(w, f, 0, ROWS, 1, &ns, NULL, NULL) == ERR_OK) {
            look_at_shapes(f, ROWS);
        }
    }
    for (uint32_t i = 0; i < m->info.n_out && !w->works; i++) {
        m->known[i] = false;
    }
    onnx_frame_clear(f);
    if (code == ERR_OK && atomic_load(w->stop)) {
        code = err_set(e, ERR_CANCELLED, "closed while it was loading");
    }
    return code;
}

bool onnx_warm_compare(struct onnx_warm *w, struct onnx_frame *f, OrtSession *other, uint64_t *its_ns,
                       uint64_t *other_ns)
{
    OrtSession *both[2] = {f->session, other};
    uint64_t best[2] = {UINT64_MAX, UINT64_MAX}, sum = 0, ns;
    bool ok = w->works;

    for (unsigned i = 0; ok && i < 100 && (i < 6 || sum < 200000000); i++) {
        onnx_frame_clear(f);
        f->session = both[i % 2];
        ok = run(w, f, 0, 1, 1, &ns, NULL, NULL) == ERR_OK;
        if (ok) {
            best[i % 2] = MIN(best[i % 2], ns);
            sum += ns;
        }
    }
    onnx_frame_clear(f);
    f->session = both[0];
    *its_ns = best[0];
    *other_ns = best[1];
    return ok;
}

enum err_code onnx_warm_join(struct onnx_warm *w, struct onnx_frame *f, struct err *e)
{
    if (w->works) {
        look_at_joining(w, f);
        if (w->arena) {
            shrink(w, f);
        }
    }
    onnx_frame_clear(f);
    return atomic_load(w->stop) ? err_set(e, ERR_CANCELLED, "closed while it was loading") : ERR_OK;
}

void onnx_warm_repeat(struct onnx_warm *w, struct onnx_frame *f)
{
    uint64_t ns;

    for (unsigned i = 0; i < 3 && w->works; i++) {
        if (run(w, f, 0, 1, 1, &ns, NULL, NULL) != ERR_OK) {
            break;
        }
    }
    onnx_frame_clear(f);
}

void onnx_warm_done(struct onnx_warm *w, const struct onnx_model *m)
{
    for (uint32_t i = 0; i < m->info.n_in && w->data; i++) {
        free(w->data[i].p);
    }
    free(w->data);
    w->data = NULL;
}
