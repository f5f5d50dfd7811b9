"""`edge-centernet detect`: its options, and what it prints; `edge_centernet/session.py` does the work."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edge_centernet.camera_config import ConfigFile, Settings, each_camera, read_config
from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import model_options, open_model, tiles_option
from edge_centernet.errors import TargetError
from edge_centernet.outputs.records import SUFFIX
from edge_centernet.outputs.screen import Screen
from edge_centernet.progress import bars, unseen
from edge_centernet.session import DEFAULT_OUT, Summary, run
from edge_centernet.sources.files import is_camera, public_name
from edge_centernet.system.logs import configure_logging

_TABLES = "edge_centernet.cameras"  # where click's context keeps the [[camera]] tables of the file
_CONFIG = f"{__name__}.config"  # the same for the path of the file

_source_options = option_group(
    click.option(
        "--source",
        multiple=True,
        metavar="PATH|DIR|GLOB|VIDEO|URL",
        help="Image, folder, quoted pattern, video or URL, the same as without --source.",
    ),
    click.option(
        "--camera",
        multiple=True,
        metavar="N|PATH|URL|csi",
        help="Camera: 0, /dev/video0, csi, rtsp://... or http://...; repeat it for several cameras.",
    ),
    click.option("--recursive", is_flag=True, help="Search a folder of images at all depths."),
    click.option("--size", metavar="WxH", help="Resolution to request from the camera, such as 1280x720."),
    click.option(
        "--fps",
        type=click.FloatRange(min=0, min_open=True),
        help="Frame rate to request from the camera, per second; for images that are consecutive, theirs.",
    ),
    click.option("--fourcc", metavar="CODE", help="Pixel format of a V4L2 camera, such as MJPG or YUYV."),
    click.option(
        "--pace",
        type=click.Choice(["real"]),
        help="Play a video as a camera would film it: in its own time, dropping the frames that are too many "
        "for inference.  [default: every frame, as fast as possible]",
    ),
    click.option("--loop", is_flag=True, help="With --pace real, start again at the end, until stopped."),
    click.option(
        "--frozen-after",
        type=click.FloatRange(min=0.5),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="Reopen the camera if no frame has arrived for this long.",
    ),
    click.option(
        "--wait", is_flag=True, help="Wait for a camera that is not connected yet, instead of failing."
    ),
    heading="Source",
)


_detection_options = option_group(
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        help="Lowest score to report, 0 to 1.  [default: the model's]",
    ),
    click.option(
        "--max-detections",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="Maximum number of boxes per frame.",
    ),
    click.option("--classes", metavar="A,B", help="Detect only these classes.  [default: all]"),
    tiles_option,
    heading="Detection",
)


_scene_options = option_group(
    click.option(
        "--track/--no-track",
        default=False,
        help="Track objects, with persistent ids. Lines and zones always do.",
    ),
    click.option(
        "--count-line",
        multiple=True,
        metavar="[NAME=]X1,Y1,X2,Y2",
        help="Count objects that cross this line. Seen from the first point towards the second, objects that "
        'move to the right go "in".',
    ),
    click.option(
        "--zone",
        multiple=True,
        metavar="[NAME=]X1,Y1,X2,Y2,X3,Y3,...[;queue|;ignore]",
        help="Count objects inside this polygon and how long they stay. Coordinates are pixels, or fractions "
        "of the image if all are between 0 and 1. With ;queue it tells how many wait there and for how long. "
        "With ;ignore nothing that stands there is reported or counted, such as a poster.",
    ),
    click.option(
        "--room",
        multiple=True,
        metavar="[NAME=]LINE,-LINE,...[;reset=HH:MM][;empty=ZONE]",
        help='Estimate how many are in a room from the lines at its doors. A line whose "in" leads out of it '
        "gets a minus.",
    ),
    click.option(
        "--rule",
        multiple=True,
        metavar="[NAME=]KIND,PLACE,LIMIT[;for=SECONDS][;hours=09:00-18:00][;days=mon-fri]",
        help="Alert when more than LIMIT persons are in a queue (KIND queue), somebody has waited there "
        "(waiting) or stayed in a zone (loitering) for more than LIMIT seconds, or a zone or room holds "
        "LIMIT persons (capacity). Further ;clear=NUMBER, ;hold=SECONDS, ;classes=A,B.",
    ),
    click.option(
        "--counts",
        type=click.Path(path_type=Path),
        metavar="JSON",
        help="Save the totals of lines and zones in this file and continue from them after a restart.",
    ),
    click.option(
        "--presence",
        type=click.Path(path_type=Path),
        metavar="PNG",
        help="Write a heatmap of where tracked objects spent their time.",
    ),
    click.option(
        "--floor",
        metavar="X1,Y1,...,X4,Y4=M1,N1,...,M4,N4",
        help="Four points on the floor in the image, and where they are in metres: tracks then have a place "
        "and a speed in metres per second.",
    ),
    click.option(
        "--plan",
        type=click.Path(path_type=Path),
        metavar="PNG",
        help="With --floor, write a plan of it with the paths and the heatmap, seen from above.",
    ),
    click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Keep every crossing, entry and exit in this file, for `edge-centernet report`.  "
        "[default: $EDGE_CENTERNET_STORE, where something is counted]",
    ),
    click.option(
        "--keep",
        type=click.FloatRange(min=0, min_open=True),
        default=400.0,
        show_default=True,
        metavar="DAYS",
        help="How long the store keeps them; paths are kept for 30 days at most.",
    ),
    click.option(
        "--recorded",
        metavar="TIME",
        help="When a video file begins, as 2026-11-24T09:00 in local time: the store and events have what is "
        "counted at its true time.  [default: now]",
    ),
    heading="Tracking and counting",
)


_output_options = option_group(
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder for annotated copies and, if given, for the records too.  "
        f"[default: ./{DEFAULT_OUT}, or {DEFAULT_OUT}2, {DEFAULT_OUT}3 ... where it holds something]",
    ),
    click.option(
        "--format",
        "format_name",
        type=click.Choice([*SUFFIX, "none"]),
        help="Format of the records.  [default: jsonl; on a terminal, lines for people]",
    ),
    click.option(
        "--save/--no-save", default=None, help="Save annotated copies.  [default: save, except for a camera]"
    ),
    click.option(
        "--blur", metavar="A,B", help="Blur objects of these classes in every image that is saved or served."
    ),
    click.option(
        "--log-file", type=click.Path(path_type=Path), metavar="FILE", help="Write the log to this file too."
    ),
    heading="Output",
)


_network_options = option_group(
    click.option(
        "--serve",
        metavar="[HOST:]PORT",
        help="Serve a live page. Without a host, only this computer can open it.",
    ),
    click.option(
        "--token",
        help="Token that viewers of the page must present."
        "  [default: $EDGE_CENTERNET_TOKEN, or a random one]",
    ),
    click.option(
        "--mqtt",
        metavar="URL",
        help="Publish counts and events to this broker: mqtt://[user[:password]@]host[:port][/prefix]",
    ),
    click.option(
        "--mqtt-password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File whose first line is the broker's password.  [default: $EDGE_CENTERNET_MQTT_PASSWORD]",
    ),
    click.option(
        "--mqtt-ca-file",
        type=click.Path(path_type=Path),
        metavar="PEM",
        help="CA certificates to trust for mqtts://.  [default: the system's]",
    ),
    click.option("--name", help="Name of this camera on the page and in MQTT topics.  [default: the source]"),
    heading="Live page and MQTT",
)


_event_options = option_group(
    click.option(
        "--webhook",
        multiple=True,
        metavar="URL",
        help="Send each event to this web server, signed with $EDGE_CENTERNET_WEBHOOK_SECRET. Tables "
        "[[webhook]] in the TOML file say more: which events, with a picture.",
    ),
    click.option(
        "--webhook-queue",
        type=click.Path(path_type=Path),
        metavar="FILE",
        default=Path("webhook.db"),
        show_default=True,
        help="Where events wait for their web server, also over a restart.",
    ),
    click.option(
        "--events-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Save a picture of each event in this folder.",
    ),
    click.option(
        "--clips",
        type=click.FloatRange(min=0, min_open=True, max=30),
        metavar="SECONDS",
        help="Save there also a video from so long before the event until so long after it.",
    ),
    click.option(
        "--events-keep",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="DAYS",
        help="How long pictures and videos are kept.",
    ),
    click.option(
        "--events-max",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        metavar="MB",
        help="How large they may be together; the oldest go first.",
    ),
    heading="Events",
)


def _load_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Make the values of the file the defaults of all other options.

    The option is eager, so this happens before any other is read, and the command line takes precedence.
    """
    if value is None:
        return
    context.meta[_CONFIG] = value
    options = read_config(value)
    if isinstance(options.get("camera"), list):
        context.meta[_TABLES] = options.pop("camera")
    for name in ("source", "camera"):  # which may be given several times
        if name in options:
            options[name] = [options[name]]
    context.default_map = {**(context.default_map or {}), **options}


