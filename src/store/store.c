/* SPDX-License-Identifier: Apache-2.0 */
/* The store's thread: two lanes of jobs, and the opening and closing of what they work on.
 *
 * All files and the database are touched by the store thread alone; store_open only starts it and waits for its answer.
 * Urgent jobs go first, and long work (hashing gigabytes) lets them in between two pieces: a rollback waits for 1 MiB
 * at most.
 *
 * Owner: struct store is store_open's caller's; everything in it is the thread's. */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/store_priv.h"

/* ---- jobs ---- */

static void lane_init(struct lane *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void lane_push(struct lane *l, struct store_job *j)
{
    j->next = NULL;
    *l->last = j;
    l->last = &j->next;
}

static struct store_job *lane_pop(struct lane *l)
{
    struct store_job *j = l->first;
    if (j && (l->first = j->next) == NULL) {
        l->last = &l->first;
    }
    return j;
}

/* With the mutex held. */
static struct store_job *urgent_pop(struct store *s)
{
    struct store_job *j = lane_pop(&s->urgent);
    if (!s->urgent.first) {
        atomic_store_explicit(&s->urgent_waits, false, memory_order_relaxed);
    }
    return j;
}

void store_post(struct store *s, struct store_job *j)
{
    pthread_mutex_lock(&s->mutex);
    lane_push(j->urgent ? &s->urgent : &s->normal, j);
    if (j->urgent) {
        atomic_store_explicit(&s->urgent_waits, true, memory_order_relaxed);
    }
    pthread_cond_signal(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

void store_assert_thread(const struct store *s)
{
    assert(pthread_equal(s->self, pthread_self()));
    (void)s;
}

void store_breathe(struct store *s)
{
    if (s->nested || !atomic_load_explicit(&s->urgent_waits, memory_order_relaxed)) {
        return;
    }
    s->nested = true;
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        struct store_job *j = urgent_pop(s);
        pthread_mutex_unlock(&s->mutex);
        if (!j) {
            break;
        }
        j->run(s, j);
    }
    s->nested = false;
}

static void jobs_run(struct store *s)
{
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        struct store_job *j = urgent_pop(s);
        if (!j) {
            j = lane_pop(&s->normal);
        }
        if (j) {
            pthread_mutex_unlock(&s->mutex);
            j->run(s, j);
            pthread_mutex_lock(&s->mutex);
        } else if (s->closing) {
            break;
        } else {
            pthread_cond_wait(&s->cond, &s->mutex);
        }
    }
    pthread_mutex_unlock(&s->mutex);
}

/* ---- read-only after a failed fsync ---- */

void store_break(struct store *s, const char *what)
{
    if (s->broken[0]) {
        return;
    }
    snprintf(s->broken, sizeof s->broken,
             "the store is read-only until the server is restarted: the disk failed to keep %s; check the disk, "
             "restart, and "
             "look at the history for what was kept",
             what);
    log_error("store", "%s", s->broken);
}

enum err_code store_writable(struct store *s, struct err *e)
{
    store_assert_thread(s);
    return s->broken[0] ? err_set(e, ERR_STORAGE, "%s", s->broken) : ERR_OK;
}

/* ---- opening ---- */

/* The folder of a path: "." for a bare name. Heap. */
static char *path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash) {
        return xstrdup(".");
    }
    return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

static enum err_code lock_held(const struct store *s, int fd, struct err *e)
{
    char pid[24];
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    pid[n < 0 ? 0 : n] = '\0';
    pid[strspn(pid, "0123456789")] = '\0';
    return err_set(e, ERR_CONFLICT,
                   "the store %s is in use by process %s: stop that server, or choose other folders (--data)",
                   s->db_path, pid[0] ? pid : "(unknown)");
}

/* flock goes with the process, so a crash leaves no lock behind; the pid in the file is for people. The file stays:
 * removing it would let two servers lock two files of the same name. */
