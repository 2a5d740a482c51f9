/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker process writes to its standard output and error: a pipe into our log, bounded on every side.
 *
 * Whole lines are forwarded, at most SAID_LINES a second, the rest is counted; the last SAID_KEPT bytes are kept for
 * the message of the worker's end, less what our own code in it reports ("INFO  …"). At most SAID_BURST bytes are read
 * in a tenth of a second: who writes more is slowed down by the pipe, and costs nobody else anything. Control
 * characters become '?', long lines are cut.
 *
 * Thread: control; said_drain and said_last by any thread. */
#ifndef WEIR_BACKENDS_WORKER_SAID_H
#define WEIR_BACKENDS_WORKER_SAID_H

#include <pthread.h>
#include <sys/types.h>

#include "net/loop.h"

#define SAID_KEPT 4096
#define SAID_LINE 400
#define SAID_LINES 50
#define SAID_BURST (64u << 10)

struct said {
    struct loop *loop;
    const char *name;
    pid_t pid;
    int fd; /* the end that we read; -1: none */
    struct watch watch;
    struct timer rest;
    uint64_t burst_us;    /* when the tenth of a second began */
    size_t burst;         /* bytes read in it */
    pthread_mutex_t lock; /* of what follows */
    char line[SAID_LINE]; /* the one that is not whole yet */
    size_t n_line;
    char kept[SAID_KEPT]; /* whole lines, each with its '\n', the oldest first */
    size_t n_kept;
    uint64_t second_us; /* when the second began */
    unsigned lines;     /* forwarded in it */
    uint64_t dropped;   /* and not told yet */
};

void said_init(struct said *s);
/* *child_end: what the process gets as its descriptors 1 and 2; the caller closes it after the start. name lives longer
 * than s. */
enum err_code said_open(struct said *s, struct loop *loop, const char *name, int *child_end, struct err *e) MUST_USE;
void said_begin(struct said *s, pid_t pid); /* forwards from here on */
/* Reads what is in the pipe of a process that has ended. */
void said_drain(struct said *s);
/* The last lines that fit, "first | second", printable; returns the length, 0 when it wrote nothing. */
size_t said_last(struct said *s, char *out, size_t cap);
void said_close(struct said *s);

#endif
