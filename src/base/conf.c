/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration: libyaml's events become a tree (no recursion, bounded), and rows of settings read their values from
 * it.
 *
 * A map entry's line and column are those of its key. A message names the file, the place and the path of keys; the
 * path is found by searching the tree from its root when a message is made, so that nodes need no parent. All values of
 * a map are checked before the first one is stored: a struct is never half filled.
 *
 * Thread: any (each tree is its reader's own). */
#include "base/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "base/buf.h"

enum { TEXT_MOST = 1024 * 1024, DEPTH_MOST = 16, NODES_MOST = 10000, PROBLEM = 400 };

/* ---- the tree ---- */

struct builder {
    struct conf *c;
    struct conf_node *open[DEPTH_MOST];  /* the containers around the next node */
    struct conf_node **tail[DEPTH_MOST]; /* where the next child goes */
    int depth, nodes, documents;
    char *key; /* read, its value comes next */
    int key_line, key_col;
    struct err *e;
};

static void node_free(struct conf_node *n)
{
    /* Children are spliced in front of the siblings, so that depth needs no stack. */
    while (n) {
        struct conf_node *next = n->next;
        if (n->child) {
            struct conf_node *last = n->child;
            while (last->next) {
                last = last->next;
            }
            last->next = next;
            next = n->child;
        }
        free(n->key);
        free(n->text);
        free(n);
        n = next;
    }
}

void conf_free(struct conf *c)
{
    if (!c) {
        return;
    }
    node_free(c->root);
    free(c->name);
    free(c);
}

struct conf_node *conf_find(const struct conf_node *map, const char *key)
{
    for (struct conf_node *n = map && map->kind == CONF_MAP ? map->child : NULL; n; n = n->next) {
        if (strcmp(n->key, key) == 0) {
            return n;
        }
    }
    return NULL;
}

__attribute__((format(printf, 4, 5))) static bool fail_at(struct builder *b, int line, int col, const char *fmt, ...)
{
    char text[PROBLEM];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    err_set(b->e, ERR_INVALID, "%s:%d:%d: %s", b->c->name, line, col, text);
    return false;
}

/* Hangs a new node into the innermost container. NULL: an error was set. */
static struct conf_node *node_add(struct builder *b, enum conf_kind kind, yaml_mark_t at)
{
    int line = (int)at.line + 1;
    int col = (int)at.column + 1;
    struct conf_node *in = b->depth > 0 ? b->open[b->depth - 1] : NULL;
    if (++b->nodes > NODES_MOST) {
        fail_at(b, line, col, "more than %d values", NODES_MOST);
        return NULL;
    }
    if (kind != CONF_SCALAR && b->depth == DEPTH_MOST) {
        fail_at(b, line, col, "nested deeper than %d levels", DEPTH_MOST);
        return NULL;
    }
    struct conf_node *n = xcalloc(1, sizeof(*n));
    *n = (struct conf_node){.kind = kind, .line = line, .col = col};
    if (in && in->kind == CONF_MAP) {
        n->key = TAKE(b->key);
        n->line = b->key_line;
        n->col = b->key_col;
    }
    if (in) {
        *b->tail[b->depth - 1] = n;
        b->tail[b->depth - 1] = &n->next;
    } else {
        b->c->root = n;
    }
    return n;
}

static bool container_open(struct builder *b, enum conf_kind kind, yaml_mark_t at)
{
    struct conf_node *n = node_add(b, kind, at);
    if (!n) {
        return false;
    }
    b->open[b->depth] = n;
    b->tail[b->depth] = &n->child;
    b->depth++;
    return true;
}

static bool scalar_add(struct builder *b, const yaml_event_t *ev)
{
    const char *text = (const char *)ev->data.scalar.value;
    int line = (int)ev->start_mark.line + 1;
    int col = (int)ev->start_mark.column + 1;
    struct conf_node *in = b->depth > 0 ? b->open[b->depth - 1] : NULL;
    if (strlen(text) != ev->data.scalar.length) {
        return fail_at(b, line, col, "a text with a zero byte");
    }
    if (in && in->kind == CONF_MAP && !b->key) {
        struct conf_node *same = conf_find(in, text);
        if (same) {
            return fail_at(b, line, col, "key '%.100s' is already set in line %d", text, same->line);
        }
        if (text[0] == '\0') {
            return fail_at(b, line, col, "an empty key");
        }
        b->key = xstrdup(text);
        b->key_line = line;
        b->key_col = col;
        return true;
    }
    struct conf_node *n = node_add(b, CONF_SCALAR, ev->start_mark);
    if (!n) {
        return false;
    }
    n->text = xstrdup(text);
    n->quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return true;
}

/* What YAML has and a configuration does not need. */
static bool event_plain(struct builder *b, const yaml_event_t *ev)
{
    int line = (int)ev->start_mark.line + 1;
    int col = (int)ev->start_mark.column + 1;
    const yaml_char_t *anchor = NULL;
    const yaml_char_t *tag = NULL;
    struct conf_node *in = b->depth > 0 ? b->open[b->depth - 1] : NULL;
    switch (ev->type) {
    case YAML_ALIAS_EVENT:
        return fail_at(b, line, col, "aliases (*%.60s) are not supported: write the value again",
                       (const char *)ev->data.alias.anchor);
    case YAML_SCALAR_EVENT:
        anchor = ev->data.scalar.anchor;
        tag = ev->data.scalar.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = ev->data.mapping_start.anchor;
        tag = ev->data.mapping_start.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = ev->data.sequence_start.anchor;
        tag = ev->data.sequence_start.tag;
        break;
    default:
        return true;
    }
    if (anchor) {
        return fail_at(b, line, col, "anchors (&%.60s) are not supported", (const char *)anchor);
    }
    if (tag) {
        return fail_at(b, line, col, "tags (%.60s) are not supported", (const char *)tag);
    }
    if (ev->type != YAML_SCALAR_EVENT && in && in->kind == CONF_MAP && !b->key) {
        return fail_at(b, line, col, "a key must be a plain text");
    }
    return true;
}

static bool event_take(struct builder *b, const yaml_event_t *ev)
{
    int line = (int)ev->start_mark.line + 1;
    int col = (int)ev->start_mark.column + 1;
    if (!event_plain(b, ev)) {
        return false;
    }
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (b->documents++ > 0) {
            return fail_at(b, line, col, "a second document: there may be one only");
        }
        return true;
    case YAML_SCALAR_EVENT:
        return scalar_add(b, ev);
    case YAML_MAPPING_START_EVENT:
        return container_open(b, CONF_MAP, ev->start_mark);
    case YAML_SEQUENCE_START_EVENT:
        return container_open(b, CONF_LIST, ev->start_mark);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        b->depth--;
        return true;
    default:
        return true;
    }
}

