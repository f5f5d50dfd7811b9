"""What is kept of a measurement, as one JSON object.

    {"kind": "edge-centernet bench", "format": 1, "date", "interrupted", "machine", "versions", "model",
     "source", "settings", "board", "results": [RESULT, ...],
     "failures": [{"runtime", "threads", "reason"}, ...]}

RESULT has runtime, precision, threads; p50_ms, p90_ms, p99_ms, each {preprocess, inference, decode,
end_to_end}; fps; frame_age_ms ({p50, p90, p99}, null but for a live source); peak_rss_mb, steady_rss_mb;
cold_start_ms; and `rounds`, with the medians of each, from which the spread can be computed again.
docs/bench.md explains the fields that people need. There is no path, host name, user or serial number in it.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from edge_centernet.errors import ConfigError

KIND, FORMAT = "edge-centernet bench", 1
STEPS = ("preprocess", "inference", "decode", "end_to_end")
_PERCENTILES = (50, 90, 99)
# Steps of a start, in order, and their sum.
_COLD = ("interpreter", "imports", "open", "read", "detect", "total")
# What a comparison reads; a record without it was edited by hand.
_NEEDED = ("runtime", "precision", "threads", "p50_ms", "p90_ms", "p99_ms", "fps", "peak_rss_mb", "rounds")

Record = dict[str, Any]


def percentiles(values: list[float]) -> dict[str, float]:
    """{"p50", "p90", "p99"}, interpolated linearly between two values."""
    found = np.percentile(np.array(values), _PERCENTILES)
    return {f"p{p}": round(float(value), 3) for p, value in zip(_PERCENTILES, found, strict=True)}


def figures(turns: list[dict[str, Any]]) -> Record:
    """The figures of one worker: over all frames of all its turns together, and the medians of each turn.

    turns: as `bench.worker` answers, each with "round", its number, and "at_s", when it began. Those without
    a frame count for nothing.
    """
    turns = [turn for turn in turns if turn["ms"]["end_to_end"]]
    # Percentiles of all frames together: the mean of the turns' percentiles would hide a rare stall.
    pooled = {step: percentiles([ms for turn in turns for ms in turn["ms"][step]]) for step in STEPS}
    by_rank = {f"p{p}_ms": {step: pooled[step][f"p{p}"] for step in STEPS} for p in _PERCENTILES}
    ages = [age for turn in turns for age in turn["age_ms"]]
    frames = sum(len(turn["ms"]["end_to_end"]) for turn in turns)
    seconds = sum(turn["seconds"] for turn in turns)
    rounds = []
    for turn in turns:
        count = len(turn["ms"]["end_to_end"])
        one: Record = {"round": turn["round"], "at_s": round(turn["at_s"], 2), "frames": count}
        one["p50_ms"] = {step: round(statistics.median(turn["ms"][step]), 3) for step in STEPS}
        one["fps"] = round(count / turn["seconds"], 2)
        if turn["age_ms"]:
            one["age_ms"] = round(statistics.median(turn["age_ms"]), 1)
        # What the machine does not report is left out.
        one |= {name: turn[name] for name in ("temperature_c", "watts") if turn.get(name) is not None}
        rounds.append(one)
    return {
        **by_rank,
        "fps": round(frames / seconds, 2),
        "frame_age_ms": percentiles(ages) if ages else None,
        "peak_rss_mb": round(max(turn["peak_rss_mb"] for turn in turns), 1),
        "frames": frames,
        "seconds": round(seconds, 2),
        "rounds": rounds,
    }


def cold_start(starts: list[dict[str, float]]) -> Record:
    """The start of median length, step by step, and how long all of them took. starts: `Worker.start_ms`."""
    # Medians of each step would not add up to the median of the whole; the steps of one start do.
    middle = sorted(starts, key=lambda start: start["total"])[(len(starts) - 1) // 2]
    return {
        **{step: round(middle[step], 1) for step in _COLD},
        "first_inference": round(middle["first_inference"], 2),
        "totals": [round(start["total"], 1) for start in starts],
    }


def medians(result: Record, step: str = "end_to_end") -> list[float]:
    """The median milliseconds of each round."""
    return [turn["p50_ms"][step] for turn in result["rounds"]]


def spread(result: Record) -> float:
    """How far the rounds lie apart: half the range of their medians, as a share of the middle one."""
    # The range, not the standard deviation: with 3 to 20 rounds the one that was disturbed shall be seen.
    values = medians(result)
    return (max(values) - min(values)) / 2.0 / statistics.median(values)


def without_paths(text: str, model: Path) -> str:
    """A message with only the last part of each path, for folders reveal whose machine it is."""
    for known in (str(model.resolve()), str(model)):  # first: it may hold spaces, at which the pattern stops
        text = text.replace(known, model.name)
    return re.sub(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+", "", text)


def read_record(path: Path) -> Record:
    """A record that `--json` wrote. Raises ConfigError, in one line, for anything else."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(
            f"{path}: expected a record of 'edge-centernet bench --json', got no JSON"
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ConfigError(f"{path}: expected a record of 'edge-centernet bench --json', got other JSON")
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise ConfigError(
            f"{path}: expected format {FORMAT}, got {found}: measure again, or use the version that wrote it"
        )
    if missing := [name for result in content.get("results", []) for name in _NEEDED if name not in result]:
        raise ConfigError(f"{path}: expected {missing[0]} in every result, found one without: is it edited?")
    if not content.get("results"):
        raise ConfigError(f"{path}: expected at least one result, found none: every engine failed there")
    return content


def as_text(record: Record) -> str:
    """The record as `--json` writes it, indented so that two of them can be compared line by line."""
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"
