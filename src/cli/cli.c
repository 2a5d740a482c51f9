/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands, help, and the connection to a server that all commands share.
 *
 * A command composes its text in c->out and returns its exit status; errors are made where they happen and reported
 * here, in one form. Nothing is asked of a server before the command line was found to be right. */
#include "cli/cli.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <llhttp.h>
#include <openssl/crypto.h>

#include "base/json.h"
#include "cli/show.h"

#define DEFAULT_SERVER "http://127.0.0.1:8009"
#define REPLY_MAX (64u << 20)
#define TOKEN_MAX 4096

/* clang-format off */
static const struct opt_row serve_options[] = {
    {"config", 'c', OPT_TEXT, "FILE", "configuration file (every key of it is optional)"},
    {"data", 0, OPT_TEXT, "DIR", "folder for the store and the artifacts (default weir-data)"},
    {"listen", 0, OPT_TEXT, "ADDR", "inference address, HOST:PORT or unix:/PATH (default 127.0.0.1:8000)"},
    {"admin", 0, OPT_TEXT, "ADDR", "management address, HOST:PORT or unix:/PATH (default 127.0.0.1:8009)"},
    {"role", 0, OPT_TEXT, "ROLE", "server, or inference: takes versions and jobs from gateways"},
    {"parent-fd", 0, OPT_NUMBER, "N", "end when this open descriptor reads end-of-file (for libraries)"},
};
static const struct opt_row push_options[] = {
    {"version", 0, OPT_COUNT, "N", "number of the new version (default: the next one)"},
    {"canary", 0, OPT_SHARE, "P%", "send this share of the traffic to it at once; you move it on"},
    {"rollout", 0, OPT_NAME, "POLICY", "put it out in steps, by this policy of weir.yaml (or default)"},
    {"steps", 0, OPT_SHARES, "P%,P%", "by these steps instead of the policy's"},
    {"retry", 0, OPT_FLAG, NULL, "even if it did harm before and is on hold"},
    {"family", 0, OPT_TEXT, "F", "family of a new model (default: the one named like it, else default)"},
};
static const struct opt_row infer_options[] = {
    {"user", 0, OPT_TEXT, "KEY", "ask as this user (X-Weir-User)"},
    {"version", 0, OPT_COUNT, "N", "ask this version, past any rollout"},
};
static const struct opt_row bench_options[] = {
    {"users", 0, OPT_COUNT, "N", "ask as N users, user-0 to user-(N-1) (default 1000)"},
    {"for", 0, OPT_DURATION, "TIME", "how long (default 10s, or until --requests are sent)"},
    {"requests", 0, OPT_COUNT, "N", "how many requests"},
    {"connections", 0, OPT_COUNT, "C", "connections at once (default 8)"},
    {"rate", 0, OPT_COUNT, "R", "at most R requests a second (default: as fast as answered)"},
    {"feedback", 0, OPT_SHARE, "P%", "share of the answers whose label is sent as feedback (default 100%)"},
    {"timeout", 0, OPT_DURATION, "TIME", "limit of one request (default 30s)"},
    {"seed", 0, OPT_NUMBER, "N", "which users and samples come in which order (default 1)"},
    {"log", 0, OPT_TEXT, "FILE", "write one line of JSON a request to this file"},
};
static const struct opt_row feedback_options[] = {
    {"label", 0, OPT_TEXT, "X", "the true class: right if it is the predicted one"},
    {"correct", 0, OPT_TEXT, "yes|no", "whether it was right"},
    {"reward", 0, OPT_TEXT, "R", "what it was worth, a number"},
    {"supersede", 0, OPT_FLAG, NULL, "correct what was told before; the judge keeps what it was told first"},
    {"file", 0, OPT_TEXT, "F|-", "many: a JSON object a line, {\"id\", \"label\" | \"correct\" | \"reward\"}"},
};
static const struct opt_row rollout_options[] = {
    {"version", 0, OPT_COUNT, "N", "start, promote: the version"},
    {"share", 0, OPT_SHARE, "P%", "start, set: the canary's share of the traffic; you move it on"},
    {"policy", 0, OPT_NAME, "NAME", "start: by this policy of weir.yaml (or default), which moves it on"},
    {"steps", 0, OPT_SHARES, "P%,P%", "start: by these steps instead of the policy's"},
    {"retry", 0, OPT_FLAG, NULL, "start: even if the version did harm before and is on hold"},
};
static const struct opt_row experiment_options[] = {
    {"version", 0, OPT_COUNT, "N", "start: the version that is tested against the stable one"},
    {"goal", 0, OPT_TEXT, "GOAL", "start: reward, accuracy (by feedback), or output:NAME[:lower]"},
    {"share", 0, OPT_SHARE, "P%", "start: share of each of the two (default and most: 50%)"},
    {"for", 0, OPT_DURATION, "TIME", "start: it ends by itself then, and the stable version stays (default 28d)"},
    {"min", 0, OPT_TEXT, "TIME", "start: before it may be shipped (default 7d)"},
    {"alpha", 0, OPT_TEXT, "A", "start: chance of a false result (default 0.05)"},
    {"margin", 0, OPT_SHARE, "P%", "start: it may be shipped if it is worse by no more than this (default 0%)"},
    {"retry", 0, OPT_FLAG, NULL, "start: even if the version did harm before and is on hold"},
    {"force", 0, OPT_FLAG, NULL, "ship: though its time is not over, or its goal does not speak for it"},
};
static const struct opt_row shadow_options[] = {
    {"version", 0, OPT_COUNT, "N", "start: the version that answers unseen"},
    {"share", 0, OPT_SHARE, "P%", "start: of how many of the stable version's answers (default 10%)"},
};
static const struct opt_row backtest_options[] = {
    {"since", 0, OPT_DURATION, "TIME", "requests of the last TIME (default 1d)"},
    {"limit", 0, OPT_COUNT, "N", "at most so many requests (default 1000)"},
    {"against", 0, OPT_TEXT, "WHAT", "recorded, the answers of then (default), or another version's number"},
    {"file", 0, OPT_TEXT, "FILE", "captured requests from a file, or - for standard input"},
};
static const struct opt_row promote_options[] = {
    {"version", 0, OPT_COUNT, "N", "the version (default: the canary, else the newest one that is ready)"},
};
static const struct opt_row history_options[] = {
    {"limit", 0, OPT_COUNT, "N", "how many entries (default 50)"},
    {"at", 0, OPT_TEXT, "TIME", "who served then: 2026-11-23T21:40:31Z, or milliseconds since 1970"},
};
static const struct opt_row capture_options[] = {
    {"export", 0, OPT_FLAG, NULL, "print what was captured: one line of JSON an answer, or feedback, oldest first"},
    {"since", 0, OPT_DURATION, "TIME", "--export: only what is not older (1d, 30m)"},
    {"limit", 0, OPT_COUNT, "N", "--export: at most N lines"},
};
static const struct opt_row trace_options[] = {
    {"slow", 0, OPT_FLAG, NULL, "list the last requests that were slow"},
    {"errors", 0, OPT_FLAG, NULL, "list the last ones that failed"},
    {"limit", 0, OPT_COUNT, "N", "--slow, --errors: how many (default 20)"},
};
static const struct opt_row advise_options[] = {
    {"prices", 0, OPT_TEXT, "FILE", "the price table (default: presets, which --print-prices shows)"},
    {"print-prices", 0, OPT_FLAG, NULL, "print the presets as YAML, to be edited"},
    {"profile", 0, OPT_TEXT, "FILE|-", "a recorded profile instead of the running server's"},
    {"record", 0, OPT_FLAG, NULL, "print the server's profile, to be kept"},
};
static const struct opt_row split_options[] = {
    {"to", 0, OPT_TEXT, "HOST:PORT", "where the new server is reached (or weir://…, or http://… for any server)"},
    {"target", 0, OPT_TEXT, "KIND", "write its configuration and manifests: kubernetes, compose or systemd"},
    {"out", 0, OPT_TEXT, "DIR", "--target: into this folder (default NAME-split)"},
    {"config", 0, OPT_TEXT, "FILE", "--target: the old server's weir.yaml (default: the one it says)"},
    {"image", 0, OPT_TEXT, "IMAGE", "--target: container image (default weir:VERSION)"},
    {"watch", 0, OPT_DURATION, "TIME", "--target: how long the rate of requests is watched (default 3s)"},
    {"far-token", 0, OPT_TEXT, "FILE", "the new server's admin token, by which it is given the versions"},
    {"check", 0, OPT_FLAG, NULL, "ask both servers the same, and compare the answers"},
    {"switch", 0, OPT_FLAG, NULL, "make the change in the running server; with --check only if they are the same"},
    {"undo", 0, OPT_FLAG, NULL, "back to where weir.yaml says"},
};
static const struct opt_row doctor_options[] = {
    {"ready", 0, OPT_FLAG, NULL, "only whether the server is ready: for the health check of a container"},
    {"data", 0, OPT_TEXT, "DIR", "the folder that the server will use (default weir-data)"},
    {"listen", 0, OPT_TEXT, "ADDR", "its inference address (default 127.0.0.1:8000)"},
    {"admin", 0, OPT_TEXT, "ADDR", "its management address (default 127.0.0.1:8009)"},
};
/* clang-format on */

