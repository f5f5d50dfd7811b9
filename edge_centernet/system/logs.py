"""Standard error: our log lines on it and in a file, and what C libraries write there kept away from it."""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import cv2

from edge_centernet.errors import ConfigError, printable

# syslog's priorities, by which `journalctl -p` selects
_JOURNAL_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def configure_logging(level: str = "INFO", log_file: Path | None = None) -> None:
    """Send the package's log lines to standard error and, if given, to a file; one line a message.

    level: "DEBUG", "INFO", "WARNING" or "ERROR"; lines of other libraries are shown from WARNING on.
    log_file: may be renamed or removed by logrotate at any time, the next line opens it anew.
    Under systemd's journal a line begins with its priority and has no time, which the journal adds. Another
    call replaces what the last one set up. Raises ConfigError where the file cannot be written.
    """
    # 1. Standard error. It is the journal's where its file is the one that systemd has announced: a service's
    #    output can be redirected, and the variable is inherited.
    handlers: list[logging.Handler] = [logging.NullHandler()]
    with suppress(OSError):  # standard error is closed
        handlers[0] = _StderrHandler()
        stat = os.fstat(2)
        journal = os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
        handlers[0].setFormatter(_LineFormatter(journal))
    # 2. The file.
    if log_file is not None:
        try:
            handlers.append(_FileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            handlers[0].close()
            raise ConfigError(f"log file {log_file}: cannot write it: {error.strerror}") from None
        handlers[1].setFormatter(_LineFormatter())
    # 3. The new handlers take the place of the last call's, and of no other program's.
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "of_edge_centernet", False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.of_edge_centernet = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_centernet").setLevel(level)


class _LineFormatter(logging.Formatter):
    """A message, with its traceback if it has one, on a single line."""

    def __init__(self, journal: bool = False) -> None:
        super().__init__(
            "%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s",
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = one_line(super().format(record))
        return f"<{_JOURNAL_PRIORITY.get(record.levelno, 6)}>{line}" if self._journal else line


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:  # Python 3.10 cannot subscript the class at run time.
    _StreamHandler = logging.StreamHandler


class _StderrHandler(_StreamHandler):
    """Writes to a copy of descriptor 2, as `quiet_libraries` points the original elsewhere."""

    def __init__(self) -> None:
        super().__init__(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))

    def close(self) -> None:
        super().close()
        self.stream.close()


class _FileHandler(logging.handlers.WatchedFileHandler):
    """Leaves out the lines that a full disk does not take: they are on standard error as well."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a folder that is gone
            super().emit(record)

    def close(self) -> None:
        with suppress(OSError):  # of the lines that are still to be written
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Nothing: logging would print a traceback for each line."""


def one_line(text: str) -> str:
    """The lines of a text that are not blank, joined to one, without control characters."""
    return printable(" | ".join(line.strip() for line in text.splitlines() if line.strip()))


# ---- other libraries -------------------------------------------------------------------------------


def silence_opencv() -> None:
    """Stop OpenCV's own lines on standard error: what goes wrong is reported by our exceptions."""
    module = getattr(cv2.utils, "logging", None)  # moved between OpenCV releases
    quiet = getattr(module, "setLogLevel", None) or getattr(cv2, "setLogLevel", None)
    if quiet is not None:
        quiet(0)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what C libraries write to file descriptor 2 (libpng, FFmpeg, XNNPACK), not what Python writes.

    What matters of it is in our exceptions; progress and warnings go through sys.stderr, and stay in sight.
    This affects the whole process; nested and concurrent use is safe, as descriptor 2 comes back when the
    last user leaves.
    """
    silence_opencv()
    _Stderr.hide()
    try:
        yield
    finally:
        _Stderr.show()


class _Stderr:
    """Descriptor 2 and the number of its users, so that several threads may hide it at the same time."""

    lock = threading.Lock()
    users = 0
    saved = -1
    python: TextIO | None = None  # sys.stderr as it was

    @classmethod
    def hide(cls) -> None:
        with cls.lock:
            cls.users += 1
            if cls.users > 1:
                return
            try:
                cls.saved = os.dup(2)
            except OSError:  # standard error is closed: there is nothing to hide
                return
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 2)
            os.close(devnull)
            if _is_descriptor_2(sys.stderr):
                cls.python = sys.stderr
                sys.stderr = io.TextIOWrapper(
                    _Visible(), sys.stderr.encoding, sys.stderr.errors, write_through=True
                )

    @classmethod
    def show(cls) -> None:
        with cls.lock:
            cls.users -= 1
            if cls.users == 0 and cls.saved >= 0:
                os.dup2(cls.saved, 2)
                os.close(cls.saved)
                cls.saved = -1
                if cls.python is not None:
                    sys.stderr, cls.python = cls.python, None


class _Visible(io.RawIOBase):
    """What was descriptor 2 before it was hidden, and is it again later: a bar may outlive the hiding."""

    def fileno(self) -> int:
        return _Stderr.saved if _Stderr.saved >= 0 else 2

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self.fileno())

    def write(self, data: Any, /) -> int:
        return os.write(self.fileno(), data)


def _is_descriptor_2(stream: TextIO | None) -> bool:
    """Whether a stream writes where C libraries do; a test's or a notebook's may have none."""
    try:
        return stream is not None and stream.fileno() == 2
    except (OSError, ValueError):  # it has none, or is closed
        return False
