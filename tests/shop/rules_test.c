/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's rules, its pages as JSON and as HTML, and its circuit breaker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "api/pages.h"
#include "business/business_priv.h"
#include "inference/breaker.h"

#define HOUR 3600
#define DAY (24 * HOUR)

static const struct data_product products[] = {
    {1, "Running shoes", "shoe", "red", "", "shoes trainers boots sneakers", 9000, 50},
    {2, "Desert boots", "shoe", "blue", "", "shoes trainers boots sneakers", 9000, 90},
    {3, "Rain jacket", "jacket", "red", "", "jackets coat rain", 12000, 40},
    {4, "Stoneware mug", "mug", "red", "", "mugs cup tea", 1200, 70},
    {5, "Court trainers", "shoe", "grey", "", "shoes trainers boots sneakers", 9000, 80},
};
#define N ((int)(sizeof products / sizeof products[0]))

static void words_find_products(void **state)
{
    (void)state;
    assert_true(rules_match(&products[0], "red shoes") > rules_match(&products[1], "red shoes"));
    assert_true(rules_match(&products[1], "do you have blue boots") >
                rules_match(&products[0], "do you have blue boots"));
    assert_true(rules_match(&products[2], "Rain-Jackets!") > 0);
    assert_true(rules_match(&products[2], "jakcet") > 0); /* two letters swapped */
    assert_int_equal(rules_match(&products[3], "shoes"), 0);
    assert_int_equal(rules_match(&products[3], "the and with"), 0);
    assert_int_equal(rules_match(&products[0], ""), 0);
    assert_true(rules_match(&products[0], "red") > 0); /* a colour alone */
    assert_int_equal(rules_match(&products[0], "red kettle"), rules_match(&products[2], "red kettle"));
}

static void intents_by_words(void **state)
{
    (void)state;
    assert_string_equal(rules_intent("where is my parcel"), "track_order");
    assert_string_equal(rules_intent("I want to RETURN the mug"), "return_item");
    assert_string_equal(rules_intent("money back"), "refund_status");
    assert_string_equal(rules_intent("blue lamp"), "search_product");
}

static void money(void **state)
{
    (void)state;
    assert_int_equal(rules_price(10000, 2), 10000);
    assert_int_equal(rules_price(10000, 3), 9500);
    assert_int_equal(rules_shipping(3999), 490);
    assert_int_equal(rules_shipping(4000), 0);
}

static struct business_order order_at(int64_t age, enum data_end end)
{
    struct data_order o = {.placed_at = 1000000, .end = end};
    struct business_order to = {0};
    rules_order_state(&to, &o, 1000000 + age);
    return to;
}

static void orders_move_on(void **state)
{
    (void)state;
    struct business_order o = order_at(HOUR - 1, DATA_OPEN);
    assert_string_equal(o.state, "packed");
    assert_true(o.can_cancel && !o.can_return);
    o = order_at(HOUR, DATA_OPEN);
    assert_string_equal(o.state, "on its way");
    assert_true(!o.can_cancel && !o.can_return);
    o = order_at(2 * DAY - 1, DATA_OPEN);
    assert_string_equal(o.when, "It should be with you in 1 hour.");
    o = order_at(3 * DAY, DATA_OPEN);
    assert_string_equal(o.state, "delivered");
    assert_string_equal(o.when, "It arrived 1 day ago.");
    assert_true(!o.can_cancel && o.can_return);
    assert_false(order_at(32 * DAY, DATA_OPEN).can_return);
    assert_string_equal(order_at(HOUR, DATA_CANCELLED).state, "cancelled");
    assert_false(order_at(3 * DAY, DATA_RETURNED).can_return);
    assert_string_equal(order_at(-5, DATA_OPEN).state, "packed"); /* the clock was set back */
}

static void photos_by_their_first_bytes(void **state)
{
    (void)state;
    assert_string_equal(rules_photo_kind("\xFF\xD8\xFF\xE0", 4), "JPEG");
    assert_string_equal(rules_photo_kind("\x89PNG\r\n\x1A\n0", 9), "PNG");
    assert_null(rules_photo_kind("GIF89a", 6));
    assert_null(rules_photo_kind("\xFF\xD8", 2));
    assert_null(rules_photo_kind("", 0));
}

static void best_sellers(void **state)
{
    (void)state;
    int64_t ids[8];
    assert_int_equal(rules_best_sellers(products, N, "shoe", 0, ids, 8), 3);
    assert_true(ids[0] == 2 && ids[1] == 5 && ids[2] == 1);
    assert_int_equal(rules_best_sellers(products, N, "shoe", 2, ids, 1), 1);
    assert_int_equal(ids[0], 5);
    assert_int_equal(rules_best_sellers(products, N, NULL, 0, ids, 8), 4); /* of shoes two */
    assert_true(ids[0] == 2 && ids[1] == 5 && ids[2] == 4 && ids[3] == 3);
}

static void filled(struct business_page *page)
{
    memset(page, 0, sizeof *page);
    text_copy(page->view, sizeof page->view, "results");
    text_copy(page->title, sizeof page->title, "<script>\"a\" & 'b'</script>\n\\");
    page->degraded = 1;
    page->said.score = 0.1234567890123;
    text_copy(page->said.model, sizeof page->said.model, "intent");
    text_copy(page->said.request_id, sizeof page->said.request_id, "r\"><b>");
    page->n_shelves = BUSINESS_SHELVES;
    for (int i = 0; i < BUSINESS_SHELVES; i++) {
        page->shelves[i].n_items = BUSINESS_ITEMS;
        text_copy(page->shelves[i].items[BUSINESS_ITEMS - 1].name, 64, "T\xC3\xA4sse <i>");
        page->shelves[i].items[BUSINESS_ITEMS - 1].cents = INT64_MAX;
    }
    page->n_orders = BUSINESS_ORDERS_MAX;
    page->orders[BUSINESS_ORDERS_MAX - 1].can_return = 1;
}

