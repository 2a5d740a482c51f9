/* SPDX-License-Identifier: Apache-2.0 */
/* weir split: a family becomes a service of its own.
 *
 *     --target   measures, and writes the new server's configuration, its manifests and the change of the old one
 *     --check    asks both servers the same
 *     --switch   makes the change in the running server; --undo takes it back
 *
 * Nothing is written over but what an earlier split has written. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/conf.h"
#include "base/conf_edit.h"
#include "base/hash.h"
#include "base/json.h"
#include "cli/show.h"
#include "cli/split.h"

#define CONF_MAX (1u << 20)
#define WATCH_US SECONDS(3)
#define FILES_MAX 5
#define TOKEN_BYTES 32

static const struct {
    const char *name, *file; /* file NULL: named by the service */
    const char *start[2];    /* what to do with the file, before and behind its path */
} targets[] = {
    [SPLIT_KUBERNETES] = {"kubernetes", "kubernetes.yaml", {"kubectl apply -f ", ""}},
    [SPLIT_COMPOSE] = {"compose", "compose.yaml", {"docker compose -f ", " up -d"}},
    [SPLIT_SYSTEMD] = {"systemd", NULL, {"", " says in its first lines where it goes"}},
};

static const char *target_at(const void *ctx, size_t i)
{
    (void)ctx;
    return i < COUNT_OF(targets) ? targets[i].name : NULL;
}

/* ---- files ---- */

static enum err_code read_file(struct buf *out, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 1;

    if (fd < 0) {
        return err_sys(e, ERR_NOT_FOUND, "%s", path);
    }
    while (n > 0) {
        char *to = buf_room(out, 64u << 10);

        n = to ? read(fd, to, 64u << 10) : -1;
        if (!to || (n < 0 && errno != EINTR)) {
            close(fd);
            return to ? err_sys(e, ERR_INVALID, "%s", path) : err_set(e, ERR_TOO_LARGE, "%s is too large", path);
        }
        out->n += n > 0 ? (size_t)n : 0;
        n = n < 0 ? 1 : n;
    }
    close(fd);
    return ERR_OK;
}

/* What an earlier split has written may be written anew. */
static bool is_ours(const char *path)
{
    static const char *const marks[] = {"# Written by weir split", "--- "};
    char head[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof(head) - 1);
    bool ours = fd < 0 && errno == ENOENT;

    for (size_t i = 0; i < COUNT_OF(marks); i++) {
        ours |= n > 0 && strncmp(head, marks[i], strlen(marks[i])) == 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    return ours || n == 0;
}

struct written {
    char *path[FILES_MAX];
    size_t n;
};

static enum err_code write_file(struct written *w, const char *dir, const char *name, const struct buf *text,
                                mode_t mode, struct err *e)
{
    char *path = xasprintf("%s/%s", dir, name);
    enum err_code rc = ERR_OK;
    int fd = -1;

    if (!is_ours(path)) {
        rc = err_set(e, ERR_CONFLICT, "%s is there, and no split has written it: take it away, or name another --out",
                     path);
    } else if (text->over) {
        rc = err_set(e, ERR_TOO_LARGE, "%s would be too large", path);
    } else if ((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)) < 0) {
        rc = err_sys(e, ERR_INVALID, "%s", path);
    }
    for (size_t at = 0; rc == ERR_OK && at < text->n;) {
        ssize_t n = write(fd, text->p + at, text->n - at);

        if (n < 0 && errno != EINTR) {
            rc = err_sys(e, ERR_STORAGE, "%s", path);
        }
        at += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0 && close(fd) != 0 && rc == ERR_OK) {
        rc = err_sys(e, ERR_STORAGE, "%s", path);
    }
    if (rc == ERR_OK) {
        w->path[w->n++] = path;
    } else {
        free(path);
    }
    return rc;
}

/* The new server's admin token; one that is there stays. *path is the caller's, absolute. */
static enum err_code write_token(struct written *w, const char *dir, enum split_target target, char **path,
                                 struct err *e)
{
    char *file = xasprintf("%s/admin-token", dir), hex[2 * TOKEN_BYTES + 1];
    uint8_t bytes[TOKEN_BYTES];
    enum err_code rc = ERR_OK;
    struct buf text;

    if (access(file, F_OK) == 0) {
        w->path[w->n++] = xstrdup(file);
    } else {
        random_bytes(bytes, sizeof(bytes));
        hex_encode(hex, bytes, sizeof(bytes));
        buf_init(&text, 4096);
        buf_addf(&text, "%s\n", hex);
        /* Compose binds the file as it is into a container, whose user is another one; the folder is ours alone. */
        rc = write_file(w, dir, "admin-token", &text, target == SPLIT_COMPOSE ? 0644 : 0600, e);
        buf_done(&text);
    }
    *path = rc == ERR_OK ? realpath(file, NULL) : NULL;
    free(file);
    return rc;
}

