/* SPDX-License-Identifier: Apache-2.0 */
/* A private server of the application's own: started as a child process, ended with it.
 *
 * The parent keeps the writing end of a pipe open and the server was told its reading end (--parent-fd): the kernel
 * closes it however the parent ends, and the server leaves when it reads the end of it. (PDEATHSIG would fire when the
 * thread that called weir_open ends.) The child is in a process group of its own, so that Ctrl-C at the terminal
 * reaches the application, which closes it in order.
 *
 * Thread: one at a time for each. Blocks. */
#ifndef WEIR_CLIENT_SPAWN_H
#define WEIR_CLIENT_SPAWN_H

#include "base/base.h"
#include "base/err.h"

struct spawn;

/* The program `weir`, the caller's to free: $WEIR_BINARY, the one beside this library, or without a '/': to be looked
 * up in $PATH. */
char *spawn_program(void);

/* Starts `weir serve` with this configuration file ("" for none) and waits until it is ready, at most limit_us. *out is
 * the caller's. ERR_NOT_FOUND: no program; ERR_UNAVAILABLE: it ended first; ERR_TIMEOUT; ERR_STORAGE: no temporary
 * folder. */
enum err_code spawn_open(struct spawn **out, const char *config, uint64_t limit_us, struct err *e) MUST_USE;
const char *spawn_url(const struct spawn *s);   /* "unix:/…/data.sock" */
const char *spawn_admin(const struct spawn *s); /* "unix:/…/admin.sock" */
/* A descriptor that is readable when the server has ended; the caller's. -1 with errno. */
int spawn_watch(const struct spawn *s);
/* True when it has ended; `how` is then "was ended by signal 9" or "ended with status 1". Does not block. */
bool spawn_ended(struct spawn *s, char *how, size_t cap);
/* Starts it again after it has ended, and does not wait until it is ready. */
enum err_code spawn_again(struct spawn *s, struct err *e) MUST_USE;
/* Lets it finish, at most 10 s, and removes its folder. NULL is fine. */
void spawn_close(struct spawn *s);

#endif
