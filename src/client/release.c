/* SPDX-License-Identifier: Apache-2.0 */
/* What an application tells the server beside its questions: feedback. */
#include <math.h>
#include <stdlib.h>

#include "base/json.h"
#include "client/weir_priv.h"

#define FEEDBACK_US (30 * UINT64_C(1000000))
#define PATH_MAX_BYTES (8u << 10)
#define JSON_MAX_BYTES (1u << 20)

/* ---- feedback ---- */

static enum err_code feedback_json(struct buf *b, const char *id, const struct weir_feedback *f, struct err *e)
{
    if (!id || !*id) {
        return err_set(e, ERR_INVALID, "no request id: weir_result_request_id tells that of an answer");
    }
    if (f->correct != -1 && f->correct != 0 && f->correct != 1) {
        return err_set(e, ERR_INVALID, "correct is 1, 0, or -1 for not said; not %d", f->correct);
    }
    if (isinf(f->reward)) {
        return err_set(e, ERR_INVALID, "the reward is infinite");
    }
    BUF_LIT(b, "{\"id\":");
    json_strz(b, id);
    if (f->label) {
        BUF_LIT(b, ",\"label\":");
        json_strz(b, f->label);
    }
    if (f->correct >= 0) {
        buf_addf(b, ",\"correct\":%s", f->correct ? "true" : "false");
    }
    if (!isnan(f->reward)) {
        BUF_LIT(b, ",\"reward\":");
        json_f64(b, f->reward);
    }
    buf_addz(b, f->supersede ? ",\"supersede\":true}" : "}");
    return b->over ? err_set(e, ERR_TOO_LARGE, "the feedback is larger than %u bytes", JSON_MAX_BYTES) : ERR_OK;
}

static enum err_code post_feedback(struct weir *w, const char *model, const struct buf *json, struct err *e)
{
    struct http_answer a;
    struct buf path;
    struct iovec body = {json->p, json->n};
    buf_init(&path, PATH_MAX_BYTES);
    http_answer_init(&a, JSON_MAX_BYTES);
    ask_path(&path, "/v2/models/", model, "/feedback");
    struct place_call k = {.side = SIDE_DATA,
                           .method = "POST",
                           .path = buf_z(&path),
                           .headers = STR("Content-Type: application/json\r\n"),
                           .body = &body,
                           .n_body = 1,
                           .timeout_us = FEEDBACK_US};
    enum err_code rc = path.over ? err_set(e, ERR_TOO_LARGE, "the model's name is too long")
                                 : w->place->ops->call(w->place, &k, &a, e);
    if (rc == ERR_OK && a.status != 200) {
        rc = server_error(&a, e);
    }
    http_answer_done(&a);
    buf_done(&path);
    return rc;
}

enum weir_code weir_feedback(struct weir *w, const char *model, const char *request_id, const struct weir_feedback *f,
                             struct weir_error *e)
{
    struct err err = {0};
    struct weir_feedback own = WEIR_FEEDBACK_INIT;
    struct buf json;
    buf_init(&json, JSON_MAX_BYTES);
    enum err_code rc = ask_take(&own, sizeof own, f, "feedback", "WEIR_FEEDBACK_INIT", &err);
    if (rc == ERR_OK && (!model || !*model)) {
        rc = err_set(&err, ERR_INVALID, "no model named");
    }
    rc = rc == ERR_OK ? feedback_json(&json, request_id, &own, &err) : rc;
    rc = rc == ERR_OK ? post_feedback(w, model, &json, &err) : rc;
    buf_done(&json);
    return rc == ERR_OK ? WEIR_OK : weir_give(e, &err);
}
