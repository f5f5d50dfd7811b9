"""`edge-centernet label`: labels for photos, from the boxes that several detectors agree on."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from edge_centernet import __version__
from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import engine_options, open_model
from edge_centernet.data import DataSource, read_datasets, to_measure_on
from edge_centernet.data.coco import write_labels
from edge_centernet.detector import Detector
from edge_centernet.errors import ArtifactError, ConfigError, ManifestError
from edge_centernet.evaluation.coco import THRESHOLD as SCORE_FLOOR
from edge_centernet.evaluation.crowds import MAX_DETECTIONS
from edge_centernet.files import prepare_folder, sha256
from edge_centernet.labelling.calibrate import PRECISION, Calibration
from edge_centernet.labelling.ensemble import IOU, Ensemble, Member, all_classes, common_classes
from edge_centernet.labelling.labels import (
    IGNORE_BELOW,
    THRESHOLD,
    Seen,
    find_photos,
    in_words,
    label,
    measure,
    some,
    some_of,
    to_coco,
    write_sheet,
)
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.peers.engines import OF_SUFFIX
from edge_centernet.peers.families import FAMILIES, PeerDetector, peer_file
from edge_centernet.progress import bars
from edge_centernet.runtimes import first_candidate


@click.command(cls=Command)
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@option_group(
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME|FILE|FAMILY=FILE",
        help="Detector to label with; repeat it to fuse several. A model of this package by name or file, or"
        f" a file of another family: {', '.join(FAMILIES)}."
        f"  [default: $EDGE_CENTERNET_MODEL, else {DEFAULT}]",
    ),
    click.option(
        "--weight",
        "weights",
        multiple=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Weight of a detector's vote, once for each --model in the same order.  [default: 1 each]",
    ),
    heading="Detectors",
)
@engine_options
@option_group(
    click.option(
        "--classes", metavar="A,B", help="Label only these classes, under these names.  [default: all]"
    ),
    click.option(
        "--iou",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=IOU,
        show_default=True,
        help="Overlap (IoU) above which two boxes are the same object.",
    ),
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        help=f"Lowest score of a box that is written.  [default: {THRESHOLD}; calibrated, 15 % right]",
    ),
    click.option(
        "--ignore-below",
        type=click.FloatRange(0, 1),
        help=f"Mark boxes with a lower score as ignored.  "
        f"[default: {IGNORE_BELOW}; calibrated, by --precision]",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        help="Use only this many photos, spread evenly (of LABELLED too).",
    ),
    heading="Labels",
)
@option_group(
    click.option(
        "--calibrate-on",
        type=click.Path(path_type=Path),
        metavar="LABELLED",
        help="Labelled photos (COCO JSON, VOC, YOLO) to turn scores into probabilities, choose thresholds "
        "and measure accuracy.",
    ),
    click.option(
        "--precision",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the labelled objects that must be right, with --calibrate-on.  "
        f"[default: {PRECISION}]",
    ),
    heading="Calibration",
)
@option_group(
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path, dir_okay=False),
        help="COCO JSON file to write, such as labels.json.",
    ),
    click.option(
        "--sheet",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="JPG",
        help="Draw a contact sheet of about 30 labelled photos.",
    ),
    heading="Output",
)
def command(
    photos: tuple[Path, ...], models: tuple[str, ...], weights: tuple[float, ...], runtime: str,
    device: str, threads: int | None, out: Path, classes: str | None, iou: float, threshold: float | None,
    ignore_below: float | None, calibrate_on: Path | None, precision: float | None, limit: int | None,
    sheet: Path | None,
) -> None:  # fmt: skip
    """Label photos automatically: detectors run on each photo and its mirror image; their boxes are fused.

    PHOTOS are image files, folders (searched recursively) and data sets. The COCO JSON that is written can be
    trained on: it has boxes that are likely objects, and uncertain ones marked `ignore: 1`, which training
    leaves out. Check the contact sheet first. Detectors of other families come from their authors;
    docs/label.md lists them.

    \b
    Examples:
      edge-centernet label photos/ --out labels.json --sheet labels.jpg
      edge-centernet label photos/ --model yolox_nano.onnx --calibrate-on instances_val.json --out labels.json
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    models = models or (os.environ.get("EDGE_CENTERNET_MODEL") or DEFAULT,)
    _check(models, weights, out, sheet, calibrate_on, precision)
    if threshold is not None and ignore_below is not None and threshold > ignore_below:
        raise ConfigError(
            f"--threshold: expected at most --ignore-below, which is {ignore_below:g}; got {threshold:g}"
        )
    files = some(find_photos(photos), limit)
    with bars() as progress:
        known = None
        if calibrate_on is not None:
            known = read_datasets([to_measure_on(DataSource(calibrate_on))], progress=progress)
    data = None if known is None else some_of(known, limit)
    asked = PRECISION if precision is None else precision
    calibration: Calibration | None = None
    seen: Seen = {}
    with ExitStack() as stack, bars() as progress:
        votes = zip(models, weights or (1.0,) * len(models), strict=True)
        members = [_open(name, weight, runtime, device, threads, stack) for name, weight in votes]
        if classes is not None:
            wanted = tuple(name.strip() for name in classes.split(",") if name.strip())
        else:
            wanted = all_classes(members) if data is None else common_classes(members, data.classes)
        ensemble = Ensemble(members, wanted, iou)
        if data is not None:
            data = in_words(data, wanted)
            calibration, seen = measure(ensemble, data, asked, threshold, ignore_below, progress)
            echo(_table(calibration), err=True)
            threshold, ignore_below = calibration.threshold, calibration.ignore_below
        else:
            ignore_below = IGNORE_BELOW if ignore_below is None else ignore_below
            threshold = min(THRESHOLD, ignore_below) if threshold is None else threshold
        labelled, skipped = label(files, ensemble, calibration, seen, progress)
    content = to_coco(labelled, wanted, out, threshold, ignore_below)
    write_labels(out, {"info": _info(ensemble, calibration, threshold, ignore_below, asked), **content})
    if sheet is not None:
        write_sheet(labelled, wanted, sheet, threshold, ignore_below)
    for line in skipped:
        echo(f"Warning: skipped {line}", err=True)
    ignored = sum(one["ignore"] for one in content["annotations"])
    objects = len(content["annotations"]) - ignored
    echo(f"{out}: {len(labelled)} photos, {objects} objects, {ignored} boxes to be ignored")


