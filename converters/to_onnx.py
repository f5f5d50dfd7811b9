"""QDQ network -> ONNX for deployment: a copy with its own manifest, or the float network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_centernet.converters import Save, written_manifest
from edge_centernet.manifest import Manifest, Precision, nchw_specs
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import set_manifest
from edge_centernet.qdq.storage import to_storage_form


def convert(network: Network, precision: Precision) -> Save:
    """Build and check the model; the result writes it to a .onnx."""
    # The storage form: a third of the size, and ONNX Runtime computes it with integers.
    model = to_storage_form(network.model) if precision == "int8" else float_model(network)
    return checked_save(model, network.manifest, nchw_specs(network.manifest, precision))


def checked_save(model: Any, source: Manifest, specs: dict[str, Any]) -> Save:
    """Check an onnx.ModelProto; the result writes it to a .onnx.

    source: the network's manifest. specs: the fields that are different in the file's.
    """
    import onnx

    onnx.checker.check_model(model, full_check=True)

    def save(out: Path, verified: bool, content_sha256: str = "") -> Manifest:
        manifest = written_manifest(source, specs, "onnx", onnx.__version__, verified, content_sha256)
        set_manifest(model, manifest)
        out.write_bytes(model.SerializeToString(deterministic=True))  # the order of maps is open otherwise
        return manifest

    return save
