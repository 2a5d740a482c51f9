/* SPDX-License-Identifier: Apache-2.0 */
/* An engine that computes nothing worth it and dies on command: for tests of everything above engine.h.
 *
 * It behaves as a stub does (its done() comes later, from the port's loop; a death gives jobs back as lost), and it is
 * strict where engine.h is: a second close, a detach with open jobs, an attach too many abort the test. Two models,
 * chosen by what the name begins with, the same as those that make_models.py makes:
 *
 *     add/…   a, b FP32 [n,4] → c = a + b, d = a - b   (joins)
 *     spin/…  x FP32 [n,4], trips INT64 [] → y = x after trips times 2 us   (x alone has rows: never joins)
 *
 * Thread: any; the script and the commands may be used from all of them. */
#ifndef WEIR_TESTS_SUPPORT_FAKE_ENGINE_H
#define WEIR_TESTS_SUPPORT_FAKE_ENGINE_H

#include <stdatomic.h>

#include "inference/engine.h"

extern const struct engine_ops fake_engine;

/* What the engines do from now on. Set by fake_reset to what stands behind each. */
struct fake_script {
    _Atomic unsigned capacity;         /* 256: jobs that a port takes */
    _Atomic uint64_t run_us, ready_us; /* 0: a run takes, and a load takes */
    _Atomic unsigned fail_open;        /* 0: how many opens fail from now on */
    _Atomic unsigned fail_load, fail_attach;
    _Atomic bool hold;                /* false: runs begin, but do not end */
    _Atomic bool ready_despite_close; /* false: the ready of a load is told even after a close, against the rules */
    _Atomic bool narrow;              /* false: engines opened from now on give only c (their info differs) */
    _Atomic uint32_t batch_max;       /* 0: the spec's; else what the info claims */
    _Atomic int poison; /* 0: a run with a job whose first value this is ends the engine by its own doing */
};
extern struct fake_script fake;

void fake_reset(void); /* asserts that no engine lives */
/* Engines are numbered in the order of their opening since fake_reset. */
void fake_kill(unsigned nth, bool own);
void fake_go(void); /* ends the hold */
bool fake_alive(unsigned nth);

struct fake_counts {
    unsigned opened, living, closes, cancels;
    uint64_t runs, submits;
};
struct fake_counts fake_counts(void);
/* The first values of the jobs submitted so far, in order, and to which engine. Returns how many; at most 4,096 are
 * kept. */
struct fake_seen {
    unsigned nth, port;
    float value;
    uint32_t flags;
    char origin[33]; /* the request's id; "": nobody's */
};
size_t fake_log(struct fake_seen *out, size_t max);
void fake_log_clear(void);

#endif
