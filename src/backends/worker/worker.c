/* SPDX-License-Identifier: Apache-2.0 */
/* The server's side of a worker process: start it, hear of READY and GONE, watch its pulse, see its end.
 *
 * The end is a small protocol of its own. The kernel makes the pidfd readable in every loop; each port gives its jobs
 * back and is detached by its host; the last one out posts `reap`, and only then is the process reaped and gone() told.
 * So nobody's view of the exchange is unmapped under him, and every port can still ask the kernel how the process died.
 *
 * Thread: control, except where worker_priv.h says otherwise. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/worker/worker_priv.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "inference/device.h"

#define CHILD_FD 3
#define CONTROL_BURST 16

extern char **environ;

static void worker_free(struct worker *w)
{
    loop_del(w->host.loop, &w->sock_watch);
    loop_del(w->host.loop, &w->pid_watch);
    timer_clear(w->host.loop, &w->pulse_timer);
    if (w->x) {
        munmap(w->x, w->exchange_size);
    }
    for (unsigned i = 0; w->bells && i < w->ports; i++) {
        if (w->bells[i] >= 0) {
            close(w->bells[i]);
        }
    }
    int fds[] = {w->pidfd, w->sock, w->exchange_fd, w->exec_bell};
    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    free(w->bells);
    said_close(&w->said);
    cage_close(&w->cage);
    model_info_done(&w->info);
    free(w);
}

bool worker_died_alone(const struct worker *w)
{
    siginfo_t si = {0};

    if (atomic_load(&w->killed)) {
        return true;
    }
    if (atomic_load(&w->closing)) {
        return false; /* it was told to */
    }
    if (waitid(P_PIDFD, (id_t)w->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) != 0 || si.si_pid == 0) {
        return false;
    }
    if (si.si_code == CLD_EXITED) {
        return true; /* nobody asked it to exit */
    }
    if (si.si_status == SIGKILL && cage_full(&w->cage)) {
        return true;
    }
    return si.si_status != SIGKILL && si.si_status != SIGTERM && si.si_status != SIGINT && si.si_status != SIGHUP;
}

void worker_condemn(struct worker *w, const char *why)
{
    if (atomic_exchange(&w->killed, true)) {
        return;
    }
    atomic_store(&w->why, why);
    log_error("worker", "killing a worker worker=%s pid=%d reason=\"%s\"", w->name, (int)w->pid, why);
    pidfd_send_signal(w->pidfd, SIGKILL, NULL, 0);
}

/* ---- the end ---- */

void worker_let_go(struct worker *w)
{
    if (atomic_fetch_sub(&w->n_holds, 1) == 1) {
        loop_post(w->host.loop, &w->reap);
    }
}

/* What a library says when an allocation failed. */
static bool about_memory(const char *text)
{
    return strcasestr(text, "alloc") || strcasestr(text, "out of memory");
}

void worker_mention_limit(const struct worker *w, struct err *e)
{
    char limit[LIMITS_TEXT];
    size_t n = strlen(e->text);

    if (w->memory_max > 0 && about_memory(e->text)) {
        limits_text(limit, w->memory_max);
        snprintf(e->text + n, sizeof(e->text) - n, "; its memory limit is %s" LIMITS_WHENCE, limit);
    }
}

