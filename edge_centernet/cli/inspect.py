"""`edge-centernet inspect`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge_centernet.artifact import files_of, read_manifest
from edge_centernet.cli import Command
from edge_centernet.files import sha256
from edge_centernet.manifest import Manifest
from edge_centernet.model_zoo import find_model

_DECODERS = {
    "c": "C",
    "numpy": "NumPy (no C compiler was there when edge-centernet was installed: slower, same boxes)",
}
_FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO", ".tflite": "TFLite"}


@click.command(cls=Command)
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(artifact: str, as_json: bool) -> None:
    """Show what a model file contains: manifest, tensor types, scales, size and SHA-256. No engine is needed.

    ARTIFACT is an .onnx, .xml or .tflite file, or the name of a shipped model, which stands for its .onnx
    file.

    Example: edge-centernet inspect centernet-mbv2-320 --json
    """
    path = find_model(artifact)
    report = describe(path)
    click.echo(json.dumps(report, indent=2, ensure_ascii=False) if as_json else _text(report))


def describe(path: Path) -> dict[str, Any]:
    """Everything the file says about itself, as JSON can hold it; raises as `read_manifest` does."""
    manifest = read_manifest(path)
    parts = [{"path": str(p), "bytes": p.stat().st_size, "sha256": sha256(p)} for p in files_of(path)]
    return {
        "path": str(path),
        "format": _FORMATS[path.suffix.lower()],
        "bytes": sum(int(str(part["bytes"])) for part in parts),
        "sha256": parts[0]["sha256"],
        "files": parts,
        "tensors": _tensors(manifest),
        "manifest": asdict(manifest),
        "decoder": _decoder(),
    }


def _decoder() -> str:
    """Which decoder this installation has, told without importing it: nothing but click is needed here."""
    folder = Path(__file__).resolve().parents[1] / "decoder"
    return "c" if [*folder.glob("_decoder*.so"), *folder.glob("_decoder*.pyd")] else "numpy"


def _tensors(manifest: Manifest) -> list[dict[str, Any]]:
    roles = {"input": manifest.input, "heat": manifest.heat, "size": manifest.size, "offset": manifest.offset}
    return [
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


def _text(report: dict[str, Any]) -> str:
    manifest, model = report["manifest"], report["manifest"]["model"]
    lines = [
        f"{report['path']}",
        f"  format      {report['format']}, {manifest['precision']}, {report['bytes']} bytes",
        *(f"  sha256      {part['sha256']}  {Path(part['path']).name}" for part in report["files"]),
        f"  model       {model['name']} {model['version']}",
        f"  input       {model['width']}x{model['height']} {model['color']}, {model['resize']}, padded with "
        f"{model['pad_value']}, (pixel - {_numbers(model['mean'])}) / {_numbers(model['std'])}",
        f"  heatmap     {model['heat_unit']}s, one cell every {model['stride']} pixels, "
        f"suggested threshold {_thresholds(model)}",
        f"  scores      {'calibrated: each says how often it is right' if model['score_scale'] else 'as trained'}",
        f"  classes     {len(model['classes'])}: {', '.join(model['classes'])}",
        f"  verified    {'yes' if manifest['verified'] else 'no'}",
        f"  self-check  {'carried' if manifest['golden'] else 'none'}",
        f"  made by     {', '.join(f'{tool} {version}' for tool, version in manifest['made_by'].items()) or 'unknown'}",
        f"  checkpoint  {manifest['checkpoint_sha256'] or 'unknown'}",
        f"  calibration {manifest['calibration_sha256'] or 'none'}",
        f"  decoder     {_DECODERS[report['decoder']]}, on this machine",
        "  tensors",
        *(_tensor_line(tensor) for tensor in report["tensors"]),
    ]
    return "\n".join(lines)


def _thresholds(model: dict[str, Any]) -> str:
    """The one of most classes, and those of the others by name."""
    own = model["class_thresholds"] or [model["threshold"]] * len(model["classes"])
    others = [
        f"{name} {t:g}" for name, t in zip(model["classes"], own, strict=True) if t != model["threshold"]
    ]
    return ", ".join([f"{model['threshold']:g}", *others])


def _tensor_line(tensor: dict[str, Any]) -> str:
    quant = (
        "" if tensor["scale"] is None else f"  scale {tensor['scale']:.9g}, zero point {tensor['zero_point']}"
    )
    shape = "x".join(str(d) for d in tensor["shape"])
    return (
        f"    {tensor['role']:7} {tensor['name']:8} {tensor['layout']} {shape:14} {tensor['dtype']:8}{quant}"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else f"({', '.join(f'{v:g}' for v in values)})"
