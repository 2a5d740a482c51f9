/* SPDX-License-Identifier: Apache-2.0 */
/* The probe and the liar; see hostile_worker.h. */
#include "support/hostile_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/hash.h"
#include "inference/wire.h"

/* ---- the probe: attempts ---- */

static int probe_dirfd = -1, probe_window_fd = -1, probe_bell_fd = -1;
static struct window *probe_window;

/* The C library's calls may be replaced by a sanitizer's: what matters is what the kernel says. */
#define RAW(...) (syscall(__VA_ARGS__) < 0 ? errno : 0)

static int opening(int dirfd, const char *path, int flags)
{
    long fd = syscall(SYS_openat, dirfd, path, flags, 0600);

    if (fd < 0) {
        return errno;
    }
    syscall(SYS_close, fd);
    return 0;
}

static int read_own(void)
{
    return opening(probe_dirfd, "model.onnx", O_RDONLY);
}
static void *nothing(void *arg)
{
    return arg;
}
static int make_thread(void)
{
    pthread_t t;
    int rc = pthread_create(&t, NULL, nothing, NULL);

    return rc != 0 ? rc : pthread_join(t, NULL);
}
static int read_foreign(void)
{
    return opening(AT_FDCWD, "/etc/passwd", O_RDONLY);
}
static int read_above(void)
{
    return opening(probe_dirfd, "../spin/model.onnx", O_RDONLY);
}
static int list_root(void)
{
    return opening(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY);
}
static int read_parent(void)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/environ", (int)getppid());
    return opening(AT_FDCWD, path, O_RDONLY);
}
static int create_file(void)
{
    return opening(probe_dirfd, "planted", O_WRONLY | O_CREAT);
}
static int create_in_tmp(void)
{
    return opening(AT_FDCWD, "/tmp/weir-probe-was-here", O_RDWR | O_CREAT);
}
static int write_own(void)
{
    return opening(probe_dirfd, "model.onnx", O_WRONLY);
}
static int truncate_own(void)
{
    return opening(probe_dirfd, "model.onnx", O_RDONLY | O_TRUNC);
}
static int unlink_own(void)
{
    return RAW(SYS_unlinkat, probe_dirfd, "no-such-file", 0);
}
static int make_folder(void)
{
    return RAW(SYS_mkdirat, probe_dirfd, "planted", 0700);
}
static int rename_own(void)
{
    return RAW(SYS_renameat2, probe_dirfd, "no-such-file", probe_dirfd, "other", 0);
}
static int change_mode(void)
{
    return RAW(SYS_fchmodat, probe_dirfd, "model.onnx", 0644);
}
static int socket_inet(void)
{
    return RAW(SYS_socket, AF_INET, SOCK_STREAM, 0);
}
static int socket_unix(void)
{
    return RAW(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
}
static int socket_pair(void)
{
    int pair[2];

    return RAW(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair);
}
/* The child, should there be one, must not go on as a second worker. */
static int forked(long pid)
{
    if (pid == 0) {
        syscall(SYS_exit_group, 0);
    }
    if (pid > 0) {
        waitpid((pid_t)pid, NULL, 0);
        return 0;
    }
    return errno;
}
static int do_fork(void)
{
    return forked(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
}
static int do_fork_old(void)
{
#ifdef SYS_fork
    return forked(syscall(SYS_fork));
#else
    return do_fork();
#endif
}
static int do_clone3(void)
{
    uint64_t args[8] = {0, 0, 0, 0, SIGCHLD};

    return forked(syscall(SYS_clone3, args, sizeof args));
}
static int exec_shell(void)
{
    char *argv[] = {"true", NULL}, *env[] = {NULL};

    return RAW(SYS_execve, "/bin/true", argv, env);
}
static int kill_parent(void)
{
    return RAW(SYS_kill, getppid(), 0);
}
static int kill_thread_of_parent(void)
{
    return RAW(SYS_tgkill, getppid(), getppid(), 0);
}
static int kill_by_tkill(void)
{
    return RAW(SYS_tkill, getppid(), 0);
}
static int open_pidfd(void)
{
    return RAW(SYS_pidfd_open, getppid(), 0);
}
static int trace_parent(void)
{
    return RAW(SYS_ptrace, PTRACE_SEIZE, getppid(), NULL, NULL);
}
static int read_memory_of_parent(void)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {&byte, 1};

    return RAW(SYS_process_vm_readv, getppid(), &here, 1, &there, 1, 0);
}
static int limit_parent(void)
{
    struct rlimit old;

    return RAW(SYS_prlimit64, getppid(), RLIMIT_NOFILE, NULL, &old);
}
static int read_limits(void)
{
    struct rlimit now;

    return RAW(SYS_prlimit64, 0, RLIMIT_DATA, NULL, &now);
}
static int lift_limit(void)
{
    struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};

    return RAW(SYS_prlimit64, 0, RLIMIT_DATA, &none, NULL);
}
static int lift_limit_old(void)
{
    struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};

    return RAW(SYS_setrlimit, RLIMIT_DATA, &none);
}
static int pin_parent(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(0, &set);
    return RAW(SYS_sched_setaffinity, getppid(), sizeof set, &set);
}
static int slow_parent(void)
{
    return RAW(SYS_setpriority, PRIO_PROCESS, getppid(), 19);
}
static int protect_window(void)
{
    return RAW(SYS_mprotect, window_base(probe_window), 4096, PROT_READ | PROT_WRITE);
}
static int punch_window(void)
{
    return RAW(SYS_madvise, window_base(probe_window), 4096, MADV_REMOVE);
}
static int map_window(void)
{
    return probe_window_fd < 0 ? 0 : RAW(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, probe_window_fd, 0);
}
static int write_window(void)
{
    return probe_window_fd < 0 ? 0 : RAW(SYS_pwrite64, probe_window_fd, "x", 1, 0);
}
static int plain_write_window(void)
{
    return probe_window_fd < 0 ? 0 : RAW(SYS_write, probe_window_fd, "x", 1);
}
static int shrink_window(void)
{
    return probe_window_fd < 0 ? 0 : RAW(SYS_ftruncate, probe_window_fd, 0);
}
static int reopen_window(void)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", probe_window_fd);
    return probe_window_fd < 0 ? 0 : opening(AT_FDCWD, path, O_RDWR);
}
static int block_bell(void)
{
    return probe_bell_fd < 0 ? 0 : RAW(SYS_fcntl, probe_bell_fd, F_SETFL, 0);
}
static int make_memfd(void)
{
    return RAW(SYS_memfd_create, "probe", 0);
}
static int ring_of_io(void)
{
    char params[256] = {0};

    return RAW(SYS_io_uring_setup, 4, params);
}
static int new_namespace(void)
{
    return RAW(SYS_unshare, CLONE_NEWUSER);
}
static int fault_handler(void)
{
    return RAW(SYS_userfaultfd, 0);
}
static int terminal(void)
{
    char c = 0;

    return RAW(SYS_ioctl, 2, 0x5412 /* TIOCSTI */, &c);
}
static int dumpable(void)
{
    return RAW(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0);
}

