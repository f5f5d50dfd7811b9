"""The self-test vector that every artifact carries, so that a machine can find out whether its engine computes rightly.

Engines have bugs that show on some processors only: kernels that crash, or sum products in 16 bits and answer
nonsense. The question is a thumbnail, enlarged by whole factors to the network's input; the answer some
values of each head.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_centernet.errors import ManifestError
from edge_centernet.heads import Heads, real_values
from edge_centernet.manifest import Manifest, TensorSpec
from edge_centernet.preprocess import prepare

SIDE = 32  # of the thumbnail: every network input is a multiple of 32
SAMPLES = 200  # values of each head, evenly spread, and as many of the heatmap's highest
MAX_MEAN_STEPS = 1.5  # as conversion allows; engines that agree to the bit are at 0
# tflite-runtime's own kernels round otherwise, at the same accuracy: up to 3.1, 6.3 and 5.1 steps. Faults
# that a whole engine can have start at 12.5, 12.7 and 10.7 (docs/decisions/0014-self-check.md); the limits
# lie halfway by ratio.
_ROUND_OTHERWISE = {"tflite_runtime": {"heat": 6.0, "size": 9.0, "offset": 7.0}}
ROLES = Heads._fields


@dataclass(frozen=True)
class Answer:
    """Values of one head: at: places in the flattened (C, H, W); steps: multiples of `step` in the head's unit."""

    step: float
    at: tuple[int, ...]
    steps: tuple[float, ...]


def as_json(
    thumbnail: NDArray[np.uint8], heads: Heads, specs: Manifest, steps: dict[str, float]
) -> dict[str, Any]:
    """What goes into a manifest. thumbnail: (32, 32, 3) BGR; heads: of the reference, as `specs` describes them.

    steps: role -> the int8 output step, the unit of the tolerance.
    """
    packed = base64.b64encode(zlib.compress(thumbnail.tobytes(), 9)).decode()
    answers = {}
    for role in ROLES:
        real = real_values(getattr(heads, role), getattr(specs, role)).reshape(-1)
        at = _places(real, highest=role == "heat")
        values = [round(float(value), 3) for value in real[at] / steps[role]]
        answers[role] = {"step": steps[role], "at": at.tolist(), "steps": values}
    return {"picture": packed, **answers}


def _places(values: NDArray[Any], highest: bool) -> NDArray[np.int64]:
    """Sorted flat indices: evenly spread, and the highest."""
    spread = np.arange(min(SAMPLES, len(values))) * len(values) // min(SAMPLES, len(values))
    best = np.argsort(-values, kind="stable")[:SAMPLES] if highest else spread
    return np.unique(np.concatenate([spread, best]))


def test_input(manifest: Manifest) -> NDArray[Any]:
    """The artifact's own picture as its input tensor. Raises ManifestError where there is none, or a damaged one."""
    picture = str(_golden(manifest).get("picture", ""))
    size = SIDE * SIDE * 3
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(
            base64.b64decode(picture, validate=True), size + 1
        )  # never more than it should hold
    except (ValueError, TypeError, zlib.error):
        raise ManifestError("self-check: the picture is damaged") from None
    if len(raw) != size:
        raise ManifestError(f"self-check: expected a picture of {size} bytes, got {len(raw)}")
    return prepare(enlarged(np.frombuffer(raw, np.uint8).reshape(SIDE, SIDE, 3), manifest), manifest)[0]


def enlarged(thumbnail: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """(32, 32, 3) -> (H, W, 3) of the network's input, every pixel a block: no resampling that could differ."""
    rows, columns = manifest.model.height // SIDE, manifest.model.width // SIDE
    return np.ascontiguousarray(thumbnail.repeat(rows, axis=0).repeat(columns, axis=1))


def problem(manifest: Manifest, heads: Heads, module: str = "") -> str | None:
    """What is wrong with an engine's answer to `question`; None if it is right.

    module: the engine's Python module or one inside it, for the engine that rounds otherwise.
    """
    limits = _ROUND_OTHERWISE.get(module.split(".")[0], {})
    for role, error in differences(manifest, heads).items():
        limit = limits.get(role, MAX_MEAN_STEPS)
        if not error <= limit:  # NaN fails too
            return f"{role} differs by {error:.1f} output steps on average (at most {limit:g})"
    return None


def differences(manifest: Manifest, heads: Heads) -> dict[str, float]:
    """Role -> mean difference from the golden answer, in int8 output steps."""
    found = {}
    for role in ROLES:
        spec: TensorSpec = getattr(manifest, role)
        answer = _answer(manifest, role)
        real = real_values(getattr(heads, role), spec).reshape(-1)[list(answer.at)]
        found[role] = float(np.abs(real / answer.step - np.array(answer.steps)).mean())
    return found


def _golden(manifest: Manifest) -> dict[str, Any]:
    if not isinstance(manifest.golden, dict):
        raise ManifestError("self-check: the file carries no question; convert it again")
    return manifest.golden


def _answer(manifest: Manifest, role: str) -> Answer:
    """One head's answer, every number checked."""
    try:
        found = _golden(manifest)[role]
        answer = Answer(float(found["step"]), tuple(map(int, found["at"])), tuple(map(float, found["steps"])))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ManifestError(
            f"self-check: expected step, at and steps of {role}, got something else"
        ) from None
    size = int(np.prod(getattr(manifest, role).shape))
    inside = all(0 <= place < size for place in answer.at)
    if not (answer.at and inside and len(answer.at) == len(answer.steps) and answer.step > 0):
        raise ManifestError(f"self-check: the answer of {role} does not fit its {size} values")
    return answer
