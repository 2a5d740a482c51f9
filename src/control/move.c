/* SPDX-License-Identifier: Apache-2.0 */
/* A family moves to another place while the server runs.
 *
 *     twins      every loaded version of the family's models is opened once more, by the family as it will be. A twin
 * is a version that nobody sees: like one that is being pushed written    the place, and a line of history a model, in
 * one transaction exchanged  each version takes over what was loaded of its twin, and the twin what the version had;
 * one snapshot makes it the router's; then the twins close: what they still have under way may finish
 *
 * A version stays the same struct all the time: its counts, and whoever holds it, notice nothing. Families are never
 * changed in place, for snapshots and connection threads read them: a switch makes a new one, and keeps the former.
 *
 * Thread: control; write_place() on the store thread. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"

#define DRAIN_US SECONDS(30)

struct twin {
    struct twin *next;
    struct move *move;
    struct version *of, *copy; /* copy NULL: it could not be opened */
};

struct move {
    struct move *next;
    struct control *c;
    const struct family *from;
    struct family *to; /* the move's until it is in force; not its own when the family goes home to default */
    bool own_to, makes, unmakes, trial;
    char name[NAME_MAX_LEN + 1], actor[64];
    struct twin *twins;
    unsigned pending; /* loads that it waits for */
    struct err err;   /* why it will not be */
    uint64_t began_us;
    struct store_job job;
    struct task back;
    struct place_row row;
    struct history_row *history;
    size_t n_history;
    void (*done)(void *ctx, const struct err *e);
    void *ctx;
};

/* ---- looking ---- */

size_t control_families(const struct control *c, struct family *const **out)
{
    *out = c->families;
    return c->n_families;
}

const char *family_configured(const struct family *f)
{
    return f->made ? NULL : f->switched.place[0] ? f->switched.configured : family_place_name(f);
}

static struct move *move_of(const struct control *c, const char *family)
{
    struct move *mv = c->moves;

    while (mv && strcmp(mv->name, family) != 0) {
        mv = mv->next;
    }
    return mv;
}

/* Of which the family is either end. */
static const struct move *move_with(const struct control *c, const struct family *f)
{
    const struct move *mv = c->moves;

    while (mv && mv->from != f && mv->to != f) {
        mv = mv->next;
    }
    return mv;
}

const char *family_moving(const struct control *c, const struct family *f)
{
    const struct move *mv = move_of(c, f->name);

    return mv ? family_place_name(mv->to) : NULL;
}

static size_t family_at(const struct control *c, const char *name)
{
    size_t i = 0;

    while (i < c->n_families && strcmp(c->families[i]->name, name) != 0) {
        i++;
    }
    return i;
}

/* ---- families ---- */

static enum err_code place_set(struct family *f, const char *place, struct err *e)
{
    struct err why;

    snprintf(f->place_own, sizeof(f->place_own), "%s", place);
    f->place_text = f->place_own;
    if (family_place(f, &why) != ERR_OK) {
        return err_set(e, why.code, "families.%s.%s", f->name, why.text);
    }
    if (f->place == PLACE_INLINE && strcmp(f->device, "cpu") != 0) {
        return err_set(e, ERR_INVALID,
                       "families.%s.place: device %s is for place: worker; inline models run on the processor", f->name,
                       f->device);
    }
    return ERR_OK;
}

/* token p == NULL: as it is. */
static enum err_code token_set(struct family *f, struct str token, struct err *e)
{
    if (token.p && !str_copy(f->token_own, sizeof(f->token_own), token)) {
        return err_set(e, ERR_INVALID, "\"token_file\" has more than %zu characters", sizeof(f->token_own) - 1);
    }
    if (token.p && token.n > 0 && f->place != PLACE_WEIR) {
        return err_set(e, ERR_INVALID, "\"token_file\" is for a place weir://HOST:PORT, not for %s", f->place_text);
    }
    f->token_file = !token.p ? f->token_file : token.n > 0 ? f->token_own : NULL;
    return ERR_OK;
}

static struct family *family_copy(const struct family *from, const char *name)
{
    struct family *f = xmalloc(sizeof(*f));

    *f = *from;
    f->place_text = from->place_text == from->place_own ? f->place_own : from->place_text;
    f->token_file = from->token_file == from->token_own ? f->token_own : from->token_file;
    f->token_home = from->switched.place[0] ? from->token_home : from->token_file;
    snprintf(f->name, sizeof(f->name), "%s", name);
    return f;
}

static void family_former(struct control *c, struct family *f)
{
    c->former = xrealloc(c->former, (c->n_former + 1) * sizeof(c->former[0]));
    c->former[c->n_former++] = f;
}

