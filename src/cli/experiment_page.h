/* SPDX-License-Identifier: Apache-2.0 */
/* An experiment on one page of a terminal: may it be shipped, and why not?
 *
 * From top to bottom: which versions, since when and until when; what the goal says, with the interval of the
 * difference on a line about 0; the guardrails; the split of the users; both arms beside each other; and what may be
 * typed now. 80 columns. Of an invalid experiment the server tells no result, and none is shown.
 *
 * Thread: any; pure functions of the server's JSON (GET /admin/models/{m}/experiment). */
#ifndef WEIR_CLI_EXPERIMENT_PAGE_H
#define WEIR_CLI_EXPERIMENT_PAGE_H

#include "cli/guardrails.h"

void experiment_page(struct buf *out, yyjson_val *root, const struct page_style *s);
/* A difference and its interval on a line of 37 characters about 0, which ends at +-*most (what they need, rounded
 * up), with a mark at 0: ····│··├──●──┤·· Not finite: an empty line. */
void difference_show(struct buf *out, double low, double mid, double high, double *most, const struct page_style *s);

#endif
