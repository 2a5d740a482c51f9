/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share and nobody else sees.
 *
 *   store.c       the thread, its two lanes, opening and closing
 *   sqlite.c      the database: opening, migrating, statements   rows_write.c, rows_read.c   rows in and out
 *   files.c       opens that stay beneath their folder, fsync, removal
 *   manifest.c    a version's list of files
 *   stage.c       one file on its way in: temporary, hashed, a blob
 *   upload.c      many of them become a tree; import.c feeds it
 *   artifact.c    trees: publish, verify, read, drop
 *   clean.c       what a crash has left
 *   capture_*.c   the payload log; capture_priv.h
 *
 * Thread: everything here runs on the store thread. */
#ifndef WEIR_STORE_STORE_PRIV_H
#define WEIR_STORE_STORE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/map.h"
#include "store/sha256.h"
#include "store/store.h"

#define STORE_PIECE (1u << 20) /* how much of a file is read, hashed or copied at once */
#define TREE_DEPTH_MAX 16      /* folders inside a version */
#define TEMP_NAME_MAX 24
#define STORE_STATEMENTS 32

struct lane {
    struct store_job *first, **last;
};

struct store {
    /* The queue: any thread, under mutex. */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct lane urgent, normal;
    atomic_bool urgent_waits; /* urgent is not empty: read without the lock between two pieces of a file */
    bool closing;
    bool booted; /* store_open's answer is there */
    enum err_code boot_code;
    struct err boot_error;

    /* The rest: the store thread only. */
    pthread_t self;
    bool nested; /* an urgent job runs inside a long one */
    char *db_path, *artifacts_path;
    int lock_fd, artifacts_fd, blobs_fd, trees_fd, tmp_fd;
    bool named_temp; /* the file system has no O_TMPFILE */
    char id[33];
    char broken[256]; /* why nothing is written any more until the restart; "" while all is well */
    struct map pins;  /* digest -> how many pushes have put this tree in place and not yet registered or dropped it */
    char *scratch;    /* STORE_PIECE bytes; never holds anything across store_breathe */
    struct sqlite3 *db;
    struct sqlite3_stmt *statements[STORE_STATEMENTS];
    int wal_pages;
};

/* ---- store.c ---- */
void store_assert_thread(const struct store *s);
/* Called between two pieces of long work, outside any transaction: runs the urgent jobs that wait. */
void store_breathe(struct store *s);
/* After a failed fsync nobody knows what the disk holds (the kernel drops the pages), so the store writes nothing more.
 */
void store_break(struct store *s, const char *what);
enum err_code store_writable(struct store *s, struct err *e) MUST_USE;

/* ---- sqlite.c ---- */
enum err_code db_open(struct store *s, struct err *e) MUST_USE;
void db_close(struct store *s);
bool db_names_digest(struct store *s, const char *digest); /* true also when it can not be known */

/* ---- files.c: -1 and errno unless they take an err ---- */
/* Opens path (parts separated by '/') below dir: no link is followed, nothing outside is reached. Close-on-exec is
 * added. */
int file_open(int dir, const char *path, int flags, mode_t mode);
/* The folder that holds path's last part (made with its parents when make is set), and that part. */
int file_parent(int dir, const char *path, bool make, const char **base);
bool file_write_all(int fd, const void *p, size_t n);
ssize_t file_read(int fd, void *p, size_t n); /* n bytes, less only at the end of the file */
bool file_is_full(int error);
/* ERR_STORAGE from errno: "can not write weir-data/artifacts/NAME: …", with what to do. */
enum err_code file_fail(const struct store *s, struct err *e, const char *doing, const char *name);
/* fsync. scrap: nobody knows the file yet, so that a full disk costs this file only; everything else breaks the store.
 */
enum err_code file_sync(struct store *s, int fd, const char *name, bool scrap, struct err *e) MUST_USE;
/* Reads, hashes and compares one file of known size; false: it differs or can not be read. */
bool file_matches(struct store *s, int fd, uint64_t size, const char *sha256);
void temp_name(char out[TEMP_NAME_MAX]);
enum err_code dirs_make(const char *path, struct err *e) MUST_USE; /* mkdir -p, durable */
bool dir_remove(int dir, const char *name); /* a file or a whole folder; links are removed, not followed */
enum err_code dir_sync_deep(struct store *s, int fd, struct err *e) MUST_USE;

/* ---- manifest.c ---- */
/* JSON as in store.h; the order is kept, paths, sizes and digests are checked one by one. */
enum err_code manifest_parse(struct manifest *out, struct str text, struct err *e) MUST_USE;
/* Sorts, refuses doubles and files that are folders too, sums up, computes the digest. */
enum err_code manifest_seal(struct manifest *m, struct err *e) MUST_USE;
void manifest_write(const struct manifest *m, struct buf *out); /* the very bytes that the digest is of */
enum err_code manifest_path_ok(struct str path, struct err *e) MUST_USE;

/* ---- stage.c ---- */
struct stage {
    struct store *s;
    int fd;                   /* -1: none */
    char temp[TEMP_NAME_MAX]; /* its name in tmp/, "" for one without a name */
    struct sha256 hash;
    uint64_t size, flushed;
};
enum err_code stage_open(struct stage *st, struct store *s, struct err *e) MUST_USE;
enum err_code stage_write(struct stage *st, const void *p, size_t n, const char *name, struct err *e) MUST_USE;
/* Ends the writing and tells the digest; then stage_place or stage_done. */
void stage_hash(struct stage *st, char sha256[65]);
/* Durable, as a blob and as `path` of the folder tree. Ends st. */
enum err_code stage_place(struct stage *st, const char *sha256, int tree, const char *path, struct err *e) MUST_USE;
void stage_done(struct stage *st); /* gives up; fine twice */

/* ---- upload.c, for import.c ---- */
enum err_code upload_begin(struct upload **out, struct store *s, struct err *e) MUST_USE;
/* One file of a size nobody announced: begin, any number of pieces, end. path NULL: named by its first bytes. */
enum err_code upload_file_begin(struct upload *u, struct err *e) MUST_USE;
enum err_code upload_file_write(struct upload *u, const void *p, size_t n, struct err *e) MUST_USE;
enum err_code upload_file_end(struct upload *u, const char *path, struct err *e) MUST_USE;

/* ---- artifact.c ---- */
/* Renames tmp/temp to trees/<digest> and pins it. One that is there already is kept if it is whole, else replaced. */
enum err_code tree_publish(struct store *s, const char *temp, const char *digest, struct err *e) MUST_USE;
void tree_unpin(struct store *s, const char *digest);
bool digest_ok(const char *digest);

/* ---- clean.c ---- */
void store_clean(struct store *s);

#endif
