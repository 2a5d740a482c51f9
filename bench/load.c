/* SPDX-License-Identifier: Apache-2.0 */
/* load: an open-loop client. Sends one constant HTTP/1.1 request at times that do not depend on the answers, as the
 * users of an overloaded service do, and counts every latency from the moment the request was *due*, not from when a
 * connection was free for it: a client that waits for answers hides what a backlog costs.
 *
 *     load [-c CONNECTIONS] [-r RATE] [-e] [-s SECONDS] [-d DEADLINE_MS] [-w DRAIN_S] [-S SEED] \
 *          PORT METHOD PATH BODY_FILE [HEADER_NAME VALUE]...
 *
 * -r requests a second, arrivals of a Poisson process (-e: evenly spaced); 0, the default, is a closed loop: every
 * connection sends its next request when it has its answer. -d tells the server (X-Weir-Timeout) and counts which
 * answers were in time. After SECONDS nothing new is sent and what is in flight has DRAIN_S (10) to be answered.
 * BODY_FILE - sends no body. The server is on 127.0.0.1; connections are opened before the clock starts, kept, and
 * opened again when the server closes one. SIGTERM ends the sending early; the report is of the time until then. An
 * answer may come while the body is still being sent: if the server keeps the connection, the body is sent to its end
 * and the connection used again, else it is closed there and then.
 *
 * Prints one line of JSON: counts by outcome, latencies in us, answers of each second. A request has one outcome:
 *   ok          200
 *   refused     429 or 503
 *   expired     504: accepted, but not done in time
 *   other       any other status
 *   broken      the connection ended before the whole answer
 *   unanswered  still in flight when the drain was over
 *   unsent      due, but no connection was free before the end
 * `good` are the ok that came by the deadline, and before SECONDS were over: goodput is good / SECONDS. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192 /* of an answer */
#define CONNECTIONS_MAX 16384
#define SECONDS_MAX 86400
#define SECOND 1000000000ull
#define RETRY_NS (SECOND / 10) /* between attempts to open a connection that was refused */

static volatile sig_atomic_t told_to_end;

static void on_term(int signal)
{
    (void)signal;
    told_to_end = 1;
}

enum state { CLOSED, CONNECTING, IDLE, BUSY };

struct conn {
    int fd;
    enum state state;
    uint32_t events;      /* what epoll watches */
    uint64_t due, begun;  /* ns */
    size_t sent;          /* bytes of the request */
    bool deaf;            /* the server takes no more bytes; its answer may be here all the same */
    bool headed, done;    /* the answer's head, all of it was read */
    bool closing;         /* the server will close */
    bool chunked, to_end; /* how the body ends; neither: after `left` bytes */
    int status;
    uint64_t left;
    char tail[5];
    size_t n;
    char head[HEAD_MAX + 1];
};

struct samples {
    uint32_t *us;
    size_t n, cap;
};

struct run {
    uint64_t began, end, deadline; /* ns; deadline 0: none */
    double rate, due;              /* requests a second; when the next is due, ns from began */
    bool even;
    uint64_t random;
    unsigned seconds;
    struct sockaddr_in at;
    char *request;
    size_t request_n;
    int epoll;
    struct conn *conn;
    unsigned n_conn, busy;
    unsigned *idle, idle_from, idle_n; /* a ring: connections are used in turn */
    uint64_t retry_at;                 /* when closed connections are tried again; 0: there are none */
    uint64_t offered, sent, ok, good, refused, expired, other, broken, unsent, early, opened, not_opened;
    int worst; /* the status of the last `other` */
    struct samples from_due, from_begun, of_refused, lag;
    uint32_t *good_in, *ok_in, *refused_in; /* each second */
};

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static void *room(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p) {
        die("no memory");
    }
    return p;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* ---- what was measured ---- */

static void samples_add(struct samples *s, uint64_t ns)
{
    uint64_t us = ns / 1000;

    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 4096;
        s->us = realloc(s->us, s->cap * sizeof *s->us);
        if (!s->us) {
            die("no memory for the times");
        }
    }
    s->us[s->n++] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* The least value that `share` of the sorted samples do not exceed. */
static uint32_t percentile(const struct samples *s, double share)
{
    size_t rank = (size_t)ceil(share * (double)s->n);

    return s->n ? s->us[rank ? rank - 1 : 0] : 0;
}

