/* SPDX-License-Identifier: Apache-2.0 */
/* One value changes, nothing else: by hand-written files of odd shapes, and by thousands of drawn ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/conf.h"
#include "base/conf_edit.h"

#define NEW "weir://vision.internal:8000"

static const char *const path[] = {"families", "vision", "place", NULL};

static enum err_code edit(struct buf *out, const char *text, const char *value, struct err *e)
{
    buf_init(out, 1 << 20);
    return conf_edit(out, "weir.yaml", str_of(text), path, value, e);
}

static void becomes(const char *text, const char *want)
{
    struct err e = {0};
    struct buf out;

    if (edit(&out, text, NEW, &e) != ERR_OK) {
        fail_msg("%s\nis refused: %s", text, e.text);
    }
    assert_string_equal(buf_z(&out), want);
    buf_done(&out);
}

static void a_value_that_is_there(void **state)
{
    (void)state;
    becomes("families:\n  vision: {place: worker}\n", "families:\n  vision: {place: " NEW "}\n");
    becomes("families:\n  vision:   # é ü\n    place:  'worker'   # why\n    instances: 2\n",
            "families:\n  vision:   # é ü\n    place:  " NEW "   # why\n    instances: 2\n");
    becomes("{families: {vision: {instances: 2, \"place\": \"worker\"}}}",
            "{families: {vision: {instances: 2, \"place\": " NEW "}}}");
    becomes("# place: worker\r\nfamilies:\r\n  vision:\r\n    place: worker\r\n",
            "# place: worker\r\nfamilies:\r\n  vision:\r\n    place: " NEW "\r\n");
    becomes("\xef\xbb\xbf"
            "families: {vision: {place: worker}}",
            "\xef\xbb\xbf"
            "families: {vision: {place: " NEW "}}");
    becomes("families:\n  vision:\n    place:\n", "families:\n  vision:\n    place: " NEW "\n");
}

static void a_value_that_is_missing(void **state)
{
    (void)state;
    becomes("families:\n  vision: {instances: 2}\n", "families:\n  vision: {place: " NEW ", instances: 2}\n");
    becomes("families:\n  vision: { instances: 2 }\n", "families:\n  vision: { place: " NEW ", instances: 2 }\n");
    becomes("families:\n  vision: {}\n", "families:\n  vision: {place: " NEW "}\n");
    becomes("families:\n  vision:\n    batch:\n      max: 4   # few\n\n# end\n",
            "families:\n  vision:\n    batch:\n      max: 4   # few\n    place: " NEW "\n\n# end\n");
}

static void a_family_that_is_missing(void **state)
{
    (void)state;
    becomes("families:\n  default: {place: worker}   # all\nlog: info\n",
            "families:\n  default: {place: worker}   # all\n  vision: {place: " NEW "}\nlog: info\n");
    becomes("families:\n    intent:\n        place: inline", "families:\n    intent:\n        place: inline\n"
                                                             "    vision: {place: " NEW "}");
    becomes("families: {default: {place: worker}}\n",
            "families: {vision: {place: " NEW "}, default: {place: worker}}\n");
    becomes("families: {\n  default: {place: worker}\n}\n",
            "families: { vision: {place: " NEW "},\n  default: {place: worker}\n}\n");
    becomes("families:\nlog: info\n", "families: {vision: {place: " NEW "}}\nlog: info\n");
    becomes("families: ~\n", "families: {vision: {place: " NEW "}}\n");
}

static void no_families_at_all(void **state)
{
    (void)state;
    becomes("", "families: {vision: {place: " NEW "}}\n");
    becomes("# nothing yet", "# nothing yet\nfamilies: {vision: {place: " NEW "}}\n");
    becomes("listen: 127.0.0.1:8000 # here\r\n\r\n# more\r\n",
            "listen: 127.0.0.1:8000 # here\r\nfamilies: {vision: {place: " NEW "}}\r\n\r\n# more\r\n");
    becomes("{}", "{families: {vision: {place: " NEW "}}}");
    becomes("---\nlog: info\n...\n", "---\nlog: info\nfamilies: {vision: {place: " NEW "}}\n...\n");
}

static void values_are_quoted_where_they_must(void **state)
{
    static const char *const values[] = {
        "weir://[::1]:8000", "a b", "x: y", "#z", "\"q\"", "b\\s", "-", ":", "a:", "{", ""};
    struct err e = {0};
    struct buf out;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        AUTO(conf) c = NULL;
        const struct conf_node *n;

        assert_int_equal(edit(&out, "families: {vision: {place: worker, pin: on}}", values[i], &e), ERR_OK);
        assert_int_equal(conf_read_text(&c, "t", buf_str(&out), &e), ERR_OK);
        n = conf_find(conf_find(conf_find(c->root, "families"), "vision"), "place");
        assert_string_equal(n->text, values[i]);
        buf_done(&out);
    }
}

static void what_can_not_be_changed_is_refused(void **state)
{
    static const char *const texts[] = {
        "families: [1]",
        "families: {vision: 5}",
        "families: {vision: {place: {x: 1}}}",
        "[1, 2]",
        "families: {vision: [place]}",
        "families: {",
        "a: &x 1\nfamilies: *x\n",
        "families: {vision: {place: [worker]}}",
    };
    struct err e;
    struct buf out;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        if (edit(&out, texts[i], NEW, &e) != ERR_INVALID) {
            fail_msg("taken: %s -> %s", texts[i], buf_z(&out));
        }
        assert_int_equal(out.n, 0);
        assert_int_equal(strncmp(e.text, "weir.yaml", 9), 0);
        buf_done(&out);
    }
}

/* ---- drawn files ---- */

