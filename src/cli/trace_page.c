/* SPDX-License-Identifier: Apache-2.0 */
/* Joins spans and draws them.
 *
 * What a span's time went into is a list of parts, one after the other: reading the request, reading its JSON, the
 * queue, the run or the other server, the way back, the reply. */
#include "cli/trace_page.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "cli/show.h"

#define BAR 40
#define WHAT_MOST 60 /* columns of a row's name */
#define SMALL .02    /* parts that only matter when they are large are left out below this share of the whole */

/* ---- reading ---- */

static double ms_of(const struct trace_span *t, const char *key)
{
    double v = get_number(t->span, key);
    return isnan(v) ? 0 : v;
}

static bool reached(const struct trace_span *t, const char *key)
{
    return !isnan(get_number(t->span, key));
}

static const char *text_of(yyjson_val *o, const char *key)
{
    const char *z = get_text(o, key);
    return z ? z : "";
}

/* "gpu01", or where it has no name its address. */
static const char *host_of(const struct trace_span *t)
{
    const char *host = text_of(t->server, "host");
    return *host ? host : text_of(t->server, "data");
}

static bool failed(const struct trace_span *t)
{
    return get_text(t->span, "failed_in") != NULL;
}

/* ---- joining ---- */

static bool known(const struct trace_set *s, const char *trace, const char *id)
{
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->list[i].id, id) == 0 && strcmp(s->list[i].trace, trace) == 0) {
            return true;
        }
    }
    return false;
}

static void collect(struct trace_set *s, yyjson_val *doc)
{
    yyjson_val *spans = yyjson_obj_get(doc, "spans"), *v;
    size_t i, max;
    yyjson_arr_foreach(spans, i, max, v)
    {
        const char *trace = get_text(v, "trace"), *id = get_text(v, "span");
        if (!trace || !id || known(s, trace, id)) { /* the same server may have been asked by two names */
            continue;
        }
        s->list = xrealloc(s->list, (s->n + 1) * sizeof s->list[0]);
        s->list[s->n++] = (struct trace_span){.span = v,
                                              .server = yyjson_obj_get(doc, "server"),
                                              .trace = trace,
                                              .id = id,
                                              .parent = get_text(v, "parent"),
                                              .above = -1};
    }
}

static int earlier(const void *a, const void *b)
{
    const struct trace_span *x = a, *y = b;
    uint64_t x_us = get_count(x->span, "start_us"), y_us = get_count(y->span, "start_us");
    return (x_us > y_us) - (x_us < y_us);
}

/* How much later t began, by the servers' clocks. */
static double later_ms(const struct trace_span *first, const struct trace_span *t)
{
    return (double)((int64_t)get_count(t->span, "start_us") - (int64_t)get_count(first->span, "start_us")) / 1000;
}

/* Where a span lies that hangs below another: one of a server that was asked, in the middle of the time that took. */
static double offset_in(const struct trace_span *parent, const struct trace_span *t)
{
    double given = ms_of(parent, "given_ms"), end = ms_of(parent, "done_ms");
    if (!get_text(parent->span, "peer")) { /* somebody else handed the trace on */
        return parent->offset_ms + fmax(later_ms(parent, t), 0);
    }
    end = end > given ? end : ms_of(parent, "total_ms");
    return parent->offset_ms + given + fmax((end - given - ms_of(t, "total_ms")) / 2, 0);
}

/* Moves what hangs below `above` (-1: what hangs below nothing here) behind it, depth first. begin: of the trace. */
static void place_below(struct trace_set *out, struct trace_span *from, size_t n, int above, size_t begin)
{
    for (size_t i = 0; i < n; i++) {
        struct trace_span *t = &from[i];
        bool here = false;
        if (t->placed) {
            continue;
        }
        if (above >= 0) {
            here = t->parent && strcmp(t->parent, out->list[above].id) == 0;
        } else {
            here = true;
            for (size_t k = 0; k < n && t->parent; k++) {
                here = here && strcmp(t->parent, from[k].id) != 0;
            }
        }
        if (!here) {
            continue;
        }
        t->placed = true;
        t->above = above;
        t->depth = above >= 0 ? out->list[above].depth + 1 : 0;
        t->offset_ms = above >= 0       ? offset_in(&out->list[above], t)
                       : out->n > begin ? later_ms(&out->list[begin], t)
                                        : 0;
        out->list[out->n++] = *t;
        if (t->depth < TRACE_DEPTH_MAX) {
            place_below(out, from, n, (int)out->n - 1, begin);
        }
    }
}

