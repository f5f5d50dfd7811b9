"""What Prometheus scrapes: counts, rates and times.

No label has a value per object, such as an id: each value is a time series that Prometheus keeps for weeks.
Where there are several cameras, the label `camera` tells them apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_centernet import __version__
from edge_centernet.outputs import Silent
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Snapshot, Tally

if TYPE_CHECKING:  # only where there are webhooks
    from edge_centernet.outputs.webhook import WebhookState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of `Metrics.text`
_STATES = ("starting", "live", "frozen", "lost", "stuck", "ended")
# Seconds. The first list covers the steps of a network of a few megabytes on a Xeon and on a small ARM board.
_STAGE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_AGE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class Metrics(Silent):
    """The metrics of one camera, in a registry of their own.

    classes: names by class_id.
    model, runtime: what runs where; shown as labels of edge_centernet_build_info.
    Every method may be called from any thread.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        model: str = "",
        runtime: str = "",
        webhooks: Callable[[], Sequence[WebhookState]] = tuple,
    ) -> None:
        """Make the registry; every class starts at 0, so that a first detection is seen as an increase.

        webhooks: returns how each receiver of events does.
        """
        self._classes = tuple(classes)
        self._build = {"version": __version__, "model": model, "runtime": runtime}
        self._capture = CaptureState()
        self._webhooks = webhooks
        self._tally = Tally()
        self._in_view = np.zeros(len(self._classes), np.int64)
        self._fps = 0.0
        self._unwritten = ""
        self._registry = CollectorRegistry()
        prefix = "edge_centernet"
        self._results = Counter(
            f"{prefix}_results", "Frames that went through the network.", registry=self._registry
        )
        self._detections = Counter(
            f"{prefix}_detections", "Boxes found, by class.", ["class"], registry=self._registry
        )
        for name in self._classes:
            self._detections.labels(name)
        self._stage = Histogram(
            f"{prefix}_stage_seconds",
            "Time of each step of the detector.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self._registry,
        )
        self._age = Histogram(
            f"{prefix}_frame_age_seconds",
            "From the capture of a frame to its result.",
            buckets=_AGE_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Absolutes(self))

    def update(self, snapshot: Snapshot) -> None:
        """Count one result. Takes microseconds; keeps nothing of the image."""
        found = np.bincount(snapshot.found.class_id, minlength=len(self._classes))
        for class_id in np.flatnonzero(found):
            self._detections.labels(self._classes[class_id]).inc(int(found[class_id]))
        for stage, ms in snapshot.ms.items():
            self._stage.labels(stage).observe(ms / 1000.0)
        self._age.observe(snapshot.age_ms / 1000.0)
        self._results.inc()
        self._in_view, self._fps, self._capture = found, snapshot.fps, snapshot.capture
        self._unwritten = snapshot.unwritten
        if snapshot.tally is not None:
            self._tally = snapshot.tally

    def waiting(self, capture: CaptureState) -> None:
        """Report the state of the source while no frame comes; rate and boxes are 0 unless it is live."""
        self._capture = capture
        if capture.state != "live":
            self._fps = 0.0
            self._in_view = np.zeros(len(self._classes), np.int64)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, of CONTENT_TYPE."""
        return text_of({"": self})

    def collect(self) -> Iterator[Metric]:
        """All metrics of this camera."""
        return iter(self._registry.collect())


def text_of(cameras: Mapping[str, Metrics]) -> bytes:
    """The metrics of cameras by their names, and those of the process, in the format of CONTENT_TYPE."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Joined(cameras))
    return generate_latest(registry)


class _Joined(Collector):
    """Each metric once, with the values of all cameras below it, as the format wants it."""

    def __init__(self, cameras: Mapping[str, Metrics]) -> None:
        self._cameras = cameras

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        joined: dict[str, Metric] = {}
        for name, metrics in self._cameras.items():
            label = {"camera": name} if name else {}
            for metric in metrics.collect():
                whole = joined.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    whole.add_sample(sample.name, {**label, **sample.labels}, sample.value)
        yield from joined.values()


