"""A run of `detect` without its command line: what it writes, reports and returns."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from servers import mjpeg_server
from snapshots import CLASSES, snapshot
from support import full_disk

from edge_centernet.camera_config import Settings
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.files import Unwritten
from edge_centernet.imageio import read_image
from edge_centernet.outputs import records
from edge_centernet.outputs.records import SUFFIX, RecordsOutput, make_records
from edge_centernet.runtimes import open_runtime
from edge_centernet.session import run
from edge_centernet.sources import Frame, opening
from edge_centernet.sources.opening import open_frames
from edge_centernet.tracking.scene import Scene

NOTHING = dict.fromkeys(Settings.__dataclass_fields__)
DEFAULTS = {"frozen_after": 5.0, "wait": False, "max_detections": 100, "track": False, "format_name": "jsonl"}


def settings(**given: Any) -> Settings:
    """The defaults of the command line, and what is given."""
    several = ("files", "count_line", "zone", "room", "rule", "webhook")
    empty: dict[str, tuple[str, ...]] = dict.fromkeys(several, ())
    return Settings(**{**NOTHING, **DEFAULTS, **empty, **given})


def test_a_run_writes_records_reports_and_returns_a_summary(
    tmp_path: Path, onnx_model: Path, write_image: Callable[[Path, Any], Path]
) -> None:
    """Of a good and a damaged image: one record, one warning, and the totals of the run."""
    good, damaged = tmp_path / "in/a.png", tmp_path / "in/b.png"
    write_image(good, squares.scene(("red", 10, 18), ("green", 58, 38), ("blue sky", 90, 6)))
    damaged.write_text("no image")
    written: list[str] = []
    reported: list[str] = []
    (done,) = run(
        [settings(source=str(good.parent), out=tmp_path / "out")],
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
        run([settings(source="a.png", count_line=("door=1,2",))], lambda: pytest.fail("loaded"), print, print)


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
    run([options], lambda: open_runtime(onnx_model, "onnxruntime", 1), print, reported.append)
    (line,) = reported
    assert line.startswith("Live page: http://")
    assert ("?token=" in line) == shown
    assert token is None or token not in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": "1280"}, "--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got '1280'"),
        ({"size": "1x2x3"}, "--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got '1x2x3'"),
        ({"size": "1280x720", "fps": 30.0}, "--size, --fps: expected only with --camera, got a.png"),
        ({"fourcc": "MJPG", "source": "rtsp://me:secret@host/live"}, "got rtsp://host/live"),
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
    (done,) = run(
        [settings(source=str(tmp_path / "in"), fps=5.0, count_line=("0.5,1,0.5,0",), save=False)],
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


# ---- several cameras ----------------------------------------------------------------------------


def test_a_fault_of_one_camera_is_its_own(
    onnx_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its scene fails at each frame: that is told once, the other camera is recorded, and both are closed.

    What the log says of a camera's lines begins with its name.
    """
    update = Scene.update

    def fail(scene: Scene, frame: Frame, seen: Detections) -> Any:
        if frame.source == "door":
            raise ZeroDivisionError("no ground")
        return update(scene, frame, seen)

    monkeypatch.setattr(Scene, "update", fail)
    written: list[str] = []

    def write(line: str) -> None:
        written.append(line)
        if len(written) == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with mjpeg_server() as one, mjpeg_server() as other:
        far = ("far=5000,0,5000,90",)  # beyond the picture
        cameras = [
            settings(camera=one.url, name="door"),
            settings(camera=other.url, name="yard", count_line=far),
        ]
        monkeypatch.setattr(opening, "public_name", {one.url: "door", other.url: "yard"}.get)
        done = run(cameras, lambda: open_runtime(onnx_model, "onnxruntime", 1), write, print)
    assert {json.loads(line)["camera"] for line in written} == {"yard"}
    assert [summary.name for summary in done] == ["door", "yard"]
    assert (done[0].frames, done[1].frames >= 10) == (0, True)
    assert [summary.stopped_by for summary in done] == [signal.SIGTERM] * 2
    assert caplog.text.count("door: a frame is left out: ZeroDivisionError: no ground") == 1
    assert "yard: Line 'far': it lies outside" in caplog.text


# ---- records on a full disk, after a kill, and for a reader that stops -----------------------------


