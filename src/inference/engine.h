/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: the one boundary everything hangs on. Down: open, close, attach, detach, submit, flush, cancel. Up:
 * ready, done, gone (and part, for engines that stream). Nothing waits, everything may fail, and tensors are named by
 * offset into a window, never by pointer, so that the same contract holds in the server's process, in a worker process
 * and on another host.
 *
 * An engine serves one version. It is opened on the control loop; each thread that submits attaches a port of its own
 * and uses it alone. Jobs of a port come back through its events, exactly one done() each.
 *
 *     control thread:  open → ready(info) … gone(why) ← close, or the engine's own end; gone is the last event
 *     port's thread:   attach → (submit* flush)* → done* … detach (when no job is open, and not from inside done())
 *
 * A library engine (onnx) computes inside flush(), what was submitted since the last one as few batches as fit, and
 * calls done() from there. A stub (worker, remote) rings the bell in flush(); its done() comes later from the port's
 * loop. No event ever comes from inside open, submit, cancel or close.
 *
 * When an engine dies, each port first gives out what was finished, then done(ERR_UNAVAILABLE, lost = true) for every
 * open job, then down(); its host detaches and may submit these jobs elsewhere: the bytes in the window have not moved.
 * gone() follows when the last port is detached. */
#ifndef WEIR_INFERENCE_ENGINE_H
#define WEIR_INFERENCE_ENGINE_H

#include "base/base.h"
#include "inference/batcher.h"
#include "inference/tensor.h"
#include "inference/window.h"
#include "net/loop.h"

#define ENGINE_VERSION 1

struct engine {
    const struct engine_ops *ops; /* first member of every kind */
};
struct port {
    const struct engine_ops *ops;
    struct engine *engine;
    int pid; /* of the process that runs its jobs; 0: there is none of its own */
    const char
        *peer; /* address of the other server that gets them, "vision:8000"; valid until detach; NULL: none does */
};

/* The version as another server has it (places http:// and weir://). */
struct far_place {
    const char *url;        /* "http://triton:8000" */
    const char *model;      /* its name there */
    const char *version;    /* there; "": none is named */
    const char *digest;     /* weir://: of the artifact, by which the other side finds its own number for it */
    const char *token_file; /* weir://: of the other side's admin token; NULL: it has none */
};

/* What to open. Everything pointed at stays valid until gone(). */
struct engine_spec {
    const char *name;    /* model and version, for messages: "intent/2" */
    const char *backend; /* "onnx" */
    int dirfd;           /* the version's folder; the engine dups what it keeps */
    const char *library; /* the runtime's shared library, or NULL: looked for */
    const char *program; /* what worker processes run (looked up in $PATH without a '/'); NULL: this one (stubs) */
    unsigned ports;      /* how many will be attached at most */
    const char *device;  /* "cpu", "cuda:0"; NULL: cpu. An engine that can not use it fails to load and says why */
    unsigned threads;    /* intra-op threads a run; 0: measured, at most threads_max */
    unsigned threads_max;
    struct batch_rule batch;
    uint64_t run_max_us;         /* refuse a model whose warm run takes longer (inline); 0: no limit */
    struct window *in;           /* where the jobs' inputs lie; only read by the engine */
    uint64_t out_bytes;          /* size of a port's output space (stubs) */
    uint64_t memory_max;         /* bytes of memory of its own that the process may take (stubs); 0: no limit */
    const struct far_place *far; /* NULL: it is here */
    bool strict;                 /* the sandbox must have all its walls, or the load fails (stubs) */
};

struct engine_end {
    struct err err; /* ERR_OK: closed on request */
    bool own; /* its own death: a signal it raised, an abort, a non-zero exit, its limits, a hang, a load that failed */
    bool loading; /* it ended before it was ready */
};
struct engine_events {                                                         /* on the control loop */
    void (*ready)(void *ctx, struct engine *g, const struct model_info *info); /* info: valid during the call */
    void (*gone)(void *ctx, struct engine *g, const struct engine_end *why); /* the engine is freed after it returns */
};
struct engine_host {
    struct loop *loop;
    const struct engine_events *on;
    void *ctx;
};