/* X(function, must go well, Landlock alone) */
/* clang-format off */
#define PROBE_MAP(X) \
    X(read_own, 1, 0) \
    X(make_thread, 1, 0) \
    X(read_foreign, 0, 1) \
    X(read_above, 0, 1) \
    X(list_root, 0, 1) \
    X(read_parent, 0, 1) \
    X(create_file, 0, 0) \
    X(create_in_tmp, 0, 0) \
    X(write_own, 0, 0) \
    X(truncate_own, 0, 0) \
    X(unlink_own, 0, 0) \
    X(make_folder, 0, 0) \
    X(rename_own, 0, 0) \
    X(change_mode, 0, 0) \
    X(socket_inet, 0, 0) \
    X(socket_unix, 0, 0) \
    X(socket_pair, 0, 0) \
    X(do_fork, 0, 0) \
    X(do_fork_old, 0, 0) \
    X(do_clone3, 0, 0) \
    X(exec_shell, 0, 0) \
    X(kill_parent, 0, 0) \
    X(kill_thread_of_parent, 0, 0) \
    X(kill_by_tkill, 0, 0) \
    X(open_pidfd, 0, 0) \
    X(trace_parent, 0, 0) \
    X(read_memory_of_parent, 0, 0) \
    X(limit_parent, 0, 0) \
    X(read_limits, 1, 0) \
    X(lift_limit, 0, 0) \
    X(lift_limit_old, 0, 0) \
    X(pin_parent, 0, 0) \
    X(slow_parent, 0, 0) \
    X(protect_window, 0, 0) \
    X(punch_window, 0, 0) \
    X(map_window, 0, 0) \
    X(write_window, 0, 0) \
    X(plain_write_window, 0, 0) \
    X(shrink_window, 0, 0) \
    X(reopen_window, 0, 0) \
    X(block_bell, 0, 0) \
    X(make_memfd, 0, 0) \
    X(ring_of_io, 0, 0) \
    X(new_namespace, 0, 0) \
    X(fault_handler, 0, 0) \
    X(terminal, 0, 0) \
    X(dumpable, 0, 0)
