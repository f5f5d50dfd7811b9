"""Block maps in bmaptool's format 2.0: which blocks of a disk image must be written, with checksums."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from edge_centernet.errors import DiskImageError

BLOCK = 4096  # bytes; bmaptool's default, and the block of every file system that we put on a card
_BYTES_MAX = 16 << 20  # the block map of a full card of 1 TB has about 10 MB
_NO_CHECKSUM = b"0" * 64  # stands for the map's own checksum while that is computed


class Range(NamedTuple):
    """A run of blocks that must be written. start, size: in bytes; sha256: of its bytes, hexadecimal."""

    start: int
    size: int
    sha256: str

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Bmap:
    """A block map. image_size: bytes of the uncompressed image; ranges: in order, without overlap."""

    image_size: int
    ranges: tuple[Range, ...]

    @property
    def mapped(self) -> int:
        """Bytes that must be written."""
        return sum(part.size for part in self.ranges)

    def pieces(self, start: int, size: int) -> Iterator[tuple[int, int]]:
        """(start, size) of what is mapped within these bytes of the image."""
        for part in self.ranges:
            first, end = max(start, part.start), min(start + size, part.end)
            if first < end:
                yield first, end - first


def find(image: Path) -> Path | None:
    """The block map beside an image: a.img.xz.bmap, or a.img.bmap (bmaptool's usual name), or a.bmap."""
    names = [image.name + ".bmap", image.stem + ".bmap", Path(image.stem).stem + ".bmap"]
    return next((path for name in names if (path := image.with_name(name)).is_file()), None)


def read(path: Path) -> Bmap:
    """Read and check a block map. Raises DiskImageError."""
    if path.stat().st_size > _BYTES_MAX:
        raise DiskImageError(f"{path}: expected a block map, got {path.stat().st_size} bytes")
    content = path.read_bytes()
    # No block map has entities, and expanding them can take all memory ("billion laughs").
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DiskImageError(
            f"{path}: expected a block map without a DOCTYPE; make it anew with bmaptool create"
        )
    try:
        root = ElementTree.fromstring(content)
        version = root.get("version", "")
        if root.tag != "bmap" or not version.startswith("2."):
            raise ValueError(f"<{root.tag} version={version!r}>")
        if _text(root, "ChecksumType") != "sha256":
            raise ValueError(f"checksums by {_text(root, 'ChecksumType')}")
        # The map's checksum is that of the file with zeros in the checksum's own place.
        own = _text(root, "BmapFileChecksum").encode()
        if hashlib.sha256(content.replace(own, _NO_CHECKSUM, 1)).hexdigest().encode() != own:
            raise ValueError("its own checksum does not match: damaged, or edited by hand")
        size, block = int(_text(root, "ImageSize")), int(_text(root, "BlockSize"))
        ranges = []
        for element in root.iterfind("BlockMap/Range"):
            first, _, last = (element.text or "").strip().partition("-")  # "3-7", or "3" for one block
            digest = element.attrib["chksum"].lower()
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"{digest!r} is no sha256")
            start, end = int(first) * block, min((int(last or first) + 1) * block, size)
            ranges.append(Range(start, end - start, digest))
        if not ranges:
            raise ValueError("it has no ranges, so that nothing would be written")
        if block < 512 or any(before.end > after.start for before, after in pairwise(ranges)):
            raise ValueError("its ranges overlap")
        if any(part.size <= 0 or part.end > size for part in ranges):
            raise ValueError("a range ends behind the image")
        blocks = sum(-(-part.size // block) for part in ranges)
        if (count := _text(root, "MappedBlocksCount")) and int(count) != blocks:
            raise ValueError(f"it promises {count} blocks and lists {blocks}")
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise DiskImageError(
            f"{path}: not a block map of format 2.0 ({error}); make it anew with bmaptool create"
        ) from error
    return Bmap(size, tuple(ranges))


def _text(root: ElementTree.Element, tag: str) -> str:
    return (root.findtext(tag) or "").strip()


def of_image(image: Path, free: Sequence[tuple[int, int]]) -> Bmap:
    """The map of an uncompressed image.

    free: (start, end) in bytes of what its file systems do not use, in order.

    A block is left out if it is free and all zero. Being zero is not enough: in a FAT or a bitmap zeros are
    content, and skipping them would leave there what the card held before.
    """
    ranges: list[Range] = []
    start, digest, position = 0, None, 0
    gaps = iter([*free, (1 << 62, 1 << 62)])  # the last gap is behind every image
    gap = next(gaps)
    with image.open("rb") as file:
        while chunk := file.read(1 << 20):
            for offset in range(0, len(chunk), BLOCK):
                block = chunk[offset : offset + BLOCK]
                while gap[1] <= position:
                    gap = next(gaps)
                if gap[0] <= position and position + len(block) <= gap[1] and not block.strip(b"\0"):
                    if digest is not None:
                        ranges.append(Range(start, position - start, digest.hexdigest()))
                        digest = None
                else:
                    if digest is None:
                        start, digest = position, hashlib.sha256()
                    digest.update(block)
                position += len(block)
    if digest is not None:
        ranges.append(Range(start, position - start, digest.hexdigest()))
    return Bmap(position, tuple(ranges))


def to_xml(bmap: Bmap) -> str:
    """The map as bmaptool writes and reads it, the same text for the same map."""
    blocks = -(-bmap.image_size // BLOCK)
    mapped = sum(-(-part.size // BLOCK) for part in bmap.ranges)
    lines = [
        '<?xml version="1.0" ?>',
        '<bmap version="2.0">',
        f"    <ImageSize> {bmap.image_size} </ImageSize>",
        f"    <BlockSize> {BLOCK} </BlockSize>",
        f"    <BlocksCount> {blocks} </BlocksCount>",
        f"    <MappedBlocksCount> {mapped} </MappedBlocksCount>",
        "    <ChecksumType> sha256 </ChecksumType>",
        f"    <BmapFileChecksum> {_NO_CHECKSUM.decode()} </BmapFileChecksum>",
        "    <BlockMap>",
    ]
    for part in bmap.ranges:
        first, last = part.start // BLOCK, (part.end - 1) // BLOCK
        numbers = f"{first}" if first == last else f"{first}-{last}"
        lines.append(f'        <Range chksum="{part.sha256}"> {numbers} </Range>')
    text = "\n".join([*lines, "    </BlockMap>", "</bmap>", ""])
    own = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(_NO_CHECKSUM.decode(), own, 1)
