"""How right counts are: what somebody saw while watching a recording, beside what was counted there.

Crossings that were seen and crossings that were counted are matched one to one, line by line and direction by
direction, where they lie within a tolerance in time. What is left on one side was missed, on the other extra.
Only stretches that were watched to the end of the tolerance are compared. All that is needed to go on later,
and to compute the figures anew, is kept in the store.
"""

from __future__ import annotations

import bisect
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

from edge_centernet.errors import ConfigError
from edge_centernet.history.store import kept_audits

_Z = 1.959964  # of the normal distribution: both tails beyond it hold 5 %
_TAIL = 0.025  # one of them


class Interval(NamedTuple):
    """An estimate, and the bounds that hold the true value with 95 %."""

    value: float
    low: float
    high: float


def share(hits: int, total: int) -> Interval | None:
    """The part of `total` that `hits` are, with the interval of Wilson (1927); None of nothing."""
    if not total:
        return None
    p, z2 = hits / total, _Z * _Z / total
    middle = (p + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(p * (1 - p) / total + z2 / (4 * total)) / (1 + z2)
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def expectation(count: int) -> Interval:
    """The mean of a Poisson distribution that gave `count`: the exact interval of Garwood (1936)."""

    def below(mean: float) -> float:  # P(at most `count`)
        return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))

    def exactly(mean: float) -> float:
        return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))

    top = count + 10 * math.sqrt(count + 1)
    low = _root(lambda mean: (1 - below(mean) + exactly(mean)) - _TAIL, top) if count else 0.0
    return Interval(float(count), low, _root(lambda mean: _TAIL - below(mean), top))


def _root(rising: Callable[[float], float], top: float) -> float:
    """Where a rising function of a number between 0 and `top` is 0, by halving."""
    low = 0.0
    for _ in range(60):
        middle = (low + top) / 2
        low, top = (middle, top) if rising(middle) < 0 else (low, middle)
    return top


def net_error(true: int, missed: int, extra: int) -> Interval | None:
    """(counted - true) / true, where those extra are weighed against those missed; None where nobody crossed.

    The interval of a difference from those of its parts (MOVER: Zou and Donner 2008), of which the missed are
    a share of those who crossed, and the extra come by themselves, as a Poisson process.
    """
    loss = share(missed, true)
    if loss is None:
        return None
    gain = Interval(*(bound / true for bound in expectation(extra)))
    value = gain.value - loss.value
    low = value - math.hypot(gain.value - gain.low, loss.high - loss.value)
    high = value + math.hypot(gain.high - gain.value, loss.value - loss.low)
    return Interval(value, max(-1.0, low), high)


class Crossing(NamedTuple):
    """seconds: since the recording began. direction: "in" or "out"."""

    seconds: float
    line: str
    direction: str


@dataclass
class Stretch:
    """A part of the recording that is compared, and the part around it that is played.

    began, ended: what is compared, seconds. first, last: what is played: a tolerance more on both sides, so
    that nobody is missed who was counted just outside. reached: up to where it was watched.
    """

    began: float
    ended: float
    first: float
    last: float
    reached: float

    def until(self, tolerance: float) -> float:
        """The end of what can be compared now; not above `began` if it is nothing yet."""
        return self.ended if self.reached >= self.last else min(self.ended, self.reached - tolerance)


@dataclass(frozen=True)
class Score:
    """What came out for one line and direction. true: how many crossed; matched: of those, counted."""

    line: str
    direction: str
    true: int
    matched: int
    extra: int

    @property
    def missed(self) -> int:
        """How many crossed and were not counted."""
        return self.true - self.matched

    @property
    def recall(self) -> Interval | None:
        """Share of those who crossed that was counted."""
        return share(self.matched, self.true)

    @property
    def precision(self) -> Interval | None:
        """Share of those who were counted that crossed."""
        return share(self.matched, self.matched + self.extra)

    @property
    def error(self) -> Interval | None:
        """See `net_error`."""
        return net_error(self.true, self.missed, self.extra)

    def sentence(self, who: str) -> str:
        """For people. who: "people" or "objects"."""
        went = "came in" if self.direction == "in" else "went out"
        extra = f"{self.extra or 'none'} {_was(self.extra)} counted that {_was(self.extra)} not there"
        if self.recall is None:
            return f"{'Nobody' if who == 'people' else 'Nothing'} {went} at {self.line}, and {extra}."
        some = who if self.true != 1 else {"people": "person"}.get(who, "object")
        value, low, high = (round(100 * bound) for bound in self.recall)
        return (
            f"Of {self.true} {some} {'who' if who == 'people' else 'that'} {went} at {self.line}, "
            f"{self.matched or 'none'} {_was(self.matched)} counted ({value} %, between {low} and {high} %), "
            f"and {extra}."
        )

    def figures(self) -> dict[str, Any]:
        """As it stands in JSON; each interval is [value, low, high], or null of nothing."""
        found: dict[str, Any] = {
            "line": self.line, "direction": self.direction, "true": self.true, "counted": self.matched,
            "missed": self.missed, "extra": self.extra,
        }  # fmt: skip
        for name in ("recall", "precision", "error"):
            interval = getattr(self, name)
            found[name] = None if interval is None else [round(bound, 4) for bound in interval]
        return found


