"""How long work tells how far it is, and the bars that show it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

Progress = Callable[[str, int, int], None]  # title, done, of how many


def unseen(title: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@contextmanager
def bars() -> Iterator[Progress]:
    """A Progress that shows a bar for every title, on stderr."""
    shown: dict[str, Any] = {}

    def progress(title: str, done: int, total: int) -> None:
        if title not in shown:
            shown[title] = click.progressbar(length=total, label=title, show_eta=True, show_pos=True, file=sys.stderr)
            shown[title].__enter__()
        shown[title].update(1)
        if done == total:
            shown.pop(title).__exit__(None, None, None)

    try:
        yield progress
    finally:
        for bar in shown.values():  # those that an error or Ctrl-C cut short
            bar.__exit__(None, None, None)
