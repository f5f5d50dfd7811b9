"""Data sets in zip files, as labelling tools hand them out: unpacked once, into the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from edge_centernet.errors import SourceError
from edge_centernet.files import cache_home
from edge_centernet.imageio import IMAGE_SUFFIXES
from edge_centernet.progress import Progress, size_text, unseen

# What readers look at; programs, weights and whatever else lies in a zip file stay there.
_WANTED = frozenset(
    (*IMAGE_SUFFIXES, ".json", ".xml", ".txt", ".yaml", ".yml", ".data", ".names", ".labels", ".csv")
)
MAX_FILES = 2_000_000
MAX_BYTES = 1 << 38  # 256 GiB of unpacked files; the disk's free space is a limit too
# Photos do not become smaller in a zip file, and labels to a twentieth. Small files may do as they like.
MAX_RATIO, _SMALL = 100, 1 << 26
_SPARE = 1 << 28  # bytes of the disk that stay free
_MAX_DEPTH = 32  # folders in folders
_CHUNK = 1 << 20


def is_zip(path: Path) -> bool:
    """Whether a path is a file named as a zip file."""
    return path.suffix.lower() == ".zip" and path.is_file()


def cached_folder(path: Path) -> Path:
    """Return where a zip file is unpacked to, or would be; another version of the file has another place."""
    about = path.stat()
    key = f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    name = re.sub(r"[^\w.-]", "_", path.stem)[:64]
    return (
        cache_home()
        / "edge-centernet"
        / "datasets"
        / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    )


def unpack(path: Path, progress: Progress = unseen) -> Path:
    """Return the folder with a zip file's images and labels, unpacked unless it already is.

    Raises SourceError for what is no zip file, is damaged or encrypted, holds paths that lead out of the
    folder, would fill the disk or become absurdly large, or has nothing that a data set consists of.
    """
    target = cached_folder(path)
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target.parent))
    except OSError as error:
        raise SourceError(f"{path}: cannot unpack into {target.parent}: {error.strerror}") from None
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = _members(path, archive, part)
            total = len(wanted)
            for done, (info, name) in enumerate(wanted, 1):
                _write(path, archive, info, part / name)
                progress("Unpacking", done, total)
        try:
            part.rename(target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise SourceError(
            f"{path}: expected a zip file, got one that cannot be unpacked ({error}); download it again, "
            "or unpack it yourself and name the folder"
        ) from None
    except OSError as error:
        raise SourceError(f"{path}: cannot unpack into {target.parent}: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _members(path: Path, archive: zipfile.ZipFile, part: Path) -> list[tuple[zipfile.ZipInfo, str]]:
    """Return what is to be unpacked, with its place in the folder; nothing is written yet."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise SourceError(f"{path}: expected at most {MAX_FILES:,} files, got {len(infos):,}")
    wanted = [(info, _safe(path, info)) for info in infos if not info.is_dir() and _is_wanted(info.filename)]
    if not wanted:
        raise SourceError(f"{path}: expected images and labels, found none in this zip file")
    total = sum(info.file_size for info, _ in wanted)
    packed = sum(info.compress_size for info, _ in wanted)
    if total > MAX_BYTES or (total > _SMALL and total > MAX_RATIO * max(packed, 1)):
        raise SourceError(
            f"{path}: {size_text(packed)} would become {size_text(total)}, which no data set does; unpack it "
            "yourself if you trust it, and name the folder"
        )
    if total + _SPARE > (free := shutil.disk_usage(part).free):
        raise SourceError(
            f"{path}: unpacked it has {size_text(total)}, and {part.parent} has room for {size_text(free)}; "
            "free some, or set XDG_CACHE_HOME to a larger disk"
        )
    for info, name in wanted:
        if info.flag_bits & 1:
            raise SourceError(f"{path}: {name!r} is encrypted; unpack it yourself and name the folder")
    return wanted


def _is_wanted(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    hidden = "__MACOSX" in parts or parts[-1].startswith("._")
    return not hidden and Path(parts[-1]).suffix.lower() in _WANTED


def _safe(path: Path, info: zipfile.ZipInfo) -> str:
    """Return a member's path inside the folder; SourceError for one that leads elsewhere."""
    name = info.filename.replace("\\", "/")  # Windows' tools write these
    parts = [part for part in name.split("/") if part not in ("", ".")]
    linked = stat.S_ISLNK(info.external_attr >> 16)
    leads_out = name.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in name
    long = len(parts) > _MAX_DEPTH or any(len(os.fsencode(part)) > 255 for part in parts)
    if linked or leads_out or long:
        raise SourceError(
            f"{path}: {name[:160]!r} leads out of the folder that it is unpacked to; this is no export "
            "of a labelling tool"
        )
    return "/".join(parts)


def _write(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Unpack one file, never more than it declares."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size
    try:
        with archive.open(info) as source, target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise SourceError(f"{path}: {info.filename!r} is larger than it says; download it again")
                out.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise SourceError(f"{path}: {info.filename!r} is in it twice; download it again") from None
