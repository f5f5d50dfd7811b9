"""A measurement from beginning to end: its configurations, their processes, rounds in turns, the record.

    check each engine  ->  start each two times  ->  start each once more and warm it up  ->  rounds  ->  end

In a round each living worker has one turn, in another order each time, while the others wait: a machine that
gets slower gets slower for all. Where memory does not hold all workers at once they are measured in groups,
one after the other.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from edge_centernet import __version__
from edge_centernet.artifact import files_of, read_manifest
from edge_centernet.bench import record, resources
from edge_centernet.bench.feed import Feed
from edge_centernet.bench.resources import available_mb, find_meter
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.files import sha256
from edge_centernet.model_zoo import find_model, is_name, ships
from edge_centernet.progress import Progress, Say, unseen
from edge_centernet.runtimes import ENGINES, first_candidate, installed, providers, selfcheck
from edge_centernet.runtimes.engines import CPU, is_cpu
from edge_centernet.system.child import command_of, crash_in_words
from edge_centernet.system.machine import board_status, read_machine

STARTS = 3  # of each configuration; the middle one counts
_TURN_S, _LIVE_TURN_S = 1.0, 3.0  # a camera takes about a second to open
_ROUNDS = (3, 20)  # at least, at most; a longer measurement has longer turns
_WARM_UP_S = 5.0  # at most
_IDLE_S = 2.0  # for the power of the machine at rest
_ROOM = 1.3  # a worker must find this times the memory that the largest one took
_OTHER_S = 8.0  # starts and warm-up of a configuration, roughly
_SLACK_S = 60.0  # beyond the time asked for, before a worker counts as hanging
_END_S = 5.0  # for a process to end by itself

Item = TypeVar("Item")
Words = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is asked for. runtimes: names, or none for all that are installed.

    device: what OpenVINO computes on; another than the CPU leaves the other engines out.
    duration: seconds for each configuration. Raises ConfigError for numbers outside their limits.
    """

    model: str
    runtimes: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1, 2, 4)
    source: str | None = None
    camera: str | None = None
    duration: float = 10.0
    device: str = CPU

    def __post_init__(self) -> None:
        """Check the values."""
        if unknown := [name for name in self.runtimes if name not in ENGINES]:
            raise ConfigError(f"--runtime: expected all, or some of {', '.join(ENGINES)}, got {unknown[0]!r}")
        if not self.threads or min(self.threads) < 1:
            raise ConfigError(f"--threads: expected numbers from 1 on, such as 1,2,4, got {self.threads}")
        if self.source is not None and self.camera is not None:
            raise ConfigError("--source and --camera: expected one of them, got both")
        if not self.duration > 0:
            raise ConfigError(f"--duration: expected more than 0 seconds, got {self.duration}")


@dataclass(frozen=True)
class Configuration:
    """What is measured beside others. path: the model file; cpus: those it is pinned to, one a thread."""

    runtime: str
    threads: int
    path: Path
    cpus: tuple[int, ...]
    device: str = CPU

    @property
    def name(self) -> str:
        """Such as "OpenVINO, 2 threads"."""
        return f"{ENGINES[self.runtime].title}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass
class _Measured:
    """One configuration and what is known of it so far."""

    about: Configuration
    starts: list[dict[str, float]] = field(default_factory=list)
    ready: dict[str, Any] = field(default_factory=dict)
    executed: dict[str, Any] = field(default_factory=dict)
    warm: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)
    group: int = 0


def measure(
    settings: Settings, notify: Say, progress: Progress = unseen, root: Path = Path("/")
) -> record.Record:
    """Measure all that the settings ask for; the record. It says "interrupted" where Ctrl-C ended it early.

    notify: gets a line for what is left out. root: where /sys and /proc are. Raises ConfigError,
    ArtifactError, MissingDependency or SourceError before anything is measured where nothing could be.
    """
    return _Session(settings, notify, progress, root).run()


