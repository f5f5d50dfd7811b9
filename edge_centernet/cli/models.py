"""edge-centernet models: what ships with the package."""

from __future__ import annotations

import json
from typing import Any

import click

from edge_centernet.cli import Command
from edge_centernet.model_zoo import DEFAULT, catalogue


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List the models with their input size, accuracy, file size and licence.

    AP50 and AP are measured with the INT8 OpenVINO and TFLite files on the data set named below the table. A
    model without a file size is not in the package, but can be trained.

    Example: edge-centernet models
    """
    models = catalogue()
    click.echo(json.dumps(models, indent=2) if as_json else _table(models))


def _table(models: list[dict[str, Any]]) -> str:
    head = ("NAME", "VERSION", "INPUT", "CLASSES", "AP50", "AP", "OPENVINO", "TFLITE", "LICENCE")
    rows = [head, *(_row(model) for model in models)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    notes = [f"{m['name']}: AP50 and AP on {m['data']}; {m['note']}" for m in models]
    return "\n".join([*lines, "", f"Default: {DEFAULT}", *notes])


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    accuracy = model["accuracy"]
    both = [
        tuple(f"{accuracy[engine][metric]:.3f}" for engine in ("openvino", "tflite"))
        for metric in ("AP50", "AP")
    ]
    return (
        model["name"],
        model["version"],
        f"{model['width']}x{model['height']}",
        str(model["classes"]),
        *("/".join(dict.fromkeys(values)) for values in both),
        *(
            f"{size / 1e6:.1f} MB" if (size := model["bytes"][engine]) else "-"
            for engine in ("openvino", "tflite")
        ),
        model["licence"],
    )
