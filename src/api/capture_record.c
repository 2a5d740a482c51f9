/* SPDX-License-Identifier: Apache-2.0 */
/* Packing: a head of fixed size, four texts, then the tensors, each with its name and its bytes; see
 * capture_record.h. */
#include "api/capture_record.h"

#include <openssl/evp.h>

#include "api/oip.h"
#include "base/json.h"

enum kind { KIND_ANSWER, KIND_SAID };
enum text { TEXT_MODEL, TEXT_ID, TEXT_USER, TEXT_CLASS /* predicted, or the label */, TEXTS };
#define NO_TEXT UINT32_MAX

enum {
    HAS_CORRECT = 1,
    CORRECT = 2,
    HAS_REWARD = 4,
    SUPERSEDE = 8,
    LABEL_REDACTED = 16,
    REDACTED = 32, /* a tensor is */
};

struct record_head {
    int64_t at_ms, version;
    uint64_t latency_us;
    double reward;
    uint32_t text[TEXTS]; /* lengths; NO_TEXT */
    uint16_t n_in, n_out;
    uint8_t kind, arm, flags;
};
struct tensor_head {
    int64_t dim[TENSOR_RANK_MAX];
    uint64_t len; /* of the data; 0 when it is redacted */
    uint16_t name;
    uint8_t dtype, rank;
    bool redacted;
};

/* ---- redaction ---- */

bool capture_redacts(const struct capture_rule *rule, struct str name)
{
    for (const char *at = rule->redact; *at; at += strlen(at) + 1) {
        if (str_is(name, at)) {
            return true;
        }
    }
    return false;
}

enum err_code capture_redact(struct capture_rule *rule, struct str name, struct err *e)
{
    char *at = rule->redact;

    if (name.n == 0 || memchr(name.p, 0, name.n)) {
        return err_set(e, ERR_INVALID, "a name to redact is empty, or holds a zero byte");
    }
    while (*at) {
        at += strlen(at) + 1;
    }
    if (name.n + 2 > (size_t)(rule->redact + sizeof(rule->redact) - at)) { /* its end, and the list's */
        return err_set(e, ERR_INVALID, "the names to redact take more than %zu bytes together", sizeof(rule->redact));
    }
    memcpy(at, name.p, name.n);
    memset(at + name.n, 0, 2);
    return ERR_OK;
}

/* ---- packing ---- */

/* Where the next bytes go; what does not fit is not written, and known by `at` beyond `end`. */
struct packing {
    uint8_t *p;
    uint64_t at, end;
};

static void put(struct packing *k, const void *p, uint64_t n)
{
    if (n > 0 && k->at <= k->end && n <= k->end - k->at) {
        memcpy(k->p + k->at, p, n);
    }
    k->at += n;
}

static void put_texts(struct packing *k, const struct record_head *h, const struct str text[TEXTS])
{
    for (int i = 0; i < TEXTS; i++) {
        put(k, text[i].p, h->text[i] == NO_TEXT ? 0 : h->text[i]);
    }
}

static void set_texts(struct record_head *h, const struct str text[TEXTS])
{
    for (int i = 0; i < TEXTS; i++) {
        h->text[i] = text[i].p ? (uint32_t)text[i].n : NO_TEXT;
    }
}

static uint64_t texts_bytes(const struct str text[TEXTS])
{
    uint64_t n = 0;

    for (int i = 0; i < TEXTS; i++) {
        n += text[i].p ? text[i].n : 0;
    }
    return n;
}

/* What is predicted of the one row there is; text lies in the result, or in small. */
static struct str predicted_of(const struct capture_answer *a, char small[64])
{
    const struct predictor *p = a->predictor;

    if (predicted_rows(p, a->job) != 1 || capture_redacts(a->rule, STR("predicted")) ||
        capture_redacts(a->rule, str_of(a->info->out[p->port].name))) {
        return (struct str){NULL, 0};
    }
    return predicted_class(p, a->job, 0, small);
}

