/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON reader on texts that must and must not be taken, its tokens, skipping, strings both ways.
 *
 * Every text is read from an exactly sized heap copy, so that a sanitizer sees one byte read too many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"

/* Reads to the end; JSON_END if all is well. */
static enum json_kind read_all(struct str text, bool skip, const char **problem, size_t *offset)
{
    char *copy = malloc(text.n ? text.n : 1);
    memcpy(copy, text.p, text.n);
    struct json_reader r;
    json_reader_init(&r, (struct str){copy, text.n});
    enum json_kind kind;
    do {
        kind = json_next(&r);
        if (skip && kind != JSON_END && kind != JSON_ERROR && !json_skip(&r)) {
            kind = JSON_ERROR;
        }
    } while (kind != JSON_END && kind != JSON_ERROR);
    *problem = r.problem;
    *offset = json_offset(&r);
    assert_int_equal(json_next(&r), kind); /* and it stays there */
    free(copy);
    return kind;
}

static void taken(struct str text)
{
    const char *problem;
    size_t offset;
    for (int skip = 0; skip < 2; skip++) {
        if (read_all(text, skip, &problem, &offset) != JSON_END) {
            fail_msg("refused: " STR_FMT ": %s at %zu", STR_ARG(text), problem, offset);
        }
        assert_int_equal(offset, text.n);
    }
}

static void refused(struct str text)
{
    const char *problem;
    size_t offset, skip_offset;
    if (read_all(text, false, &problem, &offset) != JSON_ERROR) {
        fail_msg("taken: " STR_FMT, STR_ARG(text));
    }
    assert_non_null(problem);
    assert_true(offset <= text.n);
    assert_int_equal(read_all(text, true, &problem, &skip_offset), JSON_ERROR);
    assert_int_equal(skip_offset, offset); /* skipping finds the same fault in the same place */
}

#define S(lit) {(lit), sizeof(lit) - 1}

static void well_formed(void **state)
{
    (void)state;
    static const struct str texts[] = {
        S("[]"),
        S("{}"),
        S(" [ ] "),
        S("\t{\r\n}\n"),
        S("0"),
        S("-0"),
        S("-0.0e-0"),
        S("1E+2"),
        S("1e0001"),
        S("123456789012345678901234567890"),
        S("1e999"),
        S("[1,2 , 3\n,4]"),
        S("[[],[[]],{}]"),
        S("\"\""),
        S("\" \""),
        S("true"),
        S("false"),
        S("null"),
        S("[true,false,null]"),
        S("{\"a\":1}"),
        S("{\"a\":1,\"a\":2}"),
        S("{\"\":0}"),
        S("{\"a\" : {\"b\" : [ {\"c\" : null } ] } }"),
        S("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\uABcd\""),
        S("\"\\ud83d\\ude00\""),
        S("\"\\uD800\\uDC00\\uDBFF\\uDFFF\""),
        S("\"\x7f\""),
        S("\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""),
        S("\"\xed\x9f\xbf\xee\x80\x80\""),
        S("\"\xe2\x80\xa8 eight bytes and more of plain text\""),
        S("[\"\\\\\",\"]\"]"),
        S("[1.5,-2e-3,0.1,0,-0.5E+10]"),
        S("[1,2,3,{\"a\":[1,2,\"x\"]},4,[5,6],7]"),
        S("[1 ,2 ]")};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        taken(texts[i]);
    }
}