static bool parser_run(struct builder *b, yaml_parser_t *parser)
{
    for (bool more = true; more;) {
        yaml_event_t ev;
        if (!yaml_parser_parse(parser, &ev)) {
            /* The reader knows bytes only, the scanner and the parser know lines. */
            bool place = parser->error != YAML_READER_ERROR && parser->error != YAML_MEMORY_ERROR;
            const char *what = parser->problem ? parser->problem : "it can not be read";
            if (!place) {
                err_set(b->e, ERR_INVALID, "%s: not YAML: %s at byte %zu", b->c->name, what, parser->problem_offset);
                return false;
            }
            return fail_at(b, (int)parser->problem_mark.line + 1, (int)parser->problem_mark.column + 1,
                           "not YAML: %s%s%s", what, parser->context ? " " : "",
                           parser->context ? parser->context : "");
        }
        more = ev.type != YAML_STREAM_END_EVENT;
        bool ok = event_take(b, &ev);
        yaml_event_delete(&ev);
        if (!ok) {
            return false;
        }
    }
    return true;
}

static bool node_is_null(const struct conf_node *n)
{
    return n->kind == CONF_SCALAR && !n->quoted &&
           (n->text[0] == '\0' || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0);
}

enum err_code conf_read_text(struct conf **out, const char *name, struct str text, struct err *e)
{
    if (text.n > TEXT_MOST) {
        return err_set(e, ERR_TOO_LARGE, "%s: %zu bytes, more than the %d that a configuration may have", name, text.n,
                       (int)TEXT_MOST);
    }
    struct conf *c = xcalloc(1, sizeof(*c));
    c->name = xstrdup(name);
    struct builder b = {.c = c, .e = e};
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        conf_free(c);
        return err_set(e, ERR_INTERNAL, "%s: no memory for the YAML parser", name);
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)(text.n ? text.p : ""), text.n);
    bool ok = parser_run(&b, &parser);
    yaml_parser_delete(&parser);
    free(b.key);
    if (ok && c->root && node_is_null(c->root)) {
        node_free(c->root);
        c->root = NULL;
    }
    if (ok && !c->root) {
        c->root = xcalloc(1, sizeof(*c->root));
        *c->root = (struct conf_node){.kind = CONF_MAP, .line = 1, .col = 1};
    }
    if (ok && c->root->kind != CONF_MAP) {
        ok = fail_at(&b, c->root->line, c->root->col, "a configuration is a map of 'key: value' lines");
    }
    if (!ok) {
        conf_free(c);
        return ERR_INVALID;
    }
    *out = c;
    return ERR_OK;
}

