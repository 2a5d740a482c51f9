/* SPDX-License-Identifier: Apache-2.0 */
/* The walls around a worker: what a hostile model can reach when it has taken over the process. Nothing but its own
 * folder and the runtime's read-only files; no write, no socket, no new process, no signal to others.
 *
 * Landlock restricts paths (and TCP), seccomp restricts system calls, no_new_privs keeps both from being shed.
 *
 * Thread: the main thread before any other is started; all later threads inherit it. Can not be undone. */
#ifndef WEIR_BACKENDS_WORKER_SANDBOX_H
#define WEIR_BACKENDS_WORKER_SANDBOX_H

#include <stdbool.h>

#include "base/err.h"

/* dirfd: the version's folder, readable. gpu: its device files too (sandbox_gpu.h). ERR_UNAVAILABLE when the kernel has
 * no seccomp, or no Landlock and `strict` or `gpu`. A kernel without Landlock gives a weaker sandbox otherwise; *weak
 * says so. */
enum err_code sandbox_enter(int dirfd, bool gpu, bool strict, bool *weak, struct err *e) MUST_USE;
/* ERR_UNAVAILABLE, and which, when this kernel lacks one of the walls. Changes nothing; any thread. */
enum err_code sandbox_check(struct err *e) MUST_USE;
/* Landlock's ABI version on this kernel; 0: none. */
int sandbox_landlock_abi(void);

#endif
