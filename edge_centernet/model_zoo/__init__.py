"""The models that ship with the package, found by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_centernet import artifact
from edge_centernet.classes import did_you_mean
from edge_centernet.errors import ArtifactError

FOLDER = Path(__file__).resolve().parent
DEFAULT = "centernet-mbv2-320"
# In order of preference where the caller names none: first the interchange file, the source of the others.
SUFFIXES = (*artifact.SUFFIXES, ".safetensors")


def names() -> tuple[str, ...]:
    """Names of the shipped models."""
    return tuple(sorted({path.stem for path in FOLDER.iterdir() if path.suffix in SUFFIXES}))


def catalogue() -> list[dict[str, Any]]:
    """A record for each model, the default first: the content of NAME.json and the sizes of its files.

    Keys: name, version, width, height, classes (how many), licence, data, note, accuracy (runtime -> AP,
    AP50) and bytes (openvino, tflite, onnx, checkpoint). A model whose sizes are all 0 is not in the package:
    its note says where it is.
    """
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    endings = {
        "openvino": (".xml", ".bin"),
        "tflite": (".tflite",),
        "onnx": (".onnx",),
        "checkpoint": (".safetensors",),
    }
    for record in records:
        files = {
            kind: [FOLDER / (record["name"] + ending) for ending in end] for kind, end in endings.items()
        }
        record["bytes"] = {
            kind: sum(p.stat().st_size for p in paths if p.is_file()) for kind, paths in files.items()
        }
    return sorted(records, key=lambda record: (record["name"] != DEFAULT, record["name"]))


def find_model(name_or_path: str | Path = DEFAULT, suffix: str | None = None) -> Path:
    """The file of a shipped model, or the given path if there is such a file.

    suffix: which file of a shipped model: ".onnx" (QDQ interchange), ".xml", ".tflite" or ".safetensors";
    None takes the first that exists. Raises ArtifactError when there is no such file or no such name.
    """
    # 1. A path to a file, which takes precedence over a shipped model of the same name.
    path = Path(name_or_path)
    if path.is_file():
        return path
    if not is_name(name_or_path):
        got = "a folder" if path.is_dir() else "no such file"
        raise ArtifactError(
            f"{path}: {got}; expected a model file, or a name that 'edge-centernet models' lists"
        )
    # 2. The name of a shipped model.
    wanted = SUFFIXES if suffix is None else (suffix,)
    for candidate in (FOLDER / f"{name_or_path}{ending}" for ending in wanted):
        if candidate.is_file():
            return candidate
    # 3. Neither: the model lacks this file, is not in the package, or has no such name.
    if str(name_or_path) in names():
        raise ArtifactError(
            f"model {str(name_or_path)!r} ships no {suffix} file: make it with 'edge-centernet convert'"
        )
    for record in catalogue():
        if record["name"] == str(name_or_path):
            raise ArtifactError(f"model {str(name_or_path)!r}: {record['note']}")
    shipped = ", ".join(names()) or "none"
    raise ArtifactError(
        f"model {str(name_or_path)!r}: no such file, and no shipped model of that name ({shipped})"
        f"{did_you_mean(str(name_or_path), names())}"
    )


def ships(name: str | Path, suffix: str) -> bool:
    """Whether the package holds this file of a model."""
    return (FOLDER / f"{name}{suffix}").is_file()


def is_name(name_or_path: str | Path) -> bool:
    """Whether the text can only be the name of a shipped model, and not a path."""
    # No folder in it, no suffix of a model file, and no file of that name.
    path = Path(name_or_path)
    return path.name == str(name_or_path) and path.suffix not in (*SUFFIXES, ".bin") and not path.exists()
