/* SPDX-License-Identifier: Apache-2.0 */
/* weir split --check: the server that runs and the new one are asked the same, and must answer the same.
 *
 * First the running server tries the new one: every loaded version is opened there, which gives it the versions, has
 * the same inputs and outputs, and is closed again. A Weir in the inference role is then asked for the version by its
 * artifact, for its numbers are its own.
 *
 * The requests are those that were captured of the last day, else the version's own samples. Each goes to both sides,
 * one after the other, as sheddable work and by the stable version's number, so that no rollout has a part in it.
 * Answers are equal when every output is: names, datatypes, shapes, texts and whole numbers exactly, others within 1e-5
 * (of 1, or of the number where that is larger).
 *
 * Thread: the command's. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/sketch.h"
#include "cli/records.h"
#include "cli/samples.h"
#include "cli/show.h"
#include "cli/split.h"

#define REPLY_MAX (256u << 20)
#define TIMEOUT_US SECONDS(60)
#define DAY_MS 86400000
#define TRIES 6
#define NESTING 32
#define NEAR 1e-5

enum { HERE, THERE, SIDES };

struct requests {
    struct records records;
    struct samples samples;
    const char *from; /* "captured", "samples" */
    size_t n;
};

struct side {
    char *url, *path;
    struct http_client *client;
    struct http_answer answer;
    struct sketch latency;
};

struct far { /* the admin plane of a Weir over there; admin NULL: it is any other server */
    struct http_client *admin;
    struct buf headers;
};

struct outcome { /* of a model */
    uint64_t version, asked, identical, near, differ, errors;
    double most;     /* largest difference of two numbers */
    char first[300]; /* difference or error, in words */
};

/* ---- comparing ---- */

enum sameness { IDENTICAL, CLOSE, OTHER };

static enum sameness numbers(yyjson_val *a, yyjson_val *b, struct outcome *o)
{
    double x = yyjson_get_num(a), y = yyjson_get_num(b), d = fabs(x - y);

    if (yyjson_is_int(a) && yyjson_is_int(b)) {
        return yyjson_equals(a, b) ? IDENTICAL : OTHER;
    }
    if (x == y) {
        return IDENTICAL;
    }
    o->most = MAX(o->most, d);
    return d <= NEAR * MAX(1, fabs(x)) ? CLOSE : OTHER;
}

static enum sameness values(yyjson_val *a, yyjson_val *b, struct outcome *o, int depth)
{
    enum sameness worst = IDENTICAL;

    if (yyjson_is_num(a) && yyjson_is_num(b)) {
        return numbers(a, b, o);
    }
    if (!yyjson_is_arr(a) || !yyjson_is_arr(b)) {
        return yyjson_equals(a, b) ? IDENTICAL : OTHER;
    }
    yyjson_arr_iter x = yyjson_arr_iter_with(a), y = yyjson_arr_iter_with(b);
    if (yyjson_arr_size(a) != yyjson_arr_size(b) || depth == NESTING) {
        return OTHER;
    }
    for (yyjson_val *v; (v = yyjson_arr_iter_next(&x)) != NULL && worst != OTHER;) {
        enum sameness s = values(v, yyjson_arr_iter_next(&y), o, depth + 1);

        worst = MAX(worst, s);
    }
    return worst;
}

static yyjson_val *named(yyjson_val *outputs, const char *name)
{
    yyjson_val *v;
    size_t i, max;

    yyjson_arr_foreach(outputs, i, max, v)
    {
        const char *has = get_text(v, "name");

        if (has && name && strcmp(has, name) == 0) {
            return v;
        }
    }
    return NULL;
}

static enum sameness replies(yyjson_val *a, yyjson_val *b, struct outcome *o)
{
    enum sameness worst = IDENTICAL;
    yyjson_val *v;
    size_t i, max;

