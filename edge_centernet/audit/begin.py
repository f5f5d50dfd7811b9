"""An audit that was begun and not finished goes on; else a new one begins, of a video or of kept paths."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_centernet.audit.recording import VideoRecording, count_crossings
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.history.audit import Audit, Crossing, choose_stretches, kept
from edge_centernet.history.store import Store, StoredEvent, keep_audit, open_store
from edge_centernet.history.summary import clip, find_zone, moment
from edge_centernet.progress import Progress
from edge_centernet.runtimes.base import Runtime
from edge_centernet.tracking.line_counter import Line

_EMPTY_MS = 3_600_000  # so long without a path there is nothing to watch
_SQLITE = b"SQLite format 3\0"  # what such a file begins with


@dataclass(frozen=True)
class Plan:
    """How much is to be watched.

    minutes: in all. stretches: in how many parts. tolerance: seconds between two crossings that are one.
    anew: whether to begin another audit where one is not finished.
    """

    minutes: float = 20.0
    stretches: int = 4
    tolerance: float = 2.0
    anew: bool = False


@dataclass(frozen=True)
class Detection:
    """What decides what is counted in a video; see the options of `detect`."""

    open_model: Callable[[], Runtime]
    threshold: float | None = None
    classes: tuple[str, ...] | None = None
    max_detections: int = 100


def is_store(path: Path) -> bool:
    """Whether this file is a database. Raises SourceError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise SourceError(f"{path}: expected a video or a store, {error.strerror}") from None


def audit_video(
    path: Path, store: Path, lines: Sequence[Line], detection: Detection, plan: Plan, progress: Progress
) -> Audit:
    """The audit of a video, kept in a store; what was counted before with the same settings is not again.

    Args:
        path: of the video.
        store: made if it is not there; it then holds what was counted in the video, too.
        lines: to watch.
        detection: what decides what is counted.
        plan: how much is to be watched.
        progress: told of frames.

    Raises SourceError, StoreError, ConfigError, and what opening the model raises.
    """
    video = VideoRecording(path)
    try:
        there = kept(store) if store.exists() else []
        runtime = detection.open_model()
        try:
            model = runtime.manifest
            setup = {
                "kind": "video",
                "source": path.name,
                "bytes": path.stat().st_size,
                "lines": _texts(lines),
                "model": f"{model.model.name} {model.model.version}",
                "manifest": hashlib.sha256(model.to_json().encode()).hexdigest(),
                "threshold": detection.threshold,
                "classes": None if detection.classes is None else list(detection.classes),
                "max_detections": detection.max_detections,
            }
            if (last := _last(there, setup)) is not None and not (last.finished or plan.anew):
                return last
            if last is None:
                counted, who, length = count_crossings(
                    video, runtime, lines, detection.threshold, detection.classes, detection.max_detections,
                    progress,
                )  # fmt: skip
            else:
                counted, who, length = last.counted, last.who, last.spans[0][1]
        finally:
            runtime.close()
    finally:
        video.close()
    audit = _new(setup, who, lines, [(0.0, length)], counted, plan)
    if not store.exists():
        _make_store(store, path.name, audit)
    return _kept(store, audit)


def audit_paths(store: Path, lines: Sequence[Line], begin: str | None, end: str | None, plan: Plan) -> Audit:
    """The audit of kept paths beside the crossings that were counted then.

    Args:
        store: from `detect --store`.
        lines: as they were when it counted; a store has only their names.
        begin: date or time, as in reports; the beginning of the paths if not given.
        end: likewise.
        plan: how much is to be watched.

    Raises StoreError, and ConfigError for lines that are not in it or a time in which nothing was kept.
    """
    with closing(open_store(store)) as base:
        camera, zone = base.execute("SELECT camera, zone FROM run ORDER BY id DESC LIMIT 1").fetchone()
        names = {name for (name,) in base.execute("SELECT DISTINCT place FROM event WHERE kind = 'crossed'")}
        if unknown := [line.name for line in lines if line.name not in names]:
            raise ConfigError(
                f"--count-line: expected the lines that {store} has crossings of "
                f"({', '.join(sorted(names)) or 'none'}), got {unknown[0]!r}"
            )
        first, last = base.execute("SELECT min(began), max(ended) FROM path").fetchone()
        if first is not None and begin is not None:
            first = max(first, moment(begin, find_zone(zone), whole_day=False))
        if last is not None and end is not None:
            last = min(last, moment(end, find_zone(zone), whole_day=True))
        if first is None or last <= first:
            raise ConfigError(f"{store}: expected kept paths in the time that is asked for, found none")
        spans = [((a - first) / 1000, (b - first) / 1000) for a, b in _with_somebody(base, first, last)]
        rows = base.execute(
            "SELECT time, place, direction, class FROM event WHERE kind = 'crossed' AND time BETWEEN ? AND ?",
            (first, last),
        ).fetchall()
    wanted = {line.name for line in lines}
    counted = [Crossing((at - first) / 1000, name, way) for at, name, way, _ in rows if name in wanted]
    setup = {"kind": "paths", "source": camera, "began": first, "lines": _texts(lines), "asked": [begin, end]}
    who = "objects" if {name for *_, name in rows} - {"person"} else "people"
    there = kept(store)
    # The oldest paths go day by day: what was begun goes on where it began.
    same = [one for one in there if {**one.setup, "began": first} == setup]
    if same and not (same[-1].finished or plan.anew):
        return same[-1]
    return _kept(store, _new(setup, who, lines, spans, counted, plan))


def _with_somebody(base: sqlite3.Connection, began: int, ended: int) -> list[tuple[int, int]]:
    """When the camera looked between two times (milliseconds), without hours in which nobody walked."""
    away = base.execute("SELECT began, ended, reason FROM gap").fetchall()
    reached = began
    for a, b in base.execute("SELECT began, ended FROM path WHERE ended >= ? ORDER BY began", (began,)):
        if a - reached > _EMPTY_MS:
            away.append((reached, a, "empty"))
        reached = max(reached, b)
    spans, at = [], began
    for a, b, _ in [*clip(away, began, ended), (ended, ended, "")]:
        if a > at:
            spans.append((at, a))
        at = b
    return spans


def _texts(lines: Sequence[Line]) -> list[list[Any]]:
    return [[line.name, *line.start, *line.end, line.relative] for line in lines]


def _last(there: Sequence[Audit], setup: dict[str, Any]) -> Audit | None:
    return next((audit for audit in reversed(there) if audit.setup == setup), None)


def _new(
    setup: dict[str, Any],
    who: str,
    lines: Sequence[Line],
    spans: list[tuple[float, float]],
    counted: list[Crossing],
    plan: Plan,
) -> Audit:
    stretches = choose_stretches(
        spans, counted, plan.minutes, plan.stretches, plan.tolerance, random.SystemRandom()
    )
    names = [line.name for line in lines]
    began = round(time.time() * 1000)
    return Audit(setup, who, names, plan.tolerance, spans, counted, stretches, began)


def _kept(store: Path, audit: Audit) -> Audit:
    audit.number = keep_audit(store, None, audit.began, audit.began, audit.record())
    return audit


def _make_store(path: Path, name: str, audit: Audit) -> None:
    """A store for this video alone, as `detect --store` makes one: timed as if it ended now."""
    end = audit.began
    begin = end - round(1000 * audit.spans[0][1])
    kind = "person" if audit.who == "people" else "object"
    store = Store(path, name, begin)
    events = [
        StoredEvent(begin + round(1000 * at), "crossed", line, way, kind, 0)
        for at, line, way in audit.counted
    ]
    store.add(end, events)
    store.close()