enum err_code conf_read_file(struct conf **out, const char *path, struct err *e)
{
    enum err_code code = ERR_OK;
    struct buf text;
    buf_init(&text, TEXT_MOST + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        code = errno == ENOENT ? ERR_NOT_FOUND : ERR_INVALID;
        return err_sys(e, code, "the configuration %s can not be opened", path);
    }
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        code = err_set(e, ERR_INVALID, "the configuration %s is a directory", path);
    }
    while (code == ERR_OK && text.n <= TEXT_MOST) {
        size_t want = MIN((size_t)TEXT_MOST + 1 - text.n, (size_t)64 * 1024);
        char *at = buf_room(&text, want);
        if (!at) {
            code = err_set(e, ERR_INTERNAL, "no memory for the configuration %s", path);
            break;
        }
        ssize_t n = read(fd, at, want);
        if (n < 0 && errno != EINTR) {
            code = err_sys(e, ERR_INVALID, "the configuration %s can not be read", path);
        } else if (n == 0) {
            break;
        }
        text.n += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    if (code == ERR_OK) {
        code = conf_read_text(out, path, buf_str(&text), e);
    }
    buf_done(&text);
    return code;
}

/* ---- messages ---- */

enum err_code conf_error(const struct conf *c, const struct conf_node *at, struct err *e, const char *fmt, ...)
{
    char text[PROBLEM];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_set(e, ERR_INVALID, "%s:%d:%d: %s", c->name, at ? at->line : 1, at ? at->col : 1, text);
}

/* The keys from the root to a node, "families.vision.instances"; empty for the root and for a node of another tree. */
static void path_of(const struct conf *c, const struct conf_node *at, char *out, size_t cap)
{
    const struct conf_node *way[DEPTH_MOST + 2];
    unsigned place[DEPTH_MOST + 2] = {0};
    int depth = 0;
    out[0] = '\0';
    if (!at || at == c->root || !c->root->child) {
        return;
    }
    way[0] = c->root->child;
    while (way[depth] != at) {
        const struct conf_node *n = way[depth];
        if (n->child) {
            way[++depth] = n->child;
            place[depth] = 0;
            continue;
        }
        while (!way[depth]->next) {
            if (depth-- == 0) {
                return;
            }
        }
        way[depth] = way[depth]->next;
        place[depth]++;
    }
    size_t n = 0;
    for (int i = 0; i <= depth && n < cap; i++) {
        int more = way[i]->key ? snprintf(out + n, cap - n, "%s%.100s", i ? "." : "", way[i]->key)
                               : snprintf(out + n, cap - n, "[%u]", place[i]);
        n += (size_t)more;
    }
}

static enum err_code setting_error(const struct conf *c, const struct conf_node *at, struct err *e, const char *problem)
{
    char path[200];
    path_of(c, at, path, sizeof(path));
    return conf_error(c, at, e, "%s%s%s", path, path[0] ? ": " : "", problem);
}

/* ---- values ---- */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit byte_units[] = {{"", 1},
                                         {"B", 1},
                                         {"KiB", 1024u},
                                         {"MiB", 1024u * 1024},
                                         {"GiB", 1024u * 1024 * 1024},
                                         {"TiB", (uint64_t)1 << 40},
                                         {"kB", 1000},
                                         {"KB", 1000},
                                         {"MB", 1000000},
                                         {"GB", 1000000000},
                                         {"TB", 1000000000000}};