def percent(error: Interval | None) -> str:
    """Such as "-4 %, between -12 % and +5 %"; a dash for none."""
    if error is None:
        return "–"
    value, low, high = (f"{round(100 * bound):+d} %".replace("+0 %", "0 %") for bound in error)
    return f"{value}, between {low} and {high}"


def _was(number: int) -> str:
    return "was" if number < 2 else "were"


@dataclass
class Audit:
    """One audit, finished or not.

    setup: what is audited: "source", "lines" and what else decides what is counted, in types of JSON. Audits
        of the same setup share the counted crossings.
    who: "people" or "objects". lines: their names. tolerance: seconds between two crossings that are one.
    spans: began and ended of the parts of the recording of which there is something to watch, seconds.
    counted: by the machine, in all of it. seen: by somebody: by an id of theirs the number of the stretch and
        the crossing.
    began: milliseconds since 1970. number: in the store; None before it is kept.
    """

    setup: dict[str, Any]
    who: str
    lines: list[str]
    tolerance: float
    spans: list[tuple[float, float]]
    counted: list[Crossing]
    stretches: list[Stretch]
    began: int
    seen: dict[str, tuple[int, Crossing]] = field(default_factory=dict)
    finished: bool = False
    number: int | None = None

    @property
    def watched_s(self) -> float:
        """Seconds that are compared."""
        return sum(max(0.0, one.until(self.tolerance) - one.began) for one in self.stretches)

    @property
    def asked_s(self) -> float:
        """Seconds that are to be compared."""
        return sum(one.ended - one.began for one in self.stretches)

    def record(self) -> str:
        """As it stands in the store: JSON of all but what the store has columns for."""
        return json.dumps(
            {key: value for key, value in asdict(self).items() if key not in ("number", "began")},
            ensure_ascii=False,
        )

    def scores(self) -> list[Score]:
        """What came out of what was watched up to now, for every line and direction."""
        numbers: Counter[tuple[str, str, str]] = Counter()
        for index, stretch in enumerate(self.stretches):
            seen = [crossing for at, crossing in self.seen.values() if at == index]
            until = stretch.until(self.tolerance)
            for line, direction in self._ways():
                true = _times(seen, line, direction)
                counted = _times(self.counted, line, direction)
                pairs = match(true, counted, self.tolerance)
                matched, used = {a for a, _ in pairs}, {b for _, b in pairs}
                for i, at in enumerate(true):
                    if stretch.began <= at < until:
                        numbers[line, direction, "true"] += 1
                        numbers[line, direction, "matched"] += i in matched
                for i, at in enumerate(counted):
                    numbers[line, direction, "extra"] += stretch.began <= at < until and i not in used
        return [
            Score(*way, *(numbers[(*way, what)] for what in ("true", "matched", "extra")))
            for way in self._ways()
        ]

    def _ways(self) -> list[tuple[str, str]]:
        return [(line, direction) for line in self.lines for direction in ("in", "out")]

    def day(self, zone: tzinfo | None = None) -> datetime:
        """When it began. zone: None for the machine's."""
        return datetime.fromtimestamp(self.began / 1000, zone)

    def heading(self, zone: tzinfo | None = None) -> str:
        """When, over how long and of what. zone: None for the machine's."""
        day = self.day(zone)
        rest = "" if self.finished else f" of {span_text(self.asked_s)}, not finished"
        name = self.setup["source"]
        where = (
            f"in {name}"
            if self.setup["kind"] == "video"
            else "on kept paths, which show nobody who was missed"
        )
        return f"Counts audited on {day:%Y-%m-%d} over {span_text(self.watched_s)}{rest}, {where}:"

    def text(self, zone: tzinfo | None = None) -> str:
        """The heading, and a sentence for every line and direction."""
        return "\n".join([self.heading(zone), *(f"  {one}" for one in self.sentences())]) + "\n"

    def sentences(self) -> list[str]:
        """One for every line and direction, with the error in the end."""
        found = []
        for score in self.scores():
            error = "" if score.error is None else f" Net error {percent(score.error)}."
            found.append(score.sentence(self.who) + error)
        return found

    def figures(self, zone: tzinfo | None = None) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "began": self.day(zone).isoformat(timespec="seconds"),
            "finished": self.finished,
            "source": self.setup["source"],
            "of": self.setup["kind"],
            "watched_s": round(self.watched_s, 1),
            "tolerance_s": self.tolerance,
            "scores": [score.figures() for score in self.scores()],
        }


