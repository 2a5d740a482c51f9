/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of answered requests: what is compared, what is dropped and counted when there is no room, no time or no
 * version, and labels that come later. Control and the store are real, the engines are fakes, the connection threads
 * the test's own loop; the stable's answers are made by the test. */
#include <stdio.h>
#include <stdlib.h>

#include "support/control_rig.h"
#include "support/fake_engine.h"

#include "api/shadow.h"
#include "base/hash.h"

#define BLOCK_BYTES 1024
#define ROW 4

static struct plane plane;
static struct data_facts facts;
static float answers[2][ROW]; /* of c and d, or of c alone */
static struct tensor outputs[2];

static int setup(void **state)
{
    int rc = rig_setup(state);

    memset(&facts, 0, sizeof(facts));
    facts.shadows = shadow_pool_new();
    return rc;
}

static int teardown(void **state)
{
    int rc = rig_teardown(state);

    shadow_pool_free(facts.shadows);
    return rc;
}

/* The rig's control may have been opened anew. */
static struct plane *here(void)
{
    plane = (struct plane){.name = "data",
                           .control = rig.control,
                           .router = control_router(rig.control),
                           .shard = &rig.shard[0],
                           .facts = &facts};
    return &plane;
}

static void shadow_on(uint32_t share_bp)
{
    struct answer a = {0};

    control_shadow_start(rig.control, MODEL, 2, share_bp, STR("test"), answered, &a);
    WAIT(a.n);
    assert_string_equal(a.err.text, "");
    assert_int_equal(a.err.code, ERR_OK);
}

static void two_versions(uint32_t share_bp)
{
    push_ok("one", 1);
    push_ok("two", 2);
    shadow_on(share_bp);
}

/* A request of the stable version with a = value, value + 1, … and b = 1, in its window. */
static uint64_t block_of(struct sched *s, float value)
{
    uint64_t block = sched_take(s, BLOCK_BYTES), at;
    struct job_block *b;

    assert_true(block != WINDOW_NONE);
    b = (void *)sched_at(s, block);
    at = ALIGN_UP(block + job_block_bytes(2, 0), TENSOR_ALIGN);
    *b = (struct job_block){.n_in = 2, .rows = 1};
    for (uint16_t i = 0; i < 2; i++, at += 64) {
        float *x = (void *)sched_at(s, at);

        b->in[i] = (struct tensor){
            .port = i, .dtype = DTYPE_FP32, .rank = 2, .dim = {1, ROW}, .off = at, .len = ROW * sizeof(float)};
        for (int k = 0; k < ROW; k++) {
            x[k] = i == 0 ? value + (float)k : 1;
        }
    }
    return block;
}

/* What the model answers to it, n_out outputs, the first element of c being off by so much. */
static struct job_result answer_of(float value, uint32_t n_out, float off)
{
    for (uint16_t i = 0; i < n_out; i++) {
        outputs[i] = (struct tensor){.port = i,
                                     .dtype = DTYPE_FP32,
                                     .rank = 2,
                                     .dim = {1, ROW},
                                     .off = i * sizeof(answers[0]),
                                     .len = sizeof(answers[0])};
        for (int k = 0; k < ROW; k++) {
            answers[i][k] = value + (float)k + (i == 0 ? 1 : -1) + (i == 0 && k == 0 ? off : 0);
        }
    }
    return (struct job_result){
        .n_out = n_out, .out = outputs, .base = (void *)answers, .size = sizeof(answers), .compute_ns = 1000};
}

/* The stable version has answered this with that. */
static void offer(const char *id, float value, const struct job_result *job)
{
    const struct route *t = router_find(control_router(rig.control), MODEL);
    const struct route_version *v = &t->versions[t->stable];
    struct sched *s = rig.shard[0].sched[v->slot];
    struct predictor p = {v->prediction, v->labels, v->n_labels};
    struct shadow_offer o = {.plane = here(),
                             .model = MODEL,
                             .id = str_of(id),
                             .version = v->number,
                             .sched = s,
                             .block = block_of(s, value),
                             .block_bytes = BLOCK_BYTES,
                             .predictor = &p,
                             .job = job};

    shadow_offer(&o);
    sched_give(s, o.block); /* as the scheduler does when done() has returned */
}

