/* SPDX-License-Identifier: Apache-2.0 */
/* The runtime's library: found, opened once a process, and asked for the newest API that both it and our header know.
 *
 * Thread: any; what onnx_runtime_get returns is never written again. */
#ifndef WEIR_BACKENDS_ONNX_RUNTIME_H
#define WEIR_BACKENDS_ONNX_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include <onnxruntime_c_api.h>

#include "base/err.h"

struct onnx_runtime {
    const OrtApi *api;
    uint32_t api_version;
    char version[48]; /* "1.30.0" */
    char path[1024];  /* of the library, as the loader found it */
    OrtEnv *env;
    OrtMemoryInfo *cpu;      /* where tensors of ours lie */
    OrtAllocator *allocator; /* the runtime's own heap; not freed */
};

/* library: a path, or NULL: looked for, with cuda first the one that `make gpu` fetches. A process has one runtime:
 * asking for another path later is ERR_CONFLICT. */
enum err_code onnx_runtime_get(const struct onnx_runtime **out, const char *library, bool cuda, struct err *e) MUST_USE;

/* From now on, what the runtime says on this thread goes to `line` (NULL: no more). Only sessions whose log level is
 * low say anything. */
void onnx_runtime_listen(void (*line)(void *ctx, const char *message), void *ctx);

/* Where a message of the runtime speaks of a failed call of CUDA or its libraries ("CUDA failure 2: out of memory ;
 * …"); NULL: it does not. */
const char *onnx_cuda_failure(const char *message);

/* Turns a status of the runtime into an error of ours and releases it: *e says "<what>: <its message, shortened>".
 * ERR_OK for NULL. */
enum err_code onnx_status(const struct onnx_runtime *rt, OrtStatus *s, enum err_code code, struct err *e,
                          const char *what);
/* The same for a run: ERR_INVALID when the message blames the input (the model is healthy), else ERR_MODEL. */
enum err_code onnx_run_status(const struct onnx_runtime *rt, OrtStatus *s, struct err *e, bool *hopeless);

#endif
