/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration: the tree and its lines, what is refused and how it is said, every type of setting with its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/conf.h"

struct sample {
    bool on;
    uint64_t count, bytes, wait, share;
    char *name;
    char *path;
    int mode;
};

static const char *const modes[] = {"inline", "worker", "none", NULL};
static const struct setting table[] = {
    {"enabled", SET_BOOL, offsetof(struct sample, on), "on", 0, 0, NULL, "whether"},
    {"instances", SET_U64, offsetof(struct sample, count), "2", 1, 64, NULL, "how many"},
    {"memory", SET_BYTES, offsetof(struct sample, bytes), "64MiB", 4096, (uint64_t)6 << 30, NULL, "how much"},
    {"wait", SET_DURATION, offsetof(struct sample, wait), "50ms", 1000, 3600000000u, NULL, "how long"},
    {"weight", SET_SHARE, offsetof(struct sample, share), "5%", 0, 0, NULL, "which part"},
    {"name", SET_STRING, offsetof(struct sample, name), "default", 1, 8, NULL, "what"},
    {"path", SET_STRING, offsetof(struct sample, path), NULL, 0, 0, NULL, "where"},
    {"mode", SET_ENUM, offsetof(struct sample, mode), "worker", 0, 0, modes, "which way"},
};

static struct conf *read_ok(const char *text)
{
    struct conf *c = NULL;
    struct err e = {0};
    if (conf_read_text(&c, "t.yaml", str_of(text), &e) != ERR_OK) {
        fail_msg("refused: %s: %s", text, e.text);
    }
    return c;
}

static void refused(struct str text, const char *why)
{
    struct conf *c = NULL;
    struct err e = {0};
    enum err_code code = conf_read_text(&c, "t.yaml", text, &e);
    if (code == ERR_OK) {
        fail_msg("taken: " STR_FMT, STR_ARG(text));
    }
    assert_null(c);
    assert_int_equal(code, e.code);
    if (!strstr(e.text, why)) {
        fail_msg("'%s' does not say '%s'", e.text, why);
    }
}

static void tree(void **state)
{
    (void)state;
    AUTO(conf)
    c = read_ok("# a comment\n"
                "server:\n"
                "  port: 8000\n"
                "  bind: \"127.0.0.1\"\n"
                "list: [a, 'b', {c: d}]\n"
                "text: |\n"
                "  two\n"
                "  lines\n"
                "empty:\n");
    assert_int_equal(c->root->kind, CONF_MAP);
    struct conf_node *server = conf_find(c->root, "server");
    struct conf_node *port = conf_find(server, "port");
    assert_string_equal(port->text, "8000");
    assert_false(port->quoted);
    assert_int_equal(port->line, 3);
    assert_int_equal(port->col, 3);
    assert_true(conf_find(server, "bind")->quoted);
    assert_null(conf_find(server, "por"));
    assert_null(conf_find(port, "port"));
    assert_null(conf_find(NULL, "port"));
    struct conf_node *list = conf_find(c->root, "list");
    assert_int_equal(list->kind, CONF_LIST);
    assert_string_equal(list->child->text, "a");
    assert_null(list->child->key);
    assert_int_equal(list->child->col, 8);
    assert_string_equal(conf_find(list->child->next->next, "c")->text, "d");
    assert_null(list->child->next->next->next);
    assert_string_equal(conf_find(c->root, "text")->text, "two\nlines\n");
    assert_string_equal(conf_find(c->root, "empty")->text, "");
    struct err e;
    assert_int_equal(conf_error(c, port, &e, "port %d is taken", 8000), ERR_INVALID);
    assert_string_equal(e.text, "t.yaml:3:3: port 8000 is taken");
}

static void empty(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "\n# nothing\n", "---\n", "---\n...\n", "~", "{}", "\xef\xbb\xbf"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        AUTO(conf) c = read_ok(texts[i]);
        assert_int_equal(c->root->kind, CONF_MAP);
        assert_null(c->root->child);
    }
    conf_free(NULL);
}

