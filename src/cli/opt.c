/* SPDX-License-Identifier: Apache-2.0 */
/* The option parser.
 *
 * Values are checked here by their kind, so that a command's code sees numbers, not text, and so that a wrong one is
 * always "called wrong" (exit status 2) and found before anything was sent. */
#include "cli/opt.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/conf.h"

#define NAME_WIDTH 40 /* longest word that is compared for nearness */

const struct opt_row opt_shared[] = {
    {"server", 0, OPT_TEXT, "URL", "admin address of the server (or WEIR_SERVER; else http://127.0.0.1:8009)"},
    {"token-file", 0, OPT_TEXT, "FILE", "file that holds the admin token"},
    {"json", 0, OPT_FLAG, NULL, "print JSON"},
};
const size_t opt_shared_n = COUNT_OF(opt_shared);

static const struct opt_row help_row = {"help", 'h', OPT_FLAG, NULL, "print this"};

/* The i-th option of a command, its own first; NULL behind the last. */
static const struct opt_row *row_at(const struct command *c, size_t i)
{
    if (i < c->n_options) {
        return &c->options[i];
    }
    i -= c->n_options;
    if (c->client && i < opt_shared_n) {
        return &opt_shared[i];
    }
    i -= c->client ? opt_shared_n : 0;
    return i == 0 ? &help_row : NULL;
}

static const char *name_at(const void *ctx, size_t i)
{
    const struct opt_row *r = row_at(ctx, i);
    return r ? r->name : NULL;
}

/* Levenshtein's distance of two short words. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[NAME_WIDTH + 1];
    size_t na = strlen(a), nb = strlen(b);
    if (na > NAME_WIDTH || nb > NAME_WIDTH) {
        return NAME_WIDTH;
    }
    for (size_t j = 0; j <= nb; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= na; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned swap = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(swap, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[nb];
}

const char *opt_nearest(const char *word, const char *(*at)(const void *ctx, size_t i), const void *ctx)
{
    const char *best = NULL, *candidate;
    unsigned least = (unsigned)MAX(strlen(word) / 2, (size_t)2);
    for (size_t i = 0; (candidate = at(ctx, i)); i++) {
        unsigned d = distance(word, candidate);
        if (d < least || (d == least && !best)) {
            best = candidate;
            least = d;
        }
    }
    return best;
}

static enum err_code unknown(const struct command *c, const char *shown, const char *name, struct err *e)
{
    const char *near = opt_nearest(name, name_at, c);
    if (near) {
        return err_set(e, ERR_INVALID, "there is no option %s; did you mean --%s?", shown, near);
    }
    return err_set(e, ERR_INVALID, "there is no option %s", shown);
}

static bool ascending(struct str left)
{
    uint64_t before = 0, share;
    for (;;) {
        const char *comma = left.n ? memchr(left.p, ',', left.n) : NULL;
        struct str one = {left.p, comma ? (size_t)(comma - left.p) : left.n};
        while (one.n > 0 && *one.p == ' ') {
            one = (struct str){one.p + 1, one.n - 1};
        }
        if (!parse_share(one, &share) || share <= before || share >= 10000) {
            return false;
        }
        if (!comma) {
            return true;
        }
        before = share;
        left = (struct str){comma + 1, (size_t)(left.p + left.n - comma - 1)};
    }
}

static enum err_code check_value(struct opt_value *v, struct err *e)
{
    struct str s = str_of(v->text);
    const char *want = NULL;
    switch (v->row->kind) {
    case OPT_FLAG:
        break;
    case OPT_TEXT:
        want = s.n == 0 ? "not empty" : NULL;
        break;
    case OPT_COUNT:
        want = str_u64(s, &v->number) && v->number > 0 ? NULL : "a whole number from 1";
        break;
    case OPT_NUMBER:
        want = str_u64(s, &v->number) ? NULL : "a whole number";
        break;
    case OPT_SHARE:
        want = parse_share(s, &v->number) && v->number <= 10000 ? NULL : "a share like 5% or 0.25%, at most 100%";
        break;
    case OPT_SHARES:
        want = ascending(s) ? NULL : "ascending shares like 1%,5%,25%, above 0% and below 100%";
        break;
    case OPT_NAME:
        want = name_ok(s) ? NULL : "a name: letters, digits, '.', '_' and '-'";
        break;
    case OPT_DURATION:
        want = parse_duration(s, &v->number) && v->number > 0 ? NULL : "a time like 500ms, 30s or 5m";
        break;
    }
    if (want) {
        return err_set(e, ERR_INVALID, "--%s must be %s, not '%s'", v->row->name, want, v->text);
    }
    return ERR_OK;
}

static enum err_code add_value(struct args *a, const struct opt_row *row, const char *text, struct err *e)
{
    for (int i = 0; i < a->n_values; i++) {
        if (a->value[i].row == row) {
            return err_set(e, ERR_INVALID, "--%s was given twice", row->name);
        }
    }
    assert(a->n_values < OPT_MAX);
    struct opt_value *v = &a->value[a->n_values++];
    *v = (struct opt_value){.row = row, .text = text};
    return check_value(v, e);
}

/* Finds the row of "--name", "--name=value" or "-c"; *value is behind the '=', else NULL. */
static enum err_code find_row(const struct command *c, const char *word, const struct opt_row **row, const char **value,
                              struct err *e)
{
    const struct opt_row *r;
    *value = NULL;
    if (word[1] != '-') {
        for (size_t i = 0; (r = row_at(c, i)); i++) {
            if (r->letter && r->letter == word[1] && word[2] == 0) {
                *row = r;
                return ERR_OK;
            }
        }
        return unknown(c, word, word + 1, e);
    }
    char name[NAME_WIDTH + 1];
    const char *equals = strchr(word, '=');
    struct str s = {word + 2, equals ? (size_t)(equals - word - 2) : strlen(word + 2)};
    if (!str_copy(name, sizeof name, s)) {
        return err_set(e, ERR_INVALID, "there is no option %s", word);
    }
    for (size_t i = 0; (r = row_at(c, i)); i++) {
        if (strcmp(r->name, name) == 0) {
            *row = r;
            *value = equals ? equals + 1 : NULL;
            return ERR_OK;
        }
    }
    char shown[NAME_WIDTH + 3];
    snprintf(shown, sizeof shown, "--%s", name);
    return unknown(c, shown, name, e);
}

