/* SPDX-License-Identifier: Apache-2.0 */
/* The row of a shadow: at most one a model, replaced, taken away, and only of a version that exists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/store_help.h"

#define DIGEST_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static char *folder;
static struct store *store;

static struct history_row line(void)
{
    return (struct history_row){.at_ms = 1, .model = "intent", .kind = "shadow_started", .actor = "a", .text = "t"};
}

static int setup(void **state)
{
    struct model_row m = {.name = "intent", .family = "default", .stable = 1, .created_ms = 42};
    struct version_row v1 = {.model = "intent", .number = 1, .digest = DIGEST_A, .backend = "onnx"},
                       v2 = {.model = "intent", .number = 2, .digest = DIGEST_B, .backend = "onnx"};
    struct history_row h = line();
    struct err e;

    (void)state;
    folder = store_folder_new();
    assert_int_equal(store_open_in(&store, folder, &e), ERR_OK);
    assert_int_equal(on_apply(store, &(struct store_change){.model = &m, .version = &v1, .history = &h}, &e), ERR_OK);
    assert_int_equal(on_apply(store, &(struct store_change){.version = &v2, .history = &h}, &e), ERR_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_close(store);
    store_folder_free(folder);
    return 0;
}

static enum err_code put(const char *id, int64_t version, int64_t share_bp)
{
    struct shadow_row row = {.model = "intent", .version = version, .share_bp = share_bp, .started_ms = 77};
    struct history_row h = line();
    struct err e;

    snprintf(row.id, sizeof(row.id), "%s", id);
    return on_apply(store, &(struct store_change){.shadow = &row, .history = &h}, &e);
}

static struct store_state load(void)
{
    struct store_state st = {0};
    struct err e;

    store_close(store);
    store = NULL;
    assert_int_equal(store_open_in(&store, folder, &e), ERR_OK);
    assert_int_equal(on_load(store, &st, &e), ERR_OK);
    return st;
}

static void a_shadow_is_there_again_after_a_restart(void **state)
{
    struct store_state st;

    (void)state;
    assert_int_equal(put("s-1", 2, 1000), ERR_OK);
    assert_int_equal(put("s-2", 2, 10000), ERR_OK); /* in its place */
    st = load();
    assert_int_equal(st.n_shadows, 1);
    assert_string_equal(st.shadows[0].id, "s-2");
    assert_string_equal(st.shadows[0].model, "intent");
    assert_int_equal(st.shadows[0].version, 2);
    assert_int_equal(st.shadows[0].share_bp, 10000);
    assert_int_equal(st.shadows[0].started_ms, 77);
    store_state_done(&st);
}

static void version_0_takes_it_away(void **state)
{
    struct store_state st;

    (void)state;
    assert_int_equal(put("s-1", 2, 1000), ERR_OK);
    assert_int_equal(put("", 0, 0), ERR_OK);
    assert_int_equal(put("", 0, 0), ERR_OK); /* fine if there is none */
    st = load();
    assert_int_equal(st.n_shadows, 0);
    store_state_done(&st);
}

static void what_makes_no_sense_is_not_stored(void **state)
{
    struct store_state st;

    (void)state;
    assert_int_equal(put("s-1", 3, 1000), ERR_CONFLICT); /* no such version */
    assert_int_not_equal(put("s-1", 2, 0), ERR_OK);
    assert_int_not_equal(put("s-1", 2, 10001), ERR_OK);
    st = load();
    assert_int_equal(st.n_shadows, 0);
    assert_int_equal(st.seq, 2); /* nor its line of history */
    store_state_done(&st);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_shadow_is_there_again_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(version_0_takes_it_away, setup, teardown),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_not_stored, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
