/* SPDX-License-Identifier: Apache-2.0 */
/* Spans of several servers become one picture: joined by their parents, whatever their clocks say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/trace_page.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SERVER(host) "\"server\":{\"host\":\"" host "\",\"data\":\"http://" host ":8000\"}"
#define HEAD(id, parent, start)                                                                   \
    "\"trace\":\"" TRACE "\",\"span\":\"" id "\",\"parent\":" parent ",\"request_id\":\"order\"," \
    "\"at\":\"2026-11-30T07:00:00.000Z\",\"start_us\":" start
#define WELL "\"code\":\"ok\",\"status\":200,\"error\":null,\"failed_in\":null"
#define BAD(in, status, text) "\"code\":\"x\",\"status\":" status ",\"error\":\"" text "\",\"failed_in\":\"" in "\""
#define TIMES(body, submitted, given, done, total)                                                 \
    "\"body_ms\":" body ",\"submitted_ms\":" submitted ",\"given_ms\":" given ",\"done_ms\":" done \
    ",\"total_ms\":" total

/* A gateway that asked vision:8000, and what that one says of it; its clock is an hour behind. */
#define GATEWAY(result)                                                                                          \
    "{" SERVER("gate") ",\"spans\":[{" HEAD(                                                                     \
        "aaaaaaaaaaaaaaaa", "null",                                                                              \
        "7200000000") ",\"model\":\"vision\","                                                                   \
                      "\"version\":3,\"arm\":\"canary\",\"why\":\"bucket 7 is below\"," result "," TIMES(        \
                          "1.0", "1.5", "2.0", "98.0",                                                           \
                          "100.0") ",\"wait_ms\":0.0,\"compute_ms\":0.0,\"stalled_ms\":0.0,\"body_bytes\":5000," \
                                   "\"joined\":0,\"deaths\":0,"                                                  \
                                   "\"place\":\"remote\",\"peer\":\"vision:8000\",\"instance\":0,\"pid\":null}]}"
#define VISION(result, compute)                                                                                        \
    "{" SERVER("gpu") ",\"spans\":[{" HEAD(                                                                            \
        "bbbbbbbbbbbbbbbb", "\"aaaaaaaaaaaaaaaa\"",                                                                    \
        "3600000000") ",\"model\":\"vision\",\"version\":1,\"arm\":\"stable\",\"why\":\"no candidate\"," result        \
                      "," TIMES("1.0", "2.0", "3.0", "85.0",                                                           \
                                "86.0") ",\"wait_ms\":20.0,\"compute_ms\":" compute ",\"stalled_ms\":0.0,"             \
                                        "\"body_bytes\":5000,\"joined\":4,\"deaths\":0,\"place\":\"worker\",\"peer\":" \
                                        "null,\"instance\":1,\"pid\":77}]}"

static struct buf out;
static struct trace_set set;
static yyjson_doc *docs[3];
static size_t n_docs;

static void load(const char *a, const char *b)
{
    const char *texts[] = {a, b};
    yyjson_val *root[2];

    n_docs = b ? 2 : 1;
    for (size_t i = 0; i < n_docs; i++) {
        docs[i] = yyjson_read(texts[i], strlen(texts[i]), 0);
        assert_non_null(docs[i]);
        root[i] = yyjson_doc_get_root(docs[i]);
    }
    trace_set_make(&set, root, n_docs);
    buf_init(&out, 1u << 20);
}

static void unload(void)
{
    trace_set_done(&set);
    for (size_t i = 0; i < n_docs; i++) {
        yyjson_doc_free(docs[i]);
    }
    buf_done(&out);
}

static const char *slow(void)
{
    buf_clear(&out);
    trace_say_slow(&out, &set, 0, set.n);
    return buf_z(&out);
}

static const char *how_failed(void)
{
    buf_clear(&out);
    return trace_say_failed(&out, &set, 0, set.n) ? buf_z(&out) : NULL;
}

static void the_far_span_lies_in_the_middle_of_its_parents_wait(void **state)
{
    (void)state;
    load(VISION(WELL, "60.0"), GATEWAY(WELL)); /* the order of asking does not matter */
    assert_int_equal(set.n, 2);
    assert_int_equal(trace_end_at(&set, 0), 2);
    assert_string_equal(set.list[0].id, "aaaaaaaaaaaaaaaa");
    assert_int_equal(set.list[1].above, 0);
    assert_int_equal(set.list[1].depth, 1);
    assert_true(set.list[0].offset_ms == 0 && set.list[1].offset_ms == 7); /* 2 + (96 - 86) / 2 */
    assert_string_equal(slow(), "60.0 ms of 100.0 ms went into computing vision v1 in a batch of 4 on gpu");
    assert_null(how_failed());
    unload();
}

