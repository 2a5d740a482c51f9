/* SPDX-License-Identifier: Apache-2.0 */
/* Reading weir.yaml and the options of `weir serve`. An option wins over the file, the file over the defaults. */
#include "house_conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "inference/device.h"

#define DATA_DIR "weir-data"

static const char *const level_words[] = {"debug", "info", "warn", "error", NULL};

static const char *const role_words[] = {"server", "inference", NULL};

static const char *const sandbox_words[] = {"on", "required", NULL};

#define AT(field) offsetof(struct house_conf, field)
static const struct setting settings[] = {
    {"listen", SET_STRING, AT(listen), "127.0.0.1:8000", 1, 200, NULL,
     "address of the data plane (host:port or unix:/path)"},
    {"admin", SET_STRING, AT(admin), "127.0.0.1:8009", 1, 200, NULL,
     "address of the admin plane; anything but loopback needs admin_token_file"},
    {"store", SET_STRING, AT(store), NULL, 1, 1000, NULL, "sqlite:FILE; default: weir.db in the data folder"},
    {"artifacts", SET_STRING, AT(artifacts), NULL, 1, 1000, NULL,
     "folder of the artifacts; default: artifacts in the data folder"},
    {"threads", SET_U64, AT(threads), "0", 0, SHARDS_MAX, NULL, "connection threads; 0: one a processor"},
    {"body_max", SET_BYTES, AT(body_max), "64MiB", 1024, 1ull << 32, NULL, "largest body of a request, then 413"},
    {"connections", SET_U64, AT(connections), "10000", 1, 1000000, NULL, "open connections of a plane; more wait"},
    {"drain", SET_DURATION, AT(drain_us), "30s", 0, 3600000000ull, NULL, "how long requests may finish after SIGTERM"},
    {"user_header", SET_STRING, AT(user_header), "x-weir-user", 1, 100, NULL, "header with the assignment key"},
    {"admin_token_file", SET_STRING, AT(admin_token_file), NULL, 1, 1000, NULL,
     "file whose first line is the admin token"},
    {"import_root", SET_STRING, AT(import_root), NULL, 1, 1000, NULL,
     "folder from which versions may be registered by path"},
    {"sandbox", SET_ENUM, AT(sandbox), "on", 0, 0, sandbox_words,
     "on: workers are shut in as far as the kernel can; required: refuse to run where it can not wholly"},
    {"memory", SET_BYTES, AT(memory), "0", 0, 1ull << 46, NULL,
     "host memory that loaded versions may take together; 0: four fifths of the machine's"},
    {"role", SET_ENUM, AT(role), "server", 0, 0, role_words,
     "inference: takes versions and jobs from gateways (their place: weir://), and leaves routing and rollouts to "
     "them"},
    {"hold", SET_DURATION, AT(hold_us), "2m", 1000000, 86400000000ull, NULL,
     "inference role: how long a version stays in memory that no gateway asks for"},
    {"onnxruntime", SET_STRING, AT(onnxruntime), NULL, 1, 500, NULL, "path of libonnxruntime.so; default: looked for"},
    {"trace_slow", SET_DURATION, AT(trace.slow_us), "0", 0, 3600000000ull, NULL,
     "requests that take longer are kept for weir trace; 0: those above the p99 of what they are counted in"},
    {"trace_sample", SET_SHARE, AT(trace.sample_bp), "1%", 0, 0, NULL,
     "share of the traces that weir trace finds though nothing was wrong with them"},
    {"log", SET_ENUM, AT(log_level), "info", 0, 0, level_words, "least level of the log"},
};
static const char *const sections[] = {"families", "rollouts", "events", "capture", NULL};

static int wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int wrong(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "weir serve: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n(weir help serve lists the options)\n");
    va_end(ap);
    return 2;
}

static struct family *family_add(struct house_conf *c, const char *name)
{
    struct family *f;

    c->families = xrealloc(c->families, (c->n_families + 1) * sizeof(struct family));
    f = &c->families[c->n_families++];
    memset(f, 0, sizeof(*f));
    settings_defaults(family_settings, n_family_settings, f);
    f->capture = c->capture.rule;
    snprintf(f->name, sizeof(f->name), "%s", name);
    return f;
}

/* `redact`: a name, or a list of names; it takes the place of what was said before. */
static enum err_code read_redact(const struct conf *y, const struct conf_node *map, struct capture_rule *rule,
                                 struct err *e)
{
    const struct conf_node *at = conf_find(map, "redact");
    struct err why;

