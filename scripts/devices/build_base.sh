#!/bin/sh
# Build a base image for ARM boards without an SD card, a board or loop devices: $cache/base-arm64.img, about 10 minutes.
#
#     scripts/devices/build_base.sh arm64
#
# Laid out as Raspberry Pi OS: MBR, partition 1 FAT32 "bootfs" (mounted at /boot/firmware: the Pi's boot files, kernel, initrd, device
# trees, config.txt, cmdline.txt, cloud-init's user-data), partition 2 ext4 "rootfs", grown to the card at the first start. Debian 12
# with cloud-init, sshd and Python 3.11; nobody can log in before user-data says who. It boots in QEMU (boot.py). For a real Pi it has
# what the firmware asks for, which nobody has tried.
#
# Steps (remove a step's folder or file in $cache/base-arm64 to repeat it and what follows): root, kernel, boot, then the image.
set -eu
# shellcheck source=scripts/devices/lib.sh
. "$(dirname "$0")/lib.sh"
[ "${1:-}" = arm64 ] || fail "expected arm64, got '${1:-}'"
need mmdebstrap dpkg-deb depmod mkfs.vfat mcopy mke2fs sfdisk zstd cpio
need_root
binfmt aarch64
image="$cache/base-arm64.img"
work="$cache/base-arm64"
mkdir -p "$work"

# cloud-init and what it needs to set up a network; v4l-utils shows pictures through a virtual camera.
packages="ca-certificates,openssh-server,systemd,systemd-sysv,systemd-timesyncd,systemd-resolved,udev,dbus,sudo,kmod,iproute2,procps,python3,\
python3-venv,cloud-init,cloud-guest-utils,fdisk,e2fsprogs,dosfstools,netplan.io,wpasupplicant,v4l-utils,less"

# Parts of the kernel that no board with this detector has; without them the image is a third smaller.
unused="drivers/gpu/drm/amd drivers/gpu/drm/nouveau drivers/gpu/drm/radeon drivers/infiniband drivers/net/ethernet/mellanox \
drivers/net/ethernet/chelsio drivers/net/ethernet/qlogic drivers/net/ethernet/broadcom/bnx2x drivers/net/ethernet/intel drivers/scsi drivers/isdn \
drivers/net/wireless/ath drivers/net/wireless/intel drivers/net/wireless/marvell drivers/net/wireless/mediatek drivers/net/wireless/ralink \
drivers/net/wireless/realtek drivers/media/dvb-frontends fs/ocfs2 fs/xfs fs/btrfs fs/ceph fs/gfs2 drivers/target drivers/staging/media \
sound net/sctp drivers/md drivers/block/drbd"

# 1. The tree, and the kernel's packages beside it: unpacked below, never installed. Their scripts would build an initrd under
# qemu-user, which takes 26 minutes.
if [ ! -e "$work/root.done" ]; then
    rm -rf "$work/root" "$work/packages" && mkdir "$work/packages"
    cat >"$work/fetch-kernel" <<'HOOK'
set -eu
cd "$1"
kernel=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-arm64 | sed -n 's/.*Depends: //p' | head -n 1)
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download "$kernel" raspi-firmware busybox-static
HOOK
    mmdebstrap --mode=root --arch=arm64 --variant=minbase --include="$packages" \
        --aptopt='Acquire::Languages "none"' --aptopt='APT::Sandbox::User "root"' --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="cd '$work/packages' && sh '$work/fetch-kernel' '$work/packages'" \
        "$suite" "$work/root" "deb $mirror $suite main non-free-firmware"
    touch "$work/root.done"
fi
root="$work/root"

