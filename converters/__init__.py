"""From the interchange file (QDQ ONNX) to what devices run; torch is not needed.

Importing this imports no engine and no writer; a target's module is loaded when it is asked for.
A new target is a writer and an entry here: docs/extending.md.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_centernet.artifact import check_content, content_sha256, files_of, read_manifest
from edge_centernet.errors import ConfigError, ConversionError
from edge_centernet.runtimes.engines import ENGINES

if TYPE_CHECKING:
    from edge_centernet.converters.base import Artifact, Save
    from edge_centernet.manifest import Precision
    from edge_centernet.progress import Say
    from edge_centernet.qdq.network import Network
    from edge_centernet.qdq.reference import Reference

# target -> "module:function"; the function is `convert(network, precision) -> Save` (base.py)
CONVERTERS = {
    "openvino": "edge_centernet.converters.to_openvino:convert",
    "tflite": "edge_centernet.converters.to_tflite:convert",
    "onnx": "edge_centernet.converters.to_onnx:convert",
    "tensorrt": "edge_centernet.converters.to_tensorrt:convert",
    "tflite-uint8": "edge_centernet.converters.to_tflite:convert_uint8",
}
_VARIANTS = {"tensorrt": "-tensorrt", "tflite-uint8": "-uint8"}  # what tells files for the same engine apart
# target -> how its files' names end
SUFFIXES = {
    target: f"{_VARIANTS.get(target, '')}{engine.suffix}"
    for engine in ENGINES.values()
    for target in engine.targets
}
ALL = ("openvino", "tflite", "onnx", "tensorrt")  # what "all" stands for: one file for each engine


def convert(
    source: Path,
    targets: Sequence[str],
    precision: Precision,
    out: Path,
    *,
    network: Network | None = None,
    progress: Say = lambda line: None,
    pictures: Sequence[Any] | None = None,
    stem: str | None = None,
) -> list[Artifact]:
    """Write one verified file for each target into the folder `out`, named `stem`, or after the source.

    source: the interchange file, or whatever else `network` was made from (`source.open_network`).
    targets: names of CONVERTERS. precision: "int8", or "fp32" (files named NAME-fp32).
    progress: called with one line of text as work goes on. pictures: what to verify with, (H, W, 3) uint8
      BGR;
    the packaged sample photos unless given.

    An artifact appears under its name complete and verified, or not at all; the others are still written.

    Raises:
        ArtifactError: the source is missing or damaged.
        ConversionError: the source is another network, or an artifact does not answer as the source does.
        ConfigError: a target is unknown or `out` cannot be used.
        MissingDependency: a target's packages are not installed.
    """
    from edge_centernet import qdq
    from edge_centernet.qdq import reference as reference_module

    paths = artifact_paths(source, targets, precision, out, stem)
    network = network or qdq.load(source)
    out.mkdir(parents=True, exist_ok=True)
    progress(f"Running {source.name} on the verification images")
    reference = reference_module.Reference(
        network, precision, reference_module.sample_pictures() if pictures is None else pictures
    )
    artifacts, failures = [], []
    for target, path in paths.items():
        progress(f"Writing and verifying {path}")
        try:
            source_of = (
                _symmetric(reference, progress) if (target, precision) == ("tensorrt", "int8") else reference
            )
            artifacts.append(_make(source_of, target, path))
        except ConversionError as error:
            failures.append(f"{target}: {error}")
    if failures:
        raise ConversionError(f"not written: {'; '.join(failures)}")
    return artifacts


def _symmetric(reference: Reference, progress: Say) -> Reference:
    """What a file for TensorRT is made from and compared with: the network with zero points of 0."""
    from edge_centernet.converters import to_tensorrt

    if to_tensorrt.is_symmetric(reference.network):
        return reference
    changed = reference.of(to_tensorrt.symmetric(reference.network))
    found, matched = reference.agreement_with(changed)
    progress(
        f"TensorRT knows zero point 0 only: with wider steps {matched} of {found} detections agree with the source; "
        "calibrate or train with --symmetric where that is too few"
    )
    return changed


def _make(reference: Reference, target: str, path: Path) -> Artifact:
    """Write beside the final place, verify, write again with `verified` in the manifest, move into place."""
    from edge_centernet.converters.base import Artifact

    start = time.perf_counter()
    manifest = replace(reference.network.manifest, golden=reference.golden)
    save = _converter(target)(replace(reference.network, manifest=manifest), reference.precision)
    with _scratch_folder(path.parent) as scratch:
        draft = scratch / path.name
        save(draft, False)
        report = reference.compare(draft)
        if report.failures:
            raise ConversionError(f"does not answer as the source does: {', '.join(report.failures)}")
        manifest = save(draft, True, content_sha256(draft, save(draft, True)))
        check_content(draft, read_manifest(draft))
        _move(draft, path)
    return Artifact(target, path, manifest, report, time.perf_counter() - start)


def _converter(target: str) -> Callable[[Network, Precision], Save]:
    module, function = CONVERTERS[target].split(":")
    converter: Callable[[Network, Precision], Save] = getattr(import_module(module), function)
    return converter


@contextmanager
def _scratch_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder on the same file system, so that moving out of it is a rename."""
    folder = Path(tempfile.mkdtemp(prefix=".convert-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(draft: Path, path: Path) -> None:
    """Rename all files of an artifact; the one that is opened by name goes first away and comes last."""
    if len(files_of(path)) > 1:  # never an old .xml with a new .bin
        path.unlink(missing_ok=True)
    for old, new in zip(reversed(files_of(draft)), reversed(files_of(path)), strict=True):
        os.replace(old, new)


def _name(stem: str, target: str, precision: Precision) -> str:
    return f"{stem}{'' if precision == 'int8' else '-fp32'}{SUFFIXES[target]}"


def artifact_paths(
    source: Path, targets: Sequence[str], precision: Precision, out: Path, stem: str | None = None
) -> dict[str, Path]:
    """Target -> where its file goes, in the folder `out`, which need not be there yet.

    stem: what the files' names begin with, if not with that of `source`.

    Raises ConfigError for an unknown target, or where they cannot be written.
    """
    unknown = [target for target in targets if target not in CONVERTERS]
    if unknown or not targets:
        raise ConfigError(f"target: expected {', '.join(CONVERTERS)}, got {', '.join(unknown) or 'none'}")

    _check_folder(out)
    paths = {target: out / _name(stem or source.stem, target, precision) for target in targets}
    for path in paths.values():
        if path.exists() and source.exists() and path.samefile(source):
            raise ConfigError(f"{path}: would overwrite the source; choose another --out")
    return paths


def _check_folder(out: Path) -> None:
    """ConfigError unless files can be written into `out`, or it can be made."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "got one without permission" if nearest.is_dir() else f"{nearest} is a file"
        raise ConfigError(f"{out}: expected a folder to write to, {what}; choose another --out")