/* ---- the old configuration ---- */

/* The family's place, and the token, unless one is named there. */
static enum err_code edit_conf(const struct split *s, const char *file, struct str was, struct buf *now, struct err *e)
{
    const char *const place[] = {"families", s->family, "place", NULL};
    const char *const token[] = {"families", s->family, "token_file", NULL};
    AUTO(conf) c = NULL;
    struct buf half;
    enum err_code rc;
    bool named;

    buf_init(&half, 2 * CONF_MAX);
    rc = conf_edit(&half, file, was, place, s->to.place, e);
    rc = rc == ERR_OK ? conf_read_text(&c, file, buf_str(&half), e) : rc;
    named = rc == ERR_OK && conf_find(conf_find(conf_find(c->root, "families"), s->family), "token_file");
    if (rc == ERR_OK && s->token && !named) {
        rc = conf_edit(now, file, buf_str(&half), token, s->token, e);
    } else if (rc == ERR_OK) {
        buf_add(now, half.p, half.n);
    }
    buf_done(&half);
    return rc;
}

/* diff: empty where there is no file to change; *note (static) says so then. */
static enum err_code change_conf(struct cli *c, const struct split *s, struct buf *diff, const char **note,
                                 struct err *e)
{
    const char *named = opt_text(&c->args, "config"), *file = named ? named : s->needs.config;
    struct buf was, now;
    enum err_code rc = ERR_OK;

    *note = NULL;
    if (!file) {
        *note = "the server runs without a weir.yaml; with one, this is to be in it:";
        return ERR_OK;
    }
    if (!named && access(file, R_OK) != 0) {
        *note = "the server's weir.yaml can not be read from here (--config FILE names it); this is to be in it:";
        return ERR_OK;
    }
    buf_init(&was, CONF_MAX);
    buf_init(&now, 2 * CONF_MAX);
    rc = read_file(&was, file, e);
    if (rc == ERR_OK) {
        rc = edit_conf(s, file, (struct str){was.p ? was.p : "", was.n}, &now, e);
    }
    if (rc == ERR_OK) {
        split_diff(diff, file, buf_str(&was), buf_str(&now));
        *note = diff->n == 0 ? "weir.yaml says so already:" : NULL;
    }
    buf_done(&was);
    buf_done(&now);
    return rc;
}

/* ---- --target ---- */

static void say_size(struct buf *out, const struct split *s)
{
    const struct split_needs *n = &s->needs;
    const struct split_size *z = &s->size;

    buf_addf(out, "%s: ", s->family);
    for (size_t i = 0; i < n->n_models; i++) {
        buf_addf(out, "%s%s", i ? ", " : "", n->model[i]);
    }
    buf_addf(out, "; runs at %s, is to run at %s\n  memory      ", n->place, s->to.place);
    if (n->versions) {
        show_bytes(out, n->memory);
        buf_addf(out, " of %u loaded version%s", n->versions, n->versions == 1 ? "" : "s");
    } else {
        BUF_LIT(out, "not known (nothing is loaded): a preset");
    }
    buf_addf(out, " -> %" PRIu64 " MiB asked for, %" PRIu64 " MiB at most\n  processors  ", z->memory_mib,
             z->memory_max_mib);
    if (n->requests) {
        buf_addf(out, "%.3g requests/s x %.3g ms", n->rate, n->service_s * 1e3);
    } else {
        BUF_LIT(out, "not known (nothing was answered yet): a preset");
    }
    buf_addf(out, " -> %.2f of each replica, %u to %u replicas\n", z->cpu_milli / 1e3, z->replicas, z->replicas_max);
    if (n->gpu) {
        BUF_LIT(out, "  GPU         one of each replica\n");
    }
}

static void say_written(struct cli *c, const struct split *s, const struct written *w, enum split_target target,
                        const struct buf *diff, const char *note)
{
    struct buf *out = &c->out;

    say_size(out, s);
    for (size_t i = 0; i < w->n; i++) {
        buf_addf(out, "%s%s", i ? ", " : "wrote ", w->path[i]);
    }
    BUF_LIT(out, "\nnext:\n");
    if (target == SPLIT_KUBERNETES) {
        buf_addf(out, "  kubectl create secret generic %s-admin --from-file=%s\n", s->to.service, w->path[2]);
    }
    buf_addf(out, "  %s%s%s\n", targets[target].start[0], w->path[1], targets[target].start[1]);
    buf_addf(out, "  weir split %s --to %s --far-token %s --check --switch\n", s->family, s->to.place, s->token);
    if (note) {
        buf_addf(out, "%s\n  families: {%s: {place: %s, token_file: %s}}\n", note, s->family, s->to.place, s->token);
    } else {
        buf_addf(out, "  patch -p0 < %s    (the server's weir.yaml; without it the switch is kept all the same)\n\n",
                 w->path[w->n - 1]);
        buf_add(out, diff->p, diff->n);
    }
}

