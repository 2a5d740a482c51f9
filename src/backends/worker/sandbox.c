/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock and seccomp for worker processes.
 *
 * The list of system calls is what a computing library with threads needs after its libraries are loaded: memory,
 * futexes, clocks, reading files (opening for writing is refused by its flags), the descriptors that it has. Everything
 * else answers EPERM, so that a library that probes for a feature goes on without it; clone3 answers ENOSYS, so that
 * the C library falls back to clone, whose flags can be checked: threads, no processes. */
#include "backends/worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/worker/sandbox_gpu.h"
#include "base/base.h"

/* Constants newer than Debian 12's headers, from the kernel's documentation of Landlock (ABI 4 and 6). */
struct ruleset_v6 {
    uint64_t fs, net, scoped;
};
#define NET_ALL 3ull    /* bind and connect TCP */
#define SCOPED_ALL 3ull /* abstract unix sockets, signals */

int sandbox_landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return abi > 0 ? (int)abi : 0;
}

static void allow(int ruleset, int fd, bool folder)
{
    struct landlock_path_beneath_attr rule = {
        .parent_fd = fd, .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | (folder ? LANDLOCK_ACCESS_FS_READ_DIR : 0)};

    if (fd >= 0) {
        syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    }
}

/* Read-only things of the system that runtimes look at: locales and time zones, the processor's topology, this
 * process's own size. */
static void allow_system(int ruleset)
{
    static const char *const paths[] = {
        "/usr/lib/locale",  "/usr/share/locale",       "/usr/share/zoneinfo", "/usr/lib/x86_64-linux-gnu/gconv",
        "/etc/localtime",   "/sys/devices/system/cpu", "/proc/cpuinfo",       "/proc/meminfo",
        "/proc/self/statm", "/proc/self/status",       "/proc/self/maps"};

    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        int fd = open(paths[i], O_PATH | O_CLOEXEC);
        struct stat st;

        if (fd >= 0 && fstat(fd, &st) == 0) {
            allow(ruleset, fd, S_ISDIR(st.st_mode));
        }
        if (fd >= 0) {
            close(fd);
        }
    }
}

static enum err_code landlock_enter(int abi, int dirfd, bool gpu, struct err *e)
{
    struct ruleset_v6 attr = {.fs = (1ull << 13) - 1}; /* every right of ABI 1; what is not allowed below is denied */
    size_t size = sizeof(attr.fs);
    int ruleset;

    attr.fs |= abi >= 2 ? 1ull << 13 : 0; /* linking across folders */
    attr.fs |= abi >= 3 ? 1ull << 14 : 0; /* truncating */
    attr.fs |= abi >= 5 ? 1ull << 15 : 0; /* ioctl on devices */
    if (abi >= 4) {
        attr.net = NET_ALL;
        size = sizeof(attr.fs) + sizeof(attr.net);
    }
    if (abi >= 6) {
        attr.scoped = SCOPED_ALL;
        size = sizeof(attr);
    }
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
    if (ruleset < 0) {
        return err_sys(e, ERR_UNAVAILABLE, "Landlock refuses the sandbox's rules");
    }
    allow(ruleset, dirfd, true);
    allow_system(ruleset);
    if (gpu) {
        sandbox_gpu_paths(ruleset, abi);
    }
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0) {
        err_sys(e, ERR_UNAVAILABLE, "Landlock refuses to close the sandbox");
        close(ruleset);
        return ERR_UNAVAILABLE;
    }
    close(ruleset);
    return ERR_OK;
}