/* clang-format on */

#define X(fn, good, landlock) {#fn, good, landlock},
const struct probe probes[] = {PROBE_MAP(X)};
#undef X
const size_t probe_count = COUNT_OF(probes);
#define X(fn, good, landlock) fn,
static int (*const attempts[])(void) = {PROBE_MAP(X)};
#undef X

static void attempt_all(int32_t *out)
{
    for (size_t i = 0; i < probe_count; i++) {
        out[i] = attempts[i]();
    }
}

/* ---- the probe: an engine ---- */

struct probe_engine {
    struct engine engine;
    struct engine_host host;
    struct task ready;
    struct port port;
    struct port_host port_host;
    uint64_t jobs[64];
    unsigned n;
    int32_t first[COUNT_OF(attempts)];
};

static void probe_ready(struct task *t)
{
    struct probe_engine *g = CONTAINER_OF(t, struct probe_engine, ready);
    struct tensor_info in = {.name = "x", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}};
    struct tensor_info out = {.name = "errors", .dtype = DTYPE_INT32, .rank = 2, .dim = {2, (int64_t)probe_count}};
    struct model_info info = {
        .platform = "probe", .runtime = "probe", .n_in = 1, .n_out = 1, .in = &in, .out = &out, .batch_max = 1};

    g->host.on->ready(g->host.ctx, &g->engine, &info);
}

static enum err_code probe_open(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                                struct err *e)
{
    struct probe_engine *g = xcalloc(1, sizeof *g);

    (void)e;
    probe_dirfd = spec->dirfd;
    probe_window = spec->in;
    for (int fd = 3; fd < 64; fd++) {
        struct stat st;
        char path[64], to[64];
        ssize_t n;

        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (fstat(fd, &st) == 0 && (uint64_t)st.st_size == window_size(spec->in)) {
            probe_window_fd = fd;
        }
        n = readlink(path, to, sizeof to - 1);
        if (n > 0 && memmem(to, (size_t)n, "eventfd", 7)) {
            probe_bell_fd = fd;
        }
    }
    attempt_all(g->first);
    g->engine.ops = &probe_engine;
    g->host = *host;
    g->ready.fn = probe_ready;
    loop_post(host->loop, &g->ready);
    *out = &g->engine;
    return ERR_OK;
}

static void probe_close(struct engine *g)
{
    (void)g; /* the process ends */
}

static enum err_code probe_attach(struct engine *engine, const struct port_host *host, struct port **out, struct err *e)
{
    struct probe_engine *g = CONTAINER_OF(engine, struct probe_engine, engine);

