"""Write a disk image to a memory card or a file, read all of it back, and leave nothing that boots if that fails.

The order: the image is read through and compared with its checksums; the target is opened for this program
alone and looked at again; its first MiB is zeroed, so that no old partition table survives; everything but
the first MiB is written, flushed, and read back from the medium; only then the first MiB is written, flushed,
and read back.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_centernet.errors import DiskImageError, TargetError
from edge_centernet.progress import Progress, unseen
from edge_centernet.sdcard import diskimage
from edge_centernet.sdcard.blockdevices import Disk, Machine, loops_over, number_of, swap_files
from edge_centernet.sdcard.diskimage import CHUNK, DiskImage
from edge_centernet.sdcard.partitions import HEAD, Partition, read_table
from edge_centernet.sdcard.refusals import refusals

FIRST = 1 << 20  # bytes written last; the partition table is in them, and on a Pi nothing boots without it
_SYNC = 32 << 20  # bytes between two flushes: less is slower, more lets the progress run ahead of the card
_BLKFLSBUF, _BLKRRPART, _BLKGETSIZE64 = 0x1261, 0x125F, 0x80081272  # ioctls of <linux/fs.h>


class Block(NamedTuple):
    """Bytes that were written: where, how many, and their SHA-256."""

    start: int
    size: int
    digest: bytes


@dataclass(frozen=True)
class Target:
    """Where to write: a whole disk (`disk` is set) or a regular file. path: as given; real: without symbolic links."""

    path: Path
    real: Path
    disk: Disk | None

    @property
    def name(self) -> str:
        """What its owner types to confirm."""
        return self.disk.name if self.disk else self.real.name

    @property
    def room(self) -> int:
        """Bytes that fit: the disk's size, or what is free beside and below the file."""
        if self.disk:
            return self.disk.size
        space = os.statvfs(self.real.parent)
        taken = self.real.stat().st_blocks * 512 if self.real.exists() else 0
        return space.f_bavail * space.f_frsize + taken

    @property
    def overwrites(self) -> bool:
        """Whether something is lost by writing."""
        return self.disk is not None or self.real.exists()


def find_target(path: Path, reading: bool = False) -> Target:
    """What `path` is. Raises TargetError for what is neither a whole disk nor a regular file, or not there.

    reading: it is only to be compared, so it must exist.
    """
    real = path.resolve()
    if reading and not real.exists():
        raise TargetError(f"{path}: expected a disk or file to read, found nothing there")
    if not real.exists():
        if real.is_relative_to("/dev"):
            raise TargetError(
                f"{path}: there is no such device; nothing but devices belongs into /dev (see lsblk)"
            )
        if not real.parent.is_dir():
            raise TargetError(f"{path}: there is no folder {real.parent}; make it first")
        return Target(path, real, None)
    mode = real.stat().st_mode
    if stat.S_ISBLK(mode):
        machine = Machine()
        name = machine.name_of(number_of(real.stat().st_rdev))
        if not name:
            raise TargetError(
                f"{path}: the kernel knows no disk of this number; see lsblk for those that are there"
            )
        return Target(path, real, machine.disk(name))
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISCHR, "a character device"), (stat.S_ISFIFO, "a pipe"))
        what = next((text for is_kind, text in kinds if is_kind(mode)), "a socket")
        raise TargetError(f"{path}: expected a whole disk or a regular file, got {what}")
    return Target(path, real, None)


def refuse(target: Target, image: Path, need: int | None = None, force_non_removable: bool = False) -> None:
    """Raise TargetError, with all reasons, unless `target` may be written to. need: bytes, where they are known."""
    if image.exists() and target.real.exists() and image.samefile(target.real):
        raise TargetError(f"{target.path}: is the image itself")
    disk = target.disk
    reasons = refusals(disk, need, force_non_removable) if disk else _file_refusals(target, need)
    if reasons:
        raise TargetError(f"{target.path}: {'; it '.join(reasons)}")


def _file_refusals(target: Target, need: int | None) -> list[str]:
    reasons = []
    if target.real.is_relative_to("/dev") and not target.real.is_relative_to("/dev/shm"):
        reasons.append("is a regular file in /dev, left there by mistake; remove it")
    if any(target.real.is_relative_to(folder) for folder in ("/proc", "/sys")):
        reasons.append("is not a file but a switch of the kernel")
    if target.real.exists() and (loops := loops_over(target.real)):
        reasons.append(f"is shown by {', '.join(loops)}; sudo losetup -d /dev/{loops[0]} first")
    if str(target.real) in swap_files():
        reasons.append(f"is swapped to; sudo swapoff {target.real} first")
    if need is not None and target.room < need:
        reasons.append(f"is on a file system with {target.room} bytes free, the image needs {need}")
    return reasons


