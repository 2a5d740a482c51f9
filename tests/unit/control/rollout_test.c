/* SPDX-License-Identifier: Apache-2.0 */
/* The rollout's machine: a table with every transition, what is refused, and whole rollouts tick by tick. */
#include "unit/control/rollout_case.h"

/* ---- the table ---- */

struct row {
    const char *what;
    int policy;
    struct rollout_progress was;
    enum rollout_event_kind kind;
    uint64_t elapsed;
    enum verdict verdict;
    uint64_t answered;
    unsigned flags;
    uint32_t share;
    /* expected */
    enum rollout_act act;
    int phase, pause;
    uint32_t step, share_after;
    bool manual;
    const char *says;
};

/* A row's event, and what is expected of it. */
#define TICK(us, v, n, f) EVENT_TICK, us, v, n, f, 0
#define BY(event) EVENT_##event, 0, 0, 0, 0, 0
#define STAYS(ph) ACT_NONE, ph, PAUSE_NONE, 1, 500, false, ""
#define STAYS_PAUSED(why) ACT_NONE, PHASE_PAUSED, why, 1, 500, false, ""
#define PAUSES(why) ACT_KEEP, PHASE_PAUSED, why, 1, 500, false
#define GOES_ON(ph) ACT_KEEP, ph, PAUSE_NONE, 1, 500, false
#define NEXT ACT_SHARE, PHASE_WARMUP, PAUSE_NONE, 2, 1000, false
#define PROMOTED(st) ACT_PROMOTE, PHASE_SOAK, PAUSE_NONE, st, 10000, false
#define ENDS(how) how, PHASE_ENDED, PAUSE_NONE, 1, 500, false
#define ENDS_SOAK(how) how, PHASE_ENDED, PAUSE_NONE, 4, 10000, false

