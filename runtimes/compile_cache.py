"""The compile cache: what engines have computed on this machine and need not compute again.

An engine trusts what it once compiled, so only this user's own files are taken: in folders that nobody else
can write to, as they are made here.

It lies in $XDG_CACHE_HOME/edge-centernet. A key is made of everything that decides the result (the bytes of
the model, the engine's release, the processor), so that nothing in it can be out of date.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from edge_centernet.artifact import files_of
from edge_centernet.files import cache_home

# Each file begins with the SHA-256 of the rest: one that was cut off or damaged must count as missing.
_DIGEST = 32  # bytes
_MOST = 8  # files of a kind that stay, those that were used last; a network takes 1 to 13 MB

_log = logging.getLogger(__name__)


def folder() -> Path:
    """The folder `edge-centernet` of `files.cache_home`."""
    return cache_home() / "edge-centernet"


def content_of(path: Path) -> str:
    """Hexadecimal SHA-256 of all files that make up a model."""
    total = hashlib.sha256()
    for part in files_of(path):
        total.update(part.read_bytes())
    return total.hexdigest()


def processor() -> str:
    """Short digest of what the kernel reports about the first core: its model and its features."""
    # Speed and temperature stand there too and change from one moment to the next: only these lines count.
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        first = platform.processor()
    names = ("model name", "vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    lines = [line for line in first.splitlines() if line.startswith(names)]
    return hashlib.sha256("\n".join([platform.machine(), *lines]).encode()).hexdigest()[:16]


def is_private(path: Path) -> bool:
    """Whether only this user, or root, can have written a file or folder of the cache.

    Raises OSError for one that is missing.
    """
    for about in (part.stat() for part in (*_folders_of(path), path)):
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
            _log.debug("%s: not taken from the cache, as others may have written it", path)
            return False
    return True


def make_private(path: Path) -> None:
    """Make a folder of the cache, closed to others; what lies in one that they can write to is removed.

    Raises OSError, also where it is not this user's.
    """
    folder().parent.mkdir(parents=True, exist_ok=True)
    for part in (*_folders_of(path), path):
        part.mkdir(mode=0o700, exist_ok=True)
        about = part.stat()
        if about.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(part))
        if about.st_mode & 0o022:
            part.chmod(0o700)
            for old in part.iterdir():
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def _folders_of(path: Path) -> list[Path]:
    """The folders of the cache that `path` is in, the outermost first."""
    return [part for part in reversed(path.parents) if part == folder() or folder() in part.parents]


def load(path: Path) -> bytes | None:
    """What was stored there; None where it is missing, damaged, or may be of somebody else."""
    try:
        data = path.read_bytes() if is_private(path) else b""
    except OSError:
        return None
    digest, content = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # `store` removes by this time; the access time is often not kept (noatime)
    return content


def store(path: Path, content: bytes) -> None:
    """Keep `content` there, whole or not at all, and remove what has not been used for long.

    A cache that cannot be written is no error: it costs time at the next start, and a line in the debug log.
    """
    part = ""
    try:
        make_private(path.parent)
        # Two processes may store the same at once, so each writes under a name of its own.
        number, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        with os.fdopen(number, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
        os.replace(part, path)
        others = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda other: other.stat().st_mtime)
        for old in others[:-_MOST]:
            old.unlink(missing_ok=True)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        _log.debug("%s: not cached: %s", path, error.strerror)
