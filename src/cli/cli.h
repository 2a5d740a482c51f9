/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: one table of commands, and what every client command works with.
 *
 * main.c gives cli_main every word but `serve` and `worker`; it parses the former with cli_command("serve") and
 * opt_parse, so that `weir help serve` and the server read the same rows.
 *
 * Exit status: 0 done, 1 it failed (the reason is on standard error, and as {"error":…} on standard output with
 * --json), 2 called wrong.
 *
 * Thread: the main thread; a command may start threads of its own and ends them. */
#ifndef WEIR_CLI_CLI_H
#define WEIR_CLI_CLI_H

#include <yyjson.h>

#include "cli/opt.h"
#include "client/http_client.h"

#define EXIT_FAILED 1
#define EXIT_USAGE 2

struct cli {
    struct args args;
    bool json;
    bool screen;        /* standard output is a terminal that can be drawn on, */
    bool tty;           /* and shows colours, */
    bool utf8;          /* and UTF-8, by its locale */
    bool err_tty;       /* standard error is one */
    char *server;       /* admin URL */
    bool server_named;  /* by option or environment */
    struct buf headers; /* Authorization, where there is a token */
    struct http_client *admin;
    struct http_answer answer; /* of the last admin call */
    struct buf out;            /* what will be printed; flushed by cli_flush and at the end */
};

int cli_main(int argc, char **argv);
/* The row of a command, or NULL. */
const struct command *cli_command(const char *name);
/* The i-th row of the table in the order of `weir help`; NULL behind the last. */
const struct command *cli_command_at(size_t i);
/* Prints the help of one command to standard output; returns 0. */
int cli_help(const struct command *c);

/* Reports an error and returns EXIT_FAILED. */
int cli_fail(struct cli *c, const struct err *e);
/* "weir push: …; weir help push" to standard error; returns EXIT_USAGE. */
int cli_usage(struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The word at `i`, checked to be a model's name; NULL: cli_usage was called. */
const char *cli_model(struct cli *c, int i);
void cli_flush(struct cli *c);

/* One call to the admin address; the reply is in c->answer. json: the body, NULL for none. A status >= 400 is an error
 * here: its sentence is the server's. */
enum err_code cli_call(struct cli *c, const char *method, const char *path, const char *json, struct err *e) MUST_USE;
/* The same and parses the reply; *doc is the caller's (yyjson_doc_free). */
enum err_code cli_json(struct cli *c, const char *method, const char *path, const char *json, yyjson_doc **doc,
                       struct err *e) MUST_USE;
/* The error that a reply with a status >= 400 tells: its sentence, or its status. */
enum err_code cli_reply_error(const struct http_answer *a, const char *who, struct err *e);
/* Asks the server for its data address; *url is the caller's (free). */
enum err_code cli_data_url(struct cli *c, char **url, struct err *e) MUST_USE;
/* Appends s with everything but letters, digits and -._~ as %XX. */
void cli_url_part(struct buf *out, struct str s);
/* "/admin/models/NAME" and what follows; the caller frees it. */
char *cli_model_path(const char *model, const char *rest);

/* ---- commands, one file each ---- */
int push_run(struct cli *c);
int models_run(struct cli *c);
int infer_run(struct cli *c);
int bench_run(struct cli *c);
int cli_feedback_run(struct cli *c);
int rollout_run(struct cli *c);
int promote_run(struct cli *c);
int rollback_run(struct cli *c);
int experiment_run(struct cli *c);
int shadow_run(struct cli *c);
int backtest_run(struct cli *c);
int history_run(struct cli *c);
int capture_run(struct cli *c);
int split_run(struct cli *c);
int doctor_run(struct cli *c);

#endif
