"""One run of `detect`: a source, a model, a scene and outputs, from opening to closing.

    source -> Pipeline -> Scene -> Snapshot -> each Output

`run` is all of it. It needs the options of the command line as `Settings`, and nothing of the command line
itself: it prints nothing, and reports through the functions that it is given.

What cameras, services and the network need is imported where the settings ask for it, so that an image is
detected without the packages of the extra "live", and without the time that importing them takes.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_centernet.camera_config import Settings
from edge_centernet.detector import Detector
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten, prepare_folder
from edge_centernet.outputs import Output, Silent
from edge_centernet.outputs.annotate import Annotated, AnnotatedOutput, Overlay
from edge_centernet.outputs.records import SUFFIX, RecordsOutput, make_records
from edge_centernet.pipeline import Pipeline, Rate
from edge_centernet.runtimes.base import Runtime
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.sources.files import (
    Source,
    Stills,
    Video,
    is_live,
    is_url,
    open_camera,
    open_source,
    public_name,
)
from edge_centernet.system import heap
from edge_centernet.tracking.floor import parse_floor
from edge_centernet.tracking.line_counter import parse_line
from edge_centernet.tracking.room import parse_room
from edge_centernet.tracking.rules import parse_rule
from edge_centernet.tracking.scene import Scene, SceneOptions
from edge_centernet.tracking.state import Snapshot, Tally
from edge_centernet.tracking.zone_counter import parse_zone

if TYPE_CHECKING:
    from edge_centernet.outputs.event_media import EventMedia
    from edge_centernet.outputs.history import Clock
    from edge_centernet.outputs.mqtt import MqttOutput
    from edge_centernet.outputs.webhook import WebhookOutput
    from edge_centernet.sources.live import LiveCapture

    Frames = Source | LiveCapture

DEFAULT_OUT = Path("detections")  # folder for annotated copies; records are only kept where a folder is given

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run did.

    detections, frames: how many were reported, of how many frames. skipped: files that could not be read.
    stills: whether the frames were single images.
    tally: the last counts; None without lines and zones.
    annotated: the files with annotations. folder: the one they are in.
    stopped_by: number of the signal that ended the run; None if the source ended.
    unwritten: what a full or read-only disk, or a reader that stopped, did not take; "" if nothing.
    """

    detections: int
    frames: int
    skipped: int
    stills: bool
    tally: Tally | None
    annotated: tuple[Path, ...]
    folder: Path
    stopped_by: int | None
    unwritten: str = ""


def run(
    settings: Settings,
    open_model: Callable[[], Runtime],
    write: Callable[[str], None],
    report: Callable[[str], None],
    config: Path | None = None,
) -> Summary:
    """Detect until the source ends, or until SIGINT, SIGTERM or SIGHUP; files are complete then.

    A full or read-only disk ends nothing: what is counted stays in memory, and writing is tried again.

    To be called on the main thread, because of the signals.

    Args:
        settings: what to do.
        open_model: opens the model; called after the settings are checked.
        write: gets the text of the records, on a thread of its own.
        report: gets lines for people: a file that was skipped, where the live page is.
        config: the file whose lines, zones and rooms these are, to save there what the live page changes.

    Raises ConfigError for settings that do not fit together, and what opening model, source and outputs
    raises.
    """
    # 1. What is quickly found to be wrong comes before the model, which takes seconds to load.
    options = _scene_options(settings)
    _check_events(settings, options)
    unwritten = Unwritten()
    if settings.out is not None:
        # A camera's service must start again on a disk that has become read-only.
        live = settings.camera is not None or is_live(settings.source or "") or settings.pace is not None
        prepare_folder(settings.out, or_later=live)
    with ExitStack() as stack:
        # 2. The model, and the scene, which decides what the detector must look for.
        runtime = open_model()
        stack.callback(runtime.close)
        model = runtime.manifest.model
        threshold = model.suggested if settings.threshold is None else settings.threshold
        wanted = None if settings.classes is None else words(settings.classes)
        scene = Scene(options, threshold, model.classes, wanted, unwritten)
        stack.callback(scene.close)
        detector = Detector(
            runtime,
            threshold=scene.detector_threshold,
            max_detections=settings.max_detections,
            only=scene.detector_classes,
        )
        # 3. The source, and the outputs. The stack closes each, also if a later one cannot be opened.
        frames = open_frames(settings, report)
        stack.callback(frames.close)
        totals = _Totals()
        outputs: list[Output] = [totals]
        places = _Places(scene, options)
        for output in _open_outputs(
            settings, places, frames, detector, totals, unwritten, write, report, config
        ):
            outputs.append(output)
            stack.callback(output.close)
        records = [output for output in outputs if isinstance(output, RecordsOutput)]
        # 4. The loop.
        pipeline = stack.enter_context(Pipeline(frames, detector))
        with _stop_on_signals(pipeline.stop, *(output.stop for output in records)) as stopped:
            _detect(pipeline, frames, scene, outputs, unwritten)
            # 5. Only a run that no error ended writes what stands at the end of its records.
            for output in records:
                output.finish()
    # After all is closed, because only then every file has its name.
    return totals.summary(settings, frames, outputs, stopped[0] if stopped else None, unwritten)


