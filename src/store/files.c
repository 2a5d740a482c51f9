/* SPDX-License-Identifier: Apache-2.0 */
/* Files, with care: opens that can not leave their folder, writes that are whole, syncs whose failure is believed.
 *
 * Paths inside a version come from clients. They were checked by name (manifest_path_ok), and the kernel is asked again
 * at every open (openat2: beneath, no links), because names say nothing about what somebody put in the folder since.
 *
 * Thread: the store thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/hash.h"
#include "store/store_priv.h"

/* ---- opening ---- */

/* The same walk for kernels (or containers' filters) without openat2: part by part, none of them a link. */
static int open_by_parts(int dir, const char *path, int flags, mode_t mode)
{
    int at = dir;
    for (;;) {
        size_t n = strcspn(path, "/");
        struct str part = {path, n};
        char name[NAME_MAX_LEN * 2];
        int fd = -1;
        if (n == 0 || str_is(part, "..") || !str_copy(name, sizeof name, part)) {
            errno = n >= sizeof name ? ENAMETOOLONG : EXDEV;
        } else if (path[n] == '/') {
            fd = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        } else {
            fd = openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
        }
        int error = errno;
        if (at != dir) {
            close(at);
        }
        errno = error;
        if (fd < 0 || path[n] != '/') {
            return fd;
        }
        at = fd;
        path += n + 1;
    }
}

int file_open(int dir, const char *path, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
        .mode = (flags & O_CREAT) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    for (int tries = 0; tries < 100; tries++) {
        long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
        if (fd >= 0) {
            return (int)fd;
        }
        if (errno == ENOSYS || errno == EPERM) {
            return open_by_parts(dir, path, flags, mode);
        }
        if (errno != EAGAIN && errno != EINTR) { /* EAGAIN: something was renamed meanwhile */
            return -1;
        }
    }
    return -1;
}

int file_parent(int dir, const char *path, bool make, const char **base)
{
    int at = file_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
    const char *slash;
    while (at >= 0 && (slash = strchr(path, '/')) != NULL) {
        char name[NAME_MAX_LEN * 2];
        int fd = -1;
        if (!str_copy(name, sizeof name, (struct str){path, (size_t)(slash - path)})) {
            errno = ENAMETOOLONG;
        } else if (!make || mkdirat(at, name, 0755) == 0 || errno == EEXIST) {
            fd = file_open(at, name, O_RDONLY | O_DIRECTORY, 0);
        }
        int error = errno;
        close(at);
        errno = error;
        at = fd;
        path = slash + 1;
    }
    *base = path;
    return at;
}

/* ---- reading and writing ---- */

bool file_write_all(int fd, const void *p, size_t n)
{
    const char *at = p;
    while (n > 0) {
        ssize_t done = write(fd, at, n);
        if (done < 0) {
            if (errno == EINTR) {
                continue;
            }
            return false;
        }
        at += done;
        n -= (size_t)done;
    }
    return true;
}

ssize_t file_read(int fd, void *p, size_t n)
{
    size_t got = 0;
    while (got < n) {
        ssize_t done = read(fd, (char *)p + got, n - got);
        if (done < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -1;
        }
        if (done == 0) {
            break;
        }
        got += (size_t)done;
    }
    return (ssize_t)got;
}

bool file_matches(struct store *s, int fd, uint64_t size, const char *sha256)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != size || lseek(fd, 0, SEEK_SET) < 0) {
        return false;
    }
    struct sha256 hash;
    sha256_init(&hash);
    uint64_t left = size;
    while (left > 0) {
        ssize_t n = file_read(fd, s->scratch, (size_t)MIN(left, STORE_PIECE));
        if (n <= 0) {
            sha256_done(&hash);
            return false;
        }
        sha256_add(&hash, s->scratch, (size_t)n);
        left -= (uint64_t)n;
        store_breathe(s);
    }
    char got[65];
    sha256_final(&hash, got);
    return strcmp(got, sha256) == 0;
}

void temp_name(char out[TEMP_NAME_MAX])
{
    uint8_t r[8];
    random_bytes(r, sizeof r);
    hex_encode(out, r, sizeof r);
}

/* ---- failures ---- */

bool file_is_full(int error)
{
    return error == ENOSPC || error == EDQUOT;
}

