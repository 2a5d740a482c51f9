/* SPDX-License-Identifier: Apache-2.0 */
/* An upload: files come in pieces, each becomes a blob and a link in a temporary folder; at the end one rename shows
 * the folder as a tree.
 *
 * The links in the temporary folder also keep a finished blob alive: artifact_drop removes only blobs with no other
 * link. The first failure stays: later calls return it again, so a caller may go on reading the client's bytes and ask
 * at the end.
 *
 * Thread: the store thread. Owner: the caller of upload_new, until upload_finish or upload_abort. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store/store_priv.h"

struct upload {
    struct store *s;
    char temp[TEMP_NAME_MAX];
    int dir;
    struct stage stage;
    struct manifest m; /* grows file by file, or is the announced one */
    size_t cap;
    struct manifest_file *order; /* the announced files in the order of their bytes; NULL: nothing was announced */
    size_t at;                   /* which of them comes now */
    char first[4];
    bool raw;
    enum err_code failed;
    struct err error;
};

static void upload_free(struct upload *u)
{
    stage_done(&u->stage);
    if (u->dir >= 0) {
        close(u->dir);
    }
    if (u->temp[0]) {
        dir_remove(u->s->tmp_fd, u->temp);
    }
    manifest_done(&u->m);
    free(u->order);
    free(u);
}

void upload_abort(struct upload *u)
{
    if (u) {
        store_assert_thread(u->s);
        upload_free(u);
    }
}

static enum err_code upload_failed(struct upload *u, enum err_code rc, struct err *e)
{
    if (rc != ERR_OK && u->failed == ERR_OK) {
        u->failed = rc;
    }
    if (e && rc != ERR_OK) {
        *e = u->error;
    }
    return rc;
}

