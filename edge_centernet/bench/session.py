"""A measurement from beginning to end: which configurations, their processes, rounds in turns, the record.

    check each engine  ->  start each two times  ->  start each once more and warm it up  ->  rounds  ->  end

In a round each living worker has one turn, in another order each time, while the others wait: a machine that
gets slower gets slower for all. Where memory does not hold all workers at once they are measured in groups,
one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from edge_centernet import __version__
from edge_centernet.artifact import files_of, read_manifest
from edge_centernet.bench import cores, record
from edge_centernet.bench.feed import Feed
from edge_centernet.bench.meters import available_mb, find_meter
from edge_centernet.bench.workers import Configuration, Worker, WorkerFailed
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.files import sha256
from edge_centernet.model_zoo import find_model, is_name, ships
from edge_centernet.progress import Progress, Say, unseen
from edge_centernet.runtimes import ENGINES, first_candidate, installed, selfcheck
from edge_centernet.system.machine import board_status, read_machine

STARTS = 3  # of each configuration; the middle one counts
_TURN_S, _LIVE_TURN_S = 1.0, 3.0  # a camera takes about a second to open
_ROUNDS = (3, 20)  # at least, at most
_WARM_UP_S = 5.0  # at most
_IDLE_S = 2.0  # for the power of the machine at rest
_ROOM = 1.3  # a worker must find this times the memory that the largest one took
_OTHER_S = 8.0  # starts and warm-up of a configuration, roughly

Item = TypeVar("Item")
Failure = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is asked for. runtimes: names, or none for all that are installed; duration: seconds a configuration.

    Raises ConfigError for numbers outside their limits.
    """

    model: str
    runtimes: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1, 2, 4)
    source: str | None = None
    camera: str | None = None
    duration: float = 10.0

    def __post_init__(self) -> None:
        """Check."""
        if unknown := [name for name in self.runtimes if name not in ENGINES]:
            raise ConfigError(f"--runtime: expected all, or some of {', '.join(ENGINES)}, got {unknown[0]!r}")
        if not self.threads or min(self.threads) < 1:
            raise ConfigError(f"--threads: expected numbers from 1 on, such as 1,2,4, got {self.threads}")
        if self.source is not None and self.camera is not None:
            raise ConfigError("--source and --camera: expected one of them, got both")
        if not self.duration > 0:
            raise ConfigError(f"--duration: expected more than 0 seconds, got {self.duration}")


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
      ArtifactError,
    MissingDependency or SourceError before anything is measured where nothing could be.
    """
    return _Session(settings, notify, progress, root).run()


def configurations(settings: Settings, notify: Say, root: Path = Path("/")) -> list[Configuration]:
    """Each engine with each number of threads, its file and its cores. notify: told what is left out.

    Raises ConfigError where no number of threads is left, ArtifactError where there is no such model,
    MissingDependency where no engine is installed.
    """
    cpus = cores.ordered(root)
    fits = [count for count in dict.fromkeys(settings.threads) if count <= len(cpus)]
    for count in settings.threads:
        if count not in fits:
            notify(f"{count} threads: left out, this process may use {len(cpus)} cores")
    if not fits:
        raise ConfigError(
            f"--threads: expected {len(cpus)} at most, the cores that may be used, got no such number"
        )
    files = _files(settings, notify)
    return [
        Configuration(name, count, path, tuple(cpus[:count]))
        for name, path in files.items()
        for count in fits
    ]


def _files(settings: Settings, notify: Say) -> dict[str, Path]:
    """Engine -> its file of the model."""
    if settings.runtimes:
        return {name: first_candidate(settings.model, name)[0] for name in settings.runtimes}
    if not is_name(settings.model):
        path, name = first_candidate(settings.model)
        return {name: path}
    able = [name for name, engine in ENGINES.items() if ships(settings.model, engine.suffix)]
    for name in able:
        if not installed(name):
            notify(f"{ENGINES[name].title}: left out, it is not installed")
    files = {name: find_model(settings.model, ENGINES[name].suffix) for name in able if installed(name)}
    if not files:
        first_candidate(settings.model)  # raises: no such model, or no engine
        raise MissingDependency.for_extra("bench", "tflite")
    return files


class _Session:
    """The state of one measurement."""

    def __init__(self, settings: Settings, notify: Say, progress: Progress, root: Path) -> None:
        self._settings, self._notify, self._progress, self._root = settings, notify, progress, root
        self._feed = Feed(settings.source, settings.camera)
        self._about = self._feed.describe(notify)
        if more := self._about.get("left_out"):
            notify(
                f"the first {self._about['pictures']} pictures are taken, {more} are left out: memory holds them"
            )
        self._all = [_Measured(about) for about in configurations(settings, notify, root)]
        self._streamed = self._about["kind"] in ("video", "live")
        self._rounds, self._seconds = _rounds(settings.duration, self._feed.live)
        self._failures: list[Failure] = []
        self._workers: dict[str, Worker] = {}  # by the name of the configuration; those that live
        self._meter = find_meter(root)
        self._idle_watts: float | None = None
        self._status = board_status(root)  # of the machine at rest
        self._heat: list[float] = []
        self._brakes: set[str] = set()
        self._groups = self._good = 0
        self._begun = time.monotonic()

    def run(self) -> record.Record:
        """See `measure`."""
        interrupted = False
        try:
            self._before()
            left = self._start_twice(self._checked())
            self._good = len(left)
            while left:
                left = self._group(left)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            for worker in self._workers.values():
                worker.kill() if interrupted else worker.close()
        return self._record(interrupted)

    # ---- the stages ------------------------------------------------------------------------------

    def _before(self) -> None:
        """Tell how long it will take; look at the machine at rest."""
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

    def _checked(self) -> list[_Measured]:
        """Those whose engine is there and answers the model's question rightly (docs/decisions/0014)."""
        good = []
        for number, one in enumerate(self._all):
            name, title = one.about.runtime, ENGINES[one.about.runtime].title
            if not installed(name):
                self._fail(one, str(MissingDependency.for_extra(title, ENGINES[name].extra)))
            elif (reason := selfcheck.selftest_failure(one.about.path, name)) is not None:
                self._fail(one, f"fails its self-check: {reason}")
            else:
                good.append(one)
            self._progress("Checking", number + 1, len(self._all))
        return good

    def _start_twice(self, left: list[_Measured]) -> list[_Measured]:
        """All starts but the last, in turns; the first process also tells the precisions, and keeps that memory."""
        total = (STARTS - 1) * len(left)
        failed = []
        for number in range(total):
            one = left[number % len(left)]
            if one not in failed:
                worker = self._start(one)
                if worker is None:
                    failed.append(one)
                elif not one.executed:
                    one.executed = self._executed(worker)
                self._end(one)
            self._progress("Starting", number + 1, total)
        return [one for one in left if one not in failed]

    def _executed(self, worker: Worker) -> dict[str, Any]:
        try:
            return worker.ask("precisions", 30.0)
        except WorkerFailed as failed:  # that it does not tell is an answer
            return {"int8": "cannot be told", "how": f"asked for it, the process {failed}", "fast": None}

    def _group(self, left: list[_Measured]) -> list[_Measured]:
        """Start and warm up as many as memory holds, measure them in rounds, end them; the rest."""
        group: list[_Measured] = []
        while left and (not group or self._room(group)):
            one = left.pop(0)
            if (worker := self._start(one)) is not None and self._warm_up(one, worker):
                one.group = self._groups
                group.append(one)
            self._progress("Warming up", self._good - len(left), self._good)
        self._groups += 1
        self._measure(group)
        for one in group:
            self._end(one)
        return left

    def _warm_up(self, one: _Measured, worker: Worker) -> bool:
        try:
            one.warm = worker.ask("warm_up", _WARM_UP_S, at_most=min(_WARM_UP_S, self._settings.duration))
        except WorkerFailed as failed:
            self._fail(one, f"{failed}, in the warm-up")
            return False
        return True

    def _measure(self, group: Sequence[_Measured]) -> None:
        """The rounds of one group."""
        for number in range(self._rounds):
            for one in turns(group, number):
                if one.about.name in self._workers:
                    self._turn(one, number)
            self._progress(
                "Rounds" + (f", group {self._groups}" if self._groups > 1 else ""), number + 1, self._rounds
            )

    def _turn(self, one: _Measured, number: int) -> None:
        meter = None if isinstance(self._meter, str) else self._meter
        begun = time.monotonic()
        if meter is not None:
            meter.start()
        try:
            turn = self._workers[one.about.name].ask("turn", self._seconds, seconds=self._seconds)
        except WorkerFailed as failed:
            self._fail(one, f"{failed}, in round {number + 1} of {self._rounds}")
            return
        if meter is not None:
            joules, seconds = meter.stop(), time.monotonic() - begun
            turn |= {"joules": joules, "asked_s": seconds, "watts": round(joules / seconds, 2)}
        one.turns.append({**turn, "round": number, "at_s": begun - self._begun, **self._look()})

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

    def _room(self, group: Sequence[_Measured]) -> bool:
        """Whether memory holds one more worker like the largest."""
        free, largest = available_mb(self._root), max(one.warm["rss_mb"] for one in group)
        return free is None or free > _ROOM * largest

    def _look(self) -> dict[str, Any]:
        """Temperature now; what slows the processor down is kept."""
        status = board_status(self._root)
        self._brakes.update(status.get("throttled") or ())
        if "temperature_c" not in status:
            return {}
        self._heat.append(status["temperature_c"])
        return {"temperature_c": status["temperature_c"]}

    # ---- the record ------------------------------------------------------------------------------

    def _record(self, interrupted: bool) -> record.Record:
        results = [
            self._result(one) for one in self._all if any(turn["ms"]["end_to_end"] for turn in one.turns)
        ]
        measured = [one for one in self._all if one.ready]
        return {
            "kind": record.KIND,
            "format": record.FORMAT,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interrupted": interrupted,
            "machine": self._machine(),
            "versions": self._versions(measured),
            "model": self._model(),
            "source": self._about,
            "settings": {
                "duration_s": self._settings.duration,
                "rounds": self._rounds,
                "turn_s": round(self._seconds, 3),
                "starts": STARTS,
            },
            "board": self._board(),
            "results": results,
            "failures": self._failures,
        }

    def _result(self, one: _Measured) -> record.Record:
        """One row."""
        figures = record.figures(one.turns)
        rounds = figures.pop("rounds")
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
            "shares_core": cores.shared(one.about.cpus, self._root),
            "warm_up": {"seconds": round(one.warm["seconds"], 2), "settled": one.warm["settled"]},
            "energy": self._energy(one),
            "detections": one.ready["found"],
            "group": one.group,
            "rounds": rounds,
        }

    def _energy(self, one: _Measured) -> dict[str, float] | None:
        """Of the machine while this worker had its turns, the rest of the system included."""
        turns = [turn for turn in one.turns if "joules" in turn]
        if not turns:
            return None
        joules, seconds = sum(turn["joules"] for turn in turns), sum(turn["asked_s"] for turn in turns)
        watts = joules / seconds
        frames = sum(len(turn["ms"]["end_to_end"]) for turn in turns)
        a_frame = watts * sum(turn["seconds"] for turn in turns) / frames
        return {"watts": round(watts, 2), "mj_per_frame": round(1000.0 * a_frame, 2)}

    def _machine(self) -> dict[str, Any]:
        """Of `doctor`, without what tells whose machine it is."""
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
        about = {name: getattr(seen, name) for name in names}
        used = {cpu for one in self._all for cpu in one.about.cpus}
        extra: dict[str, Any] = {
            "memory_total_mb": seen.memory_total_mb,
            "governor": cores.governors(used, self._root),
        }
        extra["cpu_quota"] = cores.quota(self._root)
        return {**about, "features": list(seen.features), **extra, "python": seen.python}

    def _versions(self, measured: Sequence[_Measured]) -> dict[str, str]:
        engines = {one.about.runtime: selfcheck.version(one.about.runtime) for one in measured}
        ready: dict[str, Any] = measured[0].ready if measured else {"versions": {}, "decoder": ""}
        return {"edge_centernet": __version__, "decoder": ready["decoder"], **ready["versions"], **engines}

    def _model(self) -> dict[str, Any]:
        files = {one.about.runtime: one.about.path for one in self._all}
        manifest = read_manifest(self._all[0].about.path).model
        digests = {
            name: {part.suffix: sha256(part) for part in files_of(path)} for name, path in files.items()
        }
        return {
            "name": manifest.name,
            "version": manifest.version,
            "input": [manifest.width, manifest.height],
            "classes": len(manifest.classes),
            "sha256": digests,
        }

    def _board(self) -> dict[str, Any]:
        """Heat, brakes and energy of the whole machine over the whole measurement; null: it does not tell."""
        heat = None
        if self._heat:
            heat = {"before": self._heat[0], "most": max(self._heat), "after": self._heat[-1]}
        energy: dict[str, Any] = {"absent": self._meter}
        if not isinstance(self._meter, str):
            energy = {"meter": self._meter.name, "idle_watts": self._idle_watts}
        told = "throttled" in self._status
        return {
            "load_before": self._status.get("load"),
            "temperature_c": heat,
            "throttled": sorted(self._brakes) if told else None,
            "energy": energy,
        }


def turns(group: Sequence[Item], number: int) -> list[Item]:
    """The order of round `number`: every second one is the one before backwards, the others begin one further on.

    In twice as many rounds as there are members, each has every place twice, and follows another as often as
    it precedes it.
    """
    first = number // 2 % max(len(group), 1)
    order = [*group[first:], *group[:first]]
    return order[::-1] if number % 2 else order


def _rounds(duration: float, live: bool) -> tuple[int, float]:
    """(how many, seconds of each turn)."""
    count = min(max(round(duration / (_LIVE_TURN_S if live else _TURN_S)), _ROUNDS[0]), _ROUNDS[1])
    return count, duration / count
