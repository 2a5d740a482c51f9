/* SPDX-License-Identifier: Apache-2.0 */
/* What a family needs, from what the server tells of itself; and what a replica of its service gets for that.
 *
 * Thread: the command's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/conf.h"
#include "cli/show.h"
#include "cli/split.h"

#define SERVER_BYTES (UINT64_C(32) << 20) /* the server itself, and the pages of its threads */
#define MIB (UINT64_C(1) << 20)

/* ---- asking ---- */

/* Counts of a version, to be held against those of a moment later. */
struct seen {
    char model[NAME_MAX_LEN + 1];
    uint64_t version, requests;
    double compute_ms;
};
struct counts {
    struct seen *list;
    size_t n;
    uint64_t at_us;
};

static bool is_ours(const struct split_needs *n, const char *model)
{
    for (size_t i = 0; model && i < n->n_models; i++) {
        if (strcmp(n->model[i], model) == 0) {
            return true;
        }
    }
    return false;
}

static void count_version(struct counts *k, const char *model, yyjson_val *v)
{
    yyjson_val *stats = yyjson_obj_get(v, "stats");
    double ms = get_number(yyjson_obj_get(stats, "compute_ms"), "mean");

    k->list = xrealloc(k->list, (k->n + 1) * sizeof(k->list[0]));
    k->list[k->n] = (struct seen){.version = get_count(v, "version"), .requests = get_count(stats, "requests")};
    k->list[k->n].compute_ms = isnan(ms) ? 0 : ms;
    snprintf(k->list[k->n].model, sizeof(k->list[0].model), "%s", model);
    k->n++;
}

static void weigh_version(struct split_needs *n, yyjson_val *v)
{
    yyjson_val *memory = yyjson_obj_get(v, "memory");
    const char *basis = get_text(memory, "basis"), *residency = get_text(memory, "residency");
    uint64_t bytes = get_count(memory, "bytes");

    if (bytes > 0 && residency && strcmp(residency, "resident") == 0) {
        n->versions++;
        n->measured += basis && strcmp(basis, "measured") == 0;
        n->memory += bytes;
        n->largest = MAX(n->largest, bytes);
    }
}

/* One look at all of the family's versions. weigh: their memory too. */
static enum err_code look(struct cli *c, struct split_needs *n, struct counts *k, bool weigh, struct err *e)
{
    yyjson_doc *doc = NULL;
    yyjson_val *m, *v;
    size_t i, max, j, max_j;

    if (cli_json(c, "GET", "/admin/models", NULL, &doc, e) != ERR_OK) {
        return e->code;
    }
    k->at_us = clock_us();
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "models"), i, max, m)
    {
        const char *name = get_text(m, "name");

        if (!is_ours(n, name)) {
            continue;
        }
        yyjson_arr_foreach(yyjson_obj_get(m, "versions"), j, max_j, v)
        {
            count_version(k, name, v);
            if (weigh) {
                weigh_version(n, v);
            }
        }
    }
    yyjson_doc_free(doc);
    return ERR_OK;
}

/* Cores are what counts: of each version the busier of the two spans, summed up. */
static void rate_of(struct split_needs *n, const struct counts *was, const struct counts *now, double uptime_s)
{
    double span_s = MAX((double)(now->at_us - was->at_us) / 1e6, 1e-3), cores = 0;

    for (size_t i = 0; i < now->n; i++) {
        const struct seen *s = &now->list[i];
        uint64_t before = s->requests;
        double rate;

        for (size_t k = 0; k < was->n; k++) {
            if (was->list[k].version == s->version && strcmp(was->list[k].model, s->model) == 0) {
                before = was->list[k].requests;
            }
        }
        rate = MAX((double)(s->requests - MIN(before, s->requests)) / span_s, (double)s->requests / MAX(uptime_s, 1));
        n->requests += s->requests;
        n->rate += rate;
        cores += rate * s->compute_ms / 1e3;
    }
    n->service_s = n->rate > 0 ? cores / n->rate : 0;
}

