"""A video that plays as a camera films: by the wall clock, with dropped frames, to the end or again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares
from running import Detect
from test_session import settings
from videos import grey, write_avi

from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.runtimes import open_runtime
from edge_centernet.session import run
from edge_centernet.sources import Frame, playback
from edge_centernet.sources.files import Video
from edge_centernet.sources.live import LiveCapture
from edge_centernet.sources.opening import open_frames
from edge_centernet.sources.playback import Playback

FPS = 20
LENGTH_S = 1.2


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A red square that walks to the right for 1.2 seconds, and a green one that stands."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (squares.WIDTH, squares.HEIGHT))
    for number in range(int(LENGTH_S * FPS)):
        writer.write(squares.scene(("red", 4 * number, 10), ("green", 50, 60)))
    writer.release()
    return path


def opener(path: Path) -> Callable[[], Video]:
    """What opens the file."""
    return lambda: Video(str(path), live=False)


def watch(capture: LiveCapture, pause: float = 0.0) -> list[Frame]:
    """The newest frames until the end, for somebody who needs `pause` seconds for each."""
    taken: list[Frame] = []
    while (frame := capture.newest(taken[-1].number if taken else -1, timeout=5.0)) is not None:
        taken.append(frame)
        time.sleep(pause)
    return taken


def test_frames_come_at_the_times_of_the_file(tmp_path: Path) -> None:
    """Five in the first half second, then one after another: and while none comes, the last one stands."""
    path = write_avi(tmp_path / "a.avi", [*(grey(i) for i in range(5)), *[None] * 8, grey(9)])
    frames = list(Playback(opener(path)))
    shown = [next(same) for _, same in itertools.groupby(frames, key=lambda frame: frame.number)]
    assert [frame.seconds for frame in shown] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 1.3])
    late = [frame.captured - frames[0].captured - frame.seconds for frame in shown]
    assert min(late) > -0.01
    assert sorted(late)[3] < 0.1  # most of them: another program may have had the processor for one
    stood = [frame.captured for frame in frames if frame.number == 4]
    assert len(stood) >= 3
    assert np.diff(stood).max() < 0.5  # below which nobody takes the source for silent


def test_a_slow_reader_sees_the_newest_frames_of_the_whole_film(film: Path) -> None:
    """It takes as long as the film lasts, some frames are dropped, and the end is the end."""
    capture = LiveCapture(lambda: Playback(opener(film)), "film", ends=True, report=print)
    capture.start()
    begin = time.monotonic()
    taken = watch(capture, pause=0.15)
    took = time.monotonic() - begin
    state = capture.state
    capture.close()
    assert 0.8 < took / LENGTH_S < 1.5
    assert (state.state, state.detail, state.reopened) == ("ended", "", 0)
    assert state.frames == LENGTH_S * FPS == taken[-1].number + 1
    assert state.dropped == state.frames - len(taken) > len(taken)


def test_a_looped_film_goes_on_in_time_and_number(film: Path) -> None:
    """Each showing is another part and takes as long as the film; numbers and seconds rise throughout."""
    capture = LiveCapture(lambda: Playback(opener(film), itertools.count()), "film", report=print)
    capture.start()
    taken: list[Frame] = []
    while not taken or taken[-1].part < 3:
        frame = capture.newest(taken[-1].number if taken else -1, timeout=5.0)
        assert frame is not None
        taken.append(frame)
    capture.close()
    assert (np.diff([frame.number for frame in taken]) > 0).all()
    assert (np.diff([frame.seconds for frame in taken]) > 0).all()
    begins = [next(frame.seconds for frame in taken if frame.part == part) for part in range(4)]
    assert np.diff(begins) / LENGTH_S == pytest.approx(1.0, abs=0.15)


def test_a_picture_stands_for_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings of motion that were joined leave out hours: with a limit of 0.3 s, five seconds are none."""
    monkeypatch.setattr(playback, "_LONGEST_S", 0.3)
    path = write_avi(tmp_path / "a.avi", [grey(0), *[None] * 50, grey(1)])
    frames = list(Playback(opener(path)))
    assert frames[-1].seconds == pytest.approx(5.1)
    assert 0.25 < frames[-1].captured - frames[0].captured < 2.0


