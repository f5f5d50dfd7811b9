"""`edge-centernet data`: what is in a data set and what is wrong with it, its parts, and a set to try."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.cli.options import input_size, set_options, sources
from edge_centernet.data import Parts, find_parts, read_datasets, unpack_all, use_parts
from edge_centernet.data.archive import is_zip
from edge_centernet.data.check import KINDS, PERCENTILES, STRIDES, check_dataset
from edge_centernet.data.coco import write_labels
from edge_centernet.data.split import BLOCKS, split, to_coco
from edge_centernet.errors import ConfigError
from edge_centernet.files import prepare_folder, write_atomic
from edge_centernet.manifest import InputSize
from edge_centernet.progress import bars

SHOWN = 5  # findings of a kind on the screen; the JSON file has all


@click.group()
def command() -> None:
    """Check, split or sample data sets.

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
    """Find what is wrong with a data set.

    A set is a file, a folder or an export's .zip: COCO JSON, PASCAL VOC, YOLO or labelme.

    Several sets are merged in the same way as by `edge-centernet train`. Of a set that has parts, train and
    val are checked.

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
        unpack_all((*train_sets, *val_sets), progress)
        parts = use_parts(train_sets, val_sets)
        report = check_dataset(parts.train, parts.val, size=size, stride=int(stride), progress=progress)
    # Blocks with an empty line between them: the sets, their figures, the findings, their number.
    cell = f"input {report.size}, heatmap cells of {report.stride}x{report.stride} pixels"
    blocks = [[*(f"{name}: {figures['data']}" for name, figures in report.sets.items()), cell]]
    blocks += _figures(report.sets)
    for kind, (severity, title) in KINDS.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        lines = [f"{severity.upper()} {kind} ({len(found)}): {title}"]
        lines += [f"  {finding.part}: {finding.text}" for finding in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"  ... and {len(found) - SHOWN} more (--json FILE names all)")
        blocks.append(lines if found else [])
    counts = {"error": report.errors, "warning": report.warnings}
    blocks.append([", ".join(f"{n} {what}" if n == 1 else f"{n} {what}s" for what, n in counts.items())])
    echo("\n\n".join("\n".join(block) for block in blocks if block))
    if out is not None:
        write_atomic(out, json.dumps(report.to_json(), indent=1) + "\n")
    ctx.exit(1 if report.errors else 0)


@command.command("split", cls=Command)
@click.argument("data", type=click.Path(path_type=Path), nargs=-1, required=True)
@option_group(
    click.option("--images", multiple=True, metavar="FOLDER", help="Image folder, as for `data check`."),
    click.option(
        "--val", default=0.2, show_default=True, metavar="SHARE",
        type=click.FloatRange(0, 0.9, min_open=True),
        help="Share of the images that becomes the validation set, above 0.",
    ),
    click.option(
        "--test", default=0.0, show_default=True, metavar="SHARE", type=click.FloatRange(0, 0.9),
        help="Share that becomes a test set; 0 for none.",
    ),
    click.option(
        "--seed", default=0, show_default=True, help="Random seed; another one gives other parts."
    ),
    heading="Data",
)  # fmt: skip
@option_group(
    click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the files."
    ),
    heading="Output",
)
def split_command(
    data: tuple[Path, ...], images: tuple[str, ...], val: float, test: float, seed: int, out: Path
) -> None:
    """Split a data set into parts.

    No scene is in more than one: photos that look alike and the frames of a video stay together, and each
    class is shared out evenly. Writes instances_train.json, instances_val.json and, with --test,
    instances_test.json; photos stay where they are. Train on that folder: edge-centernet train --data parts
    --out runs/mine

    Example: edge-centernet data split labelled --val 0.2 --out parts
    """
    shares = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    if shares["train"] < 0.05:
        raise ConfigError(
            f"--val {val:g} --test {test:g}: expected shares that leave something to learn from"
        )
    given, _ = sources("DATA", data, images, (), (), ())
    for path in data:
        if is_zip(path):
            raise ConfigError(f"{path}: unpack it first; the parts name its photos where they are")
        if path.exists() and len(parts := find_parts(path)) > 1:
            raise ConfigError(
                f"{path} has parts already ({', '.join(parts)}), which train uses as they are; "
                "to split one of them, name its own folder or file"
            )
    files = {part: out / f"instances_{part}.json" for part in shares}
    for file in (out / f"instances_{part}.json" for part in Parts._fields):
        if file.exists():
            raise ConfigError(f"{file} is there already; choose another --out")
    with bars() as progress:
        dataset = read_datasets(given, progress=progress)
        found = split(dataset, shares, seed, progress)
    prepare_folder(out)
    rows = [["set", "images", "scenes", *dataset.classes]]
    for part, own in found.images.items():
        write_labels(files[part], to_coco(dataset, own, files[part]))
        counts = [
            sum(int((dataset.samples[i].labels == k).sum()) for i in own) for k in range(len(dataset.classes))
        ]
        rows.append([part, f"{len(own)}", f"{found.scenes[part]}", *map(str, counts)])
    echo("\n".join(_table(rows)))
    if found.cut:
        echo(
            f"One scene has more than half of the images: it was cut into {BLOCKS} runs, whose ends look "
            "alike. A recording of another day is a better validation set.",
            err=True,
        )
    echo(
        f"Wrote {', '.join(map(str, files.values()))}. Train on them: "
        f"edge-centernet train --data {out} --out runs/mine"
    )


@command.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", default=0, show_default=True, help="Random seed; another one gives other images.")
def sample(folder: Path, seed: int) -> None:
    """Write a small data set to try training with.

    Three road signs are drawn on photos of this package: 180 images of 320x240 pixels in the parts train,
    val and test, as COCO JSON.

    Example: edge-centernet data sample signs
    """
    from edge_centernet.data.sample import CLASSES, write_sample

    with bars() as progress:
        parts = write_sample(folder, seed, progress)
    count = ", ".join(f"{n} images for {part}" for part, n in parts.items())
    echo(f"Wrote {folder}: {count}; classes {', '.join(CLASSES)}.")
    echo(f"Train on it: edge-centernet train --data {folder} --epochs 10 --out runs/signs --name signs")


def _figures(sets: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Tables about all sets beside each other; one that has nothing to show is empty."""
    # 1. Images and objects, a row a set.
    columns = ("images", "readable", "empty_images", "objects", "ignored")
    counts = [["set", "images", "readable", "without boxes", "objects", "ignored"]]
    counts += [[name, *(f"{figures[column]}" for column in columns)] for name, figures in sets.items()]
    # 2. A row a class, four columns a set; the classes of the first set first.
    classes = [["class"]]
    for name in sets:
        classes[0] += [f"{name}: objects", "images", "share", "ignored"]
    for name in dict.fromkeys(name for figures in sets.values() for name in figures["classes"]):
        row = [name]
        for figures in sets.values():
            if one := figures["classes"].get(name):
                row += [f"{one['objects']}", f"{one['images']}", f"{one['share']:.1%}", f"{one['ignored']}"]
            else:
                row += ["-"] * 4
        classes.append(row)
    # 3. In how many images each class is not labelled; nothing where all are labelled for all.
    unlabelled = [
        f"{part}: {name} is unlabelled in {one['unlabelled']} of {figures['images']} images"
        for part, figures in sets.items()
        for name, one in figures["classes"].items()
        if one["unlabelled"]
    ]
    # 4. Objects by size: percentiles, COCO's three kinds, and those hardly larger than a cell.
    spread = ("min", *(f"p{p}" for p in PERCENTILES), "max")
    counted = ("small", "medium", "large", "under_1_cell", "under_2_cells")
    sizes = [["sqrt(area), px", *spread, "small", "medium", "large", "< 1 cell", "< 2 cells"]]
    # 5. Objects that have their centre in one cell with another's: the network can only find one of a class.
    collisions = [["centres in a shared cell", "of one class", "so lost", "of any class"]]
    for name, figures in sets.items():
        size, objects = figures["box_px"], figures["objects"]
        shares = [f"{size[key]} ({size[key] / objects:.1%})" if objects else "0" for key in counted]
        sizes.append([name, *("-" if size[key] is None else f"{size[key]:.1f}" for key in spread), *shares])
        same, either = figures["collisions"]["same_class"], figures["collisions"]["any_class"]
        shown = [f"{one['objects']} ({one['rate']:.2%})" for one in (same, either)]
        collisions.append([name, shown[0], f"{same['lost']}", shown[1]])
    return [_table(counts), _table(classes), unlabelled, _table(sizes), _table(collisions)]


def _table(rows: list[list[str]]) -> list[str]:
    """Columns as wide as they must be, the first one aligned left, the others right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(wide[0]), *(text.rjust(w) for text, w in zip(row[1:], wide[1:], strict=True))]
        )
        for row in rows
    ]
