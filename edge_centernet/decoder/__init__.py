"""Heads to boxes: `decode`, by the C decoder where it is built (`BACKEND` says), else by NumPy.

Both give the same bits; reference.py is the rule, edgecn_decode.c the fast copy.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder import reference
from edge_centernet.decoder.head import BOX, Head
from edge_centernet.decoder.twins import without_twins
from edge_centernet.detections import Detections
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.heads import Heads
from edge_centernet.manifest import HeatUnit, Manifest, Quant, TensorSpec

__all__ = ["BACKEND", "decode"]

BACKEND: Literal["c", "numpy"]
_BACKENDS: dict[str, Callable[..., NDArray[np.void]]] = {"numpy": reference.decode_boxes}
try:
    from edge_centernet.decoder import native
except ImportError:  # no compiler when it was installed: slower, same boxes
    BACKEND = "numpy"
else:
    BACKEND = "c"
    _BACKENDS["c"] = native.decode_boxes


def decode(
    heads: Heads,
    manifest: Manifest,
    *,
    threshold: float = 0.3,
    max_detections: int = 100,
    backend: str | None = None,
) -> Detections:
    """The boxes in one image's heads, best first, in network-input pixels, not clipped.

    heads: (C, H, W) views as stored, any strides; shapes and dtypes as `manifest` says.
    threshold: probability 0..1. It is turned into the heatmap's unit once, float32(log(t / (1 - t))) for
        logits (0: everything, 1: nothing but +inf), and from there, for integers, into the lowest stored
        value whose float32 real value reaches it; a peak is kept if its stored value is at least that.
    max_detections: at most so many boxes, >= 0. Twins, the weaker of two concentric boxes of one class (twins.py),
        are dropped first, out of twice as many peaks.
    backend: "c", "numpy" or None for BACKEND.
    Returns scores as probabilities: sigmoid of the logit, or the stored probability within 0..1.

    Raises:
        ArtifactError: heads are not what the manifest says.
        ConfigError: threshold, max_detections or backend cannot be used.
    """
    decode_boxes = _pick(backend)
    heat, size, offset = (_head(role, getattr(heads, role), getattr(manifest, role)) for role in heads._fields)
    unit = manifest.model.heat_unit
    boxes = decode_boxes(
        heat,
        size,
        offset,
        cell_px=float(manifest.model.stride),
        threshold=_in_heat_unit(float(threshold), unit),
        capacity=min(2 * _count(max_detections), heat.data.size),
    )
    rows = boxes.view(np.float32).reshape(-1, BOX.itemsize // 4)  # (N, 7); the last two columns are integers
    found = Detections(rows[:, :4], _scores(heat, boxes, unit), boxes["class_id"])
    return found[without_twins(found.xyxy, found.class_id)][:max_detections]


def _pick(backend: str | None) -> Callable[..., NDArray[np.void]]:
    name = BACKEND if backend is None else backend
    if name not in ("c", "numpy"):
        raise ConfigError(f"decoder backend: expected 'c' or 'numpy', got {backend!r}")
    if name not in _BACKENDS:
        raise ConfigError(
            "decoder backend: expected the C extension, which is not built: reinstall edge-centernet "
            "where there is a C compiler, or use backend='numpy' (same boxes, slower)"
        )
    return _BACKENDS[name]


def _head(role: str, data: NDArray[Any], spec: TensorSpec) -> Head:
    if data.shape != spec.chw or data.dtype != spec.dtype:
        raise ArtifactError(
            f"{role} head: expected {spec.chw} {spec.dtype} as the manifest says, got {data.shape} {data.dtype}: "
            "convert the model again"
        )
    return Head(role, data, None if spec.dtype == "float32" else spec.quant)


def _in_heat_unit(threshold: float, unit: HeatUnit) -> float:
    """A probability to the heatmap's unit, rounded to float32."""
    if not 0 <= threshold <= 1:  # NaN too
        raise ConfigError(f"threshold: expected a probability 0..1, got {threshold}")
    if unit == "probability":
        return float(np.float32(threshold))
    if threshold in (0, 1):
        return math.inf if threshold else -math.inf
    return float(np.float32(math.log(threshold / (1 - threshold))))


def _count(max_detections: int) -> int:
    try:
        count = operator.index(max_detections)
    except TypeError:
        count = -1
    if count < 0:
        raise ConfigError(f"max_detections: expected an integer >= 0, got {max_detections!r}")
    return count


def _scores(heat: Head, boxes: NDArray[np.void], unit: HeatUnit) -> NDArray[np.float32]:
    """(N,) probabilities, float32: the sigmoid runs on the few results only."""
    if heat.quant is None:
        return _probability(boxes["score"], unit)
    y, x = np.divmod(boxes["cell"], heat.data.shape[2])
    stored = heat.data[boxes["class_id"], y, x].astype(np.int32)
    table = _score_table(heat.quant, heat.data.dtype.name, unit)
    scores: NDArray[np.float32] = table[stored - np.iinfo(heat.data.dtype).min]
    return scores


@lru_cache(maxsize=16)
def _score_table(quant: Quant, dtype: str, unit: HeatUnit) -> NDArray[np.float32]:
    """(256,) the probability of each value an 8-bit heatmap can store, from the lowest up."""
    limits = np.iinfo(dtype)
    integers = np.arange(limits.min, limits.max + 1).astype(dtype)
    table = _probability(Head("heat", integers.reshape(1, 1, -1), quant).real(integers), unit)
    table.setflags(write=False)
    return table


def _probability(real: NDArray[Any], unit: HeatUnit) -> NDArray[np.float32]:
    if unit == "probability":
        return np.asarray(np.clip(real, 0, 1), np.float32)
    with np.errstate(over="ignore"):  # exp(1000) = inf, and 1 / inf = 0 is right
        return np.asarray(1 / (1 + np.exp(-real.astype(np.float64))), np.float32)
