"""Who crossed which way, who is inside and for how long, on paths drawn by hand; files of counts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten
from edge_centernet.sources import Frame
from edge_centernet.tracking import scene as scene_module
from edge_centernet.tracking.line_counter import Line, parse_line
from edge_centernet.tracking.presence import PresenceMap
from edge_centernet.tracking.room import parse_room
from edge_centernet.tracking.rules import parse_rule
from edge_centernet.tracking.scene import Counter, Scene, SceneOptions
from edge_centernet.tracking.state import Event, Tally, Tracks
from edge_centernet.tracking.zone_counter import Zone, parse_zone

PETS = Path(__file__).resolve().parents[3] / "shared/data/pets09_s2l1_first400/gt.txt"
SIZE = (640, 480)
WIDE, HIGH = 20.0, 45.0  # size 30: the band around a line is 4.5 pixels to either side
CLASSES = ("cat", "dog", "person")
UP = Line("door", (100.0, 300.0), (100.0, 100.0))  # who stands below and looks up has x > 100 on the right
YARD = Zone("yard", ((100.0, 100.0), (200.0, 100.0), (200.0, 200.0), (100.0, 200.0)))


def tracks(feet: dict[int, tuple[float, float]], ended: Sequence[int] = ()) -> Tracks:
    """Tracks by id with their foot points, class 0."""
    boxes = [(x - WIDE / 2, y - HIGH, x + WIDE / 2, y) for x, y in feet.values()]
    n = len(feet)
    found = Detections(np.array(boxes, np.float32).reshape(-1, 4), np.ones(n), np.zeros(n))
    return Tracks(
        np.array(list(feet), np.int64),
        found,
        np.zeros((n, 2), np.float32),
        np.zeros(n, np.float32),
        ended=tuple(ended),
    )


def walk(
    counter: Counter, path: Sequence[tuple[float, float] | None], start: float = 0.0, dt: float = 0.1
) -> list[Tally]:
    """One person, id 1, along a path of foot points; None: not seen in this frame."""
    return [
        counter.update(tracks({} if foot is None else {1: foot}), start + i * dt, SIZE)
        for i, foot in enumerate(path)
    ]


def across(*xs: float | None, y: float = 200.0) -> list[tuple[float, float] | None]:
    """Foot points at these x."""
    return [None if x is None else (x, y) for x in xs]


def counts(counter: Counter, path: Sequence[tuple[float, float] | None]) -> tuple[int, int]:
    """(in, out) of the only line after the path."""
    line = walk(counter, path)[-1].lines[0]
    return line.inward, line.outward


def test_in_is_to_the_right_of_who_looks_from_the_first_point_to_the_second() -> None:
    """Up the picture: right is x > 100. Back is out. Turned round: the other way."""
    assert counts(Counter([UP]), across(80, 120)) == (1, 0)
    assert counts(Counter([UP]), across(120, 80)) == (0, 1)
    assert counts(Counter([Line("door", UP.end, UP.start)]), across(80, 120)) == (0, 1)


def test_the_arrow_points_in() -> None:
    """From the middle of the line, 30 pixels to the side that counts as in."""
    tail, tip = UP.arrow(SIZE, 30.0)
    assert (tail, tip) == ((100.0, 200.0), (130.0, 200.0))
    assert counts(Counter([UP]), [(70.0, 200.0), tip]) == (1, 0)


def test_the_event_says_who_when_where_and_which_way() -> None:
    """In the frame in which the foot leaves the band, once."""
    tallies = walk(Counter([UP], classes=["person"]), across(80, 98, 103, 120, 140))
    assert [tally.events for tally in tallies] == [
        (),
        (),
        (),
        (Event("crossed", "door", 1, "person", 3 * 0.1, "in"),),
        (),
    ]


@pytest.mark.parametrize(
    ("why", "path", "expected"),
    [
        ("dithers on the line, then goes on", across(80, 101, 99, 103, 97, 102, 120), (1, 0)),
        ("dithers on the line, then goes back", across(80, 101, 99, 103, 97, 102, 80), (0, 0)),
        ("stops on the line", across(80, *[100.0] * 50), (0, 0)),
        ("stops on the line, then goes on", across(80, *[100.0] * 50, 120), (1, 0)),
        ("goes there and back", across(80, 120, 80), (1, 1)),
        ("is first seen in the band, on the line's near side", across(98, 103, 120), (0, 0)),
        ("is first seen in the band, leaves it, then crosses", across(98, 80, 120), (1, 0)),
        ("is hidden while crossing", across(80, None, None, None, 130), (1, 0)),
        ("passes beyond the end", across(80, 120, y=320), (0, 0)),
        ("passes beyond the start, far away", across(80, 120, y=50), (0, 0)),
        (
            "goes round the end and back through",
            [(80, 200), (80, 320), (120, 320), (120, 200), (80, 200)],
            (0, 1),
        ),
        (
            "walks along the line in the band from beyond its end",
            [(80, 320), (98, 320), (98, 200), (120, 200)],
            (1, 0),
        ),
        (
            "enters the band beside the line, leaves it beyond its end",
            [(80, 200), (98, 200), (98, 320), (120, 320)],
            (0, 0),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who(why: str, path: Sequence[tuple[float, float] | None], expected: tuple[int, int]) -> None:
    """Each path counts as it should: (in, out)."""
    assert counts(Counter([UP]), path) == expected, why


def test_the_band_grows_with_the_object() -> None:
    """A step of 8 pixels to either side of the line: a small person crossed it, a large one dithers."""
    small, large = Counter([UP]), Counter([UP])
    for seconds, x in enumerate((92.0, 108.0)):
        walked = small.update(tracks({1: (x, 200.0)}), seconds, SIZE)
        boxes = np.array([[x - 50, 0, x + 50, 200]])
        near = Tracks(
            np.array([1]),
            Detections(boxes, np.ones(1), np.zeros(1)),
            np.zeros((1, 2), np.float32),
            np.zeros(1),
        )
        dithered = large.update(near, seconds, SIZE)
    assert (walked.lines[0].inward, dithered.lines[0].inward) == (1, 0)


def test_lines_count_for_themselves_and_tracks_too() -> None:
    """Two lines, two people in opposite directions."""
    counter = Counter([UP, Line("far", (200.0, 300.0), (200.0, 100.0))])
    for seconds, (a, b) in enumerate([(80.0, 220.0), (150.0, 150.0), (220.0, 80.0)]):
        tally = counter.update(tracks({1: (a, 150.0), 2: (b, 200.0)}), seconds, SIZE)
    assert tally.as_dict()["lines"] == [
        {"name": "door", "in": 1, "out": 1, "classes": {"0": {"in": 1, "out": 1}}},
        {"name": "far", "in": 1, "out": 1, "classes": {"0": {"in": 1, "out": 1}}},
    ]


def test_fractions_follow_the_size_of_the_picture() -> None:
    """A line in fractions lies in the middle of every picture; one in pixels does not move."""
    line = parse_line("0.5,1,0.5,0")
    assert line.pixels((640, 480)) == ((320.0, 480.0), (320.0, 0.0))
    assert line.pixels((100, 100)) == ((50.0, 100.0), (50.0, 0.0))
    assert parse_line("0,0,10,0").pixels((640, 480)) == ((0.0, 0.0), (10.0, 0.0))
    assert parse_zone("0,0,1,0,1,1").pixels((640, 480)) == ((0.0, 0.0), (640.0, 0.0), (640.0, 480.0))


def test_a_visit_has_occupancy_and_dwell() -> None:
    """Inside from 0.5 s to 3.4 s: entered once, 2.9 s, left when the grace is over."""
    path = [(50.0, 150.0)] * 5 + [(150.0, 150.0)] * 30 + [(250.0, 150.0)] * 20
    tallies = walk(Counter(zones=[YARD], classes=["person"]), path)
    assert [tally.zones[0].inside for tally in tallies] == [0] * 5 + [1] * 40 + [0] * 10
    events = [event.as_dict() for tally in tallies for event in tally.events]
    assert events == [
        {"event": "entered", "where": "yard", "id": 1, "class": "person", "seconds": 0.5},
        {"event": "left", "where": "yard", "id": 1, "class": "person", "seconds": 4.5, "dwell_s": 2.9},
    ]
    assert tallies[-1].zones[0].as_dict() == {
        "name": "yard", "inside": 0, "entered": 1, "longest_s": 2.9, "mean_dwell_s": 2.9,
        "classes": {"person": {"inside": 0, "entered": 1}},
    }  # fmt: skip


def test_flicker_at_the_border_is_one_visit() -> None:
    """A foot that is outside for less than a second at a time entered once and never left."""
    path = across(*[150.0, 201.0, 199.0, *[202.0] * 8, 198.0] * 5, y=150.0)
    tallies = walk(Counter(zones=[YARD]), path)
    assert tallies[-1].zones[0].entered == 1
    assert [event.kind for tally in tallies for event in tally.events] == ["entered"]


def test_a_second_visit_is_a_second_visit() -> None:
    """Outside for two seconds between: entered twice; the mean is over both, the longest is the longer."""
    path = across(*[150.0] * 11, *[250.0] * 20, *[150.0] * 31, *[250.0] * 20, y=150.0)
    zone = walk(Counter(zones=[YARD]), path)[-1].zones[0]
    assert (zone.entered, zone.longest_s, zone.mean_dwell_s) == (2, pytest.approx(3.0), pytest.approx(2.0))


def test_who_is_hidden_inside_is_still_inside_until_the_track_ends() -> None:
    """Hidden for 2 s and seen again: one visit. Ended while hidden: left, as of the last sighting."""
    counter = Counter(zones=[YARD])
    hidden = walk(counter, across(*[150.0] * 10, *[None] * 20, *[150.0] * 10, y=150.0))
    assert {tally.zones[0].inside for tally in hidden} == {1}
    gone = counter.update(tracks({}, ended=[1]), 6.5, SIZE)
    assert (gone.zones[0].inside, gone.zones[0].entered) == (0, 1)
    assert [(event.kind, round(event.dwell_s, 3)) for event in gone.events] == [("left", 3.9)]


def test_a_zone_may_be_concave() -> None:
    """In the notch of an L is outside."""
    zone = Zone("L", ((0.0, 0.0), (100.0, 0.0), (100.0, 50.0), (50.0, 50.0), (50.0, 100.0), (0.0, 100.0)))
    tally = Counter(zones=[zone]).update(
        tracks({1: (75.0, 25.0), 2: (25.0, 75.0), 3: (75.0, 75.0)}), 0.0, SIZE
    )
    assert [event.track_id for event in tally.events] == [1, 2]


@pytest.mark.parametrize("foot", [(50.0, 100.0), (100.0, 50.0), (0.0, 50.0), (50.0, 0.0), (100.0, 100.0)])
def test_who_is_cut_off_by_the_edge_of_the_picture_is_inside(foot: tuple[float, float]) -> None:
    """A zone that is the whole image of 100x100 pixels holds who stands at its border, as cut-off boxes."""
    counter = Counter([], [Zone("all", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)), relative=True)])
    assert counter.update(tracks({1: foot}), 0.0, (100, 100)).zones[0].inside == 1


def test_ended_tracks_are_forgotten() -> None:
    """10,000 people who come, cross, visit and go leave the counts and nothing else."""
    counter = Counter([UP], [YARD])

    def kept() -> int:
        return sum(len(part._walks) for part in counter._lines) + sum(
            len(part._visits) for part in counter._zones
        )

    for i in range(10_000):
        for step, x in enumerate((80.0, 150.0)):
            tally = counter.update(tracks({i: (x, 150.0)}, ended=[i - 1] if i else []), i + step / 10, SIZE)
        assert kept() <= 2
    assert (tally.lines[0].inward, tally.zones[0].entered) == (10_000, 10_000)
    assert sys.getsizeof(json.dumps(counter.state())) < 300


def test_counts_survive_a_restart() -> None:
    """Through JSON and back: the totals go on; a line that is new begins at 0."""
    old = Counter([UP], [YARD])
    walk(old, across(80, 150, 150, *[250.0] * 30, y=150.0))
    kept = json.loads(json.dumps(old.state()))
    assert kept["lines"] == {"door": {"in": 1, "out": 0, "classes": {"0": {"in": 1, "out": 0}}}}
    new = Counter([UP, Line("new", (300.0, 0.0), (300.0, 100.0))], [YARD], state=kept)
    tally = new.update(tracks({}), 0.0, SIZE)
    assert [line.as_dict() for line in tally.lines] == [
        {"name": "door", "in": 1, "out": 0, "classes": {"0": {"in": 1, "out": 0}}},
        {"name": "new", "in": 0, "out": 0, "classes": {}},
    ]
    zone = tally.zones[0]
    assert (zone.inside, zone.entered, zone.longest_s, zone.mean_dwell_s) == (
        0,
        1,
        pytest.approx(0.1),
        pytest.approx(0.1),
    )
    assert new.state()["zones"] == kept["zones"]


@pytest.mark.parametrize(
    "state",
    [{}, [], {"lines": {"door": {"in": -1}}}, {"lines": {"door": {"in": "3"}}}, {"lines": {"door": 1}}],
)
def test_a_damaged_state_is_refused(state: Any) -> None:
    """One line that says what to do, and counts that stay at 0."""
    with pytest.raises(
        ConfigError, match=r"^saved counts: expected what Counter.state\(\) returned; remove them"
    ):
        Counter([UP], state={"zones": {}, **state} if isinstance(state, dict) and state else state)


def test_a_room_follows_its_lines_and_survives_a_restart() -> None:
    """Two go in, one comes out; the state has it; every output gets it by the tally."""
    room = parse_room("shop=door;missed=0")
    counter = Counter([UP], rooms=[room])
    tally = walk(counter, across(80, 120, 80, 120))[-1]
    assert tally.as_dict()["rooms"] == [{"name": "shop", "inside": 1, "low": 1, "high": 1, "entered": 2}]
    new = Counter([UP], rooms=[room], state=json.loads(json.dumps(counter.state())))
    (count,) = walk(new, across(80, 120))[-1].rooms
    assert (count.inside, count.entered) == (2, 3)
    with pytest.raises(ConfigError, match=r"^saved counts: "):
        Counter([UP], rooms=[room], state={"lines": {}, "zones": {}, "rooms": {"shop": {"first": -1}}})


@pytest.mark.parametrize("text", ["shop=gate", "shop=door;empty=garden", "door=door"])
def test_a_room_of_what_is_not_there_is_refused(text: str) -> None:
    """A line or zone that is none, and the name of a line for the room itself."""
    with pytest.raises(ConfigError, match=r"the lines are .*door|the zones are yard|different names, got 'd"):
        Counter([UP], [YARD], rooms=[parse_room(text)])


def test_names_come_from_the_text_or_the_index() -> None:
    """NAME= before the numbers, spaces do not matter; without it "line 2", "zone 3"."""
    assert parse_line("front door = 1, 2, 30, 4") == Line("front door", (1.0, 2.0), (30.0, 4.0))
    assert parse_line("1,2,30,4", 2).name == "line 2"
    assert parse_zone("yard=0,0,10,0,10,10").points == ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0))
    assert parse_zone("0,0,10,0,10,10", 3).name == "zone 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("door=1,2,3", "line 'door': expected 4 numbers X1,Y1,X2,Y2, got 3 in 'door=1,2,3'"),
        ("door=1,2,3,x", "line 'door': expected [NAME=]X1,Y1,X2,Y2, got 'door=1,2,3,x'"),
        ("", "line: expected [NAME=]X1,Y1,X2,Y2, got ''"),
        ("=1,2,3,4", "line '=1,2,3,4': expected a name of 1 to 64 printable characters before '='"),
        ("a\nb=1,2,3,4", "line 'a\\nb=1,2,3,4': expected a name of 1 to 64 printable characters before '='"),
        ("door=1,2,nan,4", "line 'door': expected finite numbers, got 'door=1,2,nan,4'"),
        ("door=5,5,5,5", "line 'door': expected two different points, got 5,5 twice"),
    ],
)
def test_a_line_that_is_none_is_refused(text: str, message: str) -> None:
    """What was expected and what came."""
    with pytest.raises(ConfigError) as error:
        parse_line(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z=0,0,10,0", "expected 3 points or more as X1,Y1,X2,Y2,X3,Y3,..., got 4 numbers"),
        ("z=0,0,10,0,10,10,5", "expected 3 points or more as X1,Y1,X2,Y2,X3,Y3,..., got 7 numbers"),
        ("z=0,0,10,10,10,0,0,10", "expected edges that do not cross; those from 0,0 and from 10,0 do"),
        ("z=0,0,10,0,5,0", "expected edges that do not cross"),
        ("z=0,0,10,0,10,10,5,0", "expected edges that do not cross"),
        ("z=0,0,10,0,0,0,10,10", "expected different points, got one of them twice"),
    ],
)
def test_a_zone_that_is_none_is_refused(text: str, message: str) -> None:
    """Too few points, a bow tie, no area, a corner on another edge, a corner twice."""
    with pytest.raises(ConfigError) as error:
        parse_zone(text)
    assert str(error.value).startswith("zone 'z': " + message)


def test_a_triangle_and_a_square_are_zones() -> None:
    """Either way round."""
    for text in (
        "0,0,10,0,10,10",
        "10,10,10,0,0,0",
        "0,0,10,0,10,10,0,10",
        "0,10,10,10,10,0,0,0",
        "0,0,5,0,10,0,10,9",
    ):
        assert len(parse_zone(text).points) == text.count(",") // 2 + 1


def test_names_are_different() -> None:
    """A line and a zone of one name could not be told apart in an event."""
    with pytest.raises(
        ConfigError, match="lines, zones and rooms: expected different names, got 'door' twice"
    ):
        Counter([UP], [Zone("door", YARD.points)])


OUTSIDE = "outside or on the border of the image, which is 640x480 pixels; nothing is counted there"
FRACTIONS = "fractions are all within 0..1, but these count as pixels of the image, which is 640x480 pixels"
BEYOND = "it reaches beyond the image, which is 640x480 pixels; is it drawn for another size?"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("100,100,200,200", ""),
        ("0,0,640,480", ""),
        ("0.5,0,0.5,1", ""),
        ("1000,100,1000,400", OUTSIDE),
        ("100,-50,400,-50", OUTSIDE),
        ("0,480,640,480", OUTSIDE),
        ("0,1,1,1", OUTSIDE),
        ("320,100,320,700", BEYOND),
        ("-1,100,500,100", BEYOND),
        ("0.5,0,0.5,480", FRACTIONS),
        ("0.5,0,0.5,1.1", FRACTIONS),
        ("-0.1,0.5,1.1,0.5", FRACTIONS),
        ("1.2,0,1.2,1", FRACTIONS),
    ],
)
def test_a_line_or_zone_that_misses_the_picture_is_logged_with_its_size(
    text: str, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each size of the picture, whether it is a line or a zone with that edge."""
    x1, y1, x2, y2 = text.split(",")
    zone = (
        parse_zone(f"yard={text},{x2},{y1}")
        if "0,480" not in text and len({x1, x2}) > 1 and y1 != y2
        else None
    )
    counter = Counter([parse_line(f"door={text}")], [zone] if zone else [])
    walk(counter, across(80, 120))
    expected = ["Line 'door': ", "Zone 'yard': "][: 2 if zone else 1] if warning else []
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(expected)
    assert all(
        line.startswith(start) and line.endswith(warning) for line, start in zip(told, expected, strict=True)
    )
    caplog.clear()
    counter.update(tracks({}), 9.0, (1920, 1080))
    assert all("1920x1080" in record.getMessage() for record in caplog.records)


