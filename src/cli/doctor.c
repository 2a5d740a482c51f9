/* SPDX-License-Identifier: Apache-2.0 */
/* weir doctor: is this machine fit to run a server, and is the one that runs well?
 *
 * Every check is one row: what was looked at, what was found, and, where that is not good enough, how to mend it.
 * Nothing is changed: a port is bound for a moment, a nameless temporary file is made in the data folder. A running
 * server adds its own rows. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <onnxruntime_c_api.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/show.h"
#include "client/port.h"

#define FILES_WANTED 4096
#define ROOM_WANTED (UINT64_C(1) << 30) /* bytes free in the data folder */
#define MEMORY_WANTED (UINT64_C(512) << 20)

struct check {
    char *name, *text, *mend; /* mend NULL: nothing to mend */
    bool ok;
};
struct checks {
    struct check *list;
    size_t n;
    size_t failed;
    bool server;        /* one answers */
    char *data, *admin; /* its addresses */
};

/* Takes text and mend over. */
static void add(struct checks *k, const char *name, bool ok, char *text, char *mend)
{
    k->list = xrealloc(k->list, (k->n + 1) * sizeof *k->list);
    k->list[k->n++] = (struct check){xstrdup(name), text, ok ? NULL : mend, ok};
    k->failed += !ok;
    if (ok) {
        free(mend);
    }
}

static void checks_done(struct checks *k)
{
    for (size_t i = 0; i < k->n; i++) {
        free(k->list[i].name);
        free(k->list[i].text);
        free(k->list[i].mend);
    }
    free(k->list);
    free(k->data);
    free(k->admin);
}

/* ---- the machine ---- */

static void check_machine(struct checks *k)
{
    struct utsname u = {0};
    struct sysinfo s = {0};
    uname(&u);
    sysinfo(&s);
    uint64_t total = (uint64_t)s.totalram * s.mem_unit;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    add(k, "machine", total >= MEMORY_WANTED,
        xasprintf("%s %s, %ld cores, %.1f GB of memory", u.sysname, u.release, cores, (double)total / 1e9),
        xstrdup("give the machine, or its container, at least 512 MiB of memory"));
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    add(k, "open files", files.rlim_max >= FILES_WANTED,
        xasprintf("at most %" PRIu64 " descriptors", (uint64_t)files.rlim_max),
        xasprintf("raise the limit to %d or more: LimitNOFILE= of the service, or ulimit -Hn", FILES_WANTED));
}

static void check_landlock(struct checks *k)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    add(k, "landlock", abi >= 1, abi >= 1 ? xasprintf("version %ld", abi) : xasprintf("%s", strerror(errno)),
        xstrdup(
            "workers can not be kept to their own folder: use a kernel from 5.13 on with landlock in its lsm= list, "
            "and a container that allows the landlock system calls"));
}

static void check_seccomp(struct checks *k)
{
    uint32_t action = SECCOMP_RET_KILL_PROCESS;
    bool ok = syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
    add(k, "seccomp", ok, ok ? xstrdup("filters that end the process") : xasprintf("%s", strerror(errno)),
        xstrdup("workers can not be kept from system calls: use a kernel from 4.14 on with CONFIG_SECCOMP_FILTER"));
}

static void check_privileges(struct checks *k)
{
    bool ok = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0;
    add(k, "no_new_privs", ok, ok ? xstrdup("available") : xasprintf("%s", strerror(errno)),
        xstrdup("a worker could shed its walls: use a kernel from 3.5 on"));
}

static void check_pidfd(struct checks *k)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    add(k, "pidfd", fd >= 0, fd >= 0 ? xstrdup("available") : xasprintf("%s", strerror(errno)),
        xstrdup("a worker's end can not be seen: use a kernel from 5.3 on"));
    if (fd >= 0) {
        close(fd);
    }
}

static void check_memfd(struct checks *k)
{
    int fd = memfd_create("weir-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool ok = fd >= 0 && ftruncate(fd, 4096) == 0 &&
              fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) == 0;
    add(k, "memfd", ok, ok ? xstrdup("sealed windows") : xasprintf("%s", strerror(errno)),
        xstrdup("tensors can not be shared read-only: use a kernel from 5.1 on"));
    if (fd >= 0) {
        close(fd);
    }
}

