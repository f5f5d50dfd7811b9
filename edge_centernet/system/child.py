"""Modules of this package that run in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

_FOLDER = str(Path(__file__).resolve().parents[2])
# `python -m` looks into the current folder first, where a checkout may lie. What $PYTHONPATH names stays in front, as
# for this process; the package's own folder is added where Python does not know it (a checkout that is not installed).
_RUN = """\
import runpy, sys
folder, module = sys.argv.pop(1), sys.argv.pop(1)
sys.path = [path for path in sys.path if path]
if folder not in sys.path:
    sys.path.insert(0, folder)
runpy.run_module(module, None, "__main__")
"""


def command_of(module: str, *words: str) -> list[str]:
    """The command line that runs a module of this very package by this Python; words: its arguments."""
    return [sys.executable, "-c", _RUN, _FOLDER, module, *words]
