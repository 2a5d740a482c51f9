/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions and frames: how the runtime is set for serving, what it says of a model, and one call of Run.
 *
 * The settings: one thread a run unless asked for more, no spinning (the machine is shared with the threads that
 * serve), all graph optimisations. Small models do without the arena: measured, its lock costs more than malloc does.
 * Values are made anew for each run: that costs 0.1 us each, and input memory is another with every request. */
#include "backends/onnx/session.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define GPU_ALONE 1u /* a node that the GPU does not take ends the making of the session */
#define GPU_TOLD 2u  /* the runtime says where it puts the nodes; too slow to serve with */

static enum err_code session_make(OrtSession **out, const struct onnx_runtime *rt, const struct onnx_source *from,
                                  unsigned how, struct err *e)
{
    const OrtApi *a = rt->api;
    OrtSessionOptions *o = NULL;
    OrtSession *session = NULL;
    char device[32];
    OrtStatus *s = a->CreateSessionOptions(&o);

    s = s ? s : a->SetIntraOpNumThreads(o, (int)from->threads);
    s = s ? s : a->SetInterOpNumThreads(o, 1);
    s = s ? s : a->SetSessionExecutionMode(o, ORT_SEQUENTIAL);
    s = s ? s : a->SetSessionGraphOptimizationLevel(o, ORT_ENABLE_ALL);
    s = s ? s : a->SetSessionLogSeverityLevel(o, how & GPU_TOLD ? ORT_LOGGING_LEVEL_VERBOSE : ORT_LOGGING_LEVEL_FATAL);
    s = s ? s : a->AddSessionConfigEntry(o, "session.intra_op.allow_spinning", "0");
    s = s ? s : a->AddSessionConfigEntry(o, "session.inter_op.allow_spinning", "0");
    /* The runtime also knows a format of its own, by a mark inside the file; that one nobody has walked. */
    s = s ? s : a->AddSessionConfigEntry(o, "session.load_model_format", "ONNX");
    if (!s && from->small) {
        s = a->DisableCpuMemArena(o);
    }
    if (!s && from->folder) {
        s = a->AddSessionConfigEntry(o, "session.model_external_initializers_file_folder_path", from->folder);
    }
    snprintf(device, sizeof device, "device cuda:%u", from->device.number);
    if (!s && from->device.cuda && (s = onnx_device_append(rt, o, &from->device, from->device_memory))) {
        a->ReleaseSessionOptions(o);
        return onnx_status(rt, s, ERR_UNAVAILABLE, e, device);
    }
    if (!s && how & GPU_ALONE) {
        s = a->AddSessionConfigEntry(o, "session.disable_cpu_ep_fallback", "1");
    }
    s = s ? s : a->CreateSessionFromArray(rt->env, from->p, from->n, o, &session);
    if (o) {
        a->ReleaseSessionOptions(o);
    }
    if (s && from->device.cuda && onnx_cuda_failure(a->GetErrorMessage(s))) { /* full, or lost: no fault of the model */
        return onnx_status(rt, s, ERR_UNAVAILABLE, e, device);
    }
    if (s) {
        return onnx_status(rt, s, ERR_REFUSED, e, "ONNX Runtime refuses the model");
    }
    *out = session;
    return ERR_OK;
}

static void placed_line(void *ctx, const char *message)
{
    onnx_placed_read(ctx, message);
}

/* The session is made once more to hear where its nodes go. */
static enum err_code look_at_places(struct onnx_placed *p, const struct onnx_runtime *rt,
                                    const struct onnx_source *from, struct err *e)
{
    OrtSession *told = NULL;
    enum err_code code;

    onnx_runtime_listen(placed_line, p);
    code = session_make(&told, rt, from, GPU_TOLD, e);
    onnx_runtime_listen(NULL, NULL);
    onnx_session_free(rt, told);
    return code;
}