static void bad_yaml(void **state)
{
    (void)state;
    refused(STR("a: &x 1\nb: *x\n"), "t.yaml:1:4: anchors (&x) are not supported");
    refused(STR("b: *x\n"), "t.yaml:1:4: aliases (*x)");
    refused(STR("a: &m {x: 1}\n"), "anchors");
    refused(STR("a: &m [1]\n"), "anchors");
    refused(STR("a: !!int 5\n"), "tags");
    refused(STR("a: !!map {x: 1}\n"), "tags");
    refused(STR("a: ! 5\n"), "tags");
    refused(STR("a: 1\n---\nb: 2\n"), "t.yaml:2:1: a second document");
    refused(STR("a: 1\nb: 2\na: 3\n"), "t.yaml:3:1: key 'a' is already set in line 1");
    refused(STR("a:\n  b: 1\n b: 2\n"), "t.yaml:3:");
    refused(STR("a: [1, 2\n"), "not YAML");
    refused(STR("a: \"x\n"), "not YAML");
    refused(STR("a: b: c\n"), "not YAML");
    refused(STR("\ta: 1\n"), "not YAML");
    refused(STR("a: \xff\xfe\n"), "not YAML");
    refused(STR("a: \x01\n"), "not YAML");
    refused(STR("a: \"\\0b\"\n"), "zero byte");
    refused(STR("[a, b]: 1\n"), "a key must be a plain text");
    refused(STR("? {a: b}\n: 1\n"), "a key must be a plain text");
    refused(STR("\"\": 1\n"), "an empty key");
    refused(STR("- a\n- b\n"), "a configuration is a map");
    refused(STR("just text\n"), "a configuration is a map");
}

static void bounds(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_addz(&b, "a: ");
    for (int i = 0; i < 15; i++) {
        buf_addc(&b, '[');
    }
    for (int i = 0; i < 15; i++) {
        buf_addc(&b, ']');
    }
    conf_free(read_ok(buf_z(&b)));
    buf_clear(&b);
    buf_addz(&b, "a: [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]");
    refused(buf_str(&b), "nested deeper than 16 levels");

    buf_clear(&b);
    for (int i = 0; i < 200000; i++) {
        buf_addc(&b, '[');
    }
    refused(buf_str(&b), "nested deeper");

    buf_clear(&b);
    for (int i = 0; i < 9999; i++) {
        buf_addf(&b, "k%d: 1\n", i);
    }
    conf_free(read_ok(buf_z(&b)));
    buf_addz(&b, "more: 1\n");
    refused(buf_str(&b), "more than 10000 values");

    buf_clear(&b);
    buf_addz(&b, "a: 1\n#");
    for (int i = 0; i < 1024 * 1024; i++) {
        buf_addc(&b, '.');
    }
    struct conf *c = NULL;
    struct err e;
    assert_int_equal(conf_read_text(&c, "t.yaml", buf_str(&b), &e), ERR_TOO_LARGE);
    buf_done(&b);
}

