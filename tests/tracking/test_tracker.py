"""An object keeps its number while it moves, hides, meets others; noise gets none."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.tracking.state import Tracks
from edge_centernet.tracking.tracker import Tracker, TrackerOptions

PETS = Path(__file__).resolve().parents[3] / "shared/data/pets09_s2l1_first400/gt.txt"
THRESHOLD, WIDE, HIGH = 0.3, 20.0, 50.0
Thing = tuple[float, float] | tuple[float, float, float] | tuple[float, float, float, int]


def detections(*things: Thing) -> Detections:
    """People-sized boxes by (centre x, centre y[, score[, class]]), best score first."""
    rows = sorted([(*thing, *(0.9, 0)[len(thing) - 2 :]) for thing in things], key=lambda row: -row[2])
    boxes = [(x - WIDE / 2, y - HIGH / 2, x + WIDE / 2, y + HIGH / 2) for x, y, _, _ in rows]
    table = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(table, np.array([row[2] for row in rows]), np.array([row[3] for row in rows]))


def follow(
    tracker: Tracker, frames: Iterable[Detections], start: float = 0.0, dt: float = 0.1
) -> list[Tracks]:
    """What the tracker says of each frame."""
    return [tracker.update(found, start + i * dt) for i, found in enumerate(frames)]


def walk(x: float, speed: float, n: int, y: float = 100.0) -> list[Detections]:
    """One object that walks to the right for n frames, `speed` pixels a frame."""
    return [detections((x + speed * i, y)) for i in range(n)]


def test_an_id_comes_with_the_third_sighting_and_stays() -> None:
    """Two frames without an id, then the same one; its age counts from the first sighting."""
    seen = follow(Tracker(THRESHOLD), walk(50, 3, 30))
    assert [tracks.id.tolist() for tracks in seen] == [[], []] + [[1]] * 28
    assert seen[-1].age.tolist() == pytest.approx([2.9])


def test_confirm_1_gives_an_id_at_once() -> None:
    """confirm=1: the first sure detection has an id, age and velocity 0."""
    (seen,) = follow(Tracker(THRESHOLD, TrackerOptions(confirm=1)), walk(50, 3, 1))
    assert (seen.id.tolist(), seen.age.tolist(), seen.velocity.tolist()) == ([1], [0.0], [[0.0, 0.0]])


def test_a_single_false_detection_gets_no_id() -> None:
    """Sightings that do not last, each elsewhere, never get an id, and none is reported lost or ended."""
    noise = [
        detections((40.0 + 97 * (i % 5), 60.0 + 71 * (i % 4))) if i % 3 == 0 else detections()
        for i in range(60)
    ]
    seen = follow(Tracker(THRESHOLD), noise)
    assert [(tracks.id.tolist(), tracks.lost, tracks.ended) for tracks in seen] == [([], (), ())] * 60


def test_velocity_is_in_pixels_a_second_of_true_time() -> None:
    """Steps of irregular time at 40 pixels a second to the right and 20 up are measured as such."""
    times = np.cumsum(np.random.default_rng(0).choice([0.04, 0.08, 0.2, 0.4], 40))
    tracker = Tracker(THRESHOLD)
    for t in times:
        tracks = tracker.update(detections((50 + 40 * t, 300 - 20 * t)), float(t))
    assert tracks.velocity[0].tolist() == pytest.approx([40.0, -20.0], abs=2.0)


def test_a_hidden_object_is_lost_then_recovered_under_its_id() -> None:
    """Ten frames behind a pillar: lost once, recovered once, the id stays, no box is invented meanwhile."""
    frames = walk(50, 4, 40)
    frames[15:25] = [detections()] * 10
    seen = follow(Tracker(THRESHOLD), frames)
    assert [i for i, tracks in enumerate(seen) if tracks.lost == (1,)] == [15]
    assert [i for i, tracks in enumerate(seen) if tracks.recovered == (1,)] == [25]
    assert [len(tracks) for tracks in seen[15:26]] == [0] * 10 + [1]
    assert seen[-1].id.tolist() == [1]


def test_an_object_hidden_beyond_the_memory_ends_and_returns_under_a_new_id() -> None:
    """memory_s=1: after 1.5 s the id is given up, once, and the next sightings get another."""
    frames = [*walk(50, 0, 5), *[detections()] * 15, *walk(50, 0, 5)]
    seen = follow(Tracker(THRESHOLD, TrackerOptions(memory_s=1.0)), frames)
    assert [i for i, tracks in enumerate(seen) if tracks.ended] == [15]
    assert seen[15].ended == (1,)
    assert seen[-1].id.tolist() == [2]


def test_memory_is_in_seconds_not_frames() -> None:
    """Missing for 2 s keeps the id at 30 frames a second and at 2."""
    for rate in (30, 2):
        frames = [*walk(50, 0, 6), *[detections()] * (2 * rate - 1), *walk(50, 0, 3)]
        assert follow(Tracker(THRESHOLD), frames, dt=1 / rate)[-1].id.tolist() == [1]


def test_two_who_cross_keep_their_ids() -> None:
    """They walk through each other, one of them unseen for the three frames in which they meet."""
    frames = []
    for i in range(40):
        pair = [(100.0 + 5 * i, 100.0), (300.0 - 5 * i, 104.0)]
        frames.append(detections(*(pair[:1] if 19 <= i <= 21 else pair)))
    seen = follow(Tracker(THRESHOLD), frames)

    def left_to_right(tracks: Tracks) -> list[int]:
        return tracks.id[np.argsort(tracks.found.xyxy[:, 0])].tolist()

    assert left_to_right(seen[-1]) == left_to_right(seen[5])[::-1]
    assert set(seen[-1].id.tolist()) == {1, 2}


def test_a_doubtful_detection_keeps_a_track_and_starts_none() -> None:
    """Score 0.28 at threshold 0.3: it continues the object, the same score elsewhere never gets an id."""
    frames = [detections((100, 100, 0.28 if 5 <= i < 20 else 0.8), (300, 100, 0.28)) for i in range(25)]
    seen = follow(Tracker(THRESHOLD), frames)
    assert [tracks.id.tolist() for tracks in seen[2:]] == [[1]] * 23
    assert seen[10].found.score.tolist() == pytest.approx([0.28])
    assert not any(tracks.lost for tracks in seen)


def test_each_class_can_have_a_threshold_of_its_own() -> None:
    """An object of class 0 is sure from 0.6 on, one of class 1 from 0.2; doubtful from 9/10 of that."""
    tracker = Tracker((0.6, 0.2))
    assert tracker.options.low_for((0.6, 0.2)) == pytest.approx((0.54, 0.18))
    seen = follow(tracker, [detections((100, 100, 0.5), (300, 100, 0.3, 1))] * 4)
    assert seen[-1].found.class_id.tolist() == [1]
    with pytest.raises(ConfigError, match=r"expected 0\.\.1, got \(0\.5, 1\.5\)"):
        Tracker((0.5, 1.5))


def test_an_object_gets_its_id_from_sure_detections_alone() -> None:
    """One sure detection, then doubtful ones for ever: no id."""
    seen = follow(Tracker(THRESHOLD), [detections((100, 100, 0.8 if i == 0 else 0.28)) for i in range(20)])
    assert [tracks.id.tolist() for tracks in seen] == [[]] * 20


def test_sightings_too_far_apart_in_time_do_not_add_up() -> None:
    """False detections at one place in every fourth frame never get an id; in every third they do."""
    for gap, expected in ((4, 0), (3, 8)):
        frames = [detections((100, 100)) if i % gap == 0 else detections() for i in range(10 * gap)]
        assert sum(len(tracks) for tracks in follow(Tracker(THRESHOLD), frames)) == expected


def test_a_detection_goes_to_the_track_that_is_known_well_not_to_the_one_long_hidden() -> None:
    """One stands, one hidden for 1.5 s stood beside: a detection between them is still the first."""
    frames = [detections((100, 100), (140, 100))] * 10 + [detections((100, 100))] * 15
    tracker = Tracker(THRESHOLD)
    first = follow(tracker, frames)[-1].id.tolist()
    tracks = tracker.update(detections((111, 100)), 2.5)
    assert (tracks.id.tolist(), tracks.recovered, tracks.lost) == (first, (), ())


def test_who_appears_farther_than_a_size_from_where_one_was_hidden_is_another() -> None:
    """After 2 s: one and a half sizes from the place, 45 pixels, stands somebody new, at 20 the same."""
    for away, expected in ((45, [2]), (20, [1])):
        frames = [*walk(100, 0, 10), *[detections()] * 19, *walk(100 + away, 0, 5)]
        assert follow(Tracker(THRESHOLD), frames)[-1].id.tolist() == expected


def test_a_track_keeps_to_its_class() -> None:
    """A dog where the person was is another object."""
    frames = [detections((100, 100, 0.9, int(i >= 5))) for i in range(10)]
    seen = follow(Tracker(THRESHOLD), frames)
    assert (seen[4].id.tolist(), seen[-1].id.tolist()) == ([1], [2])
    assert seen[5].lost == (1,)


def test_a_second_box_of_the_same_object_gets_no_id() -> None:
    """A duplicate one pixel beside it, with a lower score: one id for 20 frames."""
    seen = follow(
        Tracker(THRESHOLD), [detections((100 + 2 * i, 100), (101 + 2 * i, 100, 0.5)) for i in range(20)]
    )
    assert [tracks.id.tolist() for tracks in seen[2:]] == [[1]] * 18


def test_small_fast_objects_match_without_overlap() -> None:
    """Boxes that move by more than their width each frame, so that no two overlap, are one object."""
    seen = follow(Tracker(THRESHOLD), walk(50, WIDE + 4, 20))
    assert seen[-1].id.tolist() == [1]


@pytest.mark.parametrize(("rate", "sizes"), [(1, 0.8), (5, 0.8), (10, 0.6), (25, 0.3)])
def test_an_object_may_move_by_this_share_of_its_size_from_frame_to_frame(rate: int, sizes: float) -> None:
    """As docs/tracking.md says: so fast, or by a third from standing, it is one object; by twice, none."""
    step = sizes * (WIDE * HIGH) ** 0.5
    for path in (walk(50, step, 20), [*walk(50, 0, 9), *walk(50, step / 3, 20)]):
        seen = follow(Tracker(THRESHOLD), path, dt=1 / rate)
        assert [tracks.id.tolist() for tracks in seen] == [[], []] + [[1]] * (len(path) - 2)
    assert not any(len(tracks) for tracks in follow(Tracker(THRESHOLD), walk(50, 2 * step, 20), dt=1 / rate))


def test_tracks_hold_the_boxes_as_detected_best_score_first() -> None:
    """They are a part of what came in, in its order, untouched by the filter."""
    frames = [detections((100 + i % 3, 100, 0.5), (200 - i % 2, 100, 0.8)) for i in range(6)]
    last = follow(Tracker(THRESHOLD), frames)[-1]
    assert last.found.xyxy.tolist() == frames[-1].xyxy.tolist()
    assert last.found.score.tolist() == pytest.approx([0.8, 0.5])


def test_a_clock_that_goes_back_or_stands_still_loses_nobody() -> None:
    """A video that begins anew, or two frames of the same time: the id stays, the age does not shrink."""
    tracker = Tracker(THRESHOLD)
    before = follow(tracker, walk(50, 0, 10))[-1]
    after = follow(tracker, walk(50, 0, 10))[-1]
    assert (before.id.tolist(), after.id.tolist()) == ([1], [1])
    assert after.age[0] > before.age[0]
    assert tracker.update(detections((50, 100)), 0.9).id.tolist() == [1]


def test_a_camera_that_was_away_starts_anew() -> None:
    """After an hour without a frame, whoever stands there is not taken for the one before."""
    tracker = Tracker(THRESHOLD)
    follow(tracker, walk(50, 0, 5))
    seen = follow(tracker, walk(50, 0, 5), start=3600.0)
    assert seen[0].ended == (1,)
    assert seen[-1].id.tolist() == [2]


def test_time_must_be_finite() -> None:
    """A frame without a time would poison every track."""
    with pytest.raises(ValueError, match="finite seconds, got nan"):
        Tracker(THRESHOLD).update(detections(), float("nan"))


@pytest.mark.slow
def test_ids_are_never_used_twice_and_memory_is_bounded() -> None:
    """3,000 frames of noise: every id is new, and what is kept does not grow."""
    rng = np.random.default_rng(1)
    tracker = Tracker(THRESHOLD, TrackerOptions(confirm=1, memory_s=0.5))
    known: set[int] = set()
    tracemalloc.start()
    try:
        for i in range(3000):
            tracks = tracker.update(detections((float(rng.uniform(0, 4000)), 100)), i / 10)
            fresh = set(tracks.id[tracks.age == 0].tolist())
            assert not fresh & known
            known = {max(known | fresh, default=0)}
            if i == 300:
                start = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] - start < 20_000
    finally:
        tracemalloc.stop()
    assert max(known) > 2500


def test_a_picture_full_of_noise_has_no_more_than_500_tracks() -> None:
    """2,000 far-apart boxes in a frame: 500 are followed."""
    crowd = detections(*[(60.0 * (i % 50), 120.0 * (i // 50)) for i in range(2000)])
    assert len(Tracker(THRESHOLD, TrackerOptions(confirm=1)).update(crowd, 0.0)) == 500


def test_boxes_without_area_do_no_harm() -> None:
    """A box of no width and height is followed, not divided by."""
    tracker = Tracker(THRESHOLD)
    point = Detections(np.full((1, 4), 7.0), np.ones(1), np.zeros(1))
    assert follow(tracker, [point] * 5)[-1].id.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_s": 0.0}, "tracker memory: expected above 0 and up to 60 seconds, got 0"),
        ({"memory_s": float("nan")}, "tracker memory: expected above 0 and up to 60 seconds, got nan"),
        ({"confirm": 0}, "tracker confirm: expected 1 sighting or more, got 0"),
        ({"doubtful": 1.5}, "tracker doubtful: expected above 0 and up to 1, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    """One line that says what was expected."""
    with pytest.raises(ConfigError) as error:
        TrackerOptions(**options)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_threshold_out_of_range_is_refused() -> None:
    """As the detector's."""
    with pytest.raises(ConfigError, match=r"threshold: expected 0..1, got 1.5"):
        Tracker(1.5)


