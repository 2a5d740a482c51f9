/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the OIP codec share: models made by one line, and a request taken through all its steps. */
#ifndef WEIR_TESTS_OIP_CASE_H
#define WEIR_TESTS_OIP_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/oip.h"

/* A model's tensor: {"x", DTYPE_FP32, 2, {-1, 4}} */
#define MODEL(name, n_in_, in_, n_out_, out_) \
    static const struct model_info name = {   \
        .platform = "onnxruntime_onnx", .n_in = (n_in_), .n_out = (n_out_), .in = (in_), .out = (out_), .joins = true}

/* The window's offset at which every block of these tests begins: not zero, so that a confusion of bases shows. */
enum { CASE_OFF = 4096 };

/* One request on its way; each step's result stays for the test to look at. */
struct oip_case {
    struct arena arena;
    struct oip_request r;
    struct err e;
    struct job_block *block; /* heap, exactly block_bytes long (rounded to 64), so that ASan sees one byte too many */
    char *text;              /* a heap copy of the JSON without a terminator, for the same reason */
};

static inline void case_init(struct oip_case *c)
{
    memset(c, 0, sizeof(*c));
    arena_init(&c->arena, 4u << 20);
}

static inline void case_done(struct oip_case *c)
{
    arena_done(&c->arena);
    free(c->block);
    free(c->text);
    memset(c, 0, sizeof(*c));
}

static inline enum err_code case_read_n(struct oip_case *c, struct str json, uint64_t tail)
{
    case_done(c);
    case_init(c);
    c->text = malloc(json.n ? json.n : 1);
    memcpy(c->text, json.p, json.n);
    return oip_read(&c->r, &c->arena, (struct str){c->text, json.n}, tail, &c->e);
}

static inline enum err_code case_read(struct oip_case *c, const char *json, uint64_t tail)
{
    return case_read_n(c, str_of(json), tail);
}

/* Check and fill, on a block of noise. */
static inline enum err_code case_fill(struct oip_case *c, const struct model_info *info)
{
    enum err_code code = oip_check(&c->r, &c->arena, info, &c->e);
    if (code) {
        return code;
    }
    assert_int_equal(c->r.block_bytes % 64, 0);
    free(c->block);
    c->block = aligned_alloc(64, c->r.block_bytes);
    memset(c->block, 0xA5, c->r.block_bytes);
    return oip_fill(&c->r, info, c->block, CASE_OFF, &c->e);
}

static inline enum err_code case_all(struct oip_case *c, const char *json, const struct model_info *info)
{
    enum err_code code = case_read(c, json, 0);
    return code ? code : case_fill(c, info);
}

static inline const uint8_t *case_data(const struct oip_case *c, unsigned port)
{
    return (const uint8_t *)c->block + (c->block->in[port].off - CASE_OFF);
}

static inline void case_fails(const struct oip_case *c, enum err_code is, enum err_code want, const char *text)
{
    if (is != want || strcmp(c->e.text, text) != 0) {
        print_error("expected %s: %s\n     got %s: %s\n", err_name(want), text, err_name(is), c->e.text);
    }
    assert_int_equal(is, want);
    assert_string_equal(c->e.text, text);
}

#endif
