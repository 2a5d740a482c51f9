/* SPDX-License-Identifier: Apache-2.0 */
/* The pipe from a worker's standard error; see said.h. */
#include "backends/worker/said.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define CHUNK 4096
#define DRAIN_MOST (1u << 20) /* more than a pipe holds */
#define SHOWN_LINES 4         /* of said_last */

void said_init(struct said *s)
{
    *s = (struct said){.fd = -1};
    pthread_mutex_init(&s->lock, NULL);
}

/* Quotes and backslashes are escaped as the log's values want it. */
static void forward(struct said *s)
{
    char text[2 * SAID_LINE + 1];
    size_t n = 0;
    uint64_t now = clock_us();

    if (now - s->second_us >= SECONDS(1)) {
        s->second_us = now;
        s->lines = 0;
    }
    if (++s->lines > SAID_LINES) {
        s->dropped++;
        return;
    }
    if (s->dropped > 0) {
        log_warn("worker", "lines of a worker were dropped worker=%s pid=%d lines=%llu", s->name, (int)s->pid,
                 (unsigned long long)s->dropped);
        s->dropped = 0;
    }
    for (size_t i = 0; i < s->n_line; i++) {
        if (s->line[i] == '"' || s->line[i] == '\\') {
            text[n++] = '\\';
        }
        text[n++] = s->line[i];
    }
    text[n] = '\0';
    log_info("worker", "a worker wrote worker=%s pid=%d line=\"%s\"", s->name, (int)s->pid, text);
}

static void keep(struct said *s)
{
    size_t need = s->n_line + 1;

    if (s->n_kept + need > SAID_KEPT) { /* whole lines go, as many as it takes */
        const char *from = s->kept + s->n_kept + need - SAID_KEPT - 1;
        const char *end = memchr(from, '\n', (size_t)(s->kept + s->n_kept - from));

        s->n_kept -= (size_t)(end + 1 - s->kept); /* the last byte is a '\n' */
        memmove(s->kept, end + 1, s->n_kept);
    }
    memcpy(s->kept + s->n_kept, s->line, s->n_line);
    s->n_kept += need;
    s->kept[s->n_kept - 1] = '\n';
}

/* What our own code in the worker merely reports (log_plain) explains no end. */
static bool report(const struct said *s)
{
    return s->n_line > 5 && (memcmp(s->line, "INFO ", 5) == 0 || memcmp(s->line, "DEBUG", 5) == 0);
}

static void end_line(struct said *s)
{
    if (s->n_line > 0) {
        forward(s);
    }
    if (s->n_line > 0 && !report(s)) {
        keep(s);
    }
    s->n_line = 0;
}

static void take(struct said *s, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];

        if (c == '\n' || c == '\r') {
            end_line(s);
        } else if (s->n_line < SAID_LINE) {
            s->line[s->n_line++] = c == '\t' ? ' ' : c < 0x20 || c == 0x7f ? '?' : (char)c;
        }
    }
}

/* Returns how many bytes were read; 0: nothing there, or (*end) there never will be again. */
static size_t read_some(struct said *s, bool *end)
{
    char chunk[CHUNK];
    ssize_t n;

    pthread_mutex_lock(&s->lock);
    n = read(s->fd, chunk, sizeof(chunk));
    if (n > 0) {
        take(s, chunk, (size_t)n);
    }
    *end = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    pthread_mutex_unlock(&s->lock);
    return n > 0 ? (size_t)n : 0;
}

static void listen_on(struct said *s)
{
    struct err e;

    if (loop_add(s->loop, &s->watch, s->fd, EPOLLIN, &e) != ERR_OK) {
        timer_set(s->loop, &s->rest, clock_us() + SECONDS(1));
    }
}

static void on_said(struct watch *w, uint32_t events)
{
    struct said *s = CONTAINER_OF(w, struct said, watch);
    uint64_t now = clock_us();
    bool end;

    (void)events;
    if (now - s->burst_us >= MILLIS(100)) {
        s->burst_us = now;
        s->burst = 0;
    }
    s->burst += read_some(s, &end);
    if (end) {
        loop_del(s->loop, &s->watch);
    } else if (s->burst >= SAID_BURST) {
        loop_del(s->loop, &s->watch);
        timer_set(s->loop, &s->rest, s->burst_us + MILLIS(100));
    }
}

static void on_rest(struct timer *t)
{
    listen_on(CONTAINER_OF(t, struct said, rest));
}

enum err_code said_open(struct said *s, struct loop *loop, const char *name, int *child_end, struct err *e)
{
    int pipe_fds[2];

    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
        return err_sys(e, ERR_UNAVAILABLE, "no descriptors left for what a worker writes");
    }
    fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK); /* of our end alone; can not fail on a pipe */
    s->loop = loop;
    s->name = name;
    s->fd = pipe_fds[0];
    s->watch.fn = on_said;
    s->rest.fn = on_rest;
    *child_end = pipe_fds[1];
    return ERR_OK;
}

void said_begin(struct said *s, pid_t pid)
{
    s->pid = pid;
    listen_on(s);
}

void said_drain(struct said *s)
{
    bool end = s->fd < 0;

    for (size_t all = 0, n = 1; !end && n > 0 && all < DRAIN_MOST; all += n) {
        n = read_some(s, &end);
    }
    pthread_mutex_lock(&s->lock);
    end_line(s);
    pthread_mutex_unlock(&s->lock);
}

size_t said_last(struct said *s, char *out, size_t cap)
{
    size_t from, n = 0;

    pthread_mutex_lock(&s->lock);
    from = s->n_kept;
    for (unsigned lines = 0; lines < SHOWN_LINES && from > 0; lines++) {
        size_t at = from - 1;

        while (at > 0 && s->kept[at - 1] != '\n') {
            at--;
        }
        /* each '\n' but the last becomes " | " */
        if (s->n_kept - 1 - at + 2 * lines >= cap) {
            break;
        }
        from = at;
    }
    if (from == s->n_kept && from > 0 && cap > 1) { /* not even the last line fits whole: its beginning does */
        from = s->n_kept - 1;
        while (from > 0 && s->kept[from - 1] != '\n') {
            from--;
        }
    }
    for (size_t i = from; i + 1 < s->n_kept && n + 1 < cap; i++) {
        if (s->kept[i] == '\n' && n + 3 < cap) {
            memcpy(out + n, " | ", 3);
            n += 3;
        } else {
            out[n++] = s->kept[i];
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (cap > 0) {
        out[n] = '\0';
    }
    return n;
}

void said_close(struct said *s)
{
    if (s->fd >= 0) {
        loop_del(s->loop, &s->watch);
        timer_clear(s->loop, &s->rest);
        close(s->fd);
        s->fd = -1;
    }
    if (s->dropped > 0) {
        log_warn("worker", "lines of a worker were dropped worker=%s pid=%d lines=%llu", s->name, (int)s->pid,
                 (unsigned long long)s->dropped);
    }
    pthread_mutex_destroy(&s->lock);
}
