/* SPDX-License-Identifier: Apache-2.0 */
/* bare MODEL: the limit that no server can pass. Calls Run() in a loop, on one or more threads with a session each, and
 * prints one line of JSON: calls and rows a second, CPU of one call, and the times of single calls.
 *
 *     bare [-b ROWS] [-t THREADS] [-i INTRA_OP] [-s SECONDS] MODEL */
#include "session.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1u << 21) /* times kept of each thread: the latest ones */
#define THREADS_MAX 64

struct worker {
    pthread_t thread;
    struct session session;
    pthread_barrier_t *start;
    double seconds;
    uint64_t runs, cpu_ns, wall_ns;
    uint32_t *sample; /* ns */
};

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    uint64_t began, before, now, end, cpu;

    for (size_t i = 0; i < w->session.in_n; i++) {
        w->session.in[i] = (float)(i % 17) / 16 - 0.5f;
    }
    for (int i = 0; i < 5; i++) {
        session_run(&w->session, w->session.in_value);
    }
    pthread_barrier_wait(w->start);
    cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
    began = before = now_ns(CLOCK_MONOTONIC);
    end = began + (uint64_t)(w->seconds * 1e9);
    do {
        session_run(&w->session, w->session.in_value);
        now = now_ns(CLOCK_MONOTONIC);
        w->sample[w->runs++ % SAMPLES_MAX] = now - before < UINT32_MAX ? (uint32_t)(now - before) : UINT32_MAX;
        before = now;
    } while (now < end);
    w->wall_ns = now - began;
    w->cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void report(struct worker *w, long threads, long rows, const char *version)
{
    uint64_t runs = 0, cpu = 0;
    size_t n = 0;
    double rate = 0;
    uint32_t *all = calloc((size_t)threads * SAMPLES_MAX, sizeof *all);
    struct rusage usage;

    if (!all) {
        die("no memory for the times");
    }
    for (long i = 0; i < threads; i++) {
        size_t kept = w[i].runs < SAMPLES_MAX ? (size_t)w[i].runs : SAMPLES_MAX;

        memcpy(all + n, w[i].sample, kept * sizeof *all);
        n += kept;
        runs += w[i].runs;
        cpu += w[i].cpu_ns;
        rate += (double)w[i].runs * 1e9 / (double)w[i].wall_ns;
    }
    qsort(all, n, sizeof *all, by_value);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"runs\":%llu,\"runs_s\":%.1f,\"rows_s\":%.1f,\"cpu_us\":%.3f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"rss_mb\":%"
           ".1f,"
           "\"runtime\":\"%s\"}\n",
           (unsigned long long)runs, rate, rate * (double)rows, (double)cpu / 1e3 / (double)runs, all[n / 2] / 1e3,
           all[n * 99 / 100] / 1e3, (double)usage.ru_maxrss / 1024, version);
    free(all);
}

static long number(const char *text, long least, long most)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (*end || end == text || n < least || n > most) {
        die("'%s' is not a number from %ld to %ld", text, least, most);
    }
    return n;
}

int main(int argc, char **argv)
{
    long rows = 1, threads = 1, intra = 1;
    double seconds = 2;
    struct worker *w;
    struct runtime rt;
    pthread_barrier_t start;

    for (int c; (c = getopt(argc, argv, "b:t:i:s:")) != -1;) {
        switch (c) {
        case 'b':
            rows = number(optarg, 1, 4096);
            break;
        case 't':
            threads = number(optarg, 1, THREADS_MAX);
            break;
        case 'i':
            intra = number(optarg, 1, 256);
            break;
        case 's':
            seconds = strtod(optarg, NULL);
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 1 || !(seconds > 0 && seconds < 3600)) {
        fprintf(stderr, "usage: bare [-b ROWS] [-t THREADS] [-i INTRA_OP] [-s SECONDS] MODEL\n");
        return 2;
    }
    rt = runtime_open();
    w = calloc((size_t)threads, sizeof *w);
    if (!w || pthread_barrier_init(&start, NULL, (unsigned)threads) != 0) {
        die("no memory for %ld threads", threads);
    }
    for (long i = 0; i < threads; i++) {
        session_open(&w[i].session, &rt, argv[optind], (int)intra, rows);
        w[i].start = &start;
        w[i].seconds = seconds;
        w[i].sample = calloc(SAMPLES_MAX, sizeof *w[i].sample);
        if (!w[i].sample) {
            die("no memory for the times");
        }
    }
    for (long i = 0; i < threads; i++) {
        if (pthread_create(&w[i].thread, NULL, worker_run, &w[i]) != 0) {
            die("cannot start a thread");
        }
    }
    for (long i = 0; i < threads; i++) {
        pthread_join(w[i].thread, NULL);
    }
    report(w, threads, rows, rt.version);
    for (long i = 0; i < threads; i++) {
        session_close(&w[i].session);
        free(w[i].sample);
    }
    free(w);
    pthread_barrier_destroy(&start);
    rt.api->ReleaseEnv(rt.env);
    return 0;
}
