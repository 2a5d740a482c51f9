/* SPDX-License-Identifier: Apache-2.0 */
/* What two versions answered differently, for a person: how many pairs agree and how that stands to the noise floor, by
 * kind of output; times; what the labels say; which classes went where; the largest differences.
 *
 * Shared by `weir shadow status` and `weir backtest`. 80 columns but for the last table, whose texts are the models'.
 *
 * Thread: any; pure functions of JSON (DIFF: base/diff_json.c). */
#ifndef WEIR_CLI_DIFF_PAGE_H
#define WEIR_CLI_DIFF_PAGE_H

#include <yyjson.h>

#include "base/buf.h"

struct diff_view {
    const char *stable, *candidate; /* how the two are called: "version 1", "recorded" */
    yyjson_val *diff, *noise;       /* noise NULL: there is no floor */
    yyjson_val *times;              /* {"stable": {"n", "p50", "p95"}, "candidate": {…}} */
    const char *times_of;           /* "run", "answer" */
    bool colour;
};
void diff_page(struct buf *out, const struct diff_view *v);

#endif
