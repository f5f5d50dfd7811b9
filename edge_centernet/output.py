"""What `detect` leaves behind: records (JSON Lines, COCO, CSV) and annotated pictures or videos."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.sources import Frame, Source, Stills, quiet_libraries

SUFFIX = {"jsonl": ".jsonl", "coco": ".json", "csv": ".csv"}
_WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # others are written as PNG
Milliseconds = dict[str, float]


class Records(Protocol):
    """Turns detections into text; `add` and `end` return what is to be written now."""

    def add(self, frame: Frame, found: Detections, ms: Milliseconds) -> str:
        """Text for one frame."""

    def end(self) -> str:
        """Text after the last frame."""


def make_records(format_name: str, classes: Sequence[str]) -> Records:
    """The writer for "jsonl", "coco" or "csv"."""
    makers: dict[str, type[JSONLines | Coco | Csv]] = {"jsonl": JSONLines, "coco": Coco, "csv": Csv}
    return makers[format_name](classes)


class JSONLines:
    """One JSON object a frame; boxes x1, y1, x2, y2 in pixels of the frame."""

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes

    def add(self, frame: Frame, found: Detections, ms: Milliseconds) -> str:
        """One line."""
        height, width = frame.image.shape[:2]
        detections = [
            {"class": self._classes[class_id], "class_id": class_id, "score": score, "box": box}
            for box, score, class_id in _rows(found)
        ]
        return _json(
            {
                "source": frame.source,
                "frame": frame.number,
                "width": width,
                "height": height,
                "detections": detections,
                "ms": {step: round(value, 3) for step, value in ms.items()},
            }
        )

    def end(self) -> str:
        """Nothing: every line stands alone."""
        return ""


class Csv:
    """One row a detection; a frame without any has no row."""

    _HEADER = ("source", "frame", "width", "height", "class", "class_id", "score", "x1", "y1", "x2", "y2")

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes
        self._started = False

    def add(self, frame: Frame, found: Detections, ms: Milliseconds) -> str:
        """The rows of one frame, after the header the first time."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._started:
            writer.writerow(self._HEADER)
            self._started = True
        height, width = frame.image.shape[:2]
        for box, score, class_id in _rows(found):
            writer.writerow([frame.source, frame.number, width, height, self._classes[class_id], class_id, score, *box])
        return text.getvalue()

    def end(self) -> str:
        """Nothing."""
        return ""


class Coco:
    """One COCO document at the end: images, categories, annotations with a score; boxes x, y, width, height.

    It can be read by pycocotools and by labelling tools. Ids count from 1, category_id is class_id + 1.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, frame: Frame, found: Detections, ms: Milliseconds) -> str:
        """Remember; a COCO document is written whole."""
        height, width = frame.image.shape[:2]
        image_id = len(self._images) + 1
        self._images.append(
            {"id": image_id, "file_name": frame.source, "frame": frame.number, "width": width, "height": height}
        )
        for (x1, y1, x2, y2), score, class_id in _rows(found):
            wide, high = round(x2 - x1, 2), round(y2 - y1, 2)
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "bbox": [x1, y1, wide, high],
                    "area": round(wide * high, 2),
                    "iscrowd": 0,
                    "score": score,
                }
            )
        return ""

    def end(self) -> str:
        """The document."""
        return _json({"images": self._images, "categories": self._categories, "annotations": self._annotations})


class Annotated:
    """Annotated copies in a folder: pictures under their own names, a video as NAME.mp4.

    A file appears under its final name when it is complete.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        """Raises ConfigError when a copy would replace its original."""
        self._folder = folder
        self._source = source
        self._targets = _targets(folder, source)
        self._writer: _VideoFile | None = None
        self.written: list[Path] = []
        for name, target in self._targets.items():
            if target.exists() and Path(name).exists() and target.samefile(name):
                raise ConfigError(f"{target}: the annotated copy would replace the original; choose another --out")

    def add(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Write one annotated frame: (H, W, 3) uint8 BGR."""
        target = self._targets[frame.source]
        if isinstance(self._source, Stills):
            _write_picture(target, picture)
            self.written.append(target)
            return
        if self._writer is None:
            self._writer = _VideoFile(target, self._source.fps, picture.shape[1], picture.shape[0])
            self.written.append(target)
        self._writer.add(picture)

    def close(self) -> None:
        """Finish the video, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _VideoFile:
    """An MPEG-4 file that carries its final name only once it is complete."""

    def __init__(self, target: Path, fps: float, width: int, height: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target, self._size = target, (width, height)
        self._part = target.with_name(f".{target.stem}.part{target.suffix}")
        with quiet_libraries():
            code = cv2.VideoWriter.fourcc(*"mp4v")  # the one MP4 codec that every OpenCV build can write
            self._writer = cv2.VideoWriter(str(self._part), code, fps, self._size)
        if not self._writer.isOpened():
            raise ConfigError(f"{target}: this OpenCV cannot write an MP4 video here; use --no-save")

    def add(self, picture: NDArray[np.uint8]) -> None:
        if (picture.shape[1], picture.shape[0]) != self._size:  # the writer would drop it without a word
            picture = cv2.resize(picture, self._size).astype(np.uint8, copy=False)
        self._writer.write(picture)

    def close(self) -> None:
        self._writer.release()
        os.replace(self._part, self._target)


def prepare_folder(folder: Path) -> None:
    """Make the folder and prove that files can be written there; ConfigError otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"output folder {folder}: cannot write there: {error.strerror}") from None


def open_part(target: Path) -> tuple[TextIO, Path]:
    """A text file under a temporary name beside `target`, and that name; rename it when it is complete."""
    part = target.with_name(f".{target.name}.part")
    return part.open("w", encoding="utf-8"), part


def _rows(found: Detections) -> list[tuple[list[float], float, int]]:
    """(box, score, class_id) as JSON can hold them: a hundredth of a pixel, four digits of the score."""
    return [
        ([round(float(v), 2) for v in xyxy], round(float(score), 4), int(class_id))
        for xyxy, score, class_id in zip(found.xyxy, found.score, found.class_id, strict=True)
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _targets(folder: Path, source: Source) -> dict[str, Path]:
    """Name of each source -> file for its annotated copy; subfolders are kept where a pattern spans several."""
    if not isinstance(source, Stills):
        stem = Path(urllib.parse.urlsplit(source.name).path).stem or "video"
        return {source.name: folder / f"{re.sub(r'[^0-9A-Za-z._-]+', '_', stem)}.mp4"}
    names = source.public_names
    if len(names) == 1:
        return {
            names[0]: folder / _picture_name(urllib.parse.urlsplit(names[0]).path if "://" in names[0] else names[0])
        }
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
    return {
        name: folder / os.path.relpath(os.path.dirname(os.path.abspath(name)), root) / _picture_name(name)
        for name in names
    }


def _picture_name(name: str) -> str:
    base = os.path.basename(name)
    return base if base.lower().endswith(_WRITABLE) else f"{base}.png"


def _write_picture(target: Path, picture: NDArray[np.uint8]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(target.suffix.lower(), picture)
    if not ok:
        raise ConfigError(f"{target}: this OpenCV cannot write {target.suffix} files; use --no-save")
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(data.tobytes())
    os.replace(part, target)
