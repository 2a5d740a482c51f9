/* SPDX-License-Identifier: Apache-2.0 */
/* A push: bytes to the store thread, the tree in place, a load, and only then a registration. Nobody sees the version
 * before the last step is durable; if any step fails, what the steps before left is taken away again.
 *
 * Bytes go to the store thread in chunks; when too many are on their way the sender is asked to wait. The chunks, the
 * upload and the manifest belong to the store thread until the finish comes back.
 *
 * A push ends exactly once: by its finish, or by push_abort, which waits in the store's queue behind the chunks. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"

#define ON_THEIR_WAY_MOST (4u << 20)
#define ON_THEIR_WAY_LESS (1u << 20)

struct push {
    struct control *c;
    struct model *model; /* an existing one, or the push's own until it is registered */
    bool own_model;
    char name[NAME_MAX_LEN + 1], family[NAME_MAX_LEN + 1], actor[64];
    int64_t number;
    struct rollout_policy policy;
    bool has_policy, retry;
    bool raw;
    uint64_t head_bytes;
    struct buf head; /* the manifest as it comes in */
    size_t on_their_way;
    bool waiting, begun;
    bool short_of_memory; /* a piece is missing */
    void (*more)(void *ctx);
    void *more_ctx;
    /* the store thread's while jobs are queued */
    struct upload *upload;
    struct err err; /* the first thing that went wrong */
    struct manifest manifest;
    char *import;
    struct store_job finish_job;
    struct task back;
    /* after the finish */
    struct version *version;
    struct version *beside; /* the stable one that a canary needs; claimed */
    struct push_result result;
    struct change change;
    void (*done)(void *ctx, const struct push_result *r, const struct err *e);
    void *done_ctx;
    bool aborted;
};

/* ---- bytes ---- */

struct chunk {
    struct store_job job;
    struct task back;
    struct push *push;
    bool head; /* the manifest: begins the upload */
    size_t n;
    char bytes[];
};

static void on_chunk_written(struct task *t)
{
    struct chunk *k = CONTAINER_OF(t, struct chunk, back);
    struct push *p = k->push;

    p->on_their_way -= k->n;
    free(k);
    if (p->waiting && p->on_their_way < ON_THEIR_WAY_LESS) {
        p->waiting = false;
        p->more(p->more_ctx);
    }
}

static void write_chunk(struct store *s, struct store_job *job)
{
    struct chunk *k = CONTAINER_OF(job, struct chunk, job);
    struct push *p = k->push;

    if (p->err.code == ERR_OK && k->head) {
        struct str head = {p->raw ? NULL : k->bytes, k->n};

        p->err.code = upload_new(&p->upload, s, head, &p->err);
    } else if (p->err.code == ERR_OK) {
        p->err.code = upload_write(p->upload, k->bytes, k->n, &p->err);
    }
    loop_post(p->c->loop, &k->back);
}

static void send_chunk(struct push *p, bool head, const void *bytes, size_t n)
{
    struct chunk *k = p->short_of_memory ? NULL : malloc(sizeof(*k) + n); /* nothing after a piece that is missing */

    if (!k) {
        p->short_of_memory = true;
        return;
    }
    *k = (struct chunk){.job.run = write_chunk, .back.fn = on_chunk_written, .push = p, .head = head, .n = n};
    if (n > 0) {
        memcpy(k->bytes, bytes, n);
    }
    p->on_their_way += n;
    store_post(p->c->store, &k->job);
}

enum err_code push_begin(struct push **out, struct control *c, const struct push_spec *spec, struct err *e)
{
    struct push *p;

