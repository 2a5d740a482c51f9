/* SPDX-License-Identifier: Apache-2.0 */
/* One captured answer or feedback: packed by the thread that answered, written as a line of JSON later by another.
 *
 * The packed form is this process's own; it never leaves memory. What a rule redacts is not even in it. The lines:
 *
 *     {"kind":"request","id":"…","at_ms":N,"version":N,"arm":"stable|canary|direct","user":"16 hex digits"|null,
 *      "latency_us":N,["predicted":"class",]["redacted":true,]
 *      "request":{"inputs":[TENSOR…]},"response":{"outputs":[TENSOR…]}}
 *     {"kind":"feedback","id":"…","at_ms":N,["label":"…",]["correct":true,]["reward":0.5,]["version":N,]
 *      ["supersede":true,]["redacted":true]}
 *     TENSOR: {"name","shape","datatype","data":[flat]}
 *
 * - `inputs` is what an inference request takes. Numbers read back to the same bits; NaN and infinities are null, as
 *   JSON has none. BYTES are strings; where one of a tensor is no UTF-8 all of them are base64 (RFC 4648, padded) and
 *   the tensor has "encoding":"base64".
 * - outputs are those that the request asked for, as the model gave them: no classification.
 * - user: of the user's key (null: it came without one) the first 16 digits of SHA-256(salt ":" key), the salt being
 *   the store's: the same user is the same everywhere in this store, and another in another.
 * - predicted: of an answer of one row, where the version's prediction output is among the outputs.
 * - A redacted tensor has "data":null,"redacted":true, and its line has "redacted":true: it can not be replayed.
 *   `user` redacted is null, `predicted` is left out (also when its output is redacted), `label` of feedback is null
 *   with "redacted":true.
 *
 * Thread: any; pure functions. */
#ifndef WEIR_API_CAPTURE_RECORD_H
#define WEIR_API_CAPTURE_RECORD_H

#include "api/data.h"
#include "base/buf.h"

struct capture_answer {
    const struct capture_rule *rule;
    struct str model, id, user; /* user p == NULL: it had no key */
    int64_t at_ms, version;
    enum arm arm;
    uint64_t start_us, latency_us; /* start_us: clock_us() at its first byte, for capture_answer; not packed */
    const struct predictor *predictor;
    const struct model_info *info;
    const struct job_block *block; /* the request, checked */
    const uint8_t *window;         /* what the block's offsets count from */
    const struct job_result *job;  /* its bytes may change while they are read */
};
/* What a person or a program said of an answer. */
struct capture_said {
    const struct capture_rule *rule;
    struct str model, id, label; /* label p == NULL: not said */
    int64_t at_ms, version;      /* version 0: not known */
    bool has_correct, correct, has_reward, supersede;
    double reward;
};

bool capture_redacts(const struct capture_rule *rule, struct str name);
/* Adds a name to the list. ERR_INVALID: it is empty, holds a zero byte, or there is no room for it. */
enum err_code capture_redact(struct capture_rule *rule, struct str name, struct err *e) MUST_USE;

/* How many bytes the packed form takes. */
uint64_t capture_answer_bytes(const struct capture_answer *a);
uint64_t capture_said_bytes(const struct capture_said *s);
/* Packs into n bytes, as many as were asked for. Returns how many it took; 0: it did not fit. */
uint64_t capture_answer_pack(uint8_t *to, uint64_t n, const struct capture_answer *a);
uint64_t capture_said_pack(uint8_t *to, uint64_t n, const struct capture_said *s);

/* Of a packed record. */
int64_t capture_record_at(const uint8_t *p);
struct str capture_record_model(const uint8_t *p);
/* Appends its line, newline included. False: a BYTES tensor of it is broken; then the buffer is as it was. What does
 * not fit is told by out->over. */
bool capture_record_json(struct buf *out, const uint8_t *p, const char *salt);

#endif
