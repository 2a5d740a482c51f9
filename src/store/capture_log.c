/* SPDX-License-Identifier: Apache-2.0 */
/* The payload log: segments on their way in, sealed, recovered and removed; see capture_log.h.
 *
 * A row of the database is the last step of sealing, and removing the file the first step of removing: a crash in
 * between leaves a file without a row (sealed at the next open) or a row without a file (the oldest there is, which is
 * removed next).
 *
 * Thread: the store thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/capture_priv.h"

#define NAMES_TRIED 1000
#define LINE_BEGIN 4096 /* bytes of a line that hold its kind, id and time */

static enum err_code disk_fail(const struct capture_log *g, struct err *e, const char *doing, const char *model,
                               const char *file)
{
    if (file_is_full(errno)) {
        return err_set(e, ERR_STORAGE, "disk full: free space under %s", g->path);
    }
    return err_sys(e, ERR_STORAGE, "can not %s %s/%s/%s", doing, g->path, model, file);
}

static bool sync_fd(int fd)
{
    int rc;
    do {
        rc = fsync(fd);
    } while (rc < 0 && errno == EINTR);
    return rc == 0;
}

static void path_of(char out[NAME_MAX_LEN + CAPTURE_FILE_MAX + 2], const struct capture_segment *c)
{
    snprintf(out, NAME_MAX_LEN + CAPTURE_FILE_MAX + 2, "%s/%s", c->model, c->file);
}

static bool unlink_segment(const struct capture_log *g, const struct capture_segment *c)
{
    char path[NAME_MAX_LEN + CAPTURE_FILE_MAX + 2];
    path_of(path, c);
    return unlinkat(g->dir, path, 0) == 0 || errno == ENOENT;
}

/* ---- the list of those that are not sealed ---- */

static void segment_add(struct capture_log *g, struct segment *seg)
{
    struct segment **at = &g->unsealed;
    while (*at) {
        at = &(*at)->next;
    }
    *at = seg;
    g->n_unsealed++;
}

/* Takes it out of the list, closes and frees it. */
static void segment_end(struct capture_log *g, struct segment *seg)
{
    struct segment **at = &g->unsealed;
    while (*at != seg) {
        at = &(*at)->next;
    }
    *at = seg->next;
    g->n_unsealed--;
    close(seg->fd);
    sha256_done(&seg->hash);
    free(seg);
}

static struct segment *segment_open_of(struct capture_log *g, const char *model)
{
    for (struct segment *seg = g->unsealed; seg; seg = seg->next) {
        if (!seg->full && strcmp(seg->about.model, model) == 0) {
            return seg;
        }
    }
    return NULL;
}

/* The file goes, and what it held. */
static void segment_give_up(struct capture_log *g, struct segment *seg)
{
    if (!unlink_segment(g, &seg->about)) {
        log_warn("store", "can not remove a segment of captured requests file=%s/%s reason=\"%s\"", seg->about.model,
                 seg->about.file, strerror(errno));
    }
    g->bytes -= seg->about.bytes;
    segment_end(g, seg);
}

/* ---- sealing ---- */

/* The file and its name, on the disk. */
static bool segment_sync(struct capture_log *g, struct segment *seg)
{
    int dir = file_open(g->dir, seg->about.model, O_RDONLY | O_DIRECTORY, 0);
    bool ok = dir >= 0 && sync_fd(seg->fd) && sync_fd(dir);
    if (dir >= 0) {
        close(dir);
    }
    return ok;
}

