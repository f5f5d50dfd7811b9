#!/bin/sh
# Install a bundle in a root file system of Debian 12 under qemu-user, by the bundle's own installer and without a network, then ask
# the doctor and the self-test there: what a bare board would do, without its processor and without systemd.
#
#     scripts/devices/chroot_install.sh arm64      generic-arm64 with tflite-runtime (ai-edge-litert crashes under qemu-user)
#     scripts/devices/chroot_install.sh armhf      generic-armhf
#
# Root only. What was told goes to build/devices/chroot-ARCHITECTURE.txt. Each step's output is kept in
# $cache/chroot-ARCHITECTURE, so that a run that was cut off goes on where it was; another bundle begins anew. Nothing is written into
# the root file system: it lies below an overlay. PYTHON: of an environment with the package, else .venv's.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
# shellcheck source=scripts/devices/lib.sh
. "$here/lib.sh"
architecture=${1:-}
# qemu is the interpreter's name with binfmt, cpu the core of a Raspberry Pi 4 and of an older 32-bit board.
case $architecture in
arm64) qemu=aarch64 cpu=cortex-a72 part=0xd08 features="fp asimd evtstrm crc32 cpuid" ;;
armhf) qemu=arm cpu=cortex-a15 part=0xc0f features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm" ;;
*) fail "expected arm64 or armhf, got '$architecture'" ;;
esac
target=generic-$architecture
need unshare ssh-keygen sha256sum
need_root
lower=$cache/rootfs-$architecture
[ -d "$lower" ] || fail "expected $lower, found none: scripts/devices/rootfs.sh $architecture"
binfmt "$qemu"
python=${PYTHON:-$repository/.venv/bin/python}
command=$(dirname "$python")/edge-centernet
[ -x "$command" ] || fail "expected $command, found none: PYTHON=/path/to/an/environment/bin/python"
work=$cache/chroot-$architecture
root=$work/root
mkdir -p "$work/steps" "$root"

# A mount namespace of its own: however this ends, by kill -9 too, no mount stays, and nobody else can take one away.
if [ -z "${CHROOT_INSTALL_UNSHARED:-}" ]; then
    CHROOT_INSTALL_UNSHARED=yes exec unshare --mount --propagation private "$0" "$@"
fi

# One at a time: a second run waits for the first one's end.
exec 9>"$work/lock"
flock 9

# The bundle is the same to the byte where nothing changed, so its hash tells whether earlier steps still count.
[ -e "$work/key" ] || ssh-keygen -q -t ed25519 -N '' -C signer -f "$work/key"
rm -rf "$work/made" && mkdir "$work/made"
(cd "$work" && "$command" bundle --target "$target" --engine tflite-runtime --key "$work/key" --out "$work/made")
cat "$work"/made/*.tar "$0" | sha256sum >"$work/made/sha256"
if ! cmp -s "$work/made/sha256" "$work/sha256"; then
    rm -rf "$work/steps" "$work/changes" "$work/scratch"
    mkdir "$work/steps"
    cp "$work/made/sha256" "$work/sha256"
fi
mkdir -p "$work/changes" "$work/scratch"

mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/changes,workdir=$work/scratch" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
# Programs read there what the processor can do; qemu-user would show this computer's.
for core in 0 1; do
    printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU part\t: %s\n\n' $core "$features" "$part"
done >"$work/cpuinfo"
mount --bind "$work/cpuinfo" "$root/proc/cpuinfo"
bundle=$(basename "$work"/made/*.tar)
mkdir -p "$root/root/new"
cp "$work/made/$bundle" "$work/made/signers" "$root/root/new"
cp "$repository"/edge_centernet/model_zoo/*.tflite "$root/root/new"
tar -xf "$work/made/$bundle" -C "$root/root/new" install

# there NAME COMMAND: a shell command as root in there, with loopback not even up; its output is kept under NAME. Done before: skipped.
there() {
    [ -e "$work/steps/$1" ] && return
    echo "== $1"
    code=0
    unshare --net env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 QEMU_CPU="$cpu" \
        chroot "$root" sh -c "cd /root/new && $2" >"$work/steps/$1.part" 2>&1 || code=$?
    cat "$work/steps/$1.part"
    [ "$code" -le "${3:-0}" ] || fail "$1: expected exit code ${3:-0} at most, got $code; what it told stands above"
    mv "$work/steps/$1.part" "$work/steps/$1"
}
venv=/opt/edge-centernet/current/venv/bin
there 1-machine "uname -m; dpkg --print-architecture; python3 -c '
import platform, struct, sys, sysconfig
print(\"Python\", platform.python_version(), \"platform.machine\", platform.machine())
print(sysconfig.get_platform(), sysconfig.get_config_var(\"MULTIARCH\"), 8 * struct.calcsize(\"P\"), \"bits\")'"
there 2-install "python3 -I install setup $bundle --pin signers"
there 3-again "python3 -I install setup $bundle && python3 -I install status | $venv/python -c '
import json, sys
status = json.load(sys.stdin)
print({key: status[key] for key in (\"machine\", \"python\", \"glibc\", \"current\", \"previous\", \"pending\", \"pinned\")})'"
there 4-self-test "for model in *.tflite; do $venv/python -m edge_centernet.runtimes.selfcheck \$model tflite || exit; done"
# Exit code 1: it found something, such as that the processor is emulated.
there 5-doctor "$venv/edge-centernet doctor --model /opt/edge-centernet/current/model/*.tflite 2>/dev/null" 1
grep -q '^checked: 2 objects as expected' "$work/steps/2-install" || fail "expected 'checked: 2 objects as expected' of the installer"

{
    echo "scripts/devices/chroot_install.sh $architecture: $bundle under $("qemu-$qemu-static" --version | head -n 1), $cpu"
    for step in "$work"/steps/*; do
        printf '\n== %s\n' "$(basename "$step")"
        # Kernel, memory and disk are this computer's. Times are those of an emulated processor.
        sed -E 's/, Linux [0-9][^ ,]*,/, the Linux of the host,/; /^ +(memory|disk) /d' "$step"
    done
} >"$work/record"
mkdir -p "$repository/build/devices"
cp "$work/record" "$repository/build/devices/chroot-$architecture.txt"
echo "build/devices/chroot-$architecture.txt"
