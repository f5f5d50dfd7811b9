"""Write a disk image to a memory card or a file and read it back; after a failure nothing on it boots.

The steps, in this order (docs/flash.md):

    1. refuse      a target that must not be written to, before the owner is asked
    2. check       the whole image against its checksums (diskimage.py), before anything is erased
    3. open        the target exclusively, and check that it is still the one that was confirmed
    4. zero        its first MiB, so that from now on an interruption leaves no partition table that boots
    5. write       everything but the first MiB
    6. read back   from the medium, not from the cache: cheap cards report success and lose data
    7. first MiB   written last and read back; only now, with all the rest verified, does the card boot
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
from edge_centernet.sdcard.blockdevices import (
    Disk,
    FileId,
    Machine,
    number_of,
    refusals,
    swap_files,
)
from edge_centernet.sdcard.diskimage import CHUNK, HEAD, DiskImage, Partition, read_table

FIRST = 1 << 20  # bytes written last; they hold the partition table, without which a Pi boots nothing
_SYNC = 32 << 20  # bytes between two flushes: fewer are slower, more let the progress run ahead of the card
_BLKFLSBUF, _BLKRRPART, _BLKGETSIZE64 = 0x1261, 0x125F, 0x80081272  # ioctls of <linux/fs.h>


class Block(NamedTuple):
    """Bytes that were written. start, size: in bytes; digest: their SHA-256."""

    start: int
    size: int
    digest: bytes


@dataclass(frozen=True)
class Target:
    """Where to write: a whole disk (`disk` is set) or a regular file.

    path: as given. real: without symbolic links.
    """

    path: Path
    real: Path
    disk: Disk | None

    @property
    def name(self) -> str:
        """What the owner types to confirm."""
        return self.disk.name if self.disk else self.real.name

    @property
    def room(self) -> int:
        """Bytes that fit: the size of the disk, or the free space and that of the file which is replaced."""
        if self.disk:
            return self.disk.size
        space = os.statvfs(self.real.parent)
        taken = self.real.stat().st_blocks * 512 if self.real.exists() else 0
        return space.f_bavail * space.f_frsize + taken

    @property
    def overwrites(self) -> bool:
        """Whether writing destroys something."""
        return self.disk is not None or self.real.exists()


def find_target(path: Path, reading: bool = False) -> Target:
    """What `path` is.

    reading: it is only compared, so it must exist. Raises TargetError for what is neither a whole disk nor a
    regular file, and for a device that does not exist.
    """
    real = path.resolve()
    if reading and not real.exists():
        raise TargetError(f"{path}: expected a disk or file to read, found nothing there")
    if not real.exists():
        # As root, a typing error would make a regular file in /dev and fill the memory with it.
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
    """Step 1: raise TargetError, with all reasons, unless `target` may be written to.

    need: bytes of the image, None while unknown.
    """
    machine = Machine()
    if image.exists() and target.real.exists():
        if image.samefile(target.real):
            raise TargetError(f"{target.path}: is the image itself")
        if target.disk and target.disk.name in machine.loops_over(image.resolve()):
            raise TargetError(f"{target.path}: shows the image itself")
    reasons = []
    if target.disk:
        reasons = refusals(target.disk, need, force_non_removable)
    else:
        if target.real.is_relative_to("/dev") and not target.real.is_relative_to("/dev/shm"):
            reasons.append("is a regular file in /dev, left there by mistake; remove it")
        if any(target.real.is_relative_to(folder) for folder in ("/proc", "/sys")):
            reasons.append("is not a file but a switch of the kernel")
        if target.real.exists():
            if loops := machine.loops_over(target.real):
                reasons.append(f"is shown by {', '.join(loops)}; sudo losetup -d /dev/{loops[0]} first")
            if any(Path(swap).exists() and target.real.samefile(swap) for swap in swap_files()):
                reasons.append(f"is swapped to; sudo swapoff {target.real} first")
            status = target.real.stat()
            programs = list(machine.writers((), FileId(number_of(status.st_dev), status.st_ino)))
            if programs:
                reasons.append(f"is being written by {', '.join(programs[:4])}; end that first")
        if need is not None and target.room < need:
            reasons.append(f"is on a file system with {target.room} bytes free, the image needs {need}")
    if reasons:
        raise TargetError(f"{target.path}: {'; it '.join(reasons)}")


def partitions_on(target: Target) -> tuple[Partition, ...]:
    """The partitions that are on the target now, to be shown before they are erased; none if unreadable."""
    try:
        with target.real.open("rb") as file:
            return read_table(file.read(HEAD))
    except (OSError, DiskImageError):
        return ()


def write(
    image: DiskImage, target: Target, force_non_removable: bool = False, progress: Progress = unseen
) -> list[Block]:
    """Steps 3 to 7: write `image` to `target` and read it back; returns what was written.

    progress: in bytes. Raises TargetError or DiskImageError; then, and after Ctrl-C, the first MiB of the
    target is zero, so that nothing takes it for a system that boots.
    """
    # 3. Open
    with _opened_for_writing(image, target, force_non_removable) as descriptor:
        medium = _Medium(target, descriptor)
        try:
            # 4. Zero, flushed before anything else is written
            medium.blank(image.size)
            # 5. Write
            first, blocks = _write_rest(medium, image, progress)
            # 6. Read back
            medium.compare(blocks, progress)
            # 7. The first MiB; zeroed again if it cannot be verified
            try:
                start = [Block(at, len(data), medium.put(at, data)) for at, data in first]
                medium.flush()
                medium.compare(start)
            except BaseException:
                medium.blank_start()
                raise
        except KeyboardInterrupt:
            raise Interrupted(f"{target.path}: interrupted: {medium.state}") from None
        except DiskImageError as error:
            raise DiskImageError(f"{error}; {target.path}: {medium.state}") from error
        medium.reread_table()
    return start + blocks


class Interrupted(TargetError):
    """Ctrl-C while writing. The message says in which state the target is."""

    exit_code = 130  # as a shell reports the end by SIGINT


def verify(image: DiskImage, target: Target, progress: Progress = unseen) -> int:
    """Compare `target` with `image` without writing anything; returns the number of bytes compared.

    Raises TargetError with the place of the first byte that differs.
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
    """(start, bytes) of all that must be on the target, in pieces of CHUNK bytes at most.

    Raises DiskImageError at the end if the image is not what was checked any more.
    """
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
    """Write all but the first MiB; returns the bytes of the first MiB, and what was written."""
    first: list[tuple[int, bytes]] = []
    blocks = []
    done = unflushed = 0
    for start, data in _pieces(image):
        head = max(0, min(len(data), FIRST - start))  # bytes of this piece that belong to the first MiB
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