def partitions_on(target: Target) -> tuple[Partition, ...]:
    """The partition table that is on the target now; none where it cannot be read. Shown before it is erased."""
    try:
        with target.real.open("rb") as file:
            return read_table(file.read(HEAD))
    except (OSError, DiskImageError):
        return ()


def write(
    image: DiskImage, target: Target, force_non_removable: bool = False, progress: Progress = unseen
) -> list[Block]:
    """Write `image` to `target` and read it back. progress: bytes done.

    Returns what was written. Raises TargetError or DiskImageError; then, and on Ctrl-C, the first MiB of the
    target is zero and it does not look like a system that boots.
    """
    with _open_for_writing(target) as descriptor:
        _look_again(target, descriptor, image, force_non_removable)
        medium = _Medium(target, descriptor)
        try:
            medium.blank(image.size)
            first, blocks = _write_rest(medium, image, progress)
            medium.compare(blocks, progress)
            start = _write_first(medium, first)
        except KeyboardInterrupt:
            raise Interrupted(f"{target.path}: interrupted: {medium.state}") from None
        except DiskImageError as error:
            raise DiskImageError(f"{error}; {target.path}: {medium.state}") from error
        medium.reread_table()
    return start + blocks


class Interrupted(TargetError):
    """Ctrl-C while writing: says in which state the target is; the exit code is that of an interruption."""

    exit_code = 130


def verify(image: DiskImage, target: Target, progress: Progress = unseen) -> int:
    """Compare `target` with `image`, byte by byte, and write nothing. Returns the bytes compared.

    Raises TargetError with the place of the first difference.
    """
    descriptor = os.open(target.real, os.O_RDONLY | os.O_CLOEXEC)
    try:
        medium = _Medium(target, descriptor)
        medium.forget()
        done = 0
        for start, data in _pieces(image):
            found = medium.get(start, len(data))
            if found != data:
                place = next(
                    (i for i, pair in enumerate(zip(data, found, strict=False)) if pair[0] != pair[1]),
                    len(found),
                )
                raise TargetError(f"{target.path}: differs from {image.path} first at byte {start + place}")
            done += len(data)
            progress("Comparing", done, image.to_write)
        return done
    finally:
        os.close(descriptor)


def _pieces(image: DiskImage) -> Iterator[tuple[int, bytes]]:
    """(start, bytes) of all that must be on the target, CHUNK at most. The image must still be what was checked."""
    whole, position = hashlib.sha256(), 0
    with diskimage.opened(image.path) as (stream, _):
        for chunk in diskimage.chunks(stream):
            whole.update(chunk)
            wanted = image.bmap.pieces(position, len(chunk)) if image.bmap else [(position, len(chunk))]
            for start, size in wanted:
                yield start, chunk[start - position : start - position + size]
            position += len(chunk)
    if whole.hexdigest() != image.sha256:
        raise DiskImageError(f"{image.path}: was changed while it was being written; start again")


def _write_rest(
    medium: _Medium, image: DiskImage, progress: Progress
) -> tuple[list[tuple[int, bytes]], list[Block]]:
    """Write all but the first MiB. Returns that, and what was written."""
    first: list[tuple[int, bytes]] = []
    blocks = []
    done = unflushed = 0
    for start, data in _pieces(image):
        head = max(0, min(len(data), FIRST - start))
        if head:
            first.append((start, data[:head]))
        if rest := data[head:]:
            blocks.append(Block(start + head, len(rest), medium.put(start + head, rest)))
        done += len(data)
        unflushed += len(data)
        if unflushed >= _SYNC:
            medium.flush()
            unflushed = 0
        progress("Writing", done, image.to_write)
    medium.flush()
    return first, blocks


def _write_first(medium: _Medium, first: list[tuple[int, bytes]]) -> list[Block]:
    """Write the first MiB and read it back; zero it again if that does not work out."""
    try:
        blocks = [Block(at, len(data), medium.put(at, data)) for at, data in first]
        medium.flush()
        medium.compare(blocks)
    except BaseException:
        medium.blank_start()
        raise
    return blocks