static enum err_code session_make_gpu(OrtSession **out, const struct onnx_runtime *rt, const struct onnx_source *from,
                                      struct err *e)
{
    struct onnx_placed placed = {0};
    enum err_code code = onnx_device_check(rt, &from->device, e);

    if (code == ERR_OK) {
        code = session_make(out, rt, from, GPU_ALONE, e);
    }
    if (code != ERR_REFUSED || !strstr(e->text, "fallback to CPU EP has been explicitly disabled")) {
        return code;
    }
    code = look_at_places(&placed, rt, from, e);
    if (code != ERR_OK) {
        return code;
    }
    if (!placed.seen || placed.cuda == 0) {
        return err_set(e, ERR_REFUSED, "device cuda:%u: %s", from->device.number,
                       placed.seen ? "no node of the model can run on it; use device: cpu"
                                   : "some nodes of the model can not run on it, and how many can not be seen");
    }
    log_warn("onnx", "the runtime keeps part of the model on the processor gpu_nodes=%u cpu_nodes=%u", placed.cuda,
             placed.other);
    return session_make(out, rt, from, 0, e);
}

enum err_code onnx_session_new(OrtSession **out, const struct onnx_runtime *rt, const struct onnx_source *from,
                               struct err *e)
{
    return from->device.cuda ? session_make_gpu(out, rt, from, e) : session_make(out, rt, from, 0, e);
}

void onnx_session_free(const struct onnx_runtime *rt, OrtSession *s)
{
    if (s) {
        rt->api->ReleaseSession(s);
    }
}

/* ---- what the model takes and gives ---- */

static const char *kind_name(enum ONNXType t)
{
    switch (t) {
    case ONNX_TYPE_SEQUENCE:
        return "a sequence";
    case ONNX_TYPE_MAP:
        return "a map";
    case ONNX_TYPE_OPTIONAL:
        return "optional";
    case ONNX_TYPE_SPARSETENSOR:
        return "a sparse tensor";
    default:
        return "no tensor";
    }
}

/* The symbol of a free dimension 0 ("batch"); empty if it has none. */
struct rows_name {
    char z[64];
};

static OrtStatus *read_rows_name(const struct onnx_runtime *rt, const OrtTensorTypeAndShapeInfo *shape, size_t rank,
                                 struct rows_name *name)
{
    const char *symbol[TENSOR_RANK_MAX] = {NULL};
    OrtStatus *s = rank ? rt->api->GetSymbolicDimensions(shape, symbol, rank) : NULL;

    if (!s && symbol[0]) {
        str_copy(name->z, sizeof name->z, str_of(symbol[0]));
    }
    return s;
}

static enum err_code read_type(const struct onnx_runtime *rt, const OrtTypeInfo *type, const char *which,
                               struct tensor_info *t, struct rows_name *rows, struct err *e)
{
    const OrtApi *a = rt->api;
    const OrtTensorTypeAndShapeInfo *shape = NULL;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    enum ONNXType kind = ONNX_TYPE_UNKNOWN;
    size_t rank = 0;
    OrtStatus *s = a->GetOnnxTypeFromTypeInfo(type, &kind);

    if (!s && kind != ONNX_TYPE_TENSOR) {
        return err_set(e, ERR_REFUSED,
                       "%s '%s' is %s, which can not be served: export tensors only (scikit-learn: zipmap off)", which,
                       t->name, kind_name(kind));
    }
    s = s ? s : a->CastTypeInfoToTensorInfo(type, &shape);
    s = s ? s : a->GetTensorElementType(shape, &element);
    s = s ? s : a->GetDimensionsCount(shape, &rank);
    if (!s && rank > TENSOR_RANK_MAX) {
        return err_set(e, ERR_REFUSED, "%s '%s' has %zu dimensions; at most %d can be served", which, t->name, rank,
                       TENSOR_RANK_MAX);
    }
    s = s ? s : a->GetDimensions(shape, t->dim, rank);
    s = s ? s : read_rows_name(rt, shape, rank, rows);
    if (s) {
        return onnx_status(rt, s, ERR_REFUSED, e, "the model's types can not be read");
    }
    t->rank = (uint8_t)rank;
    t->dtype = (uint8_t)onnx_dtype(element);
    if (t->dtype == DTYPE_NONE) {
        return err_set(e, ERR_REFUSED, "%s '%s' has a dtype that can not be served (ONNX element type %d)", which,
                       t->name, (int)element);
    }
    for (size_t i = 0; i < rank; i++) {
        t->dim[i] = t->dim[i] < 0 ? -1 : t->dim[i];
        if (t->dim[i] > TENSOR_DIM_MAX) {
            return err_set(e, ERR_REFUSED, "%s '%s' has a dimension of %lld", which, t->name, (long long)t->dim[i]);
        }
    }
    return ERR_OK;
}

