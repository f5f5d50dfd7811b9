"""How far measured ranges can be trusted: the number of images, stability, clipping on unseen images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edge_centernet.calibration.observe import Pictures, Probe
from edge_centernet.calibration.ranges import Seen, choose
from edge_centernet.calibration.scheme import limits
from edge_centernet.heads import Heads
from edge_centernet.manifest import Quant, nchw_specs
from edge_centernet.progress import Progress
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.qdq.reference import MATCH_IOU, MATCH_SCORE, THRESHOLD, Reference, agreement

COMPARED = 16  # images on which int8 and float are compared
LOST = 0.8  # part of the detections that must agree
FEW_IMAGES = 32  # below: ranges still move a lot with every image
UNSTABLE = 0.15  # of the range: how far the halves' ranges may differ, in the median tensor
CLIPPED = 0.002  # of the values on held-out images, in any tensor but the heads, which are cut on purpose
HELD_OUT = 10  # every so many-th image is left out of the ranges and clipping counted on it
FAINT = 0.1  # best score of an image, 0..1: below, nothing that the network knows is in it


@dataclass(frozen=True)
class TensorReport:
    """The range of one tensor.

    low, high: the range. split_half: how far the ranges of two halves of the images differ, as part of the
    range. clipped: part of the values on held-out images beyond the range; None without held-out images.
    """

    low: float
    high: float
    split_half: float
    clipped: float | None


@dataclass(frozen=True)
class CalibrationReport:
    """The report of a whole calibration.

    images, held_out: how many were measured on and held out. faint: part of the images whose best score is
    below FAINT. found: detections above THRESHOLD of float and int8 together, on some of the images; matched:
    those with a partner on the other side. tensors: by name. warnings: lines for people.
    """

    method: str
    images: int
    held_out: int
    faint: float
    found: int
    matched: int
    tensors: dict[str, TensorReport]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A short text: the figures that matter, then the warnings."""
        split = [t.split_half for t in self.tensors.values()]
        text = f"{self.images} images, method {self.method}; "
        text += f"split halves differ by {np.median(split):.1%} (median)"
        clipped = {n: t.clipped for n, t in self.tensors.items() if t.clipped is not None and n not in HEADS}
        if clipped:
            worst = max(clipped, key=lambda name: clipped[name])
            text += f"; {self.held_out} held-out images: at most {clipped[worst]:.2%} clipped ({worst})"
        agreement = (
            f"INT8 against float, on these images: {self.matched} of {self.found} detections above "
            f"{THRESHOLD:g} agree (same class, IoU >= {MATCH_IOU:g}, score within {MATCH_SCORE:g})"
            if self.found
            else f"INT8 against float, on these images: no detections above {THRESHOLD:g}"
        )
        return [text, agreement, *(f"warning: {line}" for line in self.warnings)]


def split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """(to measure ranges on, held out): every HELD_OUT-th is held out, where there are enough."""
    if len(pictures) < 2 * HELD_OUT:
        return pictures, []
    kept = [p for i, p in enumerate(pictures) if i % HELD_OUT != HELD_OUT - 1]
    return kept, list(pictures[HELD_OUT - 1 :: HELD_OUT])


def make_report(
    method: str,
    seen: dict[str, Seen],
    quants: dict[str, Quant],
    network: Network,
    probe: Probe,
    pictures: tuple[Pictures, Pictures],
    progress: Progress,
) -> CalibrationReport:
    """How good a calibration is.

    Args:
        method: one of `ranges.METHODS`.
        seen: tensor name -> what the ranges were chosen from.
        quants: tensor name -> what was made of them.
        network: the result.
        probe: shows the float network's tensors.
        pictures: (measured on, held out).
        progress: called as work goes on.
    """
    measured, held_out = pictures
    # 1. What the ranges clip on images that they were not measured on.
    beyond, sizes = dict.fromkeys(probe.names, 0), dict.fromkeys(probe.names, 0)
    for i, read in enumerate(held_out):
        for name, values in probe(read()).items():
            low, high = limits(quants[name])
            half = quants[name].scale / 2  # what is less than half a step outside is rounded, not clipped
            beyond[name] += int(((values < low - half) | (values > high + half)).sum())
            sizes[name] += values.size
        progress("Checking held-out images", i + 1, len(held_out))
    clipped = {name: beyond[name] / sizes[name] for name in probe.names if sizes[name]}
    # 2. How much they depend on which images were taken.
    images = len(next(iter(seen.values())).lows)
    tensors = {}
    for name in seen:
        low, high = limits(quants[name])
        tensors[name] = TensorReport(low, high, split_half(seen[name], high - low), clipped.get(name))
    # 3. Whether the images show what the network knows, and whether int8 finds what float finds.
    best = np.array(seen["heat"].highs)  # logits
    faint = float((1 / (1 + np.exp(-best)) < FAINT).mean())
    found, matched = against_float(probe, network, [*held_out, *measured][:COMPARED], progress)
    warnings = _warnings(images, faint, found, matched, tensors)
    return CalibrationReport(method, images, len(held_out), faint, found, matched, tensors, warnings)


def against_float(probe: Probe, network: Network, pictures: Pictures, progress: Progress) -> tuple[int, int]:
    """(detections above THRESHOLD of the float and the quantized network together, those with a partner)."""
    floats = replace(network.manifest, **nchw_specs(network.manifest, "fp32"))
    found = matched = 0
    reference = Reference(network, "int8", [read() for read in pictures])
    for i, (picture, stored) in enumerate(zip(reference.pictures, reference.answers, strict=True)):
        real = probe(picture)
        counts = agreement((Heads(*(real[role] for role in HEADS)), floats), (stored, network.manifest))
        found, matched = found + counts[0], matched + counts[1]
        progress("Comparing with float", i + 1, len(pictures))
    return found, matched


def split_half(seen: Seen, width: float) -> float:
    """How far the ranges of the even and of the odd images differ at the worse end, as part of `width`.

    Always of the method "average", which needs no histogram: halves have none of their own.
    """
    if len(seen.lows) < 2:
        return 1.0
    one, other = (choose("average", seen.half(i)) for i in (0, 1))
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) / max(width, 1e-12)


def _warnings(
    images: int, faint: float, found: int, matched: int, tensors: dict[str, TensorReport]
) -> tuple[str, ...]:
    lines = []
    if images < FEW_IMAGES:
        lines.append(f"{images} images are few: ranges settle from about {FEW_IMAGES} on, 200 are better")
    unstable = float(np.median([t.split_half for t in tensors.values()]))
    if unstable > UNSTABLE:
        lines.append(
            f"two halves of the images give ranges that differ by {unstable:.0%}: take more, and more varied"
        )
    inner = {n: t.clipped for n, t in tensors.items() if t.clipped is not None and n not in HEADS}
    wide = [name for name, part in inner.items() if part > CLIPPED]
    if wide:
        worst = max(wide, key=lambda name: inner[name] or 0.0)
        lines.append(
            f"held-out images go beyond the range in {len(wide)} tensors ({worst}: {inner[worst]:.1%} of the "
            "values): the images are too few or too much alike"
        )
    if matched < LOST * found:
        lines.append(
            f"INT8 and float agree on {matched} of {found} detections only: it does not quantize well"
        )
    if faint > 0.5:
        lines.append(
            f"in {faint:.0%} of the images nothing scores {FAINT:g}: are they like those to detect on?"
        )
    return tuple(lines)