static void offer_right(const char *id, float value)
{
    struct job_result job = answer_of(value, 2, 0);

    offer(id, value, &job);
}

static uint64_t count(enum shadow_result r)
{
    return shadow_total(model()->shadow, SHADOW_CANDIDATE, r);
}

static uint64_t noise(enum shadow_result r)
{
    return shadow_total(model()->shadow, SHADOW_NOISE, r);
}

static uint64_t ended(void)
{
    uint64_t n = 0;

    for (int k = 0; k < SHADOW_RESULTS; k++) {
        n += count((enum shadow_result)k) + noise((enum shadow_result)k);
    }
    return n;
}

/* ---- comparing ---- */

static void the_same_answer_agrees(void **state)
{
    (void)state;
    two_versions(10000);
    offer_right("one", 5);
    memset(answers, 0, sizeof(answers)); /* what was answered is not looked at later */
    WAIT(ended() == 2);
    assert_int_equal(count(SHADOW_AGREES), 1);
    assert_int_equal(noise(SHADOW_AGREES), 1);
    assert_int_equal(shadow_copied(model()->shadow), 1);
    assert_int_equal(shadow_diff(model()->shadow, 0, SHADOW_CANDIDATE)->part[DIFF_NUMERIC].n, 2);
    assert_true(shadow_idle(model()->shadow));
}

static void another_answer_is_told_with_its_request(void **state)
{
    struct job_result job = answer_of(5, 2, 3);
    const struct diff_sum *sum;

    (void)state;
    two_versions(10000);
    offer("the one", 5, &job);
    WAIT(ended() == 2);
    sum = shadow_diff(model()->shadow, 0, SHADOW_CANDIDATE);
    assert_int_equal(count(SHADOW_DIFFERS), 1);
    assert_int_equal(sum->n_largest, 1);
    assert_string_equal(sum->largest[0].id, "the one");
    assert_string_equal(sum->largest[0].output, "c");
    assert_string_equal(sum->largest[0].stable, "9");
    assert_string_equal(sum->largest[0].candidate, "6");
    assert_int_equal(noise(SHADOW_DIFFERS), 1); /* the stable version, asked again, does not say it either */
}

static void another_shape_is_told(void **state)
{
    struct job_result job = answer_of(5, 2, 0);

    (void)state;
    two_versions(10000);
    outputs[0].rank = 1;
    outputs[0].dim[0] = ROW;
    offer("one", 5, &job);
    WAIT(ended() == 2);
    assert_int_equal(count(SHADOW_DIFFERS), 1);
    assert_string_equal(shadow_diff(model()->shadow, 0, SHADOW_CANDIDATE)->largest[0].stable, "[4]");
    assert_string_equal(shadow_diff(model()->shadow, 0, SHADOW_CANDIDATE)->largest[0].candidate, "[1,4]");
}

static void only_the_chosen_are_copied(void **state)
{
    int chosen = 0;

    (void)state;
    two_versions(2000);
    for (int i = 0; i < 200; i++) {
        char id[24];

        snprintf(id, sizeof(id), "r%d", i);
        chosen += shadow_wants(model()->shadow, str_of(id));
        offer_right(id, 5);
        run_dry();
    }
    WAIT(count(SHADOW_AGREES) == (uint64_t)chosen);
    assert_in_range(chosen, 15, 70);
    assert_int_equal(shadow_copied(model()->shadow), chosen);
}

/* ---- bounds ---- */

static void beyond_the_bound_copies_are_dropped_and_counted(void **state)
{
    (void)state;
    two_versions(10000);
    atomic_store(&fake.hold, true);
    for (int i = 0; i < 30; i++) {
        offer_right("id", 5); /* three of them make noise */
    }
    assert_int_equal(count(SHADOW_FULL) + noise(SHADOW_FULL), 33 - SHADOW_COPIES);
    assert_int_equal(ended(), 33 - SHADOW_COPIES);
    fake_go();
    WAIT(ended() == 33);
    assert_int_equal(count(SHADOW_AGREES) + noise(SHADOW_AGREES), SHADOW_COPIES);
    offer_right("id", 5); /* there is room again */
    WAIT(ended() >= 34);
    assert_int_equal(count(SHADOW_FULL) + noise(SHADOW_FULL), 33 - SHADOW_COPIES);
}

