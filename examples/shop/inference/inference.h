/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's inference module: what the models say, in the shop's own words. The only module that includes weir.h.
 *
 * Each family of models has a place (weir.h says what a place is); where it is, nobody but the configuration knows.
 * A call never takes longer than its family's deadline. A family that has failed three times in a row is left alone
 * for a second, then for two, four, eight: meanwhile calls answer INFERENCE_DOWN at once, and one call at a time tries
 * whether it is back. What the shop does without an answer is the business module's matter.
 *
 * Thread: any number at once. */
#ifndef SHOP_INFERENCE_H
#define SHOP_INFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum inference_family { INFERENCE_INTENT, INFERENCE_RECOMMEND, INFERENCE_VISION, INFERENCE_FAMILIES };

enum inference_code {
    INFERENCE_OK,
    INFERENCE_BAD_INPUT, /* the model can not read this: the caller's matter, asking again does not help */
    INFERENCE_DOWN,      /* nobody answered in time */
};

#define INFERENCE_HISTORY 12 /* products that the recommender looks back at */
#define INFERENCE_BEST 10    /* products that it names */

struct inference_conf {
    const char *place[INFERENCE_FAMILIES]; /* for weir_open; equal ones share one handle (one private server) */
    int64_t deadline_ms[INFERENCE_FAMILIES];
};

struct inference_answer {
    char label[32];              /* intent, vision: the class; "" of recommend */
    double score;                /* intent, vision: its probability */
    int64_t ids[INFERENCE_BEST]; /* recommend: product ids, best first */
    int n_ids;
    char model[16], version[24], request_id[64]; /* who said it: for feedback, and for people who look into it */
};

/* Who wants to know. */
struct inference_caller {
    const char *user;        /* the assignment key */
    const char *traceparent; /* the W3C trace context that the call belongs to; NULL: none */
};

struct inference;

/* Opens every place. *out is the caller's. A place of a private server is started here, which takes its time; others
 * may come later. False: `why` (at least 512 bytes) says what is wrong. */
bool inference_open(struct inference **out, const struct inference_conf *conf, char *why, size_t why_size);
void inference_close(struct inference *f); /* NULL is fine */

/* All fill *a on INFERENCE_OK only. */

/* What a person wants who writes this: a label of examples/models/intent. */
enum inference_code inference_intent(struct inference *f, const struct inference_caller *by, const char *text,
                                     struct inference_answer *a);
/* What a person looks at next who looked at these products, oldest first. Of more than INFERENCE_HISTORY the last ones
 * count. */
enum inference_code inference_recommend(struct inference *f, const struct inference_caller *by, const int64_t *products,
                                        int n, struct inference_answer *a);
/* What a photo shows: the bytes of a JPEG or PNG file. The label is one of examples/models/vision. */
enum inference_code inference_vision(struct inference *f, const struct inference_caller *by, const void *photo,
                                     size_t bytes, struct inference_answer *a);

/* What became of an answer: it helped, or it did not. model and request_id are those of the answer. */
enum inference_code inference_feedback(struct inference *f, const char *model, const char *request_id, bool helped);

#endif
