/* SPDX-License-Identifier: Apache-2.0 */
/* The route table at work: patterns split once at start, a path split once a request, and the glue to HTTP.
 *
 * Rows are kept in small groups, by the number of their segments and their first one, so that a request is compared
 * with a handful of rows and nothing is allocated. Literals are compared as they were sent; only parameters are
 * decoded, once, and a decoded parameter must be a name, so that no '/', no NUL and no ".." comes out of an escape.
 *
 * A request refused here (404, 405, 401, 403, 413) never becomes a struct request: x->user stays NULL.
 *
 * Thread: the listener's loop. */
#include "api/plane.h"

#include <stdlib.h>

#include "base/json.h"

#define SEGMENTS_MAX 8
#define FIRST_MAX 64 /* longest first segment of a pattern */
#define PARAMETERS_MAX 2
#define POOL_MAX 64           /* requests kept for later */
#define KEEP_BODY (64u << 10) /* of the body memory of each */

struct row {
    const struct api_route *route;
    enum http_method method;
    struct str seg[SEGMENTS_MAX]; /* p == NULL: a parameter */
};
struct group {
    size_t n;
    struct row rows[];
};

/* ---- the table ---- */

static enum http_method method_of(const char *name)
{
    static const struct {
        const char *name;
        enum http_method method;
    } table[] = {{"GET", HTTP_GET}, {"POST", HTTP_POST}, {"PUT", HTTP_PUT}, {"DELETE", HTTP_DELETE}};

    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (strcmp(name, table[i].name) == 0) {
            return table[i].method;
        }
    }
    assert(!"a route's method is one of the table");
    return HTTP_OTHER;
}

/* The segments of a path; false if it can match no pattern: not absolute, too many, or one that is empty, "." or "..".
 */
static bool path_split(struct str path, struct str *seg, size_t *n)
{
    size_t count = 0;

    if (path.n == 0 || path.p[0] != '/') {
        return false;
    }
    for (const char *p = path.p + 1, *end = path.p + path.n; path.n > 1;) {
        const char *slash = memchr(p, '/', (size_t)(end - p));
        struct str one = {p, (size_t)((slash ? slash : end) - p)};

        if (one.n == 0 || str_is(one, ".") || str_is(one, "..") || count == SEGMENTS_MAX) {
            return false;
        }
        seg[count++] = one;
        if (!slash) {
            break;
        }
        p = slash + 1;
    }
    *n = count;
    return true;
}

/* What a group is found by: the number of segments and the first of them. */
static struct str group_key(char out[FIRST_MAX + 1], const struct str *seg, size_t n)
{
    size_t first = n > 0 ? seg[0].n : 0;

    if (first > FIRST_MAX) {
        return (struct str){NULL, 0};
    }
    out[0] = (char)('0' + n);
    memcpy(out + 1, n > 0 ? seg[0].p : "", first);
    return (struct str){out, first + 1};
}

static void row_add(struct plane *p, const struct api_route *route)
{
    struct row row = {.route = route, .method = method_of(route->method)};
    char text[FIRST_MAX + 1];
    size_t n = 0, parameters = 0;
    bool split = path_split(str_of(route->pattern), row.seg, &n);
    struct str key = group_key(text, row.seg, n);

    assert(split && key.p && (n == 0 || row.seg[0].p[0] != '{') && (route->run != NULL) != (route->stages != NULL));
    for (size_t i = 0; i < n; i++) {
        if (row.seg[i].p[0] == '{') {
            row.seg[i].p = NULL;
            parameters++;
        }
    }
    assert(parameters <= PARAMETERS_MAX);
    struct group *old = map_get(&p->by_first, key);
    size_t rows = old ? old->n : 0;
    struct group *g = xrealloc(old, sizeof(*g) + (rows + 1) * sizeof(row));
    g->rows[rows] = row;
    g->n = rows + 1;
    map_put(&p->by_first, key, g);
}

void plane_init(struct plane *p)
{
    p->free = NULL;
    p->n_free = 0;
    map_init(&p->by_first);
    for (size_t i = 0; i < p->n_routes; i++) {
        row_add(p, &p->routes[i]);
    }
}