static int help_run(struct cli *c);
static int version_run(struct cli *c);

#define ROWS(t) (t), COUNT_OF(t)
#define NO_ROWS NULL, 0
static const struct command commands[] = {
    {"serve", "", "run the server",
     "Runs the server in the foreground until SIGTERM or SIGINT; then it finishes what it has and ends.\n"
     "Without any option it serves on 127.0.0.1:8000, is managed on 127.0.0.1:8009 and keeps its state in "
     "weir-data/.\n",
     ROWS(serve_options), 0, 0, false, NULL},
    {"push", "NAME PATH", "put a model version on the server",
     "Uploads a version of the model NAME and waits until it is loaded and warm, or says why it is not.\n"
     "PATH is a model file, a version's folder (model.onnx, model.yaml and so on), or a model's folder with numeric\n"
     "sub-folders (NAME/1/model.onnx), of which the highest, or the one of --version, is taken.\n"
     "The first version of a model takes its traffic; a later one takes none until a rollout or a promotion.\n"
     "With --canary it takes a share until you change it; with --rollout or --steps it takes more and more as long as\n"
     "its answers are no worse, and becomes the stable version by itself.\n"
     "The same files pushed again are the version that they already are.\n",
     ROWS(push_options), 2, 2, true, push_run},
    {"models", "[NAME]", "list the models, or show one",
     "Lists models, their versions, their state and what they have answered; with NAME, one model in full.\n", NO_ROWS,
     0, 1, true, models_run},
    {"infer", "NAME [FILE|-]", "ask a model once",
     "Sends an Open Inference Protocol request (JSON) from FILE or standard input (-) and prints the reply.\n"
     "Without FILE it sends the first of the model's own samples.\n",
     ROWS(infer_options), 1, 2, true, infer_run},
    {"bench", "NAME", "send a model its sample requests, with labels as feedback",
     "Sends the stable version's samples as many users, tells the server the true labels, and prints what came back:\n"
     "requests, errors, times and accuracy of each version and arm as this client saw them.\n",
     ROWS(bench_options), 1, 1, true, bench_run},
    {"feedback", "NAME [ID]", "tell what became of an answer",
     "Tells what became of the answer ID (its X-Request-Id) of the model NAME, or with --file of many. It is counted "
     "for\n"
     "the version and the arm that answered: accuracy and reward of both are compared, and judged, in a rollout.\n"
     "The first word about an answer counts. Exit status 1 if a line of the file is refused; what is not remembered "
     "any\n"
     "more, or was told before, is only counted.\n",
     ROWS(feedback_options), 1, 2, true, cli_feedback_run},
    {"rollout", "ACTION NAME", "show or change how a new version is put out",
     "ACTION is one of\n"
     "  show      where it is, what the judge says and why it stands still, both versions side by side\n"
     "  watch     the same, every second, until the rollout ends\n"
     "  start     put --version out: at a --share that you change yourself, or by a --policy or --steps,\n"
     "            which go on as long as its answers are no worse\n"
     "  set       change the canary's share to --share; users who have the canary keep it when it grows\n"
     "  pause     stand still at this share; the guardrails go on\n"
     "  resume    go on with what was paused\n"
     "  skip      to the next step now\n"
     "  promote   make the canary (or --version) the stable version\n"
     "  abort     end the rollout, the stable version takes all\n"
     "In every phase a canary that does harm is taken back by itself, and is on hold: it is not put out again without\n"
     "--retry. After the promotion the version before stays loaded while the new one is watched (soak).\n",
     ROWS(rollout_options), 2, 2, true, rollout_run},
    {"experiment", "ACTION NAME", "test a new version against the stable one (A/B)",
     "ACTION is one of\n"
     "  start     test --version against the stable version with a --goal: each gets a fixed, equal share of the "
     "users\n"
     "  status    both side by side, what the goal says, and what may be done when\n"
     "  ship      make the version the stable one, if the interval of its goal lies on the good side and the least\n"
     "            time (--min) is over; else say why not, and fail\n"
     "  stop      end it, the stable version stays\n"
     "Shares are frozen until it ends. Guardrails stop it for harm, as in a rollout; after --for it ends by itself.\n"
     "The interval stays true however often you look. If users are not split as ordered, the result is hidden.\n",
     ROWS(experiment_options), 2, 2, true, experiment_run},
    {"promote", "NAME", "make the canary the stable version",
     "Makes the canary of NAME, or --version, its stable version. `weir rollback NAME` takes it back.\n",
     ROWS(promote_options), 1, 1, true, promote_run},
    {"rollback", "NAME", "take the last step back, at once",
     "While a rollout runs: the canary gets no more traffic. After a promotion: back to the version before, which "
     "never\n"
     "left memory. With nothing to take back it says so and fails.\n",
     NO_ROWS, 1, 1, true, rollback_run},
    {"shadow", "ACTION NAME", "have a version answer unseen, and compare",
     "ACTION is one of\n"
     "  start     give --version copies of a --share of the requests that the stable version has answered\n"
     "  status    what it answered otherwise, beside what the stable version answers otherwise when asked twice\n"
     "            (the noise floor), its errors, its times, the largest differences\n"
     "  stop      give it no more\n"
     "No user sees its answers, and nobody waits for them: a copy runs as sheddable work after the answer has gone "
     "out,\n"
     "and is dropped, and counted, when there is no room. It ends by itself when the version begins to take traffic.\n",
     ROWS(shadow_options), 2, 2, true, shadow_run},
    {"backtest", "NAME@VERSION", "replay captured requests against a version",
     "Sends requests that were captured to a version of NAME, before any user sees it, and compares its answers with\n"
     "those of then, or with another version's; with the labels of their feedback it says which side is more often\n"
     "right. FILE holds captured requests and feedback as the server exports them, one JSON object a line.\n"
     "Exit status 1 if nothing could be replayed.\n",
     ROWS(backtest_options), 1, 1, true, backtest_run},
    {"history", "NAME", "what happened to a model, newest first",
     "Prints the model's history: time, kind, version, and what was done. With --at: who served which share then.\n",
     ROWS(history_options), 1, 1, true, history_run},
    {"capture", "NAME", "what was captured of a model's answers, or all of it",
     "Prints what is captured of NAME (capture: in weir.yaml), what became of it, and the segments that hold it.\n"
     "With --export: the captured requests, their answers and the feedback on them.\n",
     ROWS(capture_options), 1, 1, true, capture_run},
    {"trace", "[ID|NAME]", "where the time of a request went, and why this version",
     "Prints what the request ID (its X-Request-Id, or its W3C trace's) met in each server that it went through: the\n"
     "queue, the run, the network; on which host, which version, and why that one; and which hop failed.\n"
     "Kept are requests that failed, were slow, asked for it (traceparent with the sampled flag, or X-Weir-Trace: 1),\n"
     "and a share of the rest. --server takes several addresses here, with commas: those of all servers on the way.\n"
     "With --slow or --errors: the last ones, of the model NAME or of all.\n",
     ROWS(trace_options), 0, 1, true, trace_run},
    {"advise", "", "keep the models in one server, or make one a service of its own?",
     "Reckons from what the server has measured (arrivals and how they come in bursts, service times, memory, deaths,\n"
     "changes) and from a price table what each family costs a month where it is and as a service of its own, how "
     "long\n"
     "its slowest hundredth of answers takes in both places at 1, 2 and 10 times the load of the busiest minute, and "
     "who\n"
     "else suffers when it has a burst; and says keep or promote, and why. Only the numbers decide: the rules and "
     "their\n"
     "thresholds are rows of the price table (weir advise --print-prices).\n",
     ROWS(advise_options), 0, 0, true, advise_run},
    {"split", "NAME", "make a family a service of its own",
     "NAME is a family of weir.yaml, or a model. In this order:\n"
     "  --target   measures what it needs, and writes a folder: weir.yaml of the new server, its manifests, and the\n"
     "             change of the old weir.yaml as a diff\n"
     "  --check    asks the running and the new server the same (captured requests of the last day, else samples)\n"
     "  --switch   has the running server use the new one, without dropping a request; --undo brings it home\n"
     "A switch is kept over restarts until that family's place in weir.yaml is edited.\n"
     "Exit status 1 if the answers differ, or the switch could not be made; then all is as it was.\n",
     ROWS(split_options), 1, 1, true, split_run},
    {"doctor", "", "check this machine, and the server if one answers",
     "Checks the machine, the kernel, the runtimes, the data folder and the ports, asks a running server for its own\n"
     "checks, and says how to mend what fails. Exit status 1 if a check fails.\n",
     ROWS(doctor_options), 0, 0, true, doctor_run},
    {"version", "", "print the version", "Prints the version of this program and of the libraries it runs with.\n",
     NO_ROWS, 0, 0, true, version_run},
    {"help", "[COMMAND]", "print this, or the help of a command", "Prints all commands, or one in full.\n", NO_ROWS, 0,
     1, false, help_run},
};