static void pages_survive_the_wire(void **state)
{
    (void)state;
    struct business_page *page = malloc(sizeof *page), *back = malloc(sizeof *back);
    struct text t = TEXT_INIT(1 << 20);
    filled(page);
    business_page_write(&t, page);
    assert_false(t.over);
    assert_true(business_page_read(back, t.p, t.n));
    assert_memory_equal(page, back, sizeof *page);
    text_free(&t);
    free(page);
    free(back);
}

static void wrong_pages_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "[]",
        "{",
        "{\"title\":1}",
        "{\"degraded\":\"x\"}",
        "{\"shelves\":{}}",
        "{\"shelves\":[1]}",
        "{\"shelves\":[{},{},{},{},{},{},{}]}",
        "{\"view\":\"a text that is longer than its field\"}",
        "{\"title\":\"a\\u0000b\"}",
        "{\"said\":[]}",
    };
    struct business_page *page = malloc(sizeof *page);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(business_page_read(page, wrong[i], strlen(wrong[i])));
    }
    assert_true(business_page_read(page, "{\"title\":\"x\",\"more\":[1]}", 24));
    free(page);
}

static void pages_are_escaped(void **state)
{
    (void)state;
    struct business_page *page = malloc(sizeof *page);
    struct text t = TEXT_INIT(1 << 20);
    filled(page);
    pages_write(&t, page, "\"><script>x");
    assert_false(t.over);
    assert_null(strstr(t.p, "<script>"));
    assert_null(strstr(t.p, "<b>intent</b>\""));
    assert_null(strstr(t.p, "<i>"));
    assert_non_null(strstr(t.p, "T\xC3\xA4sse &lt;i&gt;"));
    assert_non_null(strstr(t.p, "value=\"&quot;&gt;&lt;script&gt;x\""));
    text_free(&t);
    free(page);
}

static void texts_have_limits(void **state)
{
    (void)state;
    struct text t = TEXT_INIT(8);
    text_add(&t, "12345678");
    assert_false(t.over);
    text_add(&t, "9");
    assert_true(t.over);
    assert_string_equal(t.p, "12345678");
    text_free(&t);
    char small[4];
    text_copy(small, sizeof small, "ab\xC3\xA4");
    assert_string_equal(small, "ab"); /* no half of a character */
}

/* One call that ends at once. */
static void call(struct breaker *b, bool good, int64_t now)
{
    assert_true(breaker_allows(b, now));
    breaker_tell(b, good, now);
}

static void the_breaker_opens_and_closes(void **state)
{
    (void)state;
    struct breaker b = {0};
    call(&b, false, 0);
    call(&b, false, 0);
    call(&b, true, 0); /* not in a row */
    call(&b, false, 0);
    call(&b, false, 0);
    assert_true(breaker_allows(&b, 0));
    assert_true(breaker_tell(&b, false, 0)); /* the third: it opens */
    assert_false(breaker_allows(&b, 999));
    assert_true(breaker_allows(&b, 1000)); /* one tries */
    assert_false(breaker_allows(&b, 1000));
    assert_false(breaker_tell(&b, false, 1000)); /* twice as long */
    assert_false(breaker_allows(&b, 2999));
    for (int64_t now = 3000, pause = 4000; now < 60000; now += pause, pause = pause < 8000 ? pause * 2 : 8000) {
        call(&b, false, now);
        assert_false(breaker_allows(&b, now + pause - 1));
        if (pause == 8000) {
            call(&b, false, now + 8000);
            assert_true(breaker_allows(&b, now + 16000));
            assert_true(breaker_tell(&b, true, now + 16000)); /* it closes */
            break;
        }
    }
    assert_true(breaker_allows(&b, 0) && breaker_allows(&b, 0));
}

static void the_breaker_bounds_calls(void **state)
{
    (void)state;
    struct breaker b = {0};
    for (int i = 0; i < BREAKER_TOGETHER; i++) {
        assert_true(breaker_allows(&b, 0));
    }
    assert_false(breaker_allows(&b, 0));
    breaker_tell(&b, true, 0);
    assert_true(breaker_allows(&b, 0));
    for (int i = 0; i < BREAKER_TOGETHER; i++) {
        breaker_tell(&b, false, 0); /* all that were under way fail: it opens once, for the first pause */
    }
    assert_false(breaker_allows(&b, 999));
    assert_true(breaker_allows(&b, 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_find_products),
        cmocka_unit_test(intents_by_words),
        cmocka_unit_test(money),
        cmocka_unit_test(orders_move_on),
        cmocka_unit_test(photos_by_their_first_bytes),
        cmocka_unit_test(best_sellers),
        cmocka_unit_test(pages_survive_the_wire),
        cmocka_unit_test(wrong_pages_are_refused),
        cmocka_unit_test(pages_are_escaped),
        cmocka_unit_test(texts_have_limits),
        cmocka_unit_test(the_breaker_opens_and_closes),
        cmocka_unit_test(the_breaker_bounds_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