    if (!at) {
        return ERR_OK;
    }
    memset(rule->redact, 0, sizeof(rule->redact));
    for (const struct conf_node *n = at->kind == CONF_LIST ? at->child : at; n; n = n == at ? NULL : n->next) {
        if (n->kind != CONF_SCALAR) {
            return conf_error(y, n, e, "capture.redact is a list of names: [text, user]");
        }
        if (capture_redact(rule, str_of(n->text), &why) != ERR_OK) {
            return conf_error(y, n, e, "capture.redact: %s", why.text);
        }
    }
    return ERR_OK;
}

static const char *const capture_apart[] = {"redact", NULL};

/* What a family says anew of what is captured. */
static enum err_code read_family_capture(const struct conf *y, const struct conf_node *family, struct family *f,
                                         struct err *e)
{
    const struct conf_node *at = conf_find(family, "capture");

    if (!at) {
        return ERR_OK;
    }
    if (at->kind != CONF_MAP) {
        return conf_error(y, at, e, "families.%s.capture is a map: {sample: 10%%, redact: [text]}", f->name);
    }
    return settings_read(capture_settings, n_capture_rule_settings, y, at, capture_apart, &f->capture, e) == ERR_OK
               ? read_redact(y, at, &f->capture, e)
               : e->code;
}

static enum err_code read_capture(struct house_conf *c, const struct conf *y, struct err *e)
{
    const struct conf_node *at = conf_find(y->root, "capture");

    if (at && at->kind != CONF_MAP) {
        return conf_error(y, at, e, "capture is a map: {sample: 10%%, redact: [text], max_bytes: 1GiB, …}");
    }
    if (settings_read(capture_settings, n_capture_settings, y, at, capture_apart, &c->capture, e) != ERR_OK ||
        (at && read_redact(y, at, &c->capture.rule, e) != ERR_OK)) {
        return e->code;
    }
    if (c->capture.segment_bytes > c->capture.max_bytes / 4) {
        return conf_error(y, at, e,
                          "capture: segment_bytes is more than a quarter of max_bytes: whole segments make room, so "
                          "too much would go at once");
    }
    return ERR_OK;
}

/* What one row of the table can not say. A GPU's runtime and driver are not loaded into the server's own process: they
 * start threads, and their failures are the process's. */
static enum err_code check_device(const struct conf *y, const struct conf_node *family, const struct family *f,
                                  struct err *e)
{
    const struct conf_node *at = conf_find(family, "device");
    struct device d;

    if (!device_parse(&d, f->device)) {
        return conf_error(y, at ? at : family, e, "families.%s.device: '%s' is no device: cpu, or cuda:N (cuda:0)",
                          f->name, f->device);
    }
    if (d.cuda && f->place == PLACE_INLINE) {
        return conf_error(y, at ? at : family, e,
                          "families.%s.device: %s is for place: worker; inline models run on the processor", f->name,
                          f->device);
    }
    return ERR_OK;
}

/* The place as text means something. A device beside a far one, or a token_file beside one that is here, is for when
 * the family moves: its place is the only thing that changes. */
static enum err_code check_place(const struct conf *y, const struct conf_node *family, struct family *f, struct err *e)
{
    const struct conf_node *at = conf_find(family, "place");
    struct err why;

    if (family_place(f, &why) != ERR_OK) {
        return conf_error(y, at ? at : family, e, "families.%s.%s", f->name, why.text);
    }
    return ERR_OK;
}

static enum err_code read_families(struct house_conf *c, const struct conf *y, struct err *e)
{
    static const char *const apart[] = {"capture", NULL};
    const struct conf_node *all = conf_find(y->root, "families");

    if (all && all->kind != CONF_MAP) {
        return conf_error(y, all, e, "families is a map: NAME: {place: worker, …}");
    }
    for (const struct conf_node *n = all ? all->child : NULL; n; n = n->next) {
        struct family *f;

        if (!name_ok(str_of(n->key))) {
            return conf_error(y, n, e, "'%s' is no name for a family: letters, digits, '.', '_' and '-'", n->key);
        }
        if (n->kind == CONF_SCALAR) {
            return conf_error(y, n, e, "families.%s is a map: {place: worker, …}", n->key);
        }
        f = family_add(c, n->key);
        if (settings_read(family_settings, n_family_settings, y, n, apart, f, e) != ERR_OK ||
            check_place(y, n, f, e) != ERR_OK || check_device(y, n, f, e) != ERR_OK ||
            read_family_capture(y, n, f, e) != ERR_OK) {
            return e->code;
        }
    }
    return ERR_OK;
}

static struct rollout_policy *policy_add(struct house_conf *c, const char *name)
{
    struct rollout_policy *p;

