/* SPDX-License-Identifier: Apache-2.0 */
/* Reading what an admin client sent. Everything is strict: what is misspelt is refused, so that a push with
 * "?canry=5%25" does not go to all users.
 *
 * Thread: control's loop. */
#include <time.h>

#include "api/admin_priv.h"
#include "base/buf.h"

struct model *read_model(struct request *r)
{
    struct model *m = control_model(r->plane->control, r->arg[0]), *const * all;
    size_t n = control_models(r->plane->control, &all);
    struct buf names;
    struct err e;

    if (m) {
        return m;
    }
    buf_init(&names, 300); /* what does not fit is left out */
    for (size_t i = 0; i < n && !names.over; i++) {
        buf_addf(&names, "%s%s", i ? ", " : "", all[i]->row.name);
    }
    if (n > 0) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'; there is %s%s", STR_ARG(r->arg[0]), buf_z(&names),
                names.over ? ", …" : "");
    } else {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'; there is none yet", STR_ARG(r->arg[0]));
    }
    buf_done(&names);
    reply_err(r, &e);
    return NULL;
}

/* ---- the query ---- */

static enum err_code take_part(struct http_ex *x, struct str part, struct parameter *list, size_t n, struct err *e)
{
    const char *eq = memchr(part.p, '=', part.n);
    struct str key = {part.p, eq ? (size_t)(eq - part.p) : part.n};
    struct str value = eq ? (struct str){eq + 1, part.n - key.n - 1} : STR("");
    size_t i = 0;

    while (i < n && !str_is(key, list[i].name)) {
        i++;
    }
    if (i == n) {
        return err_set(e, ERR_INVALID, "unknown parameter '%.*s' in the query", (int)MIN(key.n, (size_t)100), key.p);
    }
    if (list[i].value.p) {
        return err_set(e, ERR_INVALID, "the parameter '%s' is in the query twice", list[i].name);
    }
    list[i].value = http_decode(x, value);
    if (!list[i].value.p) {
        return err_set(e, ERR_INVALID,
                       "the parameter '%s' in the query holds a malformed escape (a percent sign is written %%25)",
                       list[i].name);
    }
    return ERR_OK;
}

enum err_code read_query(struct http_ex *x, struct parameter *list, size_t n, struct err *e)
{
    struct str left = x->query;

    while (left.n > 0) {
        const char *amp = memchr(left.p, '&', left.n);
        struct str part = {left.p, amp ? (size_t)(amp - left.p) : left.n};
        size_t used = part.n + (amp ? 1 : 0);

        if (part.n > 0 && take_part(x, part, list, n, e) != ERR_OK) {
            return e->code;
        }
        left = (struct str){left.p + used, left.n - used};
    }
    return ERR_OK;
}

enum err_code read_number(const struct parameter *p, uint64_t least, uint64_t most, uint64_t *out, struct err *e)
{
    uint64_t v;

    if (!p->value.p) {
        return ERR_OK;
    }
    if (!str_u64(p->value, &v) || v < least || v > most) {
        return err_set(e, ERR_INVALID, "'%s=%.*s' in the query must be a whole number from %llu to %llu", p->name,
                       (int)MIN(p->value.n, (size_t)40), p->value.p, (unsigned long long)least,
                       (unsigned long long)most);
    }
    *out = v;
    return ERR_OK;
}

enum err_code read_share(struct str s, uint32_t *bp, struct err *e)
{
    struct str number = s, fraction = {NULL, 0};
    uint64_t whole = 0, hundredths = 0;
    bool ok = number.n > 1 && number.p[number.n - 1] == '%';

    number.n -= ok ? 1 : 0;
    number.n -= ok && number.n > 1 && number.p[number.n - 1] == ' ' ? 1 : 0;
    const char *point = ok ? memchr(number.p, '.', number.n) : NULL;
    if (point) {
        fraction = (struct str){point + 1, (size_t)(number.p + number.n - point - 1)};
        number.n = (size_t)(point - number.p);
        ok = fraction.n <= 2 && str_u64(fraction, &hundredths);
        hundredths *= fraction.n == 1 ? 10 : 1;
    }
    ok = ok && str_u64(number, &whole) && whole <= 100 && whole * 100 + hundredths <= 10000;
    if (!ok) {
        return err_set(e, ERR_INVALID, "'%.*s' is not a share: it is written like 5%% or 0.25%%, at most 100%%",
                       (int)MIN(s.n, (size_t)40), s.p ? s.p : "");
    }
    *bp = (uint32_t)(whole * 100 + hundredths);
    return ERR_OK;
}

/* ---- times ---- */

/* n digits from p as a number; false if one is none. */
static bool digits(const char *p, size_t n, unsigned *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') {
            return false;
        }
        *out = *out * 10 + (unsigned)(p[i] - '0');
    }
    return true;
}

/* "Z", "+01:00", "-0530": minutes east of Greenwich. */
static bool offset_of(struct str s, int *minutes)
{
    unsigned h, m;

    *minutes = 0;
    if (s.n == 1 && (s.p[0] == 'Z' || s.p[0] == 'z')) {
        return true;
    }
    if (s.n < 5 || (s.p[0] != '+' && s.p[0] != '-') || !digits(s.p + 1, 2, &h) || (s.n == 6 && s.p[3] != ':') ||
        s.n > 6 || !digits(s.p + s.n - 2, 2, &m) || h > 23 || m > 59) {
        return false;
    }
    *minutes = (int)(h * 60 + m) * (s.p[0] == '-' ? -1 : 1);
    return true;
}

