"""Quantization-aware training's arithmetic, and the interchange file against the PyTorch simulation."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the train extra")

from edge_centernet.artifact import read_manifest  # noqa: E402
from edge_centernet.errors import ConversionError  # noqa: E402
from edge_centernet.manifest import ModelSpec, Quant  # noqa: E402
from edge_centernet.network.centernet import Architecture, CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from edge_centernet.network.fake_quant import (  # noqa: E402
    ActivationQuant,
    exact_rescale,
    prepare_qat,
    set_observing,
    settle_weights,
)
from edge_centernet.network.layers import ConvUnit  # noqa: E402
from edge_centernet.train.export import export_onnx  # noqa: E402


def _blocks(count: int) -> np.ndarray:
    """(count, 3, 64, 64) uint8 patches of random colours; pixel noise would average out to one grey."""
    patches = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 4), np.uint8)
    return patches.repeat(16, axis=2).repeat(16, axis=3)


def _quantized(backbone: str, symmetric: bool = False, neck: tuple[int, ...] = (16, 16, 16)) -> CenterNet:
    """A small network with random BatchNorm statistics, folded, its ranges measured on noise."""
    torch.manual_seed(3)
    blocks = 1 if backbone == "mobilenet_v2" else 0
    arch = Architecture(backbone, 0.25, neck, 16, context=blocks, expand=2 * blocks)
    model = CenterNet(ModelSpec("tiny", "7", 64, 64, ("circle", "square"), stride=arch.stride), arch).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.0)
    for head in (model.heat, model.size, model.offset):
        torch.nn.init.normal_(head.conv.weight, std=0.5)  # otherwise every output rests at its bias
        torch.nn.init.zeros_(head.conv.bias)
    prepare_qat(model, symmetric)
    set_observing(model, True)
    with torch.no_grad():
        for _ in range(2):
            model(torch.from_numpy(_blocks(2)).float())
    set_observing(model, False)
    return model


@pytest.mark.parametrize(
    ("backbone", "symmetric", "neck"),
    [
        ("mobilenet_v2", False, (16, 16, 16)),
        ("resnet18", False, (16, 16, 16)),
        ("mobilenet_v2", True, (16, 16, 16)),
        ("resnet18", True, (16, 16, 16)),
        ("mobilenet_v2", False, (16, 16)),
        ("resnet18", False, (16, 16)),
    ],
)
@pytest.mark.slow
def test_the_interchange_file_computes_what_training_simulated(
    backbone: str, symmetric: bool, neck: tuple[int, ...], tmp_path: Path
) -> None:
    """ONNX Runtime (unoptimised) and PyTorch give the same stored integers."""
    ort = pytest.importorskip("onnxruntime", reason="needs the onnxruntime extra")
    model = _quantized(backbone, symmetric, neck)
    save_checkpoint(tmp_path / "qat.safetensors", model, "qat_symmetric" if symmetric else "qat")
    path = export_onnx(tmp_path / "qat.safetensors", tmp_path / "tiny.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    image = _blocks(1)
    outputs = ort.InferenceSession(str(path), options).run(["heat", "size", "offset"], {"image": image})
    with torch.no_grad():
        simulated = model(torch.from_numpy(image).float())

    for stored, real, unit in zip(outputs, simulated, (model.heat, model.size, model.offset), strict=True):
        scale, zero_point = unit.out_quant.scale_zero_point()
        steps = np.abs(stored - (real / scale + zero_point).round().numpy())
        assert stored.dtype == np.int8
        assert len(np.unique(stored)) >= 8, "the comparison must see real values, not a constant"
        assert steps.max() == 0


def test_symmetric_training_leaves_only_zero_points_of_zero(tmp_path: Path) -> None:
    """Every quantizer of activations and weights, except the uint8 image's, whose 128 means zero."""
    onnx = pytest.importorskip("onnx", reason="needs the convert extra")
    save_checkpoint(tmp_path / "qat.safetensors", _quantized("mobilenet_v2", symmetric=True), "qat_symmetric")
    graph = onnx.load(export_onnx(tmp_path / "qat.safetensors", tmp_path / "tiny.onnx")).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    zero_points = {
        n.output[0]: constants[n.input[2]]
        for n in graph.node
        if n.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    image = zero_points.pop("normalized")

    assert image == 128
    assert len(zero_points) > 100
    assert not any(np.any(z) for z in zero_points.values())


def test_the_interchange_file_carries_the_manifest(tmp_path: Path) -> None:
    """uint8 in with scale 1/128 and zero point 128, int8 out with the trained ranges, the spec unchanged."""
    model = _quantized("mobilenet_v2")
    save_checkpoint(tmp_path / "qat.safetensors", model, "qat")
    manifest = read_manifest(export_onnx(tmp_path / "qat.safetensors", tmp_path / "tiny.onnx"))
    scale, zero_point = model.heat.out_quant.scale_zero_point()

    assert manifest.model == model.spec
    assert (manifest.input.dtype, manifest.input.quant) == ("uint8", Quant(1 / 128, 128))
    assert (manifest.heat.dtype, manifest.heat.quant) == ("int8", Quant(float(scale), int(zero_point)))


def test_a_qat_checkpoint_brings_back_weights_and_ranges(tmp_path: Path) -> None:
    """The reloaded network computes the same values to the bit."""
    model = _quantized("mobilenet_v2")
    save_checkpoint(tmp_path / "qat.safetensors", model, "qat")
    again, stage = load_checkpoint(tmp_path / "qat.safetensors")
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()

    assert stage == "qat"
    for a, b in zip(model(image), again(image), strict=True):
        assert torch.equal(a, b)


def test_a_float_checkpoint_has_no_ranges_to_export(tmp_path: Path) -> None:
    """Exporting it is refused in one line."""
    spec = ModelSpec("tiny", "1", 64, 64, ("circle",))
    save_checkpoint(tmp_path / "f.safetensors", CenterNet(spec, Architecture(width=0.25)), "float")

    with pytest.raises(ConversionError, match="expected a QAT checkpoint, got a float one"):
        export_onnx(tmp_path / "f.safetensors", tmp_path / "f.onnx")
    assert not (tmp_path / "f.onnx").exists()


@pytest.mark.parametrize(("depthwise", "limit"), [(False, 63), (True, 127)])
def test_weights_use_their_range_and_no_more(depthwise: bool, limit: int) -> None:
    """The largest weight of each channel is stored as the limit or up to 2 % less, and zero as zero."""
    units = [m for m in _quantized("mobilenet_v2").modules() if isinstance(m, ConvUnit)]
    for unit in [u for u in units if (u.conv.groups > 1) is depthwise]:
        weight = unit.conv.weight.detach()
        stored = unit.weight_quant(weight) / unit.weight_quant.scale(weight).reshape(-1, 1, 1, 1)
        largest = stored.abs().amax(dim=(1, 2, 3))

        torch.testing.assert_close(stored, stored.round(), rtol=0, atol=1e-4)
        assert limit * 0.98 - 0.5 <= largest.min() <= largest.max() <= limit + 1e-4
        assert not stored[weight == 0].any()


def test_every_rescaling_is_a_fraction_with_an_odd_denominator() -> None:
    """The factor s_in * s_w / s_out becomes q / p with an odd p; it is at most 2 % above the wanted one."""
    wanted = torch.logspace(-4, 0.3, 5000, dtype=torch.float64)
    got = exact_rescale(wanted)

    assert (got >= wanted * (1 - 1e-6)).all()
    assert (got <= wanted * 1.02).all()
    for value in got.tolist():
        assert Fraction(value).limit_denominator(10_000).denominator % 2 == 1, value


@given(st.floats(1e-4, 1.0), st.integers(-(2**20), 2**20), st.floats(0.001, 1.0), st.floats(0.001, 1.0))
def test_no_order_of_computing_rounds_a_sum_otherwise(
    m: float, total: int, s_in: float, s_out: float
) -> None:
    """In three orders of float32 arithmetic and in fixed point n * q / p is rounded to the nearest step."""
    exact = exact_rescale(torch.tensor([m]))
    s_in32, s_out32 = np.float32(s_in), np.float32(s_out)
    s_w = np.float32(float(exact) * float(s_out32) / float(s_in32))
    n = np.float32(total)
    fixed = Fraction(round(float(exact) * 2**40), 2**40) * total
    ways = [
        n * (s_in32 * s_w / s_out32),
        n * (s_in32 * s_w) / s_out32,
        (n * s_in32) * s_w * (np.float32(1) / s_out32),
    ]
    ways.append(np.float32(float(fixed)))

    true = Fraction(float(exact)).limit_denominator(20_000) * total
    assume(abs(true) < 128)  # beyond it is 127 or -128 anyway
    assert {int(np.rint(way)) for way in ways} == {round(true)}


def test_settled_weights_and_their_scales_come_back(tmp_path: Path) -> None:
    """Rounded weights no longer show their scale; the checkpoint has it, in half precision too."""
    model = _quantized("mobilenet_v2")
    settle_weights(model)
    image = torch.from_numpy(_blocks(1)).float()
    save_checkpoint(tmp_path / "q.safetensors", model, "qat", half=True)
    again, _ = load_checkpoint(tmp_path / "q.safetensors")

    for a, b in zip(model(image), again(image), strict=True):
        assert torch.equal(a, b)


def test_dense_weights_cannot_overflow_sixteen_bits() -> None:
    """255 * (63 + 63) fits int16, what processors without VNNI add in; depthwise layers add singly."""
    units = [m for m in _quantized("mobilenet_v2").modules() if isinstance(m, ConvUnit)]
    limits = {(m.conv.groups == 1): m.weight_quant.limit for m in units}

    assert limits == {True: 63, False: 127}
    assert 255 * (limits[True] + limits[True]) <= 32767


def test_zero_is_exact_in_every_activation_range() -> None:
    """Zero padding must stay zero: 0 survives quantization for any observed range."""
    quant = ActivationQuant()
    quant.observing = True
    quant(torch.tensor([-0.37, 5.91]))
    quant.observing = False

    assert quant(torch.zeros(1)).item() == 0
    assert quant(torch.tensor([-9.0, 99.0])).tolist() == pytest.approx([-0.37, 5.91], abs=0.03)