/* clang-format off */
static const struct row rows[] = {
    /* warm-up: time alone */
    {"warm-up goes on", PLAIN, WARMING(SECONDS(10)), TICK(SECONDS(1), NODATA, 1000, 0), STAYS(PHASE_WARMUP)},
    {"warm-up ends", PLAIN, WARMING(SECONDS(29)), TICK(SECONDS(1), PASS, 1010, 0), GOES_ON(PHASE_BAKE),
        "step 2 of 5: warm at 5 %; the bake of 10 m begins"},
    {"warm-up ends without an answer", PLAIN, WARMING(SECONDS(29)), TICK(SECONDS(1), NODATA, 1000, 0),
        GOES_ON(PHASE_BAKE), "the bake of 10 m begins"},
    {"warm-up ends while judging fails", PLAIN, WARMING(SECONDS(29)), TICK(SECONDS(1), BROKEN, 1000, 0),
        GOES_ON(PHASE_BAKE), "the bake"},
    {"a long tick in the warm-up is no bake", PLAIN, WARMING(0), TICK(HOURS(1), PASS, 5000, 0), GOES_ON(PHASE_BAKE),
        "the bake"},
    {"harm in the warm-up", PLAIN, WARMING(SECONDS(1)), TICK(SECONDS(1), FAIL, 1005, 0), ENDS(ACT_ROLL_BACK),
        "rolled back at 5 %: " HARM},
    {"a broken ratio in the warm-up", PLAIN, WARMING(SECONDS(1)), TICK(SECONDS(1), PASS, 1005, RATIO),
        PAUSES(PAUSE_RATIO), "paused at 5 %: requests reach the two versions in another ratio than ordered"},

    /* bake: time and answers and a verdict */
    {"bake: no time yet", PLAIN, BAKING(MINUTES(9), 500), TICK(SECONDS(1), PASS, 1000, 0), STAYS(PHASE_BAKE)},
    {"bake: too few answers", PLAIN, BAKING(MINUTES(30), 98), TICK(SECONDS(1), PASS, 1001, 0), STAYS(PHASE_BAKE)},
    {"bake: over", PLAIN, BAKING(MINUTES(30), 98), TICK(SECONDS(1), PASS, 1002, 0), NEXT,
        "step 3 of 5: the candidate takes 10 % (no harm seen in 100 answers)"},
    {"bake: over by time", PLAIN, BAKING(MINUTES(10) - 1, 500), TICK(1, PASS, 1740, 0), NEXT,
        "step 3 of 5: the candidate takes 10 % (no harm seen in 1,240 answers)"},
    {"bake: a suspicion goes on", PLAIN, BAKING(MINUTES(10), 500), TICK(SECONDS(1), UNCLEAR, 1000, 0), NEXT,
        "step 3 of 5: the candidate takes 10 % (a suspicion, no evidence of harm in 500 answers)"},
    {"bake: a suspicion holds", HOLD, BAKING(MINUTES(10), 500), TICK(SECONDS(1), UNCLEAR, 1000, 0),
        PAUSES(PAUSE_INCONCLUSIVE), "paused at 5 %: the bake is over and left a suspicion after 500 answers"},
    {"bake: a suspicion on the way is none", HOLD, BAKING(MINUTES(9), 500), TICK(SECONDS(1), UNCLEAR, 1000, 0),
        STAYS(PHASE_BAKE)},
    {"bake: no data never advances", PLAIN, BAKING(HOURS(5), 500), TICK(SECONDS(1), NODATA, 1000, 0),
        STAYS(PHASE_BAKE)},
    {"bake: a failed judgement never advances", PLAIN, BAKING(HOURS(5), 500), TICK(SECONDS(1), BROKEN, 1001, 0),
        STAYS(PHASE_BAKE)},
    {"bake: lost counts do not advance", PLAIN, BAKING(HOURS(5), 120), TICK(SECONDS(1), PASS, 979, 0),
        STAYS(PHASE_BAKE)},
    {"bake: harm", PLAIN, BAKING(MINUTES(3), 50), TICK(SECONDS(1), FAIL, 1050, 0), ENDS(ACT_ROLL_BACK),
        "rolled back at 5 %: " HARM},
    {"bake: harm at its end", PLAIN, BAKING(MINUTES(10), 500), TICK(SECONDS(1), FAIL, 1050, 0), ENDS(ACT_ROLL_BACK),
        "rolled back at 5 %: " HARM},
    {"bake: harm beside a broken ratio", PLAIN, BAKING(MINUTES(3), 50), TICK(SECONDS(1), FAIL, 1050, RATIO),
        ENDS(ACT_ROLL_BACK), "rolled back"},
    {"the last bake promotes", PLAIN, LAST_BAKING, TICK(SECONDS(1), PASS, 2000, 0), PROMOTED(4),
        "step 5 of 5 is through (no harm seen in 1,240 answers): the candidate becomes the stable version; for 1 h "
        "harm still rolls back to the one before"},
    {"the last bake promotes with a suspicion", PLAIN, LAST_BAKING, TICK(SECONDS(1), UNCLEAR, 2000, 0), PROMOTED(4),
        "a suspicion, no evidence of harm in 1,240 answers"},
    {"no data never promotes", PLAIN, LAST_BAKING, TICK(SECONDS(1), NODATA, 2000, 0),
        ACT_NONE, PHASE_BAKE, PAUSE_NONE, 4, 5000, false, ""},
    {"errors never promote", PLAIN, LAST_BAKING, TICK(SECONDS(1), BROKEN, 2000, 0),
        ACT_NONE, PHASE_BAKE, PAUSE_NONE, 4, 5000, false, ""},
    {"without a soak the promotion ends it", NO_SOAK, LAST_BAKING, TICK(SECONDS(1), PASS, 2000, 0),
        ACT_PROMOTE, PHASE_ENDED, PAUSE_NONE, 4, 10000, false, "becomes the stable version"},

    /* a sick stable version */
    {"sick stable, comparison", PLAIN, BAKING(MINUTES(3), 50), TICK(SECONDS(1), FAIL, 1050, SICK),
        PAUSES(PAUSE_STABLE_SICK),
        "paused at 5 %: the candidate looks worse than the stable version, but that breaks its own limits too: " HARM},
    {"sick stable, own limit", PLAIN, BAKING(MINUTES(3), 50), TICK(SECONDS(1), FAIL, 1050, SICK | BY_LIMIT),
        ENDS(ACT_ROLL_BACK), "rolled back"},
    {"sick stable does not block its cure", PLAIN, BAKING(MINUTES(10), 500), TICK(SECONDS(1), PASS, 1000, SICK), NEXT,
        "10 %"},
    {"sick stable goes on being sick", PLAIN, PAUSED(PAUSE_STABLE_SICK), TICK(SECONDS(1), FAIL, 1050, SICK),
        STAYS_PAUSED(PAUSE_STABLE_SICK)},
    {"sick stable is well again: harm", PLAIN, PAUSED(PAUSE_STABLE_SICK), TICK(SECONDS(1), FAIL, 1050, 0),
        ENDS(ACT_ROLL_BACK), "rolled back at 5 %"},
    {"sick stable: the candidate is not worse", PLAIN, PAUSED(PAUSE_STABLE_SICK), TICK(SECONDS(1), UNCLEAR, 1050, 0),
        GOES_ON(PHASE_BAKE), "goes on at 5 %: the candidate no longer looks worse"},

    /* signals */
    {"ratio broken", PLAIN, BAKING(MINUTES(10), 500), TICK(SECONDS(1), PASS, 1000, RATIO), PAUSES(PAUSE_RATIO),
        "so they can not be compared"},
    {"ratio still broken", PLAIN, PAUSED(PAUSE_RATIO), TICK(SECONDS(1), PASS, 1100, RATIO),
        STAYS_PAUSED(PAUSE_RATIO)},
    {"ratio unknown", PLAIN, PAUSED(PAUSE_RATIO), TICK(SECONDS(1), BROKEN, 1100, 0), STAYS_PAUSED(PAUSE_RATIO)},
    {"ratio mended", PLAIN, PAUSED(PAUSE_RATIO), TICK(SECONDS(1), PASS, 1100, 0), GOES_ON(PHASE_BAKE),
        "goes on at 5 %: requests reach the two versions in the ordered ratio again"},
    {"judging fails, not yet too often", PLAIN, {IN_STEP, .phase = PHASE_BAKE, .failures = 2},
        TICK(SECONDS(1), BROKEN, 1000, 0), STAYS(PHASE_BAKE)},
    {"judging fails too often", PLAIN, {IN_STEP, .phase = PHASE_BAKE, .failures = 3},
        TICK(SECONDS(1), BROKEN, 1000, 0), PAUSES(PAUSE_ERRORS),
        "paused at 5 %: 4 failed judgements in a row: counts disagree"},
    {"judging still fails", PLAIN, PAUSED(PAUSE_ERRORS), TICK(SECONDS(1), BROKEN, 1000, 0),
        STAYS_PAUSED(PAUSE_ERRORS)},
    {"judging works again", PLAIN, PAUSED(PAUSE_ERRORS), TICK(SECONDS(1), NODATA, 1000, 0), GOES_ON(PHASE_BAKE),
        "goes on at 5 %: judging works again"},
    {"no answers, not yet too long", PLAIN, {IN_STEP, .phase = PHASE_BAKE, .silent_us = HOURS(24) - SECONDS(2)},
        TICK(SECONDS(1), NODATA, 1000, 0), STAYS(PHASE_BAKE)},
    {"no answers for too long", PLAIN, {IN_STEP, .phase = PHASE_BAKE, .silent_us = HOURS(24) - SECONDS(1)},
        TICK(SECONDS(1), NODATA, 1000, 0), PAUSES(PAUSE_NODATA), "paused at 5 %: no answer of the candidate in 1 d"},
    {"an answer at the last moment", PLAIN, {IN_STEP, .phase = PHASE_BAKE, .silent_us = HOURS(24) - SECONDS(1)},
        TICK(SECONDS(1), NODATA, 1001, 0), STAYS(PHASE_BAKE)},
    {"no answers for too long aborts", ABORTS, {IN_STEP, .phase = PHASE_BAKE, .silent_us = HOURS(24) - SECONDS(1)},
        TICK(SECONDS(1), NODATA, 1000, 0), ENDS(ACT_ABORT),
        "aborted at 5 %: no answer of the candidate in 1 d (on_nodata: abort)"},
    {"no timeout for no answers", PATIENT, {IN_STEP, .phase = PHASE_BAKE, .silent_us = HOURS(9000)},
        TICK(HOURS(1), NODATA, 1000, 0), STAYS(PHASE_BAKE)},
    {"still no answers", PLAIN, PAUSED(PAUSE_NODATA), TICK(HOURS(90), NODATA, 1000, 0), STAYS_PAUSED(PAUSE_NODATA)},
    {"answers again", PLAIN, PAUSED(PAUSE_NODATA), TICK(SECONDS(1), NODATA, 1001, 0), GOES_ON(PHASE_BAKE),
        "goes on at 5 %: the candidate answers again"},
    {"the step takes too long", PLAIN, {IN_STEP, .phase = PHASE_BAKE, .step_us = HOURS(6) - 1},
        TICK(1, NODATA, 1001, 0), PAUSES(PAUSE_STEP_TIMEOUT), "paused at 5 %: step 2 of 5 took 6 h, longer than 6 h"},
    {"the step ends at its last moment", PLAIN,
        {IN_STEP, .phase = PHASE_BAKE, .step_us = HOURS(6) - 1, .spent_us = HOURS(5)}, TICK(1, PASS, 1001, 0), NEXT,
        "10 %"},

    /* in a pause */
    {"a person's pause is not ended by a tick", PLAIN, PAUSED(PAUSE_PERSON), TICK(HOURS(9), PASS, 9000, 0),
        STAYS_PAUSED(PAUSE_PERSON)},
    {"a suspicion's pause neither", HOLD, PAUSED(PAUSE_INCONCLUSIVE), TICK(HOURS(9), PASS, 9000, 0),
        STAYS_PAUSED(PAUSE_INCONCLUSIVE)},
    {"nor a timeout's", PLAIN, PAUSED(PAUSE_STEP_TIMEOUT), TICK(HOURS(9), PASS, 9000, 0),
        STAYS_PAUSED(PAUSE_STEP_TIMEOUT)},
    {"a failed judgement does not end a pause", PLAIN, PAUSED(PAUSE_PERSON), TICK(1, BROKEN, 9000, RATIO),
        STAYS_PAUSED(PAUSE_PERSON)},
    {"harm in a person's pause", PLAIN, PAUSED(PAUSE_PERSON), TICK(1, FAIL, 1001, 0), ENDS(ACT_ROLL_BACK),
        "rolled back at 5 %"},
    {"harm in a ratio's pause", PLAIN, PAUSED(PAUSE_RATIO), TICK(1, FAIL, 1001, RATIO), ENDS(ACT_ROLL_BACK), HARM},
    {"harm in a silence's pause", PLAIN, PAUSED(PAUSE_NODATA), TICK(1, FAIL, 1001, 0), ENDS(ACT_ROLL_BACK), HARM},
    {"harm in a failure's pause", PLAIN, PAUSED(PAUSE_ERRORS), TICK(1, FAIL, 1001, 0), ENDS(ACT_ROLL_BACK), HARM},
    {"harm in a suspicion's pause", HOLD, PAUSED(PAUSE_INCONCLUSIVE), TICK(1, FAIL, 1001, 0), ENDS(ACT_ROLL_BACK),
        HARM},
    {"harm in a timeout's pause", PLAIN, PAUSED(PAUSE_STEP_TIMEOUT), TICK(1, FAIL, 1001, 0), ENDS(ACT_ROLL_BACK),
        HARM},
    {"a pause takes too long", IMPATIENT, PAUSED(PAUSE_PERSON), TICK(HOURS(1), PASS, 1000, 0), ENDS(ACT_ABORT),
        "aborted at 5 %: nobody ended the pause in 2 h (pause_timeout)"},
    {"a pause takes long", IMPATIENT, PAUSED(PAUSE_PERSON), TICK(HOURS(1) - 1, PASS, 1000, 0),
        STAYS_PAUSED(PAUSE_PERSON)},
    {"what is mended is not aborted", IMPATIENT, PAUSED(PAUSE_RATIO), TICK(HOURS(2), PASS, 1000, 0),
        GOES_ON(PHASE_BAKE), "goes on"},

    /* a dry run */
    {"dry run: told", DRY, BAKING(MINUTES(10), 500), TICK(1, FAIL, 1001, 0),
        ACT_NONE, PHASE_BAKE, PAUSE_NONE, 1, 500, false, "not rolled back at 5 %, as this is a dry run: " HARM},
    {"dry run: told once, and never advanced", DRY,
        {IN_STEP, .phase = PHASE_BAKE, .spent_us = MINUTES(10), .answered = 500, .told = true}, TICK(1, FAIL, 1001, 0),
        STAYS(PHASE_BAKE)},
    {"dry run: a sick stable pauses nothing", DRY, BAKING(MINUTES(1), 5), TICK(1, FAIL, 1001, SICK),
        ACT_NONE, PHASE_BAKE, PAUSE_NONE, 1, 500, false, HARM},
    {"dry run: told in the soak", DRY, SOAKING(MINUTES(1)), TICK(1, FAIL, 10, 0),
        ACT_NONE, PHASE_SOAK, PAUSE_NONE, 4, 10000, false, HARM},

    /* soak, end */
    {"soak goes on", PLAIN, SOAKING(MINUTES(59)), TICK(SECONDS(1), PASS, 10, 0),
        ACT_NONE, PHASE_SOAK, PAUSE_NONE, 4, 10000, false, ""},
    {"soak is over", PLAIN, SOAKING(MINUTES(59)), TICK(MINUTES(1), PASS, 1010, 0), ENDS_SOAK(ACT_COMPLETE),
        "the soak of 1 h is over and showed no harm: the rollout is complete"},
    {"soak without traffic is over", PLAIN, SOAKING(MINUTES(59)), TICK(MINUTES(1), NODATA, 0, 0),
        ENDS_SOAK(ACT_COMPLETE), "the soak of 1 h is over: the rollout is complete"},
    {"harm in the soak", PLAIN, SOAKING(MINUTES(5)), TICK(SECONDS(1), FAIL, 1010, 0), ENDS_SOAK(ACT_ROLL_BACK),
        "rolled back in the soak: " HARM},
    {"harm at the end of the soak", PLAIN, SOAKING(MINUTES(60)), TICK(SECONDS(1), FAIL, 1010, SICK),
        ENDS_SOAK(ACT_ROLL_BACK), "rolled back in the soak: " HARM},
    {"no signal pauses a soak", PLAIN, SOAKING(0), TICK(MINUTES(1), BROKEN, 0, RATIO | SICK),
        ACT_NONE, PHASE_SOAK, PAUSE_NONE, 4, 10000, false, ""},
    {"the end is the end", PLAIN, ENDED, TICK(HOURS(100), FAIL, 0, RATIO), STAYS(PHASE_ENDED)},

    /* manual */
    {"manual: warm", MANUAL, {.share_bp = 500, .spent_us = SECONDS(29)}, TICK(SECONDS(1), PASS, 10, 0),
        ACT_KEEP, PHASE_BAKE, PAUSE_NONE, 0, 500, false, "the candidate is warm at 5 % and stays there"},
    {"manual: bakes for ever", MANUAL, {.share_bp = 500, .phase = PHASE_BAKE, .spent_us = HOURS(1000)},
        TICK(HOURS(1000), PASS, 9000, 0), ACT_NONE, PHASE_BAKE, PAUSE_NONE, 0, 500, false, ""},
    {"manual: harm", MANUAL, {.share_bp = 500, .phase = PHASE_BAKE}, TICK(SECONDS(1), FAIL, 9, 0),
        ACT_ROLL_BACK, PHASE_ENDED, PAUSE_NONE, 0, 500, false, "rolled back at 5 %"},
    {"manual: a signal pauses", MANUAL, {.share_bp = 500, .phase = PHASE_BAKE}, TICK(SECONDS(1), PASS, 9, RATIO),
        ACT_KEEP, PHASE_PAUSED, PAUSE_RATIO, 0, 500, false, "paused at 5 %"},

    /* a person */
    {"pause", PLAIN, BAKING(MINUTES(3), 9), BY(PAUSE), PAUSES(PAUSE_PERSON), "paused at 5 % by a person"},
    {"pause in the warm-up", PLAIN, WARMING(0), BY(PAUSE), PAUSES(PAUSE_PERSON), "paused at 5 % by a person"},
    {"pause of a pause that ends by itself", PLAIN, PAUSED(PAUSE_RATIO), BY(PAUSE), PAUSES(PAUSE_PERSON), "a person"},
    {"resume", PLAIN, PAUSED(PAUSE_PERSON), BY(RESUME), GOES_ON(PHASE_BAKE), "goes on at 5 %: resumed by a person"},
    {"resume in spite of a cause", PLAIN, PAUSED(PAUSE_RATIO), BY(RESUME), GOES_ON(PHASE_BAKE),
        "resumed by a person (it was paused: ratio)"},
    {"resume of a suspicion", HOLD, PAUSED(PAUSE_INCONCLUSIVE), BY(RESUME), GOES_ON(PHASE_BAKE),
        "(it was paused: inconclusive); it bakes once more"},
    {"skip", PLAIN, WARMING(SECONDS(5)), BY(SKIP), NEXT,
        "step 3 of 5: the candidate takes 10 % (a person skipped the rest of step 2)"},
    {"skip out of a bake", PLAIN, BAKING(0, 0), BY(SKIP), NEXT, "10 %"},
    {"skip out of a pause", PLAIN, PAUSED(PAUSE_STABLE_SICK), BY(SKIP), NEXT, "10 %"},
    {"skip of the last step", PLAIN, LAST_BAKING, BY(SKIP), PROMOTED(4), "promoted by a person at 50 %"},
    {"promote", PLAIN, WARMING(0), BY(PROMOTE), PROMOTED(1),
        "promoted by a person at 5 %: the candidate becomes the stable version; for 1 h harm"},
    {"promote out of a pause", PLAIN, PAUSED(PAUSE_STABLE_SICK), BY(PROMOTE), PROMOTED(1), "promoted by a person"},
    {"promote without a soak", NO_SOAK, BAKING(0, 0), BY(PROMOTE),
        ACT_PROMOTE, PHASE_ENDED, PAUSE_NONE, 1, 10000, false, "promoted by a person"},
    {"manual: promote", MANUAL, {.share_bp = 500, .phase = PHASE_BAKE}, BY(PROMOTE),
        ACT_PROMOTE, PHASE_ENDED, PAUSE_NONE, 0, 10000, false, "promoted by a person at 5 %"},
    {"manual: skip promotes", MANUAL, {.share_bp = 500, .phase = PHASE_BAKE}, BY(SKIP),
        ACT_PROMOTE, PHASE_ENDED, PAUSE_NONE, 0, 10000, false, "promoted by a person at 5 %"},
    {"set", PLAIN, BAKING(0, 0), EVENT_SET, 0, 0, 0, 0, 2050, ACT_SHARE, PHASE_WARMUP, PAUSE_NONE, 0, 2050, true,
        "the candidate takes 20.5 %, set by a person: from now on only a person moves it"},
    {"set to less, in a pause", PLAIN, PAUSED(PAUSE_ERRORS), EVENT_SET, 0, 0, 0, 0, 25, ACT_SHARE, PHASE_WARMUP,
        PAUSE_NONE, 0, 25, true, "the candidate takes 0.25 %"},
    {"set of the same", PLAIN, BAKING(0, 0), EVENT_SET, 0, 0, 0, 0, 500, ACT_NONE, PHASE_BAKE, PAUSE_NONE, 1, 500,
        false, "the candidate takes 5 % already: nothing changed, and its steps go on"},
    {"manual: set", MANUAL, {.share_bp = 500, .phase = PHASE_BAKE}, EVENT_SET, 0, 0, 0, 0, 1000, ACT_SHARE,
        PHASE_WARMUP, PAUSE_NONE, 0, 1000, true, "the candidate takes 10 %, set by a person"},
};
/* clang-format on */

