/* SPDX-License-Identifier: Apache-2.0 */
/* GET /admin/events: the events as they happen, as a stream that ends only when somebody leaves; and what became of
 * those that went to the webhook.
 *
 * The stream is both a ticket of its request and a reader of the hub; it dies with the request.
 *
 * Thread: control's loop. */
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

#define WAITING_MAX (256u << 10) /* bytes, of one client */

struct event_stream {
    struct ticket ticket;
    struct events_reader reader;
    struct http_ex *x;
};

static bool stream_write(struct events_reader *r, struct str piece)
{
    return http_stream_write(CONTAINER_OF(r, struct event_stream, reader)->x, piece);
}

static void stream_cut(struct events_reader *r)
{
    http_stream_cut(CONTAINER_OF(r, struct event_stream, reader)->x);
}

static void stream_drained(struct http_ex *x)
{
    struct request *r = x->user;
    struct event_stream *s = CONTAINER_OF(r->state, struct event_stream, ticket);

    events_drained(&s->reader);
}

static void stream_left(struct ticket *t)
{
    struct event_stream *s = CONTAINER_OF(t, struct event_stream, ticket);

    events_close(&s->reader);
    free(s);
}

/* Where the client was: it says so itself when it comes back, and then what its first address said is out of date. */
static enum err_code read_place(const struct request *r, const struct parameter *after, int64_t *out, struct err *e)
{
    struct str last = http_header(r->x, "last-event-id");
    uint64_t v = 0;

    if (!last.p || last.n == 0) {
        if (after->value.p) {
            enum err_code rc = read_number(after, 0, INT64_MAX, &v, e);

            *out = (int64_t)v;
            return rc;
        }
        return ERR_OK;
    }
    if (!str_u64(last, &v) || v > INT64_MAX) {
        return err_set(e, ERR_INVALID, "Last-Event-ID '%.*s' is no event's id: that is a whole number",
                       (int)MIN(last.n, (size_t)40), last.p);
    }
    *out = (int64_t)v;
    return ERR_OK;
}

void admin_events(struct request *r)
{
    static const struct http_stream kind = {.max = WAITING_MAX, .endless = true, .drained = stream_drained};
    struct parameter q[] = {{.name = "after"}, {.name = "model"}};
    struct event_stream *s = xcalloc(1, sizeof(*s));
    struct err e;

    s->x = r->x;
    s->reader.write = stream_write;
    s->reader.cut = stream_cut;
    s->reader.after = -1;
    if (read_query(r->x, q, COUNT_OF(q), &e) != ERR_OK || read_place(r, &q[0], &s->reader.after, &e) != ERR_OK) {
        goto fail;
    }
    if (q[1].value.p && !name_ok(q[1].value)) { /* of a model that is still to come, too */
        err_set(&e, ERR_INVALID, "'model=%.*s' in the query is not a name", (int)MIN(q[1].value.n, (size_t)100),
                q[1].value.p);
        goto fail;
    }
    str_copy(s->reader.model, sizeof(s->reader.model), q[1].value);
    if (events_full(admin_facts(r)->events, &e)) {
        goto fail;
    }
    http_reply_begin(r->x, 200, "text/event-stream");
    http_reply_header(r->x, "Cache-Control", STR("no-store"));
    http_reply_header(r->x, "X-Accel-Buffering", STR("no"));
    ticket_open(&s->ticket, r, stream_left);
    http_stream_begin(r->x, &kind);
    events_open(admin_facts(r)->events, &s->reader);
    return;
fail:
    reply_err(r, &e);
    free(s);
}

void admin_deliveries(struct request *r)
{
    struct buf *b = json_reply(r, 200);

    webhook_json(b, admin_facts(r)->webhook);
    http_reply_end(r->x);
}
