/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: one table, plain bytes.
 *
 * An error is made once, where it happens (err_set), and passed up untouched; the edge (api, cli, main) turns it into
 * an HTTP status, a gRPC code or an exit status and logs it. It holds no pointer, so it is copied, sent over a socket
 * and stored as it is. The table below is the only place that knows what a code means to a client.
 *
 * Thread: any. Nothing here allocates or fails. */
#ifndef WEIR_BASE_ERR_H
#define WEIR_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* clang-format off */
/*   name           HTTP gRPC retry  meaning; retry: waiting may help, so a Retry-After goes out with it */
#define ERR_MAP(X)                                                            \
    X(OK,              200,  0, 0, "success")                                 \
    X(INVALID,         400,  3, 0, "malformed request")                       \
    X(UNAUTHENTICATED, 401, 16, 0, "a token is needed")                       \
    X(FORBIDDEN,       403,  7, 0, "not allowed here")                        \
    X(NOT_FOUND,       404,  5, 0, "no such model, version or route")         \
    X(METHOD,          405, 12, 0, "the route has no such method")            \
    X(SLOW_CLIENT,     408,  4, 0, "the client took too long to send")        \
    X(CONFLICT,        409,  9, 0, "the state does not allow this")           \
    X(LENGTH,          411,  3, 0, "a length is required")                    \
    X(TOO_LARGE,       413,  3, 0, "larger than the limit")                   \
    X(REFUSED,         422,  3, 0, "understood, but it can not be accepted")  \
    X(HEADERS,         431,  3, 0, "header fields too large or too many")     \
    X(QUOTA,           429,  8, 1, "the caller's quota is used up")           \
    X(CANCELLED,       499,  1, 0, "the caller went away")                    \
    X(INTERNAL,        500, 13, 0, "a bug of ours")                           \
    X(MODEL,           500, 13, 0, "the model failed on this input")          \
    X(UNIMPLEMENTED,   501, 12, 0, "not part of this server yet")             \
    X(UNAVAILABLE,     503, 14, 1, "no capacity, still loading, or down")     \
    X(TIMEOUT,         504,  4, 0, "the deadline passed")                     \
    X(STORAGE,         507, 13, 1, "the store can not write")
/* clang-format on */

enum err_code {
#define X(name, http, grpc, retry, text) ERR_##name,
    ERR_MAP(X)
#undef X
        ERR_COUNT_
};

struct err {
    enum err_code code;
    char text[508];
};

/* Fills *e (may be NULL) and returns code: return err_set(e, ERR_NOT_FOUND, "no model '%s'", name);
 * Text longer than the field is cut at a character border. */
enum err_code err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF(3, 4);
enum err_code err_vset(struct err *e, enum err_code code, const char *fmt, va_list ap) PRINTF(3, 0);
/* As err_set with ": strerror(errno)" at its end; errno is read first. */
enum err_code err_sys(struct err *e, enum err_code code, const char *fmt, ...) PRINTF(3, 4);

int err_http(enum err_code code);         /* HTTP status */
int err_grpc(enum err_code code);         /* gRPC status code */
int err_retryable(enum err_code code);    /* 1 if waiting may help */
const char *err_name(enum err_code code); /* "not_found", for logs, metrics and JSON */
/* The code a client of ours gets back from a status: the first row with that HTTP status, else INTERNAL (5xx) or
 * INVALID (4xx). */
enum err_code err_from_http(int status);
struct str;
/* The code of a name as err_name gives it, in the header X-Weir-Error of a reply say; false: there is no such. */
bool err_from_name(struct str name, enum err_code *out);

#endif
