"""Opening a checkpoint or an ONNX file as the interchange network that every writer takes.

From                            it is made by
.onnx with Q/DQ                 taking it as it is: its scales were learned
.safetensors, stage qat         exporting it (torch)
.safetensors, stage float       exporting it (torch), then quantizing on the user's images
float .onnx of ours             quantizing on the user's images
float .onnx made elsewhere      adopting it by a Description, then quantizing on the user's images

Each of ours also opens for another input size: neither weights nor learned scales depend on it.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from edge_centernet import qdq
from edge_centernet.calibration.images import CALIBRATION_IMAGES, digest, pick_images, readers
from edge_centernet.calibration.quantize import Options, quantize, unmeasured
from edge_centernet.calibration.report import CalibrationReport
from edge_centernet.errors import ConfigError, ConversionError, MissingDependency
from edge_centernet.manifest import InputSize, ModelSpec
from edge_centernet.progress import Progress, unseen
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.float_onnx import Description, adopt, without_normalisation
from edge_centernet.qdq.onnx_graph import at_size, manifest_of, read_model, set_manifest
from edge_centernet.qdq.reference import ASSETS


@dataclass(frozen=True)
class Calibration:
    """Images to measure ranges on, and how.

    source: see `calibration.images.pick_images`. count: how many of them at most.
    """

    source: Path
    count: int = CALIBRATION_IMAGES
    options: Options = field(default_factory=Options)


class Opened(NamedTuple):
    """What was opened.

    network: in int8. original: the same operations with the float weights where there were any, else
    `network`. report: of the calibration, where there was one.
    """

    network: qdq.Network
    original: qdq.Network
    report: CalibrationReport | None


def open_network(
    path: Path,
    calibration: Calibration | None = None,
    description: Description | None = None,
    progress: Progress = unseen,
    fp32: bool = False,
    size: InputSize | None = None,
) -> Opened:
    """The network in `path`, see above for what is accepted.

    Args:
        path: a checkpoint or an ONNX file.
        calibration: images to measure ranges on; a network that is quantized already is measured anew.
        description: of an ONNX file made elsewhere; its own size counts there.
        progress: called as work goes on.
        fp32: only float files will be made of it; without `calibration` the scales of a float network come
            from the packaged photos and serve to compare.
        size: width and height of the input, if not those of the file. Learned scales are kept, measured ones
            measured at this size.

    Raises ConfigError where images are needed and none were given, ArtifactError and ConversionError as
    `qdq.load` does, MissingDependency where a checkpoint needs torch.
    """
    if path.suffix.lower() == ".safetensors":
        return _from_checkpoint(path, calibration, progress, fp32, size)
    model = read_model(path)
    manifest = manifest_of(model)
    if manifest is not None and size is not None and size != manifest.model.input_size:
        try:
            model = at_size(model, size)
        except ConversionError as error:
            raise ConversionError(f"{path}: {error}") from None
        manifest = manifest_of(model)
    if manifest is None and description is not None:
        wanted = _require(path, calibration, fp32)
        return quantized(path, *adopt(model, description), wanted, progress)
    if manifest is not None and manifest.precision == "fp32":
        wanted = _require(path, calibration, fp32)
        return quantized(path, without_normalisation(model), manifest.model, wanted, progress)
    network = qdq.parse_from(path, model)
    if calibration is None:
        return Opened(network, network, None)
    # Measured anew: the learned scales go, the weights stay those that were rounded to them in training.
    model = without_normalisation(float_model(network))
    return quantized(path, model, network.manifest.model, calibration, progress)


def _from_checkpoint(
    path: Path, calibration: Calibration | None, progress: Progress, fp32: bool, size: InputSize | None
) -> Opened:
    try:
        from edge_centernet.network.checkpoint import load_checkpoint, read_header
        from edge_centernet.train.export import export_onnx, float_onnx
    except ImportError:
        raise MissingDependency.for_extra(f"{path.name}: reading a checkpoint", "train") from None
    if read_header(path)[2] == "float":
        wanted = _require(path, calibration, fp32)  # before the export, which takes seconds
        model = load_checkpoint(path)[0]
        model.spec = model.spec if size is None else model.spec.resized(size)
        return quantized(path, float_onnx(model), model.spec, wanted, progress)
    if calibration is not None:
        raise ConfigError(
            f"{path}: it was quantized in training and keeps those scales; leave --calibration out, or give "
            "the float checkpoint"
        )
    with tempfile.TemporaryDirectory() as folder:
        network = qdq.load(export_onnx(path, Path(folder) / f"{path.stem}.onnx", size))
    return Opened(network, network, None)


def _require(path: Path, calibration: Calibration | None, fp32: bool) -> Calibration:
    if calibration is None and fp32:
        return Calibration(ASSETS)  # scales that serve to compare in steps, and are written nowhere
    if calibration is None:
        raise ConfigError(
            f"{path}: a float network; int8 needs ranges measured on images like those it will see: add "
            "--calibration with a folder or a data set (200 images are good), or --fp32"
        )
    return calibration


def quantized(
    path: Path, model: Any, spec: ModelSpec, calibration: Calibration, progress: Progress
) -> Opened:
    """A float network quantized on images.

    Args:
        path: what it was read from, for the manifest.
        model: the onnx.ModelProto, see `calibration.quantize`.
        spec: what it means.
        calibration: the images.
        progress: called as work goes on.
    """
    files = pick_images(calibration.source, calibration.count)
    result, report = quantize(model, spec, readers(files), calibration.options, progress)
    manifest = manifest_of(result)
    assert manifest is not None  # quantize wrote it
    manifest = replace(
        manifest,
        checkpoint_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        calibration_sha256=digest(files),
    )
    import onnx

    set_manifest(result, manifest)
    onnx.checker.check_model(result, full_check=True)
    return Opened(qdq.parse(result), unmeasured(model, spec), report)