static enum err_code read_tensor(const struct onnx_runtime *rt, OrtSession *session, bool input, size_t i,
                                 struct tensor_info *t, struct rows_name *rows, struct err *e)
{
    const OrtApi *a = rt->api;
    OrtTypeInfo *type = NULL;
    char *name = NULL;
    enum err_code code;
    OrtStatus *s = input ? a->SessionGetInputName(session, i, rt->allocator, &name)
                         : a->SessionGetOutputName(session, i, rt->allocator, &name);

    s = s ? s : input ? a->SessionGetInputTypeInfo(session, i, &type) : a->SessionGetOutputTypeInfo(session, i, &type);
    if (s) {
        code = onnx_status(rt, s, ERR_REFUSED, e, "the model's inputs and outputs can not be read");
    } else if (name[0] == '\0' || !str_copy(t->name, sizeof t->name, str_of(name))) {
        code = err_set(e, ERR_REFUSED, "the name of %s %zu is empty or longer than %d bytes",
                       input ? "input" : "output", i, TENSOR_NAME_MAX);
    } else {
        code = read_type(rt, type, input ? "input" : "output", t, rows, e);
    }
    if (type) {
        a->ReleaseTypeInfo(type);
    }
    if (name) {
        a->ReleaseStatus(a->AllocatorFree(rt->allocator, name));
    }
    return code;
}

/* Whether the description alone says which shape an output will have, given the rows of the request. */
static bool foreseen(const struct tensor_info *out, const struct rows_name *name, const struct rows_name *in, size_t n)
{
    bool rows = out->rank == 0 || out->dim[0] >= 0;

    if (out->dtype == DTYPE_BYTES) {
        return false;
    }
    for (unsigned d = 1; d < out->rank; d++) {
        if (out->dim[d] < 0) {
            return false;
        }
    }
    for (size_t i = 0; i < n && !rows; i++) {
        rows = name->z[0] && strcmp(name->z, in[i].z) == 0;
    }
    return rows;
}

enum err_code onnx_model_describe(struct onnx_model *m, OrtSession *session, struct err *e)
{
    const struct onnx_runtime *rt = m->rt;
    struct model_info *info = &m->info;
    size_t n_in = 0, n_out = 0;
    enum err_code code = ERR_OK;
    struct rows_name *rows;
    OrtStatus *s = rt->api->SessionGetInputCount(session, &n_in);

