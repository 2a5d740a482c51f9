/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors, described: the dtype table, shape arithmetic, and the flat form in which a model's inputs and outputs
 * travel.
 *
 * Everything here is arithmetic over bytes that somebody else wrote (a client, a model file, a worker process), so each
 * function answers for any input: products are checked, lengths are read once, and the decoder believes nothing.
 *
 * Thread: any; no state. */
#include "inference/tensor.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"

#define ELEMENTS_MAX (1ull << 48)

static const char *const names[DTYPE_COUNT_] = {
#define X(name, size) [DTYPE_##name] = #name,
    DTYPE_MAP(X)
#undef X
};

static const uint8_t sizes[DTYPE_COUNT_] = {
#define X(name, size) [DTYPE_##name] = (size),
    DTYPE_MAP(X)
#undef X
};

const char *dtype_name(enum dtype t)
{
    return (unsigned)t < DTYPE_COUNT_ && names[t] ? names[t] : "?";
}

enum dtype dtype_parse(struct str s)
{
    for (unsigned t = DTYPE_NONE + 1; t < DTYPE_COUNT_; t++) {
        if (str_is(s, names[t])) {
            return (enum dtype)t;
        }
    }
    return DTYPE_NONE;
}

uint32_t dtype_size(enum dtype t)
{
    return (unsigned)t < DTYPE_COUNT_ ? sizes[t] : 0;
}

/* ---- shapes ---- */

bool tensor_elements(const int64_t *dim, unsigned rank, uint64_t *n)
{
    uint64_t product = 1;
    bool empty = false;

    if (rank > TENSOR_RANK_MAX) {
        return false;
    }
    for (unsigned i = 0; i < rank; i++) {
        if (dim[i] < 0 || dim[i] > TENSOR_DIM_MAX) {
            return false;
        }
        /* A zero must not hide the size of the others: strides are made of them. */
        if (dim[i] == 0) {
            empty = true;
        } else if (!ck_mul(product, (uint64_t)dim[i], &product) || product > ELEMENTS_MAX) {
            return false;
        }
    }
    *n = empty ? 0 : product;
    return true;
}

bool tensor_fits(const struct tensor_info *info, const int64_t *dim, unsigned rank)
{
    if (info->rank != rank || rank > TENSOR_RANK_MAX) {
        return false;
    }
    for (unsigned i = 0; i < rank; i++) {
        if (dim[i] < 0 || (info->dim[i] >= 0 && info->dim[i] != dim[i])) {
            return false;
        }
    }
    return true;
}

void shape_text(char *out, size_t cap, const int64_t *dim, unsigned rank)
{
    size_t n = 0;

    for (unsigned i = 0; i <= rank && n < cap; i++) {
        int k = i < rank ? snprintf(out + n, cap - n, "%s%lld", i ? "," : "[", (long long)dim[i])
                         : snprintf(out + n, cap - n, "%s]", rank ? "" : "[");
        n += k > 0 ? (size_t)k : 0;
    }
}

/* A length that is read once: after the barrier the compiler has it in a register and can not look at the memory again.
 */
static inline uint32_t length_once(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    __asm__ volatile("" : "+r"(v));
    return v;
}

bool bytes_check(const uint8_t *p, uint64_t len, uint64_t n)
{
    for (; n > 0; n--) {
        if (len < 4) {
            return false;
        }
        uint32_t k = length_once(p);
        if (k > len - 4) {
            return false;
        }
        p += 4 + (uint64_t)k;
        len -= 4 + (uint64_t)k;
    }
    return len == 0;
}

uint64_t job_block_bytes(uint32_t n_in, uint32_t n_out)
{
    return sizeof(struct job_block) + (uint64_t)n_in * sizeof(struct tensor) + (uint64_t)n_out * sizeof(uint16_t);
}

/* ---- what a model takes and gives ---- */

void model_info_done(struct model_info *m)
{
    if (!m) {
        return;
    }
    free(m->in);
    free(m->out);
    memset(m, 0, sizeof *m);
}

static struct tensor_info *infos_copy(const struct tensor_info *from, uint32_t n)
{
    struct tensor_info *to = n ? xcalloc(n, sizeof *to) : NULL;

    for (uint32_t i = 0; i < n; i++) {
        to[i] = from[i];
    }
    return to;
}

void model_info_copy(struct model_info *to, const struct model_info *from)
{
    struct model_info m = *from;

    m.in = infos_copy(from->in, from->n_in);
    m.out = infos_copy(from->out, from->n_out);
    *to = m;
}

