/* SPDX-License-Identifier: Apache-2.0 */
/* Control: what there is, what shall be, and who serves. Models and their versions, what is loaded, the rollout with
 * its circuit breaker; every change durable before it acts (but a rollback, which acts first), then told to the router.
 *
 * Everything here belongs to the control thread, which runs one loop and never blocks: the disk is the store thread's,
 * loading is the workers'. Calls with a `done` finish later on the same loop, exactly once.
 *
 * Which versions are wanted: the stable one, the one before it, the canary, the shadow and the newest. They are loaded
 * when the server starts (families with load: lazy on first use), as far as the memory budget goes
 * (inference/budget.h); what has no room is cold: it is loaded on first use, once, while its callers wait.
 *
 * A load that somebody asks for (a push, a rollout, a rollback, a first use) may send idle versions out of memory:
 * first those that serve nobody (pushed and never released), then the one before the stable, then stable ones, each the
 * least recently used first. Never one of a family with pin, never an arm of a rollout, never one that has requests.
 * What was sent away is cold. So the version before the stable one stays in memory unless something else needs the
 * room; a rollback to a cold one flips first and then loads it, while callers wait within their deadlines. */
#ifndef WEIR_CONTROL_CONTROL_H
#define WEIR_CONTROL_CONTROL_H

#include "base/conf.h"
#include "control/moments.h"
#include "control/rollout.h"
#include "control/router.h"
#include "control/shadow.h"
#include "control/tally.h"
#include "inference/budget.h"
#include "inference/pool.h"
#include "store/capture_log.h"
#include "store/store.h"

/* ---- settings ---- */
/* Which answers of a model go to the payload log, and what of them does not (api/capture.h). */
#define CAPTURE_REDACT_MAX 1024
struct capture_rule {
    uint64_t sample;                 /* basis points of the answers; 0: none */
    char redact[CAPTURE_REDACT_MAX]; /* names, each ended by a NUL; an empty one ends the list */
};
enum place {
    PLACE_WORKER, /* a sandboxed process */
    PLACE_INLINE, /* the server's own */
    PLACE_HTTP,   /* another server that speaks the Open Inference Protocol */
    PLACE_WEIR,   /* a Weir in the inference role, which is given the version */
};
bool place_is_far(enum place place);
enum load_when { LOAD_EAGER, LOAD_LAZY };
struct family {
    char name[NAME_MAX_LEN + 1];
    char *place_text; /* "worker", "inline", "http://HOST:PORT", "weir://HOST:PORT" */
    int place;        /* enum place: family_place makes it of the text */
    char *token_file; /* weir://: of the far side's admin token; NULL: it has none */
    uint64_t instances;
    uint64_t threads;                                 /* within one run; 0: measured at the load */
    uint64_t batch_max, batch_delay_us, batch_slo_us; /* see inference/batcher.h */
    char *device;                                     /* "cpu", "cuda:0" */
    uint64_t memory;                                  /* most bytes of one instance; 0: what the budget has left */
    int load;                                         /* enum load_when */
    bool pin;                                         /* never evicted */
    uint64_t queue_requests, queue_bytes;
    uint64_t inline_max_us; /* inline: slowest warm run that is accepted */
    uint64_t timeout_us;    /* deadline of a request that names none */
    uint64_t out_bytes;
    struct capture_rule capture; /* not in the table: house_conf.c */
    /* not in the table: control's own (move.c) */
    struct place_row switched; /* its place was changed while the server ran; place "": it is where weir.yaml says */
    bool made;                 /* by that: weir.yaml does not name it */
    char place_own[PLACE_MAX + 1]; /* where place_text points after a switch, */
    char token_own[1000];          /* and token_file, if the switch named one */
    char *token_home;              /* token_file, as weir.yaml says it; of a switched family */
};
extern const struct setting family_settings[];
extern const size_t n_family_settings;
/* Reads place_text. ERR_INVALID; ERR_UNIMPLEMENTED: a scheme that comes later. */
enum err_code family_place(struct family *f, struct err *e) MUST_USE;

struct model;
struct control_ops { /* what house.c knows and control must not: engines by place */
    const struct engine_ops *(*engine)(const char *backend, enum place place); /* NULL: not in this build */
    int (*pid)(const struct engine *g);                                        /* of a worker; 0: none */
    void (*evidence)(struct buf *out,
                     const struct model *m); /* the arms as JSON, kept when a rollout ends; NULL: none is kept */
    const char *library;                     /* of the ONNX Runtime; NULL: looked for */
    const char *program;                     /* what worker processes run; NULL: this one */
    /* A line of history is durable; the row is the caller's. Control thread. NULL: nobody listens. */
    void (*told)(void *ctx, const struct history_row *row);
    void *told_ctx;
};