void trace_set_make(struct trace_set *out, yyjson_val *const *docs, size_t n)
{
    struct trace_set all = {NULL, 0};
    struct trace_span *one;
    for (size_t i = 0; i < n; i++) {
        collect(&all, docs[i]);
    }
    *out = (struct trace_set){xcalloc(all.n + 1, sizeof all.list[0]), 0};
    one = xcalloc(all.n + 1, sizeof *one);
    if (all.n > 1) {
        qsort(all.list, all.n, sizeof all.list[0], earlier);
    }
    for (size_t i = all.n; i-- > 0;) { /* the newest trace first */
        size_t m = 0, begin;
        const char *trace = all.list[i].trace;
        for (size_t k = 0; k < all.n && !all.list[i].placed; k++) {
            if (strcmp(all.list[k].trace, trace) == 0) {
                one[m++] = all.list[k];
            }
        }
        for (size_t k = 0; k < all.n && m > 0; k++) {
            all.list[k].placed = all.list[k].placed || strcmp(all.list[k].trace, trace) == 0;
        }
        begin = out->n;
        place_below(out, one, m, -1, begin);
        for (size_t k = 0; k < m; k++) { /* a ring of parents: nobody made one, but a caller may say anything */
            if (!one[k].placed) {
                one[k].parent = NULL;
                place_below(out, one + k, 1, -1, begin);
            }
        }
    }
    free(one);
    free(all.list);
}

void trace_set_done(struct trace_set *s)
{
    free(s->list);
    *s = (struct trace_set){NULL, 0};
}

size_t trace_end_at(const struct trace_set *s, size_t from)
{
    size_t to = from;
    while (to < s->n && strcmp(s->list[to].trace, s->list[from].trace) == 0) {
        to++;
    }
    return to;
}

/* ---- what the time of one span went into ---- */

enum part_kind { PART_RECEIVE, PART_READ, PART_QUEUE, PART_COMPUTE, PART_PEER, PART_BACK, PART_REPLY, PARTS };

struct part {
    enum part_kind kind;
    double from_ms, took_ms; /* from: in the span */
};

static size_t add_part(struct part *p, size_t n, enum part_kind kind, double from, double to)
{
    p[n] = (struct part){kind, from, fmax(to - from, 0)};
    return n + 1;
}

static size_t parts_of(const struct trace_span *t, struct part p[PARTS])
{
    double total = ms_of(t, "total_ms"), body = ms_of(t, "body_ms"), submitted = ms_of(t, "submitted_ms");
    double given = ms_of(t, "given_ms"), end = reached(t, "done_ms") ? ms_of(t, "done_ms") : total;
    double run = given + ms_of(t, "wait_ms"), computed = run + ms_of(t, "compute_ms");
    size_t n = 0;
    if (!reached(t, "body_ms")) { /* refused before */
        return add_part(p, n, PART_RECEIVE, 0, total);
    }
    n = add_part(p, n, PART_RECEIVE, 0, body);
    if (!reached(t, "submitted_ms")) {
        return add_part(p, n, PART_READ, body, total);
    }
    n = add_part(p, n, PART_READ, body, submitted);
    if (!reached(t, "given_ms")) {
        n = add_part(p, n, PART_QUEUE, submitted, end);
    } else if (get_text(t->span, "peer")) {
        n = add_part(p, n, PART_QUEUE, submitted, given);
        n = add_part(p, n, PART_PEER, given, end);
    } else if (ms_of(t, "compute_ms") > 0) {
        n = add_part(p, n, PART_QUEUE, submitted, run);
        n = add_part(p, n, PART_COMPUTE, run, fmin(computed, end));
        n = add_part(p, n, PART_BACK, computed, end);
    } else { /* it did not come back from its run */
        n = add_part(p, n, PART_QUEUE, submitted, given);
        n = add_part(p, n, PART_COMPUTE, given, end);
    }
    return add_part(p, n, PART_REPLY, end, total);
}