    c->policies = xrealloc(c->policies, (c->n_policies + 1) * sizeof(struct rollout_policy));
    p = &c->policies[c->n_policies++];
    policy_default(p, name);
    return p;
}

/* `steps`: "1%,5%,25%", or a list of shares. */
static enum err_code read_steps(const struct conf *y, const struct conf_node *at, struct rollout_policy *p,
                                struct err *e)
{
    enum err_code rc = ERR_OK;
    struct buf text;
    struct err why;

    buf_init(&text, 4096);
    if (at->kind == CONF_SCALAR) {
        buf_addz(&text, at->text);
    }
    for (const struct conf_node *n = at->kind == CONF_LIST ? at->child : NULL; n; n = n->next) {
        if (n->kind != CONF_SCALAR) {
            rc = conf_error(y, n, e, "rollouts.%s.steps: each step is a share: [1%%, 5%%, 25%%]", p->name);
            break;
        }
        buf_addf(&text, "%s%s", n == at->child ? "" : ",", n->text);
    }
    if (rc == ERR_OK && at->kind == CONF_MAP) {
        rc = conf_error(y, at, e, "rollouts.%s.steps is a list of shares: \"1%%,5%%,25%%\" or [1%%, 5%%, 25%%]",
                        p->name);
    } else if (rc == ERR_OK && (text.over || policy_steps(p, buf_str(&text), &why) != ERR_OK)) {
        rc = conf_error(y, at, e, "rollouts.%s: %s", p->name, text.over ? "steps: too long" : why.text);
    }
    buf_done(&text);
    return rc;
}

static enum err_code check_policy_name(const struct conf *y, const struct conf_node *n, struct err *e)
{
    if (!name_ok(str_of(n->key))) {
        return conf_error(y, n, e, "'%s' is no name for a rollout policy: letters, digits, '.', '_' and '-'", n->key);
    }
    if (strcmp(n->key, "manual") == 0) {
        return conf_error(y, n, e, "rollouts.manual: the name is taken by rollouts that a person moves on (--share)");
    }
    return ERR_OK;
}

/* Each policy is the built-in one but for what it says; `default` may be said anew like any other. */
static enum err_code read_rollouts(struct house_conf *c, const struct conf *y, struct err *e)
{
    static const char *const apart[] = {"steps", NULL};
    const struct conf_node *all = conf_find(y->root, "rollouts");

    if (all && all->kind != CONF_MAP) {
        return conf_error(y, all, e, "rollouts is a map: NAME: {steps: \"1%%,5%%,25%%\", bake: 10m, …}");
    }
    for (const struct conf_node *n = all ? all->child : NULL; n; n = n->next) {
        const struct conf_node *steps;
        struct rollout_policy *p;

        if (check_policy_name(y, n, e) != ERR_OK) {
            return e->code;
        }
        if (n->kind != CONF_MAP) {
            return conf_error(y, n, e, "rollouts.%s is a map: {steps: \"1%%,5%%,25%%\", bake: 10m, …}", n->key);
        }
        p = policy_add(c, n->key);
        steps = conf_find(n, "steps");
        if (settings_read(policy_settings, n_policy_settings, y, n, apart, p, e) != ERR_OK ||
            (steps && read_steps(y, steps, p, e) != ERR_OK)) {
            return e->code;
        }
    }
    return ERR_OK;
}

static enum err_code read_events(struct house_conf *c, const struct conf *y, struct err *e)
{
    const struct conf_node *at = conf_find(y->root, "events");

    if (at && at->kind != CONF_MAP) {
        return conf_error(y, at, e, "events is a map: {webhook: URL, secret_file: FILE}");
    }
    return settings_read(webhook_settings, n_webhook_settings, y, at, NULL, &c->webhook, e);
}

static enum err_code read_file(struct house_conf *c, const char *path, struct err *e)
{
    AUTO(conf) y = NULL;

    if (conf_read_file(&y, path, e) != ERR_OK ||
        settings_read(settings, COUNT_OF(settings), y, y->root, sections, c, e) != ERR_OK) {
        return e->code;
    }
    return read_capture(c, y, e) == ERR_OK && read_families(c, y, e) == ERR_OK && read_rollouts(c, y, e) == ERR_OK
               ? read_events(c, y, e)
               : e->code;
}

static void under_data(struct house_conf *c, const char *data)
{
    if (!c->store) {
        c->store = xasprintf("sqlite:%s/weir.db", data);
    }
    if (!c->artifacts) {
        c->artifacts = xasprintf("%s/artifacts", data);
    }
}

struct options {
    const char *file, *data, *listen, *admin, *role, *parent_fd;
};

