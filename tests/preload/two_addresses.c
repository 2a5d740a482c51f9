/* SPDX-License-Identifier: Apache-2.0 */
/* A resolver with one name more: WEIR_TEST_NAME has the addresses of WEIR_TEST_ADDRESSES, "127.0.0.2,127.0.0.1". */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

typedef int getaddrinfo_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

__attribute__((visibility("default"))) int getaddrinfo(const char *host, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **out)
{
    const char *name = getenv("WEIR_TEST_NAME"), *list = getenv("WEIR_TEST_ADDRESSES");
    getaddrinfo_fn *real;
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
    struct addrinfo *all = NULL, **last = &all;
    char one[64];
    int rc = 0;

    memcpy(&real, &symbol, sizeof real);
    if (!host || !name || !list || strcmp(host, name) != 0) {
        return real(host, service, hints, out);
    }
    for (const char *p = list; *p && rc == 0;) {
        size_t n = strcspn(p, ",");

        if (n >= sizeof one) {
            return EAI_FAIL;
        }
        memcpy(one, p, n);
        one[n] = '\0';
        rc = real(one, service, hints, last); /* each a list of its own, which freeaddrinfo frees as one */
        while (rc == 0 && *last) {
            last = &(*last)->ai_next;
        }
        p += n + (p[n] == ',');
    }
    *out = all;
    return rc;
}
