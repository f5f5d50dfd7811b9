"""The number of people in a room stays near the truth, and the interval holds it as often as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, time, timedelta

import numpy as np
import pytest

from edge_centernet.errors import ConfigError
from edge_centernet.tracking.room import Room, RoomCounter, parse_room
from edge_centernet.tracking.state import Event, ZoneCount

MORNING = datetime(2026, 11, 30, 8)
DOOR = Room("shop", (("door", 1),))


def crossing(direction: str, line: str = "door") -> Event:
    """Somebody crosses."""
    return Event("crossed", line, 1, "person", 0.0, direction)


def walk(counter: RoomCounter, directions: str, now: datetime = MORNING) -> None:
    """Feed "iio" as in, in, out."""
    for direction in directions:
        counter.update([crossing("in" if direction == "i" else "out")], (), 0.0, now)


def answer(counter: RoomCounter) -> tuple[int, int, int]:
    """(low, inside, high)."""
    count = counter.count()
    return count.low, count.inside, count.high


def test_without_misses_it_is_in_minus_out() -> None:
    """Certain as long as nothing is missed; an empty room that somebody leaves is an empty room."""
    counter = RoomCounter(Room("shop", (("door", 1),), missed=0))
    walk(counter, "iiioi")
    assert answer(counter) == (3, 3, 3)
    walk(counter, "oooo")
    assert answer(counter) == (0, 0, 0)


def test_doubt_grows_with_each_crossing_and_ends_when_the_number_is_known() -> None:
    """After 200 crossings the interval is wider than after 20; set to 7, it is 7."""
    counter = RoomCounter(DOOR)
    walk(counter, "io" * 10 + "i" * 10)
    low, _, high = answer(counter)
    walk(counter, "io" * 100)
    wide = answer(counter)
    assert wide[2] - wide[0] > high - low >= 2
    counter.set(7, MORNING)
    assert answer(counter) == (7, 7, 7)


def test_a_line_may_lead_out_and_other_lines_do_not_count() -> None:
    """An exit whose "in" side is the street."""
    counter = RoomCounter(Room("shop", (("door", 1), ("exit", -1)), missed=0))
    for event in (crossing("in"), crossing("in"), crossing("in", "exit"), crossing("in", "garage")):
        counter.update([event], (), 0.0, MORNING)
    counter.update([Event("entered", "door", 1, "person", 0.0)], (), 0.0, MORNING)
    assert answer(counter) == (1, 1, 1)
    assert counter.count().entered == 2


def test_the_quiet_hour_empties_the_room_once_a_day() -> None:
    """At 4:00, also when the process was away at that time; not again later that day."""
    counter = RoomCounter(Room("shop", (("door", 1),), reset=time(4), missed=0))
    walk(counter, "iii", MORNING)
    walk(counter, "i", MORNING.replace(hour=23))
    assert counter.count().inside == 4
    walk(counter, "i", MORNING + timedelta(hours=19, minutes=59))  # 3:59
    assert counter.count().inside == 5
    walk(counter, "i", MORNING + timedelta(hours=20))
    assert counter.count().inside == 1
    walk(counter, "i", MORNING + timedelta(hours=26))
    assert counter.count().inside == 2
    walk(counter, "i", MORNING + timedelta(days=5))
    assert counter.count().inside == 1


def test_an_empty_zone_empties_the_room_after_a_minute() -> None:
    """Not at once: somebody may be hidden."""
    counter = RoomCounter(Room("shop", (("door", 1),), zone="floor"))
    walk(counter, "iii")
    for seconds, inside, expected in ((0, 2, 3), (10, 0, 3), (65, 0, 3), (66, 1, 3), (70, 0, 3), (130, 0, 0)):
        counter.update([], [ZoneCount("floor", inside, 0, 0, 0)], seconds, MORNING)
        assert counter.count().inside == expected


def shop_days(days: int, missed: float) -> Iterator[tuple[datetime, int, int, Event | None]]:
    """(time, people inside, visits that day, the crossing if it was seen) of a shop with a busy noon."""
    random = np.random.default_rng(11)
    for day in range(days):
        opening = datetime(2026, 11, 1, 9) + timedelta(days=day)
        visits = int(random.integers(300, 700))
        came = np.clip(random.normal(4, 2, visits), 0, 9) * 3600
        left = np.minimum(came + random.gamma(2, 400, visits), 9.5 * 3600)  # at closing all leave
        times = np.concatenate([came, left])
        ways = np.repeat([1, -1], visits)
        order = np.argsort(times, kind="stable")
        inside = 0
        for moment, way in zip(times[order], ways[order], strict=True):
            inside += int(way)
            seen = random.uniform() >= missed
            event = crossing("in" if way > 0 else "out") if seen else None
            yield opening + timedelta(seconds=float(moment)), inside, visits, event


def test_a_month_with_misses_stays_near_the_truth() -> None:
    """3 % missed: off by at most 2 % of a day's visits on any day, in the interval in 95 % of the hours."""
    counter = RoomCounter(Room("shop", (("door", 1),), reset=time(4)))
    hours: dict[datetime, bool] = {}
    errors: dict[datetime, list[float]] = {}
    naive, drift = 0, 0
    for now, truth, visits, event in shop_days(30, missed=0.03):
        counter.update([event] if event else [], (), 0.0, now)
        low, inside, high = answer(counter)
        assert low >= 0
        hours[now.replace(minute=0, second=0, microsecond=0)] = low <= truth <= high
        errors.setdefault(now.replace(hour=0, minute=0, second=0, microsecond=0), []).append(
            abs(inside - truth) / visits
        )
        if event:
            naive += 1 if event.direction == "in" else -1
        drift = max(drift, abs(naive - truth))
    assert len(errors) == 30
    assert max(float(np.mean(of_a_day)) for of_a_day in errors.values()) <= 0.02
    assert len(hours) > 250
    assert np.mean(list(hours.values())) >= 0.95
    assert drift > 20  # what in minus out alone would have said


def test_it_continues_after_a_restart() -> None:
    """By way of JSON; anything else is refused."""
    counter = RoomCounter(DOOR)
    walk(counter, "iiiiioioioio" * 5)
    other = RoomCounter(DOOR)
    other.restore(json.loads(json.dumps(counter.totals())))
    assert (answer(other), other.count()) == (answer(counter), counter.count())
    for wrong in ({"first": 1}, {**counter.totals(), "chance": [0.5]}, {**counter.totals(), "first": -1}):
        with pytest.raises((KeyError, ValueError)):
            RoomCounter(DOOR).restore(wrong)
    fresh = RoomCounter(DOOR)
    fresh.restore({})
    assert answer(fresh) == (0, 0, 0)


def test_rooms_are_read_as_they_are_typed() -> None:
    """A name, lines with a sign, and what else is known of it."""
    assert parse_room("shop=door,-exit;reset=4:00;empty=floor;missed=0.05") == Room(
        "shop", (("door", 1), ("exit", -1)), time(4), "floor", 0.05
    )
    assert parse_room("door", 3) == Room("room 3", (("door", 1),))
    for text, expected in (
        ("shop=", "expected the names of different lines, got []"),
        ("shop=a,-a", "expected the names of different lines"),
        ("shop=a;reset=25:00", "expected reset=HH:MM, empty=ZONE or missed=0.03, got 'reset=25:00'"),
        ("shop=a;missed=0.9", "expected missed from 0 to below 0.5, got 0.9"),
    ):
        with pytest.raises(ConfigError) as error:
            parse_room(text)
        assert expected in str(error.value)
