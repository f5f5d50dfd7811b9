"""Disk images (.img, .xz, .gz, .zst): their partition tables, reading them, and the check before use."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from edge_centernet.errors import DiskImageError, MissingDependency
from edge_centernet.files import sha256
from edge_centernet.progress import Progress, unseen
from edge_centernet.sdcard import bmap as block_map
from edge_centernet.sdcard.bmap import Bmap

# Partition tables: MBR and GPT, read no further than to say what is where

SECTOR = 512  # bytes; every image for a memory card counts in these
HEAD = 1 << 20  # bytes at the start of a disk that hold its partition table, with room to spare
_PROTECTIVE = 0xEE  # the type of the only entry of an MBR that stands in front of a GPT
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
    """A partition. number: from 1; start, size: in bytes; kind: the meaning of its type code, in words."""

    number: int
    start: int
    size: int
    kind: str


def read_table(head: bytes) -> tuple[Partition, ...]:
    """The partitions in the first bytes of a disk (HEAD of them are enough).

    Of an extended partition only the container is returned. Raises DiskImageError where there is no partition
    table, or an empty one.
    """
    if len(head) < SECTOR or head[510:512] != b"\x55\xaa":
        raise DiskImageError(
            "expected a partition table, but its first sector does not end with the bytes 55 AA"
        )
    entries = [head[446 + 16 * i : 462 + 16 * i] for i in range(4)]
    # The first sector of a FAT or NTFS ends with 55 AA too, but seldom has 00 or 80 at these four places.
    if any(entry[0] not in (0x00, 0x80) for entry in entries):
        raise DiskImageError(
            "expected a partition table in its first sector, got a file system or other content"
        )
    found = []
    for number, entry in enumerate(entries, 1):
        start, sectors = struct.unpack_from("<II", entry, 8)
        if entry[4] and sectors:
            kind = "extended" if entry[4] in _EXTENDED else _KINDS.get(entry[4], f"type {entry[4]:02x}")
            found.append(Partition(number, start * SECTOR, sectors * SECTOR, kind))
    if entries[0][4] == _PROTECTIVE:
        found = _gpt(head)
    if not found:
        raise DiskImageError("expected partitions, but its partition table is empty")
    return tuple(found)


def _gpt(head: bytes) -> list[Partition]:
    """The partitions of a GPT (UEFI specification, section 5.3)."""
    header = head[SECTOR : 2 * SECTOR]
    if len(header) < SECTOR or header[:8] != b"EFI PART":
        raise DiskImageError(
            "expected a GPT, as its MBR says, but its second sector is not the header of one"
        )
    first, count, size = struct.unpack_from("<QII", header, 72)
    # A damaged header must not make us read or loop without end.
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
    return found


# Images

_XZ_BLOCK = 1 << 16  # bytes of an .xz file that are read at a time
_XZ_MEMORY = 512 << 20  # bytes for unpacking; xz -9 needs 65 MiB
CHUNK = 4 << 20  # bytes that are read, hashed and written at a time; a multiple of a card's erase block
_MAGIC = {
    "xz": b"\xfd7zXZ\0",
    "gz": b"\x1f\x8b",
    "zst": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\x03\x04",
    "bz2": b"BZh",
}


@dataclass(frozen=True)
class DiskImage:
    """A disk image that has been checked.

    packing: "img", "xz", "gz" or "zst".
    size, sha256: bytes and hash of the unpacked content.
    bmap, bmap_path: the block map beside the image and its file, if there is one.
    """

    path: Path
    packing: str
    size: int
    sha256: str
    partitions: tuple[Partition, ...]
    bmap: Bmap | None
    bmap_path: Path | None

    @property
    def to_write(self) -> int:
        """Bytes that must be written to a disk."""
        return self.bmap.mapped if self.bmap else self.size


def packing_of(path: Path) -> str:
    """How the file is packed, by its first bytes. Raises DiskImageError for what is not an image."""
    if not path.is_file():
        raise DiskImageError(
            f"{path}: expected a disk image (.img, .img.xz, .img.gz, .img.zst), found no such file"
        )
    with path.open("rb") as file:
        head = file.read(16)
    found = next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "img")
    if found in ("zip", "bz2"):
        raise DiskImageError(f"{path}: is a .{found} file; unpack it and give the .img within")
    # What a download link gives that has expired or wants a login.
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DiskImageError(f"{path}: is a web page, not a disk image; download it again")
    named = path.suffix.lstrip(".")
    if named in _MAGIC and named != found:
        raise DiskImageError(f"{path}: is named .{named} but is not packed so; damaged, or renamed")
    return found


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """The unpacked content as a stream, and a function that counts the bytes read from the file so far.

    Raises DiskImageError for damage that is found while it is read.
    """
    packing = packing_of(path)
    try:
        with path.open("rb", buffering=0) as raw, ExitStack() as stack:
            if packing == "zst":
                stream = stack.enter_context(_zstd(path, raw))
            elif packing == "xz":
                stream = BufferedReader(_Xz(raw), CHUNK)
            elif packing == "gz":
                stream = cast(BinaryIO, stack.enter_context(gzip.open(raw)))
            else:
                stream = BufferedReader(raw, CHUNK)
            # The position in the packed file: nobody knows the size of the content before its end.
            yield stream, lambda: os.lseek(raw.fileno(), 0, os.SEEK_CUR)
    except lzma.LZMAError as error:
        if "limit" in str(error):
            raise DiskImageError(
                f"{path}: needs more than {_XZ_MEMORY >> 20} MiB of memory to unpack; "
                "pack it anew with xz -9 or less"
            ) from error
        raise DiskImageError(f"{path}: is damaged or incomplete ({error}); download it again") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DiskImageError(f"{path}: is damaged or incomplete ({error}); download it again") from error


class _Xz(RawIOBase):
    """The content of an .xz file, of all its streams.

    Python's own reader passes over what follows the first one if that is no stream, as in a damaged download.
    """

    def __init__(self, raw: FileIO) -> None:
        """Nothing is read yet."""
        self._raw, self._packed = raw, b""
        self._stream = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        """Yes: that is what BufferedReader asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, at most; returns how many bytes, 0 at the end. Raises LZMAError or EOFError."""
        while True:
            if self._stream.eof:
                rest = self._stream.unused_data + self._packed
                # Between streams and behind the last one there may be zeros, four at a time.
                zeros = len(rest) - len(rest.lstrip(b"\0"))
                while zeros == len(rest) and (more := self._raw.read(_XZ_BLOCK)):
                    rest = rest[: zeros % 4] + more
                    zeros = len(rest) - len(rest.lstrip(b"\0"))
                if zeros % 4 or (
                    zeros < len(rest) and not rest[zeros:].startswith(_MAGIC["xz"][: len(rest) - zeros])
                ):
                    raise lzma.LZMAError("other bytes follow its end")
                if zeros == len(rest):
                    return 0
                self._stream, self._packed = self._new(), rest[zeros:]
            if self._stream.needs_input and not self._packed:
                self._packed = self._raw.read(_XZ_BLOCK)
                if not self._packed:
                    raise EOFError("it ends too early")
            data = self._stream.decompress(self._packed, len(buffer))
            self._packed = b""
            if data:
                buffer[: len(data)] = data
                return len(data)


@contextmanager
def _zstd(path: Path, raw: FileIO) -> Iterator[BinaryIO]:
    """The content as the zstd program unpacks it, because Python has no module for that before 3.14."""
    program = shutil.which("zstd")
    if program is None:
        raise MissingDependency(f"{path}: unpacking it needs the program zstd: sudo apt install zstd")
    # Its messages go to a file: a pipe that nobody reads could fill up and stop it.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen([program, "-dc"], stdin=raw, stdout=subprocess.PIPE, stderr=messages)
        assert process.stdout is not None
        try:
            yield cast(BinaryIO, process.stdout)
            ended = not process.stdout.read(1)
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            process.wait()
        messages.seek(0)
        reason = " ".join(messages.read(2000).decode(errors="replace").split())
    # Only if it was read to its end: otherwise closing the pipe is what made the program fail.
    if ended and process.returncode:
        raise DiskImageError(f"{path}: is damaged or incomplete ({reason}); download it again")


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in pieces of CHUNK bytes, the last one shorter."""
    while chunk := stream.read(CHUNK):
        yield chunk


