/* SPDX-License-Identifier: Apache-2.0 */
/* The limit on a worker's memory: a cgroup of its own where the server may make one, else RLIMIT_DATA.
 *
 * cgroup v2 (delegated): the server's own cgroup must be writable and have the memory controller. Each worker gets a
 * leaf weir-PID-N with memory.max, no swap and memory.oom.group; memory.events tells a death at the limit from a
 * SIGKILL that somebody sent. memory.high stays unset: it slows a process down without end instead of ending it. A
 * cgroup with processes may not hand out its controllers, so a server that is alone in its cgroup first moves itself
 * into a leaf, weir-PID-server (docs.kernel.org: admin-guide/cgroup-v2, "No Internal Process Constraint").
 *
 * RLIMIT_DATA (setrlimit(2)) counts a process's private writable memory, as reserved and not as used; the limit is put
 * on top of what the runtime's library took, and of room for the threads' stacks. An allocation over it fails: the
 * model gets an error, or aborts.
 *
 * Thread: control, except where it says otherwise. */
#ifndef WEIR_BACKENDS_WORKER_LIMITS_H
#define WEIR_BACKENDS_WORKER_LIMITS_H

#include <sys/types.h>

#include "base/base.h"
#include "base/err.h"

#define LIMITS_TREE "/sys/fs/cgroup"
#define LIMITS_SELF "/proc/self/cgroup"

/* Finds out which of the two it will be, and removes leaves whose server is gone. Once, before any worker is started;
 * tests give a folder that looks like a tree of cgroups. */
void limits_start(const char *tree, const char *self);
/* Takes the server out of its own leaf again. When no worker is left. */
void limits_stop(void);
/* True: cgroups. In words, for people. */
bool limits_say(char *text, size_t cap);

struct cage {       /* a worker's cgroup */
    char path[256]; /* "": none */
};
/* Puts a process that has not begun yet into a cgroup with that limit. False: it must hold itself to it. */
bool cage_open(struct cage *c, pid_t pid, uint64_t bytes);
bool cage_full(const struct cage *c); /* the kernel ended it for its memory. Any thread */
void cage_close(struct cage *c);      /* when the process has been reaped */

/* In the worker, when its libraries are loaded: at most so many bytes more than now, and stacks for so many threads. */
enum err_code limits_own(uint64_t bytes, unsigned threads, struct err *e) MUST_USE;

/* Who set a limit, for messages. */
#define LIMITS_WHENCE " (memory: of the family, else what the server's budget had left)"
/* "256 MiB", exact. */
#define LIMITS_TEXT 32
void limits_text(char out[LIMITS_TEXT], uint64_t bytes);

#endif
