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
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cogapp import Cog

from edge_centernet.deploy.boards import TARGETS

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
    """README: each shipped model with its accuracy in float and INT8, and milliseconds of inference."""
    speed = _json("speed-x86_64.json")
    rows = []
    for name in SHIPPED:
        about = json.loads((MODELS / f"{name}.json").read_text(encoding="utf-8"))
        plain, int8 = _evaluation(name, "float"), _evaluation(name, "openvino")
        times = []
        for engine in ("openvino", "tflite"):
            _held("speed-x86_64.json", speed["sha256"][name][engine], MODELS / f"{name}{SUFFIX[engine]}")
            times.append(f"{speed['engines'][engine][name]['ms']:.1f} ms")
        accuracy = [f"{record[key]:.3f}" for key in ("AP50", "AP") for record in (plain, int8)]
        rows.append([f"`{name}`", f"{about['width']}x{about['height']}", *accuracy, *times])
    head = "model | input | AP50 float | AP50 INT8 | AP float | AP INT8 | OpenVINO | TFLite"
    threads, cpu = speed["threads"], speed["machine"]["cpu"]
    note = f"inference alone in INT8, median, {threads} thread of {cpu}."
    return f"{table(head, rows)}\nMilliseconds: {note}\n"


def boards() -> str:
    """The model, its input and the engine that a bundle gets unless told otherwise, and for which boards."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for target in TARGETS.values():
        about = json.loads((MODELS / f"{target.model}.json").read_text(encoding="utf-8"))
        choice = f"`{target.model}`", f"{about['width']}x{about['height']}", target.runtime.title
        found.setdefault(choice, []).append(re.split(", | with ", target.board)[0])
    return table("board | model | input | engine", [["; ".join(of), *choice] for choice, of in found.items()])


def accuracy(name: str) -> str:
    """A card: COCO's average precision in float and in each engine that was measured."""
    keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    engines = [engine for engine in TITLE if engine in _json(f"{name}/eval.json")]
    records = {TITLE[engine]: _evaluation(name, engine) for engine in engines}
    rows = [[title, *(f"{record[key]:.3f}" for key in keys)] for title, record in records.items()]
    return table("network | AP | AP50 | AP75 | AP small | AP medium | AP large", rows)


def classes(*names: str) -> str:
    """The cards: each class in INT8, by each of the models."""
    records = [_evaluation(name, "openvino")["per_class"] for name in names]
    rows = [
        [one, *(_figure(record[one][key]) for record in records for key in ("AP50", "AP"))]
        for one in records[0]
    ]
    return table(
        " | ".join(["class", *(f"`{name}` {key}" for name in names for key in ("AP50", "AP"))]), rows
    )


def crowds(name: str) -> str:
    """A card: recall of objects in crowds and of all others, in INT8."""
    record = _evaluation(name, "openvino")["crowds"]
    rows = []
    for key, title in CROWDS.items():
        group = record[key]
        cells = [_figure(group[which][at]) for at in ("0.3", "0.01") for which in ("recall", "recall_others")]
        rows.append([title, group["objects"], *cells])
    at = [f"{who} at {score}" for score in (0.3, 0.01) for who in ("recall", "others")]
    return table(" | ".join(["objects that", "number", *at]), rows)


def steps(name: str) -> str:
    """From a picture in memory to its boxes, by `edge-centernet bench`: each engine and number of threads."""
    file = f"{name}/bench-x86_64.json"
    record = _json(file)
    rows = []
    for one in record["results"]:
        suffix = SUFFIX[one["runtime"]]
        _held(file, record["model"]["sha256"][one["runtime"]][suffix], MODELS / f"{name}{suffix}")
        p50, p99 = one["p50_ms"], one["p99_ms"]["end_to_end"]
        times = [p50["end_to_end"], p99, p50["preprocess"], p50["inference"], p50["decode"]]
        start = f"{one['cold_start_ms']['total'] / 1000:.2f}"
        cells = [f"{time:.2f}" for time in times]
        rows.append([one["runtime"], one["threads"], *cells, f"{one['peak_rss_mb']:.0f}", start])
    head = "engine | threads | p50, ms | p99 | pre | infer | decode | MB | start, s"
    return f"{table(head, rows)}\nMeasured on {record['machine']['cpu']}, {record['date'][:10]}.\n"


def sizes(name: str) -> str:
    """A model at several input sizes, by scripts/measure_sizes.py."""
    record = _json("sizes-x86_64.json")
    one = record["results"][name]
    _held("sizes-x86_64.json", one["sha256"], MODELS / f"{name}.onnx")
    rows = [
        [
            *(size, f"{of['AP50']:.3f}", f"{of['AP']:.3f}", f"{of['ms']:.1f}"),
            f"{of['smallest_in_frame']:.0f}",
        ]
        for size, of in one["sizes"].items()
    ]
    head = "input | AP50 | AP | inference, ms | height of a person, pixels of 1280x720"
    return f"{table(head, rows)}\nOne thread of {record['machine']['cpu']}, {record['date'][:10]}.\n"


# ---- others


