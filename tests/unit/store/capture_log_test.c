/* SPDX-License-Identifier: Apache-2.0 */
/* The payload log: segments are sealed with the digest of what is in the file, bounded in size and age, whole after a
 * crash, and read back line by line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "store/capture_log.h"
#include "support/store_help.h"

#define T0 1764000000000ll
#define HOUR 3600000ll

struct fixture {
    char *folder;
    struct store *s;
    struct capture_log *g;
    struct capture_bounds bounds;
};

/* ---- calls on the store's thread ---- */

struct call {
    struct fixture *f;
    const char *model;
    int64_t at_ms;
    struct str line;
    struct capture_segment *rows;
    size_t n;
    struct capture_reading *reading;
    struct buf *out;
    bool *end;
    uint64_t bytes;
    struct err e;
};

static enum err_code do_open(struct store *s, void *arg)
{
    struct call *c = arg;
    return capture_log_open(&c->f->g, s, &c->f->bounds, &c->e);
}

static enum err_code do_close(struct store *s, void *arg)
{
    struct call *c = arg;
    (void)s;
    capture_log_close(c->f->g);
    c->f->g = NULL;
    return ERR_OK;
}

static enum err_code do_append(struct store *s, void *arg)
{
    struct call *c = arg;
    (void)s;
    return capture_log_append(c->f->g, c->model, c->at_ms, c->line, &c->e);
}

static enum err_code do_upkeep(struct store *s, void *arg)
{
    struct call *c = arg;
    (void)s;
    capture_log_upkeep(c->f->g, c->at_ms);
    return ERR_OK;
}

static enum err_code do_list(struct store *s, void *arg)
{
    struct call *c = arg;
    (void)s;
    c->bytes = capture_log_bytes(c->f->g);
    return capture_log_list(c->f->g, c->model, &c->rows, &c->n, &c->e);
}

static enum err_code do_read(struct store *s, void *arg)
{
    struct call *c = arg;
    (void)s;
    return capture_log_read(c->f->g, c->reading, c->out, c->end, &c->e);
}

static void must(struct fixture *f, store_fn *fn, struct call *c)
{
    c->f = f;
    if (store_call(f->s, fn, c) != ERR_OK) {
        fail_msg("%s", c->e.text);
    }
}

static void open_log(struct fixture *f)
{
    must(f, do_open, &(struct call){0});
}

static void upkeep(struct fixture *f, int64_t now_ms)
{
    must(f, do_upkeep, &(struct call){.at_ms = now_ms});
}

/* A line of exactly n bytes. */
static char *line_new(const char *kind, unsigned id, int64_t at_ms, size_t n)
{
    char *line = xmalloc(n + 1);
    int head =
        snprintf(line, n + 1, "{\"kind\":\"%s\",\"id\":\"%u\",\"at_ms\":%lld,\"pad\":\"", kind, id, (long long)at_ms);
    assert_true((size_t)head + 3 < n);
    memset(line + head, 'x', n - (size_t)head);
    memcpy(line + n - 3, "\"}\n", 4);
    return line;
}

static enum err_code try_append(struct fixture *f, const char *model, const char *kind, unsigned id, int64_t at_ms,
                                size_t n)
{
    char *line = line_new(kind, id, at_ms, n);
    struct call c = {.f = f, .model = model, .at_ms = at_ms, .line = {line, n}};
    enum err_code rc = store_call(f->s, do_append, &c);
    free(line);
    return rc;
}

static void append(struct fixture *f, const char *model, unsigned id, int64_t at_ms, size_t n)
{
    assert_int_equal(try_append(f, model, "request", id, at_ms, n), ERR_OK);
}

static struct capture_segment *list(struct fixture *f, const char *model, size_t *n, uint64_t *bytes)
{
    struct call c = {.model = model};
    must(f, do_list, &c);
    *n = c.n;
    if (bytes) {
        *bytes = c.bytes;
    }
    return c.rows;
}

/* Everything that a reading gives, piece by piece. */
static void read_all(struct fixture *f, struct capture_reading r, struct buf *out)
{
    bool end = false;
    buf_clear(out);
    while (!end) {
        must(f, do_read, &(struct call){.reading = &r, .out = out, .end = &end});
    }
}

static struct capture_reading reading_of(const char *model)
{
    struct capture_reading r = {.since_ms = INT64_MIN, .until_ms = INT64_MAX, .left = UINT64_MAX};
    snprintf(r.model, sizeof r.model, "%s", model);
    return r;
}

