/* SPDX-License-Identifier: Apache-2.0 */
/* libcurl by dlopen; see webhook_curl.h.
 *
 * The few functions and numbers that are used stand here, so that neither its headers nor the library are needed to
 * build: they are facts of its binary interface (libcurl.so.4, release 7.32 or newer).
 *
 * Thread: one at a time. */
#include "api/webhook_curl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* CURLOPT_…, CURLINFO_… */
enum {
    OPT_URL = 10002,
    OPT_ERRORBUFFER = 10010,
    OPT_POSTFIELDS = 10015,
    OPT_USERAGENT = 10018,
    OPT_HTTPHEADER = 10023,
    OPT_XFERINFODATA = 10057,
    OPT_WRITEFUNCTION = 20011,
    OPT_OPENSOCKETFUNCTION = 20163,
    OPT_XFERINFOFUNCTION = 20219,
    OPT_POSTFIELDSIZE_LARGE = 30120,
    OPT_NOPROGRESS = 43,
    OPT_FOLLOWLOCATION = 52,
    OPT_SSL_VERIFYPEER = 64,
    OPT_SSL_VERIFYHOST = 81,
    OPT_NOSIGNAL = 99,
    OPT_TIMEOUT_MS = 155,
    OPT_PROTOCOLS = 181,
    INFO_RESPONSE_CODE = 0x200002,
};
struct curl_address { /* struct curl_sockaddr */
    int family, type, protocol;
    unsigned length;
    struct sockaddr addr;
};
#define GLOBAL_ALL 3L
#define PROTOCOLS_HTTP_HTTPS 3L
#define ERROR_TEXT 256 /* CURL_ERROR_SIZE */

struct curl_client {
    void *library, *easy;
    int (*global_init)(long flags);
    void *(*easy_init)(void);
    int (*setopt)(void *easy, int option, ...);
    int (*perform)(void *easy);
    int (*getinfo)(void *easy, int info, ...);
    const char *(*strerror)(int code);
    void (*reset)(void *easy);
    void (*cleanup)(void *easy);
    void *(*slist_append)(void *list, const char *text);
    void (*slist_free_all)(void *list);
};

static bool find_all(struct curl_client *c)
{
    const struct {
        const char *name;
        void *at;
    } table[] = {
        {"curl_global_init", &c->global_init},   {"curl_easy_init", &c->easy_init},
        {"curl_easy_setopt", &c->setopt},        {"curl_easy_perform", &c->perform},
        {"curl_easy_getinfo", &c->getinfo},      {"curl_easy_strerror", &c->strerror},
        {"curl_easy_reset", &c->reset},          {"curl_easy_cleanup", &c->cleanup},
        {"curl_slist_append", &c->slist_append}, {"curl_slist_free_all", &c->slist_free_all},
    };

    for (size_t i = 0; i < COUNT_OF(table); i++) {
        void *symbol = dlsym(c->library, table[i].name);

        if (!symbol) {
            return false;
        }
        memcpy(table[i].at, &symbol, sizeof(symbol));
    }
    return true;
}

/* Also looked for again when it was not there: it may have been installed meanwhile. */
static enum err_code open_library(struct curl_client *c, struct err *e)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};

    if (c->easy) {
        return ERR_OK;
    }
    for (size_t i = 0; i < COUNT_OF(names) && !c->library; i++) {
        c->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!c->library) {
        return err_set(e, ERR_UNAVAILABLE, "libcurl.so.4 is not on this machine: install libcurl (Debian: libcurl4)");
    }
    if (!find_all(c) || c->global_init(GLOBAL_ALL) != 0) {
        return err_set(e, ERR_UNAVAILABLE, "the libcurl.so.4 of this machine can not be used");
    }
    c->easy = c->easy_init();
    return c->easy ? ERR_OK : err_set(e, ERR_UNAVAILABLE, "libcurl can not be used: no memory");
}

/* What the other side says in its answer's body is not kept. */
static size_t discard(char *p, size_t size, size_t n, void *ctx)
{
    (void)p;
    (void)ctx;
    return size * n;
}

/* Not for a worker that is started meanwhile: it must have no socket. */
static int open_socket(void *ctx, int purpose, const struct curl_address *a)
{
    (void)ctx;
    (void)purpose;
    return socket(a->family, a->type | SOCK_CLOEXEC, a->protocol);
}

static int broken_off(void *stop, int64_t a, int64_t b, int64_t c, int64_t d)
{
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return atomic_load((atomic_bool *)stop);
}

int curl_client_post(void *ctx, const struct webhook_call *call, struct err *e)
{
    struct curl_client *c = ctx;
    char text[ERROR_TEXT] = "";
    void *headers = NULL;
    long status = 0;

    if (open_library(c, e) != ERR_OK) {
        return 0;
    }
    for (size_t i = 0; call->headers[i]; i++) {
        void *longer = c->slist_append(headers, call->headers[i]);

        if (!longer) {
            c->slist_free_all(headers);
            err_set(e, ERR_UNAVAILABLE, "no memory for a request");
            return 0;
        }
        headers = longer;
    }
    c->reset(c->easy); /* the connection is kept */
    c->setopt(c->easy, OPT_URL, call->url);
    c->setopt(c->easy, OPT_ERRORBUFFER, text);
    c->setopt(c->easy, OPT_POSTFIELDS, call->body.p); /* makes it a POST */
    c->setopt(c->easy, OPT_POSTFIELDSIZE_LARGE, (int64_t)call->body.n);
    c->setopt(c->easy, OPT_USERAGENT, "weir/" WEIR_VERSION);
    c->setopt(c->easy, OPT_HTTPHEADER, headers);
    c->setopt(c->easy, OPT_WRITEFUNCTION, discard);
    c->setopt(c->easy, OPT_OPENSOCKETFUNCTION, open_socket);
    c->setopt(c->easy, OPT_XFERINFOFUNCTION, broken_off);
    c->setopt(c->easy, OPT_XFERINFODATA, (void *)call->stop);
    c->setopt(c->easy, OPT_NOPROGRESS, 0L);
    c->setopt(c->easy, OPT_NOSIGNAL, 1L);
    c->setopt(c->easy, OPT_FOLLOWLOCATION, 0L);
    c->setopt(c->easy, OPT_SSL_VERIFYPEER, 1L);
    c->setopt(c->easy, OPT_SSL_VERIFYHOST, 2L);
    c->setopt(c->easy, OPT_TIMEOUT_MS, (long)WEBHOOK_TIMEOUT_MS);
    c->setopt(c->easy, OPT_PROTOCOLS, PROTOCOLS_HTTP_HTTPS);
    int rc = c->perform(c->easy);
    c->slist_free_all(headers);
    if (rc != 0) {
        err_set(e, ERR_UNAVAILABLE, "%s", text[0] ? text : c->strerror(rc));
        return 0;
    }
    c->getinfo(c->easy, INFO_RESPONSE_CODE, &status);
    return (int)status;
}

struct curl_client *curl_client_new(void)
{
    return xcalloc(1, sizeof(struct curl_client));
}

/* The library stays: what it has set up in the process can not be taken back safely beside other threads. */
void curl_client_free(struct curl_client *c)
{
    if (c && c->easy) {
        c->cleanup(c->easy);
    }
    free(c);
}
