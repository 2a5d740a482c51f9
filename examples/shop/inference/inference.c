/* SPDX-License-Identifier: Apache-2.0 */
/* The inference module over weir.h; see inference.h. */
#include "inference/inference.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <weir.h>

#include "common/text.h"
#include "inference/breaker.h"

static const char *const model_names[INFERENCE_FAMILIES] = {"intent", "recommend", "vision"};
/* In the order of the output `probabilities`. */
static const char *const vision_labels[] = {"bag", "book",  "bottle", "chair", "lamp",
                                            "mug", "phone", "shirt",  "shoe",  "watch"};
#define VISION_LABELS (sizeof(vision_labels) / sizeof(vision_labels[0]))

struct inference {
    struct weir *at[INFERENCE_FAMILIES]; /* families of one place have the same */
    int64_t deadline_ms[INFERENCE_FAMILIES];
    pthread_mutex_t lock; /* of the breakers */
    struct breaker breakers[INFERENCE_FAMILIES];
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- places ---- */

bool inference_open(struct inference **out, const struct inference_conf *conf, char *why, size_t why_size)
{
    struct inference *f = calloc(1, sizeof *f);
    if (!f) {
        snprintf(why, why_size, "out of memory");
        return false;
    }
    pthread_mutex_init(&f->lock, NULL);
    for (int i = 0; i < INFERENCE_FAMILIES; i++) {
        f->deadline_ms[i] = conf->deadline_ms[i];
        for (int other = 0; other < i && !f->at[i]; other++) {
            f->at[i] = strcmp(conf->place[i], conf->place[other]) == 0 ? f->at[other] : NULL;
        }
        struct weir_error e;
        if (!f->at[i] && weir_open(&f->at[i], conf->place[i], &e) != WEIR_OK) {
            snprintf(why, why_size, "%s at %s: %s", model_names[i], conf->place[i], e.text);
            inference_close(f);
            return false;
        }
    }
    *out = f;
    return true;
}

void inference_close(struct inference *f)
{
    if (!f) {
        return;
    }
    for (int i = 0; i < INFERENCE_FAMILIES; i++) {
        bool shared = false;
        for (int other = 0; other < i; other++) {
            shared |= f->at[i] == f->at[other];
        }
        if (!shared) {
            weir_close(f->at[i]);
        }
    }
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- calls ---- */

/* Whose fault an error is: the input's, or the place's. */
static enum inference_code code_of(enum weir_code code)
{
    switch (code) {
    case WEIR_OK:
        return INFERENCE_OK;
    case WEIR_INVALID:
    case WEIR_TOO_LARGE:
    case WEIR_MODEL:
        return INFERENCE_BAD_INPUT;
    default:
        return INFERENCE_DOWN;
    }
}

static bool allowed(struct inference *f, enum inference_family family)
{
    pthread_mutex_lock(&f->lock);
    bool yes = breaker_allows(&f->breakers[family], now_ms());
    pthread_mutex_unlock(&f->lock);
    return yes;
}

/* A refused input is an answer as well: the place lives. */
static void told(struct inference *f, enum inference_family family, bool good, const char *why)
{
    pthread_mutex_lock(&f->lock);
    bool changed = breaker_tell(&f->breakers[family], good, now_ms());
    pthread_mutex_unlock(&f->lock);
    if (changed) {
        fprintf(stderr, "shop: %s %s%s\n", model_names[family],
                good ? "answers again" : "is left alone: ", good ? "" : why);
    }
}

/* Asks a family for one row. *r is the caller's on INFERENCE_OK. */
static enum inference_code ask(struct inference *f, enum inference_family family, const struct inference_caller *by,
                               const struct weir_tensor *input, struct weir_result **r)
{
    if (!allowed(f, family)) {
        return INFERENCE_DOWN;
    }
    struct weir_call call = WEIR_CALL_INIT;
    call.user = by->user;
    call.traceparent = by->traceparent;
    call.timeout_us = (uint64_t)f->deadline_ms[family] * 1000;
    struct weir_error e;
    enum weir_code rc = weir_infer(f->at[family], model_names[family], input, 1, &call, r, &e);
    enum inference_code code = code_of(rc);
    told(f, family, code != INFERENCE_DOWN, rc == WEIR_OK ? "" : e.text);
    return code;
}

static void said_by(struct inference_answer *a, enum inference_family family, const struct weir_result *r)
{
    text_copy(a->model, sizeof a->model, model_names[family]);
    text_copy(a->version, sizeof a->version, weir_result_version(r));
    text_copy(a->request_id, sizeof a->request_id, weir_result_request_id(r));
}

/* The place of the largest of the output's numbers; -1 if there is no such output, or it has not n FP32 numbers (n 0:
 * any). */
static int largest(const struct weir_result *r, const char *output, size_t n, double *value)
{
    const struct weir_tensor *t = weir_result_find(r, output);
    if (!t || t->dtype != WEIR_FP32 || t->bytes == 0 || (n > 0 && t->bytes != n * sizeof(float))) {
        return -1;
    }
    const float *p = t->data;
    int best = 0;
    for (size_t i = 1; i < t->bytes / sizeof(float); i++) {
        best = p[i] > p[best] ? (int)i : best;
    }
    *value = p[best];
    return isfinite(p[best]) ? best : -1;
}

enum inference_code inference_intent(struct inference *f, const struct inference_caller *by, const char *text,
                                     struct inference_answer *a)
{
    const int64_t shape[] = {1, 1};
    struct weir_string string = {text, strlen(text)};
    struct weir_tensor input = {.name = "text", .dtype = WEIR_BYTES, .rank = 2, .shape = shape, .strings = &string};
    struct weir_result *r = NULL;
    enum inference_code code = ask(f, INFERENCE_INTENT, by, &input, &r);
    if (code != INFERENCE_OK) {
        return code;
    }
    struct inference_answer got = {0};
    const struct weir_tensor *label = weir_result_find(r, "label");
    if (!label || !label->strings || label->rank < 1 || label->shape[0] != 1 ||
        label->strings[0].n >= sizeof got.label || largest(r, "probabilities", 0, &got.score) < 0) {
        weir_result_free(r);
        return INFERENCE_DOWN;
    }
    memcpy(got.label, label->strings[0].p, label->strings[0].n);
    said_by(&got, INFERENCE_INTENT, r);
    weir_result_free(r);
    *a = got;
    return INFERENCE_OK;
}

enum inference_code inference_recommend(struct inference *f, const struct inference_caller *by, const int64_t *products,
                                        int n, struct inference_answer *a)
{
    int64_t history[INFERENCE_HISTORY] = {0}; /* zeros on the left */
    for (int i = 0; i < n && i < INFERENCE_HISTORY; i++) {
        history[INFERENCE_HISTORY - 1 - i] = products[n - 1 - i];
    }
    const int64_t shape[] = {1, INFERENCE_HISTORY};
    struct weir_tensor input = {
        .name = "history", .dtype = WEIR_INT64, .rank = 2, .shape = shape, .data = history, .bytes = sizeof history};
    struct weir_result *r = NULL;
    enum inference_code code = ask(f, INFERENCE_RECOMMEND, by, &input, &r);
    if (code != INFERENCE_OK) {
        return code;
    }
    struct inference_answer got = {0};
    const struct weir_tensor *ids = weir_result_find(r, "top_ids");
    if (ids && ids->dtype == WEIR_INT64) {
        got.n_ids = ids->bytes >= sizeof got.ids ? INFERENCE_BEST : (int)(ids->bytes / sizeof got.ids[0]);
        memcpy(got.ids, ids->data, (size_t)got.n_ids * sizeof got.ids[0]);
    }
    said_by(&got, INFERENCE_RECOMMEND, r);
    weir_result_free(r);
    if (got.n_ids == 0) {
        return INFERENCE_DOWN;
    }
    *a = got;
    return INFERENCE_OK;
}

enum inference_code inference_vision(struct inference *f, const struct inference_caller *by, const void *photo,
                                     size_t bytes, struct inference_answer *a)
{
    const int64_t shape[] = {1, 1};
    struct weir_string string = {photo, bytes};
    struct weir_tensor input = {.name = "image", .dtype = WEIR_BYTES, .rank = 2, .shape = shape, .strings = &string};
    struct weir_result *r = NULL;
    enum inference_code code = ask(f, INFERENCE_VISION, by, &input, &r);
    if (code != INFERENCE_OK) {
        return code;
    }
    struct inference_answer got = {0};
    int best = largest(r, "probabilities", VISION_LABELS, &got.score);
    if (best >= 0) {
        text_copy(got.label, sizeof got.label, vision_labels[best]);
    }
    said_by(&got, INFERENCE_VISION, r);
    weir_result_free(r);
    if (best < 0) {
        return INFERENCE_DOWN;
    }
    *a = got;
    return INFERENCE_OK;
}

enum inference_code inference_feedback(struct inference *f, const char *model, const char *request_id, bool helped)
{
    for (int i = 0; i < INFERENCE_FAMILIES; i++) {
        if (strcmp(model, model_names[i]) != 0) {
            continue;
        }
        if (!allowed(f, (enum inference_family)i)) {
            return INFERENCE_DOWN;
        }
        struct weir_feedback said = WEIR_FEEDBACK_INIT;
        if (i == INFERENCE_RECOMMEND) {
            said.reward = helped ? 1 : 0; /* a list is neither right nor wrong */
        } else {
            said.correct = helped;
        }
        struct weir_error e = {0};
        enum weir_code rc = weir_feedback(f->at[i], model, request_id, &said, &e);
        /* The server may have forgotten the answer by now: that is no failure of the place. */
        enum inference_code code = rc == WEIR_NOT_FOUND || rc == WEIR_CONFLICT ? INFERENCE_BAD_INPUT : code_of(rc);
        told(f, (enum inference_family)i, code != INFERENCE_DOWN, e.text);
        return code;
    }
    return INFERENCE_BAD_INPUT;
}
