/* SPDX-License-Identifier: Apache-2.0 */
/* The budget's books: sums are kept by device, and every change of a claim's state goes through set_state. */
#include "inference/budget.h"

#include <stdio.h>
#include <stdlib.h>

const char *const claim_state_names[] = {"none", "waiting", "loading", "resident", "leaving"};

static bool holds(enum claim_state s)
{
    return s == CLAIM_RESERVED || s == CLAIM_RESIDENT || s == CLAIM_LEAVING;
}

static void set_state(struct budget *b, struct budget_claim *c, enum claim_state state)
{
    bool before = holds(c->state), after = holds(state);

    for (unsigned d = 0; d < b->n_devices && before != after; d++) {
        b->device[d].used += after ? c->bytes[d] : -c->bytes[d];
    }
    if (c->state == CLAIM_NONE && state != CLAIM_NONE) {
        c->next = b->claims;
        b->claims = c;
    } else if (c->state != CLAIM_NONE && state == CLAIM_NONE) {
        struct budget_claim **at = &b->claims;

        while (*at != c) {
            at = &(*at)->next;
        }
        *at = c->next;
    }
    c->state = state;
}

void budget_init(struct budget *b, uint64_t host_limit)
{
    *b = (struct budget){.n_devices = 1};
    b->device[BUDGET_HOST] = (struct budget_device){"host", host_limit, 0};
}

unsigned budget_device(struct budget *b, const char *name, uint64_t limit)
{
    if (strcmp(name, "cpu") == 0) {
        return BUDGET_HOST;
    }
    for (unsigned d = 0; d < b->n_devices; d++) {
        if (strcmp(b->device[d].name, name) == 0) {
            return d;
        }
    }
    if (b->n_devices == BUDGET_DEVICES) {
        return BUDGET_HOST;
    }
    b->device[b->n_devices].limit = limit;
    snprintf(b->device[b->n_devices].name, sizeof(b->device[0].name), "%s", name);
    return b->n_devices++;
}

/* ---- what is short ---- */

/* a + b, at most UINT64_MAX. */
static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t sum_of(const struct budget *b, unsigned d, enum claim_state state, const struct budget_claim *but)
{
    uint64_t sum = 0;

    for (const struct budget_claim *c = b->claims; c; c = c->next) {
        sum = c->state == state && c != but ? plus(sum, c->bytes[d]) : sum;
    }
    return sum;
}

/* Bytes missing on a device for c: when all that leaves is gone, and those before it in turn have theirs. */
static uint64_t short_later(const struct budget *b, unsigned d, const struct budget_claim *c)
{
    uint64_t want =
        plus(plus(b->device[d].used - sum_of(b, d, CLAIM_LEAVING, NULL), c->bytes[d]), sum_of(b, d, CLAIM_WAITING, c));

    return want > b->device[d].limit ? want - b->device[d].limit : 0;
}

static bool fits_now(const struct budget *b, const struct budget_claim *c)
{
    for (unsigned d = 0; d < b->n_devices; d++) {
        if (c->bytes[d] > 0 && plus(b->device[d].used, c->bytes[d]) > b->device[d].limit) {
            return false;
        }
    }
    return true;
}

/* ---- who goes ---- */

static bool idle(const struct budget_claim *c)
{
    return c->state == CLAIM_RESIDENT && !c->pinned && !c->in_rollout && !c->busy;
}

static int by_order(const void *a, const void *b)
{
    const struct budget_claim *x = *(struct budget_claim *const *)a, *y = *(struct budget_claim *const *)b;

    return x->rank != y->rank         ? (x->rank < y->rank ? -1 : 1)
           : x->used_us != y->used_us ? (x->used_us < y->used_us ? -1 : 1)
                                      : strcmp(x->name, y->name);
}

