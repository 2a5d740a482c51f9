/* SPDX-License-Identifier: Apache-2.0 */
/* The name of a device, as in a family's settings and on the wire: "cpu", or "cuda:N", the Nth GPU of the machine in
 * the order of its PCI bus (nvidia-smi's numbers).
 *
 * Thread: any; pure. */
#ifndef WEIR_INFERENCE_DEVICE_H
#define WEIR_INFERENCE_DEVICE_H

#include <stdbool.h>

#define DEVICE_NUMBER_MAX 63

struct device {
    bool cuda;       /* else the processor */
    unsigned number; /* of the GPU */
};
/* name: NULL means "cpu". False for any other word; *out untouched then. */
bool device_parse(struct device *out, const char *name);

#endif