/* The ids of the lines, "1 2 3". */
static void ids_are(struct buf *lines, const char *want)
{
    char got[4096] = "";
    size_t n = 0;
    for (const char *p = buf_z(lines), *end = p + lines->n; p < end;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p)), *id;
        assert_non_null(eol);
        id = memmem(p, (size_t)(eol - p), "\"id\":\"", 6);
        assert_true(id && eol[-1] == '}');
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%d", n ? " " : "", (int)strtol(id + 6, NULL, 10));
        p = eol + 1;
    }
    assert_string_equal(got, want);
}

static char *path_in(const struct fixture *f, const char *model, const char *file)
{
    return store_path(f->folder, "weir.db-capture/%s/%s", model, file);
}

/* The file's whole content. */
static void read_file(const struct fixture *f, const char *model, const char *file, struct buf *out)
{
    char *path = path_in(f, model, file), piece[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;
    assert_true(fd >= 0);
    buf_clear(out);
    while ((n = read(fd, piece, sizeof piece)) > 0) {
        buf_add(out, piece, (size_t)n);
    }
    close(fd);
    free(path);
}

static size_t files_of(const struct fixture *f, const char *model)
{
    char *path = path_in(f, model, "");
    DIR *dir = opendir(path);
    size_t n = 0;
    for (struct dirent *d; dir && (d = readdir(dir)) != NULL;) {
        n += d->d_name[0] != '.';
    }
    if (dir) {
        closedir(dir);
    }
    free(path);
    return n;
}

/* Each is sealed, its bytes and its digest are the file's. */
static void all_sealed_and_true(struct fixture *f, const char *model, size_t want)
{
    size_t n;
    struct capture_segment *rows = list(f, model, &n, NULL);
    struct buf content;
    assert_int_equal(n, want);
    buf_init(&content, 64u << 20);
    for (size_t i = 0; i < n; i++) {
        char digest[65];
        uint64_t lines = 0;
        read_file(f, model, rows[i].file, &content);
        sha256_hex(digest, content.p, content.n);
        for (size_t k = 0; k < content.n; k++) {
            lines += content.p[k] == '\n';
        }
        assert_true(rows[i].sealed);
        assert_string_equal(rows[i].sha256, digest);
        assert_int_equal(rows[i].bytes, content.n);
        assert_int_equal(rows[i].records, lines);
        assert_true(i == 0 || strcmp(rows[i - 1].file, rows[i].file) < 0);
    }
    buf_done(&content);
    free(rows);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err e = {0};
    f->folder = store_folder_new();
    f->bounds = (struct capture_bounds){.bytes = 1u << 20, .age_ms = 24 * HOUR, .segment_bytes = 1000};
    *state = f;
    return store_open_in(&f->s, f->folder, &e) == ERR_OK ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->g) {
        must(f, do_close, &(struct call){0});
    }
    store_close(f->s);
    store_folder_free(f->folder);
    free(f);
    return 0;
}

/* The server ends and starts again. */
static void restart(struct fixture *f)
{
    struct err e = {0};
    if (f->g) {
        must(f, do_close, &(struct call){0});
    }
    store_close(f->s);
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_OK);
    open_log(f);
}

/* ---- tests ---- */

static void nothing_is_made_before_the_first_line(void **state)
{
    struct fixture *f = *state;
    char *path = store_path(f->folder, "weir.db-capture");
    struct stat st;
    size_t n;
    open_log(f);
    upkeep(f, T0);
    assert_null(list(f, "intent", &n, NULL));
    assert_int_equal(n, 0);
    assert_int_not_equal(stat(path, &st), 0);
    append(f, "intent", 1, T0, 100);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    free(path);
    struct capture_segment *rows = list(f, "intent", &n, NULL);
    path = path_in(f, "intent", rows[0].file);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    free(path);
    free(rows);
}

static void a_segment_is_sealed_when_it_is_full(void **state)
{
    struct fixture *f = *state;
    size_t n;
    uint64_t bytes;
    open_log(f);
    for (unsigned i = 0; i < 9; i++) {
        append(f, "intent", i, T0 + i, 300); /* three to a segment */
    }
    append(f, "intent", 9, T0 + 3, 5000); /* one that is longer than a segment has its own */
    append(f, "intent", 10, T0 + 10, 300);
    struct capture_segment *rows = list(f, "intent", &n, &bytes);
    assert_int_equal(n, 5);
    assert_int_equal(bytes, 10 * 300 + 5000);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(rows[i].records, i < 3 ? 3 : 1);
        assert_int_equal(rows[i].sealed, i < 4);
    }
    assert_true(rows[1].first_ms == T0 + 3 && rows[1].last_ms == T0 + 5);
    assert_string_equal(rows[0].file, "0001764000000000.ndjson");
    assert_string_equal(rows[4].sha256, "");
    free(rows);
    restart(f);
    all_sealed_and_true(f, "intent", 5);
    list(f, "other", &n, NULL);
    assert_int_equal(n, 0);
}

