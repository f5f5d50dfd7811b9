"""The self-test vector in every artifact, by which a machine finds out whether its engine computes correctly.

Engines have bugs that show on some processors only: kernels that crash, or that sum products in 16 bits and
give nonsense. The vector is a thumbnail, enlarged by whole factors to the network's input, and the values of
each head that the reference computed for it, at some places (docs/decisions/0014-self-check.md).
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

SIDE = 32  # pixels of the thumbnail: every side of a network's input is a multiple of 32
SAMPLES = 200  # values of each head, evenly spread, and as many of the heatmap's highest
MAX_MEAN_STEPS = 1.5  # the same as conversion allows; engines that agree to the bit are at 0
# TFLite's own kernels, which tflite-runtime and microcontrollers have, round otherwise, at the same accuracy:
# up to 3.1, 6.3 and 5.1 steps. Faults of a whole engine start at 12.5, 12.7 and 10.7
# (docs/decisions/0014-self-check.md): about halfway by ratio.
ROUND_OTHERWISE = {"tflite_runtime": {"heat": 6.0, "size": 9.0, "offset": 7.0}}
ROLES = Heads._fields


@dataclass(frozen=True)
class Answer:
    """Expected values of one head.

    step: the int8 output step in the head's unit. at: places in the flattened (C, H, W). steps: the value at
    each place, as a multiple of `step`.
    """

    step: float
    at: tuple[int, ...]
    steps: tuple[float, ...]


def as_json(
    thumbnail: NDArray[np.uint8], heads: Heads, specs: Manifest, steps: dict[str, float]
) -> dict[str, Any]:
    """The self-test vector as a manifest holds it.

    thumbnail: (32, 32, 3) BGR. heads: what the reference computes for it, as `specs` describes them. steps:
    role -> the int8 output step, the unit of the tolerance.
    """
    packed = base64.b64encode(zlib.compress(thumbnail.tobytes(), 9)).decode()
    answers = {}
    for role in ROLES:
        real = real_values(getattr(heads, role), getattr(specs, role)).reshape(-1)
        # Evenly spread, and for the heatmap the highest values, too: those become detections.
        spread = np.arange(min(SAMPLES, len(real))) * len(real) // min(SAMPLES, len(real))
        best = np.argsort(-real, kind="stable")[:SAMPLES] if role == "heat" else spread
        at = np.unique(np.concatenate([spread, best]))
        values = [round(float(value), 3) for value in real[at] / steps[role]]
        answers[role] = {"step": steps[role], "at": at.tolist(), "steps": values}
    return {"picture": packed, **answers}


def test_input(manifest: Manifest) -> NDArray[Any]:
    """The artifact's own image as its input tensor; ManifestError where there is none, or it is damaged."""
    picture = str(_golden(manifest).get("picture", ""))
    size = SIDE * SIDE * 3
    # At most one byte more than it should hold: a few bytes can decompress to gigabytes.
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(picture, validate=True), size + 1)
    except (ValueError, TypeError, zlib.error):
        raise ManifestError("self-test: the image is damaged; convert the model again") from None
    if len(raw) != size:
        raise ManifestError(
            f"self-test: expected an image of {size} bytes, got {len(raw)}; convert the model again"
        )
    return prepare(enlarged(np.frombuffer(raw, np.uint8).reshape(SIDE, SIDE, 3), manifest), manifest)[0]


def enlarged(thumbnail: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """(32, 32, 3) -> (H, W, 3) of the network's input, every pixel a block."""
    # By repetition, because interpolation could differ from one machine to the next.
    rows, columns = manifest.model.height // SIDE, manifest.model.width // SIDE
    return np.ascontiguousarray(thumbnail.repeat(rows, axis=0).repeat(columns, axis=1))


def problem(manifest: Manifest, heads: Heads, module: str = "") -> str | None:
    """What is wrong with the heads that an engine computed for `test_input`; None if nothing is.

    module: the engine's Python module or one inside it, for the engine that rounds otherwise.
    """
    limits = ROUND_OTHERWISE.get(module.split(".")[0], {})
    for role, error in differences(manifest, heads).items():
        limit = limits.get(role, MAX_MEAN_STEPS)
        if not error <= limit:  # NaN fails too
            return f"{role} differs by {error:.1f} output steps on average (at most {limit:g})"
    return None


def differences(manifest: Manifest, heads: Heads) -> dict[str, float]:
    """Role -> mean difference from the expected values, in int8 output steps."""
    found = {}
    for role in ROLES:
        spec: TensorSpec = getattr(manifest, role)
        answer = expected_answer(manifest, role)
        real = real_values(getattr(heads, role), spec).reshape(-1)[list(answer.at)]
        found[role] = float(np.abs(real / answer.step - np.array(answer.steps)).mean())
    return found


def _golden(manifest: Manifest) -> dict[str, Any]:
    if not isinstance(manifest.golden, dict):
        raise ManifestError("self-test: the file has no self-test vector; convert the model again")
    return manifest.golden


def expected_answer(manifest: Manifest, role: str) -> Answer:
    """The expected values of one head, every number checked: a manifest may come from anywhere.

    Raises ManifestError where there are none, or they are damaged.
    """
    try:
        found = _golden(manifest)[role]
        answer = Answer(float(found["step"]), tuple(map(int, found["at"])), tuple(map(float, found["steps"])))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ManifestError(
            f"self-test: expected step, at and steps of {role}, got something else; convert the model again"
        ) from None
    size = int(np.prod(getattr(manifest, role).shape))
    inside = all(0 <= place < size for place in answer.at)
    if not (answer.at and inside and len(answer.at) == len(answer.steps) and answer.step > 0):
        raise ManifestError(
            f"self-test: the values of {role} do not fit its {size} places; convert the model again"
        )
    return answer