static void json_written(struct cli *c, const struct split *s, const struct written *w, const struct buf *diff)
{
    const struct split_needs *n = &s->needs;
    const struct split_size *z = &s->size;
    struct buf *out = &c->out;

    BUF_LIT(out, "{\"family\":");
    json_strz(out, s->family);
    BUF_LIT(out, ",\"models\":[");
    for (size_t i = 0; i < n->n_models; i++) {
        json_comma(out);
        json_strz(out, n->model[i]);
    }
    BUF_LIT(out, "],\"place\":");
    json_strz(out, n->place);
    BUF_LIT(out, ",\"to\":");
    json_strz(out, s->to.place);
    buf_addf(out,
             ",\"needs\":{\"versions\":%u,\"memory\":%" PRIu64 ",\"largest\":%" PRIu64 ",\"buffers\":%" PRIu64
             ",\"requests\":%" PRIu64 ",\"rate\":",
             n->versions, n->memory, n->largest, n->buffers, n->requests);
    json_f64(out, n->rate);
    BUF_LIT(out, ",\"service_ms\":");
    json_f64(out, n->service_s * 1e3);
    buf_addf(out,
             ",\"gpu\":%s},\"size\":{\"memory_mib\":%" PRIu64 ",\"memory_max_mib\":%" PRIu64
             ",\"cpu_milli\":%u,\"replicas\":%u,\"replicas_max\":%u,\"grace_s\":%u},\"files\":[",
             n->gpu ? "true" : "false", z->memory_mib, z->memory_max_mib, z->cpu_milli, z->replicas, z->replicas_max,
             z->grace_s);
    for (size_t i = 0; i < w->n; i++) {
        json_comma(out);
        json_strz(out, w->path[i]);
    }
    BUF_LIT(out, "],\"diff\":");
    json_str(out, (struct str){diff->p ? diff->p : "", diff->n});
    BUF_LIT(out, "}\n");
}

static enum err_code write_all(struct cli *c, struct split *s, enum split_target target, struct buf *diff,
                               const char **note, struct written *w, struct err *e)
{
    const char *out = opt_text(&c->args, "out");
    char *dir = out ? xstrdup(out) : xasprintf("%s-split", s->family);
    char *unit = xasprintf("weir-%s.service", s->to.service), *token = NULL;
    enum err_code rc = ERR_OK;
    struct buf conf, manifest;

    buf_init(&conf, CONF_MAX);
    buf_init(&manifest, 2 * CONF_MAX);
    split_conf(&conf, s, target);
    split_manifest(&manifest, s, target);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        rc = err_sys(e, ERR_INVALID, "%s", dir);
    }
    rc = rc == ERR_OK ? write_file(w, dir, "weir.yaml", &conf, 0644, e) : rc;
    rc = rc == ERR_OK ? write_file(w, dir, targets[target].file ? targets[target].file : unit, &manifest, 0644, e) : rc;
    rc = rc == ERR_OK ? write_token(w, dir, target, &token, e) : rc;
    s->token = s->token ? s->token : token;
    rc = rc == ERR_OK ? change_conf(c, s, diff, note, e) : rc;
    if (rc == ERR_OK && diff->n > 0) {
        rc = write_file(w, dir, "weir.yaml.diff", diff, 0644, e);
    }
    if (rc == ERR_OK && !c->json) {
        say_written(c, s, w, target, diff, *note);
    } else if (rc == ERR_OK) {
        json_written(c, s, w, diff);
    }
    buf_done(&conf);
    buf_done(&manifest);
    free(token);
    free(unit);
    free(dir);
    return rc;
}

static int target_run(struct cli *c, struct split *s, enum split_target target)
{
    struct written w = {.n = 0};
    struct err e = {ERR_OK, ""};
    const char *note = NULL;
    struct buf diff;
    enum err_code rc;

    buf_init(&diff, 4 * CONF_MAX);
    split_size(&s->needs, &s->size);
    rc = change_conf(c, s, &diff, &note, &e); /* what can not be changed is found out before anything is written */
    buf_clear(&diff);
    rc = rc != ERR_OK ? rc : write_all(c, s, target, &diff, &note, &w, &e);
    buf_done(&diff);
    for (size_t i = 0; i < w.n; i++) {
        free(w.path[i]);
    }
    return rc == ERR_OK ? 0 : cli_fail(c, &e);
}

/* ---- --switch, --undo ---- */