enum err_code file_fail(const struct store *s, struct err *e, const char *doing, const char *name)
{
    static const struct {
        int error;
        const char *advice;
    } advices[] = {
        {EACCES, ": the server's user must be able to write there"},
        {EPERM, ": the server's user must be able to write there"},
        {EROFS, ": mount it for writing, or choose another folder (artifacts: in weir.yaml)"},
        {EMFILE, ": raise the limit of open files (ulimit -n)"},
        {EIO, ": the disk reports an error, look at the kernel's log"},
        {ELOOP, ": remove the link, links are not followed here"},
    };
    int error = errno;
    const char *advice = "";
    if (file_is_full(error)) {
        return err_set(e, ERR_STORAGE, "disk full: free space under %s and push again (%s)", s->artifacts_path, name);
    }
    for (size_t i = 0; i < COUNT_OF(advices); i++) {
        if (advices[i].error == error) {
            advice = advices[i].advice;
        }
    }
    return err_set(e, ERR_STORAGE, "can not %s %s/%s: %s%s", doing, s->artifacts_path, name, strerror(error), advice);
}

enum err_code file_sync(struct store *s, int fd, const char *name, bool scrap, struct err *e)
{
    while (fsync(fd) < 0) {
        if (errno == EINTR) {
            continue;
        }
        if (scrap && file_is_full(errno)) {
            return file_fail(s, e, "write", name);
        }
        char what[128];
        snprintf(what, sizeof what, "%.90s (%.30s)", name, strerror(errno));
        store_break(s, what);
        return err_set(e, ERR_STORAGE, "%s", s->broken);
    }
    return ERR_OK;
}

/* ---- folders ---- */

static enum err_code parent_sync(const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    char *parent = !slash ? xstrdup(".") : slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum err_code rc = ERR_OK;
    if (fd < 0 || fsync(fd) < 0) {
        rc = err_sys(e, ERR_STORAGE, "can not sync the folder %s", parent);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(parent);
    return rc;
}

enum err_code dirs_make(const char *path, struct err *e)
{
    char *at = xstrdup(path);
    size_t n = strlen(at);
    while (n > 1 && at[n - 1] == '/') {
        at[--n] = '\0';
    }
    enum err_code rc = ERR_OK;
    for (size_t i = 1; i <= n && rc == ERR_OK; i++) {
        if (i < n && (at[i] != '/' || at[i - 1] == '/')) {
            continue;
        }
        char kept = at[i];
        at[i] = '\0';
        if (mkdir(at, 0755) == 0) {
            rc = parent_sync(at, e);
        } else if (errno != EEXIST) {
            rc = err_sys(e, ERR_STORAGE, "can not create the folder %s", at);
        }
        at[i] = kept;
    }
    free(at);
    return rc;
}

static bool dir_empty(int fd, int depth);

static bool entry_remove(int dir, const char *name, int depth)
{
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) {
        return true;
    }
    if ((errno != EISDIR && errno != EPERM) || depth > 4 * TREE_DEPTH_MAX) {
        return false;
    }
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool ok = dir_empty(fd, depth + 1);
    return unlinkat(dir, name, AT_REMOVEDIR) == 0 && ok;
}

/* Takes fd. */
static bool dir_empty(int fd, int depth)
{
    bool ok = true;
    struct dirent *d;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return false;
    }
    while ((d = readdir(dir)) != NULL) {
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) {
            ok = entry_remove(fd, d->d_name, depth) && ok;
        }
    }
    closedir(dir);
    return ok;
}

bool dir_remove(int dir, const char *name)
{
    return entry_remove(dir, name, 0);
}

static enum err_code sync_deep(struct store *s, int fd, int depth, struct err *e)
{
    enum err_code rc = ERR_OK;
    struct dirent *d;
    int again = file_open(fd, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *dir = again < 0 ? NULL : fdopendir(again);
    if (!dir) {
        rc = file_fail(s, e, "read", "tmp");
        if (again >= 0) {
            close(again);
        }
        return rc;
    }
    while (rc == ERR_OK && depth < TREE_DEPTH_MAX && (d = readdir(dir)) != NULL) {
        if (d->d_name[0] == '.' && (d->d_name[1] == '\0' || strcmp(d->d_name, "..") == 0)) {
            continue;
        }
        int sub = file_open(fd, d->d_name, O_RDONLY | O_DIRECTORY, 0);
        if (sub >= 0) {
            rc = sync_deep(s, sub, depth + 1, e);
            close(sub);
        } else if (errno != ENOTDIR) {
            rc = file_fail(s, e, "open", d->d_name);
        }
    }
    closedir(dir);
    return rc == ERR_OK ? file_sync(s, fd, "a folder of the new version", false, e) : rc;
}

enum err_code dir_sync_deep(struct store *s, int fd, struct err *e)
{
    return sync_deep(s, fd, 0, e);
}
