/* SPDX-License-Identifier: Apache-2.0 */
/* The rollout's machine: one event in, the next state, the act and its sentence out.
 *
 * A tick looks, in this order, at: harm; what a pause waits for; what pauses; the clocks of warm-up, bake and soak; the
 * clock of the step. The first that has something to say makes the transition: one a tick. */
#include "control/rollout_priv.h"

bool rollout_beside_sick(const struct judgement *j)
{
    bool compared = false;

    for (size_t m = 0; m < METRIC_COUNT; m++) {
        const struct judge_finding *f = &j->finding[m];
        if (f->verdict == VERDICT_FAIL && !f->dry) {
            if (f->by_limit) {
                return false;
            }
            compared = true;
        }
    }
    return j->verdict == VERDICT_FAIL && j->stable_sick && compared;
}

/* ---- one move ---- */

struct move {
    const struct rollout_policy *p;
    const struct judgement *j; /* of a tick */
    struct rollout_step *out;
    struct rollout_progress *n; /* out->next */
    struct line text;           /* out->text */
};

static void step_begin(struct move *m, uint32_t step, uint32_t share_bp)
{
    struct rollout_progress *n = m->n;

    n->phase = PHASE_WARMUP;
    n->step = step;
    n->share_bp = share_bp;
    n->spent_us = n->step_us = 0;
    n->answered = n->seen;
    n->told = false;
    m->out->act = ACT_SHARE;
}

/* "step 3 of 5: the candidate takes 10 %" */
static void say_step(struct move *m)
{
    if (m->p->automatic) {
        words_add(&m->text, "step %u of %u: ", m->n->step + 1, steps_of(m->p));
    }
    words_add(&m->text, "the candidate takes %s", words_share(m->n->share_bp).z);
}

static void pause_as(struct move *m, enum pause_reason why)
{
    struct rollout_progress *n = m->n;

    if (n->phase != PHASE_PAUSED) {
        n->paused_in = n->phase;
        n->kept_us = n->spent_us;
        n->phase = PHASE_PAUSED;
    }
    n->pause = (int)why;
    n->spent_us = 0;
    m->out->act = ACT_KEEP;
    words_add(&m->text, "paused at %s", words_share(n->share_bp).z);
}

static void unpause(struct move *m)
{
    struct rollout_progress *n = m->n;

    n->phase = n->paused_in;
    n->spent_us = n->kept_us;
    n->kept_us = 0;
    n->paused_in = PHASE_WARMUP;
    n->pause = PAUSE_NONE;
    m->out->act = ACT_KEEP;
}

/* A person goes on: what paused it has not to pause it again on the next tick. */
static void overrule(struct move *m)
{
    struct rollout_progress *n = m->n;

    switch ((enum pause_reason)n->pause) {
    case PAUSE_RATIO:
    case PAUSE_STABLE_SICK:
        n->waived |= 1u << n->pause;
        break;
    case PAUSE_NODATA:
        n->silent_us = 0;
        break;
    case PAUSE_ERRORS:
        n->failures = 0;
        break;
    case PAUSE_INCONCLUSIVE: /* another bake */
        n->kept_us = 0;
        n->answered = n->seen;
        break;
    case PAUSE_STEP_TIMEOUT:
        n->step_us = 0;
        break;
    case PAUSE_NONE:
    case PAUSE_PERSON:
        break;
    }
    unpause(m);
}

static void promote(struct move *m)
{
    struct rollout_progress *n = m->n;

    n->phase = m->p->soak_us > 0 ? PHASE_SOAK : PHASE_ENDED;
    n->share_bp = 10000;
    n->spent_us = 0;
    n->told = false;
    m->out->act = ACT_PROMOTE;
    words_add(&m->text, "the candidate becomes the stable version");
    if (m->p->soak_us > 0) {
        words_add(&m->text, "; for %s harm still rolls back to the one before", words_span(m->p->soak_us).z);
    }
}

static void end(struct move *m, enum rollout_act act)
{
    m->n->phase = PHASE_ENDED;
    m->n->pause = PAUSE_NONE;
    m->n->paused_in = PHASE_WARMUP;
    m->n->spent_us = m->n->kept_us = 0;
    m->out->act = act;
}