/* ---- sentences ---- */

static void say_ms(struct buf *out, double ms)
{
    show_ms(out, ms);
    BUF_LIT(out, " ms");
}

static void say_version(struct buf *out, const struct trace_span *t)
{
    uint64_t version = get_count(t->span, "version");
    show_textz(out, get_text(t->span, "model"));
    if (version) {
        buf_addf(out, " v%" PRIu64, version);
    }
}

static void say_instance(struct buf *out, const struct trace_span *t)
{
    const char *place = text_of(t->span, "place");
    uint64_t pid = get_count(t->span, "pid");
    show_textz(out, *place ? place : "an instance that has gone");
    if (pid) {
        buf_addf(out, " %" PRIu64 " (pid %" PRIu64 ")", get_count(t->span, "instance"), pid);
    }
}

/* What of the time at the other server is in none of the spans that it told: the way there and back. */
static double network_ms(const struct trace_set *s, size_t from, size_t to, size_t at, double took, bool *told)
{
    double inside = 0;
    *told = false;
    for (size_t i = from; i < to; i++) {
        if (s->list[i].above == (int)at) {
            inside += ms_of(&s->list[i], "total_ms");
            *told = true;
        }
    }
    return fmax(took - inside, 0);
}

static void say_part(struct buf *out, const struct trace_span *t, enum part_kind kind, bool told)
{
    uint64_t joined = get_count(t->span, "joined");
    switch (kind) {
    case PART_RECEIVE:
        buf_addf(out, "reading the request from its caller (%" PRIu64 " bytes) on ", get_count(t->span, "body_bytes"));
        break;
    case PART_READ:
        BUF_LIT(out, "reading what the request says on ");
        break;
    case PART_QUEUE:
        BUF_LIT(out, "waiting for a turn of ");
        say_version(out, t);
        BUF_LIT(out, " on ");
        break;
    case PART_COMPUTE:
        BUF_LIT(out, "computing ");
        say_version(out, t);
        if (joined > 1) {
            buf_addf(out, " in a batch of %" PRIu64, joined);
        }
        BUF_LIT(out, " on ");
        break;
    case PART_PEER:
        buf_addz(out, told ? "between " : "at ");
        if (told) {
            show_textz(out, host_of(t));
            BUF_LIT(out, " and ");
        }
        show_textz(out, get_text(t->span, "peer"));
        buf_addz(out, told ? " (connection and network)" : " and on the way there and back");
        return;
    case PART_BACK:
        BUF_LIT(out, "bringing the result back from ");
        say_instance(out, t);
        BUF_LIT(out, " on ");
        break;
    default:
        BUF_LIT(out, "writing the reply on ");
        break;
    }
    show_textz(out, host_of(t));
}

static double whole_ms(const struct trace_set *s, size_t from, size_t to)
{
    double end = 0;
    for (size_t i = from; i < to; i++) {
        end = fmax(end, s->list[i].offset_ms + ms_of(&s->list[i], "total_ms"));
    }
    return end;
}

