"""Which disks are not written to, on machines recorded as sysfs trees; the real ones are in test_flash.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from disks import Recorded

from edge_centernet.sdcard.blockdevices import Machine, refusals

NEED = 4 << 30  # bytes of an image


def usb(machine: Recorded) -> str:
    """A card in a USB reader, which nobody uses."""
    machine.usb_card_reader()
    return "sdb"


def system(machine: Recorded) -> str:
    """The disk with / and the EFI partition."""
    machine.system_disk()
    machine.mount("8:3", "/", source="/dev/sda3")
    machine.mount("8:1", "/boot/efi", "vfat", "/dev/sda1")
    return "sda"


def system_in_lvm_on_luks(machine: Recorded) -> str:
    """/ on dm-1 (LVM) on dm-0 (LUKS) on sda3, swap on dm-2."""
    machine.system_disk()
    for minor, title in ((0, "luks-1234"), (1, "vg-root"), (2, "vg-swap")):
        machine.device(f"dm-{minor}", "virtual/block", f"253:{minor}", dm__name=title)
    machine.on("dm-0", "sda3")
    machine.on("dm-1", "dm-0")
    machine.on("dm-2", "dm-0")
    machine.mount("253:1", "/", source="/dev/mapper/vg-root")
    machine.swap("/dev/dm-2")
    return "sda"


def system_on_raid(machine: Recorded) -> str:
    """/ on a RAID array of which the disk is a member."""
    machine.system_disk()
    machine.device("md0", "virtual/block", "9:0", md__level="raid1")
    machine.on("md0", "sda3")
    machine.mount("9:0", "/", source="/dev/md0")
    return "sda"


def live_system(machine: Recorded) -> str:
    """A live USB stick: overlay over a squashfs in a loop device over a file on the stick."""
    machine.usb_card_reader()
    machine.device(
        "loop0", "virtual/block", "7:0", loop__backing_file="/run/live/medium/live/filesystem.squashfs"
    )
    machine.mount("8:17", "/run/live/medium", "iso9660", "/dev/sdb1")
    machine.mount("7:0", "/run/live/rootfs/filesystem.squashfs", "squashfs", "/dev/loop0")
    machine.mount(
        "0:33",
        "/",
        "overlay",
        "overlay",
        "rw,lowerdir=/run/live/rootfs/filesystem.squashfs,upperdir=/run/x,workdir=/w",
    )
    return "sdb"


def overlay_of_a_pi(machine: Recorded) -> str:
    """Raspberry Pi OS with its overlay file system: only the kernel's root= names the disk."""
    place = "platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block"
    machine.device("mmcblk0", place, "179:0", 32 << 30, device__type="SD", device__name="SC32G")
    machine.device("mmcblk0p2", f"{place}/mmcblk0", "179:2", 30 << 30, partition="2")
    machine.mount(
        "0:24", "/", "overlay", "overlay", "rw,lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"
    )
    machine.file(
        "proc/cmdline", "console=serial0,115200 root=PARTUUID=4e639091-02 rootfstype=ext4 rootwait\n"
    )
    machine.link("dev/disk/by-partuuid/4e639091-02", "../../mmcblk0p2")
    return "mmcblk0"


def btrfs_root(machine: Recorded) -> str:
    """Btrfs has device numbers of its own, and may lie on a second disk that no mount names."""
    machine.system_disk()
    machine.usb_card_reader(partitions=1)
    machine.file("sys/fs/btrfs/1111-2222/devices/sda3", "")
    machine.file("sys/fs/btrfs/1111-2222/devices/sdb1", "")
    machine.mount("0:27", "/", "btrfs", "/dev/sda3", "rw,subvol=/@")
    return "sdb"


def mounted_partition(machine: Recorded) -> str:
    """A desktop has mounted the card."""
    machine.usb_card_reader()
    machine.mount("8:18", "/media/anna/my\\040card", source="/dev/sdb2")
    return "sdb"


def mounted_whole(machine: Recorded) -> str:
    """A file system without a partition table, mounted."""
    machine.usb_card_reader(partitions=0)
    machine.mount("8:16", "/mnt", "vfat", "/dev/sdb")
    return "sdb"


