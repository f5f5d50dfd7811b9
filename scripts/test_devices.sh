#!/bin/sh
# Prove the way onto a board on emulated ones: bundle, image, flash, boot in QEMU, detect, update, power cuts, rollback.
#
#     sudo scripts/test_devices.sh --install --all      from a fresh clone on Debian 12: everything, about an hour and a half
#     sudo scripts/test_devices.sh --list               the stages, and which are done
#     sudo scripts/test_devices.sh boot-virt detect     these again
#     sudo scripts/test_devices.sh --from image         from here on again
#
# Root: chroot, network namespaces. What is built lies in ~/.cache/edge-centernet/devices (EDGE_CENTERNET_DEVICES puts it elsewhere),
# 6 GB, and is kept; what was seen goes to build/devices. PYTHON: an environment with the package, else one is made.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/devices/lib.sh
. scripts/devices/lib.sh
if [ "${1:-}" = --install ]; then
    shift
    apt-get update -q
    # shellcheck disable=SC2086  # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $tools gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
        gcc-arm-linux-gnueabihf libc6-dev-armhf-cross libc6-dev python3-venv ansible-core xz-utils
fi
python=${PYTHON:-}
if [ -z "$python" ]; then
    python="$cache/venv/bin/python"
    if [ ! -x "$python" ]; then
        python3 -m venv "$cache/venv.part"
        mv "$cache/venv.part" "$cache/venv"
        "$python" -m pip install -q -e '.[tflite,live]'
    fi
fi
exec "$python" scripts/devices/stages.py "$@"
