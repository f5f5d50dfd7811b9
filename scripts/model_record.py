"""What `edge-centernet models` says about a model, from its result files.

    python scripts/model_record.py centernet-mbv2-320 --note "the default"

Reads docs/benchmarks/NAME/eval-{openvino,tflite}.json, which `edge-centernet eval --json` wrote, checks that they
belong to the files, and writes edge_centernet/model_zoo/NAME.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_centernet.artifact import read_manifest
from edge_centernet.files import sha256, write_atomic
from edge_centernet.model_zoo import FOLDER

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs/benchmarks"
SUFFIX = {"openvino": ".xml", "tflite": ".tflite"}


@click.command()
@click.argument("name")
@click.option(
    "--data", default="VOC 2007 validation (1,002 images)", show_default=True, help="What it was measured on."
)
@click.option("--licence", default="Apache-2.0", show_default=True)
@click.option("--note", required=True, help="What it is for, in a few words.")
@click.option("--files", type=click.Path(path_type=Path), default=FOLDER, help="Where its files lie, if not there.")
def main(name: str, data: str, licence: str, note: str, files: Path) -> None:
    """Write the record of NAME."""
    spec = read_manifest(files / f"{name}.onnx").model
    record = {
        "name": name, "version": spec.version, "width": spec.width, "height": spec.height, "classes": len(spec.classes),
        "licence": licence, "data": data, "note": note,
        "accuracy": {engine: _accuracy(name, engine, files) for engine in SUFFIX},
    }  # fmt: skip
    write_atomic(FOLDER / f"{name}.json", json.dumps(record, indent=1) + "\n")


def _accuracy(name: str, engine: str, files: Path) -> dict[str, float]:
    """AP and AP50 of the file; raises click.ClickException for results of another one."""
    path = BENCHMARKS / name / f"eval-{engine}.json"
    result: dict[str, Any] = json.loads(path.read_text())
    found = sha256(files / f"{name}{SUFFIX[engine]}")
    if result["sha256"] != found:
        raise click.ClickException(f"{path}: measured on sha256 {result['sha256'][:12]}, the file has {found[:12]}")
    return {metric: round(result[metric], 4) for metric in ("AP50", "AP")}


if __name__ == "__main__":
    main()