static enum err_code lock_take(struct store *s, struct err *e)
{
    char *path = xasprintf("%s.lock", s->db_path);
    char pid[24];
    enum err_code rc = ERR_OK;
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        rc = err_sys(e, ERR_STORAGE, "can not open the lock file %s", path);
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno == EWOULDBLOCK ? lock_held(s, fd, e) : err_sys(e, ERR_STORAGE, "can not lock %s", path);
        goto out;
    }
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        log_warn("store", "can not write this process's pid into %s (is the disk full?)",
                 path); /* the lock holds without it */
    }
    s->lock_fd = fd;
    fd = -1;
out:
    if (fd >= 0) {
        close(fd);
    }
    free(path);
    return rc;
}

/* A file that names the store whose artifacts these are: another database must never clean up here. */
static enum err_code folder_claim(struct store *s, struct err *e)
{
    char id[33] = "";
    int fd = file_open(s->artifacts_fd, "store-id", O_RDONLY, 0);
    if (fd >= 0) {
        ssize_t n = file_read(fd, id, sizeof id - 1);
        close(fd);
        if (n == (ssize_t)sizeof id - 1 && strcmp(id, s->id) == 0) {
            return ERR_OK;
        }
        return err_set(
            e, ERR_CONFLICT,
            "the folder %s belongs to another store than %s: give each store its own folder, or remove this one",
            s->artifacts_path, s->db_path);
    }
    if (errno != ENOENT) {
        return file_fail(s, e, "read", "store-id");
    }
    struct stat st;
    if (fstatat(s->artifacts_fd, "trees", &st, AT_SYMLINK_NOFOLLOW) == 0 ||
        fstatat(s->artifacts_fd, "blobs", &st, AT_SYMLINK_NOFOLLOW) == 0) {
        return err_set(e, ERR_CONFLICT,
                       "the folder %s holds 'trees' or 'blobs' that no store made: choose an empty folder",
                       s->artifacts_path);
    }
    fd = file_open(s->artifacts_fd, "store-id.new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) {
        return file_fail(s, e, "create", "store-id.new");
    }
    enum err_code rc = file_write_all(fd, s->id, strlen(s->id)) ? file_sync(s, fd, "store-id.new", true, e)
                                                                : file_fail(s, e, "write", "store-id.new");
    close(fd);
    if (rc != ERR_OK) {
        return rc;
    }
    if (renameat(s->artifacts_fd, "store-id.new", s->artifacts_fd, "store-id") < 0) {
        return file_fail(s, e, "create", "store-id");
    }
    return file_sync(s, s->artifacts_fd, ".", false, e);
}

static enum err_code folder_open(struct store *s, const char *name, int *fd, struct err *e)
{
    bool made = mkdirat(s->artifacts_fd, name, 0755) == 0;
    if (!made && errno != EEXIST) {
        return file_fail(s, e, "create", name);
    }
    *fd = file_open(s->artifacts_fd, name, O_RDONLY | O_DIRECTORY, 0);
    if (*fd < 0) {
        return file_fail(s, e, "open", name);
    }
    return made ? file_sync(s, s->artifacts_fd, ".", false, e) : ERR_OK;
}

static enum err_code artifacts_open(struct store *s, struct err *e)
{
    enum err_code rc = dirs_make(s->artifacts_path, e);
    if (rc != ERR_OK) {
        return rc;
    }
    s->artifacts_fd = open(s->artifacts_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->artifacts_fd < 0) {
        return err_sys(e, ERR_STORAGE, "can not open the folder %s", s->artifacts_path);
    }
    if (flock(s->artifacts_fd, LOCK_EX | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK
                   ? err_set(e, ERR_CONFLICT, "the folder %s is in use by another server", s->artifacts_path)
                   : err_sys(e, ERR_STORAGE, "can not lock the folder %s", s->artifacts_path);
    }
    if ((rc = folder_claim(s, e)) != ERR_OK || (rc = folder_open(s, "tmp", &s->tmp_fd, e)) != ERR_OK ||
        (rc = folder_open(s, "blobs", &s->blobs_fd, e)) != ERR_OK) {
        return rc;
    }
    return folder_open(s, "trees", &s->trees_fd, e);
}

static enum err_code store_boot(struct store *s, struct err *e)
{
    char *folder = path_parent(s->db_path);
    enum err_code rc = dirs_make(folder, e);
    free(folder);
    if (rc != ERR_OK || (rc = lock_take(s, e)) != ERR_OK || (rc = db_open(s, e)) != ERR_OK ||
        (rc = artifacts_open(s, e)) != ERR_OK) {
        return rc;
    }
    store_clean(s);
    return ERR_OK;
}

static void store_unboot(struct store *s)
{
    int *fds[] = {&s->tmp_fd, &s->blobs_fd, &s->trees_fd, &s->artifacts_fd, &s->lock_fd};
    db_close(s);
    for (size_t i = 0; i < COUNT_OF(fds); i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
            *fds[i] = -1;
        }
    }
}

