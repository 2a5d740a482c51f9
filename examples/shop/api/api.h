/* SPDX-License-Identifier: Apache-2.0 */
/* The shop's API module: what a browser sees, as pages and as JSON, over the business module.
 *
 * A page is rendered here and works without scripts; the same under /api/… is the page of the business module as JSON.
 * A cookie with a random name tells users apart; it is all that the shop knows of them.
 *
 * Thread: any number of connections at once. */
#ifndef SHOP_API_H
#define SHOP_API_H

#include <stdbool.h>
#include <stddef.h>

struct business;
struct api;

/* listen: "HOST:PORT", port 0: any. *out is the caller's; close it before b. False: `why` says it. */
bool api_open(struct api **out, struct business *b, const char *listen, char *why, size_t why_size);
const char *api_url(const struct api *a);
void api_close(struct api *a); /* NULL is fine */

#endif
