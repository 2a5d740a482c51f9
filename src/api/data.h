/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane: the Open Inference Protocol over REST, and feedback. One plane a connection thread, all with the same
 * table.
 *
 * Thread: each plane by its own thread; data_new and data_free by house.c while no thread runs. */
#ifndef WEIR_API_DATA_H
#define WEIR_API_DATA_H

#include "api/plane.h"

struct join;
struct capture_part;
struct data_facts {
    const char *version;     /* of the server */
    const char *user_header; /* lower case: "x-weir-user" */
    uint64_t body_max;
    struct join *join;           /* this thread's answered requests, for feedback */
    struct plane *const *planes; /* of all threads, by shard index */
    unsigned n_planes;
    struct capture_part *capture; /* this thread's; NULL: nothing is captured */
};

extern const struct api_route data_routes[];
extern const size_t n_data_routes;
void data_finished(struct request *r);

/* ---- infer.c ---- */
extern const struct api_stages infer_stages;
void infer_finished(struct request *r);
/* {version} of a path as a number: 0 when the route has none. ERR_NOT_FOUND "version 'x' is not a number". */
enum err_code version_arg(const struct request *r, int64_t *out, struct err *e) MUST_USE;

/* ---- watch.c ---- */
/* The requests of rollouts that are open for too long are looked for from now on, four times a second, as long as a
 * rollout runs. This plane's thread. */
void judge_watch(struct plane *p);
void judge_unwatch(struct plane *p); /* before its loop goes */

/* ---- park.c ---- */
/* Has a request wait for the cold version that was picked, and control load it. done() comes once: ERR_OK, pick again;
 * ERR_UNAVAILABLE with the reason; ERR_TIMEOUT at deadline_us. Never from inside the call; unpark, for a request that
 * ends before, takes it back. *out is gone when done() comes. ERR_UNAVAILABLE: as many wait as may be queued. */
struct parked;
enum err_code park(struct parked **out, struct request *r, const struct pick *pick, uint64_t deadline_us,
                   void (*done)(void *ctx, const struct err *e), void *ctx, struct err *e) MUST_USE;
void unpark(struct parked *p); /* NULL is fine */

/* ---- predicted.c ---- */
/* The class that row `row` of a result predicts, by the version's prediction output; n == 0: none. Text may lie in the
 * result or in `small`. */
struct predictor {
    int port;
    char *const *labels;
    size_t n_labels;
};
struct str predicted_class(const struct predictor *p, const struct job_result *r, uint64_t row, char small[64]);
/* How many rows the prediction output has; 0 when it is not among the result. */
uint64_t predicted_rows(const struct predictor *p, const struct job_result *r);

/* ---- feedback.c: answered requests, remembered in bounded memory until their feedback comes ---- */
/* The newest 65,536 of a thread, or fewer when ids fall together: an older one gives way. */
struct join *join_new(void);
void join_free(struct join *j);
/* user: a hash of the user's key, 0 if it had none. */
void join_put(struct join *j, struct str model, struct str id, struct series *series, int64_t version, enum arm arm,
              uint64_t user, struct str predicted);
void feedback_run(struct request *r);
void feedback_finished(struct request *r);

/* ---- goals.c: what the goal of an experiment is told ---- */
/* Of a request that was counted in `series` (which it holds, or which was found to live): it is counted if the model's
 * running experiment has this series as an arm, and this kind of goal. key: of the user, or else of the request. This
 * plane's thread. */
void goal_value(struct plane *p, struct str model, const struct series *series, enum goal_kind kind, uint64_t key,
                double value);
/* The mean of the goal's output, where that is GOAL_OUTPUT and the reply has it. info: of the version that ran. */
void goal_output(struct plane *p, struct str model, const struct series *series, uint64_t key,
                 const struct model_info *info, const struct job_result *job);

#endif
