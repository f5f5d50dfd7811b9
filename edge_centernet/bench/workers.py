"""The processes that are measured, seen from the one that measures."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_centernet.bench.feed import Feed
from edge_centernet.runtimes import ENGINES, providers, selfcheck
from edge_centernet.system.child import command_of, crash_in_words

_SLACK_S = 60.0  # beyond the time asked for, before a worker counts as hanging
_END_S = 5.0  # for a process to end by itself

Words = dict[str, Any]


class WorkerFailed(Exception):
    """A worker did not do what it was asked; the message says why, in a few words. Its process has ended."""


@dataclass(frozen=True)
class Configuration:
    """What is measured beside others. path: the model file; cpus: which the process is kept on, one a thread."""

    runtime: str
    threads: int
    path: Path
    cpus: tuple[int, ...]

    @property
    def name(self) -> str:
        """Such as "OpenVINO, 2 threads"."""
        return f"{ENGINES[self.runtime].title}, {self.threads} thread{'s' if self.threads > 1 else ''}"


class Worker:
    """A process of `bench.worker`. ready: what it said when it had detected for the first time.

    start_ms: milliseconds of its start, by step and in total. Raises WorkerFailed where it does not come so
      far.
    """

    def __init__(self, configuration: Configuration, feed: Feed, streamed: bool) -> None:
        """Start it and wait until it is ready."""
        about = configuration
        task = {"engine": about.runtime, "path": str(about.path.resolve()), "threads": about.threads}
        task |= {"cpus": about.cpus, "source": feed.source, "camera": feed.camera, "streamed": streamed}
        building = (
            selfcheck.BUILDING
            if about.runtime == "onnxruntime" and providers.first_start(about.path)
            else 0.0
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        begun = time.monotonic()
        self._process = subprocess.Popen(
            command_of("edge_centernet.bench.worker", json.dumps(task)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the one who measures; a worker ends with its standard input
        )
        self._listener = threading.Thread(target=self._listen, name="answers", daemon=True)
        self._listener.start()
        try:
            self.ready = self._answer(selfcheck.TIMEOUT + building)
        except BaseException:
            self.kill()
            raise
        self.start_ms = _steps(begun, self.ready["moments"])

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ask(self, what: str, takes: float, **words: Any) -> Words:
        """Have something done that takes about so many seconds; words: its arguments. Raises WorkerFailed."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended; the answer, which does not come, says how
            self._process.stdin.write(json.dumps({"do": what, **words}) + "\n")
            self._process.stdin.flush()
        return self._answer(takes + _SLACK_S)

    def close(self) -> None:
        """End the process; may be called twice."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(OSError):  # what was not yet written has no reader any more
                self._process.stdin.close()
            self._end()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._errors.close()

    def kill(self) -> None:
        """End it at once, in whatever it does."""
        self._process.kill()
        self.close()

    def _end(self) -> None:
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self, timeout: float) -> Words:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            raise WorkerFailed(f"did not answer within {timeout:g} s") from None
        if not line:
            raise WorkerFailed(self._how_it_ended())
        words: Words = json.loads(line)
        if "failed" in words:
            raise WorkerFailed(words["failed"])
        return words

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        if status == -signal.SIGKILL:
            return "was killed (SIGKILL; the system does that when memory runs out)"
        if status < 0:
            return crash_in_words(status)
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"ended with status {status}" + (f": {said[-1]}" if said else "")


def _steps(begun: float, moments: dict[str, float]) -> dict[str, float]:
    """Milliseconds from one moment to the next: interpreter, imports, open, read, detect; and in total."""
    steps, before = {}, begun
    for name, moment in moments.items():
        steps["interpreter" if name == "begun" else name] = 1000.0 * (moment - before)
        before = moment
    return {**steps, "total": 1000.0 * (before - begun)}
