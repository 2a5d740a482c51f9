/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of control share. Everything on the control thread unless said otherwise. */
#ifndef WEIR_CONTROL_CONTROL_PRIV_H
#define WEIR_CONTROL_CONTROL_PRIV_H

#include "control/control.h"

#define LANES_MAX 64
#define LANE_CREDITS 32

struct control {
    struct control_spec spec;
    struct family **families; /* n_families of them; one is named "default" */
    size_t n_families;
    struct family **former; /* that a switch has replaced: snapshots and versions may still name them */
    size_t n_former;
    struct move *moves; /* families that are being switched */
    struct rollout_policy *policies;
    struct loop *loop;
    struct store *store;
    struct router router;
    struct model **models;
    size_t n_models;
    struct version *slot[VERSION_SLOTS]; /* who has it; NULL: free */
    struct device_lane lane[LANES_MAX];  /* one a device that is not the processor; "" ends them */
    struct budget budget;
    struct map costs; /* digest -> struct cost: the most that one instance was seen to take */
    uint64_t next_series;
    struct retiree *retirees; /* series that requests may still hold */
    struct timer tick;        /* once a second */
    struct timer conduct;     /* four times a second, while a rollout runs */
    unsigned pools;           /* open */
    struct change *founding;  /* changes that are being written and add a model */
    bool started, announced, stopping;
    void (*on_ready)(void *ctx);
    void *on_ready_ctx;
    void (*on_closed)(void *ctx);
    void *on_closed_ctx;
    struct task closed;
};

/* ---- control.c ---- */
const struct family *family_for(const struct control *c, struct str named, struct str model, struct err *e);
const struct family *family_of(const struct control *c, const struct model_row *row);
struct model *model_add(struct control *c, const struct model_row *row);
void model_insert(struct model *m, struct version *v); /* keeps them ascending */
struct version *version_new(struct control *c, struct model *m, const struct version_row *row);
void version_free(struct version *v);
struct version *model_newest(const struct model *m);
/* Loads what is to be loaded and closes the rest. */
void model_reconcile(struct model *m);
bool version_in_rollout(const struct version *v); /* an arm of a running one, or of one that is about to start */
void control_check_ready(struct control *c);

/* ---- place.c ---- */
#define BACKEND_UPSTREAM "upstream" /* of a version that is a model.yaml and no model */
/* Takes `upstream` out of model.yaml (NULL: there is none). ERR_INVALID, ERR_UNIMPLEMENTED; ERR_REFUSED: there is
 * neither a model nor a place that has it. */
enum err_code upstream_read(struct version *v, const struct conf *y, struct err *e) MUST_USE;
void upstream_done(struct version *v);
/* True, and where: it runs on another server. The strings are the version's, its family's, and number. */
bool version_far(const struct version *v, struct far_place *out, char number[24]);

/* ---- hold.c ---- */
bool version_held(const struct version *v);
void version_hold(struct version *v); /* from now on, as if a gateway had asked for it */
void holds_look(struct control *c);   /* once in a while */

/* ---- publish.c ---- */
/* Builds a snapshot of everything and makes it the router's. What it was before is freed after a grace period. */
void control_publish(struct control *c);
struct series *control_series(struct control *c);
/* Its numbers go to the version's retired ones; it is freed when no request holds it any more. The next control_publish
 * is the first that does not name it: there is one, soon. */
void control_retire(struct control *c, struct version *v, struct series *s);
void control_retire_tally(struct control *c, struct tally *t);   /* the same for a tally; NULL is fine */
void control_retire_goal(struct control *c, struct goal *g);     /* for a goal */
void control_retire_shadow(struct control *c, struct shadow *s); /* and for a shadow; NULL is fine */
/* fn(arg) on this loop after every connection thread has been through its loop once more. */
void control_grace(struct control *c, void (*fn)(struct control *c, void *arg), void *arg);
/* Frees the retired series that are idle; once in a while. */
void control_retirees_look(struct control *c);
void control_retirees_free(struct control *c); /* all of them: no thread runs any more */

