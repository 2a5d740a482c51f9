/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator reads while a rollout runs: every phase and every reason of a pause, in whole sentences, and in
 * fields that are too small for them. */
#include "control/words.h"
#include "unit/control/rollout_case.h"

static void waits(const struct rollout_progress *s, int policy, enum verdict v, unsigned flags, uint64_t earliest,
                  const char *text)
{
    struct rollout_policy p;
    struct judgement j;
    char got[400];

    policy_for(&p, policy);
    judged(&j, v, s->seen, flags);
    rollout_waits_for(&p, s, &j, "intent", got, sizeof(got));
    assert_string_equal(got, text);
    assert_int_equal(rollout_earliest_us(&p, s), earliest);
}
#define WAITS(policy, v, flags, earliest, text, ...) \
    waits(&(struct rollout_progress)__VA_ARGS__, policy, v, flags, earliest, text)

static void what_it_waits_for(void **state)
{
    (void)state;
    WAITS(PLAIN, NODATA, 0, SECONDS(20), "warms up at 5 %: 20 s more, then a bake of 10 m", WARMING(SECONDS(10)));
    WAITS(MANUAL, NODATA, 0, SECONDS(20), "warms up at 5 %: 20 s more, then it stays there until a person moves it",
          WARMING(SECONDS(10)));
    WAITS(PLAIN, PASS, 0, SECONDS(250), "bakes at 5 %: 4 m 10 s more and 37 more answers of the candidate, then 10 %",
          BAKING(SECONDS(350), 63));
    WAITS(PLAIN, PASS, 0, SECONDS(250), "bakes at 5 %: 4 m 10 s more and 1 more answer of the candidate, then 10 %",
          BAKING(SECONDS(350), 99));
    WAITS(PLAIN, PASS, 0, 1, "bakes at 5 %: 1 ms more, then 10 %", BAKING(MINUTES(10) - 1, 100));
    WAITS(PLAIN, PASS, 0, 0, "waits for answers of the candidate at 5 %: 3 of the 100 that this step needs, then 10 %",
          BAKING(MINUTES(11), 3));
    WAITS(PLAIN, NODATA, 0, 0,
          "waits for answers of the candidate at 5 %: 0 of the 100 that this step needs, then 10 %; the last one came "
          "2 h ago",
          {IN_STEP, .phase = PHASE_BAKE, .spent_us = HOURS(3), .answered = 1000, .silent_us = HOURS(2)});
    WAITS(PLAIN, PASS, 0, 0, "the bake at 50 % is over; with the next judgement: the promotion", LAST_BAKING);
    WAITS(HOLD, UNCLEAR, 0, 0, "the bake at 50 % is over; with the next judgement: paused, for a suspicion",
          LAST_BAKING);
    WAITS(PLAIN, NODATA, 0, 0, "the bake at 5 % is over, but there is too little to compare with",
          BAKING(MINUTES(10), 500));
    WAITS(PLAIN, BROKEN, 0, 0,
          "the bake at 5 % is over, but judging fails: counts disagree (2 in a row; it pauses at 4)",
          {IN_STEP, .phase = PHASE_BAKE, .spent_us = MINUTES(10), .answered = 1, .failures = 2});
    WAITS(DRY, FAIL, 0, 0,
          "stands still at 5 %: harm was seen, and in a dry run only a person acts; weir rollout skip intent goes on "
          "to 10 %, weir rollout abort intent ends it: " HARM,
          BAKING(MINUTES(10), 500));
    WAITS(PLAIN, FAIL, SICK, 0,
          "stands still at 5 %: the candidate looks worse than the stable version, which breaks its own limits too; "
          "weir rollout skip intent goes on to 10 %, weir rollout abort intent ends it: " HARM,
          BAKING(MINUTES(10), 500));
    WAITS(PLAIN, FAIL, SICK | BY_LIMIT, 0,
          "stands still at 5 %: harm was seen, and the next judgement rolls it back: " HARM, BAKING(MINUTES(10), 500));
    WAITS(MANUAL, PASS, 0, 0,
          "stays at 5 %, judged, until a person moves it: weir rollout set intent SHARE, weir promote intent or weir "
          "rollout abort intent",
          BAKING(MINUTES(10), 500));
    WAITS(PLAIN, PASS, 0, MINUTES(45),
          "promoted; soaks for 45 m more, and until then harm rolls back to the version "
          "before",
          SOAKING(MINUTES(15)));
    WAITS(PLAIN, PASS, 0, 0, "has ended and waits for nothing", ENDED);
    WAITS(PLAIN, PASS, 0, MINUTES(2), "bakes at 5 %: 8 m more, then 10 %",
          {IN_STEP, .phase = PHASE_BAKE, .spent_us = MINUTES(2), .step_us = HOURS(6) - MINUTES(2)});
}

