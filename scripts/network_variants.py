"""Networks that differ from a shipped one in one thing: how much faster would they be? Used by scripts/roofline.py.

Each is built with random weights through our own path (training's quantizers, the interchange file, both converters),
and timed beside the present network, built the same way, in turns. What the numbers cannot say is what a change does to
the accuracy: those marked `training` would have to be trained to know.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from check_int8_speed import take_turns
from fused_front import fuse_front
from torch import nn

from edge_centernet.converters import qdq, to_openvino, to_tflite, verify
from edge_centernet.image import prepare
from edge_centernet.manifest import ModelSpec
from edge_centernet.model.backbones import MobileNetV2
from edge_centernet.model.centernet import Architecture, CenterNet
from edge_centernet.model.checkpoint import read_header
from edge_centernet.model.layers import ConvUnit
from edge_centernet.models import find_model
from edge_centernet.progress import Progress
from edge_centernet.runtimes.tflite import interpreter_class
from edge_centernet.train.export import qdq_onnx
from edge_centernet.train.qat import prepare_qat, set_observing

TURN, UNCOUNTED = 15, 5  # inferences of one network at a stretch; those not counted
PRESENT = "present network"


class SharedMix(CenterNet):
    """One mixing layer for all three heads instead of one for the heat and one for the box."""

    def __init__(self, spec: ModelSpec, arch: Architecture) -> None:
        """As CenterNet, without the second."""
        super().__init__(spec, arch)
        del self.box_mix

    def branches(self) -> tuple[tuple[nn.Sequential, tuple[ConvUnit, ...]], ...]:
        """See CenterNet.branches."""
        return ((self.heat_mix, (self.heat, self.size, self.offset)),)


class SamePadding(CenterNet):
    """Every stride-2 convolution padded as TFLite's SAME, which needs no PAD in front."""

    def __init__(self, spec: ModelSpec, arch: Architecture) -> None:
        """As CenterNet, for its second backbone too."""
        super().__init__(spec, replace(arch, padding="same_tf"))
        if arch.tower:
            self.tower = MobileNetV2(arch.tower, "relu", "same_tf")


class TwoFused(CenterNet):
    """The backbones' first blocks fused into one convolution (`fused_front`)."""

    blocks = 2

    def __init__(self, spec: ModelSpec, arch: Architecture) -> None:
        """As CenterNet, but for them."""
        super().__init__(spec, arch)
        for backbone in (self.backbone, self.tower):
            if isinstance(backbone, MobileNetV2):
                fuse_front(backbone, self.blocks)


class ThreeFused(TwoFused):
    """All blocks down to stride 4."""

    blocks = 3


@dataclass(frozen=True)
class Variant:
    """One change. training: whether its accuracy is unknown until it is trained. colours_last: input (1, H, W, 3)."""

    change: str
    training: bool = True
    kind: type[CenterNet] = CenterNet
    arch: Callable[[Architecture], Architecture] = lambda arch: arch
    colours_last: bool = False


def _with(**changes: Any) -> Callable[[Architecture], Architecture]:
    return lambda arch: replace(arch, **changes)


# 0.499 rounds as 0.5 does, but for 16 channels instead of 12 at stride 4: a multiple of 16, hidden layers of 96.
SIXTEEN = 0.499
COMMON = (
    Variant(PRESENT, training=False),
    Variant("input with colours last (OpenVINO)", training=False, colours_last=True),
    Variant("one mixing layer for all heads", kind=SharedMix),
    Variant("SAME padding at every stride 2 (TFLite needs no PAD)", kind=SamePadding),
    Variant("no context blocks at stride 32", arch=_with(context=0)),
    Variant("a plain 3x3 convolution instead of the first two blocks", kind=TwoFused),
    Variant("a plain 3x3 convolution instead of the first three blocks", kind=ThreeFused),
)
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "centernet-mbv2-320": (
        *COMMON,
        Variant("16 instead of 12 channels at stride 4 of the small backbone", arch=_with(tower=SIXTEEN)),
        Variant("no second backbone", arch=_with(tower=0.0)),
        Variant("neck without expansion", arch=_with(expand=0)),
        Variant("neck of 128 and 64 channels", arch=_with(neck=(128, 64))),
        Variant("ReLU instead of ReLU6", arch=_with(act="relu")),
    ),
    "centernet-nano-256": (
        *COMMON,
        Variant("16 instead of 12 channels at stride 4", arch=_with(width=SIXTEEN)),
        Variant("neck of 96 and 64 channels, heads of 64", arch=_with(neck=(96, 64), head=64)),
        Variant("neck of 64 and 48 channels", arch=_with(neck=(64, 48))),
        Variant("neck of 64 and 32 channels, heads of 32", arch=_with(neck=(64, 32), head=32)),
    ),
}


