"""A live source through all that happens to cameras, with real servers that are killed and stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import servers

from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.sources import Frame
from edge_centernet.sources import live as capture_module
from edge_centernet.sources.files import Video, open_camera, open_source
from edge_centernet.sources.live import LiveCapture

pytestmark = pytest.mark.slow  # real cameras and servers, some of which hang

Serve = Callable[..., AbstractContextManager[servers.Server]]
BOTH = pytest.mark.parametrize("serve", [servers.rtsp_server, servers.mjpeg_server], ids=["rtsp", "mjpeg"])


@contextmanager
def capturing(
    open: Callable[[], Video], name: str = "cam", frozen_s: float = 5.0, wait: bool = False
) -> Iterator[tuple[LiveCapture, list[str]]]:
    """A started capture and the lines it reports."""
    lines: list[str] = []
    capture = LiveCapture(open, name, frozen_s=frozen_s, report=lines.append)
    try:
        capture.start(wait)
        yield capture, lines
    finally:
        capture.close()


def opener(server: servers.Server) -> Callable[[], Video]:
    """What opens the camera of a server."""
    return lambda: open_camera(server.url)


def frames(capture: LiveCapture, seconds: float, pause: float = 0.0) -> list[Frame]:
    """What a consumer gets in so many seconds that needs `pause` seconds for each frame."""
    taken: list[Frame] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        frame = capture.newest(taken[-1].number if taken else -1, timeout=until - time.monotonic())
        if frame is not None:
            taken.append(frame)
            time.sleep(pause)
    return taken


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition holds; fails when it does not in time."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - begin


# ---- reading ---------------------------------------------------------------------------------------


@BOTH
def test_frames_come_with_number_time_and_name(serve: Serve) -> None:
    """Numbers count up from 0, seconds follow the clock, captured is now; nothing is reported."""
    with serve() as server, capturing(opener(server)) as (capture, lines):
        assert capture.newest(-1, 0.0) is not None
        taken = frames(capture, 2.0)
        state = capture.state
        assert 40 < len(taken) < 120
        numbers = np.array([frame.number for frame in taken])
        assert (np.diff(numbers) >= 1).all()
        assert {frame.source for frame in taken} == {"cam"}
        assert all(frame.image.shape == (160, 320, 3) for frame in taken)
        seconds = np.array([frame.seconds for frame in taken])
        assert seconds[-1] - seconds[0] == pytest.approx(taken[-1].captured - taken[0].captured)
        assert 0 <= time.monotonic() - taken[-1].captured < 0.5
        assert (state.state, state.detail, state.reopened) == ("live", "", 0)
        assert capture.fps in (25.0, 30.0)  # 25: MJPEG over HTTP names no rate
        assert lines == []


@BOTH
def test_dropped_frames_are_the_gaps(serve: Serve) -> None:
    """The state counts all frames that were read, and as dropped those that nobody took."""
    with serve() as server, capturing(opener(server)) as (capture, _):
        taken = frames(capture, 2.0, pause=0.2)
        state = capture.state
        assert state.frames >= taken[-1].number + 1
        assert state.dropped == pytest.approx(state.frames - len(taken), abs=1)  # the newest may yet be taken
        assert state.dropped > 30


def test_a_size_that_changes_does_no_harm() -> None:
    """The server doubles the size each other second: whole images keep coming, perhaps of the first size."""
    with servers.mjpeg_server(path="/sizes") as server, capturing(opener(server)) as (capture, lines):
        taken = frames(capture, 2.5)
        numbers = [servers.read_number(frame.image) for frame in taken]
        assert (numbers[-1] - numbers[0]) & 0xFFFF > 60
        assert {frame.image.shape for frame in taken} <= {(160, 320, 3), (320, 640, 3)}
        assert lines == []


@BOTH
@pytest.mark.slow
def test_a_slow_consumer_gets_new_frames(serve: Serve) -> None:
    """Taking one frame each 200 ms for 20 s, none is older than 5 pictures of the server: 170 ms."""
    with serve() as server, capturing(opener(server)) as (capture, lines):
        frames(capture, 1.0)  # what came while the stream was being examined
        ages = []
        last, until = -1, time.monotonic() + 20
        while time.monotonic() < until:
            frame = capture.newest(last, timeout=1.0)
            assert frame is not None
            ages.append(servers.age(frame.image))
            last = frame.number
            time.sleep(0.2)
        assert len(ages) > 80
        assert max(ages) <= 5, ages
        assert lines == []


def test_without_the_thread_frames_grow_old() -> None:
    """The same consumer at the bare camera falls behind by 24 pictures a second: what the thread is for."""
    with servers.mjpeg_server() as server:
        video = open_camera(server.url)
        stream = iter(video)
        for _ in range(15):
            image = next(stream).image
            time.sleep(0.2)
        video.close()
        assert servers.age(image) > 40


def test_live_frames_tell_the_time_of_their_arrival() -> None:
    """Not number / fps: a camera may pause."""
    with servers.mjpeg_server() as server:
        video = open_camera(server.url)
        stream = iter(video)
        first = next(stream)
        time.sleep(0.5)
        later = [next(stream) for _ in range(20)][-1]
        video.close()
        assert first.seconds == 0.0
        assert later.seconds == pytest.approx(later.captured - first.captured)
        assert later.seconds > 0.5


# ---- losing the camera and getting it back ---------------------------------------------------------


@BOTH
@pytest.mark.slow
def test_a_killed_server_is_seen_and_found_again(serve: Serve) -> None:
    """It is lost at once, live within 10 s of its return, one line each; frame numbers and time go on."""
    with serve() as server, capturing(opener(server), server.url) as (capture, lines):
        before = frames(capture, 1.0)[-1]
        server.kill()
        wait_for(lambda: capture.state.state == "lost", 3.0)
        assert capture.state.detail != ""
        time.sleep(5.0)  # several attempts fail meanwhile
        assert len(lines) == 1
        assert lines[0].startswith(f"{server.url}: lost, opening it again until it is back: stopped after ")
        server.start()
        returned = time.monotonic()
        while (after := capture.newest(capture.state.frames - 1, 10.0)) is None:
            assert time.monotonic() - returned < 10.0
        assert time.monotonic() - returned < 10.0
        assert servers.age(after.image) < 60
        assert after.number > before.number
        assert after.seconds - before.seconds == pytest.approx(after.captured - before.captured)
        assert (capture.state.state, capture.state.detail, capture.state.reopened) == ("live", "", 1)
        wait_for(lambda: len(lines) == 2, 1.0)
        assert lines[1].startswith(f"{server.url}: back after ")


@BOTH
@pytest.mark.slow
def test_a_frozen_server_is_seen_and_found_again(serve: Serve) -> None:
    """Connected but silent: frozen after frozen_s, live within 10 s of its going on, one line each."""
    with serve() as server, capturing(opener(server), frozen_s=2.0) as (capture, lines):
        frames(capture, 1.0)
        server.freeze()
        assert 1.5 < wait_for(lambda: capture.state.state == "frozen", 4.0) < 3.0
        time.sleep(12.0)  # openings hang as well, and are given up
        assert capture.state.state == "frozen"
        assert lines == ["cam: frozen, opening it again until it is back: no new frame for 2 s"]
        count = capture.state.frames
        server.thaw()
        wait_for(lambda: capture.state.frames > count + 10, 10.0)
        assert capture.state.state == "live"
        assert capture.state.reopened == 1
        assert lines[1].startswith("cam: back after 1")
        assert len(lines) == 2


@BOTH
@pytest.mark.slow
def test_reconnecting_leaks_nothing(serve: Serve) -> None:
    """After four losses the process has no more threads and descriptors than after the first."""

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    with serve() as server, capturing(opener(server)) as (capture, _):
        counts = []
        for _ in range(5):
            server.kill()
            wait_for(lambda: capture.state.state == "lost", 3.0)
            server.start()
            wait_for(lambda: capture.state.state == "live", 10.0)
            counts.append(held())
        assert capture.state.reopened == 5
        assert counts[-1][0] <= counts[0][0], counts
        assert counts[-1][1] <= counts[0][1], counts


# ---- the first opening -----------------------------------------------------------------------------


def test_a_camera_that_is_not_there_is_an_error_at_once() -> None:
    """`start` raises what opening said; nothing is reported besides."""
    url = f"rtsp://127.0.0.1:{servers.free_port()}/cam"
    lines: list[str] = []
    capture = LiveCapture(lambda: open_camera(url), url, report=lines.append)
    with pytest.raises(SourceError, match="expected a stream that answers"):
        capture.start()
    assert capture.state.state == "ended"
    assert lines == []


def test_a_service_waits_for_its_camera() -> None:
    """wait=True: it starts before the camera, says so once, and has frames when the camera comes."""
    with servers.mjpeg_server() as server:
        server.kill()
        with capturing(opener(server), server.url, wait=True) as (capture, lines):
            wait_for(lambda: len(lines) == 1, 2.0)
            time.sleep(1.0)
            assert capture.state.state == "starting"
            assert lines[0].startswith(
                f"{server.url}: not there yet, waiting for it: expected a stream that answers"
            )
            server.start()
            assert capture.newest(-1, 10.0) is not None
            assert capture.state.reopened == 0
            wait_for(lambda: len(lines) == 2, 1.0)
            assert lines[1].startswith(f"{server.url}: there after ")


def test_attempts_come_at_growing_distances() -> None:
    """0.5, 1 and 2 s from one attempt to the next, each about twice the one before, and never more than 4."""
    times: list[float] = []

    def fail() -> Video:
        times.append(time.monotonic())
        raise SourceError("cam: no")

    with capturing(fail, wait=True) as (_, lines):
        wait_for(lambda: len(times) == 4, 20.0)
    first, second, third = np.diff(times)
    assert first >= 0.5
    assert second > 1.3 * first
    assert third > 1.3 * second
    assert max(capture_module._PAUSES_S) == 4.0
    assert lines == ["cam: not there yet, waiting for it: no"]


def test_a_surprise_from_a_driver_is_a_failure_like_any_other() -> None:
    """The error of a library is one line too, and does not end the watch."""

    def fail() -> Video:
        raise RuntimeError("driver")

    with pytest.raises(SourceError, match=r"^cam: RuntimeError: driver$"), capturing(fail):
        pass
    with capturing(fail, wait=True) as (capture, lines):
        wait_for(lambda: bool(lines), 2.0)
        assert capture.state.detail == "RuntimeError: driver"


# ---- a camera that hangs ---------------------------------------------------------------------------


@BOTH
def test_closing_does_not_wait_for_a_camera_that_hangs(serve: Serve) -> None:
    """While the thread is stuck in FFmpeg, for ten seconds or more, close takes less than half, twice."""
    with serve() as server, capturing(opener(server)) as (capture, _):
        server.freeze()
        time.sleep(0.5)
        begin = time.monotonic()
        capture.close()
        capture.close()
        assert time.monotonic() - begin < 5.0
        assert capture.newest(-1, 5.0) is None
        assert capture.state.state == "ended"
        server.thaw()


@BOTH
def test_an_abandoned_reader_reads_no_more(serve: Serve) -> None:
    """A read that hangs is ended as soon as the camera counts as frozen, not when it returns by itself."""

    def readers() -> int:
        return sum(thread.name == "camera" for thread in threading.enumerate())

    with serve() as server, capturing(opener(server), frozen_s=1.0) as (capture, _):
        frames(capture, 0.5)
        server.freeze()
        wait_for(lambda: capture.state.state == "frozen", 4.0)
        wait_for(lambda: readers() == 0, 3.0)  # before the next one begins, half a second later
        wait_for(lambda: readers() == 1, 3.0)
        server.thaw()


@BOTH
@pytest.mark.parametrize("hang", [False, True], ids=["live", "hanging"])
def test_a_process_that_ends_without_closing_ends_well(serve: Serve, hang: bool) -> None:
    """Exit code 0 and no word, although a thread reads the camera."""
    program = (
        "import sys, time\n"
        "from edge_centernet.sources.live import LiveCapture\n"
        "from edge_centernet.sources.files import open_camera\n"
        "capture = LiveCapture(lambda: open_camera(sys.argv[1]), 'cam', report=print)\n"
        "capture.start()\n"
        "print('live', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with serve() as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "live\n"
        if hang:
            server.freeze()
            time.sleep(0.5)
        _, err = process.communicate("\n", timeout=20)
        assert (process.returncode, err) == (0, "")


def test_hanging_cameras_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that never returns is asked four times, not for ever; after one call returns, again."""
    monkeypatch.setattr(capture_module, "_FIRST_OPENING_S", 0.05)
    monkeypatch.setattr(capture_module, "_PAUSES_S", (0.05,))
    monkeypatch.setattr(capture_module, "_MIN_PAUSE_S", 0.0)
    calls: list[threading.Event] = []

    def hang() -> Video:
        calls.append(threading.Event())
        calls[-1].wait(60)
        raise SourceError("cam: woke up")

    with capturing(hang, wait=True) as (capture, _):
        wait_for(lambda: len(calls) == 4, 5.0)
        time.sleep(1.0)
        assert len(calls) == 4
        assert "no answer for 0.05 s" in capture.state.detail
        capture.stuck_s = 0.5  # in place of a minute
        wait_for(lambda: capture.state.state == "stuck", 2.0)
        calls[0].set()
        wait_for(lambda: len(calls) == 5, 2.0)
    for call in calls:
        call.set()


