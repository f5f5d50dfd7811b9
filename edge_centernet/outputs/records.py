"""Records of what was detected: JSON Lines, COCO, CSV.

Boxes are rounded to a hundredth of a pixel and scores to four digits: more digits would be noise of the
network, and make a day of records a third larger.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from edge_centernet.detections import Detections
from edge_centernet.files import open_part
from edge_centernet.outputs import Silent
from edge_centernet.tracking.state import Snapshot

SUFFIX = {"jsonl": ".jsonl", "coco": ".json", "csv": ".csv"}


class Records(Protocol):
    """Turns detections into text; `add` and `end` return what is to be written now."""

    def add(self, snapshot: Snapshot) -> str:
        """Text for one frame."""

    def end(self) -> Iterable[str]:
        """Text after the last frame, in pieces."""


def make_records(format_name: str, classes: Sequence[str]) -> Records:
    """The writer for "jsonl", "coco" or "csv"."""
    makers: dict[str, type[JSONLines | Coco | Csv]] = {"jsonl": JSONLines, "coco": Coco, "csv": Csv}
    return makers[format_name](classes)


class JSONLines:
    """One JSON object per frame; boxes x1, y1, x2, y2 in pixels of the frame."""

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes

    def add(self, snapshot: Snapshot) -> str:
        """One line."""
        height, width = snapshot.frame.image.shape[:2]
        detections = [
            {"class": self._classes[class_id], "class_id": class_id, "score": score, "box": box}
            for box, score, class_id in _rows(snapshot.found)
        ]
        record: dict[str, Any] = {
            "source": snapshot.frame.source,
            "frame": snapshot.frame.number,
            "width": width,
            "height": height,
            "detections": detections,
            "ms": {step: round(value, 3) for step, value in snapshot.ms.items()},
        }
        if snapshot.timed:
            record["seconds"], record["age_ms"] = round(snapshot.frame.seconds, 3), round(snapshot.age_ms, 1)
        if (
            tracks := snapshot.tracks
        ) is not None:  # its detections are those of the snapshot, in their order
            motions = zip(tracks.id, tracks.velocity, tracks.age, strict=True)
            for detection, (id_, velocity, age) in zip(detections, motions, strict=True):
                detection["id"] = int(id_)
                detection["velocity"] = [round(float(v), 1) for v in velocity]  # pixels per second
                detection["age_s"] = round(float(age), 2)
        if snapshot.tally is not None:
            record.update(
                snapshot.tally.as_dict(), events=[event.as_dict() for event in snapshot.tally.events]
            )
        return _json(record)

    def end(self) -> Iterable[str]:
        """Nothing: every line stands alone."""
        return ()


class Csv:
    """One row per detection; a frame without any has no row."""

    _HEADER = ("source", "frame", "width", "height", "class", "class_id", "score", "x1", "y1", "x2", "y2")
    _TRACKED = ("seconds", "id")

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._classes = classes
        self._started = False

    def add(self, snapshot: Snapshot) -> str:
        """The rows of one frame, the first time after the header, which has more columns with tracks."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        tracked = snapshot.tracks is not None
        if not self._started:
            writer.writerow([*self._HEADER, *(self._TRACKED if tracked else ())])
            self._started = True
        frame = snapshot.frame
        height, width = frame.image.shape[:2]
        ids = snapshot.tracks.id.tolist() if snapshot.tracks is not None else []
        for i, (box, score, class_id) in enumerate(_rows(snapshot.found)):
            motion = [round(frame.seconds, 3), ids[i]] if tracked else []
            name = self._classes[class_id]
            writer.writerow([frame.source, frame.number, width, height, name, class_id, score, *box, *motion])
        return text.getvalue()

    def end(self) -> Iterable[str]:
        """Nothing."""
        return ()


class Coco:
    """One COCO document at the end: images, categories, annotations with a score; boxes x, y, width, height.

    It can be read by pycocotools and by labelling tools. Ids count from 1, as in COCO's own files, so
    category_id is class_id + 1. Until the end it waits in temporary files, so that a week of video does not
    wait in memory.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """classes: names by class_id."""
        self._categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        self._images, self._annotations = _Pieces(), _Pieces()

    def add(self, snapshot: Snapshot) -> str:
        """Nothing yet: images and annotations are two lists of one document."""
        frame = snapshot.frame
        height, width = frame.image.shape[:2]
        image_id = len(self._images) + 1
        self._images.add(
            {
                "id": image_id,
                "file_name": frame.source,
                "frame": frame.number,
                "width": width,
                "height": height,
            }
        )
        ids = None if snapshot.tracks is None else snapshot.tracks.id.tolist()
        for i, ((x1, y1, x2, y2), score, class_id) in enumerate(_rows(snapshot.found)):
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
    """JSON values with commas between them, in a nameless file once they take more than a megabyte."""

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


def _rows(found: Detections) -> list[tuple[list[float], float, int]]:
    """(box, score, class_id) as JSON can hold them: a hundredth of a pixel, four digits of the score."""
    return [
        ([round(float(v), 2) for v in xyxy], round(float(score), 4), int(class_id))
        for xyxy, score, class_id in zip(found.xyxy, found.score, found.class_id, strict=True)
    ]


def _json(value: Any) -> str:
    # Without NaN and Infinity, which Python would write although JSON has no such words.
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


class RecordsOutput(Silent):
    """Records to `write` and, if a file is given, there too.

    The file gets its name when the run ends, however it ends.
    """

    def __init__(self, records: Records, write: Callable[[str], None], target: Path | None) -> None:
        """records: turns results into text. write: gets each piece. target: file that gets it too."""
        self._records, self._write, self._target = records, write, target
        self._file: TextIO | None = None
        self._part = Path()
        if target is not None:
            self._file, self._part = open_part(target)

    def update(self, snapshot: Snapshot) -> None:
        """Write one frame's records."""
        self._put(self._records.add(snapshot))

    def finish(self) -> None:
        """Write what stands at the end."""
        for text in self._records.end():
            self._put(text)

    def close(self) -> None:
        """Give the file its name."""
        if self._file is not None and self._target is not None:
            self._file.close()
            os.replace(self._part, self._target)
            self._file = None

    def _put(self, text: str) -> None:
        if not text:
            return
        if self._file is not None:  # first, so that an interruption leaves the file with all that was shown
            self._file.write(text)
        self._write(text)