static void row_check(const struct row *r)
{
    struct rollout_policy p;
    struct judgement j;
    struct rollout_step got;
    struct err e = {0};

    policy_for(&p, r->policy);
    judged(&j, r->verdict, r->answered, r->flags);
    struct rollout_event ev = {.kind = r->kind,
                               .elapsed_us = r->elapsed,
                               .judgement = r->kind == EVENT_TICK ? &j : NULL,
                               .share_bp = r->share};
    if (rollout_next(&p, &r->was, &ev, &got, &e) != ERR_OK) {
        fail_msg("%s: %s", r->what, e.text);
    }
    if (got.act != r->act || got.next.phase != r->phase || got.next.pause != r->pause || got.next.step != r->step ||
        got.next.share_bp != r->share_after || got.manual != r->manual) {
        fail_msg("%s: act %d, %s %s, step %u at %u, manual %d: %s", r->what, got.act,
                 rollout_phase_names[got.next.phase], pause_reason_names[got.next.pause], got.next.step,
                 got.next.share_bp, got.manual, got.text);
    }
    if (r->says[0] ? !strstr(got.text, r->says) : got.text[0] != '\0') {
        fail_msg("%s: '%s' does not say '%s'", r->what, got.text, r->says);
    }
}

static void every_transition(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        row_check(&rows[i]);
    }
}

