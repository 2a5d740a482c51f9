/* SPDX-License-Identifier: Apache-2.0 */
/* oip_read: the structure of requests, every refusal with its message, and what must be accepted. */
#include "unit/api/oip_case.h"

#define X_HEAD "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\","
#define X_INPUT X_HEAD "\"shape\":[1],\"data\":[1]}]"
#define DEEP16 "[[[[[[[[[[[[[[[["
#define FLAT16 "]]]]]]]]]]]]]]]]"

static void reads_everything(void **state)
{
    (void)state;
    struct oip_case c = {0};
    /* Data before shape, keys and names with escapes, unknown members with content, blanks everywhere. */
    const char *json =
        " { \"\\u0069nputs\" : [ { \"data\" : [ 1 , 2.5, [\"]\\\"\"], true ] , \"extra\":{\"a\":[[[]],{\"b\":null}]},"
        "\"n\\u0061me\":\"x\\u00e9\\n\" , \"shape\":[2, 0,3],\"datatype\":\"INT8\" },"
        "{\"name\":\"b\",\"datatype\":\"BYTES\",\"shape\":[],\"parameters\":{\"binary_data_size\":7,\"content_type\":"
        "\"np\"}}],"
        "\"id\":\"a\\/"
        "b\",\"parameters\":{\"timeout\":\"1500000\",\"binary_data_output\":true,\"priority\":3,\"headers\":null},"
        "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":false}},"
        "{\"name\":\"z\",\"parameters\":{\"classification\":3,\"binary_data\":true},\"q\":[1]},{\"name\":\"w\"}],"
        "\"unknown\":" DEEP16 FLAT16 "} \n";
    assert_int_equal(case_read(&c, json, 7), ERR_OK);
    assert_true(str_is(c.r.id, "a/b"));
    assert_int_equal(c.r.timeout_us, 1500000);
    assert_int_equal(c.r.priority, 3);
    assert_true(c.r.binary_output);
    assert_false(c.r.raw);
    assert_int_equal(c.r.n_in, 2);
    assert_int_equal(c.r.n_out, 3);
    assert_int_equal(c.r.binary_bytes, 7);
    const struct oip_input *in = c.r.in;
    assert_true(str_is(in[0].name, "x\xC3\xA9\n"));
    assert_int_equal(in[0].dtype, DTYPE_INT8);
    assert_int_equal(in[0].rank, 3);
    assert_int_equal(in[0].dim[0], 2);
    assert_int_equal(in[0].dim[1], 0);
    assert_int_equal(in[0].elements, 0);
    assert_true(str_is(in[0].data, "[ 1 , 2.5, [\"]\\\"\"], true ]"));
    assert_false(in[0].is_binary);
    assert_true(in[1].is_binary && in[1].binary == 7 && !in[1].data.p && in[1].rank == 0 && in[1].elements == 1);
    const struct oip_output *out = c.r.out;
    assert_true(str_is(out[0].name, "y") && out[0].binary == 0 && out[0].classes == 0);
    assert_true(str_is(out[1].name, "z") && out[1].binary == 1 && out[1].classes == 3);
    assert_true(str_is(out[2].name, "w") && out[2].binary == -1);
    case_done(&c);
}

static void accepts(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{\"inputs\":[]}",
        X_INPUT "}",
        X_INPUT ",\"id\":null,\"parameters\":null,\"outputs\":null}",
        X_INPUT ",\"id\":\"\",\"parameters\":{},\"outputs\":[]}",
        X_INPUT ",\"parameters\":{\"timeout\":0,\"x\":\"y\",\"z\":1e9,\"b\":false}}",
        X_INPUT ",\"parameters\":{\"timeout\":18446744073709551615}}",
        X_INPUT ",\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":4294967295}}]}",
        X_INPUT ",\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data_size\":\"of no meaning here\"}}]}",
        X_HEAD "\"parameters\":null,\"shape\":[],\"data\":[]}]}",
        X_HEAD "\"shape\":[2147483648,65536],\"data\":[]}]}",
        X_HEAD "\"shape\":[1,1,1,1,1,1,1,1],\"data\":[[[[[[[[1]]]]]]]]}]}",
        X_HEAD "\"shape\":[1],\"parameters\":{\"binary_data_size\":0}}]}",
    };
    struct oip_case c = {0};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        if (case_read(&c, good[i], 0)) {
            fail_msg("%s: %s", good[i], c.e.text);
        }
    }
    case_done(&c);
}

