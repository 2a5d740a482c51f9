/* SPDX-License-Identifier: Apache-2.0 */
/* Rules for a GPU.
 *
 * ioctl is let through by its number, for it must not reach what else the process holds (FIONBIO on the control socket
 * would make the server's end behave otherwise): the driver's numbers have the type 'F' (0x46), those of its memory
 * manager are plain small integers and two with 0x30000000. */
#include "backends/worker/sandbox_gpu.h"

#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

#define FS_IOCTL_DEV (1ull << 15) /* ABI 5; newer than Debian 12's headers */
#define GPUS 64
#define UVM_CONTROL 0x30000000u /* UVM_INITIALIZE is 1 above it, UVM_DEINITIALIZE 2 */

static void allow_fd(int ruleset, int fd, uint64_t access)
{
    struct landlock_path_beneath_attr rule = {.parent_fd = fd, .allowed_access = access};
    struct stat st;

    if (fstat(fd, &st) == 0) {
        if (!S_ISDIR(st.st_mode)) {
            rule.allowed_access &= ~(uint64_t)LANDLOCK_ACCESS_FS_READ_DIR;
        }
        syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    }
}

static void allow_path(int ruleset, const char *path, uint64_t access)
{
    int fd = open(path, O_PATH | O_CLOEXEC);

    if (fd >= 0) {
        allow_fd(ruleset, fd, access);
        close(fd);
    }
}

#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)

static int allow_library(struct dl_phdr_info *info, size_t size, void *ctx)
{
    char folder[PATH_MAX];
    char *slash;

    (void)size;
    snprintf(folder, sizeof folder, "%s", info->dlpi_name);
    slash = strrchr(folder, '/');
    if (slash && slash != folder && folder[0] == '/') {
        *slash = '\0';
        allow_path(*(int *)ctx, folder, READ);
    }
    return 0;
}

void sandbox_gpu_paths(int ruleset, int abi)
{
    static const char *const devices[] = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"};
    static const char *const about[] = {"/proc/driver/nvidia",        "/proc/devices",        "/proc/version",
                                        "/proc/sys/vm/mmap_min_addr", "/sys/bus/pci/devices", "/sys/devices",
                                        "/sys/class/nvidia",          "/sys/module/nvidia",   "/etc/ld.so.cache",
                                        "/usr/share/nvidia"};
    uint64_t device = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | (abi >= 5 ? FS_IOCTL_DEV : 0);
    char path[32];
    int tasks;

    for (size_t i = 0; i < COUNT_OF(devices); i++) {
        allow_path(ruleset, devices[i], device);
    }
    for (unsigned i = 0; i < GPUS; i++) {
        snprintf(path, sizeof path, "/dev/nvidia%u", i);
        allow_path(ruleset, path, device);
    }
    for (size_t i = 0; i < COUNT_OF(about); i++) {
        allow_path(ruleset, about[i], READ);
    }
    dl_iterate_phdr(allow_library, &ruleset);
    /* The rule is the inode's: the descriptor stays open, so that this one is never made anew. */
    tasks = open("/proc/self/task", O_PATH | O_CLOEXEC);
    if (tasks >= 0) {
        allow_fd(ruleset, tasks, READ | LANDLOCK_ACCESS_FS_WRITE_FILE);
    }
}

/* libseccomp's own macros leave a field out. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

int sandbox_gpu_calls(scmp_filter_ctx ctx)
{
    static const int calls[] = {SCMP_SYS(memfd_create),  SCMP_SYS(ftruncate),
                                SCMP_SYS(pipe2),         SCMP_SYS(mbind),
                                SCMP_SYS(mlock),         SCMP_SYS(munlock),
                                SCMP_SYS(mlock2),        SCMP_SYS(sched_get_priority_max),
                                SCMP_SYS(set_mempolicy), SCMP_SYS(sched_get_priority_min)};
    int rc = 0;

    for (size_t i = 0; i < COUNT_OF(calls) && rc == 0; i++) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
    }
    for (unsigned i = 0; i < 2 && rc == 0; i++) { /* device files: for reading and writing, never made, never cut */
        rc = i ? seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                                  SCMP_A1(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDWR))
               : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDWR));
    }
    if (rc == 0) { /* the driver */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0x4600));
    }
    if (rc == 0) { /* its memory manager */
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffff00u, 0));
    }
    for (unsigned i = 1; i <= 2 && rc == 0; i++) {
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, UVM_CONTROL + i));
    }
    return rc;
}
