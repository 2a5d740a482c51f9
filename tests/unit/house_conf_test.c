/* SPDX-License-Identifier: Apache-2.0 */
/* weir.yaml as the server reads it: the policies of rollouts, what is captured, and where a mistake in them is found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "house_conf.h"

/* Reads the text as a configuration file; what was said on standard error is in said. Returns what house_conf_read
 * did. */
static int conf_of(const char *text, struct house_conf *c, char *said, size_t cap)
{
    char path[] = "/tmp/weir-conf-XXXXXX.yaml", *argv[] = {(char[]){"serve"}, (char[]){"-c"}, path, NULL};
    FILE *caught = tmpfile();
    int fd = mkstemps(path, 5), before = dup(2), rc;

    assert_true(fd >= 0 && before >= 0 && caught);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    fflush(stderr);
    dup2(fileno(caught), 2);
    rc = house_conf_read(c, 3, argv);
    fflush(stderr);
    dup2(before, 2);
    close(before);
    rewind(caught);
    said[fread(said, 1, cap - 1, caught)] = 0;
    fclose(caught);
    unlink(path);
    return rc;
}

static const struct rollout_policy *policy_of(const struct house_conf *c, const char *name)
{
    for (size_t i = 0; i < c->n_policies; i++) {
        if (strcmp(c->policies[i].name, name) == 0) {
            return &c->policies[i];
        }
    }
    fail_msg("no policy %s", name);
    return NULL;
}

static void there_is_always_a_default(void **state)
{
    static const char *const texts[] = {"", "listen: 127.0.0.1:1\n", "rollouts: {}\n",
                                        "rollouts: {slow: {bake: 1h}}\n"};
    struct rollout_policy built_in;
    struct house_conf c;
    char said[1000];

    (void)state;
    policy_default(&built_in, "default");
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        assert_int_equal(conf_of(texts[i], &c, said, sizeof(said)), -1);
        assert_string_equal(said, "");
        assert_memory_equal(policy_of(&c, "default"), &built_in, sizeof(built_in));
        house_conf_done(&c);
    }
}

static void policies_are_read(void **state)
{
    struct house_conf c;
    const struct rollout_policy *p;
    struct rollout_policy built_in;
    char said[1000];

    (void)state;
    policy_default(&built_in, "careful");
    assert_int_equal(conf_of("rollouts:\n"
                             "  careful: {steps: \"1%,5%, 25%\", bake: 20m, warmup: 0s, min_requests: 500, soak: 2h}\n"
                             "  quick:\n"
                             "    steps: [10%, 50%]\n"
                             "    on_nodata: abort\n"
                             "  default: {steps: 20%, dry_run: on}\n",
                             &c, said, sizeof(said)),
                     -1);
    assert_string_equal(said, "");
    assert_int_equal(c.n_policies, 3);
    p = policy_of(&c, "careful");
    assert_true(p->n_steps == 3 && p->step[0] == 100 && p->step[1] == 500 && p->step[2] == 2500);
    assert_int_equal(p->bake_us, SECONDS(1200));
    assert_int_equal(p->warmup_us, 0);
    assert_int_equal(p->min_requests, 500);
    assert_int_equal(p->soak_us, SECONDS(7200));
    assert_int_equal(p->interval_us, built_in.interval_us); /* what is not said is as built in */
    assert_true(p->automatic);
    p = policy_of(&c, "quick");
    assert_true(p->n_steps == 2 && p->step[0] == 1000 && p->step[1] == 5000);
    assert_int_equal(p->on_nodata, SILENCE_ABORT);
    assert_int_equal(p->bake_us, built_in.bake_us);
    p = policy_of(&c, "default");
    assert_true(p->n_steps == 1 && p->step[0] == 2000 && p->dry_run);
    house_conf_done(&c);
}

