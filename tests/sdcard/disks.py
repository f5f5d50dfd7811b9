"""Small disk images and recorded machines for the tests of flashing."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

MIB = 1 << 20
SIZE = 24 * MIB  # of the image that disk_image makes


def partition_table(*parts: tuple[int, int, int]) -> bytes:
    """An MBR with partitions (type, first sector, sectors)."""
    table = bytearray(512)
    for i, (kind, start, sectors) in enumerate(parts):
        table[446 + 16 * i : 462 + 16 * i] = struct.pack("<B3sB3sII", 0, b"", kind, b"", start, sectors)
    table[510:] = b"\x55\xaa"
    return bytes(table)


def disk_image(path: Path, seed: int = 0) -> Path:
    """A disk of SIZE bytes: MBR, 4 MiB "FAT", 16 MiB "Linux", with reproducible noise and holes in both."""
    import random

    noise = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.write(partition_table((0x0C, 4 * 2048, 4 * 2048), (0x83, 8 * 2048, 16 * 2048)))
        for start, size in (
            (4 * MIB, 300_000),
            (8 * MIB + 4096, 5 * MIB),
            (20 * MIB, 65536),
            (24 * MIB - 4096, 4096),
        ):
            file.seek(start)
            file.write(noise.randbytes(size))
    return path


def pack(image: Path, suffix: str) -> Path:
    """The image packed by the usual program; `suffix`: xz, gz or zst."""
    program = {"xz": ["xz", "-1", "-k"], "gz": ["gzip", "-1", "-k"], "zst": ["zstd", "-q", "-1", "-k"]}[
        suffix
    ]
    if shutil.which(program[0]) is None:
        pytest.skip(f"no {program[0]}")
    subprocess.run([*program, image], check=True)
    return image.with_name(f"{image.name}.{suffix}")


def bmaptool_map(image: Path, out: Path) -> Path:
    """The block map that bmaptool makes of an image."""
    if shutil.which("bmaptool") is None:
        pytest.skip("no bmaptool: apt install bmap-tools")
    subprocess.run(["bmaptool", "create", "-o", out, image], check=True, capture_output=True)
    return out


def need_root() -> None:
    """Skip a test that needs loop devices or mounts."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("loop devices need root and a kernel that has them")


def first_difference(found: bytes, expected: bytes) -> int | None:
    """The first byte that differs, None for none: pytest would print two whole cards instead."""
    if found == expected:
        return None
    both = min(len(found), len(expected))
    differs = np.flatnonzero(np.frombuffer(found, "u1", both) != np.frombuffer(expected, "u1", both))
    return int(differs[0]) if len(differs) else both


@contextmanager
def loop(file: Path, *options: str) -> Iterator[Path]:
    """A loop device that shows `file`."""
    need_root()
    made = subprocess.run(["losetup", "-f", "--show", *options, file], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"losetup: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def mounted(what: Path | str, where: Path, *options: str) -> Iterator[Path]:
    """A mount that goes with the test."""
    need_root()
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(what), where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@contextmanager
def file_system(device: Path, where: Path, content: Path | None = None) -> Iterator[Path]:
    """A new ext4 on `device` with what is in the folder `content`, mounted for reading.

    One that is mounted for writing is written to by the kernel alone, within seconds, while a test compares
    the device's bytes.
    """
    need_root()
    filled = ["-d", content] if content else []
    subprocess.run(["mkfs.ext4", "-q", "-F", *filled, device], check=True)
    with mounted(device, where, "-o", "ro"):
        yield where


def card(folder: Path, size: int = 32 * MIB) -> Path:
    """A file of a card's size, full of what an earlier owner left."""
    path = folder / "card"
    path.write_bytes(b"\xa5old card" * (size // 9 + 1))
    os.truncate(path, size)
    return path


class Recorded:
    """A machine as files: sysfs, proc and dev below a folder, as Machine(root) reads them."""

    def __init__(self, root: Path) -> None:
        """An empty machine below `root`."""
        self.root = root
        self.file("proc/self/mountinfo", "")
        self.file("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
        self.file("proc/cmdline", "quiet\n")
        (root / "sys/class/block").mkdir(parents=True)

    def file(self, path: str, text: str, append: bool = False) -> None:
        """One file, with its folders."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a" if append else "w") as file:
            file.write(text)

    def device(self, name: str, place: str, number: str, size: int = 64 << 30, **attributes: str) -> None:
        """A block device at /sys/devices/PLACE/NAME. size: bytes. attributes: "__" stands for "/"."""
        at = f"sys/devices/{place}/{name}"
        self.file(f"{at}/dev", f"{number}\n")
        self.file(f"{at}/size", f"{size // 512}\n")
        self.file(f"{at}/ro", "0\n")
        for key, value in attributes.items():
            self.file(f"{at}/{key.replace('__', '/')}", f"{value}\n")
        if "partition" not in attributes:
            for key, value in (("removable", "0"), ("queue/logical_block_size", "512"), ("diskseq", "7")):
                if not (self.root / at / key).exists():
                    self.file(f"{at}/{key}", f"{value}\n")
        (self.root / "sys/class/block" / name).symlink_to(f"../../devices/{place}/{name}")

    def on(self, name: str, *below: str) -> None:
        """Device mapper or RAID: `name` lies on the devices `below`."""
        for slave in below:
            self.file(f"sys/devices/virtual/block/{name}/slaves/{slave}", "")

    def mount(
        self, number: str, point: str, kind: str = "ext4", source: str = "none", options: str = "rw"
    ) -> None:
        """A line of mountinfo."""
        line = f"30 1 {number} / {point} rw,relatime shared:1 - {kind} {source} {options}\n"
        self.file("proc/self/mountinfo", line, append=True)

    def swap(self, path: str) -> None:
        """A line of /proc/swaps."""
        self.file("proc/swaps", f"{path}\tpartition\t1048572\t0\t-2\n", append=True)

    def link(self, path: str, to: str) -> None:
        """A symbolic link, such as /dev/mapper/vg-root."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(to)

    def usb_card_reader(self, partitions: int = 2) -> None:
        """sdb: a 32 GB card in a USB reader."""
        usb = "pci0000:00/0000:00:14.0/usb2/2-3"
        self.file(f"sys/devices/{usb}/idVendor", "05e3\n")
        self.file(f"sys/devices/{usb}/serial", "000000001536\n")
        place = f"{usb}/2-3:1.0/host6/target6:0:0/6:0:0:0/block"
        about = {"device__vendor": "Generic ", "device__model": "STORAGE DEVICE  "}
        self.device("sdb", place, "8:16", 32 << 30, removable="1", **about)
        for number in range(1, partitions + 1):
            self.device(f"sdb{number}", f"{place}/sdb", f"8:{16 + number}", 8 << 30, partition=str(number))

    def system_disk(self) -> None:
        """sda: a built-in SATA disk with EFI partition, /boot, and a third partition."""
        place = "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block"
        self.device("sda", place, "8:0", 512 << 30, device__vendor="ATA", device__model="Samsung SSD 860")
        for number in (1, 2, 3):
            self.device(f"sda{number}", f"{place}/sda", f"8:{number}", 100 << 30, partition=str(number))
