"""QDQ network -> an ONNX file that Frigate runs: the decoder is in the graph, the output is a table of boxes.

Frigate's detectors `openvino` and `onnx` read it as `model_type: yolonas`: one uint8 image in, (1, 3, H, W),
one table out, (20, 7) float32, a row for each box: index of the image, always 0; left, top, right, bottom in
input pixels; score 0..1; class id. The best box comes first; the row behind the last box has class -1, at
which Frigate stops. It reads no more than 20 rows and resizes its square regions to the input's size without
padding, so there is no letterbox to undo.

The nodes are the rule of `decoder/rule.py`: peaks by raster order, duplicate peaks dropped out of twice as
many, all in float32 on the values that the int8 heads stand for. Where a node looks roundabout, an engine
computes the plain one differently; the reason is beside it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import __version__
from edge_centernet.decoder import decode, in_heat_unit
from edge_centernet.decoder.rule import DUPLICATE_CENTRE, DUPLICATE_SIZE
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, ConversionError, MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.preprocess import prepare
from edge_centernet.progress import Say
from edge_centernet.qdq import reference as reference_module
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.qdq.storage import to_storage_form
from edge_centernet.runtimes.engines import OPENVINO

ROWS, COLUMNS = 20, 7  # of the table that Frigate reads
OUTPUT = "detections"
# In the ONNX metadata. Not our manifest's key, because no runtime of ours can decode this output.
KEY = "edge_centernet_frigate"
FLOOR = 0.4  # Frigate ignores lower scores, whatever its configuration says
# A duplicate of a duplicate stays: the best peak drops the second one, which then drops nothing. Chains of
# more than so many are not resolved.
_CHAIN = 4
_NEVER = np.float32(-1e9)  # below every heat
_FLOAT, _INT32, _BOOL = 1, 6, 9  # onnx.TensorProto.FLOAT, INT32, BOOL


@dataclass(frozen=True)
class Export:
    """What was written, and how far each engine agrees with the decoder on the verification images."""

    model: Path
    labels: Path
    config: Path
    agreement: dict[str, tuple[int, int]]  # engine -> (boxes of both sides, those with a partner)


def export(
    network: Network,
    name: str,
    out: Path,
    threshold: float | Sequence[float] | None = None,
    *,
    progress: Say = lambda line: None,
    pictures: Sequence[Any] | None = None,
) -> Export:
    """Write NAME-frigate.onnx, NAME-labels.txt and NAME-frigate.yml into the folder `out`, which must exist.

    The model is run by ONNX Runtime and OpenVINO on sample photos, and must find what our decoder finds in
    the source network's answers, or nothing is written.

    Args:
        network: the source.
        name: what the files' names begin with.
        out: the folder.
        threshold: lowest score in the table, 0..1, for all or for each class; None takes the model's own.
        progress: called with one line of text as work goes on.
        pictures: (H, W, 3) uint8 BGR; the packaged photos unless given.

    Raises ConfigError as `with_decoder` does, ConversionError where an engine finds something else.
    """
    spec = network.manifest.model
    lowest = spec.suggested if threshold is None else threshold
    model = with_decoder(network, lowest)
    progress("Running the source network on the verification images")
    seen = reference_module.sample_pictures() if pictures is None else pictures
    reference = reference_module.Reference(network, "int8", seen)
    agreement = {}
    for engine, run in _engines(model).items():
        progress(f"Running the decoder inside the model in {engine}")
        found, matched = agreement[engine] = _agreement(reference, run, lowest)
        if matched < reference_module.MIN_AGREEMENT * found:
            raise ConversionError(
                f"not written: in {engine} {matched} of {found} boxes agree with the decoder's, expected at "
                f"least {reference_module.MIN_AGREEMENT:.0%}"
            )
    path, labels, lines = (out / f"{name}{end}" for end in ("-frigate.onnx", "-labels.txt", "-frigate.yml"))
    files = Export(path, labels, lines, agreement)
    write_atomic(files.labels, "".join(f"{i} {label}\n" for i, label in enumerate(spec.classes)))
    write_atomic(files.config, config(network, files))
    write_atomic(files.model, model.SerializeToString(deterministic=True))  # last: it needs the other two
    return files


def config(network: Network, files: Export) -> str:
    """What to add to Frigate's config.yml, with both files in its folder /config/model_cache."""
    spec = network.manifest.model
    wanted = "person" if "person" in spec.classes else spec.classes[0]
    own = spec.class_thresholds[spec.classes.index(wanted)] if spec.class_thresholds else spec.threshold
    return f"""\
# {spec.name} {spec.version} for Frigate, by edge-centernet {__version__}. docs/frigate.md explains each line.
detectors:
  edge_centernet:
    type: openvino  # on ARM: onnx
    device: CPU

model:
  model_type: yolonas
  path: /config/model_cache/{files.model.name}
  labelmap_path: /config/model_cache/{files.labels.name}
  width: {spec.width}
  height: {spec.height}
  input_tensor: nchw
  input_pixel_format: {spec.color}

objects:
  track:
    - {json.dumps(wanted)}
  filters:
    {json.dumps(wanted)}:
      min_score: {max(FLOOR, own):g}
      threshold: 0.5
"""


