"""A run of `detect` without its command line: what it writes, reports and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import squares

from edge_centernet.camera_config import Settings
from edge_centernet.errors import ConfigError, SourceError
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
    ("serve", "token", "shown"), [("127.0.0.1:0", "known-to-all", False), ("0.0.0.0:0", None, True)]
)
def test_a_token_is_told_only_to_who_does_not_know_it(
    onnx_model: Path,
    write_image: Callable[[Path, Any], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: str,
    token: str | None,
    shown: bool,
) -> None:
    """A journal gets the address: with a token that was made up now, without one that was given."""
    pytest.importorskip("tornado", reason="the extra `live` is not installed")
    monkeypatch.delenv("EDGE_CENTERNET_TOKEN", raising=False)
    photo = write_image(tmp_path / "a.png", squares.scene())
    reported: list[str] = []
    options = settings(source=str(photo), save=False, format_name="none", serve=serve, token=token)
    run(options, lambda: open_runtime(onnx_model, "onnxruntime", 1), print, reported.append)
    (line,) = reported
    assert line.startswith("Live page: http://")
    assert ("?token=" in line) == shown
    assert token is None or token not in line


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


def test_a_url_that_cannot_be_is_not_waited_for() -> None:
    """With --wait a camera may come later; a mistake in its address stays one. A pipeline is no URL."""
    with pytest.raises(SourceError, match="expected a URL without #"):
        open_frames(settings(camera="rtsp://admin:pass#word@cam/1", wait=True), print)
    open_frames(settings(camera="gst:rtspsrc location=rtsp://cam/a#b ! decodebin", wait=True), print).close()