def test_presence_adds_up_the_seconds_where_people_stood() -> None:
    """Five seconds at one place, two at another; a gap of an hour counts as one second."""
    presence = PresenceMap()
    for i in range(51):
        presence.update(tracks({1: (105.0, 305.0)}), i / 10, SIZE)
    for i in range(20):
        presence.update(tracks({1: (505.0, 105.0)}), 5.1 + i / 10, SIZE)
    assert presence.seconds.shape == (48, 64)
    assert presence.seconds[30, 10] == pytest.approx(5.0)
    assert presence.seconds[10, 50] == pytest.approx(2.0)
    presence.update(tracks({1: (105.0, 305.0)}), 3607.0, SIZE)
    assert presence.seconds.sum() == pytest.approx(8.0)


def test_presence_takes_feet_at_and_beyond_the_edge() -> None:
    """A box that ends at the lower edge of the picture counts in the last row."""
    presence = PresenceMap()
    for i in range(2):
        presence.update(tracks({1: (640.0, 480.0), 2: (-3.0, 10.0)}), i / 10, SIZE)
    assert (presence.seconds[47, 63], presence.seconds[1, 0]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_presence_picture_is_brightest_where_they_stood_and_untouched_elsewhere() -> None:
    """The place of five seconds changes most; far from any foot and from the legend the background stays."""
    presence = PresenceMap()
    for i in range(51):
        presence.update(tracks({1: (305.0, 105.0)}), i / 10, SIZE)
    grey = np.full((480, 640, 3), 90, np.uint8)
    picture = presence.picture(grey)
    assert (picture.shape, picture.dtype) == (grey.shape, np.uint8)
    changed = np.abs(picture.astype(int) - grey).sum(2)
    assert changed[105, 305] > 100
    assert changed[200:380, :250].max() == 0
    assert changed[440:, :140].max() > 100  # the legend
    assert grey.min() == grey.max() == 90


def test_presence_picture_of_nobody_is_the_background_with_a_legend() -> None:
    """Also on a picture smaller than the legend."""
    for height, width in ((480, 640), (8, 8)):
        grey = np.full((height, width, 3), 90, np.uint8)
        picture = PresenceMap().picture(grey)
        assert picture.shape == grey.shape
        assert (picture[: height // 2, width // 2 :] == 90).all() or height == 8
    assert cv2.imencode(".png", picture)[0]


@pytest.mark.skipif(
    not PETS.exists(), reason="needs ../shared/data/pets09_s2l1_first400 (see its SOURCES.md)"
)
def test_true_paths_of_pets_cross_the_middle_14_times() -> None:
    """8 to the left, 6 to the right, as counted by hand from the truth's foot points."""
    table = np.loadtxt(PETS, delimiter=",")
    counter = Counter([Line("middle", (240.0, 360.0), (240.0, 0.0))])
    for frame in range(1, 401):
        of = table[table[:, 0] == frame]
        boxes = np.column_stack([of[:, 2:4], of[:, 2:4] + of[:, 4:6]])
        n = len(of)
        seen = Tracks(
            of[:, 1].astype(np.int64),
            Detections(boxes, np.ones(n), np.zeros(n)),
            np.zeros((n, 2), np.float32),
            np.zeros(n, np.float32),
        )
        tally = counter.update(seen, frame / 10, (480, 360))
    assert (tally.lines[0].outward, tally.lines[0].inward) == (8, 6)


def frame(number: int, seed: int = 0) -> Frame:
    """Noise of 120x160 pixels, ten frames a second."""
    image = np.random.default_rng(seed).integers(0, 255, (120, 160, 3), np.uint8)
    return Frame("clip", number, image, number / 10)


def seen(x: float, *scored: tuple[int, float]) -> Detections:
    """Boxes of 20x40 pixels at `x`, 60 pixels apart, of (class_id, score)."""
    boxes = [[x + 60 * i, 40, x + 60 * i + 20, 80] for i in range(len(scored))]
    return Detections(np.array(boxes), np.array([s for _, s in scored]), np.array([c for c, _ in scored]))


def test_without_tracking_what_is_sure_and_wanted_is_shown() -> None:
    """Of a sure person, a doubtful person and a sure dog, --classes person leaves the first."""
    scene = Scene(SceneOptions(), 0.4, CLASSES, ["person"])
    found, tracks, tally = scene.update(frame(0), seen(0, (2, 0.9), (2, 0.3), (1, 0.8)))
    assert (found.class_id.tolist(), found.score.tolist()) == ([2], [pytest.approx(0.9)])
    assert (tracks, tally) == (None, None)


def test_what_is_sure_can_differ_by_class() -> None:
    """A dog of 0.3 is shown from 0.25 on, a person from 0.4 on is not; tracks look for both lower."""
    scene = Scene(SceneOptions(), (0.4, 0.25, 0.4), CLASSES)
    found, _, _ = scene.update(frame(0), seen(0, (1, 0.3), (2, 0.3)))
    assert found.class_id.tolist() == [1]
    assert scene.detector_threshold == (0.4, 0.25, 0.4)
    tracking = Scene(SceneOptions(track=True), (0.4, 0.25, 0.4), CLASSES)
    assert tracking.detector_threshold == pytest.approx((0.36, 0.225, 0.36))


@pytest.mark.parametrize("track", [False, True])
def test_what_stands_in_a_zone_to_ignore_is_not_detected(track: bool) -> None:
    """Of three persons the middle one, by the feet: no box, no track, no visit; the zone is not counted."""
    around = parse_zone("poster=55,75,105,75,105,90,55,90;ignore")
    everywhere = parse_zone("shop=0,0,160,0,160,120,0,120")
    zones = (everywhere, around) if track else (around,)
    scene = Scene(SceneOptions(zones=zones), 0.4, CLASSES)
    for number in range(4):
        found, tracks, tally = scene.update(frame(number), seen(0, (2, 0.9), (2, 0.9), (2, 0.9)))
    assert sorted(found.xyxy[:, 0].tolist()) == [0, 120]
    assert (tracks is not None) == (tally is not None) == track
    if tally is not None:
        assert [(zone.name, zone.inside) for zone in tally.zones] == [("shop", 2)]


def test_a_zone_to_ignore_can_come_and_go_while_it_runs() -> None:
    """As the page does it; and where all of it lies outside of the image, the log says so once."""
    scene, around = Scene(SceneOptions(), 0.4, CLASSES), parse_zone("0,0,160,0,160,120,0,120;ignore")
    assert len(scene.update(frame(0), seen(0, (2, 0.9)))[0]) == 1
    scene.change(SceneOptions(zones=(around,)))
    assert len(scene.update(frame(1), seen(0, (2, 0.9)))[0]) == 0
    assert len(scene.update(frame(1), Detections.empty())[0]) == 0
    scene.change(SceneOptions())
    assert len(scene.update(frame(2), seen(0, (2, 0.9)))[0]) == 1


def test_a_zone_to_ignore_outside_of_the_image_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Pixels of another size are the usual mistake."""
    scene = Scene(SceneOptions(zones=(parse_zone("tv=900,900,990,900,990,990;ignore"),)), 0.4, CLASSES)
    for number in range(3):
        scene.update(frame(number), seen(0, (2, 0.9)))
    assert [record.message for record in caplog.records if "tv" in record.message] == caplog.messages[:1]


def test_a_room_and_a_rule_need_a_zone_that_is_counted() -> None:
    """One that is ignored is never empty of people: nobody is in it."""
    ignored = parse_zone("tv=0,0,9,0,9,9;ignore")
    with pytest.raises(ConfigError, match="expected the name of a zone, got 'tv'"):
        Counter([UP], [ignored], rooms=[parse_room("shop=door;empty=tv")])
    with pytest.raises(ConfigError, match="expected the name of a zone or room, of which there is none"):
        Counter([UP], [ignored], rules=[parse_rule("capacity,tv,3")])


def test_a_class_that_is_only_blurred_is_looked_for_too() -> None:
    """--classes dog --blur person: the network looks for both, and for doubtful ones."""
    scene = Scene(SceneOptions(blur=("person",)), 0.4, CLASSES, ["dog"])
    assert scene.detector_classes == ["dog", "person"]
    assert scene.detector_threshold < 0.4
    assert Scene(SceneOptions(), 0.4, CLASSES, ["dog"]).detector_threshold == 0.4
    assert Scene(SceneOptions(blur=("person",)), 0.4, CLASSES).detector_classes is None


def test_counts_and_map_are_written_and_taken_up_again(tmp_path: Path) -> None:
    """Who walks across a line is in the file; the next run begins there; the map is as large as the image."""
    line = Line("mid", (80, 0), (80, 120))
    options = SceneOptions(lines=(line,), counts=tmp_path / "counts.json", presence=tmp_path / "map.png")
    scene = Scene(options, 0.4, CLASSES)
    for i in range(30):
        scene.update(frame(i), seen(20 + 4 * i, (2, 0.9)))
    scene.close()
    kept = json.loads((tmp_path / "counts.json").read_text())["lines"]["mid"]
    assert (kept["in"], kept["out"]) == (0, 1)
    assert cv2.imread(str(tmp_path / "map.png")).shape == (120, 160, 3)
    again = Scene(options, 0.4, CLASSES)
    _, _, tally = again.update(frame(0), seen(20, (2, 0.9)))
    again.close()
    assert tally is not None
    assert tally.lines[0].outward == 1


def test_counting_goes_on_while_its_files_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their folder becomes a file for a while: said once, and in the end all counts are there."""
    monkeypatch.setattr(scene_module, "_SAVE_EVERY_S", 0.0)
    folder, unwritten = tmp_path / "disk", Unwritten()
    options = SceneOptions(
        lines=(Line("mid", (80, 0), (80, 120)),), counts=folder / "c.json", presence=folder / "map.png"
    )
    scene = Scene(options, 0.4, CLASSES, unwritten=unwritten)
    folder.rename(tmp_path / "away")
    folder.write_text("")
    for i in range(30):
        scene.update(frame(i), seen(20 + 4 * i, (2, 0.9)))
    until = time.monotonic() + 10
    while "map.png" not in unwritten.now() and time.monotonic() < until:
        time.sleep(0.01)
    assert unwritten.now().count("cannot write: Not a directory") == 2
    folder.unlink()
    (tmp_path / "away").rename(folder)
    scene.close()
    assert unwritten.all() == ""
    assert json.loads((folder / "c.json").read_text())["lines"]["mid"]["out"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["c.json", "map.png"]


def test_people_in_the_map_are_blurred(tmp_path: Path) -> None:
    """Where the person stood, the noise of the picture is gone; without --blur it is there."""
    spread = []
    for blurred in ((), ("person",)):
        scene = Scene(SceneOptions(presence=tmp_path / "map.png", blur=blurred), 0.4, CLASSES)
        scene.update(frame(0), seen(100, (2, 0.9)))
        scene.close()
        spread.append(cv2.imread(str(tmp_path / "map.png"))[45:75, 103:117].std())
    assert spread[0] > 60
    assert spread[1] < 30


def test_classes_go_by_synonyms_and_a_blurred_one_is_looked_for_too() -> None:
    """Wanted and blurred under COCO's words, written in another way: found under the model's own."""
    scene = Scene(SceneOptions(blur=("Potted_Plant",)), 0.4, ("pottedplant", "cat", "sofa"), ["couch"])
    found, _, _ = scene.update(frame(0), seen(100, (0, 0.9), (2, 0.9)))
    scene.close()
    assert scene.detector_classes == ["pottedplant", "sofa"]
    assert found.class_id.tolist() == [2]


def test_counts_without_a_line_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    """Each is one line that says what to do."""
    with pytest.raises(ConfigError, match="--count-line or --zone"):
        Scene(SceneOptions(counts=tmp_path / "counts.json"), 0.4, CLASSES)
    with pytest.raises(ConfigError, match="unknown class 'cow'"):
        Scene(SceneOptions(blur=("cow",)), 0.4, CLASSES, ["dog"])
    (tmp_path / "counts.json").write_text("[]")
    with pytest.raises(ConfigError, match="move the file away"):
        Scene(SceneOptions(lines=(Line("a", (0, 0), (9, 9)),), counts=tmp_path / "counts.json"), 0.4, CLASSES)


def test_places_that_stay_count_on_when_others_change() -> None:
    """By their place, whatever their name; one that was moved begins at 0, who is in a room stays there."""
    room = parse_room("hall=door")
    counter = Counter([UP], [YARD], rooms=[room])
    walk(counter, across(80, 120, 120, y=150.0))
    half = walk(counter, across(120, 101, y=150.0))[-1]
    assert (half.lines[0].inward, half.zones[0].inside, half.rooms[0].inside) == (1, 1, 1)
    moved = Line("door", (110.0, 300.0), (110.0, 100.0))
    changed = Counter([Line("front", UP.start, UP.end), moved], [YARD], rooms=[room])
    changed.adopt(counter)
    # Whoever was on the way over the line crosses it, and whoever is in the zone does not enter anew.
    after = walk(changed, across(80, 80, y=150.0), start=1.0)[-1]
    assert [(line.name, line.inward, line.outward) for line in after.lines] == [
        ("front", 1, 1),
        ("door", 0, 0),
    ]
    assert after.zones[0].entered == 1
    assert after.rooms[0].inside == 1
    changed.reset()
    assert [(line.inward, line.outward) for line in changed.update(tracks({}), 2.0, SIZE).lines] == [
        (0, 0)
    ] * 2
