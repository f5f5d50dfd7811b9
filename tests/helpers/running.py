"""`edge-centernet detect` in a process of its own, heard through its records, for tests and scripts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import allow_interrupts

CLI = [sys.executable, "-c", "from edge_centernet.cli import main; main()"]


class Detect:
    """A running `detect`; its records as they come, with the time.monotonic() of their arrival."""

    def __init__(self, *options: object, folder: Path, kept: int | None = None) -> None:
        """Start it in `folder`. kept: newest records to keep; all unless given."""
        command = [*CLI, "detect", "--no-save", *(str(option) for option in options)]
        self.log = (folder / "log.txt").open("w+")
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            preexec_fn=allow_interrupts,
        )
        self.results = 0
        self.records: deque[tuple[float, dict[str, Any]]] = deque(maxlen=kept)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def newest(self) -> float:
        """When the newest record came, time.monotonic(); 0 before the first."""
        return self.records[-1][0] if self.records else 0.0

    def wait_for(self, said: Callable[[dict[str, Any]], bool], since: float, seconds: float) -> float:
        """The time of the first record after `since` of which `said` is true, within `seconds`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for at, record in self.records.copy():
                if at > since and said(record):
                    return at
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)
        raise AssertionError(f"nothing in {seconds} s; it said: {self.said()}")

    def said(self) -> str:
        """Its standard error so far."""
        self.log.flush()
        return Path(self.log.name).read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._thread.join(timeout=5)
        return code

    def close(self) -> None:
        """Kill it, unless it has ended."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.records.append((time.monotonic(), json.loads(line)))
            self.results += 1


def anything(record: dict[str, Any]) -> bool:
    """For `Detect.wait_for`: any record will do."""
    return True
