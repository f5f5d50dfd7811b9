"""Image in, boxes out: the three steps between them in turn. `pipeline` overlaps the same steps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import did_you_mean, find_class
from edge_centernet.decoder import decode, decode_levels
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.preprocess import Letterbox, prepare
from edge_centernet.runtimes import ENGINES, open_runtime, select_engine
from edge_centernet.runtimes.base import Runtime
from edge_centernet.runtimes.engines import CPU, is_cpu
from edge_centernet.tiles import Chooser, Grid, TiledHeads, TiledInput, Tiler, Tiling


class Detector:
    """Finds objects in images: a model, the engine that runs it, and the steps around it.

        with Detector() as detector:                 # the shipped default model
            found = detector.detect(image)           # (H, W, 3) uint8 BGR, as OpenCV reads it

    model: name of a shipped model (`edge-centernet models`), path of a model file (.xml, .tflite, .onnx), or
        a runtime: an object with `name`, `manifest`, `device`, `run` and `close` (`edge_centernet.Runtime`).
    runtime: "openvino", "tflite" or "onnxruntime"; "auto" goes by the file's suffix, and takes TFLite on ARM,
        OpenVINO elsewhere, for a shipped model.
    device: what OpenVINO computes on, by its name there: "CPU", "GPU", "NPU", "AUTO"; another than the CPU
        chooses OpenVINO.
    threads: CPU threads; None leaves it to the engine.
    threshold: lowest score (probability, 0..1) returned: one for all, or one for each of the model's classes
        in their order; None takes the model's own.
    max_detections: most boxes returned an image, best first; at least 1.
    only: names of the classes to look for, VOC's words or COCO's, chosen before max_detections is applied;
        None means all.
    selfcheck: have the engine compute the model's self-test vector before it is used, in a process of its
        own, once for each file, engine release and processor (docs/decisions/0014-self-check.md). An engine
        that fails is passed over with a warning in the log.

    tiles: "2x2" looks for small objects in so many columns and rows of overlapping tiles, too: each takes as
        long as the image without tiles. "auto" chooses their number by the sizes of what is found, from image
        to image; for a video, a camera, or photos of one place.
    tiles_ms: with "auto", the milliseconds that all passes of the network for one image may take; None: any.

    `detect` may be called from several threads: one inference runs at a time, preprocessing overlaps. Where
    several should run at once, give each thread a Detector with threads=1. After os.fork, open a new one.

    Raises:
        ConfigError: a value outside these limits, a class that the model does not know, an engine that does
            not run files of this kind, or a device that is not here.
        ArtifactError: there is no such model, its file is damaged, or no engine computes it here.
        MissingDependency: the engine is not installed; the message has the pip command.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Runtime = DEFAULT,
        *,
        runtime: str = "auto",
        device: str = CPU,
        threads: int | None = None,
        threshold: float | Sequence[float] | None = None,
        max_detections: int = 100,
        only: Sequence[str] | None = None,
        selfcheck: bool = True,
        tiles: str | None = None,
        tiles_ms: float | None = None,
    ) -> None:
        """Open the model, unless it is a runtime already, and check the options against it."""
        self._owned = isinstance(model, (str, os.PathLike))
        if isinstance(model, (str, os.PathLike)):
            if threads is not None and threads < 1:
                raise ConfigError(
                    f"threads: expected 1 or more, or None for the engine's choice, got {threads}"
                )
            file, engine = select_engine(os.fspath(model), runtime, device, run_selftest=selfcheck)
            self.runtime = open_runtime(file, engine, threads, device)
        else:
            missing = [name for name in ("manifest", "run") if not hasattr(model, name)]
            if missing:
                raise ConfigError(
                    "model: expected the name of a shipped model, a path, or a runtime, "
                    f"got {type(model).__name__} without {' and '.join(missing)}"
                )
            if runtime != "auto" or threads is not None or not is_cpu(device):
                raise ConfigError(
                    "runtime, device and threads: expected none beside a runtime that is open already"
                )
            self.runtime = model
        try:
            self._set_up(threshold, max_detections, only)
            self._tilers: dict[Grid, Tiler] = {}
            self._grid = None if tiles in (None, "auto") else Grid.of(tiles)
            self._chooser = Chooser(self.manifest.model, tiles_ms) if tiles == "auto" else None
            if self._grid is not None:
                self._tiler(self._grid)  # which refuses one that is too large
        except ConfigError:
            self.close()  # nobody else can: the caller gets no Detector
            raise
        self._running = Lock()

    def _set_up(
        self, threshold: float | Sequence[float] | None, max_detections: int, only: Sequence[str] | None
    ) -> None:
        self.manifest: Manifest = self.runtime.manifest
        model = self.manifest.model
        self.threshold = model.suggested if threshold is None else threshold
        self.max_detections = max_detections
        limits = np.asarray(self.threshold, np.float64)
        if not ((limits >= 0) & (limits <= 1)).all():
            raise ConfigError(f"threshold: expected 0..1, got {threshold}")
        if limits.ndim and limits.shape != (len(model.classes),):
            raise ConfigError(
                f"threshold: expected one, or one for each of {len(model.classes)} classes, got {limits.size}"
            )
        self._lowest = float(limits.min())
        self._class_thresholds = (
            dict(zip(model.classes, limits.tolist(), strict=True)) if limits.ndim else None
        )
        if max_detections < 1:
            raise ConfigError(f"max detections: expected at least 1, got {max_detections}")
        # For `only` the heads are decoded as those of a network with the heat channels of these classes
        # alone: other classes then cannot take places among the `max_detections` best.
        self._ids = None if only is None else class_ids(only, model.classes)
        self._decoded = self.manifest
        if self._ids is not None:
            heat = self.manifest.heat
            shape = list(heat.shape)
            shape[heat.layout.index("C")] = len(self._ids)
            self._decoded = replace(
                self.manifest,
                model=model.narrowed(self._ids.tolist()),
                heat=replace(heat, shape=tuple(shape)),
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes that the model knows, by class_id, even if `only` chose some of them."""
        return self.manifest.model.classes

    def detect(self, image_bgr: NDArray[np.uint8]) -> Detections:
        """(H, W, 3) uint8 BGR -> detections in pixels of that image, clipped to it, best first.

        Boxes that lie in the padding alone are dropped. The image may be of any size and is not changed.
        Raises SourceError for anything else, with how to make such an image of it where that is known,
        ArtifactError where the engine stops, RuntimeError after `close`.
        """
        return self.detect_timed(image_bgr)[0]

    def detect_timed(self, image_bgr: NDArray[np.uint8]) -> tuple[Detections, dict[str, float]]:
        """As `detect`, with the milliseconds of each step: "preprocess", "inference" and "decode"."""
        start = perf_counter()
        x, box = self.prepare(image_bgr)
        prepared = perf_counter()
        # The time between `prepared` and `began` is spent waiting for other threads and belongs to no step.
        with self._running:  # until decoded: the heads are views into the engine's memory
            began = perf_counter()
            heads = self.infer(x)
            inferred = perf_counter()
            found = self.boxes(heads, box)
        done = perf_counter()
        seconds = {"preprocess": prepared - start, "inference": inferred - began, "decode": done - inferred}
        return found, {step: 1000.0 * value for step, value in seconds.items()}

    # The three steps, public because `pipeline.Pipeline` runs each on a thread of its own.

    def prepare(self, image_bgr: NDArray[np.uint8]) -> tuple[NDArray[Any] | TiledInput, Letterbox | Tiling]:
        """The first step: (H, W, 3) uint8 BGR -> the network's input, and where the image lies in it."""
        grid = self._grid if self._chooser is None else self._chooser.grid
        if grid is not None:
            return self._tiler(grid).prepare(image_bgr)
        return prepare(image_bgr, self.manifest)

    def infer(self, x: NDArray[Any] | TiledInput) -> Heads | TiledHeads:
        """The second step: what `prepare` made -> the network's heads.

        Heads without tiles are valid until the next call. To be called by one thread at a time; unlike
        `detect` it does not wait for its turn.
        """
        if isinstance(x, TiledInput):
            return self._tiler(x.how.grid).run(x, self._run_wanted)
        return self._run_wanted(x)

    def _tiler(self, grid: Grid) -> Tiler:
        if grid not in self._tilers:
            self._tilers[grid] = Tiler(self.manifest, self._decoded, grid)
        return self._tilers[grid]

    def _run_wanted(self, x: NDArray[Any]) -> Heads:
        """The heads of the classes that are looked for."""
        start = perf_counter()
        heads = self.runtime.run(x)
        if self._chooser is not None:
            self._chooser.passed(1000.0 * (perf_counter() - start))
        return heads if self._ids is None else heads._replace(heat=heads.heat[self._ids])

    def boxes(self, heads: Heads | TiledHeads, box: Letterbox | Tiling) -> Detections:
        """The last step: the heads of an image that lies so in the input -> detections as `detect` gives."""
        own = self._class_thresholds
        if own is not None and self._ids is not None:
            own = {name: own[name] for name in self._decoded.model.classes}
        options: dict[str, Any] = {
            "threshold": self._lowest,
            "class_thresholds": own,
            "max_detections": self.max_detections,
        }
        if isinstance(box, Tiling):
            assert isinstance(heads, TiledHeads)  # the two come together
            found = decode_levels(
                heads.coarse,
                heads.fine,
                (self._decoded, box.decoded),
                frames=(box.coarse.frame, box.frame.frame),
                tiles=box.tiles,
                levels=box.levels,
                **options,
            )
        else:
            assert isinstance(heads, Heads)
            found = decode(heads, self._decoded, frame=box.frame, **options)
        if self._chooser is not None:
            whole = box.coarse if isinstance(box, Tiling) else box
            self._chooser.learn(found, whole.src_width, whole.src_height)
        if self._ids is None:
            return found
        return Detections(found.xyxy, found.score, self._ids[found.class_id], self.classes)

    def close(self) -> None:
        """Release the engine; may be called twice. A runtime that was passed in stays open."""
        if self._owned:
            self.runtime.close()

    def __enter__(self) -> Detector:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release the engine."""
        self.close()

    def __repr__(self) -> str:
        """Model, engine and what is looked for."""
        model, name = self.manifest.model, self.runtime.name
        title = ENGINES[name].title if name in ENGINES else name
        device = getattr(self.runtime, "device", "")
        on = f" on {device}" if device else ""
        wanted = (
            f"{len(self.classes)} classes"
            if self._ids is None
            else ", ".join(self.classes[i] for i in self._ids)
        )
        return (
            f"<Detector: {model.name} {model.version}, {model.width}x{model.height}, "
            f"{self.manifest.precision} in {title}{on}, {wanted}, from score {self._lowest:g}>"
        )


def class_ids(wanted: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """(N,) int32 ids of the wanted class names, ascending; ConfigError lists the classes if one is unknown.

    Synonyms and other ways to write a name are understood, see `edge_centernet.classes`.
    """
    if isinstance(wanted, str):  # a text is a sequence, too: its letters would be taken for names
        raise ConfigError(f"classes: expected a list of names, got the text {wanted!r}: write [{wanted!r}]")
    ids = [find_class(name, classes) for name in wanted]
    unknown = [name for name, i in zip(wanted, ids, strict=True) if i is None]
    if unknown or not wanted:
        got = ", ".join(repr(name) for name in unknown) or "none"
        hint = did_you_mean(unknown[0], classes) if unknown else ""
        raise ConfigError(f"unknown class {got}: this model knows {', '.join(classes)}{hint}")
    return np.array(sorted({i for i in ids if i is not None}), np.int32)
