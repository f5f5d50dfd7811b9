"""Comparing an artifact, run by its real engine, with the network it was made from.

The reference is the source network run by ONNX Runtime with graph optimisations disabled: plain float
arithmetic between the Q/DQ pairs, exactly what was trained. Float artifacts are compared with the float
network instead. Compared are the heads, value by value, and the detections made of them (`agreement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet import boxes, imageio, preprocess, selftest
from edge_centernet.decoder import decode
from edge_centernet.detections import Detections
from edge_centernet.errors import ConversionError, MissingDependency
from edge_centernet.heads import Heads, real_values
from edge_centernet.manifest import DEFAULT_THRESHOLD, Manifest, Precision, nchw_specs
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.runtimes import open_runtime

Array = NDArray[Any]
ASSETS = Path(imageio.__file__).resolve().parent / "assets"
THUMBNAIL = Path(__file__).resolve().parent / "selftest.png"
THRESHOLD = DEFAULT_THRESHOLD  # score from which detections count
# Two detections agree: same class, boxes overlapping by MATCH_IOU or more, scores at most MATCH_SCORE apart.
MATCH_IOU = 0.5
MATCH_SCORE = 0.1
# An artifact passes: at least this part of what either side finds has a partner on the other side. Engines
# round an addition differently by one step, and in a sample of some 50 detections each one counts 2 %.
MIN_AGREEMENT = 0.95
# An artifact passes: mean |difference| of each head, in steps of the source's int8 outputs. It is 0 for
# networks that were trained here (docs/decisions/0006); others leave engines something to round.
MAX_MEAN_STEPS = {"int8": selftest.MAX_MEAN_STEPS, "fp32": 0.1}


@dataclass(frozen=True)
class HeadError:
    """Difference of one head from the reference, in steps of the source's int8 output."""

    mean: float
    max: float


@dataclass(frozen=True)
class Report:
    """The outcome for one artifact.

    found: detections above THRESHOLD of reference and artifact together; matched: those that have a partner.
    failures: empty when the artifact passed.
    """

    images: int
    heads: dict[str, HeadError]
    found: int
    matched: int
    failures: tuple[str, ...]

    @property
    def agreement(self) -> float:
        """Share of detections with a partner, 0..1; 1 when nothing was found on either side."""
        return self.matched / self.found if self.found else 1.0


class Reference:
    """The source network's answers for a set of images, computed once for all targets.

    golden: the self-test vector, a small image of its own with the answer, for the manifests of all that is
    made of the network.
    """

    def __init__(self, network: Network, precision: Precision, pictures: Sequence[Array]) -> None:
        """pictures: (H, W, 3) uint8 BGR of any size. Raises ConversionError when there are none."""
        if not pictures:
            raise ConversionError("verification: expected at least one image, got none")
        self.network, self.precision, self.pictures = network, precision, pictures
        self.manifest = replace(network.manifest, **nchw_specs(network.manifest, precision))
        session = plain_session(network.model if precision == "int8" else float_model(network))
        self.answers = [self._run(session, picture) for picture in pictures]
        thumbnail = imageio.read_image(THUMBNAIL)
        answer = self._run(session, selftest.enlarged(thumbnail, self.manifest))
        steps = {role: network.heads[role].quant.scale for role in HEADS}
        self.golden = selftest.as_json(thumbnail, answer, self.manifest, steps)

    def _run(self, session: Any, picture: Array) -> Heads:
        x, _ = preprocess.prepare(picture, self.network.manifest)
        return Heads(*(y[0] for y in session.run(list(HEADS), {self.manifest.input.name: x})))

    def of(self, network: Network) -> Reference:
        """Another network's answers for the same images."""
        return Reference(network, self.precision, self.pictures)

    def agreement_with(self, other: Reference) -> tuple[int, int]:
        """(detections of both above THRESHOLD, those with a partner on the other side), over all images."""
        counts = [
            agreement((ours, self.manifest), (theirs, other.manifest))
            for ours, theirs in zip(self.answers, other.answers, strict=True)
        ]
        return sum(found for found, _ in counts), sum(matched for _, matched in counts)

    def compare(self, path: Path) -> Report:
        """Run an artifact through its engine, single-threaded, and compare."""
        runtime = open_runtime(path, threads=1)  # the order of float sums must not depend on the machine
        try:
            differences: dict[str, list[Array]] = {role: [] for role in HEADS}  # each (C, H, W), in steps
            found = matched = 0
            for picture, expected in zip(self.pictures, self.answers, strict=True):
                x, _ = preprocess.prepare(picture, runtime.manifest)
                # Copies: engines reuse the memory of their outputs.
                got = Heads(*(np.array(head) for head in runtime.run(x)))
                for role in HEADS:
                    a = real_values(getattr(expected, role), getattr(self.manifest, role))
                    b = real_values(getattr(got, role), getattr(runtime.manifest, role))
                    differences[role].append(np.abs(a - b) / self.network.heads[role].quant.scale)
                counts = agreement((expected, self.manifest), (got, runtime.manifest))
                found, matched = found + counts[0], matched + counts[1]
        finally:
            runtime.close()
        heads = {role: HeadError(float(np.mean(e)), float(np.max(e))) for role, e in differences.items()}
        limit = MAX_MEAN_STEPS[self.precision]
        failures = [
            f"{role} differs by {error.mean:.2f} output steps on average (at most {limit:g})"
            for role, error in heads.items()
            if not error.mean <= limit  # NaN fails too
        ]
        if found and matched / found < MIN_AGREEMENT:
            failures.append(f"{matched} of {found} detections agree (at least {MIN_AGREEMENT:.0%})")
        return Report(len(self.pictures), heads, found, matched, tuple(failures))


