/* SPDX-License-Identifier: Apache-2.0 */
/* oip_check and oip_fill: every dtype's values into bytes, every refusal with its message, shapes, binary and raw. */
#include "unit/api/oip_case.h"

/* One request with one input x of a dtype: the shape and the data as text. */
static enum err_code one(struct oip_case *c, enum dtype t, const char *shape, const char *data)
{
    struct tensor_info in = {.name = "x", .dtype = (uint8_t)t};
    struct tensor_info out = {.name = "y", .dtype = DTYPE_FP32, .rank = 1, .dim = {-1}};
    struct model_info model = {.n_in = 1, .n_out = 1, .in = &in, .out = &out};
    char *json = xasprintf("{\"inputs\":[{\"name\":\"x\",\"datatype\":\"%s\",\"shape\":%s,\"data\":%s}]}",
                           dtype_name(t), shape, data);
    for (const char *p = shape; *p; p++) {
        in.rank += *p == ',';
    }
    in.rank += strcmp(shape, "[]") != 0;
    memset(in.dim, 0xff, sizeof(in.dim)); /* -1 everywhere */
    enum err_code code = case_all(c, json, &model);
    free(json);
    return code;
}

#define BYTES_OF(lit) sizeof(lit) - 1, lit
static const struct {
    enum dtype t;
    const char *shape, *data;
    size_t n;
    const char *bytes;
} values[] = {
    {DTYPE_BOOL, "[5]", "[true,false,0,1, true ]", BYTES_OF("\1\0\0\1\1")},
    {DTYPE_UINT8, "[3]", "[0,255,-0]", BYTES_OF("\0\xff\0")},
    {DTYPE_INT8, "[3]", "[-128,127,-1]", BYTES_OF("\x80\x7f\xff")},
    {DTYPE_UINT16, "[2]", "[65535,258]", BYTES_OF("\xff\xff\2\1")},
    {DTYPE_INT16, "[2]", "[-32768,32767]", BYTES_OF("\0\x80\xff\x7f")},
    {DTYPE_UINT32, "[2]", "[4294967295,16909060]", BYTES_OF("\xff\xff\xff\xff\4\3\2\1")},
    {DTYPE_INT32, "[2]", "[-2147483648,2147483647]", BYTES_OF("\0\0\0\x80\xff\xff\xff\x7f")},
    {DTYPE_UINT64, "[2]", "[18446744073709551615,1]", BYTES_OF("\xff\xff\xff\xff\xff\xff\xff\xff\1\0\0\0\0\0\0\0")},
    {DTYPE_INT64, "[2]", "[-9223372036854775808,9223372036854775807]",
     BYTES_OF("\0\0\0\0\0\0\0\x80\xff\xff\xff\xff\xff\xff\xff\x7f")},
    {DTYPE_FP16, "[6]", "[1,-2.5,65504,65519.9,6e-8,0.0999755859375]",
     BYTES_OF("\0\x3c\0\xc1\xff\x7b\xff\x7b\1\0\x66\x2e")},
    /* Just above the midpoint of two halves, by less than a float can say: rounded once it goes up. */
    {DTYPE_FP16, "[3]", "[1.00048828125,1.000488281250001,1.0004882812499999]", BYTES_OF("\0\x3c\1\x3c\0\x3c")},
    {DTYPE_BF16, "[3]", "[1,-2.5,3.38e38]", BYTES_OF("\x80\x3f\x20\xc0\x7e\x7f")},
    {DTYPE_BF16, "[2]", "[1.00390625,1.0039062500000002]", BYTES_OF("\x80\x3f\x81\x3f")},
    {DTYPE_FP32, "[5]", "[1,-0.0,1e-3,3.4028235e38,-3.40282346638528859811704183484516925440e+38]",
     BYTES_OF("\0\0\x80\x3f\0\0\0\x80\x6f\x12\x83\x3a\xff\xff\x7f\x7f\xff\xff\x7f\xff")},
    {DTYPE_FP32, "[2]", "[1e-45,1e-400]", BYTES_OF("\1\0\0\0\0\0\0\0")},
    {DTYPE_FP64, "[2]", "[0.1,-1.7976931348623157e308]",
     BYTES_OF("\x9a\x99\x99\x99\x99\x99\xb9\x3f\xff\xff\xff\xff\xff\xff\xef\xff")},
    {DTYPE_BYTES, "[4]", "[\"\",\"ab\",\"\\u00e9\\n\\\\\",\"\\u0000\"]",
     BYTES_OF("\0\0\0\0\2\0\0\0ab\4\0\0\0\xc3\xa9\n\\\1\0\0\0\0")},
    {DTYPE_BYTES, "[1]", "[\"\\ud83d\\ude00 ]},[\"]", BYTES_OF("\x9\0\0\0\xf0\x9f\x98\x80 ]},[")},
    {DTYPE_BYTES, "[2,1]", "[[\"a\"],[\"b\"]]", BYTES_OF("\1\0\0\0a\1\0\0\0b")},
    /* shapes: scalars, flat and nested, empty */
    {DTYPE_INT8, "[]", "[7]", BYTES_OF("\7")},
    {DTYPE_INT8, "[2,2]", "[1,2,3,4]", BYTES_OF("\1\2\3\4")},
    {DTYPE_INT8, "[2,2]", " [ [ 1 , 2 ] , [ 3\n,\t4 ]\r]", BYTES_OF("\1\2\3\4")},
    {DTYPE_INT8, "[2,1,3]", "[[[1,2,3]],[[4,5,6]]]", BYTES_OF("\1\2\3\4\5\6")},
    {DTYPE_INT8, "[1,1,1,1,1,1,1,2]", "[[[[[[[[1,2]]]]]]]]", BYTES_OF("\1\2")},
    {DTYPE_INT8, "[0]", "[]", BYTES_OF("")},
    {DTYPE_INT8, "[0]", "[ ]", BYTES_OF("")},
    {DTYPE_INT8, "[2,0]", "[]", BYTES_OF("")},
    {DTYPE_INT8, "[2,0]", "[[],[ ]]", BYTES_OF("")},
    {DTYPE_INT8, "[0,2]", "[]", BYTES_OF("")},
    {DTYPE_INT8, "[2,0,5]", "[[],[]]", BYTES_OF("")},
    {DTYPE_BYTES, "[0,3]", "[]", BYTES_OF("")},
};