def peers(record: dict[str, Any] | None = None) -> str:
    """Our models and detectors of others in one run of scripts/bench_peers.py; record: not the kept one."""
    record = record or _json("peers-x86_64.json")
    rows = [
        [
            *(one["network"], one["runtime"], one["precision"], f"{one['AP50']:.3f}", f"{one['AP']:.3f}"),
            *(f"{one['p50_ms'][step]:.1f}" for step in ("inference", "end_to_end")),
            *(f"{one['peak_rss_mb']:.0f}", f"{one['size_bytes'] / 1e6:.1f}"),
        ]
        for one in record["results"]
    ]
    head = "network | engine | precision | AP50 | AP | inference, ms | end to end, ms | memory, MB | file, MB"
    return f"{table(head, rows)}\nOne thread of {record['machine']['cpu']}, {record['date'][:10]}.\n"


def tracking() -> str:
    """Our tracker behind each model on PETS, by scripts/bench_tracking.py."""
    record = _json("tracking-pets09.json")
    rows = []
    for one in record["results"]:
        metrics = [f"{one[key]:.3f}" for key in ("mota", "idf1", "precision", "recall")]
        counts = f"{one['left']} and {one['right']}"
        model, ignored = f"`{one['model']}`", "yes" if one["ignored"] else "no"
        rows.append([model, ignored, f"{one['fps']:g}", *metrics, f"{one['switches']:.0f}", counts])
    left, right = record["true_crossings"]
    head = "model | zones to ignore | frames a second | MOTA | IDF1 | precision | recall | switches"
    return table(f"{head} | counted, of {left} and {right}", rows)


def fleet() -> str:
    """The report over a simulated chain, by scripts/bench_fleet.py."""
    record = _json("fleet.json")
    rows = [
        [name, f"{one['seconds']:.1f}", f"{one['cpu_seconds']:.1f}", f"{one['peak_mb']:.0f}"]
        for name, one in record["results"].items()
    ]
    about = (
        f"{record['boards']} boards and {record['days']} days: {record['events'] / 1e6:.0f} million events, "
        f"{record['bytes'] / 1e9:.1f} GB. {record['machine']['cpu']}, {record['date'][:10]}."
    )
    return f"{table('report --by day over | seconds | of processor time | peak memory, MB', rows)}\n{about}\n"


def own_classes() -> str:
    """Data sets the models were not made for, trained with the defaults, by scripts/own_classes.py."""
    rows = [
        [task, f"{one['minutes']:.1f}", f"{one['AP50']:.3f}", f"{one['AP']:.3f}"]
        for task, one in _json("own-classes.json").items()
    ]
    return table("data | minutes | AP50 | AP", rows)


def wheels() -> str:
    """The newest release of each CPU engine that pip takes on each ARM system, by scripts/wheel_matrix.py."""
    # x86-64 has wheels of everything, and Pythons before 3.10 cannot run the package.
    record = _json("wheels.json")
    shown = [row for row in record if row["machine"] != "x86_64" and int(row["python"].split(".")[1]) >= 10]
    engines = ("ai-edge-litert", "tflite-runtime", "openvino", "onnxruntime")
    rows = []
    for row in shown:
        wheels = [row["wheels"][engine] for engine in engines]
        cells = [f"{one['version']} ({one['glibc']})" if one else "none" for one in wheels]
        rows.append([row["system"], row["python"], row["glibc"], *cells])
    return table(" | ".join(["system", "Python", "glibc", *engines]), rows)


def decoder_size() -> str:
    """Bytes of the C decoder with -Os on microcontrollers, by tests/c/targets.sh."""
    text = (RECORDS / "decoder-size.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    shown = [row for row in lines if row["opt"] == "Os" and row["target"].startswith("cortex-m")]
    sizes = {(row["library"], row["target"]): row for row in shown}
    rows = []
    for target in dict.fromkeys(target for _, target in sizes):
        of = [sizes[library, target] for library in ("edgecn_decode", "edgecn_letterbox")]
        rows.append([target, *(row[key] for row in of for key in ("text_bytes", "stack_bytes"))])
    return table("target | decoder: flash | stack | letterbox: flash | stack", rows)


# ---- reading and writing


@functools.cache
def _json(name: str) -> Any:
    """A record. Cached: pages ask for the same ones again."""
    return json.loads((RECORDS / name).read_text(encoding="utf-8"))


def _evaluation(name: str, engine: str) -> dict[str, Any]:
    """What `edge-centernet eval --json` wrote of the file in the package (of a model not in it: of any)."""
    record: dict[str, Any] = _json(f"{name}/eval.json")[engine]
    if engine != "float" and name in SHIPPED:
        _held(f"{name}/eval.json", record["sha256"], MODELS / f"{name}{SUFFIX[engine]}")
    return record


def _held(record: str, measured: str, file: Path) -> None:
    """Raises ValueError for a record of another file than the one that ships."""
    if hashlib.sha256(file.read_bytes()).hexdigest() != measured:
        got = f"expected figures of today's {file.name}, got those of another"
        raise ValueError(f"{record}: {got}; measure again")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def table(head: str, rows: Iterable[Sequence[object]]) -> str:
    """Markdown, with the empty lines around it that the markers need. head: cells between bars."""
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def main() -> int:
    """Check or write every page that holds a table; the exit code."""
    pages = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    tabled = [str(page) for page in pages if MARKER in page.read_text("utf-8")]
    check = ["--check", "--check-fail-msg=run: python scripts/tables.py --write"]
    how = ["-r"] if sys.argv[1:] == ["--write"] else check
    code: int = Cog().main(["cog", *how, "--verbosity=1", "-I", str(ROOT / "scripts"), *tabled])
    return code


if __name__ == "__main__":
    sys.exit(main())
