/* SPDX-License-Identifier: Apache-2.0 */
/* A library for LD_PRELOAD that lets the N-th call of some kinds fail, in the server or in its workers.
 *
 * Everything is asked for and told through one file, whose path is in WEIR_NTH_FILE: two records of struct nth, the
 * server's and the workers' (tests/fault/nth_failure_test.py has the same layout). The test writes `at`, `error` and
 * last `kinds`; from then on calls of these kinds are counted, by all threads together, and the one numbered `at` fails
 * with `error`. With kinds 0 nothing is counted. A worker's environment is empty by design: posix_spawn here adds the
 * two variables that bring this library into it.
 *
 * Thread: any. The counters of all processes that use one record add up. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MEMORY = 1, MAP = 2, DESCRIPTOR = 4, WRITE = 8, SYNC = 16, FORK = 32, WATCH = 64, FRAMES = 24 };

struct nth {
    _Atomic uint32_t kinds;
    _Atomic int32_t error;
    _Atomic uint64_t at, seen, fired, bytes; /* bytes: what the failed call asked for, where it asked for memory */
    _Atomic int64_t live;                    /* blocks of memory taken and not freed; of one process that is all */
    _Atomic uint64_t frame[FRAMES];          /* who called, as offsets into the program; 0: another library */
};

static struct nth *nth, outside;
static __thread bool inside;

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static uintptr_t base_of(const void *p)
{
    Dl_info i;
    return dladdr(p, &i) ? (uintptr_t)i.dli_fbase : 0;
}

static uintptr_t program;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WEIR_NTH_FILE"), *slot = getenv("WEIR_NTH_SLOT");
    void *frame[2];
    inside = true;
    backtrace(frame, 2); /* loads what it needs now, not in the middle of a failure */
    struct link_map *first = dlopen(NULL, RTLD_LAZY);
    program = first ? first->l_addr : 0;
    inside = false;
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    void *p = fd < 0
                  ? MAP_FAILED
                  : (void *)syscall(SYS_mmap, NULL, 2 * sizeof(struct nth), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "nth_failure: WEIR_NTH_FILE can not be mapped\n");
        _exit(99);
    }
    close(fd);
    nth = (struct nth *)p + (slot && slot[0] == '1');
}

/* True: this call is the one that fails; errno is set. */
static bool fails(uint32_t kind, uint64_t bytes)
{
    struct nth *c = nth ? nth : &outside;
    if (inside || !(atomic_load(&c->kinds) & kind) || atomic_fetch_add(&c->seen, 1) + 1 != atomic_load(&c->at)) {
        return false;
    }
    void *frame[FRAMES];
    inside = true;
    int n = backtrace(frame, FRAMES);
    for (int i = 0; i < n; i++) {
        uintptr_t at = (uintptr_t)frame[i];
        atomic_store(&c->frame[i], base_of(frame[i]) == program && at > program ? at - program - 1 : 0);
    }
    inside = false;
    atomic_store(&c->bytes, bytes);
    atomic_store(&c->fired, 1);
    errno = atomic_load(&c->error);
    return true;
}

static void *counted(void *p)
{
    if (p && nth) {
        atomic_fetch_add(&nth->live, 1);
    }
    return p;
}

/* ---- memory: libc's own names are there before dlsym may be asked ---- */

#define OUT __attribute__((visibility("default")))

OUT void *malloc(size_t n)
{
    return fails(MEMORY, n) ? NULL : counted(__libc_malloc(n));
}

OUT void *calloc(size_t n, size_t size)
{
    return fails(MEMORY, n * size) ? NULL : counted(__libc_calloc(n, size));
}

OUT void *realloc(void *p, size_t n)
{
    if (n > 0 && fails(MEMORY, n)) {
        return NULL;
    }
    void *moved = __libc_realloc(p, n);
    if (nth) {
        atomic_fetch_add(&nth->live, (moved && !p) - (p && n == 0));
    }
    return moved;
}

OUT void *memalign(size_t align, size_t n)
{
    return fails(MEMORY, n) ? NULL : counted(__libc_memalign(align, n));
}

OUT void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

OUT int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = memalign(align, n);
    if (!p) {
        return ENOMEM;
    }
    *out = p;
    return 0;
}

OUT void free(void *p)
{
    if (p && nth) {
        atomic_fetch_sub(&nth->live, 1);
    }
    __libc_free(p);
}

/* ---- calls: NAME fails, or is done by the next library that has it ---- */

#define NEXT(name) ((__typeof__(&name))next(#name))

