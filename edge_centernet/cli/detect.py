"""`edge-centernet detect`."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_centernet.camera_config import Settings, read_config
from edge_centernet.cli import Command, option_group
from edge_centernet.cli.options import model_options, open_model
from edge_centernet.detector import Detector
from edge_centernet.errors import ConfigError
from edge_centernet.files import prepare_folder
from edge_centernet.outputs.annotate import Annotated, AnnotatedOutput
from edge_centernet.outputs.base import Hooks, Output
from edge_centernet.outputs.overlay import Overlay
from edge_centernet.outputs.records import SUFFIX, RecordsOutput, make_records
from edge_centernet.pipeline import Pipeline, Rate, Result
from edge_centernet.sources.files import Source, Stills, Video, is_live, open_camera, open_source, public_name
from edge_centernet.sources.frame import CaptureState, Frame
from edge_centernet.system import heap
from edge_centernet.system.logs import configure_logging
from edge_centernet.tracking.line_counter import parse_line
from edge_centernet.tracking.scene import Scene, SceneOptions
from edge_centernet.tracking.state import Snapshot
from edge_centernet.tracking.zone_counter import parse_zone

_DEFAULT_OUT = Path("detections")
if TYPE_CHECKING:  # what cameras, services and the network need is loaded where they are asked for
    from edge_centernet.sources.cameras import CameraOptions
    from edge_centernet.sources.live import LiveCapture

    Frames = Source | LiveCapture

_log = logging.getLogger(__name__)


_source_options = option_group(
    click.option(
        "--source", metavar="PATH|DIR|GLOB|VIDEO|URL", help="Image, folder, quoted pattern, video or URL."
    ),
    click.option(
        "--camera", metavar="N|PATH|URL|csi", help="Camera: 0, /dev/video0, csi, rtsp://... or http://..."
    ),
    click.option("--size", metavar="WxH", help="Resolution to request from the camera, such as 1280x720."),
    click.option(
        "--fps",
        type=click.FloatRange(min=0, min_open=True),
        help="Frame rate to request from the camera, per second.",
    ),
    click.option("--fourcc", metavar="CODE", help="Pixel format of a V4L2 camera, such as MJPG or YUYV."),
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
        help="Count objects that cross this line. Seen from the first point towards the second, objects that move to "
        'the right go "in".',
    ),
    click.option(
        "--zone",
        multiple=True,
        metavar="[NAME=]X1,Y1,X2,Y2,X3,Y3,...",
        help="Count objects inside this polygon and how long they stay. Coordinates are pixels, or fractions of the "
        "image if all are between 0 and 1.",
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
    heading="Tracking and counting",
)


_output_options = option_group(
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=f"Folder for annotated copies and, if given, for the records too.  [default: ./{_DEFAULT_OUT}]",
    ),
    click.option(
        "--format",
        "format_name",
        type=click.Choice([*SUFFIX, "none"]),
        default="jsonl",
        show_default=True,
        help="Format of the records.",
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
        help="Token that viewers of the page must present.  [default: $EDGE_CENTERNET_TOKEN, or a random one]",
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


def _load_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Make the file's values the defaults of all other options."""
    if value is None:
        return
    context.default_map = {**(context.default_map or {}), **read_config(value)}