    (void)e;
    g->port = (struct port){.ops = &probe_engine, .engine = engine};
    g->port_host = *host;
    *out = &g->port;
    return ERR_OK;
}

static void probe_detach(struct port *p)
{
    (void)p;
}

static enum err_code probe_submit(struct port *p, const struct job *j, struct err *e)
{
    struct probe_engine *g = CONTAINER_OF(p, struct probe_engine, port);

    if (g->n == COUNT_OF(g->jobs)) {
        return err_set(e, ERR_UNAVAILABLE, "full");
    }
    g->jobs[g->n++] = j->id;
    return ERR_OK;
}

static void probe_flush(struct port *p)
{
    struct probe_engine *g = CONTAINER_OF(p, struct probe_engine, port);
    uint64_t bytes = 2 * probe_count * sizeof(int32_t);

    for (unsigned i = 0; i < g->n; i++) {
        struct tensor t = {.dtype = DTYPE_INT32, .rank = 2, .dim = {2, (int64_t)probe_count}, .len = bytes};
        int32_t *to = (void *)g->port_host.on->space(g->port_host.ctx, g->jobs[i], bytes, &t.off);
        struct job_result r = {
            .n_out = 1, .out = &t, .base = (uint8_t *)to - t.off, .size = t.off + bytes, .joined = 1};

        memcpy(to, g->first, bytes / 2);
        attempt_all(to + probe_count);
        g->port_host.on->done(g->port_host.ctx, g->jobs[i], &r);
    }
    g->n = 0;
}

static void probe_cancel(struct port *p, uint64_t id)
{
    (void)p;
    (void)id;
}

const struct engine_ops probe_engine = {
    .version = ENGINE_VERSION,
    .name = "probe",
    .open = probe_open,
    .close = probe_close,
    .attach = probe_attach,
    .detach = probe_detach,
    .submit = probe_submit,
    .flush = probe_flush,
    .cancel = probe_cancel,
};

/* ---- the liar ---- */

#define CONTROL_FD 3
#define FALSE_HEAD 5000

const struct lie lies[] = {
    /* name, ready, harmless */
    {"ready_garbage", false, false},     {"ready_long", false, false},    {"ready_cut", false, false},
    {"ready_huge_counts", false, false}, {"control_short", false, false}, {"control_long", false, false},
    {"control_magic", false, false},     {"control_flood", false, false}, {"ready_twice", true, false},
    {"gone_and_stay", false, false},     {"done_head", true, false},      {"wild_off", true, false},
    {"wild_len", true, false},           {"table_cut", true, false},      {"tensor_off", true, false},
    {"tensor_before", true, false},      {"tensor_len", true, false},     {"tensor_rank", true, false},
    {"tensor_dims", true, false},        {"tensor_dtype", true, false},   {"tensor_port", true, false},
    {"tensor_crooked", true, false},     {"many_outputs", true, false},   {"unknown_ticket", true, false},
    {"old_ticket", true, false},         {"twice", true, false},          {"scribble", true, false},
    {"error_text", true, true},          {"error_code", true, true},      {"full_bell", true, true},
    {"indexes_before", true, true},
};
const size_t lie_count = COUNT_OF(lies);

struct liar {
    struct wire_open open;
    int fds[WIRE_OPEN_FDS + WIRE_PORTS_MAX];
    struct wire_exchange *x;
    struct window *in;
    struct wire_worker w;
    const char *lie;
};

static bool is(const struct liar *l, const char *lie)
{
    return strcmp(l->lie, lie) == 0;
}

static void receive(struct liar *l)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof l->fds)];
    } control;
    struct iovec iov = {&l->open, sizeof l->open};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
    struct err e;

    if (recvmsg(CONTROL_FD, &msg, 0) != (ssize_t)sizeof l->open || !CMSG_FIRSTHDR(&msg)) {
        _exit(9);
    }
    memcpy(l->fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int) * (WIRE_OPEN_FDS + l->open.ports));
    l->x = mmap(NULL, l->open.exchange_size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fds[1], 0);
    if (l->x == MAP_FAILED || window_map(&l->in, l->fds[0], l->open.in_size, &e) != ERR_OK) {
        _exit(9);
    }
    wire_worker_init(&l->w, l->x, l->open.ports, 0, l->open.out_bytes, l->fds[WIRE_OPEN_FDS]);
}

