/* SPDX-License-Identifier: Apache-2.0 */
/* Artifacts: what comes in is what is found, once on the disk, and whatever is wrong with it is noticed and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/store_priv.h"
#include "support/store_help.h"

static const struct str raw = {0};

struct fixture {
    char *folder, *real;
    struct store *s;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct err e = {0};
    f->folder = store_folder_new();
    f->real = realpath(f->folder, NULL);
    *state = f;
    return store_open_in(&f->s, f->folder, &e) == ERR_OK ? 0 : -1;
}

static enum err_code no_tmpfile(struct store *s, void *arg)
{
    (void)arg;
    s->named_temp = true;
    return ERR_OK;
}

static int setup_named_temp(void **state)
{
    int rc = setup(state);
    if (rc == 0) {
        store_call(((struct fixture *)*state)->s, no_tmpfile, NULL);
    }
    return rc;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    store_close(f->s);
    store_folder_free(f->folder);
    free(f->real);
    free(f);
    return 0;
}

static void reopen(struct fixture *f)
{
    struct err e = {0};
    store_close(f->s);
    f->s = NULL;
    assert_int_equal(store_open_in(&f->s, f->folder, &e), ERR_OK);
}

/* Files below a folder of the artifacts, links and other things included. */
static size_t count_in(const char *path)
{
    size_t n = 0;
    struct dirent *d;
    DIR *dir = opendir(path);
    while (dir && (d = readdir(dir)) != NULL) {
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) {
            char *below = store_path(path, "%s", d->d_name);
            struct stat st;
            n += lstat(below, &st) == 0 && S_ISDIR(st.st_mode) ? count_in(below) : 1;
            free(below);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

static size_t count(const struct fixture *f, const char *part)
{
    char *path = store_path(f->folder, "artifacts/%s", part);
    size_t n = count_in(path);
    free(path);
    return n;
}

static void put(const char *folder, const char *name, const char *text)
{
    char *path = store_path(folder, "%s", name);
    for (char *slash = strchr(path + strlen(folder) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
    free(path);
}

/* The announcement of files given as path, content, …, NULL. */
static char *announce(const char *first, ...)
{
    va_list ap;
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_addz(&b, "{\"files\":[");
    va_start(ap, first);
    for (const char *path = first; path; path = va_arg(ap, const char *)) {
        const char *content = va_arg(ap, const char *);
        char sum[65];
        sha256_hex(sum, content, strlen(content));
        buf_addf(&b, "%s{\"path\":\"%s\",\"size\":%zu,\"sha256\":\"%s\"}", path == first ? "" : ",", path,
                 strlen(content), sum);
    }
    va_end(ap);
    buf_addz(&b, "]}");
    char *text = xstrdup(buf_z(&b));
    buf_done(&b);
    return text;
}

static void upload_ok(struct fixture *f, const char *body, struct manifest *m)
{
    struct err e = {0};
    *m = (struct manifest){0};
    if (on_upload(f->s, raw, str_of(body), 7, m, &e) != ERR_OK) {
        fail_msg("%s", e.text);
    }
}

/* Registers the tree as version `number` of "m". */
static void name_it(struct fixture *f, const struct manifest *m, int64_t number)
{
    struct err e = {0};
    struct model_row model = {.name = "m", .family = "default", .stable = number};
    struct version_row v = {.model = "m", .number = number, .backend = "onnx", .bytes = m->bytes};
    struct history_row h = {.model = "m", .version = number, .kind = "pushed"};
    memcpy(v.digest, m->digest, sizeof v.digest);
    assert_int_equal(on_apply(f->s, &(struct store_change){.model = &model, .version = &v, .history = &h}, &e), ERR_OK);
}

static enum err_code opens(struct fixture *f, const char *digest, struct err *e)
{
    int dir = -1;
    struct manifest m = {0};
    enum err_code rc = on_open(f->s, digest, &dir, &m, e);
    if (rc == ERR_OK) {
        close(dir);
        manifest_done(&m);
    }
    return rc;
}

/* ---- coming in ---- */

static void one_raw_file(void **state)
{
    struct fixture *f = *state;
    struct manifest m, found = {0};
    struct err e = {0};
    struct stat st;
    int dir = -1;
    upload_ok(f, "GGUF and the rest of it", &m);
    assert_int_equal(m.n, 1);
    assert_string_equal(m.files[0].path, "model.gguf");
    assert_int_equal(on_open(f->s, m.digest, &dir, &found, &e), ERR_OK);
    assert_int_equal(found.n, 1);
    assert_string_equal(found.digest, m.digest);
    assert_int_equal(fstatat(dir, "model.gguf", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0444);
    assert_int_equal(st.st_nlink, 2); /* the blob and the tree: stored once */
    assert_int_equal(fcntl(dir, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(dir);
    manifest_done(&found);
    manifest_done(&m);
    upload_ok(f, "GGU", &m);
    assert_string_equal(m.files[0].path, "model.onnx");
    manifest_done(&m);
    assert_int_equal(on_upload(f->s, raw, STR(""), 1, &m, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "empty"));
    assert_int_equal(count(f, "tmp"), 0);
}

static void announced_files_in_any_pieces(void **state)
{
    struct fixture *f = *state;
    char *head =
        announce("z.bin", "zzzz", "empty", "", "data/a.txt", "hello", "data/deep/b", "x", "also-empty", "", NULL);
    char digest[65] = "";
    for (size_t piece = 1; piece <= 11; piece++) {
        struct manifest m = {0};
        struct err e = {0};
        assert_int_equal(on_upload(f->s, str_of(head), STR("zzzzhellox"), piece, &m, &e), ERR_OK);
        assert_int_equal(m.n, 5);
        assert_int_equal(m.bytes, 10);
        assert_string_equal(m.files[0].path, "also-empty");
        assert_true(digest[0] == '\0' || strcmp(digest, m.digest) == 0);
        memcpy(digest, m.digest, sizeof digest);
        assert_int_equal(opens(f, digest, &e), ERR_OK);
        manifest_done(&m);
    }
    assert_int_equal(count(f, "trees"), 6);
    assert_int_equal(count(f, "blobs"), 4); /* the empty ones are one */
    assert_int_equal(count(f, "tmp"), 0);
    free(head);
}

static void what_was_not_announced_is_refused(void **state)
{
    struct fixture *f = *state;
    struct manifest m = {0};
    struct err e = {0};
    char *head = announce("a", "hello", "b", "world", NULL);
    assert_int_equal(on_upload(f->s, str_of(head), STR("helloworld!"), 4, &m, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "more bytes"));
    assert_int_equal(on_upload(f->s, str_of(head), STR("hellowor"), 4, &m, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "b is incomplete: 3 of 5"));
    assert_int_equal(on_upload(f->s, str_of(head), STR("hellOworld"), 100, &m, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "changed on its way"));
    assert_int_equal(on_upload(f->s, STR("{\"files\":[]}"), STR(""), 1, &m, &e), ERR_INVALID);
    assert_null(m.files);
    assert_int_equal(count(f, "tmp"), 0);
    assert_int_equal(count(f, "trees"), 0);
    free(head);
}

struct late {
    struct err first, again, last;
};

static enum err_code keeps_saying_it(struct store *s, void *arg)
{
    struct late *l = arg;
    struct upload *u = NULL;
    struct manifest m = {0};
    char *head = announce("a", "hello", NULL);
    if (upload_new(&u, s, str_of(head), &l->first) != ERR_OK || upload_write(u, "jello", 5, &l->first) == ERR_OK ||
        upload_write(u, "x", 1, &l->again) == ERR_OK) {
        abort();
    }
    free(head);
    return upload_finish(u, &m, &l->last);
}

static void the_first_failure_stays(void **state)
{
    struct fixture *f = *state;
    struct late l = {0};
    assert_int_equal(store_call(f->s, keeps_saying_it, &l), ERR_INVALID);
    assert_non_null(strstr(l.first.text, "changed on its way"));
    assert_string_equal(l.again.text, l.first.text);
    assert_string_equal(l.last.text, l.first.text);
    assert_int_equal(count(f, "tmp"), 0);
}

static void too_big_for_the_disk_is_said_at_once(void **state)
{
    struct fixture *f = *state;
    struct manifest m = {0};
    struct err e = {0};
    const char *head = "{\"files\":[{\"path\":\"a\",\"size\":9223372036854775807,\"sha256\":"
                       "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"}]}";
    assert_int_equal(on_upload(f->s, str_of(head), STR(""), 1, &m, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "disk full"));
    assert_int_equal(count(f, "tmp"), 0);
}

/* ---- from this machine ---- */

static void a_folder_is_the_same_as_its_upload(void **state)
{
    struct fixture *f = *state;
    struct manifest m = {0}, up = {0};
    struct err e = {0};
    struct buf text;
    char *src = store_path(f->real, "src"),
         *head = announce("model.yaml", "family: x\n", "model.onnx", "ONNX", "w/data.bin", "123", NULL);
    put(f->real, "src/model.onnx", "ONNX");
    put(f->real, "src/model.yaml", "family: x\n");
    put(f->real, "src/w/data.bin", "123");
    assert_int_equal(on_import(f->s, src, &m, &e), ERR_OK);
    assert_int_equal(on_upload(f->s, str_of(head), STR("family: x\nONNX123"), 5, &up, &e), ERR_OK);
    assert_string_equal(m.digest, up.digest);
    buf_init(&text, 10);
    assert_int_equal(on_read(f->s, m.digest, "model.yaml", &text, &e), ERR_OK);
    assert_true(str_is(buf_str(&text), "family: x\n"));
    assert_int_equal(on_read(f->s, m.digest, "samples.ndjson", &text, &e), ERR_NOT_FOUND);
    assert_int_equal(on_read(f->s, m.digest, "../store-id", &text, &e), ERR_NOT_FOUND);
    buf_clear(&text);
    buf_addz(&text, "1");
    assert_int_equal(on_read(f->s, m.digest, "model.yaml", &text, &e), ERR_TOO_LARGE);
    assert_int_equal(on_read(f->s, m.digest, "w/data.bin", &text, &e), ERR_OK);
    assert_true(str_is(buf_str(&text), "1123"));
    buf_done(&text);
    manifest_done(&m);
    manifest_done(&up);
    free(src);
    free(head);
}

static void one_file_and_its_name(void **state)
{
    static const struct {
        const char *name, *content, *stored;
    } rows[] = {
        {"resnet.bin", "ONNX", "model.onnx"},
        {"llama.bin", "GGUF....", "model.gguf"},
        {"model.py", "print()", "model.py"},
        {"model.onnx", "GGUF, but it says otherwise", "model.onnx"},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct manifest m = {0};
        struct err e = {0};
        char *path = store_path(f->real, "%s", rows[i].name);
        put(f->real, rows[i].name, rows[i].content);
        assert_int_equal(on_import(f->s, path, &m, &e), ERR_OK);
        assert_string_equal(m.files[0].path, rows[i].stored);
        manifest_done(&m);
        free(path);
    }
}

static void import_refused(struct fixture *f, const char *name, enum err_code code, const char *says)
{
    struct manifest m = {0};
    struct err e = {0};
    char *path = store_path(f->real, "%s", name);
    enum err_code rc = on_import(f->s, path, &m, &e);
    if (rc != code || !strstr(e.text, says)) {
        fail_msg("%s gave %s: %s", name, err_name(rc), e.text);
    }
    assert_int_equal(count(f, "tmp"), 0);
    assert_int_equal(count(f, "trees"), 0);
    free(path);
}

static void links_and_devices_are_not_followed(void **state)
{
    struct fixture *f = *state;
    char *path;
    put(f->real, "secret", "secret");
    put(f->real, "link/model.onnx", "x");
    path = store_path(f->real, "link/data");
    assert_int_equal(symlink("../secret", path), 0);
    free(path);
    import_refused(f, "link", ERR_INVALID, "link/data is a symbolic link");
    put(f->real, "pipe/model.onnx", "x");
    path = store_path(f->real, "pipe/data");
    assert_int_equal(mkfifo(path, 0644), 0);
    free(path);
    import_refused(f, "pipe", ERR_INVALID, "pipe/data is a pipe");
    import_refused(f, "pipe/data", ERR_INVALID, "a file or a folder is needed");
    path = store_path(f->real, "direct");
    assert_int_equal(symlink("secret", path), 0);
    free(path);
    import_refused(f, "direct", ERR_INVALID, "symbolic link");
    path = store_path(f->real, "through");
    assert_int_equal(symlink("pipe", path), 0);
    free(path);
    import_refused(f, "through/model.onnx", ERR_INVALID, "symbolic link");
    import_refused(f, "nothing-here", ERR_NOT_FOUND, "No such file");
    put(f->real, "bad/a b", "x");
    import_refused(f, "bad", ERR_INVALID, "'a b' is not allowed");
    put(f->real, "taken/manifest.json", "{}");
    import_refused(f, "taken", ERR_INVALID, "is taken");
    put(f->real, "hollow/x", "x");
    path = store_path(f->real, "hollow/x");
    assert_int_equal(unlink(path), 0);
    free(path);
    import_refused(f, "hollow", ERR_INVALID, "no file in it");
    put(f->real, "nought", "");
    import_refused(f, "nought", ERR_INVALID, "is empty");
}

/* ---- verified before every use ---- */

static void spoil(struct fixture *f, const char *digest, const char *file, const char *text)
{
    char *path = store_path(f->folder, "artifacts/trees/%s/%s", digest, file);
    chmod(path, 0644);
    FILE *out = fopen(path, "r+");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
    free(path);
}

static void damage_is_named_and_a_push_mends_it(void **state)
{
    struct fixture *f = *state;
    struct manifest m;
    struct err e = {0};
    struct buf text;
    buf_init(&text, 100);
    upload_ok(f, "the model's bytes", &m);
    name_it(f, &m, 1);
    assert_int_equal(opens(f, m.digest, &e), ERR_OK);
    spoil(f, m.digest, "model.onnx", "THE");
    assert_int_equal(opens(f, m.digest, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "is damaged: model.onnx has changed"));
    assert_int_equal(on_read(f->s, m.digest, "model.onnx", &text, &e), ERR_STORAGE);
    assert_int_equal(text.n, 0);
    /* the same bytes again: blob and tree are replaced */
    manifest_done(&m);
    upload_ok(f, "the model's bytes", &m);
    assert_int_equal(opens(f, m.digest, &e), ERR_OK);
    assert_int_equal(count(f, "tmp"), 0);
    spoil(f, m.digest, "manifest.json", "{ ");
    assert_int_equal(opens(f, m.digest, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "manifest.json has changed"));
    manifest_done(&m);
    upload_ok(f, "the model's bytes", &m);
    assert_int_equal(opens(f, m.digest, &e), ERR_OK);
    assert_int_equal(on_read(f->s, m.digest, "model.onnx", &text, &e), ERR_OK);
    buf_done(&text);
    manifest_done(&m);
}

static void missing_linked_and_foreign_files(void **state)
{
    struct fixture *f = *state;
    struct manifest m;
    struct err e = {0};
    upload_ok(f, "bytes", &m);
    char *file = store_path(f->folder, "artifacts/trees/%s/model.onnx", m.digest),
         *kept = store_path(f->folder, "kept");
    char *extra = store_path(f->folder, "artifacts/trees/%s/extra.so", m.digest);
    assert_int_equal(rename(file, kept), 0);
    assert_int_equal(opens(f, m.digest, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "missing"));
    assert_int_equal(symlink(kept, file), 0); /* the right bytes, but somewhere else */
    assert_int_equal(opens(f, m.digest, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "link"));
    assert_int_equal(unlink(file), 0);
    assert_int_equal(mkfifo(file, 0644), 0); /* must not block */
    assert_int_equal(opens(f, m.digest, &e), ERR_STORAGE);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rename(kept, file), 0);
    assert_int_equal(opens(f, m.digest, &e), ERR_OK);
    assert_int_equal(symlink("/etc/passwd", extra), 0);
    assert_int_equal(opens(f, m.digest, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "does not name"));
    char nowhere[65];
    sha256_hex(nowhere, "x", 1);
    assert_int_equal(opens(f, nowhere, &e), ERR_STORAGE);
    assert_non_null(strstr(e.text, "missing"));
    assert_int_equal(opens(f, "../../etc", &e), ERR_STORAGE);
    manifest_done(&m);
    free(file);
    free(kept);
    free(extra);
}

/* ---- going away ---- */

static void dropped_when_nobody_names_it(void **state)
{
    struct fixture *f = *state;
    struct manifest m, shared = {0};
    struct err e = {0};
    char *head = announce("model.onnx", "bytes", "more", "of it", NULL);
    upload_ok(f, "bytes", &m);
    name_it(f, &m, 1);
    on_drop(f->s, m.digest); /* version 1 names it */
    assert_int_equal(opens(f, m.digest, &e), ERR_OK);
    assert_int_equal(on_upload(f->s, str_of(head), STR("bytesof it"), 3, &shared, &e), ERR_OK);
    assert_int_equal(count(f, "blobs"), 2);
    on_drop(f->s, shared.digest);
    on_drop(f->s, shared.digest);
    on_drop(f->s, "no digest at all");
    assert_int_equal(opens(f, shared.digest, &e), ERR_STORAGE);
    assert_int_equal(count(f, "blobs"), 1); /* the one that version 1 has too is still there */
    assert_int_equal(count(f, "tmp"), 0);
    assert_int_equal(opens(f, m.digest, &e), ERR_OK);
    manifest_done(&m);
    manifest_done(&shared);
    free(head);
}

static void two_pushes_of_the_same_bytes_one_refused(void **state)
{
    struct fixture *f = *state;
    struct manifest a, b;
    struct err e = {0};
    upload_ok(f, "bytes", &a);
    upload_ok(f, "bytes", &b);
    on_drop(f->s, a.digest);
    assert_int_equal(opens(f, b.digest, &e), ERR_OK); /* the other push still counts on it */
    name_it(f, &b, 1);
    on_drop(f->s, b.digest);
    assert_int_equal(opens(f, b.digest, &e), ERR_OK);
    manifest_done(&a);
    manifest_done(&b);
}

struct open_upload {
    struct upload *u;
    struct manifest m;
    struct err e;
};

static enum err_code half_way(struct store *s, void *arg)
{
    struct open_upload *o = arg;
    char *head = announce("model.onnx", "bytes", "more", "of it", NULL);
    enum err_code rc = upload_new(&o->u, s, str_of(head), &o->e);
    free(head);
    return rc == ERR_OK ? upload_write(o->u, "bytesof", 7, &o->e) : rc;
}

static enum err_code the_rest(struct store *s, void *arg)
{
    struct open_upload *o = arg;
    (void)s;
    enum err_code rc = upload_write(o->u, " it", 3, &o->e);
    return rc == ERR_OK ? upload_finish(o->u, &o->m, &o->e) : rc;
}

static void a_drop_leaves_an_upload_under_way_its_blobs(void **state)
{
    struct fixture *f = *state;
    struct open_upload o = {0};
    struct manifest m;
    upload_ok(f, "bytes", &m);
    assert_int_equal(store_call(f->s, half_way, &o), ERR_OK);
    on_drop(f->s, m.digest);
    assert_int_equal(store_call(f->s, the_rest, &o), ERR_OK);
    assert_int_equal(opens(f, o.m.digest, &o.e), ERR_OK);
    assert_int_equal(count(f, "blobs"), 2);
    manifest_done(&m);
    manifest_done(&o.m);
}

static void the_start_removes_what_a_crash_left(void **state)
{
    struct fixture *f = *state;
    struct manifest kept, orphan;
    struct err e = {0};
    upload_ok(f, "kept", &kept);
    name_it(f, &kept, 1);
    upload_ok(f, "orphan", &orphan); /* in place, and then the server dies before the version is registered */
    put(f->real, "artifacts/tmp/0123456789abcdef/deep/er/file", "half");
    put(f->real, "artifacts/tmp/part", "half");
    put(f->real, "artifacts/blobs/ab/notes.txt", "not ours");
    put(f->real, "artifacts/trees/readme/file", "not ours");
    char *link = store_path(f->real, "artifacts/tmp/link");
    put(f->real, "outside/file", "stays");
    assert_int_equal(symlink("../../outside", link), 0);
    reopen(f);
    assert_int_equal(opens(f, kept.digest, &e), ERR_OK);
    assert_int_equal(opens(f, orphan.digest, &e), ERR_STORAGE);
    assert_int_equal(count(f, "tmp"), 0);
    assert_int_equal(count(f, "blobs"), 2);
    assert_int_equal(count(f, "trees"), 3);
    char *outside = store_path(f->real, "outside");
    assert_int_equal(count_in(outside), 1);
    manifest_done(&kept);
    manifest_done(&orphan);
    free(link);
    free(outside);
}

static void the_kernel_is_asked_again_at_every_open(void **state)
{
    struct fixture *f = *state;
    put(f->real, "in/a/file", "x");
    put(f->real, "out", "x");
    char *in = store_path(f->real, "in"), *link = store_path(f->real, "in/link"), *up = store_path(f->real, "in/up");
    assert_int_equal(symlink("a", link), 0);
    assert_int_equal(symlink("..", up), 0);
    int dir = open(in, O_RDONLY | O_DIRECTORY), fd;
    assert_true((fd = file_open(dir, "a/file", O_RDONLY, 0)) >= 0);
    close(fd);
    static const char *const refused[] = {"../out", "a/../../out", "/etc/passwd", "link/file", "link", "up/out", ""};
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        assert_int_equal(file_open(dir, refused[i], O_RDONLY, 0), -1);
    }
    close(dir);
    free(in);
    free(link);
    free(up);
}

int main(void)
{
#define BOTH_WAYS(name)                                                  \
    {#name, name, setup, teardown, NULL},                                \
    {                                                                    \
        #name "_with_named_temp", name, setup_named_temp, teardown, NULL \
    }
    const struct CMUnitTest tests[] = {
        BOTH_WAYS(one_raw_file),
        BOTH_WAYS(announced_files_in_any_pieces),
        BOTH_WAYS(what_was_not_announced_is_refused),
        BOTH_WAYS(the_first_failure_stays),
        cmocka_unit_test_setup_teardown(too_big_for_the_disk_is_said_at_once, setup, teardown),
        BOTH_WAYS(a_folder_is_the_same_as_its_upload),
        cmocka_unit_test_setup_teardown(one_file_and_its_name, setup, teardown),
        BOTH_WAYS(links_and_devices_are_not_followed),
        BOTH_WAYS(damage_is_named_and_a_push_mends_it),
        cmocka_unit_test_setup_teardown(missing_linked_and_foreign_files, setup, teardown),
        BOTH_WAYS(dropped_when_nobody_names_it),
        cmocka_unit_test_setup_teardown(two_pushes_of_the_same_bytes_one_refused, setup, teardown),
        BOTH_WAYS(a_drop_leaves_an_upload_under_way_its_blobs),
        cmocka_unit_test_setup_teardown(the_start_removes_what_a_crash_left, setup, teardown),
        cmocka_unit_test_setup_teardown(the_kernel_is_asked_again_at_every_open, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
