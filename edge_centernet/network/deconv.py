"""The neck of the original CenterNet's plain ResNets: three transposed convolutions, 4x4 with stride 2.

Each is computed as an ordinary 2x2 convolution with four times the channels, one set for each parity of row
and column, whose outputs are then interleaved: the same products and sums, plus one row and column that are
cut away. Why not a transposed convolution: docs/decisions/0011-original-centernet.md.

    y[2i]     = w[1] x[i] + w[3] x[i - 1]      one dimension, y = transposed convolution with padding 1
    y[2i + 1] = w[2] x[i] + w[0] x[i + 1]
so both y[2i - 1] and y[2i] come from the window x[i - 1], x[i], for i = 0 .. n, where x[-1] and x[n] are
zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_centernet.network.layers import ConvUnit


class DeconvNeck(nn.Module):
    """From the deepest map alone to stride 4, doubling three times."""

    def __init__(self, c_in: int, channels: tuple[int, ...]) -> None:
        """c_in: channels at stride 32; channels: at strides 16, 8 and 4."""
        super().__init__()
        pairs = zip((c_in, *channels[:2]), channels, strict=True)
        self.units = nn.ModuleList(ConvUnit(c, 4 * c_out, 2, padding="symmetric") for c, c_out in pairs)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (B, c4, H/4, W/4)."""
        x = maps[-1]
        for unit in self.units:
            x = interleave(unit(x))  # (B, C, H, W) -> (B, 4C', H + 1, W + 1) -> (B, C', 2H, 2W)
        return x


def as_convolution(weight: Tensor) -> Tensor:
    """Transposed kernel (C_in, C_out, 4, 4) -> (4 * C_out, C_in, 2, 2), row parity slowest, then column parity."""
    taps = [2, 0], [3, 1]  # of y[2i - 1] and of y[2i], on x[i - 1] and x[i]
    parts = [
        weight[:, :, rows][:, :, :, columns] for rows in taps for columns in taps
    ]  # each (C_in, C_out, 2, 2)
    return torch.cat([part.transpose(0, 1) for part in parts])


def interleave(x: Tensor) -> Tensor:
    """(B, 4C, H + 1, W + 1) -> (B, C, 2H, 2W): the four parities side by side, without the outermost ring."""
    out: Tensor = _Interleave.apply(x)  # type: ignore[no-untyped-call]
    return out


class _Interleave(torch.autograd.Function):
    """One node for the exporter, which would otherwise write down every reshape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        wide = x.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)
        return wide[:, :, 1:-1, 1:-1].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        wide = nn.functional.pad(grad, (1, 1, 1, 1))
        b, c, h, w = wide.shape
        return (
            wide.reshape(b, c, h // 2, 2, w // 2, 2)
            .permute(0, 3, 5, 1, 2, 4)
            .reshape(b, 4 * c, h // 2, w // 2)
        )

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        wide = g.op("DepthToSpace", x, blocksize_i=2, mode_s="DCR")
        begin, end, axes = (g.op("Constant", value_t=torch.tensor(v)) for v in ([1, 1], [-1, -1], [2, 3]))
        return g.op("Slice", wide, begin, end, axes)