    if (!name_ok(spec->model)) {
        return err_set(e, ERR_INVALID,
                       "a model's name is made of letters, digits, '.', '_' and '-', at most %d of them", NAME_MAX_LEN);
    }
    if (c->stopping || !c->started) {
        return err_set(e, ERR_UNAVAILABLE, c->stopping ? "the server is stopping" : "the server is still starting");
    }
    if (!family_for(c, spec->family, spec->model, e)) {
        return e->code;
    }
    if (spec->rollout && control_inference(c)) {
        return err_set(e, ERR_CONFLICT,
                       "this server is in the inference role: rollouts are the gateways' matter, ask there");
    }
    if (!spec->raw && (spec->head_bytes == 0 || spec->head_bytes > MANIFEST_BYTES_MAX)) {
        return err_set(e, ERR_INVALID, "a manifest has between 1 and %u bytes, not %llu", MANIFEST_BYTES_MAX,
                       (unsigned long long)spec->head_bytes);
    }
    p = xcalloc(1, sizeof(*p));
    p->c = c;
    str_copy(p->name, sizeof(p->name), spec->model);
    if (spec->family.p) {
        str_copy(p->family, sizeof(p->family), spec->family);
    }
    snprintf(p->actor, sizeof(p->actor), STR_FMT, STR_ARG(spec->actor));
    p->number = spec->number;
    p->has_policy = spec->rollout != NULL;
    if (spec->rollout) {
        p->policy = *spec->rollout;
    }
    p->retry = spec->retry;
    p->raw = spec->raw;
    p->head_bytes = spec->head_bytes;
    buf_init(&p->head, MANIFEST_BYTES_MAX);
    *out = p;
    return ERR_OK;
}

bool push_write(struct push *p, const void *bytes, size_t n)
{
    const char *at = bytes;

    if (!p->raw && p->head.n < p->head_bytes) {
        size_t k = MIN(n, p->head_bytes - p->head.n);

        buf_add(&p->head, at, k);
        p->short_of_memory = p->short_of_memory || p->head.over;
        at += k;
        n -= k;
    }
    if (!p->begun && (p->raw || p->head.n == p->head_bytes)) {
        p->begun = true;
        send_chunk(p, true, p->head.p, p->head.n);
    }
    if (n > 0) {
        send_chunk(p, false, at, n);
    }
    p->waiting = p->more && p->on_their_way > ON_THEIR_WAY_MOST;
    return !p->waiting;
}

void push_on_more(struct push *p, void (*more)(void *ctx), void *ctx)
{
    p->more = more;
    p->more_ctx = ctx;
}

/* ---- the end, whichever ---- */

struct drop_job {
    struct store_job job;
    char digest[65];
};

static void drop(struct store *s, struct store_job *job)
{
    struct drop_job *j = CONTAINER_OF(job, struct drop_job, job);

    artifact_drop(s, j->digest);
    free(j);
}

/* The tree of a push that was refused; the store keeps it if a version names it. */
static void drop_artifact(struct push *p)
{
    struct drop_job *j;

    if (p->manifest.digest[0] == '\0') {
        return;
    }
    j = xcalloc(1, sizeof(*j));
    j->job.run = drop;
    memcpy(j->digest, p->manifest.digest, sizeof(j->digest));
    store_post(p->c->store, &j->job);
}

static void push_free(struct push *p)
{
    if (p->own_model) {
        free(p->model);
    }
    manifest_done(&p->manifest);
    buf_done(&p->head);
    free(p->import);
    change_done(&p->change);
    free(p);
}

static void push_end(struct push *p, const struct err *e)
{
    bool ok = e->code == ERR_OK;

    if (!ok) {
        drop_artifact(p);
        log_warn("control", "a push was refused model=%s reason=\"%s\"", p->name, e->text);
    }
    if (p->beside) {
        p->beside->claims--;
        model_reconcile(p->beside->model);
    }
    p->result.model = p->model;
    p->done(p->done_ctx, ok ? &p->result : NULL, e);
    push_free(p);
}

/* The version's pool (if it has one) frees it when it has closed; the model it points to must live until then. */
static void take_back(struct push *p)
{
    struct version *v = p->version;

    p->version = NULL;
    if (v && v->pool) {
        v->refused = true;
        v->own_model = p->own_model;
        p->own_model = false;
        version_close(v, 0);
    } else {
        version_free(v);
    }
}

/* ---- registration ---- */

/* The pushed version is not among the model's yet. */
static char *serving_now(const struct push *p, int64_t stable, int64_t share_bp)
{
    struct version **all = xmalloc((p->model->n_versions + 1) * sizeof(all[0]));
    struct model with = *p->model;
    char *text;

    for (size_t i = 0; i < with.n_versions; i++) {
        all[i] = with.versions[i];
    }
    all[with.n_versions] = p->version;
    with.versions = all;
    with.n_versions++;
    text = serving_json(&with, stable, share_bp > 0 ? p->version->row.number : 0, share_bp);
    free(all);
    return text;
}