static void fills(void **state)
{
    (void)state;
    struct oip_case c = {0};
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        if (one(&c, values[i].t, values[i].shape, values[i].data)) {
            fail_msg("%s %s %s: %s", dtype_name(values[i].t), values[i].shape, values[i].data, c.e.text);
        }
        const struct tensor *t = &c.block->in[0];
        if (t->len != values[i].n || memcmp(case_data(&c, 0), values[i].bytes, t->len) != 0) {
            fail_msg("%s %s %s", dtype_name(values[i].t), values[i].shape, values[i].data);
        }
        assert_int_equal(t->off % 64, 0);
        assert_int_equal(t->reserved, 0);
        assert_int_equal(t->dtype, values[i].t);
        assert_int_equal(c.block->n_in, 1);
        assert_int_equal(c.block->n_out, 1);
        assert_int_equal(job_block_want(c.block)[0], 0);
        assert_int_equal(c.block->fingerprint, 0);
    }
    case_done(&c);
}

#define UINT8_TAKES "; UINT8 takes whole numbers from 0 to 255"
#define FP32_TAKES "; FP32 takes numbers up to 3.4028235e38"
static const struct {
    enum dtype t;
    const char *shape, *data, *text;
} refusals[] = {
    /* range */
    {DTYPE_BOOL, "[2]", "[1,2]", "element 1 is 2; BOOL takes true, false, 0 or 1"},
    {DTYPE_BOOL, "[1]", "[-0]", "element 0 is -0; BOOL takes true, false, 0 or 1"},
    {DTYPE_BOOL, "[1]", "[1.0]", "element 0 is 1.0; BOOL takes true, false, 0 or 1"},
    {DTYPE_UINT8, "[6]", "[0,1,2,3,4,256]", "element 5 is 256" UINT8_TAKES},
    {DTYPE_UINT8, "[1]", "[-1]", "element 0 is -1" UINT8_TAKES},
    {DTYPE_UINT8, "[1]", "[1.5]", "element 0 is 1.5" UINT8_TAKES},
    {DTYPE_UINT8, "[1]", "[1e2]", "element 0 is 1e2" UINT8_TAKES},
    {DTYPE_INT8, "[1]", "[128]", "element 0 is 128; INT8 takes whole numbers from -128 to 127"},
    {DTYPE_INT8, "[1]", "[-129]", "element 0 is -129; INT8 takes whole numbers from -128 to 127"},
    {DTYPE_UINT16, "[1]", "[65536]", "element 0 is 65536; UINT16 takes whole numbers from 0 to 65535"},
    {DTYPE_INT16, "[1]", "[32768]", "element 0 is 32768; INT16 takes whole numbers from -32768 to 32767"},
    {DTYPE_UINT32, "[1]", "[4294967296]", "element 0 is 4294967296; UINT32 takes whole numbers from 0 to 4294967295"},
    {DTYPE_INT32, "[1]", "[2147483648]",
     "element 0 is 2147483648; INT32 takes whole numbers from -2147483648 to 2147483647"},
    {DTYPE_UINT64, "[1]", "[18446744073709551616]",
     "element 0 is 18446744073709551616; UINT64 takes whole numbers from 0 to 18446744073709551615"},
    {DTYPE_INT64, "[1]", "[9223372036854775808]",
     "element 0 is 9223372036854775808; INT64 takes whole numbers from -9223372036854775808 to 9223372036854775807"},
    {DTYPE_INT64, "[1]", "[-9223372036854775809]",
     "element 0 is -9223372036854775809; INT64 takes whole numbers from -9223372036854775808 to 9223372036854775807"},
    {DTYPE_FP16, "[1]", "[65520]", "element 0 is 65520; FP16 takes numbers up to 65504"},
    {DTYPE_FP16, "[1]", "[-1e300]", "element 0 is -1e300; FP16 takes numbers up to 65504"},
    {DTYPE_BF16, "[1]", "[3.4e38]", "element 0 is 3.4e38; BF16 takes numbers up to 3.3895314e38"},
    {DTYPE_FP32, "[2]", "[0,1e39]", "element 1 is 1e39" FP32_TAKES},
    {DTYPE_FP32, "[1]", "[-1e400]", "element 0 is -1e400" FP32_TAKES},
    {DTYPE_FP64, "[1]", "[1e309]", "element 0 is 1e309; FP64 takes numbers up to 1.7976931348623157e308"},
    /* kinds */
    {DTYPE_FP32, "[2]", "[1,\"a\"]", "element 1 is a string" FP32_TAKES},
    {DTYPE_FP32, "[2]", "[true,1]", "element 0 is true" FP32_TAKES},
    {DTYPE_FP32, "[2]", "[1,null]", "element 1 is null" FP32_TAKES},
    {DTYPE_FP32, "[2]", "[1,[2]]", "element 1 is an array" FP32_TAKES},
    {DTYPE_FP32, "[2]", "[[1,2]]", "element 0 is an array" FP32_TAKES},
    {DTYPE_FP32, "[2,2]", "[[1,[2]],[1,2]]", "element 1 is an array" FP32_TAKES},
    {DTYPE_FP32, "[2,2]", "[[1,2],[3,\"\"]]", "element 3 is a string" FP32_TAKES},
    {DTYPE_UINT8, "[1]", "[false]", "element 0 is false" UINT8_TAKES},
    {DTYPE_UINT8, "[1]", "[\"1\"]", "element 0 is a string" UINT8_TAKES},
    {DTYPE_BOOL, "[1]", "[\"true\"]", "element 0 is a string; BOOL takes true, false, 0 or 1"},
    {DTYPE_BYTES, "[2]", "[\"a\",5]", "element 1 is 5; BYTES takes strings"},
    {DTYPE_BYTES, "[1]", "[null]", "element 0 is null; BYTES takes strings"},
    {DTYPE_BYTES, "[1]", "[[\"a\"]]", "element 0 is an array; BYTES takes strings"},
    /* counts */
    {DTYPE_INT8, "[4]", "[1, 2,3 ]", "data has 3 elements, shape [4] needs 4"},
    {DTYPE_INT8, "[2]", "[1,2,3]", "data has more than 2 elements, shape [2] needs 2"},
    {DTYPE_INT8, "[0]", "[1]", "data has more than 0 elements, shape [0] needs 0"},
    {DTYPE_INT8, "[1]", "[  ]", "data has 0 elements, shape [1] needs 1"},
    {DTYPE_INT8, "[]", "[1,2]", "data has more than 1 elements, shape [] needs 1"},
    {DTYPE_INT8, "[2,2]", "[1,2,3,4,5]", "data has more than 4 elements, shape [2,2] needs 4"},
    {DTYPE_INT8, "[2,2]", "[[1,2]]", "data has 1 elements, shape [2,2] needs 2"},
    {DTYPE_INT8, "[2,2]", "[[1,2],[3,4],[5,6]]", "data has more than 2 elements, shape [2,2] needs 2"},
    {DTYPE_INT8, "[2,2]", "[[1,2],[3]]", "data[1] has 1 elements, shape [2,2] needs 2"},
    {DTYPE_INT8, "[2,2]", "[[1,2,3],[4]]", "data[0] has more than 2 elements, shape [2,2] needs 2"},
    {DTYPE_INT8, "[2,2]", "[[1,2],[]]", "data[1] has 0 elements, shape [2,2] needs 2"},
    {DTYPE_INT8, "[2,1,2]", "[[[1,2]],[]]", "data[1] has 0 elements, shape [2,1,2] needs 1"},
    {DTYPE_INT8, "[2,1,2]", "[[[1,2]],[[1,2],[3,4]]]", "data[1] has more than 1 elements, shape [2,1,2] needs 1"},
    {DTYPE_INT8, "[2,1,2]", "[[[1,2]],[[1]]]", "data[1][0] has 1 elements, shape [2,1,2] needs 2"},
    {DTYPE_INT8, "[2,0]", "[[],[],[]]", "data has more than 2 elements, shape [2,0] needs 2"},
    {DTYPE_INT8, "[2,0]", "[[]]", "data has 1 elements, shape [2,0] needs 2"},
    {DTYPE_INT8, "[2,0]", "[[1],[]]", "data[0] has more than 0 elements, shape [2,0] needs 0"},
    {DTYPE_INT8, "[2,2]", "[[1,2],3]", "data[1] is 3, shape [2,2] needs an array there"},
    {DTYPE_INT8, "[2,1,2]", "[[1,2],[3,4]]", "data[0][0] is 1, shape [2,1,2] needs an array there"},
    {DTYPE_FP32, "[1000000,1000000]", "[1]",
     "data is too short for the 1000000000000 elements of shape [1000000,1000000]"},
    {DTYPE_BYTES, "[2147483648]", "[\"\"]", "data is too short for the 2147483648 elements of shape [2147483648]"},
    /* what is not JSON */
    {DTYPE_FP32, "[2]", "[1,NaN]", "data is not JSON at element 1: 'NaN'"},
    {DTYPE_FP32, "[2]", "[1,Infinity]", "data is not JSON at element 1: 'Infinity'"},
    {DTYPE_FP32, "[2]", "[1,-Infinity]", "data is not JSON at element 1: '-Infinity'"},
    {DTYPE_FP32, "[2]", "[1,nan]", "data is not JSON at element 1: 'nan'"},
    {DTYPE_FP32, "[1]", "[01]", "data is not JSON at element 0: '01'"},
    {DTYPE_FP32, "[1]", "[+1]", "data is not JSON at element 0: '+1'"},
    {DTYPE_FP32, "[1]", "[.5]", "data is not JSON at element 0: '.5'"},
    {DTYPE_FP32, "[1]", "[1.]", "data is not JSON at element 0: '1.'"},
    {DTYPE_FP32, "[1]", "[1e]", "data is not JSON at element 0: '1e'"},
    {DTYPE_FP32, "[1]", "[0x10]", "data is not JSON at element 1: a comma or ] is expected"},
    {DTYPE_FP32, "[2]", "[1 2]", "data is not JSON at element 1: a comma or ] is expected"},
    {DTYPE_FP32, "[2]", "[1,]", "data is not JSON at element 1: a value is missing"},
    {DTYPE_FP32, "[2]", "[,1]", "data is not JSON at element 0: a value is missing"},
    {DTYPE_INT8, "[2]", "[1,0x1]", "data is not JSON at element 2: a comma or ] is expected"},
    {DTYPE_INT8, "[1]", "[--1]", "data is not JSON at element 0: '--1'"},
    {DTYPE_BOOL, "[1]", "[True]", "data is not JSON at element 0: 'True'"},
    {DTYPE_BOOL, "[1]", "[truee]", "data is not JSON at element 1: a comma or ] is expected"},
    {DTYPE_BYTES, "[1]", "[\"\\x\"]", "data is not JSON at element 0: an unknown escape in a string"},
    {DTYPE_BYTES, "[1]", "[\"\x01\"]", "data is not JSON at element 0: a control character in a string"},
    {DTYPE_BYTES, "[1]", "[\"\xff\"]", "data is not JSON at element 0: a string is not UTF-8"},
    {DTYPE_BYTES, "[1]", "[\"\\udc00\"]", "data is not JSON at element 0: half of a surrogate pair in a string"},
    {DTYPE_BYTES, "[1]", "[\"a\"\"b\"]", "data is not JSON at element 1: a comma or ] is expected"},
    {DTYPE_INT8, "[2,1]", "[[1][2]]", "data is not JSON at element 1: a comma or ] is expected"},
    {DTYPE_INT8, "[2,1]", "[[1],]", "data is not JSON at element 1: a value is missing"},
    {DTYPE_INT8, "[2,1]", "[[1],x]", "data is not JSON at element 1: 'x'"},
};

