/* SPDX-License-Identifier: Apache-2.0 */
/* The worker process: `weir worker`, exec'd by the server, speaking on descriptor 3.
 *
 * Its life: receive OPEN and the descriptors; load the runtime's library; close the sandbox; only then touch the model.
 * The main thread runs a loop (control messages, a pulse, the backend's ready and gone); when the backend is ready an
 * executor thread (executor.c) pulls jobs from all ports. The process ends when the server says CLOSE, when the socket
 * closes, or by the kernel when the server dies. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/worker/executor.h"
#include "backends/worker/limits.h"
#include "backends/worker/sandbox.h"
#include "backends/worker/worker.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "inference/device.h"
#include "inference/wire.h"

#define CONTROL_FD 3
#define PULSE_US MILLIS(500)
#define OWN_THREADS 3 /* of ours beside the runtime's: executor, loader, one to spare */

struct child {
    struct wire_open open;
    int fds[WIRE_OPEN_FDS + WIRE_PORTS_MAX];
    struct wire_exchange *x;
    struct window *in;
    struct loop *loop;
    struct watch control;
    struct timer pulse;
    struct engine *engine;
    struct executor *executor;
    int status;
};

static void say_gone(const struct err *e)
{
    struct wire_gone m = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = WIRE_GONE, .code = (uint32_t)e->code};

    snprintf(m.text, sizeof(m.text), "%s", e->text);
    send(CONTROL_FD, &m, sizeof(m), MSG_NOSIGNAL);
}

static enum err_code receive_open(struct child *c, struct err *e)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(c->fds))];
    } control;
    struct iovec iov = {&c->open, sizeof(c->open)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
    ssize_t n;
    struct cmsghdr *h;

    do {
        n = recvmsg(CONTROL_FD, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    h = n == (ssize_t)sizeof(c->open) ? CMSG_FIRSTHDR(&msg) : NULL;
    if (!h || h->cmsg_type != SCM_RIGHTS || c->open.magic != WIRE_MAGIC || c->open.version != WIRE_VERSION ||
        c->open.type != WIRE_OPEN || c->open.ports == 0 || c->open.ports > WIRE_PORTS_MAX ||
        h->cmsg_len != CMSG_LEN(sizeof(int) * (WIRE_OPEN_FDS + c->open.ports))) {
        return err_set(e, ERR_INTERNAL,
                       "a worker is started by the server, with a control socket of its version as descriptor 3");
    }
    memcpy(c->fds, CMSG_DATA(h), sizeof(int) * (WIRE_OPEN_FDS + c->open.ports));
    c->x = mmap(NULL, c->open.exchange_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fds[1], 0);
    if (c->x == MAP_FAILED) {
        c->x = NULL;
        return err_sys(e, ERR_INTERNAL, "a worker can not map its exchange");
    }
    return window_map(&c->in, c->fds[0], c->open.in_size, e);
}

/* The server is to be the last one that the kernel kills for memory; a core file of a model's process would hold
 * clients' data. */
static void limits(void)
{
    struct rlimit none = {0, 0}, files = {256, 256};
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "500", 3) != 3) {
            log_debug("worker", "oom_score_adj can not be raised");
        }
        close(fd);
    }
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_NOFILE, &files);
}

static void on_pulse(struct timer *t)
{
    struct child *c = CONTAINER_OF(t, struct child, pulse);

    atomic_fetch_add(&c->x->pulse, 1);
    timer_set(c->loop, &c->pulse, clock_us() + PULSE_US);
}

static void on_control(struct watch *w, uint32_t events)
{
    struct child *c = CONTAINER_OF(w, struct child, control);
    struct wire_close m;
    ssize_t n = recv(CONTROL_FD, &m, sizeof(m), MSG_DONTWAIT);

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    c->status = n == 0 || (n == (ssize_t)sizeof(m) && m.type == WIRE_CLOSE) ? 0 : 1;
    /* Whatever the executor is computing, nobody waits for it: the server closes after its ports are idle, or is gone.
     */
    _exit(c->status);
}