enum err_code upload_begin(struct upload **out, struct store *s, struct err *e)
{
    enum err_code rc = store_writable(s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    struct upload *u = xcalloc(1, sizeof *u);
    u->s = s;
    u->stage.fd = u->dir = -1;
    temp_name(u->temp);
    if (mkdirat(s->tmp_fd, u->temp, 0755) < 0) {
        rc = file_fail(s, e, "create a folder in", "tmp");
        u->temp[0] = '\0';
    } else if ((u->dir = file_open(s->tmp_fd, u->temp, O_RDONLY | O_DIRECTORY, 0)) < 0) {
        rc = file_fail(s, e, "open a folder in", "tmp");
    }
    if (rc != ERR_OK) {
        upload_free(u);
        return rc;
    }
    *out = u;
    return ERR_OK;
}

/* The list is as long as the client makes it. */
static enum err_code no_memory(struct err *e)
{
    return err_set(e, ERR_UNAVAILABLE, "no memory for the list of files");
}

/* ---- one file ---- */

enum err_code upload_file_begin(struct upload *u, struct err *e)
{
    if (!u->order && u->m.n == MANIFEST_FILES_MAX) {
        return err_set(e, ERR_INVALID, "a version has at most %d files", MANIFEST_FILES_MAX);
    }
    return stage_open(&u->stage, u->s, e);
}

enum err_code upload_file_write(struct upload *u, const void *p, size_t n, struct err *e)
{
    for (size_t i = 0; i < n && u->stage.size + i < sizeof u->first; i++) {
        u->first[u->stage.size + i] = ((const char *)p)[i];
    }
    return stage_write(&u->stage, p, n, u->order ? u->order[u->at].path : "the model's file", e);
}

enum err_code upload_file_end(struct upload *u, const char *path, struct err *e)
{
    struct manifest_file f = {.size = u->stage.size};
    if (!path) {
        path = f.size >= 4 && memcmp(u->first, "GGUF", 4) == 0 ? "model.gguf" : "model.onnx";
    }
    (void)str_copy(f.path, sizeof f.path, str_of(path));
    stage_hash(&u->stage, f.sha256);
    if (u->order && strcmp(f.sha256, u->order[u->at].sha256) != 0) {
        return err_set(e, ERR_INVALID,
                       "%s came with the SHA-256 %s, announced was %s: the file changed on its way, push it again",
                       path, f.sha256, u->order[u->at].sha256);
    }
    enum err_code rc = stage_place(&u->stage, f.sha256, u->dir, path, e);
    if (rc != ERR_OK || u->order) {
        return rc;
    }
    if (u->m.n == u->cap) {
        size_t cap = u->cap ? u->cap * 2 : 8;
        struct manifest_file *files = realloc(u->m.files, cap * sizeof *files);
        if (!files) {
            return no_memory(e);
        }
        u->m.files = files;
        u->cap = cap;
    }
    u->m.files[u->m.n++] = f;
    return ERR_OK;
}

/* ---- in pieces ---- */

/* Ends the announced file that is complete and those behind it that are empty. */
static enum err_code announced_end(struct upload *u, struct err *e)
{
    while (u->at < u->m.n && u->stage.fd >= 0 && u->stage.size == u->order[u->at].size) {
        enum err_code rc = upload_file_end(u, u->order[u->at].path, e);
        if (rc != ERR_OK) {
            return rc;
        }
        u->at++;
        if (u->at < u->m.n && (rc = upload_file_begin(u, e)) != ERR_OK) {
            return rc;
        }
    }
    return ERR_OK;
}

static enum err_code announced_write(struct upload *u, const char *p, size_t n, struct err *e)
{
    while (n > 0) {
        if (u->at == u->m.n) {
            return err_set(e, ERR_INVALID, "more bytes came than the list of files announces (%llu)",
                           (unsigned long long)u->m.bytes);
        }
        size_t take = (size_t)MIN((uint64_t)n, u->order[u->at].size - u->stage.size);
        enum err_code rc = upload_file_write(u, p, take, e);
        if (rc != ERR_OK || (rc = announced_end(u, e)) != ERR_OK) {
            return rc;
        }
        p += take;
        n -= take;
    }
    return ERR_OK;
}

/* Says early that it will not fit. What other writers take meanwhile is found when it happens. */
static enum err_code space_check(struct upload *u, struct err *e)
{
    struct statvfs v;
    if (fstatvfs(u->dir, &v) == 0 && v.f_blocks > 0 && u->m.bytes / (v.f_frsize ? v.f_frsize : 1) > v.f_bavail) {
        return err_set(e, ERR_STORAGE, "disk full: the version has %llu bytes, free space under %s and push again",
                       (unsigned long long)u->m.bytes, u->s->artifacts_path);
    }
    return ERR_OK;
}

static enum err_code announced_begin(struct upload *u, struct str head, struct err *e)
{
    enum err_code rc = manifest_parse(&u->m, head, e);
    if (rc != ERR_OK) {
        return rc;
    }
    u->order = malloc(u->m.n * sizeof *u->order);
    if (!u->order) {
        return no_memory(e);
    }
    memcpy(u->order, u->m.files, u->m.n * sizeof *u->order);
    if ((rc = manifest_seal(&u->m, e)) != ERR_OK || (rc = space_check(u, e)) != ERR_OK ||
        (rc = upload_file_begin(u, e)) != ERR_OK) {
        return rc;
    }
    return announced_end(u, e);
}

enum err_code upload_new(struct upload **out, struct store *s, struct str head, struct err *e)
{
    struct upload *u = NULL;
    enum err_code rc = upload_begin(&u, s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    u->raw = head.p == NULL;
    rc = u->raw ? upload_file_begin(u, e) : announced_begin(u, head, e);
    if (rc != ERR_OK) {
        upload_free(u);
        return rc;
    }
    *out = u;
    return ERR_OK;
}

enum err_code upload_write(struct upload *u, const void *p, size_t n, struct err *e)
{
    store_assert_thread(u->s);
    if (u->failed != ERR_OK) {
        return upload_failed(u, u->failed, e);
    }
    enum err_code rc = u->raw ? upload_file_write(u, p, n, &u->error) : announced_write(u, p, n, &u->error);
    return upload_failed(u, rc, e);
}

/* ---- the end ---- */

static enum err_code pieces_end(struct upload *u, struct err *e)
{
    if (u->failed != ERR_OK) {
        return upload_failed(u, u->failed, e);
    }
    if (u->raw) {
        return u->stage.size ? upload_file_end(u, NULL, e) : err_set(e, ERR_INVALID, "the file is empty: nothing came");
    }
    if (u->order && u->at < u->m.n) {
        return err_set(e, ERR_INVALID, "%s is incomplete: %llu of %llu bytes came", u->order[u->at].path,
                       (unsigned long long)u->stage.size, (unsigned long long)u->order[u->at].size);
    }
    return u->m.n ? ERR_OK : err_set(e, ERR_INVALID, "there is no file in it: a version needs at least one");
}

static enum err_code manifest_place(struct upload *u, struct err *e)
{
    struct buf text;
    buf_init(&text, MANIFEST_BYTES_MAX);
    manifest_write(&u->m, &text);
    if (text.over) { /* it had room when it was sealed */
        buf_done(&text);
        return no_memory(e);
    }
    int fd = file_open(u->dir, "manifest.json", O_WRONLY | O_CREAT | O_EXCL, 0644);
    enum err_code rc = ERR_OK;
    if (fd < 0 || !file_write_all(fd, text.p, text.n) || fchmod(fd, 0444) < 0) {
        rc = file_fail(u->s, e, "write", "manifest.json");
    } else {
        rc = file_sync(u->s, fd, "manifest.json", true, e);
    }
    if (fd >= 0) {
        close(fd);
    }
    buf_done(&text);
    return rc;
}

enum err_code upload_finish(struct upload *u, struct manifest *m, struct err *e)
{
    enum err_code rc = store_writable(u->s, e);
    if (rc != ERR_OK || (rc = pieces_end(u, e)) != ERR_OK) {
        goto out;
    }
    if (!u->order && (rc = manifest_seal(&u->m, e)) != ERR_OK) {
        goto out;
    }
    if ((rc = manifest_place(u, e)) != ERR_OK || (rc = dir_sync_deep(u->s, u->dir, e)) != ERR_OK ||
        (rc = tree_publish(u->s, u->temp, u->m.digest, e)) != ERR_OK) {
        goto out;
    }
    u->temp[0] = '\0'; /* tree_publish has taken it */
    *m = u->m;
    u->m = (struct manifest){0};
out:
    upload_free(u);
    return rc;
}
