/* SPDX-License-Identifier: Apache-2.0 */
/* JSON by streaming: a strict pull reader over a byte range, and a writer that appends to a buf.
 *
 * The reader is for request bodies, where tensors are long arrays of numbers that go straight into place: it checks the
 * whole grammar (RFC 8259), bounds the depth, never recurses and never allocates. Documents of the admin plane, where a
 * tree is handier, are read with yyjson by their handlers.
 *
 * Thread: one at a time. The input is not copied; strings come back raw (json_unescape decodes them). */
#ifndef WEIR_BASE_JSON_H
#define WEIR_BASE_JSON_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

#define JSON_DEPTH_MAX 64

enum json_kind {
    JSON_ERROR,
    JSON_END,
    JSON_OBJECT,
    JSON_OBJECT_END,
    JSON_ARRAY,
    JSON_ARRAY_END,
    JSON_KEY,
    JSON_STRING,
    JSON_NUMBER,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL
};

struct json_reader {
    const char *start, *p, *end;
    uint64_t nest; /* one bit a level: 1 = object */
    uint8_t depth;
    uint8_t state; /* private: what may come next */
    enum json_kind kind;
    struct str text;     /* KEY and STRING: between the quotes, still escaped; NUMBER: its characters */
    bool escaped;        /* text holds a backslash */
    const char *problem; /* after JSON_ERROR: what is wrong, for a person */
};

void json_reader_init(struct json_reader *r, struct str in);
/* The next token. After JSON_ERROR or JSON_END it keeps returning the same. Commas and colons are checked, not
 * reported. */
enum json_kind json_next(struct json_reader *r);
/* Skips the value that json_next has just begun (a whole container for OBJECT and ARRAY), checking it; after KEY, the
 * value of that key. False: error. */
bool json_skip(struct json_reader *r);
size_t json_offset(const struct json_reader *r); /* where the reader stands, in bytes */
/* ERR_INVALID "JSON: <problem> at byte N" (TOO deep names the limit). */
enum err_code json_error(const struct json_reader *r, struct err *e);

/* Decodes escapes of a checked string into out (at least s.n bytes); returns the length. Lone surrogates were refused
 * by the reader. */
size_t json_unescape(char *out, struct str s);
/* True if the KEY or STRING token equals z, escapes decoded. */
bool json_text_is(const struct json_reader *r, const char *z);

/* One JSON number at p (strict grammar), nearest double. Returns the byte behind it, NULL if malformed or longer than
 * JSON_NUMBER_MAX characters. A number beyond the range of double is not malformed: *out is then an infinity (HUGE_VAL
 * with the sign), for the caller to judge; one too small becomes 0. */
#define JSON_NUMBER_MAX 768
const char *json_scan_f64(const char *p, const char *end, double *out);
/* The numbers at *at, at most n of them, as long as they are short (up to seven characters and the comma, one blank
 * more is fine) and a comma stands behind each: returns how many, to[] has the same values as json_scan_f64 gives. *at
 * then stands at what comes next, which may be a number all the same, for json_scan_f64. */
size_t json_scan_f32s(const char **at, const char *end, float *to, size_t n);
/* One JSON integer (no fraction, no exponent) with sign: magnitude and sign. NULL if malformed, fractional or beyond 64
 * bits. */
const char *json_scan_int(const char *p, const char *end, uint64_t *magnitude, bool *negative);

/* Only the grammar (and length) of a number: the byte behind it, or NULL. */
const char *json_check_number(const char *p, const char *end);

bool json_utf8(struct str s); /* well-formed UTF-8: what json_str writes as it is */

/* ---- writer ---- */
void json_str(struct buf *b, struct str s);   /* quoted and escaped; invalid UTF-8 becomes U+FFFD */
void json_strz(struct buf *b, const char *z); /* NULL writes null */
/* Shortest digits that read back to the same value; NaN and infinities are written as null (JSON has none).
 * There is always a point or an exponent, so that a reader sees a float: 1.0, 0.25, 1e-07. */
void json_f32(struct buf *b, float v);
void json_f64(struct buf *b, double v);
/* "key":  (with the quotes and colon; a comma before it unless the last byte opens a container) */
void json_key(struct buf *b, const char *key);
void json_comma(struct buf *b); /* a comma unless the last byte opens a container or b is empty */

#endif