void worker_describe_end(struct worker *w, struct err *e)
{
    char head[400], limit[LIMITS_TEXT], memory[140] = "", last[220];
    const char *why = atomic_load(&w->why);
    bool own = worker_died_alone(w), full = cage_full(&w->cage);
    siginfo_t si = {0};

    said_drain(&w->said);
    if (waitid(P_PIDFD, (id_t)w->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) != 0) {
        si.si_code = 0;
    }
    if (why) {
        snprintf(head, sizeof(head), "the worker of %s was killed: %s", w->name, why);
    } else if (atomic_load(&w->closing)) {
        snprintf(head, sizeof(head), "the worker of %s was taken out of service", w->name);
    } else if (si.si_code == CLD_EXITED) {
        snprintf(head, sizeof(head), "the worker of %s exited with status %d", w->name, si.si_status);
    } else {
        snprintf(head, sizeof(head), "the worker of %s was ended by signal %d (%s)%s", w->name, si.si_status,
                 sigdescr_np(si.si_status) ? sigdescr_np(si.si_status) : "?", own ? "" : " from outside");
    }
    last[0] = '\0';
    said_last(&w->said, last, sizeof(last));
    if (own && !why && w->memory_max > 0 && (full || about_memory(last))) {
        limits_text(limit, w->memory_max);
        snprintf(memory, sizeof(memory),
                 full ? ": over its memory limit of %s" LIMITS_WHENCE : "; its memory limit is %s" LIMITS_WHENCE,
                 limit);
    }
    err_set(e, ERR_UNAVAILABLE, "%s%s%s%s", head, memory, last[0] ? "; it wrote last: " : "", last);
}

static void describe_end(struct worker *w)
{
    w->end.loading = !w->ready;
    if (w->closing && !w->killed) {
        w->end.own = false;
        w->end.err.code = ERR_OK;
        return;
    }
    w->end.own = worker_died_alone(w) || w->end.err.code != ERR_OK;
    if (w->end.err.code == ERR_OK) { /* else it said itself why */
        worker_describe_end(w, &w->end.err);
    }
}

static void on_reap(struct task *t)
{
    struct worker *w = CONTAINER_OF(t, struct worker, reap);
    siginfo_t si = {0};

    waitid(P_PIDFD, (id_t)w->pidfd, &si, WEXITED);
    w->host.on->gone(w->host.ctx, &w->base, &w->end);
    worker_free(w);
}

static void read_control(struct worker *w);

static void on_exit_of_child(struct watch *watch, uint32_t events)
{
    struct worker *w = CONTAINER_OF(watch, struct worker, pid_watch);

    (void)events;
    loop_del(w->host.loop, &w->pid_watch);
    read_control(w); /* its last words may still be in the socket */
    loop_del(w->host.loop, &w->sock_watch);
    timer_clear(w->host.loop, &w->pulse_timer);
    w->dead = true;
    describe_end(w);
    worker_let_go(w);
}

/* ---- control messages ---- */

static void on_ready(struct worker *w, const struct wire_ready *m)
{
    const uint8_t *at = (const uint8_t *)w->x + wire_out(w->ports, 0, w->out_bytes);
    struct err e;
    uint8_t *copy;

    if (atomic_load(&w->closing)) {
        return; /* nobody waits for it any more */
    }
    if (w->ready || m->info_bytes > w->out_bytes) {
        worker_condemn(w, "it broke the protocol (READY)");
        return;
    }
    copy = malloc(m->info_bytes + 1u); /* bounded by the output space, but as large as the worker says */
    if (!copy) {
        worker_condemn(w, "the server has no memory for its description of the model");
        return;
    }
    memcpy(copy, at, m->info_bytes);
    if (model_info_decode(&w->info, copy, m->info_bytes, &e) != ERR_OK) {
        log_error("worker", "a model's description can not be read worker=%s error=\"%s\"", w->name, e.text);
        worker_condemn(w, "it broke the protocol (READY)");
    } else {
        w->ready = true;
        atomic_fetch_add(&w->n_holds, w->ports);
        w->host.on->ready(w->host.ctx, &w->base, &w->info);
    }
    free(copy);
}

/* It is about to end, and does not end otherwise: its word is not waited for. */
static void on_last_words(struct worker *w, struct wire_gone *m)
{
    if (atomic_load(&w->closing) || atomic_exchange(&w->killed, true)) {
        return;
    }
    m->text[sizeof(m->text) - 1] = '\0';
    err_set(&w->end.err, m->code > ERR_OK && m->code < ERR_COUNT_ ? (enum err_code)m->code : ERR_INTERNAL, "%s",
            m->text[0] ? m->text : "it did not say why");
    worker_mention_limit(w, &w->end.err);
    pidfd_send_signal(w->pidfd, SIGKILL, NULL, 0);
}

