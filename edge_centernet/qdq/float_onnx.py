"""Float ONNX networks in the form that post-training quantization takes, whoever made them.

That form: one input, (pixel - 128) / 128 as (1, 3, H, W) float32; the outputs heat (logits), size and offset
in cells; only operations that `qdq` knows, batch normalisation folded into the convolutions. Our own float32
files are one step away from it (`without_normalisation`), CenterNets made elsewhere several (`adopt`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_centernet.errors import ConversionError, MissingDependency
from edge_centernet.manifest import GREY, ModelSpec
from edge_centernet.preprocess import gain_and_shift
from edge_centernet.qdq.onnx_graph import HEADS, constants_as_initializers, drop_unused

# What other CenterNets call their outputs; the first name of each head is ours.
SYNONYMS = {"heat": ("heat", "hm", "heatmap"), "size": ("size", "wh"), "offset": ("offset", "reg", "off")}
INPUT = "normalized"
_OPSET = 13  # older ones have other forms of Clip, Pad, Slice, Resize and of what quantizes
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Description:
    """What an ONNX file made elsewhere does not contain.

    size: side of the square input in pixels. mean, std: of pixel / 255, in the order of `color`, as in
    training. pad_value: the grey level, 0..255, that fills the letterbox.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    mean: Triple
    std: Triple
    color: Literal["rgb", "bgr"] = "rgb"
    pad_value: int = GREY


def without_normalisation(model: Any) -> Any:
    """Our own float32 network (`float_network.float_model`), reading (pixel - 128) / 128 instead of pixels.

    Changes the model in place and returns it.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    last = next(node for node in graph.node if node.name == "image/mul")
    for node in graph.node:
        node.input[:] = [INPUT if name == last.output[0] else name for name in node.input]
    for node in [n for n in graph.node if n.name in ("image/cast", "image/sub", "image/mul")]:
        graph.node.remove(node)
    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    drop_unused(graph)
    return model


def adopt(model: Any, description: Description) -> tuple[Any, ModelSpec]:
    """A CenterNet made elsewhere in the form described above, and what it means.

    Raises ConversionError naming what cannot be taken over, MissingDependency without the extra `convert`.
    """
    model = _simplify(model, description.size)
    _name_heads(model.graph)
    for node in [n for n in model.graph.node if n.op_type == "ConvTranspose"]:
        _fold_batchnorm(model.graph, node)
        _replace_transposed(model.graph, node)
    merge_pads(model.graph)
    spec = _spec(model, description)
    _recolor(model.graph, description)
    return model, spec


def _simplify(model: Any, size: int) -> Any:
    """Fixed shapes, BatchNorm folded, constants computed."""
    try:
        import onnxsim
    except ImportError:
        raise MissingDependency.for_extra("taking over an ONNX network", "convert") from None
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise ConversionError(
            f"expected one input, the image, got {', '.join(i.name for i in inputs) or 'none'}"
        )
    given = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]  # 0: free
    if len(given) != 4 or (given[1] not in (0, 3)):
        raise ConversionError(f"input {inputs[0].name}: expected (1, 3, height, width), got {given}")
    if given[0] not in (0, 1):
        raise ConversionError(
            f"input {inputs[0].name}: expected a batch of 1 image, got {given[0]}; export it again with one"
        )
    if any(side not in (0, size) for side in given[2:]):
        raise ConversionError(
            f"input {inputs[0].name}: expected {size}x{size} pixels, got {given[3]}x{given[2]}, for which it "
            "was exported; name that size, or export it again for this one"
        )
    _check_floats(model.graph)
    model = _upgraded(model)
    try:
        simple, ok = onnxsim.simplify(model, overwrite_input_shapes={inputs[0].name: [1, 3, size, size]})
    except Exception as error:  # its errors have no class of their own
        raise ConversionError(
            f"onnxsim cannot simplify it at {size}x{size}: {str(error).splitlines()[0]}"
        ) from None
    if not ok:
        raise ConversionError("onnxsim's simplified network does not compute the same")
    constants_as_initializers(simple.graph)
    _check_floats(simple.graph)  # folding a negative variance makes NaN
    return simple


def _check_floats(graph: Any) -> None:
    """ConversionError where the graph's input or weights are not float32, or not finite."""
    from onnx import TensorProto, helper, numpy_helper

    attributes = (a for node in graph.node if node.op_type == "Constant" for a in node.attribute)
    tensors = [*graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    constants = {tensor.name for tensor in graph.initializer}
    types = {i.name: i.type.tensor_type.elem_type for i in graph.input if i.name not in constants}
    floats = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    types |= {
        t.name or "constant": t.data_type for t in tensors if t.data_type in floats and np.prod(t.dims) > 1
    }
    for name, kind in types.items():
        if kind != TensorProto.FLOAT:
            word = helper.tensor_dtype_to_np_dtype(kind).name if kind != TensorProto.BFLOAT16 else "bfloat16"
            raise ConversionError(f"{name}: expected float32, got {word}; export it again in float32")
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            # A single number may be infinite: a limit of Clip, or what Pad fills in.
            if np.isnan(values).any() or (values.size > 1 and not np.isfinite(values).all()):
                raise ConversionError(
                    f"{tensor.name or 'constant'}: expected finite weights, got NaN or infinite ones: "
                    "training diverged, or the file is damaged; take an earlier checkpoint"
                )


def _upgraded(model: Any) -> Any:
    """The model in opset 13 or later; ConversionError where it cannot be upgraded."""
    from onnx import version_converter

    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= _OPSET:
        return model
    try:
        return version_converter.convert_version(model, _OPSET)
    except Exception as error:  # its errors have no class of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"expected opset {_OPSET} or later, got {opset}, which cannot be upgraded ({reason[:120]}); "
            f"export it again with opset_version={_OPSET}"
        ) from None


