"""From pixels to the network's input: letterbox and normalisation.

An image becomes a tensor in `prepare`, and nowhere else.

The network's real-valued input is (pixel - 128) / 128, from -1 to 127/128. The number is 128, and not the
mean and deviation of some data set, so that no arithmetic is left to do. With scale 1/128 the stored integer
is the pixel minus 128 (int8) or the pixel itself (uint8), and grey padding is the zero that convolutions pad
with. `gain_and_shift` is for weights that were trained on another input: their first convolution absorbs it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_centernet.decoder.rule import map_back
from edge_centernet.errors import SourceError
from edge_centernet.manifest import GREY, Manifest, ModelSpec, Quant

Image = NDArray[np.uint8]  # (H, W, 3)
IMAGE_QUANT = Quant(1 / GREY, GREY)  # of the uint8 image: the stored value is the pixel
Values = TypeVar("Values")  # numbers, NumPy arrays or tensors, which all have these operators
_Order = tuple[int, int, int]
_ORDER: dict[str, _Order] = {"rgb": (2, 1, 0), "bgr": (0, 1, 2)}


def normalize(pixel: Values, mean: Any = GREY, std: Any = GREY) -> Values:
    """The real-valued input of pixels 0..255: (pixel - mean) / std, in the type of the pixels.

    mean, std: in pixel values, as in ModelSpec.
    """
    real: Values = (pixel - mean) / std
    return real


def gain_and_shift(mean: Any, std: Any) -> tuple[Any, Any]:
    """Gain and shift that turn our input into (pixel / 255 - mean) / std: gain * ours + shift.

    mean, std: of pixel / 255, as published with most weights; numbers, arrays or tensors. The two results are
    of their type.
    """
    # pixel / 255 = 128 / 255 * ours + 128 / 255: both the worth of 1 in our input and the place of our 0.
    unit = GREY / 255
    return unit / std, (unit - mean) / std


@dataclass(frozen=True)
class Letterbox:
    """Geometry of one resize: aspect ratio kept, centred, padded. All sizes in pixels.

    Both directions use the ratio of the rounded sizes, per axis, so that they invert each other exactly.
    """

    src_width: int
    src_height: int
    dst_width: int
    dst_height: int

    @property
    def scale(self) -> float:
        """Network-input pixels per image pixel, before the sides are rounded."""
        return min(self.dst_width / self.src_width, self.dst_height / self.src_height)

    # Derived values are cached: all frames of a camera share one Letterbox.

    @cached_property
    def new_width(self) -> int:
        """Width of the resized image inside the network input."""
        return max(1, round(self.src_width * self.scale))

    @cached_property
    def new_height(self) -> int:
        """Height of the resized image inside the network input."""
        return max(1, round(self.src_height * self.scale))

    @cached_property
    def left(self) -> int:
        """Columns of padding before the image."""
        return (self.dst_width - self.new_width) // 2

    @cached_property
    def top(self) -> int:
        """Rows of padding above the image."""
        return (self.dst_height - self.new_height) // 2

    @cached_property
    def frame(self) -> tuple[int, int, int, int, int, int]:
        """As the decoder takes it: src_width, src_height, new_width, new_height, left, top."""
        return self.src_width, self.src_height, self.new_width, self.new_height, self.left, self.top

    def to_input(self, xyxy: NDArray[Any]) -> NDArray[np.float32]:
        """(N, 4) boxes in image pixels -> (N, 4) float32 in network-input pixels."""
        ratio = np.array([self.new_width / self.src_width, self.new_height / self.src_height] * 2, np.float64)
        shift = np.array([self.left, self.top] * 2, np.float64)
        return (np.asarray(xyxy, np.float64) * ratio + shift).astype(np.float32)

    def to_image(self, xyxy: NDArray[Any]) -> NDArray[np.float32]:
        """(N, 4) boxes in network-input pixels -> (N, 4) float32 in image pixels, clipped to the image."""
        boxes = np.asarray(xyxy, np.float32).copy()
        for column, before, src, new in (
            (0, self.left, self.src_width, self.new_width),
            (1, self.top, self.src_height, self.new_height),
        ):
            boxes[:, column::2] = map_back(boxes[:, column::2], before, src, new)
        return boxes


def letterbox(image_bgr: Image, spec: ModelSpec) -> tuple[Image, Letterbox]:
    """Resize and pad an image: (H, W, 3) uint8 BGR -> (spec.height, spec.width, 3) uint8 in spec.color order.

    Raises SourceError when the image is not (H, W, 3) uint8.
    """
    resized, box = _resize(image_bgr, spec)
    frame = np.empty((spec.height, spec.width, 3), np.uint8)
    _place(resized, frame, box, np.full(3, spec.pad_value, np.uint8), _ORDER[spec.color])
    return frame, box


def prepare(image_bgr: Image, manifest: Manifest) -> tuple[NDArray[Any], Letterbox]:
    """(H, W, 3) uint8 BGR -> C-contiguous array of exactly manifest.input's shape, dtype and layout.

    real = (pixel - mean) / std; stored = clip(round(real / scale) + zero_point), by a table of 256 entries
    for each channel. The values are those of the table for what `letterbox` returns, in fewer passes over the
    image. Raises SourceError when the image is not (H, W, 3) uint8.
    """
    # 1. Resize, on uint8: fewer bytes than floats, and the same rounding for every engine.
    spec, tensor, order = manifest.model, manifest.input, _ORDER[manifest.model.color]
    resized, box = _resize(image_bgr, spec)  # (h, w, 3)
    # 2. Normalise and quantize, before padding: the padding's stored value is known.
    table, identity = _table(spec.mean, spec.std, tensor.dtype, tensor.quant, order)
    stored: NDArray[Any] = resized if identity else cv2.LUT(resized, table)
    # 3. Pad, and reorder channels and layout, straight into the input.
    out = np.empty(tensor.shape, tensor.dtype)
    frame = out[0] if tensor.layout == "NHWC" else out[0].transpose(1, 2, 0)  # (H, W, 3)
    _place(stored, frame, box, table[0, spec.pad_value, order], order)
    return out, box


def _resize(image_bgr: Image, spec: ModelSpec) -> tuple[Image, Letterbox]:
    """The image in its size inside the network's input, and where it lies there."""
    if (
        not isinstance(image_bgr, np.ndarray)
        or image_bgr.ndim != 3
        or image_bgr.shape[2] != 3
        or image_bgr.dtype != np.uint8
        or image_bgr.size == 0
    ):
        raise SourceError(f"image: expected (H, W, 3) uint8 BGR, got {_what(image_bgr)}")
    height, width = image_bgr.shape[:2]
    box = _geometry(width, height, spec.width, spec.height)
    new = (box.new_width, box.new_height)
    if new == (width, height):
        return np.ascontiguousarray(image_bgr), box
    # Linear interpolation, as in training and in the C letterbox: the scores depend on it.
    return cv2.resize(image_bgr, new, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False), box