/* ---- load.c ---- */
/* Begins to load (state LOADING) or joins a load; fn is called once: err.code ERR_OK when it is ready. */
/* evict: others may be sent out of memory for it. */
void version_load(struct version *v, bool evict, void (*fn)(void *ctx, const struct err *e), void *ctx);
void version_load_go(struct version *v);                          /* there is room */
void version_load_refuse(struct version *v, const struct err *e); /* there is none */
void version_cool(struct version *v);                             /* registered and wanted, loaded on first use */
void version_evict(struct version *v);
void version_unload(struct version *v);
bool version_loaded(const struct version *v); /* ready or degraded */
/* Its pool goes, and what it claims with it. */
void version_close(struct version *v, uint64_t drain_us);
/* Loaded, or it will be as soon as somebody wants it. */
bool version_at_hand(const struct version *v);

/* ---- memory.c: what may be in memory, and who goes for it ---- */
void memory_init(struct control *c);
void memory_done(struct control *c);
void memory_take_costs(struct control *c, const struct store_state *st);
/* What loading the version would take, in its claim; only while it has none. */
void memory_estimate(struct version *v);
/* Room for a version that is about to load. Idle ones are sent away for it if evict. */
enum budget_verdict memory_ask(struct version *v, bool evict, struct err *e);
/* The most that one instance of it may take; 0: no limit. Its family's memory, else what the budget has left for it, at
 * least LEFT_LEAST: a limit so that nothing grows without end, above what an honest model takes. */
uint64_t memory_left(const struct version *v);
void memory_ready(struct version *v); /* it is loaded: it is measured, now and every half minute */
void memory_look(struct version *v, uint64_t now);
void memory_gone(struct version *v); /* its claim ends; memory_retry is due */
/* Those that wait for room ask again; with the reason if the server is stopping. Last call of an event's handler. */
void memory_retry(struct control *c);
/* The engines of the version's pool are the same as the other's: names, dtypes, ranks. */
enum err_code versions_match(const struct version *stable, const struct version *canary, struct err *e) MUST_USE;

/* ---- move.c: families that are switched to another place ---- */
/* At the start, before there are models: switches that still rule, and an end to those that do not. */
void places_take(struct control *c, const struct store_state *st);
/* A version that was loaded while its family was switched runs at the old place: it leaves memory, and comes back at
 * the new one when it is wanted. Nothing for others. */
void version_follow(struct version *v);

/* ---- change.c: one change of a model at a time, durable before it acts ---- */
struct change {
    struct change *next, *next_founding;
    struct model *model;
    bool founds; /* it adds its model to the registry: of one name only one at a time may */
    uint64_t epoch;
    /* Checks, fills the rows; ERR_OK: they are written. */
    enum err_code (*prepare)(struct change *ch, struct err *e);
    /* They are durable: makes it so. */
    void (*act)(struct change *ch);
    /* Last call; frees ch. */
    void (*finish)(struct change *ch, const struct err *e);
    /* rows; those with their flag set are written. Their heap texts are the change's: change_done. */
    struct model_row model_row;
    struct version_row version_row;
    struct rollout_row rollout_row, ended_row;
    struct hold_row lift_row;
    struct shadow_row shadow_row;
    struct history_row history_row;
    bool has_model, has_version, has_rollout, has_ended, has_lift, has_shadow;
    /* of rollout_row, for when it is in force */
    struct rollout_policy policy;
    struct rollout_progress progress;
};
void change_submit(struct change *ch);
/* Frees the rows' texts; the last thing of a finish. */
void change_done(struct change *ch);
void rollout_row_done(struct rollout_row *row); /* its texts; they are NULL then */
void history_row_done(struct history_row *row); /* likewise */
/* What waits behind a change or a rollback will not come to its turn. */
void changes_refuse(struct model *m, const struct err *why);
/* Tells who listens of a line that is durable. */
void history_told(struct control *c, const struct history_row *h);
/* A row of history; text by format. */
void history_fill(struct history_row *h, const struct model *m, int64_t version, const char *kind, struct str actor,
                  const char *fmt, ...) PRINTF(6, 7);