def swapped(machine: Recorded) -> str:
    """Swap in the second partition."""
    machine.usb_card_reader()
    machine.swap("/dev/sdb2")
    return "sdb"


def swap_file(machine: Recorded) -> str:
    """Swap in a file on the card."""
    machine.usb_card_reader()
    machine.mount("8:18", "/data", source="/dev/sdb2")
    machine.swap("/data/swap\\040file")
    return "sdb"


def open_encryption(machine: Recorded) -> str:
    """An opened LUKS volume, not mounted."""
    machine.usb_card_reader()
    machine.device("dm-0", "virtual/block", "253:0", dm__name="backup")
    machine.on("dm-0", "sdb2")
    return "sdb"


def raid_member(machine: Recorded) -> str:
    """Part of a running array."""
    machine.usb_card_reader()
    machine.device("md127", "virtual/block", "9:127", md__level="raid5")
    machine.on("md127", "sdb")
    return "sdb"


def loop_over_it(machine: Recorded) -> str:
    """A part of the disk is mounted through a loop device: O_EXCL on the disk does not notice that."""
    machine.usb_card_reader(partitions=0)
    machine.device("loop3", "virtual/block", "7:3", loop__backing_file="/dev/sdb", loop__offset="1048576")
    machine.mount("7:3", "/mnt", source="/dev/loop3")
    return "sdb"


def zram_writes_back(machine: Recorded) -> str:
    """Zram writes cold pages to a partition."""
    machine.usb_card_reader()
    machine.device("zram0", "virtual/block", "252:0", backing_dev="/dev/sdb2")
    return "sdb"


def partition(machine: Recorded) -> str:
    """A partition instead of its disk."""
    machine.usb_card_reader()
    return "sdb1"


def locked(machine: Recorded) -> str:
    """The lock on the card's side is set."""
    machine.usb_card_reader()
    machine.file(
        "sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0/block/sdb/ro", "1\n"
    )
    return "sdb"


def empty_reader(machine: Recorded) -> str:
    """A reader without a card."""
    place = "pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0/block"
    machine.device("sdb", place, "8:16", 0, removable="1")
    return "sdb"


def small(machine: Recorded) -> str:
    """A card smaller than the image."""
    place = "pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0/block"
    machine.device("sdb", place, "8:16", 2 << 30, removable="1")
    return "sdb"


def large_sectors(machine: Recorded) -> str:
    """A disk of the 4Kn kind."""
    place = "pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0/block"
    machine.device("sdb", place, "8:16", queue__logical_block_size="4096")
    return "sdb"


def built_in(machine: Recorded) -> str:
    """A second NVMe disk inside."""
    machine.device("nvme1n1", "pci0000:00/0000:02:00.0/nvme/nvme1", "259:4", device__model="WD_BLACK")
    return "nvme1n1"


def emmc(machine: Recorded) -> str:
    """Soldered memory."""
    machine.device("mmcblk1", "platform/soc/mmc_host/mmc1/mmc1:0001/block", "179:8", device__type="MMC")
    return "mmcblk1"


def kind(name: str, place: str = "virtual/block", **attributes: str) -> Callable[[Recorded], str]:
    """A device of this name, on its own."""

    def make(machine: Recorded) -> str:
        machine.device(name, place, "11:0", **attributes)
        return name

    make.__name__ = name
    return make


