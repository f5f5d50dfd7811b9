#!/bin/sh
# Build root file systems of Debian 12, for chroot and for containers: $cache/rootfs-ARCHITECTURE, kept until it is removed by hand.
#
#     scripts/devices/rootfs.sh arm64 armhf amd64
#
# Root only. arm64 and armhf run under qemu-user (registered here with the kernel), about 5 minutes each; amd64 takes one. armhf takes
# NumPy and OpenCV from Debian, since PyPI has no armv7l wheels of them.
set -eu
# shellcheck source=scripts/devices/lib.sh
. "$(dirname "$0")/lib.sh"
[ $# -gt 0 ] || fail "expected architectures (arm64, armhf, amd64), got none"
need mmdebstrap
need_root

packages="ca-certificates,openssh-server,openssh-client,systemd,systemd-sysv,udev,dbus,sudo,kmod,iproute2,procps,python3,python3-venv"

for architecture in "$@"; do
    extra=""
    case $architecture in
    arm64) binfmt aarch64 ;;
    armhf)
        binfmt arm
        extra=",python3-numpy,python3-opencv"
        ;;
    amd64) extra=",e2fsprogs" ;;
    *) fail "expected arm64, armhf or amd64, got $architecture" ;;
    esac
    root="$cache/rootfs-$architecture"
    part="$root.part"
    [ -d "$root" ] && echo "$root is there" && continue
    rm -rf "$part"
    echo "building $root"
    # No documentation, no locales: a third of the files. Unsandboxed downloads: apt's own user cannot write below /root.
    mmdebstrap --mode=root --arch="$architecture" --variant=minbase --include="$packages$extra" \
        --aptopt='Acquire::Languages "none"' --aptopt='APT::Sandbox::User "root"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$suite" "$part" "deb $mirror $suite main"
    # Host keys are each machine's own: made at its first start, as images do.
    rm -f "$part"/etc/ssh/ssh_host_*
    mv "$part" "$root"
    echo "$root: $(du -sh "$root" | cut -f 1)"
done
