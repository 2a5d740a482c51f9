/* SPDX-License-Identifier: Apache-2.0 */
/* Pushing a version: a body that is streamed to the store as it comes, or the name of a path on this machine.
 *
 * The upload stands still (http_body_pause) while the disk is behind. A client that leaves before its last byte leaves
 * nothing; one that leaves after it has its version all the same, it only does not hear of it.
 *
 * Thread: control's loop; work functions on the store thread. */
#include <stdio.h>
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

struct pushing {
    struct ticket ticket;
    struct push *push;
    bool finishing; /* push_finish was called: it ends by itself */
};

/* ---- the answer ---- */

static void reply_pushed(struct request *r, const struct push_result *res)
{
    const struct model *m = res->model;
    const struct version *v = model_version(m, res->number);
    const char *serving = v ? version_serving(v) : "none";
    bool canary = strcmp(serving, "canary") == 0;
    struct buf *b = json_reply(r, res->already ? 200 : 201);

    BUF_LIT(b, "{\"model\":");
    json_strz(b, m->row.name);
    buf_addf(b, ",\"version\":%lld,\"digest\":", (long long)res->number);
    json_strz(b, res->digest);
    buf_addf(b, ",\"bytes\":%llu,\"already\":%s,\"state\":", (unsigned long long)res->bytes,
             res->already ? "true" : "false");
    json_strz(b, version_state_names[v ? v->state : VERSION_REGISTERED]);
    BUF_LIT(b, ",\"serving\":");
    json_strz(b, serving);
    BUF_LIT(b, ",\"share_bp\":");
    if (canary) {
        buf_addi(b, m->rollout.share_bp);
    } else {
        BUF_LIT(b, "null");
    }
    BUF_LIT(b, ",\"rollout\":");
    json_strz(b, canary ? m->rollout.id : NULL);
    json_put_text(b, "policy", canary && m->policy.n_steps > 0 ? m->policy.name : NULL);
    buf_addf(b, ",\"load_ms\":%.3f}", res->load_ms);
    http_reply_end(r->x);
}

static void pushed(void *ctx, const struct push_result *res, const struct err *e)
{
    struct pushing *u = ctx;
    struct request *r = ticket_close(&u->ticket);

    if (r && e->code == ERR_OK) {
        reply_pushed(r, res);
    } else if (r) {
        reply_err(r, e);
    }
    free(u);
}

static void pushing_left(struct ticket *t)
{
    struct pushing *u = CONTAINER_OF(t, struct pushing, ticket);

    if (!u->finishing) {
        push_abort(u->push);
        free(u);
    }
}

static void pushing_more(void *ctx)
{
    struct pushing *u = ctx;

    if (u->ticket.r && !u->finishing) {
        http_body_resume(u->ticket.r->x);
    }
}

/* Begins a push on behalf of the request; NULL: answered with an error. */
static struct pushing *pushing_begin(struct request *r, const struct push_spec *spec)
{
    struct pushing *u;
    struct push *push;
    struct err e;

    if (push_begin(&push, r->plane->control, spec, &e) != ERR_OK) {
        reply_err(r, &e);
        return NULL;
    }
    u = xcalloc(1, sizeof(*u));
    u->push = push;
    ticket_open(&u->ticket, r, pushing_left);
    push_on_more(push, pushing_more, u);
    return u;
}

static void pushing_finish(struct pushing *u, const char *import)
{
    u->finishing = true;
    push_finish(u->push, import, pushed, u);
}

/* ---- a path on this machine ---- */

