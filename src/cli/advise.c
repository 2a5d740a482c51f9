/* SPDX-License-Identifier: Apache-2.0 */
/* weir advise: the profile of a running server, or a recorded one, and a price table; what the plan says (cli/plan.h),
 * as a page or as JSON. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/plan.h"
#include "cli/show.h"

#define PROFILE_MAX (16u << 20)
#define WIDTH 110

static const char whole[] = "inference, all of it"; /* a family without a name */

static const char *name_of(const struct plan_family *f)
{
    return f->name ? f->name : whole;
}

/* ---- JSON ---- */

static void put(struct buf *b, const char *key, double v)
{
    json_key(b, key);
    json_f64(b, v); /* null: not possible, or not known */
}

static void put_text(struct buf *b, const char *key, const char *z)
{
    json_key(b, key);
    json_strz(b, z);
}

static void put_size(struct buf *b, const char *key, const struct plan_size *s)
{
    json_key(b, key);
    if (!s->possible) {
        BUF_LIT(b, "null");
        return;
    }
    buf_addf(b, "{\"machines\":%u,\"processors\":%u,\"gpus\":%u", s->machines, s->processors, s->gpus);
    put(b, "memory_gib", s->memory);
    put(b, "busy", s->busy);
    put(b, "cost", s->cost);
    BUF_LIT(b, "}");
}

static void put_load(struct buf *b, double factor, const struct plan_load *l)
{
    json_comma(b);
    BUF_LIT(b, "{");
    put(b, "load", factor);
    put(b, "cost_together", l->cost_together);
    put(b, "cost_apart", l->cost_apart);
    put(b, "p99_together_ms", l->p99_together * 1e3);
    put(b, "p99_apart_ms", l->p99_apart * 1e3);
    put_size(b, "together", &l->together);
    put_size(b, "rest", &l->rest);
    put_size(b, "own", &l->own);
    BUF_LIT(b, "}");
}

static void put_blast(struct buf *b, const struct plan_blast *x)
{
    json_key(b, "blast");
    if (!x->model) {
        BUF_LIT(b, "null");
        return;
    }
    BUF_LIT(b, "{");
    put_text(b, "model", x->model);
    put(b, "p99_ms", x->before * 1e3);
    put(b, "p99_in_burst_ms", x->after * 1e3);
    put(b, "target_ms", x->target * 1e3);
    BUF_LIT(b, "}");
}

static void put_family(struct buf *b, const struct plan_family *f)
{
    json_comma(b);
    BUF_LIT(b, "{");
    put_text(b, "family", f->name);
    put_text(b, "verdict", plan_verdict_names[f->verdict]);
    put_text(b, "reason", f->reason);
    put(b, "pays_from", f->verdict == PLAN_LATER ? f->pays_from : (double)NAN);
    put(b, "rate", f->rate);
    put(b, "share", f->share);
    put(b, "target_ms", f->target * 1e3);
    json_key(b, "own_deaths");
    buf_addu(b, f->own_deaths);
    json_key(b, "changes");
    buf_addu(b, f->changes);
    put(b, "change_days", f->change_days);
    put_blast(b, &f->blast);
    json_key(b, "loads");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < PLAN_LOADS; i++) {
        put_load(b, plan_loads[i], &f->load[i]);
    }
    BUF_LIT(b, "]}");
}

static void put_plan(struct buf *b, const struct plan *plan, const struct prices *x)
{
    BUF_LIT(b, "{\"advice\":");
    json_strz(b, plan->monolith ? "keep" : "promote");
    put_text(b, "reason", plan->reason);
    put_text(b, "currency", x->currency);
    json_key(b, "families");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < plan->n_families; i++) {
        put_family(b, &plan->family[i]);
    }
    BUF_LIT(b, "]");
    json_key(b, "fit");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < plan->n_fits; i++) {
        const struct plan_fit *f = &plan->fit[i];

        json_comma(b);
        BUF_LIT(b, "{");
        put_text(b, "model", f->model);
        put(b, "load", f->load);
        put(b, "measured_ms", f->measured * 1e3);
        put(b, "predicted_ms", f->predicted * 1e3);
        put(b, "measured_p99_ms", f->measured_p99 * 1e3);
        put(b, "predicted_p99_ms", f->predicted_p99 * 1e3);
        put(b, "stalled_ms", f->stalled * 1e3);
        put(b, "predicted_stalled_ms", f->predicted_stalled * 1e3);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]}\n");
}

/* ---- the page ---- */

static void cell_money(struct table *t, double v)
{
    if (isfinite(v)) {
        show_count(&t->text, (uint64_t)llround(v));
    } else {
        BUF_LIT(&t->text, "-");
    }
    table_cell(t);
}

static void cell_ms(struct table *t, double seconds)
{
    show_ms(&t->text, isfinite(seconds) ? seconds * 1e3 : (double)NAN);
    table_cell(t);
}

