#!/bin/sh
# Build wheels for x86_64 and aarch64 (cp310-abi3: one for every Python from 3.10 on), and test each: the aarch64 one under qemu.
#
#     scripts/build_wheels.sh [--install] [--only x86_64] [OUT]      default OUT: dist
#
# --install: apt-get install what is missing (root; Debian 12 or Ubuntu). The aarch64 wheel is cross-compiled. Each is tested by
# its golden vectors in an interpreter of its own architecture: Debian's python3 for arm64, unpacked, never installed.
# The same commit gives the same bytes: tools are pinned, times are SOURCE_DATE_EPOCH, by default that of the commit.
set -eu
umask 022 # a wheel holds the files' permissions
cd "$(dirname "$0")/.."
packages="binutils unzip gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6-dev qemu-user-static mmdebstrap arch-test"
only=
if [ "${1:-}" = --install ]; then
    shift
    apt-get update -q
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
fi
if [ "${1:-}" = --only ]; then
    only=$2
    shift 2
fi
case $only in
'') tools="gcc unzip aarch64-linux-gnu-gcc qemu-aarch64-static mmdebstrap" ;;
x86_64) tools="gcc unzip" ;;
*)
    echo "expected --only x86_64, got $only" >&2
    exit 2
    ;;
esac
out=${1:-dist}
for tool in $tools; do
    if ! command -v "$tool" >/dev/null; then
        echo "expected $tool, found it missing: scripts/build_wheels.sh --install, or apt-get install $packages" >&2
        exit 2
    fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --require-hashes -r scripts/release-requirements.txt
mkdir -p "$out"
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
fi
export SOURCE_DATE_EPOCH

# build ARCHITECTURE COMPILER: a wheel of a fresh copy of the sources. The extension takes nothing newer than glibc 2.17 (nearly
# nothing at all: auditwheel finds no libc in it), which is looked at, hence the tag.
build() {
    rm -rf "$work/source" "$work/built"
    mkdir -p "$work/source" "$work/built"
    tar -c --exclude=.git --exclude=build --exclude='*.so' --exclude=runs --exclude=out --exclude=dist . | tar -x -C "$work/source"
    # -g0: debugging information would hold the name of the temporary folder
    CC=$2 LDSHARED="$2 -shared" CFLAGS=-g0 _PYTHON_HOST_PLATFORM=linux-$1 "$work/venv/bin/python" -m build -q --wheel \
        --no-isolation --outdir "$work/built" "$work/source"
    unzip -q -o "$work"/built/*.whl '*.so' -d "$work/built"
    newest=$("${2%gcc}objdump" -T "$work"/built/edge_centernet/decoder/*.so 2>/dev/null | grep -o 'GLIBC_2\.[0-9]*' | sort -V | tail -n 1)
    case ${newest:-GLIBC_2.2} in
    GLIBC_2.[0-9] | GLIBC_2.1[0-7]) ;;
    *)
        echo "expected symbols of glibc 2.17 at most, got $newest" >&2
        exit 1
        ;;
    esac
    "$work/venv/bin/wheel" tags --remove --platform-tag "manylinux_2_17_$1.manylinux2014_$1" "$work"/built/*.whl >/dev/null
    mv "$work"/built/*.whl "$out/"
}

# test PYTHON-COMMAND SITE: the golden vectors through the wheel unpacked in SITE, by the C decoder.
check() {
    cat >"$work/check.py" <<'PROGRAM'
import platform, sys
import numpy as np
import edge_centernet.decoder as decoder
from edge_centernet.decoder import native, rule
assert decoder.BACKEND == "c", "the wheel has no C decoder"
assert decoder.__file__.startswith(sys.argv[2]), f"{decoder.__file__} is not the wheel's"
sys.path.insert(0, sys.argv[1])
import make_goldens
cases = make_goldens.load(make_goldens.FOLDER / f"decoder_v{make_goldens.VERSION}.npz")
for case, boxes, final in cases:
    found = case.run(native)
    assert found[0].tobytes() == boxes.tobytes() and found[1].tobytes() == final.tobytes(), case.name
print(f"{platform.machine()}: Python {platform.python_version()}, NumPy {np.__version__}: {len(cases)} golden cases are the same")
PROGRAM
    PYTHONPATH=$2 $1 "$work/check.py" "$PWD/tests/c" "$2" # not `python -`, which would find the checkout first
}

echo "== x86_64"
build x86_64 gcc
"$work/venv/bin/pip" install -q --no-deps --target "$work/site-x86_64" "$out"/*abi3*x86_64.whl
"$work/venv/bin/pip" install -q --target "$work/site-x86_64" numpy
check "$work/venv/bin/python" "$work/site-x86_64"

if [ "$only" = x86_64 ]; then
    ls -l "$out"/*abi3*.whl
    exit
fi

echo "== aarch64"
build aarch64 aarch64-linux-gnu-gcc
# extract: packages are unpacked and none of their scripts run, so no emulation is needed here
mmdebstrap --quiet --arch=arm64 --variant=extract --include=python3,libpython3-stdlib,libstdc++6,zlib1g,libexpat1 \
    bookworm "$work/arm64"
version=$("$work/venv/bin/python" - "$work/arm64" <<'PROGRAM'
import pathlib, sys
print(next(pathlib.Path(sys.argv[1], "usr/bin").glob("python3.[0-9]*")).name.removeprefix("python"))
PROGRAM
)
"$work/venv/bin/pip" install -q --no-deps --target "$work/site-aarch64" --platform manylinux_2_28_aarch64 \
    --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 --python-version "$version" \
    --only-binary=:all: "$out"/*abi3*aarch64.whl numpy
QEMU_CPU=${QEMU_CPU:-cortex-a72}
export QEMU_CPU
check "qemu-aarch64-static -L $work/arm64 $work/arm64/usr/bin/python$version" "$work/site-aarch64"
ls -l "$out"/*abi3*.whl
