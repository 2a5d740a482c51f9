/* SPDX-License-Identifier: Apache-2.0 */
/* For tests that use the store from their own thread: a folder that vanishes, and a way to run something on the store's
 * thread and wait for it.
 *
 * Thread: the test's. */
#ifndef WEIR_TESTS_SUPPORT_STORE_HELP_H
#define WEIR_TESTS_SUPPORT_STORE_HELP_H

#include "store/store.h"

char *store_folder_new(void);         /* a fresh folder under $TMPDIR or /tmp; heap */
void store_folder_free(char *folder); /* removes it with all that is in it */
char *store_path(const char *folder, const char *fmt, ...) PRINTF(2, 3); /* folder/fmt; heap */

/* sqlite:FOLDER/weir.db with FOLDER/artifacts */
enum err_code store_open_in(struct store **out, const char *folder, struct err *e) MUST_USE;

typedef enum err_code store_fn(struct store *s, void *arg);
enum err_code store_call(struct store *s, store_fn *fn, void *arg); /* waits for it */

/* The calls of store/store.h, on its thread. */
enum err_code on_apply(struct store *s, const struct store_change *c, struct err *e);
enum err_code on_load(struct store *s, struct store_state *out, struct err *e);
enum err_code on_history(struct store *s, const char *model, int64_t before, size_t limit, struct history_row **out,
                         size_t *n, struct err *e);
enum err_code on_history_after(struct store *s, const char *model, int64_t after, size_t limit,
                               struct history_row **out, size_t *n, struct err *e);
enum err_code on_serving_at(struct store *s, const char *model, int64_t at_ms, struct history_row **out, struct err *e);
enum err_code on_progress(struct store *s, const char *rollout, const char *progress, const char *counts,
                          struct err *e);
enum err_code on_import(struct store *s, const char *path, struct manifest *m, struct err *e);
/* The whole of an upload, body given in pieces of `piece` bytes, each a job of its own. head.p NULL: raw. */
enum err_code on_upload(struct store *s, struct str head, struct str body, size_t piece, struct manifest *m,
                        struct err *e);
enum err_code on_open(struct store *s, const char *digest, int *dirfd, struct manifest *m, struct err *e);
enum err_code on_read(struct store *s, const char *digest, const char *path, struct buf *out, struct err *e);
void on_drop(struct store *s, const char *digest);

#endif
