/* SPDX-License-Identifier: Apache-2.0 */
/* What a rollout waits for: why it stands still, what happens next and when, in a sentence for its operator. */
#include "control/rollout_priv.h"

uint64_t rollout_earliest_us(const struct rollout_policy *p, const struct rollout_progress *s)
{
    uint64_t until = 0;

    switch ((enum rollout_phase)s->phase) {
    case PHASE_WARMUP:
        return left(p->warmup_us, s->spent_us);
    case PHASE_BAKE:
        if (policy_tests(p)) {
            return left(p->experiment.for_us, s->spent_us);
        }
        until = p->automatic ? left(p->bake_us, s->spent_us) : 0;
        if (p->automatic && p->step_timeout_us > 0) {
            until = MIN(until, left(p->step_timeout_us, s->step_us));
        }
        return until;
    case PHASE_PAUSED:
        return by_person_only(s->pause) ? left(p->pause_timeout_us, s->spent_us) : 0;
    case PHASE_SOAK:
        return left(p->soak_us, s->spent_us);
    case PHASE_ENDED:
        break;
    }
    return 0;
}

struct wait {
    const struct rollout_policy *p;
    const struct rollout_progress *s;
    const struct judgement *j;
    const char *model;
    struct line text;
};

/* "10 %", or what stands behind the last step */
static struct word goal(const struct wait *w)
{
    struct word last = {"the promotion"};

    return last_step(w->p, w->s) ? last : words_share(w->p->step[w->s->step + 1]);
}

/* A FAIL that did not roll back. */
static void wait_harm(struct wait *w)
{
    words_add(&w->text, "stands still at %s: ", words_share(w->s->share_bp).z);
    if (!w->p->dry_run && !rollout_beside_sick(w->j)) {
        words_add(&w->text, "harm was seen, and the next judgement rolls it back: %s", evidence(w->j));
        return;
    }
    words_add(&w->text, "%s; weir rollout skip %s goes on to %s, weir rollout abort %s ends it: %s",
              w->p->dry_run ? "harm was seen, and in a dry run only a person acts"
                            : "the candidate looks worse than the stable version, which breaks its own limits too",
              w->model, goal(w).z, w->model, evidence(w->j));
}

/* The time and the answers of this bake are there, the verdict is not. */
static void wait_verdict(struct wait *w)
{
    bool failed = w->j->verdict == VERDICT_ERROR, ready = w->j->verdict != VERDICT_NODATA && !failed;

    if (ready) {
        words_add(&w->text, "the bake at %s is over; with the next judgement: %s", words_share(w->s->share_bp).z,
                  w->p->on_inconclusive == UNCLEAR_HOLD && w->j->verdict == VERDICT_INCONCLUSIVE
                      ? "paused, for a suspicion"
                      : goal(w).z);
        return;
    }
    words_add(&w->text, "the bake at %s is over, but %s", words_share(w->s->share_bp).z,
              failed ? "judging fails" : "there is too little to compare with");
    if (w->j->text[0]) {
        words_add(&w->text, ": %s", w->j->text);
    }
    if (failed && w->p->error_limit > 0) {
        words_add(&w->text, " (%s in a row; it pauses at %s)", words_count(w->s->failures).z,
                  words_count(w->p->error_limit).z);
    }
}

static void wait_experiment(struct wait *w)
{
    const struct experiment *x = &w->p->experiment;
    uint64_t more = left(x->min_us, w->s->spent_us);

    words_add(&w->text,
              "an experiment, with frozen shares: it ends in %s at the latest, and then the stable version stays; ",
              words_span(left(x->for_us, w->s->spent_us)).z);
    if (w->s->invalid) {
        words_add(&w->text, "it is invalid, as users are not split as ordered: weir experiment stop %s", w->model);
    } else if (more > 0) {
        words_add(&w->text, "it may be shipped in %s: weir experiment status %s", words_span(more).z, w->model);
    } else {
        words_add(&w->text, "it may be shipped when its goal speaks for it: weir experiment status %s", w->model);
    }
}

