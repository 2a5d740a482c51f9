/* SPDX-License-Identifier: Apache-2.0 */
/* Events: what a reader gets, wherever it was in history when it came and however slow it is; how a line is written;
 * and the route. The hub's tests have no sockets and no store: lines and readers are arrays, and a look into the store
 * is answered when the test says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include <yyjson.h>

#include "api/admin_priv.h"
#include "support/http_rig.h"

/* ---- a world of lines ---- */

static struct {
    struct loop *loop;
    struct events *hub;
    struct history_row row[5000]; /* what the store has; seq is the index + 1 */
    size_t n;
    struct events_read *looks[EVENTS_READERS + 1]; /* that wait for an answer */
    size_t n_looks;
    unsigned all_looks;
    bool broken; /* the store */
} world;

static struct history_row *write_line(const char *model, const char *kind)
{
    struct history_row *h = &world.row[world.n++];

    assert_true(world.n < COUNT_OF(world.row));
    *h = (struct history_row){.seq = (int64_t)world.n, .at_ms = 1000, .version = 1};
    snprintf(h->model, sizeof(h->model), "%s", model);
    snprintf(h->kind, sizeof(h->kind), "%s", kind);
    return h;
}

static void spin(void)
{
    while (loop_once(world.loop, 0)) {
    }
}

/* n lines that are durable and told. */
static void happens(unsigned n, const char *model)
{
    for (unsigned i = 0; i < n; i++) {
        events_told(world.hub, write_line(model, "pushed"));
    }
    spin();
}

static void on_read(void *ctx, struct events_read *q)
{
    assert_ptr_equal(ctx, &world);
    world.looks[world.n_looks++] = q;
    world.all_looks++;
}

/* What the store would say now. */
static void answer_look(void)
{
    struct events_read *q = world.looks[0];

    memmove(world.looks, world.looks + 1, --world.n_looks * sizeof(world.looks[0]));
    q->newest = (int64_t)world.n;
    if (world.broken) {
        err_set(&q->err, ERR_STORAGE, "no");
    }
    q->rows = xcalloc(q->limit + 1, sizeof(q->rows[0]));
    for (size_t i = (size_t)q->after; i < world.n && q->n < q->limit; i++) {
        if (!q->model[0] || strcmp(q->model, world.row[i].model) == 0) {
            q->rows[q->n++] = world.row[i];
        }
    }
    events_read_done(q);
    spin();
}

static void answer_looks(void)
{
    while (world.n_looks > 0) {
        answer_look();
    }
}

static int world_up(void **state)
{
    struct err e;

    (void)state;
    memset(&world, 0, sizeof(world));
    assert_int_equal(loop_new(&world.loop, &e), ERR_OK);
    world.hub = events_new(world.loop, on_read, &world);
    return 0;
}

static int world_down(void **state)
{
    (void)state;
    answer_looks();
    events_free(world.hub);
    loop_free(world.loop);
    return 0;
}

/* ---- readers ---- */

struct listener {
    struct events_reader reader;
    int64_t got[6000];
    size_t n;
    int64_t place; /* the last id without an event */
    unsigned alive;
    size_t room; /* pieces that are taken before one is refused */
    bool refused, cut, open;
    unsigned after_cut;
};

static bool take(struct events_reader *r, struct str piece)
{
    struct listener *l = CONTAINER_OF(r, struct listener, reader);
    long long id;

    l->after_cut += l->cut;
    if (l->room == 0) {
        l->refused = true;
        return false;
    }
    l->room--;
    assert_true(piece.n > 2 && memcmp(piece.p + piece.n - 2, "\n\n", 2) == 0);
    if (piece.p[0] == ':') {
        l->alive++;
        return true;
    }
    assert_int_equal(sscanf(piece.p, "id: %lld\n", &id), 1);
    if (memmem(piece.p, piece.n, "\ndata: ", 7)) {
        assert_true(l->n < COUNT_OF(l->got));
        l->got[l->n++] = id;
    } else {
        l->place = id;
    }
    return true;
}

static void on_cut(struct events_reader *r)
{
    CONTAINER_OF(r, struct listener, reader)->cut = true;
}

static struct listener *listen_from(int64_t after, const char *model)
{
    struct listener *l = xcalloc(1, sizeof(*l));

