/* SPDX-License-Identifier: Apache-2.0 */
/* Events: what happens to models, told to whoever listens. One event is one durable line of history.
 *
 * The hub keeps the last events as they go out (server-sent events: id, event, data). A reader has a place in history:
 * it gets everything after it, first from the store as long as it is behind what the hub keeps, then from the hub, then
 * as it happens, without a gap and nothing twice. It takes as much as its client takes: while it catches up it is
 * waited for; once it has caught up, one whose client has not taken what waited for it by the next event is cut off (it
 * comes back and says where it was).
 *
 * Lines are told in the order of their seq (control tells them when they are durable; the store gives seq in that
 * order).
 *
 * Thread: control's loop. */
#ifndef WEIR_API_EVENTS_H
#define WEIR_API_EVENTS_H

#include "control/control.h"
#include "net/loop.h"

enum {
    EVENTS_KEPT = 1024,        /* by the hub */
    EVENTS_KEPT_MAX = 4 << 20, /* … in bytes */
    EVENTS_READERS = 64,
    EVENTS_PIECE = 32, /* lines of one look into the store */
};
#define EVENTS_ALIVE_US SECONDS(15)

/* A look into the store. */
struct events;
struct events_reader;
struct events_read {
    char model[NAME_MAX_LEN + 1]; /* "": all */
    int64_t after;
    size_t limit; /* 0: no lines, only newest */
    /* the answer */
    struct history_row *rows; /* oldest first; the hub calls history_done */
    size_t n;
    int64_t newest; /* of all lines, when the rows were read; 0: there is none */
    struct err err;
    /* private */
    struct events *hub;
    struct events_reader *reader; /* NULL: it has left */
    struct loop *home;
    struct store_job job;
    struct task back;
};
/* Starts a look; events_read_done ends it, on the hub's loop, not within the call. */
typedef void events_read_fn(void *ctx, struct events_read *q);
void events_read_done(struct events_read *q);
/* The usual one; ctx: a struct store. */
events_read_fn events_read_store;

/* Asks at once which line is the newest: make it before control, so that nothing is told before the answer is here. */
struct events *events_new(struct loop *l, events_read_fn *read, void *ctx);
void events_free(struct events *v); /* no reader is open any more; NULL is fine */
/* To be called for every line, as control_ops.told is. */
void events_told(struct events *v, const struct history_row *row);
/* What its timer does every 15 s: a sign of life for those who have nothing waiting. */
void events_alive(struct events *v);

struct events_reader {
    /* The owner's, set before events_open. */
    bool (*write)(struct events_reader *r, struct str piece); /* false: not taken; events_drained follows */
    void (*cut)(struct events_reader *r); /* events_close follows, not within the call; nothing is written any more */
    char model[NAME_MAX_LEN + 1];         /* "": all */
    int64_t after;                        /* the last seq that it knows; -1: from now on */
    /* private */
    struct events *hub;
    struct events_reader *prev, *next;
    struct events_read *reading;
    bool sure;    /* `after` is known to be a place in this history */
    bool held_up; /* a piece was refused */
    bool live;    /* it has caught up */
    bool over;    /* it was cut off */
};
/* True: ERR_UNAVAILABLE, there are EVENTS_READERS already. */
bool events_full(const struct events *v, struct err *e);
void events_open(struct events *v, struct events_reader *r); /* calls write; not when it is full */
void events_drained(struct events_reader *r);
void events_close(struct events_reader *r);

/* ---- how a line is written ---- */
/* "rollout.step", "version.pushed"; of a kind that is not in the table: "history.KIND". */
void event_type(struct buf *out, const char *kind);
/* {"seq","at","model","version","kind","actor","text","serving","evidence"}: one line, however the texts were written.
 * Without serving and evidence where both do not fit into out (more than EVENT_BYTES, or no memory). */
#define EVENT_BYTES (1u << 20)
void event_json(struct buf *out, const struct history_row *row);

#endif
