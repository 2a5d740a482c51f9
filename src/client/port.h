/* SPDX-License-Identifier: Apache-2.0 */
/* Can a server listen on this address? Tried by doing it for a moment.
 *
 * Thread: any. Does not block. */
#ifndef WEIR_CLIENT_PORT_H
#define WEIR_CLIENT_PORT_H

#include "base/err.h"

/* address: as for `listen:`, "127.0.0.1:8000" or "unix:/path". ERR_OK: it is free. ERR_CONFLICT names the process that
 * holds it, where /proc tells; ERR_INVALID: no address; others as the kernel says. */
enum err_code port_try(const char *address, struct err *e) MUST_USE;

#endif