static enum err_code register_prepare(struct change *ch, struct err *e)
{
    char takes[200];
    struct push *p = CONTAINER_OF(ch, struct push, change);
    struct model *m = p->model;
    struct version *v = p->version;
    struct model *there = control_model(p->c, str_of(p->name));

    if (p->own_model && there) {
        return err_set(e, ERR_CONFLICT, "model '%s' was registered by another push meanwhile; push again", p->name);
    }
    if (model_version(m, v->row.number)) {
        return err_set(e, ERR_CONFLICT, "version %lld of '%s' was taken meanwhile; push again",
                       (long long)v->row.number, p->name);
    }
    ch->version_row = v->row;
    ch->has_version = true;
    if (m->row.stable == 0) {
        ch->model_row = m->row;
        ch->model_row.stable = v->row.number;
        ch->has_model = true;
    } else if (p->has_policy) {
        if (rollout_fill(ch, v, &p->policy, p->retry, e) != ERR_OK) {
            return e->code;
        }
        rollout_takes(takes, sizeof(takes), &p->policy);
        history_fill(&ch->history_row, m, v->row.number, "rollout_started", str_of(p->actor),
                     "version %lld was pushed (%s, %llu bytes) and %s beside version %lld", (long long)v->row.number,
                     v->row.backend, (unsigned long long)v->row.bytes, takes, (long long)m->row.stable);
        ch->history_row.serving = serving_now(p, m->row.stable, ch->progress.share_bp);
        return ERR_OK;
    }
    history_fill(&ch->history_row, m, v->row.number, "pushed", str_of(p->actor),
                 "version %lld was pushed (%s, %llu bytes)%s", (long long)v->row.number, v->row.backend,
                 (unsigned long long)v->row.bytes, ch->has_model ? " and is the stable version" : "");
    ch->history_row.serving = ch->has_model ? serving_now(p, v->row.number, 0) : NULL;
    return ERR_OK;
}

static void register_act(struct change *ch)
{
    struct push *p = CONTAINER_OF(ch, struct push, change);
    struct control *c = p->c;
    struct model *m = p->model;
    struct version *v = p->version;

    if (p->own_model) {
        c->models = xrealloc(c->models, (c->n_models + 1) * sizeof(struct model *));
        c->models[c->n_models++] = m;
        m->family = family_of(c, &m->row); /* it may have been switched meanwhile */
        p->own_model = false;
    }
    v->pushing = false;
    p->version = NULL;
    model_insert(m, v);
    if (ch->has_model) {
        m->row = ch->model_row;
    }
    if (ch->has_rollout) {
        rollout_act(ch);
    }
    control_publish(c);
    version_follow(v);
    model_reconcile(m);
}

static void register_finish(struct change *ch, const struct err *e)
{
    struct push *p = CONTAINER_OF(ch, struct push, change);

    if (e->code != ERR_OK) {
        take_back(p);
    }
    push_end(p, e);
}

static void submit(struct push *p)
{
    p->change.model = p->model;
    p->change.founds = p->own_model;
    p->change.prepare = register_prepare;
    p->change.act = register_act;
    p->change.finish = register_finish;
    change_submit(&p->change);
}

static void on_beside(void *ctx, const struct err *e)
{
    struct push *p = ctx;

    if (e->code != ERR_OK) {
        take_back(p);
        push_end(p, e);
    } else {
        submit(p);
    }
}

static void on_loaded(void *ctx, const struct err *e)
{
    struct push *p = ctx;
    struct version *stable;

    if (e->code != ERR_OK) {
        p->version->refused = true; /* it goes by itself, with the model that nobody else has */
        p->version->own_model = p->own_model;
        p->own_model = false;
        p->version = NULL;
        p->model = NULL;
        push_end(p, e);
        return;
    }
    p->result.load_ms = p->version->load_ms;
    stable = p->has_policy ? model_version(p->model, p->model->row.stable) : NULL;
    if (stable && !version_loaded(stable)) {
        p->beside = stable;
        stable->claims++;
        version_load(stable, true, on_beside, p);
    } else {
        submit(p);
    }
}

