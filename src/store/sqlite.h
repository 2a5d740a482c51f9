/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that speak to SQLite share: the statements, and what is done with each of them.
 *
 * Thread: the store thread. */
#ifndef WEIR_STORE_SQLITE_H
#define WEIR_STORE_SQLITE_H

#include <sqlite3.h>

#include "store/store_priv.h"

/* The texts are in sqlite.c, and say which parameter is what. */
enum statement {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_PUT_MODEL,
    SQL_ADD_VERSION,
    SQL_PUT_ROLLOUT,
    SQL_PUT_PROGRESS,
    SQL_PUT_HOLD,
    SQL_LIFT_HOLD,
    SQL_PUT_SHADOW,
    SQL_DROP_SHADOW,
    SQL_PUT_PLACE,
    SQL_DROP_PLACE,
    SQL_ADD_HISTORY,
    SQL_PUT_COST,
    SQL_MODELS,
    SQL_VERSIONS,
    SQL_ROLLOUTS,
    SQL_COSTS,
    SQL_HOLDS,
    SQL_SHADOWS,
    SQL_PLACES,
    SQL_SEQ,
    SQL_HISTORY,
    SQL_HISTORY_OF,
    SQL_HISTORY_AFTER,
    SQL_HISTORY_AFTER_OF,
    SQL_SERVING_AT,
    SQL_DIGEST,
    SQL_COUNT,
};
_Static_assert(SQL_COUNT <= STORE_STATEMENTS, "struct store has too little room for the statements");

/* From the connection's last error; doing: "register version 3 of intent". */
enum err_code db_fail(struct store *s, struct err *e, const char *doing);
/* NULL binds NULL. The text must live until the statement has run. */
void db_bind_text(sqlite3_stmt *st, int at, const char *text);
/* Runs one that gives no rows, and forgets what was bound. */
bool db_run(struct store *s, enum statement which);
/* After something became durable: moves the log into the database when it has grown long. */
void db_checkpoint(struct store *s);

#endif
