"""From the interchange file (QDQ ONNX) to what devices run; torch is not needed.

A converter is a function from a network and a precision to a `Save`. `convert` has it write a file, has the
file run by its engine, compares it with the network, and only then moves it into place. Importing this
package imports no engine and no writer: the module of a target is loaded when it is needed. A new target is a
writer and an entry here: docs/extending.md.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_centernet import __version__
from edge_centernet.artifact import check_content, content_sha256, files_of, read_manifest
from edge_centernet.errors import ConfigError, ConversionError
from edge_centernet.runtimes.engines import ENGINES

if TYPE_CHECKING:
    from edge_centernet.manifest import Manifest, Precision
    from edge_centernet.progress import Say
    from edge_centernet.qdq.network import Network
    from edge_centernet.qdq.reference import Reference, Report


class Save(Protocol):
    """What a converter returns: it writes the file and returns the manifest inside, with these two fields."""

    def __call__(self, out: Path, verified: bool, content_sha256: str = "") -> Manifest:
        """Write `out`, whole files each time."""


@dataclass(frozen=True)
class Artifact:
    """One file that was written and verified.

    path: the file to open (.onnx, .xml, .tflite; a .xml has its .bin beside it). seconds: writing and
    verifying together.
    """

    target: str
    path: Path
    manifest: Manifest
    report: Report
    seconds: float


def written_manifest(
    manifest: Manifest, changes: dict[str, Any], tool: str, version: str, verified: bool, content_sha256: str
) -> Manifest:
    """The manifest of a file written from a network.

    Args:
        manifest: the network's.
        changes: fields that are different in the file: precision, tensors.
        tool: what wrote the file; `made_by` grows by it.
        version: of the tool.
        verified: whether the file has been compared with the network.
        content_sha256: the content hash; empty until the file is complete.
    """
    made_by = {**manifest.made_by, "edge-centernet": __version__, tool: version}
    return replace(manifest, **changes, made_by=made_by, verified=verified, content_sha256=content_sha256)


# target -> "module:function"; the function is `convert(network, precision) -> Save`
CONVERTERS = {
    "openvino": "edge_centernet.converters.to_openvino:convert",
    "tflite": "edge_centernet.converters.to_tflite:convert",
    "onnx": "edge_centernet.converters.to_onnx:convert",
    "tensorrt": "edge_centernet.converters.to_tensorrt:convert",
    "tflite-uint8": "edge_centernet.converters.to_tflite:convert_uint8",
    "openvino-boxes": "edge_centernet.converters.openvino_boxes:convert",
}
# tells files for one engine apart
_VARIANTS = {"tensorrt": "-tensorrt", "tflite-uint8": "-uint8", "openvino-boxes": "-boxes"}
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

    An artifact appears under its name complete and verified, or not at all. If one fails the others are still
    written.

    Args:
        source: the interchange file, or whatever else `network` was made from (`open.open_network`).
        targets: names of CONVERTERS.
        precision: "int8", or "fp32" for files named NAME-fp32.
        out: the folder, created if missing.
        network: what to convert; read from `source` unless given.
        progress: called with one line of text as work goes on.
        pictures: what to verify with, (H, W, 3) uint8 BGR; the packaged sample photos unless given.
        stem: what the files' names begin with, if not with that of `source`.

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
            artifacts.append(_make(reference, target, path, progress))
        except ConversionError as error:
            failures.append(f"{target}: {error}")
    if failures:
        raise ConversionError(f"not written: {'; '.join(failures)}")
    return artifacts


def _make(reference: Reference, target: str, path: Path, progress: Say) -> Artifact:
    """Write one target's file, verify it, and move it into its place."""
    start = time.perf_counter()
    # 1. A file for TensorRT is made from, and compared with, a network whose zero points are all 0.
    if (target, reference.precision) == ("tensorrt", "int8"):
        from edge_centernet.converters import to_tensorrt

        if not to_tensorrt.is_symmetric(reference.network):
            changed = reference.of(to_tensorrt.symmetric(reference.network))
            found, matched = reference.agreement_with(changed)
            share = f"{matched} of {found} detections agree with the source" if found else "it may find less"
            progress(
                f"TensorRT supports zero point 0 only: with wider steps {share}; calibrate or train with "
                "--symmetric where that is too few"
            )
            reference = changed
    module, function = CONVERTERS[target].split(":")
    converter: Callable[[Network, Precision], Save] = getattr(import_module(module), function)
    manifest = replace(reference.network.manifest, golden=reference.golden)
    save = converter(replace(reference.network, manifest=manifest), reference.precision)
    # 2. In a hidden folder on the same file system, so that moving out of it is a rename.
    with tempfile.TemporaryDirectory(
        prefix=".convert-", dir=path.parent, ignore_cleanup_errors=True
    ) as scratch:
        draft = Path(scratch) / path.name
        save(draft, False)
        report = reference.compare(draft)
        if report.failures:
            raise ConversionError(f"does not answer as the source does: {', '.join(report.failures)}")
        if target == "openvino-boxes":
            from edge_centernet.converters import openvino_boxes

            openvino_boxes.check_boxes(reference, draft)
        # 3. Twice more: with `verified` in the manifest, and with the hash of what that file holds.
        manifest = save(draft, True, content_sha256(draft, save(draft, True)))
        check_content(draft, read_manifest(draft))
        # 4. Into place. Of two files the one that programs open goes first away and comes last: never an old
        #    .xml with a new .bin.
        if len(files_of(path)) > 1:
            path.unlink(missing_ok=True)
        for old, new in zip(reversed(files_of(draft)), reversed(files_of(path)), strict=True):
            os.replace(old, new)
    return Artifact(target, path, manifest, report, time.perf_counter() - start)


def artifact_paths(
    source: Path, targets: Sequence[str], precision: Precision, out: Path, stem: str | None = None
) -> dict[str, Path]:
    """Target -> where its file goes, in the folder `out`, which need not be there yet.

    Args:
        source: what is converted, which must not be overwritten.
        targets: names of CONVERTERS.
        precision: "int8", or "fp32" for files named NAME-fp32.
        out: the folder.
        stem: what the files' names begin with, if not with that of `source`.

    Raises ConfigError for an unknown target, or where they cannot be written.
    """
    unknown = [target for target in targets if target not in CONVERTERS]
    if unknown or not targets:
        raise ConfigError(f"target: expected {', '.join(CONVERTERS)}, got {', '.join(unknown) or 'none'}")

    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "got one without permission" if nearest.is_dir() else f"{nearest} is a file"
        raise ConfigError(f"{out}: expected a folder to write to, {what}; choose another --out")
    begin = f"{stem or source.stem}{'' if precision == 'int8' else '-fp32'}"
    paths = {target: out / f"{begin}{SUFFIXES[target]}" for target in targets}
    for path in paths.values():
        if path.exists() and source.exists() and path.samefile(source):
            raise ConfigError(f"{path}: would overwrite the source; choose another --out")
    return paths
