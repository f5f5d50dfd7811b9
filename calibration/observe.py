"""Running the float network on calibration images, with ONNX Runtime, and recording what its tensors hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.calibration.ranges import Seen
from edge_centernet.errors import MissingDependency
from edge_centernet.manifest import ModelSpec
from edge_centernet.preprocess import letterbox, normalize
from edge_centernet.progress import Progress
from edge_centernet.qdq.onnx_graph import copy_of

Picture = NDArray[np.uint8]  # (H, W, 3) BGR
# Functions that read an image: memory holds one at a time, and a second pass reads all of them again.
Pictures = Sequence[Callable[[], Picture]]


class Probe:
    """A float network with every tensor of interest as an output."""

    def __init__(self, float_model: Any, names: Sequence[str], spec: ModelSpec, threads: int = 0) -> None:
        """float_model: reads (pixel - 128) / 128. names: of its tensors. threads: 0 leaves it to the engine.

        Raises MissingDependency without the extra `convert`.
        """
        try:
            import onnxruntime as ort
        except ImportError:
            raise MissingDependency.for_extra("calibrating", "convert") from None
        import onnx

        model = copy_of(float_model)
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # fatal only: it warns about every output that is added here
        options.intra_op_num_threads = threads
        self.names, self.spec = list(names), spec
        self._input = model.graph.input[0].name
        self._session: Any = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, picture: Picture) -> dict[str, NDArray[np.float32]]:
        """Tensor name -> (C, H, W) for one image."""
        rgb, _ = letterbox(picture, self.spec)  # (H, W, 3) uint8
        x = normalize(rgb.transpose(2, 0, 1)[None].astype(np.float32))
        outputs = self._session.run(self.names, {self._input: x})
        return {name: value[0] for name, value in zip(self.names, outputs, strict=True)}


def observe(probe: Probe, pictures: Pictures, counts: bool, progress: Progress) -> dict[str, Seen]:
    """What every tensor of the probe held; counts: with histograms, in a second pass over the images."""
    seen = {name: Seen() for name in probe.names}
    for values in _passes(probe, pictures, "Measuring value ranges", progress):
        for name, value in values.items():
            seen[name].extremes(value)
    if counts:  # a second pass, since the bins of a histogram lie between the extremes of all images
        for values in _passes(probe, pictures, "Counting values", progress):
            for name, value in values.items():
                seen[name].count(value)
    return seen


def _passes(probe: Probe, pictures: Pictures, title: str, progress: Progress) -> Iterator[dict[str, Any]]:
    for i, read in enumerate(pictures):
        yield probe(read())
        progress(title, i + 1, len(pictures))


def channel_means(probe: Probe, pictures: Pictures, progress: Progress) -> dict[str, NDArray[np.float64]]:
    """Name -> (C,) mean over all cells and images."""
    sums: dict[str, Any] = dict.fromkeys(probe.names, 0.0)
    for values in _passes(probe, pictures, "Measuring channel means", progress):
        for name, value in values.items():
            # float64: a float32 sum of thousands of cells loses what bias correction is about.
            sums[name] = sums[name] + value.mean(axis=(1, 2), dtype=np.float64)
    return {name: total / len(pictures) for name, total in sums.items()}
