/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps a private server alive: when it ends without having been told to, it is started again, at once the first time,
 * then after a pause that doubles with each end that came soon (100 ms to 5 s). Flights are held until it is ready.
 *
 * Thread: it lives on the courier's; keeper_wait by any. */
#ifndef WEIR_CLIENT_KEEPER_H
#define WEIR_CLIENT_KEEPER_H

#include "client/courier.h"
#include "client/spawn.h"

struct keeper;

/* s: ready, and the keeper's to look at and start again until keeper_free. The caller's. */
struct keeper *keeper_new(struct courier *c, struct spawn *s);
/* When the courier is gone. NULL is fine. */
void keeper_free(struct keeper *k);
/* How often the server has been found ready: counts up at each start. */
uint64_t keeper_count(struct keeper *k);
/* Waits until the server is ready and, if count is not 0, was started again since that count; while it seems to run,
 * only until `notice` for its end to be seen. until, notice: clock_us(). ERR_UNAVAILABLE: it is not, and why. */
enum err_code keeper_wait(struct keeper *k, uint64_t count, uint64_t notice, uint64_t until, struct err *e) MUST_USE;

#endif
