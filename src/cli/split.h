/* SPDX-License-Identifier: Apache-2.0 */
/* A family on its way to a service of its own: what it needs, what it gets, and what is written of it.
 *
 * Pure but for split_needs, which asks the server.
 *
 * Thread: any. */
#ifndef WEIR_CLI_SPLIT_H
#define WEIR_CLI_SPLIT_H

#include "cli/cli.h"

/* Presets, where nothing was measured. */
#define SPLIT_PRESET_MEMORY (UINT64_C(512) << 20) /* of the models, nothing of the family being loaded */
#define SPLIT_PRESET_CORES 1.0                    /* no request was answered yet */

struct split_setting {
    char *name, *value; /* "batch.max", "16" */
    bool preset;        /* it is the default */
};

/* What the running server tells. */
struct split_needs {
    char **model;
    size_t n_models;
    struct split_setting *setting;
    size_t n_settings;
    char *place, *config; /* where it runs; path of weir.yaml, NULL: the server was given none */
    uint64_t drain_s;
    /* memory of the versions that are loaded, instances included; 0: none is */
    unsigned versions, measured; /* measured: of how many it was, the others' is configured or estimated */
    uint64_t memory, largest;    /* bytes: of all, of the largest version */
    uint64_t buffers;            /* requests and answers that may be under way: queue_bytes + output_bytes */
    /* processors */
    double rate, service_s; /* requests a second, computing of one; the larger of just now and since the start */
    uint64_t requests;      /* that this was measured on; 0: not known */
    bool gpu;
};
/* Watches the server's counts for watch_us. ERR_NOT_FOUND: neither a family nor a model of that name. needs is the
 * caller's in any case: split_needs_done. */
enum err_code split_needs(struct cli *c, const char *family, uint64_t watch_us, struct split_needs *needs,
                          struct err *e) MUST_USE;
void split_needs_done(struct split_needs *needs);
/* A setting's value; NULL: there is no such setting. */
const char *split_setting(const struct split_needs *needs, const char *name);

/* What one replica gets. */
struct split_size {
    uint64_t memory_mib,
        memory_max_mib;              /* measured needs and the server; with a second version beside it and buffers */
    unsigned cpu_milli;              /* asked for */
    unsigned replicas, replicas_max; /* replicas: two, so that the end of one is no outage; one with a GPU */
    unsigned grace_s;                /* until it is killed */
};
#define SPLIT_UTILISATION 70 /* percent of what is asked for, that autoscaling aims at */
#define SPLIT_PRE_STOP_S 5   /* until nobody finds a replica any more that is about to end */
void split_size(const struct split_needs *needs, struct split_size *out);

/* Where to. */
struct split_to {
    char place[300];         /* "weir://vision.internal:8000" */
    char host[256], port[6]; /* without brackets */
    char service[64];        /* a DNS label: the host's first, else the family's name made one */
    char space[64];          /* namespace of a name like vision.NAMESPACE.svc; "": not said */
    bool outside;            /* the name is not the cluster's */
};
/* "vision.internal:8000", "weir://…", "http://…". ERR_INVALID. */
enum err_code split_to(struct split_to *out, const char *text, const char *family, struct err *e) MUST_USE;

struct split {
    const char *family, *image, *server;
    const char *token; /* path of the new server's admin token, here; NULL: it has none that we know */
    struct split_to to;
    struct split_needs needs;
    struct split_size size;
};
enum split_target { SPLIT_KUBERNETES, SPLIT_COMPOSE, SPLIT_SYSTEMD };
/* The new server's weir.yaml, for listening on every address at the service's own port. Where its token lies depends on
 * the target. */
void split_conf(struct buf *out, const struct split *s, enum split_target target);
/* kubernetes.yaml, compose.yaml, or the unit. */
void split_manifest(struct buf *out, const struct split *s, enum split_target target);
/* What was measured, as comment lines that begin with `#`. */
void split_comment(struct buf *out, const struct split *s);
/* One hunk that makes b of a; nothing if they are equal. For changes that lie near each other. */
void split_diff(struct buf *out, const char *path, struct str a, struct str b);

/* --check: both sides asked with the same requests (split_check.c). Returns the exit status. */
int split_check(struct cli *c, const struct split *s);

#endif