static void refuses(void **state)
{
    (void)state;
    struct oip_case c = {0};
    for (size_t i = 0; i < COUNT_OF(refusals); i++) {
        enum err_code code = one(&c, refusals[i].t, refusals[i].shape, refusals[i].data);
        char text[512];
        snprintf(text, sizeof(text), "input 'x': %s", refusals[i].text);
        case_fails(&c, code, ERR_INVALID, text);
    }
    case_done(&c);
}

/* ---- against a model ---- */

static struct tensor_info two_in[] = {{"a", DTYPE_FP32, 2, {-1, 2}}, {"b", DTYPE_INT64, 1, {-1}}};
static struct tensor_info two_out[] = {
    {"y", DTYPE_FP32, 2, {-1, 3}}, {"t", DTYPE_BYTES, 1, {-1}}, {"s", DTYPE_FP32, 0, {0}}};
MODEL(two, 2, two_in, 3, two_out);

#define A_IN "{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}"
#define B_IN "{\"name\":\"b\",\"datatype\":\"INT64\",\"shape\":[1],\"data\":[3]}"
#define WITH_OUTPUT(text) "{\"inputs\":[" A_IN "," B_IN "],\"outputs\":[{" text "}]}"

static void checks(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
    } bad[] = {
        {"{\"inputs\":[]}", "the request has 0 of the model's 2 inputs; missing: 'a', 'b'"},
        {"{\"inputs\":[" B_IN "]}", "the request has 1 of the model's 2 inputs; missing: 'a'"},
        {"{\"inputs\":[" A_IN ",{\"name\":\"c\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1]}]}",
         "the model has no input 'c'; it has 'a', 'b'"},
        {"{\"inputs\":[" A_IN "," B_IN ",{\"name\":\"c\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1]}]}",
         "the model has no input 'c'; it has 'a', 'b'"},
        {"{\"inputs\":[{\"name\":\"a\",\"datatype\":\"FP64\",\"shape\":[1,2],\"data\":[1,2]}," B_IN "]}",
         "input 'a' is FP64, the model takes FP32"},
        {"{\"inputs\":[{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1,3],\"data\":[1,2,3]}," B_IN "]}",
         "input 'a' has shape [1,3], the model takes [-1,2]"},
        {"{\"inputs\":[{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[2],\"data\":[1,2]}," B_IN "]}",
         "input 'a' has shape [2], the model takes [-1,2]"},
        {WITH_OUTPUT("\"name\":\"q\""), "the model has no output 'q'; it has 'y', 't', 's'"},
        {WITH_OUTPUT("\"name\":\"t\",\"parameters\":{\"classification\":1}"),
         "output 't': classification needs numbers along a dimension, this is BYTES of rank 1"},
        {WITH_OUTPUT("\"name\":\"s\",\"parameters\":{\"classification\":1}"),
         "output 's': classification needs numbers along a dimension, this is FP32 of rank 0"},
    };
    struct oip_case c = {0};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        case_fails(&c, case_all(&c, bad[i].json, &two), ERR_INVALID, bad[i].text);
        assert_int_equal(c.r.block_bytes, 0);
    }
    case_done(&c);
}