def with_decoder(network: Network, threshold: float | Sequence[float]) -> Any:
    """The network in its storage form as an onnx.ModelProto whose only output is the table.

    threshold: lowest score in the table, 0..1, for all or for each class. Raises ConfigError for another
    value, or for an input that is not square: Frigate cuts squares, and would squeeze them.
    """
    import onnx

    model, spec = to_storage_form(network.model), network.manifest.model
    if spec.width != spec.height:
        raise ConfigError(
            f"expected a network with a square input, for Frigate looks at squares, got {spec.input_size}; "
            f"make one with 'edge-centernet convert --size {max(spec.input_size)} --target onnx'"
        )
    nodes = _Nodes(model.graph)
    each = np.broadcast_to(np.asarray(threshold, np.float64), len(spec.classes)).tolist()
    # Thresholds of 0 and 1 are infinite logits, which some graph compilers cannot handle.
    lowest = np.clip([in_heat_unit(one, spec.heat_unit) for one in each], _NEVER / 2, -_NEVER / 2)
    _decode(nodes, network, lowest.astype(np.float32))
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [ROWS, COLUMNS])
    )
    about = {"model": spec.name, "version": spec.version, "threshold": threshold, "classes": spec.classes}
    about |= {"checkpoint_sha256": network.manifest.checkpoint_sha256, "edge-centernet": __version__}
    onnx.helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    return model


def boxes_of(table: NDArray[np.float32], classes: tuple[str, ...] = ()) -> Detections:
    """The rows before the first of class -1, as Frigate reads them, in input pixels."""
    rows = table[: int(np.argmax(table[:, 6] < 0)) if (table[:, 6] < 0).any() else None]
    return Detections(rows[:, 1:5], rows[:, 5], rows[:, 6].astype(np.int32), classes)


def _engines(model: Any) -> dict[str, Callable[[NDArray[Any]], NDArray[np.float32]]]:
    """Engine -> a function from the image (1, 3, H, W) to the table, run as Frigate runs it."""
    try:
        import onnxruntime

        openvino = OPENVINO.load()
    except ImportError:
        raise MissingDependency.for_extra("export-frigate", "convert") from None
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(model.SerializeToString())
        compiled: Any = openvino.Core().compile_model(path, "CPU")
    name = model.graph.input[0].name
    return {
        "ONNX Runtime": lambda x: np.asarray(session.run(None, {name: x})[0], np.float32),
        "OpenVINO": lambda x: np.array(compiled(x)[0], np.float32),
    }


def _agreement(
    reference: reference_module.Reference,
    run: Callable[[NDArray[Any]], NDArray[np.float32]],
    lowest: float | Sequence[float],
) -> tuple[int, int]:
    """(boxes of both sides, those with a partner), over all images of the reference."""
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
        table = boxes_of(run(prepare(picture, manifest)[0]))
        sure, wide = (
            decode(heads, manifest, class_thresholds=thresholds, max_detections=ROWS) for thresholds in moved
        )
        sure, wide = (Detections(np.clip(d.xyxy, 0, limits), d.score, d.class_id) for d in (sure, wide))
        found += len(table) + len(sure)
        matched += reference_module.matches(table, wide) + reference_module.matches(sure, table)
    return found, matched


class _Nodes:
    """Adds nodes and constants to a graph; every tensor it makes is named "decode/N"."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._made = graph, 0

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
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


def _decode(nodes: _Nodes, network: Network, lowest: NDArray[np.float32]) -> None:
    """From the int8 heads to the table. lowest: (C,) heat from which a peak counts, in the heatmap's unit."""
    spec = network.manifest.model
    classes, height, width = network.heads["heat"].shape
    count = min(2 * ROWS, classes * height * width)
    rows = min(ROWS, count)
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
    wanted = nodes("And", sure, nodes("Cast", kept, to=_BOOL))
    place = nodes.constant(np.arange(count, dtype=np.int32))
    order = _first(nodes, nodes("Where", wanted, place, nodes.constant(np.int32(count))), rows)
    # 5. The table; a network of fewer cells than rows gets empty rows behind.
    columns = [low["x"], low["y"], high["x"], high["y"]]
    limits = nodes.constant(np.float32(0)), nodes.constant(np.float32(spec.width))
    columns = [nodes("Clip", column, *limits) for column in columns]
    if spec.heat_unit == "logit":
        score = nodes("Sigmoid", best)
    else:
        score = nodes("Clip", best, limits[0], nodes.constant(np.float32(1)))
    image = nodes.constant(np.zeros(count, np.float32))  # which of the batch: always the first
    columns = [image, *columns, score, nodes("Cast", class_id, to=_FLOAT)]
    columns = [nodes("Unsqueeze", column, nodes.numbers(1)) for column in columns]
    table = nodes("Concat", *columns, axis=1)  # (K, 7)
    empty = nodes.constant(np.array([[0, 0, 0, 0, 0, 0, -1]], np.float32))
    table = nodes("Where", nodes("Unsqueeze", wanted, nodes.numbers(1)), table, empty)
    filling = [empty] * (ROWS - rows)
    nodes.several("Concat", 1, nodes("Gather", table, order, axis=0), *filling, named=OUTPUT, axis=0)