def config_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --config, whose file has the defaults of a command's other options. text: its help."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="TOML",
        is_eager=True,
        expose_value=False,
        callback=_load_config,
        help=text,
    )


def each_of(context: click.Context, given: dict[str, Any]) -> list[Settings]:
    """The settings of each camera: as typed, else as in its own table of the file, else as for all."""

    def typed(name: str) -> bool:
        return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE

    # 1. What stands on the command line precedes what stands in the file, also of sources.
    common = Settings(**{**given, "files": (), "source": None, "camera": None})
    names = [name for name in ("files", "source", "camera") if given[name]]
    chosen = [name for name in names if typed(name)] or names
    tables: list[dict[str, Any]] = []
    for name in chosen:
        tables += _named(given[name]) if name == "files" else [{name: one} for one in given[name]]
    if not any(typed(name) for name in chosen) and (written := context.meta.get(_TABLES)):
        if tables:
            raise click.UsageError("expected --source or [[camera]] tables in the file, got both")
        tables = [_converted(context, table, typed) for table in written]
    if not tables:
        raise click.UsageError(
            "expected what to detect in: a photo, folder, video, camera number or URL, as in "
            "`edge-centernet detect photo.jpg`"
        )
    if len(tables) > 1 and common.name is not None:
        raise click.UsageError("--name: expected one camera; several have their names in [[camera]] tables")
    # 2. The service's unit names a store; a camera that counts nothing has no use for one.
    store = os.environ.get("EDGE_CENTERNET_STORE")
    asked = common.store is not None or not store
    cameras = each_camera(common if asked else replace(common, store=Path(store or "")), tables)
    return [
        camera if asked or "store" in table or _counts(camera) else replace(camera, store=None)
        for camera, table in zip(cameras, tables, strict=True)
    ]