/* ---- a tick ---- */

static void add(uint64_t *at, uint64_t more)
{
    if (!ck_add(*at, more, at)) {
        *at = UINT64_MAX;
    }
}

/* Clocks and counts. The candidate's answers may become fewer: a tally gives up its smallest stratum when it needs
 * room, a restart loses the last seconds. What was lost then counts as not answered. */
static void account(struct move *m, uint64_t elapsed)
{
    struct rollout_progress *n = m->n;
    const struct judgement *j = m->j;
    uint64_t now = j->answered[JUDGE_CANARY];
    bool warming = n->phase == PHASE_WARMUP || (n->phase == PHASE_PAUSED && n->paused_in == PHASE_WARMUP);

    add(&n->spent_us, elapsed);
    if (n->phase == PHASE_WARMUP || n->phase == PHASE_BAKE) {
        add(&n->step_us, elapsed);
    }
    if (now > n->seen) {
        n->silent_us = 0;
    } else if (n->phase != PHASE_PAUSED) {
        add(&n->silent_us, elapsed);
    }
    n->answered = warming ? now : MIN(n->answered, now);
    n->seen = now;
    if (j->verdict == VERDICT_ERROR) {
        add(&n->failures, 1);
        return;
    }
    n->failures = 0;
    if (!j->ratio_broken) {
        n->waived &= ~(1u << PAUSE_RATIO);
    }
    if (!rollout_beside_sick(j)) {
        n->waived &= ~(1u << PAUSE_STABLE_SICK);
    }
}

static bool harm(struct move *m)
{
    struct rollout_progress *n = m->n;
    bool soaks = n->phase == PHASE_SOAK;

    if (m->j->verdict != VERDICT_FAIL) {
        return false;
    }
    if (m->p->dry_run) {
        if (!n->told) {
            n->told = true;
            words_add(&m->text, "not rolled back at %s, as this is a dry run: %s", words_share(n->share_bp).z,
                      evidence(m->j));
            return true;
        }
        return false;
    }
    if (!soaks && rollout_beside_sick(m->j)) {
        if (policy_tests(m->p) || n->phase == PHASE_PAUSED || n->waived & 1u << PAUSE_STABLE_SICK) {
            return false;
        }
        pause_as(m, PAUSE_STABLE_SICK);
        words_add(&m->text,
                  ": the candidate looks worse than the stable version, but that breaks its own limits too: %s",
                  evidence(m->j));
        return true;
    }
    if (soaks) {
        words_add(&m->text, "rolled back in the soak: ");
    } else if (policy_tests(m->p)) {
        n->outcome = OUTCOME_HARM;
        words_add(&m->text, "stopped for harm: ");
    } else {
        words_add(&m->text, "rolled back at %s: ", words_share(n->share_bp).z);
    }
    words_add(&m->text, "%s", evidence(m->j));
    end(m, ACT_ROLL_BACK);
    return true;
}

static bool in_pause(struct move *m)
{
    struct rollout_progress *n = m->n;
    bool ok = m->j->verdict != VERDICT_ERROR;
    const char *gone = NULL;

    switch ((enum pause_reason)n->pause) {
    case PAUSE_RATIO:
        gone = ok && !m->j->ratio_broken ? "requests reach the two versions in the ordered ratio again" : NULL;
        break;
    case PAUSE_STABLE_SICK:
        gone =
            ok && m->j->verdict != VERDICT_FAIL ? "the candidate no longer looks worse than the stable version" : NULL;
        break;
    case PAUSE_NODATA: /* the silence does not grow in a pause: 0 is an answer */
        gone = n->silent_us == 0 ? "the candidate answers again" : NULL;
        break;
    case PAUSE_ERRORS:
        gone = ok ? "judging works again" : NULL;
        break;
    case PAUSE_NONE:
    case PAUSE_PERSON:
    case PAUSE_INCONCLUSIVE:
    case PAUSE_STEP_TIMEOUT:
        break;
    }
    if (gone) {
        unpause(m);
        words_add(&m->text, "goes on at %s: %s", words_share(n->share_bp).z, gone);
        return true;
    }
    if (m->p->pause_timeout_us > 0 && n->spent_us >= m->p->pause_timeout_us) {
        words_add(&m->text, "aborted at %s: nobody ended the pause in %s (pause_timeout)", words_share(n->share_bp).z,
                  words_span(m->p->pause_timeout_us).z);
        end(m, ACT_ABORT);
        return true;
    }
    return false;
}

