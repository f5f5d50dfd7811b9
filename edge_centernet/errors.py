"""Every error a user can cause, in one tree; and `printable`, for names that a message repeats.

EdgeCenterNetError
├── ManifestError        a manifest is missing, unreadable, or says something impossible
├── ArtifactError        a model file is missing, damaged, or not one of ours
├── SourceError          an image, video, camera or data set cannot be read
├── MissingDependency    an optional package is not installed
├── ConversionError      a network cannot be converted, or the result failed verification
├── DiskImageError       a disk image, or its block map, is damaged, incomplete or does not fit
├── TargetError          a disk or file must not be written to, or could not be
├── AccuracyError        a network in int8 is worse than its user allows (exit code 3)
└── ConfigError          an option, class name or output folder cannot be used

The command line catches only the root: one line on standard error, exit code 2 unless the tree gives another,
no traceback. Messages follow one pattern: what was expected, what came, what to do next.
"""

from __future__ import annotations

import re
import unicodedata

from edge_centernet.extras import command_for, without_gpu


class EdgeCenterNetError(Exception):
    """Root of every error that this package raises on purpose. exit_code: the command line's."""

    exit_code = 2


class ManifestError(EdgeCenterNetError):
    """A manifest is missing, unreadable, or says something impossible."""


class ArtifactError(EdgeCenterNetError):
    """A model file is missing, damaged, or not one of ours."""


class SourceError(EdgeCenterNetError):
    """An image, video, camera or data set cannot be read."""


class MissingDependency(EdgeCenterNetError):
    """An optional package is not installed; the message holds the pip command."""

    @classmethod
    def for_extra(cls, what: str, extra: str) -> MissingDependency:
        """The error that `what` needs the packages of the pip extra `extra`."""
        command = f"{command_for(extra)}{without_gpu(extra)}"
        return cls(f'{what} needs packages that are not installed (extra "{extra}"): {command}')


class ConversionError(EdgeCenterNetError):
    """A network cannot be converted, or the converted file failed verification."""


class DiskImageError(EdgeCenterNetError):
    """A disk image, or its block map, is damaged, incomplete or does not fit."""


class TargetError(EdgeCenterNetError):
    """A disk or file must not be written to, or could not be."""


class AccuracyError(EdgeCenterNetError):
    """A network in int8 is worse than its user allows."""

    exit_code = 3  # so that a script can tell it from a mistake in its command


class ConfigError(EdgeCenterNetError):
    """An option, class name or output folder cannot be used."""


def printable(text: str) -> str:
    r"""The text with control characters and others that cannot be seen written as \uXXXX.

    Names of files, classes and cameras come from others: an escape sequence in one would move the cursor or
    change the title of the reader's terminal, and a byte of a file name that is no UTF-8 would end the
    program. Line ends, tabs and blanks of every kind stay. JSON keeps its value.
    """
    if text.isprintable():
        return text
    return re.sub(r"[^\n\t -~]", lambda found: _escaped(found[0]), text)


def _escaped(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
