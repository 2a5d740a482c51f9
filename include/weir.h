/* SPDX-License-Identifier: Apache-2.0 */
/* Weir as an application sees it: the inference boundary, the only public header.
 *
 * An application opens a place, asks models there, and closes it. Where the models run is in the string given to
 * weir_open and nowhere else: a server, a unix socket, or a private server of the application's own. The calls, the
 * errors and the results are the same.
 *
 *     struct weir *w = NULL;
 *     struct weir_error e;
 *     if (weir_open(&w, "http://127.0.0.1:8000", &e) != WEIR_OK) { … e.text … }
 *
 * Ownership: what a call takes stays the caller's; what a call makes is given back with its own _free or _close, which
 * accept NULL. Out parameters are untouched on failure.
 * Threads: a struct weir may be used by any number of threads at once; calls run side by side, each on a connection of
 * its own. Two handles share nothing. A result belongs to one thread at a time.
 * Errors: every call that can fail returns a code and, where the last parameter is not NULL, fills it with the code and
 * one sentence that says what was wrong and what to do. The library prints nothing and never aborts over its input. */
#ifndef WEIR_H
#define WEIR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEIR_API __attribute__((visibility("default")))
#define WEIR_VERSION_STRING "0.1.0"

/* ---- errors ---- */

enum weir_code {
    WEIR_OK,
    WEIR_INVALID,         /* malformed: a wrong dtype, shape, name, length */
    WEIR_UNAUTHENTICATED, /* a token is needed */
    WEIR_FORBIDDEN,
    WEIR_NOT_FOUND, /* no such model or version */
    WEIR_METHOD,
    WEIR_SLOW_CLIENT,
    WEIR_CONFLICT,
    WEIR_LENGTH,
    WEIR_TOO_LARGE, /* larger than a limit of the server or of this library */
    WEIR_REFUSED,
    WEIR_HEADERS,
    WEIR_QUOTA, /* the caller's quota is used up; try again later */
    WEIR_CANCELLED,
    WEIR_INTERNAL, /* a bug, here or in the server */
    WEIR_MODEL,    /* the model failed on this input */
    WEIR_UNIMPLEMENTED,
    WEIR_UNAVAILABLE, /* nobody listens there, the connection broke, or there is no capacity; try again later */
    WEIR_TIMEOUT,     /* the time limit passed */
    WEIR_STORAGE,
};

struct weir_error {
    enum weir_code code;
    char text[508]; /* one sentence, terminated */
};

/* "not_found"; "?" for a number that is no code. Never NULL, never freed. */
WEIR_API const char *weir_code_name(enum weir_code code);
/* The version of the library that runs, which may be newer than WEIR_VERSION_STRING. */
WEIR_API const char *weir_version(void);

/* ---- tensors ---- */

enum weir_dtype {
    WEIR_BOOL = 1, /* one byte an element */
    WEIR_UINT8,
    WEIR_UINT16,
    WEIR_UINT32,
    WEIR_UINT64,
    WEIR_INT8,
    WEIR_INT16,
    WEIR_INT32,
    WEIR_INT64,
    WEIR_FP16,
    WEIR_BF16,
    WEIR_FP32,
    WEIR_FP64,
    WEIR_BYTES, /* texts or other strings of bytes, each of its own length */
};

/* "FP32"; "?" for a number that is none. */
WEIR_API const char *weir_dtype_name(enum weir_dtype dtype);

struct weir_string {
    const void *p; /* not terminated */
    size_t n;
};

/* An input, or an output of a result. Elements are row-major, without padding, little-endian. */
struct weir_tensor {
    const char *name; /* terminated */
    enum weir_dtype dtype;
    uint32_t rank;        /* dimensions; 0 is a single element, at most 8 */
    const int64_t *shape; /* rank numbers, none negative */
    /* The elements. Input of dtype WEIR_BYTES: either `strings` (then data and bytes are not read), or `data` already
     * encoded: for each element its length in 4 bytes, little-endian, and its bytes. Outputs have both. */
    const void *data;
    size_t bytes;                      /* length of data */
    const struct weir_string *strings; /* WEIR_BYTES only: one an element, else NULL */
};

/* ---- a place ---- */

struct weir;