    l->place = -1;
    l->room = SIZE_MAX;
    l->open = true;
    l->reader.write = take;
    l->reader.cut = on_cut;
    l->reader.after = after;
    snprintf(l->reader.model, sizeof(l->reader.model), "%s", model);
    events_open(world.hub, &l->reader);
    spin();
    return l;
}

static void leave(struct listener *l)
{
    assert_int_equal(l->after_cut, 0);
    events_close(&l->reader);
    free(l);
}

/* It got exactly the lines after `after`, of a model or of all, in order. */
static void expect_all(const struct listener *l, int64_t after, const char *model)
{
    size_t k = 0;

    for (size_t i = (size_t)after; i < world.n; i++) {
        if (model[0] && strcmp(model, world.row[i].model) != 0) {
            continue;
        }
        if (k >= l->n || l->got[k] != world.row[i].seq) {
            fail_msg("place %zu: %lld instead of %lld", k, k < l->n ? (long long)l->got[k] : -1,
                     (long long)world.row[i].seq);
        }
        k++;
    }
    assert_int_equal(l->n, k);
}

/* ---- where a reader may stand ---- */

static void from_now_on(void **state)
{
    (void)state;
    for (int i = 0; i < 7; i++) {
        write_line("m", "pushed"); /* by an earlier run of the server */
    }
    struct listener *early = listen_from(-1, ""); /* before the hub knows anything */
    assert_int_equal(early->place, -1);
    answer_looks();
    assert_int_equal(early->place, 7);
    struct listener *l = listen_from(-1, "");
    assert_int_equal(l->place, 7); /* to come back with, though it got nothing */
    happens(3, "m");
    expect_all(early, 7, "");
    expect_all(l, 7, "");
    leave(early);
    struct listener *later = listen_from(-1, "");
    assert_int_equal(later->place, 10);
    happens(1, "m");
    expect_all(l, 7, "");
    expect_all(later, 10, "");
    assert_int_equal(world.all_looks, 1);
    leave(l);
    leave(later);
}

/* The hub asked for the newest line after it was written, and before it was told. */
static void what_was_there_at_the_start(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        write_line("m", "pushed");
    }
    answer_looks();
    struct listener *now = listen_from(-1, ""), *old = listen_from(1, "");
    answer_looks();
    events_told(world.hub, &world.row[2]);
    happens(1, "m");
    expect_all(now, 3, "");
    expect_all(old, 1, "");
    leave(now);
    leave(old);
}

static void from_anywhere(void **state)
{
    (void)state;
    for (int i = 0; i < 3 * EVENTS_PIECE + 5; i++) {
        write_line(i % 3 ? "a" : "b", "pushed");
    }
    answer_looks();
    for (int64_t n = (int64_t)world.n, old = n; n < old + 40; n = (int64_t)world.n) {
        int64_t places[] = {0, 1, EVENTS_PIECE, 2 * EVENTS_PIECE, old - 1, old, old + 1, n - 1, n};

        for (size_t i = 0; i < COUNT_OF(places); i++) {
            for (int k = 0; k < 3; k++) {
                const char *model = k == 0 ? "" : k == 1 ? "a" : "c";
                struct listener *l = listen_from(MIN(places[i], n), model);

                answer_looks();
                expect_all(l, MIN(places[i], n), model);
                leave(l);
            }
        }
        happens(13, world.n % 2 ? "a" : "c");
    }
}

static void what_is_kept_needs_no_store(void **state)
{
    (void)state;
    answer_looks();
    happens(EVENTS_KEPT, "m");
    struct listener *l = listen_from(0, "");
    expect_all(l, 0, "");
    assert_int_equal(world.all_looks, 1);
    happens(1, "m"); /* the first one is not kept any more */
    struct listener *behind = listen_from(0, "");
    assert_int_equal(world.n_looks, 1);
    answer_looks();
    expect_all(behind, 0, "");
    expect_all(l, 0, "");
    leave(l);
    leave(behind);
}

