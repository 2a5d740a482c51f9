/* SPDX-License-Identifier: Apache-2.0 */
/* What may be in memory: the budget applied to versions. Before a load the version's cost is known (the most that an
 * instance of the same artifact was seen to take) or estimated; room is asked for, and idle versions go for it. After
 * the load, and every half minute while it is loaded, its processes are measured and a higher cost is remembered in the
 * store.
 *
 * The cost of an instance, in this order:
 *
 *     configured   the family's memory: a limit that the process is held to
 *     measured     anonymous and shared memory of its process (RssAnon + RssShmem); inline: what the load added to ours
 *     estimated    2 × the artifact's bytes (the weights and the runtime's copies of them), + 16 MiB for a process (a
 *                  worker with a model of 154 bytes holds 9.6 MiB: ONNX Runtime 1.30, x86-64)
 *
 * times the instances. Pages of files are not counted: the kernel takes them back. Nor are pages of the input window
 * that requests will touch later: what they may grow to is bounded by queue_bytes, and what they have touched is in the
 * next measurement.
 *
 * Thread: control; remember() on the store thread. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"

#define PROCESS_BYTES (16ull << 20)
#define LEFT_LEAST (1ull << 30)
#define MEASURE_EVERY_US SECONDS(30)

struct cost {
    uint64_t bytes; /* of one instance, host memory */
};

/* ---- the limit ---- */

/* The number after a key in a file of "Key:  number kB" lines, in bytes; 0: not there. */
static uint64_t proc_bytes(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    size_t n = strlen(key);
    unsigned long long kb = 0;
    char line[256];

    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, n) == 0 && line[n] == ':' && sscanf(line + n + 1, "%llu", &kb) == 1) {
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return (uint64_t)kb << 10;
}

/* The least memory.max from our cgroup upwards (version 2); UINT64_MAX: none. */
static uint64_t cgroup_limit(void)
{
    uint64_t least = UINT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512] = "", path[600];

    while (f && fgets(line, sizeof(line), f) && strncmp(line, "0::/", 4) != 0) {
        line[0] = '\0';
    }
    if (f) {
        fclose(f);
    }
    if (strncmp(line, "0::/", 4) != 0) {
        return UINT64_MAX;
    }
    line[strcspn(line, "\n")] = '\0';
    for (char *end = line + strlen(line);; end = strrchr(line, '/')) {
        unsigned long long bytes;

        if (!end || end < line + 3) {
            return least;
        }
        *end = '\0';
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
        f = fopen(path, "re");
        if (f) {
            least = fscanf(f, "%llu", &bytes) == 1 ? MIN(least, (uint64_t)bytes) : least; /* else it says "max" */
            fclose(f);
        }
    }
}

void memory_init(struct control *c)
{
    uint64_t machine = MIN(proc_bytes("/proc/meminfo", "MemTotal"), cgroup_limit());

    map_init(&c->costs);
    budget_init(&c->budget, c->spec.memory ? c->spec.memory : machine ? machine / 5 * 4 : BUDGET_NO_LIMIT);
}

void memory_done(struct control *c)
{
    struct map_entry *e;

    for (size_t i = 0; (e = map_next(&c->costs, &i)) != NULL;) {
        free(e->value);
    }
    map_done(&c->costs);
}

/* ---- costs ---- */

static void cost_seen(struct control *c, const char *digest, uint64_t bytes)
{
    struct cost *known = map_get(&c->costs, str_of(digest));

    if (!known) {
        known = xcalloc(1, sizeof(*known));
        map_put(&c->costs, str_of(digest), known);
    }
    known->bytes = MAX(known->bytes, bytes);
}

void memory_take_costs(struct control *c, const struct store_state *st)
{
    for (size_t i = 0; i < st->n_costs; i++) {
        if (strcmp(st->costs[i].device, "host") == 0) {
            cost_seen(c, st->costs[i].digest, st->costs[i].bytes);
        }
    }
}

/* The claim as it is known now. */
static enum claim_basis cost_of(const struct version *v, uint64_t bytes[BUDGET_DEVICES])
{
    struct control *c = v->model->control;
    const struct family *f = v->family;
    const struct cost *known = map_get(&c->costs, str_of(v->row.digest));
    enum place place = version_place(v);
    uint64_t instances = place == PLACE_INLINE ? 1 : f->instances;
    uint64_t weights = 2 * v->row.bytes, process = place == PLACE_INLINE ? 0 : PROCESS_BYTES;
    unsigned device = budget_device(&c->budget, f->device, BUDGET_NO_LIMIT);