struct control;
struct control_spec {
    struct loop *loop;
    struct store *store;
    struct shard *const *shards;
    unsigned n_shards;
    const struct family *families; /* one is named "default" */
    size_t n_families;
    const struct rollout_policy *policies; /* named; one is named "default" */
    size_t n_policies;
    uint64_t body_max; /* largest request body: sizes the windows */
    struct control_ops ops;
    bool strict;             /* sandbox: required */
    uint64_t memory;         /* budget of host memory for loaded versions; 0: four fifths of what the machine has */
    const char *import_root; /* folder under which "path" pushes are allowed, or NULL */
    uint64_t hold_us;        /* > 0: the inference role; so long a version stays in memory that no gateway asks for */
};
enum err_code control_new(struct control **out, const struct control_spec *spec, struct err *e) MUST_USE;
/* Reads the store, loads what was loaded. `ready` is called once when every model's serving versions are ready or have
 * failed. */
void control_start(struct control *c, void (*ready)(void *ctx), void *ctx);
/* Closes every pool; `closed` when the last is gone. Then control_free. */
void control_stop(struct control *c, uint64_t drain_us, void (*closed)(void *ctx), void *ctx);
void control_free(struct control *c);
struct router *control_router(struct control *c);
struct loop *control_loop(struct control *c);

/* ---- looking ---- */
enum version_state {
    VERSION_REGISTERED, /* not wanted */
    VERSION_LOADING,
    VERSION_READY,
    VERSION_DEGRADED,
    VERSION_FAILED,
    VERSION_COLD, /* wanted, not in memory (or on its way out): loaded on first use */
};
extern const char *const version_state_names[]; /* "registered", "loading", "ready", "degraded", "failed", "cold" */

struct version {
    struct version_row row;
    struct model *model;
    const struct family
        *family; /* by whose settings it is loaded: the model's, but while that moves to another place */
    enum version_state state;
    struct err why;                /* VERSION_FAILED, VERSION_DEGRADED, VERSION_COLD (code ERR_OK: by intent) */
    struct pool *pool;             /* NULL unless loading or loaded */
    const struct model_info *info; /* once ready */
    struct series *direct;
    double load_ms;
    char **labels; /* of model.yaml */
    size_t n_labels;
    struct far_place upstream;                        /* of model.yaml; url NULL: none. Its strings are the version's */
    uint64_t batch_max, batch_delay_us, batch_slo_us; /* of model.yaml's batch, or the family's */
    char prediction_output[TENSOR_NAME_MAX + 1];      /* of model.yaml; "": guessed */
    int prediction;                                   /* output port; -1: none */
    uint64_t retired_requests[ERR_COUNT_];            /* counted in series that are gone: for monotone metrics */
    struct budget_claim claim;                        /* its memory: read only; used_us to within a second */
    /* private to control */
    int slot;               /* -1: none */
    bool pushing;           /* not registered yet */
    bool refused;           /* its push: it is freed with its pool, */
    bool own_model;         /* and the model goes with it */
    uint64_t held_until_us; /* inference role: by a gateway */
    unsigned claims;        /* rollouts of it that are about to start: it stays loaded */
    struct waiter *waiters; /* who waits for ready or failed */
    uint64_t load_began_us;
    bool on_demand;                /* this load began because somebody waits for it */
    uint64_t measure_us, answered; /* when it is measured next; jobs answered when it was last looked at */
    _Atomic uint32_t parked;       /* requests that wait for it, of all threads */
};
struct model {
    struct model_row row;
    const struct family *family;
    struct version **versions; /* ascending */
    size_t n_versions;
    struct rollout_row rollout;                   /* the running or the last one; id "" if there never was one */
    struct series *stable_series, *canary_series; /* of the running rollout, or of plain service (canary NULL) */
    char *evidence;                               /* of an ended rollout: the arms as JSON; NULL while it runs */
    struct rollout_policy policy;                 /* of the rollout, and where it is */
    struct rollout_progress progress;
    struct judgement judgement;    /* the last one; of an ended rollout: the one it ended with */
    struct judge_counts counts;    /* what it was judged on */
    struct moments moments;        /* of the candidate, as far as they were looked at */
    struct tally *tally;           /* NULL unless a rollout runs or soaks */
    double baseline[METRIC_COUNT]; /* the stable's shares of bad answers in the whole rollout, 1: not known */
    struct goal *goal;             /* NULL unless an experiment runs */
    struct goal_counts *values;    /* of the running or the last rollout, if that is an experiment: what it counted, */
    struct experiment_finding finding; /* and what that says */
    struct shadow *shadow;        /* the running or the last one since the start; NULL: there was none, or no memory */
    struct shadow_row shadow_row; /* version 0: none runs */
    struct hold_row *holds;       /* artifacts of it that did harm */
    size_t n_holds;
    _Atomic uint64_t *feedback;  /* by enum feedback_result, since the server started, by connection threads; or NULL */
    struct arrivals *arrivals;   /* since the server started, or the model; NULL until it is published */
    uint64_t deaths, own_deaths; /* of instances of pools that are closed */
    /* private to control */
    struct control *control;
    struct change *changing, *next_change; /* a change that is being written, and those behind it */
    struct undo *undo;                     /* a rollback that is in force and being written */
    uint64_t epoch;                        /* rollbacks so far: a change that began before one is void */
    uint64_t judged_us, saved_us;          /* when it was last judged; when its progress was last written */
    bool judged;                           /* judgement says something */
    bool ordered;                          /* what a judgement asked for is on its way */
    bool saving;                           /* its progress is */
    bool shadow_ending;                    /* by itself; it is being written */
    int told, told_result;                 /* the verdict and the result of a goal that history has */
    uint64_t told_us;
};
size_t control_models(const struct control *c,
                      struct model *const **out); /* in order of registration; valid until the next event */
