/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines from tables: one row an option, one row a command.
 *
 * The same rows feed the parser, `weir help` and the tests. Options may stand anywhere before "--"; "--name value",
 * "--name=value" and "-c value" are the same. What is wrong is said with the nearest word that exists.
 *
 * Thread: any; nothing here has state. Words point into argv. */
#ifndef WEIR_CLI_OPT_H
#define WEIR_CLI_OPT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

enum opt_kind {
    OPT_FLAG,     /* no value */
    OPT_TEXT,     /* not empty */
    OPT_COUNT,    /* a whole number from 1 */
    OPT_NUMBER,   /* a whole number from 0 */
    OPT_SHARE,    /* 5%, 0.25%: basis points in .number */
    OPT_SHARES,   /* 1%,5%,25%: ascending, above 0 and below 100 % */
    OPT_NAME,     /* of a policy or a family */
    OPT_DURATION, /* 500ms, 30s, 5m: microseconds in .number, more than 0 */
};

struct opt_row {
    const char *name; /* "canary" for --canary */
    char letter;      /* 'c' for -c; 0: none */
    enum opt_kind kind;
    const char *arg; /* how help calls the value; NULL for a flag */
    const char *help;
};

struct cli;
struct command {
    const char *name;
    const char *args;    /* "NAME PATH" */
    const char *summary; /* one line of `weir help` */
    const char *help;    /* paragraphs of `weir help NAME`, lines ended */
    const struct opt_row *options;
    size_t n_options;
    int min_words, max_words;
    bool client;                /* takes the options that all clients share */
    int (*fn)(struct cli *cli); /* returns the exit status; NULL: not run by cli_main */
};

#define OPT_MAX 24
#define WORDS_MAX 8

struct opt_value {
    const struct opt_row *row; /* NULL: not given */
    const char *text;
    uint64_t number;
};
struct args {
    const struct command *command;
    const char *word[WORDS_MAX];
    int n;
    struct opt_value value[OPT_MAX];
    int n_values;
    bool help; /* --help or -h was given; then nothing else was checked */
};

/* The options that every client command takes. */
extern const struct opt_row opt_shared[];
extern const size_t opt_shared_n;

/* Parses argv[0..argc) (behind the command's word). ERR_INVALID: called wrong, *e says how. */
enum err_code opt_parse(struct args *out, const struct command *c, int argc, char **argv, struct err *e) MUST_USE;
/* The value of an option of this command's table; NULL if it was not given. An unknown name is a bug and aborts. */
const struct opt_value *opt_get(const struct args *a, const char *name);
static inline const char *opt_text(const struct args *a, const char *name)
{
    const struct opt_value *v = opt_get(a, name);
    return v ? v->text : NULL;
}
static inline uint64_t opt_number(const struct args *a, const char *name, uint64_t preset)
{
    const struct opt_value *v = opt_get(a, name);
    return v ? v->number : preset;
}
/* `weir help NAME`, from the rows. */
void opt_help(struct buf *out, const struct command *c);
/* The candidate nearest to word by edits, or NULL if none is near. `at(i)` gives the i-th, NULL ends. */
const char *opt_nearest(const char *word, const char *(*at)(const void *ctx, size_t i), const void *ctx);

#endif
