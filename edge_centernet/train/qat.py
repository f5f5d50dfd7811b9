"""The quantization-aware stage: what it starts from, who teaches it, and its optimizer's step.

It starts from the averaged float network as post-training quantization leaves it, and learns to answer as
that float network does. The fake quantizers themselves are in `network.fake_quant`.
"""

from __future__ import annotations

import copy

import torch
from safetensors.torch import load
from tqdm import tqdm

from edge_centernet.calibration.images import CALIBRATION_IMAGES, readers, spread
from edge_centernet.calibration.quantize import Options, quantize
from edge_centernet.data import Dataset
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import load_state
from edge_centernet.network.losses import Teacher
from edge_centernet.progress import bars
from edge_centernet.train.export import float_onnx
from edge_centernet.train.run_folder import RunFolder


def quantize_post_training(model: CenterNet, train: Dataset, symmetric: bool) -> bytes:
    """The float network `model` quantized as `convert --calibration` does it, as an ONNX file.

    Ranges are measured on images of the training set as a device will see them. The model stays as it is.
    symmetric: every zero point is 0.
    """
    files = [sample.path for sample in spread(train.samples, CALIBRATION_IMAGES)]
    tqdm.write(f"Quantizing the network, with ranges measured on {len(files)} training images")
    network = float_onnx(copy.deepcopy(model).cpu())
    with bars() as progress:
        proto, report = quantize(network, model.spec, readers(files), Options(symmetric=symmetric), progress)
    for line in report.lines():
        tqdm.write(line)
    content: bytes = proto.SerializeToString()
    return content


def teacher_from_float_stage(folder: RunFolder, model: CenterNet) -> Teacher:
    """The run's own float network, which the quantized one, `model`, learns to copy.

    It is read from the run folder and not copied from memory, so that a resumed run has the same teacher.
    """
    name = "float.safetensors"
    content = folder.read(name, "the float stage's result")
    network = CenterNet(model.spec, model.arch)
    load_state(network, load(content), folder.path / name)
    return Teacher(network, model.spec, copied=True)


@torch.no_grad()
def relative_step(optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's step, scaled for convolution weights by the largest weight of their output channel.

    Adam moves every weight by about the learning rate. With BatchNorm folded, the weights of one layer differ
    by orders of magnitude from channel to channel, and so do their int8 steps: small channels would be
    shaken, large ones would stand still. Scaled, a learning rate of 1e-4 is a ten-thousandth of the channel's
    range.
    """
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.ndim == 4]
    before = [p.detach().clone() for p in learned]
    optimizer.step()
    for p, old in zip(learned, before, strict=True):
        p.copy_(old + (p - old) * old.abs().amax(dim=(1, 2, 3), keepdim=True))
