/* SPDX-License-Identifier: Apache-2.0 */
/* Captured answers and feedback as lines: every dtype comes back to the same bytes by way of the request reader, and
 * what is redacted is nowhere. */
#include "oip_case.h"

#include <math.h>
#include <yyjson.h>

#include "api/capture_record.h"

#define SALT "0123456789abcdef0123456789abcdef"

static const struct capture_rule keep_all = {.sample = 10000};

/* ---- an answer, made of a request and outputs ---- */

struct given {
    struct oip_case request;
    struct tensor out[16];
    struct buf outputs; /* their bytes */
    struct job_result job;
    struct capture_answer a;
    struct predictor predictor;
    uint8_t *packed; /* heap, exactly as long as it is */
    uint64_t packed_n;
    struct buf line;
};

static void give(struct given *g, const struct model_info *info, const char *json)
{
    memset(g, 0, sizeof(*g));
    case_init(&g->request);
    if (case_all(&g->request, json, info) != ERR_OK) {
        fail_msg("%s: %s", json, g->request.e.text);
    }
    buf_init(&g->outputs, 1u << 20);
    buf_init(&g->line, 1u << 20);
    g->predictor.port = -1;
    g->a = (struct capture_answer){.rule = &keep_all,
                                   .model = STR("intent"),
                                   .id = STR("r-1"),
                                   .at_ms = 1764000000123,
                                   .version = 2,
                                   .arm = ARM_CANARY,
                                   .latency_us = 417,
                                   .predictor = &g->predictor,
                                   .info = info,
                                   .block = g->request.block,
                                   .window = (const uint8_t *)((uintptr_t)g->request.block - CASE_OFF),
                                   .job = &g->job};
}

static void give_output(struct given *g, unsigned port, unsigned rank, int64_t dim0, const void *p, size_t n)
{
    struct tensor *t = &g->out[g->job.n_out++];

    *t = (struct tensor){.port = (uint16_t)port,
                         .dtype = g->a.info->out[port].dtype,
                         .rank = (uint8_t)rank,
                         .dim = {dim0},
                         .off = g->outputs.n,
                         .len = n};
    buf_add(&g->outputs, p, n);
    g->job.out = g->out;
    g->job.base = (const uint8_t *)g->outputs.p;
    g->job.size = g->outputs.n;
}

/* Packs it and writes its line. */
static const char *line_of(struct given *g)
{
    free(g->packed);
    g->packed_n = capture_answer_bytes(&g->a);
    g->packed = malloc(g->packed_n);
    assert_int_equal(capture_answer_pack(g->packed, g->packed_n, &g->a), g->packed_n);
    assert_int_equal(capture_record_at(g->packed), g->a.at_ms);
    assert_true(str_eq(capture_record_model(g->packed), g->a.model));
    buf_clear(&g->line);
    assert_true(capture_record_json(&g->line, g->packed, SALT));
    return buf_z(&g->line);
}

static void give_back(struct given *g)
{
    case_done(&g->request);
    buf_done(&g->outputs);
    buf_done(&g->line);
    free(g->packed);
}

static yyjson_doc *parsed(const struct buf *line)
{
    yyjson_doc *doc = yyjson_read(line->p, line->n, 0);

    if (!doc) {
        fail_msg("not JSON: %.*s", (int)line->n, line->p);
    }
    assert_int_equal(line->p[line->n - 1], '\n');
    assert_null(memchr(line->p, '\n', line->n - 1));
    return doc;
}

/* ---- tests ---- */

static struct tensor_info text_in[] = {{"text", DTYPE_BYTES, 1, {-1}}};
static struct tensor_info text_out[] = {{"label", DTYPE_BYTES, 1, {-1}}, {"score", DTYPE_FP32, 1, {-1}}};
MODEL(text_model, 1, text_in, 2, text_out);
#define ASKED "{\"inputs\":[{\"name\":\"text\",\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"where is it?\"]}]}"

