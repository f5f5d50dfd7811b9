"""The model card of a shipped model, from its result files.

    python scripts/model_card.py centernet-mbv2-320

Writes docs/models/NAME.md, and docs/benchmarks/NAME/curves.png and pr.png, which it shows. Every figure is read from
docs/benchmarks/NAME/:

    config.json, metrics.csv      of the training run
    eval-float.json               scripts/eval_checkpoint.py float.safetensors --out ...
    eval-ptq.json                 edge-centernet eval --json ..., of the network quantized without training; optional
    eval-openvino.json            edge-centernet eval --model NAME --runtime openvino --json ...
    eval-tflite.json              edge-centernet eval --model NAME --runtime tflite --json ...
    agreement.json                scripts/check_agreement.py --name NAME --out ...; optional
    int8-speed-*.json             scripts/check_int8_speed.py --model NAME --out ...; here or one folder up; optional
    limits.md                     written by hand

What the model is made of comes from its section in edge_centernet/models/README.md, its command from docs/training.md.
A record of other files than those that ship is refused. --check writes nothing; exit code 1 if the card is out of date.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from edge_centernet.artifact import sha256
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.files import write_atomic
from edge_centernet.models import DEFAULT

ROOT = Path(__file__).resolve().parents[1]
# Record -> network it measures, suffix of the shipped file it must be of. The others are held against the first.
RECORDS = {
    "eval-float.json": ("float, PyTorch", None),
    "eval-ptq.json": ("INT8, PTQ", None),
    "eval-openvino.json": ("INT8, QAT, OpenVINO", ".xml"),
    "eval-tflite.json": ("INT8, QAT, TFLite", ".tflite"),
}
OPTIONAL = ("eval-ptq.json",)
SIZES = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "AP small",
    "AP_medium": "AP medium",
    "AP_large": "AP large",
}
CROWDS = {
    "overlap_0.3": "overlap another of their class by IoU > 0.3",
    "overlap_0.5": "overlap another of their class by IoU > 0.5",
    "centre_collision": "share their heatmap cell with another of their class",
}
THRESHOLDS = ("0.3", "0.01")
FACTS = ("Network", "Classes", "Start", "Data", "Licence of the weights")
WEAKEST = 3  # classes named as the weakest
Record = Mapping[str, Any]


class CardError(EdgeCenterNetError):
    """A result file that the card needs is missing, or is not of the model that ships."""


@click.command()
@click.argument("name", default=DEFAULT)
@click.option("--files", type=click.Path(path_type=Path), help="Where its files lie.  [default: in the package]")
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if the card on disk is not this one.")
def main(name: str, files: Path | None, check: bool) -> None:
    """Write the card of the model NAME."""
    path = ROOT / "docs/models" / f"{name}.md"
    try:
        text = render(name, ROOT, files)
    except EdgeCenterNetError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    if check:
        fresh = path.is_file() and path.read_text(encoding="utf-8") == text
        click.echo(f"{path}: {'up to date' if fresh else f'out of date; run scripts/model_card.py {name}'}")
        sys.exit(0 if fresh else 1)
    from edge_centernet.plots import write_precision_recall, write_reliability
    from edge_centernet.train.report import write_curves  # torch and matplotlib: not to check

    results = ROOT / "docs/benchmarks" / name
    write_curves(results / "metrics.csv", results / "curves.png")
    metrics = _json(results / "eval-openvino.json")
    write_precision_recall(metrics, results / "pr.png")
    if metrics.get("calibration"):
        write_reliability(metrics, results / "reliability.png")
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, text)
    click.echo(path)


def render(name: str, root: Path, files: Path | None = None) -> str:
    """The card as Markdown. root: the repository; files: folder of the model's, unless they are in the package.

    Raises CardError naming the file and how to make it.
    """
    results, models = root / "docs/benchmarks" / name, root / "edge_centernet/models"
    folder = files or models
    records = _records(name, results, folder)
    config = _json(results / "config.json")
    parts = [
        f"# {name}",
        "<!-- Made by scripts/model_card.py from result files; edit those. -->",
        *_about(name, models, folder, config),
        *_accuracy(records),
        *_by_class(name, records),
        *_scores(name, records),
        *_crowds(records),
        *_agreement(name, results, folder),
        *_latency(name, results, folder),
        *_training(name, root, results),
        "## Limits",
        *_limits(results, records),
    ]
    text = "\n\n".join(parts) + "\n"
    if config["qat_epochs"] == 0:  # post-training quantization is what it is, there is nothing beside it
        text = text.replace("INT8, QAT, ", "INT8, PTQ, ").replace("QAT, ", "PTQ, ")
        text = text.replace("Not measured: INT8, PTQ.\n\n", "")
    return text


# ---- sections --------------------------------------------------------------------------------------------------


def _about(name: str, models: Path, folder: Path, config: Record) -> Iterator[str]:
    """What it is made of, and its files."""
    readme = models / "README.md"
    section = _section(readme, rf"{re.escape(name)}, version [^\n]*")
    facts = dict(re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\n\n|\Z)", section, re.M | re.S))
    for fact in FACTS:
        if fact not in facts:
            raise CardError(f"{readme}: expected '- **{fact}**: ...' in the section of {name}, found none; add it")
    lines = [f"- **{fact}**: {' '.join(facts[fact].split())}" for fact in FACTS]
    lines.insert(FACTS.index("Classes") + 1, f"- **Their names**: {', '.join(config['classes'])}.")
    files = sorted(path for path in folder.glob(f"{name}.*") if path.suffix != ".json")
    where = "" if folder == models else ", not in the package"
    lines += [
        f"- **Files**{where}: " + ", ".join(f"`{path.suffix}` {path.stat().st_size / 1e6:.2f} MB" for path in files)
    ]
    yield "\n".join(lines)


def _accuracy(records: dict[str, Record]) -> Iterator[str]:
    """Every network on the same images, all classes."""
    any_record = next(iter(records.values()))
    measured = next(r["data"] for r in records.values() if "data" in r)
    yield "## Accuracy"
    yield (
        f"On the {any_record['images']} images of `{'/'.join(Path(measured).parts[-2:])}`; COCO's average precision "
        "(small: below 32x32 pixels of the image, large: above 96x96)."
    )
    rows = [[RECORDS[file][0], *(_figure(record[key]) for key in SIZES)] for file, record in records.items()]
    yield _table(["network", *SIZES.values()], rows)
    missing = [RECORDS[file][0] for file in OPTIONAL if file not in records]
    if missing:
        yield f"Not measured: {', '.join(missing)}."


def _by_class(name: str, records: dict[str, Record]) -> Iterator[str]:
    """AP50 and AP of each class, and what quantization costs it."""
    base, *others = records
    titles = {file: RECORDS[file][0].removeprefix("INT8, ") for file in records}
    yield "### By class"
    yield f"AP50; in brackets the difference to {titles[base]}."
    names = list(records[base]["per_class"])
    rows = []
    for one in names:
        start = records[base]["per_class"][one]["AP50"]
        cells = [_change(records[file]["per_class"][one]["AP50"], start) for file in others]
        rows.append([one, _figure(start), *cells])
    total = records[base]["AP50"]
    rows.append(["**all**", _figure(total), *(_change(records[file]["AP50"], total) for file in others)])
    yield _table(["class", *titles.values()], rows)
    yield "\n".join(_worst_change(titles[file], records[file], records[base]) for file in others)
    yield "AP (IoU 0.50 to 0.95):"
    rows = [[one, *(_figure(record["per_class"][one]["AP"]) for record in records.values())] for one in names]
    yield _table(["class", *titles.values()], rows)
    yield f"![Precision over recall of every class, INT8 in OpenVINO](../benchmarks/{name}/pr.png)"


def _worst_change(title: str, record: Record, base: Record) -> str:
    changes = {
        one: values["AP50"] - base["per_class"][one]["AP50"]
        for one, values in record["per_class"].items()
        if values["AP50"] is not None
    }
    worst = min(changes, key=lambda one: changes[one])
    low = sum(change < -0.03 for change in changes.values())
    return (
        f"- {title}: AP50 {_signed(record['AP50'] - base['AP50'])}, AP {_signed(record['AP'] - base['AP'])} overall; "
        f"the class that loses most is {worst} ({_signed(changes[worst])}); "
        f"{low} of {len(changes)} lose more than 0.03."
    )


def _scores(name: str, records: dict[str, Record]) -> Iterator[str]:
    """What is shown by default, and how far scores can be taken at their word; nothing for records without either."""
    have = {file: record for file, record in records.items() if record.get("calibration")}
    if not have:
        return
    shown, calibration = (next(iter(have.values()))[key] for key in ("at_threshold", "calibration"))
    yield "## Scores"
    own = "".join(f", {one} {limit:g}" for one, limit in shown["class_thresholds"].items())
    yield (
        f"Precision and recall of all boxes from the default threshold ({shown['threshold']:g}{own}) on, and the "
        f"expected calibration error of scores from {calibration['lowest']:g} on, of all classes together and of the "
        "worst ([what that is](../scores.md))."
    )
    rows = []
    for file, record in have.items():
        errors = {one: e for one, e in record["calibration"]["per_class"].items() if e is not None}
        worst = max(errors, key=lambda one: errors[one], default=None)
        before = record["calibration"]["before"]
        rows.append(
            [
                RECORDS[file][0],
                *(_figure(record["at_threshold"][key]) for key in ("precision", "recall", "f1")),
                _figure(record["calibration"]["error"]),
                "-" if worst is None else f"{_figure(errors[worst])} ({worst})",
                _figure(before["error"] if before else None),
            ]
        )
    yield _table(["network", "precision", "recall", "F1", "error", "worst class", "error as trained"], rows)
    yield f"![Share of right detections over score, INT8 in OpenVINO](../benchmarks/{name}/reliability.png)"


def _crowds(records: dict[str, Record]) -> Iterator[str]:
    """Recall of objects in crowds against that of all others."""
    have = {file: record for file, record in records.items() if "crowds" in record}
    yield "## Crowds and overlap"
    yield (
        f"How many objects are found (IoU {next(iter(have.values()))['crowds']['iou']:g}) from a score of 0.3, what is "
        'shown by default, and from 0.01, what AP is measured with; "others" are all objects that do not.'
    )
    head = ["objects that", "number", "network"]
    head += [f"{who} at {t}" for t in THRESHOLDS for who in ("recall", "others")]
    rows = []
    for key, title in CROWDS.items():
        for file, record in have.items():
            group = record["crowds"][key]
            pairs = ((group["recall"][t], group["recall_others"][t]) for t in THRESHOLDS)
            cells = [_figure(value) for pair in pairs for value in pair]
            rows.append([title, str(group["objects"]), RECORDS[file][0], *cells])
    yield _table(head, rows)
    if left := [RECORDS[file][0] for file in records if file not in have]:
        yield f"Not measured: {', '.join(left)}."


def _agreement(name: str, results: Path, models: Path) -> Iterator[str]:
    """How far the converted files agree with the simulation they were trained in."""
    path = results / "agreement.json"
    if not path.is_file():
        return
    record = _json(path)
    for row in record["results"]:
        _same(path, row["sha256"], models / row["artifact"], f"scripts/check_agreement.py --name {name}")
    overlaps = list(record["results"][0]["share_by_iou"])
    yield "## Agreement with the simulation"
    yield (
        "Share of detections above 0.3 that the PyTorch simulation of the quantized network has too (same class, "
        f"score within {record['match_score']:g}, boxes that overlap by this IoU), on {record['images']} images."
    )
    rows = [
        [f"`{row['artifact']}`", str(row["detections"]), *(f"{row['share_by_iou'][o]:.2%}" for o in overlaps)]
        for row in record["results"]
    ]
    yield _table(["file", "detections", *(f"IoU >= {o}" for o in overlaps)], rows)


def _latency(name: str, results: Path, models: Path) -> Iterator[str]:
    """Inference alone, on every machine where these files were measured."""
    onnx = sha256(models / f"{name}.onnx")
    paths = sorted([*results.parent.glob("int8-speed-*.json"), *results.glob("int8-speed-*.json")])
    rows = []
    for path in paths:
        record = _json(path)
        if record["model_sha256"] != onnx:
            continue
        machine = f"{record['machine']['cpu']}, {record['machine']['arch']}"
        for engine, row in record["engines"].items():
            times = [f"{row[p + '_ms']:.1f} ({_span(row[p + '_p10_p90_ms'])})" for p in ("int8", "fp32")]
            rows.append([machine, str(record["threads"]), engine, *times])
    yield "## Latency"
    if not rows:
        yield "Not measured for these files."
        return
    yield "Milliseconds for inference alone, median (10th to 90th percentile)."
    yield _table(["machine", "threads", "engine", "INT8", "FP32"], rows)


def _training(name: str, root: Path, results: Path) -> Iterator[str]:
    """The command, how long it took, and its curves."""
    page = root / "docs/training.md"
    block = re.search(r"^```\w*\n(.+?)^```", _section(page, rf"[^\n]*`{re.escape(name)}`[^\n]*"), re.M | re.S)
    if block is None:
        raise CardError(f"{page}: expected the command that made {name} as a fenced block in its section; add it")
    with (results / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = {stage: sum(row["stage"] == stage for row in rows) for stage in ("float", "qat")}
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    yield "## Training"
    yield f"```sh\n{block.group(1)}```"
    yield (
        f"{epochs['float']} float epochs and {epochs['qat']} quantization-aware ones, {hours:.1f} hours of steps. "
        f"[training.md](../training.md) says more about it; options and metrics: [config.json]"
        f"(../benchmarks/{name}/config.json), [metrics.csv](../benchmarks/{name}/metrics.csv)."
    )
    yield f"![Losses, learning rate and accuracy over the epochs](../benchmarks/{name}/curves.png)"


def _limits(results: Path, records: dict[str, Record]) -> Iterator[str]:
    """What was written by hand, and what the figures say."""
    path = results / "limits.md"
    if not path.is_file():
        raise CardError(f"{path}: expected the limits of the model as a list, found no such file; write it")
    record = records["eval-openvino.json"]
    by_ap50 = sorted((v["AP50"], one) for one, v in record["per_class"].items() if v["AP50"] is not None)
    weakest = ", ".join(f"{one} {ap50:.3f}" for ap50, one in by_ap50[:WEAKEST])
    yield f"{path.read_text(encoding='utf-8').strip()}\n- Weakest classes (AP50, INT8 in OpenVINO): {weakest}."


# ---- reading ---------------------------------------------------------------------------------------------------


def _records(name: str, results: Path, models: Path) -> dict[str, Record]:
    """File name -> evaluation; all of the same classes and number of images, INT8 ones of the files that ship."""
    records: dict[str, Record] = {}
    for file, (_, suffix) in RECORDS.items():
        path = results / file
        if file in OPTIONAL and not path.is_file():
            continue
        record = _json(path)
        if suffix is not None:
            again = f"edge-centernet eval --model {name} --runtime {path.stem.removeprefix('eval-')} --json {path}"
            if not {"sha256", "crowds", "precision_recall"} <= set(record):
                raise CardError(f"{path}: an old record, without crowds and curves; measure again: {again}")
            _same(path, record["sha256"], models / f"{name}{suffix}", again)
        for key in ("images", "per_class"):
            first = next(iter(records.values()), record)
            if _comparable(record[key]) != _comparable(first[key]):
                raise CardError(f"{path}: {key} differ from those in {next(iter(records))}; measure on the same data")
        records[file] = record
    return records


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, dict) else value


def _same(record: Path, measured: str, shipped: Path, again: str) -> None:
    if not shipped.is_file() or sha256(shipped) != measured:
        raise CardError(f"{record}: measured another {shipped.name} than the one that ships; measure again: {again}")


def _json(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(
            f"{path}: expected a result file, found none; see scripts/model_card.py for its command"
        ) from None
    except ValueError as error:
        raise CardError(f"{path}: expected JSON, got a syntax error ({error}); measure again") from None
    return record


def _section(page: Path, heading: str) -> str:
    """The text below the first second-level heading that matches, up to the next one."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if found is None:
        raise CardError(f"{page}: expected a heading '## {heading}' (a pattern), found none; add the section")
    return found.group(1)


# ---- text ------------------------------------------------------------------------------------------------------


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _change(value: float | None, base: float | None) -> str:
    return "–" if value is None or base is None else f"{value:.3f} ({_signed(value - base)})"


def _signed(change: float) -> str:
    return f"{round(change, 3) + 0.0:+.3f}"  # + 0.0: no minus before zero


def _span(values: list[float]) -> str:
    return " to ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
