/* SPDX-License-Identifier: Apache-2.0 */
/* The store for tests: see store_help.h. */
#include "support/store_help.h"

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

char *store_folder_new(void)
{
    const char *top = getenv("TMPDIR");
    char *folder = xasprintf("%s/weir-store-XXXXXX", top ? top : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        abort();
    }
    return folder;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

void store_folder_free(char *folder)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(folder);
}

char *store_path(const char *folder, const char *fmt, ...)
{
    char rest[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    return xasprintf("%s/%s", folder, rest);
}

enum err_code store_open_in(struct store **out, const char *folder, struct err *e)
{
    char *url = xasprintf("sqlite:%s/weir.db", folder);
    char *artifacts = store_path(folder, "artifacts");
    enum err_code rc = store_open(out, url, artifacts, e);
    free(url);
    free(artifacts);
    return rc;
}

struct call {
    struct store_job job;
    store_fn *fn;
    void *arg;
    enum err_code rc;
    bool done;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
};

static void call_run(struct store *s, struct store_job *j)
{
    struct call *c = CONTAINER_OF(j, struct call, job);
    enum err_code rc = c->fn(s, c->arg);
    pthread_mutex_lock(&c->mutex);
    c->rc = rc;
    c->done = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->mutex);
}

enum err_code store_call(struct store *s, store_fn *fn, void *arg)
{
    struct call c = {.job.run = call_run, .fn = fn, .arg = arg};
    pthread_mutex_init(&c.mutex, NULL);
    pthread_cond_init(&c.cond, NULL);
    store_post(s, &c.job);
    pthread_mutex_lock(&c.mutex);
    while (!c.done) {
        pthread_cond_wait(&c.cond, &c.mutex);
    }
    pthread_mutex_unlock(&c.mutex);
    pthread_cond_destroy(&c.cond);
    pthread_mutex_destroy(&c.mutex);
    return c.rc;
}

/* One record for all calls: each uses its fields. */
struct args {
    const struct store_change *change;
    struct store_state *state;
    const char *name, *path, *progress, *counts;
    int64_t at; /* of a seq, or of a time */
    size_t limit, *n;
    struct history_row **rows;
    struct manifest *manifest;
    struct str bytes;
    struct upload *upload;
    int *dirfd;
    struct buf *out;
    struct err *e;
};

static enum err_code do_apply(struct store *s, void *arg)
{
    struct args *a = arg;
    return store_apply(s, a->change, a->e);
}

enum err_code on_apply(struct store *s, const struct store_change *c, struct err *e)
{
    return store_call(s, do_apply, &(struct args){.change = c, .e = e});
}

static enum err_code do_load(struct store *s, void *arg)
{
    struct args *a = arg;
    return store_load(s, a->state, a->e);
}

enum err_code on_load(struct store *s, struct store_state *out, struct err *e)
{
    return store_call(s, do_load, &(struct args){.state = out, .e = e});
}

static enum err_code do_history(struct store *s, void *arg)
{
    struct args *a = arg;
    return store_history(s, a->name, a->at, a->limit, a->rows, a->n, a->e);
}

enum err_code on_history(struct store *s, const char *model, int64_t before, size_t limit, struct history_row **out,
                         size_t *n, struct err *e)
{
    return store_call(s, do_history,
                      &(struct args){.name = model, .at = before, .limit = limit, .rows = out, .n = n, .e = e});
}

static enum err_code do_history_after(struct store *s, void *arg)
{
    struct args *a = arg;
    return store_history_after(s, a->name, a->at, a->limit, a->rows, a->n, a->e);
}

enum err_code on_history_after(struct store *s, const char *model, int64_t after, size_t limit,
                               struct history_row **out, size_t *n, struct err *e)
{
    return store_call(s, do_history_after,
                      &(struct args){.name = model, .at = after, .limit = limit, .rows = out, .n = n, .e = e});
}

static enum err_code do_serving_at(struct store *s, void *arg)
{
    struct args *a = arg;
    return store_serving_at(s, a->name, a->at, a->rows, a->e);
}

enum err_code on_serving_at(struct store *s, const char *model, int64_t at_ms, struct history_row **out, struct err *e)
{
    return store_call(s, do_serving_at, &(struct args){.name = model, .at = at_ms, .rows = out, .e = e});
}

static enum err_code do_progress(struct store *s, void *arg)
{
    struct args *a = arg;
    return store_progress(s, a->name, a->progress, a->counts, a->e);
}

enum err_code on_progress(struct store *s, const char *rollout, const char *progress, const char *counts, struct err *e)
{
    return store_call(s, do_progress, &(struct args){.name = rollout, .progress = progress, .counts = counts, .e = e});
}

static enum err_code do_import(struct store *s, void *arg)
{
    struct args *a = arg;
    return artifact_import(s, a->path, a->manifest, a->e);
}

enum err_code on_import(struct store *s, const char *path, struct manifest *m, struct err *e)
{
    return store_call(s, do_import, &(struct args){.path = path, .manifest = m, .e = e});
}

static enum err_code do_new(struct store *s, void *arg)
{
    struct args *a = arg;
    return upload_new(&a->upload, s, a->bytes, a->e);
}

static enum err_code do_write(struct store *s, void *arg)
{
    struct args *a = arg;
    (void)s;
    return upload_write(a->upload, a->bytes.p, a->bytes.n, a->e);
}

static enum err_code do_finish(struct store *s, void *arg)
{
    struct args *a = arg;
    (void)s;
    return upload_finish(a->upload, a->manifest, a->e);
}

static enum err_code do_abort(struct store *s, void *arg)
{
    struct args *a = arg;
    (void)s;
    upload_abort(a->upload);
    return ERR_OK;
}

enum err_code on_upload(struct store *s, struct str head, struct str body, size_t piece, struct manifest *m,
                        struct err *e)
{
    struct args a = {.bytes = head, .manifest = m, .e = e};
    enum err_code rc = store_call(s, do_new, &a);
    for (size_t at = 0; rc == ERR_OK && at < body.n; at += piece) {
        a.bytes = (struct str){body.p + at, MIN(piece, body.n - at)};
        rc = store_call(s, do_write, &a);
        if (rc != ERR_OK) {
            store_call(s, do_abort, &a);
        }
    }
    return rc == ERR_OK ? store_call(s, do_finish, &a) : rc;
}

static enum err_code do_open(struct store *s, void *arg)
{
    struct args *a = arg;
    return artifact_open(s, a->name, a->dirfd, a->manifest, a->e);
}

enum err_code on_open(struct store *s, const char *digest, int *dirfd, struct manifest *m, struct err *e)
{
    return store_call(s, do_open, &(struct args){.name = digest, .dirfd = dirfd, .manifest = m, .e = e});
}

static enum err_code do_read(struct store *s, void *arg)
{
    struct args *a = arg;
    return artifact_read(s, a->name, a->path, a->out, a->e);
}

enum err_code on_read(struct store *s, const char *digest, const char *path, struct buf *out, struct err *e)
{
    return store_call(s, do_read, &(struct args){.name = digest, .path = path, .out = out, .e = e});
}

static enum err_code do_drop(struct store *s, void *arg)
{
    struct args *a = arg;
    artifact_drop(s, a->name);
    return ERR_OK;
}

void on_drop(struct store *s, const char *digest)
{
    store_call(s, do_drop, &(struct args){.name = digest});
}
