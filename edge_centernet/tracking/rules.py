"""Alerts: a queue that is too long, somebody who waits or loiters, a place that is full.

A rule looks at one number of a zone or room. Two things keep its alert from flapping. The number at which it
ends is lower than the one at which it begins (hysteresis), and each has to last: `lasting` seconds to begin,
`hold` seconds to end.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edge_centernet.errors import ConfigError
from edge_centernet.tracking.state import Event, RuleState
from edge_centernet.tracking.zone_counter import Stay

# What a rule looks at, and the seconds for which it has to last to begin, unless the rule says otherwise. A
# track that gets a new id is counted twice until the tracker gives up the old one, after 2.5 s.
KINDS = {"queue": 10.0, "waiting": 0.0, "loitering": 0.0, "capacity": 3.0}
_TIMES = ("waiting", "loitering")  # their limit is in seconds, that of the others in persons
_HOLD_S = 10.0
# After a start it takes so long until all who are there have a track again; no alert ends before.
_BLIND_S = 10.0
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = (
    "[NAME=]KIND,PLACE,LIMIT[;for=SECONDS][;clear=NUMBER][;hold=SECONDS][;hours=09:00-18:00][;days=mon-fri]"
    "[;classes=A,B]"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """When there is an alert.

    kind: "queue": more than `limit` persons wait in a queue. "waiting": somebody has waited there for more
        than `limit` seconds. "loitering": somebody has been in a zone for more than `limit` seconds.
        "capacity": `limit` persons or more are in a zone or room.
    where: name of the zone or room.
    lasting: seconds for which that has to last until the alert begins, 0 and up.
    clear: the alert ends when the number is this or lower; below the one at which it begins.
    hold: and has been so for as many seconds, 0 and up.
    classes: names of those that count; all if empty.
    hours: minutes since midnight, from (inclusive) and to (exclusive), in local time; over midnight where the
        second is lower. None for the whole day.
    days: weekdays on which these hours begin, 0 for Monday; all if empty.
    """

    name: str
    kind: str
    where: str
    limit: float
    lasting: float
    clear: float
    hold: float = _HOLD_S
    classes: tuple[str, ...] = ()
    hours: tuple[int, int] | None = None
    days: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Raises ConfigError for another kind, a limit that is none, or one that no alert could end below."""
        if self.kind not in KINDS:
            raise ConfigError(f"rule {self.name!r}: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        least = 1 if self.kind == "capacity" else 0
        if not least <= self.limit < math.inf:
            raise ConfigError(f"rule {self.name!r}: expected a limit from {least}, got {self.limit:g}")
        if self.over(self.clear):
            raise ConfigError(
                f"rule {self.name!r}: expected clear below what the alert begins at, got {self.clear:g} with "
                f"a limit of {self.limit:g}"
            )

    def over(self, value: float) -> bool:
        """Whether a number is one to begin at."""
        return value >= self.limit if self.kind == "capacity" else value > self.limit

    def applies(self, now: datetime) -> bool:
        """Whether the rule is in force at a local time."""
        day, minute = now.weekday(), 60 * now.hour + now.minute
        if self.hours is not None:
            begin, end = self.hours
            if begin < end:
                if not begin <= minute < end:
                    return False
            elif minute < end:
                day = (day - 1) % 7  # the night that began yesterday
            elif minute < begin:
                return False
        return not self.days or day in self.days


def parse_rule(text: str, index: int = 1) -> Rule:
    """The rule that "[NAME=]KIND,PLACE,LIMIT[;SETTING=VALUE]..." describes: "busy=queue,till,5;for=30".

    Settings are for, clear and hold (numbers), hours (09:00-18:00), days (mon-fri or sat,sun) and classes
    (A,B). Without a name it is "rule INDEX". Unless it says otherwise it begins after `KINDS` seconds and
    ends after 10, and of persons a tenth and one below the number at which it begins. Raises ConfigError.
    """
    head, *settings = (part.strip() for part in text.split(";"))
    name, equals, what = (part.strip() for part in head.partition("="))
    if not equals:
        name, what = f"rule {index}", head
    if not name or not name.isprintable() or len(name) > 64:
        raise ConfigError(f"rule {text!r}: expected a name of 1 to 64 printable characters before '='")
    kind, _, rest = (part.strip() for part in what.partition(","))
    where, _, limit = (part.strip() for part in rest.rpartition(","))  # a zone's name may hold a comma
    number = _number(limit)
    if kind not in KINDS or not where or number is None:
        raise ConfigError(f"rule {name!r}: expected {_FORM} with one of {', '.join(KINDS)}, got {text!r}")
    given: dict[str, Any] = {"lasting": KINDS[kind], "clear": number}
    if kind not in _TIMES:
        first = number if kind == "capacity" else math.floor(number) + 1
        given["clear"] = max(0, math.ceil(first) - 1 - first // 10)
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        if key in ("for", "clear", "hold") and (seconds := _number(value)) is not None:
            given["lasting" if key == "for" else key] = seconds
        elif key == "hours" and (hours := _hours(value)):
            given["hours"] = hours
        elif key == "days" and (days := _weekdays(value)):
            given["days"] = days
        elif key == "classes" and value:
            given["classes"] = tuple(one.strip() for one in value.split(","))
        else:
            raise ConfigError(
                f"rule {name!r}: expected for=SECONDS, clear=NUMBER, hold=SECONDS, hours=09:00-18:00, "
                f"days=mon-fri or classes=A,B, got {setting!r}"
            )
    return Rule(name, kind, where, number, **given)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d*)?", text) else None


def _hours(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d\d?):([0-5]\d)-(\d\d?):([0-5]\d)", text.replace(" ", ""))
    if match is None:
        return None
    begin, end = 60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4])
    return (begin, end) if begin < 1440 >= end and begin != end else None


