"""One run of `detect`: sources, a model, scenes and outputs, from opening to closing.

    source -> Pipeline -> Scene -> Snapshot -> each Output

`run` is all of it. It needs the options of the command line as `Settings`, one for each camera, and nothing
of the command line itself: it prints nothing, and reports through the functions that it is given. A `_Camera`
is what one camera has for itself; model, pipeline and server are shared.

What cameras, services and the network need is imported where the settings ask for it, so that an image is
detected without the packages of the extra "live", and without the time that importing them takes.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_centernet.camera_config import ConfigFile, Settings
from edge_centernet.detector import Detector
from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten, next_folder, prepare_folder
from edge_centernet.outputs import Output
from edge_centernet.outputs.annotate import Annotated, AnnotatedOutput, Overlay
from edge_centernet.outputs.records import SUFFIX, RecordsOutput, make_records
from edge_centernet.outputs.screen import Screen, ScreenOutput
from edge_centernet.pipeline import Pipeline, Rate, Result
from edge_centernet.runtimes.base import Runtime
from edge_centernet.sources import CaptureState
from edge_centernet.sources.files import Stills, Video, is_live, public_name
from edge_centernet.sources.opening import capture_state, open_frames
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
    from edge_centernet.outputs.prometheus import Metrics
    from edge_centernet.outputs.status import StatusLine
    from edge_centernet.outputs.web.server import WebServer
    from edge_centernet.outputs.web.view import View
    from edge_centernet.outputs.webhook import WebhookOutput
    from edge_centernet.service import Watchdog
    from edge_centernet.sources.live import LiveCapture
    from edge_centernet.sources.opening import Frames

DEFAULT_OUT = Path("detections")  # folder for annotated copies; records are only kept where a folder is given

_QUIET_S = 0.5  # a camera that gave no frame for so long is silent
_TILES_MS = 200.0  # with --tiles auto, so that a tracker sees five frames a second
_STALLED_S = 10.0  # one that gives frames, but no results, is silent after so long

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run did with one camera, or with all the images of a source.

    name: the camera's; "" of a single source.
    detections, frames: how many were reported, of how many frames. skipped: files that could not be read.
    stills: whether the frames were single images.
    tally: the last counts; None without lines and zones.
    annotated: the files with annotations. folder: the one they are in.
    stopped_by: number of the signal that ended the run; None if the source ended.
    unwritten: what a full or read-only disk, or a reader that stopped, did not take; "" if nothing.
    """

    name: str
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
    cameras: Sequence[Settings],
    open_model: Callable[[], Runtime],
    write: Callable[[str], None],
    report: Callable[[str], None],
    files: Sequence[ConfigFile | None] = (),
    screen: Screen | None = None,
) -> list[Summary]:
    """Detect until the source ends, or until SIGINT, SIGTERM or SIGHUP; files are complete then.

    A full or read-only disk ends nothing: what is counted stays in memory, and writing is tried again. Nor
    does a fault of one of several cameras: it is logged, and that camera goes on with its next frame.

    Args:
        cameras: the settings of each, at least one; several are live sources with names.
        open_model: opens the model; called after the settings are checked.
        write: gets the text of the records, on threads of its own: one for each camera.
        report: gets lines for people: a file that was skipped, where the live page is.
        files: for each camera where its lines, zones and rooms are written; the page saves changes there.
        screen: shows how a run over files goes on, and lines for people instead of records where it takes
          them.

    To be called on the main thread, because of the signals. Returns a summary of each camera.
    Raises ConfigError for settings that do not fit together, and what opening model, sources and outputs
    raises.
    """
    # 1. What is quickly found to be wrong comes before the model, which takes seconds to load.
    _check_together(cameras)
    options = [_scene_options(settings) for settings in cameras]
    for settings, scene in zip(cameras, options, strict=True):
        _check_events(settings, scene)
    for settings in cameras:
        if settings.out is not None:
            # A camera's service must start again on a disk that has become read-only.
            prepare_folder(settings.out, or_later=_takes_live(settings))
    with ExitStack() as stack:
        # 2. The model, and for each camera its scene, its source and its outputs. The stack closes each, also
        #    if a later one cannot be opened.
        runtime = open_model()
        stack.callback(runtime.close)
        shared = _Shared(runtime, len(cameras) > 1, write, report, screen or Screen())
        opened = [
            _Camera(settings, scene, shared, stack, file)
            for settings, scene, file in zip(cameras, options, files or [None] * len(cameras), strict=True)
        ]
        stack.callback(_close_together, opened)
        if cameras[0].serve is not None:
            stack.callback(_serve(cameras[0], opened, report).close)
        # 3. The loop.
        first, *others = opened
        beside = [(_live(camera.frames), camera.detector) for camera in others]
        pipeline = stack.enter_context(Pipeline(first.frames, first.detector, beside))
        stops = [output.stop for camera in opened for output in camera.records]
        with _stop_on_signals(pipeline.stop, *stops) as stopped:
            for result in pipeline:
                if result is not None:
                    opened[result.lane].take(result)
                for camera in opened:
                    camera.look()
            # 4. Only a run that no error ended writes what stands at the end of its records.
            for camera in opened:
                for output in camera.records:
                    output.finish()
    # After all is closed, because only then every file has its name.
    return [camera.summary(stopped[0] if stopped else None) for camera in opened]


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
    if given and not (scene.lines or scene.counted):
        raise ConfigError(f"{given}: nothing is counted that it could tell; expected --count-line or --zone")
    if settings.clips is not None and settings.events_dir is None:
        raise ConfigError("--clips: expected --events-dir with it, the folder to write them to")