static void block_layout(void **state)
{
    (void)state;
    struct oip_case c = {0};
    /* The other way round than the model; the outputs too. */
    assert_int_equal(
        case_all(&c, "{\"inputs\":[" B_IN "," A_IN "],\"outputs\":[{\"name\":\"s\"},{\"name\":\"y\"}]}", &two), ERR_OK);
    assert_int_equal(c.r.in[0].port, 1);
    assert_int_equal(c.r.in[1].port, 0);
    assert_int_equal(c.block->n_in, 2);
    assert_int_equal(c.block->n_out, 2);
    assert_int_equal(c.block->rows, 1);
    assert_int_equal(c.r.rows, 1);
    assert_int_equal(job_block_want(c.block)[0], 2);
    assert_int_equal(job_block_want(c.block)[1], 0);
    uint64_t first = ALIGN_UP(job_block_bytes(2, 2), 64);
    const struct tensor *t = c.block->in;
    assert_int_equal(t[0].port, 0);
    assert_int_equal(t[0].off, CASE_OFF + first);
    assert_int_equal(t[0].len, 8);
    assert_int_equal(t[1].port, 1);
    assert_int_equal(t[1].off, CASE_OFF + first + 64);
    assert_int_equal(t[1].dim[0], 1);
    assert_int_equal(t[1].dim[1], 0);
    assert_int_equal(c.r.block_bytes, first + 128);
    assert_memory_equal(case_data(&c, 0), ((float[]){1, 2}), 8);
    assert_memory_equal(case_data(&c, 1), ((int64_t[]){3}), 8);
    /* All outputs when none is asked for; rows only when they agree. */
    assert_int_equal(
        case_all(&c, "{\"inputs\":[" A_IN ",{\"name\":\"b\",\"datatype\":\"INT64\",\"shape\":[3],\"data\":[1,2,3]}]}",
                 &two),
        ERR_OK);
    assert_int_equal(c.block->rows, 0);
    assert_int_equal(c.block->n_out, 3);
    assert_int_equal(job_block_want(c.block)[2], 2);
    case_done(&c);
}

