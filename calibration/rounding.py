"""Rounding the weights of a channel together: what one weight loses, those not yet rounded make up for.

Optimal Brain Quantization by columns, as GPTQ does it (Frantar et al., arXiv 2210.17323, section 3): for a
layer with inputs x the squared error of its result is dW H dW^T with H = E[x x^T]; each column of W is
rounded in turn and its error spread over the later ones along H's inverse. Inputs behind a ReLU are strongly
correlated, so this helps a lot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet import qdq
from edge_centernet.calibration.observe import Pictures, Probe
from edge_centernet.progress import Progress
from edge_centernet.qdq.insert import real_name

Floats = NDArray[np.float64]
POSITIONS = 1024  # cells of each image and layer, evenly spread: neighbours see nearly the same
LARGEST = 1200  # inputs of a dense layer (channels x kernel); H of larger ones costs more than it gains
DAMPING = 0.01  # of H's mean diagonal: inputs that hardly vary must not make up for much


def second_moments(
    probe: Probe, network: qdq.Network, pictures: Pictures, progress: Progress
) -> dict[str, Floats]:
    """Convolution -> E[x x^T] of what it reads: (K, K), or (C, k, k) one for each channel of a depthwise one.

    K: channels x kernel, k: kernel, in the order of the flattened weight. probe: shows every convolution's
    input under its real name; convolutions whose input it does not show are left out.
    """
    # A depthwise kernel is small, however many channels there are.
    convolutions = [
        op
        for op in network.ops
        if isinstance(op, qdq.Conv) and (op.groups > 1 or np.prod(op.weight.shape[1:]) <= LARGEST)
    ]
    sums: dict[str, Any] = {op.name: 0.0 for op in convolutions}
    for i, read in enumerate(pictures):
        values = probe(read())
        for op in convolutions:
            x = values.get(real_name(op.x))
            if x is not None:
                sums[op.name] = sums[op.name] + _moments(op, x)
        progress("Rounding the weights", i + 1, len(pictures))
    return {name: total / len(pictures) for name, total in sums.items() if not isinstance(total, float)}


def _moments(op: qdq.Conv, x: NDArray[np.float32]) -> Floats:
    """x: (C, H, W) -> the layer's E[x x^T] over some of its output cells."""
    # 1. What the kernel sees at N output cells, padding included.
    top, left, bottom, right = op.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    height, width = op.y.shape[1:]
    rows, columns = np.divmod(
        np.linspace(0, height * width - 1, min(POSITIONS, height * width)).astype(int), width
    )
    taps = [
        padded[:, rows * op.stride[0] + dy, columns * op.stride[1] + dx]
        for dy in range(op.weight.shape[2])
        for dx in range(op.weight.shape[3])
    ]
    patches = np.stack(taps, axis=1)  # (C, kh * kw, N)
    # 2. Which products occur in one sum: within a channel if depthwise, else between all channels.
    if op.groups > 1:
        products = np.einsum("cin,cjn->cij", patches, patches, optimize=True)
        return np.asarray(products / patches.shape[2], np.float64)
    flat = patches.reshape(-1, patches.shape[2])  # (K, N)
    return np.asarray(flat @ flat.T / flat.shape[1], np.float64)


def rounded(op: qdq.Conv, scale: NDArray[np.float32], moments: Floats, limit: int) -> NDArray[np.float32]:
    """The layer's weights on their grid, as real values, (O, I, kh, kw).

    scale: (O,). moments: of the layer, see `second_moments`. limit: largest stored magnitude, in steps.
    """
    flat, steps = op.weight.reshape(len(op.weight), -1).astype(np.float64), scale.astype(np.float64)
    if op.groups == 1:
        stored = _round_columns(flat, steps, moments, limit)
    else:  # one channel at a time, each with the moments of its own input
        channels = [
            _round_columns(flat[c : c + 1], steps[c : c + 1], moments[c % len(moments)], limit)
            for c in range(len(flat))
        ]
        stored = np.concatenate(channels)
    return np.asarray(stored.reshape(op.weight.shape) * scale.reshape(-1, 1, 1, 1), np.float32)


def _round_columns(weight: Floats, scale: Floats, moments: Floats, limit: int) -> Floats:
    """(O, K) weights, (O,) scales, (K, K) -> (O, K) integers."""
    # 1. The columns with the strongest inputs first, while many others are left to make up for their error.
    order = np.argsort(-np.diag(moments), kind="stable")
    work, h = weight[:, order].copy(), moments[np.ix_(order, order)].copy()
    h[np.diag_indices_from(h)] += DAMPING * max(float(np.diag(h).mean()), 1e-12)
    # 2. Row k of U, inv(h) = U^T U, is what the update needs of the inverse of H once columns 0 to k - 1 are
    #    settled: one Cholesky factor instead of an inverse for each column, which would lose its symmetry to
    #    rounding (GPTQ, section 3.3).
    inverse = np.linalg.cholesky(np.linalg.inv(h)).T  # (K, K) upper triangular U
    stored = np.zeros_like(work)
    # 3. Round a column, clip it, and let the later ones make up for what both have changed.
    for k in range(work.shape[1]):
        stored[:, k] = np.clip(np.rint(work[:, k] / scale), -limit, limit)
        error = (work[:, k] - stored[:, k] * scale) / inverse[k, k]
        work[:, k + 1 :] -= error[:, None] * inverse[k, k + 1 :]
    result = np.zeros_like(stored)
    result[:, order] = stored
    return result