static void files(void **state)
{
    (void)state;
    char path[] = "/tmp/weir_conf_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "a: 1\nb: [\n", 10), 10);
    struct conf *c = NULL;
    struct err e;
    assert_int_equal(conf_read_file(&c, path, &e), ERR_INVALID);
    assert_memory_equal(e.text, path, strlen(path));
    assert_int_equal(write(fd, "]\n", 2), 2);
    assert_int_equal(conf_read_file(&c, path, &e), ERR_OK);
    assert_string_equal(conf_find(c->root, "a")->text, "1");
    conf_free(c);
    c = NULL;
    for (int i = 0; i < 1100; i++) {
        char block[1024];
        memset(block, '\n', sizeof(block));
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    }
    assert_int_equal(conf_read_file(&c, path, &e), ERR_TOO_LARGE);
    close(fd);
    unlink(path);
    assert_int_equal(conf_read_file(&c, path, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "No such file"));
    assert_int_equal(conf_read_file(&c, "/tmp", &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "is a directory"));
    assert_null(c);
}

static void presets(void **state)
{
    (void)state;
    struct sample s;
    memset(&s, 0xA5, sizeof(s)); /* nothing may depend on what was there */
    settings_defaults(table, COUNT_OF(table), &s);
    assert_true(s.on);
    assert_int_equal(s.count, 2);
    assert_int_equal(s.bytes, 64u << 20);
    assert_int_equal(s.wait, 50000);
    assert_int_equal(s.share, 500);
    assert_string_equal(s.name, "default");
    assert_null(s.path);
    assert_int_equal(s.mode, 1);
    settings_done(table, COUNT_OF(table), &s);
    assert_null(s.name);
}

static enum err_code read_into(const char *text, struct sample *s, struct err *e)
{
    static const char *const except[] = {"models", "families", NULL};
    AUTO(conf) c = read_ok(text);
    struct conf_node *top = conf_find(c->root, "top");
    struct conf_node *in = conf_find(top, "in");
    return settings_read(table, COUNT_OF(table), c, in ? in : top ? top : c->root, except, s, e);
}

static void reads(void **state)
{
    (void)state;
    struct sample s;
    struct err e = {0};
    settings_defaults(table, COUNT_OF(table), &s);
    assert_int_equal(
        read_into("enabled: off\ninstances: 64\nmemory: 6GiB\nwait: 1h\nweight: 12.25%\nname: \"12345678\"\n"
                  "path: /a b\nmode: none\nmodels: {x: 1}\n",
                  &s, &e),
        ERR_OK);
    assert_false(s.on);
    assert_int_equal(s.count, 64);
    assert_int_equal(s.bytes, (uint64_t)6 << 30);
    assert_int_equal(s.wait, 3600000000u);
    assert_int_equal(s.share, 1225);
    assert_string_equal(s.name, "12345678");
    assert_string_equal(s.path, "/a b");
    assert_int_equal(s.mode, 2);
    assert_int_equal(read_into("top:\n", &s, &e), ERR_OK); /* a section without content */
    assert_int_equal(settings_read(table, COUNT_OF(table), NULL, NULL, NULL, &s, &e), ERR_OK);
    assert_int_equal(s.count, 64);
    settings_done(table, COUNT_OF(table), &s);
}

/* Rows whose names have a dot are read from a map under the part before it. */
static void inner(void **state)
{
    struct nested {
        uint64_t max, wait;
    } n;
    static const struct setting rows[] = {
        {"batch.max", SET_U64, offsetof(struct nested, max), "4", 1, 9, NULL, ""},
        {"batch.wait", SET_DURATION, offsetof(struct nested, wait), "1ms", 0, 0, NULL, ""},
    };
    static const char *const wrong[][2] = {
        {"batch: {max: 10}\n", "batch.max: 10 is above the most, 9"},
        {"batch: {mix: 1}\n", "batch.mix: unknown key; did you mean 'batch.max'?"},
        {"batch: 5\n", "batch: 'key: value' lines are wanted"},
        {"batch: {max: 7, wait: [1]}\n", "batch.wait: one value is wanted"},
        {"max: 5\n", "unknown key"},
    };
    struct err e;

    (void)state;
    settings_defaults(rows, COUNT_OF(rows), &n);
    assert_int_equal(n.max, 4);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        AUTO(conf) c = read_ok(wrong[i][0]);

        assert_int_equal(settings_read(rows, COUNT_OF(rows), c, c->root, NULL, &n, &e), ERR_INVALID);
        assert_non_null(strstr(e.text, wrong[i][1]));
        assert_int_equal(n.max, 4); /* nothing of a map that is wrong somewhere */
    }
    {
        AUTO(conf) c = read_ok("batch: {max: 7, wait: 2s}\n");

        assert_int_equal(settings_read(rows, COUNT_OF(rows), c, c->root, NULL, &n, &e), ERR_OK);
    }
    assert_int_equal(n.max, 7);
    assert_int_equal(n.wait, 2000000);
}