static void print_times(const char *name, struct samples *s)
{
    if (s->n) {
        qsort(s->us, s->n, sizeof *s->us, by_value);
    }
    printf(",\"%s\":{\"n\":%zu,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"p999\":%u,\"max\":%u}", name, s->n, percentile(s, .5),
           percentile(s, .9), percentile(s, .99), percentile(s, .999), percentile(s, 1));
}

static void print_series(const char *name, const uint32_t *in, unsigned n)
{
    printf(",\"%s\":[", name);
    for (unsigned i = 0; i < n; i++) {
        printf(i ? ",%u" : "%u", in[i]);
    }
    putchar(']');
}

static void report(struct run *r)
{
    printf("{\"seconds\":%u,\"offered\":%llu,\"sent\":%llu,\"ok\":%llu,\"good\":%llu,\"refused\":%llu,\"expired\":%llu,"
           "\"other\":%llu,"
           "\"broken\":%llu,\"unanswered\":%u,\"unsent\":%llu,\"early\":%llu,\"reopened\":%llu,\"not_opened\":%llu,"
           "\"last_other\":%d",
           r->seconds, (unsigned long long)r->offered, (unsigned long long)r->sent, (unsigned long long)r->ok,
           (unsigned long long)r->good, (unsigned long long)r->refused, (unsigned long long)r->expired,
           (unsigned long long)r->other, (unsigned long long)r->broken, r->busy, (unsigned long long)r->unsent,
           (unsigned long long)r->early, (unsigned long long)(r->opened > r->n_conn ? r->opened - r->n_conn : 0),
           (unsigned long long)r->not_opened, r->worst);
    print_times("ok_us", &r->from_due);
    print_times("ok_from_send_us", &r->from_begun);
    print_times("refused_us", &r->of_refused);
    print_times("lag_us", &r->lag);
    print_series("good_in", r->good_in, r->seconds);
    print_series("ok_in", r->ok_in, r->seconds);
    print_series("refused_in", r->refused_in, r->seconds);
    puts("}");
}

static void count_answer(struct run *r, const struct conn *c)
{
    uint64_t now = now_ns(), second = (now - r->began) / SECOND;
    bool counts = second < r->seconds;

    if (c->status == 200) {
        r->ok++;
        samples_add(&r->from_due, now - c->due);
        samples_add(&r->from_begun, now - c->begun);
        if (counts) {
            bool good = !r->deadline || now - c->due <= r->deadline;

            r->ok_in[second]++;
            r->good += good;
            r->good_in[second] += good;
        }
    } else if (c->status == 429 || c->status == 503) {
        r->refused++;
        samples_add(&r->of_refused, now - c->due);
        if (counts) {
            r->refused_in[second]++;
        }
    } else if (c->status == 504) {
        r->expired++;
    } else {
        r->other++;
        r->worst = c->status;
    }
}

/* ---- connections ---- */

static void watch(struct run *r, struct conn *c, uint32_t events)
{
    if (c->events != events) {
        c->events = events;
        epoll_ctl(r->epoll, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){.events = events, .data.ptr = c});
    }
}

static void conn_idle(struct run *r, struct conn *c)
{
    c->state = IDLE;
    watch(r, c, EPOLLIN);
    r->idle[(r->idle_from + r->idle_n++) % r->n_conn] = (unsigned)(c - r->conn);
}

static void conn_close(struct run *r, struct conn *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    c->state = CLOSED;
    if (!r->retry_at) {
        r->retry_at = now_ns() + RETRY_NS;
    }
}

static void conn_open(struct run *r, struct conn *c)
{
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        die("cannot make a socket: %s", strerror(errno));
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    c->events = EPOLLIN | EPOLLOUT;
    if (connect(c->fd, (struct sockaddr *)&r->at, sizeof r->at) != 0 && errno != EINPROGRESS) {
        r->not_opened++;
        conn_close(r, c);
        return;
    }
    epoll_ctl(r->epoll, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = c->events, .data.ptr = c});
}

static void conn_opened(struct run *r, struct conn *c)
{
    int why = 0;
    socklen_t n = sizeof why;

    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &why, &n);
    if (why) {
        r->not_opened++;
        conn_close(r, c);
        return;
    }
    r->opened++;
    conn_idle(r, c);
}

static void conn_again(struct run *r, struct conn *c)
{
    close(c->fd);
    conn_open(r, c);
}

/* The request on this connection has its outcome, and all of it was sent or will never be. */
static void conn_over(struct run *r, struct conn *c)
{
    r->busy--;
    if (c->deaf || c->closing || c->sent < r->request_n) {
        conn_again(r, c);
    } else {
        conn_idle(r, c);
    }
}

