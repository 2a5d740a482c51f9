/* SPDX-License-Identifier: Apache-2.0 */
/* Listening on an address and leaving it at once. */
#include "client/port.h"

#include <sys/un.h>
#include <unistd.h>

#include "net/sock.h"

enum err_code port_try(const char *address, struct err *e)
{
    struct addr a;
    int fd = -1;
    enum err_code rc = addr_parse(&a, str_of(address), false, e);
    if (rc == ERR_OK) {
        rc = sock_listen(&fd, &a, false, 1, e);
    }
    if (rc == ERR_OK) {
        close(fd);
        if (a.sa.ss_family == AF_UNIX) {
            unlink(((const struct sockaddr_un *)&a.sa)->sun_path); /* it was made by listening */
        }
    }
    return rc;
}