static void say(const void *p, size_t n)
{
    if (send(CONTROL_FD, p, n, MSG_NOSIGNAL) < 0) {
        _exit(0);
    }
}

static void stay(void)
{
    for (;;) {
        pause();
    }
}

static void say_ready(struct liar *l)
{
    struct tensor_info in[2] = {{.name = "a", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}},
                                {.name = "b", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}}};
    struct tensor_info out[2] = {{.name = "c", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}},
                                 {.name = "d", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}}};
    struct model_info info = {
        .platform = "liar", .runtime = "liar", .n_in = 2, .n_out = 2, .in = in, .out = out, .batch_max = 1};
    struct wire_ready m = {WIRE_MAGIC, WIRE_VERSION, WIRE_READY, 0};
    struct buf b;

    buf_init(&b, l->open.out_bytes);
    model_info_encode(&b, &info);
    m.info_bytes = (uint32_t)b.n;
    if (is(l, "ready_garbage")) {
        random_bytes(b.p, b.n);
    } else if (is(l, "ready_long")) {
        m.info_bytes = (uint32_t)l->open.out_bytes + 1;
    } else if (is(l, "ready_cut")) {
        m.info_bytes -= 1;
    } else if (is(l, "ready_huge_counts")) {
        memset(b.p + 4, 0xff, 8);
    } else if (is(l, "control_magic")) {
        m.magic ^= 1;
    } else if (is(l, "indexes_before")) {
        atomic_store(&l->w.p->submit_head, FALSE_HEAD); /* what the server has not sent */
    }
    memcpy(l->w.out, b.p, b.n);
    buf_done(&b);
    say(&m, sizeof m);
    if (is(l, "ready_twice")) {
        say(&m, sizeof m);
    }
}

static void lie_on_the_socket(struct liar *l)
{
    char junk[2000];
    struct wire_gone g = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = WIRE_GONE, .code = 9999};

    random_bytes(junk, sizeof junk);
    memset(g.text, 'g', sizeof g.text); /* not terminated */
    if (is(l, "control_short")) {
        say(junk, 3);
        stay();
    } else if (is(l, "control_long")) {
        say(junk, sizeof junk);
        stay();
    } else if (is(l, "gone_and_stay")) {
        say(&g, sizeof g);
        stay();
    }
    while (is(l, "control_flood")) {
        say(&g, sizeof g);
    }
}

static void lie_in_tensors(struct liar *l, struct wire_done *d, struct tensor *t)
{
    if (is(l, "tensor_off")) {
        t->off = l->open.out_bytes - 8;
    } else if (is(l, "tensor_before")) {
        t->off = 0; /* over the table */
    } else if (is(l, "tensor_len")) {
        t->len += 4;
    } else if (is(l, "tensor_rank")) {
        t->rank = 200;
    } else if (is(l, "tensor_dims")) {
        t->dim[0] = -4;
        t->dim[1] = -1;
    } else if (is(l, "tensor_dtype")) {
        t->dtype = DTYPE_INT32;
    } else if (is(l, "tensor_port")) {
        t->port = 9999;
    } else if (is(l, "tensor_crooked")) {
        t->off += 1;
        d->len += 64;
    } else if (is(l, "many_outputs")) {
        d->n_out = 60000;
    } else if (is(l, "wild_off")) {
        d->off = UINT64_MAX - 8;
    } else if (is(l, "wild_len")) {
        d->len = UINT64_MAX - d->off + 1;
    } else if (is(l, "table_cut")) {
        d->len = sizeof *t;
    } else if (is(l, "unknown_ticket")) {
        d->id += 100; /* a place that is not taken */
    } else if (is(l, "old_ticket")) {
        d->id += (uint64_t)WIRE_SLOTS << 20;
    } else if (is(l, "error_text")) {
        d->code = ERR_MODEL;
        d->off = UINT64_MAX - 2;
        d->len = UINT64_MAX;
    } else if (is(l, "error_code")) {
        d->code = 0x7fffffff;
        d->len = 2; /* of the table: not text at all */
    }
}