static void why_it_is_paused(void **state)
{
    (void)state;
    WAITS(PLAIN, PASS, 0, 0, "paused at 5 % for 1 h by a person: weir rollout resume intent goes on",
          PAUSED(PAUSE_PERSON));
    WAITS(IMPATIENT, PASS, 0, HOURS(1),
          "paused at 5 % for 1 h by a person: weir rollout resume intent goes on; aborted after 1 h more",
          PAUSED(PAUSE_PERSON));
    WAITS(PLAIN, PASS, RATIO, 0,
          "paused at 5 % for 1 h because requests reach the two versions in another ratio than ordered (chance does "
          "that in fewer than 1 of 1,000 rollouts); it goes on by itself when that is mended, or: weir rollout resume "
          "intent",
          PAUSED(PAUSE_RATIO));
    WAITS(
        PLAIN, FAIL, SICK, 0,
        "paused at 5 % for 1 h because the candidate looks worse than the stable version, which breaks its own limits "
        "too: a stable version that is well again decides it, or a person: weir promote intent, weir rollout abort "
        "intent",
        PAUSED(PAUSE_STABLE_SICK));
    WAITS(PLAIN, NODATA, 0, 0,
          "paused at 5 % for 1 h because the candidate had no answer in 1 d; it goes on by itself with the next one, "
          "or: weir rollout resume intent",
          PAUSED(PAUSE_NODATA));
    WAITS(PLAIN, BROKEN, 0, 0,
          "paused at 5 % for 1 h because 4 judgements in a row failed; it goes on by itself with the first that does "
          "not, or: weir rollout resume intent",
          PAUSED(PAUSE_ERRORS));
    WAITS(HOLD, UNCLEAR, 0, 0,
          "paused at 5 % for 1 h because the bake left a suspicion: weir rollout resume intent bakes once more, weir "
          "rollout skip intent goes on to 10 %",
          PAUSED(PAUSE_INCONCLUSIVE));
    WAITS(PLAIN, PASS, 0, 0,
          "paused at 5 % for 1 h because step 2 took longer than 6 h: weir rollout resume intent gives it as long "
          "again, weir rollout skip intent goes on to 10 %",
          PAUSED(PAUSE_STEP_TIMEOUT));
}

/* A field that is too small gets the beginning, cut at a character's border, and no byte behind it is touched. */
static void words(void **state)
{
    (void)state;
    static const struct rollout_progress s = PAUSED(PAUSE_RATIO);
    struct rollout_policy p;
    struct judgement j;
    char got[400], whole[400];

    policy_for(&p, PLAIN);
    judged(&j, PASS, 1000, RATIO);
    rollout_waits_for(&p, &s, &j, "größe", whole, sizeof(whole));
    for (size_t cap = 0; cap <= strlen(whole) + 1; cap++) {
        memset(got, '#', sizeof(got));
        rollout_waits_for(&p, &s, &j, "größe", got, cap);
        assert_int_equal(got[cap], '#');
        if (cap > 0) {
            size_t n = strlen(got);
            assert_true(n < cap && n + 3 > cap);
            assert_memory_equal(got, whole, n);
            assert_true(n == 0 || (unsigned char)got[n - 1] < 0xC0);
            assert_true(((unsigned char)whole[n] & 0xC0) != 0x80);
        }
    }
    assert_string_equal(words_span(0).z, "0 s");
    assert_string_equal(words_span(1500).z, "2 ms");
    assert_string_equal(words_span(MILLIS(59001)).z, "1 m");
    assert_string_equal(words_span(HOURS(26)).z, "1 d 2 h");
    assert_string_equal(words_span(HOURS(24) + SECONDS(1)).z, "1 d");
    assert_string_equal(words_span(UINT64_MAX).z, "213503982 d 8 h");
    assert_string_equal(words_count(999).z, "999");
    assert_string_equal(words_count(1000).z, "1,000");
    assert_string_equal(words_count(UINT64_MAX).z, "18,446,744,073,709,551,615");
    assert_string_equal(words_answers(1).z, "1 answer");
    assert_string_equal(words_answers(0).z, "0 answers");
    assert_string_equal(words_share(1).z, "0.01 %");
    assert_string_equal(words_share(1225).z, "12.25 %");
    assert_string_equal(words_share(50).z, "0.5 %");
    assert_string_equal(words_share(10000).z, "100 %");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_it_waits_for),
        cmocka_unit_test(why_it_is_paused),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