/* On failure it stays where it is, to be tried again, unless the sync failed: then it is gone. */
static enum err_code segment_seal(struct capture_log *g, struct segment *seg, struct err *e)
{
    struct capture_segment *c = &seg->about;
    enum err_code rc;
    seg->full = true;
    if (c->records == 0) {
        segment_give_up(g, seg);
        return ERR_OK;
    }
    if (seg->torn && ftruncate(seg->fd, (off_t)c->bytes) < 0) {
        return disk_fail(g, e, "cut off a torn line of", c->model, c->file);
    }
    seg->torn = false;
    if (!c->sha256[0] && !segment_sync(g, seg)) {
        rc = disk_fail(g, e, "sync", c->model, c->file);
        log_warn("store", "a segment of captured requests could not be synced and is given up file=%s/%s records=%llu",
                 c->model, c->file, (unsigned long long)c->records);
        segment_give_up(g, seg);
        return rc;
    }
    if (!c->sha256[0]) {
        sha256_final(&seg->hash, c->sha256);
    }
    if ((rc = capture_row_add(g->s, c, e)) != ERR_OK) {
        return rc;
    }
    g->n_sealed++;
    segment_end(g, seg);
    return ERR_OK;
}

static void seal_or_say(struct capture_log *g, struct segment *seg)
{
    struct err e = {0};
    if (segment_seal(g, seg, &e) != ERR_OK) {
        log_warn("store", "%s", e.text);
    }
}

/* ---- making room ---- */

static enum err_code remove_sealed(struct capture_log *g, const struct capture_segment *c, struct err *e)
{
    if (!unlink_segment(g, c)) {
        return disk_fail(g, e, "remove", c->model, c->file);
    }
    enum err_code rc = capture_row_delete(g->s, c, e);
    if (rc == ERR_OK) {
        g->bytes -= MIN(g->bytes, c->bytes);
        g->n_sealed -= g->n_sealed > 0;
    }
    return rc;
}

/* Of those that are not sealed, the one whose newest line is the oldest. */
static struct segment *stalest(const struct capture_log *g)
{
    struct segment *found = g->unsealed;
    for (struct segment *seg = found; seg; seg = seg->next) {
        found = seg->about.last_ms < found->about.last_ms ? seg : found;
    }
    return found;
}

static enum err_code make_room(struct capture_log *g, uint64_t more, struct err *e)
{
    while (g->bytes + more > g->b.bytes || g->n_sealed + g->n_unsealed >= CAPTURE_SEGMENTS_MAX) {
        struct segment *seg = stalest(g);
        struct capture_segment c;
        enum err_code rc = capture_row_oldest(g->s, INT64_MAX, &c, e);
        if (rc != ERR_OK && rc != ERR_NOT_FOUND) {
            return rc;
        }
        if (seg && (rc == ERR_NOT_FOUND || seg->about.last_ms < c.first_ms)) {
            segment_give_up(g, seg);
        } else if (rc == ERR_NOT_FOUND || (rc = remove_sealed(g, &c, e)) != ERR_OK) {
            return rc;
        }
    }
    return ERR_OK;
}

/* ---- a new segment ---- */

