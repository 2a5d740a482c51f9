/* SPDX-License-Identifier: Apache-2.0 */
/* What survives: models, versions, rollouts, history, and the artifacts' bytes.
 *
 * The store is a thread of its own. Other threads hand it jobs (store_post); a job's function runs on the store thread,
 * calls the blocking functions below and sends its result home by itself (loop_post, say). Jobs run one after another
 * in order, `urgent` ones first. An urgent job even runs inside a long call of another one (hashing, copying: between
 * two pieces of 1 MiB, never inside a change), so that a rollback never waits behind an upload or the check of a big
 * file.
 *
 * A change is one transaction: rows and the line of history that tells of it, all or nothing, durable when store_apply
 * returns (SQLite in WAL mode, synchronous=FULL). History is append-only; the database itself refuses to change it.
 *
 * Artifacts: every file is stored once, named by its SHA-256 (blobs/ab/abcd…), written with O_TMPFILE, fsync, linkat,
 * fsync of the folder. A version is a manifest (its files' paths, sizes and digests, sorted by path); the version's
 * digest is the SHA-256 of that manifest. trees/<digest>/ holds the files under their own names as hard links, plus
 * manifest.json: the one folder that a worker gets to see. A tree becomes visible by one rename, complete. What a crash
 * leaves half done (temporary folders, trees that no version names, blobs that no tree names) is removed by store_open.
 *
 * Thread: store_open, store_post and store_close by the owner; sha256_hex, manifest_*, history_done and
 * store_state_done by any; all others on the store thread only (asserted). */
#ifndef WEIR_STORE_STORE_H
#define WEIR_STORE_STORE_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

struct store;

/* url: "sqlite:FILE" (folders are created); "postgresql://…" gives ERR_UNIMPLEMENTED. artifacts: a folder (created);
 * "s3://…" gives ERR_UNIMPLEMENTED. Blocks: starts the thread, which opens or creates, migrates, checks (PRAGMA
 * quick_check) and cleans up. A second server on the same files is refused with ERR_CONFLICT naming the holder's pid (a
 * lock file); so is an artifacts folder of another database (its file store-id says whose it is). */
enum err_code store_open(struct store **out, const char *url, const char *artifacts, struct err *e) MUST_USE;
void store_close(struct store *s); /* runs what is queued, then ends the thread; NULL is fine */

struct store_job {
    struct store_job *next;
    void (*run)(struct store *s, struct store_job *j); /* on the store thread; j is run's from then on */
    bool urgent;
};
void store_post(struct store *s, struct store_job *j); /* any thread; never blocks on the disk */

/* ---- rows ---- */
struct model_row {
    char name[NAME_MAX_LEN + 1];
    char family[NAME_MAX_LEN + 1];
    int64_t stable, previous; /* version numbers; 0 = none */
    int64_t created_ms;
};
struct version_row {
    char model[NAME_MAX_LEN + 1];
    int64_t number;   /* >= 1 */
    char digest[65];  /* unique within the model */
    char backend[16]; /* "onnx" */
    uint64_t bytes;
    int64_t created_ms;
};
enum rollout_state {
    ROLLOUT_RUNNING,
    ROLLOUT_PROMOTED, /* and nothing of it is left to do */
    ROLLOUT_ROLLED_BACK,
    ROLLOUT_ABORTED,
    ROLLOUT_REPLACED,
    ROLLOUT_SOAKING, /* its version is the stable one, and still watched */
};
/* "running", "promoted", "rolled_back", "aborted", "replaced", "soaking" */
extern const char *const rollout_state_names[];
struct rollout_row {
    char id[40]; /* also the salt of the assignment */
    char model[NAME_MAX_LEN + 1];
    int64_t stable, canary;
    int64_t share_bp; /* basis points */
    enum rollout_state state;
    int64_t started_ms, ended_ms; /* 0: still running */
    char reason[512];
    /* JSON texts, heap, may be NULL; of rows that were read: owned by the state */
    char *evidence; /* the arms when it ended */
    char *policy;   /* by which it goes on */
    char *progress; /* where it is */
    char *counts;   /* what the judge has counted */
};
struct history_row {
    int64_t seq; /* given by the store */
    int64_t at_ms;
    char model[NAME_MAX_LEN + 1];
    int64_t version; /* 0: about the model */
    char kind[32];   /* "pushed", "rollout_started", "share_set", "promoted", "rolled_back", "failed", … */
    char actor[64];  /* who: "admin", "weir (circuit breaker)" */
    char text[512];  /* one sentence for a person */
    /* JSON texts, heap, may be NULL; of rows that were read: history_done */
    char *serving;  /* from then on: [{"version","digest","share_bp"}…]; NULL: as before */
    char *evidence; /* on which it was decided */
};