/* Lines happen between and during the looks of readers that are far behind. */
static void no_gap_and_nothing_twice(void **state)
{
    struct listener *l[6];

    (void)state;
    for (int i = 0; i < 10 * EVENTS_PIECE; i++) {
        write_line(i % 2 ? "a" : "b", "pushed");
    }
    answer_looks();
    for (size_t i = 0; i < COUNT_OF(l); i++) {
        l[i] = listen_from((int64_t)i * 60, i % 2 ? "a" : "");
    }
    for (int round = 0; round < 200; round++) {
        unsigned chance = (unsigned)round * 2654435761u >> 7;

        if (chance % 3 && world.n_looks > 0) {
            answer_look();
        }
        if (chance % 5 == 0) { /* durable before it is told, and a look goes between */
            struct history_row *one = write_line("a", "pushed"), *two = write_line("b", "pushed");

            if (world.n_looks > 0) {
                answer_look();
            }
            events_told(world.hub, one);
            if (chance % 2 && world.n_looks > 0) {
                answer_look();
            }
            events_told(world.hub, two);
            spin();
        }
    }
    answer_looks();
    for (size_t i = 0; i < COUNT_OF(l); i++) {
        expect_all(l[i], (int64_t)i * 60, i % 2 ? "a" : "");
        leave(l[i]);
    }
}

/* An id of another history (the data folder was emptied): not silence until the numbers have come that far. */
static void a_place_that_is_not_there(void **state)
{
    (void)state;
    write_line("m", "pushed");
    answer_looks();
    struct listener *l = listen_from(5000, "");
    answer_looks();
    happens(3, "m");
    expect_all(l, 1, "");
    leave(l);
    write_line("m", "pushed"); /* durable, not told yet: the reader has seen it in the store */
    l = listen_from((int64_t)world.n, "");
    answer_looks();
    events_told(world.hub, &world.row[world.n - 1]);
    int64_t from = (int64_t)world.n;
    happens(2, "m");
    expect_all(l, from, "");
    leave(l);
}

static void a_line_starts_what_the_store_did_not(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        write_line("m", "pushed");
    }
    world.broken = true;
    answer_looks();
    struct listener *now = listen_from(-1, ""), *old = listen_from(1, "");
    assert_int_equal(world.all_looks, 1);
    world.broken = false;
    happens(1, "m");
    answer_looks();
    expect_all(now, 4, "");
    expect_all(old, 1, "");
    leave(now);
    leave(old);
}

static void a_broken_store_sends_them_away(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        write_line("m", "pushed");
    }
    answer_looks();
    struct listener *old = listen_from(1, ""), *now = listen_from(-1, "");
    world.broken = true;
    answer_looks();
    assert_true(old->cut && !now->cut); /* it comes back and asks again */
    happens(1, "m");
    assert_int_equal(old->n, 0);
    expect_all(now, 4, "");
    leave(old);
    leave(now);
}

static void leaving_while_the_store_reads(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        write_line("m", "pushed");
    }
    answer_looks();
    struct listener *a = listen_from(0, ""), *b = listen_from(0, "");
    leave(a);
    answer_looks();
    expect_all(b, 0, "");
    leave(b);
    leave(listen_from(0, ""));
    assert_int_equal(world.n_looks, 1); /* answered after the hub's last reader has left: world_down */
}

/* ---- slow readers ---- */

static void drain(struct listener *l, size_t room)
{
    l->room = room;
    l->refused = false;
    events_drained(&l->reader);
    spin();
}

static void who_catches_up_is_waited_for(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        write_line("m", "pushed");
    }
    answer_looks();
    happens(100, "m");
    struct listener *l = listen_from(20, "");
    l->room = 1;
    for (int i = 0; i < 2000 && l->n < world.n - 20; i++) {
        answer_looks();
        if (i < 50) {
            happens(30, "m"); /* beyond what is kept */
        }
        assert_false(l->cut);
        drain(l, 1 + (size_t)i % 50);
    }
    answer_looks();
    drain(l, SIZE_MAX);
    answer_looks();
    expect_all(l, 20, "");
    leave(l);
}

static void who_does_not_keep_up_is_cut(void **state)
{
    (void)state;
    answer_looks();
    struct listener *slow = listen_from(-1, ""), *quick = listen_from(-1, "");
    slow->room = 5;
    happens(8, "m"); /* in one burst: it is refused one, but may still take all */
    assert_true(slow->refused && !slow->cut);
    drain(slow, 4);
    assert_true(!slow->refused && slow->n == 8);
    happens(2, "m");
    assert_true(slow->refused && !slow->cut);
    happens(1, "m"); /* and it still waits */
    assert_true(slow->cut);
    drain(slow, SIZE_MAX); /* says nothing any more */
    happens(1, "m");
    assert_int_equal(slow->n, 9);
    expect_all(quick, 0, "");
    leave(slow);
    leave(quick);
}