def _name_heads(graph: Any) -> None:
    """Name the outputs heat, size and offset; heat as logits, without the Sigmoid that others end with."""
    # 1. Which output is which: size and offset have one shape, so only names can tell them apart.
    outputs = [o.name for o in graph.output]
    bound = {role: [n for n in outputs if n.lower() in SYNONYMS[role]] for role in HEADS}
    if any(len(names) != 1 for names in bound.values()) or len(outputs) != len(HEADS):
        wanted = ", ".join("/".join(SYNONYMS[role]) for role in HEADS)
        raise ConversionError(f"expected three outputs named {wanted}, got {', '.join(outputs)}")
    heads = {role: names[0] for role, names in bound.items()}
    # 2. The decoder applies the sigmoid itself, and int8 has finer steps for unlikely scores in logits.
    producer = next((node for node in graph.node if heads["heat"] in node.output), None)
    if producer is not None and producer.op_type == "Sigmoid":
        _rename(graph, producer.input[0], "heat/logits")
        graph.node.remove(producer)
        _output(graph, heads["heat"]).name = "heat/logits"
        heads["heat"] = "heat/logits"
    # 3. By way of names that nobody else has, so that no head takes another's name on the way.
    for role, name in heads.items():
        _output(graph, name).name = f"{role}/head"
        _rename(graph, name, f"{role}/head")
    for role in HEADS:
        _rename(graph, role, f"{role}/inner")  # an inner tensor that happens to have the name
        _output(graph, f"{role}/head").name = role
        _rename(graph, f"{role}/head", role)


def _output(graph: Any, name: str) -> Any:
    return next(o for o in graph.output if o.name == name)


def _rename(graph: Any, old: str, new: str) -> None:
    """A tensor, wherever it is written and read."""
    for node in graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    for initializer in graph.initializer:
        if initializer.name == old:
            initializer.name = new


def _spec(model: Any, description: Description) -> ModelSpec:
    """What the shapes and the description say; ConversionError where they contradict each other."""
    import onnx

    del model.graph.value_info[:]  # those of the file may be of another input size
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
    except Exception as error:  # onnx.shape_inference.InferenceError, and others
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"its shapes do not fit an input of {description.size} pixels: {reason[:120]}"
        ) from None
    shapes = {o.name: tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in inferred}
    size, classes = description.size, len(description.classes)
    height = (*shapes["heat"], 0, 0, 0)[2]
    stride = size // height if height else 0
    expected = {
        "heat": (1, classes, height, height),
        "size": (1, 2, height, height),
        "offset": (1, 2, height, height),
    }
    wrong = [role for role in HEADS if shapes[role] != expected[role]]
    if wrong or not height or size % height:
        role = wrong[0] if wrong else "heat"
        raise ConversionError(
            f"output {role}: expected {expected[role]} for {classes} classes and {size}x{size} pixels, "
            f"got {shapes[role]}"
        )
    return ModelSpec(
        description.name, "1", size, size, description.classes, stride=stride, pad_value=description.pad_value
    )


