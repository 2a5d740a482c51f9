/* SPDX-License-Identifier: Apache-2.0 */
/* A GPU under ONNX Runtime: its CUDA provider, and the libraries that the provider stands on.
 *
 * A model of device cuda:N runs there or its load fails with the reason; nothing falls back to the processor unsaid
 * (see session.c). The provider is a library beside the runtime's core and of the same build; it opens CUDA's own
 * libraries, and those the driver's libcuda.so.1. These are opened before a worker's sandbox closes; the provider,
 * which calls the driver as soon as it is opened, after it: the driver starts threads, and one that runs already can
 * not be shut in.
 *
 * Order on a worker: onnx_device_open → sandbox → onnx_device_check → sessions → onnx_device_memory.
 * Thread: open on the main thread before there are others; the rest on the loader's. */
#ifndef WEIR_BACKENDS_ONNX_DEVICE_H
#define WEIR_BACKENDS_ONNX_DEVICE_H

#include "backends/onnx/runtime.h"
#include "inference/device.h"

/* The processor: nothing to do. ERR_UNAVAILABLE: no provider beside the core, or no driver; *e begins with "device
 * cuda:N: ". Changes the process's environment. */
enum err_code onnx_device_open(const struct onnx_runtime *rt, const struct device *d, struct err *e) MUST_USE;
/* Calls the driver: is there such a GPU? Makes it the thread's, and opens the provider. ERR_UNAVAILABLE. */
enum err_code onnx_device_check(const struct onnx_runtime *rt, const struct device *d, struct err *e) MUST_USE;
/* Appends the provider to a session's options. memory: most bytes of its arena on the device; 0: no limit. */
OrtStatus *onnx_device_append(const struct onnx_runtime *rt, OrtSessionOptions *o, const struct device *d,
                              uint64_t memory) MUST_USE;
/* Bytes of the device, and how many are free; false, and zeros, if that can not be known. */
bool onnx_device_memory(const struct device *d, uint64_t *total, uint64_t *free_bytes);

/* Which provider runs how many of a session's nodes, read from what the runtime says while it makes a session. */
struct onnx_placed {
    unsigned cuda, other;
    bool seen; /* at least one line spoke of it */
};
/* One message of the runtime; those that speak of something else change nothing. */
void onnx_placed_read(struct onnx_placed *p, const char *message);

#endif