/* "2 × 4 cpu 8 GiB 1 gpu" */
static void cell_size(struct table *t, const struct plan_size *s)
{
    if (!s->possible) {
        BUF_LIT(&t->text, "-");
    } else {
        if (s->machines > 1) {
            buf_addf(&t->text, "%u x ", s->machines);
        }
        buf_addf(&t->text, "%u cpu %.0f GiB", s->processors, s->memory);
        if (s->gpus > 0) {
            buf_addf(&t->text, " %u gpu", s->gpus);
        }
    }
    table_cell(t);
}

static void page_loads(struct cli *c, const struct plan_family *f, const struct prices *x)
{
    static const char *const heads[] = {"load", "together", "", "p99 ms", "the rest", "and its own", "", "p99 ms"};
    struct table t;

    table_init(&t, COUNT_OF(heads));
    t.indent = true;
    t.right[2] = t.right[3] = t.right[6] = t.right[7] = true;
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        table_put(&t, i == 2 || i == 6 ? x->currency : heads[i]);
    }
    for (size_t i = 0; i < PLAN_LOADS; i++) {
        const struct plan_load *l = &f->load[i];

        buf_addf(&t.text, "%.0fx", plan_loads[i]);
        table_cell(&t);
        cell_size(&t, &l->together);
        cell_money(&t, l->cost_together);
        cell_ms(&t, l->p99_together);
        cell_size(&t, &l->rest);
        cell_size(&t, &l->own);
        cell_money(&t, l->cost_apart);
        cell_ms(&t, l->p99_apart);
    }
    table_show(&c->out, &t, true, c->tty);
    table_done(&t);
}

static void page_blast(struct cli *c, const struct plan_family *f, const struct prices *x)
{
    struct buf *b = &c->out;

    if (!f->name) {
        return;
    }
    BUF_LIT(b, "  blast radius  ");
    buf_addz(b, f->on_threads ? "its death ends the server: every family. "
                              : "its death ends its own process: nobody else. ");
    if (f->blast.model) {
        buf_addf(b, "A burst of %.3gx takes ", (double)x->burst / 1e6);
        show_textz(b, f->blast.model);
        if (isfinite(f->blast.after)) {
            BUF_LIT(b, " from ");
            show_ms(b, f->blast.before * 1e3);
            BUF_LIT(b, " to ");
            show_ms(b, f->blast.after * 1e3);
            BUF_LIT(b, " ms");
        } else {
            BUF_LIT(b, " out of service: the processors do not suffice");
        }
    } else {
        BUF_LIT(b, "No other model is asked");
    }
    BUF_LIT(b, "\n");
}

static void page_family(struct cli *c, const struct plan_family *f, const struct prices *x)
{
    static const char *const words[] = {[PLAN_KEEP] = "keep",
                                        [PLAN_PROMOTE] = "promote",
                                        [PLAN_LATER] = "keep, for now",
                                        [PLAN_UNKNOWN] = "keep, as far as one can tell"};
    struct buf *b = &c->out;

    BUF_LIT(b, "\n");
    show_paint(b, c->tty, PAINT_BOLD);
    show_textz(b, name_of(f));
    BUF_LIT(b, ": ");
    show_paint(b, c->tty, f->verdict == PLAN_PROMOTE ? PAINT_BAD : PAINT_GOOD);
    buf_addz(b, words[f->verdict]);
    show_paint(b, c->tty, PAINT_PLAIN);
    BUF_LIT(b, "  ");
    if (f->rate < 1000) {
        buf_addf(b, "%.3g", f->rate);
    } else {
        show_count(b, (uint64_t)llround(f->rate));
    }
    BUF_LIT(b, " requests a second, ");
    show_percent(b, f->share);
    buf_addf(b, " of the %s, p99 target ", f->gpu ? "computing" : "processors' work");
    show_ms(b, f->target * 1e3);
    BUF_LIT(b, " ms\n  ");
    show_wrapped(b, f->reason, 2, WIDTH);
    BUF_LIT(b, "\n");
    page_loads(c, f, x);
    page_blast(c, f, x);
    buf_addf(b, "  changes       %" PRIu64 " version%s in %.0f days; a push needs no deployment in either place\n",
             f->changes, f->changes == 1 ? "" : "s", MAX(ceil(f->change_days), 1.));
}

/* Of a run's time, what other programs took beyond what the neighbours do. */
static bool is_disturbed(const struct plan_fit *f)
{
    return f->stalled > f->predicted_stalled * 1.5 && f->stalled - f->predicted_stalled > f->measured * .02;
}