static void signs_of_life(void **state)
{
    (void)state;
    answer_looks();
    struct listener *l = listen_from(-1, ""), *full = listen_from(-1, "");
    full->room = 0;
    happens(1, "m");
    assert_int_equal(l->alive, 0);
    events_alive(world.hub);
    events_alive(world.hub);
    assert_int_equal(l->alive, 2);
    l->alive = 0;
    full->room = 1; /* there would be room for this, but it stands behind what was refused */
    events_alive(world.hub);
    assert_int_equal(full->alive, 0);
    assert_false(full->cut); /* the time limit on writing is for that */
    drain(full, SIZE_MAX);
    events_alive(world.hub);
    assert_int_equal(full->alive, 1);
    expect_all(full, 0, "");
    leave(full);
    leave(l);
}

static void all_seats_are_taken(void **state)
{
    struct listener *l[EVENTS_READERS];
    struct err e;

    (void)state;
    answer_looks();
    for (size_t i = 0; i < COUNT_OF(l); i++) {
        assert_false(events_full(world.hub, &e));
        l[i] = listen_from(-1, "");
    }
    assert_true(events_full(world.hub, &e));
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    leave(l[17]);
    assert_false(events_full(world.hub, &e));
    l[17] = listen_from(-1, "");
    happens(2, "m");
    for (size_t i = 0; i < COUNT_OF(l); i++) {
        expect_all(l[i], 0, "");
        leave(l[i]);
    }
}

/* Big ones: bounded by bytes as well, and nothing is lost by it. */
static void big_lines(void **state)
{
    static char text[200001];

    (void)state;
    answer_looks();
    memset(text, ' ', sizeof(text) - 1);
    memcpy(text, "[1,\n2,\r3", 8);
    text[sizeof(text) - 2] = ']';
    struct listener *l = listen_from(0, "");
    for (int i = 0; i < 60; i++) {
        struct history_row *h = write_line("m", "rollout_verdict");

        h->evidence = text;
        events_told(world.hub, h);
        h->evidence = NULL; /* of the row in the store: history_done would free it */
        spin();
    }
    expect_all(l, 0, "");
    struct listener *late = listen_from(0, "");
    assert_int_equal(world.n_looks, 1);
    answer_looks();
    expect_all(late, 0, "");
    leave(l);
    leave(late);
}

/* ---- how a line is written ---- */