struct model *control_model(const struct control *c, struct str name);
struct version *model_version(const struct model *m, int64_t number);
/* Where it runs: its upstream's place, else its family's; as a person wrote it. */
enum place version_place(const struct version *v);
const char *version_place_name(const struct version *v);
const char *version_serving(const struct version *v); /* "stable", "canary", "previous", "none" */
bool rollout_running(const struct model *m);
bool rollout_soaking(const struct model *m);
const struct hold_row *model_hold(const struct model *m, const char *digest); /* NULL: not held */
const struct rollout_policy *control_policy(const struct control *c, struct str name, struct err *e); /* or NULL */
size_t control_policies(const struct control *c, const struct rollout_policy **out);
struct store *control_store(struct control *c);
const char *control_import_root(const struct control *c);
const struct budget *control_budget(const struct control *c);

/* ---- changing; done(ctx, e): e->code ERR_OK or why not ---- */
/* A push. begin → write* → finish; or import. */
struct push_spec {
    struct str model, family;             /* family p == NULL: the one named like the model, else default */
    int64_t number;                       /* 0: the next one */
    const struct rollout_policy *rollout; /* copied; NULL: none is started */
    bool retry;                           /* also if its artifact is on hold */
    struct str actor;
    bool raw; /* one model file; else the body begins with a manifest of head_bytes */
    uint64_t head_bytes;
};
struct push_result {
    int64_t number;
    char digest[65];
    uint64_t bytes;
    bool already; /* it was this version before */
    double load_ms;
    struct model *model;
};
struct push;
/* ERR_INVALID, ERR_NOT_FOUND (family), ERR_CONFLICT (number taken by another digest is found out at the end). */
enum err_code push_begin(struct push **out, struct control *c, const struct push_spec *spec, struct err *e) MUST_USE;
/* Copies the bytes. False: enough for now; `more` will be called. Errors come out of finish. */
bool push_write(struct push *p, const void *bytes, size_t n);
void push_on_more(struct push *p, void (*more)(void *ctx), void *ctx);
/* All bytes are in (or, with import, path names a file or folder on this machine). done gets the result (valid during
 * the call, NULL on error); p is gone then. */
void push_finish(struct push *p, const char *import,
                 void (*done)(void *ctx, const struct push_result *r, const struct err *e), void *ctx);
/* The client went away before finish; nothing is registered. */
void push_abort(struct push *p);

void control_register(struct control *c, struct str model, struct str family,
                      void (*done)(void *ctx, const struct err *e), void *ctx);
/* Starts a rollout of a version, which is loaded first, by a policy (copied). One that runs is replaced, or this one is
 * refused, as the running one's policy says; one that soaks is over then. ERR_CONFLICT: refused; the artifact is on
 * hold and retry is false. */
void control_rollout_start(struct control *c, struct str model, int64_t number, const struct rollout_policy *policy,
                           bool retry, struct str actor, void (*done)(void *ctx, const struct err *e), void *ctx);
/* pause, resume, skip, set (share_bp; else 0): what a person may ask of a rollout that runs. ERR_CONFLICT: see
 * rollout_next. */
void control_rollout_event(struct control *c, struct str model, enum rollout_event_kind kind, uint32_t share_bp,
                           struct str actor, void (*done)(void *ctx, const struct err *e), void *ctx);
/* The experiment's candidate becomes the stable version, if its goal speaks for it and its least time is over, or by
 * force. ERR_CONFLICT: no experiment is running, or why it may not (rollout_next). To stop one: control_rollback. */
void control_experiment_ship(struct control *c, struct str model, bool force, struct str actor,
                             void (*done)(void *ctx, const struct err *e), void *ctx);