def _peaks(nodes: _Nodes, heat: str, height: int, width: int) -> str:
    """(1, C, H, W) -> bool, where a peak is: a cell > its earlier and >= its later neighbours.

    Earlier and later in raster order: of several equal neighbours exactly one is a peak.
    """
    row = nodes("MaxPool", heat, kernel_shape=[1, 3], pads=[0, 1, 0, 1])  # the best of left, here and right
    above, below = (_moved(nodes, row, 2, height, by) for by in (1, -1))
    left, right = (_moved(nodes, heat, 3, width, by) for by in (1, -1))
    beats_earlier = nodes("Greater", heat, nodes("Max", above, left))
    return nodes("And", beats_earlier, nodes("GreaterOrEqual", heat, nodes("Max", below, right)))


def _best(nodes: _Nodes, peak: str, cells: int, count: int) -> str:
    """(1, C, H, W) bool -> (K,) int64: the hottest peaks; among equals lower class first, then lower cell."""
    # OpenVINO's TopK has no order among equals, so there must be none: heat and place make one integer. It is
    # int32 and not float32, whose 24 bits are too few for both.
    stored = nodes("Cast", HEADS[0], to=_INT32)  # -128 to 127
    place = nodes("Mul", nodes("Sub", nodes.constant(np.int32(127)), stored), nodes.constant(np.int32(cells)))
    flat = nodes(
        "Add", nodes("Reshape", place, nodes.numbers(-1)), nodes.constant(np.arange(cells, dtype=np.int32))
    )
    last = nodes(
        "Add", nodes.constant(np.arange(cells, dtype=np.int32)), nodes.constant(np.int32(256 * cells))
    )
    return _first(nodes, nodes("Where", nodes("Reshape", peak, nodes.numbers(-1)), flat, last), count)


def _first(nodes: _Nodes, places: str, count: int) -> str:
    """(N,) int32 -> (count,) int64: where the lowest are, lowest first."""
    return nodes.several("TopK", 2, places, nodes.numbers(count), largest=0)[1]


def _moved(nodes: _Nodes, x: str, axis: int, length: int, by: int) -> str:
    """(1, C, H, W) moved along an axis by one cell, 1 or -1; what comes in is _NEVER.

    Not by Pad: OpenVINO moves it in front of the dequantization, where _NEVER is out of range.
    """
    source = np.arange(length) - by
    inside = ((source >= 0) & (source < length)).reshape([length if dim == axis else 1 for dim in range(4)])
    moved = nodes("Gather", x, nodes.numbers(*np.clip(source, 0, length - 1).tolist()), axis=axis)
    return nodes("Where", nodes.constant(inside), moved, nodes.constant(_NEVER))


def _edges(nodes: _Nodes, axis: str, position: str, size: str, offset: str, stride: int) -> tuple[str, str]:
    """(K,) twice: left and right, or top and bottom, in input pixels."""
    channel = nodes.constant(np.int64("xy".index(axis)))
    extent = nodes("Max", nodes("Gather", size, channel, axis=0), nodes.constant(np.float32(0)))
    half = nodes("Mul", extent, nodes.constant(np.float32(0.5)))
    centre = nodes("Add", nodes("Cast", position, to=_FLOAT), nodes("Gather", offset, channel, axis=0))
    pixels = nodes.constant(np.float32(stride))
    return nodes("Mul", nodes("Sub", centre, half), pixels), nodes("Mul", nodes("Add", centre, half), pixels)


def _without_duplicate_peaks(
    nodes: _Nodes, count: int, centre: dict[str, str], side: dict[str, str], class_id: str
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
    matrix = nodes("Cast", duplicates, to=_FLOAT)  # (K, K)
    kept = nodes.constant(np.ones(count, np.float32))
    for _ in range(_CHAIN):
        # Not MatMul: with it OpenVINO computes what leads here in bfloat16 on processors that have it.
        dropped = nodes(
            "ReduceMax", nodes("Mul", matrix, nodes("Unsqueeze", kept, down)), axes=[0], keepdims=0
        )
        kept = nodes("Sub", nodes.constant(np.float32(1)), dropped)  # (K,)
    return kept
