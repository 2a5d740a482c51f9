/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of control: a control with a real store, fake engines and connection threads that are the test's own loop.
 * The store can be held (it writes nothing until it is let go) and broken (every write fails until it is mended).
 *
 * Thread: the test's. */
#ifndef WEIR_TESTS_SUPPORT_CONTROL_RIG_H
#define WEIR_TESTS_SUPPORT_CONTROL_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "control/control.h"

#define SHARDS 2
#define MODEL STR("add")
#define WAIT(cond)                                                                       \
    do {                                                                                 \
        uint64_t until_ = clock_us() + SECONDS(30);                                      \
        while (!(cond)) {                                                                \
            if (clock_us() > until_) {                                                   \
                fail_msg("line %d: this did not come within 30 s: %s", __LINE__, #cond); \
            }                                                                            \
            loop_once(rig.loop, 5);                                                      \
        }                                                                                \
    } while (0)

extern struct control_rig {
    char *folder;
    struct loop *loop;
    struct store *store;
    struct control *control;
    struct shard shard[SHARDS], *shards[SHARDS];
    struct family family;
    void (*told)(void *ctx, const struct history_row *row); /* for the next open_control */
    bool ready, closed;
} rig;

/* For cmocka: a fresh store, and a control that is ready. */
int rig_setup(void **state);
int rig_teardown(void **state);
void open_control(void);  /* on the same store */
void close_control(void); /* all that it has begun ends before */
void run_dry(void);       /* what the store still does, and what follows from it */
void on_closed(void *ctx);

void store_hold(void); /* from here on nothing is written */
void store_go(void);
void store_broken(void); /* every write fails, */
void store_mended(void); /* and none any more */

/* ---- what is asked for ---- */
struct answer {
    unsigned n;
    struct err err;
    int64_t number;
    bool durable;
};
void answered(void *ctx, const struct err *e);
void rolled_back(void *ctx, const struct rollback_result *r, const struct err *e);
const struct rollout_policy *manual(uint32_t share_bp);
/* policy NULL: none is started */
void push_start(struct answer *a, const char *bytes, const struct rollout_policy *policy);
void push_ok(const char *bytes, int64_t number);
struct answer rollout_start(int64_t number, const struct rollout_policy *policy, bool retry); /* waits */
void rollout_ok(int64_t number);                                                              /* by hand, 10 % */
void promote_ok(int64_t number);
struct model *model(void);

#endif
