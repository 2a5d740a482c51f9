/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane's table, its metadata and its health. */
#include "api/data.h"

#include <stdlib.h>

#include "api/feedback_read.h"
#include "api/oip.h"
#include "base/clock.h"

static const struct data_facts *facts_of(const struct request *r)
{
    return r->plane->facts;
}

static void reply_text(struct request *r, int status, const char *json)
{
    http_reply(r->x, status, "application/json", str_of(json));
}

/* ---- health: the right status and a body ---- */

static void live_run(struct request *r)
{
    reply_text(r, 200, "{\"live\":true}");
}

static void ready_run(struct request *r)
{
    bool ready = router_ready(r->plane->router);

    reply_text(r, ready ? 200 : 503, ready ? "{\"ready\":true}" : "{\"ready\":false}");
}

static void model_ready_run(struct request *r)
{
    struct pick p;
    struct err e;
    int64_t version;
    struct buf b;
    bool ready;

    if (version_arg(r, &version, &e) != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    ready = router_pick(r->plane->router, r->arg[0], version, (struct str){NULL, 0}, &p, &e) == ERR_OK ||
            (p.cold && !p.version->away); /* it will be there when a request comes */
    if (!ready && e.code == ERR_NOT_FOUND) {
        reply_err(r, &e);
        return;
    }
    buf_init(&b, 4096);
    BUF_LIT(&b, "{\"name\":");
    json_str(&b, r->arg[0]);
    BUF_LIT(&b, ",\"ready\":");
    buf_addz(&b, ready ? "true" : "false");
    if (!ready) {
        BUF_LIT(&b, ",\"error\":");
        json_strz(&b, e.text);
    }
    BUF_LIT(&b, "}");
    reply_json(r, ready ? 200 : 503, &b);
    buf_done(&b);
}

/* ---- metadata ---- */

static void server_run(struct request *r)
{
    struct buf b;

    buf_init(&b, 4096);
    oip_server_metadata(&b, facts_of(r)->version);
    if (facts_of(r)->inference_admin > 0) {
        b.n--; /* the brace */
        BUF_LIT(&b, ",\"role\":\"inference\"");
        if (facts_of(r)->inference_admin <= UINT16_MAX) {
            buf_addf(&b, ",\"admin_port\":%u", facts_of(r)->inference_admin);
        }
        BUF_LIT(&b, "}");
    }
    reply_json(r, 200, &b);
    buf_done(&b);
}

static void model_run(struct request *r);

static void on_parked(void *ctx, const struct err *e)
{
    struct request *r = ctx;

    r->state = NULL;
    if (e->code != ERR_OK) {
        reply_err(r, e);
    } else {
        model_run(r);
    }
}

/* Of a cold version: its inputs and outputs are known when it is loaded. */
static void model_run(struct request *r)
{
    struct parked *parked;
    struct pick p = {0}; /* also when the version's name is wrong */
    struct err e;
    int64_t version, *numbers;
    struct buf b;
    size_t n = 0;

    if (version_arg(r, &version, &e) != ERR_OK ||
        router_pick(r->plane->router, r->arg[0], version, (struct str){NULL, 0}, &p, &e) != ERR_OK) {
        if (p.cold && park(&parked, r, &p, clock_us() + p.route->timeout_us, on_parked, r, &e) == ERR_OK) {
            r->state = parked;
            r->pending = true;
        } else {
            reply_err(r, &e);
        }
        return;
    }
    numbers = arena_alloc(r->x->arena, p.route->n_versions * sizeof(*numbers));
    for (size_t i = 0; numbers && i < p.route->n_versions; i++) {
        if (p.route->versions[i].slot >= 0) {
            numbers[n++] = p.route->versions[i].number;
        }
    }
    buf_init(&b, 4 << 20);
    oip_model_metadata(&b, r->arg[0], numbers, n, p.version->info);
    reply_json(r, 200, &b);
    buf_done(&b);
}

/* ---- what other servers have here ---- */

static void not_here(struct request *r)
{
    struct err e;

    err_set(&e, ERR_UNIMPLEMENTED, "%s %s is not part of this server yet", r->route->method, r->route->pattern);
    reply_err(r, &e);
}

#define MODEL "/v2/models/{model}"
#define VERSION MODEL "/versions/{version}"

const struct api_route data_routes[] = {
    {"POST", MODEL "/infer", NULL, &infer_stages, 0, "run the model; the rollout decides which version"},
    {"POST", VERSION "/infer", NULL, &infer_stages, 0, "run this version; the rollout and its counters are passed by"},
    {"POST", MODEL "/feedback", feedback_run, NULL, FEEDBACK_BYTES,
     "what became of an answer: {id, label | correct | reward, supersede}, or one a line"},
    {"GET", "/v2/health/live", live_run, NULL, 0, "the process answers"},
    {"GET", "/v2/health/ready", ready_run, NULL, 0, "every model's stable version is ready"},
    {"GET", "/v2", server_run, NULL, 0, "name, version and extensions of the server"},
    {"GET", MODEL, model_run, NULL, 0, "inputs and outputs of a model"},
    {"GET", VERSION, model_run, NULL, 0, "inputs and outputs of a version"},
    {"GET", MODEL "/ready", model_ready_run, NULL, 0, "a model's version in service is ready"},
    {"GET", VERSION "/ready", model_ready_run, NULL, 0, "this version is ready"},
    {"GET", MODEL "/config", not_here, NULL, 0, "Triton's model configuration"},
    {"GET", VERSION "/config", not_here, NULL, 0, "Triton's model configuration"},
    {"GET", MODEL "/stats", not_here, NULL, 0, "Triton's statistics"},
    {"GET", VERSION "/stats", not_here, NULL, 0, "Triton's statistics"},
    {"GET", "/v2/models/stats", not_here, NULL, 0, "Triton's statistics"},
    {"POST", MODEL "/generate", not_here, NULL, 0, "text generation"},
    {"POST", MODEL "/generate_stream", not_here, NULL, 0, "text generation, streamed"},
    {"POST", "/v2/repository/index", not_here, NULL, 0, "Triton's repository"},
    {"POST", "/v2/repository/models/{model}/load", not_here, NULL, 0, "Triton's repository"},
    {"POST", "/v2/repository/models/{model}/unload", not_here, NULL, 0, "Triton's repository"},
    {"GET", "/v1/models", not_here, NULL, 0, "OpenAI's list of models"},
    {"POST", "/v1/chat/completions", not_here, NULL, 0, "OpenAI's chat"},
    {"POST", "/v1/completions", not_here, NULL, 0, "OpenAI's completions"},
    {"POST", "/v1/embeddings", not_here, NULL, 0, "OpenAI's embeddings"},
};
const size_t n_data_routes = COUNT_OF(data_routes);

void data_finished(struct request *r)
{
    if (r->route && r->route->stages == &infer_stages) {
        infer_finished(r);
    } else if (r->route && r->route->run == feedback_run) {
        feedback_finished(r);
    } else if (r->route && r->route->run == model_run) {
        unpark(r->state);
    }
}