def _recolor(graph: Any, description: Description) -> None:
    """A 1x1 convolution in front: our RGB (pixel - 128) / 128 -> what the network was trained on.

    It is not folded into the first convolution, because that one pads its border with zeros: with another
    mean these would be another grey than in training.
    """
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((3, 3, 1, 1), np.float32)
    bias = np.zeros(3, np.float32)
    for channel in range(3):
        ours = channel if description.color == "rgb" else 2 - channel
        weight[channel, ours], bias[channel] = gain_and_shift(
            description.mean[channel], description.std[channel]
        )
    entering = graph.input[0].name
    shape = [1, 3, description.size, description.size]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    if np.allclose(weight[..., 0, 0], np.eye(3), atol=1e-6) and np.allclose(bias, 0, atol=1e-6):
        _rename(graph, entering, INPUT)
        return
    graph.initializer.append(numpy_helper.from_array(weight, "recolor/kernel"))
    graph.initializer.append(numpy_helper.from_array(bias, "recolor/shift"))
    node = helper.make_node(
        "Conv", [INPUT, "recolor/kernel", "recolor/shift"], [entering], name="recolor", kernel_shape=[1, 1]
    )
    graph.node.insert(0, node)


# ---- rewriting operations ----


def merge_pads(graph: Any) -> None:
    """Pad -> Conv becomes Conv with asymmetric pads, likewise MaxPool, in place.

    PyTorch's convolution cannot express TensorFlow's SAME, so its exports pad in a node of their own.
    """
    from onnx import helper, numpy_helper

    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    for conv in [n for n in graph.node if n.op_type in ("Conv", "MaxPool")]:
        pad = producers.get(conv.input[0])
        if pad is None or pad.op_type != "Pad":
            continue
        # Only a Pad that adds constant zeros to height and width can be the operation's own padding.
        mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
        value = constants.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
        amounts = constants.get(pad.input[1])  # (8,) begins, then ends, each for N, C, H, W
        if mode != b"constant" or value is None or amounts is None or np.any(value):
            continue
        if len(amounts) != 8 or np.any(amounts[[0, 1, 4, 5]]) or np.any(amounts < 0):
            continue
        pads = next((a for a in conv.attribute if a.name == "pads"), None)
        if pads is None:
            conv.attribute.append(helper.make_attribute("pads", [0, 0, 0, 0]))
            pads = conv.attribute[-1]
        added = (*amounts[2:4].tolist(), *amounts[6:8].tolist())
        pads.ints[:] = [p + a for p, a in zip(pads.ints, added, strict=True)]
        conv.input[0] = pad.input[0]
        if not any(pad.output[0] in node.input for node in graph.node):
            graph.node.remove(pad)
    drop_unused(graph)


def _fold_batchnorm(graph: Any, deconvolution: Any) -> None:
    """Fold a BatchNormalization into the transposed convolution in front, which onnxsim does not do."""
    from onnx import numpy_helper

    batchnorm = _only_reader(graph, deconvolution.output[0])
    if batchnorm is None or batchnorm.op_type != "BatchNormalization":
        return
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    gamma, beta, mean, variance = (constants[name] for name in batchnorm.input[1:5])
    epsilon = next((a.f for a in batchnorm.attribute if a.name == "epsilon"), 1e-5)
    gain = gamma / np.sqrt(variance + epsilon)  # (C_out,)
    given = deconvolution.input[2] if len(deconvolution.input) > 2 else ""
    bias = (constants[given] - mean if given else -mean) * gain + beta
    name = deconvolution.name or deconvolution.output[0]
    weight = constants[deconvolution.input[1]] * gain[None, :, None, None]  # (C_in, C_out, k, k)
    graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}/folded"))
    graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), f"{name}/folded/bias"))
    deconvolution.input[:] = [deconvolution.input[0], f"{name}/folded", f"{name}/folded/bias"]
    result = batchnorm.output[0]
    graph.node.remove(batchnorm)
    deconvolution.output[0] = result