/* Takes the place of the one with its name, or stands behind them all. */
static void family_put(struct control *c, struct family *f)
{
    size_t i = family_at(c, f->name);

    if (i == c->n_families) {
        c->families = xrealloc(c->families, (c->n_families + 1) * sizeof(c->families[0]));
        c->n_families++;
    } else {
        family_former(c, c->families[i]);
    }
    c->families[i] = f;
}

static void family_remove(struct control *c, const char *name)
{
    size_t i = family_at(c, name);

    family_former(c, c->families[i]);
    memmove(&c->families[i], &c->families[i + 1], (--c->n_families - i) * sizeof(c->families[0]));
}

/* ---- at the start ---- */

struct forget {
    struct store_job job;
    struct place_row row;
};

static void forget(struct store *s, struct store_job *job)
{
    struct forget *j = CONTAINER_OF(job, struct forget, job);
    struct err e;

    if (store_put_place(s, &j->row, NULL, 0, &e) != ERR_OK) {
        log_warn("control", "a switch that is over is not forgotten family=%s error=\"%s\"", j->row.family, e.text);
    }
    free(j);
}

static void forget_place(struct control *c, const char *family)
{
    struct forget *j = xcalloc(1, sizeof(*j));

    j->job.run = forget;
    snprintf(j->row.family, sizeof(j->row.family), "%s", family);
    store_post(c->store, &j->job);
}

/* True: the row rules, and is in force. */
static bool place_rules(struct control *c, const struct place_row *row)
{
    size_t i = family_at(c, row->family), home = i < c->n_families ? i : family_at(c, "default");
    const char *says = i < c->n_families ? family_place_name(c->families[i]) : "";
    struct family *f;
    struct err e;

    if (strcmp(says, row->configured) != 0) {
        log_warn("control",
                 "weir.yaml says another place than when the family was switched, and rules family=%s "
                 "place=%s switched_to=%s",
                 row->family, says, row->place);
        return false;
    }
    f = family_copy(c->families[home], row->family);
    if (place_set(f, row->place, &e) != ERR_OK ||
        token_set(f, row->token_file[0] ? str_of(row->token_file) : (struct str){NULL, 0}, &e) != ERR_OK) {
        log_error("control", "a switch of its place can not be kept family=%s reason=\"%s\"", row->family, e.text);
        free(f);
        return false;
    }
    f->made = i == c->n_families;
    f->switched = *row;
    family_put(c, f);
    log_warn("control",
             "a family runs where it was switched to, and not where weir.yaml says family=%s place=%s "
             "configured=%s by=\"%s\"",
             row->family, row->place, says[0] ? says : "(not named)", row->actor);
    return true;
}

void places_take(struct control *c, const struct store_state *st)
{
    for (size_t i = 0; i < st->n_places; i++) {
        size_t at = family_at(c, st->places[i].family);

        if (at < c->n_families && strcmp(family_place_name(c->families[at]), st->places[i].place) == 0) {
            log_info("control", "weir.yaml says where the family was switched to family=%s place=%s",
                     st->places[i].family, st->places[i].place);
            forget_place(c, st->places[i].family);
        } else if (!place_rules(c, &st->places[i])) {
            forget_place(c, st->places[i].family);
        }
    }
}

/* ---- the end of a move ---- */

static void move_end(struct move *mv, const struct err *e)
{
    struct control *c = mv->c;

    for (struct move **at = &c->moves; *at; at = &(*at)->next) {
        if (*at == mv) {
            *at = mv->next;
            break;
        }
    }
    for (struct twin *t; (t = mv->twins) != NULL;) {
        mv->twins = t->next;
        free(t);
    }
    if (mv->own_to) { /* twins that close may still name it */
        family_former(c, mv->to);
    }
    mv->done(mv->ctx, e);
    free(mv->history);
    free(mv);
}

/* A twin that is not needed (any more). */
static void copy_drop(struct version *copy, uint64_t drain_us)
{
    if (copy && copy->pool) {
        copy->refused = true; /* it is freed with its pool */
        version_close(copy, drain_us);
    } else {
        version_free(copy);
    }
}

static void move_fail(struct move *mv, const struct err *why)
{
    struct err e = *why;

    for (struct twin *t = mv->twins; t; t = t->next) {
        copy_drop(TAKE(t->copy), 0);
    }
    log_warn("control", "a family stays where it is family=%s place=%s wanted=%s reason=\"%s\"", mv->name,
             family_place_name(mv->from), family_place_name(mv->to), e.text);
    move_end(mv, &e);
}

/* ---- in force ---- */

