"""A run of `detect` without its command line: what it writes, reports and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares

from edge_centernet.camera_config import Settings
from edge_centernet.errors import ConfigError
from edge_centernet.imageio import read_image
from edge_centernet.runtimes import open_runtime
from edge_centernet.session import open_frames, run

NOTHING = dict.fromkeys(Settings.__dataclass_fields__)
DEFAULTS = {"frozen_after": 5.0, "wait": False, "max_detections": 100, "track": False, "format_name": "jsonl"}


def settings(**given: Any) -> Settings:
    """The defaults of the command line, and what is given."""
    return Settings(**{**NOTHING, **DEFAULTS, "count_line": (), "zone": (), **given})


def test_a_run_writes_records_reports_and_returns_a_summary(
    tmp_path: Path, onnx_model: Path, write_image: Callable[[Path, Any], Path]
) -> None:
    """Of a good and a damaged image: one record, one warning, and the totals of the run."""
    good, damaged = tmp_path / "in/a.png", tmp_path / "in/b.png"
    write_image(good, squares.scene(("red", 10, 18), ("green", 58, 38), ("blue sky", 90, 6)))
    damaged.write_text("no image")
    written: list[str] = []
    reported: list[str] = []
    done = run(
        settings(source=str(good.parent), out=tmp_path / "out"),
        lambda: open_runtime(onnx_model, "onnxruntime", 1),
        written.append,
        reported.append,
    )
    (record,) = [json.loads(line) for line in written]
    assert (record["source"], len(record["detections"])) == (str(good), 3)
    assert [line.startswith(f"Warning: skipped {damaged}") for line in reported] == [True]
    assert (done.detections, done.frames, done.skipped, done.stills) == (3, 1, 1, True)
    assert (done.tally, done.stopped_by, done.annotated) == (None, None, (tmp_path / "out/a.png",))
    assert not np.array_equal(read_image(done.annotated[0]), read_image(good))


def test_lines_are_checked_before_the_model_is_loaded() -> None:
    """A mistake in an option takes no seconds to be found."""
    with pytest.raises(ConfigError, match="line 'door': expected 4 numbers"):
        run(settings(source="a.png", count_line=("door=1,2",)), lambda: pytest.fail("loaded"), print, print)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": "1280"}, "--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got '1280'"),
        ({"size": "1x2x3"}, "--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got '1x2x3'"),
        ({"size": "1280x720", "fps": 30.0}, "--size, --fps: expected only with --camera, got --source a.png"),
        ({"fourcc": "MJPG", "source": "rtsp://me:secret@host/live"}, "got --source rtsp://host/live"),
    ],
)
def test_options_of_a_camera_are_refused_elsewhere(given: dict[str, Any], message: str) -> None:
    """What was expected, and no password."""
    with pytest.raises(ConfigError) as refused:
        open_frames(settings(**{"source": "a.png", **given}), print)
    assert str(refused.value).endswith(message)


@pytest.mark.parametrize(
    "follows",
    [
        {"track": True},
        {"count_line": ("0.5,0,0.5,1",)},
        {"zone": ("0,0,1,0,1,1",)},
        {"presence": Path("p.png")},
    ],
    ids=lambda given: next(iter(given)),
)
def test_single_images_are_not_followed(
    tmp_path: Path, write_image: Callable[[Path, Any], Path], follows: dict[str, Any]
) -> None:
    """Several need a rate, one has no next; without any of these options both are read as they are."""
    option = "--" + next(iter(follows)).replace("_", "-")
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, squares.scene(("red", 10, 18)))
    with pytest.raises(ConfigError) as refused:
        open_frames(settings(source=str(tmp_path), **follows), print)
    assert str(refused.value).startswith(
        f"{option}: expected a video, a camera or a sequence of images, got 2 "
    )
    assert str(refused.value).endswith(
        "if they are consecutive, tell their number per second, as in --fps 10"
    )
    with pytest.raises(ConfigError, match=rf"^{option}: .* got one image, {tmp_path}/a.png$"):
        open_frames(settings(source=str(tmp_path / "a.png"), fps=10.0, **follows), print)
    assert open_frames(settings(source=str(tmp_path / "a.png")), print).fps is None


def test_images_with_a_rate_are_a_sequence(
    tmp_path: Path, onnx_model: Path, write_image: Callable[[Path, Any], Path]
) -> None:
    """In the order of their numbers, at their own times: a square walks through twelve and the line."""
    for number in range(1, 13):
        write_image(tmp_path / f"in/walk{number}.png", squares.scene(("red", 4 + 6 * number, 18)))
    written: list[str] = []
    done = run(
        settings(source=str(tmp_path / "in"), fps=5.0, count_line=("0.5,1,0.5,0",), save=False),
        lambda: open_runtime(onnx_model, "onnxruntime", 1),
        written.append,
        print,
    )
    records = [json.loads(line) for line in written]
    assert [Path(record["source"]).name for record in records] == [f"walk{n}.png" for n in range(1, 13)]
    assert [record["seconds"] for record in records] == [round(n / 5, 3) for n in range(12)]
    assert {one["id"] for record in records for one in record["detections"]} == {1}
    assert done.tally is not None
    assert [(line.inward, line.outward) for line in done.tally.lines] == [(1, 0)]


def test_the_rate_of_a_video_is_its_own(tmp_path: Path) -> None:
    """--fps is refused for it, with what takes one."""
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with pytest.raises(ConfigError, match=r"^--fps: expected only with --camera or images, got .*v.avi$"):
        open_frames(settings(source=str(tmp_path / "v.avi"), fps=10.0), print)