static void conn_broken(struct run *r, struct conn *c)
{
    r->broken++;
    c->closing = true;
    conn_over(r, c);
}

/* ---- one request ---- */

static void answered(struct run *r, struct conn *c)
{
    c->done = true;
    count_answer(r, c);
    r->early += c->sent < r->request_n;
    if (c->sent == r->request_n || c->deaf || c->closing) {
        conn_over(r, c);
    }
}

static void take_body(struct conn *c, const char *p, size_t n)
{
    if (c->chunked) { /* a last chunk and its empty trailer end the body */
        size_t keep = n < sizeof c->tail ? n : sizeof c->tail;

        memmove(c->tail, c->tail + keep, sizeof c->tail - keep);
        memcpy(c->tail + sizeof c->tail - keep, p + n - keep, keep);
        c->left = memcmp(c->tail, "0\r\n\r\n", sizeof c->tail) != 0;
    } else if (!c->to_end) {
        c->left -= n < c->left ? n : c->left;
    }
}

/* Reads the head in c->head; false while it is not all there. What follows it goes to take_body. */
static bool take_head(struct conn *c)
{
    char *end, *at;
    size_t rest;

    c->head[c->n] = '\0';
    end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        return false;
    }
    end[2] = '\0';
    rest = c->n - (size_t)(end + 4 - c->head);
    c->status = c->n > 12 ? (int)strtol(c->head + 9, NULL, 10) : 0;
    if (c->status / 100 == 1) {
        memmove(c->head, end + 4, rest);
        c->n = rest;
        return take_head(c);
    }
    at = strcasestr(c->head, "\ncontent-length:");
    c->left = at ? strtoull(at + 16, NULL, 10) : 1;
    c->chunked = strcasestr(c->head, "\ntransfer-encoding: chunked") != NULL;
    c->to_end = !at && !c->chunked;
    c->closing = c->to_end || strcasestr(c->head, "\nconnection: close") != NULL;
    c->headed = true;
    take_body(c, end + 4, rest);
    return true;
}

/* Takes bytes of the answer; false: this is none that HTTP knows. */
static bool take(struct run *r, struct conn *c, const char *p, size_t n)
{
    if (c->done) {
        return true; /* only while the body is still being sent: what follows an answer there is not looked at */
    }
    if (!c->headed) {
        size_t more = n < HEAD_MAX - c->n ? n : HEAD_MAX - c->n;

        memcpy(c->head + c->n, p, more);
        c->n += more;
        if (!take_head(c)) {
            return c->n < HEAD_MAX;
        }
        p += more;
        n -= more;
    }
    take_body(c, p, n);
    if (!c->left) {
        answered(r, c);
    }
    return true;
}

static void conn_read(struct run *r, struct conn *c)
{
    static char buf[256 << 10];
    ssize_t n;

    do {
        n = recv(c->fd, buf, sizeof buf, 0);
        if (n > 0 && (c->state != BUSY || !take(r, c, buf, (size_t)n))) {
            n = -1;
            errno = EPROTO;
        }
    } while (n > 0 && c->state == BUSY);
    if (n > 0 || (n < 0 && errno == EAGAIN)) {
        if (c->deaf && c->state == BUSY) { /* nothing more will come */
            conn_broken(r, c);
        }
        return;
    }
    if (c->state != BUSY) {
        return; /* idle: the caller opens it again */
    }
    c->closing = true;
    if (c->done) {
        conn_over(r, c);
    } else if (c->headed && c->to_end && n == 0) {
        answered(r, c);
    } else {
        conn_broken(r, c);
    }
}

