/* SPDX-License-Identifier: Apache-2.0 */
/* The hub of events; see events.h.
 *
 * Every reader has one number, `after`, and one function, pump, brings it on: from the store while `after` lies before
 * the first event that is kept, else from the ring. Told lines only go into the ring; the readers are brought on at the
 * end of the burst, so that a client gets what happened together in one piece.
 *
 * The store may be ahead of what was told (a line is durable a moment before control hears of it): a reader that saw it
 * there has a higher `after`, and passes over it when it is told. */
#include "api/events.h"

#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

struct event {
    int64_t seq;
    char model[NAME_MAX_LEN + 1];
    char *frame; /* heap */
    size_t n;
};

struct events {
    struct loop *loop;
    events_read_fn *read;
    void *read_ctx;
    bool started;          /* newest is known */
    int64_t newest, floor; /* told lines; those after floor are kept */
    struct event kept[EVENTS_KEPT];
    size_t first, n;
    size_t bytes;
    struct events_reader *readers;
    unsigned n_readers;
    struct hook tell;
    struct timer alive;
};

/* ---- how a line is written ---- */

void event_type(struct buf *out, const char *kind)
{
    static const struct {
        const char *kind, *type;
    } table[] = {
        {"registered", "model.registered"},
        {"pushed", "version.pushed"},
        {"failed", "version.failed"},
        {"rollout_started", "rollout.started"},
        {"experiment_started", "experiment.started"},
        {"experiment_result", "experiment.result"},
        {"rollout_bake", "rollout.bake"},
        {"rollout_step", "rollout.step"},
        {"share_set", "rollout.step"}, /* by a person */
        {"rollout_paused", "rollout.paused"},
        {"rollout_resumed", "rollout.resumed"},
        {"rollout_verdict", "rollout.verdict"},
        {"promoted", "rollout.promoted"},
        {"rollout_completed", "rollout.completed"},
        {"rolled_back", "rollout.rolled_back"},
        {"aborted", "rollout.aborted"},
        {"shadow_started", "shadow.started"},
        {"shadow_stopped", "shadow.stopped"},
        {"place_changed", "place.changed"},
    };

    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (strcmp(kind, table[i].kind) == 0) {
            buf_addz(out, table[i].type);
            return;
        }
    }
    BUF_LIT(out, "history.");
    buf_addz(out, kind);
}

/* A JSON text as it is, on one line: outside of strings a line break is a blank, and inside there is none. */
static void put_text(struct buf *b, const char *json)
{
    size_t from = b->n;

    buf_addz(b, json && json[0] ? json : "null");
    for (size_t i = from; i < b->n; i++) {
        if (b->p[i] == '\n' || b->p[i] == '\r') {
            b->p[i] = ' ';
        }
    }
}

static void put_line(struct buf *b, const struct history_row *row, bool texts)
{
    buf_addf(b, "{\"seq\":%lld,\"at\":", (long long)row->seq);
    json_time(b, row->at_ms);
    BUF_LIT(b, ",\"model\":");
    json_strz(b, row->model);
    if (row->version > 0) {
        buf_addf(b, ",\"version\":%lld,\"kind\":", (long long)row->version);
    } else {
        BUF_LIT(b, ",\"version\":null,\"kind\":");
    }
    json_strz(b, row->kind);
    BUF_LIT(b, ",\"actor\":");
    json_strz(b, row->actor);
    BUF_LIT(b, ",\"text\":");
    json_strz(b, row->text);
    BUF_LIT(b, ",\"serving\":");
    put_text(b, texts ? row->serving : NULL);
    BUF_LIT(b, ",\"evidence\":");
    put_text(b, texts ? row->evidence : NULL);
    BUF_LIT(b, "}");
}

void event_json(struct buf *out, const struct history_row *row)
{
    size_t from = out->n;

    if (out->over) {
        return;
    }
    put_line(out, row, true);
    if (out->over || out->n - from > EVENT_BYTES) {
        out->n = from;
        out->over = out->lack = false;
        put_line(out, row, false);
    }
}

/* The event as its readers get it; false without memory. */
static bool put_frame(struct buf *b, const struct history_row *row)
{
    buf_init(b, 2 * EVENT_BYTES);
    buf_addf(b, "id: %lld\nevent: ", (long long)row->seq);
    event_type(b, row->kind);
    BUF_LIT(b, "\ndata: ");
    event_json(b, row);
    BUF_LIT(b, "\n\n");
    return !b->over;
}

