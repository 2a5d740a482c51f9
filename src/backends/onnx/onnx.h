/* SPDX-License-Identifier: Apache-2.0 */
/* ONNX models, run by ONNX Runtime: an engine for both places, inside the server and inside a worker process.
 *
 * The runtime is a shared library that is opened when the first model needs it, and it stays open until the process
 * ends (its threads and its thread-local data do not survive an unload). A model is a folder with model.onnx and, if
 * its weights are outside it, the files they are in. The header is walked before the runtime sees a byte (header.h).
 *
 * One session serves one port, so that small models scale with the threads that run them; a model of some size has one
 * session for all its ports, because there the weights cost more than the session's locks. Runs are made by the port's
 * thread inside flush(), as few as batch.h allows; what a model can be joined with is found out at its warm-up. */
#ifndef WEIR_BACKENDS_ONNX_ONNX_H
#define WEIR_BACKENDS_ONNX_ONNX_H

#include <stddef.h>

#include "base/err.h"
#include "inference/engine.h"

extern const struct engine_ops onnx_engine;

/* Where the runtime's library is and what it is: for `weir doctor`. Opens it. path and version are terminated and cut
 * to their size; untouched on failure. ERR_UNAVAILABLE: none was found, with what was tried. Any thread. */
enum err_code onnx_runtime_find(char *path, size_t cap, char *version, size_t vcap, struct err *e) MUST_USE;

/* Opens the library and sets it up, so that nothing of it has to be found later: a worker calls this before its sandbox
 * closes. library: its path, or NULL to look for it. device: as in engine_spec; for a GPU its libraries are opened too,
 * ERR_UNAVAILABLE when one is missing (device.h). Any thread; a second call is cheap. */
enum err_code onnx_runtime_preload(const char *library, const char *device, struct err *e) MUST_USE;

#endif