void trace_say_slow(struct buf *out, const struct trace_set *s, size_t from, size_t to)
{
    double most = -1, whole = whole_ms(s, from, to);
    size_t at = from;
    enum part_kind kind = PART_RECEIVE;
    bool told = false;
    for (size_t i = from; i < to; i++) {
        struct part p[PARTS];
        size_t n = parts_of(&s->list[i], p);
        for (size_t k = 0; k < n; k++) {
            bool there = false;
            double took = p[k].took_ms;
            took = p[k].kind == PART_PEER ? network_ms(s, from, to, i, took, &there) : took;
            if (took > most) {
                most = took;
                at = i;
                kind = p[k].kind;
                told = there;
            }
        }
    }
    say_ms(out, fmax(most, 0));
    BUF_LIT(out, " of ");
    say_ms(out, whole);
    BUF_LIT(out, " went into ");
    if (kind == PART_PEER) {
        BUF_LIT(out, "the time ");
    }
    say_part(out, &s->list[at], kind, told);
    if (kind == PART_COMPUTE && ms_of(&s->list[at], "stalled_ms") > most / 10) {
        BUF_LIT(out, "; for ");
        say_ms(out, ms_of(&s->list[at], "stalled_ms"));
        BUF_LIT(out, " of that no processor was free");
    }
}

bool trace_say_failed(struct buf *out, const struct trace_set *s, size_t from, size_t to)
{
    const struct trace_span *t = NULL;
    for (size_t i = from; i < to; i++) { /* the innermost one: the others only hand on what it said */
        const struct trace_span *one = &s->list[i];
        bool left = one->above >= 0 && failed(&s->list[one->above]) &&
                    strcmp(text_of(one->span, "failed_in"), "client") == 0; /* who asked had given up: that one knows */
        if (failed(one) && !left && (!t || one->depth > t->depth)) {
            t = one;
        }
    }
    if (!t) {
        return false;
    }
    const char *in = text_of(t->span, "failed_in");
    if (strcmp(in, "peer") == 0) {
        show_textz(out, get_text(t->span, "peer"));
        BUF_LIT(out, ", which ");
        show_textz(out, host_of(t));
        BUF_LIT(out, " asked: ");
    } else {
        show_textz(out, host_of(t));
        if (strcmp(in, "run") == 0) {
            BUF_LIT(out, ", in the run of ");
            say_version(out, t);
            BUF_LIT(out, " on ");
            say_instance(out, t);
        } else {
            buf_addz(out, strcmp(in, "queue") == 0       ? ", in the queue"
                          : strcmp(in, "admission") == 0 ? ", before it was taken in"
                          : strcmp(in, "client") == 0    ? ", waiting for it"
                                                         : ", reading the request");
        }
        BUF_LIT(out, ": ");
    }
    buf_addf(out, "%" PRIu64 " ", get_count(t->span, "status"));
    show_textz(out, get_text(t->span, "error"));
    return true;
}

/* ---- the waterfall ---- */

struct sheet { /* rows are collected first: the widest name makes the column */
    struct table names;
    double *from, *took;
    bool *hop;
    size_t n, cap;
};

/* The name is in names.text; this ends the row. */
static void end_row(struct sheet *sh, double from, double took, bool hop)
{
    table_cell(&sh->names);
    if (sh->n == sh->cap) {
        sh->cap = sh->cap ? 2 * sh->cap : 32;
        sh->from = xrealloc(sh->from, sh->cap * sizeof *sh->from);
        sh->took = xrealloc(sh->took, sh->cap * sizeof *sh->took);
        sh->hop = xrealloc(sh->hop, sh->cap * sizeof *sh->hop);
    }
    sh->from[sh->n] = from;
    sh->took[sh->n] = took;
    sh->hop[sh->n++] = hop;
}

static void name_part(struct buf *out, const struct trace_span *t, enum part_kind kind)
{
    static const char *const names[] = {"receive", "read", "queue", "compute", "at ", "back", "reply"};
    uint64_t joined = get_count(t->span, "joined");
    buf_addz(out, names[kind]);
    if (kind == PART_PEER) {
        show_textz(out, get_text(t->span, "peer"));
    }
    if (kind == PART_COMPUTE && get_text(t->span, "place")) {
        BUF_LIT(out, ", ");
        say_instance(out, t);
    }
    if (kind == PART_COMPUTE && joined > 1) {
        buf_addf(out, ", batch of %" PRIu64, joined);
    }
}