static int switch_run(struct cli *c, const char *family, const char *place, const char *token)
{
    char *path = xasprintf("/admin/families/%s", family);
    yyjson_doc *doc = NULL;
    struct err e = {ERR_OK, ""};
    struct buf body;
    enum err_code rc;

    buf_init(&body, 4096);
    BUF_LIT(&body, "{");
    if (place) {
        BUF_LIT(&body, "\"place\":");
        json_strz(&body, place);
        if (token) {
            BUF_LIT(&body, ",\"token_file\":");
            json_strz(&body, token);
        }
    } else {
        BUF_LIT(&body, "\"undo\":true");
    }
    BUF_LIT(&body, "}");
    rc = cli_json(c, "POST", path, buf_z(&body), &doc, &e);
    buf_done(&body);
    free(path);
    if (rc != ERR_OK) {
        return cli_fail(c, &e);
    }
    if (c->json) {
        buf_add(&c->out, c->answer.body.p, c->answer.body.n);
        BUF_LIT(&c->out, "\n");
    } else {
        yyjson_val *root = yyjson_doc_get_root(doc);
        const char *says = get_text(root, "configured");

        buf_addf(&c->out, "%s runs at %s\n", family, get_text(root, "place"));
        if (yyjson_is_obj(yyjson_obj_get(root, "switched"))) {
            buf_addf(
                &c->out,
                "this is kept over restarts as long as weir.yaml stays as it is (it says %s): change it there too\n",
                says ? says : "nothing of this family");
        }
    }
    yyjson_doc_free(doc);
    return 0;
}

/* ---- the command ---- */

/* -1: go on. */
static int check_words(struct cli *c, int *target)
{
    const char *word = opt_text(&c->args, "target");
    bool check = opt_get(&c->args, "check"), now = opt_get(&c->args, "switch"), undo = opt_get(&c->args, "undo");
    static const char *const files[] = {"out", "config", "image", "watch"};

    *target = -1;
    for (size_t i = 0; word && i < COUNT_OF(targets); i++) {
        *target = strcmp(word, targets[i].name) == 0 ? (int)i : *target;
    }
    if (word && *target < 0) {
        const char *near = opt_nearest(word, target_at, NULL);

        return cli_usage(c, "--target is kubernetes, compose or systemd, not '%s'%s%s%s", word,
                         near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    if (undo && (word || check || now || opt_get(&c->args, "to") || opt_get(&c->args, "far-token"))) {
        return cli_usage(c, "--undo goes alone: it takes the family back to where weir.yaml says");
    }
    if (!undo && !opt_get(&c->args, "to")) {
        return cli_usage(c, "it needs --to HOST:PORT, where the new server is reached");
    }
    if ((word != NULL) + (check || now) + undo != 1) {
        return cli_usage(c, "one of --target (writes files), --check and --switch, or --undo");
    }
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        if (!word && opt_get(&c->args, files[i])) {
            return cli_usage(c, "--%s is for --target", files[i]);
        }
    }
    return -1;
}

int split_run(struct cli *c)
{
    const char *family = cli_model(c, 0), *image = opt_text(&c->args, "image");
    bool check = opt_get(&c->args, "check"), now = opt_get(&c->args, "switch");
    struct split s = {.family = family, .image = image ? image : "weir:" WEIR_VERSION, .server = c->server};
    struct err e = {ERR_OK, ""};
    char *token;
    int target, status = family ? check_words(c, &target) : EXIT_USAGE;

    if (status >= 0) {
        return status;
    }
    if (opt_get(&c->args, "undo")) {
        return switch_run(c, family, NULL, NULL);
    }
    if (split_to(&s.to, opt_text(&c->args, "to"), family, &e) != ERR_OK) {
        return cli_usage(c, "%s", e.text);
    }
    if (target >= 0 && strncmp(s.to.place, "weir:", 5) != 0) {
        return cli_usage(c, "--target writes of a Weir: --to HOST:PORT; http:// is for a server that is there already");
    }
    s.token = token = opt_text(&c->args, "far-token") ? realpath(opt_text(&c->args, "far-token"), NULL) : NULL;
    if (opt_text(&c->args, "far-token") && !token) {
        return cli_usage(c, "--far-token %s: %s", opt_text(&c->args, "far-token"), strerror(errno));
    }
    status = 0;
    if (!(now && !check) &&
        split_needs(c, family, target >= 0 ? opt_number(&c->args, "watch", WATCH_US) : 0, &s.needs, &e) != ERR_OK) {
        status = cli_fail(c, &e);
    } else if (target >= 0) {
        status = target_run(c, &s, (enum split_target)target);
    } else {
        status = check ? split_check(c, &s) : 0;
        if (now && status == 0) {
            cli_flush(c);
            status = switch_run(c, family, s.to.place, s.token);
        }
    }
    split_needs_done(&s.needs);
    free(token);
    return status;
}
