/* SPDX-License-Identifier: Apache-2.0 */
/* Capture: a sample of what was asked and answered, and the feedback on it, kept on the disk for replays and for
 * training. Off unless weir.yaml says so, for payloads are private:
 *
 *     capture: {sample: 10%, redact: [text], max_bytes: 1GiB, max_age: 14d, segment_bytes: 16MiB}
 *     families: {intent: {capture: {sample: 100%, redact: [user]}}}    what it does not say is as above
 *
 * Of every answer with status 200 a hash of its request's id decides whether it is captured, so that a retry is when
 * the first try was, and feedback is when its request was. `redact` names tensors, inputs and outputs, and the fields
 * user, predicted and label of the lines.
 *
 * The request path does not wait for it: the connection thread copies the raw tensors into a ring of its own (no lock,
 * no allocation, no disk), and what does not fit is dropped and counted. Now and then, five times a second or when a
 * ring is half full, one job on the store thread takes the records out, oldest first, writes them as JSON
 * (api/capture_record.h) and appends them to the model's segment (store/capture_log.h). A disk that is full or fails
 * costs records, which are counted, and a line in the log a minute; nothing else.
 *
 * Thread: as said with each call. */
#ifndef WEIR_API_CAPTURE_H
#define WEIR_API_CAPTURE_H

#include "api/capture_record.h"
#include "base/conf.h"
#include "control/control.h"

#define CAPTURE_RING_BYTES (8u << 20) /* of each connection thread; a record may take a quarter */
#define CAPTURE_EXPORTS 4             /* at once */
#define CAPTURE_MODELS 256            /* that are captured since the start; those beyond are not */

/* `capture:` of weir.yaml. */
struct capture_conf {
    struct capture_rule rule; /* of families that say nothing else; first, so that the table's first row fits both */
    uint64_t max_bytes, max_age_us, segment_bytes;
};
extern const struct setting capture_settings[]; /* sample, which is the rule's, and the bounds; not redact */
extern const size_t n_capture_settings, n_capture_rule_settings;

enum capture_count {
    CAPTURE_SAMPLED, /* records that were to be kept */
    CAPTURE_WRITTEN, /* that are on the disk, or were */
    CAPTURE_RING_FULL,
    CAPTURE_TOO_LARGE, /* for the ring, or as a line */
    CAPTURE_BROKEN,    /* the model changed its answer while it was copied */
    CAPTURE_DISK,      /* full, or failing */
    CAPTURE_COUNTS
};
#define CAPTURE_DROPPED CAPTURE_RING_FULL /* the first of the reasons to drop one */
extern const char *const capture_count_names[CAPTURE_COUNTS];
struct capture_sum {
    uint64_t n[CAPTURE_COUNTS];
};

struct capture_spec {
    struct loop *loop; /* control's */
    struct store *store;
    const struct capture_conf *conf;
    unsigned threads; /* connection threads */
    bool on;          /* some family samples: without it there are no rings, and only what is there grows old */
};

struct capture;
/* A connection thread's own. */
struct capture_part;

/* Control thread, before the others run. ERR_UNAVAILABLE: no memory for the rings. */
enum err_code capture_new(struct capture **out, const struct capture_spec *spec, struct err *e) MUST_USE;
struct capture_part *capture_part(struct capture *c, unsigned thread); /* NULL when nothing is sampled */
/* No connection thread runs any more: what waits is written, every segment is sealed, by the store's last job. Then
 * store_close, then capture_free. NULL is fine for both. */
void capture_stop(struct capture *c);
void capture_free(struct capture *c);

/* ---- connection threads ---- */
/* After an answer, while its tensors are there; fills at_ms and latency_us. p, or the rule, NULL: nothing. */
void capture_answer(struct capture_part *p, struct capture_answer *a);
/* After feedback has found the answer it is about; the same rules. */
void capture_feedback(struct capture_part *p, struct capture_said *s);

/* ---- looking ---- */
/* All threads added up; any thread. */
void capture_sum(const struct capture *c, const char *model, struct capture_sum *out);
uint64_t capture_bytes(const struct capture *c); /* on the disk, of all models; any thread */
const struct capture_conf *capture_conf(const struct capture *c);
/* Takes one of CAPTURE_EXPORTS places for those who read the log; ERR_UNAVAILABLE: there is none. Control's thread. */
enum err_code capture_export_begin(struct capture *c, struct err *e) MUST_USE;
void capture_export_end(struct capture *c);
/* On the store thread: the log, NULL while it can not be opened. */
struct capture_log *capture_log(struct capture *c);

#endif
