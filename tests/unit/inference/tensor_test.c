/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors described: names, shape arithmetic at its borders, BYTES walks, and the flat form of a model's description
 * under every truncation and every changed byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/buf.h"
#include "inference/tensor.h"

static void names_and_sizes(void **state)
{
    (void)state;
    assert_string_equal(dtype_name(DTYPE_FP32), "FP32");
    assert_string_equal(dtype_name(DTYPE_BYTES), "BYTES");
    assert_string_equal(dtype_name(DTYPE_NONE), "?");
    assert_string_equal(dtype_name((enum dtype)200), "?");
    for (unsigned t = DTYPE_NONE + 1; t < DTYPE_COUNT_; t++) {
        assert_int_equal(dtype_parse(str_of(dtype_name((enum dtype)t))), t);
    }
    assert_int_equal(dtype_parse(STR("fp32")), DTYPE_NONE);
    assert_int_equal(dtype_parse(STR("FP3")), DTYPE_NONE);
    assert_int_equal(dtype_parse(STR("")), DTYPE_NONE);
    assert_int_equal(dtype_size(DTYPE_BF16), 2);
    assert_int_equal(dtype_size(DTYPE_BOOL), 1);
    assert_int_equal(dtype_size(DTYPE_UINT64), 8);
    assert_int_equal(dtype_size(DTYPE_BYTES), 0);
}

static void elements(void **state)
{
    static const struct {
        int64_t dim[TENSOR_RANK_MAX];
        unsigned rank;
        bool ok;
        uint64_t n;
    } rows[] = {
        {{0}, 0, true, 1},
        {{3, 4}, 2, true, 12},
        {{0, 5}, 2, true, 0},
        {{-1}, 1, false, 0},
        {{4, -1}, 2, false, 0},
        {{0, -1}, 2, false, 0},
        {{1ll << 31}, 1, true, 1ull << 31},
        {{(1ll << 31) + 1}, 1, false, 0},
        {{1ll << 24, 1ll << 24}, 2, true, 1ull << 48},
        {{1ll << 24, 1ll << 24, 2}, 3, false, 0},
        {{1ll << 31, 1ll << 31, 1ll << 31, 4}, 4, false, 0},         /* 2^95 */
        {{1ll << 16, 1ll << 16, 1ll << 16, 1ll << 16}, 4, false, 0}, /* 2^64 wraps to 0 */
        {{0, 1ll << 31, 1ll << 31}, 3, false, 0},                    /* empty, but its strides overflow */
        {{INT64_MAX, 1}, 2, false, 0},
        {{INT64_MIN, 1}, 2, false, 0},
        {{1, 1, 1, 1, 1, 1, 1, 1}, 8, true, 1},
        {{1, 1, 1, 1, 1, 1, 1, 1}, 9, false, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint64_t n = 77;
        bool ok = tensor_elements(rows[i].dim, rows[i].rank, &n);
        if (ok != rows[i].ok || n != (rows[i].ok ? rows[i].n : 77)) {
            fail_msg("row %zu: ok %d, n %llu", i, ok, (unsigned long long)n);
        }
    }
}

static void fits(void **state)
{
    struct tensor_info t = {.rank = 2, .dim = {-1, 16}};

    (void)state;
    assert_true(tensor_fits(&t, (int64_t[]){7, 16}, 2));
    assert_true(tensor_fits(&t, (int64_t[]){0, 16}, 2));
    assert_false(tensor_fits(&t, (int64_t[]){7, 15}, 2));
    assert_false(tensor_fits(&t, (int64_t[]){-1, 16}, 2));
    assert_false(tensor_fits(&t, (int64_t[]){16}, 1));
    assert_false(tensor_fits(&t, (int64_t[]){1, 16, 1}, 3));
    t.rank = 0;
    assert_true(tensor_fits(&t, NULL, 0));
}

static void shapes_as_text(void **state)
{
    char s[64], tiny[4];

    (void)state;
    shape_text(s, sizeof s, (int64_t[]){1, 16}, 2);
    assert_string_equal(s, "[1,16]");
    shape_text(s, sizeof s, (int64_t[]){-1, 3, 224, 224}, 4);
    assert_string_equal(s, "[-1,3,224,224]");
    shape_text(s, sizeof s, NULL, 0);
    assert_string_equal(s, "[]");
    shape_text(tiny, sizeof tiny, (int64_t[]){1, 16}, 2);
    assert_string_equal(tiny, "[1,");
}

static void bytes_walk(void **state)
{
    static const uint8_t two[] = {2, 0, 0, 0, 'a', 'b', 0, 0, 0, 0};
    static const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 'a'};

    (void)state;
    assert_true(bytes_check(two, sizeof two, 2));
    assert_false(bytes_check(two, sizeof two, 1)); /* bytes left over */
    assert_false(bytes_check(two, sizeof two, 3)); /* an element missing */
    for (size_t n = 0; n < sizeof two; n++) {
        assert_false(bytes_check(two, n, 2));
    }
    assert_false(bytes_check(huge, sizeof huge, 1));
    assert_true(bytes_check(NULL, 0, 0));
    assert_false(bytes_check(two, 4, UINT64_MAX));
}

