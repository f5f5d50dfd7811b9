"""How many are in a room that only its doors are watched of, and how sure that is.

In minus out drifts: a few crossings in a hundred are missed, and each of them stays in the difference for
ever. So a room keeps a probability for every number of people instead of one number, which is a Bayesian
filter (a hidden Markov model's forward pass; Rabiner, 1989):

- With each crossing that is counted, the room holds one more or one fewer; and with a small probability one
  more or fewer than that, because somebody went the same way unseen.
- Nobody can leave an empty room. What would be below zero is impossible, and its probability goes to the
  others. A room that "has -3 people" was in truth fuller by three before.
- At a quiet hour, when a zone that covers the room is empty, or by hand, the number is known, and doubt ends.

The answer is the median, and the interval that holds 95 % of the probability: it widens with every crossing
since the last time the number was known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError
from edge_centernet.tracking.state import Event, RoomCount, ZoneCount

# Share of crossings that are missed where nobody has measured it (`audit` does). On PETS 2009 the tracker
# behind the shipped models misses up to one crossing in fourteen; a line in a good place misses fewer.
_MISSED = 0.03
# Probability that the interval is given by the filter: more than the 95 % that are promised, as the share of
# missed crossings is itself only an estimate.
_SURE = 0.97
_NEGLIGIBLE = 1e-9  # probabilities below it are dropped from both ends, so that the filter stays small
MOST_INSIDE = (
    1 << 16
)  # persons; a larger room than any, so that a state from a damaged file cannot take the memory


@dataclass(frozen=True)
class Room:
    """A room whose doors are lines.

    lines: name of each, and 1 where its "in" leads into the room, -1 where it leads out of it.
    reset: time of day at which the room is empty every day; None if there is none.
    zone: name of a zone that covers the whole room: when nobody has been in it for a minute, the room is
        empty; "" if there is none.
    missed: share of crossings that are not counted, 0 to below 0.5.
    """

    name: str
    lines: tuple[tuple[str, int], ...]
    reset: time | None = None
    zone: str = ""
    missed: float = _MISSED

    def __post_init__(self) -> None:
        """Raises ConfigError for a room without lines, a line named twice, or an impossible share."""
        names = [name for name, _ in self.lines]
        if not names or len({*names}) < len(names):
            raise ConfigError(f"room {self.name!r}: expected the names of different lines, got {names}")
        if not 0 <= self.missed < 0.5:
            raise ConfigError(f"room {self.name!r}: expected missed from 0 to below 0.5, got {self.missed:g}")


def parse_room(text: str, index: int = 1) -> Room:
    """The room that "[NAME=]LINE,-LINE,...[;reset=HH:MM][;empty=ZONE][;missed=0.03]" describes.

    "-" before a line: its "in" leads out of the room. Without a name it is "room INDEX". Raises ConfigError.
    """
    head, *settings = (part.strip() for part in text.split(";"))
    name, equals, lines = head.partition("=")
    if not equals:
        name, lines = f"room {index}", head
    given: dict[str, Any] = {}
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        if key == "reset" and (match := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", value)):
            given["reset"] = time(int(match[1]), int(match[2]))
        elif key == "empty" and value:
            given["zone"] = value
        elif key == "missed" and re.fullmatch(r"0?\.\d+|0", value):
            given["missed"] = float(value)
        else:
            raise ConfigError(
                f"room {name.strip()!r}: expected reset=HH:MM, empty=ZONE or missed=0.03, got {setting!r}"
            )
    doors = [line.strip() for line in lines.split(",") if line.strip()]
    signed = tuple((line.removeprefix("-").strip(), -1 if line.startswith("-") else 1) for line in doors)
    return Room(name.strip(), signed, **given)


class RoomCounter:
    """One room, and the probability of each number of people in it."""

    def __init__(self, room: Room) -> None:
        """Empty, and known to be."""
        self.room = room
        self._ways = dict(room.lines)
        self._first, self._chance = 0, np.ones(1)
        self._entered = 0
        self._known: datetime | None = None  # when the number was last known
        self._vacant: float | None = None  # since when nobody is in the zone, in the source's seconds

    def update(
        self, events: Iterable[Event], zones: Sequence[ZoneCount], seconds: float, now: datetime
    ) -> None:
        """Take one frame's events. seconds: of the frame. now: the local time, for the quiet hour."""
        if self._known is None:
            self._known = now
        # 1. The quiet hour has come since the number was last known.
        if self.room.reset is not None:
            today = now.replace(
                hour=self.room.reset.hour, minute=self.room.reset.minute, second=0, microsecond=0
            )
            last = today if today <= now else today - timedelta(days=1)
            if self._known < last:
                self.set(0, now)
        # 2. Crossings.
        for event in events:
            way = self._ways.get(event.where) if event.kind == "crossed" else None
            if way is not None:
                inward = (event.direction == "in") == (way > 0)
                self._entered += inward
                self._step(1 if inward else -1)
        # 3. A zone that shows the whole room and has been empty for a minute.
        inside = next((zone.inside for zone in zones if zone.name == self.room.zone), None)
        if inside is None or inside > 0:
            self._vacant = None
        elif self._vacant is None:
            self._vacant = seconds
        elif seconds - self._vacant >= 60:
            self.set(0, now)

    def set(self, number: int, now: datetime) -> None:
        """Somebody has counted: there are `number` people in the room."""
        self._first, self._chance, self._known = number, np.ones(1), now

    def _step(self, way: int) -> None:
        """One crossing: everybody's number moves by `way`, and with some probability by one more."""
        # Each counted crossing stands for 1 / (1 - missed) of them.
        unseen = self.room.missed / (1 - self.room.missed)
        chance = np.zeros(len(self._chance) + 1)
        if way > 0:
            chance[:-1], first = self._chance * (1 - unseen), self._first + 1
            chance[1:] += self._chance * unseen
        else:
            chance[1:], first = self._chance * (1 - unseen), self._first - 2
            chance[:-1] += self._chance * unseen
        # Nobody leaves an empty room: what is below zero did not happen.
        if first < 0:
            chance, first = chance[-first:], 0
        if not chance.sum() > 0:  # certainly empty, and yet somebody left: one came in unseen
            self._first, self._chance = 0, np.ones(1)
            return
        chance = chance / chance.sum()
        kept = np.flatnonzero(chance > _NEGLIGIBLE)
        self._first = first + int(kept[0])
        self._chance = chance[kept[0] : kept[-1] + 1]

    def _at(self, share: float) -> int:
        """The number below or at which this share of the probability lies."""
        return self._first + int(np.searchsorted(np.cumsum(self._chance), share * (1 - 1e-12)))

    def count(self) -> RoomCount:
        """The most likely number in the room, and the interval that holds it."""
        rest = (1 - _SURE) / 2
        return RoomCount(self.room.name, self._at(0.5), self._at(rest), self._at(1 - rest), self._entered)

    def totals(self) -> dict[str, Any]:
        """The state in types of JSON, for `restore`."""
        return {
            "entered": self._entered,
            "first": self._first,
            "chance": [float(f"{one:.6g}") for one in self._chance],
            "known": None if self._known is None else self._known.isoformat(),
        }

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Continue from what `totals` returned. Raises ValueError or TypeError for anything else."""
        if not totals:
            return
        chance: NDArray[np.float64] = np.array(totals["chance"], np.float64)
        first, entered = totals["first"], totals["entered"]
        whole = (
            isinstance(first, int) and isinstance(entered, int) and 0 <= first < MOST_INSIDE and entered >= 0
        )
        if not whole or chance.ndim != 1 or not 0 < len(chance) < MOST_INSIDE or not (chance >= 0).all():
            raise ValueError(totals)
        if not math.isclose(chance.sum(), 1, rel_tol=1e-3):
            raise ValueError(totals)
        self._first, self._chance, self._entered = first, chance / chance.sum(), entered
        self._known = None if totals["known"] is None else datetime.fromisoformat(totals["known"])
