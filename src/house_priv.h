/* SPDX-License-Identifier: Apache-2.0 */
/* The house inside: what house.c, which joins the rooms and serves, and house_embed.c, which does so for an application
 * in its own process, share, and nobody else. */
#ifndef WEIR_HOUSE_PRIV_H
#define WEIR_HOUSE_PRIV_H

#include <pthread.h>

#include "api/admin.h"
#include "api/data.h"
#include "house_conf.h"
#include "net/http_local.h"

struct conn_thread { /* a connection thread */
    struct shard shard;
    struct loop *loop;
    struct plane plane;
    struct data_facts facts;
    struct http_service service;
    struct http_listener *listener; /* NULL in an application: there it is local */
    struct http_local *local;
    struct task drain, drained, cut;
    struct house *house;
    pthread_t thread;
    bool started;
};

struct house {
    struct house_conf conf;
    struct loop *loop; /* control */
    struct store *store;
    struct control *control;
    struct events *events;
    struct webhook *webhook;
    struct capture *capture;
    struct conn_thread *threads;
    struct shard **shards;
    struct plane **planes;
    struct plane admin_plane;
    struct admin_facts admin_facts;
    struct http_service admin_service;
    struct http_listener *admin_listener;
    struct http_local *admin_local;
    struct http_limits limits, admin_limits;
    _Atomic uint32_t data_connections, admin_connections;
    struct watch signals, parent;
    struct timer drain_limit;
    unsigned undrained; /* listeners */
    bool stopping, closing;
    char *program; /* of worker processes; NULL: this one */
    uint64_t began_us;
    int status;
};

/* Everything but what is outside: signals, listeners. Where it fails, house_take_down. */
enum err_code house_build_rooms(struct house *h, struct err *e) MUST_USE;
enum err_code house_build_webhook(struct house *h, struct err *e) MUST_USE;
enum err_code house_start_threads(struct house *h, struct err *e) MUST_USE;
/* Stops the control loop: for control_stop. */
void house_stop_loop(void *ctx);
/* Ends the threads and frees everything that was built, of a house that is not wholly built too. */
void house_take_down(struct house *h);

#endif
