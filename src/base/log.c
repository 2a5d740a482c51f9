/* SPDX-License-Identifier: Apache-2.0 */
/* The log: a bounded ring with many writers and one reader, and the thread that reads it.
 *
 * A caller formats on its own stack, takes a ticket (one compare-and-swap), copies into the ticket's slot and marks the
 * slot as full; no lock is held, so a caller that is suspended in between delays the writer's output but no other
 * caller. A slot's `turn` says whose it is: ticket t may fill it when turn == t, the writer may read it when turn == t
 * + 1.
 *
 * The writer sleeps on a semaphore and is woken once per burst. It turns lines into text (JSON or, on a terminal,
 * readable), gathers them and writes at most 4 KiB at a time after poll, so that log_stop ends within two seconds even
 * when nobody reads the pipe any more. */
#define _GNU_SOURCE
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"

enum { TEXT_MOST = 1000, ROOM_MOST = 24, SLOTS = 1024, PAIRS_MOST = 32, WRITE_MOST = 4096, BATCH = 32 * 1024 };
#define STOP_WAIT_US SECONDS(2)

struct line {
    int64_t wall_ms;
    enum log_level level;
    uint32_t n;
    char room[ROOM_MOST];
    char text[TEXT_MOST];
};

struct slot {
    _Alignas(64) _Atomic uint64_t turn;
    struct line line;
};

static struct {
    struct slot slots[SLOTS];
    _Alignas(64) _Atomic uint64_t head; /* next ticket to hand out */
    _Alignas(64) _Atomic uint64_t lost;
    _Atomic int callers; /* inside log_line with the ring open */
    _Atomic int level;
    _Atomic bool open;
    _Atomic bool stopping;
    _Atomic bool woken;         /* a post is on its way */
    _Alignas(64) uint64_t tail; /* the writer's */
    uint64_t stop_by;           /* written before `stopping` */
    uint64_t lost_told;
    sem_t wake;
    pthread_t thread;
    struct buf out;
    int fd;
    bool readable;
    _Atomic bool plain; /* see log_plain */
} ring = {.level = LOG_INFO};

static const char *const level_text[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
static const char *const level_name[] = {"debug", "info", "warn", "error"};

/* ---- lines to text ---- */

struct pair {
    struct str key, value; /* value: between its quotes, when it has them */
    bool quoted;
};

static bool key_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == '-';
}

/* A key=value at p up to a blank or the end; returns the byte behind it, NULL if there is none. */
static const char *pair_at(const char *p, const char *end, struct pair *out)
{
    const char *q = p;
    while (q < end && key_char(*q)) {
        q++;
    }
    if (q == p || q == end || *q != '=') {
        return NULL;
    }
    out->key = (struct str){p, (size_t)(q - p)};
    const char *v = ++q;
    out->quoted = q < end && *q == '"';
    if (!out->quoted) {
        while (q < end && *q != ' ') {
            q++;
        }
        out->value = (struct str){v, (size_t)(q - v)};
        return q;
    }
    for (q = ++v; q < end && *q != '"'; q++) {
        if (*q == '\\' && q + 1 < end) {
            q++;
        }
    }
    if (q == end || (q + 1 < end && q[1] != ' ')) {
        return NULL;
    }
    out->value = (struct str){v, (size_t)(q - v)};
    return q + 1;
}

/* Splits the pairs off the end: a run of words that are all pairs. Returns how many; *text becomes what is before them.
 */
static size_t pairs_split(struct str *text, struct pair pairs[PAIRS_MOST])
{
    const char *p = text->p;
    const char *end = p + text->n;
    const char *run = NULL;
    size_t n = 0;
    while (p < end) {
        const char *next = n < PAIRS_MOST ? pair_at(p, end, &pairs[n]) : NULL;
        if (next) {
            run = run ? run : p;
            n++;
        } else {
            run = NULL;
            n = 0;
            next = memchr(p, ' ', (size_t)(end - p));
            next = next ? next : end;
        }
        p = next < end ? next + 1 : end;
    }
    if (run) {
        text->n = (size_t)(run - text->p);
        while (text->n > 0 && text->p[text->n - 1] == ' ') {
            text->n--;
        }
    }
    return n;
}

static void value_json(struct buf *b, const struct pair *pair)
{
    if (!pair->quoted || !memchr(pair->value.p, '\\', pair->value.n)) {
        json_str(b, pair->value);
        return;
    }
    char plain[TEXT_MOST];
    size_t n = 0;
    for (size_t i = 0; i < pair->value.n; i++) {
        if (pair->value.p[i] == '\\' && i + 1 < pair->value.n) {
            i++;
        }
        plain[n++] = pair->value.p[i];
    }
    json_str(b, (struct str){plain, n});
}

