/* SPDX-License-Identifier: Apache-2.0 */
/* The price table: what machines, services and hops cost, and what is worth it. One row a key: parser, presets, and the
 * file that `weir advise --print-prices` gives to be edited. */
#include <stdlib.h>

#include "cli/plan.h"

/* clang-format off */
const struct setting prices_settings[] = {
    {"currency", SET_STRING, offsetof(struct prices, currency), "USD", 1, 12, NULL, "as it is printed"},
    {"hours", SET_DECIMAL, offsetof(struct prices, hours), "730", 1000000, 744000000, NULL,
     "of a month that machines run"},
    {"processor", SET_DECIMAL, offsetof(struct prices, processor), "0.032", 0, 0, NULL, "an hour of one processor"},
    {"memory", SET_DECIMAL, offsetof(struct prices, memory), "0.0043", 0, 0, NULL, "an hour of one GiB"},
    {"gpu", SET_DECIMAL, offsetof(struct prices, gpu), "0.60", 0, 0, NULL, "an hour of one GPU"},
    {"service", SET_DECIMAL, offsetof(struct prices, service), "120", 0, 0, NULL,
     "a month of operating one more service: deploying, watching, being called at night"},
    {"hop", SET_DURATION, offsetof(struct prices, hop_us), "500us", 0, 10000000, NULL,
     "what a request to another host takes longer"},
    {"machine.least_processors", SET_U64, offsetof(struct prices, least_processors), "2", 1, 512, NULL,
     "of the smallest machine there is"},
    {"machine.most_processors", SET_U64, offsetof(struct prices, most_processors), "16", 1, 512, NULL,
     "of the largest; then a second one is needed"},
    {"machine.least_memory", SET_BYTES, offsetof(struct prices, least_memory), "4GiB", 1048576, 0, NULL,
     "of the smallest machine"},
    {"machine.spare_memory", SET_BYTES, offsetof(struct prices, spare_memory), "1GiB", 0, 0, NULL,
     "for the system, and for a second version while one is being changed"},
    {"machine.most_busy", SET_SHARE, offsetof(struct prices, most_busy), "70%", 100, 10000, NULL,
     "its processors are never planned to be busier than this"},
    {"target.p99", SET_DURATION, offsetof(struct prices, p99_us), "50ms", 1, 3600000000ull, NULL,
     "an answer's p99 may always take as long as this,"},
    {"target.times", SET_DECIMAL, offsetof(struct prices, p99_times), "3", 1000000, 1000000000, NULL,
     "or so many times what it takes when nothing else runs, whichever is more"},
    {"rules.saving", SET_SHARE, offsetof(struct prices, saving), "15%", 0, 10000, NULL,
     "promote what costs so much less apart,"},
    {"rules.saving_least", SET_DECIMAL, offsetof(struct prices, saving_least), "50", 0, 0, NULL,
     "and at least so much less a month"},
    {"rules.isolation", SET_DECIMAL, offsetof(struct prices, isolation), "0", 0, 0, NULL,
     "what it may cost more a month that a burst of one family takes no other beyond its target"},
    {"rules.burst", SET_DECIMAL, offsetof(struct prices, burst), "3", 1000000, 100000000, NULL,
     "how many times its usual load a burst is"},
    {"rules.enough_requests", SET_U64, offsetof(struct prices, enough_requests), "1000", 1, 0, NULL,
     "a family with fewer says too little,"},
    {"rules.enough_time", SET_DURATION, offsetof(struct prices, enough_us), "10m", 1, 0, NULL,
     "and so does a profile of a shorter time"},
    {"application.processors", SET_DECIMAL, offsetof(struct prices, app_processors), "0", 0, 512000000, NULL,
     "what the application uses on the same machine; with 0 it is taken to be elsewhere"},
    {"application.memory", SET_BYTES, offsetof(struct prices, app_memory), "0", 0, 0, NULL, "the same"},
};
/* clang-format on */
const size_t n_prices_settings = COUNT_OF(prices_settings);

static const struct setting family_rows[] = {
    {"p99", SET_DURATION, offsetof(struct prices_family, p99_us), "50ms", 1, 3600000000ull, NULL, "its own target"},
};

static enum err_code read_families(struct prices *p, const struct conf *c, const struct conf_node *map, struct err *e)
{
    if (map->kind != CONF_MAP) {
        return conf_error(c, map, e, "families is a map: {vision: {p99: 300ms}}");
    }
    for (const struct conf_node *n = map->child; n; n = n->next) {
        struct prices_family f = {0};

        if (n->kind != CONF_MAP || !conf_find(n, "p99")) {
            return conf_error(c, n, e, "families.%s: a family has a p99, as in {p99: 300ms}", n->key);
        }
        settings_defaults(family_rows, COUNT_OF(family_rows), &f);
        if (settings_read(family_rows, COUNT_OF(family_rows), c, n, NULL, &f, e) != ERR_OK) {
            return e->code;
        }
        f.name = xstrdup(n->key);
        p->family = xrealloc(p->family, (p->n_families + 1) * sizeof(p->family[0]));
        p->family[p->n_families++] = f;
    }
    return ERR_OK;
}

enum err_code prices_read(struct prices *out, const char *path, struct err *e)
{
    static const char *const except[] = {"families", NULL};
    AUTO(conf) c = NULL;
    const struct conf_node *families;

    *out = (struct prices){0};
    settings_defaults(prices_settings, n_prices_settings, out);
    if (!path) {
        return ERR_OK;
    }
    if (conf_read_file(&c, path, e) != ERR_OK ||
        settings_read(prices_settings, n_prices_settings, c, c->root, except, out, e) != ERR_OK) {
        prices_done(out);
        return e->code;
    }
    families = conf_find(c->root, "families");
    if (families && read_families(out, c, families, e) != ERR_OK) {
        prices_done(out);
        return e->code;
    }
    if (out->least_processors > out->most_processors) {
        prices_done(out);
        return err_set(e, ERR_INVALID, "%s: machine.least_processors is more than machine.most_processors", path);
    }
    return ERR_OK;
}

void prices_done(struct prices *p)
{
    for (size_t i = 0; i < p->n_families; i++) {
        free(p->family[i].name);
    }
    free(p->family);
    settings_done(prices_settings, n_prices_settings, p);
    *p = (struct prices){0};
}

void prices_write(struct buf *out)
{
    size_t open = 0; /* length of the group that the last key was in */
    const char *group = "";

    BUF_LIT(
        out,
        "# What weir advise reckons with: weir advise --prices FILE. Every key is optional; these are the presets,\n"
        "# round figures of a large cloud's machines on demand. Put your own.\n");
    for (size_t i = 0; i < n_prices_settings; i++) {
        const struct setting *row = &prices_settings[i];
        const char *dot = strchr(row->name, '.');
        size_t n = dot ? (size_t)(dot - row->name) : 0, line;

        if (n > 0 && (n != open || strncmp(group, row->name, n) != 0)) {
            buf_addf(out, "%.*s:\n", (int)n, row->name);
        }
        open = n;
        group = row->name;
        line = out->n;
        buf_addf(out, "%s%s: %s", n ? "  " : "", row->name + (n ? n + 1 : 0), row->preset);
        do {
            buf_addc(out, ' ');
        } while (out->n - line < 28 && !out->over);
        buf_addf(out, "# %s\n", row->help);
    }
    BUF_LIT(out, "# families:                 # a target of its own for a family\n"
                 "#   vision: {p99: 300ms}\n");
}