static enum err_code count_words(const struct args *a, struct err *e)
{
    const struct command *c = a->command;
    if (a->n < c->min_words) {
        return err_set(e, ERR_INVALID, "needs %s", c->args);
    }
    if (a->n > c->max_words) {
        return err_set(e, ERR_INVALID, "takes %s%s; '%s' is too much", *c->args ? c->args : "no words",
                       *c->args ? " only" : "", a->word[c->max_words]);
    }
    return ERR_OK;
}

enum err_code opt_parse(struct args *out, const struct command *c, int argc, char **argv, struct err *e)
{
    struct args a = {.command = c};
    bool options = true;
    for (int i = 0; i < argc; i++) {
        char *word = argv[i];
        if (options && strcmp(word, "--") == 0) {
            options = false;
            continue;
        }
        if (!options || word[0] != '-' || word[1] == 0) {
            if (a.n == WORDS_MAX) {
                return err_set(e, ERR_INVALID, "'%s' is one word too much", word);
            }
            a.word[a.n++] = word;
            continue;
        }
        const struct opt_row *row = NULL;
        const char *value = NULL;
        enum err_code rc = find_row(c, word, &row, &value, e);
        if (rc != ERR_OK) {
            return rc;
        }
        if (row == &help_row) {
            a.help = true;
            *out = a;
            return ERR_OK;
        }
        if (row->kind == OPT_FLAG && value) {
            return err_set(e, ERR_INVALID, "--%s takes no value", row->name);
        }
        if (row->kind != OPT_FLAG && !value) {
            if (i + 1 == argc) {
                return err_set(e, ERR_INVALID, "--%s needs a value: %s", row->name, row->arg);
            }
            value = argv[++i];
        }
        rc = add_value(&a, row, value, e);
        if (rc != ERR_OK) {
            return rc;
        }
    }
    enum err_code rc = count_words(&a, e);
    if (rc == ERR_OK) {
        *out = a;
    }
    return rc;
}

const struct opt_value *opt_get(const struct args *a, const char *name)
{
    for (int i = 0; i < a->n_values; i++) {
        if (strcmp(a->value[i].row->name, name) == 0) {
            return &a->value[i];
        }
    }
    bool known = false;
    const struct opt_row *r;
    for (size_t i = 0; (r = row_at(a->command, i)); i++) {
        known = known || strcmp(r->name, name) == 0;
    }
    assert(known);
    return NULL;
}

static void help_row_text(struct buf *out, const struct opt_row *r)
{
    size_t at = out->n;
    if (r->letter) {
        buf_addf(out, "  -%c, --%s", r->letter, r->name);
    } else {
        buf_addf(out, "  --%s", r->name);
    }
    if (r->arg) {
        buf_addf(out, " %s", r->arg);
    }
    do {
        buf_addc(out, ' ');
    } while (out->n - at < 26 && !out->over);
    buf_addf(out, "%s\n", r->help);
}

void opt_help(struct buf *out, const struct command *c)
{
    const struct opt_row *r;
    bool own = c->n_options > 0;
    buf_addf(out, "usage: weir %s%s%s%s\n\n%s", c->name, own || c->client ? " [options]" : "", *c->args ? " " : "",
             c->args, c->help);
    if (own) {
        BUF_LIT(out, "\noptions:\n");
    }
    for (size_t i = 0; (r = row_at(c, i)); i++) {
        if (i == c->n_options) {
            buf_addz(out, c->client ? "\noptions of every command:\n" : own ? "" : "\noptions:\n");
        }
        help_row_text(out, r);
    }
}