static void a_line_word_by_word(void **state)
{
    const float score[] = {0.25f};
    struct given g;
    char hex[65], want[1000];

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 1, "\x05\0\0\0order", 9);
    give_output(&g, 1, 1, 1, score, sizeof(score));
    g.predictor.port = 0;
    g.a.user = STR("ann");
    sha256_hex(hex, SALT ":ann", strlen(SALT ":ann"));
    snprintf(
        want, sizeof(want),
        "{\"kind\":\"request\",\"id\":\"r-1\",\"at_ms\":1764000000123,\"version\":2,\"arm\":\"canary\","
        "\"user\":\"%.16s\",\"latency_us\":417,\"predicted\":\"order\","
        "\"request\":{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"where is "
        "it?\"]}]},"
        "\"response\":{\"outputs\":[{\"name\":\"label\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"order\"]},"
        "{\"name\":\"score\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[0.25]}]}}\n",
        hex);
    assert_string_equal(line_of(&g), want);
    give_back(&g);
}

static void without_a_key_a_class_or_outputs(void **state)
{
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    g.a.arm = ARM_STABLE;
    assert_non_null(strstr(line_of(&g), "\"arm\":\"stable\",\"user\":null,\"latency_us\":417,\"request\":{"));
    assert_non_null(strstr(line_of(&g), "\"response\":{\"outputs\":[]}}\n"));
    give_back(&g);
}

#define TENSORS 14
static struct tensor_info every_in[TENSORS] = {
    {"bool", DTYPE_BOOL, 1, {-1}},  {"u8", DTYPE_UINT8, 1, {-1}},   {"u16", DTYPE_UINT16, 1, {-1}},
    {"u32", DTYPE_UINT32, 1, {-1}}, {"u64", DTYPE_UINT64, 1, {-1}}, {"i8", DTYPE_INT8, 1, {-1}},
    {"i16", DTYPE_INT16, 1, {-1}},  {"i32", DTYPE_INT32, 1, {-1}},  {"i64", DTYPE_INT64, 1, {-1}},
    {"f16", DTYPE_FP16, 1, {-1}},   {"bf16", DTYPE_BF16, 1, {-1}},  {"f32", DTYPE_FP32, 1, {-1}},
    {"f64", DTYPE_FP64, 1, {-1}},   {"text", DTYPE_BYTES, 1, {-1}}};
MODEL(every, TENSORS, every_in, TENSORS, every_in);

/* clang-format off */
#define IN(name, type, n, data) "{\"name\":\"" name "\",\"datatype\":\"" type "\",\"shape\":[" #n "],\"data\":" data "}"
static const char every_json[] =
    "{\"inputs\":[" IN("bool", "BOOL", 2, "[true,false]") "," IN("u8", "UINT8", 2, "[0,255]") ","
    IN("u16", "UINT16", 2, "[0,65535]") "," IN("u32", "UINT32", 2, "[0,4294967295]") ","
    IN("u64", "UINT64", 2, "[0,18446744073709551615]") "," IN("i8", "INT8", 2, "[-128,127]") ","
    IN("i16", "INT16", 2, "[-32768,32767]") "," IN("i32", "INT32", 2, "[-2147483648,2147483647]") ","
    IN("i64", "INT64", 2, "[-9223372036854775808,9223372036854775807]") ","
    IN("f16", "FP16", 3, "[0.1,-65504.0,6e-8]") "," IN("bf16", "BF16", 3, "[0.1,-1e38,1e-40]") ","
    IN("f32", "FP32", 4, "[0.1,3.4028235e38,1e-45,-0.0]") ","
    IN("f64", "FP64", 4, "[0.1,1.7976931348623157e308,5e-324,-0.0]") ","
    IN("text", "BYTES", 4, "[\"\",\"a \\\"quote\\\"\\n\\u0000\",\"\\u00fc\\ud83d\\ude00\",\"plain\"]") "]}";
/* clang-format on */

