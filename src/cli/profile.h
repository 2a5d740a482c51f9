/* SPDX-License-Identifier: Apache-2.0 */
/* A profile: what a running server was asked to do and what that took, read from GET /admin/profile or from a file that
 * it was saved to. The format, version 1; times in milliseconds unless their name ends in seconds or _s, bytes for
 * memory; null where nothing is known:
 *
 *     {"format": 1, "weir": "0.1", "at": RFC 3339, "seconds": since the server started,
 *      "machine": {"processors", "memory"},
 *      "server":  {"threads", "cpu_s": of the server without its workers, "memory"},
 *      "models": [{
 *        "model", "family", "place": "inline" | "worker", "device": "cpu" | "cuda:N", "version": the stable one,
 *        "instances": runs at once, "width": processors that one run uses,
 *        "batch": {"most": rows in a run, 1: not joined; "one_ms": a run of one, "rows", "rows_ms": one of so many},
 *        "requests", "seconds": looked at, "busiest_rate": a second, of the busiest minute, "minutes": whole ones,
 *        "dispersion": [{"seconds": of the span, "value", "spans"}]          (control/arrivals.h),
 *        "ran": answered by a run, "joined": requests in a run as one finds it,
 *        "compute_s": of the runs, counted for every request in them; "executor_s": counted once,
 *        "stalled_s": that these runs had no processor besides,
 *        "service": {"n", "mean_ms", "points": [[ms, share], …]}: of the runs, without waiting for a processor,
 *        "outside_ms": from first byte to answer, without queue and run,
 *        "measured": {"latency_ms": mean, "latency_p99_ms", "queue_ms": mean},
 *        "errors", "memory": {"host", "device", "versions": in memory}, "deaths": {"own", "outside"},
 *        "changes": {"versions": registered in the last 30 days, "days": that this looks back}}]}
 *
 * Not in it: copies that a shadow ran, requests by hand for a version that is not loaded any more.
 *
 * Thread: any. */
#ifndef WEIR_CLI_PROFILE_H
#define WEIR_CLI_PROFILE_H

#include <yyjson.h>

#include "base/err.h"
#include "base/queue.h"

#define PROFILE_MODELS 256
#define PROFILE_POINTS 256

struct profile_model {
    char model[129], family[129], device[16];
    bool on_threads; /* place inline: runs on the connection threads */
    bool gpu;
    unsigned instances, width;
    uint64_t requests;
    double seconds, mean_rate;      /* over all that was looked at */
    struct queue_arrivals arrivals; /* rate: of the busiest minute */
    struct queue_batch batch;
    double joined;                /* as it was */
    struct queue_service service; /* of a run of one; its points are the profile's */
    double outside;               /* seconds; 0 if not known */
    double latency, latency_p99;  /* measured, seconds; NaN: not known */
    double queue;                 /* measured mean, NaN likewise */
    double stalled;               /* seconds that a run had no processor, mean; NaN likewise */
    uint64_t host_bytes, device_bytes, versions;
    uint64_t own_deaths, outside_deaths;
    uint64_t changes;
    double change_days;
    struct queue_point point[PROFILE_POINTS];
};
struct profile {
    double seconds;
    unsigned processors;
    uint64_t memory, server_bytes;
    double front; /* processor-seconds of the server a request, without inline runs */
    struct profile_model *model;
    size_t n_models;
};

/* ERR_INVALID names what is missing or wrong. */
enum err_code profile_read(struct profile *out, yyjson_val *root, struct err *e) MUST_USE;
void profile_done(struct profile *p); /* a zeroed one is fine */

#endif
