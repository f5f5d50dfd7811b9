"""The interchange network: a QDQ ONNX file as a typed graph, read, written and rewritten."""

from edge_centernet.qdq.network import (
    UNUSED,
    Activation,
    Add,
    Concat,
    Conv,
    Crop,
    DepthToSpace,
    MaxPool,
    Network,
    Op,
    Tensor,
    Upsample,
    quantize_weight,
)
from edge_centernet.qdq.reader import load, parse, parse_from

__all__ = [
    "UNUSED",
    "Activation",
    "Add",
    "Concat",
    "Conv",
    "Crop",
    "DepthToSpace",
    "MaxPool",
    "Network",
    "Op",
    "Tensor",
    "Upsample",
    "load",
    "parse",
    "parse_from",
    "quantize_weight",
]
