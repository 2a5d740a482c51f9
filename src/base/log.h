/* SPDX-License-Identifier: Apache-2.0 */
/* The log: lines handed to one writer thread through a bounded ring.
 *
 * A caller formats into a slot and goes on; it never waits for the disk or the terminal. When the ring is full the line
 * is dropped and counted, and the writer says how many were lost. On a terminal lines are readable ("21:40:31 INFO text
 * key=value"); elsewhere each is one JSON object. Before log_start and after log_stop lines go straight to stderr.
 * Control characters in values are escaped, so a line is a line.
 *
 * Thread: any. */
#ifndef WEIR_BASE_LOG_H
#define WEIR_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* level: lines below it are dropped at the call. fd: where to write (not closed by us). */
void log_start(int fd, enum log_level level);
/* From here on lines outside of log_start … log_stop are "WARN  text": of a process whose stderr goes into another
 * one's log. */
void log_plain(void);
void log_stop(void); /* writes what is in the ring, ends the thread */
void log_set_level(enum log_level level);
/* True if lines of that level are kept: to spare the making of values that only a line needs. */
bool log_wants(enum log_level level);
/* One sentence, then optional "key=value" pairs made by the caller's format: log_line(LOG_INFO, "control", "version
 * ready model=%s version=%d", …). room: the part of the house that speaks. At most 1,000 bytes are kept. */
void log_line(enum log_level level, const char *room, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_debug(room, ...) log_line(LOG_DEBUG, room, __VA_ARGS__)
#define log_info(room, ...) log_line(LOG_INFO, room, __VA_ARGS__)
#define log_warn(room, ...) log_line(LOG_WARN, room, __VA_ARGS__)
#define log_error(room, ...) log_line(LOG_ERROR, room, __VA_ARGS__)

#endif
