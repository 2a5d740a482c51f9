/* SPDX-License-Identifier: Apache-2.0 */
/* The walls of a GPU worker, tried from inside: what the driver needs goes through, and nothing else does. A machine
 * without a GPU has no device files; that they can be opened is not seen here. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/worker/sandbox.h"
#include "base/base.h"

static char file[] = "/tmp/weir-sandbox-XXXXXX";
static int pipes[2];
static pthread_t other;

static int tried(long r)
{
    return r < 0 ? errno : 0;
}

static int open_to_write(void)
{
    return tried(open(file, O_RDWR));
}
static int make_a_file(void)
{
    return tried(open("/tmp/weir-sandbox-new", O_RDWR | O_CREAT, 0600));
}
static int cut_a_file(void)
{
    return tried(open(file, O_RDWR | O_TRUNC));
}
static int other_device(void)
{
    return tried(open("/dev/zero", O_RDWR));
}
static int control_socket_mode(void)
{
    int on = 1;
    return tried(ioctl(pipes[0], FIONBIO, &on));
}
static int terminal(void)
{
    return tried(ioctl(pipes[0], TIOCSTI, "x"));
}
/* No such ioctl of a pipe: ENOTTY says that the call went through. */
static int driver_call(void)
{
    return tried(ioctl(pipes[0], _IOWR('F', 0x2a, char[32]), NULL));
}
static int memory_manager_call(void)
{
    return tried(ioctl(pipes[0], 73, NULL));
}
static int memory_manager_begin(void)
{
    return tried(ioctl(pipes[0], 0x30000001, NULL));
}
static int memory_manager_none(void)
{
    return tried(ioctl(pipes[0], 0x30000003, NULL));
}
static int a_memfd(void)
{
    return tried(memfd_create("x", MFD_CLOEXEC));
}
static int a_socket(void)
{
    return tried(socket(AF_UNIX, SOCK_STREAM, 0));
}
static int a_process(void)
{
    return tried(syscall(SYS_fork));
}
/* glibc writes /proc/self/task/TID/comm for a thread that is not the caller. */
static int a_threads_name(void)
{
    return pthread_setname_np(other, "named");
}
static int a_library(void)
{
    return tried(open("/etc/ld.so.cache", O_RDONLY));
}
static int a_secret(void)
{
    return tried(open(file, O_RDONLY));
}

static void *sleeper(void *arg)
{
    char c;
    return read(pipes[0], &c, 1) < 0 ? NULL : arg;
}

/* The errno of what was tried behind the walls, in a process of its own; 255: the walls could not be put up. */
static int behind_walls(bool gpu, int (*attempt)(void))
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        int dirfd = open("/usr/share", O_RDONLY | O_DIRECTORY);
        bool weak;
        struct err e;

        if (sandbox_enter(dirfd, gpu, true, &weak, &e) != ERR_OK) {
            _exit(255);
        }
        if (attempt == a_threads_name && pthread_create(&other, NULL, sleeper, NULL) != 0) {
            _exit(254);
        }
        _exit(attempt());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void the_driver_s_way_and_no_other(void **state)
{
    static const struct {
        const char *what;
        int (*attempt)(void);
        int without, with; /* a GPU */
    } rows[] = {
        {"open to write", open_to_write, EPERM, EACCES},
        {"make a file", make_a_file, EPERM, EPERM},
        {"cut a file", cut_a_file, EPERM, EPERM},
        {"another device", other_device, EPERM, EACCES},
        {"mode of the control socket", control_socket_mode, EPERM, EPERM},
        {"type into a terminal", terminal, EPERM, EPERM},
        {"call of the driver", driver_call, EPERM, ENOTTY},
        {"call of its memory manager", memory_manager_call, EPERM, ENOTTY},
        {"begin of its memory manager", memory_manager_begin, EPERM, ENOTTY},
        {"no call of it", memory_manager_none, EPERM, EPERM},
        {"a memfd", a_memfd, EPERM, 0},
        {"a socket", a_socket, EPERM, EPERM},
        {"a process", a_process, EPERM, EPERM},
        {"the name of a thread", a_threads_name, EPERM, 0},
        {"where libraries are", a_library, EACCES, 0},
        {"a file to read", a_secret, EACCES, EACCES},
    };

    (void)state;
    if (sandbox_landlock_abi() == 0) {
        print_message("this kernel has no Landlock\n");
        skip();
    }
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        print_message("%s\n", rows[i].what);
        assert_int_equal(behind_walls(false, rows[i].attempt), rows[i].without);
        assert_int_equal(behind_walls(true, rows[i].attempt), rows[i].with);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_driver_s_way_and_no_other)};
    int fd = mkstemp(file), rc;

    if (fd < 0 || pipe(pipes) != 0) {
        return 1;
    }
    close(fd);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    return rc;
}