# 2. Kernel and modules into the tree.
if [ ! -e "$work/kernel.done" ]; then
    rm -rf "$work/kernel" "$work/firmware" "$work/busybox"
    dpkg-deb -x "$work"/packages/linux-image-*.deb "$work/kernel"
    dpkg-deb -x "$work"/packages/raspi-firmware_*.deb "$work/firmware"
    dpkg-deb -x "$work"/packages/busybox-static_*.deb "$work/busybox"
    release=$(basename "$work"/kernel/lib/modules/*)
    for folder in $unused; do rm -rf "$work/kernel/lib/modules/$release/kernel/$folder"; done
    rm -rf "$root/usr/lib/modules"
    mkdir -p "$root/usr/lib/modules"
    cp -a "$work/kernel/lib/modules/$release" "$root/usr/lib/modules/"
    depmod -b "$root" "$release"
    touch "$work/kernel.done"
fi
release=$(basename "$root"/usr/lib/modules/*)

# 3. The initrd: busybox, and the modules between power-on and the root file system on an SD card (Pi) or a virtio disk (QEMU).
if [ ! -e "$work/initrd.img" ]; then
    stage="$work/initrd"
    rm -rf "$stage"
    mkdir -p "$stage/bin" "$stage/dev" "$stage/proc" "$stage/sys" "$stage/root" "$stage/lib/modules/$release"
    cp "$work/busybox/bin/busybox" "$stage/bin/busybox"
    ln -s bin "$stage/sbin" # where the kernel looks for modprobe
    cp "$root/usr/lib/modules/$release"/modules.order "$root/usr/lib/modules/$release"/modules.builtin* "$stage/lib/modules/$release/"
    (
        cd "$root/usr/lib/modules/$release"
        # A module's line in modules.dep names all it needs.
        for wanted in kernel/drivers/virtio kernel/drivers/block/virtio_blk kernel/fs/ext4 kernel/drivers/mmc kernel/drivers/regulator/fixed \
            kernel/drivers/regulator/gpio kernel/drivers/gpio/gpio-raspberrypi kernel/drivers/firmware/raspberrypi kernel/drivers/clk/bcm kernel/drivers/dma/bcm2835 \
            kernel/drivers/mailbox/bcm2835 kernel/drivers/pinctrl/bcm kernel/lib/libcrc32c kernel/crypto/crc32c \
            kernel/arch/arm64/crypto/crc; do
            grep "^$wanted" modules.dep || true
        done | tr -d ':' | tr ' ' '\n' | sort -u >"$work/initrd-modules"
        while read -r module; do
            mkdir -p "$stage/lib/modules/$release/$(dirname "$module")"
            cp "$module" "$stage/lib/modules/$release/$module"
        done <"$work/initrd-modules"
    )
    depmod -b "$stage" "$release" 2>/dev/null
    cat >"$stage/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
root=LABEL=rootfs
for word in $(cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
modprobe -a crc32c_generic ext4 virtio_pci virtio_mmio virtio_blk mmc_block 2>/dev/null
tries=0
while :; do
    # Drivers of what is there; new devices appear while others are being set up.
    find /sys/devices -name modalias -exec cat '{}' + | sort -u | xargs modprobe -a -q 2>/dev/null
    case $root in
    LABEL=* | UUID=*) device=$(findfs "$root" 2>/dev/null) ;;
    *) device=$root ;;
    esac
    [ -n "$device" ] && [ -b "$device" ] && break
    tries=$((tries + 1))
    [ $tries -lt 120 ] || { echo "initrd: expected the root file system $root within a minute, found:" && cat /proc/partitions && exec sh; }
    sleep 0.5
done
# Read-only: systemd checks it and opens it for writing. What a power cut left in the journal of ext4 is replayed here.
mount -t ext4 -o ro "$device" /root
umount /proc
umount /sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
INIT
    chmod +x "$stage/init"
    (cd "$stage" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | zstd -q -19 >"$work/initrd.part"
    mv "$work/initrd.part" "$work/initrd.img"
fi

# 4. The settings that make a tree a board's system.
printf 'LABEL=rootfs / ext4 defaults,noatime 0 1\nLABEL=bootfs /boot/firmware vfat defaults,noatime 0 2\n' >"$root/etc/fstab"
mkdir -p "$root/boot/firmware" "$root/var/log/journal" "$root/etc/systemd/system/systemd-networkd-wait-online.service.d"
# cloud-init takes its files from the first partition, as on Raspberry Pi OS.
cat >"$root/etc/cloud/cloud.cfg.d/99_boot_partition.cfg" <<'CONFIG'
# No locales are installed that could be set.
locale: false
datasource_list: [NoCloud, None]
datasource:
  NoCloud:
    fs_label: bootfs
CONFIG
# A board without a network must detect as well: wait for one interface, 20 seconds, not for all, two minutes.
printf '[Service]\nExecStart=\nExecStart=-/lib/systemd/systemd-networkd-wait-online --any --timeout=20\n' \
    >"$root/etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
for unit in systemd-networkd systemd-resolved ssh; do
    ln -sf "/lib/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo edge >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 edge\n' >"$root/etc/hosts"
: >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_*

# 5. The first partition.
boot="$work/boot"
rm -rf "$boot" && mkdir "$boot"
cp "$work"/firmware/usr/lib/raspi-firmware/* "$boot/"
cp "$work/kernel/boot/vmlinuz-$release" "$boot/vmlinuz"
cp "$work/initrd.img" "$boot/initrd.img"
cp "$work/kernel/usr/lib/linux-image-$release"/broadcom/bcm27*-rpi-*.dtb "$work/kernel/usr/lib/linux-image-$release"/broadcom/bcm2837-rpi-*.dtb "$boot/" 2>/dev/null || true
ls "$boot"/bcm2711-rpi-4-b.dtb "$boot"/bcm2837-rpi-3-b.dtb >/dev/null
cat >"$boot/config.txt" <<'CONFIG'
# https://www.raspberrypi.com/documentation/computers/config_txt.html
arm_64bit=1
enable_uart=1
upstream_kernel=1
kernel=vmlinuz
initramfs initrd.img followkernel
CONFIG
echo "console=tty0 console=ttyS1,115200 root=LABEL=rootfs rootfstype=ext4 rootwait ro fsck.repair=yes panic=10" >"$boot/cmdline.txt"

# 6. Partitions side by side in one sparse file. Sectors of 512 bytes; the places are those of Raspberry Pi OS.
first=8192
first_size=$((512 * 2048))
second=$((first + first_size))
content=$(du -s --apparent-size -m "$root" | cut -f 1)
second_size=$(((content + content / 4 + 200) * 2048))
part="$image.part"
rm -f "$part" "$work/rootfs.ext4"
truncate -s $(((second + second_size) * 512)) "$part"
sfdisk -q "$part" <<TABLE
label: dos
start=$first, size=$first_size, type=c, bootable
start=$second, size=$second_size, type=83
TABLE
mkfs.vfat -F 32 -n bootfs --offset $first "$part" $((first_size / 2)) >/dev/null
MTOOLS_SKIP_CHECK=1 mcopy -s -i "$part@@$((first * 512))" "$boot"/* ::/
mke2fs -q -t ext4 -L rootfs -m 1 -d "$root" "$work/rootfs.ext4" $((second_size / 2))k
dd if="$work/rootfs.ext4" of="$part" bs=1M seek=$((second / 2048)) conv=notrunc,sparse status=none
rm -f "$work/rootfs.ext4"
mv "$part" "$image"
echo "$image: $(du -h --apparent-size "$image" | cut -f 1), of which $(du -h "$image" | cut -f 1) are not zero; Linux $release"
