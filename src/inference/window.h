/* SPDX-License-Identifier: Apache-2.0 */
/* A window: memory that server and workers share, and an allocator over it whose books are the server's alone.
 *
 * An input window belongs to a version. It is cut into one part a connection thread, so that no lock is needed: each
 * thread allocates and frees in its own part (a buddy system: powers of two from 512 bytes). A window that goes to
 * worker processes is a memfd, sealed against growing, shrinking and new writable mappings after the server has mapped
 * it: a worker can only read it.
 *
 * Thread: window_new and window_free by the owner; alloc and free by the part's thread. */
#ifndef WEIR_INFERENCE_WINDOW_H
#define WEIR_INFERENCE_WINDOW_H

#include "base/base.h"
#include "base/err.h"

#define WINDOW_NONE UINT64_MAX

struct window;
/* part_bytes: rounded up to a power of two. shared: a sealed memfd, else private memory. Pages are taken on first use.
 */
enum err_code window_new(struct window **out, const char *name, uint64_t part_bytes, unsigned parts, bool shared,
                         struct err *e) MUST_USE;
/* A worker's view of the server's window: read-only, nothing can be taken from it. The descriptor stays the caller's.
 */
enum err_code window_map(struct window **out, int fd, uint64_t size, struct err *e) MUST_USE;
void window_free(struct window *w);
int window_fd(const struct window *w); /* -1 if not shared; stays the window's */
uint8_t *window_base(const struct window *w);
uint64_t window_size(const struct window *w);

/* Offset of at least `bytes` bytes (aligned to 64 or more), or WINDOW_NONE when the part is full. It is the lowest
 * there is: of blocks of one size no more is ever touched than was taken at the worst moment. */
uint64_t window_take(struct window *w, unsigned part, uint64_t bytes);
void window_give(struct window *w, unsigned part, uint64_t off); /* asserts that it was taken */
uint64_t window_used(const struct window *w, unsigned part);     /* bytes taken, rounded as allocated */

#endif
