"""The steps overlapped: nothing lost from a file, nothing old from a camera."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from numpy.typing import NDArray
from servers import mjpeg_server

from edge_centernet.detector import Detector
from edge_centernet.errors import ArtifactError, SourceError
from edge_centernet.heads import Heads
from edge_centernet.pipeline import Pipeline, Rate
from edge_centernet.runtimes import open_runtime
from edge_centernet.sources.files import Stills, Video, open_camera, open_source
from edge_centernet.sources.live import LiveCapture

pytestmark = pytest.mark.slow  # seconds of frames in real time


class Slow:
    """A real runtime that takes `seconds` longer."""

    def __init__(self, path: Path, seconds: float) -> None:
        """path: of the model file."""
        self._runtime = open_runtime(path, threads=1)
        self.name, self.manifest, self.device = (
            self._runtime.name,
            self._runtime.manifest,
            self._runtime.device,
        )
        self.seconds = seconds

    def run(self, x: NDArray[Any]) -> Heads:
        """As the runtime, later."""
        time.sleep(self.seconds)
        return self._runtime.run(x)

    def close(self) -> None:
        """Close the runtime."""
        self._runtime.close()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Forty frames in which a red square moves by two pixels a frame."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (squares.WIDTH, squares.HEIGHT))
    for i in range(40):
        writer.write(squares.scene(("red", 2 * i, 18)))
    writer.release()
    return path


@pytest.fixture
def detector(onnx_model: Path) -> Iterator[Detector]:
    """The squares network."""
    runtime = open_runtime(onnx_model, threads=1)
    yield Detector(runtime)
    runtime.close()


def test_a_file_loses_no_frame_and_gives_what_detect_gives(video: Path, detector: Detector) -> None:
    """Forty results in order, bit for bit those of Detector.detect, a tenth of a second of film apart."""
    before = threading.active_count()
    expected = [detector.detect(frame.image).xyxy for frame in open_source(str(video))]
    with Pipeline(open_source(str(video)), detector) as pipeline:
        results = [result for result in pipeline if result is not None]
    assert [result.frame.number for result in results] == list(range(40))
    assert [round(result.frame.seconds, 6) for result in results] == [i / 10 for i in range(40)]
    for result, boxes in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.found.xyxy, boxes)
    assert list(results[0].ms) == ["preprocess", "inference", "decode"]
    assert threading.active_count() == before


def test_the_slowest_step_sets_the_rate(video: Path, onnx_model: Path) -> None:
    """Forty frames of 20 ms inference and 20 ms of the caller's work take far less than both in turn."""
    detector = Detector(Slow(onnx_model, 0.02))
    start = time.monotonic()
    for frame in open_source(str(video)):
        detector.detect(frame.image)
        time.sleep(0.02)
    one_by_one = time.monotonic() - start
    with Pipeline(open_source(str(video)), detector) as pipeline:
        start = time.monotonic()
        for _ in pipeline:
            time.sleep(0.02)
        taken = time.monotonic() - start
    assert taken < 0.85 * one_by_one


def test_a_camera_faster_than_the_network_gives_the_present(onnx_model: Path) -> None:
    """30 fps against 100 ms a frame: some ten results a second, as a rule at most two frame times older."""
    with mjpeg_server() as server:
        capture = LiveCapture(lambda: open_camera(server.url), "cam", report=print)
        capture.start()
        with Pipeline(capture, Detector(Slow(onnx_model, 0.1))) as pipeline:
            results = []
            for result in pipeline:
                if result is not None:
                    results.append(result)
                if len(results) == 40:
                    break
        capture.close()
    late = [result.age_ms - result.ms["inference"] for result in results[1:]]
    assert np.median(late) < 2000 / 30, late
    numbers = np.diff([result.frame.number for result in results])
    assert 3 <= np.median(numbers) <= 4  # 100 ms are three frames