static void the_page(void **state)
{
    static const char want[] =
        "trace " TRACE "  request order  2026-11-30 07:00:00 UTC\n"
        "\n"
        "                                               from ms     took ms  0                                100.000 "
        "ms\n"
        "gate  vision v3 canary                           0.000     100.000  ----------------------------------------\n"
        "  receive                                        0.000       1.000  #\n"
        "  queue                                          1.500       0.500  #\n"
        "  at vision:8000                                 2.000      96.000  ########################################\n"
        "  gpu  vision v1 stable                          7.000      86.000    ------------------------------------\n"
        "    receive                                      7.000       1.000    ##\n"
        "    queue                                        9.000      21.000     #########\n"
        "    compute, worker 1 (pid 77), batch of 4      30.000      60.000              ########################\n"
        "    back                                        90.000       2.000                                      #\n"
        "    reply                                       92.000       1.000                                      ##\n"
        "  reply                                         98.000       2.000                                         #\n"
        "\n"
        "gate (http://gate:8000): vision v3, bucket 7 is below\n"
        "gpu (http://gpu:8000): vision v1, no candidate\n"
        "time: 60.0 ms of 100.0 ms went into computing vision v1 in a batch of 4 on gpu\n";

    (void)state;
    load(GATEWAY(WELL), VISION(WELL, "60.0"));
    trace_show(&out, &set, 0, set.n, false, false);
    if (strcmp(buf_z(&out), want) != 0) {
        fail_msg("the page is\n%s", buf_z(&out));
    }
    unload();
}

static void where_the_time_went(void **state)
{
    (void)state;
    load(GATEWAY(WELL), VISION(WELL, "2.0"));
    assert_string_equal(slow(), "60.0 ms of 100.0 ms went into bringing the result back from worker 1 (pid 77) on gpu");
    unload();
    load(GATEWAY(WELL), NULL); /* nothing is known of the other server */
    assert_string_equal(slow(), "96.0 ms of 100.0 ms went into the time at vision:8000 and on the way there and back");
    unload();
    load("{" SERVER("gpu") ",\"spans\":[{" HEAD(
             "bbbbbbbbbbbbbbbb", "\"aaaaaaaaaaaaaaaa\"",
             "1") ",\"total_ms\":3.0,"
                  "\"model\":\"vision\",\"version\":1,\"arm\":\"stable\",\"why\":\"x\"," WELL "}]}",
         GATEWAY(WELL));
    assert_string_equal(slow(),
                        "93.0 ms of 100.0 ms went into the time between gate and vision:8000 (connection and network)");
    unload();
}

static void the_hop_that_failed_is_the_innermost(void **state)
{
    (void)state;
    load(GATEWAY(BAD("peer", "503", "vision at vision:8000: the worker of vision/1 exited")),
         VISION(BAD("run", "503", "the worker of vision/1 exited"), "0.0"));
    assert_string_equal(how_failed(),
                        "gpu, in the run of vision v1 on worker 1 (pid 77): 503 the worker of vision/1 exited");
    unload();
    load(GATEWAY(BAD("peer", "503", "can not be reached")), NULL);
    assert_string_equal(how_failed(), "vision:8000, which gate asked: 503 can not be reached");
    unload();
    load(GATEWAY(BAD("peer", "504", "the deadline passed")), VISION(BAD("client", "499", "it left"), "0.0"));
    assert_string_equal(how_failed(), "vision:8000, which gate asked: 504 the deadline passed");
    unload();
    load(GATEWAY(BAD("queue", "504", "its time was over")), VISION(WELL, "1.0"));
    assert_string_equal(how_failed(), "gate, in the queue: 504 its time was over");
    unload();
}

static void what_makes_no_sense_is_drawn_all_the_same(void **state)
{
    (void)state;
    load("{\"spans\":[{}, 7, {\"trace\":\"a\",\"span\":\"x\",\"parent\":\"x\"}, {\"trace\":\"a\",\"span\":\"y\","
         "\"parent\":\"z\"}, {\"trace\":\"a\",\"span\":\"z\",\"parent\":\"y\"},"
         "{\"trace\":\"b\",\"span\":\"y\",\"start_us\":9,\"total_ms\":-5,\"peer\":\"\\u001b[2J\",\"arm\":\"\\u001b["
         "2J\",\"place\":\"\\u001b[2J\",\"parent\":\"\\u001b[2J\"}]}",
         "{\"spans\":[{\"trace\":\"a\",\"span\":\"x\",\"parent\":\"x\"}], \"server\": 3}");
    assert_int_equal(set.n, 4); /* the same span twice is one */
    assert_string_equal(set.list[0].trace, "b");
    assert_int_equal(trace_end_at(&set, 0), 1);
    assert_int_equal(trace_end_at(&set, 1), 4);
    for (size_t from = 0, to; from < set.n; from = to) {
        to = trace_end_at(&set, from);
        trace_show(&out, &set, from, to, true, true);
        trace_json(&out, &set, from, to);
    }
    assert_null(strstr(buf_z(&out), "\x1b[2J"));
    unload();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_far_span_lies_in_the_middle_of_its_parents_wait),
        cmocka_unit_test(the_page),
        cmocka_unit_test(where_the_time_went),
        cmocka_unit_test(the_hop_that_failed_is_the_innermost),
        cmocka_unit_test(what_makes_no_sense_is_drawn_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
