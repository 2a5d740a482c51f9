/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of memory. The cgroups are a folder that looks like a tree of them: what the kernel would do with its files
 * the test does by hand. The other limit is a real one, in a process of its own. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/worker/limits.h"
#include "base/log.h"

#define PART (64ull << 20)

static char root[64], self[96], base[96];

static void put(const char *folder, const char *name, const char *text)
{
    char path[400];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void expect(const char *folder, const char *name, const char *want)
{
    char path[400], got[200] = "";
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(got, 1, sizeof got - 1, f) == strlen(want));
    fclose(f);
    assert_string_equal(got, want);
}

static void drop(const char *folder, const char *const *names)
{
    char path[400];

    for (; *names; names++) {
        snprintf(path, sizeof path, "%s/%s", folder, *names);
        assert_int_equal(unlink(path), 0);
    }
}
#define DROP(folder, ...) drop(folder, (const char *const[]){__VA_ARGS__, NULL})

static int make(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/weir-limits-XXXXXX");
    assert_non_null(mkdtemp(root));
    snprintf(self, sizeof self, "%s/self", root);
    snprintf(base, sizeof base, "%s/a.service", root);
    assert_int_equal(mkdir(base, 0700), 0);
    put(root, "self", "4:memory:/elsewhere\n0::/a.service\n");
    put(base, "cgroup.controllers", "cpu memory pids\n");
    put(base, "cgroup.subtree_control", "cpu memory\n");
    return 0;
}

static int tidy(void **state)
{
    char command[128];

    (void)state;
    limits_stop();
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

static void a_cage(void **state)
{
    struct cage c;
    char text[200], number[24];
    struct stat st;
    char path[256];

    (void)state;
    limits_start(root, self);
    assert_true(limits_say(text, sizeof text));
    assert_non_null(strstr(text, base));
    assert_true(cage_open(&c, 4321, 3 * PART));
    snprintf(path, sizeof path, "%s/weir-%d-1", base, (int)getpid());
    assert_string_equal(c.path, path);
    snprintf(number, sizeof number, "%llu", 3 * PART);
    expect(path, "memory.max", number);
    expect(path, "memory.swap.max", "0");
    expect(path, "memory.oom.group", "1");
    expect(path, "cgroup.procs", "4321");
    assert_false(cage_full(&c)); /* no such file */
    put(path, "memory.events", "low 0\nhigh 7\nmax 9\noom 2\noom_kill 0\noom_group_kill 0\n");
    assert_false(cage_full(&c));
    put(path, "memory.events", "low 0\nhigh 7\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n");
    assert_true(cage_full(&c));
    DROP(path, "memory.max", "memory.swap.max", "memory.oom.group", "cgroup.procs", "memory.events");
    cage_close(&c);
    assert_int_equal(stat(path, &st), -1);
    assert_false(cage_full(&c));
    cage_close(&c);
}

static void no_cages(void **state)
{
    static const struct {
        const char *self, *controllers, *why;
    } rows[] = {
        {"1:cpu:/\n", "memory", "no cgroup of version 2"},
        {"0::/other\n", "memory", "no memory controller"},
        {"0::/a.service\n", "cpu memory_x pids\n", "no memory controller"},
        {"", "memory", "no cgroup of version 2"},
    };
    char text[200];
    struct cage c;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        put(root, "self", rows[i].self);
        put(base, "cgroup.controllers", rows[i].controllers);
        limits_start(root, self);
        assert_false(limits_say(text, sizeof text));
        if (!strstr(text, "RLIMIT_DATA") || !strstr(text, rows[i].why)) {
            fail_msg("row %zu: %s", i, text);
        }
        assert_false(cage_open(&c, 1, PART));
        assert_string_equal(c.path, "");
    }
}

/* A cgroup with processes hands nothing out; the fake takes what is written, so what is seen is who was written where.
 */