static void block_size(void **state)
{
    (void)state;
    assert_int_equal(job_block_bytes(0, 0), 32);
    assert_int_equal(job_block_bytes(2, 3), 32 + 2 * 88 + 6);
    assert_int_equal(job_block_bytes(TENSORS_MAX, TENSORS_MAX), 32 + 1024 * 90);
}

static struct model_info sample(void)
{
    struct model_info m = {.platform = "onnxruntime_onnx",
                           .runtime = "ONNX Runtime 1.30.0",
                           .n_in = 2,
                           .n_out = 1,
                           .joins = true,
                           .batch_max = 16,
                           .warm_ns = 12345678901ull,
                           .memory = 1ull << 33,
                           .many_ns = 23456789012ull,
                           .many_rows = 8,
                           .threads = 3,
                           .device_total = 1ull << 36,
                           .device_used = 3ull << 30};

    m.in = xcalloc(2, sizeof *m.in);
    m.out = xcalloc(1, sizeof *m.out);
    m.in[0] = (struct tensor_info){.name = "x", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 16}};
    m.in[1] = (struct tensor_info){.name = "text", .dtype = DTYPE_BYTES, .rank = 1, .dim = {-1}};
    m.out[0] = (struct tensor_info){.name = "y", .dtype = DTYPE_INT64, .rank = 0};
    return m;
}

static void assert_same_tensors(const struct tensor_info *a, const struct tensor_info *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_string_equal(a[i].name, b[i].name);
        assert_int_equal(a[i].dtype, b[i].dtype);
        assert_int_equal(a[i].rank, b[i].rank);
        assert_memory_equal(a[i].dim, b[i].dim, a[i].rank * sizeof a[i].dim[0]);
    }
}

static void assert_same(const struct model_info *a, const struct model_info *b)
{
    assert_string_equal(a->platform, b->platform);
    assert_string_equal(a->runtime, b->runtime);
    assert_int_equal(a->n_in, b->n_in);
    assert_int_equal(a->n_out, b->n_out);
    assert_int_equal(a->joins, b->joins);
    assert_int_equal(a->batch_max, b->batch_max);
    assert_true(a->warm_ns == b->warm_ns && a->memory == b->memory && a->many_ns == b->many_ns);
    assert_true(a->many_rows == b->many_rows && a->threads == b->threads);
    assert_true(a->device_total == b->device_total && a->device_used == b->device_used);
    assert_same_tensors(a->in, b->in, a->n_in);
    assert_same_tensors(a->out, b->out, a->n_out);
}

static void info_there_and_back(void **state)
{
    struct model_info m = sample(), copy, back;
    struct buf b;
    struct err e;

    (void)state;
    model_info_copy(&copy, &m);
    assert_ptr_not_equal(copy.in, m.in);
    buf_init(&b, 1 << 20);
    model_info_encode(&b, &m);
    model_info_done(&m);
    assert_null(m.in);
    assert_int_equal(model_info_decode(&back, b.p, b.n, &e), ERR_OK);
    assert_same(&copy, &back);
    model_info_done(&back);
    model_info_done(&copy);
    model_info_done(NULL);
    buf_done(&b);
}

static void info_from_a_liar(void **state)
{
    struct model_info m = sample(), back = {.n_in = 4711};
    struct buf b;
    struct err e;
    size_t refused = 0;

    (void)state;
    buf_init(&b, 1 << 20);
    model_info_encode(&b, &m);
    for (size_t n = 0; n < b.n; n++) {
        /* A copy of just that size, so that a sanitizer sees each byte read too many. */
        char *p = xmalloc(n ? n : 1);
        memcpy(p, b.p, n);
        assert_int_equal(model_info_decode(&back, p, n, &e), ERR_INTERNAL);
        free(p);
    }
    assert_int_equal(back.n_in, 4711); /* untouched on failure */
    for (size_t i = 0; i < b.n; i++) {
        for (unsigned v = 0; v < 256; v++) {
            char *p = xmalloc(b.n);
            memcpy(p, b.p, b.n);
            p[i] = (char)v;
            if (model_info_decode(&back, p, b.n, &e) == ERR_OK) {
                assert_true(back.n_in <= TENSORS_MAX && back.n_out <= TENSORS_MAX);
                model_info_done(&back);
            } else {
                refused++;
            }
            free(p);
        }
    }
    assert_true(refused > 1000);
    buf_addc(&b, 'x');
    assert_int_equal(model_info_decode(&back, b.p, b.n, &e), ERR_INTERNAL);
    buf_done(&b);
    model_info_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_sizes),     cmocka_unit_test(elements),         cmocka_unit_test(fits),
        cmocka_unit_test(shapes_as_text),      cmocka_unit_test(bytes_walk),       cmocka_unit_test(block_size),
        cmocka_unit_test(info_there_and_back), cmocka_unit_test(info_from_a_liar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
