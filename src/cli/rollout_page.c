/* SPDX-License-Identifier: Apache-2.0 */
/* The page of a rollout. Whatever an older server does not tell is left out, line by line. */
#include "cli/rollout_page.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "cli/compare.h"
#include "cli/show.h"

#define COLUMNS 78
#define COMMAND_MOST 34 /* what longer ones do stands behind them, not in the column of the others */
#define DOUBTFUL 0.01   /* a split this unlikely is not called as ordered, but only the judge calls it broken */
#define TEXT_AT 13      /* where what stands behind a word at the left begins */

/* How much is shown: everything; without what is rarely looked at; without the arms; and so on. */
enum detail { WHOLE, SHORT, NO_ARMS, NO_HINTS, LEAST };

struct page {
    struct buf *out;
    yyjson_val *root, *rollout, *verdict;
    const struct page_style *style;
    const char *model, *state, *phase, *pause;
    uint64_t stable, canary;
    bool manual;
};

static bool is(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

bool rollout_goes_on(yyjson_val *root)
{
    const char *state = get_text(yyjson_obj_get(root, "rollout"), "state");
    return is(state, "running") || is(state, "soaking");
}

static void paint(const struct page *p, enum paint how)
{
    show_paint(p->out, p->style->colour, how);
}

/* Begins a line with a word at the left; what follows stands in the column of texts. */
static void label(const struct page *p, const char *word)
{
    size_t line = p->out->n;
    BUF_LIT(p->out, "  ");
    paint(p, PAINT_BOLD);
    buf_addz(p->out, word);
    paint(p, PAINT_PLAIN);
    show_column(p->out, line, TEXT_AT);
}

/* ---- where it is ---- */

static void chip(const struct page *p, const char *word)
{
    paint(p, PAINT_CHIP);
    buf_addz(p->out, p->style->colour ? " " : "[");
    for (const char *c = word; *c; c++) {
        char up = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c == '_' ? ' ' : *c;
        show_text(p->out, (struct str){&up, 1});
    }
    buf_addz(p->out, p->style->colour ? " " : "]");
    paint(p, PAINT_PLAIN);
}

static const char *dot(const struct page *p, bool full)
{
    return p->style->utf8 ? (full ? "●" : "○") : full ? "*" : ".";
}

/* 1% ● 5% ● 25% ○ 50% ○ */
static void track(const struct page *p)
{
    yyjson_val *steps = yyjson_obj_get(p->rollout, "steps"), *v;
    size_t n = yyjson_arr_size(steps), now = get_count(p->rollout, "step"), i, max, on_line = 0;
    bool all = is(p->state, "soaking") || is(p->state, "promoted");
    if (n == 0 || p->manual) {
        return;
    }
    BUF_LIT(p->out, " ");
    yyjson_arr_foreach(steps, i, max, v)
    {
        bool done = all || i < now, here = !all && i + 1 == now && rollout_goes_on(p->root);
        if (on_line++ == 8) {
            BUF_LIT(p->out, "\n ");
            on_line = 1;
        }
        BUF_LIT(p->out, " ");
        paint(p, here ? PAINT_BOLD : done ? PAINT_PLAIN : PAINT_FAINT);
        show_share(p->out, yyjson_get_uint(v));
        p->out->n -= 2; /* the blank before the % */
        buf_addf(p->out, "%% %s", dot(p, done));
        paint(p, PAINT_PLAIN);
    }
    buf_addf(p->out, " 100%% %s", dot(p, all));
    if (is(p->state, "running")) {
        buf_addf(p->out, "   step %zu of %zu", now, n);
    }
    BUF_LIT(p->out, "\n");
}

static bool tells_verdict(const struct page *p, const char *reason)
{
    const char *text = get_text(p->verdict, "text");
    return text && *text && reason && strstr(reason, text);
}

static void header(const struct page *p)
{
    const char *policy = get_text(yyjson_obj_get(p->rollout, "policy"), "name");
    const char *reason = get_text(p->rollout, "reason"), *since = get_text(p->rollout, "counting_since");
    const char *started = get_text(p->rollout, "started"), *ended = get_text(p->rollout, "ended");
    paint(p, PAINT_BOLD);
    show_textz(p->out, p->model);
    paint(p, PAINT_PLAIN);
    buf_addf(p->out, "  v%" PRIu64 " %s v%" PRIu64 "  ", p->stable, p->style->utf8 ? "→" : "->", p->canary);
    chip(p, rollout_goes_on(p->root) && p->phase ? p->phase : p->state ? p->state : "no rollout");
    if (p->pause) {
        BUF_LIT(p->out, " ");
        chip(p, p->pause);
    }
    BUF_LIT(p->out, "  ");
    if (rollout_goes_on(p->root)) {
        BUF_LIT(p->out, "canary takes ");
        show_share(p->out, get_count(p->rollout, "share_bp"));
        buf_addz(p->out, policy ? ", " : "");
    }
    if (policy) {
        buf_addz(p->out, yyjson_is_obj(yyjson_obj_get(p->rollout, "experiment")) ? "an experiment"
                         : p->manual                                             ? "moved on by a person"
                                                                                 : "policy ");
        show_textz(p->out, p->manual ? "" : policy);
    }
    while (p->out->n > 0 && p->out->p[p->out->n - 1] == ' ') {
        p->out->n--;
    }
    BUF_LIT(p->out, "\n");
    track(p);
    BUF_LIT(p->out, "  started ");
    show_when(p->out, started);
    if (ended) {
        BUF_LIT(p->out, ", ended ");
        show_when(p->out, ended);
    }
    if (since && started && strcmp(since, started) > 0) {
        BUF_LIT(p->out, "\n  counted since ");
        show_when(p->out, since);
    }
    BUF_LIT(p->out, "\n");
    if (reason && *reason && !is(p->state, "running") && !tells_verdict(p, reason)) {
        BUF_LIT(p->out, "  ");
        show_wrapped(p->out, reason, 2, COLUMNS);
        BUF_LIT(p->out, "\n");
    }
    BUF_LIT(p->out, "\n");
}

/* Of a rollout that the judge ended the reason is the verdict, and says more. */
static void verdict(const struct page *p)
{
    const char *text = get_text(p->verdict, "text"), *reason = get_text(p->rollout, "reason");
    size_t line = p->out->n;
    if (!p->verdict) {
        return;
    }
    BUF_LIT(p->out, "  ");
    verdict_show(p->out, get_text(p->verdict, "verdict"), p->style);
    show_column(p->out, line, TEXT_AT);
    show_wrapped(p->out, tells_verdict(p, reason) ? reason : text ? text : "", TEXT_AT, COLUMNS);
    BUF_LIT(p->out, "\n\n");
}

/* ---- the split ---- */

static void traffic(const struct page *p)
{
    yyjson_val *exposed = yyjson_obj_get(p->rollout, "exposed"), *ratio = yyjson_obj_get(p->verdict, "ratio");
    double chance = get_number(ratio, "p");
    if (!yyjson_is_obj(exposed) || rollout_soaked(p->rollout)) {
        return;
    }
    label(p, "traffic");
    BUF_LIT(p->out, "ordered ");
    show_percent(p->out, get_number(exposed, "ordered"));
    BUF_LIT(p->out, ", actual ");
    show_percent(p->out, get_number(exposed, "actual"));
    BUF_LIT(p->out, " of ");
    show_count(p->out, get_count(exposed, "stable") + get_count(exposed, "canary"));
    BUF_LIT(p->out, " users");
    if (get_flag(ratio, "broken")) {
        BUF_LIT(p->out, ": ");
        paint(p, PAINT_BAD);
        BUF_LIT(p->out, "NOT AS ORDERED");
        paint(p, PAINT_PLAIN);
    } else if (!isnan(chance)) {
        buf_addf(p->out, chance < DOUBTFUL ? ": doubtful (p %.1g)" : ": as ordered (p %.2f)", chance);
    }
    BUF_LIT(p->out, "\n\n");
}

void rollout_traffic(struct buf *out, yyjson_val *rollout, const struct page_style *s)
{
    const struct page p = {.out = out, .rollout = rollout, .verdict = yyjson_obj_get(rollout, "verdict"), .style = s};
    traffic(&p);
}

/* ---- what comes next ---- */

static void next(const struct page *p)
{
    const char *waits = get_text(p->rollout, "waits_for");
    if (waits) {
        label(p, "next");
        show_wrapped(p->out, waits, TEXT_AT, COLUMNS);
        BUF_LIT(p->out, "\n");
    }
    if (get_flag(p->rollout, "held")) {
        label(p, "on hold");
        buf_addf(p->out, "v%" PRIu64 " did harm: another rollout of it is refused without --retry\n", p->canary);
    }
}

struct hints {
    struct {
        char command[200];
        const char *what;
    } list[6];
    size_t n, wide;
};

static void may(struct hints *h, const char *what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void may(struct hints *h, const char *what, const char *fmt, ...)
{
    va_list ap;
    assert(h->n < COUNT_OF(h->list));
    va_start(ap, fmt);
    vsnprintf(h->list[h->n].command, sizeof h->list[0].command, fmt, ap);
    va_end(ap);
    size_t n = strlen(h->list[h->n].command);
    h->wide = n <= COMMAND_MOST ? MAX(h->wide, n) : h->wide;
    h->list[h->n++].what = what;
}

static void find_hints(const struct page *p, struct hints *h)
{
    const char *m = p->model ? p->model : "NAME";
    bool held = get_flag(p->rollout, "held");
    if (!rollout_goes_on(p->root)) {
        may(h, "what was decided, and on which evidence", "weir history %s", m);
        if (is(p->state, "promoted")) {
            may(h, "back to the version before, at once", "weir rollback %s", m);
        } else {
            may(h, held ? "try it again all the same" : "try it again",
                "weir rollout start %s --version %" PRIu64 " --policy default%s", m, p->canary, held ? " --retry" : "");
        }
        return;
    }
    if (is(p->state, "soaking")) {
        may(h, "back to the version before, at once", "weir rollback %s", m);
        return;
    }
    if (yyjson_is_obj(yyjson_obj_get(p->rollout, "experiment"))) {
        may(h, "what its goal says", "weir experiment status %s", m);
        may(h, "end it; the stable version stays", "weir experiment stop %s", m);
        return;
    }
    if (is(p->phase, "paused")) {
        may(h, "go on", "weir rollout resume %s", m);
    } else if (p->phase && !p->manual) {
        may(h, "stand still at this share", "weir rollout pause %s", m);
        may(h, "to the next step now", "weir rollout skip %s", m);
    }
    may(h, p->manual ? "another share" : "another share; you move it on", "weir rollout set %s --share P%%", m);
    may(h, "it becomes the stable version", "weir promote %s", m);
    may(h, "it takes nothing any more", "weir rollback %s", m);
}

static void hints(const struct page *p)
{
    struct hints h = {0};
    find_hints(p, &h);
    for (size_t i = 0; i < h.n; i++) {
        size_t line = p->out->n;
        if (i == 0) {
            label(p, "you may");
        } else {
            show_column(p->out, line, TEXT_AT);
        }
        show_textz(p->out, h.list[i].command);
        size_t n = strlen(h.list[i].command), at = TEXT_AT + (n <= COMMAND_MOST ? h.wide : n) + 2;
        if (at + strlen(h.list[i].what) <= COLUMNS + 2) {
            show_column(p->out, line, at);
            paint(p, PAINT_FAINT);
            buf_addz(p->out, h.list[i].what);
            paint(p, PAINT_PLAIN);
        }
        BUF_LIT(p->out, "\n");
    }
}

/* ---- the whole ---- */

static void sentence(const struct page *p)
{
    struct buf text;
    buf_init(&text, 64u << 10);
    compare_verdict(&text, p->root);
    show_wrapped(p->out, buf_z(&text), 2, COLUMNS);
    BUF_LIT(p->out, "\n\n");
    buf_done(&text);
}

static void compose(const struct page *p, enum detail detail)
{
    header(p);
    verdict(p);
    if (detail < LEAST) {
        guardrails_show(p->out, p->rollout, p->style);
    }
    traffic(p);
    if (detail < NO_ARMS && yyjson_arr_size(yyjson_obj_get(p->root, "arms")) > 0) {
        compare_table(p->out, p->root, detail == WHOLE, p->style->colour);
        BUF_LIT(p->out, "\n  ");
        sentence(p);
    }
    next(p);
    if (detail < NO_HINTS) {
        hints(p);
    }
}

static size_t lines_of(const struct buf *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        n += b->p[i] == '\n';
    }
    return n;
}

void rollout_page(struct buf *out, yyjson_val *root, const struct page_style *s)
{
    struct buf text;
    yyjson_val *r = yyjson_obj_get(root, "rollout"), *v = yyjson_obj_get(r, "verdict");
    struct page p = {.out = &text,
                     .root = root,
                     .rollout = r,
                     .verdict = yyjson_is_obj(v) ? v : NULL,
                     .style = s,
                     .model = get_text(root, "model"),
                     .state = get_text(r, "state"),
                     .phase = get_text(r, "phase"),
                     .pause = get_text(r, "pause"),
                     .stable = get_count(r, "stable"),
                     .canary = get_count(r, "canary"),
                     .manual = yyjson_is_false(yyjson_obj_get(yyjson_obj_get(r, "policy"), "automatic"))};
    buf_init(&text, 16u << 20);
    for (enum detail d = WHOLE; d <= LEAST; d++) {
        buf_clear(&text);
        compose(&p, d);
        if (s->rows == 0 || lines_of(&text) <= s->rows) {
            break;
        }
    }
    buf_add(out, text.p, text.n);
    buf_done(&text);
}

void rollout_redraw(struct buf *out, yyjson_val *root, const struct page_style *s, bool first)
{
    struct buf text;
    size_t rows = 0;
    buf_init(&text, 16u << 20);
    rollout_page(&text, root, s);
    buf_addz(out, first ? "\033[H\033[2J" : "\033[H");
    for (const char *p = text.p, *end = p + text.n; p && p < end && (s->rows == 0 || rows < s->rows); rows++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) : (size_t)(end - p);
        buf_add(out, p, n);
        BUF_LIT(out, "\033[K\n");
        p += n + (nl ? 1 : 0);
    }
    BUF_LIT(out, "\033[J");
    buf_done(&text);
}
