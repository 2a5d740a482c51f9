/* SPDX-License-Identifier: Apache-2.0 */
/* The memory budget: who may be loaded, and who must go for it. Pure over what it is told; no I/O, no clock of its own.
 *
 * A device ("host", "cuda:0") has a limit in bytes. A claim is one version's share of them:
 *
 *     NONE --ask--> RESERVED (loading) --settle--> RESIDENT --leave--> LEAVING (its processes end) --gone--> NONE
 *       └─ask──> WAITING (for others to be gone) ──ask again──┘
 *
 * Invariant: budget_ask grants only while reserved + resident + leaving + what it grants stays within every device's
 * limit. Only budget_settle may take a device over it: what was measured is what is there; later asks see it. Nobody
 * is evicted for it by itself.
 *
 * Who goes: idle claims only, that is resident, not pinned, not in a rollout, not busy. Of them the lowest rank first,
 * within a rank the least recently used, until there is room on every device; then those that turn out not to be needed
 * are taken out again, the last chosen first. What leaves already counts as room to come, what waits already counts
 * against it: a later ask never takes what an earlier one waits for.
 *
 * Thread: control. The owner embeds its claims and fills their public fields before it asks. */
#ifndef WEIR_INFERENCE_BUDGET_H
#define WEIR_INFERENCE_BUDGET_H

#include "base/base.h"
#include "base/err.h"

#define BUDGET_DEVICES 9 /* the host and eight others */
#define BUDGET_HOST 0
#define BUDGET_NO_LIMIT UINT64_MAX

enum claim_state { CLAIM_NONE, CLAIM_WAITING, CLAIM_RESERVED, CLAIM_RESIDENT, CLAIM_LEAVING };
extern const char *const claim_state_names[]; /* "none", "waiting", "loading", "resident", "leaving" */
/* Where a claim's bytes come from. */
enum claim_basis { CLAIM_ESTIMATED, CLAIM_MEASURED, CLAIM_CONFIGURED };
/* In the order in which they go. */
enum claim_rank { CLAIM_UNUSED, CLAIM_PREVIOUS, CLAIM_SERVING };

struct budget_claim {
    /* the owner's; name and bytes are not changed while the claim is in the budget, but by budget_settle */
    char name[160];                 /* "intent/2", for messages */
    uint64_t bytes[BUDGET_DEVICES]; /* by device */
    enum claim_basis basis;
    enum claim_rank rank;
    bool pinned, in_rollout, busy;
    uint64_t used_us; /* when it was last used */
    /* private */
    enum claim_state state;
    uint64_t turn; /* of a WAITING one: who asked first */
    struct budget_claim *next;
};
struct budget_device {
    char name[16];
    uint64_t limit, used; /* bytes; used: reserved, resident and leaving */
};
struct budget {
    struct budget_device device[BUDGET_DEVICES];
    unsigned n_devices;
    struct budget_claim *claims; /* all but those of state NONE */
    uint64_t turn;
};

void budget_init(struct budget *b, uint64_t host_limit);
/* The device's index, added with this limit if it is new; BUDGET_HOST for "cpu" and when there is no place for more. */
unsigned budget_device(struct budget *b, const char *name, uint64_t limit);

enum budget_verdict { BUDGET_GRANTED, BUDGET_EVICT, BUDGET_REFUSED };
/* Asks for c (NONE, or WAITING: asks again).
 * GRANTED: it is RESERVED. EVICT: it is WAITING; out[0..n) are those that must leave for it (n may be 0: enough leaves
 * already): the owner calls budget_leave for each now, and asks again when one is gone. REFUSED: it is NONE; *e has the
 * numbers: ERR_REFUSED when it is larger than the device's limit, ERR_UNAVAILABLE when there is no room now. evict
 * false: nobody is sent away for it. max: room in out, at least for every claim that may be resident. */
enum budget_verdict budget_ask(struct budget *b, struct budget_claim *c, bool evict, struct budget_claim **out,
                               size_t max, size_t *n, struct err *e);
/* It is there, and takes this much. Of a RESERVED or RESIDENT one; nothing for others. */
void budget_settle(struct budget *b, struct budget_claim *c, const uint64_t bytes[BUDGET_DEVICES],
                   enum claim_basis basis);
void budget_leave(struct budget *b, struct budget_claim *c); /* RESERVED, RESIDENT; nothing for others */
void budget_gone(struct budget *b, struct budget_claim *c);  /* from any state to NONE */
/* Each of the two stands for what the other stood for. Neither is NONE. */
void budget_exchange(struct budget_claim *a, struct budget_claim *b);
/* The claim that waits with the least turn above `after`, or NULL. */
struct budget_claim *budget_waiting(const struct budget *b, uint64_t after);

/* "6.0 GiB", "312.5 MiB", "90 B" */
#define BUDGET_TEXT 24
void budget_bytes(char out[BUDGET_TEXT], uint64_t bytes);

#endif
