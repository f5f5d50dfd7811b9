"""Reading, copying and tidying ONNX graphs, and the manifest in their metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_centernet import __version__
from edge_centernet.errors import ArtifactError, ConversionError, MissingDependency
from edge_centernet.heads import Heads
from edge_centernet.manifest import GREY, KEY, InputSize, Manifest, ModelSpec, Quant, TensorSpec
from edge_centernet.preprocess import IMAGE_QUANT

HEADS = Heads._fields


def read_model(path: Path) -> Any:
    """A checked onnx.ModelProto.

    Raises ArtifactError for a file that is missing, damaged or something else, MissingDependency without the
    extra `convert`.
    """
    try:
        import onnx
    except ImportError:
        raise MissingDependency.for_extra(f"{path}: reading ONNX files", "convert") from None
    if not path.is_file():
        raise ArtifactError(f"{path}: expected an ONNX file, found no such file")
    try:
        model: Any = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx.checker and the file system each raise their own kind
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(
            f"{path}: expected a complete ONNX file, got a damaged one ({reason[:120]})"
        ) from None
    return model


def copy_of(model: Any) -> Any:
    """A ModelProto that can be changed without changing `model`."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def manifest_of(model: Any) -> Manifest | None:
    """The manifest in an ONNX file of ours; None in others."""
    entry = next((e for e in model.metadata_props if e.key == KEY), None)
    return None if entry is None else Manifest.from_json(entry.value)


def set_manifest(model: Any, manifest: Manifest) -> None:
    """Write the manifest into the model's metadata, in place, instead of whatever is there."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: manifest.to_json()})


def interchange_manifest(
    spec: ModelSpec, heads: dict[str, Quant], made_by: dict[str, str], checkpoint_sha256: str = ""
) -> Manifest:
    """The manifest of the interchange file: uint8 image in, int8 heads of these scales out.

    heads: role -> scale and zero point. made_by: tool -> version, beside this package's own.

    Raises ConversionError for a network whose input is not (pixel - 128) / 128: with other constants the
    pixels would be rounded to the grid of int8 instead of being on it.
    """
    if set(spec.mean) != {float(GREY)} or set(spec.std) != {float(GREY)}:
        raise ConversionError(f"export: expected mean and std {GREY}, got {spec.mean} and {spec.std}")
    channels = {"heat": len(spec.classes), "size": 2, "offset": 2}
    heat, size, offset = (
        TensorSpec(role, (1, channels[role], *spec.cells), "NCHW", "int8", heads[role]) for role in HEADS
    )
    image = TensorSpec("image", (1, 3, spec.height, spec.width), "NCHW", "uint8", IMAGE_QUANT)
    made_by = {"edge-centernet": __version__, **made_by}
    return Manifest(
        spec, image, heat, size, offset, "int8", checkpoint_sha256=checkpoint_sha256, made_by=made_by
    )


def at_size(model: Any, size: InputSize) -> Any:
    """A copy of a network of ours for another input size: other shapes and a manifest to match.

    Weights and scales stay, for neither depends on the size. Raises ConversionError where the graph holds
    something that fits one size only.
    """
    import onnx
    from onnx import numpy_helper

    model = copy_of(model)
    manifest = manifest_of(model)
    assert manifest is not None
    spec = manifest.model.resized(size)
    channels = {"input": 3, "heat": len(spec.classes), "size": 2, "offset": 2}
    tensors = {role: getattr(manifest, role) for role in channels}
    for role, tensor in tensors.items():
        height, width = (spec.height, spec.width) if role == "input" else spec.cells
        tensors[role] = replace(tensor, shape=(1, channels[role], height, width))
    by_name = {tensor.name: tensor for tensor in tensors.values()}
    for entry in (*model.graph.input, *model.graph.output):
        if entry.name in by_name:
            for dim, value in zip(entry.type.tensor_type.shape.dim, by_name[entry.name].shape, strict=True):
                dim.dim_value = value
    # Simplifiers write the size of a Resize's result instead of its factors, which fit any input.
    old = manifest.model.input_size
    named = {n.input[3] for n in model.graph.node if n.op_type == "Resize" and len(n.input) > 3}
    for constant in [i for i in model.graph.initializer if i.name in named]:
        batch, depth, height, width = numpy_helper.to_array(constant).tolist()
        scaled = [batch, depth, height * size.height // old.height, width * size.width // old.width]
        constant.CopyFrom(numpy_helper.from_array(np.array(scaled, np.int64), constant.name))
    del model.graph.value_info[:]
    # The self-test vector, the verification and the content hash belong to the old size.
    changed = replace(manifest, model=spec, **tensors, golden=None, verified=False, content_sha256="")
    set_manifest(model, changed)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # shape inference and the checker each raise their own kind
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(f"it does not fit an input of {size}: {reason[:120]}") from None
    return model


def constants_as_initializers(graph: Any) -> None:
    """Turn Constant nodes, which simplifying leaves behind, into initializers, in place."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def drop_unused(graph: Any) -> None:
    """Remove nodes and initializers nothing reads any more, in place."""
    while True:  # until nothing is dead: a node that goes may have been the only reader of another
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        dead = [n for n in graph.node if not used.intersection(n.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
