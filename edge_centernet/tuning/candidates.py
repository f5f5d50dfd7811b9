"""Each model at several input sizes: its file for the engine here, what it finds in the view, its time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edge_centernet.artifact import read_manifest
from edge_centernet.classes import find_class
from edge_centernet.converters import convert
from edge_centernet.converters.open import open_network
from edge_centernet.detections import Detections
from edge_centernet.detector import Detector
from edge_centernet.errors import ArtifactError, ConfigError, ConversionError
from edge_centernet.evaluation.crowds import MAX_DETECTIONS
from edge_centernet.imageio import Image
from edge_centernet.labelling.ensemble import mirror
from edge_centernet.manifest import SIDE_MIN, SIDE_STEP, InputSize
from edge_centernet.model_zoo import find_model, is_name, names, ships
from edge_centernet.preprocess import Letterbox
from edge_centernet.progress import Progress, Say, with_progress
from edge_centernet.runtimes import ENGINES, select_engine
from edge_centernet.tracking.geometry import Size
from edge_centernet.tuning.view import View

FLOOR = 0.01  # the lowest score that is looked at
# Pixels of an input in those of the model's own: from somewhat fewer to some three times as many, beyond
# which objects are larger than any that it was trained on.
_STEP, _STEPS = 1.5, range(-1, 4)
_NEAR = 1.22  # a size may have so many times the pixels of its step, or so many times fewer
_ENLARGED = 2.0  # pixels of an input in those of the frame: more are only invented
_ROUNDS = 16  # of timing
_TURN = 3  # detections of a candidate in a round; the first one finds the caches cold and is not counted


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model at an input size.

    model: as the user writes it; for a shipped one its name. source: the interchange file.
    file: what the engine runs; the shipped file where the size is the model's own.
    own: whether the size is the model's own.
    """

    model: str
    source: Path
    size: InputSize
    file: Path
    own: bool

    @property
    def name(self) -> str:
        """The model's name with this size."""
        return self.file.stem if self.own else self.size.named(self.source.stem)

    @cached_property
    def suggested(self) -> float | tuple[float, ...]:
        """The model's own threshold."""
        return read_manifest(self.file).model.suggested


@dataclass(frozen=True, eq=False)
class Look:
    """What a candidate found in the view.

    found: for each frame, class_id indexing the classes that are looked for, scores down to FLOOR.
    mirrored: the same of the frames' mirror images, as they lie in the frames.
    ms: milliseconds from a frame in memory to its boxes, see `measure_times`.
    """

    candidate: Candidate
    found: tuple[Detections, ...]
    mirrored: tuple[Detections, ...]
    ms: float


def sizes_for(own: InputSize, view: Size) -> list[InputSize]:
    """The sizes to try beside a model's own: of about the view's shape, those of fewest pixels first.

    own: the model's. view: (width, height) of the frames.
    """
    width, height = view
    # 1. All sizes that the view nearly fills.
    shapes: dict[InputSize, float] = {}
    for wide in range(SIDE_MIN, 2 * max(view) + SIDE_STEP, SIDE_STEP):
        high = max(SIDE_MIN, SIDE_STEP * round(wide * height / width / SIDE_STEP))
        box = Letterbox(width, height, wide, high)
        shapes[InputSize(wide, high)] = box.new_width * box.new_height / (wide * high)
    # 2. For each step the one that it fills best.
    chosen: dict[InputSize, None] = {}
    for step in _STEPS:
        pixels = own.width * own.height * _STEP**step
        if pixels > _ENLARGED * width * height:
            break
        near = [
            size
            for size in shapes
            if pixels / _NEAR <= size.width * size.height <= pixels * _NEAR and size != own
        ]
        if near:
            chosen[max(near, key=lambda size: shapes[size])] = None
    return list(chosen)