    if (yyjson_arr_size(a) == 0 || yyjson_arr_size(a) != yyjson_arr_size(b)) {
        snprintf(o->first, sizeof(o->first), "%zu outputs here, %zu there", yyjson_arr_size(a), yyjson_arr_size(b));
        return OTHER;
    }
    yyjson_arr_foreach(a, i, max, v)
    {
        const char *name = get_text(v, "name");
        yyjson_val *w = named(b, name);
        enum sameness s = OTHER;

        if (w && yyjson_equals(yyjson_obj_get(v, "datatype"), yyjson_obj_get(w, "datatype")) &&
            yyjson_equals(yyjson_obj_get(v, "shape"), yyjson_obj_get(w, "shape"))) {
            s = values(yyjson_obj_get(v, "data"), yyjson_obj_get(w, "data"), o, 0);
        }
        if (s == OTHER && o->differ == 0) {
            snprintf(o->first, sizeof(o->first), "output '%s' %s", name ? name : "?", w ? "differs" : "is not there");
        }
        worst = MAX(worst, s);
    }
    return worst;
}

/* ---- asking ---- */

static bool ask(struct side *s, const char *body, size_t n, struct err *e)
{
    struct iovec iov = {(void *)(uintptr_t)body, n};

    for (unsigned tried = 0;; tried++) {
        uint64_t start = clock_us();
        struct timespec t = {.tv_nsec = 50000000L << MIN(tried, 4u)};
        enum err_code rc = http_call(s->client, "POST", s->path,
                                     STR("Content-Type: application/json\r\nX-Weir-Priority: sheddable\r\n"), &iov, 1,
                                     TIMEOUT_US, &s->answer, e);

        if (rc == ERR_OK && s->answer.status == 200) {
            sketch_add(&s->latency, (clock_us() - start) * 1000);
            return true;
        }
        if (rc != ERR_OK) {
            return false;
        }
        cli_reply_error(&s->answer, s->url, e);
        if (s->answer.status != 503 || tried + 1 == TRIES) {
            return false;
        }
        nanosleep(&t, NULL);
    }
}

static yyjson_doc *parse(const struct side *s)
{
    return yyjson_read(s->answer.body.p ? s->answer.body.p : "", s->answer.body.n, 0);
}

static void compare(struct side *side, const char *body, size_t n, struct outcome *o)
{
    yyjson_doc *doc[SIDES] = {NULL, NULL};
    struct err e = {ERR_OK, ""};
    bool ok = true;

    o->asked++;
    for (int k = 0; k < SIDES && ok; k++) {
        ok = ask(&side[k], body, n, &e);
        doc[k] = ok ? parse(&side[k]) : NULL;
    }
    if (!ok) {
        if (o->errors++ == 0 && o->differ == 0) {
            snprintf(o->first, sizeof(o->first), "%s: %.200s", side[doc[HERE] ? THERE : HERE].url, e.text);
        }
    } else {
        enum sameness s = replies(yyjson_obj_get(yyjson_doc_get_root(doc[HERE]), "outputs"),
                                  yyjson_obj_get(yyjson_doc_get_root(doc[THERE]), "outputs"), o);

        o->identical += s == IDENTICAL;
        o->near += s == CLOSE;
        o->differ += s == OTHER;
    }
    for (int k = 0; k < SIDES; k++) {
        yyjson_doc_free(doc[k]);
    }
}

/* ---- what is asked ---- */

/* True: there is something. */
static bool read_captured(struct cli *c, const char *model, uint64_t limit, struct requests *r)
{
    int64_t now = clock_wall_ms();
    char *query = xasprintf("/capture/records?kind=request&since=%" PRId64 "&until=%" PRId64 "&limit=%" PRIu64,
                            now - DAY_MS, now, limit);
    char *path = cli_model_path(model, query);
    struct err e;
    bool ok = cli_call(c, "GET", path, NULL, &e) == ERR_OK && c->answer.body.n > 0 &&
              records_read(&r->records, buf_str(&c->answer.body), limit, &e) == ERR_OK;

    free(path);
    free(query);
    r->from = "captured";
    r->n = ok ? r->records.n : 0;
    return r->n > 0;
}