static bool concerns(const struct move *mv, const struct model *m)
{
    return m->family == mv->from && (!mv->makes || strcmp(m->row.name, mv->name) == 0);
}

#define EXCHANGE(field)                       \
    do {                                      \
        __typeof__(v->field) was_ = v->field; \
        v->field = t->field;                  \
        t->field = was_;                      \
    } while (0)

/* What is loaded of the two, and what belongs to that. */
static void exchange(struct control *c, struct version *v, struct version *t)
{
    char output[sizeof(v->prediction_output)];

    EXCHANGE(family);
    EXCHANGE(state);
    EXCHANGE(why);
    EXCHANGE(pool);
    EXCHANGE(info);
    EXCHANGE(load_ms);
    EXCHANGE(labels);
    EXCHANGE(n_labels);
    EXCHANGE(batch_max);
    EXCHANGE(batch_delay_us);
    EXCHANGE(batch_slo_us);
    EXCHANGE(prediction);
    EXCHANGE(upstream);
    EXCHANGE(slot);
    EXCHANGE(load_began_us);
    EXCHANGE(measure_us);
    EXCHANGE(answered);
    memcpy(output, v->prediction_output, sizeof(output));
    memcpy(v->prediction_output, t->prediction_output, sizeof(output));
    memcpy(t->prediction_output, output, sizeof(output));
    budget_exchange(&v->claim, &t->claim);
    pool_tell(v->pool, v);
    pool_tell(t->pool, t);
    c->slot[v->slot] = v;
    c->slot[t->slot] = t;
}

void version_follow(struct version *v)
{
    if (!v->pushing && version_loaded(v) && v->family != v->model->family) {
        version_evict(v);
    }
}

static void move_act(struct move *mv)
{
    struct control *c = mv->c;

    for (size_t i = 0; i < c->n_models; i++) {
        if (concerns(mv, c->models[i])) {
            c->models[i]->family = mv->to;
        }
    }
    for (struct twin *t = mv->twins; t; t = t->next) {
        if (version_loaded(t->of) && version_loaded(t->copy)) {
            exchange(c, t->of, t->copy);
        }
    }
    if (mv->unmakes) {
        family_remove(c, mv->name);
    } else {
        family_put(c, TAKE(mv->to));
        mv->own_to = false;
    }
    control_publish(c); /* from here on nobody finds the old ones */
    for (struct twin *t = mv->twins; t; t = t->next) {
        copy_drop(TAKE(t->copy), DRAIN_US);
    }
    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = c->models[i];

        for (size_t k = 0; k < m->n_versions; k++) {
            struct version *v = m->versions[k];

            version_follow(v);
            if (v->family != m->family && v->state == VERSION_FAILED && !v->pool) {
                v->state = VERSION_REGISTERED; /* it may be better off there */
            }
        }
        model_reconcile(m);
    }
}

static void on_written(struct task *task)
{
    struct move *mv = CONTAINER_OF(task, struct move, back);
    struct control *c = mv->c;
    struct err e = {ERR_OK, ""};

    if (mv->err.code != ERR_OK) {
        move_fail(mv, &mv->err);
        return;
    }
    for (size_t i = 0; i < mv->n_history; i++) {
        history_told(c, &mv->history[i]);
    }
    if (c->stopping) {
        err_set(&e, ERR_UNAVAILABLE, "the server is stopping; family '%s' will be at %s after the restart", mv->name,
                family_place_name(mv->to));
        move_fail(mv, &e);
        return;
    }
    log_info("control", "a family was switched family=%s from=%s to=%s by=\"%s\" took_ms=%llu", mv->name,
             family_place_name(mv->from), family_place_name(mv->to), mv->actor,
             (unsigned long long)((clock_us() - mv->began_us) / 1000));
    move_act(mv);
    move_end(mv, &e);
}

/* ---- written ---- */

static void write_place(struct store *s, struct store_job *job)
{
    struct move *mv = CONTAINER_OF(job, struct move, job);

    if (store_put_place(s, &mv->row, mv->history, mv->n_history, &mv->err) == ERR_OK) {
        mv->err.code = ERR_OK;
    }
    loop_post(mv->c->loop, &mv->back);
}

