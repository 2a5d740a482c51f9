/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP listener on a loop that a test steps by hand, with a service that notes what it was called with.
 *
 * The client's end of each connection is a plain non-blocking descriptor (a socketpair, or a TCP connection over
 * loopback where the difference matters). Nothing sleeps: rig_spin runs the loop until it has nothing more to do.
 *
 * Thread: one. */
#ifndef WEIR_TESTS_SUPPORT_HTTP_RIG_H
#define WEIR_TESTS_SUPPORT_HTTP_RIG_H

#include "base/clock.h"
#include "net/http1_priv.h"
#include "net/sock.h"

enum rig_when { RIG_AT_COMPLETE, RIG_AT_HEADERS, RIG_AT_BODY, RIG_NEVER };

struct rig {
    struct loop *loop;
    struct http_listener *h;
    struct http_limits limits; /* set before rig_open */
    _Atomic uint32_t connections;
    struct addr *addr; /* of the TCP listener; NULL: unix */
    bool tcp;          /* set before rig_open */
    int fd;            /* the client's end of the last connection; -1: closed */
    bool eof;          /* the server closed its side */
    bool reset;        /* … with a reset */
    struct buf got;    /* what the client received */

    /* what the service does */
    enum rig_when when; /* it replies */
    uint64_t until;     /* http_body_until; 0: none */
    struct iovec *direct;
    size_t n_direct;   /* direct targets, set in `headers`, or in `body` at the border if until is set */
    bool pause;        /* pauses in each `body`; the test resumes */
    size_t reply_size; /* > 0: a reply of so many bytes instead of the summary */
    void (*on_headers)(struct rig *r, struct http_ex *x);

    /* what it saw */
    struct http_ex *x; /* the last exchange, while it is live */
    unsigned headers, bodies, completes, finishes, gones;
    struct buf body;    /* what came through `body`, of all exchanges */
    struct buf summary; /* of the current exchange */
};

void rig_init(struct rig *r);
void rig_open(struct rig *r);    /* makes the listener */
void rig_connect(struct rig *r); /* a new connection; the former one is closed */
void rig_spin(struct rig *r);
void rig_send(struct rig *r, const void *p, size_t n); /* and spins; what does not fit is sent as the server reads on */
void rig_sendz(struct rig *r, const char *z);
void rig_read(struct rig *r); /* takes what has come */
void rig_done(struct rig *r);
/* The status of the last complete looking answer, 0 if there is none. */
int rig_status(struct rig *r);
bool rig_got(struct rig *r, const char *z); /* the received bytes contain z */
unsigned rig_answers(struct rig *r);        /* how many status lines were received */

#endif