static enum err_code read_requests(struct cli *c, const char *model, uint64_t limit, struct requests *r, struct err *e)
{
    char *path;
    enum err_code rc;

    *r = (struct requests){.n = 0};
    if (read_captured(c, model, limit, r)) {
        return ERR_OK;
    }
    path = cli_model_path(model, "/samples");
    rc = cli_call(c, "GET", path, NULL, e);
    if (rc == ERR_OK) {
        rc = samples_read(&r->samples, buf_str(&c->answer.body), e);
    }
    free(path);
    r->from = "samples";
    r->n = rc == ERR_OK ? MIN(r->samples.n, (size_t)limit) : 0;
    return rc != ERR_OK ? rc
           : r->n > 0
               ? ERR_OK
               : err_set(e, ERR_NOT_FOUND,
                         "'%s' has no samples, and nothing was captured of it: there is nothing to ask with", model);
}

static void requests_done(struct requests *r)
{
    records_done(&r->records);
    samples_done(&r->samples);
}

/* ---- the report ---- */

static void put_times(struct buf *out, const struct side *s)
{
    uint64_t n = counter_get(&s->latency.count);

    buf_addf(out, "{\"n\":%" PRIu64 ",\"p50\":", n);
    json_f64(out, n ? sketch_quantile(&s->latency, .5) * 1000 : (double)NAN);
    BUF_LIT(out, ",\"p99\":");
    json_f64(out, n ? sketch_quantile(&s->latency, .99) * 1000 : (double)NAN);
    BUF_LIT(out, "}");
}

static void put_json(struct buf *out, const char *model, const struct requests *r, const struct outcome *o,
                     const struct side *side)
{
    BUF_LIT(out, "{\"model\":");
    json_strz(out, model);
    buf_addf(out,
             ",\"version\":%" PRIu64 ",\"requests\":\"%s\",\"asked\":%" PRIu64 ",\"identical\":%" PRIu64
             ",\"near\":%" PRIu64 ",\"differ\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"most\":",
             o->version, r->from, o->asked, o->identical, o->near, o->differ, o->errors);
    json_f64(out, o->most);
    BUF_LIT(out, ",\"problem\":");
    json_strz(out, o->first[0] ? o->first : NULL);
    BUF_LIT(out, ",\"latency_ms\":{\"here\":");
    put_times(out, &side[HERE]);
    BUF_LIT(out, ",\"there\":");
    put_times(out, &side[THERE]);
    BUF_LIT(out, "}}");
}

static void say_times(struct buf *out, const char *who, const struct side *s)
{
    buf_addf(out, "  %s ", who);
    show_ms(out, sketch_quantile(&s->latency, .5) * 1000);
    BUF_LIT(out, " / ");
    show_ms(out, sketch_quantile(&s->latency, .99) * 1000);
    BUF_LIT(out, " ms");
}

static void say(struct cli *c, const char *model, const struct requests *r, const struct outcome *o,
                const struct side *side)
{
    struct buf *out = &c->out;
    bool same = o->differ == 0 && o->errors == 0;

    show_paint(out, c->tty, same ? PAINT_GOOD : PAINT_BAD);
    buf_addz(out, same ? "  same    " : "  OTHER   ");
    show_paint(out, c->tty, PAINT_PLAIN);
    buf_addf(out,
             "%s v%" PRIu64 ": %" PRIu64 " %s: %" PRIu64 " identical, %" PRIu64 " within 1e-5 (most %.2g), %" PRIu64
             " differ, %" PRIu64 " errors;",
             model, o->version, o->asked, strcmp(r->from, "captured") == 0 ? "captured requests" : "sample requests",
             o->identical, o->near, o->most, o->differ, o->errors);
    say_times(out, "p50 / p99 here", &side[HERE]);
    say_times(out, "there", &side[THERE]);
    BUF_LIT(out, "\n");
    if (o->first[0]) {
        BUF_LIT(out, "          ");
        show_textz(out, o->first);
        BUF_LIT(out, "\n");
    }
}

