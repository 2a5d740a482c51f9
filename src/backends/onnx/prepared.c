/* SPDX-License-Identifier: Apache-2.0 */
/* Prepared runs: which models they suit, and the bindings that they are made of. */
#include "backends/onnx/prepared.h"

#include <stdlib.h>

#define MEMORY_MAX (128u << 10) /* beyond it, copying is no longer free */

/* Numbers, free in dimension 0 and in no other; *bytes: of a row. */
static bool suits(const struct tensor_info *t, uint64_t *bytes)
{
    uint64_t n;

    if (t->dtype == DTYPE_BYTES || t->rank == 0 || t->dim[0] >= 0 || !tensor_elements(&t->dim[1], t->rank - 1u, &n)) {
        return false;
    }
    *bytes = n * dtype_size((enum dtype)t->dtype);
    return *bytes > 0;
}

/* Lays n tensors out behind *at. */
static bool lay_out(const struct tensor_info *t, uint32_t n, uint64_t rows, uint64_t *row, uint64_t *off, uint64_t *at)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!suits(&t[i], &row[i]) || row[i] > MEMORY_MAX) {
            return false;
        }
        off[i] = *at;
        *at += ALIGN_UP(row[i] * rows, TENSOR_ALIGN);
        if (*at > MEMORY_MAX) {
            return false;
        }
    }
    return true;
}

void onnx_prepared_init(struct onnx_prepared *q, struct onnx_model *m, OrtSession *s)
{
    const struct model_info *info = &m->info;
    uint64_t rows = info->joins ? MIN(info->batch_max, (uint64_t)ONNX_PREPARED_ROWS) : 1, bytes = 0;
    bool good = info->n_in > 0;

    *q = (struct onnx_prepared){.model = m, .session = s};
    for (uint32_t i = 0; i < info->n_out; i++) {
        good = good && atomic_load_explicit(&m->known[i], memory_order_relaxed);
    }
    q->in_off = xcalloc(info->n_in + 1u, sizeof *q->in_off);
    q->in_row = xcalloc(info->n_in + 1u, sizeof *q->in_row);
    q->out_off = xcalloc(info->n_out, sizeof *q->out_off);
    q->out_row = xcalloc(info->n_out, sizeof *q->out_row);
    good = good && lay_out(info->in, info->n_in, rows, q->in_row, q->in_off, &bytes) &&
           lay_out(info->out, info->n_out, rows, q->out_row, q->out_off, &bytes);
    q->memory = good ? aligned_alloc(TENSOR_ALIGN, bytes) : NULL;
    q->rows_max = q->memory ? rows : 0;
}

void onnx_prepared_done(struct onnx_prepared *q)
{
    for (unsigned i = 0; i <= ONNX_PREPARED_ROWS; i++) {
        if (q->run[i]) {
            q->model->rt->api->ReleaseIoBinding(q->run[i]);
        }
    }
    free(q->memory);
    free(q->in_off);
    free(q->in_row);
    free(q->out_off);
    free(q->out_row);
    memset(q, 0, sizeof *q);
}

bool onnx_prepared_fits(const struct onnx_prepared *q, const struct job_block *b)
{
    const struct model_info *info = &q->model->info;

    if (b->n_in != info->n_in || b->rows == 0) {
        return false;
    }
    for (uint32_t i = 0; i < b->n_in; i++) {
        const struct tensor *t = &b->in[i];
        const struct tensor_info *want = &info->in[t->port];
        if (t->dtype != want->dtype || !tensor_fits(want, t->dim, t->rank)) {
            return false;
        }
    }
    return true;
}

/* One tensor of a binding. The binding keeps the value; the memory is ours. */
static OrtStatus *bind(const struct onnx_prepared *q, OrtIoBinding *to, const struct tensor_info *t, bool input,
                       uint64_t rows, uint64_t off, uint64_t row)
{
    const OrtApi *a = q->model->rt->api;
    int64_t dim[TENSOR_RANK_MAX];
    OrtValue *v = NULL;
    OrtStatus *s;

    memcpy(dim, t->dim, sizeof dim);
    dim[0] = (int64_t)rows;
    s = onnx_wrap(q->model->rt, (enum dtype)t->dtype, dim, t->rank, q->memory + off, row * rows, &v);
    s = s ? s : input ? a->BindInput(to, t->name, v) : a->BindOutput(to, t->name, v);
    a->ReleaseValue(v);
    return s;
}

static OrtStatus *prepare(struct onnx_prepared *q, uint64_t rows)
{
    const struct model_info *info = &q->model->info;
    const OrtApi *a = q->model->rt->api;
    OrtIoBinding *made = NULL;
    OrtStatus *s = a->CreateIoBinding(q->session, &made);

    for (uint32_t i = 0; i < info->n_in && !s; i++) {
        s = bind(q, made, &info->in[i], true, rows, q->in_off[i], q->in_row[i]);
    }
    for (uint32_t i = 0; i < info->n_out && !s; i++) {
        s = bind(q, made, &info->out[i], false, rows, q->out_off[i], q->out_row[i]);
    }
    if (!s) {
        q->run[rows] = made;
    } else if (made) {
        a->ReleaseIoBinding(made);
    }
    return s;
}

bool onnx_prepared_run(struct onnx_prepared *q, const OrtRunOptions *options, uint64_t rows)
{
    const OrtApi *a = q->model->rt->api;
    OrtStatus *s;

    assert(rows > 0 && rows <= q->rows_max);
    s = q->run[rows] ? NULL : prepare(q, rows);
    s = s ? s : a->RunWithBinding(q->session, options, q->run[rows]);
    if (s) {
        a->ReleaseStatus(s);
        return false;
    }
    return true;
}

void onnx_prepared_outputs(const struct onnx_prepared *q, uint64_t rows, struct tensor *out)
{
    const struct model_info *info = &q->model->info;

    for (uint32_t i = 0; i < info->n_out; i++) {
        const struct tensor_info *o = &info->out[i];
        out[i].port = (uint16_t)i;
        out[i].dtype = o->dtype;
        out[i].rank = o->rank;
        memcpy(out[i].dim, o->dim, sizeof out[i].dim);
        out[i].dim[0] = (int64_t)rows;
        out[i].off = q->out_off[i];
        out[i].len = q->out_row[i] * rows;
    }
}