/* Warm-up and bake: what says that nothing can be learned now. */
static bool signals(struct move *m)
{
    const struct rollout_policy *p = m->p;
    struct rollout_progress *n = m->n;

    if (p->error_limit > 0 && n->failures >= p->error_limit) {
        pause_as(m, PAUSE_ERRORS);
        words_add(&m->text, ": %s failed judgements in a row%s%s", words_count(n->failures).z,
                  m->j->text[0] ? ": " : "", m->j->text);
        return true;
    }
    if (m->j->ratio_broken && !(n->waived & 1u << PAUSE_RATIO)) {
        pause_as(m, PAUSE_RATIO);
        words_add(&m->text,
                  ": requests reach the two versions in another ratio than ordered, so they can not be compared");
        return true;
    }
    if (p->nodata_timeout_us == 0 || n->silent_us < p->nodata_timeout_us) {
        return false;
    }
    if (p->on_nodata == SILENCE_ABORT) {
        words_add(&m->text, "aborted at %s: no answer of the candidate in %s (on_nodata: abort)",
                  words_share(n->share_bp).z, words_span(n->silent_us).z);
        end(m, ACT_ABORT);
    } else {
        pause_as(m, PAUSE_NODATA);
        words_add(&m->text, ": no answer of the candidate in %s", words_span(n->silent_us).z);
    }
    return true;
}

/* The bake is over and its answers are there: what do they allow? */
static bool bake_over(struct move *m)
{
    const struct rollout_policy *p = m->p;
    struct rollout_progress *n = m->n;
    bool pass = m->j->verdict == VERDICT_PASS;
    uint64_t got = in_bake(n);

    if (!pass && m->j->verdict != VERDICT_INCONCLUSIVE) {
        return false;
    }
    if (!pass && p->on_inconclusive == UNCLEAR_HOLD) {
        pause_as(m, PAUSE_INCONCLUSIVE);
        words_add(&m->text, ": the bake is over and left a suspicion after %s (on_inconclusive: hold)%s%s",
                  words_answers(got).z, m->j->text[0] ? ": " : "", m->j->text);
        return true;
    }
    if (last_step(p, n)) {
        words_add(&m->text, "step %u of %u is through (%s in %s): ", n->step + 1, steps_of(p),
                  pass ? "no harm seen" : "a suspicion, no evidence of harm", words_answers(got).z);
        promote(m);
        return true;
    }
    step_begin(m, n->step + 1, p->step[n->step + 1]);
    say_step(m);
    words_add(&m->text, " (%s in %s)", pass ? "no harm seen" : "a suspicion, no evidence of harm",
              words_answers(got).z);
    return true;
}

static bool clocks(struct move *m)
{
    const struct rollout_policy *p = m->p;
    struct rollout_progress *n = m->n;

    if (n->phase == PHASE_WARMUP && n->spent_us >= p->warmup_us) {
        n->phase = PHASE_BAKE;
        n->spent_us = 0;
        m->out->act = ACT_KEEP;
        if (p->automatic) {
            words_add(&m->text, "step %u of %u: warm at %s; the bake of %s begins", n->step + 1, steps_of(p),
                      words_share(n->share_bp).z, words_span(p->bake_us).z);
        } else {
            words_add(&m->text, "the candidate is warm at %s and stays there", words_share(n->share_bp).z);
        }
        return true;
    }
    if (n->phase == PHASE_BAKE && p->automatic && n->spent_us >= p->bake_us && in_bake(n) >= p->min_requests) {
        return bake_over(m);
    }
    if (n->phase == PHASE_SOAK && n->spent_us >= p->soak_us) {
        words_add(&m->text, "the soak of %s is over%s: the rollout is complete", words_span(p->soak_us).z,
                  m->j->verdict == VERDICT_PASS ? " and showed no harm" : "");
        end(m, ACT_COMPLETE);
        return true;
    }
    return false;
}