static const struct unit time_units[] = {{"us", 1},       {"ms", 1000},      {"s", 1000000},
                                         {"m", 60000000}, {"h", 3600000000}, {"d", 86400000000}};

static bool parse_units(struct str s, const struct unit *units, size_t n, uint64_t *out)
{
    size_t digits = 0;
    uint64_t v;
    while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9') {
        digits++;
    }
    if (!str_u64((struct str){s.p, digits}, &v)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (str_is((struct str){s.p + digits, s.n - digits}, units[i].name)) {
            return ck_mul(v, units[i].factor, out);
        }
    }
    return false;
}

bool parse_bytes(struct str s, uint64_t *out)
{
    return parse_units(s, byte_units, COUNT_OF(byte_units), out);
}

bool parse_duration(struct str s, uint64_t *us)
{
    if (str_is(s, "0")) {
        *us = 0;
        return true;
    }
    return parse_units(s, time_units, COUNT_OF(time_units), us);
}

bool parse_share(struct str s, uint64_t *bp)
{
    if (s.n < 2 || s.p[s.n - 1] != '%') {
        return false;
    }
    struct str number = {s.p, s.n - 1};
    const char *dot = memchr(number.p, '.', number.n);
    uint64_t whole;
    uint64_t part = 0;
    if (dot) {
        struct str after = {dot + 1, (size_t)(number.p + number.n - dot - 1)};
        if (after.n > 2 || !str_u64(after, &part)) {
            return false;
        }
        part *= after.n == 1 ? 10 : 1;
        number.n = (size_t)(dot - number.p);
    }
    return str_u64(number, &whole) && ck_mul(whole, 100, &whole) && ck_add(whole, part, bp);
}

/* A bound in the row's own unit. */
static void value_text(enum setting_type type, uint64_t v, char out[40])
{
    const struct unit *units = type == SET_BYTES ? byte_units : time_units;
    size_t n = type == SET_BYTES ? 6 : COUNT_OF(time_units); /* powers of 1,024 only */
    const struct unit *best = &units[0];
    if (type == SET_SHARE) {
        if (v % 100 == 0) {
            snprintf(out, 40, "%llu%%", (unsigned long long)(v / 100));
        } else {
            snprintf(out, 40, "%llu.%02llu%%", (unsigned long long)(v / 100), (unsigned long long)(v % 100));
        }
        return;
    }
    if (type != SET_BYTES && type != SET_DURATION) {
        snprintf(out, 40, "%llu", (unsigned long long)v);
        return;
    }
    for (size_t i = 0; i < n && v != 0; i++) {
        if (units[i].factor >= best->factor && v % units[i].factor == 0) {
            best = &units[i];
        }
    }
    snprintf(out, 40, "%llu%s", (unsigned long long)(v / best->factor), best->name);
}

struct value {
    uint64_t number; /* of BOOL and ENUM too */
    const char *text;
};

static void words_join(const char *const *words, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; words[i] && n < cap; i++) {
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i == 0 ? "" : words[i + 1] ? ", " : " or ", words[i]);
    }
}

static bool range_check(const struct setting *row, const char *text, uint64_t v, char *problem)
{
    /* No maximum said: none, but a share is a part of a whole. */
    uint64_t max = row->max ? row->max : row->type == SET_SHARE ? 10000 : UINT64_MAX;
    if (v >= row->min && v <= max) {
        return true;
    }
    char bound[40];
    value_text(row->type, v < row->min ? row->min : max, bound);
    const char *is = v < row->min ? "below the least" : "above the most";
    if (row->type == SET_STRING) {
        snprintf(problem, PROBLEM, "'%.80s' has %llu characters, %s, %s", text, (unsigned long long)v, is, bound);
    } else {
        snprintf(problem, PROBLEM, "%.80s is %s, %s", text, is, bound);
    }
    return false;
}

static bool bool_parse(const char *text, uint64_t *out)
{
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes"};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (str_eq_nocase(str_of(text), str_of(words[i]))) {
            *out = i & 1;
            return true;
        }
    }
    return false;
}