def words(text: str) -> list[str]:
    """The parts of "A,B"."""
    return [word.strip() for word in text.split(",")]


def _scene_options(settings: Settings) -> SceneOptions:
    return SceneOptions(
        track=settings.track,
        lines=tuple(parse_line(text, i + 1) for i, text in enumerate(settings.count_line)),
        zones=tuple(parse_zone(text, i + 1) for i, text in enumerate(settings.zone)),
        rooms=tuple(parse_room(text, i + 1) for i, text in enumerate(settings.room)),
        rules=tuple(parse_rule(text, i + 1) for i, text in enumerate(settings.rule)),
        presence=settings.presence,
        floor=None if settings.floor is None else parse_floor(settings.floor),
        plan=settings.plan,
        counts=settings.counts,
        store=settings.store is not None,
        blur=tuple(words(settings.blur)) if settings.blur else (),
    )


def _check_events(settings: Settings, scene: SceneOptions) -> None:
    """Raise ConfigError where events are to be told, and there can be none."""
    told = {"--events-dir": settings.events_dir, "--webhook": settings.webhook}
    given = ", ".join(option for option, value in told.items() if value)
    if given and not (scene.lines or scene.zones):
        raise ConfigError(f"{given}: nothing is counted that it could tell; expected --count-line or --zone")
    if settings.clips is not None and settings.events_dir is None:
        raise ConfigError("--clips: expected --events-dir with it, the folder to write them to")


def _detect(
    pipeline: Pipeline, frames: Frames, scene: Scene, outputs: Sequence[Output], unwritten: Unwritten
) -> None:
    """Pass each result to the outputs, with tracks, counts, rate and the state of the source.

    Args:
        pipeline: gives the results.
        frames: the source, for its state.
        scene: follows and counts.
        outputs: get every result.
        unwritten: what cannot be written at the moment.
    """
    rate = Rate()
    for result in pipeline:
        if result is None:  # a live source is silent
            for output in outputs:
                output.waiting(capture_state(frames, None))
            continue
        found, tracks, tally = scene.update(result.frame, result.found)
        snapshot = Snapshot(
            frame=result.frame,
            found=found,
            ms=result.ms,
            age_ms=result.age_ms,
            fps=rate.tick(),
            capture=capture_state(frames, result.frame),
            tracks=tracks,
            tally=tally,
            seen=result.found,
            timed=frames.fps is not None,
            unwritten=unwritten.now(),
        )
        for output in outputs:
            output.update(snapshot)