class _Absolutes(Collector):
    """Totals and states that are counted elsewhere: reported as they stand, so that they cannot drift apart.

    Prometheus' own `Counter` only adds, and would have to be fed with differences that a missed frame breaks.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._of = metrics

    def describe(self) -> list[Metric]:
        return []  # names are checked when scraped; there is nobody to collide with

    def collect(self) -> Iterator[Metric]:
        of, capture, tally = self._of, self._of._capture, self._of._tally
        # 1. What runs, and the source.
        yield _gauge("build_info", "1; the labels say what runs.", of._build, 1)
        yield _counter("frames", "Frames read from the camera.", capture.frames)
        unused = "Frames read and not used, because a newer one was there."
        yield _counter("frames_dropped", unused, capture.dropped)
        yield _counter("capture_reopened", "Times the camera was opened again.", capture.reopened)
        # One series per state, 0 or 1: Prometheus' idiom for an enumeration, so that a rule can name one.
        state = _family("capture_state", "1 for the state the camera is in.", ["state"])
        for name in _STATES:
            state.add_metric([name], float(name == capture.state))
        yield state
        if capture.last_frame is not None:
            # A time and not an age: an age would stop growing when this process hangs.
            wall = time.time() - (time.monotonic() - capture.last_frame)
            text = "Unix time at which the newest frame was read."
            yield _gauge("last_frame_timestamp_seconds", text, {}, wall)
        waits = "1 while counts or records cannot be written, as a disk is full or read-only."
        yield _gauge("unwritten", waits, {}, float(bool(of._unwritten)))
        # 2. What is in view.
        yield _gauge("fps", "Results a second over the last seconds.", {}, of._fps)
        in_view = _family("objects", "Boxes in the newest frame.", ["class"])
        for name, count in zip(of._classes, of._in_view, strict=True):
            in_view.add_metric([name], int(count))
        yield in_view
        # 3. Lines and zones.
        crossings = CounterMetricFamily(
            "edge_centernet_crossings", "Objects that crossed a line.", labels=["line", "direction", "class"]
        )
        for line in tally.lines:
            for name, (n_in, n_out) in _by_class(of._classes, line.by_class, (line.inward, line.outward)):
                crossings.add_metric([line.name, "in", name], n_in)
                crossings.add_metric([line.name, "out", name], n_out)
        entered = CounterMetricFamily(
            "edge_centernet_zone_entered", "Visits to a zone.", labels=["zone", "class"]
        )
        inside = _family("zone_occupancy", "Objects in a zone now.", ["zone", "class"])
        mean = _family("zone_mean_dwell_seconds", "Mean length of a visit.", ["zone"])
        longest = _family("zone_longest_dwell_seconds", "Longest visit.", ["zone"])
        for zone in tally.zones:
            totals = zone.inside, zone.entered
            for name, (n_inside, n_entered) in _by_class(of._classes, zone.by_class, totals):
                inside.add_metric([zone.name, name], n_inside)
                entered.add_metric([zone.name, name], n_entered)
            mean.add_metric([zone.name], zone.mean_dwell_s)
            longest.add_metric([zone.name], zone.longest_s)
        yield from (crossings, entered, inside, mean, longest)
        people = _family("room_occupancy", "People in a room, and the bounds of that.", ["room", "bound"])
        for room in tally.rooms:
            for bound, number in (("low", room.low), ("median", room.inside), ("high", room.high)):
                people.add_metric([room.name, bound], number)
        yield people
        # 4. Queues and rules.
        length = _family("queue_length", "Persons who wait in a zone that is a queue.", ["zone"])
        waiting = _family("queue_waiting_seconds", "How long those in a queue have waited.", ["zone", "of"])
        waited = _family(
            "queue_waited_seconds", "How long those waited who left in the last 15 minutes.", ["zone", "of"]
        )
        for zone in tally.zones:
            if (queue := zone.queue) is not None:
                length.add_metric([zone.name], queue.length)
                waiting.add_metric([zone.name, "mean"], queue.mean_s)
                waiting.add_metric([zone.name, "longest"], queue.longest_s)
                # NaN is Prometheus' word for a quantile of nothing; a 0 would be a short wait.
                for of_whom, seconds in (("mean", queue.left_mean_s), ("p90", queue.left_p90_s)):
                    waited.add_metric([zone.name, of_whom], math.nan if seconds is None else seconds)
        alerts = _family("alert", "1 while a rule's alert is on.", ["rule", "kind", "place"])
        for rule in tally.rules:
            alerts.add_metric([rule.name, rule.kind, rule.where], float(rule.active))
        yield from (length, waiting, waited, alerts)
        # 5. Webhooks.
        queued = _family("webhook_queued", "Messages that wait for their receiver.", ["webhook"])
        up = _family("webhook_up", "1 if the receiver took the last message.", ["webhook"])
        outcomes = CounterMetricFamily(
            "edge_centernet_webhook_messages",
            "Messages that a receiver took, and those that it refused or that were dropped.",
            labels=["webhook", "outcome"],
        )
        for hook in of._webhooks():
            queued.add_metric([hook.name], hook.queued)
            up.add_metric([hook.name], float(not hook.trouble))
            outcomes.add_metric([hook.name, "sent"], hook.sent)
            outcomes.add_metric([hook.name, "failed"], hook.failed)
        yield from (queued, up, outcomes)


def _by_class(
    classes: Sequence[str], counted: Mapping[str, tuple[int, int]], totals: tuple[int, int]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Both counts of every class, so that a first one is seen as an increase; they add up to the totals.

    What an earlier release counted is in no class: to Prometheus an empty label is one that is not there.
    """
    for name in dict.fromkeys((*classes, *counted)):
        yield name, counted.get(name, (0, 0))
    first, second = (max(0, total - sum(of[i] for of in counted.values())) for i, total in enumerate(totals))
    if first or second:
        yield "", (first, second)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"edge_centernet_{name}", text, value=value)


def _gauge(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = _family(name, text, list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _family(name: str, text: str, labels: list[str]) -> GaugeMetricFamily:
    """A gauge with one value for each combination of its labels' values, to be added."""
    return GaugeMetricFamily(f"edge_centernet_{name}", text, labels=labels)