/* Text to value with the row's checks; false fills problem (PROBLEM bytes). */
static bool value_parse(const struct setting *row, const char *text, struct value *out, char *problem)
{
    struct str s = str_of(text);
    const char *want = NULL;
    char words[PROBLEM / 2];
    *out = (struct value){.text = text};
    switch (row->type) {
    case SET_BOOL:
        want = bool_parse(text, &out->number) ? NULL : "on or off";
        break;
    case SET_U64:
        want = str_u64(s, &out->number) ? NULL : "a whole number";
        break;
    case SET_BYTES:
        want = parse_bytes(s, &out->number) ? NULL : "a size such as 512, 64KiB or 10MB";
        break;
    case SET_DURATION:
        want = parse_duration(s, &out->number) ? NULL : "a time such as 50ms, 30s, 5m or 1h";
        break;
    case SET_SHARE:
        want = parse_share(s, &out->number) ? NULL : "a share such as 5% or 12.25%";
        break;
    case SET_STRING:
        out->number = s.n;
        break;
    case SET_ENUM:
        for (out->number = 0; row->words[out->number]; out->number++) {
            if (strcmp(row->words[out->number], text) == 0) {
                return true;
            }
        }
        words_join(row->words, words, sizeof(words));
        want = words;
        break;
    }
    if (want) {
        snprintf(problem, PROBLEM, "'%.80s' is not %s", text, want);
        return false;
    }
    return row->type == SET_BOOL || range_check(row, text, out->number, problem);
}

static void value_store(const struct setting *row, const struct value *v, void *into)
{
    char *field = (char *)into + row->offset;
    bool flag = v->number != 0;
    int word = (int)v->number;
    char *copy;
    switch (row->type) {
    case SET_BOOL:
        memcpy(field, &flag, sizeof(flag));
        break;
    case SET_ENUM:
        memcpy(field, &word, sizeof(word));
        break;
    case SET_STRING:
        copy = v->text ? xstrdup(v->text) : NULL;
        free(*(char **)(void *)field);
        memcpy(field, &copy, sizeof(copy));
        break;
    default:
        memcpy(field, &v->number, sizeof(v->number));
        break;
    }
}

void settings_defaults(const struct setting *table, size_t n, void *into)
{
    for (size_t i = 0; i < n; i++) {
        const struct setting *row = &table[i];
        struct value v = {0};
        char problem[PROBLEM];
        bool ok = !row->preset || value_parse(row, row->preset, &v, problem);
        assert(ok && "a preset that its own row refuses");
        if (row->type == SET_STRING) {
            char *none = NULL; /* the struct is fresh: there is nothing to free */
            memcpy((char *)into + row->offset, &none, sizeof(none));
        }
        value_store(row, &v, into);
    }
}

void settings_done(const struct setting *table, size_t n, void *into)
{
    for (size_t i = 0; i < n; i++) {
        if (table[i].type == SET_STRING) {
            value_store(&table[i], &(struct value){0}, into);
        }
    }
}

/* ---- a map into a struct ---- */

enum { KEY_MOST = 64 };