    s = s ? s : rt->api->SessionGetOutputCount(session, &n_out);
    if (s) {
        return onnx_status(rt, s, ERR_REFUSED, e, "the model's inputs and outputs can not be read");
    }
    if (n_in > TENSORS_MAX || n_out > TENSORS_MAX || n_out == 0) {
        return err_set(e, ERR_REFUSED,
                       "the model has %zu inputs and %zu outputs; served are up to %d, and at least one "
                       "output",
                       n_in, n_out, TENSORS_MAX);
    }
    info->n_in = (uint32_t)n_in;
    info->n_out = (uint32_t)n_out;
    info->batch_max = 1;
    info->in = xcalloc(n_in + 1, sizeof *info->in);
    info->out = xcalloc(n_out, sizeof *info->out);
    m->known = xcalloc(n_out, sizeof *m->known);
    snprintf(info->platform, sizeof info->platform, "onnxruntime_onnx");
    snprintf(info->runtime, sizeof info->runtime, "ONNX Runtime %s", rt->version);
    rows = xcalloc(n_in + 1, sizeof *rows);
    for (size_t i = 0; i < n_in && code == ERR_OK; i++) {
        code = read_tensor(rt, session, true, i, &info->in[i], &rows[i], e);
    }
    for (size_t i = 0; i < n_out && code == ERR_OK; i++) {
        struct rows_name name = {""};
        code = read_tensor(rt, session, false, i, &info->out[i], &name, e);
        m->known[i] = code == ERR_OK && foreseen(&info->out[i], &name, rows, n_in);
    }
    free(rows);
    return code;
}

void onnx_model_done(struct onnx_model *m)
{
    model_info_done(&m->info);
    free(m->known);
    m->known = NULL;
}

/* ---- frames ---- */

uint8_t *onnx_scratch_room(struct onnx_scratch *s, uint64_t n)
{
    if (n > s->n) {
        size_t cap = ALIGN_UP(MAX(n, 4096u), 4096);
        uint8_t *p = n < SIZE_MAX / 2 ? aligned_alloc(64, cap) : NULL;
        if (!p) {
            return NULL;
        }
        free(s->p);
        s->p = p;
        s->n = cap;
    }
    return s->p;
}

enum err_code onnx_frame_init(struct onnx_frame *f, struct onnx_model *m, OrtSession *s, struct err *e)
{
    struct onnx_frame made = {.model = m, .session = s};
    OrtStatus *status = m->rt->api->CreateRunOptions(&made.options);

    if (status) {
        return onnx_status(m->rt, status, ERR_INTERNAL, e, "no run options");
    }
    made.in_name = xcalloc(m->info.n_in + 1u, sizeof *made.in_name);
    made.in = xcalloc(m->info.n_in + 1u, sizeof(OrtValue *));
    made.out_name = xcalloc(m->info.n_out, sizeof *made.out_name);
    made.out = xcalloc(m->info.n_out, sizeof(OrtValue *));
    *f = made;
    return ERR_OK;
}

void onnx_frame_done(struct onnx_frame *f)
{
    if (!f->model) {
        return;
    }
    onnx_frame_clear(f);
    f->model->rt->api->ReleaseRunOptions(f->options);
    free(f->in_name);
    free(f->out_name);
    free(f->in);
    free(f->out);
    free(f->in_mem.p);
    free(f->out_mem.p);
    memset(f, 0, sizeof *f);
}

OrtValue **onnx_frame_in(struct onnx_frame *f, uint32_t port)
{
    assert(f->n_in < f->model->info.n_in && port < f->model->info.n_in);
    f->in_name[f->n_in] = f->model->info.in[port].name;
    return &f->in[f->n_in++];
}

OrtValue **onnx_frame_out(struct onnx_frame *f, uint32_t port)
{
    assert(f->n_out < f->model->info.n_out && port < f->model->info.n_out);
    f->out_name[f->n_out] = f->model->info.out[port].name;
    return &f->out[f->n_out++];
}

OrtStatus *onnx_frame_run(struct onnx_frame *f)
{
    return f->model->rt->api->Run(f->session, f->options, f->in_name, (const OrtValue *const *)f->in, f->n_in,
                                  f->out_name, f->n_out, f->out);
}

void onnx_frame_clear(struct onnx_frame *f)
{
    const OrtApi *a = f->model->rt->api;

    for (uint32_t i = 0; i < f->n_in; i++) {
        a->ReleaseValue(f->in[i]);
        f->in[i] = NULL;
    }
    for (uint32_t i = 0; i < f->n_out; i++) {
        a->ReleaseValue(f->out[i]);
        f->out[i] = NULL;
    }
    f->n_in = f->n_out = 0;
}
