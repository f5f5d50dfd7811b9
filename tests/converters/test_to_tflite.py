"""The TFLite writer, checked by the real interpreter."""

from __future__ import annotations

import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import file_precision
import numpy as np
import pytest
import qdq_factory
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edge_centernet import qdq
from edge_centernet.artifact import read_manifest
from edge_centernet.converters import to_tflite
from edge_centernet.manifest import Quant
from edge_centernet.model_zoo import DEFAULT, find_model
from edge_centernet.qdq.onnx_graph import HEADS
from edge_centernet.runtimes import open_runtime


@pytest.fixture(scope="module")
def int8_file(network: qdq.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`network` as int8."""
    path = tmp_path_factory.mktemp("tflite") / "int8.tflite"
    to_tflite.convert(network, "int8")(path, False)
    return path


@pytest.fixture(scope="module")
def float_file(network: qdq.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`network` as fp32."""
    path = tmp_path_factory.mktemp("tflite") / "float.tflite"
    to_tflite.convert(network, "fp32")(path, False)
    return path


def inspectable(path: Path) -> Interpreter:
    """An interpreter whose intermediate tensors can be read: plain kernels, no delegate."""
    kernels = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(
        str(path), experimental_preserve_all_tensors=True, experimental_op_resolver_type=kernels
    )
    interpreter.allocate_tensors()
    return interpreter


def details(path: Path) -> dict[str, Any]:
    """Name -> what the interpreter says about an input or output."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return {d["name"]: d for d in (*interpreter.get_input_details(), *interpreter.get_output_details())}


def test_int8_file_has_no_float_islands(int8_file: Path) -> None:
    """Every tensor is int8 (int32 for biases and sizes) and no operator converts between types."""
    assert file_precision.tflite_float_tensors(int8_file) == []


def test_the_check_finds_floats(float_file: Path) -> None:
    """The check itself works: the fp32 file has its float weights and its DEQUANTIZE reported."""
    found = file_precision.tflite_float_tensors(float_file)
    assert "operator DEQUANTIZE" in found
    assert any(item.endswith("/weight FLOAT32") for item in found)


def test_file_keeps_its_name_promises(int8_file: Path) -> None:
    """Input `image` and outputs heat, size, offset: int8, NHWC, with the manifest's scales."""
    manifest, found = read_manifest(int8_file), details(int8_file)
    assert set(found) == {"image", "heat", "size", "offset"}
    for spec in (manifest.input, manifest.heat, manifest.size, manifest.offset):
        tensor = found[spec.name]
        assert (spec.layout, tuple(tensor["shape"]), tensor["dtype"]) == ("NHWC", spec.shape, np.int8)
        assert tensor["quantization"] == (pytest.approx(spec.quant.scale, rel=1e-6), spec.quant.zero_point)
    assert manifest.input.quant == Quant(1 / 128, 0)


def test_float_file_takes_the_same_picture(float_file: Path) -> None:
    """The fp32 file reads uint8 pixels and answers in float32."""
    found = details(float_file)
    assert found["image"]["dtype"] == np.uint8
    assert {found[role]["dtype"] for role in HEADS} == {np.float32}


def test_weights_stay_as_trained(network: qdq.Network, int8_file: Path) -> None:
    """The integers are those of the interchange file, transposed to NHWC, with scales per channel."""
    interpreter = inspectable(int8_file)
    tensors = {d["name"]: d for d in interpreter.get_tensor_details()}
    for op in [op for op in network.ops if isinstance(op, qdq.Conv)]:
        detail = tensors[f"{op.name}/weight"]
        axes, axis = ((0, 2, 3, 1), 0) if op.groups == 1 else ((1, 2, 3, 0), 3)
        np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), op.weight_int8.transpose(axes))
        np.testing.assert_array_equal(detail["quantization_parameters"]["scales"], op.weight_scale)
        assert detail["quantization_parameters"]["quantized_dimension"] == axis


