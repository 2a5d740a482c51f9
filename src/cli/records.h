/* SPDX-License-Identifier: Apache-2.0 */
/* Captured requests, as the server gives them out: one JSON object a line, oldest first.
 *
 *     {"kind": "request", "id", "at_ms", "version", "arm", "latency_us", "request": {"inputs": [TENSOR…]},
 *      "response": {"outputs": [TENSOR…]}, "predicted"?: "class"}        TENSOR: {"name", "shape", "datatype", "data"}
 *     {"kind": "feedback", "id", "at_ms", "label" | "correct" | "reward"}
 *
 * Other members and kinds are passed over. A request can not be replayed without its inputs, nor when its line is
 * redacted, nor when a text in it is not UTF-8 (the tensor's "encoding" is then base64); and one that asked for a
 * version by its number ("arm": "direct") is no user's, but may be an earlier replay. Such lines are counted, and left
 * out.
 *
 * Thread: read-only once made, then any. */
#ifndef WEIR_CLI_RECORDS_H
#define WEIR_CLI_RECORDS_H

#include <yyjson.h>

#include "base/base.h"
#include "base/err.h"

#define RECORDS_MAX 100000

struct record {
    yyjson_doc *doc;       /* the line; the texts below are its own */
    const char *id;        /* "" if it has none */
    const char *predicted; /* NULL: not known */
    yyjson_val *outputs;   /* of the response; NULL: there is none */
    char *body;            /* to send: {"inputs": …} */
    size_t body_n;
    int64_t at_ms;
    uint64_t version, latency_us;
    /* feedback, the first that came */
    const char *label;  /* NULL: none */
    bool told, correct; /* told: "correct" was said */
};
struct records {
    struct record *list;
    size_t n;
    yyjson_doc **feedback; /* that labels are texts of */
    size_t n_feedback;
    uint64_t redacted, binary, direct, unreadable; /* lines that are left out */
    uint64_t unjoined;                             /* feedback about none of the requests */
};

/* text: NDJSON; at most `limit` requests are taken. ERR_NOT_FOUND: there is none that can be replayed; ERR_TOO_LARGE.
 * *out is the caller's, and untouched on failure. */
enum err_code records_read(struct records *out, struct str text, size_t limit, struct err *e) MUST_USE;
void records_done(struct records *r);

#endif
