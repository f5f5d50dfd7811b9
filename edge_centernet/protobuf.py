"""The fields of a protobuf message, as ONNX files are made of, without the protobuf package."""

from __future__ import annotations

Field = tuple[int, "int | memoryview", slice]


def fields(data: memoryview) -> list[Field]:
    """(field number, value, where in the message with its tag) of one message, in the order of the file.

    Value: an int for a varint, else the bytes: text, a message of its own, packed numbers, or 4 or 8 bytes of
      a number.
    Raises ValueError or IndexError for a message that is cut off or none.
    """
    found: list[Field] = []
    at = 0
    while at < len(data):
        start = at
        tag, at = varint(data, at)
        wire = tag & 7
        value: int | memoryview
        if wire == 0:
            value, at = varint(data, at)
        elif wire in (1, 2, 5):
            length, at = varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            value = data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError(f"{at - len(data)} bytes are missing")
        found.append((tag >> 3, value, slice(start, at)))
    return found


def messages(data: memoryview, number: int) -> list[memoryview]:
    """The values of one repeated field that holds bytes, text or messages."""
    return [value for found, value, _ in fields(data) if found == number and isinstance(value, memoryview)]


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """(number, where it ends) of a varint that begins at `at`."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