def _check(
    models: tuple[str, ...], weights: tuple[float, ...], out: Path, sheet: Path | None,
    calibrate_on: Path | None, precision: float | None,
) -> None:  # fmt: skip
    """Find out before the work what would make it useless after it."""
    if weights and len(weights) != len(models):
        raise ConfigError(f"--weight: expected one for each of {len(models)} models, got {len(weights)}")
    if out.suffix.lower() != ".json":
        raise ConfigError(
            f"--out {out}: expected a file name that ends with .json, as readers of COCO JSON look for"
        )
    if precision is not None and calibrate_on is None:
        raise ConfigError(
            "--precision: expected --calibrate-on with it, the labelled photos to measure precision on"
        )
    for file in (out, sheet):
        if file is not None:
            prepare_folder(file.parent)


def _open(
    name: str, weight: float, runtime: str, device: str, threads: int | None, stack: ExitStack
) -> Member:
    """A detector by its name on the command line.

    Args:
        name: a model, or FAMILY=FILE for a detector of others.
        weight: of its vote.
        runtime: the engine, or "auto"; others' detectors have one of their own, on the CPU.
        device: what OpenVINO computes on.
        threads: CPU threads.
        stack: closes it.
    """
    peer = peer_file(name)
    if peer is not None:
        family, file = peer
        theirs = PeerDetector(family, file, threads=threads)
        echo(f"Using {FAMILIES[family].title} in {theirs.engine}: {file}", err=True)
        return Member(
            family,
            file.name,
            sha256(file),
            theirs.classes,
            lambda image: theirs.detect_timed(image, SCORE_FLOOR)[0],
            weight,
        )
    try:
        opened = open_model(name, runtime, threads, device)
    except (ArtifactError, ManifestError) as error:
        if Path(name).suffix in OF_SUFFIX and Path(name).is_file():
            raise type(error)(
                f"{error}; is it of another family? Then say so: --model FAMILY={name}"
            ) from None
        raise
    stack.callback(opened.close)
    ours = Detector(opened, threshold=SCORE_FLOOR, max_detections=MAX_DETECTIONS)
    path = first_candidate(name, runtime, device)[0]
    return Member(opened.manifest.model.name, path.name, sha256(path), ours.classes, ours.detect, weight)


def _info(
    ensemble: Ensemble, calibration: Calibration | None, threshold: float, ignore_below: float, asked: float
) -> dict[str, Any]:
    """How the labels were made, and what their scores mean. asked: the precision that was asked for."""
    about: dict[str, Any] = {
        "description": f"labelled by edge-centernet {__version__}",
        "score": "probability of being right at IoU 0.5" if calibration else "fused score, not calibrated",
        "models": [
            {"name": one.name, "file": one.file, "sha256": one.sha256, "weight": one.weight}
            for one in ensemble.members
        ],
        "fusion": {"rule": "weighted boxes, photo and mirror image", "iou": ensemble.iou},
        "threshold": round(threshold, 4),
        "ignore_below": round(ignore_below, 4),
    }
    if calibration is not None:
        overall, *rows = (
            {key: round(v, 4) if isinstance(v, float) else v for key, v in row._asdict().items()}
            for row in (calibration.overall, *calibration.per_class.values())
        )
        about["calibration"] = {
            "images": calibration.images,
            "precision_asked": asked,
            "overall": overall,
            "per_class": dict(zip(calibration.per_class, rows, strict=True)),
            "map": calibration.scores.to_json(ensemble.classes),
        }
    return about


def _table(calibration: Calibration) -> str:
    """Precision, recall and accuracy of each class, for the terminal."""
    wide = max(map(len, ("class", *calibration.per_class)))
    rows = [*calibration.per_class.items(), ("all", calibration.overall)]
    lines = [f"{'class':<{wide}}  objects  precision  recall  with ignored   AP50     AP"]
    lines += [
        f"{name:<{wide}}  {row.objects:7}  {_show(row.precision):>9}  {_show(row.recall):>6}  "
        f"{_show(row.recall_ignored):>12}  {_show(row.AP50):>5}  {_show(row.AP):>5}"
        for name, row in rows
    ]
    lines += [
        "",
        f"{calibration.images} photos; objects from a probability of {calibration.ignore_below:.3f}, "
        f"ignored from {calibration.threshold:.3f}",
    ]
    return "\n".join(lines)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