/* ---- a model ---- */

/* The stable version, and the digest of its artifact. */
static enum err_code find_stable(struct cli *c, const char *model, uint64_t *version, char digest[65], struct err *e)
{
    char *path = cli_model_path(model, "");
    yyjson_doc *doc = NULL;
    yyjson_val *v;
    size_t i, max;
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, e);

    free(path);
    *version = rc == ERR_OK ? get_count(yyjson_doc_get_root(doc), "stable") : 0;
    digest[0] = '\0';
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "versions"), i, max, v)
    {
        if (*version && get_count(v, "version") == *version && get_text(v, "digest")) {
            snprintf(digest, 65, "%s", get_text(v, "digest"));
        }
    }
    yyjson_doc_free(doc);
    return rc != ERR_OK ? rc
           : *version   ? ERR_OK
                        : err_set(e, ERR_CONFLICT, "'%s' has no stable version to compare", model);
}

/* The number that the version has over there. */
static enum err_code find_far(struct far *far, struct side *there, const char *model, const char *digest,
                              uint64_t *version, struct err *e)
{
    char body[100], path[NAME_MAX_LEN + 40];
    struct iovec iov = {body, (size_t)snprintf(body, sizeof(body), "{\"digest\":\"%s\"}", digest)};
    enum err_code rc;

    if (!far->admin) {
        return ERR_OK; /* places http:// have our numbers */
    }
    snprintf(path, sizeof(path), "/admin/models/%s/hold", model);
    rc = http_call(far->admin, "POST", path, buf_str(&far->headers), &iov, 1, SECONDS(600), &there->answer, e);
    if (rc == ERR_OK && there->answer.status != 200) {
        rc = cli_reply_error(&there->answer, there->url, e);
    }
    if (rc == ERR_OK) {
        yyjson_doc *doc = parse(there);

        *version = get_count(yyjson_doc_get_root(doc), "version");
        yyjson_doc_free(doc);
    }
    return rc;
}

static enum err_code check_model(struct cli *c, struct side *side, struct far *far, const char *model,
                                 struct outcome *o, struct requests *r, struct err *e)
{
    uint64_t version;
    char digest[65];

    if (find_stable(c, model, &o->version, digest, e) != ERR_OK || read_requests(c, model, 200, r, e) != ERR_OK) {
        return e->code;
    }
    version = o->version;
    if (find_far(far, &side[THERE], model, digest, &version, e) != ERR_OK) {
        return e->code;
    }
    for (int k = 0; k < SIDES; k++) {
        side[k].path = xasprintf("/v2/models/%s/versions/%" PRIu64 "/infer", model, k == HERE ? o->version : version);
        memset(&side[k].latency, 0, sizeof(side[k].latency));
    }
    for (size_t i = 0; i < r->n && (o->errors < 5 || o->errors < o->asked); i++) { /* five errors and nothing else do */
        bool captured = r->records.n > 0;

        compare(side, captured ? r->records.list[i].body : r->samples.list[i].body,
                captured ? r->records.list[i].body_n : r->samples.list[i].body_n, o);
    }
    for (int k = 0; k < SIDES; k++) {
        free(side[k].path);
    }
    return ERR_OK;
}

/* ---- the other side ---- */

/* Has the running server open everything there, and close it again. */
static enum err_code try_there(struct cli *c, const struct split *s, struct err *e)
{
    char *path = xasprintf("/admin/families/%s", s->family);
    struct buf body;
    enum err_code rc;

    buf_init(&body, 8192);
    BUF_LIT(&body, "{\"trial\":true,\"place\":");
    json_strz(&body, s->to.place);
    if (s->token) {
        BUF_LIT(&body, ",\"token_file\":");
        json_strz(&body, s->token);
    }
    BUF_LIT(&body, "}");
    rc = cli_call(c, "POST", path, buf_z(&body), e);
    buf_done(&body);
    free(path);
    return rc;
}

