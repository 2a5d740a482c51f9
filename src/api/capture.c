/* SPDX-License-Identifier: Apache-2.0 */
/* Capture: the decision, the rings, and the job that empties them; see capture.h.
 *
 * Counters are kept in parts, one a connection thread and one for the store thread; each is written by its thread alone
 * and added up by whoever looks. A part's names below n_models are complete and never change. */
#include "api/capture.h"

#include <stdlib.h>

#include "api/capture_ring.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/sketch.h"

#define TICK_US MILLIS(200)
#define UPKEEP_US SECONDS(30)
#define DRAIN_US MILLIS(50)    /* of the store thread, at a time */
#define WARN_US SECONDS(60)    /* between two lines of the log */
#define SAMPLE_SEED 0x63617074 /* another than the assignment's: who is captured says nothing about the arm */

#define AT(field) offsetof(struct capture_conf, field)
_Static_assert(offsetof(struct capture_conf, rule) == 0, "the first row of the table is the rule's");
const struct setting capture_settings[] = {
    {"sample", SET_SHARE, AT(rule.sample), "0%", 0, 10000, NULL, "share of the answers that is kept; 0%: none"},
    {"max_bytes", SET_BYTES, AT(max_bytes), "1GiB", 1 << 20, 1ull << 44, NULL, "of all models; the oldest go first"},
    {"max_age", SET_DURATION, AT(max_age_us), "14d", 60000000, 86400000000ull * 3660, NULL, "then it is removed"},
    {"segment_bytes", SET_BYTES, AT(segment_bytes), "16MiB", 4096, 1ull << 34, NULL,
     "of a segment, then it is sealed; at most a quarter of max_bytes"},
};
const size_t n_capture_settings = COUNT_OF(capture_settings), n_capture_rule_settings = 1;

const char *const capture_count_names[CAPTURE_COUNTS] = {
    [CAPTURE_SAMPLED] = "sampled",     [CAPTURE_WRITTEN] = "written", [CAPTURE_RING_FULL] = "ring_full",
    [CAPTURE_TOO_LARGE] = "too_large", [CAPTURE_BROKEN] = "broken",   [CAPTURE_DISK] = "disk"};

struct counts_row {
    char model[NAME_MAX_LEN + 1];
    _Atomic uint64_t n[CAPTURE_COUNTS];
};
struct counts {
    _Atomic uint32_t n_models;
    struct counts_row row[CAPTURE_MODELS];
};

struct capture_part {
    struct capture_ring ring;
    struct counts counts;
    struct capture *capture;
};

struct capture {
    struct capture_spec spec;
    struct capture_conf conf;
    struct capture_part *parts; /* NULL when nothing is sampled */
    struct timer tick;          /* control's loop */
    struct task nudge;          /* a ring is half full */
    atomic_bool nudged;
    struct store_job drain, last;
    atomic_bool draining; /* drain is posted, or runs */
    _Atomic uint64_t bytes;
    uint64_t upkeep_us; /* when it is due; control's */
    atomic_bool upkeep; /* it is */
    bool stopping;      /* control's */
    unsigned exports;   /* control's */
    /* the store thread's */
    struct capture_log *log;
    struct counts counts;
    struct buf line;
    bool closed;
    uint64_t warned_us;
};

/* ---- counting ---- */

/* The owner's row of a model; NULL: there are too many. */
static struct counts_row *counts_of(struct counts *c, struct str model)
{
    uint32_t n = atomic_load_explicit(&c->n_models, memory_order_relaxed);

    for (uint32_t i = 0; i < n; i++) {
        if (str_is(model, c->row[i].model)) {
            return &c->row[i];
        }
    }
    if (n == CAPTURE_MODELS || !str_copy(c->row[n].model, sizeof(c->row[n].model), model)) {
        return NULL;
    }
    atomic_store_explicit(&c->n_models, n + 1, memory_order_release);
    return &c->row[n];
}

static void counts_add(const struct counts *c, const char *model, struct capture_sum *out)
{
    uint32_t n = atomic_load_explicit(&c->n_models, memory_order_acquire);

    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(model, c->row[i].model) == 0) {
            for (int k = 0; k < CAPTURE_COUNTS; k++) {
                out->n[k] += counter_get(&c->row[i].n[k]);
            }
            return;
        }
    }
}

void capture_sum(const struct capture *c, const char *model, struct capture_sum *out)
{
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; c->parts && i < c->spec.threads; i++) {
        counts_add(&c->parts[i].counts, model, out);
    }
    counts_add(&c->counts, model, out);
}

uint64_t capture_bytes(const struct capture *c)
{
    return atomic_load_explicit(&c->bytes, memory_order_relaxed);
}

const struct capture_conf *capture_conf(const struct capture *c)
{
    return &c->conf;
}

