/* SPDX-License-Identifier: Apache-2.0 */
/* The admin plane's table, its access rules, and what is about the server as a whole.
 *
 * Thread: control's loop. */
#include "api/admin.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/json.h"

/* ---- answers that come later ---- */

void ticket_open(struct ticket *t, struct request *r, void (*left)(struct ticket *t))
{
    t->r = r;
    t->left = left;
    r->state = t;
    r->pending = true;
}

struct request *ticket_close(struct ticket *t)
{
    struct request *r = t->r;

    t->r = NULL;
    if (r) {
        r->state = NULL;
    }
    return r;
}

void admin_finished(struct request *r)
{
    struct ticket *t = r->state;

    if (!t) {
        return;
    }
    r->state = NULL;
    t->r = NULL;
    if (t->left) {
        t->left(t);
    }
}

static void disk_job_home(struct task *task)
{
    struct disk_job *j = CONTAINER_OF(task, struct disk_job, back);
    struct request *r = ticket_close(&j->ticket);

    if (r) {
        j->answer(r, j);
    }
    buf_done(&j->out);
    free(j->family);
    free(j->root);
    free(j->path);
    free(j);
}

static void disk_job_run(struct store *s, struct store_job *job)
{
    struct disk_job *j = CONTAINER_OF(job, struct disk_job, job);

    j->work(s, j);
    loop_post(j->home, &j->back);
}

struct disk_job *disk_job_new(size_t out_max)
{
    struct disk_job *j = xcalloc(1, sizeof(*j));

    buf_init(&j->out, out_max);
    j->job.run = disk_job_run;
    j->back.fn = disk_job_home;
    return j;
}

void disk_job_post(struct disk_job *j, struct request *r)
{
    j->home = r->x->loop;
    ticket_open(&j->ticket, r, NULL);
    store_post(control_store(r->plane->control), &j->job);
}

struct buf *json_reply(struct request *r, int status)
{
    http_reply_begin(r->x, status, "application/json");
    return http_reply_body(r->x);
}

/* ---- access ---- */

/* Takes the same time wherever the two differ first. */
static bool token_same(struct str sent, const char *token)
{
    size_t n = strlen(token);
    volatile unsigned differ = sent.n != n;

    for (size_t i = 0; i < sent.n; i++) {
        differ |= (unsigned char)sent.p[i] ^ (unsigned char)token[i % n];
    }
    return differ == 0;
}

static enum err_code check_token(const struct http_ex *x, const char *token, struct err *e)
{
    static const char scheme[] = "Bearer ";
    struct str sent = http_header(x, "authorization");
    size_t n = sizeof(scheme) - 1;

    if (http_header_count(x, "authorization") != 1 || sent.n <= n ||
        !str_eq_nocase((struct str){sent.p, n}, STR("Bearer "))) {
        return err_set(e, ERR_UNAUTHENTICATED,
                       "this server wants its admin token: 'Authorization: Bearer TOKEN' (weir --token-file FILE)");
    }
    if (!token_same((struct str){sent.p + n, sent.n - n}, token)) {
        return err_set(e, ERR_UNAUTHENTICATED, "this is not the server's admin token");
    }
    return ERR_OK;
}

/* True for localhost, 127.0.0.1 or [::1], with any port or none. */
static bool host_is_loopback(struct str host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct str name = str_of(names[i]);
        uint64_t port;

        if (host.n < name.n || !str_eq_nocase((struct str){host.p, name.n}, name)) {
            continue;
        }
        struct str rest = {host.p + name.n, host.n - name.n};
        if (rest.n == 0 ||
            (rest.p[0] == ':' && str_u64((struct str){rest.p + 1, rest.n - 1}, &port) && port <= 65535)) {
            return true;
        }
    }
    return false;
}

/* Without a token it is the browser that could be turned against us: a page from somewhere else sends its own name in
 * Host (after DNS rebinding) or in Origin. */
static enum err_code check_local(const struct http_ex *x, const struct admin_facts *f, struct err *e)
{
    struct str host = http_header(x, "host"), origin = http_header(x, "origin"), at = {NULL, 0};
    bool is_unix = strncmp(f->admin_url, "unix:", 5) == 0;
    bool ours =
        host.n == 0 ? is_unix : host_is_loopback(host) || (f->host_ok[0] && str_eq_nocase(host, str_of(f->host_ok)));

