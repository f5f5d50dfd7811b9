"""Percentiles, spread, what may be compared with what, and what is said of two records."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Result

from edge_centernet.bench import record, report
from edge_centernet.errors import ConfigError

STEPS = record.STEPS


def turns(end_to_end: list[list[float]]) -> list[dict[str, Any]]:
    """Turns as a worker answers, of these milliseconds a frame: a tenth preprocessing, a tenth decoding."""
    shares = dict(zip(STEPS, (0.1, 0.8, 0.1, 1.0), strict=True))
    return [
        {
            "ms": {step: [share * ms for ms in frames] for step, share in shares.items()},
            "age_ms": [],
            "seconds": sum(frames) / 1000.0,
            "peak_rss_mb": 90.0 + number,
            "round": number,
            "at_s": float(number),
        }
        for number, frames in enumerate(end_to_end)
    ]


def result(medians: list[float], runtime: str = "tflite") -> dict[str, Any]:
    """One row of a record, with these medians of its rounds."""
    figures = record.figures(turns([[ms] * 50 for ms in medians]))
    cold = dict.fromkeys(("interpreter", "imports", "open", "read", "detect", "total"), 100.0)
    return {
        **{"runtime": runtime, "precision": "int8", "threads": 1, **figures, "cpus": [1], "pinned": True},
        **{"cold_start_ms": cold, "energy": None, "device": "", "shares_core": False, "group": 0},
        **{"executed": {"int8": "yes", "how": "68 of 68 convolutions; XNNPACK takes 68 of 68"}},
        **{"warm_up": {"seconds": 1.0, "settled": True}},
    }


@pytest.fixture
def kept() -> dict[str, Any]:
    """A whole record of one engine: ten rounds between 9.8 and 10.2 ms."""
    machine = {"board": "Raspberry Pi 5 Model B Rev 1.0", "jetpack": "", "cpu": "Cortex-A76", "cores": 4}
    machine |= {
        "machine": "aarch64",
        "emulated": False,
        "system": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.6.20",
    }
    machine |= {"governor": ["performance"], "cpu_quota": None}
    return {
        **{
            "kind": record.KIND,
            "format": record.FORMAT,
            "interrupted": False,
            "machine": machine,
            "failures": [],
        },
        "versions": {"numpy": "2.1.0", "tflite": "ai_edge_litert 2.1.0"},
        "model": {"name": "centernet-nano-256", "version": "1", "sha256": {"tflite": {".tflite": "ab"}}},
        "source": {"kind": "sample", "pictures": 1, "sizes": ["1126x512"], "sha256": "cd"},
        "settings": {"duration_s": 10.0, "rounds": 10, "turn_s": 1.0},
        "board": {
            "load_before": 0.1,
            "temperature_c": None,
            "throttled": [],
            "energy": {"absent": "no sensor"},
        },
        "results": [result([9.8, 9.9, 9.9, 10.0, 10.0, 10.0, 10.1, 10.1, 10.1, 10.2])],
    }


def scaled(kept: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same machine, so many times as slow."""
    other = copy.deepcopy(kept)
    other["results"] = [result([factor * ms for ms in record.medians(kept["results"][0])])]
    return other


def test_figures_are_of_all_frames_and_of_each_round() -> None:
    """Percentiles of 4 + 2 frames; fps by the time they took; the median of each turn; the largest memory."""
    row = record.figures(turns([[10.0, 10.0, 10.0, 20.0], [30.0, 40.0]]))

    assert row["p50_ms"] == {"preprocess": 1.5, "inference": 12.0, "decode": 1.5, "end_to_end": 15.0}
    assert row["p99_ms"]["end_to_end"] == 39.5
    assert (row["fps"], row["frames"], row["peak_rss_mb"]) == (50.0, 6, 91.0)
    assert record.medians(row) == [10.0, 35.0]
    assert record.spread(row) == pytest.approx(12.5 / 22.5)
    assert row["frame_age_ms"] is None