static void answers_beyond_the_bytes_are_dropped_and_counted(void **state)
{
    uint64_t bytes = SHADOW_BYTES / 4;
    float *large = calloc(1, SHADOW_BYTES + sizeof(float));
    struct tensor t = {
        .port = 0, .dtype = DTYPE_FP32, .rank = 2, .dim = {1, (int64_t)(bytes / sizeof(float))}, .len = bytes};
    struct job_result job = {.n_out = 1, .out = &t, .base = (void *)large, .size = bytes};

    (void)state;
    two_versions(10000);
    atomic_store(&fake.hold, true);
    for (int i = 0; i < 6; i++) {
        offer("id", 5, &job); /* the first one makes noise; three of these fit, with their heads */
    }
    assert_int_equal(count(SHADOW_FULL) + noise(SHADOW_FULL), 4);
    fake_go();
    WAIT(ended() == 7);
    assert_int_equal(count(SHADOW_DIFFERS) + noise(SHADOW_DIFFERS), 3); /* another shape */
    t.dim[1] = SHADOW_BYTES / sizeof(float);
    t.len = job.size = SHADOW_BYTES;
    offer("id", 5, &job);
    assert_int_equal(count(SHADOW_FULL) + noise(SHADOW_FULL), 5);
    offer_right("id", 5); /* the large ones' memory was given back */
    WAIT(count(SHADOW_AGREES) == 1);
    free(large);
}

static void what_the_version_refuses_is_counted(void **state)
{
    (void)state;
    close_control();
    rig.family.queue_requests = 8; /* of which the sheddable may have half */
    open_control();
    two_versions(10000);
    atomic_store(&fake.hold, true);
    for (int i = 0; i < 10; i++) {
        offer_right("id", 5);
    }
    assert_int_equal(count(SHADOW_REFUSED), 6);
    assert_int_equal(noise(SHADOW_REFUSED), 0); /* at the stable version there was room for its one */
    fake_go();
    WAIT(ended() == 11);
    assert_int_equal(count(SHADOW_AGREES), 4);
}

static void what_takes_too_long_is_late(void **state)
{
    (void)state;
    close_control();
    rig.family.timeout_us = MILLIS(50);
    open_control();
    two_versions(10000);
    atomic_store(&fake.hold, true);
    offer_right("id", 5);
    WAIT(ended() == 2);
    assert_int_equal(count(SHADOW_LATE), 1);
    assert_int_equal(noise(SHADOW_LATE), 1);
    assert_true(shadow_idle(model()->shadow)); /* the copy's memory is free, though the engine still runs it */
    fake_go();
}

static void a_version_that_goes_takes_its_copies_with_it(void **state)
{
    struct model *m;
    struct shadow *s;

    (void)state;
    two_versions(10000);
    atomic_store(&fake.hold, true);
    offer_right("id", 5);
    m = model();
    s = m->shadow;
    control_stop(rig.control, 0, on_closed, &rig.closed);
    WAIT(rig.closed);
    assert_int_equal(shadow_total(s, SHADOW_CANDIDATE, SHADOW_GONE), 1);
    assert_int_equal(shadow_total(s, SHADOW_NOISE, SHADOW_GONE), 1);
    run_dry();
    control_free(rig.control);
    rig.control = NULL;
}

static void a_version_that_is_not_loaded_gets_none(void **state)
{
    (void)state;
    two_versions(10000);
    atomic_store(&fake.fail_load, 1000);
    fake_kill(1, true); /* and all that are started in its place: it is given up */
    WAIT(model_version(model(), 2)->state == VERSION_FAILED);
    WAIT(!model_version(model(), 2)->pool);
    offer_right("id", 5);
    assert_int_equal(count(SHADOW_GONE), 1);
    WAIT(noise(SHADOW_AGREES) == 1);
}

static void a_stable_version_of_another_kind_is_not_copied_from(void **state)
{
    struct job_result job = answer_of(5, 1, 0);

    (void)state;
    two_versions(10000);
    atomic_store(&fake.narrow, true);
    push_ok("three", 3);
    promote_ok(3);
    offer("id", 5, &job);
    assert_int_equal(count(SHADOW_UNFIT), 1);
    WAIT(noise(SHADOW_AGREES) == 1);
}

