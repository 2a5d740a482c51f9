/* SPDX-License-Identifier: Apache-2.0 */
/* oip_write: every dtype as JSON and as bytes, which outputs are binary, classification, broken and hostile results;
 * random tensors through write and fill and back; the metadata documents. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/hash.h"
#include "unit/api/oip_case.h"

#define BYTES_OF(lit) sizeof(lit) - 1, lit
#define HEAD "{\"model_name\":\"m\",\"model_version\":\"3\",\"outputs\":["

/* A reply of one model with the outputs of `info`. The tensors' bytes are copied to the heap end to end. */
struct replying {
    struct oip_request r;
    struct oip_reply reply;
    struct job_result res;
    struct buf out;
    uint64_t json_bytes;
    struct err e;
};

static void replying_init(struct replying *w, const struct model_info *info, const struct tensor *t, uint32_t n,
                          const void *base, uint64_t size)
{
    memset(w, 0, sizeof(*w));
    w->reply = (struct oip_reply){.model = STR("m"), .version = 3, .info = info};
    w->res = (struct job_result){.n_out = n, .out = t, .base = base, .size = size};
    w->json_bytes = 77;
    buf_init(&w->out, 1 << 20);
}

static enum err_code replying_go(struct replying *w)
{
    buf_clear(&w->out);
    BUF_LIT(&w->out, "head"); /* what was there before stays */
    enum err_code code = oip_write(&w->out, &w->r, &w->reply, &w->res, &w->json_bytes, &w->e);
    assert_memory_equal(w->out.p, "head", 4);
    if (code) {
        assert_int_equal(w->out.n, 4);
    } else {
        buf_drop(&w->out, 4);
    }
    return code;
}

static void gives(struct replying *w, const char *text)
{
    if (replying_go(w)) {
        fail_msg("%s", w->e.text);
    }
    assert_string_equal(buf_z(&w->out), text);
    assert_int_equal(w->json_bytes, 0);
}

