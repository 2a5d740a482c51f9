/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of weir split: addresses, sizes, what is written, the diff. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/conf.h"
#include "cli/split.h"

/* ---- addresses ---- */

static void places(void **state)
{
    static const struct {
        const char *text, *place, *host, *port, *service, *space;
        bool outside;
    } good[] = {
        {"vision.internal:8000", "weir://vision.internal:8000", "vision.internal", "8000", "vision", "", true},
        {"weir://vision:1", "weir://vision:1", "vision", "1", "vision", "", false},
        {"Vision.models.svc:8000", "weir://Vision.models.svc:8000", "Vision.models.svc", "8000", "vision", "models",
         false},
        {"a.b.svc.cluster.local:80", "weir://a.b.svc.cluster.local:80", "a.b.svc.cluster.local", "80", "a", "b", false},
        {"[fd00::1]:8000", "weir://[fd00::1]:8000", "fd00::1", "8000", "weir-v-2", "", true},
        {"10.0.0.3:65535", "weir://10.0.0.3:65535", "10.0.0.3", "65535", "weir-v-2", "", true},
        {"http://triton:8000", "http://triton:8000", "triton", "8000", "triton", "", false},
        {"7up:8000", "weir://7up:8000", "7up", "8000", "weir-v-2", "", false},
    };
    static const char *const bad[] = {"vision",        "vision:",        "vision:0",  "vision:65536", "vision:80x",
                                      ":80",           "ftp://a:1",      "a b:80",    "[::1]",        "[::1]8000",
                                      "[:80",          "[]:80",          "a/b:80",    "-a:80",        "http://:80",
                                      "weir://a:80/x", "\"; rm -rf /:1", "a\n- b:80", "[::1%eth0]:8"};
    struct split_to t;
    struct err e;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        assert_int_equal(split_to(&t, good[i].text, "V_2", &e), ERR_OK);
        assert_string_equal(t.place, good[i].place);
        assert_string_equal(t.host, good[i].host);
        assert_string_equal(t.port, good[i].port);
        assert_string_equal(t.service, good[i].service);
        assert_string_equal(t.space, good[i].space);
        assert_int_equal(t.outside, good[i].outside);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        if (split_to(&t, bad[i], "v", &e) == ERR_OK) {
            fail_msg("taken: %s as %s", bad[i], t.place);
        }
    }
}

/* ---- sizes ---- */

static struct split_needs needs_of(uint64_t memory, uint64_t largest, double rate, double service_s, bool gpu)
{
    return (struct split_needs){.versions = memory > 0,
                                .memory = memory,
                                .largest = largest,
                                .buffers = 300 << 20,
                                .requests = rate > 0 ? 1000 : 0,
                                .rate = rate,
                                .service_s = service_s,
                                .drain_s = 30,
                                .gpu = gpu};
}

/* What is asked for is no less than what was measured, in every replica's memory and in all their processors. */
static void sizes_hold_what_was_measured(void **state)
{
    (void)state;
    for (uint64_t mb = 1; mb < 100000; mb = mb * 3 / 2 + 1) {
        for (double cores = 0.001; cores < 300; cores *= 1.7) {
            for (int gpu = 0; gpu < 2; gpu++) {
                struct split_needs n = needs_of(mb << 20, (mb << 20) / 3, 1000, cores / 1000, gpu);
                struct split_size z;

                split_size(&n, &z);
                assert_true(z.memory_mib << 20 >= n.memory);
                assert_true(z.memory_max_mib << 20 >= n.memory + n.largest + n.buffers);
                assert_true(z.memory_max_mib > z.memory_mib);
                assert_true((double)z.cpu_milli / 1e3 <= 4.06);
                assert_true(z.replicas >= (gpu ? 1u : 2u) && z.replicas_max >= 4 * z.replicas);
                if (cores < 200) { /* one of them may be missing */
                    unsigned up = gpu ? z.replicas : z.replicas - 1;

                    assert_true((double)z.cpu_milli / 1e3 * up * SPLIT_UTILISATION / 100 >= cores * .999);
                }
                assert_int_equal(z.grace_s, 30 + SPLIT_PRE_STOP_S + 10);
            }
        }
    }
}