static void an_answer_of_a_version_that_is_stable_no_more_is_left_alone(void **state)
{
    (void)state;
    two_versions(10000);
    struct job_result job = answer_of(5, 2, 0);
    struct sched *s = rig.shard[0].sched[model_version(model(), 1)->slot];
    struct predictor p = {.port = -1};
    struct shadow_offer o = {.plane = here(),
                             .model = MODEL,
                             .id = STR("id"),
                             .version = 7,
                             .sched = s,
                             .block = block_of(s, 5),
                             .block_bytes = BLOCK_BYTES,
                             .predictor = &p,
                             .job = &job};

    shadow_offer(&o);
    sched_give(s, o.block);
    assert_int_equal(shadow_copied(model()->shadow), 0);
}

/* ---- classes and labels ---- */

static uint64_t class_hash(const char *name)
{
    return hash64(name, strlen(name)) | 1;
}

static void tell(const char *id, uint64_t label, bool correct)
{
    shadow_feedback(here(), MODEL, join_key(MODEL, str_of(id)), label, correct);
}

/* Models with one output of four scores: the class is the place of the largest, here always the last. */
static void labels_are_joined_to_both_answers(void **state)
{
    struct diff_sum *sum;
    struct job_result job;

    (void)state;
    atomic_store(&fake.narrow, true);
    two_versions(10000);
    job = answer_of(5, 1, 0);
    offer("same", 5, &job); /* both say 3 */
    job = answer_of(5, 1, 100);
    offer("other", 5, &job); /* the stable said 0, the shadow says 3 */
    offer("third", 5, &job);
    WAIT(count(SHADOW_AGREES) == 1 && count(SHADOW_DIFFERS) == 2);
    sum = shadow_diff(model()->shadow, 0, SHADOW_CANDIDATE);
    assert_int_equal(sum->part[DIFF_CLASS].n, 3);
    assert_int_equal(sum->part[DIFF_CLASS].equal, 1);
    assert_int_equal(sum->part[DIFF_CLASS].first.n, 3); /* the best of the scores */
    assert_int_equal(sum->part[DIFF_NUMERIC].n, 0);
    tell("same", class_hash("3"), true);
    assert_int_equal(sum->both_right, 1);
    tell("other", class_hash("3"), false);
    assert_int_equal(sum->candidate_right, 1);
    tell("other", class_hash("0"), true);
    assert_int_equal(sum->stable_right, 1);
    tell("other", class_hash("1"), false);
    assert_int_equal(sum->both_wrong, 1);
    tell("third", 0, true); /* without a label: only that the stable was right, */
    assert_int_equal(sum->stable_right, 2);
    tell("third", 0, false); /* or that it was not: nobody knows what of the other */
    tell("same", 0, false);
    assert_int_equal(sum->both_wrong, 2);
    tell("never seen", class_hash("3"), true);
    assert_int_equal(sum->both_right + sum->stable_right + sum->candidate_right + sum->both_wrong, 6);
    shadow_on(10000); /* another shadow: what the first one answered is not its own */
    tell("same", class_hash("3"), true);
    assert_int_equal(shadow_diff(model()->shadow, 0, SHADOW_CANDIDATE)->both_right, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_same_answer_agrees, setup, teardown),
        cmocka_unit_test_setup_teardown(another_answer_is_told_with_its_request, setup, teardown),
        cmocka_unit_test_setup_teardown(another_shape_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(only_the_chosen_are_copied, setup, teardown),
        cmocka_unit_test_setup_teardown(beyond_the_bound_copies_are_dropped_and_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_beyond_the_bytes_are_dropped_and_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_version_refuses_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(what_takes_too_long_is_late, setup, teardown),
        cmocka_unit_test_setup_teardown(a_version_that_goes_takes_its_copies_with_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_version_that_is_not_loaded_gets_none, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stable_version_of_another_kind_is_not_copied_from, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_of_a_version_that_is_stable_no_more_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(labels_are_joined_to_both_answers, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
