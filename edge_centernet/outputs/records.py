"""Records of what was detected: JSON Lines, COCO, CSV.

Boxes are rounded to a hundredth of a pixel and scores to four digits: more digits would be noise of the
network, and make a day of records a third larger.
"""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import math
import os
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, printable
from edge_centernet.files import Unwritten, append_whole, csv_text, may_pass, open_part, set_aside
from edge_centernet.outputs import Silent
from edge_centernet.tracking.state import Snapshot

SUFFIX = {"jsonl": ".jsonl", "coco": ".json", "csv": ".csv"}

_RETRY_S = 2.0  # between two attempts to write what could not be written
_MOST_WAITING = 4 << 20  # bytes of records that wait for a disk or a reader: some minutes of a camera
_DRAIN_S = 2.0  # at the end, for a reader of standard output to take what waits
_STDOUT = "standard output"


class Records(Protocol):
    """Turns detections into text; `add` and `end` return what is to be written now."""

    def add(self, snapshot: Snapshot) -> str:
        """Text for one frame."""

    def end(self) -> Iterable[str]:
        """Text after the last frame, in pieces."""


def make_records(format_name: str, classes: Sequence[str], camera: str = "") -> Records:
    """The writer for "jsonl", "coco" or "csv". camera: see `JSONLines`, the only ones of several cameras."""
    if format_name == "jsonl":
        return JSONLines(classes, camera)
    return Coco(classes) if format_name == "coco" else Csv(classes)


