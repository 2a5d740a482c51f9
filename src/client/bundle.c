/* SPDX-License-Identifier: Apache-2.0 */
/* Walking, hashing and streaming a bundle.
 *
 * Files are opened below their folder's descriptor with O_NOFOLLOW, so that what is read is what was listed. The walk
 * is bounded in depth and in number, and sorted by bytes: the same folder gives the same manifest everywhere. */
#include "client/bundle.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"

#define READ_SIZE (256u << 10)

void bundle_free(struct bundle *b)
{
    if (!b) {
        return;
    }
    for (size_t i = 0; i < b->n; i++) {
        free(b->file[i].path);
    }
    free(b->file);
    free(b->root);
    free(b);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct bundle_file *)a)->path, ((const struct bundle_file *)b)->path);
}

static bool left_out(const char *name)
{
    return name[0] == '.' || strcmp(name, "config.pbtxt") == 0;
}

static enum err_code add_file(struct bundle *b, const char *path, uint64_t size, struct err *e)
{
    for (const unsigned char *p = (const unsigned char *)path; *p; p++) {
        if (*p < ' ' || *p == 0x7f || *p == '\\') {
            return err_set(e, ERR_INVALID, "%s: the file name '%s' holds a control character or a backslash", b->root,
                           path);
        }
    }
    if (b->n == BUNDLE_FILES_MAX) {
        return err_set(e, ERR_TOO_LARGE, "%s holds more than %d files: is it a version's folder?", b->root,
                       BUNDLE_FILES_MAX);
    }
    if ((b->n & (b->n - 1)) == 0) {
        b->file = xrealloc(b->file, MAX(b->n * 2, (size_t)1) * sizeof *b->file);
    }
    b->file[b->n++] = (struct bundle_file){.path = xstrdup(path), .size = size};
    if (!ck_add(b->bytes, size, &b->bytes)) {
        return err_set(e, ERR_TOO_LARGE, "%s is too large", b->root);
    }
    return ERR_OK;
}

/* Adds what is in the folder `fd` (taken over); prefix is its path below the root, "" or "a/b/". */
static enum err_code walk(struct bundle *b, int fd, const char *prefix, int depth, struct err *e)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return err_sys(e, ERR_INVALID, "%s/%s", b->root, prefix);
    }
    enum err_code rc = ERR_OK;
    struct dirent *entry;
    while (rc == ERR_OK && (entry = readdir(d))) {
        struct stat st;
        if (left_out(entry->d_name)) {
            continue;
        }
        char *path = xasprintf("%s%s", prefix, entry->d_name);
        if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            rc = err_sys(e, ERR_INVALID, "%s/%s", b->root, path);
        } else if (S_ISREG(st.st_mode)) {
            rc = add_file(b, path, (uint64_t)st.st_size, e);
        } else if (S_ISDIR(st.st_mode) && depth < BUNDLE_DEPTH_MAX) {
            int sub = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            char *below = xasprintf("%s/", path);
            rc = sub < 0 ? err_sys(e, ERR_INVALID, "%s/%s", b->root, path) : walk(b, sub, below, depth + 1, e);
            free(below);
        } else {
            rc = err_set(e, ERR_INVALID, "%s/%s is %s: a version is made of plain files", b->root, path,
                         S_ISLNK(st.st_mode)   ? "a symbolic link"
                         : S_ISDIR(st.st_mode) ? "nested too deep"
                                               : "no plain file");
        }
        free(path);
    }
    closedir(d);
    return rc;
}

/* Opens a listed file again and checks that it is the one that was listed. */
static int open_file(const struct bundle *b, const struct bundle_file *f, struct err *e)
{
    char *full = b->single ? xstrdup(b->root) : xasprintf("%s/%s", b->root, f->path);
    int fd = open(full, O_RDONLY | O_CLOEXEC | O_NOCTTY | (b->single ? 0 : O_NOFOLLOW));
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_sys(e, ERR_INVALID, "%s", full);
    } else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->size) {
        err_set(e, ERR_CONFLICT, "%s changed while it was read", full);
    } else {
        free(full);
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    free(full);
    return -1;
}

static enum err_code hash_file(const struct bundle *b, struct bundle_file *f, char *room, struct err *e)
{
    int fd = open_file(b, f, e);
    if (fd < 0) {
        return ERR_INVALID;
    }
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned int digest_n = 0;
    uint64_t total = 0;
    bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;
    enum err_code rc = ok ? ERR_OK : err_set(e, ERR_INTERNAL, "SHA-256 is not available");
    while (rc == ERR_OK) {
        ssize_t n = read(fd, room, READ_SIZE);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            rc = err_sys(e, ERR_INVALID, "%s/%s", b->root, f->path);
        }
        if (n <= 0) {
            break;
        }
        total += (uint64_t)n;
        EVP_DigestUpdate(md, room, (size_t)n);
    }
    if (rc == ERR_OK && total != f->size) {
        rc = err_set(e, ERR_CONFLICT, "%s changed while it was read", f->path);
    }
    if (rc == ERR_OK) {
        EVP_DigestFinal_ex(md, digest, &digest_n);
        hex_encode(f->sha256, digest, 32);
    }
    EVP_MD_CTX_free(md);
    close(fd);
    return rc;
}

/* The sub-folder of a name/N/ layout to take: `want`, or the highest. 0: there is none. */
static uint64_t numbered(const char *path, uint64_t want, bool *has_model)
{
    DIR *d = opendir(path);
    struct dirent *entry;
    uint64_t best = 0, n;
    *has_model = false;
    while (d && (entry = readdir(d))) {
        struct stat st;
        if (strncmp(entry->d_name, "model.", 6) == 0) {
            *has_model = true;
        }
        bool number = str_u64(str_of(entry->d_name), &n) && n > 0 && entry->d_name[0] != '0';
        if (number && fstatat(dirfd(d), entry->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode) &&
            (want ? n == want : n > best)) {
            best = n;
        }
    }
    if (d) {
        closedir(d);
    }
    return best;
}