/* ---- refused ---- */

static void refused(const struct rollout_progress *was, enum rollout_event_kind kind, uint32_t share,
                    enum err_code code, const char *why)
{
    struct rollout_policy p;
    struct rollout_step got;
    struct err e = {0};
    struct rollout_event ev = {.kind = kind, .share_bp = share};

    policy_default(&p, "default");
    assert_int_equal(rollout_next(&p, was, &ev, &got, &e), code);
    if (!strstr(e.text, why)) {
        fail_msg("'%s' does not say '%s'", e.text, why);
    }
    assert_int_equal(got.act, ACT_NONE);
    assert_int_equal(got.next.phase, was->phase);
    assert_int_equal(got.next.share_bp, was->share_bp);
    assert_string_equal(got.text, "");
}

static void what_makes_no_sense(void **state)
{
    (void)state;
    static const enum rollout_event_kind all[] = {EVENT_PAUSE, EVENT_RESUME, EVENT_SKIP, EVENT_SET, EVENT_PROMOTE};
    static const struct rollout_progress soaks = SOAKING(MINUTES(15)), ended = ENDED, bakes = BAKING(0, 0),
                                         by_person = PAUSED(PAUSE_PERSON), late = PAUSED(PAUSE_STEP_TIMEOUT);

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        refused(&soaks, all[i], 700, ERR_CONFLICT, "the candidate is promoted already and soaks for 45 m more");
        refused(&ended, all[i], 700, ERR_CONFLICT, "the rollout has ended");
    }
    refused(&bakes, EVENT_RESUME, 0, ERR_CONFLICT, "it is not paused (bake)");
    refused(&by_person, EVENT_PAUSE, 0, ERR_CONFLICT, "it is paused already (person)");
    refused(&late, EVENT_PAUSE, 0, ERR_CONFLICT, "it is paused already (step_timeout)");
    refused(&bakes, EVENT_SET, 10001, ERR_INVALID, "from 0% to 100%");
}

