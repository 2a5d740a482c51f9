/* SPDX-License-Identifier: Apache-2.0 */
/* The shop: joins its modules as the configuration says, and serves until SIGTERM. The only file that knows them all.
 *
 *     shop [-c shop.yaml] [--KEY VALUE]...
 *
 * A key of the file is an option of the command line as well, which wins: `inference: {vision: X}` is
 * --inference.vision X. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "api/api.h"
#include "business/business.h"
#include "data/data.h"
#include "inference/inference.h"

#define WHY_MAX 1024
#define DEPTH_MAX 4

enum key {
    LISTEN,
    ROLE,
    BUSINESS,
    DATA,
    PLACE,
    PLACE_INTENT,
    PLACE_RECOMMEND,
    PLACE_VISION,
    LIMIT_BUSINESS,
    LIMIT_INTENT,
    LIMIT_RECOMMEND,
    LIMIT_VISION,
    KEYS
};

static const struct {
    const char *name, *preset, *help;
} keys[KEYS] = {
    [LISTEN] = {"listen", "127.0.0.1:8080", "HOST:PORT of the pages, or of the business module when it stands alone"},
    [ROLE] = {"role", "all", "all; api: only the pages; business: only the rules, the data and the inference"},
    [BUSINESS] = {"business", "", "role api: http://HOST:PORT of the business module"},
    [DATA] = {"data", "shop.db", "SQLite file"},
    [PLACE] = {"inference", "spawn:weir.yaml", "place of every family that has none of its own"},
    [PLACE_INTENT] = {"inference.intent", "", "spawn:FILE, unix:/PATH, http://HOST:PORT"},
    [PLACE_RECOMMEND] = {"inference.recommend", "", "the same"},
    [PLACE_VISION] = {"inference.vision", "", "the same"},
    [LIMIT_BUSINESS] = {"deadline.business", "4000", "role api: milliseconds that the business module has for a page"},
    [LIMIT_INTENT] = {"deadline.intent", "300", "milliseconds that a page waits for it"},
    [LIMIT_RECOMMEND] = {"deadline.recommend", "300", "the same"},
    [LIMIT_VISION] = {"deadline.vision", "2000", "the same"},
};

struct conf {
    char *value[KEYS]; /* NULL: the preset */
};

static const char *get(const struct conf *c, enum key k)
{
    return c->value[k] ? c->value[k] : keys[k].preset;
}

/* `inference: {default: X}` is the same as `inference: X`. */
static bool set(struct conf *c, const char *name, const char *value, char *why)
{
    for (int k = 0; k < KEYS; k++) {
        if (strcmp(name, keys[k].name) == 0 || (k == PLACE && strcmp(name, "inference.default") == 0)) {
            free(c->value[k]);
            c->value[k] = strdup(value);
            return c->value[k] != NULL;
        }
    }
    snprintf(why, WHY_MAX, "'%s' is no key of it (shop --help lists them)", name);
    return false;
}

/* ---- the file ---- */

static bool read_node(struct conf *c, yaml_document_t *doc, yaml_node_t *node, const char *name, int depth, char *why)
{
    if (node->type == YAML_SCALAR_NODE) {
        return set(c, name, (const char *)node->data.scalar.value, why);
    }
    if (node->type != YAML_MAPPING_NODE || depth == DEPTH_MAX) {
        snprintf(why, WHY_MAX, "line %zu: '%s' is neither a text nor a map", node->start_mark.line + 1, name);
        return false;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(doc, p->key), *value = yaml_document_get_node(doc, p->value);
        char below[200];
        if (key->type != YAML_SCALAR_NODE) {
            snprintf(why, WHY_MAX, "line %zu: a key is no text", key->start_mark.line + 1);
            return false;
        }
        snprintf(below, sizeof below, "%s%s%s", name, *name ? "." : "", (const char *)key->data.scalar.value);
        if (!read_node(c, doc, value, below, depth + 1, why)) {
            return false;
        }
    }
    return true;
}