const struct command *cli_command_at(size_t i)
{
    return i < COUNT_OF(commands) ? &commands[i] : NULL;
}

const struct command *cli_command(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(commands); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static const char *command_name_at(const void *ctx, size_t i)
{
    (void)ctx;
    return i < COUNT_OF(commands) ? commands[i].name : NULL;
}

/* ---- reporting ---- */

static void write_all(FILE *to, struct buf *b)
{
    if (b->n > 0) {
        fwrite(b->p, 1, b->n, to);
    }
    fflush(to);
    buf_clear(b);
}

void cli_flush(struct cli *c)
{
    write_all(stdout, &c->out);
}

int cli_fail(struct cli *c, const struct err *e)
{
    cli_flush(c);
    buf_addf(&c->out, "weir %s: ", c->args.command->name);
    show_textz(&c->out, e->text);
    BUF_LIT(&c->out, "\n");
    if (e->code == ERR_UNAVAILABLE && c->admin && c->answer.status == 0) {
        buf_addf(&c->out, "is a server running? 'weir serve' starts one, --server URL names another than %s\n",
                 c->server);
    }
    write_all(stderr, &c->out);
    if (c->json) {
        BUF_LIT(&c->out, "{\"error\":");
        json_strz(&c->out, e->text);
        buf_addf(&c->out, ",\"code\":\"%s\"}\n", err_name(e->code));
        cli_flush(c);
    }
    return EXIT_FAILED;
}

int cli_usage(struct cli *c, const char *fmt, ...)
{
    struct err e;
    va_list ap;
    va_start(ap, fmt);
    err_vset(&e, ERR_INVALID, fmt, ap);
    va_end(ap);
    cli_flush(c);
    fprintf(stderr, "weir %s: %s\n'weir help %s' says more\n", c->args.command->name, e.text, c->args.command->name);
    return EXIT_USAGE;
}

const char *cli_model(struct cli *c, int i)
{
    const char *name = c->args.word[i];
    if (name_ok(str_of(name))) {
        return name;
    }
    cli_usage(c, "'%s' is not a model's name (letters, digits, '.', '_' and '-', at most %d)", name, NAME_MAX_LEN);
    return NULL;
}

/* ---- the server ---- */

void cli_url_part(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-._~", c));
        if (plain) {
            buf_addc(out, (char)c);
        } else {
            buf_addf(out, "%%%02X", c);
        }
    }
}

