/* SPDX-License-Identifier: Apache-2.0 */
/* Starting, watching and ending the private server.
 *
 * posix_spawn and not fork: the application may have any number of threads. The folder for the sockets is made with
 * mkdtemp, so only this user can enter it. The child is waited for by its own pid only; an application that ignores
 * SIGCHLD has it reaped by the kernel, which is then taken as its end. */
#include "client/spawn.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/http_client.h"

#define CHILD_FD 3 /* the pipe's end in the child */
#define END_US SECONDS(10)
#define NAP_US MILLIS(5)

extern char **environ;

struct spawn {
    char *dir;      /* "/tmp/weir-XXXXXX" */
    char *data_url; /* "unix:…" */
    char *admin_url;
    char *config;
    pid_t pid;    /* 0: not running */
    int alive_fd; /* open as long as the server shall live; -1 */
    int status;   /* of waitpid once pid is 0 */
};

const char *spawn_url(const struct spawn *s)
{
    return s->data_url;
}

const char *spawn_admin(const struct spawn *s)
{
    return s->admin_url;
}

static void nap(void)
{
    struct timespec t = {.tv_nsec = (long)NAP_US * 1000};
    nanosleep(&t, NULL);
}

/* True when the child has ended (and was reaped, by us or by the kernel). */
static bool has_ended(struct spawn *s)
{
    if (s->pid == 0) {
        return true;
    }
    pid_t got = waitpid(s->pid, &s->status, WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR)) {
        return false;
    }
    s->pid = 0;
    return true;
}

static enum err_code make_folder(struct spawn *s, struct err *e)
{
    const char *tmp = secure_getenv("TMPDIR");
    char *dir = xasprintf("%s/weir-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (strlen(dir) + sizeof "/admin.sock" > sizeof((struct sockaddr_un *)0)->sun_path) {
        enum err_code rc = err_set(e, ERR_STORAGE, "TMPDIR is too long for the path of a unix socket: %s", dir);
        free(dir);
        return rc;
    }
    if (!mkdtemp(dir)) {
        enum err_code rc = err_sys(e, ERR_STORAGE, "a temporary folder %s", dir);
        free(dir);
        return rc;
    }
    s->dir = dir;
    s->data_url = xasprintf("unix:%s/data.sock", dir);
    s->admin_url = xasprintf("unix:%s/admin.sock", dir);
    return ERR_OK;
}

/* The program beside this library: in its own folder (a build), or in ../bin (an installation). NULL: neither. */
static char *beside_library(void)
{
    Dl_info info;
    void *here = NULL;
    enum err_code (*self)(struct spawn **, const char *, uint64_t, struct err *) = spawn_open;
    memcpy(&here, &self, sizeof here); /* ISO C has no cast from a function to an object */
    const char *slash = dladdr(here, &info) && info.dli_fname ? strrchr(info.dli_fname, '/') : NULL;
    static const char *const below[] = {"weir", "../bin/weir"};
    for (size_t i = 0; slash && i < COUNT_OF(below); i++) {
        char *path = xasprintf("%.*s/%s", (int)(slash - info.dli_fname), info.dli_fname, below[i]);
        struct stat st;
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0) {
            return path;
        }
        free(path);
    }
    return NULL;
}

char *spawn_program(void)
{
    const char *named = secure_getenv("WEIR_BINARY");
    if (named && *named) {
        return xstrdup(named);
    }
#ifdef WEIR_BINDIR
    if (access(WEIR_BINDIR "/weir", X_OK) == 0) {
        return xstrdup(WEIR_BINDIR "/weir");
    }
#endif
    char *beside = beside_library();
    return beside ? beside : xstrdup("weir");
}

/* Signals as a program expects them, a group of its own, no input, messages on standard error, the pipe at CHILD_FD. */
static int start(struct spawn *s, const char *config, int pipe_end, const char *path, bool search)
{
    char *fd_text = xasprintf("%d", CHILD_FD);
    const char *argv[16] = {"weir", "serve", "--listen", s->data_url, "--admin", s->admin_url, "--parent-fd", fd_text};
    int n = 8;
    if (*config) {
        argv[n++] = "-c";
        argv[n++] = config;
    }
    argv[n] = NULL;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    int rc = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, 2, 1);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, pipe_end, CHILD_FD);
    rc = rc ? rc : posix_spawnattr_setsigmask(&attr, &none);
    rc = rc ? rc : posix_spawnattr_setsigdefault(&attr, &all);
    rc = rc ? rc : posix_spawnattr_setpgroup(&attr, 0);
    rc = rc ? rc
            : posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    if (rc == 0) {
        char *const *args = (char *const *)(uintptr_t)argv; /* posix_spawn does not change them */
        rc = (search ? posix_spawnp : posix_spawn)(&s->pid, path, &files, &attr, args, environ);
    }
    if (rc) {
        s->pid = 0;
    }
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    free(fd_text);
    return rc;
}

