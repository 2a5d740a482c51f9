/* SPDX-License-Identifier: Apache-2.0 */
/* The header walk: crafted files of every kind it must refuse, real models with each byte changed and cut at each
 * length. The tensors that carry external data are put at every place where a model can have one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/onnx/header.h"
#include "base/buf.h"
#include "support/onnx_rig.h"

static char folder[] = "/tmp/weir-header-XXXXXX";
static int dirfd_;

static int make_folder(void **state)
{
    char path[128];
    FILE *f;

    (void)state;
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/weights.bin", folder);
    f = fopen(path, "w");
    for (int i = 0; f && i < 80; i++) {
        fputc(i, f);
    }
    if (!f || fclose(f) != 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/link.bin", folder);
    if (symlink("weights.bin", path) != 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/pipe.bin", folder);
    if (mkfifo(path, 0600) != 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/sub", folder);
    if (mkdir(path, 0700) != 0) {
        return -1;
    }
    dirfd_ = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dirfd_ < 0 ? -1 : 0;
}

static int drop_folder(void **state)
{
    static const char *const files[] = {"weights.bin", "link.bin", "pipe.bin"};
    char path[128];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        unlinkat(dirfd_, files[i], 0);
    }
    unlinkat(dirfd_, "sub", AT_REMOVEDIR);
    close(dirfd_);
    snprintf(path, sizeof path, "%s", folder);
    return rmdir(path);
}

/* ---- a small protobuf writer ---- */

static void varint(struct buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) {
        buf_addc(b, (char)(v | 0x80));
    }
    buf_addc(b, (char)v);
}

static void bytes(struct buf *b, unsigned field, const void *p, size_t n)
{
    varint(b, field << 3 | 2);
    varint(b, n);
    buf_add(b, p, n);
}

/* b becomes a message that holds what b was, as `field`. */
static void wrap(struct buf *b, unsigned field)
{
    struct buf inner = *b;

    buf_init(b, 1 << 20);
    bytes(b, field, inner.p, inner.n);
    buf_done(&inner);
}

static void entry(struct buf *tensor, const char *key, const void *value, size_t n)
{
    struct buf e;

    buf_init(&e, 1 << 20);
    bytes(&e, 1, key, strlen(key));
    bytes(&e, 2, value, n);
    bytes(tensor, 13, e.p, e.n);
    buf_done(&e);
}

/* The way from the model down to a tensor. */
static const uint8_t ways[][8] = {
    {7, 5},                   /* graph.initializer */
    {7, 1, 5, 5},             /* graph.node.attribute.t */
    {7, 1, 5, 10},            /* graph.node.attribute.tensors */
    {7, 1, 5, 6, 5},          /* a subgraph's initializer */
    {7, 1, 5, 11, 5},         /* graphs */
    {7, 15, 1},               /* graph.sparse_initializer.values */
    {7, 15, 2},               /* … indices */
    {7, 1, 5, 22, 1},         /* attribute.sparse_tensor */
    {7, 1, 5, 23, 2},         /* attribute.sparse_tensors */
    {20, 1, 5},               /* training_info.initialization */
    {20, 2, 5},               /* training_info.algorithm */
    {25, 7, 5, 5},            /* function.node.attribute.t */
    {25, 11, 5},              /* function.attribute_proto.t */
    {7, 1, 5, 6, 1, 5, 6, 5}, /* a graph in a graph in a graph */
};

/* A model around one tensor. */
static void model_around(struct buf *tensor, const uint8_t *way, size_t n)
{
    while (n > 0 && way[n - 1] == 0) {
        n--;
    }
    while (n > 0) {
        wrap(tensor, way[--n]);
    }
    varint(tensor, 1 << 3);
    varint(tensor, 8);
    if (way[0] != 7) {
        bytes(tensor, 7, "", 0);
    }
}

static enum err_code check(const struct buf *b, struct err *e)
{
    struct onnx_header h;
    char *exact = xmalloc(b->n ? b->n : 1);
    enum err_code code;

    if (b->n) {
        memcpy(exact, b->p, b->n);
    }
    code = onnx_header_check(&h, (uint8_t *)exact, b->n, dirfd_, e);
    free(exact);
    return code;
}

/* ---- external data ---- */

#define TEXT(lit) lit, sizeof(lit) - 1