def test_bytes_are_reproducible(network: qdq.Network, tmp_path: Path) -> None:
    """The same network gives the same file."""
    for name in ("a", "b"):
        to_tflite.convert(network, "int8")(tmp_path / name, True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_signature_names_the_heads(network: qdq.Network, int8_file: Path) -> None:
    """Tools that ask for signatures find one, with the names of input and heads."""
    signatures = Interpreter(str(int8_file)).get_signature_list()
    heads = [network.heads[role].name for role in HEADS]

    assert signatures == {"serving_default": {"inputs": ["image"], "outputs": sorted(heads)}}


def test_labels_are_an_associated_file(network: qdq.Network, int8_file: Path) -> None:
    """TFLite tools find the class names as labels.txt, one a line."""
    with zipfile.ZipFile(int8_file) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().splitlines() == list(network.manifest.model.classes)


def test_pad_only_where_same_does_not_fit(mobilenet_file: Path, resnet_file: Path, tmp_path: Path) -> None:
    """MobileNetV2 pads as SAME does; ResNet's stem, pool and stride-2 convolutions need a PAD each."""
    import tflite

    counts = []
    for source in (mobilenet_file, resnet_file):
        path = tmp_path / "x.tflite"
        to_tflite.convert(qdq.load(source), "int8")(path, False)
        model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        graph = model.Subgraphs(0)
        codes = [
            model.OperatorCodes(graph.Operators(i).OpcodeIndex()) for i in range(graph.OperatorsLength())
        ]
        counts.append(sum(code.BuiltinCode() == tflite.BuiltinOperator.PAD for code in codes))
    assert counts == [0, 5]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        ((96, 128), (3, 3), (2, 2), (0, 0, 1, 1)),
        ((97, 127), (3, 3), (2, 2), (1, 1, 1, 1)),
        ((96, 128), (3, 3), (1, 1), (1, 1, 1, 1)),
        ((96, 128), (7, 7), (2, 2), (2, 2, 3, 3)),
        ((96, 128), (1, 1), (2, 2), (0, 0, 0, 0)),
    ],
)
def test_same_padding_rule(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """As little as possible, the odd pixel at the bottom right: (top, left, bottom, right)."""
    assert to_tflite.same_pads(size, kernel, stride) == expected


def test_dead_channel_keeps_its_bias(mobilenet_file: Path, tmp_path: Path) -> None:
    """A channel with almost no weights has a scale so small that its bias would not fit int32; it must."""
    network = qdq.load(mobilenet_file)
    stem = network.ops[0]
    assert isinstance(stem, qdq.Conv)
    weight, scale, bias = stem.weight.copy(), stem.weight_scale.copy(), stem.bias.copy()
    weight[0], scale[0], bias[0] = 1e-12, 1e-12 / 63, 2.0
    dead = replace(stem, weight=weight, weight_scale=scale, bias=bias)
    path = tmp_path / "dead.tflite"
    to_tflite.convert(replace(network, ops=(dead, *network.ops[1:])), "int8")(path, False)
    interpreter = inspectable(path)
    shape = interpreter.get_input_details()[0]["shape"]
    picture = qdq_factory.photos(1, shape[1], shape[2])[0]
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], (picture[None].astype(int) - 128).astype(np.int8)
    )
    interpreter.invoke()
    stored = next(d for d in interpreter.get_tensor_details() if d["name"] == stem.y.name)
    channel = interpreter.get_tensor(stored["index"])[..., 0].astype(int)
    expected = round(2.0 / stem.y.quant.scale) + stem.y.quant.zero_point
    assert np.abs(channel - min(expected, 127)).max() <= 1


def test_pixels_as_they_come_give_the_same_answer(
    network: qdq.Network, int8_file: Path, tmp_path: Path
) -> None:
    """A uint8 input takes p where int8 takes p - 128; the same answers to the bit, and no float inside."""
    path = tmp_path / "uint8.tflite"
    to_tflite.convert_uint8(network, "int8")(path, False)
    shape = read_manifest(path).input.shape
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    answers = []
    for file, x in ((path, pixels), (int8_file, (pixels.astype(np.int16) - 128).astype(np.int8))):
        with closing(open_runtime(file)) as runtime:
            answers.append([head.copy() for head in runtime.run(x)])

    assert read_manifest(path).input.dtype == "uint8"
    assert file_precision.tflite_float_tensors(path) == [
        "tensor image UINT8",
        "operator QUANTIZE",
    ]  # nothing else that is not int8
    assert all(np.array_equal(a, b) for a, b in zip(*answers, strict=True))


def test_the_metadata_buffer_says_what_the_image_is(network: qdq.Network, int8_file: Path) -> None:
    """Found under its name, with its own file identifier; name and labels file are in it."""
    import tflite

    model = tflite.Model.GetRootAs(int8_file.read_bytes(), 0)
    entry = model.Metadata(0)
    content = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()

    assert entry.Name() == b"TFLITE_METADATA"
    assert content[4:8] == b"M001"
    for text in (network.manifest.model.name, "labels.txt", "letterbox to ", "heatmap of object centres"):
        assert text.encode() in content


def test_the_shipped_int8_file_is_at_most_0_30_of_float(tmp_path: Path) -> None:
    """Manifest, self-check and metadata included: the default model's .tflite beside what fp32 takes."""
    shipped = find_model(DEFAULT, ".tflite")
    to_tflite.convert(qdq.load(find_model(DEFAULT, ".onnx")), "fp32")(tmp_path / "float.tflite", False)

    assert shipped.stat().st_size <= 0.30 * (tmp_path / "float.tflite").stat().st_size