def test_a_cold_start_is_the_middle_one_with_its_own_steps() -> None:
    """Steps of one start add up to its total; medians of each step would not."""
    steps = ("interpreter", "imports", "open", "read", "detect")
    starts = [
        {**dict.fromkeys(steps, ms), "total": 5 * ms, "first_inference": ms / 2} for ms in (90.0, 20.0, 30.0)
    ]
    cold = record.cold_start(starts)

    assert sum(cold[step] for step in steps) == cold["total"] == 150.0
    assert cold["totals"] == [450.0, 100.0, 150.0]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.2, "slower"), (0.9, "faster"), (1.003, "within the spread")]
)
def test_a_difference_is_held_against_the_spread_of_the_rounds(
    kept: dict[str, Any], factor: float, verdict: str
) -> None:
    """Rounds lie within ±2 %: 20 % and -10 % are beyond that, 0.3 % is not."""
    other = scaled(kept, factor)
    found = report.ratio(kept["results"][0], other["results"][0])

    assert found.value == pytest.approx(factor, rel=1e-3)
    assert found.verdict == verdict
    (line,) = [line for line in report.comparison(kept, other).splitlines() if line.startswith("TFLite")]
    assert verdict in line


def test_one_disturbed_round_does_not_hide_a_difference(kept: dict[str, Any]) -> None:
    """A of ten rounds at 10 ms with one at 30 ms is still faster than B at 12 ms."""
    a, b = result([10.0] * 9 + [30.0]), result([12.0] * 10)

    assert report.ratio(a, b) == report.Ratio(1.2, 0.9)
    assert report.ratio(a, b).verdict == "slower"


def test_the_same_record_twice_differs_in_nothing(kept: dict[str, Any]) -> None:
    """No line says "differs", and every ratio is 1."""
    assert list(report.differences(kept, kept)) == []
    assert "1.000" in report.comparison(kept, kept)


def test_another_machine_and_model_are_told(kept: dict[str, Any]) -> None:
    """What figures depend on stands before them, and both are named."""
    other = copy.deepcopy(kept)
    other["machine"] |= {
        "board": "Raspberry Pi 4 Model B Rev 1.4",
        "cpu": "Cortex-A72",
        "governor": ["ondemand"],
    }
    other["model"] |= {"name": "centernet-mbv2-320"}
    other["versions"] |= {"tflite": "ai_edge_litert 2.2.0"}
    other["source"] |= {"sha256": "ef"}
    other["board"] |= {"throttled": ["under-voltage"]}
    other["results"] = [row | {"device": "GPU"} for row in other["results"]]

    assert list(report.differences(kept, other)) == [
        "machine: Raspberry Pi 5 Model B Rev 1.0, Cortex-A76, 4 cores -> "
        "Raspberry Pi 4 Model B Rev 1.4, Cortex-A72, 4 cores",
        "governor: performance -> ondemand",
        "model: centernet-nano-256 1 -> centernet-mbv2-320 1",
        "device: CPU -> GPU",
        "versions: ai_edge_litert 2.1.0 -> ai_edge_litert 2.2.0",
        "throttled: no -> under-voltage",
        "source: other images of the same sizes",
    ]
    changed = copy.deepcopy(kept)
    changed["model"]["sha256"] = {"tflite": {".tflite": "00"}}
    assert list(report.differences(kept, changed)) == ["model: the TFLite file has another content"]