static void rows_below(struct sheet *sh, const struct trace_set *s, size_t from, size_t to, int above, double whole);

static void rows_of(struct sheet *sh, const struct trace_set *s, size_t from, size_t to, size_t at, double whole)
{
    const struct trace_span *t = &s->list[at];
    struct part p[PARTS];
    size_t n = parts_of(t, p);
    bool below = false;
    buf_addf(&sh->names.text, "%*s", 2 * t->depth, "");
    show_textz(&sh->names.text, host_of(t));
    BUF_LIT(&sh->names.text, "  ");
    say_version(&sh->names.text, t);
    if (get_text(t->span, "arm")) {
        BUF_LIT(&sh->names.text, " ");
        show_textz(&sh->names.text, get_text(t->span, "arm"));
    }
    end_row(sh, t->offset_ms, ms_of(t, "total_ms"), true);
    for (size_t k = 0; k < n; k++) {
        bool may_lack = p[k].kind == PART_READ || p[k].kind == PART_BACK;
        if (may_lack && p[k].took_ms < SMALL * whole) {
            continue;
        }
        buf_addf(&sh->names.text, "%*s", 2 * t->depth + 2, "");
        name_part(&sh->names.text, t, p[k].kind);
        end_row(sh, t->offset_ms + p[k].from_ms, p[k].took_ms, false);
        if (p[k].kind == PART_PEER) {
            rows_below(sh, s, from, to, (int)at, whole);
            below = true;
        }
    }
    if (!below) {
        rows_below(sh, s, from, to, (int)at, whole);
    }
}

static void rows_below(struct sheet *sh, const struct trace_set *s, size_t from, size_t to, int above, double whole)
{
    for (size_t i = from; i < to; i++) {
        if (s->list[i].above == above) {
            rows_of(sh, s, from, to, i, whole);
        }
    }
}

static void bar(struct buf *out, double from, double took, double whole, bool hop, bool utf8)
{
    const char *ink = utf8 ? (hop ? "\xe2\x96\x92" : "\xe2\x96\x88") : hop ? "-" : "#"; /* ▒, █ */
    double scale = whole > 0 ? BAR / whole : 0;
    int a = (int)floor(fmin(from * scale, BAR - 1)), b = (int)ceil(fmin((from + took) * scale, BAR));
    buf_addf(out, "%*s", MAX(a, 0), "");
    for (int i = MAX(a, 0); i < MAX(b, a + 1); i++) {
        buf_addz(out, ink);
    }
}

static void put_sheet(struct buf *out, struct sheet *sh, double whole, bool colour, bool utf8)
{
    const char *cell = sh->names.text.p;
    size_t width = 0;
    for (size_t i = 0; i < sh->n; i++) {
        width = MAX(width, MIN(strlen(cell), (size_t)WHAT_MOST));
        cell += strlen(cell) + 1;
    }
    cell = sh->names.text.p;
    show_paint(out, colour, PAINT_FAINT);
    buf_addf(out, "%-*s  %10s  %10s  0%*.3f ms\n", (int)width, "", "from ms", "took ms", BAR - 1, whole);
    show_paint(out, colour, PAINT_PLAIN);
    for (size_t i = 0; i < sh->n; i++) {
        show_paint(out, colour, sh->hop[i] ? PAINT_BOLD : PAINT_PLAIN);
        buf_addf(out, "%-*s  %10.3f  %10.3f  ", (int)width, cell, sh->from[i], sh->took[i]);
        bar(out, sh->from[i], sh->took[i], whole, sh->hop[i], utf8);
        show_paint(out, colour, PAINT_PLAIN);
        BUF_LIT(out, "\n");
        cell += strlen(cell) + 1;
    }
}

