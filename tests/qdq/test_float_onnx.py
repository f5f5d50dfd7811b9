"""CenterNets made elsewhere: names, sigmoid, transposed convolutions and input statistics are adapted."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import qdq_factory

torch = pytest.importorskip("torch", reason="makes the foreign networks")

from edge_centernet import qdq  # noqa: E402
from edge_centernet.calibration.observe import Probe  # noqa: E402
from edge_centernet.calibration.quantize import quantize  # noqa: E402
from edge_centernet.converters import CONVERTERS, convert  # noqa: E402
from edge_centernet.errors import ArtifactError, ConversionError  # noqa: E402
from edge_centernet.qdq import reference  # noqa: E402
from edge_centernet.qdq.float_onnx import Description, adopt  # noqa: E402
from edge_centernet.qdq.onnx_graph import HEADS, manifest_of, read_model  # noqa: E402

SIDE = 96
MEAN, STD = (0.4, 0.45, 0.5), (0.3, 0.25, 0.2)
DESCRIPTION = Description("foreign", ("cat", "dog", "owl"), SIDE, MEAN, STD, color="bgr")


class Foreign(torch.nn.Module):
    """A small CenterNet with what other people's have.

    Transposed convolutions with BatchNorm, bilinear and nearest upsampling, concatenation, zero padding by a
    layer of its own, and a sigmoid at the heatmap's end.
    """

    def __init__(self, neck: str) -> None:
        """neck: what brings the deep map back to stride 4."""
        super().__init__()
        nn = torch.nn
        self.neck = neck
        self.stem = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(3, 16, 3, 2),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.deep = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        kernel = {"deconv4": (4, 2, 1), "deconv2": (2, 2, 0)}.get(neck, (4, 2, 1))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(32, 24, *kernel, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.mix = nn.Sequential(
            nn.Conv2d(32 + 16 if neck in ("bilinear", "nearest") else 24, 24, 1), nn.ReLU()
        )
        self.heads = nn.ModuleDict({k: nn.Conv2d(24, c, 1) for k, c in (("hm", 3), ("wh", 2), ("reg", 2))})
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.3, 1.0)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)

    def forward(self, x: Any) -> Any:
        shallow = self.stem(x)
        deep = self.deep(shallow)
        if self.neck.startswith("deconv"):
            deep = self.up(deep)
        else:
            how = (
                {"mode": "bilinear", "align_corners": False}
                if self.neck == "bilinear"
                else {"mode": "nearest"}
            )
            deep = torch.cat([torch.nn.functional.interpolate(deep, scale_factor=2, **how), shallow], dim=1)
        mixed = self.mix(deep)
        return self.heads["hm"](mixed).sigmoid(), self.heads["wh"](mixed), self.heads["reg"](mixed)


@pytest.fixture(scope="module", params=["deconv4", "deconv2", "bilinear", "nearest"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file as PyTorch exports it, in training form: nothing folded."""
    return export(tmp_path_factory.mktemp("foreign") / f"{request.param}.onnx", request.param)