def test_records_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never half a line; once there is room, those that waited are written, too."""
    monkeypatch.setattr(records, "_RETRY_S", 0.0)
    path, unwritten, shown = tmp_path / "detections.jsonl", Unwritten(), list[str]()
    output = RecordsOutput(make_records("jsonl", CLASSES), shown.append, path, live=True, unwritten=unwritten)
    with full_disk(1000):
        for number in range(10):
            output.update(snapshot(number, 0, 1))
        kept = path.read_bytes()
        assert unwritten.now().startswith(f"{path}: cannot write: ")
    assert 0 < len(kept.splitlines()) < 10
    assert kept.endswith(b"\n")
    output.update(snapshot(10, 0))
    assert unwritten.now() == ""
    output.close()
    assert path.read_text() == "".join(shown)
    assert len(shown) == 11


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"a": 1}\n{"b": ', '{"a": 1}\n'),
        ('{"a": 1}\n{"b": 2}', '{"a": 1}\n{"b": 2}\n'),
        ('{"a": 1}\n', '{"a": 1}\n'),
        ('{"b": ', ""),
    ],
)
def test_a_restart_goes_on_with_the_records_of_a_camera(tmp_path: Path, before: str, kept: str) -> None:
    """Behind the last whole line that a kill or a power cut left."""
    path, shown = tmp_path / "detections.jsonl", list[str]()
    path.write_text(before)
    output = RecordsOutput(make_records("jsonl", CLASSES), shown.append, path, live=True)
    output.update(snapshot(0, 2))
    output.close()
    assert path.read_text() == kept + shown[0]


@pytest.mark.parametrize(("format_name", "live"), [("jsonl", False), ("csv", True), ("coco", True)])
def test_other_records_of_an_earlier_run_are_set_aside(tmp_path: Path, format_name: str, live: bool) -> None:
    """Under the first free number."""
    suffix = SUFFIX[format_name]
    for text in ("first", "second", "third"):
        path = tmp_path / f"detections{suffix}"
        output = RecordsOutput(make_records(format_name, CLASSES), lambda _: None, path, live=live)
        output.update(snapshot(0, 1))
        output.finish()
        output.close()
        path.write_text(text)
    assert [(tmp_path / f"detections{n}{suffix}").read_text() for n in ("-1", "-2", "")] == [
        "first",
        "second",
        "third",
    ]


def test_half_a_document_gets_no_name(tmp_path: Path) -> None:
    """A COCO file that the disk does not take is not there, and that is said; the reader gets all of it."""
    path, unwritten, shown = tmp_path / "detections.json", Unwritten(), list[str]()
    output = RecordsOutput(make_records("coco", CLASSES), shown.append, path, unwritten=unwritten)
    for number in range(10):
        output.update(snapshot(number, 0, 1))
    with full_disk(100):
        output.finish()
    output.close()
    assert list(tmp_path.iterdir()) == []
    assert unwritten.all().startswith(f"{path}: cannot write: ")
    assert len(json.loads("".join(shown))["images"]) == 10


def test_a_file_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    """A mistake is an error at the start, not a disk to wait for."""
    with pytest.raises(ConfigError, match="cannot write the records"):
        RecordsOutput(make_records("csv", CLASSES), print, tmp_path)


@pytest.fixture
def full_pipe() -> Iterator[Callable[[str], None]]:
    """Writes to a pipe whose reader never reads."""
    reader, writer = os.pipe()

    def write(text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(writer, data) :]

    yield write
    os.close(reader)  # ends a write that still blocks
    os.close(writer)


def test_a_reader_that_stops_does_not_stop_a_camera(
    full_pipe: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records that find no room are left out, which is said; the end waits no longer than its limit."""
    monkeypatch.setattr(records, "_MOST_WAITING", 10_000)
    monkeypatch.setattr(records, "_DRAIN_S", 0.2)
    unwritten = Unwritten()
    output = RecordsOutput(make_records("jsonl", CLASSES), full_pipe, None, live=True, unwritten=unwritten)
    begin = time.monotonic()
    for number in range(1000):
        output.update(snapshot(number, 0, 1, 2))
    assert unwritten.now() == "standard output: cannot write: its reader takes nothing"
    output.finish()
    output.close()
    assert time.monotonic() - begin < 5.0
    assert "frames were lost" in unwritten.all()


def test_a_file_waits_for_its_reader_until_a_signal(
    full_pipe: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`| less` may take an hour; a signal ends the wait."""
    monkeypatch.setattr(records, "_DRAIN_S", 0.2)
    output = RecordsOutput(make_records("jsonl", CLASSES), full_pipe, None)
    timer = threading.Timer(0.5, output.stop)
    timer.start()
    for number in range(1000):
        output.update(snapshot(number, 0, 1, 2))
    assert not timer.is_alive()
    output.close()


def test_a_url_that_cannot_be_is_not_waited_for() -> None:
    """With --wait a camera may come later; a mistake in its address stays one. A pipeline is no URL."""
    with pytest.raises(SourceError, match="expected a URL without #"):
        open_frames(settings(camera="rtsp://admin:pass#word@cam/1", wait=True), print)
    open_frames(settings(camera="gst:rtspsrc location=rtsp://cam/a#b ! decodebin", wait=True), print).close()