# ---- the rest of the contract ----------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of three frames: as a camera, one that stops every moment."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for i in range(3):
        writer.write(np.full((48, 64, 3), 60 * i, np.uint8))
    writer.release()
    return path


def clip_opener(clip: Path) -> Callable[[], Video]:
    """What opens it."""

    def open() -> Video:
        video = open_source(str(clip))
        assert isinstance(video, Video)
        return video

    return open


def test_the_newest_frame_only(clip: Path) -> None:
    """Of three frames the third is left; none is newer than itself, within the time given."""
    with capturing(clip_opener(clip)) as (capture, lines):
        wait_for(lambda: len(lines) == 1, 2.0)  # the end of the file
        frame = capture.newest(-1, 0.0)
        assert frame is not None
        assert frame.number == 2
        assert capture.state.dropped == 2
        begin = time.monotonic()
        assert capture.newest(2, 0.1) is None
        assert time.monotonic() - begin >= 0.09


def test_a_report_that_fails_does_not_end_the_capture(clip: Path) -> None:
    """As when stderr is a closed pipe: the source is opened again all the same."""

    def broken(_: str) -> None:
        raise BrokenPipeError

    capture = LiveCapture(clip_opener(clip), "cam", report=broken)
    capture.start()
    try:
        wait_for(lambda: capture.state.reopened == 2, 5.0)
    finally:
        capture.close()


def test_closing_wakes_who_waits(clip: Path) -> None:
    """A thread that waits for a frame without a limit gets None."""
    got: list[Frame | None] = []
    with capturing(clip_opener(clip)) as (capture, _):
        thread = threading.Thread(target=lambda: got.append(capture.newest(1_000_000, None)))
        thread.start()
        time.sleep(0.1)
        assert got == []
    thread.join(2.0)
    assert got == [None]


def test_closing_before_starting_is_fine(clip: Path) -> None:
    """Nothing was opened, nothing is to be done."""
    capture = LiveCapture(clip_opener(clip), "cam", report=print)
    capture.close()
    assert capture.state.state == "ended"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_frozen_after_no_time_is_an_error(seconds: float) -> None:
    """One line that says what was expected."""
    with pytest.raises(ConfigError, match="expected more than 0 seconds"):
        LiveCapture(lambda: open_camera("0"), "cam", frozen_s=seconds, report=print)