/* ---- stories ---- */

/* A second a tick, ten answers a second: each step takes its warm-up and its bake, and nothing more. */
static void an_equal_candidate(void **state)
{
    (void)state;
    static const uint32_t shares[] = {100, 500, 1000, 2500, 5000, 10000};
    struct story t;
    uint64_t second = 0;

    begins(&t, PLAIN);
    assert_int_equal(t.s.share_bp, shares[0]);
    assert_int_equal(t.s.phase, PHASE_WARMUP);
    for (size_t step = 0; step + 1 < COUNT_OF(shares); step++) {
        for (int i = 1; i < 30; i++) {
            second++;
            assert_int_equal(ticks(&t, SECONDS(1), PASS, 10 * second, 0), ACT_NONE);
        }
        second++;
        assert_int_equal(ticks(&t, SECONDS(1), PASS, 10 * second, 0), ACT_KEEP);
        assert_int_equal(t.s.phase, PHASE_BAKE);
        for (int i = 1; i < 600; i++) {
            second++;
            assert_int_equal(ticks(&t, SECONDS(1), PASS, 10 * second, 0), ACT_NONE);
        }
        second++;
        assert_int_equal(ticks(&t, SECONDS(1), PASS, 10 * second, 0), step < 4 ? ACT_SHARE : ACT_PROMOTE);
        assert_int_equal(t.s.share_bp, shares[step + 1]);
    }
    assert_int_equal(t.s.phase, PHASE_SOAK);
    for (int i = 1; i < 3600; i++) { /* the judge counts anew */
        assert_int_equal(ticks(&t, SECONDS(1), PASS, (uint64_t)i, 0), ACT_NONE);
    }
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 3600, 0), ACT_COMPLETE);
    assert_int_equal(t.s.phase, PHASE_ENDED);
}