/* Opens a place. `where` is one of
 *   "http://HOST:PORT"     the inference port of a server
 *   "weir://HOST[:PORT]"   the same of another Weir, port 8000 if none is named
 *   "unix:/PATH"           the same on a unix socket
 *   "spawn:FILE"           a private server: the program `weir` is started as a child process with this configuration
 *                          file ("spawn:" alone: without one) and its inference and admin ports on unix sockets in a
 * folder that only this user can enter. The call waits (at most 60 s) until the server is ready. It dies with the
 * application, also when that is killed. When it ends by itself it is started again: calls under way fail with
 * WEIR_UNAVAILABLE, later ones wait for it within their time limit (30 s without one, but a weir_submit without one
 * waits as long as it takes). The program is $WEIR_BINARY, else the one installed beside this library, else the first
 * `weir` in $PATH. Its messages go to the application's standard error.
 * "inproc:FILE" is the whole server inside this process, on threads of its own, with this configuration file ("inproc:"
 * alone: without one). The data (what `weir push` has put there, with a server on the same folder before or after) is
 * where the file says, else in weir-data beside it; two connection threads at most and a log of warnings and errors,
 * to standard error, unless the file says otherwise. The call waits (at most 60 s) until the models are loaded; one
 * that can not be loaded answers with the reason. It listens nowhere and leaves signals, umask, folder and limits
 * alone. With families of `place: inline` it opens no socket; `place: worker` starts processes (of the program that
 * spawn would start), each behind a socket pair. Several may be open, each with data of its own.
 * "https://…" is known and answers WEIR_UNIMPLEMENTED. All but spawn and inproc do not connect: that happens at the
 * first call, so that the server may start later. *out is the caller's, given back with weir_close. Blocks for spawn
 * and inproc only. Fails with WEIR_INVALID (no such kind of place, a wrong file), WEIR_UNIMPLEMENTED, WEIR_NOT_FOUND
 * (no program to start, no such file), WEIR_CONFLICT (inproc: the data is in use), WEIR_UNAVAILABLE (the server ended
 * before it was ready), WEIR_TIMEOUT, WEIR_STORAGE (no temporary folder, or no store). */
WEIR_API enum weir_code weir_open(struct weir **out, const char *where, struct weir_error *e);

/* Ends it: closes the connections; a spawned server finishes what it is doing and ends (after 10 s it is killed), and
 * its folder is removed; a house in this process ends with what it is doing. No call may be running on w. Results stay
 * valid. Blocks for spawn and inproc only. */
WEIR_API void weir_close(struct weir *w);

/* ---- inference ---- */

/* How to ask. Set it to WEIR_CALL_INIT, then what is wanted. Everything is read during the call only. */
struct weir_call {
    size_t size;            /* sizeof(struct weir_call): fields that come with later versions are not read beyond it */
    uint64_t version;       /* this version of the model; 0: the server's choice (stable, or a canary by user) */
    const char *request_id; /* to find this request in logs and for feedback; NULL: the server makes one */
    const char *user;       /* assignment key: the same user gets the same arm of a rollout; NULL: none */
    uint64_t timeout_us;    /* limit of the whole call, also sent to the server as its deadline; 0: none */
    const char *const *outputs; /* names of the outputs wanted; NULL: all */
    size_t n_outputs;
    /* The W3C trace context of the caller's own span, 00-TRACE-SPAN-FLAGS as it came with the request that this call is
     * for: the server's span then belongs to the same trace (weir trace). What is malformed is not sent. NULL: none. */
    const char *traceparent;
};
#define WEIR_CALL_INIT {sizeof(struct weir_call), 0, NULL, NULL, 0, NULL, 0, NULL}

struct weir_result;

/* Asks a model and waits for its answer. call: NULL for the presets. *out is the caller's, given back with
 * weir_result_free. Blocks until the answer, the error or the time limit. Not repeated by itself once the server may
 * have seen it. Fails with any code of the server, WEIR_UNAVAILABLE, WEIR_TIMEOUT, or WEIR_INVALID before anything is
 * sent (a text that no HTTP header can carry, data whose length does not fit the shape). */
WEIR_API enum weir_code weir_infer(struct weir *w, const char *model, const struct weir_tensor *inputs, size_t n_inputs,
                                   const struct weir_call *call, struct weir_result **out, struct weir_error *e);

/* All of these point into the result and are valid until weir_result_free. */
WEIR_API size_t weir_result_count(const struct weir_result *r); /* outputs */
WEIR_API const struct weir_tensor *weir_result_output(const struct weir_result *r,
                                                      size_t i); /* NULL beyond the count */
WEIR_API const struct weir_tensor *weir_result_find(const struct weir_result *r, const char *name); /* NULL: none */
WEIR_API const char *weir_result_request_id(const struct weir_result *r);                           /* "" if none */
WEIR_API const char *weir_result_version(const struct weir_result *r); /* version that answered; "" if not said */
WEIR_API const char *weir_result_arm(const struct weir_result *r);     /* "stable", "canary"; "" outside a rollout */
WEIR_API void weir_result_free(struct weir_result *r);