@contextmanager
def _open_for_writing(target: Target) -> Iterator[int]:
    """A descriptor that stays open to the end. A disk is opened for this program alone, a file that is new is made."""
    flags = os.O_RDWR | os.O_CLOEXEC
    if target.disk:
        flags |= (
            os.O_EXCL
        )  # without O_CREAT: fails while the disk, or a partition of it, is mounted or claimed
    elif not target.real.exists():
        flags |= os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(target.real, flags, 0o666)
    except OSError as error:
        advice = {
            errno.EBUSY: "in use by a program or mount that cannot be seen from here; release it first",
            errno.EACCES: "no permission to write to it; run the same command with sudo",
            errno.EPERM: "no permission to write to it; run the same command with sudo",
            errno.EROFS: "is read-only",
            errno.ENOMEDIUM: "has no medium: put a card in",
        }
        raise TargetError(f"{target.path}: {advice.get(error.errno or 0, error.strerror)}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _look_again(target: Target, descriptor: int, image: DiskImage, force_non_removable: bool) -> None:
    """What was opened must still be what was confirmed, and free. Raises TargetError; nothing has been written yet."""
    status = os.fstat(descriptor)
    if target.disk is None:
        if not stat.S_ISREG(status.st_mode):
            raise TargetError(f"{target.path}: is another file than a moment ago; start again")
        refuse(target, image.path, image.size)
        return
    now = find_target(target.real)
    size = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
    same = now.disk is not None and now.disk.identity == target.disk.identity
    if not same or number_of(status.st_rdev) != target.disk.number or size != target.disk.size:
        raise TargetError(
            f"{target.path}: is another disk or card than a moment ago; nothing was written, start again"
        )
    refuse(now, image.path, image.size, force_non_removable)


class _Medium:
    """An open target: written through the cache, read past it. Every failure says in which state the target is."""

    def __init__(self, target: Target, descriptor: int) -> None:
        self._target, self._descriptor = target, descriptor
        self._buffer = mmap.mmap(-1, CHUNK)  # page-aligned, as O_DIRECT wants it
        self._whole = True  # no longer once writing has begun

    def blank(self, image_size: int) -> None:
        """Zero the first MiB, and the last one of a disk: the copy of an old GPT would be there."""
        self._whole = False
        with self._failures("writing to it failed"):
            if self._target.disk is None:
                size = max(
                    image_size, os.fstat(self._descriptor).st_size
                )  # a larger file stands for a card: it stays so
                os.ftruncate(self._descriptor, 0)
                os.ftruncate(self._descriptor, size)
        self.blank_start()
        if self._target.disk and self._target.disk.size - FIRST >= image_size:
            self.put(self._target.disk.size - FIRST, bytes(FIRST))
        self.flush()

    def blank_start(self) -> None:
        """Zero the first MiB, on the medium."""
        size = self._target.disk.size if self._target.disk else os.fstat(self._descriptor).st_size
        self.put(0, bytes(min(FIRST, size)))
        self.flush()

    def put(self, start: int, data: bytes) -> bytes:
        """Write; returns the SHA-256. Zeros are not written to a file, which was made of them."""
        if self._target.disk or data.strip(b"\0"):
            view, position = memoryview(data), start
            with self._failures("writing to it failed"):
                while view:
                    written = os.pwrite(self._descriptor, view, position)
                    view, position = view[written:], position + written
        return hashlib.sha256(data).digest()

    def flush(self) -> None:
        """Until it is on the medium. A card tells here, and only here, that it could not write."""
        with self._failures("writing to it failed"):
            os.fsync(self._descriptor)

    def compare(self, blocks: list[Block], progress: Progress = unseen) -> None:
        """Read the blocks from the medium, not from memory, and compare. Raises TargetError."""
        self.forget()
        done, total = 0, sum(block.size for block in blocks)
        for block in blocks:
            if hashlib.sha256(self.get(block.start, block.size)).digest() != block.digest:
                raise TargetError(
                    f"{self._target.path}: gave back other bytes than were written, between {block.start} and "
                    f"{block.start + block.size}: a bad card or reader; {self.state}"
                )
            done += block.size
            progress("Reading back", done, total)

    def forget(self) -> None:
        """Drop what the kernel remembers of it."""
        if self._target.disk:
            with suppress(
                PermissionError
            ):  # needs root, which who only compares may not be; there is O_DIRECT as well
                fcntl.ioctl(self._descriptor, _BLKFLSBUF, 0)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def get(self, start: int, size: int) -> memoryview:
        """Read from the medium, past the page cache where the file system can do that."""
        view, done = memoryview(self._buffer)[:size], 0
        with self._failures("reading it back failed"), self._direct():
            while done < size:
                count = self._read(view[done:], start + done)
                if not count:
                    break
                done += count
        return view[:done]

    def _read(self, view: memoryview, start: int) -> int:
        try:
            return os.preadv(self._descriptor, [view], start)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: not aligned as this file system wants it for O_DIRECT
                raise
        fcntl.fcntl(
            self._descriptor, fcntl.F_SETFL, fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
        )
        return os.preadv(self._descriptor, [view], start)

    @contextmanager
    def _direct(self) -> Iterator[None]:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        with suppress(
            OSError
        ):  # tmpfs and others cannot; their page cache is all there is, or has just been dropped
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        try:
            yield
        finally:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)

    def reread_table(self) -> None:
        """Let the kernel see the new partitions. Not all disks have any; then there is nothing to do."""
        if self._target.disk:
            with suppress(OSError):
                fcntl.ioctl(self._descriptor, _BLKRRPART, 0)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetError(f"{self._target.path}: {what} ({error.strerror}): {self.state}") from error

    @property
    def state(self) -> str:
        """What the target is good for after a failure."""
        return (
            "nothing was changed"
            if self._whole
            else "its first MiB is empty, it will not boot; flash it again"
        )