static void fill_rows(struct move *mv)
{
    struct control *c = mv->c;
    const char *configured = family_configured(mv->from), *to = family_place_name(mv->to);
    struct place_row *row = &mv->row;

    configured = mv->makes ? NULL : configured;
    snprintf(row->family, sizeof(row->family), "%s", mv->name);
    if (!mv->unmakes && !(configured && strcmp(configured, to) == 0)) {
        snprintf(row->place, sizeof(row->place), "%s", to);
        snprintf(row->configured, sizeof(row->configured), "%s", configured ? configured : "");
        snprintf(row->actor, sizeof(row->actor), "%s", mv->actor);
        snprintf(row->token_file, sizeof(row->token_file), "%s",
                 mv->to->token_file == mv->to->token_own ? mv->to->token_own : "");
        row->at_ms = clock_wall_ms();
    }
    if (mv->own_to) {
        mv->to->made = mv->makes || mv->from->made;
        mv->to->switched = *row;
    }
    mv->history = xcalloc(MAX(c->n_models, (size_t)1), sizeof(mv->history[0]));
    for (size_t i = 0; i < c->n_models; i++) {
        if (concerns(mv, c->models[i])) {
            history_fill(&mv->history[mv->n_history++], c->models[i], 0, "place_changed", str_of(mv->actor),
                         "family %s runs at %s now, before at %s", mv->name, to, family_place_name(mv->from));
        }
    }
}

/* ---- twins ---- */

static void move_go_on(struct move *mv);

static const struct twin *twin_of(const struct move *mv, const struct version *v)
{
    const struct twin *t = mv->twins;

    while (t && t->of != v) {
        t = t->next;
    }
    return t;
}

static void on_twin(void *ctx, const struct err *e)
{
    struct twin *t = ctx;
    struct move *mv = t->move;

    if (e->code != ERR_OK) {
        t->copy->refused = true; /* it goes by itself */
        t->copy = NULL;
        if (mv->err.code == ERR_OK) {
            err_set(&mv->err, e->code, "version %lld of '%s' can not be opened at %s: %s", (long long)t->of->row.number,
                    t->of->model->row.name, family_place_name(mv->to), e->text);
        }
    }
    mv->pending--;
    move_go_on(mv);
}

/* Somebody else's load; how it ended is looked at when all have. */
static void on_other(void *ctx, const struct err *e)
{
    struct move *mv = ctx;

    (void)e;
    mv->pending--;
    move_go_on(mv);
}

static void twin_open(struct move *mv, struct version *v)
{
    struct twin *t = xcalloc(1, sizeof(*t));

    t->move = mv;
    t->of = v;
    t->copy = version_new(mv->c, v->model, &v->row);
    t->copy->family = mv->to;
    t->copy->pushing = true; /* nobody shall see it */
    t->next = mv->twins;
    mv->twins = t;
    mv->pending++;
    version_load(t->copy, true, on_twin, t);
}

static void twins_open(struct move *mv)
{
    struct control *c = mv->c;

    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = c->models[i];

        for (size_t k = 0; concerns(mv, m) && k < m->n_versions; k++) {
            struct version *v = m->versions[k];

            if (v->state == VERSION_LOADING) {
                mv->pending++;
                version_load(v, false, on_other, mv);
            } else if (version_loaded(v) && !twin_of(mv, v)) {
                twin_open(mv, v);
            }
        }
    }
}

/* What would be compared must run at one place all the time. */
static enum err_code check_rollouts(const struct move *mv, struct err *e)
{
    for (size_t i = 0; i < mv->c->n_models; i++) {
        const struct model *m = mv->c->models[i];

        for (size_t k = 0; concerns(mv, m) && k < m->n_versions; k++) {
            if (version_in_rollout(m->versions[k])) {
                return err_set(e, ERR_CONFLICT,
                               "a rollout of '%s' %s: its versions' times would not be comparable any "
                               "more. %s",
                               m->row.name, rollout_soaking(m) ? "is being watched in its soak" : "runs",
                               rollout_soaking(m) ? "Wait until that is over, or roll it back"
                                                  : "Promote it, or roll it back, first");
            }
        }
    }
    return ERR_OK;
}

static enum err_code check_twins(const struct move *mv, struct err *e)
{
    for (const struct twin *t = mv->twins; t; t = t->next) {
        struct err why;

        if (!version_loaded(t->copy)) {
            return err_set(e, ERR_UNAVAILABLE, "version %lld of '%s' did not stay up at %s: %s",
                           (long long)t->of->row.number, t->of->model->row.name, family_place_name(mv->to),
                           t->copy->why.text);
        }
        if (version_loaded(t->of) && versions_match(t->of, t->copy, &why) != ERR_OK) {
            return err_set(e, ERR_CONFLICT, "version %lld of '%s' has other inputs or outputs at %s: %s",
                           (long long)t->of->row.number, t->of->model->row.name, family_place_name(mv->to), why.text);
        }
    }
    return ERR_OK;
}

