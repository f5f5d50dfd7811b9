"""Child processes: modules of this package whose libraries may crash or hang, run where that does no harm."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_FOLDER = str(Path(__file__).resolve().parents[2])
# Instead of `python -m`, which looks for the module in the current folder first, where another checkout may
# lie. What $PYTHONPATH names stays in front, as for this process; the package's own folder is added where
# Python does not know it (a checkout that is not installed).
_RUN = """\
import runpy, sys
folder, module = sys.argv.pop(1), sys.argv.pop(1)
sys.path = [path for path in sys.path if path]
if folder not in sys.path:
    sys.path.insert(0, folder)
runpy.run_module(module, None, "__main__")
"""


def command_of(module: str, *words: str) -> list[str]:
    """The command line that runs a module of this very package with this Python. words: its arguments."""
    return [sys.executable, "-c", _RUN, _FOLDER, module, *words]


@dataclass(frozen=True)
class Ended:
    """How a process ended. status: its exit status, negative for a signal; None where it ran out of time.

    output, errors: what it wrote until then, as text.
    """

    status: int | None
    output: str
    errors: str

    @property
    def crash(self) -> str:
        """How a signal ended it, such as "crashed (SIGSEGV)"; empty where none did."""
        return "" if self.status is None else crash_in_words(self.status)

    @property
    def last_error(self) -> str:
        """The last line that it wrote to standard error, or its exit status where it wrote none."""
        lines = self.errors.strip().splitlines()
        return lines[-1] if lines else f"exit status {self.status}"


def run_child(command: list[str], timeout: float) -> Ended:
    """Run a command to its end, with nothing on its standard input; after `timeout` seconds it is killed.

    Nothing that it writes reaches this process's own output. Raises OSError where it cannot be started.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as expired:
        return Ended(None, _text(expired.stdout), _text(expired.stderr))
    return Ended(done.returncode, _text(done.stdout), _text(done.stderr))


def crash_in_words(status: int) -> str:
    """What the signal behind an exit status is called: "crashed (SIGSEGV)" for -11, empty for 0 and above."""
    if status >= 0:
        return ""
    try:
        return f"crashed ({signal.Signals(-status).name})"
    except ValueError:  # a real-time signal has no name
        return f"crashed (signal {-status})"


def _text(output: bytes | None) -> str:
    return (output or b"").decode("utf-8", "replace")
