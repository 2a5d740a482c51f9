/* SPDX-License-Identifier: Apache-2.0 */
/* Composing text for people. Widths are counted in characters of UTF-8, not in bytes. */
#include "cli/show.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

void show_count(struct buf *out, uint64_t n)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) {
            buf_addc(out, ',');
        }
        buf_addc(out, digits[i]);
    }
}

void show_bytes(struct buf *out, uint64_t n)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double v = (double)n;
    size_t i = 0;
    while (v >= 999.95 && i + 1 < COUNT_OF(units)) {
        v /= 1000;
        i++;
    }
    if (i == 0) {
        buf_addf(out, "%" PRIu64 " B", n);
    } else {
        buf_addf(out, "%.1f %s", v, units[i]);
    }
}

void show_ms(struct buf *out, double ms)
{
    if (isnan(ms)) {
        BUF_LIT(out, "-");
    } else if (ms < 9.9995) {
        buf_addf(out, "%.3f", ms);
    } else if (ms < 999.95) {
        buf_addf(out, "%.1f", ms);
    } else {
        show_count(out, (uint64_t)(ms + 0.5));
    }
}

void show_percent(struct buf *out, double share)
{
    if (isnan(share)) {
        BUF_LIT(out, "-");
    } else {
        buf_addf(out, "%.2f %%", share * 100);
    }
}

void show_share(struct buf *out, uint64_t basis_points)
{
    uint64_t rest = basis_points % 100;
    buf_addu(out, basis_points / 100);
    if (rest) {
        buf_addf(out, ".%02" PRIu64, rest);
        if (rest % 10 == 0) {
            out->n--;
        }
    }
    BUF_LIT(out, " %");
}

void show_ratio(struct buf *out, double v)
{
    if (isnan(v)) {
        BUF_LIT(out, "-");
    } else {
        buf_addf(out, "%.3f", v);
    }
}

void show_text(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool c1 = c == 0xc2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xa0; /* U+0080 … U+009F */
        buf_addc(out, c < ' ' || c == 0x7f || c1 ? '?' : (char)c);
        i += c1;
    }
}

void show_textz(struct buf *out, const char *z)
{
    show_text(out, str_of(z ? z : "-"));
}

void show_brief(struct buf *out, uint64_t n)
{
    static const char units[] = "kMGTPE";
    double v = (double)n;
    size_t i = 0;
    if (n < 10000) {
        show_count(out, n);
        return;
    }
    for (v /= 1000; v >= 999.95 && units[i + 1]; i++) {
        v /= 1000;
    }
    buf_addf(out, "%.1f%c", v, units[i]);
}

void show_when(struct buf *out, const char *z)
{
    size_t n = z ? strlen(z) : 0;
    if (n < 20 || z[10] != 'T' || z[n - 1] != 'Z') {
        show_textz(out, z);
        return;
    }
    show_text(out, (struct str){z, 10});
    BUF_LIT(out, " ");
    show_text(out, (struct str){z + 11, 8});
    BUF_LIT(out, " UTC");
}

/* ---- lines ---- */

static size_t text_width(const char *p, size_t n)
{
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        w += ((unsigned char)p[i] & 0xc0) != 0x80;
    }
    return w;
}

static void pad(struct buf *out, size_t n)
{
    while (n-- > 0) {
        buf_addc(out, ' ');
    }
}

void show_wrapped(struct buf *out, const char *z, size_t indent, size_t width)
{
    size_t at = indent;
    for (bool first = true; *z; first = false) {
        size_t n = strcspn(z, " "), w = text_width(z, n);
        if (!first && at + 1 + w > width) {
            buf_addc(out, '\n');
            pad(out, indent);
            at = indent;
        } else if (!first) {
            buf_addc(out, ' ');
            at++;
        }
        show_text(out, (struct str){z, n});
        at += w;
        z += n;
        z += strspn(z, " ");
    }
}

void show_column(struct buf *out, size_t line, size_t column)
{
    size_t w = 0;
    for (size_t i = line; i < out->n; i++) {
        if (out->p[i] == '\033') { /* a colour takes no room */
            while (i < out->n && out->p[i] != 'm') {
                i++;
            }
            continue;
        }
        w += ((unsigned char)out->p[i] & 0xc0) != 0x80;
    }
    pad(out, w < column ? column - w : 1);
}

void show_paint(struct buf *out, bool on, enum paint p)
{
    static const char *const codes[] = {"\033[0m", "\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[7m"};
    if (on) {
        buf_addz(out, codes[p]);
    }
}

/* ---- tables ---- */

void table_init(struct table *t, size_t columns)
{
    assert(columns > 0 && columns <= TABLE_COLUMNS);
    memset(t, 0, sizeof *t);
    buf_init(&t->text, 64u << 20);
    t->columns = columns;
}

void table_done(struct table *t)
{
    buf_done(&t->text);
}

void table_cell(struct table *t)
{
    buf_addc(&t->text, 0);
    t->cells++;
}

void table_put(struct table *t, const char *z)
{
    show_textz(&t->text, z);
    table_cell(t);
}

void table_show(struct buf *out, const struct table *t, bool heading, bool colour)
{
    size_t wide[TABLE_COLUMNS] = {0};
    const char *p = t->text.p;
    if (t->text.over || !p) {
        return;
    }
    for (size_t i = 0; i < t->cells; i++, p += strlen(p) + 1) {
        wide[i % t->columns] = MAX(wide[i % t->columns], text_width(p, strlen(p)));
    }
    p = t->text.p;
    for (size_t i = 0; i < t->cells; i++, p += strlen(p) + 1) {
        size_t column = i % t->columns, space = wide[column] - text_width(p, strlen(p));
        bool last = column + 1 == t->columns;
        bool bold = heading && i < t->columns;
        if (column == 0 && t->indent) {
            pad(out, 2);
        }
        if (t->right[column]) {
            pad(out, space);
        }
        show_paint(out, colour && bold, PAINT_BOLD);
        buf_addz(out, p);
        show_paint(out, colour && bold, PAINT_PLAIN);
        if (!t->right[column] && !last) {
            pad(out, space);
        }
        buf_addz(out, last ? "" : "  ");
        if (last) {
            while (out->n > 0 && out->p[out->n - 1] == ' ') {
                out->n--;
            }
            buf_addc(out, '\n');
        }
    }
}

/* ---- JSON ---- */

const char *get_text(yyjson_val *o, const char *key)
{
    return yyjson_get_str(yyjson_obj_get(o, key));
}

uint64_t get_count(yyjson_val *o, const char *key)
{
    yyjson_val *v = yyjson_obj_get(o, key);
    return yyjson_is_uint(v) ? yyjson_get_uint(v) : 0;
}

double get_number(yyjson_val *o, const char *key)
{
    yyjson_val *v = yyjson_obj_get(o, key);
    return yyjson_is_num(v) ? yyjson_get_num(v) : NAN;
}

bool get_flag(yyjson_val *o, const char *key)
{
    return yyjson_is_true(yyjson_obj_get(o, key));
}
