"""QDQ network -> OpenVINO IR with the decoder in the graph, which Intel's Model API opens as an `SSD` model.

Beside the heads there are three outputs, 100 rows each, best first: bboxes (1, 100, 4) float32, left, top,
right and bottom as parts of the input's sides, 0..1; scores (1, 100) float32, 0..1; labels (1, 100) int64,
class ids. Rows behind the last peak are zeros. There is no threshold in the graph: Model API has one of its
own, to which rt_info/model_info gives the model's. The heads stay, so that this package opens the file like
any other of its artifacts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.converters import Save
from edge_centernet.converters.decoder_graph import FLOAT, Nodes, agreement_with, decode_nodes, lowest_heat
from edge_centernet.converters.to_openvino import ir_save, model_info
from edge_centernet.detections import Detections
from edge_centernet.errors import ConversionError
from edge_centernet.manifest import Precision
from edge_centernet.qdq import reference as reference_module
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import copy_of
from edge_centernet.qdq.reference import Reference
from edge_centernet.runtimes.base import BOX_OUTPUTS
from edge_centernet.runtimes.engines import openvino_core

ROWS = 100


def convert(network: Network, precision: Precision) -> Save:
    """Build the IR; the result writes it to a .xml and its weights to the .bin beside it.

    Raises ConversionError for float, and as `to_openvino.convert` does.
    """
    if precision != "int8":
        raise ConversionError(
            "expected int8: in float use the target 'openvino' and the decoder of this package"
        )
    # Model API's wrapper for outputs of these names; resizing is the same for both.
    info = {**model_info(network.manifest.model), "model_type": "SSD"}
    return ir_save(network, precision, with_boxes(network), info)


def with_boxes(network: Network) -> Any:
    """The network as an onnx.ModelProto with the three outputs behind its heads."""
    import onnx

    model, spec = copy_of(network.model), network.manifest.model
    nodes = Nodes(model.graph)
    _quantize_again(nodes, model.graph, network.manifest.input.name)
    found = decode_nodes(nodes, network, lowest_heat(0, spec), ROWS)
    across, down = nodes.numbers(0), nodes.numbers(1)
    parts = [
        nodes("Unsqueeze", nodes("Div", edge, nodes.constant(np.float32(side))), down)
        for edge, side in zip(found.edges, (spec.width, spec.height) * 2, strict=True)
    ]
    columns = (
        (nodes("Concat", *parts, axis=1), nodes("Unsqueeze", found.wanted, down), np.float32(0)),  # (K, 4)
        (found.score, found.wanted, np.float32(0)),  # (K,)
        (found.class_id, found.wanted, np.int64(0)),
    )
    for name, (column, wanted, empty) in zip(BOX_OUTPUTS, columns, strict=True):
        rows = nodes("Gather", nodes("Where", wanted, column, nodes.constant(empty)), found.order, axis=0)
        nodes.several("Unsqueeze", 1, rows, across, named=name)
        kind = onnx.TensorProto.INT64 if name == "labels" else onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def _quantize_again(nodes: Nodes, graph: Any, image: str) -> None:
    """Put a quantizer behind the uint8 image that changes nothing: every pixel is itself."""
    # Model API puts its own resizing, in float, in front of the network. OpenVINO then takes the image for
    # floats and computes the first convolution with them, on processors that have it in bfloat16: the heads
    # would be several steps off. From a quantizer it learns that these are 256 integers.
    stored = nodes(
        "QuantizeLinear",
        nodes("Cast", image, to=FLOAT),
        nodes.constant(np.float32(1)),
        nodes.constant(np.uint8(0)),
    )
    made = [graph.node.pop() for _ in range(2)]
    for node in graph.node:
        node.input[:] = [stored if name == image else name for name in node.input]
    for node in made:
        graph.node.insert(0, node)


def check_boxes(reference: Reference, path: Path) -> None:
    """Raise ConversionError unless OpenVINO finds there what our decoder finds in the source's heads."""
    spec = reference.manifest.model
    compiled: Any = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    sides = np.array([spec.width, spec.height] * 2, np.float32)

    def run(x: NDArray[Any]) -> Detections:
        outputs = compiled(x)
        boxes, scores, labels = (outputs[name][0] for name in BOX_OUTPUTS)
        sure = scores >= np.broadcast_to(np.asarray(spec.suggested), len(spec.classes))[labels]
        return Detections(boxes[sure] * sides, scores[sure], labels[sure].astype(np.int32))

    found, matched = agreement_with(reference, run, spec.suggested, ROWS)
    if matched < reference_module.MIN_AGREEMENT * found:
        raise ConversionError(
            f"{matched} of {found} boxes in the graph agree with the decoder's, expected at least "
            f"{reference_module.MIN_AGREEMENT:.0%}"
        )
