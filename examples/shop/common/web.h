/* SPDX-License-Identifier: Apache-2.0 */
/* A small HTTP server over libmicrohttpd: whole requests in, whole replies out, all of it bounded.
 *
 * A handler gets a request when all of it is there: method, path, query and form fields, at most one file. At most 128
 * connections, each a thread; 30 s without a byte end one. A body above the limit is refused with 413.
 *
 * Thread: handlers run on any number of threads at once. */
#ifndef SHOP_COMMON_WEB_H
#define SHOP_COMMON_WEB_H

#include <stdbool.h>
#include <stddef.h>

#include "common/text.h"

#define WEB_FIELDS 8
#define WEB_FIELD_MAX 400 /* bytes of a value; longer ones are cut */

struct web_field {
    char name[24], value[WEB_FIELD_MAX + 1];
};

struct web_request {
    const char *method, *path; /* GET for HEAD too; path: without the query, decoded */
    /* of the query, then of the form; the first of a name counts */
    struct web_field fields[WEB_FIELDS];
    int n_fields;
    /* The file of a form, or the body of a request that is no form. The handler may not keep it. */
    const char *file;
    size_t file_bytes;
    void *connection; /* for web_header and web_cookie */
};

const char *web_field(const struct web_request *q, const char *name);  /* "" if there is none */
const char *web_header(const struct web_request *q, const char *name); /* "" if there is none */
const char *web_cookie(const struct web_request *q, const char *name); /* "" if there is none */

/* The W3C trace context that came with it; NULL: none, or nothing like one. */
const char *web_traceparent(const struct web_request *q);

struct web_reply {
    int status;
    const char *type;     /* of the body; static */
    const char *cache;    /* Cache-Control; static */
    char location[300];   /* of a 303; "": none */
    char set_cookie[200]; /* "": none */
    struct text body;
};

/* Fills *r, which comes as 200 text/html, no-store, empty. */
typedef void web_handler(void *ctx, const struct web_request *q, struct web_reply *r);

struct web;

/* listen: "HOST:PORT", numbers or a name; port 0: any. file_max: bytes of a file. *out is the caller's. False: `why`.
 */
bool web_open(struct web **out, const char *listen, size_t file_max, web_handler *handler, void *ctx, char *why,
              size_t why_size);
const char *web_url(const struct web *w); /* "http://HOST:PORT", with the port that it has */
void web_close(struct web *w);            /* waits for the handlers; NULL is fine */

#endif