def configurations(settings: Settings, notify: Say, root: Path = Path("/")) -> list[Configuration]:
    """Each engine with each number of threads, its file and its cores. notify: gets what is left out.

    Raises ConfigError where no number of threads is left, ArtifactError where there is no such model,
    MissingDependency where no engine is installed.
    """
    cpus = resources.ordered(root)
    fits = [count for count in dict.fromkeys(settings.threads) if count <= len(cpus)]
    for count in settings.threads:
        if count not in fits:
            notify(f"{count} threads: left out, this process may use {len(cpus)} cores")
    if not fits:
        raise ConfigError(
            f"--threads: expected {len(cpus)} at most, the cores that may be used, got no such number"
        )
    if settings.runtimes:
        files = {
            name: first_candidate(settings.model, name, settings.device)[0] for name in settings.runtimes
        }
    elif not is_name(settings.model):  # a file: the engine of its suffix
        path, name = first_candidate(settings.model, device=settings.device)
        files = {name: path}
    else:  # a shipped model: every engine that it ships a file for
        able = [
            name
            for name, engine in ENGINES.items()
            if ships(settings.model, engine.suffix) and (engine.devices or is_cpu(settings.device))
        ]
        for name in able:
            if not installed(name):
                notify(f"{ENGINES[name].title}: left out, it is not installed")
        files = {name: find_model(settings.model, ENGINES[name].suffix) for name in able if installed(name)}
        if not files:
            first_candidate(settings.model, device=settings.device)  # raises: no such model, or no engine
            raise MissingDependency.for_extra("bench", "tflite")
    return [
        Configuration(name, count, path, tuple(cpus[:count]), settings.device)
        for name, path in files.items()
        for count in fits
    ]


# ---- a worker ----------------------------------------------------------------------------------------


class WorkerFailed(Exception):
    """A worker did not do what it was asked; the message says why, in a few words. Its process has ended."""