static void the_server_moves(void **state)
{
    char leaf[256], number[24], path[300];
    struct cage c;
    struct stat st;

    (void)state;
    put(base, "cgroup.subtree_control", "cpu\n");
    assert_int_equal(chmod(base, 0700), 0);
    snprintf(number, sizeof number, "%d", (int)getpid());
    snprintf(leaf, sizeof leaf, "%s/weir-%s-server", base, number);
    put(base, "cgroup.procs", "1\n2\n");
    limits_start(root, self);
    assert_true(cage_open(&c, 4321, PART)); /* the root of a tree, or a fake: it was taken at once */
    expect(base, "cgroup.subtree_control", "+memory");
    assert_int_not_equal(stat(leaf, &st), 0);
    DROP(c.path, "memory.max", "memory.swap.max", "memory.oom.group", "cgroup.procs");
    cage_close(&c);

    /* A folder in its place can not be written, like a cgroup with processes. */
    snprintf(path, sizeof path, "%s/cgroup.subtree_control", base);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    limits_start(root, self);
    assert_false(cage_open(&c, 4321, PART)); /* others are in it: they are left where they are */
    assert_int_not_equal(stat(leaf, &st), 0);
    expect(base, "cgroup.procs", "1\n2\n");
    snprintf(number, sizeof number, "%d\n", (int)getpid());
    put(base, "cgroup.procs", number);
    limits_start(root, self);
    assert_false(cage_open(&c, 4321, PART)); /* it went, found that it was no use, and came back */
    expect(base, "cgroup.procs", number);
    number[strlen(number) - 1] = '\0';
    expect(leaf, "cgroup.procs", number); /* the kernel would have removed the leaf, files and all */
    assert_int_equal(rmdir(path), 0);
}

static void stale_ones_go(void **state)
{
    char dead[200], own[200], alive[200], foreign[200];
    struct stat st;
    pid_t gone = fork();

    (void)state;
    if (gone == 0) {
        _exit(0);
    }
    waitpid(gone, NULL, 0);
    snprintf(dead, sizeof dead, "%s/weir-%d-3", base, (int)gone);
    snprintf(own, sizeof own, "%s/weir-%d-server", base, (int)getpid());
    snprintf(alive, sizeof alive, "%s/weir-%d-3", base, (int)getppid());
    snprintf(foreign, sizeof foreign, "%s/weir-data", base);
    assert_int_equal(mkdir(dead, 0700) | mkdir(own, 0700) | mkdir(alive, 0700) | mkdir(foreign, 0700), 0);
    limits_start(root, self);
    assert_int_not_equal(stat(dead, &st), 0);
    assert_int_not_equal(stat(own, &st), 0);
    assert_int_equal(stat(alive, &st), 0);
    assert_int_equal(stat(foreign, &st), 0);
}

/* 0: all as it should be. */
static int limited(void)
{
    struct err e;
    void *first, *second;

    if (limits_own(PART, 0, &e) != ERR_OK) {
        return 1;
    }
    first = mmap(NULL, PART / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    second = mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (first == MAP_FAILED) {
        return 2;
    }
    return second == MAP_FAILED && errno == ENOMEM ? 0 : 3;
}

static void a_process_holds_itself_to_it(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        _exit(limited());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void in_words(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {{0, "0 bytes"},
                {1000, "1000 bytes"},
                {2048, "2 KiB"},
                {256ull << 20, "256 MiB"},
                {6ull << 30, "6 GiB"},
                {3ull << 29, "1536 MiB"},
                {1ull << 50, "1048576 GiB"}};
    char got[LIMITS_TEXT];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        limits_text(got, rows[i].bytes);
        assert_string_equal(got, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_cage, make, tidy),
        cmocka_unit_test_setup_teardown(no_cages, make, tidy),
        cmocka_unit_test_setup_teardown(the_server_moves, make, tidy),
        cmocka_unit_test_setup_teardown(stale_ones_go, make, tidy),
        cmocka_unit_test(a_process_holds_itself_to_it),
        cmocka_unit_test(in_words),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
