"""Annotated images and videos: what is drawn on a frame, and the files that hold it.

`Overlay` draws, for the files here as for the live page; `Annotated` writes the files; `AnnotatedOutput` does
both on a thread of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import tempfile
import time
import urllib.parse
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.boxes import iou
from edge_centernet.detections import Detections
from edge_centernet.detector import class_ids
from edge_centernet.draw import Color, Image, blur, class_color, draw_boxes, draw_label, line_width
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten, set_aside
from edge_centernet.outputs import Silent
from edge_centernet.sources import Frame
from edge_centernet.sources.files import Source, Stills, public_name
from edge_centernet.system.logs import quiet_libraries
from edge_centernet.system.single_slot import Worker
from edge_centernet.tracking.geometry import Point, Size, foot_points
from edge_centernet.tracking.line_counter import Line
from edge_centernet.tracking.state import Snapshot, Tally, Tracks
from edge_centernet.tracking.zone_counter import Zone

if TYPE_CHECKING:  # who reads files only need not load what cameras need
    from edge_centernet.outputs.clips import Ffmpeg
    from edge_centernet.sources.live import LiveCapture

_WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # others are written as PNG

_LINE: Color = (0, 220, 255)
_ZONE: Color = (255, 180, 60)
_IGNORED: Color = (150, 150, 150)
_SAME_OVERLAP = 0.5  # intersection over union from which a box is taken for the same thing as an earlier one
_HOLD_S = 1.0  # a box stays blurred that long after it was last found: detection flickers
# A trail shows where somebody came from. More points would cost more than the rest of the drawing.
_TRAIL_POINTS = 32
_TRAIL_S = 3.0
# What must be free on the disk for a video to go on: its index is written at the end, and without it nothing
# can be played. A frame needs some twenty bytes there.
_MIN_FREE = 512 << 10
_INDEX_BYTES = 64
_RETRY_S = 10.0  # between two attempts to begin a video

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Remembered:
    """A snapshot with what came before it.

    private: (N, 4) boxes to blur, pixels of the frame. trails: (track id, foot points from the oldest) each.
    """

    snapshot: Snapshot
    private: NDArray[np.float32]
    trails: list[tuple[int, list[Point]]]


class Overlay:
    """Draws snapshots in the order in which they come.

    It remembers where things were, so each output needs its own.
    classes: names by class_id.
    lines, zones: to draw, with the counts that a snapshot has of them.
    blur: names of the classes to make unrecognisable; a place stays blurred for a second after the last image
      in which something was found there. What the network misses, and did not find there within that second,
      is not blurred.
    Raises ConfigError when a name in `blur` is no class.
    """

    def __init__(
        self,
        classes: Sequence[str],
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        blur: Sequence[str] = (),
    ) -> None:
        """See the class."""
        self._classes = classes
        self.show(lines, zones)
        self._blurred = class_ids(blur, classes) if blur else np.zeros(0, np.int32)
        self._last = 0.0  # seconds of the last frame
        self._forget()

    def show(self, lines: Sequence[Line], zones: Sequence[Zone]) -> None:
        """Draw these from the next image on. For any thread."""
        self._lines, self._zones = tuple(lines), tuple(zones)

    def draw(self, snapshot: Snapshot, max_width: int | None = None) -> Image:
        """A new (H, W, 3) uint8 BGR image, as large as the frame's but at most `max_width` pixels wide."""
        return self.paint(self.remember(snapshot), max_width)

    def remember(self, snapshot: Snapshot) -> Remembered:
        """The first step of `draw`, which takes microseconds: for who sees all frames and draws only some."""
        frame = snapshot.frame
        if not snapshot.timed or frame.seconds < self._last:
            self._forget()  # another image, or a video from its start
        self._last = frame.seconds
        # In pixels of the frame, so that nothing depends on the size that is drawn.
        return Remembered(snapshot, self._private(snapshot), self._follow(snapshot.tracks, frame.seconds))

    def paint(self, remembered: Remembered, max_width: int | None = None) -> Image:
        """The second step of `draw`; may run on another thread."""
        snapshot, private = remembered.snapshot, remembered.private
        frame = snapshot.frame
        height, width = frame.image.shape[:2]
        # 1. Shrink before drawing, so that lines and letters stay readable and fewer pixels are drawn. The
        #    mean of all pixels takes five times as long, and is needed only where more than two become one.
        if max_width is None or width <= max_width:
            canvas, scale = np.ascontiguousarray(frame.image).copy(), 1.0
        else:
            scale = max_width / width
            how = cv2.INTER_LINEAR if scale >= 0.5 else cv2.INTER_AREA
            resized = cv2.resize(frame.image, (max_width, max(1, round(height * scale))), interpolation=how)
            canvas = resized.astype(np.uint8, copy=False)
        # 2. Blur before anything is drawn, or it would be blurred too.
        canvas = blur(canvas, private * scale)
        # 3. Boxes last: they must not be hidden.
        for zone in self._zones:
            _draw_zone(canvas, zone, np.array(zone.pixels((width, height))) * scale, snapshot.tally)
        for line in self._lines:
            _draw_line(canvas, line, (width, height), scale, snapshot.tally)
        for track_id, points in remembered.trails:
            path = np.rint(np.array(points) * scale).astype(np.int32)
            cv2.polylines(canvas, [path], False, class_color(track_id), line_width(canvas), cv2.LINE_AA)
        # With tracking the tracks, so that the image shows what is counted, each in its own colour.
        found, marks = snapshot.found, [f"{score:.2f}" for score in snapshot.found.score]
        numbers = found.class_id.tolist()
        if snapshot.tracks is not None:
            found, marks = snapshot.tracks.found, [f"#{id_}" for id_ in snapshot.tracks.id]
            numbers = snapshot.tracks.id.tolist()
        texts = [f"{self._classes[c]} {mark}" for c, mark in zip(found.class_id, marks, strict=True)]
        scaled = Detections(found.xyxy * np.float32(scale), found.score, found.class_id)
        draw_boxes(canvas, scaled, texts, numbers)
        return canvas

    def _forget(self) -> None:
        self._held = np.zeros((0, 4), np.float32)  # boxes to blur
        self._held_at = np.zeros(0)  # when each was last found
        self._trails: dict[int, deque[tuple[float, Point]]] = {}

    def _private(self, snapshot: Snapshot) -> NDArray[np.float32]:
        """(N, 4) boxes to blur: those in this frame, and those of the last second that are gone since."""
        if not len(self._blurred):
            return self._held
        now = snapshot.frame.seconds
        # All that was seen, below the threshold too: a box too many costs little, a face missed a lot.
        sets = [snapshot.found, snapshot.seen, None if snapshot.tracks is None else snapshot.tracks.found]
        boxes = np.concatenate(
            [found.xyxy[np.isin(found.class_id, self._blurred)] for found in sets if found is not None]
        )
        recent = now - self._held_at <= _HOLD_S
        gone = iou(self._held, boxes).max(axis=1, initial=0.0) < _SAME_OVERLAP
        keep = recent & gone
        self._held = np.concatenate([boxes, self._held[keep]])
        self._held_at = np.concatenate([np.full(len(boxes), now), self._held_at[keep]])
        return self._held

    def _follow(self, tracks: Tracks | None, now: float) -> list[tuple[int, list[Point]]]:
        """(track id, foot points from the oldest) of the tracks in this frame; forgets those long gone."""
        trails = []
        if tracks is not None:
            feet = foot_points(tracks.found).tolist()
            for track_id, foot in zip(tracks.id.tolist(), feet, strict=True):
                trail = self._trails.setdefault(track_id, deque(maxlen=_TRAIL_POINTS))
                trail.append((now, foot))
                trails.append((track_id, [point for at, point in trail if now - at <= _TRAIL_S]))
        self._trails = {i: trail for i, trail in self._trails.items() if now - trail[-1][0] <= _TRAIL_S}
        return trails


