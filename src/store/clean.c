/* SPDX-License-Identifier: Apache-2.0 */
/* What a crash has left half done, removed at the start: everything in tmp/, trees that no version names, blobs that no
 * tree links to. Only names of the store's own making are touched, and a bounded number of them; the next start does
 * the rest.
 *
 * Thread: the store thread, before the first job. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/store_priv.h"

#define CLEAN_MAX 100000

struct sweep {
    struct store *s;
    int dir;
    size_t removed, failed, left;
};

static void each_entry(struct sweep *w, int dir, void (*fn)(struct sweep *w, const char *name))
{
    struct dirent *d;
    int again = file_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    if (!list) {
        if (again >= 0) {
            close(again);
        }
        w->failed++;
        return;
    }
    int outer = w->dir;
    while ((d = readdir(list)) != NULL) {
        w->dir = again;
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) {
            fn(w, d->d_name);
        }
    }
    w->dir = outer;
    closedir(list);
}

static void sweep_remove(struct sweep *w, const char *name)
{
    if (w->left == 0) {
        return;
    }
    w->left--;
    if (dir_remove(w->dir, name)) {
        w->removed++;
    } else {
        w->failed++;
    }
}

static void tree_entry(struct sweep *w, const char *name)
{
    if (digest_ok(name) && !db_names_digest(w->s, name)) {
        sweep_remove(w, name);
    }
}

static void blob_entry(struct sweep *w, const char *name)
{
    struct stat st;
    if (digest_ok(name) && fstatat(w->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        st.st_nlink == 1) {
        sweep_remove(w, name);
    }
}

static void blob_folder(struct sweep *w, const char *name)
{
    int fd = strlen(name) == 2 ? file_open(w->dir, name, O_RDONLY | O_DIRECTORY, 0) : -1;
    if (fd >= 0) {
        each_entry(w, fd, blob_entry);
        close(fd);
    }
}

void store_clean(struct store *s)
{
    struct sweep w = {.s = s, .dir = -1, .left = CLEAN_MAX};
    each_entry(&w, s->tmp_fd, sweep_remove);
    size_t temporary = w.removed;
    each_entry(&w, s->trees_fd, tree_entry);
    size_t trees = w.removed - temporary;
    each_entry(&w, s->blobs_fd, blob_folder);
    size_t blobs = w.removed - temporary - trees;
    if (w.removed > 0) {
        log_info("store", "removed what an earlier run left half done temporary=%zu trees=%zu blobs=%zu%s", temporary,
                 trees, blobs, w.left ? "" : " (the next start goes on)");
    }
    if (w.failed > 0) {
        log_warn("store", "can not remove all that an earlier run left half done entries=%zu folder=%s", w.failed,
                 s->artifacts_path);
    }
}
