/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of restarting: what to do when an instance ends. Pure over (state, event, now); pool.c acts on the answers.
 *
 * Only own deaths count against a version: a signal it raised, an abort, a non-zero exit, its memory limit, a hang. A
 * kill from outside is mended at once. Own deaths are mended with backoff: 0.1 s, doubled to 30 s, jitter ±20 %, begun
 * anew after 60 s without one (Erlang's restart intensity, systemd's StartLimit). Five own deaths in 60 s make it sick.
 *
 * Thread: control. */
#ifndef WEIR_INFERENCE_SUPERVISOR_H
#define WEIR_INFERENCE_SUPERVISOR_H

#include "base/base.h"

#define SUPERVISOR_DEATHS 5
#define SUPERVISOR_WINDOW_US 60000000ull
#define SUPERVISOR_PRODUCTIVE 20 /* answered jobs that make a version productive */

struct supervisor {
    uint64_t death_us[SUPERVISOR_DEATHS]; /* ring of the last own deaths; 0: none */
    unsigned next;
    unsigned in_a_row; /* own deaths since the last quiet 60 s */
    uint64_t restarts; /* all of them */
};
struct supervisor_answer {
    uint64_t restart_at_us;
    bool sick; /* five own deaths in 60 s, this one included */
};
/* jitter: uniform in [0, 1). now_us: clock_us(). */
struct supervisor_answer supervisor_died(struct supervisor *s, bool own, uint64_t now_us, double jitter);

#endif
