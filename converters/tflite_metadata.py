"""The "TFLITE_METADATA" buffer, where Android's and MediaPipe's TFLite readers find what a model means.

Schema: metadata_schema.fbs of TensorFlow Lite Support, https://www.tensorflow.org/lite/models/convert/metadata.
Tables are written by the numbers of their fields, in the order of that file: the only Python package with the
schema is as large as an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edge_centernet.manifest import ModelSpec

NAME = "TFLITE_METADATA"  # of the model's entry that points to the buffer
LABELS = "labels.txt"  # the associated file, in the ZIP archive behind the model
IDENTIFIER = b"M001"
RGB, AXIS_LABELS = 1, 2  # ColorSpaceType, AssociatedFileType
IMAGE, NORMALIZATION = 2, 1  # places in the unions ContentProperties and ProcessUnitOptions
HEADS = {
    "heat": "heatmap of object centres, one channel a class, logits",
    "size": "width and height of the box whose centre is in the cell, in cells",
    "offset": "x and y of the centre inside its cell, in cells",
}


def metadata(spec: ModelSpec, input_name: str) -> bytes:
    """The content of the buffer: name, version, normalisation of the image, meaning of the outputs, labels.

    input_name: of the image's tensor.
    """
    import flatbuffers

    # A FlatBuffer is written from its end, so each table comes after everything that it points to.
    b: Any = flatbuffers.Builder(4096)
    # 1. TensorMetadata of the image; mean, std, minimum and maximum are those of pixels.
    size = _table(b, 2, {0: _number("Uint32", spec.width), 1: _number("Uint32", spec.height)})
    color = RGB if spec.color == "rgb" else 0
    properties = _table(b, 2, {0: _number("Int8", color), 1: _offset(size)})
    content = _table(b, 3, {0: _number("Uint8", IMAGE), 1: _offset(properties)})
    mean, std = (b.CreateNumpyVector(np.array(values, np.float32)) for values in (spec.mean, spec.std))
    options = _table(b, 2, {0: _offset(mean), 1: _offset(std)})
    unit = _table(b, 2, {0: _number("Uint8", NORMALIZATION), 1: _offset(options)})
    most, least = (b.CreateNumpyVector(np.full(3, value, np.float32)) for value in (255, 0))
    stats = _table(b, 2, {0: _offset(most), 1: _offset(least)})
    text = b.CreateString(f"image, {spec.resize} to {spec.width}x{spec.height} on grey {spec.pad_value}")
    title, units = b.CreateString(input_name), _vector(b, [unit])
    fields = {0: title, 1: text, 3: content, 4: units, 5: stats}
    image = _table(b, 7, {slot: _offset(value) for slot, value in fields.items()})
    # 2. TensorMetadata of the heads; that of the heatmap names the file with the classes.
    heads = []
    for role, meaning in HEADS.items():
        fields = {0: b.CreateString(role), 1: b.CreateString(meaning)}
        if role == "heat":
            file, what = b.CreateString(LABELS), b.CreateString("class names, one a line")
            entry = _table(b, 5, {0: _offset(file), 1: _offset(what), 2: _number("Int8", AXIS_LABELS)})
            fields[6] = _vector(b, [entry])
        heads.append(_table(b, 7, {slot: _offset(value) for slot, value in fields.items()}))
    # 3. SubGraphMetadata and ModelMetadata.
    subgraph = _table(b, 10, {2: _offset(_vector(b, [image])), 3: _offset(_vector(b, heads))})
    name, version = b.CreateString(spec.name), b.CreateString(spec.version)
    text = b.CreateString(
        f"CenterNet, {len(spec.classes)} classes, stride {spec.stride}; decode with edge-centernet"
    )
    parser = b.CreateString("1.0.0")  # the version of the schema that a reader has to know
    subgraphs = _vector(b, [subgraph])
    fields = {0: name, 1: text, 2: version, 3: subgraphs, 7: parser}
    b.Finish(_table(b, 8, {slot: _offset(value) for slot, value in fields.items()}), IDENTIFIER)
    return bytes(b.Output())


def _table(b: Any, slots: int, fields: dict[int, Callable[[Any, int], None]]) -> int:
    """Write a table of so many fields, some of them given by number."""
    b.StartObject(slots)
    for slot, write in fields.items():
        write(b, slot)
    return int(b.EndObject())


def _offset(position: int) -> Callable[[Any, int], None]:
    return lambda b, slot: b.PrependUOffsetTRelativeSlot(slot, position, 0)


def _number(kind: str, value: int) -> Callable[[Any, int], None]:
    return lambda b, slot: getattr(b, f"Prepend{kind}Slot")(slot, value, 0)


def _vector(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())