/* ---- readers ---- */

static void cut(struct events_reader *r)
{
    if (!r->over) {
        r->over = true;
        r->cut(r);
    }
}

static bool give(struct events_reader *r, struct str piece)
{
    r->held_up = !r->write(r, piece);
    return !r->held_up && !r->over;
}

static bool wants(const struct events_reader *r, const char *model)
{
    return !r->model[0] || strcmp(r->model, model) == 0;
}

static void look(struct events *v, struct events_reader *r)
{
    struct events_read *q = xcalloc(1, sizeof(*q));

    q->hub = v;
    q->reader = r;
    q->home = v->loop;
    if (r) {
        memcpy(q->model, r->model, sizeof(q->model));
        q->after = r->after;
        q->limit = EVENTS_PIECE;
        r->reading = q;
    }
    v->read(v->read_ctx, q);
}

/* The first event that is kept with a higher seq; there is one. */
static const struct event *kept_after(const struct events *v, int64_t seq)
{
    size_t low = 0, high = v->n - 1;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (v->kept[(v->first + mid) % EVENTS_KEPT].seq > seq) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return &v->kept[(v->first + low) % EVENTS_KEPT];
}

static void pump(struct events *v, struct events_reader *r)
{
    if (!v->started || r->reading || r->held_up || r->over) {
        return;
    }
    if (r->after < 0) { /* from now on; where that is, it has to know to be able to come back */
        char text[40];

        r->after = v->newest;
        r->sure = true;
        snprintf(text, sizeof(text), "id: %lld\n\n", (long long)r->after);
        give(r, str_of(text));
    }
    if (r->after < v->floor || (!r->sure && r->after > v->newest)) {
        look(v, r);
        return;
    }
    while (r->after < v->newest) {
        const struct event *ev = kept_after(v, r->after);

        if (wants(r, ev->model) && !give(r, (struct str){ev->frame, ev->n})) {
            return;
        }
        r->after = ev->seq;
    }
    r->live = true;
}

/* Gives what the store had; false: it is held up, or cut off. */
static bool give_rows(struct events_reader *r, const struct events_read *q)
{
    for (size_t i = 0; i < q->n; i++) {
        struct buf b;
        bool made = put_frame(&b, &q->rows[i]), given = made && give(r, buf_str(&b));

        buf_done(&b);
        if (!made) {
            cut(r);
        }
        if (!given) {
            return false; /* it is read again when the client has taken what waits */
        }
        r->after = q->rows[i].seq;
    }
    return true;
}

static void start(struct events *v, int64_t newest)
{
    if (v->started) {
        return;
    }
    v->started = true;
    v->newest = v->floor = newest;
    for (struct events_reader *r = v->readers; r; r = r->next) {
        pump(v, r);
    }
}

void events_read_done(struct events_read *q)
{
    struct events_reader *r = q->reader;

    if (q->err.code != ERR_OK) {
        log_warn("api", "events can not be read from the store error=\"%s\"", q->err.text);
    }
    if (r) {
        r->reading = NULL;
        if (q->err.code != ERR_OK) {
            cut(r);
        } else if (!r->over && give_rows(r, q)) {
            r->sure = true;
            r->after = q->n < q->limit ? q->newest : r->after;
            pump(q->hub, r);
        }
    } else if (q->limit == 0 && q->err.code == ERR_OK) {
        start(q->hub, q->newest);
    } /* else the first line that is told starts it */
    history_done(q->rows, q->n);
    free(q);
}

bool events_full(const struct events *v, struct err *e)
{
    if (v->n_readers < EVENTS_READERS) {
        return false;
    }
    err_set(e, ERR_UNAVAILABLE, "%d clients follow the events already", EVENTS_READERS);
    return true;
}

void events_open(struct events *v, struct events_reader *r)
{
    assert(v->n_readers < EVENTS_READERS);
    if (v->n_readers++ == 0) {
        timer_set(v->loop, &v->alive, clock_us() + EVENTS_ALIVE_US);
    }
    r->hub = v;
    r->reading = NULL;
    r->sure = r->held_up = r->live = r->over = false;
    r->prev = NULL;
    r->next = v->readers;
    if (r->next) {
        r->next->prev = r;
    }
    v->readers = r;
    pump(v, r);
}

