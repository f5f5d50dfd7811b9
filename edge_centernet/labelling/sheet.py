"""A contact sheet of labels, to look them over before anything learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edge_centernet.calibration.images import spread
from edge_centernet.detections import Detections
from edge_centernet.draw import banner, class_color, dashed_box, draw_boxes, draw_label, fit, grid, tile
from edge_centernet.files import write_atomic
from edge_centernet.imageio import Image, read_image
from edge_centernet.labelling.labels import Photo

TILES, COLUMNS = 30, 6
_SIDE, _GAP, _LINE = 320, 4, 2  # pixels: of a picture, around it, of a box
_GREY = (170, 170, 170)  # BGR


def write_sheet(
    photos: Sequence[Photo], classes: Sequence[str], out: Path, threshold: float, ignore_below: float
) -> None:
    """TILES of the photos, spread over all of them, as one JPEG.

    Args:
        photos: as they go into the labels.
        classes: what class_id indexes.
        out: the file to write.
        threshold: boxes below it are not drawn.
        ignore_below: from here on boxes are drawn in the colour of their class, below it grey and broken.
    """
    tiles = [_tile(photo, classes, threshold, ignore_below) for photo in spread(photos, TILES)]
    title = (
        f"{len(tiles)} of {len(photos)} photos; solid: object, score from {ignore_below:.2f}; "
        f"broken: ignored, from {threshold:.2f}"
    )
    ok, jpeg = cv2.imencode(
        ".jpg",
        np.vstack([banner(title, COLUMNS * _SIDE), grid(tiles, COLUMNS)]),
        [cv2.IMWRITE_JPEG_QUALITY, 88],
    )
    assert ok, "OpenCV always writes JPEG"
    write_atomic(out, jpeg.tobytes())


def _tile(photo: Photo, classes: Sequence[str], threshold: float, ignore_below: float) -> Image:
    """One photo with its boxes, and how many there are: (_SIDE + 40, _SIDE, 3)."""
    picture, scale = fit(read_image(photo.path), _SIDE - 2 * _GAP)
    found = photo.found[photo.found.score >= threshold]
    found = Detections(found.xyxy * np.float32(scale), found.score, found.class_id)
    ignored, objects = found[found.score < ignore_below], found[found.score >= ignore_below]
    names = [[f"{classes[c]} {s:.2f}" for c, s in zip(part.class_id, part.score, strict=True)] for part in
             (ignored, objects)]  # fmt: skip
    for box, name in zip(ignored.xyxy, names[0], strict=True):
        dashed_box(picture, box.tolist(), _GREY, _LINE)
        draw_label(picture, name, (round(float(box[0])), round(float(box[1]))), _GREY)
    for box, class_id in zip(
        objects.xyxy, objects.class_id, strict=True
    ):  # thicker than `draw` has it at this size
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), class_color(int(class_id)), _LINE)
    draw_boxes(picture, objects, names[1])
    return tile(picture, _SIDE, (f"{len(objects)} objects, {len(ignored)} ignored", photo.path.name))
