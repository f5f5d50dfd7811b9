"""`edge-centernet export-c`: a model's constants as a C header, beside the C decoder."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

import edge_centernet.decoder
from edge_centernet import __version__, selftest
from edge_centernet.artifact import check_content, read_manifest
from edge_centernet.cli import Command, echo
from edge_centernet.decoder import in_heat_unit
from edge_centernet.decoder.rule import Head, logistic
from edge_centernet.errors import ManifestError
from edge_centernet.files import prepare_folder, sha256, write_atomic
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest, TensorSpec
from edge_centernet.model_zoo import find_model

LIBRARY = Path(edge_centernet.decoder.__file__).parent
C_TYPES = {"int8": ("int8_t", "ECN_S8"), "uint8": ("uint8_t", "ECN_U8"), "float32": ("float", "ECN_F32")}
COLUMNS = 6  # numbers a line of the table


@click.command(cls=Command)
@click.argument("model", metavar="MODEL")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Output folder, created if missing; existing files of the same names are replaced.",
)
def command(model: str, out: Path) -> None:
    """Export what firmware needs to decode a model's outputs: NAME_model.h and the sources of the C decoder.

    NAME_golden.h has an input and its answers, by which to find out whether the device computes as it should.

    MODEL is the .tflite, .xml or .onnx file that will run on the device, as their layouts differ; the name of
    a shipped model stands for its .tflite. docs/decoder.md explains the next steps.

    Example: edge-centernet export-c centernet-nano-256 --out firmware/detector
    """
    path = find_model(model, ".tflite")
    manifest = read_manifest(path)
    check_content(path, manifest)
    name = identifier(manifest.model.name)
    files: dict[str, str | bytes] = {
        f"{name}_model.h": header(manifest, name, path),
        f"{name}_golden.h": golden_header(manifest, name),
    }
    files |= {source.name: source.read_bytes() for source in sorted(LIBRARY.glob("edgecn_*.[ch]"))}
    prepare_folder(out)
    for file, content in files.items():
        write_atomic(out / file, content)
        echo(out / file)
    heads = ", ".join(f"{role} {spec.dtype} {spec.layout}" for role, spec in _heads(manifest).items())
    echo(f"For {path}: {heads}")


def identifier(name: str) -> str:
    """What the C names of a model begin with: "centernet-nano-256" gives centernet_nano_256."""
    plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    # No name may begin with a digit, nor be one of the library's, such as ecn_heads.
    return plain if re.match("(?!ecn)[a-z]", plain) else f"model_{plain}".rstrip("_")


def header(manifest: Manifest, name: str, origin: Path) -> str:
    """The text of NAME_model.h, ASCII; the file `origin` is named in its first comment.

    Raises ManifestError, ArtifactError or ConfigError for what the C decoder could not use.
    """
    model, specs = manifest.model, _heads(manifest)
    if not all(map(math.isfinite, (*model.mean, *model.std))):
        raise ManifestError(f"model mean, std: expected finite numbers, got {model.mean}, {model.std}")
    # Each head is checked as before decoding, without data.
    heads = {
        role: Head(
            role,
            np.broadcast_to(np.zeros((), spec.dtype), spec.chw),
            None if spec.dtype == "float32" else spec.quant,
        )
        for role, spec in specs.items()
    }
    threshold = in_heat_unit(model.threshold, model.heat_unit)
    own = [in_heat_unit(value, model.heat_unit) for value in model.class_thresholds]
    guard = f"{name.upper()}_MODEL_H"
    about = f"{_comment(model.name)} {_comment(model.version)}"
    lines = [
        f"/* {name}_model.h - what edgecn_decode needs to know of {about}.",
        f" * Written by edge-centernet {__version__} export-c from {_comment(origin.name)},",
        f" * sha256 {sha256(origin)}.",
        " * Tables are static: include it in one file, or each has its own. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        # INFINITY: the logit of a threshold of 0 or 1.
        *([] if all(map(math.isfinite, (threshold, *own))) else ["#include <math.h>"]),
        '#include "edgecn_decode.h"',
        "",
        "#if (ECN_VERSION >> 16) != 2",
        '#error "expected edgecn_decode.h 2.x, the one that export-c put beside this file"',
        "#endif",
        "",
        *_values(manifest, name),
        "",
        *_classes(model.classes, name),
        "",
        f"/* The suggested threshold, a probability of {model.threshold:g}, in the heatmap's unit. */",
        f"static const float {name}_threshold = {_float(threshold)};",
    ]
    if own:
        lines.append("/* The same for each class; NAME_heads takes these. */".replace("NAME", name))
        lines += _array(f"{name}_class_threshold", own)
    lines.append("")
    if model.heat_unit == "logit" and specs["heat"].quant:
        # What ecn_probability_table would fill in; a table in flash saves the firmware expf.
        low = np.iinfo(heads["heat"].data.dtype).min
        stored = np.arange(low, low + 256).astype(heads["heat"].data.dtype)
        index = "stored + 128" if low else "stored"
        lines.append(f"/* The probability of each value that the heatmap can store: [{index}]. */")
        lines += [*_array(f"{name}_probability", logistic(heads["heat"].real(stored)).tolist()), ""]
    return "\n".join([*lines, *_function(manifest, name), "", "#endif"]) + "\n"


def golden_header(manifest: Manifest, name: str) -> str:
    """The text of NAME_golden.h: the manifest's self-test vector with the tolerances of other kernels, in C.

    Raises ManifestError where the manifest has none.
    """
    model, image = manifest.model, manifest.input
    side = selftest.SIDE
    # Every pixel of the thumbnail is a block of the input: its first one is enough.
    x = selftest.test_input(manifest)[0]
    x = x if image.layout == "NHWC" else x.transpose(1, 2, 0)  # (H, W, 3)
    picture = x[:: model.height // side, :: model.width // side]  # (32, 32, 3), as stored
    guard = f"{name.upper()}_GOLDEN_H"
    lines = [
        f"/* {name}_golden.h - does the device compute what {_comment(model.name)} should? Written by",
        f" * edge-centernet {__version__} export-c. Fill the input by {name}_golden_input, run the network,",
        f" * and give its outputs to {name}_golden_check. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stddef.h>",
        "",
        f'#include "{name}_model.h"',
        "",
        f"/* {side}x{side} pixels of 3 channels, as the input stores them. */",
        *_array(f"{name}_golden_picture", picture.reshape(-1).tolist(), f"{name}_input_type"),
        "",
        f"static inline void {name}_golden_input({name}_input_type *input)",
        "{",
        f"    const size_t height = {name}_input_height, width = {name}_input_width;",
        "    for (size_t i = 0; i < height * width * 3; ++i) {",
        "        const size_t c = i % 3, x = i / 3 % width, y = i / 3 / width;",
        f"        const size_t block = y * {side} / height * {side} + x * {side} / width;",
        f"        input[{name}_input_is_nhwc ? i : (c * height + y) * width + x] = "
        f"{name}_golden_picture[block * 3 + c];",
        "    }",
        "}",
    ]
    for role, spec in _heads(manifest).items():
        lines += ["", *_golden_head(manifest, name, role, spec)]
    roles = list(_heads(manifest))
    lines += [
        "",
        "/* 0: as it should be. 1, 2, 3: heat, size or offset differs by more than its tolerance. */",
        f"static inline int {name}_golden_check(",
        ",\n".join(f"    const {name}_{role}_type *{role}" for role in roles) + ")",
        "{",
    ]
    for number, role in enumerate(roles, 1):
        lines += [
            f"    if (!({name}_golden_{role}_steps({role}) <= {name}_golden_{role}_tolerance)) {{",
            f"        return {number};",
            "    }",
        ]
    return "\n".join([*lines, "    return 0;", "}", "", "#endif"]) + "\n"


def _golden_head(manifest: Manifest, name: str, role: str, spec: TensorSpec) -> list[str]:
    """The expected values of one head, and the function that compares."""
    answer = selftest.expected_answer(manifest, role)
    real = np.array(answer.steps) * answer.step
    quant = spec.quant if spec.dtype != "float32" else None
    values = real if quant is None else np.rint(real / quant.scale) + quant.zero_point
    # From the place in (C, H, W) to that in the tensor.
    channels, height, width = spec.chw
    c, cell = np.divmod(np.array(answer.at), height * width)
    at = np.array(answer.at) if spec.layout == "NCHW" else cell * channels + c
    steps = (1.0 if quant is None else quant.scale) / answer.step
    begin, kind = f"{name}_golden_{role}", f"{name}_{role}_type"
    return [
        f"/* Places in {role}, the values there, and how far off they may be on average, in 8-bit steps. */",
        *_array(f"{begin}_at", at.tolist(), "uint32_t"),
        *_array(begin, (values if quant is None else values.astype(int)).tolist(), kind),
        f"static const float {begin}_tolerance = {_float(selftest.ROUND_OTHERWISE['tflite_runtime'][role])};",
        "",
        "/* The mean difference. */",
        f"static inline float {begin}_steps(const {kind} *{role})",
        "{",
        "    float sum = 0.0f;",
        f"    for (size_t i = 0; i < {len(answer.at)}; ++i) {{",
        f"        const float off = (float){role}[{begin}_at[i]] - (float){begin}[i];",
        "        sum += off < 0.0f ? -off : off;",
        "    }",
        f"    return sum * {_float(steps / len(answer.at))};",
        "}",
    ]


def _heads(manifest: Manifest) -> dict[str, TensorSpec]:
    return {role: getattr(manifest, role) for role in Heads._fields}


def _values(manifest: Manifest, name: str) -> list[str]:
    """The enum and the constants of the input."""
    model, image = manifest.model, manifest.input
    heads, (height, width) = _heads(manifest), model.cells
    values = {
        "input_width": (model.width, "pixels"),
        "input_height": (model.height, "pixels"),
        "input_count": (math.prod(image.shape), "values of input_type"),
        "input_dtype": (C_TYPES[image.dtype][1], ""),
        "input_is_nhwc": (int(image.layout == "NHWC"), "0: NCHW"),
        "input_is_rgb": (int(model.color == "rgb"), "0: BGR"),
        "input_zero_point": (image.quant.zero_point if image.quant else 0, ""),
        "pad_value": (model.pad_value, "the pixel around the picture, in all channels"),
        "stride": (model.stride, "input pixels per cell"),
        "width": (width, "cells"),
        "height": (height, "cells"),
        "classes": (len(model.classes), ""),
        "heat_is_logit": (int(model.heat_unit == "logit"), "0: probabilities"),
        **{
            f"{role}_count": (math.prod(spec.shape), f"values of {role}_type") for role, spec in heads.items()
        },
    }
    types = []
    for role, spec in {"input": image, **heads}.items():
        shape = "x".join(map(str, spec.shape))
        types.append(f"typedef {C_TYPES[spec.dtype][0]} {name}_{role}_type; /* {spec.layout} {shape} */")
    notes = {key: f" /* {note} */" if note else "" for key, (_, note) in values.items()}
    items = [f"    {name}_{key} = {value}," for key, (value, _) in values.items()]
    items[-1] = items[-1].rstrip(",")  # C++98 wants none behind the last
    return [
        *types,
        "",
        "enum {",
        *(item + note for item, note in zip(items, notes.values(), strict=True)),
        "};",
        "",
        "/* Input: real = (pixel - mean) / std for each channel"
        + ("; stored = round(real / scale) + zero point. */" if image.quant else ". */"),
        f"static const double {name}_mean[3] = {{{', '.join(repr(float(value)) for value in model.mean)}}};",
        f"static const double {name}_std[3] = {{{', '.join(repr(float(value)) for value in model.std)}}};",
        *([f"static const double {name}_input_scale = {float(image.quant.scale)!r};"] if image.quant else []),
    ]


def _classes(classes: tuple[str, ...], name: str) -> list[str]:
    """The names as C string constants; what is not plain ASCII becomes octal, and no trigraph is left."""
    texts = (
        "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
        for text in classes
    )
    return [
        "/* UTF-8 */",
        f"static const char *const {name}_class_names[{len(classes)}] = {{",
        ",\n".join(f'    "{text}"' for text in texts),
        "};",
    ]


def _array(name: str, values: Sequence[float], kind: str = "float") -> list[str]:
    """A constant array, a few numbers on each line: integers as they are, floats as float32."""
    numbers = [str(value) if isinstance(value, int) else _float(value) for value in values]
    columns = 3 * COLUMNS if values and isinstance(values[0], int) else COLUMNS
    rows = [", ".join(numbers[i : i + columns]) for i in range(0, len(numbers), columns)]
    return [
        f"static const {kind} {name}[{len(values)}] = {{",
        ",\n".join(f"    {row}" for row in rows),
        "};",
    ]


def _function(manifest: Manifest, name: str) -> list[str]:
    """NAME_heads: the three outputs of the network as ecn_decode takes them."""
    tensors = []
    for role, spec in _heads(manifest).items():
        # The fields of ecn_tensor, the strides in values, not in bytes.
        channels, height, width = spec.chw
        strides = (height * width, width, 1) if spec.layout == "NCHW" else (1, width * channels, channels)
        quantized = spec.quant is not None and spec.dtype != "float32"
        scale, zero_point = (
            (spec.quant.scale, spec.quant.zero_point) if spec.quant and quantized else (1.0, 0)
        )
        fields = (role, _float(np.float32(scale)), zero_point, C_TYPES[spec.dtype][1], *strides)
        tensors.append(f"        {{{', '.join(map(str, fields))}}},")
    arguments = [f"    const {name}_{role}_type *{role}" for role in _heads(manifest)]
    own = f"{name}_class_threshold" if manifest.model.class_thresholds else "0"
    return [
        "/* Three outputs of the network as ecn_decode takes them. */",
        f"static inline ecn_heads {name}_heads(",
        ",\n".join(arguments) + ")",
        "{",
        "    const ecn_heads heads = {",
        *tensors,
        f"        {name}_classes, {name}_height, {name}_width, {_float(manifest.model.stride)},",
        f"        {name}_threshold, {own}",
        "    };",
        "    return heads;",
        "}",
    ]


def _float(value: float | np.float32) -> str:
    """A C constant of just this float32: nine digits tell all of them apart."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    digits = f"{value:.9g}"
    return digits + ("f" if "." in digits or "e" in digits else ".0f")


def _comment(text: str) -> str:
    """Text that cannot end a comment."""
    return re.sub(r"[^A-Za-z0-9 .,+_-]", "_", text)