void plane_done(struct plane *p)
{
    struct map_entry *entry;

    if (!p) {
        return;
    }
    for (size_t i = 0; (entry = map_next(&p->by_first, &i)) != NULL;) {
        free(entry->value);
    }
    map_done(&p->by_first);
    while (p->free) {
        struct request *r = p->free;

        p->free = r->state;
        buf_done(&r->body);
        free(r);
    }
}

/* ---- the match ---- */

static bool row_fits(const struct row *row, const struct str *seg, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (row->seg[i].p && !str_eq(row->seg[i], seg[i])) {
            return false;
        }
    }
    return true;
}

/* The row of a request. NULL: none has the path (*allowed 0), or none of those has the method (*allowed: a bit for each
 * that they have). */
static const struct row *row_find(const struct plane *p, enum http_method method, const struct str *seg, size_t n,
                                  unsigned *allowed)
{
    char text[FIRST_MAX + 1];
    struct str key = group_key(text, seg, n);
    const struct group *g = key.p ? map_get(&p->by_first, key) : NULL;

    *allowed = 0;
    for (size_t i = 0; g && i < g->n; i++) {
        const struct row *row = &g->rows[i];

        if (!row_fits(row, seg, n)) {
            continue;
        }
        if (row->method == method || (row->method == HTTP_GET && method == HTTP_HEAD)) {
            return row;
        }
        *allowed |= 1u << row->method;
    }
    return NULL;
}

/* Decodes and checks the parameters of a row that was found. */
static enum err_code take_parameters(struct http_ex *x, const struct row *row, const struct str *seg, size_t n,
                                     struct str *arg, struct err *e)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        if (row->seg[i].p) {
            continue;
        }
        struct str one = seg[i];
        if (memchr(one.p, '%', one.n)) {
            one = http_decode(x, one);
            if (!one.p) {
                return err_set(e, ERR_INVALID,
                               "the path holds a malformed escape: %%XX with two hexadecimal digits, not %%00");
            }
        }
        if (!name_ok(one)) {
            return err_set(e, ERR_INVALID,
                           "'%.*s' in the path is not a name: letters, digits, '.', '_' and '-', at most %d of them",
                           (int)MIN(one.n, (size_t)100), one.p, NAME_MAX_LEN);
        }
        arg[count++] = one;
    }
    return ERR_OK;
}

/* ---- replies ---- */

static void reply_refusal(struct http_ex *x, const struct err *e, unsigned allowed)
{
    static const struct {
        enum http_method method;
        const char *text;
    } table[] = {{HTTP_GET, "GET, HEAD"}, {HTTP_POST, "POST"}, {HTTP_PUT, "PUT"}, {HTTP_DELETE, "DELETE"}};

    if (e->code != ERR_METHOD && e->code != ERR_UNAUTHENTICATED) {
        http_reply_error(x, e);
        return;
    }
    struct buf allow;
    buf_init(&allow, 64);
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (allowed >> table[i].method & 1) {
            buf_addz(&allow, allow.n > 0 ? ", " : "");
            buf_addz(&allow, table[i].text);
        }
    }
    http_reply_begin(x, err_http(e->code), "application/json");
    if (e->code == ERR_METHOD) {
        http_reply_header(x, "Allow", buf_str(&allow));
    } else {
        http_reply_header(x, "WWW-Authenticate", STR("Bearer realm=\"weir\""));
    }
    struct buf *out = http_reply_body(x);
    BUF_LIT(out, "{\"error\":");
    json_strz(out, e->text);
    BUF_LIT(out, "}");
    http_reply_end(x);
    buf_done(&allow);
}

void reply_json(struct request *r, int status, const struct buf *body)
{
    if (body->over) {
        struct err e;

        err_set(&e, ERR_INTERNAL, "the reply is larger than this server can send, or there is no memory for it");
        http_reply_error(r->x, &e);
        return;
    }
    http_reply(r->x, status, "application/json", buf_str(body));
}

void reply_err(struct request *r, const struct err *e)
{
    reply_refusal(r->x, e, 0);
}

/* ---- requests ---- */

static struct request *request_take(struct plane *p, struct http_ex *x, const struct api_route *route)
{
    struct request *r = p->free;

