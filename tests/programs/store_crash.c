/* SPDX-License-Identifier: Apache-2.0 */
/* The store alone, for tests that kill it: store_crash FOLDER OPERATION makes one change to the store in FOLDER, writes
 * "ack" when the store has acknowledged it, and closes. store_crash FOLDER state prints what is there as JSON, every
 * artifact verified.
 *
 *   first     open an empty folder, push version 1 of "intent", make it stable
 *   push      push version 2 and start a rollout to it     promote   end the rollout: 2 is stable
 *   rollback  end the rollout: 1 stays                     refuse    push version 3, then drop it: it was no model
 *   hold      end the rollout and hold an artifact         lift      take that hold back
 *   progress  say where the rollout is                     again     push version 1 once more: nothing changes
 *   twice     two lines of history, the second also when the first failed
 *
 * Exit status: 0, or 1 with the error on standard error. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/json.h"
#include "support/store_help.h"

/* By writev, which is none of the calls that the tests make fail: what this program says is not the store's work. */
static void say(int fd, const char *first, const char *second)
{
    struct iovec parts[] = {
        {(void *)(uintptr_t)first, strlen(first)},
        {(void *)(uintptr_t)second, strlen(second)},
        {(void *)(uintptr_t)"\n", 1},
    };
    if (writev(fd, parts, 3) < 0) {
        abort();
    }
}

static void die(const struct err *e)
{
    say(STDERR_FILENO, err_name(e->code), e->text);
}

/* ---- pushing ---- */

#define MODEL_BYTES 200000

/* Three files; the labels are the same in every version, so that their blob is shared. */
static bool push(struct store *s, int64_t number, struct manifest *m)
{
    static const char labels[] = "red\ngreen\nblue\n";
    struct err e = {0};
    struct buf head, body;
    char sum[3][65], yaml[32];
    char *model = xmalloc(MODEL_BYTES);
    for (size_t i = 0; i < MODEL_BYTES; i++) {
        model[i] = (char)((i * 31 + i / 251) ^ (size_t)number);
    }
    snprintf(yaml, sizeof yaml, "number: %lld\n", (long long)number);
    sha256_hex(sum[0], model, MODEL_BYTES);
    sha256_hex(sum[1], labels, strlen(labels));
    sha256_hex(sum[2], yaml, strlen(yaml));
    buf_init(&head, 4096);
    buf_init(&body, 1 << 20);
    buf_addf(&head, "{\"files\":[{\"path\":\"model.onnx\",\"size\":%d,\"sha256\":\"%s\"},", MODEL_BYTES, sum[0]);
    buf_addf(&head, "{\"path\":\"data/labels.txt\",\"size\":%zu,\"sha256\":\"%s\"},", strlen(labels), sum[1]);
    buf_addf(&head, "{\"path\":\"model.yaml\",\"size\":%zu,\"sha256\":\"%s\"}]}", strlen(yaml), sum[2]);
    buf_add(&body, model, MODEL_BYTES);
    buf_addz(&body, labels);
    buf_addz(&body, yaml);
    bool ok = on_upload(s, buf_str(&head), buf_str(&body), 64 << 10, m, &e) == ERR_OK;
    if (!ok) {
        die(&e);
    }
    buf_done(&head);
    buf_done(&body);
    free(model);
    return ok;
}

/* ---- changes ---- */

static bool apply(struct store *s, const struct store_change *c)
{
    struct err e = {0};
    if (on_apply(s, c, &e) != ERR_OK) {
        die(&e);
        return false;
    }
    say(STDOUT_FILENO, "ack", "");
    return true;
}

static struct history_row line(int64_t version, const char *kind)
{
    struct history_row h = {.at_ms = 1, .model = "intent", .version = version, .actor = "test", .text = "a sentence"};
    (void)str_copy(h.kind, sizeof h.kind, str_of(kind));
    return h;
}

