/* SPDX-License-Identifier: Apache-2.0 */
/* Rings of spans, one for each reason to keep one. */
#include "api/spans.h"

#include <sys/mman.h>

#include "base/hash.h"

const char *const span_kept_names[] = {"error", "refused", "slow", "asked", "chance"};
const char *const span_stage_names[] = {"headers", "body", "submitted", "given", "done", "written"};

_Static_assert(sizeof(struct span) * SPANS_KEPT * SPAN_LANES <= 2560u << 10, "spans.h says what the rings take");

struct spans {
    uint64_t seq;
    uint64_t put[SPAN_LANES]; /* so many went into the ring */
    struct span slot[SPAN_LANES][SPANS_KEPT];
};

struct spans *spans_new(void)
{
    struct spans *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return s == MAP_FAILED ? NULL : s;
}

void spans_free(struct spans *s)
{
    if (s) {
        munmap(s, sizeof(*s));
    }
}

struct span *spans_put(struct spans *s, enum span_kept kept)
{
    struct span *p = &s->slot[kept][s->put[kept]++ % SPANS_KEPT];

    *p = (struct span){.kept = kept, .seq = ++s->seq};
    return p;
}

static bool fits(const struct span *p, const struct span_filter *f, const uint8_t trace[16], bool by_trace)
{
    if (f->id.p && !(by_trace && memcmp(p->own.trace, trace, sizeof(p->own.trace)) == 0) && !str_is(f->id, p->id)) {
        return false;
    }
    return (!f->model.p || str_is(f->model, p->model)) && (f->code == ERR_COUNT_ || f->code == p->code) &&
           p->total_ns >= f->slower_ns;
}

size_t spans_find(const struct spans *s, const struct span_filter *f, struct span *out, size_t max)
{
    uint64_t at[SPAN_LANES] = {0}; /* how many of the lane were looked at */
    uint8_t trace[16];
    bool by_trace = f->id.p && hex_decode(trace, sizeof(trace), f->id);
    size_t n = 0;

    while (s && n < max) {
        const struct span *newest = NULL;
        int lane = 0;

        for (int k = 0; k < SPAN_LANES; k++) {
            uint64_t there = MIN(s->put[k], (uint64_t)SPANS_KEPT);
            const struct span *p = &s->slot[k][(s->put[k] - 1 - at[k]) % SPANS_KEPT];

            if ((f->lanes == 0 || f->lanes >> k & 1) && at[k] < there && (!newest || p->seq > newest->seq)) {
                newest = p;
                lane = k;
            }
        }
        if (!newest) {
            break;
        }
        at[lane]++;
        if (fits(newest, f, trace, by_trace)) {
            out[n++] = *newest;
        }
    }
    return n;
}
