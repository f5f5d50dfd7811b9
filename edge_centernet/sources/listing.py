"""Which images a list of files, folders and patterns means, and what of it is passed over."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from edge_centernet.errors import SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES, image_format

_MANY = 5  # kinds of files that a line names


def images_of(texts: Sequence[str], recursive: bool, warn: Callable[[str], None]) -> list[str]:
    """The images that files, folders and patterns name, each once, in the order of the names.

    The files of a folder are sorted. What is no image is passed over, and named to `warn` in one line; a file
    that is missing or damaged is left to whoever reads it, who knows why.
    recursive: search folders at all depths, but neither hidden ones nor behind links.
    Raises SourceError where nothing is left.
    """
    names: list[str] = []
    passed: Counter[str] = Counter()
    unsearched = 0
    for text in texts:
        if Path(text).is_dir():
            for path in _files_in(Path(text), recursive):
                suffix = path.suffix.lower()
                if path.is_dir():
                    unsearched += 1
                # By its content only without a suffix: reading the first bytes of all files takes long.
                elif suffix in IMAGE_SUFFIXES or (not suffix and format_of(path)):
                    names.append(str(path))
                else:
                    passed[suffix or "without a suffix"] += 1
            continue
        for name in files_matching(text):
            suffix = Path(name).suffix.lower()
            if suffix in IMAGE_SUFFIXES or not Path(name).is_file() or format_of(Path(name)):
                names.append(name)
            else:
                passed[suffix or "without a suffix"] += 1
    where = texts[0] if len(texts) == 1 else f"{len(texts)} files and folders"
    kinds = [f"{count} {suffix}" for suffix, count in passed.items()]
    listed = ", ".join([*kinds[:_MANY], *(["..."] if len(kinds) > _MANY else [])])
    within = f"{_plural(unsearched, 'folder')}, which --recursive searches" if unsearched else ""
    if not names:
        found = (
            f"only files of other types ({listed})" if passed else "none" if not within else f"only {within}"
        )
        raise SourceError(
            f"{where}: expected images ({', '.join(IMAGE_SUFFIXES)})"
            f"{' in this folder' if len(texts) == 1 else ', as a video is read by itself'}, found {found}"
        )
    over = [f"{_plural(sum(passed.values()), 'file')} of other types ({listed})"] if passed else []
    if over or within:
        warn(f"{where}: passed over {' and '.join([*over, *([within] if within else [])])}")
    return list(dict.fromkeys(names))


def format_of(path: Path) -> str:
    """The image format of a file by its first bytes; "" where it is of none, or cannot be read."""
    with suppress(OSError):
        if path.is_file():  # not a FIFO, which would be waited for
            with path.open("rb") as file:
                return image_format(file.read(4096))
    return ""


def files_matching(text: str) -> list[str]:
    """The files, without folders, that a pattern matches, sorted; `**` stands for folders at all depths.

    What is no pattern is the only file. Raises SourceError where none matches.
    """
    # A file whose name looks like a pattern, such as "a[1].jpg", is taken as itself.
    if Path(text).exists() or not glob.has_magic(text):
        return [text]
    names = sorted(name for name in glob.glob(text, recursive=True) if not Path(name).is_dir())
    if not names:
        raise SourceError(f"{text}: no file matches this pattern")
    return names


def _files_in(folder: Path, recursive: bool) -> Iterator[Path]:
    """What lies in a folder, sorted, without what is hidden; folders only where they are not searched."""
    if not recursive:
        yield from (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
        return
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