static void line_json(struct buf *b, const struct line *line)
{
    struct pair pairs[PAIRS_MOST];
    struct str text = {line->text, line->n};
    size_t n = pairs_split(&text, pairs);
    char when[CLOCK_TEXT];
    clock_text(when, line->wall_ms);
    BUF_LIT(b, "{\"time\":\"");
    buf_addz(b, when);
    BUF_LIT(b, "\",\"level\":\"");
    buf_addz(b, level_name[line->level]);
    BUF_LIT(b, "\",\"room\":");
    json_strz(b, line->room);
    BUF_LIT(b, ",\"text\":");
    json_str(b, text);
    for (size_t i = 0; i < n; i++) {
        struct str k = pairs[i].key;
        bool taken = str_is(k, "time") || str_is(k, "level") || str_is(k, "room") || str_is(k, "text");
        BUF_LIT(b, ",\"");
        buf_add(b, k.p, k.n); /* key characters need no escape */
        buf_addz(b, taken ? "_\":" : "\":");
        value_json(b, &pairs[i]);
    }
    BUF_LIT(b, "}\n");
}

/* Text for a terminal: nothing in it may move the cursor or begin an escape sequence. */
static void text_safe(struct buf *b, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        bool c1 = c == 0xC2 && i + 1 < n && (unsigned char)p[i + 1] < 0xA0;
        if (c == '\n') {
            BUF_LIT(b, "\\n");
        } else if (c == '\t') {
            BUF_LIT(b, "\\t");
        } else if (c < 0x20 || c == 0x7F || c1) {
            buf_addf(b, "\\x%02x", c1 ? (unsigned char)p[++i] : c);
        } else {
            buf_addc(b, (char)c);
        }
    }
}

static void line_readable(struct buf *b, const struct line *line)
{
    time_t t = (time_t)(line->wall_ms / 1000);
    struct tm tm = {0};
    localtime_r(&t, &tm);
    buf_addf(b, "%02d:%02d:%02d %s ", tm.tm_hour, tm.tm_min, tm.tm_sec, level_text[line->level]);
    text_safe(b, line->text, line->n);
    buf_addc(b, '\n');
}

static void line_out(struct buf *b, const struct line *line, bool readable)
{
    if (readable) {
        line_readable(b, line);
    } else {
        line_json(b, line);
    }
}

/* ---- the writer ---- */

/* Waits until fd takes bytes; false when it will not any more. */
static bool wait_writable(void)
{
    for (;;) {
        int wait_ms = 200;
        if (atomic_load(&ring.stopping)) {
            uint64_t now = clock_us();
            if (now >= ring.stop_by) {
                wait_ms = 0;
            } else {
                wait_ms = (int)MIN((ring.stop_by - now) / 1000 + 1, (uint64_t)200);
            }
        }
        struct pollfd pfd = {.fd = ring.fd, .events = POLLOUT};
        int n = poll(&pfd, 1, wait_ms);
        if (n > 0) {
            return (pfd.revents & POLLNVAL) == 0;
        }
        if ((n < 0 && errno != EINTR) || (n == 0 && wait_ms == 0)) {
            return false;
        }
    }
}

/* What can not be written is let go: a log that is gone must not stop the server. */
static void out_flush(void)
{
    size_t at = 0;
    while (at < ring.out.n && wait_writable()) {
        ssize_t n = write(ring.fd, ring.out.p + at, MIN(ring.out.n - at, (size_t)WRITE_MOST));
        if (n >= 0) {
            at += (size_t)n;
        } else if (errno != EINTR && errno != EAGAIN) {
            break;
        }
    }
    buf_clear(&ring.out);
}

static void lost_tell(void)
{
    uint64_t lost = atomic_load_explicit(&ring.lost, memory_order_relaxed);
    if (lost == ring.lost_told) {
        return;
    }
    struct line line = {.wall_ms = clock_wall_ms(), .level = LOG_WARN, .room = "log"};
    int n = snprintf(line.text, sizeof(line.text), "lines were lost because the log is written too slowly count=%llu",
                     (unsigned long long)(lost - ring.lost_told));
    line.n = (uint32_t)n;
    ring.lost_told = lost;
    line_out(&ring.out, &line, ring.readable);
}

static void ring_drain(void)
{
    for (;;) {
        struct slot *slot = &ring.slots[ring.tail % SLOTS];
        bool full = atomic_load_explicit(&slot->turn, memory_order_acquire) == ring.tail + 1;
        if (!full || ring.out.n >= BATCH) {
            lost_tell();
            if (ring.out.n == 0) {
                return;
            }
            out_flush();
            continue;
        }
        line_out(&ring.out, &slot->line, ring.readable);
        atomic_store_explicit(&slot->turn, ring.tail + SLOTS, memory_order_release);
        ring.tail++;
    }
}

static void *writer_main(void *unused)
{
    (void)unused;
    bool last = false;
    while (!last) {
        while (sem_wait(&ring.wake) != 0) {
        }
        last = atomic_load(&ring.stopping);
        /* Cleared before reading: a line that is put in after this posts again. */
        atomic_exchange(&ring.woken, false);
        ring_drain();
    }
    return NULL;
}