char *cli_model_path(const char *model, const char *rest)
{
    return xasprintf("/admin/models/%s%s", model, rest); /* name_ok: nothing to encode */
}

enum err_code cli_reply_error(const struct http_answer *a, const char *who, struct err *e)
{
    enum err_code code = a->status >= 400 ? err_from_http(a->status) : ERR_INTERNAL;
    yyjson_doc *doc = yyjson_read(a->body.p ? a->body.p : "", a->body.n, 0);
    const char *text = get_text(yyjson_doc_get_root(doc), "error");
    if (text) {
        err_set(e, code, "%s", text);
    } else if (a->status == 401) {
        err_set(e, code, "%s asks for a token: --token-file FILE", who);
    } else {
        err_set(e, code, "%s answered %d without a reason; is it the admin address of a Weir server?", who, a->status);
    }
    yyjson_doc_free(doc);
    return code;
}

enum err_code cli_call(struct cli *c, const char *method, const char *path, const char *json, struct err *e)
{
    struct buf headers;
    struct iovec body = {(void *)(uintptr_t)json, json ? strlen(json) : 0};
    buf_init(&headers, 64u << 10);
    buf_add(&headers, c->headers.p, c->headers.n);
    if (json) {
        BUF_LIT(&headers, "Content-Type: application/json\r\n");
    }
    enum err_code rc =
        http_call(c->admin, method, path, buf_str(&headers), json ? &body : NULL, json ? 1 : 0, 0, &c->answer, e);
    buf_done(&headers);
    if (rc == ERR_OK && (c->answer.status < 200 || c->answer.status > 299)) {
        rc = cli_reply_error(&c->answer, c->server, e);
    }
    return rc;
}