/* True if without one[d] enough would still go: lack[d] is what must go, freed[d] what goes with it. */
static bool spare(const struct budget *b, const struct budget_claim *one, const uint64_t *lack, const uint64_t *freed)
{
    for (unsigned d = 0; d < b->n_devices; d++) {
        if (lack[d] > 0 && freed[d] - one->bytes[d] < lack[d]) {
            return false;
        }
    }
    return true;
}

static bool helps(const struct budget *b, const struct budget_claim *one, const uint64_t *lack, const uint64_t *freed)
{
    for (unsigned d = 0; d < b->n_devices; d++) {
        if (freed[d] < lack[d] && one->bytes[d] > 0) {
            return true;
        }
    }
    return false;
}

static bool enough(const struct budget *b, const uint64_t *lack, const uint64_t *freed)
{
    for (unsigned d = 0; d < b->n_devices; d++) {
        if (freed[d] < lack[d]) {
            return false;
        }
    }
    return true;
}

/* The idle ones that must go to free lack[d] on every device; false: all of them would not do. */
static bool choose(const struct budget *b, const uint64_t *lack, struct budget_claim **out, size_t max, size_t *n)
{
    uint64_t freed[BUDGET_DEVICES] = {0};
    struct budget_claim **all;
    size_t count = 0, kept = 0;

    for (struct budget_claim *c = b->claims; c; c = c->next) {
        count += idle(c);
    }
    all = xcalloc(count + 1, sizeof(*all));
    count = 0;
    for (struct budget_claim *c = b->claims; c; c = c->next) {
        if (idle(c)) {
            all[count++] = c;
        }
    }
    qsort(all, count, sizeof(all[0]), by_order);
    for (size_t i = 0; i < count && !enough(b, lack, freed); i++) {
        if (helps(b, all[i], lack, freed)) {
            for (unsigned d = 0; d < b->n_devices; d++) {
                freed[d] += all[i]->bytes[d];
            }
            all[kept++] = all[i];
        }
    }
    *n = 0;
    if (enough(b, lack, freed)) {
        for (size_t i = kept; i-- > 0;) {
            if (spare(b, all[i], lack, freed)) {
                for (unsigned d = 0; d < b->n_devices; d++) {
                    freed[d] -= all[i]->bytes[d];
                }
                all[i] = NULL;
            }
        }
        for (size_t i = 0; i < kept; i++) {
            if (all[i] && *n < max) {
                out[(*n)++] = all[i];
            }
        }
    }
    free(all);
    return enough(b, lack, freed);
}

/* ---- the refusal ---- */

void budget_bytes(char out[BUDGET_TEXT], uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = -1;

    while (v >= 1023.95 && u < 3) {
        v /= 1024;
        u++;
    }
    if (u < 0) {
        snprintf(out, BUDGET_TEXT, "%llu B", (unsigned long long)bytes);
    } else {
        snprintf(out, BUDGET_TEXT, "%.1f %s", v, units[u]);
    }
}

static const char *why_held(const struct budget_claim *c)
{
    return c->pinned                    ? " pinned"
           : c->in_rollout              ? " in a rollout"
           : c->state == CLAIM_RESERVED ? " loading"
           : c->state == CLAIM_LEAVING  ? " leaving"
           : c->state == CLAIM_WAITING  ? " waiting to load"
           : c->busy                    ? " busy"
                                        : " idle";
}

static const char *basis_text(const struct budget_claim *c)
{
    return c->basis == CLAIM_MEASURED     ? "measured when it last ran"
           : c->basis == CLAIM_CONFIGURED ? "as its family's memory says"
                                          : "estimated from its files";
}

static enum err_code refuse(const struct budget *b, const struct budget_claim *c, unsigned d, struct err *e)
{
    const struct budget_device *v = &b->device[d];
    const char *where = d == BUDGET_HOST ? "host memory" : v->name;
    char want[BUDGET_TEXT], room[BUDGET_TEXT], limit[BUDGET_TEXT], one[BUDGET_TEXT], held[300];
    size_t n = 0;

