/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that take part in a rollout and do not end: a version that hangs must be seen before its requests run into
 * their deadlines. Each thread looks through its own open ones. */
#include "api/data.h"
#include "base/clock.h"

#define WATCH_US MILLIS(250)

static void on_watch(struct timer *t)
{
    struct plane *p = CONTAINER_OF(t, struct plane, watch);
    uint64_t now = clock_us();
    const struct route *route;
    bool any = false;

    for (size_t i = 0; (route = router_next(p->router, &i)) != NULL;) {
        if (route->tally) {
            tally_scan(route->tally, p->shard->index, now);
            any = true;
        }
    }
    if (any) {
        timer_set(p->shard->loop, t, now + WATCH_US);
    }
}

void judge_watch(struct plane *p)
{
    if (p->watch.slot == 0) {
        p->watch.fn = on_watch;
        timer_set(p->shard->loop, &p->watch, loop_now(p->shard->loop) + WATCH_US);
    }
}

void judge_unwatch(struct plane *p)
{
    timer_clear(p->shard->loop, &p->watch);
}
