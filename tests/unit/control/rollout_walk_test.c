/* SPDX-License-Identifier: Apache-2.0 */
/* A million events drawn by seed: the laws of the rollout's machine hold after each, against a bookkeeping of the
 * test's own. */
#include "unit/control/rollout_case.h"

struct walk {
    struct story t;
    uint64_t chance, canary; /* the generator; answers so far */
    /* a bookkeeping of its own, of what the bake that runs has had */
    uint64_t bake_us, bake_answers;
    unsigned acts[ACT_ABORT + 1], pauses[PAUSE_STEP_TIMEOUT + 1], conflicts, manuals, rollouts;
};

static uint64_t draw(struct walk *w, uint64_t below)
{
    w->chance ^= w->chance << 13;
    w->chance ^= w->chance >> 7;
    w->chance ^= w->chance << 17;
    return (w->chance >> 11) % below;
}

static void walk_begin(struct walk *w)
{
    struct rollout_policy *p = &w->t.p;

    policy_default(p, "walk");
    p->n_steps = (uint32_t)(1 + draw(w, 4));
    p->automatic = draw(w, 8) > 0;
    p->bake_us = draw(w, 8) * SECONDS(1);
    p->warmup_us = draw(w, 4) * SECONDS(1);
    p->min_requests = 1 + draw(w, 40);
    p->on_inconclusive = (int)draw(w, 2);
    p->on_nodata = (int)draw(w, 2);
    p->dry_run = draw(w, 10) == 0;
    p->nodata_timeout_us = draw(w, 3) * SECONDS(8);
    p->step_timeout_us = draw(w, 3) * SECONDS(8);
    p->error_limit = 1 + draw(w, 4);
    p->pause_timeout_us = draw(w, 3) * SECONDS(20);
    p->soak_us = draw(w, 3) * SECONDS(4);
    rollout_begin(p, &w->t.s);
    w->canary = 0;
    w->rollouts++;
}

static struct rollout_event walk_event(struct walk *w)
{
    static const enum verdict verdicts[] = {PASS, PASS, PASS, PASS, PASS, PASS, UNCLEAR, UNCLEAR, NODATA, BROKEN};
    struct rollout_event ev = {.kind = EVENT_TICK, .share_bp = (uint32_t)draw(w, 10002)};
    enum verdict v = draw(w, 150) == 0 ? FAIL : verdicts[draw(w, COUNT_OF(verdicts))];

    if (draw(w, 25) == 0) {
        ev.kind = (enum rollout_event_kind)(EVENT_PAUSE + draw(w, 5));
        ev.share_bp = draw(w, 4) == 0 ? w->t.s.share_bp : ev.share_bp;
        return ev;
    }
    w->canary += draw(w, 4) == 0 ? draw(w, 60) : 0;
    if (draw(w, 400) == 0) {
        w->canary -= draw(w, w->canary + 1);
    }
    judged(&w->t.j, v, w->canary, (draw(w, 60) == 0 ? RATIO : 0) | (draw(w, 2) == 0 ? SICK : 0));
    ev.judgement = &w->t.j;
    ev.elapsed_us = draw(w, 3) * MILLIS(700);
    return ev;
}

/* What a tick may do, by the book that the walk keeps. */
static void walk_tick(struct walk *w, const struct rollout_progress *was, const struct rollout_event *ev)
{
    const struct rollout_policy *p = &w->t.p;
    const struct rollout_step *got = &w->t.got;
    const struct rollout_progress *n = &got->next;
    enum verdict v = w->t.j.verdict;

    if (was->phase == PHASE_BAKE) {
        w->bake_us += ev->elapsed_us;
    }
    if (w->canary >= was->seen) {
        w->bake_answers += w->canary - was->seen;
    } else {
        uint64_t lost = was->seen - w->canary;
        w->bake_answers -= MIN(lost, w->bake_answers);
    }
    if (got->act == ACT_SHARE || got->act == ACT_PROMOTE) {
        assert_true(p->automatic && was->phase == PHASE_BAKE);
        assert_true(v == PASS || (v == UNCLEAR && p->on_inconclusive == UNCLEAR_ADVANCE));
        assert_true(w->bake_us >= p->bake_us && w->bake_answers >= p->min_requests);
        assert_true(!w->t.j.ratio_broken || was->waived & 1u << PAUSE_RATIO);
    }
    assert_true(got->act != ACT_ROLL_BACK || (v == FAIL && !p->dry_run));
    assert_true(got->act != ACT_COMPLETE || (was->phase == PHASE_SOAK && was->spent_us + ev->elapsed_us >= p->soak_us));
    if (v == FAIL && !p->dry_run && was->phase != PHASE_ENDED) {
        assert_true(got->act == ACT_ROLL_BACK || (w->t.j.stable_sick && was->phase != PHASE_SOAK));
    }
    if (n->phase == was->phase && was->phase != PHASE_ENDED && got->act == ACT_NONE) {
        assert_int_equal(n->spent_us, was->spent_us + ev->elapsed_us);
    }
    assert_true(n->step_us >= was->step_us || got->act == ACT_SHARE);
    assert_true(n->kept_us == was->kept_us || got->act != ACT_NONE);
    assert_false(got->manual);
}

