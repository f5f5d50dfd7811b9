"""Layers taken back to float: engines agree, and the network comes closer to float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_precision
import numpy as np
import pytest
import qdq_factory

from edge_centernet import qdq
from edge_centernet.calibration.observe import Probe
from edge_centernet.calibration.quantize import Options, quantize, unmeasured
from edge_centernet.converters import CONVERTERS, convert
from edge_centernet.qdq import reference
from edge_centernet.qdq.float_network import float_model, with_floats
from edge_centernet.qdq.float_onnx import without_normalisation
from edge_centernet.qdq.onnx_graph import HEADS

PICTURES = qdq_factory.photos(8, 96, 128)
READERS: list[Callable[[], Any]] = [lambda p=p: p for p in PICTURES]


@pytest.fixture(scope="module")
def source() -> Any:
    """A float network."""
    return without_normalisation(float_model(qdq.parse(qdq_factory.build(weight_max=63))))


@pytest.fixture(scope="module")
def quantized(source: Any) -> qdq.Network:
    """The same in int8."""
    spec = qdq.parse(qdq_factory.build(weight_max=63)).manifest.model
    return qdq.parse(quantize(source, spec, READERS, Options())[0])


def _error(network: qdq.Network, source: Any) -> float:
    """Mean difference from the float network, in output steps, over the heads."""
    probe = Probe(source, HEADS, network.manifest.model)
    answers = reference.Reference(network, "int8", PICTURES[:2]).answers
    errors = []
    for picture, answer in zip(PICTURES, answers, strict=False):
        real = probe(picture)
        for role in HEADS:
            spec = getattr(network.manifest, role)
            low, high = ((end - spec.quant.zero_point) * spec.quant.scale for end in (-128, 127))
            difference = reference.real_values(getattr(answer, role), spec) - np.clip(real[role], low, high)
            errors.append(np.abs(difference).mean() / spec.quant.scale)
    return float(np.mean(errors))


def test_all_layers_in_float_leave_the_rounding_of_the_heads(quantized: qdq.Network, source: Any) -> None:
    """With every convolution and addition in float, heads are at most half a step from the original's."""
    original = unmeasured(source, quantized.manifest.model)
    names = {op.name for op in quantized.ops if isinstance(op, qdq.Conv | qdq.Add)}
    mixed = qdq.parse(with_floats(quantized, names, original))

    assert all(op.real for op in mixed.ops if isinstance(op, qdq.Conv))
    assert _error(mixed, source) < min(0.3, _error(quantized, source))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["stem", "middle", "heads"])
def test_engines_agree_on_a_network_with_float_layers(
    quantized: qdq.Network, tmp_path: Path, monkeypatch: Any, part: str
) -> None:
    """Three neighbours in float at the front, in the middle or at the heads: a step off here and there."""
    monkeypatch.setattr(reference, "MIN_AGREEMENT", 0.9)
    ops = [op.name for op in quantized.ops if isinstance(op, qdq.Conv | qdq.Add)]
    at = {"stem": 0, "middle": len(ops) // 2, "heads": len(ops) - 3}[part]
    mixed = qdq.parse(with_floats(quantized, ops[at : at + 3]))
    made = convert(
        Path("mixed.onnx"), list(CONVERTERS), "int8", tmp_path, network=mixed, pictures=PICTURES[:3]
    )
    mean = {a.target: max(e.mean for e in a.report.heads.values()) for a in made}

    assert sum(op.real for op in mixed.ops if isinstance(op, qdq.Conv | qdq.Add)) == 3
    assert max(mean.values()) < 0.1, mean
    assert any("FLOAT32" in line for line in file_precision.tflite_float_tensors(tmp_path / "mixed.tflite"))


def test_nothing_in_float_is_the_network_itself(quantized: qdq.Network) -> None:
    """No name, no change."""
    assert with_floats(quantized, []) == quantized.model