    memset(bytes, 0, BUDGET_DEVICES * sizeof(bytes[0]));
    if (place_is_far(place)) { /* it takes nothing here */
        return CLAIM_CONFIGURED;
    }
    bytes[BUDGET_HOST] = instances * (known ? known->bytes : weights + process);
    if (device != BUDGET_HOST) { /* there the family's memory is the GPU's; its size is known after the first load */
        if (v->info && v->info->device_total > 0) {
            c->budget.device[device].limit = v->info->device_total;
        }
        bytes[device] = instances * (f->memory                             ? f->memory
                                     : v->info && v->info->device_used > 0 ? v->info->device_used
                                                                           : weights);
    } else if (f->memory) {
        bytes[BUDGET_HOST] = instances * f->memory;
    }
    return f->memory ? CLAIM_CONFIGURED : known ? CLAIM_MEASURED : CLAIM_ESTIMATED;
}

uint64_t memory_left(const struct version *v)
{
    const struct family *f = v->family;
    const struct budget_device *host = &v->model->control->budget.device[BUDGET_HOST];
    uint64_t others = host->used - MIN(host->used, v->claim.bytes[BUDGET_HOST]), left;

    if (f->memory > 0 || strcmp(f->device, "cpu") != 0) { /* of a GPU's worker it limits the GPU's memory */
        return f->memory;
    }
    if (host->limit == BUDGET_NO_LIMIT) {
        return 0;
    }
    left = host->limit > others ? host->limit - others : 0;
    return MAX(left, LEFT_LEAST) >> 20 << 20;
}

void memory_estimate(struct version *v)
{
    if (v->claim.state == CLAIM_NONE) {
        snprintf(v->claim.name, sizeof(v->claim.name), "%s/%lld", v->model->row.name, (long long)v->row.number);
        v->claim.basis = cost_of(v, v->claim.bytes);
    }
}

/* ---- room ---- */

static bool has_requests(const struct version *v)
{
    const struct sched_shared *sh = v->pool ? pool_shared(v->pool) : NULL;
    uint64_t n = atomic_load_explicit(&v->parked, memory_order_relaxed);

    for (int i = 0; sh && i < CLASS_COUNT; i++) {
        n += atomic_load_explicit(&sh->admission.requests[i], memory_order_relaxed);
    }
    return n > 0;
}

static void look(struct version *v, uint64_t now)
{
    const struct model *m = v->model;
    uint64_t answered = v->pool ? atomic_load_explicit(&pool_shared(v->pool)->answered, memory_order_relaxed) : 0;
    bool busy = has_requests(v);

    if (busy || answered != v->answered) {
        v->answered = answered;
        v->claim.used_us = now;
    }
    v->claim.busy = busy;
    v->claim.pinned = v->family->pin;
    v->claim.in_rollout = v->pushing || version_in_rollout(v);
    v->claim.rank = v->row.number == m->row.stable     ? CLAIM_SERVING
                    : v->row.number == m->row.previous ? CLAIM_PREVIOUS
                                                       : CLAIM_UNUSED;
}

enum budget_verdict memory_ask(struct version *v, bool evict, struct err *e)
{
    struct control *c = v->model->control;
    struct budget_claim *out[VERSION_SLOTS];
    uint64_t now = clock_us();
    enum budget_verdict verdict;
    size_t n;

    memory_estimate(v);
    for (struct budget_claim *one = c->budget.claims; one; one = one->next) {
        look(CONTAINER_OF(one, struct version, claim), now);
    }
    verdict = budget_ask(&c->budget, &v->claim, evict, out, COUNT_OF(out), &n, e);
    for (size_t i = 0; i < n; i++) {
        version_evict(CONTAINER_OF(out[i], struct version, claim));
    }
    return verdict;
}

void memory_gone(struct version *v)
{
    budget_gone(&v->model->control->budget, &v->claim);
    v->answered = 0;
}

