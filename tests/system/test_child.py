"""A process that may crash or hang, and what is said of its end."""

from __future__ import annotations

import sys

import pytest

from edge_centernet.system.child import Ended, command_of, crash_in_words, run_child


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print('out'); raise SystemExit(3)", Ended(3, "out\n", "")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Ended(-11, "", "")),
        ("print('begun', flush=True); import time; time.sleep(60)", Ended(None, "begun\n", "")),
    ],
)
def test_how_a_process_ended(program: str, expected: Ended) -> None:
    """Its status, the signal, or that its time was up; what it wrote before is kept."""
    assert run_child([sys.executable, "-c", program], 5.0 if "sleep" in program else 60.0) == expected


@pytest.mark.parametrize(
    ("status", "words"), [(0, ""), (1, ""), (-4, "crashed (SIGILL)"), (-50, "crashed (signal 50)")]
)
def test_a_signal_in_words(status: int, words: str) -> None:
    """By its name where it has one."""
    assert crash_in_words(status) == words


def test_the_last_line_of_standard_error_says_why() -> None:
    """A traceback's last line; the exit status where nothing was written."""
    assert Ended(1, "", "Traceback\nImportError: libcudart\n").last_error == "ImportError: libcudart"
    assert Ended(2, "", "").last_error == "exit status 2"


def test_nothing_waits_on_the_terminal() -> None:
    """A module that reads standard input finds its end."""
    ended = run_child([sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"], 60.0)
    assert ended.output == "''\n"


def test_a_module_of_the_package_runs_by_its_name() -> None:
    """With its arguments: the package's own command line refuses a command that it does not know."""
    ended = run_child(command_of("edge_centernet", "--version"), 60.0)
    assert (ended.status, ended.output.split()[0]) == (0, "edge-centernet,")
