"""ONNX graphs, whoever made them: read one, copy one, tidy one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_centernet.errors import ArtifactError, MissingDependency
from edge_centernet.heads import Heads
from edge_centernet.manifest import KEY, Manifest

HEADS = Heads._fields


def read_model(path: Path) -> Any:
    """A checked onnx.ModelProto.

    Raises ArtifactError for a file that is missing, damaged or something else, MissingDependency without the extra.
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
        raise ArtifactError(f"{path}: expected a complete ONNX file, got a damaged one ({reason[:120]})") from None
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
