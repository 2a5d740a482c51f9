/* SPDX-License-Identifier: Apache-2.0 */
/* Trees: one folder for each version's digest, complete from the moment it is seen, read in full before it is trusted.
 *
 * Between the push that puts a tree in place and the change that registers its version nothing in the database names
 * it; a pin does. So two pushes of the same bytes may run side by side, one of them be refused and dropped, and the
 * other keeps its tree.
 *
 * Thread: the store thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/store_priv.h"

bool digest_ok(const char *digest)
{
    return strlen(digest) == 64 && strspn(digest, "0123456789abcdef") == 64;
}

/* ---- pins ---- */

static void tree_pin(struct store *s, const char *digest)
{
    uintptr_t count = (uintptr_t)map_get(&s->pins, str_of(digest));
    map_put(&s->pins, str_of(digest), (void *)(count + 1));
}

void tree_unpin(struct store *s, const char *digest)
{
    uintptr_t count = (uintptr_t)map_get(&s->pins, str_of(digest));
    if (count > 1) {
        map_put(&s->pins, str_of(digest), (void *)(count - 1));
    } else if (count == 1) {
        map_del(&s->pins, str_of(digest));
    }
}

/* ---- reading ---- */

static enum err_code damaged(struct err *e, const char *digest, const char *file, const char *what)
{
    return err_set(e, ERR_STORAGE, "artifact %.12s is damaged: %s %s; push the version again", digest, file, what);
}

static int tree_fd(struct store *s, const char *digest, struct err *e)
{
    if (!digest_ok(digest)) {
        err_set(e, ERR_STORAGE, "'%.80s' is no digest: 64 lower-case hex digits are", digest);
        return -1;
    }
    int fd = file_open(s->trees_fd, digest, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0 && errno == ENOENT) {
        err_set(e, ERR_STORAGE, "artifact %.12s is missing from %s/trees: push the version again", digest,
                s->artifacts_path);
    } else if (fd < 0) {
        file_fail(s, e, "open", digest);
    }
    return fd;
}

static enum err_code manifest_load(struct store *s, int dir, const char *digest, struct manifest *m, struct err *e)
{
    struct stat st;
    struct buf text;
    char sum[65] = "";
    enum err_code rc = ERR_OK;
    int fd = file_open(dir, "manifest.json", O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        return errno == ENOENT ? damaged(e, digest, "manifest.json", "is missing")
                               : file_fail(s, e, "open", "manifest.json");
    }
    buf_init(&text, MANIFEST_BYTES_MAX);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > MANIFEST_BYTES_MAX) {
        rc = damaged(e, digest, "manifest.json", "has changed");
        goto out;
    }
    char *room = buf_room(&text, (size_t)st.st_size);
    ssize_t n = room ? file_read(fd, room, (size_t)st.st_size) : 0;
    if (n < 0) {
        rc = file_fail(s, e, "read", "manifest.json");
        goto out;
    }
    sha256_hex(sum, room ? room : "", (size_t)n);
    if (n != st.st_size || strcmp(sum, digest) != 0) {
        rc = damaged(e, digest, "manifest.json", "has changed");
        goto out;
    }
    if ((rc = manifest_parse(m, (struct str){room, (size_t)n}, e)) == ERR_OK && (rc = manifest_seal(m, e)) != ERR_OK) {
        manifest_done(m);
    }
out:
    buf_done(&text);
    close(fd);
    return rc;
}

/* How many entries other than folders there are; -1 if that can not be told. */
static long tree_count(int dir, int depth)
{
    long count = 0;
    struct dirent *d;
    int again = depth > TREE_DEPTH_MAX ? -1 : file_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    if (!list) {
        if (again >= 0) {
            close(again);
        }
        return -1;
    }
    while (count >= 0 && (d = readdir(list)) != NULL) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) {
            continue;
        }
        struct stat st;
        if (fstatat(again, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            count = -1;
        } else if (!S_ISDIR(st.st_mode)) {
            count++;
        } else {
            int sub = file_open(again, d->d_name, O_RDONLY | O_DIRECTORY, 0);
            long more = sub < 0 ? -1 : tree_count(sub, depth + 1);
            count = more < 0 ? -1 : count + more;
            if (sub >= 0) {
                close(sub);
            }
        }
    }
    closedir(list);
    return count;
}

enum err_code artifact_open(struct store *s, const char *digest, int *dirfd, struct manifest *m, struct err *e)
{
    store_assert_thread(s);
    struct manifest found = {0};
    int dir = tree_fd(s, digest, e);
    if (dir < 0) {
        return ERR_STORAGE;
    }
    enum err_code rc = manifest_load(s, dir, digest, &found, e);
    for (size_t i = 0; i < found.n && rc == ERR_OK; i++) {
        const struct manifest_file *f = &found.files[i];
        int fd = file_open(dir, f->path, O_RDONLY | O_NONBLOCK, 0);
        if (fd < 0) {
            rc = errno == ENOENT || errno == ELOOP || errno == ENOTDIR
                     ? damaged(e, digest, f->path, "is missing or a link")
                     : file_fail(s, e, "open", f->path);
        } else {
            rc = file_matches(s, fd, f->size, f->sha256) ? ERR_OK : damaged(e, digest, f->path, "has changed");
            close(fd);
        }
    }
    if (rc == ERR_OK && tree_count(dir, 0) != (long)found.n + 1) {
        rc = damaged(e, digest, "the folder", "holds files that its manifest does not name");
    }
    if (rc != ERR_OK) {
        manifest_done(&found);
        close(dir);
        return rc;
    }
    *dirfd = dir;
    *m = found;
    return ERR_OK;
}

