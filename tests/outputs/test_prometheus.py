"""The metrics, read back by the parser of Prometheus' own Python client."""

from __future__ import annotations

import math
import time

import pytest
from snapshots import CLASSES, counted, snapshot

import edge_centernet
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import LineCount, QueueCount, RuleState, Tally, ZoneCount

pytest.importorskip("prometheus_client", reason="the extra `live` is not installed")

from prometheus_client.parser import text_string_to_metric_families

from edge_centernet.outputs.prometheus import Metrics, text_of

PERSON = {"class": "person"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    """(name, sorted labels) -> value of all that is exposed, ours without their prefix."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name.removeprefix("edge_centernet_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """One sample; KeyError if it is not exposed."""
    return samples(metrics)[name, tuple(sorted(labels.items()))]


@pytest.fixture
def metrics() -> Metrics:
    """Before the first frame."""
    return Metrics(CLASSES, model="centernet-mbv2-320", runtime="openvino")


def test_build_info_names_version_model_and_runtime(metrics: Metrics) -> None:
    """What runs is told by labels."""
    labels = {"version": edge_centernet.__version__, "model": "centernet-mbv2-320", "runtime": "openvino"}
    assert value(metrics, "build_info", **labels) == 1


def test_classes_start_at_zero(metrics: Metrics) -> None:
    """A class not seen yet is exposed with 0: increase() over its first detection would else be 0."""
    assert value(metrics, "detections_total", **{"class": "dog"}) == 0


def test_detections_are_added_up_by_class(metrics: Metrics) -> None:
    """Three frames with two persons and a cat: 6 and 3 in total, 2 and 1 in view."""
    for number in range(3):
        metrics.update(snapshot(number, 2, 0, 2))
    assert value(metrics, "detections_total", **{"class": "person"}) == 6
    assert value(metrics, "detections_total", **{"class": "cat"}) == 3
    assert value(metrics, "objects", **{"class": "person"}) == 2
    assert value(metrics, "objects", **{"class": "dog"}) == 0


def test_frames_read_used_and_dropped(metrics: Metrics) -> None:
    """The camera's own totals are shown as they stand; results count what went through the network."""
    for number in range(3):
        metrics.update(snapshot(number))
    assert value(metrics, "frames_total") == 6
    assert value(metrics, "frames_dropped_total") == 3
    assert value(metrics, "results_total") == 3
    assert value(metrics, "fps") == pytest.approx(19.96)


def test_crossings_equal_the_tally(metrics: Metrics) -> None:
    """Crossings are the tally's totals, by line and direction, however often it is told."""
    for _ in range(3):
        metrics.update(snapshot(0, tally=counted(12, 9, inside=3)))
    assert value(metrics, "crossings_total", line="door", direction="in", **PERSON) == 12
    assert value(metrics, "crossings_total", line="door", direction="out", **PERSON) == 9
    assert value(metrics, "zone_occupancy", zone="shop", **PERSON) == 3
    assert value(metrics, "zone_entered_total", zone="shop", **PERSON) == 4
    assert value(metrics, "zone_mean_dwell_seconds", zone="shop") == 3.25


def test_classes_of_a_line_and_a_zone_add_up_to_the_totals(metrics: Metrics) -> None:
    """What an earlier release counted is in no class; a class that nobody saw yet is 0."""
    line = LineCount("door", 12, 9, {"person": (4, 2), "dog": (1, 0)})
    zone = ZoneCount("shop", 3, 7, 0.0, 0.0, {"person": (3, 7)})
    metrics.update(snapshot(0, tally=Tally((line,), (zone,))))
    inward = {
        dict(labels)["class"]: number
        for (name, labels), number in samples(metrics).items()
        if name == "crossings_total" and dict(labels)["direction"] == "in"
    }
    assert inward == {"person": 4, "dog": 1, "cat": 0, "": 7}
    inside = [number for (name, _), number in samples(metrics).items() if name == "zone_occupancy"]
    assert sorted(inside) == [0, 0, 3]


def test_queues_and_alerts(metrics: Metrics) -> None:
    """Length, waits now and lately; no wait yet is no number; an alert is 1 while it is on."""
    for queue, expected in (
        (QueueCount(2, 30.0, 45.0), [2, 30, 45, None, None]),
        (QueueCount(0, 0.0, 0.0, 3, 20.0, 31.5), [0, 0, 0, 20, 31.5]),
    ):
        zone = ZoneCount("till", 2, 5, 0.0, 0.0, {}, queue)
        rule = RuleState("busy", "queue", "till", queue.length > 1, queue.length)
        metrics.update(snapshot(0, tally=Tally((), (zone,), rules=(rule,))))
        found = [
            value(metrics, "queue_length", zone="till"),
            *(value(metrics, "queue_waiting_seconds", zone="till", of=of) for of in ("mean", "longest")),
            *(value(metrics, "queue_waited_seconds", zone="till", of=of) for of in ("mean", "p90")),
        ]
        assert [None if math.isnan(number) else number for number in found] == expected
        assert value(metrics, "alert", rule="busy", kind="queue", place="till") == (queue.length > 1)


def test_stages_and_age_are_histograms_in_seconds(metrics: Metrics) -> None:
    """12 ms of inference fall between the bounds 0.01 and 0.02; 41.4 ms of age between 0.02 and 0.05."""
    metrics.update(snapshot(0))
    assert value(metrics, "stage_seconds_sum", stage="inference") == pytest.approx(0.012)
    assert value(metrics, "stage_seconds_bucket", stage="inference", le="0.01") == 0
    assert value(metrics, "stage_seconds_bucket", stage="inference", le="0.02") == 1
    assert value(metrics, "frame_age_seconds_bucket", le="0.02") == 0
    assert value(metrics, "frame_age_seconds_bucket", le="0.05") == 1


def test_last_frame_is_a_unix_time(metrics: Metrics) -> None:
    """A frame of ten seconds ago has the clock time of then."""
    metrics.update(snapshot(0, captured=time.monotonic() - 10))
    assert value(metrics, "last_frame_timestamp_seconds") == pytest.approx(time.time() - 10, abs=1)


def test_lost_camera_shows(metrics: Metrics) -> None:
    """While the camera is lost its state says so, the rate is 0 and nothing is in view; totals stay."""
    metrics.update(snapshot(0, 2, tally=counted(5)))
    metrics.waiting(CaptureState("lost", "unplugged", reopened=2, frames=2))
    assert value(metrics, "capture_state", state="lost") == 1
    assert value(metrics, "capture_state", state="live") == 0
    assert value(metrics, "capture_reopened_total") == 2
    assert value(metrics, "fps") == 0
    assert value(metrics, "objects", **{"class": "person"}) == 0
    assert value(metrics, "crossings_total", line="door", direction="in", **PERSON) == 5


def test_a_full_disk_shows(metrics: Metrics) -> None:
    """1 while something waits to be written."""
    metrics.update(snapshot(0, unwritten="a.db: cannot write: No space left on device"))
    assert value(metrics, "unwritten") == 1
    metrics.update(snapshot(1))
    assert value(metrics, "unwritten") == 0


def test_number_of_series_does_not_grow(metrics: Metrics) -> None:
    """After 500 frames with new objects as many series exist as after the first."""
    metrics.update(snapshot(0, 0, 1, 2, tally=counted(1)))
    before = set(samples(metrics))
    for number in range(500):
        metrics.update(snapshot(number, number % 3, tally=counted(number)))
    assert set(samples(metrics)) == before


def test_awkward_names_survive() -> None:
    """A line called by quotes, a backslash and a line break is read back as it was."""
    metrics, name = Metrics(CLASSES), 'say "door"\\\nor é'
    metrics.update(snapshot(0, tally=Tally((LineCount(name, 7, 0, {"person": (7, 0)}),))))
    assert value(metrics, "crossings_total", line=name, direction="in", **PERSON) == 7


def test_two_cameras_in_one_process_do_not_meet() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(CLASSES), Metrics(CLASSES)
    one.update(snapshot(0))
    assert (value(one, "results_total"), value(other, "results_total")) == (1, 0)


def test_cameras_are_told_apart_by_a_label() -> None:
    """Each metric stands once, with a value for each camera; those of the process have no such label."""
    cameras = {"door": Metrics(CLASSES), "yard": Metrics(CLASSES)}
    cameras["door"].update(snapshot(0, 2, tally=counted(3)))
    cameras["yard"].waiting(CaptureState("lost"))
    text = text_of(cameras).decode()
    assert text.count("# TYPE edge_centernet_crossings_total counter") == 1
    found = {
        (sample.name, sample.labels.get("camera"), sample.labels.get("direction")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["edge_centernet_crossings_total", "door", "in"] == 3
    assert found["edge_centernet_results_total", "yard", None] == 0
    assert found["edge_centernet_results_total", "door", None] == 1
    assert found["process_resident_memory_bytes", None, None] > 0
    assert 'capture_state{camera="yard",state="lost"} 1.0' in text
