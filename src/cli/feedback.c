/* SPDX-License-Identifier: Apache-2.0 */
/* weir feedback: what became of an answer, or of many: a file of JSON lines goes to the data plane in parts that it
 * takes, and what became of each part is added up. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/show.h"

#define PART_BYTES (1u << 20) /* as much as the server takes at once, */
#define PART_LINES 4096u      /* and as many */
#define ERRORS_TOLD 20u
#define REPLY_MOST (1u << 20)

static const char *const outcomes[] = {"counted", "superseded", "duplicates", "orphans", "late", "refused"};
enum { REFUSED = COUNT_OF(outcomes) - 1 };

struct telling {
    struct cli *c;
    struct http_client *data;
    char *url, *path;
    struct http_answer answer;
    /* of a file */
    struct buf part; /* what is read and not sent */
    uint64_t line;   /* lines that were sent before it */
    uint64_t sum[COUNT_OF(outcomes)];
    struct buf errors; /* JSON objects, the first ERRORS_TOLD */
    unsigned told;
};

static enum err_code telling_begin(struct telling *t, struct cli *c, const char *model, struct err *e)
{
    t->c = c;
    http_answer_init(&t->answer, REPLY_MOST);
    buf_init(&t->part, PART_BYTES);
    buf_init(&t->errors, REPLY_MOST);
    t->path = xasprintf("/v2/models/%s/feedback", model);
    if (cli_data_url(c, &t->url, e) != ERR_OK) {
        return e->code;
    }
    return http_client_new(&t->data, str_of(t->url), e);
}

static void telling_end(struct telling *t)
{
    http_client_free(t->data);
    http_answer_done(&t->answer);
    buf_done(&t->part);
    buf_done(&t->errors);
    free(t->url);
    free(t->path);
}

static enum err_code send_text(struct telling *t, const char *type, struct str text, struct err *e)
{
    struct iovec body = {(void *)(uintptr_t)text.p, text.n};
    enum err_code rc = http_call(t->data, "POST", t->path, str_of(type), &body, 1, 0, &t->answer, e);

    if (rc == ERR_OK && t->answer.status != 200) {
        rc = cli_reply_error(&t->answer, t->url, e);
    }
    return rc;
}

/* ---- one answer ---- */

/* The object to send; EXIT_USAGE: it was called wrong, and said so. */
static int compose(struct cli *c, struct buf *out)
{
    const char *label = opt_text(&c->args, "label"), *correct = opt_text(&c->args, "correct");
    const char *reward = opt_text(&c->args, "reward");
    bool yes = correct && strcmp(correct, "yes") == 0;
    if (!label && !correct && !reward) {
        return cli_usage(c, "say what became of it: --label, --correct or --reward");
    }
    if (label && correct) {
        return cli_usage(c, "--label or --correct, not both");
    }
    if (correct && !yes && strcmp(correct, "no") != 0) {
        return cli_usage(c, "--correct is yes or no, not '%s'", correct);
    }
    BUF_LIT(out, "{\"id\":");
    json_strz(out, c->args.word[1]);
    if (label) {
        BUF_LIT(out, ",\"label\":");
        json_strz(out, label);
    }
    if (correct) {
        buf_addf(out, ",\"correct\":%s", yes ? "true" : "false");
    }
    if (reward) {
        char *end;
        double v = strtod(reward, &end);
        if (*end || end == reward || !isfinite(v)) {
            return cli_usage(c, "--reward is a number, not '%s'", reward);
        }
        BUF_LIT(out, ",\"reward\":");
        json_f64(out, v);
    }
    buf_addz(out, opt_get(&c->args, "supersede") ? ",\"supersede\":true}" : "}");
    return 0;
}