def build(name: str, variant: Variant, folder: Path) -> qdq.Network:
    """Write net.xml and net.tflite into `folder`; returns the network they were made from."""
    torch.manual_seed(0)
    spec, arch, _ = read_header(find_model(name, ".safetensors"))
    model = variant.kind(spec, variant.arch(arch)).eval()
    prepare_qat(model)
    set_observing(model, True)
    pictures = [torch.rand(1, 3, spec.height, spec.width) * 255 for _ in range(2)]
    with torch.no_grad():
        for picture in pictures:
            model(picture)
    set_observing(model, False)
    network = qdq.parse(qdq_onnx(model, ""))
    folder.mkdir(parents=True, exist_ok=True)
    to_openvino.convert(network, "int8")(folder / "net.xml", verified=False)
    to_tflite.convert(network, "int8")(folder / "net.tflite", verified=False)
    return network


def openvino_call(path: Path, inputs: Iterator[np.ndarray], colours_last: bool) -> Callable[[], Any]:
    """One inference, as runtimes/ov.py runs them."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    core = ov.Core()
    model = core.read_model(str(path))
    if colours_last:
        process = PrePostProcessor(model)
        process.input().tensor().set_layout(ov.Layout("NHWC"))
        process.input().model().set_layout(ov.Layout("NCHW"))
        model = process.build()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({0: next(inputs)}, share_inputs=True, share_outputs=True)


def tflite_call(path: Path, inputs: Iterator[np.ndarray]) -> Callable[[], Any]:
    """One inference, as runtimes/tflite.py runs them."""
    interpreter = interpreter_class()(model_content=path.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]
    outputs = [tensor["index"] for tensor in interpreter.get_output_details()]

    def call() -> None:
        interpreter.set_tensor(index, next(inputs))
        interpreter.invoke()
        for output in outputs:
            interpreter.get_tensor(output)

    return call


def measure_variants(name: str, runs: int, progress: Progress) -> list[dict[str, Any]]:
    """For each change of a network: multiply-adds, milliseconds in both engines, and their ratio to the present one."""
    from roofline import work

    variants = VARIANTS[name]
    pictures = verify.sample_pictures()
    with tempfile.TemporaryDirectory() as scratch:
        calls: dict[tuple[str, str], Callable[[], Any]] = {}
        macs = {}
        for number, variant in enumerate(variants, 1):
            folder = Path(scratch) / str(number)
            network = build(name, variant, folder)
            macs[variant.change] = sum(work(op).macs for op in network.ops)
            planes = [prepare(picture, network.manifest)[0] for picture in pictures]  # (1, 3, H, W) uint8
            last = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in planes]
            calls["openvino", variant.change] = openvino_call(
                folder / "net.xml", cycle(last if variant.colours_last else planes), variant.colours_last
            )
            if not variant.colours_last:  # TFLite's input has its colours last already
                stored = [(x ^ 0x80).view(np.int8) for x in last]  # pixel - 128
                calls["tflite", variant.change] = tflite_call(folder / "net.tflite", cycle(stored))
            progress(f"{name}: variants", number, len(variants))
        times = take_turns(calls, max(2, runs // 5), TURN, UNCOUNTED, warm_up=1)
    ms = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    rows = []
    for variant in variants:
        mine = {engine: value for (engine, change), value in ms.items() if change == variant.change}
        rows.append({
            "change": variant.change, "training": variant.training, "macs": macs[variant.change],
            "ms": {engine: round(value, 3) for engine, value in mine.items()},
            "ratio": {engine: round(value / ms[engine, PRESENT], 4) for engine, value in mine.items()},
        })  # fmt: skip
    return rows