/* What holds for every event. */
static void walk_laws(struct walk *w, const struct rollout_progress *was, const struct rollout_event *ev,
                      enum err_code code)
{
    const struct rollout_step *got = &w->t.got;
    const struct rollout_progress *n = &got->next;
    bool moved = got->act == ACT_SHARE || got->act == ACT_PROMOTE;

    if (code != ERR_OK) {
        assert_true(ev->kind != EVENT_TICK && got->act == ACT_NONE && same(n, was) && got->text[0] == '\0');
        w->conflicts++;
        return;
    }
    assert_true(moved == (n->share_bp != was->share_bp));
    assert_true(got->act != ACT_SHARE || (n->spent_us == 0 && n->step_us == 0 && n->answered == n->seen));
    assert_true(n->step >= was->step || (ev->kind == EVENT_SET && got->act == ACT_SHARE));
    assert_true(n->step <= was->step + 1 && (got->act == ACT_SHARE || n->step == was->step));
    assert_true(got->act == ACT_NONE || got->text[0] != '\0');
    assert_true(got->act != ACT_NONE || (n->phase == was->phase && n->pause == was->pause));
    assert_true((n->phase == PHASE_PAUSED) == (n->pause != PAUSE_NONE));
    assert_true(n->answered <= n->seen);
    if (was->phase == PHASE_ENDED) {
        assert_true(got->act == ACT_NONE && same(n, was));
    }
    if (was->phase == PHASE_SOAK) {
        assert_true(n->phase == PHASE_SOAK || n->phase == PHASE_ENDED);
    }
}

static void walk_step(struct walk *w)
{
    const struct rollout_progress was = w->t.s;
    struct rollout_event ev = walk_event(w);
    struct rollout_step *got = &w->t.got;
    enum err_code code = rollout_next(&w->t.p, &was, &ev, got, NULL);

    walk_laws(w, &was, &ev, code);
    if (code != ERR_OK) {
        return;
    }
    if (ev.kind == EVENT_TICK) {
        walk_tick(w, &was, &ev);
    }
    if (got->next.phase == PHASE_WARMUP || (was.phase == PHASE_WARMUP && got->next.phase == PHASE_BAKE) ||
        (was.pause == PAUSE_INCONCLUSIVE && ev.kind == EVENT_RESUME)) {
        w->bake_us = w->bake_answers = 0;
    }
    w->acts[got->act]++;
    w->pauses[got->next.pause] += got->act == ACT_KEEP;
    w->manuals += got->manual;
    w->t.p.automatic = w->t.p.automatic && !got->manual;
    w->t.s = got->next;
}

static void stored_as_it_is(const struct rollout_progress *s)
{
    struct rollout_progress back;
    struct buf b;
    struct err e;

    buf_init(&b, 4096);
    rollout_progress_json(&b, s);
    if (rollout_progress_read(&back, buf_str(&b), &e) != ERR_OK) {
        fail_msg("%s: %s", e.text, buf_z(&b));
    }
    assert_true(same(s, &back));
    buf_done(&b);
}

static void a_random_walk(void **state)
{
    (void)state;
    static struct walk w = {.chance = 20261124};
    unsigned after_the_end = 0;

    walk_begin(&w);
    for (unsigned i = 0; i < 1000000; i++) {
        walk_step(&w);
        if (i % 64 == 0) {
            stored_as_it_is(&w.t.s);
        }
        after_the_end = w.t.s.phase == PHASE_ENDED ? after_the_end + 1 : 0;
        if (after_the_end == 5) {
            walk_begin(&w);
            after_the_end = 0;
        }
    }
    /* It went everywhere. */
    for (int act = 0; act <= ACT_ABORT; act++) {
        assert_true(w.acts[act] > 500);
    }
    for (int why = PAUSE_PERSON; why <= PAUSE_STEP_TIMEOUT; why++) {
        assert_true(w.pauses[why] > 50);
    }
    assert_true(w.conflicts > 500 && w.manuals > 500 && w.rollouts > 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
