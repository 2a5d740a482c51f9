/* SPDX-License-Identifier: Apache-2.0 */
/* How things look on a terminal: tables, numbers with units, colours, and reading a server's JSON without surprises.
 *
 * Everything is composed into a struct buf, so it can be tested and printed at once. Texts that came from a server or a
 * model are cleaned of control characters: a class label must not move the cursor.
 *
 * Thread: any; pure functions. */
#ifndef WEIR_CLI_SHOW_H
#define WEIR_CLI_SHOW_H

#include <yyjson.h>

#include "base/base.h"
#include "base/buf.h"

/* ---- numbers ---- */
void show_count(struct buf *out, uint64_t n);            /* 12,345 */
void show_bytes(struct buf *out, uint64_t n);            /* 1.2 MB, 512 B (powers of 1,000) */
void show_ms(struct buf *out, double ms);                /* 0.412, 12.3, 1,204; "-" for NaN */
void show_percent(struct buf *out, double share);        /* .0512 -> 5.12 %; "-" for NaN */
void show_share(struct buf *out, uint64_t basis_points); /* 500 -> 5 %, 25 -> 0.25 % */
void show_ratio(struct buf *out, double v);              /* three decimals; "-" for NaN */
void show_text(struct buf *out, struct str s);           /* control characters become '?' */
void show_textz(struct buf *out, const char *z);         /* the same; NULL is "-" */
void show_brief(struct buf *out, uint64_t n);            /* 9,999; 12.3k; 4.5M */
void show_when(struct buf *out, const char *rfc3339);    /* 2026-11-23 21:40:31 UTC; else as it is */
/* The words of a text, broken so that no line is longer than `width`; the lines after the first begin with `indent`
 * blanks, and the first is taken to begin at that column. */
void show_wrapped(struct buf *out, const char *z, size_t indent, size_t width);
/* Blanks up to a column of the line that begins at `line` in out; at least one where it is passed already. */
void show_column(struct buf *out, size_t line, size_t column);

/* ---- colours: empty strings unless on ---- */
enum paint { PAINT_PLAIN, PAINT_BOLD, PAINT_GOOD, PAINT_BAD, PAINT_FAINT, PAINT_CHIP };
void show_paint(struct buf *out, bool on, enum paint p);

/* ---- tables ---- */
#define TABLE_COLUMNS 16
struct table {
    struct buf text; /* cells, each ended by a NUL */
    size_t columns, cells;
    bool right[TABLE_COLUMNS]; /* aligned to the right */
    bool indent;               /* two blanks before each row */
};
void table_init(struct table *t, size_t columns);
void table_done(struct table *t);
/* The buffer to write the next cell to; table_cell ends it. Cells fill row by row. */
void table_cell(struct table *t);
void table_put(struct table *t, const char *z);
/* Appends the table; the first row is a heading (bold) when heading is true. Columns are as wide as their widest cell.
 */
void table_show(struct buf *out, const struct table *t, bool heading, bool colour);

/* ---- a server's JSON ---- */
const char *get_text(yyjson_val *o, const char *key); /* NULL unless a string */
uint64_t get_count(yyjson_val *o, const char *key);   /* 0 unless a whole number */
double get_number(yyjson_val *o, const char *key);    /* NaN unless a number */
bool get_flag(yyjson_val *o, const char *key);        /* false unless true */

#endif
