/* SPDX-License-Identifier: Apache-2.0 */
/* `weir`: one binary. The server and its workers are this house; every other word is a client of a running server. */
#include <string.h>

#include "cli/cli.h"
#include "house.h"

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "worker") == 0) {
        return house_worker();
    }
    if (argc > 1 && strcmp(argv[1], "serve") == 0 &&
        !(argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0))) {
        return house_serve(argc - 1, argv + 1);
    }
    return cli_main(argc, argv);
}