/* ---- a version that is there already ---- */

static void on_again(void *ctx, const struct err *e)
{
    push_end(ctx, e);
}

static void on_loaded_again(void *ctx, const struct err *e)
{
    struct push *p = ctx;
    struct version *v = model_version(p->model, p->result.number);

    p->result.load_ms = v ? v->load_ms : 0;
    if (e->code == ERR_OK && p->has_policy && p->model->row.stable != p->result.number) {
        control_rollout_start(p->c, str_of(p->name), p->result.number, &p->policy, p->retry, str_of(p->actor), on_again,
                              p);
    } else {
        push_end(p, e);
    }
}

static enum err_code detect_backend(const struct manifest *m, char out[16], struct err *e)
{
    const char *const known[][2] = {{"model.onnx", "onnx"}, {"model.gguf", "llama"}, {"model.py", "python"}};

    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (manifest_find(m, known[i][0])) {
            snprintf(out, 16, "%s", known[i][1]);
            return ERR_OK;
        }
    }
    if (manifest_find(m, "model.yaml")) { /* on another server; which, is found out when it is loaded */
        snprintf(out, 16, BACKEND_UPSTREAM);
        return ERR_OK;
    }
    return err_set(e, ERR_REFUSED, "no model in it: a version is a folder with model.onnx (or one such file)");
}

static enum err_code make_version(struct push *p, struct err *e)
{
    struct control *c = p->c;
    struct version_row row = {.number = p->number, .bytes = p->manifest.bytes, .created_ms = clock_wall_ms()};

    if (detect_backend(&p->manifest, row.backend, e) != ERR_OK) {
        return e->code;
    }
    if (p->own_model) {
        p->model = xcalloc(1, sizeof(*p->model));
        p->model->control = c;
        p->model->family = family_for(c, p->family[0] ? str_of(p->family) : (struct str){NULL, 0}, str_of(p->name), e);
        p->model->row.created_ms = row.created_ms;
        snprintf(p->model->row.name, sizeof(p->model->row.name), "%s", p->name);
        snprintf(p->model->row.family, sizeof(p->model->row.family), "%s", p->model->family->name);
    }
    if (!c->spec.ops.engine(row.backend, (enum place)p->model->family->place)) {
        return err_set(e, ERR_UNIMPLEMENTED, "models of backend '%s' are not part of this server yet", row.backend);
    }
    if (p->family[0] && strcmp(p->family, p->model->row.family) != 0) {
        return err_set(e, ERR_CONFLICT, "model '%s' is of family '%s'; its versions are too", p->name,
                       p->model->row.family);
    }
    if (row.number == 0) {
        struct version *newest = model_newest(p->model);

        row.number = newest ? newest->row.number + 1 : 1;
    } else if (model_version(p->model, row.number)) {
        return err_set(e, ERR_CONFLICT,
                       "version %lld of '%s' exists with other bytes (digest %.12s…); a version never changes: push "
                       "without --version for the next number",
                       (long long)row.number, p->name, model_version(p->model, row.number)->row.digest);
    }
    snprintf(row.model, sizeof(row.model), "%s", p->name);
    memcpy(row.digest, p->manifest.digest, sizeof(row.digest));
    p->version = version_new(c, p->model, &row);
    p->version->pushing = true;
    version_hold(p->version); /* of the inference role: until the gateway that pushes it asks for it */
    p->result.number = row.number;
    return ERR_OK;
}

static void on_finished(struct task *t)
{
    struct push *p = CONTAINER_OF(t, struct push, back);
    struct err e;

    if (p->aborted) {
        push_free(p);
        return;
    }
    if (p->err.code != ERR_OK) {
        e = p->err;
        push_end(p, &e);
        return;
    }
    memcpy(p->result.digest, p->manifest.digest, sizeof(p->result.digest));
    p->result.bytes = p->manifest.bytes;
    p->model = control_model(p->c, str_of(p->name));
    p->own_model = p->model == NULL;
    for (size_t i = 0; p->model && i < p->model->n_versions; i++) {
        struct version *v = p->model->versions[i];

        if (strcmp(v->row.digest, p->manifest.digest) == 0) {
            p->result.already = true;
            p->result.number = v->row.number;
            version_hold(v);
            version_load(v, true, on_loaded_again, p);
            return;
        }
    }
    if (make_version(p, &e) != ERR_OK) {
        push_end(p, &e);
        return;
    }
    version_load(p->version, true, on_loaded, p);
}

