"""The decoder as nodes of an ONNX graph, for programs that read boxes from a network's output.

The nodes are the rule of `decoder/rule.py`: peaks by raster order, duplicate peaks dropped out of twice as
many, all in float32 on the values that the int8 heads stand for. Where a node looks roundabout, an engine
computes the plain one differently; the reason is beside it. `frigate.py` and `openvino_boxes.py` put the
boxes into the form that their programs read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import decode, in_heat_unit
from edge_centernet.decoder.rule import DUPLICATE_CENTRE, DUPLICATE_SIZE
from edge_centernet.detections import Detections
from edge_centernet.manifest import ModelSpec
from edge_centernet.preprocess import prepare
from edge_centernet.qdq import reference as reference_module
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS

# A duplicate of a duplicate stays: the best peak drops the second one, which then drops nothing. Chains of
# more than so many are not resolved.
_CHAIN = 4
_NEVER = np.float32(-1e9)  # below every heat
FLOAT, INT32, BOOL = 1, 6, 9  # onnx.TensorProto.FLOAT, INT32, BOOL


class Found(NamedTuple):
    """Names of tensors: K peaks in order of their heat.

    edges: left, top, right, bottom in input pixels, clipped to the input, (K,) float32 each.
    score: (K,) float32, 0..1. class_id: (K,) int64.
    wanted: (K,) bool, no duplicate and at the threshold at least.
    order: (rows,) int64, places in K: the wanted ones first, best first.
    """

    edges: tuple[str, str, str, str]
    score: str
    class_id: str
    wanted: str
    order: str


class Nodes:
    """Adds nodes and constants to a graph; every tensor it makes is named "decode/N"."""

    def __init__(self, graph: Any) -> None:
        """graph: an onnx.GraphProto that has none of these yet."""
        self._graph, self._made = graph, 0

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of a new node's only output."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, count: int, *inputs: str, named: str = "", **attributes: Any) -> list[str]:
        """The names of `count` outputs; the first is called `named` where it is given."""
        from onnx import helper

        outputs = [named if named and not i else self._name() for i in range(count)]
        node = helper.make_node(kind, list(inputs), outputs, name=f"{outputs[0]}/{kind}", **attributes)
        self._graph.node.append(node)
        return outputs

    def constant(self, value: Any) -> str:
        """An initializer."""
        from onnx import numpy_helper

        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def numbers(self, *values: int) -> str:
        """Axes, shapes, indices: int64."""
        return self.constant(np.array(values, np.int64))

    def _name(self) -> str:
        self._made += 1
        return f"decode/{self._made}"


def decode_nodes(nodes: Nodes, network: Network, lowest: NDArray[np.float32], rows: int) -> Found:
    """Add the nodes from the int8 heads to the boxes.

    Args:
        nodes: of a graph that has the heads as int8 tensors named by their roles.
        network: where the heads come from.
        lowest: (C,) float32, the heat from which a peak counts, in the heatmap's unit (`lowest_heat`).
        rows: how many boxes at most; a heatmap with fewer cells gives fewer.
    """
    spec = network.manifest.model
    classes, height, width = network.heads["heat"].shape
    count = min(2 * rows, classes * height * width)
    # 1. What the heads mean. Their int8 values have the same order, but the rule compares float32.
    quants = [network.heads[role].quant for role in HEADS]
    heat, size, offset = (
        nodes(
            "DequantizeLinear",
            role,
            nodes.constant(np.float32(quant.scale)),
            nodes.constant(np.int8(quant.zero_point)),
        )
        for role, quant in zip(HEADS, quants, strict=True)
    )  # (1, C, H, W), (1, 2, H, W) twice
    # 2. The best peaks: heat, class and cell, (K,) each.
    peak = _peaks(nodes, heat, height, width)  # (1, C, H, W) bool
    at = _best(nodes, peak, classes * height * width, count)  # (K,) class * H * W + cell
    peaks = nodes("Reshape", nodes("Where", peak, heat, nodes.constant(_NEVER)), nodes.numbers(-1))
    best = nodes("Gather", peaks, at)
    area = nodes.numbers(height * width)
    class_id, cell = nodes("Div", at, area), nodes("Mod", at, area)
    # 3. Their boxes in input pixels, (K,) for each edge.
    position = {"x": nodes("Mod", cell, nodes.numbers(width)), "y": nodes("Div", cell, nodes.numbers(width))}
    wide, off = (
        nodes("Gather", nodes("Reshape", head, nodes.numbers(2, -1)), cell, axis=1) for head in (size, offset)
    )  # (2, K) twice
    low, high, centre, side = {}, {}, {}, {}
    for axis in "xy":
        low[axis], high[axis] = _edges(nodes, axis, position[axis], wide, off, spec.stride)
        side[axis] = nodes("Sub", high[axis], low[axis])
        centre[axis] = nodes("Mul", nodes("Add", high[axis], low[axis]), nodes.constant(np.float32(0.5)))
    # 4. Which of them count: no duplicates, no scores below the threshold; the others move up.
    kept = _without_duplicate_peaks(nodes, count, centre, side, class_id)  # (K,) 1 or 0
    sure = nodes("GreaterOrEqual", best, nodes("Gather", nodes.constant(lowest), class_id))
    wanted = nodes("And", sure, nodes("Cast", kept, to=BOOL))
    place = nodes.constant(np.arange(count, dtype=np.int32))
    order = _first(nodes, nodes("Where", wanted, place, nodes.constant(np.int32(count))), min(rows, count))
    # 5. Edges and scores as programs read them.
    zero = nodes.constant(np.float32(0))
    right, bottom = nodes.constant(np.float32(spec.width)), nodes.constant(np.float32(spec.height))
    edges = (
        nodes("Clip", low["x"], zero, right),
        nodes("Clip", low["y"], zero, bottom),
        nodes("Clip", high["x"], zero, right),
        nodes("Clip", high["y"], zero, bottom),
    )
    if spec.heat_unit == "logit":
        score = nodes("Sigmoid", best)
    else:
        score = nodes("Clip", best, zero, nodes.constant(np.float32(1)))
    return Found(edges, score, class_id, wanted, order)


def lowest_heat(threshold: float | Sequence[float], spec: ModelSpec) -> NDArray[np.float32]:
    """(C,) float32: thresholds 0..1, one for all classes or one for each, in the heatmap's unit."""
    each = np.broadcast_to(np.asarray(threshold, np.float64), len(spec.classes)).tolist()
    # Thresholds of 0 and 1 are infinite logits, which some graph compilers cannot handle.
    lowest = np.clip([in_heat_unit(one, spec.heat_unit) for one in each], _NEVER / 2, -_NEVER / 2)
    return lowest.astype(np.float32)


