"""One run of `tune`: watch, look, choose; and the result with what a report needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_centernet.artifact import files_of
from edge_centernet.data import Dataset
from edge_centernet.errors import MissingDependency
from edge_centernet.progress import Progress, Say
from edge_centernet.system.logs import quiet_libraries
from edge_centernet.tuning.candidates import Look, look, open_all
from edge_centernet.tuning.choice import Choice, Threshold, choose, threshold
from edge_centernet.tuning.line import Paths, Place, follow, place_line
from edge_centernet.tuning.truth import labelled
from edge_centernet.tuning.view import View, watch

RESERVE = 0.3  # of the time between two frames, for reading, tracking and what is published


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    source, model (that is used today), runtime, device, threads, classes: as `detect` takes them.
    max_ms: milliseconds that a frame may take; None for what the model takes today.
    labels: of the frames. frames: to look at, at most. seconds: to watch, at most.
    """

    source: str
    model: str
    runtime: str
    device: str
    threads: int | None
    classes: tuple[str, ...]
    max_ms: float | None
    labels: Path | None
    frames: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Tuned:
    """What is proposed, and what it was concluded from.

    cut: the threshold; None where there was nothing to see.
    paths: the tracks at this threshold, None for single images. place: of the line; None where too few cross.
    """

    wish: Wish
    view: View
    looks: tuple[Look, ...]
    choice: Choice
    cut: Threshold | None
    paths: Paths | None
    place: Place | None

    @property
    def heights(self) -> NDArray[np.float64]:
        """(N,) heights of the objects in pixels of the frames."""
        boxes = [sample.boxes[sample.counted] for sample in self.choice.truth.samples]
        return np.concatenate([each[:, 3] - each[:, 1] for each in boxes]).astype(np.float64)


def tune(wish: Wish, keep: Path | None, progress: Progress, say: Say) -> Tuned:
    """Propose model, input size, threshold and line for what a source shows.

    Args:
        wish: what is asked for.
        keep: folder for the file of the proposed model, if its size is not the model's own; None keeps none.
        progress: called as work goes on.
        say: gets lines for people.

    Raises what `watch`, `open_all` and `labelled` raise, MissingDependency before anything is watched.
    """
    # Before a video is watched for minutes.
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise MissingDependency.for_extra("edge-centernet tune", "convert")
    view = watch(wish.source, wish.frames, wish.seconds, progress, lambda line: say(f"Warning: {line}"))
    labels = None if wish.labels is None else labelled(wish.labels, view, wish.classes)
    with tempfile.TemporaryDirectory(prefix="edge-centernet-tune-") as folder, quiet_libraries():
        candidates = open_all(
            wish.model, wish.runtime, wish.device, wish.classes, view, Path(folder), progress, say
        )
        looks = look(candidates, view, wish.classes, wish.threads, wish.device, progress)
        tuned = conclude(wish, view, looks, labels)
        chosen = tuned.choice.look.candidate
        if keep is not None and not chosen.own:
            for file in files_of(chosen.file):
                shutil.copyfile(file, keep / file.name)
    return tuned


def conclude(wish: Wish, view: View, looks: Sequence[Look], labels: Dataset | None = None) -> Tuned:
    """What follows from what all candidates found in the view."""
    choice = choose(looks, view, labels, wish.max_ms)
    enough = any(sample.counted.any() for sample in choice.truth.samples)
    cut = threshold(choice.look, choice.truth, view) if enough else None
    paths = follow(choice.look.found, cut.value, view) if view.moving and cut is not None else None
    place = None if paths is None else place_line(paths, view)
    return Tuned(wish, view, tuple(looks), choice, cut, paths, place)