@contextmanager
def _stop_on_signals(*stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` on SIGINT, SIGTERM and SIGHUP: the frame at hand is finished, and files are closed.

    A second signal raises KeyboardInterrupt, for somebody who cannot wait. Yields a list that the number of
    the first will be in.
    """
    got: list[int] = []

    def handle(number: int, _: object) -> None:
        if got:
            raise KeyboardInterrupt
        got.append(number)
        for call in stop:
            call()

    numbers = [signal.SIGINT, signal.SIGTERM]
    # SIGHUP comes when the terminal is closed; `nohup` has it ignored, and that is to stay so.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield got
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


# ---- the source ---------------------------------------------------------------------------------


def open_frames(settings: Settings, report: Callable[[str], None]) -> Frames:
    """The source, opened and checked; a live one is read on its own thread from now on.

    report: gets one line for each file that is skipped.
    Raises ConfigError for options of a camera where there is none and for tracking in images that are no
    sequence, SourceError when nothing can be read.
    """
    if settings.pace is not None or settings.loop:
        return _play(settings, report)
    requested = {"size": settings.size, "fps": settings.fps, "fourcc": settings.fourcc}
    width: int | None = None
    height: int | None = None
    if settings.size is not None:
        parts = settings.size.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts):
            raise ConfigError(
                f"--size: expected WIDTHxHEIGHT in pixels, such as 1280x720, got {settings.size!r}"
            )
        width, height = (int(part) for part in parts)
    if settings.camera is None:
        source = settings.source or ""
        given = [f"--{name}" for name, value in requested.items() if value is not None]
        refusal = f"{', '.join(given)}: expected only with --camera, got --source {public_name(source)}"
        if given and (given != ["--fps"] or is_live(source)):
            raise ConfigError(refusal)
        if not is_live(source):
            opened = open_source(source, warn=lambda line: report(f"Warning: {line}"))
            if isinstance(opened, Stills):
                _take_as_sequence(opened, settings)
            elif given:
                opened.close()
                raise ConfigError(refusal.replace("--camera", "--camera or images"))
            return opened
    from edge_centernet.sources.cameras import CameraOptions
    from edge_centernet.sources.live import LiveCapture

    options = CameraOptions(width, height, settings.fps, settings.fourcc)
    text = settings.camera or settings.source or ""
    if is_url(text):  # a pipeline of GStreamer may hold one
        from edge_centernet.sources.network import check_url

        check_url(text)  # now, as --wait would wait for it to become right
    heap.share_arenas()  # before the threads of the capture start, each of which would get its own
    capture = LiveCapture(
        lambda: open_camera(text, options, _log.warning),
        f"camera {text}" if text.isdecimal() else public_name(text),
        frozen_s=settings.frozen_after,
        report=_log.warning,
    )
    capture.start(wait=settings.wait)
    return capture


def _play(settings: Settings, report: Callable[[str], None]) -> LiveCapture:
    """A video at its own pace, as if it were a camera."""
    from edge_centernet.sources.live import LiveCapture
    from edge_centernet.sources.playback import Playback

    source = settings.source or ""
    if settings.pace is None:
        raise ConfigError("--loop: expected --pace real with it: without a pace, a video would never end")
    given = {"--size": settings.size, "--fps": settings.fps, "--fourcc": settings.fourcc}
    if wrong := ", ".join(name for name, value in given.items() if value is not None):
        raise ConfigError(f"{wrong}: expected no such option with --pace real: the video has its own")
    if settings.camera is not None or is_live(source):
        name = public_name(settings.camera or source)
        raise ConfigError(f"--pace real: expected a video, got the camera {name}, which has its own pace")
    said: set[str] = set()

    def warn(line: str) -> None:
        if line not in said:  # each showing would say it again
            said.add(line)
            report(f"Warning: {line}")

    def open_video() -> Video:
        opened = open_source(source, warn)
        if isinstance(opened, Stills):
            got = f"the image {opened.public_names[0]}" if len(opened.names) == 1 else "images"
            raise ConfigError(f"--pace real: expected a video, got {got}")
        return opened

    heap.share_arenas()  # as below
    parts = itertools.count() if settings.loop else None
    capture = LiveCapture(
        lambda: Playback(open_video, parts),
        public_name(source),
        frozen_s=settings.frozen_after,
        ends=not settings.loop,
        report=_log.warning,
    )
    capture.start()
    return capture


def _take_as_sequence(stills: Stills, settings: Settings) -> None:
    """Give images the rate that the settings give them; refuse what follows objects where there is none."""
    if settings.fps is not None:
        stills.as_sequence(settings.fps)
    follows = {
        "--track": settings.track,
        "--count-line": settings.count_line,
        "--zone": settings.zone,
        "--room": settings.room,
        "--rule": settings.rule,
        "--presence": settings.presence,
        "--floor": settings.floor,
        "--store": settings.store,
        "--events-dir": settings.events_dir,
        "--webhook": settings.webhook,
    }
    given = ", ".join(option for option, value in follows.items() if value)
    if given and len(stills.names) == 1:
        raise ConfigError(
            f"{given}: expected a video, a camera or a sequence of images, "
            f"got one image, {stills.public_names[0]}"
        )
    if given and stills.fps is None:
        raise ConfigError(
            f"{given}: expected a video, a camera or a sequence of images, got {len(stills.names)} single "
            "images; if they are consecutive, tell their number per second, as in --fps 10"
        )


def capture_state(frames: Frames, newest: Frame | None) -> CaptureState:
    """The state of a source, of which this is the newest frame; a file is as live as that."""
    if not isinstance(frames, (Stills, Video)):
        return frames.state
    if newest is None:
        return CaptureState("live")
    return CaptureState("live", frames=newest.number + 1, last_frame=newest.captured)


# ---- the outputs --------------------------------------------------------------------------------


class _Totals(Silent):
    """An output for the run itself: it counts for the summary and remembers the newest result."""

    def __init__(self) -> None:
        self.frames = self.detections = 0
        self.latest: Snapshot | None = None

    def update(self, snapshot: Snapshot) -> None:
        self.latest = snapshot
        self.frames += 1
        self.detections += len(snapshot.found)

    def summary(
        self,
        settings: Settings,
        frames: Frames,
        outputs: Sequence[Output],
        stopped_by: int | None,
        unwritten: Unwritten,
    ) -> Summary:
        written = [output.written for output in outputs if isinstance(output, AnnotatedOutput)]
        return Summary(
            detections=self.detections,
            frames=self.frames,
            skipped=frames.skipped,
            stills=isinstance(frames, Stills),
            tally=None if self.latest is None else self.latest.tally,
            annotated=tuple(path for paths in written for path in paths),
            folder=settings.out or DEFAULT_OUT,
            stopped_by=stopped_by,
            unwritten=unwritten.all(),
        )


_KINDS = ("lines", "zones", "rooms", "rules")  # fields of `SceneOptions` that a page may change


class _Places:
    """Passes lines, zones and rooms that were changed on to all that count, draw or announce them."""

    def __init__(self, scene: Scene, options: SceneOptions) -> None:
        """scene: counts. options: what it counts now."""
        self.scene, self.options = scene, options
        self.overlays: list[Overlay] = []
        self.mqtt: MqttOutput | None = None

    def overlay(self, classes: Sequence[str], shapes: bool = True) -> Overlay:
        """One for an output that draws: it remembers where objects were. shapes: whether lines and zones."""
        if not shapes:
            return Overlay(classes, blur=self.options.blur)
        made = Overlay(classes, self.options.lines, self.options.zones, self.options.blur)
        self.overlays.append(made)
        return made

    def apply(self, options: SceneOptions) -> None:
        """Change them while detection runs. For any thread. Raises ConfigError for what does not fit."""
        self.scene.change(options)
        self.options = options
        for overlay in self.overlays:
            overlay.show(options.lines, options.zones)
        if self.mqtt is not None:
            from edge_centernet.outputs.home_assistant import Places

            names = {kind: [one.name for one in getattr(options, kind)] for kind in _KINDS}
            queues = [zone.name for zone in options.zones if zone.queue is not None]
            self.mqtt.announce(Places(**names, queues=queues))


def _open_outputs(
    settings: Settings,
    places: _Places,
    frames: Frames,
    detector: Detector,
    totals: _Totals,
    unwritten: Unwritten,
    write: Callable[[str], None],
    report: Callable[[str], None],
    config: Path | None,
) -> Iterator[Output]:
    """Open what is asked for, in the order of updates; one by one, so that all are closed when one fails."""
    scene = places.options
    model = detector.manifest.model
    # First of all what keeps events: what others report is on the disk by then, and survives a crash.
    name = settings.name or ("pictures" if isinstance(frames, Stills) else frames.name)
    webhooks: WebhookOutput | None = None
    if settings.store is not None or settings.events_dir is not None or settings.webhook:
        from edge_centernet.outputs.history import Clock, HistoryOutput

        clock = Clock()
        if settings.store is not None:
            from edge_centernet.history.store import Retention

            keep = Retention(days=settings.keep)
            yield HistoryOutput(settings.store, name, model.classes, keep, frames.live, unwritten, clock)
        if settings.events_dir is not None:
            yield _event_media(
                settings, settings.events_dir, places.overlay(model.classes), clock, frames.live, unwritten
            )
        if settings.webhook:
            webhooks = _webhooks(settings, scene, name, clock, frames.live, unwritten)
            yield webhooks
    if settings.format_name != "none":
        target = None if settings.out is None else settings.out / f"detections{SUFFIX[settings.format_name]}"
        records = make_records(settings.format_name, model.classes)
        yield RecordsOutput(records, write, target, live=frames.live, unwritten=unwritten)
    # A camera would fill the disk: it is saved only on request.
    if settings.save or (settings.save is None and not frames.live):
        folder = settings.out or DEFAULT_OUT
        prepare_folder(folder, or_later=frames.live)
        yield AnnotatedOutput(
            Annotated(folder, frames, unwritten), places.overlay(model.classes), frames.live
        )
    mqtt: MqttOutput | None = None
    if settings.mqtt is not None:
        from edge_centernet.outputs.mqtt import MqttOutput  # needs the extra "live"

        mqtt = MqttOutput(
            settings.mqtt,
            name=name,
            classes=model.classes,
            wanted=None if settings.classes is None else words(settings.classes),
            lines=[line.name for line in scene.lines],
            zones=[zone.name for zone in scene.zones],
            rooms=[room.name for room in scene.rooms],
            queues=[zone.name for zone in scene.zones if zone.queue is not None],
            rules=[rule.name for rule in scene.rules],
            reset_room=places.scene.reset_room,
            password_file=settings.mqtt_password_file,
            ca_file=settings.mqtt_ca_file,
        )
        mqtt.start()
        places.mqtt = mqtt
        yield mqtt
    if settings.serve is not None:
        from edge_centernet.outputs.prometheus import Metrics  # both need the extra "live"
        from edge_centernet.outputs.web import archive, editor
        from edge_centernet.outputs.web.access import TOKEN_VARIABLE
        from edge_centernet.outputs.web.server import WebServer
        from edge_centernet.service import health

        def capture() -> CaptureState:
            return capture_state(frames, totals.latest.frame if totals.latest else None)

        version = f"{model.name} {model.version}"
        states = tuple if webhooks is None else webhooks.states
        metrics = Metrics(model.classes, model=version, runtime=detector.runtime.name, webhooks=states)
        yield metrics
        tool = editor.Editor(scene, places.apply, places.scene, settings.store, config)
        server = WebServer(
            settings.serve,
            classes=model.classes,
            token=settings.token,
            overlay=places.overlay(model.classes),
            plain=places.overlay(model.classes, shapes=False),
            version=lambda: tool.version,
            name=settings.name or "Camera",
            metrics=metrics.text,
            health=lambda: health(
                capture(),
                totals.latest,
                mqtt=None if mqtt is None else mqtt.trouble,
                webhooks=[asdict(state) for state in states()],
            ),
            capture=capture,
        )
        server.add(editor.handlers(tool))
        if settings.store is not None:
            server.add(archive.handlers(settings.store, settings.events_dir))
        server.start()
        # The token goes to who can use it, not into a journal: one that was given, its owner knows.
        given = settings.token or os.environ.get(TOKEN_VARIABLE)
        hide = given and not sys.stderr.isatty()
        # Where looking needs no token, changing does: who opens this address may do both.
        report(f"Live page: {server.url.partition('?')[0] if hide else server.owner_url}")
        yield server
    if frames.live:
        from edge_centernet.outputs.status import StatusOutput, WatchdogOutput
        from edge_centernet.service import Watchdog

        yield StatusOutput(model.classes)
        yield WatchdogOutput(Watchdog(model.classes))


def _event_media(
    settings: Settings, folder: Path, overlay: Overlay, clock: Clock, live: bool, unwritten: Unwritten
) -> EventMedia:
    """Pictures and clips of events.

    Args:
        settings: bounds of the folder, and the length of clips.
        folder: where they go.
        overlay: draws them.
        clock: times of events.
        live: whether the source does not wait.
        unwritten: is told what the disk does not take.
    """
    from edge_centernet.outputs.event_media import EventMedia, MediaFolder

    prepare_folder(folder, or_later=live)
    media = MediaFolder(folder, settings.events_keep, settings.events_max << 20, unwritten)
    return EventMedia(media, overlay, clock, live=live, clip_s=settings.clips)


def _webhooks(
    settings: Settings, scene: SceneOptions, name: str, clock: Clock, live: bool, unwritten: Unwritten
) -> WebhookOutput:
    """The receivers of events.

    Args:
        settings: who they are.
        scene: places that there are.
        name: of the camera.
        clock: times of events.
        live: whether the source does not wait.
        unwritten: is told what the disk does not take.
    """
    from edge_centernet.outputs.webhook import WebhookOutput, parse_webhook

    places = [one.name for kind in (scene.lines, scene.zones, scene.rooms) for one in kind]
    hooks = [parse_webhook(text, number + 1, places) for number, text in enumerate(settings.webhook)]
    return WebhookOutput(
        hooks,
        settings.webhook_queue,
        camera=name,
        clock=clock,
        live=live,
        events_dir=settings.events_dir,
        unwritten=unwritten,
    )
