/* SPDX-License-Identifier: Apache-2.0 */
/* The wire between the server and a worker process: a control socket and an exchange in shared memory.
 *
 * Control (SOCK_SEQPACKET, a message a packet): OPEN and CLOSE go down, READY and GONE come up; OPEN carries the
 * descriptors.
 *
 * The exchange is one sealed memfd an instance. For every port (a connection thread of the server) it holds a submit
 * ring, a completion ring, each with one producer and one consumer, and an output space that the worker fills.
 * Doorbells are eventfds with a flag: a producer rings only when the consumer said that it is going to sleep. So a busy
 * pair exchanges no system call.
 *
 * Trust: the server trusts nothing in the exchange. It keeps its own copies of the indexes that it advances, reads a
 * slot into local memory first and checks it there. The worker trusts the server.
 *
 * Thread: each ring end by one thread. Indexes count up for ever; slot = index % WIRE_SLOTS. */
#ifndef WEIR_INFERENCE_WIRE_H
#define WEIR_INFERENCE_WIRE_H

#include <stdatomic.h>

#include "inference/batcher.h"
#include "inference/tensor.h"

#define WIRE_MAGIC 0x52494557u /* "WEIR" */
#define WIRE_VERSION 2u
#define WIRE_SLOTS 256u
#define WIRE_RUNNING_MAX 256u

/* ---- control messages ---- */
enum wire_type { WIRE_OPEN = 1, WIRE_READY, WIRE_GONE, WIRE_CLOSE };
/* OPEN's descriptors, in this order: input window, exchange, folder of the version, the executor's bell, then a bell a
 * port. */
#define WIRE_OPEN_FDS 4
#define WIRE_PORTS_MAX 64
struct wire_open {
    uint32_t magic, version, type, ports;
    uint32_t threads, threads_max;
    struct batch_rule batch;
    uint32_t strict, reserved;
    uint64_t memory_max;
    char device[16];
    uint64_t in_size, exchange_size, out_bytes;
    uint64_t run_max_us;
    char backend[16];
    char name[TENSOR_NAME_MAX + 1];
    char library[512];
};
struct wire_ready {
    uint32_t magic, version, type;
    uint32_t info_bytes; /* model_info_encode's bytes, at the start of port 0's output space */
};
struct wire_gone {
    uint32_t magic, version, type;
    uint32_t code; /* enum err_code */
    char text[508];
};
struct wire_close {
    uint32_t magic, version, type;
};

/* ---- the exchange ---- */
struct wire_submit { /* 40 bytes used */
    uint64_t id, deadline_us, submit_us, block;
    uint32_t flags, reserved;
    uint64_t pad[3];
};
struct wire_done {
    uint64_t id;
    uint64_t off, len; /* in the port's output space: struct tensor[n_out], then data; or the error's text */
    uint64_t release;  /* output index to hand back when the server has read it */
    uint64_t wait_ns, compute_ns;
    uint32_t code, n_out, joined, stalled_us;
};
_Static_assert(sizeof(struct wire_submit) == 64 && sizeof(struct wire_done) == 64, "one cache line a slot");

struct wire_port {
    _Alignas(64) _Atomic uint64_t submit_head;   /* server */
    _Alignas(64) _Atomic uint64_t submit_tail;   /* worker */
    _Alignas(64) _Atomic uint64_t done_head;     /* worker */
    _Alignas(64) _Atomic uint64_t done_tail;     /* server */
    _Atomic uint64_t released;                   /* server: output index up to which the space is free again */
    _Alignas(64) _Atomic uint32_t server_sleeps; /* server's flag: ring my bell when you complete */
    _Alignas(64) struct wire_submit submit[WIRE_SLOTS];
    struct wire_done done[WIRE_SLOTS];
};
struct wire_running { /* what the executor is computing now */
    uint64_t id;
    uint64_t port;
};
struct wire_exchange {
    uint32_t magic, version;
    _Alignas(64) _Atomic uint32_t
        worker_sleeps;                   /* worker's flag: ring the executor's bell when you submit or release */
    _Alignas(64) _Atomic uint64_t pulse; /* worker's control loop, once a second: the process is alive */
    _Atomic uint64_t progress;           /* executor: runs finished */
    _Atomic uint32_t n_running;          /* 0: idle */
    struct wire_running running[WIRE_RUNNING_MAX];
    struct wire_port port[];
};

/* Size of an exchange; out_bytes is rounded up to a page. */
uint64_t wire_size(unsigned ports, uint64_t out_bytes);
/* Where port i's output space begins, from the exchange's start. */
uint64_t wire_out(unsigned ports, unsigned i, uint64_t out_bytes);

/* ---- server's end of a port ---- */
struct wire_server {
    struct wire_exchange *x;
    struct wire_port *p;
    const uint8_t *out; /* the port's output space */
    uint64_t out_bytes;
    uint64_t head, tail, released; /* our own copies */
    int bell;                      /* the executor's */
};
void wire_server_init(struct wire_server *s, void *exchange, unsigned ports, unsigned i, uint64_t out_bytes, int bell);
/* False: the ring is full. Not yet visible to the worker: wire_publish. */
bool wire_submit(struct wire_server *s, const struct wire_submit *m);
void wire_publish(struct wire_server *s); /* makes submits visible, rings if the worker sleeps */
/* Copies the next completion. False: none. Its output stays in place until wire_release. */
bool wire_next(struct wire_server *s, struct wire_done *out);
void wire_release(struct wire_server *s, const struct wire_done *d);
/* Before sleeping: true if the bell is armed and nothing is waiting; false: look again. */
bool wire_server_arm(struct wire_server *s);
void wire_server_disarm(struct wire_server *s);
uint64_t wire_pulled(const struct wire_server *s); /* how many submits the worker has taken; clipped to what was sent */

/* ---- worker's end of a port ---- */
struct wire_worker {
    struct wire_exchange *x;
    struct wire_port *p;
    uint8_t *out;
    uint64_t out_bytes;
    uint64_t tail, head; /* submit tail, done head */
    uint64_t out_head;   /* output index: counts up, skips at the end of the space */
    uint64_t floor;      /* where it last began anew with everything free */
    int bell;            /* the port's thread's */
};
void wire_worker_init(struct wire_worker *w, void *exchange, unsigned ports, unsigned i, uint64_t out_bytes, int bell);
bool wire_take(struct wire_worker *w, struct wire_submit *out);
/* A continuous stretch of the output space, 64-byte aligned, NULL when the server has not handed back enough yet.
 * *release: what the completion must say. Bytes above wire_out_most() never fit. */
uint8_t *wire_space(struct wire_worker *w, uint64_t bytes, uint64_t *off, uint64_t *release);
uint64_t wire_out_most(const struct wire_worker *w);
/* False: the completion ring is full (the server is slow). Rings at wire_worker_flush. */
bool wire_complete(struct wire_worker *w, const struct wire_done *d);
void wire_worker_flush(struct wire_worker *w); /* rings if the server's thread sleeps */

#endif
