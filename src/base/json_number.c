/* SPDX-License-Identifier: Apache-2.0 */
/* JSON numbers both ways, exact and fast.
 *
 * Reading: up to 19 digits are gathered in 64 bits. If both they and the power of ten are exact in a double, one
 * multiplication or division rounds correctly (Clinger). If not, but the power is at most 27, 128-bit integers give the
 * quotient to 64 bits and whether anything is left, which is enough to round. The rest goes to strtod.
 *
 * Writing: the value is scaled to as many digits as always read back (9 or 17) along with half the distance to its
 * neighbours; then the shortest multiple of 1,000, 100, 10 or 1 within that distance is taken. 6 (15) digits are tried
 * first: every decimal that short survives, so behind them only trailing zeros are left to drop.
 *
 * Thread: any. The tables are written once, before main. */
#define _GNU_SOURCE /* strtod_l: a library that sets a locale must not change how numbers read */
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"

#define U128 unsigned __int128

enum { POW5_MOST = 27, TENS = 60 };

static const double exact_tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static uint64_t pow5[POW5_MOST + 1];
static double tens[2 * TENS + 1]; /* 1e-60 … 1e60, each nearest */
static locale_t c_locale;

__attribute__((constructor(101))) static void number_start(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) {
        abort();
    }
    pow5[0] = 1;
    for (int i = 1; i <= POW5_MOST; i++) {
        pow5[i] = pow5[i - 1] * 5;
    }
    for (int i = -TENS; i <= TENS; i++) {
        char text[16];
        snprintf(text, sizeof(text), "1e%d", i);
        tens[i + TENS] = strtod_l(text, NULL, c_locale);
    }
}

/* ---- reading ---- */

static inline bool digit_at(const char *p, const char *end)
{
    return p < end && (unsigned char)(*p - '0') < 10;
}

/* True if all eight bytes are digits. */
static inline bool eight_digits(uint64_t w)
{
    return (((w + 0x4646464646464646u) | (w - 0x3030303030303030u)) & 0x8080808080808080u) == 0;
}

/* The value of eight digits loaded little-endian: pairs, then fours, then all, three multiplications. */
static inline uint32_t eight_value(uint64_t w)
{
    w = (w & 0x0F0F0F0F0F0F0F0Fu) * 2561 >> 8;
    w = (w & 0x00FF00FF00FF00FFu) * 6553601 >> 16;
    return (uint32_t)((w & 0x0000FFFF0000FFFFu) * 42949672960001u >> 32);
}

static const char *digits_pass(const char *p, const char *end)
{
    while (end - p >= 8) {
        uint64_t w;
        memcpy(&w, p, sizeof(w));
        if (!eight_digits(w)) {
            break;
        }
        p += 8;
    }
    while (digit_at(p, end)) {
        p++;
    }
    return p;
}

/* Optional exponent at p; NULL if malformed. *exp10 grows by it and stays small enough to add to. */
static const char *exponent_take(const char *p, const char *end, long *exp10)
{
    bool negative = false;
    long e = 0;
    p++;
    if (p < end && (*p == '+' || *p == '-')) {
        negative = *p++ == '-';
    }
    if (!digit_at(p, end)) {
        return NULL;
    }
    for (; digit_at(p, end); p++) {
        e = e < 100000 ? e * 10 + (*p - '0') : e;
    }
    *exp10 += negative ? -e : e;
    return p;
}

const char *json_check_number(const char *p, const char *end)
{
    const char *begin = p;
    long unused = 0;
    if (p < end && *p == '-') {
        p++;
    }
    if (!digit_at(p, end)) {
        return NULL;
    }
    if (*p == '0') {
        if (digit_at(++p, end)) {
            return NULL;
        }
    } else {
        p = digits_pass(p, end);
    }
    if (p < end && *p == '.') {
        const char *fraction = ++p;
        p = digits_pass(p, end);
        if (p == fraction) {
            return NULL;
        }
    }
    if (p < end && (*p | 0x20) == 'e') {
        p = exponent_take(p, end, &unused);
    }
    return p && p - begin <= JSON_NUMBER_MAX ? p : NULL;
}

