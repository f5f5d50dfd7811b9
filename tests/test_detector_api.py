"""`Detector()` for those who embed it: which model and engine it opens, what it refuses, who closes what."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import squares
from numpy.typing import NDArray

import edge_centernet
from edge_centernet import Detections, Detector, EdgeCenterNetError, Heads, read_image, sample_photo
from edge_centernet.errors import ArtifactError, ConfigError, SourceError
from edge_centernet.model_zoo import DEFAULT, FOLDER
from edge_centernet.runtimes import open_runtime, ort, pick, selfcheck

SCENE = squares.scene(("red", 10, 18), ("green", 58, 38), ("blue sky", 90, 6))


class Recorder:
    """A runtime that remembers whether it was closed, and how many ran in it at once."""

    name, device = "recorder", "desk"

    def __init__(self, path: Path) -> None:
        """path: of a model file."""
        self._runtime = open_runtime(path, threads=1)
        self.manifest = self._runtime.manifest
        self.closed = self.at_once = self._running = 0

    def run(self, x: NDArray[Any]) -> Heads:
        """As the runtime."""
        self._running += 1
        self.at_once = max(self.at_once, self._running)
        heads = self._runtime.run(x)
        self._running -= 1
        return heads

    def close(self) -> None:
        """Count it."""
        self.closed += 1


@pytest.fixture(scope="module")
def detector() -> Detector:
    """The default one."""
    return Detector()


def test_without_arguments_it_finds_the_person_and_the_cat(detector: Detector) -> None:
    """The shipped default model on this machine's best engine, at the model's own threshold."""
    found = detector.detect(read_image(sample_photo()))
    assert set(found.names) == {"person", "cat"}
    assert (detector.manifest.model.name, detector.runtime.name) == (DEFAULT, pick()[0])
    assert detector.threshold == detector.manifest.model.threshold


def test_it_says_what_it_is(detector: Detector) -> None:
    """The repr names model, input, precision, engine, classes and threshold."""
    title = {"openvino": "OpenVINO", "tflite": "TFLite"}[pick()[0]]
    about = detector.manifest.model
    model = f"{DEFAULT} {about.version}, 320x320, int8 in {title}, 20 classes"
    assert repr(detector) == f"<Detector: {model}, from score {about.threshold:g}>"
    only = Detector(detector.runtime, only=["person", "cat"], threshold=0.5)
    assert repr(only).endswith("cat, person, from score 0.5>")


def test_a_name_and_a_path_with_an_engine() -> None:
    """A shipped model by name on the engine asked for, and the same by its file."""
    image = read_image(sample_photo())
    named = Detector("centernet-nano-256", runtime="tflite", threads=2)
    by_path = Detector(FOLDER / "centernet-nano-256.tflite")
    assert (named.runtime.name, by_path.runtime.name) == ("tflite", "tflite")
    assert np.array_equal(named.detect(image).xyxy, by_path.detect(image).xyxy)


def test_classes_are_all_of_the_models(onnx_model: Path) -> None:
    """By class_id, whatever was looked for; names of the boxes come from them."""
    detector = Detector(onnx_model, only=["green"], threshold=0.5)
    found = detector.detect(SCENE)
    assert detector.classes == squares.CLASSES
    assert (found.names, found.class_id.tolist(), found.classes) == (["green"], [1], squares.CLASSES)


def test_detect_and_detect_timed_find_the_same(onnx_model: Path) -> None:
    """The timed one tells positive milliseconds of the three steps."""
    detector = Detector(onnx_model, threshold=0.5)
    found, ms = detector.detect_timed(SCENE)
    assert np.array_equal(found.xyxy, detector.detect(SCENE).xyxy)
    assert list(ms) == ["preprocess", "inference", "decode"]
    assert min(ms.values()) > 0


def test_the_engine_is_released(onnx_model: Path) -> None:
    """After `with`, its own runtime is closed; closing again is harmless, detecting is an error."""
    with Detector(onnx_model) as detector:
        detector.detect(SCENE)
    detector.close()
    with pytest.raises(RuntimeError, match="closed"):
        detector.detect(SCENE)


def test_a_runtime_that_was_given_stays_open(onnx_model: Path) -> None:
    """Who opened it closes it."""
    runtime = Recorder(onnx_model)
    with Detector(runtime, threshold=0.5) as detector:
        assert len(detector.detect(SCENE)) == 3
        assert "int8 in recorder on desk" in repr(detector)
    assert runtime.closed == 0


def test_options_that_are_refused_release_the_engine(
    onnx_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was opened and does not know the class is closed before the error comes."""
    opened = Recorder(onnx_model)
    monkeypatch.setattr("edge_centernet.detector.open_runtime", lambda *_: opened)
    with pytest.raises(ConfigError, match="unknown class 'dog'"):
        Detector(onnx_model, only=["dog"])
    assert opened.closed == 1


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda path: Detector("no-such-model"), ArtifactError, "no shipped model of that name"),
        (lambda path: Detector(path, runtime="tflite"), ConfigError, "tflite runs .tflite files"),
        (
            lambda path: Detector(path, runtime="tensorflow"),
            ConfigError,
            "runtime: expected one of auto, openvino",
        ),
        (lambda path: Detector(path, device="GPU"), ConfigError, "expected CPU with ONNX Runtime, got 'GPU'"),
        (lambda path: Detector(path, threads=0), ConfigError, "threads: expected 1 or more"),
        (lambda path: Detector(path, threshold=1.5), ConfigError, "expected 0..1, got 1.5"),
        (
            lambda path: Detector(path, only="red"),
            ConfigError,
            r"expected a list of names, got the text 'red'",
        ),
        (lambda path: Detector(7), ConfigError, "got int without manifest and run"),
        (lambda path: Detector(None), ConfigError, "got NoneType without manifest and run"),
        (
            lambda path: Detector(Recorder(path), threads=2),
            ConfigError,
            "beside a runtime that is open already",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_error(
    onnx_model: Path, make: Callable[[Path], Any], kind: type[EdgeCenterNetError], says: str
) -> None:
    """Each a subclass of EdgeCenterNetError."""
    with pytest.raises(kind, match=says):
        make(onnx_model)


def test_an_engine_that_fails_its_self_check_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is taken and the log has a warning; with selfcheck=False nobody asks."""
    asked: list[str] = []

    def unfit(path: Path, engine: str, device: str) -> str | None:
        asked.append(engine)
        return "answers wrongly" if engine == "openvino" else None

    monkeypatch.setattr(selfcheck, "selftest_failure", unfit)
    monkeypatch.setattr("edge_centernet.runtimes.choose.pick", lambda: ("openvino", "tflite"))
    with caplog.at_level(logging.WARNING, "edge_centernet"):
        assert Detector().runtime.name == "tflite"
    assert asked == ["openvino", "tflite"]
    assert "OpenVINO cannot be relied on here for" in caplog.text
    assert Detector(selfcheck=False).runtime.name == "openvino"
    assert asked == ["openvino", "tflite"]


def test_threads_share_a_detector(onnx_model: Path) -> None:
    """Eight threads get what one gets, and only one inference runs at a time."""
    runtime = Recorder(onnx_model)
    detector = Detector(runtime, threshold=0.5)
    scenes = [squares.scene((name, 10 * i, 18)) for i in range(8) for name in squares.CLASSES]
    expected = [detector.detect(scene) for scene in scenes]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(detector.detect, scenes * 4))
    assert all(len(one) == 1 for one in expected)
    for one, other in zip(expected * 4, found, strict=True):
        assert np.array_equal(one.xyxy, other.xyxy)
        assert np.array_equal(one.class_id, other.class_id)
    assert runtime.at_once == 1


def test_threads_take_turns_in_opening(onnx_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads open a model at once, one after the other: two at a time can hang in OpenVINO."""
    opening = most = 0
    adapter = ort.ONNXRuntime

    def slowly(path: Path, threads: int | None) -> ort.ONNXRuntime:
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        time.sleep(0.05)
        opening -= 1
        return adapter(path, threads)

    monkeypatch.setattr(ort, "ONNXRuntime", slowly)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: Detector(onnx_model, threads=1), range(4)))
    assert (len(opened), most) == (4, 1)