/* Answers of the warm-up are no answers of the bake. */
static void a_bake_needs_its_own_answers(void **state)
{
    (void)state;
    struct story t;

    begins(&t, PLAIN);
    assert_int_equal(ticks(&t, SECONDS(15), PASS, 700, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(15), PASS, 1000, 0), ACT_KEEP);
    assert_int_equal(ticks(&t, MINUTES(20), PASS, 1099, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 1100, 0), ACT_SHARE);
    assert_int_equal(t.s.answered, 1100);
    /* What the judge lost (1,100 to 900) is not there, and what comes again is. */
    assert_int_equal(ticks(&t, SECONDS(30), PASS, 1150, 0), ACT_KEEP);
    assert_int_equal(ticks(&t, MINUTES(10), PASS, 900, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 999, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 1000, 0), ACT_SHARE);
}

static void clocks_stop_in_a_pause(void **state)
{
    (void)state;
    struct story t;

    begins(&t, PLAIN);
    ticks(&t, SECONDS(30), PASS, 0, 0);
    ticks(&t, MINUTES(4), PASS, 200, 0);
    ticks(&t, SECONDS(5), PASS, 200, 0);
    assert_int_equal(does(&t, EVENT_PAUSE), ACT_KEEP);
    assert_int_equal(t.s.spent_us, 0);
    ticks(&t, HOURS(50), PASS, 200, 0);
    assert_int_equal(t.s.spent_us, HOURS(50));
    assert_int_equal(t.s.kept_us, MINUTES(4) + SECONDS(5));
    assert_int_equal(t.s.step_us, MINUTES(4) + SECONDS(35));
    assert_int_equal(t.s.silent_us, SECONDS(5));
    assert_int_equal(does(&t, EVENT_RESUME), ACT_KEEP);
    assert_int_equal(t.s.spent_us, MINUTES(4) + SECONDS(5));
    assert_int_equal(t.s.kept_us, 0);
    assert_int_equal(ticks(&t, MINUTES(5), PASS, 300, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(55), PASS, 300, 0), ACT_SHARE);
    /* and in the warm-up */
    does(&t, EVENT_PAUSE);
    ticks(&t, MINUTES(5), PASS, 900, 0);
    does(&t, EVENT_RESUME);
    assert_int_equal(t.s.phase, PHASE_WARMUP);
    assert_int_equal(ticks(&t, SECONDS(29), PASS, 900, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 900, 0), ACT_KEEP);
    assert_int_equal(t.s.answered, 900);
}

