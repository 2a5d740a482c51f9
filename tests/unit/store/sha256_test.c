/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 against the published vectors (FIPS 180-4), whole and in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/sha256.h"
#include "store/store.h"

static const struct {
    const char *text, *sum;
} vectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

static void published_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(vectors); i++) {
        char got[65];
        sha256_hex(got, vectors[i].text, strlen(vectors[i].text));
        assert_string_equal(got, vectors[i].sum);
    }
}

static void pieces_give_the_same(void **state)
{
    (void)state;
    const char *text = vectors[2].text;
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        struct sha256 h;
        char got[65];
        sha256_init(&h);
        sha256_add(&h, text, cut);
        sha256_add(&h, text + cut, strlen(text) - cut);
        sha256_final(&h, got);
        assert_string_equal(got, vectors[2].sum);
    }
}

static void giving_up_is_fine_twice(void **state)
{
    (void)state;
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, "x", 1);
    sha256_done(&h);
    sha256_done(&h);
    assert_null(h.md);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(pieces_give_the_same),
        cmocka_unit_test(giving_up_is_fine_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