    if (!ours || http_header_count(x, "host") > 1) {
        return err_set(
            e, ERR_FORBIDDEN,
            "without admin_token_file this listener answers only requests for localhost, not for Host '%.*s'",
            (int)MIN(host.n, (size_t)100), host.p ? host.p : "");
    }
    if (!origin.p) {
        return ERR_OK;
    }
    for (size_t i = 0; i < 2; i++) {
        struct str scheme = i ? STR("https://") : STR("http://");

        if (origin.n > scheme.n && str_eq_nocase((struct str){origin.p, scheme.n}, scheme)) {
            at = (struct str){origin.p + scheme.n, origin.n - scheme.n};
        }
    }
    if (http_header_count(x, "origin") > 1 || at.n == 0 || !str_eq_nocase(at, host)) {
        return err_set(e, ERR_FORBIDDEN,
                       "without admin_token_file this listener answers no pages of another origin ('%.*s')",
                       (int)MIN(origin.n, (size_t)100), origin.p);
    }
    return ERR_OK;
}

/* Routes that change who serves. */
static bool releases(const struct api_route *row)
{
    return row->run == admin_change_rollout || row->run == admin_rollback || row->run == admin_change_shadow ||
           row->run == admin_change_experiment;
}

enum err_code admin_access(struct plane *p, const struct http_ex *x, const struct api_route *row, struct err *e)
{
    const struct admin_facts *f = p->facts;

    if ((f->token[0] ? check_token(x, f->token, e) : check_local(x, f, e)) != ERR_OK) {
        return e->code;
    }
    return f->inference && releases(row)
               ? err_set(e, ERR_CONFLICT,
                         "this server is in the inference role: rollouts, shadows and experiments are the gateways' "
                         "matter, ask there")
               : ERR_OK;
}

/* ---- the server ---- */

/* What the loaded versions run on: the server itself opens no runtime, so it knows by what its workers said. */
static void show_runtimes(struct buf *b, struct control *c)
{
    struct model *const *models;
    size_t n = control_models(c, &models);
    const struct version *found = NULL;

    for (size_t i = 0; i < n && !found; i++) {
        for (size_t k = 0; k < models[i]->n_versions && !found; k++) {
            found = models[i]->versions[k]->info ? models[i]->versions[k] : NULL;
        }
    }
    if (found) { /* there is one backend in this build */
        json_key(b, found->row.backend);
        BUF_LIT(b, "{\"version\":");
        json_strz(b, found->info->runtime);
        BUF_LIT(b, "}");
    }
}

static void show_server(struct request *r)
{
    const struct admin_facts *f = admin_facts(r);
    int64_t up_ms = clock_wall_ms() - f->started_ms;
    struct buf *b = json_reply(r, 200);

    BUF_LIT(b, "{\"name\":\"weir\",\"version\":");
    json_strz(b, WEIR_VERSION);
    buf_addf(b, ",\"pid\":%ld,\"uptime_s\":%.3f,\"data\":", (long)getpid(), (double)MAX(up_ms, (int64_t)0) / 1000);
    json_strz(b, f->data_url);
    BUF_LIT(b, ",\"admin\":");
    json_strz(b, f->admin_url);
    buf_addf(b, ",\"role\":\"%s\"", f->inference ? "inference" : "server");
    buf_addf(b, ",\"threads\":%u,\"store\":", f->threads);
    json_strz(b, f->store_url);
    BUF_LIT(b, ",\"artifacts\":");
    json_strz(b, f->artifacts);
    BUF_LIT(b, ",\"config\":");
    json_strz(b, f->config);
    buf_addf(b, ",\"drain_s\":%.3f", (double)f->drain_us / 1e6);
    BUF_LIT(b, ",\"runtimes\":{");
    show_runtimes(b, r->plane->control);
    BUF_LIT(b, "}}");
    http_reply_end(r->x);
}

static void show_doctor(struct request *r)
{
    const struct admin_facts *f = admin_facts(r);
    struct buf *b = json_reply(r, 200);

    BUF_LIT(b, "{\"checks\":[");
    for (size_t i = 0; i < f->n_checks; i++) {
        char text[512] = "", mend[512] = "";
        bool ok = f->checks[i].run(f, text, sizeof(text), mend, sizeof(mend));

        json_comma(b);
        BUF_LIT(b, "{\"name\":");
        json_strz(b, f->checks[i].name);
        buf_addf(b, ",\"ok\":%s,\"text\":", ok ? "true" : "false");
        json_strz(b, text);
        BUF_LIT(b, ",\"mend\":");
        json_strz(b, mend[0] ? mend : NULL);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]}");
    http_reply_end(r->x);
}

