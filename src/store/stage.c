/* SPDX-License-Identifier: Apache-2.0 */
/* One file on its way into the store: written without a name, hashed as it passes, then linked in as a blob and into
 * its tree.
 *
 * O_TMPFILE gives a file that vanishes with the process, so a crash leaves nothing; where the file system has none, a
 * file in tmp/ takes its place and store_open removes what is left there. Where hard links are refused the tree gets a
 * copy. A blob that is there already is read before it is trusted: pushing a damaged file again mends it.
 *
 * Thread: the store thread. Owner: the upload. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/store_priv.h"

#define FLUSH_EVERY (8u << 20) /* the kernel begins to write early, so that the fsync at the end is short */

static int named_open(struct store *s, char temp[TEMP_NAME_MAX])
{
    temp_name(temp);
    return file_open(s->tmp_fd, temp, O_RDWR | O_CREAT | O_EXCL, 0600);
}

enum err_code stage_open(struct stage *st, struct store *s, struct err *e)
{
    *st = (struct stage){.s = s, .fd = -1};
    if (!s->named_temp) {
        st->fd = openat(s->tmp_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
        if (st->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL)) {
            s->named_temp = true;
        }
    }
    if (s->named_temp) {
        st->fd = named_open(s, st->temp);
    }
    if (st->fd < 0) {
        st->temp[0] = '\0';
        return file_fail(s, e, "create a file in", "tmp");
    }
    sha256_init(&st->hash);
    return ERR_OK;
}

void stage_done(struct stage *st)
{
    sha256_done(&st->hash);
    if (st->fd >= 0) {
        close(st->fd);
        st->fd = -1;
        if (st->temp[0]) {
            unlinkat(st->s->tmp_fd, st->temp, 0);
            st->temp[0] = '\0';
        }
    }
}

enum err_code stage_write(struct stage *st, const void *p, size_t n, const char *name, struct err *e)
{
    if (!file_write_all(st->fd, p, n)) {
        return file_fail(st->s, e, "write", name);
    }
    sha256_add(&st->hash, p, n);
    st->size += n;
    if (st->size - st->flushed >= FLUSH_EVERY) {
        /* Only a hint; what goes wrong in it is reported by the fsync. */
        (void)sync_file_range(st->fd, (off_t)st->flushed, (off_t)(st->size - st->flushed), SYNC_FILE_RANGE_WRITE);
        st->flushed = st->size;
    }
    return ERR_OK;
}

void stage_hash(struct stage *st, char sha256[65])
{
    sha256_final(&st->hash, sha256);
}

/* ---- putting it in place ---- */

/* to: a new, empty file. */
static enum err_code copy_into(struct stage *st, int to, const char *name, struct err *e)
{
    struct store *s = st->s;
    for (uint64_t at = 0; at < st->size;) {
        ssize_t n = pread(st->fd, s->scratch, STORE_PIECE, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n < 0 ? errno : EIO;
            return file_fail(s, e, "read", name);
        }
        if (!file_write_all(to, s->scratch, (size_t)n)) {
            return file_fail(s, e, "write", name);
        }
        at += (uint64_t)n;
        store_breathe(s);
    }
    if (fchmod(to, 0444) < 0) {
        return file_fail(s, e, "protect", name);
    }
    return file_sync(s, to, name, true, e);
}

static int stage_link(struct stage *st, int dir, const char *name)
{
    if (st->temp[0]) {
        return linkat(st->s->tmp_fd, st->temp, dir, name, 0);
    }
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", st->fd);
    return linkat(AT_FDCWD, path, dir, name, AT_SYMLINK_FOLLOW);
}