enum err_code cli_json(struct cli *c, const char *method, const char *path, const char *json, yyjson_doc **doc,
                       struct err *e)
{
    enum err_code rc = cli_call(c, method, path, json, e);
    if (rc != ERR_OK) {
        return rc;
    }
    yyjson_doc *d = yyjson_read(c->answer.body.p ? c->answer.body.p : "", c->answer.body.n, 0);
    if (!yyjson_is_obj(yyjson_doc_get_root(d))) {
        yyjson_doc_free(d);
        return err_set(e, ERR_INTERNAL,
                       "%s did not answer with a JSON object; is it the admin address of a Weir server?", c->server);
    }
    *doc = d;
    return ERR_OK;
}

/* A server that listens on every address says 0.0.0.0: the host that reached its admin address reaches it. */
static char *reachable(const char *data, const char *server)
{
    static const char *const any[] = {"http://0.0.0.0:", "http://[::]:"};
    for (size_t i = 0; i < COUNT_OF(any); i++) {
        size_t n = strlen(any[i]);
        if (strncmp(data, any[i], n) == 0 && strncmp(server, "http://", 7) == 0) {
            const char *host = server + 7;
            const char *close = *host == '[' ? strchr(host, ']') : NULL;
            size_t host_n = close ? (size_t)(close + 1 - host) : strcspn(host, ":/");
            return xasprintf("http://%.*s:%s", (int)host_n, host, data + n);
        }
    }
    return xstrdup(data);
}