static void read_control(struct worker *w)
{
    union {
        struct wire_ready ready;
        struct wire_gone gone;
    } m;

    for (unsigned i = 0; i < CONTROL_BURST;
         i++) { /* a worker that talks without end must not hold the control thread */
        ssize_t n = recv(w->sock, &m, sizeof(m), MSG_DONTWAIT);

        if (n <= 0) {
            if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
                loop_del(w->host.loop, &w->sock_watch); /* the pidfd will tell the rest */
            }
            return;
        }
        if ((size_t)n < sizeof(m.ready) || m.ready.magic != WIRE_MAGIC || m.ready.version != WIRE_VERSION) {
            worker_condemn(w, "it broke the protocol (control message)");
        } else if (m.ready.type == WIRE_READY && (size_t)n == sizeof(m.ready)) {
            on_ready(w, &m.ready);
        } else if (m.ready.type == WIRE_GONE && (size_t)n == sizeof(m.gone)) {
            on_last_words(w, &m.gone);
        } else {
            worker_condemn(w, "it broke the protocol (control message)");
        }
    }
}

static void on_control(struct watch *watch, uint32_t events)
{
    (void)events;
    read_control(CONTAINER_OF(watch, struct worker, sock_watch));
}

static void on_pulse_check(struct timer *t)
{
    struct worker *w = CONTAINER_OF(t, struct worker, pulse_timer);
    struct watchdog_signs signs = {.pulse = atomic_load(&w->x->pulse),
                                   .progress = atomic_load(&w->x->progress),
                                   .longest_us = atomic_load(&w->longest_run) / 1000,
                                   .running = atomic_load(&w->x->n_running) > 0,
                                   .overdue = atomic_load(&w->overdue),
                                   .ready = w->ready};
    uint64_t now = clock_us();
    bool fresh;
    const char *why = watchdog_look(&w->watchdog, &signs, now, &fresh);

    if (fresh) {
        atomic_store(&w->overdue, false);
    }
    if (why) {
        worker_condemn(w, why);
    } else {
        timer_set(w->host.loop, &w->pulse_timer, now + WATCHDOG_CHECK_US);
    }
}

/* ---- the start ---- */