static void complaints(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"top:\n  in:\n    instances: 0\n", "t.yaml:3:5: top.in.instances: 0 is below the least, 1"},
        {"instances: 65\n", "t.yaml:1:1: instances: 65 is above the most, 64"},
        {"instances: -1\n", "instances: '-1' is not a whole number"},
        {"instances: 1.5\n", "'1.5' is not a whole number"},
        {"instances: 0x10\n", "is not a whole number"},
        {"memory: 1KiB\n", "memory: 1KiB is below the least, 4KiB"},
        {"memory: 7GiB\n", "memory: 7GiB is above the most, 6GiB"},
        {"memory: lots\n", "'lots' is not a size"},
        {"wait: 30\n", "'30' is not a time"},
        {"wait: 0\n", "0 is below the least, 1ms"},
        {"wait: 2h\n", "2h is above the most, 1h"},
        {"weight: 101%\n", "101% is above the most, 100%"},
        {"weight: 5\n", "'5' is not a share"},
        {"weight: 1.005%\n", "is not a share"},
        {"name: \"\"\n", "'' has 0 characters, below the least, 1"},
        {"name: 123456789\n", "has 9 characters, above the most, 8"},
        {"mode: inlin\n", "'inlin' is not inline, worker or none"},
        {"enabled: maybe\n", "'maybe' is not on or off"},
        {"enabled:\n", "enabled: a value is missing"},
        {"path: ~\n", "path: a value is missing"},
        {"path: [a]\n", "path: one value is wanted"},
        {"instnaces: 1\n", "t.yaml:1:1: instnaces: unknown key; did you mean 'instances'?"},
        {"familes: 1\n", "did you mean 'families'?"},
        {"instances: 3\nquite_other: 1\n", "t.yaml:2:1: quite_other: unknown key"},
        {"top: {in: [1]}\n", "top.in: 'key: value' lines are wanted"},
    };
    struct sample s;
    struct err e;
    settings_defaults(table, COUNT_OF(table), &s);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        assert_int_equal(read_into(rows[i][0], &s, &e), ERR_INVALID);
        if (!strstr(e.text, rows[i][1])) {
            fail_msg("'%s' does not say '%s'", e.text, rows[i][1]);
        }
    }
    assert_null(strstr(e.text, "did you mean"));
    assert_int_equal(s.count, 2); /* a map with one wrong value changes nothing */
    AUTO(conf) c = read_ok("a:\n  - x: 1\n  - instances: 70\n");
    assert_int_equal(settings_read(table, COUNT_OF(table), c, conf_find(c->root, "a")->child->next, NULL, &s, &e),
                     ERR_INVALID);
    assert_string_equal(e.text, "t.yaml:3:5: a[1].instances: 70 is above the most, 64");
    settings_done(table, COUNT_OF(table), &s);
}

static void one_value(void **state)
{
    (void)state;
    struct sample s;
    struct err e;
    settings_defaults(table, COUNT_OF(table), &s);
    assert_int_equal(settings_set(&table[5], "abc", &s, "--name", &e), ERR_OK);
    assert_string_equal(s.name, "abc");
    assert_int_equal(settings_set(&table[1], "99", &s, "--instances", &e), ERR_INVALID);
    assert_string_equal(e.text, "--instances: 99 is above the most, 64");
    assert_int_equal(s.count, 2);
    settings_done(table, COUNT_OF(table), &s);
}

