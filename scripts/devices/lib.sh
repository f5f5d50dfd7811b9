# shellcheck shell=sh disable=SC2034 # its variables are for the scripts that read it
# Shared by the scripts of this folder: `. "$(dirname "$0")/lib.sh"`. POSIX sh.

# Where everything built here lies, outside the repository: some gigabytes, built once. EDGE_CENTERNET_DEVICES puts it elsewhere.
cache=${EDGE_CENTERNET_DEVICES:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-centernet/devices}
mkdir -p "$cache"

suite=bookworm # Debian 12: what Raspberry Pi OS (bookworm) is made of, and its Python is the 3.11 that every wheel exists for
mirror=${EDGE_CENTERNET_MIRROR:-http://deb.debian.org/debian}

# fail TEXT: the one line that says what was expected, what came, and what to do next.
fail() {
    echo "$0: $*" >&2
    exit 2
}

# Debian 12's packages with what these scripts run.
tools="mmdebstrap arch-test qemu-system-arm qemu-utils qemu-user-static systemd-container mtools dosfstools e2fsprogs fdisk kmod cpio zstd openssh-client iproute2"

# need TOOL... : stop with the apt-get line that helps where one of the tools is missing.
need() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "expected the command $tool, found it missing; on Debian 12: apt-get install $tools"
    done
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "expected to run as root (chroot, mounts and network namespaces), found user $(id -un); use sudo"
}

# binfmt aarch64|arm: let the kernel run programs of that machine through qemu-user. The F flag opens the interpreter now, so chroots
# need no copy of it.
binfmt() {
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    [ -e "/proc/sys/fs/binfmt_misc/qemu-$1" ] && return
    [ -e "/usr/lib/binfmt.d/qemu-$1.conf" ] || fail "expected /usr/lib/binfmt.d/qemu-$1.conf, found none: apt-get install qemu-user-static"
    cat "/usr/lib/binfmt.d/qemu-$1.conf" >/proc/sys/fs/binfmt_misc/register
}