static void names_of_kinds(void **state)
{
    static const char *const cases[][2] = {
        {"pushed", "version.pushed"},
        {"registered", "model.registered"},
        {"failed", "version.failed"},
        {"rollout_started", "rollout.started"},
        {"rollout_step", "rollout.step"},
        {"share_set", "rollout.step"},
        {"rollout_paused", "rollout.paused"},
        {"rollout_resumed", "rollout.resumed"},
        {"rollout_verdict", "rollout.verdict"},
        {"promoted", "rollout.promoted"},
        {"rollout_completed", "rollout.completed"},
        {"rolled_back", "rollout.rolled_back"},
        {"aborted", "rollout.aborted"},
        {"something_new", "history.something_new"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct buf b;

        buf_init(&b, 100);
        event_type(&b, cases[i][0]);
        assert_string_equal(buf_z(&b), cases[i][1]);
        buf_done(&b);
    }
}

static void a_line_as_json(void **state)
{
    struct history_row h = {.seq = 57,
                            .at_ms = 1764000000123,
                            .model = "intent",
                            .version = 3,
                            .kind = "rolled_back",
                            .actor = "weir (judge)",
                            .text = "a \"quote\"\nand a \xff line",
                            .serving = "[{\"version\":2,\n\"share_bp\":10000}]",
                            .evidence = "{\"z\":[1,\r\n2]}"};
    struct buf b;

    (void)state;
    buf_init(&b, 1u << 22);
    event_json(&b, &h);
    assert_string_equal(
        buf_z(&b),
        "{\"seq\":57,\"at\":\"2025-11-24T16:00:00.123Z\",\"model\":\"intent\",\"version\":3,"
        "\"kind\":\"rolled_back\",\"actor\":\"weir (judge)\",\"text\":\"a \\\"quote\\\"\\nand a \xef\xbf\xbd "
        "line\",\"serving\":[{\"version\":2, \"share_bp\":10000}],\"evidence\":{\"z\":[1,  2]}}");
    buf_clear(&b);
    h.version = 0;
    h.evidence = NULL;
    h.serving = xcalloc(1, EVENT_BYTES + 1);
    memset(h.serving, ' ', EVENT_BYTES);
    h.serving[0] = '1';
    event_json(&b, &h); /* too much: the rest of it still goes out */
    yyjson_doc *doc = yyjson_read(b.p, b.n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    assert_true(b.n < 1000 && yyjson_get_int(yyjson_obj_get(root, "seq")) == 57);
    assert_true(yyjson_is_null(yyjson_obj_get(root, "version")) && yyjson_is_null(yyjson_obj_get(root, "serving")));
    yyjson_doc_free(doc);
    free(h.serving);
    buf_done(&b);
}

/* ---- the route ---- */

struct bed {
    struct rig rig;
    struct plane plane;
    struct admin_facts facts;
};

static int bed_up(void **state)
{
    struct bed *b = xcalloc(1, sizeof(*b));

    memset(&world, 0, sizeof(world));
    rig_init(&b->rig);
    world.loop = b->rig.loop;
    world.hub = events_new(world.loop, on_read, &world);
    b->facts = (struct admin_facts){.admin_url = "http://127.0.0.1:8009", .events = world.hub};
    b->plane = (struct plane){.name = "admin",
                              .routes = admin_routes,
                              .n_routes = n_admin_routes,
                              .finished = admin_finished,
                              .access = admin_access,
                              .facts = &b->facts};
    plane_init(&b->plane);
    rig_open(&b->rig);
    b->rig.h->service = plane_service(&b->plane);
    rig_connect(&b->rig);
    for (int i = 0; i < 5; i++) {
        write_line(i % 2 ? "a" : "b", "pushed");
    }
    answer_looks();
    *state = b;
    return 0;
}

static int bed_down(void **state)
{
    struct bed *b = *state;
    struct rig *r = &b->rig;

    answer_looks();
    http_listener_free(r->h);
    rig_open(r); /* for rig_done */
    plane_done(&b->plane);
    events_free(world.hub);
    rig_done(r);
    free(b);
    return 0;
}

/* What has come since the last time. */
static const char *ask(struct bed *b, const char *target, const char *headers)
{
    char text[1000];

    buf_clear(&b->rig.got);
    snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", target, headers);
    rig_sendz(&b->rig, text);
    answer_looks();
    rig_spin(&b->rig);
    rig_read(&b->rig);
    return buf_z(&b->rig.got);
}

static unsigned events_in(const char *text)
{
    unsigned n = 0;

    for (const char *at = text; (at = strstr(at, "\nevent: ")) != NULL; at++) {
        n++;
    }
    return n;
}

static void a_stream_over_http(void **state)
{
    struct bed *b = *state;
    const char *got = ask(b, "/admin/events?after=2&model=a", "");

    assert_non_null(strstr(got, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"));
    assert_non_null(strstr(got, "\r\nCache-Control: no-store\r\n"));
    assert_int_equal(events_in(got), 1);
    assert_non_null(strstr(got, "id: 4\nevent: version.pushed\ndata: {\"seq\":4,"));
    buf_clear(&b->rig.got);
    happens(1, "b");
    happens(1, "a");
    rig_read(&b->rig);
    got = buf_z(&b->rig.got);
    assert_int_equal(events_in(got), 1);
    assert_non_null(strstr(got, "id: 7\n"));
    rig_connect(&b->rig); /* it leaves: a connection of the same client takes its place */
    got = ask(b, "/admin/events", "Last-Event-ID: 6\r\n");
    assert_int_equal(events_in(got), 1);
    assert_non_null(strstr(got, "id: 7\n"));
    rig_connect(&b->rig);
    got = ask(b, "/admin/events?after=0", "Last-Event-ID: 7\r\n"); /* what it says itself is newer */
    assert_int_equal(events_in(got), 0);
    rig_connect(&b->rig);
    got = ask(b, "/admin/events", "");
    assert_int_equal(events_in(got), 0);
    assert_non_null(strstr(got, "id: 7\n\n"));
}

static void what_the_route_refuses(void **state)
{
    static const struct {
        const char *target, *headers;
        int status;
    } cases[] = {
        {"/admin/events?after=x", "", 400},
        {"/admin/events?after=-1", "", 400},
        {"/admin/events?afer=1", "", 400},
        {"/admin/events?model=a%2fb", "", 400},
        {"/admin/events?model=", "", 400},
        {"/admin/events", "Last-Event-ID: abc\r\n", 400},
        {"/admin/events", "Last-Event-ID: 99999999999999999999\r\n", 400},
        {"/admin/events", "Last-Event-ID: 18446744073709551615\r\n", 400},
        {"/admin/events", "Origin: http://evil.example\r\n", 403},
    };
    struct bed *b = *state;

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        rig_connect(&b->rig);
        ask(b, cases[i].target, cases[i].headers);
        if (rig_status(&b->rig) != cases[i].status) {
            fail_msg("%s %s: %d", cases[i].target, cases[i].headers, rig_status(&b->rig));
        }
    }
    snprintf(b->facts.token, sizeof(b->facts.token), "sesame");
    ask(b, "/admin/events", "");
    assert_int_equal(rig_status(&b->rig), 401);
    ask(b, "/admin/events", "Authorization: Bearer sesame\r\n");
    assert_int_equal(rig_status(&b->rig), 200);
}

static void head_of_a_stream(void **state)
{
    struct bed *b = *state;

    rig_sendz(&b->rig, "HEAD /admin/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_int_equal(rig_status(&b->rig), 200);
    assert_false(events_full(world.hub, NULL));
    const char *got = ask(b, "/admin/events/deliveries", ""); /* on the same connection */
    assert_non_null(strstr(got, "{\"webhook\":null,"));
}

static void one_stream_too_many(void **state)
{
    struct bed *b = *state;
    int fds[EVENTS_READERS];

    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        assert_non_null(strstr(ask(b, "/admin/events", ""), " 200 OK"));
        fds[i] = b->rig.fd;
        b->rig.fd = -1;
        rig_connect(&b->rig);
    }
    assert_non_null(strstr(ask(b, "/admin/events", ""), " 503 Service Unavailable"));
    assert_true(rig_got(&b->rig, "Retry-After"));
    close(fds[3]);
    rig_spin(&b->rig);
    assert_non_null(strstr(ask(b, "/admin/events", ""), " 200 OK"));
    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        if (i != 3) {
            close(fds[i]);
        }
    }
    rig_spin(&b->rig);
}

static void a_client_that_does_not_read(void **state)
{
    struct bed *b = *state;
    static char text[50000];
    unsigned told = 0;

    memset(text, '1', sizeof(text) - 1);
    ask(b, "/admin/events", "");
    assert_int_equal(http_connections(b->rig.h), 1);
    for (; told < 200 && http_connections(b->rig.h) > 0; told++) {
        struct history_row *h = write_line("m", "rollout_verdict");

        h->evidence = text;
        events_told(world.hub, h);
        h->evidence = NULL;
        rig_spin(&b->rig);
    }
    assert_int_equal(http_connections(b->rig.h), 0);
    assert_true(told > 5); /* 256 KiB here, and what the kernel took */
    rig_connect(&b->rig);
    assert_non_null(strstr(ask(b, "/admin/events", ""), " 200 OK"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(from_now_on, world_up, world_down),
        cmocka_unit_test_setup_teardown(what_was_there_at_the_start, world_up, world_down),
        cmocka_unit_test_setup_teardown(from_anywhere, world_up, world_down),
        cmocka_unit_test_setup_teardown(what_is_kept_needs_no_store, world_up, world_down),
        cmocka_unit_test_setup_teardown(no_gap_and_nothing_twice, world_up, world_down),
        cmocka_unit_test_setup_teardown(a_place_that_is_not_there, world_up, world_down),
        cmocka_unit_test_setup_teardown(a_line_starts_what_the_store_did_not, world_up, world_down),
        cmocka_unit_test_setup_teardown(a_broken_store_sends_them_away, world_up, world_down),
        cmocka_unit_test_setup_teardown(leaving_while_the_store_reads, world_up, world_down),
        cmocka_unit_test_setup_teardown(who_catches_up_is_waited_for, world_up, world_down),
        cmocka_unit_test_setup_teardown(who_does_not_keep_up_is_cut, world_up, world_down),
        cmocka_unit_test_setup_teardown(signs_of_life, world_up, world_down),
        cmocka_unit_test_setup_teardown(all_seats_are_taken, world_up, world_down),
        cmocka_unit_test_setup_teardown(big_lines, world_up, world_down),
        cmocka_unit_test(names_of_kinds),
        cmocka_unit_test(a_line_as_json),
        cmocka_unit_test_setup_teardown(a_stream_over_http, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(what_the_route_refuses, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(head_of_a_stream, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(one_stream_too_many, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(a_client_that_does_not_read, bed_up, bed_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