static void take_family(struct split_needs *n, yyjson_val *root, const char *family)
{
    yyjson_val *v;
    size_t i, max;
    const char *name = get_text(root, "name"), *place = get_text(root, "place");
    bool own = name && strcmp(name, family) == 0;

    n->place = xstrdup(place ? place : "?");
    yyjson_arr_foreach(yyjson_obj_get(root, "models"), i, max, v)
    {
        const char *model = yyjson_get_str(v);

        if (model && (own || strcmp(model, family) == 0)) { /* a model of `default` gets a family of its own */
            n->model = xrealloc(n->model, (n->n_models + 1) * sizeof(n->model[0]));
            n->model[n->n_models++] = xstrdup(model);
        }
    }
    yyjson_arr_foreach(yyjson_obj_get(root, "settings"), i, max, v)
    {
        const char *key = get_text(v, "name"), *value = get_text(v, "value");

        if (key && value) {
            n->setting = xrealloc(n->setting, (n->n_settings + 1) * sizeof(n->setting[0]));
            n->setting[n->n_settings++] = (struct split_setting){xstrdup(key), xstrdup(value), get_flag(v, "preset")};
        }
    }
}

const char *split_setting(const struct split_needs *needs, const char *name)
{
    for (size_t i = 0; i < needs->n_settings; i++) {
        if (strcmp(needs->setting[i].name, name) == 0) {
            return needs->setting[i].value;
        }
    }
    return NULL;
}

static uint64_t bytes_of(const struct split_needs *n, const char *setting)
{
    const char *value = split_setting(n, setting);
    uint64_t bytes = 0;

    return value && parse_bytes(str_of(value), &bytes) ? bytes : 0;
}

static enum err_code take_server(struct cli *c, struct split_needs *n, double *uptime_s, struct err *e)
{
    yyjson_doc *doc = NULL;
    yyjson_val *root;

    if (cli_json(c, "GET", "/admin/server", NULL, &doc, e) != ERR_OK) {
        return e->code;
    }
    root = yyjson_doc_get_root(doc);
    n->config = get_text(root, "config") ? xstrdup(get_text(root, "config")) : NULL;
    n->drain_s = isnan(get_number(root, "drain_s")) ? 30 : (uint64_t)ceil(get_number(root, "drain_s"));
    *uptime_s = isnan(get_number(root, "uptime_s")) ? 0 : get_number(root, "uptime_s");
    yyjson_doc_free(doc);
    return ERR_OK;
}

enum err_code split_needs(struct cli *c, const char *family, uint64_t watch_us, struct split_needs *n, struct err *e)
{
    char *path = xasprintf("/admin/families/%s", family); /* name_ok: nothing to encode */
    struct counts was = {0}, now = {0};
    struct timespec t = {.tv_sec = (time_t)(watch_us / 1000000), .tv_nsec = (long)(watch_us % 1000000) * 1000};
    yyjson_doc *doc = NULL;
    double uptime_s = 0;
    const char *device;
    enum err_code rc = cli_json(c, "GET", path, NULL, &doc, e);

    *n = (struct split_needs){.drain_s = 30};
    free(path);
    if (rc == ERR_OK) {
        take_family(n, yyjson_doc_get_root(doc), family);
    }
    yyjson_doc_free(doc);
    if (rc == ERR_OK && n->n_models == 0) {
        rc = err_set(e, ERR_CONFLICT, "no model is of family '%s': there is nothing to promote", family);
    }
    if (rc == ERR_OK && (rc = look(c, n, &was, false, e)) == ERR_OK) {
        nanosleep(&t, NULL);
        rc = look(c, n, &now, true, e);
    }
    if (rc == ERR_OK && (rc = take_server(c, n, &uptime_s, e)) == ERR_OK) {
        rate_of(n, &was, &now, uptime_s);
        n->buffers = bytes_of(n, "queue_bytes") + bytes_of(n, "output_bytes");
        device = split_setting(n, "device");
        n->gpu = device && strncmp(device, "cuda:", 5) == 0;
    }
    free(was.list);
    free(now.list);
    return rc;
}

void split_needs_done(struct split_needs *n)
{
    for (size_t i = 0; i < n->n_models; i++) {
        free(n->model[i]);
    }
    for (size_t i = 0; i < n->n_settings; i++) {
        free(n->setting[i].name);
        free(n->setting[i].value);
    }
    free(n->model);
    free(n->setting);
    free(n->place);
    free(n->config);
    *n = (struct split_needs){0};
}

/* ---- sizes ---- */

static uint64_t up_to(uint64_t v, uint64_t step)
{
    return (v + step - 1) / step * step;
}

