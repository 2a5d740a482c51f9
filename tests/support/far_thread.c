/* SPDX-License-Identifier: Apache-2.0 */
/* The other server's loop and its few routes; see far_thread.h. A job of spin with more than MANY trips is never
 * answered, nor is any that comes after it. */
#include "support/far_thread.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/http.h"
#include "net/sock.h"

#define MANY 100000
#define TENSOR(name, dtype, shape) "{\"name\":\"" name "\",\"datatype\":\"" dtype "\",\"shape\":" shape "}"
#define FLOATS(name) TENSOR(name, "FP32", "[-1,4]")

static const char add_info[] =
    "{\"inputs\":[" FLOATS("a") "," FLOATS("b") "],\"outputs\":[" FLOATS("c") "," FLOATS("d") "]}";
static const char spin_info[] =
    "{\"inputs\":[" FLOATS("x") "," TENSOR("trips", "INT64", "[]") "],\"outputs\":[" FLOATS("y") "]}";

static struct {
    pthread_t thread;
    struct loop *loop;
    struct http_listener *listener;
    _Atomic uint32_t connections;
    char at[64];
    bool runs, stuck;
} far;

struct body {
    char *p;
    size_t n;
};

static void on_headers(void *ctx, struct http_ex *x)
{
    (void)ctx;
    x->user = xcalloc(1, sizeof(struct body));
}

static void on_body(void *ctx, struct http_ex *x, const char *p, size_t n)
{
    struct body *b = x->user;

    (void)ctx;
    b->p = xrealloc(b->p, b->n + n);
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void on_finished(void *ctx, struct http_ex *x)
{
    struct body *b = x->user;

    (void)ctx;
    free(b->p);
    free(b);
}

static bool has(struct str s, const char *z)
{
    return s.n > 0 && memmem(s.p, s.n, z, strlen(z)) != NULL;
}

static void put(struct buf *head, struct buf *data, const char *name, const float *v, size_t rows)
{
    buf_addf(head,
             "%s{\"name\":\"%s\",\"datatype\":\"FP32\",\"shape\":[%zu,4],\"parameters\":{\"binary_data_size\":%zu}}",
             data->n ? "," : "", name, rows, rows * 16);
    buf_add(data, v, rows * 16);
}

static void compute(struct http_ex *x, struct str json, const char *tensors, size_t n)
{
    bool spin = has(x->path, "/spin/"), all = !has(json, "\"outputs\"");
    size_t rows = spin ? 1 : n / 32;
    struct buf head, data;
    char number[24];

    buf_init(&head, 1 << 20);
    buf_init(&data, 1 << 20);
    BUF_LIT(&head, "{\"outputs\":[");
    if (spin) {
        float v[4];

        memcpy(v, tensors, sizeof v);
        put(&head, &data, "y", v, 1);
    }
    for (unsigned k = 0; k < 2 && !spin; k++) {
        float *v = xmalloc(rows * 16 + 1);

        for (size_t i = 0; i < rows * 4; i++) {
            float a, b;

            memcpy(&a, tensors + i * 4, 4);
            memcpy(&b, tensors + rows * 16 + i * 4, 4);
            v[i] = k == 0 ? a + b : a - b;
        }
        if (all || has(json, k == 0 ? "\"outputs\":[{\"name\":\"c\"" : "\"outputs\":[{\"name\":\"d\"")) {
            put(&head, &data, k == 0 ? "c" : "d", v, rows);
        }
        free(v);
    }
    BUF_LIT(&head, "]}");
    http_reply_begin(x, 200, "application/octet-stream");
    http_reply_header(x, "Inference-Header-Content-Length",
                      (struct str){number, (size_t)snprintf(number, sizeof number, "%zu", head.n)});
    buf_add(http_reply_body(x), head.p, head.n);
    buf_add(http_reply_body(x), data.p, data.n);
    http_reply_end(x);
    buf_done(&head);
    buf_done(&data);
}

static void on_complete(void *ctx, struct http_ex *x)
{
    struct body *b = x->user;
    bool add = has(x->path, "/models/add/versions/1"), spin = has(x->path, "/models/spin/versions/1");
    uint64_t json = 0;
    int64_t trips = 0;

    (void)ctx;
    if (!add && !spin) {
        http_reply(x, 404, "application/json", STR("{\"error\":\"no such model\"}"));
    } else if (has(x->path, "/ready")) {
        http_reply(x, 200, "application/json", STR("{}"));
    } else if (!has(x->path, "/infer")) {
        http_reply(x, 200, "application/json", str_of(add ? add_info : spin_info));
    } else if (!str_u64(http_header(x, "inference-header-content-length"), &json) || json > b->n ||
               has((struct str){b->p, json}, ",5]")) {
        http_reply(x, 400, "application/json", STR("{\"error\":\"another shape\"}"));
    } else {
        if (spin && b->n - json == 24) {
            memcpy(&trips, b->p + b->n - 8, 8);
        }
        far.stuck |= trips > MANY;
        if (add || !far.stuck) {
            compute(x, (struct str){b->p, json}, b->p + json, b->n - json);
        }
    }
}

static void *run(void *arg)
{
    loop_run(arg);
    return NULL;
}

void far_thread_start(char *url, size_t cap)
{
    static const struct http_service service = {
        .headers = on_headers, .body = on_body, .complete = on_complete, .finished = on_finished};
    static struct http_limits limits;
    struct addr a;
    struct err e;
    int fd;

    if (far.runs) {
        return;
    }
    far.stuck = false;
    http_limits_default(&limits);
    if (addr_parse(&a, far.at[0] ? str_of(far.at) : STR("127.0.0.1:0"), false, &e) != ERR_OK ||
        sock_listen(&fd, &a, false, 128, &e) != ERR_OK || sock_local(&a, fd, &e) != ERR_OK ||
        loop_new(&far.loop, &e) != ERR_OK ||
        http_listen(&far.listener, far.loop, fd, &service, &limits, &far.connections, &e) != ERR_OK) {
        fprintf(stderr, "far thread: %s\n", e.text);
        abort();
    }
    snprintf(far.at, sizeof far.at, "%.60s", a.text);
    snprintf(url, cap, "http://%s", far.at);
    if (pthread_create(&far.thread, NULL, run, far.loop) != 0) {
        abort();
    }
    far.runs = true;
}

void far_thread_stop(void)
{
    if (far.runs) {
        loop_stop(far.loop);
        pthread_join(far.thread, NULL);
        http_listener_free(far.listener);
        loop_free(far.loop);
        far.runs = false;
    }
}