static void say_hop(struct buf *out, const struct trace_span *t)
{
    uint64_t deaths = get_count(t->span, "deaths");
    show_textz(out, host_of(t));
    BUF_LIT(out, " (");
    show_textz(out, get_text(t->server, "data"));
    BUF_LIT(out, "): ");
    say_version(out, t);
    BUF_LIT(out, ", ");
    show_textz(out, get_text(t->span, "why") ? get_text(t->span, "why") : "no version was chosen");
    if (deaths) {
        buf_addf(out, "; %" PRIu64 " instance%s ended with it, and it was given to another", deaths,
                 deaths > 1 ? "s" : "");
    }
    BUF_LIT(out, "\n");
}

void trace_show(struct buf *out, const struct trace_set *s, size_t from, size_t to, bool colour, bool utf8)
{
    const struct trace_span *first = &s->list[from];
    struct sheet sh = {.n = 0};
    double whole = whole_ms(s, from, to);
    show_paint(out, colour, PAINT_BOLD);
    BUF_LIT(out, "trace ");
    show_textz(out, first->trace);
    show_paint(out, colour, PAINT_PLAIN);
    BUF_LIT(out, "  request ");
    show_textz(out, get_text(first->span, "request_id"));
    BUF_LIT(out, "  ");
    show_when(out, text_of(first->span, "at"));
    BUF_LIT(out, "\n\n");
    table_init(&sh.names, 1);
    rows_below(&sh, s, from, to, -1, whole);
    put_sheet(out, &sh, whole, colour, utf8);
    table_done(&sh.names);
    free(sh.from);
    free(sh.took);
    free(sh.hop);
    BUF_LIT(out, "\n");
    for (size_t i = from; i < to; i++) {
        say_hop(out, &s->list[i]);
    }
    BUF_LIT(out, "time: ");
    trace_say_slow(out, s, from, to);
    BUF_LIT(out, "\n");
    size_t at = out->n;
    show_paint(out, colour, PAINT_BAD);
    BUF_LIT(out, "failed: ");
    if (trace_say_failed(out, s, from, to)) {
        show_paint(out, colour, PAINT_PLAIN);
        BUF_LIT(out, "\n");
    } else {
        out->n = at;
    }
    if (first->parent) {
        BUF_LIT(out, "its caller's span is ");
        show_textz(out, first->parent);
        BUF_LIT(out, ": that one is in the caller's own tracer\n");
    }
}

/* ---- JSON ---- */

static void put_value(struct buf *out, yyjson_val *v)
{
    size_t n = 0;
    char *text = v ? yyjson_val_write(v, 0, &n) : NULL;
    buf_add(out, text ? text : "null", text ? n : 4);
    free(text);
}

void trace_json(struct buf *out, const struct trace_set *s, size_t from, size_t to)
{
    struct buf said;
    BUF_LIT(out, "{\"trace\":");
    json_strz(out, s->list[from].trace);
    BUF_LIT(out, ",\"request_id\":");
    json_strz(out, get_text(s->list[from].span, "request_id"));
    BUF_LIT(out, ",\"total_ms\":");
    json_f64(out, whole_ms(s, from, to));
    buf_init(&said, 64u << 10);
    trace_say_slow(&said, s, from, to);
    BUF_LIT(out, ",\"slow\":");
    json_str(out, buf_str(&said));
    buf_clear(&said);
    BUF_LIT(out, ",\"failed\":");
    if (trace_say_failed(&said, s, from, to)) {
        json_str(out, buf_str(&said));
    } else {
        BUF_LIT(out, "null");
    }
    buf_done(&said);
    BUF_LIT(out, ",\"spans\":[");
    for (size_t i = from; i < to; i++) {
        json_comma(out);
        BUF_LIT(out, "{\"server\":");
        put_value(out, s->list[i].server);
        buf_addf(out, ",\"depth\":%d,\"offset_ms\":", s->list[i].depth);
        json_f64(out, s->list[i].offset_ms);
        BUF_LIT(out, ",\"span\":");
        put_value(out, s->list[i].span);
        BUF_LIT(out, "}");
    }
    BUF_LIT(out, "]}");
}
