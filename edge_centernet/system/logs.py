"""Log lines: on standard error, as systemd's journal wants them where that reads it, and in a file."""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge_centernet.errors import ConfigError

_JOURNAL_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def configure_logging(level: str = "INFO", log_file: Path | None = None) -> None:
    """Send the package's log lines to standard error and, if given, to a file; one line a message.

    level: "DEBUG", "INFO", "WARNING" or "ERROR"; other libraries are heard from WARNING on.
    log_file: may be renamed or removed by logrotate at any time, the next line opens it anew.
    Under systemd's journal a line begins with its priority and has no time: the journal knows it.
    Calling it again replaces what the last call set up. Raises ConfigError where the file cannot be written.
    """
    handlers: list[logging.Handler] = [_stderr_handler()]
    if log_file is not None:
        try:
            handlers.append(logging.handlers.WatchedFileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            handlers[0].close()
            raise ConfigError(f"log file {log_file}: cannot write it: {error.strerror}") from None
        handlers[1].setFormatter(_LineFormatter())
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
    """Writes to a copy of descriptor 2: `quiet_libraries` points the original elsewhere while a camera is read."""

    def __init__(self) -> None:
        super().__init__(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))

    def close(self) -> None:
        super().close()
        self.stream.close()


def _stderr_handler() -> logging.Handler:
    try:
        handler: logging.Handler = _StderrHandler()
    except OSError:  # standard error is closed
        return logging.NullHandler()
    handler.setFormatter(_LineFormatter(_is_journal()))
    return handler


def _is_journal() -> bool:
    """Whether descriptor 2 is the stream that systemd connected to the journal."""
    stat = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def one_line(text: str) -> str:
    """The lines of a text that say something, on one."""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())
