/* SPDX-License-Identifier: Apache-2.0 */
/* A model's sample requests, as the server keeps them: one JSON object a line, an inference request with the true label
 * beside it. Split here into the body to send and the label.
 *
 * Thread: read-only once made, then any. */
#ifndef WEIR_CLI_SAMPLES_H
#define WEIR_CLI_SAMPLES_H

#include "base/base.h"
#include "base/err.h"

struct sample {
    char *body; /* JSON, terminated */
    size_t body_n;
    char *label; /* text of the label; NULL: none */
};
struct samples {
    struct sample *list;
    size_t n;
};

#define SAMPLES_MAX 100000

/* text: NDJSON. Blank lines are passed over. ERR_INVALID names the line. *out is the caller's, and untouched on
 * failure. */
enum err_code samples_read(struct samples *out, struct str text, struct err *e) MUST_USE;
void samples_done(struct samples *s);
/* One request: takes "label" out of a JSON object. body is the caller's (free). */
enum err_code sample_split(struct sample *out, struct str json, struct err *e) MUST_USE;

/* What a reply predicts, as text: the first element of the first BYTES or whole-number output, else the index of the
 * largest element of the first output. False if the reply is no inference reply. *by_index: the latter. */
bool sample_predicted(struct str reply, char *out, size_t cap, bool *by_index);

#endif