def check(
    path: Path, expected: str | None = None, size_max: int | None = None, progress: Progress = unseen
) -> DiskImage:
    """Read the whole image once, so that nothing is erased for one that is damaged, truncated or another one.

    It is also compared with IMAGE.sha256 and the block map beside it, if they exist.

    expected: SHA-256 of the file or of its content. size_max: bytes that there is room for; reading ends when
    the content is larger. Raises DiskImageError.
    """
    # 1. What it is compared with; a checksum or block map that cannot be read is found before the long part.
    packing = packing_of(path)
    wanted = [(expected.lower(), "--expect-sha256")] if expected else []
    beside = path.with_name(path.name + ".sha256")
    if beside.is_file():
        wanted.append((_listed(beside, path.name), beside.name))
    bmap_path = block_map.find(path)
    bmap = block_map.read(bmap_path) if bmap_path else None
    # 2. All of it: xz and gzip have their own checksums, but only at the end.
    whole, size, head = hashlib.sha256(), 0, b""
    ranges = RangeCheck(bmap, bmap_path) if bmap else None
    with opened(path) as (stream, position):
        for chunk in chunks(stream):
            head = head or chunk[:HEAD]
            whole.update(chunk)
            if ranges:
                ranges.feed(size, chunk)
            size += len(chunk)
            progress("Checking", position(), path.stat().st_size)
            if size_max is not None and size > size_max:
                raise DiskImageError(f"{path}: is too large: the target has room for {size_max} bytes")
    # 3. Size and checksums. The packed file is hashed only where the hash of the content is not the one.
    if bmap and bmap.image_size != size:
        raise DiskImageError(
            f"{bmap_path}: is the block map of another image: it says {bmap.image_size} bytes, "
            f"{path.name} holds {size}"
        )
    content = whole.hexdigest()
    packed = "" if all(digest == content for digest, _ in wanted) else sha256(path)
    for digest, source in wanted:
        if digest not in (content, packed):
            raise DiskImageError(
                f"{path}: has the SHA-256 {packed}, {source} says {digest}: "
                "damaged, or another image; download it again"
            )
    return DiskImage(path, packing, size, content, _partitions(path, head, size), bmap, bmap_path)