def match(a: Sequence[float], b: Sequence[float], tolerance: float) -> list[tuple[int, int]]:
    """Pairs of places in two ascending lists of times, as many as can be, none twice, within the tolerance.

    In ascending order the earliest two that fit can always be paired: whoever could take one of them in a
    larger matching comes later, and can take no more than the other one's place.
    """
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) <= tolerance:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return pairs


def _times(crossings: Iterable[Crossing], line: str, direction: str) -> list[float]:
    return sorted(at for at, *way in crossings if way == [line, direction])


def choose_stretches(
    spans: Sequence[tuple[float, float]],
    counted: Sequence[Crossing],
    minutes: float,
    number: int,
    tolerance: float,
    lots: random.Random,
) -> list[Stretch]:
    """What is to be watched: all of it if it is no longer than asked for, else random stretches.

    The recording is cut into blocks as long as a stretch. These are ordered by how many were counted in the
    hour around each (in a few minutes of a quiet day that would be chance), and divided from quiet to busy
    into `number` groups of as many blocks; each group gives one block by lot.
    So quiet and busy times are seen, as much of each as there is: every block has about the same chance, and
    what comes out of all stretches may be added up without weights.

    Args:
        spans: began and ended of the parts of which there is something to watch, seconds.
        counted: by the machine.
        minutes: to be watched in all.
        number: of stretches.
        tolerance: how much more is played on both sides, seconds.
        lots: draws them.

    Raises ConfigError if no part is as long as a stretch.
    """
    long = 60.0 * minutes / number
    if sum(end - begin for begin, end in spans) <= 60.0 * minutes:
        chosen = [(*span, span) for span in spans]
    else:
        blocks = []
        for begin, end in spans:
            count = int((end - begin) // long)
            # From a random place on: what is left over lies now before the blocks, now behind them.
            first = begin + lots.uniform(0.0, end - begin - count * long)
            blocks += [(first + i * long, first + (i + 1) * long, (begin, end)) for i in range(count)]
        if not blocks:
            raise ConfigError(
                f"stretches: expected one of {span_text(long)} without an interruption, found none; ask for "
                "more and shorter ones"
            )
        times = sorted(crossing.seconds for crossing in counted)
        lots.shuffle(blocks)  # those of which as many were counted are in no order
        blocks.sort(key=lambda block: _business(times, (block[0] + block[1]) / 2, block[2]))
        groups = [blocks[len(blocks) * i // number : len(blocks) * (i + 1) // number] for i in range(number)]
        chosen = sorted(lots.choice(group) for group in groups if group)
    return [
        Stretch(began, ended, first, min(end, ended + tolerance), reached=first)
        for began, ended, (begin, end) in chosen
        for first in [max(begin, began - tolerance)]
    ]


def _business(times: Sequence[float], middle: float, span: tuple[float, float]) -> float:
    """How many of the ascending times (seconds) there are a second in the hour around `middle`."""
    begin, end = max(span[0], middle - 1800), min(span[1], middle + 1800)
    return (bisect.bisect(times, end) - bisect.bisect(times, begin)) / (end - begin)


def kept(path: Path) -> list[Audit]:
    """All audits in a store, the oldest first. Raises StoreError."""
    return [_read(number, began, record) for number, began, record in kept_audits(path)]


def _read(number: int, began: int, text: str) -> Audit:
    record = json.loads(text)
    record["stretches"] = [Stretch(**one) for one in record["stretches"]]
    record["spans"] = [(begin, end) for begin, end in record["spans"]]
    record["counted"] = [Crossing(*one) for one in record["counted"]]
    record["seen"] = {key: (index, Crossing(*one)) for key, (index, one) in record["seen"].items()}
    return Audit(**record, began=began, number=number)


def span_text(seconds: float) -> str:
    """12 s -> "12 seconds", 90 s -> "1.5 minutes"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} second{'s' * (round(seconds) != 1)}"
    minutes = f"{seconds / 60:.1f}".removesuffix(".0")
    return f"{minutes} minute{'s' * (minutes != '1')}"
