"""From detections to who is where.

`Counter` joins all lines, zones, rooms and rules, `Scene` the tracker and all that follows from it.
Everything looks at the foot point of a track, the middle of its box's lower edge: for a camera that looks
down, that is where the object stands.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import did_you_mean
from edge_centernet.detections import Detections
from edge_centernet.detector import class_ids
from edge_centernet.draw import blur
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten, prepare_folder, write_atomic
from edge_centernet.sources import Frame
from edge_centernet.system.single_slot import Worker
from edge_centernet.tracking.floor import Floor, FloorTracks, Plan
from edge_centernet.tracking.geometry import Seen, Size, foot_points, misplacement
from edge_centernet.tracking.line_counter import Line, LineCounter
from edge_centernet.tracking.presence import PresenceMap
from edge_centernet.tracking.room import MOST_INSIDE, Room, RoomCounter
from edge_centernet.tracking.rules import Rule, RuleWatch
from edge_centernet.tracking.state import Event, Tally, Tracks
from edge_centernet.tracking.tracker import Tracker, TrackerOptions
from edge_centernet.tracking.zone_counter import Zone, ZoneCounter

_NO_ROOMS = "this camera has no rooms; add one with --room, or on its page"
_SAVE_EVERY_S = 10.0  # what a power cut may cost: counts of the last seconds

_log = logging.getLogger(__name__)


class Counter:
    """Counts what tracks do at lines and zones. Its memory is bounded: a track that ended is forgotten.

    Feed it every Tracks of one tracker, in order. Lines and zones that lie outside of the image are logged.
    """

    def __init__(
        self,
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        classes: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
        rooms: Sequence[Room] = (),
        now: Callable[[], datetime] = datetime.now,
        rules: Sequence[Rule] = (),
        camera: str = "",
    ) -> None:
        """Nothing counted yet, or what a state says.

        Args:
            lines: to count crossings of.
            zones: to count visits of, but for those to ignore.
            classes: names by class_id, for the events.
            state: what `state` returned before a restart.
            rooms: of these lines and zones.
            now: the local time, for the quiet hour of a room and the hours of a rule.
            rules: of these zones and rooms.
            camera: its name, for the log; "" where there is only one.

        Raises ConfigError when two lines or zones share a name, for a room or rule of what is not there, for
        an unknown class, or for a state that is none.
        """
        names = [line.name for line in lines] + [zone.name for zone in zones] + [room.name for room in rooms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"lines, zones and rooms: expected different names, got {twice[0]!r} twice")
        zones = [zone for zone in zones if not zone.ignore]
        for room in rooms:
            for what, name, known in [
                *(("line", name, sorted(line.name for line in lines)) for name, _ in room.lines),
                *([("zone", room.zone, sorted(zone.name for zone in zones))] if room.zone else []),
            ]:
                if name not in known:
                    there = f"the {what}s are {', '.join(known)}" if known else f"there are no {what}s"
                    raise ConfigError(
                        f"room {room.name!r}: expected the name of a {what}, got {name!r}; {there}"
                        f"{did_you_mean(name, known)}"
                    )
        self._prefix = f"{camera}: " if camera else ""  # of lines in the log
        self._lines = [LineCounter(line) for line in lines]
        self._zones = [ZoneCounter(zone) for zone in zones]
        self._rooms = [RoomCounter(room) for room in rooms]
        self._rules = self._watches(rules, classes)
        # Rooms to be set before the next frame; bounded, as a camera that is away gives none.
        self._resets: deque[tuple[str, int]] = deque(maxlen=1000)
        self._now = now
        self._classes = tuple(classes)
        self._seconds = 0.0  # of the newest frame
        self._sizes: set[Size] = set()  # of images in which the places of lines and zones were looked at
        if state is not None:
            self.restore(state)

    def _watches(self, rules: Sequence[Rule], classes: Sequence[str]) -> list[RuleWatch]:
        zones = {one.zone.name: one.zone for one in self._zones}
        rooms = {one.room.name for one in self._rooms}
        names = [rule.name for rule in rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"rules: expected different names, got {twice[0]!r} twice")
        watches = []
        for rule in rules:
            queues = [name for name, zone in zones.items() if zone.queue is not None]
            known = queues if rule.kind in ("queue", "waiting") else [*zones]
            what = "a queue (;queue after a zone's points)" if rule.kind in ("queue", "waiting") else "a zone"
            if rule.kind == "capacity" and not rule.classes:  # a room does not tell classes apart
                known, what = [*zones, *rooms], "a zone or room"
            if rule.where not in known:
                raise ConfigError(
                    f"rule {rule.name!r}: expected the name of {what}, "
                    f"{'one of ' + ', '.join(known) if known else 'of which there is none'}; "
                    f"got {rule.where!r}"
                )
            if rule.classes:
                wanted = tuple(classes[i] for i in class_ids(rule.classes, classes))
                rule = replace(rule, classes=wanted)
            zone = zones.get(rule.where)
            watches.append(RuleWatch(rule, (zone.queue or 0.0) if zone else 0.0, self._prefix))
        return watches

    def reset_room(self, name: str, inside: int = 0) -> None:
        """Set the number of persons in a room, before the next frame is counted. May be called on any thread.

        Raises ConfigError for a room that is none, or a number that is not from 0 to 65535.
        """
        rooms = [counter.room.name for counter in self._rooms]
        if name not in rooms:
            raise ConfigError(
                f"room: expected one of {', '.join(rooms)}, got {name!r}" if rooms else _NO_ROOMS
            )
        if isinstance(inside, bool) or not isinstance(inside, int) or not 0 <= inside < MOST_INSIDE:
            raise ConfigError(
                f"room {name!r}: expected a whole number from 0 to {MOST_INSIDE - 1}, got {inside!r}"
            )
        self._resets.append((name, inside))

    def update(self, tracks: Tracks, seconds: float, size: Size) -> Tally:
        """Count one frame. seconds: the frame's own time; size: (width, height) of its image in pixels."""
        if size not in self._sizes:
            self._sizes.add(size)
            shapes: list[Line | Zone] = [one.line for one in self._lines]
            shapes += [one.zone for one in self._zones]
            for shape in shapes:
                if wrong := misplacement(shape.pixels(size), shape.relative, size):
                    kind = type(shape).__name__
                    _log.warning("%s%s %r: %s", self._prefix, kind, shape.name, wrong)
        # Somebody whom the edge of the image cuts off stands in a zone that reaches it: half a pixel inside,
        # not on the edge.
        feet = np.clip(foot_points(tracks.found), 0.5, np.array(size) - 0.5)  # (N, 2)
        boxes = tracks.found.xyxy
        spans = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))  # (N,)
        seen = []
        for id_, class_id, (x, y), span in zip(tracks.id, tracks.found.class_id, feet, spans, strict=True):
            name = self._classes[class_id] if class_id < len(self._classes) else str(class_id)
            seen.append(Seen(int(id_), name, (float(x), float(y)), float(span)))
        self._seconds, now = seconds, self._now()
        events = self._reset(seconds, now)
        for line in self._lines:
            line.update(seen, tracks.ended, seconds, size, events)
        for zone in self._zones:
            zone.update(seen, tracks.ended, seconds, size, events)
        inside = tuple(zone.count() for zone in self._zones)
        for room in self._rooms:
            room.update(events, inside, seconds, now)
        rooms = tuple(room.count() for room in self._rooms)
        if self._rules:
            stays = {zone.zone.name: zone.stays() for zone in self._zones}
            numbers = {room.name: room.inside for room in rooms}
            for watch in self._rules:
                where = watch.rule.where
                watch.update(stays.get(where, ()), numbers.get(where), seconds, now, events)
        return Tally(
            tuple(line.count() for line in self._lines),
            inside,
            tuple(events),
            rooms,
            tuple(watch.state() for watch in self._rules),
        )

    def adopt(self, old: Counter) -> None:
        """Continue what `old` counted at the lines and zones that are in the same place, whatever their name.

        A room of the same name keeps its number of people, whatever its doors are now.
        """
        lines = {replace(one.line, name=""): one for one in old._lines}
        zones = {replace(one.zone, name=""): one for one in old._zones}
        rooms = {one.room.name: one for one in old._rooms}
        # Popped: of two in the same place only one continues.
        for i, line in enumerate(self._lines):
            if (line_before := lines.pop(replace(line.line, name=""), None)) is not None:
                line_before.line, self._lines[i] = line.line, line_before
        for i, zone in enumerate(self._zones):
            if (zone_before := zones.pop(replace(zone.zone, name=""), None)) is not None:
                zone_before.zone, self._zones[i] = zone.zone, zone_before
        for room in self._rooms:
            if room.room.name in rooms:
                room.restore(rooms[room.room.name].totals())
        rules = {one.rule: one for one in old._rules}
        self._rules = [rules.get(watch.rule, watch) for watch in self._rules]
        self._seconds = old._seconds

    def reset(self) -> None:
        """Begin the totals of lines and zones at 0; who is in a room stays there."""
        self.restore({"lines": {}, "zones": {}})

    def _reset(self, seconds: float, now: datetime) -> list[Event]:
        """Set the rooms that somebody asked to be set, and tell of it."""
        events = []
        while self._resets:
            name, inside = self._resets.popleft()
            for counter in self._rooms:
                if counter.room.name == name:
                    counter.set(inside, now)
                    events.append(Event("reset", name, 0, "", seconds, value=inside))
                    _log.info("%sroom %r: set to %d by hand", self._prefix, name, inside)
        return events

    def state(self) -> dict[str, Any]:
        """The totals in types of JSON, without who is on the way or inside: after a restart ids are new."""
        return {
            "lines": {counter.line.name: counter.totals() for counter in self._lines},
            "zones": {counter.zone.name: counter.totals() for counter in self._zones},
            "rooms": {counter.room.name: counter.totals() for counter in self._rooms},
            "rules": {watch.rule.name: watch.totals(self._seconds) for watch in self._rules},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned; lines and zones that it does not name begin at 0.

        Raises ConfigError for anything else.
        """
        try:
            for line in self._lines:
                line.restore(state["lines"].get(line.line.name, {}))
            for zone in self._zones:
                zone.restore(state["zones"].get(zone.zone.name, {}))
            for room in self._rooms:
                room.restore(state.get("rooms", {}).get(room.room.name, {}))
            for watch in self._rules:
                watch.restore(state.get("rules", {}).get(watch.rule.name, {}))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ConfigError(
                "saved counts: expected what Counter.state() returned; remove them to begin at 0"
            ) from None


@dataclass(frozen=True)
class SceneOptions:
    """What to follow and count.

    zones: of people who are counted, or of what is to be ignored.
    track: whether to give ids, where nothing below needs them anyway.
    presence: image file to write, with the classes in `blur` made unrecognisable on it.
    counts: file that keeps the totals over restarts.
    store: whether a store keeps where tracks walk.
    floor: how the image's floor lies. plan: image file to write of it, with presence and paths.
    """

    track: bool = False
    lines: tuple[Line, ...] = ()
    zones: tuple[Zone, ...] = ()
    rooms: tuple[Room, ...] = ()
    rules: tuple[Rule, ...] = ()
    presence: Path | None = None
    counts: Path | None = None
    store: bool = False
    blur: tuple[str, ...] = ()
    floor: Floor | None = None
    plan: Path | None = None

    @property
    def counted(self) -> tuple[Zone, ...]:
        """The zones of which visits are counted."""
        return tuple(zone for zone in self.zones if not zone.ignore)

    @property
    def ignored(self) -> tuple[Zone, ...]:
        """The zones in which nothing is detected."""
        return tuple(zone for zone in self.zones if zone.ignore)

    @property
    def tracks(self) -> bool:
        """Whether anything here needs tracks."""
        return bool(self.track or self.lines or self.counted or self.presence or self.store or self.floor)


class Scene:
    """Follows and counts what one source shows.

    Give it every result, in the order of the frames; close it to write its files.
    """

    def __init__(
        self,
        options: SceneOptions,
        threshold: float | Sequence[float],
        classes: Sequence[str],
        wanted: Sequence[str] | None = None,
        unwritten: Unwritten | None = None,
        camera: str = "",
    ) -> None:
        """Nothing seen yet; totals continue from the counts file if there is one.

        Args:
            options: what to follow and count.
            threshold: score from which a detection is sure, 0..1, for all or for each of `classes`.
            classes: names by class_id.
            wanted: classes to follow and show; all unless given.
            unwritten: is told when the files cannot be written; counting goes on.
            camera: its name, for the log; "" where there is only one.

        Raises ConfigError for an unknown class, a counts file that is none, or a folder of the files that
        cannot be.
        """
        self._options, self._threshold, self._classes = options, threshold, tuple(classes)
        self._camera = camera
        self._requests: SimpleQueue[Callable[[], None]] = SimpleQueue()  # done between two frames
        self._unwritten = Unwritten() if unwritten is None else unwritten
        self._wanted = None if wanted is None else class_ids(wanted, classes)
        self._blurred = class_ids(options.blur, classes) if options.blur else np.zeros(0, np.int32)
        # A class that is only blurred must be looked for all the same.
        self.detector_classes = (
            None if self._wanted is None else [classes[i] for i in sorted({*self._wanted, *self._blurred})]
        )
        self._tracker = Tracker(threshold) if options.tracks else None
        self._part = 0  # Frame.part of the newest frame
        self._sizes: set[Size] = set()  # of images in which the places to ignore were looked at
        self._counter = self._counter_of(options)
        self._presence = PresenceMap() if options.presence else None
        if options.plan is not None and options.floor is None:
            raise ConfigError("--plan draws the floor from above: expected --floor with it")
        self._floor = FloorTracks(options.floor) if options.floor else None
        self._plan = Plan(options.floor) if options.plan and options.floor else None
        self._background: tuple[Frame, NDArray[np.float32]] | None = None  # and the boxes to blur in it
        self._saved_at = time.monotonic()
        if options.counts is not None and self._counter is None:
            raise ConfigError(
                "--counts keeps the totals of lines and zones: expected --count-line or --zone with it"
            )
        if self._counter is not None and options.counts is not None and options.counts.exists():
            try:
                self._counter.restore(json.loads(options.counts.read_text(encoding="utf-8")))
            except (OSError, ValueError, ConfigError) as error:
                # Not a warning and a start at 0: the file of another program would be overwritten.
                raise ConfigError(
                    f"{options.counts}: expected counts that this program wrote: {error}; move the file away"
                ) from None
        for path in (saved := (options.counts, options.presence, options.plan)):
            if path is not None:
                prepare_folder(path.parent, or_later=True)
        # On a thread: flushing to an SD card takes a good part of a second.
        self._saver = Worker("save", self._write, newest=True) if any(saved) else None

    @property
    def detector_threshold(self) -> float | Sequence[float]:
        """The threshold to run the detector with, lower where detections that are not sure are of use.

        Tracking uses them to keep tracks alive, blurring because a box too many costs little.
        """
        if self._tracker is None and not len(self._blurred):
            return self._threshold
        options = TrackerOptions() if self._tracker is None else self._tracker.options
        return options.low_for(self._threshold)

    def _counter_of(self, options: SceneOptions) -> Counter | None:
        """For the places and rules of these options; None where there are none. Raises ConfigError."""
        if not (options.lines or options.counted or options.rooms or options.rules):
            return None
        return Counter(
            options.lines,
            options.zones,
            self._classes,
            rooms=options.rooms,
            rules=options.rules,
            camera=self._camera,
        )

    def change(self, options: SceneOptions) -> None:
        """Count at the lines, zones and rooms of these options from the next frame on.

        What stays in its place counts on (`Counter.adopt`). For any thread. Where nothing was tracked before,
        the detector keeps its threshold, and tracks are lost a little sooner until the next start.
        Raises ConfigError for lines, zones and rooms that do not fit together; nothing is changed then.
        """
        counter = self._counter_of(options)

        def take_over() -> None:
            if counter is not None and self._counter is not None:
                counter.adopt(self._counter)
            self._counter, self._options = counter, options
            if self._tracker is None and options.tracks:
                self._tracker = Tracker(self._threshold)

        self._requests.put(take_over)

    def reset(self) -> None:
        """Begin the totals of lines and zones at 0 with the next frame. For any thread."""
        self._requests.put(lambda: None if self._counter is None else self._counter.reset())

    def reset_room(self, name: str, inside: int = 0) -> None:
        """Set the number of persons in a room, see `Counter.reset_room`. May be called on any thread."""
        if self._counter is None:
            raise ConfigError(_NO_ROOMS)
        self._counter.reset_room(name, inside)

    def update(self, frame: Frame, seen: Detections) -> tuple[Detections, Tracks | None, Tally | None]:
        """Take one result: what to show of all that was seen, the tracks, the counts.

        With tracks, only what they found is shown, so that nobody sees a box that is not counted. Tracks and
        counts are None where the options ask for none.
        """
        while not self._requests.empty():  # this thread alone takes any out
            self._requests.get()()
        found = seen if self._wanted is None else seen[np.isin(seen.class_id, self._wanted)]
        height, width = frame.image.shape[:2]
        found = self._without_ignored(found, (width, height))
        if self._tracker is None:
            return found[found.reaching(self._threshold)], None, None
        if frame.part != self._part:
            self._tracker.end_all()
            self._part = frame.part
        tracks = self._tracker.update(found, frame.seconds)
        if self._floor is not None:
            tracks = self._floor.update(tracks, frame.seconds, (width, height))
        if self._plan is not None:
            self._plan.update(tracks, frame.seconds)
        tally = self._counter.update(tracks, frame.seconds, (width, height)) if self._counter else None
        if self._presence is not None:
            self._presence.update(tracks, frame.seconds, (width, height))
            self._background = frame, seen.xyxy[np.isin(seen.class_id, self._blurred)]
        if self._saver is not None and time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self._saver.add(self._files())
            self._saved_at = time.monotonic()
        return tracks.found, tracks, tally

    def _without_ignored(self, found: Detections, size: Size) -> Detections:
        """Those that do not stand in a zone to ignore. size: (width, height) of the image, pixels."""
        if not (zones := self._options.ignored):
            return found
        if size not in self._sizes:
            self._sizes.add(size)
            for zone in zones:
                if wrong := misplacement(zone.pixels(size), zone.relative, size):
                    prefix = f"{self._camera}: " if self._camera else ""
                    _log.warning("%sZone %r: %s", prefix, zone.name, wrong)
        # Before the tracker, or a poster would take over the track of whoever walks past it.
        feet = np.clip(foot_points(found), 0.5, np.array(size) - 0.5).tolist()
        ignored = np.zeros(len(found), np.bool_)
        for zone in zones:
            ignored |= np.array(zone.hold(feet, size), np.bool_)
        return found[~ignored]

    def close(self) -> None:
        """Write the files a last time."""
        if self._saver is not None:
            self._saver.add(self._files())
            self._saver.close()

    def _files(self) -> _Files:
        # Copies, because the thread writes them while this one counts on; a frame is never changed.
        counts = None if self._counter is None else self._counter.state()
        return _Files(counts, copy.deepcopy(self._presence), self._background, copy.deepcopy(self._plan))

    def _write(self, files: _Files) -> None:
        """All files, on the thread that saves."""
        if self._options.counts is not None and files.counts is not None:
            self._save(self._options.counts, json.dumps(files.counts, ensure_ascii=False, indent=1) + "\n")
        if self._options.presence is not None and files.presence is not None and files.background is not None:
            frame, boxes = files.background
            self._save_picture(
                self._options.presence, files.presence.picture(blur(frame.image.copy(), boxes))
            )
        if self._options.plan is not None and files.plan is not None:
            self._save_picture(self._options.plan, files.plan.picture())

    def _save_picture(self, path: Path, picture: NDArray[np.uint8]) -> None:
        ok, data = cv2.imencode(".png", picture)
        if ok:
            self._save(path, data.tobytes())

    def _save(self, path: Path, content: bytes | str) -> None:
        try:
            write_atomic(path, content)
        except OSError as error:  # what is counted stays in memory, and the next time writes all of it
            self._unwritten.failed(path, error)
        else:
            self._unwritten.written(path)


@dataclass(frozen=True, eq=False)
class _Files:
    """What is to be written, as it was at one moment. background: the frame, and the boxes to blur in it."""

    counts: dict[str, Any] | None
    presence: PresenceMap | None
    background: tuple[Frame, NDArray[np.float32]] | None
    plan: Plan | None