    if (r) {
        p->free = r->state;
        p->n_free--;
    } else {
        r = xcalloc(1, sizeof(*r));
    }
    r->x = x;
    r->plane = p;
    r->route = route;
    r->state = NULL;
    r->pending = false;
    memset(r->arg, 0, sizeof(r->arg));
    r->body.max = SIZE_MAX - 1; /* the limit is checked before each piece */
    x->user = r;
    return r;
}

static void request_give(struct plane *p, struct request *r)
{
    if (p->n_free >= POOL_MAX) {
        buf_done(&r->body);
        free(r);
        return;
    }
    buf_clear(&r->body);
    buf_trim(&r->body, KEEP_BODY);
    r->x = NULL;
    r->state = p->free;
    p->free = r;
    p->n_free++;
}

/* ---- the service ---- */

static uint64_t body_limit(const struct request *r)
{
    uint64_t limit = r->route->max_body ? r->route->max_body : r->plane->max_body;

    return limit ? limit : UINT64_MAX;
}

static enum err_code body_too_large(const struct request *r, struct err *e)
{
    return err_set(e, ERR_TOO_LARGE, "the body is larger than the %llu bytes that this route takes",
                   (unsigned long long)body_limit(r));
}

static const struct row *admit(struct plane *p, struct http_ex *x, struct str *arg, unsigned *allowed, struct err *e)
{
    struct str seg[SEGMENTS_MAX];
    size_t n = 0;
    const struct row *row = NULL;

    *allowed = 0;
    if (path_split(x->path, seg, &n)) {
        row = row_find(p, x->method, seg, n, allowed);
    }
    if (!row) {
        struct str shown = {x->path.p, MIN(x->path.n, (size_t)200)};

        if (*allowed) {
            err_set(e, ERR_METHOD, "'" STR_FMT "' does not take this method", STR_ARG(shown));
        } else {
            err_set(e, ERR_NOT_FOUND, "no route '" STR_FMT "' on the %s listener", STR_ARG(shown), p->name);
        }
        return NULL;
    }
    if (p->access && p->access(p, x, row->route, e) != ERR_OK) {
        return NULL;
    }
    return take_parameters(x, row, seg, n, arg, e) == ERR_OK ? row : NULL;
}

static void on_headers(void *ctx, struct http_ex *x)
{
    struct plane *p = ctx;
    struct str arg[PARAMETERS_MAX] = {{NULL, 0}};
    struct err e;
    unsigned allowed;
    const struct row *row = admit(p, x, arg, &allowed, &e);

    x->user = NULL;
    if (!row) {
        reply_refusal(x, &e, allowed);
        return;
    }
    struct request *r = request_take(p, x, row->route);
    memcpy(r->arg, arg, sizeof(arg));
    if (x->length > 0 && (uint64_t)x->length > body_limit(r)) {
        body_too_large(r, &e);
        reply_err(r, &e);
    } else if (r->route->stages && r->route->stages->headers) {
        r->route->stages->headers(r);
    }
}

static void on_body(void *ctx, struct http_ex *x, const char *bytes, size_t n)
{
    struct request *r = x->user;
    struct err e;

    (void)ctx;
    if (!r) {
        return;
    }
    if (x->body_seen > body_limit(r)) { /* chunked: its length was not known before */
        body_too_large(r, &e);
        reply_err(r, &e);
        return;
    }
    if (r->route->stages) {
        r->route->stages->body(r, bytes, n);
        return;
    }
    buf_add(&r->body, bytes, n);
    if (r->body.over) {
        err_set(&e, ERR_UNAVAILABLE, "no memory for the body of the request");
        reply_err(r, &e);
    }
}

static void on_complete(void *ctx, struct http_ex *x)
{
    struct request *r = x->user;

    (void)ctx;
    if (!r) {
        return;
    }
    if (r->route->stages) {
        r->route->stages->complete(r);
        return;
    }
    r->route->run(r);
    assert(x->replied || x->gone || r->pending); /* every request gets its answer */
}

static void on_finished(void *ctx, struct http_ex *x)
{
    struct plane *p = ctx;
    struct request *r = x->user;

    if (!r) {
        return;
    }
    x->user = NULL;
    if (p->finished) {
        p->finished(r);
    }
    request_give(p, r);
}

struct http_service plane_service(struct plane *p)
{
    return (struct http_service){
        .ctx = p, .headers = on_headers, .body = on_body, .complete = on_complete, .finished = on_finished};
}