/* The line's inputs, and its outputs, as a request: it is read again into the same bytes. */
static void every_dtype_comes_back(void **state)
{
    struct given g;
    struct oip_case again;

    (void)state;
    give(&g, &every, every_json);
    for (unsigned i = 0; i < TENSORS; i++) {
        const struct tensor *t = &g.request.block->in[i];

        give_output(&g, i, 1, t->dim[0], case_data(&g.request, i), t->len);
    }
    line_of(&g);
    yyjson_doc *doc = parsed(&g.line);
    yyjson_val *root = yyjson_doc_get_root(doc);
    case_init(&again);
    for (int side = 0; side < 2; side++) {
        yyjson_val *part = side ? yyjson_obj_get(yyjson_obj_get(root, "response"), "outputs")
                                : yyjson_obj_get(yyjson_obj_get(root, "request"), "inputs");
        char *list = yyjson_val_write(part, 0, NULL), *json = xasprintf("{\"inputs\":%s}", list);

        if (case_all(&again, json, &every) != ERR_OK) {
            fail_msg("%s: %s", json, again.e.text);
        }
        for (unsigned i = 0; i < TENSORS; i++) {
            const struct tensor *t = &again.block->in[i];

            assert_int_equal(t->port, g.request.block->in[i].port);
            assert_int_equal(t->len, g.request.block->in[i].len);
            assert_memory_equal(case_data(&again, i), case_data(&g.request, i), t->len);
        }
        free(json);
        free(list);
    }
    case_done(&again);
    yyjson_doc_free(doc);
    give_back(&g);
}

static void texts_that_are_no_utf8_are_base64(void **state)
{
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 3, "\x02\0\0\0\xff\xfe\0\0\0\0\x03\0\0\0way", 17);
    assert_non_null(strstr(line_of(&g), "\"data\":[\"//4=\",\"\",\"d2F5\"],\"encoding\":\"base64\"}"));
    assert_non_null(strstr(line_of(&g), "\"data\":[\"where is it?\"]}")); /* another tensor's are as they are */
    yyjson_doc_free(parsed(&g.line));
    give_back(&g);
}

static void numbers_that_json_has_not_are_null(void **state)
{
    const float score[] = {NAN, 1, INFINITY};
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 1, 1, 3, score, sizeof(score));
    assert_non_null(strstr(line_of(&g), "\"data\":[null,1.0,null]"));
    give_back(&g);
}

static void a_tensor_that_changed_on_the_way_is_told(void **state)
{
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 1, "\x05\0\0\0order", 9);
    line_of(&g);
    uint8_t *text = memmem(g.packed, g.packed_n, "\x05\0\0\0order", 9);
    text[0] = 6; /* as a worker may do while it is copied */
    buf_clear(&g.line);
    BUF_LIT(&g.line, "before");
    assert_false(capture_record_json(&g.line, g.packed, SALT));
    assert_string_equal(buf_z(&g.line), "before");
    give_back(&g);
}

static struct capture_rule rule_of(const char *const *names)
{
    struct capture_rule rule = {.sample = 10000};
    struct err e;

    for (; *names; names++) {
        assert_int_equal(capture_redact(&rule, str_of(*names), &e), ERR_OK);
    }
    return rule;
}

/* Neither in the line nor in the memory that it is made of. */
static void nowhere(const struct given *g, const char *text)
{
    assert_null(memmem(g->packed, g->packed_n, text, strlen(text)));
    assert_null(memmem(g->line.p, g->line.n, text, strlen(text)));
}

static void redacted_inputs_leave_no_trace(void **state)
{
    struct capture_rule rule = rule_of((const char *const[]){"other", "text", NULL});
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 1, "\x05\0\0\0order", 9);
    g.predictor.port = 0;
    g.a.rule = &rule;
    assert_non_null(strstr(line_of(&g), "\"predicted\":\"order\",\"redacted\":true,\"request\":{\"inputs\":[{"
                                        "\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":null,"
                                        "\"redacted\":true}]}"));
    assert_non_null(strstr(line_of(&g), "\"data\":[\"order\"]}"));
    nowhere(&g, "where");
    give_back(&g);
}

/* The class is the output's content in other words. */
static void a_redacted_output_hides_the_class_too(void **state)
{
    struct capture_rule rule = rule_of((const char *const[]){"label", NULL});
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 1, "\x05\0\0\0order", 9);
    g.predictor.port = 0;
    g.a.rule = &rule;
    line_of(&g);
    nowhere(&g, "order");
    nowhere(&g, "predicted");
    assert_non_null(strstr(buf_z(&g.line), "\"redacted\":true,\"request\""));
    give_back(&g);
}

static void the_fields_may_be_redacted(void **state)
{
    struct capture_rule rule = rule_of((const char *const[]){"user", "predicted", NULL});
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 1, "\x05\0\0\0order", 9);
    g.predictor.port = 0;
    g.a.user = STR("ann");
    g.a.rule = &rule;
    line_of(&g);
    nowhere(&g, "predicted");
    nowhere(&g, "redacted"); /* the tensors are whole: it can be replayed */
    assert_non_null(strstr(buf_z(&g.line), "\"user\":null"));
    assert_null(memmem(g.packed, g.packed_n, "ann", 3));
    give_back(&g);
}

