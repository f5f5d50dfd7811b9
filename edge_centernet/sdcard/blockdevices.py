"""Block devices: what the kernel says about a disk, who uses it, and why it must not be written to.

`Machine` collects facts from sysfs, mountinfo and swaps, all below a root folder, and decides nothing.
`refusals` decides on those facts alone and looks at nothing, so that recorded machines can test it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import stat
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

_LOOP_GET_STATUS64, _LOOP_INFO64 = 0x4C05, 232  # <linux/loop.h>: the ioctl, and the size of its answer
SECTOR = 512  # bytes; sysfs counts in these, whatever the disk's own sectors are
# Tags of the kernel's root= option -> folder of /dev/disk in which udev has links by it.
_BY_TAG = {"PARTUUID": "by-partuuid", "UUID": "by-uuid", "LABEL": "by-label", "PARTLABEL": "by-partlabel"}


class Use(NamedTuple):
    """One use of a disk.

    kind: "mount", "swap", "held" (by another block device), "root" (the system started from it) or "open".
    what: the mount point, swap, device or program.
    through: the devices between it and the disk, the uppermost first.
    """

    kind: str
    what: str
    through: tuple[str, ...] = ()


class Part(NamedTuple):
    """A partition that the kernel knows. size: bytes; label: of its file system, if udev has read it."""

    name: str
    size: int
    label: str


@dataclass(frozen=True)
class Disk:
    """A block device.

    name: of the kernel, such as "sdb".
    number: "major:minor".
    size: bytes, 0 without a medium.
    sector: bytes, the smallest unit that it can write.
    bus: "usb", "sd", "emmc", "loop", or "" for all others.
    sequence: the kernel's count of media, which changes when a card is replaced.
    partition_of: the disk that a partition belongs to.
    backing: what a loop device shows: a file, or /dev/NAME for another block device.
    """

    name: str
    number: str
    size: int
    sector: int = 512
    model: str = ""
    serial: str = ""
    bus: str = ""
    removable: bool = False
    read_only: bool = False
    sequence: str = ""
    partition_of: str = ""
    backing: str = ""
    partitions: tuple[Part, ...] = ()
    uses: tuple[Use, ...] = ()

    @property
    def identity(self) -> tuple[str, ...]:
        """What must not change between the confirmation and writing."""
        return (self.name, self.number, str(self.size), self.model, self.serial, self.sequence, self.backing)


class FileId(NamedTuple):
    """What tells a file from all others under whatever name: its file system ("major:minor") and inode."""

    number: str
    inode: int


class _Mount(NamedTuple):
    number: str
    point: str
    kind: str
    source: str
    options: str


class _Loop(NamedTuple):
    """What a loop device shows. file: as the kernel names it; device: kernel name, "" for a regular file."""

    file: str
    device: str
    identity: FileId | None


class Machine:
    """The block devices below `root`, and what lies on what, as of now: make another one to look again."""

    def __init__(self, root: Path = Path("/")) -> None:
        """root: contains sys, proc, dev and run; a folder other than / is a recorded machine."""
        self._root = root
        folder = root / "sys/class/block"
        # The links of sysfs are relative; normpath follows them in a recorded tree as well.
        self._places = {  # name -> folder in sysfs, of disks and partitions
            entry.name: Path(os.path.normpath(entry.parent / os.readlink(entry)))
            if entry.is_symlink()
            else entry
            for entry in (sorted(folder.iterdir()) if folder.is_dir() else ())
        }
        self._names = {_read(place / "dev"): name for name, place in self._places.items()}
        # The device mapper's own names, under which mount tables know its devices.
        self._mapped = {
            title: name for name, place in self._places.items() if (title := _read(place / "dm/name"))
        }

    def name_of(self, number: str) -> str:
        """Kernel name ("sdb") of a device number ("8:16"); "" if the kernel knows no such device."""
        return self._names.get(number, "")

    def disk(self, name: str) -> Disk:
        """Everything about one block device. Raises KeyError for an unknown name."""
        place = self._places[name]
        is_partition = (place / "partition").exists()
        attributes = place.parent if is_partition else place
        texts = [_read(attributes / "device" / file) for file in ("vendor", "model", "name")]
        if texts[0].startswith("0x"):  # virtio and PCI have a number there, not a name
            texts[0] = ""
        # An MMC host may have a card slot or an eMMC that is soldered in; the type tells them apart.
        path = attributes.as_posix()
        if "/mmc_host/" in path:
            bus = "emmc" if _read(attributes / "device/type") == "MMC" else "sd"
        elif re.search(r"/usb\d+/", path):
            bus = "usb"
        else:
            bus = "loop" if re.fullmatch(r"loop\d+", attributes.name) else ""
        # The serial of the disk, or else that of the USB device that it is in.
        usb = next((up for up in attributes.parents if (up / "idVendor").exists()), None)
        serials = [attributes / "device/serial", attributes / "serial", *([usb / "serial"] if usb else [])]
        parts = []
        for part in self._partitions(name):
            at = self._places[part]
            udev = _read(self._root / f"run/udev/data/b{_read(at / 'dev')}")
            label = re.search(r"^E:ID_FS_LABEL=(.*)$", udev, re.M)
            parts.append(Part(part, int(_read(at / "size") or 0) * SECTOR, label.group(1) if label else ""))
        return Disk(
            name=name,
            number=_read(place / "dev"),
            size=int(_read(place / "size") or 0) * SECTOR,
            sector=int(_read(attributes / "queue/logical_block_size") or 512),
            model=" ".join(filter(None, texts)),
            serial=next(filter(None, map(_read, serials)), ""),
            bus=bus,
            removable=_read(attributes / "removable") == "1",
            read_only=_read(place / "ro") == "1",
            sequence=_read(attributes / "diskseq"),
            partition_of=place.parent.name if is_partition else "",
            backing=self._shown(name),
            partitions=tuple(parts),
            uses=tuple(self._uses(name)),
        )

    def _partitions(self, disk: str) -> list[str]:
        place = self._places[disk]
        return [
            name
            for name, other in self._places.items()
            if other.parent == place and (other / "partition").exists()
        ]

    # -- loop devices

    @cached_property
    def _loops(self) -> dict[str, _Loop]:
        """What each loop device that is in use shows."""
        found = {}
        for name, place in self._places.items():
            if file := _read(place / "loop/backing_file"):
                found[name] = self._ask_loop(name) or _Loop(file, self._node(file), self._identify(file))
        return found

    def _ask_loop(self, name: str) -> _Loop | None:
        """The kernel's own answer; None without permission to ask, or on a recorded machine.

        It is right also for a file that was renamed or deleted, or is in another mount namespace.
        """
        if self._root != Path("/"):
            return None
        try:
            descriptor = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if number_of(os.fstat(descriptor).st_rdev) != _read(self._places[name] / "dev"):
                return None
            answer = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64))
        except OSError:
            return None
        finally:
            os.close(descriptor)
        device, inode, shown = struct.unpack_from("QQQ", answer)
        file = _read(self._places[name] / "loop/backing_file")
        return _Loop(file, self.name_of(number_of(shown)) if shown else "", FileId(number_of(device), inode))

    def _identify(self, path: str) -> FileId | None:
        inside = self._root / path.lstrip("/")
        try:
            status = inside.stat()
        except OSError:
            return None
        return FileId(number_of(status.st_dev), status.st_ino)

    def _shown(self, name: str) -> str:
        loop = self._loops.get(name)
        return "" if loop is None else f"/dev/{loop.device}" if loop.device else loop.file

    def _beside(self, name: str) -> set[str]:
        """Other loop devices over the same file: what is written to one of them changes the others."""
        mine = self._loops.get(name)
        if mine is None or mine.device:
            return set()
        return {
            other
            for other, loop in self._loops.items()
            if other != name
            and not loop.device
            and (loop.identity or loop.file) == (mine.identity or mine.file)
        }

    def loops_over(self, file: Path) -> list[str]:
        """Loop devices that show the regular file `file`, under whatever name they were given it."""
        identity = self._identify(str(file))
        return [
            name
            for name, loop in self._loops.items()
            if not loop.device and (loop.file == str(file) or (identity and loop.identity == identity))
        ]

    # -- what lies on what

    def _node(self, path: str) -> str:
        """Kernel name of a path such as /dev/mapper/vg-root or /dev/disk/by-uuid/...; "" if it is none."""
        inside = self._root / path.lstrip("/")
        if self._root == Path("/") and inside.is_block_device():
            return self.name_of(number_of(os.stat(inside).st_rdev))
        target = os.readlink(inside) if inside.is_symlink() else path
        name = target.rpartition("/")[2].replace("!", "/")  # sysfs writes cciss/c0d0 as cciss!c0d0
        return name if path.startswith("/dev/") and name in self._places else self._mapped.get(name, "")

    @cached_property
    def _mounts(self) -> list[_Mount]:
        """Every mount that can be seen, in the mount namespaces of this and of other programs.

        A desktop or a container may have mounted the card where this program does not see it.
        """
        proc = self._root / "proc"
        texts, seen = [_read(proc / "self/mountinfo")], {_link(proc / "self/ns/mnt")}
        for folder in proc.glob("[0-9]*"):
            namespace = _link(folder / "ns/mnt")
            if namespace and namespace not in seen:
                seen.add(namespace)
                texts.append(_read(folder / "mountinfo"))
        mounts = []
        for line in (line for text in texts for line in text.splitlines()):
            # id parent major:minor root point options... - kind source super-options (proc(5))
            before, _, after = line.partition(" - ")
            fields = before.split()
            kind, source, options = [*after.split(" "), "", "", ""][:3]
            mounts.append(
                _Mount(fields[2], _unescape(fields[4]), kind, _unescape(source), _unescape(options))
            )
        return mounts

    def _mounted(self, mount: _Mount) -> set[str]:
        """Devices that a mount reads."""
        if name := self.name_of(mount.number):
            return {name} | self._btrfs(name)
        # btrfs has device numbers of its own, so it is found by its source.
        if mount.source.startswith("/dev/") and (name := self._node(mount.source)):
            return {name} | self._btrfs(name)
        if mount.kind == "overlay":
            fields = dict(option.partition("=")[::2] for option in mount.options.split(","))
            folders = [
                part for key in ("lowerdir", "upperdir") for part in fields.get(key, "").split(":") if part
            ]
            return {name for folder in folders for name in self._under(folder, mount)}
        return set()

    def _btrfs(self, name: str) -> set[str]:
        """All members of the btrfs that `name` belongs to."""
        for folder in (self._root / "sys/fs/btrfs").glob("*/devices"):
            members = {entry.name for entry in folder.iterdir()}
            if name in members:
                return members
        return set()

    def _under(self, path: str, above: _Mount | None = None) -> set[str]:
        """Devices that hold the file or folder `path`, which does not lie on the mount `above`."""
        fitting = [
            mount
            for mount in self._mounts
            if mount is not above and (path == mount.point or path.startswith(mount.point.rstrip("/") + "/"))
        ]
        if not fitting:
            return set()
        deepest = max(fitting, key=lambda mount: len(mount.point))
        # Of several mounts on one point the last one is visible.
        return self._mounted([mount for mount in fitting if mount.point == deepest.point][-1])

    @cached_property
    def _below(self) -> dict[str, set[str]]:
        """Device -> devices that it lies on directly."""
        found = {}
        for name, place in self._places.items():
            slaves = place / "slaves"  # device mapper and RAID
            below = {entry.name for entry in slaves.iterdir()} if slaves.is_dir() else set()
            if (place / "partition").exists():
                below.add(place.parent.name)
            for path in (self._shown(name), _read(place / "backing_dev")):  # the latter is zram's
                if path.startswith("/"):
                    node = self._node(path)
                    below |= {node} if node else self._under(path)
            below |= self._beside(name)
            found[name] = below - {name}
        return found

    def _way(self, top: str, disk: str) -> tuple[str, ...] | None:
        """The shortest way from `top` down to `disk`, without `disk`; None if `top` does not lie on it."""
        ways: list[tuple[str, ...]] = [(top,)]
        seen = {top}
        while ways:
            way = ways.pop(0)
            if way[-1] == disk:
                return way[:-1]
            ways += [(*way, name) for name in sorted(self._below.get(way[-1], set()) - seen)]
            seen |= self._below.get(way[-1], set())
        return None

    # -- who uses a disk

    def _uses(self, disk: str) -> Iterator[Use]:
        """Every use, in the order in which it matters to the owner."""
        # 1. Mounts, each once: other namespaces repeat those of this one.
        mounts: dict[Use, None] = {}
        for mount in self._mounts:
            for name in sorted(self._mounted(mount)):
                if (way := self._way(name, disk)) is not None:
                    mounts[Use("mount", mount.point, way)] = None
        yield from mounts
        # 2. Swap; a swap file is on the device of its file system.
        for path in swap_files(self._root):
            node = self._node(path)
            for name in [node] if node else sorted(self._under(path)):
                if (way := self._way(name, disk)) is not None:
                    yield Use("swap", path, way)
        # 3. Devices that lie on it, other than its own partitions: an open encryption, RAID, loop devices.
        for name, place in self._places.items():
            way = self._way(name, disk)
            if way and not (len(way) == 1 and name in self._partitions(disk)):
                titles = [_read(place / file) for file in ("dm/name", "md/level", "loop/backing_file")]
                title = next(filter(None, titles), "")
                yield Use("held", f"{name} ({title})" if title else name, way[1:])
        # 4. What the system was started from, by the kernel's root= option: an overlay hides it from 1.
        if words := re.findall(r"(?:^|\s)root=(\S+)", _read(self._root / "proc/cmdline")):
            tag, _, value = words[-1].partition("=")
            folder = _BY_TAG.get(tag)
            name = self._node(f"/dev/disk/{folder}/{value}" if folder else words[-1])
            if name and (way := self._way(name, disk)) is not None:
                yield Use("root", f"root={name}", way)
        # 5. Programs.
        numbers = {_read(self._places[name] / "dev") for name in (disk, *self._partitions(disk))}
        loop = self._loops.get(disk)
        file = None if loop is None or loop.device else loop.identity
        yield from (Use("open", program) for program in self.writers(numbers, file))

    def writers(self, numbers: Collection[str], file: FileId | None) -> Iterator[str]:
        """Programs that have one of the devices, or the file, open for writing; only root sees all of them.

        An emulator or a network block device may use the file of a card in this way.
        """
        if self._root != Path("/"):
            return
        for process in Path("/proc").glob("[0-9]*"):
            try:
                links = [process / "fd" / name for name in os.listdir(process / "fd")]
            except OSError:  # processes end while one looks
                continue
            for link in links:
                try:
                    status = link.stat()
                except OSError:  # closed meanwhile, or not ours to look at
                    continue
                device = stat.S_ISBLK(status.st_mode) and number_of(status.st_rdev) in numbers
                same = stat.S_ISREG(status.st_mode) and file == (number_of(status.st_dev), status.st_ino)
                if (device or same) and process.name != str(os.getpid()):
                    flags = re.search(r"^flags:\s*(\d+)", _read(process / "fdinfo" / link.name), re.M)
                    if flags and int(flags.group(1), 8) & os.O_ACCMODE:
                        yield f"{_read(process / 'comm')} (process {process.name})"


def number_of(device: int) -> str:
    """The "major:minor" of a st_rdev or st_dev."""
    return f"{os.major(device)}:{os.minor(device)}"


def swap_files(root: Path = Path("/")) -> list[str]:
    """Paths of all swap, files and devices."""
    return [_unescape(line.split()[0]) for line in _read(root / "proc/swaps").splitlines()[1:]]


def _unescape(text: str) -> str:
    r"""Decode the kernel's \040 and so on, which stand for space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: Path) -> str:
    """A file's text without the newline at its end; "" where there is none, or it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\n\0 ")
    except OSError:
        return ""


# Why a disk must not be written to


# Where a disk of the computer itself is mounted. To unmount such a disk would be the wrong advice.
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
_SYSTEM_FOLDERS = ("/boot/", "/run/live/", "/usr/", "/media/root-")
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
# What is known to be a disk. A kind in neither list is refused: better one disk too many than one erased.
_DISKS = r"sd[a-z]+|hd[a-z]|vd[a-z]+|xvd[a-z]+|mmcblk\d+|nvme\d+n\d+|loop\d+"


def refusals(disk: Disk, need: int | None = None, force_non_removable: bool = False) -> list[str]:
    """One line for each reason not to write to `disk`; none if it may be written to.

    need: bytes of the image, None while unknown. force_non_removable: accept a disk that is built in.
    """
    reasons = []
    # 1. What it is.
    other = next((text for pattern, text in _OTHER_KINDS if re.fullmatch(pattern, disk.name)), None)
    if disk.partition_of:
        reasons.append(f"is a partition of /dev/{disk.partition_of}; give the whole disk")
    elif other is not None:
        reasons.append(other)
    elif not re.fullmatch(_DISKS, disk.name):
        reasons.append("is of a kind that is not known to be a disk")
    elif disk.backing.startswith("/dev/"):
        reasons.append(f"is a loop device over {disk.backing}; give that disk itself")
    # 2. Who uses it; that it is the computer's own disk comes first.
    mounts = [use for use in disk.uses if use.kind == "mount"]
    own = [use for use in mounts if use.what in SYSTEM or use.what.startswith(_SYSTEM_FOLDERS)]
    if system := [use for use in disk.uses if use.kind == "root" or use in own]:
        reasons.append(f"is the disk this computer runs from: it holds {_named(system)}")
    if others := [use for use in mounts if use not in own]:
        unmount = f"sudo umount {shlex.quote(others[0].what)}"
        reasons.append(f"is mounted: {_named(others)}; unmount it first ({unmount})")
    if swaps := [use for use in disk.uses if use.kind == "swap"]:
        reasons.append(f"is swapped to: {_named(swaps)}; sudo swapoff {shlex.quote(swaps[0].what)} first")
    if held := [use for use in disk.uses if use.kind == "held"]:
        reasons.append(f"is in use by another block device: {_named(held)}; release that first")
    if programs := [use for use in disk.uses if use.kind == "open"]:
        reasons.append(f"is being written by {_named(programs)}; end that first")
    # 3. Whether the image can be written to it.
    if disk.size == 0:
        reasons.append("has no medium: put a card in")
    elif disk.read_only:
        reasons.append("is read-only: move the lock on the card's side, or use another card")
    elif disk.sector != 512:
        reasons.append(f"has sectors of {disk.sector} bytes; the partition table of an image counts in 512")
    elif need is not None and disk.size < need:
        reasons.append(f"is too small: it has {disk.size} bytes, the image needs {need}")
    # 4. Whether it is a card. Last and alone, because it is the only reason with the advice to force it. A
    # loop device counts as one: it is a file, which its owner can make again.
    if not reasons and not (force_non_removable or disk.removable or disk.bus in ("usb", "sd", "loop")):
        what = "is memory soldered in (eMMC)" if disk.bus == "emmc" else "is not removable"
        reasons.append(f"{what}; --force-non-removable if it is the right one all the same")
    return reasons


def _named(uses: list[Use]) -> str:
    """The first four uses, with the devices that they go through."""
    texts = [f"{use.what} (through {', '.join(use.through)})" if use.through else use.what for use in uses]
    texts = list(dict.fromkeys(texts))
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")