void split_size(const struct split_needs *n, struct split_size *out)
{
    uint64_t models = n->versions ? n->memory : SPLIT_PRESET_MEMORY, next = n->versions ? n->largest : models;
    double cores = n->requests ? n->rate * n->service_s : SPLIT_PRESET_CORES;
    /* Each alone can do it all, at the utilisation that is aimed at, up to four cores; what is more is spread. */
    double asked = cores * 100 / SPLIT_UTILISATION;
    unsigned spread = (unsigned)MIN(ceil(asked / 4), 100.0);

    out->memory_mib = up_to((models + SERVER_BYTES) / MIB + 1, 16);
    out->memory_max_mib = up_to((models + models / 4 + next + n->buffers + SERVER_BYTES) / MIB + 1, 64);
    out->cpu_milli = (unsigned)up_to((uint64_t)(MAX(asked / MAX(spread, 1u), 0.1) * 1000), 50);
    out->replicas = n->gpu ? MAX(spread, 1u) : MAX(spread + 1, 2u);
    out->replicas_max = out->replicas * 4;
    out->grace_s = (unsigned)n->drain_s + SPLIT_PRE_STOP_S + 10;
}

/* ---- where to ---- */

static bool host_ok(struct str h)
{
    for (size_t i = 0; i < h.n; i++) {
        char c = h.p[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
              c == '_')) {
            return false;
        }
    }
    return h.n > 0 && h.n < 254 && h.p[0] != '.' && h.p[0] != '-';
}

/* What a DNS label may hold of it. */
static void label_of(char out[64], struct str s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.n && n < 63; i++) {
        char c = s.p[i];

        c = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        c = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '-';
        if (c != '-' || n > 0) {
            out[n++] = c;
        }
    }
    while (n > 0 && out[n - 1] == '-') {
        n--;
    }
    out[n] = '\0';
}

static void names_of(struct split_to *t, const char *family)
{
    const char *dot = strchr(t->host, '.'), *svc = strstr(t->host, ".svc");
    bool numeric = strspn(t->host, "0123456789.:abcdefABCDEF") == strlen(t->host) && strpbrk(t->host, ".:");

    if (!numeric) {
        label_of(t->service, (struct str){t->host, dot ? (size_t)(dot - t->host) : strlen(t->host)});
    }
    if (t->service[0] < 'a' || t->service[0] > 'z') { /* a Service's name begins with a letter */
        char *name = xasprintf("weir-%s", family);

        label_of(t->service, str_of(name));
        free(name);
    }
    t->outside = numeric || (dot && !svc);
    if (!numeric && dot && svc && svc > dot && (svc[4] == '\0' || svc[4] == '.') && svc - dot - 1 < 64) {
        label_of(t->space, (struct str){dot + 1, (size_t)(svc - dot - 1)});
    }
}

enum err_code split_to(struct split_to *t, const char *text, const char *family, struct err *e)
{
    const char *scheme = strstr(text, "://"), *host = scheme ? scheme + 3 : text, *colon = strrchr(host, ':');
    bool six = host[0] == '[';
    const char *close = six ? strchr(host, ']') : NULL;
    struct str name, kind = {scheme ? text : "weir", scheme ? (size_t)(scheme - text) : 4};
    uint64_t port;

    *t = (struct split_to){.place = ""};
    if (!str_is(kind, "weir") && !str_is(kind, "http")) {
        return err_set(e, ERR_INVALID, "--to %s: a place is weir://HOST:PORT (another Weir) or http://HOST:PORT", text);
    }
    if (!colon || (six && (!close || colon != close + 1)) || !str_u64(str_of(colon + 1), &port) || port == 0 ||
        port > 65535) {
        return err_set(e, ERR_INVALID, "--to %s: it wants HOST:PORT, like vision.internal:8000", text);
    }
    name = six ? (struct str){host + 1, (size_t)(close - host - 1)} : (struct str){host, (size_t)(colon - host)};
    if (six ? name.n == 0 || strspn(name.p, "0123456789abcdefABCDEF:.") < name.n : !host_ok(name)) {
        return err_set(e, ERR_INVALID, "--to %s: '%.*s' is no host", text, (int)MIN(name.n, (size_t)100), name.p);
    }
    if (!str_copy(t->host, sizeof(t->host), name)) {
        return err_set(e, ERR_INVALID, "--to: the host is too long");
    }
    snprintf(t->port, sizeof(t->port), "%u", (unsigned)port);
    snprintf(t->place, sizeof(t->place), six ? "%.*s://[%s]:%s" : "%.*s://%s:%s", (int)kind.n, kind.p, t->host,
             t->port);
    names_of(t, family);
    return ERR_OK;
}