static void external_data(void **state)
{
    static const struct {
        const char *location;
        size_t n;
        const char *offset, *length, *why; /* why NULL: accepted */
    } rows[] = {
        {TEXT("weights.bin"), "0", "80", NULL},
        {TEXT("weights.bin"), "64", "16", NULL},
        {TEXT("weights.bin"), NULL, NULL, NULL},
        {TEXT("weights.bin"), "64", "17", "bytes 64 to 81"},
        {TEXT("weights.bin"), "81", NULL, "which has 80"},
        {TEXT("weights.bin"), "9223372036854775807", "9223372036854775807", "which has 80"},
        {TEXT("weights.bin"), "-1", "4", "no number"},
        {TEXT("weights.bin"), "0x10", "4", "no number"},
        {TEXT("weights.bin"), "18446744073709551616", "4", "no number"},
        {TEXT("weights.bin"), "", "4", "no number"},
        {TEXT("../../etc/passwd"), NULL, NULL, "plain file name"},
        {TEXT("/etc/passwd"), NULL, NULL, "plain file name"},
        {TEXT("sub/../weights.bin"), NULL, NULL, "plain file name"},
        {TEXT("./weights.bin"), NULL, NULL, "plain file name"},
        {TEXT(".."), NULL, NULL, "plain file name"},
        {TEXT("."), NULL, NULL, "plain file name"},
        {TEXT(""), NULL, NULL, "plain file name"},
        {TEXT("..\\weights.bin"), NULL, NULL, "plain file name"},
        {TEXT("weights.bin\0/../x"), NULL, NULL, "plain file name"},
        {TEXT("*/_ORT_MEM_ADDR_/*"), "4096", "4", "plain file name"}, /* ONNX Runtime's mark for an address */
        {TEXT("missing.bin"), NULL, NULL, "not in the model's folder"},
        {TEXT("link.bin"), NULL, NULL, "not a regular file"},
        {TEXT("pipe.bin"), NULL, NULL, "not a regular file"},
        {TEXT("sub"), NULL, NULL, "not a regular file"},
    };

    (void)state;
    for (size_t w = 0; w < COUNT_OF(ways); w++) {
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            struct buf b;
            struct err e = {0};
            enum err_code code;
            buf_init(&b, 1 << 20);
            entry(&b, "location", rows[i].location, rows[i].n);
            if (rows[i].offset) {
                entry(&b, "offset", rows[i].offset, strlen(rows[i].offset));
            }
            if (rows[i].length) {
                entry(&b, "length", rows[i].length, strlen(rows[i].length));
            }
            model_around(&b, ways[w], sizeof ways[w]);
            code = check(&b, &e);
            if (rows[i].why ? code != ERR_REFUSED || !strstr(e.text, rows[i].why) : code != ERR_OK) {
                fail_msg("way %zu, row %zu: %s %s", w, i, err_name(code), e.text);
            }
            buf_done(&b);
        }
    }
}

/* Whichever of two locations the runtime's decoder will believe, both are looked at; and a field may come twice. */
static void said_twice(void **state)
{
    for (unsigned bad_first = 0; bad_first < 2; bad_first++) {
        struct buf b;
        struct err e;
        (void)state;
        buf_init(&b, 1 << 20);
        entry(&b, "location", bad_first ? "/etc/passwd" : "weights.bin", 11);
        entry(&b, "location", bad_first ? "weights.bin" : "/etc/passwd", 11);
        model_around(&b, ways[0], sizeof ways[0]);
        assert_int_equal(check(&b, &e), ERR_REFUSED);
        buf_done(&b);

        /* Two graphs, which protobuf merges into one. */
        buf_init(&b, 1 << 20);
        entry(&b, "location", "/etc/passwd", 11);
        wrap(&b, 5);
        wrap(&b, 7);
        struct buf whole;
        buf_init(&whole, 1 << 20);
        bytes(&whole, 7, "", 0);
        buf_add(&whole, b.p, b.n);
        bytes(&whole, 7, "", 0);
        assert_int_equal(check(&whole, &e), ERR_REFUSED);
        buf_done(&whole);
        buf_done(&b);
    }
}

/* ---- the wire format ---- */