# y[2i - 1] and y[2i] of a transposed convolution (kernel 4, stride 2, padding 1) on x[i - 1] and x[i], as in
# `network.layers`: the rows, and likewise the columns, of the kernel that reach each of the two.
_TAPS = ([2, 0], [3, 1])


def _replace_transposed(graph: Any, node: Any) -> None:
    """ConvTranspose -> Conv with a set of channels for each parity of row and column, then DepthToSpace.

    The same products and sums; why: docs/decisions/0011-original-centernet.md. Kernels of 4 (padding 1) and
    of 2 (no padding) are known; ConversionError for others.
    """
    from onnx import helper, numpy_helper

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weight = constants.get(node.input[1])  # (C_in, C_out, k, k)
    kernel, pads = tuple(attributes.get("kernel_shape", ())), attributes.get("pads", [0] * 4)
    fits = attributes.get("strides") == [2, 2] and attributes.get("group", 1) == 1
    plain = not any(attributes.get("output_padding", [0])) and set(attributes.get("dilations", [1])) == {1}
    if weight is None or not fits or not plain or pads != {(4, 4): [1] * 4, (2, 2): [0] * 4}.get(kernel):
        raise ConversionError(
            f"ConvTranspose node {node.name!r}: expected one group with stride 2 and kernel 4, padding 1, or "
            f"kernel 2, padding 0; got {attributes}"
        )
    # 1. The convolution: four kernels, one for each parity, and four times the same bias.
    taps: tuple[list[int], ...] = _TAPS if kernel == (4, 4) else ([0], [1])
    parts = [weight[:, :, rows][:, :, :, columns].transpose(1, 0, 2, 3) for rows in taps for columns in taps]
    given = node.input[2] if len(node.input) > 2 else ""
    bias = constants[given] if given else np.zeros(weight.shape[1], np.float32)
    prefix, size = node.name or node.output[0], len(taps[0])
    inputs = [node.input[0], constant(f"{prefix}/kernel", np.concatenate(parts))]
    inputs.append(constant(f"{prefix}/shift", np.tile(bias, 4)))
    wide, sides, pads = f"{prefix}/parities", [size, size], [size - 1] * 4
    conv = helper.make_node("Conv", inputs, [wide], name=f"{prefix}/conv", kernel_shape=sides, pads=pads)
    _put(graph, node, [conv])
    # 2. An activation moves in front of the interleaving, so that it stays with its convolution.
    last, result = conv, node.output[0]
    activation = _only_reader(graph, result)
    if activation is not None and activation.op_type in ("Relu", "Clip"):
        last, result = activation, activation.output[0]
        activation.input[0], activation.output[0] = wide, f"{prefix}/active"
        wide = f"{prefix}/active"
    # 3. The interleaving. With kernel 4 the parities overlap by one cell, which leaves a border to cut off.
    shuffled = result if size == 1 else f"{prefix}/wide"
    moved = [helper.make_node("DepthToSpace", [wide], [shuffled], name=f"{prefix}/interleave", blocksize=2)]
    if size == 2:
        cut = {"begin": [1, 1], "end": [-1, -1], "axes": [2, 3]}
        names = [constant(f"{prefix}/{key}", np.array(value, np.int64)) for key, value in cut.items()]
        moved.append(helper.make_node("Slice", [shuffled, *names], [result], name=f"{prefix}/cut"))
    _put(graph, last, moved, behind=True)
    graph.node.remove(node)


def _only_reader(graph: Any, name: str) -> Any:
    readers = [node for node in graph.node if name in node.input]
    return readers[0] if len(readers) == 1 else None


def _put(graph: Any, place: Any, nodes: Sequence[Any], behind: bool = False) -> None:
    """Insert nodes in front of or behind the one that writes the same tensor as `place`."""
    at = next(i for i, other in enumerate(graph.node) if other.output[0] == place.output[0]) + behind
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)
