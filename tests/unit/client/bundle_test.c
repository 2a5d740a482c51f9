/* SPDX-License-Identifier: Apache-2.0 */
/* What is pushed from a folder or a file: which files, in which order, with which hashes, and what is refused. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/bundle.h"

#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  /* of "abc", FIPS 180-2 */
#define NONE "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* of "" */

static char home[64], start[4096];

static int set_up(void **state)
{
    (void)state;
    snprintf(home, sizeof home, "/tmp/weir-test-XXXXXX");
    return !getcwd(start, sizeof start) || !mkdtemp(home) || chdir(home);
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", home);
    return chdir(start) || system(command);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static struct bundle *make(const char *path, uint64_t version)
{
    struct bundle *b = NULL;
    struct err e = {0};
    if (bundle_new(&b, path, version, &e) != ERR_OK) {
        fail_msg("%s: %s", path, e.text);
    }
    return b;
}

static void refuse(const char *path, uint64_t version, enum err_code code, const char *says)
{
    struct bundle *b = NULL;
    struct err e = {0};
    assert_int_equal(bundle_new(&b, path, version, &e), code);
    assert_null(b);
    if (!strstr(e.text, says)) {
        fail_msg("%s: '%s' does not say '%s'", path, e.text, says);
    }
}

static void a_folder_is_walked_in_order(void **state)
{
    (void)state;
    mkdir("v", 0700);
    mkdir("v/sub", 0700);
    mkdir("v/.git", 0700);
    put("v/model.onnx", "abc");
    put("v/sub/a", "");
    put("v/sub.txt", "abc");
    put("v/.hidden", "no");
    put("v/.git/x", "no");
    put("v/config.pbtxt", "no");
    struct bundle *b = make("v/", 0);
    struct buf m;
    buf_init(&m, 10000);
    bundle_manifest(b, &m);
    assert_string_equal(buf_z(&m), "{\"files\":[{\"path\":\"model.onnx\",\"size\":3,\"sha256\":\"" ABC "\"},"
                                   "{\"path\":\"sub.txt\",\"size\":3,\"sha256\":\"" ABC "\"},"
                                   "{\"path\":\"sub/a\",\"size\":0,\"sha256\":\"" NONE "\"}]}");
    assert_int_equal(b->bytes, 6);
    assert_int_equal(b->version, 0);
    assert_false(b->single);
    buf_done(&m);
    bundle_free(b);
}

static void a_stream_is_manifest_and_bytes(void **state)
{
    (void)state;
    mkdir("s", 0700);
    put("s/a", "first");
    put("s/b", "");
    put("s/c", "third");
    struct bundle *b = make("s", 0);
    for (size_t cap = 1; cap < 300; cap += 13) {
        struct bundle_stream s;
        struct buf got, want;
        struct err e;
        buf_init(&got, 10000);
        buf_init(&want, 10000);
        bundle_stream_init(&s, b);
        for (uint64_t left = s.size; left > 0;) {
            int64_t n = bundle_stream_read(&s, buf_room(&got, cap), (size_t)MIN((uint64_t)cap, left), &e);
            assert_true(n > 0 && (uint64_t)n <= left);
            got.n += (size_t)n;
            left -= (uint64_t)n;
        }
        bundle_manifest(b, &want);
        buf_addz(&want, "firstthird");
        assert_true(str_eq(buf_str(&got), buf_str(&want)));
        bundle_stream_done(&s);
        buf_done(&got);
        buf_done(&want);
    }
    bundle_free(b);
}

static void a_change_while_sending_is_noticed(void **state)
{
    (void)state;
    mkdir("c", 0700);
    put("c/a", "first");
    struct bundle *b = make("c", 0);
    struct bundle_stream s;
    struct err e = {0};
    char room[4096];
    bundle_stream_init(&s, b);
    assert_int_equal(bundle_stream_read(&s, room, sizeof room, &e), (int64_t)s.manifest.n);
    put("c/a", "fir");
    assert_int_equal(bundle_stream_read(&s, room, sizeof room, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    bundle_stream_done(&s);
    bundle_free(b);
}

static void a_model_folder_gives_a_numbered_version(void **state)
{
    (void)state;
    static const char *const folders[] = {"m", "m/2", "m/10", "m/03", "m/x"};
    for (size_t i = 0; i < COUNT_OF(folders); i++) {
        mkdir(folders[i], 0700);
    }
    put("m/config.pbtxt", "x");
    put("m/7", "a file, not a folder");
    put("m/2/model.onnx", "two");
    put("m/10/model.onnx", "ten");
    struct bundle *b = make("m", 0);
    assert_int_equal(b->version, 10);
    assert_string_equal(b->root, "m/10");
    bundle_free(b);
    b = make("m//", 2);
    assert_int_equal(b->version, 2);
    assert_int_equal(b->n, 1);
    bundle_free(b);
    refuse("m", 4, ERR_NOT_FOUND, "no folder 4");
    b = make("m/10", 2); /* a version's own folder: the number is only its name */
    assert_int_equal(b->version, 0);
    bundle_free(b);
}

static void a_file_is_itself(void **state)
{
    (void)state;
    put("one.onnx", "abc");
    assert_int_equal(symlink("one.onnx", "link.onnx"), 0);
    struct bundle *b = make("./one.onnx", 3);
    assert_true(b->single);
    assert_string_equal(b->file[0].path, "one.onnx");
    assert_string_equal(b->file[0].sha256, ABC);
    struct bundle_stream s;
    bundle_stream_init(&s, b);
    assert_int_equal(s.size, 3);
    bundle_stream_done(&s);
    bundle_free(b);
    b = make("link.onnx", 0); /* what a person names may be a link */
    assert_int_equal(b->bytes, 3);
    bundle_free(b);
}

static void what_is_no_version_is_refused(void **state)
{
    (void)state;
    mkdir("e", 0700);
    refuse("nowhere", 0, ERR_NOT_FOUND, "nowhere");
    refuse("e", 0, ERR_INVALID, "holds no files");
    put("empty", "");
    refuse("empty", 0, ERR_INVALID, "is empty");
    mkdir("l", 0700);
    put("l/a", "x");
    assert_int_equal(symlink("/etc/hostname", "l/b"), 0);
    refuse("l", 0, ERR_INVALID, "symbolic link");
    mkdir("f", 0700);
    assert_int_equal(mkfifo("f/pipe", 0600), 0);
    refuse("f", 0, ERR_INVALID, "no plain file");
    mkdir("n", 0700);
    put("n/a\nb", "x");
    refuse("n", 0, ERR_INVALID, "control character");
    char deep[256] = "d";
    for (int i = 0; i < BUNDLE_DEPTH_MAX + 2; i++) {
        mkdir(deep, 0700);
        size_t n = strlen(deep);
        snprintf(deep + n, sizeof deep - n, "/d");
    }
    refuse("d", 0, ERR_INVALID, "too deep");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_walked_in_order),
        cmocka_unit_test(a_stream_is_manifest_and_bytes),
        cmocka_unit_test(a_change_while_sending_is_noticed),
        cmocka_unit_test(a_model_folder_gives_a_numbered_version),
        cmocka_unit_test(a_file_is_itself),
        cmocka_unit_test(what_is_no_version_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