/* An artifact that did harm: no rollout of it begins again unless a person says so. */
struct hold_row {
    char model[NAME_MAX_LEN + 1];
    char digest[65];
    int64_t since_ms;
    char reason[512];
};

/* A version that answers beside the stable one, unseen. A model has one such row, or none. */
struct shadow_row {
    char id[40]; /* also the salt of the choice of requests */
    char model[NAME_MAX_LEN + 1];
    int64_t version;
    int64_t share_bp; /* basis points of the stable's answers, 1 … 10000 */
    int64_t started_ms;
};

/* A family that was switched to another place while the server ran. */
#define PLACE_MAX 299
struct place_row {
    char family[NAME_MAX_LEN + 1];
    char place[PLACE_MAX + 1];      /* "worker", "weir://host:8000"; "": as configured */
    char token_file[1000];          /* path, with the token of the server there; "": none was named */
    char configured[PLACE_MAX + 1]; /* what the configuration said at the switch; "": it did not name the family */
    int64_t at_ms;
    char actor[64];
};

struct cost_row {
    char digest[65]; /* of an artifact */
    char device[16]; /* "host", "cuda:0" */
    uint64_t bytes;  /* what one instance took */
    int64_t measured_ms;
};

/* One transaction. Each pointer may be NULL; models, rollouts, holds and shadows are inserted or replaced by their key,
 * versions only inserted; lifting a hold or a shadow that is not there is fine. ERR_STORAGE (disk full, I/O error:
 * nothing of it happened), ERR_CONFLICT (a version number or digest is taken, a second rollout would run, a row names a
 * version that does not exist). After a failed fsync the store is read-only until restart and every apply says so; only
 * then may the restart find that the change was kept after all.
 */
struct store_change {
    const struct model_row *model;
    const struct version_row *version;
    const struct rollout_row *rollout;
    const struct rollout_row *rollout_ended; /* a second one, for "replaced" */
    const struct hold_row *hold, *lift;      /* lift: by model and digest */
    const struct shadow_row *shadow;         /* replaces the model's; version 0: takes it away */
    struct history_row *history;             /* required; its seq is set when it is durable */
};
enum err_code store_apply(struct store *s, const struct store_change *c, struct err *e) MUST_USE;

/* Where a running or soaking rollout is now, by its id; no line of history, for nothing was decided. Durable.
 * ERR_NOT_FOUND: it has ended, or there never was one: nothing was written. ERR_STORAGE. */
enum err_code store_progress(struct store *s, const char *rollout, const char *progress, const char *counts,
                             struct err *e) MUST_USE;

/* A family's place, and what history tells of it (n lines, their seq is set), in one transaction. Inserted or replaced
 * by family; with place "" it is taken away (fine if there is none). ERR_STORAGE. */
enum err_code store_put_place(struct store *s, const struct place_row *row, struct history_row *history, size_t n,
                              struct err *e) MUST_USE;

/* Everything, for the start. Arrays are the caller's: store_state_done. rollouts: each model's last one (running,
 * soaking or ended). */
struct store_state {
    struct model_row *models;
    size_t n_models;
    struct version_row *versions; /* by model, then number */
    size_t n_versions;
    struct rollout_row *rollouts;
    size_t n_rollouts;
    struct cost_row *costs; /* of the artifacts that a version names */
    size_t n_costs;
    struct hold_row *holds;
    size_t n_holds;
    struct shadow_row *shadows;
    size_t n_shadows;
    struct place_row *places;
    size_t n_places;
    int64_t seq; /* of the newest line of history; 0: there is none */
};
enum err_code store_load(struct store *s, struct store_state *out, struct err *e) MUST_USE;
void store_state_done(struct store_state *st);

/* Inserted or replaced by (digest, device); durable. It stays when the artifact is dropped: the same bytes may come
 * again. ERR_STORAGE. */