/* The flat form, little-endian and unpadded:
 *     u32 version  u32 n_in  u32 n_out  u32 batch_max  u32 many_rows  u32 threads
 *     u64 warm_ns  u64 memory  u64 many_ns  u64 device_total  u64 device_used  u8 joins  text platform  text runtime
 *     then n_in + n_out times:  text name  u8 dtype  u8 rank  i64 dim[rank]
 * where text is a u16 length and its bytes. */
#define FLAT_VERSION 2u

static void put_text(struct buf *b, const char *z)
{
    uint16_t n = (uint16_t)strlen(z);

    buf_add(b, &n, sizeof n);
    buf_add(b, z, n);
}

static void put_infos(struct buf *b, const struct tensor_info *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        put_text(b, t[i].name);
        buf_add(b, &t[i].dtype, 1);
        buf_add(b, &t[i].rank, 1);
        buf_add(b, t[i].dim, t[i].rank * sizeof t[i].dim[0]);
    }
}

void model_info_encode(struct buf *out, const struct model_info *m)
{
    uint32_t head[6] = {FLAT_VERSION, m->n_in, m->n_out, m->batch_max, m->many_rows, m->threads};
    uint64_t wide[5] = {m->warm_ns, m->memory, m->many_ns, m->device_total, m->device_used};
    uint8_t joins = m->joins;

    buf_add(out, head, sizeof head);
    buf_add(out, wide, sizeof wide);
    buf_add(out, &joins, 1);
    put_text(out, m->platform);
    put_text(out, m->runtime);
    put_infos(out, m->in, m->n_in);
    put_infos(out, m->out, m->n_out);
}

struct flat {
    const uint8_t *p;
    size_t n;
};

static bool get(struct flat *f, void *to, size_t n)
{
    if (n > f->n) {
        return false;
    }
    memcpy(to, f->p, n);
    f->p += n;
    f->n -= n;
    return true;
}

/* Text without a NUL inside, so that what is shown is what was sent. */
static bool get_text(struct flat *f, char *to, size_t cap)
{
    uint16_t n;

    if (!get(f, &n, sizeof n) || n >= cap || n > f->n || memchr(f->p, 0, n)) {
        return false;
    }
    to[n] = '\0';
    return get(f, to, n);
}

static bool get_infos(struct flat *f, struct tensor_info *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!get_text(f, t[i].name, sizeof t[i].name) || t[i].name[0] == '\0' || !get(f, &t[i].dtype, 1) ||
            !get(f, &t[i].rank, 1) || t[i].dtype == DTYPE_NONE || t[i].dtype >= DTYPE_COUNT_ ||
            t[i].rank > TENSOR_RANK_MAX || !get(f, t[i].dim, t[i].rank * sizeof t[i].dim[0])) {
            return false;
        }
        for (unsigned d = 0; d < t[i].rank; d++) {
            if (t[i].dim[d] < -1 || t[i].dim[d] > TENSOR_DIM_MAX) {
                return false;
            }
        }
    }
    return true;
}

enum err_code model_info_decode(struct model_info *out, const void *p, size_t n, struct err *e)
{
    struct model_info m = {0};
    struct flat f = {p, n};
    uint32_t head[6];
    uint64_t wide[5];
    uint8_t joins;

    if (!get(&f, head, sizeof head) || !get(&f, wide, sizeof wide) || !get(&f, &joins, 1) ||
        !get_text(&f, m.platform, sizeof m.platform) || !get_text(&f, m.runtime, sizeof m.runtime)) {
        return err_set(e, ERR_INTERNAL, "the description of a model is cut short (%zu bytes)", n);
    }
    if (head[0] != FLAT_VERSION || head[1] > TENSORS_MAX || head[2] > TENSORS_MAX || head[3] == 0 || joins > 1 ||
        (!joins && head[3] != 1) || head[4] == 1 || (head[4] == 0) != (wide[2] == 0) || wide[4] > wide[3]) {
        return err_set(e, ERR_INTERNAL, "the description of a model has a field out of range");
    }
    m.n_in = head[1];
    m.n_out = head[2];
    m.batch_max = head[3];
    m.warm_ns = wide[0];
    m.memory = wide[1];
    m.many_ns = wide[2];
    m.many_rows = head[4];
    m.threads = head[5];
    m.device_total = wide[3];
    m.device_used = wide[4];
    m.joins = joins;
    m.in = m.n_in ? xcalloc(m.n_in, sizeof *m.in) : NULL;
    m.out = m.n_out ? xcalloc(m.n_out, sizeof *m.out) : NULL;
    if (!get_infos(&f, m.in, m.n_in) || !get_infos(&f, m.out, m.n_out) || f.n != 0) {
        model_info_done(&m);
        return err_set(e, ERR_INTERNAL, "the description of a model's tensors is malformed");
    }
    *out = m;
    return ERR_OK;
}