def _check_together(cameras: Sequence[Settings]) -> None:
    """Several must be live, as frames of a file would wait for all others; their records are one stream."""
    if len(cameras) == 1:
        return
    for settings in cameras:
        if not _takes_live(settings):
            raise ConfigError(
                f"--source {public_name(settings.source or '')}: expected only cameras and streams where "
                "there are several; name files and folders without --source, as in `detect a.jpg b.jpg`"
            )
        if settings.format_name not in (None, "jsonl", "none"):
            raise ConfigError(
                f"--format {settings.format_name}: expected jsonl or none with several cameras, whose "
                "records come in turn"
            )


def _recorded(settings: Settings) -> float | None:
    """--recorded in seconds since 1970; ConfigError for what is no time, or where nothing was recorded."""
    if settings.recorded is None:
        return None
    if _takes_live(settings):
        raise ConfigError("--recorded: expected with a video file alone; what a camera sees is of now")
    try:
        return datetime.fromisoformat(settings.recorded).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"--recorded: expected a time such as 2026-11-24T09:00, got {settings.recorded!r}"
        ) from None


def _refuse_to_count_again(settings: Settings, began: int) -> None:
    """Raise ConfigError where the store has counts that those of a recording would be added to by mistake.

    began: of the recording, milliseconds since 1970.
    """
    from edge_centernet.history.store import last_alive

    store = settings.store
    if store is None or not store.exists() or not store.stat().st_size:
        return
    until = last_alive(store)
    if until is not None and settings.recorded is None:
        raise ConfigError(
            f"--store {store}: it has counts already, and those of a recording would be added as if they "
            "were of now; name a new file, or the time of the recording by --recorded"
        )
    if until is not None and until > began:
        known = f"{datetime.fromtimestamp(until / 1000):%Y-%m-%d %H:%M:%S}"
        raise ConfigError(
            f"--store {store}: it has counts up to {known} already, and is filled in the order of time; name "
            "a new file to count again, or for an earlier recording"
        )


def _takes_live(settings: Settings) -> bool:
    """Whether the source gives frames in real time and is opened again when it is lost."""
    return settings.camera is not None or is_live(settings.source or "") or settings.pace is not None


