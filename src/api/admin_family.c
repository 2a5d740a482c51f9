/* SPDX-License-Identifier: Apache-2.0 */
/* /admin/families: where the families' models run, by which settings, and to another place while the server runs.
 *
 *     FAMILY   {"name", "place", "configured", "switched": {"at", "by"} | null, "moving_to", "rules", "models":
 * [NAME…], "settings": [{"name", "value", "preset"}…]}
 *
 * configured: what weir.yaml says, null where it does not name the family. switched: the place was changed since then.
 * rules: "weir.yaml" or "switch": which of the two counts at the next start, as long as the file stays as it is.
 * POST {"place", "token_file"?, "trial"?} or {"undo": true}; trial: every version is opened there, and closed again.
 * settings: as they may stand in weir.yaml ("batch.max": max in the map batch); preset: it is the default.
 *
 * Thread: control's loop. */
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

static void put_settings(struct buf *b, const struct family *f)
{
    struct family preset = {.made = false};
    struct buf value, usual;

    settings_defaults(family_settings, n_family_settings, &preset);
    buf_init(&value, 4096);
    buf_init(&usual, 4096);
    json_key(b, "settings");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < n_family_settings; i++) {
        buf_clear(&value);
        buf_clear(&usual);
        setting_text(&family_settings[i], f, &value);
        setting_text(&family_settings[i], &preset, &usual);
        json_comma(b);
        BUF_LIT(b, "{");
        json_put_text(b, "name", family_settings[i].name);
        json_put_text(b, "value", buf_z(&value));
        json_key(b, "preset");
        buf_addz(b, str_eq(buf_str(&value), buf_str(&usual)) ? "true" : "false");
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
    buf_done(&value);
    buf_done(&usual);
    settings_done(family_settings, n_family_settings, &preset);
}

static void put_models(struct buf *b, struct control *c, const struct family *f)
{
    struct model *const *models;
    size_t n = control_models(c, &models);

    json_key(b, "models");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < n; i++) {
        if (models[i]->family == f) {
            json_comma(b);
            json_strz(b, models[i]->row.name);
        }
    }
    BUF_LIT(b, "]");
}

static void put_family(struct buf *b, struct control *c, const struct family *f)
{
    bool switched = f->switched.place[0] != '\0';

    BUF_LIT(b, "{");
    json_put_text(b, "name", f->name);
    json_put_text(b, "place", family_place_name(f));
    json_put_text(b, "configured", family_configured(f));
    json_key(b, "switched");
    if (switched) {
        BUF_LIT(b, "{\"at\":");
        json_time(b, f->switched.at_ms);
        json_put_text(b, "by", f->switched.actor);
        BUF_LIT(b, "}");
    } else {
        BUF_LIT(b, "null");
    }
    json_put_text(b, "rules", switched ? "switch" : "weir.yaml");
    json_put_text(b, "moving_to", family_moving(c, f));
    put_models(b, c, f);
    put_settings(b, f);
    BUF_LIT(b, "}");
}

void admin_list_families(struct request *r)
{
    struct family *const *all;
    size_t n = control_families(r->plane->control, &all);
    struct buf *b = json_reply(r, 200);

    BUF_LIT(b, "{\"families\":[");
    for (size_t i = 0; i < n; i++) {
        json_comma(b);
        put_family(b, r->plane->control, all[i]);
    }
    BUF_LIT(b, "]}");
    http_reply_end(r->x);
}

/* The family of that name; a model's name stands for its family. NULL: there is neither. */
static const struct family *find_family(struct control *c, struct str name)
{
    struct family *const *all;
    size_t n = control_families(c, &all);
    const struct model *m = control_model(c, name);

    for (size_t i = 0; i < n; i++) {
        if (str_is(name, all[i]->name)) {
            return all[i];
        }
    }
    return m ? m->family : NULL;
}

static void reply_family(struct request *r, struct str name)
{
    const struct family *f = find_family(r->plane->control, name);
    struct err e;

    if (f) {
        put_family(json_reply(r, 200), r->plane->control, f);
        http_reply_end(r->x);
    } else {
        err_set(&e, ERR_NOT_FOUND, "no family '%.*s' in the configuration, and no model of that name",
                (int)MIN(name.n, (size_t)100), name.p);
        reply_err(r, &e);
    }
}

void admin_show_family(struct request *r)
{
    reply_family(r, r->arg[0]);
}

/* ---- POST ---- */

struct switching {
    struct ticket ticket;
    char name[NAME_MAX_LEN + 1];
};

static void switched(void *ctx, const struct err *e)
{
    struct switching *g = ctx;
    struct request *r = ticket_close(&g->ticket);

    if (r && e->code != ERR_OK) {
        reply_err(r, e);
    } else if (r) {
        reply_family(r, str_of(g->name));
    }
    free(g);
}

void admin_change_family(struct request *r)
{
    struct member m[] = {
        {.name = "place"}, {.name = "undo", .flag = true}, {.name = "token_file"}, {.name = "trial", .flag = true}};
    yyjson_doc *doc = NULL;
    struct err e;

    if (read_body(r, m, COUNT_OF(m), &doc, &e) != ERR_OK) {
        reply_err(r, &e);
    } else if (m[0].given == (m[1].given && m[1].value)) {
        err_set(&e, ERR_INVALID,
                "either \"place\": where its models shall run (with \"token_file\", \"trial\"), or \"undo\": true, "
                "back to where weir.yaml says");
        reply_err(r, &e);
    } else {
        struct switching *g = xcalloc(1, sizeof(*g));

        str_copy(g->name, sizeof(g->name), r->arg[0]);
        ticket_open(&g->ticket, r, NULL);
        control_place(r->plane->control, r->arg[0],
                      &(struct place_order){.place = m[0].given ? m[0].text : (struct str){NULL, 0},
                                            .token_file = m[2].given ? m[2].text : (struct str){NULL, 0},
                                            .trial = m[3].given && m[3].value,
                                            .actor = ADMIN_ACTOR},
                      switched, g);
    }
    yyjson_doc_free(doc);
}
