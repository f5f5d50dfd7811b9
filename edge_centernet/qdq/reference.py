"""Does an artifact, run by its real engine, say what the source network says?

The reference is the source network run by ONNX Runtime with graph optimisations disabled: plain float
arithmetic between the Q/DQ pairs, exactly what was trained. Float artifacts are compared with the float
network instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet import imageio, preprocess, selftest
from edge_centernet.errors import ConversionError, MissingDependency
from edge_centernet.heads import Heads, real_values
from edge_centernet.manifest import Manifest, Precision, nchw_specs
from edge_centernet.qdq.agreement import THRESHOLD, agreement
from edge_centernet.qdq.float_network import float_model
from edge_centernet.qdq.network import Network
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.runtimes import open_runtime

Array = NDArray[Any]
ASSETS = Path(imageio.__file__).resolve().parent / "assets"
THUMBNAIL = Path(__file__).resolve().parent / "selftest.png"
# An artifact passes: so much of what either side finds has its partner on the other side. Engines round an
# addition differently by one step, and in a sample of some 50 detections each one counts 2 %.
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
    """The source network's answers for a set of pictures, computed once for all targets.

    golden: a small picture of its own and the answer, for the manifest of what is made of the network.
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
        """Another network's answers for the same pictures."""
        return Reference(network, self.precision, self.pictures)

    def agreement_with(self, other: Reference) -> tuple[int, int]:
        """(detections of both above THRESHOLD, those with a partner on the other side), over all pictures."""
        counts = [
            agreement((ours, self.manifest), (theirs, other.manifest))
            for ours, theirs in zip(self.answers, other.answers, strict=True)
        ]
        return sum(found for found, _ in counts), sum(matched for _, matched in counts)

    def compare(self, path: Path) -> Report:
        """Run an artifact through its engine, single-threaded, and compare."""
        runtime = open_runtime(path, threads=1)
        try:
            errors: dict[str, list[Array]] = {role: [] for role in HEADS}
            found = matched = 0
            for picture, expected in zip(self.pictures, self.answers, strict=True):
                x, _ = preprocess.prepare(picture, runtime.manifest)
                got = Heads(*(np.array(head) for head in runtime.run(x)))
                for role, values in self._errors(expected, got, runtime.manifest).items():
                    errors[role].append(values)
                counts = agreement((expected, self.manifest), (got, runtime.manifest))
                found, matched = found + counts[0], matched + counts[1]
        finally:
            runtime.close()
        heads = {role: HeadError(float(np.mean(e)), float(np.max(e))) for role, e in errors.items()}
        failures = _failures(heads, found, matched, MAX_MEAN_STEPS[self.precision])
        return Report(len(self.pictures), heads, found, matched, failures)

    def _errors(self, expected: Heads, got: Heads, manifest: Manifest) -> dict[str, Array]:
        """Role -> (C, H, W) |difference| in steps."""
        errors = {}
        for role in HEADS:
            a = real_values(getattr(expected, role), getattr(self.manifest, role))
            b = real_values(getattr(got, role), getattr(manifest, role))
            errors[role] = np.abs(a - b) / self.network.heads[role].quant.scale
        return errors


def sample_pictures(folder: Path | None = None) -> list[Array]:
    """The pictures to verify with, (H, W, 3) uint8 BGR: each file whole, mirrored, and its four corners enlarged.

    folder: the packaged sample photos when None, 18 inputs of three photos.
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
    """One line a target: head errors in output steps (mean / max), agreement of detections above THRESHOLD."""
    lines = [f"{'':10} {'heat':>14} {'size':>14} {'offset':>14}  detections > {THRESHOLD:g} that agree"]
    for target, report in reports.items():
        errors = [report.heads[role] for role in HEADS]
        cells = " ".join(f"{f'{e.mean:.3f} / {e.max:.1f}':>14}" for e in errors)
        share = (
            f"{report.agreement:.1%} ({report.matched} of {report.found})" if report.found else "none found"
        )
        lines.append(f"{target:10} {cells}  {share}")
    count = next(iter(reports.values())).images if reports else 0
    return "\n".join(
        [*lines, f"Difference from the source network in output steps, mean / max over {count} images."]
    )


def _failures(heads: dict[str, HeadError], found: int, matched: int, limit: float) -> tuple[str, ...]:
    failures = [
        f"{role} differs by {error.mean:.2f} output steps on average (at most {limit:g})"
        for role, error in heads.items()
        if not error.mean <= limit  # NaN fails too
    ]
    if found and matched / found < MIN_AGREEMENT:
        failures.append(f"{matched} of {found} detections agree (at least {MIN_AGREEMENT:.0%})")
    return tuple(failures)


def plain_session(model: Any) -> Any:
    """ONNX Runtime without graph optimisations: plain float arithmetic between the Q/DQ pairs."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingDependency.for_extra("verifying", "convert") from None
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # warnings about constants are of no use to anyone here
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