static void on_ready(void *ctx, struct engine *g, const struct model_info *info)
{
    struct child *c = ctx;
    struct buf b;
    struct wire_ready m = {WIRE_MAGIC, WIRE_VERSION, WIRE_READY, 0};
    struct err e;

    buf_init(&b, c->open.out_bytes);
    model_info_encode(&b, info);
    if (b.over) {
        err_set(&e, ERR_REFUSED, "the model's inputs and outputs need more than %llu bytes to describe",
                (unsigned long long)c->open.out_bytes);
        goto fail;
    }
    memcpy((uint8_t *)c->x + wire_out(c->open.ports, 0, c->open.out_bytes), b.p, b.n);
    m.info_bytes = (uint32_t)b.n;
    buf_done(&b);
    if (executor_start(&c->executor, g, c->x, c->in, c->open.ports, c->open.out_bytes, c->fds[3],
                       c->fds + WIRE_OPEN_FDS, &c->open.batch, info, &e) != ERR_OK) {
        goto fail;
    }
    if (send(CONTROL_FD, &m, sizeof(m), MSG_NOSIGNAL) != (ssize_t)sizeof(m)) {
        _exit(1);
    }
    return;
fail:
    say_gone(&e);
    _exit(1);
}

static void on_gone(void *ctx, struct engine *g, const struct engine_end *why)
{
    (void)ctx;
    (void)g;
    say_gone(&why->err);
    _exit(why->err.code == ERR_OK ? 0 : 1);
}

static const struct engine_events events = {on_ready, on_gone};

static enum err_code run(struct child *c, const struct worker_backend *b, struct err *e)
{
    struct engine_host host = {.on = &events, .ctx = c};
    struct engine_spec spec = {.name = c->open.name,
                               .backend = c->open.backend,
                               .dirfd = c->fds[2],
                               .library = c->open.library[0] ? c->open.library : NULL,
                               .ports = 1,
                               .device = c->open.device,
                               .threads = c->open.threads,
                               .threads_max = c->open.threads_max,
                               .batch = c->open.batch,
                               .run_max_us = c->open.run_max_us,
                               .memory_max = c->open.memory_max,
                               .in = c->in,
                               .out_bytes = c->open.out_bytes};
    struct device device;
    bool weak;

    if (!device_parse(&device, spec.device)) {
        return err_set(e, ERR_INVALID, "'%s' is no device", spec.device);
    }
    if (b->preload && b->preload(spec.library, spec.device, e) != ERR_OK) {
        return e->code;
    }
    if (c->open.memory_max > 0 && !device.cuda && /* that is then the GPU's memory */
        limits_own(c->open.memory_max, MAX(spec.threads, spec.threads_max) + OWN_THREADS, e) != ERR_OK) {
        return e->code;
    }
    if (loop_new(&c->loop, e) != ERR_OK || sandbox_enter(spec.dirfd, device.cuda, c->open.strict, &weak, e) != ERR_OK) {
        return e->code;
    }
    if (weak) {
        log_warn("worker", "this kernel has no Landlock: the worker is shut in by seccomp alone worker=%s", spec.name);
    }
    host.loop = c->loop;
    c->pulse.fn = on_pulse;
    c->control.fn = on_control;
    on_pulse(&c->pulse);
    if (loop_add(c->loop, &c->control, CONTROL_FD, EPOLLIN, e) != ERR_OK) {
        return e->code;
    }
    return b->ops->open(&c->engine, &spec, &host, e);
}

int worker_main(const struct worker_backend *backends, size_t n)
{
    static struct child c;
    struct err e;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C in a terminal reaches the whole group; the server decides */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() == 1) {
        return 1;
    }
    if (receive_open(&c, &e) != ERR_OK) {
        fprintf(stderr, "weir worker: %s\n", e.text);
        return 2;
    }
    prctl(PR_SET_NAME, "weir-worker");
    log_plain(); /* the server's log has time and level already */
    limits();
    for (size_t i = 0; i < n; i++) {
        if (strcmp(backends[i].name, c.open.backend) == 0) {
            if (run(&c, &backends[i], &e) != ERR_OK) {
                say_gone(&e);
                _exit(1); /* no exit handlers: those of a half set-up runtime may wait for ever */
            }
            loop_run(c.loop);
            _exit(0);
        }
    }
    err_set(&e, ERR_UNIMPLEMENTED, "no backend '%s' in this build", c.open.backend);
    say_gone(&e);
    return 1;
}