static void wait_bake(struct wait *w)
{
    const struct rollout_policy *p = w->p;
    const struct rollout_progress *s = w->s;
    uint64_t time = left(p->bake_us, s->spent_us), got = in_bake(s), more = left(p->min_requests, got);

    if (policy_tests(p)) {
        wait_experiment(w);
    } else if (w->j->verdict == VERDICT_FAIL) {
        wait_harm(w);
    } else if (!p->automatic) {
        words_add(&w->text,
                  "stays at %s, judged, until a person moves it: weir rollout set %s SHARE, weir promote %s or "
                  "weir rollout abort %s",
                  words_share(s->share_bp).z, w->model, w->model, w->model);
    } else if (time > 0 && more > 0) {
        words_add(&w->text, "bakes at %s: %s more and %s more %s of the candidate, then %s", words_share(s->share_bp).z,
                  words_span(time).z, words_count(more).z, more == 1 ? "answer" : "answers", goal(w).z);
    } else if (time > 0) {
        words_add(&w->text, "bakes at %s: %s more, then %s", words_share(s->share_bp).z, words_span(time).z, goal(w).z);
    } else if (more > 0) {
        words_add(&w->text, "waits for answers of the candidate at %s: %s of the %s that this step needs, then %s",
                  words_share(s->share_bp).z, words_count(got).z, words_count(p->min_requests).z, goal(w).z);
        if (s->silent_us >= 60000000) {
            words_add(&w->text, "; the last one came %s ago", words_span(s->silent_us).z);
        }
    } else {
        wait_verdict(w);
    }
}

/* "…; it goes on by itself WHEN, or: weir rollout resume NAME" */
static void by_itself(struct wait *w, const char *when)
{
    words_add(&w->text, "; it goes on by itself %s, or: weir rollout resume %s", when, w->model);
}

static void wait_pause(struct wait *w)
{
    const struct rollout_progress *s = w->s;
    const char *name = w->model;

    words_add(&w->text, "paused at %s for %s ", words_share(s->share_bp).z, words_span(s->spent_us).z);
    switch ((enum pause_reason)s->pause) {
    case PAUSE_NONE:
    case PAUSE_PERSON:
        words_add(&w->text, "by a person: weir rollout resume %s goes on", name);
        break;
    case PAUSE_RATIO:
        words_add(&w->text,
                  "because requests reach the two versions in another ratio than ordered (chance does that in "
                  "fewer than 1 of 1,000 rollouts)");
        by_itself(w, "when that is mended");
        break;
    case PAUSE_STABLE_SICK:
        words_add(&w->text,
                  "because the candidate looks worse than the stable version, which breaks its own limits too: a "
                  "stable version that is well again decides it, or a person: weir promote %s, weir rollout abort "
                  "%s",
                  name, name);
        break;
    case PAUSE_NODATA:
        words_add(&w->text, "because the candidate had no answer in %s", words_span(s->silent_us).z);
        by_itself(w, "with the next one");
        break;
    case PAUSE_ERRORS:
        words_add(&w->text, "because %s judgements in a row failed", words_count(s->failures).z);
        by_itself(w, "with the first that does not");
        break;
    case PAUSE_INCONCLUSIVE:
        words_add(&w->text,
                  "because the bake left a suspicion: weir rollout resume %s bakes once more, weir rollout skip %s "
                  "goes on to %s",
                  name, name, goal(w).z);
        break;
    case PAUSE_STEP_TIMEOUT:
        words_add(&w->text,
                  "because step %u took longer than %s: weir rollout resume %s gives it as long again, "
                  "weir rollout skip %s goes on to %s",
                  s->step + 1, words_span(w->p->step_timeout_us).z, name, name, goal(w).z);
        break;
    }
    if (w->p->pause_timeout_us > 0) {
        words_add(&w->text, "; aborted after %s more", words_span(left(w->p->pause_timeout_us, s->spent_us)).z);
    }
}

void rollout_waits_for(const struct rollout_policy *p, const struct rollout_progress *s, const struct judgement *j,
                       const char *model, char *text, size_t cap)
{
    static const struct judgement none = {.verdict = VERDICT_NODATA};
    struct wait w = {p, s, j ? j : &none, model, {text, cap, 0}};

    if (cap > 0) {
        text[0] = '\0';
    }
    switch ((enum rollout_phase)s->phase) {
    case PHASE_WARMUP:
        words_add(&w.text, "warms up at %s: %s more, ", words_share(s->share_bp).z,
                  words_span(left(p->warmup_us, s->spent_us)).z);
        if (p->automatic) {
            words_add(&w.text, "then a bake of %s", words_span(p->bake_us).z);
        } else {
            words_add(&w.text, "then it stays there until a person moves it");
        }
        break;
    case PHASE_BAKE:
        wait_bake(&w);
        break;
    case PHASE_PAUSED:
        wait_pause(&w);
        break;
    case PHASE_SOAK:
        words_add(&w.text, "promoted; soaks for %s more, and until then harm rolls back to the version before",
                  words_span(left(p->soak_us, s->spent_us)).z);
        break;
    case PHASE_ENDED:
        words_add(&w.text, "has ended and waits for nothing");
        break;
    }
}