def sample_pictures(folder: Path | None = None) -> list[Array]:
    """The images to verify with, (H, W, 3) uint8 BGR: each file whole, mirrored, and its four corners.

    folder: the packaged sample photos when None, 18 images of three photos. A corner is 3/5 of each side, so
    that objects come in other sizes.
    """
    files = sorted(p for p in (folder or ASSETS).iterdir() if p.suffix.lower() in imageio.IMAGE_SUFFIXES)
    pictures: list[Array] = []
    for file in files:
        whole = imageio.read_image(file)
        height, width = (side * 3 // 5 for side in whole.shape[:2])
        corners = [
            whole[y, x]
            for y in (slice(height), slice(-height, None))
            for x in (slice(width), slice(-width, None))
        ]
        pictures += [whole, cv2.flip(whole, 1), *(np.ascontiguousarray(c) for c in corners)]
    return pictures


def table(reports: dict[str, Report]) -> str:
    """One line for each target: errors of the heads in output steps, mean / max, and agreeing detections."""
    lines = [f"{'':10} {'heat':>14} {'size':>14} {'offset':>14}  detections > {THRESHOLD:g} that agree"]
    for target, report in reports.items():
        errors = [report.heads[role] for role in HEADS]
        cells = " ".join(f"{f'{e.mean:.3f} / {e.max:.1f}':>14}" for e in errors)
        share = f"{report.agreement:.1%} ({report.matched} of {report.found})" if report.found else "-"
        lines.append(f"{target:10} {cells}  {share}")
    count = next(iter(reports.values())).images if reports else 0
    lines.append(
        f"Difference from the source network in output steps, mean / max over {count} verification images."
    )
    if reports and not any(report.found for report in reports.values()):
        # Of a network for other classes nothing is found on our photos, which is no fault of it.
        lines.append(
            f"No detections in these {count} images, which may show none of the network's classes; outputs "
            "are compared all the same. With images of your own: edge-centernet verify --images FOLDER."
        )
    return "\n".join(lines)


def plain_session(model: Any) -> Any:
    """ONNX Runtime without graph optimisations: plain float arithmetic between the Q/DQ pairs.

    model: an onnx.ModelProto. Raises MissingDependency without the extra `convert`.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingDependency.for_extra("verifying", "convert") from None
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # warnings about constants are of no use to anyone here
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def agreement(
    one: tuple[Heads, Manifest], other: tuple[Heads, Manifest], min_iou: float = MATCH_IOU
) -> tuple[int, int]:
    """(detections of both sides above THRESHOLD, those with a partner on the other side).

    min_iou: how much partners must overlap, 0..1.
    """
    sure = [decode(*side, threshold=THRESHOLD) for side in (one, other)]
    # Partners are sought below THRESHOLD as well, so that a score just at it does not count as a miss.
    wide = [decode(*side, threshold=THRESHOLD - MATCH_SCORE) for side in (one, other)]
    return len(sure[0]) + len(sure[1]), sum(matches(sure[i], wide[1 - i], min_iou) for i in (0, 1))


def matches(wanted: Detections, offered: Detections, min_iou: float = MATCH_IOU) -> int:
    """How many of `wanted` find a partner of their own in `offered`.

    Greedy: the best score first, and for each the largest overlap.
    """
    overlap = boxes.iou(wanted.xyxy, offered.xyxy)  # (N, M)
    # A size head that is rounded to whole steps may hold 0, on both sides alike. Two empty boxes at one place
    # agree, though they have no area to share.
    x1, y1, x2, y2 = wanted.xyxy.T
    empty = np.flatnonzero((x1 == x2) | (y1 == y2))
    overlap[empty] = np.isclose(offered.xyxy, wanted.xyxy[empty, None]).all(axis=2)
    near = (wanted.class_id[:, None] == offered.class_id) & (
        np.abs(wanted.score[:, None] - offered.score) <= MATCH_SCORE
    )
    return int((boxes.greedy_match(np.where(near, overlap, -1.0), min_iou) >= 0).sum())