class JSONLines:
    """One JSON object per frame; boxes x1, y1, x2, y2 in pixels of the frame."""

    def __init__(self, classes: Sequence[str], camera: str = "") -> None:
        """classes: names by class_id. camera: name of one of several, which each of its lines begins with."""
        self._classes = classes
        self._head = {"camera": camera} if camera else {}

    def add(self, snapshot: Snapshot) -> str:
        """One line."""
        height, width = snapshot.frame.image.shape[:2]
        detections = [
            {"class": self._classes[class_id], "class_id": class_id, "score": score, "box": box}
            for box, score, class_id in _rows(snapshot.found)
        ]
        record: dict[str, Any] = {
            **self._head,
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
            if tracks.metres is not None and tracks.speed is not None:
                for detection, metres, speed in zip(detections, tracks.metres, tracks.speed, strict=True):
                    detection["metres"] = [None if math.isnan(m) else round(float(m), 2) for m in metres]
                    detection["speed"] = None if math.isnan(speed) else round(float(speed), 2)
        if snapshot.tally is not None:
            record.update(
                snapshot.tally.as_dict(), events=[event.as_dict() for event in snapshot.tally.events]
            )
        return _json(record)

    def end(self) -> Iterable[str]:
        """Nothing: every line stands alone."""
        return ()


class Csv:
    """One row per detection; a frame without any has no row.

    No cell is a formula to a spreadsheet, see `csv_text`.
    """

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
            source, name = csv_text(frame.source), csv_text(self._classes[class_id])
            writer.writerow([source, frame.number, width, height, name, class_id, score, *box, *motion])
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
    """JSON values with commas between them, in a nameless file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: Any) -> None:
        append_whole(self._file, ((", " if self._count else "") + _json(value).strip()).encode())
        self._count += 1

    def all(self) -> Iterator[str]:
        self._file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()  # a piece may end within a letter
        while data := self._file.read(1 << 20):
            yield decoder.decode(data)


def _rows(found: Detections) -> list[tuple[list[float], float, int]]:
    """(box, score, class_id) as JSON can hold them: a hundredth of a pixel, four digits of the score."""
    return [
        ([round(float(v), 2) for v in xyxy], round(float(score), 4), int(class_id))
        for xyxy, score, class_id in zip(found.xyxy, found.score, found.class_id, strict=True)
    ]


def _json(value: Any) -> str:
    # Without NaN and Infinity, which Python would write although JSON has no such words. With every control
    # character as an escape, of which Python leaves some: the value is the same, and terminals are safe.
    return printable(json.dumps(value, ensure_ascii=False, allow_nan=False)) + "\n"


class RecordsOutput(Silent):
    """Records to `write` and, if a file is given, there too.

    JSON Lines and CSV grow by whole records under their final name, so that neither a full disk nor a kill
    leaves half of one. A COCO document gets its name when it is complete. Records of an earlier run are kept:
    JSON Lines of a camera continue them, all else sets them aside under a number.
    """

    def __init__(
        self,
        records: Records,
        write: Callable[[str], None],
        target: Path | None,
        *,
        live: bool = False,
        unwritten: Unwritten | None = None,
    ) -> None:
        """Open the file.

        Args:
            records: turns results into text.
            write: gets each piece, on a thread of its own. What it raises ends the run, unless it is a full
                disk below the records of a live source.
            target: file that gets it too.
            live: the source will not wait, so that records are left out where `write` blocks for long.
            unwritten: is told what cannot be written.

        Raises ConfigError when the file cannot be written, unless its disk is full or read-only.
        """
        self._records, self._target = records, target
        self._unwritten = Unwritten() if unwritten is None else unwritten
        self._printer = _Printer(write, live, self._unwritten)
        self._document = isinstance(records, Coco)
        self._missed = 0  # frames that are in no document
        self._file: _RecordFile | None = None
        if target is not None and not self._document:
            again = live and isinstance(records, JSONLines)
            self._file = _RecordFile(target, again, self._unwritten)

    def update(self, snapshot: Snapshot) -> None:
        """Write one frame's records."""
        try:
            text = self._records.add(snapshot)
        except OSError as error:  # a document waits in temporary files
            self._missed += 1
            self._unwritten.failed(tempfile.gettempdir(), error)
            return
        if self._document:
            self._unwritten.written(tempfile.gettempdir())
        if text:
            if self._file is not None:  # first, so that an interruption leaves it with all that was shown
                self._file.add(text)
            self._printer.add(text)

    def finish(self) -> None:
        """Write what stands at the end, and wait for the reader to take it."""
        if self._target is not None and self._document:
            try:
                file, part = open_part(self._target)
                try:
                    with file:
                        file.writelines(self._records.end())
                    set_aside(self._target)
                    os.replace(part, self._target)
                finally:
                    part.unlink(missing_ok=True)
            except OSError as error:
                self._unwritten.failed(self._target, error)
        for text in self._records.end():
            self._printer.add(text)
        self._printer.drain()

    def stop(self) -> None:
        """Wait for no reader any more. Safe to call from a signal handler."""
        self._printer.stopping = True

    def close(self) -> None:
        """Write what waits for the disk or the reader a last time, and give it up."""
        if self._missed:
            self._unwritten.lost(f"{self._missed} frames are missing from the records")
        try:
            if self._file is not None:
                self._file.close()
        finally:
            self._printer.close()


class _RecordFile:
    """A file to which whole records are appended, also after the disk was full or read-only for a while."""

    def __init__(self, path: Path, again: bool, unwritten: Unwritten) -> None:
        """again: continue the JSON Lines that are there; else they are set aside."""
        self._path, self._again, self._unwritten = path, again, unwritten
        self._file: BinaryIO | None = None
        self._begun = False
        self._waiting = _Waiting()
        self._retry_at = 0.0
        try:
            self._file = self._open()
        except OSError as error:
            if not may_pass(error):
                raise ConfigError(f"{path}: cannot write the records: {error.strerror}") from None
            self._unwritten.failed(path, error)

    def add(self, text: str) -> None:
        self._waiting.add(text)
        if time.monotonic() >= self._retry_at:
            self._write()

    def close(self) -> None:
        self._write()
        if self._file is not None:
            self._file.close()
        if missing := self._waiting.lost + len(self._waiting.texts):
            self._unwritten.lost(f"{self._path}: the records of {missing} frames were lost")

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            while self._waiting.texts:
                append_whole(self._file, self._waiting.texts[0].encode())
                self._waiting.take()
        except OSError as error:
            self._retry_at = time.monotonic() + _RETRY_S
            self._unwritten.failed(self._path, error)
            if self._file is not None:  # opened anew: the disk may be mounted again meanwhile
                with suppress(OSError):
                    self._file.close()
                self._file = None
        else:
            self._unwritten.written(self._path)

    def _open(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._begun and not self._again:
            set_aside(self._path)
        file: BinaryIO = self._path.open("a+b", buffering=0)
        if not self._begun:
            try:
                _mend_last_line(file)
            except OSError:
                file.close()
                raise
        self._begun = True
        return file


def _mend_last_line(file: BinaryIO) -> None:
    """End the last of the JSON Lines, or remove it if a power cut left only a part of it."""
    size = begin = file.seek(0, os.SEEK_END)
    tail = b""
    while begin and b"\n" not in tail:
        begin = max(0, begin - (1 << 16))
        file.seek(begin)
        tail = file.read(size - begin)
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    try:
        json.loads(tail)
    except ValueError:
        file.truncate(size - len(tail))
    else:
        append_whole(file, b"\n")


class _Waiting:
    """Texts in their order, at most some megabytes: older ones are lost where more come."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque()
        self.lost = 0
        self._size = 0

    def add(self, text: str) -> None:
        self.texts.append(text)
        self._size += len(text)
        while self._size > _MOST_WAITING and len(self.texts) > 1:
            self.take()
            self.lost += 1

    def take(self) -> str:
        text = self.texts.popleft()
        self._size -= len(text)
        return text


class _Printer:
    """Calls `write` on a thread of its own.

    Who reads standard output may stop, for a pager's next page or for good. A file is then waited with, until
    a signal ends the run. A camera is not: its records wait in memory, and at last are left out. Python
    cannot interrupt a write that blocks, which is why it needs a thread.
    """

    def __init__(self, write: Callable[[str], None], live: bool, unwritten: Unwritten) -> None:
        self._write, self._live, self._unwritten = write, live, unwritten
        self._changed = threading.Condition()  # guards the fields below
        self._waiting = _Waiting()
        self._busy = False
        self._closed = False
        self._error: Exception | None = None
        self._until = float("inf")  # when waiting for the reader is given up
        self.stopping = False
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def add(self, text: str) -> None:
        """Write it. Raises what `write` raised for it or for an earlier one."""
        with self._changed:
            before = self._waiting.lost
            self._waiting.add(text)
            self._changed.notify_all()
            if self._waiting.lost > before:
                self._unwritten.failed(_STDOUT, TimeoutError(errno.ETIMEDOUT, "its reader takes nothing"))
            if self._error is not None:
                raise self._error
        if not self._live:
            self.drain()

    def drain(self) -> None:
        """Wait until all is written, but not long after a signal, nor for the reader of a live source."""
        with self._changed:
            while (self._waiting.texts or self._busy) and self._error is None:
                if self.stopping or self._live:
                    self._until = min(self._until, time.monotonic() + _DRAIN_S)
                if time.monotonic() >= self._until:
                    return
                self._changed.wait(0.1)
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Give up what cannot be written. Raises what `write` raised."""
        self.stopping = True
        try:
            self.drain()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
                missing = self._waiting.lost + len(self._waiting.texts) + self._busy
            if missing and self._error is None:
                self._unwritten.lost(f"{_STDOUT}: the records of {missing} frames were lost")

    def _run(self) -> None:
        retry = False
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._waiting.texts, _RETRY_S if retry else None
                )
                if self._closed:
                    return
                # What a full disk did not take is still with `write`, and comes before what follows.
                text = "" if retry or not self._waiting.texts else self._waiting.take()
                self._busy = True
            try:
                self._write(text)
            except OSError as error:
                if not self._live or isinstance(error, BrokenPipeError):
                    self._end(error)
                    return
                self._unwritten.failed(_STDOUT, error)
                retry = True
                time.sleep(_RETRY_S)
                continue
            except Exception as error:
                self._end(error)
                return
            with self._changed:
                self._busy = retry = False
                self._changed.notify_all()
            self._unwritten.written(_STDOUT)

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
