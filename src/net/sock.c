/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets by address text, and who holds a port.
 *
 * A host is numeric, "localhost" (127.0.0.1), empty (0.0.0.0) or, where the caller allows it, a name to look up. IPv6
 * addresses are written in brackets, so that the last colon is always the port's.
 *
 * Thread: any; there is no state here. */
#define _GNU_SOURCE
#include "net/sock.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

/* ---- addresses ---- */

static void addr_text(struct addr *a)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (a->sa.ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
        snprintf(a->text, sizeof a->text, "unix:%s", un->sun_path);
    } else if (a->sa.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(a->text, sizeof a->text, "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a->sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(a->text, sizeof a->text, "%s:%u", host, (unsigned)ntohs(in->sin_port));
    }
}

static enum err_code unix_addr(struct addr *out, struct str path, struct err *e)
{
    struct addr a = {.len = sizeof(struct sockaddr_un)};
    struct sockaddr_un *un = (struct sockaddr_un *)&a.sa;
    un->sun_family = AF_UNIX;
    if (path.n == 0 || memchr(path.p, '\0', path.n) != NULL || !str_copy(un->sun_path, sizeof un->sun_path, path)) {
        return err_set(e, ERR_INVALID, "'unix:" STR_FMT "' is not an address: the path must have 1 to %zu bytes",
                       STR_ARG(path), sizeof un->sun_path - 1);
    }
    addr_text(&a);
    *out = a;
    return ERR_OK;
}

static enum err_code look_up(struct addr *out, const char *host, uint16_t port, struct err *e)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG},
                    *list = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &list);
    if (rc != 0) {
        return err_set(e, ERR_UNAVAILABLE, "no address is known for the host '%s': %s", host, gai_strerror(rc));
    }
    struct addr a = {.len = list->ai_addrlen};
    memcpy(&a.sa, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    if (a.sa.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&a.sa)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)&a.sa)->sin_port = htons(port);
    }
    addr_text(&a);
    *out = a;
    return ERR_OK;
}

enum err_code addr_resolve(struct addr *out, size_t max, size_t *n, const char *host, uint16_t port, struct err *e)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &list);
    if (rc != 0) {
        return err_set(e, ERR_UNAVAILABLE, "no address is known for the host '%s': %s", host, gai_strerror(rc));
    }
    *n = 0;
    for (const struct addrinfo *i = list; i && *n < max; i = i->ai_next) {
        struct addr a = {.len = i->ai_addrlen};
        if (i->ai_family != AF_INET && i->ai_family != AF_INET6) {
            continue;
        }
        memcpy(&a.sa, i->ai_addr, i->ai_addrlen);
        if (i->ai_family == AF_INET6) {
            ((struct sockaddr_in6 *)&a.sa)->sin6_port = htons(port);
        } else {
            ((struct sockaddr_in *)&a.sa)->sin_port = htons(port);
        }
        addr_text(&a);
        out[(*n)++] = a;
    }
    freeaddrinfo(list);
    return *n > 0 ? ERR_OK : err_set(e, ERR_UNAVAILABLE, "no address is known for the host '%s'", host);
}

/* True if host is numeric, empty or "localhost". */
static bool numeric_addr(struct addr *out, const char *host, bool bracketed, uint16_t port)
{
    struct addr a = {0};
    if (bracketed) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a.sa;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        a.len = sizeof *in6;
        if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1) {
            return false;
        }
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)&a.sa;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        a.len = sizeof *in;
        const char *numeric = host[0] == '\0' ? "0.0.0.0" : strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
        if (inet_pton(AF_INET, numeric, &in->sin_addr) != 1) {
            return false;
        }
    }
    addr_text(&a);
    *out = a;
    return true;
}

enum err_code addr_parse(struct addr *out, struct str text, bool resolve, struct err *e)
{
    if (text.n > 5 && memcmp(text.p, "unix:", 5) == 0) {
        return unix_addr(out, (struct str){text.p + 5, text.n - 5}, e);
    }
    const char *colon = text.n ? memrchr(text.p, ':', text.n) : NULL;
    uint64_t port = 0;
    if (colon == NULL || !str_u64((struct str){colon + 1, (size_t)(text.p + text.n - colon - 1)}, &port) ||
        port > 65535) {
        return err_set(e, ERR_INVALID,
                       "'" STR_FMT "' is not an address: it must look like host:port (port 0 to 65535) or unix:/path",
                       STR_ARG(text));
    }
    struct str h = {text.p, (size_t)(colon - text.p)};
    bool bracketed = h.n >= 2 && h.p[0] == '[' && h.p[h.n - 1] == ']';
    if (bracketed) {
        h = (struct str){h.p + 1, h.n - 2};
    }
    char host[256];
    if (!str_copy(host, sizeof host, h) || strlen(host) != h.n || (!bracketed && strchr(host, ':') != NULL)) {
        return err_set(e, ERR_INVALID,
                       "'" STR_FMT "' is not an address: an IPv6 host is written in brackets, [::1]:8000",
                       STR_ARG(text));
    }
    if (numeric_addr(out, host, bracketed, (uint16_t)port)) {
        return ERR_OK;
    }
    if (bracketed || !resolve) {
        return err_set(e, ERR_INVALID, "'" STR_FMT "' is not an address: the host must be a numeric %s address%s",
                       STR_ARG(text), bracketed ? "IPv6" : "IPv4", bracketed ? "" : ", [IPv6] or 'localhost'");
    }
    return look_up(out, host, (uint16_t)port, e);
}

