/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets by address text: "127.0.0.1:8000", "[::1]:8000", ":8000", "localhost:0", "unix:/run/weir.sock".
 *
 * Thread: any; blocking only where said. */
#ifndef WEIR_NET_SOCK_H
#define WEIR_NET_SOCK_H

#include <sys/socket.h>

#include "base/base.h"
#include "base/err.h"

struct addr {
    struct sockaddr_storage sa;
    socklen_t len;
    char text[128]; /* canonical: what a person would type */
};

/* Numeric hosts and "localhost" only for listening (resolve = false); names are looked up when resolve is true
 * (blocking). */
enum err_code addr_parse(struct addr *out, struct str text, bool resolve, struct err *e) MUST_USE;
/* All addresses of a host (a name, or an address as it is), at most max of them; *n: how many there are. Blocks as long
 * as the resolver does. ERR_UNAVAILABLE: it knows none. */
enum err_code addr_resolve(struct addr *out, size_t max, size_t *n, const char *host, uint16_t port,
                           struct err *e) MUST_USE;
/* A non-blocking socket that begins to connect, TCP_NODELAY: writable when it has or has failed (SO_ERROR). */
enum err_code sock_begin(int *out, const struct addr *a, struct err *e) MUST_USE;
bool addr_is_local(const struct addr *a); /* loopback or a unix socket */
/* A non-blocking listening socket, SO_REUSEADDR, TCP_NODELAY inherited; reuseport: many sockets may share the port. A
 * stale unix socket file is removed if nobody answers on it. A busy port: ERR_CONFLICT, naming the process that holds
 * it where /proc tells. */
enum err_code sock_listen(int *out, const struct addr *a, bool reuseport, int backlog, struct err *e) MUST_USE;
/* Blocking connect with a limit; the socket is blocking, TCP_NODELAY. ERR_UNAVAILABLE / ERR_TIMEOUT. */
enum err_code sock_connect(int *out, const struct addr *a, uint64_t timeout_us, struct err *e) MUST_USE;
/* Begins to connect; the socket is non-blocking, TCP_NODELAY. *pending: writable when it is decided, and sock_connected
 * tells; else it is connected. ERR_UNAVAILABLE: refused, or a unix socket whose backlog is full. */
enum err_code sock_connect_begin(int *out, const struct addr *a, bool *pending, struct err *e) MUST_USE;
enum err_code sock_connected(int fd, const struct addr *a, struct err *e) MUST_USE;
/* The address a listening socket got (port 0). */
enum err_code sock_local(struct addr *out, int fd, struct err *e) MUST_USE;
/* "pid 1234 (python3 -m http.server)" of who listens on that TCP port, or false. Reads /proc. */
bool sock_holder(uint16_t port, char *out, size_t cap);

#endif
