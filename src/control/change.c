/* SPDX-License-Identifier: Apache-2.0 */
/* Changes: one at a time a model, written before it acts. A rollback does not queue here: it is in force at once
 * (release.c), and a change that was being written meanwhile is void: its rows are overwritten by the rollback's, its
 * act never happens. Only a version that it registers stays: that takes no traffic by itself. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"

struct change_job {
    struct store_job job;
    struct task back;
    struct change *ch;
    struct control *c;
    struct err err;
};

static void change_run(struct change *ch);

void change_next(struct model *m)
{
    struct change *ch = m->next_change;

    if (m->changing || m->undo || !ch) {
        return;
    }
    m->next_change = ch->next;
    change_run(ch);
}

/* A model that is being added is not found by its name before its rows are durable; meanwhile this list has it. */
static enum err_code name_take(struct change *ch, struct err *e)
{
    struct control *c = ch->model->control;

    for (const struct change *other = c->founding; other; other = other->next_founding) {
        if (strcmp(other->model->row.name, ch->model->row.name) == 0) {
            return err_set(e, ERR_CONFLICT, "model '%s' is just being registered by somebody else; try again",
                           ch->model->row.name);
        }
    }
    ch->next_founding = c->founding;
    c->founding = ch;
    return ERR_OK;
}

static void name_leave(struct change *ch)
{
    struct change **at = &ch->model->control->founding;

    while (*at && *at != ch) {
        at = &(*at)->next_founding;
    }
    if (*at) {
        *at = ch->next_founding;
    }
}

static void change_end(struct change *ch, const struct err *e)
{
    struct model *m = ch->model;
    bool more;

    name_leave(ch);
    m->changing = NULL;
    more = m->undo || m->next_change;
    ch->finish(ch, e); /* may free the model, if it was the change's own: then nobody waits behind it */
    if (more && m->undo) {
        undo_go_on(m);
    } else if (more) {
        change_next(m);
    }
}

static void on_written(struct task *t)
{
    struct change_job *j = CONTAINER_OF(t, struct change_job, back);
    struct change *ch = j->ch;
    struct err e = j->err;

    free(j);
    if (e.code == ERR_OK) {
        history_told(ch->model->control, &ch->history_row);
    }
    if (e.code == ERR_OK && ch->epoch != ch->model->epoch && (ch->has_model || ch->has_rollout)) {
        undo_void(ch);
        ch->has_model = ch->has_rollout = false;
        if (ch->has_lift) {
            hold_lift(ch->model, ch->lift_row.digest); /* as it is written */
        }
        if (ch->has_version) {
            ch->act(ch);
        }
        err_set(&e, ERR_CONFLICT, "model '%s' was rolled back meanwhile; this change is void%s", ch->model->row.name,
                ch->has_version ? " (the version is registered, and takes no traffic)" : "");
    } else if (e.code == ERR_OK) {
        ch->act(ch);
    }
    change_end(ch, &e);
}

static void write_change(struct store *s, struct store_job *job)
{
    struct change_job *j = CONTAINER_OF(job, struct change_job, job);
    struct change *ch = j->ch;
    struct store_change sc = {.model = ch->has_model ? &ch->model_row : NULL,
                              .version = ch->has_version ? &ch->version_row : NULL,
                              .rollout = ch->has_rollout ? &ch->rollout_row : NULL,
                              .rollout_ended = ch->has_ended ? &ch->ended_row : NULL,
                              .lift = ch->has_lift ? &ch->lift_row : NULL,
                              .shadow = ch->has_shadow ? &ch->shadow_row : NULL,
                              .history = &ch->history_row};

    if (store_apply(s, &sc, &j->err) == ERR_OK) {
        j->err.code = ERR_OK;
    }
    loop_post(j->c->loop, &j->back);
}

static void change_run(struct change *ch)
{
    struct model *m = ch->model;
    struct change_job *j;
    struct err e;

    m->changing = ch;
    ch->epoch = m->epoch;
    if (ch->prepare(ch, &e) != ERR_OK || (ch->founds && name_take(ch, &e) != ERR_OK)) {
        change_end(ch, &e);
        return;
    }
    j = xcalloc(1, sizeof(*j));
    j->job.run = write_change;
    j->back.fn = on_written;
    j->ch = ch;
    j->c = m->control;
    store_post(j->c->store, &j->job);
}

void changes_refuse(struct model *m, const struct err *why)
{
    for (struct change *ch; (ch = m->next_change) != NULL;) {
        m->next_change = ch->next;
        ch->finish(ch, why);
    }
}

void change_submit(struct change *ch)
{
    struct model *m = ch->model;
    struct change **at = &m->next_change;
    struct err e = {ERR_OK, ""};

    if (m->control->stopping) {
        err_set(&e, ERR_UNAVAILABLE, "the server is stopping");
    }
    if (e.code != ERR_OK || undo_stuck(m, &e)) {
        ch->finish(ch, &e);
        return;
    }
    if (!m->changing && !m->undo) {
        change_run(ch);
        return;
    }
    while (*at) {
        at = &(*at)->next;
    }
    ch->next = NULL;
    *at = ch;
}

void change_done(struct change *ch)
{
    rollout_row_done(&ch->rollout_row);
    rollout_row_done(&ch->ended_row);
    history_row_done(&ch->history_row);
}

void history_told(struct control *c, const struct history_row *h)
{
    if (c->spec.ops.told) {
        c->spec.ops.told(c->spec.ops.told_ctx, h);
    }
}

void history_fill(struct history_row *h, const struct model *m, int64_t version, const char *kind, struct str actor,
                  const char *fmt, ...)
{
    va_list ap;

    *h = (struct history_row){.at_ms = clock_wall_ms(), .version = version};
    snprintf(h->model, sizeof(h->model), "%s", m->row.name);
    snprintf(h->kind, sizeof(h->kind), "%s", kind);
    snprintf(h->actor, sizeof(h->actor), STR_FMT, STR_ARG(actor));
    va_start(ap, fmt);
    vsnprintf(h->text, sizeof(h->text), fmt, ap);
    va_end(ap);
    log_info("control", "%s model=%s kind=%s actor=\"%s\"", h->text, h->model, kind, h->actor);
}