enum err_code cli_data_url(struct cli *c, char **url, struct err *e)
{
    yyjson_doc *doc = NULL;
    enum err_code rc = cli_json(c, "GET", "/admin/server", NULL, &doc, e);
    if (rc != ERR_OK) {
        return rc;
    }
    const char *data = get_text(yyjson_doc_get_root(doc), "data");
    if (data) {
        *url = reachable(data, c->server);
    } else {
        rc = err_set(e, ERR_INTERNAL, "%s does not say where its inference port is", c->server);
    }
    yyjson_doc_free(doc);
    return rc;
}

static enum err_code read_token(struct cli *c, const char *path, struct err *e)
{
    char text[TOKEN_MAX + 2];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_sys(e, ERR_INVALID, "--token-file %s", path);
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n < 0) {
        return err_sys(e, ERR_INVALID, "--token-file %s", path);
    }
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' ')) {
        n--;
    }
    bool ok = n > 0 && n <= TOKEN_MAX;
    for (ssize_t i = 0; ok && i < n; i++) {
        ok = text[i] > ' ' && text[i] < 0x7f;
    }
    if (!ok) {
        return err_set(e, ERR_INVALID, "--token-file %s: not one line of at most %d printable characters", path,
                       TOKEN_MAX);
    }
    buf_addf(&c->headers, "Authorization: Bearer %.*s\r\n", (int)n, text);
    return ERR_OK;
}

