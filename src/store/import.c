/* SPDX-License-Identifier: Apache-2.0 */
/* An upload from this machine: a file or a folder, read piece by piece through the same stages as one that comes over
 * the network.
 *
 * No links are followed, also not in the path itself: the caller has checked that path against its allowed roots, and a
 * link put in its way since must not lead out of them. Give it a path from realpath().
 *
 * Thread: the store thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/openat2.h>
#include <sys/syscall.h>

#include "store/store_priv.h"

struct import {
    struct store *s;
    struct upload *u;
    char *piece; /* of its own: the scratch is used below */
    const char *from;
};

static enum err_code import_fail(const struct import *in, const char *path, struct err *e)
{
    if (errno == ELOOP) {
        return err_set(e, ERR_INVALID,
                       "%s%s%s: it is or goes through a symbolic link, links are not followed: give the real path",
                       in->from, path[0] ? "/" : "", path);
    }
    return err_sys(e, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_REFUSED, "can not read %s%s%s",
                   in->from, path[0] ? "/" : "", path);
}

static const char *kind_name(mode_t mode)
{
    return S_ISLNK(mode)    ? "a symbolic link"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISDIR(mode)  ? "a folder"
                            : "a device";
}

/* path: what it is called in the version, NULL: by its first bytes. */
static enum err_code import_file(struct import *in, int fd, const char *path, struct err *e)
{
    enum err_code rc = upload_file_begin(in->u, e);
    if (rc != ERR_OK) {
        return rc;
    }
    uint64_t total = 0;
    for (;;) {
        ssize_t n = file_read(fd, in->piece, STORE_PIECE);
        if (n < 0) {
            return import_fail(in, path ? path : "", e);
        }
        if (n == 0) {
            break;
        }
        total += (uint64_t)n;
        if ((rc = upload_file_write(in->u, in->piece, (size_t)n, e)) != ERR_OK) {
            return rc;
        }
        store_breathe(in->s);
    }
    if (!path && total == 0) {
        return err_set(e, ERR_INVALID, "%s is empty", in->from);
    }
    return upload_file_end(in->u, path, e);
}

static enum err_code import_folder(struct import *in, int dir, const char *prefix, struct err *e);

static enum err_code import_entry(struct import *in, int dir, const char *prefix, const char *name, struct err *e)
{
    struct manifest_file f;
    struct stat st;
    enum err_code rc;
    int n = snprintf(f.path, sizeof f.path, "%s%s%s", prefix, prefix[0] ? "/" : "", name);
    if (n < 0 || (size_t)n >= sizeof f.path) {
        return err_set(e, ERR_INVALID, "%s: the path of %s in %s is too long: %zu bytes are allowed", in->from, name,
                       prefix, sizeof f.path - 1);
    }
    if ((rc = manifest_path_ok(str_of(f.path), e)) != ERR_OK) {
        return rc;
    }
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return import_fail(in, f.path, e);
    }
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
        return err_set(e, ERR_INVALID, "%s/%s is %s: a version holds plain files and folders only", in->from, f.path,
                       kind_name(st.st_mode));
    }
    int fd = file_open(dir, name, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        return import_fail(in, f.path, e);
    }
    struct stat now;
    if (fstat(fd, &now) < 0 || (now.st_mode & S_IFMT) != (st.st_mode & S_IFMT)) {
        rc = err_set(e, ERR_CONFLICT, "%s/%s changed while it was read: push again", in->from, f.path);
    } else {
        rc = S_ISDIR(st.st_mode) ? import_folder(in, fd, f.path, e) : import_file(in, fd, f.path, e);
    }
    close(fd);
    return rc;
}

static enum err_code import_folder(struct import *in, int dir, const char *prefix, struct err *e)
{
    enum err_code rc = ERR_OK;
    struct dirent *d;
    int again = file_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    if (!list) {
        rc = import_fail(in, prefix, e);
        if (again >= 0) {
            close(again);
        }
        return rc;
    }
    while (rc == ERR_OK && (d = readdir(list)) != NULL) {
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) {
            rc = import_entry(in, dir, prefix, d->d_name, e);
        }
    }
    closedir(list);
    return rc;
}

static int root_open(const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) {
        return (int)fd;
    }
    /* Without openat2: part by part from the root or from here. */
    int at = open(path[0] == '/' ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    path += strspn(path, "/");
    fd = at < 0 ? -1 : path[0] ? file_open(at, path, O_RDONLY | O_NONBLOCK, 0) : dup(at);
    int error = errno;
    if (at >= 0) {
        close(at);
    }
    errno = error;
    return (int)fd;
}

enum err_code artifact_import(struct store *s, const char *path, struct manifest *m, struct err *e)
{
    struct import in = {.s = s, .from = path};
    struct stat st;
    enum err_code rc = upload_begin(&in.u, s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    int fd = root_open(path);
    if (fd < 0 || fstat(fd, &st) < 0) {
        rc = import_fail(&in, "", e);
        goto out;
    }
    in.piece = xmalloc(STORE_PIECE);
    if (S_ISDIR(st.st_mode)) {
        rc = import_folder(&in, fd, "", e);
    } else if (S_ISREG(st.st_mode)) {
        const char *slash = strrchr(path, '/');
        const char *name = slash ? slash + 1 : path;
        rc = import_file(&in, fd, strncmp(name, "model.", 6) == 0 && name_ok(str_of(name)) ? name : NULL, e);
    } else {
        rc = err_set(e, ERR_INVALID, "%s is %s: a file or a folder is needed", path, kind_name(st.st_mode));
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    free(in.piece);
    if (rc != ERR_OK) {
        upload_abort(in.u);
        return rc;
    }
    return upload_finish(in.u, m, e);
}