static enum err_code run_child(struct spawn *s, const char *config, struct err *e)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return err_sys(e, ERR_UNAVAILABLE, "a pipe to the server");
    }
    s->alive_fd = ends[1];
    char *path = spawn_program();
    bool search = !strchr(path, '/');
    int why = start(s, config, ends[0], path, search);
    close(ends[0]);
    enum err_code rc = ERR_OK;
    if (why == ENOENT || why == EACCES) {
        rc = err_set(e, ERR_NOT_FOUND, "the program %s%s can not be started (%s): set WEIR_BINARY to its path", path,
                     search ? " (in $PATH)" : "", strerror(why));
    } else if (why) {
        rc = err_set(e, ERR_UNAVAILABLE, "starting %s: %s", path, strerror(why));
    }
    free(path);
    return rc;
}

bool spawn_ended(struct spawn *s, char *how, size_t cap)
{
    if (!has_ended(s)) {
        return false;
    }
    if (WIFSIGNALED(s->status)) {
        snprintf(how, cap, "was ended by signal %d", WTERMSIG(s->status));
    } else {
        snprintf(how, cap, "ended with status %d", WEXITSTATUS(s->status));
    }
    return true;
}

int spawn_watch(const struct spawn *s)
{
    return pidfd_open(s->pid, 0);
}

enum err_code spawn_again(struct spawn *s, struct err *e)
{
    if (s->alive_fd >= 0) {
        close(s->alive_fd);
        s->alive_fd = -1;
    }
    s->status = 0;
    return run_child(s, s->config, e);
}

static enum err_code ended_early(struct spawn *s, struct err *e)
{
    char how[64];
    spawn_ended(s, how, sizeof how);
    return err_set(e, ERR_UNAVAILABLE, "the private server %s before it was ready; its messages are on standard error",
                   how);
}

static enum err_code wait_ready(struct spawn *s, uint64_t limit_us, struct err *e)
{
    AUTO(http_client) c = NULL;
    uint64_t until = clock_us() + limit_us;
    enum err_code rc = http_client_new(&c, str_of(s->data_url), e);
    if (rc != ERR_OK) {
        return rc;
    }
    struct http_answer a;
    http_answer_init(&a, 64u << 10);
    struct err last = {0};
    for (;;) {
        if (has_ended(s)) {
            rc = ended_early(s, e);
            break;
        }
        uint64_t now = clock_us();
        if (now >= until) {
            rc = err_set(e, ERR_TIMEOUT, "the private server was not ready within %" PRIu64 " s%s%s",
                         limit_us / 1000000, last.code ? ": " : "", last.code ? last.text : "");
            break;
        }
        if (http_call(c, "GET", "/v2/health/ready", STR(""), NULL, 0, until - now, &a, &last) == ERR_OK) {
            if (a.status == 200) {
                rc = ERR_OK;
                break;
            }
            err_set(&last, ERR_UNAVAILABLE, "it answers %d", a.status);
        }
        nap();
    }
    http_answer_done(&a);
    return rc;
}

enum err_code spawn_open(struct spawn **out, const char *config, uint64_t limit_us, struct err *e)
{
    struct spawn *s = xcalloc(1, sizeof *s);
    s->alive_fd = -1;
    s->config = xstrdup(config);
    enum err_code rc = make_folder(s, e);
    if (rc == ERR_OK) {
        rc = run_child(s, s->config, e);
    }
    if (rc == ERR_OK) {
        rc = wait_ready(s, limit_us, e);
    }
    if (rc != ERR_OK) {
        spawn_close(s);
        return rc;
    }
    *out = s;
    return ERR_OK;
}

static void remove_folder(const struct spawn *s)
{
    int dir = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        unlinkat(dir, "data.sock", 0);
        unlinkat(dir, "admin.sock", 0);
        close(dir);
    }
    rmdir(s->dir);
}

void spawn_close(struct spawn *s)
{
    if (!s) {
        return;
    }
    if (s->alive_fd >= 0) {
        close(s->alive_fd);
    }
    /* The end of the pipe tells it to finish; a signal on top would tell it to hurry. */
    uint64_t until = clock_us() + END_US;
    while (!has_ended(s)) {
        if (clock_us() >= until) {
            kill(s->pid, SIGKILL);
            while (waitpid(s->pid, &s->status, 0) < 0 && errno == EINTR) {
            }
            s->pid = 0;
            break;
        }
        nap();
    }
    if (s->dir) {
        remove_folder(s);
    }
    free(s->dir);
    free(s->config);
    free(s->data_url);
    free(s->admin_url);
    free(s);
}