def agreement_with(
    reference: reference_module.Reference,
    run: Callable[[NDArray[Any]], Detections],
    lowest: float | Sequence[float],
    rows: int,
) -> tuple[int, int]:
    """(boxes of both sides, those with a partner), over all images of the reference.

    Args:
        reference: the network's answers, which our decoder reads.
        run: from the network's input to the boxes that the graph gives, in input pixels.
        lowest: threshold of the graph, 0..1, for all classes or for each.
        rows: boxes of the graph at most.
    """
    found = matched = 0
    manifest, classes = reference.manifest, reference.manifest.model.classes
    limits = np.array([manifest.model.width, manifest.model.height] * 2, np.float32)
    # A score at the threshold may be on either side of it: boxes well above it must be in the table, and
    # those in the table may be a little below it.
    by_class = np.broadcast_to(np.asarray(lowest, np.float64), len(classes))
    moved = [
        dict(zip(classes, np.clip(by_class + by, 0, 1).tolist(), strict=True))
        for by in (reference_module.MATCH_SCORE, -reference_module.MATCH_SCORE)
    ]
    for picture, heads in zip(reference.pictures, reference.answers, strict=True):
        boxes = run(prepare(picture, manifest)[0])
        sure, wide = (
            decode(heads, manifest, class_thresholds=thresholds, max_detections=rows) for thresholds in moved
        )
        sure, wide = (Detections(np.clip(d.xyxy, 0, limits), d.score, d.class_id) for d in (sure, wide))
        found += len(boxes) + len(sure)
        matched += reference_module.matches(boxes, wide) + reference_module.matches(sure, boxes)
    return found, matched


def _peaks(nodes: Nodes, heat: str, height: int, width: int) -> str:
    """(1, C, H, W) -> bool, where a peak is: a cell > its earlier and >= its later neighbours.

    Earlier and later in raster order: of several equal neighbours exactly one is a peak.
    """
    row = nodes("MaxPool", heat, kernel_shape=[1, 3], pads=[0, 1, 0, 1])  # the best of left, here and right
    above, below = (_moved(nodes, row, 2, height, by) for by in (1, -1))
    left, right = (_moved(nodes, heat, 3, width, by) for by in (1, -1))
    beats_earlier = nodes("Greater", heat, nodes("Max", above, left))
    return nodes("And", beats_earlier, nodes("GreaterOrEqual", heat, nodes("Max", below, right)))


