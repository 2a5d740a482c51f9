/* SPDX-License-Identifier: Apache-2.0 */
/* A shard: one connection thread's share of the inference room. It owns a loop and, for every version that is loaded,
 * the scheduler of that version on this thread. Versions are found by slot, a small number that a loaded version keeps
 * until it is unloaded.
 *
 * Thread: the shard's own. Other threads post tasks to its loop. */
#ifndef WEIR_INFERENCE_SHARD_H
#define WEIR_INFERENCE_SHARD_H

#include "net/loop.h"

#define VERSION_SLOTS 256 /* versions loaded at once, draining ones included */
#define SHARDS_MAX 64

struct sched;
struct shard {
    unsigned index;
    struct loop *loop;
    struct sched *sched[VERSION_SLOTS]; /* NULL: not loaded */
};

#endif