static enum err_code dir_make(struct capture_log *g, struct err *e)
{
    if (g->dir >= 0) {
        return ERR_OK;
    }
    if (mkdir(g->path, 0700) < 0 && errno != EEXIST) {
        return err_sys(e, ERR_STORAGE, "can not create the folder %s", g->path);
    }
    g->dir = open(g->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int above = g->dir < 0 ? -1 : openat(g->dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = above >= 0 && sync_fd(above);
    if (!ok) {
        err_sys(e, ERR_STORAGE, "can not sync the folder of %s", g->path);
    }
    if (above >= 0) {
        close(above);
    }
    if (!ok && g->dir >= 0) {
        close(g->dir);
        g->dir = -1;
    }
    return ok ? ERR_OK : ERR_STORAGE;
}

/* The first number that no segment of the model has had, as far as it is known, from the time on. */
static enum err_code first_number(struct capture_log *g, const char *model, int64_t at_ms, int64_t *out, struct err *e)
{
    struct capture_segment newest;
    enum err_code rc = capture_row_newest(g->s, model, &newest, e);
    if (rc != ERR_OK && rc != ERR_NOT_FOUND) {
        return rc;
    }
    *out = MAX(at_ms, (int64_t)0);
    if (rc == ERR_OK) {
        *out = MAX(*out, strtoll(newest.file, NULL, 10) + 1);
    }
    for (const struct segment *seg = g->unsealed; seg; seg = seg->next) {
        if (strcmp(seg->about.model, model) == 0) {
            *out = MAX(*out, strtoll(seg->about.file, NULL, 10) + 1);
        }
    }
    return ERR_OK;
}

static enum err_code segment_begin(struct capture_log *g, const char *model, int64_t at_ms, struct segment **out,
                                   struct err *e)
{
    int64_t number;
    int fd = -1;
    struct capture_segment c = {.first_ms = at_ms, .last_ms = at_ms};
    enum err_code rc = dir_make(g, e);
    if (rc != ERR_OK || (rc = first_number(g, model, at_ms, &number, e)) != ERR_OK) {
        return rc;
    }
    snprintf(c.model, sizeof c.model, "%s", model);
    bool made = mkdirat(g->dir, model, 0700) == 0;
    if ((!made && errno != EEXIST) || (made && !sync_fd(g->dir))) {
        rc = disk_fail(g, e, "create", model, "");
        if (made) {
            unlinkat(g->dir, model, AT_REMOVEDIR); /* to be made, and synced, anew */
        }
        return rc;
    }
    for (int i = 0; i < NAMES_TRIED && fd < 0; i++, number++) {
        char path[NAME_MAX_LEN + CAPTURE_FILE_MAX + 2];
        snprintf(c.file, sizeof c.file, "%016lld.ndjson", (long long)number);
        path_of(path, &c);
        fd = file_open(g->dir, path, O_RDWR | O_CREAT | O_EXCL | O_APPEND, 0600);
        if (fd < 0 && errno != EEXIST) {
            break;
        }
    }
    if (fd < 0) {
        return disk_fail(g, e, "create", model, c.file);
    }
    *out = xcalloc(1, sizeof **out);
    (*out)->about = c;
    (*out)->fd = fd;
    sha256_init(&(*out)->hash);
    segment_add(g, *out);
    return ERR_OK;
}

/* ---- a line ---- */

static enum err_code segment_write(struct capture_log *g, struct segment *seg, int64_t at_ms, struct str line,
                                   struct err *e)
{
    struct capture_segment *c = &seg->about;
    if (!file_write_all(seg->fd, line.p, line.n)) {
        enum err_code rc = disk_fail(g, e, "write", c->model, c->file);
        seg->full = seg->torn = ftruncate(seg->fd, (off_t)c->bytes) < 0;
        return rc;
    }
    sha256_add(&seg->hash, line.p, line.n);
    c->first_ms = c->records ? MIN(c->first_ms, at_ms) : at_ms;
    c->last_ms = c->records ? MAX(c->last_ms, at_ms) : at_ms;
    c->records++;
    c->bytes += line.n;
    g->bytes += line.n;
    return ERR_OK;
}

enum err_code capture_log_append(struct capture_log *g, const char *model, int64_t at_ms, struct str line,
                                 struct err *e)
{
    struct segment *seg = segment_open_of(g, model);
    enum err_code rc = store_writable(g->s, e);
    if (rc != ERR_OK) {
        return rc;
    }
    assert(line.n > 0 && line.p[line.n - 1] == '\n');
    if (line.n > CAPTURE_LINE_MAX || line.n > g->b.bytes) {
        return err_set(e, ERR_TOO_LARGE, "a captured request of %zu bytes is larger than the log may be", line.n);
    }
    if (seg && seg->about.records > 0 && seg->about.bytes + line.n > g->b.segment_bytes) {
        seal_or_say(g, seg);
    }
    if ((rc = make_room(g, line.n, e)) != ERR_OK) {
        return rc;
    }
    seg = segment_open_of(g, model); /* it may have been sealed, or have gone to make room */
    if (!seg && g->n_unsealed >= CAPTURE_OPEN_MAX) {
        seal_or_say(g, g->unsealed);
        if (g->n_unsealed >= CAPTURE_OPEN_MAX) { /* it can not be, for a long time already */
            segment_give_up(g, g->unsealed);
        }
    }
    if (!seg && (rc = segment_begin(g, model, at_ms, &seg, e)) != ERR_OK) {
        return rc;
    }
    return segment_write(g, seg, at_ms, line, e);
}

void capture_log_upkeep(struct capture_log *g, int64_t now_ms)
{
    struct err e = {0};
    enum err_code rc = store_writable(g->s, &e);
    int64_t border = now_ms - g->b.age_ms;
    for (struct segment *seg = g->unsealed, *next; rc == ERR_OK && seg; seg = next) {
        next = seg->next;
        if (seg->about.records > 0 && seg->about.last_ms < border) {
            segment_give_up(g, seg);
        } else if (seg->full || now_ms - seg->about.first_ms >= CAPTURE_SEGMENT_AGE_MS) {
            seal_or_say(g, seg);
        }
    }
    for (struct capture_segment c; rc == ERR_OK;) {
        rc = capture_row_oldest(g->s, border, &c, &e);
        rc = rc == ERR_OK ? remove_sealed(g, &c, &e) : rc;
    }
    if (rc != ERR_NOT_FOUND) {
        log_warn("store", "%s", e.text);
    }
}

/* ---- what an earlier run left ---- */

struct recovery {
    struct capture_log *g;
    struct segment *seg;
    char begin[LINE_BEGIN]; /* of the line that is read */
    size_t begin_n;
    unsigned sealed;
};

/* The end of the last whole line; -1: it can not be read. */
static off_t whole_end(struct capture_log *g, int fd, off_t size)
{
    char *piece = g->s->scratch;
    for (off_t end = size; end > 0;) {
        size_t n = (size_t)MIN(end, (off_t)STORE_PIECE);
        ssize_t got = pread(fd, piece, n, end - (off_t)n);
        if (got != (ssize_t)n) {
            return -1;
        }
        const char *last = memrchr(piece, '\n', n);
        if (last) {
            return end - (off_t)n + (last - piece) + 1;
        }
        end -= (off_t)n;
    }
    return 0;
}

static void recover_line_end(struct recovery *r)
{
    struct capture_segment *c = &r->seg->about;
    struct line_facts f;
    if (line_facts((struct str){r->begin, r->begin_n}, &f)) {
        c->first_ms = c->records ? MIN(c->first_ms, f.at_ms) : f.at_ms;
        c->last_ms = c->records ? MAX(c->last_ms, f.at_ms) : f.at_ms;
    }
    c->records++;
    r->begin_n = 0;
}

static void recover_piece(struct recovery *r, const char *p, size_t n)
{
    sha256_add(&r->seg->hash, p, n);
    r->seg->about.bytes += n;
    while (n > 0) {
        const char *eol = memchr(p, '\n', n);
        size_t part = eol ? (size_t)(eol - p) : n;
        size_t kept = MIN(part, sizeof r->begin - r->begin_n);
        memcpy(r->begin + r->begin_n, p, kept);
        r->begin_n += kept;
        if (eol) {
            recover_line_end(r);
            part++;
        }
        p += part;
        n -= part;
    }
}

/* Reads the whole lines of an unsealed file again and seals it. False: it can not be read; it stays as it is. */
static bool recover_file(struct recovery *r, struct segment *seg)
{
    struct capture_log *g = r->g;
    struct stat st;
    off_t end = fstat(seg->fd, &st) == 0 && S_ISREG(st.st_mode) ? whole_end(g, seg->fd, st.st_size) : -1;
    ssize_t n = 0;
    r->seg = seg;
    r->begin_n = 0;
    if (end < 0 || (end < st.st_size && ftruncate(seg->fd, end) < 0)) {
        return false;
    }
    for (off_t at = 0; at < end; at += n) {
        n = pread(seg->fd, g->s->scratch, (size_t)MIN(end - at, (off_t)STORE_PIECE), at);
        if (n <= 0) {
            return false;
        }
        recover_piece(r, g->s->scratch, (size_t)n);
    }
    g->bytes += seg->about.bytes;
    r->sealed += seg->about.records > 0;
    return true;
}

static void recover_entry(struct recovery *r, const char *model, const char *file)
{
    struct capture_log *g = r->g;
    struct capture_segment found;
    struct err e = {0};
    size_t digits = strspn(file, "0123456789");
    if (digits != 16 || strcmp(file + digits, ".ndjson") != 0) {
        return; /* not ours */
    }
    enum err_code rc = capture_row_find(g->s, model, file, &found, &e);
    if (rc != ERR_NOT_FOUND) {
        return; /* it is sealed, or that can not be known: it stays as it is */
    }
    struct segment *seg = xcalloc(1, sizeof *seg);
    char path[NAME_MAX_LEN + CAPTURE_FILE_MAX + 2];
    snprintf(seg->about.model, sizeof seg->about.model, "%s", model);
    snprintf(seg->about.file, sizeof seg->about.file, "%s", file);
    path_of(path, &seg->about);
    seg->fd = file_open(g->dir, path, O_RDWR | O_APPEND, 0);
    if (seg->fd < 0) {
        log_warn("store", "can not open a segment of captured requests file=%s reason=\"%s\"", path, strerror(errno));
        free(seg);
        return;
    }
    sha256_init(&seg->hash);
    segment_add(g, seg);
    if (recover_file(r, seg)) {
        seal_or_say(g, seg);
    } else {
        log_warn("store", "can not read a segment of captured requests file=%s reason=\"%s\"", path, strerror(errno));
        segment_end(g, seg);
    }
}

static void recover_model(struct recovery *r, const char *model)
{
    struct dirent *d;
    int fd = name_ok(str_of(model)) ? file_open(r->g->dir, model, O_RDONLY | O_DIRECTORY, 0) : -1;
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (!list) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    while ((d = readdir(list)) != NULL) {
        recover_entry(r, model, d->d_name);
    }
    closedir(list);
}

static void recover(struct capture_log *g)
{
    struct recovery *r = xcalloc(1, sizeof *r);
    struct dirent *d;
    int again = file_open(g->dir, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    r->g = g;
    while (list && (d = readdir(list)) != NULL) {
        recover_model(r, d->d_name);
    }
    if (list) {
        closedir(list);
    } else if (again >= 0) {
        close(again);
    }
    if (r->sealed > 0) {
        log_info("store", "sealed the captured requests that an earlier run left open segments=%u", r->sealed);
    }
    free(r);
}

/* ---- life ---- */

enum err_code capture_log_open(struct capture_log **out, struct store *s, const struct capture_bounds *b, struct err *e)
{
    store_assert_thread(s);
    assert(b->segment_bytes <= b->bytes);
    struct capture_log *g = xcalloc(1, sizeof *g);
    g->s = s;
    g->b = *b;
    g->path = xasprintf("%s-capture", s->db_path);
    g->dir = open(g->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum err_code rc = g->dir < 0 && errno != ENOENT ? err_sys(e, ERR_STORAGE, "can not open the folder %s", g->path)
                                                     : capture_rows_sum(s, &g->n_sealed, &g->bytes, e);
    if (rc == ERR_OK && g->dir >= 0) {
        recover(g);
    }
    if (rc != ERR_OK) {
        capture_log_close(g);
        return rc;
    }
    *out = g;
    return ERR_OK;
}

void capture_log_close(struct capture_log *g)
{
    if (!g) {
        return;
    }
    while (g->unsealed) {
        struct segment *seg = g->unsealed;
        struct err e = {0};
        unsigned before = g->n_unsealed;
        if (segment_seal(g, seg, &e) != ERR_OK) {
            log_warn("store", "%s", e.text);
        }
        if (g->n_unsealed == before) { /* the next open seals it */
            segment_end(g, seg);
        }
    }
    if (g->dir >= 0) {
        close(g->dir);
    }
    free(g->path);
    free(g);
}

uint64_t capture_log_bytes(const struct capture_log *g)
{
    return g->bytes;
}

const char *capture_log_salt(const struct capture_log *g)
{
    return g->s->id;
}