static const struct refusal {
    const char *json, *text;
    enum err_code code; /* 0: ERR_INVALID */
} refusals[] = {
    /* the document */
    {"", "JSON: the document is empty at byte 0", 0},
    {"  ", "JSON: the document ends too early at byte 2", 0},
    {"[]", "the body must be a JSON object", 0},
    {"1", "the body must be a JSON object", 0},
    {"{}", "the request has no inputs", 0},
    {"{\"id\":\"a\"}", "the request has no inputs", 0},
    {"{\"inputs\":[]} x", "JSON: something stands behind the document at byte 14", 0},
    {"{\"inputs\":[]", "JSON: the document ends too early at byte 12", 0},
    {"{\"inputs\":[],}", "JSON: a key in quotes is expected at byte 13", 0},
    {"{\"inputs\":[,]}", "JSON: a value is expected at byte 11", 0},
    {"{\"inputs\" []}", "JSON: a colon is expected after a key at byte 10", 0},
    {"{\"id\":\"\\ud800\"}", "JSON: half of a surrogate pair in a string at byte 7", 0},
    {"{\"x\":" DEEP16 DEEP16 DEEP16 DEEP16 FLAT16 FLAT16 FLAT16 FLAT16 ",\"inputs\":[]}",
     "JSON: nested deeper than 64 levels at byte 68", 0},
    /* members at the top */
    {"{\"inputs\":{}}", "inputs must be an array", 0},
    {"{\"inputs\":null}", "inputs must be an array", 0},
    {"{\"inputs\":[1]}", "inputs[0] must be an object", 0},
    {"{\"inputs\":[],\"inputs\":[]}", "inputs is given twice", 0},
    {"{\"inputs\":[],\"\\u0069nputs\":[]}", "inputs is given twice", 0},
    {"{\"inputs\":[],\"id\":7}", "id must be a string", 0},
    {"{\"inputs\":[],\"id\":\"a\",\"id\":\"b\"}", "id is given twice", 0},
    {"{\"inputs\":[],\"outputs\":{}}", "outputs must be an array", 0},
    {"{\"inputs\":[],\"outputs\":[\"y\"]}", "outputs[0] must be an object", 0},
    {"{\"inputs\":[],\"outputs\":[{}]}", "outputs[0] has no name", 0},
    {"{\"inputs\":[],\"outputs\":[{\"name\":1}]}", "outputs[0].name must be a string", 0},
    {"{\"inputs\":[],\"outputs\":[{\"name\":\"y\"},{\"name\":\"z\"},{\"name\":\"\\u0079\"}]}",
     "outputs[0] and outputs[2] are both named 'y'", 0},
    /* members of an input */
    {"{\"inputs\":[{}]}", "inputs[0] has no name", 0},
    {"{\"inputs\":[{\"name\":\"x\"}]}", "inputs[0] has no datatype", 0},
    {"{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\"}]}", "inputs[0] has no shape", 0},
    {"{\"inputs\":[{\"name\":[]}]}", "inputs[0].name must be a string", 0},
    {"{\"inputs\":[{\"name\":\"x\",\"name\":\"x\"}]}", "inputs[0].name is given twice", 0},
    {"{\"inputs\":[{\"datatype\":\"FP8\"}]}",
     "inputs[0].datatype 'FP8' is unknown; there are BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, "
     "FP16, "
     "BF16, FP32, FP64, BYTES",
     0},
    {"{\"inputs\":[{\"datatype\":\"0123456789012345678901234567890123456789012345678\"}]}",
     "inputs[0].datatype is longer than 48 bytes", 0},
    {X_HEAD "\"shape\":[1]}]}", "input 'x' has neither data nor parameters.binary_data_size", 0},
    {X_HEAD "\"shape\":[1],\"data\":[1],\"parameters\":{\"binary_data_size\":4}}]}",
     "input 'x' has both data and parameters.binary_data_size", 0},
    {"{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1]},"
     "{\"name\":\"\\u0078\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1]}]}",
     "inputs[0] and inputs[1] are both named 'x'", 0},
    /* shapes */
    {X_HEAD "\"shape\":4}]}", "inputs[0].shape must be an array of whole numbers", 0},
    {X_HEAD "\"shape\":[1,-1]}]}", "inputs[0].shape[1] must be a whole number from 0 to 2147483648, not -1", 0},
    {X_HEAD "\"shape\":[-0]}]}", "inputs[0].shape[0] must be a whole number from 0 to 2147483648, not -0", 0},
    {X_HEAD "\"shape\":[1.0]}]}", "inputs[0].shape[0] must be a whole number from 0 to 2147483648, not 1.0", 0},
    {X_HEAD "\"shape\":[1e3]}]}", "inputs[0].shape[0] must be a whole number from 0 to 2147483648, not 1e3", 0},
    {X_HEAD "\"shape\":[\"1\"]}]}", "inputs[0].shape[0] must be a whole number from 0 to 2147483648", 0},
    {X_HEAD "\"shape\":[[1]]}]}", "inputs[0].shape[0] must be a whole number from 0 to 2147483648", 0},
    {X_HEAD "\"shape\":[null]}]}", "inputs[0].shape[0] must be a whole number from 0 to 2147483648", 0},
    {X_HEAD "\"shape\":[2147483649]}]}",
     "inputs[0].shape[0] must be a whole number from 0 to 2147483648, not 2147483649", 0},
    {X_HEAD "\"shape\":[9223372036854775808]}]}",
     "inputs[0].shape[0] must be a whole number from 0 to 2147483648, not 9223372036854775808", 0},
    {X_HEAD "\"shape\":[18446744073709551617]}]}",
     "inputs[0].shape[0] must be a whole number from 0 to 2147483648, not 18446744073709551617", 0},
    {X_HEAD "\"shape\":[16,1152921504606846978]}]}",
     "inputs[0].shape[1] must be a whole number from 0 to 2147483648, not 1152921504606846978", 0},
    {X_HEAD "\"shape\":[2147483648,2147483648],\"data\":[]}]}",
     "input 'x': shape [2147483648,2147483648] has too many elements", 0},
    {X_HEAD "\"shape\":[2147483648,65536,4],\"data\":[]}]}",
     "input 'x': shape [2147483648,65536,4] has too many elements", 0},
    {X_HEAD "\"shape\":[0,2147483648,2147483648],\"data\":[]}]}",
     "input 'x': shape [0,2147483648,2147483648] has too many elements", 0},
    {X_HEAD "\"shape\":[1,1,1,1,1,1,1,1,1]}]}", "inputs[0].shape has more than 8 dimensions", 0},
    /* data, as far as brackets go */
    {X_HEAD "\"shape\":[1],\"data\":1}]}", "inputs[0].data must be an array", 0},
    {X_HEAD "\"shape\":[1],\"data\":\"AAAA\"}]}", "inputs[0].data must be an array", 0},
    {X_HEAD "\"shape\":[1],\"data\":{\"b64\":\"\"}}]}", "inputs[0].data must be an array", 0},
    {X_HEAD "\"shape\":[1],\"data\":[{\"b64\":\"\"}]}]}",
     "inputs[0].data holds an object; it takes numbers, booleans, strings and arrays of them", 0},
    {X_HEAD "\"shape\":[1],\"data\":[1", "inputs[0].data does not end", 0},
    {X_HEAD "\"shape\":[1],\"data\":[\"a]}]}", "inputs[0].data has a string that does not end", 0},
    {X_HEAD "\"shape\":[1],\"data\":[\"a\\", "inputs[0].data has a string that does not end", 0},
    {X_HEAD "\"shape\":[1],\"data\":" DEEP16 DEEP16 DEEP16 DEEP16 FLAT16 FLAT16 FLAT16 FLAT16 "}]}",
     "inputs[0].data is nested too deep", 0},
    {X_HEAD "\"shape\":[1],\"data\":[1]]}]}", "JSON: a comma or } is expected at byte 63", 0},
    /* parameters */
    {"{\"inputs\":[],\"parameters\":[]}", "parameters must be an object", 0},
    {"{\"inputs\":[],\"parameters\":{\"a\":[]}}", "parameters 'a' must be a string, a number or a boolean", 0},
    {"{\"inputs\":[],\"parameters\":{\"a\":{}}}", "parameters 'a' must be a string, a number or a boolean", 0},
    {"{\"inputs\":[],\"parameters\":{\"timeout\":1.5}}",
     "parameters.timeout must be a whole number of microseconds, not 1.5", 0},
    {"{\"inputs\":[],\"parameters\":{\"priority\":-1}}",
     "parameters.priority must be a whole number, 0 or more, not -1", 0},
    {"{\"inputs\":[],\"parameters\":{\"timeout\":-1}}",
     "parameters.timeout must be a whole number of microseconds, not -1", 0},
    {"{\"inputs\":[],\"parameters\":{\"timeout\":\"1s\"}}", "parameters.timeout must be a whole number of microseconds",
     0},
    {"{\"inputs\":[],\"parameters\":{\"timeout\":\"\"}}", "parameters.timeout must be a whole number of microseconds",
     0},
    {"{\"inputs\":[],\"parameters\":{\"timeout\":true}}", "parameters.timeout must be a whole number of microseconds",
     0},
    {"{\"inputs\":[],\"parameters\":{\"timeout\":1,\"timeout\":2}}", "parameters 'timeout' is given twice", 0},
    {"{\"inputs\":[],\"parameters\":{\"binary_data_output\":1}}", "parameters.binary_data_output must be true or false",
     0},
    {"{\"inputs\":[],\"parameters\":{\"sequence_id\":5}}", "parameters.sequence_id: sequences are not served",
     ERR_UNIMPLEMENTED},
    {"{\"inputs\":[],\"parameters\":{\"sequence_start\":true}}", "parameters.sequence_start: sequences are not served",
     ERR_UNIMPLEMENTED},
    {"{\"inputs\":[],\"parameters\":{\"sequence_end\":true}}", "parameters.sequence_end: sequences are not served",
     ERR_UNIMPLEMENTED},
    {X_HEAD "\"parameters\":{\"shared_memory_region\":\"r\"}}]}",
     "inputs[0].parameters.shared_memory_region: shared memory is not served; send the data", ERR_UNIMPLEMENTED},
    {X_HEAD "\"parameters\":{\"shared_memory_byte_size\":4}}]}",
     "inputs[0].parameters.shared_memory_byte_size: shared memory is not served; send the data", ERR_UNIMPLEMENTED},
    {"{\"inputs\":[],\"outputs\":[{\"name\":\"y\",\"parameters\":{\"shared_memory_offset\":4}}]}",
     "outputs[0].parameters.shared_memory_offset: shared memory is not served; send the data", ERR_UNIMPLEMENTED},
    {"{\"inputs\":[],\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":\"true\"}}]}",
     "outputs[0].parameters.binary_data must be true or false", 0},
    {"{\"inputs\":[],\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":4294967296}}]}",
     "outputs[0].parameters.classification must be a whole number, 0 or more, not 4294967296", 0},
    {X_HEAD "\"parameters\":{\"binary_data_size\":\"4\"}}]}",
     "inputs[0].parameters.binary_data_size must be a whole number, 0 or more", 0},
    {X_HEAD "\"parameters\":{\"binary_data_size\":-4}}]}",
     "inputs[0].parameters.binary_data_size must be a whole number, 0 or more, not -4", 0},
    {X_HEAD "\"parameters\":{\"binary_data_size\":4.0}}]}",
     "inputs[0].parameters.binary_data_size must be a whole number, 0 or more, not 4.0", 0},
    {X_HEAD "\"parameters\":{\"binary_data_size\":18446744073709551616}}]}",
     "inputs[0].parameters.binary_data_size must be a whole number, 0 or more, not 18446744073709551616", 0},
    /* sizes against what follows: nothing does in this table */
    {X_HEAD "\"shape\":[1],\"parameters\":{\"binary_data_size\":4}}]}",
     "the inputs' binary_data_size add up to 4 bytes, but 0 follow the JSON", 0},
    {"{\"inputs\":[{\"name\":\"x\",\"datatype\":\"INT8\",\"shape\":[1],\"parameters\":{\"binary_data_size\":"
     "18446744073709551615}},"
     "{\"name\":\"y\",\"datatype\":\"INT8\",\"shape\":[1],\"parameters\":{\"binary_data_size\":1}}]}",
     "the inputs' binary_data_size add up to more than 64 bits", 0},
};

