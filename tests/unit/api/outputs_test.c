/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that make no sense: numbers that are none, at every place of a block and in every format, and shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/outputs.h"

#define MANY 3000 /* elements: some blocks and a rest of each format */

static struct tensor_info x_free[] = {{"x", DTYPE_FP32, 2, {-1, 4}}};
static struct tensor_info x_fixed[] = {{"x", DTYPE_FP32, 2, {1, 4}}};
static struct tensor_info y_free[] = {{"y", DTYPE_FP32, 2, {-1, 4}}};
static const struct model_info model = {.n_in = 1, .in = x_free, .n_out = 1, .out = y_free};

static char text[300];

/* Asks about one output of these dims; its bytes lie at an offset of a block exactly as large as they are. */
static const char *ask(const struct model_info *info, const struct model_info *reference, struct tensor t,
                       const void *data, uint64_t rows)
{
    uint8_t *base = malloc(64 + t.len);
    struct job_result job = {.n_out = 1, .out = &t, .base = base, .size = 64 + t.len};
    const char *wrong;

    memset(base, 0xff, 64); /* NaN in every format: a look before the output would find it */
    if (t.len > 0) {
        memcpy(base + 64, data, t.len);
    }
    t.off = 64;
    memset(text, 0, sizeof(text));
    wrong = outputs_invalid(info, reference, &job, rows, text, sizeof(text));
    free(base);
    assert_true(wrong == NULL || wrong == text);
    return wrong;
}

static struct tensor tensor_of(enum dtype dtype, unsigned rank, int64_t a, int64_t b)
{
    struct tensor t = {.dtype = (uint8_t)dtype, .rank = (uint8_t)rank, .dim = {a, b}};
    uint64_t n = 0;

    assert_true(tensor_elements(t.dim, rank, &n));
    t.len = n * dtype_size(dtype);
    return t;
}

/* ---- numbers ---- */

static void put(void *data, enum dtype dtype, size_t i, uint64_t bits)
{
    memcpy((uint8_t *)data + i * dtype_size(dtype), &bits, dtype_size(dtype));
}

struct format {
    enum dtype dtype;
    uint64_t infinity, nan, most, least, sign; /* the largest finite number, the smallest above zero */
};
static const struct format formats[] = {
    {DTYPE_FP16, 0x7c00, 0x7c01, 0x7bff, 1, 0x8000},
    {DTYPE_BF16, 0x7f80, 0x7fff, 0x7f7f, 1, 0x8000},
    {DTYPE_FP32, 0x7f800000, 0x7f800001, 0x7f7fffff, 1, 0x80000000},
    {DTYPE_FP64, 0x7ff0000000000000, 0x7fffffffffffffff, 0x7fefffffffffffff, 1, 0x8000000000000000},
};

static void numbers_that_are_none_are_found_wherever_they_are(void **state)
{
    uint64_t *data = malloc(MANY * sizeof(*data));

    (void)state;
    for (size_t k = 0; k < COUNT_OF(formats); k++) {
        const struct format *f = &formats[k];
        struct tensor_info y[] = {{"y", (uint8_t)f->dtype, 1, {-1}}};
        const struct model_info m = {.n_in = 1, .in = x_fixed, .n_out = 1, .out = y};
        struct tensor t = tensor_of(f->dtype, 1, MANY, 0);
        const uint64_t fine[] = {0, f->most, f->least, f->sign, f->sign | f->most, f->sign | f->least};
        const uint64_t bad[] = {f->infinity, f->sign | f->infinity, f->nan, f->sign | f->nan};

        for (size_t i = 0; i < MANY; i++) {
            put(data, f->dtype, i, fine[i % COUNT_OF(fine)]);
        }
        assert_null(ask(&m, &m, t, data, 1));
        for (size_t i = 0; i < MANY; i += i < 300 || i > MANY - 300 ? 1 : 37) {
            char want[100];

            snprintf(want, sizeof(want), "output 'y' has %s at element %zu", i % 4 < 2 ? "infinity" : "NaN", i);
            put(data, f->dtype, i, bad[i % 4]);
            assert_string_equal(ask(&m, &m, t, data, 1), want);
            put(data, f->dtype, i, fine[i % COUNT_OF(fine)]);
        }
        put(data, f->dtype, 700, f->infinity); /* the first of two is named */
        put(data, f->dtype, 701, f->nan);
        assert_string_equal(ask(&m, &m, t, data, 1), "output 'y' has infinity at element 700");
    }
    free(data);
}