#define BIN(name, type, shape, n)                                                                                      \
    "{\"name\":\"" name "\",\"datatype\":\"" type "\",\"shape\":" shape ",\"parameters\":{\"binary_data_size\":" n "}" \
    "}"

static void binary(void **state)
{
    (void)state;
    static struct tensor_info in[] = {{"f", DTYPE_FP32, 1, {-1}},
                                      {"t", DTYPE_BYTES, 1, {-1}},
                                      {"o", DTYPE_BOOL, 1, {-1}},
                                      {"i", DTYPE_INT8, 1, {-1}}};
    MODEL(model, 4, in, 3, two_out);
    struct oip_case c = {0};
    struct iovec to[4];
    const char *json = "{\"inputs\":[" BIN("o", "BOOL", "[3]", "3") "," BIN(
        "t", "BYTES", "[2]",
        "11") ","
              "{\"name\":\"i\",\"datatype\":\"INT8\",\"shape\":[1],\"data\":[9]}," BIN("f", "FP32", "[0]", "0") "]}";
    assert_int_equal(case_read(&c, json, 14), ERR_OK);
    assert_int_equal(case_fill(&c, &model), ERR_OK);
    assert_int_equal(case_data(&c, 3)[0], 9);
    assert_int_equal(oip_binary(&c.r, c.block, CASE_OFF, to, 1), 1);
    assert_int_equal(oip_binary(&c.r, c.block, CASE_OFF, to, 4), 2); /* nothing to read for the empty one */
    assert_ptr_equal(to[0].iov_base, case_data(&c, 2));
    assert_int_equal(to[0].iov_len, 3);
    assert_ptr_equal(to[1].iov_base, case_data(&c, 1));
    assert_int_equal(to[1].iov_len, 11);
    memcpy(to[0].iov_base, "\0\1\1", 3);
    memcpy(to[1].iov_base, "\1\0\0\0a\2\0\0\0bc", 11);
    assert_int_equal(oip_binary_check(&c.r, c.block, CASE_OFF, &c.e), ERR_OK);
    ((char *)to[0].iov_base)[2] = 2;
    case_fails(&c, oip_binary_check(&c.r, c.block, CASE_OFF, &c.e), ERR_INVALID,
               "input 'o': element 2 is byte 2; BOOL takes 0 or 1");
    ((char *)to[0].iov_base)[2] = 0;
    static const char *const lies[] = {"\1\0\0\0a\3\0\0\0bc", "\1\0\0\0a\1\0\0\0bc", "\7\0\0\0aaaaaaa",
                                       "\xff\xff\xff\xff\141aaaaaa"};
    for (size_t i = 0; i < COUNT_OF(lies); i++) {
        memcpy(to[1].iov_base, lies[i], 11);
        case_fails(&c, oip_binary_check(&c.r, c.block, CASE_OFF, &c.e), ERR_INVALID,
                   "input 't': its 11 bytes are not 2 elements, each with its length before it");
    }
    static const struct {
        const char *json, *text;
        uint64_t tail;
    } bad[] = {
        {"{\"inputs\":[" BIN("f", "FP32", "[2]", "7") "]}",
         "input 'f': binary_data_size is 7, but shape [2] of FP32 needs 8", 7},
        {"{\"inputs\":[" BIN("f", "FP32", "[2]", "9") "]}",
         "input 'f': binary_data_size is 9, but shape [2] of FP32 needs 8", 9},
        {"{\"inputs\":[" BIN("f", "FP32", "[2147483648]", "0") "]}",
         "input 'f': binary_data_size is 0, but shape [2147483648] of FP32 needs 8589934592", 0},
        {"{\"inputs\":[" BIN("t", "BYTES", "[2]", "7") "]}",
         "input 't': binary_data_size is 7, but shape [2] of BYTES needs at least 8", 7},
        {"{\"inputs\":[" BIN("t", "BYTES", "[0]", "4") "]}",
         "input 't': binary_data_size is 4, but shape [0] of BYTES needs 0", 4},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(case_read(&c, bad[i].json, bad[i].tail), ERR_OK);
        case_fails(&c, case_fill(&c, &model), ERR_INVALID, bad[i].text);
    }
    case_done(&c);
}

