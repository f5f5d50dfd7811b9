"""Partition tables of disks and disk images: MBR and GPT, read and never interpreted further."""

from __future__ import annotations

import struct
import uuid
from typing import NamedTuple

from edge_centernet.errors import DiskImageError

SECTOR = 512  # bytes; what every image for a memory card counts in
HEAD = 1 << 20  # bytes of a disk that hold its table, with room to spare
_PROTECTIVE = 0xEE  # the one entry of an MBR that says: look for a GPT
_EXTENDED = (0x05, 0x0F, 0x85)
_KINDS = {
    0x01: "FAT12",
    0x04: "FAT16",
    0x06: "FAT16",
    0x07: "NTFS or exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32",
    0x0E: "FAT16",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
    0xEF: "EFI",
    0xFD: "Linux RAID",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Windows data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
}
FAT = ("FAT12", "FAT16", "FAT32", "EFI")


class Partition(NamedTuple):
    """number: from 1; start, size: bytes; kind: what its type code means, for people."""

    number: int
    start: int
    size: int
    kind: str


def read_table(head: bytes) -> tuple[Partition, ...]:
    """The partitions in the first bytes of a disk (HEAD of them are plenty); of an extended one only the container.

    Raises DiskImageError where there is no partition table, or an empty one.
    """
    if len(head) < SECTOR or head[510:512] != b"\x55\xaa":
        raise DiskImageError(
            "expected a partition table, but its first sector does not end with the bytes 55 AA"
        )
    entries = [head[446 + 16 * i : 462 + 16 * i] for i in range(4)]
    if any(
        entry[0] not in (0x00, 0x80) for entry in entries
    ):  # a file system's first sector ends with 55 AA as well
        raise DiskImageError(
            "expected a partition table in its first sector, got a file system or other content"
        )
    found = tuple(
        _mbr(number, entry) for number, entry in enumerate(entries, 1) if entry[4] and any(entry[12:16])
    )
    if entries[0][4] == _PROTECTIVE:
        found = _gpt(head)
    if not found:
        raise DiskImageError("expected partitions, but its partition table is empty")
    return found


def _mbr(number: int, entry: bytes) -> Partition:
    start, sectors = struct.unpack_from("<II", entry, 8)
    kind = "extended" if entry[4] in _EXTENDED else _KINDS.get(entry[4], f"type {entry[4]:02x}")
    return Partition(number, start * SECTOR, sectors * SECTOR, kind)


def _gpt(head: bytes) -> tuple[Partition, ...]:
    header = head[SECTOR : 2 * SECTOR]
    if len(header) < SECTOR or header[:8] != b"EFI PART":
        raise DiskImageError(
            "expected a GPT, as its MBR says, but its second sector is not the header of one"
        )
    first, count, size = struct.unpack_from("<QII", header, 72)
    if size < 128 or count > 1024 or first * SECTOR + count * size > len(head):
        raise DiskImageError(
            f"expected a GPT with up to 1024 entries, got {count} of {size} bytes at sector {first}"
        )
    found = []
    for number in range(1, count + 1):
        entry = head[first * SECTOR + (number - 1) * size :][:size]
        kind = str(uuid.UUID(bytes_le=entry[:16]))
        start, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]):
            length = (last - start + 1) * SECTOR
            found.append(Partition(number, start * SECTOR, length, _KINDS.get(kind, f"type {kind}")))
    return tuple(found)