def test_after_a_pause_of_the_computer_the_film_goes_on_where_it_was(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run after what it missed: the next frames come in their own time."""
    monkeypatch.setattr(playback, "_MOST_BEHIND_S", 0.2)
    times = []
    for number, frame in enumerate(Playback(opener(film))):
        times.append(frame.captured)
        if number == 4:
            time.sleep(0.6)
    assert (times[-1] - times[5]) * FPS / (len(times) - 6) == pytest.approx(1.0, abs=0.3)


def test_a_film_that_is_gone_is_waited_for(film: Path) -> None:
    """Between two showings, as a camera that is unplugged; parts count on."""
    lines: list[str] = []
    parts = itertools.count()
    capture = LiveCapture(lambda: Playback(opener(film), parts), "film", report=lines.append)
    capture.start()
    away = film.rename(film.with_suffix(".away"))
    until = time.monotonic() + 10
    while not lines and time.monotonic() < until:
        time.sleep(0.02)
    away.rename(film)
    while len(lines) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    frame = capture.newest(-1, timeout=5.0)
    capture.close()
    assert ["lost, opening it again" in lines[0], "back after" in lines[1]] == [True, True]
    assert frame is not None
    assert frame.part >= 1


def test_counts_go_on_and_ids_do_not_repeat_in_a_loop(film: Path, onnx_model: Path, tmp_path: Path) -> None:
    """Three showings: the walker crosses the line once in each, and whoever stands is another each time."""
    run = Detect(
        "--source", film, "--pace", "real", "--loop", "--model", onnx_model, "--runtime", "onnxruntime",
        "--threads", "1", "--count-line", "0.5,1,0.5,0", folder=tmp_path,
    )  # fmt: skip
    try:
        run.wait_for(lambda record: record["lines"][0]["in"] == 3, 0, 60)
        assert run.end() == 0
        records = [record for _, record in run.records]
    finally:
        run.close()
    events = [event for record in records for event in record["events"]][:3]
    assert [event["direction"] for event in events] == ["in"] * 3
    stood = {one["id"] for record in records for one in record["detections"] if one["class"] == "green"}
    walked = {event["id"] for event in events}
    assert (len(stood), len(walked), stood & walked) == (3, 3, set())
    assert (np.diff([record["seconds"] for record in records]) > 0).all()


def test_a_run_ends_with_its_film(film: Path, onnx_model: Path) -> None:
    """Without --loop; every frame that inference could take was counted."""
    (done,) = run(
        [settings(source=str(film), pace="real", count_line=("0.5,1,0.5,0",), format_name="none")],
        lambda: open_runtime(onnx_model, "onnxruntime", 1),
        print,
        print,
    )
    assert done.stopped_by is None
    assert done.tally is not None
    assert [(line.inward, line.outward) for line in done.tally.lines] == [(1, 0)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "a.avi", "loop": True}, "--loop: expected --pace real with it"),
        ({"camera": "0", "loop": True}, "--loop: expected --pace real with it"),
        ({"camera": "0", "pace": "real"}, "--pace real: expected a video, got the camera 0"),
        ({"source": "rtsp://me:secret@host/live", "pace": "real"}, "the camera rtsp://host/live, which has"),
        ({"source": "a.avi", "pace": "real", "fps": 5.0}, "--fps: expected no such option with --pace real"),
    ],
)
def test_a_pace_is_for_videos(given: dict[str, object], message: str) -> None:
    """What has its own pace, or none, is refused in one line."""
    with pytest.raises(ConfigError) as refused:
        open_frames(settings(**given), print)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pace_for_images_is_refused(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    """One or several; a file that is none is told as ever."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, squares.scene(("red", 10, 18)))
    for source, got in ((tmp_path, "images"), (tmp_path / "a.png", f"the image {tmp_path}/a.png")):
        with pytest.raises(ConfigError, match=f"^--pace real: expected a video, got {got}$"):
            open_frames(settings(source=str(source), pace="real"), print)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match="expected an image or a video"):
        open_frames(settings(source=str(tmp_path / "none.mp4"), pace="real"), print)