static void check_runtime(struct checks *k)
{
    void *lib = dlopen("libonnxruntime.so.1", RTLD_LAZY | RTLD_LOCAL);
    const char *why = lib ? NULL : dlerror();
    const OrtApiBase *(*base)(void) = NULL;
    void *symbol = lib ? dlsym(lib, "OrtGetApiBase") : NULL;
    memcpy(&base, &symbol, sizeof base);
    add(k, "ONNX Runtime", base != NULL,
        base  ? xasprintf("%s", base()->GetVersionString())
        : lib ? xstrdup("libonnxruntime.so.1 is something else")
              : xasprintf("%s", why),
        xstrdup("install the library (in a checkout `make` does it) where the loader finds "
                "libonnxruntime.so.1, or name it in LD_LIBRARY_PATH"));
    /* Left open: a runtime that started threads does not like to be unloaded. */
}

/* ---- GPUs ---- */

/* What of the driver's library is asked; its functions give 0 for success. */
struct driver {
    int (*init)(unsigned), (*version)(int *), (*count)(int *), (*get)(int *, int);
    int (*name)(char *, int, int), (*memory)(size_t *, int);
};

static bool driver_open(struct driver *d)
{
    void *lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    lib = lib ? lib : dlopen("/usr/local/nvidia/lib64/libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    lib = lib ? lib : dlopen("/usr/lib/wsl/lib/libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!lib) {
        return false;
    }
    *(void **)&d->init = dlsym(lib, "cuInit");
    *(void **)&d->version = dlsym(lib, "cuDriverGetVersion");
    *(void **)&d->count = dlsym(lib, "cuDeviceGetCount");
    *(void **)&d->get = dlsym(lib, "cuDeviceGet");
    *(void **)&d->name = dlsym(lib, "cuDeviceGetName");
    *(void **)&d->memory = dlsym(lib, "cuDeviceTotalMem_v2");
    return d->init && d->version && d->count && d->get && d->name && d->memory;
}

/* No GPU is no fault; one whose driver does not work is. */
static void check_gpus(struct checks *k)
{
    bool provider = dlopen("libonnxruntime-cuda.so.1", RTLD_LAZY | RTLD_LOCAL) != NULL;
    const char *and = provider ? "the CUDA provider is here" : "the CUDA provider is not here (make gpu fetches it)";
    struct driver d;
    int version = 0, n = 0, rc;
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
    if (!driver_open(&d)) {
        add(k, "GPU", true, xasprintf("no NVIDIA driver; %s", and), NULL);
        return;
    }
    rc = d.init(0);
    rc = rc == 0 ? d.version(&version) : rc;
    rc = rc == 0 ? d.count(&n) : rc;
    if (rc != 0) {
        add(k, "GPU", false, xasprintf("the NVIDIA driver answers error %d; %s", rc, and),
            xstrdup("look at what nvidia-smi says; in a container, give it the devices /dev/nvidia*"));
        return;
    }
    add(k, "GPU", true, xasprintf("%d, driver for CUDA %d.%d; %s", n, version / 1000, version % 1000 / 10, and), NULL);
    for (int i = 0; i < n; i++) {
        char name[64] = "?", *row = xasprintf("cuda:%d", i);
        size_t memory = 0;
        int device = 0;
        if (d.get(&device, i) == 0) {
            d.name(name, sizeof name, device);
            d.memory(&memory, device);
        }
        add(k, row, true, xasprintf("%s, %.1f GB", name, (double)memory / 1e9), NULL);
        free(row);
    }
}

/* ---- the data folder ---- */

/* The folder itself, or the nearest one above it that exists. */
static char *existing(const char *dir)
{
    char *path = xstrdup(dir);
    while (access(path, F_OK) != 0) {
        char *slash = strrchr(path, '/');
        if (!slash) {
            free(path);
            return xstrdup(".");
        }
        slash[slash == path ? 1 : 0] = 0;
        if (slash == path && access(path, F_OK) != 0) {
            break;
        }
    }
    return path;
}

