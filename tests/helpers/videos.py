"""Motion JPEG files byte by byte, as no encoder would write them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def grey(number: int) -> np.ndarray[Any, Any]:
    """Frame `number` of 64x48, brighter from one to the next."""
    return np.full((48, 64, 3), 20 * number % 256, np.uint8)


def write_avi(
    path: Path, frames: list[Any], *, sound: int = 0, videos: int = 1, density: tuple[int, int] | None = None
) -> Path:
    """A Motion JPEG file of ten frames a second.

    Args:
        path: the file.
        frames: images; None repeats the one before, which takes time but no frame.
        sound: packets of sound after each frame.
        videos: streams that hold the same frames.
        density: of the pixels, as JPEG's header tells it; FFmpeg takes it for their width and height.
    """

    def chunk(kind: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def stream(kind: bytes, codec: bytes, rate: int, size: int, form: bytes) -> bytes:
        values = (0, 0, 0, 0, 1, rate, 0, len(frames), 1 << 16, 0, size, 0, 0, 64, 48)
        header = chunk(b"strh", kind, codec, struct.pack("<IHH8I4h", *values))
        return chunk(b"LIST", b"strl", header, chunk(b"strf", form))

    bitmap = struct.pack("<IiiHH4sIiiII", 40, 64, 48, 1, 24, b"MJPG", 9216, 0, 0, 0, 0)
    wave = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    streams = [stream(b"vids", b"MJPG", 10, 0, bitmap)] * videos + [stream(b"auds", bytes(4), 8000, 1, wave)]
    main = struct.pack("<14I", 100_000, 0, 0, 0, len(frames), 0, len(streams), 1 << 16, 64, 48, 0, 0, 0, 0)
    body = []
    for image in frames:
        data = b"" if image is None else cv2.imencode(".jpg", image)[1].tobytes()
        if density is not None:
            data = data[:14] + struct.pack(">HH", *density) + data[18:]
        body += [chunk(b"%02ddc" % number, data) for number in range(videos)]
        body += [chunk(b"%02dwb" % videos, bytes(2))] * sound
    lists = [chunk(b"LIST", b"hdrl", chunk(b"avih", main), *streams), chunk(b"LIST", b"movi", *body)]
    path.write_bytes(chunk(b"RIFF", b"AVI ", *lists))
    return path