static enum err_code exchange_open(struct worker *w, struct err *e)
{
    w->exchange_size = wire_size(w->ports, w->out_bytes);
    w->exchange_fd = memfd_create("weir-exchange", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (w->exchange_fd < 0 || ftruncate(w->exchange_fd, (off_t)w->exchange_size) != 0 ||
        fcntl(w->exchange_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
        return err_sys(e, ERR_UNAVAILABLE, "can not make the shared memory of a worker (%llu bytes)",
                       (unsigned long long)w->exchange_size);
    }
    w->x = mmap(NULL, w->exchange_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, w->exchange_fd, 0);
    if (w->x == MAP_FAILED) {
        w->x = NULL;
        return err_sys(e, ERR_UNAVAILABLE, "can not map the shared memory of a worker");
    }
    w->x->magic = WIRE_MAGIC;
    w->x->version = WIRE_VERSION;
    /* None of them may block: the other end has the same descriptor, and could leave a full or an empty counter behind.
     */
    w->exec_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->bells = xmalloc(w->ports * sizeof(w->bells[0]));
    for (unsigned i = 0; i < w->ports; i++) {
        w->bells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (w->bells[i] < 0 || w->exec_bell < 0) {
            err_sys(e, ERR_UNAVAILABLE, "no descriptors left for a worker's bells");
            while (++i < w->ports) {
                w->bells[i] = -1;
            }
            return ERR_UNAVAILABLE;
        }
    }
    return ERR_OK;
}

/* The child gets nothing of our environment but what sanitizers need in test builds. */
static void child_environment(char **env, size_t cap)
{
    static const char *const keep[] = {"ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "TSAN_OPTIONS="};
    size_t n = 0;

    for (char **v = environ; *v; v++) {
        for (size_t k = 0; k < COUNT_OF(keep) && n + 1 < cap; k++) {
            if (strncmp(*v, keep[k], strlen(keep[k])) == 0) {
                env[n++] = *v;
            }
        }
    }
    env[n] = NULL;
}

/* Its standard output and error are the pipe; it reads nothing. */
static enum err_code child_start(struct worker *w, const char *program, int child_sock, int child_out, struct err *e)
{
    char *argv[] = {"weir", "worker", w->name, NULL};
    char *env[8];
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    sigset_t none;
    int rc;

    child_environment(env, COUNT_OF(env));
    sigemptyset(&none);
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&at);
    rc = posix_spawn_file_actions_adddup2(&fa, child_out, STDERR_FILENO);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&fa, STDERR_FILENO, STDOUT_FILENO);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&fa, child_sock, CHILD_FD);
    rc = rc ? rc : posix_spawn_file_actions_addopen(&fa, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    rc = rc ? rc : posix_spawnattr_setsigmask(&at, &none);
    rc = rc ? rc : posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
    if (rc == 0) {
        rc = program ? posix_spawnp(&w->pid, program, &fa, &at, argv, env)
                     : posix_spawn(&w->pid, "/proc/self/exe", &fa, &at, argv, env);
    }
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&at);
    if (rc != 0) {
        w->pid = 0;
        errno = rc;
        return err_sys(e, ERR_UNAVAILABLE, "can not start a worker process%s%s", program ? " with the program " : "",
                       program ? program : "");
    }
    w->pidfd = pidfd_open(w->pid, 0);
    if (w->pidfd < 0) {
        return err_sys(e, ERR_UNAVAILABLE, "can not watch a worker process");
    }
    return ERR_OK;
}

static enum err_code send_open(struct worker *w, const struct engine_spec *spec, struct err *e)
{
    struct wire_open m = {.magic = WIRE_MAGIC,
                          .version = WIRE_VERSION,
                          .type = WIRE_OPEN,
                          .ports = w->ports,
                          .threads = spec->threads,
                          .threads_max = spec->threads_max,
                          .batch = spec->batch,
                          .strict = spec->strict,
                          .memory_max = w->cage.path[0] ? 0 : spec->memory_max, /* what it must hold itself to */
                          .in_size = window_size(w->in),
                          .exchange_size = w->exchange_size,
                          .out_bytes = w->out_bytes,
                          .run_max_us = spec->run_max_us};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * (WIRE_OPEN_FDS + WIRE_PORTS_MAX))];
    } control = {0};
    struct iovec iov = {&m, sizeof(m)};
    unsigned n = WIRE_OPEN_FDS + w->ports;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    int fds[WIRE_OPEN_FDS + WIRE_PORTS_MAX] = {window_fd(w->in), w->exchange_fd, spec->dirfd, w->exec_bell};

    memcpy(fds + WIRE_OPEN_FDS, w->bells, w->ports * sizeof(int));
    if (!str_copy(m.backend, sizeof(m.backend), str_of(spec->backend)) ||
        !str_copy(m.name, sizeof(m.name), str_of(w->name)) ||
        !str_copy(m.device, sizeof(m.device), str_of(spec->device ? spec->device : "cpu")) ||
        (spec->library && !str_copy(m.library, sizeof(m.library), str_of(spec->library)))) {
        return err_set(e, ERR_INVALID, "a name or path is too long for a worker: %s",
                       spec->library ? spec->library : w->name);
    }
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    if (sendmsg(w->sock, &msg, MSG_NOSIGNAL) != (ssize_t)sizeof(m)) {
        return err_sys(e, ERR_UNAVAILABLE, "can not talk to a new worker process");
    }
    return ERR_OK;
}

