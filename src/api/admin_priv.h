/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the admin plane share: answers that come later, reading of what was sent, JSON of models and
 * rollouts.
 *
 * Thread: control's loop, but disk_job's work(). */
#ifndef WEIR_API_ADMIN_PRIV_H
#define WEIR_API_ADMIN_PRIV_H

#include <yyjson.h>

#include "api/admin.h"

#define ADMIN_BODY (64u << 10) /* of a JSON request */
#define ADMIN_ACTOR STR("admin")

static inline const struct admin_facts *admin_facts(const struct request *r)
{
    return r->plane->facts;
}

/* ---- answers that come later (admin.c) ---- */

/* Ties work that goes on by itself to the request that waits for it. The ticket is part of what its owner allocated and
 * outlives the request: if the client leaves first, ticket_close says so. */
struct ticket {
    struct request *r;              /* NULL: the client has left */
    void (*left)(struct ticket *t); /* it has just left; may free the ticket; may be NULL */
};
void ticket_open(struct ticket *t, struct request *r, void (*left)(struct ticket *t));
/* The request that is to be answered now, or NULL; the ticket may be freed then. */
struct request *ticket_close(struct ticket *t);

/* Something to do on the store thread on behalf of a request. work() runs there and may touch only the job; answer()
 * runs at home, once, unless the client has left. */
struct disk_job {
    struct ticket ticket;
    struct store_job job;
    struct task back;
    struct loop *home;
    void (*work)(struct store *s, struct disk_job *j);
    void (*answer)(struct request *r, struct disk_job *j); /* also when err says that it failed */
    struct err err;
    struct buf out;
    /* what it is about */
    char model[NAME_MAX_LEN + 1], digest[65];
    int64_t before;
    size_t limit;
    struct push_spec push;
    struct rollout_policy policy; /* of push, where it has one */
    char *family, *root, *path;   /* heap; may be NULL */
    struct capture *capture;
};
struct disk_job *disk_job_new(size_t out_max);
void disk_job_post(struct disk_job *j, struct request *r);

/* ---- what was sent (admin_read.c) ---- */

/* The model that the path names; NULL: answered with 404. */
struct model *read_model(struct request *r);
/* A parameter of the query. */
struct parameter {
    const char *name;
    struct str value; /* decoded; p == NULL: absent */
};
/* Fills the values. ERR_INVALID if the query has a parameter that is not in the list, one twice, or a malformed escape.
 */
enum err_code read_query(struct http_ex *x, struct parameter *list, size_t n, struct err *e) MUST_USE;
/* A whole number, least to most. Leaves *out alone if it is absent. */
enum err_code read_number(const struct parameter *p, uint64_t least, uint64_t most, uint64_t *out,
                          struct err *e) MUST_USE;
/* "5%", "0.25 %" → basis points, at most 100%. */
enum err_code read_share(struct str s, uint32_t *bp, struct err *e) MUST_USE;
/* "2026-11-23T21:40:31Z", with a fraction or an offset (+01:00) if need be, or milliseconds since 1970. */
enum err_code read_time(struct str s, int64_t *wall_ms, struct err *e) MUST_USE;
/* What a rollout was ordered with: a share (then it is a manual one), or a policy's name, its steps or both; p ==
 * NULL: not said. A policy without a name is the one called default. */
enum err_code read_policy(struct control *c, struct str share, struct str name, struct str steps,
                          struct rollout_policy *out, struct err *e) MUST_USE;

/* A member of a JSON body. */
struct member {
    const char *name;
    bool number; /* a whole number, */
    bool flag;   /* true or false, else a string */
    bool given;
    struct str text; /* lies in the document */
    uint64_t value;  /* of a flag: 1 or 0 */
};
/* Reads the body as an object of (some of) these members; an empty body is an empty object, null is as if absent. *doc
 * is the caller's (yyjson_doc_free), also NULL. */
enum err_code read_body(const struct request *r, struct member *m, size_t n, yyjson_doc **doc, struct err *e) MUST_USE;

/* ---- JSON (admin_json.c); all append a value ---- */
void json_time(struct buf *b, int64_t wall_ms); /* RFC 3339; 0 is null */
void json_put_count(struct buf *b, const char *key, uint64_t n);
void json_put_text(struct buf *b, const char *key, const char *z);     /* NULL writes null */
void json_put_version(struct buf *b, const char *key, int64_t number); /* null for 0 */
/* A text that is JSON already; NULL writes null. */
void json_put_raw(struct buf *b, const char *key, const char *json);
/* The members of STATS, without braces: a comma is put before them where one is needed. */
void json_stats(struct buf *b, const struct series_sum *s);
void json_model(struct buf *b, const struct model *m, const struct admin_facts *f);
void json_budget(struct buf *b, const struct budget *budget); /* [{"device","limit","used"}]; limit null: none known */

/* ---- rollouts as JSON (admin_rollout_json.c) ---- */
void json_rollout(struct buf *b, const struct model *m);       /* null if it never had one */
void json_rollout_reply(struct buf *b, const struct model *m); /* {"model","rollout","arms"} */
bool rollout_live(const struct model *m);                      /* it runs or soaks */
/* What it waits for, in a sentence; "" once it has ended. */
void rollout_waits(const struct model *m, char *text, size_t cap);
/* When the arms of the running rollout began to count: its start, or later if the server was started again in between
 * (less than a second is the time between the row's time and its being durable). */
int64_t counting_since(const struct model *m);
/* Everything that is counted about a version now. */
void version_sum(const struct version *v, struct series_sum *out);
const char *place_name(const struct model *m);

/* Starts a JSON reply; the body is appended to what it returns, then http_reply_end. */
struct buf *json_reply(struct request *r, int status);

/* ---- experiments as JSON (admin_experiment.c) ---- */
void json_experiment(struct buf *b, const struct model *m); /* of a rollout whose policy_tests */
/* The model's running or last experiment is invalid: what feedback says of its arms is told nobody. */
bool experiment_hides(const struct model *m);
void series_hide_feedback(struct series_sum *s); /* as if there had been none */

/* ---- metrics (metrics.c) ---- */
void metrics_write(struct buf *b, struct control *c, const struct admin_facts *f);
/* A label's value without its quotes: escaped, and UTF-8 whatever s is. */
void metrics_label(struct buf *b, struct str s);

/* ---- the page (page.c) ---- */
/* Escaped for HTML, in text and in quoted attributes. */
void page_text(struct buf *b, struct str s);

/* ---- handlers ---- */
void admin_list_models(struct request *r);
void admin_show_model(struct request *r);
void admin_register(struct request *r);
void admin_list_families(struct request *r);
void admin_show_family(struct request *r);
void admin_change_family(struct request *r);
void admin_history(struct request *r);
void admin_events(struct request *r);
void admin_deliveries(struct request *r);
void admin_samples(struct request *r);
void admin_capture(struct request *r);
void admin_capture_records(struct request *r);
extern const struct api_stages admin_push;
void admin_show_rollout(struct request *r);
void admin_change_rollout(struct request *r);
void admin_show_experiment(struct request *r);
void admin_change_experiment(struct request *r);
void admin_rollback(struct request *r);

/* admin_hold.c */
void admin_hold(struct request *r);
void admin_show_shadow(struct request *r);
void admin_change_shadow(struct request *r);
void admin_metrics(struct request *r);
void admin_page(struct request *r);
void admin_style(struct request *r);

#endif
