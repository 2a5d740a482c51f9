/* SPDX-License-Identifier: Apache-2.0 */
/* no_landlock PROGRAM ARGUMENTS…: runs a program as if the kernel had no Landlock (its calls answer ENOSYS, as those of
 * Linux before 5.13 do).
 *
 * Exit status: the program's; 125 when it could not be started. */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);

    if (argc < 2 || !ctx || seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(landlock_create_ruleset), 0) != 0 ||
        seccomp_load(ctx) != 0) {
        fprintf(stderr, "no_landlock: the filter was refused\n");
        return 125;
    }
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 125;
}
