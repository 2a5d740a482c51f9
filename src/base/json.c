/* SPDX-License-Identifier: Apache-2.0 */
/* JSON by streaming: the reader's state machine, strings, and the writer's strings. Numbers are in json_number.c.
 *
 * The reader holds one bit for each level (object or array) and one state that says what may come next, so it needs no
 * stack and no memory. Strings are checked eight bytes at a time while they are plain, and byte by byte where an
 * escape, a control character or UTF-8 begins.
 *
 * Thread: one at a time. */
#include "base/json.h"

enum state {
    WANT_VALUE,       /* after ':', or at the start */
    WANT_FIRST_VALUE, /* after '[' */
    WANT_FIRST_KEY,   /* after '{' */
    WANT_COMMA,       /* after a value within a container */
    WANT_END,         /* after the outermost value */
    ENDED,
    FAILED,
};

void json_reader_init(struct json_reader *r, struct str in)
{
    static const char nothing[] = "";
    const char *p = in.n ? in.p : nothing;
    *r = (struct json_reader){.start = p, .p = p, .end = p + in.n, .state = WANT_VALUE};
}

static enum json_kind fail(struct json_reader *r, const char *at, const char *problem)
{
    r->p = at;
    r->problem = problem;
    r->state = FAILED;
    r->text = (struct str){0};
    return r->kind = JSON_ERROR;
}

static inline const char *blank_skip(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) {
        p++;
    }
    return p;
}

/* ---- strings ---- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* Four hexadecimal digits; -1 if they are not. */
static int hex4(const char *p, const char *end)
{
    int v = 0;
    if (end - p < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0) {
            return -1;
        }
        v = v << 4 | digit;
    }
    return v;
}