@contextmanager
def _opened_for_writing(image: DiskImage, target: Target, force_non_removable: bool) -> Iterator[int]:
    """A descriptor that stays open to the end, of a disk opened exclusively or of a file, made if needed.

    Raises TargetError if that fails, and unless what was opened is what was confirmed and still not in use:
    minutes may have passed, in which somebody changed the card or a desktop mounted it.
    """
    flags = os.O_RDWR | os.O_CLOEXEC
    if target.disk:
        # On a block device, and without O_CREAT, it fails while the disk or a partition of it is in use.
        flags |= os.O_EXCL
    elif not target.real.exists():
        flags |= os.O_CREAT | os.O_EXCL
    # Who may not read the image, because passwords are in it, must not read its copy either.
    shared = image.path.stat().st_mode & 0o066
    try:
        descriptor = os.open(target.real, flags, 0o600 | shared)
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
        status = os.fstat(descriptor)
        now = target
        if target.disk is None:
            if not stat.S_ISREG(status.st_mode):
                raise TargetError(f"{target.path}: is another file than a moment ago; start again")
        else:
            # What sysfs says now is compared with what was confirmed, and the size also with the open
            # descriptor: the name alone may belong to another card by now.
            now = find_target(target.real)
            size = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
            same = now.disk is not None and now.disk.identity == target.disk.identity
            if not same or number_of(status.st_rdev) != target.disk.number or size != target.disk.size:
                raise TargetError(
                    f"{target.path}: is another disk or card than a moment ago; "
                    "nothing was written, start again"
                )
        refuse(now, image.path, image.size, force_non_removable)
        mode = stat.S_IMODE(status.st_mode)
        if target.disk is None and mode & 0o066 & ~shared:
            try:
                os.fchmod(descriptor, mode & ~0o066 | mode & shared)
            except OSError as error:
                raise TargetError(
                    f"{target.path}: others may read or change it, unlike {image.path}, and its mode cannot "
                    f"be changed ({error.strerror}); write to another folder"
                ) from error
        yield descriptor
    finally:
        os.close(descriptor)