bool experiment_running(const struct model *m);
/* number 0: the canary, or with no rollout the newest ready version above the stable one. A rollout's own version goes
 * to the soak of its policy, if it has one. */
void control_promote(struct control *c, struct str model, int64_t number, struct str actor,
                     void (*done)(void *ctx, const struct err *e), void *ctx);
struct rollback_result {
    int64_t from, to;
    char text[400];
    bool durable;     /* false: in force, and written as soon as the store can */
    uint64_t took_us; /* until it was in force */
};
/* Acts at once, before it returns: no request that comes later reaches the version. done tells how the writing went;
 * ERR_CONFLICT: nothing to roll back. Wins over a change in progress. */
void control_rollback(struct control *c, struct str model, struct str actor, bool abort_only,
                      void (*done)(void *ctx, const struct rollback_result *r, const struct err *e), void *ctx);

/* ---- the inference role: routing and rollouts are the gateways' matter ---- */
bool control_inference(const struct control *c);
uint64_t control_hold_us(const struct control *c);
/* Loads the version with this artifact and keeps it for hold_us from now (and from the end of the load). done() gets
 * its number here. ERR_NOT_FOUND: it has to be pushed first; ERR_CONFLICT: this is no inference role. */
void control_hold(struct control *c, struct str model, struct str digest,
                  void (*done)(void *ctx, int64_t number, const struct err *e), void *ctx);

/* ---- shadows ---- */
bool shadow_running(const struct model *m);
/* Loads the version and has it run copies of share_bp of the stable's answers. One that runs is replaced. ERR_CONFLICT:
 * the version takes traffic; ERR_REFUSED: it takes other inputs or gives other outputs than the stable one. It ends by
 * itself when its version begins to take traffic. */
void control_shadow_start(struct control *c, struct str model, int64_t number, uint32_t share_bp, struct str actor,
                          void (*done)(void *ctx, const struct err *e), void *ctx);
void control_shadow_stop(struct control *c, struct str model, struct str actor,
                         void (*done)(void *ctx, const struct err *e), void *ctx);
struct shadow_sum {
    const struct shadow *shadow; /* that it is of; valid during done */
    struct diff_sum diff[SHADOW_RUNS];
};
/* Adds up what all threads have compared, of m->shadow, which is not NULL. The sum is valid during done. */
void control_shadow_sum(struct model *m, void (*done)(void *ctx, const struct shadow_sum *sum), void *ctx);

/* ---- places ---- */
/* Where the models of a family run can be changed while the server runs. Every loaded version of them is opened a
 * second time at the new place and warmed; when all are ready the change is written, the router names the new ones, and
 * requests that are under way finish at the old place, which then closes. If one can not be opened there, everything
 * stays as it was.
 *
 * The switch is remembered over restarts as long as the family's place in weir.yaml is what it was at the switch. When
 * it is edited, weir.yaml rules again. */
size_t control_families(const struct control *c, struct family *const **out); /* valid until the next event */
const char *family_place_name(const struct family *f);                        /* as a person writes it */
/* What weir.yaml says; NULL: it does not name the family. */
const char *family_configured(const struct family *f);
/* Where it is being switched to; NULL: it is not. */
const char *family_moving(const struct control *c, const struct family *f);
/* A family that is not there, but has a model's name whose family is
 * "default", is made for it, with default's settings. One that is there already is done at once. ERR_NOT_FOUND;
 * ERR_INVALID: no place; ERR_CONFLICT: it is being switched, a rollout of one of its models runs, or a version has
 * other inputs or outputs there; and whatever kept a version from being opened. */
struct place_order {
    struct str place; /* p == NULL: back to where weir.yaml says */
    struct str
        token_file; /* weir://: path, with the admin token of the server there; p == NULL: as the family has it */
    bool trial;     /* only open every version there, and close it again */
    struct str actor;
};
void control_place(struct control *c, struct str family, const struct place_order *order,
                   void (*done)(void *ctx, const struct err *e), void *ctx);

/* ---- first use: by connection threads ---- */
/* Loads a cold version. done() comes once, on home's thread, when it is ready or why it is not. Until then w is
 * control's, whoever still waits for it. Any thread. */
struct wake {
    struct task task;
    struct control *c;
    struct loop *home;
    char model[NAME_MAX_LEN + 1];
    int64_t version;
    struct err err; /* ERR_OK: pick again */
    void (*done)(struct wake *w);
};
void control_wake(struct wake *w);

/* ---- the circuit breaker: fed by connection threads ---- */
/* The outcome of a canary's request, in order of answering on this thread; cheap. Any connection thread. */
void control_canary_outcome(struct control *c, struct series *canary, bool error);

#endif
