"""Which images to calibrate with."""

from __future__ import annotations

from pathlib import Path

from edge_centernet.errors import SourceError
from edge_centernet.image import IMAGE_SUFFIXES

# Ranges of activations hardly move after this many; four, a common default elsewhere, are far too few.
CALIBRATION_IMAGES = 128


def pick_images(folder: Path, count: int = CALIBRATION_IMAGES) -> list[Path]:
    """At most `count` image files below `folder`, evenly spread over their sorted paths: every subfolder counts.

    Raises SourceError when there is none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        what = "none in it" if folder.is_dir() else "no such folder"
        raise SourceError(f"{folder}: expected a folder of images ({', '.join(IMAGE_SUFFIXES)}), found {what}")
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]
