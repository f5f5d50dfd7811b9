"""Matching, intervals and stretches of an audit, against what others compute."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_centernet.errors import ConfigError
from edge_centernet.history.audit import (
    Audit,
    Crossing,
    Stretch,
    choose_stretches,
    expectation,
    kept,
    match,
    net_error,
    share,
)
from edge_centernet.history.page import as_html
from edge_centernet.history.report import as_json, as_text
from edge_centernet.history.store import Store, keep_audit
from edge_centernet.history.summary import summarize

TIMES = st.lists(st.integers(0, 60), max_size=7).map(sorted)
SETUP = {"kind": "video", "source": "saturday.mp4"}


def audit(seen: list[Crossing], counted: list[Crossing], reached: float = 1200.0) -> Audit:
    """Of a film of 20 minutes."""
    stretch = Stretch(0.0, 1200.0, 0.0, 1200.0, reached)
    marks = {str(i): (0, one) for i, one in enumerate(seen)}
    return Audit(
        SETUP, "people", ["door"], 2.0, [(0.0, 1200.0)], counted, [stretch], 1_800_000_000_000, marks
    )


@given(TIMES, TIMES, st.integers(0, 6))
def test_as_many_are_matched_as_can_be(a: list[int], b: list[int], tolerance: int) -> None:
    """As many pairs as the largest matching of the graph has, each within the tolerance, none twice."""

    def largest(i: int, free: frozenset[int]) -> int:
        if i == len(a):
            return 0
        fits = [j for j in free if abs(a[i] - b[j]) <= tolerance]
        return max([largest(i + 1, free), *(1 + largest(i + 1, free - {j}) for j in fits)])

    pairs = match(a, b, tolerance)
    assert len(pairs) == largest(0, frozenset(range(len(b))))
    assert all(abs(a[i] - b[j]) <= tolerance for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def test_intervals_are_those_of_the_tables() -> None:
    """Wilson's bounds solve his equation; Garwood's are the quantiles of chi-squared in every table."""
    for hits, total in ((0, 10), (55, 57), (10, 10), (3, 1000)):
        found = share(hits, total)
        assert found is not None
        for bound in found[1:]:  # |p - bound| = z * the standard deviation at the bound
            gap = 1.959964**2 * bound * (1 - bound) / total
            assert (hits / total - bound) ** 2 == pytest.approx(gap, abs=1e-9)
    assert expectation(0)[1:] == pytest.approx((0, 3.6889), abs=1e-4)
    assert expectation(1)[1:] == pytest.approx((0.0253, 5.5716), abs=1e-4)
    assert expectation(10)[1:] == pytest.approx((4.7954, 18.3904), abs=1e-4)
    assert expectation(500)[1:] == pytest.approx((457.127, 545.808), abs=1e-2)
    assert share(0, 0) is None
    assert net_error(0, 0, 3) is None


@pytest.mark.parametrize(("crossed", "missed", "extra"), [(20, 0.05, 0.02), (60, 0.1, 0.1), (200, 0.03, 0.0)])
def test_the_error_s_interval_holds_the_true_error(crossed: int, missed: float, extra: float) -> None:
    """In at least 94 % of 2,000 audits of a counter whose errors are known."""
    dice, held = np.random.default_rng(2), 0
    cases = zip(dice.binomial(crossed, missed, 2000), dice.poisson(crossed * extra, 2000), strict=True)
    for case, number in Counter((int(a), int(b)) for a, b in cases).items():
        found = net_error(crossed, *case)
        assert found is not None
        held += number * (found.low <= extra - missed <= found.high)
    assert held / 2000 > 0.94


def test_the_sentence_of_an_audit() -> None:
    """57 came in, 55 were counted, and one that was not there; nobody went out."""
    seen = [Crossing(20.0 * i, "door", "in") for i in range(1, 58)]
    counted = [Crossing(at + 1.5, *way) for at, *way in seen[2:]] + [Crossing(1190.0, "door", "in")]
    way_in, out = audit(seen, counted).scores()
    assert (way_in.true, way_in.matched, way_in.missed, way_in.extra) == (57, 55, 2, 1)
    assert way_in.sentence("people") == (
        "Of 57 people who came in at door, 55 were counted (96 %, between 88 and 99 %), "
        "and 1 was counted that was not there."
    )
    assert out.sentence("people") == ("Nobody went out at door, and none was counted that was not there.")


def test_only_what_was_watched_is_compared() -> None:
    """Half a film watched: what comes in the other half is neither missed nor extra."""
    crossings = [Crossing(float(at), "door", "in") for at in range(50, 1200, 100)]
    half = audit(crossings[:6], crossings, reached=602.0)
    assert half.watched_s == 600
    assert [(one.true, one.matched, one.extra) for one in half.scores()] == [(6, 6, 0), (0, 0, 0)]
    assert "over 10 minutes of 20 minutes, not finished" in half.heading()


def test_who_is_counted_just_outside_a_stretch_is_not_missed() -> None:
    """Seen at 29.5 s and counted at 30.5 s, where the stretch ends at 30 s; and the same at its beginning."""
    stretch = Stretch(10.0, 30.0, 8.0, 32.0, 32.0)
    seen = [Crossing(9.5, "door", "in"), Crossing(29.5, "door", "in")]
    counted = [Crossing(10.5, "door", "in"), Crossing(30.5, "door", "in")]
    marks = {str(i): (0, one) for i, one in enumerate(seen)}
    whole = Audit(SETUP, "people", ["door"], 2.0, [(0.0, 60.0)], counted, [stretch], 0, marks)
    assert [(one.true, one.matched, one.extra) for one in whole.scores()] == [(1, 1, 0), (0, 0, 0)]


def test_stretches_are_of_quiet_and_of_busy_times() -> None:
    """A day with a busy afternoon: one stretch of each quarter of the minutes, from quiet to busy."""
    rate = [0] * 6 + [2] * 6 + [20] * 6 + [100] * 6  # an hour
    counted = [
        Crossing(3600.0 * hour + 3600.0 * i / number, "door", "in")
        for hour, number in enumerate(rate)
        for i in range(number)
    ]
    hours: Counter[int] = Counter()
    for seed in range(200):
        lots = random.Random(seed)
        chosen = choose_stretches([(0.0, 86_400.0)], counted, 20, 4, 2.0, lots)
        assert [round(one.ended - one.began) for one in chosen] == [300] * 4
        assert all(one.began - one.first <= 2 and one.last - one.ended <= 2 for one in chosen)
        # Half an hour to either side, in which the hour around a block is of both rates.
        assert all(6 * i - 0.5 <= one.began / 3600 < 6 * i + 6.5 for i, one in enumerate(chosen))
        hours.update(int(one.began // 3600) for one in chosen)
    assert set(hours) == set(range(24))  # by lot: no hour is left out


def test_a_short_film_is_watched_whole() -> None:
    """And a long one of which no part is long enough is refused."""
    [whole] = choose_stretches([(0.0, 40.0)], [], 20, 4, 2.0, random.Random())
    assert (whole.began, whole.ended, whole.first, whole.last) == (0, 40, 0, 40)
    parts = [(1000.0 * i, 1000.0 * i + 200) for i in range(50)]
    with pytest.raises(ConfigError, match="expected one of 5 minutes without an interruption, found none"):
        choose_stretches(parts, [], 20, 4, 2.0, random.Random())


def test_the_report_tells_of_the_audit(tmp_path: Path) -> None:
    """Kept, read again as it was, and in text, JSON and HTML; a store without one is read as before."""
    store = Store(tmp_path / "a.db", "c", 1_799_999_000_000, "UTC")
    store.add(1_800_000_000_000)
    assert summarize(store.path).audits == ()
    done = audit([Crossing(5.0, "door", "in")], [Crossing(5.5, "door", "in"), Crossing(90.0, "door", "in")])
    done.number = keep_audit(store.path, None, done.began, done.began, done.record())
    done.finished = True
    keep_audit(store.path, done.number, done.began, done.began, done.record())  # while `store` is open
    store.close()
    assert kept(store.path) == [done]
    report = summarize(store.path)
    sentence = (
        "Of 1 person who came in at door, 1 was counted (100 %, between 21 and 100 %), "
        "and 1 was counted that was not there."
    )
    heading = "Counts audited on 2027-01-15 over 20 minutes, in saturday.mp4:"
    assert heading in as_text(report)
    assert sentence in as_text(report)
    [record] = json.loads(as_json(report))["audits"]
    assert record["scores"][0] | {"error": 0} == {
        "line": "door", "direction": "in", "true": 1, "counted": 1, "missed": 0, "extra": 1,
        "recall": [1, pytest.approx(0.2065, abs=1e-4), 1],
        "precision": [0.5, pytest.approx(0.0945, abs=1e-4), pytest.approx(0.9055, abs=1e-4)], "error": 0,
    }  # fmt: skip
    assert heading in as_html(report)
    assert sentence in as_html(report)