/* Whose request a job is: for engines that hand it on to another server, which they tell by X-Request-Id, traceparent
 * and tracestate. */
struct job_origin {
    struct str id;           /* of the request: printable, at most 128 characters */
    const char *traceparent; /* this server's span, base/traceparent.h: the parent of the other server's */
    struct str tracestate;   /* n == 0: none */
};

#define JOB_SOLO 1u /* run alone: in no batch with others */
struct job {
    uint64_t id;          /* the host's; unique among the port's open jobs */
    uint64_t deadline_us; /* clock_us() of this machine; UINT64_MAX: none */
    uint64_t submit_us;   /* clock_us() when its request was queued: latency counts from here; 0: not said */
    uint64_t block;       /* offset of its struct job_block in the input window */
    uint32_t flags;
    const struct job_origin *origin; /* valid during submit(): what is kept is copied; NULL: nobody waits for it */
};

struct job_result {
    struct err err; /* ERR_OK, or why it failed */
    bool lost;      /* the engine died with it; it may be submitted elsewhere */
    bool alone;     /* lost: nothing else was being run with it */
    bool own;       /* lost: by the engine's own death (see engine_end) */
    bool started;   /* lost: it was being run, not waiting */
    uint32_t n_out;
    const struct tensor *out; /* checked: off and len lie within `size`, dtype and shape agree with len */
    const uint8_t *base;      /* what off counts from */
    uint64_t size;
    uint64_t wait_ns, compute_ns; /* within the engine: before its run, in its run */
    uint64_t stalled_ns;          /* of compute_ns: no processor was free for it; 0 where the engine can not tell */
    uint32_t joined;              /* how many jobs ran in that run */
};

struct port_events {
    void (*done)(void *ctx, uint64_t id, const struct job_result *r); /* r: valid during the call; exactly once a job */
    /* Library engines ask for output space here while they run, at most once a job, and never for a second job before
     * the first one's done(), for the host may have to wait until what is done has been read: `bytes`, aligned to 64,
     * *off from the base that the host will read; NULL when the job's output can not be held (the job then fails with
     * ERR_MODEL). Stubs never call it. */
    uint8_t *(*space)(void *ctx, uint64_t id, uint64_t bytes, uint64_t *off);
    /* The engine has died; every open job was given back before. The host detaches. At most once, from the port's loop.
     */
    void (*down)(void *ctx);
};
struct port_host {
    struct loop *loop; /* of the port's thread; NULL where the thread has none (an executor) */
    const struct port_events *on;
    void *ctx;
    unsigned index; /* 0 … ports-1, each used once at a time */
};

struct engine_ops {
    uint32_t version; /* ENGINE_VERSION; new calls go at the end */
    const char *name; /* "onnx", "worker", … */
    /* *out is set before any event; it is freed after gone(). On failure there is no event. Control thread. */
    enum err_code (*open)(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                          struct err *e);
    /* Once. Ends in gone(); all ports are detached by then. No ready() comes any more. Control thread. */
    void (*close)(struct engine *g);
    /* After ready(). Port's thread. Every one of the spec's ports is attached once and detached once (an attach that
     * fails counts for both): the engine is not freed before. */
    enum err_code (*attach)(struct engine *g, const struct port_host *host, struct port **out, struct err *e);
    void (*detach)(struct port *p); /* no job open; p is freed */
    /* ERR_UNAVAILABLE when the port's space is used up: flush, wait for a done(), try again. On success the block
     * belongs to the engine until done(). */
    enum err_code (*submit)(struct port *p, const struct job *j, struct err *e);
    void (*flush)(struct port *p);
    /* A wish; done() still comes. For a job that runs past its deadline the engine may take it as a sign of a hang. */
    void (*cancel)(struct port *p, uint64_t id);
};

#endif