/* ---- the table ---- */

/* clang-format off */
const struct api_route admin_routes[] = {
    {"GET", "/", admin_page, NULL, ADMIN_BODY, "a page for people: models and running rollouts"},
    {"GET", "/style.css", admin_style, NULL, ADMIN_BODY, "the page's style"},
    {"GET", "/metrics", admin_metrics, NULL, ADMIN_BODY, "Prometheus metrics"},
    {"GET", "/admin/server", show_server, NULL, ADMIN_BODY, "what this server is and where it listens"},
    {"GET", "/admin/profile", admin_profile, NULL, ADMIN_BODY, "what a plan is made from (weir advise)"},
    {"GET", "/admin/doctor", show_doctor, NULL, ADMIN_BODY, "checks of the machine, and how to mend what they find"},
    {"GET", "/admin/events", admin_events, NULL, ADMIN_BODY, "changes as they happen (server-sent events)"},
    {"GET", "/admin/events/deliveries", admin_deliveries, NULL, ADMIN_BODY, "attempts of the webhook"},
    {"GET", "/admin/families", admin_list_families, NULL, ADMIN_BODY, "families: where they run, by which settings"},
    {"GET", "/admin/families/{family}", admin_show_family, NULL, ADMIN_BODY, "one family"},
    {"POST", "/admin/families/{family}", admin_change_family, NULL, ADMIN_BODY,
     "another place, without dropping a request: {place}, {undo: true}"},
    {"GET", "/admin/models", admin_list_models, NULL, ADMIN_BODY, "all models with their versions"},
    {"POST", "/admin/models", admin_register, NULL, ADMIN_BODY, "register a name without a version"},
    {"GET", "/admin/models/{model}", admin_show_model, NULL, ADMIN_BODY, "one model with its versions"},
    {"POST", "/admin/models/{model}/versions", NULL, &admin_push, 0, "push a version"},
    {"POST", "/admin/models/{model}/hold", admin_hold, NULL, ADMIN_BODY,
     "inference role: have the version with this digest in memory, for a gateway"},
    {"GET", "/admin/models/{model}/rollout", admin_show_rollout, NULL, ADMIN_BODY, "the running or the last rollout"},
    {"POST", "/admin/models/{model}/rollout", admin_change_rollout, NULL, ADMIN_BODY,
     "start, set, pause, resume, skip, promote, abort"},
    {"POST", "/admin/models/{model}/rollback", admin_rollback, NULL, ADMIN_BODY, "take it back, at once"},
    {"GET", "/admin/models/{model}/shadow", admin_show_shadow, NULL, ADMIN_BODY, "what the shadow answers otherwise"},
    {"POST", "/admin/models/{model}/shadow", admin_change_shadow, NULL, ADMIN_BODY, "start, stop"},
    {"GET", "/admin/models/{model}/history", admin_history, NULL, ADMIN_BODY, "what happened to it"},
    {"GET", "/admin/models/{model}/capture", admin_capture, NULL, ADMIN_BODY,
     "the payload log: settings, counts, segments"},
    {"GET", "/admin/models/{model}/capture/records", admin_capture_records, NULL, ADMIN_BODY,
     "its lines, streamed: ?since=MS&until=MS&limit=N&kind=request|feedback"},
    {"GET", "/admin/models/{model}/samples", admin_samples, NULL, ADMIN_BODY, "sample requests of the stable version"},
    {"GET", "/admin/models/{model}/experiment", admin_show_experiment, NULL, ADMIN_BODY,
     "the running or the last experiment"},
    {"POST", "/admin/models/{model}/experiment", admin_change_experiment, NULL, ADMIN_BODY, "start, ship, stop"},
    {"GET", "/admin/traces", admin_list_traces, NULL, ADMIN_BODY,
     "spans that are kept, newest first: ?id=ID&model=M&kept=K&code=C&slower=TIME&limit=N"},
    {"GET", "/admin/traces/{id}", admin_show_trace, NULL, ADMIN_BODY, "the spans of a request or of a trace"},
};
/* clang-format on */
const size_t n_admin_routes = COUNT_OF(admin_routes);
