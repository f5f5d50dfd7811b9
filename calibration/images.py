"""Choosing and reading the images that a network is calibrated with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edge_centernet.errors import SourceError
from edge_centernet.imageio import IMAGE_SUFFIXES, read_image

# Ranges of activations hardly move after this many images; four, a common default elsewhere, are far too few.
CALIBRATION_IMAGES = 200
Item = TypeVar("Item")


def pick_images(source: Path, count: int = CALIBRATION_IMAGES) -> list[Path]:
    """At most `count` images, evenly spread.

    source: a folder, of which every image below it counts, subfolders included, by sorted path; or a labelled
    data set as `edge_centernet.data.read_dataset` takes it. Raises SourceError when there is no image.
    """
    if source.suffix.lower() in (".json", ".txt", ".yaml", ".yml"):
        from edge_centernet.data import read_dataset

        found = [sample.path for sample in read_dataset(source).samples]
    else:
        found = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        what = "none in it" if source.exists() else "no such folder"
        raise SourceError(
            f"{source}: expected a folder of images ({', '.join(IMAGE_SUFFIXES)}), found {what}"
        )
    return spread(found, count)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly spread, in their order."""
    # Spread and not the first ones: files that follow each other often come from one scene.
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def readers(files: Sequence[Path]) -> list[Callable[[], Any]]:
    """Functions that read one image each, (H, W, 3) uint8 BGR, so that memory holds one at a time."""
    return [partial(read_image, file) for file in files]


def digest(files: Sequence[Path]) -> str:
    """Hexadecimal SHA-256 of the images' contents in their order, for the manifest of what they calibrate."""
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