def _draw_zone(canvas: Image, zone: Zone, corners: NDArray[np.float64], tally: Tally | None) -> None:
    """Outline, a light filling, and how many are inside, if it is not ignored.

    corners: (N, 2) in pixels of the canvas.
    """
    points = np.rint(corners).astype(np.int32)
    colour = _IGNORED if zone.ignore else _ZONE
    # Only the part of the image around the zone is blended: the whole takes much of the drawing time.
    left, top = np.maximum(points.min(axis=0), 0)
    right, bottom = np.minimum(points.max(axis=0) + 1, canvas.shape[1::-1])
    part = canvas[top:bottom, left:right]
    if part.size:
        filled = part.copy()
        cv2.fillPoly(filled, [points - (left, top)], colour)
        canvas[top:bottom, left:right] = cv2.addWeighted(filled, 0.2, part, 0.8, 0)
    cv2.polylines(canvas, [points], True, colour, line_width(canvas), cv2.LINE_AA)
    count = next((z for z in tally.zones if z.name == zone.name), None) if tally is not None else None
    text = zone.name if count is None else f"{zone.name}: {count.inside}"
    draw_label(canvas, f"{zone.name}: ignored" if zone.ignore else text, _pixel(corners[0]), colour)


def _draw_line(canvas: Image, line: Line, size: Size, scale: float, tally: Tally | None) -> None:
    """The line, an arrow from its middle to the "in" side, and both counts.

    Args:
        canvas: (H, W, 3) uint8 BGR, drawn on.
        line: what to draw.
        size: (width, height) of the frame, for a line in fractions of it.
        scale: size of the canvas relative to the frame.
        tally: the counts; None before the first.
    """
    start, end = (_pixel(np.array(point) * scale) for point in line.pixels(size))
    tail, tip = (_pixel(np.array(point) * scale) for point in line.arrow(size, 0.06 * max(size)))
    width = line_width(canvas) + 1
    cv2.line(canvas, start, end, _LINE, width, cv2.LINE_AA)
    cv2.arrowedLine(canvas, tail, tip, _LINE, width, cv2.LINE_AA, tipLength=0.35)
    count = next((c for c in tally.lines if c.name == line.name), None) if tally is not None else None
    text = line.name if count is None else f"{line.name}: {count.inward} in, {count.outward} out"
    draw_label(canvas, text, start, _LINE)