static const struct str bad_texts[] = {S(""),
                                       S(" "),
                                       S("["),
                                       S("]"),
                                       S("{"),
                                       S("}"),
                                       S("[}"),
                                       S("{]"),
                                       S("[1"),
                                       S("[1,"),
                                       S("[1,]"),
                                       S("[,1]"),
                                       S("[1,,2]"),
                                       S("[1 2]"),
                                       S("[1:2]"),
                                       S("[\"a\":1]"),
                                       S("{\"a\"}"),
                                       S("{\"a\":}"),
                                       S("{\"a\":1,}"),
                                       S("{,}"),
                                       S("{\"a\" 1}"),
                                       S("{a:1}"),
                                       S("{1:1}"),
                                       S("{null:1}"),
                                       S("{'a':1}"),
                                       S("{\"a\":1 \"b\":2}"),
                                       S("{\"a\":1:2}"),
                                       S("{\"a\"::1}"),
                                       S("{\"a\":1"),
                                       S("{\"a\""),
                                       S("{\"a\":"),
                                       S("[] []"),
                                       S("1 2"),
                                       S("[]]"),
                                       S("{}}"),
                                       S("[]x"),
                                       S("\"a\"\"b\""),
                                       S("tru"),
                                       S("trux"),
                                       S("truee"),
                                       S("True"),
                                       S("nul"),
                                       S("NaN"),
                                       S("Infinity"),
                                       S("-Infinity"),
                                       S("nan"),
                                       S("undefined"),
                                       S("+1"),
                                       S("-"),
                                       S("--1"),
                                       S("01"),
                                       S("-01"),
                                       S("00"),
                                       S("1."),
                                       S(".5"),
                                       S("-.5"),
                                       S("1.e2"),
                                       S("1e"),
                                       S("1e+"),
                                       S("1E-"),
                                       S("1e1.5"),
                                       S("0x10"),
                                       S("1_000"),
                                       S("1a"),
                                       S("[01,2]"),
                                       S("[1,02]"),
                                       S("[-]"),
                                       S("[1.,2]"),
                                       S("[1e,2]"),
                                       S("0e"),
                                       S("[1,2,3"),
                                       S("[1,2,3,"),
                                       S("\""),
                                       S("\"a"),
                                       S("\"\\\""),
                                       S("\"\\"),
                                       S("\"\\a\""),
                                       S("\"\\x41\""),
                                       S("\"\\0\""),
                                       S("\"\\u\""),
                                       S("\"\\u12\""),
                                       S("\"\\u123"),
                                       S("\"\\u12G4\""),
                                       S("\"\\U0041\""),
                                       S("\"\n\""),
                                       S("\"\t\""),
                                       S("\"\0\""),
                                       S("\"\x1f\""),
                                       S("\"12345678\x01\""),
                                       S("\"\\\0\""),
                                       S("\"\\ud800\""),
                                       S("\"\\udc00\""),
                                       S("\"\\ud800x\""),
                                       S("\"\\ud800\\n\""),
                                       S("\"\\ud800\\ud800\""),
                                       S("\"\\ud800\\u0041\""),
                                       S("\"\\ud800\\udc0\""),
                                       S("\"\\ud83d"),
                                       S("\"\x80\""),
                                       S("\"\xff\""),
                                       S("\"\xc0\x80\""),
                                       S("\"\xc1\xbf\""),
                                       S("\"\xe0\x9f\xbf\""),
                                       S("\"\xed\xa0\x80\""),
                                       S("\"\xed\xbf\xbf\""),
                                       S("\"\xf0\x8f\xbf\xbf\""),
                                       S("\"\xf4\x90\x80\x80\""),
                                       S("\"\xf5\x80\x80\x80\""),
                                       S("\"\xc3\""),
                                       S("\"\xe2\x82\""),
                                       S("\"\xe2\x82"),
                                       S("\"\xf0\x9f\x98"),
                                       S("\"\xc3\x28\""),
                                       S("\xef\xbb\xbf{}"),
                                       S("[\x0b]"),
                                       S("[\x0c]"),
                                       S("\xc2\xa0[]"),
                                       S("[1]/**/"),
                                       S("//\n[]"),
                                       S("#\n[]"),
                                       S("[\0]"),
                                       S("\0"),
                                       S("[1\0,2]"),
                                       S("*"),
                                       S("a"),
                                       S("[\"a\",\n4\n,1,"),
                                       S("{\"a\":tru}"),
                                       S("{\"a\":[1,2}"),
                                       S("[1,2}"),
                                       S("{\"a\":{\"b\":1]}"),
                                       S("[{\"a\":1},]")};

static void malformed(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad_texts); i++) {
        refused(bad_texts[i]);
    }
}

/* Each beginning of a good object is a bad one, and no byte behind the end is looked at. */
static void beginnings(void **state)
{
    (void)state;
    struct str text = STR("{\"inputs\":[{\"data\":[1.5e3,-0.25,12345678901.5],\"t\":[true,false,null],\"s\":"
                          "\"\\u00e9\\ud83d\\ude00\xc3\xa9\"}]}");
    for (size_t n = 0; n < text.n; n++) {
        refused((struct str){text.p, n});
    }
    taken(text);
}

static void depth(void **state)
{
    (void)state;
    char text[2 * JSON_DEPTH_MAX + 8];
    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    taken((struct str){text, 2 * JSON_DEPTH_MAX});
    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    refused((struct str){text, 2 * JSON_DEPTH_MAX + 2});
    struct json_reader r;
    struct err e;
    json_reader_init(&r, (struct str){text, 2 * JSON_DEPTH_MAX + 2});
    while (json_next(&r) != JSON_ERROR) {
    }
    assert_int_equal(json_error(&r, &e), ERR_INVALID);
    assert_string_equal(e.text, "JSON: nested deeper than 64 levels at byte 64");

    /* All levels remember what they are. */
    struct buf b;
    buf_init(&b, 4096);
    for (int i = 0; i < JSON_DEPTH_MAX; i++) {
        buf_addz(&b, i % 3 ? "[1," : "{\"a\":");
    }
    buf_addc(&b, '0');
    for (int i = JSON_DEPTH_MAX; i-- > 0;) {
        buf_addc(&b, i % 3 ? ']' : '}');
    }
    taken(buf_str(&b));
    b.p[b.n - 1] = ']';
    refused(buf_str(&b));
    buf_done(&b);
}

