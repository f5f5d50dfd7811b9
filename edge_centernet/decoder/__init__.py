"""Heads to boxes: `decode`, with the C decoder where it is built, else with NumPy (`BACKEND`).

Both give the same bits; rule.py is the rule, edgecn_decode.c the fast copy.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_centernet.classes import find_class
from edge_centernet.decoder import rule
from edge_centernet.decoder.rule import BOX, Head, Levels, Tile, as_pair
from edge_centernet.detections import Detections
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.heads import Heads
from edge_centernet.manifest import HeatUnit, Manifest, Quant, TensorSpec

__all__ = ["BACKEND", "decode", "decode_levels", "in_heat_unit"]

BACKEND: Literal["c", "numpy"]
_BACKENDS: dict[str, ModuleType] = {"numpy": rule}
try:
    from edge_centernet.decoder import native
except ImportError:  # there was no compiler when the package was installed: slower, same boxes
    BACKEND = "numpy"
else:
    BACKEND = "c"
    _BACKENDS["c"] = native

Frame = tuple[int, int, int, int, int, int]  # src_width, src_height, new_width, new_height, left, top
PLANS = 64  # remembered at most; a process that opens models all day must not grow
COLUMNS = BOX.itemsize // 4  # of a box seen as float32; the last two are integers


def decode(
    heads: Heads,
    manifest: Manifest,
    *,
    threshold: float = 0.3,
    max_detections: int = 100,
    class_thresholds: Mapping[str, float] | None = None,
    any_class: bool = False,
    frame: Frame | None = None,
    backend: str | None = None,
) -> Detections:
    """The boxes in one image's heads, best first, in pixels of the network's input unless `frame` is given.

    Args:
        heads: (C, H, W) views as stored, any strides; shapes and dtypes as `manifest` says.
        manifest: of the file that the heads come from.
        threshold: probability 0..1. It is converted to the heatmap's unit once, float32(log(t / (1 - t))) for
            logits (0: everything, 1: nothing but +inf), and from there, for integers, to the lowest stored
            value whose float32 real value reaches it; a peak is kept if its stored value is at least that.
        max_detections: at most so many boxes, >= 0. Duplicate peaks, the weaker of two concentric boxes of
            one class (rule.drop_duplicate_peaks), are dropped first, out of twice as many peaks.
        class_thresholds: class name -> its own threshold.
        any_class: boxes of different classes can be duplicates too.
        frame: where the image lies in the network's input, as Letterbox.frame. Boxes are then in pixels of
            the image, clipped to it; those that lie in the padding alone are left out.
        backend: "c", "numpy" or None for BACKEND.

    Returns scores as probabilities: rule.logistic of the logit, or the stored probability within 0..1.

    Raises:
        ArtifactError: heads are not what the manifest says.
        ConfigError: a threshold, max_detections or backend cannot be used.
    """
    how = _pick(backend)
    plan = _plan(manifest, threshold)
    boxes = _find(how, plan, heads, class_thresholds, max_detections, any_class)[:max_detections]
    if plan.logits:
        boxes = how.to_probability(boxes)
    return _finish(plan, boxes if frame is None else how.to_image(boxes, frame), frame is not None)


def decode_levels(
    coarse: Heads,
    fine: Heads,
    manifests: tuple[Manifest, Manifest],
    *,
    frames: tuple[Frame, Frame],
    tiles: Sequence[Tile],
    levels: Levels,
    threshold: float = 0.3,
    max_detections: int = 100,
    class_thresholds: Mapping[str, float] | None = None,
    backend: str | None = None,
) -> Detections:
    """The boxes in two maps of one image, of its tiles and of all of it at once, in pixels of the image.

    Args:
        coarse: heads of the whole image, as in `decode`.
        fine: heads of the tiles, put together.
        manifests: of coarse and fine heads.
        frames: where the image lies in the input of either.
        tiles: what the fine map was put together from.
        levels: which of them may speak of what, see rule.join_levels.
        threshold: as in `decode`, like all below.
        max_detections: of both maps together.
        class_thresholds: class name -> its own threshold.
        backend: "c", "numpy" or None.

    Raises what `decode` raises.
    """
    how = _pick(backend)
    found = []
    for heads, manifest, frame in zip((coarse, fine), manifests, frames, strict=True):
        plan = _plan(manifest, threshold)
        boxes = _find(how, plan, heads, class_thresholds, max_detections, any_class=False)
        if heads is fine:
            for tile in tiles:
                boxes = how.drop_cut(
                    boxes, tile, manifests[0].model.cells, manifest.model.cells, plan.cell_px
                )
        if plan.logits:
            boxes = how.to_probability(boxes)
        found.append(how.to_image(boxes, frame))
    return _finish(plan, how.join_levels(found[1], found[0], levels)[:max_detections], True)


def _find(
    how: ModuleType,
    plan: _Plan,
    heads: Heads,
    class_thresholds: Mapping[str, float] | None,
    max_detections: int,
    any_class: bool,
) -> NDArray[np.void]:
    """BOX records in pixels of the network's input, best first, without duplicates."""
    for data, spec in zip(heads, plan.specs, strict=True):
        # By identity first: comparing two dtypes takes longer, and only a foreign runtime has other objects.
        if data.shape != spec.shape or (data.dtype is not spec.dtype and data.dtype != spec.dtype):
            raise ArtifactError(
                f"{spec.role} head: expected {spec.shape} {spec.dtype} as the manifest says, "
                f"got {data.shape} {data.dtype}: convert the model again"
            )
    # 1. Peaks to boxes: twice as many as wanted, because some of them are duplicates.
    capacity = min(2 * _count(max_detections), plan.cells)
    own = _each_class(class_thresholds, plan.probability, plan.manifest) if class_thresholds else None
    if how is rule:
        boxes = rule.decode_boxes(
            *(Head(spec.role, data, spec.quant) for data, spec in zip(heads, plan.specs, strict=True)),
            cell_px=plan.cell_px,
            threshold=plan.threshold,
            capacity=capacity,
            class_thresholds=own,
        )
    else:
        boxes = np.empty(capacity, BOX)
        boxes = boxes[: how.find(heads, plan.quants, plan.cell_px, plan.threshold, own, boxes)]
    # 2. Duplicates go before the boxes are clipped, which would move the centres that they are found by.
    found: NDArray[np.void] = how.drop_duplicate_peaks(boxes, any_class)
    return found