def _pixel(point: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


class Annotated:
    """Annotated copies in a folder: images under their own names, a video as NAME.mp4.

    A video plays as fast as it happened: an image stays until the next one came, but no longer than a second,
    which is all that remains of an interruption. A file appears under its final name when it is complete; an
    earlier video of a live source is set aside then. Where the disk is full, the video ends while it still
    can be completed, and another one begins when there is room.
    """

    def __init__(
        self, folder: Path, source: Source | LiveCapture, unwritten: Unwritten | None = None
    ) -> None:
        """Nothing written yet. Raises ConfigError when a copy would replace its original.

        unwritten: is told what a full or read-only disk does not take.
        """
        self._source, self._folder = source, folder
        self._unwritten = Unwritten() if unwritten is None else unwritten
        self._targets = _targets(folder, source)
        self._writer: _VideoFile | None = None
        self._retry_at = 0.0
        self._missing = 0  # frames that are in no file
        self.written: list[Path] = []
        for name in source.names if isinstance(source, Stills) else [source.name]:
            target = self._targets[public_name(name)]
            # By the file itself and not by its name: a link or another spelling leads there too.
            if target.exists() and Path(name).exists() and target.samefile(name):
                raise ConfigError(
                    f"{target}: the annotated copy would replace the original; choose another --out"
                )

    def add(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Write one annotated frame: (H, W, 3) uint8 BGR."""
        target = self._targets[frame.source]
        if not isinstance(self._source, Stills) and time.monotonic() < self._retry_at:
            self._missing += 1
            return
        try:
            if isinstance(self._source, Stills):
                self._add_image(target, picture)
            else:
                if self._writer is None:
                    size = picture.shape[1], picture.shape[0]
                    self._writer = _VideoFile(target, self._source.fps, size, self._source.live)
                self._writer.add(picture, frame.seconds)
        except OSError as error:
            self._missing += 1
            self._retry_at = time.monotonic() + _RETRY_S
            self._unwritten.failed(self._folder, error)
            self._finish_video()
        else:
            self._unwritten.written(self._folder)

    def close(self) -> None:
        """Finish the video, if there is one."""
        self._finish_video()
        if self._missing:
            self._unwritten.lost(f"{self._folder}: {self._missing} annotated frames could not be written")

    def _add_image(self, target: Path, picture: NDArray[np.uint8]) -> None:
        ok, data = cv2.imencode(target.suffix.lower(), picture)
        if not ok:
            raise ConfigError(f"{target}: this OpenCV cannot write {target.suffix} files; use --no-save")
        # Renamed when whole, but not flushed to the disk as `write_atomic` does: on an SD card a folder of a
        # thousand images would take minutes, and each of them can be made again.
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data.tobytes())
            os.replace(part, target)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        self.written.append(target)

    def _finish_video(self) -> None:
        if (writer := self._writer) is None:
            return
        self._writer = None
        try:
            writer.close()
        except OSError as error:
            self._unwritten.lost(f"{writer.target}: {error.strerror}")
        else:
            if writer.target not in self.written:
                self.written.append(writer.target)


class _PipedVideo:
    """A writer like cv2.VideoWriter whose frames ffmpeg encodes, as H.264."""

    def __init__(self, ffmpeg: Ffmpeg, path: Path, fps: float, size: Size) -> None:
        """Start the program."""
        frames = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-video_size", f"{size[0]}x{size[1]}")
        command = [*ffmpeg.command(*frames, "-framerate", f"{fps:.6f}"), f"file:{path}"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # In a session of its own: Ctrl-C at the terminal is for this program, which completes the file.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,
        )

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Give it a frame. Raises OSError when the program has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(picture.tobytes())
        except BrokenPipeError:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            full = any(os.strerror(errno.ENOSPC) in line for line in lines)
            reason = lines[-1] if lines else f"exit status {self._process.returncode}"
            raise OSError(errno.ENOSPC if full else errno.EIO, f"ffmpeg: {reason}") from None

    def release(self) -> None:
        """Wait until the file is complete, or the program has ended without that."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._process.wait()
        self._errors.close()


class _VideoFile:
    """A video file that carries its final name only once it is complete: H.264, which browsers play.

    Without ffmpeg, and of a live source, it is MPEG-4 for players: when a service is stopped, the signal ends
    its encoder as well.
    """

    def __init__(self, target: Path, fps: float, size: Size, live: bool) -> None:
        """size: (width, height). Raises OSError where the disk is full or read-only."""
        self.target, self._size, self._fps, self._live = target, size, fps, live
        self._begin, self._written = 0.0, 0
        self._last: NDArray[np.uint8] | None = None
        self._part = target.with_name(f".{target.stem}.part{target.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._check_room()
        self._part.write_bytes(b"")  # OpenCV would not say why it cannot
        self._writer: Any
        if not live:
            from edge_centernet.outputs.clips import find_ffmpeg  # here: images need none of it

            ffmpeg = find_ffmpeg()
            if ffmpeg is not None and ffmpeg.suffix == target.suffix:
                self._writer = _PipedVideo(ffmpeg, self._part, fps, size)
                return
            _log.warning(
                "%s: written as MPEG-4 for players; browsers need H.264, and no ffmpeg with it is installed",
                target,
            )
        with quiet_libraries():
            code = cv2.VideoWriter.fourcc(*"mp4v")  # the one MP4 codec that every OpenCV build can write
            self._writer = cv2.VideoWriter(str(self._part), code, fps, size)
        if not self._writer.isOpened():
            self._part.unlink(missing_ok=True)
            raise ConfigError(f"{target}: this OpenCV cannot write an MP4 video here; use --no-save")

    def add(self, picture: NDArray[np.uint8], seconds: float) -> None:
        """seconds: when it was taken. Raises OSError where the disk is so full that the video must end."""
        self._check_room()
        if (picture.shape[1], picture.shape[0]) != self._size:  # the writer would drop it without a word
            picture = cv2.resize(picture, self._size).astype(np.uint8, copy=False)
        # The file has a fixed rate, a camera has none: the last image is repeated until its time is over.
        if self._last is None:
            self._begin = seconds
        else:
            missing = round((seconds - self._begin) * self._fps) - self._written
            most = max(1, round(self._fps))
            if missing > most:  # an interruption: continue from here
                self._begin += (missing - most) / self._fps
            # Of a file every frame is shown, also where some follow each other faster than its rate says.
            for _ in range(max(min(missing, most), 0 if self._live else 1)):
                self._writer.write(self._last)
                self._written += 1
        self._last = picture

    def close(self) -> None:
        """Complete it and give it its name. Raises OSError if that fails; what there is of it is removed."""
        if self._last is not None:
            self._writer.write(self._last)
            self._written += 1
        self._writer.release()
        # The writer reports no error, but of a video whose end is missing no frame can be read.
        with quiet_libraries():
            written = cv2.VideoCapture(str(self._part))
            complete = written.isOpened() and written.get(cv2.CAP_PROP_FRAME_COUNT) >= self._written
            written.release()
        if not complete:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise OSError(errno.EIO, f"the video could not be completed, {self._written} frames are lost")
        if self._live:
            set_aside(self.target)
        os.replace(self._part, self.target)

    def _check_room(self) -> None:
        state = os.statvfs(self._part.parent)
        needed = _MIN_FREE + _INDEX_BYTES * self._written
        # Some file systems do not tell: their sizes are 0.
        if state.f_blocks and state.f_bavail * state.f_frsize < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _targets(folder: Path, source: Source | LiveCapture) -> dict[str, Path]:
    """Name of each source -> file for its annotated copy, in subfolders where a pattern spans several."""
    if not isinstance(source, Stills):
        stem = Path(urllib.parse.urlsplit(source.name).path).stem or "video"
        return {source.name: folder / f"{re.sub(r'[^0-9A-Za-z._-]+', '_', stem).strip('_') or 'video'}.mp4"}

    def file_name(path: str) -> str:
        base = os.path.basename(path)
        return base if base.lower().endswith(_WRITABLE) else f"{base}.png"

    if len(source.names) == 1:
        (name,), (public,) = source.names, source.public_names
        return {public: folder / file_name(urllib.parse.urlsplit(public).path if "://" in name else name)}
    # The folders as they are on the disk, of which `public_names` shows only what is text.
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in source.names])
    return {
        public: folder / os.path.relpath(os.path.dirname(os.path.abspath(name)), root) / file_name(name)
        for name, public in zip(source.names, source.public_names, strict=True)
    }


class AnnotatedOutput(Silent):
    """Annotated images or a video, drawn and encoded on a thread of their own.

    A file loses no frame. Of a live source one is left out where encoding takes longer than detection.
    """

    def __init__(self, annotated: Annotated, overlay: Overlay, live: bool) -> None:
        """overlay: draws; nothing else may use it."""
        self._annotated = annotated

        def draw(snapshot: Snapshot) -> None:
            annotated.add(snapshot.frame, overlay.draw(snapshot))

        self._worker = Worker("annotate", draw, newest=live)

    @property
    def written(self) -> list[Path]:
        """The files so far; all of them after `close`."""
        return self._annotated.written

    def update(self, snapshot: Snapshot) -> None:
        """Hand it to the thread. Raises what went wrong with an earlier one."""
        self._worker.add(snapshot)

    def close(self) -> None:
        """Finish the video."""
        try:
            self._worker.close()
        finally:
            self._annotated.close()