/* RFC 3339. */
static bool moment(struct str s, int64_t *wall_ms)
{
    static const char shape[] = "0000-00-00T00:00:00";
    unsigned part[6];
    size_t at = sizeof(shape) - 1, scale = 100;
    int east;

    if (s.n <= at || !digits(s.p, 4, &part[0])) {
        return false;
    }
    for (size_t i = 4, k = 1; i < at; i += 3, k++) {
        if ((s.p[i] != shape[i] && !(i == 10 && (s.p[i] == 't' || s.p[i] == ' '))) ||
            !digits(s.p + i + 1, 2, &part[k])) {
            return false;
        }
    }
    struct tm t = {.tm_year = (int)part[0] - 1900,
                   .tm_mon = (int)part[1] - 1,
                   .tm_mday = (int)part[2],
                   .tm_hour = (int)part[3],
                   .tm_min = (int)part[4],
                   .tm_sec = (int)part[5]};
    struct tm same = t;
    time_t seconds = timegm(&same);
    if (part[0] < 1970 || same.tm_mon != t.tm_mon || same.tm_mday != t.tm_mday || part[3] > 23 || part[4] > 59 ||
        part[5] > 59) {
        return false;
    }
    *wall_ms = (int64_t)seconds * 1000;
    if (s.p[at] == '.') {
        size_t from = ++at;

        for (; at < s.n && s.p[at] >= '0' && s.p[at] <= '9'; at++, scale /= 10) {
            *wall_ms += (int64_t)scale * (s.p[at] - '0');
        }
        if (at == from) {
            return false;
        }
    }
    if (!offset_of((struct str){s.p + at, s.n - at}, &east)) {
        return false;
    }
    *wall_ms -= (int64_t)east * 60000;
    return *wall_ms > 0;
}

enum err_code read_time(struct str s, int64_t *wall_ms, struct err *e)
{
    uint64_t ms;

    if (s.n > 0 && str_u64(s, &ms) && ms > 0 && ms <= INT64_MAX / 1000000) {
        *wall_ms = (int64_t)ms;
        return ERR_OK;
    }
    if (!moment(s, wall_ms)) {
        return err_set(e, ERR_INVALID,
                       "'%.*s' is no time: it is written like 2026-11-23T21:40:31Z, or in milliseconds since 1970",
                       (int)MIN(s.n, (size_t)40), s.p ? s.p : "");
    }
    return ERR_OK;
}

/* ---- policies ---- */

enum err_code read_policy(struct control *c, struct str share, struct str name, struct str steps,
                          struct rollout_policy *out, struct err *e)
{
    const struct rollout_policy *p;
    uint32_t bp;

    if (share.p) {
        if (name.p || steps.p) {
            return err_set(e, ERR_INVALID,
                           "a share is for a rollout that a person moves on: it goes without a policy "
                           "and without steps");
        }
        if (read_share(share, &bp, e) != ERR_OK) {
            return e->code;
        }
        policy_manual(out, bp);
        return ERR_OK;
    }
    p = control_policy(c, name.p ? name : STR("default"), e);
    if (!p) {
        return e->code;
    }
    *out = *p;
    return steps.p ? policy_steps(out, steps, e) : ERR_OK;
}

/* ---- JSON bodies ---- */

static enum err_code take_member(struct member *m, size_t n, yyjson_val *key, yyjson_val *v, struct err *e)
{
    const char *name = yyjson_get_str(key);
    size_t i = 0;

    while (i < n && !str_is((struct str){name, yyjson_get_len(key)}, m[i].name)) {
        i++;
    }
    if (i == n) {
        return err_set(e, ERR_INVALID, "unknown member \"%.100s\" in the body", name);
    }
    if (m[i].given) {
        return err_set(e, ERR_INVALID, "\"%s\" is in the body twice", name);
    }
    if (yyjson_is_null(v)) {
        return ERR_OK;
    }
    if (m[i].number ? !yyjson_is_uint(v) : m[i].flag ? !yyjson_is_bool(v) : !yyjson_is_str(v)) {
        return err_set(e, ERR_INVALID, "\"%s\" must be %s", name,
                       m[i].number ? "a whole number"
                       : m[i].flag ? "true or false"
                                   : "a string");
    }
    m[i].given = true;
    if (m[i].number) {
        m[i].value = yyjson_get_uint(v);
    } else if (m[i].flag) {
        m[i].value = yyjson_get_bool(v);
    } else {
        m[i].text = (struct str){yyjson_get_str(v), yyjson_get_len(v)};
    }
    return ERR_OK;
}

enum err_code read_body(const struct request *r, struct member *m, size_t n, yyjson_doc **doc, struct err *e)
{
    yyjson_read_err why;
    size_t i, max;
    yyjson_val *key, *v;

    *doc = NULL;
    if (r->body.n == 0) {
        return ERR_OK;
    }
    *doc = yyjson_read_opts(r->body.p, r->body.n, YYJSON_READ_NOFLAG, NULL, &why);
    if (!*doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) {
        return err_set(e, ERR_UNAVAILABLE, "no memory for the body of the request");
    }
    if (!*doc) {
        return err_set(e, ERR_INVALID, "JSON: %s at byte %zu", why.msg, why.pos);
    }
    yyjson_val *root = yyjson_doc_get_root(*doc);
    if (!yyjson_is_obj(root)) {
        return err_set(e, ERR_INVALID, "the body must be a JSON object");
    }
    yyjson_obj_foreach(root, i, max, key, v)
    {
        if (take_member(m, n, key, v, e) != ERR_OK) {
            return e->code;
        }
    }
    return ERR_OK;
}