bool addr_is_local(const struct addr *a)
{
    if (a->sa.ss_family == AF_UNIX) {
        return true;
    }
    if (a->sa.ss_family == AF_INET6) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *)&a->sa)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(ip) || (IN6_IS_ADDR_V4MAPPED(ip) && ip->s6_addr[12] == 127);
    }
    return a->sa.ss_family == AF_INET && ntohl(((const struct sockaddr_in *)&a->sa)->sin_addr.s_addr) >> 24 == 127;
}

/* ---- who holds a port ---- */

enum { INODES_MAX = 32 };

/* The inodes of the sockets that listen on the port. */
static size_t listening_inodes(const char *table, uint16_t port, uint64_t *inodes, size_t n)
{
    FILE *f = fopen(table, "re");
    char line[512];
    while (f != NULL && n < INODES_MAX && fgets(line, sizeof line, f) != NULL) {
        unsigned local = 0, state = 0;
        unsigned long long inode = 0;
        /*            sl  local:port   remote st  queues tr:when retrnsmt uid timeout inode */
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %llu", &local, &state, &inode) == 3 &&
            local == port && state == 0x0a && inode != 0) {
            inodes[n++] = inode;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return n;
}

static bool has_socket(int fds, const uint64_t *inodes, size_t n)
{
    DIR *d = fdopendir(fds); /* takes fds */
    if (d == NULL) {
        close(fds);
        return false;
    }
    bool found = false;
    for (struct dirent *de; !found && (de = readdir(d)) != NULL;) {
        char link[64];
        ssize_t len = readlinkat(dirfd(d), de->d_name, link, sizeof link - 1);
        unsigned long long inode;
        link[len > 0 ? len : 0] = '\0';
        if (sscanf(link, "socket:[%llu]", &inode) == 1) {
            for (size_t i = 0; i < n; i++) {
                found |= inodes[i] == inode;
            }
        }
    }
    closedir(d);
    return found;
}

static void describe(const char *pid, char *out, size_t cap)
{
    char path[64], cmd[160];
    snprintf(path, sizeof path, "/proc/%.20s/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, cmd, sizeof cmd - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    while (n > 0 && cmd[n - 1] == '\0') {
        n--;
    }
    if (n <= 0) {
        snprintf(out, cap, "pid %s", pid);
        return;
    }
    for (ssize_t i = 0; i < n; i++) {
        cmd[i] = cmd[i] == '\0' ? ' ' : (unsigned char)cmd[i] < 0x20 || cmd[i] == 0x7f ? '?' : cmd[i];
    }
    cmd[n] = '\0';
    snprintf(out, cap, "pid %s (%s)", pid, cmd);
}

bool sock_holder(uint16_t port, char *out, size_t cap)
{
    uint64_t inodes[INODES_MAX];
    size_t n = listening_inodes("/proc/net/tcp", port, inodes, 0);
    n = listening_inodes("/proc/net/tcp6", port, inodes, n);
    DIR *proc = n > 0 ? opendir("/proc") : NULL;
    bool found = false;
    for (struct dirent *de; proc != NULL && !found && (de = readdir(proc)) != NULL;) {
        if (isdigit((unsigned char)de->d_name[0])) {
            char path[300];
            snprintf(path, sizeof path, "%s/fd", de->d_name);
            int fds = openat(dirfd(proc), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* not ours to read: -1 */
            if (fds >= 0 && has_socket(fds, inodes, n)) {
                describe(de->d_name, out, cap);
                found = true;
            }
        }
    }
    if (proc != NULL) {
        closedir(proc);
    }
    return found;
}

/* ---- sockets ---- */

/* True if the file is a socket that nobody listens on any more, and could be removed. */
static bool remove_stale(const struct addr *a)
{
    const char *path = ((const struct sockaddr_un *)&a->sa)->sun_path;
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)&a->sa, a->len) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) {
        close(fd);
    }
    return stale && unlink(path) == 0;
}

static enum err_code busy(const struct addr *a, struct err *e)
{
    char who[256] = "";
    uint16_t port = 0;
    if (a->sa.ss_family == AF_INET) {
        port = ntohs(((const struct sockaddr_in *)&a->sa)->sin_port);
    } else if (a->sa.ss_family == AF_INET6) {
        port = ntohs(((const struct sockaddr_in6 *)&a->sa)->sin6_port);
    }
    if (port == 0 || !sock_holder(port, who, sizeof who)) {
        return err_set(e, ERR_CONFLICT, "the address %s is in use by another process", a->text);
    }
    return err_set(e, ERR_CONFLICT, "the address %s is in use by %s: stop it or choose another port", a->text, who);
}

