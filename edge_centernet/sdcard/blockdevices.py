"""What the kernel tells about a disk and who uses it: sysfs, mountinfo and swaps, all read below a root folder.

Nothing here decides anything; edge_centernet.sdcard.refusals does.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

SECTOR = 512  # bytes; sysfs counts in these whatever the disk's own sectors are


class Use(NamedTuple):
    """One use of a disk.

    kind: "mount", "swap", "held" (by another block device), "root" (the kernel was started from it) or
      "open";
    what: mount point, swap, device or program; through: the devices between it and the disk, the uppermost
      first.
    """

    kind: str
    what: str
    through: tuple[str, ...] = ()


class Part(NamedTuple):
    """A partition that the kernel knows: size in bytes; label: of its file system, where udev has read it."""

    name: str
    size: int
    label: str


@dataclass(frozen=True)
class Disk:
    """A block device. size: bytes, 0 without a medium; sector: bytes, the smallest it can write.

    number: "major:minor"; bus: "usb", "sd", "emmc", "loop" or "" for all others; sequence: the kernel's count
      of media,
    another one after a card was changed; partition_of: the disk that a partition is of; backing: of a loop
    device.
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
        """What must not change between looking and writing."""
        return (self.name, self.number, str(self.size), self.model, self.serial, self.sequence, self.backing)


class _Mount(NamedTuple):
    number: str
    root: str
    point: str
    kind: str
    source: str
    options: str