static void tokens(void **state)
{
    (void)state;
    struct json_reader r;
    json_reader_init(&r, STR(" {\"a\" : [1.50, \"x\\ny\", true], \"\\u0062\":null} "));
    assert_int_equal(json_next(&r), JSON_OBJECT);
    assert_int_equal(json_next(&r), JSON_KEY);
    assert_true(str_is(r.text, "a") && !r.escaped);
    assert_true(json_text_is(&r, "a") && !json_text_is(&r, "ab") && !json_text_is(&r, ""));
    assert_int_equal(json_next(&r), JSON_ARRAY);
    assert_int_equal(json_next(&r), JSON_NUMBER);
    assert_true(str_is(r.text, "1.50"));
    assert_int_equal(json_next(&r), JSON_STRING);
    assert_true(str_is(r.text, "x\\ny") && r.escaped);
    assert_true(json_text_is(&r, "x\ny") && !json_text_is(&r, "x\\ny") && !json_text_is(&r, "x\n"));
    assert_int_equal(json_next(&r), JSON_TRUE);
    assert_int_equal(json_next(&r), JSON_ARRAY_END);
    assert_int_equal(json_next(&r), JSON_KEY);
    assert_true(json_text_is(&r, "b") && !json_text_is(&r, "u0062"));
    assert_int_equal(json_next(&r), JSON_NULL);
    assert_int_equal(json_next(&r), JSON_OBJECT_END);
    assert_int_equal(json_next(&r), JSON_END);
}

static void skips(void **state)
{
    (void)state;
    struct json_reader r;
    json_reader_init(&r, STR("{\"a\":[1,2,[3,{\"b\":4}],5],\"c\":\"d\",\"e\":{\"f\":[]},\"g\":7}"));
    json_next(&r);
    assert_int_equal(json_next(&r), JSON_KEY);
    assert_int_equal(json_next(&r), JSON_ARRAY);
    assert_true(json_skip(&r));
    assert_int_equal(r.kind, JSON_ARRAY_END);
    assert_int_equal(json_next(&r), JSON_KEY);
    assert_true(json_text_is(&r, "c"));
    assert_true(json_skip(&r)); /* the value of a key */
    assert_int_equal(json_next(&r), JSON_KEY);
    assert_true(json_text_is(&r, "e"));
    assert_true(json_skip(&r));
    assert_int_equal(json_next(&r), JSON_KEY);
    assert_int_equal(json_next(&r), JSON_NUMBER);
    assert_true(json_skip(&r)); /* a scalar is already read */
    assert_true(str_is(r.text, "7"));
    assert_int_equal(json_next(&r), JSON_OBJECT_END);
    assert_int_equal(json_next(&r), JSON_END);
    assert_false(json_skip(&r));
}

static void unescapes(void **state)
{
    (void)state;
    static const struct {
        struct str in, out;
    } rows[] = {{S(""), S("")},
                {S("plain"), S("plain")},
                {S("\\\"\\\\\\/\\b\\f\\n\\r\\t"), S("\"\\/\b\f\n\r\t")},
                {S("a\\u0000b"), S("a\0b")},
                {S("\\u00e9\\u20AC\\uFFFF"), S("\xc3\xa9\xe2\x82\xac\xef\xbf\xbf")},
                {S("<\\ud83d\\uDE00>"), S("<\xf0\x9f\x98\x80>")},
                {S("\\uD800\\uDC00\\udbff\\udfff"), S("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf")}};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char out[64];
        size_t n = json_unescape(out, rows[i].in);
        assert_int_equal(n, rows[i].out.n);
        assert_memory_equal(out, rows[i].out.p, n);
    }
    struct json_reader r;
    json_reader_init(&r, STR("\"\\ud83d\\uDE00 \\u0041\\/\""));
    json_next(&r);
    assert_true(json_text_is(&r, "\xf0\x9f\x98\x80 A/"));
    assert_false(json_text_is(&r, "\xf0\x9f\x98\x80 A/."));
    assert_false(json_text_is(&r, "\xf0\x9f\x98\x81 A/"));
}