/* The length of the UTF-8 character at p (its first byte is >= 0x80), 0 if it is not well formed. */
static unsigned utf8_length(const char *p, const char *end)
{
    const unsigned char *u = (const unsigned char *)p;
    size_t left = (size_t)(end - p);
    unsigned char c = u[0];
    unsigned n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    if (c < 0xC2 || c > 0xF4 || left < n) {
        return 0;
    }
    for (unsigned i = 1; i < n; i++) {
        if ((u[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (c == 0xE0 && u[1] < 0xA0) || (c == 0xF0 && u[1] < 0x90);
    bool surrogate = c == 0xED && u[1] >= 0xA0;
    bool beyond = c == 0xF4 && u[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : n;
}

bool json_utf8(struct str s)
{
    const char *p = s.p;
    const char *end = s.n ? s.p + s.n : s.p;
    while (p < end) {
        unsigned n = (unsigned char)*p < 0x80 ? 1 : utf8_length(p, end);
        if (n == 0) {
            return false;
        }
        p += n;
    }
    return true;
}

/* Checks the escape at p (a backslash). Returns the byte behind it; NULL with *problem. */
static const char *escape_check(const char *p, const char *end, const char **problem)
{
    *problem = "a string is not closed";
    if (end - p < 2) {
        return NULL;
    }
    if (p[1] != 'u') {
        *problem = "an unknown escape in a string";
        return p[1] && strchr("\"\\/bfnrt", p[1]) ? p + 2 : NULL;
    }
    int unit = hex4(p + 2, end);
    if (unit < 0) {
        *problem = "\\u needs four hexadecimal digits";
        return NULL;
    }
    p += 6;
    if (unit < 0xD800 || unit > 0xDFFF) {
        return p;
    }
    *problem = "half of a surrogate pair in a string";
    if (unit >= 0xDC00 || end - p < 6 || p[0] != '\\' || p[1] != 'u') {
        return NULL;
    }
    int second = hex4(p + 2, end);
    return second >= 0xDC00 && second <= 0xDFFF ? p + 6 : NULL;
}

#define EACH_BYTE 0x0101010101010101u
#define HIGH_BITS 0x8080808080808080u

/* Nonzero if one of eight bytes is a quote, a backslash, a control character or not ASCII. */
static inline uint64_t special(const char *p)
{
    uint64_t w;
    memcpy(&w, p, sizeof(w));
    uint64_t quote = w ^ (EACH_BYTE * '"');
    uint64_t slash = w ^ (EACH_BYTE * '\\');
    return (w | (w - EACH_BYTE * 0x20) | (quote - EACH_BYTE) | (slash - EACH_BYTE)) & HIGH_BITS;
}

/* Reads the string whose opening quote is at r->p into r->text. */
static bool string_take(struct json_reader *r)
{
    const char *begin = r->p + 1;
    const char *p = begin;
    const char *end = r->end;
    const char *problem;
    r->escaped = false;
    for (;;) {
        while (end - p >= 8 && !special(p)) {
            p += 8;
        }
        if (p == end) {
            fail(r, p, "a string is not closed");
            return false;
        }
        unsigned char c = (unsigned char)*p;
        if (c == '"') {
            break;
        }
        if (c == '\\') {
            const char *next = escape_check(p, end, &problem);
            if (!next) {
                fail(r, p, problem);
                return false;
            }
            r->escaped = true;
            p = next;
        } else if (c >= 0x80) {
            unsigned n = utf8_length(p, end);
            if (n == 0) {
                fail(r, p, "a string is not UTF-8");
                return false;
            }
            p += n;
        } else if (c < 0x20) {
            fail(r, p, "a control character in a string");
            return false;
        } else {
            p++;
        }
    }
    r->text = (struct str){begin, (size_t)(p - begin)};
    r->p = p + 1;
    return true;
}

static char *utf8_put(char *out, unsigned c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xC0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *out++ = (char)(0xE0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3F));
        *out++ = (char)(0x80 | (c & 0x3F));
    } else {
        *out++ = (char)(0xF0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3F));
        *out++ = (char)(0x80 | (c >> 6 & 0x3F));
        *out++ = (char)(0x80 | (c & 0x3F));
    }
    return out;
}

size_t json_unescape(char *out, struct str s)
{
    static const char from[] = "bfnrt";
    static const char to[] = "\b\f\n\r\t";
    const char *p = s.p;
    const char *end = s.p + s.n;
    char *at = out;
    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        size_t plain = (size_t)((slash ? slash : end) - p);
        memmove(at, p, plain);
        at += plain;
        p += plain;
        if (end - p < 2) {
            break;
        }
        if (p[1] != 'u') {
            const char *letter = memchr(from, p[1], sizeof(from) - 1);
            *at++ = letter ? to[letter - from] : p[1];
            p += 2;
            continue;
        }
        int unit = hex4(p + 2, end);
        p += 6;
        if (unit < 0) {
            break; /* the reader refused this */
        }
        unsigned c = (unsigned)unit;
        if (c >= 0xD800 && c < 0xDC00 && end - p >= 6) {
            c = 0x10000 + ((c - 0xD800) << 10) + ((unsigned)hex4(p + 2, end) - 0xDC00);
            p += 6;
        }
        at = utf8_put(at, c);
    }
    return (size_t)(at - out);
}

bool json_text_is(const struct json_reader *r, const char *z)
{
    if (!r->escaped) {
        return str_is(r->text, z);
    }
    /* An escape is longer than what it stands for (\u and six more: six bytes for at most three; a pair: twelve for
     * four). */
    size_t n = strlen(z);
    if (r->text.n < n || r->text.n > n * 6) {
        return false;
    }
    const char *p = r->text.p;
    const char *end = p + r->text.n;
    size_t at = 0;
    while (p < end) {
        size_t raw = 1;
        if (*p == '\\') {
            bool pair = p[1] == 'u' && (p[2] | 0x20) == 'd' && strchr("89abAB", p[3]);
            raw = p[1] != 'u' ? 2 : pair ? 12 : 6;
        }
        char one[12];
        size_t got = json_unescape(one, (struct str){p, raw});
        if (got > n - at || memcmp(one, z + at, got) != 0) {
            return false;
        }
        at += got;
        p += raw;
    }
    return at == n;
}

/* ---- the state machine ---- */

static inline bool in_object(const struct json_reader *r)
{
    return r->nest & 1;
}

static inline enum json_kind value_done(struct json_reader *r, enum json_kind kind)
{
    r->state = r->depth ? WANT_COMMA : WANT_END;
    return r->kind = kind;
}

static enum json_kind container_begin(struct json_reader *r, bool object)
{
    if (r->depth == JSON_DEPTH_MAX) {
        return fail(r, r->p, "nested deeper than 64 levels");
    }
    r->depth++;
    r->nest = r->nest << 1 | object;
    r->p++;
    r->state = object ? WANT_FIRST_KEY : WANT_FIRST_VALUE;
    return r->kind = object ? JSON_OBJECT : JSON_ARRAY;
}

static enum json_kind container_end(struct json_reader *r)
{
    enum json_kind kind = in_object(r) ? JSON_OBJECT_END : JSON_ARRAY_END;
    r->p++;
    r->depth--;
    r->nest >>= 1;
    return value_done(r, kind);
}

static enum json_kind word_take(struct json_reader *r, const char *word, size_t n, enum json_kind kind)
{
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0) {
        return fail(r, r->p, "a value is expected");
    }
    r->p += n;
    return value_done(r, kind);
}