/* All in the same millisecond, also after a restart: each has a name of its own. */
static void no_name_comes_twice(void **state)
{
    struct fixture *f = *state;
    open_log(f);
    for (unsigned i = 0; i < 5; i++) {
        append(f, "intent", i, T0, 900);
    }
    restart(f);
    append(f, "intent", 5, T0 - HOUR, 900); /* the clock was set back */
    restart(f);
    all_sealed_and_true(f, "intent", 6);
    assert_int_equal(files_of(f, "intent"), 6);
}

static void lines_are_read_oldest_first(void **state)
{
    struct fixture *f = *state;
    struct capture_reading r = reading_of("intent");
    struct buf out;
    open_log(f);
    buf_init(&out, 64u << 20);
    read_all(f, r, &out);
    assert_int_equal(out.n, 0);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(try_append(f, "intent", i % 4 == 3 ? "feedback" : "request", i, T0 + 10 * i, 300), ERR_OK);
        append(f, "other", 100 + i, T0 + i, 300);
    }
    read_all(f, r, &out); /* two segments that are sealed, and the open one */
    ids_are(&out, "0 1 2 3 4 5 6 7");
    r.since_ms = T0 + 20;
    r.until_ms = T0 + 60;
    read_all(f, r, &out);
    ids_are(&out, "2 3 4 5");
    snprintf(r.kind, sizeof r.kind, "feedback");
    read_all(f, r, &out);
    ids_are(&out, "3");
    r = reading_of("intent");
    snprintf(r.kind, sizeof r.kind, "request");
    r.left = 4;
    read_all(f, r, &out);
    ids_are(&out, "0 1 2 4");
    r = reading_of("oth"); /* no other model's */
    read_all(f, r, &out);
    assert_int_equal(out.n, 0);
    buf_done(&out);
}

/* Pieces are bounded, but a line that is longer comes whole. */
static void pieces(void **state)
{
    struct fixture *f = *state;
    struct capture_reading r = reading_of("intent");
    struct buf out;
    bool end = false;
    size_t largest = 0, total = 0, most = 3u << 20;
    unsigned n = 0;
    f->bounds = (struct capture_bounds){.bytes = 64u << 20, .age_ms = HOUR, .segment_bytes = 8u << 20};
    open_log(f);
    for (unsigned i = 0; i < 3000; i++) {
        append(f, "intent", i, T0 + i, i == 1500 ? most : 1000);
    }
    buf_init(&out, 64u << 20);
    while (!end) {
        buf_clear(&out);
        must(f, do_read, &(struct call){.reading = &r, .out = &out, .end = &end});
        if (n == 2) { /* it goes on while it grows */
            append(f, "intent", 3000, T0 + 3000, 1000);
        }
        largest = MAX(largest, out.n);
        assert_true(out.n <= (256u << 10) + 1000 || out.n > most);
        assert_true(out.n == 0 || out.p[out.n - 1] == '\n');
        total += out.n;
        n++;
    }
    assert_true(n > 10 && largest > most && largest <= most + (256u << 10) + 1000);
    assert_int_equal(total, 3000 * 1000 + most);
    buf_done(&out);
}