/* A 64-bit value with its top bit set, whether anything was cut off below it, and the power of two it stands for. */
static double double_round(uint64_t q, bool rest, int exp2)
{
    uint64_t cut = q & 0x7FF;
    uint64_t m = q >> 11;
    if (cut > 0x400 || (cut == 0x400 && (rest || (m & 1)))) {
        m++; /* may become 2^53: the addition below then carries into the exponent, as it should */
    }
    uint64_t bits = ((uint64_t)(exp2 + 63 + 1022) << 52) + m;
    double v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

/* w * 10^exp10, rounded correctly; w != 0, |exp10| <= 27, so no result is subnormal or too large. */
static double scale_exact(uint64_t w, int exp10)
{
    if (exp10 >= 0) {
        U128 product = (U128)w * pow5[exp10];
        uint64_t high = (uint64_t)(product >> 64);
        int shift = high ? __builtin_clzll(high) : 64 + __builtin_clzll((uint64_t)product);
        product <<= shift;
        return double_round((uint64_t)(product >> 64), (uint64_t)product != 0, exp10 + 64 - shift);
    }
    int shift_w = __builtin_clzll(w);
    uint64_t five = pow5[-exp10];
    int shift_d = __builtin_clzll(five);
    uint64_t n = w << shift_w;
    uint64_t d = five << shift_d;
    int up = n < d ? 64 : 63; /* either way the quotient has its 64th bit set */
    U128 dividend = (U128)n << up;
    uint64_t q = (uint64_t)(dividend / d);
    uint64_t rest = (uint64_t)dividend - q * d;
    return double_round(q, rest != 0, exp10 - up - shift_w + shift_d);
}

static bool scan_slow(const char *begin, const char *end, double *out)
{
    char text[JSON_NUMBER_MAX + 1];
    size_t n = (size_t)(end - begin);
    if (n > JSON_NUMBER_MAX) {
        return false;
    }
    memcpy(text, begin, n);
    text[n] = '\0';
    *out = strtod_l(text, NULL, c_locale);
    return true;
}

/* The digits behind a point; NULL if there are none. */
static inline const char *fraction_take(const char *p, const char *end, uint64_t *w)
{
    const char *begin = p;
    uint64_t eight;
    while (end - p >= 8 && (memcpy(&eight, p, 8), eight_digits(eight))) {
        *w = *w * 100000000u + eight_value(eight);
        p += 8;
    }
    for (; digit_at(p, end); p++) {
        *w = *w * 10 + (uint64_t)(*p - '0');
    }
    return p > begin ? p : NULL;
}

/* The magnitude w * 10^exp10, unless that needs the text from `begin` to `end`. */
static inline bool magnitude(uint64_t w, long exp10, const char *begin, const char *end, double *out)
{
    if (w >> 53 == 0 && exp10 >= -22 && exp10 <= 22) {
        *out = exp10 < 0 ? (double)w / exact_tens[-exp10] : (double)w * exact_tens[exp10];
    } else if (w == 0) {
        *out = 0;
    } else if (exp10 >= -POW5_MOST && exp10 <= POW5_MOST) {
        *out = scale_exact(w, (int)exp10);
    } else {
        return scan_slow(begin, end, out);
    }
    return true;
}

const char *json_scan_f64(const char *p, const char *end, double *out)
{
    const char *begin = p;
    p += p < end && *p == '-';
    const char *first = p;
    uint64_t w = 0;
    long exp10 = 0;
    for (; digit_at(p, end); p++) {
        w = w * 10 + (uint64_t)(*p - '0');
    }
    if (p == first || (*first == '0' && p - first > 1)) {
        return NULL;
    }
    size_t digits = (size_t)(p - first);
    if (p < end && *p == '.') {
        const char *point = p;
        if (!(p = fraction_take(p + 1, end, &w))) {
            return NULL;
        }
        exp10 = point + 1 - p;
        digits += (size_t)(p - point - 1);
    }
    if (p < end && (*p | 0x20) == 'e' && !(p = exponent_take(p, end, &exp10))) {
        return NULL;
    }
    if (digits > 19) {
        /* Zeros in front do not count; what then still has more has overflowed w. */
        for (const char *z = first; z < p && (*z == '0' || *z == '.'); z++) {
            digits -= *z == '0';
        }
    }
    double v;
    bool fits = p - begin <= JSON_NUMBER_MAX;
    if (!fits || (digits > 19 ? !scan_slow(first, p, &v) : !magnitude(w, exp10, first, p, &v))) {
        return NULL;
    }
    *out = first > begin ? -v : v;
    return p;
}

/* The top bit of every byte that is no digit. */
static inline uint64_t others(uint64_t word)
{
    uint64_t x = word ^ 0x3030303030303030u; /* a digit is now 0 … 9 */
    return (((x & 0x7f7f7f7f7f7f7f7fu) + 0x7676767676767676u) | x) & 0x8080808080808080u;
}

/* An unsigned number such as 12 or 0.375 at the start of the word, with the comma behind it in the word too. */
struct brief {
    uint32_t digits;           /* as one number, without the point */
    unsigned fraction, length; /* digits behind the point; characters */
};
static inline bool brief_take(uint64_t word, struct brief *b)
{
    uint64_t other = others(word), rest = other & (other - 1), low = (other ^ (other - 1)) >> 8, all = word;
    unsigned whole, bits, stop; /* eight for each character */
    bool point;

    if (rest == 0) {
        return false; /* the point and the comma; or the comma alone, seven characters behind the start: rare */
    }
    whole = stop = bits = (unsigned)__builtin_ctzll(other) & ~7u;
    point = (word >> whole & 0xff) == '.';
    if (point) {
        stop = (unsigned)__builtin_ctzll(rest) & ~7u;
        bits = stop - 8;
        all = (word & low) | (word >> 8 & ~low);
    }
    /* One branch for all of it: each by itself is as random as the numbers are. */
    if ((whole == 0) | (point & (bits == whole)) | ((word >> stop & 0xff) != ',') |
        (((word & 0xff) == '0') & (whole > 8))) {
        return false;
    }
    *b = (struct brief){eight_value(all << (64 - bits)), (bits - whole) / 8, stop / 8};
    return true;
}

size_t json_scan_f32s(const char **at, const char *end, float *to, size_t n)
{
    const char *p = *at;
    unsigned guess = 0;
    size_t i;

    for (i = 0; i < n && end - p > 10; i++) {
        uint32_t minus = *p == '-', bits;
        struct brief b;
        uint64_t word;
        float v;

        memcpy(&word, p + minus, sizeof(word));
        if (!brief_take(word, &b)) {
            break;
        }
        v = (float)((double)b.digits / exact_tens[b.fraction]);
        memcpy(&bits, &v, sizeof(bits));
        bits |= minus << 31;
        memcpy(&to[i], &bits, sizeof(bits));
        p += minus;
        /* The next one is guessed to begin as far behind as the last time, so that the processor need not wait for this
         * one's length to go on. An assignment without the branch would have it wait: hence the empty statement. */
        if (b.length != guess) {
            guess = b.length;
            __asm__ volatile("" : "+r"(guess));
        }
        p += guess + 1;
        if (*p == ' ') {
            p++;
        }
    }
    *at = p;
    return i;
}

const char *json_scan_int(const char *p, const char *end, uint64_t *magnitude, bool *negative)
{
    bool minus = p < end && *p == '-';
    p += minus;
    const char *first = p;
    uint64_t v = 0;
    for (; digit_at(p, end); p++) {
        if (!ck_mul(v, 10, &v) || !ck_add(v, (uint64_t)(*p - '0'), &v)) {
            return NULL;
        }
    }
    if (p == first || (*first == '0' && p - first > 1)) {
        return NULL;
    }
    if (p < end && (*p == '.' || (*p | 0x20) == 'e')) {
        return NULL;
    }
    *magnitude = v;
    *negative = minus;
    return p;
}

/* ---- writing ---- */

enum { NUMBER_ROOM = 80, DIGITS_ROOM = 24, PLAIN_FROM = -5, PLAIN_BELOW = 16 };

/* Eight digits of v < 10^8, one a byte, the first lowest: fours, then pairs, then single digits, side by side. */
static inline uint64_t eight_split(uint32_t v)
{
    uint64_t fours = (uint64_t)(v % 10000) << 32 | v / 10000;
    uint64_t hundreds = (fours * 10486 >> 20) & 0x0000007F0000007Fu;
    uint64_t pairs = (fours - hundreds * 100) << 16 | hundreds;
    uint64_t tens_ = (pairs * 103 >> 10) & 0x000F000F000F000Fu;
    return (pairs - tens_ * 10) << 8 | tens_;
}

/* The digits of m != 0 without trailing zeros, at text + *first (which has room for two strides of DIGITS_ROOM behind
 * it). Returns their number; *exp10 grows by the zeros dropped. */
static inline int digits_put(char *text, uint64_t m, int *first, int *exp10)
{
    uint64_t word[3] = {0};
    int used = m < 100000000u ? 1 : m < 10000000000000000u ? 2 : 3;
    for (int i = used; i-- > 0; m /= 100000000u) {
        word[i] = eight_split((uint32_t)(m % 100000000u));
    }
    int last = used - 1;
    while (word[last] == 0) {
        last--;
    }
    int zeros = 8 * (used - 1 - last) + (__builtin_clzll(word[last]) >> 3);
    *first = __builtin_ctzll(word[0]) >> 3;
    *exp10 += zeros;
    for (int i = 0; i < used; i++) {
        word[i] |= 0x3030303030303030u;
    }
    memcpy(text, word, sizeof(word));
    return 8 * used - zeros - *first;
}

static char *exponent_put(char *at, int e)
{
    unsigned u = (unsigned)abs(e);
    *at++ = 'e';
    *at++ = e < 0 ? '-' : '+';
    if (u >= 100) {
        *at++ = (char)('0' + u / 100);
    }
    *at++ = (char)('0' + u / 10 % 10);
    *at++ = (char)('0' + u % 10);
    return at;
}

/* m * 10^exp10 in digits at `at` (NUMBER_ROOM bytes, of which more than the text is overwritten: copies of a fixed
 * length are cheaper); returns the byte behind them. m != 0. */
static char *decimal_put(char *at, uint64_t m, int exp10)
{
    char text[3 * DIGITS_ROOM];
    int first;
    int n = digits_put(text, m, &first, &exp10);
    const char *digits = text + first;
    int point = n + exp10; /* digits before the point */
    if (point - 1 < PLAIN_FROM || point - 1 >= PLAIN_BELOW) {
        *at++ = digits[0];
        if (n > 1) {
            *at++ = '.';
            memcpy(at, digits + 1, DIGITS_ROOM);
            at += n - 1;
        }
        return exponent_put(at, point - 1);
    }
    if (point <= 0) {
        memcpy(at, "0.000000", 8);
        at += 2 - point;
        memcpy(at, digits, DIGITS_ROOM);
        return at + n;
    }
    memcpy(at, digits, DIGITS_ROOM);
    if (point >= n) {
        memset(at + n, '0', DIGITS_ROOM);
        memcpy(at + point, ".0", 2);
        return at + point + 2;
    }
    at[point] = '.';
    memcpy(at + point + 1, digits + point, DIGITS_ROOM);
    return at + n + 1;
}

/* The rare ranges: the C library's digits, tried from few to many until they read back. */
static char *decimal_slow(char *at, double v, bool single)
{
    char text[40];
    for (int digits = single || v < DBL_MIN ? 1 : 15;; digits++) {
        locale_t before = uselocale(c_locale);
        snprintf(text, sizeof(text), "%.*e", digits - 1, v);
        uselocale(before);
        bool same = single ? strtof_l(text, NULL, c_locale) == (float)v : strtod_l(text, NULL, c_locale) == v;
        if (same || digits == 17) {
            break;
        }
    }
    uint64_t m = 0;
    int exp10 = 0;
    const char *p = text;
    for (bool point = false; *p != 'e'; p++) {
        point |= *p == '.';
        if (*p != '.') {
            m = m * 10 + (uint64_t)(*p - '0');
            exp10 -= point;
        }
    }
    return decimal_put(at, m, exp10 + (int)strtol(p + 1, NULL, 10));
}

/* floor(log10(2^exp2)) for |exp2| < 1,100. */
static int tens_of(int exp2)
{
    return (int)((exp2 * 1262611L) >> 22);
}

#define SINGLE_UNIT(n) ((uint64_t)(n) << 20)
enum { DOUBT = 3 };
static const uint64_t single_units[] = {SINGLE_UNIT(1000), SINGLE_UNIT(100), SINGLE_UNIT(10), SINGLE_UNIT(1)};

/* v > 0 and finite. */
static char *f32_put(char *at, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    int biased = (int)(bits >> 23);
    uint32_t fraction = bits & 0x7FFFFF;
    if (biased == 0) {
        return decimal_slow(at, (double)v, true); /* subnormal */
    }
    double d = (double)v;
    int e10 = tens_of(biased - 127);
    e10 += d >= tens[e10 + 1 + TENS];
    /* Nine digits before the point and 20 bits after it. The scaling errs by less than 2 of the last. */
    double scale = tens[8 - e10 + TENS] * 1048576.0;
    uint64_t s = (uint64_t)(d * scale);
    uint64_t half_bits = (uint64_t)(biased - 127 - 24 + 1023) << 52; /* 2^(e-24): half the distance to the next float */
    double half;
    memcpy(&half, &half_bits, sizeof(half));
    uint64_t above = (uint64_t)(half * scale);
    uint64_t below = fraction == 0 ? above / 2 : above; /* below a power of two floats are closer */
    for (unsigned i = 0; i < 4; i++) {
        /* A switch over constants, so that the divisions become multiplications. */
        uint64_t m = i == 0   ? s / SINGLE_UNIT(1000)
                     : i == 1 ? s / SINGLE_UNIT(100)
                     : i == 2 ? s / SINGLE_UNIT(10)
                              : s >> 20;
        uint64_t unit = single_units[i];
        uint64_t down = s - m * unit;
        bool up = down > unit - down;
        uint64_t off = up ? unit - down : down;
        uint64_t most = up ? above : below;
        if (off + DOUBT < most) {
            return decimal_put(at, m + up, e10 - 8 + (int)(3 - i));
        }
        if (off <= most + DOUBT) {
            /* On the border between two floats, as far as these bits tell. */
            char *end = decimal_put(at, m + up, e10 - 8 + (int)(3 - i));
            *end = '\0';
            if (strtof_l(at, NULL, c_locale) == v) {
                return end;
            }
        }
    }
    return decimal_slow(at, d, true);
}

/* v > 0 and finite. All integers, so nothing here is rounded. */
static char *f64_put(char *at, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    int exp2 = (int)(bits >> 52) - 1075; /* v = f * 2^exp2 */
    uint64_t f = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1 << 52;
    if (v < 1e-10 || v >= 9e15) {
        return decimal_slow(at, v, false);
    }
    int e10 = tens_of(exp2 + 52);
    e10 += v >= tens[e10 + 1 + TENS];
    int k = 16 - e10; /* v * 10^k has 17 digits before the point; 0 <= k <= 27 */
    /* In units of 2^-point: 10^k = 5^k * 2^k; doubled, so that half the distance to the next double is whole. */
    int point = 1 - exp2 - k;
    U128 s = (U128)f * pow5[k] << 1;
    U128 half = pow5[k];
    uint64_t whole = (uint64_t)(s >> point);
    U128 part = s & (((U128)1 << point) - 1);
    bool even = (f & 1) == 0;
    bool power = f == (uint64_t)1 << 52;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t unit_whole = i == 0 ? 100 : i == 1 ? 10 : 1;
        uint64_t m = i == 0 ? whole / 100 : i == 1 ? whole / 10 : whole;
        U128 unit = (U128)unit_whole << point;
        U128 down = ((U128)(whole - m * unit_whole) << point) + part;
        bool up = down > unit - down;
        U128 off = up ? unit - down : down << power;
        if (off < half || (off == half && even)) {
            return decimal_put(at, m + up, (int)(2 - i) - k);
        }
    }
    return decimal_slow(at, v, false);
}

static void number_add(struct buf *b, double v, bool single)
{
    if (!isfinite(v)) {
        BUF_LIT(b, "null");
        return;
    }
    char local[NUMBER_ROOM];
    bool direct = !b->over && b->p && b->cap - b->n >= NUMBER_ROOM;
    char *begin = direct ? b->p + b->n : local;
    char *at = begin;
    if (signbit(v)) {
        *at++ = '-';
        v = -v;
    }
    if (v == 0) {
        memcpy(at, "0.0", 3);
        at += 3;
    } else {
        at = single ? f32_put(at, (float)v) : f64_put(at, v);
    }
    if (direct) {
        b->n += (size_t)(at - begin);
    } else {
        buf_add(b, local, (size_t)(at - begin));
    }
}

void json_f32(struct buf *b, float v)
{
    number_add(b, (double)v, true);
}

void json_f64(struct buf *b, double v)
{
    number_add(b, v, false);
}
