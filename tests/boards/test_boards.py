"""The tools that emulate boards: scripts parse, boot files are found, a board survives a power cut.

The proof itself is scripts/test_devices.sh, which takes an hour; here is what a minute allows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import load_script

from edge_centernet.imageio import read_image

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts/devices"
FIRST = 8192 * 512  # bytes, where the first partition begins


boot = load_script("devices/boot")


@pytest.mark.parametrize(
    "script", sorted([*SCRIPTS.glob("*.sh"), SCRIPTS / "vivid/vivid-photo", ROOT / "scripts/test_devices.sh"])
)
def test_shell_scripts_parse(script: Path) -> None:
    """Each is what a POSIX shell reads."""
    assert subprocess.run(["sh", "-n", script], capture_output=True, check=False).stderr == b""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk image with a FAT partition at 4 MiB that holds boot files."""
    if shutil.which("mformat") is None:
        pytest.skip("no mtools: apt-get install mtools")
    path = tmp_path / "card.img"
    sector = bytearray(512)
    sector[446:462] = (
        bytes([0x80, 0, 0, 0, 0x0C, 0, 0, 0]) + (8192).to_bytes(4, "little") + (131072).to_bytes(4, "little")
    )
    sector[510:] = b"\x55\xaa"
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(FIRST + 131072 * 512)
    files = {
        "config.txt": b"arm_64bit=1\nkernel=vmlinuz\ninitramfs initrd.img followkernel\n",
        "cmdline.txt": b"console=tty0 console=ttyS1,115200 root=LABEL=rootfs ro\n",
        "vmlinuz": b"a kernel",
        "initrd.img": b"an initrd",
        "bcm2837-rpi-3-b.dtb": b"a device tree",
    }
    subprocess.run(["mformat", "-i", f"{path}@@{FIRST}", "-F", "-T", "131072", "::"], check=True)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        subprocess.run(["mcopy", "-i", f"{path}@@{FIRST}", tmp_path / name, "::/"], check=True)
    return path


def test_a_board_starts_what_the_image_says(image: Path, tmp_path: Path) -> None:
    """Kernel and initrd by the names in config.txt; the command line has the machine's consoles."""
    folder = tmp_path / "board"
    folder.mkdir()
    options, words = boot.boot_files(image, "virt", folder)
    assert options == ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd.img")]
    assert (folder / "vmlinuz").read_bytes() == b"a kernel"
    assert words == "console=ttyAMA0 root=LABEL=rootfs ro"
    options, words = boot.boot_files(image, "raspi3b", folder)
    assert options[-2:] == ["-dtb", str(folder / "bcm2837-rpi-3-b.dtb")]
    assert words == "console=ttyS1,115200 root=LABEL=rootfs ro"


def test_a_file_without_a_partition_table_is_refused(tmp_path: Path) -> None:
    """A board does not try to boot what is no disk."""
    path = tmp_path / "none.img"
    path.write_bytes(bytes(1024))
    with pytest.raises(boot.BoardError, match="expected a disk image with an MBR"):
        boot.first_partition(path)


def test_the_camera_s_photo_is_the_photo(tmp_path: Path) -> None:
    """The raw frame is the photo in the middle of a black picture, as a camera in YUYV gives it."""
    import cv2

    photo = ROOT / "edge_centernet/assets/sample.jpg"
    frame = tmp_path / "photo.raw"
    subprocess.run([sys.executable, SCRIPTS / "photo_frame.py", photo, frame], check=True)
    raw = np.frombuffer(frame.read_bytes(), np.uint8).reshape(480, 640, 2)
    picture = cv2.cvtColor(raw, cv2.COLOR_YUV2BGR_YUYV)
    expected = cv2.resize(read_image(photo), (640, 291), interpolation=cv2.INTER_AREA)
    assert np.abs(picture[94:385].astype(int) - expected).mean() < 3.0
    assert picture[:94].max() < 3
    assert picture[385:].max() < 3


@pytest.fixture
def board() -> Iterator[object]:
    """A board that boots the base image."""
    base = boot.CACHE / "base-arm64.img"
    if "EDGE_CENTERNET_BOARDS" not in os.environ:
        pytest.skip(
            "boots an emulated board for minutes: set EDGE_CENTERNET_BOARDS=1, or scripts/test_devices.sh"
        )
    if not base.exists():
        pytest.skip(f"no base image {base}: scripts/devices/build_base.sh arm64")
    if shutil.which("qemu-system-aarch64") is None:
        pytest.skip("no QEMU: apt-get install qemu-system-arm qemu-utils")
    board = boot.Board("pytest")
    board.down()
    yield board
    board.down()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(board: object) -> None:
    """What a guest gave to its disk is there after the plug was pulled; the machine boots again."""
    assert isinstance(board, boot.Board)
    seeded = boot.BOARDS / "pytest-base.img"
    subprocess.run(["cp", "--sparse=always", boot.CACHE / "base-arm64.img", seeded], check=True)
    try:
        boot.seed(seeded, "pytest")
        board.up(seeded)
        board.wait_ssh()
        board.ssh("sudo cloud-init status --wait >/dev/null; echo kept >kept; sync; echo lost >lost")
        board.cut()
        board.up(None)
        board.wait_ssh()
        assert board.ssh("cat kept; ls lost 2>&1 | grep -c cannot").stdout.split() == ["kept", "1"]
        assert json.loads(board.ssh("cat /run/cloud-init/result.json").stdout)["v1"]["errors"] == []
    finally:
        board.down()
        seeded.unlink(missing_ok=True)