static uint64_t seed;

static unsigned dice(unsigned sides)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % sides;
}

static const char *pick(const char *const *of, unsigned n)
{
    return of[dice(n)];
}

static void eol(struct buf *b, bool crlf)
{
    static const char *const comments[] = {"", "", "", " # place: worker", "   # größer — 重さ", " #", "  "};

    buf_addz(b, pick(comments, COUNT_OF(comments)));
    buf_addz(b, crlf ? "\r\n" : "\n");
    while (dice(6) == 0) {
        buf_addz(b, dice(2) ? "# vision: {place: inline} ö" : "");
        buf_addz(b, crlf ? "\r\n" : "\n");
    }
}

static void blanks(struct buf *b, unsigned n)
{
    while (n-- > 0) {
        buf_addc(b, ' ');
    }
}

/* A family's settings; *at: where its place stands, if it has one. */
static void draw_family(struct buf *b, unsigned indent, bool flow, bool crlf, bool has_place)
{
    static const char *const places[] = {"worker", "inline", "'worker'", "\"inline\"", "http://h:1"};
    static const char *const others[] = {"instances: 2", "device: \"cuda:0\"", "pin: on", "batch: {max: 16, slo: 50ms}",
                                         "queue_requests: 7"};
    unsigned n = dice(4), where = dice(n + 1);

    if (flow) {
        bool first = true;

        buf_addz(b, dice(2) ? "{ " : "{");
        for (unsigned i = 0; i <= n; i++) {
            if (i == where && has_place) {
                buf_addf(b, "%splace: %s", first ? "" : ", ", pick(places, COUNT_OF(places)));
                first = false;
            }
            if (i < n) {
                buf_addf(b, "%s%s", first ? "" : dice(2) ? ", " : " ,  ", others[i]);
                first = false;
            }
        }
        buf_addz(b, dice(2) ? " }" : "}");
        eol(b, crlf);
        return;
    }
    eol(b, crlf);
    for (unsigned i = 0; i <= n; i++) {
        if (i == where && has_place) {
            blanks(b, indent);
            buf_addf(b, "place:%s%s", dice(2) ? " " : "   ", pick(places, COUNT_OF(places)));
            eol(b, crlf);
        }
        if (i < n || (i == 0 && !has_place)) {
            blanks(b, indent);
            buf_addz(b, others[i]);
            eol(b, crlf);
        }
    }
}

