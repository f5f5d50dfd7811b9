"""What is drawn on a live image, and what can no longer be seen on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_support import CLASSES, FOUND, PHOTO, TRACKS, snapshot
from numpy.typing import NDArray
from support import full_disk

from edge_centernet.detections import Detections
from edge_centernet.draw import blur, class_color, draw
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten
from edge_centernet.outputs import annotate
from edge_centernet.outputs.annotate import Annotated, Overlay
from edge_centernet.sources import Frame
from edge_centernet.sources.files import open_source
from edge_centernet.sources.live import LiveCapture
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.state import LineCount, Snapshot, Tally, Tracks, ZoneCount
from edge_centernet.tracking.zone_counter import Zone

YELLOW, ORANGE = (0, 220, 255), (255, 180, 60)  # BGR of lines and zones
Image = NDArray[np.uint8]


def grey(number: int = 0, **changes: object) -> Snapshot:
    """A result on a grey image of 400x600, so that all colour is drawn; nothing found unless given."""
    shown = snapshot(number)
    frame = replace(shown.frame, image=np.full((400, 600, 3), 90, np.uint8))
    return replace(shown, frame=frame, **{"found": Detections.empty(), **changes})  # type: ignore[arg-type]


def tracked(box: tuple[float, float, float, float], track_id: int = 3) -> Tracks:
    """One person."""
    found = Detections(np.array([box]), np.array([0.9]), np.array([0]))
    return Tracks(np.array([track_id]), found, np.zeros((1, 2), np.float32), np.zeros(1, np.float32))


def where(picture: Image, color: tuple[int, int, int], within: int = 12) -> NDArray[np.bool_]:
    """(H, W) pixels of nearly this colour."""
    return np.abs(picture.astype(int) - color).max(axis=2) < within


def test_detections_look_as_in_annotated_files() -> None:
    """The same pixels; the frame itself stays as it was."""
    shown = snapshot()
    before = shown.frame.image.copy()
    np.testing.assert_array_equal(Overlay(CLASSES).draw(shown), draw(before, FOUND, CLASSES))
    np.testing.assert_array_equal(shown.frame.image, before)


def test_a_track_is_labelled_with_its_id() -> None:
    """Two ids give two labels and two colours of the box, and nothing else differs."""
    box = (100.0, 100.0, 300.0, 300.0)
    first, again, other = (
        Overlay(CLASSES).draw(grey(tracks=tracked(box, track_id))) for track_id in (3, 3, 17)
    )
    np.testing.assert_array_equal(first, again)
    assert where(first, class_color(3))[100:300, 100].all()
    assert where(other, class_color(17))[100:300, 100].all()
    rows, columns = np.nonzero((first != other).any(axis=2))
    assert (rows.max() <= 301, columns.min() >= 99, columns.max() <= 301) == (True, True, True)
    assert not (first != other)[105:295, 105:295].any()


def test_a_trail_shows_where_the_feet_of_a_track_were() -> None:
    """For three seconds; it goes when the track is gone for that long."""
    overlay = Overlay(CLASSES)
    for number in range(0, 30, 3):  # one second, 20 pixels to the right a step
        picture = overlay.draw(
            grey(number, tracks=tracked((20.0 * number / 3, 100.0, 100.0 + 20.0 * number / 3, 300.0)))
        )
    # The feet went from x = 50 to 230 at y = 300; the box is now at 180 to 280.
    assert where(picture, class_color(3))[300, 60:170].all()
    assert not where(picture, class_color(3))[300, 285:].any()
    later = overlay.draw(grey(29 + 120, tracks=tracked((180.0, 100.0, 280.0, 300.0))))
    assert not where(later, class_color(3))[300, 60:170].any()
    assert len(overlay._trails) == 1
    overlay.draw(grey(29 + 360))
    assert overlay._trails == {}


def test_new_tracks_in_every_picture_cost_no_memory() -> None:
    """What is remembered is bounded by what was seen within seconds."""
    overlay = Overlay(CLASSES, blur=["person"])
    for number in range(0, 3000, 3):
        overlay.draw(grey(number, tracks=tracked((100.0, 100.0, 120.0, 140.0), number + 1)))
    assert len(overlay._trails) <= 31
    assert len(overlay._held) == 1


@pytest.mark.parametrize(
    ("start", "end", "side"),
    [
        ((300, 350), (300, 50), (330, 200)),  # upwards: the right hand is on the right
        ((300, 50), (300, 350), (270, 200)),  # downwards: on the left of the picture
        ((100, 200), (500, 200), (300, 230)),  # to the right: below
    ],
)
def test_the_arrow_of_a_line_points_to_the_right_hand(
    start: tuple[int, int], end: tuple[int, int], side: tuple[int, int]
) -> None:
    """Of one who stands at the first point and looks at the second."""
    yellow = where(Overlay(CLASSES, [Line("door", start, end)]).draw(grey()), YELLOW)
    (x, y), (middle_x, middle_y) = side, ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2)
    assert yellow[y - 3 : y + 4, x - 3 : x + 4].any()
    assert not yellow[
        2 * middle_y - y - 3 : 2 * middle_y - y + 4, 2 * middle_x - x - 3 : 2 * middle_x - x + 4
    ].any()


def test_lines_and_zones_follow_the_size_of_the_picture() -> None:
    """Fractions and pixels mean the same place, in the full picture and in a narrower one."""
    in_pixels = Overlay(
        CLASSES, [Line("a", (60, 40), (540, 360))], [Zone("b", ((300, 40), (540, 40), (540, 200)))]
    )
    in_parts = Overlay(
        CLASSES,
        [Line("a", (0.1, 0.1), (0.9, 0.9), True)],
        [Zone("b", ((0.5, 0.1), (0.9, 0.1), (0.9, 0.5)), True)],
    )
    np.testing.assert_array_equal(in_pixels.draw(grey()), in_parts.draw(grey()))
    small = in_pixels.draw(grey(), max_width=300)
    assert small.shape == (200, 300, 3)
    assert where(small, YELLOW)[178:182, 268:272].any()
    assert where(small, ORANGE, 60)[19:22, 170:265].any(axis=0).all()


def test_counts_are_written_beside_what_is_counted() -> None:
    """Other counts, other letters; and only there."""

    def picture(tally: Tally | None) -> Image:
        scene = [Line("door", (50, 300), (550, 300))], [Zone("sofa", ((50, 60), (550, 60), (550, 200)))]
        return Overlay(CLASSES, *scene).draw(grey(tally=tally))

    tally = Tally((LineCount("door", 3, 1),), (ZoneCount("sofa", 1, 2, 0.0, 0.0),))
    first = picture(tally)
    for other, rows in (
        (replace(tally, lines=(LineCount("door", 4, 1),)), slice(270, 300)),
        (replace(tally, zones=(ZoneCount("sofa", 2, 3, 0.0, 0.0),)), slice(30, 60)),
    ):
        changed = (picture(other) != first).any(axis=2)
        assert 0 < changed[rows].sum() == changed.sum()
    assert (picture(None) != first).any()


def test_a_zone_to_ignore_looks_unlike_one_that_is_counted() -> None:
    """Grey, and labelled as ignored."""
    corners = ((50, 60), (550, 60), (550, 200))
    counted, ignored = (
        Overlay(CLASSES, [], [Zone("sofa", corners, ignore=ignore)]).draw(grey()) for ignore in (False, True)
    )
    assert where(counted, ORANGE, 60).any()
    assert not where(ignored, ORANGE, 60).any()


def test_a_narrow_picture_has_its_boxes_in_the_right_place() -> None:
    """At half the width everything is at half the distance; a picture is never made wider."""
    box = Detections(np.array([[200, 100, 400, 300]]), np.array([0.9]), np.array([0]))
    small = Overlay(CLASSES).draw(grey(found=box), max_width=300)
    red = where(small, class_color(0))
    assert red[60:140, 100].all()
    assert red[60:140, 200].all()
    assert not red[60:140, 105:195].any()
    assert Overlay(CLASSES).draw(grey(), max_width=1000).shape == (400, 600, 3)


# ---- blur ---------------------------------------------------------------------------------------


def noise(seed: int) -> Image:
    """A picture in which every pixel is a secret."""
    return np.random.default_rng(seed).integers(0, 256, (400, 600, 3), np.uint8)


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((100, 50, 500, 350), (8, 6)),
        ((100, 50, 180, 350), (2, 8)),
        ((100, 100, 130, 130), (4, 4)),
        ((9, 9, 12, 12), (1, 1)),
    ],
)
def test_blurred_pixels_are_gone_for_good(box: tuple[int, int, int, int], cells: tuple[int, int]) -> None:
    """Whatever was in the box, what remains is decided by the mean colours of at most 8x8 cells."""
    x1, y1, x2, y2 = box
    left, top = int(x1 - (x2 - x1) / 10), int(y1 - (y2 - y1) / 10)
    right, bottom = int(np.ceil(x2 + (x2 - x1) / 10)), int(np.ceil(y2 + (y2 - y1) / 10))
    image = noise(1)
    result = blur(image.copy(), np.array([box], np.float32))
    means = cv2.resize(image[top:bottom, left:right], cells, interpolation=cv2.INTER_AREA)
    rebuilt = cv2.resize(means, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(result[top:bottom, left:right], rebuilt)
    outside = np.ones(image.shape[:2], bool)
    outside[top:bottom, left:right] = False
    np.testing.assert_array_equal(result[outside], image[outside])


def test_a_blurred_face_resembles_no_face() -> None:
    """Of the sample photo's person less than a hundredth of the fine detail is left."""
    box = np.array([[60, 20, 340, 500]], np.float32)
    before = cv2.cvtColor(PHOTO[40:480, 80:320], cv2.COLOR_BGR2GRAY)
    after = cv2.cvtColor(blur(PHOTO.copy(), box)[40:480, 80:320], cv2.COLOR_BGR2GRAY)
    assert cv2.Laplacian(after, cv2.CV_64F).var() < 0.01 * cv2.Laplacian(before, cv2.CV_64F).var()


