"""`edge-centernet models` and `inspect`: what ships with the package, and what a model file contains.

Neither needs an engine, nor NumPy: they work where nothing but click is installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge_centernet.artifact import files_of, read_manifest
from edge_centernet.cli import Command, echo
from edge_centernet.files import sha256
from edge_centernet.model_zoo import DEFAULT, catalogue, find_model

_DECODERS = {
    "c": "C",
    "numpy": "NumPy (no C compiler was there when edge-centernet was installed: slower, same boxes)",
}
_FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO", ".tflite": "TFLite"}


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List the models with their input size, accuracy, file size and licence.

    AP50 and AP are measured with the INT8 OpenVINO and TFLite files on the data set named below the table. A
    model without a file size is not in the package, but can be trained.

    Example: edge-centernet models
    """
    models = catalogue()
    if as_json:
        echo(json.dumps(models, indent=2))
        return
    rows = [("NAME", "VERSION", "INPUT", "CLASSES", "AP50", "AP", "OPENVINO", "TFLITE", "LICENCE")]
    engines = ("openvino", "tflite")
    for model in models:
        accuracy, sizes = model["accuracy"], model["bytes"]
        # Both engines' figures, once where they are the same.
        ap50, ap = (
            "/".join(dict.fromkeys(f"{accuracy[engine][metric]:.3f}" for engine in engines))
            for metric in ("AP50", "AP")
        )
        openvino, tflite = (f"{sizes[e] / 1e6:.1f} MB" if sizes[e] else "-" for e in engines)
        size = f"{model['width']}x{model['height']}"
        about = (model["name"], model["version"], size, str(model["classes"]))
        rows.append((*about, ap50, ap, openvino, tflite, model["licence"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    echo(f"\nDefault: {DEFAULT}")
    for model in models:
        echo(f"{model['name']}: AP50 and AP on {model['data']}; {model['note']}")


@click.command(cls=Command)
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def inspect(artifact: str, as_json: bool) -> None:
    """Show what a model file contains: manifest, tensor types, scales, size and SHA-256. No engine is needed.

    ARTIFACT is an .onnx, .xml or .tflite file, or the name of a shipped model, which stands for its .onnx
    file.

    Example: edge-centernet inspect centernet-mbv2-320 --json
    """
    report = describe(find_model(artifact))
    if as_json:
        echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    manifest, model = report["manifest"], report["manifest"]["model"]
    # The threshold of most classes, and those of the others by name.
    own = model["class_thresholds"] or [model["threshold"]] * len(model["classes"])
    thresholds = [f"{model['threshold']:g}"]
    thresholds += [
        f"{n} {t:g}" for n, t in zip(model["classes"], own, strict=True) if t != model["threshold"]
    ]
    echo(report["path"])
    echo(f"  format      {report['format']}, {manifest['precision']}, {report['bytes']} bytes")
    for part in report["files"]:
        echo(f"  sha256      {part['sha256']}  {Path(part['path']).name}")
    pixels = f"(pixel - {_numbers(model['mean'])}) / {_numbers(model['std'])}"
    tools = ", ".join(f"{tool} {version}" for tool, version in manifest["made_by"].items())
    rows = {
        "model": f"{model['name']} {model['version']}",
        "input": f"{model['width']}x{model['height']} {model['color']}, {model['resize']}, padded with "
        f"{model['pad_value']}, {pixels}",
        "heatmap": f"{model['heat_unit']}s, one cell every {model['stride']} pixels, "
        f"suggested threshold {', '.join(thresholds)}",
        "scores": "calibrated: each says how often it is right" if model["score_scale"] else "as trained",
        "classes": f"{len(model['classes'])}: {', '.join(model['classes'])}",
        "verified": "yes" if manifest["verified"] else "no",
        "self-check": "carried" if manifest["golden"] else "none",
        "made by": tools or "unknown",
        "checkpoint": manifest["checkpoint_sha256"] or "unknown",
        "calibration": manifest["calibration_sha256"] or "none",
        "decoder": f"{_DECODERS[report['decoder']]}, on this machine",
    }
    for title, text in rows.items():
        echo(f"  {title:11} {text}")
    echo("  tensors")
    for tensor in report["tensors"]:
        shape = "x".join(map(str, tensor["shape"]))
        quant = ""
        if tensor["scale"] is not None:
            quant = f"  scale {tensor['scale']:.9g}, zero point {tensor['zero_point']}"
        about = f"{tensor['role']:7} {tensor['name']:8} {tensor['layout']} {shape:14} {tensor['dtype']:8}"
        echo(f"    {about}{quant}")


def describe(path: Path) -> dict[str, Any]:
    """Everything the file says about itself, as JSON can hold it; raises as `read_manifest` does."""
    manifest = read_manifest(path)
    parts = [{"path": str(p), "bytes": p.stat().st_size, "sha256": sha256(p)} for p in files_of(path)]
    roles = {"input": manifest.input, "heat": manifest.heat, "size": manifest.size, "offset": manifest.offset}
    tensors = [
        {
            "role": role,
            "name": spec.name,
            "shape": list(spec.shape),
            "layout": spec.layout,
            "dtype": spec.dtype,
            "scale": spec.quant.scale if spec.quant else None,
            "zero_point": spec.quant.zero_point if spec.quant else None,
        }
        for role, spec in roles.items()
    ]
    # Which decoder this installation has, found without importing it, for it needs NumPy.
    folder = Path(__file__).resolve().parents[1] / "decoder"
    compiled = [*folder.glob("_decoder*.so"), *folder.glob("_decoder*.pyd")]
    return {
        "path": str(path),
        "format": _FORMATS[path.suffix.lower()],
        "bytes": sum(int(str(part["bytes"])) for part in parts),
        "sha256": parts[0]["sha256"],
        "files": parts,
        "tensors": tensors,
        "manifest": asdict(manifest),
        "decoder": "c" if compiled else "numpy",
    }


def _numbers(values: tuple[float, ...]) -> str:
    """Three channels' values, once where they are the same."""
    return f"{values[0]:g}" if len(set(values)) == 1 else f"({', '.join(f'{v:g}' for v in values)})"
