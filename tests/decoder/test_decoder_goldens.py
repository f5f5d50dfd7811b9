"""The stored cases: inputs and boxes that may only change together with a version number."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def test_decoder_finds_the_golden_boxes(decoder: ModuleType, goldens: ModuleType, root: Path) -> None:
    """Both back ends give every golden box, and what is left of them in the image, to the bit."""
    cases = goldens.load(root / "tests" / "golden" / "decoder_v2.npz")
    assert len(cases) == 28
    for case, boxes, final in cases:
        found = case.run(decoder)
        assert found[0].tobytes() == boxes.tobytes(), case.name
        assert found[1].tobytes() == final.tobytes(), case.name


def test_both_golden_files_hold_the_same_cases(goldens: ModuleType, root: Path) -> None:
    """The .bin for C is the .npz in other clothes."""
    cases = goldens.load(root / "tests" / "golden" / "decoder_v2.npz")
    assert goldens.pack(cases) == (root / "tests" / "golden" / "decoder_v2.bin").read_bytes()


def test_layouts_of_one_map_have_the_same_golden_boxes(goldens: ModuleType, root: Path) -> None:
    """A float32 map decodes to the same boxes in NCHW and NHWC memory."""
    cases = {
        case.name: (case, boxes)
        for case, boxes, _ in goldens.load(root / "tests" / "golden" / "decoder_v2.npz")
    }
    case, boxes = cases["float32"]
    moved = [
        goldens.Head(
            head.role, np.ascontiguousarray(head.data.transpose(1, 2, 0)).transpose(2, 0, 1), head.quant
        )
        for head in case.heads
    ]
    assert moved[0].data.strides != case.heads[0].data.strides
    again = goldens.Case(case.name, tuple(moved), case.capacity, case.cell_px, case.threshold)
    assert again.run(goldens.rule)[0].tobytes() == boxes.tobytes()


def test_goldens_of_another_version_are_refused(goldens: ModuleType, tmp_path: Path) -> None:
    """The reader names the version it found and the script to run."""
    np.savez(tmp_path / "old.npz", version=np.int32(0))
    with pytest.raises(RuntimeError, match=r"expected version 2, got 0: run tests/c/make_goldens\.py"):
        goldens.load(tmp_path / "old.npz")


def test_logistic_is_within_a_millionth(decoder: ModuleType, goldens: ModuleType) -> None:
    """Against exp in double precision, for all that a heatmap may hold; both back ends agree to the bit."""
    logits = goldens.logits()
    boxes = np.zeros(len(logits), goldens.rule.BOX)
    boxes["score"] = logits
    found = decoder.to_probability(boxes)["score"]

    assert found.tobytes() == goldens.rule.logistic(logits).tobytes()
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert np.abs(found - exact)[~np.isnan(logits)].max() < 1e-6
    assert found[np.isnan(logits)].tolist() == [0.0]