static void answer_texts(const struct capture_answer *a, struct str text[TEXTS], char small[64])
{
    text[TEXT_MODEL] = a->model;
    text[TEXT_ID] = a->id;
    text[TEXT_USER] = capture_redacts(a->rule, STR("user")) ? (struct str){NULL, 0} : a->user;
    text[TEXT_CLASS] = predicted_of(a, small);
}

static uint64_t tensors_bytes(const struct capture_rule *rule, const struct tensor_info *info, const struct tensor *t,
                              uint32_t n)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct str name = str_of(info[t[i].port].name);

        bytes += sizeof(struct tensor_head) + name.n + (capture_redacts(rule, name) ? 0 : t[i].len);
    }
    return bytes;
}

uint64_t capture_answer_bytes(const struct capture_answer *a)
{
    struct str text[TEXTS];
    char small[64];

    answer_texts(a, text, small);
    return sizeof(struct record_head) + texts_bytes(text) +
           tensors_bytes(a->rule, a->info->in, a->block->in, a->block->n_in) +
           tensors_bytes(a->rule, a->info->out, a->job->out, a->job->n_out);
}

/* Returns whether one of them is redacted. */
static bool put_tensors(struct packing *k, const struct capture_rule *rule, const struct tensor_info *info,
                        const struct tensor *t, uint32_t n, const uint8_t *base)
{
    bool redacted = false;

    for (uint32_t i = 0; i < n; i++) {
        struct str name = str_of(info[t[i].port].name);
        struct tensor_head h;

        memset(&h, 0, sizeof(h)); /* the padding too: it is copied */
        h.redacted = capture_redacts(rule, name);
        h.len = h.redacted ? 0 : t[i].len;
        h.name = (uint16_t)name.n;
        h.dtype = t[i].dtype;
        h.rank = t[i].rank;
        memcpy(h.dim, t[i].dim, sizeof(h.dim));
        put(k, &h, sizeof(h));
        put(k, name.p, name.n);
        put(k, h.len > 0 ? base + t[i].off : NULL, h.len);
        redacted |= h.redacted;
    }
    return redacted;
}

uint64_t capture_answer_pack(uint8_t *to, uint64_t n, const struct capture_answer *a)
{
    struct packing k = {.p = to, .end = n};
    struct record_head h;
    struct str text[TEXTS];
    char small[64];

    memset(&h, 0, sizeof(h));
    answer_texts(a, text, small);
    set_texts(&h, text);
    h.kind = KIND_ANSWER;
    h.at_ms = a->at_ms;
    h.version = a->version;
    h.latency_us = a->latency_us;
    h.arm = (uint8_t)a->arm;
    h.n_in = (uint16_t)a->block->n_in;
    h.n_out = (uint16_t)a->job->n_out;
    k.at = sizeof(h);
    put_texts(&k, &h, text);
    h.flags |= put_tensors(&k, a->rule, a->info->in, a->block->in, a->block->n_in, a->window) ? REDACTED : 0;
    h.flags |= put_tensors(&k, a->rule, a->info->out, a->job->out, a->job->n_out, a->job->base) ? REDACTED : 0;
    if (k.at > n) {
        return 0;
    }
    memcpy(to, &h, sizeof(h));
    return k.at;
}

static void said_texts(const struct capture_said *s, struct str text[TEXTS])
{
    bool hidden = capture_redacts(s->rule, STR("label"));

    text[TEXT_MODEL] = s->model;
    text[TEXT_ID] = s->id;
    text[TEXT_USER] = (struct str){NULL, 0};
    text[TEXT_CLASS] = hidden ? (struct str){NULL, 0} : s->label;
}

uint64_t capture_said_bytes(const struct capture_said *s)
{
    struct str text[TEXTS];

    said_texts(s, text);
    return sizeof(struct record_head) + texts_bytes(text);
}