static enum err_code raw_one(struct oip_case *c, const struct tensor_info *in, bool joins, uint64_t bytes)
{
    struct tensor_info copy = *in;
    struct model_info model = {.n_in = 1, .n_out = 3, .in = &copy, .out = two_out, .joins = joins};
    case_done(c);
    case_init(c);
    assert_int_equal(oip_read_raw(&c->r, &c->arena, bytes, &c->e), ERR_OK);
    assert_true(c->r.raw && c->r.binary_output && c->r.n_in == 1);
    enum err_code code = case_fill(c, &model);
    /* The name points into the model that ends here. */
    c->r.in[0].name = STR("x");
    return code;
}

static void raw(void **state)
{
    (void)state;
    static const struct tensor_info rows = {"x", DTYPE_FP32, 2, {-1, 4}}, fixed = {"x", DTYPE_INT16, 2, {2, 3}},
                                    wide = {"x", DTYPE_INT8, 3, {-1, 2, -1}}, text = {"x", DTYPE_BYTES, 2, {-1, 1}},
                                    texts = {"x", DTYPE_BYTES, 1, {2}}, none = {"x", DTYPE_FP32, 2, {-1, 0}},
                                    scalar = {"x", DTYPE_FP64, 0, {0}}, twice = {"x", DTYPE_INT8, 3, {2, -1, -1}};
    struct oip_case c = {0};
    struct iovec to[2];
    assert_int_equal(raw_one(&c, &rows, false, 48), ERR_OK);
    assert_int_equal(c.block->in[0].dim[0], 3);
    assert_int_equal(c.r.rows, 3);
    assert_int_equal(oip_binary(&c.r, c.block, CASE_OFF, to, 2), 1);
    assert_ptr_equal(to[0].iov_base, case_data(&c, 0));
    assert_int_equal(to[0].iov_len, 48);
    assert_int_equal(raw_one(&c, &rows, false, 0), ERR_OK);
    assert_int_equal(c.block->in[0].dim[0], 0);
    assert_int_equal(raw_one(&c, &fixed, false, 12), ERR_OK);
    assert_int_equal(raw_one(&c, &scalar, false, 8), ERR_OK);
    assert_int_equal(raw_one(&c, &wide, true, 6), ERR_OK);
    assert_int_equal(c.block->in[0].dim[0], 1);
    assert_int_equal(c.block->in[0].dim[2], 3);
    assert_int_equal(raw_one(&c, &text, false, 5), ERR_OK);
    assert_int_equal(c.block->in[0].len, 9);
    assert_int_equal(oip_binary(&c.r, c.block, CASE_OFF, to, 2), 1);
    assert_ptr_equal(to[0].iov_base, case_data(&c, 0) + 4);
    assert_int_equal(to[0].iov_len, 5);
    memcpy(to[0].iov_base, "hello", 5);
    assert_int_equal(oip_binary_check(&c.r, c.block, CASE_OFF, &c.e), ERR_OK);
    assert_memory_equal(case_data(&c, 0), "\5\0\0\0hello", 9);
    assert_int_equal(raw_one(&c, &text, false, 0), ERR_OK);
    assert_int_equal(oip_binary_check(&c.r, c.block, CASE_OFF, &c.e), ERR_OK);

    case_fails(&c, raw_one(&c, &rows, false, 47), ERR_INVALID,
               "47 bytes do not fill input 'x' of dtype FP32 and shape [-1,4]");
    case_fails(&c, raw_one(&c, &fixed, false, 14), ERR_INVALID,
               "14 bytes do not fill input 'x' of dtype INT16 and shape [2,3]");
    case_fails(&c, raw_one(&c, &none, false, 4), ERR_INVALID,
               "4 bytes do not fill input 'x' of dtype FP32 and shape [-1,0]");
    case_fails(
        &c, raw_one(&c, &wide, false, 6), ERR_INVALID,
        "a request without JSON can not tell the shape of input 'x', [-1,2,-1]: more than one dimension is variable");
    case_fails(
        &c, raw_one(&c, &twice, true, 6), ERR_INVALID,
        "a request without JSON can not tell the shape of input 'x', [2,-1,-1]: more than one dimension is variable");
    case_fails(&c, raw_one(&c, &texts, false, 6), ERR_INVALID,
               "a request without JSON holds one element; input 'x' has shape [2]");
    case_done(&c);
    case_init(&c);
    assert_int_equal(oip_read_raw(&c.r, &c.arena, 4, &c.e), ERR_OK);
    case_fails(&c, case_fill(&c, &two), ERR_INVALID,
               "a request without JSON needs a model with one input; this one has 2");
    case_done(&c);
}