def test_the_network_does_not_wait_where_the_camera_is_faster(onnx_model: Path) -> None:
    """100 fps against 15 ms a frame: inference fills the time, in the best of ten runs on a busy machine."""
    with mjpeg_server(path="/cam.mjpg?fps=100") as server:
        capture = LiveCapture(lambda: open_camera(server.url), "cam", report=print)
        capture.start()
        filled = []
        with Pipeline(capture, Detector(Slow(onnx_model, 0.015))) as pipeline:
            results = filter(None, pipeline)
            next(results)
            for _ in range(10):
                start = time.monotonic()
                inferring = sum(next(results).ms["inference"] for _ in range(12))
                filled.append(inferring / (1000.0 * (time.monotonic() - start)))
        capture.close()
    assert max(filled) > 0.9


def test_a_caller_that_is_slow_still_gets_the_present(onnx_model: Path) -> None:
    """The caller takes 150 ms a result: what it gets is one of its own steps old, not a queue."""
    with mjpeg_server() as server:
        capture = LiveCapture(lambda: open_camera(server.url), "cam", report=print)
        capture.start()
        ages = []
        with Pipeline(capture, Detector(Slow(onnx_model, 0.01))) as pipeline:
            for result in pipeline:
                if result is not None:
                    ages.append(result.age_ms)
                    time.sleep(0.15)
                if len(ages) == 15:
                    break
        capture.close()
    assert max(ages[1:]) < 150 + 10 + 3 * 1000 / 30, ages


def test_a_network_that_is_faster_than_the_camera_sees_each_frame_once(detector: Detector) -> None:
    """Sixty results in the order of the frames, none twice, few missed."""
    with mjpeg_server() as server:
        capture = LiveCapture(lambda: open_camera(server.url), "cam", report=print)
        capture.start()
        with Pipeline(capture, detector) as pipeline:
            numbers = [
                result.frame.number for result, _ in zip(filter(None, pipeline), range(60), strict=False)
            ]
        capture.close()
    assert len(numbers) == 60
    steps = np.diff(numbers)
    assert steps.min() == 1
    assert numbers[-1] - numbers[0] < 70


def test_cameras_have_fair_turns(onnx_model: Path) -> None:
    """Of three at 30 and one at 2 frames a second: all of the slow one, for the others a third of the rest.

    While one is killed its turns are the others', and each gets its newest frames.
    """
    with ExitStack() as stack:
        rates = (30, 30, 2, 30)
        servers = [stack.enter_context(mjpeg_server(path=f"/cam.mjpg?fps={rate}")) for rate in rates]
        captures = []
        for i, server in enumerate(servers):
            capture = LiveCapture(functools.partial(open_camera, server.url), f"cam {i}", report=print)
            capture.start()
            stack.callback(capture.close)
            captures.append(capture)
        runtime = Slow(onnx_model, 0.03)
        first, *others = [(capture, Detector(runtime)) for capture in captures]
        pipeline = stack.enter_context(Pipeline(*first, others))
        results = filter(None, pipeline)

        def shares(seconds: float) -> tuple[Counter[int], list[float]]:
            lanes, late, until = Counter[int](), [], time.monotonic() + seconds
            while time.monotonic() < until:
                result = next(results)
                lanes[result.lane] += 1
                late.append(result.age_ms - result.ms["inference"])
            return lanes, late

        lanes, late = shares(6.0)
        assert 9 <= lanes[2] <= 14
        fair = (lanes.total() - lanes[2]) / 3
        assert [abs(lanes[i] / fair - 1) < 0.1 for i in (0, 1, 3)] == [True] * 3, lanes
        assert np.median(late) < 2000 / 30, late
        servers[0].kill()
        shares(1.0)
        lanes, late = shares(4.0)
        assert lanes[0] == 0
        assert abs(lanes[1] / lanes[3] - 1) < 0.1, lanes
        servers[0].start()
        shares(5.0)
        lanes, late = shares(4.0)
        fair = (lanes.total() - lanes[2]) / 3
        assert [abs(lanes[i] / fair - 1) < 0.1 for i in (0, 1, 3)] == [True] * 3, lanes


