/* SPDX-License-Identifier: Apache-2.0 */
/* The other server's process; see far_server.h. */
#include "support/far_server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/http_client.h"
#include "net/sock.h"
#include "support/far_thread.h"

static struct {
    char folder[64], url[160], admin[96];
    pid_t pid;
    bool furnished; /* the models were pushed */
    bool thread;
} at;

void far_use_thread(void)
{
    at.thread = true;
    atexit(far_thread_stop);
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "far server: %s (its log: %s/log)\n", what, at.folder);
    abort();
}

static const char *build(void)
{
    const char *b = getenv("WEIR_BUILD");

    return b ? b : "build";
}

static void tidy(void)
{
    char command[128];

    if (at.pid > 0) {
        far_kill(SIGKILL);
    }
    snprintf(command, sizeof command, "rm -rf %s", at.folder);
    if (system(command) != 0) {
        fprintf(stderr, "%s is left\n", at.folder);
    }
}

/* A port that nobody has now. */
static void find_port(void)
{
    struct addr a;
    struct err e;
    int fd;

    if (addr_parse(&a, STR("127.0.0.1:0"), false, &e) != ERR_OK || sock_listen(&fd, &a, false, 1, &e) != ERR_OK ||
        sock_local(&a, fd, &e) != ERR_OK) {
        give_up(e.text);
    }
    close(fd);
    snprintf(at.url, sizeof at.url, "http://%s", a.text);
}

static pid_t run(char *const argv[], const char *out)
{
    char log[160];
    pid_t parent = getpid(), pid;

    snprintf(log, sizeof log, "%s/%s", at.folder, out);
    pid = fork();
    if (pid == 0) {
        sigset_t none;
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (fd < 0 || getppid() != parent || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) {
            _exit(126);
        }
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0) {
        give_up("can not fork");
    }
    return pid;
}

static void push(const char *model)
{
    char weir[1024], path[1024];
    char *argv[] = {weir, "push", (char *)(uintptr_t)model, path, "--version", "1", "--server", at.admin, NULL};
    int status;

    snprintf(weir, sizeof weir, "%s/weir", build());
    snprintf(path, sizeof path, "%s/models/%s", build(), model);
    if (waitpid(run(argv, "push"), &status, 0) < 0 || status != 0) {
        give_up("a model can not be pushed");
    }
}

void far_start(void)
{
    char weir[1024], data[96];
    char *argv[] = {weir, "serve", "--data", data, "--listen", at.url + strlen("http://"), "--admin", at.admin, NULL};

    if (at.thread) {
        far_thread_start(at.url, sizeof at.url);
        return;
    }
    if (at.pid > 0) {
        return;
    }
    if (at.folder[0] == '\0') {
        snprintf(at.folder, sizeof at.folder, "/tmp/weir-far-XXXXXX");
        if (!mkdtemp(at.folder)) {
            give_up("no folder");
        }
        snprintf(at.admin, sizeof at.admin, "unix:%s/admin", at.folder);
        find_port();
        atexit(tidy);
    }
    snprintf(weir, sizeof weir, "%s/weir", build());
    snprintf(data, sizeof data, "%s/data", at.folder);
    at.pid = run(argv, "log");
}

void far_kill(int sig)
{
    int status;

    if (at.thread) {
        far_thread_stop();
    } else if (at.pid > 0 && kill(at.pid, sig) == 0 && sig == SIGKILL) {
        waitpid(at.pid, &status, 0);
        at.pid = 0;
    }
}

/* status 200 there */
static bool answers(const char *url, const char *path)
{
    AUTO(http_client) c = NULL;
    struct http_answer a;
    struct err e;
    bool ok;

    http_answer_init(&a, 1 << 16);
    ok = http_client_new(&c, str_of(url), &e) == ERR_OK &&
         http_call(c, "GET", path, (struct str){NULL, 0}, NULL, 0, SECONDS(1), &a, &e) == ERR_OK && a.status == 200;
    http_answer_done(&a);
    return ok;
}

static void wait_for(const char *url, const char *path)
{
    struct timespec nap = {0, 20000000};

    for (uint64_t until = clock_us() + SECONDS(40); !answers(url, path);) {
        if (clock_us() > until) {
            give_up("it does not become ready");
        }
        nanosleep(&nap, NULL);
    }
}

const struct far_place *far_place(const char *name)
{
    static char model[64], version[16];
    static struct far_place place;
    const char *slash = strchr(name, '/');

    far_start();
    if (!at.furnished && !at.thread) {
        wait_for(at.admin, "/admin/server");
        push("add");
        push("spin");
        at.furnished = true;
    }
    wait_for(at.url, "/v2/models/add/versions/1/ready");
    wait_for(at.url, "/v2/models/spin/versions/1/ready");
    str_copy(model, sizeof model, (struct str){name, slash ? (size_t)(slash - name) : strlen(name)});
    str_copy(version, sizeof version, str_of(slash ? slash + 1 : "1"));
    place = (struct far_place){.url = at.url, .model = model, .version = version};
    return &place;
}