/* Gives the file a name in tmp/, by a link or, where that is refused, by a copy. */
static enum err_code stage_name(struct stage *st, const char *name, struct err *e)
{
    if (st->temp[0]) {
        return ERR_OK;
    }
    char temp[TEMP_NAME_MAX];
    temp_name(temp);
    if (stage_link(st, st->s->tmp_fd, temp) < 0) {
        int fd = named_open(st->s, temp);
        if (fd < 0) {
            return file_fail(st->s, e, "create", name);
        }
        enum err_code rc = copy_into(st, fd, name, e);
        if (rc != ERR_OK) {
            close(fd);
            unlinkat(st->s->tmp_fd, temp, 0);
            return rc;
        }
        close(st->fd);
        st->fd = fd;
    }
    memcpy(st->temp, temp, sizeof temp);
    return ERR_OK;
}

static bool blob_good(struct stage *st, int dir, const char *sha256)
{
    int fd = file_open(dir, sha256, O_RDONLY, 0);
    if (fd < 0) {
        return false;
    }
    bool good = file_matches(st->s, fd, st->size, sha256);
    close(fd);
    return good;
}

static enum err_code blob_put(struct stage *st, int dir, const char *sha256, const char *name, struct err *e)
{
    if (stage_link(st, dir, sha256) < 0) {
        if (errno == EEXIST) {
            if (blob_good(st, dir, sha256)) {
                return ERR_OK;
            }
            log_warn("store", "a damaged file was replaced sha256=%s file=%s", sha256, name);
        } else if (file_is_full(errno)) {
            return file_fail(st->s, e, "create", name);
        }
        enum err_code rc = stage_name(st, name, e);
        if (rc != ERR_OK) {
            return rc;
        }
        if (renameat(st->s->tmp_fd, st->temp, dir, sha256) < 0) {
            return file_fail(st->s, e, "create", name);
        }
        st->temp[0] = '\0';
    }
    return file_sync(st->s, dir, "blobs", false, e);
}

/* The folder of a blob: blobs/ab. */
static int blob_dir(struct store *s, const char *sha256, struct err *e)
{
    char name[3] = {sha256[0], sha256[1], '\0'};
    bool made = mkdirat(s->blobs_fd, name, 0755) == 0;
    int fd = made || errno == EEXIST ? file_open(s->blobs_fd, name, O_RDONLY | O_DIRECTORY, 0) : -1;
    if (fd < 0) {
        file_fail(s, e, "create", "blobs");
    } else if (made && file_sync(s, s->blobs_fd, "blobs", false, e) != ERR_OK) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static enum err_code tree_put(struct stage *st, int blobs, const char *sha256, int tree, const char *path,
                              struct err *e)
{
    const char *base;
    int dir = file_parent(tree, path, true, &base);
    if (dir < 0) {
        return file_fail(st->s, e, "create the folder of", path);
    }
    enum err_code rc = ERR_OK;
    if (linkat(blobs, sha256, dir, base, 0) < 0) {
        int fd = -1;
        if (errno == EEXIST || file_is_full(errno) ||
            (fd = file_open(dir, base, O_WRONLY | O_CREAT | O_EXCL, 0600)) < 0) {
            rc = file_fail(st->s, e, "create", path);
        } else {
            rc = copy_into(st, fd, path, e);
            close(fd);
        }
    }
    close(dir);
    return rc;
}

enum err_code stage_place(struct stage *st, const char *sha256, int tree, const char *path, struct err *e)
{
    enum err_code rc;
    int blobs = -1;
    if (fchmod(st->fd, 0444) < 0) {
        rc = file_fail(st->s, e, "protect", path);
        goto out;
    }
    if ((rc = file_sync(st->s, st->fd, path, true, e)) != ERR_OK) {
        goto out;
    }
    if ((blobs = blob_dir(st->s, sha256, e)) < 0) {
        rc = ERR_STORAGE;
        goto out;
    }
    if ((rc = blob_put(st, blobs, sha256, path, e)) == ERR_OK) {
        rc = tree_put(st, blobs, sha256, tree, path, e);
    }
out:
    if (blobs >= 0) {
        close(blobs);
    }
    stage_done(st);
    return rc;
}