static enum err_code content_read(struct store *s, int dir, const char *digest, const struct manifest_file *f,
                                  struct buf *out, struct err *e)
{
    size_t before = out->n;
    char sum[65];
    char *room = f->size > SIZE_MAX / 2 ? NULL : buf_room(out, (size_t)f->size);
    if (!room) {
        out->over = false; /* nothing was added: the buffer is as it was */
        return err_set(e, ERR_TOO_LARGE, "%s has %llu bytes: %zu are allowed here", f->path,
                       (unsigned long long)f->size, out->max);
    }
    int fd = file_open(dir, f->path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        return errno == ENOENT ? damaged(e, digest, f->path, "is missing") : file_fail(s, e, "open", f->path);
    }
    ssize_t n = file_read(fd, room, (size_t)f->size);
    enum err_code rc = n < 0 ? file_fail(s, e, "read", f->path) : ERR_OK;
    close(fd);
    if (rc != ERR_OK) {
        return rc;
    }
    sha256_hex(sum, out->p + before, (size_t)n);
    if ((uint64_t)n != f->size || strcmp(sum, f->sha256) != 0) {
        return damaged(e, digest, f->path, "has changed");
    }
    out->n = before + (size_t)n;
    return ERR_OK;
}

enum err_code artifact_read(struct store *s, const char *digest, const char *path, struct buf *out, struct err *e)
{
    store_assert_thread(s);
    struct manifest m = {0};
    int dir = tree_fd(s, digest, e);
    if (dir < 0) {
        return ERR_STORAGE;
    }
    enum err_code rc = manifest_load(s, dir, digest, &m, e);
    if (rc == ERR_OK) {
        const struct manifest_file *f = manifest_find(&m, path);
        rc = f ? content_read(s, dir, digest, f, out, e)
               : err_set(e, ERR_NOT_FOUND, "artifact %.12s has no file %s", digest, path);
    }
    manifest_done(&m);
    close(dir);
    return rc;
}

/* ---- publishing ---- */

static bool tree_whole(struct store *s, const char *digest)
{
    struct manifest m = {0};
    struct err why = {0};
    int dir = -1;
    if (artifact_open(s, digest, &dir, &m, &why) != ERR_OK) {
        log_warn("store", "%s: the push replaces it", why.text);
        return false;
    }
    manifest_done(&m);
    close(dir);
    return true;
}

/* The old tree is damaged: swap, so that there is no moment without one. */
static bool tree_replace(struct store *s, const char *temp, const char *digest)
{
    if (renameat2(s->tmp_fd, temp, s->trees_fd, digest, RENAME_EXCHANGE) == 0) {
        dir_remove(s->tmp_fd, temp);
        return true;
    }
    char old[TEMP_NAME_MAX];
    temp_name(old);
    if (renameat(s->trees_fd, digest, s->tmp_fd, old) < 0 || renameat(s->tmp_fd, temp, s->trees_fd, digest) < 0) {
        return false;
    }
    dir_remove(s->tmp_fd, old);
    return true;
}

enum err_code tree_publish(struct store *s, const char *temp, const char *digest, struct err *e)
{
    int failed = renameat2(s->tmp_fd, temp, s->trees_fd, digest, RENAME_NOREPLACE);
    if (failed && (errno == EINVAL || errno == ENOSYS)) {
        failed = renameat(s->tmp_fd, temp, s->trees_fd, digest); /* does not replace a folder with something in it */
    }
    if (failed && errno != EEXIST && errno != ENOTEMPTY) {
        return file_fail(s, e, "create", digest);
    }
    bool keep = failed && tree_whole(s, digest);
    if (failed && !keep && !tree_replace(s, temp, digest)) {
        return file_fail(s, e, "replace", digest);
    }
    /* Also for a tree that was there: whoever renamed it may have died before this. */
    enum err_code rc = file_sync(s, s->trees_fd, "trees", false, e);
    if (rc != ERR_OK) {
        return rc;
    }
    if (keep) {
        dir_remove(s->tmp_fd, temp);
    }
    tree_pin(s, digest);
    return ERR_OK;
}

/* ---- removal ---- */

static void blob_drop(struct store *s, const char *sha256)
{
    char path[68];
    struct stat st;
    snprintf(path, sizeof path, "%.2s/%s", sha256, sha256);
    if (fstatat(s->blobs_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1) {
        unlinkat(s->blobs_fd, path, 0);
    }
}

void artifact_drop(struct store *s, const char *digest)
{
    store_assert_thread(s);
    struct manifest m = {0};
    char temp[TEMP_NAME_MAX];
    tree_unpin(s, digest);
    if (s->broken[0] || map_get(&s->pins, str_of(digest)) || db_names_digest(s, digest)) {
        return;
    }
    int dir = tree_fd(s, digest, NULL);
    if (dir < 0) {
        return;
    }
    if (manifest_load(s, dir, digest, &m, NULL) != ERR_OK) {
        m = (struct manifest){0}; /* its blobs are found by the next start */
    }
    close(dir);
    temp_name(temp);
    if (renameat(s->trees_fd, digest, s->tmp_fd, temp) < 0) {
        log_warn("store", "can not remove an artifact that is no longer needed digest=%s: %s", digest, strerror(errno));
    } else if (!dir_remove(s->tmp_fd, temp)) {
        log_warn("store", "can not remove all of an artifact, the next start tries again digest=%s", digest);
    }
    for (size_t i = 0; i < m.n; i++) {
        blob_drop(s, m.files[i].sha256);
    }
    manifest_done(&m);
}
