/* SPDX-License-Identifier: Apache-2.0 */
/* The places http:// and weir://: an engine that is another server.
 *
 * A thread that may block (the errand) finds the far side's addresses, its model's description, and out whether it is
 * alive; connection threads speak to it, each over its own HTTP/1.1 connections on its own loop.
 *
 *     open      resolves the name, asks for the model's inputs and outputs. A far side that does not answer is asked
 *               again for ten seconds, then the load fails with ERR_UNAVAILABLE; one that answers and has no such model
 *               fails at once.
 *     jobs      go to one of its addresses (target.h). What is refused a connection, or loses it before a reply came,
 *               goes to another address or waits for it to come back, within its deadline and the budget of retries.
 *               Its deadline goes along; when it passes, or the job is cancelled, the connection is closed, by which a
 *               Weir on the other side stops working for it.
 *     its end   A far side that is away for a moment is not the engine's end: jobs wait. One that nobody can reach for
 *               two seconds, or that takes connections and answers nothing for five, is: every open job comes back
 *               lost, and who restarts the engine finds out anew what the far side is by then (another address, another
 *               model, a version that it has to be given again). It never is an own death: whose fault the end of
 *               another host was can not be seen from here.
 *
 * ready's info says joins false, for what the far side does with its requests is its own matter; batch_max says how
 * many jobs may wait there. A result's compute_ns is the time from sending to the answer, joined how many were out with
 * it.
 *
 * Thread: as engine.h says. */
#ifndef WEIR_BACKENDS_REMOTE_REMOTE_H
#define WEIR_BACKENDS_REMOTE_REMOTE_H

#include "inference/engine.h"

/* engine_spec.far says where. */
extern const struct engine_ops remote_engine;

/* The far side's state for people: "http://vision:8000: 2 of 3 addresses up". False: it is no engine of this kind.
 * Control thread. */
bool remote_say(const struct engine *g, char *text, size_t cap);

#endif