/* What is written of a value reads as that value. */
static void texts(void **state)
{
    (void)state;
    static const struct {
        size_t row;
        const char *text, *same; /* same: how it is written; NULL: as it is */
    } cases[] = {
        {0, "off", NULL},         {0, "yes", "on"},  {1, "64", NULL},     {2, "64MiB", NULL}, {2, "4096", "4KiB"},
        {2, "10MB", "10000000B"}, {3, "50ms", NULL}, {3, "1500us", NULL}, {3, "60s", "1m"},   {4, "5%", NULL},
        {4, "0.25%", NULL},       {5, "abc", NULL},  {7, "worker", NULL},
    };
    struct err e;
    struct buf out;

    buf_init(&out, 4096);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct sample a, b;
        settings_defaults(table, COUNT_OF(table), &a);
        settings_defaults(table, COUNT_OF(table), &b);
        buf_clear(&out);
        assert_int_equal(settings_set(&table[cases[i].row], cases[i].text, &a, "x", &e), ERR_OK);
        setting_text(&table[cases[i].row], &a, &out);
        assert_string_equal(buf_z(&out), cases[i].same ? cases[i].same : cases[i].text);
        assert_int_equal(settings_set(&table[cases[i].row], buf_z(&out), &b, "x", &e), ERR_OK);
        buf_clear(&out);
        setting_text(&table[cases[i].row], &b, &out);
        assert_string_equal(buf_z(&out), cases[i].same ? cases[i].same : cases[i].text);
        settings_done(table, COUNT_OF(table), &a);
        settings_done(table, COUNT_OF(table), &b);
    }
    struct sample s;
    settings_defaults(table, COUNT_OF(table), &s);
    buf_clear(&out);
    setting_text(&table[6], &s, &out); /* a path that is not there */
    assert_string_equal(buf_z(&out), "");
    settings_done(table, COUNT_OF(table), &s);
    buf_done(&out);
}

static void units(void **state)
{
    (void)state;
    uint64_t v;
    assert_true(parse_bytes(STR("512"), &v) && v == 512);
    assert_true(parse_bytes(STR("512B"), &v) && v == 512);
    assert_true(parse_bytes(STR("10MB"), &v) && v == 10000000);
    assert_true(parse_bytes(STR("3TiB"), &v) && v == (uint64_t)3 << 40);
    assert_true(parse_duration(STR("250us"), &v) && v == 250);
    assert_true(parse_duration(STR("5m"), &v) && v == 300000000);
    assert_true(parse_duration(STR("0"), &v) && v == 0);
    assert_true(parse_share(STR("0%"), &v) && v == 0);
    assert_true(parse_share(STR("0.5%"), &v) && v == 50);
    assert_true(parse_share(STR("0.05%"), &v) && v == 5);
    assert_true(parse_share(STR("100%"), &v) && v == 10000);
    v = 7;
    static const char *const bad_bytes[] = {"", "MiB", "1.5GiB", "1 KiB", "1kib", "-1", "18014398509481984KiB"};
    static const char *const bad_times[] = {"", "s", "5", "1.5s", "5 s", "5sec", "-1s", "9999999999999999999h"};
    static const char *const bad_shares[] = {
        "", "%", "5", ".5%", "5.%", "5.123%", "-5%", "5 %", "99999999999999999999%"};
    for (size_t i = 0; i < COUNT_OF(bad_bytes); i++) {
        assert_false(parse_bytes(str_of(bad_bytes[i]), &v));
    }
    for (size_t i = 0; i < COUNT_OF(bad_times); i++) {
        assert_false(parse_duration(str_of(bad_times[i]), &v));
    }
    for (size_t i = 0; i < COUNT_OF(bad_shares); i++) {
        assert_false(parse_share(str_of(bad_shares[i]), &v));
    }
    assert_int_equal(v, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree),  cmocka_unit_test(empty),     cmocka_unit_test(bad_yaml), cmocka_unit_test(bounds),
        cmocka_unit_test(files), cmocka_unit_test(presets),   cmocka_unit_test(reads),    cmocka_unit_test(complaints),
        cmocka_unit_test(inner), cmocka_unit_test(one_value), cmocka_unit_test(units),    cmocka_unit_test(texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