static struct version_row version_of(const struct manifest *m, int64_t number)
{
    struct version_row v = {.model = "intent", .number = number, .backend = "onnx", .bytes = m->bytes, .created_ms = 1};
    memcpy(v.digest, m->digest, sizeof v.digest);
    return v;
}

static struct rollout_row rollout_in(enum rollout_state state)
{
    return (struct rollout_row){
        .id = "r1", .model = "intent", .stable = 1, .canary = 2, .share_bp = 500, .state = state, .started_ms = 1};
}

static bool op_first(struct store *s)
{
    struct manifest m = {0};
    if (!push(s, 1, &m)) {
        return false;
    }
    struct model_row model = {.name = "intent", .family = "default", .stable = 1, .created_ms = 1};
    struct version_row v = version_of(&m, 1);
    struct history_row h = line(1, "pushed");
    manifest_done(&m);
    return apply(s, &(struct store_change){.model = &model, .version = &v, .history = &h});
}

static bool op_push(struct store *s)
{
    struct manifest m = {0};
    if (!push(s, 2, &m)) {
        return false;
    }
    struct version_row v = version_of(&m, 2);
    struct rollout_row r = rollout_in(ROLLOUT_RUNNING);
    struct history_row h = line(2, "rollout_started");
    manifest_done(&m);
    return apply(s, &(struct store_change){.version = &v, .rollout = &r, .history = &h});
}

static bool op_promote(struct store *s)
{
    struct model_row model = {.name = "intent", .family = "default", .stable = 2, .previous = 1, .created_ms = 1};
    struct rollout_row r = rollout_in(ROLLOUT_PROMOTED);
    struct history_row h = line(2, "promoted");
    return apply(s, &(struct store_change){.model = &model, .rollout = &r, .history = &h});
}

static bool op_rollback(struct store *s)
{
    char evidence[] = "{\"arms\":[{\"errors\":5},{\"errors\":0}]}";
    struct rollout_row r = rollout_in(ROLLOUT_ROLLED_BACK);
    struct history_row h = line(2, "rolled_back");
    r.evidence = evidence;
    return apply(s, &(struct store_change){.rollout_ended = &r, .history = &h});
}

static bool op_progress(struct store *s)
{
    struct err e = {0};
    if (on_progress(s, "r1", "[\"step\",1]", "[5,3]", &e) != ERR_OK) {
        die(&e);
        return false;
    }
    say(STDOUT_FILENO, "ack", "");
    return true;
}

/* Of an artifact that no version names: the store does not ask. */
static struct hold_row hold_of(void)
{
    struct hold_row h = {.model = "intent", .since_ms = 1, .reason = "errors"};
    memset(h.digest, 'd', 64);
    return h;
}

static bool op_hold(struct store *s)
{
    struct rollout_row r = rollout_in(ROLLOUT_ROLLED_BACK);
    struct history_row h = line(2, "rolled_back");
    struct hold_row hold = hold_of();
    return apply(s, &(struct store_change){.rollout = &r, .hold = &hold, .history = &h});
}

static bool op_lift(struct store *s)
{
    struct history_row h = line(2, "lifted");
    struct hold_row lift = hold_of();
    return apply(s, &(struct store_change){.lift = &lift, .history = &h});
}

static bool op_refuse(struct store *s)
{
    struct manifest m = {0};
    if (!push(s, 3, &m)) {
        return false;
    }
    struct history_row h = line(3, "refused");
    on_drop(s, m.digest);
    manifest_done(&m);
    return apply(s, &(struct store_change){.history = &h});
}

static bool op_again(struct store *s)
{
    struct manifest m = {0};
    if (!push(s, 1, &m)) {
        return false;
    }
    struct history_row h = line(1, "pushed again");
    manifest_done(&m);
    return apply(s, &(struct store_change){.history = &h});
}

static bool op_twice(struct store *s)
{
    struct history_row h = line(1, "once"), again = line(1, "twice");
    bool first = apply(s, &(struct store_change){.history = &h});
    return apply(s, &(struct store_change){.history = &again}) && first;
}

/* ---- what is there ---- */

