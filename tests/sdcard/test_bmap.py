"""Block maps: ours and bmaptool's are the same, and nothing that a file system uses is left out."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from disks import MIB, SIZE, bmaptool_map, disk_image, first_difference

from edge_centernet.errors import DiskImageError
from edge_centernet.sdcard import bmap
from edge_centernet.sdcard.bmap import BLOCK, Bmap, Range


def test_map_of_bmaptool_is_read(tmp_path: Path) -> None:
    """Ranges and checksums of the file that bmaptool writes are those of the image's bytes."""
    image = disk_image(tmp_path / "disk.img")
    found = bmap.read(bmaptool_map(image, tmp_path / "disk.img.bmap"))
    content = image.read_bytes()
    assert found.image_size == SIZE
    assert 5 * MIB < found.mapped < 6 * MIB
    assert [part.sha256 for part in found.ranges] == [
        hashlib.sha256(content[part.start : part.end]).hexdigest() for part in found.ranges
    ]


def test_bmaptool_copies_by_our_map(tmp_path: Path) -> None:
    """Accepted by bmaptool, which checks the map's own checksum and every range's; the copy is equal."""
    if shutil.which("bmaptool") is None:
        pytest.skip("no bmaptool: apt install bmap-tools")
    image = disk_image(tmp_path / "disk.img")
    made = bmap.of_image(image, [(MIB, 4 * MIB), (14 * MIB, 23 * MIB)])
    assert made.mapped < SIZE - 10 * MIB
    (tmp_path / "disk.img.bmap").write_text(bmap.to_xml(made))
    assert bmap.read(tmp_path / "disk.img.bmap") == made
    subprocess.run(["bmaptool", "copy", image, tmp_path / "copy.img"], check=True, capture_output=True)
    assert first_difference((tmp_path / "copy.img").read_bytes(), image.read_bytes()) is None


def test_zeros_that_are_in_use_are_mapped(tmp_path: Path) -> None:
    """Zeros are left out only where no file system uses them; what is not zero is never left out."""
    image = tmp_path / "disk.img"
    content = bytearray(64 * BLOCK)
    content[10 * BLOCK : 12 * BLOCK] = b"x" * 2 * BLOCK
    image.write_bytes(content)
    found = bmap.of_image(image, [(8 * BLOCK + 1, 20 * BLOCK), (60 * BLOCK, 64 * BLOCK)])
    assert [(part.start // BLOCK, part.end // BLOCK) for part in found.ranges] == [(0, 9), (10, 12), (20, 60)]


def test_pieces_are_what_is_mapped_of_any_part() -> None:
    """Cut anywhere, the pieces cover each mapped byte once."""
    ranges = (Range(0, 4096, ""), Range(8192, 4096, ""), Range(12288, 8192, ""), Range(40960, 100, ""))
    whole = Bmap(41060, ranges)
    cuts = random.Random(0)
    for _ in range(200):
        covered, position = bytearray(whole.image_size), 0
        while position < whole.image_size:
            size = cuts.randint(1, 9000)
            for start, count in whole.pieces(position, size):
                assert position <= start < start + count <= position + size
                for i in range(start, start + count):
                    covered[i] += 1
            position += size
        assert sum(covered) == whole.mapped
        assert max(covered) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('version="2.0"', 'version="1.3"', "version='1.3'"),
        ("<ChecksumType> sha256", "<ChecksumType> sha1", "checksums by sha1"),
        ("<BlockSize> 4096", "<BlockSize> 4095", "its own checksum does not match"),
        ('<?xml version="1.0" ?>', '<!DOCTYPE bmap [<!ENTITY a "b">]>', "without a DOCTYPE"),
        ("</bmap>", "", "no element found"),
    ],
)
def test_other_maps_are_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    """Another version, another checksum, an edited, dangerous or cut file: one line that says which."""
    image = disk_image(tmp_path / "disk.img")
    text = bmap.to_xml(bmap.of_image(image, []))
    assert old in text
    (tmp_path / "disk.img.bmap").write_text(text.replace(old, new))
    with pytest.raises(DiskImageError, match=says):
        bmap.read(tmp_path / "disk.img.bmap")


@pytest.mark.parametrize("name", ["disk.img.xz.bmap", "disk.img.bmap", "disk.bmap"])
def test_map_is_found_beside_the_image(name: str, tmp_path: Path) -> None:
    """Under the names that bmaptool looks for."""
    (tmp_path / name).touch()
    assert bmap.find(tmp_path / "disk.img.xz") == tmp_path / name
    assert bmap.find(tmp_path / "other.img.xz") is None