enum err_code capture_export_begin(struct capture *c, struct err *e)
{
    if (c->exports == CAPTURE_EXPORTS) {
        return err_set(e, ERR_UNAVAILABLE, "%u clients read captured requests already; try again when one is done",
                       c->exports);
    }
    c->exports++;
    return ERR_OK;
}

void capture_export_end(struct capture *c)
{
    c->exports--;
}

/* ---- connection threads ---- */

static bool wanted(const struct capture_part *p, const struct capture_rule *rule, struct str id)
{
    return p && rule && rule->sample > 0 && murmur3_32(id.p, id.n, SAMPLE_SEED) % 10000 < rule->sample;
}

/* Room for a record, or NULL after it was counted why not. */
static uint8_t *take(struct capture_part *p, struct counts_row *count, uint64_t n)
{
    uint8_t *to;

    counter_add(&count->n[CAPTURE_SAMPLED], 1);
    if (n > capture_ring_most(&p->ring)) {
        counter_add(&count->n[CAPTURE_TOO_LARGE], 1);
        return NULL;
    }
    to = capture_ring_reserve(&p->ring, n);
    if (!to) {
        counter_add(&count->n[CAPTURE_RING_FULL], 1);
    }
    return to;
}

static void keep(struct capture_part *p, struct counts_row *count, uint64_t n)
{
    struct capture *c = p->capture;

    if (n == 0) {
        counter_add(&count->n[CAPTURE_BROKEN], 1);
        return;
    }
    capture_ring_commit(&p->ring, n);
    if (capture_ring_used(&p->ring) > p->ring.size / 2 &&
        !atomic_exchange_explicit(&c->nudged, true, memory_order_acq_rel)) {
        loop_post(c->spec.loop, &c->nudge);
    }
}

void capture_answer(struct capture_part *p, struct capture_answer *a)
{
    struct counts_row *count = wanted(p, a->rule, a->id) ? counts_of(&p->counts, a->model) : NULL;
    uint64_t n;
    uint8_t *to;

    if (!count) {
        return;
    }
    a->at_ms = clock_wall_ms();
    a->latency_us = clock_us() - a->start_us;
    n = capture_answer_bytes(a);
    to = take(p, count, n);
    if (to) {
        keep(p, count, capture_answer_pack(to, n, a));
    }
}

void capture_feedback(struct capture_part *p, struct capture_said *s)
{
    struct counts_row *count = wanted(p, s->rule, s->id) ? counts_of(&p->counts, s->model) : NULL;
    uint64_t n;
    uint8_t *to;

    if (!count) {
        return;
    }
    s->at_ms = clock_wall_ms();
    n = capture_said_bytes(s);
    to = take(p, count, n);
    if (to) {
        keep(p, count, capture_said_pack(to, n, s));
    }
}

/* ---- the store thread ---- */

static void warn(struct capture *c, const char *model, const struct err *e)
{
    uint64_t now = clock_us();

    if (c->warned_us == 0 || now - c->warned_us >= WARN_US) {
        c->warned_us = now;
        log_warn("api", "captured requests are dropped model=%s reason=\"%s\"", model, e->text);
    }
}

struct capture_log *capture_log(struct capture *c)
{
    const struct capture_bounds bounds = {c->conf.max_bytes, (int64_t)(c->conf.max_age_us / 1000),
                                          c->conf.segment_bytes};
    struct err e;

    if (!c->log && !c->closed && capture_log_open(&c->log, c->spec.store, &bounds, &e) != ERR_OK) {
        warn(c, "", &e);
    }
    return c->log;
}

/* The ring whose oldest record is the oldest; NULL: all are empty. */
static struct capture_ring *oldest(struct capture *c, const uint8_t **record)
{
    struct capture_ring *found = NULL;
    int64_t least = 0;

    for (unsigned i = 0; c->parts && i < c->spec.threads; i++) {
        uint64_t n;
        const uint8_t *p = capture_ring_peek(&c->parts[i].ring, &n);

        if (p && (!found || capture_record_at(p) < least)) {
            found = &c->parts[i].ring;
            least = capture_record_at(p);
            *record = p;
        }
    }
    return found;
}

static enum capture_count write_record(struct capture *c, const char *model, const uint8_t *record)
{
    struct capture_log *g = capture_log(c);
    enum err_code code;
    struct err e;

    if (!g) {
        return CAPTURE_DISK;
    }
    buf_clear(&c->line);
    if (!capture_record_json(&c->line, record, capture_log_salt(g))) {
        return CAPTURE_BROKEN;
    }
    if (c->line.over) {
        return CAPTURE_TOO_LARGE;
    }
    code = capture_log_append(g, model, capture_record_at(record), buf_str(&c->line), &e);
    if (code == ERR_OK) {
        return CAPTURE_WRITTEN;
    }
    if (code != ERR_TOO_LARGE) {
        warn(c, model, &e);
    }
    return code == ERR_TOO_LARGE ? CAPTURE_TOO_LARGE : CAPTURE_DISK;
}

