/* SPDX-License-Identifier: Apache-2.0 */
/* The payload log on its way out: what there is, and its lines in pieces.
 *
 * A place is a file's name and a byte of it, so a reader holds nothing between two pieces: a segment may be sealed,
 * grow or go meanwhile.
 *
 * Thread: the store thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "store/capture_priv.h"

#define PIECE_BYTES (256u << 10) /* then a piece is large enough */
#define LOOK_BYTES (4u << 20)    /* of the disk, at most, for one piece */

bool line_facts(struct str line, struct line_facts *out)
{
    struct json_reader r;
    uint64_t at = 0;
    bool negative = false;
    json_reader_init(&r, line);
    *out = (struct line_facts){0};
    if (json_next(&r) != JSON_OBJECT) {
        return false;
    }
    while (json_next(&r) == JSON_KEY) {
        if (json_text_is(&r, "kind") && json_next(&r) == JSON_STRING) {
            out->kind = r.text;
        } else if (r.kind == JSON_KEY && json_text_is(&r, "at_ms")) {
            bool ok = json_next(&r) == JSON_NUMBER &&
                      json_scan_int(r.text.p, r.text.p + r.text.n, &at, &negative) == r.text.p + r.text.n &&
                      at <= INT64_MAX;
            out->at_ms = negative ? -(int64_t)at : (int64_t)at;
            return ok && out->kind.p;
        } else if (r.kind == JSON_KEY && !json_skip(&r)) {
            return false;
        }
    }
    return false;
}

/* ---- the list ---- */

static int by_file(const void *a, const void *b)
{
    return strcmp(((const struct capture_segment *)a)->file, ((const struct capture_segment *)b)->file);
}

enum err_code capture_log_list(struct capture_log *g, const char *model, struct capture_segment **out, size_t *n,
                               struct err *e)
{
    store_assert_thread(g->s);
    enum err_code rc = capture_rows_of(g->s, model, out, n, e);
    if (rc != ERR_OK) {
        return rc;
    }
    for (const struct segment *seg = g->unsealed; seg; seg = seg->next) {
        if (strcmp(seg->about.model, model) == 0 && seg->about.records > 0) {
            *out = xrealloc(*out, (*n + 1) * sizeof **out);
            (*out)[*n] = seg->about;
            (*out)[(*n)++].sha256[0] = '\0';
        }
    }
    if (*n > 0) {
        qsort(*out, *n, sizeof **out, by_file);
    }
    return ERR_OK;
}

/* ---- lines ---- */

/* The segment that is read next, sealed or not. ERR_NOT_FOUND: there is none. */
static enum err_code segment_next(struct capture_log *g, const struct capture_reading *r, struct capture_segment *out,
                                  struct err *e)
{
    char from[CAPTURE_FILE_MAX + 1];
    snprintf(from, sizeof from, "%s%s", r->file, r->past ? "~" : ""); /* behind every name that begins so */
    enum err_code rc = capture_row_next(g->s, r->model, from, out, e);
    if (rc != ERR_OK && rc != ERR_NOT_FOUND) {
        return rc;
    }
    for (const struct segment *seg = g->unsealed; seg; seg = seg->next) {
        if (strcmp(seg->about.model, r->model) == 0 && strcmp(seg->about.file, from) >= 0 &&
            (rc == ERR_NOT_FOUND || strcmp(seg->about.file, out->file) < 0)) {
            *out = seg->about;
            rc = ERR_OK;
        }
    }
    return rc;
}

static void take_line(struct capture_reading *r, struct str line, struct buf *out)
{
    struct line_facts f;
    if (r->left > 0 && line_facts(line, &f) && f.at_ms >= r->since_ms && f.at_ms < r->until_ms &&
        (r->kind[0] == '\0' || str_is(f.kind, r->kind))) {
        buf_add(out, line.p, line.n);
        r->left -= !out->over;
    }
}

/* The whole lines at the front of what was read; returns how many bytes they are. */
static size_t take_lines(struct capture_reading *r, struct str read, struct buf *out)
{
    size_t at = 0;
    while (at < read.n && out->n < PIECE_BYTES && r->left > 0) {
        const char *eol = memchr(read.p + at, '\n', read.n - at);
        if (!eol) {
            break;
        }
        size_t n = (size_t)(eol - read.p) + 1 - at;
        take_line(r, (struct str){read.p + at, n}, out);
        at += n;
    }
    return at;
}

