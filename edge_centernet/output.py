"""What `detect` leaves behind: records (JSON Lines, COCO, CSV) and annotated pictures or videos."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError
from edge_centernet.live.capture import LiveCapture
from edge_centernet.live.state import Snapshot, Tracks
from edge_centernet.sources import Frame, Source, Stills, quiet_libraries

SUFFIX = {"jsonl": ".jsonl", "coco": ".json", "csv": ".csv"}
_WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # others are written as PNG


class Records(Protocol):
    """Turns detections into text; `add` and `end` return what is to be written now."""

    def add(self, shot: Snapshot) -> str:
        """Text for one frame."""

    def end(self) -> Iterable[str]:
        """Text after the last frame, in pieces."""


def make_records(format_name: str, classes: Sequence[str]) -> Records:
    """The writer for "jsonl", "coco" or "csv"."""
    makers: dict[str, type[JSONLines | Coco | Csv]] = {"jsonl": JSONLines, "coco": Coco, "csv": Csv}
    return makers[format_name](classes)


class JSONLines:
    """One JSON object a frame; boxes x1, y1, x2, y2 in pixels of the frame."""

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes

    def add(self, shot: Snapshot) -> str:
        """One line."""
        height, width = shot.frame.image.shape[:2]
        detections = [
            {"class": self._classes[class_id], "class_id": class_id, "score": score, "box": box}
            for box, score, class_id in _rows(shot.found)
        ]
        record: dict[str, Any] = {
            "source": shot.frame.source,
            "frame": shot.frame.number,
            "width": width,
            "height": height,
            "detections": detections,
            "ms": {step: round(value, 3) for step, value in shot.ms.items()},
        }
        if shot.timed:
            record["seconds"], record["age_ms"] = round(shot.frame.seconds, 3), round(shot.age_ms, 1)
        if shot.tracks is not None:
            for detection, motion in zip(detections, _motions(shot.tracks), strict=True):
                detection.update(motion)
        if shot.tally is not None:
            record.update(shot.tally.as_dict(), events=[event.as_dict() for event in shot.tally.events])
        return _json(record)

    def end(self) -> Iterable[str]:
        """Nothing: every line stands alone."""
        return ()


class Csv:
    """One row a detection; a frame without any has no row."""

    _HEADER = ("source", "frame", "width", "height", "class", "class_id", "score", "x1", "y1", "x2", "y2")
    _TRACKED = ("seconds", "id")

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes
        self._started = False

    def add(self, shot: Snapshot) -> str:
        """The rows of one frame, after the header the first time."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        tracked = shot.tracks is not None
        if not self._started:
            writer.writerow([*self._HEADER, *(self._TRACKED if tracked else ())])
            self._started = True
        frame = shot.frame
        height, width = frame.image.shape[:2]
        ids = shot.tracks.id.tolist() if shot.tracks is not None else []
        for i, (box, score, class_id) in enumerate(_rows(shot.found)):
            motion = [round(frame.seconds, 3), ids[i]] if tracked else []
            name = self._classes[class_id]
            writer.writerow([frame.source, frame.number, width, height, name, class_id, score, *box, *motion])
        return text.getvalue()

    def end(self) -> Iterable[str]:
        """Nothing."""
        return ()


