"""The tables of README and docs, made from the records in docs/benchmarks.

A page holds a call between markers, and behind it what the call gave, so that it reads well without any
build:

    <!-- [[[cog import tables; cog.outl(tables.models()) ]]] -->
    <!-- [[[end]]] -->

    python scripts/tables.py             checks every page; scripts/check calls it
    python scripts/tables.py --write     fills the tables in again, after a new record

A record of other model files than those in the package is an error: it has to be measured again.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cogapp import Cog

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs/benchmarks"
MODELS = ROOT / "edge_centernet/model_zoo"
MARKER = "<!-- [[[cog "
SHIPPED = ("centernet-mbv2-320", "centernet-nano-256")
SUFFIX = {"openvino": ".xml", "tflite": ".tflite", "onnxruntime": ".onnx"}
TITLE = {
    "float": "float, PyTorch",
    "openvino": "INT8, OpenVINO",
    "tflite": "INT8, TFLite",
    "onnxruntime": "INT8, ONNX",
}
CROWDS = {
    "overlap_0.3": "overlap another of their class by IoU > 0.3",
    "overlap_0.5": "overlap another of their class by IoU > 0.5",
    "centre_collision": "share their heatmap cell with another of their class",
}


# ---- models


def models() -> str:
    """README: each shipped model with its accuracy in float and INT8, and milliseconds for inference alone."""
    speed = _json("speed-x86_64.json")
    rows = []
    for name in SHIPPED:
        about = json.loads((MODELS / f"{name}.json").read_text(encoding="utf-8"))
        plain, int8 = _evaluation(name, "float"), _evaluation(name, "openvino")
        for engine in ("openvino", "tflite"):
            _held(
                f"{name}, speed-x86_64.json",
                speed["sha256"][name][engine],
                MODELS / f"{name}{SUFFIX[engine]}",
            )
        times = [f"{speed['engines'][engine][name]['ms']:.1f} ms" for engine in ("openvino", "tflite")]
        accuracy = [f"{record[key]:.3f}" for key in ("AP50", "AP") for record in (plain, int8)]
        rows.append([f"`{name}`", f"{about['width']}x{about['height']}", *accuracy, *times])
    head = ["model", "input", "AP50 float", "AP50 INT8", "AP float", "AP INT8", "OpenVINO", "TFLite"]
    note = (
        f"Milliseconds: inference alone in INT8, median, {speed['threads']} thread of {speed['machine']['cpu']} "
        "(`scripts/compare_speed.py`)."
    )
    return f"{_table(head, rows)}\n{note}\n"


def accuracy(name: str) -> str:
    """A card: COCO's average precision in float and in each engine that was measured."""
    keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    rows = [
        [TITLE[engine], *(f"{record[key]:.3f}" for key in keys)]
        for engine, record in _evaluations(name).items()
    ]
    return _table(["network", *(key.replace("_", " ") for key in keys)], rows)


def classes(name: str) -> str:
    """A card: each class in INT8."""
    record = _evaluation(name, "openvino")["per_class"]
    return _table(["class", "AP50 INT8", "AP INT8"], [[c, _figure(v["AP50"]), _figure(v["AP"])] for c, v in record.items()])


def crowds(name: str) -> str:
    """A card: recall of objects in crowds and of all others, in INT8."""
    record = _evaluation(name, "openvino")["crowds"]
    rows = []
    for key, title in CROWDS.items():
        group = record[key]
        cells = [_figure(group[which][at]) for at in ("0.3", "0.01") for which in ("recall", "recall_others")]
        rows.append([title, group["objects"], *cells])
    return _table(
        ["objects that", "number", *(f"{who} at {at}" for at in (0.3, 0.01) for who in ("recall", "others"))],
        rows,
    )


def steps(name: str) -> str:
    """From a picture in memory to its boxes, by `edge-centernet bench`: each engine and number of threads."""
    record = _json(f"{name}/bench-x86_64.json")
    rows = []
    for one in record["results"]:
        suffix = SUFFIX[one["runtime"]]
        _held(
            f"{name}/bench-x86_64.json",
            record["model"]["sha256"][one["runtime"]][suffix],
            MODELS / f"{name}{suffix}",
        )
        p50 = one["p50_ms"]
        times = [
            p50["end_to_end"],
            one["p99_ms"]["end_to_end"],
            p50["preprocess"],
            p50["inference"],
            p50["decode"],
        ]
        start = f"{one['cold_start_ms']['total'] / 1000:.2f}"
        cells = [f"{time:.2f}" for time in times]
        rows.append([one["runtime"], one["threads"], *cells, f"{one['peak_rss_mb']:.0f}", start])
    head = ["engine", "threads", "p50, ms", "p99", "pre", "infer", "decode", "MB", "start, s"]
    return f"{_table(head, rows)}\nMeasured on {record['machine']['cpu']}, {record['date'][:10]}.\n"


# ---- others


