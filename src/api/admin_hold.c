/* SPDX-License-Identifier: Apache-2.0 */
/* POST /admin/models/{model}/hold: a gateway wants a version in memory, by its artifact's digest. In the inference role
 * alone.
 *
 * Thread: control's loop. */
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

struct hold {
    struct ticket ticket;
};

static void held(void *ctx, int64_t number, const struct err *e)
{
    struct hold *h = ctx;
    struct request *r = ticket_close(&h->ticket);

    if (r && e->code != ERR_OK) {
        reply_err(r, e);
    } else if (r) {
        struct buf *b = json_reply(r, 200);

        buf_addf(b, "{\"version\":%lld,\"hold_us\":%llu}", (long long)number,
                 (unsigned long long)control_hold_us(r->plane->control));
        http_reply_end(r->x);
    }
    free(h);
}

void admin_hold(struct request *r)
{
    struct member m[] = {{.name = "digest"}};
    yyjson_doc *doc = NULL;
    struct err e;

    if (read_body(r, m, COUNT_OF(m), &doc, &e) != ERR_OK) {
        reply_err(r, &e);
    } else if (!m[0].given || m[0].text.n != 64) {
        err_set(&e, ERR_INVALID, "\"digest\" is the SHA-256 of an artifact, 64 characters");
        reply_err(r, &e);
    } else {
        struct hold *h = xcalloc(1, sizeof(*h));

        ticket_open(&h->ticket, r, NULL);
        control_hold(r->plane->control, r->arg[0], m[0].text, held, h);
    }
    yyjson_doc_free(doc);
}
