/* SPDX-License-Identifier: Apache-2.0 */
/* The house; see house.h. Order of building: store, loops, control, planes, sockets, threads; of taking down: sockets
 * drain (or are cut off), pools close, threads end, the store does what it was given, and then nobody is left to hold
 * anything. */
#include "house.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/shadow.h"
#include "backends/onnx/onnx.h"
#include "backends/remote/remote.h"
#include "backends/worker/limits.h"
#include "backends/worker/sandbox.h"
#include "backends/worker/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/url.h"
#include "house_priv.h"
#include "net/sock.h"
#include "store/sha256.h"

#define ADMIN_BODY_MAX (1ull << 40)

static const struct worker_backend backends[] = {{"onnx", &onnx_engine, onnx_runtime_preload}};

/* ---- what the rooms give to each other ---- */

static const struct engine_ops *engine_of(const char *backend, enum place place)
{
    if (place_is_far(place) || strcmp(backend, "upstream") == 0) {
        return &remote_engine;
    }
    if (strcmp(backend, "onnx") != 0) {
        return NULL;
    }
    return place == PLACE_INLINE ? &onnx_engine : &worker_engine;
}

static int pid_of(const struct engine *g)
{
    return (int)worker_pid(g);
}

static bool is_far_side(const struct engine *g, char *text, size_t cap)
{
    return remote_say(g, text, cap);
}

static bool check_landlock(const struct admin_facts *f, char *text, size_t cap, char *mend, size_t mend_cap)
{
    int abi = sandbox_landlock_abi();

    (void)f;
    snprintf(text, cap,
             abi > 0 ? "Landlock ABI %d: workers see their own folder only"
                     : "no Landlock: workers are shut in by seccomp alone",
             abi);
    snprintf(mend, mend_cap, "%s", abi > 0 ? "" : "use Linux 5.13 or newer and add landlock to the kernel's lsm= list");
    return abi > 0;
}

static bool check_files(const struct admin_facts *f, char *text, size_t cap, char *mend, size_t mend_cap)
{
    struct rlimit r = {0, 0};
    bool ok;

    (void)f;
    getrlimit(RLIMIT_NOFILE, &r);
    ok = r.rlim_cur >= 4096;
    snprintf(text, cap, "%llu descriptors may be open", (unsigned long long)r.rlim_cur);
    snprintf(mend, mend_cap, "%s", ok ? "" : "raise the limit: ulimit -n 20000, or LimitNOFILE= of the service");
    return ok;
}

static bool check_limits(const struct admin_facts *f, char *text, size_t cap, char *mend, size_t mend_cap)
{
    (void)f;
    limits_say(text, cap);
    snprintf(mend, mend_cap, "%s", "");
    return true; /* both hold */
}

/* Those of the first version of each family that has one: all of a family are at the same place. */
static bool check_far_sides(const struct admin_facts *f, char *text, size_t cap, char *mend, size_t mend_cap)
{
    struct model *const *models;
    size_t n = control_models(f->control, &models), far = 0, away = 0;

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < models[i]->n_versions; k++) {
            const struct version *v = models[i]->versions[k];
            bool asked = v->pool || v->state == VERSION_COLD;

            if (!place_is_far(version_place(v)) || !asked) {
                continue;
            }
            far++;
            if (v->state != VERSION_READY && away++ == 0) {
                snprintf(mend, mend_cap, "%s/%lld is at %s: %s; is a server running there?", models[i]->row.name,
                         (long long)v->row.number, version_place_name(v),
                         v->why.text[0] ? v->why.text : version_state_names[v->state]);
            }
        }
    }
    snprintf(text, cap, "%zu versions run on other servers, %zu of them not now", far, away);
    return away == 0;
}