def test_what_has_nothing_in_common_is_refused(kept: dict[str, Any]) -> None:
    """Other engines; a camera beside a file."""
    other = {**copy.deepcopy(kept), "results": [result([10.0], "openvino")]}
    with pytest.raises(
        ConfigError, match="expected an engine with the same threads and precision in both, found none"
    ):
        report.comparison(kept, other)
    live = {**copy.deepcopy(kept), "source": {**kept["source"], "kind": "live"}}
    with pytest.raises(ConfigError, match="expected two records of files or two of cameras, got one of each"):
        report.comparison(kept, live)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "got no JSON"),
        ("[1]", "got other JSON"),
        ('{"kind": "edge-centernet bench", "format": 99}', "expected format 1, got 99"),
        (
            '{"kind": "edge-centernet bench", "format": 1, "results": []}',
            "expected at least one result, found none",
        ),
        (
            '{"kind": "edge-centernet bench", "format": 1, "results": [{}]}',
            "expected runtime in every result",
        ),
    ],
)
def test_other_files_are_one_clear_line(
    run: Callable[..., Result], tmp_path: Path, content: str, message: str
) -> None:
    """Exit code 2, and the file's name."""
    path = tmp_path / "a.json"
    path.write_text(content)
    done = run("bench", "--compare", path, path)

    assert (done.code, done.out) == (2, "")
    assert str(path) in done.err
    assert message in done.err


def test_compare_on_the_command_line(
    run: Callable[..., Result], tmp_path: Path, kept: dict[str, Any]
) -> None:
    """Two files in, a table out; options that would have no effect are refused."""
    for name, content in (("a.json", kept), ("b.json", scaled(kept, 1.5))):
        (tmp_path / name).write_text(record.as_text(content))
    done = run("bench", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert done.code == 0, done.err
    assert "1.500  slower" in done.out
    refused = run("bench", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--threads", "1")
    assert refused.code == 2
    assert "--compare only compares records: leave out threads" in refused.err


def test_doubts_are_told_beside_the_figures(kept: dict[str, Any]) -> None:
    """None for a quiet machine; one for each thing that spoils figures."""
    assert list(report.doubts(kept)) == []
    spoilt = copy.deepcopy(kept)
    spoilt["machine"] |= {"governor": ["ondemand"], "cpu_quota": 1.5}
    spoilt["board"] |= {"load_before": 3.0, "throttled": ["under-voltage"]}
    spoilt["results"][0]["warm_up"]["settled"] = False
    spoilt["results"].append(
        {**result([10.0, 20.0], "openvino"), "shares_core": True, "group": 1, "frames": 99}
    )

    assert [line.partition(":")[0].partition(" (")[0] for line in report.doubts(spoilt)] == [
        "the machine was busy before",
        "the clock follows the load",
        "the container may use 1.5 CPUs' time, whatever the number of threads",
        "the processor was throttled",
        "some threads shared a core",
        "OpenVINO 1",  # too few frames for p99
        "TFLite 1",  # not settled
        "OpenVINO 1",  # rounds far apart
        "memory did not hold all at once",
    ]


def test_table_shows_precisions_and_failures(kept: dict[str, Any]) -> None:
    """A failed engine is a line with its reason."""
    kept["failures"] = [{"runtime": "openvino", "threads": 2, "reason": "crashed (SIGILL), in its start"}]
    text = report.as_text(kept)

    row, start = [line.split() for line in text.splitlines() if line.startswith("TFLite")]
    assert start == ["TFLite", "1", *["100"] * 6]
    assert (
        " ".join(row) == "TFLite 1 int8 (68 of 68 int8) 10.00 10.11 10.20 ±2.0 % 1.00 8.00 1.00 99.9 99 0.10"
    )
    assert "OpenVINO, 2 threads: crashed (SIGILL), in its start" in text
    assert "energy: not measured: no sensor" in text


def test_records_keep_no_paths() -> None:
    """Of messages with paths only the last parts are kept; other slashes stay."""
    model = Path("/home/ann e/models/own.tflite")
    text = (
        "/home/ann e/models/own.tflite: stopped in /usr/lib/python3/x.py (1/2); see https://example.org/a/b"
    )

    assert (
        record.without_paths(text, model) == "own.tflite: stopped in x.py (1/2); see https://example.org/a/b"
    )


def test_a_record_is_json_that_reads_back(tmp_path: Path, kept: dict[str, Any]) -> None:
    """What is written is what is read."""
    path = tmp_path / "a.json"
    path.write_text(record.as_text(kept))

    assert record.read_record(path) == json.loads(json.dumps(kept))