class RangeCheck:
    """Compares a stream with a block map while it is read: checksums, and zeros in what it leaves out.

    What is left out is not written: without a range of the image, the card would keep there what it had.
    """

    def __init__(self, bmap: Bmap, path: Path | None) -> None:
        """path: the block map's file, for error messages."""
        self._left = list(reversed(bmap.ranges))
        self._digest = hashlib.sha256()
        self._path = path

    def feed(self, position: int, chunk: bytes) -> None:
        """Take the next bytes, which begin at `position` of the image. Raises DiskImageError."""
        view, end = memoryview(chunk), position + len(chunk)
        while self._left and self._left[-1].start < end:
            part = self._left[-1]
            self._expect_zeros(position, view[: max(part.start - position, 0)])
            self._digest.update(view[max(part.start - position, 0) : part.end - position])
            if part.end > end:  # the range goes on in the next chunk
                return
            if self._digest.hexdigest() != part.sha256:
                raise DiskImageError(
                    f"{self._path}: the bytes {part.start} to {part.end} of the image have another checksum: "
                    "it is the block map of another image, or the image is damaged"
                )
            self._left.pop()
            self._digest = hashlib.sha256()
            view, position = view[part.end - position :], part.end
        self._expect_zeros(position, view)

    def _expect_zeros(self, position: int, view: memoryview) -> None:
        """Raise DiskImageError unless these bytes, which no range has, are zero."""
        if rest := bytes(view).lstrip(b"\0"):
            raise DiskImageError(
                f"{self._path}: leaves out byte {position + len(view) - len(rest)} of the image, which is "
                "not zero: it is the block map of another image, or incomplete; make it with bmaptool create"
            )


def partitions_of(path: Path) -> tuple[Partition, ...]:
    """The partitions of an unpacked image, all of them within it. Raises DiskImageError."""
    with path.open("rb") as file:
        return _partitions(path, file.read(HEAD), path.stat().st_size)


def _partitions(path: Path, head: bytes, size: int) -> tuple[Partition, ...]:
    """The partitions of an image, which must consist of whole sectors and hold all of them."""
    try:
        found = read_table(head)
    except DiskImageError as error:
        raise DiskImageError(f"{path}: is not the image of a disk: {error}") from error
    # An .img has no checksum of its own; a download that was cut off shows here.
    end = max(part.start + part.size for part in found)
    if end > size:
        raise DiskImageError(f"{path}: is incomplete: its partitions end at byte {end}, it holds {size}")
    if size % SECTOR:
        raise DiskImageError(
            f"{path}: expected whole sectors of {SECTOR} bytes, got {size} bytes; download it again"
        )
    return found


def _listed(path: Path, name: str) -> str:
    """The sum of `name` in a file as sha256sum writes it; a file with only a sum is accepted as well."""
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    # "*" marks a file that was read in binary mode; the name may have a folder.
    sums = [
        one[0].lower() for one in lines if len(one) == 1 or one[-1].lstrip("*").rpartition("/")[2] == name
    ]
    if len(sums) != 1 or not re.fullmatch("[0-9a-f]{64}", sums[0]):
        raise DiskImageError(f"{path}: expected one line 'SHA256  {name}', as sha256sum writes it")
    return sums[0]
