"""Helpers of other folders that the tests of the documentation use, and the list at the end of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
sys.path += [str(_TESTS / name) for name in ("live", "ship", "model") if str(_TESTS / name) not in sys.path]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many documented blocks and commands were run, and what was only read."""
    from doc_report import summary

    lines = summary()
    if lines:
        terminalreporter.section("commands of the documentation")
        for line in lines:
            terminalreporter.line(line)
