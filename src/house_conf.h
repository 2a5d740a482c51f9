/* SPDX-License-Identifier: Apache-2.0 */
/* The server's configuration: weir.yaml and the command line, every key optional.
 *
 * Thread: main, before any other runs; house_conf_file any. */
#ifndef WEIR_HOUSE_CONF_H
#define WEIR_HOUSE_CONF_H

#include "api/capture.h"
#include "api/trace.h"
#include "api/webhook.h"
#include "control/control.h"

struct house_conf {
    char *file; /* of weir.yaml, absolute; NULL: none was given */
    char *listen, *admin, *store, *artifacts, *user_header, *admin_token_file, *import_root, *onnxruntime;
    uint64_t threads, body_max, connections, drain_us;
    int log_level;
    int sandbox; /* 0: on, 1: required */
    uint64_t memory;
    int role; /* 0: server, 1: inference */
    uint64_t hold_us;
    struct family *families;
    size_t n_families;
    struct rollout_policy *policies; /* named; one is named "default" */
    size_t n_policies;
    struct webhook_conf webhook;
    struct capture_conf capture;
    struct trace_rule trace;
    uint64_t parent_fd; /* UINT64_MAX: none */
};
/* Exit status when it fails (2: called wrong, 1: the file is wrong), after saying why on stderr; -1: go on. */
int house_conf_read(struct house_conf *c, int argc, char **argv);
/* For the house in an application's process: the file alone (NULL: none), with presets for that: the data folder lies
 * beside the file, two connection threads at most, warnings and errors in the log. In any case house_conf_done. */
enum err_code house_conf_file(struct house_conf *c, const char *file, struct err *e) MUST_USE;
void house_conf_done(struct house_conf *c);

#endif