static void the_size_is_bounded_the_oldest_go_first(void **state)
{
    struct fixture *f = *state;
    static const char *const models[] = {"a", "b", "c"};
    uint64_t bytes;
    size_t n, total = 0;
    struct capture_segment *rows;
    f->bounds = (struct capture_bounds){.bytes = 10000, .age_ms = HOUR, .segment_bytes = 1000};
    open_log(f);
    append(f, "old", 0, T0, 900);
    for (unsigned i = 0; i < 200; i++) {
        append(f, models[i % 3], i, T0 + 1 + i, 200 + i % 90);
        free(list(f, "a", &n, &bytes));
        assert_true(bytes <= 10000);
    }
    assert_true(bytes > 8000);
    assert_int_equal(files_of(f, "old"), 0);
    for (size_t i = 0; i < COUNT_OF(models); i++) { /* what is left is the newest, without a gap */
        rows = list(f, models[i], &n, NULL);
        assert_true(n >= 2);
        assert_true(rows[0].first_ms > T0 + 150);
        assert_int_equal(files_of(f, models[i]), n);
        for (size_t k = 0; k < n; k++) {
            total += rows[k].bytes;
        }
        free(rows);
    }
    assert_int_equal(total, bytes);
    restart(f);
    free(list(f, "a", &n, &bytes));
    assert_int_equal(bytes, total);
    assert_int_equal(try_append(f, "a", "request", 1, T0, 10001), ERR_TOO_LARGE);
    append(f, "a", 1, T0 + 999, 9999); /* all others go for it */
    free(list(f, "b", &n, &bytes));
    assert_int_equal(n, 0);
    assert_int_equal(bytes, 9999);
}

/* Nothing is sealed yet: then an open one goes. */
static void open_segments_make_room_too(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes;
    size_t n;
    f->bounds = (struct capture_bounds){.bytes = 3000, .age_ms = HOUR, .segment_bytes = 3000};
    open_log(f);
    append(f, "a", 1, T0, 1000);
    append(f, "b", 2, T0 + 1, 1000);
    append(f, "c", 3, T0 + 2, 1000);
    append(f, "b", 4, T0 + 3, 1000);
    free(list(f, "a", &n, &bytes));
    assert_true(n == 0 && bytes == 3000);
    free(list(f, "b", &n, &bytes));
    assert_int_equal(n, 1);
}

static void segments_grow_old(void **state)
{
    struct fixture *f = *state;
    size_t n;
    struct capture_segment *rows;
    f->bounds.age_ms = 3 * HOUR;
    open_log(f);
    append(f, "intent", 1, T0, 300);
    upkeep(f, T0 + HOUR - 1);
    rows = list(f, "intent", &n, NULL);
    assert_true(n == 1 && !rows[0].sealed);
    free(rows);
    upkeep(f, T0 + HOUR); /* an hour is the longest that one is open */
    all_sealed_and_true(f, "intent", 1);
    append(f, "intent", 2, T0 + HOUR, 300);
    append(f, "other", 3, T0 + HOUR, 300);
    upkeep(f, T0 + 3 * HOUR);
    all_sealed_and_true(f, "intent", 2);
    upkeep(f, T0 + 3 * HOUR + 1);
    rows = list(f, "intent", &n, NULL);
    assert_true(n == 1 && rows[0].first_ms == T0 + HOUR);
    free(rows);
    upkeep(f, T0 + 5 * HOUR);
    free(list(f, "intent", &n, NULL));
    assert_int_equal(n, 0);
    assert_int_equal(files_of(f, "intent") + files_of(f, "other"), 0);
}

/* Lines appended by a process that is then killed; what it left is as good as the test can make it bad. */
static void killed_after(struct fixture *f, unsigned lines)
{
    store_close(f->s);
    f->s = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        struct err e = {0};
        if (store_open_in(&f->s, f->folder, &e) != ERR_OK || store_call(f->s, do_open, &(struct call){.f = f})) {
            _exit(1);
        }
        for (unsigned i = 0; i < lines; i++) {
            if (try_append(f, "intent", "request", i, T0 + i, 300) != ERR_OK) {
                _exit(2);
            }
        }
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    struct err e = {0};
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_OK);
}

static void put_file(const struct fixture *f, const char *model, const char *file, const char *text)
{
    char *path = path_in(f, model, file);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    free(path);
}

static void whole_lines_survive_a_kill(void **state)
{
    struct fixture *f = *state;
    struct buf out;
    killed_after(f, 8);
    open_log(f);
    buf_init(&out, 1u << 20);
    all_sealed_and_true(f, "intent", 3);
    read_all(f, reading_of("intent"), &out);
    ids_are(&out, "0 1 2 3 4 5 6 7");
    append(f, "intent", 8, T0 + 8, 300);
    restart(f);
    all_sealed_and_true(f, "intent", 4);
    buf_done(&out);
}