static bool has_numbers(const char *path)
{
    bool ignored;
    return numbered(path, 0, &ignored) > 0;
}

static enum err_code read_folder(struct bundle *b, const char *path, uint64_t version, struct err *e)
{
    bool has_model;
    uint64_t n = numbered(path, version, &has_model);
    b->root = xstrdup(path);
    for (size_t i = strlen(b->root); i > 1 && b->root[i - 1] == '/'; i--) {
        b->root[i - 1] = 0;
    }
    if (!has_model && n > 0) {
        char *below = xasprintf("%s/%" PRIu64, b->root, n);
        free(b->root);
        b->root = below;
        b->version = n;
    } else if (!has_model && version && has_numbers(path)) {
        return err_set(e, ERR_NOT_FOUND, "%s has no folder %" PRIu64, path, version);
    }
    int fd = open(b->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_sys(e, ERR_NOT_FOUND, "%s", b->root);
    }
    enum err_code rc = walk(b, fd, "", 0, e);
    if (rc == ERR_OK && b->n == 0) {
        rc = err_set(e, ERR_INVALID, "%s holds no files (hidden files and config.pbtxt do not count)", b->root);
    }
    return rc;
}

enum err_code bundle_new(struct bundle **out, const char *path, uint64_t version, struct err *e)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return err_sys(e, ERR_NOT_FOUND, "%s", path);
    }
    AUTO(bundle) b = xcalloc(1, sizeof *b);
    enum err_code rc;
    if (S_ISDIR(st.st_mode)) {
        rc = read_folder(b, path, version, e);
    } else if (S_ISREG(st.st_mode)) {
        const char *slash = strrchr(path, '/');
        b->root = xstrdup(path);
        b->single = true;
        rc = add_file(b, slash ? slash + 1 : path, (uint64_t)st.st_size, e);
    } else {
        rc = err_set(e, ERR_INVALID, "%s is neither a file nor a folder", path);
    }
    if (rc == ERR_OK && b->bytes == 0) {
        rc = err_set(e, ERR_INVALID, "%s is empty", path);
    }
    if (rc != ERR_OK) {
        return rc;
    }
    qsort(b->file, b->n, sizeof *b->file, by_path);
    char *room = xmalloc(READ_SIZE);
    for (size_t i = 0; rc == ERR_OK && i < b->n; i++) {
        rc = hash_file(b, &b->file[i], room, e);
    }
    free(room);
    if (rc == ERR_OK) {
        *out = TAKE(b);
    }
    return rc;
}

void bundle_manifest(const struct bundle *b, struct buf *out)
{
    BUF_LIT(out, "{\"files\":[");
    for (size_t i = 0; i < b->n; i++) {
        json_comma(out);
        BUF_LIT(out, "{\"path\":");
        json_strz(out, b->file[i].path);
        buf_addf(out, ",\"size\":%" PRIu64 ",\"sha256\":\"%s\"}", b->file[i].size, b->file[i].sha256);
    }
    BUF_LIT(out, "]}");
}

/* ---- the stream ---- */

void bundle_stream_init(struct bundle_stream *s, const struct bundle *b)
{
    memset(s, 0, sizeof *s);
    s->b = b;
    s->fd = -1;
    buf_init(&s->manifest, 32u << 20);
    if (!b->single) {
        bundle_manifest(b, &s->manifest);
    }
    s->size = s->manifest.n + b->bytes;
}

void bundle_stream_done(struct bundle_stream *s)
{
    buf_done(&s->manifest);
    if (s->fd >= 0) {
        close(s->fd);
    }
    s->fd = -1;
}

/* Opens the next file that has bytes. */
static int64_t next_file(struct bundle_stream *s, struct err *e)
{
    while (s->file_left == 0) {
        if (s->fd >= 0) {
            close(s->fd);
            s->fd = -1;
            s->file_at++;
        }
        while (s->file_at < s->b->n && s->b->file[s->file_at].size == 0) {
            s->file_at++;
        }
        assert(s->file_at < s->b->n); /* the source's size ends the reading */
        const struct bundle_file *f = &s->b->file[s->file_at];
        s->fd = open_file(s->b, f, e);
        if (s->fd < 0) {
            return -1;
        }
        s->file_left = f->size;
    }
    return 0;
}

int64_t bundle_stream_read(void *ctx, char *p, size_t cap, struct err *e)
{
    struct bundle_stream *s = ctx;
    size_t n;
    if (s->manifest_at < s->manifest.n) {
        n = MIN(cap, s->manifest.n - s->manifest_at);
        memcpy(p, s->manifest.p + s->manifest_at, n);
        s->manifest_at += n;
    } else {
        if (next_file(s, e) != 0) {
            return -1;
        }
        ssize_t got;
        do {
            got = read(s->fd, p, (size_t)MIN((uint64_t)cap, s->file_left));
        } while (got < 0 && errno == EINTR);
        if (got <= 0) {
            const char *path = s->b->file[s->file_at].path;
            if (got < 0) {
                err_sys(e, ERR_INVALID, "%s", path);
            } else {
                err_set(e, ERR_CONFLICT, "%s became shorter while it was sent", path);
            }
            return -1;
        }
        n = (size_t)got;
        s->file_left -= n;
    }
    s->sent += n;
    if (s->progress) {
        s->progress(s->ctx, s->sent, s->size);
    }
    return (int64_t)n;
}
