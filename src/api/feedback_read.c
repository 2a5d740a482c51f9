/* SPDX-License-Identifier: Apache-2.0 */
/* Reading feedback. */
#include "api/feedback_read.h"

#include <math.h>
#include <stdlib.h>
#include <yyjson.h>

static const char no_memory[] = "no memory for the body of the request";

struct members {
    yyjson_val *id, *label, *correct, *reward, *supersede, *at, *source;
};

static const char *what_is_wrong(yyjson_val *root, const struct members *m)
{
    if (!yyjson_is_obj(root)) {
        return "feedback is a JSON object: {\"id\": …, and \"label\", \"correct\" or \"reward\"}";
    }
    if (!yyjson_is_str(m->id) || yyjson_get_len(m->id) == 0) {
        return "id is missing: it is the X-Request-Id of the reply, a string";
    }
    if ((m->label && !yyjson_is_str(m->label)) || (m->correct && !yyjson_is_bool(m->correct)) ||
        (m->reward && !yyjson_is_num(m->reward))) {
        return "label is a string, correct is true or false, reward is a number";
    }
    if ((m->supersede && !yyjson_is_bool(m->supersede)) || (m->source && !yyjson_is_str(m->source)) ||
        (m->at && !yyjson_is_str(m->at) && !yyjson_is_num(m->at))) {
        return "supersede is true or false, source is a string, at is a time: a string, or milliseconds since 1970";
    }
    if (!m->label && !m->correct && !m->reward) {
        return "feedback says at least one of label, correct and reward";
    }
    if (m->label && m->correct) {
        return "feedback says label or correct, not both";
    }
    if (m->reward && !(fabs(yyjson_get_num(m->reward)) <= FEEDBACK_REWARD_MOST)) {
        return "a reward is between -1e12 and 1e12";
    }
    return NULL;
}

void feedback_items_done(struct feedback_items *f)
{
    free(f->item);
    buf_done(&f->text);
}

struct str feedback_id(const struct feedback_items *f, const struct feedback_item *item)
{
    return (struct str){f->text.p + item->id_at, item->id_n};
}

struct str feedback_label(const struct feedback_items *f, const struct feedback_item *item)
{
    return item->has_label ? (struct str){f->text.p + item->label_at, item->label_n} : (struct str){NULL, 0};
}

static void items_begin(struct feedback_items *f, size_t n)
{
    *f = (struct feedback_items){.item = xcalloc(n, sizeof(f->item[0]))};
    buf_init(&f->text, FEEDBACK_BYTES);
}

/* Puts a text behind the others; where it stands. */
static uint32_t text_keep(struct feedback_items *f, struct str text)
{
    size_t at = f->text.n;

    buf_add(&f->text, text.p, text.n);
    return (uint32_t)at;
}

static void item_read(struct feedback_items *f, struct feedback_item *out, struct str model, yyjson_val *root)
{
    const struct members m = {.id = yyjson_obj_get(root, "id"),
                              .label = yyjson_obj_get(root, "label"),
                              .correct = yyjson_obj_get(root, "correct"),
                              .reward = yyjson_obj_get(root, "reward"),
                              .supersede = yyjson_obj_get(root, "supersede"),
                              .at = yyjson_obj_get(root, "at"),
                              .source = yyjson_obj_get(root, "source")};

    const struct str id = {yyjson_get_str(m.id), yyjson_get_len(m.id)},
                     label = {yyjson_get_str(m.label), yyjson_get_len(m.label)};

    out->result = FEEDBACK_ORPHAN;
    out->why = what_is_wrong(root, &m);
    if (out->why) {
        return;
    }
    out->key = join_key(model, id);
    out->id_at = text_keep(f, id);
    out->id_n = (uint32_t)id.n;
    out->has_label = m.label != NULL;
    if (out->has_label) {
        out->label = join_label(label);
        out->label_at = text_keep(f, label);
        out->label_n = (uint32_t)label.n;
    }
    if (f->text.over) {
        out->why = no_memory;
        return;
    }
    out->has_correct = m.correct != NULL;
    out->correct = yyjson_is_true(m.correct);
    out->has_reward = m.reward != NULL;
    out->reward = yyjson_get_num(m.reward);
    out->supersede = yyjson_is_true(m.supersede);
}

static bool blank(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != ' ' && s.p[i] != '\t' && s.p[i] != '\r' && s.p[i] != '\n') {
            return false;
        }
    }
    return true;
}

/* The next line of *rest; false at the end. */
static bool line_take(struct str *rest, struct str *line)
{
    const char *nl = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
    size_t n = nl ? (size_t)(nl - rest->p) : rest->n;

    if (rest->n == 0) {
        return false;
    }
    *line = (struct str){rest->p, n};
    *rest = (struct str){rest->p + n + (nl ? 1 : 0), rest->n - n - (nl ? 1 : 0)};
    return true;
}

static enum err_code lines_read(struct feedback_items *out, struct str model, struct str body, struct err *e)
{
    struct str rest = body, line;
    size_t n = 0;
    uint32_t number = 0;

    while (line_take(&rest, &line)) {
        n += !blank(line);
    }
    if (n == 0) {
        return err_set(e, ERR_INVALID, "no feedback in it: one JSON object a line");
    }
    if (n > FEEDBACK_LINES) {
        return err_set(e, ERR_TOO_LARGE, "%zu lines of feedback, at most %d at once: send them in parts", n,
                       FEEDBACK_LINES);
    }
    items_begin(out, n);
    out->lines = true;
    for (rest = body; line_take(&rest, &line);) {
        number++;
        if (!blank(line)) {
            yyjson_read_err why;
            yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)line.p, line.n, YYJSON_READ_NOFLAG, NULL, &why);
            struct feedback_item *item = &out->item[out->n++];

            item_read(out, item, model, yyjson_doc_get_root(doc));
            item->line = number;
            if (!doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) {
                item->why = no_memory;
            }
            yyjson_doc_free(doc);
        }
    }
    return ERR_OK;
}

/* Behind one object, which ends its line, there are more. */
static bool more_lines(struct str body, size_t first)
{
    while (first < body.n && (body.p[first] == ' ' || body.p[first] == '\t' || body.p[first] == '\r')) {
        first++;
    }
    return first < body.n && body.p[first] == '\n' && !blank((struct str){body.p + first, body.n - first});
}

enum err_code feedback_read(struct feedback_items *out, struct str model, struct str body, bool lines, struct err *e)
{
    yyjson_read_err why = {0};
    yyjson_doc *doc = NULL;
    size_t first;

    if (lines) {
        return lines_read(out, model, body, e);
    }
    if (body.n > 0) {
        doc = yyjson_read_opts((char *)(uintptr_t)body.p, body.n, YYJSON_READ_STOP_WHEN_DONE, NULL, &why);
    }
    if (!doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) {
        return err_set(e, ERR_UNAVAILABLE, "%s", no_memory);
    }
    first = yyjson_doc_get_read_size(doc);
    if (doc && more_lines(body, first)) {
        yyjson_doc_free(doc);
        return lines_read(out, model, body, e);
    }
    items_begin(out, 1);
    out->n = 1;
    /* Something stands behind it: it is no object then. */
    item_read(out, out->item, model,
              doc && blank((struct str){body.p + first, body.n - first}) ? yyjson_doc_get_root(doc) : NULL);
    out->item->line = 1;
    yyjson_doc_free(doc);
    if (out->text.over) {
        feedback_items_done(out);
        return err_set(e, ERR_UNAVAILABLE, "%s", no_memory);
    }
    return ERR_OK;
}
