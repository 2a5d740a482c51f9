/* SPDX-License-Identifier: Apache-2.0 */
/* The admin plane: its routes, its access rules, what it needs to know about the server.
 *
 * Access: with a token file every request needs "Authorization: Bearer …" (compared in constant time). Without one,
 * only a loopback or unix listener is allowed (house.c refuses others), and Host must be a loopback name and Origin, if
 * sent, the same host: a web page somewhere else can not reach it through a browser.
 *
 * Thread: control's loop. */
#ifndef WEIR_API_ADMIN_H
#define WEIR_API_ADMIN_H

#include "api/capture.h"
#include "api/events.h"
#include "api/plane.h"
#include "api/webhook.h"

struct admin_facts {
    char data_url[160], admin_url[160]; /* "http://127.0.0.1:8000" or "unix:/path" */
    const char *store_url, *artifacts;
    const char *config; /* path of weir.yaml, absolute; NULL: there is none */
    uint64_t drain_us;
    unsigned threads;
    struct plane *const *planes; /* data planes, of all threads: struct data_facts */
    char host[256];              /* of this machine; "": it has no name */
    bool inference;              /* the role */
    int64_t started_ms;
    char token[256];   /* "": tokenless */
    char host_ok[160]; /* the listener's own "host:port" */
    _Atomic uint32_t *data_connections, *admin_connections;
    int (*pid)(const struct engine *g); /* of a worker, 0: it has none (as control_ops.pid) */
    /* The state of the server that it stands for (as remote_say); false: it is no such engine */
    bool (*far)(const struct engine *g, char *text, size_t cap);
    const struct control *control;
    struct events *events;
    struct webhook *webhook; /* NULL: there is none */
    struct capture *capture;
    /* doctor's table, of all rooms */
    const struct check *checks;
    size_t n_checks;
};
struct check { /* one line of `weir doctor`; run on the control thread, must not block */
    const char *name;
    bool (*run)(const struct admin_facts *f, char *text, size_t cap, char *mend, size_t mend_cap);
};

extern const struct api_route admin_routes[];
extern const size_t n_admin_routes;
enum err_code admin_access(struct plane *p, const struct http_ex *x, const struct api_route *row, struct err *e);
void admin_finished(struct request *r);
/* The arms of a model's rollout as JSON (the "arms" member's value), also stored as evidence when it ends. */
void admin_arms_json(struct buf *out, const struct model *m);

#endif