static bool read_file(struct conf *c, const char *path, char *why)
{
    FILE *f = fopen(path, "rb");
    yaml_parser_t parser;
    yaml_document_t doc;
    if (!f || !yaml_parser_initialize(&parser)) {
        snprintf(why, WHY_MAX, "%s: %m", path);
        if (f) {
            fclose(f);
        }
        return false;
    }
    yaml_parser_set_input_file(&parser, f);
    char what[WHY_MAX - 300] = "";
    bool good = yaml_parser_load(&parser, &doc);
    if (!good) {
        snprintf(what, sizeof what, "line %zu: %s", parser.problem_mark.line + 1,
                 parser.problem ? parser.problem : "?");
    } else {
        yaml_node_t *root = yaml_document_get_root_node(&doc);
        char inner[WHY_MAX] = "";
        good = !root || read_node(c, &doc, root, "", 0, inner);
        text_copy(what, sizeof what, inner);
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    fclose(f);
    if (!good) {
        snprintf(why, WHY_MAX, "%.250s: %s", path, what);
    }
    return good;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: shop [-c FILE] [--KEY VALUE]...\n\nkeys, of the file and of the command line:\n");
    for (int k = 0; k < KEYS; k++) {
        fprintf(to, "  %-20s %s%s%s%s\n", keys[k].name, keys[k].help, *keys[k].preset ? " (" : "", keys[k].preset,
                *keys[k].preset ? ")" : "");
    }
}

static bool read_all(struct conf *c, int argc, char **argv, char *why)
{
    for (int round = 0; round < 2; round++) { /* the file first: what the command line says wins */
        for (int i = 1; i < argc; i += 2) {
            bool file = strcmp(argv[i], "-c") == 0;
            if (i + 1 == argc || (!file && strncmp(argv[i], "--", 2) != 0)) {
                snprintf(why, WHY_MAX, "'%s' is no option of it, or wants a value (shop --help)", argv[i]);
                return false;
            }
            if (file ? round == 0 && !read_file(c, argv[i + 1], why)
                     : round == 1 && !set(c, argv[i] + 2, argv[i + 1], why)) {
                return false;
            }
        }
    }
    for (int k = LIMIT_BUSINESS; k <= LIMIT_VISION; k++) {
        char *end;
        long n = strtol(get(c, (enum key)k), &end, 10);
        if (*end || n < 1 || n > 600000) {
            snprintf(why, WHY_MAX, "%s: '%s' is no number of milliseconds (1 to 600000)", keys[k].name,
                     get(c, (enum key)k));
            return false;
        }
    }
    return true;
}

/* ---- the house ---- */

struct shop {
    struct data *data;
    struct inference *inference;
    struct business *business;
    struct business_server *server;
    struct api *api;
};

static bool open_rules(struct shop *s, const struct conf *c, char *why)
{
    struct inference_conf places;
    for (int i = 0; i < INFERENCE_FAMILIES; i++) {
        const char *own = get(c, (enum key)(PLACE_INTENT + i));
        places.place[i] = *own ? own : get(c, PLACE);
        places.deadline_ms[i] = strtol(get(c, (enum key)(LIMIT_INTENT + i)), NULL, 10);
    }
    if (!data_open(&s->data, get(c, DATA), why, WHY_MAX) || !inference_open(&s->inference, &places, why, WHY_MAX)) {
        return false;
    }
    s->business = business_local(s->data, s->inference);
    return s->business != NULL;
}

static bool open_shop(struct shop *s, const struct conf *c, char *why)
{
    const char *role = get(c, ROLE), *url = get(c, BUSINESS);
    snprintf(why, WHY_MAX, "out of memory");
    if (strcmp(role, "api") == 0) {
        if (strncmp(url, "http://", 7) != 0) {
            snprintf(why, WHY_MAX, "role api wants --business http://HOST:PORT, not '%s'", url);
            return false;
        }
        s->business = business_remote(url, strtol(get(c, LIMIT_BUSINESS), NULL, 10));
        return s->business && api_open(&s->api, s->business, get(c, LISTEN), why, WHY_MAX);
    }
    if (strcmp(role, "business") == 0) {
        return open_rules(s, c, why) && business_serve(&s->server, s->business, get(c, LISTEN), why, WHY_MAX);
    }
    if (strcmp(role, "all") == 0) {
        return open_rules(s, c, why) && api_open(&s->api, s->business, get(c, LISTEN), why, WHY_MAX);
    }
    snprintf(why, WHY_MAX, "'%s' is no role: all, api or business", role);
    return false;
}

static void close_shop(struct shop *s)
{
    api_close(s->api);
    business_server_close(s->server);
    business_close(s->business);
    inference_close(s->inference);
    data_close(s->data);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    /* Blocked before any thread is made: they all inherit it, and sigwait below is the only one that hears. */
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    signal(SIGPIPE, SIG_IGN);

    struct conf c = {0};
    struct shop s = {0};
    char why[WHY_MAX] = "";
    int rc = 0, heard;
    if (!read_all(&c, argc, argv, why)) {
        fprintf(stderr, "shop: %s\n", why);
        rc = 2;
    } else if (!open_shop(&s, &c, why)) {
        fprintf(stderr, "shop: %s\n", why);
        rc = 1;
    } else {
        printf("shop: open at %s\n", s.api ? api_url(s.api) : business_server_url(s.server));
        fflush(stdout);
        sigwait(&ends, &heard);
    }
    close_shop(&s);
    for (int k = 0; k < KEYS; k++) {
        free(c.value[k]);
    }
    return rc;
}