static void no_more_than_the_first_numbers_are_looked_at(void **state)
{
    struct tensor_info y[] = {{"y", DTYPE_FP32, 1, {-1}}};
    const struct model_info m = {.n_in = 1, .in = x_fixed, .n_out = 1, .out = y};
    float *data = calloc(70000, sizeof(*data));

    (void)state;
    data[65536] = NAN;
    assert_null(ask(&m, &m, tensor_of(DTYPE_FP32, 1, 70000, 0), data, 1));
    data[65535] = NAN;
    assert_string_equal(ask(&m, &m, tensor_of(DTYPE_FP32, 1, 70000, 0), data, 1),
                        "output 'y' has NaN at element 65535");
    free(data);
}

static void what_is_no_floating_point_has_no_nan(void **state)
{
    static const enum dtype whole[] = {DTYPE_BOOL, DTYPE_UINT8, DTYPE_UINT16, DTYPE_UINT32, DTYPE_UINT64,
                                       DTYPE_INT8, DTYPE_INT16, DTYPE_INT32,  DTYPE_INT64};
    uint8_t ones[64], bytes[] = {4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    struct tensor_info y[] = {{"y", DTYPE_NONE, 1, {-1}}};
    const struct model_info m = {.n_in = 1, .in = x_fixed, .n_out = 1, .out = y};
    struct tensor t = {.dtype = DTYPE_BYTES, .rank = 1, .dim = {1}, .len = sizeof(bytes)};

    (void)state;
    memset(ones, 0xff, sizeof(ones));
    for (size_t i = 0; i < COUNT_OF(whole); i++) {
        y[0].dtype = (uint8_t)whole[i];
        assert_null(ask(&m, &m, tensor_of(whole[i], 1, 8, 0), ones, 1));
    }
    y[0].dtype = DTYPE_BYTES;
    assert_null(ask(&m, &m, t, bytes, 1));
}

/* ---- shapes ---- */

static void shapes_are_held_against_the_stable_version(void **state)
{
    static const float zero[64];
    struct tensor_info loose[] = {{"y", DTYPE_FP32, 2, {-1, -1}}};
    const struct model_info candidate = {.n_in = 1, .in = x_free, .n_out = 1, .out = loose};

    (void)state;
    assert_null(ask(&candidate, &model, tensor_of(DTYPE_FP32, 2, 3, 4), zero, 3));
    assert_string_equal(ask(&candidate, &model, tensor_of(DTYPE_FP32, 2, 1, 5), zero, 1),
                        "output 'y' has shape [1,5], the stable version's has [1,4]");
    assert_null(ask(&candidate, &candidate, tensor_of(DTYPE_FP32, 2, 1, 5), zero, 1));
    assert_string_equal(ask(&candidate, &model, tensor_of(DTYPE_FP32, 1, 4, 0), zero, 1),
                        "output 'y' has shape [4], the stable version's has [-1,4]");
    assert_string_equal(ask(&candidate, &model, tensor_of(DTYPE_FP32, 0, 0, 0), zero, 1),
                        "output 'y' has shape [], the stable version's has [-1,4]");
}

static void an_answer_without_elements_is_empty(void **state)
{
    (void)state;
    assert_string_equal(ask(&model, &model, tensor_of(DTYPE_FP32, 2, 0, 4), NULL, 2), "output 'y' is empty");
    assert_string_equal(ask(&model, &model, tensor_of(DTYPE_FP32, 2, 2, 0), NULL, 2), "output 'y' is empty");
    assert_null(ask(&model, &model, tensor_of(DTYPE_FP32, 2, 0, 4), NULL, 0)); /* nothing was asked for */
}

static void an_answer_has_as_many_rows_as_its_request(void **state)
{
    static const float zero[64];
    struct tensor_info fixed[] = {{"y", DTYPE_FP32, 2, {3, 4}}}, one[] = {{"y", DTYPE_FP32, 0, {-1}}};
    struct tensor_info both[] = {{"x", DTYPE_FP32, 2, {-1, 4}}, {"n", DTYPE_INT64, 0, {0}}};
    const struct model_info y_fixed = {.n_in = 1, .in = x_free, .n_out = 1, .out = fixed};
    const struct model_info in_fixed = {.n_in = 1, .in = x_fixed, .n_out = 1, .out = y_free};
    const struct model_info in_mixed = {.n_in = 2, .in = both, .n_out = 1, .out = y_free};
    const struct model_info in_none = {.n_out = 1, .out = y_free};
    const struct model_info scalar = {.n_in = 1, .in = x_free, .n_out = 1, .out = one};
    struct tensor three = tensor_of(DTYPE_FP32, 2, 3, 4);

    (void)state;
    assert_null(ask(&model, &model, three, zero, 3));
    assert_string_equal(ask(&model, &model, three, zero, 5), "output 'y' has 3 rows for 5");
    assert_null(ask(&model, &model, three, zero, 0)); /* its inputs had no number of rows in common */
    assert_null(ask(&model, &y_fixed, three, zero, 5));
    assert_null(ask(&model, &in_fixed, three, zero, 1));
    assert_null(ask(&model, &in_mixed, three, zero, 5));
    assert_null(ask(&model, &in_none, three, zero, 5));
    assert_null(ask(&model, &scalar, tensor_of(DTYPE_FP32, 0, 0, 0), zero, 5));
}

/* ---- several outputs ---- */

static void outputs_are_matched_by_their_names(void **state)
{
    struct tensor_info ab[] = {{"a", DTYPE_FP32, 1, {2}}, {"b", DTYPE_FP32, 1, {3}}};
    struct tensor_info ba[] = {{"b", DTYPE_FP32, 1, {3}}, {"a", DTYPE_FP32, 1, {2}}, {"new", DTYPE_FP32, 1, {-1}}};
    const struct model_info stable = {.n_in = 1, .in = x_fixed, .n_out = 2, .out = ab};
    const struct model_info candidate = {.n_in = 1, .in = x_fixed, .n_out = 3, .out = ba};
    float data[8] = {0};
    struct tensor out[] = {tensor_of(DTYPE_FP32, 1, 2, 0), tensor_of(DTYPE_FP32, 1, 3, 0)};
    struct job_result job = {.n_out = 2, .out = out, .base = (const uint8_t *)data, .size = sizeof(data)};

    (void)state;
    out[0].port = 1; /* asked for in another order, and not all */
    out[1].port = 0;
    out[1].off = 8;
    assert_null(outputs_invalid(&candidate, &stable, &job, 1, text, sizeof(text)));
    data[4] = -INFINITY;
    assert_string_equal(outputs_invalid(&candidate, &stable, &job, 1, text, sizeof(text)),
                        "output 'b' has infinity at element 2");
    out[1].port = 2; /* the stable version has no such output: its numbers are looked at all the same */
    assert_string_equal(outputs_invalid(&candidate, &stable, &job, 1, text, sizeof(text)),
                        "output 'new' has infinity at element 2");
    data[4] = 0;
    assert_null(outputs_invalid(&candidate, &stable, &job, 1, text, sizeof(text)));
    out[1].port = 3;
    assert_string_equal(outputs_invalid(&candidate, &stable, &job, 1, text, sizeof(text)),
                        "output 3 is none of the model's");
}

static void what_is_wrong_is_cut_to_its_room(void **state)
{
    struct tensor t = {.dtype = DTYPE_FP32, .rank = 2, .dim = {1, 5}, .len = 20};
    const float zero[5] = {0};
    struct job_result job = {.n_out = 1, .out = &t, .base = (const uint8_t *)zero, .size = sizeof(zero)};
    char small[12];

    (void)state;
    assert_string_equal(outputs_invalid(&model, &model, &job, 1, small, sizeof(small)), "output 'y' ");
    t.dim[0] = -1;
    assert_string_equal(outputs_invalid(&model, &model, &job, 1, text, sizeof(text)),
                        "output 'y' has an impossible shape");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_that_are_none_are_found_wherever_they_are),
        cmocka_unit_test(no_more_than_the_first_numbers_are_looked_at),
        cmocka_unit_test(what_is_no_floating_point_has_no_nan),
        cmocka_unit_test(shapes_are_held_against_the_stable_version),
        cmocka_unit_test(an_answer_without_elements_is_empty),
        cmocka_unit_test(an_answer_has_as_many_rows_as_its_request),
        cmocka_unit_test(outputs_are_matched_by_their_names),
        cmocka_unit_test(what_is_wrong_is_cut_to_its_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