static enum err_code read_token(struct far *far, const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    char line[300] = "";

    if (!f) {
        return err_sys(e, ERR_INVALID, "--far-token %s", path);
    }
    if (!fgets(line, sizeof(line), f)) {
        line[0] = '\0';
    }
    fclose(f);
    line[strcspn(line, "\r\n")] = '\0';
    buf_addf(&far->headers, "Authorization: Bearer %s\r\n", line);
    return ERR_OK;
}

/* Its data plane says where its admin plane is. */
static enum err_code find_admin(const struct split *s, struct side *there, struct far *far, struct err *e)
{
    enum err_code rc;
    yyjson_doc *doc;
    uint64_t port;
    char *url;

    if (strncmp(s->to.place, "weir:", 5) != 0) {
        return ERR_OK;
    }
    rc = http_call(there->client, "GET", "/v2", STR(""), NULL, 0, TIMEOUT_US, &there->answer, e);
    if (rc != ERR_OK) {
        return rc;
    }
    doc = parse(there);
    port = get_count(yyjson_doc_get_root(doc), "admin_port");
    yyjson_doc_free(doc);
    if (port == 0) {
        return err_set(e, ERR_CONFLICT, "%s is no Weir in the inference role (weir serve --role inference)",
                       there->url);
    }
    url = xasprintf(strchr(s->to.host, ':') ? "http://[%s]:%" PRIu64 : "http://%s:%" PRIu64, s->to.host, port);
    rc = http_client_new(&far->admin, str_of(url), e);
    free(url);
    return rc == ERR_OK && s->token ? read_token(far, s->token, e) : rc;
}

int split_check(struct cli *c, const struct split *s)
{
    struct side *side = xcalloc(SIDES, sizeof(*side));
    struct err e = {ERR_OK, ""};
    bool same = true;
    struct far far = {0};
    enum err_code rc = cli_data_url(c, &side[HERE].url, &e);

    buf_init(&far.headers, 4096);
    side[THERE].url = xasprintf(strchr(s->to.host, ':') ? "http://[%s]:%s" : "http://%s:%s", s->to.host, s->to.port);
    for (int k = 0; k < SIDES; k++) {
        http_answer_init(&side[k].answer, REPLY_MAX);
        rc = rc == ERR_OK ? http_client_new(&side[k].client, str_of(side[k].url), &e) : rc;
    }
    rc = rc == ERR_OK ? try_there(c, s, &e) : rc;
    rc = rc == ERR_OK ? find_admin(s, &side[THERE], &far, &e) : rc;
    buf_addz(&c->out, c->json ? "{\"check\":[" : "");
    if (!c->json) {
        buf_addf(&c->out, "%s: %s against %s\n", s->family, side[HERE].url, side[THERE].url);
    }
    for (size_t i = 0; i < s->needs.n_models && rc == ERR_OK; i++) {
        struct outcome o = {0};
        struct requests r = {0};

        rc = check_model(c, side, &far, s->needs.model[i], &o, &r, &e);
        if (rc == ERR_OK && c->json) {
            buf_addz(&c->out, i ? "," : "");
            put_json(&c->out, s->needs.model[i], &r, &o, side);
        } else if (rc == ERR_OK) {
            say(c, s->needs.model[i], &r, &o, side);
        }
        same = same && o.differ == 0 && o.errors == 0;
        requests_done(&r);
    }
    for (int k = 0; k < SIDES; k++) {
        http_client_free(side[k].client);
        http_answer_done(&side[k].answer);
        free(side[k].url);
    }
    http_client_free(far.admin);
    buf_done(&far.headers);
    free(side);
    if (rc != ERR_OK) {
        buf_clear(&c->out);
        return cli_fail(c, &e);
    }
    buf_addf(&c->out, c->json ? "],\"same\":%s}\n" : "%s\n",
             c->json ? same ? "true" : "false"
             : same  ? "both give the same answers"
                     : "they do NOT give the same answers: nothing was switched");
    return same ? 0 : EXIT_FAILED;
}
