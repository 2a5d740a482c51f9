/* SPDX-License-Identifier: Apache-2.0 */
/* A version's list of files, and the one way to write it.
 *
 * The canonical text is {"files":[{"path":"…","size":N,"sha256":"…"},…]} without blanks or a line end, sorted by the
 * paths' bytes; its SHA-256 is the version's digest, so `sha256sum manifest.json` in a tree prints the tree's name.
 * Paths hold only letters, digits, "._-" and '/', so nothing needs escaping.
 *
 * Thread: any. A manifest owns its array. */
#include <stdlib.h>

#include "base/hash.h"
#include "base/json.h"
#include "store/store_priv.h"

void manifest_done(struct manifest *m)
{
    free(m->files);
    *m = (struct manifest){0};
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct manifest_file *)a)->path, ((const struct manifest_file *)b)->path);
}

static const struct manifest_file *find(const struct manifest *m, const char *path, size_t n)
{
    size_t low = 0, high = m->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const char *other = m->files[mid].path;
        int order = strncmp(path, other, n);
        if (order == 0 && other[n] == '\0') {
            return &m->files[mid];
        }
        if (order > 0) {
            low = mid + 1;
        } else {
            high = mid; /* equal so far and longer: it sorts behind */
        }
    }
    return NULL;
}

const struct manifest_file *manifest_find(const struct manifest *m, const char *path)
{
    return find(m, path, strlen(path));
}

enum err_code manifest_path_ok(struct str path, struct err *e)
{
    struct manifest_file f;
    size_t depth = 0;
    if (path.n == 0 || path.n >= sizeof f.path) {
        return err_set(e, ERR_INVALID, "a file's path has %zu bytes: 1 to %zu are allowed", path.n, sizeof f.path - 1);
    }
    for (size_t at = 0; at <= path.n; depth++) {
        const char *slash = memchr(path.p + at, '/', path.n - at);
        size_t end = slash ? (size_t)(slash - path.p) : path.n;
        if (!name_ok((struct str){path.p + at, end - at})) {
            return err_set(e, ERR_INVALID,
                           "the path '" STR_FMT
                           "' is not allowed: relative, parts of letters, digits, '.', '_' and '-', separated by '/'",
                           STR_ARG(path));
        }
        at = end + 1;
    }
    if (depth > TREE_DEPTH_MAX) {
        return err_set(e, ERR_INVALID, "the path '" STR_FMT "' is too deep: %d parts are allowed", STR_ARG(path),
                       TREE_DEPTH_MAX);
    }
    if (str_is(path, "manifest.json")) {
        return err_set(e, ERR_INVALID, "the path 'manifest.json' is taken: Weir writes that file itself; rename yours");
    }
    return ERR_OK;
}

/* ---- reading ---- */

enum { FIELD_PATH = 1, FIELD_SIZE = 2, FIELD_SHA256 = 4, FIELDS = 7 };

static enum err_code read_path(const struct json_reader *r, struct manifest_file *f, struct err *e)
{
    char path[8 * sizeof f->path]; /* an escaped byte takes six */
    if (r->text.n > sizeof path) {
        return err_set(e, ERR_INVALID, "a file's path is too long: %zu bytes are allowed", sizeof f->path - 1);
    }
    struct str s = {path, json_unescape(path, r->text)};
    enum err_code rc = manifest_path_ok(s, e);
    if (rc == ERR_OK) {
        (void)str_copy(f->path, sizeof f->path, s);
    }
    return rc;
}

static enum err_code read_size(const struct json_reader *r, struct manifest_file *f, struct err *e)
{
    bool negative = false;
    uint64_t size = 0;
    const char *end = json_scan_int(r->text.p, r->text.p + r->text.n, &size, &negative);
    if (end != r->text.p + r->text.n || negative || size > INT64_MAX) {
        return err_set(e, ERR_INVALID, "a file's size must be a whole number of bytes, not " STR_FMT, STR_ARG(r->text));
    }
    f->size = size;
    return ERR_OK;
}

static enum err_code read_sha256(const struct json_reader *r, struct manifest_file *f, struct err *e)
{
    if (!str_copy(f->sha256, sizeof f->sha256, r->text) || !digest_ok(f->sha256)) {
        return err_set(e, ERR_INVALID, "a file's sha256 must be 64 lower-case hex digits");
    }
    return ERR_OK;
}

/* One object of the list; its brace was read. */
static enum err_code read_file(struct json_reader *r, struct manifest_file *f, struct err *e)
{
    unsigned seen = 0;
    enum err_code rc = ERR_OK;
    enum json_kind kind;
    while ((kind = json_next(r)) == JSON_KEY) {
        unsigned field = json_text_is(r, "path")     ? FIELD_PATH
                         : json_text_is(r, "size")   ? FIELD_SIZE
                         : json_text_is(r, "sha256") ? FIELD_SHA256
                                                     : 0;
        kind = json_next(r);
        if (kind == JSON_ERROR) {
            return json_error(r, e);
        }
        if (field && (seen & field || kind != (field == FIELD_SIZE ? JSON_NUMBER : JSON_STRING))) {
            return err_set(e, ERR_INVALID,
                           "the list of files: path, size and sha256 come once each: a string, a number, a string");
        }
        seen |= field;
        switch (field) {
        case FIELD_PATH:
            rc = read_path(r, f, e);
            break;
        case FIELD_SIZE:
            rc = read_size(r, f, e);
            break;
        case FIELD_SHA256:
            rc = read_sha256(r, f, e);
            break;
        default:
            rc = json_skip(r) ? ERR_OK : json_error(r, e);
        }
        if (rc != ERR_OK) {
            return rc;
        }
    }
    if (kind != JSON_OBJECT_END) {
        return json_error(r, e);
    }
    return seen == FIELDS ? ERR_OK
                          : err_set(e, ERR_INVALID, "the list of files: each file needs path, size and sha256");
}