    budget_bytes(want, c->bytes[d]);
    budget_bytes(limit, v->limit);
    budget_bytes(room, v->limit > v->used ? v->limit - v->used : 0);
    if (c->bytes[d] > v->limit) {
        return err_set(e, ERR_REFUSED, "%s needs about %s of %s (%s), more than the whole budget of %s: raise memory",
                       c->name, want, where, basis_text(c), limit);
    }
    held[0] = '\0';
    for (const struct budget_claim *h = b->claims; h && n + 1 < sizeof(held); h = h->next) {
        if (h != c && h->bytes[d] > 0) {
            budget_bytes(one, h->bytes[d]);
            n += (size_t)MAX(
                snprintf(held + n, sizeof(held) - n, "%s%s %s%s", n ? ", " : "", h->name, one, why_held(h)), 0);
        }
    }
    return err_set(e, ERR_UNAVAILABLE,
                   "%s needs about %s of %s (%s); %s of %s are free and nothing idle can make room (held by: %s): "
                   "raise memory, unpin, or end a rollout",
                   c->name, want, where, basis_text(c), room, limit, held);
}

/* ---- the calls ---- */

enum budget_verdict budget_ask(struct budget *b, struct budget_claim *c, bool evict, struct budget_claim **out,
                               size_t max, size_t *n, struct err *e)
{
    uint64_t lack[BUDGET_DEVICES] = {0};
    bool room = true;
    unsigned worst = 0;

    assert(c->state == CLAIM_NONE || c->state == CLAIM_WAITING);
    *n = 0;
    for (unsigned d = b->n_devices; d-- > 0;) {
        if (c->bytes[d] == 0) {
            continue;
        }
        lack[d] = short_later(b, d, c);
        room &= lack[d] == 0;
        worst = lack[d] > 0 || c->bytes[d] > b->device[d].limit ? d : worst;
    }
    if (room && fits_now(b, c)) {
        set_state(b, c, CLAIM_RESERVED);
        return BUDGET_GRANTED;
    }
    if (!room && (!evict || !choose(b, lack, out, max, n))) {
        set_state(b, c, CLAIM_NONE);
        refuse(b, c, worst, e);
        return BUDGET_REFUSED;
    }
    if (c->state == CLAIM_NONE) {
        c->turn = ++b->turn;
        set_state(b, c, CLAIM_WAITING);
    }
    return BUDGET_EVICT;
}

void budget_settle(struct budget *b, struct budget_claim *c, const uint64_t bytes[BUDGET_DEVICES],
                   enum claim_basis basis)
{
    if (c->state != CLAIM_RESERVED && c->state != CLAIM_RESIDENT) {
        return;
    }
    for (unsigned d = 0; d < b->n_devices; d++) {
        b->device[d].used += bytes[d] - c->bytes[d];
        c->bytes[d] = bytes[d];
    }
    c->basis = basis;
    set_state(b, c, CLAIM_RESIDENT);
}

void budget_leave(struct budget *b, struct budget_claim *c)
{
    if (c->state == CLAIM_RESERVED || c->state == CLAIM_RESIDENT) {
        set_state(b, c, CLAIM_LEAVING);
    }
}

void budget_gone(struct budget *b, struct budget_claim *c)
{
    if (c->state != CLAIM_NONE) {
        set_state(b, c, CLAIM_NONE);
    }
}

void budget_exchange(struct budget_claim *a, struct budget_claim *b)
{
    struct budget_claim was = *a;

    assert(a->state != CLAIM_NONE && b->state != CLAIM_NONE);
    *a = *b;
    a->next = was.next;
    was.next = b->next;
    *b = was;
}

struct budget_claim *budget_waiting(const struct budget *b, uint64_t after)
{
    struct budget_claim *best = NULL;

    for (struct budget_claim *c = b->claims; c; c = c->next) {
        if (c->state == CLAIM_WAITING && c->turn > after && (!best || c->turn < best->turn)) {
            best = c;
        }
    }
    return best;
}
