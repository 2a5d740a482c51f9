/* SPDX-License-Identifier: Apache-2.0 */
/* What a rollout's judge says, drawn with characters: each guardrail's arms side by side, the evidence of harm against
 * the limit where it ends the rollout, and the candidate's risk with its interval on a scale of logarithms.
 *
 * Thread: any; pure functions of the server's JSON (GET /admin/models/{m}/rollout). */
#ifndef WEIR_CLI_GUARDRAILS_H
#define WEIR_CLI_GUARDRAILS_H

#include <yyjson.h>

#include "base/buf.h"

/* How a page is drawn. Words say all that colours say. */
struct page_style {
    bool colour;
    bool utf8;     /* else signs of ASCII stand for lines and dots */
    unsigned rows; /* of the screen, 0: as many as it takes */
};

/* "pass" → "PASS", "nodata" → "NO DATA"; what is not known as it is. */
const char *verdict_word(const char *verdict);
/* The word in its colour. */
void verdict_show(struct buf *out, const char *verdict, const struct page_style *s);
/* What was counted is of the soak: all traffic was the candidate's, and it is judged by what the version before did. */
bool rollout_soaked(yyjson_val *rollout);
/* The block of all guardrails of rollout.verdict; nothing while there is none. */
void guardrails_show(struct buf *out, yyjson_val *rollout, const struct page_style *s);

/* Evidence against the limit: ▮▮▮▯▯▯ 3.1 of 6.0 */
void meter_show(struct buf *out, double evidence, double limit, const struct page_style *s);
/* A risk and its interval, from 0.1 to 100 times, with a mark at what is tolerated: ··├──●──┼┤··· */
void interval_show(struct buf *out, double low, double mid, double high, double tolerated, const struct page_style *s);

#endif