/* True if path is root or lies below it; both canonical. */
static bool path_within(const char *path, const char *root)
{
    size_t n = strlen(root);

    while (n > 0 && root[n - 1] == '/') {
        n--;
    }
    return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Resolves links and dots on the store thread, then compares. */
static void resolve_path(struct store *s, struct disk_job *j)
{
    char *root = realpath(j->root, NULL), *path = root ? realpath(j->path, NULL) : NULL;

    (void)s;
    j->err.code = ERR_OK;
    if (!root) {
        err_sys(&j->err, ERR_FORBIDDEN, "the folder import_root (%s) can not be opened", j->root);
    } else if (!path && !strstr(j->path, "/..") && (path_within(j->path, j->root) || path_within(j->path, root))) {
        err_sys(&j->err, ERR_INVALID, "'%.200s' can not be opened", j->path);
    } else if (!path || !path_within(path, root)) { /* of others it is not told whether they exist */
        err_set(&j->err, ERR_FORBIDDEN, "'%.200s' does not lie under import_root (%s)", j->path, root);
    }
    free(root);
    free(j->path);
    j->path = path;
}

static void import_path(struct request *r, struct disk_job *j)
{
    struct pushing *u;

    if (j->err.code != ERR_OK) {
        reply_err(r, &j->err);
        return;
    }
    j->push.model = str_of(j->model);
    j->push.family = str_of(j->family);
    j->push.rollout = j->push.rollout ? &j->policy : NULL;
    u = pushing_begin(r, &j->push);
    if (u) {
        pushing_finish(u, j->path);
    }
}

/* ---- headers ---- */

static bool is_json(const struct http_ex *x)
{
    struct str type = http_header(x, "content-type");
    const char *end = type.p ? memchr(type.p, ';', type.n) : NULL;

    type.n = end ? (size_t)(end - type.p) : type.n;
    while (type.n > 0 && (type.p[type.n - 1] == ' ' || type.p[type.n - 1] == '\t')) {
        type.n--;
    }
    return str_eq_nocase(type, STR("application/json"));
}

enum { VERSION, CANARY, ROLLOUT, STEPS, RETRY, FAMILY, PARAMETERS };

/* canary=5%25, or rollout=POLICY, steps=1%25,5%25 or both; retry=on. *policy is what spec->rollout points to then. */
static enum err_code read_rollout(struct request *r, const struct parameter *q, struct push_spec *spec,
                                  struct rollout_policy *policy, struct err *e)
{
    struct str retry = q[RETRY].value;
    bool wanted = q[CANARY].value.p || q[ROLLOUT].value.p || q[STEPS].value.p;

    if (retry.p && !wanted) {
        return err_set(e, ERR_INVALID, "'retry' in the query goes with canary, rollout or steps");
    }
    if (retry.p && !str_is(retry, "on") && !str_is(retry, "off")) {
        return err_set(e, ERR_INVALID, "'retry=%.*s' in the query must be on or off", (int)MIN(retry.n, (size_t)40),
                       retry.p);
    }
    spec->retry = str_is(retry, "on");
    if (!wanted) {
        return ERR_OK;
    }
    spec->rollout = policy;
    return read_policy(r->plane->control, q[CANARY].value, q[ROLLOUT].value, q[STEPS].value, policy, e);
}

/* What the query says: ?version=N&family=F and what read_rollout takes. */
static enum err_code read_spec(struct request *r, struct push_spec *spec, struct rollout_policy *policy, struct err *e)
{
    struct parameter q[PARAMETERS] = {
        [VERSION] = {.name = "version"}, [CANARY] = {.name = "canary"}, [ROLLOUT] = {.name = "rollout"},
        [STEPS] = {.name = "steps"},     [RETRY] = {.name = "retry"},   [FAMILY] = {.name = "family"}};
    struct str family;
    uint64_t number = 0;

    *spec = (struct push_spec){.model = r->arg[0], .actor = ADMIN_ACTOR, .raw = true};
    if (read_query(r->x, q, PARAMETERS, e) != ERR_OK || read_number(&q[VERSION], 1, INT32_MAX, &number, e) != ERR_OK ||
        read_rollout(r, q, spec, policy, e) != ERR_OK) {
        return e->code;
    }
    spec->number = (int64_t)number;
    family = q[FAMILY].value;
    if (family.p && !name_ok(family)) {
        return err_set(e, ERR_INVALID, "'family=%.*s' in the query is not a name", (int)MIN(family.n, (size_t)100),
                       family.p);
    }
    spec->family = family;
    return ERR_OK;
}

static enum err_code read_manifest_length(const struct http_ex *x, struct push_spec *spec, struct err *e)
{
    struct str text = http_header(x, "x-weir-manifest-length");
    uint64_t n;

    if (!text.p) {
        return ERR_OK;
    }
    if (http_header_count(x, "x-weir-manifest-length") > 1 || !str_u64(text, &n) || n == 0) {
        return err_set(e, ERR_INVALID, "X-Weir-Manifest-Length must be one whole number above 0, not '%.*s'",
                       (int)MIN(text.n, (size_t)40), text.p);
    }
    if (n > MANIFEST_BYTES_MAX) {
        return err_set(e, ERR_TOO_LARGE, "a manifest has at most %u bytes, not %llu", MANIFEST_BYTES_MAX,
                       (unsigned long long)n);
    }
    if (x->length >= 0 && n > (uint64_t)x->length) {
        return err_set(e, ERR_INVALID, "X-Weir-Manifest-Length says %llu bytes, but the whole body has %llu",
                       (unsigned long long)n, (unsigned long long)x->length);
    }
    spec->raw = false;
    spec->head_bytes = n;
    return ERR_OK;
}

static void push_headers(struct request *r)
{
    struct rollout_policy policy;
    struct push_spec spec;
    struct err e;

    if (read_spec(r, &spec, &policy, &e) != ERR_OK || read_manifest_length(r->x, &spec, &e) != ERR_OK) {
        reply_err(r, &e);
    } else if (r->x->length == 0) {
        err_set(&e, ERR_INVALID,
                "the body is empty: it must be the model's bytes, or {\"path\":…} as application/json");
        reply_err(r, &e);
    } else if (!is_json(r->x)) {
        pushing_begin(r, &spec);
    } else if (!spec.raw) {
        err_set(&e, ERR_INVALID, "X-Weir-Manifest-Length does not go with an application/json body");
        reply_err(r, &e);
    }
}

/* ---- the body ---- */

static void push_body(struct request *r, const char *p, size_t n)
{
    struct ticket *t = r->state;
    struct err e;

    if (t) {
        if (!push_write(CONTAINER_OF(t, struct pushing, ticket)->push, p, n)) {
            http_body_pause(r->x);
        }
        return;
    }
    if (r->body.n + n > ADMIN_BODY) {
        err_set(&e, ERR_TOO_LARGE, "a JSON body has at most %u bytes here", ADMIN_BODY);
        reply_err(r, &e);
        return;
    }
    buf_add(&r->body, p, n);
    if (r->body.over) {
        err_set(&e, ERR_UNAVAILABLE, "no memory for the body of the request");
        reply_err(r, &e);
    }
}

/* {"path":"/abs/path"} */
static void begin_import(struct request *r)
{
    const char *root = control_import_root(r->plane->control);
    struct member m[] = {{.name = "path"}};
    struct rollout_policy policy;
    struct push_spec spec;
    struct err e;
    yyjson_doc *doc = NULL;

    if (read_body(r, m, COUNT_OF(m), &doc, &e) != ERR_OK || read_spec(r, &spec, &policy, &e) != ERR_OK) {
        reply_err(r, &e);
    } else if (!m[0].given || m[0].text.n == 0 || m[0].text.p[0] != '/' || memchr(m[0].text.p, 0, m[0].text.n)) {
        err_set(&e, ERR_INVALID, "\"path\" must be an absolute path on the server's machine");
        reply_err(r, &e);
    } else if (!root) {
        err_set(&e, ERR_FORBIDDEN,
                "pushing by path is switched off: set import_root, or send the bytes (weir push does)");
        reply_err(r, &e);
    } else {
        struct disk_job *j = disk_job_new(0);

        j->push = spec;
        if (spec.rollout) { /* which is gone when the path is resolved */
            j->policy = policy;
        }
        j->root = xstrdup(root);
        j->path = xstrndup(m[0].text.p, m[0].text.n);
        j->family = spec.family.p ? xstrndup(spec.family.p, spec.family.n) : NULL;
        str_copy(j->model, sizeof(j->model), spec.model);
        j->work = resolve_path;
        j->answer = import_path;
        disk_job_post(j, r);
    }
    yyjson_doc_free(doc);
}

static void push_complete(struct request *r)
{
    struct ticket *t = r->state;

    if (t) {
        pushing_finish(CONTAINER_OF(t, struct pushing, ticket), NULL);
    } else {
        begin_import(r);
    }
}

const struct api_stages admin_push = {push_headers, push_body, push_complete};
