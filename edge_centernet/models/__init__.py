"""The models that ship with the package, found by name."""

from __future__ import annotations

from pathlib import Path

from edge_centernet.errors import ArtifactError

FOLDER = Path(__file__).resolve().parent
DEFAULT = "centernet-mbv2-320"
# Order of preference where the caller does not care: the interchange file first, from which the others are made.
SUFFIXES = (".onnx", ".xml", ".tflite", ".safetensors")


def names() -> tuple[str, ...]:
    """Names of the shipped models."""
    return tuple(sorted({path.stem for path in FOLDER.iterdir() if path.suffix in SUFFIXES}))


def find_model(name_or_path: str | Path = DEFAULT, suffix: str | None = None) -> Path:
    """The file of a shipped model, or the given path if it is one.

    suffix: which file of a shipped model: ".onnx" (QDQ interchange), ".xml", ".tflite" or ".safetensors"; None takes
    the first that is there. A path to an existing file is returned as it is.
    Raises ArtifactError when there is no such file or no such name.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if not is_name(name_or_path):
        raise ArtifactError(f"{path}: expected a model file, got {'a folder' if path.is_dir() else 'no such file'}")
    wanted = SUFFIXES if suffix is None else (suffix,)
    for candidate in (FOLDER / f"{name_or_path}{ending}" for ending in wanted):
        if candidate.is_file():
            return candidate
    if str(name_or_path) in names():
        raise ArtifactError(
            f"model {str(name_or_path)!r} ships no {suffix} file: make it with 'edge-centernet convert'"
        )
    shipped = ", ".join(names()) or "none"
    raise ArtifactError(f"model {str(name_or_path)!r}: no such file, and no shipped model of that name ({shipped})")


def is_name(name_or_path: str | Path) -> bool:
    """Whether the text can only be the name of a shipped model: no folder in it, no model suffix, no such file."""
    path = Path(name_or_path)
    return path.name == str(name_or_path) and path.suffix not in (*SUFFIXES, ".bin") and not path.exists()