static void refuses(void **state)
{
    (void)state;
    struct oip_case c = {0};
    for (size_t i = 0; i < COUNT_OF(refusals); i++) {
        enum err_code code = case_read(&c, refusals[i].json, 0);
        case_fails(&c, code, refusals[i].code ? refusals[i].code : ERR_INVALID, refusals[i].text);
        /* Out parameters stay as they were. */
        assert_null(c.r.in);
        assert_int_equal(c.r.n_in, 0);
    }
    assert_int_equal(case_read(&c, X_HEAD "\"shape\":[1],\"parameters\":{\"binary_data_size\":4}}]}", 5), ERR_INVALID);
    assert_string_equal(c.e.text, "the inputs' binary_data_size add up to 4 bytes, but 5 follow the JSON");
    assert_int_equal(case_read(&c, X_INPUT "}", 1), ERR_INVALID);
    case_done(&c);
}

/* Every prefix of a request is refused, and reads nothing behind its end. */
static void cut_short(void **state)
{
    (void)state;
    struct oip_case c = {0};
    const char *json = "{\"id\":\"\\u00e9\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"BYTES\",\"shape\":[1,2],"
                       "\"data\":[[\"a\\\\\",\"\\\"\"]],"
                       "\"parameters\":{\"a\":1.5e3,\"b\":true}}],\"outputs\":[{\"name\":\"y\",\"parameters\":{"
                       "\"classification\":12}}]}";
    size_t n = strlen(json);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(case_read_n(&c, (struct str){json, i}, 0), ERR_INVALID);
    }
    assert_int_equal(case_read_n(&c, (struct str){json, n}, 0), ERR_OK);
    case_done(&c);
}

