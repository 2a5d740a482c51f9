/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a profile. What a plan can not do without is asked for; what is only shown may be missing. */
#include "cli/profile.h"

#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "cli/show.h"

/* A number of at least 0; `preset` where it is missing or null. */
static double number(yyjson_val *o, const char *key, double preset)
{
    double v = get_number(o, key);

    return v >= 0 && v < 1e18 ? v : preset;
}

static enum err_code text(yyjson_val *o, const char *key, char *out, size_t cap, const char *where, struct err *e)
{
    const char *z = get_text(o, key);

    if (!z || !str_copy(out, cap, str_of(z)) || !*z) {
        return err_set(e, ERR_INVALID, "the profile's %s has no \"%s\", or one that is too long", where, key);
    }
    return ERR_OK;
}

static void read_dispersion(struct queue_arrivals *a, yyjson_val *list)
{
    size_t i, max;
    yyjson_val *one;
    double before = 0;

    yyjson_arr_foreach(list, i, max, one)
    {
        double span = number(one, "seconds", 0), value = number(one, "value", -1);

        if (span > before && value >= 0 && a->n_spans < QUEUE_SPANS) {
            a->span[a->n_spans].seconds = before = span;
            a->span[a->n_spans++].dispersion = value;
        }
    }
}

static enum err_code read_points(struct profile_model *m, yyjson_val *list, struct err *e)
{
    size_t i, max, n = 0;
    yyjson_val *one;
    double sum = 0;

    if (yyjson_arr_size(list) > PROFILE_POINTS) {
        return err_set(e, ERR_INVALID, "the profile's model '%s' has more than %d points", m->model, PROFILE_POINTS);
    }
    yyjson_arr_foreach(list, i, max, one)
    {
        double ms = yyjson_get_num(yyjson_arr_get(one, 0)), share = yyjson_get_num(yyjson_arr_get(one, 1));

        if (!yyjson_is_arr(one) || !(ms >= 0 && ms < 1e9) || !(share > 0 && share <= 1)) {
            return err_set(e, ERR_INVALID, "the profile's model '%s': a point of \"service\" is not [ms, share]",
                           m->model);
        }
        m->point[n++] = (struct queue_point){ms / 1e3, share};
        sum += share;
    }
    for (i = 0; i < n; i++) {
        m->point[i].share /= sum;
    }
    queue_service_of(&m->service, m->point, n);
    return ERR_OK;
}

/* What was measured are runs as large as they were; a plan begins with runs of one. */
static void read_batch(struct profile_model *m, yyjson_val *batch)
{
    double one = number(batch, "one_ms", 0), rows = number(batch, "rows", 0), many = number(batch, "rows_ms", 0);
    double factor;

    m->batch = (struct queue_batch){.most = (unsigned)MIN(MAX(number(batch, "most", 1), 1.), 4096.), .more = 1};
    if (m->batch.most > 1 && one > 0 && rows > 1) {
        m->batch.more = MIN(MAX((many / one - 1) / (rows - 1), 0.), 1.);
    }
    factor = 1 + (m->joined - 1) * m->batch.more;
    for (size_t i = 0; i < m->service.n_points; i++) {
        m->point[i].seconds /= factor;
    }
    m->service.mean /= factor;
}

static enum err_code read_model(struct profile_model *m, yyjson_val *o, struct err *e)
{
    yyjson_val *memory = yyjson_obj_get(o, "memory"), *deaths = yyjson_obj_get(o, "deaths");
    yyjson_val *changes = yyjson_obj_get(o, "changes"), *measured = yyjson_obj_get(o, "measured");
    const char *place = get_text(o, "place");

    if (text(o, "model", m->model, sizeof(m->model), "model", e) != ERR_OK ||
        text(o, "family", m->family, sizeof(m->family), m->model, e) != ERR_OK ||
        text(o, "device", m->device, sizeof(m->device), m->model, e) != ERR_OK) {
        return e->code;
    }
    m->on_threads = place && strcmp(place, "inline") == 0;
    m->gpu = strcmp(m->device, "cpu") != 0;
    m->instances = (unsigned)MIN(MAX(number(o, "instances", 1), 1.), 1024.);
    m->width = m->gpu ? 1 : (unsigned)MIN(MAX(number(o, "width", 1), 1.), 64.);
    m->requests = get_count(o, "requests");
    m->seconds = number(o, "seconds", 0);
    m->mean_rate = m->seconds > 0 ? (double)m->requests / m->seconds : 0;
    m->arrivals.rate = number(o, "busiest_rate", m->mean_rate);
    read_dispersion(&m->arrivals, yyjson_obj_get(o, "dispersion"));
    m->joined = MAX(number(o, "joined", 1), 1.);
    if (read_points(m, yyjson_obj_get(yyjson_obj_get(o, "service"), "points"), e) != ERR_OK) {
        return e->code;
    }
    read_batch(m, yyjson_obj_get(o, "batch"));
    m->outside = number(o, "outside_ms", 0) / 1e3;
    m->latency = get_number(measured, "latency_ms") / 1e3;
    m->latency_p99 = get_number(measured, "latency_p99_ms") / 1e3;
    m->queue = get_number(measured, "queue_ms") / 1e3;
    m->stalled = number(o, "ran", 0) > 0 ? get_number(o, "stalled_s") / number(o, "ran", 1) : (double)NAN;
    m->host_bytes = get_count(memory, "host");
    m->device_bytes = get_count(memory, "device");
    m->versions = get_count(memory, "versions");
    m->own_deaths = get_count(deaths, "own");
    m->outside_deaths = get_count(deaths, "outside");
    m->changes = get_count(changes, "versions");
    m->change_days = number(changes, "days", 0);
    return ERR_OK;
}

enum err_code profile_read(struct profile *out, yyjson_val *root, struct err *e)
{
    yyjson_val *machine = yyjson_obj_get(root, "machine"), *server = yyjson_obj_get(root, "server");
    yyjson_val *models = yyjson_obj_get(root, "models"), *one;
    double inline_s = 0, requests = 0;
    size_t i, max;

    *out = (struct profile){0};
    if (get_count(root, "format") != 1 || !yyjson_is_arr(models) || get_count(machine, "processors") == 0) {
        return err_set(e, ERR_INVALID, "this is no profile of version 1: GET /admin/profile gives one");
    }
    if (yyjson_arr_size(models) > PROFILE_MODELS) {
        return err_set(e, ERR_INVALID, "the profile has more than %d models", PROFILE_MODELS);
    }
    out->seconds = number(root, "seconds", 0);
    out->processors = (unsigned)MIN(get_count(machine, "processors"), (uint64_t)4096);
    out->memory = get_count(machine, "memory");
    out->server_bytes = get_count(server, "memory");
    out->model = xcalloc(MAX(yyjson_arr_size(models), (size_t)1), sizeof(out->model[0]));
    yyjson_arr_foreach(models, i, max, one)
    {
        struct profile_model *m = &out->model[i];

        if (read_model(m, one, e) != ERR_OK) {
            profile_done(out);
            return e->code;
        }
        inline_s += m->on_threads ? number(one, "executor_s", 0) : 0;
        requests += (double)m->requests;
        out->n_models++;
    }
    if (requests > 0) {
        out->front = MAX(number(server, "cpu_s", 0) - inline_s, 0.) / requests;
    }
    return ERR_OK;
}

void profile_done(struct profile *p)
{
    free(p->model);
    *p = (struct profile){0};
}
