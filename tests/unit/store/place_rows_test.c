/* SPDX-License-Identifier: Apache-2.0 */
/* The row of a family's place, and the lines of history that come with it: all or nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/store_help.h"

static char *folder;
static struct store *store;

static int setup(void **state)
{
    struct err e;

    (void)state;
    folder = store_folder_new();
    assert_int_equal(store_open_in(&store, folder, &e), ERR_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    store_close(store);
    store_folder_free(folder);
    return 0;
}

struct put {
    struct place_row row;
    struct history_row line[2];
    size_t n;
    struct err e;
};

static enum err_code put_on(struct store *s, void *arg)
{
    struct put *p = arg;

    return store_put_place(s, &p->row, p->line, p->n, &p->e);
}

static enum err_code put(struct put *p, const char *family, const char *place, const char *configured, size_t n)
{
    *p = (struct put){.row = {.at_ms = 77, .actor = "admin"}, .n = n};
    snprintf(p->row.family, sizeof(p->row.family), "%s", family);
    snprintf(p->row.place, sizeof(p->row.place), "%s", place);
    snprintf(p->row.configured, sizeof(p->row.configured), "%s", configured);
    for (size_t i = 0; i < n; i++) {
        p->line[i] = (struct history_row){.at_ms = 1, .kind = "place_changed", .actor = "a", .text = "t"};
        snprintf(p->line[i].model, sizeof(p->line[i].model), "m%zu", i);
    }
    return store_call(store, put_on, p);
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

static void it_is_there_again_after_a_restart(void **state)
{
    struct store_state st;
    struct put p;

    (void)state;
    assert_int_equal(put(&p, "vision", "inline", "worker", 0), ERR_OK);
    assert_int_equal(put(&p, "vision", "weir://[::1]:8000", "worker", 2), ERR_OK); /* in its place */
    assert_int_equal(p.line[0].seq, 1);
    assert_int_equal(p.line[1].seq, 2);
    assert_int_equal(put(&p, "intent", "inline", "", 0), ERR_OK);
    st = load();
    assert_int_equal(st.n_places, 2);
    assert_string_equal(st.places[0].family, "intent");
    assert_string_equal(st.places[0].configured, "");
    assert_string_equal(st.places[1].family, "vision");
    assert_string_equal(st.places[1].place, "weir://[::1]:8000");
    assert_string_equal(st.places[1].configured, "worker");
    assert_string_equal(st.places[1].actor, "admin");
    assert_int_equal(st.places[1].at_ms, 77);
    assert_int_equal(st.seq, 2);
    store_state_done(&st);
}

static void no_place_takes_it_away(void **state)
{
    struct store_state st;
    struct put p;

    (void)state;
    assert_int_equal(put(&p, "vision", "inline", "worker", 1), ERR_OK);
    assert_int_equal(put(&p, "vision", "", "", 1), ERR_OK);
    assert_int_equal(put(&p, "vision", "", "", 0), ERR_OK); /* fine if there is none */
    st = load();
    assert_int_equal(st.n_places, 0);
    assert_int_equal(st.seq, 2);
    store_state_done(&st);
}

static void all_or_nothing(void **state)
{
    struct store_state st;
    struct put p;

    (void)state;
    assert_int_not_equal(put(&p, "", "inline", "worker", 2), ERR_OK); /* no name */
    st = load();
    assert_int_equal(st.n_places, 0);
    assert_int_equal(st.seq, 0); /* nor a line of history */
    store_state_done(&st);
    assert_int_equal(put(&p, "vision", "inline", "worker", 1), ERR_OK); /* and it goes on */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_there_again_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(no_place_takes_it_away, setup, teardown),
        cmocka_unit_test_setup_teardown(all_or_nothing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