class Worker:
    """A process of `bench.worker`, seen from the one that measures.

    ready: what it said when it had detected for the first time. start_ms: milliseconds of its start, by step
    and in total.
    """

    def __init__(self, about: Configuration, feed: Feed, streamed: bool) -> None:
        """Start it and wait until it is ready. Raises WorkerFailed where it does not come so far."""
        task = {"engine": about.runtime, "path": str(about.path.resolve()), "threads": about.threads}
        task |= {
            "device": about.device,
            "cpus": about.cpus,
            "source": feed.source,
            "camera": feed.camera,
            "streamed": streamed,
        }
        # The first start with TensorRT builds an engine, which takes minutes on a Jetson.
        builds = about.runtime == "onnxruntime" and providers.first_start(about.path)
        self._answers: queue.Queue[str] = queue.Queue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        begun = time.monotonic()
        self._process = subprocess.Popen(
            command_of("edge_centernet.bench.worker", json.dumps(task)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process; a worker ends with its standard input
        )

        def listen() -> None:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self._answers.put(line)
            self._answers.put("")  # the end, whatever the reason

        self._listener = threading.Thread(target=listen, name="answers", daemon=True)
        self._listener.start()
        try:
            self.ready = self._answer(selfcheck.TIMEOUT + (selfcheck.BUILDING if builds else 0.0))
        except BaseException:
            self.kill()
            raise
        # From one moment to the next: interpreter, imports, open, read, detect; and in total. Both processes
        # read the same clock: CLOCK_MONOTONIC counts from the start of the system.
        self.start_ms: dict[str, float] = {}
        before = begun
        for name, moment in self.ready["moments"].items():
            self.start_ms["interpreter" if name == "begun" else name] = 1000.0 * (moment - before)
            before = moment
        self.start_ms["total"] = 1000.0 * (before - begun)

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
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._listener.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._errors.close()

    def kill(self) -> None:
        """End it at once, in whatever it does."""
        self._process.kill()
        self.close()

    def _answer(self, timeout: float) -> Words:
        """The next answer. Raises WorkerFailed where none comes, with the reason for the table."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            raise WorkerFailed(f"did not answer within {timeout:g} s") from None
        if not line:  # it has ended, or at least closed its output
            try:
                status = self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                raise WorkerFailed("closed its output") from None
            if status == -signal.SIGKILL:
                raise WorkerFailed("was killed (SIGKILL; the system does that when memory runs out)")
            if status < 0:
                raise WorkerFailed(crash_in_words(status))
            self._errors.seek(0)
            said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            raise WorkerFailed(f"ended with status {status}" + (f": {said[-1]}" if said else ""))
        words: Words = json.loads(line)
        if "failed" in words:
            raise WorkerFailed(words["failed"])
        return words


# ---- the measurement ---------------------------------------------------------------------------------


class _Session:
    """The state of one measurement."""

    def __init__(self, settings: Settings, notify: Say, progress: Progress, root: Path) -> None:
        self._settings, self._notify, self._progress, self._root = settings, notify, progress, root
        self._feed = Feed(settings.source, settings.camera)
        self._about = self._feed.describe(notify)
        if more := self._about.get("left_out"):
            notify(
                f"only the first {self._about['pictures']} images, which memory holds; {more} are left out"
            )
        self._all = [_Measured(about) for about in configurations(settings, notify, root)]
        self._streamed = self._about["kind"] in ("video", "live")
        turn_s = _LIVE_TURN_S if self._feed.live else _TURN_S
        self._rounds = min(max(round(settings.duration / turn_s), _ROUNDS[0]), _ROUNDS[1])
        self._seconds = settings.duration / self._rounds  # of each turn
        self._failures: list[dict[str, Any]] = []
        self._workers: dict[str, Worker] = {}  # by the name of the configuration; those that live
        self._meter = find_meter(root)
        self._idle_watts: float | None = None
        self._status = board_status(root)  # of the machine at rest
        self._heat: list[float] = []
        self._throttled: set[str] = set()
        self._groups = self._good = 0
        self._begun = time.monotonic()

    def run(self) -> record.Record:
        """See `measure`."""
        interrupted = False
        try:
            # 1. The machine at rest.
            count, total = len(self._all), len(self._all) * (self._settings.duration + _OTHER_S)
            rounds = f"{self._rounds} rounds of {self._seconds:.2g} s each"
            self._notify(
                f"{count} configuration{'s' if count > 1 else ''}, {rounds}: about {total / 60.0:.1f} minutes"
            )
            self._look()
            if not isinstance(self._meter, str):
                self._meter.start()
                time.sleep(_IDLE_S)
                self._idle_watts = round(self._meter.stop() / _IDLE_S, 2)
            # 2. Which configurations run at all.
            left = self._check_and_start()
            self._good = len(left)
            # 3. The last start of each, its warm-up and the rounds.
            while left:
                left = self._group(left)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            for worker in self._workers.values():
                worker.kill() if interrupted else worker.close()
        return self._record(interrupted)

    # ---- the stages ------------------------------------------------------------------------------

    def _check_and_start(self) -> list[_Measured]:
        """Check every engine, and start each configuration all times but the last; those that work."""
        # 1. Engines that are there and pass the model's self-test (docs/decisions/0014-self-check.md).
        left = []
        for number, one in enumerate(self._all):
            name, title = one.about.runtime, ENGINES[one.about.runtime].title
            if not installed(name):
                self._fail(one, str(MissingDependency.for_extra(title, ENGINES[name].extra)))
            elif (reason := selfcheck.selftest_failure(one.about.path, name, one.about.device)) is not None:
                self._fail(one, f"fails its self-check: {reason}")
            else:
                left.append(one)
            self._progress("Checking", number + 1, len(self._all))
        # 2. Starts in turns: what the machine does meanwhile meets all alike.
        total = (STARTS - 1) * len(left)
        failed = []
        for number in range(total):
            one = left[number % len(left)]
            if one not in failed:
                worker = self._start(one)
                if worker is None:
                    failed.append(one)
                elif not one.executed:
                    # Only the first process of each has to find this out, for it takes memory, which must
                    # not be counted in the last one. That there is no answer is one too.
                    try:
                        one.executed = worker.ask("precisions", 30.0)
                    except WorkerFailed as died:
                        how = f"asked for it, the process {died}"
                        one.executed = {"int8": "cannot be told", "how": how, "fast": None}
                self._end(one)
            self._progress("Starting", number + 1, total)
        return [one for one in left if one not in failed]

    def _group(self, left: list[_Measured]) -> list[_Measured]:
        """Start and warm up as many as memory holds, measure them in rounds, end them; returns the rest."""
        # 1. The members: as long as memory holds one more worker like the largest.
        group: list[_Measured] = []
        while left:
            free = available_mb(self._root)
            if group and free is not None and free <= _ROOM * max(one.warm["rss_mb"] for one in group):
                break
            one = left.pop(0)
            if (worker := self._start(one)) is not None:
                at_most = min(_WARM_UP_S, self._settings.duration)
                try:
                    one.warm = worker.ask("warm_up", _WARM_UP_S, at_most=at_most)
                except WorkerFailed as failed:
                    self._fail(one, f"{failed}, in the warm-up")
                else:
                    one.group = self._groups
                    group.append(one)
            self._progress("Warming up", self._good - len(left), self._good)
        self._groups += 1
        # 2. The rounds, in each of which every member that still lives has its turn.
        meter = None if isinstance(self._meter, str) else self._meter
        for number in range(self._rounds):
            for one in turns(group, number):
                if one.about.name not in self._workers:
                    continue
                begun = time.monotonic()
                if meter is not None:
                    meter.start()
                try:
                    turn = self._workers[one.about.name].ask("turn", self._seconds, seconds=self._seconds)
                except WorkerFailed as failed:
                    self._fail(one, f"{failed}, in round {number + 1} of {self._rounds}")
                    continue
                if meter is not None:
                    joules, seconds = meter.stop(), time.monotonic() - begun
                    turn |= {"joules": joules, "asked_s": seconds, "watts": round(joules / seconds, 2)}
                one.turns.append({**turn, "round": number, "at_s": begun - self._begun, **self._look()})
            title = "Rounds" + (f", group {self._groups}" if self._groups > 1 else "")
            self._progress(title, number + 1, self._rounds)
        for one in group:
            self._end(one)
        return left

    # ---- what they share -------------------------------------------------------------------------

    def _start(self, one: _Measured) -> Worker | None:
        try:
            worker = Worker(one.about, self._feed, self._streamed)
        except WorkerFailed as failed:
            self._fail(one, f"{failed}, in its start")
            return None
        self._workers[one.about.name], one.ready = worker, worker.ready
        one.starts.append({**worker.start_ms, "first_inference": worker.ready["first_inference_ms"]})
        return worker

    def _end(self, one: _Measured) -> None:
        if worker := self._workers.pop(one.about.name, None):
            worker.close()

    def _fail(self, one: _Measured, reason: str) -> None:
        self._end(one)
        kept = record.without_paths(reason, one.about.path)
        self._failures.append({"runtime": one.about.runtime, "threads": one.about.threads, "reason": kept})
        self._notify(f"{one.about.name}: {reason}")

    def _look(self) -> dict[str, Any]:
        """The temperature now, for the round's entry; reasons for throttling are collected for the record."""
        status = board_status(self._root)
        self._throttled.update(status.get("throttled") or ())
        if "temperature_c" not in status:
            return {}
        self._heat.append(status["temperature_c"])
        return {"temperature_c": status["temperature_c"]}

    # ---- the record ------------------------------------------------------------------------------

    def _record(self, interrupted: bool) -> record.Record:
        # 1. The machine, without what tells whose machine it is.
        seen = read_machine(self._root)
        names = (
            "kind",
            "board",
            "jetpack",
            "cpu",
            "features",
            "cores",
            "machine",
            "emulated",
            "system",
            "kernel",
        )
        machine = {name: getattr(seen, name) for name in names} | {"features": list(seen.features)}
        machine["memory_total_mb"] = seen.memory_total_mb
        used = {cpu for one in self._all for cpu in one.about.cpus}
        machine["governor"] = resources.governors(used, self._root)
        machine["cpu_quota"] = resources.quota(self._root)
        machine["python"] = seen.python
        # 2. The versions that were measured: those of the workers, not of this process.
        started = [one for one in self._all if one.ready]
        ready: Words = started[0].ready if started else {"versions": {}, "decoder": ""}
        versions = {"edge_centernet": __version__, "decoder": ready["decoder"], **ready["versions"]}
        versions |= {one.about.runtime: selfcheck.version(one.about.runtime) for one in started}
        # 3. The model's files, one of each engine.
        files = {one.about.runtime: one.about.path for one in self._all}
        manifest = read_manifest(self._all[0].about.path).model
        model = {
            "name": manifest.name,
            "version": manifest.version,
            "input": [manifest.width, manifest.height],
            "classes": len(manifest.classes),
            "sha256": {
                name: {part.suffix: sha256(part) for part in files_of(path)} for name, path in files.items()
            },
        }
        # 4. What was measured.
        measured = [one for one in self._all if any(turn["ms"]["end_to_end"] for turn in one.turns)]
        return {
            "kind": record.KIND,
            "format": record.FORMAT,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interrupted": interrupted,
            "machine": machine,
            "versions": versions,
            "model": model,
            "source": self._about,
            "settings": {
                "duration_s": self._settings.duration,
                "rounds": self._rounds,
                "turn_s": round(self._seconds, 3),
                "starts": STARTS,
            },
            "board": self._board(),
            "results": [self._result(one) for one in measured],
            "failures": self._failures,
        }

    def _result(self, one: _Measured) -> record.Record:
        """One row."""
        # Energy is that of the machine while this worker had its turns, the rest of the system included.
        energy = None
        if metered := [turn for turn in one.turns if "joules" in turn]:
            watts = sum(turn["joules"] for turn in metered) / sum(turn["asked_s"] for turn in metered)
            frames = sum(len(turn["ms"]["end_to_end"]) for turn in metered)
            a_frame = watts * sum(turn["seconds"] for turn in metered) / frames
            energy = {"watts": round(watts, 2), "mj_per_frame": round(1000.0 * a_frame, 2)}
        figures = record.figures(one.turns)
        rounds = figures.pop("rounds")  # the longest part of a row comes last
        steady = max(turn["steady_rss_mb"] for turn in one.turns)
        return {
            "runtime": one.about.runtime,
            "precision": one.ready["precision"],
            "threads": one.about.threads,
            **figures,
            "steady_rss_mb": round(steady, 1) if one.warm["steady"] else None,
            "cold_start_ms": record.cold_start(one.starts),
            "executed": {**one.executed, "how": record.without_paths(one.executed["how"], one.about.path)},
            "device": one.ready["device"],
            "cpus": list(one.about.cpus),
            "pinned": one.warm["pinned"],
            "shares_core": resources.shared(one.about.cpus, self._root),
            "warm_up": {"seconds": round(one.warm["seconds"], 2), "settled": one.warm["settled"]},
            "energy": energy,
            "detections": one.ready["found"],
            "group": one.group,
            "rounds": rounds,
        }

    def _board(self) -> dict[str, Any]:
        """Heat, throttling and energy of the whole machine over the whole measurement; null: not known."""
        heat = None
        if self._heat:
            heat = {"before": self._heat[0], "most": max(self._heat), "after": self._heat[-1]}
        energy: dict[str, Any] = {"absent": self._meter}
        if not isinstance(self._meter, str):
            energy = {"meter": self._meter.name, "idle_watts": self._idle_watts}
        return {
            "load_before": self._status.get("load"),
            "temperature_c": heat,
            "throttled": sorted(self._throttled) if "throttled" in self._status else None,
            "energy": energy,
        }


def turns(group: Sequence[Item], number: int) -> list[Item]:
    """The order of round `number`: every second one reverses the one before, the others begin one further on.

    In twice as many rounds as there are members, each has every place twice, and follows another as often as
    it precedes it.
    """
    first = number // 2 % max(len(group), 1)
    order = [*group[first:], *group[:first]]
    return order[::-1] if number % 2 else order