static void presets_where_nothing_is_known(void **state)
{
    struct split_needs n = needs_of(0, 0, 0, 0, false);
    struct split_size z;

    (void)state;
    split_size(&n, &z);
    assert_true(z.memory_mib << 20 >= SPLIT_PRESET_MEMORY);
    assert_true(z.cpu_milli >= SPLIT_PRESET_CORES * 1000);
    assert_int_equal(z.replicas, 2);
}

/* ---- the new weir.yaml ---- */

static void its_configuration_says_what_the_old_one_did(void **state)
{
    static struct split_setting settings[] = {
        {(char *)"place", (char *)"inline", false},   {(char *)"instances", (char *)"2", false},
        {(char *)"threads", (char *)"0", true},       {(char *)"batch.max", (char *)"16", false},
        {(char *)"batch.delay", (char *)"0us", true}, {(char *)"batch.slo", (char *)"50ms", false},
        {(char *)"device", (char *)"cuda:3", false},  {(char *)"memory", (char *)"6GiB", false},
    };
    struct split s = {.family = "vision", .server = "http://127.0.0.1:8009", .image = "weir:1"};
    AUTO(conf) c = NULL;
    const struct conf_node *f;
    struct buf out;
    struct err e;

    (void)state;
    s.needs = needs_of(100 << 20, 100 << 20, 5, 0.1, true);
    s.needs.setting = settings;
    s.needs.n_settings = COUNT_OF(settings);
    assert_int_equal(split_to(&s.to, "vision:7000", "vision", &e), ERR_OK);
    buf_init(&out, 1 << 20);
    split_conf(&out, &s, SPLIT_SYSTEMD);
    assert_int_equal(conf_read_text(&c, "weir.yaml", buf_str(&out), &e), ERR_OK);
    assert_string_equal(conf_find(c->root, "listen")->text, "0.0.0.0:7000");
    assert_string_equal(conf_find(c->root, "drain")->text, "30s");
    assert_string_equal(conf_find(c->root, "admin_token_file")->text,
                        "/run/credentials/weir-vision.service/admin-token");
    f = conf_find(conf_find(c->root, "families"), "vision");
    assert_string_equal(conf_find(f, "place")->text, "worker");
    assert_string_equal(conf_find(f, "instances")->text, "2");
    assert_null(conf_find(f, "threads"));
    assert_string_equal(conf_find(conf_find(f, "batch"), "max")->text, "16");
    assert_string_equal(conf_find(conf_find(f, "batch"), "slo")->text, "50ms");
    assert_null(conf_find(conf_find(f, "batch"), "delay"));
    assert_string_equal(conf_find(f, "device")->text, "cuda:0"); /* the only one it has */
    assert_string_equal(conf_find(f, "memory")->text, "6GiB");
    buf_done(&out);
}

/* ---- the diff ---- */

static void differs(const char *a, const char *b, const char *want)
{
    struct buf out;

    buf_init(&out, 1 << 20);
    split_diff(&out, "/etc/w.yaml", str_of(a), str_of(b));
    assert_string_equal(buf_z(&out), want);
    buf_done(&out);
}

static void diffs(void **state)
{
    (void)state;
    differs("a\nb\n", "a\nb\n", "");
    differs("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n6\n7\n8\n9\n",
            "--- /etc/w.yaml\n+++ /etc/w.yaml\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n");
    differs("", "a\n", "--- /etc/w.yaml\n+++ /etc/w.yaml\n@@ -0,0 +1,1 @@\n+a\n");
    differs("a", "a\nb",
            "--- /etc/w.yaml\n+++ /etc/w.yaml\n@@ -1,1 +1,2 @@\n-a\n\\ No newline at end of file\n+a\n+b\n"
            "\\ No newline at end of file\n");
    differs("1\n2\n3\n4\n", "1\nx\n3\ny\n4\n",
            "--- /etc/w.yaml\n+++ /etc/w.yaml\n@@ -1,4 +1,5 @@\n 1\n-2\n+x\n 3\n+y\n 4\n");
    differs("a\nb\n", "a\nx\nb\n", "--- /etc/w.yaml\n+++ /etc/w.yaml\n@@ -1,2 +1,3 @@\n a\n+x\n b\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places),
        cmocka_unit_test(sizes_hold_what_was_measured),
        cmocka_unit_test(presets_where_nothing_is_known),
        cmocka_unit_test(its_configuration_says_what_the_old_one_did),
        cmocka_unit_test(diffs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
