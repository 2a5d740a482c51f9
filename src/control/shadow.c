/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted about a shadow: parts by thread. */
#include "control/shadow.h"

#include <sys/mman.h>

#include "base/clock.h"
#include "control/router.h"

#define NOISE_FIRST 1000 /* copies of a thread of which every NOISE_DENSE-th makes noise, */
#define NOISE_DENSE 10
#define NOISE_RARE 100 /* and of the later ones */

const char *const shadow_result_names[] = {"agrees",  "differs",  "error", "full",
                                           "refused", "deadline", "gone",  "unfit"};

struct shadow_part {
    _Alignas(64) _Atomic uint64_t copied, refs;
    _Atomic uint64_t result[SHADOW_RUNS][SHADOW_RESULTS];
    struct sketch stable, candidate;
    struct diff_sum diff[SHADOW_RUNS]; /* the owner's alone */
};
struct shadow {
    uint64_t id;
    int64_t since_ms;
    struct shadow_row row;
    size_t bytes;
    unsigned parts;
    unsigned holds; /* control's */
    struct shadow_part part[];
};

struct shadow *shadow_new(uint64_t id, const struct shadow_row *row, unsigned parts)
{
    size_t bytes = sizeof(struct shadow) + parts * sizeof(struct shadow_part);
    /* Mapped, not allocated: what nobody uses takes no memory, and what was used goes back to the system. */
    struct shadow *s = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (s == MAP_FAILED) {
        return NULL;
    }
    s->id = id;
    s->since_ms = clock_wall_ms();
    s->row = *row;
    s->bytes = bytes;
    s->parts = parts;
    return s;
}

void shadow_free(struct shadow *s)
{
    if (s) {
        munmap(s, s->bytes);
    }
}

bool shadow_idle(const struct shadow *s)
{
    for (unsigned i = 0; i < s->parts; i++) {
        if (atomic_load_explicit(&s->part[i].refs, memory_order_acquire) > 0) {
            return false;
        }
    }
    return s->holds == 0;
}

uint64_t shadow_id(const struct shadow *s)
{
    return s->id;
}

int64_t shadow_since_ms(const struct shadow *s)
{
    return s->since_ms;
}

const struct shadow_row *shadow_row(const struct shadow *s)
{
    return &s->row;
}

bool shadow_wants(const struct shadow *s, struct str id)
{
    return s->row.share_bp >= 10000 || assignment_bucket(s->row.id, id) < s->row.share_bp;
}

/* ---- writing ---- */

void shadow_ref(struct shadow *s, unsigned part)
{
    counter_add(&s->part[part].refs, 1);
}

void shadow_unref(struct shadow *s, unsigned part)
{
    uint64_t n = counter_get(&s->part[part].refs);

    assert(n > 0);
    /* The last access: from here on the shadow may be freed. */
    atomic_store_explicit(&s->part[part].refs, n - 1, memory_order_release);
}

bool shadow_begin(struct shadow *s, unsigned part)
{
    uint64_t n = counter_get(&s->part[part].copied);

    counter_add(&s->part[part].copied, 1);
    return n % (n < NOISE_FIRST ? NOISE_DENSE : NOISE_RARE) == 0;
}

void shadow_count(struct shadow *s, unsigned part, enum shadow_run run, enum shadow_result result)
{
    counter_add(&s->part[part].result[run][result], 1);
}

void shadow_times(struct shadow *s, unsigned part, uint64_t stable_ns, uint64_t candidate_ns)
{
    sketch_add(&s->part[part].stable, stable_ns);
    sketch_add(&s->part[part].candidate, candidate_ns);
}

struct diff_sum *shadow_diff(struct shadow *s, unsigned part, enum shadow_run run)
{
    return &s->part[part].diff[run];
}

/* ---- adding up ---- */

uint64_t shadow_copied(const struct shadow *s)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < s->parts; i++) {
        n += counter_get(&s->part[i].copied);
    }
    return n;
}

uint64_t shadow_total(const struct shadow *s, enum shadow_run run, enum shadow_result result)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < s->parts; i++) {
        n += counter_get(&s->part[i].result[run][result]);
    }
    return n;
}

void shadow_sketch(const struct shadow *s, struct sketch *stable, struct sketch *candidate)
{
    for (unsigned i = 0; i < s->parts; i++) {
        sketch_merge(stable, &s->part[i].stable);
        sketch_merge(candidate, &s->part[i].candidate);
    }
}

void shadow_hold(struct shadow *s)
{
    s->holds++;
}

void shadow_let_go(struct shadow *s)
{
    assert(s->holds > 0);
    s->holds--;
}
