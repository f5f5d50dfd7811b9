"""QDQ network -> an ONNX file that Frigate runs: the decoder is in the graph, the output is a table of boxes.

Frigate's detectors `openvino` and `onnx` read it as `model_type: yolonas`: one uint8 image in, (1, 3, H, W),
one table out, (20, 7) float32, a row for each box: index of the image, always 0; left, top, right, bottom in
input pixels; score 0..1; class id. The best box comes first; the row behind the last box has class -1, at
which Frigate stops. It reads no more than 20 rows and resizes its square regions to the input's size without
padding, so there is no letterbox to undo. The decoder's nodes are in `decoder_graph.py`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import __version__
from edge_centernet.converters.decoder_graph import FLOAT, Nodes, agreement_with, decode_nodes, lowest_heat
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, ConversionError, MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.progress import Say
from edge_centernet.qdq import reference as reference_module
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.storage import to_storage_form
from edge_centernet.runtimes.engines import OPENVINO

ROWS, COLUMNS = 20, 7  # of the table that Frigate reads
OUTPUT = "detections"
# In the ONNX metadata. Not our manifest's key, because no runtime of ours can decode this output.
KEY = "edge_centernet_frigate"
FLOOR = 0.4  # Frigate ignores lower scores, whatever its configuration says


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
        found, matched = agreement[engine] = agreement_with(reference, partial(_boxes, run), lowest, ROWS)
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
# {spec.name} {spec.version} for Frigate, by edge-centernet {__version__}. docs/frigate.md tells more.
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
    add_table(model.graph, network, threshold)
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [ROWS, COLUMNS])
    )
    about = {"model": spec.name, "version": spec.version, "threshold": threshold, "classes": spec.classes}
    about |= {"checkpoint_sha256": network.manifest.checkpoint_sha256, "edge-centernet": __version__}
    onnx.helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    return model


def add_table(graph: Any, network: Network, threshold: float | Sequence[float]) -> None:
    """Add the nodes from the int8 heads in an onnx.GraphProto to the table.

    threshold: lowest score in the table, 0..1, for all or for each class.
    """
    nodes = Nodes(graph)
    found = decode_nodes(nodes, network, lowest_heat(threshold, network.manifest.model), ROWS)
    count = min(2 * ROWS, math.prod(network.heads["heat"].shape))
    image = nodes.constant(np.zeros(count, np.float32))  # which of the batch: always the first
    columns = [image, *found.edges, found.score, nodes("Cast", found.class_id, to=FLOAT)]
    columns = [nodes("Unsqueeze", column, nodes.numbers(1)) for column in columns]
    table = nodes("Concat", *columns, axis=1)  # (K, 7)
    empty = nodes.constant(np.array([[0, 0, 0, 0, 0, 0, -1]], np.float32))
    table = nodes("Where", nodes("Unsqueeze", found.wanted, nodes.numbers(1)), table, empty)
    filling = [empty] * (ROWS - min(ROWS, count))  # a network of fewer cells than rows
    nodes.several("Concat", 1, nodes("Gather", table, found.order, axis=0), *filling, named=OUTPUT, axis=0)


def boxes_of(table: NDArray[np.float32], classes: tuple[str, ...] = ()) -> Detections:
    """The rows before the first of class -1, as Frigate reads them, in input pixels."""
    rows = table[: int(np.argmax(table[:, 6] < 0)) if (table[:, 6] < 0).any() else None]
    return Detections(rows[:, 1:5], rows[:, 5], rows[:, 6].astype(np.int32), classes)


def _boxes(run: Callable[[NDArray[Any]], NDArray[np.float32]], x: NDArray[Any]) -> Detections:
    return boxes_of(run(x))


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
