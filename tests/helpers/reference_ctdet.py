"""The original CenterNet's res_18 in plain torch.nn, to compare with: nothing of edge_centernet is used here.

Written from the definition in github.com/xingyizhou/CenterNet, src/lib/models/networks/msra_resnet.py at
commit f16ef63 (modules, names, shapes), src/lib/detectors/base_detector.py at the same commit (normalisation,
channel order) and src/lib/models/model.py at 71eea7b (the checkpoint: {"epoch", "state_dict"}, names with or
without "module.").
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

COCO_MEAN = (0.40789654, 0.44719302, 0.47026115)  # blue, green, red; src/lib/datasets/dataset/coco.py
COCO_STD = (0.28863828, 0.27408164, 0.27809835)


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Ctdet(nn.Module):
    """ResNet-18, three transposed convolutions, heads hm, wh, reg."""

    def __init__(self, classes: int, head_conv: int = 64) -> None:
        """classes: channels of hm; head_conv: channels inside the heads."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        deconv: list[nn.Module] = []
        for c_in in (512, 256, 256):
            deconv += [nn.ConvTranspose2d(c_in, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
        self.deconv_layers = nn.Sequential(*deconv)
        for head, channels in (("hm", classes), ("reg", 2), ("wh", 2)):
            layers = nn.Conv2d(256, head_conv, 3, padding=1), nn.ReLU(), nn.Conv2d(head_conv, channels, 1)
            setattr(self, head, nn.Sequential(*layers))

    def features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised BGR -> (B, 256, H/4, W/4)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.deconv_layers(self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) normalised BGR -> hm, wh, reg."""
        x = self.features(x)
        return self.hm(x), self.wh(x), self.reg(x)


def preprocess(
    bgr: NDArray[np.uint8], mean: tuple[float, ...] = COCO_MEAN, std: tuple[float, ...] = COCO_STD
) -> Tensor:
    """(H, W, 3) uint8 BGR, already of the input's size -> (1, 3, H, W)."""
    real = ((bgr / 255.0 - np.array(mean)) / np.array(std)).astype(np.float32)
    return torch.from_numpy(real.transpose(2, 0, 1)[None].copy())


CLASSES = ("red", "green", "blue")
SIDE = 12  # cells: what the squares' network says of every box's width and height


@torch.no_grad()
def squares_network(classes: int = 3) -> Ctdet:
    """Random weights and BatchNorm, but for one path, which finds red, green and blue squares of 48 pixels.

    Channels 0 to 2 carry how much one colour exceeds the other two, averaged on the way down, interpolated on
    the way up. All other channels are random and reach the heads weakly, so that every weight has a say.
    """
    torch.manual_seed(0)
    net = Ctdet(classes).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # plain averages
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    colours = torch.rand(8, 3, 16, 16) * 3.6 - 1.7
    net(nn.functional.interpolate(colours, scale_factor=8))
    _carry_colours(net.eval())
    for head, gain, bias in ((net.hm, 5.0, -7.5), (net.wh, 0.0, float(SIDE)), (net.reg, 0.0, -3.5)):
        head[2].weight.mul_(0.3)
        head[2].bias.fill_(bias)
        if gain:
            for c in range(3):
                head[0].weight[c], head[0].weight[c, c, 1, 1], head[0].bias[c] = 0, 1, 0
                head[2].weight[:, c] = 0
                head[2].weight[c, c] = gain
    return net


def _carry_colours(net: Ctdet) -> None:
    blue_green_red = torch.eye(3).flip(0) * 1.5 - 0.5  # one colour against the mean of the other two
    net.conv1.weight[:3] = blue_green_red.reshape(3, 3, 1, 1) / 49
    _pass_on(net.bn1)
    average, centre = torch.full((3, 3), 1 / 9), torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            first, second = (average, centre) if block.downsample else (centre * 0, centre * 0)
            for conv, bn, kernel in ((block.conv1, block.bn1, first), (block.conv2, block.bn2, second)):
                _diagonal(conv.weight, kernel)
                _pass_on(bn)
            if block.downsample:
                _diagonal(block.downsample[0].weight, torch.zeros(1, 1))
                _pass_on(block.downsample[1])
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for conv, bn in zip(net.deconv_layers[::3], net.deconv_layers[1::3], strict=True):
        conv.weight[:, :3] = 0  # (C_in, C_out, 4, 4)
        for c in range(3):
            conv.weight[c, c] = torch.outer(ramp, ramp)
        _pass_on(bn)


def _diagonal(weight: Tensor, kernel: Tensor) -> None:
    """Outputs 0 to 2 read the same input with `kernel`, and nothing else."""
    weight[:3] = 0
    for c in range(3):
        weight[c, c] = kernel


def _pass_on(bn: nn.BatchNorm2d) -> None:
    """Channels 0 to 2 go through unchanged."""
    for values, value in ((bn.weight, 1), (bn.bias, 0), (bn.running_mean, 0), (bn.running_var, 1 - bn.eps)):
        values[:3] = value


def draw_squares(seed: int) -> tuple[NDArray[np.uint8], dict[str, tuple[int, int, int, int]]]:
    """A noisy grey picture, (128, 128, 3) uint8 BGR, with two squares; left, top, right, bottom of each."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(90, 140, (128, 128, 3)).astype(np.uint8)
    boxes = {}
    columns, names = rng.permutation([32, 96]), rng.permutation(CLASSES)
    for x, name in zip(columns, names[:2], strict=True):
        y = int(rng.choice([32, 64, 96]))
        picture[y - 24 : y + 24, x - 24 : x + 24] = [
            255 if name == c else 0 for c in ("blue", "green", "red")
        ]
        boxes[str(name)] = (int(x) - 24, y - 24, int(x) + 24, y + 24)
    return picture, boxes
