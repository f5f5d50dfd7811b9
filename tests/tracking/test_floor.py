"""Metres on the floor: places, speeds and a plan, of people before a camera whose geometry is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support import load_script

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.sources import Frame
from edge_centernet.tracking.floor import FloorTracks, Plan, parse_floor
from edge_centernet.tracking.scene import Scene, SceneOptions
from edge_centernet.tracking.state import Tracks

render = load_script("render_demo")
SIZE = (render.WIDTH, render.HEIGHT)
CORNERS = ((-2.0, 3.4), (2.0, 3.4), (3.0, 6.0), (-3.0, 6.0))  # x and z, metres


def pixels(*places: tuple[float, float]) -> np.ndarray:
    """(N, 2) where points of the floor are in the image."""
    return np.asarray(render.project(np.array([(x, 0.0, z) for x, z in places]))[:, :2])


def text(*parts: np.ndarray) -> str:
    """As --floor takes it."""
    return "=".join(",".join(f"{number:.3f}" for number in part.ravel()) for part in parts)


FLOOR = parse_floor(text(pixels(*CORNERS), np.array(CORNERS)))


def tracks(*feet: np.ndarray, ended: tuple[int, ...] = ()) -> Tracks:
    """One track each, 1 and up, by its foot point."""
    boxes = np.array([(x - 20, y - 120, x + 20, y) for x, y in feet]).reshape(-1, 4)
    n = len(boxes)
    found = Detections(boxes, np.full(n, 0.9), np.zeros(n, int))
    return Tracks(
        np.arange(1, n + 1), found, np.zeros((n, 2), np.float32), np.zeros(n, np.float32), ended=ended
    )


def test_places_are_those_that_the_camera_saw() -> None:
    """Within a centimetre, between the four points and beyond them; nothing from the horizon upwards."""
    places = [(x, z) for x in (-2.5, 0.0, 1.7) for z in (2.5, 4.0, 9.0)]
    np.testing.assert_allclose(FLOOR.to_metres(pixels(*places), SIZE), places, atol=0.01)
    assert np.isnan(FLOOR.to_metres(np.array([[320.0, 10.0]]), SIZE)).all()


def test_fractions_are_of_any_image() -> None:
    """The same floor at half the size."""
    relative = parse_floor(text(pixels(*CORNERS) / SIZE, np.array(CORNERS)))
    half = (SIZE[0] // 2, SIZE[1] // 2)
    np.testing.assert_allclose(relative.to_metres(pixels((1.0, 4.0)) / 2, half), [(1.0, 4.0)], atol=0.02)


@pytest.mark.parametrize("step", [(1.3, 0.0), (0.0, 1.3), (-0.9, -0.9), (0.0, 0.0)])
def test_speeds_are_the_same_near_and_far_along_and_across(step: tuple[float, float]) -> None:
    """Metres per second within a tenth, although boxes tremble by two pixels; nothing at first."""
    noise = np.random.default_rng(1)
    counter = FloorTracks(FLOOR)
    speeds = []
    for i in range(40):
        t = i / 15 - 1.3
        feet = pixels(*((x + step[0] * t, z + step[1] * t) for x, z in ((0.0, 3.6), (0.5, 5.0))))
        feet += noise.normal(0, 0.7, feet.shape)
        speeds.append(counter.update(tracks(*feet), i / 15, SIZE).speed)
    assert np.isnan(speeds[3]).all()
    assert np.median(speeds[20:], axis=0) == pytest.approx([np.hypot(*step)] * 2, abs=0.13)


def test_a_track_that_ended_is_forgotten() -> None:
    """An id begins anew."""
    counter = FloorTracks(FLOOR)
    for i in range(20):
        counter.update(tracks(*pixels((i / 15, 4.0))), i / 15, SIZE)
    counter.update(tracks(ended=(1,)), 1.4, SIZE)
    assert np.isnan(counter.update(tracks(*pixels((0.0, 4.0))), 1.5, SIZE).speed).all()


def test_the_plan_shows_who_stood_where_and_walked_which_way(tmp_path: Path) -> None:
    """Hot where one stood, a line where one walked, white elsewhere; written by a scene at its end."""
    plan, counter = Plan(FLOOR), FloorTracks(FLOOR)
    for i in range(60):
        feet = pixels((-1.5, 3.5), (-1.5 + i / 20, 5.5))
        plan.update(counter.update(tracks(*feet), i / 15, SIZE), i / 15)
    picture = plan.picture().astype(int)
    (stood, passed, nobody) = np.round(
        plan.to_pixels(np.array([(-1.5, 3.5), (0.0, 5.5), (1.5, 4.25)]))
    ).astype(int)
    blue, _, red = picture[stood[1] + 4, stood[0] + 4]  # beside the path
    assert red > blue + 40
    assert picture[passed[1] - 2 : passed[1] + 3, passed[0]].min() < 130
    assert picture[nobody[1], nobody[0]].min() == 255
    assert picture.shape[1] == 800
    scene = Scene(SceneOptions(floor=FLOOR, plan=tmp_path / "plan.png"), 0.4, ["person"])
    frame = Frame("clip", 0, np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    scene.update(frame, tracks(*pixels((0.0, 4.0))).found)
    scene.close()
    assert cv2.imread(str(tmp_path / "plan.png")).shape == picture.shape


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("0,0,1,0,1,1,0,1", "eight numbers each"),
        ("0,0,1,0,1,1,0,1=0,0,4,0,4,3", "eight numbers each"),
        ("0,0,1,0,1,1,0,nan=0,0,4,0,4,3,0,3", "eight numbers each"),
        ("0,0,1,0,1,1,0,1=0,0,4,3,4,0,0,3", "as metres four corners of an area on the floor, one after"),
        ("0,0,1,1,2,2,3,3=0,0,4,0,4,3,0,3", "as points four corners"),
    ],
)
def test_what_is_no_floor_is_one_line(given: str, says: str) -> None:
    """What was expected."""
    with pytest.raises(ConfigError, match=says):
        parse_floor(given)


def test_a_plan_needs_a_floor(tmp_path: Path) -> None:
    """Nothing could be drawn."""
    with pytest.raises(ConfigError, match="expected --floor with it"):
        Scene(SceneOptions(track=True, plan=tmp_path / "plan.png"), 0.4, ["person"])