/* Every mistake is told with its line and column, and ends the start. */
static void mistakes_are_found_where_they_are(void **state)
{
    static const struct {
        const char *text, *at, *why;
    } cases[] = {
        {"rollouts: 5\n", ":1:1: ", "rollouts is a map"},
        {"rollouts: [a]\n", ":1:1: ", "rollouts is a map"},
        {"rollouts:\n  a: 1%,5%\n", ":2:3: ", "rollouts.a is a map"},
        {"rollouts:\n  a/b: {bake: 1m}\n", ":2:3: ", "'a/b' is no name"},
        {"rollouts:\n  manual: {bake: 1m}\n", ":2:3: ", "rollouts.manual: the name is taken"},
        {"rollouts:\n  a: {bak: 1m}\n", ":2:7: ", "did you mean 'bake'?"},
        {"rollouts:\n  a: {bake: soon}\n", ":2:7: ", "rollouts.a.bake"},
        {"rollouts:\n  a: {automatic: off}\n", ":2:7: ", "unknown key"},
        {"rollouts:\n  a:\n    steps: 5%,1%\n", ":3:5: ", "rollouts.a: "},
        {"rollouts:\n  a:\n    steps: 100%\n", ":3:5: ", "100%"},
        {"rollouts:\n  a:\n    steps: \"\"\n", ":3:5: ", "rollouts.a: "},
        {"rollouts:\n  a:\n    steps: []\n", ":3:5: ", "rollouts.a: "},
        {"rollouts:\n  a:\n    steps: [1%, 5]\n", ":3:5: ", "'5'"},
        {"rollouts:\n  a:\n    steps: {b: 1%}\n", ":3:5: ", "rollouts.a.steps is a list of shares"},
        {"rollouts:\n  a:\n    steps: [1%, [5%]]\n", ":3:17: ", "each step is a share"},
        {"capture: on\n", ":1:1: ", "capture is a map"},
        {"capture: {sampel: 1%}\n", ":1:11: ", "did you mean 'sample'?"},
        {"capture: {sample: 101%}\n", ":1:11: ", "above the most, 100%"},
        {"capture: {segment_bytes: 300MiB}\n", ":1:1: ", "a quarter of max_bytes"},
        {"capture: {redact: {a: b}}\n", ":1:11: ", "capture.redact is a list"},
        {"capture: {redact: [a, [b]]}\n", ":1:23: ", "capture.redact is a list"},
        {"capture: {redact: [a, \"\"]}\n", ":1:23: ", "is empty"},
        {"families:\n  a: {capture: 5%}\n", ":2:7: ", "families.a.capture is a map"},
        {"families:\n  a: {capture: {max_age: 1d}}\n", ":2:17: ", "families.a.capture.max_age"},
        {"families:\n  a: {capture: {sample: lots}}\n", ":2:17: ", "families.a.capture.sample"},
    };
    struct house_conf c;
    char said[1000];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int rc = conf_of(cases[i].text, &c, said, sizeof(said));

        if (rc != 1 || !strstr(said, cases[i].at) || !strstr(said, cases[i].why)) {
            fail_msg("%s gives %d, '%s'", cases[i].text, rc, said);
        }
        house_conf_done(&c);
    }
}

static const struct family *family_of(const struct house_conf *c, const char *name)
{
    for (size_t i = 0; i < c->n_families; i++) {
        if (strcmp(c->families[i].name, name) == 0) {
            return &c->families[i];
        }
    }
    fail_msg("no family %s", name);
    return NULL;
}

/* Off unless it is said; a family says what is different. */
static void what_is_captured(void **state)
{
    const struct capture_rule *r;
    struct house_conf c;
    char said[1000];

    (void)state;
    assert_int_equal(conf_of("", &c, said, sizeof(said)), -1);
    assert_int_equal(family_of(&c, "default")->capture.sample, 0);
    assert_true(c.capture.max_bytes == 1u << 30 && c.capture.segment_bytes == 16u << 20);
    assert_int_equal(c.capture.max_age_us, SECONDS(14 * 86400));
    house_conf_done(&c);
    assert_int_equal(conf_of("families:\n"
                             "  a: {place: inline}\n"
                             "  b: {capture: {sample: 100%}}\n"
                             "  c: {capture: {redact: id}}\n"
                             "  d: {capture: {sample: 0%, redact: []}}\n"
                             "capture: {sample: 2.5%, redact: [text, \"a b\"], max_age: 2d, max_bytes: 4MiB, "
                             "segment_bytes: 1MiB}\n",
                             &c, said, sizeof(said)),
                     -1);
    assert_string_equal(said, "");
    assert_true(c.capture.max_bytes == 4u << 20 && c.capture.segment_bytes == 1u << 20);
    assert_int_equal(c.capture.max_age_us, SECONDS(2 * 86400));
    r = &family_of(&c, "a")->capture;
    assert_true(r->sample == 250 && capture_redacts(r, STR("text")) && capture_redacts(r, STR("a b")));
    assert_memory_equal(&family_of(&c, "default")->capture, r, sizeof(*r));
    r = &family_of(&c, "b")->capture;
    assert_true(r->sample == 10000 && capture_redacts(r, STR("text")));
    r = &family_of(&c, "c")->capture;
    assert_true(r->sample == 250 && capture_redacts(r, STR("id")) && !capture_redacts(r, STR("text")));
    r = &family_of(&c, "d")->capture;
    assert_true(r->sample == 0 && !capture_redacts(r, STR("text")) && !r->redact[0]);
    house_conf_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_always_a_default),
        cmocka_unit_test(policies_are_read),
        cmocka_unit_test(what_is_captured),
        cmocka_unit_test(mistakes_are_found_where_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