static void *next(const char *name)
{
    bool was = inside;
    inside = true; /* dlsym may take memory */
    void *p = dlsym(RTLD_NEXT, name);
    inside = was;
    return p;
}

#define CALL(type, name, parameters, arguments, kind, bad)  \
    OUT type name parameters                                \
    {                                                       \
        return fails(kind, 0) ? bad : NEXT(name) arguments; \
    }

OUT void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    return fails(MAP, n) ? MAP_FAILED : NEXT(mmap)(at, n, prot, flags, fd, off);
}

OUT void *mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    return fails(MAP, n) ? MAP_FAILED : NEXT(mmap64)(at, n, prot, flags, fd, off);
}

CALL(int, socket, (int domain, int type, int protocol), (domain, type, protocol), DESCRIPTOR, -1)
CALL(int, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds), DESCRIPTOR, -1)
CALL(int, accept4, (int fd, struct sockaddr *from, socklen_t *n, int flags), (fd, from, n, flags), DESCRIPTOR, -1)
CALL(int, eventfd, (unsigned value, int flags), (value, flags), DESCRIPTOR, -1)
CALL(int, epoll_create1, (int flags), (flags), DESCRIPTOR, -1)
CALL(int, memfd_create, (const char *name, unsigned flags), (name, flags), DESCRIPTOR, -1)
int pidfd_open(pid_t pid, unsigned flags);
CALL(int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags), DESCRIPTOR, -1)
CALL(int, dup, (int fd), (fd), DESCRIPTOR, -1)
CALL(FILE *, fopen, (const char *path, const char *mode), (path, mode), DESCRIPTOR, NULL)
CALL(FILE *, fopen64, (const char *path, const char *mode), (path, mode), DESCRIPTOR, NULL)
CALL(DIR *, opendir, (const char *path), (path), DESCRIPTOR, NULL)

#define OPEN(name, parameters, arguments)                                     \
    OUT int name parameters                                                   \
    {                                                                         \
        va_list ap;                                                           \
        va_start(ap, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0; \
        va_end(ap);                                                           \
        return fails(DESCRIPTOR, 0) ? -1 : NEXT(name) arguments;              \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
OPEN(openat64, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
int __open_2(const char *path, int flags);
CALL(int, __open_2, (const char *path, int flags), (path, flags), DESCRIPTOR, -1)

/* Only a file can be full: an eventfd or a pipe gives no ENOSPC. The log, in tests a file, is left alone. */
static uint32_t file(int fd)
{
    struct stat st;
    return fd > 2 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? WRITE : 0;
}

CALL(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n), file(fd), -1)
CALL(ssize_t, pwrite, (int fd, const void *p, size_t n, off_t off), (fd, p, n, off), file(fd), -1)
CALL(ssize_t, pwrite64, (int fd, const void *p, size_t n, off_t off), (fd, p, n, off), file(fd), -1)
CALL(int, ftruncate, (int fd, off_t n), (fd, n), WRITE, -1)
CALL(int, ftruncate64, (int fd, off_t n), (fd, n), WRITE, -1)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), WRITE, -1)
CALL(int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), WRITE, -1)
CALL(int, linkat, (int from, const char *path, int to, const char *name, int flags), (from, path, to, name, flags),
     WRITE, -1)
CALL(int, renameat2, (int from, const char *path, int to, const char *name, unsigned flags),
     (from, path, to, name, flags), WRITE, -1)
CALL(int, fsync, (int fd), (fd), SYNC, -1)
CALL(int, fdatasync, (int fd), (fd), SYNC, -1)
CALL(int, epoll_ctl, (int ep, int op, int fd, struct epoll_event *e), (ep, op, fd, e), op == EPOLL_CTL_DEL ? 0 : WATCH,
     -1)

OUT int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    return fails(FORK, 0) ? errno : NEXT(pthread_create)(t, attr, fn, arg);
}

OUT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                    const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    static char library[4096 + 16], control[4096 + 16], slot[] = "WEIR_NTH_SLOT=1";
    const char *preload = getenv("LD_PRELOAD"), *told = getenv("WEIR_NTH_FILE");
    char *env[16] = {library, control, slot};
    size_t n = 3;
    if (fails(FORK, 0)) {
        return errno;
    }
    snprintf(library, sizeof library, "LD_PRELOAD=%s", preload ? preload : "");
    snprintf(control, sizeof control, "WEIR_NTH_FILE=%s", told ? told : "");
    for (; envp && *envp && n + 1 < sizeof env / sizeof env[0]; envp++) {
        env[n++] = *envp;
    }
    return NEXT(posix_spawn)(pid, path, actions, attr, argv, env);
}