def _named(texts: Sequence[str]) -> list[dict[str, Any]]:
    """What was given without --source and --camera: each camera by itself, files and folders as one list."""
    cameras = [text for text in texts if is_camera(text)]
    if cameras and len(cameras) < len(texts):
        raise click.UsageError(f"expected cameras or files, got both: {public_name(cameras[0])} is a camera")
    if len(texts) == 1 and not cameras:
        return [{"source": texts[0]}]
    return [{"camera": text} for text in cameras] or [{"files": tuple(texts)}]


def _converted(context: click.Context, table: dict[str, Any], typed: Callable[[str], bool]) -> dict[str, Any]:
    """The fields of a [[camera]] table as the options would have them, without those that were typed."""
    options = {option.name: option for option in context.command.params}
    fields = {name: value for name, value in table.items() if name in ("source", "camera") or not typed(name)}
    try:
        return {
            name: value if name in ("source", "camera") else options[name].process_value(context, value)
            for name, value in fields.items()
        }
    except click.BadParameter as error:
        raise click.UsageError(f"[[camera]] {table.get('name', '')}: {error.format_message()}") from None


def _counts(settings: Settings) -> bool:
    return bool(settings.count_line or settings.zone or settings.room)


@click.command(cls=Command)
@config_option("TOML file with any of these options. Options on the command line take precedence.")
@click.argument("files", nargs=-1, metavar="[PHOTO|FOLDER|VIDEO|CAMERA|URL]...")
@_source_options
@model_options
@_detection_options
@_scene_options
@_output_options
@_network_options
@_event_options
@click.pass_context
def command(context: click.Context, /, **given: Any) -> None:
    """Detect, track and count objects in images, a video or the stream of a camera.

    A terminal shows one line for each image. Elsewhere, records are written to standard output, by default as
    one JSON object per frame, with boxes in pixels of the original image. Messages go to standard error.

    \b
    Examples:
      edge-centernet detect photo.jpg --classes person,dog
      edge-centernet detect photos/*.jpg --format csv > found.csv
      edge-centernet detect 0 --serve 8080 --count-line door=0.5,1,0.5,0
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    cameras = each_of(context, given)
    run_and_report(cameras, functools.partial(echo, err=True), _files_of(context, len(cameras)))


def _files_of(context: click.Context, number: int) -> list[ConfigFile | None]:
    """Where the lines, zones and rooms of each camera are written; None where that is the command line.

    What stands there would come back with the next start, whatever the file says by then.
    """
    names = ("source", "camera", "count_line", "zone", "room", "rule")
    typed = {
        name for name in names if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    }
    path, sources = context.meta.get(_CONFIG), {"source", "camera"}
    if path is None or typed - sources or (typed and number > 1):
        return [None] * number
    tables = _TABLES in context.meta and not typed
    return [ConfigFile(path, index if tables else None) for index in range(number)]


def run_and_report(
    cameras: Sequence[Settings],
    report: Callable[[str], None],
    files: Sequence[ConfigFile | None] = (),
) -> None:
    """Detect until the end, then print what was found, seen and written.

    report: gets lines for people meanwhile. files: for each camera; see `session.run` for both.
    Raises what `session.run` raises, TargetError where something could not be written, and
    KeyboardInterrupt where Ctrl-C ended it.
    """
    configure_logging(log_file=cameras[0].log_file)
    # Records on a terminal are there because they were asked for, and a bar would run through them.
    terminal = sys.stdout.isatty()
    lines = terminal and all(camera.format_name is None for camera in cameras)
    shown = sys.stderr.isatty() and (lines or not terminal or cameras[0].format_name == "none")

    def tell(line: str) -> None:
        if shown:
            sys.stderr.write("\r\x1b[K")  # over the bar, if there is one, which is drawn again below
        report(line)

    first = cameras[0]
    with bars() if shown else nullcontext(unseen) as progress:
        done = run(
            cameras,
            functools.partial(open_model, first.model, first.runtime, first.threads, first.device),
            write=_Stdout(),
            report=tell,
            files=files,
            screen=Screen(echo if lines else None, progress),
        )
    for one in done:
        _tell(one)
    if unwritten := "; ".join(one.unwritten for one in done if one.unwritten):
        raise TargetError(unwritten)
    if done[0].stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def _tell(done: Summary) -> None:
    """What was seen and counted, on standard error: standard output holds nothing but records."""
    of = f"{done.name}: " if done.name else ""
    frames = _plural(done.frames, "image" if done.stills else "frame")
    skipped = f", {done.skipped} skipped" if done.skipped else ""
    echo(f"{of}{_plural(done.detections, 'detection')} in {frames}{skipped}", err=True)
    if done.tally is not None:
        for line in done.tally.lines:
            by_class = [(name, f"{n_in} in, {n_out} out") for name, (n_in, n_out) in line.by_class.items()]
            echo(f"{of}{line.name}: {line.inward} in, {line.outward} out{_by_class(by_class)}", err=True)
        for zone in done.tally.zones:
            dwell = f"{zone.mean_dwell_s:.1f} s on average"
            by_class = [(name, f"{entered}") for name, (_, entered) in zone.by_class.items()]
            echo(f"{of}{zone.name}: {zone.entered} entered, {dwell}{_by_class(by_class)}", err=True)
        for room in done.tally.rooms:
            inside = f"{room.inside} inside (between {room.low} and {room.high})"
            echo(f"{of}{room.name}: {inside}", err=True)
        for rule in done.tally.rules:
            if rule.active:
                echo(f"{of}{rule.name}: the alert is on", err=True)
    if done.annotated:
        one = len(done.annotated) == 1
        where = done.annotated[0] if one else done.folder
        echo(f"{of}Annotated {'copy' if one else 'copies'}: {where}", err=True)


class _Stdout:
    """Writes to standard output at once, so that a reader sees each frame.

    Not by `sys.stdout`: a write of a thread that blocks there would keep Python from ending. Several cameras
    write from several threads.
    """

    def __init__(self) -> None:
        self._rest = b""  # what a full disk did not take of the last text
        self._writing = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._writing:
            self._rest += text.encode()
            while self._rest:
                self._rest = self._rest[os.write(1, self._rest) :]


def _by_class(counts: Sequence[tuple[str, str]]) -> str:
    """Counts in brackets, (person 3 in, 1 out; dog 1 in, 0 out); nothing where there is one class."""
    return f" ({'; '.join(f'{name} {count}' for name, count in counts)})" if len(counts) > 1 else ""


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