static void every_dtype(void **state)
{
    (void)state;
    static const struct {
        enum dtype t;
        int64_t n;
        size_t len;
        const char *bytes;
        const char *json;
    } cases[] = {
        {DTYPE_BOOL, 3, BYTES_OF("\0\1\7"), "false,true,true"},
        {DTYPE_UINT8, 2, BYTES_OF("\0\xff"), "0,255"},
        {DTYPE_INT8, 2, BYTES_OF("\x80\x7f"), "-128,127"},
        {DTYPE_UINT16, 2, BYTES_OF("\xff\xff\2\1"), "65535,258"},
        {DTYPE_INT16, 2, BYTES_OF("\0\x80\xff\x7f"), "-32768,32767"},
        {DTYPE_UINT32, 1, BYTES_OF("\xff\xff\xff\xff"), "4294967295"},
        {DTYPE_INT32, 2, BYTES_OF("\0\0\0\x80\xff\xff\xff\xff"), "-2147483648,-1"},
        {DTYPE_UINT64, 1, BYTES_OF("\xff\xff\xff\xff\xff\xff\xff\xff"), "18446744073709551615"},
        {DTYPE_INT64, 1, BYTES_OF("\0\0\0\0\0\0\0\x80"), "-9223372036854775808"},
        {DTYPE_FP16, 4, BYTES_OF("\0\x3c\0\xc1\0\x7c\1\x7e"), "1.0,-2.5,null,null"},
        {DTYPE_BF16, 3, BYTES_OF("\x80\x3f\x20\xc0\x80\xff"), "1.0,-2.5,null"},
        {DTYPE_FP32, 5, BYTES_OF("\0\0\x80\x3f\xcd\xcc\xcc\x3d\0\0\xc0\x7f\0\0\x80\x7f\0\0\x80\xff"),
         "1.0,0.1,null,null,null"},
        {DTYPE_FP64, 3, BYTES_OF("\x9a\x99\x99\x99\x99\x99\xb9\x3f\0\0\0\0\0\0\xf0\x7f\0\0\0\0\0\0\xf8\x7f"),
         "0.1,null,null"},
        {DTYPE_BYTES, 4, BYTES_OF("\0\0\0\0\2\0\0\0a\"\2\0\0\0\xc3\xa9\3\0\0\0\n\xff\0"),
         "\"\",\"a\\\"\",\"\xc3\xa9\",\"\\n\xef\xbf\xbd\\u0000\""},
        {DTYPE_INT8, 0, BYTES_OF(""), ""},
        {DTYPE_BYTES, 0, BYTES_OF(""), ""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct tensor_info y = {"y", (uint8_t)cases[i].t, 1, {-1}};
        struct model_info model = {.n_out = 1, .out = &y};
        uint8_t *base = malloc(cases[i].len + 3);
        memcpy(base + 3, cases[i].bytes, cases[i].len);
        struct tensor t = {.dtype = (uint8_t)cases[i].t, .rank = 1, .dim = {cases[i].n}, .off = 3, .len = cases[i].len};
        struct replying w;
        replying_init(&w, &model, &t, 1, base, cases[i].len + 3);
        char *text = xasprintf(HEAD "{\"name\":\"y\",\"datatype\":\"%s\",\"shape\":[%d],\"data\":[%s]}]}",
                               dtype_name(cases[i].t), (int)cases[i].n, cases[i].json);
        gives(&w, text);
        free(text);
        /* The same as bytes. */
        w.r.binary_output = true;
        assert_int_equal(replying_go(&w), ERR_OK);
        text = xasprintf(
            HEAD "{\"name\":\"y\",\"datatype\":\"%s\",\"shape\":[%d],\"parameters\":{\"binary_data_size\":%zu}}]}",
            dtype_name(cases[i].t), (int)cases[i].n, cases[i].len);
        assert_int_equal(w.json_bytes, strlen(text));
        assert_int_equal(w.out.n, strlen(text) + cases[i].len);
        assert_memory_equal(w.out.p, text, strlen(text));
        assert_memory_equal(w.out.p + strlen(text), cases[i].bytes, cases[i].len);
        free(text);
        buf_done(&w.out);
        free(base);
    }
}

static struct tensor_info three_out[] = {
    {"a", DTYPE_INT8, 1, {-1}}, {"b", DTYPE_INT8, 2, {-1, 1}}, {"c", DTYPE_BYTES, 0, {0}}};
MODEL(three, 0, NULL, 3, three_out);
/* As an engine may order them. */
static const struct tensor three_t[] = {{.port = 2, .dtype = DTYPE_BYTES, .off = 3, .len = 6},
                                        {.port = 0, .dtype = DTYPE_INT8, .rank = 1, .dim = {2}, .off = 0, .len = 2},
                                        {.port = 1, .dtype = DTYPE_INT8, .rank = 2, .dim = {1, 1}, .off = 2, .len = 1}};
static const char three_base[] = "\1\2\3\2\0\0\0hi";

#define A_JSON "{\"name\":\"a\",\"datatype\":\"INT8\",\"shape\":[2],\"data\":[1,2]}"
#define B_JSON "{\"name\":\"b\",\"datatype\":\"INT8\",\"shape\":[1,1],\"data\":[3]}"
#define C_JSON "{\"name\":\"c\",\"datatype\":\"BYTES\",\"shape\":[],\"data\":[\"hi\"]}"
#define A_BIN "{\"name\":\"a\",\"datatype\":\"INT8\",\"shape\":[2],\"parameters\":{\"binary_data_size\":2}}"
#define B_BIN "{\"name\":\"b\",\"datatype\":\"INT8\",\"shape\":[1,1],\"parameters\":{\"binary_data_size\":1}}"
#define C_BIN "{\"name\":\"c\",\"datatype\":\"BYTES\",\"shape\":[],\"parameters\":{\"binary_data_size\":6}}"

static void which_outputs(void **state)
{
    (void)state;
    struct replying w;
    struct oip_output asked[] = {{.name = STR("c"), .binary = -1, .port = 2},
                                 {.name = STR("a"), .binary = 1, .port = 0},
                                 {.name = STR("b"), .binary = 0, .port = 1}};
    replying_init(&w, &three, three_t, 3, three_base, 9);
    gives(&w, HEAD A_JSON "," B_JSON "," C_JSON "]}");
    w.reply.id = STR("q\"1");
    gives(&w, "{\"model_name\":\"m\",\"model_version\":\"3\",\"id\":\"q\\\"1\",\"outputs\":[" A_JSON "," B_JSON
              "," C_JSON "]}");
    w.reply.id = (struct str){0};

    static const struct {
        bool request, raw;
        uint32_t n;
        const char *json, *tail;
    } cases[] = {
        {true, false, 0, HEAD A_BIN "," B_BIN "," C_BIN "]}", "\1\2\3\2\0\0\0hi"},
        {false, true, 0, HEAD A_BIN "," B_BIN "," C_BIN "]}", "\1\2\3\2\0\0\0hi"},
        {false, false, 3, HEAD C_JSON "," A_BIN "," B_JSON "]}", "\1\2"},
        {true, false, 3, HEAD C_BIN "," A_BIN "," B_JSON "]}", "\2\0\0\0hi\1\2"},
        {true, false, 1, HEAD C_BIN "]}", "\2\0\0\0hi"},
    };
    static const size_t tails[] = {9, 9, 2, 8, 6};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        w.r.binary_output = cases[i].request;
        w.r.raw = cases[i].raw;
        w.r.out = asked;
        w.r.n_out = cases[i].n;
        assert_int_equal(replying_go(&w), ERR_OK);
        assert_int_equal(w.json_bytes, strlen(cases[i].json));
        assert_int_equal(w.out.n, w.json_bytes + tails[i]);
        assert_memory_equal(w.out.p, cases[i].json, w.json_bytes);
        assert_memory_equal(w.out.p + w.json_bytes, cases[i].tail, tails[i]);
    }
    buf_done(&w.out);
}