THROUGH = "is the disk this computer runs from: it holds"
UNSAFE: list[tuple[Callable[[Recorded], str], list[str]]] = [
    (system, [f"{THROUGH} / (through sda3), /boot/efi (through sda1)"]),
    (
        system_in_lvm_on_luks,
        [
            f"{THROUGH} / (through dm-1, dm-0, sda3)",
            "is swapped to: /dev/dm-2 (through dm-2, dm-0, sda3); sudo swapoff /dev/dm-2 first",
            "is in use by another block device: dm-0 (luks-1234) (through sda3), "
            "dm-1 (vg-root) (through dm-0, sda3), dm-2 (vg-swap) (through dm-0, sda3); release that first",
        ],
    ),
    (
        system_on_raid,
        [
            f"{THROUGH} / (through md0, sda3)",
            "is in use by another block device: md0 (raid1) (through sda3); release that first",
        ],
    ),
    (
        live_system,
        [
            f"{THROUGH} /run/live/medium (through sdb1), "
            "/run/live/rootfs/filesystem.squashfs (through loop0, sdb1), / (through loop0, sdb1)",
            "is in use by another block device: loop0 (/run/live/medium/live/filesystem.squashfs) "
            "(through sdb1); release that first",
        ],
    ),
    (overlay_of_a_pi, [f"{THROUGH} root=mmcblk0p2 (through mmcblk0p2)"]),
    (btrfs_root, [f"{THROUGH} / (through sdb1)"]),
    (
        mounted_partition,
        [
            "is mounted: /media/anna/my card (through sdb2); "
            "unmount it first (sudo umount '/media/anna/my card')"
        ],
    ),
    (mounted_whole, ["is mounted: /mnt; unmount it first (sudo umount /mnt)"]),
    (swapped, ["is swapped to: /dev/sdb2 (through sdb2); sudo swapoff /dev/sdb2 first"]),
    (
        swap_file,
        [
            "is mounted: /data (through sdb2); unmount it first (sudo umount /data)",
            "is swapped to: /data/swap file (through sdb2); sudo swapoff '/data/swap file' first",
        ],
    ),
    (
        open_encryption,
        ["is in use by another block device: dm-0 (backup) (through sdb2); release that first"],
    ),
    (raid_member, ["is in use by another block device: md127 (raid5); release that first"]),
    (
        loop_over_it,
        [
            "is mounted: /mnt (through loop3); unmount it first (sudo umount /mnt)",
            "is in use by another block device: loop3 (/dev/sdb); release that first",
        ],
    ),
    (zram_writes_back, ["is in use by another block device: zram0 (through sdb2); release that first"]),
    (partition, ["is a partition of /dev/sdb; give the whole disk"]),
    (locked, ["is read-only: move the lock on the card's side, or use another card"]),
    (empty_reader, ["has no medium: put a card in"]),
    (small, [f"is too small: it has {2 << 30} bytes, the image needs {NEED}"]),
    (large_sectors, ["has sectors of 4096 bytes; the partition table of an image counts in 512"]),
    (built_in, ["is not removable; --force-non-removable if it is the right one all the same"]),
    (emmc, ["is memory soldered in (eMMC); --force-non-removable if it is the right one all the same"]),
    (kind("sr0", removable="1"), ["is an optical drive"]),
    (kind("fd0", removable="1"), ["is a floppy drive"]),
    (kind("zram1"), ["is memory, not a disk"]),
    (kind("ram0"), ["is memory, not a disk"]),
    (
        kind("mmcblk1boot0", "platform/soc/mmc_host/mmc1/mmc1:0001/block/mmcblk1"),
        ["is an eMMC's special area, which holds its boot loader or keys"],
    ),
    (kind("dm-3"), ["is a mapping of the device mapper (LVM, encryption), not a disk"]),
    (kind("md5"), ["is a RAID array, not a disk"]),
    (kind("mtdblock0"), ["is raw flash memory, which needs its own tools"]),
    (kind("nbd0"), ["is not a disk of this computer"]),
    (
        kind("loop7", loop__backing_file="/dev/sdb1"),
        ["is a loop device over /dev/sdb1; give that disk itself"],
    ),
    (kind("pblk0"), ["is of a kind that is not known to be a disk"]),
]


@pytest.mark.parametrize(("make", "reasons"), UNSAFE, ids=[make.__name__ for make, _ in UNSAFE])
def test_unsafe_disk_is_refused_with_its_reason(
    make: Callable[[Recorded], str], reasons: list[str], tmp_path: Path
) -> None:
    """Each of these disks is refused, for just the reasons that hold."""
    machine = Recorded(tmp_path)
    name = make(machine)
    assert refusals(Machine(tmp_path).disk(name), NEED) == reasons