def _close_together(cameras: Sequence[_Camera]) -> None:
    """Close at once what may wait for a driver or a broker: a service has 20 seconds for all of it."""
    waits = [camera.frames.close for camera in cameras]
    waits += [camera.mqtt.close for camera in cameras if camera.mqtt is not None]
    threads = [threading.Thread(target=close, daemon=True) for close in waits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- one camera ---------------------------------------------------------------------------------


class _Shared:
    """What all cameras of a run have in common.

    several: whether there are others. line, watchdog: None of files, which need neither.
    """

    line: StatusLine | None = None
    watchdog: Watchdog | None = None

    def __init__(
        self,
        runtime: Runtime,
        several: bool,
        write: Callable[[str], None],
        report: Callable[[str], None],
        screen: Screen,
    ) -> None:
        self.runtime, self.several, self.write, self.report = runtime, several, write, report
        self.screen = screen

    @functools.cached_property
    def folder(self) -> Path:
        """Where annotated copies go unless a folder is given: one that holds nothing of an earlier run."""
        return next_folder(DEFAULT_OUT)


class _Camera:
    """What one camera, or source of images, has for itself: detector, scene, outputs and their faults."""

    mqtt: MqttOutput | None = None  # each is among the outputs, too
    metrics: Metrics | None = None
    view: View | None = None
    webhooks: WebhookOutput | None = None

    def __init__(
        self,
        settings: Settings,
        options: SceneOptions,
        shared: _Shared,
        stack: ExitStack,
        file: ConfigFile | None,
    ) -> None:
        """Open all of it; the stack closes it.

        Args:
            settings: of this camera.
            options: what is followed and counted from the start.
            shared: what it shares with others.
            stack: closes what is opened.
            file: where the page saves lines, zones and rooms.
        """
        self.settings, self.options, self.shared, self.file = settings, options, shared, file
        self._overlays: list[Overlay] = []
        self.name = (settings.name or "") if shared.several else ""
        self.unwritten = Unwritten()
        self.folder = settings.out or DEFAULT_OUT  # of annotated copies
        # 1. The scene, which decides what the detector must look for.
        model = shared.runtime.manifest.model
        threshold = model.suggested if settings.threshold is None else settings.threshold
        wanted = None if settings.classes is None else words(settings.classes)
        self.scene = Scene(options, threshold, model.classes, wanted, self.unwritten, self.name)
        stack.callback(self.scene.close)
        self.detector = Detector(
            shared.runtime,
            threshold=self.scene.detector_threshold,
            max_detections=settings.max_detections,
            only=self.scene.detector_classes,
            tiles=settings.tiles,
            tiles_ms=_TILES_MS if _takes_live(settings) else None,
        )
        # 2. The source, and the outputs.
        self.frames = open_frames(settings, shared.report, shared.several)
        stack.callback(self.frames.close)
        self.title = settings.name or ("pictures" if isinstance(self.frames, Stills) else self.frames.name)
        played = settings.source is not None and not is_live(settings.source)
        if not settings.name and played and not isinstance(self.frames, Stills):
            self.title = Path(self.title).name
        # Never the address of a camera, which would be on every screen.
        self.heading = self.title if settings.name or played else "Camera"
        self.outputs: list[Output] = []
        for output in _open_outputs(self):
            self.outputs.append(output)
            stack.callback(output.close)
        self.records = [output for output in self.outputs if isinstance(output, RecordsOutput)]
        # 3. What is counted of it here.
        self._frames = self._detections = 0
        self._latest: Snapshot | None = None
        self._rate = Rate()
        self._heard = self._looked = time.monotonic()
        self._fault = ""

    def overlay(self, shapes: bool = True) -> Overlay:
        """One for an output that draws: it remembers where objects were. shapes: whether lines and zones."""
        options, classes = self.options, self.shared.runtime.manifest.model.classes
        if not shapes:
            return Overlay(classes, blur=options.blur)
        self._overlays.append(Overlay(classes, options.lines, options.zones, options.blur))
        return self._overlays[-1]

    def change(self, options: SceneOptions) -> None:
        """Count at other lines, zones, rooms and rules. For any thread.

        Raises ConfigError for what does not fit together; nothing is changed then.
        """
        self.scene.change(options)
        self.options = options
        for overlay in self._overlays:
            overlay.show(options.lines, options.zones)
        if self.view is not None:
            self.view.show(options.lines, options.zones)
        if self.mqtt is not None:
            self.mqtt.announce(
                lines=[line.name for line in options.lines],
                zones=[zone.name for zone in options.counted],
                rooms=[room.name for room in options.rooms],
                queues=[zone.name for zone in options.zones if zone.queue is not None],
                rules=[rule.name for rule in options.rules],
            )

    def take(self, result: Result) -> None:
        """Pass a result to the outputs, with tracks, counts, rate and the state of the source."""
        self._heard = self._looked = time.monotonic()
        with self._contained():
            found, tracks, tally = self.scene.update(result.frame, result.found)
            self._latest = snapshot = Snapshot(
                frame=result.frame,
                found=found,
                ms=result.ms,
                age_ms=result.age_ms,
                fps=self._rate.tick(),
                capture=capture_state(self.frames, result.frame),
                tracks=tracks,
                tally=tally,
                seen=result.found,
                timed=self.frames.fps is not None,
                unwritten=self.unwritten.now(),
            )
            self._frames += 1
            self._detections += len(found)
            for output in self.outputs:
                output.update(snapshot)
            if self._fault:
                _log.warning("%s: all is well again", self.name)
                self._fault = ""

    def look(self) -> None:
        """Tell the outputs, twice a second, if a live source is silent."""
        now = time.monotonic()
        if not self.frames.live or now - self._looked < _QUIET_S:
            return
        self._looked = now
        state = self.state()
        # A network that is slow, or shared by many cameras, is no silence of this one.
        if now - self._heard < _STALLED_S and state.last_frame and now - state.last_frame < _QUIET_S:
            return
        with self._contained():
            for output in self.outputs:
                output.waiting(state)

    def state(self) -> CaptureState:
        """How the source does now. For any thread."""
        state = capture_state(self.frames, self._latest.frame if self._latest else None)
        return replace(state, detail=state.detail or self._fault)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether this camera works, and details. For any thread."""
        from edge_centernet.service import health

        hooks = () if self.webhooks is None else self.webhooks.states()
        return health(
            self.state(),
            self._latest,
            mqtt=None if self.mqtt is None else self.mqtt.trouble,
            webhooks=[asdict(state) for state in hooks],
        )

    def summary(self, stopped_by: int | None) -> Summary:
        """What was done with it. To be asked for when all is closed."""
        written = [output.written for output in self.outputs if isinstance(output, AnnotatedOutput)]
        return Summary(
            name=self.name,
            detections=self._detections,
            frames=self._frames,
            skipped=self.frames.skipped,
            stills=isinstance(self.frames, Stills),
            tally=None if self._latest is None else self._latest.tally,
            annotated=tuple(path for paths in written for path in paths),
            folder=self.folder,
            stopped_by=stopped_by,
            unwritten=self.unwritten.all(),
        )

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Let a fault of one of several cameras be its own: it goes on with its next frame, as the others do.

        A fault of a single one ends the run, and so does the end of whoever reads all records.
        """
        try:
            yield
        except Exception as error:
            if not self.shared.several or isinstance(error, BrokenPipeError):
                raise
            fault = f"{type(error).__name__}: {error}"
            if fault != self._fault:  # not again for each frame
                _log.error("%s: a frame is left out: %s", self.name, fault, exc_info=error)
            self._fault = fault


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


def _live(frames: Frames) -> LiveCapture:
    """The same, of which it is known that it is live."""
    assert not isinstance(frames, (Stills, Video))
    return frames


# ---- the outputs --------------------------------------------------------------------------------


def _open_outputs(camera: _Camera) -> Iterator[Output]:
    """Open what is asked for, in the order of updates; one by one, so that all are closed when one fails."""
    settings, scene, shared, frames = camera.settings, camera.options, camera.shared, camera.frames
    unwritten, model = camera.unwritten, shared.runtime.manifest.model
    # First of all what keeps events: what others report is on the disk by then, and survives a crash.
    if settings.store is not None or settings.events_dir is not None or settings.webhook:
        from edge_centernet.outputs.history import Clock, HistoryOutput

        clock = Clock(recorded=_recorded(settings))
        if settings.store is not None:
            from edge_centernet.history.store import Retention

            if not frames.live:
                _refuse_to_count_again(settings, clock.start())
            keep = Retention(days=settings.keep)
            yield HistoryOutput(
                settings.store, camera.title, model.classes, keep, frames.live, unwritten, clock
            )
        if settings.events_dir is not None:
            yield _event_media(camera, settings.events_dir, camera.overlay(), clock)
        if settings.webhook:
            camera.webhooks = _webhooks(camera, clock)
            yield camera.webhooks
    # Lines for people take the place of records on standard output, not in the file.
    lines = settings.format_name is None and shared.screen.line is not None
    if not (settings.format_name == "none" or (lines and settings.out is None)):
        name = settings.format_name or "jsonl"
        target = None if settings.out is None else settings.out / f"detections{SUFFIX[name]}"
        records = make_records(name, model.classes, camera.name)
        write = _nowhere if lines else shared.write
        yield RecordsOutput(records, write, target, live=frames.live, unwritten=unwritten)
    if isinstance(frames, (Stills, Video)):
        yield ScreenOutput(shared.screen, model.classes, frames)
    # A camera would fill the disk: it is saved only on request.
    if settings.save or (settings.save is None and not frames.live):
        camera.folder = settings.out or shared.folder
        prepare_folder(camera.folder, or_later=frames.live)
        yield AnnotatedOutput(Annotated(camera.folder, frames, unwritten), camera.overlay(), frames.live)
    if settings.mqtt is not None:
        from edge_centernet.outputs.mqtt import MqttOutput  # needs the extra "live"

        camera.mqtt = MqttOutput(
            settings.mqtt,
            name=camera.title,
            classes=model.classes,
            wanted=None if settings.classes is None else words(settings.classes),
            lines=[line.name for line in scene.lines],
            zones=[zone.name for zone in scene.counted],
            rooms=[room.name for room in scene.rooms],
            queues=[zone.name for zone in scene.zones if zone.queue is not None],
            rules=[rule.name for rule in scene.rules],
            reset_room=camera.scene.reset_room,
            password_file=settings.mqtt_password_file,
            ca_file=settings.mqtt_ca_file,
        )
        camera.mqtt.start()
        yield camera.mqtt
    if settings.serve is not None:
        from edge_centernet.outputs.prometheus import Metrics  # both need the extra "live"
        from edge_centernet.outputs.web import archive, editor
        from edge_centernet.outputs.web.view import View

        version = f"{model.name} {model.version}"
        states = tuple if camera.webhooks is None else camera.webhooks.states
        camera.metrics = Metrics(model.classes, model=version, runtime=shared.runtime.name, webhooks=states)
        yield camera.metrics
        camera.view = View(
            camera.heading,
            classes=model.classes,
            overlay=camera.overlay(),
            plain=camera.overlay(shapes=False),
            several=shared.several,
            health=camera.health,
            capture=camera.state,
        )
        tool = editor.Editor(scene, camera.change, camera.scene, settings.store, camera.file)
        camera.view.handlers += editor.handlers(tool, camera.view)
        if settings.store is not None:
            camera.view.handlers += archive.handlers(settings.store, settings.events_dir)
        yield camera.view
    if frames.live:
        from edge_centernet.outputs.status import StatusLine, StatusOutput, WatchdogOutput
        from edge_centernet.service import Watchdog

        shared.line = shared.line or StatusLine(beside_records=not lines)
        shared.watchdog = shared.watchdog or Watchdog(model.classes)
        yield StatusOutput(model.classes, shared.line, camera.name)
        yield WatchdogOutput(shared.watchdog, camera.name)


def _nowhere(_: str) -> None:
    """Where records go that only their file is to have."""


def _event_media(camera: _Camera, folder: Path, overlay: Overlay, clock: Clock) -> EventMedia:
    """Pictures and clips of events. folder: where they go. overlay: draws them. clock: times of events."""
    from edge_centernet.outputs.event_media import EventMedia, MediaFolder

    settings, live = camera.settings, camera.frames.live
    prepare_folder(folder, or_later=live)
    media = MediaFolder(folder, settings.events_keep, settings.events_max << 20, camera.unwritten)
    return EventMedia(media, overlay, clock, live=live, clip_s=settings.clips)


def _webhooks(camera: _Camera, clock: Clock) -> WebhookOutput:
    """The receivers of events. clock: their times."""
    from edge_centernet.outputs.webhook import WebhookOutput, parse_webhook

    settings, scene = camera.settings, camera.options
    places = [one.name for kind in (scene.lines, scene.counted, scene.rooms) for one in kind]
    hooks = [parse_webhook(text, number + 1, places) for number, text in enumerate(settings.webhook)]
    return WebhookOutput(
        hooks,
        settings.webhook_queue,
        camera=camera.title,
        clock=clock,
        live=camera.frames.live,
        events_dir=settings.events_dir,
        unwritten=camera.unwritten,
    )


def _serve(settings: Settings, cameras: Sequence[_Camera], report: Callable[[str], None]) -> WebServer:
    """Start the live page of all cameras, and tell where it is."""
    from edge_centernet.outputs.prometheus import text_of
    from edge_centernet.outputs.web.access import TOKEN_VARIABLE
    from edge_centernet.outputs.web.server import WebServer

    metrics = {camera.name: camera.metrics for camera in cameras if camera.metrics is not None}
    views = [camera.view for camera in cameras if camera.view is not None]
    server = WebServer(
        settings.serve or "", views, token=settings.token, metrics=functools.partial(text_of, metrics)
    )
    server.start()
    # The token goes to who can use it, not into a journal: one that was given, its owner knows.
    given = settings.token or os.environ.get(TOKEN_VARIABLE)
    hide = given and not sys.stderr.isatty()
    # Where looking needs no token, changing does: who opens this address may do both.
    report(f"Live page: {server.url.partition('?')[0] if hide else server.owner_url}")
    return server
