/* SPDX-License-Identifier: Apache-2.0 */
/* Memory limits of workers; see limits.h. */
#include "backends/worker/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define BASE_MAX 160 /* what is added fits into a cage's path */
#define LEAF "weir-"

static struct {
    char base[BASE_MAX]; /* the server's own cgroup; "": no limits by cgroup, for the reason in why */
    char why[160];
    bool moved; /* the server sits in its own leaf */
    bool on;    /* the base hands out memory */
    unsigned next;
} tree;

/* ---- files of a cgroup ---- */

static bool put(const char *folder, const char *name, const char *text)
{
    char path[512];
    int fd;
    bool ok;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* the kernel makes none: what is missing is an error */
    if (fd < 0) {
        return false;
    }
    ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

static bool put_number(const char *folder, const char *name, uint64_t n)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, n);
    return put(folder, name, text);
}

static bool get(const char *path, char *out, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, cap - 1) : -1;

    if (fd >= 0) {
        close(fd);
    }
    out[MAX(n, 0)] = '\0';
    return n >= 0;
}

static bool has_word(const char *folder, const char *name, const char *word)
{
    char path[512], text[512], *rest = text;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (!get(path, text, sizeof(text))) {
        return false;
    }
    for (char *w; (w = strtok_r(rest, " \n", &rest)) != NULL;) {
        if (strcmp(w, word) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- the server's own ---- */

/* Leaves of servers that are gone, or that had our number before us. The kernel keeps one that still has a process. */
static void remove_stale(void)
{
    DIR *d = opendir(tree.base);

    for (struct dirent *de; d && (de = readdir(d)) != NULL;) {
        char *end;
        long pid;

        if (strncmp(de->d_name, LEAF, strlen(LEAF)) != 0) {
            continue;
        }
        pid = strtol(de->d_name + strlen(LEAF), &end, 10);
        if (pid <= 0 || *end != '-' || (pid != getpid() && (kill((pid_t)pid, 0) == 0 || errno != ESRCH))) {
            continue;
        }
        if (unlinkat(dirfd(d), de->d_name, AT_REMOVEDIR) == 0) {
            log_info("worker", "a cgroup that a server left behind was removed cgroup=%s/%s", tree.base, de->d_name);
        }
    }
    if (d) {
        closedir(d);
    }
}

/* The line of cgroup v2: "0::/user.slice/a.service". */
static bool own_path(const char *self, char *out, size_t cap)
{
    char text[4096], *rest = text;

    if (!get(self, text, sizeof(text))) {
        return false;
    }
    for (char *line; (line = strtok_r(rest, "\n", &rest)) != NULL;) {
        if (strncmp(line, "0::/", 4) == 0) {
            line += line[4] ? 3 : 4; /* the root's is the tree itself */
            return (size_t)snprintf(out, cap, "%s", line) < cap;
        }
    }
    return false;
}

void limits_start(const char *root, const char *self)
{
    char path[BASE_MAX];

    memset(&tree, 0, sizeof(tree));
    if (!own_path(self, path, sizeof(path)) ||
        (size_t)snprintf(tree.base, sizeof(tree.base), "%s%s", root, path) >= sizeof(tree.base)) {
        snprintf(tree.why, sizeof(tree.why), "the server is in no cgroup of version 2 that it can name");
    } else if (!has_word(tree.base, "cgroup.controllers", "memory")) {
        snprintf(tree.why, sizeof(tree.why), "its cgroup has no memory controller");
    } else if (access(tree.base, W_OK) != 0) {
        snprintf(tree.why, sizeof(tree.why), "its cgroup is not delegated to it");
    } else {
        remove_stale();
        return;
    }
    tree.base[0] = '\0';
}

static bool alone(void)
{
    char path[512], text[256], *end;

    snprintf(path, sizeof(path), "%s/cgroup.procs", tree.base);
    return get(path, text, sizeof(text)) && strtol(text, &end, 10) == getpid() && (*end == '\n' || *end == '\0') &&
           end[*end == '\n'] == '\0';
}

static void server_leaf(char *out, size_t cap)
{
    snprintf(out, cap, "%s/" LEAF "%d-server", tree.base, (int)getpid());
}

static void move_back(void)
{
    char leaf[256];

    server_leaf(leaf, sizeof(leaf));
    put_number(tree.base, "cgroup.procs", (uint64_t)getpid());
    rmdir(leaf);
    tree.moved = false;
}

/* On the first worker with a limit, for it may move the server. */
static bool switch_on(void)
{
    char leaf[256];

    if (tree.on || !tree.base[0]) {
        return tree.on;
    }
    tree.on =
        has_word(tree.base, "cgroup.subtree_control", "memory") || put(tree.base, "cgroup.subtree_control", "+memory");
    if (!tree.on && alone()) {
        server_leaf(leaf, sizeof(leaf));
        tree.moved = mkdir(leaf, 0700) == 0 && put_number(leaf, "cgroup.procs", (uint64_t)getpid());
        tree.on = tree.moved && put(tree.base, "cgroup.subtree_control", "+memory");
        if (!tree.on) {
            move_back();
        }
    }
    if (!tree.on) {
        snprintf(tree.why, sizeof(tree.why), "its cgroup does not hand out memory to others below it");
        tree.base[0] = '\0';
    }
    return tree.on;
}

void limits_stop(void)
{
    if (tree.moved) {
        put(tree.base, "cgroup.subtree_control", "-memory");
        move_back();
    }
    memset(&tree, 0, sizeof(tree));
}

bool limits_say(char *text, size_t cap)
{
    if (tree.base[0]) {
        snprintf(text, cap, "memory limits of workers are cgroups below %s", tree.base);
        return true;
    }
    snprintf(text, cap, "memory limits of workers are RLIMIT_DATA, for %s", tree.why);
    return false;
}

/* ---- a worker's ---- */

bool cage_open(struct cage *c, pid_t pid, uint64_t bytes)
{
    c->path[0] = '\0';
    if (!switch_on()) {
        return false;
    }
    snprintf(c->path, sizeof(c->path), "%s/" LEAF "%d-%u", tree.base, (int)getpid(), ++tree.next);
    if (mkdir(c->path, 0700) != 0 || !put_number(c->path, "memory.max", bytes)) {
        log_warn("worker", "a cgroup for a worker can not be made cgroup=%s error=\"%s\"", c->path, strerror(errno));
        cage_close(c);
        return false;
    }
    put(c->path, "memory.swap.max", "0"); /* missing where there is no swap */
    put(c->path, "memory.oom.group", "1");
    if (!put_number(c->path, "cgroup.procs", (uint64_t)pid)) {
        log_warn("worker", "a worker can not be put into its cgroup cgroup=%s error=\"%s\"", c->path, strerror(errno));
        cage_close(c);
        return false;
    }
    return true;
}

bool cage_full(const struct cage *c)
{
    char path[512], text[512], *rest = text;

    snprintf(path, sizeof(path), "%s/memory.events", c->path);
    if (!c->path[0] || !get(path, text, sizeof(text))) {
        return false;
    }
    for (char *line; (line = strtok_r(rest, "\n", &rest)) != NULL;) {
        if (strncmp(line, "oom_kill ", 9) == 0) {
            return strtoull(line + 9, NULL, 10) > 0;
        }
    }
    return false;
}

void cage_close(struct cage *c)
{
    if (c->path[0] && rmdir(c->path) != 0 && errno != ENOENT) {
        log_warn("worker", "the cgroup of a worker stays behind cgroup=%s error=\"%s\"", c->path, strerror(errno));
    }
    c->path[0] = '\0';
}

/* ---- in the worker ---- */

enum err_code limits_own(uint64_t bytes, unsigned threads, struct err *e)
{
    unsigned long long pages[7] = {0};
    uint64_t stack = 0, all;
    pthread_attr_t attr;
    char text[256];
    struct rlimit r;

    if (!get("/proc/self/statm", text, sizeof(text)) ||
        sscanf(text, "%llu %llu %llu %llu %llu %llu", &pages[0], &pages[1], &pages[2], &pages[3], &pages[4],
               &pages[5]) != 6) {
        return err_set(e, ERR_UNAVAILABLE, "a worker can not read its own size, and so not limit its memory");
    }
    if (pthread_attr_init(&attr) == 0) {
        size_t each;

        stack = pthread_attr_getstacksize(&attr, &each) == 0 ? (uint64_t)each * threads : 0;
        pthread_attr_destroy(&attr);
    }
    if (!ck_add(bytes, stack + pages[5] * (uint64_t)sysconf(_SC_PAGESIZE), &all)) {
        return ERR_OK; /* more than there can be */
    }
    r.rlim_cur = r.rlim_max = all;
    if (setrlimit(RLIMIT_DATA, &r) != 0) {
        return err_sys(e, ERR_UNAVAILABLE, "a worker can not limit its memory");
    }
    return ERR_OK;
}

void limits_text(char out[LIMITS_TEXT], uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB"};
    unsigned u = 0;

    while (u + 1 < COUNT_OF(units) && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        u++;
    }
    snprintf(out, LIMITS_TEXT, "%" PRIu64 " %s", bytes, units[u]);
}