static void *store_main(void *arg)
{
    struct store *s = arg;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL); /* signals are for the threads that wait for them */
    s->self = pthread_self();
    pthread_setname_np(s->self, "weir-store");
    struct err error = {0};
    enum err_code rc = store_boot(s, &error);
    pthread_mutex_lock(&s->mutex);
    s->boot_code = rc;
    s->boot_error = error;
    s->booted = true;
    pthread_cond_signal(&s->cond);
    pthread_mutex_unlock(&s->mutex);
    if (rc == ERR_OK) {
        jobs_run(s);
    }
    store_unboot(s);
    return NULL;
}

static enum err_code names_check(const char *url, const char *artifacts, struct err *e)
{
    if (strncmp(url, "postgresql://", 13) == 0 || strncmp(url, "postgres://", 11) == 0) {
        return err_set(e, ERR_UNIMPLEMENTED, "store: PostgreSQL is not part of this server yet: use sqlite:FILE");
    }
    if (strncmp(url, "sqlite:", 7) != 0 || url[7] == '\0') {
        return err_set(e, ERR_INVALID, "store: '%s' is not a store: use sqlite:FILE", url);
    }
    if (url[strlen(url) - 1] == '/') {
        return err_set(e, ERR_INVALID, "store: '%s' names a folder: name the database file in it", url);
    }
    if (strncmp(artifacts, "s3://", 5) == 0) {
        return err_set(e, ERR_UNIMPLEMENTED, "artifacts: s3:// is not part of this server yet: use a folder");
    }
    return artifacts[0] ? ERR_OK : err_set(e, ERR_INVALID, "artifacts: a folder is needed");
}

static void store_free(struct store *s)
{
    map_done(&s->pins);
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->mutex);
    free(s->scratch);
    free(s->db_path);
    free(s->artifacts_path);
    free(s);
}

enum err_code store_open(struct store **out, const char *url, const char *artifacts, struct err *e)
{
    enum err_code rc = names_check(url, artifacts, e);
    if (rc != ERR_OK) {
        return rc;
    }
    struct store *s = xcalloc(1, sizeof *s);
    lane_init(&s->urgent);
    lane_init(&s->normal);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->cond, NULL);
    map_init(&s->pins);
    s->lock_fd = s->artifacts_fd = s->blobs_fd = s->trees_fd = s->tmp_fd = -1;
    s->scratch = xmalloc(STORE_PIECE);
    /* "./" keeps SQLite from reading a name such as ":memory:" as anything but a file. */
    s->db_path = url[7] == ':' ? xasprintf("./%s", url + 7) : xstrdup(url + 7);
    s->artifacts_path = xstrdup(artifacts);
    int failed = pthread_create(&s->thread, NULL, store_main, s);
    if (failed) {
        store_free(s);
        errno = failed;
        return err_sys(e, ERR_UNAVAILABLE, "can not start the store's thread");
    }
    pthread_mutex_lock(&s->mutex);
    while (!s->booted) {
        pthread_cond_wait(&s->cond, &s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
    if (s->boot_code != ERR_OK) {
        rc = s->boot_code;
        if (e) {
            *e = s->boot_error;
        }
        pthread_join(s->thread, NULL);
        store_free(s);
        return rc;
    }
    *out = s;
    return ERR_OK;
}

void store_close(struct store *s)
{
    if (!s) {
        return;
    }
    pthread_mutex_lock(&s->mutex);
    s->closing = true;
    pthread_cond_signal(&s->cond);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    store_free(s);
}
