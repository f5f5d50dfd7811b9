"""Writing files whole or not at all, and reading what is in them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TextIO

from edge_centernet.errors import ConfigError, printable

_FORMULA = r"=+\-@\uff1d\uff0b\uff0d\uff20"  # what a formula begins with; the last four are full-width

_CANNOT = "cannot write: "

_log = logging.getLogger(__name__)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write under a temporary name beside `path`, then rename: a power cut or a full disk leaves the old one.

    Raises OSError with `path` as its file name. The temporary file is removed, after Ctrl-C too.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name without its content
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # a read-only disk refuses this as well
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{_CANNOT}{error.strerror}", str(path)) from None
        raise


def may_pass(error: OSError) -> bool:
    """Whether the disk is full, over its quota, read-only or failing; else the path is wrong."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def append_whole(file: BinaryIO, data: bytes) -> None:
    """Append all of `data` to an unbuffered file, or nothing: a full disk takes the beginning of it.

    Raises OSError.
    """
    begin = file.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:  # after Ctrl-C, too
        with suppress(OSError):
            file.truncate(begin)
        raise


def lock_alone(path: Path) -> int:
    """A descriptor of the file, made if missing, that no other process can have at the same time.

    For databases in SQLite's WAL mode, which would let several programs write. Close it after the database:
    closing any descriptor of a file drops the locks that SQLite holds on it in this process.
    Raises OSError; BlockingIOError where another process has it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def set_aside(path: Path) -> None:
    """Rename a file that is in the way to the first free name of NAME-1.SUFFIX, NAME-2.SUFFIX ...

    An empty or missing one is left as it is. Raises OSError.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    number = 1
    while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    path.rename(free)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of one file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def text_of(path: Path) -> str:
    """The file's text, stripped; "" where it is missing, or its driver refuses (a sensor that is off)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def home_path(path: str | Path) -> Path:
    """The path with a leading ~ replaced; ConfigError where this user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and a user number that /etc/passwd does not list: usual in containers
        raise ConfigError(
            f"{path}: user {os.getuid()} has no home folder; set HOME, or give the path without ~"
        ) from None


def cache_home() -> Path:
    """$XDG_CACHE_HOME, or ~/.cache; a private folder among the temporary files where there is no home."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base)
    try:
        return Path("~/.cache").expanduser()
    except RuntimeError:
        return _homeless_cache()


@cache
def _homeless_cache() -> Path:
    # Engines trust what is cached, and anybody can write among the temporary files: a folder that is not this
    # user's alone is left where it is.
    folder = Path(tempfile.gettempdir()) / f"edge-centernet-{os.getuid()}"
    with suppress(OSError):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        about = folder.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="edge-centernet-"))


class Unwritten:
    """What cannot be written at the moment, because a disk is full, read-only or gone, and what was lost so.

    Detection goes on meanwhile, and whoever writes tries again and reports here. The log has a line when a
    file fails for the first time, and one when it can be written again. For use by several threads.
    """

    def __init__(self) -> None:
        """All is well."""
        self._lock = threading.Lock()
        self._failing: dict[str, str] = {}  # name -> reason
        self._lost: list[str] = []

    def failed(self, name: str | Path, error: OSError) -> None:
        """It could not be written, and will be tried again."""
        reason = (error.strerror or str(error)).removeprefix(_CANNOT)
        with self._lock:
            known = str(name) in self._failing
            self._failing[str(name)] = reason
        if not known:
            _log.error("%s: %s%s; detection goes on, and it is tried again", name, _CANNOT, reason)

    def written(self, name: str | Path) -> None:
        """It could be written."""
        with self._lock:
            known = self._failing.pop(str(name), None)
        if known is not None:
            _log.warning("%s: can be written again", name)

    def lost(self, what: str) -> None:
        """Something will never be written."""
        with self._lock:
            self._lost.append(what)
        _log.error("%s", what)

    def now(self) -> str:
        """What cannot be written at the moment, in one line for people; "" if nothing."""
        with self._lock:
            return "; ".join(f"{name}: {_CANNOT}{reason}" for name, reason in self._failing.items())

    def all(self) -> str:
        """The same, and what was lost."""
        with self._lock:
            lost = list(self._lost)
        return "; ".join(part for part in (self.now(), *lost) if part)


def prepare_folder(folder: Path, *, or_later: bool = False) -> None:
    """Make the folder and make sure that files can be written there; ConfigError otherwise.

    or_later: a disk that is full or read-only is no error, as whoever writes there tries again.
    """
    # By writing one: permission bits say nothing about a read-only or full file system.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if not or_later or not may_pass(error):
            raise ConfigError(f"output folder {folder}: cannot write there: {error.strerror}") from None


def open_part(target: Path) -> tuple[TextIO, Path]:
    """A text file under a temporary name beside `target`, and that name; rename it when it is complete."""
    part = target.with_name(f".{target.name}.part")
    return part.open("w", encoding="utf-8"), part


def csv_text(text: str) -> str:
    """A text for a cell of CSV that no spreadsheet takes for a formula, without control characters.

    An apostrophe goes before what a formula begins with, and also where a new cell would begin for a
    spreadsheet that separates by semicolons or tabs, as it does in many countries. Numbers need none of this.
    """
    return re.sub(rf"(^|[;\t\n])(?=\s*[{_FORMULA}])", r"\1'", printable(text))