/* Edit distance (insert, delete, change), 99 for anything long. */
static unsigned distance(const char *a, const char *b)
{
    size_t an = strlen(a);
    size_t bn = strlen(b);
    unsigned row[KEY_MOST + 1];
    if (an > KEY_MOST || bn > KEY_MOST) {
        return 99;
    }
    for (unsigned j = 0; j <= bn; j++) {
        row[j] = j;
    }
    for (unsigned i = 1; i <= an; i++) {
        unsigned corner = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= bn; j++) {
            unsigned change = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[bn];
}

static const struct setting *row_find(const struct setting *table, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(table[i].name, key) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static bool listed(const char *const *words, const char *key)
{
    for (; words && *words; words++) {
        if (strcmp(*words, key) == 0) {
            return true;
        }
    }
    return false;
}

/* The known key that was probably meant, or NULL. */
static const char *key_near(const struct setting *table, size_t n, const char *const *except, const char *key)
{
    const char *best = NULL;
    unsigned least = 3;
    for (size_t i = 0; i < n; i++) {
        unsigned d = distance(table[i].name, key);
        best = d < least ? table[i].name : best;
        least = MIN(d, least);
    }
    for (; except && *except; except++) {
        unsigned d = distance(*except, key);
        best = d < least ? *except : best;
        least = MIN(d, least);
    }
    return best;
}

/* Rows named "key.inner" are the values of a map under `key`. */
static bool has_inner(const struct setting *table, size_t n, const char *key)
{
    size_t len = strlen(key);

    for (size_t i = 0; i < n; i++) {
        if (strncmp(table[i].name, key, len) == 0 && table[i].name[len] == '.') {
            return true;
        }
    }
    return false;
}

struct reading { /* of a map into a struct */
    const struct setting *table;
    size_t n;
    const struct conf *c;
    const char *const *except;
    void *into; /* NULL: only look whether it can be read */
    struct err *e;
};

static enum err_code unknown_key(const struct reading *r, const struct conf_node *node, const char *name)
{
    const char *near = key_near(r->table, r->n, r->except, name);
    char problem[PROBLEM];

    snprintf(problem, sizeof(problem), near ? "unknown key; did you mean '%s'?" : "unknown key", near);
    return setting_error(r->c, node, r->e, problem);
}

static enum err_code read_map(const struct reading *r, const struct conf_node *map, const char *prefix);

static enum err_code read_node(const struct reading *r, const struct conf_node *node, const char *prefix)
{
    char name[2 * KEY_MOST], problem[PROBLEM];
    const struct setting *row;
    struct value v;

    snprintf(name, sizeof(name), "%s%.*s", prefix, KEY_MOST, node->key);
    row = row_find(r->table, r->n, name);
    if (!row && !prefix[0] && listed(r->except, node->key)) {
        return ERR_OK;
    }
    if (!row && has_inner(r->table, r->n, name)) {
        snprintf(name, sizeof(name), "%s%.*s.", prefix, KEY_MOST, node->key);
        return read_map(r, node, name);
    }
    if (!row) {
        return unknown_key(r, node, name);
    }
    if (node->kind != CONF_SCALAR) {
        return setting_error(r->c, node, r->e, "one value is wanted here, not a list or a map");
    }
    if (node_is_null(node)) {
        return setting_error(r->c, node, r->e, "a value is missing; leave the key out for the default");
    }
    if (!value_parse(row, node->text, &v, problem)) {
        return setting_error(r->c, node, r->e, problem);
    }
    if (r->into) {
        value_store(row, &v, r->into);
    }
    return ERR_OK;
}

static enum err_code read_map(const struct reading *r, const struct conf_node *map, const char *prefix)
{
    if (node_is_null(map)) {
        return ERR_OK;
    }
    if (map->kind != CONF_MAP) {
        return setting_error(r->c, map, r->e, "'key: value' lines are wanted here");
    }
    for (const struct conf_node *node = map->child; node; node = node->next) {
        enum err_code code = read_node(r, node, prefix);

        if (code != ERR_OK) {
            return code;
        }
    }
    return ERR_OK;
}

enum err_code settings_read(const struct setting *table, size_t n, const struct conf *c, const struct conf_node *map,
                            const char *const *except, void *into, struct err *e)
{
    struct reading r = {table, n, c, except, NULL, e};
    enum err_code code = map ? read_map(&r, map, "") : ERR_OK;

    r.into = into;
    return code == ERR_OK && map ? read_map(&r, map, "") : code;
}

void setting_text(const struct setting *row, const void *from, struct buf *out)
{
    const char *field = (const char *)from + row->offset;
    char text[40];
    uint64_t number;
    int word;
    bool flag;

    switch (row->type) {
    case SET_BOOL:
        memcpy(&flag, field, sizeof(flag));
        buf_addz(out, flag ? "on" : "off");
        break;
    case SET_ENUM:
        memcpy(&word, field, sizeof(word));
        buf_addz(out, row->words[word]);
        break;
    case SET_STRING:
        buf_addz(out, *(char *const *)(const void *)field ? *(char *const *)(const void *)field : "");
        break;
    case SET_U64:
        memcpy(&number, field, sizeof(number));
        buf_addu(out, number);
        break;
    case SET_BYTES:
    case SET_DURATION:
    case SET_SHARE:
        memcpy(&number, field, sizeof(number));
        value_text(row->type, number, text);
        buf_addz(out, text);
        break;
    }
}

enum err_code settings_set(const struct setting *row, const char *text, void *into, const char *what, struct err *e)
{
    struct value v;
    char problem[PROBLEM];
    if (!value_parse(row, text, &v, problem)) {
        return err_set(e, ERR_INVALID, "%s: %s", what, problem);
    }
    value_store(row, &v, into);
    return ERR_OK;
}