static void check_folder(struct checks *k, const char *dir)
{
    char *at = existing(dir);
    bool there = strcmp(at, dir) == 0;
    int fd = open(at, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int why = errno;
    const char *mend = why == EOPNOTSUPP || why == EISDIR || why == ENOENT
                           ? "use a folder on a local disk (ext4, xfs, btrfs) with --data"
                           : "choose another folder with --data, or give this user the right to write there";
    add(k, "data folder", fd >= 0,
        fd >= 0 ? xasprintf("%s %s", dir, there ? "is writable" : "does not exist yet and can be made")
                : xasprintf("%s can not be written: %s", at, strerror(why)),
        xstrdup(mend));
    if (fd >= 0) {
        close(fd);
    }
    struct statvfs v;
    if (statvfs(at, &v) == 0) {
        uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
        add(k, "disk", room >= ROOM_WANTED, xasprintf("%.1f GB free at %s", (double)room / 1e9, at),
            xstrdup("make room, at least 1 GB: models are kept in the data folder"));
    }
    free(at);
}

/* ---- ports ---- */

/* The address to look at: the one that was named, else the running server's own, else the preset. */
static const char *choose(const char *named, const char *running, const char *preset)
{
    const char *address = named ? named : running ? running : preset;
    return strncmp(address, "http://", 7) == 0 ? address + 7 : address;
}

/* True if the running server is the one that listens on this address. */
static bool held_by_server(const struct checks *k, const char *address)
{
    const char *urls[] = {k->data, k->admin};
    for (size_t i = 0; i < 2; i++) {
        const char *url = urls[i];
        if (url && (strcmp(url, address) == 0 || (strncmp(url, "http://", 7) == 0 && strcmp(url + 7, address) == 0))) {
            return true;
        }
    }
    return false;
}

static void check_address(struct checks *k, const char *name, const char *address, const char *option)
{
    struct err e = {0};
    if (held_by_server(k, address)) {
        add(k, name, true, xasprintf("%s: the running server", address), NULL);
        return;
    }
    enum err_code rc = port_try(address, &e);
    add(k, name, rc == ERR_OK, rc == ERR_OK ? xasprintf("%s is free", address) : xstrdup(e.text),
        rc == ERR_INVALID ? xasprintf("give %s an address like 127.0.0.1:8000", option)
                          : xasprintf("end what holds it, or choose another address with %s", option));
}

/* ---- the server ---- */

static void server_checks(struct cli *c, struct checks *k)
{
    struct err e = {0};
    yyjson_doc *doc = NULL;
    yyjson_val *check;
    size_t i, max;
    if (cli_json(c, "GET", "/admin/doctor", NULL, &doc, &e) != ERR_OK) {
        add(k, "server's checks", false, xstrdup(e.text), xstrdup("see the server's log"));
        return;
    }
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "checks"), i, max, check)
    {
        const char *name = get_text(check, "name"), *text = get_text(check, "text"), *mend = get_text(check, "mend");
        char *own = xasprintf("server: %s", name ? name : "?");
        add(k, own, get_flag(check, "ok"), xstrdup(text ? text : ""), mend && *mend ? xstrdup(mend) : NULL);
        free(own);
    }
    yyjson_doc_free(doc);
}

static void find_server(struct cli *c, struct checks *k)
{
    struct err e = {0};
    yyjson_doc *doc = NULL;
    enum err_code rc = cli_json(c, "GET", "/admin/server", NULL, &doc, &e);
    if (rc == ERR_OK) {
        yyjson_val *root = yyjson_doc_get_root(doc);
        const char *data = get_text(root, "data"), *admin = get_text(root, "admin"),
                   *version = get_text(root, "version");
        k->server = true;
        k->data = data ? xstrdup(data) : NULL;
        k->admin = admin ? xstrdup(admin) : NULL;
        add(k, "server", true,
            xasprintf("version %s, process %" PRIu64 ", answers at %s", version ? version : "?", get_count(root, "pid"),
                      c->server),
            NULL);
        yyjson_doc_free(doc);
    } else if (rc == ERR_UNAVAILABLE && !c->server_named) {
        add(k, "server", true, xasprintf("none answers at %s", c->server), NULL);
    } else {
        add(k, "server", false, xstrdup(e.text),
            xstrdup("start one with weir serve, or name its admin address with --server"));
    }
}

