/* SPDX-License-Identifier: Apache-2.0 */
/* An application of weir.h: many calls in flight watched through the descriptor, one cancelled, one that waits,
 * feedback. libweir_calls PLACE [COMMAND]: with a command, which ends the private server, it asks again after it. Says
 * what it found, a line each; tests/flow/libweir_calls_test.py reads them. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weir.h"

#define CALLS 200
#define LIMIT_US 60000000

static const int64_t shape[] = {1, 1};
static const struct weir_string query = {"where is my parcel", 18};
static const struct weir_tensor input = {"text", WEIR_BYTES, 2, shape, NULL, 0, &query};

static struct weir_call limited(void)
{
    struct weir_call call = WEIR_CALL_INIT;
    call.timeout_us = LIMIT_US;
    return call;
}

static uint64_t submit(struct weir *w, const char *model)
{
    struct weir_call call = limited();
    struct weir_error e;
    uint64_t ticket = 0;
    if (weir_submit(w, model, &input, 1, &call, w, &ticket, &e) != WEIR_OK) {
        printf("submit: %s\n", e.text);
        exit(1);
    }
    return ticket;
}

static void many(struct weir *w)
{
    int ok = 0, cancelled = 0, other = 0;
    struct pollfd p = {.fd = weir_fd(w, NULL), .events = POLLIN};
    struct weir_done d = WEIR_DONE_INIT;
    uint64_t last = 0;
    for (int i = 0; i < CALLS; i++) {
        last = submit(w, "intent");
    }
    weir_cancel(w, last);
    for (int taken = 0; taken < CALLS && poll(&p, 1, LIMIT_US / 1000) == 1;) {
        for (; weir_poll(w, &d) == 1; taken++) {
            ok += d.code == WEIR_OK && d.ctx == w && weir_result_find(d.result, "label");
            cancelled += d.code == WEIR_CANCELLED && d.ticket == last;
            other += d.code != WEIR_OK && d.code != WEIR_CANCELLED;
            weir_result_free(d.result);
            d.result = NULL;
        }
    }
    printf("many: answered=%s other=%d sum=%d open=%d quiet=%d\n", ok >= CALLS - 1 ? "yes" : "no", other,
           ok + cancelled, weir_poll(w, &d), poll(&p, 1, 0) == 0);
}

static int wait_code(struct weir *w, const char *model)
{
    struct weir_done d = WEIR_DONE_INIT;
    uint64_t t = submit(w, model);
    int code = weir_wait(w, t, LIMIT_US, &d) == 1 ? (int)d.code : -1;
    weir_result_free(d.result);
    return weir_take(w, t, &d) == -1 ? code : -2;
}

static const char *ask(struct weir *w, struct weir_result **r)
{
    struct weir_call call = limited();
    return weir_code_name(weir_infer(w, "intent", &input, 1, &call, r, NULL));
}

int main(int argc, char **argv)
{
    struct weir *w = NULL;
    struct weir_result *r = NULL;
    struct weir_error e;
    if (argc < 2 || weir_open(&w, argv[1], &e) != WEIR_OK) {
        printf("open: %s\n", argc < 2 ? "no place" : e.text);
        return 1;
    }
    many(w);
    printf("infer: %s\n", ask(w, &r));
    if (r) {
        struct weir_feedback f = WEIR_FEEDBACK_INIT;
        printf("nothing said: %s\n", weir_code_name(weir_feedback(w, "intent", weir_result_request_id(r), &f, NULL)));
        f.correct = 1;
        f.reward = 0.5;
        printf("feedback: %s\n", weir_code_name(weir_feedback(w, "intent", weir_result_request_id(r), &f, NULL)));
        printf("orphan: %s\n", weir_code_name(weir_feedback(w, "intent", "no-such-request", &f, NULL)));
    }
    printf("no model: %s\n", weir_code_name((enum weir_code)wait_code(w, "nobody")));
    weir_result_free(r);
    r = NULL;
    if (argc > 2 && system(argv[2]) == 0) {
        printf("again: %s\n", ask(w, &r));
        printf("later: %s\n", weir_code_name((enum weir_code)wait_code(w, "intent")));
        weir_result_free(r);
    }
    submit(w, "intent"); /* never taken: closing frees it */
    weir_close(w);
    printf("closed\n");
    return 0;
}