def peers(record: dict[str, Any] | None = None) -> str:
    """Our models and detectors of others in one run of scripts/bench_peers.py; record: another than the kept one."""
    record = record or _json("peers-x86_64.json")
    rows = [
        [
            *(one["network"], one["runtime"], one["precision"], f"{one['AP50']:.3f}", f"{one['AP']:.3f}"),
            *(f"{one['p50_ms'][step]:.1f}" for step in ("inference", "end_to_end")),
            *(f"{one['peak_rss_mb']:.0f}", f"{one['size_bytes'] / 1e6:.1f}"),
        ]
        for one in record["results"]
    ]
    head = [
        "network",
        "engine",
        "precision",
        "AP50",
        "AP",
        "inference, ms",
        "end to end, ms",
        "memory, MB",
        "file, MB",
    ]
    return f"{_table(head, rows)}\nOne thread of {record['machine']['cpu']}, {record['date'][:10]}.\n"


def tracking() -> str:
    """Our tracker behind each model on PETS, by scripts/bench_tracking.py."""
    record = _json("tracking-pets09.json")
    rows = []
    for one in record["results"]:
        metrics = [f"{one[key]:.3f}" for key in ("mota", "idf1", "precision", "recall")]
        counts = f"{one['left']} and {one['right']}"
        rows.append([f"`{one['model']}`", f"{one['fps']:g}", *metrics, f"{one['switches']:.0f}", counts])
    left, right = record["true_crossings"]
    head = [
        "model",
        "frames a second",
        "MOTA",
        "IDF1",
        "precision",
        "recall",
        "switches",
        f"counted, of {left} and {right}",
    ]
    return _table(head, rows)


def ablation() -> str:
    """One short training run with all parts of the recipe, and one without each, by scripts/ablate.py."""
    rows = [
        [one["variant"], f"{one['AP50']:.3f}", f"{one['AP']:.3f}"] for one in _json("ablation.json")["rows"]
    ]
    return _table(["run", "AP50", "AP"], rows)


def own_classes() -> str:
    """Data sets the models were not made for, trained with the defaults, by scripts/own_classes.py."""
    records = [_json(f"own-classes-{name}.json") for name in ("playing_cards", "bccd")]
    rows = [
        [one["task"], f"{one['minutes']:.1f}", f"{one['AP50']:.3f}", f"{one['AP']:.3f}"] for one in records
    ]
    return _table(["data", "minutes", "AP50", "AP"], rows)


def wheels() -> str:
    """The newest release that pip takes on each ARM system, and its oldest glibc, by scripts/wheel_matrix.py."""
    record = json.loads((RECORDS / "wheels.json").read_text(encoding="utf-8"))
    # x86-64 has wheels of everything, and Pythons before 3.10 cannot run the package.
    shown = [row for row in record if row["machine"] != "x86_64" and int(row["python"].split(".")[1]) >= 10]
    rows = []
    for row in shown:
        cells = [f"{one['version']} ({one['glibc']})" if one else "none" for one in row["wheels"].values()]
        rows.append([row["system"], row["python"], row["glibc"], *cells])
    return _table(["system", "Python", "glibc", *shown[0]["wheels"]], rows)


def decoder_size() -> str:
    """Bytes of the C decoder with -Os on every target, by tests/c/targets.sh."""
    with (RECORDS / "decoder-size.csv").open(encoding="utf-8", newline="") as file:
        lines = [
            row
            for row in csv.DictReader(line for line in file if not line.startswith("#"))
            if row["opt"] == "Os"
        ]
    targets = list(dict.fromkeys(row["target"] for row in lines))
    sizes = {(row["library"], row["target"]): row for row in lines}
    rows = [
        [
            target,
            *(
                sizes[lib, target][key]
                for lib in ("edgecn_decode", "edgecn_letterbox")
                for key in ("text_bytes", "stack_bytes")
            ),
        ]
        for target in targets
    ]
    return _table(["target", "decoder: flash", "stack", "letterbox: flash", "stack"], rows)


# ---- reading and writing


@functools.cache
def _json(name: str) -> dict[str, Any]:
    """A record. Cached: pages ask for the same ones again."""
    content: dict[str, Any] = json.loads((RECORDS / name).read_text(encoding="utf-8"))
    return content


def _evaluations(name: str) -> dict[str, dict[str, Any]]:
    """Engine -> COCO metrics of the model, float first."""
    return {
        engine: _evaluation(name, engine)
        for engine in TITLE
        if (RECORDS / name / f"eval-{engine}.json").is_file()
    }


def _evaluation(name: str, engine: str) -> dict[str, Any]:
    """What `edge-centernet eval --json` wrote of the file in the package (of a model that is not in it: of any)."""
    record = _json(f"{name}/eval-{engine}.json")
    if engine != "float" and name in SHIPPED:
        _held(f"{name}/eval-{engine}.json", record["sha256"], MODELS / f"{name}{SUFFIX[engine]}")
    return record


def _held(record: str, measured: str, file: Path) -> None:
    """Raises ValueError for a record of another file than the one that ships."""
    if hashlib.sha256(file.read_bytes()).hexdigest() != measured:
        raise ValueError(
            f"{record}: expected figures of today's {file.name}, got those of another; measure again"
        )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Markdown, with the empty lines around it that separate it from the markers."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def main() -> int:
    """Check or write every page that holds a table; the exit code."""
    pages = [
        page
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        if MARKER in page.read_text("utf-8")
    ]
    how = (
        ["-r"]
        if sys.argv[1:] == ["--write"]
        else ["--check", "--check-fail-msg=run: python scripts/tables.py --write"]
    )
    code: int = Cog().main(
        ["cog", *how, "--verbosity=1", "-I", str(ROOT / "scripts"), *map(str, sorted(pages))]
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