class _Medium:
    """An open target. Writing uses the page cache, reading goes past it.

    Every error says in which state the target is.
    """

    def __init__(self, target: Target, descriptor: int) -> None:
        """Nothing is written yet."""
        self._target, self._descriptor = target, descriptor
        self._buffer = mmap.mmap(-1, CHUNK)  # aligned to pages, as O_DIRECT requires
        self._whole = True  # no longer once writing has begun

    def blank(self, image_size: int) -> None:
        """Zero the first MiB, and the last one of a disk, where a GPT has its copy: it would be restored."""
        self._whole = False
        with self._failures("writing to it failed"):
            if self._target.disk is None:
                # A file that is larger than the image stands for a card of that size and keeps it.
                size = max(image_size, os.fstat(self._descriptor).st_size)
                os.ftruncate(self._descriptor, 0)
                os.ftruncate(self._descriptor, size)
        self.blank_start()
        if self._target.disk and self._target.disk.size - FIRST >= image_size:
            self.put(self._target.disk.size - FIRST, bytes(FIRST))
        self.flush()

    def blank_start(self) -> None:
        """Zero the first MiB and flush it to the medium."""
        size = self._target.disk.size if self._target.disk else os.fstat(self._descriptor).st_size
        self.put(0, bytes(min(FIRST, size)))
        self.flush()

    def put(self, start: int, data: bytes) -> bytes:
        """Write bytes; returns their SHA-256. In a file, which is made of zeros, zeros are left out."""
        if self._target.disk or data.strip(b"\0"):
            view, position = memoryview(data), start
            with self._failures("writing to it failed"):
                while view:  # one call writes 2 GiB at most, and less when a signal comes
                    written = os.pwrite(self._descriptor, view, position)
                    view, position = view[written:], position + written
        return hashlib.sha256(data).digest()

    def flush(self) -> None:
        """Wait until all is on the medium. Only here does the kernel report that a card could not write."""
        with self._failures("writing to it failed"):
            os.fsync(self._descriptor)

    def compare(self, blocks: list[Block], progress: Progress = unseen) -> None:
        """Read blocks from the medium, not from memory, and compare them. Raises TargetError."""
        self.forget()
        done, total = 0, sum(block.size for block in blocks)
        for block in blocks:
            if hashlib.sha256(self.get(block.start, block.size)).digest() != block.digest:
                raise TargetError(
                    f"{self._target.path}: gave back other bytes than were written, between {block.start} "
                    f"and {block.start + block.size}: a bad card or reader; {self.state}"
                )
            done += block.size
            progress("Reading back", done, total)

    def forget(self) -> None:
        """Drop the kernel's cache of it."""
        if self._target.disk:
            # Needs root, which a mere comparison does not; `get` reads past the cache anyway.
            with suppress(PermissionError):
                fcntl.ioctl(self._descriptor, _BLKFLSBUF, 0)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def get(self, start: int, size: int) -> memoryview:
        """Read from the medium, past the page cache where the file system can do that.

        The result is valid until the next call, and shorter than `size` at the end of a file.
        """
        view, done = memoryview(self._buffer)[:size], 0
        with self._failures("reading it back failed"):
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            # tmpfs and others have no O_DIRECT: their cache is all there is, or has just been dropped.
            with suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
            try:
                while done < size:
                    try:
                        count = os.preadv(self._descriptor, [view[done:]], start + done)
                    except OSError as error:
                        if error.errno != errno.EINVAL:
                            raise
                        # The bytes are not aligned as this file system requires: read them without O_DIRECT.
                        now = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, now & ~os.O_DIRECT)
                        count = os.preadv(self._descriptor, [view[done:]], start + done)
                    if not count:
                        break
                    done += count
            finally:
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)
        return view[:done]

    def reread_table(self) -> None:
        """Make the kernel read the new partition table, if this kind of disk has partitions."""
        if self._target.disk:
            with suppress(OSError):
                fcntl.ioctl(self._descriptor, _BLKRRPART, 0)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turn an OSError into a TargetError that says in which state the target is."""
        try:
            yield
        except OSError as error:
            raise TargetError(f"{self._target.path}: {what} ({error.strerror}): {self.state}") from error

    @property
    def state(self) -> str:
        """What a failure at this moment leaves."""
        if self._whole:
            return "nothing was changed"
        return "its first MiB is empty, it will not boot; flash it again"
