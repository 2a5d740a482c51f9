/* SPDX-License-Identifier: Apache-2.0 */
/* A rollout on one page of a terminal, for a person who asks: may it go on, and why does it not?
 *
 * From top to bottom: which versions, where it is; the verdict; the guardrails; the split of the traffic; both arms
 * beside each other; what happens next, and when; and what may be typed now. 80 columns.
 *
 * Thread: any; pure functions of the server's JSON (GET /admin/models/{m}/rollout). */
#ifndef WEIR_CLI_ROLLOUT_PAGE_H
#define WEIR_CLI_ROLLOUT_PAGE_H

#include "cli/guardrails.h"

/* Where the rows are bounded, what matters least is left out until the rest fits. */
void rollout_page(struct buf *out, yyjson_val *root, const struct page_style *s);
/* The page as one write that draws over what is on the screen, without wiping it first. */
void rollout_redraw(struct buf *out, yyjson_val *root, const struct page_style *s, bool first);
/* How users are split, as ordered and as they came; nothing while nobody came. rollout: its member "rollout". */
void rollout_traffic(struct buf *out, yyjson_val *rollout, const struct page_style *s);
/* It runs or soaks: something may still happen. */
bool rollout_goes_on(yyjson_val *root);

#endif