enum err_code store_put_cost(struct store *s, const struct cost_row *c, struct err *e) MUST_USE;

/* Newest first, at most `limit` (<= 1,000) rows with seq < before (0: from the newest). model NULL: of all. *out: a
 * heap array, NULL when there is no row; history_done frees it. */
enum err_code store_history(struct store *s, const char *model, int64_t before, size_t limit, struct history_row **out,
                            size_t *n, struct err *e) MUST_USE;
/* The same the other way round: oldest first, with seq > after. */
enum err_code store_history_after(struct store *s, const char *model, int64_t after, size_t limit,
                                  struct history_row **out, size_t *n, struct err *e) MUST_USE;
/* The newest line of the model at or before a time that says who serves: "which digest served which share at time t".
 * ERR_NOT_FOUND: nothing served by then. *out: one row, history_done(*out, 1). */
enum err_code store_serving_at(struct store *s, const char *model, int64_t at_ms, struct history_row **out,
                               struct err *e) MUST_USE;
void history_done(struct history_row *rows, size_t n); /* any thread; NULL is fine */

/* ---- artifacts ---- */
#define MANIFEST_FILES_MAX 4096
#define MANIFEST_BYTES_MAX (4u << 20)
struct manifest_file {
    char path[256]; /* relative, '/' between parts, each part as name_ok; no links, no devices */
    uint64_t size;
    char sha256[65];
};
struct manifest {
    struct manifest_file *files; /* sorted by path */
    size_t n;
    uint64_t bytes; /* sum of sizes */
    char digest[65];
};
void manifest_done(struct manifest *m);
const struct manifest_file *manifest_find(const struct manifest *m, const char *path);

/* An upload in pieces. head: the announced manifest ({"files":[{"path","size","sha256"}…]}; the pieces are then the
 * files' bytes, in that order), or p == NULL: one raw file, stored as "model.gguf" if it begins with "GGUF", else as
 * "model.onnx". ERR_INVALID for a path that leaves its folder, doubles, too many; ERR_STORAGE at once if the announced
 * bytes do not fit on the disk. */
struct upload;
enum err_code upload_new(struct upload **out, struct store *s, struct str head, struct err *e) MUST_USE;
/* ERR_INVALID when more comes than announced or a file's digest is wrong; ERR_STORAGE. The first error stays. */
enum err_code upload_write(struct upload *u, const void *p, size_t n, struct err *e) MUST_USE;
/* Checks sizes and digests, puts the tree in place, fills *m (the caller's: manifest_done). u is gone afterwards,
 * whatever it returns. A tree put in place is pinned until a version with its digest is applied or it is dropped: each
 * upload_finish or artifact_import that succeeded is followed by one of the two. */
enum err_code upload_finish(struct upload *u, struct manifest *m, struct err *e) MUST_USE;
void upload_abort(struct upload *u); /* NULL is fine */
/* The same from a local file or folder (no links are followed, also not in `path` itself: pass what realpath gave; a
 * file is stored as for a raw upload unless its name is model.*). ERR_NOT_FOUND, ERR_INVALID (links, devices, names).
 */
enum err_code artifact_import(struct store *s, const char *path, struct manifest *m, struct err *e) MUST_USE;

/* Opens the tree after reading every file against the manifest: *dirfd is the caller's (close-on-exec), *m too.
 * ERR_STORAGE "artifact … is damaged: model.onnx has changed"; pushing the same bytes again mends it. */
enum err_code artifact_open(struct store *s, const char *digest, int *dirfd, struct manifest *m,
                            struct err *e) MUST_USE;
/* Removes a tree that no version names (a refused push) and no other push counts on, and its blobs that no tree names.
 * Fine if absent. */
void artifact_drop(struct store *s, const char *digest);
/* The whole content of a small file of a tree (model.yaml, samples.ndjson), checked against the manifest and appended
 * to out; ERR_NOT_FOUND if the version has none, ERR_TOO_LARGE beyond out->max, ERR_STORAGE if it is damaged. */
enum err_code artifact_read(struct store *s, const char *digest, const char *path, struct buf *out,
                            struct err *e) MUST_USE;

/* SHA-256 of bytes as 64 hex digits and a terminator; for clients too. */
void sha256_hex(char out[65], const void *p, size_t n);

#endif