/* A switch that weir.yaml does not know of is no fault, but whoever reads only the file is wrong about it. */
static bool check_places(const struct admin_facts *f, char *text, size_t cap, char *mend, size_t mend_cap)
{
    struct family *const *all;
    size_t n = control_families(f->control, &all), at = 0;

    for (size_t i = 0; i < n && at < cap; i++) {
        const char *says = family_configured(all[i]);

        if (all[i]->switched.place[0]) {
            at += (size_t)snprintf(text + at, cap - at,
                                   "%sfamily %s was switched to %s by %s, and that rules; weir.yaml says %s "
                                   "(weir split %s --undo, or edit weir.yaml)",
                                   at ? "; " : "", all[i]->name, family_place_name(all[i]), all[i]->switched.actor,
                                   says ? says : "nothing of it", all[i]->name);
        }
    }
    if (at == 0) {
        snprintf(text, cap, "every family runs where weir.yaml says");
    }
    snprintf(mend, mend_cap, "%s", "");
    return true;
}

static const struct check checks[] = {{"sandbox", check_landlock},
                                      {"memory limits", check_limits},
                                      {"descriptors", check_files},
                                      {"far sides", check_far_sides},
                                      {"places", check_places}};

/* ---- taking down ---- */

void house_stop_loop(void *ctx)
{
    struct house *h = ctx;

    loop_stop(h->loop);
}

/* After a drain there is nothing left to close; else a slow client would hold its version, and that the server. */
static void cut_thread(struct task *task)
{
    struct conn_thread *t = CONTAINER_OF(task, struct conn_thread, cut);

    http_listener_free(t->listener);
    t->listener = NULL;
}

static void close_control(struct house *h)
{
    if (h->closing) {
        return;
    }
    h->closing = true;
    timer_clear(h->loop, &h->drain_limit);
    for (unsigned i = 0; i < h->conf.threads; i++) {
        h->threads[i].cut.fn = cut_thread;
        loop_post(h->threads[i].loop, &h->threads[i].cut);
    }
    http_listener_free(h->admin_listener);
    h->admin_listener = NULL;
    control_stop(h->control, SECONDS(1), house_stop_loop, h);
}

static void one_drained(struct house *h)
{
    if (--h->undrained == 0) {
        close_control(h);
    }
}

static void on_thread_drained_home(struct task *t)
{
    one_drained(CONTAINER_OF(t, struct conn_thread, drained)->house);
}

static void on_thread_drained(void *ctx)
{
    struct conn_thread *t = ctx;

    t->drained.fn = on_thread_drained_home;
    loop_post(t->house->loop, &t->drained);
}

static void drain_thread(struct task *task)
{
    struct conn_thread *t = CONTAINER_OF(task, struct conn_thread, drain);

    http_drain(t->listener, on_thread_drained, t);
}

static void on_admin_drained(void *ctx)
{
    one_drained(ctx);
}

static void on_drain_limit(struct timer *t)
{
    struct house *h = CONTAINER_OF(t, struct house, drain_limit);

    log_warn("house", "the drain took too long; what is left is cut off");
    close_control(h);
}

/* While we still listen: nobody else can have bound it yet. */
static void remove_socket(const char *url)
{
    if (strncmp(url, "unix:", 5) == 0) {
        unlink(url + 5);
    }
}

static void begin_stop(struct house *h, const char *why)
{
    if (h->stopping) {
        log_warn("house", "stopping at once reason=\"%s, again\"", why);
        close_control(h);
        return;
    }
    h->stopping = true;
    log_info("house", "stopping: no new connections, requests may finish reason=\"%s\" drain_s=%llu", why,
             (unsigned long long)(h->conf.drain_us / 1000000));
    remove_socket(h->admin_facts.data_url);
    remove_socket(h->admin_facts.admin_url);
    h->undrained = (unsigned)h->conf.threads + 1;
    timer_set(h->loop, &h->drain_limit, clock_us() + h->conf.drain_us);
    for (unsigned i = 0; i < h->conf.threads; i++) {
        h->threads[i].drain.fn = drain_thread;
        loop_post(h->threads[i].loop, &h->threads[i].drain);
    }
    http_drain(h->admin_listener, on_admin_drained, h);
}

