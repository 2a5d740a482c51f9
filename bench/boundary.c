/* SPDX-License-Identifier: Apache-2.0 */
/* boundary WHERE SECONDS: what a call through weir.h costs at a place. Asks the tiny MLP over and over on one thread,
 * and prints one line of JSON: calls, and the times of single calls.
 *
 * It says "ready" and waits for a line on its standard input before it begins and once more before it closes the place,
 * so that whoever measures can look at the processors' time of all processes in between. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "weir.h"

#define WARM 500
#define SAMPLES_MAX (1u << 21)
#define FEATURES 16

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_time(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void ask(struct weir *w)
{
    static float x[FEATURES];
    static const int64_t shape[] = {1, FEATURES};
    const struct weir_tensor in = {
        .name = "x", .dtype = WEIR_FP32, .rank = 2, .shape = shape, .data = x, .bytes = sizeof(x)};
    struct weir_result *r = NULL;
    struct weir_error e;

    for (int i = 0; i < FEATURES; i++) {
        x[i] = (float)i / FEATURES - 0.5f;
    }
    if (weir_infer(w, "mlp", &in, 1, NULL, &r, &e) != WEIR_OK) {
        fprintf(stderr, "boundary: %s\n", e.text);
        exit(1);
    }
    weir_result_free(r);
}

static void wait_for_a_line(void)
{
    int c;

    while ((c = getchar()) != '\n' && c != EOF) {
    }
}

int main(int argc, char **argv)
{
    double seconds = argc == 3 ? strtod(argv[2], NULL) : 0;
    uint32_t *sample = malloc(SAMPLES_MAX * sizeof(*sample));
    uint64_t n = 0, began, before, now;
    struct weir *w = NULL;
    struct weir_error e;

    if (seconds <= 0 || !sample) {
        fprintf(stderr, "usage: boundary WHERE SECONDS\n");
        return 2;
    }
    if (weir_open(&w, argv[1], &e) != WEIR_OK) {
        fprintf(stderr, "boundary: %s\n", e.text);
        return 1;
    }
    for (int i = 0; i < WARM; i++) {
        ask(w);
    }
    puts("ready");
    fflush(stdout);
    wait_for_a_line();
    for (began = before = now_ns(); before - began < (uint64_t)(seconds * 1e9); before = now) {
        ask(w);
        now = now_ns();
        sample[n++ % SAMPLES_MAX] = (uint32_t)(now - before);
    }
    uint64_t kept = n < SAMPLES_MAX ? n : SAMPLES_MAX;
    qsort(sample, kept, sizeof(*sample), by_time);
    printf("{\"calls\":%llu,\"seconds\":%.6f,\"p50_us\":%.3f,\"p99_us\":%.3f}\n", (unsigned long long)n,
           (double)(before - began) / 1e9, sample[kept / 2] / 1e3, sample[kept * 99 / 100] / 1e3);
    fflush(stdout);
    wait_for_a_line();
    weir_close(w);
    free(sample);
    return 0;
}
