/* SPDX-License-Identifier: Apache-2.0 */
/* The webhook: every event is posted to one URL, as a CloudEvent (1.0, structured JSON), signed as Standard Webhooks
 * say when there is a secret (webhook-id, webhook-timestamp, webhook-signature: v1,BASE64 of HMAC-SHA256 over
 * id.timestamp.body).
 *
 * A thread of its own delivers one event after the other, in order. Anything but 2xx is tried again after 5 s, 10 s …
 * 1 h (with jitter) for 24 h, then the event is given up; meanwhile the ones behind it wait, and above WEBHOOK_SPOOL of
 * them (or WEBHOOK_SPOOL_BYTES) the oldest that waits is dropped and counted. 410 Gone ends it: nothing is sent until
 * the server is started again. No redirect is followed; https is verified; an attempt takes 10 s at most.
 *
 * At least once, while the server runs: an event may come twice (the id is the same). What was delivered is kept in
 * memory only. After a restart it begins with what happens from then on (after the newest line of history of the
 * store at the start); what a stop or a crash left undelivered can be had from /admin/events?after=SEQ.
 *
 * libcurl is opened on first use. Without it every attempt fails and says so, in the log and in the deliveries.
 *
 * Thread: control's loop, but what `post` does. */
#ifndef WEIR_API_WEBHOOK_H
#define WEIR_API_WEBHOOK_H

#include <stdatomic.h>

#include "base/conf.h"
#include "control/control.h"

enum {
    WEBHOOK_SPOOL = 1024,
    WEBHOOK_SPOOL_BYTES = 16 << 20,
    WEBHOOK_LOG = 256, /* attempts that are remembered */
};
#define WEBHOOK_TIMEOUT_MS 10000

/* `events:` of weir.yaml. */
struct webhook_conf {
    char *url;
    char *secret_file;
};
extern const struct setting webhook_settings[]; /* webhook, secret_file */
extern const size_t n_webhook_settings;

/* One attempt. Returns the status; 0: there was no answer, *e says why. Blocks, on the webhook's thread; *stop becomes
 * true when there is no time left for it. */
struct webhook_call {
    const char *url;
    const char *const *headers; /* "Name: value"; NULL-terminated */
    struct str body;
    atomic_bool *stop;
};
typedef int webhook_post_fn(void *ctx, const struct webhook_call *call, struct err *e);

struct webhook_spec {
    const struct webhook_conf *conf; /* read now, not kept */
    const char *source;              /* of the events: the admin plane's URL; copied */
    /* For tests; 0: as above. */
    webhook_post_fn *post;
    void *post_ctx;
    uint64_t retry_us, give_up_us;
};

struct webhook;
/* *out NULL, and ERR_OK, when no URL is configured. ERR_INVALID: not an http(s) URL; the secret can not be read or has
 * fewer than 16 bytes ("whsec_" and base64, or the bytes themselves); ERR_UNAVAILABLE: no thread. */
enum err_code webhook_new(struct webhook **out, const struct webhook_spec *spec, struct err *e) MUST_USE;
/* Breaks off an attempt that is under way and ends the thread; NULL is fine. */
void webhook_free(struct webhook *w);
/* To be called for every line, as control_ops.told is; NULL is fine. */
void webhook_told(struct webhook *w, const struct history_row *row);
/* {"webhook","signed","waiting","delivered","dropped","given_up","stopped","deliveries":[{"event","type","attempt",
 * "at","status","ms","error"}…, newest first]}; without a webhook its members are null, 0 and empty. Any thread. */
void webhook_json(struct buf *out, struct webhook *w);

/* ---- parts, for tests ---- */
/* How long after the attempt (1, 2, …) that failed; first_us doubled up to 1 h, a quarter more or less by
 * chance, but never more than 1 h. */
uint64_t webhook_delay_us(uint64_t first_us, unsigned attempt, uint64_t chance);
/* "v1,…"; out: 64 bytes. */
void webhook_sign(char *out, size_t cap, struct str key, const char *id, int64_t timestamp, struct str body);

#endif