/* An experiment knows no steps and no pauses. */
static void tick_experiment(struct move *m, const struct experiment_finding *f)
{
    const struct experiment *x = &m->p->experiment;
    struct rollout_progress *n = m->n;

    if (harm(m) || n->spent_us < x->for_us) {
        return;
    }
    n->outcome = n->invalid ? OUTCOME_INVALID : OUTCOME_EXPIRED;
    words_add(&m->text, "the experiment expired after %s", words_span(x->for_us).z);
    if (f) {
        words_add(&m->text, ": %s", f->text);
    }
    end(m, ACT_ABORT);
}

static void tick(struct move *m, uint64_t elapsed, const struct experiment_finding *f)
{
    const struct rollout_policy *p = m->p;
    struct rollout_progress *n = m->n;
    bool moving;

    if (n->phase == PHASE_ENDED) {
        return;
    }
    account(m, elapsed);
    if (policy_tests(p) && n->phase == PHASE_BAKE) {
        n->invalid |= m->j->ratio_broken;
        tick_experiment(m, f);
        return;
    }
    moving = n->phase == PHASE_WARMUP || n->phase == PHASE_BAKE;
    if (harm(m) || (n->phase == PHASE_PAUSED && in_pause(m)) || (moving && signals(m)) || clocks(m)) {
        return;
    }
    if (moving && p->automatic && p->step_timeout_us > 0 && n->step_us >= p->step_timeout_us) {
        pause_as(m, PAUSE_STEP_TIMEOUT);
        words_add(&m->text, ": step %u of %u took %s, longer than %s", n->step + 1, steps_of(p),
                  words_span(n->step_us).z, words_span(p->step_timeout_us).z);
    }
}

/* ---- a person ---- */

static enum err_code person_pauses(struct move *m, struct err *e)
{
    if (m->n->phase == PHASE_PAUSED && by_person_only(m->n->pause)) {
        return err_set(e, ERR_CONFLICT, "it is paused already (%s), and only a person ends that",
                       pause_reason_names[m->n->pause]);
    }
    pause_as(m, PAUSE_PERSON);
    words_add(&m->text, " by a person; guardrails and breaker stay on");
    return ERR_OK;
}

static enum err_code person_resumes(struct move *m, struct err *e)
{
    int why = m->n->pause;

    if (m->n->phase != PHASE_PAUSED) {
        return err_set(e, ERR_CONFLICT, "it is not paused (%s)", rollout_phase_names[m->n->phase]);
    }
    overrule(m);
    words_add(&m->text, "goes on at %s: resumed by a person", words_share(m->n->share_bp).z);
    if (why != PAUSE_PERSON) {
        words_add(&m->text, " (it was paused: %s)%s", pause_reason_names[why],
                  why == PAUSE_INCONCLUSIVE ? "; it bakes once more" : "");
    }
    return ERR_OK;
}

/* To the next step, or promoted; out of a pause too. */
static void person_moves_on(struct move *m, bool to_end)
{
    struct rollout_progress *n = m->n;
    uint32_t was = n->step + 1;

    if (n->phase == PHASE_PAUSED) {
        overrule(m);
    }
    if (to_end || last_step(m->p, n)) {
        words_add(&m->text, "promoted by a person at %s: ", words_share(n->share_bp).z);
        promote(m);
        return;
    }
    step_begin(m, was, m->p->step[was]);
    say_step(m);
    words_add(&m->text, " (a person skipped the rest of step %u)", was);
}

static enum err_code person_sets(struct move *m, uint32_t share_bp, struct err *e)
{
    struct rollout_progress *n = m->n;

    if (share_bp > 10000) {
        return err_set(e, ERR_INVALID, "a share is from 0%% to 100%%");
    }
    if (share_bp == n->share_bp) {
        words_add(&m->text, "the candidate takes %s already: nothing changed%s", words_share(share_bp).z,
                  m->p->automatic && n->phase != PHASE_PAUSED ? ", and its steps go on (a pause holds it there)" : "");
        return ERR_OK;
    }
    if (n->phase == PHASE_PAUSED) {
        overrule(m);
    }
    step_begin(m, 0, share_bp);
    m->out->manual = true;
    words_add(&m->text, "the candidate takes %s, set by a person%s", words_share(share_bp).z,
              m->p->automatic ? ": from now on only a person moves it" : "");
    return ERR_OK;
}

