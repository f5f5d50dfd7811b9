"""A small data set to try training with: road signs, drawn on photos that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.data.base import Dataset, Sample
from edge_centernet.data.coco import write_labels
from edge_centernet.data.split import to_coco
from edge_centernet.errors import ConfigError
from edge_centernet.files import prepare_folder
from edge_centernet.imageio import Image, read_image
from edge_centernet.progress import Progress, unseen, with_progress

CLASSES = ("stop", "give way", "no entry")
PARTS = {"train": 120, "val": 30, "test": 30}  # images of each
WIDTH, HEIGHT = 320, 240
_SIDES = (28, 96)  # pixels; range of a sign's height
_MOST = 3  # signs in an image
_BELOW_FACE = 240  # row of the portrait: nobody's face becomes a wall for signs
_SIDE = 256  # pixels, of a sign as it is drawn
_ASSETS = Path(__file__).resolve().parents[1] / "assets"
_RED, _WHITE, _GREY = (40, 30, 190), (245, 245, 245), (120, 120, 120)  # BGR


class _Sign(NamedTuple):
    """A drawn sign: (S, S, 3) uint8 BGR, and (S, S) float32, 0..1, where it covers what is behind."""

    image: Image
    cover: NDArray[np.float32]


def write_sample(folder: Path, seed: int = 0, progress: Progress = unseen) -> dict[str, int]:
    """Draw the data set into a folder: images/, instances_train.json, _val and _test; returns images by part.

    The same seed draws the same images. Raises ConfigError for a folder that has such a set already, or where
    nothing can be written.
    """
    if (folder / "instances_train.json").exists():
        raise ConfigError(f"{folder} already has an instances_train.json: choose another folder")
    prepare_folder(folder / "images")
    rng = np.random.default_rng(seed)
    signs = [_stop(), _give_way(), _no_entry()]
    astronaut, cat = (read_image(_ASSETS / name) for name in ("astronaut.jpg", "cat.jpg"))
    photos = [astronaut[_BELOW_FACE:], cat]
    total = sum(PARTS.values())
    samples = [
        _draw(folder / "images" / f"sign{i:03d}.jpg", rng, signs, photos)
        for i in with_progress(range(total), "draw", progress)
    ]
    data = Dataset(CLASSES, tuple(samples))
    first = 0
    for part, count in PARTS.items():
        out = folder / f"instances_{part}.json"
        write_labels(out, to_coco(data, range(first, first + count), out))
        first += count
    return dict(PARTS)


def _draw(path: Path, rng: np.random.Generator, signs: list[_Sign], photos: list[Image]) -> Sample:
    """Draw one image with one to `_MOST` signs that hardly overlap, and write it."""
    image: NDArray[Any] = _background(rng, photos)
    boxes = np.zeros((0, 4), np.float32)
    labels: list[int] = []
    for _ in range(int(rng.integers(1, _MOST + 1))):
        label = int(rng.integers(len(signs)))
        warped, cover = _turned(signs[label], rng)
        rows, columns = np.where(cover > 0.5)
        box = np.asarray([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        if len(boxes) and float(iou(box, boxes).max()) > 0.05:
            continue
        light = rng.uniform(0.55, 1.1)
        image = image * (1 - cover[..., None]) + warped * light * cover[..., None]
        boxes, labels = np.concatenate([boxes, box]), [*labels, label]
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.0)))
    image = image + rng.normal(0, rng.uniform(1, 6), image.shape)
    ok, jpeg = cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok, "OpenCV always writes JPEG"
    path.write_bytes(jpeg.tobytes())  # whole or not does not matter before the JSON names it
    return Sample(path, WIDTH, HEIGHT, boxes, np.asarray(labels, np.int64), np.zeros(len(labels), np.bool_))


def _background(rng: np.random.Generator, photos: list[Image]) -> NDArray[Any]:
    """A part of a photo, (HEIGHT, WIDTH, 3): mirrored, turned in colour, lighter or darker."""
    photo = photos[int(rng.integers(len(photos)))]
    height = int(rng.integers(90, min(photo.shape[0], photo.shape[1] * HEIGHT // WIDTH) + 1))
    width = height * WIDTH // HEIGHT
    y, x = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
    part: NDArray[Any] = cv2.resize(
        photo[y : y + height, x : x + width], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA
    )
    part = part[:, ::-1] if rng.uniform() < 0.5 else part
    part = part[..., rng.permutation(3)]
    return part * rng.uniform(0.4, 1.0) + rng.uniform(0, 40)


def _turned(sign: _Sign, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A sign somewhere in the image, seen a little from the side: (HEIGHT, WIDTH, 3), and its cover."""
    side = rng.uniform(*_SIDES)
    width = side * rng.uniform(0.75, 1.0)
    x, y = rng.uniform(2, WIDTH - width - 2), rng.uniform(2, HEIGHT - side - 2)
    corners = np.asarray([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    lean = rng.uniform(-0.06, 0.06, (4, 2))
    goal = (corners + lean.astype(np.float32)) * np.asarray([width, side], np.float32)
    goal = np.clip(goal + np.asarray([x, y], np.float32), 1, [WIDTH - 1, HEIGHT - 1]).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners * np.float32(_SIDE), goal)
    # Made small before it is turned: a warp alone would leave out pixels, and edges would flicker.
    image, cover = (cv2.GaussianBlur(one, (0, 0), _SIDE / side / 2) for one in (sign.image, sign.cover))
    size = (WIDTH, HEIGHT)
    return (
        cv2.warpPerspective(image, matrix, size).astype(np.float32),
        cv2.warpPerspective(cover, matrix, size).astype(np.float32),
    )


def _polygon(points: list[tuple[float, float]]) -> NDArray[np.int32]:
    return np.asarray([[round(x * _SIDE), round(y * _SIDE)] for x, y in points], np.int32)


def _sign(
    outline: NDArray[np.int32], rim: tuple[int, int, int], inner: float, fill: tuple[int, int, int]
) -> _Sign:
    """A sign of this outline with a rim in one colour and, `inner` times as large, a face in another."""
    image, cover = np.full((_SIDE, _SIDE, 3), rim, np.uint8), np.zeros((_SIDE, _SIDE), np.float32)
    cv2.fillPoly(cover, [outline], 1.0, cv2.LINE_AA)
    centre = outline.mean(axis=0)
    face = np.round(centre + (outline - centre) * inner).astype(np.int32)
    cv2.fillPoly(image, [face], fill, cv2.LINE_AA)
    return _Sign(image, cover)


def _stop() -> _Sign:
    angles = np.radians(np.arange(8) * 45 + 22.5)
    outline = _polygon([(0.5 + 0.48 * np.cos(a), 0.5 + 0.48 * np.sin(a)) for a in angles])
    sign = _sign(outline, _WHITE, 0.92, _RED)
    (w, h), _ = cv2.getTextSize("STOP", cv2.FONT_HERSHEY_DUPLEX, 2.3, 8)
    at = ((_SIDE - w) // 2, (_SIDE + h) // 2)
    cv2.putText(sign.image, "STOP", at, cv2.FONT_HERSHEY_DUPLEX, 2.3, _WHITE, 8, cv2.LINE_AA)
    return sign


def _give_way() -> _Sign:
    return _sign(_polygon([(0.02, 0.08), (0.98, 0.08), (0.5, 0.94)]), _RED, 0.6, _WHITE)


def _no_entry() -> _Sign:
    angles = np.radians(np.arange(72) * 5)
    outline = _polygon([(0.5 + 0.48 * np.cos(a), 0.5 + 0.48 * np.sin(a)) for a in angles])
    sign = _sign(outline, _GREY, 0.96, _RED)
    x1, y1, x2, y2 = (round(v * _SIDE) for v in (0.18, 0.42, 0.82, 0.58))
    cv2.rectangle(sign.image, (x1, y1), (x2, y2), _WHITE, -1)
    return sign