/* A model with many inputs: names are listed, but not without end. */
static void many_names(void **state)
{
    (void)state;
    static struct tensor_info in[300];
    for (int i = 0; i < 300; i++) {
        in[i] = (struct tensor_info){.dtype = DTYPE_INT8, .rank = 1, .dim = {1}};
        memset(in[i].name, 'n', 200);
        snprintf(in[i].name + 200, 16, "%d", i);
    }
    in[0].name[1] = '\0';
    MODEL(model, 300, in, 3, two_out);
    struct oip_case c = {0};
    case_fails(&c,
               case_all(&c, "{\"inputs\":[{\"name\":\"c\",\"datatype\":\"INT8\",\"shape\":[1],\"data\":[1]}]}", &model),
               ERR_INVALID, "the model has no input 'c'; it has 'n', ...");
    case_done(&c);
}

/* Every prefix and every doubled, dropped or swapped character of nested data: filled or refused, within bounds. */
static void data_mutated(void **state)
{
    (void)state;
    static const struct {
        enum dtype t;
        const char *data;
    } seeds[] = {
        {DTYPE_FP32, "[[[1.5,-2e3],[0.25,4]],[[5,6],[7,8E-1]]]"},
        {DTYPE_INT16, "[[[1,-2],[3,4]],[[5,6],[7,8]]]"},
        {DTYPE_BYTES, "[[[\"a\",\"\\u00e9\"],[\"\",\"]\"]],[[\"\\\\\",\"\\\"\"],[\"x\",\"y\"]]]"},
        {DTYPE_BOOL, "[[[true,false],[0,1]],[[1,0],[true,true]]]"},
    };
    struct oip_case c = {0};
    size_t good = 0, bad = 0;
    for (size_t s = 0; s < COUNT_OF(seeds); s++) {
        size_t n = strlen(seeds[s].data);
        for (size_t i = 0; i < n; i++) {
            for (int how = 0; how < 10; how++) {
                char data[128];
                memcpy(data, seeds[s].data, n + 1);
                if (how == 0) {
                    memmove(data + i, data + i + 1, n - i);
                } else if (how == 1) {
                    memmove(data + i + 1, data + i, n + 1 - i);
                } else {
                    data[i] = "[],\" 0e-"[how - 2];
                }
                enum err_code code = one(&c, seeds[s].t, "[2,2,2]", data);
                good += code == ERR_OK;
                bad += code != ERR_OK;
                assert_true(code == ERR_OK || code == ERR_INVALID);
            }
        }
    }
    assert_in_range(good, 100, 600);
    assert_in_range(bad, 800, 3000);
    case_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills),        cmocka_unit_test(refuses),      cmocka_unit_test(checks),
        cmocka_unit_test(block_layout), cmocka_unit_test(binary),       cmocka_unit_test(raw),
        cmocka_unit_test(many_names),   cmocka_unit_test(data_mutated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
