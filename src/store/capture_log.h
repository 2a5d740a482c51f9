/* SPDX-License-Identifier: Apache-2.0 */
/* The payload log on the disk: lines of JSON in segments, one folder a model, beside the database FILE:
 *
 *     FILE-capture/MODEL/0001764000000123.ndjson      mode 0600 in folders of 0700: payloads are private
 *
 * A segment is named by the time it was begun (milliseconds since 1970, 16 digits; a number further where that is
 * taken), so that names sort by age and none comes twice. Lines are appended to the model's open segment. It is sealed
 * when the next line would take it beyond segment_bytes (a longer line has a segment of its own), when it is an hour
 * old, and at the close: synced, and only then told of in one row of the database (time range, records, bytes,
 * SHA-256). A sealed segment never changes; it is removed as a whole.
 *
 * Together the segments of all models never take more than `bytes`, nor are there more than CAPTURE_SEGMENTS_MAX: the
 * oldest ones make room before a line is written. Segments whose newest line is older than age_ms are removed by
 * capture_log_upkeep.
 *
 * What is not sealed is not synced. A killed process loses no line that was appended, a machine that goes down may lose
 * the unsealed tails. capture_log_open seals what an earlier run left: whole lines are kept, a torn last one is cut
 * off. Of a segment that can not be synced nobody knows what the disk has: it is removed, and the log says so. The
 * database's own safety is not touched by that.
 *
 * Every line is an object that begins with "kind", "id" and "at_ms" and ends with a newline.
 *
 * Thread: the store thread (asserted). */
#ifndef WEIR_STORE_CAPTURE_LOG_H
#define WEIR_STORE_CAPTURE_LOG_H

#include "store/store.h"

#define CAPTURE_SEGMENTS_MAX 10000
#define CAPTURE_OPEN_MAX 64                 /* segments that are not sealed, of all models */
#define CAPTURE_SEGMENT_AGE_MS 3600000ll    /* then it is sealed */
#define CAPTURE_LINE_MAX ((size_t)16 << 20) /* bytes, with the newline */
#define CAPTURE_FILE_MAX 40

struct capture_bounds {
    uint64_t bytes;         /* of all segments */
    int64_t age_ms;         /* of a segment's newest line */
    uint64_t segment_bytes; /* at most bytes */
};
struct capture_segment {
    char model[NAME_MAX_LEN + 1];
    char file[CAPTURE_FILE_MAX];
    int64_t first_ms, last_ms; /* least and greatest at_ms of its lines */
    uint64_t records, bytes;
    char sha256[65]; /* of the file; "" until it is sealed */
    bool sealed;
};

struct capture_log;
/* Seals what an earlier run left. The folder is made with the first line. ERR_STORAGE. */
enum err_code capture_log_open(struct capture_log **out, struct store *s, const struct capture_bounds *b,
                               struct err *e) MUST_USE;
/* Seals what is open; what can not be sealed is left to the next open. NULL is fine. */
void capture_log_close(struct capture_log *g);

/* line: whole, with its newline; model: name_ok. On failure nothing of it is in the log: ERR_TOO_LARGE beyond
 * CAPTURE_LINE_MAX or the bound of all segments, ERR_STORAGE (disk full, I/O error, the store is read-only). */
enum err_code capture_log_append(struct capture_log *g, const char *model, int64_t at_ms, struct str line,
                                 struct err *e) MUST_USE;
/* Seals and removes what is due by its age; tries again what could not be sealed before. */
void capture_log_upkeep(struct capture_log *g, int64_t now_ms);

uint64_t capture_log_bytes(const struct capture_log *g); /* of all segments now */
/* A secret of this store, the same after a restart: 32 hex digits. */
const char *capture_log_salt(const struct capture_log *g);
/* A model's segments, oldest first, those that are not sealed included. *out: a heap array, NULL when there is none. */
enum err_code capture_log_list(struct capture_log *g, const char *model, struct capture_segment **out, size_t *n,
                               struct err *e) MUST_USE;

/* Reading a model's lines in pieces, oldest segment first. Zeroed but for what is said, it begins at the beginning. */
struct capture_reading {
    char model[NAME_MAX_LEN + 1];
    int64_t since_ms, until_ms; /* at_ms of the lines wanted: since <= at_ms < until */
    char kind[16];              /* "request", "feedback"; "": both */
    uint64_t left;              /* how many lines more, at most */
    /* private: where it is */
    char file[CAPTURE_FILE_MAX];
    uint64_t at; /* byte of the file */
    bool past;   /* that file is done */
};
/* Appends whole lines to out: some 256 KiB, or one line that is longer, or fewer or none when the lines that were
 * looked through (some MiB) are not wanted. *end: there are no more. A segment that is removed meanwhile is passed
 * over. ERR_STORAGE; what was appended by then is whole. */
enum err_code capture_log_read(struct capture_log *g, struct capture_reading *r, struct buf *out, bool *end,
                               struct err *e) MUST_USE;

#endif