def sd_slot(machine: Recorded) -> str:
    """An SD card in a laptop's own reader: sysfs says removable 0."""
    place = "pci0000:00/0000:3b:00.0/rtsx_pci_sdmmc.0/mmc_host/mmc0/mmc0:59b4/block"
    machine.device("mmcblk0", place, "179:0", 32 << 30, device__type="SD", device__name="SD32G")
    return "mmcblk0"


def usb_ssd(machine: Recorded) -> str:
    """A USB SSD calls itself not removable; it is all the same."""
    machine.device("sdc", "pci0000:00/0000:00:14.0/usb2/2-4/2-4:1.0/host7/target7:0:0/7:0:0:0/block", "8:32")
    return "sdc"


def beside_a_busy_system(machine: Recorded) -> str:
    """Everything that is in use lies on another disk."""
    system_in_lvm_on_luks(machine)
    machine.device("loop0", "virtual/block", "7:0", loop__backing_file="/var/lib/snapd/snaps/core.snap")
    machine.mount("7:0", "/snap/core", "squashfs", "/dev/loop0")
    machine.mount("0:40", "/run/user/1000", "tmpfs", "tmpfs")
    machine.swap("/swapfile")
    return usb(machine)


@pytest.mark.parametrize("make", [usb, sd_slot, usb_ssd, beside_a_busy_system])
def test_card_that_nobody_uses_is_accepted(make: Callable[[Recorded], str], tmp_path: Path) -> None:
    """A card in a reader, and a disk on USB, are written to."""
    machine = Recorded(tmp_path)
    name = make(machine)
    assert refusals(Machine(tmp_path).disk(name), NEED) == []


@pytest.mark.parametrize("make", [built_in, emmc])
def test_built_in_disk_can_be_forced(make: Callable[[Recorded], str], tmp_path: Path) -> None:
    """--force-non-removable accepts a built-in disk that nobody uses."""
    machine = Recorded(tmp_path)
    name = make(machine)
    assert refusals(Machine(tmp_path).disk(name), NEED, force_non_removable=True) == []


@pytest.mark.parametrize("make", [system, system_in_lvm_on_luks, mounted_partition, partition, small])
def test_nothing_else_can_be_forced(make: Callable[[Recorded], str], tmp_path: Path) -> None:
    """--force-non-removable changes nothing about a disk that is in use, a partition, or too small."""
    machine = Recorded(tmp_path)
    name = make(machine)
    found = refusals(Machine(tmp_path).disk(name), NEED, force_non_removable=True)
    assert found == dict(UNSAFE)[make]


def test_facts_of_a_card_are_read(tmp_path: Path) -> None:
    """Model, serial of the reader, size, bus, partitions and their labels are what sysfs and udev say."""
    machine = Recorded(tmp_path)
    machine.usb_card_reader()
    machine.file("run/udev/data/b8:17", "S:disk/by-label/bootfs\nE:ID_FS_LABEL=bootfs\nE:ID_FS_TYPE=vfat\n")
    disk = Machine(tmp_path).disk("sdb")
    assert (disk.number, disk.size, disk.model, disk.serial) == (
        "8:16",
        32 << 30,
        "Generic STORAGE DEVICE",
        "000000001536",
    )
    assert (disk.bus, disk.removable, disk.read_only, disk.sequence) == ("usb", True, False, "7")
    assert disk.partitions == (("sdb1", 8 << 30, "bootfs"), ("sdb2", 8 << 30, ""))


def test_another_card_in_the_same_reader_is_another_disk(tmp_path: Path) -> None:
    """The kernel counts media, so that another card of the same size in the same reader is noticed."""
    machine = Recorded(tmp_path)
    machine.usb_card_reader()
    before = Machine(tmp_path).disk("sdb").identity
    assert Machine(tmp_path).disk("sdb").identity == before
    (tmp_path / "sys/class/block/sdb/diskseq").write_text("8\n")
    assert Machine(tmp_path).disk("sdb").identity != before
