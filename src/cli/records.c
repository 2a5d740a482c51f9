/* SPDX-License-Identifier: Apache-2.0 */
/* Reading captured requests, and joining feedback to them by id. */
#include "cli/records.h"

#include <stdlib.h>

#include "base/map.h"
#include "cli/show.h"

void records_done(struct records *r)
{
    for (size_t i = 0; i < r->n; i++) {
        yyjson_doc_free(r->list[i].doc);
        free(r->list[i].body);
    }
    for (size_t i = 0; i < r->n_feedback; i++) {
        yyjson_doc_free(r->feedback[i]);
    }
    free(r->list);
    free(r->feedback);
    *r = (struct records){0};
}

/* Room for one more in an array that doubles. */
static void *grown(void *array, size_t n, size_t size)
{
    bool full = n == 0 || (n >= 64 && (n & (n - 1)) == 0);

    return full ? xrealloc(array, MAX(n * 2, (size_t)64) * size) : array;
}

static bool has_binary(yyjson_val *tensors)
{
    yyjson_val *t;
    size_t i, max;

    yyjson_arr_foreach(tensors, i, max, t)
    {
        if (yyjson_obj_get(t, "encoding")) {
            return true;
        }
    }
    return false;
}

static char *body_of(yyjson_val *inputs, size_t *n)
{
    size_t length = 0;
    char *text = yyjson_val_write(inputs, 0, &length);
    char *body = text ? xasprintf("{\"inputs\":%s}", text) : NULL;

    *n = body ? strlen(body) : 0; /* JSON holds no zero byte */
    free(text);
    return body;
}

/* True: the document is the record's. */
static bool take_request(struct records *r, yyjson_doc *doc, yyjson_val *root)
{
    yyjson_val *inputs = yyjson_obj_get(yyjson_obj_get(root, "request"), "inputs");
    const char *id = get_text(root, "id"), *arm = get_text(root, "arm");
    struct record one = {.doc = doc,
                         .id = id ? id : "",
                         .predicted = get_text(root, "predicted"),
                         .outputs = yyjson_obj_get(yyjson_obj_get(root, "response"), "outputs"),
                         .at_ms = (int64_t)get_count(root, "at_ms"),
                         .version = get_count(root, "version"),
                         .latency_us = get_count(root, "latency_us")};

    uint64_t *why = get_flag(root, "redacted")                      ? &r->redacted
                    : arm && strcmp(arm, "direct") == 0             ? &r->direct
                    : !yyjson_is_arr(inputs)                        ? &r->unreadable
                    : has_binary(inputs) || has_binary(one.outputs) ? &r->binary
                                                                    : NULL;

    if (why) {
        ++*why;
        return false;
    }
    one.outputs = yyjson_is_arr(one.outputs) ? one.outputs : NULL;
    one.body = body_of(inputs, &one.body_n);
    if (!one.body) {
        r->unreadable++;
        return false;
    }
    r->list = grown(r->list, r->n, sizeof(r->list[0]));
    r->list[r->n++] = one;
    return true;
}

static bool take_feedback(struct records *r, yyjson_doc *doc)
{
    r->feedback = grown(r->feedback, r->n_feedback, sizeof(r->feedback[0]));
    r->feedback[r->n_feedback++] = doc;
    return true;
}

static void take_line(struct records *r, struct str line, size_t limit)
{
    yyjson_doc *doc = yyjson_read(line.p, line.n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    const char *kind = get_text(root, "kind");
    bool taken = false;

    if (!yyjson_is_obj(root)) {
        r->unreadable++;
    } else if (kind && strcmp(kind, "request") == 0) {
        taken = r->n < limit && take_request(r, doc, root);
    } else if (kind && strcmp(kind, "feedback") == 0) {
        taken = r->n_feedback < 4 * (size_t)RECORDS_MAX && take_feedback(r, doc);
    }
    if (!taken) {
        yyjson_doc_free(doc);
    }
}

/* Of several requests of one id feedback is about the first. */
static void join(struct records *r)
{
    struct map ids;

    map_init(&ids);
    for (size_t i = 0; i < r->n; i++) {
        struct str id = str_of(r->list[i].id);

        if (id.n > 0 && !map_get(&ids, id)) {
            map_put(&ids, id, &r->list[i]);
        }
    }
    for (size_t i = 0; i < r->n_feedback; i++) {
        yyjson_val *root = yyjson_doc_get_root(r->feedback[i]), *correct = yyjson_obj_get(root, "correct");
        const char *id = get_text(root, "id"), *label = get_text(root, "label");
        struct record *one = id ? map_get(&ids, str_of(id)) : NULL;

        if (!one) {
            r->unjoined++;
        } else if (!one->label && !one->told) {
            one->label = label;
            one->told = !label && yyjson_is_bool(correct);
            one->correct = yyjson_is_true(correct);
        }
    }
    map_done(&ids);
}

enum err_code records_read(struct records *out, struct str text, size_t limit, struct err *e)
{
    const char *p = text.p, *end = text.p ? text.p + text.n : text.p;
    struct records r = {0};

    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        struct str line = {p, (size_t)((nl ? nl : end) - p)};

        p = nl ? nl + 1 : end;
        while (line.n > 0 && (line.p[line.n - 1] == '\r' || line.p[line.n - 1] == ' ')) {
            line.n--;
        }
        if (line.n > 0) {
            take_line(&r, line, MIN(limit, (size_t)RECORDS_MAX));
        }
    }
    if (r.n == 0) {
        err_set(e, ERR_NOT_FOUND,
                "there is no request to replay: %llu of the lines are redacted, %llu hold bytes that are not UTF-8, "
                "%llu asked for a version by its number, %llu can not be read",
                (unsigned long long)r.redacted, (unsigned long long)r.binary, (unsigned long long)r.direct,
                (unsigned long long)r.unreadable);
        records_done(&r);
        return ERR_NOT_FOUND;
    }
    join(&r);
    *out = r;
    return ERR_OK;
}