/* Reads the shared options; does not connect. */
static enum err_code prepare(struct cli *c, struct err *e)
{
    const char *server = opt_text(&c->args, "server"), *token = opt_text(&c->args, "token-file");
    c->json = opt_get(&c->args, "json") != NULL;
    if (!server) {
        server = getenv("WEIR_SERVER");
        server = server && *server ? server : NULL;
    }
    c->server_named = server != NULL;
    server = server ? server : DEFAULT_SERVER;
    c->servers = server;
    struct str first = {server, c->args.command->fn == trace_run ? strcspn(server, ",") : strlen(server)};
    bool bare = !memmem(first.p, first.n, "://", 3) && strncmp(server, "unix:", 5) != 0;
    c->server = xasprintf("%s" STR_FMT, bare ? "http://" : "", STR_ARG(first));
    enum err_code rc = http_client_new(&c->admin, str_of(c->server), e);
    if (rc == ERR_OK && token) {
        rc = read_token(c, token, e);
    }
    return rc;
}

/* ---- help and version ---- */

static void overview(struct buf *out)
{
    BUF_LIT(out, "Weir serves models: put a version out to a share of the traffic, compare, take it back.\n\n"
                 "usage: weir COMMAND [options]\n\n");
    for (size_t i = 0; i < COUNT_OF(commands); i++) {
        size_t at = out->n;
        buf_addf(out, "  %s %s", commands[i].name, commands[i].args);
        do {
            buf_addc(out, ' ');
        } while (out->n - at < 26 && !out->over);
        buf_addf(out, "%s\n", commands[i].summary);
    }
    BUF_LIT(out, "\n'weir help COMMAND' says more. Clients find the server by --server URL or WEIR_SERVER.\n"
                 "Exit status: 0 done, 1 it failed, 2 called wrong.\n");
}

int cli_help(const struct command *c)
{
    struct buf out;
    buf_init(&out, 1u << 20);
    if (c) {
        opt_help(&out, c);
    } else {
        overview(&out);
    }
    write_all(stdout, &out);
    buf_done(&out);
    return 0;
}