def _weekdays(text: str) -> frozenset[int]:
    """Of "mon-fri" or "sat,sun"; empty where it is neither."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = (one.strip() for one in part.partition("-"))
        if first not in _DAYS or (dash and last not in _DAYS):
            return frozenset()
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + i) % 7 for i in range(length + 1))
    return frozenset(days)


class RuleWatch:
    """One rule, and whether its alert is on."""

    def __init__(self, rule: Rule, settles: float = 0.0, prefix: str = "") -> None:
        """No alert. settles: seconds until somebody who is seen in the place is counted there.

        prefix: of lines in the log, where there are several cameras.
        """
        self.rule, self._prefix = rule, prefix
        self._blind_s = _BLIND_S + settles + (rule.limit if rule.kind in _TIMES else 0.0)
        self._active = False
        self._value = self._most = 0.0
        self._since: float | None = None  # since when the number says to begin, or to end
        self._began = 0.0
        self._blind_until = -math.inf
        self._continued: float | None = None  # seconds for which an alert before a restart had lasted

    def update(
        self, stays: Sequence[Stay], room: int | None, seconds: float, now: datetime, events: list[Event]
    ) -> None:
        """Look at one frame.

        Args:
            stays: who is in the rule's zone.
            room: how many are in the rule's room; None for a rule of a zone.
            seconds: the frame's own time.
            now: the local time, for the hours.
            events: what begins or ends is appended to it.
        """
        rule = self.rule
        if self._continued is not None:
            self._began, self._blind_until = seconds - self._continued, seconds + self._blind_s
            self._continued = None
        counted = [stay for stay in stays if not rule.classes or stay.class_name in rule.classes]
        if rule.kind in ("queue", "waiting"):
            counted = [stay for stay in counted if stay.waits]
        longest = max(counted, key=lambda stay: stay.seconds, default=None)
        if rule.kind in _TIMES:
            self._value = 0.0 if longest is None else longest.seconds
        else:
            self._value = len(counted) if room is None else room
        in_force = rule.applies(now)
        if self._active:
            self._most = max(self._most, self._value)
            turns = self._value <= rule.clear and seconds >= self._blind_until
        else:
            turns = in_force and rule.over(self._value)
        # The earlier of the two, as a source's clock may go back.
        self._since = min(seconds, self._since if self._since is not None else seconds) if turns else None
        lasted = 0.0 if self._since is None else seconds - self._since
        if self._active and (not in_force or (turns and lasted >= rule.hold)):
            self._turn(False, None, seconds, events)
        elif not self._active and turns and lasted >= rule.lasting:
            self._turn(True, longest if rule.kind in _TIMES else None, seconds, events)

    def _turn(self, active: bool, who: Stay | None, seconds: float, events: list[Event]) -> None:
        rule = self.rule
        self._active, self._since = active, None
        unit = "s" if rule.kind in _TIMES else "persons"
        if active:
            self._began, self._most = seconds, self._value
            where = f"{rule.kind} at {rule.where}"
            _log.warning("%salert %r: %s: %g %s", self._prefix, rule.name, where, self._value, unit)
        else:
            _log.info("%salert %r ended: at most %g %s", self._prefix, rule.name, self._most, unit)
        events.append(
            Event(
                "alert",
                rule.where,
                who.track_id if who else 0,
                who.class_name if who else "",
                seconds,
                dwell_s=0.0 if active else max(0.0, seconds - self._began),
                rule=rule.name,
                state="began" if active else "ended",
                value=self._most,
            )
        )

    def state(self) -> RuleState:
        """As it is now."""
        return RuleState(self.rule.name, self.rule.kind, self.rule.where, self._active, self._value)

    def totals(self, seconds: float) -> dict[str, Any]:
        """What a restart must know, in types of JSON, for `restore`. seconds: of the newest frame."""
        if not self._active:
            return {}
        lasted = max(0.0, seconds - self._began) if self._continued is None else self._continued
        return {"active": True, "most": self._most, "lasted_s": round(lasted, 1)}

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Continue from what `totals` returned: an alert that was on is not told of again.

        It ends no sooner than those who are there could have been counted again.
        Raises AttributeError, KeyError, TypeError or ValueError for anything else.
        """
        if totals.get("active") is not True:
            return
        self._most, self._continued = float(totals["most"]), float(totals["lasted_s"])
        if not (0 <= self._most < math.inf and 0 <= self._continued < math.inf):
            raise ValueError(totals)
        self._active = True
