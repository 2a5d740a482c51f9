/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the one place to write at: libyaml's events with their marks, down the path of keys. Marks count characters,
 * texts are bytes.
 *
 * Thread: any. */
#include "base/conf_edit.h"

#include <stdio.h>
#include <yaml.h>

#include "base/conf.h"

struct finder {
    yaml_parser_t parser;
    struct str text; /* behind a byte order mark */
    const char *const *path;
    size_t matched; /* keys of the path whose maps are open */
    int depth;      /* containers that are open */
    bool key_next;  /* in the innermost of those maps */
    bool hit;       /* the key that was read is the path's next */
    /* of the innermost map: */
    bool flow;
    size_t start, first_column;
    bool any;
    size_t last_end; /* where the last thing in it ends */
};

/* What is to be done: the bytes from..to give way to the text. */
struct patch {
    size_t from, to;
    struct buf text;
};

static size_t byte_at(const struct finder *f, size_t characters)
{
    size_t at = 0;

    while (at < f->text.n && characters > 0) {
        at++;
        while (at < f->text.n && ((unsigned char)f->text.p[at] & 0xc0) == 0x80) {
            at++;
        }
        characters--;
    }
    return at;
}

/* ---- what is written ---- */

void conf_put(struct buf *out, const char *value)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/:-";
    size_t n = strlen(value);

    if (n > 0 && strspn(value, plain) == n && value[0] != '-' && value[0] != ':' && value[n - 1] != ':') {
        buf_addz(out, value);
        return;
    }
    buf_addc(out, '"');
    for (size_t i = 0; i < n; i++) {
        if (value[i] == '"' || value[i] == '\\') {
            buf_addc(out, '\\');
        }
        buf_addc(out, value[i]);
    }
    buf_addc(out, '"');
}

/* The value behind the keys that are missing: {place: X}. */
static void put_rest(struct buf *out, const char *const *keys, const char *value)
{
    size_t n = 0;

    for (; keys[n]; n++) {
        buf_addc(out, '{');
        conf_put(out, keys[n]);
        BUF_LIT(out, ": ");
    }
    conf_put(out, value);
    while (n-- > 0) {
        buf_addc(out, '}');
    }
}

static void put_entry(struct buf *out, const char *const *keys, const char *value)
{
    conf_put(out, keys[0]);
    BUF_LIT(out, ": ");
    put_rest(out, keys + 1, value);
}

/* The file's line ends, by its first. */
static const char *line_end(struct str text)
{
    const char *at = text.n > 0 ? memchr(text.p, '\n', text.n) : NULL;

    return at && at > text.p && at[-1] == '\r' ? "\r\n" : "\n";
}

/* Into a map in flow style: behind its brace. */
static void patch_flow(const struct finder *f, struct patch *p, const char *value)
{
    size_t at = byte_at(f, f->start) + 1;
    bool apart = f->any && at < f->text.n && memchr(" \t\r\n", f->text.p[at], 4);

    p->from = p->to = at;
    buf_addz(&p->text, apart ? " " : "");
    put_entry(&p->text, f->path + f->matched, value);
    buf_addz(&p->text, !f->any ? "" : apart ? "," : ", ");
}

/* Into a map in block style: a line behind the last thing in it, and behind that one's comment. */
static void patch_block(const struct finder *f, struct patch *p, const char *value)
{
    size_t at = byte_at(f, f->last_end);

    while (at > 0 && memchr(" \t\r\n", f->text.p[at - 1], 4)) { /* a text in block style ends with its line */
        at--;
    }
    while (at < f->text.n && f->text.p[at] != '\n') {
        at++;
    }
    at -= at < f->text.n && at > 0 && f->text.p[at - 1] == '\r';
    p->from = p->to = at;
    buf_addz(&p->text, line_end(f->text));
    for (size_t i = 0; i < f->first_column; i++) {
        buf_addc(&p->text, ' ');
    }
    put_entry(&p->text, f->path + f->matched, value);
}