static int unknown_command(const char *word)
{
    const char *near = opt_nearest(word, command_name_at, NULL);
    fprintf(stderr, "weir: there is no command '%s'%s%s%s\n'weir help' lists them\n", word,
            near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return EXIT_USAGE;
}

static int help_run(struct cli *c)
{
    if (c->args.n == 0) {
        return cli_help(NULL);
    }
    const struct command *about = cli_command(c->args.word[0]);
    return about ? cli_help(about) : unknown_command(c->args.word[0]);
}

static int version_run(struct cli *c)
{
#ifdef __clang__
    const char *compiler = "clang " __clang_version__;
#else
    const char *compiler = "gcc " __VERSION__;
#endif
    char http[32], json[32];
    uint32_t v = yyjson_version();
    const char *tls = OpenSSL_version(OPENSSL_VERSION_STRING);
    snprintf(http, sizeof http, "%d.%d.%d", LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR, LLHTTP_VERSION_PATCH);
    snprintf(json, sizeof json, "%u.%u.%u", v >> 16, v >> 8 & 255, v & 255);
    if (!c->json) {
        buf_addf(&c->out, "weir %s\n  built with %s\n  llhttp %s, yyjson %s, OpenSSL %s\n", WEIR_VERSION, compiler,
                 http, json, tls);
        return 0;
    }
    buf_addf(&c->out, "{\"name\":\"weir\",\"version\":\"%s\",\"compiler\":", WEIR_VERSION);
    json_strz(&c->out, compiler);
    buf_addf(&c->out, ",\"llhttp\":\"%s\",\"yyjson\":\"%s\",\"openssl\":\"%s\"}\n", http, json, tls);
    return 0;
}

/* ---- entry ---- */

/* The command's word is the first that is neither a shared option nor its value; it is taken out of argv. */
static const char *take_command(int *argc, char **argv)
{
    for (int i = 1; i < *argc; i++) {
        if (argv[i][0] == '-' && argv[i][1] != 0) {
            bool takes = strcmp(argv[i], "--server") == 0 || strcmp(argv[i], "--token-file") == 0;
            i += takes;
            continue;
        }
        const char *word = argv[i];
        memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof *argv);
        --*argc;
        return word;
    }
    return NULL;
}

static int no_command(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return cli_help(NULL);
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("weir %s\n", WEIR_VERSION);
            return 0;
        }
    }
    struct buf out;
    buf_init(&out, 1u << 20);
    overview(&out);
    write_all(stderr, &out);
    buf_done(&out);
    return EXIT_USAGE;
}

static bool wants_colours(void)
{
    const char *no = getenv("NO_COLOR");
    return !(no && *no);
}

static bool is_screen(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

/* By the variable that rules: LC_ALL, LC_CTYPE, LANG. */
static bool takes_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *locale = getenv(names[i]);
        if (locale && *locale) {
            return strcasestr(locale, "utf-8") || strcasestr(locale, "utf8");
        }
    }
    return false;
}

static int run(struct cli *c, int argc, char **argv)
{
    struct err e = {0};
    if (opt_parse(&c->args, c->args.command, argc, argv, &e) != ERR_OK) {
        return cli_usage(c, "%s", e.text);
    }
    if (c->args.help || !c->args.command->fn) {
        return cli_help(c->args.command);
    }
    if (c->args.command->client && prepare(c, &e) != ERR_OK) {
        return cli_usage(c, "%s", e.text);
    }
    int status = c->args.command->fn(c);
    cli_flush(c);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "weir %s: standard output: %m\n", c->args.command->name);
        status = EXIT_FAILED;
    }
    return status;
}

int cli_main(int argc, char **argv)
{
    /* argv is the caller's, and a word is taken out of the list. */
    char **words = xcalloc((size_t)argc + 1, sizeof *words);
    memcpy(words, argv, (size_t)argc * sizeof *words);
    const char *word = take_command(&argc, words);
    int status;
    if (!word) {
        status = no_command(argc, words);
    } else if (!cli_command(word)) {
        status = unknown_command(word);
    } else {
        struct cli c = {.screen = is_screen(1), .err_tty = isatty(2)};
        c.tty = c.screen && wants_colours();
        c.utf8 = c.screen && takes_utf8();
        c.args.command = cli_command(word);
        buf_init(&c.headers, 16u << 10);
        buf_init(&c.out, 256u << 20);
        http_answer_init(&c.answer, REPLY_MAX);
        status = run(&c, argc - 1, words + 1);
        http_client_free(c.admin);
        http_answer_done(&c.answer);
        buf_done(&c.out);
        buf_done(&c.headers);
        free(c.server);
    }
    free(words);
    return status;
}