static void page_fits(struct cli *c, const struct plan *plan)
{
    struct buf *b = &c->out;
    bool any = false;

    for (size_t i = 0; i < plan->n_fits; i++) {
        const struct plan_fit *f = &plan->fit[i];

        buf_addz(b, i ? "" : "\nHow well the formula fits, at the mean load on this machine:\n");
        BUF_LIT(b, "  ");
        show_textz(b, f->model);
        BUF_LIT(b, "  mean ");
        show_ms(b, f->measured * 1e3);
        BUF_LIT(b, " ms measured, ");
        show_ms(b, isfinite(f->predicted) ? f->predicted * 1e3 : (double)NAN);
        BUF_LIT(b, " reckoned; p99 ");
        show_ms(b, f->measured_p99 * 1e3);
        BUF_LIT(b, ", ");
        show_ms(b, isfinite(f->predicted_p99) ? f->predicted_p99 * 1e3 : (double)NAN);
        if (is_disturbed(f)) {
            BUF_LIT(b, "; no processor for ");
            show_ms(b, f->stalled * 1e3);
            BUF_LIT(b, " ms of a run");
            any = true;
        }
        BUF_LIT(b, "\n");
    }
    if (any) {
        BUF_LIT(b, "  Other programs on this machine take the processors too: what is measured is slower than what is "
                   "reckoned.\n");
    }
}

static void page(struct cli *c, const struct profile *p, const struct plan *plan, const struct prices *x)
{
    struct buf *b = &c->out;

    show_paint(b, c->tty, PAINT_BOLD);
    show_textz(b, plan->reason);
    show_paint(b, c->tty, PAINT_PLAIN);
    buf_addf(b,
             "\n  measured for %.1f hours on %u processors; 1x is the busiest minute; costs are %s a month, apart with "
             "%.0f for\n  operating one more service\n",
             p->seconds / 3600, p->processors, x->currency, (double)x->service / 1e6);
    for (size_t i = 0; i < plan->n_families; i++) {
        page_family(c, &plan->family[i], x);
    }
    page_fits(c, plan);
    BUF_LIT(b, "\nAssumed: families on one machine share its processors evenly; arrivals of different families are "
               "independent;\nrequests take as long tomorrow as they took. weir advise --print-prices shows what was "
               "reckoned with.\n");
}

/* ---- the command ---- */

static enum err_code read_file(const char *path, struct buf *out, struct err *e)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *to;
    size_t n = 1;

    if (!f) {
        return err_sys(e, ERR_INVALID, "%s", path);
    }
    while (n > 0 && (to = buf_room(out, 65536)) != NULL) {
        n = fread(to, 1, 65536, f);
        out->n += n;
    }
    bool bad = ferror(f);
    if (f != stdin) {
        fclose(f);
    }
    return bad ? err_set(e, ERR_INVALID, "%s can not be read", path)
           : n ? err_set(e, ERR_TOO_LARGE, "%s is larger than %u bytes", path, PROFILE_MAX)
               : ERR_OK;
}

/* The profile as a document: of a file, or of the server. */
static enum err_code get_profile(struct cli *c, yyjson_doc **doc, struct err *e)
{
    const char *path = opt_text(&c->args, "profile");
    struct buf text;
    enum err_code rc;

    if (!path) {
        return cli_json(c, "GET", "/admin/profile", NULL, doc, e);
    }
    buf_init(&text, PROFILE_MAX + 65536);
    rc = read_file(path, &text, e);
    if (rc == ERR_OK) {
        *doc = yyjson_read(text.p ? text.p : "", text.n, 0);
        rc = *doc ? ERR_OK : err_set(e, ERR_INVALID, "%s is not JSON", path);
    }
    buf_done(&text);
    return rc;
}

static int advise(struct cli *c, const struct prices *x)
{
    struct profile p = {0};
    struct plan plan;
    yyjson_doc *doc = NULL;
    struct err e = {0};

    if (get_profile(c, &doc, &e) != ERR_OK || profile_read(&p, yyjson_doc_get_root(doc), &e) != ERR_OK) {
        yyjson_doc_free(doc);
        return cli_fail(c, &e);
    }
    plan_make(&plan, &p, x);
    if (c->json) {
        put_plan(&c->out, &plan, x);
    } else {
        page(c, &p, &plan, x);
    }
    plan_done(&plan);
    profile_done(&p);
    yyjson_doc_free(doc);
    return 0;
}

static int record(struct cli *c)
{
    struct err e = {0};

    if (cli_call(c, "GET", "/admin/profile", NULL, &e) != ERR_OK) {
        return cli_fail(c, &e);
    }
    buf_add(&c->out, c->answer.body.p, c->answer.body.n);
    BUF_LIT(&c->out, "\n");
    return 0;
}

int advise_run(struct cli *c)
{
    struct prices x;
    struct err e = {0};
    bool print = opt_get(&c->args, "print-prices"), keep = opt_get(&c->args, "record");
    int rc;

    if ((print || keep) && (print + keep > 1 || opt_get(&c->args, "profile") || opt_get(&c->args, "prices"))) {
        return cli_usage(c, "--%s goes alone", print ? "print-prices" : "record");
    }
    if (print) {
        prices_write(&c->out);
        return 0;
    }
    if (keep) {
        return record(c);
    }
    if (prices_read(&x, opt_text(&c->args, "prices"), &e) != ERR_OK) {
        return cli_fail(c, &e);
    }
    rc = advise(c, &x);
    prices_done(&x);
    return rc;
}