void events_drained(struct events_reader *r)
{
    r->held_up = false;
    pump(r->hub, r);
}

void events_close(struct events_reader *r)
{
    struct events *v = r->hub;

    if (r->reading) {
        r->reading->reader = NULL;
        r->reading = NULL;
    }
    *(r->prev ? &r->prev->next : &v->readers) = r->next;
    if (r->next) {
        r->next->prev = r->prev;
    }
    if (--v->n_readers == 0) {
        timer_clear(v->loop, &v->alive);
    }
}

/* ---- the hub ---- */

static void drop_oldest(struct events *v)
{
    struct event *ev = &v->kept[v->first];

    v->floor = ev->seq;
    v->bytes -= ev->n;
    free(ev->frame);
    v->first = (v->first + 1) % EVENTS_KEPT;
    v->n--;
}

void events_told(struct events *v, const struct history_row *row)
{
    struct buf b;

    start(v, row->seq - 1);
    if (row->seq <= v->newest) {
        return; /* it was there when the server started */
    }
    v->newest = row->seq;
    loop_defer(v->loop, &v->tell);
    if (v->n == EVENTS_KEPT) {
        drop_oldest(v);
    }
    if (!put_frame(&b, row)) { /* whoever wants it finds it in the store */
        while (v->n > 0) {
            drop_oldest(v);
        }
        v->floor = row->seq;
        buf_done(&b);
        return;
    }
    struct event *ev = &v->kept[(v->first + v->n++) % EVENTS_KEPT];
    *ev = (struct event){.seq = row->seq, .frame = xstrndup(b.p, b.n), .n = b.n};
    memcpy(ev->model, row->model, sizeof(ev->model));
    buf_done(&b);
    v->bytes += ev->n;
    while (v->bytes > EVENTS_KEPT_MAX) {
        drop_oldest(v);
    }
}

static void on_tell(struct hook *h)
{
    struct events *v = CONTAINER_OF(h, struct events, tell);

    for (struct events_reader *r = v->readers; r; r = r->next) {
        if (r->live && r->held_up && !r->over) { /* since an earlier burst */
            log_warn("api", "a client that follows the events is too slow, it is cut off after_seq=%lld",
                     (long long)r->after);
            cut(r);
        }
        pump(v, r);
    }
}

void events_alive(struct events *v)
{
    for (struct events_reader *r = v->readers; r; r = r->next) {
        if (!r->held_up && !r->over) {
            give(r, STR(": keep-alive\n\n"));
        }
    }
}

static void on_alive(struct timer *t)
{
    struct events *v = CONTAINER_OF(t, struct events, alive);

    events_alive(v);
    timer_set(v->loop, t, loop_now(v->loop) + EVENTS_ALIVE_US);
}

struct events *events_new(struct loop *l, events_read_fn *read, void *ctx)
{
    struct events *v = xcalloc(1, sizeof(*v));

    v->loop = l;
    v->read = read;
    v->read_ctx = ctx;
    v->tell.fn = on_tell;
    v->alive.fn = on_alive;
    look(v, NULL);
    return v;
}

void events_free(struct events *v)
{
    if (!v) {
        return;
    }
    assert(!v->readers);
    loop_undefer(v->loop, &v->tell);
    timer_clear(v->loop, &v->alive);
    while (v->n > 0) {
        drop_oldest(v);
    }
    free(v);
}

/* ---- the store ---- */

static void read_home(struct task *t)
{
    events_read_done(CONTAINER_OF(t, struct events_read, back));
}

static void read_run(struct store *s, struct store_job *job)
{
    struct events_read *q = CONTAINER_OF(job, struct events_read, job);
    struct history_row *newest;
    size_t n;
    enum err_code rc = store_history(s, NULL, 0, 1, &newest, &n, &q->err);

    if (rc == ERR_OK) {
        q->newest = n > 0 ? newest->seq : 0;
        history_done(newest, n);
    }
    if (rc == ERR_OK && q->limit > 0) {
        rc = store_history_after(s, q->model[0] ? q->model : NULL, q->after, q->limit, &q->rows, &q->n, &q->err);
    }
    q->err.code = rc;
    loop_post(q->home, &q->back);
}

void events_read_store(void *ctx, struct events_read *q)
{
    q->job.run = read_run;
    q->back.fn = read_home;
    store_post(ctx, &q->job);
}