uint64_t capture_said_pack(uint8_t *to, uint64_t n, const struct capture_said *s)
{
    struct packing k = {.p = to, .end = n};
    struct record_head h;
    struct str text[TEXTS];

    memset(&h, 0, sizeof(h));
    said_texts(s, text);
    set_texts(&h, text);
    h.kind = KIND_SAID;
    h.at_ms = s->at_ms;
    h.version = s->version;
    h.reward = s->reward;
    h.flags =
        (uint8_t)((s->has_correct ? HAS_CORRECT : 0) | (s->correct ? CORRECT : 0) | (s->has_reward ? HAS_REWARD : 0) |
                  (s->supersede ? SUPERSEDE : 0) | (s->label.p && !text[TEXT_CLASS].p ? LABEL_REDACTED : 0));
    k.at = sizeof(h);
    put_texts(&k, &h, text);
    if (k.at > n) {
        return 0;
    }
    memcpy(to, &h, sizeof(h));
    return k.at;
}

/* ---- reading ---- */

int64_t capture_record_at(const uint8_t *p)
{
    struct record_head h;

    memcpy(&h, p, sizeof(h));
    return h.at_ms;
}

struct str capture_record_model(const uint8_t *p)
{
    struct record_head h;

    memcpy(&h, p, sizeof(h));
    return (struct str){(const char *)p + sizeof(h), h.text[TEXT_MODEL]};
}

static const uint8_t *read_texts(const uint8_t *p, const struct record_head *h, struct str text[TEXTS])
{
    for (int i = 0; i < TEXTS; i++) {
        bool none = h->text[i] == NO_TEXT;

        text[i] = (struct str){none ? NULL : (const char *)p, none ? 0 : h->text[i]};
        p += text[i].n;
    }
    return p;
}

static void put_user(struct buf *out, struct str user, const char *salt)
{
    char hex[65];
    struct buf salted;

    if (!user.p) {
        BUF_LIT(out, "null");
        return;
    }
    buf_init(&salted, 1u << 20);
    buf_addf(&salted, "%s:", salt);
    buf_add(&salted, user.p, user.n);
    sha256_hex(hex, salted.p, salted.n);
    hex[16] = '\0';
    json_strz(out, hex);
    buf_done(&salted);
}

static void put_base64(struct buf *out, const uint8_t *p, uint32_t n)
{
    size_t chars = ((size_t)n + 2) / 3 * 4;
    char *at;

    buf_addc(out, '"');
    at = buf_room(out, chars + 1); /* EVP_EncodeBlock ends it with a NUL */
    if (at) {
        EVP_EncodeBlock((uint8_t *)at, p, (int)n);
        out->n += chars;
    }
    buf_addc(out, '"');
}

static bool texts_are_utf8(const uint8_t *p, uint64_t elements)
{
    for (uint64_t i = 0; i < elements; i++) {
        uint32_t n;

        memcpy(&n, p, sizeof(n));
        if (!json_utf8((struct str){(const char *)p + 4, n})) {
            return false;
        }
        p += 4 + (size_t)n;
    }
    return true;
}

static void put_texts_json(struct buf *out, const uint8_t *p, uint64_t elements)
{
    bool utf8 = texts_are_utf8(p, elements);

    BUF_LIT(out, ",\"data\":[");
    for (uint64_t i = 0; i < elements && !out->over; i++) {
        uint32_t n;

        memcpy(&n, p, sizeof(n));
        if (i > 0) {
            buf_addc(out, ',');
        }
        if (utf8) {
            json_str(out, (struct str){(const char *)p + 4, n});
        } else {
            put_base64(out, p + 4, n);
        }
        p += 4 + (size_t)n;
    }
    buf_addz(out, utf8 ? "]" : "],\"encoding\":\"base64\"");
}

