/* SPDX-License-Identifier: Apache-2.0 */
/* The house: the only file that knows every room. It reads the configuration, joins the rooms' tables, builds threads,
 * planes and listeners, runs until it is told to stop, and takes everything down in order.
 *
 * Thread: the main thread, which becomes the control thread; an embedded house has one of its own for that. */
#ifndef WEIR_HOUSE_H
#define WEIR_HOUSE_H

#include "base/base.h"
#include "base/err.h"

/* `weir serve …`: argv[0] is "serve". Returns the exit status: 0 drained, 1 it could not serve, 2 called wrong. */
int house_serve(int argc, char **argv);
/* `weir worker`: the process that house_serve's worker engines start. */
int house_worker(void);

/* ---- inside an application's process (house_embed.c) ---- */

/* The same house with no listener, no signals and no exit: requests come in by the doors. It changes nothing of the
 * process (signal handlers, umask, folder, limits, cgroup), its threads take no signals, and it opens no socket but
 * those of workers and far places, if families have them. Several may be open; two on the same data are refused as two
 * servers would be. Its log goes to stderr; the level, one for the process, is the last one's. */
struct house;
struct loop;
struct http_local;
enum house_side { HOUSE_DATA, HOUSE_ADMIN };

/* config: path of a weir.yaml (house_conf_file), NULL: none. Blocks until every serving version is ready or has failed,
 * at most limit_us: then ERR_TIMEOUT. *out is the caller's. Any thread. */
enum err_code house_embed_open(struct house **out, const char *config, uint64_t limit_us, struct err *e) MUST_USE;
/* A loop to post a request to, in turn. On that loop, house_embed_door takes it; NULL: the house is closing. */
struct loop *house_embed_loop(struct house *h, enum house_side side, unsigned *door);
struct loop *house_embed_loop_of(struct house *h, enum house_side side, unsigned door);
struct http_local *house_embed_door(struct house *h, enum house_side side, unsigned door);
unsigned house_embed_doors(const struct house *h); /* of HOUSE_DATA; HOUSE_ADMIN has one */
/* Ends what is under way (its done is called), then everything; blocks. No loop is posted to any more. NULL is fine. */
void house_embed_close(struct house *h);

#endif
