/* SPDX-License-Identifier: Apache-2.0 */
/* A page as JSON and back: one table of fields serves both ways. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <yyjson.h>

#include "business/business_priv.h"

enum field_kind { END, TEXT, INTEGER, REAL, OBJECT, LIST };

struct field {
    const char *name;
    enum field_kind kind;
    size_t at, size;        /* size: of a text, or of one item of a list */
    const struct field *of; /* OBJECT, LIST */
    size_t count_at, max;   /* LIST */
};

#define T(type, name) {#name, TEXT, offsetof(struct type, name), sizeof(((struct type *)0)->name), NULL, 0, 0}
#define I(type, name) {#name, INTEGER, offsetof(struct type, name), 0, NULL, 0, 0}
#define R(type, name) {#name, REAL, offsetof(struct type, name), 0, NULL, 0, 0}
#define O(type, name, of) {#name, OBJECT, offsetof(struct type, name), 0, of, 0, 0}
#define L(type, name, of, max)               \
    {                                        \
        #name,                               \
        LIST,                                \
        offsetof(struct type, name),         \
        sizeof(((struct type *)0)->name[0]), \
        of,                                  \
        offsetof(struct type, n_##name),     \
        max}
#define END_OF_FIELDS {NULL, END, 0, 0, NULL, 0, 0}

/* clang-format off */
static const struct field product_fields[] = {
    I(business_product, id), T(business_product, name), T(business_product, kind), T(business_product, colour),
    T(business_product, about), I(business_product, cents), I(business_product, list_cents), I(business_product, sold),
    END_OF_FIELDS,
};
static const struct field said_fields[] = {
    T(business_said, model), T(business_said, request_id), T(business_said, version), T(business_said, label),
    R(business_said, score), END_OF_FIELDS,
};
static const struct field shelf_fields[] = {
    T(business_shelf, title), T(business_shelf, why), O(business_shelf, said, said_fields),
    L(business_shelf, items, product_fields, BUSINESS_ITEMS), END_OF_FIELDS,
};
static const struct field order_fields[] = {
    I(business_order, id), O(business_order, product, product_fields), I(business_order, shipping_cents),
    T(business_order, state), T(business_order, when), I(business_order, can_cancel), I(business_order, can_return),
    END_OF_FIELDS,
};
static const struct field page_fields[] = {
    T(business_page, view), T(business_page, title), T(business_page, lead), T(business_page, note),
    I(business_page, degraded), O(business_page, said, said_fields), O(business_page, product, product_fields),
    I(business_page, shipping_cents), L(business_page, shelves, shelf_fields, BUSINESS_SHELVES),
    L(business_page, orders, order_fields, BUSINESS_ORDERS_MAX), END_OF_FIELDS,
};
/* clang-format on */

static void write_text(struct text *t, const char *z)
{
    text_add(t, "\"");
    for (; *z; z++) {
        if (*z == '"' || *z == '\\') {
            text_addf(t, "\\%c", *z);
        } else if ((unsigned char)*z < 0x20) {
            text_addf(t, "\\u%04x", *z);
        } else {
            text_addn(t, z, 1);
        }
    }
    text_add(t, "\"");
}

static void write_fields(struct text *t, const struct field *f, const char *base)
{
    text_add(t, "{");
    for (const struct field *at = f; at->kind != END; at++) {
        const char *p = base + at->at;
        text_addf(t, "%s\"%s\":", at == f ? "" : ",", at->name);
        if (at->kind == TEXT) {
            write_text(t, p);
        } else if (at->kind == INTEGER) {
            text_addf(t, "%" PRId64, *(const int64_t *)p);
        } else if (at->kind == REAL) {
            double value = *(const double *)p;
            text_addf(t, "%.17g", isfinite(value) ? value : 0.0);
        } else if (at->kind == OBJECT) {
            write_fields(t, at->of, p);
        } else {
            int64_t n = *(const int64_t *)(base + at->count_at);
            text_add(t, "[");
            for (int64_t i = 0; i < n; i++) {
                text_add(t, i ? "," : "");
                write_fields(t, at->of, p + (size_t)i * at->size);
            }
            text_add(t, "]");
        }
    }
    text_add(t, "}");
}

void business_page_write(struct text *t, const struct business_page *page)
{
    write_fields(t, page_fields, (const char *)page);
}

/* Fields that are not there stay as they are: empty. One of another type, or too large, makes it no page. */
static bool read_fields(yyjson_val *v, const struct field *f, char *base)
{
    if (!yyjson_is_obj(v)) {
        return false;
    }
    bool good = true;
    for (const struct field *at = f; at->kind != END && good; at++) {
        yyjson_val *from = yyjson_obj_get(v, at->name);
        char *p = base + at->at;
        if (!from) {
            continue;
        }
        if (at->kind == TEXT) {
            good = yyjson_is_str(from) && yyjson_get_len(from) < at->size &&
                   !memchr(yyjson_get_str(from), 0, yyjson_get_len(from));
            if (good) {
                text_copy(p, at->size, yyjson_get_str(from));
            }
        } else if (at->kind == INTEGER) {
            good = yyjson_is_int(from);
            *(int64_t *)p = yyjson_get_sint(from);
        } else if (at->kind == REAL) {
            good = yyjson_is_num(from);
            *(double *)p = yyjson_get_num(from);
        } else if (at->kind == OBJECT) {
            good = read_fields(from, at->of, p);
        } else {
            size_t n = yyjson_arr_size(from), i, max;
            yyjson_val *item;
            good = yyjson_is_arr(from) && n <= at->max;
            yyjson_arr_foreach(from, i, max, item)
            {
                good = good && read_fields(item, at->of, p + i * at->size);
            }
            *(int64_t *)(base + at->count_at) = good ? (int64_t)n : 0;
        }
    }
    return good;
}

bool business_page_read(struct business_page *page, const char *json, size_t n)
{
    memset(page, 0, sizeof *page);
    yyjson_doc *doc = yyjson_read(json, n, 0);
    bool good = doc && read_fields(yyjson_doc_get_root(doc), page_fields, (char *)page);
    yyjson_doc_free(doc);
    return good;
}