/* ---- calls that nobody waits for ----
 *
 * weir_submit begins a call and returns at once with a ticket; the call goes on by itself, on the one background thread
 * that the handle has for all of them. A call that has finished, whatever became of it,
 * waits until it is taken: by weir_poll, weir_take or weir_wait, on any thread, by one of them once. At most
 * WEIR_OPEN_MAX calls with WEIR_OPEN_BYTES of inputs are open on a handle (submitted and not taken yet); one more is
 * refused with WEIR_QUOTA. */
#define WEIR_OPEN_MAX 4096
#define WEIR_OPEN_BYTES (UINT64_C(1) << 30)

/* A finished call. Set size before it is given to one of the calls below; the rest is filled in by them. */
struct weir_done {
    size_t size;                /* sizeof(struct weir_done) */
    uint64_t ticket;            /* as weir_submit gave it */
    void *ctx;                  /* as weir_submit took it */
    enum weir_code code;        /* what weir_infer would have returned */
    struct weir_result *result; /* the caller's, given back with weir_result_free; NULL unless code is WEIR_OK */
    struct weir_error error;    /* filled unless code is WEIR_OK */
};
#define WEIR_DONE_INIT {sizeof(struct weir_done), 0, NULL, WEIR_OK, NULL, {WEIR_OK, ""}}

/* Begins a call as weir_infer does it. All is read, and the inputs copied, before it returns. *ticket (never 0, never
 * used again in this handle) names it. call->timeout_us runs from here on, also while the call waits for a free
 * connection (a handle has at most 64 of these). Does not block. Fails with WEIR_INVALID, WEIR_TOO_LARGE, WEIR_QUOTA,
 * WEIR_UNAVAILABLE (no thread or no descriptor); what goes wrong later is told by the finished call. */
WEIR_API enum weir_code weir_submit(struct weir *w, const char *model, const struct weir_tensor *inputs,
                                    size_t n_inputs, const struct weir_call *call, void *ctx, uint64_t *ticket,
                                    struct weir_error *e);
/* A descriptor for poll, epoll or select: readable as long as a finished call waits to be taken. The handle's: only to
 * be watched, not read, written or closed; valid until weir_close. -1: *e says why (WEIR_UNAVAILABLE: no descriptor).
 */
WEIR_API int weir_fd(struct weir *w, struct weir_error *e);

/* These return 1: a finished call was taken, *out says which and what became of it; 0: none has finished (yet);
 * -1: there is no such call: the ticket was taken already or never given, or, of weir_poll and of weir_wait for any,
 * none is open. out: set to WEIR_DONE_INIT; untouched unless 1 is returned. */
WEIR_API int weir_poll(struct weir *w, struct weir_done *out);                  /* any; does not block */
WEIR_API int weir_take(struct weir *w, uint64_t ticket, struct weir_done *out); /* this one; does not block */
/* Waits at most limit_us (UINT64_MAX: as long as it takes) for this one, or for any if ticket is 0. That the limit
 * passed changes nothing for the call, which goes on. */
WEIR_API int weir_wait(struct weir *w, uint64_t ticket, uint64_t limit_us, struct weir_done *out);
/* A wish: the call finishes soon, with WEIR_CANCELLED if nothing else came first. It is still to be taken. The server
 * is told by the end of the connection. Does nothing for a ticket that is not open. Does not block. */
WEIR_API void weir_cancel(struct weir *w, uint64_t ticket);

/* ---- feedback ---- */

/* What became of an answer. Set it to WEIR_FEEDBACK_INIT, then what is known: at least one of label, correct and
 * reward, and not both label and correct. Everything is read during the call only. */
struct weir_feedback {
    size_t size;       /* sizeof(struct weir_feedback) */
    const char *label; /* the true class, compared by the server with the one that was predicted; NULL: not said */
    int correct;       /* 1: the answer was right, 0: it was wrong, -1: not said */
    double reward;     /* how good it was, on a scale of your own, from -1e12 to 1e12; NAN: none */
    int supersede;     /* 1: corrects what was said about this answer before; 0: what was said first stays */
};
#define WEIR_FEEDBACK_INIT {sizeof(struct weir_feedback), NULL, -1, NAN, 0}

/* Tells the server what became of an answer of this model. request_id: weir_result_request_id of that answer. It counts
 * for the version and the arm that answered. Said twice it counts once. Blocks, at most 30 s. Fails with WEIR_NOT_FOUND
 * (the model, or an answer with that id among its newest ones, is not known), WEIR_INVALID, WEIR_CONFLICT (no class was
 * predicted that a label could be compared with), WEIR_UNAVAILABLE, WEIR_TIMEOUT.
 * (In C++ say `struct weir_feedback` for the type: the function has the same name.) */
WEIR_API enum weir_code weir_feedback(struct weir *w, const char *model, const char *request_id,
                                      const struct weir_feedback *f, struct weir_error *e);

#ifdef __cplusplus
}
#endif
#endif