static enum json_kind number_take(struct json_reader *r)
{
    const char *next = json_check_number(r->p, r->end);
    if (!next) {
        return fail(r, r->p, "a malformed number");
    }
    r->text = (struct str){r->p, (size_t)(next - r->p)};
    r->p = next;
    return value_done(r, JSON_NUMBER);
}

static enum json_kind value_take(struct json_reader *r)
{
    switch (*r->p) {
    case '{':
        return container_begin(r, true);
    case '[':
        return container_begin(r, false);
    case '"':
        return string_take(r) ? value_done(r, JSON_STRING) : JSON_ERROR;
    case 't':
        return word_take(r, "true", 4, JSON_TRUE);
    case 'f':
        return word_take(r, "false", 5, JSON_FALSE);
    case 'n':
        return word_take(r, "null", 4, JSON_NULL);
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return number_take(r);
    default:
        return fail(r, r->p, "a value is expected");
    }
}

static enum json_kind key_take(struct json_reader *r)
{
    if (*r->p != '"') {
        return fail(r, r->p, "a key in quotes is expected");
    }
    if (!string_take(r)) {
        return JSON_ERROR;
    }
    const char *p = blank_skip(r->p, r->end);
    if (p == r->end || *p != ':') {
        return fail(r, p, "a colon is expected after a key");
    }
    r->p = p + 1;
    r->state = WANT_VALUE;
    return r->kind = JSON_KEY;
}

/* After a value within a container: its end, or a comma and what follows it. */
static enum json_kind comma_take(struct json_reader *r)
{
    char c = *r->p;
    if (c == (in_object(r) ? '}' : ']')) {
        return container_end(r);
    }
    if (c != ',') {
        return fail(r, r->p, in_object(r) ? "a comma or } is expected" : "a comma or ] is expected");
    }
    r->p = blank_skip(r->p + 1, r->end);
    if (r->p == r->end) {
        return fail(r, r->p, "the document ends too early");
    }
    return in_object(r) ? key_take(r) : value_take(r);
}