def test_an_error_does_not_hold_the_detector(onnx_model: Path) -> None:
    """After an engine's error in one thread, another one can detect."""
    runtime = Recorder(onnx_model)
    detector = Detector(runtime, threshold=0.5)
    run = runtime.run
    runtime.run = lambda x: (_ for _ in ()).throw(ArtifactError("stopped"))  # type: ignore[method-assign]
    with pytest.raises(ArtifactError):
        detector.detect(SCENE)
    runtime.run = run  # type: ignore[method-assign]
    results: list[Detections] = []
    thread = threading.Thread(target=lambda: results.append(detector.detect(SCENE)))
    thread.start()
    thread.join(30)
    assert len(results[0]) == 3


def pil_image() -> Any:
    """An image of Pillow's."""
    from PIL import Image

    return Image.new("RGB", (64, 48))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (
            None,
            "got None, which cv2.imread returns for a file that it cannot read: "
            "edge_centernet.read_image says why",
        ),
        ("photo.jpg", "got 'photo.jpg': read it first, with edge_centernet.read_image for a file"),
        (Path("photo.jpg"), "photo.jpg'.*: read it first"),
        (pil_image, r"got PIL.Image.Image: numpy.asarray\(image.convert\('RGB'\)\)\[..., ::-1\] makes one"),
        ([[0, 1], [2, 3]], "got builtins.list"),
        (
            np.zeros((48, 64), np.uint8),
            r"got \(48, 64\) uint8: cv2.cvtColor\(image, cv2.COLOR_GRAY2BGR\) makes one",
        ),
        (np.zeros((48, 64, 1), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((48, 64, 4), np.uint8), "COLOR_BGRA2BGR"),
        (np.zeros((3, 48, 64), np.uint8), r"image.transpose\(1, 2, 0\)"),
        (np.zeros((1, 48, 64, 3), np.uint8), "give one image after the other"),
        (
            np.zeros((48, 64, 3), np.float32),
            r"float32: scale the values to 0..255 and convert with .astype\(numpy.uint8\)",
        ),
        (np.zeros((0, 64, 3), np.uint8), r"\(0, 64, 3\) uint8, which has no pixel"),
        (np.zeros((48, 64, 5), np.uint8), r"got \(48, 64, 5\) uint8$"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_told_with_a_way_out(onnx_model: Path, image: Any, says: str) -> None:
    """One line: what was expected, what came, and how to make one of it."""
    with pytest.raises(SourceError, match=says) as raised:
        Detector(onnx_model).detect(image() if callable(image) else image)
    assert str(raised.value).startswith("image: expected (H, W, 3) uint8 BGR, got ")
    assert "\n" not in str(raised.value)


def test_unusual_memory_is_no_matter(onnx_model: Path) -> None:
    """A read-only view with negative strides is detected on as its copy is."""
    view = SCENE[:, ::-1]
    view.setflags(write=False)
    detector = Detector(onnx_model, threshold=0.5)
    assert np.array_equal(detector.detect(view).xyxy, detector.detect(view.copy()).xyxy)


def test_sample_photo_is_the_packaged_one() -> None:
    """A path that read_image reads."""
    assert edge_centernet.sample_photo().name == "sample.jpg"
    assert read_image(edge_centernet.sample_photo()).shape == (512, 1126, 3)
