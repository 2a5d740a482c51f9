/* SPDX-License-Identifier: Apache-2.0 */
/* Calls over HTTP/1.1 that nobody waits for: one thread with one loop carries all of a handle's flights, each on a
 * connection that is its own for so long; flights beyond the connections wait in line.
 *
 * A connection that was kept and proves to be closed before a byte was sent is replaced; a request that the server may
 * have seen is not repeated.
 *
 * Thread: any, where it says nothing else; `done` of a flight comes on the courier's own, which takes no signals. Names
 * of hosts are looked up on it. */
#ifndef WEIR_CLIENT_COURIER_H
#define WEIR_CLIENT_COURIER_H

#include "client/place.h"
#include "net/loop.h"

#define COURIER_CONNECTIONS 64

struct courier;

/* Starts the thread. *out is the caller's. ERR_INVALID: no address; ERR_UNAVAILABLE: no thread, no descriptors. */
enum err_code courier_new(struct courier **out, const char *url, struct err *e) MUST_USE;
/* Ends all flights with ERR_CANCELLED, then the thread. Blocks. NULL is fine. */
void courier_free(struct courier *c);
/* The flight's memory is the courier's until done. */
void courier_start(struct courier *c, struct flight *f);
void courier_cancel(struct courier *c, uint64_t id);

/* ---- for who lives on the courier's thread; these by that thread only, or before its first flight ---- */
struct loop *courier_loop(const struct courier *c);
/* While it is held no flight begins, but the one that goes by `past`. */
void courier_hold(struct courier *c, bool hold);
void courier_past(struct courier *c, struct flight *f);

#endif