static void finish(struct store *s, struct store_job *job)
{
    struct push *p = CONTAINER_OF(job, struct push, finish_job);

    if (p->short_of_memory && p->err.code == ERR_OK) {
        err_set(&p->err, ERR_UNAVAILABLE, "no memory for the upload");
    }
    if (p->aborted || p->err.code != ERR_OK) {
        upload_abort(p->upload);
    } else if (p->import) {
        p->err.code = artifact_import(s, p->import, &p->manifest, &p->err);
    } else if (!p->upload) {
        err_set(&p->err, ERR_INVALID, "the body ended within its manifest");
    } else {
        p->err.code = upload_finish(p->upload, &p->manifest, &p->err);
    }
    p->upload = NULL;
    loop_post(p->c->loop, &p->back);
}

static void post_finish(struct push *p)
{
    p->more = NULL;
    p->waiting = false;
    p->finish_job.run = finish;
    p->back.fn = on_finished;
    store_post(p->c->store, &p->finish_job);
}

void push_finish(struct push *p, const char *import,
                 void (*done)(void *ctx, const struct push_result *r, const struct err *e), void *ctx)
{
    p->done = done;
    p->done_ctx = ctx;
    p->import = import ? xstrdup(import) : NULL;
    post_finish(p);
}

void push_abort(struct push *p)
{
    p->aborted = true;
    post_finish(p);
}

/* ---- a name without a version ---- */

struct naming {
    struct change change;
    void (*done)(void *ctx, const struct err *e);
    void *ctx;
    bool own;
};

static enum err_code naming_prepare(struct change *ch, struct err *e)
{
    struct model *m = ch->model;

    if (control_model(m->control, str_of(m->row.name))) {
        return err_set(e, ERR_CONFLICT, "model '%s' is registered already", m->row.name);
    }
    ch->model_row = m->row;
    ch->has_model = true;
    history_fill(&ch->history_row, m, 0, "registered", STR("admin"), "model %s was registered in family %s",
                 m->row.name, m->row.family);
    return ERR_OK;
}

static void naming_act(struct change *ch)
{
    struct naming *n = CONTAINER_OF(ch, struct naming, change);
    struct control *c = ch->model->control;

    c->models = xrealloc(c->models, (c->n_models + 1) * sizeof(struct model *));
    c->models[c->n_models++] = ch->model;
    ch->model->family = family_of(c, &ch->model->row);
    n->own = false;
    control_publish(c);
}

static void naming_finish(struct change *ch, const struct err *e)
{
    struct naming *n = CONTAINER_OF(ch, struct naming, change);

    n->done(n->ctx, e);
    change_done(ch);
    if (n->own) {
        free(ch->model);
    }
    free(n);
}

void control_register(struct control *c, struct str model, struct str family,
                      void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct err e;
    const struct family *f;
    struct naming *n;
    struct model *m;

    if (!name_ok(model)) {
        err_set(&e, ERR_INVALID, "a model's name is made of letters, digits, '.', '_' and '-', at most %d of them",
                NAME_MAX_LEN);
        done(ctx, &e);
        return;
    }
    f = family_for(c, family, model, &e);
    if (!f) {
        done(ctx, &e);
        return;
    }
    n = xcalloc(1, sizeof(*n));
    m = xcalloc(1, sizeof(*m));
    m->control = c;
    m->family = f;
    m->row.created_ms = clock_wall_ms();
    str_copy(m->row.name, sizeof(m->row.name), model);
    snprintf(m->row.family, sizeof(m->row.family), "%s", f->name);
    *n = (struct naming){
        .change = {.model = m, .founds = true, .prepare = naming_prepare, .act = naming_act, .finish = naming_finish},
        .done = done,
        .ctx = ctx,
        .own = true};
    change_submit(&n->change);
}