static bool print_artifacts(struct store *s, const struct store_state *st, struct buf *out)
{
    bool ok = true;
    json_key(out, "versions");
    buf_addc(out, '[');
    for (size_t i = 0; i < st->n_versions; i++) {
        struct manifest m = {0};
        struct err e = {0};
        int dir = -1;
        json_comma(out);
        buf_addf(out, "[\"%s\",%lld,\"%s\"]", st->versions[i].model, (long long)st->versions[i].number,
                 st->versions[i].digest);
        if (on_open(s, st->versions[i].digest, &dir, &m, &e) != ERR_OK) {
            die(&e);
            ok = false;
            continue;
        }
        close(dir);
        manifest_done(&m);
    }
    buf_addc(out, ']');
    return ok;
}

static bool op_state(struct store *s)
{
    struct store_state st = {0};
    struct history_row *rows = NULL;
    size_t n = 0;
    struct err e = {0};
    struct buf out;
    if (on_load(s, &st, &e) != ERR_OK || on_history(s, NULL, 0, 1000, &rows, &n, &e) != ERR_OK) {
        die(&e);
        store_state_done(&st);
        return false;
    }
    buf_init(&out, 1 << 20);
    buf_addz(&out, "{\"models\":[");
    for (size_t i = 0; i < st.n_models; i++) {
        json_comma(&out);
        buf_addf(&out, "[\"%s\",%lld,%lld]", st.models[i].name, (long long)st.models[i].stable,
                 (long long)st.models[i].previous);
    }
    buf_addc(&out, ']');
    bool ok = print_artifacts(s, &st, &out);
    json_key(&out, "rollouts");
    buf_addc(&out, '[');
    for (size_t i = 0; i < st.n_rollouts; i++) {
        json_comma(&out);
        buf_addf(&out, "[\"%s\",\"%s\",%s,%s]", st.rollouts[i].id, rollout_state_names[st.rollouts[i].state],
                 st.rollouts[i].progress ? st.rollouts[i].progress : "null",
                 st.rollouts[i].counts ? st.rollouts[i].counts : "null");
    }
    buf_addc(&out, ']');
    json_key(&out, "holds");
    buf_addc(&out, '[');
    for (size_t i = 0; i < st.n_holds; i++) {
        json_comma(&out);
        buf_addf(&out, "[\"%s\",\"%s\"]", st.holds[i].model, st.holds[i].digest);
    }
    buf_addc(&out, ']');
    json_key(&out, "history");
    buf_addc(&out, '[');
    for (size_t i = n; i > 0; i--) {
        json_comma(&out);
        buf_addf(&out, "[%lld,%lld,\"%s\"]", (long long)rows[i - 1].seq, (long long)rows[i - 1].version,
                 rows[i - 1].kind);
    }
    buf_addz(&out, "]}");
    say(STDOUT_FILENO, buf_z(&out), "");
    buf_done(&out);
    history_done(rows, n);
    store_state_done(&st);
    return ok;
}

static const struct {
    const char *name;
    bool (*run)(struct store *s);
} operations[] = {
    {"first", op_first},   {"push", op_push},   {"promote", op_promote}, {"rollback", op_rollback},
    {"refuse", op_refuse}, {"again", op_again}, {"twice", op_twice},     {"progress", op_progress},
    {"hold", op_hold},     {"lift", op_lift},   {"state", op_state},
};

int main(int argc, char **argv)
{
    struct store *s = NULL;
    struct err e = {0};
    for (size_t i = 0; argc == 3 && i < COUNT_OF(operations); i++) {
        if (strcmp(argv[2], operations[i].name) != 0) {
            continue;
        }
        if (store_open_in(&s, argv[1], &e) != ERR_OK) {
            die(&e);
            return 1;
        }
        bool ok = operations[i].run(s);
        store_close(s);
        return ok ? 0 : 1;
    }
    fputs("usage: store_crash FOLDER first|push|promote|rollback|refuse|again|twice|progress|hold|lift|state\n",
          stderr);
    return 2;
}