static void move_go_on(struct move *mv)
{
    struct err e = mv->err;

    if (mv->pending > 0) {
        return;
    }
    if (e.code == ERR_OK && mv->c->stopping) {
        err_set(&e, ERR_UNAVAILABLE, "the server is stopping");
    }
    if (e.code == ERR_OK && check_rollouts(mv, &e) == ERR_OK) {
        e.code = ERR_OK;
        mv->pending++; /* what fails at once must not end it here */
        twins_open(mv);
        if (--mv->pending > 0) {
            return;
        }
        e = mv->err;
    }
    if (e.code == ERR_OK && check_twins(mv, &e) == ERR_OK && mv->trial) {
        for (struct twin *t = mv->twins; t; t = t->next) {
            copy_drop(TAKE(t->copy), 0);
        }
        e.code = ERR_OK;
        move_end(mv, &e);
        return;
    }
    if (e.code == ERR_OK) {
        fill_rows(mv);
        mv->job.run = write_place;
        mv->back.fn = on_written;
        store_post(mv->c->store, &mv->job);
        return;
    }
    move_fail(mv, &e);
}

/* ---- the order ---- */

/* The family that is meant, and what it will be. ERR_OK with *out NULL: it is there already. */
static enum err_code move_new(struct move **out, struct control *c, struct str family, const struct place_order *order,
                              struct err *e)
{
    struct str place = order->place;
    char name[NAME_MAX_LEN + 1], wanted[PLACE_MAX + 1];
    const struct model *m = control_model(c, family);
    const struct move *moving;
    struct family *from, *to;
    const char *home;
    bool makes;
    size_t i;

    *out = NULL;
    if (!str_copy(name, sizeof(name), family) || !name_ok(family)) {
        return err_set(e, ERR_INVALID, "'%.*s' is no name of a family", (int)MIN(family.n, (size_t)100), family.p);
    }
    i = family_at(c, name);
    makes = i == c->n_families && m && strcmp(m->family->name, "default") == 0;
    if (i == c->n_families && !makes) {
        return err_set(e, ERR_NOT_FOUND,
                       m ? "no family '%s'; the model of that name is of family '%s'"
                         : "no family '%s' in the configuration, and no model of that name",
                       name, m ? m->family->name : "");
    }
    from = c->families[makes ? family_at(c, "default") : i];
    if ((moving = move_with(c, from)) != NULL || (moving = move_of(c, name)) != NULL) {
        return err_set(e, ERR_CONFLICT, "family '%s' is just being switched to %s; wait until that is over",
                       moving->name, family_place_name(moving->to));
    }
    home = makes ? family_place_name(from) : family_configured(from);
    if (!place.p && !home) { /* made by a switch: it goes with it */
        to = c->families[family_at(c, "default")];
        if ((moving = move_with(c, to)) != NULL) {
            return err_set(e, ERR_CONFLICT, "family '%s' is just being switched; wait until that is over",
                           moving->name);
        }
    } else if (!str_copy(wanted, sizeof(wanted), place.p ? place : str_of(home))) {
        return err_set(e, ERR_INVALID, "\"place\" has more than %d characters", PLACE_MAX);
    } else {
        to = family_copy(from, name);
        if (place_set(to, wanted, e) != ERR_OK || token_set(to, order->token_file, e) != ERR_OK) {
            free(to);
            return e->code;
        }
        to->token_file = place.p ? to->token_file : to->token_home;
        if (strcmp(family_place_name(to), family_place_name(from)) == 0) {
            free(to);
            return ERR_OK;
        }
    }
    *out = xcalloc(1, sizeof(**out));
    **out = (struct move){.c = c, .from = from, .to = to, .makes = makes, .unmakes = !place.p && !home};
    (*out)->own_to = !(*out)->unmakes;
    memcpy((*out)->name, name, sizeof(name));
    return ERR_OK;
}

void control_place(struct control *c, struct str family, const struct place_order *order,
                   void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct move *mv = NULL;
    struct err e = {ERR_OK, ""};

    if (c->stopping || !c->started) {
        err_set(&e, ERR_UNAVAILABLE, c->stopping ? "the server is stopping" : "the server is still starting");
    } else if (move_new(&mv, c, family, order, &e) == ERR_OK) {
        e.code = ERR_OK;
    }
    if (!mv) {
        done(ctx, &e);
        return;
    }
    snprintf(mv->actor, sizeof(mv->actor), STR_FMT, STR_ARG(order->actor));
    mv->trial = order->trial;
    mv->began_us = clock_us();
    mv->done = done;
    mv->ctx = ctx;
    mv->next = c->moves;
    c->moves = mv;
    move_go_on(mv);
}