class Machine:
    """The block devices below `root`, and what lies on what. One look: make another to look again."""

    def __init__(self, root: Path = Path("/")) -> None:
        """root: holds sys, proc, dev and run; another one than / for a recorded machine."""
        self._root = root

    def name_of(self, number: str) -> str:
        """Kernel name ("sdb") of a device number ("8:16"), "" for one that the kernel does not know."""
        return self._names.get(number, "")

    def disk(self, name: str) -> Disk:
        """Everything about one block device. Raises KeyError for a name that is not there."""
        place = self._places[name]
        attributes = place if not (place / "partition").exists() else place.parent
        return Disk(
            name=name,
            number=_read(place / "dev"),
            size=int(_read(place / "size") or 0) * SECTOR,
            sector=int(_read(attributes / "queue/logical_block_size") or 512),
            model=self._model(attributes),
            serial=_serial(attributes),
            bus=_bus(attributes),
            removable=_read(attributes / "removable") == "1",
            read_only=_read(place / "ro") == "1",
            sequence=_read(attributes / "diskseq"),
            partition_of=place.parent.name if (place / "partition").exists() else "",
            backing=_read(place / "loop/backing_file"),
            partitions=tuple(self._part(part) for part in self._partitions(name)),
            uses=tuple(self._uses(name)),
        )

    # -- who is who

    @cached_property
    def _places(self) -> dict[str, Path]:
        """Name -> folder in sysfs, of disks and partitions."""
        folder = self._root / "sys/class/block"
        return {entry.name: _follow(entry) for entry in sorted(folder.iterdir())} if folder.is_dir() else {}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {_read(place / "dev"): name for name, place in self._places.items()}

    def _partitions(self, disk: str) -> list[str]:
        place = self._places[disk]
        return [
            name
            for name, other in self._places.items()
            if other.parent == place and (other / "partition").exists()
        ]

    def _part(self, name: str) -> Part:
        place = self._places[name]
        udev = _read(self._root / f"run/udev/data/b{_read(place / 'dev')}")
        label = re.search(r"^E:ID_FS_LABEL=(.*)$", udev, re.M)
        return Part(name, int(_read(place / "size") or 0) * SECTOR, label.group(1) if label else "")

    def _model(self, place: Path) -> str:
        texts = [_read(place / "device" / file) for file in ("vendor", "model", "name")]
        vendor = "" if texts[0].startswith("0x") else texts[0]  # virtio and PCI give a number there
        return " ".join(filter(None, [vendor, *texts[1:]]))

    def _node(self, path: str) -> str:
        """Kernel name behind a path such as /dev/mapper/vg-root or /dev/disk/by-partuuid/...; "" if it is none."""
        inside = self._root / path.lstrip("/")
        if self._root == Path("/") and inside.is_block_device():
            return self.name_of(number_of(os.stat(inside).st_rdev))
        target = os.readlink(inside) if inside.is_symlink() else path
        name = target.rpartition("/")[2].replace("!", "/")
        return name if path.startswith("/dev/") and name in self._places else self._mapped.get(name, "")

    @cached_property
    def _mapped(self) -> dict[str, str]:
        """Device mapper's names -> kernel names."""
        return {title: name for name, place in self._places.items() if (title := _read(place / "dm/name"))}

    # -- what lies on what

    @cached_property
    def _mounts(self) -> list[_Mount]:
        """Every mount that can be seen, in this and in other programs' mount namespaces."""
        proc = self._root / "proc"
        texts, seen = [_read(proc / "self/mountinfo")], {_link(proc / "self/ns/mnt")}
        for folder in proc.glob("[0-9]*"):
            namespace = _link(folder / "ns/mnt")
            if namespace and namespace not in seen:
                seen.add(namespace)
                texts.append(_read(folder / "mountinfo"))
        return [_mount(line) for text in texts for line in text.splitlines()]

    def _mounted(self, mount: _Mount) -> set[str]:
        """Devices that a mount reads."""
        if name := self.name_of(mount.number):
            return {name} | self._btrfs(name)
        if mount.source.startswith("/dev/") and (
            name := self._node(mount.source)
        ):  # btrfs has numbers of its own
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
        """Devices that hold the file or folder `path`; `above`: a mount on which it cannot lie."""
        fitting = [mount for mount in self._mounts if mount is not above and _within(path, mount.point)]
        if not fitting:
            return set()
        deepest = max(fitting, key=lambda mount: len(mount.point))
        return self._mounted([mount for mount in fitting if mount.point == deepest.point][-1])

    @cached_property
    def _below(self) -> dict[str, set[str]]:
        """Device -> devices that it lies on directly."""
        found = {}
        for name, place in self._places.items():
            below = (
                {entry.name for entry in (place / "slaves").iterdir()}
                if (place / "slaves").is_dir()
                else set()
            )
            if (place / "partition").exists():
                below.add(place.parent.name)
            for file in ("loop/backing_file", "backing_dev"):  # backing_dev: zram's
                path = _read(place / file)
                if path.startswith("/"):
                    node = self._node(path)
                    below |= {node} if node else self._under(path)
            found[name] = below - {name}
        return found

    def _way(self, top: str, disk: str) -> tuple[str, ...] | None:
        """Devices from `top` down to `disk`, without `disk`; None if it does not lie on it."""
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
        yield from dict.fromkeys(self._mount_uses(disk))
        for what, name in self._swaps():
            if (way := self._way(name, disk)) is not None:
                yield Use("swap", what, way)
        for name in self._places:
            way = self._way(name, disk)
            if way and not (len(way) == 1 and name in self._partitions(disk)):
                yield Use("held", self._title(name), way[1:])
        if (name := self._started_from()) and (way := self._way(name, disk)) is not None:
            yield Use("root", f"root={name}", way)
        yield from (Use("open", program) for program in self._writers({disk, *self._partitions(disk)}))

    def _mount_uses(self, disk: str) -> Iterator[Use]:
        for mount in self._mounts:
            for name in sorted(self._mounted(mount)):
                if (way := self._way(name, disk)) is not None:
                    yield Use("mount", mount.point, way)

    def _swaps(self) -> Iterator[tuple[str, str]]:
        """(path, device) of each swap; a file's device is that of its file system."""
        for line in _read(self._root / "proc/swaps").splitlines()[1:]:
            path = _unescape(line.split()[0])
            node = self._node(path)
            yield from ((path, name) for name in ([node] if node else sorted(self._under(path))))

    def _title(self, name: str) -> str:
        place = self._places[name]
        title = _read(place / "dm/name") or _read(place / "md/level") or _read(place / "loop/backing_file")
        return f"{name} ({title})" if title else name

    def _started_from(self) -> str:
        """The device that the kernel was told to start from: an overlay hides it from the mount table."""
        words = re.findall(r"(?:^|\s)root=(\S+)", _read(self._root / "proc/cmdline"))
        if not words:
            return ""
        tag, _, value = words[-1].partition("=")
        folder = {
            "PARTUUID": "by-partuuid",
            "UUID": "by-uuid",
            "LABEL": "by-label",
            "PARTLABEL": "by-partlabel",
        }.get(tag)
        return self._node(f"/dev/disk/{folder}/{value}" if folder else words[-1])

    def _writers(self, names: Iterable[str]) -> Iterator[str]:
        """Programs that have one of the devices open for writing. Those of other users only root can see."""
        if self._root != Path("/"):
            return
        numbers = {_read(self._places[name] / "dev") for name in names}
        for process, link in _descriptors():
            try:
                status = link.stat()
            except OSError:  # closed meanwhile, or not ours to look at
                continue
            if (
                stat.S_ISBLK(status.st_mode)
                and number_of(status.st_rdev) in numbers
                and process.name != str(os.getpid())
            ):
                flags = re.search(r"^flags:\s*(\d+)", _read(process / "fdinfo" / link.name), re.M)
                if flags and int(flags.group(1), 8) & os.O_ACCMODE:
                    yield f"{_read(process / 'comm')} (process {process.name})"


