/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker on a GPU may do beside what every worker may: reach the NVIDIA driver's device files, and no other.
 *
 * From the driver's open sources, what others saw it call, and gVisor's list of its ioctls; docs.kernel.org on
 * Landlock. It opens /dev/nvidiactl, /dev/nvidia-uvm, /dev/nvidia-uvm-tools and /dev/nvidiaN for reading and writing,
 * names its threads through /proc/self/task/TID/comm, reads about devices in /proc and /sys, loads more of its own
 * libraries when it is first used, and makes memfds and pipes.
 *
 * Opening for writing (never creating or truncating) has to pass the filter of system calls then, which can not see
 * paths: only Landlock keeps it to the device files. So there is no GPU worker without Landlock.
 *
 * Thread: as sandbox.h. */
#ifndef WEIR_BACKENDS_WORKER_SANDBOX_GPU_H
#define WEIR_BACKENDS_WORKER_SANDBOX_GPU_H

#include <seccomp.h>

/* Adds to a Landlock ruleset: the device files, the system's files about them, the folders of all libraries that are
 * loaded now. What does not exist is left out. abi: sandbox_landlock_abi(). */
void sandbox_gpu_paths(int ruleset, int abi);
/* Adds to a filter of system calls. 0, or libseccomp's negative error. */
int sandbox_gpu_calls(scmp_filter_ctx ctx);

#endif