/* ---- the report ---- */

static void report_json(struct buf *out, const struct checks *k)
{
    BUF_LIT(out, "{\"checks\":[");
    for (size_t i = 0; i < k->n; i++) {
        const struct check *r = &k->list[i];
        buf_addz(out, i ? ",{\"name\":" : "{\"name\":");
        json_strz(out, r->name);
        buf_addf(out, ",\"ok\":%s,\"text\":", r->ok ? "true" : "false");
        json_strz(out, r->text);
        BUF_LIT(out, ",\"mend\":");
        json_strz(out, r->mend);
        BUF_LIT(out, "}");
    }
    buf_addf(out, "],\"failed\":%zu}\n", k->failed);
}

static void report_text(struct cli *c, const struct checks *k)
{
    struct buf *out = &c->out;
    for (size_t i = 0; i < k->n; i++) {
        const struct check *r = &k->list[i];
        show_paint(out, c->tty, r->ok ? PAINT_GOOD : PAINT_BAD);
        buf_addz(out, r->ok ? "  ok    " : "  FAIL  ");
        show_paint(out, c->tty, PAINT_PLAIN);
        show_textz(out, r->name);
        BUF_LIT(out, ": ");
        show_textz(out, r->text);
        BUF_LIT(out, "\n");
        if (r->mend) {
            BUF_LIT(out, "        mend: ");
            show_textz(out, r->mend);
            BUF_LIT(out, "\n");
        }
    }
    if (k->failed) {
        buf_addf(out, "%zu of %zu checks failed\n", k->failed, k->n);
    } else {
        buf_addf(out, "all %zu checks passed\n", k->n);
    }
}

/* Is it ready? By its data plane, which is what is asked in earnest. */
static int ready_run(struct cli *c)
{
    struct http_client *client = NULL;
    struct err e = {0};
    char *url = NULL;
    enum err_code rc = cli_data_url(c, &url, &e);
    if (rc == ERR_OK && (rc = http_client_new(&client, str_of(url), &e)) == ERR_OK &&
        (rc = http_call(client, "GET", "/v2/health/ready", STR(""), NULL, 0, 3000000, &c->answer, &e)) == ERR_OK &&
        c->answer.status != 200) {
        rc = err_set(&e, ERR_UNAVAILABLE, "%s is not ready", url);
    }
    if (rc == ERR_OK) {
        buf_addz(&c->out, c->json ? "{\"ready\":true}\n" : "ready\n");
    }
    http_client_free(client);
    free(url);
    return rc == ERR_OK ? 0 : cli_fail(c, &e);
}

int doctor_run(struct cli *c)
{
    if (opt_get(&c->args, "ready")) {
        return ready_run(c);
    }
    struct checks k = {0};
    const char *data = opt_text(&c->args, "data"), *listen = opt_text(&c->args, "listen");
    const char *admin = opt_text(&c->args, "admin");
    check_machine(&k);
    check_landlock(&k);
    check_seccomp(&k);
    check_privileges(&k);
    check_pidfd(&k);
    check_memfd(&k);
    check_runtime(&k);
    check_gpus(&k);
    check_folder(&k, data ? data : "weir-data");
    find_server(c, &k);
    check_address(&k, "inference address", choose(listen, k.data, "127.0.0.1:8000"), "--listen");
    check_address(&k, "management address", choose(admin, k.admin, "127.0.0.1:8009"), "--admin");
    if (k.server) {
        server_checks(c, &k);
    }
    if (c->json) {
        report_json(&c->out, &k);
    } else {
        report_text(c, &k);
    }
    int status = k.failed ? EXIT_FAILED : 0;
    checks_done(&k);
    return status;
}
