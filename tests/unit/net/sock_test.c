/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as people type them, listening, connecting, and who holds a port. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "net/sock.h"

static struct addr parsed(const char *text)
{
    struct addr a;
    struct err e;
    if (addr_parse(&a, str_of(text), false, &e) != ERR_OK) {
        fail_msg("%s: %s", text, e.text);
    }
    return a;
}

static void addresses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *canonical;
        bool local;
    } good[] = {
        {"127.0.0.1:8000", "127.0.0.1:8000", true},
        {"127.9.9.9:1", "127.9.9.9:1", true},
        {"localhost:0", "127.0.0.1:0", true},
        {":8000", "0.0.0.0:8000", false},
        {"0.0.0.0:65535", "0.0.0.0:65535", false},
        {"10.0.0.1:80", "10.0.0.1:80", false},
        {"[::1]:8000", "[::1]:8000", true},
        {"[0:0::1]:8000", "[::1]:8000", true},
        {"[::]:8000", "[::]:8000", false},
        {"[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", true},
        {"unix:/run/weir.sock", "unix:/run/weir.sock", true},
        {"unix:relative", "unix:relative", true},
    };
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        struct addr a = parsed(good[i].text);
        assert_string_equal(a.text, good[i].canonical);
        assert_int_equal(addr_is_local(&a), good[i].local);
    }
    char too_long[200] = "unix:/";
    memset(too_long + 6, 'x', 120);
    const char *bad[] = {"",
                         ":",
                         "8000",
                         "127.0.0.1",
                         "127.0.0.1:",
                         "127.0.0.1:65536",
                         "127.0.0.1:+1",
                         "127.0.0.1: 1",
                         "127.0.0.1:8000x",
                         "127.0.0.256:1",
                         "example.org:80",
                         "::1:8000",
                         "[::1]",
                         "[::1:8000",
                         "[127.0.0.1]:1",
                         "[localhost]:1",
                         "unix:",
                         "http://127.0.0.1:1",
                         too_long};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct addr a = {.text = "untouched"};
        struct err e;
        assert_int_equal(addr_parse(&a, str_of(bad[i]), false, &e), ERR_INVALID);
        assert_string_equal(a.text, "untouched");
        assert_non_null(strstr(e.text, bad[i])); /* names what was wrong */
    }
    struct addr a;
    struct err e;
    assert_int_equal(addr_parse(&a, (struct str){"127.0.0.1\0:80", 13}, true, &e), ERR_INVALID);
    assert_int_equal(addr_parse(&a, (struct str){"unix:/a\0b", 9}, true, &e), ERR_INVALID);
}

static void listening_and_connecting(void **state)
{
    (void)state;
    const char *texts[] = {"127.0.0.1:0", "[::1]:0"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct addr a = parsed(texts[i]), local;
        struct err e;
        int fd, client, one = 0;
        socklen_t len = sizeof one;
        if (sock_listen(&fd, &a, false, 16, &e) != ERR_OK) {
            assert_int_equal(i, 1); /* a machine without IPv6 */
            continue;
        }
        assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_int_equal(sock_local(&local, fd, &e), ERR_OK);
        assert_string_not_equal(local.text, a.text);
        assert_int_equal(sock_connect(&client, &local, SECONDS(5), &e), ERR_OK);
        assert_false(fcntl(client, F_GETFL) & O_NONBLOCK);
        assert_int_equal(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, &len), 0);
        assert_int_equal(one, 1);
        int served = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        assert_true(served >= 0);
        assert_int_equal(getsockopt(served, IPPROTO_TCP, TCP_NODELAY, &one, &len), 0);
        assert_int_equal(one, 1); /* inherited */
        close(served);
        close(client);
        close(fd);
        assert_int_equal(sock_connect(&client, &local, SECONDS(5), &e), ERR_UNAVAILABLE);
        assert_non_null(strstr(e.text, local.text));
    }
}

static void a_busy_port_names_its_holder(void **state)
{
    (void)state;
    struct addr a = parsed("127.0.0.1:0"), local;
    struct err e;
    int fd, second = -1, third;
    char want[64], who[256];
    assert_int_equal(sock_listen(&fd, &a, false, 16, &e), ERR_OK);
    assert_int_equal(sock_local(&local, fd, &e), ERR_OK);
    assert_int_equal(sock_listen(&second, &local, false, 16, &e), ERR_CONFLICT);
    assert_int_equal(second, -1);
    snprintf(want, sizeof want, "pid %d (", (int)getpid());
    assert_non_null(strstr(e.text, want));
    assert_non_null(strstr(e.text, local.text));
    uint16_t port = ntohs(((struct sockaddr_in *)&local.sa)->sin_port);
    assert_true(sock_holder(port, who, sizeof who));
    assert_int_equal(strncmp(who, want, strlen(want)), 0);
    close(fd);
    assert_false(sock_holder(port, who, sizeof who));
    assert_int_equal(sock_listen(&second, &local, true, 16, &e), ERR_OK); /* shared by those who all say so */
    assert_int_equal(sock_listen(&third, &local, true, 16, &e), ERR_OK);
    close(second);
    close(third);
}

static void unix_sockets(void **state)
{
    (void)state;
    char dir[] = "/tmp/weir-sock-XXXXXX", path[64], text[80];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    snprintf(text, sizeof text, "unix:%s", path);
    struct addr a = parsed(text), local;
    struct err e;
    int fd, client, second = -1;
    assert_int_equal(sock_connect(&client, &a, SECONDS(1), &e), ERR_UNAVAILABLE);
    assert_int_equal(sock_listen(&fd, &a, false, 1, &e), ERR_OK);
    assert_int_equal(sock_local(&local, fd, &e), ERR_OK);
    assert_string_equal(local.text, text);
    assert_int_equal(sock_connect(&client, &a, SECONDS(1), &e), ERR_OK);
    assert_int_equal(sock_listen(&second, &a, false, 16, &e), ERR_CONFLICT); /* somebody answers there */
    close(client);
    close(fd);
    assert_int_equal(access(path, F_OK), 0); /* the file stays behind */
    assert_int_equal(sock_listen(&fd, &a, false, 16, &e), ERR_OK);
    close(fd);
    unlink(path);
    int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(sock_listen(&second, &a, false, 16, &e), ERR_CONFLICT); /* not a socket: not ours to remove */
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(second, -1);
    unlink(path);
    rmdir(dir);
}

static void a_connection_that_does_not_come_times_out(void **state)
{
    (void)state;
    char dir[] = "/tmp/weir-sock-XXXXXX", text[64];
    assert_non_null(mkdtemp(dir));
    snprintf(text, sizeof text, "unix:%s/s", dir);
    struct addr a = parsed(text);
    struct err e;
    int fd, clients[8];
    size_t n = 0;
    assert_int_equal(sock_listen(&fd, &a, false, 1, &e), ERR_OK);
    enum err_code code = ERR_OK; /* nobody accepts: the backlog is full after a few */
    while (n < COUNT_OF(clients) && (code = sock_connect(&clients[n], &a, MILLIS(20), &e)) == ERR_OK) {
        n++;
    }
    assert_int_equal(code, ERR_TIMEOUT);
    while (n > 0) {
        close(clients[--n]);
    }
    close(fd);
    unlink(text + 5);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),
        cmocka_unit_test(listening_and_connecting),
        cmocka_unit_test(a_busy_port_names_its_holder),
        cmocka_unit_test(unix_sockets),
        cmocka_unit_test(a_connection_that_does_not_come_times_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