static void writes(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    buf_addc(&b, '{');
    json_key(&b, "a\"b");
    json_str(&b, STR("line\nquote\"slash\\tab\t\x01\x1f\x7f \xc3\xa9 much plain text here"));
    json_key(&b, "n");
    json_strz(&b, NULL);
    json_key(&b, "list");
    buf_addc(&b, '[');
    json_comma(&b);
    json_strz(&b, "");
    json_comma(&b);
    json_str(&b, STR("\0"));
    buf_addz(&b, "]}");
    assert_string_equal(
        buf_z(&b), "{\"a\\\"b\":\"line\\nquote\\\"slash\\\\tab\\t\\u0001\\u001f\x7f \xc3\xa9 much plain text here\","
                   "\"n\":null,\"list\":[\"\",\"\\u0000\"]}");
    taken(buf_str(&b));
    buf_clear(&b);
    json_str(&b, STR("a\xff"
                     "b\xc3(\xed\xa0\x80\xe2\x82"));
    assert_string_equal(buf_z(&b), "\"a\xef\xbf\xbd"
                                   "b\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    buf_clear(&b);
    json_comma(&b);
    assert_int_equal(b.n, 0);
    buf_done(&b);
}

/* Random bytes through the writer and back: equal if they were UTF-8, and well formed in any case. */
static void strings_round(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "a", "\"",   "\\",   "\n",      "\x01", "plain text", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
        "/", "\xff", "\xc3", "\xf0\x9f"};
    struct buf in, out;
    buf_init(&in, 1 << 16);
    buf_init(&out, 1 << 16);
    uint64_t x = 3;
    for (int round = 0; round < 20000; round++) {
        buf_clear(&in);
        buf_clear(&out);
        bool valid = true;
        for (int k = 0; k < 12; k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            size_t part = (x >> 40) % (round % 2 ? COUNT_OF(parts) : 10);
            valid &= part < 10;
            buf_addz(&in, parts[part]);
        }
        json_str(&out, buf_str(&in));
        struct json_reader r;
        json_reader_init(&r, buf_str(&out));
        assert_int_equal(json_next(&r), JSON_STRING);
        char text[1024];
        size_t n = json_unescape(text, r.text);
        assert_int_equal(json_next(&r), JSON_END);
        if (valid) {
            assert_int_equal(n, in.n);
            assert_memory_equal(text, in.p, n);
        }
    }
    buf_done(&in);
    buf_done(&out);
}

/* A good document with one byte changed: whatever the reader says, reading and skipping say the same, and nothing
 * breaks. */
static void one_byte_changed(void **state)
{
    (void)state;
    char text[] = "{\"inputs\":[{\"name\":\"x\\u00e9\xc3\xa9\\ud83d\\ude00\",\"shape\":[1,3],\"data\":[1.5, -2e-3 "
                  ",0]},{}],\"ok\":true}";
    size_t n = sizeof(text) - 1;
    for (size_t i = 0; i < n; i++) {
        char was = text[i];
        for (int c = 0; c < 256; c++) {
            const char *problem;
            size_t at_next, at_skip;
            text[i] = (char)c;
            enum json_kind next = read_all((struct str){text, n}, false, &problem, &at_next);
            assert_int_equal(read_all((struct str){text, n}, true, &problem, &at_skip), next);
            assert_int_equal(at_next, at_skip);
        }
        text[i] = was;
    }
}

/* json_utf8 says of every three bytes, alone and behind a text, whether json_str would leave them as they are. */
static void utf8(void **state)
{
    static const unsigned char some[] = {0x00, 'a',  0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2,
                                         0xdf, 0xe0, 0xe1, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff};
    (void)state;
    for (size_t i = 0; i < sizeof(some) * sizeof(some) * sizeof(some); i++) {
        char text[] = {'x', (char)some[i % sizeof(some)], (char)some[i / sizeof(some) % sizeof(some)],
                       (char)some[i / sizeof(some) / sizeof(some)]};
        struct buf b;
        buf_init(&b, 100);
        json_str(&b, (struct str){text, sizeof(text)});
        bool same = memmem(b.p, b.n, "\xef\xbf\xbd", 3) == NULL;
        assert_int_equal(json_utf8((struct str){text, sizeof(text)}), same);
        assert_int_equal(json_utf8((struct str){text + 1, sizeof(text) - 1}), same);
        buf_done(&b);
    }
    assert_true(json_utf8((struct str){NULL, 0}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed),   cmocka_unit_test(malformed),
        cmocka_unit_test(beginnings),    cmocka_unit_test(depth),
        cmocka_unit_test(tokens),        cmocka_unit_test(skips),
        cmocka_unit_test(unescapes),     cmocka_unit_test(writes),
        cmocka_unit_test(strings_round), cmocka_unit_test(one_byte_changed),
        cmocka_unit_test(utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