/* A person who goes on is not stopped by the same cause again, but by its return. */
static void a_cause_is_overruled(void **state)
{
    (void)state;
    struct story t;

    begins(&t, PLAIN);
    assert_int_equal(ticks(&t, SECONDS(30), PASS, 9, RATIO), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_RATIO);
    does(&t, EVENT_RESUME);
    assert_int_equal(ticks(&t, SECONDS(30), PASS, 10, RATIO), ACT_KEEP);
    assert_int_equal(t.s.phase, PHASE_BAKE);
    assert_int_equal(ticks(&t, MINUTES(10), PASS, 400, RATIO), ACT_SHARE);
    assert_int_equal(ticks(&t, SECONDS(1), BROKEN, 400, 0), ACT_NONE); /* says nothing about the ratio */
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 400, RATIO), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 400, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 400, RATIO), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_RATIO);

    begins(&t, PLAIN);
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 9, SICK), ACT_KEEP);
    assert_int_equal(does(&t, EVENT_SKIP), ACT_SHARE);
    assert_int_equal(ticks(&t, SECONDS(30), FAIL, 200, SICK), ACT_KEEP);
    assert_int_equal(t.s.phase, PHASE_BAKE);
    assert_int_equal(ticks(&t, MINUTES(20), FAIL, 400, SICK), ACT_NONE); /* a FAIL does not advance */
    assert_int_equal(ticks(&t, SECONDS(1), BROKEN, 400, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 400, SICK), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), NODATA, 400, SICK), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 400, SICK), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_STABLE_SICK);
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 400, 0), ACT_ROLL_BACK);
}

/* What a person resumes has as much time, or as many failures, as it had before. */
static void a_resume_begins_anew(void **state)
{
    (void)state;
    struct story t;

    begins(&t, PLAIN);
    ticks(&t, SECONDS(30), NODATA, 0, 0);
    assert_int_equal(ticks(&t, HOURS(6), NODATA, 0, 0), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_STEP_TIMEOUT);
    does(&t, EVENT_RESUME);
    assert_int_equal(ticks(&t, HOURS(5), NODATA, 0, 0), ACT_NONE);
    assert_int_equal(ticks(&t, HOURS(1), NODATA, 0, 0), ACT_KEEP);
    does(&t, EVENT_RESUME);

    t.p.step_timeout_us = 0;
    assert_int_equal(ticks(&t, HOURS(12), NODATA, 0, 0), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_NODATA);
    does(&t, EVENT_RESUME);
    assert_int_equal(ticks(&t, HOURS(23), NODATA, 0, 0), ACT_NONE);

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            assert_int_equal(ticks(&t, SECONDS(1), BROKEN, 0, 0), ACT_NONE);
        }
        assert_int_equal(ticks(&t, SECONDS(1), BROKEN, 0, 0), ACT_KEEP);
        assert_int_equal(t.s.pause, PAUSE_ERRORS);
        does(&t, EVENT_RESUME);
    }

    begins(&t, HOLD);
    ticks(&t, SECONDS(30), PASS, 0, 0);
    assert_int_equal(ticks(&t, MINUTES(10), UNCLEAR, 500, 0), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_INCONCLUSIVE);
    does(&t, EVENT_RESUME);
    assert_int_equal(ticks(&t, MINUTES(9), PASS, 900, 0), ACT_NONE);
    assert_int_equal(ticks(&t, MINUTES(1), PASS, 900, 0), ACT_SHARE);
}

/* What counts are failures in a row. */
static void a_judgement_between_failures(void **state)
{
    (void)state;
    struct story t;

    begins(&t, PLAIN);
    for (int i = 1; i <= 12; i++) {
        assert_int_equal(ticks(&t, SECONDS(1), i % 4 == 0 ? NODATA : BROKEN, 0, 0), ACT_NONE);
    }
    for (int i = 1; i < 4; i++) {
        assert_int_equal(ticks(&t, SECONDS(1), BROKEN, 0, 0), ACT_NONE);
    }
    assert_int_equal(ticks(&t, SECONDS(1), BROKEN, 0, 0), ACT_KEEP);
    assert_int_equal(t.s.pause, PAUSE_ERRORS);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 0, 0), ACT_KEEP);
    assert_int_equal(t.s.failures, 0);
}