static void conn_write(struct run *r, struct conn *c)
{
    while (c->sent < r->request_n) {
        ssize_t n = send(c->fd, r->request + c->sent, r->request_n - c->sent, MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN) {
            watch(r, c, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) { /* closed by the server; it may have said why before */
            c->deaf = true;
            if (c->done) {
                conn_over(r, c);
            } else {
                conn_read(r, c);
            }
            return;
        }
        c->sent += (size_t)n;
    }
    watch(r, c, EPOLLIN);
    if (c->done) {
        conn_over(r, c);
    }
}

static void request_begin(struct run *r, uint64_t due, uint64_t now)
{
    struct conn *c = &r->conn[r->idle[r->idle_from]];

    r->idle_from = (r->idle_from + 1) % r->n_conn;
    r->idle_n--;
    r->busy++;
    r->sent++;
    c->state = BUSY;
    c->due = due;
    c->begun = now;
    c->sent = c->n = 0;
    c->status = 0;
    c->deaf = c->headed = c->done = c->closing = c->chunked = c->to_end = false;
    memset(c->tail, 0, sizeof c->tail);
    samples_add(&r->lag, now - due);
    conn_write(r, c);
}

/* ---- the schedule ---- */

/* ns from one arrival to the next. */
static double gap(struct run *r)
{
    double u;

    if (r->even) {
        return 1e9 / r->rate;
    }
    r->random ^= r->random << 13; /* xorshift64 */
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    u = ((double)(r->random >> 11) + 0.5) / 9007199254740992.0; /* in (0,1) */
    return -log(u) * 1e9 / r->rate;
}

static void begin_due(struct run *r)
{
    uint64_t now = now_ns();

    while (r->idle_n && (r->rate > 0 || now < r->end)) {
        if (r->rate > 0) {
            uint64_t due = r->began + (uint64_t)r->due;

            if (due > now || due >= r->end) {
                return;
            }
            r->due += gap(r);
            r->offered++;
            request_begin(r, due, now);
        } else {
            r->offered++;
            request_begin(r, now, now);
        }
        now = now_ns();
    }
}

/* When there is something to do without an event. */
static uint64_t wake_at(const struct run *r, uint64_t now, uint64_t drained)
{
    uint64_t at = now < r->end ? r->end : drained;

    if (now < r->end && r->idle_n && r->rate > 0 && r->began + (uint64_t)r->due < at) {
        at = r->began + (uint64_t)r->due;
    }
    return r->retry_at && r->retry_at < at ? r->retry_at : at;
}

static void open_closed(struct run *r, uint64_t now)
{
    if (!r->retry_at || now < r->retry_at) {
        return;
    }
    r->retry_at = 0;
    for (unsigned i = 0; i < r->n_conn; i++) {
        if (r->conn[i].state == CLOSED) {
            conn_open(r, &r->conn[i]);
        }
    }
}

/* An idle connection that the server closes leaves the ring and is opened again. */
static void idle_lost(struct run *r, struct conn *c)
{
    unsigned self = (unsigned)(c - r->conn), kept = 0;

    for (unsigned i = 0; i < r->idle_n; i++) {
        unsigned at = r->idle[(r->idle_from + i) % r->n_conn];

        if (at != self) {
            r->idle[(r->idle_from + kept++) % r->n_conn] = at;
        }
    }
    r->idle_n = kept;
    conn_again(r, c);
}

static void on_event(struct run *r, struct conn *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        conn_opened(r, c);
        return;
    }
    if (c->state == IDLE) {
        idle_lost(r, c); /* it closes, or says what nobody asked: no more use for it */
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        conn_read(r, c);
    }
    if (c->state == BUSY && events & EPOLLOUT) {
        conn_write(r, c);
    }
}

static void wait_events(struct run *r, uint64_t until)
{
    struct epoll_event ev[256];
    uint64_t now = now_ns(), left = until > now ? until - now : 0;
    struct timespec t = {(time_t)(left / SECOND), (long)(left % SECOND)};
    int n = epoll_pwait2(r->epoll, ev, 256, &t, NULL);

    for (int i = 0; i < n; i++) {
        on_event(r, ev[i].data.ptr, ev[i].events);
        begin_due(r);
    }
}

static void run_all(struct run *r, unsigned drain_s)
{
    uint64_t give_up = now_ns() + 30 * SECOND, drained;

    for (unsigned i = 0; i < r->n_conn; i++) {
        r->conn[i].fd = -1;
        conn_open(r, &r->conn[i]);
    }
    while (r->idle_n < r->n_conn) {
        if (now_ns() > give_up) {
            die("only %u of %u connections could be opened", r->idle_n, r->n_conn);
        }
        wait_events(r, now_ns() + RETRY_NS);
        open_closed(r, now_ns());
    }
    r->opened = r->n_conn;
    r->not_opened = 0;
    r->began = now_ns();
    r->end = r->began + r->seconds * SECOND;
    drained = r->end + drain_s * SECOND;
    r->due = r->rate > 0 ? gap(r) : 0;
    for (;;) {
        uint64_t now = now_ns();

        open_closed(r, now);
        begin_due(r);
        if (now >= r->end && (!r->busy || now >= drained)) {
            break;
        }
        wait_events(r, wake_at(r, now, drained));
        if (told_to_end && now < r->end) {
            r->end = now;
            r->seconds = (unsigned)((now - r->began) / SECOND);
            drained = now + drain_s * SECOND;
        }
    }
    while (r->rate > 0 && r->began + (uint64_t)r->due < r->end) {
        r->due += gap(r);
        r->offered++;
        r->unsent++;
    }
}