static void the_list_of_names_is_bounded(void **state)
{
    struct capture_rule rule = {0};
    char name[101] = {0};
    struct err e = {0};
    unsigned n = 0;

    (void)state;
    assert_int_equal(capture_redact(&rule, STR(""), &e), ERR_INVALID);
    assert_int_equal(capture_redact(&rule, STR("a\0b"), &e), ERR_INVALID);
    memset(name, 'x', 100);
    while (capture_redact(&rule, str_of(name), &e) == ERR_OK) {
        assert_true(capture_redacts(&rule, str_of(name)));
        name[0]++;
        n++;
    }
    assert_int_equal(n, (CAPTURE_REDACT_MAX - 1) / 101);
    assert_non_null(strstr(e.text, "take more than"));
    assert_false(capture_redacts(&rule, str_of(name)));
    assert_false(capture_redacts(&rule, STR("")));
    assert_false(capture_redacts(&rule, STR("xxx")));
}

static void too_little_room_is_told(void **state)
{
    struct given g;

    (void)state;
    give(&g, &text_model, ASKED);
    give_output(&g, 0, 1, 1, "\x05\0\0\0order", 9);
    line_of(&g);
    for (uint64_t n = 0; n < g.packed_n; n++) {
        uint8_t *p = malloc(n + 1);

        assert_int_equal(capture_answer_pack(p, n, &g.a), 0);
        free(p);
    }
    give_back(&g);
}

/* ---- feedback ---- */

static void said_is(const struct capture_said *s, const char *want)
{
    uint64_t n = capture_said_bytes(s);
    uint8_t *p = malloc(n);
    struct buf line;

    buf_init(&line, 4096);
    assert_int_equal(capture_said_pack(p, n, s), n);
    assert_true(capture_record_json(&line, p, SALT));
    assert_string_equal(buf_z(&line), want);
    assert_int_equal(capture_said_pack(p, n - 1, s), 0);
    buf_done(&line);
    free(p);
}

static void feedback_lines(void **state)
{
    struct capture_rule rule = rule_of((const char *const[]){"label", NULL});
    struct capture_said s = {.rule = &keep_all, .model = STR("intent"), .id = STR("r-\"1\""), .at_ms = 5};

    (void)state;
    s.label = STR("ord\xff\n");
    s.version = 2;
    said_is(
        &s,
        "{\"kind\":\"feedback\",\"id\":\"r-\\\"1\\\"\",\"at_ms\":5,\"label\":\"ord\xef\xbf\xbd\\n\",\"version\":2}\n");
    s.rule = &rule;
    said_is(&s, "{\"kind\":\"feedback\",\"id\":\"r-\\\"1\\\"\",\"at_ms\":5,\"label\":null,\"version\":2,"
                "\"redacted\":true}\n");
    s = (struct capture_said){.rule = &rule, .model = STR("m"), .id = STR("i"), .at_ms = 5, .has_correct = true};
    said_is(&s, "{\"kind\":\"feedback\",\"id\":\"i\",\"at_ms\":5,\"correct\":false}\n");
    s.correct = s.has_reward = s.supersede = true;
    s.reward = 0.5;
    said_is(&s,
            "{\"kind\":\"feedback\",\"id\":\"i\",\"at_ms\":5,\"correct\":true,\"reward\":0.5,\"supersede\":true}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_word_by_word),
        cmocka_unit_test(without_a_key_a_class_or_outputs),
        cmocka_unit_test(every_dtype_comes_back),
        cmocka_unit_test(texts_that_are_no_utf8_are_base64),
        cmocka_unit_test(numbers_that_json_has_not_are_null),
        cmocka_unit_test(a_tensor_that_changed_on_the_way_is_told),
        cmocka_unit_test(redacted_inputs_leave_no_trace),
        cmocka_unit_test(a_redacted_output_hides_the_class_too),
        cmocka_unit_test(the_fields_may_be_redacted),
        cmocka_unit_test(the_list_of_names_is_bounded),
        cmocka_unit_test(too_little_room_is_told),
        cmocka_unit_test(feedback_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
