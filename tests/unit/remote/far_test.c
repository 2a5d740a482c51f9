/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs as requests, and replies as tensors: every byte of one, every kind of number of the other, and replies that were
 * changed by chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "backends/remote/far.h"
#include "base/hash.h"

#define SPACE 4096

static const struct far far = {"far:80", "add", "7"};

static _Alignas(struct job_block) uint8_t job_bytes[sizeof(struct job_block) + 2 * sizeof(struct tensor)];
static struct job_block *const job = (void *)job_bytes;

/* A model with the input x FP32 [-1,2], and an output of each name and dtype. */
static struct model_info model(const char *name, enum dtype dtype)
{
    static struct tensor_info in = {.name = "x", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 2}}, out[2];

    memset(out, 0, sizeof out);
    snprintf(out[0].name, sizeof out[0].name, "%s", name);
    snprintf(out[1].name, sizeof out[1].name, "z");
    out[0].dtype = (uint8_t)dtype;
    out[1].dtype = DTYPE_FP32;
    return (struct model_info){.n_in = 1, .n_out = 1, .in = &in, .out = out};
}

static enum err_code read_reply(struct http_answer *a, const struct model_info *info, uint8_t *space, struct tensor *t,
                                struct err *e)
{
    uint32_t n = 99;
    enum err_code code = far_outputs(a, info, job, space, SPACE, t, &n, e);

    assert_true(code == ERR_OK ? n == info->n_out : code == ERR_MODEL && e->text[0]);
    return code;
}

static void a_request(void **state)
{
    static _Alignas(8) uint8_t window[64] = "0123456789abcdef";
    const struct model_info info = model("y", DTYPE_FP32);
    struct iovec iov[3];
    struct buf head;

    (void)state;
    memset(job_bytes, 0, sizeof job_bytes);
    job->n_in = 1;
    job->in[0] = (struct tensor){.dtype = DTYPE_FP32, .rank = 2, .dim = {1, 2}, .off = 8, .len = 8};
    buf_init(&head, 1 << 16);
    assert_int_equal(far_request(&head, iov, &far, &info, job, window, 0), 2);
    assert_int_equal(iov[0].iov_len, head.n);
    assert_ptr_equal(iov[1].iov_base, window + 8);
    assert_int_equal(iov[1].iov_len, 8);
    assert_string_equal(
        buf_z(&head), "POST /v2/models/add/versions/7/infer HTTP/1.1\r\nHost: far:80\r\nUser-Agent: weir/" WEIR_VERSION
                      "\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: 134\r\n"
                      "Content-Length: 142\r\n\r\n"
                      "{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\","
                      "\"shape\":[1,2],\"parameters\":{\"binary_data_size\":8}}]}");
    job->n_out = 1;
    job->in[0].len = 0; /* nothing to send of it */
    job_block_want(job)[0] = 0;
    assert_int_equal(far_request(&head, iov, &(struct far){"h", "m", ""}, &info, job, window, 1500), 1);
    assert_non_null(strstr(buf_z(&head), "POST /v2/models/m/infer HTTP/1.1\r\n"));
    assert_non_null(strstr(buf_z(&head), "\r\nX-Weir-Timeout: 1500us\r\n\r\n{\"parameters\":{"));
    assert_non_null(strstr(buf_z(&head), ",\"timeout\":1500}"));
    assert_non_null(strstr(buf_z(&head), ",\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":true}}]}"));
    buf_done(&head);
    memset(job_bytes, 0, sizeof job_bytes);
}

static void numbers_as_json(void **state)
{
    static const struct {
        enum dtype dtype;
        const char *data;
        bool ok;
    } rows[] = {
        {DTYPE_BOOL, "true", true},
        {DTYPE_BOOL, "0", true},
        {DTYPE_BOOL, "2", false},
        {DTYPE_BOOL, "\"true\"", false},
        {DTYPE_UINT8, "255", true},
        {DTYPE_UINT8, "256", false},
        {DTYPE_UINT8, "-1", false},
        {DTYPE_INT8, "127", true},
        {DTYPE_INT8, "128", false},
        {DTYPE_INT8, "-128", true},
        {DTYPE_INT8, "-129", false},
        {DTYPE_UINT16, "65536", false},
        {DTYPE_INT32, "-2147483648", true},
        {DTYPE_INT32, "2147483648", false},
        {DTYPE_INT64, "9223372036854775807", true},
        {DTYPE_INT64, "9223372036854775808", false},
        {DTYPE_INT64, "-9223372036854775808", true},
        {DTYPE_UINT64, "18446744073709551615", true},
        {DTYPE_INT64, "1.0", false},
        {DTYPE_FP32, "1", true},
        {DTYPE_FP64, "-2.5e300", true},
        {DTYPE_FP32, "true", false},
        {DTYPE_FP16, "1.0", false},
        {DTYPE_BYTES, "\"a\\u0000b\"", true},
        {DTYPE_BYTES, "1", false},
    };
    uint8_t space[SPACE];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct model_info info = model("y", rows[i].dtype);
        struct http_answer a;
        struct tensor t;
        struct err e;

        http_answer_init(&a, 1 << 16);
        buf_addf(&a.body, "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"%s\",\"shape\":[1],\"data\":[%s]}]}",
                 dtype_name(rows[i].dtype), rows[i].data);
        if ((read_reply(&a, &info, space, &t, &e) == ERR_OK) != rows[i].ok) {
            fail_msg("%s %s: %s", dtype_name(rows[i].dtype), rows[i].data, rows[i].ok ? e.text : "taken");
        }
        if (rows[i].ok && rows[i].dtype == DTYPE_BYTES) {
            assert_int_equal(t.len, 7);
            assert_memory_equal(space + t.off, "\3\0\0\0a\0b", 7);
        }
        http_answer_done(&a);
    }
}