@pytest.mark.parametrize(
    "box", [(-50, -50, 50, 50), (590, 390, 700, 500), (-9, -9, 999, 999), (700, 0, 800, 9), (5, 5, 5, 5)]
)
def test_boxes_at_the_edge_are_blurred_as_far_as_they_are_in_the_picture(
    box: tuple[int, int, int, int],
) -> None:
    """Also one that covers it all, one beside it, and one without area."""
    image = noise(2)
    result = blur(image.copy(), np.array([box], np.float32))
    inside = np.zeros(image.shape[:2], bool)
    x1, y1, x2, y2 = np.maximum(box, 0)
    inside[y1:y2, x1:x2] = True
    if inside.any():
        assert (result[inside] == image[inside]).mean() < 0.05
    else:
        np.testing.assert_array_equal(result, image)


def secret(number: int, **changes: object) -> Snapshot:
    """A result on noise."""
    shown = grey(number, **changes)
    return replace(shown, frame=replace(shown.frame, image=noise(7)))


def hidden(picture: Image) -> bool:
    """Whether the middle of the box that these tests use tells nothing of the noise that was there."""
    return bool((picture[150:250, 250:350] == noise(7)[150:250, 250:350]).mean() < 0.05)


def test_only_the_classes_that_are_named_are_blurred() -> None:
    """By detections, by tracks, and by what was only suspected."""
    person = Detections(np.array([[200, 100, 400, 300]]), np.array([0.9]), np.array([0]))
    cat = replace(person, class_id=np.array([1], np.int32))
    for changes in ({"found": person}, {"tracks": tracked((200, 100, 400, 300))}, {"seen": person}):
        assert hidden(Overlay(CLASSES, blur=["person"]).draw(secret(0, **changes)))
        assert not hidden(Overlay(CLASSES, blur=["cat"]).draw(secret(0, **changes)))
        assert not hidden(Overlay(CLASSES).draw(secret(0, **changes)))
    assert not hidden(Overlay(CLASSES, blur=["person"]).draw(secret(0, found=cat)))
    assert hidden(Overlay(CLASSES, blur=["person", "cat"]).draw(secret(0, found=cat)))


