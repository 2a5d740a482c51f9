/* SPDX-License-Identifier: Apache-2.0 */
/* Where a version runs: as its family's `place` says, or its own `upstream`. */
#include <stdio.h>
#include <stdlib.h>

#include "base/url.h"
#include "control/control_priv.h"

static const struct {
    const char *scheme;
    enum place place;
} far_schemes[] = {{"http", PLACE_HTTP}, {"weir", PLACE_WEIR}};

/* Of an address: the place, or why it is none. */
static enum err_code far_scheme(const char *text, const char *key, enum place *out, struct err *e)
{
    static const char *const later[] = {"https", "grpc", "grpcs"};
    struct url u;

    if (url_parse(&u, str_of(text), 80, e) != ERR_OK) {
        return e->code;
    }
    for (size_t i = 0; i < COUNT_OF(far_schemes); i++) {
        if (strcmp(u.scheme, far_schemes[i].scheme) == 0) {
            *out = far_schemes[i].place;
            return ERR_OK;
        }
    }
    for (size_t i = 0; i < COUNT_OF(later); i++) {
        if (strcmp(u.scheme, later[i]) == 0) {
            return err_set(e, ERR_UNIMPLEMENTED, "%s: %s:// is not part of this server yet; http:// and weir:// are",
                           key, u.scheme);
        }
    }
    return err_set(e, ERR_INVALID, "%s: '%s' is no scheme of another server: http:// or weir://", key, u.scheme);
}

enum err_code family_place(struct family *f, struct err *e)
{
    enum place place = PLACE_WORKER;

    if (strcmp(f->place_text, "worker") == 0) {
        place = PLACE_WORKER;
    } else if (strcmp(f->place_text, "inline") == 0) {
        place = PLACE_INLINE;
    } else if (!strstr(f->place_text, "://")) {
        return err_set(e, ERR_INVALID, "place: '%s' is neither worker, inline, http://HOST:PORT nor weir://HOST:PORT",
                       f->place_text);
    } else if (far_scheme(f->place_text, "place", &place, e) != ERR_OK) {
        return e->code;
    }
    f->place = (int)place;
    return ERR_OK;
}

enum place version_place(const struct version *v)
{
    return v->upstream.url ? PLACE_HTTP : (enum place)v->family->place;
}

bool place_is_far(enum place place)
{
    return place == PLACE_HTTP || place == PLACE_WEIR;
}

const char *family_place_name(const struct family *f)
{
    return place_is_far((enum place)f->place) ? f->place_text : f->place == PLACE_INLINE ? "inline" : "worker";
}

const char *version_place_name(const struct version *v)
{
    return v->upstream.url ? v->upstream.url : family_place_name(v->family);
}

bool version_far(const struct version *v, struct far_place *out, char number[24])
{
    const struct model *m = v->model;

    if (!place_is_far(version_place(v))) {
        return false;
    }
    snprintf(number, 24, "%lld", (long long)v->row.number);
    *out = v->upstream.url ? v->upstream
                           : (struct far_place){.url = v->family->place_text, .model = m->row.name, .version = number};
    out->digest = v->row.digest;
    out->token_file = v->upstream.url ? NULL : v->family->token_file;
    return true;
}

/* ---- model.yaml's upstream ---- */

void upstream_done(struct version *v)
{
    free((char *)(uintptr_t)v->upstream.url);
    free((char *)(uintptr_t)v->upstream.model);
    free((char *)(uintptr_t)v->upstream.version);
    v->upstream = (struct far_place){0};
}

static enum err_code read_url(const struct conf *y, const struct conf_node *at, const char *url, struct err *e)
{
    enum place place;
    struct err why;

    if (far_scheme(url, "upstream.url", &place, &why) != ERR_OK) {
        conf_error(y, at, e, "%s", why.text);
        return e->code = why.code;
    }
    if (place != PLACE_HTTP) {
        return conf_error(y, at, e, "upstream.url: weir:// is for a family's place; an upstream is http://HOST:PORT");
    }
    return ERR_OK;
}

enum err_code upstream_read(struct version *v, const struct conf *y, struct err *e)
{
    const struct conf_node *n = y ? conf_find(y->root, "upstream") : NULL;
    const char *text[3] = {NULL, v->model->row.name, ""};
    static const char *const keys[] = {"url", "model", "version"};
    bool alone = strcmp(v->row.backend, BACKEND_UPSTREAM) == 0;

    upstream_done(v);
    if (!n) {
        return alone && !place_is_far((enum place)v->family->place)
                   ? err_set(e, ERR_REFUSED,
                             "no model in it: a version is a folder with model.onnx, or with a model.yaml that says "
                             "upstream: {url: http://HOST:PORT}")
                   : ERR_OK;
    }
    if (!alone) {
        return conf_error(y, n, e, "upstream: there is a model beside it; a version has one or the other");
    }
    if (n->kind != CONF_MAP) {
        return conf_error(y, n, e, "upstream is a map: {url: http://HOST:PORT, model: NAME, version: \"N\"}");
    }
    for (const struct conf_node *i = n->child; i; i = i->next) {
        size_t k = 0;

        while (k < COUNT_OF(keys) && strcmp(i->key, keys[k]) != 0) {
            k++;
        }
        if (k == COUNT_OF(keys) || i->kind != CONF_SCALAR) {
            return conf_error(y, i, e, "upstream.%s: its keys are url, model and version", i->key);
        }
        if (k > 0 && !name_ok(str_of(i->text))) {
            return conf_error(y, i, e, "upstream.%s: a name has letters, digits, '.', '_' and '-'", i->key);
        }
        text[k] = i->text;
    }
    if (!text[0]) {
        return conf_error(y, n, e, "upstream: url is missing");
    }
    if (read_url(y, n, text[0], e) != ERR_OK) {
        return e->code;
    }
    v->upstream = (struct far_place){.url = xstrdup(text[0]), .model = xstrdup(text[1]), .version = xstrdup(text[2])};
    return ERR_OK;
}