static enum err_code worker_open(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                                 struct err *e)
{
    struct worker *w = xcalloc(1, sizeof(*w));
    int pair[2] = {-1, -1}, child_out = -1;
    struct device device;

    w->base.ops = &worker_engine;
    w->host = *host;
    w->ports = spec->ports;
    w->out_bytes = ALIGN_UP(spec->out_bytes, 4096);
    w->in = spec->in;
    w->pidfd = w->sock = w->exchange_fd = w->exec_bell = -1;
    w->reap.fn = on_reap;
    w->sock_watch.fn = on_control;
    w->pid_watch.fn = on_exit_of_child;
    w->pulse_timer.fn = on_pulse_check;
    if (!device_parse(&device, spec->device) || !device.cuda) {
        w->memory_max = spec->memory_max; /* else it is the GPU's memory */
    }
    watchdog_init(&w->watchdog, clock_us());
    said_init(&w->said);
    w->n_holds = 1;
    assert(spec->ports >= 1 && spec->ports <= WIRE_PORTS_MAX && window_fd(spec->in) >= 0);
    if (!str_copy(w->name, sizeof(w->name), str_of(spec->name))) {
        err_set(e, ERR_INVALID, "the name is too long: %s", spec->name);
        goto fail;
    }
    if (exchange_open(w, e) != ERR_OK || said_open(&w->said, host->loop, w->name, &child_out, e) != ERR_OK) {
        goto fail;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        err_sys(e, ERR_UNAVAILABLE, "no descriptors left for a worker");
        goto fail;
    }
    w->sock = pair[0];
    if (child_start(w, spec->program, pair[1], child_out, e) != ERR_OK) {
        goto fail;
    }
    close(pair[1]);
    close(child_out);
    pair[1] = child_out = -1;
    said_begin(&w->said, w->pid);
    if (w->memory_max > 0) {
        cage_open(&w->cage, w->pid, w->memory_max);
    }
    if (send_open(w, spec, e) != ERR_OK || loop_add(host->loop, &w->sock_watch, w->sock, EPOLLIN, e) != ERR_OK ||
        loop_add(host->loop, &w->pid_watch, w->pidfd, EPOLLIN, e) != ERR_OK) {
        goto fail;
    }
    timer_set(host->loop, &w->pulse_timer, clock_us() + WATCHDOG_CHECK_US);
    *out = &w->base;
    return ERR_OK;
fail:
    if (pair[1] >= 0) {
        close(pair[1]);
    }
    if (child_out >= 0) {
        close(child_out);
    }
    if (w->pid > 0) {
        kill(w->pid, SIGKILL);
        waitpid(w->pid, NULL, 0);
    }
    worker_free(w);
    return e ? e->code : ERR_UNAVAILABLE;
}

static void worker_close(struct engine *g)
{
    struct worker *w = CONTAINER_OF(g, struct worker, base);
    struct wire_close m = {WIRE_MAGIC, WIRE_VERSION, WIRE_CLOSE};

    if (w->closing || w->dead) {
        w->closing = true;
        return;
    }
    w->closing = true;
    /* A worker that still loads, or hangs, does not read; its end must not depend on its good will. */
    if (!w->ready || send(w->sock, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof(m)) {
        pidfd_send_signal(w->pidfd, SIGKILL, NULL, 0);
    }
}

pid_t worker_pid(const struct engine *g)
{
    const struct worker *w = CONTAINER_OF(g, struct worker, base);

    return g->ops == &worker_engine && !w->dead ? w->pid : 0;
}

const struct engine_ops worker_engine = {
    .version = ENGINE_VERSION,
    .name = "worker",
    .open = worker_open,
    .close = worker_close,
    .attach = worker_port_attach,
    .detach = worker_port_detach,
    .submit = worker_port_submit,
    .flush = worker_port_flush,
    .cancel = worker_port_cancel,
};
