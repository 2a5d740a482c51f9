/* SPDX-License-Identifier: Apache-2.0 */
/* Whether an answer makes sense at all: what a rollout counts as invalid.
 *
 * Thread: any; no state. */
#ifndef WEIR_API_OUTPUTS_H
#define WEIR_API_OUTPUTS_H

#include "inference/engine.h"

/* NULL if the outputs of a finished job (err ERR_OK) are sound, else what is wrong with the first that is not, in text:
 * "output 'y' has NaN at element 3", "output 'y' is empty", "output 'y' has shape [1,5], the stable version's has
 * [1,4]", "output 'y' has 3 rows for 5".
 *
 * info: of the version that ran; reference: of the stable version (for that one its own), whose outputs of the same
 * name say what shapes are right. rows: dimension 0 of the request's inputs, 0 if they have none in common; where the
 * reference's inputs and its output have it free, an output must have as many. Of an output the first 65,536 numbers
 * are looked at, each is read once. */
const char *outputs_invalid(const struct model_info *info, const struct model_info *reference,
                            const struct job_result *job, uint64_t rows, char *text, size_t cap);

#endif