static const int plain_calls[] = {SCMP_SYS(brk),
                                  SCMP_SYS(mmap),
                                  SCMP_SYS(munmap),
                                  SCMP_SYS(mremap),
                                  SCMP_SYS(mprotect),
                                  SCMP_SYS(madvise),
                                  SCMP_SYS(mincore),
                                  SCMP_SYS(futex),
                                  SCMP_SYS(futex_waitv),
                                  SCMP_SYS(set_robust_list),
                                  SCMP_SYS(get_robust_list),
                                  SCMP_SYS(rseq),
                                  SCMP_SYS(set_tid_address),
                                  SCMP_SYS(gettid),
                                  SCMP_SYS(getpid),
                                  SCMP_SYS(getppid),
                                  SCMP_SYS(getuid),
                                  SCMP_SYS(geteuid),
                                  SCMP_SYS(getgid),
                                  SCMP_SYS(getegid),
                                  SCMP_SYS(sched_yield),
                                  SCMP_SYS(sched_getaffinity),
                                  SCMP_SYS(sched_getparam),
                                  SCMP_SYS(sched_getscheduler),
                                  SCMP_SYS(getcpu),
                                  SCMP_SYS(clock_gettime),
                                  SCMP_SYS(clock_getres),
                                  SCMP_SYS(clock_nanosleep),
                                  SCMP_SYS(nanosleep),
                                  SCMP_SYS(gettimeofday),
                                  SCMP_SYS(time),
                                  SCMP_SYS(times),
                                  SCMP_SYS(getrusage),
                                  SCMP_SYS(sysinfo),
                                  SCMP_SYS(uname),
                                  SCMP_SYS(getrandom),
                                  SCMP_SYS(read),
                                  SCMP_SYS(readv),
                                  SCMP_SYS(pread64),
                                  SCMP_SYS(preadv),
                                  SCMP_SYS(lseek),
                                  SCMP_SYS(close),
                                  SCMP_SYS(close_range),
                                  SCMP_SYS(dup),
                                  SCMP_SYS(fstat),
                                  SCMP_SYS(newfstatat),
                                  SCMP_SYS(stat),
                                  SCMP_SYS(lstat),
                                  SCMP_SYS(statx),
                                  SCMP_SYS(statfs),
                                  SCMP_SYS(fstatfs),
                                  SCMP_SYS(access),
                                  SCMP_SYS(faccessat),
                                  SCMP_SYS(faccessat2),
                                  SCMP_SYS(readlink),
                                  SCMP_SYS(readlinkat),
                                  SCMP_SYS(getcwd),
                                  SCMP_SYS(getdents64),
                                  SCMP_SYS(fadvise64),
                                  SCMP_SYS(write),
                                  SCMP_SYS(writev),
                                  SCMP_SYS(sendmsg),
                                  SCMP_SYS(recvmsg),
                                  SCMP_SYS(sendto),
                                  SCMP_SYS(recvfrom),
                                  SCMP_SYS(poll),
                                  SCMP_SYS(ppoll),
                                  SCMP_SYS(epoll_wait),
                                  SCMP_SYS(epoll_pwait),
                                  SCMP_SYS(epoll_pwait2),
                                  SCMP_SYS(epoll_ctl),
                                  SCMP_SYS(epoll_create1),
                                  SCMP_SYS(eventfd2),
                                  SCMP_SYS(timerfd_create),
                                  SCMP_SYS(timerfd_settime),
                                  SCMP_SYS(rt_sigaction),
                                  SCMP_SYS(rt_sigprocmask),
                                  SCMP_SYS(rt_sigreturn),
                                  SCMP_SYS(sigaltstack),
                                  SCMP_SYS(exit),
                                  SCMP_SYS(exit_group),
                                  SCMP_SYS(restart_syscall),
                                  SCMP_SYS(membarrier),
                                  SCMP_SYS(get_mempolicy),
                                  SCMP_SYS(getrlimit)};

/* libseccomp's own macros leave a field out. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

static int filter_rules(scmp_filter_ctx ctx)
{
    int rc = 0;

    for (size_t i = 0; i < COUNT_OF(plain_calls) && rc == 0; i++) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, plain_calls[i], 0);
        rc = rc == -EDOM || rc == -EOPNOTSUPP ? 0 : rc; /* a call that this architecture does not have */
    }
    if (rc == 0) { /* opening, for reading only */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    }
    if (rc == 0) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                              SCMP_A1(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    }
    if (rc == 0) { /* threads, no processes */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    }
    if (rc == 0) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    }
    if (rc == 0) { /* abort() */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    }
    if (rc == 0) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    }
    if (rc == 0) { /* copies of descriptors that it has; not F_SETFL, for O_NONBLOCK is the server's too; no locks, no
                      leases */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_LE, F_GETFL));
    }
    if (rc == 0) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC));
    }
    if (rc == 0) { /* to read its own limits; to set them would lift the one on memory where it runs as root */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, SCMP_A0(SCMP_CMP_EQ, 0),
                              SCMP_A2(SCMP_CMP_EQ, 0));
    }
    if (rc == 0) { /* its own processors, never another process's */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sched_setaffinity), 1, SCMP_A0(SCMP_CMP_EQ, 0));
    }
    return rc;
}

static enum err_code seccomp_enter(bool gpu, struct err *e)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int rc;

    if (!ctx) {
        return err_set(e, ERR_UNAVAILABLE, "libseccomp can not make a filter");
    }
    rc = filter_rules(ctx);
    rc = rc == 0 && gpu ? sandbox_gpu_calls(ctx) : rc;
    if (rc == 0) {
        rc = seccomp_load(ctx);
    }
    seccomp_release(ctx);
    if (rc != 0) {
        errno = -rc;
        return err_sys(e, ERR_UNAVAILABLE, "the kernel refuses the system call filter of the sandbox");
    }
    return ERR_OK;
}

enum err_code sandbox_check(struct err *e)
{
    uint32_t action = SECCOMP_RET_ERRNO;

    if (sandbox_landlock_abi() == 0) {
        return err_set(e, ERR_UNAVAILABLE,
                       "this kernel has no Landlock: a worker can not be shut in (Linux 5.13 or newer with landlock "
                       "among its LSMs)");
    }
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0) {
        return err_sys(e, ERR_UNAVAILABLE,
                       "this kernel has no seccomp filters: a worker can not be kept from system calls");
    }
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) < 0) {
        return err_sys(e, ERR_UNAVAILABLE, "this kernel has no no_new_privs: a worker could shed its walls");
    }
    return ERR_OK;
}

enum err_code sandbox_enter(int dirfd, bool gpu, bool strict, bool *weak, struct err *e)
{
    int abi = sandbox_landlock_abi();

    *weak = abi == 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return err_sys(e, ERR_UNAVAILABLE, "the kernel refuses no_new_privs");
    }
    if ((strict || gpu) && sandbox_check(e) != ERR_OK) {
        return e ? e->code : ERR_UNAVAILABLE;
    }
    if (abi > 0 && landlock_enter(abi, dirfd, gpu, e) != ERR_OK) {
        return e ? e->code : ERR_UNAVAILABLE;
    }
    return seccomp_enter(gpu, e);
}
