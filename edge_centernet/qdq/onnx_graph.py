"""ONNX graphs, whoever made them: read one, copy one, tidy one."""

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
    extra.
    """
    try:
        import onnx
    except ImportError:
        raise MissingDependency.for_extra("convert", "convert") from None
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
    """Write what the network means into its metadata, in place."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: manifest.to_json()})


def interchange_manifest(
    spec: ModelSpec, heads: dict[str, Quant], made_by: dict[str, str], checkpoint_sha256: str = ""
) -> Manifest:
    """The manifest of the interchange file: uint8 image in, int8 heads of these scales out.

    Raises ConversionError for a network whose image is not (pixel - 128) / 128: no integer would be the
    pixel.
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
    """A copy of a network of ours for another input: the same weights and scales, other shapes, a manifest to match.

    Raises ConversionError where the graph holds something that fits one size only.
    """
    import onnx

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
    _scale_resizes(model.graph, manifest.model.input_size, size)
    del model.graph.value_info[:]
    changed = replace(manifest, model=spec, **tensors, golden=None, verified=False, content_sha256="")
    set_manifest(model, changed)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # shape inference and the checker each raise their own kind
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(f"it does not fit an input of {size}: {reason[:120]}") from None
    return model


def _scale_resizes(graph: Any, old: InputSize, new: InputSize) -> None:
    """Resize nodes that name the size of their result, in place; those that name factors fit any input."""
    from onnx import numpy_helper

    named = {node.input[3] for node in graph.node if node.op_type == "Resize" and len(node.input) > 3}
    for constant in [i for i in graph.initializer if i.name in named]:
        batch, channels, height, width = numpy_helper.to_array(constant).tolist()
        scaled = [batch, channels, height * new.height // old.height, width * new.width // old.width]
        constant.CopyFrom(numpy_helper.from_array(np.array(scaled, np.int64), constant.name))


def constants_as_initializers(graph: Any) -> None:
    """Turn Constant nodes, which simplifying leaves behind, into initializers, in place."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def drop_unused(graph: Any) -> None:
    """Remove nodes and initializers nothing reads any more, in place."""
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        dead = [n for n in graph.node if not used.intersection(n.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