void memory_retry(struct control *c)
{
    struct budget_claim *one;

    for (uint64_t after = 0; (one = budget_waiting(&c->budget, after)) != NULL;) {
        struct version *v = CONTAINER_OF(one, struct version, claim);
        enum budget_verdict verdict = BUDGET_REFUSED;
        struct err e;

        after = one->turn;
        if (c->stopping) {
            err_set(&e, ERR_UNAVAILABLE, "the server is stopping");
            budget_gone(&c->budget, one);
        } else {
            verdict = memory_ask(v, true, &e);
        }
        if (verdict == BUDGET_GRANTED) {
            version_load_go(v);
        } else if (verdict == BUDGET_REFUSED) {
            version_load_refuse(v, &e);
        }
    }
}

/* ---- measuring ---- */

struct remember {
    struct store_job job;
    struct cost_row row;
};

static void remember(struct store *s, struct store_job *job)
{
    struct remember *j = CONTAINER_OF(job, struct remember, job);
    struct err e;

    if (store_put_cost(s, &j->row, &e) != ERR_OK) {
        log_warn("control", "what a version costs is not remembered error=\"%s\"", e.text);
    }
    free(j);
}

/* Of the instance that has most; 0: not known. Reading /proc waits for nothing. */
static uint64_t measured(const struct version *v)
{
    const struct control *c = v->model->control;
    uint64_t most = 0;
    char path[40];

    if (version_place(v) == PLACE_INLINE) {
        return v->info->memory;
    }
    for (unsigned i = 0; i < pool_instances(v->pool); i++) {
        struct pool_instance one;
        int pid;

        pool_instance(v->pool, i, &one);
        pid = one.engine && c->spec.ops.pid ? c->spec.ops.pid(one.engine) : 0;
        if (pid > 0) {
            snprintf(path, sizeof(path), "/proc/%d/status", pid);
            most = MAX(most, proc_bytes(path, "RssAnon") + proc_bytes(path, "RssShmem"));
        }
    }
    return most;
}

/* Of a loaded version: more than was known goes into the books, and to the store. */
static void measure(struct version *v)
{
    struct control *c = v->model->control;
    const struct cost *known = map_get(&c->costs, str_of(v->row.digest));
    uint64_t bytes[BUDGET_DEVICES], now = measured(v);
    enum claim_basis basis;

    v->measure_us = clock_us() + MEASURE_EVERY_US;
    if (now > 0 && (!known || now > known->bytes + known->bytes / 16)) {
        struct remember *j = xcalloc(1, sizeof(*j));

        cost_seen(c, v->row.digest, now);
        j->job.run = remember;
        j->row = (struct cost_row){.device = "host", .bytes = now, .measured_ms = clock_wall_ms()};
        memcpy(j->row.digest, v->row.digest, sizeof(j->row.digest));
        store_post(c->store, &j->job);
    }
    basis = cost_of(v, bytes);
    budget_settle(&c->budget, &v->claim, bytes, basis);
}

void memory_ready(struct version *v)
{
    v->claim.used_us = clock_us();
    v->on_demand = false;
    measure(v);
}

void memory_look(struct version *v, uint64_t now)
{
    if (!v->pool || !version_loaded(v)) {
        return;
    }
    look(v, now);
    if (now >= v->measure_us) {
        measure(v);
    }
}

/* ---- first use ---- */

static void on_woken(void *ctx, const struct err *e)
{
    struct wake *w = ctx;

    w->err = *e;
    loop_post(w->home, &w->task);
}

static void on_home(struct task *t)
{
    struct wake *w = CONTAINER_OF(t, struct wake, task);

    w->done(w);
}

static void on_wake(struct task *t)
{
    struct wake *w = CONTAINER_OF(t, struct wake, task);
    struct model *m = control_model(w->c, str_of(w->model));
    struct version *v = m ? model_version(m, w->version) : NULL;
    struct err e;

    w->task.fn = on_home;
    if (!v || w->c->stopping) {
        err_set(&e, ERR_UNAVAILABLE, w->c->stopping ? "the server is stopping" : "the version is not there any more");
        on_woken(w, &e);
    } else if (version_at_hand(v)) {
        version_load(v, true, on_woken, w);
    } else { /* it was taken out of use, or has failed: the next pick says why */
        on_woken(w, &(struct err){ERR_OK, ""});
    }
}

void control_wake(struct wake *w)
{
    w->task.fn = on_wake;
    loop_post(w->c->loop, &w->task);
}
