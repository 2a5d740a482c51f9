/* SPDX-License-Identifier: Apache-2.0 */
/* Where a handle's requests go: a server at an address, a private server, or the house inside this process. One table
 * of calls each; above it nothing knows which it is.
 *
 * A request is HTTP in parts (method, path, header lines, pieces of a body) and its answer a struct http_answer,
 * whether bytes go over a wire or not: so errors and results are the same everywhere.
 *
 * Thread: any, side by side, but close. */
#ifndef WEIR_CLIENT_PLACE_H
#define WEIR_CLIENT_PLACE_H

#include "client/http_client.h"
#include "net/loop.h"

enum side { SIDE_DATA, SIDE_ADMIN }; /* which of the server's two listeners */

struct place_call {
    enum side side;
    const char *method, *path;
    struct str headers; /* "Name: value\r\n" lines */
    const struct iovec *body;
    int n_body;
    const struct http_source *source; /* in place of body; NULL: none. Read on the thread of `call` */
    uint64_t timeout_us;              /* 0: none */
};

/* A call that nobody waits for. It and what it points at stay where they are until `done`. */
struct flight {
    struct place_call call; /* without a source */
    uint64_t id;            /* the caller's, never twice; for cancel */
    struct http_answer answer;
    struct err err; /* code ERR_OK: there is an answer */
    /* Once, on a thread of the place's own, which it must not hold up. The place has forgotten the flight by then. */
    void (*done)(struct flight *f);
    uint64_t deadline_us; /* clock_us(); 0: none. Set by the caller, as call.timeout_us says */
    /* the place's */
    struct flight *next;
    struct timer limit;
    void *home, *on;
};

struct place {
    const struct place_ops *ops;
};
struct place_ops {
    /* Sends, and waits for the answer. */
    enum err_code (*call)(struct place *p, const struct place_call *q, struct http_answer *a, struct err *e);
    /* ERR_OK: done will come, from somewhere else than inside this call. */
    enum err_code (*start)(struct place *p, struct flight *f, struct err *e);
    /* A wish: the flight with that id ends soon, with ERR_CANCELLED if it has not ended yet. */
    void (*cancel)(struct place *p, uint64_t id);
    /* Ends what still flies (done comes, before this returns), then frees it. Blocks. */
    void (*close)(struct place *p);
};

/* ---- place_http.c ---- */
/* url: "http://HOST:PORT", "weir://HOST[:PORT]", "unix:/PATH". Does not connect. *out is the caller's. */
enum err_code place_http_open(struct place **out, const char *url, struct err *e) MUST_USE;
/* A private server (spawn.h), watched: it is started again when it ends by itself. Blocks until it is ready. */
enum err_code place_spawn_open(struct place **out, const char *config, struct err *e) MUST_USE;

/* ---- src/inproc.c, which also knows the house ---- */
/* The house inside this process. config: path of its file, "": none. Blocks until its models are loaded, at most 60 s.
 */
enum err_code place_inproc_open(struct place **out, const char *config, struct err *e) MUST_USE;

#endif
