/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane: the Open Inference Protocol over REST, and feedback. One plane a connection thread, all with the same
 * table.
 *
 * Thread: each plane by its own thread; data_new and data_free by house.c while no thread runs. */
#ifndef WEIR_API_DATA_H
#define WEIR_API_DATA_H

#include "api/join.h"
#include "api/plane.h"
#include "api/trace.h"

struct capture_part;
struct shadow_pool;
struct data_facts {
    const char *version;     /* of the server */
    const char *user_header; /* lower case: "x-weir-user" */
    uint64_t body_max;
    unsigned inference_admin; /* inference role: the port of the admin plane, UINT_MAX: it has none; 0: another role */
    struct join *join;        /* this thread's answered requests, for feedback */
    struct plane *const *planes; /* of all threads, by shard index */
    unsigned n_planes;
    struct capture_part *capture; /* this thread's; NULL: nothing is captured */
    struct shadow_pool *shadows;  /* this thread's; see shadow.h */
    struct spans *spans;          /* this thread's */
    struct trace_rule trace;
};

extern const struct api_route data_routes[];
extern const size_t n_data_routes;
void data_finished(struct request *r);

/* ---- infer.c ---- */
extern const struct api_stages infer_stages;
void infer_finished(struct request *r);
/* {version} of a path as a number: 0 when the route has none. ERR_NOT_FOUND "version 'x' is not a number". */
enum err_code version_arg(const struct request *r, int64_t *out, struct err *e) MUST_USE;

/* True if a request that was checked against `a` is one for `b` as it stands. Versions that share a rollout have the
 * same names and dtypes; one that was promoted without may be another model. */
bool same_request(const struct model_info *a, const struct model_info *b, const struct job_block *block);
/* A request's block into another window, where `bytes` were taken for it at `at`. */
void block_copy(struct sched *to, uint64_t at, struct sched *from, uint64_t was, uint64_t bytes);

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

/* ---- feedback.c: joins what became of answers to them (join.h has the answers, feedback_read.h what may be sent) */
void feedback_run(struct request *r);
void feedback_finished(struct request *r);

/* ---- goals.c: what the goal of an experiment is told ---- */
/* What became of an answer of the model's running rollout, on this arm (JUDGE_STABLE, JUDGE_CANARY): it is counted if
 * that is an experiment with this kind of goal. key: of the user, or else of the request. This plane's thread. */
void goal_value(struct plane *p, const struct route *t, unsigned arm, enum goal_kind kind, uint64_t key, double value);
/* Of a request that is counted in `series`, and holds it, where the model's running experiment has this series as an
 * arm: the mean of the goal's output, where that is GOAL_OUTPUT and the reply has it. info: of the version that ran. */
void goal_output(struct plane *p, struct str model, const struct series *series, uint64_t key,
                 const struct model_info *info, const struct job_result *job);

#endif
