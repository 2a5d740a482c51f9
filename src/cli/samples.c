/* SPDX-License-Identifier: Apache-2.0 */
/* Reading sample requests, and guessing from a reply what a model predicted. */
#include "cli/samples.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

/* The text that feedback carries for a label: strings as they are, numbers as JSON writes them. */
static char *label_text(yyjson_mut_val *label)
{
    if (!label || yyjson_mut_is_null(label)) {
        return NULL;
    }
    if (yyjson_mut_is_str(label)) {
        return xstrdup(yyjson_mut_get_str(label));
    }
    return yyjson_mut_val_write(label, 0, NULL);
}

enum err_code sample_split(struct sample *out, struct str json, struct err *e)
{
    yyjson_read_err why;
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)(json.p ? json.p : ""), json.n, 0, NULL, &why);
    if (!doc) {
        return err_set(e, ERR_INVALID, "not JSON: %s at byte %zu", why.msg, why.pos);
    }
    if (!yyjson_is_obj(yyjson_doc_get_root(doc))) {
        yyjson_doc_free(doc);
        return err_set(e, ERR_INVALID, "not a JSON object, as an inference request is");
    }
    yyjson_mut_doc *m = yyjson_doc_mut_copy(doc, NULL);
    yyjson_mut_val *label = m ? yyjson_mut_obj_remove_key(yyjson_mut_doc_get_root(m), "label") : NULL;
    struct sample s = {.label = label_text(label)};
    s.body = m ? yyjson_mut_write(m, 0, &s.body_n) : NULL;
    yyjson_mut_doc_free(m);
    yyjson_doc_free(doc);
    if (!s.body) {
        free(s.label);
        return err_set(e, ERR_TOO_LARGE, "no memory for the request");
    }
    *out = s;
    return ERR_OK;
}

void samples_done(struct samples *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->list[i].body);
        free(s->list[i].label);
    }
    free(s->list);
    *s = (struct samples){0};
}

enum err_code samples_read(struct samples *out, struct str text, struct err *e)
{
    struct samples s = {0};
    size_t cap = 0, line = 0;
    const char *p = text.p, *end = text.p ? text.p + text.n : text.p;
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        struct str one = {p, (size_t)((nl ? nl : end) - p)};
        p = nl ? nl + 1 : end;
        line++;
        while (one.n > 0 && (one.p[one.n - 1] == '\r' || one.p[one.n - 1] == ' ')) {
            one.n--;
        }
        if (one.n == 0) {
            continue;
        }
        if (s.n == cap) {
            cap = cap ? cap * 2 : 64;
            s.list = xrealloc(s.list, cap * sizeof *s.list);
        }
        struct err why = {0};
        enum err_code rc = s.n == SAMPLES_MAX ? err_set(&why, ERR_TOO_LARGE, "more than %d samples", SAMPLES_MAX)
                                              : sample_split(&s.list[s.n], one, &why);
        if (rc != ERR_OK) {
            samples_done(&s);
            return err_set(e, rc, "sample %zu: %s", line, why.text);
        }
        s.n++;
    }
    if (s.n == 0) {
        free(s.list);
        return err_set(e, ERR_NOT_FOUND, "the model has no samples (samples.ndjson in its version's folder)");
    }
    *out = s;
    return ERR_OK;
}

/* The first element, however deep `data` is nested. */
static yyjson_val *first_of(yyjson_val *v)
{
    while (yyjson_is_arr(v)) {
        v = yyjson_arr_get_first(v);
    }
    return v;
}

/* The index of the largest number, counted through all nesting; false if there is a value that is no number. */
static bool largest(yyjson_val *data, uint64_t *index)
{
    uint64_t n = 0, best = 0;
    double top = 0;
    while (yyjson_is_arr(data) && yyjson_is_arr(yyjson_arr_get_first(data))) {
        data = yyjson_arr_get_first(data); /* row 0 */
    }
    yyjson_val *v;
    size_t i, max;
    yyjson_arr_foreach(data, i, max, v)
    {
        if (!yyjson_is_num(v)) {
            return false;
        }
        if (n == 0 || yyjson_get_num(v) > top) {
            top = yyjson_get_num(v);
            best = n;
        }
        n++;
    }
    *index = best;
    return n > 0;
}

static bool is_named(yyjson_val *output)
{
    const char *dtype = yyjson_get_str(yyjson_obj_get(output, "datatype"));
    return dtype && (strcmp(dtype, "BYTES") == 0 || strncmp(dtype, "INT", 3) == 0 || strncmp(dtype, "UINT", 4) == 0);
}

bool sample_predicted(struct str reply, char *out, size_t cap, bool *by_index)
{
    yyjson_doc *doc = yyjson_read(reply.p ? reply.p : "", reply.n, 0);
    yyjson_val *outputs = yyjson_obj_get(yyjson_doc_get_root(doc), "outputs"), *o, *chosen = NULL;
    size_t i, max;
    uint64_t index;
    bool ok = false;
    yyjson_arr_foreach(outputs, i, max, o)
    {
        chosen = chosen ? chosen : is_named(o) ? o : NULL;
    }
    *by_index = !chosen;
    if (chosen) {
        yyjson_val *v = first_of(yyjson_obj_get(chosen, "data"));
        char number[24] = "";
        if (yyjson_is_sint(v)) {
            snprintf(number, sizeof number, "%" PRId64, yyjson_get_sint(v));
        } else if (yyjson_is_uint(v)) {
            snprintf(number, sizeof number, "%" PRIu64, yyjson_get_uint(v));
        }
        const char *text = yyjson_is_str(v) ? yyjson_get_str(v) : number;
        ok = *text && str_copy(out, cap, str_of(text));
    } else if (largest(yyjson_obj_get(yyjson_arr_get_first(outputs), "data"), &index)) {
        ok = (size_t)snprintf(out, cap, "%" PRIu64, index) < cap;
    }
    yyjson_doc_free(doc);
    return ok;
}
