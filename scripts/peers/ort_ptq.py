"""Post-training quantization of an ONNX model by ONNX Runtime: model.onnx pictures.npy out.onnx.

pictures: (N, H, W, 3) uint8 RGB, letterboxed; the model reads (1, 3, H, W) uint8.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """One image at a time."""

    def __init__(self, images: np.ndarray) -> None:
        """Start over with the first."""
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, None at the end."""
        image = next(self._images, None)
        return None if image is None else {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}


source, pictures, out = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    prepared = Path(folder) / "prepared.onnx"
    quant_pre_process(source, prepared)
    quantize_static(
        prepared, out, Reader(np.load(pictures)), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        reduce_range=True,  # 7-bit weights, as ours, so that processors without VNNI do not overflow
    )  # fmt: skip