/* Takes records out until there is none, or the time is over; returns whether there may be more. */
static bool empty_rings(struct capture *c, uint64_t until_us)
{
    const uint8_t *record = NULL;
    struct capture_ring *ring;

    while ((ring = oldest(c, &record)) != NULL) {
        char model[NAME_MAX_LEN + 1];
        struct counts_row *count;
        enum capture_count what;

        if (clock_us() >= until_us) {
            return true;
        }
        str_copy(model, sizeof(model), capture_record_model(record));
        what = write_record(c, model, record);
        capture_ring_pop(ring);
        count = counts_of(&c->counts, str_of(model));
        if (count) {
            counter_add(&count->n[what], 1);
        }
    }
    buf_clear(&c->line);
    buf_trim(&c->line, 1u << 20);
    return false;
}

static void tell_bytes(struct capture *c)
{
    atomic_store_explicit(&c->bytes, c->log ? capture_log_bytes(c->log) : 0, memory_order_relaxed);
}

static void on_drain(struct store *s, struct store_job *job)
{
    struct capture *c = CONTAINER_OF(job, struct capture, drain);
    bool more;

    if (c->closed) {
        return;
    }
    more = empty_rings(c, clock_us() + DRAIN_US);
    if (atomic_exchange_explicit(&c->upkeep, false, memory_order_relaxed) && capture_log(c)) {
        capture_log_upkeep(c->log, clock_wall_ms());
    }
    tell_bytes(c);
    if (more) {
        store_post(s, job); /* behind what has come meanwhile */
    } else {
        atomic_store_explicit(&c->draining, false, memory_order_release);
    }
}

static void on_last(struct store *s, struct store_job *job)
{
    struct capture *c = CONTAINER_OF(job, struct capture, last);

    (void)s;
    empty_rings(c, UINT64_MAX);
    capture_log_close(c->log);
    c->log = NULL;
    c->closed = true;
}

/* ---- control's loop ---- */

static void post_drain(struct capture *c)
{
    if (!c->stopping && !atomic_exchange_explicit(&c->draining, true, memory_order_acq_rel)) {
        store_post(c->spec.store, &c->drain);
    }
}

static void on_nudge(struct task *t)
{
    struct capture *c = CONTAINER_OF(t, struct capture, nudge);

    atomic_store_explicit(&c->nudged, false, memory_order_release);
    post_drain(c);
}

static void on_tick(struct timer *t)
{
    struct capture *c = CONTAINER_OF(t, struct capture, tick);
    uint64_t now = clock_us();
    bool due = now >= c->upkeep_us;

    if (due) {
        c->upkeep_us = now + UPKEEP_US;
        atomic_store_explicit(&c->upkeep, true, memory_order_relaxed);
    }
    for (unsigned i = 0; c->parts && !due && i < c->spec.threads; i++) {
        due = capture_ring_used(&c->parts[i].ring) > 0;
    }
    if (due) {
        post_drain(c);
    }
    timer_set(c->spec.loop, t, now + (c->parts ? TICK_US : UPKEEP_US));
}

/* ---- life ---- */

enum err_code capture_new(struct capture **out, const struct capture_spec *spec, struct err *e)
{
    struct capture *c = xcalloc(1, sizeof(*c));

    c->spec = *spec;
    c->conf = *spec->conf;
    c->tick.fn = on_tick;
    c->nudge.fn = on_nudge;
    c->drain.run = on_drain;
    c->last.run = on_last;
    buf_init(&c->line, CAPTURE_LINE_MAX);
    if (spec->on) {
        c->parts = aligned_alloc(64, spec->threads * sizeof(c->parts[0]));
        if (!c->parts) {
            free(c);
            return err_set(e, ERR_UNAVAILABLE, "no memory for captured requests");
        }
        memset(c->parts, 0, spec->threads * sizeof(c->parts[0]));
    }
    for (unsigned i = 0; c->parts && i < spec->threads; i++) {
        c->parts[i].capture = c;
        if (capture_ring_init(&c->parts[i].ring, CAPTURE_RING_BYTES, e) != ERR_OK) {
            capture_free(c);
            return e->code;
        }
    }
    timer_set(spec->loop, &c->tick, clock_us()); /* the first job seals what an earlier run left */
    *out = c;
    return ERR_OK;
}

struct capture_part *capture_part(struct capture *c, unsigned thread)
{
    return c->parts ? &c->parts[thread] : NULL;
}

void capture_stop(struct capture *c)
{
    if (c && !c->stopping) {
        c->stopping = true;
        timer_clear(c->spec.loop, &c->tick);
        store_post(c->spec.store, &c->last);
    }
}

void capture_free(struct capture *c)
{
    if (!c) {
        return;
    }
    for (unsigned i = 0; c->parts && i < c->spec.threads; i++) {
        capture_ring_done(&c->parts[i].ring);
    }
    free(c->parts);
    buf_done(&c->line);
    free(c);
}
