"""Writing images to files and real loop devices: refusals, reading back, and what an interruption leaves."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from disks import (
    MIB,
    SIZE,
    bmaptool_map,
    card,
    disk_image,
    file_system,
    first_difference,
    loop,
    mounted,
    need_root,
    pack,
    partition_table,
)
from support import Result, allow_interrupts

from edge_centernet.errors import TargetError
from edge_centernet.sdcard import bmap, diskimage, flash

pytestmark = pytest.mark.slow  # writes and reads back whole cards

CLI = [sys.executable, "-c", "from edge_centernet.cli import main; main()"]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk image, SIZE bytes."""
    return disk_image(tmp_path_factory.mktemp("image") / "disk.img")


@pytest.fixture
def image(source: Path, tmp_path: Path) -> Path:
    """The disk image in the test's own folder, to put things beside it or to damage it."""
    return Path(shutil.copy(source, tmp_path / "disk.img"))


@pytest.fixture
def old_card(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(loop device, its file): 32 MiB full of an earlier owner's bytes."""
    need_root()
    file = card(tmp_path)
    with loop(file) as device:
        yield device, file


@pytest.mark.parametrize("suffix", ["img", "xz", "gz", "zst"])
def test_image_arrives_in_a_file_byte_for_byte(suffix: str, image: Path, tmp_path: Path, run: Run) -> None:
    """A new file needs no confirmation and is equal to the unpacked image."""
    packed = image if suffix == "img" else pack(image, suffix)
    target = tmp_path / "sd.img"
    result = run("flash", packed, target)
    assert (result.code, result.err.count("Error")) == (0, 0), result.err
    assert first_difference(target.read_bytes(), image.read_bytes()) is None
    assert "read them back" in result.out


def test_image_arrives_on_a_loop_device(image: Path, old_card: tuple[Path, Path], run: Run) -> None:
    """All of the image is on the disk, the last MiB (an old GPT's copy) is zero, the rest is as it was."""
    device, file = old_card
    before = file.read_bytes()
    result = run("flash", pack(image, "xz"), device, "--confirm", device.name)
    assert result.code == 0, result.err
    content = file.read_bytes()
    assert first_difference(content[:SIZE], image.read_bytes()) is None
    assert first_difference(content[SIZE:-MIB], before[SIZE:-MIB]) is None
    assert first_difference(content[-MIB:], bytes(MIB)) is None


def test_with_a_block_map_only_what_it_names_is_written(
    source: Path, image: Path, old_card: tuple[Path, Path], run: Run
) -> None:
    """The map that bmaptool makes is used: mapped blocks arrive, the others keep what they had."""
    device, file = old_card
    before = file.read_bytes()
    mapped = diskimage.block_map.read(bmaptool_map(source, image.with_name("disk.img.bmap"))).ranges
    result = run("flash", pack(image, "xz"), device, "--confirm", device.name)
    assert result.code == 0, result.err
    content, wanted, covered = file.read_bytes(), image.read_bytes(), bytearray(SIZE)
    for part in mapped:
        assert first_difference(content[part.start : part.end], wanted[part.start : part.end]) is None
        covered[part.start : part.end] = b"\1" * part.size
    untouched = [i for i in range(MIB, SIZE, 4096) if not covered[i]]
    assert len(untouched) > 1000
    assert all(content[i : i + 4096] == before[i : i + 4096] for i in untouched)
    assert "by disk.img.bmap" in result.out


def test_without_confirmation_nothing_is_written(image: Path, old_card: tuple[Path, Path], run: Run) -> None:
    """Without a terminal and --confirm, and with --dry-run, the plan is shown and the disk stays as it is."""
    device, file = old_card
    before = file.read_bytes()
    for options in ([], ["--dry-run", "--confirm", device.name]):
        result = run("flash", image, device, *options)
        assert result.code == 0
        assert f"Nothing was written. To write: --confirm {device.name}" in result.out
        assert "1: 4.2 MB FAT32, 2: 16.8 MB Linux" in result.out
        assert f"33.6 MB, no model, serial unknown, loop\n        shows the file {file}" in result.out
    wrong = run("flash", image, device, "--confirm", "sdb")
    assert (wrong.code, wrong.err) == (
        2,
        f"Error: --confirm: expected {device.name}, the target's name, got sdb; nothing was written\n",
    )
    assert first_difference(file.read_bytes(), before) is None


def test_plan_names_the_partitions_that_are_lost(image: Path, old_card: tuple[Path, Path], run: Run) -> None:
    """What is on the disk is listed before it is erased, also where the kernel shows no partitions."""
    device, file = old_card
    with file.open("r+b") as raw:
        raw.write(partition_table((0x07, 2048, 20480), (0x83, 22528, 8192)))
    result = run("flash", image, device)
    assert f"erased: {device.name}p1, 10.5 MB NTFS or exFAT" in result.out
    assert f"erased: {device.name}p2, 4.2 MB Linux" in result.out


@pytest.mark.parametrize(("typed", "written"), [("{name}", True), ("yes", False), ("", False)])
def test_on_a_terminal_the_name_must_be_typed(typed: str, written: bool, image: Path, tmp_path: Path) -> None:
    """The prompt takes the target's name and nothing else."""
    target = tmp_path / "sd.img"
    target.write_bytes(b"precious")
    master, slave = pty.openpty()
    process = subprocess.Popen([*CLI, "flash", image, target], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 4096):
            output += chunk
            if b"to write" in output and typed is not None:
                os.write(master, typed.format(name="sd.img").encode() + b"\n")
                typed = None  # type: ignore[assignment]
    except OSError:  # the end of a terminal
        pass
    os.close(master)
    assert process.wait() == 0, output.decode()
    assert first_difference(target.read_bytes(), image.read_bytes() if written else b"precious") is None


def test_existing_file_is_overwritten_only_by_force(image: Path, tmp_path: Path, run: Run) -> None:
    """--force and --confirm overwrite a file; one that is larger, as a card is, keeps its size only."""
    target = tmp_path / "sd.img"
    for size, options in ((SIZE - 5, ["--force"]), (SIZE + 4096, ["--confirm", "sd.img"])):
        target.write_bytes(bytes([7]) * size)
        assert "Nothing was written" in run("flash", image, target).out
        assert first_difference(target.read_bytes(), bytes([7]) * size) is None
        assert run("flash", image, target, *options).code == 0
        expected = image.read_bytes() + bytes(max(0, size - SIZE))
        assert first_difference(target.read_bytes(), expected) is None


# -- refused: real devices. The recorded machines are in test_blockdevices.py.


def _mounted_disk(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    device = stack.enter_context(loop(card(folder)))
    point = stack.enter_context(file_system(device, folder / "mnt"))
    return device, f"is mounted: {point}; unmount it first"


def _offset_mounted(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """A partition mounted through a second loop device, which O_EXCL on the first one does not notice."""
    device = stack.enter_context(loop(card(folder)))
    inner = stack.enter_context(loop(device, "--offset", str(4 * MIB)))
    point = stack.enter_context(file_system(inner, folder / "mnt"))
    os.close(os.open(device, os.O_RDWR | os.O_EXCL))
    return device, f"is mounted: {point} (through {inner.name}); unmount it first"


def _offset_shown(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    device = stack.enter_context(loop(card(folder)))
    inner = stack.enter_context(loop(device, "--offset", str(4 * MIB)))
    return device, f"is in use by another block device: {inner.name} ({device})"


def _loop_over_a_disk(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    device = stack.enter_context(loop(card(folder)))
    inner = stack.enter_context(loop(device))
    return inner, f"is a loop device over {device}; give that disk itself"


def _swapped(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    device = stack.enter_context(loop(card(folder)))
    subprocess.run(["mkswap", "-q", device], check=True, capture_output=True)
    if subprocess.run(["swapon", device], capture_output=True).returncode:
        pytest.skip("this kernel does not swap to loop devices")
    stack.callback(subprocess.run, ["swapoff", device], check=True)
    return device, f"is swapped to: {device}; sudo swapoff {device} first"


def _held_file(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """Mounted in a loop device with a file of the card as its content."""
    device = stack.enter_context(loop(card(folder)))
    (folder / "content").mkdir()
    (folder / "content" / "inner").write_bytes(bytes(MIB))
    point = stack.enter_context(file_system(device, folder / "mnt", folder / "content"))
    inner = stack.enter_context(loop(point / "inner"))
    return device, f"is in use by another block device: {inner.name} ({point / 'inner'})"


def _read_only(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return stack.enter_context(loop(card(folder), "-r")), "is read-only: move the lock"


def _small(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return stack.enter_context(
        loop(card(folder, 8 * MIB))
    ), f"is too large: the target has room for {8 * MIB} bytes"


def _large_sectors(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    device = stack.enter_context(loop(card(folder), "--sector-size", "4096"))
    return device, "has sectors of 4096 bytes"


def _no_medium(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    with loop(card(folder)) as device:
        pass
    return device, "has no medium: put a card in"


def _opened_for_writing(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    device = stack.enter_context(loop(card(folder)))
    other = stack.enter_context(
        subprocess.Popen(["sh", "-c", "read end"], stdin=subprocess.PIPE, stdout=os.open(device, os.O_RDWR))
    )
    stack.callback(other.kill)
    return device, f"is being written by sh (process {other.pid}); end that first"


def _claimed(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """Claimed by this very process, which the search for writers leaves out: O_EXCL finds it."""
    device = stack.enter_context(loop(card(folder)))
    stack.callback(os.close, os.open(device, os.O_RDONLY | os.O_EXCL))
    return device, "in use by a program or mount that cannot be seen from here"


def _system_disk(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    need_root()
    name = flash.Machine().name_of(flash.number_of(os.stat("/").st_dev))
    if not name:
        pytest.skip("/ is not on a block device here")
    disk = flash.Machine().disk(name).partition_of or name
    return Path("/dev") / disk, "is the disk this computer runs from: it holds /"


def _unknown_node(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    need_root()
    os.mknod(folder / "sdx", 0o60600, os.makedev(8, 250))
    return folder / "sdx", "the kernel knows no disk of this number"


def _character_device(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return Path("/dev/null"), "expected a whole disk or a regular file, got a character device"


def _folder(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return folder, "expected a whole disk or a regular file, got a folder"


def _pipe(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    os.mkfifo(folder / "pipe")
    return folder / "pipe", "expected a whole disk or a regular file, got a pipe"


def _typo(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return Path("/dev/sdq"), "there is no such device; nothing but devices belongs into /dev"


def _no_folder(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return folder / "no/sd.img", f"there is no folder {folder / 'no'}; make it first"


def _the_image(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    (folder / "link").symlink_to(folder / "disk.img")
    return folder / "link", "is the image itself"


def _shown_file(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    file = card(folder)
    device = stack.enter_context(loop(file))
    return file, f"is shown by {device.name}; sudo losetup -d {device} first"


def _second_loop(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """The kernel lets a second loop device over a mounted file be opened exclusively and written to."""
    device, _ = _mounted_disk(stack, folder)
    second = stack.enter_context(loop(folder / "card"))
    os.close(os.open(second, os.O_RDWR | os.O_EXCL))
    return second, f"is mounted: {folder / 'mnt'} (through {device.name}); unmount it first"


def _second_loop_of_a_partition(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """Not the whole file is mounted but a part of it, through a loop device with an offset."""
    file = card(folder)
    part = stack.enter_context(loop(file, "--offset", str(4 * MIB), "--sizelimit", str(16 * MIB)))
    point = stack.enter_context(file_system(part, folder / "mnt"))
    return stack.enter_context(loop(file)), f"is mounted: {point} (through {part.name}); unmount it first"


def _second_loop_below_the_device_mapper(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """A mapping of the first loop device is mounted."""
    device = stack.enter_context(loop(card(folder)))
    name = f"edge-centernet-test-{os.getpid()}"
    table = f"0 {32 * MIB // 512} linear {device} 0"
    if subprocess.run(["dmsetup", "create", name, "--table", table], capture_output=True).returncode:
        pytest.skip("no device mapper here")
    stack.callback(subprocess.run, ["dmsetup", "remove", "--retry", name], check=True)
    point = stack.enter_context(file_system(Path(f"/dev/mapper/{name}"), folder / "mnt"))
    return stack.enter_context(loop(folder / "card")), f"is mounted: {point} (through dm-"


def _second_loop_by_another_name(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """The file has two names, and the one under which it is mounted is gone."""
    _, reason = _second_loop(stack, folder)
    os.link(folder / "card", folder / "same")
    (folder / "card").unlink()
    return stack.enter_context(loop(folder / "same")), reason


def _second_loop_by_a_bind_mount(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """The same file at another place of the tree."""
    device, _ = _mounted_disk(stack, folder)
    (folder / "other").touch()
    subprocess.run(["mount", "--bind", folder / "card", folder / "other"], check=True)
    stack.callback(subprocess.run, ["umount", folder / "other"], check=True)
    second = stack.enter_context(loop(folder / "other"))
    return second, f"is mounted: {folder / 'mnt'} (through {device.name})"


def _second_loop_not_mounted(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """Whoever set up the other one has it for something."""
    device = stack.enter_context(loop(card(folder)))
    second = stack.enter_context(loop(folder / "card"))
    return second, f"is in use by another block device: {device.name} ({folder / 'card'})"


def _loop_over_a_disk_by_another_node(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """The node of the disk is not in /dev."""
    device = stack.enter_context(loop(card(folder)))
    os.mknod(folder / "node", 0o60600, device.stat().st_rdev)
    inner = stack.enter_context(loop(folder / "node"))
    return inner, f"is a loop device over {device}; give that disk itself"


def _loop_over_the_image(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    return stack.enter_context(loop(folder / "disk.img")), "shows the image itself"


def _writer(until: ExitStack, file: Path) -> int:
    """The id of a program that has the file open for writing. until: ends it."""
    output = until.enter_context(file.open("r+b"))
    process = subprocess.Popen(["sh", "-c", "read end"], stdin=subprocess.PIPE, stdout=output)
    until.callback(until.enter_context(process).kill)
    return process.pid


def _file_in_an_emulator(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """A loop device over a file that a program writes to."""
    file = card(folder)
    pid = _writer(stack, file)
    return stack.enter_context(loop(file)), f"is being written by sh (process {pid}); end that first"


def _written_file(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    """The same as a target itself, under another name."""
    file = card(folder)
    os.link(file, folder / "sd.img")
    pid = _writer(stack, file)
    return folder / "sd.img", f"is being written by sh (process {pid}); end that first"


def _full_file_system(stack: ExitStack, folder: Path) -> tuple[Path, str]:
    point = stack.enter_context(mounted("none", folder / "mnt", "-t", "tmpfs", "-o", "size=8m"))
    return point / "sd.img", f"is too large: the target has room for {8 * MIB} bytes"


REFUSED = [
    value for name, value in sorted(globals().items()) if getattr(value, "__annotations__", {}).get("stack")
]


@pytest.mark.parametrize("make", REFUSED, ids=[make.__name__.strip("_") for make in REFUSED])
def test_unsafe_target_is_refused(
    make: Callable[[ExitStack, Path], tuple[Path, str]], image: Path, tmp_path: Path, run: Run
) -> None:
    """Even when it is confirmed by name, the target is refused with one line and keeps its bytes."""
    with ExitStack() as stack:
        target, reason = make(stack, tmp_path)
        disk = target.is_block_device() and target.stat().st_rdev not in (
            0,
            os.stat("/").st_dev,
            os.makedev(8, 250),
        )
        before = target.read_bytes() if disk else b""
        result = run("flash", image, target, "--confirm", target.resolve().name)
        assert (result.code, result.out.count("wrote")) == (2, 0)
        line = result.err.splitlines()[-1]
        assert line.startswith("Error: ")
        assert reason in line
        assert first_difference(target.read_bytes() if disk else b"", before) is None


def test_at_least_fifteen_unsafe_targets_are_refused() -> None:
    """The promise of the documentation."""
    assert len(REFUSED) >= 15


def test_disk_changed_between_looking_and_writing_is_refused(image: Path, tmp_path: Path) -> None:
    """Another card in the reader than the one that was shown is not written to."""
    need_root()
    first, second = card(tmp_path), tmp_path / "other"
    second.write_bytes(b"other" * (32 * MIB // 5))
    checked = diskimage.check(image)
    with loop(first) as device:
        shown = flash.find_target(device)
        subprocess.run(["losetup", "-d", device], check=True)
        subprocess.run(["losetup", device, second], check=True)
        with pytest.raises(
            TargetError, match="is another disk or card than a moment ago; nothing was written"
        ):
            flash.write(checked, shown)
    assert second.read_bytes().startswith(b"otherother")


def test_mount_between_looking_and_writing_is_refused(image: Path, tmp_path: Path) -> None:
    """A desktop that mounts the card while its owner types the name is noticed."""
    with ExitStack() as stack:
        device = stack.enter_context(loop(card(tmp_path)))
        shown = flash.find_target(device)
        flash.refuse(shown, image)
        inner = stack.enter_context(loop(device, "--offset", str(4 * MIB)))
        stack.enter_context(file_system(inner, tmp_path / "mnt"))
        with pytest.raises(TargetError, match="is mounted"):
            flash.write(diskimage.check(image), shown)


# -- images that are not what they should be


def _truncated(image: Path) -> tuple[Path, str]:
    packed = pack(image, "xz")
    os.truncate(packed, packed.stat().st_size * 2 // 3)
    return packed, "is damaged or incomplete"


def _truncated_gz(image: Path) -> tuple[Path, str]:
    packed = pack(image, "gz")
    os.truncate(packed, packed.stat().st_size * 2 // 3)
    return packed, "is damaged or incomplete"


def _truncated_zst(image: Path) -> tuple[Path, str]:
    packed = pack(image, "zst")
    os.truncate(packed, packed.stat().st_size * 2 // 3)
    return packed, "is damaged or incomplete"


def _flipped_xz(image: Path) -> tuple[Path, str]:
    packed = pack(image, "xz")
    _flip(packed, packed.stat().st_size // 2)
    return packed, "is damaged or incomplete"


def _more_behind_xz(image: Path) -> tuple[Path, str]:
    packed = pack(image, "xz")
    packed.write_bytes(packed.read_bytes() + b"garbage!")
    return packed, "is damaged or incomplete (other bytes follow its end)"


def _more_behind_the_zeros_of_xz(image: Path) -> tuple[Path, str]:
    packed = pack(image, "xz")
    packed.write_bytes(packed.read_bytes() + bytes(200_000) + b"garbage!")
    return packed, "is damaged or incomplete (other bytes follow its end)"


def _odd_zeros_behind_xz(image: Path) -> tuple[Path, str]:
    packed = pack(image, "xz")
    packed.write_bytes(packed.read_bytes() + bytes(70_001))
    return packed, "is damaged or incomplete (other bytes follow its end)"


def _second_stream_of_xz_cut(image: Path) -> tuple[Path, str]:
    packed = pack(image, "xz")
    packed.write_bytes(packed.read_bytes() * 2)
    os.truncate(packed, packed.stat().st_size * 2 // 3)
    return packed, "is damaged or incomplete"


def _more_behind_gz(image: Path) -> tuple[Path, str]:
    packed = pack(image, "gz")
    packed.write_bytes(packed.read_bytes() + b"garbage!")
    return packed, "is damaged or incomplete"


def _more_behind_zst(image: Path) -> tuple[Path, str]:
    packed = pack(image, "zst")
    packed.write_bytes(packed.read_bytes() + b"garbage!")
    return packed, "is damaged or incomplete"


def _memory_hog(image: Path) -> tuple[Path, str]:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1}]
    packed = bytearray(lzma.compress(image.read_bytes()[:MIB], filters=filters))
    # In the block's header, the size of the dictionary: 4 GiB, and the checksum with it.
    packed[16] = 40
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    path = image.with_name("disk.img.xz")
    path.write_bytes(packed)
    return path, "needs more than 512 MiB of memory to unpack"


def _truncated_img(image: Path) -> tuple[Path, str]:
    os.truncate(image, 20 * MIB)
    return image, f"is incomplete: its partitions end at byte {24 * MIB}, it holds {20 * MIB}"


def _odd_size(image: Path) -> tuple[Path, str]:
    os.truncate(image, SIZE + 100)
    return image, f"expected whole sectors of 512 bytes, got {SIZE + 100} bytes"


def _text(image: Path) -> tuple[Path, str]:
    image.write_text("not an image\n" * 100)
    return image, "is not the image of a disk: expected a partition table"


def _file_system(image: Path) -> tuple[Path, str]:
    os.truncate(image, 0)
    os.truncate(image, 8 * MIB)
    subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
    return image, "is not the image of a disk: expected partitions, but its partition table is empty"


def _web_page(image: Path) -> tuple[Path, str]:
    image.write_text("<!DOCTYPE html><html>404</html>")
    return image, "is a web page, not a disk image"


def _zip(image: Path) -> tuple[Path, str]:
    path = image.with_suffix(".zip")
    subprocess.run([sys.executable, "-m", "zipfile", "-c", path, image], check=True)
    return path, "is a .zip file; unpack it"


def _misnamed(image: Path) -> tuple[Path, str]:
    return image.rename(image.with_name("disk.img.xz")), "is named .xz but is not packed so"


def _missing(image: Path) -> tuple[Path, str]:
    return image.with_name("nothing.img"), "found no such file"


def _map_of_another(image: Path) -> tuple[Path, str]:
    other = disk_image(image.with_name("other.img"), seed=1)
    bmaptool_map(other, image.with_name("disk.img.bmap"))
    return image, "it is the block map of another image, or the image is damaged"


def _map_of_another_size(image: Path) -> tuple[Path, str]:
    other = disk_image(image.with_name("other.img"))
    os.truncate(other, SIZE + MIB)
    bmaptool_map(other, image.with_name("disk.img.bmap"))
    return image, f"is the block map of another image: it says {SIZE + MIB} bytes, disk.img holds {SIZE}"


def _edited_map(image: Path) -> tuple[Path, str]:
    path = bmaptool_map(image, image.with_name("disk.img.bmap"))
    path.write_text(path.read_text().replace("<BlocksCount> ", "<BlocksCount> 1"))
    return image, "its own checksum does not match"


def _map(image: Path, free: list[tuple[int, int]], left_out: int) -> None:
    """Our map of the image without one of its ranges, its own checksum right."""
    whole = bmap.of_image(image, free)
    ranges = tuple(part for i, part in enumerate(whole.ranges) if i != left_out)
    image.with_name("disk.img.bmap").write_text(bmap.to_xml(bmap.Bmap(whole.image_size, ranges)))


def _empty_map(image: Path) -> tuple[Path, str]:
    _map(image, [], 0)
    return image, "it has no ranges, so that nothing would be written"


def _map_without_the_partition_table(image: Path) -> tuple[Path, str]:
    _map(image, [(MIB, 4 * MIB)], 0)
    return image, "leaves out byte 450 of the image, which is not zero"


def _map_without_its_end(image: Path) -> tuple[Path, str]:
    _map(image, [(MIB, 4 * MIB), (21 * MIB, 23 * MIB)], 2)
    return image, f"leaves out byte {24 * MIB - 4096} of the image, which is not zero"


def _map_that_promises_more(image: Path) -> tuple[Path, str]:
    path = image.with_name("disk.img.bmap")
    text = bmap.to_xml(bmap.of_image(image, []))
    old = re.search("[0-9a-f]{64}", text.partition("BmapFileChecksum")[2]).group()  # type: ignore[union-attr]
    text = text.replace("<MappedBlocksCount> ", "<MappedBlocksCount> 1").replace(old, "0" * 64, 1)
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1))
    return image, "blocks and lists"


def _flipped_img_with_map(image: Path) -> tuple[Path, str]:
    bmaptool_map(image, image.with_name("disk.img.bmap"))
    _flip(image, 9 * MIB)
    return image, "or the image is damaged"


def _wrong_sum(image: Path) -> tuple[Path, str]:
    image.with_name("disk.img.sha256").write_text(f"{'0' * 64}  disk.img\n")
    return image, f"disk.img.sha256 says {'0' * 64}: damaged, or another image"


DAMAGED = [
    value
    for name, value in sorted(globals().items())
    if "image" in getattr(value, "__annotations__", {})
    and getattr(value, "__annotations__", {}).get("return") == "tuple[Path, str]"
]


def _flip(path: Path, at: int) -> None:
    """Another byte at this place, as a bad card or download has it."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


@pytest.mark.parametrize("make", DAMAGED, ids=[make.__name__.strip("_") for make in DAMAGED])
def test_damaged_image_costs_nothing(
    make: Callable[[Path], tuple[Path, str]], image: Path, old_card: tuple[Path, Path], run: Run
) -> None:
    """What is wrong with an image is found before a byte of the card is touched."""
    device, file = old_card
    before = file.read_bytes()
    damaged, reason = make(image)
    result = run("flash", damaged, device, "--confirm", device.name)
    assert result.code == 2
    assert reason in result.err.splitlines()[-1]
    assert first_difference(file.read_bytes(), before) is None


def test_checksums_that_fit_are_accepted(image: Path, tmp_path: Path, run: Run) -> None:
    """A sum may be that of the packed file or of its content; IMAGE.sha256 is read beside it."""
    packed = pack(image, "xz")
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (image, packed)]
    packed.with_name("disk.img.xz.sha256").write_text(f"{sums[1]} *disk.img.xz\n")
    for digest in sums:
        assert (
            run("flash", packed, tmp_path / "sd.img", "--force", "--expect-sha256", digest.upper()).code == 0
        )
    wrong = run("flash", packed, tmp_path / "sd.img", "--force", "--expect-sha256", "1" * 64)
    assert (wrong.code, f"--expect-sha256 says {'1' * 64}" in wrong.err) == (2, True)


def test_several_streams_and_zeros_behind_them_are_one_image(image: Path, tmp_path: Path, run: Run) -> None:
    """As xz and gzip unpack what was packed in parts."""
    content = image.read_bytes()
    packer: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda part: lzma.compress(part, preset=0) + bytes(70_000),
        "gz": lambda part: gzip.compress(part, 1),
    }
    for suffix, compress in packer.items():
        packed = tmp_path / f"parts.img.{suffix}"
        packed.write_bytes(b"".join(compress(part) for part in (content[: 5 * MIB], content[5 * MIB :])))
        assert run("flash", packed, tmp_path / f"{suffix}.img").code == 0
        assert first_difference((tmp_path / f"{suffix}.img").read_bytes(), content) is None


@pytest.mark.parametrize(
    ("image_mode", "before", "after"),
    [
        (0o600, None, 0o600),
        (0o640, None, 0o640),
        (0o644, None, 0o644),
        (0o600, 0o666, 0o600),
        (0o444, 0o664, 0o644),
        (0o666, 0o600, 0o600),
    ],
)
def test_who_may_not_read_the_image_may_not_read_its_copy(
    image_mode: int, before: int | None, after: int, image: Path, tmp_path: Path, run: Run
) -> None:
    """Passwords may be in it; a file that was there gets no more readers either."""
    target = tmp_path / "sd.img"
    image.chmod(image_mode)
    if before is not None:
        target.touch()
        target.chmod(before)
    assert run("flash", image, target, "--force").code == 0
    assert target.stat().st_mode & 0o777 == after


# -- reading back


def test_flipped_byte_is_found(image: Path, old_card: tuple[Path, Path], run: Run) -> None:
    """One wrong byte behind the kernel's back, in the file of the loop device, is named by its place."""
    device, file = old_card
    assert run("flash", image, device, "--confirm", device.name).code == 0
    same = run("flash", "--verify-only", image, device)
    assert (same.code, same.out) == (0, f"{device}: equals {image} in all {SIZE} bytes compared\n")
    device.read_bytes()  # the kernel now remembers all of it
    for place in (5, 9 * MIB + 123, SIZE - 1):
        _flip(file, place)
        found = run("flash", "--verify-only", image, device)
        assert (found.code, found.err.splitlines()[-1]) == (
            2,
            f"Error: {device}: differs from {image} first at byte {place}",
        )
        _flip(file, place)
    assert run("flash", "--verify-only", image, device).code == 0


def test_short_target_differs_at_its_end(image: Path, tmp_path: Path, run: Run) -> None:
    """A file that was cut is compared up to its end."""
    cut = Path(shutil.copy(image, tmp_path / "cut.img"))
    os.truncate(cut, 5 * MIB)
    result = run("flash", "--verify-only", image, cut)
    assert result.err.splitlines()[-1] == f"Error: {cut}: differs from {image} first at byte {5 * MIB}"


def _progress_flipping(file: Path, place: int) -> Callable[[str, int, int], None]:
    """A progress display that damages the card when all is written and nothing has been read back."""

    def progress(title: str, done: int, total: int) -> None:
        if title == "Writing" and done == total:
            os.sync()
            _flip(file, place)

    return progress


def test_card_that_gives_back_other_bytes_is_left_unbootable(
    image: Path, old_card: tuple[Path, Path]
) -> None:
    """A byte that changes between writing and reading back is an error; the first MiB stays zero."""
    device, file = old_card
    with pytest.raises(TargetError, match=r"gave back other bytes.*will not boot"):
        flash.write(
            diskimage.check(image), flash.find_target(device), progress=_progress_flipping(file, 10 * MIB)
        )
    content = file.read_bytes()
    assert first_difference(content[:MIB], bytes(MIB)) is None
    assert first_difference(content[11 * MIB : SIZE], image.read_bytes()[11 * MIB :]) is None


def test_image_changed_while_it_is_written_is_noticed(image: Path, old_card: tuple[Path, Path]) -> None:
    """The image must be to the end what was checked at the beginning."""
    device, file = old_card
    checked = diskimage.check(image)
    _flip(image, 9 * MIB)
    with pytest.raises(
        diskimage.DiskImageError, match=r"was changed while it was being written.*will not boot"
    ):
        flash.write(checked, flash.find_target(device))
    assert first_difference(file.read_bytes()[:MIB], bytes(MIB)) is None


# -- interrupted


def test_ctrl_c_leaves_a_card_that_does_not_boot(
    image: Path, old_card: tuple[Path, Path], tmp_path: Path
) -> None:
    """One line, exit code 130, the first MiB zero."""
    device, file = old_card
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\nfrom edge_centernet.sdcard import flash\nfrom edge_centernet.cli import main\n"
        "flush = flash._Medium.flush\n"
        "def slower(self):\n    flush(self)\n    print('flushed', flush=True)\n    time.sleep(2)\n"
        "flash._Medium.flush = slower\nmain()\n"
    )
    process = subprocess.Popen(
        [sys.executable, slow, "flash", image, device, "--confirm", device.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=allow_interrupts,
    )
    assert process.stdout is not None
    while "flushed" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (
        130,
        f"Error: {device}: interrupted: its first MiB is empty, it will not boot; flash it again",
    )
    assert first_difference(file.read_bytes()[:MIB], bytes(MIB)) is None


def test_kill_leaves_a_card_that_does_not_boot(image: Path, old_card: tuple[Path, Path]) -> None:
    """Killed, as by a power cut, once the first block of the image has arrived: no partition table exists."""
    device, file = old_card
    process = subprocess.Popen(
        [*CLI, "flash", image, device, "--confirm", device.name], stderr=subprocess.DEVNULL
    )
    wanted = image.read_bytes()[4 * MIB : 4 * MIB + 4096]
    deadline = time.monotonic() + 120
    while file.read_bytes()[4 * MIB : 4 * MIB + 4096] != wanted and process.poll() is None:
        assert time.monotonic() < deadline
    process.kill()
    content = image.read_bytes()
    if process.wait() == 0 or file.read_bytes()[: len(content)] == content:
        pytest.skip("written before it could be killed")
    assert file.read_bytes()[:512] == bytes(512)


def test_write_error_leaves_a_card_that_does_not_boot(image: Path, tmp_path: Path, run: Run) -> None:
    """The medium fails in the middle: a loop device over a file that cannot grow gives EIO or ENOSPC."""
    with ExitStack() as stack:
        small = stack.enter_context(mounted("none", tmp_path / "mnt", "-t", "tmpfs", "-o", "size=12m"))
        with (small / "card").open("wb") as file:
            file.truncate(32 * MIB)
        device = stack.enter_context(loop(small / "card"))
        (tmp_path / "noise.img").write_bytes(_noisy())
        result = run("flash", tmp_path / "noise.img", device, "--confirm", device.name)
        assert result.code == 2
        assert f"Error: {device}: writing to it failed (" in result.err
        assert result.err.endswith("): its first MiB is empty, it will not boot; flash it again\n")
        assert first_difference((small / "card").read_bytes()[:MIB], bytes(MIB)) is None


def test_full_file_system_leaves_a_file_that_does_not_boot(tmp_path: Path) -> None:
    """Room that is gone by the time it is needed: one line, first MiB zero."""
    with mounted("none", tmp_path / "mnt", "-t", "tmpfs", "-o", "size=40m") as small:
        (tmp_path / "noise.img").write_bytes(_noisy())
        checked = diskimage.check(tmp_path / "noise.img")

        def fill(title: str, done: int, total: int) -> None:
            if not (small / "other").exists():
                (small / "other").write_bytes(bytes(24 * MIB))

        with pytest.raises(
            TargetError, match=r"writing to it failed \(No space left on device\).*will not boot"
        ):
            flash.write(checked, flash.find_target(small / "sd.img"), progress=fill)
        assert first_difference((small / "sd.img").read_bytes()[:MIB], bytes(MIB)) is None


def _noisy() -> bytes:
    """A disk image without holes."""
    return partition_table((0x83, 2048, 2048 * 23)) + os.urandom(SIZE - 512)
