/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing answers that came as JSON. */
#include "cli/answers.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/show.h"

#define NESTING 32

static yyjson_val *output_named(yyjson_val *outputs, const char *name)
{
    yyjson_val *o;
    size_t i, max;

    yyjson_arr_foreach(outputs, i, max, o)
    {
        const char *has = get_text(o, "name");

        if (has && name && strcmp(has, name) == 0) {
            return o;
        }
    }
    return NULL;
}

static bool is_float(yyjson_val *output)
{
    const char *dtype = get_text(output, "datatype");

    return dtype && (strncmp(dtype, "FP", 2) == 0 || strcmp(dtype, "BF16") == 0);
}

static bool is_text(yyjson_val *output)
{
    const char *dtype = get_text(output, "datatype");

    return dtype && strcmp(dtype, "BYTES") == 0;
}

/* ---- elements, through all nesting that data may have ---- */

static size_t read_numbers(yyjson_val *data, double *out, size_t n, int depth)
{
    yyjson_val *v;
    size_t i, max;

    yyjson_arr_foreach(data, i, max, v)
    {
        if (yyjson_is_arr(v) && depth < NESTING) {
            n = read_numbers(v, out, n, depth + 1);
        } else if (n < DIFF_ELEMENTS) { /* null: a number that JSON does not have */
            out[n++] = yyjson_is_bool(v) ? yyjson_get_bool(v) : yyjson_is_num(v) ? yyjson_get_num(v) : (double)NAN;
        }
    }
    return n;
}

static size_t read_texts(yyjson_val *data, struct str *out, size_t n, int depth)
{
    yyjson_val *v;
    size_t i, max;

    yyjson_arr_foreach(data, i, max, v)
    {
        if (yyjson_is_arr(v) && depth < NESTING) {
            n = read_texts(v, out, n, depth + 1);
        } else if (n < ANSWER_TEXTS) {
            out[n++] = (struct str){yyjson_get_str(v), yyjson_get_len(v)};
        }
    }
    return n;
}

static yyjson_val *first_of(yyjson_val *v)
{
    while (yyjson_is_arr(v)) {
        v = yyjson_arr_get_first(v);
    }
    return v;
}

static size_t width_of(yyjson_val *output)
{
    yyjson_val *shape = yyjson_obj_get(output, "shape");
    size_t rank = yyjson_arr_size(shape);

    return rank > 0 ? (size_t)yyjson_get_uint(yyjson_arr_get(shape, rank - 1)) : 1;
}

/* ---- classes ---- */

/* The place of the largest of the first row; of equal ones the first. */
static bool largest_at(yyjson_val *output, size_t *at)
{
    yyjson_val *data = yyjson_obj_get(output, "data"), *v;
    size_t i, max, width = width_of(output);
    double most = 0;
    bool any = false;

    while (yyjson_is_arr(yyjson_arr_get_first(data))) {
        data = yyjson_arr_get_first(data);
    }
    yyjson_arr_foreach(data, i, max, v)
    {
        double x = yyjson_is_num(v) ? yyjson_get_num(v) : (double)NAN;

        if (i < width && (!any || x > most)) {
            most = x;
            *at = i;
            any = true;
        }
    }
    return any;
}

/* What a text or a whole number says. */
static bool said_by(yyjson_val *output, char small[24], struct str *class)
{
    yyjson_val *v = first_of(yyjson_obj_get(output, "data"));

    if (yyjson_is_str(v)) {
        *class = (struct str){yyjson_get_str(v), yyjson_get_len(v)};
        return true;
    }
    if (!yyjson_is_int(v)) {
        return false;
    }
    int n = yyjson_is_sint(v) ? snprintf(small, 24, "%" PRId64, yyjson_get_sint(v))
                              : snprintf(small, 24, "%" PRIu64, yyjson_get_uint(v));
    *class = (struct str){small, (size_t)n};
    return true;
}

bool class_of(const struct class_rule *rule, yyjson_val *outputs, char small[24], struct str *class)
{
    yyjson_val *o = rule->output ? output_named(outputs, rule->output) : NULL;
    size_t at;

    if (!o) {
        return false;
    }
    if (!rule->scores) {
        return said_by(o, small, class);
    }
    if (!largest_at(o, &at)) {
        return false;
    }
    if (at < rule->n && rule->name[at]) {
        *class = str_of(rule->name[at]);
    } else {
        *class = (struct str){small, (size_t)snprintf(small, 24, "%zu", at)};
    }
    return true;
}

/* The output says the class in every record that has one. */
static bool says_all(const struct records *r, const char *output)
{
    char small[24];
    struct str class;

    for (size_t i = 0; i < r->n; i++) {
        const struct record *one = &r->list[i];

        if (one->predicted && one->outputs &&
            (!said_by(output_named(one->outputs, output), small, &class) || !str_is(class, one->predicted))) {
            return false;
        }
    }
    return true;
}

