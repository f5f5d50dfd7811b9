"""`edge-centernet eval`: COCO metrics of one artifact on one data set."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import model_options, open_model, tiles_option
from edge_centernet.data import DataSource, read_datasets, to_measure_on
from edge_centernet.data.base import list_names
from edge_centernet.detector import Detector
from edge_centernet.errors import ConfigError
from edge_centernet.evaluation.coco import THRESHOLD, detector_classes, evaluate_dataset, left_out
from edge_centernet.evaluation.crowds import MAX_DETECTIONS, OVERLAPS, THRESHOLDS
from edge_centernet.evaluation.plots import require_matplotlib, write_precision_recall, write_reliability
from edge_centernet.files import prepare_folder, sha256, write_atomic
from edge_centernet.progress import bars
from edge_centernet.runtimes import first_candidate
from edge_centernet.runtimes.engines import CPU

KEYS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
# key of the record's "crowds" -> how the table calls those objects
CROWDS = {f"overlap_{limit:g}": f"overlap another by IoU > {limit:g}" for limit in OVERLAPS}
CROWDS["centre_collision"] = "share a heatmap cell"
# A list of numbers, which is written on one line: curves would be thousands of lines. Strings in JSON hold no
# line break, so that none can match.
_NUMBERS = re.compile(r"\[\n([-\d.,\seE]+?)\n\s*\]")


@click.command(cls=Command)
@model_options
@option_group(
    click.option(
        "--data",
        "data",
        required=True,
        type=click.Path(path_type=Path),
        help="Labelled data set: an export as a folder, file or .zip (COCO, VOC, YOLO, labelme).",
    ),
    click.option(
        "--split",
        type=click.Choice(("val", "test", "train")),
        help="Which part of a data set that has parts.  [default: val, else test]",
    ),
    click.option(
        "--images",
        type=click.Path(path_type=Path),
        help="Folder of the images.  [default: next to the labels]",
    ),
    heading="Data",
)
@option_group(tiles_option, heading="Detection")
@option_group(
    click.option(
        "--json",
        "out",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the metrics and all curves to this file.",
    ),
    click.option(
        "--plots",
        type=click.Path(path_type=Path, file_okay=False),
        help="Draw pr.png and reliability.png into this folder. Needs the extra convert (matplotlib).",
    ),
    heading="Output",
)
def command(
    model: str,
    runtime: str,
    device: str,
    threads: int | None,
    data: Path,
    split: str | None,
    images: Path | None,
    tiles: str | None,
    out: Path | None,
    plots: Path | None,
) -> None:
    """Measure a model on labelled images: COCO's average precision, and the time per image.

    Classes are matched by name, with VOC's names equated to COCO's; only classes that both the model and the
    data set have are evaluated. Objects marked as crowd, ignored or difficult count neither as misses nor as
    false alarms, and neither does anything of a class that an image is not labelled for (labelled_only in
    COCO JSON).

    Also prints precision and recall at the model's own threshold, the calibration error of its scores, and a
    table about crowds: at two score thresholds, the recall (IoU 0.5) of objects that overlap another of their
    class or share its heatmap cell, against the recall of all others.

    Example: edge-centernet eval --data instances_val.json --images val --runtime tflite --json metrics.json
    """
    # What cannot be written is found out before the evaluation, not after it.
    if out is not None:
        if out.is_dir():
            raise ConfigError(f"--json {out}: expected a file name, got a folder")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            probe = out.with_name(f".{out.name}.{os.getpid()}.tmp")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"--json {out}: cannot write there ({error.strerror}); name another file"
            ) from None
    if plots is not None:
        require_matplotlib()
        prepare_folder(plots)
    chosen = to_measure_on(DataSource(data, images, split=split))
    with bars() as progress:
        dataset = read_datasets([chosen], progress=progress)
    with closing(open_model(model, runtime, threads, device)) as opened, bars() as progress:
        classes = opened.manifest.model.classes
        only = detector_classes(classes, dataset.classes)
        detector = Detector(
            opened, threshold=THRESHOLD, max_detections=MAX_DETECTIONS, only=only, tiles=tiles
        )
        result = evaluate_dataset(detector.detect_timed, dataset, classes, progress, opened.manifest.model)
        about: dict[str, Any] = {
            "model": model,
            "runtime": opened.name,
            "device": opened.device or CPU,
            "precision": opened.manifest.precision,
            "data": str(chosen),
            "tiles": tiles,
            "left_out": left_out(classes, dataset.classes),
        }
        about["sha256"] = sha256(first_candidate(model, runtime, device)[0])
    echo(_table(result, about))
    if out is not None:
        text = json.dumps({**about, **result}, indent=2) + "\n"
        write_atomic(out, _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text))
    if plots is not None:
        write_precision_recall(result, plots / "pr.png")
        write_reliability(result, plots / "reliability.png")


def _table(result: dict[str, Any], about: dict[str, Any]) -> str:
    engine = about["runtime"] if about["device"] == CPU else "{runtime} on {device}".format(**about)
    lines = ["{model}, {precision}, {engine}, on {data}".format(engine=engine, **about)]
    if about["tiles"] is not None:
        lines[0] += f", tiles {about['tiles']}"
    # An AP over some of the classes is not that of the data set, so this stands above it.
    left = [
        f"only in the {where}: {list_names(names)}" for where, names in about["left_out"].items() if names
    ]
    lines += [f"not evaluated, {'; '.join(left)}"] if left else []
    # 1. COCO's figures, by class and over all.
    wide = max(map(len, ("class", *result["per_class"])))
    lines += ["", f"{'class':<{wide}}      AP    AP50"]
    lines += [f"{n:<{wide}}  {_show(v['AP'])}  {_show(v['AP50'])}" for n, v in result["per_class"].items()]
    lines += [f"{'all':<{wide}}  {_show(result['AP'])}  {_show(result['AP50'])}", ""]
    lines += ["  ".join(f"{key} {_show(result[key]).strip()}" for key in KEYS), ""]
    # 2. What is shown at the model's own threshold.
    shown, calibration = result["at_threshold"], result["calibration"]
    own = "".join(f", {name} {limit:g}" for name, limit in shown["class_thresholds"].items())
    rates = "  ".join(f"{key} {_show(shown[key]).strip()}" for key in ("precision", "recall"))
    lines.append(f"at the default threshold ({shown['threshold']:g}{own}): {rates}")
    # 3. How far its scores are from the share that is right.
    known = {name: error for name, error in calibration["per_class"].items() if error is not None}
    worst = max(known, key=lambda name: known[name], default=None)
    errors = [f"of all {_show(calibration['error']).strip()}"]
    errors += [f"worst class {worst} {known[worst]:.3f}"] if worst is not None else []
    if calibration["before"] is not None:
        errors.append(f"of all before calibration {_show(calibration['before']['error']).strip()}")
    lines += [f"calibration error from score {calibration['lowest']:g} on: {', '.join(errors)}", ""]
    # 4. Recall of each kind of object that there is at each score threshold, against that of all others.
    kinds = {kind: result["crowds"][key] for key, kind in CROWDS.items() if result["crowds"][key]["objects"]}
    if kinds:
        wide = max(map(len, CROWDS.values()))
        head = "".join(f"  score {t:<5g} others" for t in THRESHOLDS)
        lines.append(f"{'recall of objects that':<{wide}}  number{head}")
    for kind, one in kinds.items():
        pairs = [(one["recall"][f"{t:g}"], one["recall_others"][f"{t:g}"]) for t in THRESHOLDS]
        recalls = "".join(f"  {_show(mine):>11} {_show(others)}" for mine, others in pairs)
        lines.append(f"{kind:<{wide}}  {one['objects']:6}{recalls}")
    # 5. Time.
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in result["ms"].items())
    lines += [""] if kinds else []
    lines += [f"{result['images']} images, median {result['ms_median']:.1f} ms each ({stages})"]
    return "\n".join(lines)


def _show(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"
