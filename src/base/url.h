/* SPDX-License-Identifier: Apache-2.0 */
/* Where another server is: "http://host:port", "weir://vision.internal:8000", "http://[::1]:8000".
 *
 * Thread: any; pure. */
#ifndef WEIR_BASE_URL_H
#define WEIR_BASE_URL_H

#include "base/base.h"
#include "base/err.h"

struct url {
    char scheme[16]; /* "http", lower case */
    char host[254];  /* a name or an address; IPv6 without its brackets */
    uint16_t port;
    char authority[264]; /* "host:port", IPv6 in brackets: what stands in Host and in messages */
};

/* scheme://host:port and nothing behind it. `port`: where none is said; 0: it must be said. ERR_INVALID says what is
 * wrong; which schemes there are is the caller's matter. */
enum err_code url_parse(struct url *out, struct str text, uint16_t port, struct err *e) MUST_USE;

#endif