/* The right answer, or nearly. */
static void answer(struct liar *l, const struct wire_submit *m)
{
    const struct job_block *b = (const void *)(window_base(l->in) + m->block);
    uint64_t bytes = ALIGN_UP(b->in[0].len, TENSOR_ALIGN), table = ALIGN_UP(2 * sizeof(struct tensor), TENSOR_ALIGN);
    struct wire_done d = {.id = m->id, .len = table + 2 * bytes, .n_out = 2, .joined = 1};
    const float *x = (const void *)(window_base(l->in) + b->in[0].off),
                *y = (const void *)(window_base(l->in) + b->in[1].off);
    struct tensor t[2];
    uint8_t *to;

    while ((to = wire_space(&l->w, d.len + 64, &d.off, &d.release)) == NULL) {
        sched_yield();
    }
    for (uint16_t i = 0; i < 2; i++) {
        float *v = (void *)(to + table + i * bytes);
        t[i] = b->in[0];
        t[i].port = i;
        t[i].off = d.off + table + i * bytes;
        for (uint64_t k = 0; k < b->in[0].len / sizeof(float); k++) {
            v[k] = i == 0 ? x[k] + y[k] : x[k] - y[k];
        }
    }
    lie_in_tensors(l, &d, &t[1]);
    memcpy(to, t, sizeof t);
    wire_complete(&l->w, &d);
    if (is(l, "twice")) {
        wire_complete(&l->w, &d);
    } else if (is(l, "done_head")) {
        atomic_fetch_add(&l->w.p->done_head, 1000000);
    }
    wire_worker_flush(&l->w);
}

static void scribble(struct liar *l)
{
    for (;;) {
        struct wire_port *p = l->w.p;

        random_bytes(p->done, sizeof p->done);
        random_bytes(l->x->running, sizeof l->x->running);
        atomic_store(&l->x->n_running, (uint32_t)random_u64());
        atomic_store(&p->submit_tail, random_u64());
        atomic_store(&p->submit_head, random_u64());
        atomic_store(&p->done_tail, random_u64());
        atomic_store(&p->done_head, random_u64());
        wire_worker_flush(&l->w);
    }
}

static void fill_bell(int fd)
{
    uint64_t n = UINT64_MAX - 1, old;

    if (read(fd, &old, sizeof old) < 0 && errno != EAGAIN) {
        _exit(9);
    }
    if (write(fd, &n, sizeof n) != (ssize_t)sizeof n) {
        _exit(9);
    }
}

int liar_main(const char *name)
{
    static struct liar l;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    l.lie = strchr(name, '/') + 1;
    receive(&l);
    lie_on_the_socket(&l);
    say_ready(&l);
    for (;;) {
        struct wire_submit m;
        char byte;
        ssize_t n;

        atomic_fetch_add(&l.x->pulse, 1);
        if (is(&l, "full_bell")) {
            fill_bell(l.fds[3]);
            atomic_store(&l.x->worker_sleeps, 1); /* so that the server rings it */
        }
        if (is(&l, "indexes_before") && atomic_load(&l.w.p->submit_head) == FALSE_HEAD) {
            usleep(1000); /* until the server has counted from its own zero; then all is as it should be */
            continue;
        }
        while (wire_take(&l.w, &m)) {
            if (is(&l, "scribble")) {
                scribble(&l);
            }
            answer(&l, &m);
        }
        n = recv(CONTROL_FD, &byte, 1, MSG_DONTWAIT);
        if (n >= 0) { /* CLOSE, or the end of the server */
            return 0;
        }
        usleep(1000);
    }
}
