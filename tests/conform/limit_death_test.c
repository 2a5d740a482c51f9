/* SPDX-License-Identifier: Apache-2.0 */
/* A worker that the kernel ends at its memory limit: its own death, and the limit is named; the same signal from
 * anybody else is neither. The cgroups are a folder in their likeness, so the kernel's part is played by the test. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/worker/limits.h"
#include "backends/worker/worker.h"
#include "base/clock.h"
#include "support/engine_rig.h"
#include "support/hostile_worker.h"

static char root[64], base[96], leaf[160];

static void put(const char *folder, const char *name, const char *text)
{
    char path[300];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make(void **state)
{
    char self[96];

    (void)state;
    snprintf(root, sizeof root, "/tmp/weir-death-XXXXXX");
    assert_non_null(mkdtemp(root));
    snprintf(base, sizeof base, "%s/a.service", root);
    snprintf(leaf, sizeof leaf, "%s/weir-%d-1", base, (int)getpid());
    assert_int_equal(mkdir(base, 0700), 0);
    put(root, "self", "0::/a.service\n");
    put(base, "cgroup.controllers", "memory\n");
    put(base, "cgroup.subtree_control", "memory\n");
    snprintf(self, sizeof self, "%s/self", root);
    limits_start(root, self);
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

struct end {
    bool gone;
    struct engine_end why;
};

static void on_ready(void *ctx, struct engine *g, const struct model_info *info)
{
    (void)ctx;
    (void)g;
    (void)info;
    fail_msg("it was killed before");
}

/* The kernel takes a cgroup's files away with it. */
static void on_gone(void *ctx, struct engine *g, const struct engine_end *why)
{
    static const char *const names[] = {"memory.max", "memory.swap.max", "memory.oom.group", "cgroup.procs",
                                        "memory.events"};
    struct end *end = ctx;
    char path[300];

    (void)g;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        snprintf(path, sizeof path, "%s/%s", leaf, names[i]);
        unlink(path);
    }
    end->gone = true;
    end->why = *why;
}

static struct end die(const char *memory_events)
{
    static const struct engine_events on = {on_ready, on_gone};
    struct end end = {0};
    struct engine_host host = {.on = &on, .ctx = &end};
    struct engine_spec spec = {.name = "add/1",
                               .backend = "probe",
                               .dirfd = open(eng_folder("add"), O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                               .ports = 1,
                               .out_bytes = 1 << 16,
                               .memory_max = 256ull << 20};
    struct engine *g;
    struct stat st;
    struct err e;

    assert_int_equal(loop_new(&host.loop, &e), ERR_OK);
    assert_int_equal(window_new(&spec.in, "weir-test", 1 << 20, 1, true, &e), ERR_OK);
    assert_int_equal(worker_engine.open(&g, &spec, &host, &e), ERR_OK);
    assert_int_equal(stat(leaf, &st), 0);
    put(leaf, "memory.events", memory_events);
    assert_int_equal(kill(worker_pid(g), SIGKILL), 0);
    for (uint64_t until = eng_limit(); !end.gone;) {
        assert_true(clock_us() < until);
        loop_once(host.loop, 10);
    }
    assert_int_equal(stat(leaf, &st), -1);
    assert_int_equal(errno, ENOENT);
    window_free(spec.in);
    loop_free(host.loop);
    close(spec.dirfd);
    assert_true(end.why.loading);
    return end;
}

static void over_its_limit(void **state)
{
    struct end end = die("oom 1\noom_kill 1\n");

    (void)state;
    assert_true(end.why.own);
    assert_non_null(strstr(end.why.err.text, "signal 9 (Killed): over its memory limit of 256 MiB (memory: of the"));
}

static void killed_by_somebody(void **state)
{
    struct end end = die("oom 0\noom_kill 0\n");

    (void)state;
    assert_false(end.why.own);
    assert_non_null(strstr(end.why.err.text, "signal 9 (Killed) from outside"));
    assert_null(strstr(end.why.err.text, "memory"));
}

int main(int argc, char **argv)
{
    static const struct worker_backend backends[] = {{"probe", &probe_engine, NULL}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(over_its_limit, make, tidy),
        cmocka_unit_test_setup_teardown(killed_by_somebody, make, tidy),
    };

    if (argc > 2 && strcmp(argv[1], "worker") == 0) {
        return worker_main(backends, COUNT_OF(backends));
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