static void writer_wake(void)
{
    if (!atomic_exchange(&ring.woken, true)) {
        sem_post(&ring.wake);
    }
}

/* ---- callers ---- */

static void ring_put(const struct line *line)
{
    uint64_t ticket = atomic_load_explicit(&ring.head, memory_order_relaxed);
    struct slot *slot;
    for (;;) {
        slot = &ring.slots[ticket % SLOTS];
        uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);
        if (turn == ticket) {
            if (atomic_compare_exchange_weak_explicit(&ring.head, &ticket, ticket + 1, memory_order_relaxed,
                                                      memory_order_relaxed)) {
                break;
            }
        } else if ((int64_t)(turn - ticket) < 0) {
            atomic_fetch_add_explicit(&ring.lost, 1, memory_order_relaxed);
            return;
        } else {
            ticket = atomic_load_explicit(&ring.head, memory_order_relaxed);
        }
    }
    memcpy(&slot->line, line, offsetof(struct line, text) + line->n);
    atomic_store_explicit(&slot->turn, ticket + 1, memory_order_release);
    writer_wake();
}

/* Outside of log_start … log_stop: no thread, so the caller writes. */
static void put_direct(const struct line *line)
{
    struct buf b;
    buf_init(&b, 64 * 1024);
    if (atomic_load(&ring.plain)) {
        buf_addz(&b, level_text[line->level]);
        buf_addc(&b, ' ');
        text_safe(&b, line->text, line->n);
        buf_addc(&b, '\n');
    } else {
        line_out(&b, line, isatty(STDERR_FILENO) == 1);
    }
    for (size_t at = 0; at < b.n;) {
        ssize_t n = write(STDERR_FILENO, b.p + at, b.n - at);
        if (n < 0 && errno != EINTR) {
            break;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    buf_done(&b);
}

/* Cut at a character border, so that the last one is not half. */
static uint32_t text_cut(const char *p, uint32_t n)
{
    uint32_t at = n;
    while (at > 0 && n - at < 3 && ((unsigned char)p[at - 1] & 0xC0) == 0x80) {
        at--;
    }
    if (at > 0 && (unsigned char)p[at - 1] >= 0xC0) {
        unsigned char c = (unsigned char)p[at - 1];
        uint32_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        return n - at + 1 < need ? at - 1 : n;
    }
    return n;
}

void log_line(enum log_level level, const char *room, const char *fmt, ...)
{
    if ((int)level < atomic_load_explicit(&ring.level, memory_order_relaxed)) {
        return;
    }
    int errno_before = errno;
    struct line line;
    char text[TEXT_MOST + 1];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    line.wall_ms = clock_wall_ms();
    line.level = level <= LOG_ERROR ? level : LOG_ERROR;
    line.n = n < 0 ? 0 : n > TEXT_MOST ? text_cut(text, TEXT_MOST) : (uint32_t)n;
    memcpy(line.text, text, line.n);
    snprintf(line.room, sizeof(line.room), "%s", room);

    atomic_fetch_add(&ring.callers, 1);
    bool open = atomic_load(&ring.open);
    if (open) {
        ring_put(&line);
    }
    atomic_fetch_sub(&ring.callers, 1);
    if (!open) {
        put_direct(&line);
    }
    errno = errno_before;
}

bool log_wants(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&ring.level, memory_order_relaxed);
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&ring.level, (int)level, memory_order_relaxed);
}

void log_plain(void)
{
    atomic_store(&ring.plain, true);
}

void log_start(int fd, enum log_level level)
{
    assert(!atomic_load(&ring.open));
    log_set_level(level);
    ring.fd = fd;
    ring.readable = isatty(fd) == 1;
    for (uint64_t i = 0; i < SLOTS; i++) {
        atomic_store(&ring.slots[i].turn, i);
    }
    atomic_store(&ring.head, 0);
    ring.tail = 0;
    ring.lost_told = atomic_load(&ring.lost);
    atomic_store(&ring.stopping, false);
    atomic_store(&ring.woken, false);
    buf_init(&ring.out, 1024 * 1024);
    sem_init(&ring.wake, 0, 0);
    /* The writer takes no signals: they are the main thread's, and a closed pipe shall be EPIPE. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&ring.thread, NULL, writer_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        /* Lines keep going to stderr, each by its caller. */
        sem_destroy(&ring.wake);
        log_warn("log", "no thread for the log, lines go to stderr error=\"%s\"", strerrordesc_np(failed));
        return;
    }
    pthread_setname_np(ring.thread, "weir-log");
    atomic_store(&ring.open, true);
}

void log_stop(void)
{
    if (!atomic_exchange(&ring.open, false)) {
        return;
    }
    while (atomic_load(&ring.callers) > 0) {
        sched_yield();
    }
    ring.stop_by = clock_us() + STOP_WAIT_US;
    atomic_store(&ring.stopping, true);
    sem_post(&ring.wake);
    pthread_join(ring.thread, NULL);
    sem_destroy(&ring.wake);
    buf_done(&ring.out);
}
