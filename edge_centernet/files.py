"""Writing files whole or not at all, and reading what is in them."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TextIO

from edge_centernet.errors import ConfigError


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
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from None
        raise


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


def prepare_folder(folder: Path) -> None:
    """Make the folder and make sure that files can be written there; ConfigError otherwise."""
    # By writing one: permission bits say nothing about a read-only or full file system.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"output folder {folder}: cannot write there: {error.strerror}") from None


def open_part(target: Path) -> tuple[TextIO, Path]:
    """A text file under a temporary name beside `target`, and that name; rename it when it is complete."""
    part = target.with_name(f".{target.name}.part")
    return part.open("w", encoding="utf-8"), part
