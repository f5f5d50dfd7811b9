#!/usr/bin/env python3
"""Get the tutorial's photos: 363 of playing cards, with 670 boxes of six classes, as COCO JSON.

    python scripts/get_cards.py --out cards

They are Evan Juras's own (EdjeElectronics on GitHub, Apache-2.0); they come from there, unless --source names
a copy that is here already. His split: 296 photos to train on, 67 to judge by.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

import click

from edge_centernet.data import Dataset, read_dataset

COMMIT = "c1645825822622fc75919b6be253779d49678f55"
REPOSITORY = "EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-Windows-10"
URL = f"https://codeload.github.com/{REPOSITORY}/zip/{COMMIT}"
CLASSES = ("nine", "ten", "jack", "queen", "king", "ace")
PARTS = {"train": "train", "test": "val"}  # folder over there -> name here
HERE = Path("../shared/data/playing_cards")  # a copy beside the repository


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("cards"), show_default=True)
@click.option("--source", help="A folder in COCO form, or a zip of the repository: a file or an address.")
def main(out: Path, source: str | None) -> None:
    """Put the photos and their labels into the folder --out."""
    if out.exists():
        message = "expected no such folder, found one; remove it, or name another by --out"
        raise click.ClickException(f"{out}: {message}")
    source = source or (str(HERE) if HERE.is_dir() else URL)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        if Path(source).is_dir():
            shutil.copytree(source, part / "cards")
        else:
            from_zip(fetch(source, part), part / "cards")
        os.replace(part / "cards", out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for name in PARTS.values():
        dataset = read_dataset(out / f"instances_{name}.json")
        boxes = sum(len(sample.boxes) for sample in dataset.samples)
        click.echo(f"{out}/instances_{name}.json: {len(dataset.samples)} photos, {boxes} boxes")


def fetch(source: str, folder: Path) -> Path:
    """The zip as a file."""
    if Path(source).is_file():
        return Path(source)
    target = folder / "repository.zip"
    try:
        with urllib.request.urlopen(source) as answer, target.open("wb") as file:
            while block := answer.read(1 << 20):  # GitHub does not say how long it will be
                file.write(block)
                click.echo(f"\rDownloading {file.tell() / 1e6:.0f} MB", nl=False, err=True)
        click.echo(err=True)
    except (OSError, ValueError) as error:
        message = f"{source}: expected a zip of photos, got {error}; --source takes a copy"
        raise click.ClickException(message) from error
    return target


def from_zip(archive: Path, out: Path) -> None:
    """The repository's VOC files -> COCO JSON and its photos."""
    with zipfile.ZipFile(archive) as content:
        for there, name in PARTS.items():
            voc = out / f"voc-{name}"
            for kind, folder in ((".xml", voc / "Annotations"), (".jpg", out / name)):
                folder.mkdir(parents=True)
                for member in content.infolist():
                    path = PurePosixPath(member.filename)
                    if path.parts[1:3] == ("images", there) and path.suffix.lower() == kind:
                        (folder / path.name).write_bytes(content.read(member))
            dataset = read_dataset(voc, images=out / name, classes=CLASSES)
            (out / f"instances_{name}.json").write_text(json.dumps(coco(dataset)) + "\n")
            shutil.rmtree(voc)


def coco(dataset: Dataset) -> dict[str, object]:
    """A data set in COCO's form."""
    images, annotations = [], []
    for number, sample in enumerate(dataset.samples, 1):
        size = {"width": sample.width, "height": sample.height}
        images.append({"id": number, "file_name": sample.path.name, **size})
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            where = {"bbox": [*box[:2], width, height], "area": width * height}
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            annotations.append({**about, "iscrowd": 0, **where})
    categories = [{"id": number, "name": name} for number, name in enumerate(dataset.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


if __name__ == "__main__":
    main()
