"""`edge-centernet data`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_centernet.cli import Command, option_group
from edge_centernet.cli.options import input_size
from edge_centernet.cli.sets import set_options, sources
from edge_centernet.data.check import KINDS, PERCENTILES, STRIDES, Report, check_dataset
from edge_centernet.files import prepare_folder, write_atomic
from edge_centernet.manifest import InputSize
from edge_centernet.progress import bars

SHOWN = 5  # findings of a kind on the screen; the JSON file has all


@click.group()
def command() -> None:
    """Check a data set before training on it.

    Example: edge-centernet data check instances_train.json --val instances_val.json
    """


@command.command(cls=Command)
@click.argument("data", type=click.Path(path_type=Path), nargs=-1, required=True)
@set_options("DATA", val="Validation set to compare with the training set DATA; repeatable.")
@option_group(
    click.option(
        "--size",
        default="320",
        show_default=True,
        callback=input_size,
        metavar="WxH",
        help="Input of the network in pixels: width and height, or one number for a square.",
    ),
    click.option(
        "--stride",
        default="8",
        show_default=True,
        type=click.Choice([str(stride) for stride in STRIDES]),
        help="Input pixels per heatmap cell: 8 with the shipped models, 4 with a neck of three widths.",
    ),
    heading="Network",
)
@click.option(
    "--json",
    "out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the full report to this file too.",
)
@click.pass_context
def check(
    ctx: click.Context,
    data: tuple[Path, ...],
    val: tuple[Path, ...],
    images: tuple[str, ...],
    val_images: tuple[str, ...],
    labelled_only: tuple[str, ...],
    size: InputSize,
    stride: str,
    out: Path | None,
) -> None:
    """Check a data set: COCO JSON, PASCAL VOC (folder or ImageSets/Main/*.txt) or YOLO (data.yaml or folder).

    Several sets are merged in the same way as by `edge-centernet train`.

    Prints the number of images and objects per class, the size of objects at the input of the network, how
    many share a heatmap cell, and the problems found. Errors make training fail or learn the wrong thing;
    warnings are for you to judge. The first few of each kind are listed, and --json lists all. The exit code
    is 0 without errors, 1 with errors, and 2 if the data set cannot be read.

    Example: edge-centernet data check instances_train.json --val instances_val.json --json check.json
    """
    train_sets, val_sets = sources("DATA", data, images, val, val_images, labelled_only)
    if out is not None:
        prepare_folder(out.parent)
    with bars() as progress:
        report = check_dataset(train_sets, val_sets, size=size, stride=int(stride), progress=progress)
    click.echo(_text(report))
    if out is not None:
        write_atomic(out, json.dumps(report.to_json(), indent=1) + "\n")
    ctx.exit(1 if report.errors else 0)


def _text(report: Report) -> str:
    sets = report.sets
    cell = f"input {report.size}, heatmap cells of {report.stride}x{report.stride} pixels"
    head = [f"{name}: {figures['data']}" for name, figures in sets.items()] + [cell]
    blocks = [head, _counts(sets), _classes(sets), _unlabelled(sets), _sizes(sets), _collisions(sets)]
    blocks += [_findings(report, kind) for kind in KINDS]
    blocks += [[f"{_number(report.errors, 'error')}, {_number(report.warnings, 'warning')}"]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _counts(sets: dict[str, dict[str, Any]]) -> list[str]:
    columns = ("images", "readable", "empty_images", "objects", "ignored")
    rows = [[name, *(f"{figures[column]}" for column in columns)] for name, figures in sets.items()]
    return _table([["set", "images", "readable", "without boxes", "objects", "ignored"], *rows])


def _classes(sets: dict[str, dict[str, Any]]) -> list[str]:
    """A row a class, four columns a set; the classes of the first set first."""
    head = ["class", *(text for name in sets for text in (f"{name}: objects", "images", "share", "ignored"))]
    rows = []
    for name in dict.fromkeys(name for figures in sets.values() for name in figures["classes"]):
        row = [name]
        for figures in sets.values():
            one = figures["classes"].get(name)
            row += (
                [f"{one['objects']}", f"{one['images']}", f"{one['share']:.1%}", f"{one['ignored']}"]
                if one
                else ["-"] * 4
            )
        rows.append(row)
    return _table([head, *rows])


def _unlabelled(sets: dict[str, dict[str, Any]]) -> list[str]:
    """In how many images each class is not labelled; nothing where all are labelled for all."""
    lines = []
    for part, figures in sets.items():
        lines += [
            f"{part}: {name} is unlabelled in {one['unlabelled']} of {figures['images']} images"
            for name, one in figures["classes"].items()
            if one["unlabelled"]
        ]
    return lines


def _sizes(sets: dict[str, dict[str, Any]]) -> list[str]:
    """Objects by size: percentiles, COCO's three kinds, and those hardly larger than a cell."""
    spread = ("min", *(f"p{p}" for p in PERCENTILES), "max")
    counted = ("small", "medium", "large", "under_1_cell", "under_2_cells")
    head = ["sqrt(area), px", *spread, "small", "medium", "large", "< 1 cell", "< 2 cells"]
    rows = []
    for name, figures in sets.items():
        size = figures["box_px"]
        shown = ["-" if size[key] is None else f"{size[key]:.1f}" for key in spread]
        rows.append([name, *shown, *(_part(size[key], figures["objects"]) for key in counted)])
    return _table([head, *rows])


def _collisions(sets: dict[str, dict[str, Any]]) -> list[str]:
    """How many objects have their centre in one cell with another's."""
    rows = [["centres in a shared cell", "of one class", "so lost", "of any class"]]
    for name, figures in sets.items():
        same, either = figures["collisions"]["same_class"], figures["collisions"]["any_class"]
        shown = [f"{one['objects']} ({one['rate']:.2%})" for one in (same, either)]
        rows.append([name, shown[0], f"{same['lost']}", shown[1]])
    return _table(rows)


def _findings(report: Report, kind: str) -> list[str]:
    found = [finding for finding in report.findings if finding.kind == kind]
    if not found:
        return []
    severity, title = KINDS[kind]
    lines = [f"{severity.upper()} {kind} ({len(found)}): {title}"]
    lines += [f"  {finding.part}: {finding.text}" for finding in found[:SHOWN]]
    return lines + (
        [f"  ... and {len(found) - SHOWN} more (--json FILE names all)"] if len(found) > SHOWN else []
    )


def _part(count: int, whole: int) -> str:
    return f"{count} ({count / whole:.1%})" if whole else "0"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _table(rows: list[list[str]]) -> list[str]:
    """Columns as wide as they must be, the first to the left, the others to the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(wide[0]), *(text.rjust(w) for text, w in zip(row[1:], wide[1:], strict=True))]
        )
        for row in rows
    ]