def _best(nodes: Nodes, peak: str, cells: int, count: int) -> str:
    """(1, C, H, W) bool -> (K,) int64: the hottest peaks; among equals lower class first, then lower cell."""
    # OpenVINO's TopK has no order among equals, so there must be none: heat and place make one integer. It is
    # int32 and not float32, whose 24 bits are too few for both.
    stored = nodes("Cast", HEADS[0], to=INT32)  # -128 to 127
    place = nodes("Mul", nodes("Sub", nodes.constant(np.int32(127)), stored), nodes.constant(np.int32(cells)))
    flat = nodes(
        "Add", nodes("Reshape", place, nodes.numbers(-1)), nodes.constant(np.arange(cells, dtype=np.int32))
    )
    last = nodes(
        "Add", nodes.constant(np.arange(cells, dtype=np.int32)), nodes.constant(np.int32(256 * cells))
    )
    return _first(nodes, nodes("Where", nodes("Reshape", peak, nodes.numbers(-1)), flat, last), count)


def _first(nodes: Nodes, places: str, count: int) -> str:
    """(N,) int32 -> (count,) int64: where the lowest are, lowest first."""
    return nodes.several("TopK", 2, places, nodes.numbers(count), largest=0)[1]


def _moved(nodes: Nodes, x: str, axis: int, length: int, by: int) -> str:
    """(1, C, H, W) moved along an axis by one cell, 1 or -1; what comes in is _NEVER.

    Not by Pad: OpenVINO moves it in front of the dequantization, where _NEVER is out of range.
    """
    source = np.arange(length) - by
    inside = ((source >= 0) & (source < length)).reshape([length if dim == axis else 1 for dim in range(4)])
    moved = nodes("Gather", x, nodes.numbers(*np.clip(source, 0, length - 1).tolist()), axis=axis)
    return nodes("Where", nodes.constant(inside), moved, nodes.constant(_NEVER))


def _edges(nodes: Nodes, axis: str, position: str, size: str, offset: str, stride: int) -> tuple[str, str]:
    """(K,) twice: left and right, or top and bottom, in input pixels."""
    channel = nodes.constant(np.int64("xy".index(axis)))
    extent = nodes("Max", nodes("Gather", size, channel, axis=0), nodes.constant(np.float32(0)))
    half = nodes("Mul", extent, nodes.constant(np.float32(0.5)))
    centre = nodes("Add", nodes("Cast", position, to=FLOAT), nodes("Gather", offset, channel, axis=0))
    pixels = nodes.constant(np.float32(stride))
    return nodes("Mul", nodes("Sub", centre, half), pixels), nodes("Mul", nodes("Add", centre, half), pixels)


def _without_duplicate_peaks(
    nodes: Nodes, count: int, centre: dict[str, str], side: dict[str, str], class_id: str
) -> str:
    """(K,) float32: 1 for the boxes that `rule.drop_duplicate_peaks` keeps.

    The rule goes from the best to the worst. Here all are judged at once, as often as a chain of duplicates
    may be long: after the n-th time the first n of every chain are right, and stay so.
    """
    down, across = nodes.numbers(1), nodes.numbers(0)
    twice = nodes.constant(DUPLICATE_SIZE)
    better = nodes.constant(np.triu(np.ones((count, count), np.bool_), 1))  # row better than column
    duplicates = nodes(
        "And", better, nodes("Equal", *(nodes("Unsqueeze", class_id, axes) for axes in (down, across)))
    )
    for axis in "xy":
        sides = [nodes("Unsqueeze", side[axis], axes) for axes in (down, across)]  # (K, 1), (1, K)
        centres = [nodes("Unsqueeze", centre[axis], axes) for axes in (down, across)]
        apart = nodes("Abs", nodes("Sub", *centres))  # (K, K)
        for smaller, larger in (
            (apart, nodes("Mul", sides[0], nodes.constant(DUPLICATE_CENTRE))),
            (sides[1], nodes("Mul", sides[0], twice)),
            (sides[0], nodes("Mul", sides[1], twice)),
        ):
            duplicates = nodes("And", duplicates, nodes("LessOrEqual", smaller, larger))
    matrix = nodes("Cast", duplicates, to=FLOAT)  # (K, K)
    kept = nodes.constant(np.ones(count, np.float32))
    for _ in range(_CHAIN):
        # Not MatMul: with it OpenVINO computes what leads here in bfloat16 on processors that have it.
        dropped = nodes(
            "ReduceMax", nodes("Mul", matrix, nodes("Unsqueeze", kept, down)), axes=[0], keepdims=0
        )
        kept = nodes("Sub", nodes.constant(np.float32(1)), dropped)  # (K,)
    return kept
