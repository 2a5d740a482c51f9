/* SPDX-License-Identifier: Apache-2.0 */
/* The log: its JSON and its terminal form, many threads at once, a reader that stops reading, a pipe that is closed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

/* Reads all of a file into heap text. */
static char *file_text(int fd, size_t *n)
{
    off_t size = lseek(fd, 0, SEEK_END);
    char *text = xmalloc((size_t)size + 1);
    *n = (size_t)pread(fd, text, (size_t)size, 0);
    assert_int_equal(*n, size);
    text[*n] = '\0';
    return text;
}

static int file_new(void)
{
    char path[] = "/tmp/weir_log_test_XXXXXX";
    int fd = mkostemp(path, O_APPEND);
    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

/* The value of a key in one line, as text; NULL if it is absent. The whole line must be well formed. */
static bool field(struct str line, const char *key, char *out, size_t cap)
{
    struct json_reader r;
    bool found = false;
    json_reader_init(&r, line);
    assert_int_equal(json_next(&r), JSON_OBJECT);
    while (json_next(&r) == JSON_KEY) {
        bool hit = json_text_is(&r, key);
        assert_int_equal(json_next(&r), JSON_STRING);
        if (hit) {
            assert_true(r.text.n < cap);
            out[json_unescape(out, r.text)] = '\0';
            found = true;
        }
    }
    assert_int_equal(r.kind, JSON_OBJECT_END);
    assert_int_equal(json_next(&r), JSON_END);
    return found;
}

static void has(struct str line, const char *key, const char *want)
{
    char value[2048];
    if (!field(line, key, value, sizeof(value))) {
        fail_msg("no '%s' in " STR_FMT, key, STR_ARG(line));
    }
    assert_string_equal(value, want);
}

static struct str line_take(const char **at)
{
    const char *end = *at;
    while (*end && *end != '\n') { /* no strchr: a sanitizer measures all of the text for it, each time */
        end++;
    }
    assert_int_equal(*end, '\n');
    struct str line = {*at, (size_t)(end - *at)};
    *at = end + 1;
    return line;
}

static void json_form(void **state)
{
    (void)state;
    int fd = file_new();
    log_start(fd, LOG_INFO);
    log_debug("control", "not this one");
    log_info("control", "version ready model=%s version=%d note=\"two \\\"words\\\" here\"", "mnist", 3);
    log_warn("net", "a=b is text, c=d is text too");
    log_error("net", "quote \" back\\slash\nline\x01 \xff peer=\"open");
    log_info("net", "pairs alone");
    log_info("net", "x=1 y= z=\"\"");
    log_info("net", "reserved level=high text=\"t\"");
    char longer[3000];
    memset(longer, 'x', sizeof(longer));
    memcpy(longer + 998, "\xe2\x82\xac", 3);
    longer[sizeof(longer) - 1] = '\0';
    log_info("a room with a name beyond its field", "%s", longer);
    log_set_level(LOG_DEBUG);
    errno = EDOM;
    log_debug("net", "%s", "");
    assert_int_equal(errno, EDOM);
    log_set_level(LOG_INFO);
    log_stop();
    log_stop();

    size_t n;
    char *text = file_text(fd, &n);
    const char *at = text;
    struct str line = line_take(&at);
    has(line, "level", "info");
    has(line, "room", "control");
    has(line, "text", "version ready");
    has(line, "model", "mnist");
    has(line, "version", "3");
    has(line, "note", "two \"words\" here");
    char when[CLOCK_TEXT];
    assert_true(field(line, "time", when, sizeof(when)));
    assert_int_equal(strlen(when), 24);
    assert_memory_equal(line.p, "{\"time\":\"20", 11);
    line = line_take(&at);
    has(line, "level", "warn");
    has(line, "text", "a=b is text, c=d is text too");
    line = line_take(&at);
    has(line, "text", "quote \" back\\slash\nline\x01 \xef\xbf\xbd peer=\"open");
    line = line_take(&at);
    has(line, "text", "pairs alone");
    line = line_take(&at);
    has(line, "text", "");
    has(line, "x", "1");
    has(line, "y", "");
    has(line, "z", "");
    line = line_take(&at);
    has(line, "level", "info");
    has(line, "text", "reserved");
    has(line, "level_", "high");
    has(line, "text_", "t");
    line = line_take(&at);
    longer[998] = '\0'; /* the character at the limit goes as a whole */
    has(line, "text", longer);
    has(line, "room", "a room with a name beyo");
    line = line_take(&at);
    has(line, "level", "debug");
    has(line, "text", "");
    assert_ptr_equal(at, text + n);
    free(text);
    close(fd);
}

static void terminal_form(void **state)
{
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        skip(); /* a machine without pseudo terminals */
    }
    int fd = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(fd >= 0);
    struct termios raw;
    tcgetattr(fd, &raw);
    cfmakeraw(&raw);
    tcsetattr(fd, TCSANOW, &raw);
    log_start(fd, LOG_INFO);
    log_info("control", "version ready model=%s", "m\x1b[31m\n\x7f\t\xc2\x9b\xc3\xa9");
    log_stop();
    char text[256];
    ssize_t n = read(master, text, sizeof(text) - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_string_equal(text + 8, " INFO  version ready model=m\\x1b[31m\\n\\x7f\\t\\x9b\xc3\xa9\n");
    assert_true(text[2] == ':' && text[5] == ':');
    close(fd);
    close(master);
}

enum { THREADS = 4, LINES = 20000 };

static void *speak(void *arg)
{
    for (int i = 0; i < LINES; i++) {
        log_info("test", "line thread=%d number=%d", *(int *)arg, i);
        if (i % 64 == 0) {
            usleep(200);
        }
    }
    return NULL;
}

/* Every line is whole, each thread's lines are in order, and what is missing is exactly what was said to be lost. */
static void many_threads(void **state)
{
    (void)state;
    int fd = file_new();
    pthread_t threads[THREADS];
    int ids[THREADS];
    log_start(fd, LOG_INFO);
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, speak, &ids[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    log_stop();
    size_t n;
    char *text = file_text(fd, &n);
    long seen = 0;
    long lost = 0;
    int last[THREADS] = {-1, -1, -1, -1};
    for (const char *at = text; at < text + n;) {
        struct str line = line_take(&at);
        char value[64];
        if (field(line, "count", value, sizeof(value))) {
            lost += strtol(value, NULL, 10);
            continue;
        }
        assert_true(field(line, "thread", value, sizeof(value)));
        int thread = (int)strtol(value, NULL, 10);
        assert_true(thread >= 0 && thread < THREADS);
        assert_true(field(line, "number", value, sizeof(value)));
        assert_true((int)strtol(value, NULL, 10) > last[thread]);
        last[thread] = (int)strtol(value, NULL, 10);
        seen++;
    }
    assert_true(seen > 0);
    assert_int_equal(seen + lost, THREADS * LINES);
    free(text);
    close(fd);
}

/* Nobody reads the pipe: callers do not wait, the loss is counted, log_stop ends in bounded time. */
static void stalled_reader(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    log_start(ends[1], LOG_INFO);
    uint64_t begin = clock_us();
    for (int i = 0; i < 5000; i++) {
        log_info("test", "a line that is long enough to fill the pipe soon number=%d", i);
    }
    assert_true(clock_us() - begin < SECONDS(2));
    /* Now it is read again: the writer goes on and tells what is missing. */
    usleep(20000);
    static char text[1 << 20];
    size_t n = 0;
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    bool told = false;
    for (int i = 0; i < 500 && !told; i++) {
        ssize_t got = read(ends[0], text + n, sizeof(text) - 1 - n);
        n += got > 0 ? (size_t)got : 0;
        text[n] = '\0';
        told = strstr(text, "\"count\":\"") != NULL;
        if (got <= 0) {
            log_info("test", "more");
            usleep(2000);
        }
    }
    assert_true(told);
    for (int i = 0; i < 5000; i++) {
        log_info("test", "the pipe is full again number=%d", i);
    }
    begin = clock_us();
    log_stop();
    assert_true(clock_us() - begin < SECONDS(4));
    close(ends[0]);
    close(ends[1]);
}

static void closed_pipe(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    log_start(ends[1], LOG_INFO);
    for (int i = 0; i < 3000; i++) {
        log_info("test", "nobody will see this"); /* and no SIGPIPE ends the program */
    }
    log_stop();
    close(ends[1]);
}

static void without_thread(void **state)
{
    (void)state;
    int fd = file_new();
    int before = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    log_info("main", "early a=1");
    dup2(before, STDERR_FILENO);
    close(before);
    size_t n;
    char *text = file_text(fd, &n);
    const char *at = text;
    struct str line = line_take(&at);
    has(line, "text", "early");
    has(line, "a", "1");
    free(text);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_thread),
        cmocka_unit_test(json_form),
        cmocka_unit_test(terminal_form),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(stalled_reader),
        cmocka_unit_test(closed_pipe),
        {"without_thread_again", without_thread, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