/* One tensor; returns what follows it, NULL: it is broken. */
static const uint8_t *put_tensor(struct buf *out, const uint8_t *p)
{
    struct tensor_head h;
    uint64_t n;
    const uint8_t *data;

    memcpy(&h, p, sizeof(h));
    p += sizeof(h);
    data = p + h.name;
    json_comma(out);
    BUF_LIT(out, "{\"name\":");
    json_str(out, (struct str){(const char *)p, h.name});
    BUF_LIT(out, ",\"shape\":[");
    for (unsigned i = 0; i < h.rank; i++) {
        json_comma(out);
        buf_addi(out, h.dim[i]);
    }
    buf_addf(out, "],\"datatype\":\"%s\"", dtype_name((enum dtype)h.dtype));
    if (h.redacted) {
        BUF_LIT(out, ",\"data\":null,\"redacted\":true}");
        return data;
    }
    if (!tensor_elements(h.dim, h.rank, &n) ||
        (h.dtype == DTYPE_BYTES ? !bytes_check(data, h.len, n) : h.len != n * dtype_size((enum dtype)h.dtype))) {
        return NULL;
    }
    if (h.dtype == DTYPE_BYTES) {
        put_texts_json(out, data, n);
    } else {
        BUF_LIT(out, ",\"data\":[");
        oip_numbers_json(out, (enum dtype)h.dtype, data, n);
        BUF_LIT(out, "]");
    }
    BUF_LIT(out, "}");
    return data + h.len;
}

static const uint8_t *put_tensor_list(struct buf *out, const uint8_t *p, unsigned n)
{
    for (unsigned i = 0; p && i < n; i++) {
        p = put_tensor(out, p);
    }
    return p;
}

static bool put_answer(struct buf *out, const struct record_head *h, const struct str text[TEXTS], const char *salt,
                       const uint8_t *tensors)
{
    buf_addf(out, ",\"version\":%lld,\"arm\":\"%s\",\"user\":", (long long)h->version, arm_names[h->arm]);
    put_user(out, text[TEXT_USER], salt);
    buf_addf(out, ",\"latency_us\":%llu", (unsigned long long)h->latency_us);
    if (text[TEXT_CLASS].p) {
        BUF_LIT(out, ",\"predicted\":");
        json_str(out, text[TEXT_CLASS]);
    }
    if (h->flags & REDACTED) {
        BUF_LIT(out, ",\"redacted\":true");
    }
    BUF_LIT(out, ",\"request\":{\"inputs\":[");
    tensors = put_tensor_list(out, tensors, h->n_in);
    BUF_LIT(out, "]},\"response\":{\"outputs\":[");
    tensors = tensors ? put_tensor_list(out, tensors, h->n_out) : NULL;
    BUF_LIT(out, "]}");
    return tensors != NULL;
}

static void put_said(struct buf *out, const struct record_head *h, const struct str text[TEXTS])
{
    if (h->flags & LABEL_REDACTED) {
        BUF_LIT(out, ",\"label\":null");
    } else if (text[TEXT_CLASS].p) {
        BUF_LIT(out, ",\"label\":");
        json_str(out, text[TEXT_CLASS]);
    }
    if (h->flags & HAS_CORRECT) {
        buf_addz(out, h->flags & CORRECT ? ",\"correct\":true" : ",\"correct\":false");
    }
    if (h->flags & HAS_REWARD) {
        BUF_LIT(out, ",\"reward\":");
        json_f64(out, h->reward);
    }
    if (h->version > 0) {
        buf_addf(out, ",\"version\":%lld", (long long)h->version);
    }
    if (h->flags & SUPERSEDE) {
        BUF_LIT(out, ",\"supersede\":true");
    }
    if (h->flags & LABEL_REDACTED) {
        BUF_LIT(out, ",\"redacted\":true");
    }
}

bool capture_record_json(struct buf *out, const uint8_t *p, const char *salt)
{
    size_t before = out->n;
    struct record_head h;
    struct str text[TEXTS];
    bool whole = true;

    memcpy(&h, p, sizeof(h));
    p = read_texts(p + sizeof(h), &h, text);
    buf_addf(out, "{\"kind\":\"%s\",\"id\":", h.kind == KIND_ANSWER ? "request" : "feedback");
    json_str(out, text[TEXT_ID]);
    buf_addf(out, ",\"at_ms\":%lld", (long long)h.at_ms);
    if (h.kind == KIND_ANSWER) {
        whole = put_answer(out, &h, text, salt, p);
    } else {
        put_said(out, &h, text);
    }
    BUF_LIT(out, "}\n");
    if (!whole) {
        out->n = before;
    }
    return whole;
}