/* "counted: version 2 (canary), wrong" */
static void say_one(struct buf *out, yyjson_val *told)
{
    yyjson_val *correct = yyjson_obj_get(told, "correct");
    const char *arm = get_text(told, "arm");
    buf_addz(out, get_flag(told, "counted")      ? "counted"
                  : get_flag(told, "superseded") ? "corrected in what is shown; the judge keeps what it was told first"
                                                 : "not counted, it was told before (--supersede corrects it)");
    buf_addf(out, ": version %" PRIu64 " (", get_count(told, "version"));
    show_textz(out, arm);
    BUF_LIT(out, ")");
    if (correct) {
        buf_addz(out, yyjson_is_true(correct) ? ", right" : ", wrong");
    }
    BUF_LIT(out, "\n");
}

static enum err_code tell_one(struct telling *t, struct str json, struct err *e)
{
    if (send_text(t, "Content-Type: application/json\r\n", json, e) != ERR_OK) {
        return e->code;
    }
    if (t->c->json) {
        buf_add(&t->c->out, t->answer.body.p, t->answer.body.n);
        BUF_LIT(&t->c->out, "\n");
    } else {
        yyjson_doc *doc = yyjson_read(buf_z(&t->answer.body), t->answer.body.n, 0);
        say_one(&t->c->out, yyjson_doc_get_root(doc));
        yyjson_doc_free(doc);
    }
    return ERR_OK;
}

/* ---- a file ---- */

static bool blank(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!strchr(" \t\r\n", s.p[i])) {
            return false;
        }
    }
    return true;
}

static void take_outcome(struct telling *t, yyjson_val *told)
{
    yyjson_val *one;
    size_t i, max;
    for (size_t k = 0; k < COUNT_OF(outcomes); k++) {
        t->sum[k] += get_count(told, outcomes[k]);
    }
    yyjson_arr_foreach(yyjson_obj_get(told, "errors"), i, max, one)
    {
        if (t->told++ < ERRORS_TOLD) {
            json_comma(&t->errors);
            buf_addf(&t->errors, "{\"line\":%" PRIu64 ",\"error\":", t->line + get_count(one, "line"));
            json_strz(&t->errors, get_text(one, "error"));
            BUF_LIT(&t->errors, "}");
        }
    }
}

/* Sends the first n bytes of what was read, and forgets them. */
static enum err_code send_part(struct telling *t, size_t n, struct err *e)
{
    struct str text = {t->part.p, n};
    enum err_code rc = blank(text) ? ERR_OK : send_text(t, "Content-Type: application/x-ndjson\r\n", text, e);
    if (rc == ERR_OK && !blank(text)) {
        yyjson_doc *doc = yyjson_read(buf_z(&t->answer.body), t->answer.body.n, 0);
        take_outcome(t, yyjson_doc_get_root(doc));
        yyjson_doc_free(doc);
    }
    for (size_t i = 0; i < n; i++) {
        t->line += t->part.p[i] == '\n';
    }
    memmove(t->part.p, t->part.p + n, t->part.n - n);
    t->part.n -= n;
    return rc;
}

/* How much of what was read is sent at once: whole lines, not too many; at the end of the file its last line too. */
static size_t cut(const struct buf *part, bool end)
{
    size_t n = 0, lines = 0;
    for (size_t i = 0; i < part->n && lines < PART_LINES; i++) {
        if (part->p[i] == '\n') {
            n = i + 1;
            lines++;
        }
    }
    return end && lines < PART_LINES ? part->n : n;
}

/* Reads until the part is full; false: that was the end of the file. */
static enum err_code fill(struct telling *t, int fd, const char *name, bool *end, struct err *e)
{
    while (!*end && t->part.n < PART_BYTES) {
        size_t room = PART_BYTES - t->part.n;
        char *to = buf_room(&t->part, room);
        ssize_t n = to ? read(fd, to, room) : -1;
        if (!to) {
            return err_set(e, ERR_UNAVAILABLE, "no memory for a part of %s", name);
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_sys(e, ERR_INVALID, "%s", name);
        }
        *end = n == 0;
        t->part.n += (size_t)n;
    }
    return ERR_OK;
}

