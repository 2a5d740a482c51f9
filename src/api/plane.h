/* SPDX-License-Identifier: Apache-2.0 */
/* A plane: one route table and what its handlers need, served by listeners. There are two, data (a listener on every
 * connection thread) and admin (one on the control thread).
 *
 * A request is matched against the table on its headers: unknown path 404, known path with another method 405 (Allow
 * says which), access refused 401/403, body above the route's limit 413. All checks hang on the row that was found,
 * never on the path's text. Path parameters are decoded once ({model}, {version}) and checked as names.
 *
 * A handler is either simple (`run`: called when the whole body is in) or a set of stages, for bodies that are not to
 * be buffered.
 *
 * Thread: the loop of the listener that got the request. */
#ifndef WEIR_API_PLANE_H
#define WEIR_API_PLANE_H

#include "control/control.h"
#include "inference/shard.h"
#include "net/http.h"

struct plane;
struct request {
    struct http_ex *x;
    struct plane *plane;
    const struct api_route *route;
    struct str arg[2]; /* the path's parameters, in order; p == NULL beyond */
    struct buf body;   /* simple handlers: the whole body */
    void *state;       /* the handler's */
    bool pending;      /* a simple handler that replies later sets it (and keeps the request until `finished`) */
};

struct api_route {
    const char *method;  /* "GET" (HEAD goes with it), "POST" */
    const char *pattern; /* "/v2/models/{model}/versions/{version}/infer" */
    void (*run)(struct request *r);
    const struct api_stages *stages; /* instead of run */
    uint64_t max_body;               /* 0: the plane's limit */
    const char *help;                /* one line, for documentation */
};
struct api_stages {
    void (*headers)(struct request *r);
    void (*body)(struct request *r, const char *p, size_t n);
    void (*complete)(struct request *r);
};
struct plane {
    const char *name; /* "data", "admin" */
    const struct api_route *routes;
    size_t n_routes;
    void (*finished)(struct request *r); /* before the request's memory goes: lets go of r->state; may be NULL */
    /* Access, for the row that was found: ERR_OK, or UNAUTHENTICATED / FORBIDDEN with the reason. May be NULL. */
    enum err_code (*access)(struct plane *p, const struct http_ex *x, const struct api_route *row, struct err *e);
    struct control *control;
    struct router *router;
    struct shard *shard; /* data: this thread's; admin: NULL */
    const void *facts;   /* the plane's own: struct admin_facts, struct data_facts */
    uint64_t max_body;   /* for rows without a limit of their own; 0: the listener's is the only one */
    /* private */
    struct request *free; /* pool, chained by their state */
    unsigned n_free;
    struct timer watch;  /* data: see judge_watch */
    struct map by_first; /* rows by number of segments and first segment: an index for the match */
};
void plane_init(struct plane *p); /* after the public fields are filled */
void plane_done(struct plane *p);
/* The http_service to give to listeners of this plane; valid as long as p. */
struct http_service plane_service(struct plane *p);

/* For handlers. */
void reply_json(struct request *r, int status, const struct buf *body);
void reply_err(struct request *r, const struct err *e);

#endif
