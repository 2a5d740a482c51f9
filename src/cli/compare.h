/* SPDX-License-Identifier: Apache-2.0 */
/* A rollout's two arms side by side, and one sentence about them.
 *
 * The sentence says what the numbers are, not what they prove: it compares what was counted, names how much was
 * counted, and draws no conclusion about users who did not come.
 *
 * Thread: any; pure functions of the server's JSON (GET /admin/models/{m}/rollout). */
#ifndef WEIR_CLI_COMPARE_H
#define WEIR_CLI_COMPARE_H

#include <yyjson.h>

#include "base/buf.h"

/* The table of both arms with differences; whole: with the class mix and what is rarely looked at. */
void compare_table(struct buf *out, yyjson_val *root, bool whole, bool colour);
/* The sentence alone, without a line end. */
void compare_verdict(struct buf *out, yyjson_val *root);
/* One line for a log: state, phase, step, verdict, and of each arm share, requests, errors, p95, accuracy. */
void compare_line(struct buf *out, yyjson_val *root);

#endif
