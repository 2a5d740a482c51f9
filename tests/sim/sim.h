/* SPDX-License-Identifier: Apache-2.0 */
/* Simulated time: one virtual clock, one thread, many loops; all chance comes from one seed.
 *
 * sim.c stands, at link time, in the place of net/loop.c, base/clock.c, base/log.c and random_u64: the inference room's
 * own code runs unchanged on top of it (FoundationDB's way: the real code, a simulated world). A loop is a "thread":
 * each burst of it takes some virtual time and begins a little late, sometimes much too late, so that the bursts of
 * different loops come in another order with every seed. Nothing waits: the clock jumps to the next thing to do.
 *
 * The same seed gives the same run, event by event (sim_hash). What goes wrong ends the program after saying the
 * scenario, the seed and the last events; SIM_SEED=n runs that seed alone.
 *
 * Thread: one. Times: microseconds. */
#ifndef WEIR_TESTS_SIM_SIM_H
#define WEIR_TESTS_SIM_SIM_H

#include "base/base.h"
#include "net/loop.h"

/* A world begins and ends; between them no other. _end checks that no loop is left. */
void sim_begin(const char *scenario, uint64_t seed);
void sim_end(void);
uint64_t sim_hash(void); /* of every note so far */

/* One burst of the loop whose turn it is. False: nothing will ever happen again. */
bool sim_step(void);
void sim_until(uint64_t at_us); /* steps until the clock is there */
/* Frees a loop from inside of its own last burst. */
void sim_bury(struct loop *l);
/* How late a loop may begin a burst, and how long it may take, at most, but for stalls. */
#define SIM_LAG_US 40
#define SIM_STALL_US 4000

uint64_t sim_u64(void);
uint64_t sim_between(uint64_t least, uint64_t most); /* both possible */
bool sim_chance(double p);
double sim_unit(void);                 /* [0, 1) */
uint64_t sim_exponential(double mean); /* at least 1 */

/* An event, for the story told after a failure and for sim_hash; fmt takes up to four %llu. */
void sim_note(const char *fmt, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
#define SIM_NOTE4(fmt, a, b, c, d, ...) sim_note((fmt), (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d))
#define SIM_NOTE(...) SIM_NOTE4(__VA_ARGS__, 0, 0, 0, 0)
/* A rule is broken: says so, tells the story, aborts. */
void sim_fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
#define SIM_CHECK(cond, ...)       \
    do {                           \
        if (!(cond)) {             \
            sim_fail(__VA_ARGS__); \
        }                          \
    } while (0)

#endif