/* A line that is longer than the scratch. Returns its length, 0: it has no end or can not be read. */
static size_t take_long_line(struct capture_log *g, struct capture_reading *r, int fd, uint64_t size, struct buf *out)
{
    struct buf line;
    size_t n = 0;
    buf_init(&line, CAPTURE_LINE_MAX);
    while (r->at + line.n < size && n == 0) {
        size_t want = (size_t)MIN(size - r->at - line.n, (uint64_t)STORE_PIECE);
        ssize_t got = pread(fd, g->s->scratch, want, (off_t)(r->at + line.n));
        const char *eol = got > 0 ? memchr(g->s->scratch, '\n', (size_t)got) : NULL;
        buf_add(&line, g->s->scratch, eol ? (size_t)(eol - g->s->scratch) + 1 : (size_t)MAX(got, 0));
        if (got <= 0 || line.over) {
            break;
        }
        n = eol ? line.n : 0;
    }
    if (n > 0) {
        take_line(r, buf_str(&line), out);
    }
    buf_done(&line);
    return n;
}

/* A piece of the segment's file. False: nothing more can be had of it. */
static bool read_some(struct capture_log *g, struct capture_reading *r, int fd, uint64_t size, struct buf *out,
                      uint64_t *looked)
{
    if (r->at >= size) {
        return false;
    }
    ssize_t got = pread(fd, g->s->scratch, (size_t)MIN(size - r->at, (uint64_t)STORE_PIECE), (off_t)r->at);
    if (got <= 0) {
        return false;
    }
    size_t n = take_lines(r, (struct str){g->s->scratch, (size_t)got}, out);
    if (n == 0 && out->n < PIECE_BYTES) {
        n = take_long_line(g, r, fd, size, out);
    }
    r->at += n;
    *looked += n;
    return n > 0;
}

static enum err_code read_segment(struct capture_log *g, struct capture_reading *r, const struct capture_segment *c,
                                  struct buf *out, uint64_t *looked, struct err *e)
{
    char path[NAME_MAX_LEN + CAPTURE_FILE_MAX + 2];
    snprintf(path, sizeof path, "%s/%s", c->model, c->file);
    int fd = file_open(g->dir, path, O_RDONLY, 0);
    if (fd < 0 && errno != ENOENT) {
        return err_sys(e, ERR_STORAGE, "can not read %s/%s", g->path, path);
    }
    while (fd >= 0 && r->left > 0 && out->n < PIECE_BYTES && *looked < LOOK_BYTES) {
        if (!read_some(g, r, fd, c->bytes, out, looked)) {
            r->past = true;
            break;
        }
    }
    r->past |= fd < 0;
    if (fd >= 0) {
        close(fd);
    }
    return ERR_OK;
}

enum err_code capture_log_read(struct capture_log *g, struct capture_reading *r, struct buf *out, bool *end,
                               struct err *e)
{
    uint64_t looked = 0;
    store_assert_thread(g->s);
    *end = false;
    while (r->left > 0 && out->n < PIECE_BYTES && looked < LOOK_BYTES) {
        struct capture_segment c;
        enum err_code rc = segment_next(g, r, &c, e);
        if (rc == ERR_NOT_FOUND) {
            break;
        }
        if (rc != ERR_OK) {
            return rc;
        }
        if (strcmp(r->file, c.file) != 0) {
            snprintf(r->file, sizeof r->file, "%s", c.file);
            r->at = 0;
            r->past = false;
        }
        if (c.last_ms < r->since_ms || c.first_ms >= r->until_ms) {
            r->past = true;
        } else if ((rc = read_segment(g, r, &c, out, &looked, e)) != ERR_OK) {
            return rc;
        }
    }
    if (out->over) {
        return err_set(e, ERR_UNAVAILABLE, "no memory for captured requests");
    }
    *end = r->left == 0 || (out->n < PIECE_BYTES && looked < LOOK_BYTES);
    return ERR_OK;
}