class Coco:
    """One COCO document at the end: images, categories, annotations with a score; boxes x, y, width, height.

    It can be read by pycocotools and by labelling tools. Ids count from 1, category_id is class_id + 1. Until the end
    it waits in temporary files, so that a week of video does not wait in memory.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        self._images, self._annotations = _Pieces(), _Pieces()

    def add(self, shot: Snapshot) -> str:
        """Remember; a COCO document is written whole."""
        frame = shot.frame
        height, width = frame.image.shape[:2]
        image_id = len(self._images) + 1
        self._images.add(
            {"id": image_id, "file_name": frame.source, "frame": frame.number, "width": width, "height": height}
        )
        ids = None if shot.tracks is None else shot.tracks.id.tolist()
        for i, ((x1, y1, x2, y2), score, class_id) in enumerate(_rows(shot.found)):
            wide, high = round(x2 - x1, 2), round(y2 - y1, 2)
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": image_id,
                "category_id": class_id + 1,
                "bbox": [x1, y1, wide, high],
                "area": round(wide * high, 2),
                "iscrowd": 0,
                "score": score,
            }
            self._annotations.add(annotation if ids is None else {**annotation, "track_id": ids[i]})
        return ""

    def end(self) -> Iterator[str]:
        """The document, on one line."""
        yield '{"images": ['
        yield from self._images.all()
        yield f'], "categories": {_json(self._categories).strip()}, "annotations": ['
        yield from self._annotations.all()
        yield "]}\n"


class _Pieces:
    """JSON values with commas between them, in a file without a name once they take more than a megabyte."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=1 << 20, mode="w+", encoding="utf-8")  # noqa: SIM115
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: Any) -> None:
        self._file.write((", " if self._count else "") + _json(value).strip())
        self._count += 1

    def all(self) -> Iterator[str]:
        self._file.seek(0)
        while text := self._file.read(1 << 20):
            yield text
        self._file.close()


class Annotated:
    """Annotated copies in a folder: pictures under their own names, a video as NAME.mp4.

    A video of a live source plays as fast as it happened: a picture stays until the next one came, but no longer than a
    second, which is all that remains of an interruption. A file appears under its final name when it is complete.
    """

    def __init__(self, folder: Path, source: Source | LiveCapture) -> None:
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
        self._writer.add(picture, frame.seconds if self._source.live else None)

    def close(self) -> None:
        """Finish the video, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _VideoFile:
    """An MPEG-4 file that carries its final name only once it is complete."""

    def __init__(self, target: Path, fps: float, width: int, height: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target, self._size, self._fps = target, (width, height), fps
        self._begin, self._written = 0.0, 0
        self._last: NDArray[np.uint8] | None = None
        self._part = target.with_name(f".{target.stem}.part{target.suffix}")
        with quiet_libraries():
            code = cv2.VideoWriter.fourcc(*"mp4v")  # the one MP4 codec that every OpenCV build can write
            self._writer = cv2.VideoWriter(str(self._part), code, fps, self._size)
        if not self._writer.isOpened():
            raise ConfigError(f"{target}: this OpenCV cannot write an MP4 video here; use --no-save")

    def add(self, picture: NDArray[np.uint8], seconds: float | None) -> None:
        """seconds: when it was taken, for pictures that come irregularly; None: one after the other."""
        if (picture.shape[1], picture.shape[0]) != self._size:  # the writer would drop it without a word
            picture = cv2.resize(picture, self._size).astype(np.uint8, copy=False)
        if seconds is None:
            self._writer.write(picture)
            return
        if self._last is None:
            self._begin = seconds
        else:
            missing = round((seconds - self._begin) * self._fps) - self._written
            most = max(1, round(self._fps))
            if missing > most:  # an interruption: go on from here
                self._begin += (missing - most) / self._fps
            for _ in range(min(missing, most)):
                self._writer.write(self._last)
                self._written += 1
        self._last = picture

    def close(self) -> None:
        if self._last is not None:
            self._writer.write(self._last)
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


def _motions(tracks: Tracks) -> list[dict[str, Any]]:
    """What a track adds to its detection: id, pixels a second, seconds since it was first seen."""
    return [
        {"id": int(number), "velocity": [round(float(v), 1) for v in velocity], "age_s": round(float(age), 2)}
        for number, velocity, age in zip(tracks.id, tracks.velocity, tracks.age, strict=True)
    ]


def _rows(found: Detections) -> list[tuple[list[float], float, int]]:
    """(box, score, class_id) as JSON can hold them: a hundredth of a pixel, four digits of the score."""
    return [
        ([round(float(v), 2) for v in xyxy], round(float(score), 4), int(class_id))
        for xyxy, score, class_id in zip(found.xyxy, found.score, found.class_id, strict=True)
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _targets(folder: Path, source: Source | LiveCapture) -> dict[str, Path]:
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