def test_the_detector_runs_at_nine_tenths_of_the_threshold() -> None:
    """low_for tells the command line what to give the detector."""
    assert TrackerOptions().low_for(0.4) == pytest.approx(0.36)


@pytest.mark.skipif(
    not PETS.exists(), reason="needs ../shared/data/pets09_s2l1_first400 (see its SOURCES.md)"
)
@pytest.mark.parametrize("seed", range(3))
def test_truth_of_pets_with_dropouts_keeps_its_ids(seed: int) -> None:
    """A tenth of the true boxes of 400 frames missing: each of the 10 people has one id of their own."""
    table = np.loadtxt(PETS, delimiter=",")
    table = table[np.random.default_rng(seed).random(len(table)) >= 0.1]
    tracker = Tracker(THRESHOLD)
    pairs = set()
    for frame in range(1, 401):
        of = table[table[:, 0] == frame]
        boxes = np.column_stack([of[:, 2:4], of[:, 2:4] + of[:, 4:6]]).astype(np.float32)
        tracks = tracker.update(Detections(boxes, np.ones(len(of)), np.zeros(len(of))), frame / 10)
        for track_id, box in zip(tracks.id.tolist(), tracks.found.xyxy, strict=True):
            person = int(of[np.flatnonzero((boxes == box).all(1))[0], 1])
            pairs.add((person, track_id))
    people, ids = zip(*pairs, strict=True)
    assert len(set(people)) == 10
    assert len(pairs) - len(set(people)) <= 1
    assert len(pairs) == len(set(ids))
