#!/usr/bin/env python3
"""Rebuild the sample photos in edge_centernet/assets from the scikit-image wheel.

    pip download scikit-image==0.26.0 --no-deps --only-binary=:all: -d /tmp/wheels
    python scripts/make_sample.py /tmp/wheels/scikit_image-0.26.0-*.whl

Both photographs are free of copyright restrictions; edge_centernet/assets/SOURCES.md quotes the proof.
Needs numpy and opencv-python-headless.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

ASSETS = Path(__file__).resolve().parent.parent / "edge_centernet" / "assets"
GOLDEN = ASSETS.parents[1] / "converters" / "golden.png"
SHA256 = {
    "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
}
CAT_COLUMNS = slice(20, 380)  # the head with both ears and the whiskers; the rest is a blurred blanket
HEIGHT = 512


def read(wheel: Path, member: str) -> NDArray[np.uint8]:
    """One picture out of the wheel, (H, W, 3) uint8 BGR, its bytes checked against SHA256."""
    data = zipfile.ZipFile(wheel).read(member)
    if hashlib.sha256(data).hexdigest() != SHA256[member]:
        raise SystemExit(
            f"{wheel}: {member}: expected sha256 {SHA256[member]}, got another file; use scikit-image 0.26.0"
        )
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def side_by_side(person: NDArray[np.uint8], cat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both photographs at the same height, the cat's sides cropped: (HEIGHT, W, 3)."""
    head = cat[:, CAT_COLUMNS]
    width = round(head.shape[1] * HEIGHT / head.shape[0])
    return np.hstack([person, np.asarray(cv2.resize(head, (width, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)])


def thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle square of a picture, (32, 32, 3): the question of every artifact's self-check."""
    height, width = picture.shape[:2]
    left = (width - height) // 2
    return np.asarray(cv2.resize(picture[:, left : left + height], (32, 32), interpolation=cv2.INTER_AREA), np.uint8)


def main() -> None:
    """Write sample.jpg, astronaut.jpg and cat.jpg, and converters/golden.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    person, cat = (read(parser.parse_args().wheel, member) for member in SHA256)
    for name, image in (("sample", side_by_side(person, cat)), ("astronaut", person), ("cat", cat)):
        path = ASSETS / f"{name}.jpg"
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90]):
            raise SystemExit(f"{path}: expected a writable folder, got an error while writing; check its permissions")
        print(f"{path}: {image.shape[1]}x{image.shape[0]} pixels, {path.stat().st_size} bytes")
    if not cv2.imwrite(str(GOLDEN), thumbnail(side_by_side(person, cat)), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"{GOLDEN}: expected a writable folder, got an error while writing; check its permissions")


if __name__ == "__main__":
    main()