def _what(given: Any) -> str:
    """What came instead of an image, and how to make one of it where that is known."""
    if given is None:
        return (
            "None, which cv2.imread returns for a file that it cannot read: "
            "edge_centernet.read_image says why"
        )
    if isinstance(given, (str, os.PathLike, bytes)):
        return f"{given!r:.80}: read it first, with edge_centernet.read_image for a file"
    if not isinstance(given, np.ndarray):
        hint = ""
        if type(given).__module__.startswith("PIL."):  # by name: Pillow is no dependency
            hint = ": numpy.asarray(image.convert('RGB'))[..., ::-1] makes one of a PIL image"
        return f"{type(given).__module__}.{type(given).__name__}{hint}"
    came = f"{given.shape} {given.dtype}"
    if given.size == 0:
        return f"{came}, which has no pixel"
    if given.ndim == 4:
        return f"{came}: give one image after the other"
    if given.ndim == 2 or (given.ndim == 3 and given.shape[2] == 1):
        return f"{came}: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) makes one of grey"
    if given.ndim == 3 and given.shape[2] == 4:
        return f"{came}: cv2.cvtColor(image, cv2.COLOR_BGRA2BGR) drops the alpha channel"
    if given.ndim == 3 and given.shape[0] == 3 != given.shape[2]:
        return f"{came}: image.transpose(1, 2, 0) puts the channels last"
    if given.dtype != np.uint8 and given.ndim == 3 and given.shape[2] == 3:
        return f"{came}: scale the values to 0..255 and convert with .astype(numpy.uint8)"
    return came


_geometry = lru_cache(maxsize=16)(Letterbox)


def _place(
    pixels: NDArray[Any], frame: NDArray[Any], box: Letterbox, pad: NDArray[Any], order: _Order
) -> None:
    """Fill `frame` with the pixels where the image lies, and with a value around them.

    Args:
        pixels: (h, w, 3), the resized image.
        frame: (H, W, 3), what is filled; a view into the input, with any strides.
        box: where the image lies in the frame.
        pad: (3,), the value of each channel of the frame around the image.
        order: which channel of the pixels each channel of the frame is.
    """
    below, right = box.top + box.new_height, box.left + box.new_width
    rows = frame[box.top : below]
    for border in (frame[: box.top], frame[below:], rows[:, : box.left], rows[:, right:]):
        border[...] = pad
    inside = rows[:, box.left : right]
    # OpenCV for each pass over the pixels: NumPy's strided copies take ten times as long.
    if frame.strides[2] != frame.itemsize:
        cv2.split(pixels, [inside[..., order.index(channel)] for channel in range(3)])
    elif order == _ORDER["rgb"]:
        cv2.cvtColor(_unsigned(pixels), cv2.COLOR_BGR2RGB, dst=_unsigned(inside))
    else:
        inside[...] = pixels


def _unsigned(pixels: NDArray[Any]) -> NDArray[Any]:
    """The same bytes as uint8: OpenCV refuses to swap the channels of int8."""
    return pixels.view(np.uint8) if pixels.itemsize == 1 else pixels


@lru_cache(maxsize=16)
def _table(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: str, quant: Quant | None, order: _Order
) -> tuple[NDArray[Any], bool]:
    """The normalisation as a table, and whether it changes nothing, as for uint8 input with IMAGE_QUANT.

    The table is (1, 256, 3): pixel -> stored value, by the channels of the image. order: as in `_place`.
    """
    # In float64, so that only the last step rounds.
    pixel = np.arange(256, dtype=np.float64)[None, :, None]  # (1, 256, 1)
    real = normalize(pixel, np.array(mean), np.array(std))[..., order]  # (1, 256, 3)
    if quant is None:
        return real.astype(dtype, order="C"), False
    limits: Any = np.iinfo(np.dtype(dtype))
    stored = np.clip(np.rint(real / quant.scale) + quant.zero_point, limits.min, limits.max).astype(
        dtype, order="C"
    )
    return stored, dtype == "uint8" and bool((stored == pixel).all())
