"""QDQ network -> OpenVINO IR (.xml with its .bin), int8 or float32.

uint8 image in, int8 heads out: OpenVINO runs every convolution in int8, the first one too, as tests of the
executed precision show.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edge_centernet.converters import Save, written_manifest
from edge_centernet.errors import ConversionError, MissingDependency
from edge_centernet.manifest import KEY, Manifest, ModelSpec, Precision, nchw_specs
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.network import Conv, Network
from edge_centernet.qdq.onnx_graph import copy_of
from edge_centernet.runtimes.engines import OPENVINO

# x86 without VNNI adds two products u8 * s8 in int16 (vpmaddubsw) and saturates: 255 * (64 + 64) = 32,640
# just fits. Networks quantized here stay within 63; files made elsewhere may not.
PAIR_SAFE = 64


def convert(network: Network, precision: Precision) -> Save:
    """Build the IR; the result writes it to a .xml and its weights to the .bin beside it.

    Raises ConversionError where 8-bit weights would make the answer depend on the processor.
    """
    model = copy_of(network.model) if precision == "int8" else float_model(network)
    return ir_save(network, precision, model, model_info(network.manifest.model))


def ir_save(network: Network, precision: Precision, model: Any, info: dict[str, str]) -> Save:
    """Build the IR of an onnx.ModelProto; the result writes it with the network's manifest.

    Args:
        network: what the model was made from.
        precision: of the model.
        model: has the network's input and heads; changed.
        info: keys and values of rt_info/model_info.

    Raises as `convert` does.
    """
    try:
        openvino = OPENVINO.load()
    except ImportError:
        raise MissingDependency.for_extra("converting to OpenVINO", "convert") from None
    if precision == "int8" and (wide := saturating(network)):
        raise ConversionError(
            f"expected weights within [-{PAIR_SAFE}, {PAIR_SAFE}] in every dense convolution, got larger "
            f"ones in {len(wide)} ({wide[0]!r} first), which overflow on processors without VNNI: train for "
            "int8 again"
        )
    # OpenVINO copies ONNX metadata into rt_info: the source's manifest would stand beside this file's own.
    del model.metadata_props[:]
    ir = _to_ir(openvino, model)
    version: str = openvino.get_version().split("-")[0]
    specs = nchw_specs(network.manifest, precision)

    def save(out: Path, verified: bool, content_sha256: str = "") -> Manifest:
        manifest = written_manifest(network.manifest, specs, "openvino", version, verified, content_sha256)
        ir.set_rt_info(manifest.to_json(), [KEY])
        for key, value in info.items():
            ir.set_rt_info(value, ["model_info", key])
        # By default it stores floats as float16: the weights of float32 files, and biases and scales of int8.
        openvino.save_model(ir, out, compress_to_fp16=False)
        return manifest

    return save


def model_info(spec: ModelSpec) -> dict[str, str]:
    """Labels and preprocessing in rt_info/model_info, where Open Model Zoo's Model API and DL Streamer look.

    Normalisation is in the graph, hence no mean_values and scale_values; both programs pass BGR. Labels are
    separated by spaces, so that those inside a name become underscores.
    """
    return {
        "model_type": "CenterNet",
        "labels": " ".join("_".join(name.split()) for name in spec.classes),
        "resize_type": "fit_to_window_letterbox",
        "pad_value": str(spec.pad_value),
        "reverse_input_channels": str(spec.color == "rgb"),
        "confidence_threshold": f"{spec.threshold:g}",
    }


def saturating(network: Network) -> list[str]:
    """Names of dense convolutions whose weights can overflow the int16 sum of two products.

    Depthwise kernels multiply one by one and cannot.
    """
    dense = [op for op in network.ops if isinstance(op, Conv) and op.groups == 1 and not op.real]
    return [op.name for op in dense if np.abs(op.weight_int8.astype(int)).max() > PAIR_SAFE]


def _to_ir(openvino: Any, model: Any) -> Any:
    """An onnx.ModelProto -> openvino.Model, with the same names each time."""
    with tempfile.TemporaryDirectory() as folder:  # convert_model reads files only
        source = Path(folder) / "source.onnx"
        source.write_bytes(model.SerializeToString())
        ir = openvino.convert_model(source)
    # The nodes that OpenVINO made are numbered from a counter of the process: a second conversion would write
    # another file. They get the number of their place in the graph instead, "op12".
    keep = {name for node in model.graph.node for name in (node.name, *node.output)}
    for place, node in enumerate(ir.get_ordered_ops()):
        if node.get_type_name() != "Parameter" and node.get_friendly_name() not in keep:
            node.set_friendly_name(f"op{place}")
    return ir