static void malformed(void **state)
{
    static const struct {
        const char *p;
        size_t n;
        const char *why;
    } rows[] = {
        {TEXT(""), "no graph"},
        {TEXT("\x08\x08"), "no graph"},
        {TEXT("\x3a\x00"), "format version"},
        {TEXT("\x08\x00\x3a\x00"), "format version"},
        {TEXT("\x08"), "malformed number"},
        {TEXT("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), "malformed number"}, /* 65 bits */
        {TEXT("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "malformed number"},
        {TEXT("\x00\x01"), "malformed field"},                     /* field 0 */
        {TEXT("\xba\x80\x80\x80\x80\x00\x00"), "malformed field"}, /* a tag of six bytes */
        {TEXT("\xff\xff\xff\xff\x7f\x00"), "malformed field"},     /* a field beyond 2^29 */
        {TEXT("\x3b"), "unknown type"},                            /* a group */
        {TEXT("\x3e"), "unknown type"},
        {TEXT("\x3a\x05\x0a"), "beyond the end"},
        {TEXT("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "beyond the end"},
        {TEXT("\x3a\x02\x0a\x01"), "beyond the end"}, /* a child larger than its parent */
        {TEXT("\x09\x01\x02"), "beyond the end"},
        {TEXT("\x0d\x01\x02"), "beyond the end"},
        {TEXT("GGUF\x03\x00\x00\x00"), "not"},
        {TEXT("\x89PNG\r\n\x1a\n"), "not"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buf b;
        struct err e = {0};
        buf_init(&b, 1 << 20);
        buf_add(&b, rows[i].p, rows[i].n);
        if (check(&b, &e) != ERR_REFUSED || !strstr(e.text, rows[i].why)) {
            fail_msg("row %zu: %s", i, e.text);
        }
        buf_done(&b);
    }
}

static void depth(void **state)
{
    (void)state;
    for (unsigned levels = 1; levels < 60; levels++) {
        struct buf b;
        struct err e = {0};
        enum err_code code;
        buf_init(&b, 1 << 20);
        for (unsigned i = 0; i < levels; i++) { /* a graph within an attribute within a node */
            wrap(&b, 6);
            wrap(&b, 5);
            wrap(&b, 1);
        }
        wrap(&b, 7);
        varint(&b, 1 << 3);
        varint(&b, 8);
        code = check(&b, &e);
        /* model, graph, then three a level */
        assert_int_equal(code, 2 + 3 * levels <= ONNX_DEPTH_MAX ? ERR_OK : ERR_REFUSED);
        buf_done(&b);
    }
}

static struct buf read_model(const char *name)
{
    char path[1200];
    struct buf b;
    FILE *f;
    int c;

    snprintf(path, sizeof path, "%s/model.onnx", onnx_rig_model(name));
    f = fopen(path, "r");
    assert_non_null(f);
    buf_init(&b, 1 << 20);
    while ((c = getc(f)) != EOF) {
        buf_addc(&b, (char)c);
    }
    fclose(f);
    assert_false(b.over);
    return b;
}

static void real_models(void **state)
{
    static const char *const names[] = {"mlp", "spin", "external", "zipmap", "add"};

    (void)state;
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        struct buf b = read_model(names[m]);
        struct err e = {0};
        struct onnx_header h;
        if (check(&b, &e) != ERR_OK) {
            fail_msg("%s: %s", names[m], e.text);
        }
        assert_int_equal(onnx_header_check(&h, (uint8_t *)b.p, b.n, dirfd_, &e), ERR_OK);
        assert_int_equal(h.ir_version, 8);
        assert_int_equal(h.external, strcmp(names[m], "external") == 0);
        assert_true(h.nodes > 0);
        /* Cut anywhere and changed anywhere: any answer, no crash (the sanitizers look on). */
        size_t whole = b.n, refused = 0;
        for (b.n = 0; b.n < whole; b.n++) {
            refused += check(&b, &e) == ERR_REFUSED;
        }
        assert_true(refused > whole / 2);
        for (size_t i = 0; i < MIN(whole, (size_t)600); i++) {
            char was = b.p[i];
            for (unsigned v = 0; v < 256; v += 5) {
                b.p[i] = (char)v;
                assert_true(check(&b, &e) == ERR_OK || e.text[0]);
            }
            b.p[i] = was;
        }
        buf_done(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(external_data), cmocka_unit_test(said_twice),  cmocka_unit_test(malformed),
        cmocka_unit_test(depth),         cmocka_unit_test(real_models),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
