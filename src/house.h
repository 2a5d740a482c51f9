/* SPDX-License-Identifier: Apache-2.0 */
/* The house: the only file that knows every room. It reads the configuration, joins the rooms' tables, builds threads,
 * planes and listeners, runs until it is told to stop, and takes everything down in order.
 *
 * Thread: the main thread, which becomes the control thread. */
#ifndef WEIR_HOUSE_H
#define WEIR_HOUSE_H

/* `weir serve …`: argv[0] is "serve". Returns the exit status: 0 drained, 1 it could not serve, 2 called wrong. */
int house_serve(int argc, char **argv);
/* `weir worker`: the process that house_serve's worker engines start. */
int house_worker(void);

#endif
