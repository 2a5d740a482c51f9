/* SPDX-License-Identifier: Apache-2.0 */
/* An application with a house in its process (libweir's "inproc:"), for tests/flow/inproc_test.py:
 *
 *   inproc infer PLACE TEXT   what the model `intent` says, every byte of it
 *   inproc life A B           two houses at once, errors, calls that nobody waits for, closing and opening again, and
 *                             that nothing of the process was changed; A and B are configuration files
 *
 * Exit status 0; 1 after a line that says what failed. */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <weir.h>

#define CHECK(ok)                                            \
    do {                                                     \
        if (!(ok)) {                                         \
            fprintf(stderr, "line %d: %s\n", __LINE__, #ok); \
            exit(1);                                         \
        }                                                    \
    } while (0)

static struct weir_tensor text_of(const struct weir_string *s)
{
    static const int64_t shape[] = {1, 1};

    return (struct weir_tensor){.name = "text", .dtype = WEIR_BYTES, .rank = 2, .shape = shape, .strings = s};
}

static enum weir_code infer(struct weir *w, const char *model, const char *text, uint64_t timeout_us,
                            struct weir_result **r, struct weir_error *e)
{
    struct weir_string s = {text, strlen(text)};
    struct weir_tensor t = text_of(&s);
    struct weir_call call = WEIR_CALL_INIT;

    call.timeout_us = timeout_us;
    call.user = "somebody";
    call.request_id = "the-one";
    return weir_infer(w, model, &t, 1, &call, r, e);
}

static int show(const char *place, const char *text)
{
    struct weir_error e;
    struct weir_result *r;
    struct weir *w;

    if (weir_open(&w, place, &e) != WEIR_OK) {
        fprintf(stderr, "%s: %s\n", weir_code_name(e.code), e.text);
        return 1;
    }
    if (infer(w, "intent", text, 20000000, &r, &e) != WEIR_OK) {
        fprintf(stderr, "%s: %s\n", weir_code_name(e.code), e.text);
        weir_close(w);
        return 1;
    }
    for (size_t i = 0; i < weir_result_count(r); i++) {
        const struct weir_tensor *t = weir_result_output(r, i);

        printf("%s %s", t->name, weir_dtype_name(t->dtype));
        for (uint32_t k = 0; k < t->rank; k++) {
            printf(" %lld", (long long)t->shape[k]);
        }
        for (size_t k = 0; k < t->bytes; k++) {
            printf(" %02x", ((const unsigned char *)t->data)[k]);
        }
        printf("\n");
    }
    printf("version %s request %s arm %s\n", weir_result_version(r), weir_result_request_id(r), weir_result_arm(r));
    weir_result_free(r);
    if (infer(w, "nobody", text, 0, &r, &e) != WEIR_OK) {
        printf("%s: %s\n", weir_code_name(e.code), e.text);
    }
    weir_close(w);
    return 0;
}

/* ---- life ---- */

static struct weir *open_house(const char *file)
{
    struct weir_error e;
    struct weir *w = NULL;
    char place[512];

    snprintf(place, sizeof place, "inproc:%s", file);
    if (weir_open(&w, place, &e) != WEIR_OK) {
        fprintf(stderr, "%s: %s\n", place, e.text);
        exit(1);
    }
    return w;
}

static void expect_refused(const char *place, enum weir_code code, const char *part)
{
    struct weir_error e;
    struct weir *w = NULL;

    CHECK(weir_open(&w, place, &e) == code && w == NULL);
    CHECK(strstr(e.text, part));
}

static void *many(void *arg)
{
    struct weir *w = arg;
    struct weir_result *r;
    struct weir_error e;

    for (int i = 0; i < 50; i++) {
        CHECK(infer(w, "intent", i % 2 ? "where is my parcel" : "cancel it please", 0, &r, &e) == WEIR_OK);
        CHECK(weir_result_count(r) == 2);
        weir_result_free(r);
    }
    return NULL;
}

static void side_by_side(struct weir *a, struct weir *b)
{
    pthread_t t[4];

    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&t[i], NULL, many, i % 2 ? a : b) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
    }
}