def open_all(
    model: str,
    runtime: str,
    device: str,
    classes: Sequence[str],
    view: View,
    folder: Path,
    progress: Progress,
    say: Say,
) -> list[Candidate]:
    """The candidates, the one that is used today first: `model` at its own size.

    Args:
        model: name of a shipped model, or an .onnx file written by train or convert.
        runtime: the engine, or "auto".
        device: what OpenVINO computes on.
        classes: that every model must know.
        view: what they will look at.
        folder: where files of other sizes are written to.
        progress: called as work goes on.
        say: gets a line for each candidate that is left out.

    Raises ConfigError for a class that `model` does not know, or a file that is no interchange file; what
    `select_engine` raises; MissingDependency where converting needs packages that are not installed.
    """
    if not is_name(model) and Path(model).suffix != ".onnx":
        raise ConfigError(
            f"--model {model}: expected the name of a shipped model, or an .onnx file, of which other input "
            "sizes can be made"
        )
    others = [name for name in names() if name != model and ships(name, ".onnx")]
    plan: list[tuple[str, Path, str, InputSize, bool]] = []
    for name in (model, *others):
        source = find_model(name, ".onnx")
        spec = read_manifest(source).model
        if unknown := [one for one in classes if find_class(one, spec.classes) is None]:
            if name == model:
                raise ConfigError(
                    f"--classes: unknown class {unknown[0]!r}: {name} knows {', '.join(spec.classes)}"
                )
            continue
        try:
            file, engine = select_engine(name, runtime, device, tell=say)
        except ArtifactError as error:
            if name == model:
                raise
            say(f"{name}: left out: {error}")
            continue
        own = spec.input_size
        plan.append((name, file, engine, own, True))
        plan += [(name, source, engine, size, False) for size in sizes_for(own, view.size)]
    made: list[Candidate] = []
    middle = [view.frames[view.half].image]
    for name, file, engine, size, own_size in with_progress(plan, "Converting", progress):
        source = find_model(name, ".onnx")
        if not own_size:
            try:
                file = make(source, size, engine, folder, middle)
            except ConversionError as error:
                say(f"{name} at {size}: left out: {error}")
                continue
        made.append(Candidate(name, source, size, file, own_size))
    return made


def make(
    source: Path, size: InputSize, engine: str, folder: Path, pictures: Sequence[Image] | None = None
) -> Path:
    """Write the file of a network at a size for an engine, verified on the pictures; its path in `folder`."""
    network = open_network(source, size=size).network
    target = ENGINES[engine].targets[0]
    stem = size.named(source.stem)
    return convert(source, [target], "int8", folder, network=network, pictures=pictures, stem=stem)[0].path


def look(
    candidates: Sequence[Candidate],
    view: View,
    classes: Sequence[str],
    threads: int | None,
    device: str,
    progress: Progress,
) -> list[Look]:
    """Have every candidate look at every frame and its mirror image, and measure its time.

    Args:
        candidates: at least one.
        view: the frames.
        classes: to look for.
        threads: CPU threads; None leaves it to the engine.
        device: what OpenVINO computes on.
        progress: called as work goes on.
    """
    with ExitStack() as stack:
        detectors = [
            stack.enter_context(
                Detector(
                    str(one.file),
                    device=device,
                    threads=threads,
                    threshold=FLOOR,
                    max_detections=MAX_DETECTIONS,
                    only=classes,
                    selfcheck=False,  # done by `select_engine`, and by the conversion
                )
            )
            for one in candidates
        ]
        times = measure_times(detectors, [one.image for one in view.frames], progress)
        found: list[tuple[list[Detections], list[Detections]]] = [([], []) for _ in candidates]
        places = [_places(one.classes, classes) for one in detectors]
        for frame in with_progress(view.frames, "Looking", progress):
            mirrored = np.ascontiguousarray(frame.image[:, ::-1])
            for detector, place, (plain, turned) in zip(detectors, places, found, strict=True):
                plain.append(_renamed(detector.detect(frame.image), place, classes))
                other = mirror(detector.detect(mirrored), frame.image.shape[1])
                turned.append(_renamed(other, place, classes))
    return [
        Look(one, tuple(plain), tuple(turned), float(ms))
        for one, (plain, turned), ms in zip(candidates, found, times, strict=True)
    ]


def measure_times(
    detectors: Sequence[Detector], images: Sequence[Image], progress: Progress
) -> NDArray[np.float64]:
    """(N,) milliseconds that each detector takes for an image.

    They take turns, in another order each round. What is kept of a round is how its times compare with that
    of the first detector: a machine that is busy or hot for a while is so for all.
    """
    times = np.zeros((_ROUNDS, len(detectors)))
    order = np.arange(len(detectors))
    for i in with_progress(range(_ROUNDS), "Measuring time", progress):
        image = images[i * len(images) // _ROUNDS]
        for k in np.roll(order, i).tolist():
            turn = []
            for _ in range(_TURN):
                begun = perf_counter()
                detectors[k].detect(image)
                turn.append(perf_counter() - begun)
            times[i, k] = min(turn[1:])
    ratio = np.median(times / times[:, :1], axis=0)
    return np.asarray(1000.0 * np.median(times[:, 0]) * ratio, np.float64)


def _places(own: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """(C,) for each of a model's classes its place among `classes`, -1 for none."""
    places = np.full(len(own), -1, np.int32)
    for i, name in enumerate(classes):
        at = find_class(name, own)
        if at is not None:
            places[at] = i
    return places


def _renamed(found: Detections, places: NDArray[np.int32], classes: Sequence[str]) -> Detections:
    return Detections(found.xyxy, found.score, places[found.class_id], tuple(classes))