static void more_than_the_space(void **state)
{
    const struct model_info info = model("y", DTYPE_FP64);
    uint8_t space[SPACE];
    struct http_answer a;
    struct tensor t;
    struct err e;

    (void)state;
    http_answer_init(&a, 1 << 16);
    BUF_LIT(&a.body, "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP64\",\"shape\":[513],"
                     "\"parameters\":{\"binary_data_size\":4104}}]}");
    buf_addf(&a.head, "inference-header-content-length:%zu\n", a.body.n);
    for (unsigned i = 0; i < 513; i++) {
        buf_add(&a.body, "\0\0\0\0\0\0\0", 8);
    }
    assert_int_equal(read_reply(&a, &info, space, &t, &e), ERR_MODEL);
    assert_non_null(strstr(e.text, "larger than output_bytes"));
    http_answer_done(&a);
}

/* Whatever comes, nothing is read or written where it must not be: the sanitizers look on. */
static void changed_by_chance(void **state)
{
    static const char json[] = "{\"outputs\":[{\"name\":\"y\",\"datatype\":\"BYTES\",\"shape\":[2],\"parameters\":"
                               "{\"binary_data_size\":12}},{\"name\":\"z\",\"datatype\":\"FP32\",\"shape\":[1,2],"
                               "\"parameters\":{\"binary_data_size\":8}}]}";
    struct model_info info = model("y", DTYPE_BYTES);
    unsigned right = 0;

    (void)state;
    info.n_out = 2;
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t *space = xmalloc(SPACE);
        struct tensor t[2];
        struct http_answer a;
        struct err e;

        http_answer_init(&a, 1 << 16);
        buf_addf(&a.head, "inference-header-content-length:%zu\n", sizeof json - 1);
        buf_add(&a.body, json, sizeof json - 1);
        buf_add(&a.body, "\2\0\0\0ab\2\0\0\0cd12345678", 20);
        for (unsigned k = 0; k < i % 4; k++) {
            a.body.p[random_u64() % a.body.n] = (char)random_u64();
        }
        a.body.n -= i % 7 == 6 ? random_u64() % a.body.n : 0;
        right += read_reply(&a, &info, space, t, &e) == ERR_OK;
        http_answer_done(&a);
        free(space);
    }
    assert_in_range(right, 4000, 12000); /* those that were left alone, and some whose data alone were changed */
}

static void errors(void **state)
{
    struct http_answer a;
    struct err e;

    (void)state;
    http_answer_init(&a, 1 << 16);
    a.status = 500;
    assert_int_equal(far_error(&a, "it", &e), ERR_MODEL);
    assert_string_equal(e.text, "it answered 500");
    BUF_LIT(&a.head, "x-weir-error:internal\nretry-after:7\n");
    BUF_LIT(&a.body, "{\"detail\":\"a\\tb\"}");
    assert_int_equal(far_error(&a, "it", &e), ERR_INTERNAL);
    assert_string_equal(e.text, "it answered 500: a b");
    assert_int_equal(far_retry_after(&a), 7);
    buf_clear(&a.head);
    BUF_LIT(&a.head, "x-weir-error:ok\nretry-after:-1\n");
    assert_int_equal(far_error(&a, "it", &e), ERR_MODEL);
    assert_int_equal(far_retry_after(&a), 0);
    a.status = 302;
    assert_int_equal(far_error(&a, "it", &e), ERR_MODEL);
    http_answer_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request),         cmocka_unit_test(numbers_as_json), cmocka_unit_test(more_than_the_space),
        cmocka_unit_test(changed_by_chance), cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