static void errors(struct weir *w)
{
    struct weir_error e;
    struct weir_result *r = NULL;
    size_t most = 70u << 20;
    char *large = malloc(most);

    CHECK(infer(w, "nobody", "x", 0, &r, &e) == WEIR_NOT_FOUND && strstr(e.text, "nobody"));
    CHECK(infer(w, "intent", "x", 1, &r, &e) == WEIR_TIMEOUT); /* whoever notices first */
    CHECK(large);
    memset(large, 'x', most - 1);
    large[most - 1] = '\0';
    CHECK(infer(w, "intent", large, 0, &r, &e) == WEIR_TOO_LARGE && strstr(e.text, "limit"));
    free(large);
}

static void unwaited(struct weir *w)
{
    struct weir_string s = {"where is my parcel", 18};
    struct weir_tensor t = text_of(&s);
    struct weir_done done = WEIR_DONE_INIT;
    struct weir_error e;
    uint64_t ticket[20];
    int ok = 0;

    for (int i = 0; i < 20; i++) {
        CHECK(weir_submit(w, "intent", &t, 1, NULL, NULL, &ticket[i], &e) == WEIR_OK);
    }
    weir_cancel(w, ticket[19]);
    for (int i = 0; i < 20; i++) {
        CHECK(weir_wait(w, 0, UINT64_MAX, &done) == 1);
        CHECK(done.code == WEIR_OK || (done.ticket == ticket[19] && done.code == WEIR_CANCELLED));
        ok += done.code == WEIR_OK;
        weir_result_free(done.result);
    }
    CHECK(ok >= 19 && weir_poll(w, &done) == -1);
    for (int i = 0; i < 20; i++) { /* under way when it is closed */
        CHECK(weir_submit(w, "intent", &t, 1, NULL, NULL, &ticket[i], &e) == WEIR_OK);
    }
}

static unsigned descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    CHECK(d);
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

struct process { /* what a library has no business with */
    char cwd[4096];
    mode_t mask;
    sigset_t blocked;
    void (*handler[32])(int);
    struct rlimit files;
};

static void look(struct process *p)
{
    memset(p, 0, sizeof *p);
    CHECK(getcwd(p->cwd, sizeof p->cwd));
    p->mask = umask(0);
    umask(p->mask);
    pthread_sigmask(SIG_SETMASK, NULL, &p->blocked);
    for (int i = 1; i < 32; i++) {
        struct sigaction s;

        if (sigaction(i, NULL, &s) == 0) {
            p->handler[i] = s.sa_handler;
        }
    }
    getrlimit(RLIMIT_NOFILE, &p->files);
}

static int life(const char *a_file, const char *b_file)
{
    static struct process before, after;
    struct weir *a, *b;
    unsigned open_before;
    char again[512];

    look(&before);
    a = open_house(a_file);
    b = open_house(b_file);
    look(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    side_by_side(a, b);
    errors(a);
    unwaited(a);
    snprintf(again, sizeof again, "inproc:%s", a_file);
    expect_refused(again, WEIR_CONFLICT, "in use");
    expect_refused("inproc:/nowhere/weir.yaml", WEIR_NOT_FOUND, "/nowhere/weir.yaml");
    weir_close(a);
    side_by_side(b, b);
    weir_close(b);
    open_before = descriptors();
    for (int i = 0; i < 3; i++) {
        a = open_house(a_file);
        many(a);
        weir_close(a);
    }
    CHECK(descriptors() == open_before);
    look(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    printf("well\n");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "infer") == 0) {
        return show(argv[2], argv[3]);
    }
    if (argc == 4 && strcmp(argv[1], "life") == 0) {
        return life(argv[2], argv[3]);
    }
    fprintf(stderr, "usage: inproc infer PLACE TEXT | inproc life A B\n");
    return 1;
}
