/* SPDX-License-Identifier: Apache-2.0 */
/* A scripted peer: a thread that listens on a unix socket in a folder of its own and does what its steps say. It knows
 * no HTTP but where a request ends, so it can answer anything, early, late, in pieces, or not at all. */
#ifndef TESTS_UNIT_CLIENT_PEER_H
#define TESTS_UNIT_CLIENT_PEER_H

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"

enum peer_do { PEER_END, PEER_ACCEPT, PEER_READ, PEER_HEAD, PEER_SEND, PEER_LEFT, PEER_DRAIN, PEER_CLOSE };
struct peer_step {
    enum peer_do act;
    const char *bytes; /* of PEER_SEND */
    size_t n;          /* how many; 0: up to the terminator */
};
struct peer {
    char dir[64], url[128];
    int listener, fd;
    const struct peer_step *steps;
    pthread_t thread;
    bool waited;
    int accepted, requests;
    struct buf request; /* the last one, head and body */
};

/* Reads a head, and its body by Content-Length when whole is true. */
static void peer_read(struct peer *p, bool whole)
{
    size_t need = 0;
    buf_clear(&p->request);
    for (;;) {
        const char *text = buf_z(&p->request), *end = strstr(text, "\r\n\r\n");
        if (end) {
            const char *length = strstr(text, "\r\nContent-Length: ");
            need = (size_t)(end + 4 - text) +
                   (whole && length && length < end ? (size_t)strtoull(length + 18, NULL, 10) : 0);
            if (p->request.n >= need) {
                p->requests++;
                return;
            }
        }
        char piece[65536];
        ssize_t n = recv(p->fd, piece, end ? MIN(sizeof piece, need - p->request.n) : 1, 0);
        if (n <= 0) {
            return;
        }
        buf_add(&p->request, piece, (size_t)n);
    }
}

static void *peer_run(void *arg)
{
    struct peer *p = arg;
    char piece[65536];
    struct pollfd gone;
    for (const struct peer_step *s = p->steps; s->act != PEER_END; s++) {
        switch (s->act) {
        case PEER_ACCEPT:
            p->fd = accept(p->listener, NULL, NULL);
            p->accepted += p->fd >= 0;
            break;
        case PEER_READ:
            peer_read(p, true);
            break;
        case PEER_HEAD:
            peer_read(p, false);
            break;
        case PEER_SEND:
            (void)!send(p->fd, s->bytes, s->n ? s->n : strlen(s->bytes), MSG_NOSIGNAL);
            break;
        case PEER_LEFT: /* until then nothing is taken: so much does not fit into the socket */
            gone = (struct pollfd){.fd = p->fd, .events = POLLRDHUP};
            poll(&gone, 1, -1);
            break;
        case PEER_DRAIN:
            while (recv(p->fd, piece, sizeof piece, 0) > 0) {
            }
            break;
        default:
            close(p->fd);
            p->fd = -1;
        }
    }
    return NULL;
}

static inline void peer_start(struct peer *p, const struct peer_step *steps)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memset(p, 0, sizeof *p);
    p->fd = -1;
    p->steps = steps;
    buf_init(&p->request, 64u << 20);
    snprintf(p->dir, sizeof p->dir, "/tmp/weir-test-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", p->dir);
    snprintf(p->url, sizeof p->url, "unix:%s/s", p->dir);
    p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(p->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(p->listener, 8), 0);
    assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
}

/* Waits until the script has come to its end; then its counts and its last request may be read. */
static inline void peer_wait(struct peer *p)
{
    if (!p->waited) {
        pthread_join(p->thread, NULL);
    }
    p->waited = true;
}

static inline void peer_stop(struct peer *p)
{
    shutdown(p->listener, SHUT_RDWR);
    peer_wait(p);
    if (p->fd >= 0) {
        close(p->fd);
    }
    close(p->listener);
    unlink(p->url + 5);
    rmdir(p->dir);
    buf_done(&p->request);
}

#endif
