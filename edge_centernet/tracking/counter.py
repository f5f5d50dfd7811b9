"""Counts what tracks do at lines and in zones.

Everything looks at the foot point of a track, the middle of its box's lower edge: for a camera that looks
down, that is where the object stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_centernet.errors import ConfigError
from edge_centernet.tracking.geometry import Seen, Size, foot_points
from edge_centernet.tracking.line_counter import Line, LineCounter
from edge_centernet.tracking.state import Event, Tally, Tracks
from edge_centernet.tracking.zone_counter import Zone, ZoneCounter


class Counter:
    """Counts what tracks do at lines and zones. Its memory is bounded: a track that ended is forgotten.

    Feed it every Tracks of one tracker, in order.
    """

    def __init__(
        self,
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        classes: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """classes: names by class_id, for the events. state: what `state` returned before a restart.

        Raises ConfigError when two lines or zones share a name, or for a state that is none.
        """
        names = [line.name for line in lines] + [zone.name for zone in zones]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"lines and zones: expected different names, got {twice[0]!r} twice")
        self._lines = [LineCounter(line) for line in lines]
        self._zones = [ZoneCounter(zone) for zone in zones]
        self._classes = tuple(classes)
        if state is not None:
            self.restore(state)

    def update(self, tracks: Tracks, seconds: float, size: Size) -> Tally:
        """Count one frame. seconds: the frame's own time; size: (width, height) of its picture in pixels."""
        # Who is cut off by the edge of the picture stands in a zone that reaches it: half a pixel inside, not
        # on it.
        feet = np.clip(foot_points(tracks), 0.5, np.array(size) - 0.5)
        boxes = tracks.found.xyxy
        spans = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        seen = [
            Seen(int(id_), self._class_name(int(class_id)), (float(x), float(y)), float(span))
            for id_, class_id, (x, y), span in zip(tracks.id, tracks.found.class_id, feet, spans, strict=True)
        ]
        events: list[Event] = []
        for line in self._lines:
            line.update(seen, tracks.ended, seconds, size, events)
        for zone in self._zones:
            zone.update(seen, tracks.ended, seconds, size, events)
        return self._tally(seconds, events)

    def state(self) -> dict[str, Any]:
        """The totals as JSON can hold them. Who is on the way or inside is not kept."""
        return {
            "lines": {counter.line.name: counter.totals() for counter in self._lines},
            "zones": {counter.zone.name: counter.totals() for counter in self._zones},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; lines and zones that it does not name begin at 0. Raises ConfigError."""
        try:
            for line in self._lines:
                line.restore(state["lines"].get(line.line.name, {}))
            for zone in self._zones:
                zone.restore(state["zones"].get(zone.zone.name, {}))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ConfigError(
                "kept counts: expected what Counter.state() returned; remove them to begin at 0"
            ) from None

    def _class_name(self, class_id: int) -> str:
        return self._classes[class_id] if class_id < len(self._classes) else str(class_id)

    def _tally(self, seconds: float, events: list[Event]) -> Tally:
        return Tally(
            tuple(counter.count() for counter in self._lines),
            tuple(counter.count(seconds) for counter in self._zones),
            tuple(events),
        )