def test_one_missed_picture_uncovers_nobody() -> None:
    """A place stays blurred for a second after the last detection, not longer, and not in another image."""
    person = Detections(np.array([[200, 100, 400, 300]]), np.array([0.9]), np.array([0]))
    overlay = Overlay(CLASSES, blur=["person"])
    seen = [
        hidden(overlay.draw(secret(number, **({"found": person} if number < 3 else {}))))
        for number in range(60)
    ]
    assert seen == [True] * 33 + [False] * 27
    stills = Overlay(CLASSES, blur=["person"])
    assert hidden(stills.draw(secret(0, found=person, timed=False)))
    assert not hidden(stills.draw(secret(0, timed=False)))


def test_an_unknown_class_to_blur_is_named() -> None:
    """A misspelt name must not leave people visible."""
    with pytest.raises(ConfigError, match="unknown class 'persn': this model knows person, cat"):
        Overlay(CLASSES, blur=["persn"])


def test_tracks_decide_what_is_drawn() -> None:
    """With tracking the picture shows what is counted, not each detection."""
    shown = snapshot()
    only_tracks = Overlay(CLASSES).draw(replace(shown, tracks=TRACKS, found=Detections.empty()))
    np.testing.assert_array_equal(Overlay(CLASSES).draw(replace(shown, tracks=TRACKS)), only_tracks)