/* ---- classification ---- */

static void classes_of(struct replying *w, enum dtype t, const char *shape, const char *elements)
{
    char *text =
        xasprintf(HEAD "{\"name\":\"y\",\"datatype\":\"BYTES\",\"shape\":%s,\"data\":[%s]}]}", shape, elements);
    w->reply.info->out[0].dtype = (uint8_t)t;
    gives(w, text);
    free(text);
}

static void classification(void **state)
{
    (void)state;
    static struct tensor_info y = {"y", DTYPE_FP32, 2, {-1, -1}};
    struct model_info model = {.n_out = 1, .out = &y};
    static const float f[] = {0.1f, 0.7f, -1.5f, 0.7f, NAN, INFINITY, -INFINITY, 2};
    struct oip_output asked = {.name = STR("y"), .binary = -1, .classes = 2};
    struct tensor t = {.dtype = DTYPE_FP32, .rank = 2, .dim = {2, 4}, .len = sizeof(f)};
    struct replying w;
    replying_init(&w, &model, &t, 1, f, sizeof(f));
    w.r.out = &asked;
    w.r.n_out = 1;
    classes_of(&w, DTYPE_FP32, "[2,2]", "\"0.700000:1\",\"0.700000:3\",\"inf:1\",\"2.000000:3\"");
    static const char *const labels[] = {"cat", NULL, "", "d\"g"};
    w.reply.labels = labels;
    w.reply.n_labels = 4;
    asked.classes = 4294967295u;
    classes_of(&w, DTYPE_FP32, "[2,4]",
               "\"0.700000:1\",\"0.700000:3:d\\\"g\",\"0.100000:0:cat\",\"-1.500000:2\","
               "\"inf:1\",\"2.000000:3:d\\\"g\",\"-inf:2\",\"nan:0:cat\"");
    w.reply.n_labels = 1;
    asked.classes = 1;
    classes_of(&w, DTYPE_FP32, "[2,1]", "\"0.700000:1\",\"inf:1\"");
    asked.binary = 1;
    assert_int_equal(replying_go(&w), ERR_OK);
    const char json[] =
        HEAD "{\"name\":\"y\",\"datatype\":\"BYTES\",\"shape\":[2,1],\"parameters\":{\"binary_data_size\":23}}]}";
    assert_int_equal(w.json_bytes, sizeof(json) - 1);
    assert_memory_equal(w.out.p, json, sizeof(json) - 1);
    assert_int_equal(w.out.n, w.json_bytes + 23);
    assert_memory_equal(w.out.p + w.json_bytes,
                        "\xa\0\0\0"
                        "0.700000:1\5\0\0\0inf:1",
                        23);
    asked.binary = -1;
    asked.classes = 3;

    w.reply.labels = NULL;
    static const int8_t i8[] = {-128, 127, 0, -1};
    t = (struct tensor){.dtype = DTYPE_INT8, .rank = 1, .dim = {4}, .len = 4};
    w.res.base = (const uint8_t *)i8;
    w.res.size = 4;
    classes_of(&w, DTYPE_INT8, "[3]", "\"127:1\",\"0:2\",\"-1:3\"");
    static const uint64_t u64[] = {UINT64_MAX - 1, UINT64_MAX, 1ull << 53, (1ull << 53) + 1};
    t = (struct tensor){.dtype = DTYPE_UINT64, .rank = 1, .dim = {4}, .len = 32};
    w.res.base = (const uint8_t *)u64;
    w.res.size = 32;
    classes_of(&w, DTYPE_UINT64, "[3]", "\"18446744073709551615:1\",\"18446744073709551614:0\",\"9007199254740993:3\"");
    static const uint16_t half[] = {0x3c00, 0xc100, 0x7bff};
    t = (struct tensor){.dtype = DTYPE_FP16, .rank = 1, .dim = {3}, .len = 6};
    w.res.base = (const uint8_t *)half;
    w.res.size = 6;
    classes_of(&w, DTYPE_FP16, "[3]", "\"65504.000000:2\",\"1.000000:0\",\"-2.500000:1\"");
    static const double d[] = {-1.7976931348623157e308, 5e-324, -5e-324};
    t = (struct tensor){.dtype = DTYPE_FP64, .rank = 1, .dim = {3}, .len = 24};
    w.res.base = (const uint8_t *)d;
    w.res.size = 24;
    asked.classes = 2;
    classes_of(&w, DTYPE_FP64, "[2]", "\"0.000000:1\",\"-0.000000:2\"");
    asked.classes = 3;
    assert_int_equal(replying_go(&w), ERR_OK); /* 317 characters of value */
    t = (struct tensor){.dtype = DTYPE_FP64, .rank = 2, .dim = {2, 0}};
    classes_of(&w, DTYPE_FP64, "[2,0]", "");
    t = (struct tensor){.dtype = DTYPE_FP64, .rank = 2, .dim = {0, 2}};
    classes_of(&w, DTYPE_FP64, "[0,2]", "");
    t = (struct tensor){.dtype = DTYPE_FP64, .rank = 0, .len = 8};
    assert_int_equal(replying_go(&w), ERR_MODEL);
    assert_string_equal(w.e.text, "the model's output 'y' has no dimension to classify along");
    buf_done(&w.out);
}

