"""`edge-centernet detect`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from edge_centernet.cli.options import model_options, open_model
from edge_centernet.detector import Detector
from edge_centernet.draw import draw
from edge_centernet.output import SUFFIX, Annotated, make_records, open_part, prepare_folder
from edge_centernet.sources import Source, Stills, open_camera, open_source

_DEFAULT_OUT = Path("detections")


@click.command(short_help="Find objects in pictures, videos or a camera.")
@click.option("--source", metavar="PATH|DIR|GLOB|VIDEO|URL", help="Image, folder, quoted pattern, video or URL.")
@click.option("--camera", metavar="N|PATH|URL", help="Camera: 0, /dev/video0 or rtsp://...")
@model_options
@click.option("--threshold", type=click.FloatRange(0, 1), help="Lowest score shown, 0..1.  [default: the model's]")
@click.option(
    "--max-detections", type=click.IntRange(min=1), default=100, show_default=True, help="Most boxes a frame."
)
@click.option("--classes", metavar="A,B", help="Look for these classes only.  [default: all]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Folder for annotated copies and, if given, the records too.  [default: ./{_DEFAULT_OUT}]",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(SUFFIX)),
    default="jsonl",
    show_default=True,
    help="Of the records.",
)
@click.option("--save/--no-save", default=None, help="Write annotated copies.  [default: save, but not for live video]")
def command(
    source: str | None,
    camera: str | None,
    model: str,
    runtime: str,
    threads: int | None,
    threshold: float | None,
    max_detections: int,
    classes: str | None,
    out: Path | None,
    format_name: str,
    save: bool | None,
) -> None:
    """Find objects in pictures, a video or a camera.

    Records go to standard output, one JSON object a frame unless --format says otherwise; boxes are in pixels of the
    original picture. Everything else that is said goes to standard error.

    Example: edge-centernet detect --source photo.jpg --classes person,dog
    """
    if (source is None) == (camera is None):
        raise click.UsageError("expected one of --source and --camera")
    folder = out or _DEFAULT_OUT
    if out is not None:
        prepare_folder(out)
    detector = Detector(
        open_model(model, runtime, threads),
        threshold=threshold,
        max_detections=max_detections,
        classes=None if classes is None else [name.strip() for name in classes.split(",")],
    )
    with ExitStack() as stack:
        stack.callback(detector.runtime.close)
        frames = open_camera(camera) if camera is not None else open_source(source or "", warn=_warn)
        stack.callback(frames.close)
        annotated = None
        if save or (save is None and not frames.live):
            prepare_folder(folder)
            annotated = Annotated(folder, frames)
            stack.callback(annotated.close)
        kept = None if out is None else _Kept(stack, out / f"detections{SUFFIX[format_name]}")
        count = _detect(detector, frames, make_records(format_name, detector.manifest.model.classes), annotated, kept)
    _summary(frames, count, annotated, folder)


def _detect(
    detector: Detector, frames: Source, records: Any, annotated: Annotated | None, kept: Any
) -> tuple[int, int]:
    """Run over every frame; (frames, detections)."""
    total = boxes = 0
    for frame in frames:
        found, ms = detector.detect(frame.image)
        _write(records.add(frame, found, ms), kept)
        if annotated is not None:
            annotated.add(frame, draw(frame.image, found, detector.manifest.model.classes))
        total, boxes = total + 1, boxes + len(found)
    _write(records.end(), kept)
    return total, boxes


class _Kept:
    """The records once more, in a file that gets its name when the run ends, however it ends."""

    def __init__(self, stack: ExitStack, target: Path) -> None:
        self._file, self._part = open_part(target)
        stack.callback(os.replace, self._part, target)
        stack.callback(self._file.close)

    def write(self, text: str) -> None:
        self._file.write(text)


def _write(text: str, kept: _Kept | None) -> None:
    if not text:
        return
    if kept is not None:  # first, so that an interruption leaves the file with all that was shown
        kept.write(text)
    click.echo(text, nl=False)  # flushes, so that a reader sees each frame at once


def _warn(line: str) -> None:
    click.echo(f"Warning: {line}", err=True)


def _summary(frames: Source, count: tuple[int, int], annotated: Annotated | None, folder: Path) -> None:
    """Say on stderr what was found and where the annotated copies are."""
    total, boxes = count
    what = "image" if isinstance(frames, Stills) else "frame"
    skipped = f", {frames.skipped} skipped" if frames.skipped else ""
    click.echo(f"{_plural(boxes, 'detection')} in {_plural(total, what)}{skipped}", err=True)
    if annotated is not None and annotated.written:
        one = len(annotated.written) == 1
        click.echo(f"Annotated {'copy' if one else 'copies'}: {annotated.written[0] if one else folder}", err=True)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