/* Any byte changed: accepted or refused, never out of bounds. */
static void mutated(void **state)
{
    (void)state;
    static struct tensor_info in[] = {{"x", DTYPE_BYTES, 2, {-1, 2}}}, out[] = {{"y", DTYPE_FP32, 1, {3}}};
    MODEL(model, 1, in, 1, out);
    struct oip_case c = {0};
    const char *json = "{\"id\":\"a\\u00e9\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"BYTES\",\"shape\":[1,2],"
                       "\"data\":[[\"a\\\\\",\"\\\"\"]]}],"
                       "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":12,\"binary_data\":true}}]}";
    static const char with[] = "\"\\[]{},:0-9eE.x \n\x01\xC3\x80";
    size_t n = strlen(json);
    size_t accepted = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof(with) - 1; k++) {
            char changed[512];
            memcpy(changed, json, n);
            changed[i] = with[k];
            accepted += case_read_n(&c, (struct str){changed, n}, 0) == ERR_OK && case_fill(&c, &model) == ERR_OK;
        }
    }
    assert_in_range(accepted, 100, n * 8);
    case_done(&c);
}

static void limits(void **state)
{
    (void)state;
    struct oip_case c = {0};
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int list = 0; list < 2; list++) {
        for (int n = TENSORS_MAX; n <= TENSORS_MAX + 1; n++) {
            buf_clear(&b);
            BUF_LIT(&b, "{\"inputs\":[");
            if (list) {
                BUF_LIT(&b, "],\"outputs\":[");
            }
            for (int i = 0; i < n; i++) {
                buf_addf(&b, "%s{\"name\":\"t%d\",\"datatype\":\"INT8\",\"shape\":[0],\"data\":[]}", i ? "," : "", i);
            }
            BUF_LIT(&b, "]}");
            enum err_code code = case_read_n(&c, buf_str(&b), 0);
            if (n > TENSORS_MAX) {
                case_fails(&c, code, ERR_INVALID,
                           list ? "outputs has more than 1024 members" : "inputs has more than 1024 members");
            } else {
                assert_int_equal(code, ERR_OK);
                assert_int_equal(list ? c.r.n_out : c.r.n_in, TENSORS_MAX);
                assert_true(str_is(list ? c.r.out[1023].name : c.r.in[1023].name, "t1023"));
            }
        }
    }
    for (int n = 256; n <= 257; n++) {
        buf_clear(&b);
        BUF_LIT(&b, "{\"inputs\":[],\"id\":\"");
        for (int i = 0; i < n; i++) {
            buf_addz(&b, i % 2 ? "\\u0041" : "A");
        }
        BUF_LIT(&b, "\"}");
        enum err_code code = case_read_n(&c, buf_str(&b), 0);
        if (n == 256) {
            assert_int_equal(code, ERR_OK);
            assert_int_equal(c.r.id.n, 256);
        } else {
            case_fails(&c, code, ERR_INVALID, "id is longer than 256 bytes");
        }
    }
    /* A long name is not printed, and does not cost the arena anything. */
    buf_clear(&b);
    BUF_LIT(&b, "{\"inputs\":[{\"name\":\"\\n");
    for (int i = 0; i < 100000; i++) {
        buf_addc(&b, 'n');
    }
    BUF_LIT(&b, "\"}]}");
    case_fails(&c, case_read_n(&c, buf_str(&b), 0), ERR_INVALID, "inputs[0].name is longer than 255 bytes");
    /* A million nested arrays, a million dimensions. */
    buf_clear(&b);
    BUF_LIT(&b, X_HEAD "\"data\":");
    for (int i = 0; i < 1000000; i++) {
        buf_addc(&b, '[');
    }
    case_fails(&c, case_read_n(&c, buf_str(&b), 0), ERR_INVALID, "inputs[0].data is nested too deep");
    buf_clear(&b);
    BUF_LIT(&b, X_HEAD "\"shape\":[1");
    for (int i = 0; i < 500000; i++) {
        BUF_LIT(&b, ",1");
    }
    case_fails(&c, case_read_n(&c, buf_str(&b), 0), ERR_INVALID, "inputs[0].shape has more than 8 dimensions");
    buf_done(&b);
    case_done(&c);
}

/* An arena that is too small is an answer, not a crash. */
static void arena_small(void **state)
{
    (void)state;
    for (size_t max = 0; max < 4000; max += 16) {
        struct arena a;
        struct oip_request r = {0};
        struct err e;
        arena_init(&a, max);
        const char *json =
            "{\"id\":\"\\n\",\"inputs\":[{\"name\":\"\\t\",\"datatype\":\"INT8\",\"shape\":[0],\"data\":[]},"
            "{\"name\":\"b\",\"datatype\":\"INT8\",\"shape\":[0],\"data\":[]}]}";
        enum err_code code = oip_read(&r, &a, str_of(json), 0, &e);
        assert_true(code == ERR_TOO_LARGE || (code == ERR_OK && r.n_in == 2));
        assert_true(code == ERR_OK || max < 2000);
        arena_done(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_everything), cmocka_unit_test(accepts), cmocka_unit_test(refuses),
        cmocka_unit_test(cut_short),        cmocka_unit_test(mutated), cmocka_unit_test(limits),
        cmocka_unit_test(arena_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