# ---- the files, on a full disk and after a restart ---------------------------------------------------


def camera() -> LiveCapture:
    """A live source; nothing is opened."""
    return LiveCapture(lambda: pytest.fail("opened"), "camera 0", report=print)


def record(annotated: Annotated, frames: range) -> None:
    """These frames of the camera, ten a second."""
    for number in frames:
        annotated.add(Frame("camera 0", number, noise(0), number / 10), noise(number))


def playable(path: Path) -> int:
    """Frames that can be read."""
    capture, frames = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        frames += 1
    capture.release()
    return frames


def test_an_image_that_cannot_be_written_is_left_out_and_told(
    tmp_path: Path, write_image: Callable[[Path, Image], Path]
) -> None:
    """Detection goes on, and the next one is tried."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, noise(0))
    source, out, unwritten = open_source(str(tmp_path / "in")), tmp_path / "out", Unwritten()
    annotated = Annotated(out, source, unwritten)
    first, second = source
    out.write_text("in the way")
    annotated.add(first, noise(1))
    assert unwritten.now().startswith(f"{out}: cannot write: ")
    out.unlink()
    annotated.add(second, noise(2))
    assert unwritten.now() == ""
    annotated.close()
    assert [path.name for path in out.iterdir()] == ["b.png"]
    assert unwritten.all() == f"{out}: 1 annotated frames could not be written"


def test_a_video_ends_whole_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its index still has room; when there is room again, another one begins, and both are kept."""
    monkeypatch.setattr(annotate, "_RETRY_S", 0.0)
    unwritten = Unwritten()
    annotated = Annotated(tmp_path, camera(), unwritten)
    record(annotated, range(10))
    with monkeypatch.context() as full:
        full.setattr(annotate, "_MIN_FREE", 1 << 62)
        record(annotated, range(10, 15))
        assert unwritten.now() == f"{tmp_path}: cannot write: No space left on device"
        assert playable(tmp_path / "camera_0.mp4") > 10
    record(annotated, range(15, 20))
    annotated.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["camera_0-1.mp4", "camera_0.mp4"]
    assert min(playable(path) for path in tmp_path.iterdir()) > 5
    assert unwritten.all() == f"{tmp_path}: 5 annotated frames could not be written"


def test_a_video_that_cannot_be_completed_gets_no_name(tmp_path: Path) -> None:
    """OpenCV reports no error; the video of an earlier run stays."""
    (tmp_path / "camera_0.mp4").write_text("earlier")
    unwritten = Unwritten()
    annotated = Annotated(tmp_path, camera(), unwritten)
    with full_disk(5000):
        record(annotated, range(30))
        annotated.close()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]
    assert "the video could not be completed" in unwritten.all()
    assert annotated.written == []


def test_a_restart_replaces_no_video_of_a_camera(tmp_path: Path) -> None:
    """The earlier one is set aside under a number."""
    (tmp_path / "camera_0.mp4").write_text("earlier")
    annotated = Annotated(tmp_path, camera())
    record(annotated, range(5))
    annotated.close()
    assert (tmp_path / "camera_0-1.mp4").read_text() == "earlier"
    assert playable(tmp_path / "camera_0.mp4") > 5