/* The place of its largest element has one class wherever it is seen; learns the names. */
static bool places_all(struct class_rule *rule, const struct records *r, const char *output)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct record *one = &r->list[i];
        size_t at;

        if (!one->predicted || !one->outputs) {
            continue;
        }
        if (!largest_at(output_named(one->outputs, output), &at) || at >= RULE_CLASSES) {
            return false;
        }
        if (at >= rule->n) {
            rule->name = xrealloc(rule->name, (at + 1) * sizeof(rule->name[0]));
            memset(rule->name + rule->n, 0, (at + 1 - rule->n) * sizeof(rule->name[0]));
            rule->n = at + 1;
        }
        if (rule->name[at] && strcmp(rule->name[at], one->predicted) != 0) {
            return false;
        }
        rule->name[at] = one->predicted;
    }
    return true;
}

void class_rule_done(struct class_rule *rule)
{
    free(rule->name);
    *rule = (struct class_rule){0};
}

/* True: the output says the class of all records; the rule is by it. */
static bool rule_by(struct class_rule *rule, const struct records *r, yyjson_val *output)
{
    const char *name = get_text(output, "name");
    bool scores = is_float(output);

    if (name && (scores ? width_of(output) > 1 && places_all(rule, r, name) : says_all(r, name))) {
        rule->output = name;
        rule->scores = scores;
        return true;
    }
    class_rule_done(rule);
    return false;
}

void class_rule_learn(struct class_rule *rule, const struct records *r, const char *output)
{
    yyjson_val *outputs = NULL, *o;
    size_t i, max;

    *rule = (struct class_rule){0};
    for (size_t k = 0; k < r->n && !outputs; k++) {
        outputs = r->list[k].predicted ? r->list[k].outputs : NULL;
    }
    if (output_named(outputs, output) && rule_by(rule, r, output_named(outputs, output))) {
        return;
    }
    for (int scores = 0; scores < 2; scores++) {
        yyjson_arr_foreach(outputs, i, max, o)
        {
            if (is_float(o) == (scores == 1) && rule_by(rule, r, o)) {
                return;
            }
        }
    }
}

/* ---- comparing ---- */

static void shape_of(yyjson_val *output, char *out, size_t cap)
{
    char *text = output ? yyjson_val_write(yyjson_obj_get(output, "shape"), 0, NULL) : NULL;

    snprintf(out, cap, "%s", text ? text : "none");
    free(text);
}

static bool same_shape(yyjson_val *a, yyjson_val *b)
{
    const char *x = get_text(a, "datatype"), *y = get_text(b, "datatype");

    return x && y && strcmp(x, y) == 0 && yyjson_equals(yyjson_obj_get(a, "shape"), yyjson_obj_get(b, "shape"));
}

static void compare_output(struct diff_pair *p, struct scratch *t, yyjson_val *a, yyjson_val *b)
{
    yyjson_val *y = yyjson_obj_get(a, "data"), *x = yyjson_obj_get(b, "data");
    struct str name = str_of(get_text(a, "name"));
    char text[2][96];

    if (!b || !same_shape(a, b)) {
        shape_of(a, text[0], sizeof(text[0]));
        shape_of(b, text[1], sizeof(text[1]));
        diff_shapes(p, name, is_text(a) ? DIFF_TEXT : DIFF_NUMERIC, text[0], text[1]);
    } else if (is_text(a)) {
        size_t n = read_texts(y, t->text[0], 0, 0);

        diff_texts(p, name, t->text[0], t->text[1], MIN(n, read_texts(x, t->text[1], 0, 0)));
    } else {
        size_t n = read_numbers(y, t->number[0], 0, 0), m = read_numbers(x, t->number[1], 0, 0);

        diff_numbers(p, name, t->number[0], t->number[1], MIN(n, m), width_of(a), is_float(a));
    }
}

static void compare_class(struct diff_pair *p, struct scratch *t, const struct class_rule *rule, struct str stable,
                          yyjson_val *a, yyjson_val *b)
{
    yyjson_val *y = output_named(a, rule->output), *x = output_named(b, rule->output);
    struct str name = str_of(rule->output), candidate;
    char small[24], text[DIFF_SIDE];

    if (!class_of(rule, b, small, &candidate)) {
        snprintf(text, sizeof(text), STR_FMT, (int)MIN(stable.n, sizeof(text) - 1), stable.p);
        diff_shapes(p, name, DIFF_CLASS, text, "none");
        return;
    }
    diff_classes(p, name, &stable, 1, &candidate, 1);
    if (rule->scores && same_shape(y, x)) {
        size_t n = read_numbers(yyjson_obj_get(y, "data"), t->number[0], 0, 0);
        size_t m = read_numbers(yyjson_obj_get(x, "data"), t->number[1], 0, 0);

        diff_scores(p, t->number[0], t->number[1], MIN(n, m), width_of(y));
    }
}

bool answers_compare(struct diff_sum *sum, struct scratch *t, const struct class_rule *rule, struct str id,
                     yyjson_val *stable, yyjson_val *candidate)
{
    struct diff_pair pair;
    struct str class;
    char small[24];
    yyjson_val *o;
    size_t i, max;
    bool known = class_of(rule, stable, small, &class);

    diff_begin(&pair, sum, id);
    if (known) {
        compare_class(&pair, t, rule, class, stable, candidate);
    }
    yyjson_arr_foreach(stable, i, max, o)
    {
        const char *name = get_text(o, "name");

        if (name && !(known && strcmp(name, rule->output) == 0)) {
            compare_output(&pair, t, o, output_named(candidate, name));
        }
    }
    return diff_end(&pair);
}