/* 2 when called wrong, -1: go on. */
static int read_options(struct options *o, int argc, char **argv)
{
    const struct {
        const char *name;
        const char **value;
    } known[] = {
        {"-c", &o->file},       {"--config", &o->file}, {"--data", &o->data},          {"--listen", &o->listen},
        {"--admin", &o->admin}, {"--role", &o->role},   {"--parent-fd", &o->parent_fd}};

    for (int i = 1; i < argc; i += 2) {
        const char **value = NULL;

        for (size_t k = 0; k < COUNT_OF(known); k++) {
            value = strcmp(argv[i], known[k].name) == 0 ? known[k].value : value;
        }
        if (!value) {
            return wrong("'%s' is no option of it", argv[i]);
        }
        if (i + 1 == argc) {
            return wrong("%s wants a value", argv[i]);
        }
        *value = argv[i + 1];
    }
    return -1;
}

static void override(char **field, const char *value)
{
    if (value) {
        free(*field);
        *field = xstrdup(value);
    }
}

static void complete(struct house_conf *c, const char *data)
{
    bool have_default = false, have_policy = false;

    if (data) { /* the option wins over the file's two keys */
        free(c->store);
        free(c->artifacts);
        c->store = c->artifacts = NULL;
    }
    under_data(c, data ? data : DATA_DIR);
    for (size_t i = 0; i < c->n_families; i++) {
        have_default |= strcmp(c->families[i].name, "default") == 0;
    }
    if (!have_default) {
        family_add(c, "default");
    }
    for (size_t i = 0; i < c->n_policies; i++) {
        have_policy |= strcmp(c->policies[i].name, "default") == 0;
    }
    if (!have_policy) {
        policy_add(c, "default");
    }
    if (c->threads == 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);

        c->threads = (uint64_t)MIN(MAX(n, 1), SHARDS_MAX);
    }
}

static void preset(struct house_conf *c)
{
    memset(c, 0, sizeof(*c));
    settings_defaults(settings, COUNT_OF(settings), c);
    settings_defaults(webhook_settings, n_webhook_settings, &c->webhook);
    settings_defaults(capture_settings, n_capture_settings, &c->capture);
    c->parent_fd = UINT64_MAX;
}

int house_conf_read(struct house_conf *c, int argc, char **argv)
{
    struct options o = {0};
    struct err e;
    int rc = read_options(&o, argc, argv);

    preset(c);
    if (rc >= 0) {
        return rc;
    }
    if (o.parent_fd && (!str_u64(str_of(o.parent_fd), &c->parent_fd) || c->parent_fd > INT32_MAX)) {
        return wrong("--parent-fd wants a descriptor's number, not '%s'", o.parent_fd);
    }
    if (o.file && read_file(c, o.file, &e) != ERR_OK) {
        fprintf(stderr, "weir serve: %s\n", e.text);
        return 1;
    }
    if (o.role && strcmp(o.role, "server") != 0 && strcmp(o.role, "inference") != 0) {
        return wrong("--role is server or inference, not '%s'", o.role);
    }
    c->role = o.role ? strcmp(o.role, "inference") == 0 : c->role;
    c->file = o.file ? realpath(o.file, NULL) : NULL;
    override(&c->listen, o.listen);
    override(&c->admin, o.admin);
    complete(c, o.data);
    return -1;
}

enum err_code house_conf_file(struct house_conf *c, const char *file, struct err *e)
{
    bool said;
    char *slash, *data;

    preset(c);
    c->log_level = LOG_WARN;
    if (file && read_file(c, file, e) != ERR_OK) {
        return e->code;
    }
    c->file = file ? realpath(file, NULL) : NULL;
    slash = c->file ? strrchr(c->file, '/') : NULL;
    data = slash ? xasprintf("%.*s/" DATA_DIR, (int)(slash - c->file), c->file) : xstrdup(DATA_DIR);
    under_data(c, data);
    free(data);
    said = c->threads > 0;
    complete(c, NULL);
    c->threads = said ? c->threads : MIN(c->threads, 2u);
    return ERR_OK;
}

void house_conf_done(struct house_conf *c)
{
    settings_done(settings, COUNT_OF(settings), c);
    settings_done(webhook_settings, n_webhook_settings, &c->webhook);
    for (size_t i = 0; i < c->n_families; i++) {
        settings_done(family_settings, n_family_settings, &c->families[i]);
    }
    free(c->file);
    c->file = NULL;
    free(c->families);
    c->families = NULL;
    c->n_families = 0;
    free(c->policies);
    c->policies = NULL;
    c->n_policies = 0;
}