static int by_value(const void *a, const void *b)
{
    const int16_t *x = *(const int16_t *const *)a, *y = *(const int16_t *const *)b;
    return *x != *y ? *y - *x : (x > y) - (x < y);
}

/* The heap against a sort, many times, with many ties. */
static void classification_sorted(void **state)
{
    (void)state;
    static struct tensor_info y = {"y", DTYPE_INT16, 1, {-1}};
    MODEL(model, 0, NULL, 1, &y);
    for (int round = 0; round < 300; round++) {
        int16_t v[64];
        const int16_t *order[64];
        size_t width = 1 + random_u64() % 64, n = 1 + random_u64() % width;
        struct buf want;
        buf_init(&want, 1 << 16);
        for (size_t i = 0; i < width; i++) {
            v[i] = (int16_t)(random_u64() % (round % 2 ? 8 : 65536));
            order[i] = &v[i];
        }
        qsort(order, width, sizeof(order[0]), by_value);
        for (size_t i = 0; i < n; i++) {
            buf_addf(&want, "%s\"%d:%d\"", i ? "," : "", *order[i], (int)(order[i] - v));
        }
        struct tensor t = {.dtype = DTYPE_INT16, .rank = 1, .dim = {(int64_t)width}, .len = 2 * width};
        struct oip_output asked = {.name = STR("y"), .binary = -1, .classes = (uint32_t)n};
        struct replying w;
        replying_init(&w, &model, &t, 1, v, sizeof(v));
        w.r.out = &asked;
        w.r.n_out = 1;
        assert_int_equal(replying_go(&w), ERR_OK);
        assert_non_null(strstr(buf_z(&w.out), buf_z(&want)));
        buf_done(&want);
        buf_done(&w.out);
    }
}

/* ---- results that are broken ---- */