@click.command(cls=Command)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="TOML",
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="TOML file with any of these options. Options on the command line take precedence.",
)
@_source_options
@model_options
@_detection_options
@_scene_options
@_output_options
@_network_options
@click.pass_context
def command(context: click.Context, /, **given: Any) -> None:
    """Detect, track and count objects in images, a video or the stream of a camera.

    Records are written to standard output, by default as one JSON object per frame, with boxes in pixels of
    the original image. Messages go to standard error.

    \b
    Examples:
      edge-centernet detect --source photo.jpg --classes person,dog
      edge-centernet detect --camera 0 --serve 8080 --count-line door=0.5,0,0.5,1
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    settings = Settings(**_one_source(context, given))
    configure_logging(log_file=settings.log_file)
    stopped = _run(settings)
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt


def _one_source(context: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """The options with one of source and camera; what was typed goes before what the configuration says."""
    given = [name for name in ("source", "camera") if values[name] is not None]
    typed = [n for n in given if context.get_parameter_source(n) == click.core.ParameterSource.COMMANDLINE]
    chosen = typed if len(typed) == 1 else given
    if len(chosen) != 1:
        raise click.UsageError("expected one of --source and --camera")
    return {**values, **{name: None for name in given if name not in chosen}}


def _run(settings: Settings) -> int | None:
    """Detect until the source ends; the signal that stopped it earlier, if one did."""
    scene_options = _scene_of(settings)
    if settings.out is not None:
        prepare_folder(settings.out)
    with ExitStack() as stack:
        runtime = open_model(settings.model, settings.runtime, settings.threads)
        stack.callback(runtime.close)
        names = runtime.manifest.model.classes
        threshold = runtime.manifest.model.suggested if settings.threshold is None else settings.threshold
        wanted = None if settings.classes is None else _words(settings.classes)
        scene = Scene(scene_options, threshold, names, wanted)
        stack.callback(scene.close)
        detector = Detector(
            runtime,
            threshold=scene.detector_threshold,
            max_detections=settings.max_detections,
            only=scene.detector_classes,
        )
        frames = _open_frames(settings)
        stack.callback(frames.close)
        outputs = _Outputs(settings, scene_options, frames, detector, stack)
        pipeline = stack.enter_context(Pipeline(frames, detector))
        with _stop_on_signals(pipeline.stop) as stopped:
            _detect(pipeline, frames, scene, outputs)
        outputs.finish()
    return stopped[0] if stopped else None


def _detect(pipeline: Pipeline, frames: Frames, scene: Scene, outputs: _Outputs) -> None:
    rate = Rate()
    for result in pipeline:
        if result is None:
            outputs.waiting(_state(frames))
        else:
            capture = _state(frames, result.frame)
            outputs.update(_snapshot(result, scene, rate, capture, timed=not isinstance(frames, Stills)))


def _state(frames: Frames, frame: Frame | None = None) -> CaptureState:
    """How the source is doing; a file is as live as its newest frame."""
    if not isinstance(frames, (Stills, Video)):
        return frames.state
    if frame is None:
        return CaptureState("live")
    return CaptureState("live", frames=frame.number + 1, last_frame=frame.captured)


def _snapshot(result: Result, scene: Scene, rate: Rate, capture: CaptureState, timed: bool) -> Snapshot:
    found, tracks, tally = scene.update(result.frame, result.found)
    return Snapshot(
        frame=result.frame,
        found=found,
        ms=result.ms,
        age_ms=result.age_ms,
        fps=rate.tick(),
        capture=capture,
        tracks=tracks,
        tally=tally,
        seen=result.found,
        timed=timed,
    )


class _Outputs:
    """Everything that is told of the results, and the summary at the end."""

    def __init__(
        self, settings: Settings, scene: SceneOptions, frames: Frames, detector: Detector, stack: ExitStack
    ) -> None:
        """Open what the settings ask for; `stack` closes it."""
        self._frames, self._scene, self._stack = frames, scene, stack
        self._classes = detector.manifest.model.classes
        self._folder = settings.out or _DEFAULT_OUT
        self._finished = False
        self._records: RecordsOutput | None = None
        self._latest: Snapshot | None = None
        self._frames_done = self._boxes = 0
        self._all: list[Output] = []
        if settings.format_name != "none":
            target = None
            if settings.out is not None:
                target = settings.out / f"detections{SUFFIX[settings.format_name]}"
            self._records = RecordsOutput(make_records(settings.format_name, self._classes), _echo, target)
            self._add(self._records)
        if settings.save or (settings.save is None and not frames.live):
            prepare_folder(self._folder)
            annotated = Annotated(self._folder, frames)
            stack.callback(self._say_where, annotated)
            self._add(AnnotatedOutput(annotated, self._overlay(), frames.live))
        if settings.mqtt is not None:
            self._add(_open_mqtt(settings, scene, frames, self._classes))
        if settings.serve is not None:
            for output in self._open_web(settings, detector):
                self._add(output)
        if frames.live:
            from edge_centernet.outputs.status import StatusOutput, WatchdogOutput
            from edge_centernet.service import Watchdog

            self._add(StatusOutput(self._classes))
            self._add(WatchdogOutput(Watchdog(self._classes)))

    def update(self, snapshot: Snapshot) -> None:
        """Tell everyone, in the order in which they were opened."""
        self._latest = snapshot
        self._frames_done += 1
        self._boxes += len(snapshot.found)
        for output in self._all:
            output.update(snapshot)

    def waiting(self, capture: CaptureState) -> None:
        """A live source is silent."""
        for output in self._all:
            output.waiting(capture)

    def finish(self) -> None:
        """Write what stands at the end, and the summary."""
        if self._records is not None:
            self._records.finish()
        what = "image" if isinstance(self._frames, Stills) else "frame"
        skipped = f", {self._frames.skipped} skipped" if self._frames.skipped else ""
        detections, pictures = _plural(self._boxes, "detection"), _plural(self._frames_done, what)
        click.echo(f"{detections} in {pictures}{skipped}", err=True)
        tally = self._latest.tally if self._latest is not None else None
        for line in tally.lines if tally is not None else ():
            click.echo(f"{line.name}: {line.inward} in, {line.outward} out", err=True)
        for zone in tally.zones if tally is not None else ():
            click.echo(f"{zone.name}: {zone.entered} entered, {zone.mean_dwell_s:.1f} s on average", err=True)
        self._finished = True

    def _say_where(self, annotated: Annotated) -> None:
        """After the annotated files are closed."""
        if self._finished and annotated.written:
            one = len(annotated.written) == 1
            where = annotated.written[0] if one else self._folder
            click.echo(f"Annotated {'copy' if one else 'copies'}: {where}", err=True)

    def _add(self, output: Output) -> None:
        self._all.append(output)
        self._stack.callback(output.close)

    def _overlay(self) -> Overlay:
        """One for each output: it remembers where objects were."""
        return Overlay(self._classes, self._scene.lines, self._scene.zones, self._scene.blur)

    def _open_web(self, settings: Settings, detector: Detector) -> Iterator[Output]:
        from edge_centernet.outputs.prometheus import Metrics  # both need the extra "live"
        from edge_centernet.outputs.web.server import WebServer
        from edge_centernet.service import health

        model = detector.manifest.model
        metrics = Metrics(self._classes, model=f"{model.name} {model.version}", runtime=detector.runtime.name)
        server = WebServer(
            settings.serve or "",
            classes=self._classes,
            token=settings.token,
            overlay=self._overlay(),
            metrics=metrics.text,
            health=lambda: health(self._capture(), self._latest),
            capture=self._capture,
        )
        server.start()
        click.echo(f"Live page: {server.url}", err=True)
        yield Hooks(metrics.update, metrics.waiting)
        yield Hooks(server.update, close=server.close)

    def _capture(self) -> CaptureState:
        return _state(self._frames, None if self._latest is None else self._latest.frame)


def _scene_of(settings: Settings) -> SceneOptions:
    return SceneOptions(
        track=settings.track,
        lines=tuple(parse_line(text, i + 1) for i, text in enumerate(settings.count_line)),
        zones=tuple(parse_zone(text, i + 1) for i, text in enumerate(settings.zone)),
        presence=settings.presence,
        counts=settings.counts,
        blur=tuple(_words(settings.blur)) if settings.blur else (),
    )


def _open_frames(settings: Settings) -> Frames:
    """The source, opened and checked; a live one is read on its own thread from now on."""
    if settings.camera is None:
        if (settings.size, settings.fps, settings.fourcc) != (None, None, None):
            given = ", ".join(_camera_options(settings).given)
            raise ConfigError(f"{given}: only applies to --camera, got --source {settings.source}")
        if not is_live(settings.source or ""):
            return open_source(settings.source or "", warn=_warn)
    from edge_centernet.sources.live import LiveCapture

    camera = _camera_options(settings)
    text = settings.camera or settings.source or ""
    heap.share_arenas()
    capture = LiveCapture(
        lambda: open_camera(text, camera, _log.warning),
        f"camera {text}" if text.isdecimal() else public_name(text),
        frozen_s=settings.frozen_after,
        report=_log.warning,
    )
    capture.start(wait=settings.wait)
    return capture


def _camera_options(settings: Settings) -> CameraOptions:
    from edge_centernet.sources.cameras import CameraOptions

    width, height = _size(settings.size)
    return CameraOptions(width, height, settings.fps, settings.fourcc)


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got {text!r}")
    return int(width), int(height)


def _open_mqtt(settings: Settings, scene: SceneOptions, frames: Frames, classes: tuple[str, ...]) -> Output:
    from edge_centernet.outputs.mqtt import MqttOutput  # needs the extra "live"

    output = MqttOutput(
        settings.mqtt or "",
        name=settings.name or _name_of(frames),
        classes=classes,
        wanted=None if settings.classes is None else _words(settings.classes),
        lines=[line.name for line in scene.lines],
        zones=[zone.name for zone in scene.zones],
        password_file=settings.mqtt_password_file,
        ca_file=settings.mqtt_ca_file,
    )
    output.start()
    return output


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """End the loop after the frame at hand on SIGINT and SIGTERM, so that files are closed.

    A second signal ends it at once. Yields a list that the signal will be in.
    """
    got: list[int] = []

    def handle(number: int, _: object) -> None:
        if got:
            raise KeyboardInterrupt
        got.append(number)
        stop()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield got
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _name_of(frames: Frames) -> str:
    return "pictures" if isinstance(frames, Stills) else frames.name


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _echo(text: str) -> None:
    click.echo(text, nl=False)  # flushes, so that a reader sees each frame at once


def _warn(line: str) -> None:
    click.echo(f"Warning: {line}", err=True)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