def test_a_frame_that_cannot_be_prepared_is_its_cameras_fault(
    onnx_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and the other camera goes on; alone, it ends the run."""

    class Faulty(Detector):
        def prepare(self, image_bgr: NDArray[np.uint8]) -> Any:
            raise SourceError("no such image")

    with ExitStack() as stack:
        runtime = Slow(onnx_model, 0.0)
        captures = []
        for _ in range(2):
            server = stack.enter_context(mjpeg_server())
            captures.append(LiveCapture(functools.partial(open_camera, server.url), "cam", report=print))
            captures[-1].start()
            stack.callback(captures[-1].close)
        with Pipeline(captures[0], Faulty(runtime), [(captures[1], Detector(runtime))]) as pipeline:
            results = filter(None, pipeline)
            assert {next(results).lane for _ in range(20)} == {1}
        assert caplog.text.count("cam: a frame cannot be used: no such image") == 1
        with Pipeline(captures[0], Faulty(runtime)) as pipeline, pytest.raises(SourceError):
            next(filter(None, pipeline))


def test_a_capture_that_is_closed_ends_the_iteration(detector: Detector) -> None:
    """It does not wait for a frame that cannot come."""
    with mjpeg_server() as server:
        capture = LiveCapture(lambda: open_camera(server.url), "cam", report=print)
        capture.start()
        with Pipeline(capture, detector) as pipeline:
            for number, _ in enumerate(pipeline):
                if number == 5:
                    capture.close()


def test_a_silent_camera_is_told_twice_a_second(detector: Detector) -> None:
    """While the server is stopped, None comes; when it goes on, results come."""
    with mjpeg_server() as server:
        capture = LiveCapture(lambda: open_camera(server.url), "cam", frozen_s=60, report=print)
        capture.start()
        silences = after = 0
        with Pipeline(capture, detector) as pipeline:
            for result in pipeline:
                if result is not None and silences == 0:
                    server.freeze()
                elif result is None:
                    silences += 1
                    if silences == 3:
                        server.thaw()
                elif silences >= 3:
                    after += 1
                    if after == 3:
                        break
        capture.close()
    assert after == 3


def test_an_error_comes_after_the_results_before_it(video: Path, onnx_model: Path) -> None:
    """An engine that stops at the tenth frame: nine results, then its ArtifactError."""

    class Failing(Slow):
        def run(self, x: NDArray[Any]) -> Heads:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 10:
                raise ArtifactError("the engine stopped")
            return super().run(x)

    results = []
    pipeline = Pipeline(open_source(str(video)), Detector(Failing(onnx_model, 0.0)))
    with pipeline, pytest.raises(ArtifactError, match="the engine stopped"):
        results.extend(pipeline)
    assert len(results) == 9


def test_a_bad_picture_is_reported_as_without_threads(tmp_path: Path, detector: Detector) -> None:
    """A single file that is no picture raises SourceError through the pipeline."""
    path = tmp_path / "no.jpg"
    path.write_bytes(b"no picture")
    with Pipeline(Stills([str(path)], print), detector) as pipeline, pytest.raises(SourceError):
        list(pipeline)


def test_stop_ends_after_the_result_at_hand(video: Path, onnx_model: Path) -> None:
    """Called from another thread, the iteration ends although the file has most of its frames left."""
    source = open_source(str(video))
    assert isinstance(source, Video)
    with Pipeline(source, Detector(Slow(onnx_model, 0.1))) as pipeline:
        timer = threading.Timer(0.5, pipeline.stop)
        timer.start()
        count = sum(1 for _ in pipeline)
    assert 2 <= count < 10


def test_rate_is_that_of_the_last_seconds() -> None:
    """Ticks 20 ms apart are 50 a second, whatever came before."""
    rate = Rate()
    assert rate.tick() == 0.0
    for _ in range(25):
        time.sleep(0.02)
        measured = rate.tick()
    assert 20 < measured <= 50