/* ---- the command ---- */

static double number(const char *text, double least, double most)
{
    char *end;
    double n = strtod(text, &end);

    if (*end || end == text || !(n >= least && n <= most)) {
        die("'%s' is not a number from %g to %g", text, least, most);
    }
    return n;
}

/* PORT METHOD PATH BODY_FILE [NAME VALUE]... -> the bytes of the request. */
static void make_request(struct run *r, char **word, int n, double deadline_ms)
{
    FILE *out = open_memstream(&r->request, &r->request_n), *in = NULL;
    char buf[65536];
    long length = 0;

    if (!out) {
        die("no memory");
    }
    if (strcmp(word[3], "-") != 0) {
        in = fopen(word[3], "rb");
        if (!in || fseek(in, 0, SEEK_END) != 0 || (length = ftell(in)) < 0) {
            die("cannot read %s: %s", word[3], strerror(errno));
        }
        rewind(in);
    }
    fprintf(out, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n", word[1], word[2]);
    for (int i = 4; i + 1 < n; i += 2) {
        fprintf(out, "%s: %s\r\n", word[i], word[i + 1]);
    }
    if (deadline_ms > 0) {
        fprintf(out, "X-Weir-Timeout: %.0fms\r\n", deadline_ms);
    }
    if (in) {
        fprintf(out, "Content-Length: %ld\r\n", length);
    }
    fputs("\r\n", out);
    for (size_t got; in && (got = fread(buf, 1, sizeof buf, in)) > 0;) {
        fwrite(buf, 1, got, out);
    }
    if (in) {
        fclose(in);
    }
    if (fclose(out) != 0) {
        die("no memory");
    }
}

int main(int argc, char **argv)
{
    static struct run r = {.n_conn = 64, .seconds = 5, .random = 1};
    double deadline_ms = 0;
    unsigned drain_s = 10;

    for (int c; (c = getopt(argc, argv, "+c:r:es:d:w:S:")) != -1;) {
        switch (c) {
        case 'c':
            r.n_conn = (unsigned)number(optarg, 1, CONNECTIONS_MAX);
            break;
        case 'r':
            r.rate = number(optarg, 0, 1e7);
            break;
        case 'e':
            r.even = true;
            break;
        case 's':
            r.seconds = (unsigned)number(optarg, 1, SECONDS_MAX);
            break;
        case 'd':
            deadline_ms = round(number(optarg, 0, 1e7));
            break;
        case 'w':
            drain_s = (unsigned)number(optarg, 0, SECONDS_MAX);
            break;
        case 'S':
            r.random = (uint64_t)number(optarg, 1, 1e15);
            break;
        default:
            return 2;
        }
    }
    if (argc - optind < 4 || (argc - optind) % 2 != 0) {
        fprintf(stderr, "usage: load [-c CONNECTIONS] [-r RATE] [-e] [-s SECONDS] [-d DEADLINE_MS] [-w DRAIN_S] "
                        "[-S SEED] PORT METHOD PATH BODY_FILE [HEADER_NAME VALUE]...\n");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* arrivals at their time, not up to 50 us later */
    signal(SIGTERM, on_term);
    make_request(&r, argv + optind, argc - optind, deadline_ms);
    r.deadline = (uint64_t)(deadline_ms * 1e6);
    r.at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    r.at.sin_port = htons((uint16_t)number(argv[optind], 1, 65535));
    r.random *= 0x9e3779b97f4a7c15u; /* small seeds give streams far apart */
    r.epoll = epoll_create1(EPOLL_CLOEXEC);
    r.conn = room(r.n_conn, sizeof *r.conn);
    r.idle = room(r.n_conn, sizeof *r.idle);
    r.good_in = room(r.seconds, sizeof *r.good_in);
    r.ok_in = room(r.seconds, sizeof *r.ok_in);
    r.refused_in = room(r.seconds, sizeof *r.refused_in);
    run_all(&r, drain_s);
    report(&r);
    return 0;
}
