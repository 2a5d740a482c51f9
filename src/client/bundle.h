/* SPDX-License-Identifier: Apache-2.0 */
/* What is pushed: a model file, or a version's folder as a manifest and a stream of bytes.
 *
 * A folder is read once to hash every file (SHA-256) and once more while it is sent; a file that changed in between is
 * noticed. Hidden files and Triton's config.pbtxt are left out; a symbolic link or anything that is no plain file is an
 * error, because the server would not have what it points at. The path given by the person may itself be a link.
 *
 * Thread: one at a time. Blocks on the disk. */
#ifndef WEIR_CLIENT_BUNDLE_H
#define WEIR_CLIENT_BUNDLE_H

#include "base/buf.h"
#include "client/http_client.h"

#define BUNDLE_FILES_MAX 4096
#define BUNDLE_DEPTH_MAX 16

struct bundle_file {
    char *path; /* below the folder, '/' between its parts; of a single file: its own name */
    uint64_t size;
    char sha256[65]; /* lower-case hexadecimal */
};

struct bundle {
    char *root;               /* the folder, or the one file */
    bool single;              /* one file: sent as it is, without a manifest */
    uint64_t version;         /* from a name/N/ layout; 0: not said */
    struct bundle_file *file; /* sorted by path */
    size_t n;
    uint64_t bytes; /* of all files */
};

/* path: a model file, a version's folder (model.onnx and so on), or a model's folder with numeric sub-folders, of which
 * `version` is taken, or the highest if it is 0. *out is the caller's. ERR_NOT_FOUND, ERR_INVALID, ERR_TOO_LARGE. */
enum err_code bundle_new(struct bundle **out, const char *path, uint64_t version, struct err *e) MUST_USE;
void bundle_free(struct bundle *b);
AUTO_DEFINE(bundle)
/* {"files":[{"path","size","sha256"}…]} */
void bundle_manifest(const struct bundle *b, struct buf *out);

/* The body of a push, for http_call_stream: the manifest (unless single), then the files. */
struct bundle_stream {
    const struct bundle *b;
    struct buf manifest;
    size_t manifest_at, file_at;
    int fd;             /* of file_at; -1: not open */
    uint64_t file_left; /* bytes */
    uint64_t sent, size;
    void (*progress)(void *ctx, uint64_t sent, uint64_t size); /* may be NULL */
    void *ctx;
};
void bundle_stream_init(struct bundle_stream *s, const struct bundle *b);
void bundle_stream_done(struct bundle_stream *s);
/* For http_source.read; ctx is the struct bundle_stream. */
int64_t bundle_stream_read(void *ctx, char *p, size_t cap, struct err *e);

#endif