enum json_kind json_next(struct json_reader *r)
{
    if (r->state >= ENDED) {
        return r->kind;
    }
    r->p = blank_skip(r->p, r->end);
    if (r->p == r->end) {
        if (r->state != WANT_END) {
            return fail(r, r->p, r->p == r->start ? "the document is empty" : "the document ends too early");
        }
        r->state = ENDED;
        return r->kind = JSON_END;
    }
    switch ((enum state)r->state) {
    case WANT_COMMA:
        return comma_take(r);
    case WANT_FIRST_VALUE:
        return *r->p == ']' ? container_end(r) : value_take(r);
    case WANT_FIRST_KEY:
        return *r->p == '}' ? container_end(r) : key_take(r);
    case WANT_VALUE:
        return value_take(r);
    default:
        return fail(r, r->p, "something stands behind the document");
    }
}

/* Runs over numbers of an array while they are followed by commas: the bulk of a tensor. Leaves r at a token border. */
static void numbers_skip(struct json_reader *r)
{
    const char *p = r->p;
    const char *end = r->end;
    for (;;) {
        const char *next = json_check_number(blank_skip(p, end), end);
        next = next ? blank_skip(next, end) : end;
        if (next == end || *next != ',') {
            return; /* the last one, or none: json_next looks at it from r->p */
        }
        p = next + 1;
        r->p = p;
        r->state = WANT_VALUE;
    }
}

bool json_skip(struct json_reader *r)
{
    if (r->kind == JSON_KEY) {
        json_next(r);
    }
    if (r->kind != JSON_OBJECT && r->kind != JSON_ARRAY) {
        return r->kind != JSON_ERROR && r->kind != JSON_END;
    }
    unsigned outside = r->depth - 1u;
    do {
        if (r->kind == JSON_ARRAY) {
            numbers_skip(r);
        }
        if (json_next(r) == JSON_ERROR) {
            return false;
        }
    } while (r->depth > outside);
    return true;
}

size_t json_offset(const struct json_reader *r)
{
    return (size_t)(r->p - r->start);
}

enum err_code json_error(const struct json_reader *r, struct err *e)
{
    return err_set(e, ERR_INVALID, "JSON: %s at byte %zu", r->problem ? r->problem : "not what is expected here",
                   json_offset(r));
}

/* ---- writer ---- */

static void escape_put(struct buf *b, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    char out[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    const char *letter = memchr("\b\f\n\r\t", c, 5);
    if (c == '"' || c == '\\') {
        out[1] = (char)c;
    } else if (letter) {
        out[1] = "bfnrt"[c == '\b' ? 0 : c == '\f' ? 1 : c == '\n' ? 2 : c == '\r' ? 3 : 4];
    } else {
        buf_add(b, out, 6);
        return;
    }
    buf_add(b, out, 2);
}

void json_str(struct buf *b, struct str s)
{
    const char *p = s.p;
    const char *end = s.n ? s.p + s.n : s.p;
    const char *plain = p; /* from here on to p nothing needs a change */
    buf_addc(b, '"');
    while (p < end) {
        unsigned char c = (unsigned char)*p;
        if (end - p >= 8 && !special(p)) {
            p += 8;
        } else if (c >= 0x80) {
            unsigned n = utf8_length(p, end);
            if (n == 0) {
                buf_add(b, plain, (size_t)(p - plain));
                BUF_LIT(b, "\xEF\xBF\xBD");
                plain = p + 1;
            }
            p += n ? n : 1;
        } else if (c == '"' || c == '\\' || c < 0x20) {
            buf_add(b, plain, (size_t)(p - plain));
            escape_put(b, c);
            plain = ++p;
        } else {
            p++;
        }
    }
    buf_add(b, plain, (size_t)(end - plain));
    buf_addc(b, '"');
}

void json_strz(struct buf *b, const char *z)
{
    if (z) {
        json_str(b, str_of(z));
    } else {
        BUF_LIT(b, "null");
    }
}

void json_comma(struct buf *b)
{
    if (b->n > 0 && b->p[b->n - 1] != '{' && b->p[b->n - 1] != '[') {
        buf_addc(b, ',');
    }
}

void json_key(struct buf *b, const char *key)
{
    json_comma(b);
    json_strz(b, key);
    buf_addc(b, ':');
}
