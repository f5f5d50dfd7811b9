"""A disk image on this computer: opened by its content (.img, .xz, .gz, .zst), read through once before it is used."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO, cast

from edge_centernet.errors import DiskImageError, MissingDependency
from edge_centernet.files import sha256
from edge_centernet.progress import Progress, unseen
from edge_centernet.sdcard import bmap as block_map
from edge_centernet.sdcard.bmap import Bmap
from edge_centernet.sdcard.partitions import HEAD, SECTOR, Partition, read_table

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
    """packing: "img", "xz", "gz" or "zst"; size, sha256: of the content; bmap_path: where `bmap` was found."""

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
    """How the file is packed, by its first bytes. Raises DiskImageError for what cannot be read, or is no image."""
    if not path.is_file():
        raise DiskImageError(
            f"{path}: expected a disk image (.img, .img.xz, .img.gz, .img.zst), found no such file"
        )
    with path.open("rb") as file:
        head = file.read(16)
    found = next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "img")
    if found in ("zip", "bz2"):
        raise DiskImageError(f"{path}: is a .{found} file; unpack it and give the .img within")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DiskImageError(f"{path}: is a web page, not a disk image; download it again")
    named = path.suffix.lstrip(".")
    if named in _MAGIC and named != found:
        raise DiskImageError(f"{path}: is named .{named} but is not packed so; damaged, or renamed")
    return found


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """The unpacked content as a stream, and a function that tells how many bytes of the file itself have been read.

    Damage found while it is read is raised as DiskImageError.
    """
    packing = packing_of(path)
    try:
        with path.open("rb", buffering=0) as raw, _unpacked(path, raw, packing) as stream:
            yield stream, lambda: os.lseek(raw.fileno(), 0, os.SEEK_CUR)
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DiskImageError(f"{path}: is damaged or incomplete ({error}); download it again") from error


@contextmanager
def _unpacked(path: Path, raw: FileIO, packing: str) -> Iterator[BinaryIO]:
    if packing == "zst":
        with _zstd(path, raw) as stream:
            yield stream
    elif packing == "xz":
        with lzma.open(raw) as xz:
            yield cast(BinaryIO, xz)
    elif packing == "gz":
        with gzip.open(raw) as gz:
            yield cast(BinaryIO, gz)
    else:
        yield BufferedReader(raw, CHUNK)


@contextmanager
def _zstd(path: Path, raw: FileIO) -> Iterator[BinaryIO]:
    """Unpacked by the zstd program: Python has no module for it before 3.14. It reads on from where `raw` is."""
    program = shutil.which("zstd")
    if program is None:
        raise MissingDependency(f"{path}: unpacking it needs the program zstd: sudo apt install zstd")
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen([program, "-dc"], stdin=raw, stdout=subprocess.PIPE, stderr=complaints)
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
        complaints.seek(0)
        said = " ".join(complaints.read(2000).decode(errors="replace").split())
    if ended and process.returncode:
        raise DiskImageError(f"{path}: is damaged or incomplete ({said}); download it again")


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in pieces of CHUNK bytes, the last one shorter."""
    while chunk := stream.read(CHUNK):
        yield chunk


def check(
    path: Path, expected: str | None = None, size_max: int | None = None, progress: Progress = unseen
) -> DiskImage:
    """Read the whole image once, so that nothing is erased for one that is damaged, truncated or another's.

    expected: SHA-256 of the file or of its content. size_max: bytes there is room for; reading ends when the
      content
    is larger. Compared are also IMAGE.sha256 and the block map, where they lie beside it. Raises
    DiskImageError.
    """
    packing = packing_of(path)
    wanted = [(expected.lower(), "--expect-sha256")] if expected else []
    beside = path.with_name(path.name + ".sha256")
    if beside.is_file():
        wanted.append((_listed(beside, path.name), beside.name))
    bmap_path = block_map.find(path)
    bmap = block_map.read(bmap_path) if bmap_path else None
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
    if bmap and bmap.image_size != size:
        raise DiskImageError(
            f"{bmap_path}: is the block map of another image: it says {bmap.image_size} bytes, {path.name} holds {size}"
        )
    digest = whole.hexdigest()
    _compare(path, wanted, digest)
    return DiskImage(path, packing, size, digest, _partitions(path, head, size), bmap, bmap_path)


class RangeCheck:
    """Compares a stream with a block map's checksums while it passes."""

    def __init__(self, bmap: Bmap, path: Path | None) -> None:
        """path: the block map's file, for messages."""
        self._left = list(reversed(bmap.ranges))
        self._digest = hashlib.sha256()
        self._path = path

    def feed(self, position: int, chunk: bytes) -> None:
        """The next bytes, which begin at `position` of the image. Raises DiskImageError."""
        view = memoryview(chunk)
        while self._left and self._left[-1].start < position + len(chunk):
            part = self._left[-1]
            self._digest.update(view[max(part.start - position, 0) : max(part.end - position, 0)])
            if part.end > position + len(chunk):
                return
            if self._digest.hexdigest() != part.sha256:
                raise DiskImageError(
                    f"{self._path}: the bytes {part.start} to {part.end} of the image have another checksum: "
                    "it is the block map of another image, or the image is damaged"
                )
            self._left.pop()
            self._digest = hashlib.sha256()


def partitions_of(path: Path) -> tuple[Partition, ...]:
    """The partitions of an unpacked image, all of them within it. Raises DiskImageError."""
    with path.open("rb") as file:
        return _partitions(path, file.read(HEAD), path.stat().st_size)


def _partitions(path: Path, head: bytes, size: int) -> tuple[Partition, ...]:
    """Those of the image; it must be whole sectors and hold all of them."""
    try:
        found = read_table(head)
    except DiskImageError as error:
        raise DiskImageError(f"{path}: is not the image of a disk: {error}") from error
    end = max(part.start + part.size for part in found)
    if end > size:
        raise DiskImageError(f"{path}: is incomplete: its partitions end at byte {end}, it holds {size}")
    if size % SECTOR:
        raise DiskImageError(
            f"{path}: expected whole sectors of {SECTOR} bytes, got {size} bytes; download it again"
        )
    return found


def _listed(path: Path, name: str) -> str:
    """The sum of `name` in a file as sha256sum writes it; a file with one bare sum is taken as well."""
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    sums = [
        one[0].lower() for one in lines if len(one) == 1 or one[-1].lstrip("*").rpartition("/")[2] == name
    ]
    if len(sums) != 1 or not re.fullmatch("[0-9a-f]{64}", sums[0]):
        raise DiskImageError(f"{path}: expected one line 'SHA256  {name}', as sha256sum writes it")
    return sums[0]


def _compare(path: Path, wanted: list[tuple[str, str]], content: str) -> None:
    """Each sum must be that of the content or of the file."""
    if all(digest == content for digest, _ in wanted):
        return
    packed = sha256(path)
    for digest, source in wanted:
        if digest not in (content, packed):
            raise DiskImageError(
                f"{path}: has the SHA-256 {packed}, {source} says {digest}: "
                "damaged, or another image; download it again"
            )
