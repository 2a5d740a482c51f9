/* SPDX-License-Identifier: Apache-2.0 */
/* The map against a plain array that does the same slowly; order of insertion; deleting while walking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/map.h"

static void basics(void **state)
{
    (void)state;
    struct map m;
    int one, two;
    map_init(&m);
    size_t i = 0;
    assert_null(map_get(&m, STR("a")));
    assert_null(map_del(&m, STR("a")));
    assert_null(map_next(&m, &i));
    assert_null(map_put(&m, STR("a"), &one));
    assert_ptr_equal(map_put(&m, STR("a"), &two), &one);
    assert_int_equal(m.n, 1);
    assert_null(map_put(&m, STR(""), &one));
    assert_null(map_put(&m, STR("a\0b"), &one)); /* keys are bytes */
    assert_ptr_equal(map_get(&m, STR("a")), &two);
    assert_ptr_equal(map_get(&m, STR("")), &one);
    assert_ptr_equal(map_get(&m, STR("a\0b")), &one);
    assert_null(map_get(&m, STR("a\0c")));
    assert_ptr_equal(map_del(&m, STR("a")), &two);
    assert_null(map_get(&m, STR("a")));
    assert_int_equal(m.n, 2);
    map_done(&m);
    map_done(NULL);
}

static void against_array(void **state)
{
    (void)state;
    enum { KEYS = 700 };
    static int cells[KEYS];
    static void *want[KEYS];
    static uint64_t put_at[KEYS];
    struct map m;
    uint64_t clock = 0;
    size_t live = 0;
    uint64_t x = 42;
    map_init(&m);
    for (int step = 0; step < 200000; step++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        unsigned k = (unsigned)(x >> 33) % KEYS;
        char key[16];
        struct str s = {key, (size_t)snprintf(key, sizeof(key), "key%u", k)};
        if ((x >> 60) < 7) {
            void *value = &cells[(x >> 20) % KEYS];
            assert_ptr_equal(map_put(&m, s, value), want[k]);
            if (!want[k]) {
                put_at[k] = ++clock;
                live++;
            }
            want[k] = value;
        } else if ((x >> 60) < 12) {
            assert_ptr_equal(map_del(&m, s), want[k]);
            live -= want[k] != NULL;
            want[k] = NULL;
        } else {
            assert_ptr_equal(map_get(&m, s), want[k]);
        }
        assert_int_equal(m.n, live);
        if (step % 5000 == 0) {
            struct map_entry *e;
            uint64_t last = 0;
            size_t seen = 0;
            for (size_t i = 0; (e = map_next(&m, &i)) != NULL; seen++) {
                unsigned at;
                assert_int_equal(sscanf(e->key, "key%u", &at), 1);
                assert_ptr_equal(e->value, want[at]);
                assert_true(put_at[at] > last);
                last = put_at[at];
            }
            assert_int_equal(seen, live);
        }
    }
    assert_true(m.cap <= 4 * KEYS); /* graves are swept, not piled up */
    map_done(&m);
}

static void delete_while_walking(void **state)
{
    (void)state;
    struct map m;
    int value;
    map_init(&m);
    for (int i = 0; i < 100; i++) {
        char key[16];
        map_put(&m, (struct str){key, (size_t)snprintf(key, sizeof(key), "%d", i)}, &value);
    }
    struct map_entry *e;
    int n = 0;
    for (size_t i = 0; (e = map_next(&m, &i)) != NULL; n++) {
        char want[16];
        snprintf(want, sizeof(want), "%d", n);
        assert_string_equal(e->key, want);
        if (n % 2) {
            map_del(&m, (struct str){e->key, e->key_n});
        }
    }
    assert_int_equal(n, 100);
    assert_int_equal(m.n, 50);
    map_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(basics),
        cmocka_unit_test(against_array),
        cmocka_unit_test(delete_while_walking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