static void broken(void **state)
{
    (void)state;
    static struct tensor_info out[] = {{"y", DTYPE_FP32, 1, {-1}}, {"t", DTYPE_BYTES, 1, {-1}}};
    MODEL(model, 0, NULL, 2, out);
    static const struct tensor good[] = {{.port = 0, .dtype = DTYPE_FP32, .rank = 1, .dim = {2}, .off = 0, .len = 8},
                                         {.port = 1, .dtype = DTYPE_BYTES, .rank = 1, .dim = {2}, .off = 8, .len = 10}};
    static const struct {
        unsigned which;
        struct tensor t;
        const char *text;
    } cases[] = {
        {0, {.port = 5, .dtype = DTYPE_FP32, .rank = 1, .dim = {2}, .len = 8}, "'y' is missing in its result"},
        {0, {.dtype = DTYPE_INT32, .rank = 1, .dim = {2}, .len = 8}, "'y' is INT32, declared as FP32"},
        {0, {.dtype = 200, .rank = 1, .dim = {2}, .len = 8}, "'y' is ?, declared as FP32"},
        {0, {.dtype = DTYPE_FP32, .rank = 9, .dim = {2}, .len = 8}, "'y' has an impossible shape"},
        {0, {.dtype = DTYPE_FP32, .rank = 1, .dim = {-2}, .len = 8}, "'y' has an impossible shape"},
        {0, {.dtype = DTYPE_FP32, .rank = 2, .dim = {1ll << 31, 1ll << 31}, .len = 8}, "'y' has an impossible shape"},
        {0, {.dtype = DTYPE_FP32, .rank = 1, .dim = {2}, .off = 12, .len = 8}, "'y' lies outside of its result"},
        {0,
         {.dtype = DTYPE_FP32, .rank = 1, .dim = {2}, .off = UINT64_MAX, .len = 8},
         "'y' lies outside of its result"},
        {0,
         {.dtype = DTYPE_FP32, .rank = 1, .dim = {2}, .off = 8, .len = UINT64_MAX},
         "'y' lies outside of its result"},
        {0, {.dtype = DTYPE_FP32, .rank = 1, .dim = {3}, .len = 8}, "'y' has another length than its shape"},
        {0, {.dtype = DTYPE_FP32, .rank = 1, .dim = {0}, .len = 8}, "'y' has another length than its shape"},
        {1,
         {.port = 1, .dtype = DTYPE_BYTES, .rank = 1, .dim = {3}, .off = 8, .len = 10},
         "'t' has a length that leads out of it"},
        {1,
         {.port = 1, .dtype = DTYPE_BYTES, .rank = 1, .dim = {1}, .off = 8, .len = 10},
         "'t' has a length that leads out of it"},
        {1,
         {.port = 1, .dtype = DTYPE_BYTES, .rank = 1, .dim = {2}, .off = 8, .len = 9},
         "'t' has a length that leads out of it"},
        {1,
         {.port = 1, .dtype = DTYPE_BYTES, .rank = 1, .dim = {1ll << 31}, .off = 8, .len = 10},
         "'t' has a length that leads out of it"},
        {1,
         {.port = 1, .dtype = DTYPE_BYTES, .rank = 1, .dim = {1}, .off = 0, .len = 8},
         "'t' has a length that leads out of it"},
    };
    static const char base[] = "\xff\xff\xff\xff\0\0\0\0\1\0\0\0a\1\0\0\0b";
    uint8_t *heap = malloc(18);
    memcpy(heap, base, 18);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        for (int binary = 0; binary < 2; binary++) {
            struct tensor t[2] = {good[0], good[1]};
            struct replying w;
            replying_init(&w, &model, t, 2, heap, 18);
            w.r.binary_output = binary;
            assert_int_equal(replying_go(&w), ERR_OK);
            t[cases[i].which] = cases[i].t;
            assert_int_equal(replying_go(&w), ERR_MODEL);
            char text[200];
            snprintf(text, sizeof(text), "the model's output %s", cases[i].text);
            assert_string_equal(w.e.text, text);
            buf_done(&w.out);
        }
    }
    free(heap);
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define UNDER_TSAN
#endif

/* A worker that goes on writing while its result is read. */
static _Atomic bool scribbling;

static void *scribble(void *arg)
{
    volatile uint8_t *p = arg;
    for (unsigned k = 0; scribbling; k++) {
        p[k % 4096] = "\0\1\2\"\\\xff\x7f}"[k / 4096 % 8];
        p[(k * 16) % 4096 + 1] = 0;
        p[(k * 16) % 4096 + 2] = 0;
        p[(k * 16) % 4096 + 3] = 0;
    }
    return NULL;
}