static enum err_code send_file(struct telling *t, int fd, const char *name, struct err *e)
{
    bool end = false;
    while (!end || t->part.n > 0) {
        if (fill(t, fd, name, &end, e) != ERR_OK) {
            return e->code;
        }
        size_t n = cut(&t->part, end);
        if (n == 0 && t->part.n > 0) {
            return err_set(e, ERR_TOO_LARGE, "%s:%" PRIu64 ": the line is longer than %u bytes", name, t->line + 1,
                           PART_BYTES);
        }
        if (n > 0 && send_part(t, n, e) != ERR_OK) {
            return e->code;
        }
    }
    return ERR_OK;
}

static void say_file(struct telling *t)
{
    struct buf *out = &t->c->out;
    yyjson_val *one;
    size_t i, max;
    if (t->c->json) {
        BUF_LIT(out, "{");
        for (size_t k = 0; k < COUNT_OF(outcomes); k++) {
            buf_addf(out, "\"%s\":%" PRIu64 ",", outcomes[k], t->sum[k]);
        }
        buf_addf(out, "\"errors\":[%s]}\n", buf_z(&t->errors));
        return;
    }
    for (size_t k = 0; k < COUNT_OF(outcomes); k++) {
        buf_addz(out, k ? ", " : "");
        show_count(out, t->sum[k]);
        buf_addf(out, " %s", outcomes[k]);
    }
    BUF_LIT(out, "\n");
    char *list = xasprintf("[%s]", buf_z(&t->errors));
    yyjson_doc *doc = yyjson_read(list, strlen(list), 0);
    yyjson_arr_foreach(yyjson_doc_get_root(doc), i, max, one)
    {
        buf_addf(out, "  line %" PRIu64 ": ", get_count(one, "line"));
        show_textz(out, get_text(one, "error"));
        BUF_LIT(out, "\n");
    }
    yyjson_doc_free(doc);
    free(list);
}

static enum err_code tell_file(struct telling *t, const char *file, struct err *e)
{
    bool standard = strcmp(file, "-") == 0;
    const char *name = standard ? "standard input" : file;
    int fd = standard ? 0 : open(file, O_RDONLY | O_CLOEXEC);
    uint64_t all = 0;
    if (fd < 0) {
        return err_sys(e, ERR_NOT_FOUND, "%s", file);
    }
    enum err_code rc = send_file(t, fd, name, e);
    if (!standard) {
        close(fd);
    }
    for (size_t k = 0; k < COUNT_OF(outcomes); k++) {
        all += t->sum[k];
    }
    if (rc == ERR_OK && all == 0) {
        rc = err_set(e, ERR_INVALID, "%s has no feedback in it: one JSON object a line", name);
    }
    if (all > 0) {
        say_file(t); /* also of what went before it failed */
    }
    return rc;
}

int cli_feedback_run(struct cli *c)
{
    struct err e = {0};
    struct telling t = {0};
    const char *model = cli_model(c, 0), *file = opt_text(&c->args, "file");
    struct buf json;
    if (!model) {
        return EXIT_USAGE;
    }
    if (!file == (c->args.n == 1)) {
        return cli_usage(c, "name an answer by its id, or a file of many by --file");
    }
    if (file && (opt_get(&c->args, "label") || opt_get(&c->args, "correct") || opt_get(&c->args, "reward") ||
                 opt_get(&c->args, "supersede"))) {
        return cli_usage(c, "with --file each line says what became of its answer");
    }
    buf_init(&json, PART_BYTES);
    int status = file ? 0 : compose(c, &json);
    if (status == 0) {
        enum err_code rc = telling_begin(&t, c, model, &e);
        if (rc == ERR_OK) {
            rc = file ? tell_file(&t, file, &e) : tell_one(&t, buf_str(&json), &e);
        }
        status = rc != ERR_OK ? cli_fail(c, &e) : t.sum[REFUSED] > 0 ? EXIT_FAILED : 0;
        telling_end(&t);
    }
    buf_done(&json);
    return status;
}