/* Why an experiment may not be shipped now; false: it may. */
static bool kept_back(const struct move *m, const struct rollout_event *ev, struct err *e)
{
    const struct experiment *x = &m->p->experiment;
    const struct experiment_finding *f = ev->finding;
    uint64_t more = left(x->min_us, m->n->spent_us);
    struct word whole = words_span(x->min_us);

    if (m->n->invalid || f->result == RESULT_HIDDEN) {
        err_set(e, ERR_CONFLICT, "the experiment is invalid and can not be shipped: its result is %s", f->text);
    } else if (!ev->force && ev->judgement->verdict == VERDICT_FAIL) {
        err_set(e, ERR_CONFLICT, "a guardrail failed: %s", evidence(ev->judgement));
    } else if (!ev->force && more > 0) {
        err_set(e, ERR_CONFLICT, "it may be shipped in %s, when it has run for %s; --force ships it now (%s)",
                words_span(more).z, whole.z, f->text[0] ? f->text : "it was not looked at yet");
    } else if (!ev->force && !experiment_good(f)) {
        err_set(e, ERR_CONFLICT, "its goal does not speak for it: %s; --force ships it all the same",
                f->text[0] ? f->text : "it was not looked at yet");
    } else {
        return false;
    }
    return true;
}

static enum err_code person_ships(struct move *m, const struct rollout_event *ev, struct err *e)
{
    if (!policy_tests(m->p)) {
        return err_set(e, ERR_CONFLICT, "it is a rollout and no experiment: it is promoted, not shipped");
    }
    if (kept_back(m, ev, e)) {
        return e->code;
    }
    m->n->outcome = OUTCOME_SHIPPED;
    words_add(&m->text, "shipped%s: %s; ", ev->force ? ", as a person insisted" : "",
              ev->finding->text[0] ? ev->finding->text : "it was not looked at yet");
    promote(m);
    return ERR_OK;
}

static enum err_code person(struct move *m, const struct rollout_event *ev, struct err *e)
{
    if (m->n->phase == PHASE_ENDED) {
        return err_set(e, ERR_CONFLICT, "the rollout has ended");
    }
    if (m->n->phase == PHASE_SOAK) {
        return err_set(e, ERR_CONFLICT, "the candidate is promoted already and soaks for %s more",
                       words_span(left(m->p->soak_us, m->n->spent_us)).z);
    }
    if (ev->kind == EVENT_SHIP) {
        return person_ships(m, ev, e);
    }
    if (policy_tests(m->p)) {
        return err_set(e, ERR_CONFLICT,
                       "an experiment is running, and its shares are frozen until it ends: weir experiment ship or "
                       "weir experiment stop ends it");
    }
    switch (ev->kind) {
    case EVENT_PAUSE:
        return person_pauses(m, e);
    case EVENT_RESUME:
        return person_resumes(m, e);
    case EVENT_SET:
        return person_sets(m, ev->share_bp, e);
    case EVENT_SKIP:
    case EVENT_PROMOTE:
        person_moves_on(m, ev->kind == EVENT_PROMOTE);
        return ERR_OK;
    case EVENT_TICK:
    case EVENT_SHIP:
        break;
    }
    return err_set(e, ERR_INTERNAL, "no such event");
}

/* ---- from outside ---- */

void rollout_begin(const struct rollout_policy *p, struct rollout_progress *out)
{
    *out = (struct rollout_progress){.phase = policy_tests(p) ? PHASE_BAKE : PHASE_WARMUP, .share_bp = p->step[0]};
}

enum err_code rollout_next(const struct rollout_policy *p, const struct rollout_progress *s,
                           const struct rollout_event *ev, struct rollout_step *out, struct err *e)
{
    struct move m = {p, ev->judgement, out, &out->next, {out->text, sizeof(out->text), 0}};

    out->act = ACT_NONE;
    out->next = *s;
    out->manual = false;
    out->text[0] = '\0';
    if (ev->kind != EVENT_TICK) {
        return person(&m, ev, e);
    }
    tick(&m, ev->elapsed_us, ev->finding);
    return ERR_OK;
}