static void hostile(void **state)
{
    (void)state;
#ifdef UNDER_TSAN
    skip(); /* the race is the point */
#endif
    static struct tensor_info out[] = {
        {"t", DTYPE_BYTES, 1, {-1}}, {"y", DTYPE_FP32, 1, {-1}}, {"o", DTYPE_BOOL, 1, {-1}}};
    MODEL(model, 0, NULL, 3, out);
    struct oip_output asked[] = {{.binary = -1, .port = 0}, {.binary = -1, .port = 1}, {.binary = -1, .port = 2}};
    uint8_t *heap = calloc(1, 4096);
    struct tensor t[3] = {{.port = 0, .dtype = DTYPE_BYTES, .rank = 1, .dim = {256}, .len = 4096},
                          {.port = 1, .dtype = DTYPE_FP32, .rank = 1, .dim = {1024}, .len = 4096},
                          {.port = 2, .dtype = DTYPE_BOOL, .rank = 1, .dim = {4096}, .len = 4096}};
    pthread_t thread;
    scribbling = true;
    assert_int_equal(pthread_create(&thread, NULL, scribble, heap), 0);
    struct replying w;
    replying_init(&w, &model, t, 3, heap, 4096);
    unsigned written = 0, refused = 0;
    for (int i = 0; i < 1500; i++) {
        w.r.out = asked + (i % 4 != 0); /* all; or without the one of BYTES */
        w.r.n_out = 3 - (i % 4 != 0);
        asked[1].classes = i % 8 == 1 ? 3 : 0;
        w.r.binary_output = i % 3 == 0;
        for (int k = 0; k < 256; k++) {
            memcpy(heap + k * 16, "\x0c\0\0\0", 4);
        }
        enum err_code code = replying_go(&w);
        assert_true(code == ERR_OK || code == ERR_MODEL);
        written += code == ERR_OK;
        refused += code == ERR_MODEL;
        if (code == ERR_OK) {
            /* What went out is well-formed, whatever the worker did. */
            struct json_reader j;
            json_reader_init(&j, (struct str){w.out.p, w.json_bytes ? w.json_bytes : w.out.n});
            json_next(&j);
            assert_true(json_skip(&j) && json_next(&j) == JSON_END);
        }
    }
    scribbling = false;
    pthread_join(thread, NULL);
    assert_true(written >= 1125 && written + refused == 1500);
    buf_done(&w.out);
    free(heap);
}

static void too_large(void **state)
{
    (void)state;
    struct replying w;
    size_t need[2];
    for (size_t binary = 0; binary < 2; binary++) {
        replying_init(&w, &three, three_t, 3, three_base, 9);
        w.r.binary_output = binary;
        assert_int_equal(replying_go(&w), ERR_OK);
        need[binary] = w.out.n;
        assert_in_range(need[binary], 150, 350);
        buf_done(&w.out);
    }
    for (size_t max = 0; max < 400; max++) {
        replying_init(&w, &three, three_t, 3, three_base, 9);
        buf_init(&w.out, max);
        w.r.binary_output = max % 2;
        enum err_code code = oip_write(&w.out, &w.r, &w.reply, &w.res, &w.json_bytes, &w.e);
        if (code) {
            char text[200];
            snprintf(text, sizeof(text), "the reply is larger than %zu bytes; ask for fewer outputs or for binary data",
                     max);
            assert_int_equal(code, ERR_REFUSED);
            assert_string_equal(w.e.text, text);
            assert_int_equal(w.json_bytes, 77);
        }
        assert_int_equal(code == ERR_OK, max >= need[max % 2]);
        buf_done(&w.out);
    }
}

/* ---- there and back ---- */

