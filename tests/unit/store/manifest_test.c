/* SPDX-License-Identifier: Apache-2.0 */
/* The list of files: what is accepted, what is refused and in which words, and the digest that others can compute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/store_priv.h"

#define SHA "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define FILE_AS(path) "{\"path\":\"" path "\",\"size\":3,\"sha256\":\"" SHA "\"}"

static enum err_code parse_seal(struct manifest *m, const char *text, struct err *e)
{
    enum err_code rc = manifest_parse(m, str_of(text), e);
    if (rc == ERR_OK && (rc = manifest_seal(m, e)) != ERR_OK) {
        manifest_done(m);
    }
    return rc;
}

static void sorted_and_digested(void **state)
{
    (void)state;
    /* The digest was computed by sha256sum over the canonical text. */
    struct manifest m = {0};
    struct err e = {0};
    assert_int_equal(parse_seal(&m,
                                " {\"note\": [1, {}], \"files\": [" FILE_AS("model.onnx") ", " FILE_AS(
                                    "a/b.txt") ", {\"x\":null,\"size\":3,"
                                               "\"sha256\":\"" SHA "\",\"path\":\"a-b\"}]} ",
                                &e),
                     ERR_OK);
    assert_int_equal(m.n, 3);
    assert_int_equal(m.bytes, 9);
    assert_string_equal(m.files[0].path, "a-b");
    assert_string_equal(m.files[1].path, "a/b.txt");
    assert_string_equal(m.files[2].path, "model.onnx");
    const char *canonical = "{\"files\":[" FILE_AS("a-b") "," FILE_AS("a/b.txt") "," FILE_AS("model.onnx") "]}";
    char digest[65];
    sha256_hex(digest, canonical, strlen(canonical));
    assert_string_equal(m.digest, digest);
    assert_string_equal(m.digest, "ad0da5ec40c30dbf749642033078a9436e9c46a84712cc995762f08c523d936a");
    assert_ptr_equal(manifest_find(&m, "a/b.txt"), &m.files[1]);
    assert_ptr_equal(manifest_find(&m, "a-b"), &m.files[0]);
    assert_null(manifest_find(&m, "a"));
    assert_null(manifest_find(&m, "a/b.txt2"));
    assert_null(manifest_find(&m, "zzz"));
    manifest_done(&m);
    manifest_done(&m);
}

static const struct {
    const char *text, *says;
    enum err_code code;
} refused[] = {
    {"", "JSON", ERR_INVALID},
    {"[]", "must be an object", ERR_INVALID},
    {"{}", "empty", ERR_INVALID},
    {"{\"files\":[]}", "empty", ERR_INVALID},
    {"{\"files\":{}}", "as an array", ERR_INVALID},
    {"{\"files\":[1]}", "must hold objects", ERR_INVALID},
    {"{\"files\":[{}]}", "needs path, size and sha256", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a") "],\"files\":[" FILE_AS("b") "]}", "once", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a") "]", "JSON", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a") "]} x", "JSON", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a") "," FILE_AS("b") "," FILE_AS("a") "]}", "'a' comes twice", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a") "," FILE_AS("a-b") "," FILE_AS("a/b") "]}", "'a' is a file and the folder of 'a/b'",
     ERR_INVALID},
    {"{\"files\":[" FILE_AS("../a") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a/../b") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a/./b") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("/etc/passwd") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a//b") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a/") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a\\\\b") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a\\u0000b") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("\\u002e\\u002e/a") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("%2e%2e/a") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("a b") "]}", "not allowed", ERR_INVALID},
    {"{\"files\":[" FILE_AS("") "]}", "0 bytes", ERR_INVALID},
    {"{\"files\":[" FILE_AS("manifest.json") "]}", "taken", ERR_INVALID},
    {"{\"files\":[" FILE_AS("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17") "]}", "too deep", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":-1,\"sha256\":\"" SHA "\"}]}", "size", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":1.5,\"sha256\":\"" SHA "\"}]}", "size", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":1e3,\"sha256\":\"" SHA "\"}]}", "size", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":9223372036854775808,\"sha256\":\"" SHA "\"}]}", "size", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":\"3\",\"sha256\":\"" SHA "\"}]}", "a number", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"path\":\"b\",\"size\":3,\"sha256\":\"" SHA "\"}]}", "once each", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":3,\"sha256\":\"abc\"}]}", "64 lower-case hex", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":3,\"sha256\":"
     "\"BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD\"}]}",
     "64 lower-case hex", ERR_INVALID},
    {"{\"files\":[{\"path\":\"a\",\"size\":9223372036854775807,\"sha256\":\"" SHA "\"},"
     "{\"path\":\"b\",\"size\":9223372036854775807,\"sha256\":\"" SHA "\"}]}",
     "add up", ERR_INVALID},
};

