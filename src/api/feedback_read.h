/* SPDX-License-Identifier: Apache-2.0 */
/* What came as feedback: one JSON object, or one a line.
 *
 *     {"id": "…", "label": "…" | "correct": true | "reward": 0.7, "supersede": true, "at": …, "source": "…"}
 *
 * id: the X-Request-Id of the answer. label is compared with the predicted class; it excludes correct; reward may stand
 * beside either. supersede corrects what was said before. at (a time as text, or milliseconds since 1970) and source
 * are the sender's own notes: checked, and not used. Other members are ignored.
 *
 * Thread: any. */
#ifndef WEIR_API_FEEDBACK_READ_H
#define WEIR_API_FEEDBACK_READ_H

#include "api/join.h"
#include "base/err.h"

#define FEEDBACK_LINES 4096
#define FEEDBACK_BYTES (1u << 20)
#define FEEDBACK_REWARD_MOST 1e12 /* as large as a reward may be, either way */

struct feedback_item {
    uint64_t key, label; /* join_key of the id; join_label */
    double reward;
    const char *why;                         /* it can not be counted; static text; NULL: it can */
    uint32_t line;                           /* from 1 */
    uint32_t id_at, id_n, label_at, label_n; /* where both stand in the items' text */
    bool has_label, has_correct, correct, has_reward, supersede;
    /* what became of it */
    bool found;   /* version, arm and result say something; result also where it was not: FEEDBACK_ORPHAN */
    bool changed; /* it superseded something */
    uint8_t result, arm;
    int64_t version;
};
struct feedback_items { /* feedback_items_done */
    struct feedback_item *item;
    size_t n;
    bool lines;      /* they came line by line: each is answered for */
    struct buf text; /* ids and labels */
};
void feedback_items_done(struct feedback_items *f);
struct str feedback_id(const struct feedback_items *f, const struct feedback_item *item);
struct str feedback_label(const struct feedback_items *f, const struct feedback_item *item); /* p == NULL: none */

/* lines: the sender says that it is one object a line; else that is seen. What is wrong with one object is its `why`.
 * ERR_INVALID: nothing in it, or it is no JSON object (where it is not line by line); ERR_TOO_LARGE: more than
 * FEEDBACK_LINES; ERR_UNAVAILABLE: no memory. Then there is nothing to be done with. */
enum err_code feedback_read(struct feedback_items *out, struct str model, struct str body, bool lines,
                            struct err *e) MUST_USE;

#endif