/* After a model's changing or undo field was cleared: goes on with what waits. */
void change_next(struct model *m);

/* ---- release.c: the beginning of a rollout, and promotion ---- */
/* The rows of a new rollout: all but the kind and the text of history. */
enum err_code rollout_fill(struct change *ch, struct version *canary, const struct rollout_policy *policy, bool retry,
                           struct err *e) MUST_USE;
void rollout_act(struct change *ch);
/* "takes 5 % of the traffic", "takes 1 % of the traffic, the first of 5 steps (policy careful)". */
void rollout_takes(char *text, size_t cap, const struct rollout_policy *policy);
/* The model's serving versions changed: a plain series for stable where it has none. */
void model_series(struct model *m);
/* Makes rows of the canary's promotion; soak: it is watched on. ERR_CONFLICT: it is not ready. */
enum err_code promotion_fill(struct change *ch, bool soak, struct err *e) MUST_USE;
void promotion_act(struct change *ch);
/* The canary's series ends (rolled back, replaced). */
void canary_series_end(struct model *m);
/* The arms as JSON, for good. */
void evidence_keep(struct model *m);
/* m->rollout with its policy, progress and counts as texts, which are the caller's. */
struct rollout_row rollout_row_of(const struct model *m);
/* Who serves from then on, as JSON for history; heap. canary 0: the stable one alone. */
char *serving_json(const struct model *m, int64_t stable, int64_t canary, int64_t share_bp);
char *judgement_text(const struct model *m); /* the last one as JSON; heap, NULL: there was none */

/* ---- conduct.c: judging, and what follows from it ---- */
/* Takes up a model's rollout as it was in the store (its row's texts are freed). */
void conduct_resume(struct model *m, struct rollout_row *row);
/* A rollout has begun: its policy and progress are in the model, the stable version's series is still the one before.
 */
void conduct_begin(struct model *m);
/* The soak begins: a tally of its own, the baseline is what the stable one did. */
void conduct_soak(struct model *m);
void conduct_end(struct model *m); /* nothing is judged any more */
void conduct_timer(struct timer *t);

/* What is counted of a rollout as text, and back. */
char *counts_text(const struct model *m);
/* A person promotes the rollout's own version. */
void conduct_promote(struct model *m, struct str actor, void (*done)(void *ctx, const struct err *e), void *ctx);
extern const uint32_t soak_share; /* of the stratum that a soak is counted in */
/* The rollout's row as the change will have it: with its policy and progress; soak: with the counts of a soak that
 * begins. Its texts are the caller's. */
struct rollout_row rollout_row_ahead(const struct change *ch, bool soak);
/* The row of a rollout whose soak is over, with its texts. */
struct rollout_row soak_over(const struct model *m, const char *why);

/* ---- shadow_change.c ---- */
/* A shadow as it was in the store, or as it has just been ordered: it counts from now on. */
void shadow_take(struct model *m, const struct shadow_row *row);
/* Ends a shadow whose version has begun to take traffic. */
void shadow_look(struct model *m);
bool version_in_shadow(const struct version *v);

/* ---- undo.c: the way back ---- */
/* Acts before it returns. harm: the version's artifact is put on hold. done may be NULL. */
void roll_back(struct model *m, enum rollout_state state, bool harm, struct str actor, const char *reason,
               void (*done)(void *ctx, const struct rollback_result *r, const struct err *e), void *ctx);
void canary_sick(struct model *m, const struct err *why);
/* A rollback's write after the change in progress is through. */
void undo_go_on(struct model *m);
/* A change that a rollback has overtaken is in the store: the rollback's rows shall end what it has begun there. */
void undo_void(struct change *ch);
/* True, and *why: a try to write the model's rollback has failed. Nothing else is written before it. */
bool undo_stuck(const struct model *m, struct err *why);
void undo_free(struct undo *u); /* NULL is fine */
/* The memory of holds. */
void hold_add(struct model *m, const struct hold_row *row);
void hold_lift(struct model *m, const char *digest);

#endif
