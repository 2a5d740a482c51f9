/* SPDX-License-Identifier: Apache-2.0 */
/* floor MODEL PORT THREADS: the least that a server in front of Run() can cost on this kernel, with this client.
 *
 * Each thread has an epoll, a listening socket of its own (SO_REUSEPORT) and a session of its own; a request is read,
 * run and answered with one read(), one Run() and one write(). It knows the two requests that the harness sends: JSON
 * whose numbers stand behind the first "data":[ , and a JSON part of Inference-Header-Content-Length bytes with the
 * tensor's raw bytes behind it, which is run where it was read. Answers have the form that the server's have. It checks
 * nothing that it is not made to crash by: no method, no path, no name, no shape, no count of numbers, no pipelining.
 * Do not serve with it.
 *
 * Prints "ready" when every thread listens; ends by SIGTERM. */
#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM (64u << 10) /* for heads and JSON */
#define NUMBER_MAX 20    /* characters of a number in JSON, with its comma */
#define THREADS_MAX 64

struct conn {
    int fd;
    size_t n, need;    /* bytes read; of the whole request, 0 while its head is not complete */
    size_t body, json; /* where the body begins; length of its JSON part if it is binary, else 0 */
    char buf[];
};

struct server {
    pthread_t thread;
    struct session session;
    int listener, epoll;
    size_t cap; /* of a connection's buffer */
    char *out;  /* the answer being made */
    size_t out_cap;
};

static size_t header_number(const char *head, size_t n, const char *name)
{
    const char *at = memmem(head, n, name, strlen(name));

    return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

/* Whether the whole request is there. */
static bool request_complete(struct conn *c, size_t cap)
{
    if (!c->need) {
        const char *end = memmem(c->buf, c->n, "\r\n\r\n", 4);

        if (!end) {
            return false;
        }
        c->body = (size_t)(end - c->buf) + 4;
        c->need = c->body + header_number(c->buf, c->body, "\nContent-Length: ");
        c->json = header_number(c->buf, c->body, "\nInference-Header-Content-Length: ");
    }
    return c->n >= c->need && c->need <= cap;
}

static void read_numbers(const char *at, float *to, size_t n)
{
    at = strstr(at, "\"data\":[");
    at = at ? at + 8 : "";
    for (size_t i = 0; i < n && *at; i++) {
        char *end;

        to[i] = strtof(at, &end);
        at = *end == ',' ? end + 1 : end;
    }
}

static size_t write_head(char *out, size_t cap, size_t length, size_t json)
{
    int n = snprintf(out, cap, "HTTP/1.1 200 OK\r\nContent-Type: application/%s\r\n", json ? "octet-stream" : "json");

    if (json) {
        n += snprintf(out + n, cap - (size_t)n, "Inference-Header-Content-Length: %zu\r\n", json);
    }
    return (size_t)(n + snprintf(out + n, cap - (size_t)n, "Content-Length: %zu\r\n\r\n", length));
}

/* Composes the body at out + ROOM, then puts the head right before it. Returns where the answer begins. */
static char *write_answer(struct server *s, bool binary, size_t *n)
{
    const struct session *q = &s->session;
    char *body = s->out + ROOM, head[256];
    size_t cap = s->out_cap - ROOM, at, head_n, bytes = q->out_n * sizeof(float);

    at = (size_t)snprintf(
        body, cap,
        "{\"model_name\":\"floor\",\"model_version\":\"1\",\"outputs\":[{\"name\":\"%s\",\"datatype\":\"FP32\","
        "\"shape\":[1,%zu],",
        q->out_name, q->out_n);
    if (binary) {
        at += (size_t)snprintf(body + at, cap - at, "\"parameters\":{\"binary_data_size\":%zu}}]}", bytes);
        memcpy(body + at, q->out, bytes);
        head_n = write_head(head, sizeof head, at + bytes, at);
        at += bytes;
    } else {
        at += (size_t)snprintf(body + at, cap - at, "\"data\":[");
        for (size_t i = 0; i < q->out_n; i++) {
            at += (size_t)snprintf(body + at, cap - at, i ? ",%.9g" : "%.9g", (double)q->out[i]);
        }
        at += (size_t)snprintf(body + at, cap - at, "]}]}");
        head_n = write_head(head, sizeof head, at, 0);
    }
    *n = head_n + at;
    return memcpy(body - head_n, head, head_n);
}

static bool answer(struct server *s, struct conn *c)
{
    size_t n;
    char *from;

    c->buf[c->need] = '\0';
    if (c->json) {
        char *raw = c->buf + c->body + c->json;
        OrtValue *in;

        if (c->body + c->json + s->session.in_n * sizeof(float) > s->cap) {
            return false;
        }
        in = session_value(&s->session, (float *)(void *)raw, true);
        session_run(&s->session, in);
        s->session.api->ReleaseValue(in);
    } else {
        read_numbers(c->buf + c->body, s->session.in, s->session.in_n);
        session_run(&s->session, s->session.in_value);
    }
    from = write_answer(s, c->json > 0, &n);
    c->n = c->need = 0;
    return send(c->fd, from, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static void conn_open(struct server *s)
{
    int one = 1, fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct conn *c = fd < 0 ? NULL : malloc(sizeof *c + s->cap + 1);

    if (!c) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    c->fd = fd;
    c->n = c->need = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
}

static void conn_serve(struct server *s, struct conn *c)
{
    ssize_t n = read(c->fd, c->buf + c->n, s->cap - c->n);

    if (n < 0 && errno == EAGAIN) {
        return;
    }
    c->n += n > 0 ? (size_t)n : 0;
    if (n > 0 && (request_complete(c, s->cap) ? answer(s, c) : c->n < s->cap)) {
        return;
    }
    close(c->fd);
    free(c);
}

static void *server_run(void *arg)
{
    struct server *s = arg;
    struct epoll_event ev[128];

    for (;;) {
        int n = epoll_wait(s->epoll, ev, 128, -1);

        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr == s) {
                conn_open(s);
            } else {
                conn_serve(s, ev[i].data.ptr);
            }
        }
    }
    return NULL;
}

static void server_open(struct server *s, const struct runtime *rt, const char *model, uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;

    session_open(&s->session, rt, model, 1, 1);
    s->cap = ROOM + s->session.in_n * NUMBER_MAX;
    s->out_cap = 2 * ROOM + s->session.out_n * NUMBER_MAX;
    s->out = malloc(s->out_cap);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!s->out || s->epoll < 0 || s->listener < 0) {
        die("no memory or no descriptors");
    }
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(s->listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(s->listener, 1024) != 0) {
        die("port %u: %s", port, strerror(errno));
    }
    epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = s});
}

int main(int argc, char **argv)
{
    static struct server server[THREADS_MAX];
    long port = argc == 4 ? strtol(argv[2], NULL, 10) : 0, threads = argc == 4 ? strtol(argv[3], NULL, 10) : 0;
    struct runtime rt;

    if (port < 1 || port > 65535 || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: floor MODEL PORT THREADS\n");
        return 2;
    }
    rt = runtime_open();
    for (long i = 0; i < threads; i++) {
        server_open(&server[i], &rt, argv[1], (uint16_t)port);
    }
    for (long i = 0; i < threads; i++) {
        if (pthread_create(&server[i].thread, NULL, server_run, &server[i]) != 0) {
            die("cannot start a thread");
        }
    }
    puts("ready");
    fflush(stdout);
    for (long i = 0; i < threads; i++) {
        pthread_join(server[i].thread, NULL);
    }
    return 0;
}
