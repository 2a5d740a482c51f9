#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What `make run` does once everything is built: tools/run.sh [PORT [ADMIN_PORT]].
#
# Checks the ports, starts the server on weir-data/ with the example models registered, prints a tour with real paths
# and values, and stays until Ctrl-C, which it passes on as SIGTERM (the server finishes what it has and exits).
# FRESH=1 forgets weir-data/ first; WEIR_BUILD names the folder with the binary.
set -euo pipefail

cd "$(dirname "$0")/.."
PORT=${1:-8000}
ADMIN_PORT=${2:-8009}
WEIR=./${WEIR_BUILD:-build}/weir
case ${WEIR_BUILD:-} in /*) WEIR=$WEIR_BUILD/weir ;; esac
DATA=weir-data
MODELS=(intent recommend vision)

die() { printf 'make run: %s\n' "$*" >&2; exit 1; }

for p in "$PORT" "$ADMIN_PORT"; do
    [[ $p =~ ^[0-9]{1,5}$ ]] && [ "$p" -ge 1 ] && [ "$p" -le 65535 ] || die "'$p' is no port (1 to 65535)"
done
[ "$PORT" != "$ADMIN_PORT" ] || die "PORT and ADMIN_PORT are both $PORT; they must differ"
[ -x "$WEIR" ] || die "$WEIR is missing: make build/weir"

# The server's listeners share their port (SO_REUSEPORT), so a second server would not notice the first: look before.
check_port() {
    local port=$1 flag=$2 inode fd pid command flags
    inode=$(awk -v p="$(printf ':%04X' "$port")" \
        'FNR > 1 && $4 == "0A" && substr($2, length($2) - 4) == p { print $10; exit }' \
        /proc/net/tcp /proc/net/tcp6 2>/dev/null || true)
    [ -n "$inode" ] || return 0
    flags="$flag=$((port > 65435 ? port - 100 : port + 100))"
    [ "$flag" = PORT ] || [ "$PORT" = 8000 ] || flags="PORT=$PORT $flags"
    [ "$flag" = ADMIN_PORT ] || [ "$ADMIN_PORT" = 8009 ] || flags="$flags ADMIN_PORT=$ADMIN_PORT"
    fd=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" -print -quit 2>/dev/null || true)
    if [ -n "$fd" ]; then
        pid=${fd#/proc/}
        pid=${pid%%/*}
        command=$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || true)
        die "port $port is in use by process $pid (${command% }). Stop it, or: make run $flags"
    fi
    die "port $port is in use by a process of another user. Choose another: make run $flags"
}
check_port "$PORT" PORT
check_port "$ADMIN_PORT" ADMIN_PORT

if [ -n "${FRESH:-}" ] && [ "$FRESH" != 0 ] && [ -d $DATA ]; then
    user=$(find /proc/[0-9]*/fd -lname "$PWD/$DATA/*" -print -quit 2>/dev/null || true)
    [ -z "$user" ] || die "$DATA is in use by process $(cut -d/ -f3 <<<"$user"); stop it before FRESH=1 forgets it"
    rm -rf ./$DATA
    echo "Forgot $DATA/."
fi

# ---- the server -----------------------------------------------------------------------------------------------------

SERVER=
STOPPING=
stop() {
    STOPPING=yes
    [ -z "$SERVER" ] || kill -TERM "$SERVER" 2>/dev/null || true
}
# wait is cut short by every signal that is trapped; the server is given all the time it takes to drain.
await_server() {
    local rc=0
    while :; do
        rc=0
        wait "$SERVER" || rc=$?
        kill -0 "$SERVER" 2>/dev/null || return "$rc"
    done
}
trap stop INT TERM HUP

ARGS=(serve --data $DATA --listen "127.0.0.1:$PORT" --admin "127.0.0.1:$ADMIN_PORT")
[ ! -f examples/weir.yaml ] || ARGS+=(-c examples/weir.yaml)
# Its own process group, so that Ctrl-C reaches the server once and through stop(); should this script be killed, the
# kernel tells the server to stop.
set -m
setpriv --pdeathsig TERM -- "$WEIR" "${ARGS[@]}" &
SERVER=$!
set +m

URL=http://127.0.0.1:$PORT
ADMIN=http://127.0.0.1:$ADMIN_PORT
# A proxy in the environment is for the outside.
export no_proxy="127.0.0.1${no_proxy:+,$no_proxy}" NO_PROXY="127.0.0.1${NO_PROXY:+,$NO_PROXY}"
answers() { curl -s -o /dev/null --max-time 2 "$1"; }
for ((i = 0; ; i++)); do
    kill -0 "$SERVER" 2>/dev/null || break
    [ -z "$STOPPING" ] || break
    curl -fs -o /dev/null --max-time 2 "$URL/v2/health/ready" && answers "$ADMIN/admin/server" && break
    if [ $i -ge 600 ]; then
        stop
        await_server || true
        die "the server did not become ready within 60 s"
    fi
    sleep 0.1
done

give_up() {
    local rc=0
    stop
    await_server || rc=$?
    [ $# -eq 0 ] || die "$*"
    exit "$rc"
}
[ -z "$STOPPING" ] || give_up
kill -0 "$SERVER" 2>/dev/null || {
    rc=0
    await_server || rc=$?
    die "the server ended with status $rc before it was ready (its own words are above)"
}

export WEIR_SERVER=$ADMIN
for model in "${MODELS[@]}"; do
    # The same bytes again are the version that is there already: the second run changes nothing.
    "$WEIR" push "$model" "examples/models/$model/1" --version 1 ||
        { [ -n "$STOPPING" ] && give_up; give_up "examples/models/$model/1 could not be pushed"; }
done

# ---- the tour -------------------------------------------------------------------------------------------------------

EXPORT=
if [ "$ADMIN_PORT" != 8009 ]; then
    EXPORT="
      export WEIR_SERVER=$ADMIN"
fi

cat <<TOUR

  Weir serves ${MODELS[*]} on $URL; management and console on $ADMIN/

  In another terminal, in $PWD:
$EXPORT
      $WEIR models                                       what is served
      $WEIR infer intent                                 one of its samples
      curl -s $URL/v2/models/intent/infer \\
        -d '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["where is my parcel"]}]}'

    Put a worse version out to 5 % of the users, send traffic with labels, and see how it is taken back:
      $WEIR push intent examples/models/intent/2 --version 2 --canary 5%
      $WEIR bench intent --users 2000 --for 30s
      $WEIR rollout show intent
      $WEIR history intent

    Put it out once more, and take it back yourself:
      $WEIR push intent examples/models/intent/2 --canary 5% --retry
      $WEIR rollback intent

  The console: $ADMIN/     Ctrl-C stops the server; \`make run FRESH=1\` begins anew.

TOUR

rc=0
await_server || rc=$?
if [ -n "$STOPPING" ] && [ $rc -eq 0 ]; then
    echo "Stopped."
elif [ $rc -ne 0 ]; then
    die "the server ended with status $rc"
fi
