/* SPDX-License-Identifier: Apache-2.0 */
/* Devices by name. One spelling each: "cuda", "cuda:01" and "gpu:0" are refused, for accounts and lanes are kept by
 * name. */
#include "inference/device.h"

#include "base/base.h"

bool device_parse(struct device *out, const char *name)
{
    static const char cuda[] = "cuda:";
    struct str s = str_of(name ? name : "cpu");
    struct str digits;
    uint64_t n;

    if (str_is(s, "cpu")) {
        *out = (struct device){false, 0};
        return true;
    }
    if (s.n < sizeof cuda || memcmp(s.p, cuda, sizeof cuda - 1) != 0) {
        return false;
    }
    digits = (struct str){s.p + sizeof cuda - 1, s.n - (sizeof cuda - 1)};
    if (digits.n > 2 || (digits.n == 2 && digits.p[0] == '0') || !str_u64(digits, &n) || n > DEVICE_NUMBER_MAX) {
        return false;
    }
    *out = (struct device){true, (unsigned)n};
    return true;
}
