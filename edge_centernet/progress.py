"""How long-running work reports its progress, and the bars that show it.

Functions take a `Progress` and know nothing of terminals; commands pass `bars()`, other callers `unseen`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from edge_centernet.errors import printable

Progress = Callable[[str, int, int], None]  # title, done, of how many
Say = Callable[[str], None]  # a line of text as work goes on

_MOMENT = 1.0  # seconds
_Item = TypeVar("_Item")


def unseen(title: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


def with_progress(items: Sequence[_Item], title: str, progress: Progress) -> Iterator[_Item]:
    """The items one by one; each is reported to `progress` when the caller asks for the next."""
    for i, item in enumerate(items):
        yield item
        progress(title, i + 1, len(items))


def if_slow(progress: Progress) -> Progress:
    """A Progress that shows nothing of work that is done in a second, and of longer work ten steps a second.

    For what is usually done in a moment, and has a million items where it is not.
    """
    begun: dict[str, float] = {}  # when each title came
    due: dict[str, float] = {}  # when it is shown next

    def slow(title: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done <= 1 or title not in begun:
            begun[title] = now
            due[title] = now + _MOMENT
        last = done == total and due[title] > begun[title] + _MOMENT  # of one that has been shown
        if now >= due[title] or last:
            due[title] = now + 0.1
            progress(title, done, total)

    return slow


@contextmanager
def bars() -> Iterator[Progress]:
    """A Progress that shows a bar for every title, on standard error; in a pipe or file each title once."""
    if not sys.stderr.isatty():
        yield _titles()
        return
    shown: dict[str, Any] = {}

    def progress(title: str, done: int, total: int) -> None:
        if title not in shown:
            shown[title] = click.progressbar(
                length=total, label=printable(title), show_eta=True, show_pos=True, file=sys.stderr
            )
            shown[title].__enter__()
        shown[title].update(done - shown[title].pos)
        if done == total:
            shown.pop(title).__exit__(None, None, None)

    try:
        yield progress
    finally:
        for bar in shown.values():  # those that an error or Ctrl-C cut short
            bar.__exit__(None, None, None)


@contextmanager
def byte_bars() -> Iterator[Progress]:
    """A Progress in bytes: a bar with MB/s and the time left for every title; else as `bars`."""
    if not sys.stderr.isatty():
        yield _titles()
        return
    shown: dict[str, Any] = {}
    begun: dict[str, float] = {}

    def progress(title: str, done: int, total: int) -> None:
        if title not in shown:
            shown[title] = click.progressbar(
                length=total, label=printable(title), show_eta=True, file=sys.stderr
            )
            begun[title] = time.monotonic()
            shown[title].__enter__()
        bar = shown[title]
        speed = done / 1e6 / max(time.monotonic() - begun[title], 1e-3)
        bar.label = f"{printable(title)} {size_text(done)} of {size_text(total)}, {speed:.0f} MB/s"
        bar.update(done - bar.pos)
        if done >= total:
            shown.pop(title).__exit__(None, None, None)

    try:
        yield progress
    finally:
        for bar in shown.values():
            bar.__exit__(None, None, None)


def _titles() -> Progress:
    """A Progress that writes a line when a title first comes: a log keeps all, and nobody sees it move."""
    said: set[str] = set()

    def progress(title: str, done: int, total: int) -> None:
        if title not in said:
            said.add(title)
            print(printable(title), file=sys.stderr, flush=True)

    return progress


def size_text(count: int) -> str:
    """1234567 -> "1.2 MB": in powers of ten, as SD cards are labelled."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