/* A file without anything in it but comments. */
static void patch_empty(const struct finder *f, struct patch *p, const char *value)
{
    p->from = p->to = f->text.n;
    if (f->text.n > 0 && f->text.p[f->text.n - 1] != '\n') {
        buf_addz(&p->text, line_end(f->text));
    }
    put_entry(&p->text, f->path, value);
    buf_addz(&p->text, line_end(f->text));
}

/* ---- where ---- */

enum found { FOUND_NOT, FOUND_YES, FOUND_WRONG };

static bool is_null(const yaml_event_t *ev)
{
    const char *text = (const char *)ev->data.scalar.value;

    return ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

/* The value of the path's next key. */
static enum found on_value(struct finder *f, const yaml_event_t *ev, struct patch *p, const char *value)
{
    const char *const *rest = f->path + f->matched + 1;

    f->hit = false;
    if (ev->type == YAML_SCALAR_EVENT && (!*rest || is_null(ev))) {
        p->from = byte_at(f, ev->start_mark.index);
        p->to = byte_at(f, ev->end_mark.index);
        if (p->from == p->to && p->from > 0 && !memchr(" \t", f->text.p[p->from - 1], 2)) {
            buf_addc(&p->text, ' '); /* nothing stood behind the colon */
        }
        put_rest(&p->text, rest, value);
        return FOUND_YES;
    }
    if (ev->type != YAML_MAPPING_START_EVENT || !*rest) {
        return FOUND_WRONG;
    }
    f->matched++;
    f->flow = ev->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE;
    f->start = ev->start_mark.index;
    f->any = false;
    f->key_next = true;
    return FOUND_NOT;
}

/* A key or a value of the innermost map of the path. */
static enum found on_entry(struct finder *f, const yaml_event_t *ev, struct patch *p, const char *value)
{
    if (!f->key_next) {
        f->key_next = true;
        return f->hit ? on_value(f, ev, p, value) : FOUND_NOT;
    }
    f->key_next = false;
    if (!f->any) {
        f->any = true;
        f->first_column = ev->start_mark.column;
    }
    f->hit = ev->type == YAML_SCALAR_EVENT && strcmp((const char *)ev->data.scalar.value, f->path[f->matched]) == 0;
    return FOUND_NOT;
}

static enum found on_event(struct finder *f, const yaml_event_t *ev, struct patch *p, const char *value)
{
    bool opens = ev->type == YAML_MAPPING_START_EVENT || ev->type == YAML_SEQUENCE_START_EVENT;
    bool closes = ev->type == YAML_MAPPING_END_EVENT || ev->type == YAML_SEQUENCE_END_EVENT;
    enum found found = FOUND_NOT;

    if (ev->type == YAML_STREAM_END_EVENT) { /* nothing but comments */
        patch_empty(f, p, value);
        return FOUND_YES;
    }
    if (!opens && !closes && ev->type != YAML_SCALAR_EVENT) {
        return FOUND_NOT;
    }
    if (closes && f->depth == (int)f->matched + 1) { /* the map does not have the key */
        (f->flow ? patch_flow : patch_block)(f, p, value);
        return FOUND_YES;
    }
    if (f->depth == 0 && ev->type == YAML_MAPPING_START_EVENT) {
        f->flow = ev->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE;
        f->start = ev->start_mark.index;
        f->key_next = true;
    } else if (f->depth == 0) {
        return FOUND_WRONG;
    } else if (!closes && f->depth == (int)f->matched + 1) {
        found = on_entry(f, ev, p, value);
    }
    f->depth += opens ? 1 : closes ? -1 : 0;
    /* A block's end lies before the next token; a scalar's and a brace's is its own. */
    if (ev->type == YAML_SCALAR_EVENT || (closes && ev->end_mark.index > ev->start_mark.index)) {
        f->last_end = ev->end_mark.index;
    }
    return found;
}

static enum found find(struct finder *f, struct patch *p, const char *value)
{
    enum found found = FOUND_NOT;
    yaml_event_t ev;

    if (!yaml_parser_initialize(&f->parser)) {
        return FOUND_WRONG;
    }
    yaml_parser_set_input_string(&f->parser, (const unsigned char *)f->text.p, f->text.n);
    while (found == FOUND_NOT) {
        if (!yaml_parser_parse(&f->parser, &ev)) {
            found = FOUND_WRONG;
            break;
        }
        found = on_event(f, &ev, p, value);
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&f->parser);
    return found;
}

/* ---- is it what was meant? ---- */

/* b holds the keys of the path, one in another, and the value, and nothing else. */
static bool is_chain(const struct conf_node *b, const char *const *path, const char *value)
{
    for (; *path; path++) {
        if (!b || b->kind != CONF_MAP || !b->child || b->child->next || strcmp(b->child->key, *path) != 0) {
            return false;
        }
        b = b->child;
    }
    return b && b->kind == CONF_SCALAR && strcmp(b->text, value) == 0;
}

static size_t children(const struct conf_node *n)
{
    size_t k = 0;

    for (const struct conf_node *at = n->child; at; at = at->next) {
        k++;
    }
    return k;
}

/* path NULL: a and b say the same; else they do but for the value at the path. */
static bool same(const struct conf_node *a, const struct conf_node *b, const char *const *path, const char *value)
{
    const struct conf_node *x, *y;

    if (!b || (path && (!*path || a->kind == CONF_SCALAR))) {
        return b && is_chain(b, path, value);
    }
    if (a->kind != b->kind) {
        return false;
    }
    if (a->kind == CONF_SCALAR) {
        return strcmp(a->text, b->text) == 0 && a->quoted == b->quoted;
    }
    if (a->kind == CONF_LIST) {
        for (x = a->child, y = b->child; x && y && same(x, y, NULL, value); x = x->next, y = y->next) {
        }
        return !x && !y;
    }
    for (x = a->child; x; x = x->next) {
        if (!same(x, conf_find(b, x->key), path && strcmp(x->key, *path) == 0 ? path + 1 : NULL, value)) {
            return false;
        }
    }
    x = path ? conf_find(a, *path) : a;
    return children(b) == children(a) + (x ? 0 : 1) && (x || is_chain(conf_find(b, *path), path + 1, value));
}

enum err_code conf_edit(struct buf *out, const char *name, struct str text, const char *const *path, const char *value,
                        struct err *e)
{
    AUTO(conf) before = NULL;
    AUTO(conf) after = NULL;
    bool mark = text.n >= 3 && memcmp(text.p, "\xef\xbb\xbf", 3) == 0;
    struct finder f = {.text = {text.p + (mark ? 3 : 0), text.n - (mark ? 3 : 0)}, .path = path};
    struct patch p = {.from = 0};
    struct buf made;
    struct err why;
    bool ok;

    if (conf_read_text(&before, name, text, e) != ERR_OK) {
        return e->code;
    }
    buf_init(&p.text, 1u << 20);
    buf_init(&made, 4u << 20);
    ok = find(&f, &p, value) == FOUND_YES;
    if (ok) {
        buf_add(&made, text.p, (size_t)(f.text.p - text.p) + p.from);
        buf_add(&made, p.text.p, p.text.n);
        buf_add(&made, f.text.p + p.to, f.text.n - p.to);
        ok = !made.over && conf_read_text(&after, name, buf_str(&made), &why) == ERR_OK &&
             same(before->root, after->root, path, value);
    }
    if (ok) {
        buf_add(out, made.p, made.n);
    } else {
        char keys[300] = "";

        for (size_t i = 0, n = 0; path[i] && n < sizeof(keys); i++) {
            n += (size_t)snprintf(keys + n, sizeof(keys) - n, "%s%s", i ? "." : "", path[i]);
        }
        err_set(e, ERR_INVALID,
                "%s can not be changed here without touching anything else: write %s: %s there yourself", name, keys,
                value);
    }
    buf_done(&made);
    buf_done(&p.text);
    return ok ? ERR_OK : ERR_INVALID;
}