static void refused_with_the_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        struct manifest m = {0};
        struct err e = {0};
        enum err_code rc = parse_seal(&m, refused[i].text, &e);
        if (rc != refused[i].code || !strstr(e.text, refused[i].says)) {
            fail_msg("%s\ngave %s: %s\nexpected: %s", refused[i].text, err_name(rc), e.text, refused[i].says);
        }
        assert_null(m.files);
    }
}

static char *many(size_t n)
{
    struct buf b;
    buf_init(&b, MANIFEST_BYTES_MAX);
    buf_addz(&b, "{\"files\":[");
    for (size_t i = 0; i < n; i++) {
        buf_addf(&b, "%s{\"path\":\"f%zu\",\"size\":1,\"sha256\":\"%s\"}", i ? "," : "", i, SHA);
    }
    buf_addz(&b, "]}");
    assert_false(b.over);
    char *text = xstrdup(buf_z(&b));
    buf_done(&b);
    return text;
}

static void as_many_files_as_allowed_and_no_more(void **state)
{
    (void)state;
    struct manifest m = {0};
    struct err e = {0};
    char *text = many(MANIFEST_FILES_MAX);
    assert_int_equal(parse_seal(&m, text, &e), ERR_OK);
    assert_int_equal(m.n, MANIFEST_FILES_MAX);
    for (size_t i = 0; i < m.n; i++) {
        assert_ptr_equal(manifest_find(&m, m.files[i].path), &m.files[i]);
    }
    manifest_done(&m);
    free(text);
    text = many(MANIFEST_FILES_MAX + 1);
    assert_int_equal(parse_seal(&m, text, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "at most 4096"));
    free(text);
}

static void too_many_bytes(void **state)
{
    (void)state;
    struct manifest m = {0};
    struct err e = {0};
    char *text = calloc(1, MANIFEST_BYTES_MAX + 1u);
    assert_non_null(text);
    memset(text, ' ', MANIFEST_BYTES_MAX + 1u);
    assert_int_equal(manifest_parse(&m, (struct str){text, MANIFEST_BYTES_MAX + 1u}, &e), ERR_TOO_LARGE);
    free(text);
}

static void long_paths(void **state)
{
    (void)state;
    char path[300], part[NAME_MAX_LEN + 2];
    struct err e = {0};
    memset(part, 'x', NAME_MAX_LEN + 1);
    assert_int_equal(manifest_path_ok((struct str){part, NAME_MAX_LEN}, &e), ERR_OK);
    assert_int_equal(manifest_path_ok((struct str){part, NAME_MAX_LEN + 1}, &e), ERR_INVALID);
    memset(path, 'x', sizeof path);
    path[127] = '/';
    assert_int_equal(manifest_path_ok((struct str){path, 255}, &e), ERR_OK);
    path[128] = '/';
    path[127] = 'x';
    assert_int_equal(manifest_path_ok((struct str){path, 256}, &e), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sorted_and_digested),
        cmocka_unit_test(refused_with_the_reason),
        cmocka_unit_test(as_many_files_as_allowed_and_no_more),
        cmocka_unit_test(too_many_bytes),
        cmocka_unit_test(long_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
