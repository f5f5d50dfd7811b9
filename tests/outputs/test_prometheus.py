"""The metrics, read back by the parser of Prometheus' own Python client."""

from __future__ import annotations

import time

import pytest
from snapshots import CLASSES, counted, snapshot

import edge_centernet
from edge_centernet.sources import CaptureState

pytest.importorskip("prometheus_client", reason="the extra `live` is not installed")

from prometheus_client.parser import text_string_to_metric_families

from edge_centernet.outputs.prometheus import Metrics

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
    assert value(metrics, "crossings_total", line="door", direction="in") == 12
    assert value(metrics, "crossings_total", line="door", direction="out") == 9
    assert value(metrics, "zone_occupancy", zone="shop") == 3
    assert value(metrics, "zone_entered_total", zone="shop") == 4
    assert value(metrics, "zone_mean_dwell_seconds", zone="shop") == 3.25


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
    assert value(metrics, "crossings_total", line="door", direction="in") == 5


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
    from edge_centernet.tracking.state import LineCount, Tally

    metrics, name = Metrics(CLASSES), 'say "door"\\\nor é'
    metrics.update(snapshot(0, tally=Tally((LineCount(name, 7, 0),))))
    assert value(metrics, "crossings_total", line=name, direction="in") == 7


def test_two_cameras_in_one_process_do_not_meet() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(CLASSES), Metrics(CLASSES)
    one.update(snapshot(0))
    assert (value(one, "results_total"), value(other, "results_total")) == (1, 0)
