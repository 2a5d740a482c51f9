/* SPDX-License-Identifier: Apache-2.0 */
/* One POST over libcurl, which is opened on first use and never linked.
 *
 * Thread: one at a time. */
#ifndef WEIR_API_WEBHOOK_CURL_H
#define WEIR_API_WEBHOOK_CURL_H

#include "api/webhook.h"

struct curl_client;
struct curl_client *curl_client_new(void); /* opens nothing yet */
void curl_client_free(struct curl_client *c);
webhook_post_fn curl_client_post; /* ctx: a struct curl_client */

#endif
