"""A network of others from its file to boxes, with the steps timed as those of ours are."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from edge_centernet.detections import Detections
from edge_centernet.errors import MissingDependency
from edge_centernet.imageio import Image
from edge_centernet.peers.common import suppress
from edge_centernet.peers.engines import EXTRAS, OF_SUFFIX, installed, open_net
from edge_centernet.peers.families import FAMILIES


class PeerDetector:
    """A file of one of FAMILIES in one engine.

    family: a key of FAMILIES. file: .onnx, .xml, .tflite or .param. engine: one of OF_SUFFIX's for that
      suffix, None
    for the first that is installed. threads: CPU threads, None leaves it to the engine.

    Raises:
        ArtifactError: a file that the engine cannot read.
        MissingDependency: no engine for such files is installed; the message has the pip command.
    """

    def __init__(
        self, family: str, file: Path, engine: str | None = None, threads: int | None = None
    ) -> None:
        """Open the network."""
        self._family = FAMILIES[family]
        self.engine = engine or _engine(file)
        self._net = open_net(file, self.engine, threads)
        self._dtype = (self._net.dtype,) if file.suffix == ".tflite" else ()
        self.classes = self._family.classes
        self.height, self.width = self._net.height, self._net.width

    def detect_timed(self, image_bgr: Image, threshold: float) -> tuple[Detections, dict[str, float]]:
        """(H, W, 3) uint8 BGR -> detections above `threshold` (0..1) in its pixels, best first, and milliseconds.

        The steps are "preprocess", "inference" and "decode", as `Detector.detect_timed` has them.
        """
        start = perf_counter()
        x, frame = self._family.prepare(image_bgr, self.height, self.width, *self._dtype)
        prepared = perf_counter()
        outputs = self._net.run(x)
        inferred = perf_counter()
        candidates = self._family.decode(outputs, self.height, self.width, threshold)
        found = suppress(candidates, frame, self._family.iou)
        done = perf_counter()
        seconds = {
            "preprocess": prepared - start,
            "inference": inferred - prepared,
            "decode": done - inferred,
        }
        return found, {step: 1000.0 * value for step, value in seconds.items()}


def _engine(file: Path) -> str:
    engines = OF_SUFFIX[file.suffix]
    found = next((engine for engine in engines if installed(engine)), None)
    if found is None:
        raise MissingDependency.for_extra(f"{file}: running {file.suffix} files", EXTRAS[engines[0]])
    return found