def _finish(plan: _Plan, boxes: NDArray[np.void], clipped: bool) -> Detections:
    """As users read them, without boxes that clipping has left no area: they lay in the padding."""
    rows = boxes.view(np.float32).reshape(-1, COLUMNS)
    if clipped and not (inside := (rows[:, 2:4] > rows[:, :2]).all(1)).all():
        rows, boxes = rows[inside], boxes[inside]
    score = rows[:, 4] if plan.logits else np.clip(rows[:, 4], 0, 1)
    return Detections(rows[:, :4], score, boxes["class_id"], plan.manifest.model.classes)


class _Spec(NamedTuple):
    """What one head must be."""

    role: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    quant: Quant | None


class _Plan(NamedTuple):
    """What does not change from image to image."""

    manifest: Manifest
    specs: tuple[_Spec, _Spec, _Spec]
    quants: tuple[tuple[float, int], ...]
    cells: int
    cell_px: float
    probability: float
    threshold: float
    logits: bool


_plans: dict[tuple[int, float], _Plan] = {}


def _plan(manifest: Manifest, threshold: float) -> _Plan:
    """What does not change from image to image, made once for each manifest and threshold."""
    # By the manifest's identity, because comparing two manifests takes longer than decoding. The plan holds
    # its manifest, so that no other object can get the same id while the plan is remembered.
    key = (id(manifest), threshold)
    known = _plans.get(key)
    if known is not None and known.manifest is manifest:
        return known
    if len(_plans) >= PLANS:
        _plans.clear()
    specs = []
    for role in Heads._fields:
        tensor: TensorSpec = getattr(manifest, role)
        quant = None if tensor.dtype == "float32" else tensor.quant
        specs.append(_Spec(role, tensor.chw, np.dtype(tensor.dtype), quant))
    heat, size, offset = specs
    model = manifest.model
    plan = _Plan(
        manifest,
        specs=(heat, size, offset),
        quants=tuple(as_pair(spec.quant) for spec in specs),
        cells=math.prod(heat.shape),
        cell_px=float(model.stride),
        probability=threshold,
        threshold=in_heat_unit(float(threshold), model.heat_unit),
        logits=model.heat_unit == "logit",
    )
    _plans[key] = plan
    return plan


def _pick(backend: str | None) -> ModuleType:
    name = BACKEND if backend is None else backend
    if name not in ("c", "numpy"):
        raise ConfigError(f"decoder backend: expected 'c' or 'numpy', got {backend!r}")
    if name not in _BACKENDS:
        raise ConfigError(
            "decoder backend: expected the C extension, which is not built: reinstall edge-centernet "
            "where there is a C compiler, or use backend='numpy' (same boxes, slower)"
        )
    return _BACKENDS[name]


def _each_class(own: Mapping[str, float], threshold: float, manifest: Manifest) -> NDArray[np.float32]:
    """(C,) thresholds in the heatmap's unit."""
    spec = manifest.model
    ids = {name: find_class(name, spec.classes) for name in own}
    if unknown := sorted(name for name, i in ids.items() if i is None):
        raise ConfigError(f"class thresholds: expected classes of this model, got {', '.join(unknown)}")
    mine = {i: float(own[name]) for name, i in ids.items()}
    values = [in_heat_unit(mine.get(i, threshold), spec.heat_unit) for i in range(len(spec.classes))]
    return np.array(values, np.float32)


def in_heat_unit(threshold: float, unit: HeatUnit) -> float:
    """A probability to the heatmap's unit, rounded to float32; ConfigError unless within 0..1."""
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
