/* SPDX-License-Identifier: Apache-2.0 */
/* Changing one value of a configuration file as a person would: that value is written, and every other byte, comments,
 * blanks and order included, stays.
 *
 * A key that is missing is added to the innermost map of the path that is there: at the end of one in block style, at
 * the beginning of one in flow style. What comes out is read again, and must say what was there before, and the new
 * value; else it is refused, and nothing comes out.
 *
 * Thread: any. */
#ifndef WEIR_BASE_CONF_EDIT_H
#define WEIR_BASE_CONF_EDIT_H

#include "base/buf.h"
#include "base/err.h"

#define CONF_EDIT_DEPTH 4

/* path: 1 … CONF_EDIT_DEPTH keys, NULL-terminated: {"families", "vision", "place", NULL}. name: of the file, for
 * messages. Appends the whole text to out. ERR_INVALID: the file is not what conf_read_text takes, the path leads
 * through something that is no map, or to something that is no single value, or the text can not be changed safely. */
enum err_code conf_edit(struct buf *out, const char *name, struct str text, const char *const *path, const char *value,
                        struct err *e) MUST_USE;

/* A text as a value or a key, quoted where it must be. */
void conf_put(struct buf *out, const char *text);

#endif
