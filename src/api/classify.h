/* SPDX-License-Identifier: Apache-2.0 */
/* The classification extension: the N largest values along the last dimension, as "value:index" or "value:index:label".
 *
 * Thread: any; no state. */
#ifndef WEIR_API_CLASSIFY_H
#define WEIR_API_CLASSIFY_H

#include "base/buf.h"
#include "inference/tensor.h"

/* Appends BYTES elements (4-byte length, then the text) to out: for each row of `width` values of dtype (not BYTES) at
 * p, its min(n, width) largest, largest first; equal ones in order of index, NaN last. Floating point is printed as %f,
 * whole numbers as they are. labels may be NULL. Each value is read once. scratch is used for the heap and left empty.
 * Past a buffer's ceiling, out is marked as over. */
void classify(struct buf *out, struct buf *scratch, enum dtype dtype, const uint8_t *p, uint64_t rows, uint64_t width,
              uint64_t n, const char *const *labels, size_t n_labels);

#endif
