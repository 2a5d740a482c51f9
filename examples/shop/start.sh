#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What `make shop` does once everything is built: examples/shop/start.sh [PORT].
#
# Puts the example models into the store of the shop's private Weir (once: the same bytes again change nothing), starts
# the shop, which starts that Weir, and stays until Ctrl-C.
set -euo pipefail

cd "$(dirname "$0")/../.."
BUILD=$(realpath "${WEIR_BUILD:-build}")
CONF=examples/shop/weir.yaml
SCRATCH=$(mktemp -d)
SEED=
end_seed() {
    [ -z "$SEED" ] || { kill -TERM "$SEED" 2>/dev/null && wait "$SEED"; } || true
    rm -rf "$SCRATCH"
}
trap end_seed EXIT
mkdir -p weir-data/shop

"$BUILD/weir" serve -c $CONF --listen "unix:$SCRATCH/data" --admin "unix:$SCRATCH/admin" 2>"$SCRATCH/log" &
SEED=$!
for ((i = 0; i < 300; i++)); do
    kill -0 "$SEED" 2>/dev/null || { cat "$SCRATCH/log" >&2; exit 1; }
    [ -S "$SCRATCH/admin" ] && "$BUILD/weir" models --server "unix:$SCRATCH/admin" >/dev/null 2>&1 && break
    sleep 0.1
done
for model in intent recommend vision; do
    "$BUILD/weir" push "$model" "examples/models/$model/1" --version 1 --server "unix:$SCRATCH/admin"
done
end_seed
trap - EXIT
export WEIR_BINARY=$BUILD/weir
exec "$BUILD/shop/shop" -c examples/shop/shop.yaml ${1:+--listen "127.0.0.1:$1"}
