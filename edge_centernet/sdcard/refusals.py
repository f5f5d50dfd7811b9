"""Why a disk must not be written to. Facts in, reasons out: nothing here looks at the machine."""

from __future__ import annotations

import re
import shlex

from edge_centernet.sdcard.blockdevices import Disk, Use

# Mounted here, a disk is the computer's own: no advice to unmount it.
SYSTEM = (
    "/",
    "/boot",
    "/usr",
    "/var",
    "/home",
    "/etc",
    "/opt",
    "/srv",
    "/root",
    "/nix",
    "/run/live",
    "/cdrom",
)
_OTHER_KINDS = (
    (r"sr\d+|scd\d+", "is an optical drive"),
    (r"fd\d+", "is a floppy drive"),
    (r"zram\d+|ram\d+|pmem\d+", "is memory, not a disk"),
    (r"mmcblk\d+(boot\d+|rpmb|gp\d+)", "is an eMMC's special area, which holds its boot loader or keys"),
    (r"dm-\d+", "is a mapping of the device mapper (LVM, encryption), not a disk"),
    (r"md\d+.*", "is a RAID array, not a disk"),
    (r"mtdblock\d+", "is raw flash memory, which needs its own tools"),
    (r"nbd\d+|rbd\d+|drbd\d+|zd\d+|bcache\d+|dasd.*|nullb\d+|ublkb\d+", "is not a disk of this computer"),
)
_DISKS = r"sd[a-z]+|hd[a-z]|vd[a-z]+|xvd[a-z]+|mmcblk\d+|nvme\d+n\d+|loop\d+"


def refusals(disk: Disk, need: int | None = None, force_non_removable: bool = False) -> list[str]:
    """One line for each reason not to write to `disk`; none if it may be written to.

    need: bytes that the image holds, None while that is unknown.
    """
    reasons = [*_kind(disk), *_used(disk), *_state(disk, need)]
    return reasons or _removable(disk, force_non_removable)  # its advice to force is for nothing else


def _kind(disk: Disk) -> list[str]:
    """What it is, where that is not a whole disk."""
    if disk.partition_of:
        return [f"is a partition of /dev/{disk.partition_of}; give the whole disk"]
    for pattern, text in _OTHER_KINDS:
        if re.fullmatch(pattern, disk.name):
            return [text]
    if not re.fullmatch(_DISKS, disk.name):
        return ["is of a kind that is not known to be a disk"]
    if disk.backing.startswith("/dev/"):
        return [f"is a loop device over {disk.backing}; give that disk itself"]
    return []


def _used(disk: Disk) -> list[str]:
    """Who has it. The computer's own disk is said to be that first."""
    system = [
        use for use in disk.uses if use.kind == "root" or (use.kind == "mount" and _is_system(use.what))
    ]
    reasons = []
    if system:
        reasons.append(f"is the disk this computer runs from: it holds {_named(system)}")
    mounts = [use for use in disk.uses if use.kind == "mount" and not _is_system(use.what)]
    if mounts:
        reasons.append(
            f"is mounted: {_named(mounts)}; unmount it first (sudo umount {shlex.quote(mounts[0].what)})"
        )
    if swaps := [use for use in disk.uses if use.kind == "swap"]:
        reasons.append(f"is swapped to: {_named(swaps)}; sudo swapoff {shlex.quote(swaps[0].what)} first")
    if held := [use for use in disk.uses if use.kind == "held"]:
        reasons.append(f"is in use by another block device: {_named(held)}; release that first")
    if programs := [use for use in disk.uses if use.kind == "open"]:
        reasons.append(f"is being written by {_named(programs)}; end that first")
    return reasons


def _is_system(point: str) -> bool:
    return point in SYSTEM or point.startswith(("/boot/", "/run/live/", "/usr/", "/media/root-"))


def _named(uses: list[Use]) -> str:
    """The first four uses, with the devices they go through."""
    texts = [f"{use.what} (through {', '.join(use.through)})" if use.through else use.what for use in uses]
    texts = list(dict.fromkeys(texts))
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")


def _state(disk: Disk, need: int | None) -> list[str]:
    if disk.size == 0:
        return ["has no medium: put a card in"]
    if disk.read_only:
        return ["is read-only: move the lock on the card's side, or use another card"]
    if disk.sector != 512:
        return [f"has sectors of {disk.sector} bytes; the partition table of an image counts in 512"]
    if need is not None and disk.size < need:
        return [f"is too small: it has {disk.size} bytes, the image needs {need}"]
    return []


def _removable(disk: Disk, force: bool) -> list[str]:
    """Card readers and USB disks; a loop device is a file, which its owner can make again."""
    if force or disk.removable or disk.bus in ("usb", "sd", "loop"):
        return []
    what = "is memory soldered in (eMMC)" if disk.bus == "emmc" else "is not removable"
    return [f"{what}; --force-non-removable if it is the right one all the same"]
