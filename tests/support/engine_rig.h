/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of the engine's contract: opens an engine at a place, attaches ports on the test's loop or on threads
 * of their own, submits jobs whose answers it knows (the models of fake_engine.h), and aborts the test when it is told
 * something that the contract does not allow: an event too many, one from inside a call, one after the last.
 *
 * Thread: the test's; what has to happen on a port's own thread goes through eng_at. */
#ifndef WEIR_TESTS_SUPPORT_ENGINE_RIG_H
#define WEIR_TESTS_SUPPORT_ENGINE_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "inference/engine.h"

#define ENG_PORTS_MAX 4
#define ENG_JOBS_MAX 3000
#define ENG_PART (8ull << 20)
#define ENG_OUT_BYTES (1ull << 20)

struct place {
    const char *name;
    const struct engine_ops *ops;
    const char *backend;
    bool shared;  /* the input window goes to another process */
    bool process; /* there is one to kill */
    bool stub;    /* it may die while its host lives */
    bool far;     /* it is another server (far_server.h) */
    bool on_thread;
    bool real;            /* it reads a model's file */
    uint64_t delay_us;    /* of the batch rule */
    unsigned threads_max; /* > 0: threads are left open, up to that */
};

struct engine_rig;
struct one { /* a job */
    uint64_t block;
    float value;
    int64_t rows, width;
    int want; /* -1: all outputs; else this one alone */
    bool spin;
    /* what came */
    unsigned n_done;
    struct err err;
    bool lost, own, alone, started, right;
    uint32_t joined;
};
struct seat {
    struct engine_rig *c;
    unsigned index;
    struct loop *loop;
    pthread_t thread;
    struct port *port;
    _Atomic bool detached;
    uint64_t deadline_us; /* of the jobs that are submitted from now on; 0: none */
    bool down, inside;    /* inside: a call of the engine that must not bring events */
    struct one jobs[ENG_JOBS_MAX];
    unsigned n;
    _Atomic unsigned n_done;
    unsigned open;
    uint8_t *space;
    uint64_t space_used;
};
struct engine_rig {
    const struct place *place;
    struct loop *loop;
    struct window *in;
    struct engine *g;
    unsigned ports;
    bool threads, inside;
    unsigned ready, gone;
    struct model_info info;
    struct engine_end end;
    int dirfd;
    struct seat seat[ENG_PORTS_MAX];
};

/* Goes on with the control loop until cond is true; aborts the test after 40 s. */
#define UNTIL(c, cond)                              \
    do {                                            \
        uint64_t until_ = eng_limit();              \
        while (!(cond)) {                           \
            eng_turn((c), until_, #cond, __LINE__); \
        }                                           \
    } while (0)
uint64_t eng_limit(void);
void eng_turn(struct engine_rig *c, uint64_t until, const char *what, int line);
void eng_turns(struct engine_rig *c, unsigned ms); /* goes on for a while */
const char *eng_folder(const char *name);          /* "build/models/add" for "add/1"; static */

struct engine_rig *eng_begin_with(const struct place *place, const char *name, const char *backend, unsigned ports,
                                  bool threads);
struct engine_rig *eng_begin(const struct place *place, const char *name, unsigned ports,
                             bool threads); /* opens; nothing was heard yet */
void eng_attach_all(struct engine_rig *c);  /* once it is ready, which must come */
struct engine_rig *eng_open(const struct place *place, const char *name, unsigned ports, bool threads); /* both */
void eng_close(struct engine_rig *c); /* detaches, closes and frees; the engine must say that all was well */
void eng_done(struct engine_rig *c);  /* waits for gone; every job must have come back once; frees */

/* Runs fn(s, arg) on the port's thread and waits for it. The three below are such functions. */
void eng_at(struct seat *s, void (*fn)(struct seat *s, void *arg), void *arg);
void eng_attach(struct seat *s, void *arg);
void eng_detach(struct seat *s, void *arg);
void eng_flush(struct seat *s, void *arg);

/* On the port's thread. want: -1 for all outputs. trips > 0: a job of spin. */
enum err_code eng_try(struct seat *s, float value, int64_t rows, int64_t width, int want, uint32_t flags, int64_t trips,
                      struct err *e);
void eng_submit(struct seat *s, float value, int64_t rows); /* of add; must be taken */
void eng_spin(struct seat *s, float value, int64_t trips);
void eng_all_back(struct engine_rig *c); /* waits for the answers of all that was submitted */
void eng_all_right(const struct seat *s);

#endif