/* Set makes it manual: the caller keeps the policy, less its automatic. It has one step, and time moves it no more. */
static void after_a_set(void **state)
{
    (void)state;
    struct story t;
    struct rollout_event set = {.kind = EVENT_SET, .share_bp = 700};

    begins(&t, PLAIN);
    ticks(&t, SECONDS(30), PASS, 40, 0);
    assert_int_equal(rollout_next(&t.p, &t.s, &set, &t.got, NULL), ERR_OK);
    assert_true(t.got.manual);
    t.s = t.got.next;
    t.p.automatic = false;
    assert_int_equal(ticks(&t, SECONDS(30), PASS, 80, 0), ACT_KEEP);
    assert_int_equal(ticks(&t, HOURS(12), PASS, 9000, 0), ACT_NONE);
    assert_int_equal(t.s.share_bp, 700);
    assert_int_equal(does(&t, EVENT_SKIP), ACT_PROMOTE);
    assert_int_equal(t.s.phase, PHASE_SOAK);
}

/* A dry run tells a harm once in each step. */
static void a_dry_run_tells_once(void **state)
{
    (void)state;
    struct story t;

    begins(&t, DRY);
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 40, 0), ACT_NONE);
    assert_non_null(strstr(t.got.text, HARM));
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 41, 0), ACT_NONE);
    assert_string_equal(t.got.text, "");
    assert_int_equal(ticks(&t, SECONDS(28), FAIL, 41, 0), ACT_KEEP);
    does(&t, EVENT_SKIP);
    assert_int_equal(ticks(&t, SECONDS(1), FAIL, 42, 0), ACT_NONE);
    assert_non_null(strstr(t.got.text, "dry run"));
    does(&t, EVENT_PROMOTE);
    ticks(&t, HOURS(1), FAIL, 0, 0);
    assert_non_null(strstr(t.got.text, "dry run"));
    assert_int_equal(ticks(&t, 1, FAIL, 0, 0), ACT_COMPLETE);
    assert_string_equal(t.got.text, "the soak of 1 h is over: the rollout is complete");
}

/* A verdict as long as it can be is cut at a character's border; one without words gets some. */
static void long_evidence_and_none(void **state)
{
    (void)state;
    static const char before[] = "rolled back at 1 %: ";
    struct story t;
    struct rollout_event ev = {.kind = EVENT_TICK, .judgement = &t.j};

    begins(&t, PLAIN);
    judged(&t.j, FAIL, 0, 0);
    for (size_t i = 0; i + 2 < sizeof(t.j.text); i += 2) {
        memcpy(t.j.text + i, "\xC3\xA4", 3);
    }
    assert_int_equal(rollout_next(&t.p, &t.s, &ev, &t.got, NULL), ERR_OK);
    assert_memory_equal(t.got.text, before, sizeof(before) - 1);
    size_t n = strlen(t.got.text);
    assert_true(n == sizeof(t.got.text) - 1 || n == sizeof(t.got.text) - 2);
    assert_memory_equal(t.got.text + n - 2, "\xC3\xA4", 3);

    t.j.text[0] = '\0';
    assert_int_equal(rollout_next(&t.p, &t.s, &ev, &t.got, NULL), ERR_OK);
    assert_string_equal(t.got.text, "rolled back at 1 %: the judge found harm");
}

/* A clock that stands at its end stays there. */
static void clocks_do_not_wrap(void **state)
{
    (void)state;
    struct story t;

    begins(&t, MANUAL);
    t.s.phase = PHASE_BAKE;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ticks(&t, UINT64_MAX - 5, NODATA, 0, 0), ACT_NONE);
        assert_true(t.s.spent_us >= UINT64_MAX - 5 && t.s.step_us >= UINT64_MAX - 5);
    }
    assert_int_equal(t.s.silent_us, UINT64_MAX);
}

/* The machine knows no clock: between two events nothing happens, however long a restart took. */
static void a_downtime_is_no_time(void **state)
{
    (void)state;
    struct story t;
    struct rollout_progress back;
    struct buf b;

    begins(&t, PLAIN);
    ticks(&t, SECONDS(30), PASS, 10, 0);
    ticks(&t, MINUTES(9), PASS, 400, 0);
    buf_init(&b, 4096);
    rollout_progress_json(&b, &t.s);
    assert_int_equal(rollout_progress_read(&back, buf_str(&b), NULL), ERR_OK);
    buf_done(&b);
    t.s = back;
    assert_int_equal(ticks(&t, 0, PASS, 400, 0), ACT_NONE);
    assert_true(same(&t.s, &back));
    assert_int_equal(ticks(&t, SECONDS(59), PASS, 400, 0), ACT_NONE);
    assert_int_equal(ticks(&t, SECONDS(1), PASS, 400, 0), ACT_SHARE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_transition),
        cmocka_unit_test(what_makes_no_sense),
        cmocka_unit_test(an_equal_candidate),
        cmocka_unit_test(a_bake_needs_its_own_answers),
        cmocka_unit_test(clocks_stop_in_a_pause),
        cmocka_unit_test(a_cause_is_overruled),
        cmocka_unit_test(a_resume_begins_anew),
        cmocka_unit_test(a_judgement_between_failures),
        cmocka_unit_test(after_a_set),
        cmocka_unit_test(a_dry_run_tells_once),
        cmocka_unit_test(long_evidence_and_none),
        cmocka_unit_test(clocks_do_not_wrap),
        cmocka_unit_test(a_downtime_is_no_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