static void a_torn_last_line_is_cut_off(void **state)
{
    struct fixture *f = *state;
    size_t n;
    struct buf out;
    killed_after(f, 5);
    buf_init(&out, 1u << 20);
    put_file(f, "intent", "0001764000000003.ndjson", "{\"kind\":\"request\",\"id\":\"99\",\"at_ms\":17640");
    put_file(f, "intent", "0001764000009999.ndjson", "{\"kind\""); /* nothing but a torn line */
    put_file(f, "intent", "0001764000000009.ndjsonx", "foreign");
    put_file(f, "intent", "notes.txt", "foreign");
    open_log(f);
    all_sealed_and_true(f, "intent", 2);
    struct capture_segment *rows = list(f, "intent", &n, NULL);
    assert_true(rows[1].records == 2 && rows[1].bytes == 600);
    assert_true(rows[1].first_ms == T0 + 3 && rows[1].last_ms == T0 + 4);
    free(rows);
    read_all(f, reading_of("intent"), &out);
    ids_are(&out, "0 1 2 3 4");
    assert_int_equal(files_of(f, "intent"), 4);
    buf_done(&out);
}

/* A write that fails in the middle: EFBIG behind a limit of the process, as ENOSPC behind the disk's end. */
static void a_failed_write_leaves_whole_lines(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, small;
    struct buf out;
    size_t n;
    uint64_t bytes;
    f->bounds.segment_bytes = 100000;
    open_log(f);
    buf_init(&out, 1u << 20);
    append(f, "intent", 0, T0, 40000);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 50000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(try_append(f, "intent", "request", 1, T0 + 1, 20000), ERR_STORAGE);
    append(f, "intent", 2, T0 + 2, 500); /* this one still fits */
    assert_int_equal(try_append(f, "intent", "request", 3, T0 + 3, 20000), ERR_STORAGE);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    append(f, "intent", 4, T0 + 4, 20000);
    free(list(f, "intent", &n, &bytes));
    assert_true(n == 1 && bytes == 60500);
    read_all(f, reading_of("intent"), &out);
    ids_are(&out, "0 2 4");
    restart(f);
    all_sealed_and_true(f, "intent", 1);
    buf_done(&out);
}

/* The database can not take the row: the segment waits, can be read, and is sealed when it can. */
static void a_segment_waits_for_the_database(void **state)
{
    struct fixture *f = *state;
    char *path = store_path(f->folder, "weir.db");
    sqlite3 *db = NULL;
    struct buf out;
    size_t n;
    open_log(f);
    append(f, "intent", 0, T0, 600);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    append(f, "intent", 1, T0 + 1, 600);
    struct capture_segment *rows = list(f, "intent", &n, NULL);
    assert_true(n == 2 && !rows[0].sealed && !rows[1].sealed);
    free(rows);
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    free(path);
    buf_init(&out, 1u << 20);
    read_all(f, reading_of("intent"), &out);
    ids_are(&out, "0 1");
    upkeep(f, T0 + 2);
    rows = list(f, "intent", &n, NULL);
    assert_true(n == 2 && rows[0].sealed && !rows[1].sealed);
    free(rows);
    restart(f);
    all_sealed_and_true(f, "intent", 2);
    buf_done(&out);
}

/* A file that somebody removed is passed over, and its room is given back in its turn. */
static void a_file_that_is_gone(void **state)
{
    struct fixture *f = *state;
    struct buf out;
    size_t n;
    open_log(f);
    for (unsigned i = 0; i < 4; i++) {
        append(f, "intent", i, T0 + i, 900);
    }
    struct capture_segment *rows = list(f, "intent", &n, NULL);
    char *path = path_in(f, "intent", rows[1].file);
    unlink(path);
    free(path);
    free(rows);
    buf_init(&out, 1u << 20);
    read_all(f, reading_of("intent"), &out);
    ids_are(&out, "0 2 3");
    upkeep(f, T0 + 30 * HOUR);
    uint64_t bytes;
    free(list(f, "intent", &n, &bytes));
    assert_true(n == 0 && bytes == 0);
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_made_before_the_first_line, setup, teardown),
        cmocka_unit_test_setup_teardown(a_segment_is_sealed_when_it_is_full, setup, teardown),
        cmocka_unit_test_setup_teardown(no_name_comes_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(lines_are_read_oldest_first, setup, teardown),
        cmocka_unit_test_setup_teardown(pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(the_size_is_bounded_the_oldest_go_first, setup, teardown),
        cmocka_unit_test_setup_teardown(open_segments_make_room_too, setup, teardown),
        cmocka_unit_test_setup_teardown(segments_grow_old, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_lines_survive_a_kill, setup, teardown),
        cmocka_unit_test_setup_teardown(a_torn_last_line_is_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_write_leaves_whole_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(a_segment_waits_for_the_database, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_is_gone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
