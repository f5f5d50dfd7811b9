"""Annotated copies of pictures and videos."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ConfigError
from edge_centernet.outputs.base import Silent
from edge_centernet.outputs.overlay import Overlay
from edge_centernet.sources.files import Source, Stills
from edge_centernet.sources.frame import Frame
from edge_centernet.system.logs import quiet_libraries
from edge_centernet.system.single_slot import Worker
from edge_centernet.tracking.state import Snapshot

if TYPE_CHECKING:
    from edge_centernet.sources.live import LiveCapture

_WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # others are written as PNG


class Annotated:
    """Annotated copies in a folder: pictures under their own names, a video as NAME.mp4.

    A video of a live source plays as fast as it happened: a picture stays until the next one came, but no
    longer than a second, which is all that remains of an interruption. A file appears under its final name
    when it is complete.
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
                raise ConfigError(
                    f"{target}: the annotated copy would replace the original; choose another --out"
                )

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


def _targets(folder: Path, source: Source | LiveCapture) -> dict[str, Path]:
    """Name of each source -> file for its annotated copy; subfolders are kept where a pattern spans several."""
    if not isinstance(source, Stills):
        stem = Path(urllib.parse.urlsplit(source.name).path).stem or "video"
        return {source.name: folder / f"{re.sub(r'[^0-9A-Za-z._-]+', '_', stem)}.mp4"}
    names = source.public_names
    if len(names) == 1:
        return {
            names[0]: folder
            / _picture_name(urllib.parse.urlsplit(names[0]).path if "://" in names[0] else names[0])
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


class AnnotatedOutput(Silent):
    """Annotated pictures or a video, drawn and encoded on a thread of their own.

    A file loses no picture. Of a live source one is left out where encoding takes longer than detection.
    """

    def __init__(self, annotated: Annotated, overlay: Overlay, live: bool) -> None:
        """overlay: draws; nothing else may use it."""
        self._annotated, self._overlay = annotated, overlay
        self._worker = Worker("annotate", self._draw, newest=live)

    def update(self, snapshot: Snapshot) -> None:
        """Hand it to the thread. Raises what went wrong with an earlier one."""
        self._worker.add(snapshot)

    def close(self) -> None:
        """Finish the video."""
        try:
            self._worker.close()
        finally:
            self._annotated.close()

    def _draw(self, snapshot: Snapshot) -> None:
        self._annotated.add(snapshot.frame, self._overlay.draw(snapshot))