static enum err_code no_memory(struct err *e)
{
    return err_set(e, ERR_UNAVAILABLE, "no memory for the list of files");
}

static enum err_code read_files(struct json_reader *r, struct manifest *m, size_t *cap, struct err *e)
{
    enum json_kind kind;
    while ((kind = json_next(r)) == JSON_OBJECT) {
        if (m->n == MANIFEST_FILES_MAX) {
            return err_set(e, ERR_INVALID, "a version has at most %d files", MANIFEST_FILES_MAX);
        }
        if (m->n == *cap) {
            size_t grown = *cap ? *cap * 2 : 16;
            struct manifest_file *files = realloc(m->files, grown * sizeof *m->files);
            if (!files) {
                return no_memory(e);
            }
            m->files = files;
            *cap = grown;
        }
        memset(&m->files[m->n], 0, sizeof *m->files);
        enum err_code rc = read_file(r, &m->files[m->n], e);
        if (rc != ERR_OK) {
            return rc;
        }
        m->n++;
    }
    if (kind == JSON_ERROR) {
        return json_error(r, e);
    }
    return kind == JSON_ARRAY_END ? ERR_OK : err_set(e, ERR_INVALID, "the list of files: \"files\" must hold objects");
}

static enum err_code read_manifest(struct json_reader *r, struct manifest *m, struct err *e)
{
    size_t cap = 0;
    bool seen = false;
    enum json_kind kind = json_next(r);
    if (kind != JSON_OBJECT) {
        return kind == JSON_ERROR ? json_error(r, e)
                                  : err_set(e, ERR_INVALID, "the list of files must be an object with \"files\"");
    }
    while ((kind = json_next(r)) == JSON_KEY) {
        bool files = json_text_is(r, "files");
        kind = json_next(r);
        if (kind == JSON_ERROR) {
            return json_error(r, e);
        }
        if (!files) {
            if (!json_skip(r)) {
                return json_error(r, e);
            }
            continue;
        }
        if (seen || kind != JSON_ARRAY) {
            return err_set(e, ERR_INVALID, "the list of files: \"files\" must come once, as an array");
        }
        seen = true;
        enum err_code rc = read_files(r, m, &cap, e);
        if (rc != ERR_OK) {
            return rc;
        }
    }
    if (kind != JSON_OBJECT_END || json_next(r) != JSON_END) {
        return json_error(r, e);
    }
    return m->n ? ERR_OK : err_set(e, ERR_INVALID, "the list of files is empty: a version needs at least one file");
}

enum err_code manifest_parse(struct manifest *out, struct str text, struct err *e)
{
    if (text.n > MANIFEST_BYTES_MAX) {
        return err_set(e, ERR_TOO_LARGE, "the list of files has %zu bytes: %u are allowed", text.n, MANIFEST_BYTES_MAX);
    }
    struct manifest m = {0};
    struct json_reader r;
    json_reader_init(&r, text);
    enum err_code rc = read_manifest(&r, &m, e);
    if (rc != ERR_OK) {
        manifest_done(&m);
        return rc;
    }
    *out = m;
    return ERR_OK;
}

/* ---- sealing ---- */

/* "a" can not be a file when "a/b" is one. */
static enum err_code folders_check(const struct manifest *m, const char *path, struct err *e)
{
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        if (find(m, path, (size_t)(slash - path))) {
            return err_set(e, ERR_INVALID, "the list of files: '%.*s' is a file and the folder of '%s'",
                           (int)(slash - path), path, path);
        }
    }
    return ERR_OK;
}

void manifest_write(const struct manifest *m, struct buf *out)
{
    BUF_LIT(out, "{\"files\":[");
    for (size_t i = 0; i < m->n; i++) {
        const struct manifest_file *f = &m->files[i];
        buf_addz(out, i ? ",{\"path\":\"" : "{\"path\":\"");
        buf_addz(out, f->path);
        BUF_LIT(out, "\",\"size\":");
        buf_addu(out, f->size);
        BUF_LIT(out, ",\"sha256\":\"");
        buf_addz(out, f->sha256);
        BUF_LIT(out, "\"}");
    }
    BUF_LIT(out, "]}");
}

enum err_code manifest_seal(struct manifest *m, struct err *e)
{
    qsort(m->files, m->n, sizeof *m->files, by_path);
    m->bytes = 0;
    for (size_t i = 0; i < m->n; i++) {
        const struct manifest_file *f = &m->files[i];
        if (i > 0 && strcmp(m->files[i - 1].path, f->path) == 0) {
            return err_set(e, ERR_INVALID, "the list of files: '%s' comes twice", f->path);
        }
        if (!ck_add(m->bytes, f->size, &m->bytes) || m->bytes > INT64_MAX) {
            return err_set(e, ERR_INVALID, "the list of files: the sizes add up to more than there can be");
        }
        enum err_code rc = folders_check(m, f->path, e);
        if (rc != ERR_OK) {
            return rc;
        }
    }
    struct buf text;
    buf_init(&text, MANIFEST_BYTES_MAX);
    manifest_write(m, &text);
    enum err_code rc = ERR_OK;
    if (!text.over) {
        sha256_hex(m->digest, text.p, text.n);
    } else {
        rc = text.lack ? no_memory(e)
                       : err_set(e, ERR_TOO_LARGE, "the list of files is larger than %u bytes", MANIFEST_BYTES_MAX);
    }
    buf_done(&text);
    return rc;
}