static void on_signal(struct watch *w, uint32_t events)
{
    struct house *h = CONTAINER_OF(w, struct house, signals);
    struct signalfd_siginfo si;

    (void)events;
    while (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        begin_stop(h, si.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
    }
}

static void on_parent(struct watch *w, uint32_t events)
{
    struct house *h = CONTAINER_OF(w, struct house, parent);
    char c;

    (void)events;
    if (read(w->fd, &c, 1) == 0 || (errno != EAGAIN && errno != EINTR)) {
        loop_del(h->loop, w);
        begin_stop(h, "the process that started it has gone");
    }
}

/* ---- building ---- */

static void *thread_main(void *arg)
{
    struct conn_thread *t = arg;
    char name[16];

    snprintf(name, sizeof(name), "weir-conn-%u", t->shard.index);
    prctl(PR_SET_NAME, name);
    loop_run(t->loop);
    return NULL;
}

enum err_code house_start_threads(struct house *h, struct err *e)
{
    for (unsigned i = 0; i < h->conf.threads; i++) {
        int rc = pthread_create(&h->threads[i].thread, NULL, thread_main, &h->threads[i]);

        if (rc != 0) {
            errno = rc;
            return err_sys(e, ERR_UNAVAILABLE, "can not start a connection thread");
        }
        h->threads[i].started = true;
    }
    return ERR_OK;
}

static void url_of(char *out, size_t cap, const struct addr *a)
{
    snprintf(out, cap, "%s%s", a->sa.ss_family == AF_UNIX ? "" : "http://", a->text);
}

/* A port that somebody has is found out without SO_REUSEPORT: with it, two servers would share it and each get half. */
static enum err_code listen_data(struct house *h, struct err *e)
{
    struct addr a;
    int fd = -1;

    if (addr_parse(&a, str_of(h->conf.listen), false, e) != ERR_OK || sock_listen(&fd, &a, false, 1024, e) != ERR_OK ||
        sock_local(&a, fd, e) != ERR_OK) {
        goto fail;
    }
    url_of(h->admin_facts.data_url, sizeof(h->admin_facts.data_url), &a);
    if (a.sa.ss_family != AF_UNIX) {
        close(fd);
        fd = -1;
    }
    for (unsigned i = 0; i < h->conf.threads; i++) {
        struct conn_thread *t = &h->threads[i];
        int own = -1;

        if (fd >= 0) { /* a unix socket has one queue, which all threads share */
            own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        } else if (sock_listen(&own, &a, true, 1024, e) != ERR_OK) {
            goto fail;
        }
        if (own < 0) {
            err_sys(e, ERR_UNAVAILABLE, "no descriptor for a listener");
            goto fail;
        }
        if (http_listen(&t->listener, t->loop, own, &t->service, &h->limits, &h->data_connections, e) != ERR_OK) {
            close(own);
            goto fail;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return ERR_OK;
fail:
    if (fd >= 0) {
        close(fd);
    }
    return e->code;
}

static enum err_code listen_admin(struct house *h, struct err *e)
{
    struct admin_facts *f = &h->admin_facts;
    struct addr a;
    int fd;

    if (addr_parse(&a, str_of(h->conf.admin), false, e) != ERR_OK) {
        return e->code;
    }
    if (!addr_is_local(&a) && !f->token[0]) {
        return err_set(e, ERR_FORBIDDEN,
                       "the admin plane at %s would be open to anybody: give it a loopback address or a unix socket, "
                       "or set admin_token_file",
                       a.text);
    }
    if (sock_listen(&fd, &a, false, 128, e) != ERR_OK || sock_local(&a, fd, e) != ERR_OK) {
        return e->code;
    }
    url_of(f->admin_url, sizeof(f->admin_url), &a);
    snprintf(f->host_ok, sizeof(f->host_ok), "%s", a.text);
    if (http_listen(&h->admin_listener, h->loop, fd, &h->admin_service, &h->admin_limits, &h->admin_connections, e) !=
        ERR_OK) {
        close(fd);
        return e->code;
    }
    return ERR_OK;
}

static enum err_code read_token(struct house *h, struct err *e)
{
    const char *path = h->conf.admin_token_file;
    FILE *f;
    char *at = h->admin_facts.token;
    size_t n;

    if (!path) {
        return ERR_OK;
    }
    f = fopen(path, "re");
    if (!f) {
        return err_sys(e, ERR_INVALID, "admin_token_file %s can not be read", path);
    }
    if (!fgets(at, sizeof(h->admin_facts.token), f)) {
        at[0] = '\0';
    }
    fclose(f);
    n = strcspn(at, "\r\n");
    at[n] = '\0';
    if (n < 16) {
        return err_set(e, ERR_INVALID,
                       "the token in %s has %zu characters; it needs at least 16 (openssl rand -hex 32 makes one)",
                       path, n);
    }
    return ERR_OK;
}

static enum err_code build_threads(struct house *h, struct err *e)
{
    unsigned n = (unsigned)h->conf.threads;

    h->threads = xcalloc(n, sizeof(h->threads[0]));
    h->shards = xcalloc(n, sizeof(h->shards[0]));
    h->planes = xcalloc(n, sizeof(h->planes[0]));
    for (unsigned i = 0; i < n; i++) {
        struct conn_thread *t = &h->threads[i];

        if (loop_new(&t->loop, e) != ERR_OK) {
            return e->code;
        }
        t->house = h;
        t->shard.index = i;
        t->shard.loop = t->loop;
        h->shards[i] = &t->shard;
        h->planes[i] = &t->plane;
    }
    return ERR_OK;
}

/* Whoever listens to what happens. */
static void on_told(void *ctx, const struct history_row *row)
{
    struct house *h = ctx;

    events_told(h->events, row);
    webhook_told(h->webhook, row);
}

/* Its events come from the address that the admin plane has got. */
enum err_code house_build_webhook(struct house *h, struct err *e)
{
    struct webhook_spec spec = {.conf = &h->conf.webhook, .source = h->admin_facts.admin_url};
    enum err_code code = webhook_new(&h->webhook, &spec, e);

    h->admin_facts.webhook = h->webhook;
    return code;
}

static enum err_code build_control(struct house *h, struct err *e)
{
    struct control_spec spec = {
        .loop = h->loop,
        .store = h->store,
        .shards = h->shards,
        .n_shards = (unsigned)h->conf.threads,
        .families = h->conf.families,
        .n_families = h->conf.n_families,
        .policies = h->conf.policies,
        .n_policies = h->conf.n_policies,
        .body_max = h->conf.body_max,
        .ops = {.engine = engine_of,
                .pid = pid_of,
                .evidence = admin_arms_json,
                .told = on_told,
                .told_ctx = h,
                .program = h->program,
                .library = h->conf.onnxruntime ? h->conf.onnxruntime : getenv("WEIR_ONNXRUNTIME")},
        .strict = h->conf.sandbox == 1,
        .memory = h->conf.memory,
        .import_root = h->conf.import_root,
        .hold_us = h->conf.role == 1 ? h->conf.hold_us : 0};

    h->events = events_new(h->loop, events_read_store, h->store); /* before control, which tells it */
    return control_new(&h->control, &spec, e);
}

static enum err_code build_capture(struct house *h, struct err *e)
{
    struct capture_spec spec = {
        .loop = h->loop, .store = h->store, .conf = &h->conf.capture, .threads = (unsigned)h->conf.threads};

    for (size_t i = 0; i < h->conf.n_families; i++) {
        spec.on |= h->conf.families[i].capture.sample > 0;
    }
    return capture_new(&h->capture, &spec, e);
}

static void build_planes(struct house *h)
{
    struct admin_facts *f = &h->admin_facts;

    for (unsigned i = 0; i < h->conf.threads; i++) {
        struct conn_thread *t = &h->threads[i];

        t->facts = (struct data_facts){.version = WEIR_VERSION,
                                       .user_header = h->conf.user_header,
                                       .body_max = h->conf.body_max,
                                       .join = join_new(),
                                       .planes = h->planes,
                                       .n_planes = (unsigned)h->conf.threads,
                                       .capture = capture_part(h->capture, i),
                                       .shadows = shadow_pool_new(),
                                       .spans = spans_new(),
                                       .trace = h->conf.trace};
        t->plane = (struct plane){.name = "data",
                                  .routes = data_routes,
                                  .n_routes = n_data_routes,
                                  .finished = data_finished,
                                  .control = h->control,
                                  .router = control_router(h->control),
                                  .shard = &t->shard,
                                  .facts = &t->facts};
        plane_init(&t->plane);
        t->service = plane_service(&t->plane);
    }
    f->events = h->events;
    f->capture = h->capture;
    f->store_url = h->conf.store;
    f->artifacts = h->conf.artifacts;
    f->config = h->conf.file;
    f->drain_us = h->conf.drain_us;
    f->threads = (unsigned)h->conf.threads;
    f->planes = h->planes;
    if (gethostname(f->host, sizeof(f->host) - 1) != 0) {
        f->host[0] = '\0';
    }
    f->started_ms = clock_wall_ms();
    f->data_connections = &h->data_connections;
    f->admin_connections = &h->admin_connections;
    f->pid = pid_of;
    f->far = is_far_side;
    f->inference = h->conf.role == 1;
    f->control = h->control;
    f->checks = checks;
    f->n_checks = COUNT_OF(checks);
    h->admin_plane = (struct plane){.name = "admin",
                                    .routes = admin_routes,
                                    .n_routes = n_admin_routes,
                                    .finished = admin_finished,
                                    .access = admin_access,
                                    .control = h->control,
                                    .router = control_router(h->control),
                                    .facts = f};
    plane_init(&h->admin_plane);
    h->admin_service = plane_service(&h->admin_plane);
    http_limits_default(&h->limits);
    h->limits.body = h->conf.body_max;
    h->limits.connections = (uint32_t)h->conf.connections;
    h->admin_limits = h->limits;
    h->admin_limits.body = ADMIN_BODY_MAX; /* a pushed model goes to the disk as it comes in */
}

static enum err_code watch_outside(struct house *h, struct err *e)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    h->signals.fn = on_signal;
    h->parent.fn = on_parent;
    h->drain_limit.fn = on_drain_limit;
    if (fd < 0 || loop_add(h->loop, &h->signals, fd, EPOLLIN, e) != ERR_OK) {
        return err_sys(e, ERR_INTERNAL, "signals can not be watched");
    }
    if (h->conf.parent_fd != UINT64_MAX) {
        int parent = (int)h->conf.parent_fd;

        if (fcntl(parent, F_SETFD, FD_CLOEXEC) != 0 || fcntl(parent, F_SETFL, O_NONBLOCK) != 0) {
            return err_sys(e, ERR_INVALID, "--parent-fd %d is no open descriptor", parent);
        }
        return loop_add(h->loop, &h->parent, parent, EPOLLIN, e);
    }
    return ERR_OK;
}

static void raise_limits(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

static void on_ready(void *ctx)
{
    struct house *h = ctx;
    struct model *const *models;
    size_t n = control_models(h->control, &models);

    log_info("house", "ready data=%s admin=%s models=%zu after_ms=%llu", h->admin_facts.data_url,
             h->admin_facts.admin_url, n, (unsigned long long)((clock_us() - h->began_us) / 1000));
}

/* Gateways learn from the data plane where the admin plane is, which has got its port by now. */
static enum err_code tell_role(struct house *h, struct err *e)
{
    unsigned port = UINT_MAX;
    struct url u;

    if (h->conf.role == 0) {
        return ERR_OK;
    }
    if (strncmp(h->admin_facts.admin_url, "http://", 7) == 0) {
        if (url_parse(&u, str_of(h->admin_facts.admin_url), 0, e) != ERR_OK) {
            return e->code;
        }
        port = u.port;
    }
    for (unsigned i = 0; i < h->conf.threads; i++) {
        h->threads[i].facts.inference_admin = port;
    }
    return ERR_OK;
}

enum err_code house_build_rooms(struct house *h, struct err *e)
{
    struct err wall;

    if (h->conf.sandbox == 1 && sandbox_check(&wall) != ERR_OK) {
        return err_set(e, wall.code, "sandbox: required, but %s", wall.text);
    }
    if (store_open(&h->store, h->conf.store, h->conf.artifacts, e) != ERR_OK || build_threads(h, e) != ERR_OK ||
        build_control(h, e) != ERR_OK || build_capture(h, e) != ERR_OK) {
        return e->code;
    }
    build_planes(h);
    return ERR_OK;
}

static enum err_code build(struct house *h, struct err *e)
{
    raise_limits();
    limits_start(LIMITS_TREE, LIMITS_SELF);
    if (read_token(h, e) != ERR_OK || loop_new(&h->loop, e) != ERR_OK || watch_outside(h, e) != ERR_OK ||
        house_build_rooms(h, e) != ERR_OK || listen_data(h, e) != ERR_OK || listen_admin(h, e) != ERR_OK ||
        tell_role(h, e) != ERR_OK || house_build_webhook(h, e) != ERR_OK) {
        return e->code;
    }
    return house_start_threads(h, e);
}

struct barrier { /* in the store's queue: what was posted before it has been done */
    struct store_job job;
    struct task back;
    struct loop *home;
    bool passed;
};

static void at_barrier(struct store *s, struct store_job *job)
{
    struct barrier *b = CONTAINER_OF(job, struct barrier, job);

    (void)s;
    loop_post(b->home, &b->back);
}

static void on_barrier(struct task *t)
{
    CONTAINER_OF(t, struct barrier, back)->passed = true;
}

/* What the store still does ends in messages to the loops, and those in more work for the store: goes on, with every
 * loop in this thread's hands, until nobody has anything to say. Only then something may be freed. */
static void run_dry(struct house *h)
{
    bool more;

    do {
        struct barrier b = {.job.run = at_barrier, .back.fn = on_barrier, .home = h->loop};

        more = false;
        store_post(h->store, &b.job);
        while (!b.passed) {
            loop_once(h->loop, -1);
        }
        for (unsigned i = 0; h->threads && i < h->conf.threads; i++) {
            more |= h->threads[i].loop && loop_once(h->threads[i].loop, 0);
        }
        more |= loop_once(h->loop, 0);
    } while (more);
}

void house_take_down(struct house *h)
{
    for (unsigned i = 0; h->threads && i < h->conf.threads; i++) {
        if (h->threads[i].started) {
            loop_stop(h->threads[i].loop);
            pthread_join(h->threads[i].thread, NULL);
        }
    }
    if (h->store) {
        run_dry(h);
    }
    capture_stop(h->capture);
    store_close(h->store);
    for (unsigned i = 0; h->threads && i < h->conf.threads; i++) {
        struct conn_thread *t = &h->threads[i];

        http_listener_free(t->listener);
        http_local_free(t->local);
        if (t->plane.name) {
            judge_unwatch(&t->plane);
            plane_done(&t->plane);
        }
        loop_free(t->loop);
        join_free((struct join *)(uintptr_t)t->facts.join);
        shadow_pool_free(t->facts.shadows);
        spans_free(t->facts.spans);
    }
    http_listener_free(h->admin_listener);
    http_local_free(h->admin_local);
    if (h->admin_plane.name) {
        plane_done(&h->admin_plane);
    }
    webhook_free(h->webhook);
    events_free(h->events);
    if (h->loop) {
        loop_free(h->loop);
    }
    capture_free(h->capture);
    control_free(h->control);
    free(h->threads);
    free(h->shards);
    free(h->planes);
    free(h->program);
    house_conf_done(&h->conf);
}

int house_serve(int argc, char **argv)
{
    static struct house h;
    struct err e;
    int rc = house_conf_read(&h.conf, argc, argv);

    sha256_setup();
    h.began_us = clock_us();
    if (rc >= 0) {
        return rc;
    }
    if (build(&h, &e) != ERR_OK) {
        fprintf(stderr, "weir serve: %s\n", e.text);
        return 1;
    }
    log_start(2, (enum log_level)h.conf.log_level);
    log_info("house", "listening data=%s admin=%s store=%s threads=%llu", h.admin_facts.data_url,
             h.admin_facts.admin_url, h.conf.store, (unsigned long long)h.conf.threads);
    control_start(h.control, on_ready, &h);
    loop_run(h.loop);
    log_info("house", "stopped");
    house_take_down(&h);
    limits_stop();
    log_stop();
    return 0;
}

int house_worker(void)
{
    return worker_main(backends, COUNT_OF(backends));
}