static void draw(struct buf *b, bool *has_place)
{
    static const char *const names[] = {"default", "vision", "intent", "visions"};
    bool crlf = dice(4) == 0, in_flow = dice(4) == 0;
    unsigned step = 1 + dice(5);
    int vision = dice(4) == 0 ? -1 : (int)dice(3);

    *has_place = false;
    buf_addz(b, dice(3) ? "" : crlf ? "---\r\n" : "---\n");
    eol(b, crlf);
    buf_addz(b, "listen: 127.0.0.1:8000");
    eol(b, crlf);
    if (dice(5) > 0) {
        buf_addz(b, dice(3) ? "families:" : "\"families\":");
        buf_addz(b, in_flow ? " {" : "");
        if (!in_flow) {
            eol(b, crlf);
        }
        for (int i = 0; i < 3; i++) {
            const char *name = i == vision ? "vision" : i == 0 ? names[0] : i == 1 ? names[2] : names[3];
            bool place = dice(3) > 0;

            *has_place |= i == vision && place;
            if (in_flow) {
                buf_addf(b, "%s%s: {%s}", i ? ", " : "", name, place ? "place: worker" : "pin: on");
            } else {
                blanks(b, step);
                buf_addf(b, dice(4) ? "%s: " : "'%s':  ", name);
                draw_family(b, step * 2, dice(2), crlf, place);
            }
        }
        if (in_flow) {
            buf_addz(b, "}");
            eol(b, crlf);
        }
    }
    buf_addz(b, "rollouts:\n  careful: {steps: \"1%,5%\"}\nevents:\n  - {place: worker}\n");
    if (dice(3) == 0) {
        b->n--; /* no end of the last line */
    }
}

/* What is new stands in one place; all before and all behind it is as it was. */
static void all_else_is_kept(const struct buf *was, struct buf *now, bool replaced)
{
    size_t head = 0, tail = 0;

    while (head < was->n && head < now->n && was->p[head] == now->p[head]) {
        head++;
    }
    while (tail < was->n - head && tail < now->n - head && was->p[was->n - 1 - tail] == now->p[now->n - 1 - tail]) {
        tail++;
    }
    if (!replaced) {
        assert_int_equal(head + tail, was->n);
    } else {
        assert_true(was->n - head - tail <= strlen("http://h:1"));
    }
    assert_non_null(strstr(buf_z(now), NEW));
}

static void drawn_files(void **state)
{
    (void)state;
    for (seed = 1; seed < 1 + 4000; seed++) {
        uint64_t mine = seed;
        struct buf text, out, again;
        struct err e = {0};
        bool has_place;

        buf_init(&text, 1 << 16);
        draw(&text, &has_place);
        if (edit(&out, buf_z(&text), NEW, &e) != ERR_OK) {
            fail_msg("seed %llu: %s\n%s", (unsigned long long)mine, e.text, buf_z(&text));
        }
        all_else_is_kept(&text, &out, has_place);
        assert_int_equal(edit(&again, buf_z(&out), NEW, &e), ERR_OK); /* said already: nothing changes */
        assert_string_equal(buf_z(&again), buf_z(&out));
        buf_done(&again);
        buf_done(&out);
        buf_done(&text);
        seed = mine;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_that_is_there),
        cmocka_unit_test(a_value_that_is_missing),
        cmocka_unit_test(a_family_that_is_missing),
        cmocka_unit_test(no_families_at_all),
        cmocka_unit_test(values_are_quoted_where_they_must),
        cmocka_unit_test(what_can_not_be_changed_is_refused),
        cmocka_unit_test(drawn_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
