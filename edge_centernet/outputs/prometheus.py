"""What Prometheus scrapes: counts, rates and times, without a label that grows with the number of objects seen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_centernet import __version__
from edge_centernet.sources.frame import CaptureState
from edge_centernet.tracking.state import Snapshot, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of `Metrics.text`
_STATES = ("starting", "live", "frozen", "lost", "stuck", "ended")
# Seconds. The first list covers the steps of a network of a few megabytes on a Xeon and on a small ARM board.
_STAGE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_AGE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """The numbers of one camera, in a registry of their own.

    classes: names by class_id. model, runtime: what runs where; shown as labels of edge_centernet_build_info.
    Every method may be called from any thread.
    """

    def __init__(self, classes: Sequence[str], *, model: str = "", runtime: str = "") -> None:
        """Make the registry; every class starts at 0, so that a first detection is seen as an increase."""
        self._classes = tuple(classes)
        self._build = {"version": __version__, "model": model, "runtime": runtime}
        self._capture = CaptureState()
        self._tally = Tally()
        self._in_view = np.zeros(len(self._classes), np.int64)
        self._fps = 0.0
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
        ProcessCollector(registry=self._registry)
        self._registry.register(_Absolutes(self))

    def update(self, snapshot: Snapshot) -> None:
        """Count one result. Takes microseconds; keeps nothing of the picture."""
        found = np.bincount(snapshot.found.class_id, minlength=len(self._classes))
        for class_id in np.flatnonzero(found):
            self._detections.labels(self._classes[class_id]).inc(int(found[class_id]))
        for stage, ms in snapshot.ms.items():
            self._stage.labels(stage).observe(ms / 1000.0)
        self._age.observe(snapshot.age_ms / 1000.0)
        self._results.inc()
        self._in_view, self._fps, self._capture = found, snapshot.fps, snapshot.capture
        if snapshot.tally is not None:
            self._tally = snapshot.tally

    def waiting(self, capture: CaptureState) -> None:
        """Say how the source is doing while no frame comes; the rate is 0 unless it is live."""
        self._capture = capture
        if capture.state != "live":
            self._fps = 0.0
            self._in_view = np.zeros(len(self._classes), np.int64)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, of CONTENT_TYPE."""
        return generate_latest(self._registry)


class _Absolutes(Collector):
    """Totals and states that somebody else counts: shown as they stand, so that they cannot drift apart."""

    def __init__(self, metrics: Metrics) -> None:
        self._of = metrics

    def describe(self) -> list[Metric]:
        return []  # names are checked when scraped; there is nobody to collide with

    def collect(self) -> Iterator[Metric]:
        of = self._of
        yield _gauge("build_info", "1; the labels say what runs.", of._build, 1)
        yield from _of_capture(of._capture)
        yield _gauge("fps", "Results a second over the last seconds.", {}, of._fps)
        in_view = GaugeMetricFamily("edge_centernet_objects", "Boxes in the newest frame.", labels=["class"])
        for name, count in zip(of._classes, of._in_view, strict=True):
            in_view.add_metric([name], int(count))
        yield in_view
        yield from _of_tally(of._tally)


def _of_capture(capture: CaptureState) -> Iterator[Metric]:
    yield _counter("frames", "Frames read from the camera.", capture.frames)
    yield _counter(
        "frames_dropped", "Frames read and not used, because a newer one was there.", capture.dropped
    )
    yield _counter("capture_reopened", "Times the camera was opened again.", capture.reopened)
    state = GaugeMetricFamily(
        "edge_centernet_capture_state", "1 for the state the camera is in.", labels=["state"]
    )
    for name in _STATES:
        state.add_metric([name], float(name == capture.state))
    yield state
    if capture.last_frame is not None:
        wall = time.time() - (time.monotonic() - capture.last_frame)
        yield _gauge(
            "last_frame_timestamp_seconds", "Unix time at which the newest frame was read.", {}, wall
        )


def _of_tally(tally: Tally) -> Iterator[Metric]:
    crossings = CounterMetricFamily(
        "edge_centernet_crossings", "Objects that crossed a line.", labels=["line", "direction"]
    )
    for line in tally.lines:
        crossings.add_metric([line.name, "in"], line.inward)
        crossings.add_metric([line.name, "out"], line.outward)
    entered = CounterMetricFamily("edge_centernet_zone_entered", "Visits to a zone.", labels=["zone"])
    inside = GaugeMetricFamily("edge_centernet_zone_occupancy", "Objects in a zone now.", labels=["zone"])
    mean = GaugeMetricFamily(
        "edge_centernet_zone_mean_dwell_seconds", "Mean length of a visit.", labels=["zone"]
    )
    longest = GaugeMetricFamily(
        "edge_centernet_zone_longest_dwell_seconds", "Longest visit.", labels=["zone"]
    )
    for zone in tally.zones:
        entered.add_metric([zone.name], zone.entered)
        inside.add_metric([zone.name], zone.inside)
        mean.add_metric([zone.name], zone.mean_dwell_s)
        longest.add_metric([zone.name], zone.longest_s)
    yield from (crossings, entered, inside, mean, longest)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"edge_centernet_{name}", text, value=value)


def _gauge(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(f"edge_centernet_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