def _descriptors() -> Iterator[tuple[Path, Path]]:
    """(process, descriptor) below /proc. Processes end while one looks."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            names = os.listdir(process / "fd")
        except OSError:
            continue
        yield from ((process, process / "fd" / name) for name in names)


def number_of(device: int) -> str:
    """The "major:minor" of a st_rdev or st_dev."""
    return f"{os.major(device)}:{os.minor(device)}"


def loops_over(file: Path, root: Path = Path("/")) -> list[str]:
    """Loop devices that show the regular file `file`."""
    found = []
    for place in sorted((root / "sys/class/block").glob("loop*")):
        backing = _read(place / "loop/backing_file")
        if backing and (Path(backing) == file.resolve() or _same(Path(backing), file)):
            found.append(place.name)
    return found


def swap_files(root: Path = Path("/")) -> list[str]:
    """Paths of everything that is swapped to."""
    return [_unescape(line.split()[0]) for line in _read(root / "proc/swaps").splitlines()[1:]]


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _bus(place: Path) -> str:
    """By the path in sysfs; what is soldered onto an MMC host has another type than what is put into one."""
    path = place.as_posix()
    if "/mmc_host/" in path:
        return "emmc" if _read(place / "device/type") == "MMC" else "sd"
    if re.search(r"/usb\d+/", path):
        return "usb"
    return "loop" if re.fullmatch(r"loop\d+", place.name) else ""


def _serial(place: Path) -> str:
    """The disk's own, or that of the USB device it is in."""
    for file in ("device/serial", "serial"):
        if text := _read(place / file):
            return text
    return next((_read(up / "serial") for up in place.parents if (up / "idVendor").exists()), "")


def _mount(line: str) -> _Mount:
    """A line of mountinfo: id parent major:minor root point options... - kind source super-options."""
    before, _, after = line.partition(" - ")
    fields = before.split()
    kind, source, options = [*after.split(" "), "", "", ""][:3]
    return _Mount(
        fields[2], _unescape(fields[3]), _unescape(fields[4]), kind, _unescape(source), _unescape(options)
    )


def _unescape(text: str) -> str:
    r"""Space, tab, newline and backslash stand as \040 and so on."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _follow(link: Path) -> Path:
    """Where a symbolic link of sysfs leads; they are relative, so a recorded tree works as well."""
    return Path(os.path.normpath(link.parent / os.readlink(link))) if link.is_symlink() else link


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