static void random_tensor(struct buf *b, enum dtype t, uint64_t n)
{
    uint32_t size = dtype_size(t);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = random_u64();
        if (t == DTYPE_BYTES) {
            /* ASCII with everything that needs an escape, and some characters of more bytes. */
            static const char *const parts[] = {
                "a", "\"", "\\", "\n", "\x01", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "]", "plain text"};
            uint32_t at = (uint32_t)b->n, length = 0;
            buf_add(b, &length, 4);
            for (unsigned k = v % 12; k > 0; k--) {
                buf_addz(b, parts[random_u64() % COUNT_OF(parts)]);
            }
            length = (uint32_t)b->n - at - 4;
            memcpy(b->p + at, &length, 4);
            continue;
        }
        if (t == DTYPE_BOOL) {
            v &= 1;
        } else if (t == DTYPE_FP16) {
            v = (v & 0x7c00) == 0x7c00 ? v & ~0x400ull : v;
        } else if (t == DTYPE_BF16) {
            v = (v & 0x7f80) == 0x7f80 ? v & ~0x80ull : v;
        } else if (t == DTYPE_FP32) {
            v = (v & 0x7f800000) == 0x7f800000 ? v & ~0x800000ull : v;
        } else if (t == DTYPE_FP64) {
            v = (v & 0x7ff0000000000000) == 0x7ff0000000000000 ? v & ~0x10000000000000ull : v;
        }
        buf_add(b, &v, size);
    }
}

static void there_and_back(void **state)
{
    (void)state;
    struct oip_case c = {0};
    for (int t = DTYPE_NONE + 1; t < DTYPE_COUNT_; t++) {
        for (int round = 0; round < 60; round++) {
            struct tensor_info info = {.name = "x", .dtype = (uint8_t)t, .rank = (uint8_t)(random_u64() % 5)};
            struct tensor tensor = {.dtype = (uint8_t)t, .rank = info.rank};
            uint64_t n = 1;
            for (unsigned d = 0; d < info.rank; d++) {
                info.dim[d] = -1;
                tensor.dim[d] = (int64_t)(random_u64() % 6);
                n *= (uint64_t)tensor.dim[d];
            }
            struct buf bytes;
            buf_init(&bytes, 1 << 20);
            (void)!buf_room(&bytes, 1);
            random_tensor(&bytes, (enum dtype)t, n);
            tensor.len = bytes.n;
            struct model_info model = {.n_in = 1, .n_out = 1, .in = &info, .out = &info};
            struct replying w;
            replying_init(&w, &model, &tensor, 1, bytes.p, bytes.n);
            assert_int_equal(replying_go(&w), ERR_OK);
            /* What came out as an output goes in as an input. */
            char *json = xasprintf("{\"inputs\":%s", strstr(buf_z(&w.out), "\"outputs\":") + 10);
            if (case_all(&c, json, &model)) {
                fail_msg("%s: %s", json, c.e.text);
            }
            assert_int_equal(c.block->in[0].len, bytes.n);
            assert_memory_equal(case_data(&c, 0), bytes.p, bytes.n);
            assert_memory_equal(c.block->in[0].dim, tensor.dim, sizeof(tensor.dim));
            free(json);
            buf_done(&w.out);
            buf_done(&bytes);
        }
    }
    case_done(&c);
}

static void metadata(void **state)
{
    (void)state;
    static struct tensor_info in[] = {{"x\"1", DTYPE_FP32, 2, {-1, 16}}, {"s", DTYPE_BYTES, 0, {0}}},
                              out[] = {{"y", DTYPE_INT64, 1, {-1}}};
    MODEL(model, 2, in, 1, out);
    struct buf b;
    buf_init(&b, 1 << 16);
    oip_server_metadata(&b, "0.1.0");
    assert_string_equal(buf_z(&b), "{\"name\":\"weir\",\"version\":\"0.1.0\",\"extensions\":[\"binary_tensor_data\","
                                   "\"classification\",\"parameters\"]}");
    buf_clear(&b);
    oip_model_metadata(&b, STR("m\n"), (int64_t[]){1, 12}, 2, &model);
    assert_string_equal(buf_z(&b), "{\"name\":\"m\\n\",\"versions\":[\"1\",\"12\"],\"platform\":\"onnxruntime_onnx\","
                                   "\"inputs\":[{\"name\":\"x\\\"1\",\"datatype\":\"FP32\",\"shape\":[-1,16]},{"
                                   "\"name\":\"s\",\"datatype\":\"BYTES\",\"shape\":[]}],"
                                   "\"outputs\":[{\"name\":\"y\",\"datatype\":\"INT64\",\"shape\":[-1]}]}");
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype),    cmocka_unit_test(which_outputs),
        cmocka_unit_test(classification), cmocka_unit_test(classification_sorted),
        cmocka_unit_test(broken),         cmocka_unit_test(hostile),
        cmocka_unit_test(too_large),      cmocka_unit_test(there_and_back),
        cmocka_unit_test(metadata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