def export(path: Path, neck: str, opset: int = 13) -> Path:
    """The same network each time, in an opset."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its retirement
        torch.onnx.export(
            Foreign(neck).eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(path), dynamo=False,
            opset_version=opset, input_names=["input"], output_names=["hm", "wh", "reg"],
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip
    return path


def test_an_adopted_network_computes_the_same(foreign: Path) -> None:
    """Heat logits, size and offset equal the original's to float rounding; no sigmoid is left."""
    picture = qdq_factory.photos(1, SIDE, SIDE)[0]  # BGR
    x = ((picture.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    session = ort.InferenceSession(str(foreign), providers=["CPUExecutionProvider"])
    heat, size, offset = (t[0] for t in session.run(["hm", "wh", "reg"], {"input": x}))
    model, spec = adopt(read_model(foreign), DESCRIPTION)
    ours = Probe(model, HEADS, spec)(picture)

    assert (spec.stride, spec.height, spec.color) == (4, SIDE, "rgb")
    np.testing.assert_allclose(1 / (1 + np.exp(-ours["heat"])), heat, atol=1e-4)
    np.testing.assert_allclose(ours["size"], size, atol=1e-3)
    np.testing.assert_allclose(ours["offset"], offset, atol=1e-3)


def test_an_adopted_network_converts_to_every_target(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All engines agree to the bit, except for bilinear enlargement, which each rounds in its own way."""
    # Random heatmaps are full of near ties, where one rounding step moves a peak; trained ones are not.
    monkeypatch.setattr(reference, "MIN_AGREEMENT", 0.6)
    model, spec = adopt(read_model(foreign), DESCRIPTION)
    pictures = qdq_factory.photos(8, SIDE, SIDE)
    network = qdq.parse(quantize(model, spec, [lambda p=p: p for p in pictures])[0])
    made = convert(foreign, list(CONVERTERS), "int8", tmp_path, network=network, pictures=pictures[:3])
    mean = {a.target: max(e.mean for e in a.report.heads.values()) for a in made}

    assert list(mean) == list(CONVERTERS)
    assert max(mean.values()) <= (0.5 if foreign.stem == "bilinear" else 1e-4), mean


def _outputs(model: Any, names: list[str]) -> None:
    for output, name in zip(model.graph.output, names, strict=True):
        for node in model.graph.node:
            node.output[:] = [name if n == output.name else n for n in node.output]
        output.name = name


def test_heads_without_names_are_refused(foreign: Path) -> None:
    """Size and offset share a shape: nothing but names could tell them apart."""
    model = read_model(foreign)
    _outputs(model, ["a", "b", "c"])
    with pytest.raises(
        ConversionError, match=r"expected three outputs named heat/hm/heatmap, .*, got a, b, c"
    ):
        adopt(model, DESCRIPTION)


def test_our_own_names_bind_as_well(foreign: Path) -> None:
    """heat, size and offset instead of hm, wh and reg."""
    model = read_model(foreign)
    _outputs(model, ["heat", "size", "offset"])

    assert [o.name for o in adopt(model, DESCRIPTION)[0].graph.output] == ["heat", "size", "offset"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"classes": ("cat", "dog")},
            r"output heat: expected \(1, 2, 24, 24\) for 2 classes .* got \(1, 3, 24, 24\)",
        ),
        ({"size": 97}, "onnxsim|stride|expected"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    foreign: Path, change: dict[str, Any], reason: str
) -> None:
    """One line says what was expected and what came."""
    with pytest.raises(Exception, match=reason) as caught:
        adopt(read_model(foreign), replace(DESCRIPTION, **change))
    assert "\n" not in str(caught.value)


def test_a_transposed_convolution_of_another_shape_is_named(foreign: Path) -> None:
    """Kernel 3: neither of the two that can be computed by an ordinary convolution here."""
    model = read_model(foreign)
    nodes = [n for n in model.graph.node if n.op_type == "ConvTranspose"]
    if not nodes:
        pytest.skip("this network has no transposed convolution")
    for attribute in nodes[0].attribute:
        if attribute.name == "strides":
            attribute.ints[:] = [1, 1]
    del model.graph.value_info[:]
    with pytest.raises(ConversionError, match=r"ConvTranspose|onnxsim"):
        adopt(model, DESCRIPTION)


@pytest.mark.parametrize("opset", [9, 11])
def test_older_opsets_are_upgraded(tmp_path: Path, opset: int) -> None:
    """The same heads as from opset 13, or one line that says how to export it again."""
    picture = qdq_factory.photos(1, SIDE, SIDE)[0]
    found = []
    for version in (13, opset):
        model, spec = adopt(read_model(export(tmp_path / "a.onnx", "deconv4", version)), DESCRIPTION)
        assert model.opset_import[0].version >= 13
        found.append(Probe(model, HEADS, spec)(picture))
    for role in HEADS:
        np.testing.assert_allclose(found[1][role], found[0][role], atol=1e-4)


def test_an_opset_that_cannot_be_upgraded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what went wrong, and what to export instead."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("No Adapter From Version $8 for Upsample\nmore")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    model = read_model(export(tmp_path / "a.onnx", "deconv4", 11))
    with pytest.raises(
        ConversionError, match=r"got 11, which cannot be upgraded \(No Adapter .* Upsample\); exp"
    ):
        adopt(model, DESCRIPTION)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("batch", "input input: expected a batch of 1 image, got 4"),
        ("size", "input input: expected 96x96 pixels, got 64x96, for which it was exported; name that size"),
        ("input", "input: expected float32, got float16; export it again in float32"),
        ("float16", "expected float32, got float16; export it again in float32"),
        ("bfloat16", "expected float32, got bfloat16"),
        ("nan", "expected finite weights, got NaN or infinite ones: training diverged"),
        ("infinite", "expected finite weights"),
        ("variance", "expected finite weights|does not compute the same"),
        ("output", "expected|onnxsim"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path: Path, what: str, says: str) -> None:
    """A fixed batch, another size, other types of numbers, weights that no training gives."""
    model = read_model(export(tmp_path / "a.onnx", "deconv4"))
    tensor = model.graph.input[0].type.tensor_type
    weights = [i for i in model.graph.initializer if len(i.dims) == 4]
    values = onnx.numpy_helper.to_array(weights[0]).copy()
    if what == "batch":
        tensor.shape.dim[0].dim_value = 4
    elif what == "size":
        tensor.shape.dim[3].dim_value = 64
    elif what == "input":
        tensor.elem_type = onnx.TensorProto.FLOAT16
    elif what in ("float16", "bfloat16"):
        kind = getattr(onnx.TensorProto, what.upper())
        weights[0].CopyFrom(
            onnx.helper.make_tensor(weights[0].name, kind, values.shape, values.ravel().tolist())
        )
    elif what in ("nan", "infinite"):
        values.flat[3] = np.nan if what == "nan" else np.inf
        weights[0].CopyFrom(onnx.numpy_helper.from_array(values, weights[0].name))
    elif what == "variance":
        (name, *_) = (n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization")
        old = next(i for i in model.graph.initializer if i.name == name)
        old.CopyFrom(onnx.numpy_helper.from_array(np.full(old.dims[0], -1, np.float32), name))
    else:
        model.graph.output[2].name = "input"
    with pytest.raises(ConversionError, match=says) as caught:
        adopt(model, DESCRIPTION)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    """Missing, and something else."""
    with pytest.raises(ArtifactError, match="found no such file"):
        read_model(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ArtifactError, match="expected a complete ONNX file"):
        read_model(tmp_path / "text.onnx")


def test_a_foreign_file_has_no_manifest(foreign: Path) -> None:
    """That is how it is told from one of ours."""
    assert manifest_of(onnx.load(foreign)) is None