enum err_code sock_listen(int *out, const struct addr *a, bool reuseport, int backlog, struct err *e)
{
    const int one = 1;
    bool tcp = a->sa.ss_family != AF_UNIX;
    enum err_code code;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, ERR_INTERNAL, "no socket for %s", a->text);
    }
    if (tcp && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
                (reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) != 0) ||
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0)) {
        code = err_sys(e, ERR_INTERNAL, "a socket option for %s was refused", a->text);
        goto fail;
    }
    int rc = bind(fd, (const struct sockaddr *)&a->sa, a->len);
    if (rc != 0 && errno == EADDRINUSE && !tcp && remove_stale(a)) {
        rc = bind(fd, (const struct sockaddr *)&a->sa, a->len);
    }
    if (rc == 0) {
        rc = listen(fd, backlog);
    }
    if (rc != 0) {
        bool denied = errno == EACCES || errno == EPERM;
        code = errno == EADDRINUSE
                   ? busy(a, e)
                   : err_sys(e, denied ? ERR_FORBIDDEN : ERR_UNAVAILABLE, "can not listen on %s", a->text);
        goto fail;
    }
    *out = fd;
    return ERR_OK;
fail:
    close(fd);
    return code;
}

static enum err_code connect_failed(const struct addr *a, int error, struct err *e)
{
    if (error == ETIMEDOUT || error == EAGAIN) {
        return err_set(e, ERR_TIMEOUT, "no connection to %s in time", a->text);
    }
    errno = error;
    return err_sys(e, ERR_UNAVAILABLE, "no connection to %s", a->text);
}

/* Waits for a connection under way; 0 or an errno. */
static int connect_wait(int fd, uint64_t until)
{
    for (;;) {
        uint64_t now = clock_us();
        if (until != 0 && now >= until) {
            return ETIMEDOUT;
        }
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        int ms = until == 0 ? -1 : (int)MIN((until - now + 999) / 1000, (uint64_t)3600 * 1000);
        int n = poll(&p, 1, ms);
        if (n > 0) {
            int error = 0;
            socklen_t len = sizeof error;
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
            return error;
        }
        if (n < 0 && errno != EINTR) {
            return errno;
        }
    }
}

enum err_code sock_begin(int *out, const struct addr *a, struct err *e)
{
    const int one = 1;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, ERR_UNAVAILABLE, "no socket for a connection to %s", a->text);
    }
    if (a->sa.ss_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    if (connect(fd, (const struct sockaddr *)&a->sa, a->len) != 0 && errno != EINPROGRESS) {
        enum err_code code = err_sys(e, ERR_UNAVAILABLE, "%s can not be reached", a->text);
        close(fd);
        return code;
    }
    *out = fd;
    return ERR_OK;
}

enum err_code sock_connect(int *out, const struct addr *a, uint64_t timeout_us, struct err *e)
{
    const int one = 1;
    bool tcp = a->sa.ss_family != AF_UNIX;
    uint64_t until = timeout_us ? clock_us() + timeout_us : 0;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | (tcp ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0) {
        return err_sys(e, ERR_INTERNAL, "no socket to connect to %s", a->text);
    }
    if (tcp) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    } else if (timeout_us) { /* a unix connect waits for room in the backlog as long as a send may take */
        struct timeval tv = {.tv_sec = (time_t)(timeout_us / 1000000), .tv_usec = (suseconds_t)(timeout_us % 1000000)};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    }
    int error = 0;
    if (connect(fd, (const struct sockaddr *)&a->sa, a->len) != 0) {
        error = errno;
        if (tcp && (error == EINPROGRESS || error == EINTR)) {
            error = connect_wait(fd, until);
        }
    }
    if (error != 0) {
        close(fd);
        return connect_failed(a, error, e);
    }
    if (tcp) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    } else {
        struct timeval none = {0};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    }
    *out = fd;
    return ERR_OK;
}

enum err_code sock_connect_begin(int *out, const struct addr *a, bool *pending, struct err *e)
{
    const int one = 1;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_sys(e, ERR_INTERNAL, "no socket to connect to %s", a->text);
    }
    if (a->sa.ss_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    int error = connect(fd, (const struct sockaddr *)&a->sa, a->len) == 0 ? 0 : errno;
    *pending = error == EINPROGRESS || error == EINTR;
    if (error != 0 && !*pending) {
        close(fd);
        return error == EAGAIN ? err_set(e, ERR_UNAVAILABLE, "no connection to %s: its backlog is full", a->text)
                               : connect_failed(a, error, e);
    }
    *out = fd;
    return ERR_OK;
}

enum err_code sock_connected(int fd, const struct addr *a, struct err *e)
{
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return error == 0 ? ERR_OK : connect_failed(a, error, e);
}

enum err_code sock_local(struct addr *out, int fd, struct err *e)
{
    struct addr a = {.len = sizeof a.sa};
    if (getsockname(fd, (struct sockaddr *)&a.sa, &a.len) != 0) {
        return err_sys(e, ERR_INTERNAL, "the address of descriptor %d is not known", fd);
    }
    addr_text(&a);
    *out = a;
    return ERR_OK;
}
